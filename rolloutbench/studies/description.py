"""The description of a study: options, a TOML file or keyword arguments become one checked object.

    study = "compare"                       # or "predict" or "train"
    allocators = ["vip", "dapo[carry=true]"]
    scenarios = ["u-shaped-v1", "weak-cold-v1"]
    replicates = 64

Keys are the options of the command with underscores; what is left out has the command's default. A
description says everything that decides the numbers; `build` makes the objects that it names, and finds
what is wrong with them before anything runs. What the command line shows of a field (help, range, names) is
declared here with it.
"""

from __future__ import annotations

import contextlib
import os
import reprlib
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PrivateAttr, ValidationError

from rolloutbench.analysis.results import check_sort
from rolloutbench.estimators import estimators
from rolloutbench.files import read_regular
from rolloutbench.protocol import Allocator, Estimator, InputError, Predictor
from rolloutbench.registry import Registry, nearest
from rolloutbench.studies.study import Study
from rolloutbench.text import check_text
from simulators.scenarios import (
    DEFAULT_SCENARIOS,
    PATHS,
    LearningScenario,
    SnapshotScenario,
    name_of,
    scenarios,
    seen_from,
    spec_of,
)

MOST_TEXT = 10_000_000
"""Letters of a text: one that is too long for its key is refused where the key is read, and cut there."""
PROSE = ("title", "question", "template", "system", "stop")
"""Keys whose text may have several lines."""

T = TypeVar("T")


@dataclass(frozen=True)
class Flag:
    """How a field is asked for on the command line, where `--its-name` with its type is not all of it.

    `name`: the option's name, where it is another. `letter`: its short form. `metavar`: what stands for the
    value in the help. `default`: what the help says happens without it. `commas`: a list of numbers is typed
    as one text, `0.5,1,2`.
    """

    name: str = ""
    letter: str = ""
    metavar: str | None = None
    default: str | None = None
    commas: bool = False


