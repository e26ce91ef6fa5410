import importlib
import sys
import types

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rolloutbench.analysis import statistics
from rolloutbench.analysis.statistics import (
    Reached,
    area_under_curve,
    average_ranks,
    crossfit_choice,
    first_reached,
    interpolate_curves,
    iqm,
    mean_interval,
    median_reached,
    paired_bootstrap,
    performance_profile,
    probability_of_improvement,
    ratio_interval,
    ratio_of_iqms,
    ratio_of_means,
)


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


# Curves


def some_curves(rng, replicates=7, evaluations=12, coarse=True):
    """Noisy, with x that repeats and y that ties: steps and heights are small integers where coarse."""
    steps = rng.integers(0, 3, (replicates, evaluations)) if coarse else rng.random((replicates, evaluations))
    heights = rng.integers(0, 5, (replicates, evaluations)) if coarse else rng.random(steps.shape)
    return np.cumsum(steps, axis=1).astype(float), heights.astype(float)


curves = st.builds(
    lambda seed, r, t, coarse: some_curves(np.random.default_rng(seed), r, t, coarse),
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(1, 9),
    st.booleans(),
)


@given(curves, st.lists(st.floats(-2, 20) | st.integers(0, 12).map(float), min_size=1, max_size=5))
def test_interpolation_is_that_of_the_slow_twin(xy, at):
    x, y = xy
    found = interpolate_curves(x, y, np.array(at))
    for r in range(len(x)):
        expected = [oracles.height_at(list(x[r]), list(y[r]), place) for place in at]
        assert found[r] == pytest.approx(expected, nan_ok=True)
        if (np.diff(x[r]) > 0).all():
            assert found[r] == pytest.approx(np.interp(at, x[r], y[r], right=np.nan), nan_ok=True)


