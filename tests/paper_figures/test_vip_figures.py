"""VIP's figures: where mathematics fixes a number, and what their tables make of a study."""

import numpy as np
import pandas as pd
import pytest
from given import Given
from scipy import stats

from paper_figures import vip, vip_theory
from paper_figures.drawing import COLUMNS, OURS, PUBLISHED
from paper_figures.sources import Sources, published
from rolloutbench.analysis.statistics import mean_interval, ratio_interval

QUICK = Sources(quick=True)


def of(table, panel, series, source=OURS):
    rows = table[(table.panel == panel) & (table.series == series) & (table.source == source)]
    assert len(rows)
    return rows


@pytest.mark.parametrize("module", [vip, vip_theory])
def test_names(module):
    assert all(figure.name.startswith("vip_") for figure in module.FIGURES)
    assert not {figure.name for figure in vip.FIGURES} & {figure.name for figure in vip_theory.FIGURES}


# Figure 2


def test_figure_2_against_what_was_printed():
    table = vip_theory.figure_2(QUICK)
    printed = published("vip", "fig2").set_index("method")["value"]
    real = "Theorems 5.1 and 5.2, real numbers"
    for method, series in (("vip", "L + (C - BL) a / sum(a)"), ("dr_grpo", "Dr. GRPO"), ("rloo", "RLOO")):
        half = np.array(printed[method].split(";"), dtype=float)
        counts = of(table, real, series).value.to_numpy()
        assert counts == pytest.approx(np.concatenate([half, half[::-1]]), abs=0.01)
        assert counts.sum() == pytest.approx(256)
    p = vip_theory.P
    assert vip_theory.printed_rule(p) == pytest.approx(4 + 77.14 * p * (1 - p), abs=0.001)
    for method in ("inverse_accuracy", "inverse_variance"):
        counts = of(table, method.replace("_", " "), "linear program (code)").value
        assert counts.tolist() == [float(count) for count in printed[method].split(";")]
    whole = table[table.series.isin(["proportional (text)"]) | (table.panel == "exact optimum in integers")]
    for _, counts in whole.groupby(["panel", "series"]).value:
        assert counts.sum() == 256
        assert counts.between(4, 32).all()
        assert (counts % 1 == 0).all()


def test_integers_are_next_to_the_theorems():
    table = vip_theory.figure_2(QUICK)
    for name in ("Dr. GRPO", "RLOO"):
        real = of(table, "Theorems 5.1 and 5.2, real numbers", name).value.to_numpy()
        assert np.abs(of(table, "exact optimum in integers", name).value.to_numpy() - real).max() < 1


# Table 4


def test_table_4_sums_to_the_published_step():
    table = vip_theory.table_4(QUICK)
    step = of(table, "time", "measured here", PUBLISHED).set_index("x").value
    assert step[vip_theory.WHOLE] == pytest.approx(3672.78)
    share = of(table, "share of the published step", "measured here", PUBLISHED).set_index("x").value
    extra = share[["allocation: SLSQP, as released", "GP: as printed", "GP: kernel matrix, cached"]].sum()
    assert extra == pytest.approx(1.13, abs=0.01)  # the paper says 1.12
    ours = table[table.source == OURS].set_index(["panel", "x"])
    timed = ours[ours.low.notna()]
    assert (timed.low <= timed.value).all()
    assert (timed.value <= timed.high).all()
    assert ours.loc[("time", "allocation: SLSQP, as released"), "value"] > 1


# Propositions


@pytest.mark.parametrize("p", [0.1, 0.5, 0.83])
def test_closed_forms(p):
    n = np.arange(2, 20)
    mixed = 1 - p**n - (1 - p) ** n
    for name, expected in (
        ("Dr. GRPO", (n - 1) / n**2 * 4 * p * (1 - p)),
        ("RLOO", 4 * p * (1 - p) / (n - 1)),
        ("GRPO", (n - 1) / n**2 * mixed),
    ):
        assert vip_theory.closed_form(name, p, n) == pytest.approx(expected, rel=1e-5)


def test_simulations_meet_the_propositions():
    table = vip_theory.propositions(QUICK)
    simulated = table[table.series.str.endswith("[simulated]")]
    lines = table.assign(series=table.series + "[simulated]")
    both = simulated.merge(lines, on=["panel", "series", "x"], suffixes=("", "_line"))
    assert len(both) == len(simulated) == 9 * (3 + 3 + 2)
    standard = (both.high - both.low) / 2 / stats.t.ppf(0.975, 63)
    off = np.abs(both.value - both.value_line) / standard
    assert off.max() < 4.5  # standard errors, of 72 numbers
    assert (off < 2).mean() > 0.85


