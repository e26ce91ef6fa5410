"""Fast-EMA: sample prompts in proportion to 4 p (1 - p) (code bhgkdclc/efficient-rlvr@a39831f; no paper).

    p <- beta p + (1 - beta) k/n at each visit, k/n at the first;  beta = .5
    warm-up: prompts nobody has seen, at random, until 128 groups were seen
    then:    B prompts without replacement, in proportion to .9 s / sum s + .1 / Q with s = 4 p (1 - p),
             s = 0 where the prompt was never seen; all alike where every s is 0

Equal groups; the gradient is not corrected for the sampling (its `prompt_importance_correction` is off by
default). Warm-up is 16 of its batches of 8 prompts; here `warmup` groups, the same number, whatever B is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.selection import Selecting, drawn_by_weight
from rolloutbench.protocol import BoolArray, FloatArray, IntArray, Outcomes, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class FastEMA(Selecting):
    """Equal groups for prompts drawn by the variance of their rewards, with some drawn from anywhere."""

    goal: ClassVar[str] = "most reward variance"
    provenance: ClassVar[Provenance | None] = Provenance(
        code="bhgkdclc/efficient-rlvr@a39831f", file="cs336_alignment/sampling.py"
    )

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.5
    uniform: Annotated[float, Field(ge=0, le=1)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 128

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt has been seen."""
        self.setting = setting
        self._rate = np.full((setting.replicates, setting.pool_size), np.nan)

    def choose(self, among: BoolArray, count: int) -> IntArray:
        """Prompts (R, count): while warming up some that nobody has seen, the others by weight."""
        unseen = np.isnan(self._rate) & among
        warming = np.clip(self.warmup - (~np.isnan(self._rate)).sum(axis=1), 0, count)
        fresh = drawn_by_weight(np.ones(unseen.shape), unseen, count, self.setting.rng)
        fresh = np.where(np.arange(count) < warming[:, None], fresh, -1)
        taken = np.zeros_like(among)
        rows, columns = np.nonzero(fresh >= 0)
        taken[rows, fresh[rows, columns]] = True
        others = drawn_by_weight(self.weights(among & ~taken), among & ~taken, count, self.setting.rng)
        # The fresh ones stand in front, and the first of the others take the places that are left.
        places = np.arange(count) - (fresh >= 0).sum(axis=1, keepdims=True)
        return np.where(places < 0, fresh, np.take_along_axis(others, np.maximum(places, 0), axis=1))

    def weights(self, among: BoolArray) -> FloatArray:
        """Weights (R, Q) that prompts in `among` are drawn by; the others have 0."""
        p = np.nan_to_num(self._rate)
        scores = 4 * p * (1 - p) * among
        total = scores.sum(axis=1, keepdims=True)
        even = among / np.maximum(among.sum(axis=1, keepdims=True), 1)
        mixed = (1 - self.uniform) * scores / np.where(total > 0, total, 1) + self.uniform * even
        weights: FloatArray = np.where(total > 0, mixed, even)
        return weights

    def observe(self, outcomes: Outcomes) -> None:
        """Move the average of each prompt that got rollouts."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        rate = outcomes.successes[rows, columns] / outcomes.counts[rows, columns]
        old = np.where(np.isnan(self._rate[visited]), rate, self._rate[visited])
        self._rate[visited] = self.beta * old + (1 - self.beta) * rate

    def state_dict(self) -> State:
        """Moving averages (R, Q); not a number where a prompt was never seen."""
        return {"rate": self._rate.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the moving averages."""
        self._rate = state["rate"].copy()
