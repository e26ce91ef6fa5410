"""The figures of learning and prediction: what they plot is what pandas computes, and they say what it is."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from rolloutbench.allocators import allocators
from rolloutbench.metrics import AXES, CALIBRATION_BINS, COUNT_BINS, REFERENCE, count_metric
from rolloutbench.plotting import learning as plots
from rolloutbench.plotting.panels import save
from rolloutbench.plotting.style import MARKERS, PREDICTOR_STYLES, STYLES, looks, print_style
from rolloutbench.predictors import predictors
from rolloutbench.results import summarise
from rolloutbench.statistics import mean_interval

REPLICATES, STEPS = 4, 60
ALLOCATORS = ("uniform", "uniform[divide=2]", "vip[predictor=beta]", "vip[predictor=oracle]", "dapo")
SCENARIOS = ("cold-v1", "warm-v1")


def made_curves(scenarios=SCENARIOS, allocators=ALLOCATORS, rates=(1.0,)):
    """Runs of 1.5 times the steps, evaluated every 10; accuracy is linear in steps."""
    rng = np.random.default_rng(1)
    tables = []
    for scenario in scenarios:
        for place, allocator in enumerate((REFERENCE, *allocators)):
            for rate in rates if allocator != REFERENCE else (1.0,):
                for replicate in range(REPLICATES):
                    steps = np.arange(0, 1.5 * STEPS + 1, 10)
                    slope = rate * (0.002 + 0.0003 * place) * rng.uniform(0.8, 1.2)
                    table = pd.DataFrame({"steps": steps.astype(float)})
                    table["accuracy"] = 0.1 * rng.uniform(1, 2) + slope * steps
                    table["rollouts"] = steps * 100.0
                    table["tokens"] = steps * 1e5 * rng.uniform(0.8, 1.2)
                    table["seconds"] = steps * 20.0
                    for b in range(COUNT_BINS):
                        table[count_metric(b)] = np.where(steps > 0, rng.uniform(4, 12, len(steps)), np.nan)
                    tables.append(
                        table.assign(scenario=scenario, allocator=allocator, rate=rate, replicate=replicate)
                    )
    return pd.concat(tables, ignore_index=True)


def made_summary(scenarios=SCENARIOS, allocators=ALLOCATORS, metrics=("rollouts_to_90", "accuracy_at_steps")):
    rng = np.random.default_rng(2)
    rows = [
        (scenario, allocator, replicate, metric, rng.uniform(0.4, 0.6) * (1 + place))
        for scenario in scenarios
        for place, allocator in enumerate(allocators)
        for metric in metrics
        for replicate in range(REPLICATES)
    ]
    return summarise(pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"]))


def made_judged(scenarios=("cold-v1",), predictors=("beta", "oracle")):
    rng = np.random.default_rng(3)
    keys = pd.MultiIndex.from_product(
        [predictors, scenarios, range(REPLICATES), range(1, 21)],
        names=["predictor", "scenario", "replicate", "steps"],
    )
    table = keys.to_frame(index=False)
    table["epoch"] = (table.steps - 1) // 5
    table["mae"] = rng.uniform(0.1, 0.3, len(table))
    for b in range(CALIBRATION_BINS):
        table[f"prompts@{b}"] = rng.integers(0, 4, len(table)).astype(float)
        table[f"predicted@{b}"] = table[f"prompts@{b}"] * (b + 0.5) / CALIBRATION_BINS
        table[f"actual@{b}"] = table[f"prompts@{b}"] * rng.uniform(0, 1, len(table))
    return table


CURVES, SUMMARY, JUDGED = made_curves(), made_summary(), made_judged()
N_STEPS = dict.fromkeys(SCENARIOS, STEPS)


def line(axes, label):
    return next(drawn for drawn in axes.get_lines() if drawn.get_label() == label)


def bands(axes):
    return [drawn for drawn in axes.collections if isinstance(drawn, PolyCollection)]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def spread(band, x):
    """Where a band has its lower and upper end at x."""
    heights = band.get_paths()[0].vertices
    heights = heights[np.isclose(heights[:, 0], x), 1]
    return heights.min(), heights.max()


# Curves


@pytest.mark.parametrize("axis", AXES)
def test_learning_curves_are_mean_gains_up_to_what_the_reference_spent(axis):
    figure = plots.learning_curves(CURVES, N_STEPS, axis, "made up")
    assert [axes.get_title() for axes in figure.axes] == list(SCENARIOS)
    axes = figure.axes[0]
    here = CURVES[CURVES.scenario == SCENARIOS[0]]
    reference = here[here.allocator == REFERENCE].set_index("replicate")
    start, end = (reference[reference.steps == step] for step in (0, STEPS))
    spent = end[axis].mean()
    assert axes.get_xlim() == pytest.approx((0, spent))
    rows = here[here.allocator == "dapo"]
    gains = []
    for _, run in rows.groupby("replicate"):
        gains.append(100 * (np.interp(spent / 2, run[axis], run.accuracy) - run.accuracy.iloc[0]))
    x, y = line(axes, "dapo").get_data()
    assert y[len(x) // 2] == pytest.approx(np.mean(gains))
    assert x[len(x) // 2] == pytest.approx(spent / 2)
    low, high = spread(bands(axes)[ALLOCATORS.index("dapo")], x[len(x) // 2])
    expected = mean_interval(np.array(gains))
    assert (low, high) == pytest.approx((expected.low, expected.high))
    gain = 100 * (end.accuracy - start.accuracy).mean()
    dotted = [drawn.get_ydata()[0] for drawn in axes.get_lines() if drawn.get_linestyle() == ":"][-2:]
    assert dotted == pytest.approx([0.5 * gain, 0.9 * gain])
    assert axes.get_ylabel() == "accuracy gain (points)"
    assert axes.get_xlabel() == AXES[axis]
    assert "60 steps" in figure.get_suptitle()
    assert "made up" in figure.get_suptitle()


def test_all_but_the_reference_are_drawn_with_a_band():
    figure = plots.learning_curves(CURVES, N_STEPS, "rollouts", "")
    assert legend_of(figure) == list(ALLOCATORS)
    assert all(len(bands(axes)) == len(ALLOCATORS) for axes in figure.axes)


def test_only_the_scenarios_own_rate_is_drawn():
    swept = made_curves(rates=(1.0, 4.0))
    own = swept[swept.rate == 1.0]
    heights = [
        line(plots.learning_curves(table, N_STEPS, "steps", "").axes[0], "dapo").get_ydata()
        for table in (swept, own)
    ]
    np.testing.assert_array_equal(*heights)


def test_a_line_ends_with_the_shortest_replicate():
    ended = CURVES[~((CURVES.allocator == "dapo") & (CURVES.replicate == 2) & (CURVES.steps > 30))]
    for draw in (plots.learning_curves, plots.difference_curves):
        x, y = line(draw(ended, N_STEPS, "steps", "").axes[0], "dapo").get_data()
        np.testing.assert_array_equal(np.isnan(y), x > 30)


def test_difference_curves_are_paired():
    figure = plots.difference_curves(CURVES, N_STEPS, "steps", "made up")
    axes = figure.axes[1]
    here = CURVES[(CURVES.scenario == SCENARIOS[1]) & (CURVES.steps == 30)]
    wide = here.pivot(index="replicate", columns="allocator", values="accuracy")
    differences = 100 * (wide["dapo"] - wide["uniform"])
    x, y = line(axes, "dapo").get_data()
    assert y[np.isclose(x, 30)][0] == pytest.approx(differences.mean())
    expected = mean_interval(differences.to_numpy())
    found = spread(bands(axes)[ALLOCATORS.index("dapo") - 1], 30)
    assert found == pytest.approx((expected.low, expected.high))
    assert axes.get_ylabel() == ""  # the panel at the left has it
    assert figure.axes[0].get_ylabel() == "points above uniform"
    assert legend_of(figure) == list(ALLOCATORS[1:])


def test_difference_curves_pair_the_replicates_that_both_have():
    fewer = CURVES[~((CURVES.allocator == "dapo") & (CURVES.replicate == 0))]
    axes = plots.difference_curves(fewer, N_STEPS, "steps", "").axes[0]
    here = fewer[(fewer.scenario == SCENARIOS[0]) & (fewer.steps == 30)]
    wide = here.pivot(index="replicate", columns="allocator", values="accuracy")
    x, y = line(axes, "dapo").get_data()
    assert y[np.isclose(x, 30)][0] == pytest.approx(100 * (wide["dapo"] - wide["uniform"]).mean())


def test_curves_need_their_reference():
    with pytest.raises(ValueError, match=r"cold-v1 has no run called \(reference\)"):
        plots.learning_curves(CURVES[CURVES.allocator != REFERENCE], N_STEPS, "steps", "")


def test_allocation_over_time_is_a_mean_over_each_third():
    holes = CURVES.copy()
    holes.loc[(holes.steps == 10) & (holes.replicate == 1), count_metric(3)] = np.nan
    figure = plots.allocation_over_time(holes, N_STEPS, "made up")
    assert len(figure.axes) == 3 * len(SCENARIOS)
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "first third: steps 1 to 20",
        "middle third: steps 21 to 40",
        "last third: steps 41 to 60",
    ]
    for axes, steps in zip(figure.axes, ((10, 20), (30, 40), (50, 60)), strict=False):
        rows = holes[holes.scenario.eq(SCENARIOS[0]) & holes.allocator.eq("dapo") & holes.steps.isin(steps)]
        means = rows.groupby("replicate")[count_metric(3)].mean()
        x, y = line(axes, "dapo").get_data()
        assert x[3] == pytest.approx(0.175)
        assert y[3] == pytest.approx(means.mean())
        expected = mean_interval(means.to_numpy())
        found = spread(bands(axes)[3], x[3])  # uniform, two of vip, dapo
        assert found == pytest.approx((expected.low, expected.high))
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_ylabel() == "cold-v1\nrollouts per prompt"
    assert figure.axes[3].get_xlabel() == "success probability of the prompt"
    assert legend_of(figure) == [name for name in ALLOCATORS if name != "uniform[divide=2]"]


# Summaries


def cells(figure):
    """Texts of the heat map by place, and its rows and columns."""
    axes = figure.axes[0]
    texts = {}
    for text in axes.texts:
        x, y = text.get_position()
        if x < len(axes.get_xticks()):
            texts[int(y), int(x)] = text
    names = [
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    ]
    return texts, *names


@pytest.mark.parametrize(
    ("metric", "column", "shown"),
    [("rollouts_to_90", "ratio", "{:.2f}"), ("accuracy_at_steps", "difference", "{:+.1f}")],
)
def test_heat_map_holds_ratios_or_points(metric, column, shown):
    figure = plots.heat_map(SUMMARY, metric, "made up")
    texts, rows, columns = cells(figure)
    assert columns == list(SCENARIOS)
    table = SUMMARY[SUMMARY.metric == metric].set_index(["allocator", "scenario"])
    centre, scale = (0.0, 100.0) if column == "difference" else (1.0, 1.0)
    for (y, x), text in texts.items():
        row = table.loc[(rows[y], columns[x])]
        value = scale * row[column]
        assert text.get_text().replace("\N{MINUS SIGN}", "-") in (
            shown.format(value), f"{value:+.0f}", "0.0",
        )  # fmt: skip
        inside = row[f"{column}_low"] <= centre <= row[f"{column}_high"]
        assert text.get_fontweight() == ("normal" if inside else "bold")
    assert len(texts) == len(ALLOCATORS) * len(SCENARIOS)


@pytest.mark.parametrize(("metric", "first"), [("rollouts_to_90", "uniform"), ("area_over_steps", "dapo")])
def test_heat_map_has_the_best_on_top_and_in_blue(metric, first):
    figure = plots.heat_map(made_summary(metrics=[metric]), metric, "")
    _, rows, _ = cells(figure)
    assert rows[0] == first  # values grow along ALLOCATORS
    mesh = figure.axes[0].collections[0]
    shades = np.asarray(mesh.get_array())
    best, worst = (shades[rows.index(name), 0] for name in ("uniform", "dapo"))
    if first == "dapo":
        assert worst[2] > worst[0]  # it is the best here: more blue than red
    else:
        assert worst[0] > worst[2]
    assert best[:3].min() > 0.95  # uniform against itself


def test_heat_map_shows_what_is_missing():
    missing = SUMMARY[~((SUMMARY.allocator == "dapo") & (SUMMARY.scenario == "warm-v1"))]
    texts, rows, columns = cells(plots.heat_map(missing, "rollouts_to_90", ""))
    assert texts[rows.index("dapo"), columns.index("warm-v1")].get_text() == "–"
    texts, _, _ = cells(plots.heat_map(SUMMARY, "unsolved_ratio", ""))
    assert {text.get_text() for text in texts.values()} == {"–"}


def test_heat_map_knows_metrics_at_the_best_rate_and_by_difficulty():
    figure = plots.heat_map(made_summary(metrics=["tuned_accuracy@0.1"]), "tuned_accuracy@0.1", "")
    expected = "Accuracy on prompts that began around 0.1, at its best rate, difference to uniform in points"
    assert figure.get_suptitle().replace("\n", " ").startswith(expected)


def test_ranking_draws_half_the_critical_difference_to_both_sides():
    ranks = pd.DataFrame({"allocator": ["dapo", "uniform", "coba"], "mean_rank": [2.5, 1.25, 2.25]})
    figure = plots.ranking(ranks, 0.8, "made up")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["uniform", "coba", "dapo"]
    bars = [drawn.get_xdata() for drawn in axes.get_lines() if drawn.get_linewidth() == 2.5]
    np.testing.assert_allclose(bars, [[0.85, 1.65], [1.85, 2.65], [2.1, 2.9]])
    assert axes.texts[0].get_text() == "critical difference 0.80"
    assert "rank" in axes.get_xlabel()


def test_ranking_of_one_has_no_bars():
    figure = plots.ranking(pd.DataFrame({"allocator": ["uniform"], "mean_rank": [1.0]}), np.nan, "")
    assert figure.axes[0].texts[:] == []


def test_cost_breakdown_stacks_up_to_all_generated_rollouts():
    values = {"ineffective_ratio": 0.3, "filtered_ratio": 0.2, "held_ratio": 0.1, "wasted_ratio": 0.5}
    values["rollouts_per_step"] = 1000.0
    rng = np.random.default_rng(4)
    rows = [
        (scenario, allocator, replicate, metric, value * rng.uniform(0.9, 1.1))
        for scenario in SCENARIOS
        for allocator in ("uniform", "dapo")
        for metric, value in values.items()
        for replicate in range(REPLICATES)
        if (scenario, allocator) != ("warm-v1", "dapo")
    ]
    table = pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"])
    figure = plots.cost_breakdown(summarise(table), "made up")
    means = table.groupby(["scenario", "allocator", "metric"]).value.mean()["cold-v1"]["dapo"]
    axes = figure.axes[0]
    widths = {bars.get_label(): bars[1].get_width() for bars in axes.containers if hasattr(bars, "patches")}
    assert sum(widths.values()) == pytest.approx(1.0)
    assert widths["filtered groups"] == pytest.approx(means["filtered_ratio"])
    parts = means[["ineffective_ratio", "filtered_ratio", "held_ratio"]].sum()
    assert widths["effective: trained, both rewards"] == pytest.approx(1 - parts)
    assert axes.texts[1].get_text().startswith(f"{means['rollouts_per_step']:.0f} ±")
    assert figure.axes[1].texts[1].get_text() == "not run"
    assert axes.get_xlim() == (0, 1)
    assert figure.axes[1].get_xlabel() == "share of generated rollouts"
    assert legend_of(figure) == [
        "effective: trained, both rewards", "held in buffers", "trained, equal rewards", "filtered groups",
    ]  # fmt: skip
    whisker = axes.collections[0].get_segments()[1][:, 0]
    wasted = table[
        table.metric.eq("wasted_ratio") & table.allocator.eq("dapo") & table.scenario.eq("cold-v1")
    ]
    expected = mean_interval(wasted.value.to_numpy())
    np.testing.assert_allclose(sorted(whisker), [1 - expected.high, 1 - expected.low])


# Predictions


@pytest.mark.parametrize("later", [False, True])
def test_calibration_is_the_ratio_of_sums_in_each_bin(later):
    figure = plots.calibration(JUDGED, "made up")
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
        plots.calibration(made_judged(SCENARIOS), "")


def test_calibration_leaves_empty_bins_out():
    empty = JUDGED.assign(**{"prompts@9": 0.0, "predicted@9": 0.0, "actual@9": 0.0})
    axes = plots.calibration(empty, "").axes[0]
    assert len(line(axes, "later").get_xdata()) == CALIBRATION_BINS - 1


def test_prediction_error_is_a_mean_at_each_step():
    figure = plots.prediction_error(made_judged(SCENARIOS), "made up")
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


# All


FIGURES = {
    "learning_curves": lambda: plots.learning_curves(CURVES, N_STEPS, "rollouts", "made up"),
    "difference_curves": lambda: plots.difference_curves(CURVES, N_STEPS, "tokens", "made up"),
    "allocation_over_time": lambda: plots.allocation_over_time(CURVES, N_STEPS, "made up"),
    "heat_map": lambda: plots.heat_map(SUMMARY, "rollouts_to_90", "made up"),
    "calibration": lambda: plots.calibration(JUDGED, "made up"),
    "prediction_error": lambda: plots.prediction_error(JUDGED, "made up"),
    "cost_breakdown": lambda: plots.cost_breakdown(made_summary(metrics=["rollouts_per_step"]), "made up"),
    "ranking": lambda: plots.ranking(
        pd.DataFrame({"allocator": ["uniform", "dapo"], "mean_rank": [1.0, 2.0]}), 1.2, "made up"
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_has_the_same_bytes(name, tmp_path):
    for again in ("one", "two"):
        (tmp_path / again).mkdir()
        save(FIGURES[name](), tmp_path / again, name)
    for suffix in ("png", "pdf"):
        first, second = ((tmp_path / again / f"{name}.{suffix}").read_bytes() for again in ("one", "two"))
        assert first == second


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_sticks_out_of_the_page(name):
    """At the width of print, with type of 6 points at least."""
    with print_style():
        figure = FIGURES[name]()
        figure.draw_without_rendering()
        inner, page = figure.get_tightbbox(), figure.bbox_inches
        assert page.width <= 6.8
        assert inner.x0 >= -0.02
        assert inner.y0 >= -0.02
        assert inner.x1 <= page.width + 0.02
        assert inner.y1 <= page.height + 0.02
        texts = [text for axes in figure.axes for text in axes.texts]
        assert all(text.get_fontsize() >= 6 for text in texts)


MANY = [*ALLOCATORS, *(name for name in STYLES if name not in ("uniform", "vip", "dapo"))]
THIRTEEN = [f"scenario-{i}-of-many-v1" for i in range(13)]


def test_large_studies_fit():
    table = made_summary(THIRTEEN, MANY, ["rollouts_to_90", "rollouts_per_step", "ineffective_ratio"])
    with print_style():
        for figure in (
            plots.heat_map(table, "rollouts_to_90", "some condition, " * 30),
            plots.cost_breakdown(table, "c"),
        ):
            figure.draw_without_rendering()
            assert figure.get_tightbbox().x1 <= 6.82
    texts, rows, columns = cells(plots.heat_map(table, "rollouts_to_90", ""))
    assert len(texts) == len(rows) * len(columns) == 13 * len(MANY)


@pytest.mark.parametrize("allocators", [("uniform",), ALLOCATORS])
def test_one_scenario_or_one_allocator_is_enough(allocators):
    curves = made_curves(("cold-v1",), allocators)
    steps = {"cold-v1": STEPS}
    table = made_summary(("cold-v1",), allocators, ["rollouts_to_90", "rollouts_per_step"])
    with print_style():
        for figure in (
            plots.learning_curves(curves, steps, "tokens", ""),
            plots.difference_curves(curves, steps, "tokens", ""),
            plots.allocation_over_time(curves, steps, ""),
            plots.heat_map(table, "rollouts_to_90", ""),
            plots.cost_breakdown(table, ""),
        ):
            figure.draw_without_rendering()


def test_an_allocator_that_ran_in_one_scenario_only_is_in_the_legend():
    partly = CURVES[(CURVES.scenario == "warm-v1") | (CURVES.allocator != "dapo")]
    for figure in (
        plots.learning_curves(partly, N_STEPS, "steps", ""),
        plots.difference_curves(partly, N_STEPS, "steps", ""),
        plots.allocation_over_time(partly, N_STEPS, ""),
    ):
        assert "dapo" in legend_of(figure)


# Looks


@pytest.mark.parametrize("styles", [STYLES, PREDICTOR_STYLES], ids=["allocators", "predictors"])
def test_no_two_methods_look_alike(styles):
    specs = [spec for name in styles for spec in (name, f"{name}[a=1]", f"{name}[a=2]")]
    found = looks(specs, styles)
    assert len({(look.color, look.linestyle) for look in found.values()}) == len(specs)
    assert len({(look.color, look.marker) for look in found.values()}) == len(specs)
    assert {look.marker for look in found.values()} <= set(MARKERS)


def test_a_look_depends_neither_on_order_nor_on_other_methods():
    one = looks(["vip[predictor=oracle]", "uniform", "vip[predictor=beta]"])
    other = looks(["dapo", "vip[predictor=beta]", "vip[predictor=oracle]"])
    assert one["vip[predictor=beta]"] == other["vip[predictor=beta]"]
    assert one["vip[predictor=oracle]"] == other["vip[predictor=oracle]"]
    assert (
        to_hex(line(FIGURES["learning_curves"]().axes[0], "dapo").get_color()) == STYLES["dapo"].color.lower()
    )


def test_every_registered_method_has_a_colour():
    assert set(allocators.names()) <= set(STYLES)
    assert set(predictors.names()) <= set(PREDICTOR_STYLES)


def test_profiles_are_shares_of_runs():
    rng = np.random.default_rng(0)
    values = pd.DataFrame(
        [
            {"scenario": s, "allocator": a, "replicate": r, "metric": metric, "value": rng.gamma(4.0)}
            for s in ("one", "two")
            for a in ("uniform", "vip", "dapo")
            for r in range(6)
            for metric in ("area_over_rollouts", "rollouts_to_50")
        ]
    )
    for metric, sign in (("area_over_rollouts", 1), ("rollouts_to_50", -1)):
        axes = plots.profiles(values, metric, "conditions").axes[0]
        line = next(line for line in axes.get_lines() if line.get_label() == "vip")
        x, y = line.get_data()
        here = values[values.metric == metric].set_index(["allocator", "scenario"]).value
        scores = [v / here["uniform", s].mean() for s in ("one", "two") for v in here["vip", s]]
        expected = [np.mean([score**sign >= at for score in scores]) for at in x]
        np.testing.assert_allclose(y, expected)
        assert "uniform" not in [line.get_label() for line in axes.get_lines()]
        assert len(axes.collections) == 2  # the bands
        assert axes.get_xlabel().startswith("times as good as uniform")


# Long names

LONG = (
    "u-shaped-adam-v1[difficulty=beta[alpha=0.412,beta=0.633],noise_ratio=31.2,prompts=64,learning_rate=0.012]",
    "sorting[shortest=2,longest=5,pool_size=200,held_out=64,partial=false,threshold=1.0]",
)
LONG_ALLOCATOR = "vip[predictor=ensemble[base=gp[length_scale=0.5,noise=0.1]],lower=2,upper=16,warm_up=3]"


def drawn_figures(scenarios, allocators):
    curves, summary = made_curves(scenarios, allocators), made_summary(scenarios, allocators)
    parts = made_summary(
        scenarios, allocators, metrics=(*plots.PARTS, "wasted_ratio", "rollouts_per_step")
    ).assign(estimate=0.1)
    steps = dict.fromkeys(scenarios, STEPS)
    yield plots.learning_curves(curves, steps, "rollouts", "")
    yield plots.allocation_over_time(curves, steps, "")
    yield plots.cost_breakdown(parts, "")
    yield plots.heat_map(summary, "rollouts_to_90", "")


def text_of(figure):
    """Every text of a figure, unfolded."""
    return [text.get_text().replace("\n", "") for text in figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("scenarios", [LONG, LONG[:1], [f"{LONG[0]}{i}" for i in range(5)]], ids=len)
def test_long_names_are_folded_and_nothing_is_cut(scenarios):
    """Warnings, as of axes without room, are errors. Nothing that is drawn ends outside the page."""
    for place, figure in enumerate(drawn_figures(scenarios, ("uniform", LONG_ALLOCATOR))):
        with print_style():
            FigureCanvasAgg(figure).draw()
        said = text_of(figure)
        for scenario in scenarios:
            assert any(scenario in text for text in said)
        assert LONG_ALLOCATOR in said
        width, height = figure.bbox.size
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                assert -1 <= box.x0 <= box.x1 <= width + 1, (place, text.get_text())
                assert -1 <= box.y0 <= box.y1 <= height + 1, (place, text.get_text())
        for axes in figure.axes:
            assert axes.get_position().width * width > 60


def test_a_long_legend_is_folded_and_grows_the_figure():
    figure = plots.learning_curves(
        made_curves(allocators=("uniform", 2 * LONG_ALLOCATOR)), N_STEPS, "steps", ""
    )
    short = plots.learning_curves(made_curves(allocators=("uniform", "vip")), N_STEPS, "steps", "")
    assert "\n" in legend_of(figure)[1]
    assert figure.get_figheight() > short.get_figheight() + 0.1


def test_a_value_without_neighbours_is_marked():
    """In the share of prompts that is never solved; no line goes through it."""
    alone = CURVES.copy()
    alone[[count_metric(b) for b in range(1, COUNT_BINS)]] = np.nan
    for name in ALLOCATORS[2:]:
        drawn = line(plots.allocation_over_time(alone, N_STEPS, "").axes[0], name)
        assert 0 in drawn.get_markevery()
        assert np.isfinite(drawn.get_ydata()[0])


def test_where_uniform_stays_at_zero_nothing_is_claimed(tmp_path):
    """Nobody learned: no targets, and profiles that say so."""
    idle = CURVES.assign(accuracy=0.0)
    figure = plots.learning_curves(idle, N_STEPS, "rollouts", "")
    save(figure, tmp_path, "curves")
    assert not [drawn for drawn in figure.axes[0].get_lines() if drawn.get_linestyle() == ":"]
    assert "90%" not in text_of(figure)
    values = pd.DataFrame({"scenario": "a", "allocator": ["uniform", "vip"] * 2, "replicate": [0, 0, 1, 1]})
    values = values.assign(metric="area_over_rollouts", value=0.0)
    profiles = plots.profiles(values, "area_over_rollouts", "")
    save(profiles, tmp_path, "profiles")
    assert "undefined: uniform's is never above 0" in text_of(profiles)
    assert "1 scenario;" in profiles.get_suptitle()


def test_bands_of_two_seeds_do_not_dwarf_the_lines():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0.0, 10.0])
    axes.fill_between([0, 1], [-300.0, -300.0], [5.0, 12.0])
    plots._keep_means_readable(axes)
    assert axes.get_ylim()[0] == -10
    assert 12 < axes.get_ylim()[1] <= 20


def test_ordinary_bands_are_left_as_they_are():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0.0, 10.0])
    axes.fill_between([0, 1], [-1.0, 8.0], [1.0, 12.0])
    before = axes.get_ylim()
    plots._keep_means_readable(axes)
    assert axes.get_ylim() == before
