"""Concrete rollouts behind the counts: which ones a group's kept successes and failures are.

An allocator says how many successes and failures of a prompt it keeps, never which. The rule: of each
reward the newest first, and within a step in the order in which they were sampled. Rollouts of one
prompt and reward are exchangeable, so any rule that does not look at them is fair; the newest are those
that an allocator without a buffer means.

Every rollout has a key, counted up from 0. What lies behind it (tokens, a text, a name in a store) is its
owner's business.
"""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import BoolArray, Groups, IntArray, Outcomes, State

PROMPT, SUCCESS, STEP, KEY = range(4)
"""What the columns of a table of rollouts are: pool prompt, 0 or 1, step of origin, key."""


class Held:
    """Rollouts that no update has used yet, and successes that may be used again."""

    def __init__(self, reusable: int) -> None:
        """Begin without rollouts; `reusable` of a prompt's newest successes are kept for reuse."""
        self._reusable = reusable
        self._waiting, self._sampled, self._archive = (np.zeros((0, 4), dtype=np.int64) for _ in range(3))
        self._next = 0

    @property
    def keys(self) -> IntArray:
        """The keys, ascending, of all rollouts that may still be trained on."""
        return np.union1d(self._waiting[:, KEY], self._archive[:, KEY])

    def add(self, prompts: IntArray, successes: BoolArray, step: int) -> IntArray:
        """Add rollouts (N,) that were sampled in this step, in their order; returns their keys (N,)."""
        keys = self._next + np.arange(len(prompts))
        new = np.stack([prompts, successes.astype(np.int64), np.full(len(keys), step), keys], axis=1)
        self._waiting, self._sampled = (np.concatenate([old, new]) for old in (self._waiting, self._sampled))
        self._next += len(keys)
        return keys

    def take(self, groups: Groups) -> tuple[IntArray, IntArray]:
        """Take the kept rollouts of `groups` (1, B): a table (N, 4) of them, and the column (N,) of each.

        Successes stand first, and within a reward prompts in order. What is taken waits no longer. Raises
        ValueError where they are not there: an allocator gave them up in an earlier step.
        """
        prompts = groups.prompts[0]
        taken = self._newest(prompts, groups.successes[0], groups.failures[0])
        found, columns = self._waiting[taken], []
        for kept in (groups.successes[0], groups.failures[0]):
            order = np.argsort(prompts, kind="stable")
            columns.append(np.repeat(order, kept[order]))
        column = np.concatenate(columns)
        success = np.arange(len(column)) < len(columns[0])
        if not np.array_equal(found[:, [PROMPT, SUCCESS]], np.stack([prompts[column], success], axis=1)):
            raise ValueError("keeps rollouts that it gave up in an earlier step")
        self._waiting = np.delete(self._waiting, taken, axis=0)
        return found, column

    def _newest(self, prompts: IntArray, successes: IntArray, failures: IntArray) -> IntArray:
        """Places of waiting rollouts: of each prompt and reward the newest, at most as many as are named.

        `successes` and `failures` (B,) of `prompts` (B,), of which -1 names none. Successes stand first, and
        within a reward prompts in order.
        """
        waiting, there = self._waiting, prompts >= 0
        size = 1 + max(int(prompts.max(initial=0)), int(waiting[:, PROMPT].max(initial=0)))
        codes = np.concatenate([prompts[there], prompts[there] + size])
        most = np.bincount(codes, np.concatenate([successes[there], failures[there]]), 2 * size)
        here = waiting[:, PROMPT] + size * (1 - waiting[:, SUCCESS])
        order = np.lexsort((waiting[:, KEY], -waiting[:, STEP], here))
        newest: IntArray = order[_rank(here[order]) < most[here[order]]]
        return newest

    def reused(self, groups: Groups, step: int) -> tuple[IntArray, IntArray]:
        """A table (N, 4) of stored successes that join `groups` at `step`, and the column (N,) of each."""
        if groups.reused is None:
            return self._archive[:0], np.zeros(0, np.int64)
        counts = groups.reused.counts[0]
        columns = np.repeat(np.arange(len(counts)), counts)
        wanted = np.stack([groups.prompts[0], step - groups.reused.age[0]], axis=1)[columns]
        rank = np.arange(len(columns)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = []
        for target, place in zip(wanted, rank, strict=True):  # a handful of prompts a step
            matching = np.flatnonzero((self._archive[:, [PROMPT, STEP]] == target).all(axis=1))
            if len(matching) <= place:
                raise ValueError(f"reuses a success of prompt {target[0]} that is stored no longer")
            rows.append(matching[place])
        return self._archive[np.array(rows, dtype=np.int64)], columns

    def end_step(self, held: int, holding: Outcomes | None = None) -> None:
        """Store the step's successes, the newest first; forget what can never be kept any more.

        `held`: rollouts that the ledger still counts as held. Where there are none, all that waits was
        given up. `holding` (1, W): how many the allocator says it may still keep, where it can say.
        """
        if self._reusable:
            newest = self._sampled[self._sampled[:, SUCCESS] == 1][::-1]
            archive = np.concatenate([newest, self._archive])
            archive = archive[np.argsort(archive[:, PROMPT], kind="stable")]
            self._archive = archive[_rank(archive[:, PROMPT]) < self._reusable]
        self._sampled = self._sampled[:0]
        if held == 0:
            self._waiting = self._waiting[:0]
        elif holding is not None:
            failures = holding.counts[0] - holding.successes[0]
            still = self._newest(holding.prompts[0], holding.successes[0], failures)
            self._waiting = self._waiting[np.sort(still)]

    def state_dict(self) -> State:
        """What is held and stored between two steps, as tables of prompt, success, step and key."""
        return {"waiting": self._waiting, "archive": self._archive, "next": self._next}

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken."""
        self._waiting, self._archive, self._next = state["waiting"], state["archive"], int(state["next"])


def _rank(values: IntArray) -> IntArray:
    """Place of each value among its equals, which stand side by side."""
    starts = np.flatnonzero(np.diff(values, prepend=-2))
    sizes = np.diff(np.append(starts, len(values)))
    return np.arange(len(values)) - np.repeat(starts, sizes)
