"""Recorded rollouts: what the moments say is what rows drawn one by one give."""

import itertools
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import advantages_of
from paid import paid

from rolloutbench.allocators import allocators
from rolloutbench.analysis.results import summarise
from rolloutbench.cells.cell import identify
from rolloutbench.estimators import estimators, group_advantages, prompt_shares
from rolloutbench.protocol import Budget, Groups, InputError, PromptStream, Request, Reuse, Setting
from rolloutbench.score_bank import ScoreBank, read_bank, write_bank
from rolloutbench.studies.kinds.comparison import Comparison
from simulators.pools import Pool
from simulators.replay import RecordedPool, RecordedPrompts, ReplayScenario, read_prompts
from simulators.scenarios import SnapshotScenario, scenarios, seen_from
from simulators.snapshot import BLOCK, Snapshot, SnapshotCell

ESTIMATORS = ["reinforce", "dr_grpo", "rloo", "grpo"]
AGGREGATIONS = ["prompt", "rollout"]


def bank_of(prompts, rewards, sketches, steps=None, features=None, **about):
    prompts, rewards = np.asarray(prompts), np.asarray(rewards)
    sketches = np.asarray(sketches, dtype=np.float32)
    return ScoreBank(
        prompts=prompts,
        steps=np.zeros_like(prompts) if steps is None else np.asarray(steps),
        rewards=rewards,
        raw=rewards.astype(np.float32),
        norms=np.linalg.norm(sketches, axis=1).astype(np.float32),
        lengths=np.ones(len(prompts), np.int32),
        sketches=sketches,
        features=features,
        about=about,
    )


def simulated(pool, rollouts, noise_ratio, rng, **about):
    """A bank of the rollouts that the simulator's own model would make of a pool of one replicate."""
    p, phi = pool.success[0], pool.features[0]
    prompts = np.repeat(np.arange(len(p)), rollouts)
    rewards = (rng.random(len(prompts)) < p[prompts]).astype(np.int64)
    noise = np.sqrt(noise_ratio / phi.shape[1]) * rng.standard_normal((len(prompts), phi.shape[1]))
    sketches = (rewards - p[prompts])[:, None] * phi[prompts] + noise
    return bank_of(prompts, rewards, sketches, features=phi.astype(np.float32), **about)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The directory of a bank of 40 prompts x 12 rollouts at steps 3 and 7."""
    rng = np.random.default_rng(5)
    pool = scenarios.create("snapshot-u-shaped-v1").pool(rng, 1, 40)
    first, later = (simulated(pool, 12, 5.0, rng) for _ in range(2))
    both = bank_of(
        *(np.concatenate([getattr(b, name) for b in (first, later)]) for name in ("prompts", "rewards")),
        np.concatenate([first.sketches, later.sketches]),
        np.repeat([3, 7], len(first)),
        first.features,
        task="sums",
        model="tiny",
    )
    directory = tmp_path_factory.mktemp("recorded") / "digits"
    write_bank(both, directory)
    return directory


def cell(directory, allocator="uniform", estimator="rloo", aggregation="prompt", spec="", **fields):
    scenario = scenarios.create(f"replay[bank={directory}{spec}]")
    fields = {"budget": Budget(scenario.prompts, 8 * scenario.prompts), "seed": 0, "block": 0} | fields
    made = allocators.create(allocator), estimators.create(estimator)
    return SnapshotCell(scenario.name, scenario, allocator, *made, aggregation, **fields)


def environment(bank, estimator, aggregation):
    """The whole bank as the pool of one replicate."""
    pool = RecordedPool(RecordedPrompts.of(bank), np.arange(len(np.unique(bank.prompts)))[None])
    size = pool.success.shape[1]
    chosen = estimators.create(estimator)
    setting = Setting(Budget(size, 99 * size), chosen, aggregation, 1, size, np.random.default_rng(0))
    stream = PromptStream(size, 1, np.random.SeedSequence(1))
    return Snapshot(setting, stream, pool, np.random.default_rng(2))


def rows_of(bank, prompt):
    """A prompt's rewards, and its scores centred and in the units of `RecordedPrompts`, by loops."""
    between = weight = 0.0
    for q in np.unique(bank.prompts):
        here = bank.sketches[bank.prompts == q].astype(np.float64)
        won = bank.rewards[bank.prompts == q] == 1
        if won.any() and not won.all():
            p = won.mean()
            between += p * (1 - p) * ((here[won].mean(axis=0) - here[~won].mean(axis=0)) ** 2).sum()
            weight += p * (1 - p)
    here = bank.prompts == prompt
    scores = bank.sketches[here].astype(np.float64)
    return bank.rewards[here], (scores - scores.mean(axis=0)) / np.sqrt(between / weight)


