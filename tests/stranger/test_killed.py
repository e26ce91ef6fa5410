"""Whatever is killed, and whenever: what was finished stays, the same command goes on, and nobody is left.

Every process that a test starts carries a mark in its environment, by which those left behind are found, or
is at least of its session: some write over what their environment was.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
from thorough import times

from rolloutbench import checkpoint
from rolloutbench.cells.store import read_cell

pytestmark = [pytest.mark.slow, pytest.mark.kill]

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0
"""Seconds after which a test gives up on what should happen soon; no machine is that slow."""
TASK = "sorting[shortest=1,longest=2,pool_size=40,held_out=10]"
COMPARE = ["compare", "--quick", "--prompts", "4", "-s", "weak-cold-v1", "--steps", "20"]
COMPARE += [part for tag in range(1, 6) for part in ("-a", f"logged[tag={tag}]")]
TRAIN = ["train", "--task", TASK, "--model", "tiny[width=32,warmup_steps=5]", "--prompts", "8"]
TRAIN += ["--group-size", "2", "--steps", "4", "--seeds", "2", "--device", "cpu", "-a", "uniform"]
TRAIN += ["--initial-rollouts", "8", "--checkpoint-every", "1"]


class Program:
    """The command line in processes of its own, which carry a mark."""

    def __init__(self, where):
        self.where, self.mark = where, uuid.uuid4().hex
        self.sessions = set()
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.environment = {
            **os.environ,
            "MARK_OF_TEST": self.mark,
            "PYTHONPATH": path,
            "ROLLOUTBENCH_CACHE": str(where / "cache"),
        }

    def start(self, *command):
        """A session of its own, as of a terminal."""
        if not str(command[0]).startswith("-"):
            command = [ROOT / "tests" / "killed.py", self.where / "log", "never", "0", *command]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        started = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=self.where,
            env=self.environment,
            start_new_session=True,
            **streams,
        )
        self.sessions.add(started.pid)
        return started

    def ok(self, *command):
        with self.start(*command) as process:
            _, said = process.communicate()
        assert process.returncode == 0, said
        return said

    def left(self):
        """Command lines, by process, of all that are the program's and no zombies."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                marked = f"MARK_OF_TEST={self.mark}".encode() in (folder / "environ").read_bytes()
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                if marked or session in self.sessions:
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if line:
                        found[int(folder.name)] = line
        return found


@pytest.fixture
def program(tmp_path):
    """Whatever a failing test leaves behind ends with it."""
    made = Program(tmp_path)
    yield made
    for pid in made.left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(happened, process=None):
    """Until it happened, or the process is over."""
    end = time.monotonic() + PATIENCE
    while not happened() and (process is None or process.poll() is None):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


def assert_same(one, other):
    """The same cells, to the bit; seconds are never the same."""
    tables = []
    for out in (one, other):
        paths = sorted((out / "cells").glob("*.parquet"))
        tables.append({path.name.partition("-")[0]: read_cell(path)[0] for path in paths})
    assert tables[0].keys() == tables[1].keys()
    for key, table in tables[0].items():
        names = [name for name in table if not name.startswith("seconds")]
        assert table[names].equals(tables[1][key][names])
    assert list(one.rglob("*.unfinished")) == []


def kept(out):
    """Finished cells, and the step of the newest checkpoint of each run."""
    cells = {path.name for path in (out / "cells").glob("*.parquet")}
    steps = {}
    for folder in (out / "runs").glob("*/"):
        for name in (checkpoint.NEWEST, checkpoint.EARLIER):
            if (folder / name).exists():
                step = checkpoint.load(folder / name)["environment"]["step"]
                steps[folder.name] = max(step, steps.get(folder.name, 0))
    return cells, steps


def something_kept(out):
    return lambda: any(out.glob("cells/*.parquet")) or any(out.glob("runs/*/*.safetensors"))


