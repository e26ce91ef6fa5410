"""What n rollouts are worth for a prompt with success probability p, as a function of n.

Some objectives are losses to minimise (variance, error), some gains to maximise (chance of a useful
group). Each says from which n on it has diminishing returns (`convex_from`: from there a loss is
convex and a gain concave in n, for every p); the solvers rely on that and the tests check it.

Sources: `rloo` and `dr_grpo` are VIP's Propositions 4.3 and 4.2 (arXiv 2602.01601, p. 5) without the
constant 4 sigma^2; `success_rate` is what VIP's released code minimises instead, under both
estimators; `knapsack` is Knapsack RL (arXiv 2509.25849, Prop. 1); `hit` is HORA's utility at a known p
(arXiv 2605.07114); `coba` is CoBA-RL (arXiv 2602.03048). The noise factor of `grpo`, which VIP leaves
out, is the same enumeration. It has no diminishing returns: at small p more rollouts bring more noise,
because they bring more signal.

All take p as known. `expected` takes a belief about p instead, and gives the expectation under it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from scipy import special

from rolloutbench.estimators import (
    GRPO,
    RLOO,
    DrGRPO,
    EstimatorSpec,
    Reinforce,
    moment_table,
    noise_table,
)
from rolloutbench.protocol import Belief, Estimator, FloatArray, IntArray
from rolloutbench.registry import PARAMETERS, Registry

Number = IntArray | FloatArray
Demand = Callable[[FloatArray], FloatArray]
Linear = Literal["p", "p(1-p)", None]


class Objective(ABC):
    """The value of n rollouts of a prompt with success probability p."""

    maximise: ClassVar[bool] = False
    """Whether more is better (a gain) or less (a loss)."""
    smallest: ClassVar[int] = 0
    """The least count that is allowed beside 0: counts 0 < n < smallest are not; n = 0 may be."""
    linear_in: ClassVar[Linear] = None
    """The only function of p that the value depends on, and linearly, for every n; None if there is none."""

    @property
    @abstractmethod
    def convex_from(self) -> int | None:
        """The n from which returns diminish for every p in [0, 1]; None where they need not."""

    @abstractmethod
    def table(self, p: FloatArray, upper: int) -> FloatArray:
        """Values (..., upper + 1) of n = 0..upper for p (...); infinitely bad where not allowed."""

    def at(self, p: FloatArray, n: Number) -> FloatArray:
        """Values of n rollouts, shaped as p and n, which must have the same shape."""
        n = np.asarray(n, dtype=np.int64)
        return np.take_along_axis(self.table(p, int(n.max())), n[..., None], axis=-1)[..., 0]


class ClosedForm(Objective):
    """An objective with a formula for its value and for the improvement by the n-th rollout."""

    without_rollouts: ClassVar[float] = 0.0
    """The value of no rollouts: no group, no noise and no gain."""

    @property
    @abstractmethod
    def convex_from(self) -> int:
        """The n from which returns diminish for every p in [0, 1]."""

    @abstractmethod
    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """The value, p and n broadcast; n is at least 1 and at least `smallest`."""

    @abstractmethod
    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """How much the n-th rollout improves the value (>= 0), free of cancellation; n > convex_from."""

    def marginals(self, p: FloatArray, first: int, last: int) -> FloatArray:
        """What each of the rollouts first..last improves, (R, last - first + 1, B), for p (R, B)."""
        return self.marginal(p[:, None], np.arange(float(first), last + 1)[:, None])

    def at(self, p: FloatArray, n: Number) -> FloatArray:
        """Values of n rollouts, p and n broadcast."""
        n = np.asarray(n, dtype=np.float64)
        first = max(self.smallest, 1)
        if n.min(initial=first) >= first:
            return self.formula(p, n)
        worst = -np.inf if self.maximise else np.inf
        value = np.where(n < first, worst, self.formula(p, np.maximum(n, first)))
        return np.where(n == 0, self.without_rollouts, value)

    def table(self, p: FloatArray, upper: int) -> FloatArray:
        """Values (..., upper + 1) of n = 0..upper."""
        return self.at(np.asarray(p)[..., None], np.arange(upper + 1))

    def demand(self, p: FloatArray, weights: FloatArray, lower: IntArray, upper: IntArray) -> Demand:
        """A function of the price: the most n in [lower, upper] whose n-th rollout is worth more.

        The price is positive, (R, 1); a rollout's worth is weight * marginal. Here by bisection on n.
        """

        def at_price(price: FloatArray) -> FloatArray:
            low, high = lower.astype(np.float64), upper.astype(np.float64)
            for _ in range(int((upper - lower).max(initial=0)).bit_length()):
                middle = np.ceil((low + high) / 2)
                worth_it = weights * self.marginal(p, np.maximum(middle, self.convex_from + 1)) > price
                low = np.where(worth_it, middle, low)
                high = np.where(worth_it, high, np.maximum(middle - 1, low))
            return low

        return at_price


class InverseLoss(ClosedForm):
    """Losses scale(p) / (n - shift): those whose optimum has a closed form."""

    shift: ClassVar[int] = 0

    @property
    def convex_from(self) -> int:
        """The loss is convex and decreasing wherever it is finite."""
        return self.shift + 1

    def scale(self, p: FloatArray) -> FloatArray:
        """The factor of the loss that depends on p; here p(1-p)."""
        return p * (1 - p)

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Loss of n rollouts, scale(p) / (n - shift)."""
        return self.scale(p) / (n - self.shift)

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout takes off the loss, scale(p) / ((n - shift)(n - shift - 1))."""
        return self.scale(p) * (1 / ((n - self.shift) * (n - self.shift - 1)))

    def demand(self, p: FloatArray, weights: FloatArray, lower: IntArray, upper: IntArray) -> Demand:
        """Demand in closed form: m (m - 1) < a / price, with m = n - shift, solved for m."""
        scaled = weights * self.scale(p)
        offset = self.shift + 0.5 - 1

        def at_price(price: FloatArray) -> FloatArray:
            with np.errstate(over="ignore"):  # a / price may be infinite: then the answer is `upper`
                n = scaled / price
            n += 0.25
            np.sqrt(n, out=n)
            n += offset
            np.ceil(n, out=n)
            return np.clip(n, lower, upper, out=n)

        return at_price


@dataclass(config=PARAMETERS, frozen=True)
class RLOONoise(InverseLoss):
    """Noise factor of RLOO, p(1-p)/(n-1): VIP's objective (Prop. 4.3)."""

    linear_in: ClassVar[Linear] = "p(1-p)"
    smallest: ClassVar[int] = 2
    shift: ClassVar[int] = 1


