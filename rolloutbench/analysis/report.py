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

from rolloutbench.analysis import tables
from rolloutbench.analysis.answer import answer, verdict_on
from rolloutbench.analysis.columns import check_origin
from rolloutbench.analysis.metrics import Metric, describe, untuned
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.tables import Heading, Sheet, Shown, as_code, escaped, named, sheet
from rolloutbench.analysis.yardsticks import bounds_said
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.cells.store import METADATA, REPORT, read_manifest
from rolloutbench.files import write_whole
from rolloutbench.protocol import InputError
from rolloutbench.text import SPACES, cleaned

if TYPE_CHECKING:
    from jinja2 import Template

    from rolloutbench.analysis.plotting.panels import Captioned

LEVELS = (1.05, 1.15, 1.4)
"""Ratios to uniform, or their inverses, at which a heat map's colour grows stronger."""
BAR_ENDS = 0.0, 3.0
"""Ratios beyond which the graphic of an interval is cut off."""
NARROW = 4.6
"""Width in inches at which a figure's type is readable on a phone."""
LARGEST_SVG = 250_000
"""Letters of a vector figure as data; a larger one becomes pixels."""


class Bar(NamedTuple):
    """An interval as a graphic: positions in percent of its width."""

    low: float
    estimate: float
    high: float
    one: float


@dataclass(frozen=True)
class Chart:
    """A table with graphics of intervals by the names in its first column, or without any."""

    sheet: Sheet
    bars: Mapping[str, Bar]


class Embedded(NamedTuple):
    """A figure as data, with the words that stand for it."""

    source: str
    title: str
    note: str
    alt: str
    wide: bool
    width: int
    height: int


class Section:
    """One study of a page: everything that is said of it, ready to be set."""

    def __init__(self, results: Results) -> None:
        record, names = results.record, results.shown_scenarios()
        self.results, self.who = results, results.who
        self.title = str(record.get("title") or results.title)
        self.question = str(record.get("question") or results.question)
        several = len(names) > 1
        self.answer = answer(results)
        self.left_out = list(_left_out(results))
        self.drawn: dict[str, list[Embedded]] = {}
        self.charts: dict[str, list[Chart]] = {name: [] for name in names}
        for each in results.tables():
            if each.title in self.charts:
                self.charts[each.title].append(_chart(results, each))
        self.ranking = _ranking_chart(results) if several else None
        self.heat_maps = [Chart(each, {}) for each in _heat_maps(results)] if several else []
        self.origin = dict(_origin(results))
        config = results.directory / "study.toml"
        self.config = config.read_text(encoding="utf-8") if config.exists() else ""

    def draw(self) -> None:
        """Draw the figures of all scenarios; one that cannot be drawn is listed as left out."""
        for scenario in self.charts:
            self.drawn[scenario] = []
            try:
                for picture in self._pictures(scenario):
                    self.drawn[scenario].append(picture)
            except Exception as error:  # whatever it is, the numbers are right without it
                said = " ".join(str(error).split())[:200]
                self.left_out.append(f"figures of {scenario}: {type(error).__name__}: {said}")

    def pictures(self, scenario: str) -> Sequence[Embedded]:
        """The figures of a scenario that were drawn."""
        return self.drawn.get(scenario, [])

    def _pictures(self, scenario: str) -> Iterator[Embedded]:
        """Draw the figures of a scenario, where there is what they are drawn from."""
        if not self.results.has(self.results.drawn):
            return
        shown = self.charts[scenario][0].sheet

        def listed(metric: str) -> str:
            return ", ".join(f"{name} {number}" for name, number in shown.column(metric).items())

        for picture in self.results.pictures(scenario, listed):
            yield _embedded(scenario, *picture)

    def meanings(self) -> list[Metric]:
        """The metrics that the columns and heat maps of this study show, each once."""
        charts = [*(chart for charts in self.charts.values() for chart in charts), *self.heat_maps]
        shown = [heading.metric for chart in charts for heading in chart.sheet.headings]
        names = dict.fromkeys(untuned(name) for name in (self.results.sort, *shown))
        return [self.results.metrics[name] for name in names if name in self.results.metrics]

    def made(self) -> Iterator[tuple[str, str, str]]:
        """Kind, name and every parameter of what was compared."""
        for kind in ("allocators", "predictors", "scenarios"):
            for name, said in self.results.record.get(kind, {}).items():
                yield kind[:-1], name, said


