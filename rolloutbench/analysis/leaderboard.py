"""The leaderboard: allocators of all recorded training runs on one page, under conditions that one chooses.

A row is an allocator in a scenario under a condition, as a study measured it. A view chooses rows by
condition, scenario, epochs and dead share, and says which price is paid until which target; everybody who has
rows in it stands there by the mean of the ratios to uniform. The page does the same in the reader's browser,
names each view by its address, and shows for each number the command that measured it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

import numpy as np
from markupsafe import Markup

from rolloutbench.allocators import allocators
from rolloutbench.analysis.columns import check_origin
from rolloutbench.analysis.metrics import TUNED_PREFIX, describe
from rolloutbench.analysis.report import page_template
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.statistics import Estimate
from rolloutbench.analysis.tables import verdict
from rolloutbench.analysis.yardsticks import is_bound, is_yardstick, method_of
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.files import write_whole
from rolloutbench.protocol import InputError
from rolloutbench.registry import parse_spec
from rolloutbench.text import cleaned

KINDS = ("learning", "training")
"""Kinds of study that a leaderboard is made of: simulated and real training runs."""
PRICES = {"rollouts": "generated rollouts", "seconds": "seconds"}
"""What may be paid, with its name for readers."""
TARGETS = {"90": "90% of the gain", "50": "half of the gain", "area": "the mean gain on the way"}
"""What is paid for, with its name for readers."""
USUAL = "grpo-rollout-adam"
"""The condition that trainers have unasked; simulators/conditions.py has the others."""
EPOCHS = {
    "one": ("at most 1", 0.0, 1.0),
    "few": ("more than 1, at most 10", 1.0, 10.0),
    "many": ("more than 10", 10.0, np.inf),
}
"""Choices of epochs, that uniform makes of the pool in a run: words, more than, at most."""
DEAD = {
    "low": ("at most 45%", -1.0, 0.45),
    "middle": ("45 to 60%", 0.45, 0.6),
    "high": ("more than 60%", 0.6, 1.0),
}
"""Choices of the share of uniform's groups with equal rewards, over a run: words, more than, at most."""


@dataclass(frozen=True)
class Row:
    """An allocator in a scenario under a condition: `ratios` to uniform by metric, of the measuring `study`.

    `epochs` of the pool and the share of `dead` groups are uniform's; None where they are not known.
    """

    allocator: str
    scenario: str
    condition: str
    epochs: float | None
    dead: float | None
    replicates: int
    study: int
    ratios: dict[str, Estimate]


@dataclass(frozen=True)
class View:
    """A choice of rows, and the `price` paid until a `target`. An empty text chooses everything.

    Scenarios with parameters in brackets are only seen where they are asked for by name.
    """

    condition: str = ""
    scenario: str = ""
    epochs: str = ""
    dead: str = ""
    price: Literal["rollouts", "seconds"] = "rollouts"
    target: Literal["90", "50", "area"] = "90"

    @property
    def metric(self) -> str:
        """The metric by which allocators stand."""
        return f"area_over_{self.price}" if self.target == "area" else f"{self.price}_to_{self.target}"

    @property
    def address(self) -> str:
        """The part of the page's address that brings this view back."""
        return "#" + urlencode({name: value for name, value in vars(self).items() if value})

    def has(self, row: Row) -> bool:
        """Whether a row is among the chosen."""
        return (
            self.condition in ("", row.condition)
            and (row.scenario == self.scenario if self.scenario else "[" not in row.scenario)
            and _within(EPOCHS, self.epochs, row.epochs)
            and _within(DEAD, self.dead, row.dead)
            and self.metric in row.ratios
        )


@dataclass(frozen=True)
class Standing:
    """Where an allocator stands in a view: its mean ratio over `scenarios` of the `most` that anybody has.

    The interval is the mean of the intervals, which holds however much the scenarios have in common.
    """

    allocator: str
    ratio: Estimate
    scenarios: int
    most: int
    verdict: str

    @property
    def is_complete(self) -> bool:
        """Whether it was measured in every scenario of the view."""
        return self.scenarios == self.most


