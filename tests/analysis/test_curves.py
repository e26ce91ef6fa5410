import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rolloutbench.analysis.curves import HORIZON, REFERENCE, across_scenarios, learning_metrics
from rolloutbench.analysis.metrics import (
    LEARNING_METRICS,
    METRICS,
    TRAINING_METRICS,
    Metric,
    describe,
    untuned,
)
from rolloutbench.cells.collectors import (
    DISCARDED,
    CountsBySuccess,
    Totals,
    accuracy_by_bin,
)
from rolloutbench.environment import Ledger
from rolloutbench.protocol import Groups, Outcomes, Reuse

SUMS = ("trained", "held", "ineffective", "stages", "prompts", "groups", "effective", "unsolved")
SUMS += ("deviation", "asked", "solved", "rewarded")
SUMS += ("unsolved_after_reuse", "discarded_other", *(f"discarded_{name}" for name in DISCARDED))


def curve(allocator, accuracy, per_step=10.0, scenario="s", replicate=0, rate=1.0, every=1):
    """One run: `accuracy` at every evaluation, `per_step` rollouts a step, 2 s and 7 tokens a rollout."""
    steps = every * np.arange(len(accuracy), dtype=float)
    rollouts = per_step * steps
    table = pd.DataFrame(
        {
            "scenario": scenario,
            "allocator": allocator,
            "rate": rate,
            "replicate": replicate,
            "steps": steps,
            "rollouts": rollouts,
            "tokens": 7 * rollouts,
            "seconds": 2 * rollouts,
            "accuracy": accuracy,
            "pass_at_8": np.minimum(1, 2 * np.asarray(accuracy)),
            "accuracy@0.1": accuracy,
            "cosine": [np.nan, *np.full(len(accuracy) - 1, 0.5)],
            "counts@0.025": per_step,
        }
    )
    return table.assign(**dict.fromkeys(SUMS, 0.0)).assign(
        trained=rollouts, groups=steps, effective=steps / 2
    )


def measured(*runs, steps=4, metrics=LEARNING_METRICS):
    table = learning_metrics(pd.concat(runs, ignore_index=True), {"s": steps}, metrics)
    return table.pivot(index="metric", columns=["allocator", "replicate"], values="value")


STRAIGHT = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]  # the reference gains .4 in 4 steps
REFERENCE_RUN = curve(REFERENCE, STRAIGHT)


def test_a_straight_line():
    values = measured(REFERENCE_RUN, curve("uniform", STRAIGHT))["uniform"][0]
    assert values["rollouts_to_50"] == pytest.approx(20)
    assert values["rollouts_to_90"] == pytest.approx(36)
    assert values["seconds_to_50"] == pytest.approx(40)
    assert values["tokens_to_90"] == pytest.approx(252)
    assert values["steps_to_50"] == pytest.approx(2)
    assert values["reached_by_rollouts_90"] == 1
    assert values["area_over_rollouts"] == pytest.approx(0.2)
    assert values["accuracy_at_rollouts"] == pytest.approx(0.6)
    assert values["accuracy_at_seconds"] == pytest.approx(0.6)
    assert values["pass_at_8"] == pytest.approx(1.0)
    assert values["accuracy@0.1"] == pytest.approx(0.6)
    assert values["cosine"] == pytest.approx(0.5)
    assert values["effective_ratio"] == pytest.approx(0.5)


def test_who_pays_twice_a_step_is_read_against_what_it_paid():
    values = measured(REFERENCE_RUN, curve("greedy", STRAIGHT, per_step=20.0))["greedy"][0]
    assert values["rollouts_to_50"] == pytest.approx(40)
    assert values["steps_to_50"] == pytest.approx(2)
    assert values["accuracy_at_rollouts"] == pytest.approx(0.4)
    assert values["accuracy_at_steps"] == pytest.approx(0.6)
    assert values["rollouts_per_step"] == 20


def test_who_does_not_arrive_counts_as_arriving_at_the_horizon():
    values = measured(REFERENCE_RUN, curve("slow", [0.2] * 7))["slow"][0]
    assert values["rollouts_to_50"] == HORIZON * 40
    assert values["reached_by_rollouts_50"] == 0
    assert values["area_over_rollouts"] == 0


def test_a_run_that_ended_early_is_missing_not_slow():
    values = measured(REFERENCE_RUN, curve("broken", [0.2, 0.4, 0.45]))["broken"][0]
    assert values["rollouts_to_50"] == pytest.approx(10)  # it got there before it ended
    assert np.isnan(values["rollouts_to_90"])
    assert np.isnan(values["reached_by_rollouts_90"])
    assert np.isnan(values["accuracy_at_rollouts"])


