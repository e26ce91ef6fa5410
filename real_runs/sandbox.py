"""Foreign code and its tests, in a process of its own that can harm nobody: bubblewrap or Landlock, seccomp.

The process has limits on seconds of CPU, memory, the size of a file and open files, and is killed when its
time on the clock is up. A filter of system calls (seccomp) refuses it other processes, program starts,
sockets, signals, and changes to metadata of files. What files it sees is bounded by bubblewrap
(github.com/containers/bubblewrap), where that works: an empty root with the interpreter in it, namespaces of
its own, and a folder in memory that is gone afterwards. Elsewhere by Landlock (Linux 6.2, no rights are
needed): it reads the interpreter's files, and reads and writes one temporary folder. Which of them works is
found by trying.

It does not protect from: faults of the kernel; code that looks for its tests or for the report inside its own
process and says that it passed; the load of one core for its seconds; under Landlock, from a folder that
fills the disk file by file in these seconds, and from names and sizes of others' files being looked up.
`unsafe` leaves the limits alone: code then does whatever this user may.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from real_runs import confined

Kind: TypeAlias = Literal["bubblewrap", "landlock", "unsafe"]

MOST_REPORTED = 65_536
"""Bytes that are read of what a process reports; one that says more is killed."""
MOST_OPEN = 64
FOLDER_BYTES = 64 * 2**20
"""Bytes of the temporary folder of bubblewrap, which is in memory."""
FILE_BYTES = 16 * 2**20
"""Largest file that foreign code may write."""
WAITING = 3, 5
"""Seconds on the clock for each second of CPU, and for the start: cores are shared."""
PROBE = """
import os, socket
def refused(function, *given):
    try:
        function(*given)
    except OSError:
        return True
    return False
"""
"""What is tried to see whether a sandbox holds."""


@dataclass(frozen=True)
class Verdict:
    """What came of a program: whether it ran to its end, and which of its tests (T,) passed."""

    ran: bool
    passed: tuple[bool, ...]


def run(
    code: str, tests: Sequence[str], kind: Kind, seconds: float = 5.0, memory: int = 512
) -> Verdict | None:
    """Run code and then its tests; None where the sandbox itself did not work.

    `seconds`: of CPU, in all. `memory`: MiB of address space. Tests that were not reached did not pass.
    """
    nonce, most = secrets.token_hex(16), memory * 2**20
    cpu = math.ceil(seconds)
    limits = {
        "RLIMIT_CPU": cpu,
        "RLIMIT_AS": most,
        "RLIMIT_FSIZE": FILE_BYTES,
        "RLIMIT_NOFILE": MOST_OPEN,
        "RLIMIT_CORE": 0,
    }
    with tempfile.TemporaryDirectory(prefix="rolloutbench-code-") as folder:
        job = {
            "nonce": nonce,
            "code": code,
            "tests": list(tests),
            "limits": limits,
            "confine": kind != "unsafe",
            "readable": _readable() if kind == "landlock" else [],
            "writable": folder,
        }
        said = _reported(
            kind, folder, json.dumps(job).encode(), time.monotonic() + WAITING[0] * cpu + WAITING[1]
        )
    words = [line.removeprefix(f"{nonce} ") for line in said if line.startswith(f"{nonce} ")]
    if "ready" not in words:
        return None
    return Verdict("ran" in words, tuple(str(place) in words for place in range(len(tests))))


@functools.cache
def best_kind() -> Kind | None:
    """The sandbox that works here, found by trying; None where there is none."""
    return next((kind for kind in ("bubblewrap", "landlock") if holds(kind)), None)


def holds(kind: Kind) -> bool:
    """Whether a sandbox starts here and refuses what it must: a socket, a process, files of others."""
    with tempfile.TemporaryDirectory(prefix="rolloutbench-probe-") as folder:
        others = Path(folder, "others")
        others.write_text("kept")
        tests = [
            "assert refused(socket.socket)",
            "assert refused(os.fork)",
            "assert refused(os.kill, os.getppid(), 0)",
            f"assert refused(open, {str(others)!r})",
            f"assert refused(open, {str(others)!r}, 'w')",
            f"assert refused(open, {str(Path(folder, 'new'))!r}, 'w')",
            "open('own', 'w').write('x')",
        ]
        found = run(PROBE, tests, kind)
    return found is not None and all(found.passed)


def _reported(kind: Kind, folder: str, job: bytes, deadline: float) -> list[str]:
    """Lines that the process said before it ended, said too much or was late; none is left of it."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(job)
        given.seek(0)
        try:
            process = subprocess.Popen(
                [*_bubblewrap()] if kind == "bubblewrap" else _python(confined.__file__),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=_environment(folder),
                start_new_session=True,
            )
        except OSError:
            return []
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        said = _read(process.stdout.fileno(), deadline)
    return said.decode(errors="replace").splitlines()


def _read(descriptor: int, deadline: float) -> bytes:
    poll, said = select.poll(), b""
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    while len(said) < MOST_REPORTED and (left := deadline - time.monotonic()) > 0:
        if not poll.poll(1000 * left):
            break
        part = os.read(descriptor, MOST_REPORTED)
        if not part:
            break
        said += part
    return said


def _environment(folder: str) -> Mapping[str, str]:
    return {"LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder, "PATH": "/usr/bin:/bin"}


def _python(script: str) -> list[str]:
    """The command that runs a script of the standard library alone."""
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", script]


def _readable() -> list[str]:
    """Folders of the interpreter and of the libraries that it needs."""
    system = ("/usr", "/lib", "/lib64", sys.base_prefix, sys.base_exec_prefix)
    return sorted({os.path.realpath(path) for path in system if os.path.isdir(path)})


def _bubblewrap() -> Iterator[str]:
    """The command that runs the interpreter in an empty root with namespaces of its own."""
    yield from (shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--new-session")
    yield from ("--cap-drop", "ALL", "--clearenv", "--setenv", "LANG", "C.UTF-8")
    yield from ("--dev", "/dev", "--size", str(FOLDER_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp")
    for path in ("/lib", "/lib64"):
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
    for path in _readable():
        yield from ("--ro-bind", path, path)
    yield from ("--ro-bind", confined.__file__, "/confined.py", "--remount-ro", "/")
    yield from _python("/confined.py")
