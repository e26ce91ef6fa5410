"""What a logged run spent its rollouts on, what allocators would have asked for, and a study of its prompts.

A group of equal rewards has no gradient. Which allocators would have spent otherwise is known from the log
alone for those that fix their counts before they see a reward of the step: they are shown the run's prompts,
step by step, and learn from its rewards. The chance that such a group would have had a gradient is that of
the posterior Beta(a + k, b + m - k) of its prompt, given the k of m rollouts that it had in that step and the
Beta that makes all first visits likeliest. Those that look at rewards within a step, or choose among
candidates, need rollouts that nobody made: the study simulates them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tomli_w
from scipy import special

from rolloutbench.allocators import all_specs, allocators
from rolloutbench.analysis.statistics import Interval, mean_interval
from rolloutbench.analysis.tables import Heading, Sheet, plain_value, sheet
from rolloutbench.environment import Host
from rolloutbench.estimators import estimators
from rolloutbench.files import write_whole
from rolloutbench.loop import OpenStep, begin
from rolloutbench.protocol import (
    Allocator,
    BoolArray,
    Budget,
    FloatArray,
    InputError,
    IntArray,
    Outcomes,
    PromptStream,
    Setting,
)
from rolloutbench.run_logs import RunLog
from simulators.pools import fit_beta

PASS_RATES, STUDY, TABLES = "pass_rates.parquet", "compare.toml", "diagnosis.md"
BINS = ("none", "few", "some", "most", "all")
"""Groups by how many of their rollouts were right: none, up to a quarter, more, from three quarters, all."""
MOST_STEPS = 200
"""Steps that allocators are shown, spread evenly over the run."""


class Asked(NamedTuple):
    """What an allocator would have asked for: mean counts by the group's success, and what that is worth.

    `counts` (5,) are in the order of `BINS`. `with_gradient`: share of its rollouts in groups that are
    expected to have one, mean over steps.
    """

    allocator: str
    counts: FloatArray
    with_gradient: Interval


@dataclass(frozen=True)
class Diagnosis:
    """What the log says: the share of rollouts without gradient, by part of the run, and who would do better.

    `wasted`: share of rollouts in groups of equal rewards, mean over steps, of the whole run and of its
    quarters. `never`, `always`: shares of groups in which every rollout failed, or succeeded.
    """

    log: RunLog
    budget: Budget
    wasted: Interval
    quarters: list[Interval]
    never: float
    always: float
    asked: list[Asked]
    needs_rollouts: list[str]

    def sheets(self) -> list[Sheet]:
        """The tables that are shown."""
        log, parts = self.log, len(self.quarters)
        steps = len(np.unique(log.steps))
        headings = [Heading("part of the run", "key"), Heading("rollouts without gradient")]
        rows = [["whole", _percent(self.wasted)]]
        rows += [[f"quarter {i + 1}", _percent(one)] for i, one in enumerate(self.quarters) if parts > 1]
        caption = (
            f"{log.counts.sum():,} rollouts of {len(log.names):,} prompts in {steps:,} steps, "
            f"{self.budget.prompts} prompts x {self.budget.group_size:.3g} rollouts a step; "
            f"{self.never:.1%} of groups all wrong, {self.always:.1%} all right; interval: 95%, over steps"
        )
        caption += f"; {log.unverified:,} rollouts without a reward left out" if log.unverified else ""
        tables = [sheet("what the run spent", headings, rows, caption)]
        headings = [
            Heading("allocator", "name"),
            Heading("with a gradient"),
            *(Heading(f"{name} right", "number", 1) for name in BINS),
        ]
        rows = [
            [one.allocator, _percent(one.with_gradient), *(f"{count:.1f}" for count in one.counts)]
            for one in self.asked
        ]
        tables.append(
            sheet(
                "what allocators would have asked for",
                headings,
                rows,
                "share of rollouts in groups expected to have a gradient (in one step, at the run's own "
                "success probabilities: no forecast of training), and mean rollouts of a prompt by its share "
                f"of right ones; not known without rollouts of their own: {', '.join(self.needs_rollouts)}",
            )
        )
        return tables


def _percent(of: Interval) -> str:
    estimate, low, high = (100 * float(value) for value in of)
    return f"{estimate:.1f}%" + ("" if np.isnan(low) else f" [{low:.1f}, {high:.1f}]")


def diagnose(log: RunLog, specs: Sequence[str] | None = None) -> Diagnosis:
    """What a log says. `specs` are the allocators that it is shown to; None for all that there are."""
    _, place = np.unique(log.steps, return_inverse=True)
    steps = int(place.max()) + 1
    equal = (log.successes == 0) | (log.successes == log.counts)
    spent = np.bincount(place, log.counts, steps)
    wasted = np.bincount(place, log.counts * equal, steps) / spent
    prompts = round(float(np.median(np.bincount(place))))
    budget = Budget(prompts, max(round(float(np.median(spent))), prompts))
    made = {spec: allocators.create(spec) for spec in (all_specs() if specs is None else specs)}
    if specs is None:
        made = {spec: one for spec, one in made.items() if not one.control}
    known = {spec: one for spec, one in made.items() if one.one_shot and not one.chooses_prompts}
    asked = []
    for spec, allocator in known.items():
        try:
            asked.append(_asked(spec, allocator, log, place, budget))
        except InputError:
            if specs is not None:
                raise
    return Diagnosis(
        log,
        budget,
        mean_interval(wasted),
        [mean_interval(part) for part in np.array_split(wasted, min(4, steps))],
        float((log.successes == 0).mean()),
        float((log.successes == log.counts).mean()),
        sorted(asked, key=lambda one: -float(one.with_gradient.estimate)),
        [spec for spec in made if spec not in known],
    )


class _Logged(PromptStream):
    """A stream that brings the prompts of one step of the log after another."""

    def __init__(self, pool_size: int) -> None:
        super().__init__(pool_size, 1, np.random.SeedSequence(0))
        self.drawn[:] = True
        self.now: IntArray = np.zeros(0, np.int64)

    def draw(self, count: int, where: BoolArray | None = None) -> IntArray:
        """The prompts of the step (1, count), -1 beyond them."""
        found = np.full((1, count), -1)
        found[0, : len(self.now)] = self.now[:count]
        return found


def _asked(spec: str, allocator: Allocator, log: RunLog, place: IntArray, budget: Budget) -> Asked:
    """Show the log to an allocator: it asks for rollouts of each step's prompts, and learns from the log."""
    first = log.first_visits
    prior = fit_beta(log.rates[first], log.counts[first].astype(np.float64))
    setting = Setting(
        budget,
        estimators.create("grpo"),
        "rollout",
        replicates=1,
        pool_size=len(log.names),
        rng=np.random.default_rng(0),
    )
    stream = _Logged(len(log.names))
    host = Host(setting, stream)
    driven = begin(host, allocator)
    bins = _bins(log.rates)
    counts, members = np.zeros((2, len(BINS)))
    shares = []
    shown = set(np.unique(np.linspace(0, place.max(), MOST_STEPS).astype(np.int64)).tolist())
    for step, groups in enumerate(np.split(np.arange(len(place)), np.flatnonzero(np.diff(place)) + 1)):
        prompts, given, good = log.prompts[groups], log.counts[groups], log.successes[groups]
        if step in shown:
            stream.now = prompts
            asked = _counts(host, driven, len(prompts), int(given.sum()))[: len(prompts)]
            np.add.at(counts, bins[groups], asked)
            np.add.at(members, bins[groups], 1)
            chance = _chance_of_gradient(asked, good, given, prior)
            shares.append(float((asked * chance).sum() / max(int(asked.sum()), 1)))
        driven.observe(Outcomes(prompts[None], given[None], good[None]))
    mean = np.divide(counts, members, out=np.full(len(BINS), np.nan), where=members > 0)
    return Asked(spec, mean, mean_interval(np.array(shares)))


