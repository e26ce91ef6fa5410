"""Log-probabilities of responses under a model: what the trainer differentiates.

A prompt is read once, however many responses it has: its keys and values are repeated to the rows of the
responses, as in generation, and the gradient flows back through them. Logits are made at the places of
responses alone, since at a large vocabulary they are most of the memory. Where no prompt has two responses,
or the network has layers other than full attention, prompt and response stand side by side in a row.

Logits are divided by the sampling temperature, so these are probabilities under the distribution that
rollouts were drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from real_runs.reading import attends_to_all, read_prompts
from real_runs.rollouts import Prompt, TokenArray
from rolloutbench.protocol import IntArray


def padded_rows(
    prompts: Sequence[Prompt], tokens: TokenArray, lengths: IntArray
) -> tuple[torch.Tensor, torch.Tensor, IntArray]:
    """Ids (N, L) of prompt and response, mask (N, L) of what is no padding, and prompt lengths (N,)."""
    starts = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
    width = int((starts + lengths).max(initial=0))
    rows = np.zeros((len(prompts), width), dtype=np.int64)
    for row, prompt, answer, length in zip(rows, prompts, tokens, lengths, strict=True):
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + length] = answer[:length]
    mask = np.arange(width) < (starts + lengths)[:, None]
    return torch.from_numpy(rows), torch.from_numpy(mask.astype(np.int64)), starts


def response_logprobs(
    network: Any,
    prompts: Sequence[Prompt],
    tokens: TokenArray,
    lengths: IntArray,
    temperature: float = 1.0,
    in_rows: bool = False,
) -> torch.Tensor:
    """Log-probability (N, T) of each token of N responses, T the longest; 0 beyond a response's length.

    `network` is a transformers causal language model; the result is on its device, in single precision.
    `in_rows`: whether every response must have a row of its own, with its prompt in it.
    """
    longest = int(lengths.max(initial=0))
    distinct, owner = distinct_prompts(prompts)
    shared = not in_rows and len(distinct) < len(prompts)
    if shared and longest > 0 and _may_share(network):
        logits = _read_once(network, distinct, owner, tokens[:, :longest], lengths)
    else:
        logits = _read_in_rows(network, prompts, tokens, lengths)
    wanted = torch.from_numpy(tokens[:, :longest].astype(np.int64)).to(logits.device)
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    found = logprobs.gather(2, wanted[..., None])[..., 0]
    inside = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(logits.device)
    return torch.where(inside, found, torch.zeros_like(found))


def distinct_prompts(prompts: Sequence[Prompt]) -> tuple[list[Prompt], IntArray]:
    """The different prompts in order of appearance, and the place (N,) of each row's among them."""
    places: dict[tuple[int, ...], int] = {}
    owner = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    return list(places), np.array(owner, dtype=np.int64)


def _may_share(network: Any) -> bool:
    """Whether responses may go on from what was read of their prompt; layers that are run again may not."""
    again = any(getattr(layer, "gradient_checkpointing", False) for layer in network.modules())
    return attends_to_all(network) and not again


def _read_once(
    network: Any, prompts: Sequence[Prompt], owner: IntArray, tokens: TokenArray, lengths: IntArray
) -> torch.Tensor:
    """Logits (N, T, V) about each token of the responses, whose prompts `owner` (N,) are read once."""
    device = network.device
    read = read_prompts(network, prompts)
    rows = torch.from_numpy(owner).to(device)
    first = read.logits[rows][:, None]
    given = tokens.shape[1] - 1  # the last token of the longest response is about nothing
    if given == 0:
        return first
    read.cache.reorder_cache(rows)
    inside = np.arange(given) < lengths[:, None]
    seen = np.concatenate([read.mask[owner], inside], axis=1)
    later: torch.Tensor = network(
        input_ids=torch.from_numpy(tokens[:, :given].astype(np.int64)).to(device),
        attention_mask=torch.from_numpy(seen.astype(np.int64)).to(device),
        position_ids=torch.from_numpy(read.lengths[owner][:, None] + np.arange(given)).to(device),
        past_key_values=read.cache,
        use_cache=True,
    ).logits
    return torch.cat([first, later], dim=1)


def _read_in_rows(
    network: Any, prompts: Sequence[Prompt], tokens: TokenArray, lengths: IntArray
) -> torch.Tensor:
    """Logits (N, T, V) about each token of the responses, each read behind its own prompt."""
    rows, mask, starts = padded_rows(prompts, tokens, lengths)
    device = network.device
    longest = int(lengths.max(initial=0))
    logits = network(input_ids=rows.to(device), attention_mask=mask.to(device)).logits
    # The logits at place t are about the token at t + 1.
    places = torch.from_numpy(starts[:, None] - 1 + np.arange(longest)).clamp(max=rows.shape[1] - 1)
    picked: torch.Tensor = logits.gather(1, places.to(device)[..., None].expand(-1, -1, logits.shape[-1]))
    return picked
