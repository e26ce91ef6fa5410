"""Does the simulator's ranking of allocators hold in a real run?

Allocators that both studies ran are ranked by their means of one metric, in each simulated scenario and in
the real run, and the two rankings compared by Kendall's tau-b. Its interval is by bootstrap: replicates of
the simulation and seeds of the real run are drawn anew, independently of each other, each for all
allocators together, since these share prompts and random numbers. Percentiles are taken as far out as
Hesterberg 2015 does for the smaller of the two numbers, as in statistics.py. The simulator

    agrees       where the interval of tau is above 0
    contradicts  where it is below 0
    undecided    otherwise

Beside it stands what the real run says of itself: the tau between the rankings of two halves of its seeds, in
the mean over all ways to halve them. Halves are noisier than the whole, so a perfect simulator would come
nearer than they do.

Two limits. The interval is about seeds: with other allocators tau would be another, and of a few of them
even unrelated rankings have one far from 0, so the exact chance of that is given too. And noise in either
ranking draws tau towards 0: where the true rankings are the same and allocators lie close together, the
interval ends below 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rolloutbench.analysis.metrics import METRICS, describe, untuned
from rolloutbench.analysis.results import Results, check_sort, summarise
from rolloutbench.analysis.statistics import Interval
from rolloutbench.analysis.tables import Heading, Sheet, Shown, as_records, escaped, named, number, sheet
from rolloutbench.analysis.yardsticks import bounds_said
from rolloutbench.cells.collectors import BASELINE, REFERENCE
from rolloutbench.files import write_whole
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import nearest
from rolloutbench.studies.fitting import Found, found_sheet, measure
from rolloutbench.studies.kinds.learning import LearningResults

LEVEL = 0.95
"""Confidence level of every interval; a pair is significant at 1 - LEVEL."""
RESAMPLES = 4000
"""Number of bootstrap samples behind an interval of tau."""
MOST_SPLITS = 1000
"""Most ways to halve the real seeds; of more, so many are drawn."""
TOP = 3
"""Number of best allocators that both rankings are asked to share."""
FEW = 5
"""Number of real seeds below which a table warns that there are few."""
WIDEST = 4
"""Number of simulated scenarios up to which ratios stand beside ranks; of more only ranks are shown."""
ALL = "all together"
"""What the last row of `pooled` is of."""
OF_HALVES = (
    "Of real halves: tau between two halves of the real seeds, as far as the real run agrees with itself."
)
"""What tables say of `halves_tau`."""
AGREEMENTS = ("agrees", "contradicts", "undecided")
"""What can be said of the simulator's ranking; see above."""


@dataclass(frozen=True, eq=False)
class Validation:
    """What came of comparing the study in `simulated` with the one in `real`, by `metric`.

    `agreement` has a row for each simulated and real scenario: scenario, real_scenario; allocators, pairs;
    replicates, seeds; tau, tau_low, tau_high; tau_halves, see `halves_tau`; p_value, of
    scipy.stats.kendalltau; spearman; best and best_real; top, how many of the best `top_of` are the same;
    significant, the pairs that differ in the real run at 5% each by a paired t-test over seeds, and right,
    those of them that the simulator has in the same order; adjusted and adjusted_right, the same after
    Benjamini and Hochberg; verdict.

    `points` has a row for each of its allocators: value, low, high and rank, and the same of the real run
    with `real_`. Values are `scale`s against uniform: ratios, or differences where uniform's mean is not
    above 0. `left_out` says which allocators are of one study only, or have no value. `conditions` are what
    the real run says of the scenario it is like, None where it has several. `scores` has, for each row of
    `agreement`, the values (A, R) and (A, S) of which more is better.
    """

    simulated: Path
    real: Path
    metric: str
    scale: str
    agreement: pd.DataFrame
    points: pd.DataFrame
    left_out: dict[str, list[str]]
    notes: list[str]
    conditions: list[Found] | None
    scores: list[tuple[FloatArray, FloatArray]]


