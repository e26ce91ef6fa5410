"""A real run whose policy is a coin for each prompt is the learning simulator with one feature a prompt."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from paid import paid
from real_fakes import CoinEngine, Coins, CoinVerifier, real_run
from scipy import special

from real_runs.environment import RealRun
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators, prompt_shares, realised
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, Request
from simulators.learning import Learning, Policy
from simulators.optimizers import SGD
from simulators.scenarios import scenarios

pytestmark = pytest.mark.torch

POOL = 24


class Watched(RealRun):
    """Remembers what every update began with, and the gradient that it took."""

    def update(self, groups):
        theta = self.trainer.model.network.theta
        before, stages = theta.detach().numpy().astype(float), list(self.ledger.step_outcomes)
        measured = super().update(groups)
        self.seen = [*getattr(self, "seen", []), (before, stages, groups, -theta.grad.numpy())]
        return measured


def coins(spec="uniform", estimator="rloo", aggregation="prompt", seed=0, **trainer):
    allocator = allocators.create(spec)
    rng = np.random.default_rng(seed)
    network = Coins(special.logit(rng.beta(0.5, 0.7, POOL).clip(0.01, 0.99)))
    run = real_run(
        network,
        CoinEngine(network, rng),
        CoinVerifier(),
        [[2 + q] for q in range(POOL)],
        estimators.create(estimator),
        aggregation,
        Budget(8, 64),
        allocator.reusable,
        Watched,
        gradient_norm=None,
        **{"learning_rate": 0.05, "warmup_steps": 0, **trainer},
    )
    run.probed = []
    run.setting = dataclasses.replace(
        run.setting, success_probability=lambda q: run.probed.append(q.size) or run.pass_rates(q, 32)
    )
    return run, begin(run, allocator)


def simulator(run):
    """The same prompts in the learning simulator: theta is p's logit itself, no noise, no ceiling."""
    scenario = dataclasses.replace(
        scenarios.create("u-shaped-v1"), noise_ratio=0.0, kappa=0.0, clip=None, optimizer=SGD()
    )
    policy = Policy(np.zeros((1, POOL)), np.eye(POOL)[None], 0.0)
    rng = np.random.default_rng(0)
    return Learning(run.setting, run.stream, policy, scenario, 1.0, rng, rng)


@pytest.mark.parametrize("aggregation", ["prompt", "rollout", "token"])
@pytest.mark.parametrize(
    "spec",
    [
        "uniform",
        "dapo[carry=true]",
        "ar3po[reuse=none]",
        "ar3po[reuse=I]",
        "ar3po[reuse=II]",
        "ar3po[reuse=replay]",
        "pilot_commit",
        "vip[predictor=beta]",
        "weighted_uniform[of=vip[predictor=beta]]",
        "reinforce_ada",
    ],
)
def test_updates_are_those_of_the_learning_simulator(spec, aggregation):
    """With responses of one token a mean over tokens is one over rollouts."""
    run, allocator = coins(spec, "grpo" if spec == "uniform" else "rloo", aggregation)
    for _ in range(6):
        run_step(run, allocator)
    twin = simulator(run)
    largest, reused = 0.0, 0
    for before, stages, groups, gradient in run.seen:
        twin.ledger.open_step()
        twin.policy.theta = before[None]
        for outcomes in stages:
            twin.ledger.record(outcomes)
        twin.ledger.use(groups)
        expected = twin.update(groups)["gradient"][0]
        if aggregation == "token":  # of what is trained on, which stored successes of option II are not
            silent = groups.reused is not None and groups.reused.option == "II"
            tokens = groups.counts.sum() if silent else groups.sizes.sum()
            expected = expected * groups.sizes.sum() / tokens
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        largest = max(largest, np.abs(expected).max())
        if groups.reused is not None:
            reused += groups.reused.counts.sum()
        if groups.reused is None or groups.reused.option != "replay":
            p = special.expit(before)[groups.prompts]
            x = realised(run.setting.estimator, groups, p)[0] * prompt_shares(run.setting.aggregation, groups)
            by_formula = np.bincount(groups.prompts[0].clip(0), (x * (groups.prompts >= 0))[0], POOL)
            if aggregation == "token":
                by_formula = by_formula * groups.sizes.sum() / tokens
            np.testing.assert_allclose(gradient, by_formula, atol=1e-6)
    assert largest > 0.01
    assert (reused > 0) == ("reuse=" in spec and "none" not in spec)
    mine, theirs = run.totals.columns(run.ledger), twin.totals.columns(twin.ledger)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert mine[name].tolist() == theirs[name].tolist(), name


@pytest.mark.parametrize("spec", ["dapo", "ar3po", "vip[predictor=oracle]", "pilot_commit"])
def test_every_rollout_of_a_step_is_on_the_bill_and_no_other(spec):
    run, allocator = coins(spec)
    for _ in range(5):
        run_step(run, allocator)
    assert run.engine.tossed == run.ledger.generated[0] + 32 * sum(run.probed)
    assert (sum(run.probed) > 0) == ("oracle" in spec)
    assert run.tokens == run.ledger.generated[0]
    assert run.columns()["rollouts"].tolist() == run.ledger.generated.tolist()


