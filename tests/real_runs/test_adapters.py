"""Adapters: what is trained is theirs alone, and merged weights are the same model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from real_fakes import language_model, tiny_llama

from real_runs.adapters import add_adapters, merged_weights
from real_runs.engines.transformers import TransformersEngine
from real_runs.likelihood import response_logprobs
from real_runs.rollouts import Rollouts
from real_runs.settings import PPO
from real_runs.trainer import Batch, Trainer

pytestmark = pytest.mark.torch

PROMPTS = [(3, 4, 5), (6, 7)]


def batch(network, counts=(3, 4), seed=0, tied=False):
    """Rows that the network has sampled, with advantages of both signs."""
    sampled = TransformersEngine(language_model(network), 5, seed=seed).generate(PROMPTS, np.array(counts))
    rows = np.arange(len(sampled.source))
    whole, real = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    said = sampled.source, sampled.tokens, sampled.lengths, sampled.logprobs
    rollouts = Rollouts(*said, whole, real, real, whole)
    advantages = np.where(rows % 2, 1.0, -0.5)
    return Batch(
        rollouts, [PROMPTS[q] for q in sampled.source], advantages, np.full(len(rows), 0.3), rows < 0
    )


def trained(network, steps=2, **settings):
    """The network after some steps, with its trainer."""
    trainer = Trainer(language_model(network), PPO(learning_rate=0.01, warmup_steps=0, **settings), 1.0, True)
    for step in range(steps):
        trainer.update(batch(network, seed=step))
    return trainer


def logprobs(network, rows):
    rollouts = rows.rollouts
    return response_logprobs(network, rows.prompts, rollouts.tokens, rollouts.lengths).detach()


def test_steps_change_adapters_and_nothing_else():
    network, plain = tiny_llama(layers=2), tiny_llama(layers=2)
    add_adapters(network, 3)
    rows = batch(plain)
    torch.testing.assert_close(logprobs(network, rows), logprobs(plain, rows))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    trained(network)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    assert len(changed) == 2 * 2 * 7  # A and B of seven layers in two blocks
    assert {min(before[name].shape) for name in changed} == {3}
    assert "lm_head.weight" in before


def test_merged_weights_are_the_model_that_the_engine_samples_from():
    network, plain = tiny_llama(layers=2), tiny_llama(layers=2)
    add_adapters(network, 3)
    trained(network)
    rows = batch(network)
    found = logprobs(network, rows)
    inside = np.arange(found.shape[1]) < rows.rollouts.lengths[:, None]
    np.testing.assert_allclose(found.numpy()[inside], rows.rollouts.logprobs[inside], atol=2e-5)
    assert (logprobs(plain, rows) - found).abs().max() > 0.01
    merged = dict(merged_weights(network))
    assert merged.keys() == plain.state_dict().keys()
    plain.load_state_dict(merged)
    torch.testing.assert_close(logprobs(plain, rows), found, atol=2e-5, rtol=1e-5)


def test_a_copy_for_sampling_has_the_adapters_too():
    network = tiny_llama(layers=2)
    add_adapters(network, 3)
    engine = TransformersEngine(language_model(network), 5, bf16=True)
    trained(network)
    engine.sync()
    pairs = zip(engine._network.named_parameters(), network.named_parameters(), strict=True)
    assert all(torch.equal(own, new.bfloat16()) for (_, own), (_, new) in pairs)


def test_a_checkpoint_has_adapters_alone_and_goes_on_from_them():
    network = tiny_llama(layers=2)
    add_adapters(network, 3)
    trainer = trained(network)
    state = copy.deepcopy(trainer.state_dict())
    assert all(".lora_" in name for name in state["weights"])
    assert len(state["weights"]) == len(state["moments"]) == 28
    trainer.update(batch(network, seed=9))
    again = tiny_llama(layers=2)
    add_adapters(again, 3)
    other = trained(again, steps=0)
    other.load_state_dict(state)
    other.update(batch(again, seed=9))
    for (name, one), (_, two) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("rank", [0, 3])
def test_layers_that_are_computed_again_give_the_same_gradient(rank):
    """And each is computed twice, with what is inside it in evaluation mode."""
    gradients, calls = [], []
    for again in (False, True):
        network = tiny_llama(layers=2)
        if rank:
            add_adapters(network, rank)
            torch.nn.init.ones_(network.model.layers[0].mlp.up_proj.lora_B["default"].weight)
        rows = batch(network)
        trainer = trained(network, steps=0, gradient_checkpointing=again)
        inner = network.model.layers[0].mlp
        calls.append([])
        handle = inner.register_forward_pre_hook(
            lambda module, *_, seen=calls[-1]: seen.append(module.training)
        )
        trainer.gradient(rows)
        gradients.append([p.grad.clone() for p in network.parameters() if p.requires_grad])
        assert not any(module.training for module in network.modules())
        handle.remove()
        after = batch(network)  # the engine samples as before
        np.testing.assert_array_equal(after.rollouts.tokens, rows.rollouts.tokens)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
    assert max(float(one.abs().max()) for one in gradients[0]) > 1e-3
    assert calls == [[False] * 2, [False] * 2]  # prompts and responses; once in rows, and again


def test_weights_that_layers_share_are_kept_once():
    network = tiny_llama(layers=1)
    network.config.tie_word_embeddings = True
    network.tie_weights()
    assert network.lm_head.weight is network.model.embed_tokens.weight
    trainer = trained(network)
    state = copy.deepcopy(trainer.state_dict())
    assert "lm_head.weight" not in state["weights"]
    sizes = sum(weight.size for weight in state["weights"].values())
    assert sizes == sum(weight.numel() for weight in network.parameters())
    again = tiny_llama(seed=5, layers=1)
    again.config.tie_word_embeddings = True
    again.tie_weights()
    trained(again, steps=0).load_state_dict(state)
    for (name, one), (_, two) in zip(network.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    assert torch.equal(again.lm_head.weight, network.lm_head.weight)
