"""Score banks on disk: what is read is what was written, and damage is said in one line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rolloutbench import score_bank
from rolloutbench.protocol import InputError
from rolloutbench.score_bank import BANK, PROMPTS, ScoreBank, read_bank, write_bank


def made(rows=40, dimensions=8, pool=5, seed=0, **changed):
    rng = np.random.default_rng(seed)
    columns = {
        "prompts": rng.integers(0, pool, rows),
        "steps": np.repeat([0, 30], rows // 2),
        "rewards": rng.integers(0, 2, rows),
        "raw": rng.random(rows).astype(np.float32),
        "norms": rng.random(rows).astype(np.float32) * 7,
        "lengths": rng.integers(1, 9, rows).astype(np.int32),
        "sketches": rng.normal(size=(rows, dimensions)).astype(np.float32),
        "features": rng.normal(size=(pool, 3)).astype(np.float32),
        "about": {"task": "sorting", "temperature": 1.0, "nested": {"seeds": [1, 2]}},
    }
    return ScoreBank(**{**columns, **changed})


def test_what_is_read_is_what_was_written(tmp_path):
    bank = made()
    write_bank(bank, tmp_path / "new" / "bank", {"text": list("abcde"), "answer": list("vwxyz")})
    for path in (tmp_path / "new" / "bank", tmp_path / "new" / "bank" / BANK):
        read = read_bank(path)
        for name in ("prompts", "steps", "rewards", "raw", "norms", "lengths", "features"):
            assert getattr(read, name).dtype == getattr(bank, name).dtype
            np.testing.assert_array_equal(getattr(read, name), getattr(bank, name))
        assert read.about == bank.about
        assert read.sketches.dtype == np.float32
        np.testing.assert_allclose(read.sketches, bank.sketches, rtol=2**-11)
    assert sorted(p.name for p in (tmp_path / "new" / "bank").iterdir()) == [BANK, PROMPTS]
    prompts = pq.read_table(tmp_path / "new" / "bank" / PROMPTS)
    assert prompts.column_names == ["prompt", "text", "answer", "features"]
    stored = pq.read_schema(tmp_path / "new" / "bank" / BANK)
    assert stored.names == ["prompt", "step", "reward", "raw", "norm", "length", "sketch"]
    assert stored.field("sketch").type == pa.list_(pa.float16(), 8)


@given(
    arrays(np.float32, (6, 4), elements=st.floats(-(2.0**20), 2.0**20, width=32)),
    st.integers(-90, 90),
)
def test_any_scale_keeps_eleven_bits(tmp_path_factory, sketches, exponent):
    """Neither overflow nor loss of bits down to 1e-9 of the largest, whatever the unit."""
    directory = tmp_path_factory.mktemp("bank")
    sketches = np.ldexp(sketches, exponent)
    bank = made(rows=6, sketches=sketches.astype(np.float32))
    write_bank(bank, directory)
    read = read_bank(directory)
    largest = np.abs(bank.sketches).max()
    np.testing.assert_allclose(read.sketches, bank.sketches, rtol=2**-11, atol=2e-9 * 2**-10 * largest)
    before = (directory / BANK).read_bytes()
    write_bank(read, directory)
    assert (directory / BANK).read_bytes() == before


def test_one_step_and_chosen_rows():
    bank = made()
    late = bank.at(30)
    assert len(late) == 20
    assert (late.steps == 30).all()
    np.testing.assert_array_equal(late.sketches, bank.sketches[20:])
    assert late.features is bank.features
    np.testing.assert_array_equal(bank[np.array([3, 1])].rewards, bank.rewards[[3, 1]])
    with pytest.raises(InputError, match=r"step=7: the bank has rollouts of steps 0, 30"):
        bank.at(7)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rewards": np.full(40, 2)}, r"column 'reward', row 1: 2: 0 or 1 is expected"),
        ({"prompts": np.arange(40) - 1}, r"column 'prompt', row 1: -1: a number of at least 0"),
        ({"norms": np.full(40, np.nan, np.float32)}, r"column 'norm', row 1: nan"),
        ({"raw": np.full(40, np.inf, np.float32)}, r"column 'raw', row 1: inf: a number is expected"),
        ({"lengths": np.zeros(39, np.int32)}, r"column 'length' has the shape \(39,\), not \(40,\)"),
        ({"sketches": np.full((40, 2), np.nan, np.float32)}, r"column 'sketch', row 1: finite"),
        ({"sketches": np.zeros((39, 2), np.float32)}, r"column 'sketch' has the shape"),
        ({"features": np.zeros((4, 2), np.float32)}, r"features have the shape \(4, 2\), not \(at least 5"),
        ({"features": np.full((5, 2), np.nan, np.float32)}, r"features: finite"),
    ],
)
def test_what_is_no_bank_is_not_written(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_bank(made(**changed), tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_an_empty_bank_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="holds no rollouts"):
        write_bank(made()[np.zeros(40, bool)], tmp_path)


def replaced(path, name, column):
    table = pq.read_table(path)
    place = table.column_names.index(name)
    pq.write_table(table.set_column(place, name, column), path)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("reward", pa.array([3] * 40), r"column 'reward', row 1: 3: 0 or 1"),
        ("reward", pa.array([0.5] * 40), r"column 'reward' is of type double: whole numbers"),
        ("reward", pa.array([None] * 40, pa.int64()), r"column 'reward' has missing values"),
        ("length", pa.array([2**40] * 40), r"column 'length': 1099511627776: too large"),
        ("raw", pa.array(["x"] * 40), r"column 'raw' is of type string: numbers"),
        ("norm", pa.array([float("nan")] * 40), r"column 'norm', row 1: nan"),
        ("sketch", pa.array([[1.0]] * 40), r"column 'sketch' is of type list"),
        ("sketch", pa.array([[None, 1.0]] * 40, pa.list_(pa.float16(), 2)), r"'sketch' has missing values"),
        ("sketch", pa.array([[float("inf")]] * 40, pa.list_(pa.float16(), 1)), r"'sketch', row 1: finite"),
    ],
)
def test_damage_in_a_column_is_named(tmp_path, name, column, message):
    write_bank(made(), tmp_path)
    replaced(tmp_path / BANK, name, column)
    with pytest.raises(InputError, match=message) as caught:
        read_bank(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / BANK))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dropped", ["prompt", "reward", "sketch"])
def test_a_missing_column_is_named(tmp_path, dropped):
    write_bank(made(), tmp_path)
    pq.write_table(pq.read_table(tmp_path / BANK).drop_columns(dropped), tmp_path / BANK)
    with pytest.raises(InputError, match=f"has no column '{dropped}'"):
        read_bank(tmp_path)


def test_files_that_are_no_bank(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_bank(tmp_path)
    (tmp_path / BANK).write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="is no readable Parquet file"):
        read_bank(tmp_path)
    pq.write_table(pa.table({"prompt": [1]}), tmp_path / BANK)
    with pytest.raises(InputError, match="is no score bank"):
        read_bank(tmp_path)
    write_bank(made(), tmp_path)
    whole = (tmp_path / BANK).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / BANK).write_bytes(whole[:length])
        with pytest.raises(InputError, match="is no readable Parquet file"):
            read_bank(tmp_path)


def test_files_of_two_banks_are_not_read_as_one(tmp_path):
    write_bank(made(seed=1), tmp_path / "one")
    write_bank(made(seed=2), tmp_path / "two")
    (tmp_path / "one" / PROMPTS).replace(tmp_path / "two" / PROMPTS)
    with pytest.raises(InputError, match="is not the file that bank.parquet was written with"):
        read_bank(tmp_path / "two")
    with pytest.raises(InputError, match="no such file"):
        read_bank(tmp_path / "one")
    # A bank without features does not take up what an older one left there.
    write_bank(made(seed=3, features=None), tmp_path / "two")
    assert read_bank(tmp_path / "two").features is None


def test_a_killed_write_leaves_the_old_bank_or_says_so(tmp_path, monkeypatch):
    write_bank(made(seed=1, features=None), tmp_path)
    before = (tmp_path / BANK).read_bytes()

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(score_bank.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_bank(made(seed=2, features=None), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [BANK]
    assert (tmp_path / BANK).read_bytes() == before
