"""A control: equal groups, with another allocator's counts as weights of the prompts.

When the loss averages over rollouts, unequal groups also re-weight prompts. This control has the
re-weighting without the sampling, so it says how much of a gain was only that.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Borrowed
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import Budget, Groups, IntArray, Plan, PromptStream, Request
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class WeightedUniform(Borrowed):
    """Control: equal groups; another allocator's counts become explicit weights of the prompts."""

    goal: ClassVar[str] = "weights alone"
    unbiased: ClassVar[bool] = False

    control: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("of=vip",)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Equal counts (R, B), as `uniform` has them."""
        return equal_counts(prompts, budget.rollouts)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for one stage of equal groups, whose weights have mean 1 in each replicate."""
        prompts = stream.draw(budget.prompts)
        counts = self.borrowed_counts(prompts, budget)
        outcomes = yield Request(prompts, self.allocate(prompts, budget))
        present = np.maximum((prompts >= 0).sum(axis=1, keepdims=True), 1)
        mean = np.maximum(counts.sum(axis=1, keepdims=True) / present, 1e-300)
        return Groups.all_of(outcomes, weights=counts / mean)
