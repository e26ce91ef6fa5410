"""VIP's two heuristic baselines (arXiv 2602.01601, App. C.1, p. 27): more rollouts to hard prompts, or
to prompts whose rewards vary least.

Weights are 1 - accuracy + eps, and 1 / (variance + eps). The text makes counts proportional to them, within
bounds: here by rounding to the nearest integers that sum to the budget (Webster's divisors). The released
code (HieuNT91/VIP@bcc8a25, src/vip/allocation/bernoulli_allocation.py) solves a linear program instead, min
sum n log(accuracy) or min sum n log(p(1-p)), which fills prompts to the upper bound one after the other:
`rule=linear_program`. Fig. 2 shows that.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicted, bounded_problem
from rolloutbench.objectives import SuccessRate
from rolloutbench.protocol import (
    Budget,
    FloatArray,
    IntArray,
    Provenance,
)
from rolloutbench.registry import PARAMETERS
from rolloutbench.solvers import serve_greatest


@dataclass(config=PARAMETERS)
class Inverse(Predicted):
    """Counts proportional to a weight, or filled in order of a coefficient, within bounds."""

    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2602.01601",
        code="HieuNT91/VIP@bcc8a25",
        file="src/vip/allocation/bernoulli_allocation.py",
        licence="Apache-2.0",
        note="counts proportional to weights as in the text; rule=linear_program is the code",
    )

    rule: Literal["proportional", "linear_program"] = "proportional"
    eps: Annotated[float, Field(gt=0)] = 1e-6

    def default_bounds(self, budget: Budget) -> tuple[int, int]:
        """Bounds by default as those of VIP: half and twice the mean group size."""
        return max(int(budget.group_size / 2), 1), int(2 * budget.group_size)

    @abstractmethod
    def weight(self, p: FloatArray) -> FloatArray:
        """Weights (R, B) that counts are proportional to."""

    @abstractmethod
    def coefficient(self, p: FloatArray) -> FloatArray:
        """Costs of a rollout in the linear program (R, B)."""

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) that serve a prompt's n-th rollout by weight / (n - 1/2), or by -coefficient."""
        p = self.predictor.predict(prompts).mean
        # The objective is not used: the problem checks and holds the bounds.
        problem = bounded_problem(SuccessRate(), prompts, p, budget, *self.bounds(budget))
        units = np.arange(1, int(problem.upper.max()) + 1)[:, None]
        if self.rule == "proportional":
            gains = self.weight(p)[:, None, :] / (units - 0.5)
        else:
            # Rounded, so that p and 1 - p tie although one of them was rounded.
            costs = np.round(self.coefficient(p), 12)[:, None, :]
            gains = np.repeat(-costs, len(units), axis=1)
        return serve_greatest(gains, problem.lower, problem.upper, problem.budget)


@dataclass(config=PARAMETERS)
class InverseAccuracy(Inverse):
    """More rollouts to prompts that fail more: counts ~ 1 - p (VIP's heuristic baseline)."""

    goal: ClassVar[str] = "hard prompts first"

    def weight(self, p: FloatArray) -> FloatArray:
        """Weights 1 - p + eps (R, B) that counts are proportional to."""
        return 1 - p + self.eps

    def coefficient(self, p: FloatArray) -> FloatArray:
        """Costs log p (R, B), with p clipped to [eps, 1 - eps]."""
        return np.log(np.clip(p, self.eps, 1 - self.eps))


@dataclass(config=PARAMETERS)
class InverseVariance(Inverse):
    """More rollouts where rewards vary less: counts ~ 1 / (p(1-p)) (VIP's heuristic baseline)."""

    goal: ClassVar[str] = "sure prompts first"

    def weight(self, p: FloatArray) -> FloatArray:
        """Weights 1 / (p(1-p) + eps), (R, B)."""
        return 1 / (p * (1 - p) + self.eps)

    def coefficient(self, p: FloatArray) -> FloatArray:
        """Costs log p(1-p), (R, B), with p clipped to [eps, 1 - eps]."""
        p = np.clip(p, self.eps, 1 - self.eps)
        return np.log(p * (1 - p))
