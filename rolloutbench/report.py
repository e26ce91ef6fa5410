"""A report of results: one page to mail, and tables to paste into a paper's appendix or a README.

The page is a single file that loads nothing: figures are data, the script sorts tables, and a content
security policy forbids everything else. Its tables are those of the terminal, cell by cell; its words
are made from the same numbers. The same results give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rolloutbench import tables
from rolloutbench.metrics import BASELINE, COUNT_PREFIX, METRICS, TUNED_PREFIX, Metric
from rolloutbench.protocol import InputError
from rolloutbench.results import LearningResults, PredictionResults, Results, open_results, ranking
from rolloutbench.store import METADATA, REPORT, read_manifest, write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "snapshot": "Gradients that allocators buy in one step",
    "learning": "Rollout allocators at equal cost",
    "training": "Rollout allocators at equal cost, training a language model",
    "prediction": "Predictors of the success probability",
}
"""Of studies that have no title of their own."""
HEAT_METRICS = {
    "snapshot": ("snr", "mse", "cosine_per_rollout"),
    "learning": ("area_over_rollouts", "rollouts_to_90", "seconds_to_90"),
    "training": ("area_over_rollouts", "rollouts_to_90", "seconds_to_90"),
    "prediction": ("brier_later", "mae_first_epoch", "mae_later"),
}
"""What the heat map of all scenarios can show, besides the metric that ranks."""
LEVELS = (1.05, 1.15, 1.4)
"""Ratios to uniform, or their inverses, at which a heat map's colour grows stronger."""
BAR_ENDS = 0.0, 3.0
"""Ratios beyond which the graphic of an interval is cut off."""
NARROW = 4.6
"""Width in inches at which a figure's type is readable on a phone."""
LARGEST_SVG = 250_000
"""Letters of a vector figure as data; a larger one becomes pixels."""
LINES_HEIGHT = 2.7
"""Of a narrow figure of lines, in inches, without its legend."""


class Cell(NamedTuple):
    """What stands in a table, and what colours it: a verdict, or a level of a heat map."""

    text: str
    tone: str = ""

    @property
    def estimate(self) -> str:
        """The number without its interval."""
        return re.split(r" (?=[±\[])", self.text)[0]

    @property
    def interval(self) -> str:
        """± half of it, or [both ends], where there is one."""
        return self.text.removeprefix(self.estimate).strip()

    @property
    def value(self) -> float | None:
        """What it sorts by, None where it is no number."""
        try:
            return float(self.estimate)
        except ValueError:
            return None


class Bar(NamedTuple):
    """An interval as a graphic: positions in percent of its width."""

    low: float
    estimate: float
    high: float
    one: float


class Row(NamedTuple):
    """One allocator's row, with the graphic of its interval."""

    name: str
    cells: list[Cell]
    bar: Bar | None = None


class Heading(NamedTuple):
    """A column's heading, the metric it shows if any, and the order in which the rows stand already."""

    text: str
    metric: str = ""
    order: str = ""


@dataclass(frozen=True)
class Grid:
    """A table as the terminal shows it, of plain values; or a heat map."""

    title: str
    caption: str
    who: str
    headings: list[Heading]
    rows: list[Row]

    def column(self, metric: str) -> dict[str, str]:
        """A metric of each allocator, as it is shown."""
        place = [heading.metric for heading in self.headings].index(metric)
        return {row.name: row.cells[place].text for row in self.rows}

    @property
    def drawn(self) -> bool:
        """Whether there are graphics of intervals."""
        return any(row.bar for row in self.rows)


class Picture(NamedTuple):
    """A figure as data, with the words that stand for it."""

    source: str
    title: str
    note: str
    alt: str
    wide: bool
    width: int
    height: int


class Group(NamedTuple):
    """Who shares a verdict, each with numbers."""

    verdict: str
    heading: str
    members: list[str]


class Answer(NamedTuple):
    """The short answer: conditions and best first, then everybody by verdict, then what to keep in mind."""

    lead: str
    groups: list[Group]
    notes: list[str]


