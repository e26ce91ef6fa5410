"""What `compare` describes: allocators at equal cost, in training runs or in snapshots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError

from rolloutbench.allocators import all_specs, allocators
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.pass_rates import NoColumnError
from rolloutbench.protocol import Budget, InputError
from rolloutbench.studies.defaults import DEFAULT_ALLOCATORS, RATE_FACTORS, SNAPSHOT_ALLOCATORS
from rolloutbench.studies.description import (
    AllocatorField,
    Description,
    Flag,
    PriceField,
    RateField,
    choose,
    choose_scenarios,
    wrong,
)
from rolloutbench.studies.kinds.learning import LearningStudy
from rolloutbench.studies.kinds.snapshot import SnapshotStudy
from rolloutbench.studies.study import Study
from simulators.clock import GPUS
from simulators.conditions import ALL, OPTIMIZER, TRAINERS, conditions
from simulators.optimizers import optimizers
from simulators.pools import FrozenScenario
from simulators.replay import ReplayScenario
from simulators.scenarios import (
    DEFAULT_SCENARIOS,
    MEASURED,
    MEASURED_SNAPSHOT,
    SNAPSHOT_SCENARIOS,
    MeasuredSnapshot,
    from_pass_rates,
    says_how_it_learns,
    spec_of,
    under_condition,
)
from simulators.traced import TracedScenario

REPLICATES = {(False, False): 16, (False, True): 4, (True, False): 128, (True, True): 16}
"""Replicates by default: of training runs or else of snapshots, for a first look or not."""


class Comparison(Description):
    """Allocators at equal cost, in training runs or in snapshots."""

    study: Literal["compare"] = "compare"
    allocators: Annotated[
        AllocatorField,
        Field(
            min_length=1,
            description="Repeatable; see `list allocator`, or `all`. `uniform` is always in.",
        ),
        Flag("--allocator", "-a", metavar="SPEC", default=", ".join(DEFAULT_ALLOCATORS)),
    ] = None
    optimizer: Annotated[
        str | None,
        Field(
            description="What moves the policy: `adam` or `sgd`. A scenario whose spec names an optimizer, a "
            "learning rate or a condition keeps its own."
        ),
        Flag(metavar="SPEC", default=OPTIMIZER),
    ] = None
    conditions: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            exclude=True,
            description="Estimator, aggregation and optimizer by one name, as `rloo-prompt-sgd`; several, or "
            "`all` of the grid: every scenario under each. Repeatable; see `list condition`.",
        ),
        Flag("--condition", metavar="NAME", default=TRAINERS),
    ] = None
    prompts: Annotated[
        int | None,
        Field(ge=2, le=1_000_000, description="Prompts per step."),
        Flag(default="the scenario's"),
    ] = None
    group_size: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="Rollouts per prompt on average."),
        Flag(default="the scenario's"),
    ] = None
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Training steps of uniform; others pay for as many rollouts.",
        ),
        Flag(default="the scenario's"),
    ] = None
    learning_rates: Annotated[
        RateField,
        Field(
            min_length=1,
            description="Factors of the scenario's learning rate: each allocator is judged at its own best, "
            "chosen on other replicates than those it is judged by. `1`: all at the common rate.",
        ),
        Flag(metavar="FACTORS", default=",".join(f"{factor:g}" for factor in RATE_FACTORS), commas=True),
    ] = None
    replicates: Annotated[
        int | None,
        Field(ge=2, le=1_000_000, description="Paired seeds."),
        Flag(default="16 training runs, or 128 snapshots"),
    ] = None
    sort: Annotated[
        str | None,
        Field(description="Metric that ranks: see `list metric`."),
        Flag(default="area_over_rollouts, or snr for snapshots"),
    ] = None
    price_per_gpu_hour: Annotated[
        PriceField,
        Field(
            description=f"Training runs: show what 90% of the gain costs on the {GPUS} GPUs of the clock.",
        ),
        Flag(metavar="PRICE"),
    ] = None
    snapshot: Annotated[
        bool, Field(description="One step at frozen p instead of training: the default snapshots.")
    ] = False
    draws: Annotated[
        int | None,
        Field(
            ge=2,
            le=100_000,
            description="Snapshots: estimate moments from this many steps per replicate, not by enumeration. "
            "Allocators that are not one-shot always need it.",
        ),
        Flag(default="64 for those"),
    ] = None
    quick: Annotated[
        bool,
        Field(
            exclude=True,
            description="A first look: 4 training runs, all at the common learning rate, or 16 snapshots; "
            "unless other options say more.",
        ),
    ] = False
    pass_rates: Annotated[
        str | None,
        Field(
            description="Your own prompts: CSV, TSV, JSON, JSON lines (these also as .gz) or Parquet with "
            "measured pass rates. Short for `-s measured[file=FILE,...]`, among snapshots "
            "`snapshot-measured[...]`; the options to `--drop-bad-rows` below say how it is read."
        ),
        Flag(metavar="FILE"),
    ] = None
    column: Annotated[
        str | None,
        Field(
            description="Its column of pass rates (0.375, 37.5%, 3/8), of successes, or of rewards ([0,1,1], "
            "or one a row); `a.b` is field b of a."
        ),
        Flag(default="pass_rate, rewards or reward"),
    ] = None
    trials: Annotated[
        str | None,
        Field(
            description="Its column of rollouts per prompt, to remove sampling error; else rates are exact."
        ),
    ] = None
    lengths: Annotated[
        str | None, Field(description="Its column of mean tokens of a rollout, for the clock.")
    ] = None
    id: Annotated[
        str | None,
        Field(
            description="Its column of prompts' names; rows of one name are one prompt. `-`: each row is one."
        ),
        Flag(default="id, prompt_id, prompt ..."),
    ] = None
    unit: Annotated[
        Literal["rate", "percent", "count"] | None,
        Field(description="What its numbers are, where they do not say it."),
    ] = None
    pool_size: Annotated[
        int | None,
        Field(ge=1, description="Prompts drawn from the file, with replacement."),
        Flag(default="the pool is the file"),
    ] = None
    drop_bad_rows: Annotated[bool, Field(description="Go on without rows that cannot be used.")] = False

    of_pass_rates: ClassVar[tuple[str, ...]] = (
        *("column", "trials", "lengths", "id", "unit", "pool_size", "drop_bad_rows"),
    )
    """Fields that say how the file of pass rates is read."""

    @classmethod
    def of(cls, given: Mapping[str, Any], file: Path | None = None, *, options: bool = True) -> Self:
        """Describe a study as any; one condition is short for its estimator, aggregation and optimizer.

        Raises InputError naming the key, also where one of the three is given beside it.
        """
        made = super().of(given, file, options=options)
        if made.conditions is None or len(made.conditions) > 1 or made.conditions == [ALL]:
            return made
        with made.named("conditions"):
            condition = conditions.create(made.conditions[0])
        for key in condition.parts:
            if key in made.model_fields_set:
                raise wrong(
                    f"{made.where(key)} {getattr(made, key)}: {made.where('conditions')} {condition.name} "
                    "says that; one of the two is expected"
                )
        return made.model_copy(update={**condition.parts, "conditions": None})

    @classmethod
    def _seen_from(cls, folder: Path, read: dict[str, Any]) -> dict[str, Any]:
        if isinstance(read.get("pass_rates"), str):
            read["pass_rates"] = str(folder / read["pass_rates"])
        return super()._seen_from(folder, read)

    def build(self) -> SnapshotStudy | LearningStudy:
        """Snapshots, if its scenarios are. Raises InputError where names or their combination are wrong."""
        chosen = self._under_conditions(self._scenarios())
        one_step = any(isinstance(scenario, FrozenScenario) for scenario in chosen.values())
        specs = self.allocators or (SNAPSHOT_ALLOCATORS if one_step else DEFAULT_ALLOCATORS)
        specs = [name for spec in specs for name in (all_specs() if spec == "all" else [spec])]
        common = self._common(REPLICATES[one_step, self.quick])
        with self.named("allocators"):
            common["allocators"] = choose(allocators, [BASELINE, *specs], implied=BASELINE)
        for name, made in chosen.items():
            own = getattr(made, "condition", None)
            rule = common["estimator"] if own is None else own.estimator
            self.check_group_size(self.group_size or made.group_size, rule, name)
        return self._snapshots(chosen, common) if one_step else self._training(chosen, common)

    def _snapshots(self, chosen: dict[str, Any], common: dict[str, Any]) -> SnapshotStudy:
        for key in ("steps", "learning_rates", "optimizer", "conditions", "price_per_gpu_hour"):
            if getattr(self, key):
                raise InputError(f"{self.where(key)}: a snapshot does not train; see --help")
        sizes = {
            (self.prompts or made.prompts, self.group_size or made.group_size) for made in chosen.values()
        }
        if len(sizes) > 1:
            raise wrong(
                f"{self.where('scenarios')} {', '.join(chosen)}: snapshots are compared at one "
                "budget; the same prompts and group_size are expected"
            )
        ((size, each),) = sizes
        for made in chosen.values():
            if isinstance(made, ReplayScenario | MeasuredSnapshot):
                with self.named("prompts" if self.prompts else "scenarios"):
                    made.check(size)
        budget = Budget(size, size * each)
        return SnapshotStudy(**common, scenarios=chosen, budget=budget, draws=self.draws)

    def _training(self, chosen: dict[str, Any], common: dict[str, Any]) -> LearningStudy:
        if self.draws is not None:
            raise InputError(f"{self.where('draws')} {self.draws}: only snapshots have moments; see --help")
        changes = {"prompts": self.prompts, "group_size": self.group_size, "steps": self.steps}
        changes = {key: value for key, value in changes.items() if value is not None}
        rates = tuple(sorted({1.0, *(self.learning_rates or ([] if self.quick else RATE_FACTORS))}))
        with self.named("optimizer"):
            optimizer = optimizers.create(self.optimizer or OPTIMIZER)
        rule = common["estimator"]
        try:
            chosen = {
                name: dataclasses.replace(
                    made if says_how_it_learns(name) else made.learning_by(optimizer, rule), **changes
                )
                for name, made in chosen.items()
            }
        except ValidationError as error:
            problem = error.errors()[0]
            inner = problem.get("ctx", {}).get("error", problem["msg"])
            given = ", ".join(f"{self.where(key)} {value}" for key, value in changes.items())
            raise InputError(f"{given}: {inner}") from None
        return LearningStudy(**common, scenarios=chosen, rates=rates)

    def resolved(self, study: Study) -> dict[str, Any]:
        """The content of a TOML file that describes it, with the allocators by name."""
        chosen = super().resolved(study) | {"allocators": list(study.allocators)}
        if isinstance(study, LearningStudy):
            chosen |= {"optimizer": self.optimizer or OPTIMIZER, "learning_rates": list(study.rates)}
        if self.conditions:  # the scenarios say it, and where their prompts are
            for key in ("pass_rates", *self.of_pass_rates):
                chosen.pop(key, None)
        elif self.pass_rates is not None:
            chosen["pass_rates"] = str(Path(self.pass_rates).resolve())
        return self._in_order(chosen)

    def record(self, study: Study) -> dict[str, Any]:
        """What is recorded of any study, and the price that its costs are shown at."""
        priced = {} if self.price_per_gpu_hour is None else {"price_per_gpu_hour": self.price_per_gpu_hour}
        return super().record(study) | priced

    def _scenarios(self) -> dict[str, Any]:
        """Scenarios by name, and `measured` from a file of pass rates; all are of one kind."""
        defaults = SNAPSHOT_SCENARIOS if self.snapshot else DEFAULT_SCENARIOS
        with self.named("scenarios"):
            chosen = choose_scenarios(self.scenarios or ([] if self.pass_rates else defaults))
        for name, made in chosen.items():
            if isinstance(made, TracedScenario):
                raise wrong(
                    f"{self.where('scenarios')} {name}: that run has happened, whoever allocates: it is for "
                    "`rolloutbench predict`"
                )
        one_step = {isinstance(made, FrozenScenario) for made in chosen.values()}
        if len(one_step | ({True} if self.snapshot else set())) > 1:
            raise wrong(
                f"{self.where('scenarios')} {', '.join(chosen)}: training runs and snapshots answer "
                "different questions; one kind is expected"
            )
        own, reading = (
            self._measured(self.snapshot or True in one_step),
            {key: getattr(self, key) for key in self.of_pass_rates},
        )
        if own is None:
            for key, value in reading.items():
                if value is not None and value is not False:
                    raise wrong(f"{self.where(key)} {value}: needs {self.option('pass_rates')}")
            return chosen
        if own in chosen:
            raise wrong(f"{self.where('pass_rates')} {self.pass_rates}: scenario '{own}' is given twice")
        try:
            made = from_pass_rates(own, file=self.pass_rates, **reading)
        except InputError as error:
            key = error.parameter if isinstance(error, NoColumnError) else "pass_rates"
            raise wrong(f"{self.where(key)}: {error}") from None
        return chosen | {own: made}

    def _under_conditions(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Every scenario under each of the conditions, where some are given."""
        if not self.conditions or any(isinstance(made, FrozenScenario) for made in chosen.values()):
            return chosen
        with self.named("conditions"):
            named = [
                name for one in self.conditions for name in (conditions.builtin if one == ALL else [one])
            ]
            return choose_scenarios(
                under_condition(spec_of(name, made), conditions.create(condition).name)
                for condition in dict.fromkeys(named)
                for name, made in chosen.items()
            )

    def shorthand(self, study: Study) -> str | None:
        """The name of the scenario of a study that `pass_rates` stands for."""
        if self.conditions:
            return None
        return self._measured(isinstance(study, SnapshotStudy))

    def _measured(self, one_step: bool) -> str | None:
        kind = MEASURED_SNAPSHOT if one_step else MEASURED
        return None if self.pass_rates is None else kind
