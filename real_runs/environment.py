"""A language model in training behind the protocol of the simulators: R = 1.

`Request -> Outcomes` samples and verifies; `Groups -> update` finds the concrete rollouts, turns
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
from real_runs.models import LanguageModel
from real_runs.rewards import Rewards
from real_runs.rollouts import Prompt, Rollouts
from real_runs.tasks import Problem, Task, Verifier
from real_runs.trainer import Batch, Trainer
from rolloutbench.cells.collectors import CountsBySuccess, Totals
from rolloutbench.environment import Environment
from rolloutbench.estimators import prompt_shares
from rolloutbench.held import KEY, Held
from rolloutbench.protocol import (
    BoolArray,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    PromptStream,
    ProtocolError,
    Request,
    Setting,
    State,
    TrainerAggregation,
)
from rolloutbench.rewards import advantages_of, deviations

PHASES = ("generation", "verification", "update")
"""Phases of a step on which seconds are spent, beside the allocator."""


@dataclass(frozen=True)
class TrainingPool:
    """Training prompts: `problems`, their token ids, and pass rates (Q,) before training."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    pass_rates: FloatArray


class RealRun(Environment):
    """Environment that samples from a model, has the responses verified, and trains the model."""

    def __init__(
        self,
        setting: Setting,
        stream: PromptStream,
        pool: TrainingPool,
        task: Task,
        model: LanguageModel,
        engine: Engine,
        verifier: Verifier,
        trainer: Trainer,
        aggregation: TrainerAggregation,
        reusable: int = 0,
        rewards: Rewards | None = None,
    ) -> None:
        super().__init__(setting, stream)
        self.pool, self.task, self.model = pool, task, model
        self.engine, self.verifier, self.trainer = engine, verifier, trainer
        self.aggregation: TrainerAggregation = aggregation
        self.rewards = rewards or Rewards()
        self.counts, self.totals = CountsBySuccess(1), Totals(1)
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.tokens = self.unverified = 0
        self.rewarded = 0.0
        """Sum of the rewards of all rollouts that were paid for."""
        self.unpaid = 0.0
        """Seconds in which an oracle measured, within those of its allocator."""
        self.step = 0
        self._held = Held(reusable)
        self._rollouts, self._keys = Rollouts.none(), np.zeros(0, np.int64)
        """Responses that may still be trained on, and their keys, ascending."""

    def generate(self, request: Request) -> Outcomes:
        """Sample and verify the requested rollouts, and keep them for the update."""
        places = np.flatnonzero(request.counts[0] > 0)
        prompts, counts = request.prompts[0, places], request.counts[0, places]
        rollouts, source, lost = self.sample(prompts, counts)
        self.tokens += int(rollouts.lengths.sum())
        self.rewarded += float(np.nansum(rollouts.rewards))
        self._keep(rollouts[~lost])
        sums = np.zeros((3, *request.counts.shape), dtype=np.int64)
        for total, rows in zip(sums, (~lost, ~lost & (rollouts.successes > 0), lost), strict=True):
            total[0, places] = np.bincount(source[rows], minlength=len(places))
        return Outcomes(request.prompts, sums[0], sums[1], sums[2] if lost.any() else None)

    def _keep(self, rollouts: Rollouts) -> None:
        """Keep responses of this step until no update can use them."""
        keys = self._held.add(rollouts.prompts, rollouts.successes > 0, self.step)
        self._rollouts = Rollouts.joined([self._rollouts, rollouts])
        self._keys = np.concatenate([self._keys, keys])

    def _of(self, keys: IntArray) -> Rollouts:
        """The responses with these keys."""
        return self._rollouts[np.searchsorted(self._keys, keys)]

    def _forget(self) -> None:
        """Drop the responses that no update will use any more."""
        kept = np.isin(self._keys, self._held.keys)
        self._rollouts, self._keys = Rollouts.joined([self._rollouts[kept]]), self._keys[kept]

    def sample(self, prompts: IntArray, counts: IntArray) -> tuple[Rollouts, IntArray, BoolArray]:
        """Sample and verify `counts` (P,) rollouts of pool prompts (P,).

        Returns the N rollouts, each one's place among the prompts (N,), and whether it is given up (N,),
        since it had no verdict.
        """
        with self._time("generation"):
            sampled = self.engine.generate([self.pool.prompts[q] for q in prompts], counts)
        with self._time("verification"):
            responses = [
                self.model.decode(tokens[:length])
                for tokens, length in zip(sampled.tokens, sampled.lengths, strict=True)
            ]
            ids = prompts[sampled.source]
            raw = np.array(self.verifier.score([self.pool.problems[q] for q in ids], responses), float)
            if self.trainer.settings.unfinished == "lost":
                raw[~sampled.finished] = np.nan
            no_verdict = self.trainer.settings.no_verdict
            judged = self.rewards.judge(self.task, raw, sampled.lengths, no_verdict)
            self.unverified += int(judged.unverified.sum())
        rollouts = Rollouts(
            ids,
            sampled.tokens,
            sampled.lengths,
            sampled.logprobs,
            judged.success.astype(np.int64),
            judged.rewards,
            raw if raw.ndim == 1 else raw[:, 0],
            np.full(len(ids), self.step),
        )
        return rollouts, sampled.source, judged.lost

    def pass_rates(self, prompts: IntArray, trials: int) -> FloatArray:
        """Measure success probabilities (1, B) of prompts (1, B) by `trials` unpaid rollouts each."""
        started, before = time.perf_counter(), (self.seconds.copy(), self.unverified)
        known = np.maximum(prompts[0], 0)
        rollouts, source, _ = self.sample(known, np.full(len(known), trials))
        self.seconds, self.unverified = before
        self.unpaid += time.perf_counter() - started
        return (np.bincount(source, rollouts.successes, len(known)) / trials)[None]

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """Take one step of the trainer; returns what it measured, each (1,)."""
        merged = self.ledger.step_merged
        if merged is not None:
            self.counts.add(self.pool.pass_rates[merged.prompts], merged.counts)
        with self._time("update"):
            batch = self.batch(groups)
            measured = self.trainer.update(batch)
            self.engine.sync()
        self.totals.add(groups, merged, None if batch.deviations is None else batch.deviations[None])
        self._held.end_step(int(self.ledger.held[0]))
        self._forget()
        self.step += 1
        return {name: np.array([value]) for name, value in measured.items()}

    def batch(self, groups: Groups) -> Batch:
        """Find the concrete rows of `groups` (1, B), with advantages and weights. They are then used up."""
        try:
            kept, columns = self._held.take(groups)
            again, joined = self._held.reused(groups, self.step)
        except ValueError as error:
            raise ProtocolError(f"the allocator {error}") from None
        option = "" if groups.reused is None else groups.reused.option
        members = np.concatenate([columns, joined])
        every = self._of(np.concatenate([kept, again])[:, KEY])
        # Stored successes of option II are only in the group's mean and standard deviation.
        rows = np.arange(len(kept) if option == "II" else len(every))
        rollouts, columns = every[rows], members[rows]
        advantages = advantages_of(
            self.setting.estimator,
            groups,
            rollouts.rewards,
            columns,
            every.rewards[len(rows) :],
            members[len(rows) :],
        )
        known = np.nan_to_num(every.rewards)
        only_two = bool(np.isin(known, (0.0, 1.0)).all())
        if self.aggregation == "token":
            weights = groups.weights[0][columns] / max(int(rollouts.lengths.sum()), 1)
        else:
            size = np.maximum(groups.sizes[0], 1)
            weights = (prompt_shares(self.aggregation, groups)[0] / size)[columns]
        stored = np.arange(len(rollouts)) >= len(kept)
        stale = (rollouts.steps < self.step) & (self.trainer.settings.stale == "recorded")
        return Batch(
            rollouts,
            [self.pool.prompts[q] for q in rollouts.prompts],
            advantages,
            weights,
            np.where(stored, option == "replay", stale),
            None if only_two else deviations(known, members, groups.prompts.shape[1]),
        )

    def columns(self) -> dict[str, FloatArray]:
        """Columns for the table of curves, each (1,): sums since the start; `counts@` since the last call."""
        return {
            "tokens": np.array([float(self.tokens)]),
            **{f"seconds_{phase}": np.array([spent]) for phase, spent in self.seconds.items()},
            "unverified": np.array([float(self.unverified)]),
            "epoch": np.maximum(self.stream.epoch, 0).astype(np.float64),
            **self.totals.columns(self.ledger),
            "rewarded": np.array([self.rewarded]),
            **self.counts.columns(),
        }

    def state_dict(self) -> State:
        """Everything that a resumed run needs, except the allocator's own state."""
        return {
            "step": self.step,
            "tokens": self.tokens,
            "unverified": self.unverified,
            "rewarded": self.rewarded,
            "seconds": dict(self.seconds),
            "stream": self.stream.state_dict(),
            "ledger": self.ledger.state_dict(),
            "totals": vars(self.totals),
            "counts": vars(self.counts),
            "held": self._held.state_dict(),
            "rollouts": vars(self._rollouts),
            "keys": self._keys,
            "engine": self.engine.state_dict(),
            "trainer": self.trainer.state_dict(),
            "rng": self.setting.rng.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken, with the same weights in trainer and engine."""
        self.step, self.tokens, self.unverified = state["step"], state["tokens"], state["unverified"]
        self.rewarded, self.seconds = state["rewarded"], dict(state["seconds"])
        self.stream.load_state_dict(state["stream"])
        self.ledger.load_state_dict(state["ledger"])
        vars(self.totals).update(state["totals"])
        vars(self.counts).update(state["counts"])
        self._held.load_state_dict(state["held"])
        self._rollouts, self._keys = Rollouts(**state["rollouts"]), state["keys"]
        self.engine.load_state_dict(state["engine"])
        self.trainer.load_state_dict(state["trainer"])
        self.engine.sync()
        self.setting.rng.bit_generator.state = state["rng"]

    @contextmanager
    def _time(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started
