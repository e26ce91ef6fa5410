"""Figures of learning and of prediction: what a policy gained, what it cost, what was known of prompts.

Curves are the rows that `curves.learning_metrics` takes, summaries what `experiment.summarise` gives, and
judged predictions what `simulators.prediction` gives. "Points" are percentage points of accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator

from rolloutbench.curves import Run, held_level
from rolloutbench.metrics import (
    ACCURACY_PREFIX,
    AXES,
    BASELINE,
    CALIBRATION_BINS,
    COUNT_PREFIX,
    METRICS,
    REFERENCE,
    TARGETS,
    TUNED_PREFIX,
    Metric,
)
from rolloutbench.plotting.panels import (
    LINE,
    TICKS,
    finish,
    folded_all,
    legend_below,
    panel_for_each,
    say,
    width_of,
)
from rolloutbench.plotting.style import PREDICTOR_STYLES, WIDE, Look, is_yardstick, looks, print_style
from rolloutbench.protocol import BoolArray, FloatArray
from rolloutbench.statistics import average_ranks, interpolate_curves, mean_interval, performance_profile

GRID = 101
"""Positions on the common axis of a curve, its ends included."""
PHASES = ("first", "middle", "last")
"""Parts of a run, equal in steps."""
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
"""What becomes of generated rollouts that no gradient came from: label and colour."""
EFFECTIVE = ("effective: trained, both rewards", "#44AA99")


def learning_curves(curves: pd.DataFrame, steps: dict[str, int], axis: str, conditions: str) -> Figure:
    """Gain in held-out accuracy against an axis of `metrics.AXES`, one panel a scenario.

    Lines are means over replicates at the scenario's own learning rate, as far as all replicates went and
    up to what the reference run spent in the scenario's `steps`; bands are 95% intervals. Dotted are the
    targets: shares of the reference run's mean gain.
    """
    with print_style():
        figure, panels, shape = _curve_panels(curves)
        look = _allocator_looks(curves)
        for scenario, axes in panels.items():
            runs = _runs(curves, scenario)
            spent, gain = _reference(curves, scenario, steps[scenario], axis)
            at = np.linspace(0.0, spent, GRID)
            for name, run in runs.items():
                gained = 100 * (_accuracy(run, axis, at) - run["accuracy"][:, :1])
                _line(axes, at, gained, name, look)
            for share in TARGETS if gain > 0 else ():
                height = 100 * share * gain
                axes.axhline(height, color="0.4", lw=0.7, ls=":", zorder=1)
                axes.annotate(
                    f"{100 * share:g}%", (1.01, height), xycoords=axes.get_yaxis_transform(),
                    fontsize=6, color="0.4", va="center",
                )  # fmt: skip
            axes.set_xlim(0, spent)
            _keep_means_readable(axes)
        _finish_curves(figure, panels, axis, "accuracy gain (points)", shape)
        targets = " and ".join(f"{100 * share:g}%" for share in TARGETS)
        say(
            figure,
            conditions,
            "Held-out accuracy, means and 95% intervals, up to what the reference run spent in "
            f"{_steps(steps, panels)}. Dotted: {targets} of its gain.",
        )
        legend_below(figure, _legend(panels, look))
    return figure


def difference_curves(curves: pd.DataFrame, steps: dict[str, int], axis: str, conditions: str) -> Figure:
    """Held-out accuracy minus uniform's against an axis of `metrics.AXES`, one panel a scenario.

    The difference is taken replicate by replicate at the same spending; bands are 95% intervals of its
    mean. Otherwise like `learning_curves`.
    """
    with print_style():
        figure, panels, shape = _curve_panels(curves)
        look = _allocator_looks(curves)
        for scenario, axes in panels.items():
            runs = _runs(curves, scenario)
            spent, _ = _reference(curves, scenario, steps[scenario], axis)
            at = np.linspace(0.0, spent, GRID)
            axes.axhline(0.0, color="black", lw=1.0, zorder=1)
            base = runs.pop(BASELINE)
            baseline = _accuracy(base, axis, at)
            for name, run in runs.items():
                _, ours, theirs = np.intersect1d(run.replicates, base.replicates, return_indices=True)
                _line(axes, at, 100 * (_accuracy(run, axis, at)[ours] - baseline[theirs]), name, look)
            axes.set_xlim(0, spent)
        _finish_curves(figure, panels, axis, f"points above {BASELINE}", shape)
        say(
            figure,
            conditions,
            f"Held-out accuracy minus {BASELINE}'s, means and 95% intervals of pairs, up to what "
            f"the reference run spent in {_steps(steps, panels)}.",
        )
        legend_below(figure, _legend(panels, look))
    return figure


def allocation_over_time(curves: pd.DataFrame, steps: dict[str, int], conditions: str) -> Figure:
    """Mean rollouts a prompt gets by its true success probability, in three thirds of a run's steps.

    A row of panels is a scenario. Bands are 95% intervals over replicates. Uniform at smaller groups is
    left out: its lines are flat.
    """
    scenarios = [str(name) for name in curves.scenario.unique()]
    columns = [name for name in curves.columns if name.startswith(COUNT_PREFIX)]
    p = np.array([float(name.removeprefix(COUNT_PREFIX)) for name in columns])
    kept = curves[(curves.rate == 1.0) & (curves.allocator != REFERENCE) & (curves.steps > 0)]
    kept = kept[~kept.allocator.str.startswith(f"{BASELINE}[")]
    with print_style():
        titles, lines = folded_all(scenarios, 30)
        figure = Figure(figsize=(WIDE, (1.55 if lines == 1 else 2.2) * len(scenarios) + 0.5))
        grid = figure.subplots(len(scenarios), len(PHASES), squeeze=False, sharex=True, sharey="row")
        look = _allocator_looks(curves)
        for scenario, title, row in zip(scenarios, titles, grid, strict=True):
            here = kept[(kept.scenario == scenario) & (kept.steps <= steps[scenario])]
            phases = np.ceil(len(PHASES) * here.steps / steps[scenario]).astype(int) - 1
            shown: list[FloatArray] = []
            for phase, axes in enumerate(row):
                ends = [round(steps[scenario] * part / len(PHASES)) for part in (phase, phase + 1)]
                axes.set_title(f"{PHASES[phase]} third: steps {ends[0] + 1} to {ends[1]}", fontsize=7)
                for name, rows in here[phases == phase].groupby("allocator", sort=False):
                    means = rows.groupby("replicate")[columns].mean().to_numpy()
                    _line(axes, p, means, str(name), look, every=10, partly=True)
                    shown.append(mean_interval(means.T).estimate)
            heights = np.concatenate([*shown, [np.nan]])
            row[0].set_yscale("log", base=2)
            if np.isfinite(heights).any():
                row[0].set_ylim(np.nanmin(heights) / 1.3, np.nanmax(heights) * 1.3)
            row[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
            row[0].set_ylabel(f"{title}\nrollouts per prompt")
        for axes in grid[-1]:
            axes.set_xlim(0, 1)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
            axes.set_xlabel("success probability of the prompt")
        say(figure, conditions, "Means and 95% intervals over replicates, of prompts that were rolled out.")
        legend_below(figure, _legend(dict(enumerate(grid.flat)), look))
    return figure


def heat_map(summary: pd.DataFrame, metric: str, conditions: str) -> Figure:
    """A metric of all allocators in all scenarios against uniform, best mean rank on top.

    Cells hold the ratio to uniform, or for accuracies and other shares the difference in points. Blue is
    better, whichever direction that is. A cell is pale where the 95% interval has uniform's value in it.
    """
    described = _described(metric)
    points = described.unit == "gain" or described.unit.startswith("share")
    rows = summary[summary.metric == metric]
    allocators, scenarios = ([str(n) for n in summary[k].unique()] for k in ("allocator", "scenario"))

    def table(column: str) -> FloatArray:
        wide = rows.pivot(index="allocator", columns="scenario", values=column)
        found: FloatArray = wide.reindex(index=allocators, columns=scenarios).to_numpy(dtype=np.float64)
        return found

    sign = 1.0 if described.better == "higher" else -1.0
    ranks = np.ones(len(allocators))
    if len(allocators) > 1:
        ranks = average_ranks(sign * table("estimate")).mean
    order = np.argsort(ranks, kind="stable")
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
    colours = {"higher": "RdBu", "lower": "RdBu_r"}.get(described.better or "", "PuOr")
    with print_style():
        names, row_lines = folded_all((allocators[i] for i in order), TICKS)
        titles, lines = folded_all(scenarios, TICKS)
        left = max(width_of(name, 7) for name in names) + 0.2
        cell = min(0.9 if lines == 1 else 2.2, (WIDE - left - 0.6) / len(scenarios))
        widest = max(width_of(title, 7) for title in titles)
        tilted = widest > cell - 0.1
        upright = tilted and lines > 1
        above = widest if upright else 0.75 * widest if tilted else 0.15 + LINE * (lines - 1)
        width = min(WIDE, max(left + 0.6 + cell * len(scenarios), 4.0))
        figure = Figure(figsize=(width, 0.155 * len(names) * row_lines + above + 1.1))
        axes = figure.subplots()
        _cells(axes, values, norm, mpl.colormaps[colours], apart, number)
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
        beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6, "annotation_clip": False}
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
        say(figure, what, conditions, f"Pale: the 95% interval has {BASELINE}'s value in it.")
    return figure


def ranking(ranks: pd.DataFrame, critical_difference: float, conditions: str) -> Figure:
    """Mean ranks over scenarios, 1 the best: columns allocator and mean_rank, as `across_scenarios` gives.

    Bars reach half the critical difference of Nemenyi's test to both sides, so two allocators differ
    where their bars do not overlap. Demsar 2006.
    """
    ranks = ranks.sort_values("mean_rank", kind="stable")
    names = [str(name) for name in ranks.allocator]
    mean = ranks.mean_rank.to_numpy(dtype=np.float64)
    half = critical_difference / 2
    with print_style():
        labels, lines = folded_all(names, 2 * TICKS)
        figure = Figure(figsize=(WIDE, 0.155 * len(names) * lines + 1.15))
        axes = figure.subplots()
        look = looks(names)
        for place, (name, rank) in enumerate(zip(names, mean, strict=True)):
            style = look[name]
            axes.plot([rank - half, rank + half], [place, place], color=style.color, lw=2.5, alpha=0.4)
            axes.plot(rank, place, color=style.color, marker=style.marker, ls="")
        if BASELINE in names:
            axes.vlines(
                mean[names.index(BASELINE)], -0.5, len(names) - 0.4, color="0.6", lw=0.8, ls=":", zorder=0
            )
        if np.isfinite(critical_difference):
            start, above = mean.min() - half, -1.2
            axes.errorbar(start + half, above, xerr=half, color="black", lw=0.8, capsize=2)
            axes.annotate(
                f"critical difference {critical_difference:.2f}", (start + 2 * half, above), (4, 0),
                textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.4, -1.9)
        ticks = MaxNLocator(integer=True, steps=[1, 2, 5, 10]).tick_values(1, len(names))
        axes.set_xticks([1, *(tick for tick in ticks if np.diff(ticks)[0] / 2 + 1 < tick <= len(names))])
        axes.set_xlabel("mean rank over scenarios (1 is best)")
        note = "Two differ where their bars do not overlap (Nemenyi's test, 95%, all pairs at once)."
        say(figure, conditions, *([note] if np.isfinite(critical_difference) else []))
    return figure


def profiles(values: pd.DataFrame, metric: str, conditions: str) -> Figure:
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
    lower = _described(metric).better == "lower"
    with print_style():
        figure = Figure(figsize=(WIDE, 3.2))
        axes = figure.subplots()
        look = looks(names)
        at = np.geomspace(0.4, 1 / 0.4, GRID)
        for name in names:
            ratio = table.xs(name, level="allocator").div(uniform, axis=0).to_numpy(dtype=np.float64)
            with np.errstate(divide="ignore"):
                share, low, high = performance_profile(1 / ratio if lower else ratio, at)
            style = look[name]
            axes.plot(at, share, color=style.color, ls=style.linestyle, lw=1.0, label=name)
            axes.fill_between(at, low, high, color=style.color, alpha=0.1, lw=0)
        axes.axvline(1.0, color="0.6", lw=0.8, ls=":", zorder=0)
        axes.set_xscale("log")
        ticks = [0.4, 0.5, 0.7, 1.0, 1.4, 2.0, 2.5]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(at[0], at[-1])
        axes.set_ylim(0, 1)
        axes.set_xlabel(f"times as good as {BASELINE}: {_described(metric).label}")
        axes.set_ylabel("share of runs that are")
        if not (uniform > 0).any():
            said = f"undefined: {BASELINE}'s is never above 0"
            axes.text(0.5, 0.5, said, transform=axes.transAxes, ha="center", backgroundcolor="white")
        scenarios = f"{len(uniform)} scenario{'s' * (len(uniform) > 1)}"
        say(figure, conditions, f"{scenarios}; bands are 95% intervals.")
        legend_below(figure, _legend({0: axes}, look))
    return figure


def calibration(judged: pd.DataFrame, conditions: str) -> Figure:
    """True against predicted success probability by bin of the prediction, one panel a predictor.

    Dots are means over replicates with 95% intervals, their area the share of the phase's prompts. The
    first epoch, in which no prompt was seen before, is apart from the later ones.

    Raises ValueError where there is more than one scenario.
    """
    scenarios = judged.scenario.unique()
    if len(scenarios) > 1:
        raise ValueError(f"judged: calibration is of one scenario, found {', '.join(map(str, scenarios))}")
    with print_style():
        columns = 4
        names = [str(name) for name in judged.predictor.unique()]
        figure, panels = panel_for_each(names, height=1.6, columns=columns)
        look = looks(names, PREDICTOR_STYLES)
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
        finish(figure, panels, "predicted probability", "true probability", conditions, columns)
        note = "Means and 95% intervals over replicates; a dot's area is its bin's share of the prompts."
        say(figure, f"{scenarios[0]}. {conditions}", note)
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


def prediction_error(judged: pd.DataFrame, conditions: str) -> Figure:
    """Mean absolute error of the predicted success probability over training, one panel a scenario.

    Lines are means over replicates, bands 95% intervals. Shaded are the steps in which every replicate
    is still in its first epoch.
    """
    with print_style():
        names = [str(name) for name in judged.scenario.unique()]
        columns = 2 if len(names) <= 4 else 3
        figure, panels = panel_for_each(names, height=2.5, columns=columns)
        look = looks([str(name) for name in judged.predictor.unique()], PREDICTOR_STYLES)
        for scenario, axes in panels.items():
            here = judged[judged.scenario == scenario]
            last_epoch = here.groupby("steps").epoch.max()
            first = last_epoch.index[last_epoch == 0]
            if len(first):
                axes.axvspan(0, first.max() + 0.5, color="0.92", lw=0, zorder=0)
            for name, rows in here.groupby("predictor", sort=False):
                wide = rows.pivot(index="replicate", columns="steps", values="mae")
                at = wide.columns.to_numpy(dtype=np.float64)
                _line(axes, at, wide.to_numpy(), str(name), look, every=len(at) / 5)
            axes.set_xlim(0, here.steps.max())
            axes.set_ylim(bottom=-0.02 * here.mae.max())  # the oracle's line is at 0
        finish(figure, panels, "steps", "mean |predicted \N{MINUS SIGN} true probability|", "", columns)
        note = "Means and 95% intervals over replicates. Shaded: the first epoch, no prompt was seen before."
        say(figure, conditions, note)
        legend_below(figure, _legend(panels, look))
    return figure


def cost_breakdown(summary: pd.DataFrame, conditions: str) -> Figure:
    """What became of the generated rollouts: stacked shares of each allocator, one panel a scenario.

    The whisker is the 95% interval of the share that was of use or still may be. At a bar's end stand
    the generated rollouts per step.
    """
    allocators, scenarios = ([str(n) for n in summary[k].unique()] for k in ("allocator", "scenario"))
    every = pd.MultiIndex.from_product([scenarios, allocators])

    def table(column: str) -> pd.DataFrame:
        wide = summary.pivot(index=["scenario", "allocator"], columns="metric", values=column)
        return wide.reindex(index=every, columns=[*PARTS, "wasted_ratio", "rollouts_per_step"])

    estimate, high = table("estimate"), table("high")
    with print_style():
        long = folded_all(scenarios, TICKS)[1] > 1
        columns, many = 2 if len(scenarios) <= 4 or long else 3, len(allocators) > 15
        labels, lines = folded_all(allocators, TICKS)
        height = 0.6 + (0.11 if many else 0.14) * max(len(allocators), 3) * lines
        figure, panels = panel_for_each(scenarios, height=height, columns=columns, letters=columns * TICKS)
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
                axes.text(1.02, place, _bill(rollouts, end), fontsize=6, va="center")
            axes.annotate(
                "rollouts\nper step", (1.02, 1.0), xycoords="axes fraction", xytext=(0, 1),
                textcoords="offset points", fontsize=6, color="0.35",
            )  # fmt: skip
            named = number % columns == 0
            axes.set_yticks(places, labels if named else [""] * len(places), fontsize=6 if many else 7)
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
            axes.set_ylim(len(allocators) - 0.4, -0.6)
            axes.set_xlim(0, 1)
            axes.tick_params("y", length=0)
            title = axes.get_title()
            axes.set_title("")
            axes.set_title(title, loc="left", pad=16)  # above the heading of the bills
        finish(figure, panels, "share of generated rollouts", "", "", columns)
        say(figure, conditions, "Whisker: 95% interval of the share that was not wasted.")
        shown = [EFFECTIVE, *(PARTS[part] for part in PARTS if (estimate[part] > 0).any())]
        legend_below(figure, {label: Patch(color=color) for label, color in shown})
    return figure


def _bill(rollouts: float, high: float) -> str:
    if np.isnan(rollouts):
        return "not run"
    half = high - rollouts
    return f"{rollouts:.0f} ±{half:.0f}" if half >= 0.5 else f"{rollouts:.0f}"


# Curves


def _runs(curves: pd.DataFrame, scenario: str) -> dict[str, Run]:
    """The run of each allocator at the scenario's own learning rate."""
    here = curves[(curves.scenario == scenario) & (curves.rate == 1.0) & (curves.allocator != REFERENCE)]
    return {str(name): Run(rows) for name, rows in here.groupby("allocator", sort=False)}


