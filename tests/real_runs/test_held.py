"""Which concrete rollouts stand behind the counts: the fast way and an obvious one agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real_runs.held import Held
from real_runs.rollouts import Rollouts
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import (
    Budget,
    Environment,
    Groups,
    Outcomes,
    PromptStream,
    Reuse,
    Setting,
)


def rollouts(prompts, rewards, step, first):
    """Each with its number as its only token."""
    count = len(prompts)
    number = np.arange(first, first + count, dtype=np.int32)[:, None]
    return Rollouts(
        np.array(prompts, dtype=np.int64),
        number,
        np.ones(count, np.int64),
        number.astype(np.float32),
        np.array(rewards, dtype=np.int64),
        np.array(rewards, dtype=float),
        np.full(count, step),
    )


def numbers(of):
    return of.tokens[:, 0].tolist() if len(of) else []


def taken_one_by_one(waiting, groups):
    """(number, column) pairs, and what is left; None where something is not there. `waiting`: dicts."""
    left, taken = list(waiting), []
    for reward, kept in ((1, groups.successes[0]), (0, groups.failures[0])):
        for column, (prompt, count) in enumerate(zip(groups.prompts[0], kept, strict=True)):
            for _ in range(count):
                fitting = [one for one in left if (one["prompt"], one["reward"]) == (prompt, reward)]
                if not fitting:
                    return None
                newest = max(one["step"] for one in fitting)
                one = next(one for one in fitting if one["step"] == newest)
                left.remove(one)
                taken.append((one["number"], column))
    return taken, left


PROMPTS = st.integers(0, 3)
STEP = st.lists(st.tuples(PROMPTS, st.integers(0, 1)), max_size=8)
COLUMNS = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2), st.integers(0, 2)), max_size=5)


def what_is_there(waiting, columns):
    """The columns, none of which asks for more than there is."""
    left, modest = list(waiting), []
    for q, *wanted in columns:
        kept = []
        for reward, count in zip((1, 0), wanted, strict=True):
            fitting = [one for one in left if (one["prompt"], one["reward"]) == (q, reward)][:count]
            left = [one for one in left if one not in fitting]
            kept.append(len(fitting))
        modest.append((q, *kept))
    return modest


@settings(max_examples=80)
@given(st.lists(st.tuples(STEP, COLUMNS), min_size=1, max_size=5), st.integers(0, 20))
def test_take_is_newest_first(steps, greedy):
    """In step `greedy` it is asked for whatever was drawn, which may not be there."""
    held, waiting, number = Held(0), [], 0
    for step, (sampled, columns) in enumerate(steps):
        held.add(rollouts([q for q, _ in sampled], [r for _, r in sampled], step, number))
        for q, r in sampled:
            waiting.append({"prompt": q, "reward": r, "step": step, "number": number})
            number += 1
        if step == greedy:
            columns = [(q, k * (q >= 0), f * (q >= 0)) for q, k, f in columns]
        else:
            columns = what_is_there(waiting, columns)
        prompts, successes, failures = np.array(columns, dtype=np.int64).reshape(-1, 3).T[:, None]
        groups = Groups(prompts, successes, failures, np.ones(prompts.shape))
        expected = taken_one_by_one(waiting, groups)
        if expected is None:
            with pytest.raises(ValueError, match="keeps rollouts that it gave up in an earlier step"):
                held.take(groups)
            return
        taken, waiting = expected
        found, places = held.take(groups)
        assert sorted(zip(numbers(found), places.tolist(), strict=True)) == sorted(taken)
        assert (found.prompts == prompts[0][places]).all()
        assert sorted(numbers(held.waiting)) == sorted(one["number"] for one in waiting)


@settings(max_examples=40)
@given(st.integers(1, 4), st.lists(STEP, min_size=1, max_size=6), st.booleans())
def test_the_archive_has_the_newest_successes(reusable, steps, still_held):
    held, known, number = Held(reusable), {}, 0
    for step, sampled in enumerate(steps):
        new = rollouts([q for q, _ in sampled], [r for _, r in sampled], step, number)
        held.add(new)
        held.end_step(new, int(still_held))
        for q, r in sampled:
            known[q] = ([number] if r else []) + known.get(q, [])
            number += 1
        for q in range(4):
            archive = held.archive[held.archive.prompts == q]
            assert numbers(archive) == known.get(q, [])[:reusable]
    assert len(held.waiting) == (number if still_held else 0)


def test_without_reuse_nothing_is_stored():
    held = Held(0)
    new = rollouts([0, 1], [1, 1], 0, 0)
    held.add(new)
    held.end_step(new, 0)
    assert (len(held.archive), len(held.waiting)) == (0, 0)
    assert len(held.reused(Groups.all_of(Outcomes.none(np.array([[0]]))), 1)[0]) == 0


def test_reused_by_age():
    held = Held(3)
    for step, prompts in enumerate(([0, 0, 1], [0], [1])):
        held.end_step(rollouts(prompts, [1] * len(prompts), step, 10 * step), 0)
    shape = np.zeros((1, 2), np.int64)

    def reused(counts, ages):
        again = Reuse(np.array([counts]), np.array([ages]), "I")
        return held.reused(Groups(np.array([[0, 1]]), shape, shape, np.ones((1, 2)), reused=again), 3)

    found, columns = reused([1, 1], [2, 1])
    assert (numbers(found), columns.tolist()) == ([10, 20], [0, 1])
    found, columns = reused([2, 1], [3, 3])  # two of the same step: the later one first
    assert (numbers(found), columns.tolist()) == ([1, 0, 2], [0, 0, 1])
    for counts, ages in (([1, 0], [1, 0]), ([2, 0], [2, 0]), ([0, 1], [0, 4])):
        with pytest.raises(ValueError, match=r"reuses a success of prompt . that is stored no longer"):
            reused(counts, ages)


class Stored(Environment):
    """Coins whose rollouts are held as a real run holds them."""

    def __init__(self, allocator, seed, pool=12):
        setting = Setting(
            Budget(6, 48),
            estimators.create("rloo"),
            "prompt",
            replicates=1,
            pool_size=pool,
            rng=np.random.default_rng(seed),
        )
        super().__init__(setting, PromptStream(pool, 1, np.random.SeedSequence(seed)))
        self.rng = np.random.default_rng(seed + 1)
        self.p = self.rng.beta(0.3, 0.6, pool)
        self.held, self.sampled, self.step, self.reuses = Held(allocator.reusable), [], 0, 0

    def generate(self, request):
        successes = np.zeros_like(request.counts)
        for column, (prompt, count) in enumerate(zip(request.prompts[0], request.counts[0], strict=True)):
            rewards = (self.rng.random(count) < self.p[prompt]).astype(np.int64)
            successes[0, column] = rewards.sum()
            self.sampled.append(rollouts([prompt] * count, rewards, self.step, 0))
            self.held.add(self.sampled[-1])
        return Outcomes(request.prompts, request.counts, successes)

    def update(self, groups):
        _, columns = self.held.take(groups)
        assert np.bincount(columns, minlength=groups.counts.shape[1]).tolist() == groups.counts[0].tolist()
        again, places = self.held.reused(groups, self.step)
        if groups.reused is not None:
            assert (again.steps == self.step - groups.reused.age[0][places]).all()
            assert again.rewards.all()
            self.reuses += len(again)
        self.held.end_step(Rollouts.joined([Rollouts.none(), *self.sampled]), int(self.ledger.held[0]))
        self.sampled = []
        self.step += 1
        return {}


@pytest.mark.parametrize(
    "spec", ["ar3po[capacity=3]", "ar3po[capacity=1,max_age=3]", "ar3po[capacity=9,reuse=I]"]
)
def test_the_archive_is_what_ar3po_believes(spec):
    allocator = allocators.create(spec)
    environment = Stored(allocator, seed=4)
    driven = begin(environment, allocator)
    for _ in range(25):
        run_step(environment, driven)
        stored = allocator.state_dict()["stored"][0]
        for q in range(environment.setting.pool_size):
            archive = environment.held.archive
            steps = archive.steps[archive.prompts == q].tolist()
            assert stored[q].tolist() == steps + [-1] * (allocator.capacity - len(steps))
    assert environment.reuses >= 5


@pytest.mark.parametrize(
    "spec", ["dapo[carry=true]", "pilot_commit", "reinforce_ada", "speed", "pods", "greso"]
)
def test_what_allocators_keep_is_there(spec):
    allocator = allocators.create(spec)
    environment = Stored(allocator, seed=2)
    driven = begin(environment, allocator)
    for _ in range(12):
        run_step(environment, driven)
    assert environment.ledger.trained[0] > 0
