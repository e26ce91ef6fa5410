"""Figures of predictors: calibration, and the error of the prediction over a run.

Judged predictions are the rows that `simulators.prediction` gives.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rolloutbench.analysis.pictures import PRINT, Page
from rolloutbench.analysis.plotting.lines import draw_mean, legend_entries, pale_said
from rolloutbench.analysis.plotting.panels import Captioned, finish, legend_below, panel_for_each
from rolloutbench.analysis.plotting.style import looks, print_style
from rolloutbench.analysis.statistics import mean_interval
from rolloutbench.cells.collectors import CALIBRATION_BINS
from rolloutbench.predictors import predictors


def calibration(judged: pd.DataFrame, conditions: str, page: Page = PRINT) -> Captioned:
    """True against predicted success probability by bin of the prediction, one panel a predictor.

    Dots are means over replicates with 95% intervals, their area the share of the phase's prompts. The
    first epoch, in which no prompt was seen before, is apart from the later ones.

    Raises ValueError where there is more than one scenario.
    """
    scenarios = judged.scenario.unique()
    if len(scenarios) > 1:
        raise ValueError(f"judged: calibration is of one scenario, found {', '.join(map(str, scenarios))}")
    with print_style():
        columns, _ = page.shape(4, 1.6)
        names = [str(name) for name in judged.predictor.unique()]
        figure, panels = panel_for_each(page.shown(names), height=1.6, columns=columns, width=page.width)
        look = looks(names, predictors)
        first = judged.epoch == 0
        for name, axes in panels.items():
            axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, zorder=0)
            here = judged.predictor == name
            for rows, later in ((judged[here & first], False), (judged[here & ~first], True)):
                if len(rows):
                    _reliability(axes, rows, look[name].color, later)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect("equal")
            ticks = [0, 0.25, 0.5, 0.75, 1]
            axes.set_xticks(ticks, ["0", ".25", ".5", ".75", "1"])
            axes.set_yticks(ticks, ["0", ".25", ".5", ".75", "1"])
        finish(figure, panels, "predicted probability", "true probability", columns)
        note = "Means and 95% intervals over replicates; a dot's area is its bin's share of the prompts."
        figure.say(f"{scenarios[0]}. {conditions}", note)
        dashed = Line2D([], [], color="0.3", ls="--", marker="o", mfc="white", ms=4)
        solid = Line2D([], [], color="0.3", marker="o", ms=4)
        legend_below(figure, {"first epoch": dashed, "later epochs": solid})
    return figure


def _reliability(axes: Axes, rows: pd.DataFrame, color: str, later: bool) -> None:
    sums = rows.groupby("replicate").sum(numeric_only=True)
    prompts, predicted, actual = (
        sums[[f"{name}@{b}" for b in range(CALIBRATION_BINS)]].to_numpy().T
        for name in ("prompts", "predicted", "actual")
    )
    there = np.where(prompts > 0, prompts, np.nan)
    x, y = mean_interval(predicted / there).estimate, mean_interval(actual / there)
    filled = ~np.isnan(x)
    x, mean, low, high = (values[filled] for values in (x, *y))
    share = (prompts.sum(axis=1) / prompts.sum())[filled]
    axes.plot(x, mean, color=color, lw=0.9, ls="-" if later else "--", label="later" if later else "first")
    axes.errorbar(x, mean, [mean - low, high - mean], fmt="none", ecolor=color, elinewidth=0.8)
    face = color if later else "white"
    axes.scatter(
        x, mean, s=2 + 60 * share, color=face, edgecolors=color, linewidths=0.7, zorder=3, clip_on=False
    )


def prediction_error(judged: pd.DataFrame, conditions: str, page: Page = PRINT) -> Captioned:
    """Mean absolute error of the predicted success probability over training, one panel a scenario.

    Lines are means over replicates, bands 95% intervals. Shaded are the steps in which every replicate
    is still in its first epoch.
    """
    with print_style():
        names = [str(name) for name in judged.scenario.unique()]
        columns, height = page.shape(2 if len(names) <= 4 else 3, 2.5)
        figure, panels = panel_for_each(names, height=height, columns=columns, width=page.width)
        look = looks([str(name) for name in judged.predictor.unique()], predictors)
        drawn = page.shown(look)
        strong = page.strong(look)
        for scenario, axes in panels.items():
            here = judged[judged.scenario == scenario]
            last_epoch = here.groupby("steps").epoch.max()
            first = last_epoch.index[last_epoch == 0]
            if len(first):
                axes.axvspan(0, first.max() + 0.5, color="0.92", lw=0, zorder=0)
            for name, rows in here[here.predictor.isin(drawn)].groupby("predictor", sort=False):
                wide = rows.pivot(index="replicate", columns="steps", values="mae")
                at = wide.columns.to_numpy(dtype=np.float64)
                stands_out = name in strong
                draw_mean(axes, at, wide.to_numpy(), str(name), look, every=len(at) / 5, strong=stands_out)
            axes.set_xlim(0, here.steps.max())
            axes.set_ylim(bottom=-0.02 * here.mae.max())  # the oracle's line is at 0
        finish(figure, panels, "steps", "mean |predicted \N{MINUS SIGN} true probability|", columns)
        note = "Means and 95% intervals over replicates. Shaded: the first epoch, no prompt was seen before."
        figure.say(conditions, note, pale_said(drawn, strong))
        legend_below(figure, legend_entries(panels, look))
    return figure
