"""verl's trainer with an allocator: verl's own TransferQueue, registry, padding, loss and checkpoints.

`make test-verl` runs this in an environment of its own. Agents and workers are stand-ins here;
`test_whole_steps.py` has verl's own. The folder must not be called `verl`: on the tests' import path it would
pass for the package.
"""

import dataclasses
import itertools
import re
import subprocess
import types
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("verl", reason="verl is not installed")
import torch
import transfer_queue as tq
from agents import Agents
from hydra import compose, initialize_config_module
from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass

from rolloutbench.allocators import allocators
from rolloutbench.analysis.recommendation import for_verl
from rolloutbench.integrations import verl as integration
from rolloutbench.integrations.verl import AllocatedPPOTrainer
from rolloutbench.protocol import InputError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # verl's and those of what it imports
]
POOL = 40
PROBABILITY = np.random.default_rng(0).beta(0.5, 0.7, POOL)
PROMPTS, GROUP = 8, 4
SIZES = f"data.train_batch_size={PROMPTS}", f"actor_rollout_ref.rollout.n={GROUP}"
MINI = "actor_rollout_ref.actor.ppo_mini_batch_size={}"
MODE = "actor_rollout_ref.actor.loss_agg_mode={}"


def chosen(spec, **options):
    """Settings of verl for an allocator and its options."""
    given = {"allocator": spec, **options}
    return [f"trainer.v1.rolloutbench.{name}={value}" for name, value in given.items()]


@pytest.fixture
def trainer(configured, cluster, monkeypatch, tmp_path):
    """A function from settings and agents to a trainer without workers and without verl's data loader."""
    monkeypatch.setattr(integration, "POLL", 0.01)

    def trainer(*settings, agents=None, ranks=1, micro=1):
        config = configured(
            *SIZES,
            MINI.format(PROMPTS),
            f"trainer.default_local_dir={tmp_path}",
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro}",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
            *settings,
        )
        made = AllocatedPPOTrainer(config)
        monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", read_data)
        made._init_dataloader()
        made.agent_loop_manager = agents or Agents(PROBABILITY)
        made.tokenizer = types.SimpleNamespace(eos_token_id=1)
        made.ref_in_actor = False
        made.actor_rollout_wg = types.SimpleNamespace(
            _dispatch_info={"actor": list(range(ranks))},
            save_checkpoint=lambda *args, **kwargs: None,
            load_checkpoint=lambda *args, **kwargs: None,
        )
        return made

    yield trainer
    left = integration._listed()
    integration._clear(list(left))


def read_data(self):
    """Rows as verl's data set has them, without a file."""
    prompts = [[{"role": "user", "content": f"prompt {q}"}] for q in range(POOL)]
    self.train_dataset = [{"index": q, "raw_prompt": prompt} for q, prompt in enumerate(prompts)]
    self.train_dataloader = types.SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)


def sampled(trainer, step=1):
    """One step's batch, as verl samples and fills it up, with the coach's own beside it."""
    batch, metrics = trainer.replay_buffer.sample(step, "train", PROMPTS)
    trainer.global_steps = step
    batch.extra_info["temperature"] = 1.0
    return trainer._balance_batch(batch, metrics), metrics


def read(batch, *fields):
    return tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=list(fields))


def by_key(batch, *fields):
    """The fields of each row, by its key."""
    data = read(batch, *fields)
    return dict(zip(batch.keys, zip(*(data[name] for name in fields), strict=True), strict=True))


# --- how verl finds it


def test_verl_finds_it_by_its_entry_point():
    (found,) = entry_points(group="verl.plugins", name="rolloutbench")
    assert found.load() is integration
    assert get_trainer_cls("rolloutbench") is AllocatedPPOTrainer


