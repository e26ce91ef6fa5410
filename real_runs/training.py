"""A real training run as a cell of a study: curves with the columns of the learning simulator's.

A replicate is one seed: of the order of prompts, of sampling, of the allocator. Model and prompts are the
same for all, as in practice, so intervals speak of runs, not of other models or data. A run is followed
until it has generated HORIZON times what uniform generates in the scenario's steps. It writes a
checkpoint every few steps and goes on from it after a kill, to the same results; only its seconds are
measured, and never the same twice. The number of steps says where a run ends and nothing of its course, so
a run with more steps goes on from the checkpoint of one with fewer.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from real_runs.settings import PPO, RealScenario
from rolloutbench.allocators.uniform import Uniform
from rolloutbench.cells.cell import identify
from rolloutbench.cells.collectors import HORIZON, REFERENCE, accuracy_by_bin
from rolloutbench.files import write_whole
from rolloutbench.loop import begin, check_trained, run_step
from rolloutbench.optional import brief_of, load, need
from rolloutbench.protocol import (
    Aggregation,
    Allocator,
    Estimator,
    FloatArray,
    InputError,
    IntArray,
    PromptStream,
    Setting,
    State,
    TrainerAggregation,
)
from rolloutbench.text import cleaned

MOST_STEPS = 4
"""Longest run, as a multiple of the scenario's steps: it ends there however few rollouts they take."""
PASS_AT = 8
TRL_FOLDER = "trl"
"""The folder of TRL's checkpoints in the directory of a run that it trains."""
STREAM, SAMPLING, ALLOCATOR = 1, 2, 3
"""Purposes of random streams; each purpose of a replicate has a stream of its own."""


@dataclass(frozen=True)
class TrainingCell:
    """A run of one allocator with one seed. The fields below `reference` say where it runs, not what."""

    scenario_name: str
    scenario: RealScenario
    allocator_name: str
    allocator: Allocator
    estimator: Estimator
    aggregation: TrainerAggregation
    seed: int
    replicate: int
    reference: bool = False
    rate: float = 1.0
    cache: Path = field(compare=False, kw_only=True)
    runs: Path | None = field(compare=False, default=None)
    checkpoint_every: int = field(compare=False, default=10)
    tensorboard: bool = field(compare=False, default=False)
    keep_checkpoints: bool = field(compare=False, default=False)

    @property
    def part(self) -> tuple[str, str]:
        """The names of scenario and allocator."""
        return self.scenario_name, self.allocator_name

    @property
    def label(self) -> str:
        """The name of the cell for people: scenario, allocator and seed."""
        rate = "" if self.rate == 1 else f" at rate x {self.rate:g}"
        return f"{self.scenario_name} {self.allocator_name}{rate} seed {self.replicate}"

    @property
    def directory(self) -> Path | None:
        """Directory of the run's checkpoints and progress, the same for any number of steps; or None."""
        if self.runs is None:
            return None
        course = replace(self, scenario=replace(self.scenario, steps=1))
        (key,) = identify([course])[0]  # with its source code: a checkpoint of other code is not continued
        return self.runs / key

    @property
    def enough(self) -> float:
        """Number of generated rollouts to which the run is followed."""
        return HORIZON * self.scenario.steps * self.scenario.budget.rollouts

    def has_ended(self, step: int, generated: float) -> bool:
        """Whether it is followed no further after so many steps and generated rollouts."""
        return step >= MOST_STEPS * self.scenario.steps or generated >= self.enough

    def run(self) -> pd.DataFrame:
        """Run the cell and return its curves: one row for each evaluation, with sums since the start.

        Columns are those that `analysis.metrics` describes.
        """
        with _enough_memory(), start(self, self.tell) as run:
            rows, seconds = run.follow()
            notes = run.notes
        keys = {
            "scenario": self.scenario_name,
            "allocator": self.allocator_name,
            "rate": self.rate,
            "replicate": self.replicate,
        }
        table = pd.DataFrame([{**keys, **row} for row in rows])
        table.attrs["allocator_seconds_per_step"] = seconds
        if notes:
            table.attrs["notes"] = notes
        return table

    def forget(self) -> None:
        """Remove what is of no use once its table is stored: the checkpoints, unless they are to be kept.

        Those of a longer run that is under way stay: it goes on from them.
        """
        if self.directory is not None and self.directory.is_dir():
            from rolloutbench import checkpoint

            if (self.directory / checkpoint.NEWEST).exists() and self._kept()[0] > self.scenario.steps:
                return
            (self.directory / "progress.json").unlink(missing_ok=True)
            if not self.keep_checkpoints:
                checkpoint.remove(self.directory)
                shutil.rmtree(self.directory / TRL_FOLDER, ignore_errors=True)
            for empty in (self.directory, self.directory.parent):  # where TensorBoard's files are not
                with contextlib.suppress(OSError):
                    empty.rmdir()

    def start_over(self) -> None:
        """Remove the checkpoints if they are at the end of the run, so that it is measured again.

        A run that is not at its end goes on, and checkpoints of a longer run stay.
        """
        if self.directory is not None and self.directory.is_dir():
            from rolloutbench import checkpoint

            steps, step, generated = self._kept()
            if steps <= self.scenario.steps and self.has_ended(step, generated):
                checkpoint.remove(self.directory)
            shutil.rmtree(self.directory / TRL_FOLDER, ignore_errors=True)  # which does not say its end

    def _kept(self) -> tuple[int, int, float]:
        """Steps to which the newest checkpoint's run goes, its step and rollouts; zeros without one."""
        from rolloutbench import checkpoint

        assert self.directory is not None
        wanted = ("steps",), ("environment", "step"), ("environment", "ledger", "generated")
        found = checkpoint.look_into(self.directory / checkpoint.NEWEST, *wanted)
        return (0, 0, 0.0) if found is None else (int(found[0]), int(found[1]), float(np.ravel(found[2])[0]))

    def report(self, **said: Any) -> None:
        """Write how far the run is into its progress file, where it has a directory."""
        if self.directory is None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        about = {"label": self.label, "time": time.time(), "of": self.enough}
        write_whole(self.directory / "progress.json", json.dumps(about | said).encode())

    def tell(self, doing: str) -> None:
        """Say in the progress file what is done before the run trains."""
        self.report(steps=0.0, accuracy=0.0, rollouts=0.0, seconds=0.0, doing=doing)

    def seeds(self, purpose: int) -> np.random.SeedSequence:
        """Seed sequence of a purpose; those of the reference run are its own."""
        return np.random.SeedSequence(self.seed, spawn_key=(self.replicate, purpose + 100 * self.reference))


