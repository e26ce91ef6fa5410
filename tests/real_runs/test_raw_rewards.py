"""Raw rewards: what estimators see, what allocators see, and that 0 and 1 are the same by either way."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import run as command
from paid import paid
from real_fakes import CoinEngine, Coins, CoinVerifier, real_run
from scipy import special

from real_runs.rewards import Rewards
from real_runs.settings import RealScenario
from real_runs.tasks import tasks
from real_runs.training import TrainingCell
from rolloutbench.allocators import allocators
from rolloutbench.coach import Coach
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, Groups, InputError, Request, Reuse
from rolloutbench.rewards import deviations, judge
from rolloutbench.score_bank import read_bank

pytestmark = pytest.mark.torch

TASK = "sorting[shortest=1,longest=2,pool_size=60,held_out=16]"
POOL = 24


class TwoNames:
    """A task of two rewards whose responses have at most 10 tokens."""

    reward_names = ("score", "format")
    threshold = 0.75
    max_new_tokens = 10


RAW = np.array([[1.0, 0.0], [0.5, 1.0], [0.75, 1.0], [0.0, np.nan], [np.nan, 1.0]])
LENGTHS = np.array([10, 8, 6, 1, 1])


@pytest.mark.parametrize(
    ("how", "rewards", "success"),
    [
        ({}, [1, 0, 1, 0, np.nan], [1, 0, 1, 0, 0]),
        ({"weights": (("score", 1.0),)}, [1, 0.5, 0.75, 0, np.nan], [1, 0, 1, 0, 0]),
        (
            {"weights": (("score", 1.0), ("format", 0.5))},
            [1, 1, 1.25, np.nan, np.nan],
            [1, 0, 1, 0, 0],
        ),
        ({"threshold": 0.4}, [1, 1, 1, 0, np.nan], [1, 1, 1, 0, 0]),
        ({"threshold": 0.5}, [1, 0, 1, 0, np.nan], [1, 0, 1, 0, 0]),
        (
            {"weights": (("score", 1.0), ("format", 0.5)), "threshold": 1.1},
            [1, 1, 1.25, np.nan, np.nan],
            [0, 0, 1, 0, 0],
        ),
        ({"success": "format"}, [0, 1, 1, np.nan, 1], [0, 1, 1, 0, 1]),
        (
            {"success": "format", "weights": (("score", 2.0),)},
            [2, 1, 1.5, np.nan, np.nan],
            [0, 1, 1, 0, 0],
        ),
        ({"overlong_buffer": 4}, [1 - 1, 0 - 0.5, 1, 0, np.nan], [1, 0, 1, 0, 0]),
        (
            {"overlong_buffer": 10, "overlong_penalty": 0.5, "threshold": 0.4},
            [0.5, 0.6, 0.7, -0.05, np.nan],
            [1, 1, 1, 0, 0],
        ),
    ],
)
def test_what_raw_rewards_are_worth(how, rewards, success):
    """The task's own rule is its threshold, reached; another one is that of a coach, above."""
    judged = Rewards(**how).judge(TwoNames(), RAW, LENGTHS, "mask")
    np.testing.assert_allclose(judged.rewards, rewards)
    np.testing.assert_array_equal(judged.success, np.array(success, bool))
    np.testing.assert_array_equal(judged.unverified, np.isnan(judged.rewards))
    zeros = Rewards(**how).judge(TwoNames(), RAW, LENGTHS, "zero")
    np.testing.assert_allclose(zeros.rewards, np.nan_to_num(rewards))
    assert not zeros.lost.any()
    dropped = Rewards(**how).judge(TwoNames(), RAW, LENGTHS, "drop")
    np.testing.assert_array_equal(dropped.lost, judged.unverified)


def test_the_length_penalty_is_dapos():
    """Section 3.4 of the paper: 16,384 tokens expected and 4,096 more as the cache; -1 at 20,480."""

    class Long(TwoNames):
        reward_names = ("score",)
        max_new_tokens = 20_480

    rewards = Rewards((("score", 1.0),), overlong_buffer=4096)
    lengths = np.array([1, 16_384, 16_385, 18_432, 20_480])
    judged = rewards.judge(Long(), np.ones(5), lengths)
    np.testing.assert_allclose(judged.rewards, [1, 1, 1 - 1 / 4096, 0.5, 0])
    assert judged.success.all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"weights": (("scor", 1.0),)}, "no reward 'scor': did you mean score"),
        ({"success": "right"}, "no reward .right.: known: format, score"),
        ({"overlong_buffer": 11}, "overlong_buffer=11: at most the 10 tokens"),
    ],
)
def test_names_and_buffer_must_fit_the_task(how, message):
    with pytest.raises(InputError, match=message):
        Rewards(**how).check(TwoNames())