@st.composite
def banks(draw):
    """Two or three prompts of two to four rows, the first with both rewards."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=2, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rewards = [rng.integers(0, 2, size) for size in sizes]
    rewards[0][:2] = 0, 1
    return bank_of(
        np.repeat(np.arange(len(sizes)), sizes),
        np.concatenate(rewards),
        rng.standard_normal((sum(sizes), 3)) + rng.standard_normal(3),
    )


@settings(max_examples=50)
@given(banks(), st.sampled_from(ESTIMATORS), st.sampled_from(AGGREGATIONS), st.data())
def test_exact_moments_are_those_of_all_rows_that_could_be_drawn(bank, estimator, aggregation, data):
    """Every way to draw the groups' rows from the bank, with replacement, one after the other."""
    prompts = np.unique(bank.prompts)
    counts = np.array([data.draw(st.integers(1, 3)) for _ in prompts])
    weights = np.array([data.draw(st.sampled_from([0.5, 1.0, 2.0])) for _ in prompts])
    sizes = counts if aggregation == "rollout" else np.ones(len(prompts))
    mean, truth, variance = np.zeros(3), np.zeros(3), 0.0
    for i, q in enumerate(prompts):
        rewards, scores = rows_of(bank, q)
        gradients = []
        for drawn in itertools.product(range(len(rewards)), repeat=counts[i]):
            if len(drawn) >= estimators.create(estimator).minimum:
                group = tuple(int(rewards[j]) for j in drawn)
                advantages = (
                    [0.0] * len(group)
                    if estimator == "grpo" and len(set(group)) == 1
                    else advantages_of(estimator, group)
                )
                gradient = sum(a * scores[j] for a, j in zip(advantages, drawn, strict=True)) / len(drawn)
            else:
                gradient = np.zeros(3)
            gradients.append(weights[i] * sizes[i] / sizes.sum() * gradient)
        mean += np.mean(gradients, axis=0)
        variance += np.var(gradients, axis=0).sum()
        truth += ((rewards - rewards.mean())[:, None] * scores).mean(axis=0) / len(prompts)
    world = environment(bank, estimator, aggregation)
    np.testing.assert_allclose(world.true_gradient()[0], truth, rtol=1e-9, atol=1e-12)
    ids = np.arange(len(prompts))[None]
    paid(world, Request(ids, counts[None]))
    world.update(Groups(ids, counts[None], 0 * counts[None], weights[None]))
    exact = {name: values[0] for name, values in world.exact_metrics(1.0).items()}
    assert exact["variance"] == pytest.approx(variance, rel=1e-9, abs=1e-12)
    assert exact["bias"] == pytest.approx(((mean - truth) ** 2).sum(), rel=1e-6, abs=1e-12)
    along = mean @ truth / np.sqrt((mean @ mean + variance) * (truth @ truth)) if variance else np.nan
    assert exact["cosine"] == pytest.approx(along, rel=1e-6, abs=1e-9, nan_ok=True)
    if estimator in ("rloo", "reinforce") and aggregation == "prompt" and (weights == 1).all():
        small = counts < estimators.create(estimator).minimum
        assert small.any() or exact["bias"] == pytest.approx(0, abs=1e-20)


