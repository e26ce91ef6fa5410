"""The results of a study: its files, its tables and its figures.

Everything here follows from a directory: `record`, which says what was run and how, and tables of
numbers. Nothing needs the objects that made them, so results of other machines, merged ones and
language models' are shown the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
from rich.table import Table

from rolloutbench import tables
from rolloutbench.curves import across_scenarios, learning_metrics, prediction_metrics
from rolloutbench.experiment import Part
from rolloutbench.metrics import (
    BASELINE,
    LEARNING_METRICS,
    PREDICTION_METRICS,
    REFERENCE,
    SNAPSHOT_METRICS,
    TRAINING_METRICS,
    TUNED_PREFIX,
    Metric,
)
from rolloutbench.protocol import InputError
from rolloutbench.registry import nearest
from rolloutbench.statistics import mean_interval, ratio_interval
from rolloutbench.store import Manifest, Ran, read_manifest
from rolloutbench.tabular import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED_STEP_SECONDS = 3672.78
"""Sampling, log-probabilities and update of a step of VIP's Table 4 (Qwen2.5-Math-1.5B, 512 prompts)."""


@dataclass(frozen=True)
class Results(ABC):
    """Results in `directory` of the study that `record` describes."""

    kind: ClassVar[str]
    question: ClassVar[str]
    metrics: ClassVar[dict[str, Metric]]
    default_sort: ClassVar[str]
    columns: ClassVar[Sequence[tables.Column]]
    drawn: ClassVar[str]
    """The table that figures are drawn from."""
    who: ClassVar[str] = "allocator"

    directory: Path
    record: Mapping[str, Any]

    @property
    def sort(self) -> str:
        """The metric that ranks."""
        return str(self.record["sort"])

    @property
    def conditions(self) -> str:
        """One line that stands above every figure."""
        return str(self.record["conditions"])

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Estimates, ratios and differences with intervals; see `summarise`."""
        return self.table("summary")

    @cached_property
    def values(self) -> pd.DataFrame:
        """Long form: scenario, allocator, replicate, metric, value."""
        return self.table("per_replicate")

    def table(self, name: str) -> pd.DataFrame:
        """One of the files. Raises InputError where it is gone, as large ones may be of a recorded study."""
        path = self.path(name)
        if path is None:
            command = self.record["command"]
            raise InputError(f"{self.directory}: has no table '{name}'; {command} makes it anew")
        return read_table(path)

    def has(self, name: str) -> bool:
        """Whether one of the files is there."""
        return self.path(name) is not None

    def path(self, name: str) -> Path | None:
        """The file of a table, where there is one."""
        paths = (self.directory / f"{name}.csv", self.directory / f"{name}.parquet")
        return next((path for path in paths if path.exists()), None)

    def write(self, ran: Sequence[Ran]) -> None:
        """Everything that follows from the tables of the cells: data, summary, figures."""
        most = int(self.record["replicates"])
        measured = [cell.table[cell.table.replicate < most] for cell in ran]
        values = self.measured(pd.concat(measured, ignore_index=True)).reset_index(drop=True)
        values.to_parquet(self.directory / "per_replicate.parquet", index=False)
        summarise(values).to_csv(self.directory / "summary.csv", index=False)
        self.times(ran)
        self.draw()

    @abstractmethod
    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Values by replicate, in long form, from what the cells gave; writes what else is worth keeping."""

    def times(self, ran: Sequence[Ran]) -> None:  # noqa: B027
        """Write what was measured of the machine: never the same twice, so it stands apart from the data."""

    @abstractmethod
    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Name and figure."""

    def draw(self) -> None:
        """Write the figures."""
        from rolloutbench.plotting.panels import save  # matplotlib takes a second to import

        (self.directory / "plots").mkdir()
        for name, figure in self.figures():
            save(figure, self.directory / "plots", name)

    def tables(self) -> list[Table]:
        """What the terminal shows."""
        return [
            tables.comparison(self.summary, name, self.sort, self.caption(name), self.columns, self.who)
            for name in self.shown_scenarios()
        ]

    def shown_scenarios(self) -> list[str]:
        """Those that have results, in order."""
        present = set(self.summary.scenario)
        return [name for name in self.record["captions"] if name in present]

    def sorted_by(self, metric: str) -> Self:
        """The same results, ranked by another metric. Raises InputError where it does not rank."""
        check_sort(self.metrics, metric, "--sort")
        return replace(self, record={**self.record, "sort": metric})

    def caption(self, scenario: str) -> str:
        """Under which conditions a table was made."""
        return f"{self.record['captions'][scenario]}; ± half of a 95% interval"


class SnapshotResults(Results):
    """One step at frozen success probabilities."""

    kind = "snapshot"
    question = "How good is the gradient that an allocator buys in one step at frozen success probabilities?"
    metrics = SNAPSHOT_METRICS
    default_sort = "snr"
    columns = tables.SNAPSHOT_COLUMNS
    drawn = "per_replicate"

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """The cells' own values."""
        return table

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Allocation, ratio to uniform, cost against gain."""
        from rolloutbench.plotting import comparison as plots

        summary, said = self.summary, self.conditions
        yield "allocation_against_success", plots.allocation_against_success(summary, said)
        yield f"{self.sort}_ratio_to_uniform", plots.ratio_to_uniform(summary, self.sort, said)
        yield "cost_against_gain", plots.cost_against_gain(summary, said)


class LearningResults(Results):
    """Training runs."""

    kind = "learning"
    question = "Which allocator learns most from the rollouts it pays for?"
    metrics = LEARNING_METRICS
    default_sort = "area_over_rollouts"
    columns = tables.LEARNING_COLUMNS
    drawn = "curves"

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Every evaluation of every replicate; see curves.py."""
        return self.table("curves")

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """Allocators over all scenarios, by `sort`; see `curves.across_scenarios`."""
        written = self.table("ranking")
        return written if (written.metric == self.sort).all() else ranking(self.values, self.sort)

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Metrics of the curves, which are written too, with their ranking."""
        single = [n for n in map(str, table) if n.partition("@")[0] in ("counts", "accuracy", "cosine")]
        curves = table.astype(dict.fromkeys(single, np.float32))
        curves.to_parquet(self.directory / "curves.parquet", index=False, compression="zstd")
        values = learning_metrics(table, self.record["steps"])
        ranking(values, self.sort).to_csv(self.directory / "ranking.csv", index=False)
        return values

    def times(self, ran: Sequence[Ran]) -> None:
        """Seconds an allocator took for a step of one replicate, and their share of a published step."""
        rows = [
            (*cell.part, cell.facts["allocator_seconds_per_step"])
            for cell in ran
            if cell.part[1] != REFERENCE
        ]
        timed = pd.DataFrame(rows, columns=["scenario", "allocator", "seconds_per_step"])
        timed = timed.groupby(["scenario", "allocator"], sort=False, as_index=False).max()
        share = timed.seconds_per_step / PUBLISHED_STEP_SECONDS
        timed.assign(share_of_published_step=share).to_csv(self.directory / "timing.csv", index=False)

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Curves, allocations over training, costs, and the heat map of all scenarios."""
        from rolloutbench.plotting import learning as plots

        curves, steps, said = self.curves, self.record["steps"], self.conditions
        for axis in ("rollouts", "seconds", "steps"):
            yield f"accuracy_over_{axis}", plots.learning_curves(curves, steps, axis, said)
        yield "difference_over_rollouts", plots.difference_curves(curves, steps, "rollouts", said)
        yield "allocation_over_time", plots.allocation_over_time(curves, steps, said)
        yield "cost_breakdown", plots.cost_breakdown(self.summary, said)
        for metric in dict.fromkeys((self.sort, "rollouts_to_90")):
            yield f"heat_map_{metric}", plots.heat_map(self.summary, metric, said)
        yield "profiles", plots.profiles(self.values, self.sort, said)
        critical_difference = float(self.ranking.critical_difference.iloc[0])
        yield "ranking", plots.ranking(self.ranking, critical_difference, f"{said}, by {self.sort}")

    def tables(self) -> list[Table]:
        """A table a scenario, at the common and at each allocator's own learning rate; then all scenarios."""
        shown = super().tables()
        rates = self.record["learning_rates"]
        if len(rates) > 1:
            own = f"each at its own best of {len(rates)} learning rates; "
            shown += [
                tables.comparison(
                    self.summary,
                    name,
                    TUNED_PREFIX + self.sort,
                    own + self.caption(name),
                    tables.TUNED_COLUMNS,
                )
                for name in self.shown_scenarios()
            ]
        if len(self.shown_scenarios()) > 1:
            caption = f"{self.conditions}, by {self.sort}; [95% intervals]"
            shown.append(tables.across_scenarios(self.ranking, caption))
        return shown


