"""Sampling with vLLM, in the trainer's process and on its GPU if it has one.

Only within a process can weights be handed over in memory, which takes milliseconds: hence no server.
vLLM computes what the network computes with kernels of its own, so its log-probs are close to the
trainer's and not equal to them: `exact` is False, and the trainer corrects by importance weights.

Every request has its own seed, made of the engine's seed and the number of the call. What is drawn thus
does not depend on how vLLM batches, up to rounding, nor on what else uses torch's generators.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch

from real_runs.adapters import merged_weights
from real_runs.models import LanguageModel
from real_runs.rollouts import Prompt, Sampled
from rolloutbench.optional import need
from rolloutbench.protocol import InputError, IntArray, State

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core in this process
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about a tokenizer it needs not have and the like
}
"""Environment variables that are set before vLLM is imported, unless the user has set them."""

CPU_CACHE = 2**30
"""Bytes for keys and values on a CPU, where there is no GPU memory to take a share of."""


class VLLMEngine:
    """Engine that samples from vLLM's copy of a model's weights, brought up to date by `sync`.

    `bf16`: whether the copy is in bfloat16; by default on CUDA. `gpu_memory`: the share of the GPU's
    memory that vLLM may take; the rest is the trainer's. The network's parameters must be named as in its
    checkpoint, as those of dense language models are; vLLM refuses a name that it does not know. One engine
    a process at a time: the end of one, by `close` or when it is collected, ends what vLLM shares.
    """

    exact = False

    def __init__(
        self,
        model: LanguageModel,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        bf16: bool | None = None,
        gpu_memory: float = 0.3,
    ) -> None:
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens={max_new_tokens}: at least 1")
        if stop:
            raise InputError("engine vllm ends responses at no stop strings; transformers does")
        if not 0.01 <= temperature <= 2:
            raise InputError(f"temperature={temperature}: vllm samples at 0.01 to 2")
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        processes = os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
        if processes != "0":
            raise InputError(
                f"VLLM_ENABLE_V1_MULTIPROCESSING={processes}: must be 0 or unset, for weights are handed "
                "over within the process"
            )
        self._vllm = need("vllm", "vllm")
        self.model, self.max_new_tokens = model, max_new_tokens
        self._seed, self._calls = seed, 0
        # Only `end` ends a response, as in the other engine, whatever the model's files call an end.
        self._sampling = {
            "temperature": temperature,
            "max_tokens": max_new_tokens,
            "stop_token_ids": [model.end],
            "ignore_eos": True,
            "detokenize": False,
            "logprobs": 0,  # of the token drawn, and of no others
            "flat_logprobs": True,
        }
        cuda = model.network.device.type == "cuda"
        if cuda:
            where = {"gpu_memory_utilization": gpu_memory}
        else:
            # Prompts are not read in parts: vLLM then turns a request's generator back, and torch's on a
            # CPU cannot. Nothing is compiled, which takes longer than a small run.
            where = {
                "kv_cache_memory_bytes": CPU_CACHE,
                "enable_chunked_prefill": False,
                "enforce_eager": True,
            }
        try:
            with _torch_as_it_is(model.network.device):
                self._llm = self._vllm.LLM(
                    str(model.directory),
                    dtype="bfloat16" if (cuda if bf16 is None else bf16) else "float32",
                    max_model_len=-1,  # as long as the model allows and memory holds
                    skip_tokenizer_init=True,
                    load_format="dummy",  # weights come by `sync`
                    logprobs_mode="processed_logprobs",  # those of the distribution that is drawn from
                    **where,
                )
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"vllm cannot load {model.directory}: {' '.join(str(error).split())}") from error
        self.sync()

    def generate(self, prompts: Sequence[Prompt], counts: IntArray) -> Sampled:
        """Sample `counts` (P,) responses to each of P prompts; 0 asks for none."""
        self._check(prompts)
        seeds = np.random.SeedSequence((self._seed, self._calls)).generate_state(len(prompts))
        self._calls += 1
        asked = np.flatnonzero(counts).tolist()
        requests = self._llm.generate(
            [{"prompt_token_ids": list(prompts[place])} for place in asked],
            [
                self._vllm.SamplingParams(n=int(counts[place]), seed=int(seeds[place]), **self._sampling)
                for place in asked
            ],
            use_tqdm=False,
        )
        responses = [response for request in requests for response in request.outputs]
        lengths = np.array([len(response.token_ids) for response in responses], dtype=np.int64)
        inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
        tokens, logprobs = np.zeros(inside.shape, np.int32), np.zeros(inside.shape, np.float32)
        tokens[inside] = list(chain.from_iterable(response.token_ids for response in responses))
        logprobs[inside] = list(chain.from_iterable(response.logprobs.logprobs for response in responses))
        if not np.isfinite(logprobs).all():
            raise InputError("the model's probabilities are not numbers: its weights have diverged")
        finished = np.array([response.finish_reason == "stop" for response in responses], dtype=bool)
        return Sampled(np.repeat(np.arange(len(prompts)), counts), tokens, lengths, logprobs, finished)

    def sync(self) -> None:
        """Copy the network's weights, and forget the keys and values made with the old ones."""
        # Of a head tied to the embeddings vLLM may keep a packed copy of its own.
        weights = list(merged_weights(self.model.network))
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vllm keeps keys and values made with the old weights")

    def state_dict(self) -> State:
        """The engine's seed and the number of calls so far."""
        return {"seed": np.array(self._seed), "calls": np.array(self._calls)}

    def load_state_dict(self, state: State) -> None:
        """Restore the seed and the number of calls."""
        self._seed, self._calls = int(state["seed"]), int(state["calls"])

    def close(self) -> None:
        """Give up the memory, as the end of the process does; the engine is of no use after that."""
        self._llm.llm_engine.engine_core.shutdown()

    def _check(self, prompts: Sequence[Prompt]) -> None:
        lengths = [len(prompt) for prompt in prompts]
        room = self._llm.model_config.max_model_len
        if min(lengths, default=1) == 0:
            raise InputError("a prompt has no tokens")
        if max(lengths, default=0) + self.max_new_tokens > room:
            raise InputError(
                f"max_new_tokens={self.max_new_tokens}: with a prompt of {max(lengths)} tokens more than the "
                f"{room} that vllm has room for"
            )


@contextmanager
def _torch_as_it_is(device: torch.device) -> Iterator[None]:
    """vLLM seeds torch's generators and, on a CPU, takes `set_num_threads` away: give both back."""
    set_num_threads = torch.set_num_threads
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            torch.set_num_threads = set_num_threads