@settings(max_examples=50)
@given(banks(), st.sampled_from(ESTIMATORS), st.sampled_from(["none", "I", "II"]), st.data())
def test_groups_cut_down_or_filled_up_are_rows_too(bank, estimator, reuse, data):
    """Kept, reused and centred by a given baseline: any row of a reward may be the one."""
    p = environment(bank, estimator, "prompt").pool.success
    few = st.integers(0, 2)
    k = np.array([[data.draw(few) if q > 0 else 0 for q in p[0]]])
    f = np.array([[data.draw(few) if q < 1 else 0 for q in p[0]]])
    stored = np.array([[data.draw(st.integers(0, 1)) if q > 0 else 0 for q in p[0]]])
    baseline = np.array([[data.draw(st.sampled_from([np.nan, 0.25])) for _ in p[0]]])
    groups = Groups(
        np.arange(p.shape[1])[None],
        k,
        f,
        np.ones(p.shape),
        baseline,
        None if reuse == "none" else Reuse(stored, np.zeros_like(stored), reuse),
    )
    world = environment(bank, estimator, "prompt")
    update = world.update(groups)
    plus, minus, size = group_advantages(world.setting.estimator, groups)
    shares = prompt_shares("prompt", groups)[0]
    mean, variance = np.zeros(3), 0.0
    for i, q in enumerate(np.unique(bank.prompts)):
        rewards, scores = rows_of(bank, q)
        pushed = k[0, i] + (stored[0, i] if reuse == "I" else 0)
        places = [plus[0, i]] * pushed + [minus[0, i]] * f[0, i]
        choices = [np.flatnonzero(rewards == 1)] * pushed + [np.flatnonzero(rewards == 0)] * f[0, i]
        gradients = [  # of no rows: one, and it is 0
            shares[i] / size[0, i] * (np.array(places) @ scores[list(rows)])
            for rows in itertools.product(*choices)
        ]
        mean += np.mean(gradients, axis=0)
        variance += np.var(gradients, axis=0).sum()
    np.testing.assert_allclose(update["signal"][0], mean, atol=1e-12)
    assert update["noise"][0, 0] == pytest.approx(variance, rel=1e-9, abs=1e-12)


@settings(max_examples=50)
@given(banks())
def test_the_true_gradient_is_that_of_the_banks_own_policy(bank):
    """softmax(theta . z) over a prompt's rows: how its chance of success changes at theta = 0."""
    expected = np.zeros(3)
    for q in np.unique(bank.prompts):
        rewards, scores = rows_of(bank, q)
        for coordinate in range(3):
            theta = np.zeros(3)
            chances = []
            for theta[coordinate] in (1e-5, -1e-5):
                odds = np.exp(scores @ theta)
                chances.append(rewards @ odds / odds.sum())
            expected[coordinate] += (chances[0] - chances[1]) / 2e-5
    expected /= len(np.unique(bank.prompts))
    np.testing.assert_allclose(environment(bank, "rloo", "prompt").true_gradient()[0], expected, atol=1e-7)


