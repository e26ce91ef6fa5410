"""What a step costs in seconds, on a cluster that generates in synchronous stages.

A rollout's length is lognormal, longer for prompts that are rarely solved, and cut at a limit. A stage
of N rollouts runs on `slots` concurrent ones, each at its own constant speed; it ends with its longest
straggler. With N <= slots it lasts as long as the longest of the N; otherwise (N/slots - 1) mean
lengths pass until the last ones start, of which the longest is waited for:

    seconds = (max(N/slots, 1) - 1) mean + E[longest of min(N, slots)], over tokens per second.

The expectation of the longest is exact for independent lengths (to a grid in p and in length). That
all slots start their last rollout together is not; a simulated queue comes out within 4% (tests). An
update costs seconds per trained rollout, and a step something fixed and something per generated one.

Where mean lengths of prompts were measured, they stand in for the lengthening with difficulty: a prompt's
rollouts are lognormal about its own mean, whatever its p. Tokens are then exact, stragglers to a grid in
the mean.

The defaults are fitted to Pilot-Commit's Table 2 (arXiv 2605.26606: a 14B model, 4,096 tokens, 64
H200), whose nine numbers they give to within 10%.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import stats

from rolloutbench.protocol import FloatArray, IntArray
from rolloutbench.registry import PARAMETERS

BINS = 16
"""Success probabilities are taken to the middle of as many equal bins."""
CLASSES = 64
"""Mean lengths are taken to the middle of as many classes, equal in their logarithm, up to the limit."""
SHORTEST = 1 / 4096
"""Lower end of the first class, as a share of the limit."""
GPUS = 64
"""GPUs of the cluster that the defaults are fitted to, all of them paid for while a step lasts."""
ROOM = 4
"""A limit of as many times a mean length is as good as none: it cuts less than a thousandth of it away."""
GRID = 128
"""Number of points in length at which the distribution of the longest is integrated."""


@dataclass(config=PARAMETERS, frozen=True)
class Clock:
    """Seconds and tokens of generation, and seconds of everything else."""

    tokens: Annotated[float, Field(gt=0)] = 1000.0
    """Mean length of a rollout of a prompt with p = 1/2, before the limit."""
    harder: Annotated[float, Field(ge=1)] = 2.0
    """Mean length of rollouts at p = 0, as a multiple of that at p = 1."""
    spread: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of the log length."""
    limit: Annotated[int, Field(ge=1)] = 4096
    slots: Annotated[int, Field(ge=1)] = 800
    speed: Annotated[float, Field(gt=0)] = 135.0
    """Tokens per second that one slot generates."""
    per_trained: Annotated[float, Field(ge=0)] = 0.0127
    """Seconds of the update for each trained rollout."""
    per_generated: Annotated[float, Field(ge=0)] = 0.0015
    """Seconds of rewards, old log-probabilities and the like for each generated rollout."""
    per_step: Annotated[float, Field(ge=0)] = 26.0
    """Seconds of a step that do not depend on its rollouts: weight transfer, synchronisation."""

    @cached_property
    def _lengths(self) -> FloatArray:
        """Grid of rollout lengths in tokens (GRID,)."""
        return np.linspace(0, self.limit, GRID)

    @cached_property
    def _log_shorter(self) -> FloatArray:
        """Log of the probability that a rollout of a bin of p is shorter than a length: (BINS, GRID)."""
        p = (np.arange(BINS) + 0.5) / BINS
        return self._log_shorter_at(self.tokens * self.harder ** (0.5 - p))

    @cached_property
    def _log_shorter_by_length(self) -> FloatArray:
        """Logarithm of the chance of a shorter rollout in each class of mean lengths: (CLASSES, GRID)."""
        middle = (np.arange(CLASSES) + 0.5) / CLASSES
        return self._log_shorter_at(self.limit * SHORTEST ** (1 - middle))

    def _log_shorter_at(self, means: FloatArray) -> FloatArray:
        # The mean of a lognormal is scale exp(spread^2 / 2).
        scale = means * np.exp(-(self.spread**2) / 2)
        inside = self._lengths[1:-1]
        shorter = np.zeros((len(means), GRID))
        shorter[:, 0] = -745.0  # the smallest exp() that is not 0
        shorter[:, 1:-1] = stats.lognorm.logcdf(inside, max(self.spread, 1e-9), scale=scale[:, None])
        return np.maximum(shorter, -745.0)

    @cached_property
    def _means(self) -> FloatArray:
        """Mean length of each bin of p (BINS,), after the limit: the integral of P(longer)."""
        return np.asarray(np.trapezoid(-np.expm1(self._log_shorter), self._lengths, axis=1))

    def with_room_for(self, lengths: FloatArray) -> Clock:
        """A clock like this one, its limit raised to where it hardly cuts rollouts of these mean lengths."""
        return replace(self, limit=max(self.limit, int(np.ceil(ROOM * lengths.max()))))

    def stage(
        self, p: FloatArray, counts: IntArray | FloatArray, lengths: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Seconds and tokens (R,) of generating counts (R, B) rollouts, mean ones too, at chances p.

        `lengths` (R, B) are mean tokens of the prompts' rollouts, where they have their own.
        """
        if lengths is None:
            by_bin = _sums(np.minimum((p * BINS).astype(np.int64), BINS - 1), counts, BINS)
            log_shorter, tokens = self._log_shorter, by_bin @ self._means
        else:
            place = CLASSES * (1 - np.log(lengths / self.limit) / np.log(SHORTEST))
            by_bin = _sums(np.clip(place.astype(np.int64), 0, CLASSES - 1), counts, CLASSES)
            log_shorter, tokens = self._log_shorter_by_length, (counts * lengths).sum(axis=1)
        rollouts = by_bin.sum(axis=1)
        some = np.maximum(rollouts, 1)
        last = np.minimum(rollouts, self.slots)
        all_shorter = np.exp((by_bin * (last / some)[:, None]) @ log_shorter)
        longest = np.trapezoid(1 - all_shorter, self._lengths, axis=1)
        waiting = np.maximum(rollouts / self.slots - 1, 0) * tokens / some
        return np.where(rollouts > 0, waiting + longest, 0.0) / self.speed, tokens

    def rest(self, generated: IntArray | FloatArray, trained: IntArray | FloatArray) -> FloatArray:
        """Seconds (R,) of a step besides generation."""
        return self.per_step + self.per_generated * generated + self.per_trained * trained


def _sums(bins: IntArray, counts: IntArray | FloatArray, size: int) -> FloatArray:
    """Counts (R, B) summed by bin: (R, size)."""
    replicates = len(counts)
    flat = (bins + size * np.arange(replicates)[:, None]).ravel()
    sums: FloatArray = np.bincount(flat, counts.ravel(), replicates * size).astype(np.float64)
    return sums.reshape(replicates, size)
