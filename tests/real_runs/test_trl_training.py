"""Runs that TRL makes: the update is our own trainer's, a stopped run goes on as if nothing had happened."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import run as command

pytest.importorskip("trl")

from real_runs.models import LanguageModel
from real_runs.rewards import Rewards
from real_runs.rollouts import Rollouts
from real_runs.settings import PPO, RealScenario
from real_runs.trainer import Batch, Trainer
from real_runs.training import TrainingCell, start
from real_runs.trl_training import TRLRun, _Trainer
from rolloutbench.allocators import allocators
from rolloutbench.coach import Coach
from rolloutbench.estimators import estimators

pytestmark = [pytest.mark.slow, pytest.mark.torch]

TASK = "sorting[shortest=1,longest=3,pool_size=60,held_out=16]"
PARTIAL = TASK.replace("]", ",partial=true]")
MODEL = "tiny[width=32,warmup_steps=100]"
SETTINGS = {"learning_rate": 1e-3, "warmup_steps": 2, "gradient_norm": 0.05}


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One warm-up for all."""
    return tmp_path_factory.mktemp("cache")


def cell(
    cache, runs=None, allocator="uniform", aggregation="prompt", steps=6, epochs=1, rewards=None, **changes
):
    settings = ",".join(f"{name}={value}" for name, value in {**SETTINGS, "epochs": epochs}.items())
    scenario = RealScenario(
        task=TASK if rewards is None else PARTIAL,
        rewards=Rewards() if rewards is None else rewards,
        model=MODEL,
        prompts=8,
        group_size=4,
        steps=steps,
        evaluate_every=2,
        initial_rollouts=8,
        trainer=f"trl[{settings}]",
    )
    made = allocators.create(allocator)
    how = {"cache": cache, "runs": runs, "checkpoint_every": 1, **changes}
    return TrainingCell(TASK, scenario, allocator, made, estimators.create("rloo"), aggregation, 0, 0, **how)


def same(one, other):
    """All but what is measured of this machine, to the bit."""
    names = [name for name in one if not name.startswith("seconds")]
    assert list(one) == list(other)
    pd.testing.assert_frame_equal(one[names], other[names], check_exact=True)


def watched(monkeypatch):
    """Every batch that TRL trains on, with its rollouts."""
    seen = []
    inner = _Trainer._train_on

    def outer(trainer, batch):
        seen.append((batch, [trainer._rollouts[key] for key in batch.rollouts]))
        return inner(trainer, batch)

    monkeypatch.setattr(_Trainer, "_train_on", outer)
    return seen


@pytest.mark.parametrize("aggregation", ["prompt", "rollout", "token"])
def test_the_update_is_that_of_our_own_trainer(cache, monkeypatch, aggregation):
    """The same rollouts, with the same advantages: AR3PO's groups have 1 to 8 of them."""
    seen = watched(monkeypatch)
    one = cell(cache, None, "ar3po[stages=4,per_stage=2]", aggregation, steps=1)
    monkeypatch.setattr(TrainingCell, "has_ended", lambda cell, step, generated: step >= 2)
    with start(one) as run:
        before = {name: value.clone() for name, value in run.prepared.model.network.state_dict().items()}
        run.follow()
        trained = run.prepared.model.network.state_dict()
        prompts = run.prepared.train.prompts
        model = run.prepared.model
        after = {name: value.clone() for name, value in trained.items()}
        model.network.load_state_dict(before)
        own = own_trainer(model)
        for step, (batch, rows) in enumerate(seen):
            lengths = np.array([len(row.ids) for row in rows])
            shares = batch.shares(aggregation, lengths)
            own.update(as_batch(batch, rows, prompts, shares, lengths, step))
        moved = max(float((after[name] - before[name]).abs().max()) for name in before)
        apart = max(float((model.network.state_dict()[name] - after[name]).abs().max()) for name in before)
    assert len(set(np.bincount(seen[0][0].group))) > 1
    assert moved > 5e-4
    assert apart < 2e-6