def test_a_verifier_must_give_what_its_task_names():
    with pytest.raises(ValueError, match="gives 1 rewards of a response, and the task names score, format"):
        Rewards().judge(TwoNames(), RAW[:, 0], LENGTHS)


def test_deviations_are_those_of_the_groups():
    rewards, column = np.array([0.1, 0.7, 0.1, 0.3, 0.3]), np.array([2, 2, 2, 0, 0])
    found = deviations(rewards, column, 4)
    np.testing.assert_allclose(found, [0, 0, np.std([0.1, 0.7, 0.1]), 0])
    assert found[0] == 0


# Runs


class Partial(CoinVerifier):
    """A response of token 1 scores 0.5 to 1, another 0 to 0.4, by how many were scored before it."""

    scored = 0

    def score(self, problems, responses):
        right = super().score(problems, responses)
        places = self.scored + np.arange(len(right))
        self.scored += len(right)
        return np.where(right > 0, 0.5 + (places % 5) / 8, (places % 5) / 10)


def partial_coins(spec, estimator="grpo", **rewards):
    """A run of coins with partial credit, and its allocator, which succeeds with token 1."""
    allocator = allocators.create(spec)
    rng = np.random.default_rng(0)
    network = Coins(special.logit(rng.beta(0.5, 0.7, POOL).clip(0.01, 0.99)))
    run = real_run(
        network,
        CoinEngine(network, rng),
        Partial(),
        [[2 + q] for q in range(POOL)],
        estimators.create(estimator),
        "prompt",
        Budget(8, 64),
        allocator.reusable,
        gradient_norm=None,
        learning_rate=0.05,
        warmup_steps=0,
    )
    run.rewards = Rewards((("score", 1.0),), threshold=0.45, **rewards)
    return run, begin(run, allocator)


@pytest.mark.parametrize("estimator", ["reinforce", "dr_grpo", "rloo", "grpo"])
def test_estimators_see_the_reward_and_allocators_the_success(estimator):
    """Against a coach that is told the same; the sum of rewards and the groups' deviations are recorded."""
    run, allocator = partial_coins("uniform", estimator)
    batches, made = [], run.batch
    run.batch = lambda groups: batches.append(made(groups)) or batches[-1]
    run_step(run, allocator)
    (batch,) = batches
    rollouts = batch.rollouts
    assert (rollouts.successes == rollouts.tokens[:, 0]).all()
    assert len(np.unique(rollouts.rewards)) > 4
    assert run.ledger.step_merged is None or run.ledger.generated[0] == 64
    total = 0.0
    for q in np.unique(rollouts.prompts):
        rows = np.flatnonzero(rollouts.prompts == q)
        coach = Coach("uniform", prompts=1, rollouts=8, pool_size=1, estimator=estimator, threshold=0.45)
        coach.ask()
        coach.tell(rollouts.rewards[rows], rows.tolist())
        told = coach.batch()
        np.testing.assert_array_equal(batch.advantages[told.rollouts], told.advantages)
        total += np.std(rollouts.rewards[rows])
    columns = run.columns()
    assert columns["rewarded"][0] == pytest.approx(rollouts.rewards.sum())
    assert columns["deviation"][0] == pytest.approx(total)
    assert columns["effective"][0] == 8
    assert columns["solved"][0] == sum(
        rollouts.successes[rollouts.prompts == q].all() for q in np.unique(rollouts.prompts)
    )


