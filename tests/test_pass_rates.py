"""Pass rates: what people keep them in is read as one and the same, or refused in one line that says why."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_rate_files import as_csv, as_lines, rewards, written

from rolloutbench.pass_rates import PassRateFile
from rolloutbench.protocol import InputError

KS = [8, 0, 3, 8, 6, 0, 5, 1]


def read(path, **how):
    return PassRateFile(file=path, **how).read()


def refused(path, **how):
    """The line that refuses a file."""
    with pytest.raises(InputError) as caught:
        read(path, **how)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(path))
    return said.removeprefix(f"{path}: ")


@settings(max_examples=25)
@given(st.integers(2, 9).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n), min_size=2))))
def test_all_formats_say_the_same(drawn):
    n, ks = drawn
    ks = [1, *ks]  # somebody may learn something
    with tempfile.TemporaryDirectory() as folder:
        for name, (path, how) in written(Path(folder) / "files", ks, n).items():
            found = read(path, **how)
            np.testing.assert_array_equal(found.rates, np.array(ks) / n, err_msg=name)
            np.testing.assert_array_equal(found.trials, np.full(len(ks), n), err_msg=name)
            assert found.ids == [f"q{i}" for i in range(len(ks))], name


def test_without_trials_rates_are_what_they_are(tmp_path):
    as_csv(tmp_path / "a.csv", pass_rate=[0.8375578649227625, 0.0, 1.0], n=8)
    found = read(tmp_path / "a.csv")
    assert found.rates.tolist() == [0.8375578649227625, 0.0, 1.0]
    assert found.trials is None
    assert found.ids is None
    assert found.unused == "n"


def test_rounded_rates_are_counts_of_their_trials(tmp_path):
    as_csv(tmp_path / "a.csv", pass_rate=[0.33, 0.67, 0.38], n=[3, 3, 8])
    assert read(tmp_path / "a.csv", trials="n").rates.tolist() == [1 / 3, 2 / 3, 3 / 8]


def test_whole_numbers_above_one_are_counts_where_trials_are_named(tmp_path):
    as_csv(tmp_path / "a.csv", correct=KS, trials=8)
    assert (read(tmp_path / "a.csv", column="correct", trials="trials").rates * 8).tolist() == KS


def test_lengths_are_means_of_a_prompts_rollouts(tmp_path):
    as_csv(tmp_path / "a.csv", id=["a", "a", "b", "b"], reward=[1, 0, 0, 0], tokens=[10, 30, 7, 9])
    assert read(tmp_path / "a.csv", lengths="tokens").lengths.tolist() == [20, 8]
    as_lines(
        tmp_path / "b.jsonl", [{"rewards": [0, 1], "tokens": [5, 6]}, {"rewards": [1, 1], "tokens": [2, 2]}]
    )
    assert read(tmp_path / "b.jsonl", lengths="tokens").lengths.tolist() == [5.5, 2]


def test_a_prompt_measured_twice_is_one(tmp_path):
    as_csv(tmp_path / "a.csv", id=["a", "b", "a"], pass_rate=["1/2", "0/2", "6/6"])
    found = read(tmp_path / "a.csv")
    assert (found.ids, found.rates.tolist(), found.trials.tolist()) == (["a", "b"], [7 / 8, 0], [8, 2])
    assert len(read(tmp_path / "a.csv", id="-").rates) == 3


def test_names_are_kept_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text("prompt_id,pass_rate\n007,0.5\n7,0.25\n")
    assert read(tmp_path / "a.csv").ids == ["007", "7"]


@given(
    st.sets(st.integers(0, 19), max_size=18),
    st.sampled_from(["", "half", "1.5", "-0.1", "9/8", "[1, 2]", "inf"]),
)
@settings(max_examples=30)
def test_bad_rows_are_all_counted_and_the_first_is_shown(bad, cell):
    cells = [cell if row in bad else "0.5" for row in range(20)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text("pass_rate,x\n" + "".join(f'"{cell}",1\n' for cell in cells))
        if not bad:
            assert len(read(path).rates) == 20
            return
        said = refused(path)
        assert said.startswith(
            f"{len(bad)} of 20 rows cannot be used, the first is row {min(bad) + 1}: column 'pass_rate'"
        )
        assert said.endswith("--drop-bad-rows (drop_bad_rows=true) goes on without them")
        found = read(path, drop_bad_rows=True)
        assert found.rates.tolist() == [0.5] * (20 - len(bad))
        assert found.notes == (f"{len(bad)} of 20 rows dropped",)


def files(folder, **columns):
    as_csv(folder / "a.csv", **columns)
    return folder / "a.csv"


RATE = [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("columns", "how", "fragments"),
    [
        ({"pass_rate": [0.0] * 9}, {}, ["none of 9 prompts has 0 < p < 1: 9 were never solved and 0 always"]),
        ({"pass_rate": [1.0] * 9, "n": 8}, {"trials": "n"}, ["none of 9 prompts", "9 always"]),
        ({"pass_rate": [True, False], "n": 8}, {}, ["none of 2 prompts", "--id (id=COLUMN)"]),
        ({"pass_rate": [True, False], "n": 8}, {"trials": "n"}, ["true and false", "unit=rate"]),
        ({"pass_rate": [0.5]}, {}, ["holds one prompt"]),
        ({"pass_rate": RATE, "n": 2**60}, {"trials": "n"}, ["3 of 3 rows", str(2**60), "[1, 1000000]"]),
        ({"pass_rate": RATE, "n": [8, 0, 8]}, {"trials": "n"}, ["1 of 3 rows", "row 2", "'n': 0"]),
        ({"pass_rate": RATE, "n": 2.5}, {"trials": "n"}, ["'n': 2.5", "whole number"]),
        (
            {"pass_rate": [0.84, 0.5, 0.3], "n": 8},
            {"trials": "n"},
            ["2 of 3 rows", "row 1", "8 trials (6.72)"],
        ),
        ({"pass_rate": [100.0, 0, 37.5]}, {}, ["row 1", "[0, 1]", "--unit percent"]),
        ({"pass_rate": [100, 0, 50], "n": 8}, {"trials": "n"}, ["row 1: ", "[0, 8]", "percent"]),
        ({"pass_rate": [100, 0, 50], "n": 200}, {"trials": "n"}, ["counts or percent", "unit=count"]),
        (
            {"correct": [1, 0, 1], "n": 8},
            {"column": "correct", "trials": "n"},
            ["0 and 1 alone", "unit=count"],
        ),
        ({"correct": [9, 0, 1], "n": 8}, {"column": "correct", "trials": "n"}, ["row 1", "9", "[0, 8]"]),
        ({"correct": [9, 0, 1]}, {"column": "correct"}, ["--trials (trials=COLUMN) if they are counts"]),
        ({"correct": [9, 0, 1]}, {"column": "correct", "unit": "count"}, ["unit=count: --trials"]),
        ({"pass_rate": ["3/8", "0.5"]}, {}, ["1 of 2 rows", "row 2", "as in other rows"]),
        ({"pass_rate": ["3/8", "4/8"], "n": [8, 9]}, {"trials": "n"}, ["row 2", "'n' has other trials"]),
        ({"pass_rate": ["3/8", "101%"]}, {}, ["row 2", "percentage in [0, 100]"]),
        ({"id": ["a", "a", "b"], "pass_rate": [0.5, 0.25, 1]}, {}, ["'a' stands in several rows", "--id -"]),
        ({"id": ["a", None, "a"], "reward": [0, 1, 1]}, {}, ["row 2", "'id'", "which prompt"]),
        ({"pass_rate": RATE, "t": [1, -1, 3]}, {"lengths": "t"}, ["row 2", "'t': -1", "tokens"]),
        ({"rate": RATE}, {}, ["no column 'pass_rate' or 'rewards' or 'reward'", "which of rate it is"]),
        ({"rate": RATE}, {"column": "rat"}, ["no column 'rat': did you mean rate?"]),
        ({"pass_rate": RATE}, {"trials": "n"}, ["no column 'n'"]),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(tmp_path, columns, how, fragments):
    said = refused(files(tmp_path, **columns), **how)
    assert [part for part in fragments if part not in said] == [], said


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("a.jsonl", '{"pass_rate": 0.5}\n{"pass_rate": 0.5', "line 2: this is not JSON"),
        ("a.jsonl", "[1, 2]\n", "line 1: expected an object"),
        ("a.jsonl", '{"pass_rate": 1' + "0" * 400 + '}\n{"pass_rate": 0.5}', "1 of 2 rows"),
        ("a.json", '{"pass_rate": [0.5]}', "a list of objects is expected"),
        ("a.json", "[1]", "a list of objects is expected"),
        ("a.json", "[" * 100_000, "is no readable JSON file"),
        ("a.json", "[]", "holds no rows"),
        ("a.csv.gz", "pass_rate\n0.5\n", "gzip"),
        ("a.jsonl.gz", "pass_rate\n0.5\n", "gzip"),
        ("a.parquet", "pass_rate", "is no readable Parquet file"),
        ("a.jsonl", '{"rewards": [1, 0.5]}\n{"rewards": [1, 0]}', "reward 0.5: 0 or 1 is expected"),
        ("a.jsonl", '{"rewards": []}\n{"rewards": [1, 0]}', "1 of 2 rows"),
        ("a.jsonl", '{"rewards": null}\n{"rewards": [1, 0]}', "1 of 2 rows"),
        ("a.jsonl", '{"rewards": [null]}\n{"rewards": [1, 0]}', "reward None"),
        ("a.jsonl", '{"pass_rate": {"a": 1}}\n{"pass_rate": 0.5}', "1 of 2 rows"),
    ],
)
def test_damaged_files(tmp_path, name, content, fragment):
    (tmp_path / name).write_text(content)
    assert fragment in refused_anywhere(tmp_path / name)


def refused_anywhere(path):
    with pytest.raises(InputError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_field_of_records_is_found_by_its_name_where_it_is_the_only_one(tmp_path):
    rows = [{"x": {"pass_rate": k / 8}, "y": json.dumps(rewards(k, 8))} for k in KS]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert (read(tmp_path / "a.parquet").rates * 8).tolist() == KS
    assert "did you mean x.pass_rate" in refused(tmp_path / "a.parquet", column="pass_rate")
