"""Groups side by side, waiting: what methods that select prompts hold between rounds and steps.

A buffer is a value: every operation returns a new one, whose groups stand at the front of each
replicate's row in the order they had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rolloutbench.protocol import BoolArray, FloatArray, Groups, IntArray, Outcomes


@dataclass(frozen=True)
class Buffer:
    """Groups (R, W): `prompts` (-1 where there is none), `counts`, `successes`, and the `steps` of origin."""

    prompts: IntArray
    counts: IntArray
    successes: IntArray
    steps: IntArray

    @classmethod
    def empty(cls, replicates: int) -> Buffer:
        """Nothing held."""
        return cls(*np.zeros((4, replicates, 0), dtype=np.int64))

    @classmethod
    def of(cls, outcomes: Outcomes, keep: BoolArray, step: int = 0) -> Buffer:
        """The outcomes (R, B) that are to be kept."""
        steps = np.full_like(outcomes.prompts, step)
        return cls(outcomes.prompts, outcomes.counts, outcomes.successes, steps).where(keep)

    @property
    def entries(self) -> IntArray:
        """All four as one array (4, R, W), to be saved; `Buffer(*entries)` is the way back."""
        return np.stack([self.prompts, self.counts, self.successes, self.steps])

    @property
    def filled(self) -> BoolArray:
        """Where there is a group (R, W)."""
        return self.prompts >= 0

    @property
    def size(self) -> IntArray:
        """Groups held (R,)."""
        size: IntArray = self.filled.sum(axis=1)
        return size

    @property
    def rollouts(self) -> IntArray:
        """Rollouts held (R,)."""
        rollouts: IntArray = self.counts.sum(axis=1)
        return rollouts

    def __add__(self, other: Buffer) -> Buffer:
        """This one's groups, then the other's."""
        both = Buffer(*np.concatenate([self.entries, other.entries], axis=2))
        return both.where(both.filled)

    def where(self, keep: BoolArray) -> Buffer:
        """Only the groups in `keep` (R, W)."""
        keep = keep & self.filled
        front = np.argsort(~keep, axis=1, kind="stable")
        kept = keep.sum(axis=1)
        front = front[:, : kept.max(initial=0)]
        entries = np.take_along_axis(self.entries, front[None], axis=2)
        inside = np.arange(front.shape[1]) < kept[:, None]
        return Buffer(*np.where(inside, entries, np.array([-1, 0, 0, 0])[:, None, None]))

    def ordered(self, *keys: IntArray | FloatArray) -> Buffer:
        """Sorted by `keys` (R, W), the least first; later keys decide ties of earlier ones."""
        order = np.lexsort((*reversed(keys), ~self.filled), axis=1)
        return Buffer(*np.take_along_axis(self.entries, order[None], axis=2))

    def split(self, count: IntArray) -> tuple[Buffer, Buffer]:
        """The first `count` (R,) groups of each replicate, and the rest."""
        first = np.arange(self.prompts.shape[1]) < count[:, None]
        return self.where(first), self.where(~first)

    def grown(self, outcomes: Outcomes) -> Buffer:
        """Each group with the further rollouts (R, W) that its prompt got."""
        counts, successes = self.counts + outcomes.counts, self.successes + outcomes.successes
        return Buffer(self.prompts, counts, successes, self.steps)

    def groups(self, width: int, discarded: Mapping[str, IntArray]) -> Groups:
        """All held groups as what is trained on (R, width), with weight 1."""
        missing = ((0, 0), (0, width - self.prompts.shape[1]))
        prompts = np.pad(self.prompts, missing, constant_values=-1)
        successes = np.pad(self.successes, missing)
        failures = np.pad(self.counts, missing) - successes
        return Groups(prompts, successes, failures, np.ones(prompts.shape), discarded=discarded)