def _counts(host: Host, driven: Allocator, prompts: int, rollouts: int) -> IntArray:
    """Counts (B,) that a one-shot allocator asks for, of as many prompts and rollouts as the step had."""
    host.setting = Setting(**{**vars(host.setting), "budget": Budget(prompts, max(rollouts, prompts))})
    request = OpenStep(host, driven).request
    return np.zeros(prompts, np.int64) if request is None else request.counts[0]


def _chance_of_gradient(
    asked: IntArray, successes: IntArray, counts: IntArray, prior: tuple[float, float]
) -> FloatArray:
    """Chance (B,) that groups of `asked` have both rewards, 1 - p^n - (1-p)^n, given k of m rollouts."""
    alpha, beta = prior[0] + successes, prior[1] + counts - successes
    whole = special.betaln(alpha, beta)
    all_right = np.exp(special.betaln(alpha + asked, beta) - whole)
    all_wrong = np.exp(special.betaln(alpha, beta + asked) - whole)
    return np.where(asked > 0, np.maximum(1 - all_right - all_wrong, 0.0), 0.0)


def _bins(rates: FloatArray) -> IntArray:
    """The place (G,) of each rate among `BINS`."""
    found = np.full(len(rates), 2, dtype=np.int64)
    found[(rates > 0) & (rates <= 0.25)] = 1
    found[(rates >= 0.75) & (rates < 1)] = 3
    found[rates == 0], found[rates == 1] = 0, 4
    return found


