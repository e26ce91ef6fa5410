"""A study: what is run, what is made of it, the files it leaves and the tables it shows.

There are three kinds, after the question: how good is one gradient at frozen success probabilities
(`SnapshotStudy`), who learns fastest (`LearningStudy`), and who predicts best (`PredictionStudy`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from rich.table import Table

from rolloutbench import tables
from rolloutbench.curves import REFERENCE, across_scenarios, learning_metrics
from rolloutbench.experiment import Cell, summarise
from rolloutbench.metrics import (
    LEARNING_METRICS,
    PREDICTION_METRICS,
    SNAPSHOT_METRICS,
    TUNED_PREFIX,
    Metric,
)
from rolloutbench.protocol import Aggregation, Allocator, Budget, Estimator, Predictor
from simulators.learning import learning_cells
from simulators.prediction import prediction_cells, prediction_metrics
from simulators.scenarios import LearningScenario, SnapshotScenario
from simulators.snapshot import MONTE_CARLO_DRAWS, snapshot_cells

PUBLISHED_STEP_SECONDS = 3672.78
"""Sampling, log-probabilities and update of a step of VIP's Table 4 (Qwen2.5-Math-1.5B, 512 prompts)."""


@dataclass(frozen=True)
class Study(ABC):
    """Allocators under the same estimator, aggregation, seed and number of paired replicates."""

    metrics: ClassVar[dict[str, Metric]]
    default_sort: ClassVar[str]
    columns: ClassVar[Sequence[tables.Column]]
    who: ClassVar[str] = "allocator"
    command: ClassVar[str] = "compare"

    scenarios: Mapping[str, SnapshotScenario | LearningScenario]
    allocators: dict[str, Allocator]
    estimator_name: str
    estimator: Estimator
    aggregation: Aggregation
    replicates: int
    seed: int

    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """What is to be run."""

    @abstractmethod
    def conditions(self, scenario: str | None = None) -> str:
        """One line that stands below every table and above every figure; of one scenario, or of all."""

    @abstractmethod
    def results(self, ran: Sequence[pd.DataFrame], directory: Path, sort: str) -> pd.DataFrame:
        """Values by replicate, in long form, from what the cells gave; writes what else is worth keeping."""

    @abstractmethod
    def draw(self, directory: Path, summary: pd.DataFrame, sort: str) -> None:
        """The figures."""

    def record(self) -> dict[str, Any]:
        """What a reader needs to know to do it again."""
        return {
            "estimator": self.estimator_name,
            "aggregation": self.aggregation,
            "replicates": self.replicates,
            "seed": self.seed,
            "allocators": {name: repr(made) for name, made in self.allocators.items()},
            "scenarios": {name: repr(made) for name, made in self.scenarios.items()},
        }

    def finish(self, ran: Sequence[pd.DataFrame], directory: Path, sort: str) -> pd.DataFrame:
        """Write data, summary and figures; returns the summary."""
        ran = [table[table.replicate < self.replicates] for table in ran]
        values = self.results(ran, directory, sort).reset_index(drop=True)
        summary = summarise(values)
        values.to_parquet(directory / "per_replicate.parquet", index=False)
        summary.to_csv(directory / "summary.csv", index=False)
        (directory / "plots").mkdir()
        self.draw(directory, summary, sort)
        return summary

    def tables(self, summary: pd.DataFrame, directory: Path, sort: str) -> list[Table]:
        """What the terminal shows."""
        return [
            tables.comparison(summary, name, sort, self._caption(name), self.columns, self.who)
            for name in self.scenarios
        ]

    def _caption(self, scenario: str) -> str:
        return f"{self.conditions(scenario)}; ± half of a 95% interval"


