"""Score banks: rewards and projected gradient scores of many rollouts of a real model, recorded once.

The score of a rollout is the gradient of the log-probability of its whole response with respect to the
weights. A bank holds random projections of scores (sketches) whose inner products are right on average,
so the gradient of any group that could be drawn from it, and hence its variance, is a sum over rows.

    DIR/bank.parquet     a row a rollout: prompt, step, reward, raw, norm, length, sketch
    DIR/prompts.parquet  optional, a row a prompt in order of id: prompt, features, and what else is known

Sketches are stored in half precision, divided by a power of two that stands in the file's metadata: the
largest number of a bank is near the top of the format's range, so one a hundred million times smaller still
has all of its 11 bits.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from rolloutbench.files import Schema, parse_json, write_whole
from rolloutbench.protocol import BoolArray, FeatureArray, InputError, IntArray
from rolloutbench.registry import nearest

BANK, PROMPTS = "bank.parquet", "prompts.parquet"
_METADATA = b"rolloutbench.score_bank"
_TOP = 15
"""The largest exponent of a stored number: half precision ends below 2^16."""
_SCALARS = {
    "prompt": ("prompts", np.int64),
    "step": ("steps", np.int64),
    "reward": ("rewards", np.int64),
    "raw": ("raw", np.float32),
    "norm": ("norms", np.float32),
    "length": ("lengths", np.int32),
}
"""Columns of one number a row: their fields and types."""


class _BankFacts(Schema):
    """What stands in the metadata of a bank: the power of two, the other file's checksum, a description."""

    scale: Annotated[int, Field(ge=-1000, le=1000)]
    prompts: str | None
    about: dict[str, Any]


@dataclass(frozen=True)
class ScoreBank:
    """The scores of N rollouts of one model, with what is known of each rollout.

    `prompts` (N,): ids in a pool. `steps` (N,): training steps after which they were sampled. `rewards`
    (N,): 0 or 1. `raw` (N,): what the verifier said. `norms` (N,): lengths of the scores. `lengths` (N,):
    response tokens. `sketches` (N, D), single precision: projected scores. `features` (Q, d): of prompts
    0..Q-1, or none. `about`: task, model, temperature and the like; JSON values.
    """

    prompts: IntArray
    steps: IntArray
    rewards: IntArray
    raw: FeatureArray
    norms: FeatureArray
    lengths: npt.NDArray[np.integer[Any]]
    sketches: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: IntArray | BoolArray) -> ScoreBank:
        """Select rollouts by index or mask; features and description stay."""
        chosen = {entry.name: getattr(self, entry.name)[rows] for entry in fields(self)[:7]}
        return replace(self, **chosen)

    def at(self, step: int) -> ScoreBank:
        """Select the rollouts of one step. Raises InputError where there are none."""
        here = self.steps == step
        if not here.any():
            known = ", ".join(map(str, np.unique(self.steps)))
            raise InputError(f"step={step}: the bank has rollouts of steps {known}")
        return self[here]


def write_bank(bank: ScoreBank, directory: Path, known: Mapping[str, Any] | None = None) -> None:
    """Write a bank into a directory, which is made; a bank that stands there is replaced.

    `known` has further columns of `prompts.parquet`, such as text, answer and level: Q values each. Each
    file is whole or absent whenever the process is killed, and the two name each other: files of two
    different banks are not read as one.

    Raises ValueError where the bank is not what `ScoreBank` says.
    """
    fault = _fault(bank)
    if fault:
        raise ValueError(fault)
    directory.mkdir(parents=True, exist_ok=True)
    prompts, checksum = _prompt_table(bank, known or {}), None
    if prompts is not None:
        content = _parquet(prompts)
        checksum = hashlib.sha256(content).hexdigest()
        write_whole(directory / PROMPTS, content)
    largest = float(np.abs(bank.sketches).max(initial=0.0))
    mantissa, exponent = np.frexp(largest)
    exponent = int(exponent + np.frexp(np.float16(mantissa))[1]) - _TOP  # 0.9999 is stored as 1
    halves = np.ldexp(bank.sketches, -exponent).astype(np.float16)
    columns = {name: pa.array(getattr(bank, at).astype(kind)) for name, (at, kind) in _SCALARS.items()}
    columns["sketch"] = _lists(halves)
    about = json.dumps({"scale": exponent, "prompts": checksum, "about": bank.about}, allow_nan=False)
    table = pa.table(columns).replace_schema_metadata({_METADATA: about.encode()})
    write_whole(directory / BANK, _parquet(table))


