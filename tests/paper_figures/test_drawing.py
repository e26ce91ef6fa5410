"""Layouts draw what stands in their table, all of it, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from drawn import numbers

from paper_figures.drawing import COLUMNS, OURS, PUBLISHED, Curves, Rows
from paper_figures.series import along, between, by_success, compared, exact, rows
from paper_figures.sources import as_published
from rolloutbench.analysis.curves import LearningCurves
from rolloutbench.analysis.statistics import Interval
from rolloutbench.cells.collectors import REFERENCE

RNG = np.random.default_rng(0)


def curve_table(points=5, series=("uniform", "vip")):
    parts = [as_published("left", "uniform", np.arange(float(points)), RNG.random(points))]
    for panel in ("left", "right"):
        for name in series:
            value = RNG.random(points)
            parts.append(
                rows(panel, name, np.arange(float(points)), Interval(value, value - 0.1, value + 0.2))
            )
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("points", [5, 60])
def test_curves_show_their_table(points):
    table = curve_table(points)
    figure = Curves("steps", "share").draw(table, ["A title", "conditions"])
    pd.testing.assert_frame_equal(
        numbers(figure, Curves), table.drop(columns=["low", "high"]), check_like=True
    )
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("left", "right")
    assert left.get_xlabel() == right.get_xlabel() == "steps"
    assert [text.get_text() for text in figure.legends[0].texts] == ["uniform", "vip", "uniform (published)"]
    grey, ours = left.get_lines()[:2]
    assert grey.get_color() != ours.get_color()
    assert grey.get_linestyle() == ours.get_linestyle()


def test_intervals_are_drawn():
    table = curve_table(5)
    (left, _) = Curves("x", "y").draw(table, [""]).axes
    ends = np.sort([segment[:, 1] for found in left.collections for segment in found.get_segments()], axis=0)
    ours = table[(table.panel == "left") & (table.source == OURS)]
    assert np.allclose(ends, np.sort(ours[["low", "high"]].to_numpy(), axis=0))
    (left, _) = Curves("x", "y").draw(curve_table(60), [""]).axes
    assert len(left.collections) == 2  # bands


def test_rows_show_their_table():
    names = ["vip", "dapo", "ar3po"]
    parts = [
        rows("p", name, [name], Interval(*np.array([[0.5], [0.4], [0.7]]) + i))
        for i, name in enumerate(names)
    ]
    parts += [as_published("p", "dapo", ["dapo"], [9.0]), exact("p", "dapo", ["only this"], [2.0])]
    table = pd.concat(parts, ignore_index=True)
    layout = Rows("ratio", level=1.0)
    figure = layout.draw(table, ["T"])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [*names, "only this"]
    found = numbers(figure, Rows).sort_values(["source", "x"], ignore_index=True)
    wanted = table.drop(columns=["low", "high"]).sort_values(["source", "x"], ignore_index=True)
    pd.testing.assert_frame_equal(found, wanted, check_like=True)
    spans = [segment[:, 0] for lines in axes.collections for segment in lines.get_segments()]
    assert any(np.allclose(span, [1.4, 1.7]) for span in spans)


def test_a_panel_can_have_rows_of_its_own():
    table = pd.concat([exact("a", "vip", ["one", "two"], [1, 2]), exact("b", "vip", ["three"], [3])])
    first, second = Rows("x").draw(table, ["T"]).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["one", "two"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["three"]


def learning_curves():
    """Two replicates of two allocators: 10 and 20 rollouts a step, half and a quarter of them rewarded."""
    parts = []
    for name, per_step, share in (("uniform", 10, 0.5), ("vip", 20, 0.25), (REFERENCE, 10, 0.5)):
        for replicate in range(2):
            steps = np.arange(0, 11, 5.0)
            rollouts = per_step * steps + replicate * steps
            sums = {"rollouts": rollouts, "rewarded": share * rollouts, "accuracy": 0.1 + 0.01 * steps}
            told = {"scenario": "s", "allocator": name, "rate": 1.0, "replicate": replicate, "steps": steps}
            counts = {"counts@0.025": per_step, "counts@0.975": [np.nan, np.nan, 3.0]}
            parts.append(pd.DataFrame({**told, **sums, **counts}))
    return pd.concat(parts, ignore_index=True)


def run_of(allocator):
    curves = learning_curves()
    return LearningCurves(curves[curves.allocator == allocator])


def test_growth_between_evaluations():
    found = between(run_of("vip"), "p", "vip", "rewarded", "rollouts")
    assert found.x.tolist() == [5, 10]
    assert found.value.tolist() == pytest.approx([0.25, 0.25])
    per_prompt = between(run_of("uniform"), "p", "uniform", "rollouts", 2, steps=5)
    assert per_prompt.x.tolist() == [5]
    assert per_prompt.value.tolist() == pytest.approx([(10 + 11) / 2 / 2])


def test_along_an_axis_as_far_as_all_went():
    run = run_of("uniform")  # 100 and 110 rollouts
    found = along(run, "p", "uniform", run["accuracy"], "rollouts", 120, points=13)
    assert found.x.max() == 100
    assert found.value.iloc[-1] == pytest.approx((0.2 + 0.1 + 0.1 * 100 / 110) / 2)


def test_counts_by_success():
    found = by_success(learning_curves(), "s", 10, {"all": (0, 1), "late": (0.5, 1)})
    assert REFERENCE not in set(found.series)
    late = found[(found.panel == "late") & (found.series == "vip")]
    assert late.x.tolist() == [0.025, 0.975]
    assert late.value.tolist() == [20, 3]


def test_compared_is_paired():
    values = pd.DataFrame(
        [
            {"scenario": "s", "allocator": name, "replicate": r, "metric": "m", "value": base * (r + 1)}
            for name, base in (("uniform", 2.0), ("vip", 3.0))
            for r in range(4)
        ]
    )
    ratio = compared(values, "m", allocators=["vip"], panels={"s": "plain words"})
    assert ratio[["panel", "x", "value", "low", "high"]].to_numpy().tolist() == [
        ["plain words", "vip", 1.5, 1.5, 1.5]
    ]
    difference = compared(values, "m", "difference", allocators=["vip"])
    assert difference.value.tolist() == [2.5]
    assert difference.low.item() < 2.5 < difference.high.item()
    assert compared(values, "m", "value").value.tolist() == [5.0, 7.5]
    assert list(ratio.columns) == list(COLUMNS)
    assert set(ratio.source) == {OURS}
    assert set(as_published("p", "vip", [1], [2.0]).source) == {PUBLISHED}
