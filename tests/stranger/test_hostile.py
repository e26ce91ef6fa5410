"""What a command is given that it cannot use: one line and exit code 2, whatever it is, and nothing left."""

import os
import shutil
from pathlib import Path

import pytest
from command_line import run

ROOT = Path(__file__).parents[2]
LONG = "a" * 300

FILES = {
    "bin.csv": b"\xff\xfe\x00",
    "head.csv": b"p\n",
    "empty.csv": b"",
    "nan.csv": b"p\nNaN\n",
    "inf.csv": b"p\n1e400\n",
    "weight.csv": b"p,weight\n0.5,-1\n",
    "infinite.csv": b"p,weight\n0.5,inf\n",
    "markup.csv": b"p,id\n0.5,<script>\n0.2,[red]x[/red]\n",
    "ragged.csv": b"p\n0.5\n0.5,7\n",
    "torn.json": b'{"p": [0.5',
    "torn.parquet": b"PAR1xxxxPAR1",
    "empty.toml": b"",
    "torn.toml": b"steps = ",
    "wrong.toml": b'study = "predict"\nreplicates = "many"\n',
    "other.toml": b'study = "compare"\n',
    "deep.toml": b"a = " + b"[" * 3000 + b"]" * 3000,
    "kind.toml": b'study = "train"\ntask = 5\n',
    "res/learning_all/manifest.json": b"{",
    "res/snapshot_default/manifest.json": b'{"format": 99}',
}

PAPERS = [
    "nope",
    "''",
    "dapo/../x",
    "'[red]x[/red]'",
    "ﬁgure",
    "'dapo ar3po'",
    "DAPO",
    "dapo --out bin.csv",
    "dapo --out bin.csv/x",
    "dapo --out pipe",
    "dapo --out /proc/x",
    "dapo --out /dev/null",
    f"dapo --out {LONG}",
    "dapo --results nowhere",
    "dapo --results bin.csv",
    "dapo --results pipe",
    "dapo --results folder",
    "dapo --results res",
    "dapo --jobs 0",
    "dapo --jobs x",
    "dapo --jobs 1e3",
    "dapo --memory nan",
    "dapo --memory -1",
    "dapo --memory 0",
    "dapo --results folder --run",
    "dapo --nope",
]
HOSTILE = {
    "solve": [
        *("--p 0.1,abc", "--p nan", "--p inf", "--p -0.1", "--p ''", "--p ,", "--p 0.5,,0.5", "--p 1e400"),
        *("--p folder", "--p missing.csv", "--p pipe", "--p bin.csv", "--p head.csv", "--p empty.csv"),
        *("--p nan.csv", "--p inf.csv", "--p weight.csv", "--p infinite.csv", "--p torn.json"),
        *("--p torn.parquet", "--p ragged.csv", "--p markup.csv --column nope", "--p markup.csv --column id"),
        *(
            "--p 0.5 --budget -1",
            "--p 0.5 --budget 1e9",
            "--p 0.5 --budget 9" + "9" * 30,
            "--p 0.5 --budget 0",
        ),
        *("--p 0.5 --lower 9 --upper 2", "--p 0.5 --objective nope", "--p 0.5 --solver nope"),
        *("--p 0.5 --objective mse[noise_ratio=nan]", "--p 0.5 --objective 'mse['", "--p '[red]1[/red]'"),
        *("--p 0.5 --group-minimum x=3", "--p 0.5 --solver cvxpy --group-minimum =3", "--p /dev/zero"),
    ],
    "predict": [
        *("-p nope", "-p ''", "-p beta[discount=nan]", "-p beta[discount=1e400]", "-p beta[discount=2]"),
        *("-p 'beta[['", "-p beta[x=1]", "-p '[red]beta[/red]'", "-p bеta", "-p vip", "-p beta -p beta"),
        *("-s nope", "-s ''", "-s snapshot-u-shaped-v1", "-s replay:missing.parquet", "-s replay:folder"),
        *("-s replay:torn.parquet", "-s replay:pipe", "-s measured[file=bin.csv]", "-s measured[file=pipe]"),
        *("-s measured[file=folder]", "-s measured[file=nan.csv,column=p]", "-s u-shaped-v1[steps=0]"),
        *("-s u-shaped-v1[steps=1e9]", "--replicates 0", "--replicates 99999999", "--replicates x"),
        *("--seed -1", "--seed 1.5", "--seed 9" + "9" * 60, "--allocator nope", "--estimator nope"),
        *("--sort nope", "--jobs 0", "--jobs -3", "--memory nan", "--memory 0", "--config missing.toml"),
        *(
            "--config folder",
            "--config pipe",
            "--config empty.toml",
            "--config torn.toml",
            "--config bin.csv",
        ),
        *("--config wrong.toml", "--config other.toml", "--config deep.toml", "--out bin.csv", "--out pipe"),
        *("--out bin.csv/x", f"--out {LONG}", "--out /proc/x", "--executor nope", "--aggregation nope"),
        "--executor ray --address nowhere",
    ],
    "figures": [*PAPERS, "dapo --keep bin.csv", "dapo --keep pipe", f"dapo --keep {LONG}"],
    "claims": PAPERS,
    "record": [
        *("--task nope", "--task ''", "--task sorting[shortest=-1]", "--task sorting[shortest=nan]"),
        *("--task jsonl[path=missing.jsonl]", "--task jsonl[path=folder]", "--task jsonl[path=pipe]"),
        *("--task jsonl[path=bin.csv]", "--task jsonl[path=/dev/zero]", "--task '[red]sorting[/red]'"),
        *("--model nope", "--model tiny[width=0]", "--model tiny[width=1e9]", "--model hf[path=folder]"),
        *("--allocator nope", "--allocator 'vip[['", "--at-steps x", "--at-steps -1", "--at-steps 1.5"),
        *("--at-steps ''", "--at-steps 9" + "9" * 30, "--pool 0", "--pool 1e9", "--rollouts 1"),
        *(
            "--rollouts nan",
            "--dimensions 65",
            "--dimensions 1e9",
            "--seed -1",
            "--device tpu",
            "--device cuda",
        ),
        *("missing.toml", "folder", "pipe", "empty.toml", "torn.toml", "other.toml", "kind.toml", "bin.csv"),
        *("--out bin.csv", "--out pipe", "--out bin.csv/x", f"--out {LONG}", "--out /proc/x"),
    ],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A directory with files that are none of what a command wants."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(f"{name} {given}", marks=[pytest.mark.torch] * (name == "record"))
        for name, several in HOSTILE.items()
        for given in several
    ],
)
def test_what_cannot_be_used_is_one_line(command, here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(here / "cache"))
    before = sorted(here.rglob("*"))
    done = run(command + " --budget 4" * (command.startswith("solve") and "--budget" not in command))
    lines = done.err.splitlines()
    assert done.code == 2, done
    assert done.out == ""
    assert lines[-1].startswith("rolloutbench: error: ")
    said_on_the_way = ("rolloutbench: note: ", "figures: ", "claims: ", "record: ")
    assert all(line.startswith(said_on_the_way) for line in lines[:-1]), done.err
    assert "Traceback" not in done.err
    assert lines[-1].isprintable()
    assert len(lines[-1]) < 1000
    left = {path for path in here.rglob("*") if here / "cache" not in (path, *path.parents)} - set(before)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    assert not left
