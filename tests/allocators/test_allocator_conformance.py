"""What every registered allocator must do, whatever its method is."""

import copy

import numpy as np
import pytest
from scripted import Scripted, held_by

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step

SPECS = [
    *allocators.names(),
    "dapo[carry=true,oversample=1]",
    "ar3po[reuse=none]",
    "ar3po[reuse=replay,capacity=1]",
    "ar3po[reuse=I,max_age=3,stages=4,per_stage=1]",
    "pilot_commit[order=random]",
    "pilot_commit[order=fifo,clear_at_epoch_end=false,delay=1,n_pilot=2]",
    "pilot_commit[evict=false,n_pilot=2,n_commit=6,oversample=1]",
    "speed[capacity=0,n_init=2]",
    "reinforce_ada[exit=positive,log_weight=true]",
    "reinforce_ada[per_round=3,keep=5]",
    "reinforce_ada_est[rule=code]",
    "mopps[predictor=oracle,candidates=1]",
    "gvm[shard_steps=2,pilot=3]",
    "pods[divide=2]",
    "permuted[of=reinforce_ada_est]",
]
RANDOM = ("random", "permuted", "mopps", "greso", "ar3po", "order=random", "noisy")
"""What draws random numbers: per replicate it draws others."""

BATCH = 4


def environment(group_size=8, pool=6 * BATCH, p=None, seed=0, replicates=3):
    if p is None:
        p = np.random.default_rng(seed + 9).beta(0.5, 0.6, size=(replicates, pool))
    return Scripted(p, BATCH, BATCH * group_size, seed=seed)


def check_step(place, driven, step):
    """The laws of one step: the account, the budget, and what is trained on."""
    ledger = place.ledger
    gone = sum(ledger.discarded.values(), start=np.zeros(3, np.int64))
    held = held_by(driven)
    np.testing.assert_array_equal(ledger.generated, ledger.trained + gone + held)
    np.testing.assert_array_equal(ledger.held, np.zeros(3, np.int64) + held)
    if driven.hard_budget:
        assert (ledger.step_generated <= place.setting.budget.rollouts).all()
    groups = step.groups
    rows, columns = np.nonzero(groups.prompts >= 0)
    assert place.stream.drawn[rows, groups.prompts[rows, columns]].all()
    assert ((groups.prompts >= 0).sum(axis=1) <= BATCH).all()
    absent = groups.prompts < 0
    assert (groups.counts[absent] == 0).all()
    if driven.one_shot:
        np.testing.assert_array_equal(groups.counts.sum(axis=1), ledger.step_generated)
        assert groups.baseline is None or np.isnan(groups.baseline).all()
        assert groups.reused is None
        assert not groups.discarded


def run(place, spec, steps):
    driven = begin(place, allocators.create(spec))
    for _ in range(steps):
        check_step(place, driven, run_step(place, driven))
    return driven


def same(left, right):
    """Two updates are the same."""
    for name in ("prompts", "successes", "failures", "weights"):
        mine, theirs = getattr(left, name), getattr(right, name)
        width = max(mine.shape[1], theirs.shape[1])
        fill = -1 if name == "prompts" else 1.0 if name == "weights" else 0
        mine, theirs = (
            np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill) for a in (mine, theirs)
        )
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    for name in ("baseline",):
        mine, theirs = getattr(left, name), getattr(right, name)
        if mine is None or theirs is None:
            for one in (mine, theirs):
                assert one is None or np.isnan(one).all()
        else:
            np.testing.assert_array_equal(mine, theirs)
    assert left.discarded.keys() == right.discarded.keys()
    for name, gone in left.discarded.items():
        np.testing.assert_array_equal(gone, right.discarded[name], err_msg=name)
    assert (left.reused is None) == (right.reused is None)
    if left.reused is not None:
        np.testing.assert_array_equal(left.reused.counts, right.reused.counts)
        np.testing.assert_array_equal(left.reused.age, right.reused.age)


