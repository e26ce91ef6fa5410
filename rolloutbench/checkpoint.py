"""The state of a run in one safetensors file: arrays as tensors, everything else as JSON in its header.

A digest of both stands in the header too, so whatever happened to a file is noticed when it is read. A run
keeps two: the newest, and the one before for the case that the newest is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import RootModel
from safetensors import safe_open
from safetensors.numpy import save as save_arrays

from rolloutbench.files import Damaged, parse_json, write_whole
from rolloutbench.protocol import InputError, State

SEPARATOR = "\t"
"""Separator between the keys of nested states; no key contains it."""
NEWEST, EARLIER = "checkpoint.safetensors", "earlier.safetensors"
"""Names of a run's two checkpoints in its directory."""


def save(path: Path, state: State, earlier: Path | None = None) -> None:
    """Save a state whole or not at all, whenever the process is killed; keep what was there as `earlier`.

    Raises InputError where it cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    others: dict[str, Any] = {}
    for name, value in _leaves(state):
        if isinstance(value, np.ndarray):
            arrays[name] = np.ascontiguousarray(value)  # which makes scalars 1-d
            if value.ndim == 0:
                others[name + SEPARATOR] = "scalar"
        else:
            others[name] = value.item() if isinstance(value, np.generic) else value
    text = json.dumps(others)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if earlier is not None and path.exists():
            _set_aside(path, earlier)
        write_whole(path, save_arrays(arrays, {"state": text, "sha256": _digest(arrays, text)}))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def load(path: Path) -> State:
    """Load the state that `save` wrote. Raises `Damaged` where the file is not as it was written."""
    try:
        with safe_open(path, framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            about = file.metadata()
            text = about["state"]
            if about["sha256"] != _digest(found, text):
                raise ValueError("its content is not what was written")
            others = parse_json(text, RootModel[dict[str, Any]], "its header").root
            for name in [name for name in others if name.endswith(SEPARATOR)]:
                del others[name]
                found[name[:-1]] = found[name[:-1]].reshape(())
    except Exception as error:  # its own kinds, and those of a header that lacks something
        raise Damaged(f"{path}: is no checkpoint of a run: {error}") from None
    state: State = {}
    for name, value in {**found, **others}.items():
        *folders, last = name.split(SEPARATOR)
        inner = state
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return state


def look_into(path: Path, *names: tuple[str, ...]) -> list[Any] | None:
    """Values of a checkpoint by their keys, read without the rest; None where there is none to be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            others = parse_json(file.metadata()["state"], RootModel[dict[str, Any]], "its header").root
            keys = [SEPARATOR.join(name) for name in names]
            return [others[key] if key in others else file.get_tensor(key) for key in keys]
    except Exception:  # it is not there, or damaged, which whoever goes on from it will say
        return None


def load_newest(directory: Path) -> tuple[State | None, list[str]]:
    """The state of the newest checkpoint in a run's directory that can be read; None where there is none.

    Also returns a line for each that could not be read: it is removed, so that the run can go on.
    """
    notes: list[str] = []
    for name in (NEWEST, EARLIER):
        path = directory / name
        if path.exists():
            try:
                return load(path), notes
            except Damaged as error:
                path.unlink()
                notes.append(f"{error}; it is discarded")
    return None, notes


def remove(directory: Path) -> None:
    """Remove a run's checkpoints."""
    for name in (NEWEST, EARLIER):
        (directory / name).unlink(missing_ok=True)


def _set_aside(path: Path, earlier: Path) -> None:
    """Give a file a second name, under which it stays when the first is replaced."""
    earlier.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(path, earlier)
        return
    shutil.copyfile(path, earlier)  # where the file system knows no links


def _digest(arrays: Mapping[str, npt.NDArray[Any]], text: str) -> str:
    """A hash of names, types, shapes and bytes of arrays, and of the JSON beside them."""
    whole = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        whole.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def _leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}{SEPARATOR}")
        else:
            yield f"{prefix}{key}", value
