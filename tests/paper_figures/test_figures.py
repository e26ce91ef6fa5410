"""Every figure from recorded results: what is drawn is its CSV, and its CSV is the recorded one."""

import numpy as np
import pandas as pd
import pytest
from drawn import numbers
from matplotlib.backends.backend_agg import FigureCanvasAgg

from paper_figures.drawing import COLUMNS, OURS, PUBLISHED
from paper_figures.gallery import FIGURES, PAPERS, choose, runnable_studies
from paper_figures.sources import RESULTS, STUDIES, Sources
from rolloutbench.analysis.pictures import COLUMN, WIDE
from rolloutbench.analysis.plotting.style import print_style
from rolloutbench.cells.store import read_manifest

SOURCES = Sources(quick=True)
RECORDED = RESULTS / "figures"
BY_STUDY = [name for name, figure in FIGURES.items() if figure.studies]


def shown(table):
    """Panel, series, source, x and value, in one order, as numbers may be written."""
    table = table[["panel", "series", "source", "x", "value"]].dropna(subset="value")
    table = table.assign(x=table.x.map(lambda x: f"{x:.5g}" if isinstance(x, float | int) else str(x)))
    return table.sort_values(["panel", "source", "series", "x", "value"], ignore_index=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_its_table(name):
    figure = FIGURES[name]
    table = figure.read_from(SOURCES)
    assert list(table.columns) == list(COLUMNS)
    assert set(table.source) <= {OURS, PUBLISHED}
    assert table.value.notna().any()
    within = table.dropna(subset=["low", "high"])
    slack = 1e-9 * within.value.abs()
    assert ((within.low <= within.value + slack) & (within.value <= within.high + slack)).all()

    with print_style():
        drawn = figure.layout.draw(table, figure.small_print(SOURCES))
        canvas = FigureCanvasAgg(drawn)
        canvas.draw()
    pd.testing.assert_frame_equal(shown(numbers(drawn, type(figure.layout))), shown(table), rtol=1e-6)
    for axes in drawn.axes:
        assert axes.get_title(), "a panel without a title"
    assert any(axes.get_xlabel() for axes in drawn.axes)
    assert round(drawn.get_figwidth(), 2) in (COLUMN, WIDE)
    assert drawn.get_figheight() < 10  # a page
    inside = drawn.bbox.padded(2)
    for axis in (axis for axes in drawn.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick, text in zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False):
            box = text.get_window_extent(canvas.get_renderer())
            if low <= tick <= high and text.get_text() and box.width > 0:
                assert inside.x0 <= box.x0, text.get_text()
                assert box.x1 <= inside.x1, text.get_text()


@pytest.mark.parametrize("name", BY_STUDY)
def test_the_recorded_figure_is_made_of_the_recorded_study(name):
    recorded = pd.read_csv(RECORDED / f"{name}.csv")
    again = FIGURES[name].read_from(SOURCES)
    assert len(recorded) == len(again)
    keys = ["panel", "series", "source"]
    assert (recorded[keys].astype(str).to_numpy() == again[keys].astype(str).to_numpy()).all()
    for column in ("value", "low", "high"):
        assert np.allclose(recorded[column], again[column], rtol=1e-3, atol=1e-6, equal_nan=True), column


def test_all_figures_are_recorded():
    assert {path.stem for path in RECORDED.glob("*.png")} == set(FIGURES)
    page = (RECORDED / "README.md").read_text()
    assert all(f"![{name}]({name}.png)" in page for name in FIGURES)


def test_names():
    assert [figure.name for figure in choose(["dapo", "vip_fig2"])][-1] == "vip_fig2"
    assert len(choose([])) == len(FIGURES) == sum(map(len, PAPERS.values()))
    for paper, figures in PAPERS.items():
        assert all(figure.name.startswith(f"{paper}_") for figure in figures)


@pytest.mark.parametrize("study", runnable_studies(FIGURES.values()))
def test_every_study_is_recorded_with_its_command(study):
    said = read_manifest(RESULTS / study).study
    assert said["machine"]["cores"]
    assert said["commit"]
    assert not said["commit"].endswith("+")
    assert (STUDIES / f"{study}.toml").is_file()