@pytest.mark.parametrize("group_size", [2, 8, 16])
@pytest.mark.parametrize("spec", SPECS)
def test_thirty_steps(spec, group_size):
    if group_size == 2 and "n_pilot=2,n_commit=6" in spec:
        pytest.skip("is as large as a group of 8")
    place = environment(group_size)
    run(place, spec, 30)
    assert (place.ledger.trained > 0).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_small_pool_with_many_retired_prompts(spec):
    """Seven prompts, of which one replicate has all, one three, and one none."""
    place = environment(pool=7)
    place.stream.retire(np.array([[-1] * 7, [0, 1, 2, 3, -1, -1, -1], [0, 1, 2, 3, 4, 5, 6]]))
    run(place, spec, 30)
    assert place.ledger.generated[0] > 0
    assert place.ledger.generated[2] == 0


@pytest.mark.parametrize("spec", SPECS)
def test_a_pool_that_runs_out(spec):
    place = environment()
    driven = run(place, spec, 3)
    left = np.arange(24)
    for _ in range(6):
        place.stream.retire(np.tile(left[:5], (3, 1)))
        left = left[5:]
        check_step(place, driven, run_step(place, driven))


@pytest.mark.parametrize("spec", SPECS)
def test_hopeless_pools(spec):
    """Nothing can be solved, everything is, or both: no step goes on for ever."""
    p = np.stack([np.zeros(24), np.ones(24), np.arange(24) % 2])
    place = environment(p=p)
    run(place, spec, 30)


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_seed_gives_the_same_run(spec):
    updates = []
    for _ in range(2):
        place = environment(seed=4)
        run(place, spec, 10)
        updates.append(place.updates)
    for left, right in zip(*updates, strict=True):
        same(left, right)


def leaves(state):
    for value in state.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


@pytest.mark.parametrize("spec", SPECS)
def test_a_run_resumes_from_its_state(spec):
    """A fresh object with the state goes on as the old one does; the state is arrays, and a copy."""
    place = environment(seed=5)
    driven = run(place, spec, 7)
    saved, other = driven.state_dict(), copy.deepcopy(place)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves(saved))
    kept = copy.deepcopy(saved)
    random_state = other.setting.rng.bit_generator.state
    resumed = begin(other, allocators.create(spec))
    other.setting.rng.bit_generator.state = random_state
    for _ in range(8):
        check_step(place, driven, run_step(place, driven))
    for before, after in zip(leaves(kept), leaves(saved), strict=True):
        np.testing.assert_array_equal(before, after)
    resumed.load_state_dict(saved)
    for _ in range(8):
        check_step(other, resumed, run_step(other, resumed))
    for before, after in zip(leaves(kept), leaves(saved), strict=True):
        np.testing.assert_array_equal(before, after)
    assert len(place.updates) == len(other.updates) == 15
    for left, right in zip(place.updates, other.updates, strict=True):
        same(left, right)


@pytest.mark.parametrize("spec", [s for s in SPECS if not any(word in s for word in RANDOM)])
@pytest.mark.parametrize("pool", [24, 7])
def test_replicates_do_not_touch_each_other(spec, pool):
    """Side by side they do what they do alone."""
    together, apart = environment(pool=pool, seed=6), environment(pool=pool, seed=6)
    alone = allocators.create(spec)
    alone.vectorised = False
    drivens = begin(together, allocators.create(spec)), begin(apart, alone)
    for _ in range(15):
        run_step(together, drivens[0])
        check_step(apart, drivens[1], run_step(apart, drivens[1]))
    for left, right in zip(together.updates, apart.updates, strict=True):
        same(left, right)


@pytest.mark.parametrize("spec", [s for s in SPECS if any(word in s for word in RANDOM)])
def test_replicates_alone_are_alike_in_distribution(spec):
    """What a step trains on and costs, over replicates with the same p: 4 standard errors."""
    p = np.tile(np.random.default_rng(3).beta(0.5, 0.6, size=24), (64, 1))
    means = []
    for vectorised in (True, False):
        place = Scripted(p, BATCH, BATCH * 8, seed=7 + vectorised)
        allocator = allocators.create(spec)
        allocator.vectorised = vectorised
        driven = begin(place, allocator)
        for _ in range(8):
            run_step(place, driven)
        numbers = np.stack([place.ledger.generated, place.ledger.trained, place.ledger.prompts])
        means.append((numbers.mean(axis=1), numbers.var(axis=1) / 64))
    (left, left_variance), (right, right_variance) = means
    assert (np.abs(left - right) <= 4 * np.sqrt(left_variance + right_variance)).all()
