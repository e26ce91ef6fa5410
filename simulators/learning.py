"""A policy that learns: accuracy on held-out prompts against everything that was generated for it.

The policy is a vector theta in R^d. It solves prompt q with probability

    p_q = sigmoid(b_q + phi_q . theta - (kappa/2) |theta|^2),

where b is the prompt's difficulty, phi its unit feature vector, and kappa a ceiling: without it larger
steps would always win and the noise of the gradient would not matter. A rollout's score is
z = (c - p)(phi - kappa theta) + xi, where c says whether it is correct and xi ~ N(0, sigma^2 I) has
nothing to do with the reward; noise_ratio is d sigma^2. Rewards are binary, so the gradient of a step
needs only (n, k) of each group,

    g = sum_i share_i x_i (phi_i - kappa theta) + N(0, sigma^2 sum_i share_i^2 noise_i I),

with x and noise from rolloutbench/estimators.py: the cost of a step does not grow with the number of
rollouts, and one Gaussian vector is the noise of all of them.

A verifier may err: it accepts a wrong answer with probability `false_positive` and refuses a right one
with `false_negative`. Advantages then follow its rewards, scores the truth. Rollouts stored in earlier
steps are scored under the current policy, with fresh xi; under AR3PO's `replay` with their importance
ratio, (p / p_then) exp(xi . dtheta - sigma^2 |dtheta|^2 / 2), which is cut as PPO cuts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import pandas as pd
from scipy import special

from rolloutbench.allocators.uniform import Uniform
from rolloutbench.estimators import group_advantages, prompt_shares
from rolloutbench.loop import begin, run_step
from rolloutbench.metrics import HORIZON, REFERENCE, CountsBySuccess, Totals, accuracy_by_bin
from rolloutbench.protocol import (
    Aggregation,
    Allocator,
    Environment,
    Estimator,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    PromptStream,
    Request,
    Setting,
)
from simulators.clock import Clock
from simulators.optimizers import Optimizer
from simulators.pools import Pool, combine
from simulators.scenarios import LearningScenario

BLOCK = 16
"""Replicates of a cell. Fixed, so that results depend neither on workers nor on how many replicates."""
CLIP_HIGH = 0.28
"""PPO's upper clip as in DAPO: a replayed success whose ratio is beyond it has no gradient."""
PASS_AT = 8
MOST_STEPS = 8
"""A run ends after as many times the scenario's steps, however cheap its steps are."""


class Purpose(IntEnum):
    """What a random stream is for; each purpose of a block has one of its own."""

    POOL = 0
    STREAM = 1
    REWARDS = 2
    ALLOCATOR = 3
    NOISE = 4


