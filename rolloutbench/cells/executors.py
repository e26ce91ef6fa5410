"""Where cells run: in this process, on processes of this machine, or on a Ray cluster.

An executor yields what comes of each cell as it comes, in any order, and has only a few cells in flight
for each worker. Where a cell runs, and beside what, says nothing about its result. A worker that dies
takes nothing with it but the cell that it was running, which is tried again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
from collections import Counter, deque
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import cloudpickle
import loky

from rolloutbench import failures
from rolloutbench.cells.cell import Cell, Failed, Finished, Sources, run_cell
from rolloutbench.cells.processes import ignore_interrupts, live_and_die_with
from rolloutbench.optional import need
from rolloutbench.protocol import InputError

ATTEMPTS = 3
"""How often a cell may lose its worker before it is given up."""

FILES, FILES_OF_WORKER = 24, 8
"""Open files that the process needs itself, and for each of its workers."""

QUEUED = 2
"""Cells in flight for each core of a Ray cluster: one that runs, the others on their way."""


CellResults: TypeAlias = Generator[tuple[str, Finished | Failed], None, None]
"""Pairs of a cell's key and what came of it, in the order in which cells end."""


class Executor(Protocol):
    """Something that runs cells."""

    def run(self, cells: Mapping[str, Cell], sources: Sources) -> CellResults:
        """What comes of each cell, by its key. Close the iterator to leave early: it ends all workers."""


@dataclass(frozen=True)
class Local:
    """Cells on `jobs` processes of this machine, or in this one for one job; `memory` bytes for each.

    With `debug` they run in this process, whatever `jobs` says, and what one raises is raised here.
    """

    jobs: int
    memory: int | None = None
    debug: bool = False

    def __post_init__(self) -> None:
        _check_jobs(self.jobs)

    def run(self, cells: Mapping[str, Cell], sources: Sources) -> CellResults:
        """What comes of each cell, by its key. Close the iterator to leave early: it ends all workers."""
        if self.jobs == 1 or self.debug:
            for key in cells:
                yield key, run_cell(cells[key], sources, self.memory, debug=self.debug)
        else:
            check_open_files(self.jobs)
            with contextlib.closing(_Processes(self.jobs, sources, self.memory)) as workers:
                yield from _run_on(workers, cells)


@dataclass(frozen=True)
class Ray:
    """Cells on a Ray cluster, each on one core and within `memory` bytes; all its cores, or `jobs` of them.

    The address `local` starts Ray here for the time of the run, `auto` finds the cluster of this machine,
    `host:port` or `ray://host:port` name another. The nodes must have this program installed.
    """

    address: str
    jobs: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        _check_jobs(self.jobs)

    def run(self, cells: Mapping[str, Cell], sources: Sources) -> CellResults:
        """What comes of each cell, by its key. Close the iterator to leave early: it ends all workers.

        Raises InputError where Ray is not installed, or no cluster answers that has so much memory.
        """
        ray = need("ray", "ray")
        with (
            _connect(ray, self),
            contextlib.closing(_Tasks(ray, self.jobs, sources, self.memory)) as workers,
        ):
            yield from _run_on(workers, cells)


def check_open_files(jobs: int) -> None:
    """Allow this process as many open files as `jobs` workers need, where the system lets it.

    Raises InputError where it does not: a pool that cannot make its pipes ends in a library's traceback.
    """
    try:
        import resource  # there is none on Windows
    except ImportError:
        return
    needed = FILES + FILES_OF_WORKER * jobs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InputError(
            f"--jobs {jobs}: needs {needed} open files, and this process may have {hard} (ulimit -n): fewer "
            "jobs, or a higher limit, is expected"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def cores() -> int:
    """Cores that this process may use: those of the machine, its affinity and its cgroup."""
    return int(loky.cpu_count())


def memory_per_worker(jobs: int) -> int | None:
    """Bytes for each of `jobs` workers: the machine's memory, or the cgroup's where that is less."""
    limits = list(_cgroup_limits())
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits) // jobs if limits else None


