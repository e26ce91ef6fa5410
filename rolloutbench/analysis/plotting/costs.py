"""Figures of costs: what became of the generated rollouts, and what the seconds of a step were spent on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from rolloutbench.analysis.pictures import PRINT, TICKS, Page
from rolloutbench.analysis.plotting.panels import (
    Captioned,
    finish,
    folded_all,
    legend_below,
    panel_for_each,
    row_height,
)
from rolloutbench.analysis.plotting.style import print_style

PARTS = {
    "held_ratio": ("held in buffers", "#88CCEE"),
    "ineffective_ratio": ("trained, equal rewards", "#DDCC77"),
    "pilots_ratio": ("discarded pilots", "#999933"),
    "filtered_ratio": ("filtered groups", "#CC6677"),
    "surplus_ratio": ("surplus groups", "#882255"),
    "expired_ratio": ("expired", "#AA4499"),
    "unselected_ratio": ("unselected", "#332288"),
    "other_ratio": ("discarded otherwise", "#888888"),
}
"""What becomes of generated rollouts that no gradient comes from: metric, label and colour."""
EFFECTIVE = ("effective: trained, both rewards", "#44AA99")
"""Label and colour of the rollouts that a gradient comes from."""
PHASES = {
    "generation": "#4477aa",
    "verification": "#66ccee",
    "update": "#ccbb44",
    "allocation": "#aa3377",
}
"""Phase and colour: of Paul Tol's bright scheme, which the colour-blind can tell apart."""
REACH = 2.0
"""The seconds' axis ends at so many times the longest bar: an interval of few seeds may be far wider."""


def cost_breakdown(summary: pd.DataFrame, conditions: str, page: Page = PRINT) -> Captioned:
    """What became of the generated rollouts: stacked shares of each allocator, one panel a scenario.

    The whisker is the 95% interval of the share that was of use or still may be. At a bar's end stand
    the generated rollouts per step.
    """
    allocators = page.shown(summary.allocator.unique())
    scenarios = [str(name) for name in summary.scenario.unique()]
    every = pd.MultiIndex.from_product([scenarios, allocators])

    def table(column: str) -> pd.DataFrame:
        wide = summary.pivot(index=["scenario", "allocator"], columns="metric", values=column)
        return wide.reindex(index=every, columns=[*PARTS, "wasted_ratio", "rollouts_per_step"])

    estimate, high = table("estimate"), table("high")
    with print_style():
        long = folded_all(scenarios, TICKS)[1] > 1
        columns = 1 if page.is_narrow else 2 if len(scenarios) <= 4 or long else 3
        labels, lines = folded_all(allocators, page.letters)
        height = 0.6 + 0.14 * max(len(allocators), 3) * row_height(lines)
        figure, panels = panel_for_each(
            scenarios, height=height, columns=columns, letters=columns * TICKS, width=page.width
        )
        places = np.arange(len(allocators))
        for number, (scenario, axes) in enumerate(panels.items()):
            here, ends = estimate.xs(scenario), high.xs(scenario)
            ran = here["rollouts_per_step"].notna().to_numpy()
            shares = np.nan_to_num(here[list(PARTS)].to_numpy(dtype=np.float64))
            edge = np.where(ran, 1 - shares.sum(axis=1), 0.0)
            axes.barh(places, edge, color=EFFECTIVE[1], height=0.75, label=EFFECTIVE[0])
            for share, (label, color) in zip(shares.T, PARTS.values(), strict=True):
                axes.barh(places, share, left=edge, color=color, height=0.75, label=label)
                edge = edge + share
            wasted, reach = here["wasted_ratio"], (ends["wasted_ratio"] - here["wasted_ratio"]).to_numpy()
            axes.errorbar(1 - wasted, places, xerr=reach, fmt="none", ecolor="black", elinewidth=0.7)
            bills = zip(here["rollouts_per_step"], ends["rollouts_per_step"], strict=True)
            for place, (rollouts, end) in enumerate(bills):
                axes.text(1.02, place, _bill(rollouts, end), fontsize=7, va="center")
            axes.annotate(
                "rollouts\nper step", (1.02, 1.0), xycoords="axes fraction", xytext=(0, 1),
                textcoords="offset points", fontsize=7, color="0.35",
            )  # fmt: skip
            named = number % columns == 0
            axes.set_yticks(places, labels if named else [""] * len(places))
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_ylim(len(allocators) - 0.4, -0.6)
            axes.set_xlim(0, 1)
            axes.tick_params("y", length=0)
            title = axes.get_title()
            axes.set_title("")
            axes.set_title(title, loc="left", pad=16)  # above the heading of the bills
        finish(figure, panels, "share of generated rollouts", "", columns)
        figure.say(conditions, "Whisker: 95% interval of the share that was not wasted.")
        shown = [EFFECTIVE, *(PARTS[part] for part in PARTS if (estimate[part] > 0).any())]
        legend_below(figure, {label: Patch(color=color) for label, color in shown})
    return figure


