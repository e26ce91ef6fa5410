"""A language model in training behind the protocol of the simulators: R = 1.

`Request -> Outcomes` samples and verifies; `Groups -> update` finds the concrete rollouts (held.py), turns
advantages and shares into row weights, and lets the trainer take one policy-gradient step. What a row
counts is that of rolloutbench/estimators.py: share / size of its group, times its advantage, times the
sum of its tokens' log-ratios. `token` averages over all trained tokens instead: weight / tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from real_runs.engines import Engine
from real_runs.held import Held
from real_runs.models import LanguageModel
from real_runs.rollouts import Prompt, Rollouts
from real_runs.settings import TrainerAggregation
from real_runs.tasks import Problem, Task, Verifier, rewards
from real_runs.trainer import Batch, Trainer
from rolloutbench.estimators import group_advantages, prompt_shares
from rolloutbench.metrics import CountsBySuccess, Totals
from rolloutbench.protocol import (
    Environment,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    PromptStream,
    ProtocolError,
    Request,
    Setting,
    State,
)

PHASES = ("generation", "verification", "update")
"""What the seconds of a step are spent on, beside the allocator."""


@dataclass(frozen=True)
class Pool:
    """The training prompts: `problems`, their token ids, and pass rates (Q,) before training."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    pass_rates: FloatArray


