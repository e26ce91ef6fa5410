"""The program inside the sandbox: gives up its rights, then runs a response's code and the tests of it.

It is started as a script by `sandbox.py`, which says there what this protects from and what not. It needs
nothing but the standard library. What it reports, line by line, begins with a word that only its starter
knows: `ready` before any foreign code, `ran` after the code, and the number of each test that passed.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

DENIED = {
    # by name: number on x86_64, on aarch64 (None: there is no such call)
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "syslog": (103, 116),
    "personality": (135, 92),
}
"""System calls that foreign code may not make: other processes, networks, metadata of files, the kernel."""
NEWEST = 449
"""The newest system call, of Linux 5.16, that is known here: those after it are said not to exist."""
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
"""Column of `DENIED`, the kernel's name for the machine, and the number of `clone`, by machine."""
CLONE3, CLONE_THREAD = 435, 0x10000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
FILTER, SIGKILL, EPERM, ENOSYS = 2, 9, 1, 38
LOAD, EQUAL, AT_LEAST, ANY_OF, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Instructions of the kernel's packet filters: load a word, jump if, and return."""
KILL_PROCESS, ERROR, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of Landlock's system calls, the same on every machine."""
RIGHTS = {3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Rights to files that a version of Landlock, or a later one, can take away; truncation since the third."""
READING = 1 << 0 | 1 << 2 | 1 << 3
"""Rights to execute files, to read them, and to list folders."""
FILES = 1 << 1 | 1 << 2
"""Rights to read and write one file."""


def main() -> None:
    """Run one job, which is read from standard input."""
    job = json.loads(sys.stdin.buffer.read())
    report, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)

    def say(word: object) -> None:
        os.write(report, f"{job['nonce']} {word}\n".encode())

    libc = ctypes.CDLL(None, use_errno=True)
    _limit(job["limits"])
    if job["confine"]:
        _check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
        _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if job["readable"]:
            _fence(libc, job["readable"], job["writable"])
        _filter_calls(libc)
    say("ready")
    _try(job["code"], job["tests"], say)


def _try(code: str, tests: Sequence[str], say: Callable[[object], None]) -> None:
    """Run the code, and then each test in its names, and say what came of them."""
    names = {"__name__": "response"}
    try:
        exec(compile(code, "response", "exec"), names)
    except BaseException:  # it may exit
        return
    say("ran")
    for place, test in enumerate(tests):
        try:
            exec(compile(test, "test", "exec"), names)
        except BaseException:
            continue
        say(place)


def _limit(limits: Mapping[str, int]) -> None:
    """Bound seconds of CPU, bytes of memory, bytes of a file, open files, and core dumps."""
    for name, most in limits.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _fence(libc: ctypes.CDLL, readable: Sequence[str], writable: str) -> None:
    """Have Landlock deny all files but those below `readable`, to be read, and `writable`."""
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < min(RIGHTS):
        raise OSError(f"Landlock is of version {version}")
    every = RIGHTS[max(known for known in RIGHTS if known <= version)]
    attribute = struct.pack("=Q", every)
    ruleset = _check(libc.syscall(CREATE_RULESET, attribute, ctypes.c_size_t(8), 0), "landlock")
    rules = [*((path, READING) for path in readable), (os.devnull, FILES), (writable, every)]
    for path, rights in rules:
        descriptor = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", rights, descriptor)
        _check(libc.syscall(ADD_RULE, ruleset, 1, rule, 0), f"landlock {path}")
        os.close(descriptor)
    _check(libc.syscall(RESTRICT_SELF, ruleset, 0), "landlock")
    os.close(ruleset)


def _filter_calls(libc: ctypes.CDLL) -> None:
    """Have the kernel refuse what is denied, and threads apart every new process."""
    instructions = list(_instructions(platform.machine()))
    program = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))
    _check(libc.prctl(PR_SET_SECCOMP, FILTER, header, 0, 0), "seccomp")


def _instructions(machine: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield the filter: operation, how far to jump if so and if not, and its number."""
    column, name, clone = MACHINES[machine]
    numbers = [pair[column] for pair in DENIED.values()]
    yield LOAD, 0, 0, 4  # the machine
    yield EQUAL, 1, 0, name
    yield RETURN, 0, 0, KILL_PROCESS
    yield LOAD, 0, 0, 0  # the number of the call
    for number in (number for number in numbers if number is not None):
        yield EQUAL, 0, 1, number
        yield RETURN, 0, 0, ERROR | EPERM
    yield EQUAL, 0, 1, CLONE3  # its flags are in memory, which no filter sees: libc then takes clone
    yield RETURN, 0, 0, ERROR | ENOSYS
    yield AT_LEAST, 0, 1, NEWEST + 1  # the calls of the other ABI of x86_64 among them
    yield RETURN, 0, 0, ERROR | ENOSYS
    yield EQUAL, 0, 3, clone
    yield LOAD, 0, 0, 16  # its flags
    yield ANY_OF, 1, 0, CLONE_THREAD
    yield RETURN, 0, 0, ERROR | EPERM
    yield RETURN, 0, 0, ALLOW


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


if __name__ == "__main__":
    main()
    os._exit(0)  # threads of the code may never end
