"""Named, versioned conditions. A number may change only together with the version in the name.

Names that begin with `snapshot-` are of one step at frozen success probabilities (snapshot.py), the
others of a whole training run (learning.py); `replay` is a step on recorded rollouts (replay.py), and its
numbers are the bank's. `measured` and `snapshot-measured` have the prompts of a user's file of pass rates
(rolloutbench/pass_rates.py) and everything else as the others have it.

`noise_ratio` is d sigma^2 / |phi|^2, the noise of one rollout's score against its signal. It is best read
as the cosine between a batch's gradient and the true one, which every comparison reports, and which the
summaries of the learning scenarios state for uniform RLOO in the first 25 steps. `success_noise` is the
noise of a correct rollout in units of that of a wrong one: where a prompt has one right answer of a few
tokens all correct rollouts are the same, and have none.

The learning rate of a scenario is near the best for uniform RLOO and the scenario's own optimizer, by area
under its curve. A comparison trains all of them by Adam unless told otherwise, at a rate that fits it
(conditions.py), and sweeps it. Targets are shares of the gain in accuracy that a reference run makes in
`steps` steps: uniform, at the learning rate that is swept from, with other random numbers than those of any
compared run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from pydantic import Field, SkipValidation, ValidationError
from pydantic.dataclasses import dataclass

from rolloutbench.estimators import GRPO
from rolloutbench.pass_rates import PassRateFile, PassRates
from rolloutbench.protocol import Budget, Estimator, FloatArray, InputError, NoVerdict
from rolloutbench.registry import PARAMETERS, Registry, parse_spec
from simulators.clock import Clock
from simulators.conditions import ADAM_RATE, OF_GRPO, SGD_RATE, Condition, ConditionSpec, conditions
from simulators.credit import Credit
from simulators.optimizers import SGD, Adam, Optimizer, OptimizerSpec
from simulators.pools import (
    BetaDifficulty,
    Dead,
    Difficulty,
    DifficultySpec,
    FrozenScenario,
    LogitNormal,
    Measured,
    Pool,
    deal_features,
    draw_features,
    draw_pool,
)
from simulators.replay import NOT_IN_PATHS, ReplayScenario
from simulators.traced import TracedDifficulty, TracedScenario
from simulators.verdicts import Verdicts


@dataclass(config=PARAMETERS, frozen=True)
class SnapshotScenario(FrozenScenario):
    """Conditions of a comparison: the prompts, the noise, and what was seen of the prompts before."""

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
    success_noise: Annotated[float, Field(ge=0, le=1000)] = 1.0
    kappa: Annotated[float, Field(ge=0)] = 0.01
    dimension: Annotated[int, Field(ge=1)] = 32
    skills: Annotated[int, Field(ge=1)] = 12
    conflict: Annotated[float, Field(ge=0, le=1)] = 0.0
    predictability: Annotated[float, Field(ge=0, le=1)] = 0.5
    feature_noise: Annotated[float, Field(ge=0)] = 0.0
    false_positive: Annotated[float, Field(ge=0, lt=1)] = 0.0
    false_negative: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lost: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    lost_bias: Annotated[float, Field(ge=1, le=1000)] = 2.0
    no_verdict: NoVerdict = "drop"
    parts: Annotated[int, Field(ge=1, le=64)] = 1
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    staleness: Annotated[int, Field(ge=0, le=1000)] = 0
    condition: ConditionSpec | None = None
    evaluate_every: Annotated[int, Field(ge=1)] = 5
    clock: Clock = Field(default_factory=Clock, repr=False)

    @property
    def budget(self) -> Budget:
        """Budget of a step: what uniform spends in it."""
        return Budget(self.prompts, self.prompts * self.group_size)

    def under(self, condition: Condition, learning_rate: float | None = None) -> Self:
        """Return the scenario with a condition's optimizer, at a learning rate that fits, or the one given.

        Estimator and aggregation are then the condition's, whatever a study says.
        """
        made = self.learning_by(condition.optimizer, condition.estimator)
        rate = made.learning_rate if learning_rate is None else learning_rate
        return replace(made, condition=condition, learning_rate=rate)

    def learning_by(self, optimizer: Optimizer, estimator: Estimator) -> Self:
        """Return the scenario with another optimizer, at a learning rate that fits it and the estimator."""
        own = type(self.optimizer) is type(optimizer)
        adam = isinstance(optimizer, Adam)
        rate = self.learning_rate if own else ADAM_RATE if adam else SGD_RATE
        if not adam and isinstance(estimator, GRPO):
            rate *= OF_GRPO
        return replace(self, optimizer=optimizer, learning_rate=rate)

    @cached_property
    def verdicts(self) -> Verdicts:
        """What the verifier says, and what is done with rollouts of which it says nothing."""
        errors = self.false_positive, self.false_negative
        return Verdicts(*errors, self.lost, self.lost_bias, self.no_verdict)

    @cached_property
    def credit(self) -> Credit | None:
        """Rewards of several levels; None where a rollout has one part, and its reward is 0 or 1."""
        return None if self.parts == 1 else Credit(self.parts, self.threshold)

    def check_verdicts(self) -> None:
        """Raise InputError where rewards of several levels meet what is only defined for two."""
        alone = {"lost": 0.0, "false_positive": 0.0, "false_negative": 0.0, "success_noise": 1.0}
        for name, allowed in alone.items():
            value = getattr(self, name)
            if self.parts > 1 and value != allowed:
                raise InputError(f"{name}={value:g}: with parts={self.parts} only {allowed:g} is allowed")

    def __post_init__(self) -> None:
        """Raise InputError where a step would draw more prompts than the pool has, or verdicts do not fit."""
        self.check_verdicts()
        if self.pool_size < self.prompts:
            raise InputError(f"pool_size={self.pool_size}: a step draws prompts={self.prompts}")

    @property
    def epochs(self) -> float:
        """How often uniform sees each prompt in its steps."""
        return self.steps * self.prompts / self.pool_size

    @property
    def caption(self) -> str:
        """Prompts, epochs and optimizer, in a line."""
        return (
            f"pool of {self.pool_size:,} prompts ({self.epochs:.3g} epochs), "
            f"{_optimizer(self.optimizer)} at learning rate {self.learning_rate:g}"
        )

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


def _optimizer(optimizer: Optimizer) -> str:
    """Name of an optimizer, with what is not its default."""
    changed = [
        f"{entry.name}={getattr(optimizer, entry.name):g}"
        for entry in fields(optimizer)  # type: ignore[arg-type]
        if getattr(optimizer, entry.name) != entry.default
    ]
    return type(optimizer).__name__ + (f"[{','.join(changed)}]" if changed else "")


MOST_PROMPTS = 128
"""Prompts that a step takes of a file by default, if it has as many."""
LEARNING_RATES: dict[type[Optimizer], float] = {SGD: 8.0, Adam: 0.25}
"""Learning rates at measured prompts by default: those that the named scenarios have about."""


@dataclass(config=PARAMETERS, frozen=True, kw_only=True)
class FromPassRates(PassRateFile):
    """What both scenarios of measured prompts have: the file is read once, and its numbers are kept."""

    data: SkipValidation[PassRates | None] = field(default=None, repr=False, compare=False)

    def open(self) -> PassRates | None:
        """The prompts, read if they were not; None where no file is named.

        Raises InputError where the file cannot be used.
        """
        if self.file is None or self.data is not None:
            return self.data
        object.__setattr__(self, "file", self.file.expanduser())
        data = self.read()
        object.__setattr__(self, "data", data)
        object.__setattr__(
            self, "file", Path(os.path.abspath(self.file))
        )  # studies are run again from elsewhere
        return data

    @property
    def measured(self) -> Measured:
        """The prompts as a distribution of difficulties. Raises InputError where no file is named."""
        data = self.read() if self.data is None else self.data
        return Measured(data.rates, data.trials, data.lengths)

    def name_of(self, spec: str) -> str:
        """What results call the scenario of a spec: without the file and its columns.

        Raises InputError where no file is named.
        """
        if self.data is None:
            self.read()  # says what is missing
        kind, parameters = parse_spec(spec)
        own = {entry.name for entry in fields(FromPassRates)}
        rest = ",".join(f"{key}={value}" for key, value in parameters.items() if key not in own)
        label = f"{kind}:{self.label}" if self.label else kind
        return "".join(f"{label}[{rest}]".split()) if rest else label

    def spec_of(self, name: str) -> str:
        """What makes the scenario of this name again, from anywhere."""
        label, parameters = parse_spec(name)
        named = [entry.name for entry in fields(PassRateFile)]
        reading = {key: getattr(self, key) for key in named if getattr(self, key) not in (None, False)}
        if any(letter in str(self.file) for letter in NOT_IN_PATHS):
            raise InputError(f"{self.file}: a file is expected whose path has neither comma nor bracket")
        said = [f"{key}={value}" for key, value in {**reading, **parameters}.items()]
        return f"{label.partition(':')[0]}[{','.join(said)}]"

    @property
    def source(self) -> str:
        """Where the prompts come from and what was made of them, in a line."""
        data = self.data
        if data is None or self.file is None:
            return ""
        rates = data.rates
        said = [f"pass rates of {len(rates):,} prompts in {self.file.name}, mean {rates.mean():.3g}"]
        said += data.notes
        ends = f"{int((rates == 0).sum()):,} at 0 and {int((rates == 1).sum()):,} at 1"
        if data.trials is None:
            column = f"trials={data.unused}" if data.unused else "a column of trials"
            exact = f"taken as exact: {ends} never change; with {column} they would be estimates"
            said.append(exact if ((rates == 0) | (rates == 1)).any() else "taken as exact")
        else:
            alpha, beta = self.measured.prior
            least, most = int(data.trials.min()), int(data.trials.max())
            trials = f"{least}" if least == most else f"{least} to {most}"
            said.append(
                f"from {trials} trials each: {ends} are estimates like the others, and p is drawn given "
                f"them and the prior Beta({alpha:.2g}, {beta:.2g}) of all"
            )
        return ", ".join(said)


@dataclass(config=PARAMETERS, frozen=True)
class MeasuredScenario(LearningScenario, FromPassRates):
    """A training run on the prompts of a file of pass rates: `measured[file=PATH]`, and see `PassRateFile`.

    The pool is the file. `pool_size`: another number of prompts, drawn from it with replacement. Held-out
    prompts are drawn from it too, with features of their own. `prompts`: of a step, by default 128 or all.
    `learning_rate`: by default the optimizer's of `LEARNING_RATES`. Mean lengths in the file are those of
    the clock, whatever p becomes. The scenario without a file is only a name.
    """

    summary: str = field(default="Your own prompts: measured[file=PATH].", repr=False, compare=False)
    difficulty: DifficultySpec = field(default=BetaDifficulty(), repr=False)
    prompts: Annotated[int, Field(ge=1)] | None = None  # type: ignore[assignment]
    learning_rate: Annotated[float, Field(gt=0)] | None = None  # type: ignore[assignment]
    pool_size: Annotated[int, Field(ge=1)] | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Read the file, so that what is wrong with it is said at once, and what fits it is known."""
        self.check_verdicts()
        data = self.open()
        if data is None:
            return
        available = len(data.rates)
        size = self.pool_size or available
        prompts = self.prompts or min(MOST_PROMPTS, size)
        if size < prompts:
            raise InputError(
                f"prompts={prompts}: {self.file} has {available}, and a step draws each at most once: "
                "pool_size (--pool-size) draws more, with replacement"
                if size == available
                else f"pool_size={size}: a step draws prompts={prompts}"
            )
        found: dict[str, Any] = {
            "difficulty": self.measured,
            "pool_size": size,
            "prompts": prompts,
            "learning_rate": self.learning_rate or LEARNING_RATES.get(type(self.optimizer), 8.0),
        }
        if data.lengths is not None:
            found["clock"] = self.clock.with_room_for(data.lengths)
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def pools(self, rng: np.random.Generator, replicates: int) -> tuple[Pool, Pool, FloatArray]:
        """The file's prompts to train on, held-out ones like them, and the features predictors see."""
        measured, size = self.measured, self.pool_size
        assert size is not None
        features, ease = draw_features(
            rng,
            replicates,
            size + self.held_out,
            self.dimension,
            self.skills,
            self.predictability,
            self.conflict,
        )
        whole = np.tile(np.arange(len(measured.rates)), (replicates, 1))
        own = whole if size == len(measured.rates) else measured.draw(rng, (replicates, size))
        train = deal_features(measured, rng, own, features[:, :size], ease[:, :size])
        other = measured.draw(rng, (replicates, self.held_out))
        held_out = deal_features(measured, rng, other, features[:, size:], ease[:, size:])
        error = rng.standard_normal(train.features.shape) / np.sqrt(self.dimension)
        return train, held_out, train.features + self.feature_noise * error

    @property
    def caption(self) -> str:
        """Caption with the file, and how its prompts became the pool."""
        assert self.data is not None
        whole = self.pool_size == len(self.data.rates)
        lengths = ", lengths of rollouts as measured" if self.data.lengths is not None else ""
        return f"{self.source}; {'all in the' if whole else 'drawn into a'} {super().caption}{lengths}"


