"""Figures of training runs: what a policy gained over what was spent, and who got the rollouts.

Curves are the rows that `analysis.curves.learning_metrics` takes. "Points" are percentage points of
accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FormatStrFormatter, MaxNLocator

from rolloutbench.analysis.curves import LearningCurves, held_level
from rolloutbench.analysis.metrics import AXES, TARGETS
from rolloutbench.analysis.pictures import PRINT, Page
from rolloutbench.analysis.plotting.lines import (
    GRID,
    draw_mean,
    legend_entries,
    name_coinciding,
    pale_said,
)
from rolloutbench.analysis.plotting.panels import (
    Captioned,
    finish,
    fitted,
    folded,
    legend_below,
    panel_for_each,
)
from rolloutbench.analysis.plotting.style import Look, looks, print_style
from rolloutbench.analysis.statistics import interpolate_curves, mean_interval
from rolloutbench.cells.collectors import BASELINE, COUNT_PREFIX, REFERENCE
from rolloutbench.protocol import FloatArray

PHASES = ("first", "middle", "last")
"""Thirds of a run's steps, in each of which allocations are shown."""


def learning_curves(
    curves: pd.DataFrame, steps: dict[str, int], axis: str, conditions: str, page: Page = PRINT
) -> Captioned:
    """Gain in held-out accuracy against an axis of `metrics.AXES`, one panel a scenario.

    Lines are means over replicates, each at the rate it is judged by, as far as all replicates went and up to
    what the reference run spent in the scenario's `steps`; bands are 95% intervals. Dotted are the
    targets: shares of the reference run's mean gain.
    """
    with print_style():
        figure, panels, shape = _curve_panels(curves, page)
        look = _allocator_looks(curves)
        strong = page.strong(look)
        for scenario, axes in panels.items():
            runs = _runs(curves, scenario)
            spent, gain = _reference(curves, scenario, steps[scenario], axis)
            at = np.linspace(0.0, spent, GRID)
            for name in page.shown(runs):
                run = runs[name]
                gained = 100 * (_accuracy(run, axis, at) - run["accuracy"][:, :1])
                draw_mean(axes, at, gained, name, look, strong=name in strong)
            for share in TARGETS if gain > 0 else ():
                height = 100 * share * gain
                axes.axhline(height, color="0.4", lw=0.7, ls=":", zorder=1)
                axes.annotate(
                    f"{100 * share:g}%", (1.01, height), xycoords=axes.get_yaxis_transform(),
                    fontsize=7, color="0.4", va="center",
                )  # fmt: skip
            axes.set_xlim(0, spent)
            _keep_means_readable(axes)
        _finish_curves(figure, panels, axis, "accuracy gain (points)", shape)
        targets = " and ".join(f"{100 * share:g}%" for share in TARGETS)
        figure.say(
            conditions,
            "Held-out accuracy, means and 95% intervals, up to what the reference run spent in "
            f"{_steps(steps, panels)}. Dotted: {targets} of its gain.",
            pale_said(page.shown(look), strong),
        )
        legend_below(figure, legend_entries(panels, look))
    return figure


def difference_curves(
    curves: pd.DataFrame, steps: dict[str, int], axis: str, conditions: str, page: Page = PRINT
) -> Captioned:
    """Held-out accuracy minus uniform's against an axis of `metrics.AXES`, one panel a scenario.

    The difference is taken replicate by replicate at the same spending; bands are 95% intervals of its
    mean. Otherwise like `learning_curves`.
    """
    with print_style():
        figure, panels, shape = _curve_panels(curves, page)
        look = _allocator_looks(curves)
        drawn = [name for name in page.shown(look) if name != BASELINE]
        strong = page.strong(drawn)
        for scenario, axes in panels.items():
            runs = _runs(curves, scenario)
            spent, _ = _reference(curves, scenario, steps[scenario], axis)
            at = np.linspace(0.0, spent, GRID)
            axes.axhline(0.0, color="black", lw=1.0, zorder=1)
            base = runs.pop(BASELINE)
            baseline = _accuracy(base, axis, at)
            for name in page.shown(runs):
                run = runs[name]
                _, ours, theirs = np.intersect1d(run.replicates, base.replicates, return_indices=True)
                apart = 100 * (_accuracy(run, axis, at)[ours] - baseline[theirs])
                draw_mean(axes, at, apart, name, look, strong=name in strong)
            axes.set_xlim(0, spent)
        _finish_curves(figure, panels, axis, f"points above {BASELINE}", shape)
        figure.say(
            conditions,
            f"Held-out accuracy minus {BASELINE}'s, means and 95% intervals of pairs, up to what "
            f"the reference run spent in {_steps(steps, panels)}.",
            pale_said(drawn, strong),
        )
        legend_below(figure, legend_entries(panels, look))
    return figure