@pytest.mark.parametrize("option", ["I", "II", "replay"])
def test_stored_successes_join_with_their_own_reward(option):
    run, _ = partial_coins("ar3po", "dr_grpo")
    run._held._reusable = 1
    theta = run.model.network.theta.detach()
    theta[0] = 50.0
    outcomes = paid(run, Request(np.array([[0]]), np.array([[3]])))
    stored = run._rollouts.rewards[2]
    run.ledger.use(Groups.all_of(outcomes))
    run.update(Groups.all_of(outcomes))
    theta[0] = -50.0
    outcomes = paid(run, Request(np.array([[0]]), np.array([[3]])))
    assert outcomes.successes.tolist() == [[0]]
    reused = Reuse(np.array([[1]]), np.array([[1]]), option)
    fresh = run._rollouts.rewards[run._rollouts.steps == 1]
    groups = Groups(outcomes.prompts, outcomes.successes, outcomes.counts, np.ones((1, 1)), reused=reused)
    batch = run.batch(groups)
    mean = np.mean([*fresh, stored])
    expected = [*(fresh - mean), *([] if option == "II" else [stored - mean])]
    np.testing.assert_allclose(batch.advantages, expected)
    np.testing.assert_allclose(batch.deviations, [np.std([*fresh, stored])])


def cell(cache, spec, rewards, task=TASK, **how):
    scenario = RealScenario(
        task=task,
        model="tiny[width=32,warmup_steps=100]",
        prompts=8,
        group_size=4,
        steps=4,
        evaluate_every=2,
        initial_rollouts=8,
        trainer="ppo[learning_rate=1e-3,warmup_steps=2]",
        probe=8,
        rewards=rewards,
    )
    made = allocators.create(spec)
    chosen = {"estimator": "grpo", "aggregation": "rollout"} | how
    return TrainingCell(
        task,
        scenario,
        spec,
        made,
        estimators.create(chosen["estimator"]),
        chosen["aggregation"],
        0,
        0,
        cache=cache,
    )


