"""Scoring functions that misbehave as the response tells them; imported by worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from rolloutbench.protocol import InputError


def obedient():
    return score


def score(problem, response):
    match response.split():
        case ["raise"]:
            raise ValueError("no")
        case ["sleep"]:
            time.sleep(600)
        case ["spin"]:  # in C, without the interpreter's attention
            return 10 ** (10**9)
        case ["touch-and-spin", path]:
            Path(path).touch()
            return 10 ** (10**9)
        case ["deaf"]:
            for kind in (signal.SIGTERM, signal.SIGINT):
                signal.signal(kind, signal.SIG_IGN)
            time.sleep(600)
        case ["exit"]:
            os._exit(0)
        case ["crash"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        case ["memory"]:
            return float(np.empty(5 * 2**30, np.uint8).size > 0)  # reserved, not touched
        case ["recurse"]:
            return score(problem, response)
        case ["print"]:
            print("noise")
            return 1.0
        case ["pid"]:
            return os.getpid() / 2**32
        case ["wait", seconds]:
            time.sleep(float(seconds))
            return 1.0
        case ["meet", mine, other]:  # ends only beside its counterpart
            Path(mine).touch()
            while not Path(other).exists():
                time.sleep(0.01)
            return 1.0
        case ["text"]:
            return "x"
    return float(response)


def cannot_be_made():
    raise InputError("there is no such verifier")


def broken():
    raise KeyError("x")


def dies():
    os._exit(3)


def several():
    return lambda problem, response: tuple(map(float, response.split()))
