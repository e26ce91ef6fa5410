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
from rolloutbench.analysis.results import complete
from rolloutbench.cells.cell import (
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
from rolloutbench.cells.executors import Executor
from rolloutbench.cells.store import DESCRIPTION, ListedCell, Store, open_store
from rolloutbench.files import write_whole
from rolloutbench.protocol import InputError
from rolloutbench.studies.description import Description
from rolloutbench.studies.kinds import merge_descriptions, read_study
from rolloutbench.studies.study import Study


class Watcher:
    """Is told how a study gets on. This one says nothing."""

    def note(self, line: str) -> None:
        """Something that a user should know before anything runs."""

    def begins(self, store: Store, pending: int) -> None:
        """`pending` cells will run; the store knows the others."""

    def ended(self, label: str, failure: Failed | None) -> None:
        """The cell with this label is stored."""


def carry_out(
    description: Description,
    directory: Path,
    executor: Executor,
    *,
    command: str,
    watcher: Watcher | None = None,
    force: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
) -> Store:
    """Run the cells that `directory` does not hold yet, and write the results of the whole study.

    `command` is recorded as what makes them anew. `force` measures again what is finished, `retry_failed`
    runs cells again that failed, and `overwrite` puts the study in the place of another; a run under way
    goes on from its checkpoint whatever is asked. Cells that fail are kept with their errors, and the
    results are made without them. Raises InputError where the description is wrong, or where nothing is
    left that can be compared; see also `open_store`.
    """
    watcher = watcher or Watcher()
    study = description.build()
    cost = study.cost()
    for line in [*study.notes(), *([cost.said] if cost.said else [])]:
        watcher.note(line)
    plan = _Plan.of(description, study, directory, command)
    description.check(study)
    with plan.opened(directory, overwrite) as store:
        known = set() if force else {*store.finished, *({} if retry_failed else store.failed)}
        pending = {key: plan.cells[key] for key in _in_turn(plan.cells) if key not in known}
        for key in store.finished:
            _drop_kept(plan.cells[key], again=key in pending)
        if store.beside:
            watcher.note(f"{store.beside}; {len(pending)} of this study's {len(plan.cells)} cells run now")
        watcher.begins(store, len(pending))
        shared: dict[int, tuple[object, Any]] = {}
        with contextlib.closing(executor.run(pending, plan.sources)) as outcomes:
            for key, result in outcomes:
                if isinstance(result, Failed):
                    store.fail(key, result)
                else:
                    said = {"description": describe(pending[key], shared), **plan.origin}
                    store.finish(key, result, said)
                    _drop_kept(pending[key])
                watcher.ended(pending[key].label, result if isinstance(result, Failed) else None)
        plan.write_results(store)
        for line in store.undrawn:
            watcher.note(line)
    plan.study.finish(directory)
    return store


def merge(parts: Sequence[Path], directory: Path, *, command: str, overwrite: bool = False) -> Store:
    """Join studies that were run apart; the results are written if no cell of the whole is missing.

    Raises InputError where they differ in more than their members and replicates, or hold no cell of the
    whole, as after a change of the code.
    """
    description = merge_descriptions([read_study(part).study["config"] for part in parts])
    plan = _Plan.of(description, description.build(), directory, command)
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


def _drop_kept(cell: Cell, again: bool = False) -> None:
    """Drop the checkpoints of a finished cell, which a kill may have kept; `again`: it is measured anew."""
    if isinstance(cell, Resumable):
        (cell.start_over if again else cell.forget)()


@dataclass(frozen=True)
class _Plan:
    """A study with its cells by key, and what is recorded of it."""

    study: Study
    cells: dict[str, Cell]
    sources: Sources
    origin: dict[str, Any]
    record: dict[str, Any]

    @classmethod
    def of(cls, description: Description, study: Study, directory: Path, command: str) -> _Plan:
        said = description.record(study)
        cells, sources = identify(study.cells(directory))
        origin = {"version": __version__, "commit": commit(), "sources": sources}
        return cls(
            study, cells, sources, origin, {"command": command, **said, **origin, "machine": machine()}
        )

    @contextlib.contextmanager
    def opened(self, directory: Path, overwrite: bool) -> Iterator[Store]:
        """The store, and beside its cells the study as a file to run it again."""
        entries = {key: ListedCell(cell.label, cell.part) for key, cell in self.cells.items()}
        with open_store(directory, self.record, entries, overwrite) as store:
            write_whole(store.directory / DESCRIPTION, tomli_w.dumps(self.record["config"]).encode())
            yield store

    def write_results(self, store: Store) -> None:
        """Results of all that can be compared."""
        ran = complete(list(store.read()), store.missing())
        if not ran:
            first = next(iter(store.failed.values()))
            raise InputError(f"nothing can be compared: {first['label']}: {first['error']}")
        with store.results(self.record) as unfinished:
            self.study.results(unfinished, self.record).write(ran)
        with store.plots() as unfinished:
            store.undrawn = self.study.results(store.directory, self.record).draw(unfinished)


def _in_turn(cells: Mapping[str, Cell]) -> list[str]:
    """The first cell of every part before the second of any: what cannot work is known soon."""
    turns: Counter[Part] = Counter()
    turn = {}
    for key, cell in cells.items():
        turn[key] = turns[cell.part]
        turns[cell.part] += 1
    return sorted(cells, key=turn.__getitem__)
