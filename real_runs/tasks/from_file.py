"""Problems from a file of JSON lines or Parquet, whatever a row's answer is and whoever verifies it.

A prompt is a text, or a conversation: a list of messages {"role", "content"}, which goes through the model's
chat template, or without one is read in its plain form, the contents with empty lines between them. `a.b`
names the field b of a column a. Other columns than those that a task asks for are passed over.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow
from pyarrow import parquet
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import ASCII, Messages, Problem, Task, plain
from rolloutbench.protocol import InputError
from rolloutbench.registry import PARAMETERS, nearest
from rolloutbench.tabular import json_lines, suffix_of

Row: TypeAlias = dict[str, Any]
"""A row of a file, by column."""


@dataclass(config=PARAMETERS, frozen=True)
class FromFile(Task):
    """A file of JSON lines or Parquet with a prompt in each row; part of it is held out."""

    kind: ClassVar[str]
    """The task's name, for messages."""

    path: str = ""
    prompt_column: str = "prompt"
    held_out: Annotated[float, Field(gt=0)] = 0.1
    """Number of problems that are held out, or below 1 the share of them."""

    def __post_init__(self) -> None:
        """Raise InputError where no path or half a problem is given.

        The file itself is looked at when it is read: recorded studies outlive their data.
        """
        if not self.path:
            raise InputError(f"task '{self.kind}' needs a file: {self.kind}[path=FILE]")
        if self.held_out >= 1 and self.held_out != int(self.held_out):
            raise InputError(f"held_out={self.held_out}: expected a whole number, or a share below 1")

    @abstractmethod
    def problem(self, prompt: str, messages: Messages, row: Row, here: str) -> Problem:
        """Make the problem of a row, which people find at `here`. Raises InputError where it is wrong."""

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
        read = hashlib.sha256(Path(__file__).read_bytes() + content)
        return super().fingerprint() + read.hexdigest()

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
            prompt, messages = _asked(value_of(row, self.prompt_column, here), self.prompt_column, here)
            problem = self.problem(prompt, messages, row, here)
            first, known = found.setdefault(problem.question, (place, problem))
            if _wanted(known) != _wanted(problem):
                raise InputError(f"{here}: the prompt of {first} again, with another answer")
        return [problem for _, problem in found.values()]


def _wanted(problem: Problem) -> tuple[object, ...]:
    """What a response to a problem must be."""
    return problem.answer, problem.alternatives, problem.tests


def _hash(problem: Problem) -> bytes:
    return hashlib.sha256(json.dumps(problem.question).encode()).digest()


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


def value_of(row: dict[str, Any], column: str, here: str) -> Any:
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
        return text_of(value, column, here), ()
    messages: list[tuple[str, str]] = []
    for message in value:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            raise InputError(
                f'{here}: column \'{column}\': messages are expected, {{"role": ..., "content": ...}}, not '
                f"{_short(message)}"
            )
        messages.append((message["role"], text_of(message.get("content"), f"{column}.content", here)))
    if not messages:
        raise InputError(f"{here}: column '{column}' is empty")
    return plain(tuple(messages)), tuple(messages)


def text_of(value: Any, column: str, here: str) -> str:
    """Return the value of a column at `here` as text. Raises InputError unless it is some text."""
    if not isinstance(value, str):
        raise InputError(f"{here}: column '{column}' is no text but {_short(value)}")
    if not value.strip():
        raise InputError(f"{here}: column '{column}' is empty")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{here}: column '{column}' has half a surrogate pair, which is no character")
    return value


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:60]
