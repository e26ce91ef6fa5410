"""The place an allocator works in, and its bill.

A `Host` is what a step is made in. It alone keeps the `Ledger`, so no allocator can pay less than it
generates. An `Environment` is a host that also makes rollouts and updates: a simulator, or a language model
in training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rolloutbench.protocol import (
    BoolArray,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    PromptStream,
    Request,
    Setting,
    State,
)


@dataclass
class Ledger:
    """What was generated and what became of it, counted by the environment: it alone knows the bill.

    Totals (R,): `generated` rollouts, `trained` ones, `discarded` ones by name, `stages` (rounds of
    generation) and `prompts` (that got at least one rollout in a stage). `step_generated` (R,) is this
    step's, `step_outcomes` its stages. `held_successes` and `held_failures` (R, Q) are rollouts that no
    update has used yet, discarded or not; `solved` (R, Q) says which prompts ever had a success. `mixed`
    groups came with both rewards from a stage, since this ledger was made.
    """

    replicates: int
    pool_size: int
    generated: IntArray = field(init=False)
    trained: IntArray = field(init=False)
    stages: IntArray = field(init=False)
    prompts: IntArray = field(init=False)
    step_generated: IntArray = field(init=False)
    held_successes: IntArray = field(init=False)
    held_failures: IntArray = field(init=False)
    solved: BoolArray = field(init=False)
    discarded: dict[str, IntArray] = field(init=False, default_factory=dict)
    mixed: int = field(init=False, default=0)
    step_outcomes: list[Outcomes] = field(init=False, default_factory=list)
    _merged: Outcomes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.generated, self.trained, self.stages, self.prompts, self.step_generated = (
            np.zeros(self.replicates, dtype=np.int64) for _ in range(5)
        )
        self.held_successes, self.held_failures = (
            np.zeros((self.replicates, self.pool_size), dtype=np.int64) for _ in range(2)
        )
        self.solved = np.zeros((self.replicates, self.pool_size), dtype=bool)

    @property
    def held(self) -> IntArray:
        """Rollouts (R,) that were neither trained on nor given up: they are still in some buffer."""
        given_up = sum(self.discarded.values(), start=np.zeros_like(self.generated))
        return self.generated - self.trained - given_up

    @property
    def step_merged(self) -> Outcomes | None:
        """Everything that this step generated, its stages merged; None where it generated nothing."""
        if self._merged is None and self.step_outcomes:
            self._merged = Outcomes.merged(self.step_outcomes)
        return self._merged

    def state_dict(self) -> State:
        """All totals, as they are between two steps."""
        names = "generated", "trained", "stages", "prompts", "held_successes", "held_failures", "solved"
        return {name: getattr(self, name) for name in names} | {"discarded": dict(self.discarded)}

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken."""
        for name, value in state.items():
            setattr(self, name, value)

    def open_step(self) -> None:
        """Begin the bill of a new training step."""
        self.step_generated = np.zeros(self.replicates, dtype=np.int64)
        self.step_outcomes, self._merged = [], None

    def record(self, outcomes: Outcomes) -> None:
        """Write the outcomes (R, B) of one generated stage on the bill; what is lost is given up."""
        spent = outcomes.generated.sum(axis=1)
        if outcomes.lost is not None:
            self.discarded["lost"] = self.discarded.get("lost", 0) + outcomes.lost.sum(axis=1)
        self.generated += spent
        self.step_generated += spent
        self.step_outcomes.append(outcomes)
        self._merged = None
        self.stages += spent > 0
        successes, counts = outcomes.successes, outcomes.counts
        self.mixed += int(((successes > 0) & (successes < counts)).sum())
        self.prompts += (outcomes.generated > 0).sum(axis=1)
        place, here = self._places(outcomes.prompts, counts > 0)
        successes = outcomes.successes.ravel()[here]
        np.add.at(self.held_successes.ravel(), place, successes)
        np.add.at(self.held_failures.ravel(), place, outcomes.counts.ravel()[here] - successes)
        self.solved.ravel()[place[successes > 0]] = True

    def _places(self, prompts: IntArray, where: BoolArray) -> tuple[IntArray, Any]:
        """Places of prompts (R, B) in a flattened (R, Q) array, and in (R, B) themselves."""
        place = (prompts + self.pool_size * np.arange(self.replicates)[:, None]).ravel()
        here = slice(None) if where.all() else np.flatnonzero(where)
        return place[here], here

    def use(self, groups: Groups) -> None:
        """Take the rollouts of `groups` into the update.

        Raises ValueError, and changes nothing, where they keep rollouts that were not sampled or reuse a
        success that was never had.
        """
        present = groups.prompts >= 0
        place, here = self._places(groups.prompts, present)
        if groups.reused is not None:
            unknown = (groups.reused.counts.ravel()[here] > 0) & ~self.solved.ravel()[place]
            if unknown.any():
                r, q = divmod(int(place[np.argmax(unknown)]), self.pool_size)
                raise ValueError(f"reuses a success of prompt {q} in replicate {r}, which had none")
        takings = [
            ("successes", self.held_successes.ravel(), groups.successes.ravel()[here]),
            ("failures", self.held_failures.ravel(), groups.failures.ravel()[here]),
        ]
        for _, held, taken in takings:
            np.subtract.at(held, place, taken)
        for name, held, _ in takings:
            short = np.flatnonzero(held[place] < 0)
            if len(short):
                lacking = -held[place[short[0]]]
                for _, other, taken in takings:
                    np.add.at(other, place, taken)
                r, q = divmod(int(place[short[0]]), self.pool_size)
                there = held[place[short[0]]]
                raise ValueError(
                    f"keeps {there + lacking} {name} of prompt {q} in replicate {r}, "
                    f"of which {there} were sampled"
                )
        self.trained += np.where(present, groups.counts, 0).sum(axis=1)
        for name, given_up in groups.discarded.items():
            self.discarded[name] = self.discarded.get(name, 0) + given_up
        if (self.held < 0).any():
            r = int(np.argmin(self.held))
            raise ValueError(f"gives up {-self.held[r]} rollouts more than it holds in replicate {r}")


class Host:
    """What a training step is made in: the `setting`, the `stream` of prompts, and the `ledger`."""

    def __init__(self, setting: Setting, stream: PromptStream) -> None:
        self.setting = setting
        self.stream = stream
        self.ledger = Ledger(setting.replicates, setting.pool_size)


class Environment(Host, ABC):
    """Where rollouts come from and updates go to: a simulator or a language model in training."""

    @abstractmethod
    def generate(self, request: Request) -> Outcomes:
        """Sample and verify `request.counts` rollouts of each prompt."""

    @abstractmethod
    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """Take one policy-gradient step on `groups`; returns what was measured, each (R,) or (R, m)."""
