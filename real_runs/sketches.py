"""Scores of responses, projected: one backward pass, a few numbers a row.

The score of a row is the gradient of the summed log-probability of its response with respect to all
weight matrices of the network. A layer's part of it is G = sum_t d_t x_t', over the places t of the row:
d_t what flows back into the layer's output, x_t its input. With random signs P and Q the block P' G Q is
the sum of (P' d_t)(Q' x_t)', so G need never be formed. A row's sketch is several such blocks, each summed
over all layers, with independent signs for each block and matrix. Hence E<sketch_i, sketch_j> =
<score_i, score_j> over the signs, whatever the layers' sizes and however their gradients are spread: a
layer with little gradient takes no room from the others. Large blocks cost least; small ones are more
accurate, since P and Q alone must hold a gradient of low rank (see `BLOCK`).

Lengths of scores are exact: |G|^2 = sum_ts <d_t, d_s> <x_t, x_s>. A matrix that is used twice, as the
embedding and as the output layer, counts once with the sum of both gradients. Biases and the scales of
normalisation layers are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from real_runs.likelihood import response_logprobs
from real_runs.rollouts import Prompt, TokenArray
from rolloutbench.protocol import InputError, IntArray

BLOCK = 8
"""Rows and columns of a block. On `tiny` over sorting, 256 dimensions: correlation with exact inner products
within a prompt .990, .988, .986, .976 at 1, 4, 8, 16, in 2.3, 1.7, 1.35, 1.2 times a training pass."""

AT_ONCE = 2048
"""Tokens that are computed at once, with padding: hooks keep what goes into and back out of each layer, which
for a model of 135 million parameters is a MiB a token."""

Float32Array = npt.NDArray[np.float32]


def sketch(
    network: Any,
    prompts: Sequence[Prompt],
    tokens: TokenArray,
    lengths: IntArray,
    temperature: float = 1.0,
    dimensions: int = 256,
    seed: int = 0,
    at_once: int = AT_ONCE,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[Float32Array, Float32Array]:
    """Sketches (N, dimensions) of the scores of N responses, and the lengths (N,) of the scores.

    `prompts` has one prompt a row; `tokens` (N, T) and `lengths` (N,) are as in `Sampled`. As many rows are
    computed together as have `at_once` tokens, or one; `tell` hears how many are done. `network` is a
    transformers causal language model whose weight matrices all belong to `nn.Linear` and `nn.Embedding`;
    rows with the same `seed` can be compared, whatever the batch.

    Raises InputError where `dimensions` is no multiple of 64 or the network has other matrices.
    """
    if dimensions < BLOCK**2 or dimensions % BLOCK**2:
        raise InputError(f"dimensions={dimensions}: a positive multiple of {BLOCK**2} is expected")
    projections = _projections(network, dimensions // BLOCK**2, seed)
    sketches = np.zeros((len(prompts), dimensions), dtype=np.float32)
    norms = np.zeros(len(prompts), dtype=np.float32)
    widths = np.array([len(prompt) for prompt in prompts], dtype=np.int64) + lengths
    done = 0
    for chosen in _parts(widths, at_once):
        found = _Scores(projections, len(chosen), network.device)
        with _freeze(network), found.attach(network):
            asked = [prompts[row] for row in chosen]
            logprobs: Any = response_logprobs(
                network, asked, tokens[chosen], lengths[chosen], temperature, in_rows=True
            )
            logprobs.sum().backward()
        sketches[chosen] = found.blocks.flatten(1).cpu().numpy()
        norms[chosen] = found.squares.clamp(min=0).sqrt().cpu().numpy()
        done += len(chosen)
        tell(done)
    return sketches, norms


def _parts(widths: IntArray, at_once: int) -> Iterator[IntArray]:
    """Places of the rows of each part: of similar widths (N,), so that little is padding; longest first."""
    order = np.argsort(-widths, kind="stable")
    while len(order):
        rows = max(1, at_once // int(widths[order[0]]))
        yield order[:rows]
        order = order[rows:]


class _Signs:
    """Projections of one matrix (O, I): `left` (O, c * BLOCK) and `right` (I, c * BLOCK) for c blocks."""

    def __init__(self, weight: torch.Tensor, blocks: int, generator: torch.Generator) -> None:
        def signs(size: int, scale: float) -> torch.Tensor:
            drawn = torch.randint(2, (size, blocks * BLOCK), generator=generator, dtype=torch.int8)
            return ((2 * drawn - 1) * scale).to(device=weight.device, dtype=torch.float32)

        # E<sketch, sketch> adds up BLOCK^2 entries of `blocks` blocks, each right on average.
        scale = (blocks * BLOCK**2) ** -0.25
        self.left, self.right = (signs(size, scale) for size in weight.shape)


def _projections(network: Any, blocks: int, seed: int) -> dict[int, _Signs]:
    """Projections by the identity of the matrix, so that tied layers share theirs."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, _Signs] = {}
    for module in network.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding) and id(module.weight) not in found:
            found[id(module.weight)] = _Signs(module.weight, blocks, generator)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and id(parameter) not in found:
            raise InputError(f"network: '{name}' belongs to no Linear or Embedding, so scores would lack it")
    return found