class Part:
    """One study of a page: everything that is said of it, ready to be set."""

    def __init__(self, results: Results) -> None:
        record, names = results.record, results.shown_scenarios()
        self.results, self.who = results, results.who
        self.title = str(record.get("title") or TITLES[results.kind])
        self.question = str(record.get("question") or results.question)
        ranks = _ranks(results) if len(names) > 1 else None
        self.answer = _answer(results, ranks)
        self.left_out = list(_left_out(results))
        self.ranking = None if ranks is None else _ranking_grid(results, ranks)
        self.heat_maps = [] if ranks is None else _heat_maps(results, ranks)
        self.grids: dict[str, list[Grid]] = {name: [] for name in names}
        for table in results.tables():
            if table.title in self.grids:
                self.grids[str(table.title)].append(_scenario_grid(results, table))
        self.origin = dict(_origin(results))
        config = results.directory / "study.toml"
        self.config = config.read_text(encoding="utf-8") if config.exists() else ""

    def pictures(self, scenario: str) -> Iterator[Picture]:
        """The figures of a scenario, where there is what they are drawn from."""
        if not self.results.has(self.results.drawn):
            return
        shown = self.grids[scenario][0]
        for drawn in DRAWN[self.results.kind](self.results, scenario, shown):
            yield _picture(scenario, *drawn)

    def meanings(self) -> list[Metric]:
        """What each column and each heat map shows."""
        grids = [*(grid for grids in self.grids.values() for grid in grids), *self.heat_maps]
        shown = [heading.metric for grid in grids for heading in grid.headings]
        names = dict.fromkeys(name.removeprefix(TUNED_PREFIX) for name in (self.results.sort, *shown))
        return [METRICS[name] for name in names if name in METRICS]

    def made(self) -> Iterator[tuple[str, str, str]]:
        """Kind, name and every parameter of what was compared."""
        for kind in ("allocators", "predictors", "scenarios"):
            for name, said in self.results.record.get(kind, {}).items():
                yield kind[:-1], name, said


def html(results: Sequence[Results]) -> str:
    """One self-contained page of all results, each a part of it."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"digest": _digest, "breakable": _breakable}
    template = resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    parts = [Part(each) for each in results]
    title = "; ".join(dict.fromkeys(part.title for part in parts))
    page = environment.from_string(template)
    return page.render(title=title, parts=parts, levels=LEVELS, baseline=BASELINE)


def markdown(results: Results) -> str:
    """The answer and the tables of the terminal, as GitHub reads them."""
    part = Part(results)
    blocks = [f"# {_plain(part.title)}", _plain(part.question), _plain(part.answer.lead)]
    blocks += [
        f"**{group.heading}**: {'; '.join(map(_plain, group.members))}." for group in part.answer.groups
    ]
    blocks += [_plain(note) for note in part.answer.notes]
    grids = [grid for grids in part.grids.values() for grid in grids]
    for grid in grids if part.ranking is None else [part.ranking, *grids]:
        blocks += [f"## {_plain(grid.title)}", _markdown_table(grid), _plain(grid.caption)]
    if part.left_out:
        blocks += ["## Left out", "\n".join(f"- {_plain(line)}" for line in part.left_out)]
    blocks += ["## Origin", "\n".join(f"- {name}: {_code(value)}" for name, value in part.origin.items())]
    return "\n\n".join(blocks) + "\n"


def write(directories: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Write report.html and report.md of finished studies, into the first one's directory or `out`.

    Raises InputError where a directory holds no finished results, or `out` cannot be written.
    """
    if not directories:
        raise InputError("report: no directory of results given")
    results = [open_results(directory) for directory in directories]
    out = directories[0] if out is None else out
    texts = html(results), "\n".join(markdown(each) for each in results)
    contents = dict(zip(REPORT, texts, strict=True))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(out / name, content.encode())
    except OSError as error:
        raise InputError(f"out={out}: cannot be written: {error.strerror or error}") from None
    return [out / name for name in contents]


# Tables


def _scenario_grid(results: Results, table: Table) -> Grid:
    """A scenario's table of the terminal, with graphics of the ratios by which it is sorted."""
    texts = [str(column.header) for column in table.columns[1:]]
    tuned = tables.TUNED_COLUMNS[0].heading in texts
    known = {column.heading: column.metric for column in (tables.TUNED_COLUMNS if tuned else results.columns)}
    metrics = [known.get(text, text.removesuffix("\nratio")) for text in texts]
    sort = TUNED_PREFIX + results.sort if tuned else results.sort
    order = "ascending" if METRICS[results.sort].better == "lower" else "descending"
    headings = [
        Heading(text, metric if "\n" not in metric else "", order if metric == sort else "")
        for text, metric in zip(texts, metrics, strict=True)
    ]
    rows = _rows(table, _of_metric(results, sort, str(table.title)))
    return Grid(str(table.title), str(table.caption), results.who, headings, rows)