@given(curves, st.floats(-1, 20))
def test_the_area_is_that_of_the_slow_twin_and_between_the_extremes(xy, until):
    x, y = xy
    found = area_under_curve(x, y, until)
    expected = [oracles.mean_height(list(a), list(b), until) for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(expected, nan_ok=True)
    known = ~np.isnan(found)
    assert (found[known] >= y.min(axis=1)[known] - 1e-9).all()
    assert (found[known] <= y.max(axis=1)[known] + 1e-9).all()


def test_the_area_does_not_depend_on_what_comes_after_and_is_additive():
    x, y = some_curves(np.random.default_rng(1), coarse=False)
    until = x[:, 0] + 0.7 * (x[:, -1] - x[:, 0])
    found = area_under_curve(x, y, until)
    assert found == pytest.approx(area_under_curve(x, np.where(np.arange(12) > 10, 99.0, y), until))
    assert area_under_curve(x, 3 * y + 1, until) == pytest.approx(3 * found + 1)
    assert area_under_curve(5 * x, y, 5 * until) == pytest.approx(found)


def test_the_end_of_a_curve_counts_and_what_is_beyond_does_not():
    x, y = np.array([[0.0, 2.0, 2.0], [0.0, 1.0, 4.0]]), np.array([[0.0, 1.0, 5.0], [0.0, 1.0, 4.0]])
    assert interpolate_curves(x, y, [-1.0, 1.0, 2.0])[0].tolist() == [0.0, 0.5, 5.0]
    assert np.isnan(interpolate_curves(x, y, [2.0 + 1e-9])[0, 0])
    assert interpolate_curves(x, y, np.array([[2.0], [4.0]])).tolist() == [[5.0], [4.0]]
    assert area_under_curve(x, y, 2.0).tolist() == [0.5, 0.75 + 0.25]
    assert np.isnan(area_under_curve(x, y, 4.0)).tolist() == [True, False]
    assert np.isnan(area_under_curve(x, y, 0.0)).all()


@given(curves, st.integers(1, 4), st.integers(0, 10**6))
def test_padding_with_nan_changes_nothing(xy, pad, seed):
    x, y = xy
    until = np.random.default_rng(seed).uniform(x[:, 0], x[:, -1])
    longer = [np.concatenate([z, np.full((len(x), pad), np.nan)], axis=1) for z in (x, y)]
    at = np.random.default_rng(seed).uniform(-1, 10, (len(x), 3))
    np.testing.assert_array_equal(interpolate_curves(*longer, at), interpolate_curves(x, y, at))
    np.testing.assert_allclose(area_under_curve(*longer, until), area_under_curve(x, y, until))
    for found, expected in zip(
        first_reached(*longer, 2.0, until), first_reached(x, y, 2.0, until), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_curves_may_share_x_and_have_more_leading_axes():
    y = np.random.default_rng(0).random((3, 2, 6))
    x = np.arange(6.0)
    assert interpolate_curves(x, y, [0.5, 4.0]).shape == (3, 2, 2)
    assert area_under_curve(x, y, 3.5)[1, 0] == pytest.approx(area_under_curve(x, y[1, :1], 3.5)[0])
    targets = np.full((3, 2, 4), 0.5)
    assert first_reached(x, y, targets, 5.0).when.shape == (3, 2, 4)
    assert first_reached(x, y, targets[..., 0], 5.0).when.shape == (3, 2)
    assert first_reached(x, y, 0.5, 5.0).when.shape == (3, 2)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[0.0, 2.0, 1.0]], [[0.0, 0.0, 0.0]], "x falls"),
        ([[0.0, 1.0, 2.0]], [[0.0, np.nan, 0.0]], "NaN before its end"),
        ([[np.nan, 1.0, 2.0]], [[0.0, 0.0, 0.0]], "NaN before its end"),
    ],
)
def test_a_broken_curve_is_refused(x, y, message):
    for call in (
        lambda: interpolate_curves(x, y, [1.0]),
        lambda: area_under_curve(x, y, 1.0),
        lambda: first_reached(x, y, 0.5, 1.0),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# Time to a target


@given(curves, st.lists(st.floats(-1, 6) | st.integers(0, 5).map(float), min_size=1, max_size=4), st.data())
def test_first_reached_is_that_of_the_slow_twin(xy, targets, data):
    x, y = xy
    until = data.draw(st.floats(-1, float(x[:, -1].min())))
    found = first_reached(x, y, np.tile(targets, (len(x), 1)), until)
    for r, m in np.ndindex(found.when.shape):
        when, reached = oracles.time_to(list(x[r]), list(y[r]), targets[m], until)
        assert found.reached[r, m] == reached
        assert found.when[r, m] == pytest.approx(when)
        single = first_reached(x, y, targets[m], until)
        assert (single.when[r], single.reached[r]) == (found.when[r, m], found.reached[r, m])


@given(curves, st.data())
def test_a_higher_target_is_never_reached_earlier(xy, data):
    x, y = xy
    until = float(x[:, -1].min())
    targets = np.sort(data.draw(st.lists(st.floats(-1, 6), min_size=2, max_size=5)))
    found = first_reached(x, y, np.tile(targets, (len(x), 1)), until)
    assert (np.diff(found.when, axis=1) >= -1e-9).all()
    assert (found.reached[:, 1:] <= found.reached[:, :-1]).all()
    assert (found.when <= until).all()
    assert (found.when[~found.reached] == until).all()
    # The curve is at its target where it is said to reach it.
    crossed = found.reached & (found.when > x[:, :1])
    strict = (np.diff(x, axis=1) > 0).all(axis=1)
    heights = interpolate_curves(x, y, found.when)[strict]
    expected = np.broadcast_to(targets, found.when.shape)[strict]
    assert heights[crossed[strict]] == pytest.approx(expected[crossed[strict]], abs=1e-6)


def test_a_run_that_does_not_reach_its_target_is_kept_at_the_horizon():
    x = np.array([[0.0, 10.0, 20.0]] * 3)
    y = np.array([[0.1, 0.5, 0.9], [0.1, 0.2, 0.2], [0.6, 0.1, 0.1]])
    found = first_reached(x, y, 0.4, 15.0)
    assert found.when == pytest.approx([7.5, 15.0, 0.0])
    assert found.reached.tolist() == [True, False, True]
    late = first_reached(x, y, np.array([0.9, 0.9, 0.9]), 15.0)
    assert late.when.tolist() == [15.0] * 3
    assert not late.reached.any()
    assert first_reached(x, y, 0.9, 20.0).reached.tolist() == [True, False, False]


def test_a_curve_that_ends_before_the_horizon_is_refused_unless_it_got_there():
    x, y = np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([[0.0, 1.0], [0.0, 0.2]])
    assert first_reached(x, y, 0.5, 3.0).when == pytest.approx([0.5, 3.0])
    with pytest.raises(ValueError, match="until=4: 1 curves end before it, the first at 3"):
        first_reached(x, y, 0.5, 4.0)
    assert first_reached(x, y, 0.5, np.array([4.0, 3.0])).when == pytest.approx([0.5, 3.0])
    with pytest.raises(ValueError, match="finite"):
        first_reached(x, y, np.array([0.5, np.nan]), 3.0)


def test_the_mean_of_censored_times_is_the_area_under_the_survival_curve():
    rng = np.random.default_rng(3)
    times = rng.exponential(10.0, 50)
    until = 12.0
    censored = times > until
    survival = stats.ecdf(stats.CensoredData.right_censored(np.minimum(times, until), censored)).sf
    grid = np.concatenate([[0.0], np.sort(times[~censored]), [until]])
    area = (survival.evaluate(grid[:-1]) * np.diff(grid)).sum()
    x = np.array([[0.0, t, 2 * until + t] for t in times])
    y = np.array([[0.0, 1.0, 1.0]] * 50)
    found = first_reached(x, y, 1.0, until)
    assert found.when.mean() == pytest.approx(area)
    assert censored.any()
    assert (found.reached == ~censored).all()


@pytest.mark.parametrize("runs", [1, 2, 5, 6, 7, 20, 33])
def test_the_median_time_is_kaplan_meiers_with_the_sign_tests_interval(runs):
    rng = np.random.default_rng(runs)
    times = rng.exponential(10.0, (40, runs))
    for until in (3.0, 8.0, 1000.0):
        reached = times <= until
        found = median_reached(Reached(np.minimum(times, until), reached))
        for row in range(40):
            full = np.where(reached[row], times[row], np.inf)
            survival = stats.ecdf(
                stats.CensoredData.right_censored(np.minimum(times[row], until), ~reached[row])
            ).sf
            below = survival.quantiles[(survival.probabilities <= 0.5 + 1e-12) & (survival.quantiles < until)]
            assert found.estimate[row] == (below[0] if below.size else np.inf)
            expected = stats.quantile_test(full, q=0.0, p=0.5).confidence_interval(0.95)
            ends = [found.low[row], found.high[row]]
            if np.isnan([expected.low, expected.high]).any():
                assert np.isnan(ends).all()
            else:
                assert ends == [expected.low, expected.high]


def test_the_median_is_infinite_where_fewer_than_half_get_there():
    when = np.array([[1.0, 2.0, 9.0, 9.0], [1.0, 9.0, 9.0, 9.0]])
    assert median_reached(Reached(when, when < 9)).estimate.tolist() == [2.0, np.inf]


# Interquartile mean


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=13),
        elements=st.floats(-9, 9) | st.just(np.nan),
    )
)
def test_iqm_is_that_of_the_slow_twin_and_of_scipy(values):
    found = iqm(values)
    assert found == pytest.approx([oracles.middle_half(list(row)) for row in values], nan_ok=True)
    complete = np.nan_to_num(values)
    assert iqm(complete) == pytest.approx(stats.trim_mean(complete, 0.25, axis=-1))


