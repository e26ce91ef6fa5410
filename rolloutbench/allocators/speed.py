"""SPEED-RL (arXiv 2506.09016; code Zanette-Labs/speed-rl@80e47b5). Version 3 is marked withdrawn.

Screen candidates with n_init rollouts, keep those with both rewards (0 < k < n_init), and give them
n_continue more. Continuations share a generation with the next screening, and a surplus of screened
prompts waits in a buffer, so that their first rollouts are a little off-policy.

From the code: n_init = 4 with n_continue = 12 (configuration) or 20 (7B script), 64 candidates for a batch
of 16, at most 50 generations a step, and a buffer of at most 3 batches. Here n_init defaults to 4, or to
half of a group below 8, and n_continue to the rest of the group.

Chosen here, where the sources we have say nothing: prompts leave the buffer first in, first out; a full
buffer loses its oldest entries; nothing expires with age or at the end of an epoch; a batch that is not
full after all rounds is trained on as it is.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.buffer import Buffer
from rolloutbench.allocators.screening import Screening
from rolloutbench.protocol import MOST_ROLLOUTS, BoolArray, Budget, InputError, Outcomes
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Speed(Screening):
    """Screens many prompts with a few rollouts; continues those that had both rewards."""

    oversample: Annotated[int, Field(ge=1)] = 4
    max_rounds: Annotated[int, Field(ge=2)] = 50
    n_init: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    n_continue: Annotated[int, Field(ge=0, le=MOST_ROLLOUTS)] | None = None
    capacity: Annotated[int, Field(ge=0)] = 3

    def phases(self, budget: Budget) -> tuple[int, int]:
        """n_init and n_continue."""
        n = int(budget.group_size)
        first = self.n_init or min(4, max(n // 2, min(n, 2)))
        if self.n_continue is None and first > n:
            raise InputError(f"n_init={first}: the group has {n} rollouts; give n_continue too to go beyond")
        return first, n - first if self.n_continue is None else self.n_continue

    def informative(self, screened: Outcomes) -> BoolArray:
        """0 < k < n_init."""
        return (screened.successes > 0) & (screened.successes < screened.counts)

    def unexpired(self, held: Buffer, budget: Budget) -> Buffer:
        """The newest `capacity` batches."""
        too_many = np.maximum(held.size - self.capacity * budget.prompts, 0)
        return held.split(too_many)[1]
