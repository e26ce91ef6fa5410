"""What a study compares where its description does not say."""

from __future__ import annotations

SNAPSHOT_ALLOCATORS = (
    "uniform",
    "uniform[divide=2]",
    "uniform[divide=4]",
    "vip",
    "vip[predictor=oracle]",
    "knapsack",
    "coba",
    "hit_utility",
    "inverse_accuracy",
    "inverse_variance",
    "permuted[of=vip]",
    "weighted_uniform[of=vip]",
    "random",
)
DEFAULT_ALLOCATORS = (
    "uniform",
    "vip[predictor=beta]",
    "knapsack",
    "coba",
    "dapo",
    "ar3po",
    "pilot_commit",
    "mopps",
    "mopps[predictor=oracle]",
    "vigor",
    "frontier",
    "frontier[price=seconds]",
)
"""Allocators by default, of whom the whole study takes three minutes of two cores."""
RATE_FACTORS = (0.5, 1.0, 2.0)
"""Factors of a scenario's learning rate, of which each allocator is judged at its own best."""
DEFAULT_PREDICTORS = (
    "beta",
    "last_epoch",
    "moving_average",
    "global_mean",
    "ridge",
    "gp",
    "gp[noise=0]",
    "sparse_gp",
    "kalman",
    "ensemble",
)

FEATURELESS_PREDICTORS = (
    "beta",
    "beta[discount=0.8]",
    "last_epoch",
    "moving_average",
    "global_mean",
    "kalman",
    "arcsine",
    "markov",
)
"""Predictors by default where prompts have no feature vectors, as in a recorded run."""

TRAINING_ALLOCATORS = (
    "uniform[divide=2]",
    "dapo",
    "vip",
    "vip[predictor=oracle]",
    "ar3po",
    "pilot_commit",
    "reinforce_ada",
    "knapsack",
)
"""Allocators of real runs, which cost minutes each."""
