"""DBB: a discounted Beta baseline (arXiv 2603.18444), over the groups of any allocator.

    at each visit of a prompt:  alpha <- lambda alpha + k,  beta <- lambda beta + n - k
    p = alpha / (alpha + beta);  A = (r - p) / sqrt(p (1 - p))

p and p (1 - p) take the place of the group's mean and variance, so a group of equal rewards keeps a gradient
where the prompt's history says otherwise. From a summary: lambda is .5 to .75, here .5, and p holds the
group's own rewards. Not said there: what alpha and beta begin with, here the uniform prior's 1 and 1, and
whether the division is by sqrt(p (1-p)) plus something, here 1e-6 as GRPO has it: after fifty visits that
were all solved beta is 1e-15. `std=false` centres only. No code was found.

The baseline knows the prompt's earlier rewards, which no estimator sees: so it is given with the groups, and
replaces whatever estimator is chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.baselines import Rebased
from rolloutbench.estimators import GRPO
from rolloutbench.protocol import Groups, Provenance, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class DBB(Rebased):
    """Groups of another allocator, centred and scaled by a discounted Beta posterior of each prompt."""

    goal: ClassVar[str] = "gradients of equal rewards"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2603.18444", note="from a summary; the prior is not known"
    )

    discount: Annotated[float, Field(ge=0, le=1)] = 0.5
    prior: Annotated[float, Field(gt=0)] = 1.0
    std: bool = True

    def begin(self, setting: Setting) -> None:
        """Start afresh: every prompt is at the prior."""
        super().begin(setting)
        self._posterior = np.full((2, setting.replicates, setting.pool_size), self.prior)

    def rebased(self, groups: Groups) -> Groups:
        """Count this step's groups, and centre them by the posterior that holds them."""
        here = (groups.prompts >= 0) & (groups.counts > 0)
        rows, columns = np.nonzero(here)
        visited = rows, groups.prompts[rows, columns]
        for parameter, came in zip(self._posterior, (groups.successes, groups.failures), strict=True):
            parameter[visited] = self.discount * parameter[visited] + came[rows, columns]
        alpha, beta = self._posterior[:, np.arange(len(here))[:, None], groups.prompts]
        p = np.where(here, alpha / (alpha + beta), np.nan)
        scale = np.where(here, 1 / (np.sqrt(p * (1 - p)) + GRPO().eps), 1.0) if self.std else 1.0
        return replace(groups, weights=groups.weights * scale, baseline=p)

    def state_dict(self) -> State:
        """What `of` remembers, and the posteriors (2, R, Q)."""
        return {**super().state_dict(), "posterior": self._posterior.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore what `of` remembers, and the posteriors."""
        super().load_state_dict(state)
        self._posterior = state["posterior"].copy()
