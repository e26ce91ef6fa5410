"""Cells: what is run, under which name, and what comes of it.

A cell is a pure function from its frozen description to a table, so cells may run anywhere and in any
order, and one that was run need never run again. Its key is a hash of the whole description, defaults
included, and of the source code that it runs: results of other conditions or other code have other keys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
from threadpoolctl import ThreadpoolController

from rolloutbench.protocol import InputError, ProtocolError

CORE = (
    "allocators",
    "estimators.py",
    "loop.py",
    "metrics.py",
    "objectives.py",
    "optional.py",
    "predictors",
    "protocol.py",
    "registry.py",
    "score_bank.py",
    "solvers",
)
"""The part of this package that cells run; the rest looks at their results."""

PACKAGES = ("numpy", "scipy", "pandas", "pyarrow", "torch", "gpytorch", "transformers", "vllm")
"""Libraries whose versions are recorded with a result."""


Part: TypeAlias = tuple[str, str]
"""Scenario and allocator."""
Sources: TypeAlias = dict[str, str | None]
"""A digest of the source code of each package that a cell runs."""


class Cell(Protocol):
    """A description of something to run: a picklable dataclass whose fields say everything that matters.

    A field declared with `compare=False` is no part of it.
    """

    @property
    def part(self) -> Part:
        """Scenario and allocator: what its table is a part of, and useless without the rest of."""

    @property
    def label(self) -> str:
        """What people call it."""

    def run(self) -> pd.DataFrame:
        """The results. What is measured of this machine goes into `attrs`: never the same twice, no data."""


@runtime_checkable
class Resumable(Protocol):
    """A cell that keeps what it did so far, so that it goes on from there after a kill."""

    def forget(self) -> None:
        """Its table is stored, what it kept may go."""


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
    keyed: dict[str, Cell] = {}
    sources: Sources = {}
    for cell in cells:
        text = json.dumps(describe(cell, known), sort_keys=True)
        code = {package: source_digest(package) for package in _packages(text)}
        keyed[hashlib.sha256(f"{text}{json.dumps(code)}".encode()).hexdigest()[:32]] = cell
        sources |= code
    return keyed, sources


def _packages(description: str) -> list[str]:
    """The top-level packages of the classes in a description, and this one."""
    return sorted({__package__, *re.findall(r'"class": "(\w+)', description)})


def describe(value: Any, known: dict[int, tuple[object, Any]] | None = None) -> Any:
    """Everything that a value says, as JSON: objects by class and fields, arrays by their hash.

    `known` remembers, by identity, objects that were described before.
    """
    known = {} if known is None else known
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if id(value) not in known:
        known[id(value)] = value, _describe(value, known)
    return known[id(value)][1]


def _describe(value: Any, known: dict[int, tuple[object, Any]]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return {"array": digest, "dtype": str(value.dtype), "shape": list(value.shape)}
    if isinstance(value, (list, tuple)):
        return [describe(item, known) for item in value]
    if isinstance(value, Mapping):  # in order: it can matter to what draws random numbers
        return {"mapping": [[describe(key, known), describe(item, known)] for key, item in value.items()]}
    kind = type(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.compare}
    elif hasattr(value, "__dict__") and not callable(value):
        fields = dict(sorted(vars(value).items()))
    else:
        raise InputError(
            f"{value!r} cannot be described: numbers, text, arrays and dataclasses of them are expected"
        )
    return {"class": f"{kind.__module__}:{kind.__qualname__}"} | {
        name: describe(item, known) for name, item in fields.items()
    }


@functools.cache
def source_digest(package: str) -> str | None:
    """A hash of a package's source; of this one's, that of `CORE`. None where there are no files."""
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    folder = Path(file).parent
    if package == __package__:
        parts = [folder / name for name in CORE]
    else:
        parts = [folder if Path(file).name == "__init__.py" else Path(file)]
    files = [path for part in parts for path in ([part] if part.is_file() else sorted(part.rglob("*.py")))]
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return whole.hexdigest()[:16]


def run_cell(cell: Cell, sources: Sources, memory: int | None = None) -> Finished | Failed:
    """Run a cell on one thread, within `memory` bytes more than this process holds already.

    `sources` are the digests of the code that the caller means; a worker with other code fails. Whatever
    the cell raises is an answer, not an exception.
    """
    began = datetime.now(UTC)
    started = time.perf_counter()
    try:
        _same_code(sources)
        with _thread_pools("torch" in sys.modules).limit(limits=1), memory_bound(memory):
            table = cell.run()
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        known = isinstance(error, (InputError, ProtocolError))
        line = said if known else f"{type(error).__name__}: {said}"
        return Failed(line, traceback.format_exc(), _facts(began, started))
    return Finished(table, _facts(began, started) | {str(k): v for k, v in table.attrs.items()})


@functools.cache
def _thread_pools(with_torch: bool) -> ThreadpoolController:
    """Those of BLAS and OpenMP. Finding them takes a millisecond; torch, where it is used, brings its own."""
    return ThreadpoolController()


def _same_code(sources: Sources) -> None:
    for package, digest in sources.items():
        own = source_digest(package)
        if package != "__main__" and own != digest:
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
    """This host and what is installed on it."""
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
