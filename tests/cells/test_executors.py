"""Cells give the same results wherever they run, and one that goes wrong spoils no other."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
from trivial_cells import Allocate, Draw, KillWorker, Leave, Raise, Sleep, Unpicklable, Unreadable

from rolloutbench.cells.cell import Failed, identify
from rolloutbench.cells.executors import Local, cores, memory_per_worker
from rolloutbench.protocol import InputError

DRAWS = [Draw(seed) for seed in range(12)]


def keyed(*named):
    """Cells under names of their own, and their sources."""
    cells = {f"{number}": cell for number, cell in enumerate(named)}
    return cells, identify(named)[1]


def outcomes(executor, cells, sources):
    gathered = {}
    for key, outcome in executor.run(cells, sources):
        assert key not in gathered
        gathered[key] = outcome
    assert gathered.keys() == cells.keys()
    return gathered


def failures(gathered):
    """The errors, without the numbers of lines."""
    failed = {key: outcome.error for key, outcome in gathered.items() if isinstance(outcome, Failed)}
    return {key: re.sub(r"\.py:\d+ ", ".py ", error) for key, error in failed.items()}


def gone(pid):
    """Ended; it may wait for a parent to take notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def read_pids(paths):
    """The processes that cells wrote down, once all have."""
    wait_for(lambda: all(path.exists() and path.read_text() for path in paths))
    return [int(path.read_text()) for path in paths]


def test_results_depend_on_neither_order_nor_place():
    cells, sources = keyed(*DRAWS)
    here = outcomes(Local(1), cells, sources)
    backwards = outcomes(Local(1), dict(reversed(cells.items())), sources)
    there = outcomes(Local(2), cells, sources)
    for key, cell in cells.items():
        for gathered in (here, backwards, there):
            pd.testing.assert_frame_equal(gathered[key].table, cell.run(), check_exact=True)
    assert all(outcome.facts.keys() == here["0"].facts.keys() for outcome in there.values())


def test_nothing_to_run():
    assert list(Local(1).run({}, {})) == list(Local(2).run({}, {})) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_is_one_line_and_stops_no_other(jobs):
    cells, sources = keyed(Raise(), *DRAWS, Raise())
    gathered = outcomes(Local(jobs), cells, sources)
    assert failures(gathered) == dict.fromkeys(("0", "13"), "trivial_cells.py in run: ValueError: two lines")
    assert "trivial_cells.py" in gathered["0"].traceback


def test_what_cannot_be_sent_or_read_or_leaves_fails_alone():
    cells = dict(enumerate([Unpicklable(), Unreadable(), Leave(), Unpicklable(), Draw(0), Unpicklable()]))
    assert failures(outcomes(Local(2), cells, {})) == {
        0: "trivial_cells.py in __reduce__: TypeError: stays here",
        1: "trivial_cells.py in fail_to_load: ModuleNotFoundError: not here",
        2: "executors.py in result: RuntimeError: it raised SystemExit",
        3: "trivial_cells.py in __reduce__: TypeError: stays here",
        5: "trivial_cells.py in __reduce__: TypeError: stays here",
    }


def test_a_cell_whose_worker_dies_is_run_again(tmp_path):
    once, twice = KillWorker(tmp_path / "once", 1), KillWorker(tmp_path / "twice", 2)
    cells, sources = keyed(once, *DRAWS, twice)
    gathered = outcomes(Local(2), cells, sources)
    assert failures(gathered) == {}
    assert gathered["0"].table["runs"].item() == 2
    assert gathered["13"].table["runs"].item() == 3


def test_a_cell_whose_workers_always_die_is_given_up_and_last(tmp_path):
    cells, sources = keyed(KillWorker(tmp_path / "log", 99), *DRAWS)
    gathered = outcomes(Local(2), cells, sources)
    assert list(failures(gathered).items()) == [
        (
            "0",
            "its worker process died 3 times, most likely for lack of memory: fewer --jobs, or more memory",
        )
    ]
    assert list(gathered)[-1] == "0"
    assert len((tmp_path / "log").read_text().splitlines()) == 3


@pytest.mark.slow
def test_cells_tried_again_are_alone(tmp_path):
    cells, sources = keyed(*(KillWorker(tmp_path / name, 2, seconds=0.3) for name in "ab"))
    gathered = outcomes(Local(2), cells, sources)
    assert failures(gathered) == {}
    assert [gathered[key].table["runs"].item() for key in "01"] == [3, 3]


@pytest.mark.slow
def test_a_worker_that_dies_idle_is_replaced(tmp_path):
    idle, again = KillWorker(tmp_path / "idle", 0), KillWorker(tmp_path / "again", 1, seconds=3)
    cells, sources = keyed(idle, again)
    gathered = {}
    for key, outcome in Local(2).run(cells, sources):
        gathered[key] = outcome
        if key == "0":
            os.kill(int(idle.log.read_text()), signal.SIGKILL)
            time.sleep(1)  # its loss is noticed while the other one still runs
    assert gathered["1"].table["runs"].item() == 2


def test_workers_leave_ctrl_c_to_the_driver(tmp_path):
    sleeper = Sleep(tmp_path / "log", 2)
    cells, sources = keyed(sleeper)
    interrupter = threading.Thread(target=lambda: os.kill(read_pids([sleeper.log])[0], signal.SIGINT))
    interrupter.start()
    assert failures(outcomes(Local(2), cells, sources)) == {}
    interrupter.join()


