"""A study on disk: one file for each finished cell, and what was made of them.

    DIR/manifest.json               what was run, and the key of every cell
    DIR/cells/KEY-CHECKSUM.parquet  a finished cell: its table; description and facts in the metadata
    DIR/cells/KEY.error.json        a cell that failed, and why
    DIR/summary.csv, plots/ ...     what follows from the cells

The checksum of a file's bytes is in its name, so one rename both publishes and vouches for it: a file
that was damaged, or cut short by a power failure, is noticed and its cell runs again. A process that is
killed at any moment leaves at worst a file whose name ends with `.unfinished`; the next one removes it.
A directory belongs to one process at a time.

Cells of several studies may lie in one directory: its results are those of the study that ran last, and the
command of another makes its own again from its cells.
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
from typing import Annotated, Any, NamedTuple

import filelock
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # that of Python 3.11 is not one for pydantic

from rolloutbench.cells.cell import Failed, Finished, Part
from rolloutbench.files import UNFINISHED, Damaged, Schema, parse_json, read_json, read_regular, write_whole
from rolloutbench.protocol import InputError
from rolloutbench.registry import shortened, split_outside_brackets

MANIFEST = "manifest.json"
"""The file by which a directory is known to hold results of this program."""
DESCRIPTION = "study.toml"
"""The study as a file to run it again."""
FORMAT = 1
"""Version of the manifest's layout; a directory with another one is refused."""
METADATA = b"rolloutbench"
"""The key of our part of a Parquet file's metadata."""
REPORT = ("report.html", "report.md")
"""Pages made of results on demand, and gone with them."""
PLOTS = "plots"
"""The directory of figures, drawn from results that are published already."""
LOCK = ".lock"
CHECKSUM_DIGITS = 16
RESULT_FILE = rf"{PLOTS}|\w[\w-]*\.(csv|parquet)"
"""Names that results may have."""
NO_RESULTS = ("bank.parquet", "prompts.parquet", "pass_rates.parquet")
"""Measurements that stand beside results but follow from no cells, so they are never removed with them."""
LARGEST_CELL = 4 * 2**30
"""Bytes of the largest file of a cell that is read."""

DESCRIBING = (
    *("kind", "estimator", "aggregation", "replicates", "seed", "prompts", "group_size", "learning_rates"),
    *("steps", "moments", "training", "allocators", "scenarios", "predictors", "banks"),
)
"""Entries of a study's record that say which cells it has."""


class Ran(NamedTuple):
    """A finished cell, read back."""

    part: Part
    table: pd.DataFrame
    facts: dict[str, Any]


class ListedCell(NamedTuple):
    """A cell as the manifest lists it."""

    label: str
    part: Part


class Manifest(NamedTuple):
    """What a directory says of itself: the study, its cells, and the files that are its results.

    Where cells were added to a finished study, `study` and `files` are those of the earlier one until the
    new cells have run: results that are there stay until better ones replace them.
    """

    study: dict[str, Any]
    cells: dict[str, ListedCell]
    files: list[str]

    @property
    def is_done(self) -> bool:
        """Whether there are results."""
        return bool(self.files)


@with_config(ConfigDict(extra="allow", strict=True))
class _Config(TypedDict, total=False):
    """The description of a study in its record."""

    study: str


@with_config(ConfigDict(extra="allow", strict=True))
class _Record(TypedDict, total=False):
    """Types of what a study's record holds, as far as it is there."""

    kind: str
    title: str | None
    question: str | None
    sort: str
    command: str
    config: _Config
    estimator: str
    aggregation: str
    replicates: Annotated[int, Field(ge=1)]
    seed: int
    conditions: str
    captions: dict[str, str]
    allocators: dict[str, str]
    scenarios: dict[str, str]
    predictors: dict[str, str]
    steps: dict[str, Annotated[int, Field(ge=1)]]
    learning_rates: list[float]
    training: dict[str, Any]
    banks: dict[str, dict[str, Any]]
    version: str
    commit: str | None
    sources: dict[str, str | None]
    machine: dict[str, Any]
    prompts: int
    group_size: int
    rollouts: int
    moments: str


_RECORD: TypeAdapter[_Record] = TypeAdapter(_Record)


def _check_record(study: dict[str, Any]) -> dict[str, Any]:
    _RECORD.validate_python(study)
    return study


class _ManifestFile(Schema):
    """The manifest as JSON: cells are lists of label and part."""

    format: int
    study: Annotated[dict[str, Any], AfterValidator(_check_record)]
    files: list[str]
    cells: dict[Annotated[str, Field(pattern=r"^\w+$")], tuple[str, tuple[str, str]]]


class _Format(Schema):
    """The part of a manifest that is the same in every version."""

    format: int = FORMAT


