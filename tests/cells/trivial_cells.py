"""Cells for tests of executors: importable on workers, and pleasant or unpleasant to run."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Draw:
    """Random numbers from a seed."""

    seed: int
    size: int = 5
    label = "draw"

    def run(self):
        return pd.DataFrame({"value": np.random.default_rng(self.seed).normal(size=self.size)})


@dataclass(frozen=True)
class Raise:
    label = "raise"

    def run(self):
        raise ValueError("two\nlines")


@dataclass(frozen=True)
class Leave:
    """Like sys.exit in somebody's code."""

    label = "leave"

    def run(self):
        raise SystemExit(3)


@dataclass(frozen=True)
class Unpicklable:
    label = "unpicklable"

    def run(self):
        raise AssertionError("it cannot be sent")

    def __reduce__(self):
        raise TypeError("stays here")


def fail_to_load():
    raise ModuleNotFoundError("not here")


@dataclass(frozen=True)
class Unreadable:
    label = "unreadable"

    def run(self):
        raise AssertionError("it cannot be read")

    def __reduce__(self):
        return fail_to_load, ()


@dataclass(frozen=True)
class KillWorker:
    """Kills its own process as often as it is told, and then says how often it was run.

    After the first time no other of its kind may run beside it.
    """

    log: Path
    times: int
    seconds: float = 0
    label = "kill"

    def run(self):
        with self.log.open("a") as log:
            log.write(f"{os.getpid()}\n")
        runs = len(self.log.read_text().splitlines())
        alone = self.log.with_name("alone")
        if runs > 1:
            alone.mkdir()
        time.sleep(self.seconds)
        if runs > 1:
            alone.rmdir()
        if runs <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return pd.DataFrame({"runs": [runs]})


@dataclass(frozen=True)
class Sleep:
    """Says who it is, and sleeps; on its next run it does not."""

    log: Path
    seconds: float
    label = "sleep"

    def run(self):
        before = self.log.exists()
        self.log.write_text(str(os.getpid()))
        if not before:
            time.sleep(self.seconds)
        return pd.DataFrame({"value": [1.0]})


@dataclass(frozen=True)
class Allocate:
    gibibytes: float
    label = "allocate"

    def run(self):
        return pd.DataFrame({"bytes": [np.ones(int(self.gibibytes * 2**30), np.uint8).nbytes]})
