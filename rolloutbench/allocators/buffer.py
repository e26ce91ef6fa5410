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
        """A buffer of R replicates that holds no groups."""
        return cls(*np.zeros((4, replicates, 0), dtype=np.int64))

    @classmethod
    def of(cls, outcomes: Outcomes, keep: BoolArray, step: int = 0) -> Buffer:
        """A buffer with those outcomes (R, B) that are to be kept."""
        steps = np.full_like(outcomes.prompts, step)
        return cls(outcomes.prompts, outcomes.counts, outcomes.successes, steps).where(keep)

    @property
    def outcomes(self) -> Outcomes:
        """The groups as outcomes (R, W) of their rollouts."""
        return Outcomes(self.prompts, self.counts, self.successes)

    @property
    def entries(self) -> IntArray:
        """All four arrays as one (4, R, W), to be saved; `Buffer(*entries)` is the way back."""
        return np.stack([self.prompts, self.counts, self.successes, self.steps])

    @property
    def filled(self) -> BoolArray:
        """Which places (R, W) hold a group."""
        return self.prompts >= 0

    @property
    def size(self) -> IntArray:
        """Number of groups that each replicate holds (R,)."""
        size: IntArray = self.filled.sum(axis=1)
        return size

    @property
    def rollouts(self) -> IntArray:
        """Number of rollouts that each replicate holds (R,)."""
        rollouts: IntArray = self.counts.sum(axis=1)
        return rollouts

    def __add__(self, other: Buffer) -> Buffer:
        """Join two buffers: the groups of this one, then those of the other."""
        both = Buffer(*np.concatenate([self.entries, other.entries], axis=2))
        return other if self.prompts.shape[1] == 0 else both.where(both.filled)

    def where(self, keep: BoolArray) -> Buffer:
        """Keep only the groups in `keep` (R, W)."""
        keep = keep & self.filled
        kept = keep.sum(axis=1)
        inside = np.arange(kept.max(initial=0)) < kept[:, None]
        entries = np.zeros((4, *inside.shape), dtype=np.int64)
        entries[0] = -1
        # Both masks are read row by row, and have as many places in each row.
        entries[:, inside] = self.entries[:, keep]
        return Buffer(*entries)

    def ordered(self, *keys: IntArray | FloatArray) -> Buffer:
        """Groups sorted by `keys` (R, W), the least first; later keys decide ties of earlier ones."""
        order = np.lexsort((*reversed(keys), ~self.filled), axis=1)
        return Buffer(*np.take_along_axis(self.entries, order[None], axis=2))

    def split(self, count: IntArray) -> tuple[Buffer, Buffer]:
        """Split off the first `count` (R,) groups of each replicate: those, and the rest."""
        first = np.arange(self.prompts.shape[1]) < count[:, None]
        return self.where(first), self.where(~first)

    def grown(self, outcomes: Outcomes) -> Buffer:
        """Groups with the further rollouts (R, W) that their prompts got."""
        counts, successes = self.counts + outcomes.counts, self.successes + outcomes.successes
        return Buffer(self.prompts, counts, successes, self.steps)

    def groups(self, width: int, discarded: Mapping[str, IntArray]) -> Groups:
        """All held groups as `Groups` to train on (R, width), with weight 1."""
        missing = ((0, 0), (0, width - self.prompts.shape[1]))
        prompts = np.pad(self.prompts, missing, constant_values=-1)
        successes = np.pad(self.successes, missing)
        failures = np.pad(self.counts, missing) - successes
        return Groups(prompts, successes, failures, np.ones(prompts.shape), discarded=discarded)