def html(results: Sequence[Results]) -> str:
    """One self-contained page of all results, each a part of it."""
    template = page_template("report.html.jinja")
    parts = [Section(each) for each in results]
    for part in parts:
        part.draw()
    title = "; ".join(dict.fromkeys(part.title for part in parts))
    return template.render(title=title, parts=parts, levels=LEVELS, baseline=BASELINE)


def page_template(name: str) -> Template:
    """A template of this folder, in which all values are escaped and cleaned."""
    import jinja2

    folder = resources.files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"digest": _digest, "breakable": _breakable}
    return environment.get_template(name)


def _shown(value: object) -> object:
    """What stands in the page, without characters that cannot be seen."""
    return cleaned(value, SPACES) if type(value) is str else value


def markdown(results: Results) -> str:
    """The answer and the tables of the terminal, as GitHub reads them."""
    part = Section(results)
    blocks = [f"# {escaped(part.title)}", escaped(part.question)]
    if part.answer is not None:
        blocks.append(escaped(f"{part.answer.lead} {part.answer.conditions}"))
        for camp in part.answer.camps:
            members = "; ".join(escaped(f"{name} {number}") for name, number in camp.members.items())
            blocks.append(f"**{camp.heading}**: {members}.")
        blocks += map(escaped, [*part.answer.notes, part.answer.caution])
    charts = [chart for charts in part.charts.values() for chart in charts]
    blocks += [
        chart.sheet.section() for chart in (charts if part.ranking is None else [part.ranking, *charts])
    ]
    if part.left_out:
        blocks += ["## Left out", "\n".join(f"- {escaped(line)}" for line in part.left_out)]
    blocks += ["## Origin", "\n".join(f"- {name}: {as_code(value)}" for name, value in part.origin.items())]
    return cleaned("\n\n".join(blocks), SPACES) + "\n"


def write(results: Sequence[Results], out: Path | None = None) -> list[Path]:
    """Write report.html and report.md of finished studies, into the first one's directory or `out`.

    Raises InputError where `out` cannot be written.
    """
    for each in results:
        check_origin(each.record, each.directory)
    out = results[0].directory if out is None else out
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


def _chart(results: Results, shown: Sheet) -> Chart:
    """A scenario's table with graphics of the ratios by which it is sorted."""
    (sort,) = (heading.metric for heading in shown.headings if heading.order)
    return Chart(shown, _bars(results.of_metric(sort, shown.title)))


def _ranking_chart(results: Results) -> Chart:
    """The ranking over all scenarios, with graphics of the mean ratios."""
    shown = tables.across_scenarios(results.ranking, results.ranking_caption, results.who)
    return Chart(shown, _bars(results.ranking.set_index("allocator")))


def _bars(ratios: pd.DataFrame) -> dict[str, Bar]:
    """Intervals by allocator, of a frame that has ratio, ratio_low and ratio_high by allocator."""
    ends = ratios[["ratio_low", "ratio_high"]].to_numpy()
    ends = ends[np.isfinite(ends)]
    start, end = (
        (float(np.clip(ends.min(), BAR_ENDS[0], 0.98)), float(np.clip(ends.max(), 1.02, BAR_ENDS[1])))
        if len(ends)
        else BAR_ENDS
    )

    def place(ratio: float) -> float:
        return round(4 + 92 * (min(max(ratio, start), end) - start) / (end - start), 2)

    return {
        str(name): Bar(place(row.ratio_low), place(row.ratio), place(row.ratio_high), place(1.0))
        for name, row in ratios.iterrows()
        if np.isfinite([row.ratio, row.ratio_low, row.ratio_high]).all()
    }


def _heat_maps(results: Results) -> list[Sheet]:
    """Ratios to uniform of everybody in every scenario, one table a metric that can be looked at."""
    wanted = dict.fromkeys((results.sort, *results.heat_metrics))
    present = set(results.summary.metric)
    return [_heat_map(results, metric) for metric in wanted if metric in present]