def test_who_has_no_prompts_left_keeps_what_it_has():
    """Its rollouts stand still; so does its accuracy, for as many rollouts as the others pay for."""
    resting = curve("resting", [0.2, 0.3, 0.4, 0.4, 0.4])
    resting.loc[2:, ["rollouts", "tokens", "seconds"]] = resting.loc[
        2, ["rollouts", "tokens", "seconds"]
    ].to_numpy()
    values = measured(REFERENCE_RUN, resting)["resting"][0]
    assert values["accuracy_at_rollouts"] == pytest.approx(0.4)
    assert values["area_over_rollouts"] == pytest.approx((0.1 * 2 + 0.2 * 2) / 4)
    assert values["rollouts_to_90"] == HORIZON * 40
    assert values["reached_by_rollouts_90"] == 0


def test_replicates_may_end_at_different_steps():
    runs = [curve(name, STRAIGHT, replicate=r) for r in (0, 1) for name in (REFERENCE, "uniform")]
    longer = [curve("x", STRAIGHT, replicate=0), curve("x", [*STRAIGHT, 0.9], replicate=1)]
    values = measured(*runs, *longer)["x"]
    assert values.loc["area_over_rollouts"].tolist() == pytest.approx([0.2, 0.2])


def test_targets_are_those_of_each_replicate():
    flat = [0.5 + 0.1 * (a - 0.2) for a in STRAIGHT]
    runs = [curve(n, y, replicate=r) for r, y in ((0, STRAIGHT), (1, flat)) for n in (REFERENCE, "uniform")]
    assert measured(*runs)["uniform"].loc["rollouts_to_50"].tolist() == pytest.approx([20, 20])


def test_own_best_learning_rate_is_chosen_on_the_other_half():
    """Rate 2 is best for even replicates, rate 1 for odd ones: each half gets the other's choice."""
    fast, slow = STRAIGHT, [0.2 + 0.5 * (a - 0.2) for a in STRAIGHT]
    runs = [curve(REFERENCE, STRAIGHT, replicate=r) for r in range(4)]
    runs += [curve("x", slow if r % 2 == 0 else fast, replicate=r) for r in range(4)]
    runs += [curve("x", fast if r % 2 == 0 else slow, replicate=r, rate=2.0) for r in range(4)]
    values = measured(*runs)["x"]
    assert values.loc["tuned_rate"].tolist() == [1, 2, 1, 2]
    assert values.loc["tuned_area_over_rollouts"].tolist() == pytest.approx([0.1] * 4)
    assert values.loc["area_over_rollouts"].tolist() == pytest.approx([0.1, 0.2, 0.1, 0.2])


def test_every_metric_is_described():
    table = learning_metrics(
        pd.concat(
            [REFERENCE_RUN, curve("u", STRAIGHT), curve("u", STRAIGHT, rate=2.0)]
            + [curve(n, STRAIGHT, replicate=1, rate=r) for n, r in ((REFERENCE, 1.0), ("u", 1.0), ("u", 2.0))]
        ),
        {"s": 4},
        LEARNING_METRICS,
    )
    assert all(describe(name).meaning for name in table.metric.unique())
    families = {name for name, metric in LEARNING_METRICS.items() if metric.is_family}
    assert set(LEARNING_METRICS) - families <= set(table.metric)
    assert {f"{untuned(name).partition('@')[0]}@" for name in table.metric if "@" in name} == families
    assert set(LEARNING_METRICS) <= set(METRICS)


def test_a_metric_is_declared_in_one_place():
    """Any function of what was measured is a formula; nothing else is to be told of a new metric."""
    mine = Metric("mine", "label", "", None, "meaning", lambda run: run.sums["trained"] - run.sums["groups"])
    table = measured(REFERENCE_RUN, curve("u", STRAIGHT), metrics={**LEARNING_METRICS, "mine": mine})
    assert table.loc["mine", "u"].tolist() == [36.0]


def long_form(cube, names, metric="area_over_rollouts"):
    return pd.DataFrame(
        [
            {"scenario": f"s{s}", "allocator": name, "replicate": r, "metric": metric, "value": cube[a, s, r]}
            for a, name in enumerate(names)
            for s in range(cube.shape[1])
            for r in range(cube.shape[2])
        ]
    )


@pytest.mark.parametrize("metric", ["area_over_rollouts", "rollouts_to_50"])
def test_across_scenarios_against_plain_loops(metric):
    cube = np.random.default_rng(0).gamma(4.0, size=(3, 4, 12))
    cube[2] *= 1.3
    names = ["uniform", "even", "more"]
    ranking, critical = across_scenarios(long_form(cube, names, metric), metric)
    sign = -1 if metric == "rollouts_to_50" else 1
    ranks = np.mean([stats.rankdata(-sign * cube[:, s].mean(axis=1)) for s in range(4)], axis=0)
    by_name = ranking.set_index("allocator")
    for a, name in enumerate(names):
        row = by_name.loc[name]
        assert row.mean_rank == pytest.approx(ranks[a])
        wins = [
            float(sign * cube[a, s, r] > sign * cube[0, s, r]) + 0.5 * float(cube[a, s, r] == cube[0, s, r])
            for s in range(4)
            for r in range(12)
        ]
        assert row.better == pytest.approx(np.mean(wins))
        ratio = np.mean([cube[a, s].mean() / cube[0, s].mean() for s in range(4)])
        assert row.ratio == pytest.approx(ratio)
        assert row.ratio_low <= ratio <= row.ratio_high
        robust = [stats.trim_mean(cube[a, s], 0.25) / stats.trim_mean(cube[0, s], 0.25) for s in range(4)]
        assert row.iqm_ratio == pytest.approx(np.mean(robust))
    assert by_name.loc["uniform", ["ratio_low", "ratio_high"]].tolist() == [1, 1]
    assert list(ranking.mean_rank) == sorted(ranks)
    assert critical == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 4)), rel=1e-3)


