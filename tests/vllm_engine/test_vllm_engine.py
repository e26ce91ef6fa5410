"""vLLM for real, on a CPU: what it samples is what the network would, before and after an update.

`make test-vllm` runs this in an environment of its own. The folder must not be called `vllm`: on the tests'
import path it would pass for the package.
"""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import stats

from rolloutbench.protocol import InputError

llama = pytest.importorskip("transformers.models.llama", reason="transformers is not installed")
from real_runs.engines import vllm as vllm_engine  # noqa: E402
from real_runs.engines.transformers import TransformersEngine  # noqa: E402
from real_runs.engines.vllm import VLLMEngine  # noqa: E402
from real_runs.likelihood import response_logprobs  # noqa: E402
from real_runs.models import LanguageModel  # noqa: E402

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # vLLM's and those of what it imports
]

VOCABULARY, END, ROOM = 32, 1, 512
NEW, TEMPERATURE, SEED = 8, 0.7, 5
BLOCK = 128  # tokens of a KV block on a CPU


def language_model(directory, tied):
    """Random weights, large enough that distributions differ from uniform and from place to place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = llama.LlamaForCausalLM(
            llama.LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=ROOM,
                initializer_range=0.05 if tied else 0.2,  # a tied head likes to repeat a token
                tie_word_embeddings=tied,
                eos_token_id=3,  # to be ignored: `end` of the language model counts
            )
        ).eval()
    network.save_pretrained(directory)
    return LanguageModel(network, directory, END, encode=None, decode=None)


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def model(request, tmp_path_factory):
    """Tied: the head is the embeddings, of which vLLM keeps a packed copy on a CPU."""
    return language_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def shared(model):
    torch.set_num_threads(1)
    before = torch.get_rng_state()
    engine = VLLMEngine(model, NEW, TEMPERATURE, SEED)
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    yield engine
    engine.close()
    import psutil  # vLLM brings it

    assert psutil.Process().children() == []


@pytest.fixture
def engine(shared, model):
    """As it was new, with the network's first weights."""
    first = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    shared.load_state_dict({"seed": np.array(SEED), "calls": np.array(0)})
    shared.sync()
    yield shared
    model.network.load_state_dict(first)


def prompts_of(lengths, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCABULARY, length).tolist() for length in lengths]


def gap(model, prompts, sampled, temperature=TEMPERATURE):
    """Largest difference of the recorded log-probs to those of the network."""
    with torch.no_grad():
        rows = [prompts[place] for place in sampled.source]
        own = response_logprobs(model.network, rows, sampled.tokens, sampled.lengths, temperature)
    return np.abs(own.numpy() - sampled.logprobs).max()


def nudge(network, size=0.05):
    with torch.no_grad():
        for weight in network.parameters():
            weight += size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_without_vllm_it_says_how_to_get_it(model, monkeypatch):
    for name in vllm_engine.ENVIRONMENT:
        monkeypatch.setenv(name, "0")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"vllm is not installed: pip install 'rolloutbench\[vllm\]'"):
        VLLMEngine(model, NEW)


@pytest.mark.parametrize("given", [{"temperature": 0.0}, {"temperature": 2.5}, {"max_new_tokens": 0}])
def test_what_vllm_cannot_do_is_refused(model, given):
    (name,) = given
    with pytest.raises(InputError, match=name):
        VLLMEngine(model, **({"max_new_tokens": NEW} | given))


def test_several_processes_are_refused(model, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(InputError, match="VLLM_ENABLE_V1_MULTIPROCESSING=1"):
        VLLMEngine(model, NEW)


@needs_vllm
def test_what_is_returned(engine, model):
    prompts = prompts_of([3, 9, 1, 200, 5])
    counts = np.array([3, 0, 1, 2, 40])
    sampled = engine.generate(prompts, counts)
    width = sampled.lengths.max()
    assert np.array_equal(sampled.source, np.repeat(np.arange(5), counts))
    assert sampled.tokens.shape == sampled.logprobs.shape == (46, width)
    assert (sampled.tokens.dtype, sampled.logprobs.dtype) == (np.int32, np.float32)
    beyond = np.arange(width) >= sampled.lengths[:, None]
    assert (sampled.tokens[beyond] == 0).all()
    assert (sampled.logprobs[beyond] == 0).all()
    assert (sampled.logprobs[~beyond] < 0).all()
    assert gap(model, prompts, sampled) < 1e-4
    assert gap(model, prompts, sampled, temperature=1.0) > 0.1
    assert gap(model, prompts[::-1], sampled) > 0.1


@needs_vllm
def test_only_the_end_token_ends_a_response(engine):
    sampled = engine.generate(prompts_of([4] * 8), np.full(8, 32))
    ends = (sampled.tokens == END) & (np.arange(sampled.tokens.shape[1]) < sampled.lengths[:, None])
    last = sampled.tokens[np.arange(len(ends)), sampled.lengths - 1]
    assert np.array_equal(sampled.finished, ends.any(axis=1))
    assert (ends.sum(axis=1) == sampled.finished).all()
    assert (last[sampled.finished] == END).all()
    assert (sampled.lengths[~sampled.finished] == NEW).all()
    assert 0 < sampled.finished.sum() < len(ends)
    inner = sampled.tokens[:, :-1][sampled.tokens[:, 1:] > 0]
    assert (inner == 3).any()  # the end token of the model's own files


@needs_vllm
@pytest.mark.parametrize("counts", [np.zeros(3, np.int64), np.zeros(0, np.int64)])
def test_nothing_asked_for(engine, counts):
    sampled = engine.generate(prompts_of([4] * len(counts)), counts)
    assert sampled.tokens.shape == sampled.logprobs.shape == (0, 0)
    assert len(sampled.source) == len(sampled.lengths) == len(sampled.finished) == 0


@needs_vllm
def test_an_update_reaches_it_by_sync_and_only_then(engine, model):
    """Half of the prompts are longer than a KV block: their keys and values were kept before the update."""
    prompts = prompts_of([6, 2 * BLOCK + 3] * 6)
    counts = np.full(len(prompts), 4)
    assert gap(model, prompts, engine.generate(prompts, counts)) < 1e-4
    nudge(model.network)
    assert gap(model, prompts, engine.generate(prompts, counts)) > 0.1
    engine.sync()
    assert gap(model, prompts, engine.generate(prompts, counts)) < 1e-4


@needs_vllm
def test_kept_keys_and_values_would_be_stale(engine, model, monkeypatch):
    """That the test above can see a prefix cache that was not emptied."""
    prompts = prompts_of([2 * BLOCK + 3] * 6)
    engine.generate(prompts, np.ones(6, np.int64))
    nudge(model.network)
    with monkeypatch.context() as patched:
        patched.setattr(engine._llm, "reset_prefix_cache", lambda: True)
        engine.sync()
    assert gap(model, prompts, engine.generate(prompts, np.ones(6, np.int64))) > 0.1


@needs_vllm
def test_a_weight_that_vllm_does_not_know_is_refused(engine, model):
    model.network.lm_head.more = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match=r"lm_head\.more"):
        engine.sync()
    del model.network.lm_head.more
    engine.sync()
    prompts = prompts_of([6])
    assert gap(model, prompts, engine.generate(prompts, np.array([4]))) < 1e-4