def test_iqm_does_not_care_for_order_or_outliers():
    rng = np.random.default_rng(0)
    values = rng.random((5, 16))
    assert iqm(rng.permuted(values, axis=1)) == pytest.approx(iqm(values))
    assert iqm(np.where(values == values.max(axis=1, keepdims=True), 1e9, values)) == pytest.approx(
        iqm(values)
    )


# Against rliable


@pytest.fixture
def rliable(monkeypatch):
    """rliable.library, whose bootstrap classes are built on a package that may not import: stand-ins."""
    stub = types.ModuleType("arch.bootstrap")
    stub.IIDBootstrap = stub.IndependentSamplesBootstrap = type("Bootstrap", (), {})
    package = types.ModuleType("arch")
    package.bootstrap = stub
    monkeypatch.setitem(sys.modules, "arch", package)
    monkeypatch.setitem(sys.modules, "arch.bootstrap", stub)
    monkeypatch.delitem(sys.modules, "rliable.library", raising=False)
    library = importlib.import_module("rliable.library")
    monkeypatch.setitem(sys.modules, "rliable.library", library)  # so that it is gone afterwards
    metrics = importlib.import_module("rliable.metrics")
    return types.SimpleNamespace(library=library, metrics=metrics)


def test_iqm_is_rliables(rliable):
    scores = np.random.default_rng(0).random((7, 9))
    assert iqm(scores.ravel()) == pytest.approx(rliable.metrics.aggregate_iqm(scores.T))


