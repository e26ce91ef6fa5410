"""A study on disk: one file for each finished cell, and what was made of them.

    DIR/manifest.json               what was run, and the key of every cell
    DIR/cells/KEY-CHECKSUM.parquet  a finished cell: its table; description and facts in the metadata
    DIR/cells/KEY.error.json        a cell that failed, and why
    DIR/summary.csv, plots/ ...     what follows from the cells

The checksum of a file's bytes is in its name, so one rename both publishes and vouches for it: a file
that was damaged, or cut short by a power failure, is noticed and its cell runs again. A process that is
killed at any moment leaves at worst a file whose name ends with `.unfinished`; the next one removes it.
A directory belongs to one process at a time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rolloutbench.experiment import Failed, Finished, Part
from rolloutbench.protocol import InputError

MANIFEST = "manifest.json"
"""The file by which a directory is known to hold results of this program."""
FORMAT = 1
"""Of the manifest. A directory of another one is refused."""
METADATA = b"rolloutbench"
"""The key of our part of a Parquet file's metadata."""
REPORT = ("report.html", "report.md")
"""Made of results on demand, and gone with them."""
UNFINISHED = ".unfinished"
LOCK = ".lock"
CHECKSUM_DIGITS = 16

DESCRIBING = (
    *("kind", "estimator", "aggregation", "replicates", "seed", "prompts", "group_size", "learning_rates"),
    *("allocators", "scenarios", "predictors"),
)
"""What of a study's record says which cells it has."""


class Ran(NamedTuple):
    """A finished cell, read back."""

    part: Part
    table: pd.DataFrame
    facts: dict[str, Any]


class Entry(NamedTuple):
    """A cell in the manifest."""

    label: str
    part: Part


class Damaged(InputError):
    """A manifest that cannot be understood; the cells beside it are as good as they were."""


class Manifest(NamedTuple):
    """What a directory says of itself: the study, its cells, and the files made of them once it is done."""

    study: dict[str, Any]
    cells: dict[str, Entry]
    files: list[str]

    @property
    def is_done(self) -> bool:
        """Whether the results are those of these cells."""
        return bool(self.files)


def read_manifest(directory: Path) -> Manifest:
    """Raises InputError where there is none, or none that can be read."""
    path = directory / MANIFEST
    try:
        read = json.loads(path.read_bytes())
        if read["format"] != FORMAT:
            raise InputError(f"{path}: format={read['format']}: this version reads format {FORMAT}")
        cells = {key: Entry(label, (part[0], part[1])) for key, (label, part) in read["cells"].items()}
        files = [name for name in read["files"] if re.fullmatch(r"\w[\w.]*", name)]  # nothing outside
        return Manifest(dict(read["study"]), cells, files)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{directory}: holds no results of rolloutbench") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise Damaged(f"{path}: is damaged; run the study again with --out {directory}") from None


