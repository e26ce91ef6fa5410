"""The datasets of reasoning-gym (github.com/open-thought/reasoning-gym): made on the spot, from a seed.

The prompt is the question and a line break, after one of the library's own instructions where one is asked
for. The answer that is scored is what stands in the last `<answer>...</answer>` of a response, the form
that those instructions ask for, or all of a response that has no such tags. Its `score` is what the dataset's
own `score_answer` says, which for many datasets gives part marks: hence the threshold. Its `format` is 1
where a response has the tags.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from real_runs.tasks import Problem, Task, Verifier
from real_runs.verification import PooledVerifier, Score, Timeout, Workers
from rolloutbench.optional import need
from rolloutbench.protocol import InputError
from rolloutbench.registry import PARAMETERS, nearest

TRIES = 20
"""Questions made for each that is wanted, before a dataset is said to have too few different ones."""


@dataclass(config=PARAMETERS, frozen=True)
class ReasoningGym(Task):
    """A dataset of reasoning-gym, no question twice; difficulty is a level of its curriculum."""

    dataset: str = "chain_sum"
    difficulty: Annotated[int, Field(ge=0, le=1000)] | None = None
    instruction: str | None = None
    pool_size: Annotated[int, Field(ge=1, le=1_000_000)] = 2000
    held_out: Annotated[int, Field(ge=1, le=1_000_000)] = 512
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    timeout: Timeout = 5.0
    workers: Workers = None

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of its rewards: what the dataset gives an answer, and whether that stands in its tags."""
        return "score", "format"

    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool and held-out problems, all questions different.

        Raises InputError where the dataset or its level is unknown, or has too few different questions.
        """
        wanted = self.pool_size + self.held_out
        found: dict[str, Problem] = {}
        for problem in self._make(np.random.default_rng(seed), TRIES * wanted):
            found.setdefault(problem.prompt, problem)
            if len(found) == wanted:
                different = list(found.values())
                return different[: self.pool_size], different[self.pool_size :]
        raise InputError(
            f"pool_size={self.pool_size} and held_out={self.held_out}: dataset '{self.dataset}' gave only "
            f"{len(found)} different questions in {TRIES * wanted}"
        )

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Fresh problems for supervised warm-up. Raises InputError where the dataset gives no answers."""
        made = list(self._make(rng, count))
        if not all(problem.answer for problem in made):
            raise InputError(
                f"dataset '{self.dataset}' gives no answers, only a check of them: "
                "no supervised warm-up can be made of it; give a model that was trained before"
            )
        return made

    def verifier(self) -> Verifier:
        """Make the verifier of the dataset's own scores. Raises InputError where the dataset is unknown."""
        _dataset(self.dataset, self.difficulty)  # here, where it is a line, not a process that ends
        return PooledVerifier(
            functools.partial(scores, self.dataset, self.difficulty),
            self.timeout,
            self.workers,
            len(self.reward_names),
        )

    def _make(self, rng: np.random.Generator, count: int) -> Iterator[Problem]:
        dataset = _dataset(self.dataset, self.difficulty, seed=int(rng.integers(2**31)), size=count)
        instruction = _instruction(self.instruction)
        for place in range(count):
            entry = dataset[place]
            answer = entry["answer"]
            prompt = f"{instruction}{entry['question'].rstrip()}\n"
            yield Problem(prompt, "" if answer is None else str(answer), _level(entry["metadata"]), entry)


def scores(dataset: str, difficulty: int | None) -> Score:
    """Make the scoring function of a dataset."""
    source = _dataset(dataset, difficulty)
    extract = need("reasoning_gym.utils", "tasks").extract_answer

    def score(problem: Problem, response: str) -> tuple[float, float]:
        answer = extract(response)
        given = source.score_answer(response.strip() if answer is None else answer, problem.entry)
        return float(given), float(answer is not None)

    return score


def _dataset(name: str, difficulty: int | None, **given: int) -> Any:
    factory = need("reasoning_gym.factory", "tasks")
    need("reasoning_gym", "tasks")  # fills the factory
    if name not in factory.DATASETS:
        raise InputError(f"reasoning_gym has no dataset '{name}': {nearest(name, factory.DATASETS)}")
    try:
        if difficulty is None:
            return factory.create_dataset(name, **given)
        if not factory.has_curriculum(name):
            raise InputError(f"difficulty={difficulty}: dataset '{name}' has no curriculum; leave it out")
        curriculum = factory.create_curriculum(name)
        curriculum.set_global_level(difficulty)
        return factory.DATASETS[name][0](curriculum.generate_configuration(given))
    except (AssertionError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())
        raise InputError(f"dataset '{name}' cannot be made: {said or type(error).__name__}") from None


def _instruction(name: str | None) -> str:
    if name is None:
        return ""
    known: Mapping[str, str] = need("reasoning_gym.utils", "tasks").SYSTEM_PROMPTS
    if name not in known:
        raise InputError(f"instruction={name}: {nearest(name, known)}")
    return f"{known[name].strip()}\n\n"


def _level(metadata: Mapping[str, Any]) -> float:
    """Level of a question: the number given, or its own value on the first axis that has a number."""
    difficulty = metadata.get("difficulty")
    axes = difficulty if isinstance(difficulty, Mapping) else {}
    for value in (difficulty, *(metadata.get(axis) for axis in axes)):
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
    return float("nan")