@pytest.mark.parametrize("shape", [(5, 12), (1, 8), (3, 1)])
def test_probability_of_improvement_is_rliables(rliable, shape):
    rng = np.random.default_rng(0)
    for levels in (4, 10**6):  # many ties, none
        x, y = rng.integers(0, levels, (2, *shape)).astype(float)
        expected = rliable.metrics.probability_of_improvement(x.T, y.T)
        assert probability_of_improvement(x, y).estimate == pytest.approx(expected)
    assert probability_of_improvement(x, x).estimate == 0.5


@pytest.mark.parametrize("shape", [(5, 12), (1, 8), (3, 1)])
def test_the_profile_is_rliables_but_for_scores_at_a_threshold(rliable, shape):
    scores = np.random.default_rng(0).integers(0, 6, shape) / 5
    off = np.linspace(-0.11, 1.13, 30)
    found = performance_profile(scores, off)
    assert found.estimate == pytest.approx(rliable.library.score_distributions(scores.T, off))
    at = np.array([0.0, 0.4, 1.0])
    below = np.nextafter(at, -1)
    expected = rliable.library.score_distributions(scores.T, below)
    assert performance_profile(scores, at).estimate == pytest.approx(expected)


# Probability of improvement and profiles


def test_pairing_answers_another_question():
    """A small but sure gain on tasks that differ a lot."""
    task = np.random.default_rng(0).normal(size=(1, 200))
    assert probability_of_improvement(task + 0.01, task, paired=True).estimate == 1.0
    assert probability_of_improvement(task + 0.01, task).estimate == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("paired", [False, True])
def test_improvement_one_way_is_worsening_the_other(paired):
    x, y = np.random.default_rng(1).integers(0, 4, (2, 3, 9)).astype(float)
    there = probability_of_improvement(x, y, paired=paired)
    back = probability_of_improvement(y, x, paired=paired)
    assert there.estimate + back.estimate == pytest.approx(1)
    assert there.low + back.high == pytest.approx(1)
    assert there.low <= there.estimate <= there.high
    alone = probability_of_improvement(x[0], y[0], paired=paired)
    assert alone == probability_of_improvement(x[:1], y[:1], paired=paired)
    everywhere = [probability_of_improvement(a, b, paired=paired).estimate for a, b in zip(x, y, strict=True)]
    assert there.estimate == pytest.approx(np.mean(everywhere))


def test_a_missing_run_is_the_worst():
    x, y = np.array([[1.0, np.nan, 3.0, np.nan]]), np.array([[2.0, 0.0, np.nan, np.nan]])
    assert probability_of_improvement(x, y, paired=True).estimate == (0 + 0 + 1 + 0.5) / 4
    # 1 and 3 beat 0 and two missing, 3 beats 2; each of two missing ties with two missing.
    assert probability_of_improvement(x, y).estimate == (3 + 4 + 1 + 1) / 16
    assert performance_profile(x, np.array([0.0, 2.0])).estimate.tolist() == [0.5, 0.25]


def test_the_stratified_bootstrap_is_that_of_the_slow_twin(rliable):
    """The same draws, run by run, with rliable's own statistics."""
    rng = np.random.default_rng(2)
    x, y = rng.random((2, 3, 6))
    y = (y + x) / 2
    thresholds = np.array([0.2, 0.5, 0.81])
    counts = np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), size=(3, 50))
    assert (counts.sum(axis=-1) == 6).all()
    all_pairs, in_pairs, profile = [], [], []
    for draw in range(50):
        chosen = np.array([np.repeat(np.arange(6), counts[s, draw]) for s in range(3)])
        a, b = np.take_along_axis(x, chosen, 1), np.take_along_axis(y, chosen, 1)
        all_pairs.append(rliable.metrics.probability_of_improvement(a.T, b.T))
        in_pairs.append((a > b).mean())
        profile.append([rliable.library.run_score_deviation(a.T, t) for t in thresholds])
    for found, drawn in (
        (probability_of_improvement(x, y, resamples=50, seed=7), all_pairs),
        (probability_of_improvement(x, y, paired=True, resamples=50, seed=7), in_pairs),
        (performance_profile(x, thresholds, resamples=50, seed=7), profile),
    ):
        assert found.low == pytest.approx(np.quantile(drawn, 0.025, axis=0))
        assert found.high == pytest.approx(np.quantile(drawn, 0.975, axis=0))


