"""AERO: adaptive efficient rollout optimisation (arXiv 2602.14338).

    explore: g rollouts of every prompt; u = k / g                                        g = 8
    rescue:  where u = 0, 2 more at a time, until the first success or 2 g in all         16
    train:   0 < u < 1/2   all successes and as many failures
             1/2 <= u < 1  all rollouts

Neither text nor authors' code was to be had: this follows the summary of its section 3 in a third party's
re-implementation. Groups of equal rewards are not trained on here. The paper gives them an advantage from
a Beta(1, 1) posterior; how is not known (that summary says 2 v - 1 for every rollout, v being the posterior's
mean, its code gives them equal rewards, which a group's own mean turns into 0).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    Budget,
    Groups,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
    Request,
)
from rolloutbench.registry import PARAMETERS

Count = Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)]


@dataclass(config=PARAMETERS)
class AERO(Allocator):
    """More rollouts for prompts without a success; hard groups are trained on in balance."""

    hard_budget: ClassVar[bool] = False
    staged: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("unselected",)
    goal: ClassVar[str] = "effective groups"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2602.14338",
        note="from a summary in a third party's re-implementation; without the advantage of equal rewards",
    )

    most: Count | None = None
    per_rescue: Count = 2

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Explore, rescue the prompts without a success, and choose what to train on."""
        explore = int(budget.group_size)
        most = max(self.most or 2 * explore, explore)
        prompts = stream.draw(budget.prompts)
        asked = explore * (prompts >= 0)
        seen = yield Request(prompts, asked)
        for _ in range(-(-(most - explore) // self.per_rescue)):
            more = np.minimum(self.per_rescue, most - asked) * ((seen.successes == 0) & (prompts >= 0))
            if not more.any():
                break
            asked = asked + more
            seen += yield Request(prompts, more)
        return self._curated(seen)

    @staticmethod
    def _curated(seen: Outcomes) -> Groups:
        """What is kept of each group: all of it, its balanced part, or nothing where rewards are equal."""
        n, k = seen.counts, seen.successes
        mixed = (k > 0) & (k < n)
        successes = np.where(mixed, k, 0)
        failures = np.where(mixed, np.where(2 * k < n, k, n - k), 0)
        unselected = (n - successes - failures).sum(axis=1)
        weights = np.ones(n.shape)
        return Groups(seen.prompts, successes, failures, weights, discarded={"unselected": unselected})
