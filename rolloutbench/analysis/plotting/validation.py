"""Simulated against real: a point for each allocator. Takes the tables of a `Validation`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rolloutbench.analysis.metrics import describe
from rolloutbench.analysis.plotting.panels import (
    COLUMNS,
    LINE,
    TITLES,
    Captioned,
    finish,
    folded,
    legend_below,
    panel_for_each,
)
from rolloutbench.analysis.plotting.style import looks, print_style
from rolloutbench.cells.collectors import BASELINE


def scatter(
    points: pd.DataFrame, agreement: pd.DataFrame, metric: str, scale: str, conditions: str
) -> Captioned:
    """Simulated against real `scale` to uniform, one panel for each pair of scenarios.

    Both axes have the same scale. Lines are 95% intervals; dashed is what a simulator that is right to the
    number would give, and grey is uniform. Intervals that are much wider than the points are apart are cut
    off at the panel's rim.
    """
    described = describe(metric)
    neutral = 1.0 if scale == "ratio" else 0.0
    several = agreement.real_scenario.nunique() > 1
    with print_style():
        figure, panels = panel_for_each(
            (f"{i}" for i in range(len(agreement))), height=2.9 if len(agreement) > 1 else 4.2
        )
        look = looks(list(points.allocator.unique()))
        letters = TITLES // min(COLUMNS, len(panels))
        keys: dict[str, Artist] = {}
        most_lines = 0
        for axes, row in zip(panels.values(), agreement.to_dict("records"), strict=True):
            here = points[points.scenario.eq(row["scenario"]) & points.real_scenario.eq(row["real_scenario"])]
            here = here[np.isfinite(here.value) & np.isfinite(here.real_value)]
            axes.axvline(neutral, color="0.8", lw=0.7, zorder=0)
            axes.axhline(neutral, color="0.8", lw=0.7, zorder=0)
            axes.axline((neutral, neutral), slope=1, color="0.5", lw=0.8, ls="--", zorder=0)
            for point in here.to_dict("records"):
                color, marker, _ = look[point["allocator"]]
                x, y = point["value"], point["real_value"]
                axes.plot([point["low"], point["high"]], [y, y], color=color, lw=0.8, alpha=0.5)
                axes.plot([x, x], [point["real_low"], point["real_high"]], color=color, lw=0.8, alpha=0.5)
                axes.plot(x, y, color=color, marker=marker, ls="", ms=6, mec="white", mew=0.4)
                keys[point["allocator"]] = Line2D([], [], color=color, marker=marker, ls="", ms=5)
            _limits(axes, here, neutral)
            against = f" / {row['real_scenario']}" if several else ""
            title = folded(f"{row['scenario']}{against}", letters)
            most_lines = max(most_lines, len(title))
            low, high = row["tau_low"], row["tau_high"]
            span = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
            title.append(f"τ = {row['tau']:.2f}{span}: {row['verdict']}")
            axes.set_title("\n".join(title))
        to = "ratio to" if scale == "ratio" else "difference from"
        finish(figure, panels, f"simulated {to} {BASELINE}", f"real {to} {BASELINE}")
        figure.entitle("Simulated against real")
        figure.say(
            conditions,
            f"{described.label.capitalize()}{described.direction}: {to} {BASELINE}, 95% intervals. "
            "Dashed: simulated = real.",
        )
        rows = -(-len(panels) // COLUMNS)
        figure.set_figheight(figure.get_figheight() + LINE * rows * most_lines)
        legend_below(figure, keys)
    return figure


def _limits(axes: Axes, points: pd.DataFrame, neutral: float) -> None:
    """Set one pair of limits for both axes: as wide as points and uniform, or intervals up to once more."""
    centres = np.append(points[["value", "real_value"]].to_numpy(dtype=float), neutral)
    low, high = float(centres.min()), float(centres.max())
    width = max(high - low, 1e-3)
    ends = points[["low", "high", "real_low", "real_high"]].to_numpy(dtype=float)
    ends = ends[np.isfinite(ends)]
    least, most = (float(ends.min()), float(ends.max())) if len(ends) else (low, high)
    least, most = max(min(low, least), low - width), min(max(high, most), high + width)
    rim = 0.03 * (most - least)
    axes.set(xlim=(least - rim, most + rim), ylim=(least - rim, most + rim), aspect="equal")
