"""Scenarios under what people train with: the same prompts, another rule, mean or optimizer."""

import numpy as np
import pytest

from rolloutbench.analysis import tables
from rolloutbench.estimators import GRPO, RLOO
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds.comparison import Comparison
from simulators.conditions import PAPERS, TRAINERS, conditions
from simulators.optimizers import SGD, Adam
from simulators.scenarios import scenarios

GRID = [f"{e}-{a}-{o}" for e in ("grpo", "rloo") for a in ("rollout", "prompt") for o in ("adam", "sgd")]


def test_the_grid():
    assert list(conditions.builtin) == GRID
    assert {TRAINERS, PAPERS} < set(GRID)
    for name in GRID:
        made = conditions.create(name)
        assert made.name == name
        assert isinstance(made.estimator, GRPO if "grpo" in name else RLOO)
        assert isinstance(made.optimizer, Adam if "adam" in name else SGD)
        assert made.aggregation in name
    assert "the default of trainers" in conditions.create(TRAINERS).summary


@pytest.mark.parametrize(
    ("spec", "rate"),
    [
        ("u-shaped-v1[condition=grpo-rollout-adam]", 0.2),
        ("u-shaped-v1[condition=rloo-prompt-sgd]", 12.0),
        ("u-shaped-v1[condition=grpo-prompt-sgd]", 6.0),
        ("weak-cold-v1[condition=grpo-rollout-adam]", 0.25),  # its own
        ("weak-cold-v1[condition=rloo-rollout-sgd]", 12.0),
        ("weak-cold-v1[condition=rloo-rollout-sgd,learning_rate=3]", 3.0),
    ],
)
def test_a_learning_rate_that_fits(spec, rate):
    assert scenarios.create(spec).learning_rate == rate


def test_wrong_conditions():
    with pytest.raises(InputError, match="did you mean grpo-rollout-adam"):
        scenarios.create("u-shaped-v1[condition=grpo-rollout-adma]")
    with pytest.raises(InputError, match="only training runs have one"):
        scenarios.create("snapshot-mid-v1[condition=grpo-rollout-adam]")


def described(**given):
    return Comparison.of({"allocators": ["mopps"], "replicates": 2, **given}, options=False)


def test_every_scenario_under_each():
    made = described(scenarios=["u-shaped-v1", "weak-cold-v1[steps=30]"], conditions=["all"])
    study = made.build()
    assert len(study.scenarios) == 16
    name = "weak-cold-v1[steps=30,condition=grpo-prompt-sgd]"
    assert study.scenarios[name].steps == 30
    cells = {cell.scenario_name: cell for cell in study.cells("nowhere")}
    assert isinstance(cells[name].estimator, GRPO)
    assert cells[name].aggregation == "prompt"
    other = cells["u-shaped-v1[condition=rloo-rollout-adam]"]
    assert (type(other.estimator), other.aggregation) == (RLOO, "rollout")
    assert "grpo, aggregation prompt" in study.conditions(name)
    again = described(**{key: value for key, value in made.resolved(study).items() if key != "study"})
    assert list(again.build().scenarios) == list(study.scenarios)


def test_the_same_prompts_under_every_condition():
    made = described(scenarios=["u-shaped-v1"], conditions=["grpo-rollout-adam", "rloo-prompt-sgd"])
    pools = [cell.world()[0].policy for cell in made.build().cells("nowhere")]
    for pool in pools[1:]:
        np.testing.assert_array_equal(pool.difficulty, pools[0].difficulty)


def test_conditions_that_do_not_fit():
    with pytest.raises(InputError, match="conditions: unknown condition 'grpo'"):
        described(conditions=["grpo"]).build()
    with pytest.raises(InputError, match="has a condition of its own"):
        described(scenarios=["u-shaped-v1[condition=rloo-prompt-sgd]"], conditions=["all"]).build()
    with pytest.raises(InputError, match="conditions: a snapshot does not train"):
        described(snapshot=True, conditions=["all"]).build()


def test_how_ranks_move(tmp_path):
    from rolloutbench import api

    found = api.compare(
        ["mopps", "vip[predictor=beta]"],
        scenarios=["u-shaped-v1[steps=24]"],
        conditions=["grpo-rollout-adam", "rloo-prompt-sgd"],
        replicates=4,
        out=tmp_path / "out",
        jobs=1,
    )
    sheet = found.tables()[-1]
    assert sheet.title == "conditions"
    assert [heading.line for heading in sheet.headings][2:] == ["grpo rollout adam", "rloo prompt sgd"]
    places = {row[0].text: [cell.text.split("#")[1] for cell in row[2:]] for row in sheet.rows}
    for column in range(2):
        assert {rank[column] for rank in places.values()} == {"1", "2", "3"}
    for condition, ranking in found.by_condition.items():
        here = ranking.set_index("allocator").ratio
        column = list(found.by_condition).index(condition)
        assert [places[name][column] for name in here.sort_values(ascending=False).index] == ["1", "2", "3"]
    assert tables.across_conditions(found.by_condition, "").rows == sheet.rows


def test_the_default_is_what_trainers_do():
    study = described(scenarios=["u-shaped-v1", "weak-cold-v1"]).build()
    named = described(scenarios=["u-shaped-v1", "weak-cold-v1"], conditions=[TRAINERS]).build()
    assert (study.estimator, study.aggregation) == (GRPO(), "rollout")
    for name, made in study.scenarios.items():
        assert made == named.scenarios[name] == scenarios.create(name).learning_by(Adam(), GRPO())
    assert [made.learning_rate for made in study.scenarios.values()] == [0.2, 0.25]
    assert "grpo, aggregation rollout, each at its own best of 3 learning rates, Adam" in study.conditions()


def test_one_condition_is_short_for_three_options():
    short = described(scenarios=["u-shaped-v1"], conditions=[PAPERS])
    long = described(scenarios=["u-shaped-v1"], estimator="rloo", aggregation="prompt", optimizer="sgd")
    assert short.resolved(short.build()) == long.resolved(long.build())
    assert short.build().scenarios["u-shaped-v1"].optimizer == SGD()
    for key, value in {"estimator": "rloo", "aggregation": "prompt", "optimizer": "sgd"}.items():
        with pytest.raises(InputError, match=f"{key} {value}: conditions rloo-prompt-sgd says that"):
            described(conditions=[PAPERS], **{key: value})


@pytest.mark.parametrize("own", ["optimizer=sgd", "learning_rate=3", f"condition={PAPERS}"])
def test_what_a_scenario_says_of_itself_stays(own):
    spec = f"u-shaped-v1[{own}]"
    assert described(scenarios=[spec]).build().scenarios[spec] == scenarios.create(spec)


def test_an_optimizer_of_ones_own():
    made = described(scenarios=["u-shaped-v1"], optimizer="sgd[momentum=0.9]").build()
    assert made.scenarios["u-shaped-v1"].optimizer == SGD(momentum=0.9)
    with pytest.raises(InputError, match="optimizer: unknown optimizer 'sdg': did you mean sgd"):
        described(optimizer="sdg").build()
    with pytest.raises(InputError, match="optimizer: a snapshot does not train"):
        described(optimizer="sgd", snapshot=True).build()


def test_a_first_look_has_one_learning_rate():
    assert described(quick=True).build().rates == (1.0,)
    assert described(quick=True, learning_rates=[2.0]).build().rates == (1.0, 2.0)