class Counted(Mapping):
    """A million cells, of which it knows how many were asked for."""

    def __init__(self, size):
        self.size, self.taken = size, 0

    def __len__(self):
        return self.size

    def __iter__(self):
        return (str(number) for number in range(self.size))

    def __getitem__(self, key):
        self.taken += 1
        return Draw(int(key))


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_cells_are_in_flight(jobs):
    cells = Counted(1_000_000)
    with contextlib.closing(Local(jobs).run(cells, {})) as running:
        for given, _ in enumerate(running):
            assert cells.taken - given <= 2 * jobs
            if given == 20:
                break


@pytest.mark.parametrize("jobs", [1, 2])
def test_memory_is_bounded(jobs):
    cells, sources = keyed(Allocate(8), Draw(1), Allocate(0.001), Allocate(8))
    gathered = outcomes(Local(jobs, memory=3 * 2**30), cells, sources)
    assert failures(gathered).keys() == {"0", "3"}
    assert "MemoryError: Unable to allocate 8.00 GiB" in gathered["0"].error


def test_a_worker_with_other_code_says_so():
    cells, sources = keyed(Draw(1))
    gathered = outcomes(Local(2), cells, sources | {"rolloutbench": "0123"})
    assert "other source code of 'rolloutbench'" in gathered["0"].error


def test_it_runs_outside_the_main_thread():
    cells, sources = keyed(*DRAWS)
    gathered = {}
    thread = threading.Thread(target=lambda: gathered.update(outcomes(Local(2), cells, sources)))
    thread.start()
    thread.join()
    assert failures(gathered) == {}
    assert len(gathered) == len(cells)


def test_workers_end_when_the_consumer_is_interrupted(tmp_path):
    sleepers = [Sleep(tmp_path / str(number), 600) for number in range(2)]
    cells, sources = keyed(Draw(1), *sleepers)

    def consume():
        with contextlib.closing(Local(2).run(cells, sources)) as running:
            next(running)
            pids.extend(read_pids([sleepers[0].log]))
            raise KeyboardInterrupt

    pids = []
    with pytest.raises(KeyboardInterrupt):
        consume()
    assert all(gone(pid) for pid in pids)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SCRIPT = """
    import contextlib, os, sys, time
    from dataclasses import dataclass
    from pathlib import Path
    import pandas as pd
    from rolloutbench.cells.executors import Local
    from rolloutbench.cells.cell import Finished, identify

    @dataclass(frozen=True)
    class Mine:
        log: Path
        seconds: float
        label = "mine"

        def run(self):
            self.log.with_suffix(".part").write_text(str(os.getpid()))
            self.log.with_suffix(".part").rename(self.log)
            time.sleep(self.seconds)
            return pd.DataFrame({"pid": [os.getpid()]})

    if __name__ == "__main__":
        cells, sources = identify(
            Mine(Path(sys.argv[1]) / str(number), float(sys.argv[2])) for number in range(2)
        )
        try:
            with contextlib.closing(Local(2).run(cells, sources)) as running:
                for _, outcome in running:
                    assert isinstance(outcome, Finished), outcome
                    assert outcome.table["pid"].item() != os.getpid()
                print("done")
        except KeyboardInterrupt:
            print("interrupted")
"""


@contextlib.contextmanager
def script(tmp_path, seconds):
    """A program of a user, in a process group of its own like that of a terminal."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(path), str(tmp_path), str(seconds)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        try:
            yield driver
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)


def test_classes_of_a_script_run_on_workers(tmp_path):
    with script(tmp_path, seconds=0) as driver:
        assert driver.communicate(timeout=60) == ("done\n", "")


def test_ctrl_c_is_quiet_and_leaves_nothing_behind(tmp_path):
    with script(tmp_path, seconds=600) as driver:
        pids = read_pids([tmp_path / "0", tmp_path / "1"])
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.communicate(timeout=60) == ("interrupted\n", "")
        assert all(gone(pid) for pid in pids)


def test_workers_do_not_outlive_a_killed_driver(tmp_path):
    with script(tmp_path, seconds=600) as driver:
        pids = read_pids([tmp_path / "0", tmp_path / "1"])
        driver.kill()
        wait_for(lambda: all(gone(pid) for pid in pids))


def test_no_jobs_are_refused():
    with pytest.raises(InputError, match="--jobs 0: expected at least 1"):
        Local(0)


def test_memory_is_shared_out():
    assert cores() >= 1
    whole = memory_per_worker(1)
    assert 2**20 < whole <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert memory_per_worker(3) == whole // 3


def test_the_tightest_cgroup_counts(monkeypatch):
    files = {
        "/proc/self/cgroup": "4:memory:/job\n3:cpuset:/\n0::/slice/job\n",
        "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
        "/sys/fs/cgroup/slice/job/memory.max": "max\n",
        "/sys/fs/cgroup/slice/memory.max": "3000000\n",
    }

    def read(path):
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert memory_per_worker(3) == 1_000_000
    del files["/sys/fs/cgroup/slice/memory.max"]
    assert memory_per_worker(1) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    files.clear()
    monkeypatch.delattr(os, "sysconf")
    assert memory_per_worker(1) is None