@settings(max_examples=50)
@given(banks(), st.randoms(use_true_random=False))
def test_scores_are_centred_and_the_order_of_rows_means_nothing(bank, random):
    rng = np.random.default_rng(random.randrange(10**6))
    shifts = rng.standard_normal((4, 3)).astype(np.float32)
    order = rng.permutation(len(bank))
    shifted = bank_of(bank.prompts, bank.rewards, bank.sketches + shifts[bank.prompts])[order]
    before, after = RecordedPrompts.of(bank), RecordedPrompts.of(shifted)
    for name in ("success", "rollouts", "phi", "spread"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_monte_carlo_agrees_with_enumeration(recorded, estimator, aggregation):
    allocator = "inverse_accuracy[predictor=oracle]"
    exact = cell(recorded, allocator, estimator, aggregation).measure()
    sampled = cell(recorded, allocator, estimator, aggregation, draws=300).measure()
    assert list(exact) == list(sampled)
    for metric in ("mse", "variance", "noise_variance", "effective_ratio", "wasted_ratio", "cosine"):
        difference = sampled[metric] - exact[metric]
        error = difference.std(ddof=1) / np.sqrt(BLOCK)
        assert abs(difference.mean()) < 5 * error + 2e-3 * np.abs(exact[metric]).mean(), metric


def test_a_bank_of_simulated_rollouts_ranks_as_the_simulator_does(tmp_path):
    """Many rows: the bank's prompts are the simulator's, and so are the ratios to uniform."""
    rng = np.random.default_rng(0)
    pool = scenarios.create("snapshot-u-shaped-v1").pool(rng, 1, 64)
    write_bank(simulated(pool, 600, 30.0, rng), tmp_path)

    recorded = scenarios.create(f"replay[bank={tmp_path},prompts=48]")

    class Known(SnapshotScenario):
        """The prompts that the bank was made of."""

        def pool(self, rng, replicates, size):
            chosen = recorded.pool(rng, replicates, size).chosen
            return Pool(pool.success[0][chosen], pool.features[0][chosen])

    ratios = {}
    for simulated_again, made in ((True, Known("", noise_ratio=30.0)), (False, recorded)):
        for name in ("uniform", "vip[predictor=oracle]", "uniform[divide=2]", "dapo"):
            how = estimators.create("rloo"), "prompt", Budget(48, 384), 0, 0
            one = SnapshotCell("", made, name, allocators.create(name), *how)
            ratios[simulated_again, name] = one.measure()["snr"].mean()
    for name in ("vip[predictor=oracle]", "uniform[divide=2]", "dapo"):
        theirs, ours = (ratios[key, name] / ratios[key, "uniform"] for key in (True, False))
        assert ours == pytest.approx(theirs, rel=0.03), name
    # The bank's own gradient is longer than the model's, by the choice of rows.
    share = recorded.recorded.sampling_share(48)
    assert ratios[False, "uniform"] * (1 - share) == pytest.approx(ratios[True, "uniform"], rel=0.15)


def test_how_much_of_the_gradient_is_the_choice_of_rows():
    rng = np.random.default_rng(1)
    noise = bank_of(np.repeat(np.arange(300), 8), rng.integers(0, 2, 2400), rng.standard_normal((2400, 300)))
    assert RecordedPrompts.of(noise).sampling_share(64) == pytest.approx(1, abs=0.15)
    pool = scenarios.create("snapshot-mid-v1").pool(rng, 1, 100)
    p, phi = pool.success[0], pool.features[0]
    # How long the model's own gradient is expected to be for 50 of the prompts, and the bank's.
    parts = (p * (1 - p))[:, None] * phi
    both, own = (parts.sum(axis=0) ** 2).sum(), (parts**2).sum()
    length = own / 100 / 50 + 49 / 50 * (both - own) / 100 / 99
    for rollouts in (10, 40, 400):
        found = [RecordedPrompts.of(simulated(pool, rollouts, 30.0, rng)) for _ in range(8)]
        sampled = 30 * (p * (1 - p)).mean() / rollouts / 50
        expected = length * (1 - 1 / rollouts) / sampled  # since E p(1-p) is smaller in few rollouts
        rest = np.array([1 / bank.sampling_share(50) - 1 for bank in found])
        assert abs(rest.mean() - expected) < 4 * rest.std(ddof=1) / np.sqrt(len(rest))


def test_each_replicate_takes_prompts_at_random(recorded):
    pool = cell(recorded, spec=",prompts=16").scenario.pool(np.random.default_rng(0), BLOCK, 16)
    assert all(len(set(row)) == 16 for row in pool.chosen.tolist())
    assert len({tuple(sorted(row)) for row in pool.chosen.tolist()}) == BLOCK
    bank = RecordedPrompts.of(read_bank(recorded).at(3))
    np.testing.assert_array_equal(pool.success, bank.success[pool.chosen])
    np.testing.assert_array_equal(pool.seen, bank.features[pool.chosen])
    tables = [cell(recorded, "vip", spec=",prompts=16").run() for _ in range(2)]
    pd.testing.assert_frame_equal(*tables)
    assert not tables[0].equals(cell(recorded, "vip", spec=",prompts=16", seed=1).run())


def test_steps(recorded):
    first, third, seventh = (cell(recorded, spec=spec) for spec in ("", ",step=3", ",step=7"))
    assert first.measure()["snr"].tolist() == third.measure()["snr"].tolist()
    assert first.measure()["snr"].tolist() != seventh.measure()["snr"].tolist()
    assert seventh.scenario.name == "replay:digits[step=7]"
    with pytest.raises(InputError, match="step=4: the bank has rollouts of steps 3, 7"):
        cell(recorded, spec=",step=4")


STAGED = ["dapo", "ar3po", "reinforce_ada", "pilot_commit", "pods", "speed"]


@pytest.mark.parametrize("allocator", ["vip", *STAGED])
def test_allocators_run(recorded, allocator):
    measured = cell(recorded, allocator, draws=4).measure()
    assert np.isfinite(measured["snr"]).sum() > BLOCK / 2


def test_predictors_of_features_need_them(tmp_path):
    rng = np.random.default_rng(3)
    write_bank(
        bank_of(np.repeat([0, 1, 5], 4), np.tile([0, 1, 1, 0], 3), rng.standard_normal((12, 2))), tmp_path
    )
    assert np.isfinite(cell(tmp_path, "vip[predictor=beta]").measure()["snr"]).all()
    with pytest.raises(InputError, match="predictor gp needs a feature vector"):
        cell(tmp_path, "vip").measure()


def test_a_bank_is_its_content(recorded, tmp_path):
    def key(directory):
        return next(iter(identify([cell(directory)])[0]))

    copy = tmp_path / "digits"
    copy.mkdir()
    for file in recorded.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert key(copy) == key(recorded)
    asked = cell(copy)
    bank = read_bank(copy)
    bank.rewards[0] = 1 - bank.rewards[0]
    write_bank(bank, copy)
    assert key(copy) != key(recorded)
    read_prompts.cache_clear()
    with pytest.raises(InputError, match="bank.parquet: has changed since the study began"):
        asked.measure()


def test_names_and_specs(recorded, monkeypatch):
    monkeypatch.chdir(recorded.parent)
    specs = ("replay:digits", "replay:digits/bank.parquet", "replay[bank=digits]", f"replay:{recorded}")
    made = [scenarios.create(spec) for spec in specs]
    assert {one.name for one in made} == {"replay:digits"}
    assert {one.spec for one in made} == {f"replay[bank={recorded / 'bank.parquet'}]"}
    assert all(one == made[0] for one in made)
    other = scenarios.create("replay[bank=digits,visits=3,prompts=8,group_size=4]")
    assert other.name == "replay:digits[prompts=8,group_size=4,visits=3]"
    assert scenarios.create(other.spec) == other
    assert scenarios.create("replay[bank=digits,prompts=40,visits=1]").name == "replay:digits"
    assert seen_from(Path("there"), "replay:b") == "replay[bank=there/b]"
    assert seen_from(Path("there"), "replay[step=2,bank=/b]") == "replay[step=2,bank=/b]"
    assert seen_from(Path("there"), "u-shaped-v1[visits=4]") == "u-shaped-v1[visits=4]"


def write_study(recorded, folder, *specs):
    """A study file in a folder beside the bank."""
    folder.mkdir()
    lines = ", ".join(f'"{spec}"' for spec in specs)
    (folder / "study.toml").write_text(
        f'study = "compare"\nallocators = ["uniform"]\nscenarios = [{lines}]\nreplicates = 4\n'
    )
    return folder / "study.toml"


def test_paths_of_a_study_file_start_there(recorded, tmp_path):
    file = write_study(recorded, tmp_path / "a b", "replay:../digits", "snapshot-mid-v1[prompts=40]")
    (tmp_path / "digits").symlink_to(recorded)
    description = Comparison.of({}, file)
    study = description.build()
    assert list(study.scenarios) == ["replay:digits", "snapshot-mid-v1[prompts=40]"]
    again = Comparison.of(description.resolved(study)).build()
    assert list(identify(again.cells(Path()))[0]) == list(identify(study.cells(Path()))[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-s replay:{d},x", "--scenario: scenario 'replay:{d},x': replay:PATH is expected, without comma"),
        ("-s replay:", "--scenario: scenario 'replay:': replay:PATH is expected"),
        ("-s replay:{d}/none", "--scenario: {d}/none: no such file"),
        ("-s replay", "needs a score bank: replay:PATH"),
        ("-s replay:{d} -s replay[bank={d}]", "--scenario: scenario 'replay:digits' is given twice"),
        ("-s replay[bank={d},step=1]", "step=1: the bank has rollouts of steps 3, 7"),
        ("-s replay[bank={d},bonk=1]", "has no parameter 'bonk'"),
        ("-s replay[bank={d},prompts=41]", "prompts=41: {d}/bank.parquet has 40"),
        ("-s replay:{d} --prompts 41", "--prompts: prompts=41: {d}/bank.parquet has 40"),
        ("-s replay:{d} -s u-shaped-v1", "training runs and snapshots answer different questions"),
        ("-s replay:{d} -s snapshot-mid-v1", "the same prompts and group_size are expected"),
        ("-s replay:{d} --steps 3", "--steps: a snapshot does not train"),
    ],
)
def test_what_cannot_be_replayed(recorded, tmp_path, options, said):
    done = run(f"compare --out {tmp_path / 'out'} {options.format(d=recorded)}")
    assert done.code == 2
    assert said.format(d=recorded) in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rewards", [[0, 0, 0, 0], [0, 1, 0, 1]])
def test_a_bank_without_a_gradient(tmp_path, rewards):
    """Nobody solves anything now and then; or what was recorded are no scores."""
    write_bank(bank_of([0, 0, 1, 1], rewards, np.ones((4, 2))), tmp_path)
    with pytest.raises(
        InputError, match="no prompt of the bank has successes and failures of different scores"
    ):
        scenarios.create(f"replay:{tmp_path}")


def test_it_is_listed_and_asked_for_by_name_only():
    (entry,) = [entry for entry in scenarios.describe() if entry.name == "replay"]
    assert entry.parameters == "bank=None, step=None, prompts=None, group_size=8, visits=1"
    study = Comparison.of({"scenarios": ["all-snapshots"]}).build()
    assert not [made for made in study.scenarios.values() if isinstance(made, ReplayScenario)]


def test_from_the_command_line(recorded, tmp_path, monkeypatch):
    """Beside a simulated snapshot, in worker processes; the record says which bank it was."""
    monkeypatch.setattr("rolloutbench.analysis.results.Results.draw", lambda *_: [])
    out = tmp_path / "out"
    options = f"--prompts 24 --replicates 4 -a dapo --draws 4 --jobs 2 --out {out} --json"
    done = run(f"compare -s replay:{recorded} -s snapshot-mid-v1 {options}")
    assert done.code == 0, done.err
    record = done.json["conditions"]
    assert record["banks"]["replay:digits"] == {
        "path": str(recorded / "bank.parquet"),
        "digest": scenarios.create(f"replay:{recorded}").digest,
        "step": 3,
        "prompts": 40,
        "rollouts_per_prompt": [12],
        "dimensions": 32,
        "mean_success": pytest.approx(read_bank(recorded).at(3).rewards.mean()),
        "sampling_share": pytest.approx(0.5, abs=0.5),  # of which there is a test of its own
        "about": {"task": "sums", "model": "tiny"},
    }
    bank = "rollouts from bank digits (tiny on sums), step 3: 40 prompts x 12 rollouts, 24 at random in a"
    assert bank in record["captions"]["replay:digits"]
    assert bank in record["conditions"]
    assert "bank" not in record["captions"]["snapshot-mid-v1"]
    summary = pd.DataFrame(done.json["summary"])
    assert set(summary.scenario) == {"replay:digits", "snapshot-mid-v1"}
    values = pd.read_parquet(out / "per_replicate.parquet")
    pd.testing.assert_frame_equal(
        summarise(values).drop(columns="scenario"), summary.drop(columns="scenario"), check_dtype=False
    )
    config = tomllib.loads((out / "study.toml").read_text())
    assert config["scenarios"] == [f"replay[bank={recorded / 'bank.parquet'}]", "snapshot-mid-v1"]
    shown = run(f"show {out}")
    assert "replay:digits" in shown.out
