"""Simulated training runs: who learns most from the rollouts it pays for?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from rolloutbench.analysis import tables
from rolloutbench.analysis.curves import learning_metrics
from rolloutbench.analysis.metrics import AXES, LEARNING_METRICS, TUNED_PREFIX, describe, untuned
from rolloutbench.analysis.pictures import (
    LINES_HEIGHT,
    Listed,
    Page,
    Picture,
    Plot,
    bars_height,
    counts_said,
)
from rolloutbench.analysis.results import Results, ranking
from rolloutbench.cells.cell import Cell
from rolloutbench.cells.collectors import BASELINE, HORIZON, REFERENCE, count_metric
from rolloutbench.cells.store import Ran
from rolloutbench.studies.cost import PROMPT_SECONDS, STEP_SECONDS, Cost, simulated
from rolloutbench.studies.study import Study
from simulators.clock import GPUS
from simulators.learning import BLOCK, learning_cells
from simulators.scenarios import LearningScenario

if TYPE_CHECKING:
    from rolloutbench.analysis.plotting.panels import Captioned

PUBLISHED_STEP_SECONDS = 3672.78
"""Sampling, log-probabilities and update of a step of VIP's Table 4 (Qwen2.5-Math-1.5B, 512 prompts)."""


def judged_at(rates: Sequence[float]) -> str:
    """Words, after a comma, that say how learning rates were chosen; none where all have the same."""
    return f", each at its own best of {len(rates)} learning rates" if len(rates) > 1 else ""