@dataclass(config=PARAMETERS, frozen=True)
class ReinforceNoise(InverseLoss):
    """Noise factor of REINFORCE without baseline, p/n."""

    linear_in: ClassVar[Linear] = "p"
    smallest: ClassVar[int] = 1

    def scale(self, p: FloatArray) -> FloatArray:
        """The factor that depends on p is the success probability itself."""
        return p


@dataclass(config=PARAMETERS, frozen=True)
class SuccessRate(InverseLoss):
    """Variance of the measured success rate, p(1-p)/n: what VIP's released code minimises."""

    linear_in: ClassVar[Linear] = "p(1-p)"
    smallest: ClassVar[int] = 1
    without_rollouts: ClassVar[float] = np.inf  # then nothing is known


@dataclass(config=PARAMETERS, frozen=True)
class DrGRPONoise(ClosedForm):
    """Noise factor of Dr. GRPO, p(1-p)(n-1)/n^2: VIP's objective (Prop. 4.2). Convex from n = 3."""

    linear_in: ClassVar[Linear] = "p(1-p)"
    smallest: ClassVar[int] = 2

    @property
    def convex_from(self) -> int:
        """Returns diminish from n = 3 on: (n-1)/n^2 is greatest at n = 2, and then its differences shrink."""
        return 3

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Noise factor p(1-p)(n-1)/n^2."""
        return p * (1 - p) * (n - 1) / n**2

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout takes off the noise, p(1-p) (n^2 - 3n + 1) / (n(n-1))^2."""
        return p * (1 - p) * (n * n - 3 * n + 1) / (n * (n - 1)) ** 2


