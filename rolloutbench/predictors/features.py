"""What the predictors that read prompts have in common: feature vectors and their length scale."""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import FeatureArray, FloatArray, InputError, Setting

SUBSAMPLE = 512
"""Number of prompts whose pairwise distances give the median."""


def require_features(setting: Setting, predictor: str) -> FeatureArray:
    """The pool's features (R, Q, d). Raises InputError where the environment has none."""
    if setting.features is None:
        raise InputError(
            f"predictor {predictor} needs a feature vector for each prompt, and there are none here: "
            "choose one that does without, for example predictor=beta"
        )
    return setting.features


def median_length_scale(features: FeatureArray) -> FloatArray:
    """Median Euclidean distance between prompts, (R,), in the features' units; 1 where it is 0.

    The median heuristic, on at most 512 prompts that lie evenly in the pool, so without chance.
    """
    pool = features.shape[1]
    chosen = np.linspace(0, pool - 1, min(pool, SUBSAMPLE)).astype(np.int64)
    points = features[:, chosen].astype(np.float64)
    points -= points.mean(axis=1, keepdims=True)
    squares = (points**2).sum(axis=-1)
    distances = squares[:, :, None] + squares[:, None, :] - 2 * points @ points.swapaxes(1, 2)
    if len(chosen) == 1:
        return np.ones(len(points))
    median = np.median(distances[:, *np.triu_indices(len(chosen), 1)], axis=1)
    return np.where(median > 1e-12 * squares.max(axis=1), np.sqrt(np.maximum(median, 0.0)), 1.0)


def length_scales(features: FeatureArray, given: float | None) -> FloatArray:
    """The length scale of each replicate, (R,): as given, or by the median heuristic."""
    return median_length_scale(features) if given is None else np.full(len(features), given)
