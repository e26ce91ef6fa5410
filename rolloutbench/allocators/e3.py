"""E3's dynamic rollout budget (arXiv 2505.18573; code LiaoMengqi/E3-RL4LLMs@7e90b8e).

    at the end of an epoch:  rank every prompt by its mean reward so far, the best first: rank_i = place / Q
                             n_min <- max(n_min - update, low),  n_max <- min(n_max + update, high)
    in a step:               n_i = floor(n_min + rank_i / sum rank * (B n - B n_min))
                             what rounding left over fills the hardest up to n_max, one after the other

Both bounds start at n, so the first epoch has equal groups. From its scripts: n = 8, low = 4, high = 12,
update = 2; here n/2, 3n/2 and n/4 unless given. As in the code n_max bounds only what is left over, not
the share of a prompt. Prompts that were never seen count as mean reward 0, the hardest.

Prompts with the same mean reward share the mean of their places; in the code the order of the data set
decides. Its temperature schedule, which is no allocation, is not here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
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
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS

Count = Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)]


@dataclass(config=PARAMETERS)
class E3(OneShot):
    """Counts by a prompt's place in the ranking of mean rewards, within bounds that widen every epoch."""

    unbiased: ClassVar[bool] = True
    goal: ClassVar[str] = "more for hard prompts"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2505.18573",
        code="LiaoMengqi/E3-RL4LLMs@7e90b8e",
        file="e3/trainer/ray_trainer.py, e3/data/rl_dataset.py, scripts/train_1_5b.sh",
        note="equal mean rewards share a rank; the temperature schedule is left out",
    )

    low: Count | None = None
    high: Count | None = None
    update: Annotated[int, Field(ge=0, le=MOST_ROLLOUTS)] | None = None

    def __post_init__(self) -> None:
        """Raise InputError where the lower bound is above the upper one."""
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"low={self.low} is above high={self.high}")

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt has a mean reward or a rank."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._counts, self._successes = np.zeros((2, *shape), dtype=np.int64)
        self._ranks = np.zeros(shape)
        self._epoch = np.zeros(setting.replicates, dtype=np.int64)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Rank all prompts anew where an epoch has ended, then ask for one stage."""
        prompts = stream.draw(budget.prompts)
        turned = stream.epoch > self._epoch
        if turned.any():
            self._ranks[turned] = self.ranks(self._counts[turned], self._successes[turned])
            self._epoch = np.maximum(self._epoch, stream.epoch)
        outcomes = yield Request(prompts, self.allocate(prompts, budget))
        return Groups.all_of(outcomes)

    @staticmethod
    def ranks(counts: IntArray, successes: IntArray) -> FloatArray:
        """Ranks (R, Q) in [0, 1) by mean reward, 0 for the best; equal means share theirs."""
        means = successes / np.maximum(counts, 1)
        order = np.argsort(-means, axis=1)
        ordered = np.take_along_axis(means, order, axis=1)
        places = np.arange(means.shape[1])
        starts = np.ones(means.shape, dtype=bool)
        starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        ends = np.roll(starts, -1, axis=1)  # the first place always starts a run, so the last ends one
        first = np.maximum.accumulate(np.where(starts, places, 0), axis=1)
        last = np.minimum.accumulate(np.where(ends, places, len(places))[:, ::-1], axis=1)[:, ::-1]
        ranks = np.empty(means.shape)
        np.put_along_axis(ranks, order, (first + last) / 2 / len(places), axis=1)
        return ranks

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) by the ranks and bounds of the epoch."""
        n = int(budget.group_size)
        low = max(n // 2, min(n, 2)) if self.low is None else self.low
        high = n + n // 2 if self.high is None else self.high
        update = max(n // 4, 1) if self.update is None else self.update
        epoch = self._epoch[:, None]
        present = prompts >= 0
        least = np.maximum(n - update * epoch, min(low, n))
        most = np.minimum(n + update * epoch, max(high, n))
        ranks = self._ranks[np.arange(len(prompts))[:, None], prompts] * present
        size = present.sum(axis=1, keepdims=True)
        shares = ranks / (ranks.sum(axis=1, keepdims=True) + 1e-8)
        counts: IntArray = np.floor(least + (n - least) * size * shares).astype(np.int64) * present
        counts += self._filled(counts, ranks, np.where(present, most, 0), n * size)
        return counts

    @staticmethod
    def _filled(counts: IntArray, ranks: FloatArray, most: IntArray, total: IntArray) -> IntArray:
        """What is left of the total (R, 1), given to the highest ranks first, each up to `most` (R, B)."""
        order = np.argsort(-ranks, axis=1, kind="stable")
        room = np.take_along_axis(np.maximum(most - counts, 0), order, axis=1)
        left = total - counts.sum(axis=1, keepdims=True) - (np.cumsum(room, axis=1) - room)
        added = np.zeros_like(counts)
        np.put_along_axis(added, order, np.clip(left, 0, room), axis=1)
        return added

    def observe(self, outcomes: Outcomes) -> None:
        """Add the step's rewards to the means."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        self._counts[visited] += outcomes.counts[rows, columns]
        self._successes[visited] += outcomes.successes[rows, columns]

    def state_dict(self) -> State:
        """Rollouts, successes and ranks (R, Q), and the epoch (R,) that the ranks are of."""
        return {
            "counts": self._counts.copy(),
            "successes": self._successes.copy(),
            "ranks": self._ranks.copy(),
            "epoch": self._epoch.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore rollouts, successes, ranks and epoch."""
        self._counts, self._successes, self._ranks, self._epoch = (
            state[name].copy() for name in ("counts", "successes", "ranks", "epoch")
        )
