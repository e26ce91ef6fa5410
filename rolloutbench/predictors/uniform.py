"""No knowledge: every prompt succeeds half of the time. A control."""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Belief, IntArray, Predictor
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Uniform(Predictor):
    """Always 0.5: what an allocator does without a predictor."""

    def predict(self, prompts: IntArray) -> Belief:
        """Mean 1/2 and variance 1/12, those of the uniform distribution."""
        return Belief(np.full(prompts.shape, 0.5), np.full(prompts.shape, 1 / 12))
