"""Reinforce-Ada-Seq (arXiv 2510.04996; code RLHFlow/Reinforce-Ada@05be605, verl/trainer/ppo/ray_trainer.py).

In at most `rounds` rounds every active prompt gets M rollouts, and leaves when its exit rule holds:
`positive` at the first success, `balance` at n/2 successes and n/2 failures. Then n rollouts are kept, n/2
of each class or more of one where the other has too few, with the pooled mean of all that were drawn as
baseline: A = r - k/N. Prompts that never leave keep n rollouts too.

Versions and code: v1 and the code exit at 1 success, or at n/2 of each; v3 gives 16, or 8 and 8, as
examples. Followed: the code. v3's advantage has a further factor 1/p_hat, which its Algorithm 2 and the
code leave out: `log_weight=true`. The scripts use M = 8, n = 4, 4 rounds: a round is twice what is kept. So
for a group size g, here M = g and n = g/2 unless given: nobody costs less than g. The code keeps the first
of each class; in counts that is the same as any.

One-class groups get no gradient (their baseline is their reward), however much they cost: a prompt
with p = 0 or 1 burns all rounds. The pooled mean is not the mean of what is kept, and balancing weights
prompts by about 1/(p(1-p)).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.down_sampling import balanced
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
class ReinforceAda(Allocator):
    """Rounds of rollouts until a prompt has a success, or enough of both classes; trains on a balance."""

    variants: ClassVar[tuple[str, ...]] = ("", "exit=positive")
    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("unselected",)
    goal: ClassVar[str] = "both rewards in balance"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2510.04996",
        code="RLHFlow/Reinforce-Ada@05be605",
        file="verl/trainer/ppo/ray_trainer.py",
        licence="Apache-2.0",
    )

    exit: Literal["positive", "balance"] = "balance"
    rounds: Annotated[int, Field(ge=1)] = 4
    per_round: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    keep: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    log_weight: bool = False

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Generate rounds for the prompts that have not left, then keep a balanced part of each group."""
        per_round = self.per_round or int(budget.group_size)
        keep = self.keep or max(int(budget.group_size) // 2, 1)
        prompts = stream.draw(budget.prompts)
        active = prompts >= 0
        seen = Outcomes.none(prompts)
        for _ in range(self.rounds):
            if not active.any():
                break
            seen += yield Request(prompts, per_round * active)
            active = active & ~self._exits(seen, keep)
        successes, failures = balanced(seen, keep)
        drawn = seen.counts > 0
        mean = np.divide(seen.successes, seen.counts, out=np.full(prompts.shape, np.nan), where=drawn)
        weights = np.ones(prompts.shape)
        if self.log_weight:
            np.divide(1.0, mean, out=weights, where=seen.successes > 0)
        unselected = (seen.counts - successes - failures).sum(axis=1)
        return Groups(prompts, successes, failures, weights, mean, discarded={"unselected": unselected})

    def _exits(self, seen: Outcomes, keep: int) -> BoolArray:
        """Whether a prompt (R, B) has what its exit rule asks for."""
        k, failures = seen.successes, seen.counts - seen.successes
        if self.exit == "positive":
            return k >= 1
        return (k >= keep // 2) & (failures >= keep - keep // 2)
