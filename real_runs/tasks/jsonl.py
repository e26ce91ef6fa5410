r"""Prompts and answers from a file of JSON lines or Parquet, verified by math-verify or by comparison.

A prompt is a text, or a conversation: a list of messages {"role", "content"}, which goes through the model's
chat template, or without one is read in its plain form, the contents with empty lines between them. An
answer is a text, a number, or a list of those, each of which is right. `a.b` names the field b of a column a.
Files in the schema of verl's data sets are read as they are (verl.readthedocs.io, "Prepare Data for
Post-Training"): `prompt` is a conversation, the answer stands in `reward_model.ground_truth`, other columns
are passed over.

math-verify (github.com/huggingface/Math-Verify) reads the answer and the response as mathematics; the
answer comes first, since `verify(gold, target)` is not symmetric. LaTeX is found only inside `$...$`,
`\boxed{...}` and the like; of other text the last number counts. A response is read so, but an answer that
has no such marks is taken for LaTeX as a whole: else `x^2 + 1` would be 1, and `1, 2, 3` would be 3. A
response that equals the answer as text is right whatever math-verify thinks of it. Its own time limits use
signal.alarm and are switched off: the worker processes have theirs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow
from pyarrow import parquet
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import ASCII, Messages, Problem, Task, Verifier, plain
from real_runs.verification import PooledVerifier, Score, Timeout, Workers
from rolloutbench.optional import need
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import PARAMETERS, nearest
from rolloutbench.tabular import json_lines, suffix_of

VERL = "reward_model.ground_truth"
"""Where the answer is in verl's data sets."""
MARKS = ("$", r"\boxed", r"\(", r"\[")
"""Marks at which LaTeX begins in a text."""


@dataclass(config=PARAMETERS, frozen=True)
class JsonLines(Task):
    """A file of JSON lines or Parquet, a prompt and an answer in each row; verify is math or exact."""

    path: str = ""
    prompt_column: str = "prompt"
    answer_column: str = "answer"
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """Number of problems that are held out, or below 1 the share of them."""
    verify: Literal["math", "exact"] = "math"
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    timeout: Timeout = 5.0
    workers: Workers = None

    def __post_init__(self) -> None:
        """Raise InputError where no path or half a problem is given.

        The file itself is looked at when it is read: recorded studies outlive their data.
        """
        if not self.path:
            raise InputError("task 'jsonl' needs a file: jsonl[path=FILE]")
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            raise InputError(f"held_out={self.held_out}: expected a whole number, or a share below 1")

    @property
    def alphabet(self) -> str:
        """Characters of ASCII, and others that the file's prompts and answers have."""
        texts = [text for problem in self._read() for text in (problem.prompt, problem.answer)]
        return "".join(dict.fromkeys(ASCII + "".join(texts)))

    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool, in random order, and held-out problems. A line that is there twice counts once.

        Raises InputError naming the file and line where something is wrong with them.
        """
        train, held_out = self._split()
        return [train[place] for place in np.random.default_rng(seed).permutation(len(train))], held_out

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Problems of the training pool for supervised warm-up, drawn again and again."""
        train, _ = self._split()
        return [train[place] for place in rng.integers(len(train), size=count)]

    def fingerprint(self) -> str:
        """A hash of the file, and of how it is read."""
        try:
            content = Path(self.path).expanduser().read_bytes()
        except OSError as error:
            raise InputError(f"path={self.path}: {error.strerror or error}") from None
        return super().fingerprint() + hashlib.sha256(content).hexdigest()

    def verifier(self) -> Verifier:
        """Make the verifier that was asked for. Raises InputError where math-verify is not installed."""
        if self.verify == "exact":
            return ExactVerifier()
        need("math_verify", "tasks")
        return PooledVerifier(math_scores, self.timeout, self.workers)

    def _split(self) -> tuple[list[Problem], list[Problem]]:
        """Training pool and held-out problems: the same whatever the seed, chosen by a hash of the prompt.

        So a warm-up, which knows no seed, meets none that any study of the file holds out.
        """
        problems = self._read()
        count = round(self.held_out * len(problems)) if self.held_out < 1 else int(self.held_out)
        if not 0 < count < len(problems):
            raise InputError(
                f"held_out={self.held_out:g}: {self.path} has {len(problems)} different problems, and both "
                "the training pool and the held-out set need some"
            )
        mixed = sorted(problems, key=_hash)
        return mixed[count:], mixed[:count]

    def _read(self) -> list[Problem]:
        found: dict[str | Messages, tuple[str, Problem]] = {}
        for place, row in _rows(self.path):
            here = f"{self.path}, {place}"
            prompt, messages = _asked(_value(row, self.prompt_column, here), self.prompt_column, here)
            column = self.answer_column
            if column == "answer" and column not in row and isinstance(row.get("reward_model"), dict):
                column = VERL
            answer, *alternatives = _answers(_value(row, column, here), column, here)
            problem = Problem(prompt, answer, alternatives=tuple(alternatives), messages=messages)
            first, known = found.setdefault(problem.question, (place, problem))
            if (known.answer, known.alternatives) != (problem.answer, problem.alternatives):
                raise InputError(f"{here}: the prompt of {first} again, with another answer")
        return [problem for _, problem in found.values()]


