"""Predictors that read the true success probability: upper bounds, never methods.

They work only where the environment knows the truth, which a real run does not.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Belief, InputError, IntArray, Predictor, Setting
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Oracle(Predictor):
    """The true success probability: what the best predictor could know."""

    knows_truth: ClassVar[bool] = True

    def begin(self, setting: Setting) -> None:
        """Start afresh. Raises InputError where the environment does not know the truth."""
        if setting.success_probability is None:
            raise InputError(f"predictor {type(self).__name__}: success probabilities are unknown here")
        self.setting, self._truth = setting, setting.success_probability

    def predict(self, prompts: IntArray) -> Belief:
        """True success probabilities (R, B), with variance 0."""
        p = self._truth(prompts)
        return Belief(p, np.zeros(p.shape))


@dataclass(config=PARAMETERS)
class NoisyOracle(Oracle):
    """The true success probability plus Gaussian error of a stated std, clipped to [0, 1]."""

    std: Annotated[float, Field(ge=0)] = 0.1

    def predict(self, prompts: IntArray) -> Belief:
        """True success probabilities with error, drawn anew at each call; the variance is std^2."""
        p = self._truth(prompts)
        noisy = np.clip(p + self.std * self.setting.rng.standard_normal(p.shape), 0.0, 1.0)
        return Belief(noisy, np.full(p.shape, self.std**2))