class _Failure(Schema):
    """Schema of the file that says why a cell gave nothing."""

    label: str
    error: str
    traceback: list[str] = []  # noqa: RUF012 - pydantic copies it


class _CellFacts(Schema):
    """What stands in the metadata of a cell's file."""

    key: str
    label: str = ""
    description: Any = None
    allocator_seconds_per_step: float = 0.0


def read_manifest(directory: Path) -> Manifest:
    """Raises InputError where there is none, or none that can be read."""
    path = directory / MANIFEST
    advice = f"run the study again with --out {directory}"
    try:
        version = read_json(path, _Format, advice).format
        if version != FORMAT:
            raise InputError(f"{path}: format={version}: this version reads format {FORMAT}")
        read = read_json(path, _ManifestFile, advice)
    except FileNotFoundError:
        raise InputError(f"{directory}: holds no results of rolloutbench") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    cells = {key: ListedCell(label, part) for key, (label, part) in read.cells.items()}
    files = [name for name in read.files if re.fullmatch(RESULT_FILE, name) and name not in NO_RESULTS]
    return Manifest(read.study, cells, files)


class Store:
    """The cells of one study in a directory that this process holds; see `open_store`.

    `finished`: files by key. `failed`: why cells failed, by key. `damaged`: labels of cells whose files were
    removed, to run again. `undrawn`: a line for each figure that could not be drawn. `beside`: what other
    study the directory held until now, if any, in a sentence.
    """

    def __init__(self, directory: Path, manifest: Manifest, beside: str = "") -> None:
        self.directory = directory
        self.manifest = manifest
        self.beside = beside
        self.finished: dict[str, Path] = {}
        self.failed: dict[str, dict[str, Any]] = {}
        self.damaged: list[str] = []
        self.undrawn: list[str] = []
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
                continue  # of another study
            elif name.endswith(".error.json"):
                try:
                    self.failed[key] = read_json(path, _Failure).model_dump()
                except InputError:
                    path.unlink()  # the cell runs again
            elif key in self.finished:
                path.unlink()  # killed between a second result and the removal of the first
            elif _is_whole(path, key):
                self.finished[key] = path
            else:
                self.damaged.append(self.manifest.cells[key].label)
                path.unlink()
        for key in self.finished.keys() & self.failed.keys():
            self.failure_file(key).unlink()
            del self.failed[key]

    def failure_file(self, key: str) -> Path:
        """The file that says why a cell gave nothing, with the whole traceback in lines."""
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
            self.failure_file(key).unlink()

    def fail(self, key: str, result: Failed) -> None:
        """Keep why a cell gave nothing."""
        failure: dict[str, Any] = {"label": self.manifest.cells[key].label, "error": result.error}
        failure |= {"traceback": result.traceback.splitlines(), **result.facts}  # to be read in the file
        write_whole(self.failure_file(key), json.dumps(failure, indent=1).encode())
        self.failed[key] = failure
        earlier = self.finished.pop(key, None)
        if earlier is not None:
            earlier.unlink()

    def take(self, directory: Path) -> int:
        """Copy finished cells of this study that another directory holds; returns how many."""
        taken = 0
        for path in sorted((directory / "cells").glob("*.parquet")):
            key = _key(path.name)
            if key not in self.manifest.cells or key in self.finished or not _is_whole(path, key):
                continue
            write_whole(self._cells / path.name, read_regular(path, LARGEST_CELL))
            self.finished[key] = self._cells / path.name
            taken += 1
        return taken

    def read(self) -> Iterator[Ran]:
        """The finished cells, in the order of the study.

        Raises InputError where the table of one cannot be read, which is then removed to be run again.
        """
        for key, listed in self.manifest.cells.items():
            if key in self.finished:
                try:
                    table, facts = read_cell(self.finished[key])
                except Damaged as error:
                    self.finished.pop(key).unlink()
                    raise Damaged(f"{listed.label}: {error}; the same command runs it again") from None
                yield Ran(listed.part, table, facts)

    def missing(self) -> list[Part]:
        """Parts of which some cell is not finished."""
        return [listed.part for key, listed in self.manifest.cells.items() if key not in self.finished]

    @contextlib.contextmanager
    def results(self, study: dict[str, Any]) -> Iterator[Path]:
        """A directory whose files become the results, together with `study`, or vanish if anything fails."""
        with self._unfinished() as unfinished:
            yield unfinished
            files = sorted(path.name for path in unfinished.iterdir())
            remove(self.directory, {*self.manifest.files, *REPORT} - set(files))
            for file in files:
                remove(self.directory, [file] if (self.directory / file).is_dir() else [])
                (unfinished / file).replace(self.directory / file)
            self.manifest = self.manifest._replace(study=study, files=files)
            write_manifest(self.directory, self.manifest)

    @contextlib.contextmanager
    def plots(self) -> Iterator[Path]:
        """A directory whose files become the figures of results that are published, or vanish.

        Results do not wait for it, so whatever goes wrong in drawing costs figures and nothing else.
        """
        with self._unfinished() as unfinished:
            yield unfinished
            if any(unfinished.iterdir()):
                remove(self.directory, [PLOTS])
                unfinished.replace(self.directory / PLOTS)
                files = sorted({*self.manifest.files, PLOTS})
                self.manifest = self.manifest._replace(files=files)
                write_manifest(self.directory, self.manifest)

    @contextlib.contextmanager
    def _unfinished(self) -> Iterator[Path]:
        """A directory for what is being made, on the same disk as what it replaces."""
        with tempfile.TemporaryDirectory(
            prefix=".results.", suffix=UNFINISHED, dir=self.directory, ignore_cleanup_errors=True
        ) as name:
            made = Path(name) / "made"  # what holds it is only the owner's
            made.mkdir()
            yield made


