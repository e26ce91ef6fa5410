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

Paper and released code (HieuNT91/VIP@bcc8a25, src/vip/allocation/bernoulli_allocation.py) disagree.
`preset=paper` is the paper: the process as printed, without noise or carried covariance, and sigmoid of its
mean. `preset=released_code` is the code: p(1-p)/n under every estimator, predictions of 0.8 and more set to
1 and all of them kept 1e-6 from 0 and 1, counts below 4 set to 0, a process with length scale 0.5, prior
mean -5 and jitter 1e-4, and 15 steps of equal groups before (its README starts from such a checkpoint).

What counts below 4 leave goes, in the code, to no prompt of worth: its value is infinite as soon as one
count is 0, all gains are the difference of two infinities, and the sort puts the *last* prompts of the
batch first, each up to U, the first of those set to 0 at the very end. Its README warns of L below 4, where
this happens, and its trainers pass L = 1 and U = 32 whatever the script says:
`preset=released_code,lower=1,upper=32`.

Not followed: SLSQP, which stops short of the optimum (by up to .8% of the budget, and by 13% where all p
are near 0; here it is exact); its equal groups for hopeless batches, asked of a sum of p of at most 1e-6
after p was raised to that, which two prompts never have; the loss averaged over tokens. Parameters given
beside a preset win over it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from rolloutbench.allocators.one_shot import Predicted, best_counts, bounded_problem
from rolloutbench.objectives import (
    Objective,
    ObjectiveSpec,
    RLOONoise,
    SuccessRate,
    expected,
    noise_objective,
)
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    Belief,
    Budget,
    FloatArray,
    InputError,
    IntArray,
    Outcomes,
    Provenance,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS
from rolloutbench.solvers import Problem
from rolloutbench.solvers.continuous import continuous

PAPER_GP = "noise=0,drift=1,belief=plug_in"

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"predictor": f"gp[{PAPER_GP}]"},
    "released_code": {
        "predictor": f"gp[{PAPER_GP},length_scale=0.5,prior_mean=-5,jitter=1e-4]",
        "objective": "success_rate",
        "solved_from": 0.8,
        "clip": 1e-6,
        "drop_below": 4,
        "warm_up": 15,
    },
}


@dataclass(config=PARAMETERS)
class VIP(Predicted):
    """Least gradient variance at the predicted success rates; objective by estimator unless given.

    The last four parameters are the released code's: the first `warm_up` steps give equal groups;
    predictions of at least `solved_from` count as 1; predictions are kept `clip` away from 0 and 1; counts
    under `drop_below` become 0, which needs objective=success_rate.
    """

    variants: ClassVar[tuple[str, ...]] = (
        "",
        "predictor=oracle",
        "predictor=beta",
        "predictor=ensemble",
        "preset=paper",
        "preset=released_code",
    )

    goal: ClassVar[str] = "least gradient variance"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2602.01601",
        code="HieuNT91/VIP@bcc8a25",
        file="src/vip/allocation/bernoulli_allocation.py",
        licence="Apache-2.0",
        note="the paper's problem, solved exactly, with a process that has noise; the code is a preset",
    )

    predictor: PredictorSpec = "gp"  # type: ignore[assignment]
    objective: ObjectiveSpec | None = None
    belief: Literal["mean", "posterior"] = "mean"
    preset: Literal["paper", "released_code"] | None = None
    warm_up: Annotated[int, Field(ge=0)] = 0
    solved_from: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    drop_below: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: ArgsKwargs) -> ArgsKwargs:
        """Fill in the preset's parameters, where they were not given."""
        parameters = given.kwargs or {}
        return ArgsKwargs(given.args, {**PRESETS.get(parameters.get("preset", ""), {}), **parameters})

    def __post_init__(self) -> None:
        """Raise InputError where counts are dropped under another objective; say what is unbiased."""
        if self.drop_below and not isinstance(self.objective, SuccessRate):
            raise InputError(f"drop_below={self.drop_below}: needs objective=success_rate")
        self.unbiased = not self.drop_below  # type: ignore[misc]

    def begin(self, setting: Setting) -> None:
        """Start afresh, the predictor too."""
        super().begin(setting)
        self._steps = np.zeros(setting.replicates, dtype=np.int64)

    def observe(self, outcomes: Outcomes) -> None:
        """Let the predictor learn from every rollout, and count one step of the warm-up."""
        super().observe(outcomes)
        self._steps += outcomes.counts.any(axis=1)

    def default_bounds(self, budget: Budget) -> tuple[int, int]:
        """Bounds by default: half and twice the mean group size, raised to where returns diminish."""
        objective = self._objective()
        smallest = objective.smallest if objective.convex_from is None else objective.convex_from
        return max(int(budget.group_size / 2), smallest), int(2 * budget.group_size)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) by predictor x objective x solver."""
        belief = self._considered(self.predictor.predict(prompts))
        objective, p = self._objective(), belief.mean
        if self.belief == "posterior":
            objective, p = expected(objective, belief)
        lower, upper = self.bounds(budget)
        counts = best_counts(objective, prompts, p, budget, lower, upper)
        if lower >= self.drop_below:
            return counts
        return self._without_small(counts, prompts, p, budget, lower, upper)

    def _without_small(
        self, counts: IntArray, prompts: IntArray, p: FloatArray, budget: Budget, lower: int, upper: int
    ) -> IntArray:
        """Counts (R, B) where some of the real optimum, rounded down, are dropped; else those given.

        Of p(1-p)/n the real optimum is that of p(1-p)/(n-1), Theorem 5.2, with a rollout more for everybody.
        """
        present = prompts >= 0
        problem = bounded_problem(SuccessRate(), prompts, p, budget, max(lower, 1), upper)
        one_more = Problem.of(
            RLOONoise(),
            p,
            problem.budget + p.shape[1],
            problem.lower + 1 + ~present,
            problem.upper + 1 + ~present,
            problem.weights,
        )
        whole = np.floor(continuous(one_more).counts - 1 + 1e-9).astype(np.int64)
        small = present & (whole < self.drop_below)
        kept = np.where(small | ~present, 0, whole)
        room = np.where(present, upper - kept, 0)
        last_first = np.arange(p.shape[1], 0, -1)
        first_small = small & (np.cumsum(small, axis=1) == 1)
        order = np.argsort(np.where(first_small, p.shape[1] + 1, last_first), axis=1)
        room = np.take_along_axis(room, order, axis=1)
        before = np.cumsum(room, axis=1) - room
        rest = (problem.budget - kept.sum(axis=1))[:, None]
        np.put_along_axis(
            kept, order, np.take_along_axis(kept, order, axis=1) + np.clip(rest - before, 0, room), axis=1
        )
        return np.where(small.any(axis=1, keepdims=True), kept, counts)

    def _considered(self, belief: Belief) -> Belief:
        """The belief as the rules on solved prompts, the clip and the warm-up have it."""
        solved = belief.mean >= self.solved_from
        mean = np.clip(np.where(solved, 1.0, belief.mean), self.clip, 1 - self.clip)
        alike = (self._steps < self.warm_up)[:, None]
        variance = np.where(solved | alike, 0.0, belief.variance)
        return Belief(np.where(alike, 0.5, mean), variance)

    def _objective(self) -> Objective:
        return self.objective or noise_objective(self.setting.estimator)

    def state_dict(self) -> State:
        """What the predictor learned, and the number of steps seen (R,)."""
        return {**super().state_dict(), "steps": self._steps.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the predictor and the number of steps seen."""
        super().load_state_dict(state)
        self._steps = state["steps"].copy()
