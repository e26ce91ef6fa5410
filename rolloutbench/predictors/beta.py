"""A Beta posterior for each prompt, with forgetting, as in MoPPS (arXiv 2507.04632).

At each visit alpha <- d alpha + (1-d) alpha_0 + k and beta <- d beta + (1-d) beta_0 + (n-k), with discount
d = 1 for a success probability that stays. MoPPS' code (thu-rllab/MoPPS@a883f51, recipe/ours/mopps.py) uses
d = 1 for MATH and 0.5 for Countdown and Geometry, prior Beta(1, 1).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Belief, IntArray, Outcomes, Predictor, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Beta(Predictor):
    """Beta posterior of each prompt's own outcomes, with a prior and forgetting."""

    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2507.04632",
        code="thu-rllab/MoPPS@a883f51",
        file="recipe/ours/mopps.py",
        licence="Apache-2.0",
        note="without its slip that sets alpha to 8 for groups of one",
    )

    prior_successes: Annotated[float, Field(gt=0)] = 1.0
    prior_failures: Annotated[float, Field(gt=0)] = 1.0
    discount: Annotated[float, Field(ge=0, le=1)] = 1.0

    def begin(self, setting: Setting) -> None:
        """Every prompt starts at the prior."""
        self.setting = setting
        shape = (setting.replicates, setting.pool_size)
        self._alpha = np.full(shape, self.prior_successes)
        self._beta = np.full(shape, self.prior_failures)

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance (R, B) of each prompt's Beta posterior."""
        rows = np.arange(len(prompts))[:, None]
        alpha, beta = self._alpha[rows, prompts], self._beta[rows, prompts]
        total = alpha + beta
        return Belief(alpha / total, alpha * beta / (total**2 * (total + 1)))

    def update(self, outcomes: Outcomes) -> None:
        """Count one visit of each prompt that got rollouts, after forgetting."""
        rows, columns = np.nonzero(outcomes.counts)
        visited = rows, outcomes.prompts[rows, columns]
        k = outcomes.successes[rows, columns]
        n = outcomes.counts[rows, columns]
        keep = self.discount
        self._alpha[visited] = keep * self._alpha[visited] + (1 - keep) * self.prior_successes + k
        self._beta[visited] = keep * self._beta[visited] + (1 - keep) * self.prior_failures + (n - k)

    def state_dict(self) -> State:
        """Parameters alpha and beta (R, Q) of the posteriors."""
        return {"alpha": self._alpha.copy(), "beta": self._beta.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the parameters alpha and beta."""
        self._alpha, self._beta = state["alpha"].copy(), state["beta"].copy()
