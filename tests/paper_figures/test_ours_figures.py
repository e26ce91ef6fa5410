"""The summary over all scenarios, and the language model beside its simulation."""

import numpy as np
import pandas as pd
import pytest

from paper_figures import ours
from paper_figures.drawing import OURS
from paper_figures.sources import RESULTS, Sources
from rolloutbench.cells.collectors import BASELINE

RNG = np.random.default_rng(0)


def values_of(factors, scenarios=4, replicates=16):
    """Each allocator needs so many times what uniform needs, in each scenario as much by chance."""
    base = RNG.lognormal(10, 0.3, (scenarios, replicates))
    parts = []
    for metric in ours.SUMMARISED:
        for name, factor in factors.items():
            noise = RNG.lognormal(0, 0.0 if name == BASELINE else 0.05, base.shape)
            for s, row in enumerate(factor * base * noise):
                told = {"scenario": f"s{s}", "allocator": name, "metric": metric}
                parts.append(pd.DataFrame({**told, "replicate": range(replicates), "value": row}))
    return pd.concat(parts, ignore_index=True)


class Given(Sources):
    """A study whose values are handed over."""

    def __init__(self, values):
        super().__init__(quick=True)
        self.given = values

    def values(self, study, *metrics):
        return self.given[self.given.metric.isin(metrics)]


FACTORS = {"random": 0.5, BASELINE: 1.0, "vip": 0.9, "dapo": 1.6, "vip[predictor=oracle]": 0.8}


def test_methods_first_and_best_first():
    table = ours.summary(Given(values_of(FACTORS)))
    for _, panel in table.groupby("panel"):
        names = list(dict.fromkeys(panel.x))
        assert names == ["vip", "dapo", "random", "vip[predictor=oracle]", BASELINE]
        assert (panel.groupby("x").size() == 4 + 1).all()
        means = panel[panel.low.notna()].set_index("series")
        for name, factor in FACTORS.items():
            assert means.low[name] <= means.value[name] <= means.high[name]
            assert means.value[name] == pytest.approx(factor, rel=0.05)
        assert (means.loc[BASELINE, ["value", "low", "high"]] == 1).all()


def test_parts_are_judged_apart_where_they_were_tuned():
    """Best first by the scenarios that it was not tuned on; who lacks a panel is in neither."""
    metric = "tuned_area_over_rollouts"
    areas = {
        BASELINE: (1.0, 1.0),
        "frontier": (1.2, 1.4),
        "frontier[start=1]": (1.3, 1.1),
        "mopps": (1.1, None),
    }
    values = [
        {"scenario": scenario, "allocator": name, "metric": metric, "replicate": r, "value": factor * (1 + r)}
        for name, factors in areas.items()
        for scenario, factor in zip(("mid-broad-v1", ours.TUNED_ON[0]), factors, strict=True)
        for r in range(8)
        if factor is not None
    ]
    table = ours.parts(Given(pd.DataFrame(values)))
    means = table[table.low.notna()]
    assert list(dict.fromkeys(means.panel)) == ["scenarios it was not tuned on", "scenarios it was tuned on"]
    for place, (_, panel) in enumerate(means.groupby("panel", sort=False)):
        assert panel.series.tolist() == ["frontier[start=1]", "frontier", BASELINE]
        assert panel.value.tolist() == pytest.approx([areas[name][place] for name in panel.series])


def test_each_condition_has_a_panel_of_its_own_scenarios():
    """Everybody by the order of the first, and each scenario of a condition pale behind their mean."""
    metric = "tuned_area_over_rollouts"
    areas = {"rloo-prompt-sgd": (1.1, 1.3), "grpo-rollout-adam": (1.2, 1.0)}
    values = [
        {
            "scenario": f"{scenario}[condition={condition}]",
            "allocator": name,
            "metric": metric,
            "replicate": r,
            "value": (factor if name == "frontier" else 1.0) * (1 + r),
        }
        for condition, factors in areas.items()
        for scenario, factor in zip(("lossy-v1", "stale-v1"), factors, strict=True)
        for name in (BASELINE, "frontier")
        for r in range(8)
    ]
    table = ours.conditions(Given(pd.DataFrame(values)))
    assert set(table.panel) == set(areas)
    for condition, factors in areas.items():
        of_one = table[(table.panel == condition) & (table.series == "frontier")]
        assert of_one[of_one.low.isna()].value.tolist() == pytest.approx(factors)
        assert of_one[of_one.low.notna()].value.item() == pytest.approx(np.sqrt(np.prod(factors)))


