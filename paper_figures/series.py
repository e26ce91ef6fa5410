"""From curves and values of replicates to rows of a figure: means and 95% intervals over replicates.

All take what `Sources` gives and return rows with the columns of drawing.py. Ratios and differences are
paired by replicate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from paper_figures.drawing import COLUMNS, OURS
from rolloutbench.analysis.curves import LearningCurves, held_level
from rolloutbench.analysis.statistics import (
    Interval,
    Reached,
    interpolate_curves,
    mean_interval,
    median_reached,
    ratio_interval,
)
from rolloutbench.analysis.yardsticks import method_of
from rolloutbench.cells.collectors import BASELINE, COUNT_BINS, COUNT_PREFIX, REFERENCE, count_metric
from rolloutbench.protocol import FloatArray

GRID = 41
"""Number of positions on the common axis of curves."""
COUNTS = tuple(count_metric(b) for b in range(COUNT_BINS))
"""Names of the columns of curves that `by_success` reads."""
EQUAL = {
    "accuracy_at_steps": "equal steps",
    "accuracy_at_rollouts": "equal rollouts",
}
"""Metrics of held-out accuracy, and what is equal: what uniform spends in the study's steps."""
EQUAL_OR_TIMED = EQUAL | {"accuracy_at_seconds": "equal seconds"}


def rows(panel: str, series: str, x: ArrayLike, interval: Interval) -> pd.DataFrame:
    """Rows of ours for a figure: x, and the interval's estimate and ends."""
    value, low, high = (np.atleast_1d(np.asarray(part, dtype=np.float64)) for part in interval)
    table = pd.DataFrame({"x": np.atleast_1d(x), "value": value, "low": low, "high": high})
    return table.assign(panel=panel, series=series, source=OURS)[list(COLUMNS)]


def exact(panel: str, series: str, x: ArrayLike, value: ArrayLike) -> pd.DataFrame:
    """Rows of ours that are computed, not estimated: without intervals."""
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    nothing = np.full(values.shape, np.nan)
    return rows(panel, series, x, Interval(values, nothing, nothing))


def runs(curves: pd.DataFrame, scenario: str) -> dict[str, LearningCurves]:
    """The runs of a scenario at its own learning rate, by allocator; the reference run is left out."""
    here = curves[(curves.scenario == scenario) & (curves.rate == 1.0) & (curves.allocator != REFERENCE)]
    return {str(name): LearningCurves(found) for name, found in here.groupby("allocator", sort=False)}


def along(
    run: LearningCurves, panel: str, series: str, y: FloatArray, axis: str, until: float, points: int = GRID
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
    run: LearningCurves, panel: str, series: str, above: str, below: str | float, steps: int | None = None
) -> pd.DataFrame:
    """Growth of a sum between evaluations over that of another, at the steps of the evaluations.

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
    """Compare allocators by a metric: a row for each, a panel for each scenario.

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
            interval = compare(wide.loc[name].to_numpy(), wide.loc[against].to_numpy(), how)
            found.append(rows(panel, name, [name], interval))
    return pd.concat(found, ignore_index=True)


def compare(values: FloatArray, baseline: FloatArray, how: str) -> Interval:
    """Ratio, difference or the value itself, over the last axis (..., R) of paired values."""
    compared_by: dict[str, Callable[[], Interval]] = {
        "ratio": lambda: ratio_interval(values, baseline),
        "difference": lambda: mean_interval(values - baseline),
        "value": lambda: mean_interval(values),
    }
    return compared_by[how]()


def scaled(table: pd.DataFrame, factor: float, offset: float = 0.0) -> pd.DataFrame:
    """Values and ends of intervals times a factor above 0, plus an offset."""
    return table.assign(**{name: factor * table[name] + offset for name in ("value", "low", "high")})


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Shares as percent, and differences of shares as points."""
    return scaled(table, 100)


def named(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Rows with short names, whose series is the method alone."""
    return table.assign(x=table.x.map(names), series=table.series.map(method_of))


def expected_responses(p: FloatArray, stages: int, per_stage: int) -> FloatArray:
    """E[n | p] = k sum_{s<S} (1-p)^(k s): a stage of k is paid for unless an earlier one had a success."""
    failed = np.power.outer(1 - p, per_stage * np.arange(stages))
    expected: FloatArray = per_stage * failed.sum(axis=-1)
    return expected


def median_seconds(call: Callable[[], object], repeats: int) -> Interval:
    """Median over calls, after one that is not counted, with its exact 95% interval, which needs six."""
    call()
    seconds = np.empty(repeats)
    for i in range(repeats):
        started = time.perf_counter()
        call()
        seconds[i] = time.perf_counter() - started
    return median_reached(Reached(seconds, np.full(repeats, True)))
