"""The same number of rollouts for every prompt: GRPO, Dr. GRPO, RLOO and REINFORCE, by estimator."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.protocol import (
    BoolArray,
    Budget,
    IntArray,
    Provenance,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Uniform(OneShot):
    """Equal groups, the baseline; `divide` makes groups that many times smaller, a control on cost."""

    goal: ClassVar[str] = "equal groups"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2402.03300",
        code="verl-project/verl@b178a3c",
        file="verl/trainer/ppo/core_algos.py",
        licence="Apache-2.0",
        note="the estimator makes it GRPO, Dr. GRPO, RLOO or REINFORCE",
    )

    variants: ClassVar[tuple[str, ...]] = ("", "divide=2", "divide=4")

    divide: Annotated[int, Field(ge=1)] = 1

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) of budget / prompts each; what is left goes to the first prompts, one each."""
        return equal_counts(prompts, budget.rollouts // self.divide)


def equal_counts(prompts: IntArray, rollouts: int) -> IntArray:
    """Spread rollouts over the prompts that are there; the first ones take the remainder."""
    return equal_shares(prompts >= 0, np.full(len(prompts), rollouts))


def equal_shares(receiving: BoolArray, rollouts: IntArray) -> IntArray:
    """Spread `rollouts` (R,) over the places in `receiving` (R, B); the first ones take the remainder."""
    each, rest = np.divmod(rollouts[:, None], np.maximum(receiving.sum(axis=1, keepdims=True), 1))
    return np.where(receiving, each + (np.cumsum(receiving, axis=1) <= rest), 0)
