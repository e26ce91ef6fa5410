"""Cells of real runs: killed and resumed they end as if nothing had happened; wrong input is told at once."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import run as command
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing import event_accumulator

from real_runs import preparation
from real_runs.engines.transformers import TransformersEngine
from real_runs.environment import RealRun
from real_runs.settings import RealScenario
from real_runs.trainer import Trainer
from real_runs.training import TrainingCell, pass_at
from rolloutbench import checkpoint
from rolloutbench.allocators import allocators
from rolloutbench.cells.cell import Failed, Resumable, identify, run_cell
from rolloutbench.cells.store import read_cell, read_manifest
from rolloutbench.estimators import estimators
from rolloutbench.studies.kinds import open_results
from rolloutbench.studies.progress import TrainingProgress

pytestmark = pytest.mark.torch

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
        steps=changes.pop("steps", STEPS),
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


def test_adapters_are_stopped_and_resumed(tmp_path, cache, monkeypatch):
    trainer = "ppo[learning_rate=1e-2,warmup_steps=2,lora=4]"
    calm = cell(cache, None, trainer=trainer).run()
    disturbed = cell(cache, tmp_path / "runs", trainer=trainer)
    with monkeypatch.context() as patch:
        stop_at(patch, Trainer, "gradient", 3)
        with pytest.raises(Killed):
            disturbed.run()
    begun = checkpoint.load(disturbed.directory / "checkpoint.safetensors")
    assert all(".lora_" in name for name in begun["environment"]["trainer"]["weights"])
    same(disturbed.run(), calm)
    assert not calm["accuracy"].equals(cell(cache, None).run()["accuracy"])


def test_one_engine_at_a_time_and_words_of_what_is_done_before_training(tmp_path, cache, monkeypatch):
    """Pass rates are measured anew, in parts, by an engine that is closed before the run's is made."""
    events, said = [], []
    make, close, report = TransformersEngine.__init__, TransformersEngine.close, TrainingCell.report

    def made(self, *given, **how):
        events.append("made")
        make(self, *given, **how)

    def closed(self):
        events.append("closed")
        close(self)

    def reported(self, **what):
        said.append(what.get("doing", "trains"))
        report(self, **what)
        progress = TrainingProgress("train", tmp_path)
        (run,) = progress._under_way().values()
        progress._show(tmp_path, run)
        assert run.doing == what.get("doing", "")

    monkeypatch.setattr(TransformersEngine, "__init__", made)
    monkeypatch.setattr(TransformersEngine, "close", closed)
    monkeypatch.setattr(TrainingCell, "report", reported)
    monkeypatch.setattr(preparation, "ROLLOUTS_AT_ONCE", 250)
    scenario = replace(cell(cache, None).scenario, initial_rollouts=9, engine="transformers[rows=100]")
    one = replace(cell(cache, tmp_path / "runs"), scenario=scenario)
    one.run()
    assert events == ["made", "closed", "made", "closed"]
    wanted = [f"pass rates before training, {done} of 828 rollouts" for done in (0, 243, 486, 540, 774)]
    assert said[1:-6] == [*wanted, "features of the prompts"]
    assert said[0].startswith("the model is loaded")
    assert said[-6:] == ["trains"] * 6
    assert preparation.new_engine(scenario, preparation.prepare(scenario, 0, cache).model, 0).rows == 100


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
    assert list(identify([one])[0]) == list(identify([other])[0])


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


def stopped_at(cell, monkeypatch, step):
    """Run a cell until the update of a step, and leave its checkpoints."""
    with monkeypatch.context() as patch:
        stop_at(patch, Trainer, "update", step)
        with pytest.raises(Killed):
            cell.run()


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(tmp_path, cache, monkeypatch, capfd, damaged):
    one = cell(cache, tmp_path)
    stopped_at(one, monkeypatch, 4)
    for name in (checkpoint.NEWEST, checkpoint.EARLIER)[:damaged]:
        path = one.directory / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 1  # in a weight: nothing but the digest can tell
        path.write_bytes(content)
    steps = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: steps.append(1) or update(self, batch))
    table = one.run()
    assert len(steps) == 9 - (2 if damaged == 1 else 0)
    same(table, cell(cache, None).run())
    assert [note.partition(": ")[0] for note in table.attrs["notes"]] == [
        str(one.directory / name) for name in (checkpoint.NEWEST, checkpoint.EARLIER)[:damaged]
    ]
    assert capfd.readouterr().err.count("it is discarded") == damaged


