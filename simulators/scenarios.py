"""Named, versioned conditions. A number may change only together with the version in the name.

`noise_ratio` is d sigma^2 / |phi|^2, the noise of one rollout's score against its signal. It is best
read as the cosine between a batch's gradient and the true one, which every comparison reports.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.registry import PARAMETERS, Registry
from simulators.pools import (
    BetaDifficulty,
    Dead,
    Difficulty,
    DifficultySpec,
    LogitNormal,
    Pool,
    draw_pool,
)


@dataclass(config=PARAMETERS, frozen=True)
class Scenario:
    """Conditions of a comparison: the prompts, the noise, and what was seen of them before."""

    summary: str = Field(repr=False)
    difficulty: DifficultySpec = "beta"  # type: ignore[assignment]
    visits: Annotated[int, Field(ge=0, le=1000)] = 1
    noise_ratio: Annotated[float, Field(ge=0, le=1e9)] = 30.0
    dimension: Annotated[int, Field(ge=1)] = 32
    skills: Annotated[int, Field(ge=1)] = 12
    predictability: Annotated[float, Field(ge=0, le=1)] = 0.5

    def pool(self, rng: np.random.Generator, replicates: int, size: int) -> Pool:
        """A fresh pool of `size` prompts for each replicate."""
        return draw_pool(
            self.difficulty, rng, replicates, size, self.dimension, self.skills, self.predictability
        )


def _scenario(summary: str, difficulty: Difficulty, **conditions: float) -> Scenario:
    return Scenario(summary, difficulty, **conditions)  # type: ignore[arg-type]


U_SHAPED = BetaDifficulty(0.4, 0.6)

scenarios: Registry[Scenario] = Registry(
    "scenario",
    {
        "u-shaped-v1": _scenario("Many prompts near 0 and near 1: Beta(.4, .6), mean .40.", U_SHAPED),
        "mid-v1": _scenario("Most prompts solved about half of the time: Beta(4, 4).", BetaDifficulty(4, 4)),
        "weak-v1": _scenario("A weak policy: Beta(.4, 2.6), mean .13.", BetaDifficulty(0.4, 2.6)),
        "strong-v1": _scenario("A strong policy: Beta(2.6, .4), mean .87.", BetaDifficulty(2.6, 0.4)),
        "dead-sixty-v1": _scenario("30% never solved, 30% always solved, the rest Beta(1, 1).", Dead()),
        "logit-normal-v1": _scenario("sigmoid(N(-0.5, 2^2)), mean .43.", LogitNormal(-0.5, 2.0)),
        "cold-start-v1": _scenario("u-shaped, and nothing seen before.", U_SHAPED, visits=0),
        "well-known-v1": _scenario("u-shaped, each prompt seen four times before.", U_SHAPED, visits=4),
        "low-noise-v1": _scenario("u-shaped, noise ratio 3.", U_SHAPED, noise_ratio=3.0),
        "high-noise-v1": _scenario("u-shaped, noise ratio 300.", U_SHAPED, noise_ratio=300.0),
    },
)
DEFAULT_SCENARIOS = ("u-shaped-v1", "weak-v1", "strong-v1", "dead-sixty-v1")