def as_json(found: Diagnosis) -> dict[str, Any]:
    """The tables as JSON can say them; NaN is null."""

    def said(of: Interval) -> dict[str, float | None]:
        return {name: plain_value(float(value)) for name, value in of._asdict().items()}

    return {
        "rollouts": int(found.log.counts.sum()),
        "prompts": len(found.log.names),
        "unverified": found.log.unverified,
        "without_gradient": said(found.wasted),
        "quarters": [said(one) for one in found.quarters],
        "all_wrong": found.never,
        "all_right": found.always,
        "asked": [
            {
                "allocator": one.allocator,
                "with_gradient": said(one.with_gradient),
                "counts": {name: plain_value(float(n)) for name, n in zip(BINS, one.counts, strict=True)},
            }
            for one in found.asked
        ],
        "needs_rollouts": found.needs_rollouts,
    }


def write(found: Diagnosis, directory: Path) -> None:
    """Write the prompts' first pass rates, the study that simulates them, and the tables."""
    log = found.log
    first = log.first_visits
    rates = pd.DataFrame({"prompt": log.names, "pass_rate": log.rates[first], "trials": log.counts[first]})
    packed = io.BytesIO()
    rates.to_parquet(packed, index=False)
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / PASS_RATES, packed.getvalue())
    write_whole(directory / STUDY, study(found, directory).encode())
    text = "\n\n".join(one.section() for one in found.sheets()) + "\n"
    write_whole(directory / TABLES, text.encode())


def study(found: Diagnosis, directory: Path) -> str:
    """Text of the study, as TOML, that simulates the run's prompts under its budget."""
    log, budget = found.log, found.budget
    steps = len(np.unique(log.steps))
    where = (directory / PASS_RATES).resolve()
    parameters = {
        "file": where,
        "trials": "trials",
        "optimizer": "adam",
        "prompts": min(budget.prompts, len(log.names)),
        "group_size": max(round(budget.group_size), 2),
        "steps": min(max(steps, 20), 1000),
    }
    said = ",".join(f"{key}={value}" for key, value in parameters.items())
    settings = {
        "study": "compare",
        "title": "Allocators on the prompts of a logged run",
        "scenarios": [f"measured[{said}]"],
        "estimator": "grpo",
        "aggregation": "rollout",
        "replicates": 16,
    }
    heading = (
        f"# {len(log.names)} prompts with the pass rates of their first visit. Measured: difficulty, budget, "
        "steps.\n# Not measured: how fast the policy learns, noise, features: they are the scenario's.\n\n"
    )
    return heading + tomli_w.dumps(settings)