@pytest.mark.parametrize(("before", "now"), [(3, 6), (6, 3), (3, 4)])
def test_a_run_with_other_steps_goes_on_where_it_can(tmp_path, cache, monkeypatch, before, now):
    """Steps say where a run ends; evaluations at the end of the shorter one leave no trace in the longer."""
    first = cell(cache, tmp_path, steps=before, keep_checkpoints=True)
    first.run()
    first.forget()
    second = cell(cache, tmp_path, steps=now)
    assert first.directory == second.directory
    assert list(identify([first])[0]) != list(identify([second])[0])
    steps = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: steps.append(1) or update(self, batch))
    table = second.run()
    assert len(steps) == (math.ceil(1.5 * now) - math.ceil(1.5 * before) if now > before else 5)
    same(table, cell(cache, None, steps=now).run())
    second.forget()
    assert second.directory.exists() == (before > now)  # that of the longer run was to be kept


def test_a_shorter_run_takes_nothing_from_a_longer_one_under_way(tmp_path, cache, monkeypatch, capfd):
    """Whether the longer one has come less far than the shorter goes, or farther."""
    calm = cell(cache, None, steps=6).run()
    longer = cell(cache, tmp_path, steps=6)
    for stopped, shorter in ((2, cell(cache, tmp_path, steps=2)), (3, cell(cache, tmp_path, steps=2))):
        with monkeypatch.context() as patch:
            stop_at(patch, Trainer, "update", stopped + 1)
            with pytest.raises(Killed):
                longer.run()
        same(shorter.run(), cell(cache, None, steps=2).run())
        shorter.forget()
        kept = checkpoint.load(longer.directory / checkpoint.NEWEST)
        assert (kept["steps"], kept["environment"]["step"]) == (6, 3 if stopped == 2 else 6)
    assert "with more steps is kept, so this one writes none" in capfd.readouterr().err
    updates = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: updates.append(1) or update(self, batch))
    same(longer.run(), calm)
    assert len(updates) == 9 - 6
    longer.forget()
    assert not longer.directory.exists()


def test_measured_again_is_begun_anew_and_gone_on_with(tmp_path, cache, monkeypatch):
    """What is at its end starts over; what is under way, for the first or the second time, goes on."""
    made = cell(cache, tmp_path, keep_checkpoints=True)
    updates = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: updates.append(1) or update(self, batch))
    calm = made.run()
    made.forget()
    assert len(updates) == 9
    made.start_over()
    with monkeypatch.context() as patch:
        stop_at(patch, Trainer, "update", 4)
        with pytest.raises(Killed):
            made.run()
    made.start_over()
    same(made.run(), calm)
    assert len(updates) == 9 + 3 + 6


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
def here(tmp_path, monkeypatch, cache, plots_unsaved):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(cache))
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


@pytest.mark.kill
def test_killed_through_the_command_line(here):
    """By SIGKILL while a checkpoint is written; one job or two, the same numbers."""
    calm = command(f"{QUICK.replace('--out out', '--out calm')} --jobs 2")
    assert calm.code == 0, calm.err
    done = killed("inside", 12)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = sorted(path.name for path in Path("out/runs").rglob("*.safetensors*"))
    assert left == ["checkpoint.safetensors", "checkpoint.safetensors.unfinished", "earlier.safetensors"]
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


