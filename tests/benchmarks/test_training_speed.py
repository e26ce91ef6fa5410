"""Sampling and updating of real runs beside a bare loop of a dozen lines on the same model.

    python -m pytest tests/benchmarks/test_training_speed.py --benchmark-only

CPU seconds of one thread, for the same prompts and responses: of a tiny model, where what is beside the
network counts, and of one whose time goes into the network.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from real_runs.engines.transformers import TransformersEngine
from real_runs.models import LanguageModel, one_thread
from real_runs.rollouts import Rollouts
from real_runs.settings import PPO
from real_runs.trainer import Batch, Trainer

pytestmark = pytest.mark.torch

END = 1
MODELS = {  # layers, width, vocabulary, length of prompts, tokens of a response, prompts
    "84,000 parameters": (2, 64, 13, 8, 9, 64),
    "11 million parameters": (4, 256, 16_384, 24, 8, 8),
}
GROUP, ROUNDS = 8, 5


def network_of(layers, width, vocabulary):
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        eos_token_id=END,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def bare_generation(network, prompts, new):
    """All rows to their last token, prompts in each of them."""
    rows = torch.tensor(prompts).repeat_interleave(GROUP, 0)
    tokens, logprobs, cache, given = [], [], None, rows
    with torch.no_grad():
        for _ in range(new):
            out = network(input_ids=given, past_key_values=cache, use_cache=True)
            cache, chances = out.past_key_values, torch.log_softmax(out.logits[:, -1], -1)
            given = torch.multinomial(chances.exp(), 1)
            tokens.append(given)
            logprobs.append(chances.gather(1, given))
    return torch.cat(tokens, 1), torch.cat(logprobs, 1)


def bare_update(network, optimizer, rows, start, inside, advantages, weights):
    """One policy-gradient step on rows of prompt and response of equal length."""
    optimizer.zero_grad()
    logits = network(input_ids=rows).logits[:, start - 1 : -1]
    logprobs = torch.log_softmax(logits, -1).gather(2, rows[:, start:, None])[..., 0]
    ratio = torch.exp(logprobs - logprobs.detach())
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)
    (-(gain * weights * inside).sum()).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()


def cpu_seconds(functions):
    """Medians of the functions' CPU seconds, taken in turn, since a busy machine slows down both."""
    spent = {name: [] for name in functions}
    for turn in range(ROUNDS + 1):
        for name, function in functions.items():
            before = time.process_time()
            function()
            if turn:
                spent[name].append(time.process_time() - before)
    return {name: float(np.median(seconds)) for name, seconds in spent.items()}


@pytest.mark.parametrize("name", MODELS)
def test_against_a_bare_loop(benchmark, record, name):
    layers, width, vocabulary, length, new, count = MODELS[name]
    network = network_of(layers, width, vocabulary)
    model = LanguageModel(network, Path("nowhere"), END, list, str)
    prompts = np.random.default_rng(0).integers(2, vocabulary, (count, length)).tolist()
    with one_thread():
        engine = TransformersEngine(model, new)
        sampled = engine.generate(prompts, np.full(count, GROUP))
        rows = len(sampled.source)
        advantages = np.where(np.arange(rows) % 2, 1.0, -1.0)
        rollouts = Rollouts(
            sampled.source,
            sampled.tokens,
            sampled.lengths,
            sampled.logprobs,
            (advantages > 0).astype(np.int64),
            (advantages > 0).astype(np.float64),
            (advantages > 0).astype(np.float64),
            np.zeros(rows, np.int64),
        )
        weights = np.full(rows, 1.0 / rows)
        batch = Batch(rollouts, [prompts[q] for q in sampled.source], advantages, weights, advantages > 9)
        trainer = Trainer(model, PPO(), 1.0, True)
        ids = torch.tensor([[*prompts[q], *t] for q, t in zip(sampled.source, sampled.tokens, strict=True)])
        inside = torch.from_numpy(np.arange(sampled.tokens.shape[1]) < sampled.lengths[:, None])
        optimizer = torch.optim.AdamW(network.parameters(), 1e-6, fused=True)
        each = torch.tensor(advantages, dtype=torch.float32)[:, None]
        what = {
            "sampling": lambda: engine.generate(prompts, np.full(count, GROUP)),
            "sampling, bare loop": lambda: bare_generation(network, prompts, new),
            "update": lambda: trainer.update(batch),
            "update, bare loop": lambda: bare_update(
                network, optimizer, ids, length, inside, each, 1.0 / rows
            ),
        }
        spent = benchmark.pedantic(cpu_seconds, args=(what,), rounds=1)
    for part, seconds in (spent or {}).items():
        record(f"{part}, {name}", seconds)