@dataclass
class Policy:
    """theta (R, d) on a pool of difficulties b (R, Q) and features phi (R, Q, d), under a ceiling kappa."""

    difficulty: FloatArray
    features: FloatArray
    kappa: float
    theta: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.theta = np.zeros((self.features.shape[0], self.features.shape[2]))

    @classmethod
    def on(cls, pool: Pool, kappa: float) -> Policy:
        """theta = 0, where every prompt has the pool's success probability; 0 and 1 stay what they are."""
        return cls(special.logit(pool.success), pool.features, kappa)

    def success(self, difficulty: FloatArray, features: FloatArray, theta: FloatArray) -> FloatArray:
        """p (R, B) for difficulties (R, B) and features (R, B, d)."""
        logit = (features @ theta[:, :, None])[:, :, 0]
        logit += difficulty
        logit -= self.kappa / 2 * (theta**2).sum(axis=1, keepdims=True)
        return np.asarray(special.expit(logit))

    def of(self, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Difficulties (R, B) and features (R, B, d) of prompts (R, B); whatever for -1."""
        replicates, pool_size = self.difficulty.shape
        flat = np.maximum(prompts, 0) + pool_size * np.arange(replicates)[:, None]
        features: FloatArray = self.features.reshape(-1, self.features.shape[2]).take(flat, axis=0)
        difficulty: FloatArray = self.difficulty.take(flat)
        return difficulty, features

    def gradient(self) -> FloatArray:
        """Of the mean success probability of the whole pool, (R, d)."""
        p = self.success(self.difficulty, self.features, self.theta)
        slope = p * (1 - p) / p.shape[1]
        pulled_back: FloatArray = self.kappa * self.theta * slope.sum(axis=1, keepdims=True)
        return combine(slope, self.features) - pulled_back


class Learning(Environment):
    """Bernoulli prompts and a policy that every update moves."""

    def __init__(
        self,
        setting: Setting,
        stream: PromptStream,
        policy: Policy,
        scenario: LearningScenario,
        learning_rate: float,
        rewards: np.random.Generator,
        noise: np.random.Generator,
    ) -> None:
        super().__init__(setting, stream)
        self.policy = policy
        self.scenario = scenario
        self.learning_rate = learning_rate
        self.seconds, self.tokens = np.zeros((2, setting.replicates))
        self.counts = CountsBySuccess(setting.replicates)
        self.totals = Totals(setting.replicates)
        self.gradient = np.zeros_like(policy.theta)
        self._optimizer: Optimizer = scenario.optimizer
        self._memory = scenario.optimizer.start(policy.theta.shape)
        self._clock: Clock = scenario.clock
        self._rewards, self._noise = rewards, noise
        self._thetas: list[FloatArray] = []
        self._before = self.ledger.generated.copy(), self.ledger.trained.copy()
        self._known: tuple[IntArray, FloatArray, FloatArray, FloatArray] | None = None

    def success(self, prompts: IntArray) -> FloatArray:
        """The chance (R, B) that a rollout of each prompt is correct."""
        return self._look(prompts)[2]

    def reward(self, prompts: IntArray) -> FloatArray:
        """The chance (R, B) that the verifier gives 1."""
        return self._accepted(self.success(prompts))

    def generate(self, request: Request) -> Outcomes:
        """Binomial successes; the clock runs for one stage."""
        p = self.success(request.prompts)
        successes = self._rewards.binomial(request.counts, self._accepted(p))
        seconds, tokens = self._clock.stage(p, request.counts)
        self.seconds += seconds
        self.tokens += tokens
        return Outcomes(request.prompts, request.counts, successes)

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """One step of the optimizer; returns the batch `gradient` (R, d)."""
        scenario, theta = self.scenario, self.policy.theta
        outcomes = self.ledger.step_merged
        if outcomes is not None:
            self.counts.add(self.success(outcomes.prompts), outcomes.counts)
        self.totals.add(groups, outcomes)
        difficulty, features, p = self._look(groups.prompts)
        shares = prompt_shares(self.setting.aggregation, groups)
        x, noise = self._contributions(groups, difficulty, features, p)
        signal = shares * x
        gradient = combine(signal, features) - scenario.kappa * theta * signal.sum(axis=1, keepdims=True)
        scale = np.sqrt((shares**2 * noise).sum(axis=1, keepdims=True)) * scenario.sigma
        gradient += scale * self._noise.standard_normal(theta.shape)
        self.gradient = gradient
        if scenario.clip is not None:
            length = np.sqrt((gradient**2).sum(axis=1, keepdims=True))
            gradient = gradient * np.minimum(1, scenario.clip / np.maximum(length, 1e-300))
        direction, self._memory = self._optimizer.direction(gradient, self._memory)
        self._thetas.append(theta)
        self.policy.theta = theta + self.learning_rate * direction
        self._known = None
        generated, trained = self.ledger.generated, self.ledger.trained
        self.seconds += self._clock.rest(generated - self._before[0], trained - self._before[1])
        self._before = generated.copy(), trained.copy()
        return {"gradient": self.gradient}

    def _look(self, prompts: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Difficulties, features and success probabilities; remembered until the policy moves."""
        if self._known is None or self._known[0] is not prompts:
            difficulty, features = self.policy.of(prompts)
            p = self.policy.success(difficulty, features, self.policy.theta)
            self._known = prompts, difficulty, features, p
        return self._known[1:]

    def _accepted(self, p: FloatArray) -> FloatArray:
        """The chance of reward 1 where the chance of a correct rollout is p."""
        scenario = self.scenario
        if scenario.false_positive == scenario.false_negative == 0:
            return p
        return p * (1 - scenario.false_negative) + (1 - p) * scenario.false_positive

    def _correct(self, groups: Groups, p: FloatArray) -> tuple[FloatArray, FloatArray]:
        """How many of the kept successes and of the kept failures (R, B) are really correct."""
        scenario = self.scenario
        if scenario.false_positive == scenario.false_negative == 0:
            return groups.successes.astype(np.float64), np.zeros(p.shape)
        accepted = self._accepted(p)
        among_accepted = p * (1 - scenario.false_negative) / np.maximum(accepted, 1e-300)
        among_refused = p * scenario.false_negative / np.maximum(1 - accepted, 1e-300)
        return (
            self._rewards.binomial(groups.successes, np.minimum(among_accepted, 1)).astype(np.float64),
            self._rewards.binomial(groups.failures, np.minimum(among_refused, 1)).astype(np.float64),
        )

    def _contributions(
        self, groups: Groups, difficulty: FloatArray, features: FloatArray, p: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """x and noise (R, B) of each group."""
        plus, minus, size = group_advantages(self.setting.estimator, groups)
        k, failed = groups.successes, groups.failures
        accepted, refused = self._correct(groups, p)
        x = plus * (accepted - k * p) + minus * (refused - failed * p)
        noise = k * plus**2 + failed * minus**2
        if groups.reused is not None and groups.reused.option != "II":
            ratio = np.ones(p.shape)
            if groups.reused.option == "replay":
                ratio = self._importance(groups.reused.age, difficulty, features, p)
            pull = groups.reused.counts * plus * ratio
            correct = p * (1 - self.scenario.false_negative) / np.maximum(self._accepted(p), 1e-300)
            x += pull * (correct - p)
            noise += pull * plus * ratio
        return x / size, noise / size**2

    def _importance(
        self, age: IntArray, difficulty: FloatArray, features: FloatArray, p: FloatArray
    ) -> FloatArray:
        """Ratio of a stored success's probability now to that when it was generated; 0 beyond the clip."""
        thetas = np.stack([*self._thetas[-int(age.max(initial=0)) :], self.policy.theta])
        rows = np.arange(len(age))[:, None]
        then = thetas[np.maximum(len(thetas) - 1 - age, 0), rows]  # (R, B, d)
        logit = (features * then).sum(axis=2) + difficulty - self.scenario.kappa / 2 * (then**2).sum(axis=2)
        moved = self.scenario.sigma * np.sqrt(((self.policy.theta[:, None] - then) ** 2).sum(axis=2))
        drift = moved * self._rewards.standard_normal(p.shape) - moved**2 / 2
        ratio = p / np.maximum(special.expit(logit), 1e-300) * np.exp(drift)
        return np.where(ratio > 1 + CLIP_HIGH, 0.0, ratio)


@dataclass(frozen=True)
class LearningCell:
    """One block of replicates of one allocator in one scenario: a pure function of its fields.

    `rate` multiplies the scenario's learning rate. A cell runs until every replicate has made
    `HORIZON` times the scenario's steps, and spent as many times the rollouts, tokens and seconds that
    uniform spends in them. The `reference` run has the same prompts, but random rewards and noise of its
    own.
    """

    scenario_name: str
    scenario: LearningScenario
    allocator_name: str
    allocator: Allocator
    estimator: Estimator
    aggregation: Aggregation
    seed: int
    block: int
    rate: float = 1.0
    reference: bool = False

    @property
    def part(self) -> tuple[str, str]:
        """Scenario and allocator."""
        return self.scenario_name, self.allocator_name

    @property
    def label(self) -> str:
        """Scenario, allocator, learning rate where it is another one, and block."""
        rate = "" if self.rate == 1 else f" at rate x {self.rate:g}"
        return f"{self.scenario_name} {self.allocator_name}{rate} block {self.block}"

    def run(self) -> pd.DataFrame:
        """The curves: one row for each replicate and evaluation, sums since the start. See metrics.py."""
        rows, seconds = self.evaluations()
        columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        keys = {
            "scenario": self.scenario_name,
            "allocator": self.allocator_name,
            "rate": self.rate,
            "replicate": np.tile(self.block * BLOCK + np.arange(BLOCK), len(rows)),
        }
        table = pd.DataFrame({**keys, **columns})
        table.attrs["allocator_seconds_per_step"] = seconds
        return table

    def evaluations(self) -> tuple[list[dict[str, FloatArray]], float]:
        """What is measured before the first step, at every evaluation and at the end, each (BLOCK,).

        And the seconds that the allocator itself took for one step of one replicate.
        """
        scenario = self.scenario
        environment, held_out = self.world()
        allocator = begin(environment, self.allocator)
        spent, enough = 0.0, self._enough(environment)
        initial = environment.policy.success(*held_out, environment.policy.theta)
        rows = [_evaluation(environment, held_out, initial, None, 0)]
        for step in range(1, scenario.steps * MOST_STEPS + 1):
            due = step % scenario.evaluate_every == 0
            truth = environment.policy.gradient() if due else None
            spent += run_step(environment, allocator).allocator_seconds
            paid = environment.ledger.generated, environment.tokens, environment.seconds
            ended = step >= HORIZON * scenario.steps and all(
                (sums >= least).all() for sums, least in zip(paid, enough, strict=True)
            )
            if due or ended:
                rows.append(_evaluation(environment, held_out, initial, truth, step))
            if ended:
                break
        return rows, spent / BLOCK / step

    def _enough(self, environment: Learning) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Rollouts, tokens and seconds (BLOCK,) to which a run is followed, whoever else is compared.

        HORIZON times those of a uniform step at the start. While the policy improves rollouts grow
        shorter, so no less than HORIZON times what the reference run spends.
        """
        policy, budget, clock = environment.policy, self.scenario.budget, self.scenario.clock
        p = policy.success(policy.difficulty, policy.features, policy.theta)
        seconds, tokens = clock.stage(p, np.full(p.shape, budget.rollouts / p.shape[1]))
        rollouts = np.full(BLOCK, float(budget.rollouts))
        times = HORIZON * self.scenario.steps
        return times * rollouts, times * tokens, times * (seconds + clock.rest(rollouts, rollouts))

    def world(self) -> tuple[Learning, tuple[FloatArray, FloatArray]]:
        """The environment, and the difficulties and features of the held-out prompts."""
        scenario = self.scenario
        train, held_out, seen = scenario.pools(self._rng(Purpose.POOL), BLOCK)
        setting = Setting(
            scenario.budget,
            self.estimator,
            self.aggregation,
            replicates=BLOCK,
            pool_size=scenario.pool_size,
            rng=self._rng(Purpose.ALLOCATOR),
            features=seen.astype(np.float32),  # as embeddings are, and twice as fast for a GP
            success_probability=lambda prompts: environment.reward(prompts),
        )
        environment = Learning(
            setting,
            PromptStream(scenario.pool_size, BLOCK, self._seed(Purpose.STREAM)),
            Policy.on(train, scenario.kappa),
            scenario,
            scenario.learning_rate * self.rate,
            self._rng(Purpose.REWARDS),
            self._rng(Purpose.NOISE),
        )
        return environment, (special.logit(held_out.success), held_out.features)

    def _seed(self, purpose: Purpose) -> np.random.SeedSequence:
        own = 100 if self.reference and purpose != Purpose.POOL else 0
        return np.random.SeedSequence(self.seed, spawn_key=(self.block, own + purpose))

    def _rng(self, purpose: Purpose) -> np.random.Generator:
        return np.random.default_rng(self._seed(purpose))


def _evaluation(
    environment: Learning,
    held_out: tuple[FloatArray, FloatArray],
    initial: FloatArray,
    truth: FloatArray | None,
    step: int,
) -> dict[str, FloatArray]:
    """One evaluation: exact success probabilities of the held-out prompts, and all sums so far."""
    policy, ledger = environment.policy, environment.ledger
    p = policy.success(*held_out, policy.theta)
    replicates = len(p)
    cosine = np.full(replicates, np.nan)
    if truth is not None:
        lengths = np.sqrt((environment.gradient**2).sum(axis=1) * (truth**2).sum(axis=1))
        product = (environment.gradient * truth).sum(axis=1)
        cosine = np.divide(product, lengths, out=cosine, where=lengths > 0)
    return {
        "steps": np.full(replicates, float(step)),
        "accuracy": p.mean(axis=1),
        "pass_at_8": (1 - (1 - p) ** PASS_AT).mean(axis=1),
        **accuracy_by_bin(p, initial),
        "cosine": cosine,
        "seconds": environment.seconds.copy(),
        "tokens": environment.tokens.copy(),
        "epoch": np.maximum(environment.stream.epoch, 0).astype(np.float64),
        **environment.totals.columns(ledger),
        **environment.counts.columns(),
    }


def learning_cells(
    scenarios: dict[str, LearningScenario],
    allocators: dict[str, Allocator],
    estimator: Estimator,
    aggregation: Aggregation,
    replicates: int,
    seed: int,
    rates: Sequence[float] = (1.0,),
) -> list[LearningCell]:
    """Every allocator in every scenario at every learning rate, and the reference runs.

    In blocks that hold at least `replicates` replicates. The scenario's own learning rate, factor 1, is
    always among them.
    """
    rates = sorted({1.0, *rates})
    runs: list[tuple[str, Allocator, float, bool]] = [(REFERENCE, Uniform(), 1.0, True)]
    runs += [(name, allocator, rate, False) for name, allocator in allocators.items() for rate in rates]
    return [
        LearningCell(
            scenario_name, scenario, name, allocator, estimator, aggregation, seed, block, rate, reference
        )
        for scenario_name, scenario in scenarios.items()
        for name, allocator, rate, reference in runs
        for block in range(-(-replicates // BLOCK))
    ]
