"""Ridge against least squares with penalty rows, and the moments of its beliefs."""

import numpy as np
import pytest
from synthetic import batches, begun, everyone, pool, visit


@pytest.mark.parametrize(("penalty", "discount"), [(1.0, 0.95), (0.1, 0.5), (20.0, 1.0)])
def test_it_is_discounted_least_squares(penalty, discount):
    features, success = pool(2, 60, 4)
    rng = np.random.default_rng(9)
    predictor = begun(f"ridge[penalty={penalty},discount={discount}]", features)
    history = []
    for _ in range(4):
        outcomes = visit(rng, success, batches(rng, 2, 60, 25))
        predictor.update(outcomes)
        history.append(outcomes)
    for r in range(2):
        x, y = [], []
        for age, outcomes in enumerate(reversed(history)):
            there = outcomes.counts[r] > 0
            weight = np.sqrt(discount**age)
            rate = outcomes.successes[r, there] / outcomes.counts[r, there]
            rows = features[r, outcomes.prompts[r, there]]
            x.append(weight * np.column_stack([rows, np.ones(len(rows))]))
            y.append(weight * rate)
        penalties = np.column_stack([np.sqrt(penalty) * np.eye(4), np.zeros(4)])
        solution = np.linalg.lstsq(np.concatenate([*x, penalties]), np.append(np.concatenate(y), [0] * 4))[0]
        expected = np.clip(features[r] @ solution[:4] + solution[4], 0, 1)
        np.testing.assert_allclose(predictor.predict(everyone(2, 60)).mean[r], expected, atol=1e-7)


def test_the_variance_is_what_features_do_not_explain():
    """p = linear + independent error of a known variance, measured with few rollouts."""
    rng = np.random.default_rng(10)
    features = rng.uniform(-1, 1, size=(1, 4000, 2))
    success = 0.5 + 0.15 * features[..., 0] + 0.15 * rng.choice([-1.0, 1.0], size=(1, 4000))
    predictor = begun("ridge", features)
    predictor.update(visit(rng, success, everyone(1, 4000), most=8, least=8))
    belief = predictor.predict(everyone(1, 4000))
    assert belief.variance.mean() == pytest.approx(0.15**2, rel=0.1)
    assert ((belief.mean - success) ** 2).mean() == pytest.approx(0.15**2, rel=0.1)


def test_at_first_it_knows_nothing():
    belief = begun("ridge", pool(2, 5)[0]).predict(everyone(2, 5))
    np.testing.assert_allclose(belief.mean, 0.5)
    np.testing.assert_allclose(belief.variance, 1 / 12)
