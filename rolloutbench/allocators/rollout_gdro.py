"""Rollout-GDRO: more rollouts to bins of hard prompts (arXiv 2601.19280; code kishanpb/verl-gdro@b391899).

    p_i <- (1 - a) p_i + a [some rollout of prompt i was right]       pass@n by a moving average, a = .15
    bins of p at .1, .2, .4, .6, .8, .9;  in each that the batch has:
        D_b <- (1 - a) D_b + a (1 - mean p of the bin)
        share_b = (1 - gamma) softmax(eta D)_b + gamma / bins         EXP3.P; eta = gamma = .1
    counts: the budget by share_b, and within a bin by 1 - p_i, both by largest remainders

The code has two versions. This is `budget_allocation_knapsack_gdro_passk`, which needs rewards alone. The
launch script uses the other, with arms of n rollouts for each bin: their scores are policy losses, which
an allocator does not see. A prompt that was never seen has p = 0. Nothing bounds a prompt's count from
below, so one that is nearly always solved may get none.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.allocators.rounding import largest_remainder
from rolloutbench.protocol import Budget, FloatArray, IntArray, Outcomes, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS

EDGES = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 0.9])
BINS = len(EDGES) + 1


@dataclass(config=PARAMETERS)
class RolloutGDRO(OneShot):
    """An adversary over bins of pass rates sets their shares; within a bin harder prompts get more."""

    goal: ClassVar[str] = "more for hard bins"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2601.19280",
        code="kishanpb/verl-gdro@b391899",
        file="verl/utils/budget_allocation.py",
        note="the version by pass rates; the one by policy losses is not possible here",
    )

    eta: Annotated[float, Field(ge=0, le=1000)] = 0.1
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.1
    smoothing: Annotated[float, Field(gt=0, le=1)] = 0.15

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt and no bin has been seen."""
        self.setting = setting
        self._passed = np.full((setting.replicates, setting.pool_size), np.nan)
        self._difficulty = np.full((setting.replicates, BINS), np.nan)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) that sum to the budget; the bins' difficulties move on."""
        present = prompts >= 0
        rows = np.arange(len(prompts))[:, None]
        p = np.where(present, np.nan_to_num(self._passed[rows, prompts]), 0.0)
        bins = np.where(present, np.digitize(p, EDGES), -1)
        members = bins[..., None] == np.arange(BINS)
        size = members.sum(axis=1)
        self._observe_bins(size, (members * p[..., None]).sum(axis=1))
        budgets = largest_remainder(self.shares(size), np.where(present.any(axis=1), budget.rollouts, 0))
        counts = np.zeros_like(prompts)
        for b in range(BINS):
            counts += largest_remainder((1 - p + 1e-6) * (bins == b), budgets[:, b])
        return counts

    def _observe_bins(self, size: IntArray, passed: FloatArray) -> None:
        """Move each bin's difficulty towards one minus the mean pass rate of its prompts."""
        signal = 1 - passed / np.maximum(size, 1)
        old = np.where(np.isnan(self._difficulty), signal, self._difficulty)
        moved = (1 - self.smoothing) * old + self.smoothing * signal
        self._difficulty = np.where(size > 0, moved, self._difficulty)

    def shares(self, size: IntArray) -> FloatArray:
        """Shares of the budget (R, bins) by difficulty, of the bins that have prompts; others have 0."""
        there = size > 0
        scores = np.where(there, np.exp(self.eta * np.nan_to_num(self._difficulty)), 0.0)
        total = np.maximum(scores.sum(axis=1, keepdims=True), 1e-300)
        bins = np.maximum(there.sum(axis=1, keepdims=True), 1)
        return np.where(there, (1 - self.gamma) * scores / total + self.gamma / bins, 0.0)

    def observe(self, outcomes: Outcomes) -> None:
        """Move the pass rate of each prompt that got rollouts."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        passed = (outcomes.successes[rows, columns] > 0).astype(np.float64)
        old = np.where(np.isnan(self._passed[visited]), passed, self._passed[visited])
        self._passed[visited] = (1 - self.smoothing) * old + self.smoothing * passed

    def state_dict(self) -> State:
        """Pass rates (R, Q) and difficulties of the bins (R, bins)."""
        return {"passed": self._passed.copy(), "difficulty": self._difficulty.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore pass rates and difficulties."""
        self._passed, self._difficulty = state["passed"].copy(), state["difficulty"].copy()
