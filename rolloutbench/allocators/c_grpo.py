"""C-GRPO: group sizes by conformal prediction (OpenReview TrdqzzvFCs; package pypi/trl-cgrpo@0.2.0).

    calibrate, in the first step and every 50 steps, on held-out prompts, k_max rollouts each:
        score of a prompt after k rollouts: 1 - successes / k          (`pass_rate`; 1 without a success)
        delta = clip(1 - solve rate + .05, .05, .95), the solve rate being the share solved within k_max
        q_k = the ceil((n + 1)(1 - delta))-th smallest of the n scores after k rollouts; 1 where n = 0
    step: every prompt goes through k = 2, 4, 8, 16, 32 and stops at the first k at which it has a success and
          a score of at most q_k

Its calibration is not in the savings that it reports; here it is billed and given up. Of its three scores
this is the one for counts: `first_success` needs the order of the rewards, and APS, its default, the answers
themselves. The greatest k is four times the group size by default, its 32 for groups of 8. Held out are
`calibration` prompts, at most a quarter of the pool, which are never trained on; how many its authors
take is not said.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

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
    Provenance,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class CGRPO(Allocator):
    """Doubles a prompt's group until its success rate reaches a threshold calibrated on held-out prompts."""

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("calibration",)
    goal: ClassVar[str] = "no more than is needed"
    provenance: ClassVar[Provenance | None] = Provenance(
        code="pypi/trl-cgrpo@0.2.0",
        file="trl_cgrpo/conformal.py, trl_cgrpo/cgrpo_trainer.py",
        licence="MIT",
        note="the score for counts; calibration is billed",
    )

    calibration: Annotated[int, Field(ge=1)] = 64
    every: Annotated[int, Field(ge=1)] = 50
    most: Annotated[int, Field(ge=2, le=MOST_ROLLOUTS)] | None = None
    margin: Annotated[float, Field(ge=0, le=1)] = 0.05

    def begin(self, setting: Setting) -> None:
        """Start afresh: nothing is held out or calibrated."""
        self.setting = setting
        self._step = 0
        self._held_out = np.full((setting.replicates, 0), -1)
        self._thresholds = np.ones((setting.replicates, 0))

    def sizes(self, budget: Budget) -> IntArray:
        """The budgets k of a prompt: powers of two from 2 to the greatest."""
        most = self.most or max(int(4 * budget.group_size), 2)
        return 2 ** np.arange(1, int(np.log2(most)) + 1)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Calibrate if it is time to, then double the groups of the prompts that have not stopped."""
        sizes = self.sizes(budget)
        spent = np.zeros(stream.replicates, dtype=np.int64)
        if self._step == 0:
            self._held_out = stream.draw(min(self.calibration, stream.pool_size // 4))
            stream.retire(self._held_out)
        if self._step % self.every == 0:
            self._thresholds = np.ones((stream.replicates, len(sizes)))
            if (self._held_out >= 0).any():
                spent = yield from self._calibrate(sizes)
        self._step += 1
        prompts = stream.draw(budget.prompts)
        active = prompts >= 0
        seen = Outcomes.none(prompts)
        for i, more in enumerate(np.diff(sizes, prepend=0)):
            if not active.any():
                break
            seen += yield Request(prompts, more * active)
            active = active & ~self.stops(seen, self._thresholds[:, [i]])
        return replace(Groups.all_of(seen), discarded={"calibration": spent})

    def _calibrate(self, sizes: IntArray) -> Generator[Request, Outcomes, IntArray]:
        """Roll the held-out prompts out to the greatest size; learn thresholds; returns the cost (R,)."""
        present = self._held_out >= 0
        seen, scores = Outcomes.none(self._held_out), []
        for more in np.diff(sizes, prepend=0):
            seen += yield Request(self._held_out, more * present)
            scores.append(self.scores(seen))
        self._thresholds = self.thresholds(np.stack(scores, axis=-1), present, self.margin)
        cost: IntArray = seen.counts.sum(axis=1)
        return cost

    @staticmethod
    def scores(seen: Outcomes) -> FloatArray:
        """Scores (R, B): one minus the success rate, 1 where no rollout came."""
        scores: FloatArray = 1 - seen.successes / np.maximum(seen.counts, 1)
        return scores

    @classmethod
    def stops(cls, seen: Outcomes, thresholds: FloatArray) -> BoolArray:
        """Which prompts (R, B) have a success and a score of at most the threshold (R, 1)."""
        return (seen.successes > 0) & (cls.scores(seen) <= thresholds)

    @staticmethod
    def thresholds(scores: FloatArray, present: BoolArray, margin: float) -> FloatArray:
        """Thresholds (R, sizes) from scores (R, n, sizes) of held-out prompts, those `present` (R, n)."""
        n = present.sum(axis=1)
        solved = ((scores[..., -1] < 1 - 1e-9) & present).sum(axis=1) / np.maximum(n, 1)
        delta = np.clip(1 - solved + margin, 0.05, 0.95)
        place = np.clip(np.ceil((n + 1) * (1 - delta)).astype(np.int64), 1, np.maximum(n, 1)) - 1
        ordered = np.sort(np.where(present[..., None], scores, np.inf), axis=1)
        found = np.take_along_axis(ordered, place[:, None, None], axis=1)[:, 0]
        return np.where(n[:, None] > 0, found, 1.0)

    def state_dict(self) -> State:
        """The held-out prompts (R, n), the thresholds (R, sizes), and the number of the step."""
        return {
            "held_out": self._held_out.copy(),
            "thresholds": self._thresholds.copy(),
            "step": np.array(self._step),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the held-out prompts, the thresholds, and the number of the step."""
        self._held_out, self._thresholds = state["held_out"].copy(), state["thresholds"].copy()
        self._step = int(state["step"])
