"""The recorded run: what is dealt is what was recorded, and predictors are judged by it."""

import numpy as np
import pandas as pd
import pytest

from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.predictors import predictors
from rolloutbench.protocol import InputError, Request
from rolloutbench.studies.kinds.comparison import Comparison
from rolloutbench.studies.kinds.prediction import Prediction
from simulators.learning import BLOCK
from simulators.prediction import PredictionCell
from simulators.scenarios import scenarios
from simulators.traced import EPOCHS, PROMPTS, floor, recorded


def cell(names=("beta",), **changes):
    made = scenarios.create(
        "traced" + f"[{','.join(f'{k}={v}' for k, v in changes.items())}]" * bool(changes)
    )
    watching = {name: predictors.create(name) for name in names}
    uniform = allocators.create("uniform")
    return PredictionCell("traced", made, watching, uniform, estimators.create("rloo"), "prompt", 0, 0)


def test_the_recorded_numbers():
    table = recorded()
    assert table.shape == (PROMPTS, EPOCHS) == (1209, 44)
    assert (table.min(), table.max()) == (0, 8)
    assert (table[:, 0] == 0).mean() == pytest.approx(0.36, abs=0.005)
    assert floor() == pytest.approx(0.1033, abs=2e-4)


def test_eight_rollouts_are_the_recorded_ones():
    world = cell().world()
    uniform = begin(world, allocators.create("uniform"))
    steps = PROMPTS // 93
    for step in range(3 * steps):
        outcomes = run_step(world, uniform).outcomes
        assert (world.stream.epoch == step // steps).all()
        own = world._successes[np.arange(BLOCK)[:, None], outcomes.prompts, step // steps]
        np.testing.assert_array_equal(outcomes.successes, own)
        np.testing.assert_array_equal(world.success(outcomes.prompts), own / 8)


def test_fewer_are_dealt_without_replacement_and_more_are_drawn():
    world = cell().world()
    prompts = np.tile(world.stream.draw(50), 40)
    k = world.now(prompts)
    for count in (3, 24):
        successes = world.generate(Request(prompts, np.full_like(prompts, count))).successes
        dealt = min(count, 8)
        assert (successes >= np.maximum(k - (8 - dealt), 0)).all()
        assert (successes[k == 0] == 0).all()
        assert (successes[k == 8] == count).all()
        np.testing.assert_allclose(successes[k == 4].mean(), count / 2, rtol=0.1)


def test_scores_are_those_of_the_rollouts():
    made = cell(("beta", "last_epoch"), epochs=3)
    table = made.run()
    assert set(table.epoch) == {0, 1, 2}
    assert table.groupby("predictor").size().eq(BLOCK * made.scenario.steps).all()
    later = table[table.epoch > 0].groupby("predictor").brier.mean()
    assert later["beta"] < later["last_epoch"]
    assert later.min() > floor(3) - 0.005
    pd.testing.assert_frame_equal(table, made.run())


@pytest.mark.slow
def test_who_knows_a_real_run_best():
    """The chain that learns its drift is nearest to the floor, with no constant set for this run."""
    table = cell(("markov", "beta", "beta[discount=0.8]", "kalman", "moving_average", "arcsine")).run()
    brier = table[table.epoch > 0].groupby("predictor").brier.mean()
    assert brier.idxmin() == "markov"
    assert brier["markov"] < floor() + 0.0025


def test_for_predictors_only():
    with pytest.raises(InputError, match="traced: that run has happened, whoever allocates"):
        Comparison.of({"scenarios": ["traced"]}).build()
    study = Prediction.of({"scenarios": ["traced"], "replicates": 2}).build()
    assert "gp" not in study.predictors
    assert "Brier floor 0.1033" in study.conditions("traced")
    with pytest.raises(InputError, match="prompts=1210"):
        scenarios.create("traced[prompts=1210]")
