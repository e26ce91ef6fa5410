"""Adding two numbers: `8+9=` asks for `17`. A small pretrained model gets part of them right by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import Problem, Task, Verifier
from real_runs.tasks.jsonl import ExactVerifier
from rolloutbench.protocol import InputError, IntArray
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS, frozen=True)
class Addition(Task):
    """Sums of two numbers from 1 to `largest`, no prompt twice; a response is right to the letter."""

    largest: Annotated[int, Field(ge=2, le=10**8)] = 20
    pool_size: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    held_out: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: int = field(init=False, repr=False)
    """Digits of the largest sum: only a response that is shorter must end by itself."""

    def __post_init__(self) -> None:
        """Raise InputError unless there are enough different sums."""
        if self.largest**2 < self.pool_size + self.held_out:
            raise InputError(
                f"pool_size={self.pool_size} and held_out={self.held_out}: of numbers up to {self.largest} "
                f"there are only {self.largest**2} different prompts; raise largest"
            )
        object.__setattr__(self, "max_new_tokens", len(str(2 * self.largest)))

    @property
    def alphabet(self) -> str:
        """Characters of its prompts and answers: digits, and the signs between them."""
        return "0123456789+="

    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool and held-out problems, all prompts different; difficulty is the sum."""
        rng = np.random.default_rng(seed)
        drawn = rng.choice(self.largest**2, self.pool_size + self.held_out, replace=False)
        made = self._made(drawn)
        return made[: self.pool_size], made[self.pool_size :]

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Fresh problems for supervised warm-up, which may be met again elsewhere."""
        return self._made(rng.integers(self.largest**2, size=count))

    def verifier(self) -> Verifier:
        """Make the verifier: exact match, but for space around it."""
        return ExactVerifier()

    def _made(self, places: Sequence[int] | IntArray) -> list[Problem]:
        """Problems by their place in the table of all sums, row by row."""
        terms = [(place // self.largest + 1, place % self.largest + 1) for place in map(int, places)]
        return [Problem(f"{one}+{other}=", str(one + other), one + other) for one, other in terms]
