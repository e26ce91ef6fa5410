import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolloutbench.allocators import allocators
from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.allocators.permuted import Permuted
from rolloutbench.allocators.weighted_uniform import WeightedUniform
from rolloutbench.estimators import estimators
from rolloutbench.objectives import noise_objective, objectives
from rolloutbench.protocol import Allocator, Budget, InputError, Outcomes, PromptStream, Setting
from rolloutbench.solvers import Problem, solve

ONE_SHOT = [
    *(name for name in allocators.names() if isinstance(allocators.create(name), OneShot)),
    "uniform[divide=2]",
    "vip[predictor=oracle]",
    "vip[objective=knapsack,lower=1]",
    "inverse_accuracy[rule=linear_program]",
    "inverse_variance[rule=linear_program]",
    "permuted[of=knapsack]",
    "weighted_uniform[of=coba]",
    "permuted[of=permuted]",
]


def begun(spec, p, budget, estimator="rloo", seed=0):
    """An allocator in a pool with these success probabilities (R, Q)."""
    p = np.atleast_2d(p)
    allocator = allocators.create(spec)
    allocator.begin(
        Setting(
            budget,
            estimators.create(estimator),
            "prompt",
            *p.shape,
            np.random.default_rng(seed),
            features=np.tile(np.random.default_rng(4).standard_normal((p.shape[1], 3)), (len(p), 1, 1)),
            success_probability=lambda prompts: p[np.arange(len(prompts))[:, None], prompts],
        )
    )
    return allocator


def counts_of(spec, p, budget, **kwargs):
    p = np.atleast_2d(p)
    prompts = np.tile(np.arange(p.shape[1]), (len(p), 1))
    return begun(spec, p, budget, **kwargs).allocate(prompts, budget)


FIGURE_2 = np.arange(16) / 15, Budget(16, 256)


@pytest.mark.parametrize("spec", ONE_SHOT)
@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo", "grpo", "reinforce"])
def test_the_whole_budget_is_spent_and_absent_prompts_get_none(spec, estimator):
    rng = np.random.default_rng(1)
    p = rng.beta(0.4, 0.6, size=(4, 20))
    budget = Budget(12, 96)
    allocator = begun(spec, p, budget, estimator)
    stream = PromptStream(20, 4, np.random.SeedSequence(3))
    for _ in range(4):
        prompts = stream.draw(12)
        counts = allocator.allocate(prompts, budget)
        assert counts.dtype == np.int64
        assert (counts >= 0).all()
        expected = 48 if "divide" in spec else 96
        assert (counts.sum(axis=1) == expected).all()
        drawn = np.full(counts.shape, 8)
        allocator.observe(
            Outcomes(prompts, drawn, rng.binomial(drawn, np.take_along_axis(p, prompts, axis=1)))
        )
    short = np.where(np.arange(12) < 5, stream.draw(12), -1)
    counts = allocator.allocate(short, budget)
    assert (counts[:, 5:] == 0).all()
    assert (counts.sum(axis=1) <= 96).all()
    assert (counts[:, :5] > 0).all()
    nobody = allocator.allocate(np.full((4, 12), -1), budget)
    assert (nobody == 0).all()


@pytest.mark.parametrize("spec", [s for s in ONE_SHOT if s != "random" and "permuted" not in s])
@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_replicates_do_not_touch_each_other(spec, estimator):
    p = np.random.default_rng(2).beta(0.4, 0.6, size=(3, 10))
    budget = Budget(10, 80)
    together = counts_of(spec, p, budget, estimator=estimator)
    for r in range(3):
        np.testing.assert_array_equal(together[r], counts_of(spec, p[r], budget, estimator=estimator)[0])


@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo", "grpo", "reinforce"])
def test_vip_minimises_the_estimators_noise(estimator):
    p, budget = FIGURE_2
    counts = counts_of("vip[predictor=oracle,lower=4,upper=32]", p, budget, estimator=estimator)
    objective = noise_objective(estimators.create(estimator))
    best = solve(Problem.of(objective, p, 256, 4, 32))
    np.testing.assert_array_equal(counts, best.counts)


