"""Whole steps of verl on a CPU: its agent loops, reward loop, FSDP workers, weight transfer and checkpoints.

Only the rollout engine is a stand-in (`verl_on_cpu.py`): it samples from the weights that the actor sent.
"""

import re
import subprocess
import sys

import pytest

pytest.importorskip("verl", reason="verl is not installed")
import ray
import torch
from safetensors.torch import load_file
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, get_trainer_cls
from verl.utils.tracking import Tracking

pytestmark = [
    pytest.mark.ray,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # verl's and those of what it imports
]
SETTINGS = [
    "trainer.v1.rolloutbench.allocator=ar3po[reuse=I]",
    "trainer.v1.rolloutbench.success=right",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "algorithm.use_kl_in_reward=true",
    "algorithm.rollout_correction.rollout_is=token",
    "trainer.save_freq=4",
    "trainer.test_freq=4",
]
"""Two updates a step, KL in the reward and in the loss, rollout correction, reuse, validation."""


def test_it_trains_from_verls_command_line_is_saved_and_goes_on(
    overrides, configured, request, monkeypatch, tmp_path
):
    folders = [
        f"trainer.default_local_dir={tmp_path}/checkpoints",
        f"trainer.rollout_data_dir={tmp_path}/rollouts",
    ]
    quoted = [re.sub(r"=(.*\[.*)", r"='\1'", setting) for setting in SETTINGS]
    quoted = [re.sub(r"^(trainer\.v1)", r"++\1", setting) for setting in quoted]
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *overrides, *quoted, *folders]
    done = subprocess.run(
        [*command, "trainer.total_training_steps=4"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = [dict(re.findall(r"([\w/@-]+):(-?[\d.e+-]+|nan)", line)) for line in lines(done.stdout)]
    assert [step["training/global_step"] for step in steps] == ["1", "2", "3", "4"]
    for step in steps:
        assert {"actor/reward_kl_penalty", "actor/kl_loss", "actor/grad_norm", "rollouts/reward"} <= set(step)
        assert "nan" not in step.values()
    assert float(steps[-1]["rollouts/smallest_group"]) < float(steps[-1]["rollouts/largest_group"])
    assert len((tmp_path / "rollouts/4.jsonl").read_text().splitlines()) >= 8

    request.getfixturevalue("cluster")
    logged = []
    monkeypatch.setattr(Tracking, "log", lambda self, data, step: logged.append(dict(data)))
    config = configured(*SETTINGS, *folders, "trainer.total_training_steps=6")
    trainer = get_trainer_cls("rolloutbench")(config)
    trainer.init()
    held = trainer.coach.holding()
    assert set(trainer.replay_buffer.rows) == set(held) != set()
    saved = weights()
    agents = AgentLoopManagerTQ.create(
        config=config,
        llm_client=trainer.get_llm_client(),
        teacher_client=None,
        reward_loop_worker_handles=trainer.get_reward_handles(),
    )
    trainer.fit(agents)
    assert [step["training/global_step"] for step in logged] == [5, 6]
    assert logged[0]["rollouts/generated"] > float(steps[-1]["rollouts/generated"])
    begin = load_file(f"{config.actor_rollout_ref.model.path}/model.safetensors")
    for one, other in ((begin, saved), (saved, weights())):
        assert any((one[name] - other[name]).abs().max() > 1e-4 for name in begin)
    assert set(trainer.replay_buffer.rows) == set(trainer.coach.holding())


def lines(said):
    """What verl logged of each step to its console."""
    return re.findall(r"step:\d+ - .*", re.sub(r"\x1b\[[0-9;]*m", "", said))


def weights():
    """The weights with which the engine samples, which the actor sent."""
    found = ray.get(ray.get_actor("on_cpu_0").weights.remote())
    return {name: torch.clone(tensor) for name, tensor in found.items()}
