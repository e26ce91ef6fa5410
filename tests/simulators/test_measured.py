"""Scenarios of measured prompts: the pool is the file, whose content and nothing else is in the key."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pass_rate_files import as_csv, written

from rolloutbench.allocators import allocators
from rolloutbench.cells.cell import identify
from rolloutbench.estimators import estimators
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds.comparison import Comparison
from rolloutbench.studies.kinds.prediction import Prediction
from simulators.clock import Clock
from simulators.learning import LearningCell
from simulators.scenarios import from_pass_rates, name_of, scenarios, seen_from, spec_of

RATES = [0.0, 0.125, 0.5, 1.0, 0.75, 0.25, 0.375, 0.0]


@pytest.fixture
def path(tmp_path):
    as_csv(tmp_path / "own.csv", pass_rate=RATES, n=8, tokens=[100, 200, 300, 400, 500, 600, 700, 4000])
    return tmp_path / "own.csv"


def cell(made, name="uniform"):
    return LearningCell(
        "measured", made, name, allocators.create(name), estimators.create("rloo"), "prompt", 0, 0
    )


def keys(description):
    return list(identify(description.build().cells(Path()))[0])


def test_the_pool_is_the_file_in_its_order(path):
    made = scenarios.create(f"measured[file={path}]")
    train, held_out, seen = made.pools(np.random.default_rng(0), 3)
    assert (made.pool_size, made.prompts, made.epochs) == (8, 8, 100)
    np.testing.assert_array_equal(train.success, np.tile(RATES, (3, 1)))
    assert held_out.success.shape == (3, 512)
    assert set(np.unique(held_out.success)) == set(RATES)
    assert seen.shape == (3, 8, 32)
    np.testing.assert_allclose((train.features**2).sum(axis=2), 1)


def test_features_say_as_much_of_difficulty_as_in_a_drawn_pool(tmp_path):
    rng = np.random.default_rng(0)
    as_csv(tmp_path / "a.csv", pass_rate=rng.uniform(0.01, 0.99, 2000))
    for predictability, low, high in ((0.0, 0.0, 0.1), (0.5, 0.3, 0.6), (1.0, 0.9, 1.0)):
        made = scenarios.create(f"measured[file={tmp_path / 'a.csv'},predictability={predictability}]")
        train, _, _ = made.pools(rng, 1)
        x = np.column_stack([train.features[0], np.ones(2000)])
        ranks = np.argsort(np.argsort(train.success[0])) / 2000
        residual = ranks - x @ np.linalg.lstsq(x, ranks, rcond=None)[0]
        assert low <= 1 - residual.var() / ranks.var() <= high


def test_with_trials_each_prompt_is_drawn_from_what_is_known_of_it(path):
    train, _, _ = scenarios.create(f"measured[file={path},trials=n]").pools(np.random.default_rng(0), 400)
    assert ((train.success > 0) & (train.success < 1)).all()  # 0 of 8 need not be impossible
    means = train.success.mean(axis=0)
    assert (np.diff(means[np.argsort(RATES, kind="stable")])[1:] > 0).all()
    assert train.success.std(axis=0).min() > 0.01


def test_another_pool_size_is_drawn_with_replacement(path):
    made = scenarios.create(f"measured[file={path},pool_size=300]")
    train, _, _ = made.pools(np.random.default_rng(0), 2)
    assert (made.prompts, made.epochs) == (128, 100 * 128 / 300)
    assert train.success.shape == (2, 300)
    assert set(np.unique(train.success)) == set(RATES)
    assert "drawn into a pool of 300 prompts (42.7 epochs), SGD at learning rate 8" in made.caption


def test_a_snapshot_takes_each_prompt_at_most_once(path):
    made = scenarios.create(f"snapshot-measured[file={path},prompts=5]")
    pool = made.pool(np.random.default_rng(0), 50, 5)
    nonzero = [row[row > 0] for row in pool.success]
    assert all(len(set(row)) == len(row) for row in nonzero)
    assert set(np.unique(pool.success)) == set(RATES)
    assert made.caption(5).endswith("5 at random in a replicate")
    with pytest.raises(InputError, match=f"prompts=9: {path} has 8"):
        scenarios.create(f"snapshot-measured[file={path},prompts=9]")


def test_lengths_go_to_the_clock(path):
    made = scenarios.create(f"measured[file={path},lengths=tokens]")
    environment, _ = cell(made).world()
    assert made.clock.limit == 16_000
    np.testing.assert_array_equal(environment.lengths[3], [100, 200, 300, 400, 500, 600, 700, 4000])
    table = cell(made).run()
    steps = table[table.steps == 100]
    np.testing.assert_allclose(steps.tokens, 100 * 8 * 6800)  # every prompt, every step
    plain = cell(scenarios.create(f"measured[file={path}]")).run()
    assert not np.allclose(plain[plain.steps == 100].tokens, 100 * 8 * 6800)


def test_a_stage_of_measured_lengths_takes_as_long_as_one_of_equal_default_lengths():
    """At p = 1/2 in a bin's middle the default clock has the mean `tokens`; own lengths of it do the same."""
    clock, counts = Clock(limit=16_000), np.full((2, 30), 8)
    p = np.full(counts.shape, 0.5 + 1 / 32)
    mean = 1000 * 2 ** (0.5 - p)
    seconds, tokens = clock.stage(p, counts)
    own_seconds, own_tokens = clock.stage(np.zeros(p.shape), counts, mean)
    np.testing.assert_allclose(own_tokens, tokens, rtol=0.02)
    np.testing.assert_allclose(own_seconds, seconds, rtol=0.08)
    longer, _ = clock.stage(p, counts, 3 * mean)
    np.testing.assert_allclose(longer, 3 * own_seconds, rtol=0.08)


