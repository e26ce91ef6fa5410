"""A pooled baseline: groups of any allocator, centred by a mean over more than the group.

`over=batch`: the mean reward of everything that the step trains on, for every prompt. Easy prompts are pushed
up as a whole and hard ones down; small groups get a baseline with little noise of its own.
`over=prompt`: the mean reward of all rollouts of the prompt that were trained on so far, this step's too.

Advantages are r - baseline, divided by nothing, in place of whatever estimator is chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.baselines import Rebased
from rolloutbench.protocol import Groups, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class PooledBaseline(Rebased):
    """Groups of another allocator, centred by the mean reward of the batch or of the prompt's history."""

    goal: ClassVar[str] = "less noise in the baseline"
    variants: ClassVar[tuple[str, ...]] = ("", "over=prompt")

    over: Literal["batch", "prompt"] = "batch"

    def begin(self, setting: Setting) -> None:
        """Start afresh: nothing has been trained on."""
        super().begin(setting)
        self._counts, self._successes = np.zeros((2, setting.replicates, setting.pool_size), dtype=np.int64)

    def rebased(self, groups: Groups) -> Groups:
        """Centre the groups by the pooled mean; rows without rollouts have none."""
        here = (groups.prompts >= 0) & (groups.counts > 0)
        counts, successes = groups.counts * here, groups.successes * here
        rows, columns = np.nonzero(here)
        visited = rows, groups.prompts[rows, columns]
        self._counts[visited] += counts[rows, columns]
        self._successes[visited] += successes[rows, columns]
        if self.over == "batch":
            n, k = (part.sum(axis=1, keepdims=True) for part in (counts, successes))
        else:
            every = np.arange(len(here))[:, None], groups.prompts
            n, k = self._counts[every], self._successes[every]
        return replace(groups, baseline=np.where(here, k / np.maximum(n, 1), np.nan))

    def state_dict(self) -> State:
        """What `of` remembers, and all rollouts and successes (R, Q) that were trained on."""
        counts, successes = self._counts.copy(), self._successes.copy()
        return {**super().state_dict(), "counts": counts, "successes": successes}

    def load_state_dict(self, state: State) -> None:
        """Restore what `of` remembers, and the rollouts and successes."""
        super().load_state_dict(state)
        self._counts, self._successes = state["counts"].copy(), state["successes"].copy()
