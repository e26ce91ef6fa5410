"""HORA: hit-utility optimal rollout allocation (arXiv 2605.07114).

    1. n0 rollouts of every prompt, k of them right
    2. hit utility of m more, under the posterior Beta(1 + k, 1 + n0 - k):
           H(m) = 1 - prod_{j < m} (1 + n0 - k + j) / (2 + n0 + j)
       the rest of the budget goes where it adds most to sum H; concave, so one by one is optimal
    3. train on all rollouts

The text and its code were not to be had: the utility, the uniform prior and the goal are its abstract's, the
closed form follows from them. n0 is not known; here half of the group. A prompt gets at most `upper` more,
128 as in Knapsack RL, which also bounds the work. A hit counts whatever was seen before, so the first
further rollout of a prompt that mostly succeeds is worth most, and its second little.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    Budget,
    FloatArray,
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
from rolloutbench.solvers import serve_greatest


@dataclass(config=PARAMETERS)
class HORA(Allocator):
    """A first half for everybody, then rollouts where another success is most likely to come first."""

    staged: ClassVar[bool] = True
    goal: ClassVar[str] = "most prompts with a success"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2605.07114", note="from the abstract; the size of the first stage is not known"
    )

    first: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    upper: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] = 128

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for the first rollouts of every prompt, then for the rest of the budget by hit utility."""
        n = int(budget.group_size)
        first = self.first or max(n // 2, 1)
        if first > n:
            raise InputError(f"first={first}: the group has {n} rollouts")
        prompts = stream.draw(budget.prompts)
        present = prompts >= 0
        seen = yield Request(prompts, first * present)
        rest = np.where(present.any(axis=1), budget.rollouts - first * present.sum(axis=1), 0)
        counts = self.further(seen, rest)
        if counts.any():
            seen += yield Request(prompts, counts)
        return Groups.all_of(seen)

    @staticmethod
    def gains(seen: Outcomes, most: int) -> FloatArray:
        """What the m-th further rollout adds to the hit utility, (R, most, B) for m = 1 .. most."""
        failures = seen.counts - seen.successes
        gains = np.empty((len(failures), most, failures.shape[1]))
        before = np.ones(failures.shape)
        for m in range(most):
            missed = before * ((1 + failures + m) / (2 + seen.counts + m))
            gains[:, m] = before - missed
            before = missed
        return gains

    def further(self, seen: Outcomes, rest: IntArray) -> IntArray:
        """Counts (R, B) that sum to `rest` (R,), as far as `upper` lets them, and add most to the utility."""
        most = min(int(rest.max(initial=0)), self.upper)
        upper = most * (seen.prompts >= 0)
        spent = np.minimum(rest, upper.sum(axis=1))
        if most == 0:
            return np.zeros_like(upper)
        return serve_greatest(self.gains(seen, most), np.zeros_like(upper), upper, spent)
