"""Cells: what is run, under which name, and what comes of it.

A cell is a pure function from its frozen description to a table, so cells may run anywhere and in any
order, and one that was run need never run again. Its key is a hash of the whole description, defaults
included, and of the source code that it runs: results of other conditions or other code have other keys.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
from threadpoolctl import ThreadpoolController

from rolloutbench import failures
from rolloutbench.protocol import InputError, ProtocolError

CORE = (
    "cells/collectors.py",
    "environment.py",
    "errors.py",
    "estimators.py",
    "failures.py",
    "files.py",
    "held.py",
    "loop.py",
    "objectives.py",
    "optional.py",
    "pass_rates.py",
    "protocol.py",
    "registry.py",
    "score_bank.py",
    "solvers",
    "tabular.py",
)
"""The part of `rolloutbench` that all cells run."""

METHODS = ("allocators", "predictors")
"""Folders of which a cell runs the files that it names or that these use; the rest looks at results."""

OWN = __name__.partition(".")[0]
"""The package whose `CORE` and `METHODS` cells run."""

OURS = {OWN, "simulators", "real_runs"}
"""Packages that take a method from `METHODS` by its module alone, never by a name that is looked up later."""

PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "gpytorch", "transformers", "vllm", "trl")
"""Libraries whose versions are recorded with a result."""


Part: TypeAlias = tuple[str, str]
"""A scenario and an allocator, by name."""
Sources: TypeAlias = dict[str, str | None]
"""A digest of the source code of each package and method that a cell runs."""


class Cell(Protocol):
    """A description of something to run: a picklable dataclass whose fields say everything that matters.

    A field declared with `compare=False` is no part of it.
    """

    @property
    def part(self) -> Part:
        """Scenario and allocator: what its table is a part of, and useless without the rest of."""

    @property
    def label(self) -> str:
        """What people call the cell."""

    def run(self) -> pd.DataFrame:
        """The results. What is measured of this machine goes into `attrs`: never the same twice, no data."""


@runtime_checkable
class Resumable(Protocol):
    """A cell that keeps what it did so far, so that it goes on from there after a kill."""

    def forget(self) -> None:
        """Drop what the cell kept: its table is stored."""

    def start_over(self) -> None:
        """Drop what the cell kept if that is at its end already, so that the next run measures it again."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a cell gave, and facts of the run: host, seconds, versions."""

    table: pd.DataFrame
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a cell gave nothing: one line, and where in the code."""

    error: str
    traceback: str
    facts: dict[str, Any]


def identify(cells: Iterable[Cell]) -> tuple[dict[str, Cell], Sources]:
    """The cells by key, in their order, and the digests of all code that they run.

    Raises InputError where a cell cannot be described.
    """
    known: dict[int, tuple[object, Any]] = {}
    classes: dict[str, type] = {}
    keyed: dict[str, Cell] = {}
    sources: Sources = {}
    for cell in cells:
        text = json.dumps(describe(cell, known, classes), sort_keys=True)
        code = {name: source_digest(name) for name in _code_run(text, classes)}
        keyed[hashlib.sha256(f"{text}{json.dumps(code)}".encode()).hexdigest()[:32]] = cell
        sources |= code
    return keyed, sources


def _code_run(description: str, classes: Mapping[str, type]) -> list[str]:
    """What source code the classes in a description and their bases run: packages, this one, its methods.

    Code of others may look up any method by its name, so it runs them all.
    """
    named = set(re.findall(r'"class": "([^"]+)"', description))
    modules = {base.__module__ for name in named if name in classes for base in classes[name].__mro__}
    packages = {OWN, *(module.partition(".")[0] for module in modules)} - sys.stdlib_module_names
    folders = tuple(f"{OWN}.{folder}" for folder in METHODS)
    if packages - OURS:
        return sorted({*packages, *folders})
    return sorted(packages | {module for module in modules if module.rpartition(".")[0] in folders})


def describe(
    value: Any,
    known: dict[int, tuple[object, Any]] | None = None,
    classes: dict[str, type] | None = None,
) -> Any:
    """Everything that a value says, as JSON: objects by class and fields, arrays by their hash.

    A class that stands in no file, as one of a notebook, says its code too. `known` remembers, by
    identity, objects that were described before; `classes` collects their classes by name.
    """
    known = {} if known is None else known
    classes = {} if classes is None else classes
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if id(value) not in known:
        known[id(value)] = value, _describe(value, known, classes)
    return known[id(value)][1]


def _describe(value: Any, known: dict[int, tuple[object, Any]], classes: dict[str, type]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": digest, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, (list, tuple)):
        return [describe(item, known, classes) for item in value]
    if isinstance(value, Mapping):  # in order: it can matter to what draws random numbers
        pairs = value.items()
        return {"mapping": [[describe(part, known, classes) for part in pair] for pair in pairs]}
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
    elif hasattr(value, "__dict__") and not callable(value):
        fields = dict(sorted(vars(value).items()))
    else:
        raise InputError(
            f"{value!r} cannot be described: numbers, text, arrays and dataclasses of them are expected"
        )
    name = f"{kind.__module__}:{kind.__qualname__}"
    classes[name] = kind
    code = {} if _has_file(kind) else {"code": _code_digest(kind)}
    return {"class": name, **code} | {key: describe(item, known, classes) for key, item in fields.items()}


def source_digest(name: str) -> str | None:
    """A hash of the source of a package or module; of this one's, that of `CORE`. None where it has no file.

    It need not be imported yet. Of a single file those beside it that it imports are part, and of any file
    the methods that it uses. What a process has hashed stays as it was, as the code does that it has
    imported, until the module is loaded again.
    """
    if name in _of_the_asker:
        return _of_the_asker[name]
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    before, digest = _digests.get(name, (None, None))
    if digest is None or (before is not None and before is not loaded):
        file = _file(name)
        if file is None:
            return None  # not remembered: it may be installed later
        digest = _digest_of_files(name, file)
    _digests[name] = loaded, digest
    return digest


_digests: dict[str, tuple[ModuleSpec | None, str]] = {}
_of_the_asker: dict[str, str | None] = {}
"""The digest of `__main__` in a worker: that of the process whose script or notebook it is."""


def _has_file(kind: type | FunctionType) -> bool:
    """Whether the code of a class or function stands in a file."""
    package = str(kind.__module__).partition(".")[0]
    return _of_the_asker[package] is not None if package in _of_the_asker else _file(package) is not None


def _file(name: str) -> Path | None:
    """Where a package or module starts, imported or not; None for a notebook's `__main__`."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is None:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)  # executes nothing
    origin = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    if origin is None and spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)), "__init__.py")  # of a namespace: not there
    return Path(origin) if origin is not None and Path(origin).is_file() else None


