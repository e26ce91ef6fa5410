"""One mean of all rollouts in a window of steps."""

import numpy as np
import pytest
from synthetic import begun, everyone, visit

from rolloutbench.protocol import Outcomes


def test_it_is_the_mean_of_the_window():
    predictor = begun("global_mean[window=2]", np.zeros((2, 4, 1)))
    assert (predictor.predict(everyone(2, 4)).mean == 0.5).all()
    for n, k in ((8, 8), (4, 1), (12, 2)):
        counts = np.array([[n, n], [0, 0]])
        predictor.update(Outcomes(everyone(2, 2), counts, np.array([[k, 0], [0, 0]])))
    belief = predictor.predict(everyone(2, 4))
    np.testing.assert_allclose(belief.mean, [[3 / 32] * 4, [0.5] * 4])
    np.testing.assert_allclose(belief.variance[1], 1 / 12)
    for _ in range(2):  # only the other replicate's window moves
        predictor.update(Outcomes(everyone(2, 1), np.array([[0], [5]]), np.array([[0], [4]])))
    np.testing.assert_allclose(predictor.predict(everyone(2, 1)).mean, [[3 / 32], [0.8]])


def test_its_variance_is_that_between_prompts():
    rng = np.random.default_rng(19)
    success = rng.beta(2, 3, size=(1, 5000))
    predictor = begun("global_mean", np.zeros((1, 5000, 1)))
    predictor.update(visit(rng, success, everyone(1, 5000), 6, 6))
    belief = predictor.predict(everyone(1, 1))
    assert belief.mean[0, 0] == pytest.approx(0.4, abs=0.02)
    assert belief.variance[0, 0] == pytest.approx(0.4 * 0.6 / 6, rel=0.1)
