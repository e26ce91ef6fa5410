import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from real_runs.models import cache as kept
from real_runs.models import default_cache, features, hugging_face, models
from real_runs.models import tiny as made_here
from real_runs.models.characters import Characters
from real_runs.models.hugging_face import HuggingFace
from real_runs.models.tiny import Tiny
from real_runs.tasks import Problem, Task, tasks
from rolloutbench.protocol import InputError

pytestmark = pytest.mark.torch

SORTING = tasks.create("sorting[longest=4,pool_size=50,held_out=20]")
QUICK = models.create("tiny[width=32,layers=1,warmup_steps=2]")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cache):
    return QUICK.load(SORTING, "cpu", cache)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.network.parameters()])


def no_training(*_):
    raise AssertionError("trained again")


def test_tiny_is_a_llama_in_eval_mode_that_reads_the_tasks_characters(tiny):
    assert type(tiny.network).__name__ == "LlamaForCausalLM"
    assert not tiny.network.training
    assert tiny.network.dtype == torch.float32
    assert tiny.network.config.head_dim == 32
    assert tiny.network.config.vocab_size == len(SORTING.alphabet) + 2
    assert tiny.encode("40=") == [6, 2, 12]
    assert tiny.decode(np.array([2, 6, tiny.end, 0, 0])) == "04"
    assert {path.name for path in tiny.directory.iterdir()} >= {"config.json", "model.safetensors"}


def test_a_character_outside_the_alphabet_is_refused(tiny):
    with pytest.raises(InputError, match="'x'"):
        tiny.encode("4x=")


def test_warm_up_learns_and_equal_parameters_give_equal_bits(tmp_path):
    spec = Tiny(width=32, layers=1, warmup_steps=12, learning_rate=1e-2)
    task = tasks.create("sorting[shortest=1,longest=2,pool_size=50,held_out=20]")
    threads = torch.get_num_threads()
    one, two = (spec.load(task, "cpu", tmp_path / name) for name in ("one", "two"))
    assert torch.get_num_threads() == threads
    assert torch.equal(weights(one), weights(two))
    fresh = Tiny(width=32, layers=1, warmup_steps=0).load(task, "cpu", tmp_path)
    examples = task.examples(np.random.default_rng(99), 100)
    prompts = [one.encode(e.prompt) for e in examples]
    answers = [[*one.encode(e.answer), one.end] for e in examples]
    with torch.no_grad():
        before, after = (made_here._answer_loss(m.network, prompts, answers) for m in (fresh, one))
    assert after < 0.9 * before


def test_the_loss_is_of_answer_tokens_only(tiny):
    """Against one row at a time, without padding."""
    prompts, answers = [[3, 4, 12], [5, 12]], [[3, 4, 1], [5, 1]]
    each = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = tiny.network(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
            each += torch.log_softmax(logits, -1)[torch.arange(len(answer)), answer].tolist()
        assert float(made_here._answer_loss(tiny.network, prompts, answers)) == pytest.approx(
            -np.mean(each), rel=1e-5
        )


def test_a_second_load_trains_nothing(tiny, cache, monkeypatch):
    monkeypatch.setattr(Tiny, "_train", no_training)
    again = QUICK.load(SORTING, "cpu", cache)
    assert torch.equal(weights(again), weights(tiny))
    assert again.directory == tiny.directory


@pytest.mark.parametrize("spec", ["tiny[width=32,layers=1,warmup_steps=2,seed=1]", "tiny[width=32,layers=1]"])
def test_other_parameters_are_another_entry(tiny, cache, monkeypatch, spec):
    monkeypatch.setattr(Tiny, "_train", no_training)
    with pytest.raises(AssertionError, match="trained again"):
        models.create(spec).load(SORTING, "cpu", cache)


def test_another_task_is_another_entry(tiny, cache, monkeypatch):
    monkeypatch.setattr(Tiny, "_train", no_training)
    with pytest.raises(AssertionError, match="trained again"):
        QUICK.load(tasks.create("sorting[longest=5,pool_size=50,held_out=20]"), "cpu", cache)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", cut),
        ("model.safetensors", flip),
        ("model.safetensors", Path.unlink),
        ("config.json", Path.unlink),
        ("characters.json", lambda path: path.write_text("{")),
        ("digests.json", Path.unlink),
        ("digests.json", lambda path: path.write_text("{")),
    ],
)
def test_a_damaged_entry_is_made_again(tiny, tmp_path, name, damage):
    place = tmp_path / "models" / tiny.directory.name
    shutil.copytree(tiny.directory, place)
    damage(place / name)
    again = QUICK.load(SORTING, "cpu", tmp_path)
    assert torch.equal(weights(again), weights(tiny))
    assert kept.is_undamaged(place)


