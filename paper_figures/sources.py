"""Where numbers come from: recorded studies, and what the papers published.

A figure asks for rows and columns of a study's tables through `Sources`, which remembers what was asked:
`keep` writes just that, so that a recorded study is as small as its figures allow.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from paper_figures.drawing import COLUMNS, PUBLISHED, Layout
from rolloutbench.analysis.results import Results
from rolloutbench.cells.store import Manifest, read_manifest, write_manifest
from rolloutbench.protocol import BoolArray, InputError
from rolloutbench.studies.kinds import open_results

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"
"""Folder of recorded studies, in a checkout; an installed package is without them."""
RECORDED = (
    "--results takes the folder results/ of a clone of https://github.com/rolloutbench/rolloutbench, which "
    "has it"
)
"""What to do where something recorded is missing."""
STUDIES = HERE / "studies"
"""Folder of the studies' descriptions."""
KEYS = ("scenario", "allocator", "predictor", "rate", "replicate", "steps", "epoch", "metric", "value")
"""Columns that say what a row is of."""


@dataclass(frozen=True)
class Asked:
    """Record of what was asked of a table: rows, by the values of some columns, and further columns."""

    table: str
    columns: tuple[str, ...]
    only: dict[str, tuple[str, ...]]

    def rows(self, table: pd.DataFrame) -> BoolArray:
        """Mask (N,) of the rows of the table that are meant."""
        meant = np.ones(len(table), dtype=bool)
        for name, values in self.only.items():
            meant &= table[name].isin(values).to_numpy()
        return meant


@dataclass
class Sources:
    """Source of the studies in `directory`. `quick` asks for computed numbers with less precision."""

    directory: Path = RESULTS
    quick: bool = False
    asked: dict[str, list[Asked]] = field(default_factory=dict, repr=False)
    _opened: dict[str, Results] = field(default_factory=dict, repr=False)

    def results(self, study: str) -> Results:
        """Open a study's results; one that cannot be run again here is read where it was recorded.

        Raises InputError where it is not there.
        """
        if study not in self._opened:
            path = self.directory / study
            if is_runnable(study) and not path.is_dir():
                raise InputError(f"{path}: no such study; --run runs it, {RECORDED}")
            path = path if is_runnable(study) else self.recorded(study)
            self._opened[study], self.asked[study] = open_results(path), []
        return self._opened[study]

    def recorded(self, name: str) -> Path:
        """Path of what was recorded once and is not run again: where studies are, or else in the checkout.

        Raises InputError where it is in neither.
        """
        paths = [folder / name for folder in (self.directory, RESULTS)]
        found = next((path for path in paths if path.exists()), None)
        if found is None:
            raise InputError(f"{paths[0]}: is not there, and was recorded once; {RECORDED}")
        return found

    def table(
        self, study: str, name: str, columns: Sequence[str] = (), **only: Sequence[str]
    ) -> pd.DataFrame:
        """Rows of a study's table in which the `only` columns have these values: keys and `columns`.

        `curves`, `per_replicate` and `judged` are tables; `summary` too, which is always recorded whole.
        """
        whole = self.results(study).read(name)
        asked = Asked(name, tuple(columns), {key: tuple(values) for key, values in only.items()})
        self.asked[study].append(asked)
        lacking = [name for name in (*columns, *only) if name not in whole]
        if lacking:
            raise InputError(
                f"{self.directory / study}: its {name} has no column {lacking[0]}; record it anew"
            )
        kept = [name for name in whole.columns if name in KEYS or name in columns]
        return whole.loc[asked.rows(whole), kept].reset_index(drop=True)

    def curves(self, study: str, *columns: str, allocators: Sequence[str] = ()) -> pd.DataFrame:
        """Training curves with these columns, of these allocators or of all."""
        only = {"allocator": allocators} if allocators else {}
        return self.table(study, "curves", columns, **only)

    def values(self, study: str, *metrics: str) -> pd.DataFrame:
        """Values of these metrics in every replicate, in long form."""
        return self.table(study, "per_replicate", metric=metrics)

    def steps(self, study: str) -> dict[str, int]:
        """Number of steps of each scenario."""
        return dict(self.results(study).record["steps"])

    def keep(self, study: str, directory: Path) -> None:
        """Write what was asked of a study into `directory`: small tables, its record, no cells."""
        found, manifest = self.results(study), read_manifest(self.directory / study)
        directory.mkdir(parents=True, exist_ok=True)
        files = []
        whole = [name for name in ("summary", "ranking") if found.has(name)]  # what `show` needs
        for name in dict.fromkeys([*whole, *(asked.table for asked in self.asked[study])]):
            table = found.read(name)
            wanted = [asked for asked in self.asked[study] if asked.table == name]
            if name == "summary":
                table = table[~table.metric.str.contains("@")]
            elif wanted:
                rows = np.logical_or.reduce([asked.rows(table) for asked in wanted])
                columns = {column for asked in wanted for column in asked.columns} | set(KEYS)
                table = table.loc[rows, [column for column in table.columns if column in columns]]
            if name != "per_replicate":  # the largest; seven digits are enough to draw
                exact = [column for column in table if table[column].dtype == np.float64]
                table = table.astype(dict.fromkeys(exact, np.float32))
            table.to_parquet(directory / f"{name}.parquet", index=False, compression="zstd")
            files.append(f"{name}.parquet")
        shutil.copy(self.directory / study / "study.toml", directory / "study.toml")
        write_manifest(directory, Manifest(manifest.study, manifest.cells, files))


