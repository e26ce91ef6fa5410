"""Pools with features for tests of predictors: difficulty partly predictable, and visits of it."""

from __future__ import annotations

import numpy as np
from scipy import special

from rolloutbench.estimators import RLOO
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Budget, Outcomes, Setting


def setting(features, seed=0, truth=None):
    replicates, pool, _ = features.shape
    return Setting(
        Budget(2, 8),
        RLOO(),
        "prompt",
        replicates,
        pool,
        np.random.default_rng(seed),
        features=features,
        success_probability=None
        if truth is None
        else lambda prompts: truth[np.arange(len(prompts))[:, None], prompts],
    )


def begun(spec, features, seed=0):
    predictor = predictors.create(spec)
    predictor.begin(setting(features, seed))
    return predictor


def pool(replicates, size, dimension=3, own=0.7, seed=1):
    """Features (R, Q, d) and success probabilities (R, Q): a smooth function plus each prompt's own part."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((replicates, size, dimension))
    direction = rng.standard_normal((replicates, dimension, 1)) / np.sqrt(dimension)
    readable = 2 * np.tanh((features @ direction)[..., 0])
    return features, special.expit(readable + own * rng.standard_normal((replicates, size)))


def visit(rng, success, prompts, most=8, least=0):
    """Outcomes of a random number of rollouts of prompts (R, B), -1 for none."""
    counts = np.where(prompts >= 0, rng.integers(least, most + 1, size=prompts.shape), 0)
    rows = np.arange(len(prompts))[:, None]
    return Outcomes(prompts, counts, rng.binomial(counts, success[rows, prompts]))


def batches(rng, replicates, size, batch):
    """Prompts (R, batch), drawn without replacement."""
    return rng.permuted(np.tile(np.arange(size), (replicates, 1)), axis=1)[:, :batch]


def everyone(replicates, size):
    return np.tile(np.arange(size), (replicates, 1))
