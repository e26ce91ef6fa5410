"""How well predictors know the success probabilities of a policy that learns.

Predictors watch one training run side by side: before the rollouts of a step each says what it believes
of the batch, afterwards each sees the outcomes. They are judged against the true chance of reward at
that moment, so nothing of the error is the luck of the rewards. The first epoch, in which no prompt has
been seen before, is kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy import special, stats

from rolloutbench.cells.collectors import CALIBRATION_BINS
from rolloutbench.environment import Environment
from rolloutbench.loop import PerReplicate, begin, planned, run_step
from rolloutbench.protocol import (
    Aggregation,
    Allocator,
    Belief,
    BoolArray,
    Budget,
    Estimator,
    FloatArray,
    IntArray,
    Outcomes,
    Plan,
    Predictor,
    PromptStream,
    Setting,
)
from simulators.learning import BLOCK, LearningCell, Purpose
from simulators.scenarios import LearningScenario
from simulators.traced import Traced, TracedScenario


class Watched(Allocator):
    """An allocator, `of`, and predictors that look over its shoulder."""

    vectorised: ClassVar[bool] = True

    def __init__(self, of: Allocator, predictors: dict[str, Predictor]) -> None:
        self.of = of if of.vectorised else PerReplicate(of)
        self.predictors = predictors
        self.hard_budget = of.hard_budget  # type: ignore[misc]
        self.judged: dict[str, dict[str, FloatArray]] = {}

    def begin(self, setting: Setting) -> None:
        """Start afresh, the allocator and all predictors."""
        self.setting = setting
        self.of.begin(setting)
        for predictor in self.predictors.values():
            predictor.begin(setting)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Plan as the allocator does, once the beliefs about its first request's prompts were judged."""
        plan = planned(self.of, stream, budget)
        try:
            request = next(plan)
            self._judge(request.prompts)
            while True:
                request = plan.send((yield request))
        except StopIteration as end:
            groups = end.value
        return groups  # type: ignore[no-any-return]

    def observe(self, outcomes: Outcomes) -> None:
        """Let the allocator and all predictors learn."""
        self.of.observe(outcomes)
        for predictor in self.predictors.values():
            predictor.update(outcomes)

    def _judge(self, prompts: IntArray) -> None:
        truth = self.setting.success_probability
        assert truth is not None
        p = truth(prompts)
        for name, predictor in self.predictors.items():
            self.judged[name] = score_beliefs(predictor.predict(prompts), p, prompts >= 0)


def score_beliefs(belief: Belief, p: FloatArray, present: BoolArray) -> dict[str, FloatArray]:
    """Scores (R,) of beliefs (R, B) about true chances p, over the prompts that are `present`.

    mae: mean |m - p|. brier and log_loss: expected over the reward of a next rollout; log_loss takes m no
    closer to 0 and 1 than 1e-6. rank_correlation: Spearman's, NaN where all beliefs are alike. coverage:
    share of prompts with p within 1.96 standard deviations of the mean. And for each bin of m the sums
    from which calibration is read: prompts, predicted and actual.
    """
    m = belief.mean
    safe = np.clip(m, 1e-6, 1 - 1e-6)
    scores = {
        "mae": np.abs(m - p),
        "brier": (m - p) ** 2 + p * (1 - p),
        "log_loss": -(special.xlogy(p, safe) + special.xlogy(1 - p, 1 - safe)),
        "coverage": (np.abs(m - p) <= 1.96 * np.sqrt(belief.variance)).astype(np.float64),
    }
    found = {name: _mean(score, present) for name, score in scores.items()}
    found["rank_correlation"] = _rank_correlation(np.where(present, m, np.nan), np.where(present, p, np.nan))
    bins = np.minimum((m * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    for b in range(CALIBRATION_BINS):
        here = present & (bins == b)
        found[f"prompts@{b}"] = here.sum(axis=1).astype(np.float64)
        found[f"predicted@{b}"] = np.where(here, m, 0.0).sum(axis=1)
        found[f"actual@{b}"] = np.where(here, p, 0.0).sum(axis=1)
    return found


def _mean(values: FloatArray, present: BoolArray) -> FloatArray:
    mean: FloatArray = np.where(present, values, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    return mean


def _rank_correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    ranks = [stats.rankdata(values, axis=1, nan_policy="omit") for values in (x, y)]
    a, b = (np.nan_to_num(rank - np.nanmean(rank, axis=1, keepdims=True)) for rank in ranks)
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    none = np.full(len(x), np.nan)
    correlation: FloatArray = np.divide((a * b).sum(axis=1), length, out=none, where=length > 0)
    return correlation


@dataclass(frozen=True)
class PredictionCell:
    """A block of replicates of one scenario: a training run that all predictors watch."""

    scenario_name: str
    scenario: LearningScenario | TracedScenario
    predictors: dict[str, Predictor]
    allocator: Allocator
    estimator: Estimator
    aggregation: Aggregation
    seed: int
    block: int

    @property
    def part(self) -> tuple[str, str]:
        """The names of the scenario and of all predictors at once."""
        return self.scenario_name, "predictors"

    @property
    def label(self) -> str:
        """The name of the cell for people: scenario and block."""
        return f"{self.scenario_name} predictors block {self.block}"

    def world(self) -> Environment:
        """The training run that is watched: a simulated one, or one that happened."""
        cell = LearningCell(
            self.scenario_name,
            self.scenario,  # type: ignore[arg-type]
            "watched",
            self.allocator,
            self.estimator,
            self.aggregation,
            self.seed,
            self.block,
        )
        if isinstance(self.scenario, LearningScenario):
            return cell.world()[0]
        setting = Setting(
            self.scenario.budget,
            self.estimator,
            self.aggregation,
            replicates=BLOCK,
            pool_size=self.scenario.pool_size,
            rng=cell.rng(Purpose.ALLOCATOR),
            success_probability=lambda prompts: traced.success(prompts),
        )
        stream = PromptStream(setting.pool_size, BLOCK, cell.seed_of(Purpose.STREAM))
        traced = Traced(setting, stream, cell.rng(Purpose.REWARDS), self.scenario.epochs)
        return traced

    def run(self) -> pd.DataFrame:
        """Run the cell: a row for each predictor, replicate and step, with `steps`, `epoch` and scores."""
        environment = self.world()
        watched = begin(environment, Watched(self.allocator, self.predictors))
        assert isinstance(watched, Watched)
        tables = []
        for step in range(1, self.scenario.steps + 1):
            run_step(environment, watched)
            keys = {
                "scenario": self.scenario_name,
                "replicate": self.block * BLOCK + np.arange(BLOCK),
                "steps": step,
                "epoch": environment.stream.epoch.copy(),
            }
            for name, scores in watched.judged.items():
                tables.append(pd.DataFrame({"predictor": name, **keys, **scores}))
        return pd.concat(tables, ignore_index=True)


def prediction_cells(
    scenarios: dict[str, LearningScenario | TracedScenario],
    predictors: dict[str, Predictor],
    allocator: Allocator,
    estimator: Estimator,
    aggregation: Aggregation,
    replicates: int,
    seed: int,
) -> list[PredictionCell]:
    """Cells of every scenario, in blocks that hold at least `replicates` replicates."""
    return [
        PredictionCell(name, scenario, predictors, allocator, estimator, aggregation, seed, block)
        for name, scenario in scenarios.items()
        for block in range(-(-replicates // BLOCK))
    ]