class LearningResults(Results):
    """Results of simulated training runs."""

    kind = "learning"
    title = "Rollout allocators at equal cost"
    question = "Which allocator learns most from the rollouts it pays for?"
    metrics = LEARNING_METRICS
    default_sort = "area_over_rollouts"
    drawn = "curves"
    gpus: ClassVar[int] = GPUS

    @property
    def at_own_best(self) -> bool:
        """Whether each allocator is shown at its own best of several learning rates."""
        return len(self.record.get("learning_rates", ())) > 1

    def shown(self, metric: str) -> str:
        """A metric by the name it is judged by: each allocator at its own best rate, if there are several."""
        return TUNED_PREFIX * self.at_own_best + metric

    @property
    def sort(self) -> str:
        """Name of the metric that ranks, each allocator at its own best rate if there are several."""
        return self.shown(super().sort)

    @property
    def columns(self) -> Sequence[tables.Column]:  # type: ignore[override]
        """Columns of a scenario's table; with a price also what it costs to get there."""
        columns = tables.TUNED_COLUMNS if self.at_own_best else tables.LEARNING_COLUMNS
        price = self.record.get("price_per_gpu_hour")
        if price is None:
            return columns
        per_second = price * self.gpus / 3600
        money = tables.Column(self.shown("seconds_to_90"), "money\nto 90%", "level", 0, 3, per_second)
        return *columns[:3], money, *columns[3:]

    @property
    def heat_metrics(self) -> Sequence[str]:  # type: ignore[override]
        """Metrics that the report's heat map can show; where all are tuned, also the plain area."""
        names = ("area_over_rollouts", "rollouts_to_90", "seconds_to_90")
        return (*(TUNED_PREFIX + name for name in names), names[0]) if self.at_own_best else names

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The summary at the learning rate that everybody is judged by, under the metrics' plain names."""
        if not self.at_own_best:
            return self.summary
        own = self.summary[self.summary.metric.str.startswith(TUNED_PREFIX)]
        return own.assign(metric=own.metric.str.removeprefix(TUNED_PREFIX))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Every evaluation of every replicate at the learning rate it is judged by; see curves.py."""
        every = self.read("curves")
        if not self.at_own_best:
            return every
        chosen = self.values[self.values.metric == f"{TUNED_PREFIX}rate"].rename(columns={"value": "rate"})
        keys = ["scenario", "allocator", "replicate", "rate"]
        judged = every.merge(chosen[keys].astype({"rate": every.rate.dtype}), on=keys)
        return pd.concat([every[every.allocator == REFERENCE], judged], ignore_index=True)

    @property
    def _is_ranked(self) -> bool:
        """Whether the record has kept the ranking by the metric that ranks."""
        return self.has("ranking") and bool((self.read("ranking").metric == self.sort).all())

    @cached_property
    def ranking(self) -> pd.DataFrame:
        """Allocators over all scenarios, by `sort`; see `curves.across_scenarios`."""
        return self.read("ranking") if self._is_ranked else ranking(self.values, self.sort)

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Metrics of the curves, which are written too, with their ranking."""
        single = [n for n in map(str, table) if n.partition("@")[0] in ("counts", "accuracy", "cosine")]
        curves = table.astype(dict.fromkeys(single, np.float32))
        curves.to_parquet(self.directory / "curves.parquet", index=False, compression="zstd")
        values = learning_metrics(table, self.record["steps"], self.metrics)
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

    def figures(self) -> Iterator[Plot]:
        """Curves, allocations over training, costs, and the heat map of all scenarios."""
        from rolloutbench.analysis.plotting import costs, scenarios
        from rolloutbench.analysis.plotting import curves as plots

        steps, said = self.record["steps"], self.conditions

        def of_curves(
            draw: Callable[..., Captioned], *how: Any
        ) -> Callable[[Page, Sequence[str]], Captioned]:
            return lambda page, shown: draw(_within(self.curves, shown), steps, *how, said, page)

        for axis in ("rollouts", "seconds", "steps"):
            title = f"Held-out accuracy gained over {AXES[axis]}"
            yield Plot(f"accuracy_over_{axis}", title, "curves", axis, of_curves(plots.learning_curves, axis))
        yield Plot(
            "difference_over_rollouts",
            f"Held-out accuracy above {BASELINE}'s, at equal rollouts",
            "curves",
            "rollouts",
            of_curves(plots.difference_curves, "rollouts"),
        )
        yield Plot(
            "allocation_over_time",
            "Who gets the rollouts, as training goes on",
            "curves",
            count_metric(0),
            of_curves(plots.allocation_over_time),
        )
        yield Plot(
            "cost_breakdown",
            "What became of the generated rollouts",
            "summary",
            self.shown("rollouts_per_step"),
            lambda page, shown: costs.cost_breakdown(_within(self.judged, shown), said, page),
        )
        for metric in dict.fromkeys((self.sort, self.shown("rollouts_to_90"))):
            name = untuned(metric)
            yield Plot(
                f"heat_map_{name}",
                describe(name).label.capitalize(),
                "summary",
                metric,
                partial(self._heat_map, scenarios.heat_map, metric),
            )
        yield Plot(
            "profiles",
            f"How many runs are how much better than {BASELINE}'s",
            "per_replicate",
            self.sort,
            lambda page, _: scenarios.profiles(self.values, self.sort, said, page),
            by_scenario=False,
        )
        yield Plot(
            "ranking",
            "Mean ranks over all scenarios",
            "ranking" if self._is_ranked else "per_replicate",
            self.sort,
            lambda page, _: scenarios.ranking(
                self.ranking,
                float(self.ranking.critical_difference.iloc[0]),
                f"{said}, by {untuned(self.sort)}",
                page,
            ),
            by_scenario=False,
        )

    def _heat_map(
        self, draw: Callable[..., Captioned], metric: str, page: Page, shown: Sequence[str]
    ) -> Captioned:
        return draw(_within(self.summary, shown), metric, self.conditions, page)

    def pictures(self, scenario: str, listed: Listed) -> Iterator[Picture]:
        """Accuracy, its difference to uniform's, what became of rollouts, and who got them."""
        from rolloutbench.analysis.plotting import costs
        from rolloutbench.analysis.plotting import curves as plots

        curves, steps = _within(self.curves, [scenario]), self.record["steps"]
        summary, page = _within(self.judged, [scenario]), self.page()

        def numbers(metric: str) -> str:
            return listed(self.shown(metric))

        yield Picture(
            plots.learning_curves(curves, steps, "rollouts", "", page),
            "Accuracy over rollouts",
            "Lines of held-out accuracy gained against generated rollouts. Area under them, ratio to "
            f"{BASELINE}: {numbers('area_over_rollouts')}.",
            LINES_HEIGHT,
        )
        yield Picture(
            plots.difference_curves(curves, steps, "rollouts", "", page),
            f"Difference to {BASELINE} over rollouts",
            f"Lines of held-out accuracy minus {BASELINE}'s against generated rollouts. Points at the end: "
            f"{numbers('accuracy_at_rollouts')}.",
            LINES_HEIGHT,
        )
        yield Picture(
            plots.learning_curves(curves, steps, "seconds", "", page),
            "Accuracy over seconds",
            "Lines of held-out accuracy gained against seconds. Seconds to 90% of the gain, ratio to "
            f"{BASELINE}: {numbers('seconds_to_90')}.",
            LINES_HEIGHT,
        )
        yield Picture(
            costs.cost_breakdown(summary, ""),
            "What became of the rollouts",
            f"Stacked bars of shares of generated rollouts. Wasted: {numbers('wasted_ratio')}.",
            bars_height(summary),
        )
        if counts := counts_said(summary):
            yield Picture(
                plots.allocation_over_time(curves, steps, "", page),
                "Who got the rollouts",
                "Lines of rollouts per prompt against its success probability, in three thirds of the run. "
                f"{counts}",
            )

    def priced(self, price: float) -> Self:
        """Results like these, with a column of money at a price of a GPU's hour, in its currency."""
        return replace(self, record={**self.record, "price_per_gpu_hour": price})

    def notes_on_best(self, best: str) -> Iterator[str]:
        """What the best generated until most of the gain was made."""
        metric = self.shown("rollouts_to_90")
        if self.sort == metric:
            return
        rows = {name: self.of_metric(metric, name) for name in self.shown_scenarios()}
        ratios = [
            (here.ratio[best], here.ratio_high[best], name)
            for name, here in rows.items()
            if best in here.index
        ]
        ends = [end for end in sorted(ratios) if np.isfinite(end[0])]
        if ends:
            said = [f"{ratio:.2f} ±{high - ratio:.2f} ({name})" for ratio, high, name in ends]
            times = said[0] if len(said) == 1 else f"between {said[0]} and {said[-1]}"
            yield (
                f"Until 90% of the reference run's gain, {best} generated {times} times the rollouts that "
                f"{BASELINE} did."
            )

    def tables(self) -> list[tables.Sheet]:
        """A table a scenario, then all scenarios, then how ranks move where there are several conditions."""
        shown = super().tables()
        if len(self.shown_scenarios()) > 1:
            shown.append(tables.across_scenarios(self.ranking, self.ranking_caption))
        by_condition = self.by_condition
        if len(by_condition) > 1:
            shown.append(tables.across_conditions(by_condition, f"by {untuned(self.sort)}"))
        return shown

    @property
    def by_condition(self) -> dict[str, pd.DataFrame]:
        """The ranking over the scenarios of each condition, where scenarios name theirs."""
        under: dict[str, str] = self.record.get("under", {})
        found = {}
        for condition in dict.fromkeys(under.values()):
            here = [name for name in self.shown_scenarios() if under.get(name) == condition]
            if here:
                found[condition] = ranking(self.values[self.values.scenario.isin(here)], self.sort)
        return found


