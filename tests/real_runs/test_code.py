"""Foreign code in a sandbox: hostile programs harm nobody and cost a rollout; honest ones get their share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import run as command

from real_runs import sandbox
from real_runs.sandbox import Verdict, holds, run
from real_runs.tasks import Problem, tasks
from real_runs.tasks.code import CodeVerifier, code_of
from rolloutbench.protocol import InputError


@pytest.fixture(scope="module", params=["bubblewrap", "landlock"])
def kind(request):
    """A sandbox that works here."""
    if not holds(request.param):
        pytest.skip(f"{request.param} cannot confine programs on this machine")
    return request.param


@pytest.fixture(scope="module")
def any_kind():
    """The sandbox that a task takes here."""
    found = sandbox.best_kind()
    if found is None:
        pytest.skip("nothing on this machine can confine programs")
    return found


@pytest.fixture
def left_behind(tmp_path, monkeypatch):
    """Processes that run the confined program, of this test: it has a copy with a name of its own."""
    copy = tmp_path / "confined.py"
    copy.write_bytes(Path(sandbox.confined.__file__).read_bytes())
    monkeypatch.setattr(sandbox.confined, "__file__", str(copy))
    return lambda: running(str(copy))


def eventually_none(left):
    """Whether within some seconds no process is left."""
    end = time.monotonic() + 60
    while left() and time.monotonic() < end:
        time.sleep(0.05)
    return left() == []


def running(name):
    """Processes that have a name in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if name.encode() in line:
            found.append(folder.name)
    return found


def test_tests_pass_one_by_one(kind):
    code = "print('noise' * 1000)\ndef double(x):\n    return 2 * x\n"
    checks = [
        "assert double(2) == 4",
        "assert double(2) == 5",
        "import math\nassert math.pi < double(2)",
        "x",
    ]
    assert run(code, checks, kind) == Verdict(True, (True, False, True, False))


@pytest.mark.parametrize(
    ("code", "ran"),
    [
        ("def f(:", False),
        ("raise ValueError", False),
        ("import sys; sys.exit(0)", False),
        ("import os; os._exit(0)", False),
        ("import ctypes; ctypes.string_at(0)", False),
        ("import numpy", False),
        ("def f(): return f()\nf()", False),
        ("", True),
        ("exit = 3", True),
    ],
)
def test_code_that_breaks_fails_its_tests(kind, code, ran):
    assert run(code, ["assert g() == 1"], kind) == Verdict(ran, (False,))


