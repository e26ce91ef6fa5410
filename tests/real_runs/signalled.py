"""Runs a command again and again in forks of a process that has imported everything, and sends each a signal.

`python signalled.py COMMAND...`, then on stdin lines of a signal's number, the seconds after which it is
sent, and a directory in which a checkpoint must have changed before they are counted, or `-`; for each the
fork's exit status is printed. Signal 0 is never sent.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import torch
import transformers

from real_runs import environment, preparation, recording, trainer
from rolloutbench import cli
from rolloutbench.analysis.plotting import panels

# Classes of transformers are imported when they are asked for.
IMPORTED = transformers.LlamaForCausalLM, environment, preparation, recording, trainer
torch.set_num_threads(1)


GONE = os.WEXITED | os.WNOHANG | os.WNOWAIT


def changed(folder):
    """What tells that a checkpoint was written or removed."""
    found = {}
    for path in Path(folder).glob("runs/*/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def run():
    panels.save = lambda *given: None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rolloutbench", *sys.argv[1:]]
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    code = 1
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        os._exit(int(code or 0))


print("ready", flush=True)
for line in sys.stdin:
    number, seconds, watched = line.split()
    before = changed(watched)
    child = os.fork()
    if child == 0:
        run()
    while watched != "-" and changed(watched) == before and not os.waitid(os.P_PID, child, GONE):
        time.sleep(0.01)
    if int(number):
        time.sleep(float(seconds))
        os.kill(child, int(number))
    print(os.waitpid(child, 0)[1], flush=True)
