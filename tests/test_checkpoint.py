"""A state comes back as it was saved, from a file that is all there or refused."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rolloutbench import checkpoint
from rolloutbench.protocol import InputError

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\t"), min_size=1, max_size=6)
KINDS = st.sampled_from(["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
ARRAYS = KINDS.flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats() | st.text(max_size=5)
LEAVES = ARRAYS | PLAIN | st.lists(st.dictionaries(KEYS, st.floats(), max_size=2), max_size=2)
STATES = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=4), max_leaves=12)


def same(one, other):
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and (one.dtype, one.shape) == (other.dtype, other.shape)
            and one.tobytes() == other.tobytes()
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one)


@settings(max_examples=60)
@given(st.dictionaries(KEYS, STATES, max_size=5))
def test_round_trip(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "new" / "checkpoint.safetensors"
    checkpoint.save(path, state)
    assert same(checkpoint.load(path), state)


def test_random_numbers_go_on(tmp_path):
    rng = np.random.default_rng(3)
    rng.random(5)
    checkpoint.save(tmp_path / "state", {"rng": rng.bit_generator.state})
    other = np.random.default_rng(0)
    other.bit_generator.state = checkpoint.load(tmp_path / "state")["rng"]
    assert other.random(4).tolist() == rng.random(4).tolist()


def test_what_is_loaded_can_be_changed(tmp_path):
    """Ledgers and sums go on in place."""
    checkpoint.save(tmp_path / "state", {"sums": np.zeros((2, 3)), "one": np.array(4)})
    state = checkpoint.load(tmp_path / "state")
    state["sums"][:] += 1
    state["one"] += 1
    assert (state["sums"].sum(), int(state["one"])) == (6.0, 5)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, {"a": np.arange(100.0), "inner": {"b": 3}})
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"{}",
        whole[:7],
        whole[:60],
        whole[:-1],
        b"\xff" * 100,
        whole[8:],
        b"\0" * 8 + b"{}",
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="is no checkpoint of a run") as refused:
            checkpoint.load(path)
        assert str(path) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(InputError, match="is no checkpoint"):
        checkpoint.load(tmp_path / "missing")


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, {"step": 1})
    write = Path.write_bytes

    def full(self, *given):
        if moment == "write_bytes":
            write(self, given[0][:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, moment, full)
        with pytest.raises(
            InputError, match=r"checkpoint.safetensors: cannot be written: No space left"
        ) as told:
            checkpoint.save(path, {"step": 2})
    assert len(str(told.value).splitlines()) == 1
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