def test_estimators_see_raw_rewards_and_allocators_successes(cache, monkeypatch):
    """Digits in place are partial credit, less a penalty for length; a success has all of them."""
    seen, told, inner = watched(monkeypatch), [], Coach.tell
    monkeypatch.setattr(TrainingCell, "has_ended", lambda cell, step, generated: step >= 2)

    def tell(coach, rewards, rollouts, **verdict):
        told.extend(zip(rewards, verdict["success"], strict=True))
        return inner(coach, rewards, rollouts, **verdict)

    monkeypatch.setattr(Coach, "tell", tell)
    rule = Rewards((("score", 2.0),), "score", 0.99, overlong_buffer=2, overlong_penalty=0.5)
    with start(cell(cache, None, "uniform", steps=1, rewards=rule)) as run:
        run.follow()
        problems, decode = run.prepared.train.problems, run.prepared.model.decode
        for batch, rows in seen:
            raw = np.array(
                [
                    run.verifier.score([problems[q]], [decode(row.ids)])[0]
                    for q, row in zip(batch.prompts, rows, strict=True)
                ]
            )
            lengths = np.array([len(row.ids) for row in rows])
            judged = rule.judge(run.cell.scenario.task, raw, lengths)
            np.testing.assert_allclose(batch.rewards, judged.rewards, rtol=1e-6)
            assert len(set(np.round(batch.rewards, 6))) > 3
            for one in np.unique(batch.group):
                rewards = judged.rewards[batch.group == one]
                others = (rewards.sum() - rewards) / (len(rewards) - 1)
                np.testing.assert_allclose(batch.advantages[batch.group == one], rewards - others, atol=1e-6)
    rewards, successes = np.array(told).T
    assert set(successes) == {0.0, 1.0}
    assert rewards[successes == 1].min() >= 1.5  # 2 for all digits, at most .5 off for length
    assert np.mean((rewards > 0) & (successes == 0)) > 0  # partial credit that is no success


def own_trainer(model: LanguageModel):
    model.network.forward = type(model.network).forward.__get__(model.network)  # as before TRL changed it
    return Trainer(model, PPO(**SETTINGS), 1.0, exact=True)


def as_batch(batch, rows, prompts, shares, lengths, step):
    tokens = np.zeros((len(rows), lengths.max()), np.int32)
    for place, row in enumerate(rows):
        tokens[place, : len(row.ids)] = row.ids
    rewards = np.nan_to_num(batch.rewards).astype(np.int64)
    steps = np.full(len(rows), step)
    logprobs, told = np.zeros(tokens.shape, np.float32), batch.rewards
    rollouts = Rollouts(batch.prompts, tokens, lengths, logprobs, rewards, told, told, steps)
    of = [prompts[q] for q in batch.prompts]
    return Batch(rollouts, of, batch.advantages, shares, np.zeros(len(rows), bool))


class Killed(Exception):
    """What stops a run."""


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        ("vip[predictor=beta]", {}),
        ("dapo[carry=true]", {"checkpoint_every": 2}),
        ("ar3po", {"epochs": 2, "aggregation": "token"}),
    ],
)
def test_stopped_and_resumed(tmp_path, cache, monkeypatch, spec, changes):
    calm = cell(cache, None, spec, **changes).run()
    disturbed = cell(cache, tmp_path / "runs", spec, **changes)
    real, calls = TRLRun.end_step, []

    def stopped(run):
        calls.append(run.step)
        if len(calls) in (3, 6):
            raise Killed
        real(run)

    monkeypatch.setattr(TRLRun, "end_step", stopped)
    for _ in range(2):
        with pytest.raises(Killed):
            disturbed.run()
    same(disturbed.run(), calm)
    assert calls[3] > 0, "it began again from nothing"
    same(disturbed.run(), calm)  # stopped after its end, before its table was stored
    disturbed.forget()
    assert not (tmp_path / "runs").exists()


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, cache):
    short = cell(cache, tmp_path / "runs", steps=3)
    short.run()
    longer = replace(short, scenario=replace(short.scenario, steps=6))
    assert longer.directory == short.directory
    same(longer.run(), cell(cache, None, steps=6).run())


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path, cache):
    calm = cell(cache, None, steps=2).run()
    disturbed = cell(cache, tmp_path / "runs", steps=2)
    disturbed.run()
    kept = sorted((disturbed.directory / "trl").glob("checkpoint-*"))
    (kept[-1] / "run.safetensors").write_bytes(b"half")
    same(disturbed.run(), calm)


def test_a_study_through_the_command_line(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(cache))
    given = (
        f"train --task {TASK} --model {MODEL} --trainer trl[learning_rate=1e-3] --prompts 8 --group-size 4"
    )
    given += " --steps 2 --evaluate-every 2 --initial-rollouts 8 --seeds 2 --device cpu"
    done = command(f"{given} -a vip[predictor=beta] --out {tmp_path / 'trl'}")
    assert done.code in (0, None), done.err
    curves = pd.read_parquet(tmp_path / "trl" / "curves.parquet")
    assert set(curves.allocator) == {"(reference)", "uniform", "vip[predictor=beta]"}
    assert (curves[curves.steps == 2].rollouts == 64).all()
    last = curves[curves.steps == curves.steps.max()]
    spent = last[["seconds_generation", "seconds_verification", "seconds_allocation", "seconds_update"]]
    assert last.seconds.to_numpy() == pytest.approx(spent.sum(axis=1).to_numpy())
    assert (last.trained == last.rollouts).all()
    config = json.loads((tmp_path / "trl" / "manifest.json").read_text())["study"]["config"]
    assert config["trainer"] == "trl[learning_rate=1e-3]"
    assert math.isfinite(last["counts@0.325"].iloc[0]) or last.filter(like="counts@").notna().any(axis=None)
