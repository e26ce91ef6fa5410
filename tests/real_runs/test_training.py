"""Cells of real runs: killed and resumed they end as if nothing had happened; wrong input is told at once."""

from __future__ import annotations

import errno
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import run as command
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing import event_accumulator

from real_runs import checkpoint
from real_runs.environment import RealRun
from real_runs.settings import RealScenario
from real_runs.trainer import Trainer
from real_runs.training import TrainingCell, pass_at
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.experiment import Failed, Resumable, identify, run_cell
from rolloutbench.protocol import InputError
from rolloutbench.store import read_cell, read_manifest

TASK = "sorting[shortest=1,longest=2,pool_size=60,held_out=16]"
MODEL = "tiny[width=32,warmup_steps=100]"
"""Solves most prompts now and then."""
STEPS = 6


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One warm-up for all."""
    return tmp_path_factory.mktemp("cache")


def cell(cache, runs, allocator="uniform", **changes):
    scenario = RealScenario(
        task=TASK,
        model=MODEL,
        prompts=8,
        group_size=4,
        steps=STEPS,
        evaluate_every=2,
        initial_rollouts=8,
        trainer=changes.pop("trainer", "ppo[learning_rate=1e-3,warmup_steps=2]"),
        probe=8,
    )
    made = allocators.create(allocator)
    how = {"cache": cache, "runs": runs, "checkpoint_every": 1, **changes}
    return TrainingCell(TASK, scenario, allocator, made, estimators.create("rloo"), "prompt", 0, 0, **how)


def same(one, other):
    """All but what is measured of this machine, to the bit."""
    names = [name for name in one if not name.startswith("seconds")]
    assert list(one) == list(other)
    pd.testing.assert_frame_equal(one[names], other[names], check_exact=True)


class Killed(Exception):
    """What stops a run."""


def stop_at(monkeypatch, kind, method, number):
    """Raise at the n-th call of a method."""
    real, calls = getattr(kind, method), []

    def counted(self, *given, **how):
        calls.append(method)
        if len(calls) == number:
            raise Killed
        return real(self, *given, **how)

    monkeypatch.setattr(kind, method, counted)


ALLOCATORS = [
    "uniform",
    "ar3po[reuse=replay]",
    "pilot_commit",
    "dapo[carry=true]",
    "vip",
    "vip[predictor=oracle]",
    "mopps",
]


@pytest.mark.parametrize("spec", [*ALLOCATORS, "mopps by copies"])
def test_stopped_and_resumed(tmp_path, cache, monkeypatch, spec):
    """In the middle of sampling, of an update and of a checkpoint."""
    if "by copies" in spec:  # they draw random numbers of their own
        spec = spec.split()[0]
        monkeypatch.setattr(type(allocators.create(spec)), "vectorised", False)
    calm = cell(cache, None, spec).run()
    disturbed = cell(cache, tmp_path / "runs", spec)
    assert isinstance(disturbed, Resumable)
    for kind, method, number in (
        (Trainer, "gradient", 2),
        (RealRun, "generate", 2),
        (RealRun, "state_dict", 1),
    ):
        with monkeypatch.context() as patch:
            stop_at(patch, kind, method, number)
            with pytest.raises(Killed):
                disturbed.run()
        assert list(tmp_path.rglob("*.unfinished")) == []
    begun = checkpoint.load(disturbed.directory / "checkpoint.safetensors")
    assert begun["environment"]["step"] >= 1
    rows = pd.DataFrame(begun["rows"])
    same(rows, calm.iloc[: len(rows)][list(rows)])
    progress = json.loads((disturbed.directory / "progress.json").read_text())
    assert progress["label"] == disturbed.label
    assert progress["steps"] >= rows["steps"].iloc[-1]
    resumed = disturbed.run()
    same(resumed, calm)
    assert calm["effective"].iloc[-1] > 0
    assert (resumed["steps"].diff().dropna() > 0).all()
    same(disturbed.run(), calm)  # killed after its end, before its table was stored
    disturbed.forget()
    assert not (tmp_path / "runs").exists()


def test_what_a_cell_measures(cache):
    table = cell(cache, None).run()
    paid = 32 * table["steps"]
    assert table["steps"].tolist() == [0, 2, 4, 6, 8, 9]
    assert table["rollouts"].tolist() == table["trained"].tolist() == paid.tolist()
    assert table["accuracy"].between(0, 1).all()
    assert table["accuracy"].iloc[0] > 0.02
    assert (table["tokens"].iloc[1:] >= 2 * paid.iloc[1:]).all()
    parts = [name for name in table if name.startswith("seconds_")]
    assert sorted(parts) == [
        f"seconds_{what}" for what in ("allocation", "generation", "update", "verification")
    ]
    np.testing.assert_allclose(table[parts].sum(axis=1), table["seconds"])
    other = cell(cache, None, reference=True).run()
    assert not other["tokens"].equals(table["tokens"])
    assert other["accuracy"].iloc[0] == table["accuracy"].iloc[0]


def test_a_run_that_pays_too_little_ends_with_a_row(cache, monkeypatch):
    """It is stopped after MOST_STEPS times the steps, wherever the next evaluation would be."""
    monkeypatch.setattr("real_runs.training.MOST_STEPS", 1 / 2)
    assert cell(cache, None, "uniform[divide=4]").run()["steps"].tolist() == [0, 2, 3]


def test_an_oracle_does_not_wait_for_its_measurements(cache, monkeypatch):
    """What it asks is for nothing, in rollouts and in seconds."""
    ask = RealRun.sample

    def slow(self, prompts, counts):
        time.sleep(0.2 if (counts == 8).all() and len(counts) == 8 else 0)
        return ask(self, prompts, counts)

    monkeypatch.setattr(RealRun, "sample", slow)
    table = cell(cache, None, "vip[predictor=oracle]").run()
    assert table["seconds_allocation"].iloc[-1] < 9 * 0.2
    assert table["rollouts"].iloc[-1] == 288


def test_micro_batches_are_no_part_of_a_run(tmp_path, cache):
    """One that does not fit is made smaller, and the run goes on from its checkpoint."""
    one = cell(cache, tmp_path, trainer="ppo[micro_batch=64]")
    other = cell(cache, tmp_path, trainer="ppo[micro_batch=32]")
    assert one.directory == other.directory != cell(cache, tmp_path, trainer="ppo[clip_low=0.1]").directory
    assert list(identify([one])[0]) == list(identify([other])[0]) == [one.directory.name]


def test_memory_runs_out_and_a_smaller_micro_batch_goes_on(tmp_path, cache, monkeypatch):
    one = cell(cache, tmp_path, trainer="ppo[micro_batch=64]")
    forward = Trainer._logprobs

    def full(self, network, part):
        if self.steps == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return forward(self, network, part)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_logprobs", full)
        failed = run_cell(one, {})
    assert isinstance(failed, Failed)
    assert failed.error.startswith("micro_batch=64: ")
    assert "choose a smaller one; the run goes on from its last checkpoint" in failed.error
    begun = checkpoint.load(one.directory / "checkpoint.safetensors")["environment"]["step"]
    assert begun == 3
    with monkeypatch.context() as patch:
        steps = []
        update = Trainer.update
        patch.setattr(Trainer, "update", lambda self, batch: steps.append(1) or update(self, batch))
        table = cell(cache, tmp_path, trainer="ppo[micro_batch=32]").run()
    assert len(steps) == 9 - begun
    assert table["steps"].iloc[-1] == 9


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, cache, monkeypatch):
    one = cell(cache, tmp_path)
    write, written = Path.write_bytes, []

    def full(self, content):
        if "checkpoint" in self.name:
            written.append(self)
            if len(written) == 3:
                write(self, content[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        failed = run_cell(one, {})
    assert isinstance(failed, Failed)
    assert "checkpoint.safetensors: cannot be written: No space left on device" in failed.error
    assert list(tmp_path.rglob("*.unfinished")) == []
    assert checkpoint.load(one.directory / "checkpoint.safetensors")["environment"]["step"] == 2
    same(one.run(), cell(cache, None).run())


def test_a_damaged_checkpoint_is_named(tmp_path, cache):
    one = cell(cache, tmp_path)
    one.directory.mkdir()
    (one.directory / "checkpoint.safetensors").write_bytes(b"not this")
    with pytest.raises(InputError, match="is no checkpoint of a run: .*; delete it to start anew"):
        one.run()


@settings(max_examples=30)
@given(st.integers(8, 20), st.data())
def test_pass_at_8_is_that_of_all_choices(trials, data):
    k = data.draw(st.integers(0, trials))
    chance = pass_at(8, np.array([k]), trials)[0]
    none = 1.0
    for draw in range(8):
        none *= max(trials - k - draw, 0) / (trials - draw)
    assert chance == pytest.approx(1 - none)


# The command line.

QUICK = (
    f"train --task {TASK} --model {MODEL} --prompts 8 --group-size 4 --steps 2 --seeds 2 --device cpu "
    "-a ar3po --checkpoint-every 1 --out out"
)


@pytest.fixture
def here(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(cache))
    monkeypatch.setattr("rolloutbench.plotting.panels.save", lambda *given: None)  # takes most of the time
    return tmp_path


def tables(out):
    files = sorted((out / "cells").glob("*.parquet"))
    return {path.name.partition("-")[0]: read_cell(path)[0] for path in files}


def all_same(one, other):
    one, other = tables(one), tables(other)
    assert one.keys() == other.keys()
    assert len(one) == 6
    for key in one:
        same(one[key], other[key])


def killed(moment, number, jobs=1):
    """Without the script's folder in the path: `tests/real_runs` has the name of our package."""
    script = Path(__file__).parents[1] / "killed.py"
    arguments = [str(script), "log", moment, str(number), *shlex.split(QUICK), "--jobs", str(jobs)]
    return subprocess.run([sys.executable, "-P", *arguments], capture_output=True, text=True, check=False)


