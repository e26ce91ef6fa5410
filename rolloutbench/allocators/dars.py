"""DARS: difficulty-adaptive rollout sampling (arXiv 2508.13755; code yangzhch6/DARS@9b21b71).

    1. N rollouts of every prompt; u = k / N, or 1/(2N) where k = 0
    2. the cumulative advantage of a group is A(u) = N S(u), with S = 2u(1-u), and its peak is N/2;
       where u < 1/2:  dN = ceil((target - A) / S), at most N_max - N, more rollouts
           ET, equal treatment:  target = peak            every hard prompt gets the peak
           HW, hardness weighted: target = 2(1-u) peak    harder prompts get more
    3. train on all rollouts of the groups with both rewards

From the code: N = 8, N_max = 32 for ET and 64 for HW, here four and eight times the group size. With
`std=true` S = 2 sqrt(u(1-u)) and the peak is N, as its `grpo_use_std`; its scripts have that off. Groups
that end without both rewards leave the batch (`upper_threshold` 1.0). The code's padding to a multiple of
the number of GPUs is left out, and so is the greedy flag on its second generation, which looks like a slip.

Prompts at u >= 1/2 never get more, so a step only ever costs more than N rollouts a prompt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    Budget,
    Groups,
    InputError,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
    Request,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class DARS(Allocator):
    """Second rounds for hard prompts, until the sum of a group's advantages is that of a middling one."""

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("filtered",)
    goal: ClassVar[str] = "equal sums of advantages"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2508.13755",
        code="yangzhch6/DARS@9b21b71",
        file="verl/verl/trainer/ppo/ray_dars_trainer.py",
        licence="MIT",
    )
    variants: ClassVar[tuple[str, ...]] = ("", "rule=HW")

    rule: Literal["ET", "HW"] = "ET"
    most: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    std: bool = False

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for equal groups, then for more of the hard prompts; train on groups with both rewards."""
        n = int(budget.group_size)
        most = self.most or n * (4 if self.rule == "ET" else 8)
        if most < n:
            raise InputError(f"most={most}: the first round alone has {n} rollouts a prompt")
        prompts = stream.draw(budget.prompts)
        present = prompts >= 0
        seen = yield Request(prompts, n * present)
        more = self.further(seen, n, most) * present
        if more.any():
            seen += yield Request(prompts, more)
        mixed = (seen.successes > 0) & (seen.successes < seen.counts)
        filtered = np.where(mixed, 0, seen.counts).sum(axis=1)
        kept = Outcomes(np.where(mixed, prompts, -1), seen.counts * mixed, seen.successes * mixed)
        return replace(Groups.all_of(kept), discarded={"filtered": filtered})

    def further(self, seen: Outcomes, n: int, most: int) -> IntArray:
        """Rollouts (R, B) of the second round, after a first one of n that came out as `seen`."""
        u = seen.successes / np.maximum(seen.counts, 1)
        u = np.where(u <= 1e-6, 0.5 / n, u)
        hard = u < 0.5
        u = np.where(hard, u, 0.25)
        score, peak = (2 * np.sqrt(u * (1 - u)), n) if self.std else (2 * u * (1 - u), 0.5 * n)
        target = 2 * (1 - u) * peak if self.rule == "HW" else peak
        more = np.minimum(np.ceil((target - n * score) / score), most - n)
        return np.where(hard, np.maximum(more, 0), 0).astype(np.int64)
