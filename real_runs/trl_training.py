"""A training run that TRL makes: its GRPOTrainer with the allocator, on the same task, model and evaluation.

TRL samples and trains; prompts are encoded, and responses decoded, verified and evaluated, as in every other
run. A rollout counts what it does for our own trainer: aggregation `token` is TRL's loss type `dapo`, the
others are `dr_grpo`, whose mean also divides by the tokens of the longest response. AdamW does not see a
constant factor; in its `eps` and in the clipping of the gradient it is undone.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback

from real_runs.models import PAD, LanguageModel, quiet
from real_runs.settings import TRL
from real_runs.tasks import Problem
from real_runs.training import MOST_STEPS, STREAM, TRL_FOLDER, Run, TrainingCell
from rolloutbench import checkpoint
from rolloutbench.cells.collectors import CountsBySuccess
from rolloutbench.files import Damaged
from rolloutbench.integrations.trl import PHASES, AllocatedGRPOTrainer
from rolloutbench.loop import check_trained
from rolloutbench.protocol import BoolArray, FloatArray, Groups, Outcomes, State
from rolloutbench.rewards import Judged

STATE = "run.safetensors"
"""The file of a run's rows in a checkpoint of TRL; written last, so without it a checkpoint is not whole."""


class TRLRun(Run):
    """State of a cell that TRL trains."""

    def __init__(self, cell: TrainingCell, prepared: Any, verifier: Any) -> None:
        super().__init__(cell, prepared, verifier)
        self.step = 0
        self.seconds = 0.0
        """Seconds of all steps, evaluations and checkpoints aside."""
        self._scratch = tempfile.TemporaryDirectory(prefix="rolloutbench-trl-")
        kept = cell.directory
        self._folder = Path(self._scratch.name) if kept is None else kept / TRL_FOLDER
        with _silence():
            self.trainer = self._new_trainer()

    def follow(self) -> tuple[list[dict[str, float]], float]:
        """Have TRL train, and look in after every step."""
        newest = self._resume()
        if self.rows:
            self.report(self.rows[-1])
        else:
            self.evaluate(0, self._columns())
        with _silence(), self._scratch:
            if not self.has_ended:
                self.trainer.train(resume_from_checkpoint=newest)
            elif newest is not None:
                self.trainer._load_from_checkpoint(newest)
        assert self.trainer.coach is not None
        check_trained(self.trainer.coach, self.cell.allocator, self.step)
        if self.rows[-1]["steps"] < self.step:  # not saved: a run with more steps does not have it
            self.evaluate(self.step, self._columns())
        return self.rows, self.trainer.columns()["seconds_allocation"] / max(self.step, 1)

    @property
    def has_ended(self) -> bool:
        """Whether the run is followed no further."""
        return self.cell.has_ended(self.step, self.trainer.columns()["rollouts"])

    def end_step(self) -> None:
        """Count a step of TRL's, and evaluate where it is time."""
        self.step += 1
        if self.step % self.cell.scenario.evaluate_every == 0:
            self.evaluate(self.step, self._columns())

    def save(self, folder: Path) -> None:
        """Save what TRL's checkpoint in `folder` does not hold."""
        state: State = {
            "steps": self.cell.scenario.steps,
            "step": self.step,
            "rollouts": self.trainer.columns()["rollouts"],
            "seconds": self.seconds,
            "rows": self.rows,
            "engine": self.engine.state_dict(),
            "counts": vars(self.trainer.counts),
        }
        checkpoint.save(folder / STATE, state)

    def _resume(self) -> str | None:
        """The newest checkpoint that is whole and lies on this run's way; what is not whole is removed."""
        found = sorted(self._folder.glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2]))
        for folder in found:
            try:
                state = checkpoint.load(folder / STATE)
            except Damaged:
                shutil.rmtree(folder)
                continue
            beyond = self.cell.has_ended(state["step"], state["rollouts"])
            if state["steps"] > self.cell.scenario.steps and beyond:  # of a longer run
                continue
            self.step, self.seconds, self.rows = state["step"], state["seconds"], state["rows"]
            self.engine.load_state_dict(state["engine"])
            vars(self.trainer.counts).update(state["counts"])
            self.trainer.restore(folder)
            return str(folder)
        return None

    def _columns(self) -> dict[str, float]:
        columns = self.trainer.columns()
        others = sum(columns[f"seconds_{phase}"] for phase in PHASES)
        counts = {name: float(value[0]) for name, value in self.trainer.counts.columns().items()}
        return columns | {"seconds_update": max(self.seconds - others, 0.0)} | counts

    def _new_trainer(self) -> _Trainer:
        """TRL's trainer with the run's settings, optimizer and rewards."""
        from datasets import Dataset
        from trl import GRPOConfig

        cell, scenario, model, train = self.cell, self.cell.scenario, self.prepared.model, self.prepared.train
        settings = scenario.trainer
        assert isinstance(settings, TRL)
        rollouts, longest = scenario.budget.rollouts, scenario.task.max_new_tokens
        micro = max(size for size in range(1, settings.micro_batch + 1) if rollouts % size == 0)
        per_token = cell.aggregation == "token"
        scale = 1.0 if per_token else 1.0 / longest
        args = GRPOConfig(
            output_dir=str(self._folder),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=rollouts // micro,
            num_generations=scenario.group_size,
            num_iterations=settings.epochs,
            reward_weights=[1.0, 0.0],
            max_steps=MOST_STEPS * scenario.steps * settings.epochs,
            max_completion_length=longest,
            temperature=scenario.temperature,
            loss_type="dapo" if per_token else "dr_grpo",
            epsilon=settings.clip_low,
            epsilon_high=settings.clip_high,
            max_grad_norm=0.0 if settings.gradient_norm is None else settings.gradient_norm * scale,
            disable_dropout=True,
            gradient_checkpointing=False,
            seed=int(cell.seeds(STREAM).generate_state(1)[0]),
            use_cpu=scenario.device == "cpu",
            bf16=scenario.device == "cuda",
            save_strategy="no" if cell.directory is None else "steps",
            save_steps=MOST_STEPS * scenario.steps * settings.epochs,
            save_total_limit=2,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        optimizer = torch.optim.AdamW(
            [p for p in model.network.parameters() if p.requires_grad],
            settings.learning_rate,
            (settings.beta1, settings.beta2),
            eps=1e-8 * scale,
            weight_decay=settings.weight_decay,
        )
        warmup = max(settings.warmup_steps * settings.epochs, 1)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: min(1.0, (done + 1) / warmup))

        last: list[Judged] = []  # what was judged last: TRL asks both functions about it, one after the other

        def reward(
            completion_ids: Sequence[Sequence[int]], row: Sequence[int], **_: Any
        ) -> list[float | None]:
            of: list[Problem] = [train.problems[place] for place in row]
            raw = self.verifier.score(of, [model.decode(ids) for ids in completion_ids])
            lengths = np.array([len(ids) for ids in completion_ids])
            last[:] = [scenario.rewards.judge(scenario.task, raw, lengths)]
            return _with_none(last[0].rewards, last[0].unverified)

        def success(**_: Any) -> list[float | None]:
            return _with_none(last[0].success, last[0].unverified)

        texts = [problem.prompt for problem in train.problems]
        trainer = _Trainer(
            model.network,
            [reward, success],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": texts, "row": list(range(len(texts)))}),
            processing_class=_tokenizer(model),
            optimizers=(optimizer, rate),
            allocator=cell.allocator,
            estimator=cell.estimator,
            aggregation="rollout" if per_token else cell.aggregation,
            success="success",
            no_verdict=settings.no_verdict,
            features=self.prepared.features[0],
        )
        trainer.encoded = dict(zip(texts, train.prompts, strict=True))
        trainer.pass_rates = train.pass_rates
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Watch(self))
        return trainer


