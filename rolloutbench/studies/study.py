"""A study: which cells are run, and what a reader needs to know to do it again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rolloutbench.analysis.results import Results
from rolloutbench.cells.cell import Cell
from rolloutbench.protocol import Aggregation, Allocator, Estimator
from rolloutbench.studies.cost import Cost, check
from simulators.scenarios import notes


@dataclass(frozen=True)
class Study(ABC):
    """Allocators under the same estimator, aggregation, seed and number of paired replicates.

    What a description says, as the objects that it names.
    """

    results: ClassVar[type[Results]]

    scenarios: Mapping[str, Any]
    allocators: dict[str, Allocator]
    estimator_name: str
    estimator: Estimator
    aggregation: Aggregation
    replicates: int
    seed: int

    @abstractmethod
    def cells(self, directory: Path) -> Sequence[Cell]:
        """The cells to run. What one keeps while it runs, such as checkpoints, lies in `directory`."""

    @abstractmethod
    def cost_of(self, scenario: Any) -> Cost:
        """What the cells in one of the scenarios cost, estimated before a single one is made."""

    def cost(self) -> Cost:
        """What the study costs. Raises InputError where it would never end."""
        cells, seconds, rollouts = zip(*map(self.cost_of, self.scenarios.values()), strict=True)
        cost = Cost(sum(cells), sum(seconds), sum(rollouts))
        check(cost, self.replicates)
        return cost

    @abstractmethod
    def conditions(self, scenario: str | None = None) -> str:
        """One line that stands below every table and above every figure; of one scenario, or of all."""

    def notes(self) -> list[str]:
        """Lines that a user should know before anything runs."""
        return notes(self.scenarios)

    def finish(self, directory: Path) -> None:  # noqa: B027
        """Write into `directory` what belongs to the results and comes of no cell."""

    def record(self) -> dict[str, Any]:
        """Everything of the study itself that its results are shown with."""
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
