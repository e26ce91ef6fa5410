"""Advantage rules in (n, k), and the exact moments of a group's gradient under each.

With rewards in {0, 1} a group is two integers, n rollouts and k successes, and an estimator is two
numbers: the advantage A+ of a success and A- of a failure. Write a rollout's score as
z = (r - p) phi + xi, with |phi| = 1 and noise xi that has nothing to do with the reward. The gradient
of a group, (1/n) sum_j A_j z_j, is then x phi + noise with

    x = (k A+ (1 - p) - (n - k) A- p) / n,      noise factor (k A+^2 + (n - k) A-^2) / n^2,

and every moment is a finite sum over k ~ Binomial(n, p). VIP's Propositions 4.2 and 4.3
(arXiv 2602.01601, p. 5) are the noise factors of `dr_grpo` and `rloo`, times 4 for rewards of +-1.

Where code and papers differ: `grpo` divides by the standard deviation with Bessel's correction plus
1e-6, as verl does; papers use the population's (`grpo[ddof=0]`). verl gives a group of one rollout its
raw reward as advantage under `grpo` and `rloo`; here a group below `minimum` contributes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from scipy import special

from rolloutbench.protocol import Aggregation, Estimator, FloatArray, Groups, IntArray
from rolloutbench.registry import PARAMETERS, Registry


@dataclass(config=PARAMETERS, frozen=True)
class Reinforce(Estimator):
    """The reward itself, without baseline. A+ = 1, A- = 0.

    Source: Williams 1992, REINFORCE.
    """

    minimum: ClassVar[int] = 1

    def advantages(self, n: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advantages A+ = 1 of successes and A- = 0 of failures."""
        shape = np.broadcast_shapes(np.shape(n), np.shape(k))
        return np.ones(shape), np.zeros(shape)

    def of_rewards(self, rewards: FloatArray, counts: FloatArray) -> FloatArray:
        """Advantages (..., L) of any rewards (L,): the rewards themselves."""
        return np.broadcast_to(rewards, counts.shape).copy()


