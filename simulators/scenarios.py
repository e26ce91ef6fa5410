"""Named, versioned conditions. A number may change only together with the version in the name.

Names that begin with `snapshot-` are of one step at frozen success probabilities (snapshot.py), the
others of a whole training run (learning.py); `replay` is a step on recorded rollouts (replay.py), and its
numbers are the bank's. `noise_ratio` is d sigma^2 / |phi|^2, the noise of one
rollout's score against its signal. It is best read as the cosine between a batch's gradient and the
true one, which every comparison reports, and which the summaries of the learning scenarios state for
uniform RLOO in the first 25 steps.

The learning rate of a scenario is near the best for uniform RLOO, by area under its curve; a comparison
may sweep it. Targets are shares of the gain in accuracy that a reference run makes in `steps` steps:
uniform, the scenario's own learning rate, other random numbers than those of any compared run.
"""

from __future__ import annotations

from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.protocol import Budget, FloatArray, InputError
from rolloutbench.registry import PARAMETERS, Registry, parse_spec
from simulators.clock import Clock
from simulators.optimizers import SGD, Adam, OptimizerSpec
from simulators.pools import (
    BetaDifficulty,
    Dead,
    Difficulty,
    DifficultySpec,
    FrozenScenario,
    LogitNormal,
    Pool,
    draw_pool,
)
from simulators.replay import NOT_IN_PATHS, ReplayScenario


@dataclass(config=PARAMETERS, frozen=True)
class SnapshotScenario(FrozenScenario):
    """Conditions of a comparison: the prompts, the noise, and what was seen of them before."""

    summary: str = field(repr=False, compare=False)
    difficulty: DifficultySpec = "beta"  # type: ignore[assignment]
    prompts: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    group_size: Annotated[int, Field(ge=1, le=10_000)] = 8
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


@dataclass(config=PARAMETERS, frozen=True)
class LearningScenario:
    """Conditions of a training run: prompts, policy, noise, budget, optimizer and clock."""

    summary: str = field(repr=False, compare=False)
    difficulty: DifficultySpec = "beta"  # type: ignore[assignment]
    prompts: Annotated[int, Field(ge=1)] = 128
    group_size: Annotated[int, Field(ge=1)] = 8
    steps: Annotated[int, Field(ge=1)] = 100
    optimizer: OptimizerSpec = "sgd"  # type: ignore[assignment]
    learning_rate: Annotated[float, Field(gt=0)] = 8.0
    clip: Annotated[float, Field(gt=0)] | None = None
    pool_size: Annotated[int, Field(ge=1)] = 2048
    held_out: Annotated[int, Field(ge=1)] = 512
    noise_ratio: Annotated[float, Field(ge=0, le=1e9)] = 100.0
    kappa: Annotated[float, Field(ge=0)] = 0.01
    dimension: Annotated[int, Field(ge=1)] = 32
    skills: Annotated[int, Field(ge=1)] = 12
    conflict: Annotated[float, Field(ge=0, le=1)] = 0.0
    predictability: Annotated[float, Field(ge=0, le=1)] = 0.5
    feature_noise: Annotated[float, Field(ge=0)] = 0.0
    false_positive: Annotated[float, Field(ge=0, lt=1)] = 0.0
    false_negative: Annotated[float, Field(ge=0, lt=1)] = 0.0
    evaluate_every: Annotated[int, Field(ge=1)] = 5
    clock: Clock = Field(default_factory=Clock, repr=False)

    @property
    def budget(self) -> Budget:
        """What uniform spends in a step."""
        return Budget(self.prompts, self.prompts * self.group_size)

    def __post_init__(self) -> None:
        """A step cannot draw more prompts than there are."""
        if self.pool_size < self.prompts:
            raise InputError(f"pool_size={self.pool_size}: a step draws prompts={self.prompts}")

    @cached_property
    def sigma(self) -> float:
        """Standard deviation of each coordinate of a score's noise, since |phi| = 1."""
        return float(np.sqrt(self.noise_ratio / self.dimension))

    def pools(self, rng: np.random.Generator, replicates: int) -> tuple[Pool, Pool, FloatArray]:
        """Prompts to train on, held-out ones of the same distribution, and the features predictors see."""
        whole = draw_pool(
            self.difficulty,
            rng,
            replicates,
            self.pool_size + self.held_out,
            self.dimension,
            self.skills,
            self.predictability,
            self.conflict,
        )
        train, held_out = whole.split(self.pool_size)
        error = rng.standard_normal(train.features.shape) / np.sqrt(self.dimension)
        return train, held_out, train.features + self.feature_noise * error


Scenario: TypeAlias = SnapshotScenario | ReplayScenario | LearningScenario


def _snapshot(summary: str, difficulty: Difficulty, **conditions: Any) -> SnapshotScenario:
    return SnapshotScenario(summary, difficulty, **conditions)


def _learning(summary: str, difficulty: Difficulty, **conditions: Any) -> LearningScenario:
    return LearningScenario(summary, difficulty, **conditions)


U_SHAPED = BetaDifficulty(0.4, 0.6)
ADAM, PLAIN = Adam(), SGD()


REPLAY = "replay"


class Scenarios(Registry[Scenario]):
    """Where `replay:PATH` stands for `replay[bank=PATH]`."""

    def create(self, spec: str | Scenario) -> Scenario:
        """The scenario that a spec describes."""
        return super().create(_in_brackets(spec) if isinstance(spec, str) else spec)