@given(st.integers(0, 1000))
def test_a_profile_falls_from_one_to_zero(seed):
    scores = np.random.default_rng(seed).random((2, 5))
    found = performance_profile(scores, np.linspace(0, 1.01, 12), resamples=40)
    assert (np.diff(np.stack(found), axis=1) <= 1e-12).all()
    assert found.estimate[0] == 1
    assert found.high[-1] == 0
    shuffled = np.random.default_rng(seed).permuted(scores, axis=1)[::-1]
    assert performance_profile(shuffled, np.linspace(0, 1.01, 12)).estimate == pytest.approx(found.estimate)


def test_the_improvement_interval_covers():
    rng = np.random.default_rng(4)
    covered = {False: 0, True: 0}
    for _ in range(400):
        common, own = rng.normal(size=(3, 32)), rng.normal(size=(2, 3, 32))
        x, y = common + own[0] + 0.5, common + own[1]
        for paired, variance in ((True, 2.0), (False, 4.0)):
            truth = stats.norm.cdf(0.5 / np.sqrt(variance))
            found = probability_of_improvement(x, y, paired=paired, resamples=300)
            covered[paired] += found.low <= truth <= found.high
    assert 0.92 < covered[True] / 400 < 0.98
    assert 0.92 < covered[False] / 400 < 0.98


# The paired bootstrap


def difference_of_iqms(a, b):
    return iqm(a) - iqm(b)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_the_bootstrap_of_many_rows_is_scipys_of_each(method):
    a, b = skewed_pairs(np.random.default_rng(1), 6, 20)
    a[2] = 2 * b[2]
    for statistic in (ratio_of_means, ratio_of_iqms, difference_of_iqms):
        found = paired_bootstrap(statistic, a, b, method=method, resamples=300, seed=9)
        for row in (0, 1, 5):
            expected = stats.bootstrap(
                (a[row], b[row]),
                lambda x, y, axis, statistic=statistic: statistic(x, y),
                paired=True,
                vectorized=True,
                n_resamples=300,
                method=method,
                rng=np.random.default_rng(9),
            ).confidence_interval
            assert found.low[row] == pytest.approx(expected.low)
            assert found.high[row] == pytest.approx(expected.high)
        assert found.estimate == pytest.approx(statistic(a, b))
    assert ratio_of_means(a, b)[2] == 2
    point = paired_bootstrap(ratio_of_means, a, b, method=method)
    assert (point.low[2], point.high[2]) == (2, 2)


def test_the_bootstrap_is_that_of_the_slow_twin():
    a, b = (x[0] for x in skewed_pairs(np.random.default_rng(2), 1, 9))
    rng = np.random.default_rng(3)
    drawn = []
    for _ in range(200):
        chosen = [int(rng.integers(0, 9)) for _ in range(9)]
        drawn.append(sum(a[i] for i in chosen) / sum(b[i] for i in chosen))
    found = paired_bootstrap(ratio_of_means, a, b, resamples=200, seed=3, method="percentile")
    assert found.low == pytest.approx(np.quantile(drawn, 0.025))
    assert found.high == pytest.approx(np.quantile(drawn, 0.975))


def test_a_row_does_not_depend_on_the_others_and_the_seed_decides(monkeypatch):
    a, b = skewed_pairs(np.random.default_rng(4), 12, 16)
    found = paired_bootstrap(difference_of_iqms, a.reshape(3, 4, 16), b.reshape(3, 4, 16))
    assert found.low.shape == (3, 4)
    alone = paired_bootstrap(difference_of_iqms, a[7], b[7])
    there = [end[1, 3] for end in found]
    assert there == pytest.approx([float(end) for end in alone], rel=1e-12)
    monkeypatch.setattr(statistics, "_BLOCK", 1)
    blocks = paired_bootstrap(difference_of_iqms, a[7], b[7])
    assert np.stack(blocks) == pytest.approx(np.stack(alone), rel=1e-12)
    assert paired_bootstrap(difference_of_iqms, a[7], b[7], seed=1).low != alone.low


