r"""Another task's prompts, asked in another way: a template, solved examples before each, a system prompt.

A template says where `{prompt}` stands, and with `{answer}` where the response begins. Solved examples are
the template with the answer filled in, also with what follows it; the question ends where the response
begins. So `{prompt}{answer}\n` with two examples asks `3+4=7\n12+5=17\n8+9=`.

With a system prompt, and for tasks whose prompts are conversations, it is all a conversation for the
model's chat template: the system prompt, the examples as turns of user and assistant, the question.

A response ends at the first stop string, and what is verified is what stands before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import numpy as np

from real_runs.tasks import Messages, Problem, Task, Verifier, plain
from rolloutbench.protocol import FloatArray, InputError

PROMPT, ANSWER = "{prompt}", "{answer}"
"""What stands in a template for the prompt, and where the response begins."""


@dataclass(frozen=True)
class Prompted(Task):
    """Task whose prompts are those of another, asked in another way."""

    of: Task
    template: str = PROMPT
    system: str = ""
    shots: int = 0
    """Solved examples before each question: the first of the training pool, which has as many fewer."""
    stop: tuple[str, ...] = ()
    max_new_tokens: int = field(init=False, repr=False)
    threshold: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Raise InputError where the template has no place for the prompt, or the answer stands before it."""
        asked, _, after = self.template.partition(ANSWER)
        if asked.count(PROMPT) != 1 or PROMPT in after or ANSWER in after:
            raise InputError(
                f"template {self.template!r}: {PROMPT} is expected once, and {ANSWER} at most once, behind it"
            )
        if "" in self.stop:
            raise InputError("stop: an empty text would end every response")
        object.__setattr__(self, "max_new_tokens", self.of.max_new_tokens)
        object.__setattr__(self, "threshold", self.of.threshold)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the other task's rewards."""
        return self.of.reward_names

    @property
    def alphabet(self) -> str:
        """Characters of the other task's prompts and answers, and of what is put around them."""
        more = self.template.replace(PROMPT, "").replace(ANSWER, "") + self._after + self.system + "\n"
        return "".join(dict.fromkeys(self.of.alphabet + more))

    @property
    def told(self) -> str:
        """How prompts are asked, in a few words for captions; empty where as the other task asks them."""
        parts = [
            "a template" * (self.template != PROMPT),
            f"{self.shots} solved examples" * (self.shots > 0),
            "a system prompt" * bool(self.system),
            f"stop at {', '.join(map(repr, self.stop))}" * bool(self.stop),
        ]
        return ", ".join(part for part in parts if part)

    def problems(self, seed: np.random.SeedSequence) -> tuple[list[Problem], list[Problem]]:
        """Training pool, without the examples, and held-out problems, both under the same examples.

        Raises InputError where the pool has no more problems than that, or an example has no answer.
        """
        train, held_out = self.of.problems(seed)
        if len(train) <= self.shots:
            raise InputError(
                f"shots={self.shots}: the training pool has {len(train)} problems, and loses them"
            )
        shots = self._solved(train[: self.shots])
        return self._asked(train[self.shots :], shots), self._asked(held_out, shots)

    def examples(self, rng: np.random.Generator, count: int) -> list[Problem]:
        """Fresh problems for supervised warm-up, under solved examples that are fresh too."""
        made = self.of.examples(rng, self.shots + count)
        return self._asked(made[self.shots :], self._solved(made[: self.shots]))

    def verifier(self) -> Verifier:
        """Make the other task's verifier, of what stands before a stop string."""
        return _Before(self.stop, self.of.verifier())

    def fingerprint(self) -> str:
        """A hash of what its examples depend on beside its fields."""
        return super().fingerprint() + self.of.fingerprint()

    @property
    def _after(self) -> str:
        """What follows an answer in an example."""
        _, mark, after = self.template.partition(ANSWER)
        return after if mark else "\n\n"

    def _fill(self, prompt: str) -> str:
        return self.template.partition(ANSWER)[0].replace(PROMPT, prompt)

    def _solved(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        if not all(problem.answer for problem in problems):
            raise InputError(f"shots={self.shots}: the task gives no answers, only a check of them")
        return problems

    def _asked(self, problems: Sequence[Problem], shots: Sequence[Problem]) -> list[Problem]:
        text = "".join(f"{self._fill(shot.prompt)}{shot.answer}{self._after}" for shot in shots)
        turns: Messages = tuple(
            turn for shot in shots for turn in (*self._turns(shot)[1], ("assistant", shot.answer))
        )
        found: list[Problem] = []
        for problem in problems:
            messages: Messages = ()
            if self.system or problem.messages:
                system, own = self._turns(problem)
                messages = (*system, *turns, *own)
            prompt = plain(messages) or text + self._fill(problem.prompt)
            asked = replace(problem, prompt=prompt, messages=messages)
            found.append(_Asked(**vars(asked), given=problem))
        return found

    def _turns(self, problem: Problem) -> tuple[Messages, Messages]:
        """The system prompt, if there is one, and the other messages of one problem."""
        *before, (role, content) = problem.messages or (("user", problem.prompt),)
        own = tuple(turn for turn in before if turn[0] != "system")
        system = (("system", self.system),) if self.system else tuple(t for t in before if t[0] == "system")
        return system, (*own, (role, self._fill(content)))


@dataclass(frozen=True)
class _Asked(Problem):
    """A problem as a model is asked it, and as its verifier knows it."""

    given: Problem = field(default_factory=lambda: Problem("", ""))


class _Before(Verifier):
    """Another verifier, of what stands in a response before the first stop string."""

    def __init__(self, stop: Sequence[str], inner: Verifier) -> None:
        self._stop, self._inner = stop, inner

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inner.__exit__(kind, error, trace)

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards of responses to problems (both N), as the other verifier gives them."""
        given = [problem.given if isinstance(problem, _Asked) else problem for problem in problems]
        scored = self._inner.score(given, [before(self._stop, response) for response in responses])
        self.failed = self._inner.failed
        return scored


def before(stop: Sequence[str], text: str) -> str:
    """What stands in a text before the first of the stop strings; all of it where there is none."""
    return text[: min([place for one in stop if (place := text.find(one)) >= 0], default=len(text))]
