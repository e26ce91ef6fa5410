"""DAPO's dynamic sampling (arXiv 2503.14476, sec. 3.2; code
verl-project/verl-recipe@48ea0a7, dapo/dapo_ray_trainer.py).

Over-sample, drop the prompts whose rollouts are all right or all wrong, and keep sampling until B groups
with both rewards are there. Each round generates s B candidates with n rollouts each; s = 3 in the 32B
script, 1 in its configuration's default. The paper does not state s.

What is over after the last round is thrown away, as in verl; `carry=true` keeps it for the next step.
After `max_rounds` rounds (10 in the script) without a full batch verl stops with an error; here the step
trains on the groups that there are. Clip-higher, token-level loss and length shaping are not allocation.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.buffer import Buffer
from rolloutbench.protocol import (
    Allocator,
    Budget,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class DAPO(Allocator):
    """Samples until the batch is full of groups with both rewards, and drops the others."""

    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("filtered", "surplus")
    goal: ClassVar[str] = "a batch of mixed groups"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2503.14476",
        code="verl-project/verl-recipe@48ea0a7",
        file="dapo/dapo_ray_trainer.py",
        licence="Apache-2.0",
        note="a batch that is not full after all rounds is trained on; the code stops with an error",
    )

    variants: ClassVar[tuple[str, ...]] = ("", "oversample=1,carry=true")

    hard_budget: ClassVar[bool] = False

    oversample: Annotated[int, Field(ge=1)] = 3
    max_rounds: Annotated[int, Field(ge=1)] = 10
    carry: bool = False

    def __post_init__(self) -> None:
        """A surplus that is carried over is not given up."""
        if self.carry:
            self.discards = ("filtered",)  # type: ignore[misc]

    def begin(self, setting: Setting) -> None:
        """Start afresh: nothing is carried over."""
        self.setting = setting
        self._carried = Buffer.empty(setting.replicates)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Generate rounds of candidates until every replicate's batch is full."""
        batch = self._carried
        filtered = np.zeros(stream.replicates, dtype=np.int64)
        for _ in range(self.max_rounds):
            unfilled = batch.size < budget.prompts
            if not unfilled.any():
                break
            prompts = stream.draw(self.oversample * budget.prompts, unfilled)
            if not (prompts >= 0).any():
                break
            outcomes = yield Request(prompts, int(budget.group_size) * (prompts >= 0))
            mixed = (outcomes.successes > 0) & (outcomes.successes < outcomes.counts)
            filtered += np.where(mixed, 0, outcomes.counts).sum(axis=1)
            batch += Buffer.of(outcomes, mixed)
        trained, rest = batch.split(np.full(stream.replicates, budget.prompts))
        surplus = rest.rollouts
        if self.carry:
            self._carried, surplus = rest, np.zeros_like(surplus)
        return trained.groups(budget.prompts, {"filtered": filtered, "surplus": surplus})

    def holding(self) -> Outcomes:
        """The rollouts of the groups carried over to the next step."""
        return self._carried.outcomes

    def state_dict(self) -> State:
        """The groups carried over to the next step."""
        return {"carried": self._carried.entries}

    def load_state_dict(self, state: State) -> None:
        """Restore the groups carried over to the next step."""
        self._carried = Buffer(*state["carried"])
