"""Tables from users' files, read strictly: CSV, TSV, JSON, JSON lines, these also gzipped, or Parquet."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import nearest

FORMATS = {
    ".csv": "CSV",
    ".txt": "CSV",
    ".tsv": "TSV",
    ".json": "JSON",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".parquet": "Parquet",
}
"""Formats by the suffix of a file's name, `.gz` aside; other files are taken for CSV."""
IDENTIFIERS = ("id", "prompt_id", "uid", "question_id", "problem_id", "prompt", "question", "problem")
"""Columns that say which prompt a row is about, the likeliest first."""


def suffix_of(path: Path) -> str:
    """The suffix of a file's name in lower case, without `.gz`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_table(path: Path) -> pd.DataFrame:
    """Rows of a file in one of `FORMATS`; column names lose the space around them.

    Raises InputError where the file cannot be read.
    """
    if os.path.isdir(path):
        raise InputError(f"{path}: is a directory, not a file")
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that is too long
        raise InputError(f"{path}: no such file")
    kind = FORMATS.get(suffix_of(path), "CSV")
    try:
        table = _read(path, kind)
    except InputError:
        raise
    except (EOFError, gzip.BadGzipFile):
        raise InputError(f"{path}: is no readable gzip file: it is damaged, or cut") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # pandas and pyarrow raise many kinds for a damaged file
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: is no readable {kind} file: {reason}") from None
    if kind in ("CSV", "TSV") and not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path}: its rows have more cells than the header has columns")
    if table.empty:
        raise InputError(f"{path}: holds no rows")
    names = [str(name).strip() for name in table.columns]
    if len({*names}) == len(names):
        table.columns = pd.Index(names)
    return table


def _read(path: Path, kind: str) -> pd.DataFrame:
    if kind == "Parquet":
        return pd.read_parquet(path)
    if kind in ("CSV", "TSV"):
        as_written = dict.fromkeys(("id", "prompt_id", "uid"), str)  # 007 stays 007
        return pd.read_csv(path, sep="\t" if kind == "TSV" else ",", low_memory=False, dtype=as_written)
    if kind == "JSON":
        with opened(path) as file:
            content = file.read()
        try:
            rows = json.loads(content.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":
                raise
        else:
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise InputError(f"{path}: a list of objects is expected, [{{...}}, {{...}}]")
            return pd.DataFrame(rows)
    return pd.DataFrame([row for _, row in json_lines(path)])


LONGEST_LINE = 16 * 2**20
"""Bytes of a line of JSON: far more than a prompt that fits a model."""


def opened(path: Path) -> Any:
    """A file's bytes, unpacked where its name ends in `.gz`. Raises InputError for a device or a pipe."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path}: is no regular file")
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def json_lines(path: Path, called: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a file with one JSON object a line; empty lines are passed over.

    `called` is what messages call the file.

    Raises InputError naming the line, or OSError where the file cannot be read.
    """
    with opened(path) as lines:
        whole = iter(lambda: lines.readline(LONGEST_LINE + 1), b"")
        for number, line in enumerate(whole, start=1):
            if len(line) > LONGEST_LINE:
                raise InputError(f"{called or path}, line {number}: is longer than {LONGEST_LINE} bytes")
            if line.strip():
                yield number, _object(line, f"{called or path}, line {number}")


def _object(line: bytes, here: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{here}: this is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{here}: this is not JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:  # too deep, or a number too long
        raise InputError(f"{here}: this cannot be read: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{here}: expected an object {{...}}, not {type(row).__name__}")
    return row


def identifiers(table: pd.DataFrame) -> str | None:
    """The first of `IDENTIFIERS` that a table has as a column of plain values."""
    for name in IDENTIFIERS:
        if name in table and not isinstance(table[name].iloc[0], list | dict | np.ndarray):
            return name
    return None


def column(
    table: pd.DataFrame,
    name: str,
    path: Path,
    low: float = -np.inf,
    high: float = np.inf,
    whole: bool = False,
) -> FloatArray:
    """A column of finite numbers in [low, high], whole ones on request.

    Raises InputError naming the first bad row.
    """
    if name not in table:
        raise InputError(f"{path}: has no column '{name}': {nearest(name, map(str, table.columns))}")
    values = numbers(table[name])
    bad = ~(np.isfinite(values) & (values >= low) & (values <= high))
    if whole:
        bad |= values != np.rint(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{path}: column '{name}', row {row + 1}: {table[name].iloc[row]}: "
            f"{allowed(low, high, whole)} is expected"
        )
    return values


def numbers(values: pd.Series[Any]) -> FloatArray:
    """A column as numbers, NaN where it has something else."""
    return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)


def allowed(low: float, high: float, whole: bool = False) -> str:
    """What is expected of a number, in words."""
    kind = "a whole number" if whole else "a number"
    return f"{kind} in [{low:g}, {high:.10g}]" if np.isfinite(high) else f"{kind} of at least {low:g}"
