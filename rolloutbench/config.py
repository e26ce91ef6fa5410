"""The description of a study: flags, or a TOML file, become one checked object, and that a `Study`.

    study = "compare"                       # or "predict" or "train"
    allocators = ["vip", "dapo[carry=true]"]
    scenarios = ["u-shaped-v1", "weak-cold-v1"]
    replicates = 64

Keys are the options of the command with underscores; what is left out has the command's default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import reprlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from real_runs.models import default_cache, models
from real_runs.settings import RealScenario, trainers
from real_runs.tasks import digest, problems, tasks
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.metrics import BASELINE
from rolloutbench.optional import need
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Budget, InputError
from rolloutbench.registry import Registry, nearest
from rolloutbench.results import check_sort
from rolloutbench.studies import LearningStudy, PredictionStudy, SnapshotStudy, Study, TrainingStudy
from rolloutbench.tabular import column, read_table
from simulators.pools import FrozenScenario, Measured
from simulators.replay import ReplayScenario
from simulators.scenarios import (
    DEFAULT_SCENARIOS,
    SNAPSHOT_SCENARIOS,
    LearningScenario,
    SnapshotScenario,
    scenarios,
    seen_from,
)

SNAPSHOT_ALLOCATORS = (
    "uniform",
    "uniform[divide=2]",
    "uniform[divide=4]",
    "vip",
    "vip[predictor=oracle]",
    "knapsack",
    "coba",
    "hit_utility",
    "inverse_accuracy",
    "inverse_variance",
    "permuted[of=vip]",
    "weighted_uniform[of=vip]",
    "random",
)
DEFAULT_ALLOCATORS = (
    "uniform",
    "uniform[divide=2]",
    "effective_count",
    "vip",
    "vip[predictor=oracle]",
    "knapsack",
    "coba",
    "dapo",
    "ar3po",
    "pilot_commit",
    "reinforce_ada",
    "mopps",
)
ALL_ALLOCATORS = (
    *DEFAULT_ALLOCATORS,
    "uniform[divide=4]",
    "vip[predictor=beta]",
    "vip[predictor=ensemble]",
    "vip[preset=paper]",
    "vip[preset=released_code]",
    "permuted[of=vip]",
    "weighted_uniform[of=vip]",
    "dapo[oversample=1,carry=true]",
    "ar3po[reuse=none]",
    "ar3po[reuse=I]",
    "reinforce_ada[exit=positive]",
    "reinforce_ada_est",
    "pilot_commit[evict=false]",
    "pods",
    "greso",
    "speed",
    "gvm",
    "hit_utility",
    "inverse_accuracy",
    "inverse_variance",
    "random",
)
DEFAULT_PREDICTORS = (
    "beta",
    "last_epoch",
    "moving_average",
    "global_mean",
    "ridge",
    "gp",
    "gp[noise=0]",
    "sparse_gp",
    "kalman",
    "ensemble",
)

TRAINING_ALLOCATORS = (
    "uniform[divide=2]",
    "dapo",
    "vip",
    "vip[predictor=oracle]",
    "ar3po",
    "pilot_commit",
    "reinforce_ada",
    "knapsack",
)
"""Of real runs, which cost minutes each."""

QUICK = 16
"""Replicates for a first look."""
MEASURED = "measured"
"""The scenario of a user's own pass rates."""

File = TypeVar("File", bound="StudyFile")


