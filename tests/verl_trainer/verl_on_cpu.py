"""What verl lacks on a CPU: a platform, and a rollout engine that samples from the actor's own tiny model.

`VERL_USE_EXTERNAL_MODULES=verl_on_cpu` has every process of verl load this. The replica and its adapter stand
where vLLM's stand, behind verl's own registries; agent loops, reward loop, workers and trainer are verl's.
"""

import contextlib
import functools
import types

import ray
import torch
from torch.distributed.fsdp import CPUOffloadPolicy
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry, set_platform
from verl.utils import distributed, fsdp_utils
from verl.workers.rollout import base
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry, TokenOutput

NAME = "on_cpu"


def nothing(*args, **kwargs):
    return None


@PlatformRegistry.register(platform="cpu")
class CPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = types.SimpleNamespace(
        **{name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("_")}
        | {name: lambda *_: 0 for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated")}
        | {name: lambda *_: 0 for name in ("memory_reserved", "get_rng_state")}
        | dict.fromkeys(("empty_cache", "manual_seed", "set_rng_state", "reset_peak_memory_stats"), nothing)
        | {
            "mem_get_info": lambda *_: (1, 1),
            "is_bf16_supported": lambda: True,
            "get_device_name": lambda *_: "CPU",
        }
    )
    is_available = lambda self: True  # noqa: E731
    current_device = lambda self: torch.device("cpu")  # noqa: E731
    device_count = lambda self: 1  # noqa: E731
    set_device = synchronize = manual_seed = manual_seed_all = set_allocator_settings = empty_cache = nothing
    profiler_start = profiler_stop = cudart = nothing
    get_device_capability = lambda self, index=0: (None, None)  # noqa: E731
    communication_backend_name = lambda self: "gloo"  # noqa: E731
    visible_devices_envvar = lambda self: "CUDA_VISIBLE_DEVICES"  # noqa: E731
    nvtx_range = lambda self, message: contextlib.nullcontext()  # noqa: E731
    ray_resource_name = lambda self: "GPU"  # noqa: E731
    ray_noset_envvars = lambda self: []  # noqa: E731
    is_ipc_supported = lambda self: False  # noqa: E731


set_platform(CPU())
# verl would ask for the backends of "cpu" and of the device, and torch takes no device twice.
distributed.initialize_global_process_group_ray = functools.partial(
    distributed.initialize_global_process_group_ray, backend="gloo"
)
# verl has the reference model's weights wait in pinned memory, of which there is none without a GPU.
fsdp_utils.CPUOffloadPolicy = lambda pin_memory: CPUOffloadPolicy(pin_memory=False)


@ray.remote(num_cpus=0)
class Server:
    """Samples from the model, whose weights the actor sends; one request after another."""

    def __init__(self, path):
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        self.end, self.step = self.model.config.eos_token_id, 0

    def load(self, weights, step):
        self.model.load_state_dict(weights)
        self.step = step

    def weights(self):
        return self.model.state_dict()

    @torch.no_grad()
    def generate(self, request_id, prompt_ids, sampling_params, **others):
        ids, logprobs = list(prompt_ids), []
        for _ in range(sampling_params.get("max_tokens", 4)):
            logits = self.model(torch.tensor([ids])).logits[0, -1].float()
            if sampling_params["temperature"] == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial((logits / sampling_params["temperature"]).softmax(-1), 1))
            ids.append(token)
            logprobs.append(float(logits.log_softmax(-1)[token]))
            if token == self.end:
                break
        return TokenOutput(
            token_ids=ids[len(prompt_ids) :], log_probs=logprobs, extra_fields={"global_steps": self.step}
        )

    def idle(self, *args, **kwargs):
        return None

    wake_up = sleep = clear_kv_cache = start_profile = stop_profile = idle


class Replica(RolloutReplica):
    async def launch_servers(self):
        name = f"{NAME}_{self.replica_rank}"
        server = Server.options(name=name).remote(self.model_config["path"])
        self.servers, self._server_handle, self._server_address = [server], server, name


class Adapter(BaseRollout):
    async def resume(self, tags):
        pass

    async def release(self):
        pass

    async def update_weights(self, weights, global_steps=None, **others):
        sent = {name: tensor.detach().cpu() for name, tensor in weights}
        await ray.get_actor(f"{NAME}_0").load.remote(sent, global_steps)


RolloutReplicaRegistry.register(NAME, lambda: Replica)
base._ROLLOUT_REGISTRY[NAME, "async"] = f"{__name__}.Adapter"
