"""sGPO: sorted group policy optimisation (arXiv 2606.08854).

    profile:  8 rollouts of every prompt by the policy before training; p = k / 8
    filter:   drop prompts with p > .75; keep those with p = 0 with chance .1
    group:    the least power of two at or above 1/p, in {2, 4, 8}; 8 where p = 0
    order:    from easy to hard, B prompts a step

The authors' code was not found: the abstract gives the rule, a third party's notes its numbers. The largest
group is `largest`, by default the greatest power of two within the group size. After the hardest prompts it
begins anew, with the profile that it has. A step costs the groups' sum, most often less than the
budget; the profile is billed in the first.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.selection import Profiling, least
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    BoolArray,
    Budget,
    Groups,
    IntArray,
    Outcomes,
    Plan,
    Provenance,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(config=PARAMETERS)
class SGPO(Profiling):
    """Prompts from easy to hard by a profile, with groups of about 1/p; the easiest are dropped."""

    goal: ClassVar[str] = "one success a group"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2606.08854",
        note="numbers from third-party notes; what follows the last prompt is not known",
    )

    drop_above: Share = 0.75
    keep_hopeless: Share = 0.1
    largest: Annotated[int, Field(ge=2, le=MOST_ROLLOUTS)] | None = None

    def begin(self, setting: Setting) -> None:
        """Start afresh, before the profile."""
        super().begin(setting)
        self._order = np.full((setting.replicates, 1), -1)
        self._place = np.zeros(setting.replicates, dtype=np.int64)

    def _learn_profile(self, outcomes: Outcomes) -> None:
        super()._learn_profile(outcomes)
        rates, rng = self.rates, self.setting.rng
        profiled = self._profile[0] > 0
        kept = profiled & (rates <= self.drop_above)
        kept &= (rates > 0) | (rng.random(rates.shape) < self.keep_hopeless)
        self._order = least(1 - rates, kept, max(int(kept.sum(axis=1).max(initial=0)), 1), rng)

    def plan_profiled(self, among: BoolArray, budget: Budget) -> Plan:
        """Train on the next prompts of the order, each with its own group size."""
        places = self._place[:, None] + np.arange(budget.prompts)
        length = (self._order >= 0).sum(axis=1)
        found = np.take_along_axis(self._order, np.minimum(places, self._order.shape[1] - 1), axis=1)
        prompts = np.where(places < length[:, None], found, -1)
        self._place = np.where(self._place + budget.prompts < length, self._place + budget.prompts, 0)
        outcomes = yield Request(prompts, self.sizes(prompts, budget))
        return Groups.all_of(outcomes)

    def sizes(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Group sizes (R, B): the least power of two at or above 1/p, between 2 and the largest."""
        largest = self.largest or 2 ** int(np.log2(max(budget.group_size, 2)))
        p = np.maximum(self.rates[np.arange(len(prompts))[:, None], prompts], 1e-9)
        wanted = 2.0 ** np.ceil(-np.log2(p))
        return np.where(prompts >= 0, np.clip(wanted, 2, largest), 0).astype(np.int64)

    def state_dict(self) -> State:
        """The profile, the order of prompts (R, W), and the places in it (R,)."""
        return {**super().state_dict(), "order": self._order.copy(), "place": self._place.copy()}

    def load_state_dict(self, state: State) -> None:
        """Restore the profile, the order of prompts, and the places in it."""
        super().load_state_dict(state)
        self._order, self._place = state["order"].copy(), state["place"].copy()
