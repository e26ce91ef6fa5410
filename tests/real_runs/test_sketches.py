"""Sketches of scores against exact gradients of each row, from a loop of autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from real_runs.likelihood import response_logprobs
from real_runs.sketches import _parts, sketch
from rolloutbench.protocol import InputError

pytestmark = pytest.mark.torch

PROMPTS, ROLLOUTS, LONGEST, VOCABULARY = 6, 12, 6, 13
TEMPERATURE = 0.8


def network(tied=True, width=32, **more):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=32,
            tie_word_embeddings=tied,
            bos_token_id=1,
            eos_token_id=2,
            **{"pad_token_id": 0, **more},
        )
    ).eval()
    with torch.no_grad():  # fresh weights are so small that all layers but the last hardly matter
        for weight in matrices(made):
            weight.mul_(5)
    return made


def matrices(model):
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


def responses(seed=0, groups=PROMPTS, rollouts=ROLLOUTS):
    rng = np.random.default_rng(seed)
    prompts = [[int(t) for t in rng.integers(3, VOCABULARY, rng.integers(2, 7))] for _ in range(groups)]
    count = groups * rollouts
    lengths = rng.integers(1, LONGEST + 1, count)
    tokens = rng.integers(3, VOCABULARY, (count, LONGEST)).astype(np.int32)
    tokens[np.arange(LONGEST) >= lengths[:, None]] = 0
    return [prompt for prompt in prompts for _ in range(rollouts)], tokens, lengths


def exact(model, prompts, tokens, lengths):
    """Scores (N, number of weights), one backward pass a row."""
    rows = []
    for i, prompt in enumerate(prompts):
        logprobs = response_logprobs(model, [prompt], tokens[i : i + 1], lengths[i : i + 1], TEMPERATURE)
        gradients = torch.autograd.grad(logprobs.sum(), matrices(model), allow_unused=True)
        rows.append(
            torch.cat(
                [
                    torch.zeros(weight.numel()) if gradient is None else gradient.flatten()
                    for weight, gradient in zip(matrices(model), gradients, strict=True)
                ]
            )
        )
    return torch.stack(rows).numpy().astype(np.float64)


def within(scores):
    """Inner products of centred scores of the same prompt, and the trace of each prompt's covariance."""
    groups = scores.reshape(PROMPTS, ROLLOUTS, -1)
    centred = groups - groups.mean(axis=1, keepdims=True)
    products = centred @ centred.transpose(0, 2, 1)
    pairs = np.triu_indices(ROLLOUTS, 1)
    return products[:, *pairs], np.trace(products, axis1=1, axis2=2)


@pytest.fixture(scope="module")
def recorded():
    model, given = network(), responses()
    return model, given, exact(model, *given)


@pytest.mark.parametrize("tied", [True, False])
def test_lengths_of_scores_are_exact(tied, recorded):
    model, given = network(tied), responses()
    scores = recorded[2] if tied else exact(model, *given)
    _, norms = sketch(model, *given, temperature=TEMPERATURE)
    np.testing.assert_allclose(norms, np.linalg.norm(scores, axis=1), rtol=1e-5)


def test_inner_products_are_right_on_average(recorded):
    model, given, scores = recorded
    seeds = [sketch(model, *given, temperature=TEMPERATURE, dimensions=64, seed=s)[0] for s in range(40)]
    drawn = np.array([found @ found.T for found in seeds], dtype=np.float64)
    error = drawn.mean(axis=0) - scores @ scores.T
    standard = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    z = error[np.triu_indices(len(scores))] / standard[np.triu_indices(len(scores))]
    # The rows share their signs, so the z values are dependent: their mean square is 1 within a factor.
    assert np.mean(z**2) < 2
    relative = np.trace(drawn, axis1=1, axis2=2) / np.trace(scores @ scores.T)
    assert abs(relative.mean() - 1) < 4 * relative.std(ddof=1) / np.sqrt(len(drawn))


def test_a_sketch_of_256_keeps_what_matters_within_prompts(recorded):
    """Measured on a small model: .95 and .97; a sketch of the last layer alone has .63 and .58."""
    model, given, scores = recorded
    products, traces = within(scores)
    found = [within(sketch(model, *given, temperature=TEMPERATURE, seed=seed)[0]) for seed in range(3)]
    of_products = [
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(products, sketched, strict=True)])
        for sketched, _ in found
    ]
    assert np.mean(of_products) > 0.9
    assert np.mean([np.corrcoef(traces, sketched)[0, 1] for _, sketched in found]) > 0.9


def test_the_batch_does_not_matter(recorded):
    model, (prompts, tokens, lengths), _ = recorded
    whole = sketch(model, prompts, tokens, lengths, TEMPERATURE)
    heard: list[int] = []
    small = sketch(model, prompts, tokens, lengths, TEMPERATURE, at_once=60, tell=heard.append)
    assert heard == sorted(set(heard))
    assert heard[-1] == len(prompts)
    assert len(heard) > 5
    order = np.random.default_rng(0).permutation(len(prompts))
    moved = sketch(model, [prompts[i] for i in order], tokens[order], lengths[order], TEMPERATURE)
    for one, two, three in zip(whole, small, moved, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4 * np.abs(one).max())
        np.testing.assert_allclose(three, one[order], rtol=1e-4, atol=1e-4 * np.abs(one).max())


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_parts_have_every_row_once_and_no_more_tokens_than_allowed(widths, at_once):
    parts = [part.tolist() for part in _parts(np.array(widths, dtype=np.int64), at_once)]
    assert sorted(row for part in parts for row in part) == list(range(len(widths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(widths[row] for row in part) <= at_once


def test_padding_counts_for_nothing_and_its_row_has_no_gradient():
    """The token that pads stands in prompts too: torch gives its embedding row no gradient."""
    model = network(tied=False, pad_token_id=4)
    given = responses(seed=1)
    assert any(4 in prompt for prompt in given[0])
    _, norms = sketch(model, *given, temperature=TEMPERATURE)
    np.testing.assert_allclose(norms, np.linalg.norm(exact(model, *given), axis=1), rtol=1e-5)


def test_the_network_is_left_as_it_was():
    model = network()
    frozen = model.model.norm.weight
    frozen.requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    sketch(model, *responses(groups=2))
    assert [p.requires_grad for p in model.parameters()] == [p is not frozen for p in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_sketched_is_refused():
    with pytest.raises(InputError, match=r"dimensions=100: a positive multiple of 64"):
        sketch(network(), *responses(groups=1), dimensions=100)
    with pytest.raises(InputError, match=r"'transformer.h.0.attn.c_attn.weight' belongs to no Linear"):
        other = GPT2LMHeadModel(GPT2Config(vocab_size=13, n_embd=32, n_layer=1, n_head=1, n_positions=32))
        sketch(other, *responses(groups=1))


def test_nothing_to_sketch():
    sketches, norms = sketch(network(), [], np.zeros((0, 3), np.int32), np.zeros(0, np.int64))
    assert sketches.shape == (0, 256)
    assert norms.shape == (0,)
