"""Frontier: its rounds against a slow twin, the size of its steps, and whom it leaves alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Coins, Scripted, trained

from rolloutbench.allocators import allocators
from rolloutbench.allocators.frontier import beta_of, reward_variance
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Belief, Budget, InputError, Outcomes


def slow_step(candidates, a, b, shares, widths, most, enough, tape):
    """One replicate's step, prompt by prompt: the rollouts of each prompt in each round.

    Of equals those come first that had more signal when the step began, and of these the first in the stream.
    """
    before = [-min(reward_variance(*pair), enough / 4) for pair in zip(a, b, strict=True)]
    ranked = sorted(range(len(candidates)), key=lambda place: (before[place], place))[:most]
    n, k = dict.fromkeys(candidates, 0), dict.fromkeys(candidates, 0)
    rounds = []
    for rollouts, width in zip(shares, widths, strict=True):
        late = []
        for rank, place in enumerate(ranked):
            q = candidates[place]
            alpha, beta = a[place] + k[q], b[place] + n[q] - k[q]
            signal = min(alpha * beta / ((alpha + beta) * (alpha + beta + 1)), enough / 4)
            signal *= 1.0 if n[q] else 1 - width / rollouts
            late.append((-signal, rank, q))
        chosen = sorted(sorted(late)[:width], key=lambda entry: entry[1])
        each, rest = divmod(rollouts, width)
        counts = {q: each + (i < rest) for i, (_, _, q) in enumerate(chosen)}
        for q, count in counts.items():
            k[q] += int(tape[q, n[q] : n[q] + count].sum())
            n[q] += count
        rounds.append(counts)
    return rounds


def coins(p, prompts, rollouts, aggregation="rollout"):
    return Coins(p, prompts, rollouts, aggregation=aggregation)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("more", ["", ",breadth=1,candidates=8", ",rounds=3,breadth=2", ",price=seconds"])
def test_its_rounds_are_those_of_the_slow_twin(more, seed):
    rng = np.random.default_rng(seed)
    place = Scripted(rng.random((3, 40)), 16, 128, seed=seed, aggregation="rollout")
    driven = begin(place, allocators.create(f"frontier[predictor=beta{more}]"))
    every = np.tile(np.arange(40), (3, 1))
    n = rng.integers(0, 9, every.shape)
    driven.observe(Outcomes(every, n, rng.binomial(n, place.p)))
    shares, widths = driven.schedule(place.setting.budget)
    order = [place.stream.shuffled(0, r)[: driven._candidates * widths[0]] for r in range(3)]
    beliefs = [beta_of(driven.predictor.predict(np.tile(o, (3, 1)))) for o in order]
    run_step(place, driven)
    assert len(place.requests) == len(shares)
    for r in range(3):
        a, b = (part[r] for part in beliefs[r])
        expected = slow_step(order[r].tolist(), a, b, shares, widths, 16, driven.enough, place.tape[r])
        for request, counts in zip(place.requests, expected, strict=True):
            asked = request.counts[r] > 0
            found = dict(
                zip(request.prompts[r][asked].tolist(), request.counts[r][asked].tolist(), strict=True)
            )
            assert found == counts


def test_steps_grow_up_to_the_budget():
    """A quarter of 4096 rollouts, and a hundredth more of them each step."""
    place = coins(np.full((2, 600), 0.5), 512, 4096)
    trained("frontier[growth=0.01]", place, 100)
    spent = np.diff([0, *np.cumsum([r.counts[0].sum() for r in place.requests]).reshape(100, 4)[:, -1]])
    assert spent[0] == 1024
    assert spent[1] == round(0.26 * 4096)
    assert (spent[75:] == 4096).all()


def test_for_seconds_a_step_asks_once_for_the_whole_budget():
    place = coins(np.full((2, 600), 0.5), 64, 512)
    trained("frontier[price=seconds]", place, 3)
    assert [request.counts.sum(axis=1).tolist() for request in place.requests] == [[512, 512]] * 3
    assert all(((request.counts == 8) | (request.counts == 0)).all() for request in place.requests)


def test_where_the_mean_is_over_prompts_groups_are_equal():
    """Of eight candidates for each place, in a round; what is given counts all the same."""
    for spec, each, drawn in (("frontier", [8], 128), ("frontier[rounds=2,candidates=3]", [4, 8], 48)):
        place = coins(np.full((2, 600), 0.5), 64, 512, aggregation="prompt")
        driven = trained(spec, place, 1)
        assert [request.counts.max() for request in place.requests] == each
        assert driven._candidates * driven.schedule(place.setting.budget)[1][0] == drawn


def test_a_price_is_a_default_and_what_is_given_counts():
    driven = allocators.create("frontier[price=seconds,rounds=2]")
    assert (driven.rounds, driven.start) == (2, 1.0)
    assert allocators.create("frontier[price=rollouts]") == allocators.create("frontier")
    with pytest.raises(InputError, match=r"price=tokens: .*'rollouts' or 'seconds'"):
        allocators.create("frontier[price=tokens]")


def test_groups_double_while_prompts_halve():
    place = coins(np.full((3, 600), 0.5), 64, 512)
    trained("frontier[start=1]", place, 1)
    assert [int((r.counts[0] > 0).sum()) for r in place.requests] == [64, 32, 16, 8]
    assert [int(r.counts[0].max()) for r in place.requests] == [2, 4, 8, 16]


def test_no_round_is_narrower_than_its_breadth():
    """At a quarter of the budget 16 prompts would become 8, 4 and 2."""
    place = coins(np.full((3, 600), 0.5), 64, 512)
    trained("frontier[growth=0]", place, 2)
    assert [int((r.counts[0] > 0).sum()) for r in place.requests] == [16, 8, 8, 8] * 2
    narrow = coins(np.full((3, 600), 0.5), 64, 512)
    trained("frontier[growth=0,breadth=1]", narrow, 2)
    assert [int((r.counts[0] > 0).sum()) for r in narrow.requests] == [16, 8, 4, 2] * 2


@given(
    *(st.integers(1, 300), st.integers(1, 40), st.integers(1, 16), st.integers(1, 64), st.integers(0, 500)),
    st.floats(0.01, 1),
)
def test_every_round_can_be_paid(prompts, group_size, rounds, breadth, step, start):
    """No step above its budget, no round in which an opened prompt would get a single rollout."""
    driven = allocators.create("frontier")
    driven._rounds, driven.breadth, driven.start, driven._step = rounds, breadth, start, step
    budget = Budget(prompts, prompts * group_size)
    if budget.rollouts < 2:
        return
    shares, widths = driven.schedule(budget)
    assert len(shares) == len(widths) <= rounds
    assert 0 < sum(shares) <= budget.rollouts
    assert all(share // width >= 2 for share, width in zip(shares, widths, strict=True))
    assert sorted(widths, reverse=True) == widths


def test_dead_prompts_are_left_alone():
    p = np.tile(np.where(np.arange(400) % 2, 0.0, 0.5), (4, 1))
    place = coins(p, 32, 256)
    trained("frontier", place, 60)
    late = place.requests[-40:]
    dead = sum(r.counts[r.prompts % 2 == 1].sum() for r in late)
    assert dead < 0.1 * sum(r.counts.sum() for r in late)


def test_prompts_with_enough_signal_count_as_equals():
    """With the truth known, prompts at .4 and at .5 are the same, and those at .05 come after them."""
    p = np.tile(np.array([0.4, 0.5, 0.05, 0.0])[np.arange(200) % 4], (2, 1))
    place = coins(p, 16, 128)
    trained("frontier[predictor=oracle,candidates=12]", place, 200)
    got = np.array([sum(r.counts[r.prompts % 4 == c].sum() for r in place.requests) for c in range(4)])
    assert got[2] + got[3] == 0
    assert 0.4 < got[0] / got.sum() < 0.6


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.95))
def test_the_beta_distribution_has_the_beliefs_moments(mean, part):
    belief = Belief(np.array([[mean]]), np.array([[part * 0.9 * mean * (1 - mean)]]))
    a, b = beta_of(belief)
    total = a + b
    np.testing.assert_allclose(a / total, belief.mean)
    np.testing.assert_allclose(a * b / (total**2 * (total + 1)), belief.variance)
    np.testing.assert_allclose(reward_variance(a, b), mean * (1 - mean) - belief.variance)


def test_a_belief_without_variance_outweighs_a_step():
    a, b = beta_of(Belief(np.array([[0.3, 0.0, 1.0]]), np.zeros((1, 3))))
    np.testing.assert_allclose(reward_variance(a, b + 16), [[0.21, 0, 0]], atol=1e-4)


@pytest.mark.parametrize(
    "wrong", ["rounds=0", "enough=0", "start=0", "growth=-1", "candidates=0", "breadth=0"]
)
def test_bad_parameters_are_refused(wrong):
    with pytest.raises(InputError, match=wrong.partition("=")[0]):
        allocators.create(f"frontier[{wrong}]")
