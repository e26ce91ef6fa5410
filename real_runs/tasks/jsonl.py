r"""Prompts and answers from a file of JSON lines or Parquet, verified by math-verify or by comparison.

Prompts are read as `from_file.py` says. An answer is a text, a number, or a list of those, each of which is
right. Files in the schema of verl's data sets are read as they are (verl.readthedocs.io, "Prepare Data for
Post-Training"): `prompt` is a conversation, the answer stands in `reward_model.ground_truth`.

math-verify (github.com/huggingface/Math-Verify) reads the answer and the response as mathematics; the
answer comes first, since `verify(gold, target)` is not symmetric. LaTeX is found only inside `$...$`,
`\boxed{...}` and the like; of other text the last number counts. A response is read so, but an answer that
has no such marks is taken for LaTeX as a whole: else `x^2 + 1` would be 1, and `1, 2, 3` would be 3. A
response that equals the answer as text is right whatever math-verify thinks of it. Its own time limits use
signal.alarm and are switched off: the worker processes have theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import Messages, Problem, Verifier
from real_runs.tasks.from_file import FromFile, Row, text_of, value_of
from real_runs.verification import PooledVerifier, Score, Timeout, Workers
from rolloutbench.optional import need
from rolloutbench.protocol import FloatArray
from rolloutbench.registry import PARAMETERS

VERL = "reward_model.ground_truth"
"""Where the answer is in verl's data sets."""
MARKS = ("$", r"\boxed", r"\(", r"\[")
"""Marks at which LaTeX begins in a text."""


@dataclass(config=PARAMETERS, frozen=True)
class JsonLines(FromFile):
    """A file of JSON lines or Parquet, a prompt and an answer in each row; verify is math or exact."""

    kind: ClassVar[str] = "jsonl"

    answer_column: str = "answer"
    verify: Literal["math", "exact"] = "math"
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    timeout: Timeout = 5.0
    workers: Workers = None

    def problem(self, prompt: str, messages: Messages, row: Row, here: str) -> Problem:
        """Make the problem of a row: its answer, or all that are right."""
        column = self.answer_column
        if column == "answer" and column not in row and isinstance(row.get("reward_model"), dict):
            column = VERL
        answer, *alternatives = _answers(value_of(row, column, here), column, here)
        return Problem(prompt, answer, alternatives=tuple(alternatives), messages=messages)

    def verifier(self) -> Verifier:
        """Make the verifier that was asked for. Raises InputError where math-verify is not installed."""
        if self.verify == "exact":
            return ExactVerifier()
        need("math_verify", "tasks")
        return PooledVerifier(math_scores, self.timeout, self.workers)


class ExactVerifier(Verifier):
    """1 where a response is the answer, or one of several, but for space around it."""

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards (N,), 0 or 1, of responses to problems (both N)."""
        pairs = zip(problems, responses, strict=True)
        return np.array([response.strip() in _right(problem) for problem, response in pairs], float)


def _right(problem: Problem) -> list[str]:
    return [answer.strip() for answer in (problem.answer, *problem.alternatives)]


def math_scores() -> Score:
    """Make the score that says whether response and answer are the same to math-verify."""
    library = need("math_verify", "tasks")
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off

    def parse(text: str) -> list[Any]:
        found: list[Any] = library.parse(text, parsing_timeout=None)
        return found

    def agrees(answer: str, response: str) -> bool:
        marked = any(mark in answer for mark in MARKS)
        gold = (marked and parse(answer)) or parse(rf"\boxed{{{answer}}}")
        return bool(library.verify(gold, parse(response), timeout_seconds=None))

    def score(problem: Problem, response: str) -> float:
        if response.strip() in _right(problem):
            return 1.0
        return float(any(agrees(answer, response) for answer in (problem.answer, *problem.alternatives)))

    return score


def _answers(value: Any, column: str, here: str) -> list[str]:
    """The answer, or all that are right."""
    values = value if isinstance(value, list) and value else [value]
    return list(dict.fromkeys(_answer(one, column, here) for one in values))


def _answer(value: Any, column: str, here: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and np.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return text_of(value, column, here).strip()