def is_runnable(study: str) -> bool:
    """Whether a study's description is here: simulated studies, not the training of a language model."""
    return (STUDIES / f"{study}.toml").exists()


@functools.cache
def _all_published() -> pd.DataFrame:
    curves = pd.read_csv(HERE / "published" / "published_curves.csv").rename(columns={"figure": "item"})
    results = pd.read_csv(HERE / "published" / "published_results.csv")
    return pd.concat([curves, results], ignore_index=True)


def published(paper: str, item: str) -> pd.DataFrame:
    """Numbers of a paper's figure or table, as rows: setting, method, metric, x, value.

    `value` is a number, or text where the paper has none. Digitised curves and tables are in
    published/, with where they are from.
    """
    rows = _all_published()
    rows = rows[(rows.paper == paper) & (rows["item"] == item)]
    if rows.empty:
        raise KeyError(f"nothing published is known of {paper} {item}")
    return rows[["setting", "method", "metric", "x", "value"]].reset_index(drop=True)


def as_published(panel: str, series: str, x: Sequence[object], value: Sequence[float]) -> pd.DataFrame:
    """Published numbers as rows of a figure's table; they come without intervals."""
    rows = {"panel": panel, "series": series, "source": PUBLISHED, "x": list(x), "value": list(value)}
    return pd.DataFrame(rows).assign(low=np.nan, high=np.nan)[list(COLUMNS)]


@dataclass(frozen=True)
class Redrawn:
    """A figure or a table of a paper, drawn from what is measured here.

    `name` is PAPER_ITEM. `table` gives what is drawn, see drawing.py, from the `studies`. `said` is the
    small print: what a reader has to know.
    """

    name: str
    title: str
    table: Callable[[Sources], pd.DataFrame]
    layout: Layout
    studies: tuple[str, ...] = ()
    said: str = ""

    def small_print(self, sources: Sources) -> list[str]:
        """Lines of small print: the title, conditions of the studies, and what else there is to say."""
        of = [sources.results(study) for study in self.studies]
        conditions = dict.fromkeys(caption for one in of for caption in one.record["captions"].values())
        if len(conditions) > 2:  # too many budgets to name
            conditions = dict.fromkeys(one.conditions for one in of)
        return [self.title, *conditions, *([self.said] if self.said else [])]

    def read_from(self, sources: Sources) -> pd.DataFrame:
        """Make the figure's table, with the columns of drawing.py in their order."""
        return self.table(sources)[list(COLUMNS)].reset_index(drop=True)
