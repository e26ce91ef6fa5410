"""Figures of all scenarios at once: the heat map of a metric, performance profiles, and mean ranks."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from rolloutbench.analysis.metrics import describe
from rolloutbench.analysis.pictures import PRINT, Page
from rolloutbench.analysis.plotting.lines import GRID, PALE, legend_entries, pale_said
from rolloutbench.analysis.plotting.panels import (
    LINE,
    Captioned,
    fitted,
    folded_all,
    legend_below,
    row_height,
    width_of,
)
from rolloutbench.analysis.plotting.style import looks, print_style
from rolloutbench.analysis.statistics import average_ranks, performance_profile
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.protocol import BoolArray, FloatArray


def heat_map(summary: pd.DataFrame, metric: str, conditions: str, page: Page = PRINT) -> Captioned:
    """A metric of all allocators in all scenarios against uniform, best mean rank on top.

    Ranks are among all allocators, also where only some are shown. Where the page is too narrow for the
    numbers, colours stand alone.

    Cells hold the ratio to uniform, or for accuracies and other shares the difference in points. Blue is
    better, whichever direction that is. A cell is pale where the 95% interval has uniform's value in it.
    """
    described = describe(metric)
    points = described.unit == "gain" or described.unit.startswith("share")
    rows = summary[summary.metric == metric]
    allocators, scenarios = ([str(n) for n in summary[k].unique()] for k in ("allocator", "scenario"))

    def table(column: str) -> FloatArray:
        wide = rows.pivot(index="allocator", columns="scenario", values=column)
        found: FloatArray = wide.reindex(index=allocators, columns=scenarios).to_numpy(dtype=np.float64)
        return found

    ranks = np.ones(len(allocators))
    if len(allocators) > 1:
        ranks = average_ranks((described.sign or -1) * table("estimate")).mean
    shown = page.shown(allocators)
    order = [place for place in np.argsort(ranks, kind="stable") if allocators[place] in shown]
    kind, scale, centre, number = ("difference", 100.0, 0.0, "+.1f") if points else ("ratio", 1.0, 1.0, ".2f")
    values, low, high = (scale * table(f"{kind}{end}")[order] for end in ("", "_low", "_high"))
    apart = (low > centre) | (high < centre)

    norm: Normalize
    if points:
        largest = _typical(np.abs(values), least=0.1)
        norm, ticks = Normalize(-largest, largest), [-largest, 0.0, largest]
    else:
        safe = np.where(values > 0, values, np.nan)
        largest = min(np.exp(_typical(np.abs(np.log(safe)), least=0.01)), 2.0)
        norm, ticks = LogNorm(1 / largest, largest), [1 / largest, 1.0, largest]
    colours = {1: "RdBu", -1: "RdBu_r", 0: "PuOr"}[described.sign]
    with print_style():
        names, row_lines = folded_all((allocators[i] for i in order), page.letters)
        titles, lines = folded_all(scenarios, page.letters)
        left = max(width_of(name, 7) for name in names) + 0.2
        cell = (page.width - left - 0.6) / len(scenarios)
        numbered = cell >= width_of("0.00", 7) + 0.02
        widest = max(width_of(title, 7) for title in titles)
        tilted = widest > cell - 0.1
        upright = tilted and (lines > 1 or not numbered)
        above = widest if upright else 0.75 * widest if tilted else 0.15 + LINE * (lines - 1)
        figure = Captioned(figsize=(page.width, 0.155 * len(names) * row_height(row_lines) + above + 1.1))
        axes = figure.subplots()
        _cells(axes, values, norm, mpl.colormaps[colours], apart, number if numbered else "")
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.set_xticks(np.arange(len(scenarios)) + 0.5, titles)
        axes.xaxis.tick_top()
        if upright:
            axes.tick_params("x", rotation=90)
        elif tilted:
            for label in axes.get_xticklabels():
                label.set(rotation=45, ha="left", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "annotation_clip": False}
        for place, rank in enumerate(ranks[order]):
            text = f"{rank:.1f}" if np.isfinite(values[place]).any() else "–"
            axes.annotate(text, (len(scenarios), place + 0.5), (5, 0), va="center", **beside)
        axes.annotate("mean\nrank", (len(scenarios), 0), (5, 3), va="bottom", **beside)
        better = f" ({described.better} is better: blue)" if described.better else ""
        against = f"difference to {BASELINE} in points" if points else f"ratio to {BASELINE}"
        bar = figure.colorbar(
            mpl.cm.ScalarMappable(norm, mpl.colormaps[colours]),
            ax=axes, location="bottom", extend="both", fraction=0.05, aspect=45, pad=0.02,
        )  # fmt: skip
        bar.ax.xaxis.set_major_locator(FixedLocator(ticks))
        bar.ax.xaxis.set_minor_locator(NullLocator())
        bar.ax.xaxis.set_major_formatter(lambda tick, _: _short(tick, number))
        bar.set_label(against, fontsize=7)
        what = f"{described.label[0].upper()}{described.label[1:]}, {against}{better}."
        figure.say(
            what,
            conditions,
            f"Pale: the 95% interval has {BASELINE}'s value in it.",
            f"Ranks are among all {len(allocators)} allocators." if len(order) < len(allocators) else "",
            "" if numbered else "The numbers have no room at this width.",
        )
    return figure


def ranking(
    ranks: pd.DataFrame, critical_difference: float, conditions: str, page: Page = PRINT
) -> Captioned:
    """Mean ranks over scenarios, 1 the best: columns allocator and mean_rank, as `across_scenarios` gives.

    Ranks are among all of `ranks`, also where only some are shown. Bars reach half the critical difference of
    Nemenyi's test to both sides, as far as there are ranks, so two allocators differ where their bars do not
    overlap. Demsar 2006.
    """
    ranks = ranks.sort_values("mean_rank", kind="stable")
    ranked = len(ranks)
    ranks = ranks[ranks.allocator.isin(page.shown(ranks.allocator))]
    names = [str(name) for name in ranks.allocator]
    mean = ranks.mean_rank.to_numpy(dtype=np.float64)
    half = critical_difference / 2
    with print_style():
        labels, lines = folded_all(names, page.letters if page.is_narrow else 2 * page.letters)
        figure = Captioned(figsize=(page.width, 0.155 * len(names) * row_height(lines) + 1.15))
        axes = figure.subplots()
        look = looks(names)
        for place, (name, rank) in enumerate(zip(names, mean, strict=True)):
            style = look[name]
            axes.plot([rank - half, rank + half], [place, place], color=style.color, lw=1.0)
            axes.plot(rank, place, color=style.color, marker=style.marker, ls="", clip_on=False)
        if BASELINE in names:
            axes.vlines(
                mean[names.index(BASELINE)], -0.5, len(names) - 0.4, color="0.6", lw=0.8, ls=":", zorder=0
            )
        if np.isfinite(critical_difference):
            start, above = 1, -1.2
            axes.errorbar(start + half, above, xerr=half, color="black", lw=0.8, capsize=2)
            axes.annotate(
                f"critical difference {critical_difference:.2f}", (start, above), (0, 3),
                textcoords="offset points", va="bottom", fontsize=7,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.4, -1.9)
        axes.set_xlim(1, max(ranked, 2))
        ticks = MaxNLocator(integer=True, steps=[1, 2, 5, 10]).tick_values(1, ranked)
        axes.set_xticks([1, *(tick for tick in ticks if np.diff(ticks)[0] / 2 + 1 < tick <= ranked)])
        axes.set_xlabel("mean rank over scenarios (1 is best)")
        note = "Two differ where their bars do not overlap (Nemenyi's test, 95%, all pairs at once)."
        figure.say(
            conditions,
            note if np.isfinite(critical_difference) else "No bars: ranks of one allocator cannot differ.",
            f"Ranks are among all {ranked}." if len(names) < ranked else "",
        )
    return figure


def profiles(values: pd.DataFrame, metric: str, conditions: str, page: Page = PRINT) -> Captioned:
    """Performance profiles: the share of all runs that are at least so many times as good as uniform.

    `values` is in long form. A run's score is its ratio to the mean of uniform in its scenario, turned
    round where lower is better. Bands are 95%, by bootstrap over replicates. Agarwal et al. 2021.
    """
    table = values[values.metric == metric].pivot_table(
        index=["allocator", "scenario"], columns="replicate", values="value", sort=False, dropna=False
    )
    uniform: pd.Series = table[table.index.get_level_values("allocator") == BASELINE].mean(axis=1)
    uniform = uniform.droplevel("allocator")
    names = [str(name) for name in table.index.unique("allocator") if name != BASELINE]
    described = describe(metric)
    with print_style():
        figure = Captioned(figsize=(page.width, 2.4 if page.is_narrow else 3.2))
        axes = figure.subplots()
        look = looks([BASELINE, *names])
        drawn = page.shown(names)
        strong = page.strong(drawn)
        at = np.geomspace(0.4, 1 / 0.4, GRID)
        moving = np.zeros(GRID, dtype=bool)
        for name in drawn:
            ratio = table.xs(name, level="allocator").div(uniform, axis=0).to_numpy(dtype=np.float64)
            with np.errstate(divide="ignore"):
                share, low, high = performance_profile(1 / ratio if described.sign < 0 else ratio, at)
            style = look[name]
            moving |= (high > 0) & (low < 1)
            stands_out = name in strong
            axes.plot(
                at, share, color=style.color, ls=style.linestyle, lw=1.0 if stands_out else 0.8, label=name,
                alpha=1.0 if stands_out else PALE,
            )  # fmt: skip
            if stands_out:
                axes.fill_between(at, low, high, color=style.color, alpha=0.1, lw=0)
        axes.axvline(1.0, color="0.6", lw=0.8, ls=":", zorder=0)
        axes.set_xscale("log")
        ticks = [0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        ends = at[moving] if moving.any() else at
        axes.set_xlim(ends[0], ends[-1])
        axes.set_ylim(0, 1)
        axes.set_xlabel(fitted(f"times as good as {BASELINE}: {described.label}", page.width - 0.6, 8)[0])
        axes.set_ylabel("share of runs that are")
        if not (uniform > 0).any():
            said = f"undefined: {BASELINE}'s is never above 0"
            axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", backgroundcolor="white")
        scenarios = f"{len(uniform)} scenario{'s' * (len(uniform) > 1)}"
        figure.say(conditions, f"{scenarios}; bands are 95% intervals.", pale_said(drawn, strong))
        legend_below(figure, legend_entries({0: axes}, look))
    return figure


def _typical(sizes: FloatArray, least: float) -> float:
    """Where colours saturate: nine tenths of the sizes are within."""
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return max(float(np.quantile(sizes, 0.9)), least) if len(sizes) else least


def _cells(
    axes: Axes, values: FloatArray, norm: Normalize, colours: Colormap, apart: BoolArray, number: str
) -> None:
    """Coloured cells (A, S), the first row on top; pale where not `apart`.

    `number` is the format of the numbers in them; without one they have none.
    """
    shades = colours(norm(np.clip(values, norm.vmin, norm.vmax)))
    shades[..., :3] = np.where(apart[..., None], shades[..., :3], 0.65 + 0.35 * shades[..., :3])
    shades[np.isnan(values)] = (0.95, 0.95, 0.95, 1.0)
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    axes.pcolormesh(shades, edgecolors="white", linewidth=0.5)
    brightness = shades[..., :3] @ np.array([0.299, 0.587, 0.114])
    for (row, column), value in np.ndenumerate(values) if number else ():
        sure = apart[row, column]
        axes.text(
            column + 0.5,
            row + 0.5,
            "–" if np.isnan(value) else _short(value, number),
            ha="center",
            va="center",
            fontsize=7,
            color=("white" if brightness[row, column] < 0.5 else "black") if sure else "0.45",
            fontweight="bold" if sure else "normal",
        )


def _short(value: float, number: str) -> str:
    """At most five characters, for values of any usual size."""
    text = f"{value:{number}}"
    if float(text) == 0:
        return text[-3:]  # without a sign
    text = text if len(text) <= 5 else f"{value:{number.replace('.1', '.0').replace('.2', '.0')}}"
    return text.replace("-", "\N{MINUS SIGN}")