@dataclass(config=PARAMETERS, frozen=True)
class DrGRPO(Estimator):
    """Reward minus the group's mean, not divided by anything (Dr. GRPO). Shrinks by (n-1)/n.

    Source: arXiv 2503.20783.
    """

    minimum: ClassVar[int] = 2

    def advantages(self, n: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advantages A+ = 1 - k/n and A- = -k/n."""
        return (n - k) / n, -k / n

    def of_rewards(self, rewards: FloatArray, counts: FloatArray) -> FloatArray:
        """Advantages (..., L) of any rewards (L,): less the mean of the group."""
        mean: FloatArray = (counts * rewards).sum(axis=-1, keepdims=True) / counts.sum(axis=-1, keepdims=True)
        return rewards - mean


@dataclass(config=PARAMETERS, frozen=True)
class RLOO(Estimator):
    """Reward minus the mean of the others (leave one out). Unbiased.

    Source: arXiv 2402.14740.
    """

    minimum: ClassVar[int] = 2

    def advantages(self, n: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advantages A+ = (n-k)/(n-1) and A- = -k/(n-1)."""
        return (n - k) / (n - 1), -k / (n - 1)

    def of_rewards(self, rewards: FloatArray, counts: FloatArray) -> FloatArray:
        """Advantages (..., L) of any rewards (L,): less the mean of the other members."""
        total = (counts * rewards).sum(axis=-1, keepdims=True)
        others: FloatArray = (total - rewards) / (counts.sum(axis=-1, keepdims=True) - 1)
        return rewards - others


@dataclass(config=PARAMETERS, frozen=True)
class GRPO(Estimator):
    """Reward minus the group's mean, over its standard deviation (ddof 1 and eps as in verl).

    Source: arXiv 2402.03300.
    """

    minimum: ClassVar[int] = 2
    ddof: Annotated[int, Field(ge=0, le=1)] = 1
    eps: Annotated[float, Field(ge=0)] = 1e-6

    def advantages(self, n: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advantages A+ = (1 - k/n) / (s + eps), A- = -(k/n) / (s + eps); 0 in a group of equal rewards."""
        mean = k / n
        std = np.sqrt(n * mean * (1 - mean) / (n - self.ddof))
        mixed = (k > 0) & (k < n)
        scale = np.divide(1.0, std + self.eps, out=np.zeros(np.shape(std)), where=mixed)
        return (1 - mean) * scale, -mean * scale

    def of_rewards(self, rewards: FloatArray, counts: FloatArray) -> FloatArray:
        """Advantages (..., L) of any rewards (L,): less the mean, over the deviation; 0 if all are equal."""
        n = counts.sum(axis=-1, keepdims=True)
        centred = rewards - (counts * rewards).sum(axis=-1, keepdims=True) / n
        variance = (counts * centred**2).sum(axis=-1, keepdims=True) / (n - self.ddof)
        least = np.where(counts > 0, rewards, np.inf).min(axis=-1, keepdims=True)
        most = np.where(counts > 0, rewards, -np.inf).max(axis=-1, keepdims=True)
        scale = np.sqrt(variance) + self.eps
        scaled: FloatArray = np.divide(centred, scale, out=np.zeros(counts.shape), where=least < most)
        return scaled


estimators: Registry[Estimator] = Registry(
    "estimator", {"reinforce": Reinforce, "dr_grpo": DrGRPO, "rloo": RLOO, "grpo": GRPO}
)
names, create = estimators.names, estimators.create
register, describe = estimators.register, estimators.describe
EstimatorSpec = Annotated[Estimator, BeforeValidator(estimators.create)]


@plain_dataclass(frozen=True)
class Moments:
    """Moments of one group's gradient; all arrays have the shape of `p` and n broadcast.

    signal: E[x], the coefficient of phi; p(1-p) when unbiased. signal_variance: Var[x].
    noise: E[(k A+^2 + (n-k) A-^2) / n^2], the factor of sigma^2. zero_gradient: the probability that
    every advantage of the group is 0.
    """

    p: FloatArray
    signal: FloatArray
    signal_variance: FloatArray
    noise: FloatArray
    zero_gradient: FloatArray

    @property
    def bias(self) -> FloatArray:
        """Bias E[x] - p(1-p): what is missing from, or too much in, the gradient of p."""
        return self.signal - self.p * (1 - self.p)

    def variance(self, noise_ratio: float) -> FloatArray:
        """Variance of the gradient, Var[x] + noise_ratio * noise, with noise_ratio = d sigma^2 / |phi|^2."""
        return self.signal_variance + noise_ratio * self.noise

    def mse(self, noise_ratio: float) -> FloatArray:
        """Mean squared distance of the group's gradient from p(1-p) phi, in units of |phi|^2."""
        return self.bias**2 + self.variance(noise_ratio)

    def snr(self, noise_ratio: float) -> FloatArray:
        """Signal-to-noise ratio, signal^2 / variance; 0 where both are 0."""
        variance = self.variance(noise_ratio)
        return np.divide(self.signal**2, variance, out=np.zeros_like(variance), where=variance > 0)


def binomial_rows(p: FloatArray, upper: int) -> Iterator[tuple[int, FloatArray]]:
    """Yield, for n = 0..upper, n and the probabilities of k = 0..n successes, (P, n+1), at p (P,).

    By Pascal's rule pmf(k; n+1) = pmf(k; n) (1-p) + pmf(k-1; n) p: sums of non-negative terms only,
    so nothing cancels, overflows or needs a special case at p = 0 or 1.
    """
    pmf = np.ones((len(p), 1))
    success, failure = p[:, None], 1 - p[:, None]
    yield 0, pmf
    for n in range(1, upper + 1):
        longer = np.zeros((len(p), n + 1))
        longer[:, :-1] = pmf * failure
        longer[:, 1:] += pmf * success
        pmf = longer
        yield n, pmf


def binomial_pmf(p: FloatArray, n: int) -> FloatArray:
    """Probabilities of k = 0..n successes, (P, n+1), by logarithms: scipy's overflows at the smallest p."""
    k = np.arange(n + 1)
    log_choose = -special.betaln(n - k + 1, k + 1) - np.log(n + 1)
    log_pmf: FloatArray = log_choose + special.xlogy(k, p[:, None]) + special.xlog1py(n - k, -p[:, None])
    return np.exp(log_pmf)


def _moments_at(
    estimator: Estimator, n: int, p: FloatArray, pmf: FloatArray, spread: FloatArray | None = None
) -> FloatArray:
    """The four moments, (P, 4), of groups of n with outcome probabilities `pmf` (P, n+1)."""
    if n < estimator.minimum:
        return np.tile([0.0, 0.0, 0.0, 1.0], (len(p), 1))
    k = np.arange(n + 1.0)
    plus, minus = estimator.advantages(np.full(n + 1, float(n)), k)
    x = np.outer(1 - p, k * plus / n) - np.outer(p, (n - k) * minus / n)
    noise = (k * plus**2 + (n - k) * minus**2) / n**2
    zero = noise == 0
    if spread is not None:
        noise = (np.outer(spread[:, 0], k * plus**2) + np.outer(spread[:, 1], (n - k) * minus**2)) / n**2
    signal = (pmf * x).sum(axis=1)
    signal_variance = (pmf * (x - signal[:, None]) ** 2).sum(axis=1)
    return np.stack([signal, signal_variance, (pmf * noise).sum(axis=1), pmf[:, zero].sum(axis=1)], axis=1)


def moments(estimator: Estimator, p: FloatArray, n: IntArray, spread: FloatArray | None = None) -> Moments:
    """Exact moments of groups of n rollouts at success probability p; p and n broadcast.

    `spread` (..., 2): what the noise of a success's score and of a failure's is multiplied by; 1 unless
    given. The sums over k ~ Binomial(n, p) are those at the top of this file.
    """
    p, n = np.broadcast_arrays(np.asarray(p, dtype=np.float64), n)
    found = np.empty((*p.shape, 4))
    for size in np.unique(n):
        here = n == size
        each = None if spread is None else spread[here]
        found[here] = _moments_at(estimator, int(size), p[here], binomial_pmf(p[here], int(size)), each)
    return Moments(p, *np.moveaxis(found, -1, 0))


def moment_table(estimator: Estimator, p: FloatArray, upper: int) -> Moments:
    """Exact moments for p (...) and every n = 0..upper at once: arrays (..., upper + 1)."""
    p = np.asarray(p, dtype=np.float64)
    found = [_moments_at(estimator, n, p.ravel(), pmf) for n, pmf in binomial_rows(p.ravel(), upper)]
    columns = np.stack(found, axis=1).reshape(*p.shape, upper + 1, 4)
    return Moments(np.broadcast_to(p[..., None], columns.shape[:-1]), *np.moveaxis(columns, -1, 0))


def noise_table(estimator: Estimator, p: FloatArray, upper: int) -> FloatArray:
    """`moment_table(estimator, p, upper).noise` alone, (..., upper + 1), several times as fast.

    Probabilities stand as (upper + 1, P) and grow in place from n to n + 1, by Pascal's rule.
    """
    p = np.asarray(p, dtype=np.float64)
    success, failure = p.ravel(), 1 - p.ravel()
    pmf, found = np.zeros((2, upper + 1, p.size))
    pmf[0] = 1
    for n in range(1, upper + 1):
        gained = pmf[:n] * success
        pmf[:n] *= failure
        pmf[1 : n + 1] += gained
        if n >= estimator.minimum:
            k = np.arange(n + 1.0)
            plus, minus = estimator.advantages(np.full(n + 1, float(n)), k)
            noise = (k * plus**2 + (n - k) * minus**2) / n**2
            some = np.flatnonzero(noise)
            part = slice(some[0], some[-1] + 1)
            # Not as a product of matrices: equal prompts are to be equal to the last bit.
            found[n] = (noise[part, None] * pmf[part]).sum(axis=0)
    return found.T.reshape(*p.shape, upper + 1)


def prompt_shares(aggregation: Aggregation, groups: Groups) -> FloatArray:
    """Each group's share (R, B) of the batch gradient, sum_i share_i (1/n_i) sum_j A_ij z_ij.

    `prompt`: weight / number of prompts. `rollout`: weight * n / number of trained rollouts.
    """
    present = groups.prompts >= 0
    sizes = np.where(present, groups.sizes if aggregation == "rollout" else 1, 0)
    shares: FloatArray = groups.weights * sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1)
    return shares


def group_advantages(estimator: Estimator, groups: Groups) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What each kept success and failure is worth, and the size of its group, all (R, B).

    Advantages are 0 where they are not defined. Reused successes are members of their group: they enter
    its mean and standard deviation.
    """
    n, k = groups.sizes.astype(np.float64), groups.successes.astype(np.float64)
    if groups.reused is not None:
        k += groups.reused.counts
    plus, minus = estimator.advantages(np.maximum(n, estimator.minimum), k)
    defined = (n >= estimator.minimum) & (groups.prompts >= 0)
    if groups.baseline is not None:
        given = ~np.isnan(groups.baseline)
        plus, minus = np.where(given, 1 - groups.baseline, plus), np.where(given, -groups.baseline, minus)
        defined |= given & (n >= 1) & (groups.prompts >= 0)
    return np.where(defined, plus, 0.0), np.where(defined, minus, 0.0), np.maximum(n, 1)


def level_advantages(
    estimator: Estimator, groups: Groups, rewards: FloatArray, members: IntArray
) -> tuple[FloatArray, FloatArray]:
    """What a member with each of a few rewards (L,) is worth, (R, B, L), and the size of its group, (R, B).

    `members` (R, B, L) are all members of the groups, the reused among them, by reward. For rewards 0 and 1
    it is `group_advantages`.
    """
    n, present = groups.sizes, groups.prompts >= 0
    enough = n >= estimator.minimum
    # Where no advantage is defined, any group stands in that has one.
    counts = np.where(enough[..., None], members, 0).astype(np.float64)
    counts[..., 0] += np.where(enough, 0, estimator.minimum)
    advantages, defined = estimator.of_rewards(rewards, counts), enough & present
    if groups.baseline is not None:
        given = ~np.isnan(groups.baseline)
        advantages = np.where(given[..., None], rewards - groups.baseline[..., None], advantages)
        defined |= given & (n >= 1) & present
    return np.where(defined[..., None], advantages, 0.0), np.maximum(n, 1).astype(np.float64)


def realised(
    estimator: Estimator, groups: Groups, p: FloatArray, spread: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """What groups with known rewards contribute: x and the noise factor, both (R, B).

    The gradient of a group is x phi + N(0, sigma^2 noise I) given its rewards. Reused successes are
    taken as if the current policy had generated them (options I and II, not replay). `spread` (R, B, 2)
    multiplies the noise of a success's score and of a failure's; 1 unless given.
    """
    plus, minus, size = group_advantages(estimator, groups)
    k, failed = groups.successes.astype(np.float64), groups.failures
    if groups.reused is not None and groups.reused.option != "II":
        k += groups.reused.counts
    x = (k * plus * (1 - p) - failed * minus * p) / size
    of_success, of_failure = (1.0, 1.0) if spread is None else (spread[..., 0], spread[..., 1])
    noise = (of_success * k * plus**2 + of_failure * failed * minus**2) / size**2
    return x, noise