def test_the_example_is_served(tmp_path):
    """Its script as a shell reads it, with a Python that only repeats what it was given."""
    (tmp_path / "python").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["sh", Path(__file__).parents[2] / "examples/verl/gsm8k.sh", "vip[predictor=beta]"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/root"},
        capture_output=True,
        text=True,
        check=True,
    )
    dash_m, module, *settings = done.stdout.splitlines()
    assert (dash_m, module) == ("-m", "verl.trainer.main_ppo")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=settings)
    integration._check(config)
    assert integration._options(config).allocator == "vip[predictor=beta]"


@pytest.mark.parametrize(
    ("estimator", "aggregation", "meant"),
    [
        ("grpo", "rollout", "grpo"),
        ("dr_grpo", "prompt", "dr_grpo"),
        ("rloo", "rollout", "rloo"),
        ("reinforce", "prompt", "reinforce"),
    ],
)
def test_the_lines_that_recommend_gives_are_served(estimator, aggregation, meant):
    """As a shell reads them, with a Python that only repeats what it was given."""
    lines = for_verl("vip[predictor=beta]", estimator, aggregation, 32, 8)
    printed = lines.replace("python", "printf '%s\\n'", 1)
    done = subprocess.run(["sh", "-c", printed], capture_output=True, text=True, check=True)
    _, module, *settings = done.stdout.splitlines()
    assert module == "verl.trainer.main_ppo"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[setting for setting in settings if setting])
    integration._check(config)
    options = integration._options(config)
    assert options.allocator == "vip[predictor=beta]"
    assert options.aggregation == aggregation
    assert (options.estimator or integration._estimator(config)) == meant
    assert config.data.train_batch_size == 32
    assert config.actor_rollout_ref.rollout.n == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["trainer.v1.rolloutbench=null"], "trainer.v1.rolloutbench.allocator is not given"),
        (chosen("unifrom"), "did you mean uniform"),
        (chosen("uniform", sed=1), "trainer.v1.rolloutbench.sed is no option; known: allocator, "),
        (chosen("uniform", aggregation="token"), "trainer.v1.rolloutbench.aggregation=token: "),
        (chosen("vip"), "predictor=beta"),
        (chosen("vip", features="/nowhere.npy"), "trainer.v1.rolloutbench.features=/nowhere.npy: "),
        (["algorithm.adv_estimator=gae"], "algorithm.adv_estimator=gae: "),
        (["algorithm.adv_estimator=grpo_passk"], "grpo or grpo_vectorized or rloo or rloo_vectorized is"),
        (["critic.enable=true"], "critic.enable=True: has values in place of groups"),
        (["algorithm.filter_groups.enable=true"], "the allocator dapo"),
        (["actor_rollout_ref.actor.policy_loss.loss_mode=kl_cov"], "loss_mode=kl_cov: "),
        (["trainer.v1.sampler.sync_refill_failed_groups=true"], "sync_refill_failed_groups=True: "),
        (["skip.rollout_tq.enable=true"], "skip.rollout_tq.enable=True: "),
        (["reward.reward_model.enable=true"], "enable_resource_pool=false: "),
        (["distillation.enabled=true"], "distillation.enabled=True: "),
        ([MINI.format(5)], "ppo_mini_batch_size=5: does not divide data.train_batch_size=8"),
        (["data.train_batch_size=48", MINI.format(48)], "40 rows: are too few"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(trainer, settings, message):
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        trainer(*settings)
    assert "\n" not in str(refused.value)


def test_another_release_of_verl_is_refused(trainer, monkeypatch):
    monkeypatch.setattr(integration.importlib.metadata, "version", lambda name: "0.10.0")
    with pytest.raises(InputError, match=r"verl=0\.10\.0: .* 0\.9\.1 is expected"):
        trainer()


# --- asking, telling, and what stays in the queue


SPECS = [*allocators.names(), "dapo[carry=true]", "ar3po[reuse=I]", "ar3po[reuse=replay]"]


@pytest.mark.parametrize("spec", SPECS)
def test_every_allocator_runs_and_the_queue_holds_only_what_may_be_trained_on(trainer, tmp_path, spec):
    np.save(tmp_path / "features.npy", np.random.default_rng(6).standard_normal((POOL, 4)))
    agents = Agents(PROBABILITY, lost=0.05, outputs=2)
    made = trainer(*chosen(spec, features=tmp_path / "features.npy"), agents=agents)
    for step in range(1, 4):
        batch, metrics = sampled(made, step)
        rows = [key for keys in made.replay_buffer.keys for key in keys]
        assert set(rows) == {
            key for key, tag in zip(batch.keys, batch.tags, strict=True) if "is_padding" not in tag
        }
        made._compute_advantage(batch, metrics)
        tq.kv_clear(keys=batch.keys, partition_id="train")  # as verl does after the update
        held = {key for keys in made.replay_buffer.rows.values() for key in keys}
        assert set(integration._listed()) == held
        assert set(made.replay_buffer.rows) == set(made.coach.holding())
    bill = made.coach.bill()
    assert bill["generated"] + bill["undelivered"] == sum(n for _, n in agents.asked)
    assert bill["undelivered"] > 0
    assert metrics["rollouts/generated"] == bill["generated"]


def test_counts_reach_verl_as_they_were_asked(trainer):
    agents = Agents(PROBABILITY)
    made = trainer(*chosen("vip[predictor=beta]"), agents=agents)
    for step in range(1, 6):
        sampled(made, step)
        asked = agents.asked[-PROMPTS:]
        batch = made.replay_buffer.batch
        assert dict(asked) == dict(zip(*np.unique(batch.prompts, return_counts=True), strict=True))
        assert sum(n for _, n in asked) == PROMPTS * GROUP
    assert len({n for _, n in asked}) > 1


def test_a_prompt_whose_sessions_all_fail_is_in_no_batch_and_costs_nothing(trainer):
    ends = set(range(0, POOL, 4))
    made = trainer(agents=Agents(PROBABILITY, ends=ends))
    for step in range(1, 6):
        sampled(made, step)
        assert not ends & set(made.replay_buffer.batch.prompts.tolist())
    bill = made.coach.bill()
    assert bill["undelivered"] == 10 * GROUP
    assert bill["generated"] == 5 * PROMPTS * GROUP - 10 * GROUP


def test_where_nothing_ever_comes_the_run_ends_with_the_numbers(trainer):
    made = trainer(agents=Agents(PROBABILITY, ends=range(POOL)))
    with pytest.raises(RuntimeError, match="of 0 rollouts generated .* 320 more never came"):
        sampled(made)


def test_a_reward_that_is_no_number_is_no_verdict_and_spoils_no_mean(trainer):
    made = trainer(*chosen("uniform", no_verdict="mask"), agents=Agents(PROBABILITY, unverified=0.3))
    batch, metrics = sampled(made)
    made._compute_advantage(batch, metrics)
    masked = np.isnan(made.replay_buffer.batch.rewards)
    assert made.coach.bill()["unverified"] == masked.sum() > 0
    data = by_key(batch, "rm_scores", "advantages")
    for keys, unknown in zip(made.replay_buffer.keys, masked, strict=True):
        scores, advantages = data[keys[0]]
        assert torch.isfinite(scores).all()
        assert not unknown or (advantages == 0).all()


def test_success_may_be_another_value_than_the_reward(trainer):
    made = trainer(*chosen("uniform", success="length", threshold=3.5))
    told = {}
    tell = made.coach.tell
    made.coach.tell = lambda rewards, rollouts, **more: told.update(more) or tell(rewards, rollouts, **more)
    batch, _ = sampled(made)
    lengths = [len(mask) for mask in read(batch, "response_mask")["response_mask"]]
    assert sorted(told["success"]) == sorted(lengths)
    with pytest.raises(InputError, match="success=correct: .* it says: length, right"):
        sampled(trainer(*chosen("uniform", success="correct")))


# --- what a rollout counts


@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        ["algorithm.adv_estimator=grpo"],
        ["algorithm.adv_estimator=grpo", "algorithm.norm_adv_by_std_in_grpo=false"],
        ["algorithm.adv_estimator=grpo_vectorized"],
        ["algorithm.adv_estimator=rloo"],
    ],
)
def test_uniform_is_verls_own_trainer(trainer, settings, kl):
    made = trainer(
        *settings, f"algorithm.use_kl_in_reward={str(kl).lower()}", "algorithm.kl_ctrl.kl_coef=0.5"
    )
    for step in range(1, 4):
        batch, metrics = sampled(made, step)
        PPOTrainerSync._compute_advantage(made, batch, metrics)
        theirs = read(batch, "advantages")["advantages"]
        made._compute_advantage(batch, metrics)
        ours = read(batch, "advantages")["advantages"]
        assert any(row.abs().max() > 0.1 for row in theirs)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, atol=2e-5, rtol=0)


