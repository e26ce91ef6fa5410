import tomllib

import numpy as np
import pandas as pd
import pytest
from given import Given

from paper_figures import ar3po
from paper_figures.drawing import OURS, PUBLISHED
from paper_figures.sources import STUDIES
from rolloutbench.allocators import allocators
from rolloutbench.cells.collectors import BASELINE

STUDY = tomllib.loads((STUDIES / "ar3po.toml").read_text())
REPLICATES = 4
STEPS = {"s": 10}


def curves_of(**sums_per_step):
    """Runs of 15 steps, evaluated every five: of each allocator how much each sum grows in a step."""
    parts = []
    for name, growth in sums_per_step.items():
        for replicate in range(REPLICATES):
            steps = np.arange(0.0, 16.0, 5.0)
            told = {"scenario": "s", "allocator": name, "rate": 1.0, "replicate": replicate, "steps": steps}
            parts.append(pd.DataFrame({**told, **{key: each * steps for key, each in growth.items()}}))
    return pd.concat(parts, ignore_index=True)


def values_of(metrics, names, value):
    rows = [
        {
            "scenario": "s",
            "allocator": name,
            "replicate": r,
            "metric": metric,
            "value": value(name, metric, r),
        }
        for name in names
        for metric in metrics
        for r in range(REPLICATES)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.02, 7.69),
        (0.05, 7.26),
        (0.1, 6.62),
        (0.2, 5.64),
        (0.3, 4.96),
        (0.5, 4.25),
        (0.7, 4.03),
        (0.9, 4.00),
    ],
)
def test_expected_responses_of_two_stages(p, expected):
    assert ar3po.expected_responses(np.array([p]), 2, 4)[0] == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("stages", "per_stage"), [(1, 8), (2, 4), (4, 2), (8, 1), (3, 5)])
def test_expected_responses_are_those_of_the_allocator_s_rule(stages, per_stage):
    rng = np.random.default_rng(0)
    p = np.array([0.0, 0.03, 0.3, 0.9, 1.0])
    solved = (rng.random((40_000, len(p), stages, per_stage)) < p[:, None, None]).any(axis=3)
    earlier = np.cumsum(solved, axis=2) - solved
    drawn = per_stage * (earlier == 0).sum(axis=2)
    off = drawn.mean(axis=0) - ar3po.expected_responses(p, stages, per_stage)
    assert (abs(off) <= 4 * drawn.std(axis=0) / 200 + 1e-3).all()


def test_only_two_stages_of_four_give_the_published_easiest_bin():
    at = {sk: ar3po.expected_responses(np.array([0.9]), *sk)[0] for sk in ar3po.SCHEDULES.values()}
    assert [sk for sk, value in at.items() if abs(value - 4) < 0.5] == [(2, 4)]
    hardest = ar3po.expected_responses(np.linspace(0, 0.2, 201), 2, 4).mean()
    assert hardest == pytest.approx(6.95, abs=0.3)


def test_schedules_are_the_allocators():
    for name, (stages, per_stage) in ar3po.SCHEDULES.items():
        made = allocators.create(name)
        assert (made.stages, made.per_stage or 8 // made.stages) == (stages, per_stage)


@pytest.mark.parametrize("names", [ar3po.SWEEP, ar3po.REUSES, ar3po.OPTIONS, ar3po.BUFFERS, ar3po.SCHEDULES])
def test_the_study_has_what_is_drawn(names):
    assert {*names} <= {*STUDY["allocators"], BASELINE}
    assert len({*names.values()}) == len(names)
    assert len(STUDY["scenarios"]) == 1


def test_responses():
    small = Given(
        STEPS, curves=curves_of(uniform={"rollouts": 1024}, ar3po={"rollouts": 768}, dapo={"rollouts": 3072})
    )
    table = ar3po.responses(small)
    ours = table[table.source == OURS]
    means = ours.groupby(["panel", "series"]).value.agg(["min", "max", "size"])
    for panel, name, value in (
        (ar3po.CHEAP, "uniform", 8),
        (ar3po.CHEAP, "ar3po", 6),
        (ar3po.DEAR, "dapo", 24),
        (ar3po.RATIO, "dapo", 4),
    ):
        assert means.loc[panel, name].tolist() == [value, value, 3]
    assert table[table.source == PUBLISHED].value.tolist() == [8, 5.7, 4.2]
    assert set(table[table.source == PUBLISHED].x) == {15}


def test_groups_without_success():
    growth = {"groups": 128, "unsolved": 32, "unsolved_after_reuse": 16}
    table = ar3po.without_success(Given(STEPS, curves=curves_of(**dict.fromkeys(ar3po.OPTIONS, growth))))
    ours = table[table.source == OURS].set_index("series").value
    assert set(ours["before reuse"]) == {0.25}
    assert set(ours["after reuse"]) == {0.125}
    known = table[table.source == PUBLISHED].set_index("series").value
    assert known.to_dict() == {"before reuse": 0.3, "after reuse": 0.2}


def test_gains_are_points_paired_by_replicate():
    value = {BASELINE: 0.5, ar3po.NO_REUSE: 0.48, "ar3po[reuse=I]": 0.49}
    values = values_of(ar3po.EQUAL, ar3po.REUSES, lambda name, _, r: value.get(name, 0.47) + 0.1 * r)
    table = ar3po.reuse(Given(STEPS, per_replicate=values)).set_index(["panel", "x"])
    assert table.loc[("equal steps", "no reuse"), "value"] == pytest.approx(-2)
    assert table.loc[("equal rollouts, reuse alone", "reuse I"), "value"] == pytest.approx(1)
    assert np.allclose(table.low, table.value)  # what the replicates share cancels
    assert table.index.is_unique


def test_sweep_costs_rollouts_per_prompt():
    metrics = ["rollouts_per_step", *ar3po.EQUAL]
    values = values_of(metrics, ar3po.SWEEP, lambda name, metric, r: 768.0 + r)
    cost = ar3po.sweep(Given(STEPS, per_replicate=values)).query("panel == 'cost'")
    assert cost.x.tolist() == [*ar3po.SWEEP.values()]
    assert np.allclose(cost.value, (768 + 1.5) / 128)
    assert set(cost.series) == {"ar3po", "uniform"}


def test_buffers_are_compared_with_no_reuse():
    metrics = ["unsolved_after_reuse_ratio", *ar3po.EQUAL]
    names = [BASELINE, ar3po.NO_REUSE, *ar3po.BUFFERS]
    values = values_of(metrics, names, lambda name, metric, r: 0.2 if name == ar3po.NO_REUSE else 0.21)
    table = ar3po.buffer(Given(STEPS, per_replicate=values))
    assert np.allclose(table[table.panel == "no success"].value, 0.21)
    assert np.allclose(table[table.panel != "no success"].value, 1)
    assert (table.groupby("panel").size() == len(ar3po.BUFFERS)).all()
