"""Columns of numbers from users' files: CSV or Parquet, read strictly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import nearest


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (.csv, .txt) or Parquet (.parquet) file. Raises InputError where it cannot be read."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # pandas and pyarrow raise many kinds for a damaged file
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: is no readable {'Parquet' if path.suffix == '.parquet' else 'CSV'} file: {reason}"
        ) from None
    if table.empty:
        raise InputError(f"{path}: holds no rows")
    return table


def column(
    table: pd.DataFrame, name: str, path: Path, low: float = -np.inf, high: float = np.inf
) -> FloatArray:
    """A column of finite numbers in [low, high]. Raises InputError naming the first bad row."""
    if name not in table.columns:
        raise InputError(f"{path}: has no column '{name}': {nearest(name, map(str, table.columns))}")
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
    bad = ~(np.isfinite(values) & (values >= low) & (values <= high))
    if bad.any():
        row = int(np.argmax(bad))
        allowed = f"a number in [{low:g}, {high:g}]" if np.isfinite(high) else f"a number of at least {low:g}"
        raise InputError(
            f"{path}: column '{name}', row {row + 1}: {table[name].iloc[row]}: {allowed} is expected"
        )
    return values