def test_vip_bounds_are_half_and_twice_the_group_size():
    """As in the released scripts: L = 4, U = 16 at 8 rollouts a prompt, L = 8, U = 32 at 16."""
    p = np.array([0.0] * 8 + [0.5] * 8)
    for group_size, lower, upper in ((8, 4, 12), (16, 8, 24)):
        counts = counts_of("vip[predictor=oracle]", p, Budget(16, 16 * group_size))
        assert (counts.min(), counts.max()) == (lower, upper)
    spread = np.array([0.0] * 15 + [0.5])
    assert counts_of("vip[predictor=oracle]", spread, Budget(16, 128)).max() == 16
    assert counts_of("vip[predictor=oracle]", spread, Budget(16, 64), estimator="dr_grpo").min() == 3


def test_vip_without_knowledge_is_uniform():
    p, budget = FIGURE_2
    for spec in ("vip", "vip[predictor=uniform]", "knapsack", "coba", "hit_utility", "inverse_accuracy"):
        assert (counts_of(spec, p, budget) == 16).all(), spec


def test_heuristics_as_vips_figure_2_draws_them():
    """arXiv 2602.01601, fig. 2: the linear programs of the code, not the proportional rule of the text."""
    p, budget = FIGURE_2
    bounds = "predictor=oracle,lower=4,upper=32"
    accuracy = counts_of(f"inverse_accuracy[{bounds},rule=linear_program]", p, budget)[0]
    assert accuracy.tolist() == [32] * 6 + [28] + [4] * 9
    variance = counts_of(f"inverse_variance[{bounds},rule=linear_program]", p, budget)[0]
    assert variance.tolist() == [32, 32, 32, 16, *[4] * 8, 16, 32, 32, 32]


def test_proportional_heuristics():
    p = np.array([0.0, 0.5, 0.75, 0.875])
    counts = counts_of("inverse_accuracy[predictor=oracle,lower=1,upper=100]", p, Budget(4, 60))[0]
    assert counts.tolist() == [32, 16, 8, 4]
    p = np.array([0.5, 0.5, (1 - np.sqrt(0.5)) / 2, (1 + np.sqrt(0.5)) / 2])
    counts = counts_of("inverse_variance[predictor=oracle,lower=1,upper=100]", p, Budget(4, 60))[0]
    assert counts.tolist() == [10, 10, 20, 20]
    bounded = counts_of(
        "inverse_accuracy[predictor=oracle,lower=10,upper=20]", np.arange(4) / 4, Budget(4, 60)
    )
    assert bounded.sum() == 60
    assert (bounded.min(), bounded.max()) == (10, 20)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(8, 30))
@settings(max_examples=60)
def test_proportional_counts_are_nearest_integers(p, group_size):
    """Webster: some multiplier turns the weights into the counts by rounding, within the bounds."""
    budget = Budget(len(p), len(p) * group_size)
    counts = counts_of("inverse_accuracy[predictor=oracle,lower=4,upper=60]", np.array(p), budget)[0]
    weights = 1 - np.array(p) + 1e-6
    floor = np.where(counts > 4, (counts - 0.5) / weights, -np.inf)
    ceiling = np.where(counts < 60, (counts + 0.5) / weights, np.inf)
    assert floor.max() <= ceiling.min() * (1 + 1e-9)


def test_knapsack_gives_what_the_others_cannot_take_to_the_unsolved():
    p = np.array([0.5, 0.0, 0.0, 1.0, 1.0])
    counts = counts_of("knapsack[rule=exact,predictor=oracle,lower=2,upper=10]", p, Budget(5, 34))[0]
    assert counts.tolist() == [10, 10, 10, 2, 2]
    counts = counts_of("knapsack[rule=exact,predictor=oracle,lower=2,upper=10]", p, Budget(5, 26))[0]
    assert counts.tolist() == [10, 6, 6, 2, 2]
    # More than everybody but the solved can take: they share the rest.
    counts = counts_of("knapsack[rule=exact,predictor=oracle,lower=2,upper=10]", p, Budget(5, 40))[0]
    assert counts.sum() == 40


def test_knapsack_is_the_best_by_its_own_value():
    p = np.random.default_rng(5).uniform(0.01, 0.99, size=12)
    counts = counts_of("knapsack[rule=exact,predictor=oracle]", p, Budget(12, 96))
    best = solve(Problem.of(objectives.create("knapsack"), p, 96, 2, 128))
    np.testing.assert_array_equal(counts, best.counts)


