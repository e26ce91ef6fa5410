"""Options of commands, made from what they set: the fields of a description, and of how a study is carried
out.

A field of a description that has a help text is an option of its command, with its type, range and default;
nothing of it is said a second time here.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

import annotated_types
import typer
from pydantic.fields import FieldInfo

from rolloutbench.api import Execution
from rolloutbench.cli import debugging
from rolloutbench.cli.completion import OF_FIELD, names_of
from rolloutbench.protocol import InputError
from rolloutbench.studies.description import Description, Flag

RUNNING = "How it runs (results do not depend on it)"
"""Panel of the options that every study has."""

Jobs = Annotated[
    int | None,
    typer.Option(help="Processes.", min=1, show_default="all cores; on a GPU 1", rich_help_panel=RUNNING),
]
Memory = Annotated[
    float | None,
    typer.Option(
        help="Most memory of a process in GiB; a cell that needs more fails.",
        min=0.1,
        show_default="the machine's, shared out",
        rich_help_panel=RUNNING,
    ),
]
ExecutorName = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where cells run: processes here, or a Ray cluster.", rich_help_panel=RUNNING),
]
Address = Annotated[
    str,
    typer.Option(
        help="Ray cluster: `auto` finds the one of this machine, `local` starts one.", rich_help_panel=RUNNING
    ),
]
Out: TypeAlias = Annotated[
    Path, typer.Option(help="Directory for cells, tables, data and plots.", rich_help_panel=RUNNING)
]
KeptIn = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Directory that keeps the study. Without it, only the answer stays.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Put this study in the place of another in --out; cells that both have are kept.",
        rich_help_panel=RUNNING,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Measure again what is finished.", rich_help_panel=RUNNING)
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Run cells again that failed.", rich_help_panel=RUNNING)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Seed = Annotated[int | None, typer.Option(help="Everything random follows from it.", min=0, show_default="0")]

_EXECUTION: dict[str, Any] = {
    "jobs": Jobs,
    "memory": Memory,
    "executor": ExecutorName,
    "address": Address,
    "overwrite": Overwrite,
    "force": Force,
    "retry_failed": RetryFailed,
}
"""The options of `Execution`, by field."""
_CONFIG = "TOML file with the study: these options as keys, with underscores. Options given here win."


def study_command(
    description: type[Description],
    out: str | None,
    *,
    config_first: bool = False,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    beside: Mapping[str, tuple[Any, Any]] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A function of (description, out, execution, as_json) as a command with all options of a study.

    `out`: its default directory; None where it need not keep the study. `config_first`: the file is the
    command's argument and not an option. `without`: fields of `Execution` that it does not offer. `only`: the
    fields of the description that it offers, and no file for the others. `beside`: annotation and default
    of options that are the function's own.
    """
    fields = {
        key: option for key, option in _options(description) if key in (only or description.model_fields)
    }
    execution = {key: option for key, option in _EXECUTION.items() if key not in without}
    config = typer.Argument(help=_CONFIG, show_default=False)
    if not config_first:
        config = typer.Option(help=_CONFIG, show_default=False)
    others = [
        *([] if only else [_parameter("config", Annotated[Path | None, config], None)]),
        _parameter("out", KeptIn, None) if out is None else _parameter("out", Out, Path(out)),
        *(_parameter(key, option, getattr(Execution, key)) for key, option in execution.items()),
        _parameter("as_json", AsJson, False),
    ]
    own = [_parameter(key, *option) for key, option in beside.items()]
    parameters = [*(_parameter(key, option, None) for key, option in fields.items()), *own, *others]
    if config_first:
        parameters = [others[0], *parameters[: len(fields)], *others[1:]]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            asked = {key: given[key] for key in fields if given[key] is not None and given[key] is not False}
            for key in asked:
                if _flag(description.model_fields[key]).commas:
                    asked[key] = _numbers(description.option(key), asked[key])
            found = description.of(asked, given.get("config"))
            how = Execution(**{key: given[key] for key in execution}, debug=debugging.is_on())
            function(found, given["out"], how, given["as_json"], **{key: given[key] for key in beside})

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _options(description: type[Description]) -> Iterator[tuple[str, Any]]:
    """Key and annotated option of each field that has a help text, those with a letter first."""
    shown = {key: field for key, field in description.model_fields.items() if field.description}
    for key, field in sorted(shown.items(), key=lambda item: not _flag(item[1]).letter):
        flag, kind = _flag(field), _type(field)
        names = [description.option(key), *([flag.letter] if flag.letter else [])]
        default = flag.default or (str(field.default) if field.default not in (None, False) else False)
        ends: dict[str, Any] = {}
        if kind in (int, float):
            for limit in field.metadata:
                if isinstance(limit, annotated_types.Ge):
                    ends["min"] = limit.ge
                elif isinstance(limit, annotated_types.Le):
                    ends["max"] = limit.le
        complete = names_of(OF_FIELD[key]) if key in OF_FIELD else None
        option = typer.Option(
            *names,
            help=field.description,
            metavar=flag.metavar,
            show_default=default,
            autocompletion=complete,
            **ends,
        )
        yield key, Annotated[kind if kind is bool else kind | None, option]


def _flag(field: FieldInfo) -> Flag:
    return next((found for found in field.metadata if isinstance(found, Flag)), Flag())


def _type(field: FieldInfo) -> Any:
    """The type as which a field is typed on the command line."""
    kind = field.annotation
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is list:
        return str if _flag(field).commas else list[str]
    return kind


def _numbers(option: str, text: str) -> list[float]:
    """Numbers between commas, checked further by the description."""
    numbers = []
    for part in text.split(","):
        try:
            numbers.append(float(part))
        except ValueError:
            numbers.append(float("nan"))
        if not 0 < numbers[-1] < 1e6:
            raise InputError(f"{option}: '{part.strip()}' is no number above 0")
    return numbers
