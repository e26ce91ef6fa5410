"""CurES (arXiv 2510.01037; code ZexuSun/CurES@eccf298).

    an iteration, on a shard of prompts:
        pilot:     4 rollouts of every prompt; p = k / 4
        counts:    sigma = sqrt(p (1-p)^2 + p^2 (1-p)) = sqrt(p (1-p));  n_i = round(N sigma_i / sum sigma)
        sampling:  batches without replacement, in proportion to exp(sqrt(m (1-m)) / t),
                   with m = (k + 1) / (n + 2) the mean of the Beta posterior
    then 10 steps of batches from the shard, and a new pilot.

sigma is its eq. 127 with gradients of norm 1: norms of right and wrong rollouts are not in the protocol.
N, here the group size for each prompt of the shard, is B n for each GPU's part of the shard there.

Paper and code disagree. The paper has one temperature for all prompts, whose value we do not have; the code
has t = 100 (k + 1) for each, so that weights differ by at most exp(.005) and batches are as good as uniform
(`temperature` gives one to all). The shards of its scripts hold about as many prompts as 10 batches, so
every prompt comes up; `oversample` makes the shard, and the bill of its pilots, that many times larger. The
posterior there goes on learning in the shard, which moves t only; here it stays. Prompts with k = 0 or 4
have sigma = 0 and are not trained on. `np.round` lets the sum drift by some rollouts, as in the code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    Budget,
    Groups,
    IntArray,
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
class CurES(Allocator):
    """Pilots for a shard of prompts, then counts by the spread of their rewards, none where it is 0."""

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("pilots",)
    goal: ClassVar[str] = "least gradient variance"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2510.01037",
        code="ZexuSun/CurES@eccf298",
        file="epic/stage_0_init_difficulty_sample_size.py, epic/epic_sampler.py, epic/epic_ray_trainer.py",
        licence="Apache-2.0",
        note="gradient norms are taken to be equal",
    )

    pilot: Annotated[int, Field(ge=2, le=MOST_ROLLOUTS)] = 4
    shard_steps: Annotated[int, Field(ge=1)] = 10
    oversample: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(gt=0)] | None = None

    def begin(self, setting: Setting) -> None:
        """Start afresh, before the first iteration."""
        self.setting = setting
        self._shard = np.zeros((2, setting.replicates, 0), dtype=np.int64)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Begin a new iteration with pilots where the shard is used up; then train on its next batch."""
        pilots = np.zeros(stream.replicates, dtype=np.int64)
        if not (self._shard[0] >= 0).any():
            steps = max(min(self.shard_steps, stream.pool_size // budget.prompts), 1)
            wanted = min(steps * budget.prompts * self.oversample, max(stream.pool_size, budget.prompts))
            prompts = stream.draw(wanted)
            outcomes = yield Request(prompts, self.pilot * (prompts >= 0))
            pilots = outcomes.counts.sum(axis=1)
            counts = self.counts(outcomes, int(budget.group_size))
            chosen = self._sampled(outcomes)[:, : steps * budget.prompts]
            self._shard = np.stack([np.take_along_axis(part, chosen, axis=1) for part in (prompts, counts)])
        (prompts, counts), self._shard = np.split(self._shard, [budget.prompts], axis=2)
        outcomes = yield Request(prompts, counts)
        trained = Outcomes(np.where(counts > 0, prompts, -1), outcomes.counts, outcomes.successes)
        return replace(Groups.all_of(trained), discarded={"pilots": pilots})

    def counts(self, piloted: Outcomes, n: int) -> IntArray:
        """Counts (R, B) in proportion to the spread of the pilots' rewards, n on average."""
        p = piloted.successes / np.maximum(piloted.counts, 1)
        sigma = np.sqrt(p * (1 - p))
        total = n * (piloted.prompts >= 0).sum(axis=1, keepdims=True)
        sums = np.maximum(sigma.sum(axis=1, keepdims=True), 1e-300)
        counts: IntArray = np.round(total * (sigma / sums)).astype(np.int64)
        return counts

    def _sampled(self, piloted: Outcomes) -> IntArray:
        """Places (R, B) of the shard in the order in which they are drawn, by weight, none twice."""
        k, n = piloted.successes, piloted.counts
        mean = (k + 1) / (n + 2)
        temperature = 100.0 * (k + 1) if self.temperature is None else self.temperature
        # A sum of log weight and Gumbel noise: the greatest is drawn first.
        keys = np.sqrt(mean * (1 - mean)) / temperature + self.setting.rng.gumbel(size=mean.shape)
        return np.argsort(np.where(piloted.prompts >= 0, -keys, np.inf), axis=1, kind="stable")

    def state_dict(self) -> State:
        """Prompts and counts that are left of the shard."""
        return {"shard": self._shard.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the prompts and counts that are left of the shard."""
        self._shard = state["shard"].copy()
