"""Programs to be written, from a file of instructions and tests; a response's code runs in a sandbox.

A row has a prompt and its `tests`: Python statements, each of which passes where it raises nothing, as in
MBPP (`code[path=mbpp.jsonl,prompt_column=text,tests_column=test_list,answer_column=code]`). The code of a
response is its last block between lines of three backticks, or all of it where there is none. Its `score` is
the share of tests that pass, and `ran` is 1 where the code itself raised nothing. Code has the standard
library alone, `seconds` of CPU for itself and all tests, and `memory` MiB; what it cannot do, and what it
still can, stands in `sandbox.py`. That it is late, is killed or breaks is no failure of the verifier: the
tests failed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, ClassVar

import loky
import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs import sandbox
from real_runs.tasks import Messages, Problem, Verifier
from real_runs.tasks.from_file import FromFile, Row, text_of, value_of
from real_runs.verification import Workers
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import PARAMETERS

BLOCK = re.compile(r"^```[^\n`]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)
"""A block of code in a response, which may be cut before its end."""


@dataclass(config=PARAMETERS, frozen=True)
class Code(FromFile):
    """A file of JSON lines or Parquet, with an instruction and Python tests in each row.

    `answer_column`: solutions, for a warm-up or as examples; none by default. `unsafe`: whether code may run
    without a sandbox where there is none, under limits alone.
    """

    kind: ClassVar[str] = "code"

    tests_column: str = "tests"
    answer_column: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    memory: Annotated[int, Field(ge=64, le=1_000_000)] = 512
    workers: Workers = None
    unsafe: bool = False

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of its rewards: the share of tests that pass, and whether the code ran to its end."""
        return "score", "ran"

    def problem(self, prompt: str, messages: Messages, row: Row, here: str) -> Problem:
        """Make the problem of a row: its tests, and a solution where a column of them is named."""
        column, named = self.tests_column, self.answer_column
        given = value_of(row, column, here)
        tests = tuple(text_of(one, column, here) for one in (given if isinstance(given, list) else [given]))
        if not tests:
            raise InputError(f"{here}: column '{column}' has no tests")
        answer = "" if named is None else text_of(value_of(row, named, here), named, here)
        return Problem(prompt, answer, messages=messages, tests=tests)

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Problems of the training pool for supervised warm-up. Raises InputError without solutions."""
        if self.answer_column is None:
            raise InputError(
                "task 'code' has no solutions to warm up on: code[answer_column=NAME] names them"
            )
        return super().examples(rng, count)

    def verifier(self) -> Verifier:
        """Make the verifier. Raises InputError where there is no sandbox here and none is insisted on."""
        kind = sandbox.best_kind() or ("unsafe" if self.unsafe else None)
        if kind is None:
            raise InputError(
                "task 'code': nothing here can confine what a model writes: bubblewrap, or Landlock of Linux "
                "6.2, is expected; code[unsafe=true] runs it with all that you may do yourself"
            )
        return CodeVerifier(kind, self.seconds, self.memory, self.workers)


class CodeVerifier(Verifier):
    """Verifier that runs the code of responses, several at a time, each in a sandbox of its own."""

    def __init__(self, kind: sandbox.Kind, seconds: int, memory: int, workers: int | None) -> None:
        self.kind, self.seconds, self.memory = kind, seconds, memory
        self.workers = workers or min(int(loky.cpu_count()), 8)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards (N, 2) of responses to problems (both N); NaN where a sandbox did not start."""
        with ThreadPoolExecutor(self.workers) as pool:
            raw = np.array(list(pool.map(self._one, problems, responses))).reshape(-1, 2)
        self.failed += int(np.isnan(raw).any(axis=1).sum())
        return raw

    def _one(self, problem: Problem, response: str) -> tuple[float, float]:
        found = sandbox.run(code_of(response), problem.tests, self.kind, self.seconds, self.memory)
        if found is None:
            return np.nan, np.nan
        return float(np.mean(found.passed)), float(found.ran)


def code_of(response: str) -> str:
    """The code in a response: its last block, or all of it where there is none."""
    blocks = BLOCK.findall(response)
    return str(blocks[-1]) if blocks else response
