"""From training curves to numbers: the same for simulated and for real runs.

A table of curves has one row for each scenario, allocator, rate (factor of the learning rate), replicate
and evaluation, with sums since the start: see `metrics.AXES` for what a curve can be read against,
and `metrics.LEARNING_METRICS` for what is made of it. A scenario's yardsticks come from one reference run:
uniform, the scenario's own learning rate, random numbers of its own. Its gain in accuracy fixes the
targets of each replicate; what it spent in the scenario's steps is where allocators are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from rolloutbench.analysis.metrics import PREDICTION_SCORES, TARGETS, TUNED_PREFIX, Metric, describe
from rolloutbench.analysis.statistics import (
    Interval,
    area_under_curve,
    average_ranks,
    crossfit_choice,
    first_reached,
    interpolate_curves,
    paired_bootstrap,
    probability_of_improvement,
    ratio_of_iqms,
    ratio_of_means,
)
from rolloutbench.cells.collectors import BASELINE, HORIZON, REFERENCE
from rolloutbench.protocol import BoolArray, FloatArray


class LearningCurves:
    """The curves of one allocator at one learning rate: arrays (R, T) by column, replicates in order.

    Blocks of replicates may end at different steps; shorter curves are padded with NaN.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows.sort_values(["replicate", "steps"], kind="stable")
        self.replicates, self._row = np.unique(self._rows["replicate"].to_numpy(), return_inverse=True)
        self._place = self._rows.groupby("replicate").cumcount().to_numpy()

    def __getitem__(self, column: str) -> FloatArray:
        values = np.full((len(self.replicates), self._place.max() + 1), np.nan)
        values[self._row, self._place] = self._rows[column]
        return values

    @property
    def columns(self) -> list[str]:
        """Names of the recorded columns."""
        return list(self._rows.columns)

    def at_step(self, column: str, step: float | FloatArray) -> FloatArray:
        """The value (R,) at a step, or at one of each replicate (R,), linear between evaluations."""
        at = np.broadcast_to(np.asarray(step, dtype=np.float64), (len(self.replicates),))
        return interpolate_curves(self["steps"], self[column], at[:, None])[:, 0]


class Sums(dict[str, FloatArray]):
    """Sums (R,) of a run over its scenario's steps by column; a run that made fewer has those it made.

    `steps` are the steps that were made, at least 1.
    """

    def __init__(self, curves: LearningCurves, steps: int) -> None:
        self._curves = curves
        super().__init__(steps=np.maximum(np.minimum(steps, _last(curves["steps"])[:, 0]), 1))

    def __missing__(self, column: str) -> FloatArray:
        """A column is read when a metric asks for it."""
        self[column] = self._curves.at_step(column, self["steps"])
        return self[column]


class AgainstReference:
    """A run beside its scenario's reference run, as `formulas.Measured` has it."""

    def __init__(self, curves: LearningCurves, reference: LearningCurves, steps: int) -> None:
        self.curves, self._reference, self._steps = curves, reference, steps
        self.sums = Sums(curves, steps)
        self._spent_on: dict[str, FloatArray] = {}
        self._held: dict[tuple[str, str], tuple[FloatArray, FloatArray]] = {}
        self._reached: dict[str, tuple[FloatArray, FloatArray]] = {}

    @cached_property
    def _initial(self) -> FloatArray:
        """Accuracy (R, 1) before training."""
        return self.curves["accuracy"][:, :1]

    @cached_property
    def _within(self) -> BoolArray:
        """Which evaluations (R, T) are of the scenario's steps."""
        return self.curves["steps"] <= self._steps

    def mean(self, column: str) -> FloatArray:
        """Mean (R,) of the values that are there within the scenario's steps."""
        values = self.curves[column]
        there = self._within & ~np.isnan(values)
        count = there.sum(axis=1)
        total = np.where(there, values, 0.0).sum(axis=1)
        mean: FloatArray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
        return mean

    def level(self, column: str, axis: str) -> FloatArray:
        """Value (R,) where as much is spent as the reference run spent."""
        x, y = self._until_horizon(column, axis)
        return interpolate_curves(x, y, self._spent(axis)[:, None])[:, 0]

    def area(self, axis: str) -> FloatArray:
        """Mean gain in accuracy (R,) up to what the reference run spent."""
        x, y = self._until_horizon("accuracy", axis)
        return area_under_curve(x, y - self._initial, self._spent(axis))

    def reached(self, axis: str, share: float) -> tuple[FloatArray, FloatArray]:
        """When and whether (R,); `share` is one of `TARGETS`."""
        if axis not in self._reached:
            gain = self._reference.at_step("accuracy", self._steps) - self._initial[:, 0]
            targets = self._initial + gain[:, None] * np.array(TARGETS)
            x, y = self._until_horizon("accuracy", axis)
            self._reached[axis] = _reached(x, y, targets, HORIZON * self._spent(axis))
        when, whether = self._reached[axis]
        place = TARGETS.index(share)
        return when[:, place], whether[:, place]

    def _spent(self, axis: str) -> FloatArray:
        """What the reference run spent (R,) in the scenario's steps."""
        if axis not in self._spent_on:
            self._spent_on[axis] = self._reference.at_step(axis, self._steps)
        return self._spent_on[axis]

    def _until_horizon(self, column: str, axis: str) -> tuple[FloatArray, FloatArray]:
        """A curve over an axis, both (R, T + 1); one that came to rest goes on as far as runs do."""
        if (column, axis) not in self._held:
            until = HORIZON * self._spent(axis)
            self._held[column, axis] = held_level(self.curves[axis], self.curves[column], until)
        return self._held[column, axis]


