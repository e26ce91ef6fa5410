import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rolloutbench.allocators import allocators
from rolloutbench.analysis.curves import prediction_metrics
from rolloutbench.analysis.metrics import PREDICTION_METRICS
from rolloutbench.estimators import RLOO
from rolloutbench.loop import begin, run_step
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Belief
from simulators.learning import BLOCK, LearningCell
from simulators.prediction import PredictionCell, Watched, prediction_cells, score_beliefs
from simulators.scenarios import scenarios

SCENARIO = scenarios.create("u-shaped-v1[steps=12,pool_size=256,prompts=64]")


def cell(*names, scenario=SCENARIO, allocator="uniform"):
    named = {name: predictors.create(name) for name in names}
    return PredictionCell("u", scenario, named, allocators.create(allocator), RLOO(), "prompt", 0, 0)


def test_scores_against_plain_loops():
    rng = np.random.default_rng(0)
    m, p, v = rng.random((2, 7)), rng.random((2, 7)), rng.random((2, 7)) * 0.1
    present = np.ones((2, 7), dtype=bool)
    present[1, 3:5] = False
    scores = score_beliefs(Belief(m, v), p, present)
    for r in range(2):
        each = [(m[r, i], p[r, i], v[r, i]) for i in range(7) if present[r, i]]
        assert scores["mae"][r] == pytest.approx(np.mean([abs(a - b) for a, b, _ in each]))
        # Expected over the reward: b times the score at 1 and 1 - b times that at 0.
        brier = [b * (1 - a) ** 2 + (1 - b) * a**2 for a, b, _ in each]
        loss = [-b * np.log(a) - (1 - b) * np.log(1 - a) for a, b, _ in each]
        assert scores["brier"][r] == pytest.approx(np.mean(brier))
        assert scores["log_loss"][r] == pytest.approx(np.mean(loss))
        covered = [abs(a - b) <= 1.96 * c**0.5 for a, b, c in each]
        assert scores["coverage"][r] == pytest.approx(np.mean(covered))
        a, b, _ = zip(*each, strict=True)
        assert scores["rank_correlation"][r] == pytest.approx(stats.spearmanr(a, b).statistic)
        assert sum(scores[f"prompts@{i}"][r] for i in range(10)) == len(each)
        assert sum(scores[f"actual@{i}"][r] for i in range(10)) == pytest.approx(sum(b))


def test_certainty_that_is_wrong_costs_much_but_not_everything():
    scores = score_beliefs(
        Belief(np.array([[1.0]]), np.zeros((1, 1))), np.array([[0.0]]), np.ones((1, 1), dtype=bool)
    )
    assert scores["log_loss"][0] == pytest.approx(-np.log(1e-6))
    assert np.isnan(scores["rank_correlation"][0])


def test_watching_changes_nothing():
    """The watched allocator meets the same prompts and rewards as without predictors."""
    alone = LearningCell(
        "u", SCENARIO, "vip", allocators.create("vip[predictor=beta]"), RLOO(), "prompt", 0, 0
    )
    environment, _ = alone.world()
    driven = begin(environment, allocators.create("vip[predictor=beta]"))
    beside, _ = alone.world()
    pair = Watched(allocators.create("vip[predictor=beta]"), {"noisy": predictors.create("kalman")})
    watched = begin(beside, pair)
    for _ in range(5):
        run_step(environment, driven)
        run_step(beside, watched)
    assert np.array_equal(environment.policy.theta, beside.policy.theta)


def test_oracle_is_perfect_and_knows_the_moving_truth():
    values = prediction_metrics(cell("oracle", "uniform").run())
    means = values.groupby(["allocator", "metric"]).value.mean()
    for phase in ("first_epoch", "later"):
        assert means["oracle", f"mae_{phase}"] == 0
        assert means["oracle", f"calibration_error_{phase}"] == pytest.approx(0, abs=1e-12)
        assert means["uniform", f"brier_{phase}"] == pytest.approx(0.25)
    assert set(values.metric) == set(PREDICTION_METRICS)


def test_first_epoch_is_kept_apart():
    judged = cell("beta").run()
    assert judged.groupby("steps").epoch.first().tolist() == [0] * 4 + [1] * 4 + [2] * 4
    means = prediction_metrics(judged).groupby("metric").value.mean()
    beta_of_nothing = judged[judged.epoch == 0].mae.mean()
    assert means["mae_first_epoch"] == pytest.approx(beta_of_nothing)
    assert means["mae_later"] < means["mae_first_epoch"] / 2
    later = judged[judged.epoch > 0]
    by_hand = [
        sum(abs(rows[f"predicted@{b}"].sum() - rows[f"actual@{b}"].sum()) for b in range(10)) / (8 * 64)
        for _, rows in later.groupby("replicate")
    ]
    assert means["calibration_error_later"] == pytest.approx(np.mean(by_hand))


def test_other_predictors_do_not_matter():
    alone, together = cell("beta").run(), cell("kalman", "beta", "ridge").run()
    pd.testing.assert_frame_equal(
        alone, together[together.predictor == "beta"].reset_index(drop=True), check_like=True
    )


def test_cells_of_a_study():
    named = {"beta": predictors.create("beta")}
    cells = prediction_cells({"u": SCENARIO}, named, allocators.create("uniform"), RLOO(), "prompt", 20, 3)
    assert [c.block for c in cells] == [0, 1]
    assert dataclasses.replace(cells[1]).run().replicate.min() == BLOCK
