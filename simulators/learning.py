"""A policy that learns: accuracy on held-out prompts against everything that was generated for it.

The policy is a vector theta in R^d. It solves prompt q with probability

    p_q = sigmoid(b_q + phi_q . theta - (kappa/2) |theta|^2),

where b is the prompt's difficulty, phi its unit feature vector, and kappa a ceiling: without it larger
steps would always win and the noise of the gradient would not matter. A rollout's score is
z = (c - p)(phi - kappa theta) + xi, where c says whether it is correct and xi ~ N(0, sigma^2 I) has
nothing to do with the reward; noise_ratio is d sigma^2. A correct rollout has `success_noise` times that
variance. Rewards are binary, so the gradient of a step needs only (n, k) of each group,

    g = sum_i share_i x_i (phi_i - kappa theta) + N(0, sigma^2 sum_i share_i^2 noise_i I),

with x and noise from rolloutbench/estimators.py: the cost of a step does not grow with the number of
rollouts, and one Gaussian vector is the noise of all of them.

Where trainers are asynchronous, rollouts are by the policy of `staleness` steps ago, and scored under the
current one with ratio 1: their rewards are not quite those of the policy that learns from them.

Rewards may have a few levels (credit.py): a rollout has `parts`, passes each with chance p, and its reward is
the share that it passes. An update then has a group's counts by level in place of (n, k). The policy follows
the gradient of the mean reward, p, and cosines are to that. The pool's success probabilities, accuracy and
the clock are about full reward, p^parts: whether a prompt is solved.

A verifier may err, and rollouts may be lost (verdicts.py). Advantages then follow its rewards, scores the
truth. Rollouts stored in earlier
steps are scored under the current policy, with fresh xi; under AR3PO's `replay` with their importance
ratio, (p / p_then) exp(xi . dtheta - var(xi . dtheta) / 2), which is cut as PPO cuts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import pandas as pd
from scipy import special

from rolloutbench.allocators.uniform import Uniform
from rolloutbench.cells.collectors import HORIZON, REFERENCE, CountsBySuccess, Totals, accuracy_by_bin
from rolloutbench.environment import Environment
from rolloutbench.estimators import group_advantages, level_advantages, prompt_shares
from rolloutbench.loop import begin, check_trained, run_step
from rolloutbench.protocol import (
    Aggregation,
    Allocator,
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
from simulators.credit import Credit
from simulators.optimizers import Optimizer
from simulators.pools import Pool, combine
from simulators.scenarios import LearningScenario

BLOCK = 16
"""Replicates of a cell: fixed, so that results depend neither on workers nor on how many replicates."""
CLIP_HIGH = 0.28
"""PPO's upper clip as in DAPO: a replayed success whose ratio is beyond it has no gradient."""
PASS_AT = 8
MOST_STEPS = 8
"""Longest run, as a multiple of the scenario's steps: it ends there however cheap its steps are."""


class Purpose(IntEnum):
    """What a random stream is for. Each purpose of a block has a stream of its own."""

    POOL = 0
    STREAM = 1
    REWARDS = 2
    ALLOCATOR = 3
    NOISE = 4