def test_where_the_assumption_fails():
    table = vip_theory.assumption(QUICK)
    for panel in ("RLOO and Dr. GRPO", "GRPO"):
        holds = of(table, panel, "Assumption 4.1 holds").value
        assert holds.to_numpy() == pytest.approx(np.ones(len(holds)), abs=0.1)
        wider = of(table, panel, "Var(Z) fourfold where solved").set_index("x").value
        assert wider[0.02] < 0.5
        assert wider[0.98] > 2
        # Successes and failures are alike at one half: what is too much for one is missing for the other.
        assert wider[0.5] == pytest.approx(1, abs=0.05)


def test_rewards_of_other_kinds():
    table = vip_theory.other_rewards(QUICK)
    wide = table.pivot(index=["panel", "x"], columns="series", values="value")
    same = wide.index.get_level_values("x") == "tests passed together as often in all prompts"
    plugged, true = wide["mean (1 - mean)"], wide["Var(R)"]
    assert true[same].tolist() == pytest.approx(plugged[same].tolist())  # proportional to each other
    assert (true[~same] < plugged[~same]).all()
    assert (plugged < 1).all()


# From studies


def test_figure_3():
    steps, replicates = np.arange(1, 67), np.arange(8)
    rng = np.random.default_rng(0)
    frames = []
    for scenario, _ in vip.STARTS.values():
        for predictor in vip.PREDICTORS.values():
            grid = pd.MultiIndex.from_product([steps, replicates], names=["steps", "replicate"]).to_frame(
                index=False
            )
            frames.append(
                grid.assign(scenario=scenario, predictor=predictor, mae=rng.random(len(grid)).round(3))
            )
    judged = pd.concat(frames)
    sources = Given(judged=judged)
    panel, (scenario, model) = next(iter(vip.STARTS.items()))
    here = judged[(judged.scenario == scenario) & (judged.predictor == "ridge")]
    row = of(vip.figure_3(sources), panel, "ridge").iloc[4]
    expected = mean_interval(here[here.steps == 5].mae.to_numpy())
    assert (row.x, row.value, row.low, row.high) == pytest.approx((5, *expected))
    means = vip.figure_3_means(sources)
    row = of(means, f"{panel}, steps 28 to 55", "ridge").iloc[0]
    late = here[here.steps.between(28, 55)].groupby("replicate").mae.mean().to_numpy()
    assert (row.value, row.low, row.high) == pytest.approx(tuple(mean_interval(late)))
    grey = of(means, f"{panel}, steps 28 to 55", "ridge", PUBLISHED)
    assert (model, grey.value.tolist()) == ("Qwen2.5-Math-1.5B", [0.1789])


def test_published_means_are_those_of_the_curves():
    curves = published("vip", "fig3")
    for _, (first, last) in vip.PHASES.items():
        for (model, method), line in curves[curves.metric == "success_rate_mae"].groupby(
            ["setting", "method"]
        ):
            mean = line[line.x.between(first, last)].value.astype(float).mean()
            said = curves[(curves.setting == f"{model} steps {first}-{last}") & (curves.method == method)]
            assert float(said.value.iloc[0]) == pytest.approx(mean, abs=2e-4)


def trained(scenarios, allocators, replicates=4):
    """Curves with known growth: allocator a learns (a + 1) / 1000 a step and solves half of its rollouts."""
    frames = []
    for scenario in scenarios:
        for a, allocator in enumerate(allocators):
            for replicate in range(replicates):
                steps = np.arange(0, 100 + 3 * a, 3.0)  # some are followed for longer
                frames.append(
                    pd.DataFrame(
                        {
                            "scenario": scenario,
                            "allocator": allocator,
                            "rate": 1.0,
                            "replicate": replicate,
                            "steps": steps,
                            "rollouts": 1024 * steps,
                            "rewarded": 512 * steps,
                            "groups": 128 * steps,
                            "deviation": 32 * steps,
                            "accuracy": 0.1 + (a + 1) / 1000 * steps + replicate / 100,
                        }
                    )
                )
    return pd.concat(frames)


def test_figures_6_and_7():
    sources = Given(curves=trained(vip.WEAK.values(), vip.TRAINED))
    table = vip.figure_6(sources)
    assert of(table, "reward of a training batch, 8 per prompt", "vip").value.tolist() == [0.5] * 22
    assert of(table, "spread of a group's rewards, 16 per prompt", "vip").value.tolist() == [0.25] * 22
    ahead = of(table, "held-out gain over uniform, 8 per prompt", vip.TRAINED[3])
    assert ahead.value.to_numpy() == pytest.approx(0.3 * ahead.x.to_numpy())
    assert (ahead.high - ahead.low).to_numpy() == pytest.approx(np.zeros(23))  # paired
    grey = of(table, "reward of a training batch, 16 per prompt", vip.PRINTED, PUBLISHED)
    rewards = published("vip", "fig6")
    rewards = rewards[(rewards.metric == "mean_reward") & (rewards.method == "vip")]
    last = float(rewards[rewards.setting.str.endswith("@16Q")].value.iloc[-1])
    assert (2 * grey.value.iloc[-1] - 1, last) == pytest.approx((-0.250, -0.250), abs=5e-4)
    assert len(of(vip.figure_7(sources), "AIME25@16 (published)", vip.PRINTED, PUBLISHED)) == 22