def validate(simulated: Results, real: Results, metric: str = "area_over_rollouts") -> Validation:
    """Compare two studies of training runs. Raises InputError where they have nothing to compare."""
    for study in (simulated, real):
        if not isinstance(study, LearningResults):
            raise InputError(f"{study.directory}: is a {study.kind} study; one of training runs is expected")
    check_sort(simulated.metrics, untuned(metric), "--metric")
    sides = [_measured(study, metric) for study in (simulated, real)]
    common, left_out = _common(sides, simulated, real)
    everything = pd.concat([summarise(side) for side in sides])
    uniform = everything.estimate[everything.allocator == BASELINE]
    scale = "ratio" if len(uniform) and (uniform > 0).all() else "difference"
    direction = describe(metric).sign
    agreement, points, scores = [], [], []
    for real_name, real_values in sides[1].groupby("scenario", sort=False):
        for name, values in sides[0].groupby("scenario", sort=False):
            shared = _complete(values, real_values, common)
            where = {"scenario": str(name), "real_scenario": str(real_name)}
            if shared is None:
                left_out["scenarios"] = [*left_out.get("scenarios", []), f"{name} against {real_name}"]
                continue
            names, ours, theirs = shared[0], direction * shared[1], direction * shared[2]
            agreement.append({**where, **_agreement(names, ours, theirs)})
            points.append(_points(names, values, real_values, ours, theirs, scale).assign(**where))
            scores.append((ours, theirs))
    if not agreement:
        raise InputError(
            f"metric {metric}: fewer than two allocators have values of it in one scenario of both"
        )
    several = sides[1].scenario.nunique() > 1
    return Validation(
        simulated.directory,
        real.directory,
        metric,
        scale,
        pd.DataFrame(agreement),
        pd.concat(points, ignore_index=True),
        {what: names for what, names in left_out.items() if names},
        _notes(simulated, real),
        None if several else measure(real),
        scores,
    )


def pooled(found: Sequence[Validation]) -> pd.DataFrame:
    """Rows of several validations, one a real run, and last of them all together.

    Columns are simulated and real, the directories, and those of `Validation.agreement` that can be pooled:
    allocators, replicates, seeds, pairs, significant, right, tau, tau_low, tau_high, tau_halves, verdict. The
    tau of all is the mean of theirs, whatever their number of allocators, as is that of halves; its interval
    draws the replicates and seeds of each anew, independently of the others. Raises InputError where one
    has several rows.
    """
    for one in found:
        if len(one.agreement) != 1:
            raise InputError(
                f"{one.simulated} against {one.real}: {len(one.agreement)} pairs of scenarios: one simulated "
                "scenario for each real run is pooled"
            )
    rows = pd.concat([one.agreement for one in found], ignore_index=True)
    rows = rows.assign(simulated=[str(one.simulated) for one in found], real=[str(one.real) for one in found])
    mean = mean_tau([one.scores[0] for one in found])
    last = {
        **dict.fromkeys(("simulated", "real"), ALL),
        **{name: rows[name].min() for name in ("allocators", "replicates", "seeds")},
        **{name: rows[name].sum() for name in ("pairs", "significant", "right")},
        **{"tau": float(mean.estimate), "tau_low": float(mean.low), "tau_high": float(mean.high)},
        "tau_halves": rows.tau_halves.mean(),
        "verdict": _verdict(float(mean.low), float(mean.high)),
    }
    return pd.concat([rows[list(last)], pd.DataFrame([last])], ignore_index=True)


def _measured(study: Results, metric: str) -> pd.DataFrame:
    """A study's values of one metric in long form, without those of the reference run.

    Of a plain metric they are at the learning rate that the study judges everybody by.
    """
    values, name = study.values, metric if untuned(metric) != metric else study.shown(metric)
    here = values[(values.metric == name) & (values.allocator != REFERENCE) & values.value.notna()]
    if here.empty:
        known = [name for name in values.metric.unique() if untuned(name) in METRICS]
        raise InputError(f"{study.directory}: metric {metric}: was not measured: {nearest(metric, known)}")
    return here.assign(metric=metric)


