"""Sorting digits: `4821=` asks for `1248`. Longer is harder. A tiny model learns it in a minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import Problem, Task, Verifier
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS, frozen=True)
class Sorting(Task):
    """Digit strings of random length to be sorted, no prompt twice; `partial` scores the digits in place."""

    shortest: Annotated[int, Field(ge=1, le=1000)] = 2
    longest: Annotated[int, Field(ge=1, le=1000)] = 16
    pool_size: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    held_out: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    partial: bool = False
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: int = field(init=False, repr=False)
    """Number of tokens of the longest response: a character is a token, and the end is one more."""

    def __post_init__(self) -> None:
        """Raise InputError unless there are enough different strings, with room to draw them at random."""
        if self.shortest > self.longest:
            raise InputError(f"shortest={self.shortest}: expected at most longest={self.longest}")
        strings = sum(10**length for length in range(self.shortest, self.longest + 1))
        wanted = self.pool_size + self.held_out
        if strings < wanted:
            raise InputError(
                f"pool_size={self.pool_size} and held_out={self.held_out}: of {self.shortest} to "
                f"{self.longest} digits there are only {strings} different prompts; raise longest"
            )
        object.__setattr__(self, "max_new_tokens", self.longest + 1)

    @property
    def alphabet(self) -> str:
        """Characters of its prompts and answers: digits, and the sign between them."""
        return "0123456789="

    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool and held-out problems, all prompts different.

        Lengths are uniform from shortest to longest, but for the short ones that run out.
        """
        rng = np.random.default_rng(seed)
        found: dict[str, Problem] = {}
        while (missing := self.pool_size + self.held_out - len(found)) > 0:
            found |= {problem.prompt: problem for problem in self._draw(rng, missing)}
        # Short prompts run out early: in order of their draws they would all be in the pool.
        problems = list(found.values())
        mixed = [problems[place] for place in rng.permutation(len(problems))]
        return mixed[: self.pool_size], mixed[self.pool_size :]

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Fresh problems for supervised warm-up, by the same law; short ones are met again elsewhere."""
        return list(self._draw(rng, count))

    def verifier(self) -> Verifier:
        """Make the verifier: exact match, or the share of digits in place."""
        return SortingVerifier(self.partial)

    def _draw(self, rng: np.random.Generator, count: int) -> Iterator[Problem]:
        lengths = rng.integers(self.shortest, self.longest, size=count, endpoint=True)
        for length, row in zip(lengths, rng.integers(0, 10, (count, self.longest)), strict=True):
            digits = "".join(map(str, row[:length]))
            yield Problem(f"{digits}=", "".join(sorted(digits)), float(length))


class SortingVerifier(Verifier):
    """Verifier that gives 1 for the sorted digits; else 0, or with `partial` the share of digits in place."""

    def __init__(self, partial: bool) -> None:
        self.partial = partial

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards (N,) in [0, 1] of responses to problems (both N)."""
        pairs = zip(problems, responses, strict=True)
        return np.array([self._one(problem.answer, response.strip()) for problem, response in pairs], float)

    def _one(self, answer: str, response: str) -> float:
        if not self.partial:
            return float(response == answer)
        right = sum(said == wanted for said, wanted in zip(response, answer, strict=False))
        return right / max(len(answer), len(response))