@pytest.mark.slow
def test_everybody_at_its_own_learning_rate(here):
    """Other rates are other trainers; the common one is the run that there is without others."""
    done = command(f"{QUICK} --learning-rates 3 --jobs 1")
    assert done.code == 0, done.err
    assert "each at its own best of 2 learning rates" in " ".join(done.out.split())
    plain = command(f"{QUICK.replace('--out out', '--out plain')} --jobs 1")
    assert plain.code == 0, plain.err
    swept, alone = tables(Path("out")), tables(Path("plain"))
    assert len(swept) == 10  # two seeds of the reference run, and of two allocators at two rates
    for key, table in alone.items():
        same(swept[key], table)
    others = [table for key, table in swept.items() if key not in alone]
    assert [set(table.rate) for table in others] == [{3.0}] * 4
    assert all(not table.equals(alone[key].assign(rate=3.0)) for table in others for key in alone)
    results = open_results(Path("out"))
    assert results.sort == "tuned_area_over_rollouts"
    refused = command(f"{QUICK} --learning-rates 10000 --jobs 1")
    assert "--learning-rates 10000: times the trainer's 0.0002 is more than 1" in refused.err


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
        '--task "reasoning_gym[dataset=graph_color,pool_size=4,held_out=1]" --model tiny --prompts 2',
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
    "engine-option": ("--engine transformers[rows=0]", "--engine", "rows=0"),
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


def test_memory_that_is_not_enough_is_one_line_and_keeps_checkpoints(here, monkeypatch):
    """Wherever it ends: here while rollouts are sampled, as the CPU says it."""
    calls = []

    def generate(self, *given, real=RealRun.generate):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
            )
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(RealRun, "generate", generate)
        stopped = command(f"{QUICK} --jobs 1")
    assert stopped.code == 2  # without the reference nothing can be compared
    (said,) = [line for line in stopped.err.splitlines() if line.startswith("rolloutbench: error: ")]
    assert "not enough memory ([enforce fail" in said
    assert "a smaller --model, fewer --prompts, a smaller --group-size or more memory is expected" in said
    assert kept(Path("out"))[1]
    assert command(f"{QUICK} --jobs 1 --retry-failed").code == 0


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


def kept(out):
    """Finished cells, and the step of the newest checkpoint of each run."""
    cells = {path.name for path in (out / "cells").glob("*.parquet")}
    checkpoints = {}
    for folder in (out / "runs").glob("*/"):
        names = [folder / name for name in (checkpoint.NEWEST, checkpoint.EARLIER)]
        steps = [checkpoint.load(path)["environment"]["step"] for path in names if path.exists()]
        if steps:
            checkpoints[folder.name] = max(steps)
    return cells, checkpoints


@pytest.mark.slow
@pytest.mark.kill
def test_signals_at_random_moments_take_nothing_away(here):
    """Ten of TERM, INT and KILL: what was finished or checkpointed stays, and the end is as without them."""
    study = QUICK.replace("--steps 2", "--steps 30")  # more than ten signals let it do
    calm = command(f"{study.replace('--out out', '--out calm')} --jobs 1")
    assert calm.code == 0, calm.err
    script = Path(__file__).with_name("signalled.py")
    arguments = [sys.executable, "-P", str(script), *shlex.split(study), "--jobs", "1"]
    out, chance = Path("out"), np.random.default_rng(14)
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as forks:
        assert forks.stdout.readline() == "ready\n"

        def send(number, seconds, watched="-"):
            print(number, seconds, watched, file=forks.stdin, flush=True)
            return os.waitstatus_to_exitcode(int(forks.stdout.readline()))

        stopped, steps_seen = 0, 0
        cells, checkpoints, gone = set(), {}, set()
        for place in range(10):
            wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[place % 3]
            # Early, or after something was written: on a busy machine that is late.
            code = send(int(wanted), chance.uniform(0.0, 0.3), "-" if place < 3 else "out")
            assert code in (0, 143, 130, -signal.SIGKILL), place
            stopped += code != 0
            now_cells, now_checkpoints = kept(out)
            assert cells <= now_cells
            gone |= {run for run, step in checkpoints.items() if now_checkpoints.get(run, -1) < step}
            assert len(gone) <= len(now_cells)  # of runs that ended, perhaps when one was stopped before
            cells, checkpoints = now_cells, now_checkpoints
            steps_seen += bool(checkpoints)
        assert stopped
        assert steps_seen
        assert send(0, 0) == 0
    all_same(Path("out"), Path("calm"))
    assert list(out.rglob("*.unfinished")) == []
    assert not (out / "runs").exists()