def loss_gradients(made, batch, updates):
    """What each token's log-probability gets as gradient from verl's loss, key by key, summed over updates.

    It is cut as verl's workers cut it: equal parts of the rows for each rank, of which each update takes an
    equal part; gradients are averaged over ranks.
    """
    config = omega_conf_to_dataclass(made.config.actor_rollout_ref.actor)
    ranks = len(made.actor_rollout_wg._dispatch_info["actor"])
    data = read(batch, "advantages", "response_mask", "loss_mask")
    columns = [list(data[name]) for name in ("advantages", "response_mask", "loss_mask")]
    rows = np.arange(len(batch)).reshape(ranks, updates, -1)
    found = {}
    for part in range(updates):
        tokens = sum(int(columns[2][i].sum()) for i in rows[:, part].ravel())
        assert tokens > 0, "a mini-batch of padding alone would be divided by zero"
        for rank in range(ranks):
            mine = rows[rank, part]
            padded = [torch.nested.as_nested_tensor([c[i].float() for i in mine]) for c in columns[:2]]
            advantages, mask = (nested.to_padded_tensor(0.0) for nested in padded)
            logprobs = torch.zeros_like(advantages, requires_grad=True)
            config.global_batch_info.update(
                dp_size=ranks,
                batch_num_tokens=tokens,
                global_batch_size=rows[:, part].size,
                loss_scale_factor=7,
            )
            loss, _ = compute_policy_loss_vanilla(
                logprobs.detach(), logprobs, advantages, mask, config.loss_agg_mode, config
            )
            (loss / ranks).backward()
            found |= {batch.keys[i]: logprobs.grad[at] for at, i in enumerate(mine)}
    return found


