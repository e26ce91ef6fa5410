"""Names for things: `name[key=value,...]` specs become checked objects.

A registry maps names to classes, given as `"module:Class"` so that nothing is imported before it is
used. Parameters are the fields of the class, a pydantic dataclass, which checks types and ranges; a
field whose type is itself registered takes a spec, so specs nest: `permuted[of=vip[predictor=beta]]`.
Other packages add names through an entry-point group, and scripts through `register`. A name that is
already taken is refused.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import ConfigDict, ValidationError

from rolloutbench.protocol import InputError

T = TypeVar("T")

PARAMETERS = ConfigDict(
    arbitrary_types_allowed=True, extra="forbid", validate_default=True, allow_inf_nan=False
)
"""The pydantic configuration of every registered dataclass."""


class Entry(NamedTuple):
    """One line of `rolloutbench list`."""

    name: str
    parameters: str
    summary: str


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: names like this one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


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
    return (
        f"{kind} '{spec}': {where}={problem['input']}: {message}" if where else f"{kind} '{spec}': {message}"
    )


def _parameters(make: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields a spec may set; one with repr=False is not for users."""
    fields = dataclasses.fields(make) if dataclasses.is_dataclass(make) else ()
    return [field for field in fields if field.init and field.repr]


class Registry(Generic[T]):
    """The names of one kind of thing.

    `builtin` maps names to `"module:Class"` or to ready objects, whose dataclass fields are then the
    parameters. `group` names the entry-point group through which other packages add theirs.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str | type[T] | T], group: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = dict(builtin)
        self._loaded: dict[str, Any] = {}
        self._group = group

    def register(self, name: str, thing: type[T] | T) -> None:
        """Add a class or a ready object under a new name."""
        if name in self.names():
            raise InputError(f"{self.kind} '{name}' is registered already")
        self._entries[name] = thing

    def names(self) -> list[str]:
        """Everything that can be asked for by name, sorted."""
        return sorted({*self._entries, *self._plugins()})

    def create(self, spec: str | T) -> T:
        """The object that a spec describes. Objects are returned as they are.

        Raises InputError: unknown name (with near matches), unknown parameter, wrong type or range.
        """
        if not isinstance(spec, str):
            return spec
        name, parameters = parse_spec(spec)
        thing = self._find(name)
        make = thing if inspect.isclass(thing) else type(thing)
        allowed = [field.name for field in _parameters(make)]
        for key in parameters:
            if key not in allowed:
                hint = nearest(key, allowed) if allowed else "it takes none"
                raise InputError(f"{self.kind} '{name}' has no parameter '{key}': {hint}")
        given: dict[str, Any] = {k: None if v.lower() == "none" else v for k, v in parameters.items()}
        try:
            made: Any = thing(**given) if inspect.isclass(thing) else dataclasses.replace(thing, **given)
        except ValidationError as error:
            raise InputError(_one_line(self.kind, spec, error)) from None
        except RecursionError:
            raise InputError(f"{self.kind} '{name}': specs are nested too deeply") from None
        found: T = made
        return found

    def describe(self) -> list[Entry]:
        """Name, parameters with defaults, and first docstring line of everything registered."""
        return [self._describe(name) for name in self.names()]

    def _describe(self, name: str) -> Entry:
        try:
            thing = self._find(name)
        except InputError as error:
            return Entry(name, "", str(error))
        make = thing if inspect.isclass(thing) else type(thing)
        parameters = []
        for field in _parameters(make):
            default = field.default if inspect.isclass(thing) else getattr(thing, field.name)
            parameters.append(f"{field.name}={getattr(default, 'default', default)}")
        summary = getattr(thing, "summary", None) or (inspect.getdoc(make) or "").partition("\n")[0]
        return Entry(name, ", ".join(parameters), summary)

    def _find(self, name: str) -> Any:
        if name not in self._entries:
            return self._find_plugin(name)
        thing = self._entries[name]
        if isinstance(thing, str):
            module, _, attribute = thing.partition(":")
            thing = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return thing

    def _find_plugin(self, name: str) -> Any:
        if name not in self._loaded:
            plugin = self._plugins().get(name)
            if plugin is None:
                raise InputError(f"unknown {self.kind} '{name}': {nearest(name, self.names())}")
            try:
                self._loaded[name] = plugin.load()
            except Exception as error:
                raise InputError(
                    f"{self.kind} '{name}' ({plugin.value}) cannot be loaded: {type(error).__name__}: {error}"
                ) from error
        return self._loaded[name]

    def _plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self._group is None:
            return {}
        plugins: dict[str, importlib.metadata.EntryPoint] = {}
        for point in importlib.metadata.entry_points(group=self._group):
            if point.name in plugins or point.name in self._entries:
                raise InputError(f"{self.kind} '{point.name}' ({point.value}) is registered already")
            plugins[point.name] = point
        return plugins
