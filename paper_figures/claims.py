"""The papers' claims beside what is measured here, with a verdict by one rule.

claims.toml has the claims. A claim is tested by a metric of an allocator in the scenarios of a study, or
by a row of a figure's table. Each scenario, or row, is a condition. A condition supports a claim where
its whole 95% interval is on the claimed side of a number (`above` or `below`); a claim that names no side
is supported where the interval meets `within`.

- reproduced: all conditions support it, and the interval of their mean meets `within`, if that is given;
- partly: some conditions support it, or all do but the size is another;
- not: none does;
- not testable here: the claim has no test, and says why.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from paper_figures.drawing import OURS
from paper_figures.gallery import FIGURES
from paper_figures.series import compare
from paper_figures.sources import HERE, Sources, is_runnable
from rolloutbench.analysis.statistics import Interval, paired_bootstrap, ratio_interval, ratio_of_means
from rolloutbench.analysis.tables import Heading, Sheet, Shown, as_records, sheet
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.files import write_whole
from rolloutbench.protocol import BoolArray, FloatArray, InputError
from rolloutbench.registry import nearest
from rolloutbench.tabular import read_table

Verdict = Literal["reproduced", "partly", "not", "not testable here"]


class Claim(BaseModel):
    """A paper's claim: who says what where, the number that tests it, and why it comes out as it does.

    With `study`: `metric` of `allocator` as a ratio to, or difference from, the allocator `against`, or by
    itself (`how`), times `scale`, in `scenarios` or in all. With `figure`: the rows of ours in its table that
    have `panel`, `series` and `x`, where these are given; the recorded table, where there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str
    where: str
    says: str
    published: str
    why: str
    study: str | None = None
    allocator: str | None = None
    metric: str | None = None
    how: Literal["ratio", "difference", "value"] = "ratio"
    against: str = BASELINE
    scenarios: list[str] = []
    figure: str | None = None
    panel: str | None = None
    series: str | None = None
    x: str | float | None = None
    scale: float = 1.0
    above: float | None = None
    below: float | None = None
    within: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    digits: int = 2

    @model_validator(mode="after")
    def _one_test(self) -> Claim:
        if self.study and not (self.allocator and self.metric):
            raise ValueError("a study goes with an allocator and a metric")
        if self.study and self.figure:
            raise ValueError("study or figure, not both")
        if self.figure is not None and self.figure not in FIGURES:
            raise ValueError(f"figure = {self.figure}: {nearest(self.figure, FIGURES)}")
        if self.tested and all(rule is None for rule in (self.above, self.below, self.within)):
            raise ValueError("a test goes with above, below or within")
        return self

    @property
    def tested(self) -> bool:
        """Whether some study or figure here tests the claim."""
        return self.study is not None or self.figure is not None

    @property
    def tested_by(self) -> str:
        """Description in words of what tests the claim."""
        if self.figure:
            return f"figure {self.figure}"
        compared = {"ratio": f" / {self.against}", "difference": f" - {self.against}", "value": ""}[self.how]
        return f"{self.study}: {self.metric} of {self.allocator}{compared}" if self.study else ""

    def under(self, sources: Sources) -> list[str]:
        """Estimator, mean and optimizer of each study that tests the claim, each once."""
        names = [self.study] if self.study else FIGURES[self.figure].studies if self.figure else []
        said = []
        for record in (sources.results(name).record for name in names):
            moved = sorted(set(re.findall(r"optimizer=(\w+)\(", " ".join(record["scenarios"].values()))))
            rule = f"{record['estimator']}, mean over {record['aggregation']}s"
            said.append(f"{rule}, {' or '.join(moved)}" if moved else rule)
        return list(dict.fromkeys(said))

    def measure(self, sources: Sources) -> Measurement:
        """Measure the claim's number in every condition, and their mean."""
        return self._of_figure(sources) if self.figure else self._of_study(sources)

    def _of_figure(self, sources: Sources) -> Measurement:
        assert self.figure is not None
        recorded = sources.directory / "figures" / f"{self.figure}.csv"
        table = read_table(recorded) if recorded.is_file() else FIGURES[self.figure].read_from(sources)
        rows = table[table.source == OURS]
        for name in ("panel", "series", "x"):
            wanted = getattr(self, name)
            if isinstance(wanted, float):
                rows = rows[np.isclose(rows[name].astype(float), wanted)]
            elif wanted is not None:
                rows = rows[rows[name] == wanted]
        if rows.empty:
            raise InputError(f"{self.figure}: has no row {self.panel}, {self.series}, {self.x}")
        exact = rows.low.isna()
        low, high = rows.low.where(~exact, rows.value), rows.high.where(~exact, rows.value)
        parts = Interval(*(part.to_numpy(dtype=np.float64) for part in (rows.value, low, high)))
        conditions = _scaled(parts, self.scale)
        return Measurement(conditions, _spread(conditions))

    def _of_study(self, sources: Sources) -> Measurement:
        assert self.study is not None
        assert self.metric is not None
        values = sources.values(self.study, self.metric)
        scenarios = self.scenarios or list(values.scenario.unique())
        ours, theirs = (
            np.stack([_replicates(values, name, scenario) for scenario in scenarios])
            for name in (self.allocator, self.against)
        )
        conditions = compare(ours, theirs, self.how)
        if self.how == "ratio":
            mean = _mean_of_ratios(ours, theirs)
        else:
            mean = compare(ours.mean(axis=0), theirs.mean(axis=0), self.how)
        return Measurement(_scaled(conditions, self.scale), _scaled(mean, self.scale))