class Enumerated(Objective):
    """A loss read off an estimator's exact moments."""

    @property
    @abstractmethod
    def minimum(self) -> int:
        """The smallest n at which the estimator is defined."""

    def bounded(self, losses: FloatArray) -> FloatArray:
        """`losses` (..., upper + 1) with infinity where 0 < n < the estimator's minimum."""
        losses = losses.copy()
        losses[..., 1 : self.minimum] = np.inf
        return losses


@dataclass(config=PARAMETERS, frozen=True)
class GRPONoise(Enumerated):
    """Noise factor of std-normalised GRPO; not convex in n, so it takes the dynamic solver."""

    ddof: Annotated[int, Field(ge=0, le=1)] = 1
    eps: Annotated[float, Field(ge=0)] = 1e-6

    @property
    def convex_from(self) -> int | None:
        """Returns need not diminish: at small p the noise grows with n."""
        return None

    @property
    def minimum(self) -> int:
        """The smallest n at which GRPO is defined."""
        return GRPO.minimum

    def table(self, p: FloatArray, upper: int) -> FloatArray:
        """Noise factors (..., upper + 1) of n = 0..upper."""
        return self.bounded(noise_table(GRPO(self.ddof, self.eps), p, upper))


@dataclass(config=PARAMETERS, frozen=True)
class MeanSquaredError(Enumerated):
    """Mean squared error of a group's gradient: bias^2 + signal variance + noise_ratio * noise."""

    estimator: EstimatorSpec = "rloo"  # type: ignore[assignment]
    noise_ratio: Annotated[float, Field(ge=0)] = 10.0

    @property
    def convex_from(self) -> int | None:
        """The unbiased estimators' errors are convex; Dr. GRPO's and GRPO's need not be."""
        return self.minimum if isinstance(self.estimator, RLOO | Reinforce) else None

    @property
    def minimum(self) -> int:
        """The smallest n at which the estimator is defined."""
        return self.estimator.minimum

    def table(self, p: FloatArray, upper: int) -> FloatArray:
        """Mean squared errors (..., upper + 1); at n = 0 the whole gradient is missing: (p(1-p))^2."""
        return self.bounded(moment_table(self.estimator, p, upper).mse(self.noise_ratio))


def _mixed(p: FloatArray, n: FloatArray) -> FloatArray:
    """1 - p^n - (1-p)^n, exact to rounding for tiny p and 1-p, and exactly 0 for n <= 1."""
    rare = np.minimum(p, 1 - p)
    return np.where(n > 1, -np.expm1(n * np.log1p(-rare)) - rare**n, 0.0)


def _products(first: FloatArray, factor: FloatArray, count: int) -> FloatArray:
    """first * factor^u for u = 0..count - 1, (R, count, B), of first and factor (R, B)."""
    found = np.empty((len(first), count, first.shape[1]))
    for unit in range(count):
        found[:, unit] = first
        first = first * factor
    return found


def _mixed_marginal(p: FloatArray, n: FloatArray) -> FloatArray:
    return np.where(n > 1, p ** (n - 1) * (1 - p) + (1 - p) ** (n - 1) * p, 0.0)


class Gain(ClosedForm):
    """A gain to maximise, with diminishing returns from the first rollout on."""

    maximise: ClassVar[bool] = True

    @property
    def convex_from(self) -> int:
        """Returns diminish from the first rollout on."""
        return 0


@dataclass(config=PARAMETERS, frozen=True)
class NonZeroGradient(Gain):
    """Chance that a group has both rewards, 1 - p^n - (1-p)^n."""

    @property
    def convex_from(self) -> int:
        """Returns diminish from n = 1 on: one rollout is worth nothing, the second most."""
        return 1

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Chance that a group has both rewards, 1 - p^n - (1-p)^n; 0 for n <= 1."""
        return _mixed(p, n)

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout adds to the chance, p^(n-1)(1-p) + (1-p)^(n-1) p; 0 for the first."""
        return _mixed_marginal(p, n)

    def marginals(self, p: FloatArray, first: int, last: int) -> FloatArray:
        """What rollouts first..last add each, (R, last - first + 1, B): by products, as powers are slow."""
        right = _products(p ** (first - 1) * (1 - p), p, last - first + 1)
        right += _products((1 - p) ** (first - 1) * p, 1 - p, last - first + 1)
        right[:, : max(2 - first, 0)] = 0.0
        return right