def learning_metrics(
    curves: pd.DataFrame, steps: Mapping[str, int], metrics: Mapping[str, Metric]
) -> pd.DataFrame:
    """All metrics of a kind of study in long form: scenario, allocator, replicate, metric, value.

    `steps` are each scenario's; `metrics` are the catalogue's for this kind of study, each of which has a
    formula. Metrics are those at the scenario's own learning rate, where it was run. If several were, each
    metric is there also with the prefix `tuned_`: at the rate with the largest area over rollouts, chosen
    for the even replicates on the odd ones and the other way round, so that the choice itself gains
    nothing.
    """
    tables = []
    for scenario, of_scenario in curves.groupby("scenario", sort=False):
        reference = LearningCurves(of_scenario[of_scenario.allocator == REFERENCE])
        others = of_scenario[of_scenario.allocator != REFERENCE]
        for allocator, of_allocator in others.groupby("allocator", sort=False):
            measured = {}
            for rate, rows in of_allocator.groupby("rate"):
                run = AgainstReference(LearningCurves(rows), reference, steps[str(scenario)])
                measured[float(str(rate))] = evaluate(metrics, run)
            values = dict(measured.get(1.0, {}))
            if len(measured) > 1:
                names = list(next(iter(measured.values())))
                stacked = {name: np.stack([found[name] for found in measured.values()]) for name in names}
                best = crossfit_choice(stacked["area_over_rollouts"])[None]
                chosen = np.array(list(measured))[best[0]]
                for name in names:
                    values[TUNED_PREFIX + name] = np.take_along_axis(stacked[name], best, axis=0)[0]
                values[TUNED_PREFIX + "rate"] = chosen
            tables.append(_long(str(scenario), str(allocator), reference.replicates, values))
    return pd.concat(tables, ignore_index=True)


def evaluate(metrics: Mapping[str, Metric], run: AgainstReference) -> dict[str, FloatArray]:
    """Every metric (R,) of a run; a family of metrics has one for each of the run's columns of its prefix.

    Raises ValueError where a metric has no formula.
    """
    found, columns = {}, run.curves.columns
    for metric in metrics.values():
        for member in metric.members(columns):
            if member.of is None:
                raise ValueError(f"metric {member.name}: has no formula")
            found[member.name] = member.of(run)
    return found


def _long(
    scenario: str, allocator: str, replicates: FloatArray, values: dict[str, FloatArray]
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scenario": scenario,
            "allocator": allocator,
            "replicate": np.tile(replicates, len(values)),
            "metric": np.repeat(list(values), len(replicates)),
            "value": np.concatenate(list(values.values())),
        }
    )


def _last(values: FloatArray, back: int = 1) -> FloatArray:
    """The last value (R, 1) of each padded curve (R, T), or one before it."""
    count = np.count_nonzero(~np.isnan(values), axis=1)[:, None]
    return np.take_along_axis(values, np.maximum(count - back, 0), axis=1)