class RealRun(Environment):
    """Samples from a model, has the responses verified, and trains it."""

    def __init__(
        self,
        setting: Setting,
        stream: PromptStream,
        pool: Pool,
        task: Task,
        model: LanguageModel,
        engine: Engine,
        verifier: Verifier,
        trainer: Trainer,
        aggregation: TrainerAggregation,
        reusable: int = 0,
    ) -> None:
        super().__init__(setting, stream)
        self.pool, self.task, self.model = pool, task, model
        self.engine, self.verifier, self.trainer = engine, verifier, trainer
        self.aggregation: TrainerAggregation = aggregation
        self.counts, self.totals = CountsBySuccess(1), Totals(1)
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.tokens = self.unverified = 0
        self.unpaid = 0.0
        """Seconds in which an oracle measured, within those of its allocator."""
        self.step = 0
        self._held = Held(reusable)
        self._sampled: list[Rollouts] = []

    def generate(self, request: Request) -> Outcomes:
        """Sample and verify; the rollouts are kept for the update."""
        places = np.flatnonzero(request.counts[0] > 0)
        prompts, counts = request.prompts[0, places], request.counts[0, places]
        rollouts, source = self.sample(prompts, counts)
        self.tokens += int(rollouts.lengths.sum())
        self._held.add(rollouts)
        self._sampled.append(rollouts)
        successes = np.zeros_like(request.counts)
        successes[0, places] = np.bincount(source, rollouts.rewards, len(places)).astype(np.int64)
        return Outcomes(request.prompts, request.counts, successes)

    def sample(self, prompts: IntArray, counts: IntArray) -> tuple[Rollouts, IntArray]:
        """`counts` (P,) verified rollouts of pool prompts (P,), and each one's place among them (N,)."""
        with self._timed("generation"):
            sampled = self.engine.generate([self.pool.prompts[q] for q in prompts], counts)
        with self._timed("verification"):
            responses = [
                self.model.decode(tokens[:length])
                for tokens, length in zip(sampled.tokens, sampled.lengths, strict=True)
            ]
            ids = prompts[sampled.source]
            raw = self.verifier.score([self.pool.problems[q] for q in ids], responses)
            self.unverified += int(np.isnan(raw).sum())
            given = rewards(raw, self.task.threshold)
        steps = np.full(len(ids), self.step)
        rollouts = Rollouts(ids, sampled.tokens, sampled.lengths, sampled.logprobs, given, raw, steps)
        return rollouts, sampled.source

    def pass_rates(self, prompts: IntArray, trials: int) -> FloatArray:
        """Success probabilities (1, B) of prompts (1, B), measured by `trials` unpaid rollouts each."""
        started, before = time.perf_counter(), (self.seconds.copy(), self.unverified)
        known = np.maximum(prompts[0], 0)
        rollouts, source = self.sample(known, np.full(len(known), trials))
        self.seconds, self.unverified = before
        self.unpaid += time.perf_counter() - started
        return (np.bincount(source, rollouts.rewards, len(known)) / trials)[None]

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """One step of the trainer; returns what it measured, each (1,)."""
        merged = self.ledger.step_merged
        if merged is not None:
            self.counts.add(self.pool.pass_rates[merged.prompts], merged.counts)
        self.totals.add(groups, merged)
        with self._timed("update"):
            measured = self.trainer.update(self.batch(groups))
            self.engine.sync()
        self._held.end_step(Rollouts.joined([Rollouts.none(), *self._sampled]), int(self.ledger.held[0]))
        self._sampled = []
        self.step += 1
        return {name: np.array([value]) for name, value in measured.items()}

    def batch(self, groups: Groups) -> Batch:
        """The concrete rows of `groups` (1, B), with advantages and weights. They are then used up."""
        try:
            kept, columns = self._held.take(groups)
            reused, joined = self._held.reused(groups, self.step)
        except ValueError as error:
            raise ProtocolError(f"the allocator {error}") from None
        plus, minus, size = (values[0] for values in group_advantages(self.setting.estimator, groups))
        option = "" if groups.reused is None else groups.reused.option
        if option == "II":  # only in the group's mean and standard deviation
            reused, joined = Rollouts.none(), joined[:0]
        rollouts = Rollouts.joined([kept, reused])
        columns = np.concatenate([columns, joined])
        if self.aggregation == "token":
            weights = groups.weights[0][columns] / max(int(rollouts.lengths.sum()), 1)
        else:
            weights = (prompt_shares(self.aggregation, groups)[0] / size)[columns]
        again = np.arange(len(rollouts)) >= len(kept)
        stale = (rollouts.steps < self.step) & (self.trainer.settings.stale == "recorded")
        return Batch(
            rollouts,
            [self.pool.prompts[q] for q in rollouts.prompts],
            np.where(rollouts.rewards > 0, plus[columns], minus[columns]),
            weights,
            np.where(again, option == "replay", stale),
        )

    def columns(self) -> dict[str, FloatArray]:
        """Sums since the start for the table of curves, each (1,); `counts@` since the last call."""
        return {
            "tokens": np.array([float(self.tokens)]),
            **{f"seconds_{phase}": np.array([spent]) for phase, spent in self.seconds.items()},
            "unverified": np.array([float(self.unverified)]),
            "epoch": np.maximum(self.stream.epoch, 0).astype(np.float64),
            **self.totals.columns(self.ledger),
            **self.counts.columns(),
        }

    def state_dict(self) -> State:
        """All that a resumed run needs, the allocator's own state apart."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "unverified": self.unverified,
            "seconds": dict(self.seconds),
            "stream": self.stream.state_dict(),
            "ledger": self.ledger.state_dict(),
            "totals": vars(self.totals),
            "counts": vars(self.counts),
            "waiting": vars(self._held.waiting),
            "archive": vars(self._held.archive),
            "engine": self.engine.state_dict(),
            "trainer": self.trainer.state_dict(),
            "rng": self.setting.rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue from there."""
        self.step, self.tokens, self.unverified = state["step"], state["tokens"], state["unverified"]
        self.seconds = dict(state["seconds"])
        self.stream.load_state_dict(state["stream"])
        self.ledger.load_state_dict(state["ledger"])
        vars(self.totals).update(state["totals"])
        vars(self.counts).update(state["counts"])
        self._held.waiting, self._held.archive = Rollouts(**state["waiting"]), Rollouts(**state["archive"])
        self.engine.load_state_dict(state["engine"])
        self.trainer.load_state_dict(state["trainer"])
        self.engine.sync()
        self.setting.rng.bit_generator.state = state["rng"]

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started
