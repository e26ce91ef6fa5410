"""Columns of numbers from users' files: CSV or Parquet, read strictly."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import nearest


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (.csv, .txt) or Parquet (.parquet) file. Raises InputError where it cannot be read."""
    if os.path.isdir(path):
        raise InputError(f"{path}: is a directory, not a file")
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that is too long
        raise InputError(f"{path}: no such file")
    is_parquet = path.suffix.lower() == ".parquet"
    try:
        table = pd.read_parquet(path) if is_parquet else pd.read_csv(path, low_memory=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # pandas and pyarrow raise many kinds for a damaged file
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: is no readable {'Parquet' if is_parquet else 'CSV'} file: {reason}"
        ) from None
    if not is_parquet and not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path}: its rows have more cells than the header has columns")
    if table.empty:
        raise InputError(f"{path}: holds no rows")
    return table


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
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(values) & (values >= low) & (values <= high))
    if whole:
        bad |= values != np.rint(values)
    if bad.any():
        row = int(np.argmax(bad))
        kind = "a whole number" if whole else "a number"
        allowed = f"{kind} in [{low:g}, {high:g}]" if np.isfinite(high) else f"{kind} of at least {low:g}"
        raise InputError(
            f"{path}: column '{name}', row {row + 1}: {table[name].iloc[row]}: {allowed} is expected"
        )
    return values
