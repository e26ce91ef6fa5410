"""Bases of the methods that fix all counts before they see a reward of the step.

Most published allocators are one sentence: a predictor times an objective times the exact solver.
`Predicted` is that sentence, so each of them is a few lines and every cell of the grid has a name.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators import AllocatorSpec
from rolloutbench.objectives import Objective
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Allocator,
    Budget,
    FloatArray,
    Groups,
    InputError,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS
from rolloutbench.solvers import Problem, solve


class OneShot(Allocator):
    """Base of allocators that draw a batch, ask for rollouts once and train on all of them."""

    one_shot: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    @abstractmethod
    def allocate(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) for prompts (R, B); 0 where the prompt is -1."""

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Ask for the counts of `allocate` in one stage."""
        prompts = stream.draw(budget.prompts)
        outcomes = yield Request(prompts, self.allocate(prompts, budget))
        return Groups.all_of(outcomes)


@dataclass(config=PARAMETERS)
class Predicting(Allocator):
    """Base of allocators that ask a predictor, which learns from every rollout."""

    predictor: PredictorSpec = "beta"  # type: ignore[assignment]

    def begin(self, setting: Setting) -> None:
        """Start afresh, the predictor too."""
        self.setting = setting
        self.predictor.begin(setting)

    def observe(self, outcomes: Outcomes) -> None:
        """Let the predictor learn from every rollout."""
        self.predictor.update(outcomes)

    def state_dict(self) -> State:
        """What the predictor learned."""
        return {"predictor": self.predictor.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what the predictor learned."""
        self.predictor.load_state_dict(state["predictor"])


@dataclass(config=PARAMETERS)
class Predicted(Predicting, OneShot):
    """A predictor, and bounds on what a prompt may get; None means the method's own default."""

    lower: Annotated[int, Field(ge=0, le=MOST_ROLLOUTS)] | None = None
    upper: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None

    def bounds(self, budget: Budget) -> tuple[int, int]:
        """Lower and upper count of a prompt, as given or by default."""
        lower, upper = self.default_bounds(budget)
        return lower if self.lower is None else self.lower, upper if self.upper is None else self.upper

    def default_bounds(self, budget: Budget) -> tuple[int, int]:
        """Bounds of a prompt's count by default: 2 and 128, as Knapsack RL and CoBA-RL have them."""
        return 2, 128


@dataclass(config=PARAMETERS)
class Borrowed(OneShot):
    """Base of controls that work with the counts of another, one-shot allocator, `of`."""

    of: AllocatorSpec = "vip"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Raise InputError unless `of` is one-shot: only then are all counts known beforehand."""
        if not isinstance(self.of, OneShot):
            name = type(self.of).__name__
            raise InputError(f"of={name}: {type(self).__name__} needs a one-shot allocator, which it is not")

    def begin(self, setting: Setting) -> None:
        """Start afresh, together with the allocator that is borrowed from."""
        self.setting = setting
        self.of.begin(setting)

    def observe(self, outcomes: Outcomes) -> None:
        """Let the allocator that is borrowed from learn from what was generated here."""
        self.of.observe(outcomes)

    def state_dict(self) -> State:
        """What the allocator that is borrowed from remembers."""
        return {"of": self.of.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore what the allocator that is borrowed from remembers."""
        self.of.load_state_dict(state["of"])

    def borrowed_counts(self, prompts: IntArray, budget: Budget) -> IntArray:
        """Counts (R, B) that the allocator that is borrowed from would ask for."""
        assert isinstance(self.of, OneShot)
        return self.of.allocate(prompts, budget)


def bounded_problem(
    objective: Objective,
    prompts: IntArray,
    p: FloatArray,
    budget: Budget,
    lower: npt.ArrayLike,
    upper: npt.ArrayLike,
    weights: npt.ArrayLike = 1.0,
) -> Problem:
    """The problem of spending the budget over the prompts that are there; others (-1) get 0.

    A replicate that drew fewer prompts than the budget foresaw may be unable to spend all of it.
    """
    present = prompts >= 0
    lower, upper = np.multiply(lower, present), np.multiply(upper, present)
    short = ~present.all(axis=1)
    rollouts = np.where(short, np.minimum(budget.rollouts, upper.sum(axis=1)), budget.rollouts)
    return Problem.of(objective, p, rollouts, lower, upper, np.multiply(weights, present))


def best_counts(
    objective: Objective,
    prompts: IntArray,
    p: FloatArray,
    budget: Budget,
    lower: npt.ArrayLike,
    upper: npt.ArrayLike,
    weights: npt.ArrayLike = 1.0,
) -> IntArray:
    """Integer counts (R, B) that are best for the objective if p is the truth; exact.

    Raises InputError where the bounds cannot be met.
    """
    problem = bounded_problem(objective, prompts, p, budget, lower, upper, weights)
    return np.asarray(solve(problem).counts, dtype=np.int64)
