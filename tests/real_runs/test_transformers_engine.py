import copy

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from real_runs.engines import engine
from real_runs.engines.stopping import StopStrings
from real_runs.engines.transformers import TransformersEngine, _Fixed
from real_runs.likelihood import response_logprobs
from real_runs.models import LanguageModel, one_thread
from real_runs.models.tiny import Tiny
from real_runs.reading import SHORTEST
from real_runs.tasks import tasks
from rolloutbench.protocol import InputError

pytestmark = pytest.mark.torch

NEW = 7
KINDS = [{}, {"static": True}]
GAP = 2e-5
"""Of log-probabilities between two orders of the same single-precision sums."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Untrained, but sharp: its distributions depend on the prompt and are far from uniform."""
    task = tasks.create("sorting[longest=9,pool_size=50,held_out=20]")
    made = Tiny(layers=2, width=32, warmup_steps=0).load(task, "cpu", tmp_path_factory.mktemp("cache"))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in made.network.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.25, generator=generator)
    return made


def prompts_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 13, length).tolist() for length in lengths]


def next_logprobs(model, tokens, temperature):
    """The obvious way: one row, no padding, no cache."""
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([tokens])).logits[0, -1]
    return torch.log_softmax(logits.double() / temperature, -1).numpy()


def one_at_a_time(model, prompt, answer, temperature):
    return [
        next_logprobs(model, [*prompt, *answer[:place]], temperature)[token]
        for place, token in enumerate(answer)
    ]


def training_forward(model, prompts, sampled, temperature=1.0):
    rows = [prompts[place] for place in sampled.source]
    with torch.no_grad():
        found = response_logprobs(model.network, rows, sampled.tokens, sampled.lengths, temperature)
    return found.numpy()


def check_shape(sampled, counts, end, new=NEW):
    np.testing.assert_array_equal(sampled.source, np.repeat(np.arange(len(counts)), counts))
    assert sampled.tokens.shape == sampled.logprobs.shape
    assert sampled.tokens.dtype == np.int32
    assert sampled.logprobs.dtype == np.float32
    assert sampled.tokens.shape == (sum(counts), sampled.lengths.max(initial=0))
    for tokens, logprobs, length, finished in zip(
        sampled.tokens, sampled.logprobs, sampled.lengths, sampled.finished, strict=True
    ):
        assert 1 <= length <= new
        assert finished == (tokens[length - 1] == end)
        assert finished or length == new
        assert (tokens[: length - 1] != end).all()
        assert (tokens[length:] == 0).all()
        assert (logprobs[:length] <= 0).all()
        assert (logprobs[length:] == 0).all()


def assert_drawn_from(chances, tokens):
    """Chi-square; what is expected fewer than five times counts as one."""
    seen, expected = np.bincount(tokens, minlength=len(chances)), chances * len(tokens)
    rare = expected < 5
    if rare.any():
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    assert len(seen) > 5
    assert stats.chisquare(seen, expected).pvalue > 1e-3


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_token_is_drawn_from_the_models_distribution(model, given, temperature):
    prompts, counts = prompts_of([1, 9, 4, 6]), np.array([1500, 2000, 0, 3000])
    made = TransformersEngine(model, 1, temperature, seed=5, **given)
    sampled = made.generate(prompts, counts)
    check_shape(sampled, counts, model.end, 1)
    for place in (0, 1, 3):
        chances = np.exp(next_logprobs(model, prompts[place], temperature))
        assert_drawn_from(chances, sampled.tokens[sampled.source == place, 0])


@pytest.mark.parametrize("given", KINDS)
def test_later_tokens_too(model, given):
    """The second token among responses that begin alike, two prompts side by side."""
    prompts = prompts_of([2, 7], seed=3)
    sampled = TransformersEngine(model, 2, seed=1, rows=4000, **given).generate(
        prompts, np.array([4000, 4000])
    )
    for place, prompt in enumerate(prompts):
        rows = sampled.source == place
        likeliest = 2 + np.bincount(sampled.tokens[rows, 0])[2:].argmax()
        follow = sampled.tokens[rows & (sampled.tokens[:, 0] == likeliest), 1]
        chances = np.exp(next_logprobs(model, [*prompt, int(likeliest)], 1.0))
        assert_drawn_from(chances, follow)