def test_coba_moves_with_the_failure_rate():
    """Many failures: budget to easy prompts. Few failures: to hard ones."""
    p, budget = np.array([0.2, 0.8]), Budget(2, 40)
    prompts, counts = np.array([[0, 1]]), np.array([[10, 10]])
    for successes, favoured in (([[0, 1]], 1), ([[9, 10]], 0)):
        allocator = begun("coba[predictor=oracle]", p, budget)
        allocator.observe(Outcomes(prompts, counts, np.array(successes)))
        assert np.argmax(allocator.allocate(prompts, budget)[0]) == favoured


def test_coba_alpha_at_the_reported_failure_rates():
    """CoBA-RL reports alpha from 7.26 down to 2.54; the constants chosen here put them at .72 and .31."""
    allocator = begun("coba[window=2]", np.full(100, 0.5), Budget(100, 800))
    prompts, counts = np.arange(100)[None], np.full((1, 100), 100)
    assert allocator._alpha()[0] == pytest.approx(1.5 + 8 * 0.5)
    for failure, alpha in ((0.72, 7.26), (0.31, 1.5 + 8 / (1 + np.exp(1.9)))):
        for _ in range(2):  # the window forgets what was before
            successes = np.full((1, 100), round(100 * (1 - failure)))
            allocator.observe(Outcomes(prompts, counts, successes))
        assert allocator._alpha()[0] == pytest.approx(alpha)


def test_permuted_keeps_the_counts_and_loses_the_prompts():
    p = np.random.default_rng(6).beta(0.4, 0.6, size=(40, 30))
    budget = Budget(30, 240)
    original = counts_of("vip[predictor=oracle]", p, budget)
    shuffled = counts_of("permuted[of=vip[predictor=oracle]]", p, budget)
    np.testing.assert_array_equal(np.sort(original, axis=1), np.sort(shuffled, axis=1))
    variance = p * (1 - p)
    assert np.corrcoef(original.ravel(), variance.ravel())[0, 1] > 0.9
    assert abs(np.corrcoef(shuffled.ravel(), variance.ravel())[0, 1]) < 0.1


def test_permuted_leaves_absent_prompts_alone_wherever_they_are():
    allocator = begun("permuted[of=uniform]", np.full(6, 0.5), Budget(6, 48))
    prompts = np.array([[-1, 3, -1, 1, 0, -1]])
    assert allocator.allocate(prompts, Budget(6, 48)).tolist() == [[0, 16, 0, 16, 16, 0]]


def test_weighted_uniform_carries_the_counts_as_weights():
    p, budget = FIGURE_2
    spec = "vip[predictor=oracle]"
    allocator = begun(f"weighted_uniform[of={spec}]", p, budget)
    plan = allocator.plan(PromptStream(16, 1, np.random.SeedSequence(0)), budget)
    request = next(plan)
    assert (request.counts == 16).all()
    with pytest.raises(StopIteration) as end:
        plan.send(Outcomes(request.prompts, request.counts, request.counts // 2))
    groups = end.value.value
    others = counts_of(spec, p, budget)[0][request.prompts[0]]
    np.testing.assert_allclose(groups.weights[0], others / 16)
    assert groups.weights.mean() == pytest.approx(1)


def test_random_compositions_are_equally_likely():
    """Five rollouts beyond the two each over three prompts: 21 compositions, chi-squared."""
    allocator = begun("random", np.full((4200, 3), 0.5), Budget(3, 11))
    counts = allocator.allocate(np.tile(np.arange(3), (4200, 1)), Budget(3, 11))
    assert (counts >= 2).all()
    _, seen = np.unique(counts, axis=0, return_counts=True)
    assert len(seen) == 21
    assert ((seen - 200) ** 2 / 200).sum() < 45.3  # 99.9% quantile of chi-squared with 20 degrees


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vip[lower=9]", "budget=128 is below the sum of lower bounds, 144 over 16 prompts"),
        ("vip[upper=7]", "budget=128 is above the sum of upper bounds, 112"),
        ("vip[lower=5,upper=4]", "lower=5 is above upper=4"),
        ("random[lower=20]", "budget=128 is below lower=20 for 16 prompts"),
        ("inverse_accuracy[lower=9]", "below the sum of lower bounds"),
    ],
)
def test_bounds_that_cannot_be_met(spec, message):
    with pytest.raises(InputError, match=message):
        counts_of(spec, FIGURE_2[0], Budget(16, 128))


def test_controls_need_a_one_shot_allocator():
    class Stages(Allocator):
        def plan(self, stream, budget):
            yield

    for control in (Permuted, WeightedUniform):
        with pytest.raises(ValueError, match="of=Stages: .* needs a one-shot allocator"):
            control(of=Stages())
