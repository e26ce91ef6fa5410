"""Knapsack RL (arXiv 2509.25849): maximise sum [1 - p^n - (1-p)^n] p (1-p)^2 with 2 <= n <= 128.

`rule=code`, the default, is what its authors released (liziniu/KnapsackRL@ca5d5f5,
verl/trainer/ppo/exploration_utils.py and verl/utils/dataset/rl_dataset.py):

1. A prompt with fewer than 8 recorded rewards gets the group size n, and takes no part in what follows;
   every other prompt gets 2. p is the success rate of the last visit if that had at least 16 rollouts, else
   the mean of the newest 16 rewards (`last_epoch[window=16]`).
2. A prompt with 0 < p < 1 is expected to need ln(0.1) / ln(max(p, 1-p)) rollouts, cut to a whole number of
   at most 128. Where these sum to less than what is left of the budget, the *whole difference* goes in
   equal parts, the first ones one more, to the prompts with p = 0 and those of fewer than 8 rewards, or,
   where there are neither, to those with p = 1; without any bound above.
3. The knapsack spends only the rest, over the prompts with 0 < p < 1. A prompt that gets none of it is
   worth nothing there, not what its 2 rollouts are worth; so its third rollout is worth the chance that all
   three give a gradient.

The code raises where it has to give and every prompt has 0 < p < 1: here the knapsack then spends everything.

`rule=exact` is the paper's problem, solved as a whole: the exact optimum with 2 for prompts of p = 1 and what
the others cannot take to those with p = 0 before those with p = 1. Prompts not seen yet share equally there.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicted, best_counts
from rolloutbench.allocators.uniform import equal_shares
from rolloutbench.objectives import KnapsackValue
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    BoolArray,
    Budget,
    FloatArray,
    InputError,
    IntArray,
    Outcomes,
    Provenance,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS
from rolloutbench.solvers import serve_greatest

CONFIDENCE = 0.9
"""The released rule expects a prompt to need so many rollouts that both rewards come with this chance."""


@dataclass(config=PARAMETERS)
class Knapsack(Predicted):
    """Most chance of a non-zero gradient, times information gain, at the last epoch's success rates."""

    variants: ClassVar[tuple[str, ...]] = ("", "rule=exact")
    goal: ClassVar[str] = "most gradients, by gain"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2509.25849",
        code="liziniu/KnapsackRL@ca5d5f5",
        file="verl/trainer/ppo/exploration_utils.py, verl/utils/dataset/rl_dataset.py",
        licence="Apache-2.0",
        note="ties of the knapsack go to other prompts; rule=exact is the paper's problem as a whole",
    )

    predictor: PredictorSpec = "last_epoch[window=16]"  # type: ignore[assignment]
    rule: Literal["code", "exact"] = "code"
    recorded: Annotated[int, Field(ge=0)] = 8

    def __post_init__(self) -> None:
        """Raise InputError where the released rule would begin at no rollouts."""
        if self.rule == "code" and self.lower == 0:
            raise InputError("lower=0: rule=code gives every prompt at least 1")

    def begin(self, setting: Setting) -> None:
        """Start afresh: no reward is recorded."""
        super().begin(setting)
        self._recorded = np.zeros((setting.replicates, setting.pool_size), dtype=np.int64)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) by predictor x objective x solver, by the rule of the code or of the paper."""
        p = self.predictor.predict(prompts).mean
        if self.rule == "code":
            return self._by_the_code(prompts, p, budget)
        lower, upper = self.bounds(budget)
        present = prompts >= 0
        solved = present & (p == 1)
        others = (present & ~solved).sum(axis=1)
        enough_without = others * upper + solved.sum(axis=1) * lower >= budget.rollouts
        most = np.where(solved & enough_without[:, None], lower, upper)
        return best_counts(KnapsackValue(), prompts, p, budget, lower, most)

    def _by_the_code(self, prompts: IntArray, p: FloatArray, budget: Budget) -> IntArray:
        lower, upper = self.bounds(budget)
        present = prompts >= 0
        known = present & (self._recorded[np.arange(len(prompts))[:, None], prompts] >= self.recorded)
        open_ = known & (p > 0) & (p < 1)
        counts = np.where(known, lower, np.where(present, int(budget.group_size), 0))
        left = np.where(present.any(axis=1), budget.rollouts - counts.sum(axis=1), 0)
        if (left < 0).any():
            raise InputError(f"budget={budget.rollouts} is below lower={lower} for {budget.prompts} prompts")
        receiving = present & ~open_ & ~(known & (p == 1))
        receiving = np.where(receiving.any(axis=1, keepdims=True), receiving, present & ~open_)
        excess = np.maximum(left - needed(p, open_, upper).sum(axis=1), 0)
        excess = np.where(receiving.any(axis=1), excess, 0)
        counts += equal_shares(receiving, excess)
        return counts + self._knapsack(p, open_, left - excess, lower, upper)

    def _knapsack(
        self, p: FloatArray, taking_part: BoolArray, rollouts: IntArray, lower: int, upper: int
    ) -> IntArray:
        """Rollouts (R, B) beyond `lower` that are worth most; who gets none is worth 0.

        What is beyond everybody's `upper` goes to all in equal parts.
        """
        most = np.where(taking_part, upper - lower, 0)
        beyond = np.maximum(rollouts - most.sum(axis=1), 0)
        units = int(min(most.max(initial=0), rollouts.max(initial=0)))
        gains = KnapsackValue().marginals(p, lower + 1, lower + units)
        gains[:, :1] = KnapsackValue().formula(p, np.array(lower + 1.0))[:, None]
        extra = serve_greatest(gains, np.zeros_like(most), most, rollouts - beyond)
        return extra + equal_shares(taking_part, beyond)

    def observe(self, outcomes: Outcomes) -> None:
        """Let the predictor learn from every rollout, and count the rewards of each prompt."""
        super().observe(outcomes)
        rows, columns = np.nonzero(outcomes.counts)
        self._recorded[rows, outcomes.prompts[rows, columns]] += outcomes.counts[rows, columns]

    def state_dict(self) -> State:
        """What the predictor learned, and the number of rewards recorded of each prompt (R, Q)."""
        return {**super().state_dict(), "recorded": self._recorded.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the predictor and the number of rewards recorded."""
        super().load_state_dict(state)
        self._recorded = state["recorded"].copy()


def needed(p: FloatArray, where: BoolArray, most: int) -> IntArray:
    """Rollouts (R, B) that the released rule expects prompts to need, at most `most`; 0 outside `where`."""
    inside = np.where(where, p, 0.5)
    rollouts = np.log(1 - CONFIDENCE) / np.log(np.maximum(inside, 1 - inside))
    whole: IntArray = np.where(where, np.minimum(rollouts, most), 0).astype(np.int64)
    return whole