def _cgroup_limits() -> Iterator[int]:
    """The limits of this process's cgroup and of all above it, version 1 or 2."""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, group in (line.split(":", 2) for line in groups):
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
            if controllers
            else (Path("/sys/fs/cgroup"), "memory.max")
        )
        own = root / group.lstrip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(root):
                with contextlib.suppress(OSError, ValueError):  # no such file, or no limit: `max`
                    yield int((folder / file).read_text())


class _WorkerDied(Exception):
    """The process that ran a cell is gone."""

    def __init__(self, times: int):
        self.times = times


class _Workers(Protocol):
    """Runs pickled cells and gives their pickled outcomes."""

    def room(self) -> int:
        """How many more cells may be submitted now; some if none is running."""

    def submit(self, cell: bytes) -> Hashable: ...

    def wait(self) -> Iterable[Hashable]:
        """Some that ended, as soon as there are any. Raises OSError where what runs them is gone."""

    def result(self, task: Any) -> bytes:
        """The outcome of a cell that ended, or _WorkerDied, or what kept it from coming back."""


def _run_on(workers: _Workers, cells: Mapping[str, Cell]) -> Iterator[tuple[str, Finished | Failed]]:
    keys = iter(cells)
    running: dict[Hashable, str] = {}
    deaths: Counter[str] = Counter()
    again: deque[str] = deque()
    ended: list[tuple[str, Finished | Failed]] = []

    def submit(key: str) -> None:
        try:
            cell = cloudpickle.dumps(cells[key])
        except Exception as error:
            ended.append((key, _failure_of(error)))
        else:
            running[workers.submit(cell)] = key

    while True:
        for key in islice(keys, workers.room()):
            submit(key)
        if again and not running and not ended:
            # When all others are done: alone, a cell has the most memory, and what happens is its own doing.
            submit(again.popleft())
        if not running and not ended:
            return
        yield from ended  # only now: the workers are busy while the caller looks at these
        ended.clear()
        for task in workers.wait() if running else ():
            key = running.pop(task)
            try:
                ended.append((key, pickle.loads(workers.result(task))))
            except _WorkerDied as death:
                deaths[key] += death.times
                if deaths[key] < ATTEMPTS:
                    again.append(key)
                else:
                    ended.append((key, _give_up(deaths[key])))
            except Exception as error:
                ended.append((key, _failure_of(error)))


def _give_up(deaths: int) -> Failed:
    line = f"its worker process died {deaths} times, most likely for lack of memory"
    return Failed(f"{line}: fewer --jobs, or more memory", "", {})


def _failure_of(error: BaseException) -> Failed:
    return Failed(failures.one_line(error), failures.whole(error), {})


def _run_pickled(cell: bytes, sources: Sources, memory: int | None) -> bytes:
    """Run in a worker. What cannot be read or sent there is a failure of its cell, not of the worker.

    Pickled here, tables come back the same from everywhere: Ray's own would be read-only.
    """
    try:
        outcome = cloudpickle.dumps(run_cell(pickle.loads(cell), sources, memory))
    except Exception as error:
        outcome = cloudpickle.dumps(_failure_of(error))
    return bytes(outcome)


class _Processes:
    """Processes of this machine.

    Each is a pool of its own, since a pool that loses one process ends them all, and does not tell which
    cell it was.
    """

    def __init__(self, jobs: int, sources: Sources, memory: int | None):
        self.jobs, self.sources, self.memory = jobs, sources, memory
        self.idle: list[loky.ProcessPoolExecutor] = []
        self.busy: dict[Future[bytes], loky.ProcessPoolExecutor] = {}

    def room(self) -> int:
        return self.jobs - len(self.busy)

    def submit(self, cell: bytes) -> Future[bytes]:
        while True:
            process = self.idle.pop() if self.idle else _start_process()
            with contextlib.suppress(BrokenExecutor):  # it died while it had nothing to do
                task: Future[bytes] = process.submit(_run_pickled, cell, self.sources, self.memory)
                self.busy[task] = process
                return task

    def wait(self) -> Iterable[Future[bytes]]:
        return wait(self.busy, return_when=FIRST_COMPLETED).done

    def result(self, task: Future[bytes]) -> bytes:
        process, error = self.busy.pop(task), task.exception()
        if isinstance(error, BrokenExecutor):
            process.shutdown()
            raise _WorkerDied(1)
        self.idle.append(process)
        if error is not None:
            raise RuntimeError(f"it raised {type(error).__name__}") from error
        return task.result()

    def close(self) -> None:
        processes = [*self.idle, *self.busy.values()]
        if processes:
            with ThreadPoolExecutor(len(processes)) as threads:  # it takes each of them a while
                list(threads.map(lambda process: process.shutdown(kill_workers=bool(self.busy)), processes))


