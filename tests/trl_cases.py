"""What TRL's trainer with an allocator does, case by case: `python trl_cases.py WEIGHTS OUT CASE...`.

As many processes as torch.distributed.run starts; process 0 writes what it found to OUT as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import ClassVar
from unittest import mock

import numpy as np
import torch
from transformers import LlamaForCausalLM, PrinterCallback, set_seed
from trl import GRPOConfig, GRPOTrainer
from trl_sorting import LONGEST, correct, dataset, tokenizer

from rolloutbench.allocators.one_shot import OneShot
from rolloutbench.coach import Coach
from rolloutbench.integrations.trl import AllocatedGRPOTrainer
from rolloutbench.integrations.trl_study import RecordRun
from rolloutbench.protocol import Groups, InputError, Request, Reuse

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

RANKS, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
WEIGHTS, OUT, *CASES = sys.argv[1:]
SCRATCH = Path(OUT).with_suffix("")


def model():
    return LlamaForCausalLM.from_pretrained(WEIGHTS)


def config(prompts=8, group_size=8, micro=8, **others):
    """Steps of prompts x group_size rollouts, over all processes."""
    settings = {
        "output_dir": str(SCRATCH / "trl"),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": prompts * group_size // micro // RANKS,
        "num_generations": group_size,
        "max_completion_length": LONGEST,
        "max_steps": 4,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "seed": 3,
        "disable_tqdm": True,
    }
    return GRPOConfig(**{**settings, **others})


def flat(network):
    return torch.cat([weights.detach().flatten() for weights in network.parameters()])


def train(kind, args, rewards=correct, data=None, hook=None, resume=None, **others):
    """Train; returns the trainer and its weights, which are those of all processes."""
    data = dataset() if data is None else data
    trainer = kind(model(), rewards, args=args, train_dataset=data, processing_class=tokenizer(), **others)
    trainer.remove_callback(PrinterCallback)
    if hook:
        hook(trainer)
    trainer.train(resume_from_checkpoint=resume)
    weights = flat(trainer.accelerator.unwrap_model(trainer.model)).clone()
    everywhere = trainer.accelerator.gather(weights[None])
    assert (everywhere == everywhere[0]).all(), "processes have different weights"
    return trainer, weights


def apart(one, other):
    return float((one - other).abs().max())


def logged(trainer, name):
    return [row[name] for row in trainer.state.log_history if name in row]


class InCoachsOrder(GRPOTrainer):
    """TRL's trainer on the prompts that a coach draws for `uniform`: only the order is another."""

    def _get_train_sampler(self, dataset=None):
        args, size = self.args, self.num_generations
        budget = args.generation_batch_size
        rows = len(self.train_dataset)
        coach = Coach("uniform", prompts=budget // size, rollouts=budget, pool_size=rows, seed=args.seed)
        order = []
        for _ in range(args.max_steps):
            asked = coach.ask()
            again = args.steps_per_generation * self.num_iterations
            order += [int(q) for _ in range(again) for q in np.repeat(asked.prompts, size)]
            coach.tell([0.0] * budget, list(range(budget)))
            coach.batch()
        return order


TRL_LOGS = ("reward", "reward_std", "frac_reward_zero_std", "rewards/correct/mean", "rewards/correct/std")
EQUAL = {
    "dapo": {"loss_type": "dapo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "two iterations": {"loss_type": "dapo", "num_iterations": 2},
    "several steps": {
        "loss_type": "grpo",
        "steps_per_generation": 16 // RANKS,
        "optim": "sgd",
        "learning_rate": 0.03,
    },
}


def equal():
    """`uniform` beside TRL's own trainer."""
    start, found = flat(model()), {}
    for name, case in EQUAL.items():
        own, weights = train(InCoachsOrder, config(**case))
        one, same = train(AllocatedGRPOTrainer, config(**case), allocator="uniform", skip_zero_rows=False)
        found[name] = {
            "moved": apart(weights, start),
            "weights": apart(weights, same),
            "losses": float(np.abs(np.array(logged(own, "loss")) - logged(one, "loss")).max()),
            "logs": {
                key: [logged(own, key), logged(one, key)]
                for key in (
                    "reward",
                    "reward_std",
                    "frac_reward_zero_std",
                    "num_tokens",
                    "rewards/correct/mean",
                )
            },
            "generated": logged(one, "rollouts/generated"),
        }
        if name != "several steps":
            once = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.03}
            _, weights = train(InCoachsOrder, config(**case | once))
            one, same = train(AllocatedGRPOTrainer, config(**case | once), allocator="uniform")
            found[name] |= {"moved_once": apart(weights, start), "without_zero_rows": apart(weights, same)}
    return found


class Fixed(OneShot):
    """Groups of given sizes and weights."""

    def __init__(self, counts, weights):
        self.counts, self.weights = np.array([counts]), np.array([weights], dtype=float)

    def allocate(self, prompts, budget):
        return self.counts

    def plan(self, stream, budget):
        outcomes = yield Request(stream.draw(budget.prompts), self.counts)
        return Groups.all_of(outcomes, self.weights)


COUNTS, FIXED_WEIGHTS = [1, 2, 3, 5, 7, 10, 20, 16], [1, 1, 0.5, 2, 0, 3, 1, 0.25]


def by_hand(network, groups, loss_type, aggregation, scale, statistics_only=False):
    """Minus the gradient of the objective, one rollout after the other and without padding.

    `groups`: each one's weight, rollouts, and those of an earlier step; with `statistics_only` these enter
    mean, deviation and size of their group and nothing else.
    """
    rows = [[*members, *([] if statistics_only else earlier)] for _, members, earlier in groups]
    sizes = [len(members) + len(earlier) for _, members, earlier in groups]
    tokens = sum(len(row.ids) for of_group in rows for row in of_group)
    for (weight, members, earlier), of_group, size in zip(groups, rows, sizes, strict=True):
        rewards = np.array([float(row.rewards[0]) for row in (*members, *earlier)])
        spread = rewards.std(ddof=1) + 1e-4 if scale == "group" and size > 1 else 1.0
        in_tokens = sum(len(row.ids) for row in of_group)
        among = sum(sizes) if aggregation == "rollout" else len(groups) * size
        for row, reward in zip(of_group, rewards, strict=False):
            ids, length = torch.tensor([[*row.prompt_ids, *row.ids]]), len(row.ids)
            logits = network(input_ids=ids).logits[0, :-1]
            logprobs = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[-length:, 0]
            worth = {
                "dapo": logprobs.sum() / (tokens if aggregation == "rollout" else len(groups) * in_tokens),
                "grpo": logprobs.mean() / among,
                "dr_grpo": logprobs.sum() / LONGEST / among,
            }[loss_type]
            (-weight * (reward - rewards.mean()) / spread * worth).backward()
    return torch.cat([weights.grad.flatten() for weights in network.parameters()])


def spy(seen):
    """A hook that keeps what every step trains on, and the weights that it begins with."""

    def hook(trainer):
        inner = trainer._train_on

        def outer(batch):
            rows = [trainer._rollouts[key] for key in batch.rollouts]
            network = model()  # TRL's own has a forward pass that a copy of it would share
            network.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
            seen.append((batch, rows, network))
            return inner(batch)

        trainer._train_on = outer

    return hook


def unequal():
    """Groups of many sizes and weights, 0 among them, against a gradient by hand."""
    start, found = flat(model()), {}
    for loss_type, aggregation, scale, skip in (
        ("dapo", "rollout", "group", True),
        ("dapo", "prompt", "none", True),
        ("grpo", "rollout", "group", True),
        ("grpo", "prompt", "group", False),
        ("dr_grpo", "rollout", "none", True),
        ("dr_grpo", "prompt", "none", False),
    ):
        seen = []
        args = {"loss_type": loss_type, "scale_rewards": scale, "max_steps": 1, "optim": "sgd"}
        _, weights = train(
            AllocatedGRPOTrainer,
            config(**args, learning_rate=1.0),
            hook=spy(seen),
            allocator=Fixed(COUNTS, FIXED_WEIGHTS),
            aggregation=aggregation,
            skip_zero_rows=skip,
        )
        ((_, rows, _),) = seen
        members = {}
        for row in rows:
            members.setdefault(row.prompt, []).append(row)
        groups = [(weight, of, []) for weight, of in zip(FIXED_WEIGHTS, members.values(), strict=True)]
        gradient = by_hand(model(), groups, loss_type, aggregation, scale)
        found[f"{loss_type} {aggregation}"] = {
            "sizes": [len(of) for _, of, _ in groups],
            "size": float(gradient.abs().max()),
            "apart": apart(start - weights, gradient),
        }
    return found


class Reusing(OneShot):
    """Groups of 4 that the last step's successes join, as many as there were but 2 at most."""

    reusable = 2

    def __init__(self, option):
        self.option, self.before = option, {}

    def allocate(self, prompts, budget):
        return np.full((1, budget.prompts), 4)

    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        outcomes = yield Request(prompts, self.allocate(prompts, budget))
        groups = Groups.all_of(outcomes)
        again = np.array([[min(2, self.before.get(q, 0)) for q in prompts[0].tolist()]])
        self.before = dict(zip(prompts[0].tolist(), outcomes.successes[0].tolist(), strict=True))
        return dataclasses.replace(groups, reused=Reuse(again, np.ones_like(again), self.option))


def reuse():
    """Stored successes in the second step, as members of their groups or in their statistics only."""
    found = {}
    for option, loss_type, aggregation in (
        ("I", "grpo", "rollout"),
        ("I", "dapo", "prompt"),
        ("II", "grpo", "prompt"),
    ):
        seen = []
        args = {"loss_type": loss_type, "max_steps": 2, "optim": "sgd", "learning_rate": 0.1}
        _, weights = train(
            AllocatedGRPOTrainer,
            config(group_size=4, micro=4, **args),
            data=dataset(8, longest=8),
            hook=spy(seen),
            allocator=Reusing(option),
            aggregation=aggregation,
        )
        (first, earlier, _), (batch, rows, network) = seen
        members = {int(q): ([], []) for q in first.prompts}
        for row, age in zip(rows, batch.age, strict=True):
            members[row.prompt][int(age)].append(row)
        if option == "II":
            for row in earlier:
                stored = members[row.prompt][1]
                if row.rewards[0] and len(stored) < 2:
                    stored.append(row)
        groups = [(1.0, *of) for of in members.values()]
        before = flat(network).clone()
        gradient = by_hand(network, groups, loss_type, aggregation, "group", option == "II")
        found[f"{option} {loss_type} {aggregation}"] = {
            "stored": [len(stored) for _, _, stored in groups],
            "size": float(gradient.abs().max()),
            "apart": apart((before - weights) / 0.1, gradient),
        }
    return found


SPECS = ("vip[predictor=beta]", "dapo[carry=true]", "ar3po", "ar3po[reuse=I]", "mopps")


def resume():
    """Going on from checkpoints beside going through, in the middle of a generation batch too."""
    found = {}
    for spec in SPECS:
        for name, at, case in (
            ("between", 4, {"loss_type": "dapo"}),
            ("within", 3, {"loss_type": "grpo", "num_iterations": 2}),
        ):
            if spec not in SPECS[:2] and (name == "within" or RANKS > 1):
                continue
            folder = SCRATCH / f"resume-{name}-{SPECS.index(spec)}"
            args = {"max_steps": 8, "save_strategy": "steps", "save_steps": at, "output_dir": str(folder)}
            how = {"data": dataset(40), "allocator": spec}
            whole, weights = train(AllocatedGRPOTrainer, config(**case, **args), **how)
            checkpoint = str(folder / f"checkpoint-{at}")
            again, same = train(AllocatedGRPOTrainer, config(**case, **args), resume=checkpoint, **how)
            found[f"{spec} {name}"] = {
                "apart": apart(weights, same),
                "logs": _shown(whole) == _shown(again),
                "bills": whole._of_coach(lambda coach: coach.bill())
                == again._of_coach(lambda coach: coach.bill()),
                "rows": len(again._rollouts),
                "held": whole._of_coach(lambda coach: len(coach.holding())),
                "files": sorted(path.name for path in Path(checkpoint, "rolloutbench").iterdir()),
                "bill": whole._of_coach(lambda coach: coach.bill()),
            }
    return found


def _shown(trainer):
    """What was logged, without what the clock says; NaN is None in both."""
    return [
        {key: value for key, value in row.items() if "time" not in key and "per_second" not in key}
        for row in trainer.state.log_history
        if "loss" in row
    ]


def close(completions, answer, **others):
    """Share of digits in place; no verdict on answers of 5 digits."""
    return [
        None if len(right) == 5 else sum(map(str.__eq__, said, right)) / max(len(said), len(right), 1)
        for said, right in zip(completions, answer, strict=True)
    ]


def judged(completions, answer, **others):
    """1 for the sorted digits; no verdict on answers of 5 and 6 digits."""
    found = correct(completions, answer)
    return [None if len(right) > 4 else one for one, right in zip(found, answer, strict=True)]


def floats():
    """Two reward functions with floats and None, rows left over, and tables of completions."""
    found = {}
    odd = Fixed([5, 8, 10], [1, 1, 1])  # which two processes cannot share evenly
    for name, spec in (("vip", "vip[predictor=beta]"), ("ar3po", "ar3po"), ("odd", odd)):

        def says(completions, answer, log_extra=None, log_metric=None, **others):
            log_extra("wanted", answer)
            log_metric("words", 1.0)
            return close(completions, answer)

        says.__name__ = "close"
        args = config(
            prompts=3,
            micro=24 // RANKS,
            gradient_accumulation_steps=1,
            loss_type="grpo",
            log_completions=True,
            num_completions_to_print=1,
            max_steps=6,
            output_dir=str(SCRATCH / f"floats-{name}"),
        )
        trainer, _ = train(
            AllocatedGRPOTrainer, args, [judged, says], data=dataset(30), allocator=spec, success="judged"
        )
        tables = sorted(Path(args.output_dir, "completions").glob("*.parquet"))
        found[name] = {
            "bill": trainer._of_coach(lambda coach: coach.bill()),
            "losses": logged(trainer, "loss"),
            "generated": logged(trainer, "rollouts/generated"),
            "padding": logged(trainer, "rollouts/padding"),
            "reward": logged(trainer, "reward"),
            "words": logged(trainer, "words"),
            "tables": [_columns(path) for path in tables] if RANK == 0 else [],
        }
    return found


def _columns(path):
    import pandas as pd

    table = pd.read_parquet(path)
    return {name: table[name].tolist() for name in table}


class Breaks(Fixed):
    """Raises in its second step."""

    def plan(self, stream, budget):
        if getattr(self, "began", False):
            raise InputError("allocator: is out of ideas")
        self.began = True
        return (yield from super().plan(stream, budget))


def errors():
    """What process 0 raises ends all processes, and nothing waits for ever."""
    try:
        train(AllocatedGRPOTrainer, config(), allocator=Breaks(COUNTS, FIXED_WEIGHTS))
    except InputError as error:
        said = str(error)
    everywhere = [said]
    if RANKS > 1:
        everywhere = [None] * RANKS
        torch.distributed.all_gather_object(everywhere, said)
    try:
        train(AllocatedGRPOTrainer, config(), allocator="vipp")
    except InputError as error:
        everywhere.append(str(error))
    return everywhere


class OddSteps(Fixed):
    """Asks for nothing at all in its first step, and for three times the budget in its second."""

    hard_budget = False

    def plan(self, stream, budget):
        step = self.step = getattr(self, "step", -1) + 1
        prompts = stream.draw(budget.prompts)
        outcomes = yield Request(prompts, np.full_like(prompts, 24 if step == 1 else 0))
        return Groups.all_of(outcomes)


def odd_steps():
    """A step without a rollout, and one with more than TRL's batch has."""
    seen = []

    def after(trainer):
        inner = trainer._sample
        trainer._sample = lambda each: seen.append(len(each)) or inner(each)

    trainer, weights = train(
        AllocatedGRPOTrainer, config(max_steps=2), hook=after, allocator=OddSteps([0], [1])
    )
    return {
        "generated": logged(trainer, "rollouts/generated"),
        "norms": logged(trainer, "grad_norm"),
        "at_once": seen,
        "moved": apart(weights, flat(model())),
    }


class Engine:
    """A stand-in for TRL's access to vLLM: samples with transformers, and its log-probs are somewhat off."""

    asked: ClassVar[list[int]] = []

    def __init__(self, model, **others):
        self.model = model

    def sync_weights(self):
        pass

    def generate(self, prompts, images, num_generations, **others):
        self.asked.append(num_generations)
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts])
        with torch.no_grad():
            made = self.model.eval().generate(
                input_ids=tokens,
                attention_mask=(tokens > 0).long(),
                do_sample=True,
                max_new_tokens=LONGEST,
                return_dict_in_generate=True,
                output_logits=True,
            )
        self.model.train()
        sampled = made.sequences[:, width:]
        found = torch.log_softmax(torch.stack(made.logits, 1), -1).gather(2, sampled[..., None])[..., 0]
        ids, logprobs = [], []
        for row, of in zip(sampled.tolist(), found.tolist(), strict=True):
            length = row.index(2) + 1 if 2 in row else len(row)
            ids.append(row[:length])
            logprobs.append(
                [[lp + 0.1 * (token % 3 - 1)] for lp, token in zip(of, row[:length], strict=False)]
            )
        return prompts, ids, logprobs, None


