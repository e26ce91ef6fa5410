"""What is made of the tables of cells."""

import numpy as np
import pandas as pd

from rolloutbench.analysis.results import complete, summarise
from rolloutbench.cells.store import Ran


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


def ran(*parts):
    return [Ran(part, pd.DataFrame(), {}) for part in parts]


def test_what_cells_failed_of_is_left_out():
    whole = ran(("a", "uniform"), ("a", "vip"), ("a", "vip"), ("b", "uniform"), ("b", "vip"))
    assert complete(whole, []) == whole
    kept = complete(whole, [("a", "vip")])
    assert [cell.part for cell in kept] == [("a", "uniform"), ("b", "uniform"), ("b", "vip")]


def test_a_scenario_goes_with_what_the_others_are_measured_against():
    whole = ran(("a", "uniform"), ("a", "vip"), ("b", "(reference)"), ("b", "uniform"), ("b", "vip"))
    for lost in (("b", "uniform"), ("b", "(reference)")):
        assert [cell.part[0] for cell in complete(whole, [lost])] == ["a", "a"]