def test_one_scenario_and_one_allocator():
    ranking, critical = across_scenarios(long_form(np.ones((1, 1, 4)), ["uniform"]), "area_over_rollouts")
    assert ranking.mean_rank.tolist() == [1]
    assert ranking.better.tolist() == [0.5]
    assert np.isnan(critical)


def test_counts_by_success():
    counts = CountsBySuccess(2)
    p = np.array([[0.01, 0.99, 0.5], [0.01, 0.01, 1.0]])
    counts.add(p, np.array([[2, 4, 0], [1, 3, 7]]))
    counts.add(p, np.array([[4, 4, 0], [0, 0, 9]]))
    columns = counts.columns()
    assert columns["counts@0.025"].tolist() == [3.0, 2.0]
    assert columns["counts@0.975"].tolist() == [4.0, 8.0]
    assert np.isnan(columns["counts@0.525"]).all()
    assert np.isnan(counts.columns()["counts@0.025"]).all()  # taken, and begun anew


def test_totals_and_ledger():
    ledger, totals = Ledger(1, 4), Totals(1)
    prompts = np.array([[0, 1, 2, -1]])
    ledger.record(Outcomes(np.array([[0, 1, 2, 3]]), np.array([[4, 4, 4, 4]]), np.array([[2, 0, 4, 1]])))
    groups = Groups(
        prompts,
        np.array([[2, 0, 4, 0]]),
        np.array([[2, 3, 0, 0]]),
        np.ones((1, 4)),
        reused=Reuse(np.array([[0, 1, 0, 0]]), np.array([[0, 2, 0, 0]]), "I"),
        discarded={"surplus": np.array([4]), "by_whim": np.array([0])},
    )
    ledger.solved[0, 1] = True
    ledger.use(groups)
    totals.add(groups, ledger.step_merged)
    columns = {name: float(value[0]) for name, value in totals.columns(ledger).items()}
    assert columns["rollouts"] == 16
    assert columns["trained"] == 11
    assert columns["discarded_surplus"] == 4
    assert columns["discarded_other"] == 0
    assert columns["held"] == 1
    assert columns["groups"] == 3
    assert columns["effective"] == 2  # the reused success makes one of them mixed
    assert columns["unsolved"] == 1
    assert columns["unsolved_after_reuse"] == 0
    assert columns["ineffective"] == 4
    assert columns["deviation"] == pytest.approx(0.5)  # one group of 2 and 2; the others have one reward
    assert columns["asked"] == 4
    assert columns["solved"] == 1
    assert columns["rewarded"] == 7


def test_accuracy_by_bin():
    p, initial = np.array([[0.5, 0.7, 0.9]]), np.array([[0.1, 0.15, 1.0]])
    found = accuracy_by_bin(p, initial)
    assert found["accuracy@0.1"][0] == pytest.approx(0.6)
    assert found["accuracy@0.9"][0] == pytest.approx(0.9)
    assert np.isnan(found["accuracy@0.5"][0])


def test_the_costs_of_a_run_that_made_fewer_steps_are_those_of_the_steps_it_made():
    """As a real run does whose steps are dear: it is followed by rollouts, not by steps."""
    dear = curve("dear", STRAIGHT[:3], per_step=30.0)
    values = measured(REFERENCE_RUN, dear)["dear"][0]
    assert values["rollouts_per_step"] == 30
    assert values["trained_per_step"] == 30
    assert values["seconds_per_step"] == 60
    assert np.isnan(values["accuracy_at_steps"])  # what was not reached stays unknown


def test_phases_of_a_real_run():
    phases = {"seconds_generation": 3.0, "seconds_update": 1.0, "unverified": 0.5}
    phases |= {"seconds_verification": 0.0, "seconds_allocation": 0.0}
    runs = [
        run.assign(**{k: v * run.steps for k, v in phases.items()})
        for run in (REFERENCE_RUN, curve("u", STRAIGHT))
    ]
    values = measured(*runs, metrics=TRAINING_METRICS)["u"][0]
    assert values["seconds_generation_per_step"] == 3
    assert values["seconds_update_per_step"] == 1
    assert values["tokens_per_second"] == pytest.approx(70 / 3)
    assert values["unverified_ratio"] == pytest.approx(0.05)