MODES = ["token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]


@pytest.mark.parametrize(
    "spec", ["vip[predictor=beta]", "ar3po[reuse=I]", "ar3po", "knapsack[predictor=beta]"]
)
def test_each_token_counts_its_share_under_verls_loss(trainer, spec):
    """Groups of unequal sizes, reused successes, several outputs, failures, two ranks and padding."""
    agents = Agents(PROBABILITY, lost=0.1, outputs=2)
    made = trainer(*chosen(spec), agents=agents, ranks=2, micro=3)
    padded = 0
    for step in range(1, 5):
        batch, metrics = sampled(made, step)
        padded += metrics["rollouts/padding"]
        for mode, aggregation in itertools.product(MODES, ("rollout", "prompt")):
            made.config.actor_rollout_ref.actor.loss_agg_mode = mode
            made.options = dataclasses.replace(made.options, aggregation=aggregation)
            made._compute_advantage(batch, metrics)
            gradients = loss_gradients(made, batch, updates=1)
            for key, expected in expected_gradients(made, batch, mode, aggregation):
                got = gradients.pop(key)[: len(expected)]
                torch.testing.assert_close(got, expected.float(), atol=1e-6, rtol=1e-4)
            assert all((padding == 0).all() for padding in gradients.values())
        tq.kv_clear(keys=batch.keys, partition_id="train")
    assert padded > 0


def expected_gradients(made, batch, mode, aggregation):
    """Gradients of each row's tokens by hand: minus advantage, weight and share."""
    own, keys = made.replay_buffer.batch, made.replay_buffer.keys
    masks = dict(zip(batch.keys, read(batch, "loss_mask")["loss_mask"], strict=True))
    tokens = np.array([sum(int(masks[key].sum()) for key in outputs) for outputs in keys])
    for row, outputs in enumerate(keys):
        for key in outputs:
            if mode.startswith("token"):  # what one token counts
                share = 1.0 if mode == "token-sum" else 1 / tokens.sum()
                if aggregation == "prompt":
                    of_group = tokens[own.group == own.group[row]].sum()
                    share = (tokens.sum() if mode == "token-sum" else 1) / own.groups / of_group
            else:  # what a rollout counts, and then one token of one of its outputs
                of = own.size[row] * own.groups if aggregation == "prompt" else own.members
                each = {"mean": int(masks[key].sum()), "sum": 1, "sum-norm": 7}[mode.split("-token-")[1]]
                share = 1 / of / len(outputs) / each
            yield key, -own.advantages[row] * own.weight[row] * share * masks[key].float()


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_a_step_has_as_many_updates_as_configured_whatever_its_rows(trainer, mode, ranks):
    made = trainer(
        *chosen("ar3po[reuse=none]"),
        MODE.format(mode),
        MINI.format(2),
        agents=Agents(PROBABILITY, lost=0.1),
        ranks=ranks,
        micro=5,
    )
    seen, cut = set(), []
    for step in range(1, 5):
        batch, metrics = sampled(made, step)
        seen.add(len(made.replay_buffer.batch))
        made._compute_advantage(batch, metrics)
        gradients = loss_gradients(made, batch, updates=4)
        if mode != "token-mean":  # verl's mean over tokens is one of each mini-batch
            share = 4 / made.replay_buffer.batch.members
            for keys, advantage in zip(
                made.replay_buffer.keys, made.replay_buffer.batch.advantages, strict=True
            ):
                assert float(gradients[keys[0]].sum()) == pytest.approx(-advantage * share, abs=1e-6)
        update = lambda meta: cut.append(dict(meta.extra_info)) or {"metrics": {"actor/mfu": [0.0]}}  # noqa: E731
        made.actor_rollout_wg.update_actor = update
        made.distillation_config = None
        made._update_actor(batch, metrics)
        assert cut[-1]["mini_batch_size"] == cut[-1]["global_batch_size"] == len(batch) // 4
        assert made.config.actor_rollout_ref.rollout.n == GROUP
    assert len(seen) > 1


def test_padding_is_dealt_out_to_all_mini_batches():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ranks, parts, each = rng.integers(1, 5, 3)
        padding = rng.random(ranks * parts * each) < rng.random()
        order = integration._spread(padding, ranks, parts)
        blocks = padding.reshape(ranks, -1)
        assert sorted(order) == list(range(len(padding)))
        assert (padding[order].reshape(ranks, -1).sum(axis=1) == blocks.sum(axis=1)).all()
        real = (~padding[order]).reshape(ranks, parts, each).sum(axis=(0, 2))
        assert not padding.any() or np.ptp(real) <= 1


def test_rollout_correction_is_verls(trainer):
    made = trainer(
        *chosen("vip[predictor=beta]"),
        "algorithm.rollout_correction.rollout_is=token",
        "algorithm.rollout_correction.rollout_is_threshold=1.05",
    )
    batch, metrics = sampled(made)
    made._compute_advantage(batch, metrics)
    data = read(batch, "rollout_is_weights", "advantages", "response_mask")
    weights = torch.cat(list(data["rollout_is_weights"]))
    assert weights.max() == pytest.approx(1.05)  # exp(0.1), cut off
    worth = dict(zip(batch.keys, data["advantages"], strict=True))
    for keys, advantage in zip(made.replay_buffer.keys, made.replay_buffer.batch.advantages, strict=True):
        assert float(worth[keys[0]].max(dim=0).values if advantage > 0 else worth[keys[0]].min()) == (
            pytest.approx(advantage, abs=1e-6)
        )


def test_kl_of_stored_successes_is_not_known(trainer):
    made = trainer(*chosen("ar3po"), "algorithm.use_kl_in_reward=true")
    with pytest.raises(InputError, match="use_kl_in_reward=True: is not known of stored successes"):
        for step in range(1, 30):
            batch, metrics = sampled(made, step)
            made._compute_advantage(batch, metrics)
            tq.kv_clear(keys=batch.keys, partition_id="train")


def test_a_replayed_rollout_keeps_the_probabilities_of_its_own_policy(trainer, monkeypatch):
    monkeypatch.setattr(PPOTrainerSync, "_compute_old_log_prob", lambda self, batch, metrics: batch)
    made = trainer(*chosen("ar3po[reuse=replay]"))
    replayed = 0
    for step in range(1, 15):
        batch, metrics = sampled(made, step)
        made._compute_old_log_prob(batch, metrics)
        data = by_key(batch, "old_log_probs", "rollout_log_probs")
        for keys, again in zip(made.replay_buffer.keys, made.replay_buffer.batch.reused, strict=True):
            old, own = data[keys[0]]
            torch.testing.assert_close(old, own + (0.0 if again else 0.1))
            replayed += int(again)
        tq.kv_clear(keys=batch.keys, partition_id="train")
    assert replayed


# --- checkpoints


@pytest.mark.parametrize("spec", ["vip[predictor=beta]", "ar3po[reuse=I]", "dapo[carry=true]"])
def test_resumed_is_uninterrupted(trainer, spec):
    def steps(made, numbers):
        for step in numbers:
            batch, metrics = sampled(made, step)
            made._compute_advantage(batch, metrics)
            kept = made.replay_buffer.batch
            seen.append(
                (kept.prompts.tolist(), kept.advantages.tolist(), kept.age.tolist(), made.coach.bill())
            )
            yield batch
            tq.kv_clear(keys=batch.keys, partition_id="train")

    seen = whole = []
    for _ in steps(trainer(*chosen(spec)), range(1, 9)):
        pass
    integration._clear(list(integration._listed()))

    seen, agents = [], Agents(PROBABILITY)
    made = trainer(*chosen(spec), agents=agents)
    made.use_critic, made.checkpoint_callback = False, types.SimpleNamespace(on_save=lambda **others: None)
    for _ in steps(made, range(1, 5)):
        if made.global_steps == 4:  # verl saves before it clears what was trained on
            made._save_checkpoint()
    integration._clear(list(integration._listed()))
    again = trainer(*chosen(spec), agents=agents)
    again.use_critic = False
    again._load_checkpoint()
    assert again.global_steps == 4
    for _ in steps(again, range(5, 9)):
        pass
    assert seen == whole


def test_a_checkpoint_of_other_data_or_another_allocator_is_refused(trainer, monkeypatch):
    made = trainer(*chosen("mopps"))
    made.use_critic, made.checkpoint_callback = False, types.SimpleNamespace(on_save=lambda **others: None)
    sampled(made)
    made._save_checkpoint()
    other = trainer(*chosen("uniform"))
    other.use_critic = False
    with pytest.raises(InputError, match="allocator=uniform: what was saved has allocator=mopps"):
        other._load_checkpoint()
    monkeypatch.setattr(integration, "_fingerprint", lambda dataset: "another")
    other = trainer(*chosen("mopps"))
    other.use_critic = False
    with pytest.raises(InputError, match="fingerprint"):
        other._load_checkpoint()


def test_after_a_checkpoint_of_another_trainer_the_allocator_begins_anew(trainer, caplog):
    made = trainer(*chosen("mopps"))
    made.use_critic, made.checkpoint_callback = False, types.SimpleNamespace(on_save=lambda **others: None)
    sampled(made)
    made._save_checkpoint()
    (Path(made.config.trainer.default_local_dir) / "global_step_1/rolloutbench/coach.safetensors").unlink()
    again = trainer(*chosen("mopps"))
    again.use_critic = False
    again._load_checkpoint()
    assert "the allocator begins anew" in caplog.text
    assert again.coach.bill()["generated"] == 0
    assert integration._listed() == {}
