"""Pools of prompts: how difficult they are, and what they have in common.

A prompt is a success probability and a unit feature vector. The vectors cluster around skills; how
much of the ranking by difficulty can be read off them is the pool's `predictability`. Pools of one step
may also come from elsewhere: see replay.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from scipy import optimize, special, stats

from rolloutbench.protocol import FeatureArray, FloatArray, InputError, IntArray
from rolloutbench.registry import PARAMETERS, Registry


class Difficulty(ABC):
    """A distribution of success probabilities."""

    @abstractmethod
    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Independent success probabilities of this shape."""


@dataclass(config=PARAMETERS, frozen=True)
class BetaDifficulty(Difficulty):
    """Success probabilities from Beta(alpha, beta); u-shaped where both are below 1."""

    alpha: Annotated[float, Field(gt=0)] = 0.4
    beta: Annotated[float, Field(gt=0)] = 0.6

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Independent draws of this shape from the Beta distribution."""
        return rng.beta(self.alpha, self.beta, size=shape)


@dataclass(config=PARAMETERS, frozen=True)
class LogitNormal(Difficulty):
    """Success probabilities sigmoid(N(mean, std^2)), as a logistic model of skill and difficulty gives."""

    mean: float = 0.0
    std: Annotated[float, Field(ge=0)] = 2.0

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Independent draws of this shape from the logit-normal distribution."""
        return special.expit(rng.normal(self.mean, self.std, size=shape))


@dataclass(config=PARAMETERS, frozen=True)
class Dead(Difficulty):
    """Beta(alpha, beta), but a share of the prompts is never solved and another always is."""

    unsolvable: Annotated[float, Field(ge=0, le=1)] = 0.3
    solved: Annotated[float, Field(ge=0, le=1)] = 0.3
    alpha: Annotated[float, Field(gt=0)] = 1.0
    beta: Annotated[float, Field(gt=0)] = 1.0

    def __post_init__(self) -> None:
        """Raise InputError where the two shares make more than the whole."""
        if self.unsolvable + self.solved > 1:
            raise InputError(
                f"unsolvable={self.unsolvable} and solved={self.solved}: together they are at most 1"
            )

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Independent draws of this shape: 0, 1, or from the Beta distribution."""
        fate = rng.random(shape)
        alive = rng.beta(self.alpha, self.beta, size=shape)
        return np.where(fate < self.unsolvable, 0.0, np.where(fate > 1 - self.solved, 1.0, alive))


@plain_dataclass(frozen=True)
class Measured(Difficulty):
    """Pass rates (Q,) measured elsewhere; with `trials` (Q,), freed of their sampling error.

    Without `trials` a rate stands for a success probability. With them, k successes in n trials are
    one look at it: a Beta prior is fitted to all prompts by maximum likelihood, and a probability is
    drawn from the posterior of the prompt, so that 0 of 8 need not mean impossible. `lengths` (Q,) are
    mean tokens of a rollout, where they were measured.
    """

    rates: FloatArray
    trials: FloatArray | None = None
    lengths: FloatArray | None = None

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Prompts drawn with replacement."""
        return self.success(rng, self.draw(rng, shape))

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> IntArray:
        """Places of prompts, with replacement."""
        return rng.integers(len(self.rates), size=shape)

    def success(self, rng: np.random.Generator, chosen: IntArray) -> FloatArray:
        """Success probabilities of the prompts at these places, of any shape."""
        if self.trials is None:
            return self.rates[chosen]
        alpha, beta = self.prior
        successes = np.rint(self.rates * self.trials)
        return rng.beta((alpha + successes)[chosen], (beta + self.trials - successes)[chosen])

    @cached_property
    def prior(self) -> tuple[float, float]:
        """Parameters alpha and beta of the prior, by `fit_beta`."""
        assert self.trials is not None
        return fit_beta(self.rates, self.trials)


