"""Pilot-Commit (arXiv 2605.26606): its numbers, its costs, and a slow twin."""

import numpy as np
import pytest
from oracles import pilot_commit_of_one
from scipy import stats
from scripted import Coins, Scripted, held_by, trained

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, InputError, Outcomes


def piloted(n):
    """Every outcome of n pilots."""
    k = np.arange(n + 1)[None]
    return Outcomes(k, np.full_like(k, n), k)


@pytest.mark.parametrize(
    ("n", "committed", "evicted"),
    [
        (8, [0.077, 0.337, 0.570, 0.900, 0.961, 0.633, 0.187], [0.168, 0.430, 0.663, 0.851]),
        (16, [0.011, 0.189, 0.485, 0.937, 0.989, 0.595, 0.068], [0.028, 0.185, 0.440, 0.724]),
        (32, [0.000, 0.074, 0.400, 0.975, 0.999, 0.568, 0.012], [0.001, 0.034, 0.194, 0.524]),
    ],
)
def test_the_power_of_the_filter(n, committed, evicted):
    """P(commit | p) and P(evict | p) with n pilots at the paper's thresholds."""
    allocator = allocators.create("pilot_commit")
    outcomes = piloted(n)
    for p, expected in zip([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9], committed, strict=True):
        found = stats.binom.pmf(outcomes.successes, n, p)[allocator.informative(outcomes)].sum()
        assert found == pytest.approx(expected, abs=6e-4)
    for p, expected in zip([0.8, 0.9, 0.95, 0.98], evicted, strict=True):
        found = stats.binom.pmf(outcomes.successes, n, p)[allocator.solved(outcomes)].sum()
        assert found == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(("n", "low", "high"), [(8, 1, 6), (16, 2, 12), (32, 4, 24)])
def test_both_ends_of_the_band_are_inside(n, low, high):
    """Keep ranges in successes: 4..24 of 32, 2..12 of 16, 1..6 of 8."""
    inside = np.flatnonzero(allocators.create("pilot_commit").informative(piloted(n))[0])
    assert (inside.min(), inside.max()) == (low, high)


@pytest.mark.parametrize(
    ("group_size", "phases"),
    [(128, (32, 96)), (64, (16, 48)), (16, (8, 8)), (8, (4, 4)), (4, (2, 2)), (2, (2, 0)), (1, (1, 0))],
)
def test_the_papers_split(group_size, phases):
    assert allocators.create("pilot_commit").phases(Budget(4, 4 * group_size)) == phases


def test_one_stage_a_step_after_the_first_at_the_nominal_cost():
    """At p = 1/2 the buffer is never short: s B n_pilot + B n_commit = 2 B n at n = 16."""
    place = Coins(np.full((3, 2000), 0.5), 8, 8 * 16)
    driven = begin(place, allocators.create("pilot_commit"))
    nominal = 24 * 8 + 8 * 8
    for step in range(20):
        groups = run_step(place, driven).groups
        assert (groups.counts == 16).all()
        cost = place.ledger.step_generated
        assert (cost == nominal + 24 * 8 * (step == 0)).all()
    assert place.ledger.stages.tolist() == [21, 21, 21]
    assert all(len(request.prompts[0]) <= 24 + 8 for request in place.requests)


def test_commits_over_replicates_match_the_band():
    """The share of candidates whose pilots are given up at once, by p; 4 standard errors."""
    p = np.repeat([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9], 100)[:, None] * np.ones((1, 24))
    place = Coins(p, 8, 8 * 16)
    trained("pilot_commit[max_rounds=2]", place, 1)
    first = place.requests[0]
    assert (first.counts == 8).all()
    second = place.requests[1]
    committed = (second.prompts[:, 24:] >= 0).sum(axis=1).reshape(7, 100)
    # At most 8 of 24 candidates are committed: the mean of min(X, 8), X ~ Binomial(24, band).
    outcomes = piloted(8)
    band = allocators.create("pilot_commit").informative(outcomes)
    chance = np.array([stats.binom.pmf(outcomes.successes, 8, q)[band].sum() for q in p[::100, 0]])
    x = np.arange(25)
    pmf = stats.binom.pmf(x, 24, chance[:, None])
    mean = (pmf * np.minimum(x, 8)).sum(axis=1)
    spread = np.sqrt((pmf * (np.minimum(x, 8) - mean[:, None]) ** 2).sum(axis=1))
    assert (np.abs(committed.mean(axis=1) - mean) <= 4 * spread / 10 + 1e-9).all()


