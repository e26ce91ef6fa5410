"""Snapshots: how good is one gradient at frozen success probabilities?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rolloutbench.analysis import tables
from rolloutbench.analysis.metrics import SNAPSHOT_METRICS, describe
from rolloutbench.analysis.pictures import LINES_HEIGHT, Listed, Page, Picture, Plot, counts_said
from rolloutbench.analysis.results import Results
from rolloutbench.cells.cell import Cell
from rolloutbench.cells.collectors import BASELINE, count_metric
from rolloutbench.protocol import Budget
from rolloutbench.studies.cost import PROMPT_SECONDS, SNAPSHOT_SECONDS, Cost, simulated
from rolloutbench.studies.study import Study
from simulators.pools import FrozenScenario
from simulators.replay import ReplayScenario
from simulators.scenarios import MeasuredSnapshot
from simulators.snapshot import BLOCK, MONTE_CARLO_DRAWS, snapshot_cells

if TYPE_CHECKING:
    from rolloutbench.analysis.plotting.panels import Captioned


class SnapshotResults(Results):
    """One step at frozen success probabilities."""

    kind = "snapshot"
    title = "Gradients that allocators buy in one step"
    question = "How good is the gradient that an allocator buys in one step at frozen success probabilities?"
    metrics = SNAPSHOT_METRICS
    default_sort = "snr"
    columns = tables.SNAPSHOT_COLUMNS
    heat_metrics = ("snr", "mse", "cosine_per_rollout")
    drawn = "per_replicate"

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Values by replicate, as the cells gave them."""
        return table

    def figures(self) -> Iterator[Plot]:
        """Allocation, ratio to uniform, cost against gain."""
        from rolloutbench.analysis.plotting import comparison as plots

        said = self.conditions

        def of_summary(
            draw: Callable[..., Captioned], *how: Any
        ) -> Callable[[Page, Sequence[str]], Captioned]:
            return lambda page, shown: draw(self.summary[self.summary.scenario.isin(shown)], *how, said, page)

        yield Plot(
            "allocation_against_success",
            "Who gets the rollouts of one step",
            "summary",
            count_metric(0),
            of_summary(plots.allocation_against_success),
        )
        yield Plot(
            f"{self.sort}_ratio_to_uniform",
            describe(self.sort).label.capitalize(),
            "summary",
            self.sort,
            of_summary(plots.ratio_to_uniform, self.sort),
        )
        yield Plot(
            "cost_against_gain",
            "Signal to noise for what it costs",
            "summary",
            "generated_per_prompt",
            of_summary(plots.cost_against_gain),
        )

    def pictures(self, scenario: str, listed: Listed) -> Iterator[Picture]:
        """Who gets the rollouts, and what the gradient gains for its cost."""
        from rolloutbench.analysis.plotting import comparison as plots

        summary = self.summary[self.summary.scenario == scenario]
        yield Picture(
            plots.allocation_against_success(summary, "", self.page()),
            "Who gets the rollouts",
            f"Lines of rollouts per prompt against its success probability. {counts_said(summary)}",
            LINES_HEIGHT,
        )
        yield Picture(
            plots.cost_against_gain(summary, ""),
            "Signal to noise against cost",
            "Dots of signal to noise against generated rollouts per prompt; the line is "
            f"{BASELINE} at several sizes. Ratio to {BASELINE}: {listed('snr')}. Rollouts per prompt: "
            f"{listed('generated_per_prompt')}.",
            LINES_HEIGHT,
        )


@dataclass(frozen=True)
class SnapshotStudy(Study):
    """One step at frozen success probabilities; the gradient's moments are exact where possible."""

    results = SnapshotResults

    scenarios: dict[str, FrozenScenario]
    budget: Budget
    draws: int | None

    def cells(self, directory: Path) -> Sequence[Cell]:
        """Allocator x scenario x block."""
        how = self.estimator, self.aggregation, self.budget, self.replicates, self.seed, self.draws
        return snapshot_cells(self.scenarios, self.allocators, *how)

    def cost_of(self, scenario: FrozenScenario) -> Cost:
        """What its cells cost: more where moments come from drawn steps."""
        sampled = not all(allocator.one_shot for allocator in self.allocators.values())
        draws = self.draws or (MONTE_CARLO_DRAWS if sampled else 1)
        seconds = SNAPSHOT_SECONDS + draws * BLOCK * self.budget.prompts * PROMPT_SECONDS
        return simulated(len(self.allocators) * -(-self.replicates // BLOCK), seconds)

    def _moments(self) -> str:
        """How the moments of the gradient are had."""
        if self.draws:
            return f"moments from {self.draws} steps"
        sampled = [name for name, allocator in self.allocators.items() if not allocator.one_shot]
        return "exact moments" + (
            f" (from {MONTE_CARLO_DRAWS} steps: {', '.join(sampled)})" if sampled else ""
        )

    def conditions(self, scenario: str | None = None) -> str:
        """Estimator, aggregation, budget, replicates, seed, moments, and what a user's file is."""
        common = (
            f"{self.estimator_name}, aggregation {self.aggregation}, {self.budget.prompts} prompts x "
            f"{self.budget.group_size:g} rollouts, {self.replicates} paired replicates, seed {self.seed}, "
            f"{self._moments()}"
        )
        shown = [
            made
            for name, made in self.scenarios.items()
            if isinstance(made, ReplayScenario | MeasuredSnapshot) and scenario in (None, name)
        ]
        return "; ".join([common, *(made.caption(self.budget.prompts) for made in shown)])

    def _replays(self) -> dict[str, ReplayScenario]:
        return {name: made for name, made in self.scenarios.items() if isinstance(made, ReplayScenario)}

    def record(self) -> dict[str, Any]:
        """Everything that its results are shown with: budget, moments, and the banks of recorded rollouts."""
        banks = {name: made.facts(self.budget.prompts) for name, made in self._replays().items()}
        return {
            **super().record(),
            **({"banks": banks} if banks else {}),
            "prompts": self.budget.prompts,
            "group_size": int(self.budget.group_size),
            "rollouts": self.budget.rollouts,
            "moments": self._moments(),
        }
