"""The engine of two-phase methods: a few rollouts of many prompts, the rest for the informative ones.

Both phases share one stage: the prompts chosen from the buffer get the rest of their rollouts in the
same request that screens the next candidates. Screened candidates enter the buffer after the choice, so
a first step needs two rounds, and in later ones rollouts of the first phase may be steps old. Groups that
are complete beyond the batch wait for the next one, first in, first out.
`pilot_commit` and `speed` are this engine with their own numbers and rules.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.buffer import Buffer
from rolloutbench.protocol import (
    Allocator,
    BoolArray,
    Budget,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Screening(Allocator):
    """Screens `oversample` candidates per prompt of the batch in each of at most `max_rounds` rounds."""

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True

    oversample: Annotated[int, Field(ge=1)] = 3
    max_rounds: Annotated[int, Field(ge=2)] = 10
    clear_at_epoch_end: bool = False

    @abstractmethod
    def phases(self, budget: Budget) -> tuple[int, int]:
        """Rollouts that screen a candidate, and those that a chosen one gets in addition."""

    @abstractmethod
    def informative(self, screened: Outcomes) -> BoolArray:
        """Whether a candidate (R, B) enters the buffer."""

    def solved(self, screened: Outcomes) -> BoolArray:
        """Whether a candidate (R, B) is never drawn again; none is, unless a method says so."""
        return np.zeros(screened.prompts.shape, dtype=bool)

    def chosen(self, held: Buffer, wanted: IntArray) -> tuple[Buffer, Buffer]:
        """The groups that get the rest of their rollouts now, and the others of the buffer.

        By default the first `wanted` (R,), first in, first out. Replicates whose batch is full want none.
        """
        return held.split(wanted)

    def unexpired(self, held: Buffer) -> Buffer:
        """The part of the buffer that stays after a step: all of it, unless a method says otherwise."""
        return held

    def begin(self, setting: Setting) -> None:
        """Start afresh with an empty buffer."""
        self.setting = setting
        self._held = Buffer.empty(setting.replicates)
        self._complete = Buffer.empty(setting.replicates)
        self._step = 0
        self._rounds = np.zeros(setting.replicates, dtype=np.int64)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Screen candidates and continue with chosen ones, in rounds, until the batch is full."""
        screening, continuing = self.phases(budget)
        batch = self._complete
        pilots, expired = np.zeros((2, stream.replicates), dtype=np.int64)
        for _ in range(self.max_rounds):
            wanted = np.maximum(budget.prompts - batch.size, 0)
            if not wanted.any():
                break
            candidates, ended = self._draw(stream, self.oversample * budget.prompts, wanted > 0)
            if self.clear_at_epoch_end:
                expired += np.where(ended, batch.rollouts + self._held.rollouts, 0)
                batch, self._held = (part.where(~ended[:, None]) for part in (batch, self._held))
                wanted = np.maximum(budget.prompts - batch.size, 0)
            chosen, self._held = self.chosen(self._held, wanted)
            prompts = np.concatenate([candidates, chosen.prompts], axis=1)
            if not (prompts >= 0).any():
                break
            counts = np.where(np.arange(prompts.shape[1]) < candidates.shape[1], screening, continuing)
            outcomes = yield Request(prompts, counts * (prompts >= 0))
            screened, continued = _split(outcomes, candidates.shape[1])
            batch += chosen.grown(continued)
            informative = self.informative(screened) & (screened.counts > 0)
            self._held += Buffer.of(screened, informative, self._step)
            pilots += np.where(informative, 0, screened.counts).sum(axis=1)
            stream.retire(np.where(self.solved(screened), candidates, -1))
        kept = self.unexpired(self._held)
        expired += self._held.rollouts - kept.rollouts
        self._held = kept
        self._step += 1
        batch, self._complete = batch.split(np.full(stream.replicates, budget.prompts))
        return batch.groups(budget.prompts, {"pilots": pilots, "expired": expired})

    def _draw(self, stream: PromptStream, count: int, where: BoolArray) -> tuple[IntArray, BoolArray]:
        """Draw candidates, and say in which replicates (R,) this ended an epoch of more than one round.

        An epoch of a single round ends with nothing chosen from it; if that emptied the buffer, a pool
        below two rounds would never be trained on.
        """
        epoch = stream.epoch.copy()
        candidates = stream.draw(count, where)
        turned = stream.epoch > epoch
        ended = turned & (self._rounds > 1)
        self._rounds = np.where(turned, 0, self._rounds) + where
        return candidates, ended

    def holding(self) -> Outcomes:
        """The rollouts of the candidates and of the complete groups that wait."""
        return (self._held + self._complete).outcomes

    def state_dict(self) -> State:
        """The buffer, complete groups that wait, the number of steps, and the rounds of this epoch (R,)."""
        return {
            "held": self._held.entries,
            "complete": self._complete.entries,
            "step": np.array(self._step),
            "rounds": self._rounds.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the buffer, the groups that wait, the number of steps, and the rounds of this epoch."""
        self._held, self._complete = Buffer(*state["held"]), Buffer(*state["complete"])
        self._step = int(state["step"])
        self._rounds = state["rounds"].copy()


def _split(outcomes: Outcomes, place: int) -> tuple[Outcomes, Outcomes]:
    """Split outcomes (R, B) into the first `place` columns and the others."""
    return outcomes[:, :place], outcomes[:, place:]
