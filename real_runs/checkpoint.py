"""The state of a run in one safetensors file: arrays as tensors, everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rolloutbench.optional import need
from rolloutbench.protocol import InputError, State
from rolloutbench.store import write_whole

SEPARATOR = "\t"
"""Between the keys of nested states: no key has one."""


def save(path: Path, state: State) -> None:
    """All of it or nothing, whenever the process is killed. Raises InputError where it cannot be written."""
    numpy_format = need("safetensors.numpy", "llm")
    arrays: dict[str, npt.NDArray[Any]] = {}
    others: dict[str, Any] = {}
    for name, value in _leaves(state):
        if isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value)  # which makes scalars 1-d
            if value.ndim == 0:
                others[name + SEPARATOR] = "scalar"
        else:
            others[name] = value.item() if isinstance(value, np.generic) else value
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, numpy_format.save(arrays, {"state": json.dumps(others)}))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def load(path: Path) -> State:
    """What was saved. Raises InputError where the file is damaged."""
    opened = need("safetensors", "llm").safe_open
    try:
        with opened(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            others = json.loads(file.metadata()["state"])
    except Exception as error:  # its own kinds, and those of json
        raise InputError(f"{path}: is no checkpoint of a run: {error}; delete it to start anew") from None
    for name in [name for name in others if name.endswith(SEPARATOR)]:
        del others[name]
        found[name[:-1]] = found[name[:-1]].reshape(())
    state: State = {}
    for name, value in {**found, **others}.items():
        *folders, last = name.split(SEPARATOR)
        inner = state
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return state


def _leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}{SEPARATOR}")
        else:
            yield f"{prefix}{key}", value