@dataclass
class Policy:
    """Parameters theta (R, d) on a pool of difficulties b (R, Q) and features phi (R, Q, d), under a ceiling.

    The ceiling is kappa: see the formula at the top of this file. A rollout succeeds if it passes all its
    `parts`, each with the chance p of that formula.
    """

    difficulty: FloatArray
    features: FloatArray
    kappa: float
    parts: int = 1
    theta: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.theta = np.zeros((self.features.shape[0], self.features.shape[2]))

    @classmethod
    def on(cls, pool: Pool, kappa: float, parts: int = 1) -> Policy:
        """The policy theta = 0, which has the pool's success probabilities; 0 and 1 stay what they are."""
        return cls(difficulty_of(pool, parts), pool.features, kappa, parts)

    def success(self, difficulty: FloatArray, features: FloatArray, theta: FloatArray) -> FloatArray:
        """Success probabilities (R, B) for difficulties (R, B) and features (R, B, d)."""
        return self.all_of(self.part(difficulty, features, theta))

    def all_of(self, p: FloatArray) -> FloatArray:
        """Chance to pass all parts, where p is the chance to pass one."""
        return p if self.parts == 1 else p**self.parts

    def part(self, difficulty: FloatArray, features: FloatArray, theta: FloatArray) -> FloatArray:
        """Chances p (R, B) to pass a part, which are mean rewards, for what `success` takes."""
        logit = (features @ theta[:, :, None])[:, :, 0]
        logit += difficulty
        logit -= self.kappa / 2 * (theta**2).sum(axis=1, keepdims=True)
        return np.asarray(special.expit(logit))

    def of(self, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
        """Difficulties (R, B) and features (R, B, d) of prompts (R, B); they mean nothing for -1."""
        replicates, pool_size = self.difficulty.shape
        flat = np.maximum(prompts, 0) + pool_size * np.arange(replicates)[:, None]
        features: FloatArray = self.features.reshape(-1, self.features.shape[2]).take(flat, axis=0)
        difficulty: FloatArray = self.difficulty.take(flat)
        return difficulty, features

    def gradient(self) -> FloatArray:
        """Gradient of the mean reward over the whole pool, (R, d)."""
        p = self.part(self.difficulty, self.features, self.theta)
        slope = p * (1 - p) / p.shape[1]
        pulled_back: FloatArray = self.kappa * self.theta * slope.sum(axis=1, keepdims=True)
        return combine(slope, self.features) - pulled_back


def difficulty_of(pool: Pool, parts: int) -> FloatArray:
    """Difficulties b (R, Q) at which rollouts of so many parts have the pool's success probabilities."""
    return np.asarray(special.logit(pool.success if parts == 1 else pool.success ** (1 / parts)))


class Learning(Environment):
    """Bernoulli prompts and a policy that every update moves.

    `lengths` (R, Q): mean tokens of a rollout of each prompt of the pool, where they were measured.
    """

    def __init__(
        self,
        setting: Setting,
        stream: PromptStream,
        policy: Policy,
        scenario: LearningScenario,
        learning_rate: float,
        rewards: np.random.Generator,
        noise: np.random.Generator,
        lengths: FloatArray | None = None,
    ) -> None:
        super().__init__(setting, stream)
        self.policy = policy
        self.lengths = lengths
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
        """Chance (R, B) that a rollout of each prompt is correct."""
        return self.policy.all_of(self._look(prompts)[2])

    def reward(self, prompts: IntArray) -> FloatArray:
        """Chance (R, B) that a rollout is a success in the allocator's eyes."""
        return self._accepted(self.sampled(prompts))

    def sampled(self, prompts: IntArray) -> FloatArray:
        """Chance p (R, B) to pass a part under the policy that is sampled, perhaps an older one."""
        lag = min(self.scenario.staleness, len(self._thetas))
        difficulty, features, p = self._look(prompts)
        return p if lag == 0 else self.policy.part(difficulty, features, self._thetas[-lag])

    def _accepted(self, p: FloatArray) -> FloatArray:
        """Chance (R, B) of what allocators call a success, where p is the chance to pass a part."""
        credit = self.scenario.credit
        return self.scenario.verdicts.accepted(p) if credit is None else credit.success(p)

    def generate(self, request: Request) -> Outcomes:
        """Draw binomial successes among what is not lost; the clock runs for one stage."""
        p, verdicts = self.sampled(request.prompts), self.scenario.verdicts
        counts, lost = request.counts, None
        if verdicts.dropped:
            lost = self._rewards.binomial(counts, verdicts.lost_at(p))
            counts = counts - lost
        successes = self._rewards.binomial(counts, self._accepted(p))
        lengths = None if self.lengths is None else np.take_along_axis(self.lengths, request.prompts, axis=1)
        seconds, tokens = self._clock.stage(self.policy.all_of(p), request.counts, lengths)
        self.seconds += seconds
        self.tokens += tokens
        return Outcomes(request.prompts, counts, successes, lost)

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """Take one step of the optimizer; returns the batch `gradient` (R, d)."""
        scenario, theta = self.scenario, self.policy.theta
        outcomes = self.ledger.step_merged
        if outcomes is not None:
            self.counts.add(self.success(outcomes.prompts), outcomes.generated)
        difficulty, features, p = self._look(groups.prompts)
        shares = prompt_shares(self.setting.aggregation, groups)
        if scenario.credit is None:
            self.totals.add(groups, outcomes)
            x, noise = self._contributions(groups, difficulty, features, p)
        else:
            kept, joined = self._levels(groups, scenario.credit)
            self.totals.add(groups, outcomes, scenario.credit.deviation(kept + joined))
            x, noise = self._by_level(scenario.credit, groups, kept, joined, difficulty, features, p)
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
        """Difficulties, features and chances p of prompts, remembered until the policy moves."""
        if self._known is None or self._known[0] is not prompts:
            difficulty, features = self.policy.of(prompts)
            p = self.policy.part(difficulty, features, self.policy.theta)
            self._known = prompts, difficulty, features, p
        return self._known[1:]

    def _correct(self, groups: Groups, p: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """How many of the kept successes and failures (R, B) are really correct, and how many are masked.

        Masked failures have no gradient, and are not among the correct ones.
        """
        verdicts = self.scenario.verdicts
        if verdicts.perfect:
            return groups.successes.astype(np.float64), np.zeros(p.shape), np.zeros(p.shape)
        masked = np.zeros_like(groups.failures)
        if verdicts.lost and verdicts.no_verdict == "mask":
            masked = self._rewards.binomial(groups.failures, verdicts.masked_if_refused(p))
        return (
            self._rewards.binomial(groups.successes, verdicts.right_if_accepted(p)).astype(np.float64),
            self._rewards.binomial(groups.failures - masked, verdicts.right_if_refused(p)).astype(np.float64),
            masked.astype(np.float64),
        )

    def _contributions(
        self, groups: Groups, difficulty: FloatArray, features: FloatArray, p: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Each group's x and noise factor (R, B), as estimators.py defines them."""
        plus, minus, size = group_advantages(self.setting.estimator, groups)
        accepted, refused, masked = self._correct(groups, self.sampled(groups.prompts))
        k, failed = groups.successes, groups.failures - masked
        x = plus * (accepted - k * p) + minus * (refused - failed * p)
        quiet = 1 - self.scenario.success_noise  # what a correct rollout's noise is short of a wrong one's
        noise = (k - quiet * accepted) * plus**2 + (failed - quiet * refused) * minus**2
        if groups.reused is not None and groups.reused.option != "II":
            ratio = np.ones(p.shape)
            if groups.reused.option == "replay":
                ratio = self._importance(groups.reused.age, difficulty, features, p)
            pull = groups.reused.counts * plus * ratio
            right = self.scenario.verdicts.right_if_accepted(p)
            x += pull * (right - p)
            noise += pull * plus * ratio * (1 - quiet * right)
        return x / size, noise / size**2

    def _levels(self, groups: Groups, credit: Credit) -> tuple[IntArray, IntArray]:
        """Members of each group by level, (R, B, L): those kept, and the reused."""
        p = self.sampled(groups.prompts)
        kept = credit.dealt(self._rewards, groups.successes, groups.failures, p)
        if groups.reused is None:
            return kept, np.zeros_like(kept)
        return kept, credit.dealt(self._rewards, groups.reused.counts, np.zeros_like(groups.failures), p)

    def _by_level(
        self,
        credit: Credit,
        groups: Groups,
        kept: IntArray,
        joined: IntArray,
        difficulty: FloatArray,
        features: FloatArray,
        p: FloatArray,
    ) -> tuple[FloatArray, FloatArray]:
        """Each group's x and noise factor (R, B), as credit.py defines them, from its members by level."""
        advantages, size = level_advantages(self.setting.estimator, groups, credit.rewards, kept + joined)
        pull = kept * advantages
        noise = (pull * advantages).sum(axis=2)
        if groups.reused is not None and groups.reused.option != "II":
            ratio = np.ones((*p.shape, 1))
            if groups.reused.option == "replay":
                ratio = self._importance(groups.reused.age, difficulty, features, p)[..., None]
            again = joined * advantages * ratio
            pull += again
            noise += (again * advantages * ratio).sum(axis=2)
        x = (pull * (credit.passed - credit.parts * p[..., None])).sum(axis=2)
        return x / size, noise / size**2

    def _importance(
        self, age: IntArray, difficulty: FloatArray, features: FloatArray, p: FloatArray
    ) -> FloatArray:
        """Ratio of a stored success's probability now to that when it was generated; 0 beyond the clip."""
        thetas = np.stack([*self._thetas[-int(age.max(initial=0)) :], self.policy.theta])
        rows = np.arange(len(age))[:, None]
        then = thetas[np.maximum(len(thetas) - 1 - age, 0), rows]  # (R, B, d)
        logit = (features * then).sum(axis=2) + difficulty - self.scenario.kappa / 2 * (then**2).sum(axis=2)
        sigma = self.scenario.sigma * np.sqrt(self.scenario.success_noise)
        moved = sigma * np.sqrt(((self.policy.theta[:, None] - then) ** 2).sum(axis=2))
        drift = moved * self._rewards.standard_normal(p.shape) - moved**2 / 2
        before: FloatArray = special.expit(logit)
        if self.scenario.credit is not None:  # levels are drawn given success: their chances cancel
            p, before = self.scenario.credit.success(p), self.scenario.credit.success(before)
        ratio = p / np.maximum(before, 1e-300) * np.exp(drift)
        return np.where(ratio > 1 + CLIP_HIGH, 0.0, ratio)


@dataclass(frozen=True)
class LearningCell:
    """A block of replicates of one allocator in one scenario: a pure function of its fields.

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
        """The names of scenario and allocator."""
        return self.scenario_name, self.allocator_name

    @property
    def label(self) -> str:
        """The name of the cell for people: scenario, allocator, rate where it is another, and block."""
        rate = "" if self.rate == 1 else f" at rate x {self.rate:g}"
        return f"{self.scenario_name} {self.allocator_name}{rate} block {self.block}"

    def run(self) -> pd.DataFrame:
        """Run the cell and return its curves, one row a replicate and evaluation, with sums since the start.

        Columns are those that `analysis.metrics` describes.
        """
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
        """Measurements before the first step, at every evaluation and at the end, each (BLOCK,).

        With them come the seconds that the allocator itself took for one step of one replicate.
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
        check_trained(environment, allocator, step)
        return rows, spent / BLOCK / step

    def _enough(self, environment: Learning) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Rollouts, tokens and seconds (BLOCK,) to which a run is followed, whoever else is compared.

        HORIZON times those of a uniform step at the start. While the policy improves rollouts grow
        shorter, so no less than HORIZON times what the reference run spends.
        """
        policy, budget, clock = environment.policy, self.scenario.budget, self.scenario.clock
        p = policy.success(policy.difficulty, policy.features, policy.theta)
        each = np.full(p.shape, budget.rollouts / p.shape[1])
        seconds, tokens = clock.stage(p, each, environment.lengths)
        rollouts = np.full(BLOCK, float(budget.rollouts))
        times = HORIZON * self.scenario.steps
        return times * rollouts, times * tokens, times * (seconds + clock.rest(rollouts, rollouts))

    def world(self) -> tuple[Learning, tuple[FloatArray, FloatArray]]:
        """The environment, and the difficulties and features of the held-out prompts."""
        scenario = self.scenario
        train, held_out, seen = scenario.pools(self.rng(Purpose.POOL), BLOCK)
        setting = Setting(
            scenario.budget,
            self.estimator,
            self.aggregation,
            replicates=BLOCK,
            pool_size=scenario.pool_size,
            rng=self.rng(Purpose.ALLOCATOR),
            features=seen.astype(np.float32),  # as embeddings are, and twice as fast for a GP
            success_probability=lambda prompts: environment.reward(prompts),
        )
        environment = Learning(
            setting,
            PromptStream(scenario.pool_size, BLOCK, self.seed_of(Purpose.STREAM)),
            Policy.on(train, scenario.kappa, scenario.parts),
            scenario,
            scenario.learning_rate * self.rate,
            self.rng(Purpose.REWARDS),
            self.rng(Purpose.NOISE),
            train.tokens,
        )
        return environment, (difficulty_of(held_out, scenario.parts), held_out.features)

    def seed_of(self, purpose: Purpose) -> np.random.SeedSequence:
        """Seed sequence of a purpose; those of the reference run are its own."""
        own = 100 if self.reference and purpose != Purpose.POOL else 0
        return np.random.SeedSequence(self.seed, spawn_key=(self.block, own + purpose))

    def rng(self, purpose: Purpose) -> np.random.Generator:
        """Random numbers of a purpose."""
        return np.random.default_rng(self.seed_of(purpose))


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
    """Cells of every allocator in every scenario at every learning rate, and of the reference runs.

    They are blocks that hold at least `replicates` replicates. The scenario's own learning rate, factor
    1, is always among the rates.
    """
    rates = sorted({1.0, *rates})
    rules = {
        name: (made.condition.estimator, made.condition.aggregation)
        if made.condition
        else (estimator, aggregation)
        for name, made in scenarios.items()
    }
    runs: list[tuple[str, Allocator, float, bool]] = [(REFERENCE, Uniform(), 1.0, True)]
    runs += [(name, allocator, rate, False) for name, allocator in allocators.items() for rate in rates]
    return [
        LearningCell(
            scenario_name, scenario, name, allocator, *rules[scenario_name], seed, block, rate, reference
        )
        for scenario_name, scenario in scenarios.items()
        for name, allocator, rate, reference in runs
        for block in range(-(-replicates // BLOCK))
    ]
