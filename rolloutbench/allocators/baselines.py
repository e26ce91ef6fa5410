"""Bases of methods that leave counts to another allocator, `of`, and give its groups another baseline."""

from __future__ import annotations

from abc import abstractmethod

from pydantic.dataclasses import dataclass

from rolloutbench.allocators import AllocatorSpec
from rolloutbench.protocol import Allocator, Budget, Groups, Outcomes, Plan, PromptStream, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Rebased(Allocator):
    """Base of methods that only change how groups of another allocator, `of`, are centred and scaled."""

    of: AllocatorSpec = "uniform"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Behave as `of` does, but for the baseline."""
        self.hard_budget = self.of.hard_budget  # type: ignore[misc]
        self.vectorised = self.of.vectorised  # type: ignore[misc]
        self.staged = self.of.staged  # type: ignore[misc]
        self.chooses_prompts = self.of.chooses_prompts  # type: ignore[misc]
        self.discards = self.of.discards  # type: ignore[misc]

    @property
    def reusable(self) -> int:
        """Successes that the wrapped allocator may reuse."""
        return self.of.reusable

    @abstractmethod
    def rebased(self, groups: Groups) -> Groups:
        """The groups with another baseline; what is trained on stays."""

    def begin(self, setting: Setting) -> None:
        """Start afresh, together with `of`."""
        self.setting = setting
        self.of.begin(setting)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Plan as `of` does, and centre its groups otherwise."""
        groups: Groups = yield from self.of.plan(stream, budget)
        return self.rebased(groups)

    def holding(self) -> Outcomes | None:
        """What the wrapped allocator may still train on."""
        return self.of.holding()

    def observe(self, outcomes: Outcomes) -> None:
        """Let the wrapped allocator learn from the rollouts."""
        self.of.observe(outcomes)

    def state_dict(self) -> State:
        """What the wrapped allocator remembers."""
        return {"of": self.of.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what the wrapped allocator remembers."""
        self.of.load_state_dict(state["of"])