def _name(key: str, content: bytes) -> str:
    """The name that vouches for the content of a finished cell's file."""
    return f"{key}-{hashlib.sha256(content).hexdigest()[:CHECKSUM_DIGITS]}.parquet"


def _is_whole(path: Path, key: str) -> bool:
    """Whether a file is as it was written, has rows, and is that of the cell that its name says."""
    try:
        content = read_regular(path, LARGEST_CELL)
        if path.name != _name(key, content):
            return False
        about = pq.read_metadata(pa.BufferReader(content))
        facts = parse_json((about.metadata or {}).get(METADATA, b""), _CellFacts, path.name)
    except (InputError, pa.ArrowException, ValueError, OverflowError):
        return False
    return facts.key == key and about.num_rows > 0


def read_cell(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the facts of a finished cell. Raises `Damaged` where its file is not what was written."""
    try:
        table = pq.read_table(path)
        facts = parse_json((table.schema.metadata or {}).get(METADATA, b""), _CellFacts, str(path))
        return table.to_pandas(), facts.model_dump(exclude_unset=True)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, KeyError) as error:
        raise Damaged(f"{path.name}: is damaged: {str(error).partition(chr(10))[0][:200]}") from None


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace what a directory says of itself."""
    cells = {key: [listed.label, list(listed.part)] for key, listed in manifest.cells.items()}
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(cell)}" for key, cell in cells.items())
    study = json.dumps(manifest.study, indent=1)
    files = json.dumps(manifest.files)
    whole = f'{{"format": {FORMAT},\n"study": {study},\n"files": {files},\n"cells": {{\n{lines}\n}}}}\n'
    write_whole(directory / MANIFEST, whole.encode())


