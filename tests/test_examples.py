"""Examples run as they stand, in processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rolloutbench.studies.kinds import open_results

ROOT = Path(__file__).parents[1]


def example(name, *given):
    where = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": where, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_plain_loop_learns():
    before, after = map(float, re.search(r"success (\S+) -> ([\d.]+)", example("plain_loop.py")).groups())
    assert after > before + 0.2


@pytest.mark.slow
@pytest.mark.torch
def test_trl_trains_three_allocators_into_a_study(tmp_path):
    pytest.importorskip("trl")
    said = example("trl_sorting.py", tmp_path)
    assert f"rolloutbench show {tmp_path}/study" in said
    results = open_results(tmp_path / "study")
    assert set(results.summary.allocator) == {"uniform", "vip[predictor=beta]", "dapo"}
    assert (results.curves.groupby(["allocator", "replicate"]).steps.max() == 18).all()
