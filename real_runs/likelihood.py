"""Log-probabilities of responses under a model: what the trainer differentiates.

Rows are prompt and response side by side, padded on the right. Logits are divided by the sampling
temperature, so these are probabilities under the distribution that rollouts were drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

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
    network: Any, prompts: Sequence[Prompt], tokens: TokenArray, lengths: IntArray, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probability (N, T) of each token of N responses, T the longest; 0 beyond a response's length.

    `network` is a transformers causal language model; the result is on its device, in single precision.
    """
    rows, mask, starts = padded_rows(prompts, tokens, lengths)
    device = network.device
    longest = int(lengths.max(initial=0))
    logits = network(input_ids=rows.to(device), attention_mask=mask.to(device)).logits
    # The logits at place t are about the token at t + 1.
    places = torch.from_numpy(starts[:, None] - 1 + np.arange(longest)).clamp(max=rows.shape[1] - 1)
    picked = logits.gather(1, places.to(device)[..., None].expand(-1, -1, logits.shape[-1]))
    inside = torch.from_numpy(np.arange(longest) < lengths[:, None]).to(device)
    wanted = torch.from_numpy(tokens[:, :longest].astype(np.int64)).to(device)
    logprobs = torch.log_softmax(picked.float() / temperature, dim=-1)
    found = logprobs.gather(2, wanted[..., None])[..., 0]
    return torch.where(inside, found, torch.zeros_like(found))
