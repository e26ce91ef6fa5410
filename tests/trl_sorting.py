"""Digit sorting for TRL on a CPU: `4821=` asks for `1248`. Tokenizer, model and prompts are made here."""

from __future__ import annotations

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)

CHARACTERS = "0123456789="
VOCABULARY = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{c: i + 3 for i, c in enumerate(CHARACTERS)}}
LONGEST = 10
"""Most tokens of a completion."""


def tokenizer():
    characters = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("<bos>|."), "isolated")
    characters.decoder = decoders.Fuse()
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=characters, padding_side="left", **named)


def llama(seed=0, width=32, layers=1):
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def problems(count, seed, longest=6):
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("0123456789"), size)) for size in rng.integers(1, longest + 1, count)]
    return [(f"{word}=", "".join(sorted(word))) for word in words]


def dataset(count=200, seed=5, longest=6):
    prompts, answers = zip(*problems(count, seed, longest), strict=True)
    return Dataset.from_dict({"prompt": list(prompts), "answer": list(answers)})


def correct(completions, answer, **others):
    """1 for the sorted digits."""
    return [float(said == right) for said, right in zip(completions, answer, strict=True)]


def warm_up(folder, steps=150, **size):
    """Write a model into a folder, after supervised learning on fresh problems; returns its last loss."""
    network = llama(**size)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(steps):
        rows = problems(128, 1000 + step)
        texts = [[VOCABULARY[c] for c in prompt + answer] + [2] for prompt, answer in rows]
        width = max(map(len, texts))
        tokens = torch.tensor([text + [0] * (width - len(text)) for text in texts])
        wanted = tokens.masked_fill(tokens == 0, -100)
        for row, (prompt, _) in enumerate(rows):
            wanted[row, : len(prompt)] = -100
        logits = network(input_ids=tokens, attention_mask=(tokens > 0).long()).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.save_pretrained(folder)
    return float(loss.detach())
