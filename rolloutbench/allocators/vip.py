"""VIP: Adaptive Rollout Allocation for Online RL with Verifiable Rewards (arXiv 2602.01601).

Predict the success probability of each prompt, then choose counts that minimise the variance of the
gradient: sum_q a_q (n-1)/n^2 for Dr. GRPO (Prop. 4.2) or sum_q a_q/(n-1) for RLOO (Prop. 4.3), with
a_q = p(1-p), sum n = C and L <= n <= U (p. 7-8). For `grpo`, which the paper does not derive, the
objective is GRPO's own noise factor.

By default the predictor is the paper's Gaussian process with the changes that predictors/gp.py lists.
The integer problem is solved exactly, not relaxed and rounded; for these objectives that gives what the
paper's rounding (Algorithm 2) gives. The paper never states L and U; its scripts use half and twice the
mean group size, and so does this. `belief=posterior` minimises the expected variance instead of the
variance at the expected p, which with m(1-m) - v for m(1-m) favours prompts that are known to be mixed.

Paper and released code disagree. `preset=paper` is the paper: the process as printed, without noise or
carried covariance, and sigmoid of its mean. `preset=released_code` is the code: p(1-p)/n under every
estimator, predictions of 0.8 and more set to 1, equal groups for a batch predicted near 0 throughout,
counts below 4 set to 0 and their rollouts dealt to the others, a process with length scale 0.5, prior
mean -5 and jitter 1e-4, and 15 steps of equal groups before (its README starts from such a checkpoint).
Not followed there: SLSQP, which stops at its limit of 100 iterations short of the optimum (here exact);
the clip of p to 1e-6, which only keeps its solver going; its threshold for "near 0", which we do not
know (here 1e-3); the loss averaged over tokens. Parameters given beside a preset win over it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from rolloutbench.allocators.one_shot import Predicted, best_counts
from rolloutbench.objectives import Objective, ObjectiveSpec, expected, noise_objective
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import Belief, BoolArray, Budget, IntArray, Outcomes, Setting, State
from rolloutbench.registry import PARAMETERS

PAPER_GP = "noise=0,drift=1,belief=plug_in"

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"predictor": f"gp[{PAPER_GP}]"},
    "released_code": {
        "predictor": f"gp[{PAPER_GP},length_scale=0.5,prior_mean=-5,jitter=1e-4]",
        "objective": "success_rate",
        "solved_from": 0.8,
        "hopeless_below": 1e-3,
        "drop_below": 4,
        "warm_up": 15,
    },
}


@dataclass(config=PARAMETERS)
class VIP(Predicted):
    """Least gradient variance at the predicted success rates; objective by estimator unless given.

    The last four parameters are the released code's: the first `warm_up` steps give equal groups;
    predictions of at least `solved_from` count as 1; a batch with all predictions under
    `hopeless_below` gets equal groups; counts under `drop_below` become 0.
    """

    predictor: PredictorSpec = "gp"  # type: ignore[assignment]
    objective: ObjectiveSpec | None = None
    belief: Literal["mean", "posterior"] = "mean"
    preset: Literal["paper", "released_code"] | None = None
    warm_up: Annotated[int, Field(ge=0)] = 0
    solved_from: Annotated[float, Field(gt=0, le=1)] = 1.0
    hopeless_below: Annotated[float, Field(ge=0, le=1)] = 0.0
    drop_below: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: ArgsKwargs) -> ArgsKwargs:
        """The preset's parameters, where they were not given."""
        parameters = given.kwargs or {}
        return ArgsKwargs(given.args, {**PRESETS.get(parameters.get("preset", ""), {}), **parameters})

    def begin(self, setting: Setting) -> None:
        """Start afresh, the predictor too."""
        super().begin(setting)
        self._steps = np.zeros(setting.replicates, dtype=np.int64)

    def observe(self, outcomes: Outcomes) -> None:
        """The predictor learns from every rollout, and one step of warm-up is over."""
        super().observe(outcomes)
        self._steps += outcomes.counts.any(axis=1)

    def default_bounds(self, budget: Budget) -> tuple[int, int]:
        """Half and twice the mean group size, but no group so small that returns do not diminish."""
        objective = self._objective()
        smallest = objective.smallest if objective.convex_from is None else objective.convex_from
        return max(int(budget.group_size / 2), smallest), int(2 * budget.group_size)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """predictor x objective x solver."""
        belief = self._considered(self.predictor.predict(prompts), prompts >= 0)
        objective, p = self._objective(), belief.mean
        if self.belief == "posterior":
            objective, p = expected(objective, belief)
        lower, upper = self.bounds(budget)
        counts = best_counts(objective, prompts, p, budget, lower, upper)
        kept = np.where(counts >= self.drop_below, prompts, -1)
        if (kept == prompts).all():
            return counts
        return best_counts(objective, kept, p, budget, lower, upper)

    def _considered(self, belief: Belief, present: BoolArray) -> Belief:
        """The belief as the rules on solved prompts, hopeless batches and the warm-up have it."""
        solved = belief.mean >= self.solved_from
        mean, variance = np.where(solved, 1.0, belief.mean), np.where(solved, 0.0, belief.variance)
        hopeless = ((belief.mean < self.hopeless_below) | ~present).all(axis=1)
        alike = (hopeless | (self._steps < self.warm_up))[:, None]
        return Belief(np.where(alike, 0.5, mean), np.where(alike, 0.0, variance))

    def _objective(self) -> Objective:
        return self.objective or noise_objective(self.setting.estimator)

    def state_dict(self) -> State:
        """The predictor's, and the steps seen (R,)."""
        return {**super().state_dict(), "steps": self._steps.copy()}

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        super().load_state_dict(state)
        self._steps = state["steps"].copy()