@dataclass(config=PARAMETERS, frozen=True)
class KnapsackValue(NonZeroGradient):
    """Knapsack RL's value: chance of a non-zero gradient times information gain p(1-p)^2.

    Source: arXiv 2509.25849, Proposition 1.
    """

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Value of n rollouts, (1 - p^n - (1-p)^n) p (1-p)^2."""
        return _mixed(p, n) * p * (1 - p) ** 2

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout adds to the chance of both rewards, times p(1-p)^2."""
        return _mixed_marginal(p, n) * p * (1 - p) ** 2

    def marginals(self, p: FloatArray, first: int, last: int) -> FloatArray:
        """What rollouts first..last add each, (R, last - first + 1, B): by products, as powers are slow."""
        found = super().marginals(p, first, last)
        found *= (p * (1 - p) ** 2)[:, None]
        return found


@dataclass(config=PARAMETERS, frozen=True)
class Hit(Gain):
    """Chance of at least one success, 1 - (1-p)^n (HORA's hit utility at a known p)."""

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Chance of at least one success, 1 - (1-p)^n."""
        safe = np.minimum(p, 0.5)
        return np.where(p <= 0.5, -np.expm1(n * np.log1p(-safe)), 1 - (1 - p) ** n)

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout adds to the chance, p (1-p)^(n-1)."""
        return p * (1 - p) ** (n - 1)

    def marginals(self, p: FloatArray, first: int, last: int) -> FloatArray:
        """What rollouts first..last add each, (R, last - first + 1, B): by products, as powers are slow."""
        return _products(p * (1 - p) ** (first - 1), 1 - p, last - first + 1)


@dataclass(config=PARAMETERS, frozen=True)
class Saturating(Gain):
    """CoBA-RL's saturation, 1 - exp(-n p(1-p)/tau), without its Beta density."""

    tau: Annotated[float, Field(gt=0)] = 1.0

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Saturation 1 - exp(-n p(1-p)/tau)."""
        return -np.expm1(-n * p * (1 - p) / self.tau)

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout adds: exp(-(n-1) s) (1 - exp(-s)) with s = p(1-p)/tau."""
        rate = p * (1 - p) / self.tau
        return -np.exp(-(n - 1) * rate) * np.expm1(-rate)


def beta_density(p: FloatArray, alpha: float | FloatArray, beta: float | FloatArray) -> FloatArray:
    """Density of Beta(alpha, beta) at p, by logarithms: scipy's overflows at the smallest p."""
    log_density = special.xlogy(alpha - 1, p) + special.xlog1py(beta - 1, -p) - special.betaln(alpha, beta)
    return np.exp(np.asarray(log_density, dtype=np.float64))