def read_bank(path: Path) -> ScoreBank:
    """Read the bank in a directory, or of a `bank.parquet`.

    Raises InputError where there is none, where it is damaged, and where a column is missing or has a
    value that it cannot have.
    """
    path = Path(path)
    path = path / BANK if os.path.isdir(path) else path
    table = _read(path)
    try:
        said = parse_json((table.schema.metadata or {})[_METADATA], _BankFacts, str(path))
    except KeyError:
        raise InputError(f"{path}: is no score bank: its metadata lack '{_METADATA.decode()}'") from None
    exponent, checksum, about = said.scale, said.prompts, said.about
    found = {at: _numbers(table, name, path) for name, (at, _) in _SCALARS.items()}
    sketches = np.ldexp(_matrix(table, "sketch", path).astype(np.float32), exponent)
    features = None
    if checksum is not None:
        beside = path.with_name(PROMPTS)
        prompts = _read(beside)
        if hashlib.sha256(beside.read_bytes()).hexdigest() != checksum:
            raise InputError(f"{beside}: is not the file that {path.name} was written with")
        if "features" in prompts.column_names:
            features = _matrix(prompts, "features", beside).astype(np.float32)
    bank = ScoreBank(**found, sketches=sketches, features=features, about=about)
    fault = _fault(bank)
    if fault:
        raise InputError(f"{path}: {fault}")
    return bank


def _fault(bank: ScoreBank) -> str | None:
    """What is wrong with a bank, in one line; None where nothing is."""
    rows = len(bank.prompts)
    if not rows:
        return "holds no rollouts"
    for name, (at, _) in _SCALARS.items():
        values = getattr(bank, at)
        low, high = (-np.inf if name == "raw" else 0), (1 if name == "reward" else np.inf)
        if values.shape != (rows,):
            return f"column '{name}' has the shape {values.shape}, not ({rows},)"
        bad = ~(np.isfinite(values) & (values >= low) & (values <= high))
        if name == "reward":
            bad |= (values != 0) & (values != 1)
        if bad.any():
            row = int(np.argmax(bad))
            allowed = {"raw": "a number", "reward": "0 or 1"}.get(name, "a number of at least 0")
            return f"column '{name}', row {row + 1}: {values[row]}: {allowed} is expected"
    if bank.sketches.ndim != 2 or len(bank.sketches) != rows or not bank.sketches.shape[1]:
        return f"column 'sketch' has the shape {bank.sketches.shape}, not ({rows}, at least 1)"
    if not np.isfinite(bank.sketches).all():
        row = int(np.argmax(~np.isfinite(bank.sketches).all(axis=1)))
        return f"column 'sketch', row {row + 1}: finite numbers are expected"
    if bank.features is not None:
        if bank.features.ndim != 2 or len(bank.features) <= bank.prompts.max():
            most = int(bank.prompts.max()) + 1
            return f"features have the shape {bank.features.shape}, not (at least {most}, d)"
        if not np.isfinite(bank.features).all():
            return "features: finite numbers are expected"
    return None


def _prompt_table(bank: ScoreBank, known: Mapping[str, Any]) -> pa.Table | None:
    columns = {name: pa.array(list(values)) for name, values in known.items()}
    if bank.features is not None:
        columns["features"] = _lists(bank.features.astype(np.float32))
    if not columns:
        return None
    sizes = {len(values) for values in columns.values()}
    if len(sizes) > 1:
        raise ValueError(f"columns of {PROMPTS} have different lengths: {sorted(sizes)}")
    return pa.table({"prompt": pa.array(np.arange(sizes.pop())), **columns})


def _lists(matrix: npt.NDArray[Any]) -> pa.Array:
    flat = np.ascontiguousarray(matrix).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1])


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _read(path: Path) -> pa.Table:
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    try:
        return pq.ParquetFile(path).read()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {str(error.strerror or error).partition(chr(10))[0]}"
        ) from None
    except Exception as error:  # pyarrow raises many kinds for a damaged file
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: is no readable Parquet file: {reason}") from None


def _column(table: pa.Table, name: str, path: Path) -> pa.Array:
    if name not in table.column_names:
        raise InputError(f"{path}: has no column '{name}': {nearest(name, table.column_names)}")
    values = table.column(name).combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # what some versions make of no rows or of one chunk
        values = values.chunk(0) if values.num_chunks else pa.array([], values.type)
    if values.null_count:
        raise InputError(f"{path}: column '{name}' has missing values")
    return values


def _numbers(table: pa.Table, name: str, path: Path) -> npt.NDArray[Any]:
    values = _column(table, name, path)
    whole = np.issubdtype(_SCALARS[name][1], np.integer)
    if not (pa.types.is_integer(values.type) or (pa.types.is_floating(values.type) and not whole)):
        wanted = "whole numbers" if whole else "numbers"
        raise InputError(f"{path}: column '{name}' is of type {values.type}: {wanted} are expected")
    numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    converted = numbers.astype(_SCALARS[name][1])
    if whole and (converted != numbers).any():
        raise InputError(f"{path}: column '{name}': {numbers[converted != numbers][0]}: too large")
    return converted


def _matrix(table: pa.Table, name: str, path: Path) -> npt.NDArray[Any]:
    lists = _column(table, name, path)
    kind = lists.type
    if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
        raise InputError(f"{path}: column '{name}' is of type {kind}: a fixed number of reals is expected")
    values = lists.flatten()
    if values.null_count:
        raise InputError(f"{path}: column '{name}' has missing values")
    matrix: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(lists), kind.list_size)
    return matrix
