import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import gradients_of_parts
from paid import paid
from small_world import THETA, assert_same_distribution, small_pool, small_scenario, world

import simulators.learning
from rolloutbench.allocators import allocators
from rolloutbench.cells.collectors import Totals
from rolloutbench.estimators import estimators, level_advantages
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Groups, InputError, Request, Reuse
from simulators.credit import Credit
from simulators.learning import LearningCell, Policy
from simulators.pools import Pool
from simulators.scenarios import scenarios

ESTIMATORS = ["reinforce", "dr_grpo", "rloo", "grpo"]
STEPS = 3000
COUNTS, WEIGHTS = [2, 3, 7], [1.0, 0.5, 2.0]


def check_against_single_rollouts(
    estimator, aggregation, keep=((9, 9),) * 3, then=None, reused=(0, 0, 0), **conditions
):
    conditions = small_scenario(staleness=0 if then is None else 2, **conditions)
    pool = small_pool(replicates=STEPS)
    environment = world(pool, conditions, estimator, aggregation, theta=THETA)
    if then is not None:
        environment._thetas = [np.tile(old, (STEPS, 1)) for old in (then, THETA / 2)]
    prompts = np.tile(np.arange(3), (STEPS, 1))
    outcomes = paid(environment, Request(prompts, np.tile(COUNTS, (STEPS, 1))))
    most = np.array(keep)
    stored = Reuse(np.tile(reused, (STEPS, 1)), np.ones_like(prompts), "I")
    environment.update(
        Groups(
            prompts,
            np.minimum(outcomes.successes, most[:, 0]),
            np.minimum(outcomes.counts - outcomes.successes, most[:, 1]),
            np.tile(WEIGHTS, (STEPS, 1)),
            reused=stored if any(reused) else None,
        )
    )
    slow = gradients_of_parts(
        np.random.default_rng(11),
        draws=STEPS,
        difficulty=environment.policy.difficulty[0],
        features=pool.features[0],
        theta=THETA,
        kappa=conditions.kappa,
        sigma=conditions.sigma,
        parts=conditions.parts,
        threshold=conditions.threshold,
        counts=COUNTS,
        keep=keep,
        weights=WEIGHTS,
        name=estimator,
        aggregation=aggregation,
        then=then,
        reused=reused,
    )
    assert_same_distribution(environment.gradient, slow)


@pytest.mark.parametrize(
    ("estimator", "aggregation", "parts", "threshold"),
    [
        ("reinforce", "prompt", 3, 1.0),
        ("dr_grpo", "rollout", 2, 0.5),
        ("rloo", "prompt", 2, 1.0),
        ("grpo", "rollout", 3, 0.5),
    ],
)
def test_gradient_is_that_of_rollouts_part_by_part(estimator, aggregation, parts, threshold):
    """Means and covariances over many steps, within 4 standard errors, against single rollouts."""
    check_against_single_rollouts(estimator, aggregation, parts=parts, threshold=threshold)


def test_gradient_of_what_is_kept_of_a_group():
    """Three of seven rollouts, chosen by success alone, have the levels that such rollouts have."""
    keep = ((1, 1), (2, 1), (1, 2))
    check_against_single_rollouts("grpo", "rollout", keep, parts=3, threshold=0.6)


def test_gradient_with_stored_successes():
    check_against_single_rollouts("dr_grpo", "prompt", reused=(1, 0, 2), parts=3, threshold=0.6)


def test_gradient_where_rollouts_are_stale():
    then = np.array([-1.0, 1.0, 0.5, -0.5])
    check_against_single_rollouts("grpo", "prompt", then=then, parts=2)


@pytest.mark.parametrize("option", [None, "I", "II", "replay"])
@pytest.mark.parametrize("baseline", [None, 0.3])
@pytest.mark.parametrize("estimator", [*ESTIMATORS, "grpo[ddof=0,eps=0.1]"])
def test_one_part_is_success_or_failure(estimator, baseline, option):
    """By levels, where there are two, comes out what comes out of the two integers."""
    conditions = small_scenario(prompts=6, pool_size=6)
    by_level = dataclasses.replace(conditions)
    by_level.__dict__["credit"] = Credit(1, 1.0)
    gradients = []
    for each in (conditions, by_level):
        environment = world(small_pool(prompts=6), each, estimator, "rollout", theta=THETA)
        environment._thetas = [THETA[None] + 0.1]
        environment.ledger.solved[:] = True
        environment._rewards = Unmoved()
        groups = Groups(
            np.array([[5, 0, 3, -1, 1, 2]]),
            np.array([[3, 0, 4, 0, 1, 0]]),
            np.array([[1, 4, 0, 0, 0, 0]]),
            np.array([[1.0, 2.0, 1.0, 1.0, 0.5, 1.0]]),
            None if baseline is None else np.array([[baseline, np.nan, baseline, np.nan, baseline, np.nan]]),
            None if option is None else Reuse(np.eye(6, dtype=int)[[1]], np.ones((1, 6), int), option),
        )
        environment.update(groups)
        gradients.append(environment.gradient)
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-13)


