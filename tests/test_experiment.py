import dataclasses

import numpy as np
import pandas as pd
import pytest

from rolloutbench.experiment import MARKER, output_directory, run_cells, summarise
from rolloutbench.protocol import InputError


@dataclasses.dataclass(frozen=True)
class Constant:
    value: float

    def run(self):
        return pd.DataFrame({"value": [self.value]})


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_the_order_of_the_cells(jobs):
    results = list(run_cells([Constant(float(i)) for i in range(7)], jobs))
    assert pd.concat(results).value.tolist() == list(range(7))


def long_form(values):
    rows = [
        ("s", allocator, r, metric, v)
        for (allocator, metric), many in values.items()
        for r, v in enumerate(many)
    ]
    return pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"])


def test_summary_pairs_with_uniform_and_keeps_the_order():
    table = long_form(
        {
            ("uniform", "b"): [1.0, 2.0, 3.0],
            ("uniform", "a"): [1.0, 1.0, 1.0],
            ("x", "b"): [2.0, 4.0, 6.0],
            ("x", "a"): [1.0, np.nan, 4.0],
            ("x", "only_x"): [1.0, 2.0, 3.0],
            ("x", "nowhere"): [np.nan] * 3,
        }
    )
    summary = summarise(table)
    assert list(zip(summary.allocator, summary.metric, strict=True)) == [
        ("uniform", "b"),
        ("uniform", "a"),
        ("x", "b"),
        ("x", "a"),
        ("x", "only_x"),
    ]
    rows = summary.set_index(["allocator", "metric"])
    assert rows.ratio["x", "b"] == rows.ratio_low["x", "b"] == rows.ratio_high["x", "b"] == 2
    assert rows.replicates["x", "a"] == 2
    assert rows.ratio["x", "a"] == 2.5
    assert np.isnan(rows.ratio["x", "only_x"])


def test_a_finished_directory_appears_at_once(tmp_path):
    out = tmp_path / "new" / "results"
    with output_directory(out) as directory:
        (directory / MARKER).write_text("{}")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["results"]
    assert (out / MARKER).read_text() == "{}"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_stays(tmp_path, error):
    def fail():
        with output_directory(tmp_path / "new" / "deep" / "results") as directory:
            (directory / "half").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_only_earlier_results_are_replaced(tmp_path):
    out = tmp_path / "results"
    with output_directory(out) as directory:
        (directory / MARKER).write_text("old")
    with pytest.raises(InputError, match="--overwrite"), output_directory(out):
        raise AssertionError("not reached")
    with pytest.raises(RuntimeError), output_directory(out, overwrite=True):
        raise RuntimeError
    assert (out / MARKER).read_text() == "old"  # a failure keeps them
    with output_directory(out, overwrite=True) as directory:
        (directory / MARKER).write_text("new")
    assert (out / MARKER).read_text() == "new"
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter").write_text("precious")
    with pytest.raises(InputError, match="holds no results"), output_directory(foreign, overwrite=True):
        raise AssertionError("not reached")
    assert (foreign / "chapter").exists()
