"""A tiny model and a task for it, verl's configuration for a CPU, and one Ray cluster for all tests."""

import copy
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
if find_spec("verl") is not None:
    # Read by every process of verl: the stand-in, and that it may have the training engine of CUDA.
    os.environ |= {"VERL_USE_EXTERNAL_MODULES": "verl_on_cpu", "VERL_ENGINE_DEVICE": "cuda"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])

SCORE = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **others):
    return {"score": float(ground_truth in solution_str), "right": float(ground_truth in solution_str)}
"""


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    """A folder with a model of random weights, 20 prompts of a digit each, and a reward for repeating it."""
    import pandas as pd
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("task")
    names = ["<pad>", "<eos>", "<unk>", "u", "a", ":", *"0123456789"]
    text = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    text.pre_tokenizer, text.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=text, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokens.chat_template = (
        "{% for m in messages %}u:{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    torch.manual_seed(0)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(names),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    network.save_pretrained(folder / "model")
    tokens.save_pretrained(folder / "model")
    rows = [
        {
            "data_source": "digits",
            "prompt": [{"role": "user", "content": str(i % 10)}],
            "reward_model": {"style": "rule", "ground_truth": str(i % 10)},
            "extra_info": {"index": i},
        }
        for i in range(20)
    ]
    pd.DataFrame(rows).to_parquet(folder / "train.parquet")
    (folder / "score.py").write_text(SCORE)
    return folder


@pytest.fixture(scope="session")
def overrides(task):
    """Settings of verl for this task on a CPU, as they stand on its command line."""
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return [
        f"data.train_files={task}/train.parquet",
        f"data.val_files={task}/train.parquet",
        "data.train_batch_size=4",
        "data.max_prompt_length=16",
        "data.max_response_length=4",
        "data.dataloader_num_workers=0",
        f"actor_rollout_ref.model.path={task}/model",
        "actor_rollout_ref.model.use_remove_padding=false",
        "+actor_rollout_ref.model.override_config.attn_implementation=eager",
        f"{actor}.strategy=fsdp2",
        f"{actor}.ppo_mini_batch_size=4",
        f"{actor}.ppo_micro_batch_size_per_gpu=4",
        f"{actor}.optim.lr=0.01",
        f"{actor}.fsdp_config.model_dtype=fp32",
        f"{actor}.fsdp_config.dtype=float32",
        f"{rollout}.name=on_cpu",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.n=4",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=4",
        f"{rollout}.agent.num_workers=1",
        f"{rollout}.free_cache_engine=false",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=4",
        "reward.num_workers=1",
        f"reward.custom_reward_function.path={task}/score.py",
        "algorithm.adv_estimator=grpo",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
        "trainer.device=cpu",
        "trainer.logger=[console]",
        "trainer.val_before_train=false",
        "trainer.v1.trainer_mode=rolloutbench",
        "+trainer.v1.rolloutbench.allocator=uniform",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "ray_kwargs.ray_init.num_cpus=8",
        "+ray_kwargs.ray_init.num_gpus=1",
        "+ray_kwargs.ray_init.include_dashboard=false",
    ]


@pytest.fixture(scope="session")
def configured(overrides):
    """A function from further settings `name=value` to verl's configuration, which is read once."""
    import yaml
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("verl.trainer.config", version_base=None):
        base = compose("ppo_trainer", overrides=overrides)

    def configured(*further):
        config = copy.deepcopy(base)
        for setting in further:
            name, _, value = setting.partition("=")
            OmegaConf.update(
                config, name, yaml.safe_load(value) if "[" not in value else value, force_add=True
            )
        return config

    return configured


@pytest.fixture(scope="session")
def cluster(configured):
    """Ray with verl's TransferQueue, for all tests of a session."""
    import ray
    import transfer_queue as tq

    ray.init(num_cpus=16, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tq.init(configured().transfer_queue)
    yield
    tq.close()
    ray.shutdown()