class StudyFile(BaseModel):
    """What every study says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    default_replicates: ClassVar[int] = 16

    study: str
    title: str | None = None
    question: str | None = None
    scenarios: Annotated[list[str], Field(min_length=1)] | None = None
    estimator: str = "rloo"
    aggregation: Literal["prompt", "rollout"] = "prompt"
    replicates: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**128)] = 0
    sort: str | None = None

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls: type[File], flags: Mapping[str, Any], file: Path | None = None) -> File:
        """From the flags that were given, and a file for the rest. Raises InputError naming the key."""
        read = {} if file is None else read_toml(file)
        wanted = cls.model_fields["study"].default
        if read.setdefault("study", wanted) != wanted:
            given = _brief(read["study"])
            raise InputError(f"{file}: study = {given}: `rolloutbench {wanted}` expects '{wanted}'")
        if file is not None and isinstance(read.get("pass_rates"), str):
            read["pass_rates"] = str(file.parent / read["pass_rates"])
        if file is not None and isinstance(read.get("scenarios"), list):
            read["scenarios"] = [_seen_from(file.parent, spec) for spec in read["scenarios"]]
        sources = {key: f"{file}: {_key(key)}" for key in read} | {key: _option(key) for key in flags}
        try:
            made = cls(**{**read, **flags})
        except ValidationError as error:
            raise _wrong(_one_line(error, sources, cls.model_fields)) from None
        made._sources.update(sources)
        return made

    def where(self, key: str) -> str:
        """What the user calls a key: an option, or a line of a file."""
        return self._sources.get(key, _option(key))

    def made(self) -> Study:
        """The study. Raises InputError where names or their combination are wrong."""
        raise NotImplementedError

    def resolved(self, study: Study) -> dict[str, Any]:
        """The description with nothing left to a default that could change: a TOML file's content."""
        chosen = self.model_dump(exclude_none=True)
        chosen |= {
            "scenarios": [
                made.spec if isinstance(made, ReplayScenario) else name
                for name, made in study.scenarios.items()
                if name != MEASURED
            ]
        }
        chosen |= {"replicates": study.replicates}
        return {key: value for key, value in chosen.items() if value != []}

    def sorted_by(self, study: Study) -> str:
        """The metric that ranks."""
        sort = study.results.default_sort if self.sort is None else self.sort
        with _told():
            check_sort(study.results.metrics, sort, self.where("sort"))
        return sort

    def _at(self, key: str) -> contextlib.AbstractContextManager[None]:
        """What is wrong within is wrong with this key."""
        return _told(f"{self.where(key)}: ")

    def _common(self) -> dict[str, Any]:
        with self._at("estimator"):
            estimator = estimators.create(self.estimator)
        return {
            "estimator_name": self.estimator,
            "estimator": estimator,
            "aggregation": self.aggregation,
            "replicates": self.replicates or self.default_replicates,
            "seed": self.seed,
        }