class Description(BaseModel, ABC):
    """What every study says. A field with a `description` is also an option of the study's command."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )
    joined: ClassVar[tuple[str, ...]] = ("scenarios", "allocators", "predictors")
    """Fields in which studies may differ and still be merged: the merged one has the members of all."""

    study: str
    title: str | None = None
    question: str | None = None
    scenarios: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            description="Repeatable; see `list scenario`, or `all`, or `all-snapshots`, or `replay:PATH` of "
            "a score bank.",
        ),
        Flag("--scenario", "-s", metavar="SPEC", default=", ".join(DEFAULT_SCENARIOS)),
    ] = None
    estimator: Annotated[str, Field(description="Advantage rule: see `list estimator`.")] = "grpo"
    aggregation: Annotated[
        Literal["prompt", "rollout"],
        Field(description="`prompt`: mean over prompts; `rollout`: mean over all rollouts."),
    ] = "rollout"
    replicates: Annotated[
        int | None, Field(ge=2, le=1_000_000, description="Paired seeds."), Flag(default="16")
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**128, description="Everything random follows from it.")] = 0
    sort: Annotated[
        str | None,
        Field(description="Metric that ranks: see `list metric`."),
        Flag(default="area_over_rollouts"),
    ] = None

    _named: dict[str, str] = PrivateAttr(default_factory=dict)
    """What the user calls each key that was given: an option, a line of a file, or an argument."""

    @classmethod
    def of(cls, given: Mapping[str, Any], file: Path | None = None, *, options: bool = True) -> Self:
        """Describe a study by what was given, and a file for the rest. Raises InputError naming the key.

        `options`: whether messages should name the command line's options, or else arguments of a function.
        """
        file = None if file is None else _found(file)
        read = {} if file is None else read_toml(file)
        named = {key: f"{file}: {_key(key)}" for key in read}
        named |= {key: cls.option(key) if options else key for key in given}
        for key, value in {**read, **given}.items():
            check_text(value, named[key], prose=key in PROSE, most=MOST_TEXT)
        wanted = cls.model_fields["study"].default
        if read.setdefault("study", wanted) != wanted:
            said = brief(read["study"])
            raise InputError(f"{file}: study = {said}: `rolloutbench {wanted}` expects '{wanted}'")
        if file is not None:
            read = cls._seen_from(file.parent, read)
        try:
            made = cls(**{**read, **given})
        except ValidationError as error:
            raise wrong(_one_line(error, named, cls.model_fields)) from None
        made._named.update(named)
        return made

    @classmethod
    def option(cls, key: str) -> str:
        """The command-line option of a key, `--group-size` of `group_size`."""
        field = cls.model_fields.get(key)
        flags = [found for found in field.metadata if isinstance(found, Flag)] if field else []
        return next((flag.name for flag in flags if flag.name), f"--{key.replace('_', '-')}")

    @classmethod
    def _seen_from(cls, folder: Path, read: dict[str, Any]) -> dict[str, Any]:
        """The content of a file in `folder`, which may name others as seen from there."""
        if isinstance(read.get("scenarios"), list):
            read["scenarios"] = [_scenario_seen_from(folder, spec) for spec in read["scenarios"]]
        return read

    def where(self, key: str) -> str:
        """What the user calls a key: an option, a line of a file, or an argument."""
        return self._named.get(key, self.option(key))

    @abstractmethod
    def build(self) -> Study:
        """The study. Raises InputError where names or their combination are wrong."""

    def check(self, study: Study) -> None:
        """Raise InputError where every cell of the study would fail: what is found before any begins."""

    @property
    def on_gpu(self) -> bool:
        """Whether its cells need the GPU."""
        return False

    def resolved(self, study: Study) -> dict[str, Any]:
        """The description with nothing left to a default that could change: a TOML file's content."""
        chosen = self.model_dump(exclude_none=True, warnings=False)  # objects are named below
        shorthand = self.shorthand(study)
        chosen |= {
            "scenarios": [spec_of(name, made) for name, made in study.scenarios.items() if name != shorthand]
        }
        chosen |= {"replicates": study.replicates}
        return self._in_order(chosen)

    @classmethod
    def _in_order(cls, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Keys in the order of the fields, without those that list nothing."""
        return {key: chosen[key] for key in cls.model_fields if chosen.get(key, []) != []}

    def shorthand(self, study: Study) -> str | None:
        """The name of the scenario of a study that another field stands for, where one does."""
        return None

    def check_group_size(self, size: int, estimator: Estimator, scenario: str = "") -> None:
        """Refuse groups in which `uniform`, and so everybody's yardstick, would learn nothing."""
        if size >= estimator.minimum:
            return
        own = getattr(self, "group_size", None) is not None or not scenario
        where = self.where("group_size") if own else f"{self.where('scenarios')} {scenario}: group_size"
        raise wrong(
            f"{where} {size}: estimator {self.estimator} takes {estimator.minimum} rollouts of a prompt at "
            "least, and has no gradient from fewer"
        )

    def named(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Where an InputError is raised within, its message begins with what the user calls the key."""
        return _naming(f"{self.where(key)}: ")

    def _common(self, replicates: int) -> dict[str, Any]:
        """What every study is made with; `replicates` where the description has none."""
        with self.named("estimator"):
            estimator = estimators.create(self.estimator)
        return {
            "estimator_name": self.estimator,
            "estimator": estimator,
            "aggregation": self.aggregation,
            "replicates": self.replicates or replicates,
            "seed": self.seed,
        }

    def record(self, study: Study) -> dict[str, Any]:
        """What is recorded of a study that was built of this: all it takes to show it and to run it again."""
        return {
            "title": self.title,
            "question": self.question or study.results.question,
            "sort": self.sorted_by(study),
            "config": self.resolved(study),
            **study.record(),
        }

    def sorted_by(self, study: Study) -> str:
        """The metric that ranks. Raises InputError where it does not exist or ranks nothing."""
        sort = study.results.default_sort if self.sort is None else self.sort
        with _naming():
            check_sort(study.results.metrics, sort, self.where("sort"))
        return sort


AllocatorField = list[str | InstanceOf[Allocator] | type[Allocator]] | None
"""Specs; in Python also objects, and classes that need no arguments."""
PredictorField = list[str | InstanceOf[Predictor] | type[Predictor]] | None
"""Specs; in Python also objects, and classes that need no arguments."""

PriceField = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)] | None
"""What a GPU costs by the hour, in any currency; None: nothing is said of money."""

RateField = list[Annotated[float, Field(gt=0, lt=1e6)]] | None
"""Factors of a learning rate, each allocator's own best of which is chosen; None: the study's default."""


def _found(path: Path) -> Path:
    """The file itself, or else the one of this path beside the package, which brings some to begin with."""
    brought = Path(__file__).parents[2] / path
    found = os.path.isfile(brought) and not os.path.exists(path)  # pathlib's raise for names too long
    return brought if found else path


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file. Raises InputError where it cannot be read, is no TOML, or is empty."""
    try:
        read = tomllib.loads(read_regular(path).decode("utf-8-sig"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise InputError(f"{path}: cannot be read: it is nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or an integer with more digits than Python reads
        raise wrong(f"{path}: is no TOML: {error}") from None
    if not read:
        raise InputError(f"{path}: is empty; keys such as allocators = [...] are expected")
    return read


def _one_line(error: ValidationError, named: Mapping[str, str], known: Iterable[str]) -> str:
    problem = error.errors()[0]
    key, *inside = problem["loc"]
    where = named.get(str(key), str(key)) + "".join(
        f"[{place}]" for place in inside if isinstance(place, int)
    )
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such key: {nearest(str(key), known)}"
    given = problem["input"]
    said = f" {given}" if where.startswith("--") and isinstance(given, str) else f" = {brief(given)}"
    return f"{where}{said}: {problem['msg'].removeprefix('Value error, ')}"


@contextlib.contextmanager
def _naming(where: str = "") -> Iterator[None]:
    """An InputError from within begins with `where`."""
    try:
        yield
    except InputError as error:
        raise wrong(f"{where}{error}") from None


def wrong(message: str) -> InputError:
    """An error with this message, but without its middle where a name in it has no end."""
    return InputError(message if len(message) <= 800 else f"{message[:180]} ... {message[-80:]}")


def _key(name: str) -> str:
    """A key of a file as it may stand in a message."""
    return name if name.isprintable() and 0 < len(name) < 60 else brief(name)


def brief(value: object) -> str:
    """A value on one short line, however long or deep it is."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxlong = writer.maxother = 60
    try:
        text = writer.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a number without end"
    return text if len(text) <= 60 else text[:57] + "..."


def choose(
    registry: Registry[T], specs: Sequence[str | T | type[T]], implied: str | None = None
) -> dict[str, T]:
    """Objects by spec, refusing doubles; the first spec may be named again if it was only implied."""
    chosen: dict[str, T] = {}
    for place, given in enumerate(specs):
        made = registry.create(_instance(registry, given) if isinstance(given, type) else given)
        spec = "".join(given.split()) if isinstance(given, str) else registry.spec_of(made)
        if place and spec == implied:
            implied = None
            continue
        if spec in chosen:
            raise InputError(f"{registry.kind} '{spec}' is given twice")
        chosen[spec] = made
    return chosen


def _instance(registry: Registry[T], kind: type[T]) -> T:
    """An object of a class that was given in the place of one."""
    try:
        return kind()
    except TypeError as error:
        raise InputError(
            f"{registry.kind} {kind.__name__}: {error}; give an object, made with them"
        ) from None


def choose_scenarios(specs: Iterable[str]) -> dict[str, Any]:
    """Scenarios by spec; `all` and `all-snapshots` are those of a kind."""
    every = {"all": LearningScenario, "all-snapshots": SnapshotScenario}
    kinds = {name: type(scenarios.create(name)) for name in scenarios.names()}
    named: list[str] = []
    for spec in specs:
        named += [name for name in kinds if kinds[name] is every[spec]] if spec in every else [spec]
    chosen: dict[str, Any] = {}
    for spec in named:
        made = scenarios.create(spec)
        name = name_of(spec, made)
        if name in chosen:
            hint = "; label=NAME tells files apart" if name.partition("[")[0] in PATHS else ""
            raise InputError(f"scenario '{name}' is given twice{hint}")
        chosen[name] = made
    return chosen


def _scenario_seen_from(folder: Path, spec: Any) -> Any:
    """A scenario of a file there; what is no spec is refused later."""
    with contextlib.suppress(InputError):
        return seen_from(folder, spec) if isinstance(spec, str) else spec
    return spec
