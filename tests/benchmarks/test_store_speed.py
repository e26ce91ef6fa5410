"""What a study costs beside its cells: overhead of a trivial cell, and opening a store of many.

python -m pytest tests/benchmarks/test_store_speed.py --benchmark-only
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import pandas as pd
import pytest

from rolloutbench.cells.cell import Finished, identify
from rolloutbench.cells.executors import Local
from rolloutbench.cells.store import ListedCell, open_store

CELLS, STORED = 1_000, 10_000


@dataclass(frozen=True)
class Trivial:
    number: int
    part = ("s", "a")

    @property
    def label(self):
        return f"cell {self.number}"

    def run(self):
        return pd.DataFrame({"number": [self.number]})


def entries(keyed):
    return {key: ListedCell(cell.label, cell.part) for key, cell in keyed.items()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_overhead_of_a_trivial_cell(timed, tmp_path, jobs):
    """Key, run, store and read; the processes start with the first cell, so that is in it too."""

    def study() -> None:
        keyed, sources = identify(Trivial(number) for number in range(CELLS))
        with open_store(tmp_path / "out", {}, entries(keyed)) as store:
            for key, result in Local(jobs).run(keyed, sources):
                assert isinstance(result, Finished)
                store.finish(key, result, {})
            assert len(list(store.read())) == CELLS
        shutil.rmtree(tmp_path / "out")

    timed(f"1,000 trivial cells, {jobs} job{'s' * (jobs > 1)}", study, rounds=3)


def test_opening_a_store_of_many_cells(timed, tmp_path):
    """Every file is read, and its checksum compared."""
    keyed, _ = identify(Trivial(number) for number in range(STORED))
    with open_store(tmp_path / "out", {}, entries(keyed)) as store:
        for key, cell in keyed.items():
            store.finish(key, Finished(cell.run(), {}), {})

    def reopened() -> None:
        with open_store(tmp_path / "out", {}, entries(keyed)) as store:
            assert len(store.finished) == STORED

    timed("opening a store of 10,000 cells", reopened, rounds=5)
