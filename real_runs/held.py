"""Concrete rollouts behind the counts: which ones a group's kept successes and failures are.

An allocator says how many successes and failures of a prompt it keeps, never which. The rule: of each
reward the newest first, and within a step in the order in which they were sampled. Rollouts of one
prompt and reward are exchangeable, so any rule that does not look at them is fair; the newest are those
that an allocator without a buffer means.
"""

from __future__ import annotations

import numpy as np

from real_runs.rollouts import Rollouts
from rolloutbench.protocol import Groups, IntArray


class Held:
    """Rollouts that no update has used yet, and successes that may be used again."""

    def __init__(self, reusable: int) -> None:
        """`reusable`: how many of a prompt's newest successes are kept for reuse."""
        self.waiting = Rollouts.none()
        self.archive = Rollouts.none()
        self._reusable = reusable

    def add(self, rollouts: Rollouts) -> None:
        """These were sampled."""
        self.waiting = Rollouts.joined([self.waiting, rollouts])

    def take(self, groups: Groups) -> tuple[Rollouts, IntArray]:
        """The kept rollouts of `groups` (1, B), and the column (N,) of each. They wait no longer.

        Raises ValueError where they are not there: an allocator gave them up in an earlier step.
        """
        waiting = self.waiting
        rows, columns = [], []
        for reward, kept in ((1, groups.successes[0]), (0, groups.failures[0])):
            prompts = np.where(kept > 0, groups.prompts[0], -1)
            order = np.argsort(prompts, kind="stable")
            columns.append(np.repeat(order, kept[order]))
            wanted = prompts[columns[-1]]
            here = np.flatnonzero((waiting.rewards == reward) & np.isin(waiting.prompts, wanted))
            here = here[np.lexsort((here, -waiting.steps[here], waiting.prompts[here]))]
            rows.append(here[_rank(waiting.prompts[here]) < _count(wanted, waiting.prompts[here])])
            if not np.array_equal(waiting.prompts[rows[-1]], wanted):
                raise ValueError("keeps rollouts that it gave up in an earlier step")
        taken = np.concatenate(rows)
        found = waiting[taken]
        left = np.ones(len(waiting), dtype=bool)
        left[taken] = False
        self.waiting = waiting[left]
        return found, np.concatenate(columns)

    def reused(self, groups: Groups, step: int) -> tuple[Rollouts, IntArray]:
        """The stored successes that join `groups` at `step`, and the column (N,) of each."""
        if groups.reused is None:
            return Rollouts.none(), np.zeros(0, np.int64)
        counts = groups.reused.counts[0]
        columns = np.repeat(np.arange(len(counts)), counts)
        wanted = np.stack([groups.prompts[0], step - groups.reused.age[0]])[:, columns]
        stored = np.stack([self.archive.prompts, self.archive.steps])
        rank = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = []
        for target, place in zip(wanted.T, rank, strict=True):  # a handful of prompts a step
            matching = np.flatnonzero((stored == target[:, None]).all(axis=0))
            if len(matching) <= place:
                raise ValueError(f"reuses a success of prompt {target[0]} that is stored no longer")
            rows.append(matching[place])
        return self.archive[np.array(rows, dtype=np.int64)], columns

    def end_step(self, sampled: Rollouts, held: int) -> None:
        """Store the step's successes, the newest first; forget what can never be kept any more.

        `held`: rollouts that the ledger still counts as held. Where there are none, all that waits was
        given up.
        """
        if self._reusable:
            newest = Rollouts.joined([sampled[np.flatnonzero(sampled.rewards)[::-1]], self.archive])
            newest = newest[np.argsort(newest.prompts, kind="stable")]
            self.archive = newest[_rank(newest.prompts) < self._reusable]
        if held == 0:
            self.waiting = Rollouts.none()


def _rank(values: IntArray) -> IntArray:
    """The place of each among its equals, which stand side by side."""
    starts = np.flatnonzero(np.diff(values, prepend=-2))
    sizes = np.diff(np.append(starts, len(values)))
    return np.arange(len(values)) - np.repeat(starts, sizes)


def _count(values: IntArray, of: IntArray) -> IntArray:
    """How often each of `of` stands in `values`."""
    counts = np.bincount(values, minlength=int(of.max(initial=0)) + 1)
    found: IntArray = counts[of]
    return found
