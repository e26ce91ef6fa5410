"""verl's V1 trainer with an allocator: `trainer.v1.trainer_mode=rolloutbench`, and everything else as it was.

    python -m verl.trainer.main_ppo trainer.v1.trainer_mode=rolloutbench \\
        '+trainer.v1.rolloutbench={allocator:mopps}' algorithm.adv_estimator=grpo ...

verl finds this file by the entry-point group `verl.plugins`. The budget is what its configuration states
already: `data.train_batch_size` times `rollout.n` rollouts a step. `Stage` stands where verl's replay buffer
stood: to sample a batch it asks the coach, submits the prompts with verl's own `__rollout_n__`, and tells the
coach the rewards of the sessions that ended well. A rollout is to the coach the name of a session, whose
tokens stay in verl's TransferQueue until no batch can name it any more.

KL in the reward, rollout correction, padding and the loss stay verl's. Only the advantages are replaced: each
is multiplied by what turns verl's normaliser into the rollout's share of the batch. A step has as many
updates as configured, whatever the number of its rows.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from rolloutbench.coach import Ask, Batch, Coach
from rolloutbench.optional import need
from rolloutbench.protocol import FloatArray, InputError, IntArray, NoVerdict
from rolloutbench.registry import PARAMETERS

need("verl", "verl")  # says how to get it

import torch  # noqa: E402
import transfer_queue as tq  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from tensordict import TensorDict  # noqa: E402
from transfer_queue import KVBatchMeta  # noqa: E402
from verl.trainer.ppo.v1.trainer_base import register_trainer  # noqa: E402
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync  # noqa: E402
from verl.utils import tensordict_utils as tu  # noqa: E402
from verl.utils.dataset.rl_dataset import collate_fn  # noqa: E402

logger = logging.getLogger(__name__)

NAME = "rolloutbench"
"""The trainer's mode in verl's configuration, and the folder of the coach's state in a checkpoint."""
RELEASE = "0.9.1"
"""The release of verl whose trainer this is a part of; V1's inner calls change from one to the next."""
PARTITION = "train"
"""The partition of verl's TransferQueue that holds the rollouts of training."""
PER_ROLLOUT = ("seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
"""The values of verl's `loss_agg_mode` that are a mean over rows."""
PER_TOKEN = ("token-mean", "token-sum")
"""The values of verl's `loss_agg_mode` that count all tokens of a mini-batch alike."""
ESTIMATORS = {
    ("grpo", True): "grpo",
    ("grpo", False): "dr_grpo",
    ("grpo_vectorized", True): "grpo",
    ("grpo_vectorized", False): "dr_grpo",
    ("rloo", True): "rloo",
    ("rloo", False): "rloo",
    ("rloo_vectorized", True): "rloo",
    ("rloo_vectorized", False): "rloo",
}
"""The estimator that verl's `adv_estimator` and `norm_adv_by_std_in_grpo` stand for."""
LOSSES = ("vanilla", "gspo", "gpg", "cispo", "dppo_tv", "dppo_kl", "bypass_mode")
"""The policy losses of verl that are proportional to the advantage and average as `loss_agg_mode` says."""
EMPTY_STEPS = 10
"""Steps in a row from which an allocator may train on nothing before the run is given up."""
POLL = 0.2
"""Seconds between two looks at the TransferQueue."""


@dataclass(config=PARAMETERS, frozen=True)
class Options:
    """What stands under `trainer.v1.rolloutbench` in verl's configuration.

    `allocator`: a spec such as `mopps` or `vip[predictor=beta]`. `estimator`: the advantage rule; None is
    what `algorithm.adv_estimator` says. `aggregation`: `rollout`, every rollout counts as `loss_agg_mode` has
    it, or `prompt`, every prompt the same. `success`: the name of the value in the reward function's extra
    information that says whether a rollout succeeded; None is the reward. `threshold`: it did where that is
    larger. `no_verdict`: what becomes of a rollout whose reward is NaN. `features`: path of a .npy file with
    vectors (Q, d) of the data set's rows, for predictors that read them. `seed`: None is `data.seed`, or 0.
    """

    allocator: str
    estimator: str | None = None
    aggregation: Literal["rollout", "prompt"] = "rollout"
    success: str | None = None
    threshold: float = 0.5
    no_verdict: NoVerdict = "drop"
    features: str | None = None
    seed: int | None = None


class Stage:
    """The source of a step's batches, with the calls of verl's replay buffer that the trainer uses.

    `rows`: keys in the TransferQueue of each session's outputs, in order; one for a simple agent. `tags`:
    what verl noted of each key. `batch`: what the coach chose last, and `keys`: where each of its rollouts
    lies. Validation is left to the replay buffer that was there.
    """

    def __init__(self, trainer: Any, coach: Coach[str], success: str | None, validation: Any) -> None:
        self.trainer, self.coach, self.success, self.validation = trainer, coach, success, validation
        self.rows: dict[str, list[str]] = {}
        self.tags: dict[str, dict[str, Any]] = {}
        self.batch: Batch[str]
        self.keys: list[list[str]] = []
        self._rewards: list[float] = []

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, float]]:
        """Rows to train on, as verl's KVBatchMeta, and metrics: totals since the start among them."""
        if partition_id != PARTITION:
            return self.validation.sample(global_steps, partition_id, batch_size)  # type: ignore[no-any-return]
        self._rewards = []
        for _ in range(EMPTY_STEPS):
            while (ask := self.coach.ask()) is not None:
                self._generate(ask, global_steps)
            batch = self.coach.batch()
            self._give_up(batch)
            if len(batch):
                return self._to_train(batch), self._metrics(batch)
        raise RuntimeError(
            f"{EMPTY_STEPS} steps left nothing to train on: of {self.coach.bill()['generated']:.0f} rollouts "
            f"generated since the start, {self.coach.bill()['trained']:.0f} were trained on and "
            f"{self.coach.bill()['undelivered']:.0f} more never came"
        )

    def adopt(self) -> None:
        """After a checkpoint was loaded: find the rows of the coach's rollouts, and clear all others."""
        there = _listed()
        self._note(there)
        held = self.coach.holding()
        missing = [session for session in held if session not in self.rows]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(held)} rollouts that the allocator still holds are not in the "
                "TransferQueue of the checkpoint"
            )
        mine = {key for session in held for key in self.rows[session]}
        _clear([key for key in there if key not in mine])
        self._forget(held)

    # --- one request

    def _generate(self, ask: Ask, global_steps: int) -> None:
        """Submit prompts, wait until every session has settled, and tell the coach of those that came."""
        trainer = self.trainer
        columns = collate_fn([trainer.train_dataset[int(q)] for q in ask.prompts])
        uids = [uuid.uuid4().hex for _ in ask.prompts]
        columns["uid"] = np.array(uids, dtype=object)
        columns["__rollout_n__"] = torch.from_numpy(ask.counts.astype(np.int64))
        submitted = tu.get_tensordict(columns)
        tu.assign_non_tensor_data(submitted, "global_steps", global_steps)
        tags = [{"is_prompt": True, "status": "pending", "global_steps": global_steps} for _ in uids]
        tq.kv_batch_put(keys=uids, partition_id=PARTITION, tags=tags)
        trainer.agent_loop_manager.generate_sequences(submitted)
        while True:
            there = _listed()
            if all(there[uid]["status"] in ("finished", "failure") for uid in uids):
                break
            time.sleep(POLL)
        _clear(uids)
        place = {uid: row for row, uid in enumerate(uids)}
        new = self._note({key: tag for key, tag in there.items() if key.partition("_")[0] in place})
        came = sorted((place[uid], int(number), session) for session, uid, number in new)
        sessions = [session for *_, session in came]
        rewards, verdicts = self._rewarded([self.rows[session][-1] for session in sessions])
        self._rewards += rewards.tolist()
        prompts = ask.prompts[np.array([row for row, *_ in came], dtype=np.int64)]
        self.coach.tell(rewards, sessions, prompts=prompts, success=verdicts)

    def _note(self, there: Mapping[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
        """Take up rows `UID_NUMBER_INDEX` with their tags; return sessions `UID_NUMBER`, and their parts."""
        found: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
        for key, tag in there.items():
            if key.count("_") == 2:  # else it stands for a prompt
                uid, number, index = key.split("_")
                found.setdefault((f"{uid}_{number}", uid, number), []).append((int(index), key))
                self.tags[key] = dict(tag)
        self.rows |= {session: [key for _, key in sorted(keys)] for (session, *_), keys in found.items()}
        return list(found)

    def _rewarded(self, keys: list[str]) -> tuple[FloatArray, FloatArray | None]:
        """Rewards (N,) of rows, and what says whether they succeeded where that is something else."""
        if not keys:
            return np.zeros(0), None if self.success is None else np.zeros(0)
        fields = ["rm_scores"] if self.success is None else ["rm_scores", "extra_fields"]
        data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=fields)
        scores = list(data["rm_scores"])
        rewards = np.array([float(score.double().sum()) for score in scores], dtype=np.float64)
        unknown = np.flatnonzero(np.isnan(rewards)).tolist()
        if unknown:  # one NaN would make verl's means of the whole batch NaN
            _put([keys[row] for row in unknown], rm_scores=[torch.zeros_like(scores[row]) for row in unknown])
        if self.success is None:
            return rewards, None
        verdicts = np.full(len(keys), np.nan)
        for row, extra in enumerate(list(data["extra_fields"])):
            said = getattr(extra, "data", extra).get("reward_extra_info", {})
            if self.success not in said:
                names = ", ".join(sorted(said)) or "none"
                raise InputError(
                    f"trainer.v1.{NAME}.success={self.success}: the reward function says no such value; it "
                    f"says: {names}"
                )
            verdicts[row] = np.nan if said[self.success] is None else float(said[self.success])
        return rewards, verdicts

    # --- what becomes of the rows

    def _give_up(self, batch: Batch[str]) -> None:
        """Clear rows that neither this batch nor a later one can name."""
        live = {*batch.rollouts, *self.coach.holding()}
        gone = [session for session in self.rows if session not in live]
        _clear([key for session in gone for key in self.rows[session]])
        self._forget(live)

    def _forget(self, live: set[str] | list[str]) -> None:
        """Drop the keys and tags of all sessions but these."""
        kept = set(live)
        self.rows = {session: keys for session, keys in self.rows.items() if session in kept}
        known = {key for keys in self.rows.values() for key in keys}
        self.tags = {key: tag for key, tag in self.tags.items() if key in known}

    def _to_train(self, batch: Batch[str]) -> Any:
        """The batch's rows for verl, which clears them after the update.

        Of a rollout that a later batch may name again, a copy is trained on.
        """
        held, fresh = set(self.coach.holding()), uuid.uuid4().hex
        originals = [self.rows[session] for session in batch.rollouts]
        self.batch = batch
        self.keys = [
            [f"{fresh}_{row}_{index}" for index in range(len(keys))] if session in held else keys
            for row, (session, keys) in enumerate(zip(batch.rollouts, originals, strict=True))
        ]
        flat = [pair for pairs in zip(originals, self.keys, strict=True) for pair in zip(*pairs, strict=True)]
        tags = [self.tags[original] for original, _ in flat]
        copies = {key: original for original, key in flat if original != key}
        if copies:
            tq.kv_batch_put(
                keys=list(copies),
                partition_id=PARTITION,
                fields=tq.kv_batch_get(keys=list(copies.values()), partition_id=PARTITION),
                tags=[self.tags[original] for original in copies.values()],
            )
        self._forget(held)
        return KVBatchMeta(partition_id=PARTITION, keys=[key for _, key in flat], tags=tags)

    def _metrics(self, batch: Batch[str]) -> dict[str, float]:
        """What is logged of a step under `rollouts/`: its groups, and totals since the start."""
        sizes = np.bincount(batch.group)
        sizes = sizes[sizes > 0]
        verdicts = np.array(self._rewards, dtype=np.float64)
        known = verdicts[~np.isnan(verdicts)]
        shown = {
            "reward": float(known.mean()) if len(known) else float("nan"),
            "smallest_group": float(sizes.min()),
            "largest_group": float(sizes.max()),
            "with_gradient": float((batch.advantages * batch.weight != 0).mean()),
            "age": float(batch.age.mean()),
        }
        return {f"rollouts/{name}": value for name, value in (shown | self.coach.bill()).items()}


@register_trainer(NAME)
class AllocatedPPOTrainer(PPOTrainerSync):
    """verl's synchronous trainer, in which an allocator says how many rollouts of which prompts are sampled.

    Its options are `Options`. Shuffling and order of the data are the allocator's; an epoch is, as in verl,
    `len(data) // train_batch_size` steps. Rows that verl adds to fill up a batch have no share in the
    policy's loss; in a mean over rows of the KL and entropy terms they count as zeros. Rollouts kept from an
    earlier step have the ratio 1 to the policy at the step's beginning, unless `rollout_correction` says
    otherwise or the allocator has `reuse=replay`.

    Raises InputError where an allocator cannot do what the configuration asks.
    """

    def __init__(self, config: Any) -> None:
        self.options = _options(config)
        _check(config)
        super().__init__(config)
        self._updates = 1

    def _init_dataloader(self) -> None:
        """Read the data as verl does, and choose prompts from it by an allocator."""
        super()._init_dataloader()
        own, data, actor = self.options, self.config.data, self.config.actor_rollout_ref.actor
        if not hasattr(self.train_dataset, "__len__"):
            _refuse(
                "data.train_files", "a stream", "has no rows to choose prompts from", "a data set with rows"
            )
        if len(self.train_dataset) < data.train_batch_size:
            reason = f"are too few for a step of data.train_batch_size={data.train_batch_size} prompts"
            _refuse("data.train_files", f"{len(self.train_dataset)} rows", reason, "as many at least")
        per_token = own.aggregation == "rollout" and actor.loss_agg_mode in PER_TOKEN
        self.coach: Coach[str] = Coach(
            own.allocator,
            prompts=data.train_batch_size,
            rollouts=data.train_batch_size * self.config.actor_rollout_ref.rollout.n,
            pool_size=len(self.train_dataset),
            estimator=own.estimator or _estimator(self.config),
            aggregation="token" if per_token else own.aggregation,
            threshold=own.threshold,
            no_verdict=own.no_verdict,
            seed=own.seed if own.seed is not None else int(data.get("seed") or 0),
            features=_features(own.features),
            fingerprint=_fingerprint(self.train_dataset),
        )
        self.replay_buffer: Stage = Stage(self, self.coach, own.success, self.replay_buffer)

    def prepare_step(self) -> dict[str, Any]:
        """Submit nothing ahead: what is sampled depends on what is asked."""
        return {}

    # --- rows of a batch

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """Rows of a batch come in multiples of this: equal mini-batches of whole micro-batches everywhere."""
        config = self.config.actor_rollout_ref
        of_update = of_inference = 1
        if not config.actor.use_dynamic_bsz:
            of_update = config.actor.ppo_micro_batch_size_per_gpu
            of_inference = config.rollout.log_prob_micro_batch_size_per_gpu
        if self.use_reference_policy and not self.ref_in_actor and not config.ref.log_prob_use_dynamic_bsz:
            of_inference = math.lcm(of_inference, config.ref.log_prob_micro_batch_size_per_gpu)
        return dp_size * math.lcm(self._updates * of_update, of_inference)

    def _balance_batch(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Fill the batch up and balance it as verl does, with rollouts in every mini-batch."""
        config = self.config
        configured = config.data.train_batch_size // config.actor_rollout_ref.actor.ppo_mini_batch_size
        rollouts = len(batch)
        self._updates = min(configured, rollouts)
        batch = super()._balance_batch(batch, metrics, *args, **kwargs)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        padding = np.array([tag.get("is_padding", False) for tag in batch.tags])
        batch.reorder(_spread(padding, ranks, self._updates).tolist())
        metrics["rollouts/padding"] = float(len(batch) - rollouts)
        return batch

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Update as many times as configured, with equal parts of the batch."""
        with _mini_batches(self.config.actor_rollout_ref, len(batch) // self._updates):
            return super()._update_actor(batch, metrics)

    def _compute_old_log_prob(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Log-probabilities under the policy before the update; of replayed rollouts, under their own."""
        batch = super()._compute_old_log_prob(batch, metrics)
        chosen, keys = self.replay_buffer.batch, self.replay_buffer.keys
        replayed = [key for row in np.flatnonzero(chosen.reused) for key in keys[row]]
        if chosen.option == "replay" and replayed:
            if not self.config.actor_rollout_ref.rollout.calculate_log_probs:
                _refuse(
                    "actor_rollout_ref.rollout.calculate_log_probs",
                    False,
                    "leaves reuse=replay without the probabilities of the policy that sampled",
                    "true",
                )
            data = tq.kv_batch_get(keys=replayed, partition_id=PARTITION, select_fields=["rollout_log_probs"])
            _put(replayed, old_log_probs=list(data["rollout_log_probs"]))
        return batch

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """KL in the reward and rollout correction as in verl; then the coach's advantages and shares."""
        batch = super()._compute_advantage(batch, metrics)
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=PARTITION, select_fields=["response_mask", "loss_mask"]
        )
        chosen, keys = self.replay_buffer.batch, self.replay_buffer.keys
        lengths = dict(zip(batch.keys, (int(row.sum()) for row in data["loss_mask"]), strict=True))
        factors = _factors(
            chosen,
            self.options.aggregation,
            self.config.actor_rollout_ref.actor.loss_agg_mode,
            np.array([len(outputs) for outputs in keys], dtype=np.int64),
            np.array([sum(lengths[key] for key in outputs) for outputs in keys], dtype=np.int64),
            len(batch),
        )
        advantages = chosen.advantages
        if self.config.algorithm.use_kl_in_reward:
            advantages = self._less_kl(chosen, [outputs[-1] for outputs in keys])
        worth = {
            key: float(value)
            for outputs, value in zip(keys, advantages * factors, strict=True)
            for key in outputs
        }
        rows = [
            mask.float() * worth.get(key, 0.0)  # rows that only fill up are in no group
            for key, mask in zip(batch.keys, data["response_mask"], strict=True)
        ]
        return _put(batch.keys, advantages=rows, returns=rows)

    def _less_kl(self, chosen: Batch[str], keys: list[str]) -> FloatArray:
        """Advantages (N,) where rewards are less what verl took off them, in each rollout's last row."""
        if chosen.option == "II":
            _refuse(
                "algorithm.use_kl_in_reward",
                True,
                "is not known of stored successes, which reuse=II has in a group's mean",
                "false, or another reuse",
            )
        fields = ["rm_scores", "token_level_rewards"]
        data = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=fields)
        raw, penalised = (np.array([float(row.double().sum()) for row in data[name]]) for name in fields)
        return self.coach.revalue(chosen.rewards + penalised - raw)

    # --- checkpoints

    def _save_checkpoint(self) -> None:
        """Save the coach's state in verl's folder of this step, before verl says that it is complete."""
        folder = Path(self.config.trainer.default_local_dir, f"global_step_{self.global_steps}", NAME)
        folder.mkdir(parents=True, exist_ok=True)
        self.coach.save(folder / "coach.safetensors")
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        """Go on from a checkpoint of such a trainer; after another one's the allocator begins anew."""
        super()._load_checkpoint()
        if self.global_steps == 0:
            return
        saved = self._checkpoint() / NAME / "coach.safetensors"
        if saved.exists():
            self.coach.restore(saved)
        else:
            logger.warning("%s: there is none, so the allocator begins anew", saved)
        self.replay_buffer.adopt()

    def _checkpoint(self) -> Path:
        """The folder that verl has loaded."""
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            return Path(trainer.resume_from_path)
        return Path(trainer.default_local_dir, f"global_step_{self.global_steps}")


def _options(config: Any) -> Options:
    """The options that stand in verl's configuration. Raises InputError naming the first that cannot be."""
    node = OmegaConf.select(config, f"trainer.v1.{NAME}")
    given = {} if node is None else OmegaConf.to_container(node, resolve=True)
    try:
        return Options(**given)
    except ValidationError as error:
        problem = error.errors()[0]
        name = f"trainer.v1.{NAME}.{problem['loc'][0]}"
        if problem["type"] == "missing":
            raise InputError(f"{name} is not given: a spec such as mopps is expected") from None
        if problem["type"] == "unexpected_keyword_argument":
            known = ", ".join(Options.__dataclass_fields__)
            raise InputError(f"{name} is no option; known: {known}") from None
        raise InputError(f"{name}={problem['input']}: {problem['msg']}") from None


def _check(config: Any) -> None:
    """Raise InputError in one line where the configuration and an allocator do not go together."""
    installed = importlib.metadata.version("verl")
    if installed != RELEASE:
        _refuse("verl", installed, "has other inner calls", RELEASE)
    algorithm, data, actor = config.algorithm, config.data, config.actor_rollout_ref.actor
    sampler, skip, reward_model = config.trainer.v1.sampler, config.skip, config.reward.reward_model

    estimators = sorted({name for name, _ in ESTIMATORS})
    if algorithm.adv_estimator not in estimators:
        reason = "has no groups of one prompt, or another rule in them"
        _refuse("algorithm.adv_estimator", algorithm.adv_estimator, reason, " or ".join(estimators))
    if actor.loss_agg_mode not in PER_ROLLOUT + PER_TOKEN:
        expected = " or ".join(PER_ROLLOUT + PER_TOKEN)
        _refuse("actor_rollout_ref.actor.loss_agg_mode", actor.loss_agg_mode, "is not known", expected)
    if actor.policy_loss.loss_mode not in LOSSES:
        reason = "is not proportional to the advantage, or has a mean of its own"
        name = "actor_rollout_ref.actor.policy_loss.loss_mode"
        _refuse(name, actor.policy_loss.loss_mode, reason, " or ".join(LOSSES))
    if data.train_batch_size % actor.ppo_mini_batch_size:
        reason = f"does not divide data.train_batch_size={data.train_batch_size}"
        _refuse("actor_rollout_ref.actor.ppo_mini_batch_size", actor.ppo_mini_batch_size, reason, "a divisor")
    refused = {
        "critic.enable": (config.critic.enable, "has values in place of groups"),
        "algorithm.filter_groups.enable": (
            algorithm.filter_groups.enable,
            "chooses prompts itself: the allocator dapo does so at a cost that is counted",
        ),
        "trainer.v1.sampler.custom_sampler.path": (
            sampler.custom_sampler.path,
            "stands where the allocator stands",
        ),
        "trainer.v1.sampler.sync_refill_failed_groups": (
            sampler.sync_refill_failed_groups,
            "asks for rollouts that the allocator knows nothing of",
        ),
        "skip.rollout_tq.enable": (skip.rollout_tq.enable, "has rollouts of other counts in store"),
        "actor_rollout_ref.actor.use_prefix_grouper": (
            actor.get("use_prefix_grouper", False),
            "needs groups of one size",
        ),
        "distillation.enabled": (
            OmegaConf.select(config, "distillation.enabled"),
            "has a loss that no advantage scales",
        ),
        "reward.reward_model.enable_resource_pool": (
            reward_model.enable and not reward_model.enable_resource_pool and "false",
            "has the reward model judge only after the batch is chosen",
        ),
    }
    for name, (value, reason) in refused.items():
        if value:
            _refuse(name, value, reason, "true" if value == "false" else "false or null")


def _refuse(name: str, value: object, reason: str, expected: str) -> NoReturn:
    raise InputError(f"{name}={value}: {reason}, which no allocator can serve; {expected} is expected")


def _estimator(config: Any) -> str:
    """The estimator that verl's configuration means."""
    algorithm = config.algorithm
    return ESTIMATORS[algorithm.adv_estimator, bool(algorithm.get("norm_adv_by_std_in_grpo", True))]


def _features(path: str | None) -> FloatArray | None:
    """Vectors (Q, d) of a .npy file. Raises InputError where there are none in it."""
    if path is None:
        return None
    try:
        found: FloatArray = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"trainer.v1.{NAME}.features={path}: {error}") from None
    return found


def _fingerprint(dataset: Any) -> str:
    """A hash of the number of rows and of the text of up to 64 prompts, by which allocators remember rows."""
    whole = hashlib.sha256(str(len(dataset)).encode())
    for row in np.unique(np.linspace(0, len(dataset) - 1, 64).astype(np.int64)).tolist():
        prompt = dataset[row]["raw_prompt"]
        whole.update(json.dumps(prompt, default=lambda other: type(other).__name__).encode() + b"\n")
    return whole.hexdigest()[:32]


def _factors(
    batch: Batch[str],
    aggregation: Literal["rollout", "prompt"],
    loss_agg_mode: str,
    outputs: IntArray,
    tokens: IntArray,
    rows: int,
) -> FloatArray:
    """What turns verl's normaliser into the shares of a batch (N,): 1 for equal groups of weight 1.

    A rollout has `outputs` (N,) rows and `tokens` (N,) in all. verl's mean is over all `rows`, the filled-up
    batch, or over all tokens.
    """
    if loss_agg_mode in PER_ROLLOUT:
        return batch.shares(aggregation) * rows / np.maximum(outputs, 1)
    if aggregation == "rollout":
        return batch.weight
    of_group = np.bincount(batch.group, tokens)[batch.group]
    shares: FloatArray = batch.weight * tokens.sum() / np.maximum(batch.groups * of_group, 1)
    return shares


def _spread(padding: npt.NDArray[np.bool_], ranks: int, parts: int) -> IntArray:
    """Places (M,) to take rows from so that padding is dealt out to all mini-batches alike.

    The first 1/ranks of the rows go to rank 0, and so on, and each rank cuts its own into as many equal
    parts; a mini-batch is the same part of all ranks. Where nothing is padding, the order is left alone.
    """
    if not padding.any():
        return np.arange(len(padding))
    order = np.empty(len(padding), dtype=np.int64)
    block = len(padding) // ranks
    dealt = 0
    for rank in range(ranks):
        mine = rank * block + np.argsort(padding[rank * block : (rank + 1) * block], kind="stable")
        turn = np.arange(block)
        order[rank * block + (turn + dealt) % parts * (block // parts) + turn // parts] = mine
        dealt += int((~padding[mine]).sum())
    return order


@contextmanager
def _mini_batches(config: Any, rows: int) -> Iterator[None]:
    """Let verl, which multiplies two settings of `actor_rollout_ref`, cut mini-batches of so many rows."""
    configured = config.actor.ppo_mini_batch_size, config.rollout.n
    config.actor.ppo_mini_batch_size, config.rollout.n = rows, 1
    try:
        yield
    finally:
        config.actor.ppo_mini_batch_size, config.rollout.n = configured


def _put(keys: list[str], **fields: list[torch.Tensor]) -> Any:
    """Write fields of rows into the TransferQueue, one tensor a row; return verl's KVBatchMeta of them."""
    nested = {name: torch.nested.as_nested_tensor(rows, layout=torch.jagged) for name, rows in fields.items()}
    return tq.kv_batch_put(keys=keys, partition_id=PARTITION, fields=TensorDict(nested, batch_size=len(keys)))


def _listed() -> dict[str, dict[str, Any]]:
    """All keys of the partition, with their tags."""
    found: dict[str, dict[str, Any]] = (tq.kv_list(partition_id=PARTITION) or {}).get(PARTITION, {})
    return found


def _clear(keys: list[str]) -> None:
    """Remove rows from the TransferQueue."""
    if keys:
        tq.kv_clear(keys=keys, partition_id=PARTITION)