def _within(choices: dict[str, tuple[str, float, float]], chosen: str, value: float | None) -> bool:
    if not chosen:
        return True
    _, above, most = choices[chosen]
    return value is not None and above < value <= most


def rows(studies: Sequence[Results]) -> list[Row]:
    """All rows of these studies; of an allocator in a scenario that several have, that of most replicates.

    Raises InputError where a study is not of training runs.
    """
    best: dict[tuple[str, str, str], Row] = {}
    for place, results in enumerate(studies):
        if results.kind not in KINDS:
            raise InputError(
                f"{results.directory}: holds a study of {results.kind}: training runs are expected"
            )
        for row in _rows(results, place):
            key = row.allocator, row.scenario, row.condition
            if key not in best or best[key].replicates < row.replicates:
                best[key] = row
    return list(best.values())


def standings(found: Iterable[Row], view: View) -> list[Standing]:
    """Standings of a view; see `stand`."""
    return stand((row for row in found if view.has(row)), view.metric)


def stand(found: Iterable[Row], metric: str) -> list[Standing]:
    """Standings of rows by a metric, the best first; those that lack a scenario stand behind the others."""
    chosen = [row for row in found if metric in row.ratios]
    most = len({(row.scenario, row.condition) for row in chosen})
    sign = describe(metric).sign
    stands = []
    for name in dict.fromkeys(row.allocator for row in chosen):
        ratios = np.array([row.ratios[metric] for row in chosen if row.allocator == name])
        ratio = Estimate(*map(float, ratios.mean(axis=0)))
        said = "" if name == BASELINE else verdict(ratio.low, ratio.high, sign)
        stands.append(Standing(name, ratio, len(ratios), most, said))
    return sorted(stands, key=lambda one: (not one.is_complete, -sign * one.ratio.estimate))


def first_view(found: Iterable[Row]) -> View:
    """What the page opens with: what most was measured of, under the usual condition if there is any of it.

    That is a condition and all named scenarios, or one scenario where none of these was measured.
    """
    places = [(row.condition, "" if "[" not in row.scenario else row.scenario) for row in found]
    places = [place for place in places if not place[1]] or places
    places = [place for place in places if place[0].startswith(f"{USUAL},")] or places
    return View(*max(dict.fromkeys(places), key=places.count)) if places else View()


def html(studies: Sequence[Results], pages: str = "") -> str:
    """The page of these studies. `pages` is the address of a folder that has a page for each method."""
    found = rows(studies)
    data = {
        "rows": [_as_json(row) for row in found],
        "studies": [_study(results) for results in studies],
        "metrics": {metric: _described(metric) for metric in _metrics()},
        "prices": PRICES,
        "targets": TARGETS,
        "epochs": {name: [words, above, min(most, 1e12)] for name, (words, above, most) in EPOCHS.items()},
        "dead": {name: list(choice) for name, choice in DEAD.items()},
        "first": vars(first_view(found)),
        "kinds": {name: _kind(name) for name in dict.fromkeys(row.allocator for row in found)},
        "pages": {
            name: f"{pages}/{method_of(name)}.html"
            for name in dict.fromkeys(row.allocator for row in found)
            if pages and method_of(name) in allocators.builtin
        },
        "baseline": BASELINE,
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return page_template("leaderboard.html.jinja").render(data=Markup(text.replace("<", "\\u003c")))


def write(studies: Sequence[Results], out: Path) -> None:
    """Write the page. Raises InputError where it cannot be written, or a study is not of training runs."""
    for results in studies:
        check_origin(results.record, results.directory)
    content = html(studies).encode()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, content)
    except OSError as error:
        raise InputError(f"out={out}: cannot be written: {error.strerror or error}") from None


