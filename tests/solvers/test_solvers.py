"""One table of objectives drives all solvers; brute force, cvxpy and each other are the judges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import brute_force

from rolloutbench.objectives import ClosedForm, objectives
from rolloutbench.protocol import InputError
from rolloutbench.solvers import SOLVERS, Problem, serve_greatest, solve
from rolloutbench.solvers.concave import concave, concave_by_search, concave_by_table, deal_ties
from rolloutbench.solvers.continuous import continuous, rounded
from rolloutbench.solvers.dynamic import dynamic, shortest_path
from rolloutbench.solvers.reference import reference

SPECS = [
    *objectives.names(),
    "grpo[ddof=0]",
    "mse[noise_ratio=0]",
    "mse[estimator=reinforce]",
    "mse[estimator=dr_grpo,noise_ratio=1]",
    "mse[estimator=grpo]",
    "coba[alpha=1,beta=3,tau=0.2]",
]
CONCAVE = [spec for spec in SPECS if objectives.create(spec).convex_from is not None]
CLOSED_FORM = [spec for spec in CONCAVE if isinstance(objectives.create(spec), ClosedForm)]
PROBABILITIES = st.one_of(
    st.sampled_from([0.0, 1.0, 1e-12, 1 - 1e-12, 1e-300, 0.5, 0.25, 0.25]), st.floats(0, 1)
)


@st.composite
def problems(draw, specs, prompts=6, top=12, holes=True):
    """Small problems of one replicate: any bounds, duplicates, zero weights, and a budget between them."""
    objective = objectives.create(draw(st.sampled_from(specs)))
    size = draw(st.integers(1, prompts))
    p = draw(st.lists(PROBABILITIES, min_size=size, max_size=size))
    # Each further prompt multiplies what brute force has to try.
    width = {1: 12, 2: 12, 3: 9, 4: 6, 5: 4, 6: 3}[size]
    lowest = 0 if holes else objective.convex_from
    lower = np.array(draw(st.lists(st.integers(lowest, top - 1), min_size=size, max_size=size)))
    upper = np.minimum(lower + draw(st.lists(st.integers(0, width), min_size=size, max_size=size)), top)
    weights = draw(st.lists(st.sampled_from([1.0, 1.0, 0.5, 3.0, 0.0]), min_size=size, max_size=size))
    allow_zero = holes and draw(st.booleans())
    least = 0 if allow_zero else int(lower.sum())
    budget = draw(st.integers(least, int(upper.sum())))
    return Problem.of(objective, p, budget, lower, upper, weights, allow_zero)


def assert_optimal(problem, found, best):
    assert found.counts.sum() == problem.budget[0]
    zero = (found.counts == 0) & problem.allow_zero
    assert (zero | ((found.counts >= problem.lower) & (found.counts <= problem.upper))).all()
    assert found.value[0] == pytest.approx(best, rel=1e-12, abs=1e-300)
    # The bound lies on the better side of the value, up to rounding.
    slack = 1e-12 * (abs(best) + abs(found.price[0]) * problem.budget[0]) + 1e-300
    assert problem.sign * (found.bound[0] - found.value[0]) <= slack


@given(problems(SPECS))
@settings(max_examples=400)
def test_dynamic_equals_brute_force(problem):
    best = brute_force(problem)
    if best is None:
        with pytest.raises(InputError, match="no allowed counts"):
            dynamic(problem)
    else:
        assert_optimal(problem, dynamic(problem), best)


@given(
    st.sampled_from([spec for spec in SPECS if spec not in CONCAVE] + ["non_zero_gradient"]),
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(0, 3),
    st.floats(0, 1),
)
@settings(max_examples=150)
def test_the_core_has_the_very_counts_of_the_whole_program(spec, seed, replicates, prompts, lower, share):
    rng = np.random.default_rng(seed)
    p = rng.choice([rng.beta(0.3, 0.4), 0.0, 0.25, 0.5, 0.75, 1.0], size=(replicates, prompts))
    p = np.where(rng.random(p.shape) < 0.5, rng.random(p.shape), p)  # many ties, and some that are none
    upper = lower + rng.integers(2, 16, size=p.shape)
    least = prompts * max(lower, 2)
    budget = least + np.floor(share * np.maximum(upper.sum(axis=1) - least, 0)).astype(int)
    problem = Problem.of(objectives.create(spec), p, np.minimum(budget, upper.sum(axis=1)), lower, upper)
    counts, total = shortest_path(problem.allowed_losses(), problem.budget)
    found = dynamic(problem)
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_array_equal(problem.sign * found.value, total)
    np.testing.assert_allclose(found.value, problem.value(counts), rtol=1e-12)


@given(problems(CONCAVE, holes=False))
@settings(max_examples=400)
def test_concave_equals_brute_force_and_certifies_itself(problem):
    best = brute_force(problem)
    for solver in (concave_by_table, concave_by_search):
        if solver is concave_by_search and not isinstance(problem.objective, ClosedForm):
            continue
        found = solver(problem)
        assert_optimal(problem, found, best)
        # "At most one marginal gain": with the integer dual there is no gap at all, up to rounding.
        assert found.gap[0] <= 1e-12 * max(abs(best), 1e-290) + 1e-14 * problem.weights.max()


@given(problems(CONCAVE, holes=False, prompts=6, top=12))
@settings(max_examples=150)
def test_dynamic_equals_concave_wherever_returns_diminish(problem):
    ours, theirs = concave(problem), dynamic(problem)
    assert ours.value[0] == pytest.approx(theirs.value[0], rel=1e-12, abs=1e-300)
    assert ours.bound[0] == pytest.approx(theirs.bound[0], rel=1e-9, abs=1e-13)


@given(
    st.sampled_from(CLOSED_FORM),
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(1, 400),
    st.floats(0, 1),
)
@settings(max_examples=200)
def test_search_equals_table_on_larger_batches(spec, seed, replicates, prompts, share):
    rng = np.random.default_rng(seed)
    objective = objectives.create(spec)
    p = rng.beta(0.3, 0.4, size=(replicates, prompts)) * rng.choice(
        [0.0, 1.0, 1.0], size=(replicates, prompts)
    )
    p = np.where(rng.random(p.shape) < 0.2, 0.25, p)  # many ties
    lower = objective.convex_from + rng.integers(0, 3, size=p.shape)
    upper = lower + rng.integers(0, 30, size=p.shape)
    least, most = lower.sum(axis=1), upper.sum(axis=1)
    budget = least + np.floor(share * (most - least)).astype(int)
    problem = Problem.of(objective, p, budget, lower, upper, rng.choice([0.0, 0.5, 2.0], size=p.shape))
    table, search = concave_by_table(problem), concave_by_search(problem)
    np.testing.assert_array_equal(search.counts.sum(axis=1), budget)
    np.testing.assert_allclose(search.value, table.value, rtol=1e-12, atol=1e-300)
    assert (search.gap <= 1e-11 * np.abs(search.value) + 1e-13).all()


@pytest.mark.parametrize("spec", SPECS)
def test_replicates_are_solved_as_if_alone(spec):
    rng = np.random.default_rng(3)
    objective = objectives.create(spec)
    p = rng.beta(0.4, 0.6, size=(5, 9))
    together = Problem.of(objective, p, [40, 41, 50, 60, 72], 3, 9)
    solvers = [dynamic] if objective.convex_from is None else [dynamic, concave_by_table]
    solvers += [concave_by_search] if isinstance(objective, ClosedForm) else []
    for solver in solvers:
        found = solver(together)
        for r in range(5):
            alone = solver(Problem.of(objective, p[r], together.budget[r], 3, 9))
            np.testing.assert_array_equal(found.counts[r], alone.counts[0])
            for field in ("value", "bound", "price"):
                assert getattr(found, field)[r] == pytest.approx(getattr(alone, field)[0], rel=1e-9)


@pytest.mark.parametrize("spec", CONCAVE)
def test_permuting_distinct_prompts_permutes_counts(spec):
    rng = np.random.default_rng(4)
    p = rng.uniform(0.05, 0.45, size=30)  # below 1/2: no two prompts are worth the same
    order = rng.permutation(30)
    objective = objectives.create(spec)
    counts = solve(Problem.of(objective, p, 240, 3, 32)).counts[0]
    permuted = solve(Problem.of(objective, p[order], 240, 3, 32)).counts[0]
    np.testing.assert_array_equal(permuted, counts[order])


@pytest.mark.parametrize("spec", SPECS)
def test_value_is_monotone_in_the_budget_where_rollouts_help(spec):
    objective = objectives.create(spec)
    p = np.array([0.02, 0.3, 0.3, 0.5, 0.97, 1.0])
    values = np.array([solve(Problem.of(objective, p, c, 3, 12)).value[0] for c in range(18, 73)])
    if objective.convex_from is not None:
        better = np.diff(values) * (1 if objective.maximise else -1)
        assert (better >= -1e-15).all()
    else:
        assert np.isfinite(values).all()


def test_ties_go_to_the_prompt_with_fewest_then_to_the_first():
    dead = Problem.of(objectives.create("rloo"), [0.0, 1.0, 0.0, 1.0], 18, 2, 8)
    assert solve(dead).counts.tolist() == [[5, 5, 4, 4]]
    assert solve(dead).price[0] == 0
    twins = Problem.of(objectives.create("rloo"), [0.5, 0.5, 0.5], 11, 2, 8)
    assert solve(twins).counts.tolist() == [[4, 4, 3]]
    mixed = Problem.of(objectives.create("rloo"), [0.0, 0.5, 0.0], 14, [2, 2, 3], 8)
    # The only prompt that is worth anything is served to its bound; the rest raises the dead to one level.
    assert solve(mixed).counts.tolist() == [[3, 8, 3]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 12))
def test_dealing_ties_one_at_a_time(seed, replicates, prompts):
    rng = np.random.default_rng(seed)
    least = rng.integers(0, 6, size=(replicates, prompts))
    most = least + rng.integers(0, 6, size=least.shape)
    budget = least.sum(axis=1) + rng.integers(0, (most - least).sum(axis=1) + 1)
    expected = least.copy()
    for r in range(replicates):
        for _ in range(budget[r] - least[r].sum()):
            open_ = [(expected[r, b], b) for b in range(prompts) if expected[r, b] < most[r, b]]
            expected[r, min(open_)[1]] += 1
    np.testing.assert_array_equal(deal_ties(least, most, budget), expected)


@pytest.mark.parametrize("spec", CLOSED_FORM)
def test_no_overflow_at_the_edges(spec):
    p = [0.0, 1.0, 1e-300, 5e-324, 1 - 1e-16, 0.5]
    for solver in (concave_by_table, concave_by_search):
        for budget in (18, 30, 60, 72):
            found = solver(Problem.of(objectives.create(spec), p, budget, 3, 12))
            assert found.counts.sum() == budget
            assert np.isfinite([found.value, found.bound, found.price]).all()


@pytest.mark.parametrize("spec", ["rloo", "dr_grpo", "success_rate"])
@given(seed=st.integers(0, 2**32 - 1), prompts=st.integers(1, 16), share=st.floats(0, 1))
@settings(max_examples=60)
def test_scaling_all_weights_changes_only_the_price(spec, seed, prompts, share):
    p = np.random.default_rng(seed).random(prompts)
    budget = 4 * prompts + int(share * 12 * prompts)
    small, large = (
        solve(Problem.of(objectives.create(spec), p, budget, 4, 16, weights=w)) for w in (1.0, 1024.0)
    )
    np.testing.assert_array_equal(small.counts, large.counts)
    np.testing.assert_allclose(large.price, 1024 * small.price, rtol=1e-9)


def test_zero_or_at_least():
    """Eight rollouts over three prompts in groups of four to seven: one prompt gets none."""
    problem = Problem.of(
        objectives.create("mse[noise_ratio=0.1]"), [0.5, 0.5, 0.02], 8, 4, 7, allow_zero=True
    )
    found = solve(problem)
    assert found.counts.tolist() == [[4, 4, 0]]
    assert found.value[0] == pytest.approx(brute_force(problem), rel=1e-12)
    with pytest.raises(InputError, match="no allowed counts of 2 prompts"):
        solve(Problem.of(objectives.create("rloo"), [0.5, 0.5], 3, 4, 8, allow_zero=True))


def test_duality_gap_of_a_problem_that_is_not_concave():
    """Two prompts, none or four to six rollouts each, six to spend: the relaxation takes 1.5 groups."""
    problem = Problem.of(objectives.create("mse[noise_ratio=0.1]"), [0.5, 0.5], 6, 4, 6, allow_zero=True)
    found = solve(problem)
    assert sorted(found.counts[0].tolist()) == [0, 6]
    four, six, none = (problem.objective.at(np.array([0.5]), np.array([n]))[0] for n in (4, 6, 0))
    assert found.value[0] == pytest.approx(six + none)
    assert found.bound[0] == pytest.approx(1.5 * four + 0.5 * none)


# VIP's figure 2: B = 16, C = 256, L = 4, U = 32, p = i/15 (arXiv 2602.01601, p. 8), i = 0..7, symmetric.
# The theorems' values, not the printed curve: that one is 4 + 77.14 p(1-p), another rule.
FIGURE_2 = {
    "dr_grpo": [4, 10.18, 14.36, 17.12, 19.06, 20.39, 21.24, 21.65],
    "rloo": [4, 11.09, 14.75, 17.18, 18.89, 20.07, 20.82, 21.18],
}
PRINTED_CURVE = [4, 8.80, 12.92, 16.34, 19.09, 21.14, 22.51, 23.20]


@pytest.mark.parametrize("name", FIGURE_2)
def test_vip_figure_2(name):
    p = np.arange(16) / 15
    problem = Problem.of(objectives.create(name), p, 256, 4, 32)
    found = continuous(problem)
    np.testing.assert_allclose(found.counts[0, :8], FIGURE_2[name], atol=0.01)
    np.testing.assert_allclose(found.counts[0], found.counts[0, ::-1], atol=1e-9)
    assert found.counts.sum() == pytest.approx(256)
    assert np.abs(found.counts[0, :8] - PRINTED_CURVE).max() > 1.5


def test_the_printed_curve_of_figure_2_is_proportional_to_the_variance():
    variance = np.arange(16) / 15 * (1 - np.arange(16) / 15)
    curve = 4 + (256 - 64) * variance / variance.sum()
    np.testing.assert_allclose(curve[:8], PRINTED_CURVE, atol=0.02)


@given(
    st.sampled_from(["rloo", "dr_grpo"]),
    st.lists(PROBABILITIES, min_size=1, max_size=16),
    st.integers(3, 4),
    st.integers(0, 20),
    st.floats(0, 1),
)
@settings(max_examples=200)
def test_continuous_optimum_and_vips_rounding(name, p, lower, width, share):
    budget = lower * len(p) + int(share * width * len(p))
    problem = Problem.of(objectives.create(name), p, budget, lower, lower + width)
    relaxed, integer, by_rounding = continuous(problem), solve(problem), rounded(problem)
    assert relaxed.counts.sum() == pytest.approx(budget, rel=1e-9)
    assert relaxed.value[0] <= integer.value[0] * (1 + 1e-9) + 1e-300
    assert relaxed.gap[0] <= 1e-8 * relaxed.value[0] + 1e-12
    assert by_rounding.counts.sum() == budget
    assert (by_rounding.counts >= lower).all()
    assert (by_rounding.counts <= lower + width).all()
    # Algorithm 2 only rounds up from the floor, so it can miss the optimum, but not by much.
    assert integer.value[0] * (1 - 1e-12) <= by_rounding.value[0] <= integer.value[0] * 1.02 + 1e-300


@pytest.mark.parametrize("spec", CONCAVE)
def test_cvxpy_optimum_is_never_below_the_bound(spec):
    pytest.importorskip("cvxpy")
    rng = np.random.default_rng(7)
    for budget in (40, 61, 96):
        p = np.concatenate([rng.beta(0.4, 0.6, size=10), [0.0, 1.0]])
        problem = Problem.of(objectives.create(spec), p, budget, 3, 9)
        exact, relaxed = solve(problem), reference(problem)
        assert problem.sign * (relaxed.value[0] - exact.bound[0]) >= -1e-6 * abs(exact.value[0]) - 1e-9
        assert relaxed.value[0] == pytest.approx(exact.value[0], rel=1e-5, abs=1e-8)
        assert relaxed.counts.sum() == pytest.approx(budget, rel=1e-6)


def test_cvxpy_on_the_formula_is_vips_continuous_problem():
    pytest.importorskip("cvxpy")
    p = np.arange(1, 15) / 15
    problem = Problem.of(objectives.create("rloo"), p, 224, 4, 32)
    relaxed, theorem = reference(problem, interpolate=False), continuous(problem)
    np.testing.assert_allclose(relaxed.counts, theorem.counts, atol=1e-3)
    # Real counts may do better than integers, but not than the continuous dual at the exact price.
    price = solve(problem).price[0]
    n = np.clip(1 + np.sqrt(p * (1 - p) / price), 4, 32)
    dual = (p * (1 - p) / (n - 1) + price * n).sum() - price * 224
    assert dual <= relaxed.value[0] * (1 + 1e-6) <= solve(problem).value[0] * (1 + 1e-6)


def test_cvxpy_with_side_constraints():
    pytest.importorskip("cvxpy")
    p, costs = np.array([0.5, 0.5, 0.1]), np.array([1.0, 4.0, 2.0])
    problem = Problem.of(objectives.create("rloo"), p, 90, 2, 30)  # its 90 rollouts give way to the tokens
    side = {"costs": costs, "tokens": 60, "groups": ["a", "a", "b"]}
    found = reference(problem, **side, minima={"b": 10})
    assert (costs * found.counts[0]).sum() <= 60 * (1 + 1e-6)
    assert found.counts[0, 2] >= 10 * (1 - 1e-6)
    assert found.counts[0, 0] > found.counts[0, 1]  # equal worth, a quarter of the cost
    with pytest.raises(InputError, match="no prompt has group 'c'"):
        reference(problem, **side, minima={"c": 1})
    with pytest.raises(InputError, match="infeasible"):
        reference(problem, **side, minima={"b": 31})


def test_missing_cvxpy_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(InputError, match=r"pip install 'rolloutbench\[cvxpy\]'"):
        solve(Problem.of(objectives.create("rloo"), [0.5], 4, 2, 8), "cvxpy")


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ({"budget": 5}, ["5", "6", "3 prompts"]),
        ({"budget": 25}, ["25", "24"]),
        ({"lower": 9}, ["9", "8"]),
        ({"lower": -1}, ["-1", "negative"]),
        ({"p": [0.5, 1.5, 0.5]}, [r"p\[1\]=1.5"]),
        ({"p": [0.5, np.nan, 0.5]}, [r"p\[1\]=nan"]),
        ({"p": []}, ["at least one prompt"]),
        ({"weights": [1.0, -1.0, 1.0]}, ["-1"]),
        ({"weights": [1.0, np.inf, 1.0]}, ["inf"]),
    ],
)
def test_infeasible_problems_name_the_numbers(arguments, numbers):
    given_ = {"p": [0.1, 0.5, 0.9], "budget": 12, "lower": 2, "upper": 8} | arguments
    for number in numbers:
        with pytest.raises(InputError, match=number):
            Problem.of(objectives.create("rloo"), **given_)


def test_solvers_refuse_what_they_cannot_solve():
    grpo = Problem.of(objectives.create("grpo"), [0.1, 0.5], 12, 2, 8)
    for solver, why in (
        ("concave", "for no range"),
        ("continuous", "solve rloo and dr_grpo"),
        ("cvxpy", "for no range"),
    ):
        with pytest.raises(InputError, match=why):
            solve(grpo, solver)
    low = Problem.of(objectives.create("dr_grpo"), [0.1, 0.5], 12, 2, 8)
    for solver in ("concave", "continuous"):
        with pytest.raises(InputError, match="3"):
            solve(low, solver)
    with pytest.raises(InputError, match="did you mean concave"):
        solve(low, "convex")
    assert set(SOLVERS) == {"auto", "concave", "dynamic", "continuous", "rounded", "cvxpy"}


def test_serving_the_greatest_gains_of_a_table():
    gains = np.array([[[5.0, 3.0, 1.0], [4.0, 4.0, -np.inf], [0.0, 0.0, 0.0]]])  # one row a prompt
    lower, upper = np.array([[0, 0, 0]]), np.array([[3, 2, 3]])
    counts = serve_greatest(gains.swapaxes(1, 2), lower, upper, np.array([4]))
    assert counts.tolist() == [[2, 2, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 9), st.integers(32, 90), st.floats(0, 1))
def test_long_tables_are_served_like_the_sorted_gains(seed, replicates, prompts, units, share):
    rng = np.random.default_rng(seed)
    gains = -np.sort(-(rng.integers(0, 9, size=(replicates, units, prompts)) ** 3.0), axis=1)
    lower = rng.integers(0, 3, size=(replicates, prompts)) * rng.integers(0, 2)
    upper = rng.integers(2, units + 1, size=lower.shape)
    budget = lower.sum(axis=1) + np.floor(share * (upper - lower).sum(axis=1)).astype(int)
    counts = serve_greatest(gains, lower, upper, budget)
    np.testing.assert_array_equal(counts.sum(axis=1), budget)
    for r in range(replicates):
        chosen = [gains[r, lower[r, b] : upper[r, b], b] for b in range(prompts)]
        greatest = np.sort(np.concatenate(chosen))[::-1][: budget[r] - lower[r].sum()]
        served = [gains[r, lower[r, b] : counts[r, b], b] for b in range(prompts)]
        np.testing.assert_array_equal(np.sort(np.concatenate(served))[::-1], greatest)


@given(problems(CONCAVE, holes=False, prompts=4))
@settings(max_examples=60)
def test_weights_act_as_a_factor_of_the_objective(problem):
    assume((problem.weights > 0).all())
    found = solve(problem)
    values = problem.objective.at(problem.p[0], found.counts[0])
    assert found.value[0] == pytest.approx((problem.weights[0] * values).sum(), rel=1e-12, abs=1e-300)