def test_the_key_is_of_the_content_and_not_of_the_path(path, tmp_path):
    other = tmp_path / "deep" / "other, [file].csv"
    other.parent.mkdir()
    shutil.copy(path, other)
    small = {"allocators": ["vip"], "replicates": 4, "trials": "n"}
    own = keys(Comparison.of({"pass_rates": str(path), **small}))
    assert keys(Comparison.of({"pass_rates": str(other), **small})) == own
    del small["trials"]
    assert keys(Comparison.of({"scenarios": [f"measured[file={path},trials=n]"], **small})) == own
    assert keys(Comparison.of({"scenarios": [f"measured[file={path}]"], **small})) != own
    as_csv(path, pass_rate=[*RATES[:-1], 0.25], n=8)
    assert keys(Comparison.of({"pass_rates": str(path), "trials": "n", **small})) != own


def test_every_format_makes_the_same_cells(tmp_path):
    found = {
        tuple(identify([cell(from_pass_rates("measured", file=path, **how))])[0])
        for path, how in written(tmp_path / "files", [8, 0, 3, 5, 6, 0, 5, 1], 8).values()
    }
    assert len(found) == 1


def test_the_file_is_read_once(path):
    made = Comparison.of({"pass_rates": str(path), "steps": 5, "prompts": 4, "group_size": 2})
    study = made.build()
    (scenario,) = study.scenarios.values()
    path.unlink()
    assert (scenario.steps, scenario.prompts, scenario.group_size) == (5, 4, 2)
    assert cell(scenario).run().accuracy.notna().all()
    assert "8 prompts in own.csv" in study.conditions("measured")


def test_names_leave_out_where_the_file_is_and_specs_say_it(path):
    spec = f"measured[file={path}, trials=n, optimizer=adam, label=mine]"
    made = scenarios.create(spec)
    name = name_of(spec, made)
    assert name == "measured:mine[optimizer=adam]"
    assert made.learning_rate == 0.25
    again = spec_of(name, made)
    assert again == f"measured[file={path},trials=n,label=mine,optimizer=adam]"
    assert repr(scenarios.create(again)) == repr(made)
    assert name_of(again, scenarios.create(again)) == name


def test_a_study_file_finds_its_own_beside_it(path):
    assert seen_from(Path("a"), "measured[file=b.csv,trials=n]") == "measured[file=a/b.csv,trials=n]"
    assert seen_from(Path("a"), "snapshot-measured[file=/b.csv]") == "snapshot-measured[file=/b.csv]"
    study = path.parent / "study.toml"
    study.write_text('scenarios = ["measured[file=own.csv]", "u-shaped-v1"]')
    for kind in (Comparison, Prediction):
        description = kind.of({}, study)
        made = description.build()
        assert list(made.scenarios) == ["measured", "u-shaped-v1"]
        assert description.resolved(made)["scenarios"] == [f"measured[file={path}]", "u-shaped-v1"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"scenarios": ["measured"]}, "needs a file of pass rates"),
        ({"scenarios": ["measured[file=no.csv]"]}, "no.csv: no such file"),
        ({"scenarios": ["measured[file={0}]", "measured[file={0},trials=n]"]}, "given twice; label=NAME"),
        ({"scenarios": ["measured[file={0}]"], "pass_rates": "{0}"}, "'measured' is given twice"),
        ({"scenarios": ["measured[file={0},prompts=9]"]}, "has 8, and a step draws each at most once"),
        ({"scenarios": ["measured[file={0},pool_size=5,prompts=9]"]}, "pool_size=5: a step draws prompts=9"),
        ({"scenarios": ["measured[file={0},difficulty=dead]"]}, "no parameter 'difficulty'"),
        ({"pass_rates": "{0}", "prompts": 9}, "--prompts 9: prompts=9: {0} has 8"),
        ({"pass_rates": "{0}", "snapshot": True, "prompts": 9}, "--prompts: prompts=9: {0} has 8"),
        ({"pass_rates": "{0}", "snapshot": True, "pool_size": 9}, "a snapshot draws each prompt"),
        ({"pass_rates": "{0}", "snapshot": True, "lengths": "tokens"}, "a snapshot has no clock"),
        ({"pass_rates": "{0}", "group_size": 1}, "--group-size 1: estimator grpo takes 2 rollouts"),
        ({"scenarios": ["measured[file={0},group_size=1]"]}, "group_size 1: estimator grpo takes 2"),
        ({"lengths": "x"}, "--lengths x: needs --pass-rates"),
        ({"drop_bad_rows": True}, "--drop-bad-rows True: needs --pass-rates"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(path, flags, said):
    def filled(value):
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.format(path) if isinstance(value, str) else value

    with pytest.raises(InputError) as caught:
        Comparison.of({key: filled(value) for key, value in flags.items()}).build()
    assert said.format(path) in str(caught.value)


def test_groups_of_one_learn_under_reinforce_alone(path):
    one = {"pass_rates": str(path), "group_size": 1, "estimator": "reinforce"}
    assert Comparison.of(one).build().scenarios["measured"].group_size == 1
