"""Carrying out a study: run what is not finished, keep what comes of it, make the results."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from rolloutbench import __version__
from rolloutbench.executors import Executor
from rolloutbench.experiment import (
    Cell,
    Failed,
    Part,
    Resumable,
    Sources,
    commit,
    describe,
    identify,
    machine,
)
from rolloutbench.protocol import InputError
from rolloutbench.results import complete
from rolloutbench.store import Entry, Store, open_store, write_whole
from rolloutbench.studies import Study


class Watcher:
    """Is told how a study gets on. This one says nothing."""

    def begins(self, store: Store, pending: int) -> None:
        """`pending` cells will run; the store knows the others."""

    def ended(self, label: str, failure: Failed | None) -> None:
        """A cell is stored."""


def carry_out(
    study: Study,
    about: Mapping[str, Any],
    directory: Path,
    executor: Executor,
    *,
    watcher: Watcher | None = None,
    force: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Store:
    """Run the cells that `directory` does not hold yet, and write the results of the whole study.

    `about` is recorded beside what the study says of itself: sort, command, title. `force` runs finished
    cells again, `retry_failed` those that failed. Cells that fail are kept with their errors, and the
    results are made without them. Raises InputError where that leaves nothing; see also `open_store`.
    """
    watcher = watcher or Watcher()
    plan = _Plan.of(study, about)
    with plan.opened(directory, overwrite) as store:
        known = set() if force else {*store.finished, *({} if retry_failed else store.failed)}
        pending = {key: plan.cells[key] for key in _in_turn(plan.cells) if key not in known}
        for key in store.finished:  # where a kill came between storing and forgetting
            _forget(plan.cells[key])
        watcher.begins(store, len(pending))
        shared: dict[int, tuple[object, Any]] = {}
        with contextlib.closing(executor.run(pending, plan.sources)) as outcomes:
            for key, result in outcomes:
                if isinstance(result, Failed):
                    store.fail(key, result)
                else:
                    described = {"description": describe(pending[key], shared), **plan.origin}
                    store.finish(key, result, described)
                    _forget(pending[key])
                watcher.ended(pending[key].label, result if isinstance(result, Failed) else None)
        plan.write_results(store)
    return store


def merge(
    study: Study, about: Mapping[str, Any], parts: Sequence[Path], directory: Path, overwrite: bool = False
) -> Store:
    """Take the cells of a study from other directories; its results are written if none is missing.

    Raises InputError where the parts hold no cell of it, as after a change of the code.
    """
    plan = _Plan.of(study, about)
    with plan.opened(directory, overwrite) as store:
        taken = sum(store.take(part) for part in parts)
        if not taken and not store.finished:
            raise InputError(
                f"{', '.join(map(str, parts))}: no cell in them is of this study as this version "
                f"({__version__}, commit {commit()}) runs it"
            )
        if not store.missing():
            plan.write_results(store)
    return store


def _forget(cell: Cell) -> None:
    if isinstance(cell, Resumable):
        cell.forget()


@dataclass(frozen=True)
class _Plan:
    """A study with its cells by key, and what is recorded of it."""

    study: Study
    cells: dict[str, Cell]
    sources: Sources
    origin: dict[str, Any]
    record: dict[str, Any]

    @classmethod
    def of(cls, study: Study, about: Mapping[str, Any]) -> _Plan:
        cells, sources = identify(study.cells())
        origin = {"version": __version__, "commit": commit(), "sources": sources}
        return cls(study, cells, sources, origin, {**about, **study.record(), **origin, "machine": machine()})

    @contextlib.contextmanager
    def opened(self, directory: Path, overwrite: bool) -> Iterator[Store]:
        """The store, and beside its cells the study as a file to run it again."""
        entries = {key: Entry(cell.label, cell.part) for key, cell in self.cells.items()}
        with open_store(directory, self.record, entries, overwrite) as store:
            write_whole(store.directory / "study.toml", tomli_w.dumps(self.record["config"]).encode())
            yield store

    def write_results(self, store: Store) -> None:
        """Of all that can be compared."""
        ran = complete(list(store.read()), store.missing())
        if not ran:
            first = next(iter(store.failed.values()))
            raise InputError(f"nothing can be compared: {first['label']}: {first['error']}")
        with store.results(self.record) as unfinished:
            self.study.results(unfinished, self.record).write(ran)


def _in_turn(cells: Mapping[str, Cell]) -> list[str]:
    """The first cell of every part before the second of any: what cannot work is known soon."""
    turns: Counter[Part] = Counter()
    turn = {}
    for key, cell in cells.items():
        turn[key] = turns[cell.part]
        turns[cell.part] += 1
    return sorted(cells, key=turn.__getitem__)