class _Scores:
    """Sums that the hooks of one backward pass gather: `blocks` (N, c, BLOCK, BLOCK) and `squares` (N,)."""

    def __init__(self, projections: dict[int, _Signs], rows: int, device: torch.device) -> None:
        self.projections, self.rows = projections, rows
        blocks = next(iter(projections.values())).left.shape[1] // BLOCK
        self.blocks = torch.zeros(rows, blocks, BLOCK, BLOCK, device=device)
        self.squares = torch.zeros(rows, device=device)
        self.uses: dict[int, list[tuple[torch.Tensor, torch.Tensor, bool]]] = {}

    @contextmanager
    def attach(self, network: Any) -> Iterator[None]:
        handles = [
            module.register_forward_hook(self._after_forward)
            for module in network.modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _after_forward(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        if output.ndim != 3 or len(output) != self.rows:
            raise InputError(
                f"network: {type(module).__name__} gives {tuple(output.shape)}, not rows by places"
            )
        if not output.requires_grad:
            output.requires_grad_()
        given = inputs[0].detach()
        if isinstance(module, torch.nn.Embedding):
            output.register_hook(lambda gradient: self._add_embedding(module, given, gradient))
        else:
            output.register_hook(lambda gradient: self._add_linear(module, given, gradient))

    def _add_linear(self, module: Any, given: torch.Tensor, gradient: torch.Tensor) -> None:
        signs = self.projections[id(module.weight)]
        left, right = gradient.float(), given.float()
        self._add(module.weight, left @ signs.left, right @ signs.right, (left, right, False))

    def _add_embedding(self, module: Any, ids: torch.Tensor, gradient: torch.Tensor) -> None:
        # As a matrix (vocabulary, width) times a one-hot vector, seen from its other side.
        signs = self.projections[id(module.weight)]
        right = gradient.float()
        if module.padding_idx is not None:  # torch gives this row no gradient
            right = right * (ids != module.padding_idx)[..., None]
        self._add(module.weight, signs.left[ids], right @ signs.right, (ids, right, True))

    def _add(
        self,
        weight: torch.Tensor,
        left: Any,
        right: Any,
        use: tuple[torch.Tensor, torch.Tensor, bool],
    ) -> None:
        left, right = (side.unflatten(-1, (-1, BLOCK)) for side in (left, right))
        self.blocks += torch.einsum("ntca,ntcb->ncab", left, right)
        others = self.uses.setdefault(id(weight), [])
        self.squares += _inner(use, use)
        for other in others:
            self.squares += 2 * _inner(use, other)
        others.append(use)


def _inner(
    one: tuple[torch.Tensor, torch.Tensor, bool], two: tuple[torch.Tensor, torch.Tensor, bool]
) -> torch.Tensor:
    """Inner products <G, G'> (N,) of gradients in factors; a one-hot left factor is given by its ids."""
    left, right, hot = one
    other, other_right, other_hot = two
    if hot and other_hot:
        products = (left[:, :, None] == other[:, None, :]).to(right.dtype)
    elif hot:  # entry t, s is the other's row s at the id of t
        products = other.gather(2, left[:, None, :].expand(-1, other.shape[1], -1)).mT
    elif other_hot:
        products = left.gather(2, other[:, None, :].expand(-1, left.shape[1], -1))
    else:
        products = left @ other.mT
    return (products * (right @ other_right.mT)).sum(dim=(1, 2))


@contextmanager
def _freeze(network: Any) -> Iterator[None]:
    """Compute no gradients of the weights themselves: they are what costs."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
