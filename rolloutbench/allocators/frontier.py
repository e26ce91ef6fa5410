"""Frontier: a few rollouts of many likely prompts, more of those that may still go either way. Ours.

    C = min(1, start + growth t) of the budget's rollouts, B as large a part of its prompts     (step t)
    candidates: the next m B prompts of the stream; Beta(a, b) has the predictor's mean and variance of p
    for j = 0 .. J-1:
        s = min(E[p (1 - p)] under Beta(a + k, b + n - k), enough / 4)    n, k: of this step so far
        s = s (u - 1) / u where n = 0                    the first rollout of a group only centres it
        the max(breadth, B / 2^j) prompts with the greatest s get u rollouts each, C / J in all
    train on every rollout

In a group of 8 and at first, u is 2, 4, 8 and 16. No more prompts than the budget has are opened. Of equals
the first to come are taken, since the stream is shuffled. A step is never so small that `breadth` prompts
have less than a group each.

Why s: up to what all prompts share, n rollouts of one prompt add n s to the squared signal of a step over its
variance, so rollouts belong where s is greatest. Why rounds: what a belief from earlier steps cannot know,
two rollouts tell, and they are trained on like all others. Why `enough` and `breadth`: prompts with nine
tenths of the most signal are as good as any, and many different ones are better than the same few, the more
so the less of the noise is not the rewards'. Why steps that grow: at the same price small steps learn faster
while the signal is strong, and larger ones once it is weak. docs/frontier.md has the derivation, and what
each part adds.

Related: MoPPS chooses by history, VIGOR (2607.22002) halves within the step; this does both with one belief.
A prompt's count depends on its own rewards, so the gradient is biased, as theirs is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from rolloutbench.allocators.one_shot import Predicting
from rolloutbench.allocators.selection import nearest
from rolloutbench.allocators.uniform import equal_shares
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import (
    Belief,
    Budget,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    Request,
    Setting,
    State,
)
from rolloutbench.registry import PARAMETERS

MOST_CERTAIN = 1e6
"""Rollouts that a belief without variance counts for."""
LEAST_CERTAIN = 0.1
"""Rollouts that a belief counts for whose variance is the most there is, p (1 - p)."""

PRICES: dict[str, dict[str, Any]] = {
    "rollouts": {},
    "seconds": {"rounds": 1, "start": 1.0, "candidates": 8},  # stages and steps wait for the longest response
}


@dataclass(config=PARAMETERS)
class Frontier(Predicting):
    """Rounds of rollouts for the prompts whose rewards are expected to vary most; steps that grow.

    Where the mean is over prompts, a step is one round with 8 candidates for each place, unless these are
    given: such a mean weighs a group of two like one of thirty, so rounds would be for nothing.

    `price`: what is to be saved; for seconds a step is one such round of the whole budget. `candidates`:
    prompts considered for each that is opened, 2 by default. `rounds`: stages of a step, 4 by default; 1 is
    a choice by history alone. `breadth`: fewest prompts of a round. `enough`: share of the most signal beyond
    which prompts count as equals. `start`, `growth`: share of the budget that the first step spends, and what
    each step adds to it.
    """

    staged: ClassVar[bool] = True
    chooses_prompts: ClassVar[bool] = True
    variants: ClassVar[tuple[str, ...]] = ("", "price=seconds")
    goal: ClassVar[str] = "most signal a rollout"

    predictor: PredictorSpec = "kalman"  # type: ignore[assignment]
    price: Literal["rollouts", "seconds"] = "rollouts"
    candidates: Annotated[int, Field(ge=1, le=1000)] | None = None
    rounds: Annotated[int, Field(ge=1, le=16)] | None = None
    breadth: Annotated[int, Field(ge=1)] = 8
    enough: Annotated[float, Field(gt=0, le=1)] = 0.9
    start: Annotated[float, Field(gt=0, le=1)] = 0.25
    growth: Annotated[float, Field(ge=0, le=1)] = 0.0025

    @model_validator(mode="before")
    @classmethod
    def _at_a_price(cls, given: ArgsKwargs) -> ArgsKwargs:
        """Fill in what saves most at the price, where it was not given."""
        parameters = given.kwargs or {}
        return ArgsKwargs(given.args, {**PRICES.get(str(parameters.get("price")), {}), **parameters})

    def __post_init__(self) -> None:
        """Say whether it is staged: one round decides before it has seen anything of the step."""
        self.staged, self.one_shot = self.rounds != 1, self.rounds == 1  # type: ignore[misc]

    def begin(self, setting: Setting) -> None:
        """Start afresh, with the smallest step."""
        super().begin(setting)
        rounds, candidates = (1, 8) if setting.aggregation == "prompt" else (4, 2)
        self._rounds, self._candidates = self.rounds or rounds, self.candidates or candidates
        self._step = 0

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Draw candidates, then ask round by round; train on everything."""
        shares, widths = self.schedule(budget)
        self._step += 1
        candidates = stream.draw(min(self._candidates * widths[0], stream.pool_size))
        belief = beta_of(self.predictor.predict(candidates))
        most = min(sum(widths), budget.prompts)  # who is not among these is never opened in this step
        likely = nearest(lateness(candidates, self.signal(*belief)), most)
        prompts = np.take_along_axis(candidates, likely, axis=1)
        a, b = (np.take_along_axis(part, likely, axis=1) for part in belief)
        seen = Outcomes.none(prompts)
        for rollouts, width in zip(shares, widths, strict=True):
            signal = self.signal(a + seen.successes, b + seen.counts - seen.successes)
            signal *= np.where(seen.generated > 0, 1.0, 1 - width / rollouts)
            chosen = np.zeros(prompts.shape, dtype=bool)
            np.put_along_axis(chosen, nearest(lateness(prompts, signal), width), True, axis=1)
            spent = np.full(len(prompts), rollouts)
            seen += yield Request(prompts, equal_shares(chosen & (prompts >= 0), spent))
        return replace(Groups.all_of(seen), prompts=np.where(seen.generated > 0, prompts, -1))

    def schedule(self, budget: Budget) -> tuple[list[int], list[int]]:
        """Rollouts and prompts of each round of the next step; no prompt is opened with fewer than 2."""
        rounds = max(1, min(self._rounds, budget.rollouts // 2))
        share = min(1.0, self.start + self.growth * self._step)
        least = min(budget.rollouts, max(2, int(budget.group_size)) * self.breadth)
        rollouts = max(round(share * budget.rollouts), least)
        each = rollouts // rounds
        shares = [each] * (rounds - 1) + [rollouts - each * (rounds - 1)]
        prompts = budget.prompts * rollouts / budget.rollouts
        fewest = min(self.breadth, budget.prompts)
        widths = [max(1, min(max(round(prompts / 2**j), fewest), each // 2)) for j in range(rounds)]
        return shares, widths

    def signal(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """Signal of a rollout (R, W) under Beta(a, b), as far as it matters."""
        return np.minimum(reward_variance(a, b), self.enough / 4)

    def state_dict(self) -> State:
        """What the predictor learned, and how many steps there were."""
        return {**super().state_dict(), "step": np.array(self._step)}

    def load_state_dict(self, state: State) -> None:
        """Restore what the predictor learned, and how many steps there were."""
        super().load_state_dict(state)
        self._step = int(state["step"])


def lateness(prompts: IntArray, signal: FloatArray) -> FloatArray:
    """How late each of the prompts (R, W) gets its turn: the greatest signal comes first."""
    return np.where(prompts >= 0, -signal, np.inf)


def beta_of(belief: Belief) -> tuple[FloatArray, FloatArray]:
    """Parameters a, b (R, B) of the Beta distributions with the mean and variance of a belief."""
    mean, spread = belief.mean, belief.mean * (1 - belief.mean)
    known = np.divide(spread, belief.variance, out=np.full(mean.shape, np.inf), where=belief.variance > 0) - 1
    total = np.clip(known, LEAST_CERTAIN, MOST_CERTAIN)
    return mean * total, (1 - mean) * total


def reward_variance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Expected variance of a reward, E[p (1 - p)] for p from Beta(a, b), shaped as given."""
    total = a + b
    variance: FloatArray = a * b / (total * (total + 1))
    return variance
