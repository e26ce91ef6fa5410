"""Partial credit: a rollout passes none, some or all of its parts, and its reward is the share it passes.

A rollout has m `parts`. It passes each with chance p, independently of the others, where p is what the
policy's formula gives (learning.py). So it passes c ~ Binomial(m, p) of them, its reward c/m is one of m + 1
levels, and the expected reward is p. The likelihood of c is proportional to p^c (1-p)^(m-c), whose logarithm
has the derivative (c - m p)(phi - kappa theta) by theta. With the noise that has nothing to do with the
reward a rollout's score is

    z = (c - m p)(phi - kappa theta) + xi,      E[(c/m) z] = (Var[c] / m)(phi - kappa theta)
                                                           = p (1-p) (phi - kappa theta),

the gradient of the expected reward. A group is its counts n_c of rollouts at each level, which are
multinomial, and an estimator gives each level its advantage A_c (`Estimator.of_rewards`). Given the counts,
the group's gradient (1/n) sum_j A_j z_j is

    x (phi - kappa theta) + N(0, sigma^2 noise I),

    x = sum_c n_c A_c (c - m p) / n,      noise = sum_c n_c A_c^2 / n^2,

since the xi of its rollouts are independent, and a sum of independent Gaussians is one. For m = 1 these are
the two levels' formulas.

Allocators see successes: rewards of `threshold` or more. They choose by them alone, so given how many
successes and failures of a prompt are kept, the levels of these are independent draws of c given that it
reaches the threshold, or does not. That is when and how they are drawn: what was generated, and what was not
kept, needs no levels. Rollouts of earlier steps get levels of the policy that is sampled now. A baseline that
an allocator gives is taken off the reward, though it is a share of successes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special

from rolloutbench.estimators import binomial_pmf
from rolloutbench.protocol import FloatArray, IntArray


@dataclass(frozen=True)
class Credit:
    """Rewards of rollouts of m `parts`, and the least reward that is a success: the `threshold`."""

    parts: int
    threshold: float

    @cached_property
    def passed(self) -> FloatArray:
        """Parts that a rollout of each level passes (m + 1,): 0 to m."""
        return np.arange(self.parts + 1.0)

    @cached_property
    def rewards(self) -> FloatArray:
        """Reward of each level (m + 1,): 0 to 1."""
        return self.passed / self.parts

    @cached_property
    def enough(self) -> int:
        """Parts that a rollout passes at least if it is a success: 1 to m."""
        return int(np.argmax(self.rewards >= self.threshold))

    def success(self, p: FloatArray) -> FloatArray:
        """Chance that a rollout is a success, where p is the chance to pass a part."""
        return np.asarray(special.betainc(self.enough, self.parts - self.enough + 1, p))

    def dealt(
        self, rng: np.random.Generator, successes: IntArray, failures: IntArray, p: FloatArray
    ) -> IntArray:
        """Draw at p (R, B) how many of the successes and failures (R, B) are at each level, (R, B, m + 1)."""
        chances = binomial_pmf(p.ravel(), self.parts).reshape(*p.shape, self.parts + 1)
        below, above = np.split(chances, [self.enough], axis=-1)
        drawn = [
            rng.multinomial(count, part / np.maximum(part.sum(axis=-1, keepdims=True), 1e-300))
            for count, part in ((failures, below), (successes, above))
        ]
        return np.concatenate(drawn, axis=-1)

    def deviation(self, counts: IntArray) -> FloatArray:
        """Standard deviation of the rewards (ddof 0) of groups (R, B, m + 1); just 0 where all are equal."""
        n = np.maximum(counts.sum(axis=-1), 1)
        mean, square = (counts @ self.rewards) / n, (counts @ self.rewards**2) / n
        mixed = (counts > 0).sum(axis=-1) > 1
        return np.sqrt(np.where(mixed, np.maximum(square - mean**2, 0.0), 0.0))
