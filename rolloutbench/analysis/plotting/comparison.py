"""The three figures of a comparison. All take the table of `rolloutbench.analysis.results.summarise`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from rolloutbench.analysis.metrics import describe
from rolloutbench.analysis.pictures import PRINT, TICKS, Page
from rolloutbench.analysis.plotting.lines import PALE, legend_entries, name_coinciding, pale_said
from rolloutbench.analysis.plotting.panels import (
    Captioned,
    finish,
    folded,
    folded_all,
    legend_below,
    panel_for_each,
    row_height,
)
from rolloutbench.analysis.plotting.style import looks, print_style
from rolloutbench.cells.collectors import BASELINE, COUNT_PREFIX
from rolloutbench.protocol import FloatArray


def allocation_against_success(summary: pd.DataFrame, conditions: str, page: Page = PRINT) -> Captioned:
    """Mean rollouts a prompt gets, by its true success probability; bands are 95% intervals.

    Uniform at smaller groups is left out: its lines are flat.
    """
    counts = summary[summary.metric.str.startswith(COUNT_PREFIX)]
    counts = counts[~counts.allocator.str.startswith(f"{BASELINE}[")]
    counts = counts.assign(p=counts.metric.str.removeprefix(COUNT_PREFIX).astype(float))
    drawn = page.shown(counts.allocator.unique())
    counts, strong = counts[counts.allocator.isin(drawn)], page.strong(drawn)
    columns, height = page.shape(2, 2.3)
    with print_style():
        figure, panels = panel_for_each(
            summary.scenario.unique(), height=height, columns=columns, width=page.width
        )
        look = looks(list(summary.allocator.unique()))
        coinciding = set[str]()
        for scenario, axes in panels.items():
            here = counts[counts.scenario == scenario].sort_values("p")
            for allocator, rows in here.groupby("allocator", sort=False):
                style = look[str(allocator)]
                p, mean = rows.p.to_numpy(), rows.estimate.to_numpy()
                stands_out = allocator in strong
                axes.plot(
                    p, mean, color=style.color, ls=style.linestyle, label=str(allocator),
                    alpha=1.0 if stands_out else PALE, lw=1.2 if stands_out else 0.8,
                )  # fmt: skip
                if stands_out:
                    axes.fill_between(p, rows.low, rows.high, color=style.color, alpha=0.15, lw=0)
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
            if len(here):
                axes.set_ylim(here.estimate[here.estimate > 0].min() / 1.2, here.estimate.max() * 1.2)
            axes.set_xlim(0, 1)
            coinciding.add(name_coinciding([axes], page.width / columns - 0.5))
        finish(figure, panels, "success probability of the prompt", "rollouts per prompt", columns)
        figure.say(
            conditions,
            "Means and 95% intervals over replicates.",
            pale_said(drawn, strong),
            *sorted(coinciding),
        )
        legend_below(figure, legend_entries(panels, look))
    return figure


def ratio_to_uniform(summary: pd.DataFrame, metric: str, conditions: str, page: Page = PRINT) -> Captioned:
    """Ratio of a metric to uniform's, a dot with its 95% interval for each allocator, best on top."""
    described = describe(metric)
    chosen = summary[(summary.metric == metric) & (summary.allocator != BASELINE)]
    chosen = chosen[chosen.allocator.isin(page.shown(chosen.allocator))]
    columns = 1 if page.is_narrow else 2
    with print_style():
        look = looks(list(summary.allocator.unique()))
        rows_needed = chosen.groupby("scenario").allocator.count().max() if len(chosen) else 3
        _, lines = folded_all(chosen.allocator.unique(), page.letters)
        figure, panels = panel_for_each(
            summary.scenario.unique(),
            height=0.5 + 0.16 * float(rows_needed) * row_height(lines),
            columns=columns,
            letters=columns * TICKS,
            width=page.width,
        )
        for scenario, axes in panels.items():
            rows = chosen[chosen.scenario == scenario]
            rows = rows.sort_values("ratio", ascending=described.sign >= 0)
            for place, (allocator, row) in enumerate(rows.set_index("allocator").iterrows()):
                style = look[str(allocator)]
                span = [float(row["ratio_low"]), float(row["ratio_high"])]
                axes.plot(span, [place, place], color=style.color, lw=1.0)
                axes.plot(float(row["ratio"]), place, color=style.color, marker=style.marker, ms=3)
            axes.axvline(1.0, color="0.6", lw=0.8, zorder=0)
            axes.set_yticks(range(len(rows)), folded_all(rows.allocator, page.letters)[0])
            axes.margins(y=0.05)
        label = f"{described.label},\nratio to uniform{described.direction}"
        finish(figure, panels, label, "", columns)
        figure.say(conditions, "Lines are 95% intervals; one that cannot be seen is within its marker.")
    return figure