@dataclass(frozen=True)
class SnapshotStudy(Study):
    """One step at frozen success probabilities; the gradient's moments are exact where possible."""

    metrics: ClassVar[dict[str, Metric]] = SNAPSHOT_METRICS
    default_sort: ClassVar[str] = "snr"
    columns: ClassVar[Sequence[tables.Column]] = tables.SNAPSHOT_COLUMNS

    scenarios: dict[str, SnapshotScenario]
    budget: Budget
    draws: int | None

    def cells(self) -> Sequence[Cell]:
        """Allocator x scenario x block."""
        how = self.estimator, self.aggregation, self.budget, self.replicates, self.seed, self.draws
        return snapshot_cells(self.scenarios, self.allocators, *how)

    def _moments(self) -> str:
        """How the moments of the gradient are had."""
        if self.draws:
            return f"moments from {self.draws} steps"
        sampled = [name for name, allocator in self.allocators.items() if not allocator.one_shot]
        return "exact moments" + (
            f" (from {MONTE_CARLO_DRAWS} steps: {', '.join(sampled)})" if sampled else ""
        )

    def conditions(self, scenario: str | None = None) -> str:
        """Estimator, aggregation, budget, replicates, seed, moments."""
        return (
            f"{self.estimator_name}, aggregation {self.aggregation}, {self.budget.prompts} prompts x "
            f"{self.budget.group_size:g} rollouts, {self.replicates} paired replicates, seed {self.seed}, "
            f"{self._moments()}"
        )

    def record(self) -> dict[str, Any]:
        """With budget and moments."""
        return {
            **super().record(),
            "prompts": self.budget.prompts,
            "group_size": int(self.budget.group_size),
            "rollouts": self.budget.rollouts,
            "moments": self._moments(),
        }

    def results(self, ran: Sequence[pd.DataFrame], directory: Path, sort: str) -> pd.DataFrame:
        """The cells' own values."""
        return pd.concat(ran, ignore_index=True)

    def draw(self, directory: Path, summary: pd.DataFrame, sort: str) -> None:
        """Allocation, ratio to uniform, cost against gain."""
        from rolloutbench.plotting import comparison as plots  # matplotlib takes a second to import

        for name, figure in (
            ("allocation_against_success", plots.allocation_against_success(summary, self.conditions())),
            (f"{sort}_ratio_to_uniform", plots.ratio_to_uniform(summary, sort, self.conditions())),
            ("cost_against_gain", plots.cost_against_gain(summary, self.conditions())),
        ):
            plots.save(figure, directory / "plots", name)


@dataclass(frozen=True)
class LearningStudy(Study):
    """Training runs, followed until each has paid for half as much again as uniform's."""

    metrics: ClassVar[dict[str, Metric]] = LEARNING_METRICS
    default_sort: ClassVar[str] = "area_over_rollouts"
    columns: ClassVar[Sequence[tables.Column]] = tables.LEARNING_COLUMNS

    scenarios: dict[str, LearningScenario]
    rates: tuple[float, ...]

    def cells(self) -> Sequence[Cell]:
        """Allocator x scenario x learning rate x block, and the reference runs."""
        how = self.estimator, self.aggregation, self.replicates, self.seed, self.rates
        return learning_cells(self.scenarios, self.allocators, *how)

    def conditions(self, scenario: str | None = None) -> str:
        """Estimator, aggregation, replicates, seed; the budget is the scenario's."""
        budget = ""
        if scenario is not None:
            made = self.scenarios[scenario]
            budget = f"{made.steps} steps of {made.prompts} prompts x {made.group_size} rollouts, "
        return (
            f"{self.estimator_name}, aggregation {self.aggregation}, {budget}{self.replicates} paired "
            f"replicates, seed {self.seed}"
        )

    def record(self) -> dict[str, Any]:
        """With learning rates."""
        return {
            **super().record(),
            "learning_rates": list(self.rates),
        }

    def results(self, ran: Sequence[pd.DataFrame], directory: Path, sort: str) -> pd.DataFrame:
        """Metrics of the curves, which are written too, and the allocators' own time, which is not data."""
        curves = pd.concat(ran, ignore_index=True)
        timing(curves).to_csv(directory / "timing.csv", index=False)
        curves = curves.drop(columns="allocator_seconds")
        single = [
            name for name in map(str, curves) if name.partition("@")[0] in ("counts", "accuracy", "cosine")
        ]
        curves.astype(dict.fromkeys(single, np.float32)).to_parquet(
            directory / "curves.parquet", index=False, compression="zstd"
        )
        values = learning_metrics(curves, self._steps())
        ranking, critical_difference = across_scenarios(values, sort)
        ranking.assign(critical_difference=critical_difference).to_csv(directory / "ranking.csv", index=False)
        return values

    def _steps(self) -> dict[str, int]:
        return {name: made.steps for name, made in self.scenarios.items()}

    def draw(self, directory: Path, summary: pd.DataFrame, sort: str) -> None:
        """Curves, allocations over training, costs, and the heat map of all scenarios."""
        from rolloutbench.plotting import learning as plots
        from rolloutbench.plotting.panels import save

        curves = pd.read_parquet(directory / "curves.parquet")
        said, steps = self.conditions(), self._steps()
        figures = {
            f"accuracy_over_{axis}": plots.learning_curves(curves, steps, axis, said)
            for axis in ("rollouts", "seconds", "steps")
        }
        figures["difference_over_rollouts"] = plots.difference_curves(curves, steps, "rollouts", said)
        figures["allocation_over_time"] = plots.allocation_over_time(curves, steps, said)
        figures["cost_breakdown"] = plots.cost_breakdown(summary, said)
        for metric in dict.fromkeys((sort, "rollouts_to_90")):
            figures[f"heat_map_{metric}"] = plots.heat_map(summary, metric, said)
        values = pd.read_parquet(directory / "per_replicate.parquet")
        figures["profiles"] = plots.profiles(values, sort, said)
        ranks = pd.read_csv(directory / "ranking.csv")
        figures["ranking"] = plots.ranking(
            ranks, float(ranks.critical_difference.iloc[0]), f"{said}, by {sort}"
        )
        for name, figure in figures.items():
            save(figure, directory / "plots", name)

    def tables(self, summary: pd.DataFrame, directory: Path, sort: str) -> list[Table]:
        """A table a scenario, at the common and at each allocator's own learning rate; then all scenarios."""
        shown = super().tables(summary, directory, sort)
        caption = f"{self.conditions()}, by {sort}; [95% intervals]"
        if len(self.rates) > 1:
            own = f"each at its own best of {len(self.rates)} learning rates; "
            shown += [
                tables.comparison(
                    summary, name, TUNED_PREFIX + sort, own + self._caption(name), tables.TUNED_COLUMNS
                )
                for name in self.scenarios
            ]
        if len(self.scenarios) > 1:
            ranking = pd.read_csv(directory / "ranking.csv")
            shown.append(tables.across_scenarios(ranking, caption))
        return shown


