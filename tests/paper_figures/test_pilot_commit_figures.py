import tomllib

import numpy as np
import pandas as pd
import pytest
from given import Given

from paper_figures import pilot_commit
from paper_figures.drawing import OURS, PUBLISHED
from paper_figures.sources import STUDIES
from rolloutbench.allocators import allocators
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.protocol import Budget

REPLICATES = 4
STEPS = dict.fromkeys(pilot_commit.SCENARIOS, 10)


def study(name):
    return tomllib.loads((STUDIES / f"{name}.toml").read_text())


def values_of(metrics, names, value, scenarios=("s",)):
    rows = [
        {
            "scenario": scenario,
            "allocator": name,
            "replicate": r,
            "metric": metric,
            "value": value(name, metric, r),
        }
        for scenario in scenarios
        for name in names
        for metric in metrics
        for r in range(REPLICATES)
    ]
    return pd.DataFrame(rows)


def curves_of(grows):
    """15 steps of each method in each scenario, evaluated every five; accuracy grows by a point a step."""
    parts = []
    for scenario in pilot_commit.SCENARIOS:
        for name, sums in grows.items():
            for replicate in range(REPLICATES):
                steps = np.arange(0.0, 16.0, 5.0)
                told = {"scenario": scenario, "allocator": name, "rate": 1.0, "replicate": replicate}
                sums_so_far = {key: each * steps for key, each in sums.items()}
                accuracy = 0.1 * replicate + 0.01 * steps
                parts.append(pd.DataFrame({**told, "steps": steps, "accuracy": accuracy, **sums_so_far}))
    return pd.concat(parts, ignore_index=True)


LET_IN = {
    8: [(0.01, 0.077), (0.05, 0.337), (0.1, 0.570), (0.25, 0.900), (0.5, 0.961), (0.75, 0.633), (0.9, 0.187)],
    16: [
        (0.01, 0.011),
        (0.05, 0.189),
        (0.1, 0.485),
        (0.25, 0.937),
        (0.5, 0.989),
        (0.75, 0.595),
        (0.9, 0.068),
    ],
    32: [
        (0.01, 0.000),
        (0.05, 0.074),
        (0.1, 0.400),
        (0.25, 0.975),
        (0.5, 0.999),
        (0.75, 0.568),
        (0.9, 0.012),
    ],
}
EVICTED = {
    8: [(0.8, 0.168), (0.9, 0.430), (0.95, 0.663), (0.98, 0.851)],
    16: [(0.8, 0.028), (0.9, 0.185), (0.95, 0.440), (0.98, 0.724)],
    32: [(0.8, 0.001), (0.9, 0.034), (0.95, 0.194), (0.98, 0.524)],
}


@pytest.mark.parametrize("n_pilot", [8, 16, 32])
def test_the_filter_is_binomial(n_pilot):
    for place, golden in enumerate((LET_IN, EVICTED)):
        p, expected = np.array(golden[n_pilot]).T
        assert np.allclose(pilot_commit.screening_chances(p, n_pilot)[place], expected, atol=0.0006)
    let_in, evicted = pilot_commit.screening_chances(np.array([0.0, 1.0]), n_pilot)
    assert let_in.tolist() == [0, 0]
    assert evicted.tolist() == [0, 1]


def test_published_ratios_are_those_that_the_paper_prints():
    values = values_of(
        ["rollouts_to_50", "rollouts_to_90"], pilot_commit.METHODS, lambda *_: 1.0, pilot_commit.SCENARIOS
    )
    table = pilot_commit.rollouts_to_target(Given(STEPS, per_replicate=values))
    known = table[table.source == PUBLISHED].set_index("panel").value.round(1)
    assert known["GRPO / Pilot-Commit"].tolist() == [1.5, 1.5, 1.5, 1.9, 1.0, 1.4, 1.3, 1.0]
    dapo = known["DAPO / Pilot-Commit"]
    assert dapo.dropna().tolist() == [4.0, 2.6, 2.3, 2.3, 3.3, 2.7]
    assert np.flatnonzero(dapo.isna()).tolist() == [1, 7]  # never


def test_rollouts_to_target_are_over_those_of_pilot_commit():
    spent = {BASELINE: 300.0, "dapo": 500.0, "pilot_commit": 200.0, "effective_count": 150.0}
    values = values_of(
        ["rollouts_to_50", "rollouts_to_90"],
        [*pilot_commit.METHODS, *pilot_commit.CONTROLS],
        lambda name, *_: spent.get(name, 100.0),
        pilot_commit.SCENARIOS,
    )
    table = pilot_commit.rollouts_to_target(Given(STEPS, per_replicate=values))
    ours = table[table.source == OURS].groupby("series").value.agg(["min", "max", "size"])
    assert ours.loc[BASELINE].tolist() == [1.5, 1.5, 16]
    assert ours.loc["dapo"].tolist() == [2.5, 2.5, 16]
    simpler = pilot_commit.controls(Given(STEPS, per_replicate=values)).groupby("series").value.first()
    assert simpler["effective_count"] == 0.75