def engine():
    """With vLLM, TRL corrects for its log-probs; they are kept for what is trained on."""
    found = {}
    with mock.patch("trl.trainer.grpo_trainer.VLLMGeneration", Engine):
        case = config(loss_type="dapo", use_vllm=True, vllm_mode="colocate", max_steps=3)
        own, weights = train(InCoachsOrder, case)
        Engine.asked.clear()
        one, same = train(AllocatedGRPOTrainer, case, allocator="uniform", skip_zero_rows=False)
        found["weights"] = apart(weights, same)
        found["asked"] = list(Engine.asked)
        for name in ("sampling/importance_sampling_ratio/mean", "sampling/sampling_logp_difference/mean"):
            found[name] = [logged(own, name), logged(one, name)]
        trainer, weights = train(AllocatedGRPOTrainer, case, allocator="dapo[carry=true]")
        found["moved"] = apart(weights, flat(model()))
        found["held"] = [len(row.logprobs) == len(row.ids) for row in trainer._rollouts.values()]
    return found


def record():
    """Runs that become cells of a study, one of them stopped on the way."""
    found, study = {}, SCRATCH / "study"

    def run(spec, seed, resume=None, max_steps=6):
        args = config(
            max_steps=max_steps,
            seed=seed,
            eval_strategy="steps",
            eval_steps=2,
            eval_on_start=True,
            per_device_eval_batch_size=64 // RANKS,
            save_strategy="steps",
            save_steps=4,
            output_dir=str(SCRATCH / f"{spec}-{seed}"),
        )
        kept = []

        def watched(trainer):
            kept.append(RecordRun(trainer, study, scenario="sorting", replicate=seed))
            trainer.add_callback(kept[0])

        how = {"hook": watched, "eval_dataset": dataset(16, seed=6), "allocator": spec, "success": "correct"}
        train(AllocatedGRPOTrainer, args, resume=resume, **how)
        return kept[0].rows

    for seed in (0, 1):
        for spec in ("uniform", "dapo"):
            found[f"{spec} {seed}"] = run(spec, seed)
    found["again"] = run("dapo", 1, str(SCRATCH / "dapo-1" / "checkpoint-4"))
    try:
        trainer = AllocatedGRPOTrainer(
            model(),
            correct,
            args=config(),
            train_dataset=dataset(),
            processing_class=tokenizer(),
            allocator="dapo",
        )
        RecordRun(trainer, study, scenario="sorting")
    except InputError as error:
        found["refused"] = str(error)
    return found | {"study": str(study)}


