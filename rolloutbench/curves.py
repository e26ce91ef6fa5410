"""From training curves to numbers: the same for simulated and for real runs.

A table of curves has one row for each scenario, allocator, rate (factor of the learning rate), replicate
and evaluation, with sums since the start: see `AXES` for what a curve can be read against, and
`metrics.LEARNING_METRICS` for what is made of it. A scenario's yardsticks come from one reference run:
uniform, the scenario's own learning rate, random numbers of its own. Its gain in accuracy fixes the
targets of each replicate; what it spent in the scenario's steps is where allocators are compared.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from rolloutbench.metrics import (
    ACCURACY_PREFIX,
    AXES,
    BASELINE,
    CALIBRATION_BINS,
    COUNT_PREFIX,
    DISCARDED,
    HORIZON,
    METRICS,
    REFERENCE,
    TARGETS,
    TUNED_PREFIX,
)
from rolloutbench.protocol import BoolArray, FloatArray
from rolloutbench.statistics import (
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


class Run:
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
        """The names of what was recorded."""
        return list(self._rows.columns)

    def at_step(self, column: str, step: float | FloatArray) -> FloatArray:
        """The value (R,) at a step, or at one of each replicate (R,), linear between evaluations."""
        at = np.broadcast_to(np.asarray(step, dtype=np.float64), (len(self.replicates),))
        return interpolate_curves(self["steps"], self[column], at[:, None])[:, 0]


def learning_metrics(curves: pd.DataFrame, steps: dict[str, int]) -> pd.DataFrame:
    """All metrics in long form: scenario, allocator, replicate, metric, value. `steps`: of each scenario.

    Metrics are those at the scenario's own learning rate, where it was run. If several were, each metric
    is there also with the prefix `tuned_`: at the rate with the largest area over rollouts, chosen for
    the even replicates on the odd ones and the other way round, so that the choice itself gains nothing.
    """
    tables = []
    for scenario, of_scenario in curves.groupby("scenario", sort=False):
        reference = Run(of_scenario[of_scenario.allocator == REFERENCE])
        others = of_scenario[of_scenario.allocator != REFERENCE]
        for allocator, of_allocator in others.groupby("allocator", sort=False):
            runs = {float(str(rate)): Run(rows) for rate, rows in of_allocator.groupby("rate")}
            measured = {rate: _measure(run, reference, steps[str(scenario)]) for rate, run in runs.items()}
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


def _measure(run: Run, reference: Run, steps: int) -> dict[str, FloatArray]:
    """Every metric of one run, each (R,)."""
    accuracy = run["accuracy"]
    initial = accuracy[:, :1]
    gain = reference.at_step("accuracy", steps) - initial[:, 0]
    targets = initial + gain[:, None] * np.array(TARGETS)
    found: dict[str, FloatArray] = {}
    for axis in AXES:
        spent = reference.at_step(axis, steps)
        x, y = held_level(run[axis], accuracy, HORIZON * spent)
        when, reached = _reached(x, y, targets, HORIZON * spent)
        for place, share in enumerate(TARGETS):
            found[f"{axis}_to_{100 * share:g}"] = when[:, place]
            found[f"reached_by_{axis}_{100 * share:g}"] = reached[:, place]
        found[f"area_over_{axis}"] = area_under_curve(x, y - initial, spent)
        found[f"accuracy_at_{axis}"] = interpolate_curves(x, y, spent[:, None])[:, 0]
    spent = reference.at_step("rollouts", steps)[:, None]
    for name in ["pass_at_8", *(name for name in run.columns if name.startswith(ACCURACY_PREFIX))]:
        x, y = held_level(run["rollouts"], run[name], HORIZON * spent[:, 0])
        found[name] = interpolate_curves(x, y, spent)[:, 0]
    found |= _costs(run, steps)
    within = run["steps"] <= steps
    for name in ["cosine", *(name for name in run.columns if name.startswith(COUNT_PREFIX))]:
        found[name] = _mean_where(run[name], within)
    return found


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
    """When and whether (R, M); NaN for a run that ended before `until` without reaching its target."""
    known = x[:, -1:] >= until[:, None]
    x = np.concatenate([x, np.maximum(x[:, -1:], until[:, None])], axis=1)
    times = first_reached(x, np.concatenate([y, y[:, -1:]], axis=1), targets, until)
    observed = times.reached | known
    return np.where(observed, times.when, np.nan), np.where(observed, times.reached, np.nan)


def _costs(run: Run, steps: int) -> dict[str, FloatArray]:
    """What the scenario's steps cost, and what of it was of use; of those made, where a run made fewer."""
    made = np.maximum(np.minimum(steps, _last(run["steps"])[:, 0]), 1)
    total = {
        name: run.at_step(name, made)
        for name in run.columns
        if name in {"rollouts", "trained", "held", "ineffective", "stages", "prompts", "tokens", "seconds"}
        or name in {"groups", "effective", "unsolved", "unsolved_after_reuse", "deviation"}
        or name in {"asked", "solved", "rewarded"}
        or name.startswith(("discarded_", "seconds_", "unverified"))
    }
    generated, groups = np.maximum(total["rollouts"], 1), np.maximum(total["groups"], 1)
    discarded = {name: total[f"discarded_{name}"] / generated for name in (*DISCARDED, "other")}
    return {
        **{f"{name}_per_step": total[name] / made for name in ("rollouts", "tokens", "seconds")},
        **{f"{name}_per_step": total[name] / made for name in ("stages", "prompts", "trained")},
        **_only_measured(total, made),
        "wasted_ratio": sum(discarded.values()) + total["ineffective"] / generated,
        "ineffective_ratio": total["ineffective"] / generated,
        **{f"{name}_ratio": value for name, value in discarded.items()},
        "held_ratio": total["held"] / generated,
        "effective_ratio": total["effective"] / groups,
        "unsolved_ratio": total["unsolved"] / groups,
        "unsolved_after_reuse_ratio": total["unsolved_after_reuse"] / groups,
        "solved_ratio": total["solved"] / np.maximum(total["asked"], 1),
        "mean_reward": total["rewarded"] / generated,
        "reward_deviation": total["deviation"] / groups,
    }