def fit_beta(rates: FloatArray, trials: FloatArray) -> tuple[float, float]:
    """Fit alpha and beta of the Beta-binomial that makes pass rates (Q,) in `trials` (Q,) most likely."""
    n = np.rint(trials)
    cells, weights = np.unique(np.stack([np.rint(rates * n), n], axis=1), axis=0, return_counts=True)
    k, n = cells.T

    def unlikeliness(log_parameters: FloatArray) -> float:
        return -float(weights @ stats.betabinom.logpmf(k, n, *np.exp(log_parameters)))

    searches = [  # from one start alone the search may end on a plateau
        optimize.minimize(unlikeliness, start, method="L-BFGS-B", bounds=[(-5, 7), (-5, 7)])
        for start in (np.zeros(2), _log_beta_by_moments(rates, trials))
    ]
    alpha, beta = np.exp(min(searches, key=lambda found: found.fun).x)
    return float(alpha), float(beta)


def _log_beta_by_moments(rates: FloatArray, trials: FloatArray) -> FloatArray:
    """Logarithms of alpha and beta of about the mean and the variance of the rates."""
    mean = float(np.clip(rates.mean(), 0.01, 0.99))
    once = float(np.mean(1 / trials))
    excess = (float(rates.var()) / (mean * (1 - mean)) - once) / max(1 - once, 1e-9)
    size = 1 / float(np.clip(excess, 0.005, 0.95)) - 1
    return np.log([mean * size, (1 - mean) * size])


difficulties: Registry[Difficulty] = Registry(
    "difficulty",
    {
        "beta": BetaDifficulty,
        "logit_normal": LogitNormal,
        "dead": Dead,
        "traced": "simulators.traced:TracedDifficulty",
    },
)
DifficultySpec = Annotated[Difficulty, BeforeValidator(difficulties.create)]


class FrozenPool(ABC):
    """Q prompts for each of R replicates whose success probabilities `success` (R, Q) stay as they are.

    A rollout's score is (r - p) phi + noise. `lengths` (R, Q) is |phi|^2; `spread` (R, Q, 2) is the noise's
    variance in a success and in a failure, in units of the scenario's noise ratio; None where all are 1.
    `seen` (R, Q, m) is what predictors may read of a prompt.
    """

    success: FloatArray
    lengths: FloatArray | None = None
    spread: FloatArray | None = None
    seen: FeatureArray | None

    @abstractmethod
    def gradient(self, weights: FloatArray, prompts: IntArray | None = None) -> FloatArray:
        """Sum of weights (R, B) times phi of prompts (R, B), or of all prompts: (R, d)."""

    @abstractmethod
    def repeated(self, times: int) -> Self:
        """The pool with each replicate `times` times in a row."""


class FrozenScenario(ABC):
    """Conditions of one step at frozen success probabilities."""

    summary: str
    prompts: int | None
    group_size: int
    visits: int
    noise_ratio: float = 1.0

    @abstractmethod
    def pool(self, rng: np.random.Generator, replicates: int, size: int) -> FrozenPool:
        """Draw a pool of `size` prompts for each replicate."""


@plain_dataclass(frozen=True)
class Pool(FrozenPool):
    """Q prompts for each of R replicates: `success` (R, Q), `features` (R, Q, d) of unit length.

    `tokens` (R, Q) is the mean length of a rollout, where the prompts have lengths of their own.
    """

    success: FloatArray
    features: FloatArray
    tokens: FloatArray | None = None

    @property
    def seen(self) -> FeatureArray:  # type: ignore[override]
        """The features, which predictors may read."""
        return self.features

    def gradient(self, weights: FloatArray, prompts: IntArray | None = None) -> FloatArray:
        """Sum of weights (R, B) times features of prompts (R, B), or of all prompts: (R, d)."""
        if prompts is None:
            return combine(weights, self.features)
        return combine(weights, self.features[np.arange(len(prompts))[:, None], prompts])

    def repeated(self, times: int) -> Pool:
        """Each replicate `times` times in a row."""
        return self._each(lambda values: np.repeat(values, times, axis=0))

    def split(self, size: int) -> tuple[Pool, Pool]:
        """Split off the first `size` prompts; both parts are copies, so that prompts lie side by side."""
        return (
            self._each(lambda values: values[:, :size].copy()),
            self._each(lambda values: values[:, size:].copy()),
        )

    def _each(self, change: Callable[[FloatArray], FloatArray]) -> Pool:
        """All arrays changed in the same way."""
        tokens = None if self.tokens is None else change(self.tokens)
        return Pool(change(self.success), change(self.features), tokens)