def _heat_map(results: Results, metric: str) -> Sheet:
    described = describe(metric)
    scenarios = results.shown_scenarios()
    names = dict.fromkeys([*results.ranking.allocator, *results.summary.allocator])
    here = {scenario: results.of_metric(metric, scenario) for scenario in scenarios}
    rows = [
        [named(name), *(_heat_of(here[scenario], name, described.sign) for scenario in scenarios)]
        for name in names
    ]
    caption = f"{described.label}, ratio to {BASELINE} ±half of a 95% interval; {described.better} is better"
    if bounds := bounds_said(names):
        caption += f"\n{bounds}"
    headings = Heading(results.who, "name"), *(Heading(name, metric=metric) for name in scenarios)
    return sheet(described.label, headings, rows, caption)


def _heat_of(ratios: pd.DataFrame, name: str, sign: int) -> Shown:
    """A ratio with half its interval; no colour where the interval has 1 in it."""
    if name not in ratios.index or not np.isfinite(ratios.ratio[name]):
        return Shown("n/a")
    if name == BASELINE:
        return Shown("1")
    verdict, ratio = verdict_on(ratios, name, sign), ratios.ratio[name]
    size = max(ratio, 1 / ratio) if ratio > 0 else np.inf
    tone = verdict if verdict == "even" else f"{verdict}-{np.searchsorted(LEVELS, size)}"
    return Shown(f"{ratio:.2f} ±{ratios.ratio_high[name] - ratio:.2f}", tone)


# Words


def _left_out(results: Results) -> Iterator[str]:
    """What was asked for and has no results, and numbers that rest on fewer replicates than the others."""
    summary, record = results.summary, results.record
    members = results.members
    present = set(zip(summary.scenario, summary.allocator, strict=True))
    errors: dict[tuple[str, str], set[str]] = {}
    for part, failure in results.failures:
        errors.setdefault(part, set()).add(str(failure["error"]))
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
    shown = {column.metric: column.heading.replace("\n", " ") for column in results.columns}
    fewer = summary[(summary.replicates < summary.replicates.max()) & summary.metric.isin(shown)]
    for row in fewer.itertuples():
        yield (
            f"{shown[str(row.metric)]} of {row.allocator} in {row.scenario} rests on {row.replicates} of "
            f"{record['replicates']} replicates"
        )


def _because(errors: set[str]) -> str:
    return f": {'; '.join(sorted(errors))}" if errors else ": it has no results"


def _origin(results: Results) -> Iterator[tuple[str, str]]:
    """Everything that is needed to have the same numbers again, and to know that they are the same."""
    record, cells = results.record, read_manifest(results.directory).cells
    machine = record["machine"]
    yield "command", record["command"]
    yield "version", f"rolloutbench {record['version']}"
    yield "git commit", f"{record['commit'] or 'unknown'}"
    code = [f"{name} {digest}" for name, digest in record["sources"].items() if "." not in name]
    yield "source code", ", ".join(code) + " (that of each method is in manifest.json)"
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


def _embedded(scenario: str, figure: Captioned, title: str, says: str, height: float | None) -> Embedded:
    """A figure as data. With a height it is made narrow, for a phone.

    Its caption and the scenario's name, which may be long, go into the page.
    """
    import matplotlib as mpl

    from rolloutbench.analysis.plotting.panels import legend_below
    from rolloutbench.analysis.plotting.style import print_style

    note = " ".join(figure.caption.split()).removeprefix(f"{scenario}. ")
    for axes in figure.axes:
        *named, label = axes.get_ylabel().split("\n")
        if "".join(named) == scenario:  # it may be folded
            axes.set_ylabel(label)
        for side in ("left", "center"):
            if axes.get_title(loc=side).replace("\n", "") == scenario:
                axes.set_title("", loc=side)
    with print_style(), mpl.rc_context({"svg.hashsalt": "rolloutbench"}):
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
    return Embedded(source, title, note, says, height is None, round(100 * width), round(100 * high))


def _rounded(svg: bytes) -> bytes:
    """An SVG file with coordinates rounded to a hundredth of a point."""
    return re.sub(rb' d="[^"]*"', lambda path: re.sub(rb"(\.\d\d)\d+", rb"\1", path.group()), svg)


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _digest(text: str) -> str:
    """The digest by which a content security policy names a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _breakable(name: str) -> Markup:
    """A name that folds where its parameters begin."""
    return Markup("<wbr>").join(re.split(r"(?<=[\[=,_])", cleaned(name)))
