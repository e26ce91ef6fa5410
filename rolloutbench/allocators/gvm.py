"""GVM: gradient variance minimisation (arXiv 2505.02391; code RLHFlow/GVM@d640a75,
em/stage_2_calc_sample_size.py).

At the start of an iteration every prompt of a shard gets `pilot` rollouts, which give its accept rate p
and are not trained on. Then n_i ~ G_i / sqrt(p + alpha / p^(beta - 1)), nothing where p = 0, with the sum
of n rollouts a prompt, rounded so that the sum stays. The next steps train on the shard in order, by
rates that grow old.

From the code: pilot 8, alpha = 0.001, beta = 2. Its script takes 9 steps an iteration (`shard_steps`; fewer
where the pool is smaller). G_i, the mean gradient norm of accepted rollouts, would need gradients, which
the protocol does not have: here G_i = 1 for all. The code rounds to the nearest whole numbers and mends the
sum where the rounding was worst: that is largest remainders, up to ties. `filter_threshold` and
`filter_insufficient` of its script stay unused.

The batches of a shard have unequal totals, and one in `shard_steps` pays the pilots too: the budget holds
for the shard without its pilots, not for a step. Prompts with n_i = 0 are no part of the batch. Groups of
1 are possible, and worth nothing under most estimators.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.rounding import largest_remainder
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    Budget,
    FloatArray,
    Groups,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class GVM(Allocator):
    """Pilots for a shard of prompts, then counts by their accept rates, more for the harder ones."""

    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("pilots",)
    goal: ClassVar[str] = "least variance, log rate"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2505.02391",
        code="RLHFlow/GVM@d640a75",
        file="em/stage_2_calc_sample_size.py",
        licence="Apache-2.0",
        note="gradient norms are taken to be equal; ties of the rounding go to other prompts",
    )

    hard_budget: ClassVar[bool] = False

    pilot: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] = 8
    shard_steps: Annotated[int, Field(ge=1)] = 9
    alpha: Annotated[float, Field(ge=0)] = 0.001
    beta: float = 2.0

    def begin(self, setting: Setting) -> None:
        """Start afresh, before the first iteration."""
        self.setting = setting
        self._shard = np.zeros((2, setting.replicates, 0), dtype=np.int64)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Begin a new iteration with pilots where the shard is used up; then train on its next batch."""
        pilots = np.zeros(stream.replicates, dtype=np.int64)
        if not (self._shard[0] >= 0).any():
            steps = max(min(self.shard_steps, stream.pool_size // budget.prompts), 1)
            prompts = stream.draw(steps * budget.prompts)
            outcomes = yield Request(prompts, self.pilot * (prompts >= 0))
            pilots = outcomes.counts.sum(axis=1)
            totals = int(budget.group_size) * (prompts >= 0).sum(axis=1)
            self._shard = np.stack([prompts, largest_remainder(self.shares(outcomes), totals)])
        (prompts, counts), self._shard = np.split(self._shard, [budget.prompts], axis=2)
        outcomes = yield Request(prompts, counts)
        trained = Outcomes(np.where(counts > 0, prompts, -1), outcomes.counts, outcomes.successes)
        groups = Groups.all_of(trained)
        return Groups(
            groups.prompts, groups.successes, groups.failures, groups.weights, discarded={"pilots": pilots}
        )

    def shares(self, piloted: Outcomes) -> FloatArray:
        """Shares (R, B) that counts follow: 1 / sqrt(p + alpha / p^(beta - 1)); 0 where p = 0."""
        p = piloted.successes / np.maximum(piloted.counts, 1)
        solved = p > 0
        p = np.where(solved, p, 1.0)
        shares: FloatArray = solved / np.sqrt(p + self.alpha / p ** (self.beta - 1))
        return shares

    def state_dict(self) -> State:
        """Prompts and counts that are left of the shard."""
        return {"shard": self._shard.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the prompts and counts that are left of the shard."""
        self._shard = state["shard"].copy()
