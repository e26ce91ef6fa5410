"""TRL's GRPOTrainer with an allocator: one argument more, and everything else as it was.

    AllocatedGRPOTrainer(model, reward, args=GRPOConfig(...), train_dataset=data, allocator="mopps").train()

The budget is what GRPOConfig states already: `generation_batch_size` rollouts a step, `num_generations` of
a prompt on average. Process 0 owns the coach and broadcasts what it decides, and what it raises.

A batch is made in two passes. Draw: for each `ask`, TRL's own `_generate` and `_calculate_rewards` run on
the prompts asked for, dealt out to the processes. Replay: the rollouts to train on, dealt out anew, go
through TRL's own `_generate_and_score_completions`, whose two calls are answered from memory; so padding,
old and reference log-probabilities and vLLM's importance ratios stay TRL's. Then only the advantages are
replaced: each is multiplied by what turns TRL's normaliser into the rollout's share of the batch.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from rolloutbench import checkpoint
from rolloutbench.allocators import allocators
from rolloutbench.cells.collectors import Totals
from rolloutbench.coach import Batch, Coach
from rolloutbench.optional import need
from rolloutbench.protocol import (
    Allocator,
    Estimator,
    FeatureArray,
    FloatArray,
    Groups,
    InputError,
    IntArray,
    NoVerdict,
    Outcomes,
)

need("trl", "trl")  # says how to get it

import torch  # noqa: E402
from accelerate.utils import broadcast_object_list, gather_object  # noqa: E402
from datasets import IterableDataset  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from trl import GRPOTrainer  # noqa: E402

T = TypeVar("T")

PER_ROLLOUT = ("grpo", "dr_grpo", "luspo", "sapo")
"""TRL's loss types that are a mean over rollouts."""
PER_TOKEN = ("dapo", "cispo", "vespo")
"""TRL's loss types that are a mean over all tokens of a generation batch."""
ESTIMATORS = {"group": "grpo[eps=1e-4]", "none": "dr_grpo"}
"""The estimator that TRL's `scale_rewards` stands for; its standard deviation is that of a sample."""
FOLDER = "rolloutbench"
"""The folder of the allocator's state in a checkpoint of TRL."""
PHASES = ("generation", "verification", "allocation")
"""Phases on which seconds are spent, beside the update."""
COACH, ROLLOUTS = "coach.safetensors", "rollouts.safetensors"
"""The files in it: what the allocator knows, and the rollouts that it may still train on."""