@pytest.mark.parametrize(
    "command", [COMPARE, pytest.param(TRAIN, marks=pytest.mark.torch)], ids=["compare", "train"]
)
def test_workers_end_with_a_driver_that_was_killed(program, tmp_path, command):
    program.ok(*command, "--jobs", 1, "--out", "calm")
    with program.start(*command, "--jobs", 2, "--out", "out") as process:
        wait_for(something_kept(tmp_path / "out"), process)
        assert len(program.left()) >= 3  # and the tracker of what workers share
        process.kill()
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not program.left())
    before = kept(tmp_path / "out")
    assert any(before)
    said = program.ok(*command, "--jobs", 2, "--out", "out")
    assert "Traceback" not in said
    assert before[0] <= kept(tmp_path / "out")[0]
    assert_same(tmp_path / "calm", tmp_path / "out")
    wait_for(lambda: not program.left())


@pytest.mark.torch
def test_the_suite_of_a_gpu_under_signals(program, tmp_path):
    """Four of TERM and INT, or ten, to it alone and as a terminal sends them: to all that it started."""
    given = dict(zip(TRAIN[1::2], TRAIN[2::2], strict=True))
    study = tmp_path / "study.toml"
    study.write_text(
        f'study = "train"\nallocators = ["ar3po"]\ntask = "{given["--task"]}"\nmodel = "{given["--model"]}"\n'
        "prompts = 8\ngroup_size = 2\nsteps = 12\nreplicates = 2\ninitial_rollouts = 8\n"
    )
    suite = ["-m", "rolloutbench.cli.gpu_suite", "--device", "cpu", "--study", study, "--processes", "2"]
    program.ok(*suite, "--out", "calm")
    out, chance = tmp_path / "out", np.random.default_rng(14)
    cells, steps, gone, stopped = set(), {}, set(), 0
    for place in range(times(10, 4)):
        number = (signal.SIGTERM, signal.SIGINT)[place % 2]
        with program.start(*suite, "--out", "out") as process:
            seen = kept(out)
            if place:
                wait_for(lambda seen=seen: kept_quietly(out, seen) != seen, process)
            time.sleep(chance.uniform(0.0, 1.0))
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if place % 4 > 1 else os.kill)(process.pid, number)
            said = process.stderr.read()
        assert process.returncode in (0, 143, 130, 1, -number), said
        assert "Traceback" not in said or "rolloutbench" not in said, said
        stopped += process.returncode != 0
        wait_for(lambda: not program.left())
        now_cells, now_steps = kept(out)
        assert cells <= now_cells
        gone |= {run for run, step in steps.items() if now_steps.get(run, -1) < step}
        assert len(gone) <= len(now_cells)  # those of runs that ended, perhaps when one was stopped before
        cells, steps = now_cells, now_steps
    assert stopped
    program.ok(*suite, "--out", "out")
    assert_same(tmp_path / "calm", out)


def kept_quietly(out, otherwise):
    """What is kept, or else `otherwise` where a file is replaced while it is read."""
    try:
        return kept(out)
    except Exception:
        return otherwise


VICTIMS = ["ray::_run_pickled", "raylet/raylet", "gcs_server", "killed.py"]


@pytest.mark.ray
@pytest.mark.parametrize("victim", times(VICTIMS, VICTIMS[:2]))
def test_ray_under_kills(program, tmp_path, victim):
    """A worker costs nothing; whoever else dies ends the study in one line, and the same command goes on."""
    pytest.importorskip("ray")
    program.ok(*COMPARE, "--jobs", 1, "--out", "calm")
    command = [*COMPARE, "--executor", "ray", "--address", "local", "--jobs", 2, "--out", "out"]
    with program.start(*command) as process:
        wait_for(something_kept(tmp_path / "out"), process)
        (first, *_) = [pid for pid, line in program.left().items() if victim in line]
        os.kill(first, signal.SIGKILL)
        said = process.stderr.read()
    errors = [line for line in said.splitlines() if line.startswith("rolloutbench: error: ")]
    assert "Traceback" not in said
    if victim.startswith("ray::"):
        assert (process.returncode, errors) == (0, [])
    elif victim == "killed.py":
        assert process.returncode == -signal.SIGKILL
    elif process.returncode != 0:  # it had done everything before anybody noticed
        (line,) = errors
        assert "the Ray that was started here has lost its " in line
        assert line.endswith("kept in out, and the same command goes on")
    wait_for(lambda: not program.left())
    program.ok(*command)
    assert_same(tmp_path / "calm", tmp_path / "out")
    wait_for(lambda: not program.left())