def _in_brackets(spec: str) -> str:
    kind, colon, path = spec.strip().partition(":")
    if kind != REPLAY or not colon:
        return spec
    if not path or any(letter in path for letter in NOT_IN_PATHS):
        raise InputError(f"scenario '{spec}': replay:PATH is expected, without comma or bracket in the path")
    return f"{REPLAY}[bank={path}]"


def seen_from(folder: Path, spec: str) -> str:
    """A spec whose path, if it has one, was relative to this folder."""
    name, parameters = parse_spec(_in_brackets(spec))
    if name != REPLAY or "bank" not in parameters:
        return spec
    parameters["bank"] = str(folder / parameters["bank"])
    return f"{REPLAY}[{','.join(f'{key}={value}' for key, value in parameters.items())}]"


scenarios: Registry[Scenario] = Scenarios(
    "scenario",
    {
        REPLAY: ReplayScenario(),
        "weak-cold-v1": _learning(
            "A weak policy: Beta(.4, 2.6), mean .13; Adam; cosine .19.",
            BetaDifficulty(0.4, 2.6),
            optimizer=ADAM,
            learning_rate=0.25,
        ),
        "mid-broad-v1": _learning(
            "sigmoid(N(-0.5, 2^2)), mean .43; SGD; cosine .19.", LogitNormal(-0.5, 2.0), learning_rate=12.0
        ),
        "strong-saturating-v1": _learning(
            "A strong policy: Beta(2.6, .4), mean .87; Adam; cosine .17.",
            BetaDifficulty(2.6, 0.4),
            optimizer=ADAM,
            learning_rate=0.15,
        ),
        "u-shaped-v1": _learning(
            "Many prompts near 0 and near 1: Beta(.4, .6), mean .40; SGD; cosine .18.",
            U_SHAPED,
            learning_rate=12.0,
        ),
        "u-shaped-adam-v1": _learning(
            "u-shaped with Adam; cosine .18.", U_SHAPED, optimizer=ADAM, learning_rate=0.25
        ),
        "dead-sixty-v1": _learning(
            "30% never solved, 30% always solved, the rest Beta(1, 1); groups of 64; SGD; cosine .15.",
            Dead(),
            group_size=64,
            noise_ratio=800.0,
            learning_rate=14.0,
        ),
        "unsolvable-heavy-v1": _learning(
            "Half never solved, 10% always, the rest Beta(1, 1); groups of 16; SGD; cosine .15.",
            Dead(0.5, 0.1),
            group_size=16,
            noise_ratio=200.0,
            learning_rate=14.0,
        ),
        "narrow-mid-v1": _learning(
            "All prompts about half solved: Beta(8, 8); SGD; cosine .21.",
            BetaDifficulty(8, 8),
            learning_rate=7.0,
        ),
        "small-pool-v1": _learning(
            "u-shaped, 256 prompts seen fifty times; Adam; cosine .19.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.2,
            pool_size=256,
        ),
        "low-noise-v1": _learning(
            "u-shaped, noise ratio 10; SGD; cosine .38.", U_SHAPED, learning_rate=24.0, noise_ratio=10.0
        ),
        "high-noise-v1": _learning(
            "u-shaped, noise ratio 1,000; SGD; cosine .07.",
            U_SHAPED,
            learning_rate=3.0,
            noise_ratio=1000.0,
        ),
        "conflicting-skills-v1": _learning(
            "u-shaped, skills in opposed pairs; SGD; cosine .10.",
            U_SHAPED,
            learning_rate=7.0,
            conflict=0.8,
        ),
        "small-batch-v1": _learning(
            "u-shaped, 32 prompts a step; Adam; cosine .10.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.2,
            prompts=32,
        ),
        "snapshot-u-shaped-v1": _snapshot(
            "Many prompts near 0 and near 1: Beta(.4, .6), mean .40.", U_SHAPED
        ),
        "snapshot-mid-v1": _snapshot(
            "Most prompts solved about half of the time: Beta(4, 4).", BetaDifficulty(4, 4)
        ),
        "snapshot-weak-v1": _snapshot("A weak policy: Beta(.4, 2.6), mean .13.", BetaDifficulty(0.4, 2.6)),
        "snapshot-strong-v1": _snapshot(
            "A strong policy: Beta(2.6, .4), mean .87.", BetaDifficulty(2.6, 0.4)
        ),
        "snapshot-dead-sixty-v1": _snapshot(
            "30% never solved, 30% always solved, the rest Beta(1, 1).", Dead()
        ),
        "snapshot-logit-normal-v1": _snapshot("sigmoid(N(-0.5, 2^2)), mean .43.", LogitNormal(-0.5, 2.0)),
        "snapshot-cold-start-v1": _snapshot("u-shaped, and nothing seen before.", U_SHAPED, visits=0),
        "snapshot-well-known-v1": _snapshot(
            "u-shaped, each prompt seen four times before.", U_SHAPED, visits=4
        ),
        "snapshot-low-noise-v1": _snapshot("u-shaped, noise ratio 3.", U_SHAPED, noise_ratio=3.0),
        "snapshot-high-noise-v1": _snapshot("u-shaped, noise ratio 300.", U_SHAPED, noise_ratio=300.0),
    },
)
SNAPSHOT_SCENARIOS = (
    "snapshot-u-shaped-v1",
    "snapshot-weak-v1",
    "snapshot-strong-v1",
    "snapshot-dead-sixty-v1",
)
DEFAULT_SCENARIOS = ("weak-cold-v1", "u-shaped-v1", "strong-saturating-v1", "dead-sixty-v1")
