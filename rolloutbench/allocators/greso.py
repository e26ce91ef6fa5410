"""GRESO: skip prompts whose rewards were all equal at their last visits (arXiv 2506.02177; code
Infini-AI-Lab/GRESO@b277843).

z counts the visits in a row, up to the last one, at which a prompt was easy, or hard. A drawn prompt is
rolled out with probability max(p_easy^z, 0.01), and likewise for hard; the others are skipped, unpaid.
Sampling batches are rolled out, and groups with equal rewards dropped, until the training batch is full.
The next sampling batch is as large as needed: missing / (1 - zero-variance share) * 1.25. After each step
of epoch 1 or later p_easy goes down by 0.01 if the share of easy prompts is at least a third of the
target, else up; p_hard likewise with two thirds; both stay in [.05, .95].

From the code: a run is easy at mean rewards of .98 and more, hard at .11 and less, which at 16 rollouts
takes 1 success for none; the paper speaks of equal rewards. Both p start at 0.5; target .25; sampling
batches of 384, or 64 at least, for a training batch of 256, here as shares of B; 8 rollouts a prompt.
Not found, so chosen here: the zero-variance share is that of the step so far, and the shares that
tune p are of all prompts rolled out in the step. A step ends after `max_rounds` sampling batches, and
a sampling batch after `max_draws` draws, full or not, so that a pool of hopeless prompts ends too.

Skipping is not corrected for in the gradient. Prompts accepted beyond a sampling batch wait in line.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.buffer import Buffer
from rolloutbench.protocol import (
    Allocator,
    BoolArray,
    Budget,
    FloatArray,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(config=PARAMETERS)
class GRESO(Allocator):
    """Skips prompts by chance after visits with equal rewards; fills the batch with effective groups."""

    hard_budget: ClassVar[bool] = False

    p_easy: Probability = 0.5
    p_hard: Probability = 0.5
    easy_from: Probability = 0.98
    hard_to: Probability = 0.11
    target: Probability = 0.25
    step_size: Probability = 0.01
    least_chance: Probability = 0.01
    oversample: Annotated[float, Field(ge=1)] = 1.5
    least_batch: Annotated[float, Field(gt=0, le=1)] = 0.25
    headroom: Annotated[float, Field(ge=1)] = 1.25
    max_rounds: Annotated[int, Field(ge=1)] = 10
    max_draws: Annotated[int, Field(ge=1)] = 10

    def begin(self, setting: Setting) -> None:
        """Start afresh: no streak, nobody in line."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._easy_streak, self._hard_streak = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        self._p_easy = np.full(setting.replicates, self.p_easy)
        self._p_hard = np.full(setting.replicates, self.p_hard)
        self._line = Buffer.empty(setting.replicates)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Sampling batches until the training batch is full."""
        usual = int(self.oversample * budget.prompts)
        least = max(int(self.least_batch * budget.prompts), 1)
        batch = Buffer.empty(stream.replicates)
        size = np.full(stream.replicates, usual)
        rolled, easy, hard, filtered = np.zeros((4, stream.replicates), dtype=np.int64)
        for _ in range(self.max_rounds):
            missing = budget.prompts - batch.size
            if not (missing > 0).any():
                break
            prompts = self._collect(stream, np.where(missing > 0, size, 0), usual)
            if not (prompts >= 0).any():
                break
            outcomes = yield Request(prompts, int(budget.group_size) * (prompts >= 0))
            mixed = (outcomes.successes > 0) & (outcomes.successes < outcomes.counts)
            batch += Buffer.of(outcomes, mixed)
            filtered += np.where(mixed, 0, outcomes.counts).sum(axis=1)
            was_easy, was_hard = self._classes(outcomes)
            rolled += (outcomes.counts > 0).sum(axis=1)
            easy, hard = easy + was_easy.sum(axis=1), hard + was_hard.sum(axis=1)
            effective = np.maximum(batch.size / np.maximum(rolled, 1), 1e-9)
            needed = np.ceil(self.headroom * (budget.prompts - batch.size) / effective)
            size = np.clip(needed, least, usual).astype(np.int64)
        tuned = (stream.epoch > 0) & (rolled > 0)
        self._p_easy = self._tuned(self._p_easy, easy >= rolled * self.target / 3, tuned)
        self._p_hard = self._tuned(self._p_hard, hard >= rolled * self.target * 2 / 3, tuned)
        trained, surplus = batch.split(np.full(stream.replicates, budget.prompts))
        return trained.groups(budget.prompts, {"filtered": filtered, "surplus": surplus.rollouts})

    def _collect(self, stream: PromptStream, sizes: IntArray, usual: int) -> IntArray:
        """The next `sizes` (R,) prompts that are not skipped."""
        for _ in range(self.max_draws):
            short = self._line.size < sizes
            if not short.any():
                break
            drawn = stream.draw(usual, short)
            accepted = self.setting.rng.random(drawn.shape) < self.chances(drawn)
            self._line += Buffer.of(Outcomes.none(drawn), accepted)
        taken, self._line = self._line.split(sizes)
        return taken.prompts

    def chances(self, prompts: IntArray) -> FloatArray:
        """Probability (R, B) that a drawn prompt is rolled out."""
        rows = np.arange(len(prompts))[:, None]
        easy = self._p_easy[:, None] ** self._easy_streak[rows, prompts]
        hard = self._p_hard[:, None] ** self._hard_streak[rows, prompts]
        chances: FloatArray = np.maximum(easy, self.least_chance) * np.maximum(hard, self.least_chance)
        return chances

    def _classes(self, outcomes: Outcomes) -> tuple[BoolArray, BoolArray]:
        """Which prompts (R, B) were easy, and which hard."""
        k, n = outcomes.successes, outcomes.counts
        return (n > 0) & (k >= self.easy_from * n), (n > 0) & (k <= self.hard_to * n)

    def _tuned(self, p: FloatArray, too_many: BoolArray, where: BoolArray) -> FloatArray:
        moved = np.clip(p + np.where(too_many, -self.step_size, self.step_size), 0.05, 0.95)
        return np.where(where, moved, p)

    def observe(self, outcomes: Outcomes) -> None:
        """One more visit of each prompt that got rollouts: its streak goes on, or ends."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        for streak, members in zip(
            (self._easy_streak, self._hard_streak), self._classes(outcomes), strict=True
        ):
            streak[visited] = np.where(members[rows, columns], streak[visited] + 1, 0)

    def state_dict(self) -> State:
        """Streaks (R, Q), both p (R,), and the prompts in line."""
        return {
            "easy_streak": self._easy_streak.copy(),
            "hard_streak": self._hard_streak.copy(),
            "p_easy": self._p_easy.copy(),
            "p_hard": self._p_hard.copy(),
            "line": self._line.entries,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        self._easy_streak, self._hard_streak = state["easy_streak"].copy(), state["hard_streak"].copy()
        self._p_easy, self._p_hard = state["p_easy"].copy(), state["p_hard"].copy()
        self._line = Buffer(*state["line"])
