"""One training step at frozen success probabilities: how good is the gradient that an allocator buys?

Each replicate draws a fresh pool of B prompts. Predictors see a stated number of earlier visits: groups
of the uniform size, one for every prompt. Then the allocator takes one step through the one loop. For a
one-shot allocator the moments of its batch gradient are exact, by enumeration over the rewards; for the
others, or on request, they are estimated from repeated steps at the same history (Monte Carlo).

The batch gradient is g = sum_i share_i (x_i phi_i + noise_i), see rolloutbench/estimators.py; the true
one is g* = mean_i p_i (1 - p_i) phi_i, the gradient of the mean success probability. Prompts and scores
are simulated, or recorded from a real model (replay.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import pandas as pd

from rolloutbench.cells.collectors import COUNT_BINS, count_metric
from rolloutbench.environment import Environment
from rolloutbench.estimators import moments, prompt_shares, realised
from rolloutbench.loop import begin, check_trained, run_step
from rolloutbench.protocol import (
    Aggregation,
    Allocator,
    Budget,
    Estimator,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    PromptStream,
    Request,
    Setting,
)
from simulators.pools import FrozenPool, FrozenScenario

BLOCK = 16
"""Replicates of a cell: fixed, so that results depend neither on workers nor on how many replicates."""
MONTE_CARLO_DRAWS = 64
"""Steps per replicate by which moments are estimated where they cannot be enumerated."""


class Purpose(IntEnum):
    """What a random stream is for. Each purpose of a block has a stream of its own."""

    POOL = 0
    STREAM = 1
    HISTORY = 2
    REWARDS = 3
    ALLOCATOR = 4


class Snapshot(Environment):
    """Environment of Bernoulli prompts whose success probabilities stay as they are."""

    def __init__(
        self, setting: Setting, stream: PromptStream, pool: FrozenPool, rng: np.random.Generator
    ) -> None:
        super().__init__(setting, stream)
        self.pool = pool
        self.counts = np.zeros(pool.success.shape, dtype=np.int64)
        self.groups: Groups | None = None
        self._rng = rng

    def generate(self, request: Request) -> Outcomes:
        """Draw binomial successes at the pool's success probabilities."""
        rows = np.arange(len(request.prompts))[:, None]
        np.add.at(self.counts, (rows, request.prompts), request.counts)
        successes = self._rng.binomial(request.counts, self.pool.success[rows, request.prompts])
        return Outcomes(request.prompts, request.counts, successes)

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """Keep the groups and return their realised gradient; nothing is learned.

        `signal` (R, d): sum_i share_i x_i phi_i. `noise` (R, 1): sum_i share_i^2 noise_i, the variance
        of the rest in units of the noise ratio. `effective` and `used` (R, 1): the share of groups with
        both rewards, and rollouts that got a gradient.
        """
        self.groups = groups
        p, _, spread = self._of(groups.prompts)
        shares = prompt_shares(self.setting.aggregation, groups)
        x, noise = realised(self.setting.estimator, groups, p)
        present = np.maximum((groups.prompts >= 0).sum(axis=1), 1)
        mixed = (groups.successes > 0) & (groups.failures > 0) & (groups.prompts >= 0)
        used = np.where((noise > 0) & (shares > 0), groups.counts, 0)
        if spread is not None:
            _, noise = realised(self.setting.estimator, groups, p, spread)
        return {
            "signal": self.pool.gradient(shares * x, groups.prompts),
            "noise": (shares**2 * noise).sum(axis=1, keepdims=True),
            "effective": (mixed.sum(axis=1) / present)[:, None],
            "used": used.sum(axis=1, keepdims=True).astype(np.float64),
        }

    def true_gradient(self) -> FloatArray:
        """True gradient: the mean over the pool of p(1-p) phi, (R, d)."""
        p = self.pool.success
        return self.pool.gradient(p * (1 - p) / p.shape[1])

    def exact_metrics(self, noise_ratio: float) -> dict[str, FloatArray]:
        """Metrics by exact moments of the last update's gradient, given its counts and weights; each (R,)."""
        assert self.groups is not None
        groups = self.groups
        p, lengths, spread = self._of(groups.prompts)
        shares = prompt_shares(self.setting.aggregation, groups)
        group = moments(self.setting.estimator, p, groups.counts, spread)
        n = groups.counts
        present = np.maximum((groups.prompts >= 0).sum(axis=1), 1)
        mixed = np.where(n > 0, 1 - p**n - (1 - p) ** n, 0.0)
        used = np.where(shares > 0, n * (1 - group.zero_gradient), 0.0).sum(axis=1)
        noise = noise_ratio * (shares**2 * group.noise).sum(axis=1)
        along = group.signal_variance if lengths is None else group.signal_variance * lengths
        variance = (shares**2 * along).sum(axis=1) + noise
        mean, truth = self.pool.gradient(shares * group.signal, groups.prompts), self.true_gradient()
        bias = ((mean - truth) ** 2).sum(axis=1)
        bias[bias < 1e-28] = 0.0  # the rounding of an unbiased estimator
        return self._metrics(
            mean=mean,
            truth=truth,
            second_moment=(mean**2).sum(axis=1) + variance,
            bias=bias,
            variance=variance,
            noise=noise,
            effective=mixed.sum(axis=1) / present,
            used=used,
        )

    def sampled_metrics(
        self, update: dict[str, FloatArray], draws: int, noise_ratio: float
    ) -> dict[str, FloatArray]:
        """Metrics, each (R,), estimated from `draws` steps of each replicate, which are consecutive rows."""
        signal = update["signal"].reshape(-1, draws, update["signal"].shape[1])
        noise, effective, used = (
            update[name].reshape(-1, draws).mean(axis=1) for name in ("noise", "effective", "used")
        )
        mean = signal.mean(axis=1)
        spread = ((signal - mean[:, None]) ** 2).sum(axis=(1, 2)) / (draws - 1)
        truth = self.true_gradient()[::draws]
        # |mean - truth|^2 holds the sampling error of the mean, spread / draws, and is freed of it.
        bias = ((mean - truth) ** 2).sum(axis=1) - spread / draws
        return self._metrics(
            mean=mean,
            truth=truth,
            second_moment=(signal**2).sum(axis=2).mean(axis=1) + noise_ratio * noise,
            bias=bias,
            variance=spread + noise_ratio * noise,
            noise=noise_ratio * noise,
            effective=effective,
            used=used,
        )

    def _of(self, prompts: IntArray) -> tuple[FloatArray, FloatArray | None, FloatArray | None]:
        """Success probabilities, lengths and spread of prompts (R, B)."""
        at = np.arange(len(prompts))[:, None], prompts
        lengths, spread = self.pool.lengths, self.pool.spread
        return (
            self.pool.success[at],
            None if lengths is None else lengths[at],
            None if spread is None else spread[at],
        )

    def _metrics(
        self,
        mean: FloatArray,
        truth: FloatArray,
        second_moment: FloatArray,
        bias: FloatArray,
        variance: FloatArray,
        noise: FloatArray,
        effective: FloatArray,
        used: FloatArray,
    ) -> dict[str, FloatArray]:
        """Metrics of the gradient from its moments; `analysis.metrics` describes them.

        mean: E g and truth: g*, both (R, d). second_moment: E|g|^2; bias: |E g - g*|^2; the others are
        what they are called; all (R,).
        """
        length = np.sqrt(second_moment * (truth**2).sum(axis=1))
        along = (mean * truth).sum(axis=1)
        cosine = np.divide(along, length, out=np.full_like(along, np.nan), where=length > 0)
        across = np.where(cosine**2 < 1, 1 - cosine**2, np.nan)
        replicates = len(mean)
        generated = self.ledger.generated.reshape(replicates, -1).mean(axis=1)
        per_prompt = generated / self.setting.budget.prompts
        return {
            "snr": cosine**2 / across,
            "cosine": cosine,
            "cosine_per_rollout": cosine / np.maximum(per_prompt, 1e-300),
            "mse": bias + variance,
            "bias": bias,
            "variance": variance,
            "noise_variance": noise,
            "effective_ratio": effective,
            "generated_per_prompt": per_prompt,
            "wasted_ratio": 1 - used / np.maximum(generated, 1),
            **self._counts_by_success(replicates),
        }

    def _counts_by_success(self, replicates: int) -> dict[str, FloatArray]:
        """Mean generated rollouts of the prompts in each bin of p; NaN where a bin is empty."""
        bins = np.minimum((self.pool.success * COUNT_BINS).astype(np.int64), COUNT_BINS - 1)
        rows = np.repeat(np.arange(replicates), len(bins) // replicates)[:, None]
        total, members = np.zeros((2, replicates, COUNT_BINS))
        np.add.at(total, (rows, bins), self.counts)
        np.add.at(members, (rows, bins), 1.0)
        means = np.divide(total, members, out=np.full_like(total, np.nan), where=members > 0)
        return {count_metric(b): means[:, b] for b in range(COUNT_BINS)}


@dataclass(frozen=True)
class SnapshotCell:
    """A block of replicates of one allocator in one scenario: a pure function of its fields.

    `draws` asks for Monte-Carlo moments from that many steps; None for exact ones where possible.
    """

    scenario_name: str
    scenario: FrozenScenario
    allocator_name: str
    allocator: Allocator
    estimator: Estimator
    aggregation: Aggregation
    budget: Budget
    seed: int
    block: int
    draws: int | None = None

    @property
    def part(self) -> tuple[str, str]:
        """The names of scenario and allocator."""
        return self.scenario_name, self.allocator_name

    @property
    def label(self) -> str:
        """The name of the cell for people: scenario, allocator and block."""
        return f"{self.scenario_name} {self.allocator_name} block {self.block}"

    def run(self) -> pd.DataFrame:
        """Run the cell; its metrics in long form: scenario, allocator, replicate, metric, value."""
        measured = self.measure()
        replicate = self.block * BLOCK + np.arange(BLOCK)
        return pd.DataFrame(
            {
                "scenario": self.scenario_name,
                "allocator": self.allocator_name,
                "replicate": np.tile(replicate, len(measured)),
                "metric": np.repeat(list(measured), BLOCK),
                "value": np.concatenate(list(measured.values())),
            }
        )

    def measure(self) -> dict[str, FloatArray]:
        """Take the step and compute its metrics by name, each (BLOCK,)."""
        exact = self.draws is None and self.allocator.one_shot
        draws = 1 if exact else self.draws or MONTE_CARLO_DRAWS
        size = self.budget.prompts
        pool = self.scenario.pool(self._rng(Purpose.POOL), BLOCK, size)
        history = list(self._history(pool))
        pool = pool.repeated(draws)
        setting = Setting(
            self.budget,
            self.estimator,
            self.aggregation,
            replicates=BLOCK * draws,
            pool_size=size,
            rng=self._rng(Purpose.ALLOCATOR),
            features=pool.seen,
            success_probability=lambda prompts: pool.success[np.arange(len(prompts))[:, None], prompts],
        )
        stream = PromptStream(size, setting.replicates, self._seed(Purpose.STREAM))
        environment = Snapshot(setting, stream, pool, self._rng(Purpose.REWARDS))
        allocator = begin(environment, self.allocator)
        for outcomes in history:
            allocator.observe(_repeated(outcomes, draws))
        update = run_step(environment, allocator).measured
        check_trained(environment, allocator, 1)
        if exact:
            return environment.exact_metrics(self.scenario.noise_ratio)
        return environment.sampled_metrics(update, draws, self.scenario.noise_ratio)

    def _history(self, pool: FrozenPool) -> Iterator[Outcomes]:
        """Yield earlier visits of every prompt, in groups of the uniform size."""
        rng = self._rng(Purpose.HISTORY)
        prompts = np.tile(np.arange(pool.success.shape[1]), (len(pool.success), 1))
        counts = np.full(prompts.shape, int(self.budget.group_size))
        for _ in range(self.scenario.visits):
            yield Outcomes(prompts, counts, rng.binomial(counts, pool.success))

    def _seed(self, purpose: Purpose) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(self.block, int(purpose)))

    def _rng(self, purpose: Purpose) -> np.random.Generator:
        return np.random.default_rng(self._seed(purpose))


def _repeated(outcomes: Outcomes, times: int) -> Outcomes:
    """Outcomes with each replicate `times` times in a row."""
    return replace(
        outcomes,
        prompts=np.repeat(outcomes.prompts, times, axis=0),
        counts=np.repeat(outcomes.counts, times, axis=0),
        successes=np.repeat(outcomes.successes, times, axis=0),
    )


def snapshot_cells(
    scenarios: dict[str, FrozenScenario],
    allocators: dict[str, Allocator],
    estimator: Estimator,
    aggregation: Aggregation,
    budget: Budget,
    replicates: int,
    seed: int,
    draws: int | None = None,
) -> list[SnapshotCell]:
    """Cells of every allocator in every scenario, in blocks that hold at least `replicates` replicates."""
    blocks = -(-replicates // BLOCK)
    return [
        SnapshotCell(
            scenario_name, scenario, name, allocator, estimator, aggregation, budget, seed, block, draws
        )
        for scenario_name, scenario in scenarios.items()
        for name, allocator in allocators.items()
        for block in range(blocks)
    ]