def remove(directory: Path, names: Iterable[str]) -> None:
    """Remove files and directories of this program; of a link only the link."""
    for name in names:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def open_store(
    path: Path, study: dict[str, Any], cells: Mapping[str, ListedCell], overwrite: bool = False
) -> Iterator[Store]:
    """Hold the directory `path` of a study: a new one, or one that holds cells of the same study already.

    Cells that are there already are not run again, whatever study they were run for, and those of another
    study stay; with `overwrite` what only another study has is removed. Raises InputError where the
    directory cannot be made, holds something else, is in use, or where, without `overwrite`, results would
    be replaced that their command could not make again. A directory that was made here vanishes again if
    nothing was finished in it, neither a cell nor a checkpoint.
    """
    path = Path(os.path.realpath(path))  # a link is followed, never replaced
    if os.path.lexists(path) and not os.path.isdir(path):  # unlike Path.is_dir, False for too long a name
        raise InputError(f"out={path}: is a file")
    wanted = Manifest(study, dict(cells), [])
    if os.path.isdir(path):  # before anything is touched
        if not _is_ours(path):
            raise InputError(f"out={path}: is not empty, and holds no results of rolloutbench")
        check_replaceable(path, wanted, overwrite)
    with _hold(path) as made:
        try:
            yield Store(path, *_settle_manifest(path, wanted, overwrite))
        finally:
            if made and _is_without_work(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_ours(path: Path) -> bool:
    """Whether a directory has a manifest, or nothing in it but what a killed process of ours may leave."""
    names = [found.name for found in path.iterdir()]
    return MANIFEST in names or all(name == LOCK or name.endswith(UNFINISHED) for name in names)


def _is_without_work(path: Path) -> bool:
    """Whether a directory holds only what opening it wrote, and errors: no cell, no checkpoint, no cache."""
    opening = {MANIFEST, DESCRIPTION, LOCK}
    for folder, _, names in os.walk(path):
        for name in names:
            is_error = name.endswith(".error.json") and Path(folder) == path / "cells"
            is_opening = name in opening and Path(folder) == path
            if not (is_error or is_opening or name.endswith(UNFINISHED)):
                return False
    return True


@contextlib.contextmanager
def _hold(path: Path) -> Iterator[bool]:
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


def _settle_manifest(path: Path, wanted: Manifest, overwrite: bool) -> tuple[Manifest, str]:
    """The manifest to go on with, and what other study the directory held until now, if any.

    Results that are there stay until new ones replace them, and with them the record of their study.
    """
    for left in path.glob(f".*{UNFINISHED}"):
        shutil.rmtree(left)
    found = check_replaceable(path, wanted, overwrite)
    if overwrite:
        _forget_cells(path / "cells", keep=wanted.cells)
    if found is not None and found.cells == wanted.cells:
        return found, ""
    settled, beside = wanted, ""
    if found is not None:
        lost = found.cells.keys() - wanted.cells.keys()
        kept = len(lost & _finished_keys(path))
        if lost and overwrite:
            remove(path, [*found.files, *REPORT])
        elif found.is_done:
            settled = found._replace(cells=wanted.cells)
        if kept and not overwrite:
            beside = (
                f"{path} holds another study, too ({describe_difference(found.study, wanted.study)}): its "
                f"{kept} finished cells stay, and its command makes its results again from them"
            )
            beside += f": {shortened(found.study.get('command', ''), 300)}" * ("command" in found.study)
    write_manifest(path, settled)
    return settled, beside


def check_replaceable(path: Path, wanted: Manifest, overwrite: bool) -> Manifest | None:
    """Return the manifest that is there, if it can be read.

    Raises InputError where `overwrite` does not allow to replace what is there and cannot be made again by
    its command: results without their cells, and what other code than this has measured.
    """
    if not os.path.lexists(path / MANIFEST):
        return None
    try:
        found = read_manifest(path)
    except Damaged:
        return None
    lost = found.cells.keys() - wanted.cells.keys()
    finished = _finished_keys(path)
    if overwrite or not (finished & lost or (found.is_done and (lost or not found.cells))):
        return found
    if finished and _is_same_code(found.study, wanted.study):
        return found
    why = "which this version could not make again" if finished else "whose results are without their cells"
    raise InputError(
        f"out={path}: holds another study ({describe_difference(found.study, wanted.study)}), {why}: choose "
        "another --out, or --overwrite puts this one in its place and keeps the cells that both have"
    )


def _finished_keys(path: Path) -> set[str]:
    """Keys of the cells of which a directory has files, of whatever study."""
    return {_key(found.name) for found in (path / "cells").glob("*.parquet")}


def _is_same_code(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two studies were run by the same source code, as far as both use the same packages."""
    before, now = there.get("sources") or {}, here.get("sources") or {}
    both = before.keys() & now.keys()
    return bool(both) and all(before[package] == now[package] for package in both)


def _forget_cells(cells: Path, keep: Mapping[str, ListedCell]) -> None:
    """Remove the cells of studies that are replaced."""
    for found in cells.glob("*"):
        if _key(found.name) not in keep:
            found.unlink()


def _key(name: str) -> str:
    """The key of the cell that a file is about."""
    return name.partition("-")[0].partition(".")[0]


def describe_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in a line in what the recorded study `there` differs from the one asked for `here`."""
    said = []
    for name in DESCRIBING:
        before, now = there.get(name), here.get(name)
        if before == now or before is None:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            parts = [f"without {key}" for key in before if key not in now]
            parts += [f"with {key}" for key in now if key not in before]
            both = [key for key in now if key in before and before[key] != now[key]]
            changes = {key: _changed_fields(str(before[key]), str(now[key])) for key in both}
            if len(both) > 1 and len(set(changes.values())) == 1:
                parts.append(f"all {changes[both[0]]}")
            else:
                parts += [f"{key} {change}" for key, change in changes.items()]
            said.append(f"{name}: {', '.join(parts[:3])}{', ...' if len(parts) > 3 else ''}")
        else:
            said.append(f"{name}: {before}, now {now}")
    before, now = there.get("sources") or {}, here.get("sources") or {}
    changed = sorted((name for name in now if before.get(name) != now[name]), key=lambda name: "." in name)
    if changed:  # packages before methods
        said.append(f"other source code of {', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}")
    return "; ".join(said) or "other conditions"


def _changed_fields(before: str, now: str) -> str:
    """What differs between two values, or between the fields of two objects as Python writes them."""
    fields = []
    for text in (before, now):
        inside = text.partition("(")[2].removesuffix(")").replace("(", "[").replace(")", "]")
        try:
            fields.append(dict(part.partition("=")[::2] for part in split_outside_brackets(inside)))
        except InputError:  # a name with half a bracket
            fields.append({})
    first, second = fields
    changed = [key for key in second if key and first.get(key, second[key]) != second[key]]
    if not changed:
        return f"{before[:60]}, now {now[:60]}"
    return ", ".join(f"{key}={first[key][:60]}, now {second[key][:60]}" for key in changed[:2])
