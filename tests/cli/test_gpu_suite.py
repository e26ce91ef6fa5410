"""The GPU suite, tried on a CPU: its study, its clock, and going on."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from rolloutbench.cli.gpu_suite import SUITE
from rolloutbench.studies.kinds import open_results
from rolloutbench.studies.kinds.training import Training

ROOT = Path(__file__).parents[2]
SMALL = """
study = "train"
allocators = ["ar3po"]
task = "sorting[shortest=1,longest=2,pool_size=40,held_out=10]"
model = "tiny[width=32,warmup_steps=5]"
prompts = 8
group_size = 2
steps = 2
initial_rollouts = 8
replicates = 2
"""


def suite(folder, *asked):
    environment = {name: value for name, value in os.environ.items() if name != "ROLLOUTBENCH_CACHE"}
    study, out = folder / "small.toml", folder / "out"
    command = [sys.executable, "-m", "rolloutbench.cli.gpu_suite", "--device", "cpu", "--study", study]
    return subprocess.run(
        [*command, "--out", out, *asked],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )


def test_its_study_is_what_is_promised():
    study = Training.of({"device": "cuda"}, SUITE).build()
    (scenario,) = study.scenarios.values()
    assert study.replicates >= 3
    assert {name.partition("[")[0] for name in study.allocators} == {
        "uniform", "dapo", "vip", "ar3po", "pilot_commit", "reinforce_ada", "knapsack",
    }  # fmt: skip
    assert {"uniform[divide=2]", "vip[predictor=oracle]"} <= set(study.allocators)
    attention_and_feed_forward = 4 * scenario.model.width**2 + 6 * scenario.model.width**2
    assert 1e7 < scenario.model.layers * attention_and_feed_forward < 1e8


@pytest.mark.slow
@pytest.mark.torch
def test_it_stops_when_its_minutes_are_over_and_goes_on(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    stopped = suite(tmp_path, "--minutes", "0.1", "--processes", "1")
    assert stopped.returncode == 0, stopped.stderr
    assert "0.1 minutes are over; the same command goes on" in stopped.stderr
    assert not (tmp_path / "out" / "summary.csv").exists()
    done = suite(tmp_path, "--minutes", "4", "--processes", "2")
    assert done.returncode == 0, done.stderr
    results = open_results(tmp_path / "out")
    assert set(results.curves.allocator) == {"(reference)", "uniform", "ar3po"}
    assert sorted(results.curves.replicate.unique()) == [0, 1]
    assert (tmp_path / "out" / "pass_rates.parquet").exists()
    speed = suite(tmp_path, "--speed")
    assert speed.returncode == 0, speed.stderr
    measured = pd.read_csv(tmp_path / "out" / "speed.csv")
    assert measured.engine.tolist()[0] == "transformers"
    assert (measured.low <= measured.tokens_per_second).all()
