"""Log-probabilities of responses: prompts read once are those read in every row, gradients too."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from real_fakes import logprobs_by_hand, tiny_llama

from real_runs import likelihood
from real_runs.likelihood import distinct_prompts, response_logprobs
from real_runs.reading import SHORTEST, attends_to_all, common_start

pytestmark = pytest.mark.torch


def rows(rng, groups, vocabulary=12, longest=6, common=0):
    """Prompts of random lengths with several responses each, in no order; all begin with `common` tokens."""
    prompts, tokens, lengths = [], [], []
    start = rng.integers(2, vocabulary, common).tolist()
    for size in groups:
        prompt = start + rng.integers(2, vocabulary, rng.integers(1, 9)).tolist()
        for _ in range(size):
            length = int(rng.integers(1, longest + 1))
            prompts.append(prompt)
            tokens.append(np.pad(rng.integers(1, vocabulary, length), (0, longest - length)))
            lengths.append(length)
    order = rng.permutation(len(prompts))
    return [prompts[i] for i in order], np.array(tokens, np.int32)[order], np.array(lengths)[order]


def gradient(network, prompts, tokens, lengths, weights):
    network.zero_grad()
    found = response_logprobs(network, prompts, tokens, lengths, 0.8)
    (found * torch.from_numpy(weights).float()[:, : found.shape[1]]).sum().backward()
    return found.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.sampled_from([0, SHORTEST - 1, SHORTEST, SHORTEST + 3]),
)
def test_read_once_or_in_rows(groups, seed, longest, common):
    rng = np.random.default_rng(seed)
    prompts, tokens, lengths = rows(rng, groups, longest=longest, common=common)
    weights = rng.standard_normal(tokens.shape)
    network = tiny_llama(seed % 7, layers=2)
    once, taken = gradient(network, prompts, tokens, lengths, weights)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(likelihood, "_may_share", lambda network: False)
        each, expected = gradient(network, prompts, tokens, lengths, weights)
    torch.testing.assert_close(once, each, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(taken, expected, atol=1e-5 * float(expected.abs().max() + 1), rtol=1e-4)


def test_it_is_the_sum_over_each_response_alone():
    prompts, tokens, lengths = rows(np.random.default_rng(1), [3, 2, 4])
    network = tiny_llama(3)
    found = response_logprobs(network, prompts, tokens, lengths, 0.8)
    for row, (prompt, token, length) in enumerate(zip(prompts, tokens, lengths, strict=True)):
        expected = logprobs_by_hand(network, prompt, token[:length], 0.8)
        torch.testing.assert_close(found[row, :length], expected, atol=1e-5, rtol=1e-5)
        assert (found[row, length:] == 0).all()


def places_read(network, monkeypatch):
    """A list that grows by the shape of every input that goes through the network."""
    forward, read = network.model.forward, []

    def counted(*given, **named):
        read.append(named["input_ids"].shape)
        return forward(*given, **named)

    monkeypatch.setattr(network.model, "forward", counted)
    return read


def test_a_prompt_is_read_once(monkeypatch):
    """Places that go through the network: each prompt once, and each response's tokens but the last."""
    prompts, tokens, lengths = rows(np.random.default_rng(2), [8, 8])
    network = tiny_llama(1)
    read = places_read(network, monkeypatch)
    response_logprobs(network, prompts, tokens, lengths)
    assert read == [(2, max(map(len, prompts))), (16, lengths.max() - 1)]
    read.clear()
    response_logprobs(network, prompts[:1], tokens[:1], lengths[:1])
    assert len(read) == 1


def test_what_all_prompts_begin_with_is_read_once(monkeypatch):
    prompts, tokens, lengths = rows(np.random.default_rng(2), [4, 4, 4], common=SHORTEST)
    network = tiny_llama(1)
    read = places_read(network, monkeypatch)
    response_logprobs(network, prompts, tokens, lengths)
    assert read == [
        *((1, SHORTEST), (3, max(map(len, prompts)) - SHORTEST), (12, lengths.max() - 1)),
    ]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=4))
def test_common_start(prompts):
    def same(n):
        return len({tuple(prompt[:n]) for prompt in prompts}) == 1 and n < min(map(len, prompts))

    assert common_start(prompts) == max(n for n in range(6) if same(n))


def test_networks_that_do_not_attend_to_all_are_read_in_rows():
    config = transformers.MistralConfig(
        vocab_size=12,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    network = transformers.MistralForCausalLM(config).eval()
    assert not attends_to_all(network)
    assert attends_to_all(tiny_llama())
    assert not attends_to_all(torch.nn.Linear(1, 1))


def test_distinct_prompts():
    distinct, owner = distinct_prompts([[1, 2], [3], [1, 2], [3, 1], [3]])
    assert distinct == [(1, 2), (3,), (3, 1)]
    assert owner.tolist() == [0, 1, 0, 2, 1]