class Store:
    """The cells of one study in a directory that this process holds; see `open_store`."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.finished: dict[str, Path] = {}
        self.failed: dict[str, dict[str, Any]] = {}
        self.damaged: list[str] = []
        self._cells = directory / "cells"
        self._cells.mkdir(exist_ok=True)
        self._scan()

    def _scan(self) -> None:
        """Find what is finished and what failed; remove what is damaged or half-written."""
        with os.scandir(self._cells) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            path, key = self._cells / name, _key(name)
            if name.endswith(UNFINISHED):
                path.unlink()
            elif key not in self.manifest.cells:
                continue  # of a study whose manifest was damaged
            elif name.endswith(".error.json"):
                with contextlib.suppress(ValueError):
                    self.failed[key] = json.loads(path.read_bytes())
            elif key in self.finished:
                path.unlink()  # killed between a second result and the removal of the first
            elif name == _name(key, path.read_bytes()):
                self.finished[key] = path
            else:
                self.damaged.append(self.manifest.cells[key].label)
                path.unlink()
        for key in self.finished.keys() & self.failed.keys():
            self._error_path(key).unlink()
            del self.failed[key]

    def _error_path(self, key: str) -> Path:
        return self._cells / f"{key}.error.json"

    def finish(self, key: str, result: Finished, description: Mapping[str, Any]) -> None:
        """Keep what a cell gave, with what is known of the run."""
        facts = {"key": key, "label": self.manifest.cells[key].label, **description, **result.facts}
        table = pa.Table.from_pandas(result.table, preserve_index=False)
        table = table.replace_schema_metadata({METADATA: json.dumps(facts).encode()})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        path = self._cells / _name(key, buffer.getvalue())
        write_whole(path, buffer.getvalue())
        earlier = self.finished.get(key, path)
        self.finished[key] = path
        if earlier != path:
            earlier.unlink()
        if self.failed.pop(key, None) is not None:
            self._error_path(key).unlink()

    def fail(self, key: str, result: Failed) -> None:
        """Keep why a cell gave nothing."""
        failure = {"label": self.manifest.cells[key].label, "error": result.error}
        failure |= {"traceback": result.traceback, **result.facts}
        write_whole(self._error_path(key), json.dumps(failure, indent=1).encode())
        self.failed[key] = failure
        earlier = self.finished.pop(key, None)
        if earlier is not None:
            earlier.unlink()

    def take(self, directory: Path) -> int:
        """Copy finished cells of this study that another directory holds; returns how many."""
        taken = 0
        for path in sorted((directory / "cells").glob("*.parquet")):
            key, content = _key(path.name), path.read_bytes()
            if key not in self.manifest.cells or key in self.finished or path.name != _name(key, content):
                continue
            self.finished[key] = self._cells / path.name
            write_whole(self.finished[key], content)
            taken += 1
        return taken

    def read(self) -> Iterator[Ran]:
        """The finished cells, in the order of the study."""
        for key, entry in self.manifest.cells.items():
            if key in self.finished:
                table, facts = read_cell(self.finished[key])
                yield Ran(entry.part, table, facts)

    def missing(self) -> list[Part]:
        """Parts of which some cell is not finished."""
        return [entry.part for key, entry in self.manifest.cells.items() if key not in self.finished]

    @contextlib.contextmanager
    def results(self, study: dict[str, Any]) -> Iterator[Path]:
        """A directory whose files become the results, together with `study`, or vanish if anything fails."""
        with tempfile.TemporaryDirectory(
            prefix=".results.", suffix=UNFINISHED, dir=self.directory, ignore_cleanup_errors=True
        ) as name:
            unfinished = Path(name)
            yield unfinished
            files = sorted(path.name for path in unfinished.iterdir())
            remove(self.directory, {*self.manifest.files, *REPORT} - set(files))
            for file in files:
                if (self.directory / file).is_dir():
                    shutil.rmtree(self.directory / file)
                (unfinished / file).replace(self.directory / file)
            self.manifest = self.manifest._replace(study=study, files=files)
            write_manifest(self.directory, self.manifest)


def _name(key: str, content: bytes) -> str:
    """The name that vouches for the content of a finished cell's file."""
    return f"{key}-{hashlib.sha256(content).hexdigest()[:CHECKSUM_DIGITS]}.parquet"


def read_cell(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the facts of a finished cell."""
    table = pq.read_table(path)
    facts: dict[str, Any] = json.loads(table.schema.metadata[METADATA])
    return table.to_pandas(), facts


def write_whole(path: Path, content: bytes) -> None:
    """All of a file or nothing of it, whenever the process is killed."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace what a directory says of itself."""
    cells = {key: [entry.label, list(entry.part)] for key, entry in manifest.cells.items()}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(cell)}" for key, cell in cells.items())
    study = json.dumps(manifest.study, indent=1)
    files = json.dumps(manifest.files)
    whole = f'{{"format": {FORMAT},\n"study": {study},\n"files": {files},\n"cells": {{\n{lines}\n}}}}\n'
    write_whole(directory / MANIFEST, whole.encode())