@dataclass(config=PARAMETERS, frozen=True)
class CoBAValue(Saturating):
    """CoBA-RL's value: saturation times the density of Beta(alpha, beta) at p."""

    alpha: Annotated[float, Field(ge=1)] = 5.5
    beta: Annotated[float, Field(ge=1)] = 5.5

    def formula(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """Value of n rollouts, (1 - exp(-n p(1-p)/tau)) BetaPDF(p)."""
        return super().formula(p, n) * beta_density(p, self.alpha, self.beta)

    def marginal(self, p: FloatArray, n: FloatArray) -> FloatArray:
        """What the n-th rollout adds to the saturation, times the Beta density at p."""
        return super().marginal(p, n) * beta_density(p, self.alpha, self.beta)


objectives: Registry[Objective] = Registry(
    "objective",
    {
        "rloo": RLOONoise,
        "dr_grpo": DrGRPONoise,
        "reinforce": ReinforceNoise,
        "grpo": GRPONoise,
        "mse": MeanSquaredError,
        "success_rate": SuccessRate,
        "non_zero_gradient": NonZeroGradient,
        "knapsack": KnapsackValue,
        "hit": Hit,
        "saturating": Saturating,
        "coba": CoBAValue,
    },
)
ObjectiveSpec = Annotated[Objective, BeforeValidator(objectives.create)]


def noise_objective(estimator: Estimator) -> Objective:
    """Noise factor of this estimator, as the objective that VIP would minimise under it.

    Source: arXiv 2602.01601, Propositions 4.2 and 4.3, for `dr_grpo` and `rloo`.
    """
    match estimator:
        case RLOO():
            return RLOONoise()
        case DrGRPO():
            return DrGRPONoise()
        case Reinforce():
            return ReinforceNoise()
        case GRPO():
            return GRPONoise(estimator.ddof, estimator.eps)
        case _:
            raise TypeError(f"no noise objective for {estimator}")


QUADRATURE = 16
"""Nodes for expectations under a Beta distribution: exact for polynomials up to degree 31."""


@plain_dataclass(frozen=True)
class Expected(Objective):
    """The expectation of another objective under Beta beliefs of the stated `variance` (R, B).

    Its p (R, B) is the beliefs' mean. A mean of convex functions is convex, so diminishing returns stay.
    """

    of: Objective
    variance: FloatArray

    def __post_init__(self) -> None:
        """Take over what the class variables of the objective `of` say."""
        for name in ("maximise", "smallest"):
            object.__setattr__(self, name, getattr(self.of, name))

    @property
    def convex_from(self) -> int | None:
        """Returns diminish from the same n on as those of the objective `of`."""
        return self.of.convex_from

    def table(self, p: FloatArray, upper: int) -> FloatArray:
        """Expected values (..., upper + 1) at mean p (...), which is shaped as the variance."""
        nodes, weights = beta_quadrature(p, self.variance)
        total = np.zeros((*p.shape, upper + 1))
        weights = np.maximum(weights, np.finfo(np.float64).tiny)  # a count not allowed stays infinitely bad
        for node, weight in zip(np.moveaxis(nodes, -1, 0), np.moveaxis(weights, -1, 0), strict=True):
            total += weight[..., None] * self.of.table(node, upper)
        return total


def beta_quadrature(mean: FloatArray, variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gauss nodes and weights (..., 16) of Beta distributions with this mean and variance (...).

    By Golub & Welsch (1969): the nodes are eigenvalues of a tridiagonal matrix made of the recurrence of
    the Jacobi polynomials, here on [0, 1]. A variance too great for any Beta is cut to the greatest.
    """
    spread = mean * (1 - mean)
    total = np.clip(spread / np.maximum(variance, 1e-300) - 1, 1e-9, 1e9)[..., None]
    alpha, beta = mean[..., None] * total, (1 - mean)[..., None] * total
    k = np.arange(1, QUADRATURE)
    middle = 2 * k + total - 2
    diagonal = (alpha - beta) * (total - 2) / (middle * (middle + 2))
    diagonal = np.concatenate([mean[..., None], (1 + diagonal) / 2], axis=-1)
    # At k = 1 the factors k + total - 2 and middle - 1 are the same and cancel.
    ratio = np.where(k == 1, 1.0, (k + total - 2) / np.where(k == 1, 1.0, middle - 1))
    squares = k * (k + alpha - 1) * (k + beta - 1) * ratio / (middle**2 * (middle + 1))
    matrix = np.zeros((*mean.shape, QUADRATURE, QUADRATURE))
    rows = np.arange(QUADRATURE)
    matrix[..., rows, rows] = diagonal
    matrix[..., rows[1:], rows[:-1]] = np.sqrt(squares)
    nodes, vectors = np.linalg.eigh(matrix)
    return np.clip(nodes, 0.0, 1.0), vectors[..., 0, :] ** 2


def expected(objective: Objective, belief: Belief) -> tuple[Objective, FloatArray]:
    """An objective, and the p (R, B) at which its value is the expectation under the belief.

    Where the value is linear in p that is the mean; where it is linear in p(1-p), the p with
    p(1-p) = m(1-m) - v; both are exact for any distribution. Else it is `Expected`, for a Beta.
    """
    mean, variance = belief.mean, belief.variance
    match objective.linear_in:
        case "p":
            return objective, mean
        case "p(1-p)":
            spread = np.maximum(mean * (1 - mean) - variance, 0.0)
            return objective, (1 - np.sqrt(np.maximum(1 - 4 * spread, 0.0))) / 2
        case None:
            return Expected(objective, variance), mean