def _digest_of_files(name: str, file: Path) -> str:
    folder = file.parent
    if name == OWN:
        parts = [folder / part for part in CORE]
    elif file.name == "__init__.py":
        parts = [folder]
    else:
        parts = sorted(_with_neighbours(file, {file}))
    files = [path for part in parts for path in ([part] if part.is_file() else sorted(part.rglob("*.py")))]
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    for path in sorted(_methods_used(files) - set(files)):
        whole.update(f"{path.parent.name}/{path.name}\n".encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def _methods_used(files: Iterable[Path]) -> set[Path]:
    """Files of `METHODS` that these files name as a module, and those that they name, and so on."""
    home = Path(__file__).parents[1]
    found: set[Path] = set()
    for file in files:
        text = file.read_text(errors="replace")
        for folder in METHODS:
            imported = re.findall(rf"from {OWN}\.{folder} import ([^(\n]+|\([^)]*\))", text)
            names = {*re.findall(rf"{OWN}\.{folder}\.(\w+)", text), *re.findall(r"\w+", " ".join(imported))}
            found |= {path for name in names if (path := home / folder / f"{name}.py").is_file()}
    return found if found <= set(files) else _methods_used(found | set(files))


def _with_neighbours(file: Path, found: set[Path]) -> set[Path]:
    """A file that is a module by itself, and what it imports that lies beside it, and so on."""
    if "site-packages" in file.parts or file.suffix != ".py":
        return found
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        else:
            continue
        for name in {name.partition(".")[0] for name in names} - {OWN}:
            module, folder = file.with_name(f"{name}.py"), file.with_name(name)
            if module.is_file() and module not in found:
                found.add(module)
                _with_neighbours(module, found)
            elif (folder / "__init__.py").is_file():
                found.add(folder)
    return found


def _code_digest(kind: type) -> str:
    """A hash of the code of a class that stands in no file: its methods, and what else it uses of there."""
    said: list[str] = []
    _collect_code(kind, said, set())
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


def _collect_code(value: Any, said: list[str], met: set[int]) -> None:
    """Append the code of a function or class and of the functions and classes without a file that it uses."""
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    if isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            _collect_code(part, said, met)
    elif id(value) in met:
        return
    elif isinstance(value, type):
        met.add(id(value))
        said.append(f"class {value.__module__}.{value.__qualname__}")
        if _has_file(value):
            return
        for base in value.__bases__:
            _collect_code(base, said, met)
        for name, item in sorted(vars(value).items()):
            if not name.startswith("__") or isinstance(item, FunctionType):
                said.append(name)
                _collect_code(item, said, met)
    elif isinstance(value, FunctionType):
        met.add(id(value))
        said.append(f"function {value.__module__}.{value.__qualname__}")
        if _has_file(value):
            return
        _collect_instructions(value.__code__, said)
        used = sorted(_global_names(value.__code__) & value.__globals__.keys())
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for item in [*cells, *defaults, *(value.__globals__[name] for name in used)]:
            _collect_code(item, said, met)
    else:
        with contextlib.suppress(InputError):  # a module, say, or what pydantic adds to a class
            said.append(json.dumps(describe(value)))


def _collect_instructions(code: CodeType, said: list[str]) -> None:
    """Append what a code object does, without the lines and files that it stands in."""
    said.append(f"{code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars}")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _collect_instructions(constant, said)
        elif isinstance(constant, frozenset):
            said.append(repr(sorted(map(repr, constant))))
        else:
            said.append(repr(constant))


def _global_names(code: CodeType) -> set[str]:
    """Names that a code object, or one inside it, looks up in its module."""
    loads = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return loads.union(*map(_global_names, inner))


def run_cell(
    cell: Cell, sources: Sources, memory: int | None = None, *, debug: bool = False
) -> Finished | Failed:
    """Run a copy of a cell on one thread, within `memory` bytes more than this process holds already.

    `sources` are the digests of the code that the caller means; a worker with other code fails. Whatever
    the cell raises is an answer, not an exception, unless `debug` lets it through. A copy, since what the
    cell is made of is also part of other cells: nothing that one leaves on it may reach another.
    """
    began = datetime.now(UTC)
    started = time.perf_counter()
    try:
        _same_code(sources)
        with _thread_pools("torch" in sys.modules).limit(limits=1), memory_bound(memory):
            table = copy.deepcopy(cell).run()
    except Exception as error:
        if debug:
            raise
        return Failed(failures.one_line(error), failures.whole(error), _facts(began, started))
    return Finished(table, _facts(began, started) | {str(k): v for k, v in table.attrs.items()})


@functools.cache
def _thread_pools(with_torch: bool) -> ThreadpoolController:
    """Thread pools of BLAS and OpenMP. Finding them takes a millisecond; torch brings its own."""
    return ThreadpoolController()


def _same_code(sources: Sources) -> None:
    for package, digest in sources.items():
        if package == "__main__":  # sent along with the cell: a worker's own is another
            _of_the_asker[package] = digest
            continue
        own = source_digest(package)
        if own is None and digest is not None:
            raise ProtocolError(
                f"the worker on {platform.node()} finds no package '{package}', which the process that asked "
                "has: install it there too"
            )
        if own != digest:
            raise ProtocolError(
                f"the worker on {platform.node()} has other source code of '{package}' ({own}) than the "
                f"process that asked ({digest}): install the same version on both"
            )


@contextlib.contextmanager
def memory_bound(memory: int | None) -> Iterator[None]:
    """A MemoryError rather than a killed process where more than `memory` bytes are taken (Linux)."""
    pa.array([0])  # Arrow reserves a GiB when it is first used: that is no part of the bound
    held = _held()
    if memory is None or held is None:
        yield
        return
    import resource  # there is none on Windows

    before = resource.getrlimit(resource.RLIMIT_DATA)
    set_limits = [limit for limit in before if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([held + memory, *set_limits]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _held() -> int | None:
    """Bytes of private memory that this process has reserved; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    (kibibytes,) = re.findall(r"VmData:\s+(\d+) kB", status)
    return int(kibibytes) * 1024


def _facts(began: datetime, started: float) -> dict[str, Any]:
    return {
        "started": began.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 4),
        **machine(),
    }


@functools.cache
def machine() -> dict[str, Any]:
    """Facts of this host and of what is installed on it."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": versions,
    }


@functools.cache
def commit() -> str | None:
    """The git commit of this program, with `+` where Python files differ from it; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found, changed = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (
                ["rev-parse", "--short=12", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no", "--", ":/*.py"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.strip() + ("+" if changed else "")