def _accuracy(run: Run, axis: str, at: FloatArray) -> FloatArray:
    """Accuracy (R, A) at positions on an axis; a run that came to rest stays where it is."""
    x, y = held_level(run[axis], run["accuracy"], np.full(len(run.replicates), at[-1]))
    return interpolate_curves(x, y, at)


def _reference(curves: pd.DataFrame, scenario: str, steps: int, axis: str) -> tuple[float, float]:
    """What the reference run spent in so many steps and what it gained, means over replicates."""
    rows = curves[(curves.scenario == scenario) & (curves.allocator == REFERENCE)]
    if rows.empty:
        raise ValueError(f"curves: scenario {scenario} has no run called {REFERENCE}")
    run = Run(rows)
    gain = run.at_step("accuracy", steps) - run["accuracy"][:, 0]
    return float(run.at_step(axis, steps).mean()), float(gain.mean())


def _curve_panels(curves: pd.DataFrame) -> tuple[Figure, dict[str, Axes], int]:
    names = [str(name) for name in curves.scenario.unique()]
    columns = 2 if len(names) <= 4 else 3
    height = 2.5 if columns == 2 else 1.9 if len(names) <= 9 else 1.55
    figure, panels = panel_for_each(names, height=height, columns=columns)
    return figure, panels, columns


