"""A study that is killed again and again ends as if nothing had happened, and repeats no finished cell."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from thorough import times

from rolloutbench.cells.store import read_cell, read_manifest

pytestmark = pytest.mark.kill

KILLED = Path(__file__).parents[1] / "killed.py"
CELLS = 60
KILLS = times(25, 8)
STUDY = ["compare", "--quick", "--prompts", "4", "-s", "snapshot-u-shaped-v1[dimension=2,skills=2]"]
STUDY += [part for tag in range(1, CELLS) for part in ("-a", f"logged[tag={tag}]")]


@pytest.fixture
def start(tmp_path):
    """Run the study in a process of its own; returns its exit code. See `killed.py`."""
    server = subprocess.Popen(
        [sys.executable, KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )

    def run(out, log, moment, number, jobs):
        command = [str(tmp_path / log), moment, str(number), *STUDY, "--jobs", str(jobs)]
        print(json.dumps([*command, "--out", str(tmp_path / out)]), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    with server:
        yield run
        server.stdin.close()


def finished_tags(out):
    """The tags of the cells whose files are there."""
    if not (out / "manifest.json").exists():
        return set()
    cells = read_manifest(out).cells
    done = {path.name.partition("-")[0] for path in (out / "cells").glob("*.parquet")}
    tags = {key: entry.part[1].partition("tag=")[2].rstrip("]") for key, entry in cells.items()}
    return {tags[key] for key in done if tags[key]}


def tables(out):
    files = sorted((out / "cells").glob("*.parquet"))
    return {path.name.partition("-")[0]: read_cell(path)[0] for path in files}


def test_killed_at_random_moments(tmp_path, start):
    assert start("calm", "calm.log", "never", 0, 1) == 0
    log, out = tmp_path / "killed.log", tmp_path / "killed"
    log.touch()
    chance = random.Random(0)
    kills = 0
    finished = set()
    while kills < KILLS:
        moment = chance.choice(["before", "inside", "inside", "after", "seconds"])
        number = round(chance.uniform(0.1, 2), 2) if moment == "seconds" else chance.randint(1, 14)
        told = len(log.read_text().split())
        code = start("killed", "killed.log", moment, number, chance.choice([1, 1, 1, 2]))
        again = finished & set(log.read_text().split()[told:])
        assert again == set(), f"{again} ran although they were finished"
        finished = finished_tags(out)
        if code == -signal.SIGKILL:
            kills += 1
        else:  # it had come to its end: from there each kill meets the results
            assert code == 0, Path(f"{log}.said").read_text()
    assert start("killed", "killed.log", "never", 0, 1) == 0, Path(f"{log}.said").read_text()

    calm = tmp_path / "calm"
    assert {path.name for path in out.iterdir()} == {path.name for path in calm.iterdir()}
    assert list(out.rglob("*.unfinished")) == []
    for name in ("summary.csv", "per_replicate.parquet", "study.toml"):
        assert (out / name).read_bytes() == (calm / name).read_bytes()
    assert read_manifest(out).cells == read_manifest(calm).cells
    one, other = tables(out), tables(calm)
    assert len(one) == CELLS
    for key, table in one.items():
        pd.testing.assert_frame_equal(table, other[key])


@pytest.mark.parametrize("jobs", [1, 2])
def test_interrupted(tmp_path, jobs):
    """Ctrl-C goes to the whole group of processes; what is finished is kept, in one line."""
    command = [sys.executable, KILLED, tmp_path / "log", "never", "0"]
    command += [*STUDY, "--jobs", str(jobs), "--out", tmp_path / "out"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        for line in process.stderr:
            if "cells/s" in line:  # a fifth is done
                break
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert out == ""
    said = err.strip().splitlines()[-1]
    assert said.startswith("rolloutbench: error: interrupted; ")
    assert "the same command goes on from there" in said
    assert "Traceback" not in err
    kept = int(said.partition("; ")[2].split()[0])
    assert 0 < kept <= CELLS
    # One may have been stored in the moment of the signal, when its worker was no longer heard.
    assert len(list((tmp_path / "out" / "cells").iterdir())) in (kept, kept + 1)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert f"{kept} of {CELLS} cells are finished already" in again.stderr
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["cells"]) == CELLS