def test_what_a_killed_process_left_is_cleared(tiny, tmp_path):
    left = tmp_path / "models" / f"{tiny.directory.name}.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    QUICK.load(SORTING, "cpu", tmp_path)
    assert not left.exists()


def test_a_failed_making_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Tiny, "_train", no_training)
    with pytest.raises(AssertionError):
        QUICK.load(SORTING, "cpu", tmp_path)
    assert [path.suffix for path in (tmp_path / "models").iterdir()] in ([], [".lock"])


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device"),
    ],
)
def test_a_full_disk_is_one_line(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(Characters, "write", full)
    with pytest.raises(InputError, match=r"^cache .*tiny-\w+: .*No space left on device$"):
        QUICK.load(SORTING, "cpu", tmp_path)
    assert [path.suffix for path in (tmp_path / "models").iterdir()] in ([], [".lock"])


def test_a_cache_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cache [^\n]*$"):
        QUICK.load(SORTING, "cpu", tmp_path / "file")


def test_those_who_start_together_train_once(tmp_path, monkeypatch):
    """Threads stand for processes: the lock is of the open file, so it keeps both apart."""
    trained, calls, start = Tiny._train, [], threading.Barrier(2)

    def noted(self, *given):
        calls.append(1)
        time.sleep(0.2)
        return trained(self, *given)

    def load(_):
        start.wait()
        return QUICK.load(SORTING, "cpu", tmp_path)

    monkeypatch.setattr(Tiny, "_train", noted)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(load, range(2))
    assert len(calls) == 1
    assert torch.equal(weights(one), weights(two))


@dataclass(frozen=True)
class NoExamples(Task):
    max_new_tokens: ClassVar[int] = 4
    threshold: ClassVar[float] = 1.0

    def problems(self, seed):
        return [], []

    def verifier(self):
        raise NotImplementedError


def test_a_task_without_fresh_examples_is_refused(tmp_path):
    with pytest.raises(InputError, match="no fresh examples"):
        QUICK.load(NoExamples(), "cpu", tmp_path)


@pytest.mark.parametrize("spec", ["tiny[width=48]", "tiny[layers=0]", "tiny[learning_rate=0]", "hf", "tinny"])
def test_bad_specs(spec):
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        models.create(spec)


def test_a_device_that_is_not_there_is_one_line_before_any_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Tiny, "_train", no_training)
    with pytest.raises(InputError, match=r"^device 'nonsense': [^\n]*$"):
        QUICK.load(SORTING, "nonsense", tmp_path)