def _finish_curves(figure: Figure, panels: dict[str, Axes], axis: str, y: str, columns: int) -> None:
    finish(figure, panels, AXES[axis], y, "", columns)
    for axes in panels.values():
        least = axes.get_xlim()[1] < 2  # no "m" of thousandths
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g") if least else EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5))


def _line(
    axes: Axes,
    at: FloatArray,
    values: FloatArray,
    name: str,
    look: dict[str, Look],
    every: float = GRID / 5,
    partly: bool = False,
) -> None:
    """Mean of the values (R, A) over all replicates, or with `partly` over those that have one."""
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


def _keep_means_readable(axes: Axes) -> None:
    """Cut bands that dwarf the lines, as those of two seeds do, at as far from the lines as these reach."""
    means = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axes.get_lines()])
    if not np.isfinite(means).any():
        return
    least, most = np.nanmin(means), np.nanmax(means)
    low, high = axes.get_ylim()
    reach = most - least
    if reach > 0 and (low < least - reach or high > most + reach):
        axes.set_ylim(max(low, least - reach), min(high, most + reach))


def _allocator_looks(curves: pd.DataFrame) -> dict[str, Look]:
    return looks([str(name) for name in curves.allocator.unique() if name != REFERENCE])


def _legend(panels: dict[str, Axes] | dict[int, Axes], names: Iterable[str]) -> dict[str, Artist]:
    """One handle for each name that is drawn somewhere."""
    found: dict[str, Artist] = {}
    for axes in panels.values():
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return {name: found[name] for name in names if name in found}


