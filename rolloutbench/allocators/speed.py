"""SPEED-RL (arXiv 2506.09016; code Zanette-Labs/speed-rl@80e47b5, verl/trainer/ppo/data_controller.py and
recipe/dapo/src/fast_dapo_ray_trainer.py). Version 3 is marked withdrawn.

Screen candidates with n_init rollouts; those with both rewards (0 < k < n_init) get n_continue more in the
next generation, together with the next screening. A generation continues *all* that qualified in the one
before, not only as many as the batch lacks, so complete groups pile up: they wait first in, first out, and
steps that find a full batch waiting generate nothing. First rollouts are a little off-policy, and those of
groups that wait more so.

From the code: 4 + 12 (configuration), 8 + 16 (1.5B script) or 4 + 20 (7B script), 64 candidates for a batch
of 16, and an error instead of the 50th generation of a step. Here n_init defaults to 4, or to half of a
group below 8, and n_continue to the rest of the group. Nothing ever leaves the code's buffers but to be
trained on: its `max_buffer_size` is asserted to be large, and never enforced. Its loop takes a batch of the
loader for each training step too and does not use it: those candidates are passed by here as well.

Different on purpose: a batch that is not full after all rounds is trained on as it is; nothing is rounded
to a multiple of the number of GPUs; n_init = n_continue works, where the code mistakes one phase for the
other.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.buffer import Buffer
from rolloutbench.allocators.screening import Screening
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    BoolArray,
    Budget,
    Groups,
    InputError,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Provenance,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Speed(Screening):
    """Screens many prompts with a few rollouts; continues all that had both rewards."""

    discards: ClassVar[tuple[str, ...]] = ("pilots",)
    goal: ClassVar[str] = "both rewards in a screening"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2506.09016",
        code="Zanette-Labs/speed-rl@80e47b5",
        file="verl/trainer/ppo/data_controller.py, recipe/dapo/src/fast_dapo_ray_trainer.py",
        note="a batch that is not full after all rounds is trained on; the code stops with an error",
    )

    oversample: Annotated[int, Field(ge=1)] = 4
    max_rounds: Annotated[int, Field(ge=2)] = 49
    n_init: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    n_continue: Annotated[int, Field(ge=0, le=MOST_ROLLOUTS)] | None = None

    def phases(self, budget: Budget) -> tuple[int, int]:
        """Rollouts of screening and continuing. Raises InputError where n_init alone exceeds the group."""
        n = int(budget.group_size)
        first = self.n_init or min(4, max(n // 2, min(n, 2)))
        if self.n_continue is None and first > n:
            raise InputError(f"n_init={first}: the group has {n} rollouts; give n_continue too to go beyond")
        return first, n - first if self.n_continue is None else self.n_continue

    def informative(self, screened: Outcomes) -> BoolArray:
        """Whether a candidate (R, B) had both rewards, 0 < k < n_init."""
        return (screened.successes > 0) & (screened.successes < screened.counts)

    def chosen(self, held: Buffer, wanted: IntArray) -> tuple[Buffer, Buffer]:
        """All groups of the buffer, in the replicates (R,) that generate at all, and the others."""
        return held.split(np.where(wanted > 0, held.size, 0))

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Generate until the batch is full, if it is not yet; then pass by a batch of the loader."""
        groups: Groups = yield from super().plan(stream, budget)
        stream.draw(self.oversample * budget.prompts)
        return groups
