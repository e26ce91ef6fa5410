"""DOTS: difficulty-targeted online selection (arXiv 2506.05316; code
ASTRAL-Group/data-efficient-llm-rl@59df918).

    every mu steps:  roll out a random reference set, n rollouts each, and predict p of every prompt from it
                     draw mu B prompts without replacement by softmax(-|p - 1/2| / tau)
    then mu steps of B of them, equal groups

From the script: mu = 2, tau = 1e-3, a reference set of 256 for batches of 512 (here B/2, `reference` gives
another), 8 rollouts. Reference rollouts are used for nothing else there: they are billed and given up.

The predictor there attends from a prompt's embedding to those of the reference set, through a network
that was trained beforehand. Here the default is `neighbours`, a mean over the nearest prompts without
training; it learns from every rollout, not from the reference set alone. Any predictor may take its place.

Rollout replay, the paper's other half (from the second round on half of a batch are groups that were trained
on before, drawn from the newest 512 with both rewards), is not here: an update takes a rollout once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicting
from rolloutbench.allocators.selection import drawn_by_weight, everyone, whole_pool
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    BoolArray,
    Budget,
    Groups,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class DOTS(Predicting):
    """Equal groups for prompts drawn near success rate one half, as predicted from a reference set."""

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("reference",)
    goal: ClassVar[str] = "success rates near one half"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2506.05316",
        code="ASTRAL-Group/data-efficient-llm-rl@59df918",
        file="verl/trainer/ppo/ray_trainer.py, run_bash/final_ds_teacher_replay.sh in rl_training",
        licence="Apache-2.0",
        note="without replay; a predictor without training in place of the trained attention",
    )

    predictor: PredictorSpec = "neighbours[memory=128]"  # type: ignore[assignment]
    every: Annotated[int, Field(ge=1)] = 2
    reference: Annotated[int, Field(ge=1)] | None = None
    target: Annotated[float, Field(ge=0, le=1)] = 0.5
    tau: Annotated[float, Field(gt=0)] = 1e-3

    def begin(self, setting: Setting) -> None:
        """Start afresh, before the first selection."""
        super().begin(setting)
        self._selected = np.full((setting.replicates, 0), -1)
        self._referred = np.zeros((2, setting.replicates, setting.pool_size), dtype=np.int64)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Select prompts for some steps where none are left; then train on the next of them."""
        reference = np.zeros(stream.replicates, dtype=np.int64)
        if self._selected.shape[1] == 0:
            among = whole_pool(stream)
            size = self.reference or max(budget.prompts // 2, 1)
            prompts = drawn_by_weight(np.ones(among.shape), among, size, self.setting.rng)
            outcomes = yield Request(prompts, int(budget.group_size) * (prompts >= 0))
            reference = outcomes.counts.sum(axis=1)
            self._learn_reference(outcomes)
            self._selected = self._selection(among, self.every * budget.prompts)
        prompts, self._selected = np.split(self._selected, [budget.prompts], axis=1)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        return replace(Groups.all_of(outcomes), discarded={"reference": reference})

    def _selection(self, among: BoolArray, count: int) -> IntArray:
        """Prompts (R, count) drawn by a softmax of their distances to the target, none twice."""
        predicted = self.predictor.predict(everyone(self.setting)).mean
        distance = np.where(among, np.abs(predicted - self.target), np.inf)
        nearest = distance.min(axis=1, keepdims=True, initial=1.0)
        return drawn_by_weight(np.exp((nearest - distance) / self.tau), among, count, self.setting.rng)

    def _learn_reference(self, outcomes: Outcomes) -> None:
        """Let the predictor learn at once, and note these rollouts, so that it learns from them once."""
        self.predictor.update(outcomes)
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        for noted, came in zip(self._referred, (outcomes.counts, outcomes.successes), strict=True):
            noted[visited] = came[rows, columns]

    def observe(self, outcomes: Outcomes) -> None:
        """Let the predictor learn from the rollouts that it does not know yet."""
        rows = np.arange(len(outcomes.prompts))[:, None]
        known = self._referred[:, rows, outcomes.prompts] * (outcomes.prompts >= 0)
        self.predictor.update(
            Outcomes(outcomes.prompts, outcomes.counts - known[0], outcomes.successes - known[1])
        )
        self._referred[:] = 0

    def state_dict(self) -> State:
        """What the predictor learned, and the prompts (R, W) that are still to be trained on."""
        return {**super().state_dict(), "selected": self._selected.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the predictor and the prompts that are still to be trained on."""
        super().load_state_dict(state)
        self._selected = state["selected"].copy()