def _within(table: pd.DataFrame, scenarios: Sequence[str]) -> pd.DataFrame:
    """The rows of a table that are of these scenarios."""
    return table[table.scenario.isin(scenarios)]


@dataclass(frozen=True)
class LearningStudy(Study):
    """Training runs, followed until each has paid for half as much again as uniform's."""

    results = LearningResults

    scenarios: dict[str, LearningScenario]
    rates: tuple[float, ...]

    def cells(self, directory: Path) -> Sequence[Cell]:
        """Allocator x scenario x learning rate x block, and the reference runs."""
        how = self.estimator, self.aggregation, self.replicates, self.seed, self.rates
        return learning_cells(self.scenarios, self.allocators, *how)

    def cost_of(self, scenario: LearningScenario) -> Cost:
        """What its cells cost: one for each run and block of replicates, and the reference runs."""
        step = STEP_SECONDS + scenario.prompts * BLOCK * PROMPT_SECONDS
        runs = 1 + len(self.allocators) * len(self.rates)
        return simulated(runs * -(-self.replicates // BLOCK), HORIZON * scenario.steps * step)

    def conditions(self, scenario: str | None = None) -> str:
        """Estimator, aggregation, replicates, seed; budget, pool and optimizer are the scenario's."""
        chosen = self.scenarios if scenario is None else {scenario: self.scenarios[scenario]}
        under = {made.condition for made in chosen.values()}
        rule = f"{self.estimator_name}, aggregation {self.aggregation}"
        if None not in under:
            rules = {f"{one.name.split('-')[0]}, aggregation {one.aggregation}" for one in under if one}
            rule = rules.pop() if len(rules) == 1 else "estimator and aggregation as each condition says"
        rule += judged_at(self.rates)
        moved = {type(made.optimizer).__name__ for made in chosen.values()}
        budget = f"{moved.pop()}, " if len(moved) == 1 else ""
        if scenario is not None:
            made = self.scenarios[scenario]
            budget = (
                f"{made.steps} steps of {made.prompts} prompts x {made.group_size} rollouts, {made.caption}, "
            )
        return f"{rule}, {budget}{self.replicates} paired replicates, seed {self.seed}"

    def record(self) -> dict[str, Any]:
        """Everything that its results are shown with, learning rates and steps among it."""
        return {
            **super().record(),
            "learning_rates": list(self.rates),
            "steps": {name: made.steps for name, made in self.scenarios.items()},
            "under": {name: made.condition.name for name, made in self.scenarios.items() if made.condition},
        }