def measured(metrics, scenarios, allocators, replicates=8):
    rng = np.random.default_rng(1)
    keys = pd.MultiIndex.from_product(
        [scenarios, ["uniform", *allocators], metrics, range(replicates)],
        names=["scenario", "allocator", "metric", "replicate"],
    ).to_frame(index=False)
    return keys.assign(value=rng.random(len(keys)) + 0.5)


def test_table_1_and_3():
    values = measured(
        ["accuracy_at_rollouts", "area_over_rollouts", "rollouts_to_90"],
        [*vip.WEAK.values(), *vip.U_SHAPED.values()],
        vip.GRID,
    )
    sources = Given(per_replicate=values)
    table = vip.table_1(sources, "accuracy_at_rollouts", "mean@32")
    wide = values[(values.scenario == vip.WEAK[16]) & (values.metric == "accuracy_at_rollouts")].pivot(
        index="allocator", columns="replicate", values="value"
    )
    row = of(table, "Dr. GRPO, 16", "vip").iloc[0]
    expected = mean_interval(100 * (wide.loc["vip"] - wide.loc["uniform"]).to_numpy())
    assert (row.value, row.low, row.high) == pytest.approx(tuple(expected))
    grey = of(table, "RLOO, 8", vip.PRINTED, PUBLISHED).set_index("x").value
    assert grey["Qwen2.5-Math-1.5B, AIME24"] == pytest.approx(9.68 - 3.43)
    assert grey["Qwen2.5-Math-7B, AIME25"] == pytest.approx(0)
    assert len(grey) == 6
    assert len(table[table.source == PUBLISHED]) == 24
    gains = of(vip.table_3(sources), "weak start: accuracy", vip.PRINTED, PUBLISHED).value.tolist()
    assert gains == pytest.approx([9.68 - 3.43, 6.35 - 2.29])
    assert of(vip.table_2(sources), "RLOO, 8", vip.PRINTED, PUBLISHED).value.tolist() == pytest.approx(
        [7.2, 2.5]
    )
    row = of(vip.table_1_rollouts(sources), "weak, Dr. GRPO, 16", "vip").iloc[0]
    wide = values[(values.scenario == vip.WEAK[16]) & (values.metric == "rollouts_to_90")].pivot(
        index="allocator", columns="replicate", values="value"
    )
    expected = ratio_interval(wide.loc["vip"].to_numpy(), wide.loc["uniform"].to_numpy())
    assert (row.value, row.low, row.high) == pytest.approx(tuple(expected))


def test_published_gains_are_those_of_the_notes():
    """Over Table 1: 60 of 72 cells better, 9 worse; mean gain in mean@32 2.86 and 1.26 points."""
    table = published("vip", "table1")
    gains = {
        metric: pd.concat(
            vip.gain(table[table.method.str.startswith(base)], base, f"{base}+vip", metric)
            for base in ("dr_grpo", "rloo")
        )
        for metric in table.metric.unique()
    }
    everything = pd.concat(gains.values())
    assert len(everything) == 72
    assert ((everything > 1e-9).sum(), (everything < -1e-9).sum()) == (60, 9)
    mean = gains["mean@32"].groupby(lambda setting: setting[-6:]).mean()
    assert mean.to_dict() == pytest.approx({"AIME24": 2.86, "AIME25": 1.26}, abs=0.005)


def test_tables_5_to_8():
    table = vip.tables_5_to_8(QUICK)
    ours = table[table.source == OURS]
    assert len(ours) == 3 * (2 + 2 + 1 + 1)
    assert ours.value.between(vip.LEAST, 0.05).all()
    grey = of(table, "Levene, Table 7", "Var|z|", PUBLISHED)
    assert grey.value.tolist() == [0.2705, 0.4785, 0.3847]
    assert (table[table.source == PUBLISHED].value > 0.05).all()


def test_next_checks():
    values = measured(
        ["area_over_rollouts"],
        [*vip.CHECKS, *vip.POOLS],
        list(dict.fromkeys([*vip.RIVALS, *vip.RIVALS_OF_MANY])),
    )
    sources = Given(per_replicate=values)
    table = vip.next_checks(sources)
    assert table.panel.unique().tolist() == list(vip.CHECKS.values())
    assert table.x.unique().tolist() == vip.RIVALS
    assert len(vip.million(sources)) == 2 * 6
    assert list(table) == list(COLUMNS)