def losses():
    """Every loss type that is supported trains, with unequal groups."""
    found = {}
    for loss_type in ("luspo", "sapo", "cispo", "vespo", "dapo", "grpo"):
        args = config(loss_type=loss_type, max_steps=2, beta=0.02 if loss_type == "grpo" else 0.0)
        args.epsilon_high = 5.0 if loss_type == "cispo" else args.epsilon_high
        trainer, weights = train(AllocatedGRPOTrainer, args, allocator="dapo")
        found[loss_type] = {"moved": apart(weights, flat(model())), "losses": logged(trainer, "loss")}
    return found


def evaluation():
    """Evaluation is TRL's own, also in the middle of training."""
    found = []
    for kind, others in ((GRPOTrainer, {}), (AllocatedGRPOTrainer, {"allocator": "mopps"})):
        args = config(per_device_eval_batch_size=32 // RANKS, num_generations_eval=4)
        data = {"train_dataset": dataset(), "eval_dataset": dataset(16, seed=6)}
        trainer = kind(model(), correct, args=args, processing_class=tokenizer(), **data, **others)
        set_seed(7)
        measured = trainer.evaluate()
        found.append(
            {key: value for key, value in measured.items() if "time" not in key and "_per_" not in key}
        )
    args = config(per_device_eval_batch_size=32 // RANKS, eval_strategy="steps", eval_steps=2)
    trainer, _ = train(AllocatedGRPOTrainer, args, eval_dataset=dataset(8, seed=6), allocator="mopps")
    return {"own": found[0], "ours": found[1], "during": logged(trainer, "eval_reward")}


def refusals():
    """What is refused, and in which words."""

    def made(settings=None, rewards=correct, **others):
        args = config(**settings or {})
        how = {"train_dataset": dataset(), "processing_class": tokenizer(), "allocator": "mopps"} | others
        return AllocatedGRPOTrainer(model(), rewards, args=args, **how)

    def resumed(folder, data=None, **others):
        args = config(max_steps=2, save_strategy="steps", save_steps=1, output_dir=str(folder))
        train(AllocatedGRPOTrainer, args, data=data, resume=str(folder / "checkpoint-1"), **others)

    def replay():
        allocator = Reusing("replay")
        train(AllocatedGRPOTrainer, config(group_size=4, micro=4), data=dataset(8), allocator=allocator)

    own, with_mopps, without = SCRATCH / "own", SCRATCH / "mopps", SCRATCH / "without"
    args = {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    train(GRPOTrainer, config(**args, output_dir=str(own)))
    train(AllocatedGRPOTrainer, config(**args, output_dir=str(with_mopps)), allocator="mopps")
    train(AllocatedGRPOTrainer, config(**args, output_dir=str(without)), allocator="mopps")
    (without / "checkpoint-1" / "rolloutbench" / "rollouts.safetensors").write_bytes(b"")

    tries = {
        "loss_type": lambda: made({"loss_type": "bnpo"}),
        "scale_rewards": lambda: made({"scale_rewards": "batch"}),
        "multi_objective": lambda: made({"multi_objective_aggregation": "normalize_then_sum"}),
        "aggregation": lambda: made(aggregation="token"),
        "success": lambda: made(success="corect"),
        "stream": lambda: made(train_dataset=dataset().to_iterable_dataset()),
        "few": lambda: made(train_dataset=dataset(5)),
        "features": lambda: made(features=np.zeros((7, 2))),
        "features by a function": lambda: made(features=lambda prompts: np.zeros((len(prompts) - 1, 2))),
        "no features": lambda: train(AllocatedGRPOTrainer, config(), allocator="vip[predictor=gp]"),
        "allocator": lambda: made(allocator="vipp"),
        "estimator": lambda: made(estimator="grpoo"),
        "replay": replay,
        "another trainer's": lambda: resumed(own, allocator="mopps"),
        "another allocator's": lambda: resumed(with_mopps, allocator="vip[predictor=beta]"),
        "another data set's": lambda: resumed(with_mopps, data=dataset(seed=9), allocator="mopps"),
        "damaged": lambda: resumed(without, allocator="mopps"),
    }
    trainer = made()
    for name, value in (
        ("tools", [print]),
        ("environment_factories", {}),
        ("_is_vlm", True),
        ("use_liger_kernel", True),
    ):

        def changed(name=name, value=value):
            before = getattr(trainer, name, None)
            setattr(trainer, name, value)
            try:
                trainer._check("rollout", None)
            finally:
                setattr(trainer, name, before)

        tries[name] = changed
    found = {}
    for name, attempt in tries.items():
        try:
            attempt()
            found[name] = "is accepted"
        except InputError as error:
            found[name] = str(error)
    return found


def turns():
    """A rollout function of one's own, whose mask says which tokens are the model's."""

    def roll(prompts, trainer):
        texts = trainer.processing_class(prompts)["input_ids"]
        ids = [[*text[:2], 2] for text in texts]  # the model is said to copy; the first token is not its own
        mask = [[0, *[1] * (len(row) - 1)] for row in ids]
        logprobs = [[0.0] * len(row) for row in ids]
        return {
            "prompt_ids": texts,
            "completion_ids": ids,
            "logprobs": logprobs,
            "env_mask": mask,
            "kind": "copy",
        }

    def lucky(completions, kind, answer, **others):
        assert set(kind) == {"copy"}
        return [float(said[0] == right[0]) for said, right in zip(completions, answer, strict=True)]

    seen = []
    args = config(max_steps=2)
    train(AllocatedGRPOTrainer, args, lucky, hook=spy(seen), allocator="mopps", rollout_func=roll)
    return {"tokens": [row.tokens for row in seen[0][1]], "lengths": [len(row.ids) for row in seen[0][1]]}


def main():
    shutil.rmtree(SCRATCH, ignore_errors=True) if RANK == 0 else None
    found = {case: globals()[case]() for case in CASES}
    if RANK == 0:
        Path(OUT).write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