class Measurement(NamedTuple):
    """Estimates in conditions (S,) and their mean (); rows of a figure have a span from least to most."""

    conditions: Interval
    mean: Interval


class Judged(NamedTuple):
    """A claim with its verdict; `support` conditions of `conditions` are for it."""

    name: str
    claim: Claim
    measured: Measurement | None
    support: int
    verdict: Verdict
    under: str
    """Estimator, mean and optimizer of what tests it; empty where nothing is trained."""

    @property
    def conditions(self) -> int:
        """Number of conditions in which the claim was tested."""
        return 0 if self.measured is None else len(np.atleast_1d(self.measured.conditions.estimate))

    @property
    def ours(self) -> str:
        """Text of what is measured here, with its interval."""
        if self.measured is None:
            return "–"
        estimate, low, high = (_decimal(float(part), self.claim.digits) for part in self.measured.mean)
        return estimate if low == high else f"{estimate} [{low}, {high}]"

    @property
    def command(self) -> str | None:
        """Command that runs the study, or what else tests the claim, again."""
        study = self.claim.study
        if study is not None and not is_runnable(study):
            return f"rolloutbench train results/{study}/study.toml --out out/{study}"
        return f"rolloutbench claims {self.name} --run" if self.claim.tested else None

    def as_json(self) -> dict[str, Any]:
        """The claim and its verdict as JSON values, for other programs."""
        mean = None
        if self.measured is not None:
            mean = {name: float(part) for name, part in self.measured.mean._asdict().items()}
        return {
            "name": self.name,
            "paper": self.claim.paper,
            "where": self.claim.where,
            "claim": self.claim.says,
            "published": self.claim.published,
            "tested_by": self.claim.tested_by,
            "under": self.under,
            "ours": None if mean is None else as_records(pd.DataFrame([mean]))[0],
            "support": self.support,
            "conditions": self.conditions,
            "verdict": self.verdict,
            "why": self.claim.why,
            "command": self.command,
        }


def _decimal(value: float, digits: int) -> str:
    """A number in so many decimals, or as a power of ten where it is tiny, as p-values are."""
    return f"{value:.0e}" if 0 < abs(value) < 1e-5 else f"{round(value, digits) + 0.0:.{digits}f}"


def _replicates(values: pd.DataFrame, allocator: str | None, scenario: str) -> FloatArray:
    rows = values[(values.allocator == allocator) & (values.scenario == scenario)].sort_values("replicate")
    if rows.empty:
        raise InputError(f"no {allocator} in scenario {scenario}")
    return rows.value.to_numpy(dtype=np.float64)


def _mean_of_ratios(ours: FloatArray, theirs: FloatArray) -> Interval:
    """Mean over scenarios of ratios (S, R), paired by replicate; of one scenario its own interval."""
    if len(ours) == 1:
        return Interval(*(part[0] for part in ratio_interval(ours, theirs)))
    whole = paired_bootstrap(lambda a, b: ratio_of_means(a, b).mean(axis=1), ours[None], theirs[None])
    return Interval(*(part[0] for part in whole))


def _scaled(interval: Interval, scale: float) -> Interval:
    ends = interval if scale >= 0 else Interval(interval.estimate, interval.high, interval.low)
    return Interval(*(scale * part for part in ends))


def _spread(conditions: Interval) -> Interval:
    if len(conditions.estimate) == 1:
        return Interval(*(part[0] for part in conditions))
    mean = np.asarray(conditions.estimate.mean())
    return Interval(mean, np.asarray(conditions.low.min()), np.asarray(conditions.high.max()))