def test_killed_through_the_command_line(here):
    """By SIGKILL while a checkpoint is written; one job or two, the same numbers."""
    calm = command(f"{QUICK.replace('--out out', '--out calm')} --jobs 2")
    assert calm.code == 0, calm.err
    done = killed("inside", 9)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = sorted(path.name for path in Path("out/runs").rglob("*.safetensors*"))
    assert left == ["checkpoint.safetensors", "checkpoint.safetensors.unfinished"]
    finished = len(list(Path("out/cells").glob("*.parquet")))
    again = command(f"{QUICK} --jobs 1")
    assert again.code == 0, again.err
    assert f"{finished} of 6 cells are finished already" in again.err or finished == 0
    all_same(Path("out"), Path("calm"))
    assert list(Path("out").rglob("*.unfinished")) == []
    assert not Path("out/runs").exists()
    rerun = command("train calm/study.toml --out again --jobs 1")
    assert rerun.code == 0, rerun.err
    all_same(Path("again"), Path("calm"))
    assert Path("again/study.toml").read_bytes() == Path("calm/study.toml").read_bytes()
    assert read_manifest(Path("again")).cells == read_manifest(Path("calm")).cells


WRONG = {
    "no-such-model": ('--model "hf[path=/nowhere]"', "--model", "path=/nowhere", "no such directory"),
    "model-is-a-file": ('--model "hf[path=data.jsonl]"', "--model", "data.jsonl", "directory is expected"),
    "model-is-no-model": ('--model "hf[path=empty]"', "--model", "empty", "no config.json"),
    "no-such-file": ('--task "jsonl[path=missing.jsonl]"', "--task", "missing.jsonl", "No such file"),
    "wrong-column": (
        '--task "jsonl[path=data.jsonl,prompt_column=quesion]"',
        "--task",
        "data.jsonl, line 1",
        "'quesion'",
        "did you mean question?",
    ),
    "no-json": ('--task "jsonl[path=broken.jsonl]"', "--task", "broken.jsonl, line 2", "not JSON"),
    "no-warm-up": (
        '--task "jsonl[path=data.jsonl,prompt_column=question,held_out=1]" --model tiny --prompts 2',
        "--model",
        "warm-up",
        "trained before",
    ),
    "pool-too-small": ("--task sorting[pool_size=7] --prompts 8", "--prompts", "8", "7"),
    "no-file": ("--task jsonl", "--task", "jsonl[path=FILE]"),
    "unknown-task": ("--task sortign", "--task", "'sortign'", "did you mean sorting"),
    "unknown-dataset": ('--task "reasoning_gym[dataset=chain_sun]"', "--task", "chain_sun", "chain_sum"),
    "task-parameter": ("--task sorting[longst=5]", "--task", "longst", "longest"),
    "task-value": ("--task sorting[shortest=9,longest=4]", "--task", "shortest=9", "longest=4"),
    "unknown-model": ("--model tinny", "--model", "'tinny'", "did you mean tiny?"),
    "model-parameter": ("--model tiny[widht=32]", "--model", "widht", "width"),
    "model-value": ("--model tiny[width=33]", "--model", "width", "33", "32"),
    "unknown-trainer": ("--trainer pop", "--trainer", "'pop'", "ppo"),
    "trainer-parameter": ("--trainer ppo[learning_rat=1]", "--trainer", "learning_rat", "learning_rate"),
    "trainer-value": ("--trainer ppo[clip_low=2]", "--trainer", "clip_low", "2"),
    "trainer-text": ("--trainer ppo[stale=never]", "--trainer", "stale", "never", "recorded"),
    "unknown-allocator": ("-a vipp", "--allocator", "'vipp'", "did you mean vip?"),
    "budget": ("--prompts 8 --budget 60", "--budget 60", "8 prompts"),
    "budget-too-small": ("--prompts 8 --budget 4", "--budget 4", "8 prompts"),
    "budget-and-group-size": ("--prompts 8 --budget 64 --group-size 4", "--budget 64", "8 prompts x 4"),
    "one-prompt": ("--prompts 1", "--prompts", "1"),
    "temperature": ("--temperature 0", "--temperature", "0"),
    "engine": ("--engine vlm", "--engine", "vlm", "vllm"),
    "aggregation": ("--aggregation sum", "--aggregation", "sum", "token"),
    "sort": ("--sort speed", "--sort", "speed"),
    "one-seed": ("--seeds 1", "--seeds", "1"),
    "no-such-config": ("missing.toml", "missing.toml"),
    "scenarios": ("wrong.toml", "wrong.toml", "scenarios"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_before_anything_runs(here, case, monkeypatch):
    arguments, *fragments = case
    rows = [json.dumps({"question": f"{a}+1", "answer": str(a + 1)}) for a in range(3)]
    Path("data.jsonl").write_text("\n".join(rows))
    Path("broken.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n{"prompt"\n')
    Path("empty").mkdir()
    Path("wrong.toml").write_text('study = "train"\nscenarios = ["u-shaped-v1"]\n')
    monkeypatch.setattr(TrainingCell, "run", None)
    before = sorted(here.rglob("*"))
    code, out, err = command(f"train {arguments} --jobs 1 --out new/out")
    assert (code, out) == (2, ""), err
    (line,) = err.strip().splitlines()
    assert line.startswith("rolloutbench: error: ")
    assert [part for part in fragments if part not in line] == [], line
    assert [part for part in ("Traceback", "Value error") if part in line] == []
    assert sorted(here.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_that_is_not_there(here):
    code, out, err = command("train --device cuda --out new/out")
    assert (code, out) == (2, "")
    assert "--device cuda: torch sees no GPU here" in err
    assert not Path("new").exists()


def test_cells_that_fail_are_told_and_go_on_with_another_micro_batch(here, monkeypatch):
    forward = Trainer._logprobs

    def full(self, network, part):
        if len(part.prompts) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, network, part)

    monkeypatch.setattr(Trainer, "_logprobs", full)
    code, out, err = command(f"{QUICK} --trainer ppo[micro_batch=1000] --jobs 1")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    said = err.strip().splitlines()[-1]
    assert said.startswith("rolloutbench: error: ")
    assert "micro_batch=1000: " in said
    assert "do not fit into the memory of the device: choose a smaller one" in said
    assert list(here.rglob("*.unfinished")) == []
    done = command(f"{QUICK} --trainer ppo[micro_batch=20] --jobs 1 --retry-failed")
    assert done.code == 0, done.err
    assert not Path("out/runs").exists()


def test_without_torch(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, _, err = command("train --out new/out")
    assert code == 2
    assert "torch is not installed: pip install 'rolloutbench[llm]'" in err
    assert not Path("new").exists()


def test_a_cache_that_cannot_be_written(here, monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(here / "file"))
    code, _, err = command(f"{QUICK} --jobs 1")
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("rolloutbench: error: ")
    assert str(here / "file") in last
    assert "Traceback" not in err


def test_event_files_are_named_after_their_runs(cache, tmp_path):
    one = cell(cache, tmp_path, tensorboard=True)
    table = one.run()
    one.forget()
    (kept,) = tmp_path.iterdir()
    (folder,) = kept.iterdir()
    assert (kept.name, folder.name) == ("tensorboard", f"{TASK}_uniform_seed_0")
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    told = [(event.step, event.value) for event in events.Scalars("accuracy")]
    assert told == [(r, pytest.approx(a)) for r, a in zip(table.rollouts, table.accuracy, strict=True)]
