"""AR3PO (arXiv 2509.25808): cost by success rate, and what reuse does."""

import numpy as np
import pytest
from oracles import ar3po_of_one
from scripted import Coins, Scripted, trained

from rolloutbench.estimators import estimators, realised


def expected_cost(p, stages, per_stage):
    return per_stage * sum((1 - p) ** (per_stage * s) for s in range(stages))


@pytest.mark.parametrize(("stages", "per_stage"), [(1, 8), (2, 4), (4, 2), (8, 1), (3, 5)])
@pytest.mark.parametrize("p", [0.0, 0.02, 0.1, 0.3, 0.7, 1.0])
def test_rollouts_per_prompt(p, stages, per_stage):
    """k sum_{s<S} (1-p)^(ks), by Monte Carlo; 4 standard errors."""
    place = Coins(np.full((400, 20), p), 20, 160)
    trained(f"ar3po[stages={stages},per_stage={per_stage}]", place, 1)
    costs = place.updates[0].sizes
    error = costs.std() / np.sqrt(costs.size)
    assert costs.mean() == pytest.approx(expected_cost(p, stages, per_stage), abs=4 * error + 1e-9)
    assert (costs % per_stage == 0).all()
    assert place.ledger.stages.max() <= stages


def test_the_published_averages():
    """S = 2 and k = 4 give 6.95 responses in the hardest fifth (p near .07) and about 4 in the easiest."""
    found = [expected_cost(p, 2, 4) for p in (0.02, 0.05, 0.1, 0.2, 0.5, 0.9)]
    assert found == pytest.approx([7.69, 7.26, 6.62, 5.64, 4.25, 4.00], abs=5e-3)
    assert expected_cost(0.2, 2, 4) < 6.95 < expected_cost(0.0, 2, 4)


def solved_then_not(n=8, **parameters):
    """Two prompts: one is solved at its first visit, the other never; later all fails."""
    tape = np.zeros((1, 2, 400), dtype=int)
    tape[0, 0, 2] = 1
    place = Scripted(np.array([[0.3, 0.3]]), 2, 2 * n, tape=tape)
    spec = ",".join(f"{key}={value}" for key, value in parameters.items())
    trained(f"ar3po[{spec}]", place, 3)
    return place


def column(groups, prompt):
    return int(np.flatnonzero(groups.prompts[0] == prompt)[0])


@pytest.mark.parametrize("option", ["replay", "I", "II"])
def test_a_prompt_solved_before_gets_one_reused(option):
    place = solved_then_not(reuse=option)
    first, second, third = place.updates
    assert first.reused.counts.tolist() == [[0, 0]]
    for age, groups in ((1, second), (2, third)):
        here, other = column(groups, 0), column(groups, 1)
        assert groups.reused.option == option
        assert (groups.successes[0, here], groups.failures[0, here]) == (0, 7)
        assert groups.sizes[0, here] == 8
        assert (groups.reused.counts[0, here], groups.reused.age[0, here]) == (1, age)
        assert (groups.failures[0, other], groups.reused.counts[0, other]) == (8, 0)
        assert groups.discarded["unselected"].tolist() == [1]


@pytest.mark.parametrize("name", ["dr_grpo", "rloo", "grpo"])
def test_the_gradient_of_a_reused_group(name):
    """Option II: x = -((n-1)/n) A_w p and noise (n-1) A_w^2 / n^2; option I adds the success itself."""
    n, p = 8, 0.3
    estimator = estimators.create(name)
    plus, minus = (float(a) for a in estimator.advantages(np.array(8.0), np.array(1.0)))
    groups = solved_then_not(reuse="II").updates[1]
    x, noise = (a[0, column(groups, 0)] for a in realised(estimator, groups, np.full((1, 2), p)))
    assert x == pytest.approx(-(n - 1) / n * minus * p)
    assert noise == pytest.approx((n - 1) * minus**2 / n**2)
    if name == "grpo":
        assert (plus, minus) == pytest.approx((2.475, -0.354), abs=1e-3)
    groups = solved_then_not(reuse="I").updates[1]
    x, noise = (a[0, column(groups, 0)] for a in realised(estimator, groups, np.full((1, 2), p)))
    assert x == pytest.approx(-(n - 1) / n * minus * p + plus * (1 - p) / n)
    assert noise == pytest.approx(((n - 1) * minus**2 + plus**2) / n**2)


def test_without_reuse_and_with_too_old_successes():
    for place in (solved_then_not(reuse="none"), solved_then_not(max_age=1)):
        third = place.updates[2]
        assert third.failures.tolist() == [[8, 8]]
        assert third.reused is None or not third.reused.counts.any()
    assert solved_then_not(max_age=2).updates[2].reused.counts.sum() == 1


def test_the_stored_success_is_chosen_uniformly():
    """Visits of one prompt: a success in steps 0 and 1, then failures; ages 2 and 1 are equally likely."""
    tape = np.zeros((2000, 1, 64), dtype=int)
    tape[:, 0, 0] = tape[:, 0, 4] = 1  # the first stage of four ends a visit with a success
    place = Scripted(np.full((2000, 1), 0.5), 1, 8, tape=tape)
    trained("ar3po", place, 3)
    age = place.updates[2].reused.age[:, 0]
    assert set(age.tolist()) == {1, 2}
    assert abs((age == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(
    ("capacity", "max_age", "stages"), [(1, None, 2), (4, None, 2), (4, 5, 4), (3, 2, 1), (16, 9, 2)]
)
def test_the_slow_twin_agrees(capacity, max_age, stages):
    """One replicate at a time, with lists; the age is one that the twin may choose."""
    p = np.random.default_rng(8).beta(0.3, 1.5, size=(3, 14))
    steps, batch = 40, 4
    fast = Scripted(p, batch, batch * 8, seed=3)
    trained(f"ar3po[capacity={capacity},max_age={max_age},stages={stages}]", fast, steps)
    reused = 0
    for row in range(3):
        slow = Scripted(p, batch, batch * 8, seed=3)
        here = np.arange(3) == row
        twin = ar3po_of_one(
            lambda count, slow=slow, here=here, row=row: slow.stream.draw(count, here)[row].tolist(),
            lambda prompt, n, slow=slow, row=row: int(slow.one(row, prompt, n)),
            batch,
            stages,
            8 // stages,
            capacity,
            max_age,
            steps,
        )
        for groups, expected in zip(fast.updates, twin, strict=True):
            for b, (prompt, successes, failures, ages) in enumerate(expected):
                assert groups.prompts[row, b] == prompt
                assert (groups.successes[row, b], groups.failures[row, b]) == (successes, failures)
                assert groups.reused.counts[row, b] == bool(ages)
                assert groups.reused.age[row, b] in (ages or [0])
                if capacity == 1 and ages:
                    assert groups.reused.age[row, b] == ages[0]
                reused += bool(ages)
        np.testing.assert_array_equal(fast.position[row], slow.position[row])
    assert reused > 3
