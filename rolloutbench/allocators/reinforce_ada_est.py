"""Reinforce-Ada-Est (arXiv 2510.04996v3): counts by an estimated success rate, for a log objective.

p_hat = (N+ + 1) / (N + 1 + 16) from exponentially weighted counts, N <- 0.9 N + n and N+ <- 0.9 N+ + k at
each visit: the mean of a Beta(1, 16) posterior with discount 0.9, and written so. The paper's other
choice, a value network, is not here.

Paper and code differ, and both are here. `rule=paper`, of which no code was released: N_x ~ 1/sqrt(p_hat +
eps), within bounds, and the gradient of a prompt times 1/sqrt(r + eps), where r is the group's mean reward.
`rule=code` (branch hanze of RLHFlow/Reinforce-Ada@e876f3e, verl/trainer/ppo/ray_trainer_ema.py): one
rollout each, the rest split in proportion to 1/p_hat by largest remainders, no bound above, no weight on
the gradient. The total is C, as in the code; its docstring says twice that.

Not given in the text we have: eps (here 1e-6) and the paper's bounds. A summary has 4 and 32 for 8 rollouts
a prompt, so here half and four times the group size. Under the paper's bounds counts are rounded to the
nearest integers that sum to the budget. The centring of the advantage is the estimator's own; the
paper's is A = r - mean, which is `dr_grpo`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicted, bounded_problem
from rolloutbench.allocators.rounding import largest_remainder
from rolloutbench.objectives import SuccessRate
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    Budget,
    Groups,
    InputError,
    IntArray,
    Plan,
    PromptStream,
    Provenance,
)
from rolloutbench.registry import PARAMETERS
from rolloutbench.solvers import serve_greatest


@dataclass(config=PARAMETERS)
class ReinforceAdaEst(Predicted):
    """More rollouts to prompts with lower success rates: 1/sqrt(p), or 1/p as in the released code."""

    unbiased: ClassVar[bool] = False
    goal: ClassVar[str] = "gradient of log rate"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2510.04996",
        code="RLHFlow/Reinforce-Ada@e876f3e",
        file="verl/trainer/ppo/ray_trainer_ema.py",
        licence="Apache-2.0",
        note="rule=paper, the default, has no released code; rule=code is branch hanze",
    )

    predictor: PredictorSpec = "beta[prior_successes=1,prior_failures=16,discount=0.9]"  # type: ignore[assignment]
    rule: Literal["paper", "code"] = "paper"
    eps: Annotated[float, Field(gt=0, lt=1)] = 1e-6

    def __post_init__(self) -> None:
        """Raise InputError where bounds are given with `rule=code`; set `one_shot` by the rule."""
        if self.rule == "code" and (self.lower, self.upper) != (None, None):
            raise InputError(f"lower={self.lower}, upper={self.upper}: rule=code has no bounds to set")
        self.one_shot = self.rule == "code"  # type: ignore[misc]

    def default_bounds(self, budget: Budget) -> tuple[int, int]:
        """Bounds by default: half and four times the mean group size."""
        return max(int(budget.group_size / 2), 1), int(4 * budget.group_size)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) by 1/sqrt(p_hat + eps) within bounds, or one each and the rest by 1/p_hat."""
        present = prompts >= 0
        p = self.predictor.predict(prompts).mean
        if self.rule == "code":
            each = present.astype(np.int64)
            rest = np.where(present.any(axis=1), budget.rollouts - each.sum(axis=1), 0)
            return each + largest_remainder(present / np.maximum(p, self.eps), rest)
        # The objective is not used: the problem checks and holds the bounds.
        problem = bounded_problem(SuccessRate(), prompts, p, budget, *self.bounds(budget))
        units = np.arange(1, int(problem.upper.max()) + 1)[:, None]
        gains = (1 / np.sqrt(p + self.eps))[:, None, :] / (units - 0.5)
        return serve_greatest(gains, problem.lower, problem.upper, problem.budget)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for one stage; by the paper's rule a prompt of mean reward r weighs 1/sqrt(r + eps)."""
        groups: Groups = yield from super().plan(stream, budget)
        if self.rule == "code":
            return groups
        reward = groups.successes / np.maximum(groups.counts, 1)
        return replace(groups, weights=1 / np.sqrt(reward + self.eps))