class Ended(Given):
    """Curves beside the values: everybody gains a point of accuracy for each 10 rollouts, at a factor."""

    FACTORS = dict.fromkeys(ours.ENDING, 2.0) | {BASELINE: 1.0}
    SPECS = "lossy-v1[condition=grpo-rollout-adam]", "stale-v1[condition=grpo-rollout-adam]"

    def __init__(self):
        every = [(spec, name, r) for spec in self.SPECS for name in self.FACTORS for r in range(6)]
        keys = pd.DataFrame(every, columns=["scenario", "allocator", "replicate"])
        super().__init__(keys.assign(metric="tuned_rate", value=np.where(keys.replicate % 2, 0.5, 1.0)))

    def steps(self, study):
        return dict.fromkeys(self.SPECS, 4)

    def table(self, study, name, columns, allocator, scenario):
        keys = self.given[self.given.allocator.isin(allocator) & self.given.scenario.isin(scenario)]
        found = []
        for row in keys.itertuples():
            for rate in (0.5, 1.0):
                steps = np.arange(9)
                rollouts = 10 * steps / self.FACTORS[row.allocator]  # smaller steps, and more of them
                gain = (rate == row.value) * self.FACTORS[row.allocator] * rollouts / 1000
                table = pd.DataFrame({"steps": steps, "rollouts": rollouts, "rate": rate})
                table = table.assign(**{name: gain for name in columns if name != "rollouts"})
                found.append(
                    table.assign(scenario=row.scenario, allocator=row.allocator, replicate=row.replicate)
                )
        return pd.concat(found)


def test_what_is_left_at_the_end_is_at_equal_rollouts_and_own_rates():
    """Uniform's four steps of 10 rollouts are worth 4 points, and to who learns twice as fast 8."""
    table = ours.ends(Ended())
    assert table.groupby("series").x.apply(list).tolist() == [pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])] * 3
    assert set(table.series) == set(ours.ENDING)
    assert np.allclose(table[["value", "low", "high"]], 4.0)


def test_the_geometric_mean_of_twice_and_half_is_one():
    baseline = np.ones((1, 2, 8))
    cube = baseline * np.array([2.0, 0.5])[:, None]
    assert ours.geometric_mean_ratio(cube, baseline) == pytest.approx([1.0])
    drawn = np.broadcast_to(cube[:, :, None], (1, 2, 5, 8))
    assert ours.geometric_mean_ratio(drawn, np.ones_like(drawn)).shape == (1, 5)


def test_who_lacks_a_run_is_left_out_and_changes_nobody_else():
    values = values_of(FACTORS)
    gone = (values.allocator == "dapo") & (values.scenario == "s2")
    found = ours.summary(Given(values[~gone]))
    assert "dapo" not in set(found.series)
    whole = ours.summary(Given(values))
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), whole[whole.series != "dapo"].reset_index(drop=True)
    )


def test_the_band_and_the_line_are_drawn():
    table = ours.summary(Given(values_of(FACTORS))).reset_index(drop=True)
    layout = next(figure.layout for figure in ours.FIGURES if figure.name == "ours_summary")
    for axes, (_, panel) in zip(
        layout.draw(table, ["T"]).axes, table.groupby("panel", sort=False), strict=True
    ):
        (band,) = axes.patches
        oracle = panel[(panel.series == ours.ORACLE) & panel.low.notna()]
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx(
            (oracle.low.item(), oracle.high.item())
        )
        (line,) = (
            line
            for line in axes.get_lines()
            if not line.get_gid() and line.get_ydata()[0] == line.get_ydata()[1]
        )
        assert line.get_ydata()[0] == 1.5  # after vip and dapo
        marks = [len(line.get_xdata()) for line in axes.get_lines() if line.get_gid()]
        assert sorted(marks) == [1] * 5 + [4] * 5


@pytest.mark.parametrize("study", ours.REAL)
def test_language_models_beside_their_simulations(study):
    table = ours.real(Sources())
    told = pd.read_csv(RESULTS / study / "validation" / "validation_allocators.csv")
    told = told[told.allocator != BASELINE].set_index("allocator")
    here = table[table.panel == ours.REAL[study]]
    for kind, column in {"": "real_value", ours.SIMULATED: "value"}.items():
        shown = here[here.series == ours.WHERE[kind]].set_index("x")
        assert set(shown.index) == set(told.index)
        np.testing.assert_allclose(shown.value, told[column][shown.index])
    assert set(table.source) == {OURS}
