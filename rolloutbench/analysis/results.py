"""The results of a study: its files, its tables and its figures.

Everything here follows from a directory: `record`, which says what was run and how, and tables of
numbers. Nothing needs the objects that made them, so results of other machines, merged ones and
language models' are shown the same way.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from rolloutbench.analysis import tables
from rolloutbench.analysis.columns import check_columns
from rolloutbench.analysis.curves import across_scenarios
from rolloutbench.analysis.metrics import Metric, describe, untuned
from rolloutbench.analysis.pictures import WIDE, Listed, Page, Picture, Plot
from rolloutbench.analysis.statistics import mean_interval, ratio_interval
from rolloutbench.analysis.yardsticks import is_yardstick
from rolloutbench.cells.cell import Part
from rolloutbench.cells.collectors import BASELINE, REFERENCE
from rolloutbench.cells.store import Ran, read_manifest
from rolloutbench.files import write_whole
from rolloutbench.optional import load
from rolloutbench.protocol import InputError
from rolloutbench.registry import nearest
from rolloutbench.tabular import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROWEST, WIDEST = 2.5, 20.0
"""Widths of a figure in inches: type of 7 points needs room."""


@dataclass(frozen=True)
class Results(ABC):
    """Results in `directory` of the study that `record` describes."""

    kind: ClassVar[str]
    title: ClassVar[str]
    """Title of a study that has none of its own."""
    question: ClassVar[str]
    metrics: ClassVar[dict[str, Metric]]
    default_sort: ClassVar[str]
    columns: ClassVar[Sequence[tables.Column]]
    """Columns of a scenario's table."""
    heat_metrics: ClassVar[Sequence[str]]
    """Metrics that the report's heat map of all scenarios can show, besides the one that ranks."""
    drawn: ClassVar[str]
    """The table that figures are drawn from."""
    gpus: ClassVar[int] = 1
    """GPUs that are paid for while a run lasts."""
    who: ClassVar[str] = "allocator"
    """What is compared: the singular of the record's entry that lists its names."""

    directory: Path
    record: Mapping[str, Any]

    @property
    def sort(self) -> str:
        """Name of the metric that ranks."""
        return str(self.record["sort"])

    @property
    def conditions(self) -> str:
        """One line that stands above every figure."""
        return str(self.record["conditions"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Estimates, ratios and differences with intervals; see `summarise`."""
        return self.read("summary")

    @cached_property
    def values(self) -> pd.DataFrame:
        """Long form: scenario, allocator, replicate, metric, value."""
        return self.read("per_replicate")

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """Allocators or predictors over all scenarios, by `sort`; see `ranking`."""
        return ranking(self.values, self.sort)

    @property
    def members(self) -> Mapping[str, str]:
        """Names of what is compared, with all parameters."""
        members: Mapping[str, str] = self.record[f"{self.who}s"]
        return members

    @property
    def shown_metrics(self) -> list[str]:
        """The metric that ranks and those of the columns that it is shown with, as the summary names them."""
        return list(dict.fromkeys([self.sort, *(column.metric for column in self.columns)]))

    def of_metric(self, metric: str, scenario: str) -> pd.DataFrame:
        """The summary of one metric in one scenario, by allocator."""
        here = self.summary[(self.summary.scenario == scenario) & (self.summary.metric == metric)]
        return here.set_index("allocator")

    @cached_property
    def failures(self) -> list[tuple[Part, dict[str, Any]]]:
        """Part of each cell that failed, and what its error `file` says; empty where no cells are kept."""
        cells = read_manifest(self.directory).cells
        paths = {key: self.directory / "cells" / f"{key}.error.json" for key in cells}
        return [
            (cells[key].part, {**json.loads(path.read_bytes()), "file": str(path)})
            for key, path in paths.items()
            if path.exists()
        ]

    def what_failed(self) -> list[str]:
        """A line for each different failure, with the file of a traceback; none where nothing failed."""
        files: dict[tuple[str, str], list[str]] = {}
        for part, failure in self.failures:
            files.setdefault((" ".join(part), failure["error"]), []).append(failure["file"])
        lines = [
            f"{part}: {error} ({len(of)} cell{'s' * (len(of) > 1)}; traceback: {of[0]})"
            for (part, error), of in files.items()
        ]
        if lines:
            cells = len(read_manifest(self.directory).cells)
            lines.append(
                f"{len(self.failures)} of {cells} cells failed, and what they are part of is left out; "
                "--retry-failed runs them again"
            )
        return lines

    def table(self, scenario: str | None = None) -> tables.Sheet:
        """The table of a scenario, or of all of them at once; it shows itself, in a notebook too.

        Raises InputError where there is no such scenario.
        """
        sheets = {sheet.title: sheet for sheet in reversed(self.tables())}
        if scenario is None:
            return next(iter(sheets.values()))
        if scenario not in sheets:
            raise InputError(f"scenario {scenario}: has no table: {nearest(scenario, sheets)}")
        return sheets[scenario]

    def figure(
        self,
        name: str,
        *,
        width: float = WIDE,
        title: bool = True,
        allocators: Iterable[str] = (),
        scenarios: Iterable[str] = (),
    ) -> Figure:
        """Draw one of the figures, `width` inches wide, with or without its title.

        Of `allocators` (or predictors) and `scenarios` all are shown unless some are named; ranks stay those
        among all allocators. Raises InputError where there is no figure, allocator or scenario of a name, or
        the record has not kept the table that the figure is drawn from.
        """
        plots = {plot.name: plot for plot in self.figures()}
        if name not in plots:
            raise InputError(f"figure {name}: there is none: {nearest(name, plots)}")
        if not NARROWEST <= width <= WIDEST:
            raise InputError(f"width={width:g}: {NARROWEST:g} to {WIDEST:g} inches are expected")
        plot, only, chosen = plots[name], tuple(allocators), list(scenarios)
        for given in only:
            if given not in self.members:
                raise InputError(f"{self.who} {given}: {nearest(given, self.members)}")
        for given in chosen:
            if given not in self.shown_scenarios():
                raise InputError(f"scenario {given}: {nearest(given, self.shown_scenarios())}")
        if chosen and not plot.by_scenario:
            raise InputError(f"figure {name}: is of all scenarios at once; no scenario is expected")
        if lacking := self.lacks_for(plot):
            raise InputError(self.lacks(lacking))
        figure = plot.draw(self.page(width, only), chosen or self.shown_scenarios())
        figure.entitle(plot.title, title)
        return figure

    def page(self, width: float = WIDE, only: Sequence[str] = ()) -> Page:
        """A page on which the best methods stand out; yardsticks do last, and uniform always does."""
        here = self.summary[self.summary.metric == self.sort]
        wide = here.pivot(index="scenario", columns="allocator", values="estimate")
        ranks = wide.rank(axis=1, ascending=describe(self.sort).sign < 0).mean()
        names = [str(name) for name in ranks.sort_values(kind="stable").index if name != BASELINE]
        return Page(width, tuple(only), (BASELINE, *sorted(names, key=is_yardstick)))

    def report(self, path: str | Path) -> Path:
        """Write a page that needs no network, with tables, figures and origin; returns its path."""
        page: Callable[[Sequence[Results]], str] = load("rolloutbench.analysis.report:html")
        write_whole(Path(path), page([self]).encode())
        return Path(path)

    def _repr_html_(self) -> str:
        """All tables, as notebooks show them."""
        return "".join(sheet.html() for sheet in self.tables())

    def read(self, name: str) -> pd.DataFrame:
        """One of the files. Raises InputError where it is gone, as large ones may be of a recorded study."""
        path = self.path(name)
        if path is None:
            raise InputError(self.lacks(f"table '{name}'"))
        return check_columns(name, read_table(path), path)

    def lacks_for(self, plot: Plot) -> str:
        """What this record has not kept of what a figure is drawn from; empty where it has all."""
        if not self.has(plot.table):
            return f"table '{plot.table}'"
        table = self.read(plot.table)
        known = set(table.metric) if "metric" in table else set(table.columns)
        return "" if plot.needs in known else f"{plot.needs} in its table '{plot.table}'"

    def lacks(self, what: str) -> str:
        """What to say where something of the study is gone."""
        return f"{self.directory}: has no {what}; {self.record['command']} makes it anew"

    def has(self, name: str) -> bool:
        """Whether one of the files is there."""
        return self.path(name) is not None

    def path(self, name: str) -> Path | None:
        """The file of a table, where there is one."""
        paths = (self.directory / f"{name}.csv", self.directory / f"{name}.parquet")
        return next((path for path in paths if path.exists()), None)

    def write(self, ran: Sequence[Ran]) -> None:
        """All numbers that follow from the tables of the cells: data and summary. Figures come later."""
        most = int(self.record["replicates"])
        measured = [cell.table[cell.table.replicate < most] for cell in ran]
        values = self.measured(pd.concat(measured, ignore_index=True)).reset_index(drop=True)
        values.to_parquet(self.directory / "per_replicate.parquet", index=False)
        summarise(values).to_csv(self.directory / "summary.csv", index=False)
        self.times(ran)

    @abstractmethod
    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Values by replicate, in long form, from what the cells gave; writes what else is worth keeping."""

    def times(self, ran: Sequence[Ran]) -> None:  # noqa: B027
        """Write what was measured of the machine: never the same twice, so it stands apart from the data."""

    @abstractmethod
    def figures(self) -> Iterator[Plot]:
        """The figures that there are of such a study, whether or not this record has their tables."""

    @abstractmethod
    def pictures(self, scenario: str, listed: Listed) -> Iterator[Picture]:
        """The figures of one scenario for the report, with their numbers in words."""

    def notes_on_best(self, best: str) -> Iterator[str]:
        """Sentences about who did best that are true of this kind of study only."""
        yield from ()

    def draw(self, directory: Path) -> list[str]:
        """Write the figures into `directory`; returns a line for each that could not be drawn."""
        from rolloutbench.analysis.plotting.panels import save_all  # matplotlib takes a second to import

        draws = ((plot.name, partial(self.figure, plot.name)) for plot in self.figures())
        return save_all(draws, directory)

    def tables(self) -> list[tables.Sheet]:
        """The tables that are shown of the study, one a scenario."""
        return [
            tables.comparison(self.summary, name, self.sort, self.caption(name), self.columns, self.who)
            for name in self.shown_scenarios()
        ]

    def shown_scenarios(self) -> list[str]:
        """Scenarios that have results, in order."""
        present = set(self.summary.scenario)
        return [name for name in self.record["captions"] if name in present]

    def sorted_by(self, metric: str) -> Self:
        """Results like these, ranked by another metric. Raises InputError where it does not rank."""
        check_sort(self.metrics, metric, "--sort")
        return replace(self, record={**self.record, "sort": metric})

    def shown(self, metric: str) -> str:
        """A metric by the name that it is judged by."""
        return metric

    def priced(self, price: float) -> Self:
        """Results like these, with what they cost at a price of a GPU's hour. Raises InputError: no time."""
        raise InputError(f"--price-per-gpu-hour {price:g}: only training runs take time")

    @property
    def ranking_caption(self) -> str:
        """Under which conditions the table of all scenarios was made."""
        return f"{self.conditions}, by {untuned(self.sort)}; [95% intervals]"

    def caption(self, scenario: str) -> str:
        """Under which conditions a table was made."""
        return f"{self.record['captions'][scenario]}; ± half of a 95% interval"


def check_sort(metrics: Mapping[str, Metric], name: str, where: str) -> None:
    """Raises InputError where allocators cannot be ranked by a metric, or it does not exist."""
    if name not in metrics or not metrics[name].ranks:
        rankable = [known for known, metric in metrics.items() if metric.ranks]
        raise InputError(f"{where} {name}: no metric that ranks: {nearest(name, rankable)}")


def complete(ran: Sequence[Ran], missing: Sequence[Part]) -> list[Ran]:
    """What can be compared where some cells failed.

    A part, an allocator in a scenario, goes without all of its cells; a scenario goes without the runs
    that all others are measured against.
    """
    parts = set(missing)
    lost = {scenario for scenario, who in parts if who in (BASELINE, REFERENCE)}
    return [cell for cell in ran if cell.part not in parts and cell.part[0] not in lost]


def ranking(values: pd.DataFrame, metric: str) -> pd.DataFrame:
    """`curves.across_scenarios` of the allocators that have results in every scenario, with its metric."""
    if not (values.metric == metric).any():
        raise InputError(f"its table per_replicate has no values of {metric}, which ranks; run it anew")
    scenarios = values.groupby("allocator").scenario.nunique()
    everywhere = scenarios.index[scenarios == values.scenario.nunique()]
    ranks, critical_difference = across_scenarios(values[values.allocator.isin(everywhere)], metric)
    return ranks.assign(critical_difference=critical_difference, metric=metric)


def summarise(per_replicate: pd.DataFrame) -> pd.DataFrame:
    """Mean, ratio to and difference from uniform of every metric, with 95% intervals, paired by replicate.

    Columns: scenario, allocator, metric, estimate, low, high, replicates, ratio, ratio_low, ratio_high,
    difference, difference_low, difference_high. Rows keep the order in which scenarios, allocators and
    metrics first appear.
    """
    keys = ["scenario", "allocator", "metric"]
    wide = per_replicate.pivot_table(
        index=keys, columns="replicate", values="value", sort=False, dropna=False, observed=True
    )
    wide = wide.loc[wide.notna().any(axis=1)]
    values = wide.to_numpy(dtype=np.float64)
    index = wide.index.to_frame(index=False)
    uniform = pd.MultiIndex.from_frame(index.assign(allocator=BASELINE))
    baseline = wide.reindex(uniform).to_numpy(dtype=np.float64)
    mean, ratio = mean_interval(values), ratio_interval(values, baseline)
    difference = mean_interval(values - baseline)
    return index.assign(
        estimate=mean.estimate,
        low=mean.low,
        high=mean.high,
        replicates=np.count_nonzero(~np.isnan(values), axis=1),
        ratio=ratio.estimate,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        difference=difference.estimate,
        difference_low=difference.low,
        difference_high=difference.high,
    )