def _common(
    sides: Sequence[pd.DataFrame], simulated: Results, real: Results
) -> tuple[list[str], dict[str, list[str]]]:
    """Allocators of both, in the real run's order, and those of one only."""
    ours, theirs = (list(map(str, side.allocator.unique())) for side in sides)
    common = [name for name in theirs if name in ours]
    if len(common) < 2:
        raise InputError(
            f"{simulated.directory} and {real.directory}: two allocators of one name at least are needed "
            f"for a ranking; both ran {', '.join(common) or 'none'} ({', '.join(ours)}; {', '.join(theirs)})"
        )
    only = {
        "only simulated": [name for name in ours if name not in common],
        "only real": [name for name in theirs if name not in common],
    }
    return common, only


def _complete(
    ours: pd.DataFrame, theirs: pd.DataFrame, common: Sequence[str]
) -> tuple[list[str], FloatArray, FloatArray] | None:
    """Allocators that both have in these scenarios, and values (A, R) and (A, S) of full replicates."""
    wide = [side.pivot(index="allocator", columns="replicate", values="value") for side in (ours, theirs)]
    names = [name for name in common if all(name in side.index for side in wide)]
    first, second = (side.loc[names].dropna(axis=1).to_numpy(dtype=np.float64) for side in wide)
    return (names, first, second) if len(names) > 1 and first.size and second.size else None


def _agreement(names: Sequence[str], ours: FloatArray, theirs: FloatArray) -> dict[str, Any]:
    """A row of `Validation.agreement`, from values (A, R) and (A, S) of which more is better."""
    tau = bootstrap_tau(ours, theirs)
    means = ours.mean(axis=1), theirs.mean(axis=1)
    ranked = [np.argsort(-mean, kind="stable") for mean in means]
    top = min(TOP, len(names) - 1)
    pairs = significant_pairs(ours, theirs)
    low, high = float(tau.low), float(tau.high)
    varies = all(np.ptp(mean) > 0 for mean in means)
    return {
        "allocators": len(names),
        "pairs": len(names) * (len(names) - 1) // 2,
        "replicates": ours.shape[1],
        "seeds": theirs.shape[1],
        "tau": float(tau.estimate),
        "tau_low": low,
        "tau_high": high,
        "tau_halves": halves_tau(theirs),
        "p_value": float(stats.kendalltau(*means).pvalue),
        "spearman": float(stats.spearmanr(*means).statistic) if varies else np.nan,
        "best": names[ranked[0][0]],
        "best_real": names[ranked[1][0]],
        "top": len({*ranked[0][:top]} & {*ranked[1][:top]}),
        "top_of": top,
        **pairs._asdict(),
        "verdict": _verdict(low, high),
    }


def _verdict(low: float, high: float) -> str:
    return "agrees" if low > 0 else "contradicts" if high < 0 else "undecided"


def kendall_tau(first: FloatArray, second: FloatArray) -> FloatArray:
    """Kendall's tau-b over the last axis (..., A); NaN where one of the two is all ties.

    What `scipy.stats.kendalltau` computes, for many rankings at once.
    """
    one, other = np.triu_indices(first.shape[-1], 1)
    signs = [np.sign(values[..., one] - values[..., other]) for values in (first, second)]
    untied = np.sqrt((signs[0] ** 2).sum(axis=-1) * (signs[1] ** 2).sum(axis=-1))
    tau: FloatArray = (signs[0] * signs[1]).sum(axis=-1) / np.where(untied > 0, untied, np.nan)
    return tau