@pytest.mark.parametrize("delay", [0, 1, 4])
@pytest.mark.parametrize("pool", [10, 30, 60, 200])
def test_the_slow_twin_agrees(pool, delay):
    """One replicate at a time, with lists, on the same tape of rewards: the same to the last rollout."""
    p = np.random.default_rng(8).beta(0.7, 0.7, size=(3, pool))
    steps, batch = 25, 4
    fast = Scripted(p, batch, batch * 8, seed=3)
    trained(f"pilot_commit[delay={delay}]", fast, steps)
    for row in range(3):
        slow = Scripted(p, batch, batch * 8, seed=3)
        here = np.arange(3) == row

        def draw(count, slow=slow, here=here, row=row):
            return [int(q) for q in slow.stream.draw(count, here)[row] if q >= 0]

        def retire(prompts, slow=slow, row=row):
            everyone = np.full((3, len(prompts)), -1)
            everyone[row] = prompts
            slow.stream.retire(everyone)

        twin = pilot_commit_of_one(
            draw,
            retire,
            lambda slow=slow, row=row: slow.stream.epoch[row],
            lambda prompt, n, slow=slow, row=row: int(slow.one(row, prompt, n)),
            batch,
            3,
            4,
            4,
            0.125,
            0.75,
            1.0,
            delay,
            10,
            steps,
        )
        total = 0
        for groups, (selected, lost, expired) in zip(fast.updates, twin, strict=True):
            there = groups.prompts[row] >= 0
            found = list(
                zip(
                    groups.prompts[row][there].tolist(),
                    groups.counts[row][there].tolist(),
                    groups.successes[row][there].tolist(),
                    strict=True,
                )
            )
            assert found == selected
            assert groups.discarded["pilots"][row] == lost
            assert groups.discarded["expired"][row] == expired
            total += len(selected)
        assert total > 0 or pool == 10
        np.testing.assert_array_equal(fast.position[row], slow.position[row])


def test_eviction_takes_nothing_from_the_current_epoch():
    """At once, as in Algorithm 1, or at the epoch's end, as in the code: nobody comes twice in an epoch."""
    p = np.ones((1, 48))
    place = Coins(p, 4, 32)
    driven = begin(place, allocators.create("pilot_commit[max_rounds=2]"))
    seen = []
    for _ in range(3):
        run_step(place, driven)
    seen = np.concatenate([r.prompts[0][r.prompts[0] >= 0] for r in place.requests])
    assert sorted(seen.tolist()) == list(range(48))
    place = Coins(p, 4, 32)
    trained("pilot_commit[max_rounds=2,evict=false]", place, 3)
    assert place.ledger.generated[0] == 6 * 12 * 4


def test_entries_expire_after_d_steps_and_at_the_end_of_an_epoch():
    place = Coins(np.full((1, 1200), 0.5), 4, 32)
    driven = begin(place, allocators.create("pilot_commit[delay=2,order=fifo]"))
    for step in range(12):
        run_step(place, driven)
        assert (step - driven._held.steps[driven._held.filled] <= 2).all()
    assert place.ledger.discarded["expired"][0] > 0
    held = held_by(driven)
    while place.stream.epoch[0] == 0:
        held = held_by(driven)
        generated = place.ledger.discarded["expired"].copy()
        run_step(place, driven)
    # All that was held when the epoch ended went; what is held now was generated since.
    assert (place.ledger.discarded["expired"] - generated >= held).all()


def test_orders():
    p = np.full((1, 500), 0.4)
    for order in ("max_variance", "fifo", "random"):
        place = Coins(p, 2, 2 * 16, seed=2)
        driven = begin(place, allocators.create(f"pilot_commit[order={order},delay=100]"))
        for _ in range(5):
            run_step(place, driven)
        held = driven._held
        before = held.entries[:, 0, held.filled[0]]
        chosen, _ = driven.chosen(held, np.array([2]))
        if order == "fifo":
            assert chosen.prompts[0].tolist() == before[0, :2].tolist()
        variance = before[2] * (8 - before[2])
        if order == "max_variance":
            assert (chosen.successes * (8 - chosen.successes) == np.sort(variance)[-2:]).all()
            tied = before[3][variance == variance.max()]
            assert chosen.steps[0, 0] == tied.max()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"p_lower=0\.8 is above p_upper=0\.75"):
        allocators.create("pilot_commit[p_lower=0.8]")
    with pytest.raises(InputError, match="n_pilot=9: the group has 8 rollouts"):
        trained("pilot_commit[n_pilot=9]", Coins(np.full((1, 50), 0.5), 4, 32), 1)
    with pytest.raises(InputError, match="n_init=9: the group has 8 rollouts"):
        trained("speed[n_init=9]", Coins(np.full((1, 50), 0.5), 4, 32), 1)
