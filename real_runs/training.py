"""A real training run as a cell of a study: curves with the columns of the learning simulator's.

A replicate is one seed: of the order of prompts, of sampling, of the allocator. Model and prompts are the
same for all, as in practice, so intervals speak of runs, not of other models or data. A run is followed
until it has generated HORIZON times what uniform generates in the scenario's steps. It writes a
checkpoint every few steps and goes on from it after a kill, to the same results; only its seconds are
measured, and never the same twice.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from real_runs.settings import RealScenario, TrainerAggregation
from rolloutbench.allocators.uniform import Uniform
from rolloutbench.experiment import identify
from rolloutbench.loop import begin, run_step
from rolloutbench.metrics import HORIZON, REFERENCE, accuracy_by_bin
from rolloutbench.optional import need
from rolloutbench.protocol import (
    Aggregation,
    Allocator,
    Estimator,
    FloatArray,
    IntArray,
    PromptStream,
    Setting,
    State,
)
from rolloutbench.store import write_whole

MOST_STEPS = 4
"""A run ends after as many times the scenario's steps, however few rollouts its steps take."""
PASS_AT = 8
STREAM, SAMPLING, ALLOCATOR = 1, 2, 3
"""What a random stream is for; each purpose of a replicate has one of its own."""


@dataclass(frozen=True)
class TrainingCell:
    """One run of one allocator. The fields below `reference` say where it runs, not what."""

    scenario_name: str
    scenario: RealScenario
    allocator_name: str
    allocator: Allocator
    estimator: Estimator
    aggregation: TrainerAggregation
    seed: int
    replicate: int
    reference: bool = False
    cache: Path = field(compare=False, kw_only=True)
    runs: Path | None = field(compare=False, default=None)
    checkpoint_every: int = field(compare=False, default=10)
    tensorboard: bool = field(compare=False, default=False)

    @property
    def part(self) -> tuple[str, str]:
        """Scenario and allocator."""
        return self.scenario_name, self.allocator_name

    @property
    def label(self) -> str:
        """Scenario, allocator and seed."""
        return f"{self.scenario_name} {self.allocator_name} seed {self.replicate}"

    @property
    def directory(self) -> Path | None:
        """Where its checkpoint and progress are, while it runs."""
        if self.runs is None:
            return None
        (key,) = identify([self])[0]  # that of its results: a checkpoint of other code is not continued
        return self.runs / key

    @property
    def enough(self) -> float:
        """Generated rollouts to which it is followed."""
        return HORIZON * self.scenario.steps * self.scenario.budget.rollouts

    def run(self) -> pd.DataFrame:
        """The curves: one row for each evaluation, sums since the start. See rolloutbench/metrics.py."""
        with started(self) as run:
            rows, seconds = run.followed()
        keys = {
            "scenario": self.scenario_name,
            "allocator": self.allocator_name,
            "rate": 1.0,
            "replicate": self.replicate,
        }
        table = pd.DataFrame([{**keys, **row} for row in rows])
        table.attrs["allocator_seconds_per_step"] = seconds
        return table

    def forget(self) -> None:
        """Its table is stored: the checkpoint may go."""
        if self.directory is not None and self.directory.is_dir():
            for name in ("checkpoint.safetensors", "progress.json"):
                (self.directory / name).unlink(missing_ok=True)
            for empty in (self.directory, self.directory.parent):  # where TensorBoard's files are not
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def seeds(self, purpose: int) -> np.random.SeedSequence:
        """Of a purpose; those of the reference run are its own."""
        return np.random.SeedSequence(self.seed, spawn_key=(self.replicate, purpose + 100 * self.reference))


@contextlib.contextmanager
def started(cell: TrainingCell) -> Iterator[Run]:
    """A cell's run before its first step, on one thread: two were at times 15 times slower."""
    torch = need("torch", "llm")
    from real_runs.preparation import prepare

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prepared = prepare(cell.scenario, cell.seed, cell.cache)
        with cell.scenario.task.verifier() as verifier:
            yield Run(cell, prepared, verifier)
    finally:
        torch.set_num_threads(threads)


