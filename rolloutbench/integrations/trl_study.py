"""A run of TRL's becomes a study: what it evaluates is kept, and added to a directory when it is done.

    trainer = AllocatedGRPOTrainer(..., args=GRPOConfig(..., eval_strategy="steps", eval_on_start=True))
    trainer.add_callback(RecordRun(trainer, "out/study", scenario="gsm8k", replicate=0))

`rolloutbench show`, `diff`, `report`, `fit` and `validate` then read it as they read simulated runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rolloutbench import checkpoint
from rolloutbench.cells.collectors import HORIZON
from rolloutbench.integrations.trl import FOLDER, PHASES, AllocatedGRPOTrainer
from rolloutbench.protocol import InputError
from rolloutbench.studies.recorded import RecordedRun, add

ROWS = "rows.safetensors"
"""The file of what was evaluated so far, in the allocator's folder of a checkpoint."""


class RecordRun(TrainerCallback):
    """Keeps a run's evaluations, and adds it to the study in `directory` when its training has ended.

    `scenario` names what is trained on what. `replicate` is the number of the seed, from 0: runs of other
    allocators with the same number are compared with it. `accuracy` is the evaluation that counts: the mean
    of the reward function that `success` names, or the reward. `steps` is where allocators are compared; None
    is two thirds of the run, since a gain that is late is still seen in the last third. Raises InputError
    where the run is not evaluated before its first step and between others.
    """

    def __init__(
        self,
        trainer: AllocatedGRPOTrainer,
        directory: str | Path,
        *,
        scenario: str,
        replicate: int = 0,
        accuracy: str | None = None,
        steps: int | None = None,
    ) -> None:
        if str(trainer.args.eval_strategy).endswith("no") or not trainer.args.eval_on_start:
            raise InputError(
                "eval_strategy, eval_on_start: a study is of gains since before the first step; steps or "
                "epoch, and True are expected"
            )
        self.directory, self.scenario, self.replicate = Path(directory), scenario, replicate
        self.accuracy = accuracy or trainer.accuracy_metric
        self.steps = steps
        self.rows: list[dict[str, float]] = []
        self._trainer = trainer
        self._seconds = self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Go on with the rows of the checkpoint that training goes on from."""
        restored = self._trainer.restored
        if restored is not None and state.is_world_process_zero:
            kept = checkpoint.load(restored / ROWS)
            self.rows, self._seconds = kept["rows"], kept["seconds"]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step begins, and with it its seconds."""
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A step ends; evaluations and checkpoints come after it."""
        self._seconds += time.perf_counter() - self._started

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Keep one row. Raises InputError where the evaluation does not say the accuracy."""
        metrics = given["metrics"]
        if not state.is_world_process_zero:
            return
        if metrics.get(self.accuracy) is None:
            known = ", ".join(name for name in metrics if "reward" in name)
            raise InputError(f"accuracy={self.accuracy}: no evaluation says it; known: {known}")
        columns = self._trainer.columns()
        spent = {f"seconds_{phase}": columns[f"seconds_{phase}"] for phase in PHASES}
        update = max(self._seconds - sum(spent.values()), 0.0)
        coach = self._trainer.coach
        assert coach is not None
        row = {
            "steps": float(coach.step),
            "accuracy": float(metrics[self.accuracy]),
            "seconds": sum(spent.values()) + update,
            **columns,
            "seconds_update": update,
        }
        if not self.rows or self.rows[-1]["steps"] < row["steps"]:  # one that goes on is evaluated once more
            self.rows.append(row)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the rows so far in the checkpoint."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir, f"checkpoint-{state.global_step}", FOLDER)
            checkpoint.save(folder / ROWS, {"rows": self.rows, "seconds": self._seconds})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the run to the study, and say what its results still lack."""
        if not state.is_world_process_zero:
            return
        trainer, coach = self._trainer, self._trainer.coach
        assert coach is not None
        budget, said = coach.setting.budget, coach.conditions
        model = f"{type(trainer.model).__name__} in {trainer.accelerator.num_processes} processes"
        run = RecordedRun(
            scenario=self.scenario,
            allocator=trainer.allocator_name,
            replicate=self.replicate,
            rows=self.rows,
            steps=self.steps or max(int(coach.step / HORIZON), 1),
            estimator=str(said["estimator"]),
            aggregation=trainer.aggregation,
            prompts=budget.prompts,
            group_size=budget.rollouts // budget.prompts,
            told=f"TRL, {args.loss_type}, learning rate {args.learning_rate:g}, {model}",
            training={"trainer": "TRL", "pool_size": coach.setting.pool_size},
            seconds_per_step=trainer.columns()["seconds_allocation"] / max(coach.step, 1),
        )
        lacking = add(self.directory, run)
        print(f"rolloutbench show {self.directory}" if lacking is None else f"{self.directory}: {lacking}")