def cost_against_gain(summary: pd.DataFrame, conditions: str, page: Page = PRINT) -> Captioned:
    """Signal to noise against generated rollouts per prompt; the line is uniform at several sizes.

    An allocator above the line gives more than uniform would for the same bill.
    """
    values = summary[summary.metric.isin(["snr", "generated_per_prompt"])].pivot(
        index=["scenario", "allocator"], columns="metric", values=["estimate", "low", "high"]
    )
    if "snr" not in values["estimate"]:  # it is defined nowhere
        for part in ("estimate", "low", "high"):
            values[(part, "snr")] = np.nan
    columns = 1 if page.is_narrow else 2
    with print_style():
        figure, panels = panel_for_each(
            summary.scenario.unique(), height=2.3, columns=columns, width=page.width
        )
        look = looks(list(summary.allocator.unique()))
        for scenario, axes in panels.items():
            here = values.loc[scenario]
            here = here[here["estimate"]["snr"] > 0]  # others have no place on a logarithmic axis
            if here.empty:
                continue
            is_uniform = here.index.str.partition("[").get_level_values(0) == BASELINE
            line = here[is_uniform]
            line = line.iloc[np.argsort(line["estimate"]["generated_per_prompt"].to_numpy())]
            x = line["estimate"]["generated_per_prompt"].to_numpy(dtype=float)
            axes.fill_between(x, line["low"]["snr"], line["high"]["snr"], color="black", alpha=0.15, lw=0)
            axes.plot(x, line["estimate"]["snr"], color="black", marker=".", zorder=0)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            others = here[~is_uniform]
            others = others[others.index.isin(page.shown(others.index))]
            for name, row in others.iterrows():
                style = look[str(name)]
                y, low, high = (float(row[part]["snr"]) for part in ("estimate", "low", "high"))
                at = float(row["estimate"]["generated_per_prompt"])
                axes.errorbar(at, y, [[y - low], [high - y]], fmt=style.marker, color=style.color, ms=3)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(FormatStrFormatter("%g"))
                axis.set_minor_formatter(NullFormatter())
            named = others["estimate"].copy()
            if BASELINE in here.index:
                named.loc[BASELINE] = here.loc[BASELINE]["estimate"]
            _name_at_the_right(
                axes,
                named["generated_per_prompt"].to_numpy(dtype=float),
                named["snr"].to_numpy(dtype=float),
                [str(name) for name in named.index],
                [look[str(name)].color for name in named.index],
            )
        finish(figure, panels, "generated rollouts per prompt", "signal to noise of the gradient", columns)
        figure.say(
            conditions,
            f"The line is {BASELINE} at several sizes; above it is more signal for the same bill. "
            "95% intervals, most of them within their marker.",
        )
    return figure


def _name_at_the_right(
    axes: Axes, x: FloatArray, y: FloatArray, names: list[str], colors: list[str], gap: float = 0.075
) -> None:
    """Write each point's name beside the panel, at its height but at least `gap` from the next."""
    low, high = np.log(axes.get_ylim())
    order = np.argsort(y)
    places = (np.log(y[order]) - low) / (high - low)
    for _ in range(200):  # neighbours that are too close push each other apart
        push = np.maximum(gap - np.diff(places), 0) / 2
        places[1:] += push
        places[:-1] -= push
    places -= max(places[-1] - 1, 0)
    for place, i in zip(places, order, strict=True):
        axes.annotate(
            "\n".join(folded(names[i], TICKS)),
            (x[i], y[i]),
            xytext=(1.08, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            arrowprops={
                "arrowstyle": "-",
                "color": colors[i],
                "lw": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 1,
            },
        )
