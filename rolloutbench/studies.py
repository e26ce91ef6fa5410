"""A study: which cells are run, and what a reader needs to know to do it again.

There are four kinds, after the question: how good is one gradient at frozen success probabilities
(`SnapshotStudy`), who learns fastest (`LearningStudy`), who predicts best (`PredictionStudy`), and who
trains a language model fastest (`TrainingStudy`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from real_runs.settings import RealScenario, TrainerAggregation
from real_runs.training import TrainingCell, training_cells
from rolloutbench.experiment import Cell
from rolloutbench.protocol import Aggregation, Allocator, Budget, Estimator, Predictor
from rolloutbench.results import (
    LearningResults,
    PredictionResults,
    Results,
    SnapshotResults,
    TrainingResults,
)
from simulators.learning import learning_cells
from simulators.pools import FrozenScenario
from simulators.prediction import prediction_cells
from simulators.replay import ReplayScenario
from simulators.scenarios import LearningScenario
from simulators.snapshot import MONTE_CARLO_DRAWS, snapshot_cells


@dataclass(frozen=True)
class Study(ABC):
    """Allocators under the same estimator, aggregation, seed and number of paired replicates."""

    results: ClassVar[type[Results]]

    scenarios: Mapping[str, FrozenScenario | LearningScenario | RealScenario]
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

    def record(self) -> dict[str, Any]:
        """Everything that the results are shown with."""
        return {
            "kind": self.results.kind,
            "estimator": self.estimator_name,
            "aggregation": self.aggregation,
            "replicates": self.replicates,
            "seed": self.seed,
            "conditions": self.conditions(),
            "captions": {name: self.conditions(name) for name in self.scenarios},
            "allocators": {name: repr(made) for name, made in self.allocators.items()},
            "scenarios": {name: repr(made) for name, made in self.scenarios.items()},
        }


@dataclass(frozen=True)
class SnapshotStudy(Study):
    """One step at frozen success probabilities; the gradient's moments are exact where possible."""

    results = SnapshotResults

    scenarios: dict[str, FrozenScenario]
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
        """Estimator, aggregation, budget, replicates, seed, moments, and of recorded rollouts the bank."""
        common = (
            f"{self.estimator_name}, aggregation {self.aggregation}, {self.budget.prompts} prompts x "
            f"{self.budget.group_size:g} rollouts, {self.replicates} paired replicates, seed {self.seed}, "
            f"{self._moments()}"
        )
        shown = [made for name, made in self._replays().items() if scenario in (None, name)]
        return "; ".join([common, *(made.caption(self.budget.prompts) for made in shown)])

    def _replays(self) -> dict[str, ReplayScenario]:
        return {name: made for name, made in self.scenarios.items() if isinstance(made, ReplayScenario)}

    def record(self) -> dict[str, Any]:
        """With budget and moments, and the banks that rollouts come from."""
        banks = {name: made.facts(self.budget.prompts) for name, made in self._replays().items()}
        return {
            **super().record(),
            **({"banks": banks} if banks else {}),
            "prompts": self.budget.prompts,
            "group_size": int(self.budget.group_size),
            "rollouts": self.budget.rollouts,
            "moments": self._moments(),
        }


@dataclass(frozen=True)
class LearningStudy(Study):
    """Training runs, followed until each has paid for half as much again as uniform's."""

    results = LearningResults

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
        """With learning rates and steps."""
        return {
            **super().record(),
            "learning_rates": list(self.rates),
            "steps": {name: made.steps for name, made in self.scenarios.items()},
        }


@dataclass(frozen=True)
class TrainingStudy(Study):
    """Training runs of a language model, followed until each has paid for half as much again as uniform's.

    `cache`, `runs`, `checkpoint_every`, `tensorboard`: where and how, which results do not depend on.
    """

    results = TrainingResults

    scenarios: dict[str, RealScenario]
    aggregation: TrainerAggregation  # type: ignore[assignment]
    cache: Path
    runs: Path | None = None
    checkpoint_every: int = 10
    tensorboard: bool = False

    def cells(self) -> list[TrainingCell]:
        """Task x allocator x seed, and the reference runs."""
        how = self.estimator, self.aggregation, self.replicates, self.seed
        return training_cells(
            self.scenarios,
            self.allocators,
            *how,
            cache=self.cache,
            runs=self.runs,
            checkpoint_every=self.checkpoint_every,
            tensorboard=self.tensorboard,
        )

    def conditions(self, scenario: str | None = None) -> str:
        """Estimator, aggregation, budget, replicates, seed, model, engine."""
        told = [made.told for name, made in self.scenarios.items() if scenario in (None, name)]
        return (
            f"{self.estimator_name}, aggregation {self.aggregation}, {'; '.join(told)}, {self.replicates} "
            f"seeds, seed {self.seed}"
        )

    def record(self) -> dict[str, Any]:
        """With the learning rate, which is the trainer's, steps, and the budget."""
        (scenario,) = self.scenarios.values()
        return {
            **super().record(),
            "learning_rates": [1.0],
            "steps": {name: made.steps for name, made in self.scenarios.items()},
            "training": {
                "task": repr(scenario.task),
                "model": repr(scenario.model),
                "engine": scenario.engine,
                "device": scenario.device,
                "prompts": scenario.prompts,
                "group_size": scenario.group_size,
                "pool_size": getattr(scenario.task, "pool_size", None),
            },
        }


@dataclass(frozen=True)
class PredictionStudy(Study):
    """Predictors that watch one allocator's training run."""

    results = PredictionResults

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