class Unmoved:
    """Random numbers for what is determinate: all of one level, and no drift."""

    def multinomial(self, counts, chances):
        assert chances.shape[-1] == 1
        return counts[..., None]

    def standard_normal(self, shape):
        return np.zeros(shape)


def test_one_step_by_hand():
    """Failures pass no part, and successes one or two of two; without noise the rest is arithmetic."""
    conditions = small_scenario(prompts=1, pool_size=1, noise_ratio=0.0, parts=2, threshold=1.0)
    environment = world(small_pool(prompts=1), conditions, "rloo", theta=THETA)
    environment._rewards = Dealt([[0, 1]], [[2]])  # below: none or one part; above: both
    environment.update(Groups(np.array([[0]]), np.array([[2]]), np.array([[1]]), np.ones((1, 1))))
    phi, b = small_pool(prompts=1).features[0, 0], environment.policy.difficulty[0, 0]
    p = 1 / (1 + math.exp(-(b + phi @ THETA - 0.15 * THETA @ THETA)))
    x = ((0.5 - 1.0) * (1 - 2 * p) + 2 * (1.0 - 0.75) * (2 - 2 * p)) / 3
    np.testing.assert_allclose(environment.gradient[0], x * (phi - 0.3 * THETA), atol=1e-14)
    totals = environment.totals
    assert totals.effective == 1
    assert totals.deviation == pytest.approx(np.std([0.5, 1.0, 1.0]))


class Dealt:
    """Random numbers that were drawn before: counts by level, one after the other."""

    def __init__(self, *counts):
        self.counts = list(counts)

    def multinomial(self, counts, chances):
        return np.array(self.counts.pop(0))[None]


def test_without_a_success_a_group_may_have_a_gradient():
    rewards = Credit(2, 1.0).deviation(np.array([[[3, 0, 0], [2, 1, 0], [0, 3, 0], [0, 0, 0], [1, 0, 1]]]))
    expected = [0, np.std([0, 0, 0.5]), 0, 0, 0.5]
    np.testing.assert_allclose(rewards[0], expected)
    prompts, failures = np.array([[4, 2, 7, -1, 3]]), np.array([[3, 3, 3, 0, 1]])
    groups = Groups(prompts, np.array([[0, 0, 0, 0, 1]]), failures, np.ones((1, 5)))
    totals = Totals(1)
    totals.add(groups, None, rewards)
    assert (totals.groups, totals.effective, totals.ineffective, totals.unsolved) == (4, 2, 6, 3)


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(2, 3), st.floats(0, 1), st.data())
def test_unbiased_estimators_have_the_gradient_of_the_mean_reward(parts, n, p, data):
    """Over all outcomes of n rollouts: E[x] is p(1-p) under RLOO and REINFORCE, (n-1)/n of it centred."""
    credit = Credit(parts, 1.0)
    chances = [math.comb(parts, c) * p**c * (1 - p) ** (parts - c) for c in range(parts + 1)]
    name, share = data.draw(st.sampled_from([("reinforce", 1), ("rloo", 1), ("dr_grpo", (n - 1) / n)]))
    signal = 0.0
    for passed in itertools.product(range(parts + 1), repeat=n):
        members = np.bincount(passed, minlength=parts + 1)[None, None]
        one = np.ones((1, 1), int)
        groups = Groups(one, members[..., -1], n - members[..., -1], np.ones((1, 1)))
        advantages, size = level_advantages(estimators.create(name), groups, credit.rewards, members)
        x = (members * advantages * (credit.passed - parts * p)).sum() / size[0, 0]
        signal += math.prod(chances[c] for c in passed) * x
    assert signal == pytest.approx(share * p * (1 - p), abs=1e-12)


@given(st.integers(1, 8), st.floats(0.01, 1), st.floats(0, 1))
def test_chance_of_success_is_that_of_enough_parts(parts, threshold, p):
    credit = Credit(parts, threshold)
    chance = sum(
        math.comb(parts, c) * p**c * (1 - p) ** (parts - c)
        for c in range(parts + 1)
        if c / parts >= threshold
    )
    assert credit.success(np.array(p)) == pytest.approx(chance, abs=1e-12)


@given(st.integers(2, 6), st.floats(0.01, 1), st.integers(0, 20), st.integers(0, 20))
def test_levels_are_those_of_what_is_kept(parts, threshold, successes, failures):
    """All successes reach the threshold, no failure does, whatever p; at p = 0 and 1 nothing is random."""
    credit = Credit(parts, threshold)
    p = np.array([[0.0, 1e-200, 0.3, 1 - 1e-16, 1.0]])
    k, failed = np.full(p.shape, successes), np.full(p.shape, failures)
    levels = credit.dealt(np.random.default_rng(1), k, failed, p)
    good = credit.rewards >= threshold
    assert (levels[..., good].sum(axis=-1) == k).all()
    assert (levels[..., ~good].sum(axis=-1) == failed).all()
    assert levels[0, 0, 0] == failures
    assert levels[0, -1, -1] == successes