@dataclass(config=PARAMETERS, frozen=True)
class MeasuredSnapshot(SnapshotScenario, FromPassRates):
    """One step on prompts of a file of pass rates: `snapshot-measured[file=PATH]`, and see `PassRateFile`.

    `prompts`: how many each replicate takes at random, each at most once; by default 128 or all.
    """

    summary: str = field(default="Your own prompts: snapshot-measured[file=PATH].", repr=False, compare=False)
    difficulty: DifficultySpec = field(default=BetaDifficulty(), repr=False)
    prompts: Annotated[int, Field(ge=2, le=1_000_000)] | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Read the file, so that what is wrong with it is said at once."""
        if self.lengths is not None:
            raise InputError(f"lengths={self.lengths}: a snapshot has no clock")
        data = self.open()
        if data is not None:
            size = self.prompts or min(MOST_PROMPTS, len(data.rates))
            object.__setattr__(self, "difficulty", self.measured)
            object.__setattr__(self, "prompts", size)
            self.check(size)

    def check(self, size: int) -> None:
        """Raise InputError where the file has fewer prompts than a replicate takes."""
        available = len(self.measured.rates)
        if size > available:
            raise InputError(f"prompts={size}: {self.file} has {available}")

    def pool(self, rng: np.random.Generator, replicates: int, size: int) -> Pool:
        """`size` prompts of the file for each replicate, each prompt at most once."""
        measured = self.measured
        order = rng.permuted(np.tile(np.arange(len(measured.rates)), (replicates, 1)), axis=1)
        features, ease = draw_features(
            rng, replicates, size, self.dimension, self.skills, self.predictability
        )
        return deal_features(measured, rng, np.ascontiguousarray(order[:, :size]), features, ease)

    def caption(self, size: int) -> str:
        """Caption with the file, and which of its prompts a replicate takes."""
        assert self.data is not None
        taken = "all" if size == len(self.data.rates) else f"{size} at random"
        return f"{self.source}; {taken} in a replicate"


Scenario: TypeAlias = SnapshotScenario | ReplayScenario | LearningScenario | TracedScenario
"""A scenario of any kind; those of measured prompts are kinds of the first and the last."""


def _snapshot(summary: str, difficulty: Difficulty, **conditions: Any) -> SnapshotScenario:
    return SnapshotScenario(summary, difficulty, **conditions)


def _learning(summary: str, difficulty: Difficulty, **conditions: Any) -> LearningScenario:
    return LearningScenario(summary, difficulty, **conditions)


U_SHAPED = BetaDifficulty(0.4, 0.6)
ADAM, PLAIN = Adam(), SGD()


REPLAY = "replay"
MEASURED, MEASURED_SNAPSHOT = "measured", "snapshot-measured"
TRACED = "traced"
PATHS = {REPLAY: "bank", MEASURED: "file", MEASURED_SNAPSHOT: "file"}
"""Scenarios with a parameter that is a path."""


class Scenarios(Registry[Scenario]):
    """Registry of scenarios, in which `replay:PATH` stands for `replay[bank=PATH]`.

    `condition=NAME` also changes optimizer and learning rate: see `LearningScenario.under`.
    """

    def create(self, spec: str | Scenario) -> Scenario:
        """Make the scenario that a spec describes. Raises InputError where it describes none."""
        if not isinstance(spec, str):
            return spec
        name, parameters = parse_spec(_in_brackets(spec))
        condition = parameters.pop("condition", None)
        if condition is None:
            return super().create(_in_brackets(spec))
        made = super().create(said(name, parameters))
        if not isinstance(made, LearningScenario):
            raise InputError(f"scenario '{name}': condition={condition}: only training runs have one")
        given = made.learning_rate if "learning_rate" in parameters else None
        return made.under(conditions.create(condition), given)


def said(name: str, parameters: Mapping[str, object]) -> str:
    """A spec: the name, and its parameters in brackets where there are some."""
    return (
        f"{name}[{','.join(f'{key}={value}' for key, value in parameters.items())}]" if parameters else name
    )


def under_condition(spec: str, condition: str) -> str:
    """The spec of a scenario under another condition. Raises InputError where it has one already."""
    name, parameters = parse_spec(_in_brackets(spec))
    if "condition" in parameters:
        raise InputError(f"scenario '{spec}' has a condition of its own")
    return said(name, {**parameters, "condition": condition})


def says_how_it_learns(spec: str) -> bool:
    """Whether a scenario's spec names an optimizer, a learning rate or a condition of its own."""
    _, parameters = parse_spec(_in_brackets(spec))
    return not parameters.keys().isdisjoint({"optimizer", "learning_rate", "condition"})


