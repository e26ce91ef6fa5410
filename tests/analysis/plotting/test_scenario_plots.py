"""Figures of all scenarios plot what pandas computes, and say what it is."""

import numpy as np
import pandas as pd
import pytest
from made_up import ALLOCATORS, SCENARIOS, SUMMARY, made_summary

from rolloutbench.analysis.plotting import scenarios


def cells(figure):
    """Texts of the heat map by place, and its rows and columns."""
    axes = figure.axes[0]
    texts = {}
    for text in axes.texts:
        x, y = text.get_position()
        if x < len(axes.get_xticks()):
            texts[int(y), int(x)] = text
    names = [
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    ]
    return texts, *names


@pytest.mark.parametrize(
    ("metric", "column", "shown"),
    [("rollouts_to_90", "ratio", "{:.2f}"), ("accuracy_at_steps", "difference", "{:+.1f}")],
)
def test_heat_map_holds_ratios_or_points(metric, column, shown):
    figure = scenarios.heat_map(SUMMARY, metric, "made up")
    texts, rows, columns = cells(figure)
    assert columns == list(SCENARIOS)
    table = SUMMARY[SUMMARY.metric == metric].set_index(["allocator", "scenario"])
    centre, scale = (0.0, 100.0) if column == "difference" else (1.0, 1.0)
    for (y, x), text in texts.items():
        row = table.loc[(rows[y], columns[x])]
        value = scale * row[column]
        assert text.get_text().replace("\N{MINUS SIGN}", "-") in (
            shown.format(value), f"{value:+.0f}", "0.0",
        )  # fmt: skip
        inside = row[f"{column}_low"] <= centre <= row[f"{column}_high"]
        assert text.get_fontweight() == ("normal" if inside else "bold")
    assert len(texts) == len(ALLOCATORS) * len(SCENARIOS)


@pytest.mark.parametrize(("metric", "first"), [("rollouts_to_90", "uniform"), ("area_over_steps", "dapo")])
def test_heat_map_has_the_best_on_top_and_in_blue(metric, first):
    figure = scenarios.heat_map(made_summary(metrics=[metric]), metric, "")
    _, rows, _ = cells(figure)
    assert rows[0] == first  # values grow along ALLOCATORS
    mesh = figure.axes[0].collections[0]
    shades = np.asarray(mesh.get_array())
    best, worst = (shades[rows.index(name), 0] for name in ("uniform", "dapo"))
    if first == "dapo":
        assert worst[2] > worst[0]  # it is the best here: more blue than red
    else:
        assert worst[0] > worst[2]
    assert best[:3].min() > 0.95  # uniform against itself


def test_heat_map_shows_what_is_missing():
    missing = SUMMARY[~((SUMMARY.allocator == "dapo") & (SUMMARY.scenario == "warm-v1"))]
    texts, rows, columns = cells(scenarios.heat_map(missing, "rollouts_to_90", ""))
    assert texts[rows.index("dapo"), columns.index("warm-v1")].get_text() == "–"
    texts, _, _ = cells(scenarios.heat_map(SUMMARY, "unsolved_ratio", ""))
    assert {text.get_text() for text in texts.values()} == {"–"}


def test_heat_map_knows_metrics_at_the_best_rate_and_by_difficulty():
    figure = scenarios.heat_map(made_summary(metrics=["tuned_accuracy@0.1"]), "tuned_accuracy@0.1", "")
    expected = (
        "Accuracy on prompts that began around 0.1, each at its own best learning rate, "
        "difference to uniform in points"
    )
    assert figure.caption.startswith(expected)


def test_ranking_draws_half_the_critical_difference_to_both_sides():
    ranks = pd.DataFrame({"allocator": ["dapo", "uniform", "coba"], "mean_rank": [2.5, 1.25, 2.25]})
    figure = scenarios.ranking(ranks, 0.8, "made up")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["uniform", "coba", "dapo"]
    bars = [drawn.get_xdata() for drawn in axes.get_lines() if drawn.get_linewidth() == 1.0]
    np.testing.assert_allclose(bars, [[0.85, 1.65], [1.85, 2.65], [2.1, 2.9]])
    assert axes.get_xlim() == (1, 3)  # there is no rank beyond
    assert axes.texts[0].get_text() == "critical difference 0.80"
    assert "rank" in axes.get_xlabel()


def test_ranking_of_one_has_no_bars():
    figure = scenarios.ranking(pd.DataFrame({"allocator": ["uniform"], "mean_rank": [1.0]}), np.nan, "")
    assert figure.axes[0].texts[:] == []


def test_profiles_are_shares_of_runs():
    rng = np.random.default_rng(0)
    values = pd.DataFrame(
        [
            {"scenario": s, "allocator": a, "replicate": r, "metric": metric, "value": rng.gamma(4.0)}
            for s in ("one", "two")
            for a in ("uniform", "vip", "dapo")
            for r in range(6)
            for metric in ("area_over_rollouts", "rollouts_to_50")
        ]
    )
    for metric, sign in (("area_over_rollouts", 1), ("rollouts_to_50", -1)):
        axes = scenarios.profiles(values, metric, "conditions").axes[0]
        line = next(line for line in axes.get_lines() if line.get_label() == "vip")
        x, y = line.get_data()
        here = values[values.metric == metric].set_index(["allocator", "scenario"]).value
        scores = [v / here["uniform", s].mean() for s in ("one", "two") for v in here["vip", s]]
        expected = [np.mean([score**sign >= at for score in scores]) for at in x]
        np.testing.assert_allclose(y, expected)
        assert "uniform" not in [line.get_label() for line in axes.get_lines()]
        assert len(axes.collections) == 2  # the bands
        assert axes.get_xlabel().startswith("times as good as uniform")
