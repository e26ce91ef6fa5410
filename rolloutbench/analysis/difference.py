"""What changed between two studies: in their conditions, and in what they measured, with intervals.

Where two studies ran a scenario with the same parameters and seed, replicate r had the same prompts and
the same random numbers in both, and changes are means of differences by replicate with Student's
interval. Other changes are differences of means with Welch's. Many are judged at once, so verdicts are
taken from p-values adjusted by Benjamini and Hochberg 1995 over everything that was tested; intervals are
not adjusted.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from rolloutbench.analysis.metrics import METRICS, describe, in_words
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.tables import Heading, Sheet, Shown, as_records, sheet
from rolloutbench.protocol import BoolArray, FloatArray, InputError
from rolloutbench.registry import nearest

LEVEL = 0.95
"""Confidence level of every interval.

Of the verdicts other than `same` and `unchanged`, a share of at most 1 - LEVEL is expected to be wrong (the
false discovery rate).
"""

ROUNDING = 1e-12
"""Values that are closer than this share of them are identical: machines and libraries round differently."""

DIGITS = 8
"""Digits that are shown of a digest of source code."""

SHOWN_WITH = frozenset(
    {"kind", "title", "question", "sort", "command", "config", "conditions", "captions", "steps"}
)
"""What of a record says how results are shown, or says again what stands in the rest of it."""
MADE = ("scenarios", "allocators", "predictors")
"""What of a record maps names to what was made of them, with all parameters."""

CHANGES = ("better", "worse", "changed", "unknown", "unchanged", "same")
"""What can be said of a change, in the order in which it is counted."""
UNCHANGED_SHOWN = 5
"""Number of unchanged rows of a metric that are listed in a scenario; the others are counted."""

KEYS = ["scenario", "allocator", "metric"]


class Condition(NamedTuple):
    """Something of the records that differs; None where a study does not have it."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, eq=False)
class Difference:
    """What changed from the study in `before` to the one in `after`.

    `only_before` and `only_after` have the keys `scenarios`, `allocators` (or `predictors`) and `results`;
    the last are results of a scenario and an allocator that both know, but that only one could measure.

    `changes` has a row for everything that both measured: scenario, allocator, metric; before, after,
    change and its interval low, high; paired; replicates, the pairs, or else the smaller of the two
    numbers; p_value and adjusted, NaN where nothing was tested; and the verdict:

        same       the values are identical but for rounding
        unchanged  the change is not distinguishable from 0
        better     by the metric's direction, or worse
        changed    neither direction of the metric is better
        unknown    there are too few replicates for an interval
    """

    before: Path
    after: Path
    who: str
    conditions: list[Condition]
    only_before: dict[str, list[str]]
    only_after: dict[str, list[str]]
    changes: pd.DataFrame


def compare_studies(before: Results, after: Results, metrics: Sequence[str] | None = None) -> Difference:
    """What changed in `metrics`; without them in the one that ranks `after` and those that it is shown with.

    Raises InputError where the studies are of different kinds, and for a metric that not both have.
    """
    if before.kind != after.kind:
        raise InputError(
            f"{before.directory} and {after.directory}: a {before.kind} study and a {after.kind} study "
            "have nothing to compare"
        )
    chosen = _chosen(before, after, metrics)
    was, now = (results.values[results.values.metric.isin(chosen)] for results in (before, after))
    only_before, only_after = _only(before.who, was, now), _only(before.who, now, was)
    return Difference(
        before.directory,
        after.directory,
        before.who,
        list(_conditions(before.record, after.record, f"{before.who}s")),
        only_before,
        only_after,
        _changes(was, now, _same_prompts(before.record, after.record), chosen),
    )


def _chosen(before: Results, after: Results, metrics: Sequence[str] | None) -> list[str]:
    in_both = set(before.values.metric.unique()) & set(after.values.metric.unique())
    if not metrics:
        return [name for name in after.shown_metrics if name in in_both]
    for name in metrics:
        if name not in in_both:
            named = [known for known in in_both if known in METRICS]
            raise InputError(f"metric {name}: not measured in both studies: {nearest(name, named)}")
    return list(dict.fromkeys(metrics))