def timing(curves: pd.DataFrame) -> pd.DataFrame:
    """Seconds an allocator took for one step of one replicate, and their share of a published step.

    Wall-clock of this machine, so never the same twice: it stands apart from the data.
    """
    last = curves[curves.allocator != REFERENCE].groupby(["scenario", "allocator"], sort=False)
    seconds = last.apply(lambda rows: (rows.allocator_seconds / rows.steps.clip(lower=1)).max())
    table = seconds.rename("seconds_per_step").reset_index()
    timed: pd.DataFrame = table.assign(
        share_of_published_step=table.seconds_per_step / PUBLISHED_STEP_SECONDS
    )
    return timed


@dataclass(frozen=True)
class PredictionStudy(Study):
    """Predictors that watch one allocator's training run."""

    metrics: ClassVar[dict[str, Metric]] = PREDICTION_METRICS
    default_sort: ClassVar[str] = "brier_later"
    columns: ClassVar[Sequence[tables.Column]] = tables.PREDICTION_COLUMNS
    who: ClassVar[str] = "predictor"
    command: ClassVar[str] = "predict"

    scenarios: dict[str, LearningScenario]
    predictors: dict[str, Predictor]

    def cells(self) -> Sequence[Cell]:
        """Scenario x block."""
        (allocator,) = self.allocators.values()
        how = allocator, self.estimator, self.aggregation, self.replicates, self.seed
        return prediction_cells(self.scenarios, self.predictors, *how)

    def conditions(self, scenario: str | None = None) -> str:
        """Who was watched, and how."""
        (name,) = self.allocators
        return (
            f"watching {name}, {self.estimator_name}, aggregation {self.aggregation}, "
            f"{self.replicates} replicates, seed {self.seed}"
        )

    def record(self) -> dict[str, Any]:
        """With predictors."""
        return {
            **super().record(),
            "predictors": {name: repr(made) for name, made in self.predictors.items()},
        }

    def results(self, ran: Sequence[pd.DataFrame], directory: Path, sort: str) -> pd.DataFrame:
        """Scores over the first epoch and later."""
        judged = pd.concat(ran, ignore_index=True)
        scores = [name for name in judged if judged[name].dtype == np.float64]
        judged.astype(dict.fromkeys(scores, np.float32)).to_parquet(
            directory / "judged.parquet", index=False, compression="zstd"
        )
        return prediction_metrics(judged)

    def draw(self, directory: Path, summary: pd.DataFrame, sort: str) -> None:
        """Error over the run, and calibration in each scenario."""
        from rolloutbench.plotting import learning as plots
        from rolloutbench.plotting.panels import save

        judged = pd.read_parquet(directory / "judged.parquet")
        save(plots.prediction_error(judged, self.conditions()), directory / "plots", "prediction_error")
        for name, here in judged.groupby("scenario", sort=False):
            figure = plots.calibration(here, self.conditions())
            save(figure, directory / "plots", f"calibration_{name}")