def test_the_expanded_interval_is_students_for_normal_values():
    values = np.random.default_rng(5).normal(3.0, 1.0, (200, 10))
    found = paired_bootstrap(lambda v: v.mean(axis=-1), values, resamples=4000)
    student = mean_interval(values)
    widths = (found.high - found.low) / (student.high - student.low)
    assert widths.mean() == pytest.approx(1, abs=0.03)
    narrow = paired_bootstrap(lambda v: v.mean(axis=-1), values, method="percentile")
    assert ((narrow.high - narrow.low) / (student.high - student.low)).mean() < 0.85


def test_missing_replicates_are_left_out_in_pairs():
    a, b = skewed_pairs(np.random.default_rng(6), 1, 30)
    gaps_a, gaps_b = a.copy(), b.copy()
    gaps_a[0, 3], gaps_b[0, 5] = np.nan, np.nan
    kept = np.delete(np.arange(30), [3, 5])
    for statistic in (ratio_of_means, ratio_of_iqms, difference_of_iqms):
        found = paired_bootstrap(statistic, gaps_a, gaps_b)
        assert found.estimate == pytest.approx(statistic(a[:, kept], b[:, kept]))
        assert found.low[0] < found.estimate[0] < found.high[0]


@pytest.mark.parametrize("method", ["expanded", "percentile", "BCa"])
def test_few_replicates(method):
    one = paired_bootstrap(ratio_of_means, np.array([[3.0]]), np.array([[2.0]]), method=method)
    assert one.estimate.tolist() == [1.5]
    assert np.isnan([one.low, one.high]).all()
    two = paired_bootstrap(ratio_of_means, np.array([3.0, 8.0]), np.array([2.0, 4.0]), method=method)
    assert (two.low, two.high) == (1.5, 2.0)
    nothing = paired_bootstrap(ratio_of_means, np.full(4, np.nan), np.ones(4), method=method)
    assert np.isnan(np.stack(nothing)).all()
    zero = paired_bootstrap(ratio_of_means, np.ones(4), np.zeros(4), method=method)
    assert np.isnan(np.stack(zero)).all()


@pytest.mark.parametrize("replicates", [32, 64])
@pytest.mark.parametrize(("method", "studies"), [("expanded", 2000), ("percentile", 2000)])
def test_the_bootstrap_covers(replicates, method, studies):
    a, b = skewed_pairs(np.random.default_rng(100 + replicates), studies, replicates)
    for statistic in (ratio_of_means, ratio_of_iqms):
        found = paired_bootstrap(statistic, a, b, method=method, resamples=400)
        covered = ((found.low <= 1.3) & (found.high >= 1.3)).mean()
        assert 0.92 < covered < 0.98, (statistic, covered)


# Ranks


DEMSAR = np.array(  # Table 6 of Demsar 2006: AUC of C4.5, C4.5+m, C4.5+cf, C4.5+m+cf on 14 data sets
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],  # printed alike, ranked 2 and 3 there
        [0.957, 0.978, 0.946, 0.970],
    ]
).T


def test_ranks_of_the_papers_example():
    found = average_ranks(DEMSAR)
    assert found.mean == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    # The paper's chi2 of 9.28 is without the correction for ties, which makes it larger.
    chi2 = 12 * 14 / (4 * 5) * ((found.mean**2).sum() - 4 * 5**2 / 4)
    assert chi2 == pytest.approx(9.28, abs=5e-3)
    ties = sum(t**3 - t for t in (2, 2, 2, 4))
    assert found.p_value == pytest.approx(stats.chi2.sf(chi2 / (1 - ties / (14 * 4 * 15)), 3))


@pytest.mark.parametrize(("allocators", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_nemenyis(allocators, q):
    scores = np.random.default_rng(0).random((allocators, 6))
    expected = q * np.sqrt(allocators * (allocators + 1) / 36)
    assert average_ranks(scores).critical_difference == pytest.approx(expected, rel=5e-4)
    assert average_ranks(scores, level=0.9).critical_difference < 0.95 * expected


scores_of_some = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 6), st.integers(1, 5)),
    elements=st.integers(0, 4).map(float) | st.just(np.nan),
)