def _start_process() -> loky.ProcessPoolExecutor:
    with ignore_interrupts():
        process = loky.ProcessPoolExecutor(
            1,
            initializer=live_and_die_with,
            initargs=(os.getpid(),),
            # With psutil installed loky replaces processes that grew, with a warning. The bound is ours.
            env={"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"},
        )
        process.submit(int)  # starts it
    return process


class _Tasks:
    """Tasks of a Ray cluster, which starts those again itself whose worker or node dies."""

    def __init__(self, ray: Any, jobs: int | None, sources: Sources, memory: int | None):
        self.ray, self.jobs = ray, jobs
        self.running: set[Hashable] = set()
        largest = int(max(node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]))
        if memory is not None and memory > largest:  # Ray would wait for such a node for ever
            raise InputError(f"--memory {memory}: the largest node of the Ray cluster has {largest} bytes")
        self.common = ray.put(sources), memory
        self.task = ray.remote(num_cpus=1, memory=memory, max_retries=ATTEMPTS - 1)(_run_pickled)

    def room(self) -> int:
        # Asked each time: nodes come and go.
        wanted = self.jobs or QUEUED * int(self.ray.cluster_resources().get("CPU", 1))
        return max(0, wanted - len(self.running))

    def submit(self, cell: bytes) -> Hashable:
        task: Hashable = self.task.remote(cell, *self.common)
        self.running.add(task)
        return task

    def wait(self) -> Iterable[Hashable]:
        while True:
            done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=1.0)
            if done:
                return list(done)
            self._check_node()

    def _check_node(self) -> None:
        """Raise OSError where the Ray that was started here is gone: Ray itself would end this process."""
        node = self.ray._private.worker._global_node
        gone = [kind for kind, _ in node.dead_processes()] if node is not None else []
        if {"raylet", "gcs_server"} & set(gone):
            self.running.clear()  # there is nobody to cancel them
            raise OSError(f"the Ray that was started here has lost its {gone[0]}")

    def result(self, task: Any) -> bytes:
        self.running.remove(task)
        lost = self.ray.exceptions
        try:
            return bytes(self.ray.get(task))
        except (lost.WorkerCrashedError, lost.NodeDiedError, lost.OutOfMemoryError, lost.ObjectLostError):
            raise _WorkerDied(ATTEMPTS) from None

    def close(self) -> None:
        for task in self.running:
            self.ray.cancel(task, force=True)


@contextlib.contextmanager
def _connect(ray: Any, wanted: Ray) -> Iterator[None]:
    """Ray, as wanted, ended after this where it was not there before."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if wanted.address == "local":
        jobs = wanted.jobs or cores()
        # What Ray starts inherits these; modules must be found there as they are here.
        path = os.pathsep.join(part or os.getcwd() for part in sys.path)
        with _set_environment(PYTHONPATH=path, RAY_USAGE_STATS_ENABLED="0"):
            ray.init(
                address="local",
                num_cpus=jobs,
                include_dashboard=False,
                # All may hold what one may hold. By default Ray keeps 30 % for shared objects.
                _memory=wanted.memory and jobs * wanted.memory,
                _system_config={"task_oom_retries": ATTEMPTS - 1},  # otherwise without end
                **quiet,
            )
    else:
        _check_answers(wanted.address)
        try:
            ray.init(address=wanted.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = (
                "no Ray cluster is running here (ray start --head), or use --address local"
                if wanted.address == "auto"
                else " ".join(str(error).split())
            )
            raise InputError(f"--address {wanted.address}: {said}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes, and then end this process."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
        if address == "auto":
            return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--address {address}: expected local, auto, host:port or ray://host:port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers there ({error})") from None


@contextlib.contextmanager
def _set_environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _check_jobs(jobs: int | None) -> None:
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs {jobs}: expected at least 1")