class TrainingResults(LearningResults):
    """Training runs of a language model."""

    kind = "training"
    question = "Which allocator trains a language model most for the rollouts it pays for?"
    metrics = TRAINING_METRICS

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Those of simulated runs, and what the seconds of a step are spent on."""
        from rolloutbench.plotting import training as plots

        yield from super().figures()
        yield "seconds_split", plots.seconds_split(self.summary, self.conditions)


class PredictionResults(Results):
    """Predictors that watch a training run."""

    kind = "prediction"
    question = "Who predicts the success probability best while the policy learns?"
    metrics = PREDICTION_METRICS
    default_sort = "brier_later"
    columns = tables.PREDICTION_COLUMNS
    drawn = "judged"
    who = "predictor"

    @cached_property
    def judged(self) -> pd.DataFrame:
        """Every judgement of every predictor, step and replicate."""
        return self.table("judged")

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Scores over the first epoch and later."""
        scores = [name for name in table if table[name].dtype == np.float64]
        judged = table.astype(dict.fromkeys(scores, np.float32))
        judged.to_parquet(self.directory / "judged.parquet", index=False, compression="zstd")
        return prediction_metrics(table)

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Error over the run, and calibration in each scenario."""
        from rolloutbench.plotting import learning as plots

        yield "prediction_error", plots.prediction_error(self.judged, self.conditions)
        for name, here in self.judged.groupby("scenario", sort=False):
            yield f"calibration_{name}", plots.calibration(here, self.conditions)


KINDS: dict[str, type[Results]] = {
    kind.kind: kind for kind in (SnapshotResults, LearningResults, TrainingResults, PredictionResults)
}


def check_sort(metrics: Mapping[str, Metric], name: str, where: str) -> None:
    """Raises InputError where a metric does not exist or has no better direction."""
    if name not in metrics or metrics[name].better is None:
        rankable = [known for known, metric in metrics.items() if metric.better]
        raise InputError(f"{where} {name}: no metric that ranks: {nearest(name, rankable)}")


def study_in(directory: Path) -> Manifest:
    """The study that a directory holds, finished or not. Raises InputError where it holds none."""
    manifest = read_manifest(directory)
    kind, config = manifest.study.get("kind"), manifest.study.get("config")
    if kind not in KINDS or not isinstance(config, dict) or "command" not in manifest.study:
        raise InputError(f"{directory}: its manifest describes no study that this version knows")
    return manifest


def open_results(directory: Path) -> Results:
    """The results that a directory holds. Raises InputError where there are none, or none yet."""
    manifest = study_in(directory)
    if not manifest.is_done:
        raise InputError(f"{directory}: its study is not finished; run it again: {manifest.study['command']}")
    return KINDS[manifest.study["kind"]](directory, manifest.study)


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
