"""Names for things: `name[key=value,...]` specs become checked objects.

A registry maps names to classes, given as `"module:Class"` so that nothing is imported before it is
used. Parameters are the fields of the class, a pydantic dataclass, which checks types and ranges; a
field whose type is itself registered takes a spec, so specs nest: `permuted[of=vip[predictor=beta]]`.
Other packages add names through an entry-point group, and scripts through `register`. A name belongs to
who has it first: one that is built in stays what it is whatever is installed, and what an installed package
brings under it is left out, with a warning where the name is used or listed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib.metadata
import inspect
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.errors import PydanticUserError

from rolloutbench.errors import InputError, NameTaken
from rolloutbench.failures import one_line
from rolloutbench.optional import load

T = TypeVar("T")

PARAMETERS = ConfigDict(
    arbitrary_types_allowed=True, extra="forbid", validate_default=True, allow_inf_nan=False
)
"""The pydantic configuration of every registered dataclass."""


MOST_NAMES = 40
"""Names that an error message lists: more would hide its point."""


class Entry(NamedTuple):
    """One line of `rolloutbench list`."""

    name: str
    parameters: str
    summary: str


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: names like this one, or all of them, or where they are many the first."""
    known = sorted(known)
    spelt = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(spelt[one] for one in close)}?"
    first = known if len(known) <= MOST_NAMES else [*known[: MOST_NAMES - 1], f"... ({len(known)} in all)"]
    return f"known: {', '.join(first)}"


def shortened(text: str, most: int = 60) -> str:
    """Text of at most so many characters for an error message, so that the point comes into sight."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def split_outside_brackets(text: str, separator: str = ",") -> list[str]:
    """Split at separators that stand in no bracket: 'a[x=1,y=2],b' -> ['a[x=1,y=2]', 'b']."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth < 0:
            raise InputError(f"'{text}': a ']' without its '['")
        if character == separator and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    if depth:
        raise InputError(f"'{text}': a '[' without its ']'")
    return [part.strip() for part in [*parts, text[start:]]]


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split 'name[key=value,...]' into its name and its parameters, values still as text."""
    spec = spec.strip()
    name, bracket, rest = spec.partition("[")
    if bracket and not rest.endswith("]"):
        raise InputError(f"'{spec}': expected name[key=value,...]")
    parameters: dict[str, str] = {}
    for part in split_outside_brackets(rest[:-1]) if rest[:-1].strip() else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"'{spec}': '{part}' is not key=value")
        if key in parameters:
            raise InputError(f"'{spec}': '{key}' is given twice")
        parameters[key] = value
    return name.strip(), parameters


def _one_line(kind: str, spec: str, error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if part != "function-before")
    inner = problem.get("ctx", {}).get("error")
    if isinstance(inner, InputError):
        return str(inner)
    message = problem["msg"].removeprefix("Value error, ")
    about = f"{kind} '{shortened(spec)}'"
    return (
        f"{about}: {where}={shortened(str(problem['input']))}: {message}" if where else f"{about}: {message}"
    )


def _parameters(make: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields a spec may set; one with repr=False is not for users."""
    fields = dataclasses.fields(make) if dataclasses.is_dataclass(make) else ()
    return [field for field in fields if field.init and field.repr]


def _class_of(thing: Any) -> type[Any]:
    """A registered class, or the class of a registered object."""
    return thing if inspect.isclass(thing) else type(thing)


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _takes_arguments(make: type[Any]) -> bool:
    """Whether a class that is no dataclass has an `__init__` with arguments, which a spec cannot give."""
    if dataclasses.is_dataclass(make):
        return False
    try:
        return bool(inspect.signature(make).parameters)
    except (TypeError, ValueError):
        return False


def _made(thing: Any, given: dict[str, Any]) -> Any:
    """The object with these parameters, checked against the types of the class's fields."""
    if not inspect.isclass(thing):
        return dataclasses.replace(thing, **given)
    if given and dataclasses.is_dataclass(thing) and not is_pydantic_dataclass(thing):
        return TypeAdapter(thing).validate_python(given)
    return thing(**given)