def _steps(steps: dict[str, int], scenarios: Iterable[str]) -> str:
    numbers = sorted({steps[name] for name in scenarios})
    return f"{numbers[0]} steps" if len(numbers) == 1 else "the scenario's steps"


# Heat maps


def _described(metric: str) -> Metric:
    """What a metric is, also one at an allocator's own rate or of the prompts that began in one bin."""
    name = metric.removeprefix(TUNED_PREFIX)
    if name.startswith(ACCURACY_PREFIX):
        centre = name.removeprefix(ACCURACY_PREFIX)
        label = f"accuracy on prompts that began around {centre}"
        described = Metric(name, label, "share solved", "higher", label)
    else:
        described = METRICS[name]
    return described if name == metric else described._replace(label=f"{described.label}, at its best rate")


def _typical(sizes: FloatArray, least: float) -> float:
    """Where colours saturate: nine tenths of the sizes are within."""
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return max(float(np.quantile(sizes, 0.9)), least) if len(sizes) else least


def _cells(
    axes: Axes, values: FloatArray, norm: Normalize, colours: Colormap, apart: BoolArray, number: str
) -> None:
    """Coloured cells (A, S) with their numbers, the first row on top; pale where not `apart`."""
    shades = colours(norm(np.clip(values, norm.vmin, norm.vmax)))
    shades[..., :3] = np.where(apart[..., None], shades[..., :3], 0.65 + 0.35 * shades[..., :3])
    shades[np.isnan(values)] = (0.95, 0.95, 0.95, 1.0)
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    axes.pcolormesh(shades, edgecolors="white", linewidth=0.5)
    brightness = shades[..., :3] @ np.array([0.299, 0.587, 0.114])
    for (row, column), value in np.ndenumerate(values):
        sure = apart[row, column]
        axes.text(
            column + 0.5,
            row + 0.5,
            "–" if np.isnan(value) else _short(value, number),
            ha="center",
            va="center",
            fontsize=6,
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