@dataclass(frozen=True)
class Rollout:
    """One completion as every process holds it, until it is trained on or given up.

    `prompt`: row of the data set. `prompt_ids`, `ids`: tokens. `logprobs`: of the sampler, where it says
    them. `mask`: 1 for tokens of the model, 0 for those of its surroundings; None where all are its own.
    `completion`: text or messages. `rewards` (F,): of each reward function, NaN for none. `extra`: what
    reward functions logged of it.
    """

    prompt: int
    prompt_ids: npt.NDArray[np.int32]
    ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32] | None
    mask: npt.NDArray[np.int8] | None
    completion: Any
    rewards: npt.NDArray[np.float32]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Number of tokens that are trained on."""
        return len(self.ids) if self.mask is None else int(self.mask.sum())


class AllocatedGRPOTrainer(GRPOTrainer):
    """TRL's GRPOTrainer, in which an allocator says how many completions of which prompts are sampled.

    All arguments of GRPOTrainer, and by name:

    `allocator`: a spec such as `mopps` or `vip[predictor=beta]`, or an Allocator. `estimator`: the advantage
    rule; None is what `scale_rewards` says. `aggregation`: `rollout`, every rollout counts as the loss type
    has it, or `prompt`, every prompt the same. `success`: the name of the reward function that says whether a
    rollout succeeded; None is the weighted sum. `threshold`: it did where that is larger. `no_verdict`: what
    becomes of a rollout of which no function gave a reward. `features` (Q, d): of the data set's rows, for
    predictors that read them, or a function that makes them of prompts. `skip_zero_rows`: whether rollouts
    without a gradient are spared their forward and backward pass, where nothing else in the loss needs them;
    metrics of a forward pass, such as entropy, are then means over the others.

    Where an update trains on more rollouts than `generation_batch_size`, micro-batches are larger in
    proportion. Where they cannot be dealt out evenly, batches are filled up with rows of one masked token.
    These have no share in the policy's loss; in a mean over rows of the KL term (`beta`) they
    count as zeros. Rollouts kept from an earlier step have the ratio 1 to the policy at the step's
    beginning, as TRL's have, and vLLM's correction is to the policy that sampled them.

    Raises InputError where an allocator cannot do what the configuration asks.
    """

    num_generations: int
    _logs: dict[str, Any]

    def __init__(
        self,
        *args: Any,
        allocator: str | Allocator,
        estimator: str | Estimator | None = None,
        aggregation: Literal["rollout", "prompt"] = "rollout",
        success: str | None = None,
        threshold: float = 0.5,
        no_verdict: NoVerdict = "drop",
        features: FeatureArray | Callable[[list[Any]], FeatureArray] | None = None,
        skip_zero_rows: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._check(aggregation, success)
        self.aggregation = aggregation
        self.allocator_name = allocators.spec_of(allocators.create(allocator))
        if isinstance(allocator, str):
            self.allocator_name = "".join(allocator.split())
        self._success = None if success is None else self.reward_func_names.index(success)
        self._rollouts: dict[int, Rollout] = {}
        self._next = self._filled = 0
        self._replayed: Sequence[Rollout] | None = None
        self._generated: list[npt.NDArray[np.float32]] = []
        self._totals, self._tokens = Totals(1), 0
        self._seconds = dict.fromkeys(PHASES, 0.0)
        only_policy = self.beta == 0 and not self._entropy_bonus_enabled and not self.aux_loss_enabled
        only_policy &= self.top_entropy_quantile == 1.0 and not self.mask_truncated_completions
        self._skips = skip_zero_rows and only_policy
        self.coach: Coach[int] | None = None
        """The coach of process 0; None in the others."""
        self.restored: Path | None = None
        """The allocator's folder of the checkpoint that training goes on from, if any."""

        def begin() -> None:
            self.coach = Coach(
                allocator,
                prompts=self.args.generation_batch_size // self.num_generations,
                rollouts=self.args.generation_batch_size,
                pool_size=len(self.train_dataset),
                estimator=estimator or ESTIMATORS[self.scale_rewards],
                aggregation="token" if aggregation == "rollout" and self._per_token else aggregation,
                threshold=threshold,
                no_verdict=no_verdict,
                seed=self.args.seed,
                features=features(list(self.train_dataset["prompt"])) if callable(features) else features,
                fingerprint=_fingerprint(self.train_dataset),
            )

        self._on_main(begin)

    # TRL's own calls

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a generation batch; the rows that TRL drew from the data set are not those that are used."""
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        group_size, self.num_generations = self.num_generations, 1  # a row is a row, whatever its group
        self._generated = []
        try:
            while (ask := self._of_coach(lambda coach: coach.ask())) is not None:
                self._draw(ask.each)
            return self._train_on(self._of_coach(self._end_step))
        finally:
            self.num_generations, self._replayed = group_size, None

    def _generate(self, prompts: list[Any]) -> Any:
        """Completions of prompts; in a replay, those that are there."""
        if self._replayed is None:
            return super()._generate(prompts)
        rows = self._replayed
        has_logprobs, has_mask = rows[0].logprobs is not None, rows[0].mask is not None
        return (
            [row.prompt_ids.tolist() for row in rows],
            [row.ids.tolist() for row in rows],
            [row.mask.tolist() for row in rows if row.mask is not None] if has_mask else None,
            [row.completion for row in rows],
            [row.logprobs.tolist() for row in rows if row.logprobs is not None] if has_logprobs else None,
            {},
            None,
            [],
        )

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], ids: list[list[int]]
    ) -> torch.Tensor:
        """Rewards of all processes (N, F); in a replay, those that are there."""
        if self._replayed is None:
            return super()._calculate_rewards(inputs, prompts, completions, ids)  # type: ignore[no-any-return]
        own = torch.from_numpy(np.stack([row.rewards for row in self._replayed]))
        gathered: torch.Tensor = self.accelerator.gather(own.to(self.accelerator.device))
        return gathered

    # Draw

    def _draw(self, each: IntArray) -> None:
        """Sample one completion of each prompt (N,), as many at once as in TRL, and tell the coach."""
        most = self.args.generation_batch_size
        parts = [self._sample(each[start : start + most]) for start in range(0, len(each), most)]
        keys = [key for part, _ in parts for key in part]
        rewards = np.concatenate([part for _, part in parts])
        self._generated.append(rewards)
        total = self._weighted(rewards)
        verdict = None if self._success is None else rewards[:, self._success]
        self._of_coach(lambda coach: coach.tell(total, keys, success=verdict))

    def _sample(self, each: IntArray) -> tuple[list[int], npt.NDArray[np.float32]]:
        """Keys and rewards (N, F) of one completion of each prompt (N,), on all processes."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        spare = -len(each) % ranks  # every process takes the same number: the last ones are drawn for nobody
        mine = np.append(each, np.full(spare, each[-1])).reshape(ranks, -1)[rank]
        inputs = [dict(self.train_dataset[int(q)]) for q in mine]
        prompts = [row["prompt"] for row in inputs]
        with self._time("generation"):
            prompt_ids, ids, masks, completions, logprobs, further, *_ = super()._generate(prompts)
        for name, values in further.items():
            of_rows = values if isinstance(values, list) else [values] * len(inputs)
            for row, value in zip(inputs, of_rows, strict=True):
                row[name] = value
        with self._time("verification"):
            given = super()._calculate_rewards(inputs, prompts, completions, ids)
        rewards = given.float().cpu().numpy()
        first = rank * len(mine)
        own = [
            Rollout(
                int(mine[row]),
                np.asarray(prompt_ids[row], np.int32),
                np.asarray(ids[row], np.int32),
                None if logprobs is None else _as_floats(logprobs[row]),
                None if masks is None else np.asarray(masks[row], np.int8),
                completions[row],
                rewards[first + row],
                {name: said[row] for name, said in self._pending_extra_logs.items() if row < len(said)},
            )
            for row in range(len(mine))
        ]
        self._pending_extra_logs.clear()
        sampled = gather_object(own)
        self._tokens += sum(len(rollout.ids) for rollout in sampled)
        sampled, rewards = sampled[: len(each)], rewards[: len(each)]
        keys = list(range(self._next, self._next + len(each)))
        self._rollouts.update(zip(keys, sampled, strict=True))
        self._next += len(each)
        self._filled += spare
        return keys, rewards

    def _weighted(self, rewards: npt.NDArray[np.float32]) -> FloatArray:
        """Weighted sums (N,) of rewards (N, F); NaN where no function gave one."""
        total = np.nansum(rewards * self.reward_weights.cpu().numpy(), axis=1, dtype=np.float64)
        found: FloatArray = np.where(np.isnan(rewards).all(axis=1), np.nan, total)
        return found

    def _end_step(self, coach: Coach[int]) -> Batch[int]:
        """The step's batch; what it was made of is counted."""
        groups, generated = coach.groups, coach.ledger.step_merged
        batch = coach.batch()
        assert groups is not None
        self._count(groups, generated)
        return batch

    def _count(self, groups: Groups, generated: Outcomes | None) -> None:
        """Count what process 0's allocator trains on, and all that the step generated."""
        self._totals.add(groups, generated)

    def columns(self) -> dict[str, float]:
        """Sums since the start as the curves of a study have them, seconds of an update aside; of process 0.

        What was drawn for nobody is on the bill, as discarded.
        """
        assert self.coach is not None
        bill = self.coach.bill()
        found = {name: float(value[0]) for name, value in self._totals.columns(self.coach.ledger).items()}
        found |= {"tokens": float(self._tokens), "unverified": bill["unverified"], "epoch": bill["epoch"]}
        found |= {f"seconds_{phase}": spent for phase, spent in self._seconds.items()}
        for name in ("rollouts", "discarded_other"):
            found[name] += self._filled
        return found

    # Replay

    def _train_on(self, batch: Batch[int]) -> dict[str, Any]:
        """The generation batch of this process, as TRL makes it of rows that are there."""
        if batch.option == "replay":
            raise InputError(
                "reuse=replay: TRL has no ratio to the policy of an earlier step; I, II or none is expected"
            )
        rows = [self._rollouts[key] for key in batch.rollouts]
        places = self._deal(batch)
        mine = places[self.accelerator.process_index]
        self._replayed = [rows[place] if place >= 0 else self._blank(rows) for place in mine]
        logs = copy.deepcopy(self._logs)
        output = super()._generate_and_score_completions(
            [{"prompt": self.train_dataset[row.prompt]["prompt"]} for row in self._replayed]
        )
        self._logs = logs  # its rows are shuffled, filled up, and have other advantages
        real = torch.from_numpy(mine >= 0).to(output["completion_mask"].device)
        output["completion_mask"] = output["completion_mask"] * real[:, None]
        trained_on = output["completion_mask"] * output.get("tool_mask", 1)
        lengths = np.array([row.tokens for row in rows], dtype=np.int64)
        dealt = places.ravel() >= 0  # TRL may have masked some of their tokens
        seen = self.accelerator.gather(trained_on.sum(dim=1)).cpu().numpy()
        lengths[places.ravel()[dealt]] = seen[dealt]
        worth = batch.advantages * self._factors(batch, lengths, places.size)
        own = np.where(mine >= 0, worth[mine], 0.0) if len(worth) else np.zeros(len(mine))
        output["advantages"] = torch.from_numpy(own.astype(np.float32)).to(real.device)
        output["num_items_in_batch"] = torch.full_like(output["num_items_in_batch"], max(lengths.sum(), 1))
        self._forget()
        self._log_step(batch, rows, int((batch.advantages * batch.weight != 0).sum()))
        return output  # type: ignore[no-any-return]

    def _deal(self, batch: Batch[int]) -> IntArray:
        """Places in the batch of each process's rows (W, n), -1 for rows that only fill up.

        TRL cuts a process's rows into equal micro-batches, so every process has a multiple of their number.
        """
        kept = np.flatnonzero(batch.advantages * batch.weight) if self._skips else np.arange(len(batch))
        ranks, parts = self.accelerator.num_processes, self.args.steps_per_generation
        size = max(-(-len(kept) // (ranks * parts)), 1) * ranks * parts
        if len(kept) == size:
            return kept.reshape(ranks, -1)
        return np.append(kept, np.full(size - len(kept), -1)).reshape(-1, ranks).T

    def _blank(self, rows: Sequence[Rollout]) -> Rollout:
        """A row of one token, which will be masked."""
        like = next(iter(rows or self._rollouts.values()), None)
        if like is None:  # nothing was ever sampled
            end, none = np.array([self.processing_class.eos_token_id], np.int32), np.zeros(1, np.float32)
            rewards = np.full(len(self.reward_funcs), np.nan, np.float32)
            return Rollout(0, end, end, none if self.use_vllm else None, None, "", rewards)
        return replace(
            like,
            ids=like.ids[:1],
            logprobs=None if like.logprobs is None else like.logprobs[:1],
            mask=None if like.mask is None else np.ones(1, np.int8),
            rewards=np.full_like(like.rewards, np.nan),
        )

    def _factors(self, batch: Batch[int], lengths: IntArray, dealt: int) -> FloatArray:
        """What turns TRL's normaliser into the shares of the batch (N,): 1 for equal groups of weight 1.

        TRL's mean is over all `dealt` rows, or over all tokens. `lengths` (N,): a rollout's tokens.
        """
        if not self._per_token:
            return batch.shares(self.aggregation) * dealt
        if self.aggregation == "rollout":
            return batch.weight
        of_group = np.bincount(batch.group, lengths, batch.group.max(initial=0) + 1)[batch.group]
        factors: FloatArray = batch.weight * lengths.sum() / np.maximum(batch.groups * of_group, 1)
        return factors

    @property
    def accuracy_metric(self) -> str:
        """TRL's name of the evaluation by which rollouts succeed."""
        if self._success is None:
            return "eval_reward"
        return f"eval_rewards/{self.reward_func_names[self._success]}/mean"

    @property
    def _per_token(self) -> bool:
        return self.args.loss_type in PER_TOKEN

    def _forget(self) -> None:
        """Drop all rollouts that no later batch can name."""
        held = set(self._of_coach(lambda coach: coach.holding()))
        self._rollouts = {key: row for key, row in self._rollouts.items() if key in held}

    # Processes

    def _on_main(self, call: Callable[[], T]) -> T:
        """What process 0 gets from a call, in every process; what it raises, too."""
        said: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                said = [(True, call())]
            except Exception as error:  # the others would wait for ever
                said = [(False, error)]
        good, value = broadcast_object_list(said, from_process=0)[0]
        if not good:
            raise value
        return value  # type: ignore[no-any-return]

    def _of_coach(self, call: Callable[[Coach[int]], T]) -> T:
        """What process 0's coach says, in every process."""

        def asked() -> T:
            assert self.coach is not None
            with self._time("allocation"):
                return call(self.coach)

        return self._on_main(asked)

    @contextlib.contextmanager
    def _time(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - started

    # What is not supported

    def _check(self, aggregation: str, success: str | None) -> None:
        """Raise InputError in one line where the configuration and an allocator do not go together."""
        args = self.args
        losses = ", ".join(PER_ROLLOUT + PER_TOKEN)
        if args.loss_type not in PER_ROLLOUT + PER_TOKEN:
            _refuse("loss_type", args.loss_type, "a mean over the groups that a micro-batch has", losses)
        if self.scale_rewards not in ESTIMATORS:
            _refuse("scale_rewards", self.scale_rewards, "a deviation across prompts", "group or none")
        if self.multi_objective_aggregation != "sum_then_normalize":
            given = self.multi_objective_aggregation
            _refuse("multi_objective_aggregation", given, "across prompts", "sum_then_normalize")
        if aggregation not in ("rollout", "prompt"):
            _refuse("aggregation", aggregation, "unknown", "rollout or prompt")
        if success is not None and success not in self.reward_func_names:
            _refuse("success", success, "no reward function's name", " or ".join(self.reward_func_names))
        if self.environment_factories is not None:
            _refuse("environment_factory", "(given)", "its turns are not kept between steps", "None")
        if self.tools:
            _refuse("tools", "(given)", "their turns are not kept between steps", "None")
        if self._is_vlm:
            _refuse("model", type(self.model).__name__, "images are not kept between steps", "text alone")
        if getattr(self, "use_liger_kernel", False):  # where TRL has a loss of its own for it
            _refuse("use_liger_kernel", True, "a loss with its own mean in this release of TRL", "False")
        if isinstance(self.train_dataset, IterableDataset):
            _refuse("train_dataset", "(a stream)", "prompts are chosen by their row", "a map-style Dataset")
        prompts = args.generation_batch_size // self.num_generations
        if len(self.train_dataset) < prompts:
            reason = f"a step draws generation_batch_size / num_generations = {prompts}"
            _refuse("train_dataset", f"({len(self.train_dataset)} prompts)", reason, "as many")

    # Logs

    def _log_step(self, batch: Batch[int], rows: Sequence[Rollout], with_gradient: int) -> None:
        """Log rewards of all that was generated in this step, as TRL does, and totals since the start."""
        metrics = self._metrics["train"]
        rewards = np.concatenate([np.zeros((0, len(self.reward_funcs)), np.float32), *self._generated])
        columns = {"reward": ("", self._weighted(rewards))}
        columns |= {
            f"rewards/{name}": ("/mean", rewards[:, place])
            for place, name in enumerate(self.reward_func_names)
        }
        for name, (mean, values) in columns.items():
            there = values[~np.isnan(values)].astype(np.float64)
            metrics[f"{name}{mean}"][-1:] = [float(there.mean()) if len(there) else float("nan")]
            spread = float(there.std(ddof=1)) if len(there) > 1 else float("nan")
            metrics[f"{name}/std" if mean else f"{name}_std"][-1:] = [spread]
        sizes = np.bincount(batch.group)
        sizes = sizes[sizes > 0]
        live = len(np.unique(batch.group[batch.advantages != 0]))
        metrics["frac_reward_zero_std"][-1:] = [1 - live / max(batch.groups, 1)]
        shown = {
            "smallest_group": int(sizes.min(initial=len(batch))),
            "largest_group": int(sizes.max(initial=0)),
            "with_gradient": with_gradient / max(len(batch), 1),
            "age": float(batch.age.mean()) if len(batch) else 0.0,
        }
        for name, value in shown.items():
            metrics[f"rollouts/{name}"].append(float(value))
        totals = self._of_coach(lambda coach: coach.bill()) | {"padding": float(self._filled)}
        for name, value in totals.items():
            metrics[f"rollouts/{name}"] = [value]
        if self.log_completions:
            self._log_completions(batch, rows)

    def _log_completions(self, batch: Batch[int], rows: Sequence[Rollout]) -> None:
        """Put what is trained on into TRL's table of completions."""
        self._logs["prompt"].extend(self.train_dataset[row.prompt]["prompt"] for row in rows)
        self._logs["completion"].extend(row.completion for row in rows)
        self._logs["advantages"].extend(batch.advantages.tolist())
        for place, name in enumerate(self.reward_func_names):
            self._logs["rewards"][name].extend(float(row.rewards[place]) for row in rows)
        for name in sorted({*self._logs["extra"], *(name for row in rows for name in row.extra)}):
            column = self._logs["extra"][name]
            column.extend(row.extra.get(name) for row in rows)
            while len(column) < len(self._logs["prompt"]):  # earlier rows, of which nothing was logged
                column.appendleft(None)

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save TRL's checkpoint, and the allocator's state in a folder of it."""
        super()._save_checkpoint(model, trial)
        if self.args.save_only_model:
            return
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}", FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        if self._step % self._period:  # what was generated serves further steps
            assert self._buffered_inputs is not None
            save_file(_flat(self._buffered_inputs), self._buffer(folder))

        def save() -> None:
            assert self.coach is not None
            self.coach.save(folder / COACH)
            state = {
                "step": self._step,
                "next": self._next,
                "filled": self._filled,
                "tokens": self._tokens,
                "seconds": self._seconds,
                "totals": vars(self._totals),
                "period": self._period,
                "ranks": self.accelerator.num_processes,
            }
            checkpoint.save(folder / ROLLOUTS, state | _packed(self._rollouts))

        self._on_main(save)

    def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
        """Go on from the checkpoint of such a trainer, its allocator's state included."""
        super()._load_optimizer_and_scheduler(checkpoint_folder)
        if checkpoint_folder is not None:
            self.restore(checkpoint_folder)

    def restore(self, checkpoint_folder: str | Path) -> None:
        """Restore the allocator's state from a checkpoint, as `resume_from_checkpoint` does with everything.

        Raises InputError where it is none of this allocator on this data set under these settings.
        """
        folder = Path(checkpoint_folder, FOLDER)

        def load() -> dict[str, Any]:
            if not folder.is_dir():
                raise InputError(f"{checkpoint_folder}: holds no allocator's state: another trainer wrote it")
            assert self.coach is not None
            self.coach.restore(folder / COACH)
            return checkpoint.load(folder / ROLLOUTS)

        state, self.restored = self._on_main(load), folder
        self._step, self._next, self._filled = state["step"], state["next"], state["filled"]
        self._tokens, self._seconds = state["tokens"], state["seconds"]
        vars(self._totals).update(state["totals"])
        self._rollouts = _unpacked(state)
        if self._step % state["period"] == 0:
            self._step = 0  # nothing is left over, and the batches of TRL's may have another size now
            return
        now = {"period": self._period, "ranks": self.accelerator.num_processes}
        for name, value in now.items():
            if value != state[name]:
                raise InputError(
                    f"{checkpoint_folder}: was written by {name}={state[name]} between two generations, and "
                    f"goes on there only with the same, not {value}"
                )
        parts = {name: x.to(self.accelerator.device) for name, x in load_file(self._buffer(folder)).items()}
        self._buffered_inputs = _nested(parts, self.args.steps_per_generation)

    @property
    def _period(self) -> int:
        """Micro-batches that a generation batch serves."""
        return int(self.args.steps_per_generation * self.num_iterations)

    def _buffer(self, folder: Path) -> Path:
        return folder / f"batches-{self.accelerator.process_index}.safetensors"


def _refuse(name: str, value: object, reason: str, expected: str) -> NoReturn:
    raise InputError(f"{name}={value}: {reason}; with an allocator {expected} is expected")


def _as_floats(logprobs: Sequence[float | None]) -> npt.NDArray[np.float32]:
    """Log-probabilities of tokens; NaN where vLLM could not say them."""
    return np.array([np.nan if value is None else value for value in logprobs], np.float32)


def _fingerprint(dataset: Any) -> str:
    """Number and hash of the prompts: allocators remember rows, which must be the same ones."""
    whole = hashlib.sha256()
    for prompt in dataset["prompt"]:
        whole.update(json.dumps(prompt, default=str).encode() + b"\n")
    return f"{len(dataset)} prompts {whole.hexdigest()[:16]}"


RAGGED = ("prompt_ids", "ids", "logprobs", "mask")


def _packed(rollouts: Mapping[int, Rollout]) -> dict[str, Any]:
    """Rollouts as arrays and text; what reward functions logged of them stays in the logs."""
    rows = list(rollouts.values())
    if not rows:
        return {}
    packed: dict[str, Any] = {
        "keys": np.array(list(rollouts), np.int64),
        "prompts": np.array([row.prompt for row in rows], np.int64),
        "rewards": np.stack([row.rewards for row in rows]),
        "completions": [row.completion for row in rows],
    }
    for name in RAGGED:
        parts = [getattr(row, name) for row in rows]
        if parts[0] is not None:
            packed[name] = np.concatenate(parts)
            packed[f"{name}_lengths"] = np.array([len(part) for part in parts], np.int64)
    return packed


def _unpacked(state: Mapping[str, Any]) -> dict[int, Rollout]:
    """The rollouts that `_packed` wrote."""
    if "keys" not in state:
        return {}
    none = [None] * len(state["keys"])
    ragged = [
        np.split(state[name], np.cumsum(state[f"{name}_lengths"])[:-1]) if name in state else none
        for name in RAGGED
    ]
    columns = state["keys"], state["prompts"], *ragged, state["completions"], state["rewards"]
    return {int(key): Rollout(int(prompt), *fields) for key, prompt, *fields in zip(*columns, strict=True)}


def _flat(batches: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        f"{place}/{name}": value.detach().clone().contiguous()
        for place, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, torch.Tensor)
    }


def _nested(tensors: Mapping[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    nested: list[dict[str, torch.Tensor]] = [{} for _ in range(parts)]
    for name, value in tensors.items():
        place, _, key = name.partition("/")
        nested[int(place)][key] = value
    return nested
