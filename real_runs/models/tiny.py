"""A Llama from scratch that reads single characters, warmed up by supervised learning.

It learns from examples of its task and is kept in the cache by a hash of all that went into it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic.dataclasses
from pydantic import Field

from real_runs.models import END, PAD, LanguageModel, ModelSpec, check_device, one_thread, padded, quiet
from real_runs.models.cache import make_once
from real_runs.models.characters import Characters
from real_runs.models.hugging_face import open_directory
from real_runs.rollouts import Prompt
from real_runs.tasks import Task
from rolloutbench.cells.cell import describe
from rolloutbench.optional import need
from rolloutbench.registry import PARAMETERS

BATCH = 256
RISING = 50
"""Warm-up: number of examples in a batch, and of steps in which the learning rate rises."""


@pydantic.dataclasses.dataclass(config=PARAMETERS, frozen=True)
class Tiny(ModelSpec):
    """Llama from scratch over characters, after a supervised warm-up on examples of the task."""

    layers: Annotated[int, Field(ge=1, le=100)] = 2
    width: Annotated[int, Field(ge=32, le=8192, multiple_of=32)] = 64
    warmup_steps: Annotated[int, Field(ge=0, le=100_000)] = 120
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 4e-3
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def check(self, task: Task) -> None:
        """Raise InputError where the task makes no examples for the warm-up."""
        task.examples(np.random.default_rng(self.seed), 1)

    def load(self, task: Task, device: str, cache: Path) -> LanguageModel:
        """Load the model from the cache, or make it now; processes that start together make it once.

        A damaged entry is made again. On a CPU the same weights come out to the bit.
        """
        check_device(device)
        place = cache / "models" / self._name(task, device)
        make_once(place, lambda directory: self._make(task, device, directory))
        return open_directory(place, device)

    def _name(self, task: Task, device: str) -> str:
        sources = [Path(__file__).read_text(), task.fingerprint()]
        versions = [version(package) for package in ("torch", "transformers", "numpy")]
        asked = [describe(self), describe(task), task.alphabet, task.max_new_tokens]
        text = json.dumps([asked, sources, versions, device.partition(":")[0]], sort_keys=True)
        return f"tiny-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _make(self, task: Task, device: str, directory: Path) -> None:
        tokenizer = Characters(task.alphabet)
        network = self._train(task, tokenizer, device)
        with quiet():
            network.save_pretrained(directory)
        tokenizer.write(directory)

    def _train(self, task: Task, tokenizer: Characters, device: str) -> Any:
        torch = need("torch", "llm")
        examples = task.examples(np.random.default_rng(self.seed), BATCH * max(self.warmup_steps, 1))
        prompts = [tokenizer.encode(example.prompt) for example in examples]
        answers = [[*tokenizer.encode(example.answer), END] for example in examples]
        longest = max(map(len, prompts)) + max(task.max_new_tokens, *map(len, answers))
        with one_thread():
            network = self._fresh(len(tokenizer.alphabet) + 2, longest).to(device).train()
            optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, betas=(0.9, 0.98))
            for step in range(self.warmup_steps):
                batch = slice(BATCH * step, BATCH * (step + 1))
                rate = min(1, (step + 1) / RISING) * (1 - 0.9 * step / self.warmup_steps)
                optimizer.param_groups[0]["lr"] = self.learning_rate * rate
                with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
                    loss = _answer_loss(network, prompts[batch], answers[batch])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        return network.eval()

    def _fresh(self, vocabulary: int, longest: int) -> Any:
        torch, transformers = need("torch", "llm"), need("transformers", "llm")
        config = transformers.LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.width,
            intermediate_size=2 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 32,  # vLLM has no kernels for heads of 16
            head_dim=32,
            # Room for problems longer than the examples: with rotary positions it costs no weights.
            max_position_embeddings=max(64, 1 << (longest - 1).bit_length()),
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=END,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return transformers.LlamaForCausalLM(config)


def _answer_loss(network: Any, prompts: Sequence[Prompt], answers: Sequence[Prompt]) -> Any:
    """Mean negative log-likelihood of the answers' tokens."""
    torch = need("torch", "llm")
    ids, mask = padded([[*p, *a] for p, a in zip(prompts, answers, strict=True)], network.device)
    starts = torch.tensor([len(prompt) for prompt in prompts], device=network.device)
    asked = torch.arange(ids.shape[1], device=network.device) < starts[:, None]
    wanted = ids.masked_fill(asked | (mask == 0), -100)[:, 1:]
    logits = network(input_ids=ids, attention_mask=mask).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), wanted.flatten())