@pytest.mark.parametrize("given", KINDS)
@settings(max_examples=20)
@given(
    asked=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), max_size=6),
    rows=st.sampled_from([1, 3, 8, 100]),
    temperature=st.sampled_from([1.0, 0.6, 1.7]),
    seed=st.integers(0, 99),
)
def test_sampling_logprobs_are_the_training_forwards(model, given, asked, rows, temperature, seed):
    prompts, counts = prompts_of([length for length, _ in asked], seed), [count for _, count in asked]
    made = TransformersEngine(model, NEW, temperature, seed, rows=rows, **given)
    sampled = made.generate(prompts, np.array(counts, np.int64))
    check_shape(sampled, counts, model.end)
    assert made.exact
    if len(sampled.source):
        np.testing.assert_allclose(
            sampled.logprobs, training_forward(model, prompts, sampled, temperature), atol=GAP
        )


@pytest.mark.parametrize("given", KINDS)
def test_the_obvious_way_gives_the_same_logprobs(model, given):
    """So neither padding nor neighbours, nor rows that ended and were dropped, have any effect."""
    prompts, counts = prompts_of([1, 9, 5]), np.array([15, 15, 18])
    sampled = TransformersEngine(model, NEW, 1.2, seed=2, **given).generate(prompts, counts)
    assert 16 < sampled.finished.sum() < counts.sum()  # rows were dropped, and others went on
    assert len(np.unique(sampled.lengths)) > 2
    for row, place in enumerate(sampled.source):
        length = sampled.lengths[row]
        expected = one_at_a_time(model, prompts[place], sampled.tokens[row, :length].tolist(), 1.2)
        np.testing.assert_allclose(sampled.logprobs[row, :length], expected, atol=GAP)


def test_fixed_and_growing_steps_draw_the_same_responses(model):
    """Equal random numbers for equal rows; a prompt alone in its pass drops no rows until all have ended."""
    prompts = prompts_of([4, 8])
    for counts in ([1, 0], [0, 1]):
        one, two = (TransformersEngine(model, NEW, seed=3, **given) for given in KINDS)
        a, b = (made.generate(prompts, np.array(counts)) for made in (one, two))
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=GAP)


def test_fixed_steps_keep_their_buffers(model):
    made = TransformersEngine(model, NEW, seed=3, static=True)
    made.generate(prompts_of([9, 3]), np.array([20, 10]))
    buffers = made._fixed
    made.generate(prompts_of([2, 3, 5]), np.array([1, 2, 0]))
    assert made._fixed is buffers
    made.generate(prompts_of([2]), np.array([65]))
    assert made._fixed is not buffers
    assert (made._fixed.rows, made._fixed.width) == (128, 64)


def test_a_fixed_step_taken_twice_is_taken_once(model, monkeypatch):
    """What capturing a graph in the middle of a generation relies on."""
    prompts, counts = prompts_of([4, 8]), np.array([6, 9])
    expected = TransformersEngine(model, NEW, seed=3, static=True).generate(prompts, counts)
    forward = _Fixed._forward

    def thrice(self, size):
        for _ in range(3):
            logits = forward(self, size)
        return logits

    monkeypatch.setattr(_Fixed, "_forward", thrice)
    found = TransformersEngine(model, NEW, seed=3, static=True).generate(prompts, counts)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.logprobs, expected.logprobs)


def test_fixed_steps_never_move_their_buffers(model, monkeypatch):
    """What replaying a graph relies on: inputs, keys and values stay at their addresses."""
    seen = set()
    forward = _Fixed._forward

    def noted(self, size):
        buffers = (self._tokens, self._positions, self._mask, self._place, *self._keys, *self._values)
        seen.add(tuple(buffer.data_ptr() for buffer in buffers))
        return forward(self, size)

    monkeypatch.setattr(_Fixed, "_forward", noted)
    made = TransformersEngine(model, NEW, seed=3, static=True)
    for seed in range(3):
        made.generate(prompts_of([4, 8], seed), np.array([26, 9]))
    assert len(seen) == 1