HOSTILE = {
    "infinite loop": "while True: pass",
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb that goes on": """
import os, threading
def more():
    while True:
        try:
            os.fork()
        except OSError:
            pass
for _ in range(8): threading.Thread(target=more).start()
""",
    "memory hog": "held = []\nwhile True: held.append(bytearray(2**24))",
    "huge output": """
import os
while True:
    for descriptor in range(64):
        try:
            os.write(descriptor, b'x' * 2**16)
        except OSError:
            pass
""",
    "huge file": "open('file', 'w').write('x' * 2**26)",
    "a program": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'true'], check=True)",
    "a thread for each": """
import threading, time
while True: threading.Thread(target=time.sleep, args=(600,)).start()
""",
    "death of its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "death of all": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "other limits": "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_harm_nobody(kind, name, left_behind):
    """None passes its test, and after each of them an honest one does, and no process is left."""
    found = run(HOSTILE[name], ["assert True"], kind, seconds=1, memory=256)
    assert found == Verdict(False, (False,))
    assert run("x = 1", ["assert x == 1"], kind) == Verdict(True, (True,))
    assert eventually_none(left_behind)


REFUSED = """
import os, socket
def refused(function, *given):
    try:
        function(*given)
    except OSError:
        return True
    return False
"""


def test_others_files_are_neither_read_nor_written(kind, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    os.chmod(tmp_path, 0o777)
    os.chmod(secret, 0o666)
    before = sorted(tmp_path.iterdir())
    name, new = repr(str(secret)), repr(str(tmp_path / "new"))
    checks = [
        f"assert refused(open, {name})",
        f"assert refused(open, {name}, 'w')",
        f"assert refused(os.truncate, {name}, 0)",
        f"assert refused(os.remove, {name})",
        f"assert refused(os.chmod, {name}, 0o600)",
        f"assert refused(os.utime, {name})",
        f"assert refused(open, {new}, 'w')",
        f"assert refused(os.mkdir, {new})",
        f"assert refused(os.symlink, {name}, {new})",
        f"assert refused(os.rename, {name}, {new})",
        "assert refused(open, '/etc/passwd')",
        "assert refused(open, '/proc/self/environ')",
        "assert refused(open, '/usr/new', 'w')",
        f"assert refused(open, {str(Path.home() / 'new')!r}, 'w')",
        "open('mine', 'w').write('x')\nassert open('mine').read() == 'x'",
    ]
    found = run(REFUSED, checks, kind)
    assert found is not None
    assert [check for check, passed in zip(checks, found.passed, strict=True) if not passed] == []
    assert secret.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == before


def test_there_is_no_network(kind):
    """A server listens here, and nobody can reach it from there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        checks = [
            f"assert refused(socket.create_connection, ('127.0.0.1', {port}), 2)",
            "assert refused(socket.socket)",
            "assert refused(socket.socket, socket.AF_UNIX)",
            "assert refused(socket.socketpair)",
        ]
        assert run(REFUSED, checks, kind) == Verdict(True, (True,) * 4)


def test_the_environment_stays_outside(kind, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "mine")
    assert run("import os", ["assert 'SECRET_TOKEN' not in os.environ"], kind) == Verdict(True, (True,))


def test_a_test_that_hangs_costs_those_after_it(kind):
    found = run("x = 1", ["assert x", "while True: pass", "assert x"], kind, seconds=1)
    assert found == Verdict(True, (True, False, False))


def test_a_sleeper_is_killed_by_the_clock(kind, monkeypatch, left_behind):
    monkeypatch.setattr(sandbox, "WAITING", (1, 1))
    assert run("import time\ntime.sleep(600)", ["assert True"], kind, seconds=1) == Verdict(False, (False,))
    assert eventually_none(left_behind)


def test_it_dies_with_who_started_it(kind, left_behind):
    """Killed without a word, the starter leaves nobody."""
    name = sandbox.confined.__file__
    script = (
        "import sys; from real_runs import sandbox; sandbox.confined.__file__ = sys.argv[1]; "
        "sandbox.run('import time; time.sleep(600)', [], sys.argv[2])"
    )
    starter = subprocess.Popen([sys.executable, "-c", script, name, kind])
    end = time.monotonic() + 60
    while len(left_behind()) < 2 and time.monotonic() < end:  # the starter names it too
        time.sleep(0.05)
    assert len(left_behind()) >= 2
    starter.kill()
    starter.wait()
    assert eventually_none(left_behind)


def test_threads_are_allowed(kind):
    code = "from concurrent.futures import ThreadPoolExecutor\n"
    check = "assert list(ThreadPoolExecutor(4).map(abs, [-1, 2])) == [1, 2]"
    assert run(code, [check], kind) == Verdict(True, (True,))


def test_a_sandbox_that_does_not_start_is_no_verdict(kind, monkeypatch):
    problems = [Problem("p", "", tests=("assert True",))]
    with monkeypatch.context() as patch:
        patch.setattr(sandbox.sys, "executable", "/nowhere/python")
        with CodeVerifier(kind, 1, 128, 1) as verifier:
            raw = verifier.score(problems, [""])
    assert np.isnan(raw).all()
    assert verifier.failed == 1
    assert not holds("unsafe")


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nfirst\n```\nor\n```py\nsecond\n```", "second\n"),
        ("```python\ncut = 1", "cut = 1"),
        ("`x` is ```x```", "`x` is ```x```"),
    ],
)
def test_the_code_of_a_response(response, code):
    assert code_of(response) == code