class ExactVerifier(Verifier):
    """1 where a response is the answer, or one of several, but for space around it."""

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards (N,), 0 or 1, of responses to problems (both N)."""
        pairs = zip(problems, responses, strict=True)
        return np.array([response.strip() in _right(problem) for problem, response in pairs], float)


def _hash(problem: Problem) -> bytes:
    return hashlib.sha256(json.dumps(problem.question).encode()).digest()


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


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows, and what people call their places."""
    file = Path(path).expanduser()
    try:
        if suffix_of(file) == ".parquet":
            yield from _parquet_rows(file, path)
            return
        for number, row in json_lines(file, path):
            yield f"line {number}", row
    except OSError as error:
        raise InputError(f"path={path}: {error.strerror or error}") from None
    except EOFError:
        raise InputError(f"path={path}: the gzip file is cut") from None


def _parquet_rows(file: Path, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise InputError(f"path={path}: is no readable Parquet file: {str(error).splitlines()[0]}") from None
    row = 0
    for batch in table.iter_batches():
        for values in batch.to_pylist():
            row += 1
            yield f"row {row}", values


def _value(row: dict[str, Any], column: str, here: str) -> Any:
    """A column's value, or that of the field b of a for `a.b`."""
    if column in row:
        return row[column]
    inside: Any = row
    for part in column.split("."):
        if not isinstance(inside, dict) or part not in inside:
            raise InputError(f"{here}: there is no column '{column}': {nearest(column, row)}")
        inside = inside[part]
    return inside


def _asked(value: Any, column: str, here: str) -> tuple[str, Messages]:
    """A prompt's plain text, and its messages if it is a conversation."""
    if not isinstance(value, list):
        return _text(value, column, here), ()
    messages: list[tuple[str, str]] = []
    for message in value:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            raise InputError(
                f'{here}: column \'{column}\': messages are expected, {{"role": ..., "content": ...}}, not '
                f"{_short(message)}"
            )
        messages.append((message["role"], _text(message.get("content"), f"{column}.content", here)))
    if not messages:
        raise InputError(f"{here}: column '{column}' is empty")
    return plain(tuple(messages)), tuple(messages)


def _answers(value: Any, column: str, here: str) -> list[str]:
    """The answer, or all that are right."""
    values = value if isinstance(value, list) and value else [value]
    return list(dict.fromkeys(_answer(one, column, here) for one in values))


def _answer(value: Any, column: str, here: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and np.isfinite(value):
        return str(int(value)) if value == int(value) else repr(value)
    return _text(value, column, here).strip()


def _text(value: Any, column: str, here: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{here}: column '{column}' is no text but {_short(value)}")
    if not value.strip():
        raise InputError(f"{here}: column '{column}' is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{here}: column '{column}' has half a surrogate pair, which is no character")
    return value


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:60]