def _same_prompts(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Scenarios in which a replicate of one number had the same prompts and random numbers.

    The code may have changed in between so that it did not: pairs are then as good as any, and their
    interval is valid still.
    """
    if before.get("seed") is None or any(before.get(name) != after.get(name) for name in ("seed", "prompts")):
        return set()
    was, now = before.get("scenarios", {}), after.get("scenarios", {})
    return {name for name in was if was[name] == now.get(name)}


# Records


def _conditions(before: Mapping[str, Any], after: Mapping[str, Any], compared: str) -> Iterator[Condition]:
    """Everything that differs. What was `compared` and only one has is not said here."""
    for key in dict.fromkeys([*after, *before]):
        was, now = before.get(key), after.get(key)
        if key in SHOWN_WITH:
            continue
        if key == "sources" and was and now:  # the code of a method that only one has is no other code
            was, now = (
                {
                    name: digest and digest[:DIGITS]
                    for name, digest in one.items()
                    if "." not in name or name in other
                }
                for one, other in ((was, now), (now, was))
            )
        if key in MADE and was is not None and now is not None:
            for name in dict.fromkeys([*now, *was]):
                if name in was and name in now:
                    yield from _parameters(f"{key} {name}", was[name], now[name])
                elif key not in ("scenarios", compared):
                    yield Condition(f"{key} {name}", was.get(name), now.get(name))
        else:
            yield from _entries(key, was, now)


def _entries(name: str, before: Any, after: Any) -> Iterator[Condition]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*after, *before]):
            yield from _entries(f"{name} {key}", before.get(key), after.get(key))
    elif before != after:
        yield Condition(name, before, after)


def _parameters(name: str, before: str, after: str) -> Iterator[Condition]:
    """The parameters in which two reprs of dataclasses differ; all of a text that is none."""
    if before == after:
        return
    try:
        was, now = (ast.parse(text, mode="eval").body for text in (before, after))
    except (SyntaxError, ValueError):
        yield Condition(name, before, after)
    else:
        yield from _arguments(name, " ", was, now)


def _arguments(name: str, separator: str, before: ast.expr, after: ast.expr) -> Iterator[Condition]:
    was, now = _keywords(before), _keywords(after)
    if was is not None and now is not None and was[0] == now[0]:
        for key in dict.fromkeys([*now[1], *was[1]]):
            there, here = was[1].get(key), now[1].get(key)
            if there is not None and here is not None:
                yield from _arguments(f"{name}{separator}{key}", ".", there, here)
            else:
                yield Condition(f"{name}{separator}{key}", _text(there), _text(here))
    elif _text(before) != _text(after):
        yield Condition(name, _text(before), _text(after))


def _keywords(made: ast.expr) -> tuple[str, dict[str, ast.expr]] | None:
    """Class and parameters of `Class(name=value, ...)`."""
    if not isinstance(made, ast.Call) or made.args:
        return None
    return ast.unparse(made.func), {word.arg: word.value for word in made.keywords if word.arg}


def _text(value: ast.expr | None) -> str | None:
    return None if value is None else ast.unparse(value)


def _only(who: str, here: pd.DataFrame, there: pd.DataFrame) -> dict[str, list[str]]:
    """Names and results that are here and not there."""
    here, there = (frame.loc[frame.value.notna(), KEYS].drop_duplicates() for frame in (here, there))
    scenarios, allocators = (
        here.loc[~here[key].isin(there[key]), key].drop_duplicates().tolist()
        for key in ("scenario", "allocator")
    )
    known = here[~here.scenario.isin(scenarios) & ~here.allocator.isin(allocators)]
    measured = set(there.itertuples(index=False, name=None))
    ran = {(scenario, allocator) for scenario, allocator, _ in measured}
    results = [
        f"{f'{in_words(metric)} of ' if (scenario, allocator) in ran else ''}{allocator} in {scenario}"
        for scenario, allocator, metric in known.itertuples(index=False, name=None)
        if (scenario, allocator, metric) not in measured
    ]
    return {"scenarios": scenarios, f"{who}s": allocators, "results": list(dict.fromkeys(results))}


# Values


class _Test(NamedTuple):
    """Means, change and its interval, p-value and replicates, each (rows,)."""

    before: FloatArray
    after: FloatArray
    change: FloatArray
    low: FloatArray
    high: FloatArray
    p_value: FloatArray
    replicates: FloatArray


def _changes(
    before: pd.DataFrame, after: pd.DataFrame, same_prompts: set[str], metrics: Sequence[str]
) -> pd.DataFrame:
    """The rows of `Difference.changes`, in the order of scenarios, metrics and allocators."""
    rows, was, now, there, here = _side_by_side(before, after, metrics)
    nested = (there <= here).all(axis=1) | (here <= there).all(axis=1)
    paired = rows.scenario.isin(same_prompts).to_numpy(dtype=bool) & nested
    with np.errstate(invalid="ignore"):  # a metric may be infinite
        test = _tested(was, now, paired)
    same = _identical(was, now, there, here, paired)
    change, low, high = (np.where(same, 0.0, column) for column in (test.change, test.low, test.high))
    p_value = np.where(same, np.nan, test.p_value)
    adjusted = np.full(len(rows), np.nan)
    known = ~np.isnan(p_value)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p_value[known], method="bh")
    return rows.assign(
        before=test.before,
        after=test.after,
        change=change,
        low=low,
        high=high,
        paired=paired,
        replicates=test.replicates.astype(np.int64),
        p_value=p_value,
        adjusted=adjusted,
        verdict=_verdicts(rows.metric, change, adjusted, same),
    )


def _side_by_side(
    before: pd.DataFrame, after: pd.DataFrame, metrics: Sequence[str]
) -> tuple[pd.DataFrame, FloatArray, FloatArray, BoolArray, BoolArray]:
    """The keys of what both have values of; then values and whether there is one, (rows, replicates)."""
    values = [_wide(frame, "value") for frame in (before, after)]
    present = [_wide(frame.assign(there=1.0), "there") for frame in (before, after)]
    known = [wide.dropna(how="all").index for wide in values]
    rows = after[KEYS].drop_duplicates()
    rows = rows[pd.MultiIndex.from_frame(rows).isin(known[0].intersection(known[1]))]
    place = rows.metric.map({name: place for place, name in enumerate(metrics)})
    rows = rows.iloc[np.lexsort((place, pd.factorize(rows.scenario)[0]))].reset_index(drop=True)
    index = pd.MultiIndex.from_frame(rows)
    replicates = np.union1d(before.replicate, after.replicate)
    was, now, there, here = (
        wide.reindex(index=index, columns=replicates).to_numpy(dtype=np.float64)
        for wide in (*values, *present)
    )
    return rows, was, now, there == 1, here == 1


def _wide(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row for each scenario, allocator and metric; a column for each replicate."""
    return frame.pivot(index=KEYS, columns="replicate", values=column)


def _identical(
    was: FloatArray, now: FloatArray, there: BoolArray, here: BoolArray, paired: BoolArray
) -> BoolArray:
    """Whether all replicates are (rows,): one by one, in pairs or of one number; or all of one value."""
    equal = np.isclose(was, now, rtol=ROUNDING, atol=0, equal_nan=True) | ~(there & here)
    one_by_one = equal.all(axis=1) & (paired | (there == here).all(axis=1))
    both = np.concatenate([was, now], axis=1)
    constant = _negligible(_spread(both), both) & ~paired
    same: BoolArray = one_by_one | constant
    return same


def _spread(values: FloatArray) -> FloatArray:
    """Distance from the lowest to the highest value of each row, (rows,); NaN where that is infinite."""
    with np.errstate(invalid="ignore"):
        spread: FloatArray = np.fmax.reduce(values, axis=1) - np.fmin.reduce(values, axis=1)
    return spread


def _negligible(size: FloatArray, *values: FloatArray) -> BoolArray:
    """Whether sizes (rows,) may come of the rounding of values (rows, replicates)."""
    largest = np.fmax.reduce(np.abs(np.concatenate(values, axis=1)), axis=1)
    small: BoolArray = np.isfinite(largest) & (np.abs(size) <= ROUNDING * largest)
    return small


def _tested(was: FloatArray, now: FloatArray, paired: BoolArray) -> _Test:
    """Paired rows by their differences, the others by Welch; rows of equal numbers of replicates at once."""
    complete = ~np.isnan(was) & ~np.isnan(now) | ~paired[:, None]
    was, now = _to_the_left(np.where(complete, was, np.nan)), _to_the_left(np.where(complete, now, np.nan))
    counts = np.stack([(~np.isnan(was)).sum(axis=1), (~np.isnan(now)).sum(axis=1), paired], axis=1)
    result = np.full((len(_Test._fields), len(was)), np.nan)
    kinds, kind_of_row = np.unique(counts, axis=0, return_inverse=True)
    for kind, (before, after, pairs) in enumerate(kinds):
        rows = kind_of_row == kind
        result[:, rows] = _tested_alike(was[rows, :before], now[rows, :after], bool(pairs))
    return _Test(*result)


def _to_the_left(values: FloatArray) -> FloatArray:
    """Rows with their NaN at the end, the rest in order: what is complete stays paired."""
    order = np.argsort(np.isnan(values), axis=1, kind="stable")
    return np.take_along_axis(values, order, axis=1)


def _tested_alike(was: FloatArray, now: FloatArray, paired: bool) -> _Test:
    """Complete values (rows, replicates), in pairs or not; exact where nothing varies."""
    replicates = min(was.shape[1], now.shape[1])
    before, after, change, low, high, p_value = np.full((6, len(was)), np.nan)
    if replicates:
        before, after = was.mean(axis=1), now.mean(axis=1)
        change = (now - was).mean(axis=1) if paired else after - before
    if replicates > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of values that hardly vary, or are infinite
            found: Any = (
                stats.ttest_1samp(now - was, 0.0, axis=1)
                if paired
                else stats.ttest_ind(now, was, axis=1, equal_var=False)
            )
            low, high = found.confidence_interval(LEVEL)
        spread = _spread(now - was) if paired else np.fmax(_spread(was), _spread(now))
        point = _negligible(spread, was, now)
        low, high = np.where(point, change, low), np.where(point, change, high)
        p_value = np.where(point, np.where(_negligible(change, was, now), 1.0, 0.0), found.pvalue)
    return _Test(before, after, change, low, high, p_value, np.full(len(was), float(replicates)))


def _verdicts(
    metrics: pd.Series[str], change: FloatArray, adjusted: FloatArray, same: BoolArray
) -> list[str]:
    direction = metrics.map({name: describe(name).sign for name in metrics.unique()}).to_numpy(dtype=float)
    gain = change * direction
    cases = [same, np.isnan(adjusted), adjusted >= 1 - LEVEL, direction == 0, gain > 0]
    return list(np.select(cases, ["same", "unknown", "unchanged", "changed", "better"], "worse"))


# What is shown


def sheets(difference: Difference) -> list[Sheet]:
    """The conditions that differ, all verdicts counted, and for each scenario what is not identical."""
    shown = [_conditions_sheet(difference)] if _says_anything(difference) else []
    changes = difference.changes
    shown.append(_counts_sheet(difference))
    tested = int(changes.p_value.notna().sum())
    for name in changes.scenario.unique():
        here = changes[changes.scenario == name]
        if (here.verdict != "same").any():
            shown.append(_scenario_sheet(str(name), here, tested, difference.who))
    return shown


def _says_anything(difference: Difference) -> bool:
    lists = [*difference.only_before.values(), *difference.only_after.values()]
    return bool(difference.conditions) or any(lists)


def _conditions_sheet(difference: Difference) -> Sheet:
    rows = [
        ["-" if value is None else str(value) for value in (name, before, after)]
        for name, before, after in difference.conditions
    ]
    for what in difference.only_before:
        only = difference.only_before[what], difference.only_after[what]
        if any(only):
            rows.append([f"{what} of one only", *(", ".join(names) or "-" for names in only)])
    headings = [Heading(heading, "words") for heading in ("condition", "before", "after")]
    caption = f"before: {difference.before}; after: {difference.after}"
    return sheet("conditions that differ", headings, rows, caption)


def _counts_sheet(difference: Difference) -> Sheet:
    changes = difference.changes
    if changes.empty:
        nothing = f"none: no {difference.who} was measured in the same scenario by both"
        return sheet("changes", [Heading(nothing, "words")], [])
    found = [verdict for verdict in CHANGES if (changes.verdict == verdict).any()]
    identical = int((changes.verdict == "same").sum())
    caption = f"{identical} of {len(changes)} are identical"
    if not _says_anything(difference):
        caption += "; the studies' records do not differ"
    headings = [Heading("metric", "name"), Heading("better is", "words", 1), *map(Heading, found)]
    rows: list[list[str | Shown]] = []
    for metric in changes.metric.unique():
        counts = changes.verdict[changes.metric == metric].value_counts()
        direction = describe(str(metric)).better or ""
        numbers = [Shown(str(counts.get(verdict, 0)), verdict) for verdict in found]
        rows.append([in_words(str(metric)), direction, *numbers])
    return sheet("changes", headings, rows, caption)


def _scenario_sheet(scenario: str, changes: pd.DataFrame, tested: int, who: str) -> Sheet:
    """One scenario by metric, what is clear and large first; some of what is unchanged, nothing identical."""
    headings = [
        *(Heading("metric", "name"), Heading(who, "name"), Heading("verdict", "words")),
        *(Heading("before", priority=2), Heading("after", priority=1), Heading("change")),
        Heading("relative", priority=3),
    ]
    rows: list[list[str | Shown]] = []
    breaks = []
    for metric in changes.metric.unique():
        here = changes[(changes.metric == metric) & (changes.verdict != "same")]
        clear = here.verdict != "unchanged"
        size = here.change.abs() / np.fmax(here.before.abs(), here.after.abs())
        order = np.lexsort((-size.fillna(np.inf), ~clear))
        listed = here.iloc[order[: int(clear.sum()) + UNCHANGED_SHOWN]]
        digits = _digits(listed)
        for i, row in enumerate(listed.itertuples()):
            verdict = Shown(str(row.verdict), str(row.verdict))
            name = in_words(str(metric)) if i == 0 else ""
            rows.append([name, str(row.allocator), verdict, *_numbers(row, digits)])
        if len(here) > len(listed):
            more = f"and {len(here) - len(listed)} more"
            rows.append(["", more, Shown("unchanged", "unchanged"), "", "", "", ""])
        if len(here):
            breaks.append(len(rows) - 1)
    return sheet(scenario, headings, rows, _caption(changes, tested), breaks)


def _caption(changes: pd.DataFrame, tested: int) -> str:
    listed = changes[changes.verdict != "same"]
    pairs = int(listed.paired.sum())
    how = {
        len(listed): "paired by replicate (same prompts, same random numbers)",
        0: "replicates not paired (Welch)",
    }.get(pairs, f"{pairs} of {len(listed)} paired by replicate, the others not (Welch)")
    fewest, most = listed.replicates.min(), listed.replicates.max()
    runs = f"{fewest} to {most}" if fewest < most else f"{most}"
    same = len(changes) - len(listed)
    return (
        f"± half of a {100 * LEVEL:g}% interval, not adjusted; {how}; {runs} replicate{'s' * int(most != 1)}"
        + (f"; {same} of {len(changes)} are identical and not listed" if same else "")
        + f"\nverdicts adjusted for {tested} comparisons (Benjamini-Hochberg, {100 * (1 - LEVEL):.0f}%)"
    )


def _digits(listed: pd.DataFrame) -> int:
    """Decimals that leave the usual half-width of an interval two digits."""
    half = listed.high - listed.change
    half = half[np.isfinite(half) & (half > 0)]
    if half.empty:
        return 4
    return int(np.clip(1 - np.floor(np.log10(half.median())), 0, 9))


def _numbers(row: Any, digits: int) -> list[str]:
    """Before, after, the change with half of its interval, and the change as a percentage of before."""
    half = row.high - row.change
    if row.change and max(abs(row.change), half) < 0.5 * 10.0**-digits:  # both would be shown as 0
        change, width = f"{row.change:+.1e}", f" ±{half:.1e}"
    else:
        change, width = f"{row.change:+.{digits}f}", f" ±{half:.{digits}f}"
    relative = f"{100 * row.change / abs(row.before):+.1f}%" if row.before else "n/a"
    shown = [f"{row.before:.{digits}f}", f"{row.after:.{digits}f}", change + width * bool(half > 0), relative]
    finite = [np.isfinite(value) for value in (row.before, row.after, row.change, row.change)]
    return [text if known else "n/a" for text, known in zip(shown, finite, strict=True)]


def as_json(difference: Difference) -> dict[str, Any]:
    """Everything, ready for JSON: null where a number is missing or not finite."""
    return {
        "before": str(difference.before),
        "after": str(difference.after),
        "conditions": [condition._asdict() for condition in difference.conditions],
        "only_before": difference.only_before,
        "only_after": difference.only_after,
        "level": LEVEL,
        "adjusted_by": "Benjamini-Hochberg",
        "changes": as_records(difference.changes),
    }