@pytest.fixture
def file(tmp_path):
    """Functions to be written, with two tests each."""
    rows = [
        {
            "prompt": f"Write add{n}(x), which adds {n}.",
            "tests": [f"assert add{n}(1) == {1 + n}", f"assert add{n}(0) == {n}"],
            "code": f"def add{n}(x):\n    return x + {n}",
        }
        for n in range(12)
    ]
    path = tmp_path / "functions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_scores_are_shares_of_tests(file, any_kind):
    task = tasks.create(f"code[path={file},answer_column=code,held_out=2,workers=2]")
    pool, held = task.problems(np.random.SeedSequence(0))
    assert (len(pool), len(held)) == (10, 2)
    assert task.reward_names == ("score", "ran")
    answer = pool[0].answer
    name = answer.split("(")[0].removeprefix("def ")
    half = f"def {name}(x): return {pool[0].tests[1].split('== ')[1]}"
    with task.verifier() as verifier:
        raw = verifier.score([pool[0]] * 4, [f"```\n{answer}\n```", half, "I cannot.", "x = 1"])
        assert verifier.score([], []).shape == (0, 2)
        assert verifier.kind == any_kind
        assert verifier.failed == 0
    one = 1.0 if name == "add0" else 0.5
    np.testing.assert_allclose(raw, [[1, 1], [one, 1], [0, 0], [0, 1]])
    found = task.examples(np.random.default_rng(0), 3)
    assert {problem.answer for problem in found} <= {problem.answer for problem in pool}


def test_tests_are_part_of_what_a_study_is_of(file):
    from real_runs.tasks import digest

    task = tasks.create(f"code[path={file}]")
    before = digest(*task.problems(np.random.SeedSequence(0)))
    file.write_text(file.read_text().replace("(1) ==", "(1)=="))
    assert digest(*task.problems(np.random.SeedSequence(0))) != before


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "there is no column 'tests'"),
        ({"prompt": "p", "tests": []}, "column 'tests' has no tests"),
        ({"prompt": "p", "tests": [3]}, "column 'tests' is no text but 3"),
        ({"prompt": "p", "tests": "assert 1", "code": ""}, "column 'code' is empty"),
    ],
)
def test_wrong_rows(tmp_path, row, message):
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f"line 1: .*{message}|{message}"):
        tasks.create(f"code[path={path},answer_column=code]").problems(np.random.SeedSequence(0))


def test_without_solutions_there_is_no_warm_up(file):
    with pytest.raises(InputError, match="has no solutions to warm up on"):
        tasks.create(f"code[path={file}]").examples(np.random.default_rng(0), 1)


def test_without_a_sandbox_it_is_refused_in_one_line(file, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "holds", lambda kind: False)
    sandbox.best_kind.cache_clear()
    try:
        done = command(
            f'train --task "code[path={file},answer_column=code]" --prompts 4 --out {tmp_path}/out'
        )
        assert done.code != 0
        assert "--task: task 'code': nothing here can confine what a model writes" in done.err
        assert len(done.err.strip().splitlines()) == 1
        with tasks.create(f"code[path={file},unsafe=true,workers=1]").verifier() as verifier:
            raw = verifier.score([Problem("", "", tests=("assert x == 1",))], ["x = 1"])
        np.testing.assert_array_equal(raw, [[1, 1]])
    finally:
        sandbox.best_kind.cache_clear()


@pytest.mark.torch
def test_train_on_code(file, tmp_path, monkeypatch, any_kind):
    """A tiny model that knows its solutions by heart; partial credit reaches the estimator."""
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "study"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    done = command(
        f'train -a uniform --task "code[path={file},answer_column=code,held_out=1,max_new_tokens=40]" '
        '--model "tiny[width=32,warmup_steps=60,learning_rate=3e-3]" --prompts 2 --group-size 2 --steps 1 '
        f"--evaluate-every 1 --initial-rollouts 8 --seeds 2 --device cpu --jobs 1 --reward score --out {out}"
    )
    assert done.code == 0, done.err
    assert (out / "summary.csv").exists()