class Registry(Generic[T]):
    """The names of one kind of thing.

    `builtin` maps names to `"module:Class"` or to ready objects, whose dataclass fields are then the
    parameters. `group` names the entry-point group through which other packages add theirs.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str | type[T] | T], group: str | None = None) -> None:
        self.kind = kind
        self.builtin = tuple(builtin)
        """Names that the registry began with, in their order."""
        self._entries: dict[str, Any] = dict(builtin)
        self._loaded: dict[str, Any] = {}
        self._warned: set[str] = set()
        self._group = group

    def register(self, name: str, thing: type[T] | T) -> None:
        """Add a class or a ready object under a new name."""
        if name in self.names():
            raise InputError(f"{self.kind} '{name}' is registered already")
        self._entries[name] = thing

    def names(self) -> list[str]:
        """Everything that can be asked for by name, sorted."""
        return sorted({*self._entries, *self._points})

    def create(self, spec: str | T) -> T:
        """The object that a spec describes. Objects are returned as they are.

        Raises InputError: unknown name (with near matches), unknown parameter, wrong type or range, or a
        name that several packages bring. Warns (`NameTaken`) of a package whose part of this name is left
        out.
        """
        if not isinstance(spec, str):
            return spec
        name, parameters = parse_spec(spec)
        self._warn_of_taken(name)
        thing = self._find(name)
        make = _class_of(thing)
        allowed = [field.name for field in _parameters(make)]
        for key in parameters:
            if key not in allowed:
                hint = nearest(key, allowed) if allowed else "it takes none"
                if _takes_arguments(make):
                    hint = f"make {make.__name__} a dataclass (pydantic.dataclasses) to give it parameters"
                raise InputError(f"{self.kind} '{name}' has no parameter '{key}': {hint}")
        given: dict[str, Any] = {k: None if v.lower() == "none" else v for k, v in parameters.items()}
        lacking = [field.name for field in _parameters(make) if _is_needed(field) and field.name not in given]
        if lacking and inspect.isclass(thing):
            raise InputError(f"{self.kind} '{name}' needs {name}[{'=...,'.join(lacking)}=...]")
        try:
            made: Any = _made(thing, given)
        except ValidationError as error:
            raise InputError(_one_line(self.kind, spec, error)) from None
        except PydanticUserError as error:
            raise InputError(
                f"{self.kind} '{name}': the fields of {make.__name__} cannot be checked: "
                f"{shortened(str(error).partition(chr(10))[0], 200)}"
            ) from None
        except TypeError as error:
            if not _takes_arguments(make):
                raise
            raise InputError(
                f"{self.kind} '{name}': {error}: make {make.__name__} a dataclass (pydantic.dataclasses) to "
                "give it parameters"
            ) from None
        except RecursionError:
            raise InputError(f"{self.kind} '{name}': specs are nested too deeply") from None
        found: T = made
        return found

    def spec_of(self, thing: T) -> str:
        """A spec that says what an object is: its registered name, or that of its class, and its parameters.

        Parameters that have their default are left out. It makes such an object where the class is
        registered; otherwise it is only a name.
        """
        kind = type(thing)
        known = {self._find(name): name for name in self._entries if inspect.isclass(self._find(name))}
        values = {field.name: repr(getattr(thing, field.name)) for field in _parameters(kind)}
        with contextlib.suppress(Exception):  # a class of somebody else, which may need arguments
            plain = kind()
            values = {key: said for key, said in values.items() if said != repr(getattr(plain, key))}
        said = ",".join(f"{key}={value}" for key, value in values.items())
        return (known.get(kind, kind.__name__) + f"[{said}]" * bool(said)).replace(" ", "")

    def class_of(self, name: str) -> type[T] | None:
        """The class of a registered name; None where nothing of that name is registered or can be loaded."""
        try:
            return _class_of(self._find(name))
        except InputError:
            return None

    def describe(self) -> list[Entry]:
        """Name, parameters with defaults, and first docstring line of everything registered.

        Warns (`NameTaken`) of packages whose part of a name is left out.
        """
        for name in sorted(self._points):
            self._warn_of_taken(name)
        return [self._describe(name) for name in self.names()]

    def _describe(self, name: str) -> Entry:
        try:
            thing = self._find(name)
        except InputError as error:
            return Entry(name, "", str(error))
        make = _class_of(thing)
        parameters = []
        for field in _parameters(make):
            default = field.default if inspect.isclass(thing) else getattr(thing, field.name)
            default = getattr(default, "default", default)
            said = f"{default:.6g}" if isinstance(default, float) else default
            parameters.append(f"{field.name}={said}")
        summary = getattr(thing, "summary", None) or (inspect.getdoc(make) or "").partition("\n")[0]
        return Entry(name, ", ".join(parameters), summary)

    def _find(self, name: str) -> Any:
        if name not in self._entries:
            return self._find_plugin(name)
        thing = self._entries[name]
        if isinstance(thing, str):
            thing = self._entries[name] = load(thing)
        return thing

    def _find_plugin(self, name: str) -> Any:
        if name not in self._loaded:
            points = self._points.get(name, [])
            if not points:
                raise InputError(f"unknown {self.kind} '{name}': {nearest(name, self.names())}")
            if len(points) > 1:
                raise InputError(
                    f"{self.kind} '{name}' is brought by {' and by '.join(map(_origin, points))}: uninstall "
                    "all but one"
                )
            try:
                self._loaded[name] = points[0].load()
            except Exception as error:
                raise InputError(
                    f"{self.kind} '{name}' of {_origin(points[0])} cannot be loaded: {one_line(error)}"
                ) from error
        return self._loaded[name]

    def _warn_of_taken(self, name: str) -> None:
        """Warn once of each package that brings a name which is taken."""
        if name not in self._entries or name in self._warned:
            return
        self._warned.add(name)
        for point in self._points.get(name, []):
            warnings.warn(
                f"{self.kind} '{name}' of {_origin(point)} is left out: the name is taken by "
                f"{'a built-in one' if name in self.builtin else 'one that was registered'}",
                NameTaken,
                stacklevel=3,
            )

    @functools.cached_property
    def _points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """What installed packages bring, by name; looked up once, since it takes milliseconds."""
        points: dict[str, list[importlib.metadata.EntryPoint]] = defaultdict(list)
        if self._group is not None:
            for point in importlib.metadata.entry_points(group=self._group):
                points[point.name].append(point)
        return dict(points)


def _origin(point: importlib.metadata.EntryPoint) -> str:
    """The package that an entry point belongs to, and what it points at, for a message."""
    return f"package {point.dist.name} ({point.value})" if point.dist is not None else point.value