def held_level(x: FloatArray, y: FloatArray, until: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Curves (R, T + 1) of which those that came to rest go on as they are until `until` (R,).

    An allocator that has retired all of its prompts generates and learns nothing more, however long it
    is followed: what it reached it keeps.
    """
    end = _last(x)
    rests = (end == _last(x, 2)) & (end < until[:, None])
    x = np.concatenate([np.where(np.isnan(x), end, x), np.where(rests, until[:, None], end)], axis=1)
    return x, np.concatenate([np.where(np.isnan(y), _last(y), y), _last(y)], axis=1)


def _reached(
    x: FloatArray, y: FloatArray, targets: FloatArray, until: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """When and whether targets were reached (R, M); NaN for a run that ended before `until` without that."""
    known = x[:, -1:] >= until[:, None]
    x = np.concatenate([x, np.maximum(x[:, -1:], until[:, None])], axis=1)
    times = first_reached(x, np.concatenate([y, y[:, -1:]], axis=1), targets, until)
    observed = times.reached | known
    return np.where(observed, times.when, np.nan), np.where(observed, times.reached, np.nan)


def across_scenarios(values: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, float]:
    """Compare allocators over all scenarios by one metric; and the critical difference of mean ranks.

    Columns, best mean rank first: allocator; mean_rank of the scenario means; better, the share of
    (scenario, replicate) pairs in which it beats uniform, ties half; ratio, the mean over scenarios of
    the ratio of means to uniform; iqm_ratio, the same of interquartile means; each with _low and _high,
    95% by bootstrap over replicates, which are drawn for all scenarios together.
    """
    sign = describe(metric).sign or 1
    wide = values[values.metric == metric].pivot_table(
        index=["allocator", "scenario"], columns="replicate", values="value", sort=False, dropna=False
    )
    allocators, scenarios = (values[name].unique() for name in ("allocator", "scenario"))
    wide = wide.reindex(pd.MultiIndex.from_product([allocators, scenarios]))
    shape = len(allocators), len(scenarios)
    cube = wide.to_numpy(dtype=np.float64).reshape(*shape, -1)
    uniform = cube[list(allocators).index(BASELINE)]
    ranking = pd.DataFrame({"allocator": allocators})
    ranks = average_ranks(sign * wide.mean(axis=1).to_numpy().reshape(shape)) if len(allocators) > 1 else None
    ranking["mean_rank"] = 1.0 if ranks is None else ranks.mean
    better = [probability_of_improvement(sign * scores, sign * uniform, paired=True) for scores in cube]
    for part in Interval._fields:
        ranking[_named("better", part)] = [float(getattr(interval, part)) for interval in better]
    for name, ratio in (("ratio", ratio_of_means), ("iqm_ratio", ratio_of_iqms)):
        found = paired_bootstrap(
            lambda a, b, ratio=ratio: ratio(a, b).mean(axis=1), cube, np.broadcast_to(uniform, cube.shape)
        )
        for part, ends in found._asdict().items():
            ranking[_named(name, part)] = ends
    ranking = ranking.sort_values("mean_rank", kind="stable", ignore_index=True)
    return ranking, np.nan if ranks is None else ranks.critical_difference


def _named(name: str, part: str) -> str:
    return name if part == "estimate" else f"{name}_{part}"


class Judged:
    """Judged predictions in groups, one a replicate and phase, as `formulas.Recorded` has them."""

    def __init__(self, groups: DataFrameGroupBy[Any, Any]) -> None:
        self._groups = groups
        summed = groups.sum(numeric_only=True)
        self.keys = summed.index.to_frame(index=False)
        self.sums = {str(name): summed[name].to_numpy() for name in summed}

    def mean(self, column: str) -> FloatArray:
        """Mean of a column over the steps of each group."""
        found: FloatArray = self._groups[column].mean().to_numpy()
        return found


def prediction_metrics(judged: pd.DataFrame) -> pd.DataFrame:
    """Scores over the first epoch and over the rest, in long form; the predictor is the `allocator`."""
    phase = np.where(judged.epoch == 0, "first_epoch", "later")
    keys = ["scenario", "predictor", "replicate", "phase"]
    groups = Judged(judged.assign(phase=phase).groupby(keys, sort=False))
    parts = [
        groups.keys.assign(metric=score.name + "_" + groups.keys.phase, value=score.of(groups))
        for score in PREDICTION_SCORES
        if score.of is not None
    ]
    long = pd.concat(parts, ignore_index=True).rename(columns={"predictor": "allocator"})
    return long[["scenario", "allocator", "replicate", "metric", "value"]]
