"""Bases of methods that choose a step's prompts from the whole pool, not from the next ones of the stream.

The stream is asked once for every prompt that there is; from then on it counts no epochs, since nobody draws
from it. A data set that is streamed is read through first. Ties are broken at random: the number of a
prompt means nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    BoolArray,
    Budget,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


def whole_pool(stream: PromptStream) -> BoolArray:
    """Which prompts (R, Q) may be asked for; where nobody drew any yet, the stream gives all that it has."""
    if not stream.drawn.any():
        stream.draw(stream.pool_size)
    return stream.drawn


def everyone(setting: Setting) -> IntArray:
    """The numbers (R, Q) of all prompts of the pool, in order."""
    return np.broadcast_to(np.arange(setting.pool_size), (setting.replicates, setting.pool_size))


def least(keys: FloatArray, among: BoolArray, count: int, rng: np.random.Generator) -> IntArray:
    """The `count` prompts (R, count) with the least keys (R, Q), the least first; ties by chance.

    Only prompts in `among` (R, Q) are taken; -1 where a replicate has fewer.
    """
    keys = np.where(among, keys, np.inf)
    width = min(count, keys.shape[1])
    last = np.partition(keys, width - 1, axis=1)[:, width - 1 : width]
    chance = rng.random(keys.shape)
    rank = np.where(keys < last, chance - 2, np.where(keys == last, chance, 2.0))
    chosen = np.argpartition(rank, width - 1, axis=1)[:, :width]
    its_keys, its_chance = (np.take_along_axis(part, chosen, axis=1) for part in (keys, chance))
    chosen = np.take_along_axis(chosen, np.lexsort((its_chance, its_keys), axis=1), axis=1)
    prompts = np.full((len(keys), count), -1)
    prompts[:, :width] = np.where(np.take_along_axis(among, chosen, axis=1), chosen, -1)
    return prompts


def nearest(distance: FloatArray, count: int) -> IntArray:
    """Places (R, count) of the least distances (R, W), the least first; of equal ones the first.

    The start of a stable sort, of which only what is wanted gets sorted. All places where W is below count.
    """
    wanted = min(count, distance.shape[1])
    if wanted == 0:
        return np.zeros((len(distance), 0), dtype=np.int64)
    last = np.partition(distance, wanted - 1, axis=1)[:, wanted - 1 : wanted]
    taken, tied = distance < last, distance == last
    taken |= tied & (np.cumsum(tied, axis=1) <= wanted - taken.sum(axis=1, keepdims=True))
    places = np.nonzero(taken)[1].reshape(len(distance), wanted)
    order = np.argsort(np.take_along_axis(distance, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def drawn_by_weight(weights: FloatArray, among: BoolArray, count: int, rng: np.random.Generator) -> IntArray:
    """Prompts (R, count) drawn one after the other, in proportion to weights (R, Q), none twice.

    Those that weigh nothing come last, in random order; -1 where a replicate has fewer in `among` (R, Q).
    A prompt's key is an exponential time of rate `weight`, and the first to come are drawn: the same
    distribution (Efraimidis & Spirakis, 2006).
    """
    waited = rng.standard_exponential(weights.shape)
    keys = np.divide(waited, weights, out=np.full(weights.shape, np.finfo(np.float64).max), where=weights > 0)
    return least(keys, among, count, rng)


@dataclass(config=PARAMETERS)
class Selecting(Allocator):
    """Base of methods that give equal groups to prompts that they choose from the whole pool."""

    one_shot: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True

    @abstractmethod
    def choose(self, among: BoolArray, count: int) -> IntArray:
        """Choose `count` prompts (R, count) of those in `among` (R, Q); -1 where there are fewer."""

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Choose prompts, and ask for equal groups of them in one stage."""
        prompts = self.choose(whole_pool(stream), budget.prompts)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        return Groups.all_of(outcomes)


@dataclass(config=PARAMETERS)
class Profiling(Allocator):
    """Base of methods that rate every prompt of the pool before training, by `profile` rollouts of each.

    These rollouts are asked for in the first step and given up, so that the bill has them.
    """

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("profile",)

    profile: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] = 8

    def begin(self, setting: Setting) -> None:
        """Start afresh: nothing is known of any prompt."""
        self.setting = setting
        self._profile = np.zeros((2, setting.replicates, setting.pool_size), dtype=np.int64)

    @abstractmethod
    def plan_profiled(self, among: BoolArray, budget: Budget) -> Plan:
        """Plan a step over the prompts in `among` (R, Q), whose profile is known."""

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Profile the pool if that was not done, then train."""
        among = whole_pool(stream)
        profile = np.zeros(stream.replicates, dtype=np.int64)
        if among.any() and not self._profile[0].any():
            outcomes = yield Request(np.where(among, everyone(self.setting), -1), self.profile * among)
            self._learn_profile(outcomes)
            profile = outcomes.counts.sum(axis=1)
        groups: Groups = yield from self.plan_profiled(among, budget)
        return replace(groups, discarded={"profile": profile})

    def _learn_profile(self, outcomes: Outcomes) -> None:
        self._profile = np.stack([outcomes.counts, outcomes.successes])

    @property
    def rates(self) -> FloatArray:
        """Success rates (R, Q) of the profile; 0 where no rollout came."""
        counts, successes = self._profile
        rates: FloatArray = successes / np.maximum(counts, 1)
        return rates

    def state_dict(self) -> State:
        """Rollouts and successes (2, R, Q) of the profile."""
        return {"profile": self._profile.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the rollouts and successes of the profile."""
        self._profile = state["profile"].copy()
