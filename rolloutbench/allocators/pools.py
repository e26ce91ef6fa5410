"""Difficulty pools with eviction and recycling, as in prime-rl's buffer (PrimeIntellect-ai/prime-rl@e7f2c51).

    every prompt is easy, normal or hard; normal at first
    step: floor(B f_easy) prompts at random from the easy pool, floor(B f_hard) from the hard one, the rest
          and what those lack from the normal one; equal groups
          mean reward > easy_above: to the easy pool;  < hard_below: to the hard pool;  else to the normal one

From its configuration: f_easy = f_hard = .1, easy_above = .8, hard_below = .2. With fractions of 0 pools only
fill (`easy=0,hard=0`): who leaves the normal pool is evicted, which its users complain of. Above 0 a sample
of the evicted is tried again, and who is in between by now returns. Later versions have the same rule
with thresholds that are reached instead of passed (@01c9b0a).

Where the normal pool has too few its code stops with an error. Here the hard pool and then the easy one fill
the places.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.selection import Selecting, least
from rolloutbench.protocol import BoolArray, InputError, IntArray, Outcomes, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS

Share = Annotated[float, Field(ge=0, le=1)]
NORMAL, HARD, EASY = 0, 1, 2


@dataclass(config=PARAMETERS)
class Pools(Selecting):
    """Equal groups for prompts of a normal pool, with a few of those evicted as too easy or too hard."""

    goal: ClassVar[str] = "effective groups"
    provenance: ClassVar[Provenance | None] = Provenance(
        code="PrimeIntellect-ai/prime-rl@e7f2c51",
        file="src/prime_rl/orchestrator/buffer.py, config.py",
        licence="Apache-2.0",
        note="an empty normal pool is filled up from the others",
    )
    variants: ClassVar[tuple[str, ...]] = ("", "easy=0,hard=0")

    easy: Share = 0.1
    hard: Share = 0.1
    easy_above: Share = 0.8
    hard_below: Share = 0.2

    def __post_init__(self) -> None:
        """Raise InputError where fractions or thresholds contradict each other."""
        if self.easy + self.hard > 1:
            raise InputError(f"easy={self.easy}, hard={self.hard}: fractions of a batch sum to at most 1")
        if self.hard_below > self.easy_above:
            raise InputError(f"hard_below={self.hard_below} is above easy_above={self.easy_above}")

    def begin(self, setting: Setting) -> None:
        """Start afresh: every prompt is normal."""
        self.setting = setting
        self._pool = np.full((setting.replicates, setting.pool_size), NORMAL)

    def choose(self, among: BoolArray, count: int) -> IntArray:
        """Prompts (R, count): the recycled shares of the pools first, then normal ones, then the others."""
        size = np.stack([(among & (self._pool == pool)).sum(axis=1) for pool in (NORMAL, HARD, EASY)])
        chance = self.setting.rng.random(among.shape)
        # A prompt's place in a random order of its own pool says whether it is among the recycled.
        shuffled = np.argsort(np.where(among, self._pool + chance, np.inf), axis=1)
        places = np.empty_like(shuffled)
        np.put_along_axis(places, shuffled, np.arange(among.shape[1])[None], axis=1)
        within = places - np.take_along_axis(
            np.cumsum(np.pad(size.T, ((0, 0), (1, 0))), axis=1), self._pool, axis=1
        )
        quota = np.array([0, int(count * self.hard), int(count * self.easy)])[self._pool]
        return least(np.where(within < quota, -1.0, self._pool + chance), among, count, self.setting.rng)

    def observe(self, outcomes: Outcomes) -> None:
        """Move each prompt that got rollouts to the pool of its mean reward."""
        rows, columns = np.nonzero(outcomes.counts)
        rate = outcomes.successes[rows, columns] / outcomes.counts[rows, columns]
        pool = np.where(rate > self.easy_above, EASY, np.where(rate < self.hard_below, HARD, NORMAL))
        self._pool[rows, outcomes.prompts[rows, columns]] = pool

    def state_dict(self) -> State:
        """The pool (R, Q) that each prompt is in: 0 normal, 1 hard, 2 easy."""
        return {"pool": self._pool.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the pool that each prompt is in."""
        self._pool = state["pool"].copy()
