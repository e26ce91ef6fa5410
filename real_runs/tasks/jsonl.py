r"""Prompts and answers from a file of JSON lines, verified by math-verify or by comparison.

math-verify (github.com/huggingface/Math-Verify) reads the answer and the response as mathematics; the
answer comes first, since `verify(gold, target)` is not symmetric. LaTeX is found only inside `$...$`,
`\boxed{...}` and the like; of other text the last number counts. A response is read so, but an answer that
has no such marks is taken for LaTeX as a whole: else `x^2 + 1` would be 1, and `1, 2, 3` would be 3. A
response that equals the answer as text is right whatever math-verify thinks of it. Its own time limits use
signal.alarm and are switched off: the worker processes have theirs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import Problem, Task, Verifier
from real_runs.verification import PooledVerifier, Score, Timeout, Workers
from rolloutbench.optional import need
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import PARAMETERS, nearest

MARKS = ("$", r"\boxed", r"\(", r"\[")
"""Where LaTeX begins in a text."""


@dataclass(config=PARAMETERS, frozen=True)
class JsonLines(Task):
    """A file with one JSON object a line, a prompt and an answer in each; verify is math or exact."""

    path: str = ""
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """How many problems are held out, or below 1 the share of them."""
    verify: Literal["math", "exact"] = "math"
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    timeout: Timeout = 5.0
    workers: Workers = None

    def __post_init__(self) -> None:
        """The file itself is looked at when it is read: recorded studies outlive their data."""
        if not self.path:
            raise InputError("task 'jsonl' needs a file: jsonl[path=FILE]")
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            raise InputError(f"held_out={self.held_out}: expected a whole number, or a share below 1")

    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool and held-out problems, split at random. A line that is there twice counts once.

        Raises InputError naming the file and line where something is wrong with them.
        """
        problems = self._read()
        count = round(self.held_out * len(problems)) if self.held_out < 1 else int(self.held_out)
        if not 0 < count < len(problems):
            raise InputError(
                f"held_out={self.held_out:g}: {self.path} has {len(problems)} different problems, and both "
                "the training pool and the held-out set need some"
            )
        mixed = [problems[place] for place in np.random.default_rng(seed).permutation(len(problems))]
        return mixed[count:], mixed[:count]

    def verifier(self) -> Verifier:
        """Of the kind that was asked for. Raises InputError where math-verify is not installed."""
        if self.verify == "exact":
            return ExactVerifier()
        need("math_verify", "tasks")
        return PooledVerifier(math_scores, self.timeout, self.workers)

    def _read(self) -> list[Problem]:
        found: dict[str, tuple[int, Problem]] = {}
        for number, row in _objects(self.path):
            here = f"{self.path}, line {number}"
            prompt = _text(row, self.prompt_column, here)
            problem = Problem(prompt, _text(row, self.answer_column, here).strip())
            first, known = found.setdefault(prompt, (number, problem))
            if known.answer != problem.answer:
                raise InputError(f"{here}: the prompt of line {first} again, with another answer")
        return [problem for _, problem in found.values()]


class ExactVerifier(Verifier):
    """1 where a response is the answer, but for space around it."""

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards (N,)."""
        pairs = zip(problems, responses, strict=True)
        return np.array([response.strip() == problem.answer.strip() for problem, response in pairs], float)


def math_scores() -> Score:
    """Whether a response says what the answer says, as math-verify understands them."""
    library = need("math_verify", "tasks")
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limits are off

    def parsed(text: str) -> list[Any]:
        found: list[Any] = library.parse(text, parsing_timeout=None)
        return found

    def score(problem: Problem, response: str) -> float:
        if response.strip() == problem.answer.strip():
            return 1.0
        marked = any(mark in problem.answer for mark in MARKS)
        gold = (marked and parsed(problem.answer)) or parsed(rf"\boxed{{{problem.answer}}}")
        return float(library.verify(gold, parsed(response), timeout_seconds=None))

    return score


def _objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects; empty lines are passed over."""
    try:
        with Path(path).expanduser().open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _object(line, f"{path}, line {number}")
    except OSError as error:
        raise InputError(f"path={path}: {error.strerror or error}") from None


def _object(line: bytes, here: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{here}: this is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{here}: this is not JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:  # too deep, or a number too long
        raise InputError(f"{here}: this cannot be read: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{here}: expected an object {{...}}, not {type(row).__name__}")
    return row


def _text(row: dict[str, Any], column: str, here: str) -> str:
    if column not in row:
        raise InputError(f"{here}: there is no column '{column}': {nearest(column, row)}")
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{here}: column '{column}' is no text but {json.dumps(value)[:60]}")
    if not value.strip():
        raise InputError(f"{here}: column '{column}' is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{here}: column '{column}' has half a surrogate pair, which is no character")
    return value