def _ranking_grid(results: Results, ranks: pd.DataFrame) -> Grid:
    """Everybody over all scenarios, as on the terminal."""
    caption = f"{results.conditions}, by {results.sort}; [95% intervals]"
    table = tables.across_scenarios(ranks, caption)
    texts = [str(column.header) for column in table.columns[1:]]
    headings = [Heading(texts[0], "", "ascending"), *(Heading(text) for text in texts[1:])]
    rows = _rows(table, ranks.set_index("allocator"))
    return Grid(str(table.title), str(table.caption), results.who, headings, rows)


def _rows(table: Table, ratios: pd.DataFrame) -> list[Row]:
    """The rows of a table of the terminal; `ratios` has ratio, ratio_low and ratio_high by allocator."""
    ends = ratios[["ratio_low", "ratio_high"]].to_numpy()
    ends = ends[np.isfinite(ends)]
    start, end = (
        (float(np.clip(ends.min(), BAR_ENDS[0], 0.98)), float(np.clip(ends.max(), 1.02, BAR_ENDS[1])))
        if len(ends)
        else BAR_ENDS
    )

    def place(ratio: float) -> float:
        return round(4 + 92 * (min(max(ratio, start), end) - start) / (end - start), 2)

    bars = {
        str(name): Bar(place(row.ratio_low), place(row.ratio), place(row.ratio_high), place(1.0))
        for name, row in ratios.iterrows()
        if np.isfinite([row.ratio, row.ratio_low, row.ratio_high]).all()
    }
    names, *columns = [[_plain_text(cell) for cell in column.cells] for column in table.columns]
    return [
        Row(name, [Cell(text, text if text in VERDICTS else "") for text in row], bars.get(name))
        for name, *row in zip(names, *columns, strict=True)
    ]