@contextlib.contextmanager
def start(cell: TrainingCell, tell: Callable[[str], None] = lambda doing: None) -> Iterator[Run]:
    """Start a cell's run, before its first step, on one thread: two were at times 15 times slower.

    `tell` is told in a few words what is done before.
    """
    torch = need("torch", "llm")
    from real_runs.preparation import prepare

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        prepared = prepare(cell.scenario, cell.seed, cell.cache, tell)
        with cell.scenario.task.verifier() as verifier:
            run: Run = load(cell.scenario.trainer.run)(cell, prepared, verifier)
            with contextlib.closing(run.engine):
                yield run
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Say in one line that memory was not enough, and what takes less of it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):  # as libraries say it
            raise
        raise InputError(
            f"not enough memory ({brief_of(error)}): a smaller --model, fewer --prompts, a smaller "
            "--group-size or more memory is expected; the run goes on from its last checkpoint"
        ) from None


class Run(ABC):
    """State of a cell under way, whoever trains: the model, what samples from it, and the rows so far."""

    def __init__(self, cell: TrainingCell, prepared: Any, verifier: Any) -> None:
        from real_runs.preparation import new_engine

        self.cell, self.prepared, self.verifier = cell, prepared, verifier
        self.rows: list[dict[str, float]] = []
        self.notes: list[str] = []
        seed = int(cell.seeds(SAMPLING).generate_state(1, np.uint64)[0] >> 1)
        self.engine = new_engine(cell.scenario, prepared.model, seed)

    @abstractmethod
    def follow(self) -> tuple[list[dict[str, float]], float]:
        """Follow the run to its end, from a checkpoint where there is one.

        Returns its rows and the allocator's own seconds per step.
        """

    def evaluate(self, step: int, columns: Mapping[str, float]) -> None:
        """Append one row: accuracy on held-out prompts after `step` steps, and all sums so far.

        Where estimators see raw rewards, their mean is there too.
        """
        from real_runs.preparation import measure

        scenario, held_out = self.cell.scenario, self.prepared.held_out
        trials, k, rewards = held_out.trials, held_out.successes, held_out.rewards
        if step > 0:  # before training they are known already
            trials = scenario.evaluation_rollouts
            k, rewards = measure(
                scenario, self.prepared.model, self.engine, self.verifier, held_out.problems, trials
            )
        row = {
            "steps": float(step),
            "accuracy": float((k / trials).mean()),
            "pass_at_8": float(pass_at(PASS_AT, k, trials).mean()),
            **({"reward": float(rewards.mean())} if scenario.rewards.raw else {}),
            **{
                n: float(v[0])
                for n, v in accuracy_by_bin((k / trials)[None], held_out.pass_rates[None]).items()
            },
            "cosine": float("nan"),  # nobody knows the true gradient
            "seconds": sum(spent for name, spent in columns.items() if name.startswith("seconds_")),
            **columns,
        }
        self.rows.append(row)
        self._report(row)

    def report(self, row: Mapping[str, float]) -> None:
        """Write into the progress file how far the run was at a row, as where it goes on from there."""
        self.cell.report(**{name: row[name] for name in ("steps", "accuracy", "rollouts", "seconds")})

    def _report(self, row: dict[str, float]) -> None:
        """Write the latest row to the progress file, and to TensorBoard where that was asked for."""
        directory = self.cell.directory
        if directory is None:
            return
        self.report(row)
        if self.cell.tensorboard:
            named = directory.parent / "tensorboard" / re.sub(r"[^\w=,.\[\]-]", "_", self.cell.label)
            with need("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(named)) as writer:
                for name, value in row.items():
                    if np.isfinite(value):
                        writer.add_scalar(name, value, int(row["rollouts"]))


class TrainingRun(Run):
    """State of a cell that our own trainer trains: its environment and allocator."""

    def __init__(self, cell: TrainingCell, prepared: Any, verifier: Any) -> None:
        from real_runs.adapters import add_adapters
        from real_runs.environment import RealRun, TrainingPool
        from real_runs.trainer import Trainer

        scenario = cell.scenario
        assert isinstance(scenario.trainer, PPO)
        if scenario.trainer.lora:  # before an engine copies the network
            add_adapters(prepared.model.network, scenario.trainer.lora)
        super().__init__(cell, prepared, verifier)
        self.allocator_seconds = 0.0
        self.saves_for: int | None = scenario.steps
        """Steps of the longest run that goes on from its checkpoints; None where it must write none."""
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
        self.environment = RealRun(
            setting,
            PromptStream(setting.pool_size, 1, cell.seeds(STREAM)),
            TrainingPool(train.problems, train.prompts, train.pass_rates),
            scenario.task,
            model,
            self.engine,
            verifier,
            Trainer(model, scenario.trainer, scenario.temperature, self.engine.exact),
            cell.aggregation,
            cell.allocator.reusable,
            scenario.rewards,
        )
        self.allocator = begin(self.environment, cell.allocator)

    def follow(self) -> tuple[list[dict[str, float]], float]:
        """Follow the run to its end, step by step."""
        environment = self.environment
        self._resume()
        if self.rows:
            self.report(self.rows[-1])
        else:
            self._evaluate()
        saved = environment.step
        while not self.cell.has_ended(environment.step, environment.ledger.generated[0]):
            self.step()
            if environment.step % self.cell.scenario.evaluate_every == 0:
                self._evaluate()
            if environment.step % self.cell.checkpoint_every == 0:
                self._save()
                saved = environment.step
        check_trained(environment, self.allocator, environment.step)
        if saved < environment.step:
            self._save()
        if self.rows[-1]["steps"] < environment.step:  # not saved: a run with more steps does not have it
            self._evaluate()
        return self.rows, self.allocator_seconds / max(environment.step, 1)

    def step(self) -> None:
        """Take one training step, and count the allocator's own seconds."""
        measuring = self.environment.unpaid
        self.allocator_seconds += run_step(self.environment, self.allocator).allocator_seconds
        self.allocator_seconds -= self.environment.unpaid - measuring

    def _evaluate(self) -> None:
        """Append one row: accuracy on held-out prompts, and all sums so far."""
        columns = {name: float(value[0]) for name, value in self.environment.columns().items()}
        self.evaluate(self.environment.step, {"seconds_allocation": self.allocator_seconds, **columns})

    def _save(self) -> None:
        directory = self.cell.directory
        if directory is None or self.saves_for is None:
            return
        from rolloutbench import checkpoint

        state: State = {
            "steps": self.saves_for,
            "environment": self.environment.state_dict(),
            "allocator": self.allocator.state_dict(),
            "allocator_seconds": self.allocator_seconds,
            "rows": self.rows,
        }
        checkpoint.save(directory / checkpoint.NEWEST, state, directory / checkpoint.EARLIER)

    def _resume(self) -> None:
        """Go on from the newest checkpoint that can be read and lies on this run's way."""
        directory = self.cell.directory
        if directory is None:
            return
        from rolloutbench import checkpoint

        state, self.notes = checkpoint.load_newest(directory)
        for note in self.notes:
            self._say(note)
        if state is None:
            return
        inside = state["environment"]
        beyond = self.cell.has_ended(inside["step"], inside["ledger"]["generated"][0])
        if state["steps"] > self.cell.scenario.steps and beyond:
            self._say("the checkpoint of a run with more steps is kept, so this one writes none")
            self.saves_for = None
            return
        self.saves_for = max(self.cell.scenario.steps, state["steps"])
        self.environment.load_state_dict(inside)
        self.allocator.load_state_dict(state["allocator"])
        self.allocator_seconds, self.rows = state["allocator_seconds"], state["rows"]

    def _say(self, note: str) -> None:
        print(f"rolloutbench: {cleaned(f'{self.cell.label}: {note}')}", file=sys.stderr)


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
    rates: Sequence[float] = (1.0,),
    **where: Any,
) -> list[TrainingCell]:
    """Cells of every allocator on every task for every seed, and reference runs as in `LearningCell`.

    Allocators run at every one of the `rates`, which are factors of the trainer's learning rate.
    """
    runs: list[tuple[str, Allocator, float, bool]] = [(REFERENCE, Uniform(), 1.0, True)]
    runs += [(name, allocator, rate, False) for name, allocator in allocators.items() for rate in rates]
    return [
        TrainingCell(
            scenario_name,
            scenario.at_rate(rate),
            name,
            allocator,
            estimator,
            aggregation,
            seed,
            replicate,
            reference,
            rate,
            **where,
        )
        for scenario_name, scenario in scenarios.items()
        for name, allocator, rate, reference in runs
        for replicate in range(replicates)
    ]
