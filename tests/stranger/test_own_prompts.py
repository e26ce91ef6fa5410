"""A stranger's own prompts, the way a stranger goes: the program in a process, files as people have them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pass_rate_files import as_csv, as_lines, of_rollouts, rewards

KS = [8, 0, 3, 8, 6, 0, 5, 1] * 4


def rolloutbench(*command, code=0):
    """Runs the program here; it must end with this exit code, and without a traceback."""
    found = [os.environ.get("PYTHONPATH", ""), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-m", "rolloutbench", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(filter(None, found))},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_prompts_of_ones_own_beside_a_named_scenario():
    """One file in two formats, one with the names of its columns padded, and what comes of it is the same."""
    long = of_rollouts(KS, 8)
    rows = [
        {"prompt_id": f"q{i}", "rewards": rewards(k, 8), "tokens": 200 + 10 * i} for i, k in enumerate(KS)
    ]
    as_lines(Path("mine.jsonl.gz"), rows)
    Path("study").mkdir()
    as_csv(
        Path("study/mine.csv"),
        **{" id ": [name for name, _ in long], "reward": [int(reward) for _, reward in long]},
        tokens=[200 + 10 * int(name[1:]) for name, _ in long],
    )
    how = "lengths=tokens,optimizer=adam,prompts=16,steps=5,held_out=16"
    Path("study/study.toml").write_text(
        f"scenarios = ['measured[file=mine.csv,{how}]', 'u-shaped-v1[steps=5,pool_size=256,held_out=16]']\n"
        "allocators = ['vip']\nreplicates = 2\n"
    )
    spec = f"measured[file=mine.jsonl.gz,{how}]"
    quick = ["-a", "vip", "--replicates", "2", "--jobs", "1"]
    first = rolloutbench("compare", "-s", spec, *quick, "--out", "first")
    rolloutbench("compare", "--config", "study/study.toml", "--jobs", "1", "--out", "second")
    own = "measured[optimizer=adam,prompts=16,steps=5,held_out=16]"
    assert own in first.stdout
    said = " ".join(first.stdout.split())
    assert "32 prompts in mine.jsonl.gz" in said
    assert "all in the pool of 32 prompts (2.5 epochs), Adam at learning rate 0.25" in said
    assert "rolloutbench: note: measured" in first.stderr
    tables = [pd.read_parquet(f"{out}/per_replicate.parquet") for out in ("first", "second")]
    assert set(tables[1].scenario) == {own, "u-shaped-v1[steps=5,pool_size=256,held_out=16]"}
    again = tables[1][tables[1].scenario == own].reset_index(drop=True)
    pd.testing.assert_frame_equal(tables[0], again)
    conditions = json.loads(Path("first/manifest.json").read_text())["study"]
    assert "2.5 epochs" in conditions["captions"][own]
    Path("mine.jsonl.gz").unlink()  # results stand without it
    assert rolloutbench("show", "first").stdout == first.stdout


def test_predict_on_ones_own_prompts():
    as_csv(Path("mine.csv"), id=range(len(KS)), correct=KS, n=8)
    spec = "measured[file=mine.csv,column=correct,trials=n,prompts=8,steps=4,held_out=8]"
    done = rolloutbench("predict", "-p", "beta", "-s", spec, "--replicates", "2", "--jobs", "1")
    assert "measured[prompts=8,steps=4,held_out=8]" in done.stdout


@pytest.mark.slow
def test_the_shorthand_says_what_was_made_of_the_file():
    as_csv(Path("mine.csv"), pass_rate=[str(k / 8) for k in KS[:-1]] + ["oops"], trials=8)
    command = [
        "compare",
        "--pass-rates",
        "mine.csv",
        "--snapshot",
        "-a",
        "vip",
        "--replicates",
        "2",
        "--jobs",
        "1",
    ]
    refused = rolloutbench(*command, code=2)
    assert refused.stderr.count("\n") == 1
    assert "1 of 32 rows cannot be used, the first is row 32: column 'pass_rate': oops" in refused.stderr
    done = rolloutbench(*command, "--drop-bad-rows")
    assert "1 of 32 rows dropped" in done.stderr
    assert "taken as exact: 8 at 0 and 8 at 1 never change; with trials=trials" in done.stderr
    assert "n/a" not in done.stdout


def test_solve_speaks_of_the_callers_prompts():
    as_csv(Path("p.csv"), id=["007", "b", "c"], p=[0.1, 0.5, 0.9])
    done = rolloutbench("solve", "--p", "p.csv", "--budget", "24", "--lower", "0")
    assert "007" in done.stdout
    assert (
        "rolloutbench: warning: 2 of 3 prompts get no rollouts though 0 < p < 1, 007 (p=0.1)" in done.stderr
    )
    assert "--lower 2" in done.stderr
