"""AdaRFT: train near a difficulty that follows the reward (arXiv 2504.05520; code uscnlp-lime/verl@bf2dd7e).

    difficulty d of every prompt in [0, 100], once;  target T = 0
    step: train on the B prompts whose d is nearest to T, equal groups
          T <- clip(T + eta tanh(alpha (mean reward - beta)), 0, 100)      eta = 50, alpha = 2, beta = 1/2

In the paper d comes with the data: 100 times the failure rate of another model over 128 attempts. Here it is
that of the policy before training, over `profile` rollouts of each prompt, which are on the bill. Prompts
equally near are taken at random; the code takes what its sort has first, the same ones until T moves.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.selection import Profiling, least
from rolloutbench.allocators.uniform import equal_counts
from rolloutbench.protocol import BoolArray, Budget, Groups, Plan, Provenance, Request, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class AdaRFT(Profiling):
    """Equal groups for the prompts nearest to a target difficulty, which rises with the mean reward."""

    goal: ClassVar[str] = "rewards near one half"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2504.05520",
        code="uscnlp-lime/verl@bf2dd7e",
        file="verl/trainer/ppo/custom_sampler.py, verl/trainer/ppo/ray_trainer.py",
        licence="Apache-2.0",
        note="difficulties are profiled, and billed, in place of another model's failure rates",
    )

    eta: Annotated[float, Field(ge=0)] = 50.0
    alpha: Annotated[float, Field(ge=0)] = 2.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5

    def begin(self, setting: Setting) -> None:
        """Start afresh at the easiest prompts."""
        super().begin(setting)
        self._target = np.zeros(setting.replicates)

    def plan_profiled(self, among: BoolArray, budget: Budget) -> Plan:
        """Train on the prompts nearest to the target, and move it by their mean reward."""
        distance = np.abs(100 * (1 - self.rates) - self._target[:, None])
        prompts = least(distance, among, budget.prompts, self.setting.rng)
        outcomes = yield Request(prompts, equal_counts(prompts, budget.rollouts))
        counts = outcomes.counts.sum(axis=1)
        reward = np.where(counts > 0, outcomes.successes.sum(axis=1) / np.maximum(counts, 1), self.beta)
        moved = self._target + self.eta * np.tanh(self.alpha * (reward - self.beta))
        self._target = np.clip(moved, 0.0, 100.0)
        return Groups.all_of(outcomes)

    def state_dict(self) -> State:
        """The profile, and the target difficulty (R,)."""
        return {**super().state_dict(), "target": self._target.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the profile and the target difficulty."""
        super().load_state_dict(state)
        self._target = state["target"].copy()
