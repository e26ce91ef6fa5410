"""BOTS: Bayesian online task selection (arXiv 2510.26374; code modelscope/Trinity-RFT@607f1db).

    step: sample theta ~ Beta(alpha, beta) of every prompt of the pool
          train on the B prompts whose theta is nearest to 1/2, equal groups
          alpha <- .9 alpha + .1 + k,  beta <- .9 beta + .1 + n - k        (`forgetting` .1)

The update is for the whole pool: prompts without rollouts have k = n = 0, and go back to the prior Beta(1, 1)
step by step. (MoPPS forgets at visits only, and chooses among candidates.) `tau` chooses by a softmax of
-|theta - 1/2| / tau instead; 0, as in the code's example, takes the nearest.

The code also adds implicit evidence, rho n p~ successes to prompts without rollouts, with p~ between the pass
rates of a weaker and a stronger reference model. There are no such rates here, so rho = 0: its explicit
evidence only. With rho > 0 a visited prompt's evidence is n and k as here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.selection import Selecting, drawn_by_weight, least
from rolloutbench.protocol import BoolArray, IntArray, Outcomes, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class BOTS(Selecting):
    """Equal groups for the prompts of the pool whose sampled success probability is nearest to one half."""

    goal: ClassVar[str] = "success rates near one half"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2510.26374",
        code="modelscope/Trinity-RFT@607f1db",
        file="trinity/buffer/selector/diff_estimator.py, selector.py, examples/bots/bots.yaml",
        licence="Apache-2.0",
        note="without implicit evidence, which needs pass rates of two reference models",
    )

    target: Annotated[float, Field(ge=0, le=1)] = 0.5
    forgetting: Annotated[float, Field(ge=0, le=1)] = 0.1
    tau: Annotated[float, Field(ge=0)] = 0.0

    def begin(self, setting: Setting) -> None:
        """Every prompt starts at Beta(1, 1)."""
        self.setting = setting
        self._alpha, self._beta = np.ones((2, setting.replicates, setting.pool_size))

    def choose(self, among: BoolArray, count: int) -> IntArray:
        """Prompts (R, count) by Thompson samples: the nearest to the target, or by softmax."""
        sampled = self.setting.rng.beta(self._alpha, self._beta)
        distance = np.where(among, np.abs(sampled - self.target), np.inf)
        if self.tau == 0:
            return least(distance, among, count, self.setting.rng)
        nearest = distance.min(axis=1, keepdims=True, initial=1.0)
        return drawn_by_weight(np.exp((nearest - distance) / self.tau), among, count, self.setting.rng)

    def observe(self, outcomes: Outcomes) -> None:
        """Forget a little of every prompt, then count the step's rewards."""
        stepped = outcomes.counts.sum(axis=1, keepdims=True) > 0
        for parameter, evidence in (
            (self._alpha, outcomes.successes),
            (self._beta, outcomes.counts - outcomes.successes),
        ):
            parameter += np.where(stepped, self.forgetting * (1 - parameter), 0.0)
            rows, columns = np.nonzero(outcomes.counts)
            parameter[rows, outcomes.prompts[rows, columns]] += evidence[rows, columns]

    def state_dict(self) -> State:
        """Parameters alpha and beta (R, Q) of the posteriors."""
        return {"alpha": self._alpha.copy(), "beta": self._beta.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the parameters alpha and beta."""
        self._alpha, self._beta = state["alpha"].copy(), state["beta"].copy()