def test_seconds():
    metrics = ["seconds_per_step", "seconds_to_50", "seconds_to_90"]
    took = {BASELINE: 100.0, "dapo": 180.0, "pilot_commit": 120.0}
    values = values_of(metrics, pilot_commit.METHODS, lambda name, *_: took[name], pilot_commit.LARGE)
    table = pilot_commit.seconds(Given(STEPS, per_replicate=values)).set_index(["panel", "source", "series"])
    step, relative, target, _ = pilot_commit.SECONDS
    for name, published in {BASELINE: 248, "pilot_commit": 299, "dapo": 453}.items():
        assert table.loc[(step, PUBLISHED, name), "value"].item() == published
        assert table.loc[(step, OURS, name), "value"].item() == pytest.approx(published, rel=0.05)
    assert table.loc[(relative, PUBLISHED, "dapo"), "value"].item() == pytest.approx(1.83, abs=0.005)
    assert table.loc[(relative, OURS, "dapo"), "value"].tolist() == [1.8] * len(pilot_commit.LARGE)
    # 500, 175 and 200 steps: 34.4, 14.5 and 25.2 hours
    assert table.loc[(target, PUBLISHED, "pilot_commit"), "value"].item() == pytest.approx(
        14.5 / 34.4, abs=2e-3
    )
    assert table.loc[(target, PUBLISHED, "dapo"), "value"].item() == pytest.approx(25.2 / 34.4, abs=2e-3)


def test_accuracy_is_in_points_above_grpo():
    gains = {BASELINE: 0.0, "pilot_commit": 0.02, "dapo": -0.01}
    values = values_of(
        pilot_commit.EQUAL,
        pilot_commit.METHODS,
        lambda name, _, r: 0.3 + 0.1 * r + gains[name],
        pilot_commit.SCENARIOS,
    )
    table = pilot_commit.accuracy(Given(STEPS, per_replicate=values))
    assert table.groupby("series").value.mean().to_dict() == pytest.approx({"pilot_commit": 2, "dapo": -1})
    assert np.allclose(table.low, table.value)
    assert [*table.x.unique()] == [*pilot_commit.SCENARIOS.values()]
    assert {*table.panel} == {*pilot_commit.EQUAL.values()}


def test_eviction():
    value = {
        "rollouts_per_step": {"pilot_commit": 12288.0},
        "stages_per_step": {"pilot_commit": 1.0},
        "accuracy_at_steps": {"pilot_commit": 0.51},
    }
    otherwise = {"rollouts_per_step": 18432.0, "stages_per_step": 2.0, "accuracy_at_steps": 0.5}
    values = values_of(
        value,
        [BASELINE, *pilot_commit.EVICTION],
        lambda name, metric, _: value[metric].get(name, otherwise[metric]),
    )
    table = pilot_commit.eviction(Given(STEPS, per_replicate=values))
    rollouts, rounds, accuracy = pilot_commit.EVICTED
    known = table[table.source == PUBLISHED].set_index("x").value
    assert known["without eviction"] == pytest.approx(33379 / 24576)
    assert known["with eviction"] == pytest.approx(25676 / 24576)
    ours = table[table.source == OURS].set_index(["panel", "x"]).value
    assert ours[rollouts, "without eviction"] == 1.5
    assert ours[rollouts, "with eviction"] == 1.0
    assert ours[rounds].tolist() == [1, 0]
    assert ours[accuracy].tolist() == pytest.approx([0, 1])


def test_gains_over_rollouts_and_prompts():
    grows = {
        BASELINE: {"rollouts": 8192, "asked": 128},
        "pilot_commit": {"rollouts": 12288, "asked": 400},
        "dapo": {"rollouts": 24576, "asked": 384},
    }
    small = Given(STEPS, curves=curves_of(grows))
    ours = pilot_commit.over_rollouts(small).query("source == 'ours'")
    for name, sums in grows.items():
        rows = ours[ours.series == name]
        assert np.allclose(rows.value, rows.x / sums["rollouts"])  # a point a step
    assert ours.groupby("panel").x.max().eq(15 * 8192).all()
    table = pilot_commit.over_prompts(small)
    for name, sums in grows.items():
        rows = table[table.series == name]
        assert np.allclose(rows.value, rows.x / sums["asked"])
    assert table.groupby("series").x.max().to_dict() == pytest.approx(
        {BASELINE: 15 * 128, "pilot_commit": 3840, "dapo": 3840}, rel=0.03
    )


def test_published_curves_are_in_panels_of_their_own():
    grows = {name: {"rollouts": 8192} for name in pilot_commit.METHODS}
    table = pilot_commit.over_rollouts(Given(STEPS, curves=curves_of(grows)))
    assert (table.groupby("panel").source.nunique() == 1).all()
    assert {*table.panel} == {*pilot_commit.FIGURES[0].layout.y}


def test_splits_cost_what_they_say():
    assert allocators.create("pilot_commit").phases(Budget(128, 8192)) == (16, 48)
    for names in pilot_commit.SPLITS.values():
        for name, title in names.items():
            if name == BASELINE:
                continue
            pilots, commits = allocators.create(name).phases(Budget(128, 8192))
            assert title.startswith(f"{pilots} + {commits}")
            cost = 3 * 128 * pilots + 128 * commits
            if names is pilot_commit.SAMPLED_ALIKE or name == "pilot_commit":
                assert cost == pilot_commit.NOMINAL["pilot_commit"]
            if names is pilot_commit.TRAINED_ALIKE:
                assert f"({cost:,}" in title


def test_the_studies_have_what_is_drawn():
    targets, settings = study("pilot_commit_targets"), study("pilot_commit_settings")
    assert [*pilot_commit.SCENARIOS] == targets["scenarios"]
    assert {*pilot_commit.METHODS, *pilot_commit.CONTROLS} <= {*targets["allocators"], BASELINE}
    drawn = [pilot_commit.TRAINED_ALIKE, pilot_commit.SAMPLED_ALIKE, pilot_commit.EVICTION]
    for names in [*drawn, *pilot_commit.THRESHOLDS.values()]:
        assert {*names} <= {*settings["allocators"], BASELINE}