def _plain_text(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _heat_maps(results: Results, ranks: pd.DataFrame) -> list[Grid]:
    """Ratios to uniform of everybody in every scenario, one table a metric that can be looked at."""
    wanted = dict.fromkeys((results.sort, *HEAT_METRICS[results.kind], TUNED_PREFIX + results.sort))
    present = set(results.summary.metric)
    return [_heat_map(results, metric, ranks) for metric in wanted if metric in present]


def _heat_map(results: Results, metric: str, ranks: pd.DataFrame) -> Grid:
    described = _described(metric)
    scenarios = results.shown_scenarios()
    names = dict.fromkeys([*ranks.allocator, *results.summary.allocator])
    here = {scenario: _of_metric(results, metric, scenario) for scenario in scenarios}
    rows = [
        Row(name, [_heat_cell(here[scenario], name, described.better) for scenario in scenarios])
        for name in names
    ]
    caption = f"{described.label}, ratio to {BASELINE} ±half of a 95% interval; {described.better} is better"
    return Grid(described.label, caption, results.who, [Heading(name, metric) for name in scenarios], rows)


def _heat_cell(ratios: pd.DataFrame, name: str, better: str | None) -> Cell:
    """A ratio with half its interval; no colour where the interval has 1 in it."""
    if name not in ratios.index or not np.isfinite(ratios.ratio[name]):
        return Cell("n/a")
    if name == BASELINE:
        return Cell("1")
    verdict, ratio = _verdict(ratios, name, better), ratios.ratio[name]
    size = max(ratio, 1 / ratio) if ratio > 0 else np.inf
    tone = verdict if verdict == "even" else f"{verdict}-{np.searchsorted(LEVELS, size)}"
    return Cell(f"{ratio:.2f} ±{ratios.ratio_high[name] - ratio:.2f}", tone)


def _of_metric(results: Results, metric: str, scenario: str) -> pd.DataFrame:
    """The summary of one metric in one scenario, by allocator."""
    summary = results.summary
    here = summary[(summary.scenario == scenario) & (summary.metric == metric)]
    return here.set_index("allocator")


def _described(metric: str) -> Metric:
    """What a metric is, also one at an allocator's own learning rate."""
    described = METRICS[metric.removeprefix(TUNED_PREFIX)]
    if metric.startswith(TUNED_PREFIX):
        return described._replace(label=f"{described.label}, each at its own best learning rate")
    return described


# Words

VERDICTS = {
    "better": f"Better than {BASELINE}",
    "even": f"Not told apart from {BASELINE}",
    "worse": f"Worse than {BASELINE}",
}


def _verdict(ratios: pd.DataFrame, name: str, better: str | None) -> str:
    low, high = ratios.loc[[name], ["ratio_low", "ratio_high"]].to_numpy()[0]
    return tables.verdict(low, high, better == "higher")


def _ranks(results: Results) -> pd.DataFrame:
    """Everybody over all scenarios; see `results.ranking`."""
    return results.ranking if isinstance(results, LearningResults) else ranking(results.values, results.sort)


def _answer(results: Results, ranks: pd.DataFrame | None) -> Answer:
    """Who is better than uniform by the metric that ranks, by how much, and who is worse."""
    from rolloutbench.plotting.style import is_yardstick

    described, scenarios = METRICS[results.sort], results.shown_scenarios()
    several = ranks is not None
    found = (
        ranks.set_index("allocator") if ranks is not None else _of_metric(results, results.sort, scenarios[0])
    )
    found = found[np.isfinite(found.ratio) & (found.index != BASELINE)]
    found = found.sort_values("ratio", ascending=described.better == "lower", kind="stable")
    verdicts = {str(name): _verdict(found, str(name), described.better) for name in found.index}
    numbers = {
        str(name): f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
        for name, row in found.iterrows()
    }
    yardsticks = [name for name in verdicts if is_yardstick(name)]
    where = f"Over {len(scenarios)} scenarios" if several else f"In {scenarios[0]}"
    mean = "mean of the scenarios' ratios, " if several else ""
    measured = f"{described.label} ({described.better} is better; {mean}95% interval)"
    best = next(
        (name for name, said in verdicts.items() if said == "better" and name not in yardsticks), None
    )
    aside = ", yardsticks aside," if yardsticks else ""
    if best is None:
        lead = f"{where}{aside} no {results.who} did better than {BASELINE} by {measured}."
    else:
        lead = f"{where}{aside} {best} did best: {numbers[best]} times {BASELINE}'s {measured}."
    lead += f" Conditions: {results.conditions}."
    groups = []
    for verdict, heading in VERDICTS.items():
        members = [
            f"{name} {numbers[name]}" + _in_scenarios(results, name, described.better) * several
            for name in verdicts
            if verdicts[name] == verdict
        ]
        if members:
            groups.append(Group(verdict, heading, members))
    notes = [*_settled(found, best, yardsticks), *_saved(results, best)]
    if yardsticks:
        named = ", ".join(yardsticks)
        notes.append(f"Yardsticks are controls, smaller groups, and those that know the truth: {named}.")
    notes.append(
        "This holds under the conditions above: another estimator, aggregation, budget or learning rate can "
        f"change who wins. Each interval is of one {results.who} against {BASELINE}, and is not widened for "
        f"the number of comparisons made here ({len(verdicts)})."
    )
    return Answer(lead, groups, notes)


def _in_scenarios(results: Results, name: str, better: str | None) -> str:
    """In how many of several scenarios somebody was better, even or worse."""
    scenarios = results.shown_scenarios()
    found = [_of_metric(results, results.sort, scenario) for scenario in scenarios]
    verdicts = [_verdict(ratios, name, better) for ratios in found if name in ratios.index]
    counts = [f"{verdict} in {verdicts.count(verdict)}" for verdict in VERDICTS if verdict in verdicts]
    return f" ({', '.join(counts)} of {len(scenarios)})"


def _settled(found: pd.DataFrame, best: str | None, yardsticks: Sequence[str]) -> Iterator[str]:
    """Whose interval overlaps that of the best."""
    if best is None:
        return
    others = found.drop(index=[best, *(name for name in yardsticks if name != best)])
    overlap = others[
        (others.ratio_low <= found.ratio_high[best]) & (found.ratio_low[best] <= others.ratio_high)
    ]
    if len(overlap):
        names = ", ".join(map(str, overlap.index))
        yield f"The intervals of {best} and of {names} overlap: who comes first is not settled here."


def _saved(results: Results, best: str | None) -> Iterator[str]:
    """What the best spent until most of the gain was made."""
    metric = "rollouts_to_90"
    if best is None or not isinstance(results, LearningResults) or results.sort == metric:
        return
    rows = {name: _of_metric(results, metric, name) for name in results.shown_scenarios()}
    ratios = [
        (here.ratio[best], here.ratio_high[best], name) for name, here in rows.items() if best in here.index
    ]
    ends = [end for end in sorted(ratios) if np.isfinite(end[0])]
    if ends:
        said = [f"{ratio:.2f} ±{high - ratio:.2f} ({name})" for ratio, high, name in ends]
        times = said[0] if len(said) == 1 else f"between {said[0]} and {said[-1]}"
        yield (
            f"Until 90% of the reference run's gain, {best} generated {times} times the rollouts that "
            f"{BASELINE} did."
        )


def _left_out(results: Results) -> Iterator[str]:
    """What was asked for and has no results, and numbers that rest on fewer replicates than the others."""
    summary, record = results.summary, results.record
    members = record["predictors" if results.kind == "prediction" else "allocators"]
    present = set(zip(summary.scenario, summary.allocator, strict=True))
    errors = _errors(results.directory)
    if not results.has(results.drawn):
        yield f"all figures: this copy of the study does not keep its table '{results.drawn}'"
    for scenario in record["captions"]:
        missing = [name for name in members if (scenario, name) not in present]
        if len(missing) == len(members):
            why = {error for part, found in errors.items() if part[0] == scenario for error in found}
            yield f"{scenario}, with everybody in it{_because(why)}"
            continue
        for name in missing:
            yield f"{name} in {scenario}{_because(errors.get((scenario, name), set()))}"
    shown = {
        column.metric: column.heading.replace("\n", " ")
        for column in (*results.columns, *tables.TUNED_COLUMNS)
    }
    fewer = summary[(summary.replicates < summary.replicates.max()) & summary.metric.isin(shown)]
    for row in fewer.itertuples():
        yield (
            f"{shown[str(row.metric)]} of {row.allocator} in {row.scenario} rests on {row.replicates} of "
            f"{record['replicates']} replicates"
        )


def _because(errors: set[str]) -> str:
    return f": {'; '.join(sorted(errors))}" if errors else ": it has no results"


def _errors(directory: Path) -> dict[tuple[str, str], set[str]]:
    """Why cells failed, by scenario and allocator; empty for recorded results, which have no cells."""
    found: dict[tuple[str, str], set[str]] = {}
    for key, entry in read_manifest(directory).cells.items():
        path = directory / "cells" / f"{key}.error.json"
        if path.exists():
            found.setdefault(entry.part, set()).add(str(json.loads(path.read_bytes())["error"]))
    return found


def _origin(results: Results) -> Iterator[tuple[str, str]]:
    """Everything that is needed to have the same numbers again, and to know that they are the same."""
    record, cells = results.record, read_manifest(results.directory).cells
    machine = record["machine"]
    yield "command", record["command"]
    yield "version", f"rolloutbench {record['version']}"
    yield "git commit", f"{record['commit'] or 'unknown'}"
    yield "source code", ", ".join(f"{package} {digest}" for package, digest in record["sources"].items())
    packages = ", ".join(f"{package} {version}" for package, version in machine["packages"].items())
    yield "Python", f"{machine['python']}; {packages}"
    yield "host", f"{machine['host']}: {machine['system']}, {machine['processor']}, {machine['cores']} cores"
    yield "seed", str(record["seed"])
    yield "replicates", str(record["replicates"])
    yield "estimator", record["estimator"]
    yield "aggregation", record["aggregation"]
    yield "study hash", hashlib.sha256("".join(cells).encode()).hexdigest()
    yield "cells", str(len(cells))
    facts = [
        json.loads(pq.read_schema(path).metadata[METADATA])
        for path in sorted((results.directory / "cells").glob("*.parquet"))
        if path.name.partition("-")[0] in cells
    ]
    if facts:
        hosts = ", ".join(sorted({str(fact["host"]) for fact in facts}))
        yield "computed", f"{sum(fact['seconds'] for fact in facts):,.1f} s of one core, on {hosts}"


# Figures


class Drawn(NamedTuple):
    """A figure, its title, what it shows in numbers, and its height in inches; None leaves it as it is."""

    figure: Figure
    title: str
    says: str
    height: float | None = None


def _learning(results: Results, scenario: str, shown: Grid) -> Iterator[Drawn]:
    """Accuracy, its difference to uniform's, what became of rollouts, and who got them."""
    from rolloutbench.plotting import learning as plots

    assert isinstance(results, LearningResults)
    curves, steps = results.curves[results.curves.scenario == scenario], results.record["steps"]
    summary = results.summary[results.summary.scenario == scenario]
    yield Drawn(
        plots.learning_curves(curves, steps, "rollouts", ""),
        "Accuracy over rollouts",
        "Lines of held-out accuracy gained against generated rollouts. Area under them, ratio to "
        f"{BASELINE}: {_listed(shown.column('area_over_rollouts'))}.",
        LINES_HEIGHT,
    )
    yield Drawn(
        plots.difference_curves(curves, steps, "rollouts", ""),
        f"Difference to {BASELINE} over rollouts",
        f"Lines of held-out accuracy minus {BASELINE}'s against generated rollouts. Points at the end: "
        f"{_listed(shown.column('accuracy_at_rollouts'))}.",
        LINES_HEIGHT,
    )
    yield Drawn(
        plots.learning_curves(curves, steps, "seconds", ""),
        "Accuracy over seconds",
        "Lines of held-out accuracy gained against seconds. Seconds to 90% of the gain, ratio to "
        f"{BASELINE}: {_listed(shown.column('seconds_to_90'))}.",
        LINES_HEIGHT,
    )
    yield Drawn(
        plots.cost_breakdown(summary, ""),
        "What became of the rollouts",
        f"Stacked bars of shares of generated rollouts. Wasted: {_listed(shown.column('wasted_ratio'))}.",
        0.9 + 0.16 * summary.allocator.nunique(),
    )
    if counts := _counts(summary):
        yield Drawn(
            plots.allocation_over_time(curves, steps, ""),
            "Who got the rollouts",
            "Lines of rollouts per prompt against its success probability, in three thirds of the run. "
            f"{counts}",
        )


def _training(results: Results, scenario: str, shown: Grid) -> Iterator[Drawn]:
    """What is drawn of simulated runs, and what the seconds went into."""
    from rolloutbench.plotting import training as plots

    yield from _learning(results, scenario, shown)
    summary = results.summary[results.summary.scenario == scenario]
    seconds = _of_metric(results, "seconds_per_step", scenario).estimate
    said = ", ".join(f"{name} {value:.3g}" for name, value in seconds.items())
    yield Drawn(
        plots.seconds_split(summary, ""),
        "What the seconds were spent on",
        f"Stacked bars of measured seconds of a step by phase. Seconds of a step: {said}.",
        0.9 + 0.16 * summary.allocator.nunique(),
    )


def _prediction(results: Results, scenario: str, shown: Grid) -> Iterator[Drawn]:
    """Error over the run, and calibration."""
    from rolloutbench.plotting import learning as plots

    assert isinstance(results, PredictionResults)
    judged = results.judged[results.judged.scenario == scenario]
    yield Drawn(
        plots.prediction_error(judged, ""),
        "Error of the prediction over the run",
        "Lines of the mean absolute error of predicted success probabilities against steps. In the first "
        f"epoch: {_listed(shown.column('mae_first_epoch'))}. Later: {_listed(shown.column('mae_later'))}.",
        LINES_HEIGHT,
    )
    yield Drawn(
        plots.calibration(judged, ""),
        "Calibration",
        "True against predicted success probability, a panel a predictor; the diagonal is right. Calibration "
        f"error later: {_listed(shown.column('calibration_error_later'))}.",
    )


def _snapshot(results: Results, scenario: str, shown: Grid) -> Iterator[Drawn]:
    """Who gets the rollouts, and what the gradient gains for its cost."""
    from rolloutbench.plotting import comparison as plots

    summary = results.summary[results.summary.scenario == scenario]
    yield Drawn(
        plots.allocation_against_success(summary, ""),
        "Who gets the rollouts",
        f"Lines of rollouts per prompt against its success probability. {_counts(summary)}",
        LINES_HEIGHT,
    )
    yield Drawn(
        plots.cost_against_gain(summary, ""),
        "Signal to noise against cost",
        f"Dots of signal to noise against generated rollouts per prompt; the line is {BASELINE} at several "
        f"sizes. Ratio to {BASELINE}: {_listed(shown.column('snr'))}. Rollouts per prompt: "
        f"{_listed(shown.column('generated_per_prompt'))}.",
        LINES_HEIGHT,
    )


DRAWN = {"learning": _learning, "training": _training, "prediction": _prediction, "snapshot": _snapshot}
"""The figures of a scenario, by kind of study."""


def _listed(numbers: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def _counts(summary: pd.DataFrame) -> str:
    """Mean rollouts of the hardest prompts, of those nearest p = 1/2, and of the easiest; or nothing."""
    counts = summary[summary.metric.str.startswith(COUNT_PREFIX)]
    if counts.empty:
        return ""
    p = counts.metric.str.removeprefix(COUNT_PREFIX).astype(float)
    said = []
    for name, rows in counts.groupby(counts.allocator, sort=False):
        at = p[rows.index].to_numpy()
        places = [int(np.argmin(np.abs(at - wanted))) for wanted in (0.0, 0.5, 1.0)]
        found = " / ".join(f"{value:.3g}" for value in rows.estimate.to_numpy()[places])
        said.append(f"{name} {found}")
    return f"Rollouts at the lowest, a middle and the highest probability: {', '.join(said)}."


def _picture(scenario: str, figure: Figure, title: str, says: str, height: float | None) -> Picture:
    """A figure as data. With a height it is made narrow, for a phone.

    Its small print and the scenario's name, which may be long, go into the page.
    """
    import matplotlib as mpl

    from rolloutbench.plotting.panels import legend_below
    from rolloutbench.plotting.style import print_style

    note = " ".join(figure.get_suptitle().split()).removeprefix(f"{scenario}. ")
    for axes in figure.axes:
        *named, label = axes.get_ylabel().split("\n")
        if "".join(named) == scenario:  # it may be folded
            axes.set_ylabel(label)
        for side in ("left", "center"):
            if axes.get_title(loc=side).replace("\n", "") == scenario:
                axes.set_title("", loc=side)
    with print_style(), mpl.rc_context({"svg.hashsalt": "rolloutbench"}):
        figure.suptitle("").set_in_layout(False)
        if height is not None:
            figure.set_size_inches(NARROW, height)
            for legend in list(figure.legends):
                names = [text.get_text().replace("\n", "") for text in legend.get_texts()]
                handles = [handle for handle in legend.legend_handles if handle is not None]
                legend.remove()
                legend_below(figure, dict(zip(names, handles, strict=True)))
        vector, pixels = io.BytesIO(), io.BytesIO()
        figure.savefig(vector, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        source = _data("svg+xml", _rounded(vector.getvalue()))
        if len(source) > LARGEST_SVG:
            figure.savefig(pixels, format="png", transparent=True)
            source = _data("png", pixels.getvalue())
    width, high = figure.get_size_inches()
    return Picture(source, title, note, says, height is None, round(100 * width), round(100 * high))


def _rounded(svg: bytes) -> bytes:
    """Coordinates to a hundredth of a point."""
    return re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path.group()), svg)


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    """Of a script, as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _breakable(name: str) -> Markup:
    """A name that folds where its parameters begin."""
    return Markup("<wbr>").join(re.split(r"(?<=[\[=,_])", name))


# Markdown


def _markdown_table(grid: Grid) -> str:
    headings = [grid.who, *(heading.text for heading in grid.headings)]
    columns = list(zip(*(row.cells for row in grid.rows), strict=True))
    ends = ["---:" if any(cell.value is not None for cell in column) else "---" for column in columns]
    lines = [[_plain(heading) for heading in headings], ["---", *ends]]
    lines += [
        [_code(row.name).replace("|", "\\|"), *(_plain(cell.text) for cell in row.cells)] for row in grid.rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text in which GitHub finds neither markup, links nor the end of a table's cell."""
    return re.sub(r"([\\`*_<>|~#&]|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A name or a command as it is typed, also in a table."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"
