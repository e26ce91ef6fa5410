"""GRESO: skip prompts whose rewards were all equal at their last visits (arXiv 2506.02177; code
Infini-AI-Lab/GRESO@b277843, verl/trainer/ttis/presampling_selector.py, verl/trainer/ppo/ray_trainer.py,
verl/trainer/ppo/metric_utils.py and verl/utils/reward_score/latex_math.py).

z counts the visits in a row, up to the last one, at which a prompt was easy, or hard. A drawn prompt is
rolled out with probability max(p_easy^z, 0.01), and likewise for hard; the others are skipped, unpaid. The
loader hands out small batches until enough prompts are accepted; then *all* that were accepted are rolled
out, and groups with equal rewards dropped. Where the training batch is not full, the next sampling batch is
to have missing / (1 - zero-variance share of the last sampling batch) * 1.25 prompts, cut to a whole
number. If that is no more than the default size, this batch is the last one: training goes on even if the
batch is short. After each step of epoch 1 or later p_easy goes down by 0.01 if the share of prompts that
were always solved is at least a third of the target, else up; p_hard likewise with the share of those never
solved and two thirds; both stay in [.05, .95].

From the code: a visit is easy at mean rewards of .98 and more, hard at .11 and less, where a wrong answer
earns .1: hard is a visit without any success (below 90 rollouts), and easy one without any failure (below
45). The paper speaks of equal rewards. Both p start at 0.5; target .25; a loader's batch of 32, sampling
batches of 384, or 64 at least, for a training batch of 256, here as shares of B; 8 rollouts a prompt.

Different on purpose: shares are of prompts (its metrics count rewards by eight, whatever the group size);
after a sampling batch without any mixed group, where the code divides by zero, the next one has the default
size; a step ends after `max_rounds` sampling batches and a sampling batch after `max_draws` draws, full or
not, so that a pool of hopeless prompts ends too; nothing is rounded to a multiple of the number of GPUs; a
prompt that is met twice in a step, at the turn of an epoch, counts one visit.

Skipping is not corrected for in the gradient.
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
    Provenance,
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
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("filtered", "surplus")
    goal: ClassVar[str] = "both rewards, by last visits"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2506.02177",
        code="Infini-AI-Lab/GRESO@b277843",
        file="verl/trainer/ttis/presampling_selector.py, verl/trainer/ppo/ray_trainer.py, "
        "verl/trainer/ppo/metric_utils.py, verl/utils/reward_score/latex_math.py",
        note="a step has an end in a hopeless pool; shares are of prompts, not of rewards by eight",
    )

    p_easy: Probability = 0.5
    p_hard: Probability = 0.5
    easy_from: Probability = 0.98
    hard_to: Probability = 0.11
    wrong: Annotated[float, Field(ge=0, lt=1)] = 0.1
    target: Probability = 0.25
    step_size: Probability = 0.01
    least_chance: Probability = 0.01
    oversample: Annotated[float, Field(ge=1)] = 1.5
    least_batch: Annotated[float, Field(gt=0, le=1)] = 0.25
    loader_batch: Annotated[float, Field(gt=0, le=1)] = 0.125
    headroom: Annotated[float, Field(ge=1)] = 1.25
    max_rounds: Annotated[int, Field(ge=1)] = 10
    max_draws: Annotated[int, Field(ge=1)] = 100

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt has a streak."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._easy_streak, self._hard_streak = (np.zeros(shape, dtype=np.int64) for _ in range(2))
        self._p_easy = np.full(setting.replicates, self.p_easy)
        self._p_hard = np.full(setting.replicates, self.p_hard)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Generate sampling batches until the training batch is full, or one that was to be enough is in."""
        usual = max(int(self.oversample * budget.prompts), 1)
        least = max(int(self.least_batch * budget.prompts), 1)
        batch = Buffer.empty(stream.replicates)
        size = np.full(stream.replicates, usual)
        last, finished = np.zeros((2, stream.replicates), dtype=bool)
        rolled, solved, failed, filtered = np.zeros((4, stream.replicates), dtype=np.int64)
        for _ in range(self.max_rounds):
            sampling = (batch.size < budget.prompts) & ~finished
            prompts = self._collect(stream, np.where(sampling, size, 0), budget)
            if not (prompts >= 0).any():
                break
            outcomes = yield Request(prompts, int(budget.group_size) * (prompts >= 0))
            k, n = outcomes.successes, outcomes.counts
            mixed = (k > 0) & (k < n)
            batch += Buffer.of(outcomes, mixed)
            filtered += np.where(mixed, 0, n).sum(axis=1)
            came = (n > 0).sum(axis=1)
            rolled += came
            solved += ((n > 0) & (k == n)).sum(axis=1)
            failed += ((n > 0) & (k == 0)).sum(axis=1)
            effective = mixed.sum(axis=1) / np.maximum(came, 1)
            missing = self.headroom * (budget.prompts - batch.size)
            needed = np.divide(missing, effective, out=np.full(missing.shape, np.inf), where=effective > 0)
            finished |= sampling & last
            last = needed < usual + 1  # cut to a whole number it is the usual size at most
            size = np.clip(needed, least, max(usual, least)).astype(np.int64)
        tuned = (stream.epoch > 0) & (rolled > 0)
        self._p_easy = self._tuned(self._p_easy, solved >= rolled * self.target / 3, tuned)
        self._p_hard = self._tuned(self._p_hard, failed >= rolled * self.target * 2 / 3, tuned)
        trained, surplus = batch.split(np.full(stream.replicates, budget.prompts))
        return trained.groups(budget.prompts, {"filtered": filtered, "surplus": surplus.rollouts})

    def _collect(self, stream: PromptStream, sizes: IntArray, budget: Budget) -> IntArray:
        """Draw batches of the loader until at least `sizes` (R,) of their prompts are not skipped."""
        loader = max(int(self.loader_batch * budget.prompts), 1)
        accepted = [np.full((stream.replicates, 0), -1)]
        lacking = sizes.copy()
        for _ in range(self.max_draws):
            if not (lacking > 0).any():
                break
            drawn = stream.draw(loader, lacking > 0)
            kept = (drawn >= 0) & (self.setting.rng.random(drawn.shape) < self.chances(drawn))
            accepted.append(np.where(kept, drawn, -1))
            lacking -= kept.sum(axis=1)
        prompts = np.concatenate(accepted, axis=1)
        return Buffer.of(Outcomes.none(prompts), prompts >= 0).prompts

    def chances(self, prompts: IntArray) -> FloatArray:
        """Probability (R, B) that a drawn prompt is rolled out."""
        rows = np.arange(len(prompts))[:, None]
        easy = self._p_easy[:, None] ** self._easy_streak[rows, prompts]
        hard = self._p_hard[:, None] ** self._hard_streak[rows, prompts]
        chances: FloatArray = np.maximum(easy, self.least_chance) * np.maximum(hard, self.least_chance)
        return chances

    def _classes(self, outcomes: Outcomes) -> tuple[BoolArray, BoolArray]:
        """Which prompts (R, B) were easy, and which hard, by their mean reward."""
        k, n = outcomes.successes, outcomes.counts
        total = k + self.wrong * (n - k) + 1e-9 * n * np.array([1, -1])[:, None, None]
        return (n > 0) & (total[0] >= self.easy_from * n), (n > 0) & (total[1] <= self.hard_to * n)

    def _tuned(self, p: FloatArray, too_many: BoolArray, where: BoolArray) -> FloatArray:
        moved = np.clip(p + np.where(too_many, -self.step_size, self.step_size), 0.05, 0.95)
        return np.where(where, moved, p)

    def observe(self, outcomes: Outcomes) -> None:
        """Count one more visit of each prompt that got rollouts: its streak goes on, or ends."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        for streak, members in zip(
            (self._easy_streak, self._hard_streak), self._classes(outcomes), strict=True
        ):
            streak[visited] = np.where(members[rows, columns], streak[visited] + 1, 0)

    def state_dict(self) -> State:
        """Streaks (R, Q), and both p (R,)."""
        return {
            "easy_streak": self._easy_streak.copy(),
            "hard_streak": self._hard_streak.copy(),
            "p_easy": self._p_easy.copy(),
            "p_hard": self._p_hard.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the streaks and both p."""
        self._easy_streak, self._hard_streak = state["easy_streak"].copy(), state["hard_streak"].copy()
        self._p_easy, self._p_hard = state["p_easy"].copy(), state["p_hard"].copy()
