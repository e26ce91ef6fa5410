"""Lines with bands: the means over replicates that the figures of curves, scenarios and predictions show."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from rolloutbench.analysis.plotting.style import Look
from rolloutbench.analysis.statistics import mean_interval
from rolloutbench.analysis.yardsticks import is_yardstick
from rolloutbench.protocol import FloatArray

GRID = 101
"""Positions at which a line is drawn, its ends included."""


def draw_mean(
    axes: Axes,
    at: FloatArray,
    values: FloatArray,
    name: str,
    look: dict[str, Look],
    every: float = GRID / 5,
    partly: bool = False,
) -> None:
    """Draw the mean over replicates of values (R, A) at positions (A,), with a band of its 95% interval.

    A position at which a replicate has no value is left out, or with `partly` the mean is over those that
    have one. About every so many positions stands a marker; those of different lines stand apart.
    """
    if not partly:
        values = np.where(np.isnan(values).any(axis=0), np.nan, values)
    mean, low, high = mean_interval(values.T)
    style = look[name]
    thin = is_yardstick(name)
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
    )
    axes.fill_between(at, low, high, color=style.color, alpha=max(0.08, min(0.15, 1 / len(look))), lw=0)


def legend_entries(panels: dict[str, Axes] | dict[int, Axes], names: Iterable[str]) -> dict[str, Artist]:
    """The entries of a legend: a handle for each of the names that is drawn in some panel."""
    found: dict[str, Artist] = {}
    for axes in panels.values():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return {name: found[name] for name in names if name in found}