@pytest.fixture(scope="session")
def raw_cache(tmp_path_factory):
    """One warm-up for all runs of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    ("spec", "how"),
    [
        ("uniform", {}),
        ("dapo[carry=true]", {"estimator": "dr_grpo", "aggregation": "token"}),
        ("ar3po[reuse=II]", {"estimator": "rloo", "aggregation": "prompt"}),
        ("ar3po[reuse=replay]", {"aggregation": "prompt"}),
        ("pooled_baseline", {"estimator": "reinforce"}),
    ],
)
def test_zeros_and_ones_are_the_same_to_the_bit(raw_cache, spec, how):
    """As raw rewards, or as verdicts by a threshold or a name."""
    plain = cell(raw_cache, spec, Rewards(), **how).run()
    ways = Rewards((("score", 1.0),)), Rewards((("score", 1.0),), "score"), Rewards(threshold=0.9)
    names = [name for name in plain if not name.startswith("seconds")]
    for rewards in ways[: 3 if spec == "uniform" else 1]:
        raw = cell(raw_cache, spec, rewards, **how).run()
        pd.testing.assert_frame_equal(raw[names], plain[names], check_exact=True)
    assert plain["trained"].iloc[-1] > 0


def test_held_out_prompts_have_a_mean_reward(raw_cache):
    """Twice the success where the only reward weighs two; the penalty comes off; else it is not recorded."""
    assert "reward" not in cell(raw_cache, "uniform", Rewards()).run()
    doubled = cell(raw_cache, "uniform", Rewards((("score", 2.0),))).run()
    np.testing.assert_allclose(doubled["reward"], 2 * doubled["accuracy"])
    assert doubled["reward"].gt(0).all()
    penalised = cell(raw_cache, "uniform", Rewards(overlong_buffer=3, overlong_penalty=0.5)).run()
    assert (penalised["reward"] < penalised["accuracy"]).all()


def test_a_length_penalty_changes_what_is_learned_and_not_what_succeeds(raw_cache):
    plain = cell(raw_cache, "uniform", Rewards()).run()
    penalised = cell(raw_cache, "uniform", Rewards(overlong_buffer=3, overlong_penalty=0.5)).run()
    assert penalised["accuracy"].iloc[0] == plain["accuracy"].iloc[0]
    assert penalised["rewarded"].iloc[1] < plain["rewarded"].iloc[1]
    assert penalised["accuracy"].iloc[-1] != plain["accuracy"].iloc[-1]


PARTIAL = "sorting[shortest=2,longest=3,pool_size=40,held_out=12,partial=true]"
SMALL = (
    f'train -a vip --task "{PARTIAL}" --model "tiny[width=32,warmup_steps=60]" --prompts 4 --group-size 4 '
    "--steps 2 --evaluate-every 2 --initial-rollouts 8 --seeds 2 --device cpu --jobs 1"
)


def test_train_with_partial_credit(tmp_path, monkeypatch):
    """Mean reward is that of the rewards; the conditions name them; `show` reads it all again."""
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "study"
    done = command(f"{SMALL} --reward score --threshold 0.6 --overlong-buffer 2 --out {out} --json")
    assert done.code == 0, done.err
    manifest = json.loads((out / "manifest.json").read_text())
    config = manifest["study"]["config"]
    assert config["rewards"] == ["score"]
    assert (config["threshold"], config["overlong_buffer"]) == (0.6, 2)
    assert "rewards 1 score, success the reward above 0.6, 1 off over the last 2 tokens" in done.out
    curves = pd.read_parquet(out / "curves.parquet")
    rewarded = curves["rewarded"][curves.rollouts > 0]
    assert (rewarded % 1 > 0).any()
    summary = pd.read_csv(out / "summary.csv")
    means = summary[summary.metric == "reward"].estimate
    assert len(means) == 2
    assert means.between(-1, 0, inclusive="neither").all()  # the penalty takes off more than is earned
    assert command(f"show {out}").code == 0
    again = command(f"train {out}/study.toml --out {tmp_path / 'again'} --jobs 1")
    assert again.code == 0, again.err
    mine, other = (pd.read_parquet(tmp_path / name / "curves.parquet") for name in ("study", "again"))
    kept = [name for name in mine if not name.startswith("seconds")]
    pd.testing.assert_frame_equal(mine[kept], other[kept], check_exact=True)


def test_a_score_bank_has_both(tmp_path, monkeypatch):
    """What the verifier said, and which rollouts succeeded by the rule of the study."""
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path / "cache"))
    study = tmp_path / "study.toml"
    study.write_text(
        f'study = "train"\ntask = "{PARTIAL}"\nmodel = "tiny[width=32,warmup_steps=60]"\nprompts = 4\n'
        'group_size = 4\ninitial_rollouts = 8\ndevice = "cpu"\nrewards = ["score=3"]\nsuccess = "score"\n'
    )
    done = command(f"record {study} --pool 12 --rollouts 8 --dimensions 64 --out {tmp_path / 'bank'}")
    assert done.code == 0, done.err
    bank = read_bank(tmp_path / "bank")
    assert {0.0, 0.5} < set(bank.raw.tolist())
    assert bank.raw.max() <= 1
    np.testing.assert_array_equal(bank.rewards, bank.raw > 0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--reward scores", "--reward: no reward 'scores': did you mean score"),
        ("--reward score=x", "--reward: 'score=x': NAME or NAME=WEIGHT is expected"),
        ("--reward score --reward score=2", "--reward: 'score' is given twice"),
        ("--success right", "--success: no reward 'right'"),
        ("--threshold nan", "--threshold"),
        ("--overlong-buffer 9", "--overlong-buffer: overlong_buffer=9: at most the 4 tokens"),
    ],
)
def test_wrong_options(tmp_path, options, said):
    done = command(f"{SMALL} {options} --out {tmp_path / 'out'}")
    assert done.code != 0
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_several_named_rewards_of_a_real_task():
    task = tasks.create("reasoning_gym[dataset=spell_backward,pool_size=4,held_out=2,workers=1]")
    rewards = Rewards((("score", 1.0), ("format", 0.25)), "score", 0.99)
    rewards.check(task)
    pool, _ = task.problems(np.random.SeedSequence(0))
    said = [pool[0].answer, f"<answer>{pool[1].answer}</answer>", "<answer></answer>"]
    with task.verifier() as verifier:
        raw = verifier.score(pool[:3], said)
    judged = rewards.judge(task, raw, np.ones(3, int))
    np.testing.assert_allclose(judged.rewards[:2], [1, 1.25])
    assert judged.rewards[2] < 1
    assert judged.success.tolist() == [True, True, False]


def test_the_rule_is_the_coachs():
    """The same verdicts by a coach that is told these rewards, at the threshold too."""
    rewards = np.array([0.2, 0.5, 0.500001, 1.0])
    coach = Coach("uniform", prompts=1, rollouts=4, pool_size=1)
    coach.ask()
    coach.tell(rewards, range(4))
    assert coach.ledger.step_outcomes[0].successes.tolist() == [[2]]
    found = replace(Rewards(success="score")).judge(tasks.create("sorting"), rewards, np.ones(4, int))
    assert found.success.tolist() == judge(rewards, rewards, 0.5, "zero").success.tolist() == [0, 0, 1, 1]
