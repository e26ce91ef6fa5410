"""Figures of predictors plot what pandas computes, and say what it is."""

import numpy as np
import pytest
from made_up import JUDGED, SCENARIOS, bands, line, made_judged, spread

from rolloutbench.analysis.plotting import prediction
from rolloutbench.analysis.statistics import mean_interval
from rolloutbench.cells.collectors import CALIBRATION_BINS


@pytest.mark.parametrize("later", [False, True])
def test_calibration_is_the_ratio_of_sums_in_each_bin(later):
    figure = prediction.calibration(JUDGED, "made up")
    assert [axes.get_title() for axes in figure.axes] == ["beta", "oracle"]
    axes = figure.axes[0]
    rows = JUDGED[JUDGED.predictor.eq("beta") & JUDGED.epoch.gt(0).eq(later)]
    sums = rows.groupby("replicate").sum(numeric_only=True)
    x, y = line(axes, "later" if later else "first").get_data()
    actual = sums["actual@4"] / sums["prompts@4"]
    assert (x[4], y[4]) == pytest.approx((0.45, actual.mean()))
    expected = mean_interval(actual.to_numpy())
    whisker = axes.collections[2 if later else 0].get_segments()[4][:, 1]
    np.testing.assert_allclose(whisker, [expected.low, expected.high])
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted probability", "true probability")


def test_calibration_is_of_one_scenario():
    with pytest.raises(ValueError, match="one scenario, found cold-v1, warm-v1"):
        prediction.calibration(made_judged(SCENARIOS), "")


def test_calibration_leaves_empty_bins_out():
    empty = JUDGED.assign(**{"prompts@9": 0.0, "predicted@9": 0.0, "actual@9": 0.0})
    axes = prediction.calibration(empty, "").axes[0]
    assert len(line(axes, "later").get_xdata()) == CALIBRATION_BINS - 1


def test_prediction_error_is_a_mean_at_each_step():
    figure = prediction.prediction_error(made_judged(SCENARIOS), "made up")
    assert [axes.get_title() for axes in figure.axes] == list(SCENARIOS)
    judged = made_judged(SCENARIOS)
    rows = judged[judged.scenario.eq("warm-v1") & judged.predictor.eq("oracle")]
    axes = figure.axes[1]
    x, y = line(axes, "oracle").get_data()
    np.testing.assert_allclose(y, rows.groupby("steps").mae.mean())
    np.testing.assert_array_equal(x, range(1, 21))
    expected = mean_interval(rows[rows.steps == 7].mae.to_numpy())
    assert spread(bands(axes)[1], 7) == pytest.approx((expected.low, expected.high))
    shaded = axes.patches[0]
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == (0, 5.5)  # 5 steps an epoch
    assert axes.get_xlabel() == "steps"
    assert "probability" in figure.axes[0].get_ylabel()
