"""What is finished is kept, whatever happens to the process, the disk or the files."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutbench.cells import store as module
from rolloutbench.cells.cell import Failed, Finished
from rolloutbench.cells.store import ListedCell, open_store, read_cell, read_manifest
from rolloutbench.protocol import InputError

KEYS = [f"{number:032x}" for number in range(4)]
CELLS = {key: ListedCell(f"s a block {place}", ("s", "a")) for place, key in enumerate(KEYS)}
STUDY = {"kind": "learning", "seed": 0, "allocators": {"a": "A()"}, "command": "rolloutbench compare"}


def finished(value, **attrs):
    return Finished(
        pd.DataFrame({"value": [float(value), np.nan], "name": ["x", None]}), {"seconds": 1, **attrs}
    )


def opened(path, cells=CELLS, study=STUDY, **how):
    return open_store(path, study, cells, **how)


def values(path):
    with opened(path) as store:
        return [cell.table.value[0] for cell in store.read()]


@pytest.fixture
def out(tmp_path):
    """Two finished cells, one that failed, and one that was never run."""
    path = tmp_path / "out"
    with opened(path) as store:
        store.finish(KEYS[0], finished(10), {"description": {"seed": 0}})
        store.finish(KEYS[2], finished(12), {})
        store.fail(KEYS[1], Failed("too hard", "Traceback ...", {"host": "h"}))
    return path


def test_what_was_kept_comes_back(out):
    with opened(out) as store:
        assert set(store.finished) == {KEYS[0], KEYS[2]}
        assert store.failed[KEYS[1]]["error"] == "too hard"
        assert store.missing() == [("s", "a")] * 2
        first, second = store.read()
    assert first.part == ("s", "a")
    pd.testing.assert_frame_equal(first.table, finished(10).table)
    assert second.table.value[0] == 12
    assert first.facts == {
        "key": KEYS[0],
        "label": "s a block 0",
        "description": {"seed": 0},
        "seconds": 1,
    }


def test_cells_can_be_read_without_this_package(out):
    (path,) = (out / "cells").glob(f"{KEYS[0]}*.parquet")
    assert pd.read_parquet(path).value[0] == 10
    assert json.loads(pq.read_schema(path).metadata[b"rolloutbench"])["label"] == "s a block 0"
    assert list(json.loads((out / "manifest.json").read_text())["cells"]) == KEYS


def test_a_cell_that_is_run_again_replaces_what_was_there(out):
    with opened(out) as store:
        store.finish(KEYS[0], finished(20), {})
        store.finish(KEYS[1], finished(21), {})
        store.fail(KEYS[2], Failed("now it fails", "", {}))
    with opened(out) as store:
        assert set(store.finished) == {KEYS[0], KEYS[1]}
        assert set(store.failed) == {KEYS[2]}
    assert len(list((out / "cells").iterdir())) == 3
    assert values(out) == [20, 21]


@given(data=st.data())
def test_a_damaged_cell_is_noticed_whatever_the_damage(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "out"
    with opened(path) as store:
        store.finish(KEYS[0], finished(10), {})
        store.finish(KEYS[1], finished(11), {})
    (file,) = (path / "cells").glob(f"{KEYS[0]}*")
    whole = bytearray(file.read_bytes())
    if data.draw(st.booleans(), "cut"):
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole)
    with opened(path) as store:
        assert store.damaged == ["s a block 0"]
        assert list(store.finished) == [KEYS[1]]
    with opened(path) as store:
        assert store.damaged == []
        store.finish(KEYS[0], finished(10), {})
    assert values(path) == [10, 11]


def test_a_process_that_was_killed_between_two_results_of_a_cell_leaves_one(out):
    (file,) = (out / "cells").glob(f"{KEYS[0]}*.parquet")
    content = file.read_bytes()
    with opened(out) as store:
        store.finish(KEYS[0], finished(20), {})
    file.write_bytes(content)
    (out / "cells" / f"{KEYS[3]}-0123456789abcdef.parquet.unfinished").write_bytes(content[:100])
    (out / ".results.x.unfinished").mkdir()
    with opened(out) as store:
        assert len(store.finished) == 2
    assert len(list((out / "cells").glob(f"{KEYS[0]}*"))) == 1
    assert list(out.rglob("*.unfinished")) == []


# --- the study


def test_results_appear_together_and_replace_those_before(out):
    assert not read_manifest(out).is_done
    with opened(out) as store:
        with store.results({**STUDY, "sort": "x"}) as directory:
            (directory / "summary.csv").write_text("first")
            (directory / "plots").mkdir()
            (directory / "plots" / "old.png").write_text("")
            assert not (out / "summary.csv").exists()
        with store.results({**STUDY, "sort": "y"}) as directory:
            (directory / "summary.csv").write_text("second")
            (directory / "plots").mkdir()
    manifest = read_manifest(out)
    assert manifest.study["sort"] == "y"
    assert manifest.files == ["plots", "summary.csv"]
    assert (out / "summary.csv").read_text() == "second"
    assert list((out / "plots").iterdir()) == []


def test_results_that_fail_leave_those_before(out):
    with opened(out) as store:
        with store.results(STUDY) as directory:
            (directory / "summary.csv").write_text("first")
        with pytest.raises(RuntimeError), store.results(STUDY) as directory:
            (directory / "summary.csv").write_text("half")
            raise RuntimeError
    assert (out / "summary.csv").read_text() == "first"
    assert list(out.rglob("*.unfinished")) == []


OTHER = {KEYS[0]: CELLS[KEYS[0]], "f" * 32: ListedCell("s b block 0", ("s", "b"))}
"""Another study, with one cell of the first."""


def test_another_study_lies_beside_it(out):
    """Nothing is removed, results stay until there are new ones, and whoever comes back finds everything."""
    first = {**STUDY, "sources": {"rolloutbench": "1"}, "command": "rolloutbench compare first"}
    with opened(out, study=first) as store, store.results(first) as directory:
        (directory / "summary.csv").write_text("of the first study")
    before = sorted(path.name for path in (out / "cells").glob("*.parquet"))
    second = {**first, "seed": 1, "command": "rolloutbench compare second"}
    with opened(out, OTHER, second) as store:
        assert list(store.finished) == [KEYS[0]]  # both have it
        assert store.beside.startswith(f"{out} holds another study, too (seed: 0, now 1): its 1 finished ")
        assert store.beside.endswith("makes its results again from them: rolloutbench compare first")
        assert (out / "summary.csv").read_text() == "of the first study"
        assert read_manifest(out).study["seed"] == 0
        store.finish("f" * 32, finished(99), {})
        with store.results(second) as directory:
            (directory / "summary.csv").write_text("of the second study")
    assert read_manifest(out).study["seed"] == 1
    with opened(out, study=first) as store:
        assert "rolloutbench compare second" in store.beside
        assert {path.name for path in store.finished.values()} == set(before)
    with opened(out, OTHER, second, overwrite=True) as store:
        assert store.beside == ""
    assert len(list((out / "cells").iterdir())) == 2


def test_what_could_not_be_made_again_needs_permission(out):
    """Cells of other code, and results that have no cells."""
    first = {**STUDY, "sources": {"rolloutbench": "1"}}
    with opened(out, study=first) as store, store.results(first) as directory:
        (directory / "summary.csv").write_text("precious")
    with (
        pytest.raises(InputError, match=r"other source code of rolloutbench.*this version could not make"),
        opened(out, OTHER, {**first, "sources": {"rolloutbench": "2"}}),
    ):
        raise AssertionError("not reached")
    shutil.rmtree(out / "cells")
    with (
        pytest.raises(InputError, match=r"whose results are without their cells: choose another --out, or"),
        opened(out, OTHER, {**first, "seed": 1}),
    ):
        raise AssertionError("not reached")
    assert (out / "summary.csv").read_text() == "precious"


def test_another_study_is_never_mixed_with_it(out):
    other = {KEYS[0]: CELLS[KEYS[0]], "f" * 32: ListedCell("s b block 0", ("s", "b"))}
    study = {**STUDY, "seed": 1, "allocators": {"b": "B()"}}
    before = sorted(path.name for path in out.rglob("*"))
    with (
        pytest.raises(InputError, match=r"seed: 0, now 1; allocators: without a, with b\).*--overwrite"),
        opened(out, other, study),
    ):
        raise AssertionError("not reached")
    assert sorted(path.name for path in out.rglob("*")) == before
    with opened(out) as store, store.results(STUDY) as directory:
        (directory / "summary.csv").write_text("of the first study")
    with opened(out, other, study, overwrite=True) as store:
        assert list(store.finished) == [KEYS[0]]  # both have it
    assert not (out / "summary.csv").exists()
    assert read_manifest(out).study["seed"] == 1
    assert len(list((out / "cells").iterdir())) == 1


def test_a_damaged_manifest_loses_nothing(out):
    whole = (out / "manifest.json").read_bytes()
    for content in (
        b"",
        whole[:50],
        whole[:-3],
        b"[]",
        b"{}",
        b'{"format": 1}',
        b"\xff\xfe",
        b'{"format": 1, "cells": 3}',
    ):
        (out / "manifest.json").write_bytes(content)
        with pytest.raises(InputError, match="is damaged; run the study again"):
            read_manifest(out)
        with opened(out) as store:
            assert set(store.finished) == {KEYS[0], KEYS[2]}
        assert (out / "manifest.json").read_bytes() == whole


def test_a_damaged_manifest_and_another_study_lose_nothing_either(out):
    whole = (out / "manifest.json").read_bytes()
    (out / "manifest.json").write_bytes(whole[:50])
    with opened(out, {"f" * 32: ListedCell("s b block 0", ("s", "b"))}):
        pass
    assert len(list((out / "cells").glob("*.parquet"))) == 2


def test_a_manifest_of_another_format_is_refused(out):
    (out / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(InputError, match="format=2: this version reads format 1"), opened(out):
        raise AssertionError("not reached")


# --- the directory


def test_only_one_process_at_a_time(out):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_store import opened\n"
        "with opened(__import__('pathlib').Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out), str(Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is writing to it"), opened(out):
            raise AssertionError("not reached")
        holder.kill()
    assert values(out) == [10, 12]  # a killed process holds nothing


def test_a_new_directory_vanishes_if_nothing_was_finished(tmp_path):
    with pytest.raises(RuntimeError), opened(tmp_path / "new" / "deep" / "out") as store:
        store.fail(KEYS[0], Failed("no", "", {}))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "new" / "deep" / "out") as store:
        store.finish(KEYS[0], finished(1), {})
        raise KeyboardInterrupt
    assert values(tmp_path / "new" / "deep" / "out") == [1]


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("precious")
    (tmp_path / "file").write_text("a file")
    for name, said in (
        ("thesis", "holds no results"),
        ("file", "is a file"),
        ("file/below", "cannot be written"),
    ):
        for overwrite in (False, True):
            with (
                pytest.raises(InputError, match=said),
                opened(tmp_path / name, overwrite=overwrite),
            ):
                raise AssertionError("not reached")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["chapter", "file", "thesis"]


def test_other_files_in_the_directory_stay(out):
    (out / "notes.txt").write_text("mine")
    with opened(out, {KEYS[0]: CELLS[KEYS[0]]}, overwrite=True):
        pass
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
def test_a_disk_that_fails_loses_nothing(out, monkeypatch, error, moment):
    def fail(path, *_):
        if moment == "write_bytes":
            with open(path, "wb") as file:  # a full disk leaves the first half
                file.write(b"half")
        raise OSError(error, os.strerror(error), str(path))

    with opened(out) as store:
        with monkeypatch.context() as patch:
            patch.setattr(Path, moment, fail)
            with pytest.raises(OSError, match=os.strerror(error)):
                store.finish(KEYS[3], finished(13), {})
        assert KEYS[3] not in store.finished
    assert values(out) == [10, 12]
    assert list(out.rglob("*.unfinished")) == []


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(InputError, match="cannot be written: Read-only file system"),
        opened(tmp_path / "out"),
    ):
        raise AssertionError("not reached")


def test_a_file_that_is_too_large_for_the_disk(out):
    """The system itself refuses: the limit is set for a process of its own."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]); from test_store import *\n"
        "with opened(Path(sys.argv[1])) as store:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
        "    store.finish(KEYS[3], finished(13), {})\n"
    )
    command = [sys.executable, "-c", code, str(out), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert list(out.rglob("*.unfinished")) == []
    assert values(out) == [10, 12]


def test_a_manifest_cannot_name_files_outside(out, tmp_path):
    (tmp_path / "precious").write_text("x")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"] = ["../precious", str(tmp_path / "precious"), "..", ".", ""]
    (out / "manifest.json").write_text(json.dumps(manifest))
    with opened(out, {}, {**STUDY, "seed": 1}, overwrite=True):
        pass
    assert (tmp_path / "precious").read_text() == "x"
    assert (out / "manifest.json").exists()


# --- merging


def test_cells_are_taken_from_another_directory(out, tmp_path):
    other = tmp_path / "other"
    with opened(other) as store:
        store.finish(KEYS[0], finished(99), {})
        store.finish(KEYS[3], finished(13), {})
    shutil.copy(next((other / "cells").glob(f"{KEYS[3]}*")), other / "cells" / f"{KEYS[1]}-0123.parquet")
    with opened(out) as store:
        assert store.take(other) == 1
    assert values(out) == [10, 12, 13]


def test_many_cells_open_soon(tmp_path):
    """No clock here; `make bench` has one. Opening reads each file once and parses none."""
    cells = {f"{number:032x}": ListedCell("c", ("s", "a")) for number in range(300)}
    with opened(tmp_path / "out", cells) as store:
        for key in cells:
            store.finish(key, finished(1), {})
    parsed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_cell", lambda path: parsed.append(path) or read_cell(path))
        with opened(tmp_path / "out", cells) as store:
            assert len(store.finished) == 300
            assert parsed == []
            assert len(list(store.read())) == len(parsed) == 300
