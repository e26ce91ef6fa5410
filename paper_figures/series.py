"""From curves and values of replicates to rows of a figure: means and 95% intervals over replicates.

All take what `Sources` gives and return rows with the columns of drawing.py. Ratios and differences are
paired by replicate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from paper_figures.drawing import COLUMNS, OURS
from rolloutbench.curves import Run, held_level
from rolloutbench.metrics import BASELINE, COUNT_PREFIX, REFERENCE
from rolloutbench.protocol import FloatArray
from rolloutbench.statistics import Interval, interpolate_curves, mean_interval, ratio_interval

GRID = 41
"""Positions on the common axis of curves."""


def rows(panel: str, series: str, x: ArrayLike, interval: Interval) -> pd.DataFrame:
    """Rows of ours: x, and the interval's estimate and ends."""
    value, low, high = (np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in interval)
    table = pd.DataFrame({"x": np.atleast_1d(x), "value": value, "low": low, "high": high})
    return table.assign(panel=panel, series=series, source=OURS)[list(COLUMNS)]


def exact(panel: str, series: str, x: ArrayLike, value: ArrayLike) -> pd.DataFrame:
    """Rows of ours that are computed, not estimated: without intervals."""
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    nothing = np.full(values.shape, np.nan)
    return rows(panel, series, x, Interval(values, nothing, nothing))


def runs(curves: pd.DataFrame, scenario: str) -> dict[str, Run]:
    """The runs of a scenario at its own learning rate, by allocator; the reference run is left out."""
    here = curves[(curves.scenario == scenario) & (curves.rate == 1.0) & (curves.allocator != REFERENCE)]
    return {str(name): Run(found) for name, found in here.groupby("allocator", sort=False)}


def along(
    run: Run, panel: str, series: str, y: FloatArray, axis: str, until: float, points: int = GRID
) -> pd.DataFrame:
    """Values y (R, T) at a run's evaluations, against `axis`, at equal places from 0 to `until`.

    Only as far as all replicates went. Where a run came to rest its level is held.
    """
    at = np.linspace(0.0, until, points)
    x, held = held_level(run[axis], y, np.full(len(y), until))
    values = interpolate_curves(x, held, np.broadcast_to(at, (len(y), points)))
    values = np.where(np.isnan(values).any(axis=0), np.nan, values)
    return rows(panel, series, at, mean_interval(values.T)).dropna(subset="value")


def between(
    run: Run, panel: str, series: str, above: str, below: str | float, steps: int | None = None
) -> pd.DataFrame:
    """What was done between evaluations, at their steps: growth of a sum by that of another.

    `above` and `below` are columns of sums since the start; a number below divides the growth of `above`
    for each step, so `between(run, ..., "rollouts", 128)` is rollouts per prompt of a batch of 128.
    """
    more = np.diff(run[above], axis=1)
    divisor = run[below] if isinstance(below, str) else below * run["steps"]
    less = np.diff(divisor, axis=1)
    share = np.divide(more, less, out=np.full(more.shape, np.nan), where=less > 0)
    at = np.nanmax(run["steps"], axis=0)[1:]
    found = rows(panel, series, at, mean_interval(share.T)).dropna(subset="value")
    return found if steps is None else found[found.x <= steps]


def by_success(
    curves: pd.DataFrame, scenario: str, steps: int, phases: Mapping[str, tuple[float, float]]
) -> pd.DataFrame:
    """Mean rollouts of a prompt by its true success probability, a panel for each phase of the steps.

    `phases` are shares of the steps, as {"first third": (0, 1/3)}. `curves` has the columns counts@.
    """
    columns = [name for name in curves if str(name).startswith(COUNT_PREFIX)]
    p = np.array([float(str(name).removeprefix(COUNT_PREFIX)) for name in columns])
    here = curves[(curves.scenario == scenario) & (curves.rate == 1.0) & (curves.allocator != REFERENCE)]
    found = []
    for panel, (begin, end) in phases.items():
        part = here[(here.steps > begin * steps) & (here.steps <= end * steps)]
        for name, of_allocator in part.groupby("allocator", sort=False):
            means = of_allocator.groupby("replicate")[columns].mean().to_numpy(dtype=np.float64)
            found.append(rows(panel, str(name), p, mean_interval(means.T)).dropna(subset="value"))
    return pd.concat(found, ignore_index=True)


def compared(
    values: pd.DataFrame,
    metric: str,
    how: str = "ratio",
    against: str = BASELINE,
    panels: Mapping[str, str] | None = None,
    allocators: Iterable[str] = (),
) -> pd.DataFrame:
    """A row for each allocator, a panel for each scenario: `ratio`, `difference` or the `value` itself.

    Ratio and difference are to the allocator `against`, paired by replicate. `panels` gives scenarios
    their titles and their order; `allocators` chooses and orders.
    """
    of_metric = values[values.metric == metric]
    found = []
    for scenario, panel in (panels or {name: name for name in of_metric.scenario.unique()}).items():
        wide = of_metric[of_metric.scenario == scenario].pivot(
            index="allocator", columns="replicate", values="value"
        )
        order = list(allocators) or [n for n in of_metric.allocator.unique() if n in wide.index]
        for name in order:
            interval = _compare(wide.loc[name].to_numpy(), wide.loc[against].to_numpy(), how)
            found.append(rows(panel, name, [name], interval))
    return pd.concat(found, ignore_index=True)


def _compare(values: FloatArray, baseline: FloatArray, how: str) -> Interval:
    compare: dict[str, Callable[[], Interval]] = {
        "ratio": lambda: ratio_interval(values, baseline),
        "difference": lambda: mean_interval(values - baseline),
        "value": lambda: mean_interval(values),
    }
    return compare[how]()