def remove(directory: Path, names: Iterable[str]) -> None:
    """Files and directories of this program."""
    for name in names:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_store(
    path: Path, study: dict[str, Any], cells: Mapping[str, Entry], overwrite: bool = False
) -> Iterator[Store]:
    """Hold the directory `path` of a study: a new one, or one that holds cells of the same study already.

    Raises InputError where it cannot be made, holds something else, is in use, or, without `overwrite`,
    holds another study. A directory that was made here vanishes again if no cell was finished in it.
    """
    path = Path(os.path.realpath(path))  # a link is followed, never replaced
    if os.path.lexists(path) and not os.path.isdir(path):  # unlike Path.is_dir, False for too long a name
        raise InputError(f"out={path}: is a file")
    wanted = Manifest(study, dict(cells), [])
    if os.path.isdir(path):  # before anything is touched
        if not _is_ours(path):
            raise InputError(f"out={path}: is not empty, and holds no results of rolloutbench")
        _present(path, wanted, overwrite)
    with _held(path) as made:
        store = None
        try:
            store = Store(path, _agreed(path, wanted, overwrite))
            yield store
        finally:
            if made and (store is None or not store.finished):
                shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    """Whether a directory has a manifest, or nothing in it but what a killed process of ours may leave."""
    names = [found.name for found in path.iterdir()]
    return MANIFEST in names or all(name == LOCK or name.endswith(UNFINISHED) for name in names)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Make the directory and keep other processes out of it; yields whether it was made."""
    made = [above for above in (path, *path.parents) if not os.path.exists(above)]
    try:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path / LOCK)
            lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(f"out={path}: another process is writing to it") from None
        except OSError as error:
            raise InputError(f"out={path}: cannot be written: {error.strerror or error}") from None
        try:
            yield bool(made)
        finally:
            lock.release()
    finally:
        for above in made:  # those that stayed empty
            with contextlib.suppress(OSError):
                above.rmdir()


def _agreed(path: Path, wanted: Manifest, overwrite: bool) -> Manifest:
    """The manifest to go on with: the one that is there, if it is of the same cells, or the wanted one."""
    for left in path.glob(f".*{UNFINISHED}"):
        shutil.rmtree(left)
    found = _present(path, wanted, overwrite)
    if found is not None and found.cells == wanted.cells:
        return found
    if found is not None:
        remove(path, [*found.files, *REPORT])
        _forget(path / "cells", keep=wanted.cells)
    write_manifest(path, wanted)
    return wanted


def _present(path: Path, wanted: Manifest, overwrite: bool) -> Manifest | None:
    """The manifest that is there, if it can be read. Raises InputError where it may not be replaced."""
    if not (path / MANIFEST).exists():
        return None
    try:
        found = read_manifest(path)
    except Damaged:
        return None
    if found.cells != wanted.cells and not overwrite:
        raise InputError(
            f"out={path}: holds another study ({difference(found.study, wanted.study)}); "
            "--overwrite replaces it, and keeps the cells that both have"
        )
    return found


def _forget(cells: Path, keep: Mapping[str, Entry]) -> None:
    """Remove the cells of a study that is replaced."""
    for found in cells.glob("*"):
        if _key(found.name) not in keep:
            found.unlink()


def _key(name: str) -> str:
    """The key of the cell that a file is about."""
    return name.partition("-")[0].partition(".")[0]


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what two studies differ, in a line."""
    said = []
    for name in DESCRIBING:
        before, now = there.get(name), here.get(name)
        if before == now or before is None:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
            said.append(f"{name}: {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}")
        else:
            said.append(f"{name}: {before}, now {now}")
    if there.get("sources") != here.get("sources"):
        said.append("other source code")
    return "; ".join(said) or "other conditions"