def allocation_over_time(
    curves: pd.DataFrame, steps: dict[str, int], conditions: str, page: Page = PRINT
) -> Captioned:
    """Mean rollouts a prompt gets by its true success probability, in three thirds of a run's steps.

    A row of panels is a scenario. Bands are 95% intervals over replicates. Uniform at smaller groups is
    left out: its lines are flat.
    """
    scenarios = [str(name) for name in curves.scenario.unique()]
    columns = [name for name in curves.columns if name.startswith(COUNT_PREFIX)]
    p = np.array([float(name.removeprefix(COUNT_PREFIX)) for name in columns])
    kept = curves[(curves.allocator != REFERENCE) & (curves.steps > 0)]
    kept = kept[~kept.allocator.str.startswith(f"{BASELINE}[")]
    drawn = page.shown(kept.allocator.unique())
    strong = page.strong(drawn)
    with print_style():
        titles = [folded(name, min(page.letters, 30)) for name in scenarios]
        lines = max(map(len, titles))
        wide, above = page.width / len(PHASES), 0.0 if not page.is_narrow else 0.15
        high = 1.55 + above if lines == 1 else 2.2 + above
        figure = Captioned(figsize=(page.width, high * len(scenarios) + 0.5 + above))
        grid = figure.subplots(len(scenarios), len(PHASES), squeeze=False, sharex=True, sharey="row")
        look = _allocator_looks(curves)
        for scenario, title, row in zip(scenarios, titles, grid, strict=True):
            here = kept[(kept.scenario == scenario) & (kept.steps <= steps[scenario])]
            phases = np.ceil(len(PHASES) * here.steps / steps[scenario]).astype(int) - 1
            shown: list[FloatArray] = []
            for phase, axes in enumerate(row):
                ends = [round(steps[scenario] * part / len(PHASES)) for part in (phase, phase + 1)]
                said = f"{PHASES[phase]} third: steps {ends[0] + 1} to {ends[1]}"
                axes.set_title(fitted(said, wide - 0.3, 7)[0], fontsize=7)
                for name, rows in here[phases == phase].groupby("allocator", sort=False):
                    if name not in drawn:
                        continue
                    means = rows.groupby("replicate")[columns].mean().to_numpy()
                    stands_out = name in strong
                    draw_mean(axes, p, means, str(name), look, every=10, partly=True, strong=stands_out)
                    shown.append(mean_interval(means.T).estimate)
            heights = np.concatenate([*shown, [np.nan]])
            row[0].set_yscale("log", base=2)
            if np.isfinite(heights).any():
                row[0].set_ylim(np.nanmin(heights) / 1.3, np.nanmax(heights) * 1.3)
            row[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
            row[0].set_ylabel("\n".join([*title, "rollouts per prompt"]))
        ticks = {0.0: "0", 0.25: ".25", 0.5: ".5", 0.75: ".75", 1.0: "1"}
        if page.is_narrow:
            ticks = {at: said for at, said in ticks.items() if len(said) < 3}
        for axes in grid[-1]:
            axes.set_xlim(0, 1)
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.set_xlabel(fitted("success probability of the prompt", wide - 0.2, 8)[0])
        coinciding = {name_coinciding(row, wide - 0.3) for row in grid}
        figure.say(
            conditions,
            "Means and 95% intervals over replicates, of prompts that were rolled out.",
            *sorted(coinciding),
            pale_said(drawn, strong),
        )
        legend_below(figure, legend_entries(dict(enumerate(grid.flat)), look))
    return figure


def _runs(curves: pd.DataFrame, scenario: str) -> dict[str, LearningCurves]:
    """The run of each allocator at the scenario's own learning rate."""
    here = curves[(curves.scenario == scenario) & (curves.allocator != REFERENCE)]
    return {str(name): LearningCurves(rows) for name, rows in here.groupby("allocator", sort=False)}


def _accuracy(run: LearningCurves, axis: str, at: FloatArray) -> FloatArray:
    """Accuracy (R, A) at positions on an axis; a run that came to rest stays where it is."""
    x, y = held_level(run[axis], run["accuracy"], np.full(len(run.replicates), at[-1]))
    return interpolate_curves(x, y, at)


def _reference(curves: pd.DataFrame, scenario: str, steps: int, axis: str) -> tuple[float, float]:
    """What the reference run spent in so many steps and what it gained, means over replicates."""
    rows = curves[(curves.scenario == scenario) & (curves.allocator == REFERENCE)]
    if rows.empty:
        raise ValueError(f"curves: scenario {scenario} has no run called {REFERENCE}")
    run = LearningCurves(rows)
    gain = run.at_step("accuracy", steps) - run["accuracy"][:, 0]
    return float(run.at_step(axis, steps).mean()), float(gain.mean())


def _curve_panels(curves: pd.DataFrame, page: Page) -> tuple[Captioned, dict[str, Axes], int]:
    names = [str(name) for name in curves.scenario.unique()]
    wanted = 2 if len(names) <= 4 else 3
    high = 2.5 if wanted == 2 else 1.9 if len(names) <= 9 else 1.55
    columns, height = page.shape(wanted, high)
    figure, panels = panel_for_each(names, height=height, columns=columns, width=page.width)
    return figure, panels, columns


def _finish_curves(figure: Captioned, panels: dict[str, Axes], axis: str, y: str, columns: int) -> None:
    finish(figure, panels, AXES[axis], y, columns)
    for axes in panels.values():
        least = axes.get_xlim()[1] < 2  # no "m" of thousandths
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g") if least else EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5 if figure.get_figwidth() / columns > 2 else 3))


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


def _steps(steps: dict[str, int], scenarios: Iterable[str]) -> str:
    numbers = sorted({steps[name] for name in scenarios})
    return f"{numbers[0]} steps" if len(numbers) == 1 else "the scenario's steps"
