"""Inverses of Cholesky factors, many at once: all that a Gaussian posterior takes, by matrix products."""

from __future__ import annotations

import numpy as np

from rolloutbench.protocol import FloatArray

LEAF = 32
"""Greatest matrix that is treated row by row and not by halves."""


def inverse_factor(matrix: FloatArray) -> FloatArray:
    """Inverses of the Cholesky factors of matrices (R, B, B), by halves: numpy has no batched routine.

    `inverse.T @ inverse` is the inverse of the matrix. Only the lower triangle is read.
    """
    size = matrix.shape[-1]
    if size <= LEAF:
        return _inverse_triangle(np.asarray(np.linalg.cholesky(matrix), dtype=np.float64))
    half = size // 2
    inverse = np.zeros_like(matrix)
    first = inverse[:, :half, :half] = inverse_factor(matrix[:, :half, :half])
    below = matrix[:, half:, :half] @ first.swapaxes(1, 2)
    second = inverse_factor(matrix[:, half:, half:] - below @ below.swapaxes(1, 2))
    inverse[:, half:, half:] = second
    inverse[:, half:, :half] = -second @ (below @ first)
    return inverse


def _inverse_triangle(lower: FloatArray) -> FloatArray:
    """Inverses of lower triangles (R, B, B), row by row for all of them at once."""
    diagonal = 1 / np.einsum("rbb->rb", lower)
    scaled = -diagonal[..., None] * lower
    inverse = np.zeros_like(lower)
    for row in range(lower.shape[1]):
        inverse[:, row, :row] = (scaled[:, None, row, :row] @ inverse[:, :row, :row])[:, 0]
        inverse[:, row, row] = diagonal[:, row]
    return inverse


def lengths_squared(vectors: FloatArray, inverse: FloatArray) -> FloatArray:
    """Squared lengths |inverse @ v|^2, (R, P), of vectors v (R, P, B) by lower triangles (R, B, B).

    What is 0 beyond the diagonal is left out, some rows of the triangle at a time.
    """
    squares = np.zeros(vectors.shape[:2])
    for start in range(0, inverse.shape[1], LEAF):
        rows = slice(start, start + LEAF)
        end = min(start + LEAF, inverse.shape[1])
        projected = vectors[..., :end] @ inverse[:, rows, :end].swapaxes(1, 2)
        squares += np.einsum("rpb,rpb->rp", projected, projected)
    return squares