class Operations(TorchDispatchMode):
    """Notes the names of all that torch does within."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_fixed_step_can_be_captured(model):
    """It asks the device for no number and brings it none: CUDA refuses to capture either."""
    made = TransformersEngine(model, NEW, seed=3, static=True)
    made.generate(prompts_of([4, 8]), np.array([6, 9]))
    with torch.no_grad(), Operations() as forward:
        made._fixed._forward(8)
    assert "index_copy_" in forward.names
    assert not forward.names & {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "lift_fresh"}
    with Operations() as other:
        torch.tensor([1]).nonzero().sum().item()
    assert other.names >= {"_local_scalar_dense", "nonzero", "lift_fresh"}


def test_captured_steps_are_replayed(model, monkeypatch):
    """With a graph that is a function: captured once a size, replayed in place at every step."""
    prompts, counts = prompts_of([4, 8]), np.array([30, 9])
    expected = TransformersEngine(model, NEW, seed=3, static=True).generate(prompts, counts)
    captured, replayed = [], []

    class Graph:
        def __init__(self, steps, size):
            self.steps, self.size = steps, size
            self.logits = torch.full((size, 13), float("nan"))

        def replay(self):
            replayed.append(self.size)
            self.logits.copy_(self.steps._forward(self.size))

    def capture(self, size):
        captured.append(size)
        graph = Graph(self, size)
        return graph, graph.logits

    monkeypatch.setattr(_Fixed, "_capture", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    made = TransformersEngine(model, NEW, seed=3, static=True)
    made.graphs = True
    for _ in range(2):
        found = made.generate(prompts, counts)
        made.load_state_dict(TransformersEngine(model, NEW, seed=3).state_dict())
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.logprobs, expected.logprobs)
    assert sorted(captured, reverse=True) == captured
    assert len(set(captured)) == len(captured) > 1
    assert len(replayed) == 2 * (NEW - 1)


@pytest.mark.parametrize("given", KINDS)
def test_end_and_cut(model, given):
    sampled = TransformersEngine(model, NEW, seed=0, **given).generate(prompts_of([3]), np.array([200]))
    check_shape(sampled, [200], model.end)
    assert 0 < sampled.finished.mean() < 1
    longer = TransformersEngine(model, 20, seed=0, **given).generate(prompts_of([3]), np.array([200]))
    check_shape(longer, [200], model.end, 20)
    assert longer.finished.mean() > sampled.finished.mean()
    assert longer.total_tokens == longer.lengths.sum()


@pytest.mark.parametrize("counts", [[], [0], [0, 0, 0]])
def test_nothing_asked_for(model, counts):
    made = TransformersEngine(model, NEW)
    before = made.state_dict()["generator"]
    sampled = made.generate(prompts_of([3] * len(counts)), np.array(counts, np.int64))
    assert sampled.tokens.shape == sampled.logprobs.shape == (0, 0)
    assert len(sampled.source) == len(sampled.lengths) == len(sampled.finished) == 0
    np.testing.assert_array_equal(made.state_dict()["generator"], before)


@pytest.mark.parametrize("given", KINDS)
def test_a_state_continues_the_random_numbers(model, given):
    prompts, counts = prompts_of([4, 8]), np.array([6, 9])
    one = TransformersEngine(model, NEW, seed=3, **given)
    first = one.generate(prompts, counts)
    state = one.state_dict()
    assert state["generator"].dtype == np.uint8
    expected = one.generate(prompts, counts)
    two = TransformersEngine(model, NEW, seed=99, **given)
    two.load_state_dict(state)
    found = two.generate(prompts, counts)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.logprobs, expected.logprobs)
    assert not np.array_equal(first.tokens, found.tokens)


def test_equal_seeds_are_equal_and_others_are_not(model):
    prompts, counts = prompts_of([4, 8]), np.array([6, 9])
    one, same, other = (
        TransformersEngine(model, NEW, seed=seed).generate(prompts, counts).tokens for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert one.shape != other.shape or (one != other).any()


@pytest.mark.parametrize("given", [{"bf16": True}, {"bf16": True, "static": True}])
def test_a_copy_in_bfloat16_is_near_and_is_brought_up_to_date(model, given):
    prompts, counts = prompts_of([4, 8]), np.array([20, 20])
    made = TransformersEngine(model, NEW, seed=3, **given)
    assert not made.exact
    assert model.network.dtype == torch.float32
    sampled = made.generate(prompts, counts)
    gap = np.abs(sampled.logprobs - training_forward(model, prompts, sampled))
    assert 0 < gap.max() < 0.5
    weight = model.network.lm_head.weight
    old = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(-old)
        stale = made.generate(prompts, counts)
        made.sync()
        fresh = made.generate(prompts, counts)
        for sampled, near in ((stale, False), (fresh, True)):
            gap = np.abs(sampled.logprobs - training_forward(model, prompts, sampled))
            assert (gap.max() < 0.5) == near
    finally:
        with torch.no_grad():
            weight.copy_(old)


def test_changed_weights_are_sampled_from_without_a_copy(model):
    """An update of the network in place is all that an exact engine needs."""
    prompts, counts = prompts_of([4, 8]), np.array([20, 20])
    made = TransformersEngine(model, NEW, seed=3)
    weight = model.network.lm_head.weight
    old = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.copy_(-old)
        made.sync()
        sampled = made.generate(prompts, counts)
        np.testing.assert_allclose(sampled.logprobs, training_forward(model, prompts, sampled), atol=GAP)
    finally:
        with torch.no_grad():
            weight.copy_(old)


@pytest.mark.parametrize("family", ["mistral", "gpt_neox", "qwen2"])
def test_other_architectures(family):
    """Sliding windows (beyond which prompts reach), partial rotary positions, grouped queries."""
    from transformers import (
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    common = {
        "vocab_size": 13,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    network = {
        "mistral": lambda: MistralForCausalLM(
            MistralConfig(**common, num_key_value_heads=2, sliding_window=4)
        ),
        "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**common)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, num_key_value_heads=2)),
    }[family]().eval()
    other = LanguageModel(network, "nowhere", 1, list, str)
    prompts, counts = prompts_of([2, 9, 5]), np.array([4, 3, 5])
    for kind in KINDS:
        made = TransformersEngine(other, NEW, seed=3, **kind)
        if family == "mistral" and kind:
            with pytest.raises(InputError, match="static=true"):
                made.generate(prompts, counts)
            continue
        sampled = made.generate(prompts, counts)
        np.testing.assert_allclose(sampled.logprobs, training_forward(other, prompts, sampled), atol=GAP)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": 0.0}, "temperature=0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"rows": 0}, "rows=0"),
        ({"graphs": True}, "graphs=true: .* cpu"),
    ],
)
def test_bad_settings(model, given, match):
    with pytest.raises(InputError, match=match):
        TransformersEngine(model, **{"max_new_tokens": NEW, **given})


def test_a_prompt_without_tokens(model):
    with pytest.raises(InputError, match="no tokens"):
        TransformersEngine(model, NEW).generate([[2], []], np.array([1, 1]))


def test_more_tokens_than_the_model_can_read(model):
    with pytest.raises(InputError, match=r"max_new_tokens=60: .* more than the 64"):
        TransformersEngine(model, 60).generate(prompts_of([3, 5]), np.array([1, 1]))


def test_diverged_weights_are_said(model):
    weight = model.network.lm_head.weight
    old = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[3] = float("nan")
        with pytest.raises(InputError, match="diverged"):
            TransformersEngine(model, NEW).generate(prompts_of([3]), np.array([2]))
    finally:
        with torch.no_grad():
            weight.copy_(old)


def test_memory_that_is_not_there_is_one_line(model, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    made = TransformersEngine(model, NEW, rows=5)
    monkeypatch.setattr(made, "_responses", full)
    with pytest.raises(InputError, match=r"^rows=5: cpu has no memory [^\n]*$"):
        made.generate(prompts_of([3]), np.array([2]))


def test_engines_by_name(model):
    made = engine("transformers", model, NEW, temperature=0.5, seed=4, rows=9)
    assert isinstance(made, TransformersEngine)
    assert (made.max_new_tokens, made.temperature, made.rows) == (NEW, 0.5, 9)
    prompts, counts = prompts_of([4]), np.array([6])
    same = TransformersEngine(model, NEW, 0.5, 4).generate(prompts, counts)
    np.testing.assert_array_equal(made.generate(prompts, counts).tokens, same.tokens)
    with pytest.raises(InputError, match=r"^unknown engine 'transformer': did you mean transformers\?$"):
        engine("transformer", model, NEW)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graphs", [False, True])
def test_on_cuda(model, graphs):
    """In single precision graphs are exact too, at every size that rows shrink to, and on later calls."""
    moved = LanguageModel(
        copy.deepcopy(model.network).cuda(), model.directory, model.end, model.encode, model.decode
    )
    made = TransformersEngine(moved, NEW, seed=3, bf16=False, graphs=graphs)
    for seed in range(3):
        prompts, counts = prompts_of([4, 9, 1], seed), np.array([26, 9, 40])
        sampled = made.generate(prompts, counts)
        check_shape(sampled, counts, model.end)
        rows = [prompts[place] for place in sampled.source]
        with torch.no_grad():
            expected = response_logprobs(model.network, rows, sampled.tokens, sampled.lengths).numpy()
        np.testing.assert_allclose(sampled.logprobs, expected, atol=1e-3)


@pytest.mark.parametrize("given", KINDS)
def test_what_all_prompts_begin_with_is_read_once_for_all(model, given):
    """Against one row at a time, without padding or cache; a prompt that is all in common is among them."""
    (start,) = prompts_of([SHORTEST + 1], seed=4)
    prompts = [start, *([*start, *more] for more in prompts_of([1, 5, 2], seed=5))]
    sampled = TransformersEngine(model, NEW, 0.7, **given).generate(prompts, np.array([2, 1, 3, 2]))
    for row, place in enumerate(sampled.source):
        length = sampled.lengths[row]
        expected = one_at_a_time(model, prompts[place], sampled.tokens[row, :length], 0.7)
        np.testing.assert_allclose(sampled.logprobs[row, :length], expected, atol=GAP)


@pytest.mark.parametrize("given", KINDS)
@pytest.mark.parametrize("stop", [("7",), ("34", "9"), ("=",)])
def test_a_response_ends_where_its_text_has_a_stop_string(model, given, stop):
    """At so low a temperature that a prompt has one response: the shortest start of it with a stop string."""
    prompts = prompts_of(range(1, 13), seed=8)
    counts = np.array([1, 3] * 6)
    whole = TransformersEngine(model, NEW, 1e-4, **given).generate(prompts, counts)
    cut = TransformersEngine(model, NEW, 1e-4, stop=stop, **given).generate(prompts, counts)
    stopped = 0
    for row in range(len(cut.source)):
        tokens = whole.tokens[row, : whole.lengths[row]]
        ends = [n for n in range(1, len(tokens)) if any(one in model.decode(tokens[:n]) for one in stop)]
        wanted = tokens[: ends[0]] if ends else tokens
        assert cut.lengths[row] == len(wanted)
        np.testing.assert_array_equal(cut.tokens[row, : len(wanted)], wanted)
        has_one = any(one in model.decode(wanted) for one in stop)
        assert cut.finished[row] == (has_one or wanted[-1] == model.end)
        stopped += bool(ends)
    assert 0 < stopped < len(cut.source)


PIECES = ("a", "ab", "b", "ba\n", "\n", "\u2026", b"\xe2", b"\x80", b"\xa6", "")


@given(
    st.lists(st.sampled_from(range(len(PIECES))), min_size=1, max_size=12),
    st.lists(st.sampled_from(["ab", "b\n", "\u2026", "a\u2026b"]), min_size=1, max_size=2),
)
def test_only_tokens_that_may_end_a_response_are_looked_at(tokens, stop):
    """Against every token's looking: also where a character is made of the bytes of three."""

    def decode(ids):
        pieces = (PIECES[place] for place in ids)
        whole = b"".join(one if isinstance(one, bytes) else one.encode() for one in pieces)
        return whole.decode(errors="replace")

    stops = StopStrings(stop, decode, len(PIECES))
    starts = [tokens[: n + 1] for n in range(len(tokens))]
    slow = [start for start in starts if any(one in decode(start) for one in stop)]
    fast = [start for start in starts if stops.may_end[start[-1]] and stops.has_ended(start)]
    assert slow[:1] == fast[:1]