def _in_brackets(spec: str) -> str:
    kind, colon, path = spec.strip().partition(":")
    if kind != REPLAY or not colon:
        return spec
    if not path or any(letter in path for letter in NOT_IN_PATHS):
        raise InputError(f"scenario '{spec}': replay:PATH is expected, without comma or bracket in the path")
    return f"{REPLAY}[bank={path}]"


def seen_from(folder: Path, spec: str) -> str:
    """A spec in which the path, if it has one, is taken from `folder`, to which it was relative."""
    name, parameters = parse_spec(_in_brackets(spec))
    key = PATHS.get(name)
    if key is None or key not in parameters:
        return spec
    parameters[key] = str(folder / Path(parameters[key]).expanduser())
    return said(name, parameters)


def name_of(spec: str, made: Scenario) -> str:
    """What results call the scenario that a spec made: its path is no part of it."""
    if isinstance(made, ReplayScenario):
        return made.name
    return made.name_of(spec) if isinstance(made, FromPassRates) else "".join(spec.split())


def spec_of(name: str, made: object) -> str:
    """What makes the scenario of this name again, from anywhere."""
    if isinstance(made, ReplayScenario):
        return made.spec
    return made.spec_of(name) if isinstance(made, FromPassRates) else name


def notes(chosen: Mapping[str, Any]) -> list[str]:
    """What was made of users' files, to be said before anything runs: a line a scenario."""
    return [f"{name}: {made.source}" for name, made in chosen.items() if isinstance(made, FromPassRates)]