def test_default_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("ROLLOUTBENCH_CACHE", raising=False)
    assert default_cache() == Path("/x/rolloutbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "rolloutbench"
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", "/here")
    assert default_cache() == Path("/here")


# Directories of other makers


def hf(path, **given):
    return HuggingFace(path=str(path), **given).load(SORTING, "cpu", Path("/nowhere"))


@pytest.fixture
def copied(tiny, tmp_path):
    return Path(shutil.copytree(tiny.directory, tmp_path / "model"))


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_tiny_directory_loads_by_path(tiny):
    model = models.create(f"hf[path={tiny.directory}]").load(SORTING, "cpu", Path("/nowhere"))
    assert torch.equal(weights(model), weights(tiny))
    assert model.encode("40=") == tiny.encode("40=")
    assert model.end == tiny.end


@pytest.fixture
def with_tokenizer(copied):
    """The tiny weights with a tokenizer of the tokenizers library: words for ids, `</s>` the end."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    (copied / "characters.json").unlink()
    words = ["<pad>", "</s>", *SORTING.alphabet]
    inner = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    tokenizer.save_pretrained(copied)
    return copied, tokenizer


def test_a_directory_with_a_tokenizer_of_transformers(with_tokenizer):
    model = hf(with_tokenizer[0])
    assert model.end == 1
    assert model.encode("40=") == [6, 2, 12]
    assert model.decode(np.array([6, 2, 1], np.int32)).replace(" ", "") == "40"


def test_the_chat_template_is_applied(with_tokenizer):
    directory, tokenizer = with_tokenizer
    with pytest.raises(InputError, match="no chat template"):
        hf(directory, chat=True)
    tokenizer.chat_template = "0{{ messages[0]['content'] }}{% if add_generation_prompt %}={% endif %}"
    tokenizer.save_pretrained(directory)
    assert hf(directory, chat=True).encode("4") == [2, 6, 12]
    assert hf(directory).encode("4") == [6]


def test_a_conversation_goes_through_the_template_or_is_read_in_its_plain_form(with_tokenizer):
    directory, tokenizer = with_tokenizer
    asked = (("system", "12"), ("user", "4="))
    assert hf(directory).encode(asked) == hf(directory).encode("12\n\n4=")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "0{{ m.content }}{% endfor %}{% if add_generation_prompt %}9{% endif %}"
    )
    tokenizer.save_pretrained(directory)
    for chat in (True, False):
        assert hf(directory, chat=chat).encode(asked) == hf(directory).encode("01204=9")
    with pytest.raises(InputError, match="its chat template refuses messages of tool: .*no tools here"):
        hf(directory).encode((("tool", "4"),))


def test_the_character_model_reads_a_conversation_in_its_plain_form(tiny):
    assert tiny.encode((("user", "40="),)) == tiny.encode("40=")


def test_a_tokenizer_without_an_end_is_refused(with_tokenizer):
    directory, tokenizer = with_tokenizer
    tokenizer.eos_token = None
    tokenizer.save_pretrained(directory)
    with pytest.raises(InputError, match="no end token"):
        hf(directory)


def refused(path, match):
    with pytest.raises(InputError, match=match) as caught:
        hf(path)
    assert "\n" not in str(caught.value)


def test_a_missing_directory(tmp_path):
    refused(tmp_path / "gone", "no such directory")


def test_a_file_instead_of_a_directory(copied):
    refused(copied / "config.json", "not a file")


def test_no_config(copied):
    (copied / "config.json").unlink()
    refused(copied, r"no config\.json")


def test_a_config_that_is_no_json(copied):
    (copied / "config.json").write_text("{")
    refused(copied, "Invalid JSON")


def test_no_safetensors(copied):
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    refused(copied, "safetensors")


def test_truncated_safetensors(copied):
    cut(copied / "model.safetensors")
    refused(copied, "safetensors")


def test_weights_that_are_missing_are_not_made_up(copied):
    from safetensors.torch import load_file, save_file

    kept = load_file(copied / "model.safetensors")
    del kept["lm_head.weight"]
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    refused(copied, r"lm_head\.weight")


def test_weights_of_another_shape(copied):
    rewrite(copied / "config.json", intermediate_size=96)
    refused(copied, r"mismatched weights, the first .*mlp")


def test_not_a_causal_language_model(copied):
    rewrite(copied / "config.json", architectures=["BertForMaskedLM"], model_type="bert")
    refused(copied, "BertForMaskedLM is no causal language model")


def test_an_encoder_decoder(copied):
    rewrite(copied / "config.json", architectures=None, model_type="t5")
    refused(copied, "no causal language model")


def test_code_of_its_own_is_never_run(copied, tmp_path):
    rewrite(
        copied / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"},
    )
    (copied / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    refused(copied, "code of its own")
    assert not (tmp_path / "ran").exists()


def test_no_tokenizer(copied):
    (copied / "characters.json").unlink()
    refused(copied, "its tokenizer cannot be loaded")


def test_a_character_tokenizer_that_cannot_be_read(copied):
    (copied / "characters.json").write_text("{")
    refused(copied, r"characters\.json cannot be read")


def test_a_name_that_the_hub_does_not_give(monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    refused("someone/model", r"the hub does not give it: ConnectionError: no route$")


def test_a_name_that_the_hub_gives(tiny, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tiny.directory))
    assert torch.equal(weights(hf("someone/model")), weights(tiny))


# Features


def test_features_are_centred_mean_hidden_states_of_unit_length(tiny):
    """Against one prompt at a time, without padding."""
    problems = [Problem(f"{number}=", "") for number in (1, 23, 456, 7890, 12)]
    found = features(tiny, problems, batch=2)
    with torch.no_grad():
        means = np.stack(
            [
                tiny.network.model(torch.tensor([tiny.encode(p.prompt)])).last_hidden_state[0].mean(0).numpy()
                for p in problems
            ]
        )
    means -= means.mean(0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(found, features(tiny, problems, batch=2))


def test_features_of_one_prompt_are_zero(tiny):
    np.testing.assert_array_equal(features(tiny, [Problem("1=", "1")]), np.zeros((1, 32), np.float32))


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def index(directory, name):
    weights = {"model.embed_tokens.weight": "model.safetensors", "lm_head.weight": name}
    found = {"metadata": {}, "weight_map": weights}
    (directory / "model.safetensors.index.json").write_text(json.dumps(found))


NEVER_LOADED = {
    "a pickle named by the index": lambda d: index(d, "w.bin"),
    "weights outside": lambda d: index(d, "../out.safetensors"),
    "weights that are not there": lambda d: index(d, "gone.safetensors"),
    "an index of something else": lambda d: (d / "model.safetensors.index.json").write_text("[]"),
    "a kernel of the hub": lambda d: change_json(d / "config.json", _attn_implementation="evil/kernel"),
    "a kernel inside": lambda d: change_json(d / "config.json", text_config={"attn_implementation": "a/b"}),
    "code of the model": lambda d: change_json(d / "config.json", auto_map={"AutoModel": "evil.Model"}),
    "quantized": lambda d: change_json(d / "config.json", quantization_config={"quant_method": "x"}),
    "layers without end": lambda d: change_json(d / "config.json", num_hidden_layers=10**9),
    "more layers than weights": lambda d: change_json(d / "config.json", num_hidden_layers=900),
    "words without end": lambda d: change_json(d / "config.json", vocab_size=9_000_000),
    "architectures of numbers": lambda d: change_json(d / "config.json", architectures=[1]),
    "a list": lambda d: (d / "config.json").write_text("[]"),
    "null": lambda d: (d / "config.json").write_text("null"),
    "deep": lambda d: (d / "config.json").write_text("[" * 100_000),
    "no header": lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 64),
    "a header of something else": lambda d: (d / "model.safetensors").write_bytes(
        (8).to_bytes(8, "little") + b'{"a": 1}'
    ),
}


@pytest.mark.parametrize("change", NEVER_LOADED.values(), ids=NEVER_LOADED)
def test_what_is_refused_before_anything_is_loaded(copied, monkeypatch, change):
    """By the check that comes before a study, without transformers."""
    change(copied)
    with pytest.raises(InputError, match=rf"^model directory {copied}: [^\n]*$") as refused:
        HuggingFace(path=str(copied)).check(SORTING)
    assert len(str(refused.value)) < 500


def test_files_that_are_not_allowed_are_never_seen(copied):
    """Pickles and code may lie in a directory, as they do on the hub: nobody opens them."""
    for name in ("pytorch_model.bin", "modeling_evil.py", "tokenizer.pkl", "adapter_model.bin"):
        (copied / name).write_bytes(b"not for anybody")
    with hugging_face.allowed_files(copied) as shown:
        names = {path.name for path in shown.iterdir()}
    assert names == {"characters.json", "config.json", "generation_config.json", "model.safetensors"}
    loaded = HuggingFace(path=str(copied)).load(SORTING, "cpu", copied)
    assert loaded.directory == copied


def test_weights_that_are_no_numbers_are_refused(copied):
    tensors = load_file(copied / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name][0] = float("nan")
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"weight {name} has values that are no numbers"):
        HuggingFace(path=str(copied)).load(SORTING, "cpu", copied)
