"""Which concrete rollouts stand behind the counts: the fast way and an obvious one agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolloutbench.allocators import allocators
from rolloutbench.environment import Environment
from rolloutbench.estimators import estimators
from rolloutbench.held import KEY, PROMPT, STEP, SUCCESS, Held
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, Groups, Outcomes, PromptStream, Reuse, Setting


def add(held, prompts, rewards, step):
    return held.add(np.array(prompts, dtype=np.int64), np.array(rewards, dtype=bool), step).tolist()


def waiting(held):
    return held.state_dict()["waiting"]


def archive(held):
    return held.state_dict()["archive"]


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
SAMPLED = st.lists(st.tuples(PROMPTS, st.integers(0, 1)), max_size=8)
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
@given(st.lists(st.tuples(SAMPLED, COLUMNS), min_size=1, max_size=5), st.integers(0, 20))
def test_take_is_newest_first(steps, greedy):
    """In step `greedy` it is asked for whatever was drawn, which may not be there."""
    held, there, number = Held(0), [], 0
    for step, (sampled, columns) in enumerate(steps):
        keys = add(held, [q for q, _ in sampled], [r for _, r in sampled], step)
        assert keys == list(range(number, number + len(sampled)))
        for q, r in sampled:
            there.append({"prompt": q, "reward": r, "step": step, "number": number})
            number += 1
        if step == greedy:
            columns = [(q, k * (q >= 0), f * (q >= 0)) for q, k, f in columns]
        else:
            columns = what_is_there(there, columns)
        prompts, successes, failures = np.array(columns, dtype=np.int64).reshape(-1, 3).T[:, None]
        groups = Groups(prompts, successes, failures, np.ones(prompts.shape))
        expected = taken_one_by_one(there, groups)
        if expected is None:
            with pytest.raises(ValueError, match="keeps rollouts that it gave up in an earlier step"):
                held.take(groups)
            return
        taken, there = expected
        found, places = held.take(groups)
        assert sorted(zip(found[:, KEY].tolist(), places.tolist(), strict=True)) == sorted(taken)
        assert held.keys.tolist() == sorted(one["number"] for one in there)


@settings(max_examples=40)
@given(st.integers(1, 4), st.lists(SAMPLED, min_size=1, max_size=6), st.booleans())
def test_the_archive_has_the_newest_successes(reusable, steps, still_held):
    held, known, number = Held(reusable), {}, 0
    for step, sampled in enumerate(steps):
        add(held, [q for q, _ in sampled], [r for _, r in sampled], step)
        held.end_step(int(still_held))
        for q, r in sampled:
            known[q] = ([number] if r else []) + known.get(q, [])
            number += 1
        for q in range(4):
            stored = archive(held)[archive(held)[:, PROMPT] == q]
            assert stored[:, KEY].tolist() == known.get(q, [])[:reusable]
    assert len(waiting(held)) == (number if still_held else 0)


def still_held_one_by_one(there, holding):
    """The numbers of those that wait and may still be kept, of each prompt and reward the newest."""
    left = {}
    for q, n, k in zip(holding.prompts[0], holding.counts[0], holding.successes[0], strict=True):
        if q >= 0:
            left[q, 1] = left.get((q, 1), 0) + k
            left[q, 0] = left.get((q, 0), 0) + n - k
    kept = []
    for one in sorted(there, key=lambda one: (-one["step"], one["number"])):
        code = one["prompt"], one["reward"]
        if left.get(code, 0) > 0:
            left[code] -= 1
            kept.append(one["number"])
    return sorted(kept)


@settings(max_examples=80)
@given(st.lists(SAMPLED, min_size=1, max_size=5), COLUMNS)
def test_what_is_not_held_is_forgotten(steps, columns):
    held, there, number = Held(0), [], 0
    for step, sampled in enumerate(steps):
        add(held, [q for q, _ in sampled], [r for _, r in sampled], step)
        for q, r in sampled:
            there.append({"prompt": q, "reward": r, "step": step, "number": number})
            number += 1
    prompts, successes, failures = np.array(columns, dtype=np.int64).reshape(-1, 3).T[:, None]
    holding = Outcomes(prompts, successes + failures, successes)
    held.end_step(1, holding)
    assert held.keys.tolist() == still_held_one_by_one(there, holding)


def test_without_reuse_nothing_is_stored():
    held = Held(0)
    add(held, [0, 1], [1, 1], 0)
    held.end_step(0)
    assert len(held.keys) == 0
    assert len(held.reused(Groups.all_of(Outcomes.none(np.array([[0]]))), 1)[0]) == 0


def test_reused_by_age():
    held = Held(3)
    for step, prompts in enumerate(([0, 0, 1], [0], [1])):  # with keys 0 to 2, 3, and 4
        add(held, prompts, [1] * len(prompts), step)
        held.end_step(0)
    shape = np.zeros((1, 2), np.int64)

    def reused(counts, ages):
        again = Reuse(np.array([counts]), np.array([ages]), "I")
        return held.reused(Groups(np.array([[0, 1]]), shape, shape, np.ones((1, 2)), reused=again), 3)

    found, columns = reused([1, 1], [2, 1])
    assert (found[:, KEY].tolist(), columns.tolist()) == ([3, 4], [0, 1])
    found, columns = reused([2, 1], [3, 3])  # two of the same step: the later one first
    assert (found[:, KEY].tolist(), columns.tolist()) == ([1, 0, 2], [0, 0, 1])
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
        self.held, self.step, self.reuses = Held(allocator.reusable), 0, 0

    def generate(self, request):
        successes = np.zeros_like(request.counts)
        for column, (prompt, count) in enumerate(zip(request.prompts[0], request.counts[0], strict=True)):
            rewards = (self.rng.random(count) < self.p[prompt]).astype(np.int64)
            successes[0, column] = rewards.sum()
            add(self.held, [prompt] * count, rewards, self.step)
        return Outcomes(request.prompts, request.counts, successes)

    def update(self, groups):
        _, columns = self.held.take(groups)
        assert np.bincount(columns, minlength=groups.counts.shape[1]).tolist() == groups.counts[0].tolist()
        again, places = self.held.reused(groups, self.step)
        if groups.reused is not None:
            assert (again[:, STEP] == self.step - groups.reused.age[0][places]).all()
            assert again[:, SUCCESS].all()
            self.reuses += len(again)
        self.held.end_step(int(self.ledger.held[0]))
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
        stored = driven.state_dict()["stored"][0]
        for q in range(environment.setting.pool_size):
            known = archive(environment.held)
            steps = known[known[:, PROMPT] == q, STEP].tolist()
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
