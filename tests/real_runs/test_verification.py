import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # workers are given this process's path

import verifiers  # noqa: E402

from real_runs.tasks import Problem  # noqa: E402
from real_runs.verification import PooledVerifier  # noqa: E402
from rolloutbench.protocol import InputError  # noqa: E402

ANY = Problem("p", "a")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module")
def verifier():
    with PooledVerifier(verifiers.obedient, timeout=1.0, workers=2) as pool:
        yield pool


def scores(pool, *responses):
    return pool.score([ANY] * len(responses), responses)


def test_scores_come_back_in_order(verifier):
    raw = np.random.default_rng(0).random(300)
    np.testing.assert_array_equal(scores(verifier, *map(repr, raw.tolist())), raw)


def test_none(verifier):
    assert scores(verifier).shape == (0,)


@pytest.mark.parametrize(
    "bad",
    [
        "raise",
        "sleep",
        "spin",
        "deaf",
        "exit",
        "crash",
        "memory",
        "recurse",
        "text",
        "nan",
        "inf",
        "1.5",
        "-0.1",
    ],
)
def test_a_bad_response_costs_itself_only(verifier, bad):
    before = verifier.failed
    began = time.monotonic()
    raw = scores(verifier, "0.25", bad, "0.5", "1", "0")
    np.testing.assert_array_equal(raw, [0.25, np.nan, 0.5, 1, 0])
    assert verifier.failed == before + 1
    assert time.monotonic() - began < 30


def test_all_workers_hang_at_once_and_again(verifier):
    raw = scores(verifier, "sleep", "sleep", "spin", "0.5", "exit", "exit", "exit", "0.25")
    np.testing.assert_array_equal(raw, [np.nan] * 3 + [0.5] + [np.nan] * 3 + [0.25])


def test_the_time_of_one_response_is_not_another_s(verifier):
    """Ten responses of 0.3 s on two workers take longer than the time limit of one, and all are in time."""
    assert (scores(verifier, *["wait 0.3"] * 10) == 1).all()


def test_workers_work_side_by_side(tmp_path):
    with PooledVerifier(verifiers.obedient, timeout=30, workers=2) as pool:
        assert (scores(pool, f"meet {tmp_path}/a {tmp_path}/b", f"meet {tmp_path}/b {tmp_path}/a") == 1).all()


def test_an_idle_worker_that_was_killed_costs_nothing(verifier):
    (pid,) = (scores(verifier, "pid") * 2**32).astype(int)
    os.kill(pid, signal.SIGKILL)
    (process,) = [worker.process for worker in verifier._pool if worker.process.pid == pid]
    assert eventually(lambda: not process.is_alive())
    np.testing.assert_array_equal(scores(verifier, *["0.5"] * 8), [0.5] * 8)


def test_what_a_verifier_prints_is_not_output(capfd):
    with PooledVerifier(verifiers.obedient, workers=1) as pool:
        assert scores(pool, "print") == [1.0]
    assert capfd.readouterr().out == ""


def test_workers_end_with_the_context():
    with PooledVerifier(verifiers.obedient, workers=1) as pool:
        (pid,) = (scores(pool, "pid") * 2**32).astype(int)
        assert alive(pid)
    assert not alive(pid)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (verifiers.cannot_be_made, InputError, "^there is no such verifier$"),
        (verifiers.broken, RuntimeError, "cannot be made: KeyError: 'x'"),
        (verifiers.dies, RuntimeError, "3 verifier processes in a row ended"),
    ],
)
def test_a_verifier_that_cannot_start_is_an_error_not_a_zero(make, error, message):
    with PooledVerifier(make, workers=1) as pool, pytest.raises(error, match=message):
        scores(pool, "1")


def script(tmp_path, response):
    """A process of its own that scores a worker's id and then this response, which hangs."""
    path = tmp_path / "script.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import verifiers\n"
        "from real_runs.tasks import Problem\n"
        "from real_runs.verification import PooledVerifier\n"
        "timeout = 1.0 if 'kill' in sys.argv else 60\n"
        "with PooledVerifier(verifiers.obedient, timeout, workers=1) as pool:\n"
        "    print(int(pool.score([Problem('', '')], ['pid'])[0] * 2**32), flush=True)\n"
        f"    pool.score([Problem('', '')], [{response!r}])\n"
    )
    return path


def started(path, *arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    root = {"cwd": HERE.parents[1], "env": {**os.environ, "PYTHONPATH": str(HERE.parents[1])}}
    run = subprocess.Popen([sys.executable, path, *arguments], start_new_session=True, **pipes, **root)
    return run, int(run.stdout.readline())


def test_ctrl_c_ends_the_workers_without_a_word_from_them(tmp_path):
    run, pid = started(script(tmp_path, "sleep"))
    time.sleep(0.3)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, err = run.communicate(timeout=10)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not alive(pid)


def test_an_idle_worker_ends_when_its_parent_was_killed(tmp_path):
    path = script(tmp_path, "0")
    path.write_text(path.read_text() + "    print(pool.score, flush=True); import time; time.sleep(60)\n")
    run, pid = started(path)
    run.stdout.readline()
    run.kill()
    run.wait()  # not for its output, which the worker holds too
    run.stdout.close()
    run.stderr.close()
    assert eventually(lambda: not alive(pid))


def test_a_hanging_worker_ends_when_its_parent_was_killed(tmp_path):
    run, pid = started(script(tmp_path, f"touch-and-spin {tmp_path}/begun"), "kill")
    assert eventually((tmp_path / "begun").exists)
    run.kill()
    run.wait()  # not for its output, which the worker holds too
    run.stdout.close()
    run.stderr.close()
    assert alive(pid)
    assert eventually(lambda: not alive(pid), 3 * 1.0 + 5)


def test_several_rewards_of_a_response():
    """All of a response or nothing: a reward that is missing or no number in [0, 1] is no verdict."""
    with PooledVerifier(verifiers.several, timeout=5.0, workers=1, rewards=2) as pool:
        raw = pool.score([ANY] * 4, ["0.5 1", "0.5", "0 2", "1 0.25"])
        assert pool.failed == 2
    np.testing.assert_array_equal(raw, [[0.5, 1], [np.nan] * 2, [np.nan] * 2, [1, 0.25]])
