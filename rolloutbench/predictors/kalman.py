"""A Kalman filter on each prompt's logit, with a prior that all prompts share. Related: KGPS (2607.27610).

Logits are a random walk: between visits the variance grows by `drift` a step. What a prompt's own
rollouts said is kept as one Gaussian observation (value, precision), apart from the prior, since the
prior moves: its mean and variance are those of the logits of the population, learned as prompts are
visited (empirical Bayes, by incremental EM: each step adds its prompts' posterior moments to discounted
sums). The binomial likelihood is linearised as in logit.py. KGPS filters logits too and ties the drift
to the size of the update; its code was not used.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors.logit import LogitPredictor, Logits, binomial_observation
from rolloutbench.protocol import BoolArray, FloatArray, IntArray, Outcomes, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Kalman(LogitPredictor):
    """Random walk of each prompt's logit, with a population prior learned from all prompts.

    The population starts as if `prior_prompts` prompts with logits of the prior mean and variance had
    been seen; variance pi^2/3 is that of the logit of a uniform success probability.
    """

    drift: Annotated[float, Field(ge=0)] = 0.01
    prior_mean: float = 0.0
    prior_variance: Annotated[float, Field(gt=0)] = 3.29
    prior_prompts: Annotated[float, Field(gt=0)] = 16.0
    forgetting: Annotated[float, Field(gt=0, le=1)] = 0.9

    def begin(self, setting: Setting) -> None:
        """Start afresh: no prompt has been seen."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._value, self._precision = np.zeros(shape), np.zeros(shape)
        self._last = np.zeros(shape, dtype=np.int64)
        self._step = np.zeros(setting.replicates, dtype=np.int64)
        moments = np.array([1.0, self.prior_mean, self.prior_mean**2 + self.prior_variance])
        self._population = np.tile(self.prior_prompts * moments, (setting.replicates, 1))

    def centre(self, prompts: IntArray) -> Logits:
        """Where each logit lies, and in which units of variance, before anything of the population."""
        return Logits(np.zeros(prompts.shape), np.ones(prompts.shape))

    def logits(self, prompts: IntArray) -> Logits:
        """Logits (R, B) by the prior times the prompt's own observation, as old as that is."""
        value, precision = self._own(prompts)
        return _product(self._prior(self.centre(prompts)), value, precision)

    def update(self, outcomes: Outcomes) -> None:
        """Count one visit of each prompt that got rollouts, and learn the population from it."""
        seen = outcomes.counts > 0
        prompts = np.where(seen, outcomes.prompts, 0)
        centre = self.centre(prompts)
        own_value, own_precision = self._own(prompts)
        before = _product(self._prior(centre), own_value, own_precision)
        value, precision = binomial_observation(before, outcomes.successes, outcomes.counts)
        after = _product(before, value, precision)
        self._learn_population(centre, after, seen)
        places = np.nonzero(seen)
        visited = places[0], prompts[places]
        total = (own_precision + precision)[places]
        self._value[visited] = (own_precision * own_value + precision * value)[places] / total
        self._precision[visited] = total
        self._last[visited] = self._step[places[0]]
        self._step += seen.any(axis=1)

    def _own(self, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
        """A prompt's own observation: its value, and its precision after the drift since (R, B)."""
        rows = np.arange(len(prompts))[:, None]
        precision = self._precision[rows, prompts]
        drifted = self.drift * (self._step[:, None] - self._last[rows, prompts])
        return self._value[rows, prompts], precision / (1 + precision * drifted)

    def _prior(self, centre: Logits) -> Logits:
        """Prior of the logits: the population's deviation from its centres, at these centres."""
        prompts, total, squares = (self._population[:, [i]] for i in range(3))
        mean = total / prompts
        variance = np.maximum(squares / prompts - mean**2, 1e-2)
        return Logits(centre.mean + np.sqrt(centre.variance) * mean, centre.variance * variance)

    def _learn_population(self, centre: Logits, after: Logits, seen: BoolArray) -> None:
        """Add posterior moments of the visited prompts' deviations, in units of their centres."""
        deviation = (after.mean - centre.mean) / np.sqrt(centre.variance)
        square = deviation**2 + after.variance / centre.variance
        moments = np.stack([np.ones_like(square), deviation, square], axis=-1)
        keep = np.where(seen.any(axis=1), self.forgetting, 1.0)
        self._population = keep[:, None] * self._population + (moments * seen[..., None]).sum(axis=1)

    def state_dict(self) -> State:
        """Own observations (R, Q), steps of the last visits, the step, and the population's sums."""
        return {
            "value": self._value.copy(),
            "precision": self._precision.copy(),
            "last": self._last.copy(),
            "step": self._step.copy(),
            "population": self._population.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the observations, the steps, and the population's sums."""
        self._value, self._precision, self._last, self._step, self._population = (
            state[name].copy() for name in ("value", "precision", "last", "step", "population")
        )


def _product(belief: Logits, value: FloatArray, precision: FloatArray) -> Logits:
    """Gaussian belief after a Gaussian observation, both of logits (R, B)."""
    variance = belief.variance / (1 + belief.variance * precision)
    return Logits(belief.mean + variance * precision * (value - belief.mean), variance)