@needs_vllm
def test_diverged_weights_are_refused(engine, model):
    with torch.no_grad():
        model.network.model.norm.weight.fill_(float("nan"))  # not earlier: kept keys would stay NaN
    engine.sync()
    with pytest.raises(InputError, match="diverged"):
        engine.generate(prompts_of([6]), np.array([4]))


@needs_vllm
def test_the_same_state_draws_the_same(engine):
    prompts, counts = prompts_of([5, 7, 3, 2 * BLOCK]), np.array([6, 0, 2, 4])
    engine.generate(prompts, counts)
    state = engine.state_dict()
    engine.sync()
    second = engine.generate(prompts, counts)
    third = engine.generate(prompts, counts)
    assert not np.array_equal(second.tokens, third.tokens)
    torch.manual_seed(9)  # nothing of it comes from torch's own generators
    engine.load_state_dict(state)
    engine.sync()
    assert equal(engine.generate(prompts, counts), second)
    assert equal(engine.generate(prompts, counts), third)


@needs_vllm
def test_another_seed_draws_something_else(engine):
    prompts, counts = prompts_of([5]), np.array([16])
    first = engine.generate(prompts, counts)
    engine.load_state_dict({"seed": np.array(SEED + 1), "calls": np.array(0)})
    assert not np.array_equal(engine.generate(prompts, counts).tokens, first.tokens)


@needs_vllm
def test_prompts_without_room_are_refused(engine):
    fits = prompts_of([ROOM - NEW])
    assert len(engine.generate(fits, np.array([1])).source) == 1
    with pytest.raises(InputError, match=rf"max_new_tokens={NEW}: with a prompt of {ROOM - NEW + 1} tokens"):
        engine.generate([*fits, *prompts_of([ROOM - NEW + 1])], np.array([1, 1]))
    with pytest.raises(InputError, match="a prompt has no tokens"):
        engine.generate([[]], np.array([1]))


@needs_vllm
def test_more_than_fits_into_one_pass(engine, model):
    """vLLM reads 4096 tokens in a pass, not parts of a prompt, and has 256 responses under way."""
    for lengths, each in [([450] * 20, 1), ([6] * 10, 30)]:
        prompts = prompts_of(lengths)
        assert gap(model, prompts, engine.generate(prompts, np.full(len(lengths), each))) < 1e-4


@needs_vllm
def test_first_tokens_follow_the_distribution(engine, model):
    prompts, count = prompts_of([6, 6]), 2000
    sampled = engine.generate(prompts, np.full(2, count))
    for place, prompt in enumerate(prompts):
        first = sampled.tokens[sampled.source == place, 0]
        with torch.no_grad():
            logits = model.network(torch.tensor([prompt])).logits[0, -1] / TEMPERATURE
        expected = count * torch.softmax(logits.double(), dim=0).numpy()
        seen = np.bincount(first, minlength=VOCABULARY).astype(float)
        rare = expected <= max(5, expected.min())
        seen, wanted = (np.append(of[~rare], of[rare].sum()) for of in (seen, expected))
        assert stats.chisquare(seen, wanted).pvalue > 1e-3
        assert stats.chisquare(seen, np.roll(wanted, 1)).pvalue < 1e-6
        # Requests of a prompt have consecutive seeds: neighbours must be independent all the same.
        rank = np.minimum(np.argsort(np.argsort(-expected))[first], 3)
        table = np.histogram2d(rank[:-1], rank[1:], bins=4)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-3


@needs_vllm
def test_both_engines_agree(engine, model):
    """With the network on what they drew, and so with each other; directly where both drew the same."""
    prompts, counts = prompts_of([4, 20, 150]), np.array([32, 16, 16])
    sampled = TransformersEngine(model, NEW, TEMPERATURE, SEED).generate(prompts, counts)
    assert gap(model, prompts, sampled) < 1e-4
    other = engine.generate(prompts, counts)
    assert gap(model, prompts, other) < 1e-4
    first, other_first = (
        dict(zip(zip(x.source, x.tokens[:, 0], strict=True), x.logprobs[:, 0], strict=True))
        for x in (sampled, other)
    )
    both = first.keys() & other_first.keys()
    assert both
    assert max(abs(first[key] - other_first[key]) for key in both) < 1e-4
