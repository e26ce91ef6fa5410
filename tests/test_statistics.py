import numpy as np
import pytest
from scipy import stats

from rolloutbench.statistics import mean_interval, ratio_interval


def test_mean_interval_is_students():
    values = np.random.default_rng(0).gamma(2.0, size=(3, 12))
    found = mean_interval(values)
    for row in range(3):
        expected = stats.ttest_1samp(values[row], 0).confidence_interval(0.95)
        assert found.low[row] == pytest.approx(expected.low)
        assert found.high[row] == pytest.approx(expected.high)
    assert found.estimate == pytest.approx(values.mean(axis=1))


def test_missing_values_are_left_out_and_too_few_give_no_interval():
    values = np.array([[1.0, np.nan, 3.0, 2.0], [np.nan, np.nan, np.nan, 5.0], [np.nan] * 4])
    found = mean_interval(values)
    assert found.estimate[:2].tolist() == [2.0, 5.0]
    assert found.low[0] == pytest.approx(mean_interval(np.array([[1.0, 3.0, 2.0]])).low[0])
    assert np.isnan(found.low[1:]).all()
    assert np.isnan(found.estimate[2])


def test_ratio_of_paired_values():
    baseline = np.array([[1.0, 2.0, 3.0, 4.0]])
    exact = ratio_interval(2 * baseline, baseline)
    assert exact.estimate[0] == exact.low[0] == exact.high[0] == 2.0  # paired: no spread at all
    assert np.isnan(ratio_interval(baseline, 0 * baseline).estimate[0])
    noisy = ratio_interval(baseline + np.array([[0.1, -0.1, 0.1, -0.1]]), baseline)
    assert noisy.low[0] < noisy.estimate[0] < noisy.high[0]


def skewed_pairs(rng, studies, replicates):
    """Log-normal pairs with a strong common part; the ratio of their means is 1.3."""
    common = rng.standard_normal((studies, replicates))
    own = 0.2 * rng.standard_normal((2, studies, replicates))
    return 1.3 * np.exp(0.5 * common + own[0]), np.exp(0.5 * common + own[1])


@pytest.mark.parametrize("replicates", [8, 16, 64])
def test_the_ratio_interval_covers(replicates):
    a, b = skewed_pairs(np.random.default_rng(replicates), 4000, replicates)
    found = ratio_interval(a, b)
    covered = ((found.low <= 1.3) & (found.high >= 1.3)).mean()
    assert 0.92 < covered < 0.98


def test_the_ratio_interval_agrees_with_the_bootstrap():
    a, b = (x[0] for x in skewed_pairs(np.random.default_rng(5), 1, 200))
    found = ratio_interval(a[None], b[None])
    bootstrap = stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis=axis) / y.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    width = found.high[0] - found.low[0]
    assert found.low[0] == pytest.approx(bootstrap.low, abs=0.1 * width)
    assert found.high[0] == pytest.approx(bootstrap.high, abs=0.1 * width)


def test_pairing_pays():
    a, b = skewed_pairs(np.random.default_rng(6), 1, 64)
    paired = ratio_interval(a, b)
    unpaired = ratio_interval(a, np.random.default_rng(7).permuted(b, axis=1))
    assert paired.high[0] - paired.low[0] < 0.6 * (unpaired.high[0] - unpaired.low[0])