def test_difficulty_is_the_chance_of_full_reward():
    """At theta = 0 rollouts of three parts are right as often as the pool says; the slope is of rewards."""
    pool = Pool(np.array([[0.0, 1.0, 0.3]]), small_pool().features)
    policy = Policy.on(pool, 0.2, parts=3)
    at = policy.difficulty, policy.features
    np.testing.assert_allclose(policy.success(*at, policy.theta), pool.success)
    policy.theta = THETA[None].copy()
    np.testing.assert_allclose(policy.success(*at, policy.theta), policy.part(*at, policy.theta) ** 3)
    step = 1e-6 * np.eye(4)
    mean = [policy.part(*at, policy.theta + sign * e).mean() for e in step for sign in (1, -1)]
    slope = -np.diff(np.reshape(mean, (4, 2)), axis=1)[:, 0] / 2e-6
    np.testing.assert_allclose(policy.gradient()[0], slope, rtol=1e-6)


def test_allocators_see_who_reaches_the_threshold():
    conditions = small_scenario(parts=2, threshold=0.5)
    environment = world(small_pool(replicates=4000), conditions, theta=THETA)
    prompts = np.tile(np.arange(3), (4000, 1))
    outcomes = paid(environment, Request(prompts, np.full((4000, 3), 4)))
    p = environment.policy.part(environment.policy.difficulty, environment.policy.features, THETA[None])
    seen = outcomes.successes.mean(axis=0) / 4
    np.testing.assert_allclose(environment.reward(prompts)[0], 1 - (1 - p[0]) ** 2)
    np.testing.assert_allclose(environment.success(prompts)[0], p[0] ** 2)
    np.testing.assert_allclose(seen, 1 - (1 - p[0]) ** 2, atol=0.02)


def test_replay_weighs_by_the_chances_of_success(monkeypatch):
    monkeypatch.setattr(simulators.learning, "CLIP_HIGH", np.inf)
    conditions = small_scenario(prompts=1, pool_size=1, noise_ratio=0.0, parts=3, threshold=0.6)
    environment = world(small_pool(prompts=1), conditions, theta=THETA)
    then = THETA + np.array([0.2, 0.0, -0.1, 0.1])
    environment._thetas = [then[None]]
    look = environment._look(np.zeros((1, 1), int))
    now, before = (environment.policy.part(look[0], look[1], theta[None])[0, 0] for theta in (THETA, then))
    ratio = environment._importance(np.ones((1, 1), int), *look)
    of = [3 * p**2 * (1 - p) + p**3 for p in (now, before)]
    np.testing.assert_allclose(ratio, of[0] / of[1])


@pytest.mark.parametrize("field", ["lost", "false_positive", "false_negative"])
@pytest.mark.parametrize("name", ["u-shaped-v1", "measured"])
def test_levels_and_a_verifier_that_errs_are_refused(name, field):
    with pytest.raises(InputError, match=f"{field}=0.1: with parts=2 only 0 is allowed"):
        scenarios.create(f"{name}[parts=2,{field}=0.1]")


@pytest.mark.parametrize(
    "spec",
    ["uniform", "ar3po", "ar3po[reuse=replay]", "dapo", "pilot_commit", "pods", "dbb", "pooled_baseline"],
)
def test_training_with_partial_credit(spec):
    """Every kind of groups is trained on, and the policy gets better, by rollouts of older policies too."""
    made = scenarios.create("partial-credit-v1[steps=15,prompts=32,pool_size=128,staleness=2,threshold=0.5]")
    grpo = estimators.create("grpo")
    run = LearningCell("partial", made, spec, allocators.create(spec), grpo, "rollout", 0, 0).run()
    first, last = (run[run.steps == step].accuracy.mean() for step in (0, 15))
    assert last > first + 0.01
    assert run.trained.max() > 0


def test_partial_credit_tells_more_of_the_same_rollouts():
    """With more levels the same number of rollouts has a better gradient, and fewer groups without one."""
    cosines, effective = [], []
    for parts in (1, 2, 4):
        made = scenarios.create(f"u-shaped-v1[parts={parts}]")
        uniform, rloo = allocators.create("uniform"), estimators.create("rloo")
        environment, _ = LearningCell("", made, "", uniform, rloo, "prompt", 0, 0).world()
        driven = begin(environment, uniform)
        truth = environment.policy.gradient()
        gradient = run_step(environment, driven).measured["gradient"]
        lengths = np.sqrt((gradient**2).sum(axis=1) * (truth**2).sum(axis=1))
        cosines.append(((gradient * truth).sum(axis=1) / lengths).mean())
        effective.append(environment.totals.effective.sum())
    assert cosines == sorted(cosines)
    assert effective == sorted(effective)