def combine(weights: FloatArray, features: FloatArray) -> FloatArray:
    """Sum over prompts of weights (R, B) times features (R, B, d): (R, d)."""
    combined: FloatArray = (weights[:, None, :] @ features)[:, 0, :]
    return combined


def draw_pool(
    difficulty: Difficulty,
    rng: np.random.Generator,
    replicates: int,
    size: int,
    dimension: int,
    skills: int,
    predictability: float,
    conflict: float = 0.0,
) -> Pool:
    """Draw a pool for each replicate.

    Success probabilities are dealt to the prompts by the rank of their ease; their distribution stays
    exact. See `draw_features` for the rest.
    """
    features, ease = draw_features(rng, replicates, size, dimension, skills, predictability, conflict)
    ranks = np.argsort(np.argsort(ease, axis=1), axis=1)
    success = np.sort(difficulty.sample(rng, (replicates, size)), axis=1)
    return Pool(np.take_along_axis(success, ranks, axis=1), features)


def draw_features(
    rng: np.random.Generator,
    replicates: int,
    size: int,
    dimension: int,
    skills: int,
    predictability: float,
    conflict: float = 0.0,
) -> tuple[FloatArray, FloatArray]:
    """Unit feature vectors (R, Q, d), and the latent ease (R, Q) of prompts that have them.

    A feature vector is the unit vector of its skill plus Gaussian noise of equal length, normalised.
    The variance of the ease is to the share `predictability` that of a direction in feature space.
    With `conflict` every second skill points against the one before it: their centres' cosine is then
    about -conflict, and what is learned for one is lost for the other.
    """
    centres = _unit(rng.standard_normal((replicates, skills, dimension)))
    if conflict:
        pairs = skills // 2
        first, second = centres[:, 0 : 2 * pairs : 2], centres[:, 1 : 2 * pairs : 2]
        centres[:, 1 : 2 * pairs : 2] = _unit(np.sqrt(1 - conflict**2) * second - conflict * first)
    skill = rng.integers(skills, size=(replicates, size))
    noise = rng.standard_normal((replicates, size, dimension)) / np.sqrt(dimension)
    features = _unit(np.take_along_axis(centres, skill[..., None], axis=1) + noise)
    direction = rng.standard_normal((replicates, dimension, 1))
    readable = (features @ direction)[..., 0]
    readable -= readable.mean(axis=1, keepdims=True)
    readable /= np.maximum(readable.std(axis=1, keepdims=True), 1e-12)
    ease = np.sqrt(predictability) * readable
    ease += np.sqrt(1 - predictability) * rng.standard_normal((replicates, size))
    return features, ease


def deal_features(
    measured: Measured, rng: np.random.Generator, chosen: IntArray, features: FloatArray, ease: FloatArray
) -> Pool:
    """The measured prompts `chosen` (R, Q), in this order, with features (R, Q, d) by the rank of their ease.

    Which of equally difficult prompts gets which features is chance, not their order in the file.
    """
    success = measured.success(rng, chosen)
    by_success = np.lexsort((rng.random(success.shape), success), axis=1)
    own = np.empty_like(features)
    rows = np.arange(len(features))[:, None]
    own[rows, by_success] = features[rows, np.argsort(ease, axis=1)]
    tokens = None if measured.lengths is None else measured.lengths[chosen]
    return Pool(success, own, tokens)


def _unit(vectors: FloatArray) -> FloatArray:
    lengths: FloatArray = np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
    return vectors / lengths