def test_measurements_change_nothing_but_the_random_numbers():
    run, allocator = coins()
    run_step(run, allocator)
    run.columns()  # counts are those since the last call
    before = run.columns()
    found = run.pass_rates(np.array([[3, 3, -1, 5]]), 400)
    after = run.columns()
    assert [name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)] == []
    assert run.unpaid > 0
    p = special.expit(run.model.network.theta.detach().numpy())
    np.testing.assert_allclose(found[0, [0, 1, 3]], p[[3, 3, 5]], atol=0.12)
    assert run._rollouts.prompts.tolist() == []


def test_requests_with_holes_and_repeats():
    """-1 and counts of 0 ask for nothing; a prompt may stand in two columns."""
    run, _ = coins()
    outcomes = paid(run, Request(np.array([[4, -1, 7, 4, 9]]), np.array([[3, 0, 0, 2, 40]])))
    held = run._rollouts
    assert np.bincount(held.prompts, minlength=10)[[4, 7, 9]].tolist() == [5, 0, 40]
    for prompt in (4, 9):
        asked = outcomes.prompts[0] == prompt
        assert outcomes.successes[0][asked].sum() == held.successes[held.prompts == prompt].sum()
    assert outcomes.successes[0, 0] == held.successes[:3].sum()
    nothing = paid(run, Request(np.array([[4, 5]]), np.array([[0, 0]])))
    assert nothing.successes.tolist() == [[0, 0]]


class Failing(CoinVerifier):
    """Says nothing of every other response."""

    def score(self, problems, responses):
        raw = super().score(problems, responses)
        raw[::2] = np.nan
        return raw


@pytest.mark.parametrize("aggregation", ["prompt", "rollout", "token"])
@pytest.mark.parametrize("no_verdict", ["drop", "zero", "mask"])
def test_a_verifier_that_fails(no_verdict, aggregation):
    """Gradients by hand from the verdicts; every response is on the bill, whatever becomes of it."""
    run, allocator = coins("uniform", "dr_grpo", aggregation, no_verdict=no_verdict)
    run.verifier = Failing()
    batches, made = [], run.batch
    run.batch = lambda groups: batches.append(made(groups)) or batches[-1]
    seen = []
    sample = run.sample
    run.sample = lambda *asked: seen.append(sample(*asked)) or seen[-1]
    run_step(run, allocator)
    assert run.unverified == run.columns()["unverified"][0] == 32
    assert run.ledger.generated[0] == 64
    assert run.ledger.discarded.get("lost", np.zeros(1))[0] == (32 if no_verdict == "drop" else 0)
    rollouts, by_hand = seen[0][0], np.zeros(POOL)
    before = run.seen[0][0]
    rows = np.arange(len(rollouts))
    verified = rows % 2 == 1
    assert (np.isnan(rollouts.rewards) == (~verified & (no_verdict == "mask"))).all()
    members = verified if no_verdict == "drop" else rows >= 0
    for q in np.unique(rollouts.prompts):
        group = np.flatnonzero((rollouts.prompts == q) & members)
        reward = rollouts.tokens[group, 0] * verified[group]
        advantage = reward - reward.mean()
        if no_verdict == "mask":
            advantage = advantage * verified[group]
        share = 1 / (8 * len(group)) if aggregation == "prompt" else 1 / members.sum()
        score = rollouts.tokens[group, 0] - special.expit(before[q])
        by_hand[q] = share * (advantage * score).sum()
    np.testing.assert_allclose(run.seen[0][3], by_hand, atol=1e-7)
    assert np.abs(by_hand).max() > 0


def test_responses_that_did_not_end_may_count_as_lost():
    run, allocator = coins(unfinished="lost", no_verdict="drop")
    generate = run.engine.generate

    def cut(prompts, counts):
        sampled = generate(prompts, counts)
        return dataclasses.replace(sampled, finished=np.arange(len(sampled.source)) % 4 > 0)

    run.engine.generate = cut
    run_step(run, allocator)
    assert run.ledger.discarded["lost"][0] == run.unverified == 16
    assert run.ledger.trained[0] == 48


def test_resumed_in_between():
    spec = "dapo[carry=true]"
    whole, driven = coins(spec)
    for step in range(6):
        if step == 3:
            rng = whole.engine.rng.bit_generator.state
            saved, known = whole.state_dict(), driven.state_dict()
            other, resumed = coins(spec, seed=9)
            other.load_state_dict(copy.deepcopy(saved))
            resumed.load_state_dict(copy.deepcopy(known))
            other.engine.rng.bit_generator.state = rng
        run_step(whole, driven)
    for _ in range(3):
        run_step(other, resumed)
    assert np.array_equal(
        whole.model.network.theta.detach().numpy(), other.model.network.theta.detach().numpy()
    )
    mine, theirs = whole.columns(), other.columns()
    for name in mine:
        if not name.startswith("seconds"):
            assert np.array_equal(mine[name], theirs[name], equal_nan=True), name
