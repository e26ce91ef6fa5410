"""Tasks: prompts, and a verifier that rewards responses to them."""

from __future__ import annotations

import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from pydantic import BeforeValidator

from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import Registry

ASCII = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
"""The line break and the printable characters of ASCII."""
Messages: TypeAlias = tuple[tuple[str, str], ...]
"""A conversation: the role and the content of each message."""


@dataclass(frozen=True)
class Problem:
    """A prompt's text, the answer's, and how hard it was made, where that is known (its length, say)."""

    prompt: str
    answer: str
    level: float = float("nan")
    entry: Mapping[str, Any] = field(default_factory=dict)
    """What else the task's own verifier needs."""
    alternatives: tuple[str, ...] = ()
    """Other answers that are as right."""
    tests: tuple[str, ...] = ()
    """Programs that the code of a response must pass."""
    messages: Messages = ()
    """The conversation that `prompt` is the plain form of, if it is one."""

    @property
    def question(self) -> str | Messages:
        """Text or conversation that a model is asked."""
        return self.messages or self.prompt


def plain(messages: Messages) -> str:
    """A conversation for models without a chat template: the contents, with empty lines between them."""
    return "\n\n".join(content for _, content in messages)


class Verifier:
    """Scorer of responses; a context manager, since some hold processes that must end."""

    failed: int = 0
    """Responses so far whose verification raised, hung or died: they scored NaN."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give up the processes that are held."""

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards in [0, 1] of responses to problems (both N); NaN where the verifier failed.

        (N,) of a task with one reward, (N, L) in the order of its `reward_names` of one with several.
        """
        raise NotImplementedError


class Task(ABC):
    """Source of prompts and of their verifier.

    Registered tasks are pydantic dataclasses, so their fields are checked.
    """

    max_new_tokens: int
    """Number of tokens at which responses are cut."""
    threshold: float
    """Raw reward from which on a response is a success, unless a study says otherwise."""
    stop: Sequence[str] = ()
    """Strings at which a response ends; what is verified stands before them."""

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the rewards that its verifier gives; the first is what `threshold` is of."""
        return ("score",)

    @property
    def alphabet(self) -> str:
        """Characters of its prompts and answers, for tokenizers of characters; by default those of ASCII."""
        return ASCII

    @abstractmethod
    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool and held-out problems, disjoint; the same for the same seed."""

    @abstractmethod
    def verifier(self) -> Verifier:
        """Make a new verifier of the task's responses."""

    def fingerprint(self) -> str:
        """A hash of what its examples depend on beside its fields: its source code, or a file."""
        file = getattr(sys.modules.get(type(self).__module__), "__file__", None)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Problems for supervised warm-up, none of them held out. Raises InputError where a task has none."""
        raise InputError(
            f"task {type(self).__name__} makes no fresh examples for a supervised warm-up: "
            "give a model that was trained before"
        )


def problems(task: Task, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Training pool and held-out problems: the same for all allocators and replicates of a study."""
    return task.problems(np.random.SeedSequence(seed, spawn_key=(0,)))


def digest(train: Sequence[Problem], held_out: Sequence[Problem]) -> str:
    """A hash of what the prompts, answers and tests are."""
    texts = [
        [
            [problem.prompt, problem.answer, *problem.alternatives, *problem.messages, *problem.tests]
            for problem in part
        ]
        for part in (train, held_out)
    ]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:32]


tasks: Registry[Task] = Registry(
    "task",
    {
        "addition": "real_runs.tasks.addition:Addition",
        "sorting": "real_runs.tasks.sorting:Sorting",
        "reasoning_gym": "real_runs.tasks.reasoning_gym:ReasoningGym",
        "jsonl": "real_runs.tasks.jsonl:JsonLines",
        "code": "real_runs.tasks.code:Code",
    },
    group="rolloutbench.tasks",
)
TaskSpec = Annotated[Task, BeforeValidator(tasks.create)]
