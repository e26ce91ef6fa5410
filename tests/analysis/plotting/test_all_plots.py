"""What holds of all figures: they fit their page, repeat to the byte, and take long names and little data."""

import pandas as pd
import pytest
from made_up import (
    ALLOCATORS,
    CURVES,
    JUDGED,
    LONG_ALLOCATOR,
    N_STEPS,
    STEPS,
    SUMMARY,
    made_curves,
    made_summary,
    text_of,
)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from rolloutbench.allocators import allocators as registry
from rolloutbench.analysis.plotting.costs import PARTS, cost_breakdown
from rolloutbench.analysis.plotting.curves import allocation_over_time, difference_curves, learning_curves
from rolloutbench.analysis.plotting.panels import save
from rolloutbench.analysis.plotting.prediction import calibration, prediction_error
from rolloutbench.analysis.plotting.scenarios import heat_map, profiles, ranking
from rolloutbench.analysis.plotting.style import print_style

pytestmark = pytest.mark.slow

FIGURES = {
    "learning_curves": lambda: learning_curves(CURVES, N_STEPS, "rollouts", "made up"),
    "difference_curves": lambda: difference_curves(CURVES, N_STEPS, "tokens", "made up"),
    "allocation_over_time": lambda: allocation_over_time(CURVES, N_STEPS, "made up"),
    "heat_map": lambda: heat_map(SUMMARY, "rollouts_to_90", "made up"),
    "calibration": lambda: calibration(JUDGED, "made up"),
    "prediction_error": lambda: prediction_error(JUDGED, "made up"),
    "cost_breakdown": lambda: cost_breakdown(made_summary(metrics=["rollouts_per_step"]), "made up"),
    "ranking": lambda: ranking(
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
    """At the width of print, with type of 7 points at least."""
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
        assert all(text.get_fontsize() >= 7 for text in texts)


MANY = [*ALLOCATORS, *(name for name in registry.builtin if name not in ("uniform", "vip", "dapo"))]


THIRTEEN = [f"scenario-{i}-of-many-v1" for i in range(13)]


def test_large_studies_fit():
    table = made_summary(THIRTEEN, MANY, ["rollouts_to_90", "rollouts_per_step", "ineffective_ratio"])
    with print_style():
        for figure in (
            heat_map(table, "rollouts_to_90", "some condition, " * 30),
            cost_breakdown(table, "c"),
        ):
            figure.draw_without_rendering()
            assert figure.get_tightbbox().x1 <= 6.82
    axes = heat_map(table, "rollouts_to_90", "").axes[0]
    assert len(axes.texts) - 1 == 14 * len(MANY)  # the cells, a mean rank for each row, and their heading


@pytest.mark.parametrize("allocators", [("uniform",), ALLOCATORS])
def test_one_scenario_or_one_allocator_is_enough(allocators):
    curves = made_curves(("cold-v1",), allocators)
    steps = {"cold-v1": STEPS}
    table = made_summary(("cold-v1",), allocators, ["rollouts_to_90", "rollouts_per_step"])
    with print_style():
        for figure in (
            learning_curves(curves, steps, "tokens", ""),
            difference_curves(curves, steps, "tokens", ""),
            allocation_over_time(curves, steps, ""),
            heat_map(table, "rollouts_to_90", ""),
            cost_breakdown(table, ""),
        ):
            figure.draw_without_rendering()


LONG = (
    "u-shaped-adam-v1[difficulty=beta[alpha=0.412,beta=0.633],noise_ratio=31.2,prompts=64,learning_rate=0.012]",
    "sorting[shortest=2,longest=5,pool_size=200,held_out=64,partial=false,threshold=1.0]",
)


def drawn_figures(scenarios, allocators):
    curves, summary = made_curves(scenarios, allocators), made_summary(scenarios, allocators)
    parts = made_summary(scenarios, allocators, metrics=(*PARTS, "wasted_ratio", "rollouts_per_step")).assign(
        estimate=0.1
    )
    steps = dict.fromkeys(scenarios, STEPS)
    yield learning_curves(curves, steps, "rollouts", "")
    yield allocation_over_time(curves, steps, "")
    yield cost_breakdown(parts, "")
    yield heat_map(summary, "rollouts_to_90", "")


@pytest.mark.parametrize("scenarios", [LONG, LONG[:1], [f"{LONG[0]}{i}" for i in range(5)]], ids=len)
def test_long_names_are_folded_and_nothing_is_cut(scenarios):
    """Warnings, as of axes without room, are errors. Nothing that is drawn ends outside the page."""
    for place, figure in enumerate(drawn_figures(scenarios, ("uniform", LONG_ALLOCATOR))):
        with print_style():
            figure.entitle("A title, as every figure of a study has it")
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


def test_where_uniform_stays_at_zero_nothing_is_claimed(tmp_path):
    """Nobody learned: no targets, and profiles that say so."""
    idle = CURVES.assign(accuracy=0.0)
    figure = learning_curves(idle, N_STEPS, "rollouts", "")
    save(figure, tmp_path, "curves")
    assert not [drawn for drawn in figure.axes[0].get_lines() if drawn.get_linestyle() == ":"]
    assert "90%" not in text_of(figure)
    values = pd.DataFrame({"scenario": "a", "allocator": ["uniform", "vip"] * 2, "replicate": [0, 0, 1, 1]})
    values = values.assign(metric="area_over_rollouts", value=0.0)
    figure = profiles(values, "area_over_rollouts", "")
    save(figure, tmp_path, "profiles")
    assert "undefined: uniform's is never above 0" in text_of(figure)
    assert "1 scenario;" in figure.caption