class Run:
    """A cell under way: environment, allocator, rows so far."""

    def __init__(self, cell: TrainingCell, prepared: Any, verifier: Any) -> None:
        from real_runs.environment import Pool, RealRun
        from real_runs.preparation import new_engine
        from real_runs.trainer import Trainer

        scenario = cell.scenario
        self.cell, self.prepared, self.verifier = cell, prepared, verifier
        self.rows: list[dict[str, float]] = []
        self.allocator_seconds = 0.0
        model, train = prepared.model, prepared.train
        aggregation: Aggregation = "rollout" if cell.aggregation == "token" else cell.aggregation
        setting = Setting(
            scenario.budget,
            cell.estimator,
            aggregation,
            replicates=1,
            pool_size=len(train.problems),
            rng=np.random.default_rng(cell.seeds(ALLOCATOR)),
            features=prepared.features,
            success_probability=lambda prompts: self.environment.pass_rates(prompts, scenario.probe),
        )
        engine = new_engine(scenario, model, int(cell.seeds(SAMPLING).generate_state(1, np.uint64)[0] >> 1))
        self.environment = RealRun(
            setting,
            PromptStream(setting.pool_size, 1, cell.seeds(STREAM)),
            Pool(train.problems, train.prompts, train.pass_rates),
            scenario.task,
            model,
            engine,
            verifier,
            Trainer(model, scenario.trainer, scenario.temperature, engine.exact),
            cell.aggregation,
            cell.allocator.reusable,
        )
        self.allocator = begin(self.environment, cell.allocator)

    def followed(self) -> tuple[list[dict[str, float]], float]:
        """The rows, and the allocator's own seconds per step. From the checkpoint, where there is one."""
        scenario, environment = self.cell.scenario, self.environment
        enough = self.cell.enough
        self._resume()
        if not self.rows:
            self._evaluate()
        most = MOST_STEPS * scenario.steps
        while environment.step < most and environment.ledger.generated[0] < enough:
            self.step()
            ended = environment.step == most or environment.ledger.generated[0] >= enough
            if environment.step % scenario.evaluate_every == 0 or ended:
                self._evaluate()
            if environment.step % self.cell.checkpoint_every == 0 or ended:
                self._save()
        return self.rows, self.allocator_seconds / max(environment.step, 1)

    def step(self) -> None:
        """One training step."""
        measuring = self.environment.unpaid
        self.allocator_seconds += run_step(self.environment, self.allocator).allocator_seconds
        self.allocator_seconds -= self.environment.unpaid - measuring

    def _evaluate(self) -> None:
        """One row: accuracy on held-out prompts, and all sums so far."""
        from real_runs.preparation import successes

        scenario, environment, held_out = self.cell.scenario, self.environment, self.prepared.held_out
        trials, k = held_out.trials, held_out.successes
        if environment.step > 0:  # before training it is known already
            trials = scenario.evaluation_rollouts
            k = successes(
                scenario, environment.model, environment.engine, self.verifier, held_out.problems, trials
            )
        columns = environment.columns()
        seconds = sum(float(columns[name][0]) for name in columns if name.startswith("seconds_"))
        row = {
            "steps": float(environment.step),
            "accuracy": float((k / trials).mean()),
            "pass_at_8": float(pass_at(PASS_AT, k, trials).mean()),
            **{
                n: float(v[0])
                for n, v in accuracy_by_bin((k / trials)[None], held_out.pass_rates[None]).items()
            },
            "cosine": float("nan"),  # nobody knows the true gradient
            "seconds": seconds + self.allocator_seconds,
            "seconds_allocation": self.allocator_seconds,
            **{name: float(value[0]) for name, value in columns.items()},
        }
        self.rows.append(row)
        self._report(row)

    def _report(self, row: dict[str, float]) -> None:
        """Tell whoever watches."""
        directory = self.cell.directory
        if directory is None:
            return
        directory.mkdir(parents=True, exist_ok=True)
        shown = {name: row[name] for name in ("steps", "accuracy", "rollouts", "seconds")}
        said = {"label": self.cell.label, "time": time.time(), "of": self.cell.enough, **shown}
        write_whole(directory / "progress.json", json.dumps(said).encode())
        if self.cell.tensorboard:
            named = directory.parent / "tensorboard" / re.sub(r"[^\w=,.\[\]-]", "_", self.cell.label)
            with need("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(named)) as writer:
                for name, value in row.items():
                    if np.isfinite(value):
                        writer.add_scalar(name, value, int(row["rollouts"]))

    def _save(self) -> None:
        directory = self.cell.directory
        if directory is None:
            return
        from real_runs import checkpoint

        state: State = {
            "environment": self.environment.state_dict(),
            "allocator": self.allocator.state_dict(),
            "allocator_seconds": self.allocator_seconds,
            "rows": self.rows,
        }
        checkpoint.save(directory / "checkpoint.safetensors", state)

    def _resume(self) -> None:
        directory = self.cell.directory
        if directory is None or not (directory / "checkpoint.safetensors").exists():
            return
        from real_runs import checkpoint

        state = checkpoint.load(directory / "checkpoint.safetensors")
        self.environment.load_state_dict(state["environment"])
        self.allocator.load_state_dict(state["allocator"])
        self.allocator_seconds, self.rows = state["allocator_seconds"], state["rows"]


def pass_at(k: int, successes: IntArray, trials: int) -> FloatArray:
    """Chance that one of k of the `trials` is a success, unbiased (Chen et al., arXiv 2107.03374, eq. 1)."""
    failures = (trials - successes)[:, None] - np.arange(k)
    chance: FloatArray = 1 - np.prod(np.maximum(failures, 0) / (trials - np.arange(k)), axis=1)
    return chance


def training_cells(
    scenarios: dict[str, RealScenario],
    allocators: dict[str, Allocator],
    estimator: Estimator,
    aggregation: TrainerAggregation,
    replicates: int,
    seed: int,
    **where: Any,
) -> list[TrainingCell]:
    """Every allocator on every task for every seed, and the reference runs; see `LearningCell`."""
    runs: list[tuple[str, Allocator, bool]] = [(REFERENCE, Uniform(), True)]
    runs += [(name, allocator, False) for name, allocator in allocators.items()]
    return [
        TrainingCell(
            scenario_name,
            scenario,
            name,
            allocator,
            estimator,
            aggregation,
            seed,
            replicate,
            reference,
            **where,
        )
        for scenario_name, scenario in scenarios.items()
        for name, allocator, reference in runs
        for replicate in range(replicates)
    ]