@given(scores_of_some, st.randoms(use_true_random=False))
def test_ranks_are_those_of_the_slow_twin(scores, random):
    found = average_ranks(scores)
    expected = np.mean([oracles.ranks_of(list(column)) for column in scores.T], axis=0)
    assert found.mean == pytest.approx(expected)
    assert found.mean.sum() == pytest.approx(len(scores) * (len(scores) + 1) / 2)
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = average_ranks(scores[order])
    assert shuffled.mean == pytest.approx(found.mean[order])
    assert shuffled.p_value == pytest.approx(found.p_value, nan_ok=True)


def test_friedmans_p_value_holds_its_level():
    rng = np.random.default_rng(0)
    p = np.array([average_ranks(rng.random((5, 12))).p_value for _ in range(200)])
    assert 0.02 < (p < 0.05).mean() < 0.08
    better = np.arange(5)[:, None] + rng.random((5, 12))
    assert average_ranks(better).p_value < 1e-4


def test_ranks_of_few():
    with pytest.raises(ValueError, match="at least 2 allocators, found 1"):
        average_ranks(np.ones((1, 4)))
    two = average_ranks(np.array([[2.0, 2.0], [1.0, np.nan]]))
    assert two.mean.tolist() == [1.0, 2.0]
    assert np.isnan(two.p_value)
    tied = average_ranks(np.ones((3, 2)))
    assert tied.mean.tolist() == [2.0, 2.0, 2.0]
    assert np.isnan(tied.p_value)
    missing = average_ranks(np.array([[1.0], [np.nan], [np.nan], [2.0]]))
    assert missing.mean.tolist() == [2.0, 3.5, 3.5, 1.0]


# Choosing a setting


@given(st.integers(1, 5), st.integers(2, 9), st.integers(0, 10**6))
def test_a_replicates_setting_is_chosen_by_the_other_half(settings, replicates, seed):
    values = np.random.default_rng(seed).random((settings, replicates))
    choice = crossfit_choice(values)
    for r in range(replicates):
        others = [i for i in range(replicates) if i % 2 != r % 2]
        assert choice[r] == max(range(settings), key=lambda s: sum(values[s, i] for i in others))
    # What a replicate gave itself has no say.
    changed = values.copy()
    changed[:, ::2] = np.random.default_rng(seed + 1).random((settings, len(changed[0, ::2])))
    assert (crossfit_choice(changed)[::2] == choice[::2]).all()


def test_the_crossfit_choice_is_without_bias_and_the_best_mean_is_not():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 6, 8))  # studies, settings that are all alike, replicates
    choice = crossfit_choice(values)
    chosen = np.take_along_axis(values, choice[:, None], axis=1)[:, 0].mean(axis=-1)
    error = chosen.std() / np.sqrt(3000)
    assert abs(chosen.mean()) < 4 * error
    naive = values.mean(axis=-1).max(axis=-1)
    assert naive.mean() > 20 * error


def test_the_crossfit_choice_finds_what_is_clearly_best():
    values = np.array([0.0, 3.0, 1.0])[:, None] + np.random.default_rng(0).normal(size=(3, 10)) * 0.1
    assert (crossfit_choice(values) == 1).all()
    values[1, 4] = np.nan  # it failed in an even replicate: the odd ones do without it
    assert crossfit_choice(values).tolist() == [1, 2] * 5
    with pytest.raises(ValueError, match="at least 2, found 1"):
        crossfit_choice(values[:, :1])


def test_no_function_changes_its_input():
    rng = np.random.default_rng(0)
    x, y = some_curves(rng, 4)
    scores = rng.random((4, 6))
    scores[0, 0] = np.nan
    copies = [z.copy() for z in (x, y, scores)]
    interpolate_curves(x, y, [1.0]), area_under_curve(x, y, 1.0), first_reached(x, y, 2.0, 1.0)
    (
        iqm(scores),
        paired_bootstrap(ratio_of_means, scores, scores),
        average_ranks(scores),
        crossfit_choice(scores),
    )
    probability_of_improvement(scores, scores), performance_profile(scores, [0.5])
    for after, before in zip((x, y, scores), copies, strict=True):
        np.testing.assert_array_equal(after, before)
