"""Lines with bands: the means over replicates that the figures of curves, scenarios and predictions show."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rolloutbench.analysis.pictures import MOST_STRONG
from rolloutbench.analysis.plotting.panels import fitted
from rolloutbench.analysis.plotting.style import Look
from rolloutbench.analysis.statistics import mean_interval
from rolloutbench.analysis.yardsticks import is_yardstick
from rolloutbench.protocol import FloatArray

GRID = 101
"""Positions at which a line is drawn, its ends included."""
PALE = 0.35
"""Opacity of the curves that do not stand out."""
ROOMY = 1.2
"""Width in inches of a panel that has room for names beside its lines."""
FLAT = 0.1
"""Beside lines that cover no more of their panel's height there is room for names."""
SAME = 0.012
"""Lines coincide that are nowhere further apart than this share of their panel's height."""


def draw_mean(
    axes: Axes,
    at: FloatArray,
    values: FloatArray,
    name: str,
    look: Mapping[str, Look],
    every: float = GRID / 5,
    partly: bool = False,
    strong: bool = True,
) -> None:
    """Draw the mean over replicates of values (R, A) at positions (A,), with a band of its 95% interval.

    A position at which a replicate has no value is left out, or with `partly` the mean is over those that
    have one. About every so many positions stands a marker; those of different lines stand apart. A line
    that is not `strong` is pale, thin and without its band.
    """
    if not partly:
        values = np.where(np.isnan(values).any(axis=0), np.nan, values)
    mean, low, high = mean_interval(values.T)
    style = look[name]
    thin = is_yardstick(name) or not strong
    place = list(look).index(name) / len(look)
    start, step = int(place * every), max(int(every), 1)  # markers of different lines stand apart
    there = np.pad(np.isfinite(mean), 1)
    alone = np.flatnonzero(there[1:-1] & ~there[:-2] & ~there[2:])  # no line goes through these
    marked = (start, step) if not len(alone) else sorted({*range(start, len(at), step), *alone.tolist()})
    axes.plot(
        at,
        mean,
        color=style.color,
        ls=style.linestyle,
        lw=0.8 if thin else 1.2,
        marker=style.marker,
        ms=(2.2 if thin else 3) * (1.5 if style.marker == "*" else 1),
        mew=0,
        markevery=marked,
        label=name,
        alpha=1.0 if strong else PALE,
        zorder=2 if strong else 1.5,
    )
    if strong:
        alpha = max(0.08, min(0.15, 1 / len(look)))
        axes.fill_between(at, low, high, color=style.color, alpha=alpha, lw=0)


def pale_said(names: Sequence[str], strong: Container[str]) -> str:
    """A sentence for a caption that names the pale curves; none where there are none."""
    pale = [name for name in names if name not in strong]
    if not pale:
        return ""
    return (
        f"Pale, and without intervals so that the {len(names) - len(pale)} that stand out can be read: "
        f"{', '.join(pale)}."
    )


def legend_entries(
    panels: Mapping[str, Axes] | Mapping[int, Axes], names: Iterable[str]
) -> dict[str, Artist]:
    """The entries of a legend: a handle for each of the names that is drawn in some panel, pale ones last.

    Many pale ones have one entry together.
    """
    found: dict[str, Artist] = {}
    for axes in panels.values():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    known = [name for name in names if name in found]
    pale = [name for name in known if found[name].get_alpha() == PALE]
    entries = {name: found[name] for name in known if name not in pale}
    if len(pale) > MOST_STRONG:
        return {**entries, f"{len(pale)} others": Line2D([], [], color="0.5", lw=0.8, alpha=PALE)}
    return entries | {name: found[name] for name in pale}


def name_coinciding(panels: Iterable[Axes], inches: float) -> str:
    """Write the names of lines that lie on one another above or below them, where there is more room.

    In a row of panels, each `inches` wide, the same names are written once. Where panels have no room for
    names, or lines are not flat, they are in the answer, a sentence for the caption. Call it when the limits
    of the axes are final.
    """
    named: list[list[str]] = []
    unwritten: list[str] = []
    for axes in panels:
        lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        heights = {line: _heights(axes, line) for line in lines}
        for group in _groups(heights):
            names = [str(line.get_label()) for line in group]
            if names in named:
                continue
            named.append(names)
            if inches < ROOMY or np.nanmax(heights[group[0]]) - np.nanmin(heights[group[0]]) > FLAT:
                unwritten.append(" = ".join(names))
                continue
            others = [heights[line] for line in lines if line not in group]
            x, y = (np.asarray(of, dtype=np.float64) for of in group[0].get_data())
            above = _room(heights[group[0]], others, 1) >= _room(heights[group[0]], others, -1)
            text, _ = fitted(" = ".join(names), 0.9 * inches, 7)
            label = axes.annotate(
                text, (float(x.mean()), float(np.nanmedian(y))), (0, 2 if above else -2),
                textcoords="offset points", ha="center", va="bottom" if above else "top", fontsize=7,
                linespacing=1.0, bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.5},
            )  # fmt: skip
            label.set_in_layout(False)
    return f"On one line: {'; '.join(unwritten)}." if unwritten else ""


def _groups(heights: Mapping[Line2D, FloatArray]) -> list[list[Line2D]]:
    """Lines that lie on the first of their group; those that lie on none are in no group."""
    groups: list[list[Line2D]] = []
    for line, here in heights.items():
        group = next((group for group in groups if _coincide(heights[group[0]], here)), None)
        if group is None:
            groups.append([line])
        else:
            group.append(line)
    return [group for group in groups if len(group) > 1]


def _heights(axes: Axes, line: Line2D) -> FloatArray:
    """Heights of a line's points as shares of its panel's, NaN where it has none."""
    points = np.column_stack(
        [np.asarray(of, dtype=np.float64) for of in (line.get_xdata(), line.get_ydata())]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: FloatArray = (axes.transScale + axes.transLimits).transform(points)[:, 1]
    return shares


def _coincide(one: FloatArray, other: FloatArray) -> bool:
    """Whether two lines have as many points, and nearly at the same heights where both have one."""
    if len(one) != len(other):
        return False
    there = np.isfinite(one) & np.isfinite(other)
    return bool(there.sum() > 1 and np.abs(one[there] - other[there]).max() < SAME)


def _room(here: FloatArray, others: list[FloatArray], side: int) -> float:
    """How far the next line is above (side 1) or below (-1) a line's middle part, in panel heights."""
    middle = slice(len(here) // 5, len(here) - len(here) // 5)
    apart = [side * (other - here)[middle] for other in others if len(other) == len(here)]
    rim = (1 - here if side > 0 else here)[middle]
    return float(min(np.nanmin(np.where(one > SAME, one, np.inf), initial=1.0) for one in [rim, *apart]))
