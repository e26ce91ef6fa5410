"""A control: another allocator's counts, dealt to the wrong prompts.

What it loses against the original is what knowing the prompts is worth; what it loses against uniform
is what unequal groups cost by themselves. CERO (arXiv 2606.05606) has it as "random-matched".
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Borrowed
from rolloutbench.protocol import (
    Budget,
    IntArray,
    Provenance,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Permuted(Borrowed):
    """Control: another allocator's counts, shuffled over the batch."""

    goal: ClassVar[str] = "unequal counts alone"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2606.05606",
        note="its random-matched baseline; no code was looked at",
    )

    control: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("of=vip",)

    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Borrowed counts (R, B) in random order, among the prompts that are there."""
        counts = self.borrowed_counts(prompts, budget)
        present = prompts >= 0
        keys = np.where(present, self.setting.rng.random(prompts.shape), np.inf)
        shuffled = np.zeros_like(counts)
        places = np.argsort(~present, axis=1, kind="stable")
        order = np.argsort(keys, axis=1)
        np.put_along_axis(shuffled, places, np.take_along_axis(counts, order, axis=1), axis=1)
        return shuffled
