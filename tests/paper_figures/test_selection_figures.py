"""Figures of DAPO, Reinforce-Ada, CoBA-RL and Knapsack: what mathematics fixes, and how tables are made."""

import numpy as np
import pandas as pd
import pytest

from paper_figures import coba_rl, dapo, knapsack, reinforce_ada
from paper_figures.drawing import OURS, PUBLISHED
from paper_figures.sources import Sources
from rolloutbench.allocators.coba import CoBA
from rolloutbench.cells.collectors import BASELINE


class Given(Sources):
    """A study whose values are handed over: one scenario, by metric and allocator, a row of replicates."""

    spec = "weak-cold-v1[steps=150]"

    def __init__(self, **values):
        super().__init__(quick=True)
        self.found = pd.concat(
            pd.DataFrame(
                {
                    "scenario": self.spec,
                    "allocator": allocator,
                    "replicate": range(len(row)),
                    "metric": metric,
                    "value": row,
                }
            )
            for metric, by_allocator in values.items()
            for allocator, row in by_allocator.items()
        )

    def steps(self, study):
        return {self.spec: 150}

    def values(self, study, *metrics):
        return self.found[self.found.metric.isin(metrics)].reset_index(drop=True)


def of(table, panel, x, source=OURS, series=None):
    here = (table.panel == panel) & (table.x == x) & (table.source == source)
    return table[here if series is None else here & (table.series == series)]


def test_dynamic_sampling_in_points_paired_with_uniform():
    base = np.array([0.1, 0.3, 0.5])
    by_allocator = {BASELINE: base, **dict.fromkeys(dapo.DYNAMIC, base + 0.02)}
    table = dapo.gains(Given(**dict.fromkeys(dapo.EQUAL, by_allocator)))
    ours = of(table, "weak start", "equal rollouts")
    assert list(ours.series) == list(dapo.DYNAMIC)
    np.testing.assert_allclose(ours[["value", "low", "high"]], 2)
    published = table[table.source == PUBLISHED]
    assert sorted(published.value) == [2, 8]  # verl's reproduction, and the paper's Table 1


@pytest.mark.parametrize("p", [0.02, 0.2, 0.5, 0.9])
def test_expected_rollouts_of_reinforce_ada(p):
    drawn = np.random.default_rng(0).random((40_000, reinforce_ada.ROUNDS, reinforce_ada.GROUP)) < p
    successes = drawn.sum(axis=2).cumsum(axis=1)
    failures = reinforce_ada.GROUP * np.arange(1, reinforce_ada.ROUNDS + 1) - successes
    for expected, left in (
        (reinforce_ada.expected_positive, successes >= 1),
        (reinforce_ada.expected_balance, (successes >= 4) & (failures >= 4)),
    ):
        rounds = 1 + (~left[:, :-1]).sum(axis=1)
        cost = reinforce_ada.GROUP * rounds
        error = cost.std() / np.sqrt(len(cost))
        assert abs(expected(np.array([p]))[0] - cost.mean()) < 4 * error + 1e-3


def test_the_u_of_balance():
    p = np.linspace(0, 1, 101)
    cost = reinforce_ada.expected_balance(p)
    np.testing.assert_allclose(cost, cost[::-1])
    assert cost[0] == cost[-1] == 32
    assert p[cost.argmin()] == 0.5
    positive = reinforce_ada.expected_positive(p)
    assert (positive[0], positive[-1]) == (32, 8)
    assert (np.diff(positive) <= 0).all()


def test_published_gains_of_reinforce_ada_are_over_groups_of_four():
    names = [reinforce_ada.QUARTER, *reinforce_ada.COMPARED]
    by_allocator = {name: np.array([0.2, 0.4]) + 0.01 * i for i, name in enumerate(names)}
    table = reinforce_ada.accuracy(Given(**dict.fromkeys(reinforce_ada.EQUAL, by_allocator)))
    published = of(table, "weak start, equal steps", "seq, balance", PUBLISHED)
    assert published.value.item() == pytest.approx(2.3)
    assert of(table, "weak start, equal rollouts", "seq, balance", PUBLISHED).empty
    place = names.index(reinforce_ada.BALANCE)
    assert of(table, "weak start, equal rollouts", "seq, balance").value.item() == pytest.approx(place)


@pytest.mark.parametrize(("failures", "published"), [(0.72, 7.26), (0.449, 4.50), (0.31, 2.54)])
def test_alpha_takes_the_published_values(failures, published):
    assert coba_rl.METHOD.alpha(np.array(failures)) == pytest.approx(published, abs=0.03)
    method = CoBA()
    method._failures = np.full((method.window, 1), failures)
    assert method._alpha() == pytest.approx(coba_rl.METHOD.alpha(np.array([failures])))


def test_coba_values_peak_where_the_failure_rate_says():
    table = coba_rl.values(Sources())
    weights = table[table.panel == coba_rl.WEIGHT]
    for name, rate in coba_rl.RATES.items():
        curve = weights[weights.series == name]
        mode = (float(coba_rl.METHOD.alpha(np.array(rate))) - 1) / (coba_rl.METHOD.kappa - 2)
        assert curve.x[curve.value.idxmax()] == pytest.approx(mode, abs=0.01)
    half = table[(table.panel == coba_rl.VALUE) & (table.series == "p = 0.5") & (table.x == 8)]
    assert half.value.item() == pytest.approx(1 - np.exp(-2))


def test_one_allocation_is_timed():
    table = coba_rl.seconds(Sources(quick=True))
    greedy = of(table, "one allocation", "greatest gains first")
    assert (greedy.low <= greedy.value).all()
    assert (greedy.value <= greedy.high).all()
    program = of(table, "one allocation", "dynamic program")
    assert program.value.item() > 0
    assert sorted(table[table.source == PUBLISHED].value) == [0.124, 115]


@pytest.mark.parametrize(("name", "peak"), [(knapsack.LIMIT, 1 / 3), ("n = 2", 2 / 5), ("n = 128", 1 / 3)])
def test_knapsack_values_peak(name, peak):
    table = knapsack.values(Sources())
    curve = table[(table.panel == knapsack.VALUE) & (table.series == name)]
    assert curve.x[curve.value.idxmax()] == pytest.approx(peak, abs=0.006)
    if name == knapsack.LIMIT:
        assert curve.value.max() == pytest.approx(4 / 27, rel=1e-4)


def test_useful_rollouts_relative_and_as_a_share():
    useless = {BASELINE: np.array([0.5, 0.5]), "knapsack": np.array([0.25, 0.25])}
    accuracy = {BASELINE: np.array([0.5, 0.6]), "knapsack": np.array([0.51, 0.61])}
    table = knapsack.gain(Given(ineffective_ratio=useless, accuracy_at_steps=accuracy))
    measured = [of(table, panel, "weak start").value.item() for panel in knapsack.GAINS]
    assert measured == pytest.approx([50, 25, 1])
    assert sorted(table[table.source == PUBLISHED].value) == [2, 4, 20, 20, 40, 40]


def test_largest_counts_grow_with_the_share_of_solved_prompts():
    table = knapsack.largest(Sources(quick=True))
    known = table[table.series == knapsack.ORACLE].set_index("x").value
    weak, _, strong = known[list(knapsack.POOLS)]
    assert 8 < weak < strong <= 128
