"""The ensemble must know more than its feature model alone and its filter alone."""

import numpy as np
import pytest
from synthetic import batches, begun, everyone, pool, visit

from rolloutbench.predictors import predictors
from rolloutbench.protocol import InputError

SIZE, BATCH, REPLICATES = 256, 32, 12


def errors_after_two_epochs(spec, own):
    """Mean squared error of p over the pool, (R,), from the same outcomes for every spec."""
    features, success = pool(REPLICATES, SIZE, 4, own=own, seed=13)
    rng = np.random.default_rng(14)
    predictor = begun(spec, features)
    for _ in range(2):
        order = batches(rng, REPLICATES, SIZE, SIZE)
        for start in range(0, SIZE, BATCH):
            predictor.update(visit(rng, success, order[:, start : start + BATCH], 8, 8))
    return ((predictor.predict(everyone(REPLICATES, SIZE)).mean - success) ** 2).mean(axis=1)


def test_it_beats_both_parts_where_difficulty_is_partly_predictable():
    ensemble = errors_after_two_epochs("ensemble", own=1.0)
    for part in ("sparse_gp", "kalman"):
        gain = errors_after_two_epochs(part, own=1.0) - ensemble
        standard_error = gain.std(ddof=1) / np.sqrt(REPLICATES)
        assert gain.mean() > 5 * standard_error, part
        assert gain.mean() > 0.1 * ensemble.mean(), part


@pytest.mark.parametrize("own", [0.05, 3.0])
def test_it_is_about_as_good_as_the_better_part_at_the_ends(own):
    ensemble = errors_after_two_epochs("ensemble", own=own).mean()
    better = min(errors_after_two_epochs(part, own=own).mean() for part in ("sparse_gp", "kalman"))
    assert ensemble < 1.25 * better


def test_features_speak_for_prompts_never_visited():
    features, success = pool(8, 200, 3, own=0.2, seed=15)
    rng = np.random.default_rng(16)
    predictor = begun("ensemble[base=sparse_gp[frequencies=32]]", features)
    for start in range(0, 150, 50):
        predictor.update(visit(rng, success, np.tile(np.arange(start, start + 50), (8, 1)), 8, 8))
    unseen = np.tile(np.arange(150, 200), (8, 1))
    found = predictor.predict(unseen).mean
    correlations = [np.corrcoef(found[r], success[r, 150:])[0, 1] for r in range(8)]
    assert np.mean(correlations) > 0.6


def test_only_predictors_of_logits_can_be_its_base():
    with pytest.raises(InputError, match="base=Ridge: the ensemble needs a predictor of logits"):
        predictors.create("ensemble[base=ridge]")
