"""VIGOR: successive halving on the variance of rewards (arXiv 2607.22002).

    active = all B prompts
    for t = 0 .. T-1:  m0 gamma^t rollouts of every active prompt
                       keep the share alpha of them with the greatest variance of rewards, k (n - k) / n^2
    train on all rollouts

m0 = 2, T = 4, alpha = 1/2 and gamma = 2, so every round costs 2 B and a step 8 B, as groups of 8 would. Here
m0 is the group size over T by default, and at least 1. Neither paper nor code was to be had: this follows a
summary. It does not say how ties are broken, which are many after two rollouts; here at random. Prompts
that left early are trained on with what they have.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    BoolArray,
    Budget,
    Groups,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
    Request,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Vigor(Allocator):
    """Rounds of twice the rollouts for half of the prompts, those whose rewards vary most so far."""

    staged: ClassVar[bool] = True
    goal: ClassVar[str] = "most reward variance"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2607.22002", note="from a summary; ties are broken at random"
    )

    first: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    rounds: Annotated[int, Field(ge=1, le=16)] = 4

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask round by round, for as many as the budget allows; train on everything."""
        first = self.first or max(int(budget.group_size) // self.rounds, 1)
        prompts = stream.draw(budget.prompts)
        active = prompts >= 0
        seen, spent = Outcomes.none(prompts), np.zeros(stream.replicates, dtype=np.int64)
        for t in range(self.rounds):
            counts = first * 2**t * active
            counts *= (spent + counts.sum(axis=1) <= budget.rollouts)[:, None]
            if not counts.any():
                break
            spent += counts.sum(axis=1)
            seen += yield Request(prompts, counts)
            active = self._half(seen, active)
        return Groups.all_of(seen)

    def _half(self, seen: Outcomes, active: BoolArray) -> BoolArray:
        """The half of the active prompts (R, B), rounded down, with the greatest variance; ties by chance."""
        n, k = np.maximum(seen.counts, 1), seen.successes
        variance = np.where(active, k * (n - k) / n**2, -1.0)
        chance = self.setting.rng.random(variance.shape)
        order = np.lexsort((chance, -variance), axis=1)
        place = np.argsort(order, axis=1)
        half: BoolArray = active & (place < active.sum(axis=1, keepdims=True) // 2)
        return half
