"""Figures of rollouts and of seconds spent: bars, whiskers and numbers are those of the table."""

import numpy as np
import pandas as pd
import pytest
from made_up import legend_of
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from rolloutbench.analysis.plotting.costs import PHASES, REACH, cost_breakdown, seconds_split
from rolloutbench.analysis.plotting.panels import save
from rolloutbench.analysis.results import summarise
from rolloutbench.analysis.statistics import mean_interval

ALLOCATORS = ("uniform", "vip", "ar3po[reuse=I]")
TASKS = ("sorting", "addition")
LONG = "sorting[shortest=2,longest=5,pool_size=200,held_out=64,partial=false,threshold=1.0]"
REPLICATES = 4


def made_summary(scenarios=TASKS, allocators=ALLOCATORS, without=(), spread=0.1, replicates=REPLICATES):
    """Seconds differ between replicates by about `spread`; `without` are parts (scenario, allocator)."""
    rng = np.random.default_rng(0)
    rows = []
    for scenario in scenarios:
        for allocator in allocators:
            for replicate in range(replicates):
                if (scenario, allocator) in without:
                    continue
                slow = 1 + spread * rng.standard_normal()
                phases = {phase: slow * rng.uniform(0.1, 1) for phase in PHASES}
                values = {f"seconds_{phase}_per_step": spent for phase, spent in phases.items()}
                values["seconds_per_step"] = sum(phases.values())
                values["tokens_per_second"] = 5000 * rng.uniform(0.5, 1)
                rows += [(scenario, allocator, replicate, *value) for value in values.items()]
    return summarise(pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"]))


def of(summary, scenario, metric):
    here = summary[(summary.scenario == scenario) & (summary.metric == metric)]
    return here.set_index("allocator").reindex(ALLOCATORS)


def test_bars_are_the_phases_end_to_end():
    summary = made_summary()
    figure = seconds_split(summary, "")
    for scenario, axes in zip(TASKS, figure.axes, strict=True):
        edge = np.zeros(len(ALLOCATORS))
        for (phase, color), bars in zip(PHASES.items(), axes.containers[: len(PHASES)], strict=True):
            spent = of(summary, scenario, f"seconds_{phase}_per_step").estimate.to_numpy()
            np.testing.assert_allclose([bar.get_width() for bar in bars], spent)
            np.testing.assert_allclose([bar.get_x() for bar in bars], edge)
            assert {to_hex(bar.get_facecolor()) for bar in bars} == {color}
            edge += spent
        np.testing.assert_allclose(edge, of(summary, scenario, "seconds_per_step").estimate)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(PHASES)


def test_whiskers_are_the_interval_of_the_sum():
    summary = made_summary()
    for scenario, axes in zip(TASKS, seconds_split(summary, "").axes, strict=True):
        (whiskers,) = (drawn for drawn in axes.collections if isinstance(drawn, LineCollection))
        total = of(summary, scenario, "seconds_per_step")
        drawn = np.array([segment[:, 0] for segment in whiskers.get_segments()])
        np.testing.assert_allclose(drawn, total[["low", "high"]])
        assert axes.get_xlim()[0] == 0
        assert axes.get_xlim()[1] > total.high.max()


def test_an_interval_of_few_seeds_does_not_make_the_bars_small():
    summary = made_summary(spread=0.4, replicates=2)
    for scenario, axes in zip(TASKS, seconds_split(summary, "").axes, strict=True):
        total = of(summary, scenario, "seconds_per_step")
        assert total.high.max() > REACH * total.estimate.max()
        assert axes.get_xlim() == pytest.approx((0, REACH * total.estimate.max()))


def test_tokens_per_second_stand_at_the_end_of_each_row():
    summary = made_summary(without=[("addition", "vip")])
    for scenario, axes in zip(TASKS, seconds_split(summary, "").axes, strict=True):
        speeds = of(summary, scenario, "tokens_per_second").estimate
        rows = {text.get_position()[1]: text.get_text() for text in axes.texts if "\n" not in text.get_text()}
        assert rows == {
            place: "not run" if np.isnan(speed) else f"{speed:,.0f}" for place, speed in enumerate(speeds)
        }
    assert rows[1] == "not run"


@pytest.mark.parametrize("replicates", [1, 2])
def test_long_names_and_one_seed_are_drawn_without_a_warning(tmp_path, replicates):
    """Warnings are errors here; a name is folded, not cut."""
    scenarios = (LONG, LONG.replace("sorting", "addition"))
    figure = seconds_split(made_summary(scenarios=scenarios, replicates=replicates), "conditions")
    save(figure, tmp_path, "seconds")
    for scenario, axes in zip(scenarios, figure.axes, strict=True):
        title = axes.get_title(loc="left")
        assert title.replace("\n", "") == scenario
        assert "\n" in title


def test_cost_breakdown_stacks_up_to_all_generated_rollouts():
    values = {"ineffective_ratio": 0.3, "filtered_ratio": 0.2, "held_ratio": 0.1, "wasted_ratio": 0.5}
    values["rollouts_per_step"] = 1000.0
    rng = np.random.default_rng(4)
    rows = [
        (scenario, allocator, replicate, metric, value * rng.uniform(0.9, 1.1))
        for scenario in ("cold-v1", "warm-v1")
        for allocator in ("uniform", "dapo")
        for metric, value in values.items()
        for replicate in range(REPLICATES)
        if (scenario, allocator) != ("warm-v1", "dapo")
    ]
    table = pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"])
    figure = cost_breakdown(summarise(table), "made up")
    means = table.groupby(["scenario", "allocator", "metric"]).value.mean()["cold-v1"]["dapo"]
    axes = figure.axes[0]
    widths = {bars.get_label(): bars[1].get_width() for bars in axes.containers if hasattr(bars, "patches")}
    assert sum(widths.values()) == pytest.approx(1.0)
    assert widths["filtered groups"] == pytest.approx(means["filtered_ratio"])
    parts = means[["ineffective_ratio", "filtered_ratio", "held_ratio"]].sum()
    assert widths["effective: trained, both rewards"] == pytest.approx(1 - parts)
    assert axes.texts[1].get_text().startswith(f"{means['rollouts_per_step']:.0f} ±")
    assert figure.axes[1].texts[1].get_text() == "not run"
    assert axes.get_xlim() == (0, 1)
    assert figure.axes[1].get_xlabel() == "share of generated rollouts"
    assert legend_of(figure) == [
        "effective: trained, both rewards", "held in buffers", "trained, equal rewards", "filtered groups",
    ]  # fmt: skip
    whisker = axes.collections[0].get_segments()[1][:, 0]
    wasted = table[
        table.metric.eq("wasted_ratio") & table.allocator.eq("dapo") & table.scenario.eq("cold-v1")
    ]
    expected = mean_interval(wasted.value.to_numpy())
    np.testing.assert_allclose(sorted(whisker), [1 - expected.high, 1 - expected.low])