# From a study


def _metrics() -> list[str]:
    """Every metric that a view may ask for."""
    return [View(price=price, target=target).metric for price in PRICES for target in TARGETS]  # type: ignore[arg-type]


def _rows(results: Results, place: int) -> Iterator[Row]:
    summary = results.summary
    own = len(results.record.get("learning_rates") or [1]) > 1
    measured = {TUNED_PREFIX * own + metric: metric for metric in _metrics()}
    for scenario in results.shown_scenarios():
        here = summary[(summary.scenario == scenario) & summary.metric.isin(measured)]
        about = (
            _name(scenario),
            _condition(results, scenario),
            _epochs(results, scenario),
            _dead(results, scenario),
        )
        for name, part in here.groupby("allocator", sort=False):
            numbers = part[["ratio", "ratio_low", "ratio_high"]].to_numpy(dtype=np.float64)
            ratios = {
                measured[str(metric)]: Estimate(*map(float, ends))
                for metric, ends in zip(part.metric, numbers, strict=True)
                if np.isfinite(ends).all()
            }
            yield Row(str(name), *about, int(part.replicates.max()), place, ratios)


def _name(scenario: str) -> str:
    """A scenario's name without the condition, which stands in a column of its own."""
    name, parameters = parse_spec(scenario)
    rest = ",".join(f"{key}={value}" for key, value in parameters.items() if key != "condition")
    return f"{name}[{rest}]" if rest else name


def _condition(results: Results, scenario: str) -> str:
    """Estimator, mean and optimizer by one name, and whether everybody has its own learning rate."""
    record = results.record
    optimizer = re.search(r"optimizer=(\w+)\(", record["scenarios"][scenario])
    said = record.get("under", {}).get(scenario) or "-".join(
        [record["estimator"], record["aggregation"], *([optimizer[1].lower()] if optimizer else [])]
    )
    rates = "own best rates" if len(record.get("learning_rates") or [1]) > 1 else "one rate"
    return f"{'real runs: ' * (results.kind == 'training')}{said}, {rates}"


def _epochs(results: Results, scenario: str) -> float | None:
    """How often uniform sees each prompt of the pool in a run, from what is recorded of the scenario."""
    batch = re.search(r"(\d+) steps of (\d+) prompts", results.record["captions"][scenario])
    pool = re.search(r"\bpool_size=(\d+)", results.record["scenarios"][scenario])
    return int(batch[1]) * int(batch[2]) / int(pool[1]) if batch and pool else None


def _dead(results: Results, scenario: str) -> float | None:
    """The share of uniform's groups with equal rewards, over the whole run."""
    effective = results.of_metric("effective_ratio", scenario)
    return 1 - float(effective.estimate[BASELINE]) if BASELINE in effective.index else None


def _study(results: Results) -> dict[str, object]:
    record = results.record
    return {
        "name": cleaned(results.directory.name),
        "command": cleaned(record["command"]),
        "conditions": cleaned(results.conditions),
        "version": cleaned(record["version"]),
        "commit": cleaned(record["commit"] or "unknown"),
        "seed": record["seed"],
    }


def _as_json(row: Row) -> list[object]:
    """A row as the page reads it; numbers to four digits."""
    ratios = {metric: [round(part, 4) for part in ratio] for metric, ratio in row.ratios.items()}
    about = [None if part is None else round(part, 3) for part in (row.epochs, row.dead)]
    return [
        cleaned(row.allocator),
        cleaned(row.scenario),
        row.condition,
        *about,
        row.replicates,
        row.study,
        ratios,
    ]


def _described(metric: str) -> dict[str, object]:
    described = describe(metric)
    return {"label": described.label, "sign": described.sign, "better": described.better}


def _kind(name: str) -> str:
    """What an allocator is there for: a method, a bound, or another yardstick."""
    return "bound" if is_bound(name) else "yardstick" if is_yardstick(name) else "method"
