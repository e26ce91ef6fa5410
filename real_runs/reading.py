"""Prompts as a network reads them: each once, and what all of them begin with once for all.

Solved examples and system prompts stand before every question, so most of what is read may be in common.
Keys and values of what was read are in the cache, through which gradients flow back where they are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from real_runs.rollouts import Prompt
from rolloutbench.protocol import BoolArray, IntArray

SHORTEST = 8
"""Fewest tokens in common that are read by themselves: another pass has a cost of its own."""


@dataclass(frozen=True)
class Read:
    """What a network has read of P prompts.

    `logits` (P, V): about the first token of a response. `cache`: of transformers, P rows of W columns.
    `mask` (P, W): which of them are tokens of the prompt. `lengths` (P,): its tokens.
    """

    logits: torch.Tensor
    cache: Any
    mask: BoolArray
    lengths: IntArray


def attends_to_all(network: Any) -> bool:
    """Whether keys and values of what was read are all that a network needs of it."""
    if not isinstance(network, PreTrainedModel):
        return False
    kinds = getattr(network.config, "layer_types", None) or ["full_attention"]
    return set(kinds) == {"full_attention"} and not getattr(network.config, "sliding_window", None)


def common_start(prompts: Sequence[Prompt]) -> int:
    """Number of tokens that all prompts begin with, less than any of them has."""
    shortest = min(map(len, prompts))
    table = np.array([list(prompt[: shortest - 1]) for prompt in prompts], dtype=np.int64)
    same = (table == table[:1]).all(axis=0)
    return int(same.argmin()) if not same.all() else shortest - 1


def read_prompts(network: Any, prompts: Sequence[Prompt]) -> Read:
    """Read P prompts of a token at least; their ends stand side by side, padded on the left."""
    lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    common = common_start(prompts) if len(prompts) > 1 and attends_to_all(network) else 0
    given = {}
    if common < SHORTEST:
        common = 0
    else:
        start = torch.tensor([list(prompts[0][:common])], device=network.device)
        cache = network(input_ids=start, use_cache=True, logits_to_keep=1).past_key_values
        cache.reorder_cache(torch.zeros(len(prompts), dtype=torch.int64, device=network.device))
        given["past_key_values"] = cache
    width = int(lengths.max()) - common
    ids = np.zeros((len(prompts), width), np.int64)
    for row, prompt, length in zip(ids, prompts, lengths, strict=True):
        row[width - (length - common) :] = prompt[common:]
    own = np.arange(width) >= width - (lengths[:, None] - common)
    mask = np.concatenate([np.ones((len(prompts), common), dtype=bool), own], axis=1)
    places = common + np.maximum(np.cumsum(own, axis=1) - 1, 0)
    read = network(
        input_ids=torch.from_numpy(ids).to(network.device),
        attention_mask=torch.from_numpy(mask.astype(np.int64)).to(network.device),
        position_ids=torch.from_numpy(places).to(network.device),
        use_cache=True,
        logits_to_keep=1,
        **given,
    )
    return Read(read.logits[:, -1], read.past_key_values, mask, lengths)
