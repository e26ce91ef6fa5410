"""Inverse factors against numpy's, matrix by matrix."""

import numpy as np
import pytest

from rolloutbench.predictors.cholesky import inverse_factor, lengths_squared


@pytest.mark.parametrize("size", [1, 5, 32, 33, 70, 129])
def test_inverse_factors_and_lengths_are_numpys(size):
    rng = np.random.default_rng(size)
    roots = rng.standard_normal((3, size, size))
    matrices = roots @ roots.swapaxes(1, 2) + np.eye(size)
    vectors = rng.standard_normal((3, 7, size))
    inverse = inverse_factor(matrices)
    squares = lengths_squared(vectors, inverse)
    for r in range(3):
        np.testing.assert_allclose(inverse[r], np.linalg.inv(np.linalg.cholesky(matrices[r])), atol=1e-11)
        np.testing.assert_array_equal(np.triu(inverse[r], 1), 0)
        expected = [v @ np.linalg.solve(matrices[r], v) for v in vectors[r]]
        np.testing.assert_allclose(squares[r], expected, rtol=1e-10)
    unread = matrices + np.triu(np.full((size, size), 9.0), 1)
    np.testing.assert_array_equal(inverse_factor(unread), inverse)
