"""The short answer that results give to their study's question, in words made from the tables' numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rolloutbench.analysis.metrics import describe
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.tables import verdict
from rolloutbench.analysis.yardsticks import bounds_said, is_yardstick
from rolloutbench.cells.collectors import BASELINE

SAID = {
    "better": f"Better than {BASELINE}",
    "even": f"Not told apart from {BASELINE}",
    "worse": f"Worse than {BASELINE}",
}
"""Verdicts on a ratio to uniform in words, in the order in which they are told."""


class Camp(NamedTuple):
    """A verdict and who shares it: its words, and each name with numbers."""

    verdict: str
    heading: str
    members: dict[str, str]


class Answer(NamedTuple):
    """The short answer: who did best, under which conditions, everybody by verdict, and notes.

    `notes` are about these results; `caution` is what to keep in mind of any.
    """

    lead: str
    conditions: str
    camps: list[Camp]
    notes: list[str]
    caution: str


def answer(results: Results) -> Answer | None:
    """Who is better than uniform by the metric that ranks, by how much, and who is worse.

    None where nobody can be compared with uniform by that metric.
    """
    described, scenarios = describe(results.sort), results.shown_scenarios()
    if not scenarios:
        return None
    several = len(scenarios) > 1
    found = (
        results.ranking.set_index("allocator") if several else results.of_metric(results.sort, scenarios[0])
    )
    found = found[np.isfinite(found.ratio) & (found.index != BASELINE)]
    if found.empty:
        return None
    found = found.sort_values("ratio", ascending=described.sign < 0, kind="stable")
    verdicts = {str(name): verdict_on(found, str(name), described.sign) for name in found.index}
    numbers = {
        str(name): f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
        for name, row in found.iterrows()
    }
    yardsticks = [name for name in verdicts if is_yardstick(name)]
    best = next(
        (name for name, said in verdicts.items() if said == "better" and name not in yardsticks), None
    )
    where = f"Over {len(scenarios)} scenarios" if several else f"In {scenarios[0]}"
    aside = ", yardsticks aside," if yardsticks else ""
    mean = "mean of the scenarios' ratios, " if several else ""
    measured = f"{described.label} ({described.better} is better; {mean}95% interval)"
    if best is None:
        lead = f"{where}{aside} no {results.who} did better than {BASELINE} by {measured}."
    else:
        lead = f"{where}{aside} {best} did best: {numbers[best]} times {BASELINE}'s {measured}."
    camps = []
    for said, heading in SAID.items():
        members = {
            name: numbers[name] + _in_scenarios(results, name, described.sign) * several
            for name in verdicts
            if verdicts[name] == said
        }
        if members:
            camps.append(Camp(said, heading, members))
    notes = [] if best is None else [*_settled(found, best, yardsticks), *results.notes_on_best(best)]
    if yardsticks:
        named, bounds = ", ".join(yardsticks), bounds_said(yardsticks)
        notes.append(f"Yardsticks are only there to compare with: {named}." + f" {bounds}." * bool(bounds))
    caution = (
        "This holds under the conditions above: another estimator, aggregation, budget or learning rate can "
        f"change who wins. Each interval is of one {results.who} against {BASELINE}, and is not widened for "
        f"the number of comparisons made here ({len(verdicts)})."
    )
    return Answer(lead, f"Conditions: {results.conditions}.", camps, notes, caution)


def short_answer(results: Results) -> list[str]:
    """The answer as lines for a terminal, below tables that have the numbers; none where there is none."""
    found = answer(results)
    if found is None:
        return []
    camps = [f"{camp.heading}: {', '.join(camp.members)}." for camp in found.camps]
    return [found.lead, *camps, *found.notes]


def verdict_on(ratios: pd.DataFrame, name: str, sign: int) -> str:
    """What the interval of a ratio to uniform says of `name`, a row with ratio_low and ratio_high."""
    low, high = ratios.loc[[name], ["ratio_low", "ratio_high"]].to_numpy()[0]
    return verdict(low, high, sign)


def _in_scenarios(results: Results, name: str, sign: int) -> str:
    """Counts of the scenarios in which `name` was better, even or worse, in brackets."""
    scenarios = results.shown_scenarios()
    found = [results.of_metric(results.sort, scenario) for scenario in scenarios]
    verdicts = [verdict_on(ratios, name, sign) for ratios in found if name in ratios.index]
    counts = [f"{said} in {verdicts.count(said)}" for said in SAID if said in verdicts]
    return f" ({', '.join(counts)} of {len(scenarios)})"


def _settled(found: pd.DataFrame, best: str, yardsticks: Sequence[str]) -> Iterator[str]:
    """A sentence that names those whose interval overlaps that of the best, if any do."""
    others = found.drop(index=[best, *(name for name in yardsticks if name != best)])
    overlap = others[
        (others.ratio_low <= found.ratio_high[best]) & (found.ratio_low[best] <= others.ratio_high)
    ]
    if len(overlap):
        names = ", ".join(map(str, overlap.index))
        yield f"The intervals of {best} and of {names} overlap: who comes first is not settled here."
