"""Figures of score banks. They take the tables of `real_runs.assumptions`."""

from __future__ import annotations

import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FormatStrFormatter, NullFormatter

from rolloutbench.analysis.plotting.panels import Captioned, finish, panel_for_each
from rolloutbench.analysis.plotting.style import print_style

TITLES = {
    "common": "VIP: one score variance for all",
    "own trace": "the prompt's own tr Cov(z)",
    "own length": "the prompt's own Var|z|",
}


def variance_scatter(
    table: pd.DataFrame, conditions: str, agreement: pd.DataFrame | None = None
) -> Captioned:
    """Measured against predicted variance of the gradient: a dot a prompt, a panel a prediction.

    `table` is of `gradient_variance`, for one estimator and group size. The line is equality. With
    the table `agreement` each panel states the rank correlation and its 95% interval.
    """
    shown = table[(table.measured > 0) & (table.predicted > 0)]
    with print_style():
        columns = max(1, table.prediction.nunique())
        figure, panels = panel_for_each(table.prediction.unique(), height=2.0, columns=columns)
        colours = Normalize(0, 1)
        every = shown[["predicted", "measured"]].to_numpy()
        ends = (every.min() / 1.5, every.max() * 1.5) if len(every) else (0, 1)
        for prediction, axes in panels.items():
            here = shown[shown.prediction == prediction]
            axes.scatter(here.predicted, here.measured, c=here.p, norm=colours, s=7, lw=0, alpha=0.8)
            if len(here):
                axes.set_xscale("log")
                axes.set_yscale("log")
                for axis in (axes.xaxis, axes.yaxis):  # powers of ten would need the mathematics that is off
                    axis.set_major_formatter(FormatStrFormatter("%g"))
                    axis.set_minor_formatter(NullFormatter())
                both = here[["predicted", "measured"]].to_numpy()
                axes.plot(*2 * [[both.min(), both.max()]], color="0.5", lw=0.8, zorder=0)
                axes.set(xlim=ends, ylim=ends, aspect="equal")
            axes.set_title(TITLES.get(prediction, prediction), fontsize=7)
            if agreement is not None:
                chosen = (agreement.prediction == prediction) & (agreement.metric == "spearman")
                found = agreement[chosen].iloc[0]
                text = f"rank correlation\n{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
                axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=7)
        finish(figure, panels, "predicted variance", "measured variance", columns)
        figure.say(conditions, "A dot is a prompt. The line is equality.")
        bar = ScalarMappable(colours)
        figure.colorbar(bar, ax=list(panels.values()), label="success rate", fraction=0.03, pad=0.01)
    return figure
