"""A training run that really happened: 1,209 math prompts in 44 epochs, eight rollouts of each in each.

Successes are those of a GRPO run of Qwen2.5-Math-1.5B on a part of DeepScaleR (from
ypwang61/One-Shot-RLVR@21ed529, data/acc_step_500.json, Apache-2.0; shares of eight there, counts here; its
later epochs, which do not have all prompts, are left out). Nothing that is asked for here moves it: the
policy learns as it did then. So predictors are judged by real drift, which no simulator can be asked for.

Its prompts are also a difficulty, `traced`, for policies that do learn from what they are asked.

A prompt that is asked for n rollouts in an epoch gets n of the eight that there are, drawn without
replacement, and where n > 8 further ones with chance k/8. Each replicate has its own prompts, drawn from the
1,209 with replacement, so that intervals say how much depends on which prompts there were. The chance that
predictors are judged by is k/8 of the epoch: the Brier score is then that of the eight rollouts themselves.
"""

from __future__ import annotations

import functools
from dataclasses import field
from importlib import resources
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.environment import Environment
from rolloutbench.protocol import (
    Budget,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    PromptStream,
    Request,
    Setting,
)
from rolloutbench.registry import PARAMETERS
from simulators.pools import Difficulty, Measured

FILE = "deepscaler_math_1209.csv"
ROLLOUTS = 8
"""Rollouts of a prompt in an epoch of the recorded run."""
PROMPTS, EPOCHS = 1209, 44
"""Prompts that were recorded, and epochs in which all of them were."""


@functools.cache
def recorded() -> IntArray:
    """Successes (PROMPTS, EPOCHS) among eight rollouts of each prompt in each epoch."""
    with resources.files(__package__).joinpath("data", FILE).open() as file:
        table = pd.read_csv(file, index_col="prompt")
    return table.to_numpy(dtype=np.int64)


@functools.cache
def _measured(epoch: int) -> Measured:
    return Measured(recorded()[:, epoch] / ROLLOUTS, np.full(PROMPTS, float(ROLLOUTS)))


@dataclass(config=PARAMETERS, frozen=True)
class TracedDifficulty(Difficulty):
    """Success probabilities of the recorded prompts in one epoch of their run, freed of sampling error."""

    epoch: Annotated[int, Field(ge=0, lt=EPOCHS)] = 0

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        """Recorded prompts drawn with replacement, each with a draw from the posterior of its eight."""
        return _measured(self.epoch).sample(rng, shape)


@dataclass(config=PARAMETERS, frozen=True)
class TracedScenario:
    """The recorded run: predictors watch it, and what anybody asks for changes nothing in it."""

    summary: str = field(
        default="A real run: 1,209 math prompts, 44 epochs, Qwen2.5-Math (1.5B). For `predict`.",
        repr=False,
        compare=False,
    )
    prompts: Annotated[int, Field(ge=1, le=PROMPTS)] = 93
    group_size: Annotated[int, Field(ge=1, le=10_000)] = ROLLOUTS
    epochs: Annotated[int, Field(ge=2, le=EPOCHS)] = EPOCHS

    @property
    def steps(self) -> int:
        """Steps of all epochs; the rest of an epoch that cannot fill a batch is not visited."""
        return self.epochs * (PROMPTS // self.prompts)

    @property
    def pool_size(self) -> int:
        """Number of prompts that were recorded."""
        return PROMPTS

    @property
    def budget(self) -> Budget:
        """Budget of a step: what uniform spends in it."""
        return Budget(self.prompts, self.prompts * self.group_size)

    @property
    def caption(self) -> str:
        """The run in a line, with the score that nobody can beat."""
        return f"{PROMPTS:,} recorded prompts, {self.epochs} epochs; Brier floor {floor(self.epochs):.4f}"


def floor(epochs: int = EPOCHS) -> float:
    """The Brier score of the true p after the first epoch: E p(1-p), without bias from the eight rollouts."""
    rate = recorded()[:, 1:epochs] / ROLLOUTS
    return float((rate * (1 - rate)).mean() * ROLLOUTS / (ROLLOUTS - 1))


class Traced(Environment):
    """The recorded run for R replicates, each with its own prompts."""

    def __init__(
        self, setting: Setting, stream: PromptStream, rewards: np.random.Generator, epochs: int = EPOCHS
    ) -> None:
        super().__init__(setting, stream)
        self._rewards = rewards
        own = rewards.integers(PROMPTS, size=(setting.replicates, PROMPTS))
        self._successes = recorded()[own][..., :epochs]
        """Successes (R, Q, epochs) of each replicate's prompts."""

    def now(self, prompts: IntArray) -> IntArray:
        """Recorded successes (R, B) of prompts (R, B) in the epoch that each replicate is in."""
        rows = np.arange(len(prompts))[:, None]
        last = self._successes.shape[2] - 1
        epoch = np.clip(self.stream.epoch, 0, last)[:, None]
        return np.asarray(self._successes[rows, prompts, epoch])

    def success(self, prompts: IntArray) -> FloatArray:
        """Share of successes (R, B) among the eight rollouts of the epoch."""
        share: FloatArray = self.now(prompts) / ROLLOUTS
        return share

    def generate(self, request: Request) -> Outcomes:
        """Deal recorded rollouts without replacement; beyond eight, others like them."""
        k = self.now(request.prompts)
        dealt = np.minimum(request.counts, ROLLOUTS)
        successes = self._rewards.hypergeometric(k, ROLLOUTS - k, dealt)
        beyond = request.counts - dealt
        if beyond.any():
            successes = successes + self._rewards.binomial(beyond, k / ROLLOUTS)
        return Outcomes(request.prompts, request.counts, successes)

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """Change nothing: the run has happened."""
        return {}