class Comparison(StudyFile):
    """Allocators, in training runs or in snapshots."""

    study: Literal["compare"] = "compare"
    allocators: Annotated[list[str], Field(min_length=1)] | None = None
    prompts: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    group_size: Annotated[int, Field(ge=1, le=10_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    learning_rates: Annotated[list[Annotated[float, Field(gt=0, lt=1e6)]], Field(min_length=1)] = [1.0]
    snapshot: bool = False
    draws: Annotated[int, Field(ge=2, le=100_000)] | None = None
    pass_rates: str | None = None
    column: str = "pass_rate"
    trials: str | None = None

    def made(self) -> SnapshotStudy | LearningStudy:
        """Snapshots, if its scenarios are."""
        chosen = self._scenarios()
        one_step = any(isinstance(scenario, FrozenScenario) for scenario in chosen.values())
        specs = self.allocators or (SNAPSHOT_ALLOCATORS if one_step else DEFAULT_ALLOCATORS)
        specs = [name for spec in specs for name in (ALL_ALLOCATORS if spec == "all" else [spec])]
        common = self._common()
        with self._at("allocators"):
            common["allocators"] = chosen_from(allocators, [BASELINE, *specs], implied=BASELINE)
        return self._snapshots(chosen, common) if one_step else self._training(chosen, common)

    def _snapshots(self, chosen: dict[str, Any], common: dict[str, Any]) -> SnapshotStudy:
        for key, given in (("steps", self.steps), ("learning_rates", self.learning_rates != [1.0])):
            if given:
                raise InputError(f"{self.where(key)}: a snapshot does not train; see --help")
        common["replicates"] = self.replicates or 128
        sizes = {
            (self.prompts or made.prompts, self.group_size or made.group_size) for made in chosen.values()
        }
        if len(sizes) > 1:
            raise _wrong(
                f"{self.where('scenarios')} {', '.join(chosen)}: snapshots are compared at one "
                "budget; the same prompts and group_size are expected"
            )
        ((size, each),) = sizes
        for made in chosen.values():
            if isinstance(made, ReplayScenario):
                with self._at("prompts" if self.prompts else "scenarios"):
                    made.check(size)
        budget = Budget(size, size * each)
        return SnapshotStudy(**common, scenarios=chosen, budget=budget, draws=self.draws)

    def _training(self, chosen: dict[str, Any], common: dict[str, Any]) -> LearningStudy:
        if self.draws is not None:
            raise InputError(f"{self.where('draws')} {self.draws}: only snapshots have moments; see --help")
        changes = {"prompts": self.prompts, "group_size": self.group_size, "steps": self.steps}
        changes = {key: value for key, value in changes.items() if value is not None}
        rates = tuple(sorted({1.0, *self.learning_rates}))
        try:
            chosen = {name: dataclasses.replace(made, **changes) for name, made in chosen.items()}
        except ValidationError as error:
            problem = error.errors()[0]
            inner = problem.get("ctx", {}).get("error", problem["msg"])
            given = ", ".join(f"{self.where(key)} {value}" for key, value in changes.items())
            raise InputError(f"{given}: {inner}") from None
        return LearningStudy(**common, scenarios=chosen, rates=rates)

    def resolved(self, study: Study) -> dict[str, Any]:
        """With the allocators."""
        given = {"pass_rates": str(Path(self.pass_rates).resolve())} if self.pass_rates else {}
        return super().resolved(study) | {"allocators": list(study.allocators)} | given

    def _scenarios(self) -> dict[str, Any]:
        """Scenarios by name, and `measured` from a file of pass rates; all are of one kind."""
        defaults = SNAPSHOT_SCENARIOS if self.snapshot else DEFAULT_SCENARIOS
        with self._at("scenarios"):
            chosen = named_scenarios(self.scenarios or ([] if self.pass_rates else defaults))
        one_step = {isinstance(made, FrozenScenario) for made in chosen.values()}
        if len(one_step | ({True} if self.snapshot else set())) > 1:
            raise _wrong(
                f"{self.where('scenarios')} {', '.join(chosen)}: training runs and snapshots answer "
                "different questions; one kind is expected"
            )
        if self.pass_rates is None:
            if self.trials is not None:
                raise _wrong(f"{self.where('trials')} {self.trials}: needs {_option('pass_rates')}")
            return chosen
        path = Path(self.pass_rates)
        with self._at("pass_rates"):
            table = read_table(path)
        with self._at("column"):
            rates = column(table, self.column, path, 0, 1)
        with self._at("trials"):
            tried = None if self.trials is None else column(table, self.trials, path, low=1, whole=True)
        make = SnapshotScenario if True in one_step or self.snapshot else LearningScenario
        return chosen | {MEASURED: make(f"pass rates of {path}", Measured(rates, tried))}


class Prediction(StudyFile):
    """Predictors that watch one allocator's training run."""

    study: Literal["predict"] = "predict"
    predictors: Annotated[list[str], Field(min_length=1)] | None = None
    allocator: str = BASELINE

    def made(self) -> PredictionStudy:
        """Training runs only."""
        with self._at("scenarios"):
            chosen = named_scenarios(self.scenarios or DEFAULT_SCENARIOS)
        for name, made in chosen.items():
            if isinstance(made, FrozenScenario):
                raise _wrong(f"{self.where('scenarios')} {name}: nothing is learned in a snapshot")
        named = [BASELINE, *(self.predictors or DEFAULT_PREDICTORS)]
        common = self._common()
        with self._at("allocator"):
            watched = {self.allocator: allocators.create(self.allocator)}
        with self._at("predictors"):
            watching = chosen_from(predictors, named, implied=BASELINE)
        return PredictionStudy(**common, allocators=watched, scenarios=chosen, predictors=watching)

    def resolved(self, study: Study) -> dict[str, Any]:
        """With the predictors."""
        assert isinstance(study, PredictionStudy)
        return super().resolved(study) | {"predictors": list(study.predictors)}


class Training(StudyFile):
    """Allocators, in training runs of a language model."""

    default_replicates: ClassVar[int] = 3

    study: Literal["train"] = "train"
    scenarios: None = None
    allocators: Annotated[list[str], Field(min_length=1)] | None = None
    aggregation: Literal["prompt", "rollout", "token"] = "prompt"  # type: ignore[assignment]
    task: str = "sorting"
    model: str = "tiny"
    engine: Literal["transformers", "vllm"] = "transformers"
    trainer: str = "ppo"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    prompts: Annotated[int, Field(ge=2, le=1_000_000)] = 64
    group_size: Annotated[int, Field(ge=1, le=10_000)] | None = None
    budget: Annotated[int, Field(ge=2)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    evaluate_every: Annotated[int, Field(ge=1)] = 10
    evaluation_rollouts: Annotated[int, Field(ge=8, le=10_000)] = 8
    initial_rollouts: Annotated[int, Field(ge=8, le=10_000)] = 16
    probe: Annotated[int, Field(ge=1, le=10_000)] = 32

    def made(self) -> TrainingStudy:
        """One task."""
        common = self._common()
        with self._at("allocators"):
            specs = self.allocators or TRAINING_ALLOCATORS
            chosen = chosen_from(allocators, [BASELINE, *specs], implied=BASELINE)
        with self._at("task"):
            task = tasks.create(self.task)
            train, held_out = problems(task, self.seed)
        if len(train) < self.prompts:
            raise InputError(
                f"{self.where('prompts')} {self.prompts}: a step draws as many, and the task "
                f"has {len(train)} to train on"
            )
        with self._at("model"):
            model = models.create(self.model)
        with self._at("trainer"):
            trainer = trainers.create(self.trainer)
        scenario = RealScenario(
            task=task,
            model=model,
            model_name=self.model,
            data=digest(train, held_out),
            engine=self.engine,
            trainer=trainer,
            device=self._device(),
            group_size=self._group_size(),
            **{name: getattr(self, name) for name in PASSED_ON},
        )
        name = "".join(self.task.split())
        return TrainingStudy(**common, allocators=chosen, scenarios={name: scenario}, cache=default_cache())

    def check(self, study: TrainingStudy) -> None:
        """Raises InputError where every run would fail: what is found before any begins."""
        (scenario,) = study.scenarios.values()
        if scenario.device == "cuda" and not need("torch", "llm").cuda.is_available():
            raise InputError(f"{self.where('device')} cuda: torch sees no GPU here; cpu or auto is expected")
        with self._at("model"):
            scenario.model.check(scenario.task)
        with self._at("task"):
            scenario.task.verifier()
        if self.engine == "vllm" and importlib.util.find_spec("vllm") is None:
            need("vllm", "vllm")

    def resolved(self, study: Study) -> dict[str, Any]:
        """With the allocators, the device and the group size."""
        chosen = super().resolved(study)
        (scenario,) = study.scenarios.values()
        assert isinstance(scenario, RealScenario)
        del chosen["scenarios"]
        chosen.pop("budget", None)
        fixed = {"device": scenario.device, "group_size": scenario.group_size}
        return chosen | {"allocators": list(study.allocators)} | fixed

    def _group_size(self) -> int:
        if self.budget is None:
            return 8 if self.group_size is None else self.group_size
        size, rest = divmod(self.budget, self.prompts)
        if rest or size < 1 or self.group_size not in (None, size):
            raise InputError(
                f"{self.where('budget')} {self.budget}: rollouts of a step; {self.prompts} prompts x "
                f"{self.group_size or 'a whole number of'} rollouts is expected"
            )
        return size

    def _device(self) -> Literal["cpu", "cuda"]:
        if self.device != "auto":  # whether it is there is asked before it is used: results travel
            return self.device
        return "cuda" if need("torch", "llm").cuda.is_available() else "cpu"


PASSED_ON = (
    "temperature",
    "prompts",
    "steps",
    "evaluate_every",
    "evaluation_rollouts",
    "initial_rollouts",
    "probe",
)
"""What a real scenario takes as it is."""

Description: TypeAlias = Comparison | Prediction | Training
DESCRIPTIONS: dict[str, type[Description]] = {
    "compare": Comparison,
    "predict": Prediction,
    "train": Training,
}


JOINED = ("scenarios", "allocators", "predictors")
"""What studies may differ in and be merged: the merged one has all of them."""


def merged(configs: Sequence[Mapping[str, Any]]) -> Description:
    """One study of all scenarios and allocators of several. Raises InputError naming what else differs."""
    whole, *others = (_checked(config).model_dump(exclude_none=True) for config in configs)
    for config in others:
        for key in dict.fromkeys([*whole, *config]):
            before, now = whole.get(key), config.get(key)
            if key in JOINED:
                whole[key] = list(dict.fromkeys([*(before or []), *(now or [])]))
            elif key == "replicates":
                whole[key] = max(before or 0, now or 0)
            elif before != now and key not in ("title", "question", "sort"):
                raise InputError(f"{key}: {before} and {now}: only studies under the same conditions merge")
    return _checked(whole)


def _checked(config: Mapping[str, Any]) -> Description:
    """The description that a study was recorded with."""
    kind = config.get("study", "")
    if kind not in DESCRIPTIONS:
        raise InputError(f"study = {_brief(kind)}: {' or '.join(DESCRIPTIONS)} is expected")
    return DESCRIPTIONS[kind].of(config)


def read_toml(path: Path) -> dict[str, Any]:
    """Raises InputError where there is no TOML."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise InputError(f"{path}: cannot be read: it is nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or an integer with more digits than Python reads
        raise _wrong(f"{path}: is no TOML: {error}") from None


def _option(key: str) -> str:
    """The command-line option of a key: those that can be repeated are in the singular there."""
    singular = {"allocators": "allocator", "scenarios": "scenario", "predictors": "predictor"}
    return f"--{singular.get(key, key).replace('_', '-')}"


def _one_line(error: ValidationError, sources: Mapping[str, str], known: Iterable[str]) -> str:
    problem = error.errors()[0]
    key, *inside = problem["loc"]
    where = sources.get(str(key), str(key)) + "".join(
        f"[{place}]" for place in inside if isinstance(place, int)
    )
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such key: {nearest(str(key), set(known) - {'_sources'})}"
    given = problem["input"]
    said = f" {given}" if where.startswith("--") and isinstance(given, str) else f" = {_brief(given)}"
    return f"{where}{said}: {problem['msg'].removeprefix('Value error, ')}"


@contextlib.contextmanager
def _told(where: str = "") -> Iterator[None]:
    """Say where an InputError from within comes from."""
    try:
        yield
    except InputError as error:
        raise _wrong(f"{where}{error}") from None


def _wrong(message: str) -> InputError:
    """An error without its middle, where a name in it has no end."""
    return InputError(message if len(message) <= 800 else f"{message[:180]} ... {message[-80:]}")


def _key(name: str) -> str:
    """A key of a file as it may stand in a message."""
    return name if name.isprintable() and 0 < len(name) < 60 else _brief(name)


def _brief(value: object) -> str:
    """A value on one short line, however long or deep it is."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxlong = writer.maxother = 60
    try:
        text = writer.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number without end"
    return text if len(text) <= 60 else text[:57] + "..."


def chosen_from(registry: Registry[Any], specs: Sequence[str], implied: str | None = None) -> dict[str, Any]:
    """Objects by spec, refusing doubles; the first spec may be named again if it was only implied."""
    chosen: dict[str, Any] = {}
    for place, spec in enumerate(specs):
        spec = "".join(spec.split())
        if place and spec == implied:
            implied = None
            continue
        if spec in chosen:
            raise InputError(f"{registry.kind} '{spec}' is given twice")
        chosen[spec] = registry.create(spec)
    return chosen


def named_scenarios(specs: Iterable[str]) -> dict[str, Any]:
    """Scenarios by spec; `all` and `all-snapshots` are those of a kind."""
    every = {"all": LearningScenario, "all-snapshots": SnapshotScenario}
    kinds = {name: type(scenarios.create(name)) for name in scenarios.names()}
    named: list[str] = []
    for spec in specs:
        named += [name for name in kinds if kinds[name] is every[spec]] if spec in every else [spec]
    chosen: dict[str, Any] = {}
    for spec in named:
        made = scenarios.create(spec)
        name = made.name if isinstance(made, ReplayScenario) else "".join(spec.split())
        if name in chosen:
            raise InputError(f"scenario '{name}' is given twice")
        chosen[name] = made
    return chosen


def _seen_from(folder: Path, spec: Any) -> Any:
    """A scenario of a file there; what is no spec is refused later."""
    with contextlib.suppress(InputError):
        return seen_from(folder, spec) if isinstance(spec, str) else spec
    return spec
