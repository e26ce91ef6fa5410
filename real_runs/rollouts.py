"""Responses of a language model as arrays: what engines return and trainers read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt

from rolloutbench.protocol import BoolArray, FloatArray, IntArray

Prompt = Sequence[int]
"""A prompt as its token ids."""
TokenArray = npt.NDArray[np.int32]
LogProbArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sampled:
    """N responses to a list of prompts, as an engine returns them.

    `source` (N,): the place in that list, ascending. `tokens` (N, T): ids, the end token among them, 0
    beyond `lengths` (N,). `logprobs` (N, T): of each token under the distribution it was drawn from, 0
    beyond. `finished` (N,): whether the response ended by itself.
    """

    source: IntArray
    tokens: TokenArray
    lengths: IntArray
    logprobs: LogProbArray
    finished: BoolArray

    @property
    def total_tokens(self) -> int:
        """Number of tokens of all responses."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Rollouts:
    """N verified responses with their rewards.

    `prompts` (N,): ids in the training pool. `tokens`, `lengths`, `logprobs`: as in `Sampled`. `successes`
    (N,): 0 or 1. `rewards` (N,): what estimators see; NaN where a response is masked. `raw` (N,): what the
    verifier said, its first reward. `steps` (N,): when they were sampled.
    """

    prompts: IntArray
    tokens: TokenArray
    lengths: IntArray
    logprobs: LogProbArray
    successes: IntArray
    rewards: FloatArray
    raw: FloatArray
    steps: IntArray

    @classmethod
    def none(cls) -> Self:
        """Rollouts of which there are none: arrays of length 0."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        tokens, logprobs = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)
        return cls(whole, tokens, whole, logprobs, whole, real, real, whole)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All rollouts of the parts, in order, with as many columns of tokens as the longest needs."""
        width = max((int(part.lengths.max(initial=0)) for part in parts), default=0)
        columns = {}
        for field in fields(cls):
            arrays = [getattr(part, field.name) for part in parts]
            if arrays[0].ndim == 2:
                arrays = [np.pad(a[:, :width], ((0, 0), (0, max(width - a.shape[1], 0)))) for a in arrays]
            columns[field.name] = np.concatenate(arrays)
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: IntArray | BoolArray) -> Self:
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})