def _bill(rollouts: float, high: float) -> str:
    if np.isnan(rollouts):
        return "not run"
    half = high - rollouts
    return f"{rollouts:.0f} ±{half:.0f}" if half >= 0.5 else f"{rollouts:.0f}"


def seconds_split(summary: pd.DataFrame, conditions: str, page: Page = PRINT) -> Captioned:
    """Measured seconds of a step by phase, stacked, one panel a task.

    Whiskers are 95% intervals of their sum, cut off at the panel's rim. At a row's end stand the generated
    tokens per second of generation.
    """
    allocators = page.shown(summary.allocator.unique())
    scenarios = [str(name) for name in summary.scenario.unique()]
    every = pd.MultiIndex.from_product([scenarios, allocators])
    names = [f"seconds_{phase}_per_step" for phase in PHASES]

    def table(column: str) -> pd.DataFrame:
        wide = summary.pivot(index=["scenario", "allocator"], columns="metric", values=column)
        return wide.reindex(index=every, columns=[*names, "seconds_per_step", "tokens_per_second"])

    estimate, low, high = table("estimate"), table("low"), table("high")
    with print_style():
        columns = 1 if page.is_narrow else 2
        labels, lines = folded_all(allocators, page.letters)
        height = 0.6 + 0.16 * max(len(allocators), 3) * row_height(lines)
        figure, panels = panel_for_each(
            scenarios, height=height, columns=columns, letters=columns * TICKS, width=page.width
        )
        places = np.arange(len(allocators))
        for number, (scenario, axes) in enumerate(panels.items()):
            left = np.zeros(len(allocators))
            for color, name in zip(PHASES.values(), names, strict=True):
                spent = np.nan_to_num(estimate.xs(scenario)[name].to_numpy(dtype=np.float64))
                axes.barh(places, spent, left=left, color=color, height=0.75)
                left = left + spent
            total, least, most = (
                part.xs(scenario)["seconds_per_step"].to_numpy(dtype=np.float64)
                for part in (estimate, low, high)
            )
            reach = np.stack([total - least, most - total])
            axes.errorbar(total, places, xerr=reach, fmt="none", ecolor="black", elinewidth=0.7)
            longest = max(left.max(), np.nan_to_num(total).max())
            ends = most[np.isfinite(most)]
            if longest > 0:
                axes.set_xlim(0, min(1.05 * max([longest, *ends]), REACH * longest))
            for place, speed in enumerate(estimate.xs(scenario)["tokens_per_second"]):
                said = "–" if np.isnan(speed) else f"{speed:,.0f}"
                said = said if np.isfinite(total[place]) else "not run"
                beside = axes.get_yaxis_transform()
                axes.text(1.02, place, said, fontsize=7, va="center", transform=beside)
            axes.annotate(
                "tokens\nper second", (1.02, 1.0), xycoords="axes fraction", xytext=(0, 1),
                textcoords="offset points", fontsize=7, color="0.35",
            )  # fmt: skip
            axes.set_yticks(places, labels if number % columns == 0 else [""] * len(places))
            axes.set_ylim(len(allocators) - 0.4, -0.6)
            axes.tick_params("y", length=0)
            title = axes.get_title()
            axes.set_title("")
            axes.set_title(title, loc="left", pad=16)  # above the heading of the speeds
        finish(figure, panels, "seconds per step, measured", "", columns)
        note = "Whiskers: 95% intervals of the sum, as far as they fit."
        figure.say(conditions, f"{note} Tokens per second: of generation.")
        legend_below(figure, {phase: Patch(color=color) for phase, color in PHASES.items()})
    return figure
