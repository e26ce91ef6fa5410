"""VIP: Adaptive Rollout Allocation for Online RL with Verifiable Rewards (arXiv 2602.01601).

Predict the success probability of each prompt, then choose counts that minimise the variance of the
gradient: sum_q a_q (n-1)/n^2 for Dr. GRPO (Prop. 4.2) or sum_q a_q/(n-1) for RLOO (Prop. 4.3), with
a_q = p(1-p), sum n = C and L <= n <= U (p. 7-8).

Where this differs from the paper: the integer problem is solved exactly, not relaxed and rounded. Its
Gaussian-process predictor is `predictor=gp`, where installed; the default is a Beta posterior. The
paper never states L and U; its scripts use half and twice the mean group size, and so does this.

Where the paper and its released code disagree, the paper is followed: the code minimises p(1-p)/n under
both estimators (`objective=success_rate`), sets predictions of 0.8 and more to 1, and rounds counts
below 4 to 0. For `grpo`, which the paper does not derive, the objective is GRPO's own noise factor.
"""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicted, best_counts
from rolloutbench.objectives import Objective, ObjectiveSpec, noise_objective
from rolloutbench.protocol import Budget, IntArray
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class VIP(Predicted):
    """Least gradient variance at the predicted success rates; objective by estimator unless given."""

    objective: ObjectiveSpec | None = None

    def default_bounds(self, budget: Budget) -> tuple[int, int]:
        """Half and twice the mean group size, but no group so small that returns do not diminish."""
        objective = self._objective()
        smallest = objective.smallest if objective.convex_from is None else objective.convex_from
        return max(int(budget.group_size / 2), smallest), int(2 * budget.group_size)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """predictor x objective x solver."""
        belief = self.predictor.predict(prompts)
        return best_counts(self._objective(), prompts, belief.mean, budget, *self.bounds(budget))

    def _objective(self) -> Objective:
        return self.objective or noise_objective(self.setting.estimator)
