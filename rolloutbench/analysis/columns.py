"""The columns that the tables of a study must have, and the entries of its record.

Tables are files like any other: edited, or made by another version. What is checked here when they are read
need not be asked again by everything that shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rolloutbench.files import Damaged

TEXTS = ("scenario", "allocator", "predictor", "metric")
"""Columns of names; all others that are required hold numbers."""
_INTERVALS = tuple(f"{of}{end}" for of in ("ratio", "difference") for end in ("", "_low", "_high"))
REQUIRED = {
    "summary": ("scenario", "allocator", "metric", "estimate", "low", "high", "replicates", *_INTERVALS),
    "per_replicate": ("scenario", "allocator", "replicate", "metric", "value"),
    "ranking": ("allocator", "metric", "mean_rank", "better", "ratio", "iqm_ratio", "critical_difference"),
    "curves": ("scenario", "allocator", "replicate", "steps", "rollouts"),
    "judged": ("scenario", "predictor", "replicate", "steps"),
}
"""Columns by table; others may stand beside them."""
ENTRIES = (
    *("kind", "sort", "command", "config", "conditions", "captions", "allocators", "scenarios"),
    *("estimator", "aggregation", "replicates", "seed"),
)
"""Entries that the record of every study has."""


ORIGIN = ("machine", "version", "commit", "sources")
"""Entries that a report needs besides, to say where the numbers are from."""
MACHINE = ("packages", "python", "host", "system", "processor", "cores")
"""Entries of a record's `machine` that a report needs."""


def check_columns(name: str, table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return the table. Raises `Damaged` where a column is missing or of the wrong kind."""
    for column in REQUIRED.get(name, ()):
        if column not in table:
            raise Damaged(f"{path}: is damaged: it has no column '{column}'")
        values = table[column]
        if pd.api.types.is_numeric_dtype(values) == (column in TEXTS) and not values.isna().all():
            expected = "names" if column in TEXTS else "numbers"
            raise Damaged(f"{path}: is damaged: column '{column}' should hold {expected}")
        if column in TEXTS and values.isna().any():
            raise Damaged(f"{path}: is damaged: column '{column}' has empty places")
    for column in ("replicate", "steps", "rollouts"):
        if column in REQUIRED.get(name, ()) and not np.isfinite(table[column].to_numpy(np.float64)).all():
            raise Damaged(f"{path}: is damaged: column '{column}' has values that are no numbers")
    return table


def check_record(record: Mapping[str, Any], directory: Path) -> None:
    """Refuse a record that lacks what all results are shown with; raises `Damaged` naming the entry."""
    for name in ENTRIES:
        if name not in record:
            raise Damaged(f"{directory}: its manifest is damaged: the study has no '{name}'")
    unknown = [name for name in record["scenarios"] if name not in record["captions"]]
    if unknown or not record["captions"]:
        raise Damaged(f"{directory}: its manifest is damaged: scenarios have no captions")
    if record["kind"] in ("learning", "training"):
        lacking = [name for name in record["scenarios"] if name not in record.get("steps", {})]
        if lacking or not record.get("learning_rates"):
            raise Damaged(f"{directory}: its manifest is damaged: scenarios have no steps or learning rates")


def check_origin(record: Mapping[str, Any], directory: Path) -> None:
    """Refuse a record that does not say where the numbers are from; raises `Damaged` naming what lacks."""
    lacking = [name for name in ORIGIN if name not in record]
    lacking = lacking or [f"machine.{name}" for name in MACHINE if name not in record["machine"]]
    if lacking or not isinstance(record["machine"]["packages"], dict):
        named = (lacking or ["machine.packages"])[0]
        raise Damaged(f"{directory}: its manifest is damaged: the study has no '{named}'")
