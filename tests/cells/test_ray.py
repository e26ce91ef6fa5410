"""A Ray cluster gives what one process gives, also when workers are lost on the way."""

import contextlib
import os
import signal
import socket
import threading

import pandas as pd
import pytest
from test_executors import DRAWS, failures, gone, keyed, outcomes, read_pids, wait_for
from trivial_cells import Allocate, Draw, KillWorker, Raise, Sleep, Unpicklable, Unreadable

from rolloutbench.cells.executors import Local, Ray
from rolloutbench.protocol import InputError

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    """A Ray that was there before, and must be there afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.dirname(__file__))
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _memory=2**40)
    yield Ray("auto", jobs=2)
    assert ray.is_initialized()
    ray.shutdown()


def same_as_local(gathered, cells, sources):
    for key, expected in outcomes(Local(1), cells, sources).items():
        pd.testing.assert_frame_equal(gathered[key].table, expected.table, check_exact=True)
        gathered[key].table.iloc[0, 0] = 0.0  # nobody else's, so it can be written to


def test_a_ray_of_its_own_gives_the_same_and_goes(tmp_path, capfd):
    cells, sources = keyed(*DRAWS, Raise())
    before = dict(os.environ)
    gathered = outcomes(Ray("local", jobs=2, memory=4 * 2**30), cells, sources)
    assert failures(gathered) == {"12": "trivial_cells.py in run: ValueError: two lines"}
    del gathered["12"], cells["12"]
    same_as_local(gathered, cells, sources)
    assert not ray.is_initialized()
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_failures_stop_no_other(tmp_path, cluster):
    cells = dict(enumerate([Unreadable(), Unpicklable(), KillWorker(tmp_path / "log", 99), Draw(1)]))
    gathered = outcomes(cluster, cells, {})
    assert failures(gathered) == {
        0: "trivial_cells.py in fail_to_load: ModuleNotFoundError: not here",
        1: "trivial_cells.py in __reduce__: TypeError: stays here",
        2: "its worker process died 3 times, most likely for lack of memory: fewer --jobs, or more memory",
    }


def test_a_worker_killed_from_outside_costs_nothing(tmp_path, cluster):
    sleeper = Sleep(tmp_path / "log", 600)
    cells, sources = keyed(sleeper, *DRAWS)
    killer = threading.Thread(target=lambda: os.kill(read_pids([sleeper.log])[0], signal.SIGKILL))
    killer.start()
    gathered = outcomes(cluster, cells, sources)
    killer.join()
    same_as_local(gathered, cells, sources)


def test_leaving_early_ends_the_workers(tmp_path, cluster):
    sleeper = Sleep(tmp_path / "log", 600)
    cells, sources = keyed(Draw(1), sleeper)
    with contextlib.closing(cluster.run(cells, sources)) as running:
        next(running)
        pids = read_pids([sleeper.log])
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_memory_is_bounded(cluster):
    cells, sources = keyed(Allocate(8), Draw(1))
    gathered = outcomes(Ray("auto", memory=3 * 2**30), cells, sources)
    assert failures(gathered).keys() == {"0"}
    assert "MemoryError" in gathered["0"].error


def test_more_memory_than_any_node_has_is_refused(cluster):
    with pytest.raises(InputError, match=r"the largest node of the Ray cluster has \d+ bytes"):
        list(Ray("auto", memory=2**50).run({"0": Draw(1)}, {}))


def test_a_cluster_that_is_not_there_is_said_to_be_missing(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def none_running(address, **options):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", none_running)  # one may run, for another test
    message = r"--address auto: no Ray cluster is running here \(ray start --head\), or use --address local"
    with pytest.raises(InputError, match=message):
        list(Ray("auto").run({}, {}))


def test_an_address_where_nobody_answers_is_refused(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"127.0.0.1:{taken.getsockname()[1]}"
    for address in (dead, f"ray://{dead}"):
        with pytest.raises(InputError, match=f"--address {address}: no Ray cluster answers there"):
            list(Ray(address).run({}, {}))
    monkeypatch.setenv("RAY_ADDRESS", dead)
    with pytest.raises(InputError, match=f"--address {dead}: no Ray cluster answers there"):
        list(Ray("auto").run({}, {}))


@pytest.mark.parametrize("address", ["here", "host:", ":80", "host:http"])
def test_an_address_that_is_none_is_refused(address, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match="expected local, auto, host:port or ray://host:port"):
        list(Ray(address).run({}, {}))