def claims_in(path: Path = HERE / "claims.toml") -> dict[str, Claim]:
    """Read the claims of a file, by name. Raises InputError naming the claim that is wrong."""
    found = {}
    for name, given in tomllib.loads(path.read_text()).items():
        try:
            found[name] = Claim(**given)
        except ValidationError as error:
            problem = error.errors()[0]
            where = "".join(f"{part} = {problem['input']}: " for part in problem["loc"])
            said = problem["msg"].removeprefix("Value error, ")
            raise InputError(f"{path}: {name}: {where}{said}") from None
    return found


def choose(claims: Mapping[str, Claim], names: Sequence[str]) -> dict[str, Claim]:
    """Choose claims by name, or all of a paper. Raises InputError where a name is neither."""
    papers = {name.partition("-")[0] for name in claims}
    for name in names:
        if name not in claims and name not in papers:
            raise InputError(f"no claim '{name}': {nearest(name, [*papers, *claims])}")
    return {
        name: claim
        for name, claim in claims.items()
        if not names or name in names or name.partition("-")[0] in names
    }


def runnable_studies(claims: Mapping[str, Claim]) -> list[str]:
    """Names of the studies that the claims speak of and that can be run again."""
    studies = [
        study
        for claim in claims.values()
        for study in ([claim.study] if claim.study else FIGURES[claim.figure].studies if claim.figure else [])
    ]
    return [study for study in dict.fromkeys(studies) if is_runnable(study)]


def judge_all(claims: Mapping[str, Claim], sources: Sources) -> list[Judged]:
    """Judge every claim by the rule of this file."""
    return [judge(name, claim, sources) for name, claim in claims.items()]


def judge(name: str, claim: Claim, sources: Sources) -> Judged:
    """Judge one claim by the rule of this file."""
    if not claim.tested:
        return Judged(name, claim, None, 0, "not testable here", "")
    found = claim.measure(sources)
    for_it = supports(claim, found.conditions)
    support, conditions = int(for_it.sum()), len(for_it)
    right_size = claim.within is None or bool(_meets(claim.within, found.mean).all())
    verdict: Verdict = "not" if not support else "partly"
    if support == conditions and right_size:
        verdict = "reproduced"
    return Judged(name, claim, found, support, verdict, "; ".join(claim.under(sources)))


def supports(claim: Claim, interval: Interval) -> BoolArray:
    """Whether each condition (S,) is on the claimed side as a whole; of a mere size, whether it meets it."""
    if claim.above is None and claim.below is None:
        assert claim.within is not None
        return _meets(claim.within, interval)
    low, high = (np.atleast_1d(part) for part in (interval.low, interval.high))
    above = -np.inf if claim.above is None else claim.above
    below = np.inf if claim.below is None else claim.below
    beyond: BoolArray = (low > above) & (high < below)
    return beyond


def _meets(within: Sequence[float], interval: Interval) -> BoolArray:
    low, high = (np.atleast_1d(part) for part in (interval.low, interval.high))
    meets: BoolArray = (low <= within[1]) & (high >= within[0])
    return meets


HEADINGS = (
    Heading("claim", "name"),
    Heading("what is claimed", "words"),
    Heading("published", "words", 2),
    Heading("under", "words", 4),
    Heading("ours [95%]"),
    Heading("for it", priority=1),
    Heading("verdict", "words"),
    Heading("why", "words", 3),
)


def table(verdicts: Iterable[Judged]) -> Sheet:
    """A row for each claim; `for it` counts the conditions that support it."""
    rows: list[list[str | Shown]] = []
    for one in verdicts:
        claim = one.claim
        says = f"{claim.says} ({claim.paper}, {claim.where})"
        support = f"{one.support} of {one.conditions}" if one.conditions else "–"
        verdict = Shown(one.verdict, one.verdict)
        rows.append([one.name, says, claim.published, one.under, one.ours, support, verdict, claim.why])
    return sheet("claims", HEADINGS, rows, breaks=range(len(rows)))


def write(verdicts: Sequence[Judged], directory: Path) -> None:
    """Write claims.md and claims.csv into a directory."""
    write_whole(directory / "claims.md", f"{table(verdicts).markdown()}\n".encode())
    rows = []
    for one in verdicts:
        flat = one.as_json()
        ours = flat.pop("ours") or dict.fromkeys(Interval._fields)
        rows.append({**flat, **ours})
    write_whole(directory / "claims.csv", pd.DataFrame(rows).to_csv(index=False).encode())
