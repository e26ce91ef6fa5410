"""An allocation problem and its answer.

Choose integer counts n_i in [lower_i, upper_i] (or 0, with `allow_zero`) that sum to the budget and
make sum_i weight_i * objective(p_i, n_i) best. Everything is batched: R problems side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rolloutbench.objectives import Objective
from rolloutbench.protocol import BoolArray, FloatArray, InputError, IntArray


@dataclass(frozen=True)
class Problem:
    """R allocation problems over B prompts: p, weights, lower, upper (R, B), budget (R,)."""

    objective: Objective
    p: FloatArray
    weights: FloatArray
    budget: IntArray
    lower: IntArray
    upper: IntArray
    allow_zero: bool = False

    @classmethod
    def of(
        cls,
        objective: Objective,
        p: npt.ArrayLike,
        budget: npt.ArrayLike,
        lower: npt.ArrayLike,
        upper: npt.ArrayLike,
        weights: npt.ArrayLike = 1.0,
        allow_zero: bool = False,
    ) -> Problem:
        """Build a problem from p (R, B) or (B,); the others broadcast against it, `budget` to (R,).

        Raises InputError, with the numbers, where p is no probability or the bounds cannot be met.
        """
        p = np.asarray(p, dtype=np.float64)
        p = p[None] if p.ndim == 1 else p
        if p.ndim != 2 or p.shape[1] == 0:
            raise InputError(f"p has shape {p.shape}: expected at least one prompt, as (B,) or (R, B)")
        if not (p.min() >= 0 and p.max() <= 1):
            r, b = np.argwhere(~((p >= 0) & (p <= 1)))[0]
            raise InputError(f"p[{b}]={p[r, b]}: a success probability lies in [0, 1]")
        weights = np.asarray(weights, dtype=np.float64)
        if not (weights.min() >= 0 and weights.max() < np.inf):
            raise InputError(
                f"weights={weights.min()}..{weights.max()}: they must be finite and not negative"
            )
        weights = np.broadcast_to(weights, p.shape)
        lower, upper = (np.broadcast_to(np.asarray(n, dtype=np.int64), p.shape) for n in (lower, upper))
        budget = np.broadcast_to(np.asarray(budget, dtype=np.int64), p.shape[:1])
        problem = cls(objective, p, weights, budget, lower, upper, allow_zero)
        problem._check_bounds()
        if problem.upper_range[1] <= problem.budget.max(initial=0):
            return problem
        # Nobody can get more than the others' lower bounds leave; tables need not go further.
        spoken_for = np.zeros_like(lower) if allow_zero else lower.sum(axis=1, keepdims=True) - lower
        return replace(problem, upper=np.minimum(upper, budget[:, None] - spoken_for))

    def _check_bounds(self) -> None:
        if self.lower_range[0] < 0:
            raise InputError(f"lower={self.lower_range[0]}: counts cannot be negative")
        if self.lower_range[1] > self.upper_range[0] and (self.lower > self.upper).any():
            r, b = np.argwhere(self.lower > self.upper)[0]
            raise InputError(f"lower={self.lower[r, b]} is above upper={self.upper[r, b]} (prompt {b})")
        least = np.zeros_like(self.budget) if self.allow_zero else self.lower.sum(axis=1)
        most = self.upper.sum(axis=1)
        for side, bound, broken in (
            ("below", least, self.budget < least),
            ("above", most, self.budget > most),
        ):
            if broken.any():
                r = np.argmax(broken)
                raise InputError(
                    f"budget={self.budget[r]} is {side} the sum of {'lower' if side == 'below' else 'upper'} "
                    f"bounds, {bound[r]} over {self.p.shape[1]} prompts"
                )

    @cached_property
    def lower_range(self) -> tuple[int, int]:
        """The least and the greatest lower bound."""
        return int(self.lower.min()), int(self.lower.max())

    @cached_property
    def upper_range(self) -> tuple[int, int]:
        """The least and the greatest upper bound."""
        return int(self.upper.min()), int(self.upper.max())

    @property
    def sign(self) -> int:
        """Sign, +1 for a loss and -1 for a gain: sign * value is to be minimised."""
        return -1 if self.objective.maximise else 1

    @cached_property
    def has_diminishing_returns(self) -> bool:
        """Whether every prompt that matters is where its objective is convex (concave, for a gain)."""
        start = self.objective.convex_from
        if start is None or self.allow_zero:
            return False
        if self.lower_range[0] >= start:
            return True
        return bool(((self.lower >= start) | ((self.lower == self.upper) & (self.weights == 0))).all())

    def require_diminishing_returns(self, solver: str) -> None:
        """Raise InputError, on behalf of a solver, unless returns diminish."""
        if self.has_diminishing_returns:
            return
        start = self.objective.convex_from
        range_ = "for no range of counts" if start is None else f"from n={start} on, without allow_zero"
        raise InputError(
            f"solver {solver} needs diminishing returns, which {type(self.objective).__name__} has {range_} "
            f"(lower={self.lower_range[0]}, allow_zero={self.allow_zero}): use solver dynamic"
        )

    def losses(self, top: int | None = None) -> FloatArray:
        """Losses to be minimised, (R, B, top + 1), whether a count is allowed or not."""
        top = self.upper_range[1] if top is None else top
        with np.errstate(invalid="ignore"):  # weight 0 times infinity: such a prompt costs nothing
            losses: FloatArray = self.sign * self.weights[..., None] * self.objective.table(self.p, top)
        losses[self.weights == 0] = 0.0
        return losses

    def allowed_losses(self) -> FloatArray:
        """`losses` up to the greatest upper bound, with infinity where a count is not allowed."""
        losses = self.losses()
        n = np.arange(losses.shape[-1])
        allowed: BoolArray = (n >= self.lower[..., None]) & (n <= self.upper[..., None])
        if self.allow_zero:
            allowed |= n == 0
        return np.where(allowed, losses, np.inf)

    def value(self, counts: IntArray | FloatArray) -> FloatArray:
        """Weighted sum (R,) of the objective at these counts: a loss or a gain, as the objective has it."""
        worth = self.objective.at(self.p, counts)
        if self.weights.min() == 0:  # such prompts count for nothing, also where their value is infinite
            worth = np.where(self.weights > 0, worth, 0.0)
        total: FloatArray = (self.weights * worth).sum(axis=1)
        return total


def left_out(problem: Problem, counts: IntArray | FloatArray) -> BoolArray:
    """Prompts (R, B) that could teach something and get nothing, which a mere variance calls best.

    A group of no rollouts has no variance: unless the objective also charges the bias, as `mse` does, a
    prompt without rollouts costs nothing, and so do those that matter most.
    """
    alive = (problem.p > 0) & (problem.p < 1) & (problem.weights > 0)
    if problem.objective.maximise:
        return np.zeros_like(alive)
    free: BoolArray = problem.objective.at(problem.p, np.zeros(problem.p.shape, np.int64)) == 0
    return alive & free & (counts < 0.5)


@dataclass(frozen=True)
class Allocation:
    """Solution of allocation problems: `counts` (R, B), and its certificate, (R,) each.

    `value` is the objective's sum. `price` is the dual variable: what one more rollout is worth.
    `bound` is the value of the Lagrangian dual at that price, which no integer allocation can beat: it
    lies on the better side of `value`, and where the two meet the allocation is optimal. Counts of
    the continuous solvers are fractional.
    """

    counts: IntArray | FloatArray
    price: FloatArray
    value: FloatArray
    bound: FloatArray

    @property
    def gap(self) -> FloatArray:
        """Distance (R,) between the value and its bound: how far the value may be from the best."""
        return np.abs(self.value - self.bound)
