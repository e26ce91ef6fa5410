"""Runs the command line, and kills it: `killed.py LOG MOMENT NUMBER ARGUMENTS...`.

MOMENT is `before`, `inside` or `after`, and NUMBER counts what is done to files of the store: a write, a
rename, a removal. `seconds` kills after as many; `never` lets it be. Cells tell in LOG that they begin.

Without arguments it reads them from stdin, as JSON, one run a line, and answers each line with the exit code.
Every run is a process of its own all the same, forked from this one, which has imported everything already.
"""

import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic.dataclasses import dataclass

from rolloutbench.allocators import allocators
from rolloutbench.allocators.uniform import Uniform
from rolloutbench.registry import PARAMETERS


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(config=PARAMETERS)
class Logged(Uniform):
    """Uniform that tells when it begins."""

    tag: int = 0

    def begin(self, setting):
        with open(os.environ["KILLED_LOG"], "a") as log:
            log.write(f"{self.tag}\n")
        super().begin(setting)


def disturbed(change, moment, number):
    """What is done to files, with a death at the given time."""

    def changed(path, *given, **options):
        disturbed.count += 1
        if disturbed.count == number and moment == "before":
            die()
        if disturbed.count == number and moment == "inside" and given and isinstance(given[0], bytes):
            change(path, given[0][: len(given[0]) // 2])
            die()
        done = change(path, *given, **options)
        if disturbed.count == number:
            die()
        return done

    return changed


disturbed.count = 0


def carry_out(log, moment, number, *arguments):
    """Run the command line in this process, and die on the way."""
    os.environ["KILLED_LOG"] = log
    allocators.register("logged", Logged)
    from rolloutbench import cli
    from rolloutbench.analysis.plotting import panels

    panels.save = lambda figure, directory, name: None
    if moment == "seconds":
        threading.Timer(float(number), die).start()
    elif moment != "never":
        for name in ("write_bytes", "replace", "unlink"):
            setattr(Path, name, disturbed(getattr(Path, name), moment, int(number)))
    sys.argv = ["rolloutbench", *arguments]
    cli.main()


def fork_for_every_line():
    """What the command line imports is imported once, here; that takes longer than a small study."""
    for name in (
        "rolloutbench.cli",
        "rolloutbench.analysis.plotting.panels",
        "matplotlib.backends.backend_agg",
    ):
        importlib.import_module(name)
    for line in sys.stdin:
        arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            said = os.open(f"{arguments[0]}.said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said, 1)
            os.dup2(said, 2)
            carry_out(*arguments)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        carry_out(*sys.argv[1:])
    else:
        fork_for_every_line()
