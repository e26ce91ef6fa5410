"""What a step costs in seconds, on a cluster that generates in synchronous stages.

A rollout's length is lognormal, longer for prompts that are rarely solved, and cut at a limit. A stage
of N rollouts runs on `slots` concurrent ones, each at its own constant speed; it ends with its longest
straggler. With N <= slots it lasts as long as the longest of the N; otherwise (N/slots - 1) mean
lengths pass until the last ones start, of which the longest is waited for:

    seconds = (max(N/slots, 1) - 1) mean + E[longest of min(N, slots)], over tokens per second.

The expectation of the longest is exact for independent lengths (to a grid in p and in length). That
all slots start their last rollout together is not; a simulated queue comes out within 4% (tests). An
update costs seconds per trained rollout, and a step something fixed and something per generated one.

The defaults are fitted to Pilot-Commit's Table 2 (arXiv 2605.26606: a 14B model, 4,096 tokens, 64
H200), whose nine numbers they give to within 10%.
"""

from __future__ import annotations

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
GRID = 128
"""Points in length at which the distribution of the longest is integrated."""


@dataclass(config=PARAMETERS, frozen=True)
class Clock:
    """Seconds and tokens of generation, and seconds of everything else."""

    tokens: Annotated[float, Field(gt=0)] = 1000.0
    """Mean length of a rollout of a prompt with p = 1/2, before the limit."""
    harder: Annotated[float, Field(ge=1)] = 2.0
    """How many times as long rollouts are at p = 0 as at p = 1."""
    spread: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of the log length."""
    limit: Annotated[int, Field(ge=1)] = 4096
    slots: Annotated[int, Field(ge=1)] = 800
    speed: Annotated[float, Field(gt=0)] = 135.0
    """Tokens per second of one slot."""
    per_trained: Annotated[float, Field(ge=0)] = 0.0127
    """Seconds of the update for each trained rollout."""
    per_generated: Annotated[float, Field(ge=0)] = 0.0015
    """Seconds of rewards, old log-probabilities and the like for each generated rollout."""
    per_step: Annotated[float, Field(ge=0)] = 26.0
    """Seconds of a step that do not depend on its rollouts: weight transfer, synchronisation."""

    @cached_property
    def _lengths(self) -> FloatArray:
        """The grid of lengths (GRID,)."""
        return np.linspace(0, self.limit, GRID)

    @cached_property
    def _log_shorter(self) -> FloatArray:
        """Log of the probability that a rollout of a bin is shorter than a length: (BINS, GRID)."""
        p = (np.arange(BINS) + 0.5) / BINS
        # The mean of a lognormal is scale exp(spread^2 / 2).
        scale = self.tokens * self.harder ** (0.5 - p) * np.exp(-(self.spread**2) / 2)
        inside = self._lengths[1:-1]
        shorter = np.zeros((BINS, GRID))
        shorter[:, 0] = -745.0  # the smallest exp() that is not 0
        shorter[:, 1:-1] = stats.lognorm.logcdf(inside, max(self.spread, 1e-9), scale=scale[:, None])
        return np.maximum(shorter, -745.0)

    @cached_property
    def _means(self) -> FloatArray:
        """Mean length of each bin (BINS,), after the limit: the integral of P(longer)."""
        return np.asarray(np.trapezoid(-np.expm1(self._log_shorter), self._lengths, axis=1))

    def stage(self, p: FloatArray, counts: IntArray | FloatArray) -> tuple[FloatArray, FloatArray]:
        """Seconds and tokens (R,) of generating counts (R, B) rollouts, mean ones too, at chances p."""
        replicates = len(counts)
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        bins += BINS * np.arange(replicates)[:, None]
        by_bin = np.bincount(bins.ravel(), weights=counts.ravel(), minlength=replicates * BINS)
        by_bin = by_bin.reshape(replicates, BINS)
        rollouts = by_bin.sum(axis=1)
        tokens = by_bin @ self._means
        some = np.maximum(rollouts, 1)
        last = np.minimum(rollouts, self.slots)
        all_shorter = np.exp((by_bin * (last / some)[:, None]) @ self._log_shorter)
        longest = np.trapezoid(1 - all_shorter, self._lengths, axis=1)
        waiting = np.maximum(rollouts / self.slots - 1, 0) * tokens / some
        return np.where(rollouts > 0, waiting + longest, 0.0) / self.speed, tokens

    def rest(self, generated: IntArray | FloatArray, trained: IntArray | FloatArray) -> FloatArray:
        """Seconds (R,) of a step besides generation."""
        return self.per_step + self.per_generated * generated + self.per_trained * trained