def bootstrap_tau(
    ours: FloatArray, theirs: FloatArray, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Kendall's tau of the means of values (A, R) and (A, S), with its bootstrap interval.

    Replicates are drawn for all allocators together, R and S independently. NaN ends where R or S is 1.
    """
    return mean_tau([(ours, theirs)], resamples, seed)


def mean_tau(
    scores: Sequence[tuple[FloatArray, FloatArray]], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of Kendall's taus of pairs of values (A, R) and (A, S), with its bootstrap interval.

    Each pair has its own allocators, replicates and seeds, which are drawn independently of the others'.
    NaN ends where an R or S is 1.
    """
    rng = np.random.default_rng(seed)
    taus = [kendall_tau(ours.mean(axis=1), theirs.mean(axis=1)) for ours, theirs in scores]
    tau = np.asarray(np.mean(taus))
    runs = min(values.shape[1] for pair in scores for values in pair)
    if runs < 2:
        return Interval(tau, np.full_like(tau, np.nan), np.full_like(tau, np.nan))
    drawn = np.mean(
        [kendall_tau(*(_resampled(values, resamples, rng) for values in pair)) for pair in scores], axis=0
    )
    tail = float(stats.norm.sf(stats.t.ppf((1 + LEVEL) / 2, runs - 1) * np.sqrt(runs / (runs - 1))))
    low, high = np.nanquantile(drawn, [tail, 1 - tail]) if not np.isnan(drawn).all() else (np.nan, np.nan)
    return Interval(tau, np.asarray(low), np.asarray(high))


def halves_tau(values: FloatArray, seed: int = 0) -> float:
    """Mean tau between the rankings by two halves of the columns of values (A, S); NaN where S is 1.

    Of an odd number of columns one half has one more. All halvings count, or `MOST_SPLITS` drawn ones.
    """
    runs = values.shape[1]
    if math.comb(runs, runs // 2) <= MOST_SPLITS:
        halves = list(itertools.combinations(range(runs), runs // 2))
    else:
        rng = np.random.default_rng(seed)
        halves = [tuple(rng.permutation(runs)[: runs // 2]) for _ in range(MOST_SPLITS)]
    inside = np.zeros((len(halves), runs))
    np.put_along_axis(inside, np.array(halves, dtype=np.int64), 1.0, axis=1)
    taus = kendall_tau(*(side @ values.T for side in (inside, 1 - inside)))
    return float(np.nanmean(taus)) if np.isfinite(taus).any() else math.nan


def _resampled(values: FloatArray, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Means (resamples, A) of values (A, R) with the replicates drawn anew."""
    runs = values.shape[1]
    counts = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples)
    means: FloatArray = counts @ values.T / runs
    return means


class Pairs(NamedTuple):
    """Counts of pairs of allocators that differ in the real run, and of those in the simulator's order."""

    significant: int
    right: int
    adjusted: int
    adjusted_right: int


def significant_pairs(ours: FloatArray, theirs: FloatArray) -> Pairs:
    """Count pairs in values (A, R) and (A, S) by paired t-tests over seeds, each at 5%, and adjusted."""
    one, other = np.triu_indices(len(theirs), 1)
    apart = theirs[one] - theirs[other]
    seeds = apart.shape[1]
    if seeds < 2:
        return Pairs(0, 0, 0, 0)
    mean, spread = apart.mean(axis=1), apart.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2 * stats.t.sf(np.abs(mean) / (spread / np.sqrt(seeds)), seeds - 1)
    p_value = np.where(np.isnan(p_value), 1.0, p_value)  # the same in all seeds
    same = np.sign(mean) == np.sign(ours.mean(axis=1)[one] - ours.mean(axis=1)[other])
    counts: list[int] = []
    for tested in (p_value, stats.false_discovery_control(p_value)):
        clear = tested < 1 - LEVEL
        counts += [int(clear.sum()), int((clear & same).sum())]
    return Pairs(*counts)


def _points(
    names: Sequence[str],
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    our_scores: FloatArray,
    their_scores: FloatArray,
    scale: str,
) -> pd.DataFrame:
    columns: dict[str, Any] = {"allocator": list(names)}
    for prefix, values, scores in (("", ours, our_scores), ("real_", theirs, their_scores)):
        rows = summarise(values).set_index("allocator").loc[list(names)]
        for part, name in (("value", scale), ("low", f"{scale}_low"), ("high", f"{scale}_high")):
            columns[prefix + part] = rows[name].to_numpy()
        columns[f"{prefix}rank"] = stats.rankdata(-scores.mean(axis=1))
    return pd.DataFrame(columns)


def _notes(simulated: Results, real: Results) -> list[str]:
    """Where the two studies were run under other rules."""
    notes = []
    for key in ("estimator", "aggregation"):
        ours, theirs = (
            study.record.get(key) or (study.record.get("config") or {}).get(key)
            for study in (simulated, real)
        )
        if ours != theirs:
            notes.append(f"{key}: simulated {ours}, real {theirs}")
    return notes


# What is shown


def sheets(found: Validation) -> list[Sheet]:
    """Agreement, allocators side by side, and the conditions of the real run."""
    shown = [_agreement_sheet(found)]
    shown += [
        _points_sheet(found, str(name), here)
        for name, here in found.points.groupby("real_scenario", sort=False)
    ]
    if found.conditions:
        caption = f"rolloutbench fit {found.real} writes the scenario, with a learning rate, as a study"
        shown.append(found_sheet(found.conditions, caption))
    return shown


def _agreement_sheet(found: Validation) -> Sheet:
    table = found.agreement
    several = table.real_scenario.nunique() > 1
    rows: list[list[str | Shown]] = []
    for row in table.to_dict("records"):
        best, real_best = row["best"], row["best_real"]
        rows.append(
            [
                f"{row['scenario']} / {row['real_scenario']}" if several else row["scenario"],
                _interval(row["tau"], row["tau_low"], row["tau_high"]),
                f"{row['tau_halves']:.2f}",
                f"{row['p_value']:.2g}",
                f"{row['spearman']:.2f}",
                best if best == real_best else f"{best} (real: {real_best})",
                f"{row['top']} of {row['top_of']}",
                f"{row['right']} of {row['significant']}",
                f"{row['adjusted_right']} of {row['adjusted']}",
                Shown(row["verdict"], row["verdict"]),
            ]
        )
    headings = [
        Heading("simulated / real" if several else "simulated", "name"),
        *(Heading("tau [95%]"), Heading("of real halves", priority=4), Heading("chance", priority=3)),
        Heading("Spearman", priority=7),
        *(Heading("best", "words", 1), Heading("best shared", priority=6)),
        *(Heading("clear pairs right", priority=2), Heading("after BH", priority=5)),
        Heading("verdict", "words"),
    ]
    pairs, seeds = int(table.pairs.max()), int(table.seeds.min())
    of_pairs, clear, by_chance = _range(table.pairs), _range(table.significant), (1 - LEVEL) * pairs
    said = [
        f"by {found.metric}; {_range(table.allocators)} allocators, so tau rests on {of_pairs} pairs and "
        f"moves in steps of {2 / pairs:.2g}; {_range(table.replicates)} replicates, {_range(table.seeds)} "
        "real seeds.",
        "Verdict: agrees where tau's interval is above 0, contradicts where it is below. Chance: that an "
        "unrelated ranking is as far from 0.",
        OF_HALVES,
        f"Clear pairs differ in the real run at 5% each ({clear} of {of_pairs}; {by_chance:.1f} would by "
        "chance), after BH adjusted for their number.",
    ]
    if seeds < FEW:
        plural = "s" * (seeds > 1)
        said.append(f"With {seeds} real seed{plural} few pairs can be clear, and tau's interval is rough.")
    said += [f"Left out, {what}: {', '.join(names)}." for what, names in found.left_out.items()]
    said += [f"Not the same in both: {note}." for note in found.notes]
    return sheet("simulated against real ranking of allocators", headings, rows, "\n".join(said))


def pooled_sheet(table: pd.DataFrame) -> Sheet:
    """A table of `pooled`: a row for each real run, and all of them together."""
    rows: list[list[str | Shown]] = [
        [
            row["real"],
            row["simulated"],
            f"{row['allocators']}",
            f"{row['seeds']}",
            _interval(row["tau"], row["tau_low"], row["tau_high"]),
            f"{row['tau_halves']:.2f}",
            f"{row['right']} of {row['significant']}",
            Shown(row["verdict"], row["verdict"]),
        ]
        for row in table.to_dict("records")
    ]
    headings = [
        *(Heading("real", "name"), Heading("simulated", "name", 3)),
        *(Heading("allocators", priority=4), Heading("seeds", priority=2)),
        *(Heading("tau [95%]"), Heading("of real halves", priority=1)),
        *(Heading("clear pairs right", priority=1), Heading("verdict", "words")),
    ]
    said = (
        f"{ALL}: the mean of the taus, with least allocators and seeds; clear pairs are summed.\n{OF_HALVES}"
    )
    return sheet("simulated against real rankings", headings, rows, said)


def _points_sheet(found: Validation, real_name: str, points: pd.DataFrame) -> Sheet:
    simulated = list(points.scenario.unique())
    by_name = [points[points.scenario == name].set_index("allocator") for name in simulated]
    first = points.drop_duplicates("allocator").sort_values("real_rank", kind="stable")
    rows: list[list[str | Shown]] = []
    for row in first.to_dict("records"):
        name = str(row["allocator"])
        cells: list[str | Shown] = [
            named(name),
            _ranked(row["real_value"], row["real_high"], row["real_rank"]),
        ]
        for of_one in by_name:
            if name not in of_one.index:
                cells.append("-")
                continue
            value, high, rank = of_one.loc[name, ["value", "high", "rank"]].astype(float)
            cells.append(_ranked(value, high, rank) if len(by_name) <= WIDEST else f"{rank:g}")
        rows.append(cells)
    what = f"{found.scale} to uniform" if found.scale == "ratio" else f"difference from {BASELINE}"
    caption = f"{found.metric}: {what} ± half of a 95% interval (rank)"
    if bounds := bounds_said(map(str, first.allocator)):
        caption += f"\n{bounds}"
    headings = [
        *(Heading("allocator", "name"), Heading("real")),
        *(Heading(name, priority=place) for place, name in enumerate(simulated)),
    ]
    return sheet(f"allocators in {real_name}", headings, rows, caption)


def _ranked(value: float, high: float, rank: float) -> str:
    return f"{number(value, high, 3)} ({rank:g})"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if np.isfinite([low, high]).all() else f"{value:.2f}"


def _range(values: pd.Series[int]) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def markdown(found: Validation) -> str:
    """A validation as Markdown: all its tables, and the plot."""
    blocks = [f"# {escaped(f'{found.simulated} against {found.real}')}"]
    blocks += [each.section() for each in sheets(found)]
    blocks.append("![simulated against real](plots/validation.png)")
    return "\n\n".join(blocks) + "\n"


def as_json(found: Validation) -> dict[str, Any]:
    """Everything, ready for JSON: null where a number is missing."""
    return {
        "simulated": str(found.simulated),
        "real": str(found.real),
        "metric": found.metric,
        "scale": found.scale,
        "level": LEVEL,
        "agreement": as_records(found.agreement),
        "points": as_records(found.points),
        "left_out": found.left_out,
        "notes": found.notes,
        "conditions": None if found.conditions is None else [one._asdict() for one in found.conditions],
    }


def write(found: Validation, directory: Path) -> None:
    """validation.csv, validation_allocators.csv, validation.md and plots/validation.png and .pdf."""
    from rolloutbench.analysis.plotting import validation as plots  # matplotlib takes a second to import
    from rolloutbench.analysis.plotting.panels import save

    (directory / "plots").mkdir(parents=True, exist_ok=True)
    for name, table in (("validation", found.agreement), ("validation_allocators", found.points)):
        write_whole(directory / f"{name}.csv", table.to_csv(index=False).encode())
    write_whole(directory / "validation.md", markdown(found).encode())
    figure = plots.scatter(
        found.points, found.agreement, found.metric, found.scale, f"{found.simulated} against {found.real}"
    )
    save(figure, directory / "plots", "validation")
