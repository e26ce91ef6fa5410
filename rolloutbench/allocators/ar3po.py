"""AR3PO: adaptive rollout and response reuse (arXiv 2509.25808).

Adaptive rollout: S stages of k rollouts; a prompt leaves as soon as it has one success. Response reuse: a
prompt without any success after S stages that was solved at some earlier step replaces one failure by a
stored success, chosen at random, so that its group has a gradient again.

A reused success enters by `reuse`: `replay` with the ratio to the policy that generated it; `I` with its
probabilities recomputed under the current one; `II` only in the group's mean and standard deviation.
`II` is best in the paper's ablation and so the default here; `none` is adaptive rollout alone.

No code was released, and the full text was not to be had: this follows two summaries and the reviews.
S = 2 is inferred: its averages of 6.95 responses in the hardest fifth and about 4 in the easiest, out of 8,
leave only S = 2, k = 4, and k defaults to n / S. Not stated: the size of its buffer (here the newest
`capacity` successes of each prompt, of any age unless `max_age` is given), and how groups of unequal
size are weighted (here by the aggregation, as everywhere).

There is no budget in the paper: a prompt costs between k and S k rollouts. Only what was generated in
training is reused; rollouts made by others are rewards without the responses.
"""

from __future__ import annotations

from dataclasses import replace
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
    Reuse,
    ReuseOption,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class AR3PO(Allocator):
    """Further rollouts only for prompts not solved yet; stored successes for those never solved today."""

    staged: ClassVar[bool] = True
    discards: ClassVar[tuple[str, ...]] = ("unselected",)
    goal: ClassVar[str] = "a first success"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2509.25808",
        note="no code was released: stages, buffer and weights follow summaries of the paper",
    )

    variants: ClassVar[tuple[str, ...]] = ("", "reuse=none", "reuse=I")

    hard_budget: ClassVar[bool] = False

    stages: Annotated[int, Field(ge=1)] = 2
    per_stage: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    reuse: ReuseOption | None = "II"
    capacity: Annotated[int, Field(ge=1, le=1024)] = 4
    max_age: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        """Without reuse no failure gives way to a stored success, and nothing is given up."""
        if self.reuse is None:
            self.discards = ()  # type: ignore[misc]

    @property
    def reusable(self) -> int:
        """Number of a prompt's successes that may be reused: `capacity`, or 0 where none are reused."""
        return self.capacity if self.reuse else 0

    def begin(self, setting: Setting) -> None:
        """Start afresh: no success is stored."""
        self.setting = setting
        self._step = 0
        # The step in which each stored success was generated, the newest first; -1 where none is.
        shape = (setting.replicates, setting.pool_size, self.capacity)
        self._stored = np.full(shape, -1, dtype=np.int32)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Run up to S stages of k rollouts for the prompts not solved yet, then reuse stored successes."""
        per_stage = self.per_stage or max(int(budget.group_size) // self.stages, 1)
        prompts = stream.draw(budget.prompts)
        seen = Outcomes.none(prompts)
        for _ in range(self.stages):
            unsolved = (seen.successes == 0) & (prompts >= 0)
            if not unsolved.any():
                break
            seen += yield Request(prompts, per_stage * unsolved)
        groups = Groups.all_of(seen)
        if self.reuse is not None:
            groups = self._reusing(groups, self.reuse)
            self._store(seen)
        self._step += 1
        return groups

    def _reusing(self, groups: Groups, option: ReuseOption) -> Groups:
        """Groups in which a stored success takes the place of one failure of each prompt without success."""
        stored = self._stored[np.arange(len(groups.prompts))[:, None], groups.prompts]
        oldest = 0 if self.max_age is None else self._step - self.max_age
        choices = (stored >= max(oldest, 0)).sum(axis=2)
        lacking = (groups.prompts >= 0) & (groups.successes == 0) & (groups.failures > 0)
        reused = (lacking & (choices > 0)).astype(np.int64)
        # The newest stand first, so those young enough are the first `choices`.
        chosen = np.floor(self.setting.rng.random(choices.shape) * choices).astype(np.int64)
        since = np.take_along_axis(stored, chosen[..., None], axis=2)[..., 0]
        return replace(
            groups,
            failures=groups.failures - reused,
            reused=Reuse(reused, np.where(reused > 0, self._step - since, 0), option),
            discarded={"unselected": reused.sum(axis=1)},
        )

    def _store(self, seen: Outcomes) -> None:
        """Put the new successes in front of the older ones; what is over the capacity falls off the end."""
        rows, columns = np.nonzero(seen.successes)
        place = rows, seen.prompts[rows, columns]
        shift = np.arange(self.capacity) - seen.successes[rows, columns][:, None]
        older = np.take_along_axis(self._stored[place], np.maximum(shift, 0), axis=1)
        self._stored[place] = np.where(shift < 0, self._step, older)

    def state_dict(self) -> State:
        """Steps in which stored successes (R, Q, capacity) were generated, and the number of this step."""
        return {"stored": self._stored.copy(), "step": np.array(self._step)}

    def load_state_dict(self, state: State) -> None:
        """Restore the stored successes and the number of the step."""
        self._stored, self._step = state["stored"].copy(), int(state["step"])
