"""How long training steps of the learning simulator take, and what counts save over single rollouts.

    python -m pytest tests/benchmarks/test_learning_speed.py --benchmark-only

A step is all of it: prompts, allocator, checks, ledger, clock, collectors, gradient and optimizer, but no
evaluation. A round is eight steps, an epoch of the pool of 2,048 prompts.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

import simulators.learning
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import FloatArray
from simulators.learning import Learning, LearningCell
from simulators.scenarios import scenarios

REPLICATES, BATCH = 64, 256
COMPARED = (
    "uniform",
    "vip[predictor=beta]",
    "vip[predictor=sparse_gp]",
    "vip",
    "knapsack",
    "dapo",
    "ar3po",
    "mopps",
)


def cell(scenario: str, allocator: str) -> LearningCell:
    return LearningCell(
        scenario_name=scenario,
        scenario=scenarios.create(scenario),
        allocator_name=allocator,
        allocator=allocators.create(allocator),
        estimator=estimators.create("rloo"),
        aggregation="prompt",
        seed=0,
        block=0,
    )


class Steps:
    """Uniform RLOO by counts, in the middle of a run."""

    def __init__(self, scenario: str) -> None:
        of = cell(scenario, "uniform")
        self.environment: Learning = of.world()[0]
        self.allocator = begin(self.environment, of.allocator)

    def __call__(self) -> FloatArray:
        run_step(self.environment, self.allocator)
        return self.environment.gradient


class RolloutByRollout:
    """The same with a reward and a noise vector for each rollout, and without ledger, clock or collectors.

    Everything is vectorised but the replicates, whose noise does not fit into memory at once; of the
    score (r - p)(phi - kappa theta) + xi, both terms are summed without being written down.
    """

    def __init__(self, scenario: str) -> None:
        self.environment: Learning = cell(scenario, "uniform").world()[0]
        self.conditions = self.environment.scenario
        self.rng = np.random.default_rng(20260201)
        self.memory = self.conditions.optimizer.start(self.environment.policy.theta.shape)
        rollouts = self.conditions.budget.rollouts
        self.xi = np.empty((rollouts, self.conditions.dimension))

    def __call__(self) -> FloatArray:
        policy, conditions = self.environment.policy, self.conditions
        theta, n = policy.theta, conditions.group_size
        difficulty, features = policy.of(self.environment.stream.draw(conditions.prompts))
        p = policy.success(difficulty, features, theta)
        x, noise = np.empty(p.shape), np.empty(theta.shape)
        for r, chances in enumerate(p[:, :, None]):
            rewards = (self.rng.random((conditions.prompts, n)) < chances).astype(float)
            advantages = rewards - (rewards.sum(axis=1, keepdims=True) - rewards) / (n - 1)
            x[r] = (advantages * (rewards - chances)).sum(axis=1)
            self.rng.standard_normal(out=self.xi)
            noise[r] = advantages.ravel() @ self.xi
        signal = (x[:, None, :] @ features)[:, 0] - conditions.kappa * theta * x.sum(axis=1, keepdims=True)
        gradient = (signal + conditions.sigma * noise) / conditions.budget.rollouts
        direction, self.memory = conditions.optimizer.direction(gradient, self.memory)
        policy.theta = theta + self.environment.learning_rate * direction
        return gradient


@pytest.fixture
def replicates(monkeypatch):
    """Sets how many replicates a cell has."""

    def put(number: int) -> None:
        monkeypatch.setattr(simulators.learning, "BLOCK", number)

    return put


def solved(environment: Learning) -> float:
    """Mean success probability of the whole pool."""
    policy = environment.policy
    return policy.success(policy.difficulty, policy.features, policy.theta).mean()


@pytest.mark.parametrize("n", [8, 64, 512])
def test_steps(timed, record, replicates, n):
    """Groups of counts against single rollouts, by turns."""
    replicates(REPLICATES)
    scenario = f"u-shaped-v1[prompts={BATCH},group_size={n}]"
    step = Steps(scenario)
    slow = RolloutByRollout(scenario) if n <= 64 else None
    first = solved(step.environment)
    taken = []

    def rollout_by_rollout() -> None:
        if slow:
            started = time.perf_counter()
            slow()
            taken.append(time.perf_counter() - started)

    timed(f"groups of counts, n={n}", step, rounds=15, before=rollout_by_rollout, calls=8)
    if slow:
        record(f"rollout by rollout, n={n}", statistics.median(taken))
        assert solved(slow.environment) > first
    ledger, totals = step.environment.ledger, step.environment.totals
    assert solved(step.environment) > first
    assert (ledger.trained == totals.groups * n).all()
    assert (ledger.trained == ledger.stages * BATCH * n).all()
    assert (step.environment.seconds > 0).all()


def test_single_rollouts_have_the_same_gradient(replicates):
    """Means and variances over replicates of one batch, within 4 standard errors."""
    replicates(4000)
    scenario = (
        "narrow-mid-v1[prompts=4,group_size=3,pool_size=4,held_out=1,dimension=4,skills=2,kappa=0.3,"
        "noise_ratio=2]"
    )
    gradients = []
    for step in (Steps(scenario), RolloutByRollout(scenario)):
        policy = step.environment.policy
        policy.difficulty[:], policy.features[:] = policy.difficulty[0], policy.features[0]
        policy.theta[:] = 0.3, -0.5, 0.2, 0.4
        gradients.append(step())
    for moment in (lambda g: g, lambda g: (g - g.mean(axis=0)) ** 2, lambda g: g[:, :1] * g[:, 1:]):
        ours, theirs = (moment(g) for g in gradients)
        error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / len(ours))
        assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()


def test_comparison(timed, record):
    """Whole cells, evaluations included, of 16 replicates in a scenario of 100 steps.

    A comparison of 1,000 steps and 32 replicates takes 20 times as long. As there, a cell is followed for
    HORIZON times the steps and beyond.
    """
    seconds, tables = {}, {}

    def run() -> None:
        for name in COMPARED:
            started = time.process_time()
            tables[name] = cell("u-shaped-v1", name).run()
            seconds[name] = time.process_time() - started

    timed("one cell of each allocator", run, rounds=1, warm_up=0)
    for name in COMPARED:
        record(name, 20 * seconds[name])
    record("all eight", 20 * sum(seconds.values()))
    for table in tables.values():
        accuracy = table.groupby("steps").accuracy.mean()
        assert accuracy[100] > accuracy[0] + 0.05
