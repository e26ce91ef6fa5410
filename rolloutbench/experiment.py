"""Running cells and putting their results together.

A cell is a pure function from its frozen description to a table in long form, one row for each
replicate and metric, so cells may run anywhere and in any order. Results of a study go to a new
directory that appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import pandas as pd

from rolloutbench.protocol import InputError
from rolloutbench.statistics import mean_interval, ratio_interval

BASELINE = "uniform"
"""Every study runs it, and every ratio is against it."""

MARKER = "conditions.json"
"""The file by which a directory is known to hold results of this program."""


class Cell(Protocol):
    """A description of something to run. It must be picklable."""

    def run(self) -> pd.DataFrame:
        """Columns scenario, allocator, replicate, metric, value."""


def run_cells(cells: Sequence[Cell], jobs: int) -> Iterator[pd.DataFrame]:
    """Results of the cells in their order, as they come, on `jobs` processes."""
    if jobs == 1:
        yield from (cell.run() for cell in cells)
    else:
        with _interrupts_ignored():
            results = joblib.Parallel(n_jobs=jobs, return_as="generator")(
                joblib.delayed(cell.run)() for cell in cells
            )
        with warnings.catch_warnings():
            # After a failure joblib tells of results that nobody took.
            warnings.filterwarnings("ignore", r"\d+ tasks? ", UserWarning, r"joblib\.parallel")
            yield from results


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Workers started here inherit that they ignore Ctrl-C, which is for this process to answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def summarise(per_replicate: pd.DataFrame) -> pd.DataFrame:
    """Mean, ratio to and difference from uniform of every metric, with 95% intervals, paired by replicate.

    Columns: scenario, allocator, metric, estimate, low, high, replicates, ratio, ratio_low, ratio_high,
    difference, difference_low, difference_high. Rows keep the order in which scenarios, allocators and
    metrics first appear.
    """
    keys = ["scenario", "allocator", "metric"]
    wide = per_replicate.pivot_table(
        index=keys, columns="replicate", values="value", sort=False, dropna=False, observed=True
    )
    wide = wide.loc[wide.notna().any(axis=1)]
    values = wide.to_numpy(dtype=np.float64)
    index = wide.index.to_frame(index=False)
    uniform = pd.MultiIndex.from_frame(index.assign(allocator=BASELINE))
    baseline = wide.reindex(uniform).to_numpy(dtype=np.float64)
    mean, ratio = mean_interval(values), ratio_interval(values, baseline)
    difference = mean_interval(values - baseline)
    return index.assign(
        estimate=mean.estimate,
        low=mean.low,
        high=mean.high,
        replicates=np.count_nonzero(~np.isnan(values), axis=1),
        ratio=ratio.estimate,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        difference=difference.estimate,
        difference_low=difference.low,
        difference_high=difference.high,
    )


@contextlib.contextmanager
def output_directory(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A directory to write to that becomes `path` at the end, or vanishes if anything fails.

    Raises InputError, before anything is computed, where `path` cannot be made or holds something
    else. Earlier results of this program are replaced with `overwrite`.
    """
    path = Path(os.path.realpath(path))  # a link is followed, never replaced
    exists = os.path.isdir(path)  # unlike Path.is_dir, also False for a name that is too long
    if os.path.lexists(path) and not exists:
        raise InputError(f"out={path}: is a file")
    if exists and any(path.iterdir()):
        if not (path / MARKER).exists():
            raise InputError(f"out={path}: is not empty, and holds no results of rolloutbench")
        if not overwrite:
            raise InputError(f"out={path}: holds results already; --overwrite replaces them")
    parent = path if exists else path.parent
    made = [above for above in path.parents if not os.path.exists(above)]
    unfinished = None
    try:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".unfinished", dir=parent))
        except OSError as error:
            raise InputError(f"out={path}: cannot be written: {error.strerror}") from None
        yield unfinished
        _publish(unfinished, path)
    except BaseException:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        for above in made:
            with contextlib.suppress(OSError):
                above.rmdir()
        raise


def _publish(unfinished: Path, path: Path) -> None:
    """Give it its name, or put what it holds in the place of earlier results.

    A directory that was there stays the same one: it may be a mount, or where the user stands. Files
    that are not of this program stay too.
    """
    unfinished.chmod(0o755)
    if not os.path.isdir(path):
        unfinished.rename(path)
        return
    (path / MARKER).unlink(missing_ok=True)
    for new in sorted(unfinished.iterdir(), key=lambda new: new.name == MARKER):
        old = path / new.name
        if old.is_dir():
            shutil.rmtree(old)
        new.rename(old)
    unfinished.rmdir()
