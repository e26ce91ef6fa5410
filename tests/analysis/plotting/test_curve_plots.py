"""Figures of training runs plot what pandas computes, and say what it is."""

import numpy as np
import pytest
from made_up import (
    ALLOCATORS,
    CURVES,
    LONG_ALLOCATOR,
    N_STEPS,
    SCENARIOS,
    STEPS,
    bands,
    legend_of,
    line,
    made_curves,
    spread,
)
from matplotlib.figure import Figure

from rolloutbench.analysis.metrics import AXES
from rolloutbench.analysis.pictures import Page
from rolloutbench.analysis.plotting import curves
from rolloutbench.analysis.statistics import mean_interval
from rolloutbench.cells.collectors import COUNT_BINS, REFERENCE, count_metric


@pytest.mark.parametrize("axis", AXES)
def test_learning_curves_are_mean_gains_up_to_what_the_reference_spent(axis):
    figure = curves.learning_curves(CURVES, N_STEPS, axis, "made up")
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
    assert "60 steps" in figure.caption
    assert "made up" in figure.caption


def test_all_but_the_reference_are_drawn_with_a_band():
    figure = curves.learning_curves(CURVES, N_STEPS, "rollouts", "")
    assert legend_of(figure) == list(ALLOCATORS)
    assert all(len(bands(axes)) == len(ALLOCATORS) for axes in figure.axes)


def test_a_line_ends_with_the_shortest_replicate():
    ended = CURVES[~((CURVES.allocator == "dapo") & (CURVES.replicate == 2) & (CURVES.steps > 30))]
    for draw in (curves.learning_curves, curves.difference_curves):
        x, y = line(draw(ended, N_STEPS, "steps", "").axes[0], "dapo").get_data()
        np.testing.assert_array_equal(np.isnan(y), x > 30)


def test_difference_curves_are_paired():
    figure = curves.difference_curves(CURVES, N_STEPS, "steps", "made up")
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
    axes = curves.difference_curves(fewer, N_STEPS, "steps", "").axes[0]
    here = fewer[(fewer.scenario == SCENARIOS[0]) & (fewer.steps == 30)]
    wide = here.pivot(index="replicate", columns="allocator", values="accuracy")
    x, y = line(axes, "dapo").get_data()
    assert y[np.isclose(x, 30)][0] == pytest.approx(100 * (wide["dapo"] - wide["uniform"]).mean())


def test_curves_need_their_reference():
    with pytest.raises(ValueError, match=r"cold-v1 has no run called \(reference\)"):
        curves.learning_curves(CURVES[CURVES.allocator != REFERENCE], N_STEPS, "steps", "")


def test_allocation_over_time_is_a_mean_over_each_third():
    holes = CURVES.copy()
    holes.loc[(holes.steps == 10) & (holes.replicate == 1), count_metric(3)] = np.nan
    figure = curves.allocation_over_time(holes, N_STEPS, "made up")
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


def test_an_allocator_that_ran_in_one_scenario_only_is_in_the_legend():
    partly = CURVES[(CURVES.scenario == "warm-v1") | (CURVES.allocator != "dapo")]
    for figure in (
        curves.learning_curves(partly, N_STEPS, "steps", ""),
        curves.difference_curves(partly, N_STEPS, "steps", ""),
        curves.allocation_over_time(partly, N_STEPS, ""),
    ):
        assert "dapo" in legend_of(figure)


def test_a_long_legend_is_folded_and_grows_the_figure():
    figure = curves.learning_curves(
        made_curves(allocators=("uniform", 2 * LONG_ALLOCATOR)), N_STEPS, "steps", ""
    )
    short = curves.learning_curves(made_curves(allocators=("uniform", "vip")), N_STEPS, "steps", "")
    assert "\n" in legend_of(figure)[1]
    assert figure.get_figheight() > short.get_figheight() + 0.1


def test_lines_that_coincide_are_named_together():
    """Beside flat lines in the panel, in the caption where the panel is too narrow."""
    flat = CURVES.copy()
    flat.loc[flat.allocator.isin(["uniform", "dapo"]), [count_metric(b) for b in range(COUNT_BINS)]] = 8.0
    figure = curves.allocation_over_time(flat, N_STEPS, "")
    said = [text.get_text().replace("\n", " ") for axes in figure.axes for text in axes.texts]
    assert said == ["uniform = dapo"] * len(SCENARIOS)  # once in each row
    assert "uniform = dapo" not in figure.caption
    narrow = curves.allocation_over_time(flat, N_STEPS, "", Page(3.3))
    assert not any(axes.texts for axes in narrow.axes)
    assert "On one line: uniform = dapo." in narrow.caption
    assert not any(axes.texts for axes in curves.allocation_over_time(CURVES, N_STEPS, "").axes)


def test_six_curves_stand_out_and_the_others_are_pale():
    many = ("uniform", *(f"vip[lower={number}]" for number in range(7)))
    page = Page(ranked=("uniform", *reversed(many[1:])))
    figure = curves.learning_curves(made_curves(allocators=many), N_STEPS, "rollouts", "", page)
    strong = [many[0], *reversed(many[-5:])]
    for axes in figure.axes:
        assert len(bands(axes)) == 6
        for name in many:
            assert (line(axes, name).get_alpha() == 1) == (name in strong)
    assert legend_of(figure)[-2:] == list(many[1:3])
    assert f"stand out can be read: {many[1]}, {many[2]}." in figure.caption
    only = curves.learning_curves(made_curves(allocators=many), N_STEPS, "rollouts", "", Page(only=many[1:3]))
    assert legend_of(only) == list(many[1:3])
    assert len(bands(only.axes[0])) == 2


def test_a_value_without_neighbours_is_marked():
    """In the share of prompts that is never solved; no line goes through it."""
    alone = CURVES.copy()
    alone[[count_metric(b) for b in range(1, COUNT_BINS)]] = np.nan
    for name in ALLOCATORS[2:]:
        drawn = line(curves.allocation_over_time(alone, N_STEPS, "").axes[0], name)
        assert 0 in drawn.get_markevery()
        assert np.isfinite(drawn.get_ydata()[0])


def test_bands_of_two_seeds_do_not_dwarf_the_lines():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0.0, 10.0])
    axes.fill_between([0, 1], [-300.0, -300.0], [5.0, 12.0])
    curves._keep_means_readable(axes)
    assert axes.get_ylim()[0] == -10
    assert 12 < axes.get_ylim()[1] <= 20


def test_ordinary_bands_are_left_as_they_are():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0.0, 10.0])
    axes.fill_between([0, 1], [-1.0, 8.0], [1.0, 12.0])
    before = axes.get_ylim()
    curves._keep_means_readable(axes)
    assert axes.get_ylim() == before