def _only_measured(total: dict[str, FloatArray], steps: FloatArray) -> dict[str, FloatArray]:
    """What only real runs have: seconds by phase, speed of generation, failures of the verifier."""
    if "seconds_generation" not in total:
        return {}
    phases = {f"{name}_per_step": value / steps for name, value in total.items() if "seconds_" in name}
    return {
        **phases,
        "tokens_per_second": total["tokens"] / np.maximum(total["seconds_generation"], 1e-9),
        "unverified_ratio": total["unverified"] / np.maximum(total["rollouts"], 1),
    }


def _mean_where(values: FloatArray, where: BoolArray) -> FloatArray:
    """Mean over time of the values (R, T) that are there."""
    where = where & ~np.isnan(values)
    count = where.sum(axis=1)
    total = np.where(where, values, 0.0).sum(axis=1)
    mean: FloatArray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return mean


def across_scenarios(values: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, float]:
    """Allocators over all scenarios, by one metric in long form; and the critical difference of mean ranks.

    Columns, best mean rank first: allocator; mean_rank of the scenario means; better, the share of
    (scenario, replicate) pairs in which it beats uniform, ties half; ratio, the mean over scenarios of
    the ratio of means to uniform; iqm_ratio, the same of interquartile means; each with _low and _high,
    95% by bootstrap over replicates, which are drawn for all scenarios together.
    """
    sign = -1.0 if METRICS[metric.removeprefix(TUNED_PREFIX)].better == "lower" else 1.0
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


def prediction_metrics(judged: pd.DataFrame) -> pd.DataFrame:
    """Means over the first epoch and over the rest, in long form; the predictor is the `allocator`.

    `calibration_error` is the mean over prompts of |predicted - actual| of their bin (expected
    calibration error), over all steps of the phase.
    """
    scores = ["mae", "brier", "log_loss", "coverage", "rank_correlation"]
    phase = np.where(judged.epoch == 0, "first_epoch", "later")
    keys = ["scenario", "predictor", "replicate"]
    grouped = judged.assign(phase=phase).groupby([*keys, "phase"], sort=False)
    means = grouped[scores].mean()
    means["calibration_error"] = _calibration_error(grouped.sum(numeric_only=True))
    long = means.reset_index().melt(id_vars=[*keys, "phase"], var_name="score")
    long["metric"] = long["score"] + "_" + long["phase"]
    long = long.rename(columns={"predictor": "allocator"})
    return long[["scenario", "allocator", "replicate", "metric", "value"]]


def _calibration_error(sums: pd.DataFrame) -> FloatArray:
    bins = range(CALIBRATION_BINS)
    off = sum(np.abs(sums[f"predicted@{b}"] - sums[f"actual@{b}"]) for b in bins)
    error: FloatArray = np.asarray(off / sum(sums[f"prompts@{b}"] for b in bins))
    return error