def _with_none(values: FloatArray | BoolArray, unverified: BoolArray) -> list[float | None]:
    """Values (N,) as TRL takes them, None where the verifier failed."""
    return [None if lacking else float(value) for value, lacking in zip(values, unverified, strict=True)]


class _Trainer(AllocatedGRPOTrainer):
    """TRL's trainer on prompts that are encoded already; it also counts who gets how many rollouts."""

    encoded: Mapping[str, Sequence[int]]
    pass_rates: FloatArray

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.counts = CountsBySuccess(1)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.encoded[prompt]) for prompt in prompts], None, {}

    def _count(self, groups: Groups, generated: Outcomes | None) -> None:
        super()._count(groups, generated)
        if generated is not None:
            self.counts.add(self.pass_rates[generated.prompts], generated.generated)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: a study says itself how it was made."""


class _Watch(TrainerCallback):
    """Tells a run how TRL gets on."""

    def __init__(self, run: TRLRun) -> None:
        self._run = run
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run = self._run
        run.seconds += time.perf_counter() - self._started
        if state.global_step % args.num_iterations:
            return
        run.end_step()
        control.should_training_stop |= run.has_ended
        due = run.has_ended or run.step % run.cell.checkpoint_every == 0
        control.should_save |= due and run.cell.directory is not None

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._run.save(Path(args.output_dir, f"checkpoint-{state.global_step}"))


def _tokenizer(model: LanguageModel) -> PreTrainedTokenizerFast:
    """What TRL asks of a tokenizer that has nothing to encode: ids of padding and end, and decoding."""

    class Tokens(PreTrainedTokenizerFast):
        def batch_decode(self, sequences: Any, *_: Any, **__: Any) -> list[str]:
            return [model.decode(ids) for ids in sequences]

    known = {"<end>": model.end} | ({"<pad>": PAD} if model.end != PAD else {})
    made = Tokens(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel(known, unk_token="<end>")), padding_side="left"
    )
    made.eos_token, made.pad_token = "<end>", "<pad>" if model.end != PAD else "<end>"
    model.network.generation_config.eos_token_id = model.end
    return made


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Let libraries say nothing: what they would print is no part of this program's output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
