"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: a few more weights, which alone are trained.

A linear layer adds `scale * B A x` to what it computes; B is zero at first, so nothing changes before
training. The engine of transformers samples with the adapters as they are; an engine that keeps weights of
its own is given those in which they are merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from rolloutbench.optional import need

SCALE = 2.0
"""What an adapter's product counts, whatever its rank."""
ADAPTER = "default"
"""The name that peft gives to a network's only adapter."""


def add_adapters(network: Any, rank: int) -> None:
    """Add adapters of this rank to all linear layers but the head; nothing else is trained any more."""
    peft = need("peft", "llm")
    config = peft.LoraConfig(r=rank, lora_alpha=SCALE * rank, target_modules="all-linear", bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # equal for all runs, as the model is
        peft.inject_adapter_in_model(config, network, adapter_name=ADAPTER)


def merged_weights(network: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and weights of a network, adapters merged into them, as of one that never had any.

    A head that is tied to the embeddings is named as well.
    """
    adapted = {
        f"{name}.base_layer.weight": layer
        for name, layer in network.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    for name, weight in network.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        value = weight.detach()
        if name in adapted:
            value = value + adapted[name].get_delta_weight(ADAPTER).detach().to(value)
        yield name.replace(".base_layer.", "."), value