def from_pass_rates(
    kind: str, pool_size: int | None = None, **reading: Any
) -> MeasuredScenario | MeasuredSnapshot:
    """Scenario `measured` or `snapshot-measured` of a file that may have any path, and columns any name.

    `reading` are the fields of `PassRateFile`. Raises InputError where the file cannot be used.
    """
    made = scenarios.create(kind)
    assert isinstance(made, MeasuredScenario | MeasuredSnapshot)
    if isinstance(made, MeasuredSnapshot):
        if pool_size is not None:
            raise InputError(f"pool_size={pool_size}: a snapshot draws each prompt of the file at most once")
        changes = reading
    else:
        changes = {"pool_size": pool_size, **reading}
    try:
        return replace(made, **changes)
    except ValidationError as error:
        problem = error.errors()[0]
        inner = problem.get("ctx", {}).get("error")
        where = ".".join(map(str, problem["loc"]))
        if isinstance(inner, InputError):
            raise inner from None
        raise InputError(f"{where}={problem['input']}: {problem['msg']}") from None


scenarios: Registry[Scenario] = Scenarios(
    "scenario",
    {
        REPLAY: ReplayScenario(),
        MEASURED: MeasuredScenario(),
        TRACED: TracedScenario(),
        MEASURED_SNAPSHOT: MeasuredSnapshot(),
        "weak-cold-v1": _learning(
            "A weak policy: Beta(.4, 2.6), mean .13; cosine .19.",
            BetaDifficulty(0.4, 2.6),
            optimizer=ADAM,
            learning_rate=0.25,
        ),
        "mid-broad-v1": _learning(
            "sigmoid(N(-0.5, 2^2)), mean .43; cosine .19.", LogitNormal(-0.5, 2.0), learning_rate=12.0
        ),
        "strong-saturating-v1": _learning(
            "A strong policy: Beta(2.6, .4), mean .87; cosine .17.",
            BetaDifficulty(2.6, 0.4),
            optimizer=ADAM,
            learning_rate=0.15,
        ),
        "u-shaped-v1": _learning(
            "Many prompts near 0 and near 1: Beta(.4, .6), mean .40; cosine .18.",
            U_SHAPED,
            learning_rate=12.0,
        ),
        "u-shaped-adam-v1": _learning(
            "u-shaped with Adam; cosine .18.", U_SHAPED, optimizer=ADAM, learning_rate=0.25
        ),
        "dead-sixty-v1": _learning(
            "30% never solved, 30% always solved, the rest Beta(1, 1); groups of 64; cosine .15.",
            Dead(),
            group_size=64,
            noise_ratio=800.0,
            learning_rate=14.0,
        ),
        "unsolvable-heavy-v1": _learning(
            "Half never solved, 10% always, the rest Beta(1, 1); groups of 16; cosine .15.",
            Dead(0.5, 0.1),
            group_size=16,
            noise_ratio=200.0,
            learning_rate=14.0,
        ),
        "narrow-mid-v1": _learning(
            "All prompts about half solved: Beta(8, 8); cosine .21.",
            BetaDifficulty(8, 8),
            learning_rate=7.0,
        ),
        "small-pool-v1": _learning(
            "u-shaped, 256 prompts seen fifty times; cosine .19.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.2,
            pool_size=256,
        ),
        "low-noise-v1": _learning(
            "u-shaped, noise ratio 10; cosine .38.", U_SHAPED, learning_rate=24.0, noise_ratio=10.0
        ),
        "high-noise-v1": _learning(
            "u-shaped, noise ratio 1,000; cosine .07.",
            U_SHAPED,
            learning_rate=3.0,
            noise_ratio=1000.0,
        ),
        "conflicting-skills-v1": _learning(
            "u-shaped, skills in opposed pairs; cosine .10.",
            U_SHAPED,
            learning_rate=7.0,
            conflict=0.8,
        ),
        "small-batch-v1": _learning(
            "u-shaped, 32 prompts a step; cosine .10.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.2,
            prompts=32,
        ),
        "first-epoch-v1": _learning(
            "u-shaped, a pool so large that no epoch completes; cosine .20.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.25,
            pool_size=17_000,
        ),
        "lossy-v1": _learning(
            "u-shaped, a seventh of the rollouts lost, wrong ones three times as often; cosine .18.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.25,
            lost=1 / 7,
            lost_bias=3.0,
        ),
        "stale-v1": _learning(
            "u-shaped, rollouts by the policy of four steps ago; cosine .20.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.25,
            staleness=4,
        ),
        "traced-start-v1": _learning(
            "1,209 math prompts as a run of Qwen2.5-Math (1.5B) found them: mean .33; cosine .20.",
            TracedDifficulty(),
            optimizer=ADAM,
            learning_rate=0.25,
            pool_size=1209,
        ),
        "partial-credit-v1": _learning(
            "u-shaped, a rollout of two parts is worth 0, 1/2 or 1; cosine .26.",
            U_SHAPED,
            optimizer=ADAM,
            learning_rate=0.25,
            parts=2,
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
