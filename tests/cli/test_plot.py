"""Figures of a study for a paper: drawn from its record by the command, at the width that a column has."""

import re
from pathlib import Path

import pytest
from command_line import run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

import rolloutbench as rb
from rolloutbench.analysis.plotting.lines import PALE

RESULTS = Path(__file__).parents[2] / "results"
WHOLE, TRIMMED = RESULTS / "learning_default", RESULTS / "learning_all"
KINDS = ["learning_default", "learning_all", "snapshot_default", "real_sorting", "vip_prediction"]
"""Recorded studies of every kind, some without the tables of their curves."""


def drawable(study):
    results = rb.open_results(RESULTS / study)
    return [plot.name for plot in results.figures() if not results.lacks_for(plot)]


def inches(path):
    """Width of a picture in inches, read from its file."""
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return picture.width / picture.info["dpi"][0]
    pattern = {
        ".pdf": rb"/MediaBox \[ 0 0 ([\d.]+)",
        ".svg": rb'<svg [^>]*width="([\d.]+)pt"',
    }[path.suffix]
    return float(re.search(pattern, path.read_bytes())[1]) / 72


def test_a_picture_has_the_width_of_a_column_in_every_format(tmp_path):
    done = run(
        f"plot {TRIMMED} ranking --width 3.3 --no-title -a vip -a mopps --allocators uniform,coba "
        f"--format pdf --format png --format svg --out {tmp_path}"
    )
    assert done.code == 0, done.err
    paths = [tmp_path / f"ranking.{kind}" for kind in ("pdf", "png", "svg")]
    assert done.out.split() == [*map(str, paths), str(tmp_path / "ranking.txt")]
    for path in paths:
        assert inches(path) == pytest.approx(3.3, abs=0.01)
    title, conditions = (tmp_path / "ranking.txt").read_text().split("\n\n")
    assert title == "Mean ranks over all scenarios"
    assert "seed 0" in conditions
    assert re.search(r"Ranks are among all \d+\.", conditions)


def test_the_same_command_writes_the_same_bytes_and_so_does_python(tmp_path):
    for again in ("one", "two"):
        done = run(f"plot {WHOLE} cost_breakdown --width 5 -f svg -f pdf -f png --out {tmp_path / again}")
        assert done.code == 0, done.err
    from rolloutbench.analysis.plotting.panels import save

    figure = rb.open_results(WHOLE).figure("cost_breakdown", width=5)
    (tmp_path / "python").mkdir()
    save(figure, tmp_path / "python", "cost_breakdown", ["svg", "pdf", "png"])
    first, second, third = (
        {path.name: path.read_bytes() for path in (tmp_path / where).iterdir()}
        for where in ("one", "two", "python")
    )
    assert first == second == third
    assert len(first) == 4


@pytest.mark.parametrize("arguments", ["", " --list"])
def test_what_can_be_drawn_is_listed_with_one_line_each(arguments):
    done = run(f"plot {TRIMMED}{arguments}")
    assert done.code == 0, done.err
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["ranking"] == "Mean ranks over all scenarios"
    assert lines["accuracy_over_rollouts"] == "cannot be drawn: this record has no table 'curves'"
    assert {name for name, said in lines.items() if "cannot" not in said} == set(drawable("learning_all"))


@pytest.mark.slow
@pytest.mark.parametrize("study", KINDS)
def test_every_figure_of_a_study_can_be_read_in_a_column(study):
    results = rb.open_results(RESULTS / study)
    for name in drawable(study):
        figure = results.figure(name, width=3.3)
        FigureCanvasAgg(figure).draw()
        assert figure.get_figwidth() == 3.3
        shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(text.get_fontsize() for text in shown) >= 7, name
        assert "\n" not in figure.get_suptitle(), name
        for axes in figure.axes:
            strong = [
                line for line in axes.get_lines() if line.get_label()[0] != "_" and line.get_alpha() != PALE
            ]
            assert len(strong) <= 6, name
        for text in (*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())):
            box = text.get_window_extent()
            assert -1 <= box.x0 <= box.x1 <= figure.bbox.width + 1, (name, text.get_text())


def test_only_what_is_asked_for_is_drawn_and_its_numbers_are_the_same():
    results = rb.open_results(WHOLE)
    whole = results.figure("difference_over_rollouts")
    part = results.figure(
        "difference_over_rollouts", title=False, allocators=["mopps", "dapo"], scenarios=["u-shaped-v1"]
    )
    (axes,) = part.axes
    assert part.get_suptitle() == ""
    every = next(of for of in whole.axes if of.get_title() == "u-shaped-v1")
    drawn = {line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"}
    assert set(drawn) == {"mopps", "dapo"}
    for line in every.get_lines():
        if line.get_label() in drawn:
            found = drawn[line.get_label()]
            assert found.get_xydata().tolist() == line.get_xydata().tolist()
            assert (found.get_color(), found.get_marker()) == (line.get_color(), line.get_marker())
    ranks = [
        {
            label.get_text(): line.get_xdata()[0]
            for label, line in zip(axes.get_yticklabels(), dots, strict=True)
        }
        for figure in (results.figure("ranking"), results.figure("ranking", allocators=["mopps", "dapo"]))
        for axes in figure.axes
        for dots in [[line for line in axes.get_lines() if line.get_marker() not in ("None", "", "|")]]
    ]
    assert ranks[1] == {name: ranks[0][name] for name in ("mopps", "dapo")}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (f"{TRIMMED} accuracy_over_rollouts", "has no table 'curves'; rolloutbench compare --config"),
        (f"{TRIMMED} rankin", "figure rankin: there is none: did you mean ranking"),
        (f"{TRIMMED} ranking -a vipp", "allocator vipp: did you mean vip"),
        (f"{TRIMMED} ranking -s u-shaped-v1", "figure ranking: is of all scenarios at once"),
        (f"{TRIMMED} cost_breakdown -s u-shapd-v1", "scenario u-shapd-v1: did you mean u-shaped-v1"),
        (f"{TRIMMED} ranking --width 1", "width=1: 2.5 to 20 inches are expected"),
        (f"{TRIMMED} ranking --width nan", "width=nan: 2.5 to 20 inches are expected"),
        (f"{TRIMMED} ranking --format gif", "'gif'"),
        (f"{RESULTS / 'vip_prediction'} calibration_weak-cold-v1[steps=66,pool_size=4224]", "no prompts@0"),
        (f"{RESULTS / 'nowhere'} ranking", "nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments, said, tmp_path):
    done = run(f"plot {arguments} --out {tmp_path / 'out'}")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
