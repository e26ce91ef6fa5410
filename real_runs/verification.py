"""Verifiers that may hang, raise or die: in processes of their own, at the cost of one rollout each time.

A worker is a process with a pipe to itself. It is sent one response at a time, and killed and replaced
when the answer does not come in time. No queue or lock is shared: a worker that dies while it holds one
stops all others (as in the pool of pebble, github.com/noxdafox/pebble/issues/163), and the pools of
concurrent.futures and loky end every worker with the first that dies.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Annotated, Self, TypeAlias

import loky
import loky.backend
import numpy as np
from pydantic import Field

from real_runs.tasks import Problem, Verifier
from rolloutbench.cells.processes import ignore_interrupts
from rolloutbench.protocol import FloatArray, InputError

Score: TypeAlias = Callable[[Problem, str], float | tuple[float, ...]]
"""The raw reward in [0, 1] of a response to a problem, or several in the order of their names."""

Timeout: TypeAlias = Annotated[float, Field(gt=0, le=86_400)]
"""Seconds that the verification of one response may take."""
Workers: TypeAlias = Annotated[int, Field(ge=1, le=1024)] | None
"""Number of worker processes; None is one for each core, at most 8."""

STARTING = 300.0
"""Seconds in which a worker must have made its verifier, imports and all."""
STARTS = 3
"""Number of workers in a row that may die before they have made their verifier."""
MEMORY = 4 * 2**30
"""Bytes that a worker may hold (Linux): 9^(9^9) is an easy answer to write and raises MemoryError here."""


class PooledVerifier(Verifier):
    """Scores responses in worker processes, with `timeout` seconds for each response.

    `make` is called once in each worker and gives the scoring function, so whatever that needs is imported
    and built there, and on nobody's time. It must be importable by name: a function at the top of a module
    that is not the script, or a `functools.partial` of one. A response whose scoring raises, takes too
    long, kills its process or gives no number in [0, 1] scores NaN and adds to `failed`. `rewards`: how many
    of them a response gets.
    """

    def __init__(
        self,
        make: Callable[[], Score],
        timeout: float = 5.0,
        workers: int | None = None,
        rewards: int = 1,
    ) -> None:
        self.make, self.timeout, self.rewards = make, timeout, rewards
        self.workers = workers or min(int(loky.cpu_count()), 8)
        self._pool: list[_Worker] = []
        self._deaths = 0  # of workers that were starting, in a row

    def __enter__(self) -> Self:
        self._fill()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all worker processes."""
        for worker in self._pool:
            worker.end()
        self._pool.clear()

    def score(self, problems: Sequence[Problem], responses: Sequence[str]) -> FloatArray:
        """Raw rewards in [0, 1] of responses to problems (both N), (N,) or (N, L); NaN where scoring failed.

        Raises InputError where the verifier cannot be made, RuntimeError where no worker lives to make it.
        """
        if len(problems) != len(responses):
            raise ValueError(f"{len(responses)} responses to {len(problems)} problems")
        raw = np.full((len(problems), self.rewards), np.nan)
        waiting = deque(range(len(problems)))
        try:
            self._fill()
            while waiting or any(worker.row is not None for worker in self._pool):
                for worker in self._pool:
                    if waiting and worker.ready and worker.row is None:
                        row = waiting.popleft()
                        worker.send(row, problems[row], responses[row], self.timeout)
                for worker in _due(self._pool):
                    row_or_none = worker.row
                    scores = self._hear_from(worker)
                    if row_or_none is not None and len(scores) == self.rewards:
                        raw[row_or_none] = scores
                self._fill()
        except BaseException:
            self.__exit__(None, None, None)  # what is under way there belongs to nobody now
            raise
        self.failed += int(np.isnan(raw).any(axis=1).sum())
        return raw[:, 0] if self.rewards == 1 else raw

    def _fill(self) -> None:
        """Start as many workers as there should be; the dead are replaced."""
        for worker in [worker for worker in self._pool if not worker.process.is_alive()]:
            # Where a response or a reason not to start may be on its way, it is heard first.
            if worker.row is None and (worker.ready or not worker.connection.poll()):
                self._drop(worker)
        while len(self._pool) < self.workers:
            self._pool.append(_Worker(self.make, self.timeout))

    def _hear_from(self, worker: _Worker) -> Sequence[float]:
        """Receive a worker's scores; none where it has none, is dead or late, and must be replaced."""
        try:
            if not worker.connection.poll():
                raise TimeoutError
            said = worker.connection.recv()
        except (EOFError, OSError):
            self._drop(worker)
            return []
        if isinstance(said, Exception):
            raise said
        if not worker.ready:
            worker.ready, self._deaths = True, 0
        worker.row, worker.deadline = None, math.inf
        return list(said)

    def _drop(self, worker: _Worker) -> None:
        worker.end()
        self._pool.remove(worker)
        self._deaths += not worker.ready
        if self._deaths >= STARTS:
            raise RuntimeError(
                f"{STARTS} verifier processes in a row ended or were not ready within {STARTING:g} s of "
                f"their start (the last with exit code {worker.process.exitcode})"
            )


class _Worker:
    """A worker process, the row of the response that it is at, if any, and when that must be done."""

    def __init__(self, make: Callable[[], Score], timeout: float) -> None:
        context = loky.backend.get_context("loky")  # a fresh interpreter that does not run the script again
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_work, args=(make, timeout, there), daemon=True)
        with ignore_interrupts():
            self.process.start()
        there.close()  # so that this side reads the end when the process is gone
        self.ready = False
        self.row: int | None = None
        self.deadline = time.monotonic() + STARTING

    def send(self, row: int, problem: Problem, response: str, timeout: float) -> None:
        self.row, self.deadline = row, time.monotonic() + timeout
        with contextlib.suppress(OSError):  # it is dead, which will be heard
            self.connection.send((problem, response))

    def end(self) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)  # it may be deep in C, and holds nothing
        self.process.join()
        self.connection.close()


def _due(pool: Sequence[_Worker]) -> list[_Worker]:
    """Wait until some workers have something to say, are dead or are late; returns those."""
    patience = min(worker.deadline for worker in pool) - time.monotonic()
    heard = wait([worker.connection for worker in pool], None if math.isinf(patience) else max(patience, 0))
    now = time.monotonic()
    return [worker for worker in pool if worker.connection in heard or worker.deadline <= now]


def _work(make: Callable[[], Score], timeout: float, connection: Connection) -> None:
    """Serve as a worker: send None once ready, or why it never will be; then a score for each response."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what verifiers print is no part of this program's output
    warnings.simplefilter("ignore")  # of what responses made of the libraries that read them
    _bound_memory()
    with contextlib.suppress(EOFError, OSError):  # the other side is gone
        try:
            score = make()
        except InputError as error:
            connection.send(error)
            return
        except Exception as error:
            connection.send(RuntimeError(f"a verifier cannot be made: {type(error).__name__}: {error}"))
            return
        connection.send([])
        while True:
            problem, response = connection.recv()
            # Killed by the system, wherever it hangs, when there is nobody left to do it.
            signal.setitimer(signal.ITIMER_REAL, 3 * timeout)
            raw = _numbers(score, problem, response)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(raw)


def _numbers(score: Score, problem: Problem, response: str) -> list[float]:
    """Scores of a response; none unless all are numbers in [0, 1]."""
    try:
        given = score(problem, response)
        raw = [float(one) for one in (given if isinstance(given, tuple) else (given,))]
    except Exception:
        return []
    return raw if all(0 <= one <= 1 for one in raw) else []


def _bound_memory() -> None:
    import resource  # there is none on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