def test_a_stop_before_the_first_result_keeps_the_checkpoints(here, monkeypatch):
    """As when a GPU's minutes are over: all that there is are checkpoints."""
    for end in (SystemExit(143), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            updates = []

            def update(self, batch, real=Trainer.update, end=end, updates=updates):
                updates.append(1)
                if len(updates) == 3:
                    raise end
                return real(self, batch)

            patch.setattr(Trainer, "update", update)
            stopped = command(f"{QUICK} --jobs 1")
        assert stopped.code == (143 if isinstance(end, SystemExit) else 130)
        _, checkpoints = kept(Path("out"))
        assert checkpoints
    assert "1 checkpoint is kept in out/runs, and the same command goes on from there" in stopped.err
    assert command(f"{QUICK} --jobs 1").code == 0


def test_more_steps_go_on_where_nothing_was_finished(here, monkeypatch):
    def stop(self, batch, real=Trainer.update, updates=[]):  # noqa: B006 - counts
        updates.append(1)
        if len(updates) == 3:
            raise SystemExit(143)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", stop)
        assert command(f"{QUICK} --jobs 1").code == 143
    updates = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: updates.append(1) or update(self, batch))
    longer = command(f"{QUICK} --jobs 1 --steps 3")
    assert longer.code == 0, longer.err
    more = len(updates)
    assert command(f"{QUICK.replace('--out out', '--out fresh')} --jobs 1 --steps 3").code == 0
    assert len(updates) - more == more + 2  # two steps of one run were there
    all_same(Path("out"), Path("fresh"))
    shorter = command(f"{QUICK} --jobs 1")
    assert shorter.code == 0, shorter.err
    for said in ("steps: ", "3, now 2", "its 6 finished cells stay", "6 of this study's 6 cells run now"):
        assert said in shorter.err
    again = command(f"{QUICK} --jobs 1 --steps 3")
    assert "6 of 6 cells are finished already" in again.err
    assert read_manifest(Path("out")).cells == read_manifest(Path("fresh")).cells


def test_force_measures_again_what_is_finished_with_checkpoints_kept(here, monkeypatch):
    updates = []
    update = Trainer.update
    monkeypatch.setattr(Trainer, "update", lambda self, batch: updates.append(1) or update(self, batch))
    assert command(f"{QUICK} --jobs 1 --keep-checkpoints").code == 0
    once = len(updates)
    assert once >= 6 * 3
    assert command(f"{QUICK} --jobs 1 --keep-checkpoints").code == 0
    assert len(updates) == once
    assert command(f"{QUICK} --jobs 1 --keep-checkpoints --force").code == 0
    assert len(updates) == 2 * once
    assert len(list(Path("out/runs").glob("*/checkpoint.safetensors"))) == 6


def test_pass_rates_are_those_of_the_study(here):
    """Two studies of one directory have two: each command leaves its own."""
    other = QUICK.replace("--seed 0", "--seed 1") if "--seed 0" in QUICK else f"{QUICK} --seed 1"
    found = []
    for line in (QUICK, other, QUICK):
        assert command(f"{line} --jobs 1").code == 0
        found.append(Path("out/pass_rates.parquet").read_bytes())
    assert found[0] == found[2] != found[1]


def test_the_table_says_where_the_model_started(here):
    """How often it was right before training, and about how many prompts it was not of one mind."""
    assert command(f"{QUICK} --jobs 1").code == 0
    rates = pd.read_parquet("out/pass_rates.parquet")
    rates.assign(pass_rate=[0.0, 1.0, 0.5, 0.25] + [0.0] * (len(rates) - 4)).to_parquet(
        "out/pass_rates.parquet"
    )
    said = " ".join(command("show out").out.split())
    correct, mixed = 1.75 / len(rates), 2 / len(rates)
    trials = rates.trials.iloc[0]
    assert (
        f"before training {correct:.0%} of rollouts were correct, and {mixed:.0%} of {len(rates)} prompts "
        f"were right at times in {trials}" in said
    )
    Path("out/pass_rates.parquet").unlink()
    assert "before training" not in command("show out").out
