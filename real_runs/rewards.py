"""What a verifier's raw rewards are worth: a weighted sum for estimators, and whether a rollout succeeded.

A verifier gives one reward or several with names, each in [0, 1]. Without further word an estimator sees 1
for a success and 0 otherwise, and the task says what a success is. With weights it sees their weighted sum;
with a threshold, or the name of a reward, the rule of success is that of `rolloutbench.coach`.

The length penalty is DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): of a response of y tokens,
where L is the most that there may be and b the buffer before it, the reward falls by

    0 for y <= L - b,    (y - (L - b)) / b up to y = L,

times `overlong_penalty`. Their released code (verl, `DAPORewardManager`) does the same with
`overlong_buffer.penalty_factor`. It is no part of the verdict of success.
"""

from __future__ import annotations

import hashlib
from dataclasses import field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import Task
from rolloutbench import rewards
from rolloutbench.protocol import FloatArray, InputError, IntArray, NoVerdict
from rolloutbench.registry import PARAMETERS, nearest
from rolloutbench.rewards import Judged, judge

Finite = Annotated[float, Field(gt=-1e6, lt=1e6)]
HALF = 0.5
"""Threshold of success where none is given, as of a coach."""


@dataclass(config=PARAMETERS, frozen=True)
class Rewards:
    """How raw rewards become what estimators see, and what allocators see.

    `weights`: names and weights of the rewards in the sum that estimators see; none: 1 for a success.
    `success`: name of the reward that says whether a rollout succeeded, and `threshold`: it did where that is
    larger, or the sum where there is no name; the task's own rule where neither is given. `overlong_buffer`:
    tokens before the longest response in which the reward falls, by `overlong_penalty` at the end. `rule`:
    hash of the code that judges.
    """

    weights: tuple[tuple[str, Finite], ...] = ()
    success: str | None = None
    threshold: Finite | None = None
    overlong_buffer: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    overlong_penalty: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    rule: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Fill in the hash of the code that judges."""
        object.__setattr__(self, "rule", hashlib.sha256(Path(rewards.__file__).read_bytes()).hexdigest()[:16])

    @property
    def raw(self) -> bool:
        """Whether estimators may see other rewards than 1 for a success and 0 otherwise."""
        return bool(self.weights or self.overlong_buffer)

    @property
    def told(self) -> str:
        """What is different from the task's own rule, in a few words for captions."""
        total = " + ".join(f"{weight:g} {name}" for name, weight in self.weights)
        above = f"{self.success or 'the reward'} above {self._threshold:g}"
        parts = [
            f"rewards {total}" * bool(self.weights),
            f"success {above}" * (self.success is not None or self.threshold is not None),
            f"{self.overlong_penalty:g} off over the last {self.overlong_buffer} tokens"
            * bool(self.overlong_buffer),
        ]
        return ", ".join(part for part in parts if part)

    @property
    def _threshold(self) -> float:
        return HALF if self.threshold is None else self.threshold

    def check(self, task: Task) -> None:
        """Raise InputError where the task has no rewards of these names, or no room for the buffer."""
        for name in (*dict(self.weights), *([] if self.success is None else [self.success])):
            if name not in task.reward_names:
                raise InputError(f"no reward '{name}': {nearest(name, task.reward_names)}")
        if self.overlong_buffer > task.max_new_tokens:
            raise InputError(
                f"overlong_buffer={self.overlong_buffer}: at most the {task.max_new_tokens} tokens of the "
                "longest response are expected"
            )

    def judge(self, task: Task, raw: FloatArray, lengths: IntArray, no_verdict: NoVerdict = "zero") -> Judged:
        """Judge N rollouts of `lengths` (N,) tokens by their raw rewards, (N,) or a column for each name."""
        columns = raw[None] if raw.ndim == 1 else raw.T
        if len(columns) != len(task.reward_names):
            raise ValueError(
                f"the verifier gives {len(columns)} rewards of a response, and the task names "
                f"{', '.join(task.reward_names)}"
            )
        named = dict(zip(task.reward_names, columns, strict=True))
        first = named[task.reward_names[0]]
        total = sum((weight * named[name] for name, weight in self.weights), np.zeros(len(raw)))
        if self.success is not None:
            verdicts = named[self.success]
        elif self.threshold is not None:
            verdicts = total if self.weights else first
        else:
            verdicts = np.where(np.isnan(first), np.nan, first >= task.threshold)
        if not self.weights:
            total = np.where(np.isnan(verdicts), np.nan, verdicts > self._threshold)
        return judge(total - self._penalty(task, lengths), verdicts, self._threshold, no_verdict)

    def _penalty(self, task: Task, lengths: IntArray) -> FloatArray:
        """What the reward falls by (N,) for the length of the responses."""
        beyond = np.maximum(lengths - (task.max_new_tokens - self.overlong_buffer), 0)
        penalty: FloatArray = self.overlong_penalty * beyond / max(self.overlong_buffer, 1)
        return penalty
