"""A control: equal groups, and a gradient divided by the number of groups that have one.

Methods that fill the batch with effective groups (0 < k < n) also take larger steps, because nothing in
their mean is 0. This has the larger steps without the sampling, so it says how much of a gain was that.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import Allocator, Budget, Groups, Plan, PromptStream, Request
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class EffectiveCount(Allocator):
    """Control: equal groups, the mean taken over effective groups only."""

    goal: ClassVar[str] = "larger steps alone"

    control: ClassVar[bool] = True

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for one stage of equal groups; every group weighs prompts / effective groups."""
        prompts = stream.draw(budget.prompts)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        mixed = (outcomes.successes > 0) & (outcomes.successes < outcomes.counts)
        effective = np.maximum(mixed.sum(axis=1, keepdims=True), 1)
        weights = (prompts >= 0).sum(axis=1, keepdims=True) / effective
        return Groups.all_of(outcomes, np.broadcast_to(weights, prompts.shape).copy())
