"""VIP's presets and rules, and its posterior objective."""

import numpy as np
import pytest

from rolloutbench.allocators import allocators
from rolloutbench.allocators.one_shot import best_counts
from rolloutbench.estimators import estimators
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Belief, Budget, InputError, Outcomes, Predictor, Setting
from rolloutbench.solvers import Problem, solve

SIZE = 24
FEATURES = np.random.default_rng(0).standard_normal((2, SIZE, 3))
ALL = np.tile(np.arange(SIZE), (2, 1))
BUDGET = Budget(SIZE, 8 * SIZE)


class Fixed(Predictor):
    """A belief that never changes."""

    def __init__(self, mean, variance=0.0):
        self.mean, self.variance = np.asarray(mean), variance

    def predict(self, prompts):
        rows = np.arange(len(prompts))[:, None]
        mean = self.mean[rows, prompts]
        return Belief(mean, np.broadcast_to(self.variance, self.mean.shape)[rows, prompts])


def begun(spec, predictor=None, estimator="rloo", features=FEATURES):
    allocator = allocators.create(spec)
    if predictor is not None:
        allocator.predictor = predictor
    allocator.begin(
        Setting(
            BUDGET,
            estimators.create(estimator),
            "prompt",
            2,
            SIZE,
            np.random.default_rng(1),
            features=features,
        )
    )
    return allocator


def learned(allocator, steps=1, seed=2):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        counts = np.full(ALL.shape, 8)
        allocator.observe(Outcomes(ALL, counts, rng.binomial(counts, rng.beta(0.4, 0.6, ALL.shape))))
    return allocator


def test_the_default_needs_features_and_says_so():
    with pytest.raises(InputError, match="predictor gp needs a feature vector .* predictor=beta"):
        begun("vip", features=None)
    begun("vip[predictor=beta]", features=None)


@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo"])
def test_the_paper_is_interpolation_plug_in_and_theorem(estimator):
    allocator = learned(begun("vip[preset=paper]", estimator=estimator))
    process = predictors.create("gp[noise=0,drift=1,belief=plug_in]")
    assert allocator.predictor == process
    process.begin(allocator.setting)
    learned_rates = learned(begun("vip[predictor=last_epoch]")).predictor.predict(ALL).mean
    p = allocator.predictor.predict(ALL).mean
    np.testing.assert_allclose(p, np.clip(learned_rates, 1e-6, 1 - 1e-6))
    problem = Problem.of(objectives.create(estimator), p, 8 * SIZE, 4, 16)
    counts = allocator.allocate(ALL, BUDGET)
    rounded = solve(problem, "rounded")
    np.testing.assert_allclose(problem.value(counts), rounded.value)  # the paper's Algorithm 2


def test_the_released_code_in_its_parameters():
    allocator = begun("vip[preset=released_code]")
    assert allocator.objective == objectives.create("success_rate")
    assert (allocator.solved_from, allocator.drop_below, allocator.warm_up) == (0.8, 4, 15)
    process = allocator.predictor
    assert (process.length_scale, process.prior_mean, process.noise) == (0.5, -5, 0)
    assert (process.jitter, process.belief, process.drift) == (1e-4, "plug_in", 1)
    assert begun("vip[preset=released_code,warm_up=3]").warm_up == 3
    assert begun("vip[preset=paper,objective=hit]").objective == objectives.create("hit")
    with pytest.raises(InputError, match="preset"):
        allocators.create("vip[preset=code]")


def test_warm_up_is_uniform_and_then_over():
    allocator = begun("vip[preset=released_code,warm_up=2]")
    for _ in range(2):
        assert (allocator.allocate(ALL, BUDGET) == 8).all()
        learned(allocator)
    after = allocator.allocate(ALL, BUDGET)
    assert (after != 8).any()
    resumed = begun("vip[preset=released_code,warm_up=2]")
    resumed.load_state_dict(allocator.state_dict())
    np.testing.assert_array_equal(resumed.allocate(ALL, BUDGET), after)


def test_solved_prompts_and_hopeless_batches():
    p = np.tile(np.linspace(0.05, 0.95, SIZE), (2, 1))
    p[1] = 1e-4
    allocator = begun("vip[preset=released_code,warm_up=0]", Fixed(p))
    counts = allocator.allocate(ALL, BUDGET)
    assert (counts[0, p[0] >= 0.8] == 4).all()
    assert counts[0, (p[0] > 0.2) & (p[0] < 0.8)].min() > 6
    assert (counts[1] == 8).all()
    p[1, -1] = 0.5  # what an absent prompt is predicted to be means nothing
    absent = np.where(ALL < 16, ALL, -1)
    assert (allocator.allocate(absent, BUDGET)[1, :16] == 12).all()


def test_counts_below_four_become_nothing():
    p = np.tile(np.where(np.arange(SIZE) < 6, 0.0, 0.5), (2, 1))
    spec = "vip[objective=success_rate,lower=2,upper=30,drop_below=4]"
    counts = begun(spec, Fixed(p)).allocate(ALL, BUDGET)
    assert (counts[:, :6] == 0).all()
    assert (counts.sum(axis=1) == 8 * SIZE).all()
    assert counts[:, 6:].min() >= 4


def test_the_posterior_prefers_prompts_known_to_be_mixed():
    """Same mean: where p is surely 1/2 there is more reward variance than where it is 0 or 1."""
    mean, variance = np.full((2, SIZE), 0.5), np.tile(np.where(np.arange(SIZE) < 12, 0.0, 0.2), (2, 1))
    plug_in = begun("vip", Fixed(mean, variance)).allocate(ALL, BUDGET)
    posterior = begun("vip[belief=posterior]", Fixed(mean, variance)).allocate(ALL, BUDGET)
    assert (plug_in == 8).all()
    assert posterior[:, :12].min() > posterior[:, 12:].max()


@pytest.mark.parametrize("objective", ["rloo", "non_zero_gradient", "grpo"])
def test_the_posterior_with_certainty_is_the_plug_in(objective):
    p = np.random.default_rng(3).uniform(0.05, 0.95, size=(2, SIZE))
    values = []
    for belief in ("mean", "posterior"):
        counts = begun(f"vip[objective={objective},belief={belief}]", Fixed(p)).allocate(ALL, BUDGET)
        values.append(Problem.of(objectives.create(objective), p, 8 * SIZE, 2, 16).value(counts))
    np.testing.assert_allclose(values[0], values[1])


def test_defaults_are_predictor_times_objective_times_solver():
    allocator = learned(begun("vip"))
    p = allocator.predictor.predict(ALL).mean
    expected = best_counts(objectives.create("rloo"), ALL, p, BUDGET, 4, 16)
    np.testing.assert_array_equal(allocator.allocate(ALL, BUDGET), expected)
