"""A policy on three prompts in four dimensions, and a test that two ways to draw gradients agree."""

import numpy as np

from rolloutbench.estimators import estimators
from rolloutbench.protocol import PromptStream, Setting
from simulators.learning import Learning, Policy
from simulators.pools import BetaDifficulty, Pool
from simulators.scenarios import LearningScenario


def scenario(**conditions):
    return LearningScenario("", BetaDifficulty(1, 1), **conditions)


def small_scenario(**conditions):
    few = {"prompts": 3, "group_size": 4, "pool_size": 3, "noise_ratio": 2.0, "dimension": 4, "kappa": 0.3}
    return scenario(**(few | conditions))


def world(pool, conditions, estimator="rloo", aggregation="prompt", learning_rate=1.0, theta=None, seed=0):
    """A policy on the pool at theta, in an environment of as many replicates as the pool has."""
    replicates, size = pool.success.shape
    setting = Setting(
        conditions.budget,
        estimators.create(estimator),
        aggregation,
        replicates,
        size,
        np.random.default_rng(9),
    )
    policy = Policy.on(pool, conditions.kappa, conditions.parts)
    if theta is not None:
        policy.theta = np.broadcast_to(theta, policy.theta.shape).copy()
    stream = PromptStream(size, replicates, np.random.SeedSequence(seed))
    rngs = (np.random.default_rng([seed, i]) for i in (1, 2))
    return Learning(setting, stream, policy, conditions, learning_rate, *rngs)


def small_pool(prompts=3, dimension=4, replicates=1):
    rng = np.random.default_rng(3)
    features = rng.standard_normal((1, prompts, dimension))
    features /= np.sqrt((features**2).sum(axis=2, keepdims=True))
    return Pool(rng.uniform(0.15, 0.85, (1, prompts)), features).repeated(replicates)


THETA = np.array([0.3, -0.5, 0.2, 0.4])


def assert_same_distribution(ours, theirs):
    """Means and covariances (d, d), within 4 standard errors."""
    for a, b in ((ours, theirs), (products(ours), products(theirs))):
        error = np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b))
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4 * error).all()


def products(gradients):
    centred = gradients - gradients.mean(axis=0)
    return np.einsum("ni,nj->nij", centred, centred)
