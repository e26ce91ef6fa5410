import dataclasses

import numpy as np
import pytest
from oracles import advantages_of
from paid import paid

from rolloutbench.allocators import allocators
from rolloutbench.analysis.metrics import SNAPSHOT_METRICS
from rolloutbench.cells.collectors import COUNT_BINS, count_metric
from rolloutbench.estimators import estimators, moments
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import (
    Allocator,
    Budget,
    Groups,
    InputError,
    Outcomes,
    PromptStream,
    Request,
    Setting,
)
from simulators.pools import Pool
from simulators.scenarios import PATHS, SNAPSHOT_SCENARIOS, TRACED, scenarios
from simulators.snapshot import BLOCK, Snapshot, SnapshotCell, snapshot_cells

ESTIMATORS = ["reinforce", "dr_grpo", "rloo", "grpo"]


def cell(
    allocator="vip[predictor=beta]",
    scenario="snapshot-u-shaped-v1",
    estimator="rloo",
    aggregation="prompt",
    **fields,
):
    fields = {"budget": Budget(32, 256), "seed": 0, "block": 0} | fields
    return SnapshotCell(
        scenario,
        scenarios.create(scenario),
        str(allocator),
        allocators.create(allocator),
        estimators.create(estimator),
        aggregation,
        **fields,
    )


def environment(p, features, estimator, aggregation, replicates):
    p, features = np.tile(p, (replicates, 1)), np.tile(features, (replicates, 1, 1))
    setting = Setting(
        Budget(p.shape[1], 99), estimators.create(estimator), aggregation, *p.shape, np.random.default_rng(0)
    )
    stream = PromptStream(p.shape[1], replicates, np.random.SeedSequence(1))
    return Snapshot(setting, stream, Pool(p, features), np.random.default_rng(2))


def rollout_by_rollout(name, aggregation, p, features, counts, weights, sigma, rng):
    """One batch gradient, from single rollouts and their scores."""
    sizes = counts if aggregation == "rollout" else np.ones(len(p))
    gradient = np.zeros(features.shape[1])
    for i, n in enumerate(counts):
        rewards = tuple((rng.random(n) < p[i]).astype(int))
        scores = np.outer(np.array(rewards) - p[i], features[i]) + sigma * rng.standard_normal(
            (n, len(gradient))
        )
        group = (np.array(advantages_of(name, rewards))[:, None] * scores).mean(axis=0)
        gradient += weights[i] * sizes[i] / sizes.sum() * group
    return gradient


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("aggregation", ["prompt", "rollout"])
def test_exact_moments_agree_with_rollouts_one_by_one(name, aggregation):
    """Mean, squared bias, variance and mean squared error of a weighted batch of unequal groups."""
    rng = np.random.default_rng([len(name), len(aggregation)])
    p, counts, weights = np.array([0.1, 0.5, 0.9]), np.array([6, 3, 4]), np.array([1.0, 0.5, 2.0])
    features = rng.standard_normal((3, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    sigma, draws = 0.7, 6000
    world = environment(p, features, name, aggregation, 1)
    prompts = np.arange(3)[None]
    paid(world, Request(prompts, counts[None]))
    world.update(Groups(prompts, counts[None], counts[None] * 0, weights[None]))
    exact = world.exact_metrics(noise_ratio=4 * sigma**2)
    sampled = np.array(
        [
            rollout_by_rollout(name, aggregation, p, features, counts, weights, sigma, rng)
            for _ in range(draws)
        ]
    )
    truth = (p * (1 - p) / 3) @ features
    errors = ((sampled - truth) ** 2).sum(axis=1)
    assert abs(errors.mean() - exact["mse"][0]) < 4 * errors.std() / np.sqrt(draws)
    spread = ((sampled - sampled.mean(axis=0)) ** 2).sum(axis=1)
    assert (
        abs(spread.mean() - exact["variance"][0]) < 4 * spread.std() / np.sqrt(draws) + 1e-3 * spread.mean()
    )
    along = sampled @ truth
    expected = exact["cosine"][0] * np.sqrt((sampled**2).sum(axis=1).mean() * (truth @ truth))
    assert abs(along.mean() - expected) < 4 * along.std() / np.sqrt(draws) + 1e-3 * abs(expected)
    assert exact["mse"][0] == pytest.approx(exact["bias"][0] + exact["variance"][0])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("aggregation", ["prompt", "rollout"])
@pytest.mark.parametrize("allocator", ["vip[predictor=oracle]", "weighted_uniform", "uniform[divide=4]"])
def test_monte_carlo_agrees_with_enumeration(estimator, aggregation, allocator):
    exact = cell(allocator, estimator=estimator, aggregation=aggregation).measure()
    draws = 400
    sampled = cell(allocator, estimator=estimator, aggregation=aggregation, draws=draws).measure()
    assert list(exact) == list(sampled)
    for metric in ("mse", "variance", "noise_variance", "effective_ratio", "wasted_ratio", "cosine"):
        difference = sampled[metric] - exact[metric]
        # The pools are the same; what differs is sampling error, independent between replicates.
        error = difference.std(ddof=1) / np.sqrt(BLOCK)
        assert abs(difference.mean()) < 5 * error + 2e-3 * np.abs(exact[metric]).mean(), metric
    np.testing.assert_allclose(sampled["generated_per_prompt"], exact["generated_per_prompt"])


def test_noise_variance_is_vips_objective():
    """Sum of a_q/(n_q - 1) over the batch, up to the scale noise_ratio / B^2."""
    measured = cell("uniform", scenario="snapshot-u-shaped-v1[noise_ratio=5]").measure()
    the_cell = cell("uniform")
    pool = the_cell.scenario.pool(the_cell._rng(0), BLOCK, 32)
    expected = 5 / 32**2 * (pool.success * (1 - pool.success) / 7).sum(axis=1)
    np.testing.assert_allclose(measured["noise_variance"], expected, rtol=1e-12)


def test_the_oracle_does_best_by_its_own_objective():
    oracle = cell("vip[predictor=oracle]").measure()["noise_variance"]
    for other in ("uniform", "vip", "knapsack", "random", "vip[objective=success_rate,predictor=oracle]"):
        theirs = cell(other).measure()["noise_variance"]
        assert (oracle <= theirs * (1 + 1e-12)).all(), other


def test_savings_of_the_oracle_are_those_known_beforehand():
    """On Beta(.4, .6), L = 4, U = 16, 8 a prompt, VIP at the true p has .78 to .85 of uniform's objective."""
    blocks = [
        [cell(a, budget=Budget(512, 4096), block=b).measure()["noise_variance"].mean() for b in range(2)]
        for a in ("vip[predictor=oracle,lower=4,upper=16]", "uniform")
    ]
    ratio = np.sum(blocks[0]) / np.sum(blocks[1])
    assert 0.80 <= ratio <= 0.82


@pytest.mark.parametrize("aggregation", ["prompt", "rollout"])
def test_bias_comes_with_shrinking_and_with_weights(aggregation):
    rloo = cell("vip[predictor=oracle]", aggregation=aggregation).measure()["bias"]
    if aggregation == "prompt":
        assert not rloo.any()  # unbiased for any counts chosen beforehand
        assert (cell("vip", estimator="dr_grpo").measure()["bias"] > 0).all()
        assert (cell("weighted_uniform").measure()["bias"] > 0).all()
    else:
        assert (rloo > 0).all()  # the loss weighs prompts by their counts
        assert not cell("uniform", aggregation=aggregation).measure()["bias"].any()


def test_permuted_and_weighted_controls_take_the_gain_apart():
    """Under `rollout` aggregation unequal counts re-weight; equal groups with those weights do the same."""
    vip = cell("vip[predictor=oracle]", aggregation="rollout").measure()["bias"]
    weighted = cell("weighted_uniform[of=vip[predictor=oracle]]", aggregation="prompt").measure()["bias"]
    np.testing.assert_allclose(vip, weighted, rtol=1e-9)


class TillSolved(Allocator):
    """Two stages of four; not one-shot, so its moments must be sampled."""

    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        seen = Outcomes.none(prompts)
        for _ in range(2):
            seen += yield Request(prompts, 4 * (seen.successes == 0))
        return Groups.all_of(seen)


class TillSolvedAlone(TillSolved):
    vectorised = False


def test_allocators_with_stages_are_measured_by_sampling():
    stages = dataclasses.replace(cell("uniform"), allocator=TillSolved()).measure()
    pool = cell("uniform").scenario.pool(cell("uniform")._rng(0), BLOCK, 32)
    expected = 4 * (1 + (1 - pool.success) ** 4).mean(axis=1)
    assert np.abs(stages["generated_per_prompt"] - expected).max() < 0.3
    assert (stages["wasted_ratio"] > 0).all()
    alone = dataclasses.replace(cell("uniform"), allocator=TillSolvedAlone(), draws=4).measure()
    assert np.abs(alone["generated_per_prompt"] - expected).max() < 1.0


def test_waste_and_effective_groups_of_dead_prompts():
    p, features = np.array([0.0, 1.0, 0.5]), np.eye(3)
    world = environment(p, features, "rloo", "prompt", 1)
    prompts, counts = np.arange(3)[None], np.array([[4, 4, 2]])
    paid(world, Request(prompts, counts))
    world.update(Groups(prompts, counts, counts * 0, np.ones((1, 3))))
    exact = world.exact_metrics(1.0)
    assert exact["effective_ratio"][0] == pytest.approx(0.5 / 3)
    assert exact["wasted_ratio"][0] == pytest.approx(1 - 2 * 0.5 / 10)
    # REINFORCE learns from a solved group too: only failures are wasted.
    world = environment(p, features, "reinforce", "prompt", 1)
    paid(world, Request(prompts, counts))
    world.update(Groups(prompts, counts, counts * 0, np.ones((1, 3))))
    assert world.exact_metrics(1.0)["wasted_ratio"][0] == pytest.approx(1 - (4 + 2 * 0.75) / 10)


def test_rollouts_that_are_not_trained_on_are_paid_for_and_wasted():
    p, features = np.array([0.5, 0.5]), np.eye(2)
    world = environment(p, features, "rloo", "prompt", 1)
    prompts, counts = np.arange(2)[None], np.array([[40, 40]])
    paid(world, Request(prompts, counts))
    world.update(Groups(np.array([[0, -1]]), counts, counts * 0, np.ones((1, 2))))
    exact = world.exact_metrics(1.0)
    assert exact["generated_per_prompt"][0] == 40
    assert exact["wasted_ratio"][0] == pytest.approx(0.5)
    # The mean is over the one prompt that is trained on.
    single = moments(estimators.create("rloo"), np.array([0.5]), np.array([40]))
    assert exact["noise_variance"][0] == pytest.approx(single.noise[0])


def test_counts_by_success_probability():
    measured = cell("vip[predictor=oracle]", budget=Budget(400, 3200)).measure()
    by_bin = np.array([np.nanmean(measured[count_metric(b)]) for b in range(COUNT_BINS)])
    assert by_bin[0] < by_bin[4] < by_bin[9]
    np.testing.assert_allclose(by_bin, by_bin[::-1], atol=0.5)
    uniform = cell("uniform").measure()
    for b in range(COUNT_BINS):
        seen = uniform[count_metric(b)][~np.isnan(uniform[count_metric(b)])]
        assert (seen == 8).all()


def test_the_same_prompts_and_history_for_everybody():
    """Replicates are paired: uniform's numbers do not depend on who else is compared, nor on blocks."""
    table = cell("uniform", block=3).run()
    assert table.replicate.unique().tolist() == list(range(48, 64))
    again = cell("uniform", block=3).run()
    assert table.equals(again)
    assert not np.allclose(cell("uniform").measure()["mse"], cell("uniform", seed=1).measure()["mse"])
    assert not np.allclose(cell("uniform").measure()["mse"], cell("uniform", block=1).measure()["mse"])


@pytest.mark.parametrize("visits", [0, 1, 4])
def test_history_makes_predictors_better(visits):
    gain = (
        cell("vip[predictor=beta]", scenario=f"snapshot-u-shaped-v1[visits={visits}]")
        .measure()["noise_variance"]
        .mean()
    )
    uniform = (
        cell("uniform", scenario=f"snapshot-u-shaped-v1[visits={visits}]").measure()["noise_variance"].mean()
    )
    ratio = gain / uniform
    assert {0: ratio == 1, 1: 0.88 < ratio < 0.97, 4: 0.8 < ratio < 0.88}[visits]


@pytest.mark.parametrize(
    "name", [name for name in scenarios.names() if name.startswith("snapshot-") and "-v" in name]
)
def test_every_scenario_runs_and_leaves_room_for_an_oracle(name):
    oracle = cell("vip[predictor=oracle]", scenario=name).measure()
    uniform = cell("uniform", scenario=name).measure()
    assert (oracle["noise_variance"] <= uniform["noise_variance"] * (1 + 1e-12)).all()
    cosine = uniform["cosine"].mean()
    assert 0.05 < cosine < 0.9, "the noise is neither everything nor nothing"


def test_there_are_enough_scenarios_and_metrics():
    assert len(scenarios.names()) >= 8
    of_files = {*PATHS, TRACED}
    versioned = [name for name in scenarios.names() if name not in of_files]
    assert all(name.rpartition("-v")[2].isdigit() for name in versioned)
    assert set(SNAPSHOT_SCENARIOS) <= set(scenarios.names())
    measured = [name for name in cell("uniform").measure() if "@" not in name]
    assert measured == list(SNAPSHOT_METRICS)


def test_an_infeasible_allocator():
    assert cell("vip[lower=9]").label.endswith(" vip[lower=9] block 0")
    with pytest.raises(InputError, match=r"budget=256 is below .* 288"):
        cell("vip[lower=9]").run()


def test_cells_cover_the_replicates_in_fixed_blocks():
    arguments = (estimators.create("rloo"), "prompt", Budget(8, 64))
    chosen = {"uniform": allocators.create("uniform"), "vip": allocators.create("vip")}
    cells = snapshot_cells(
        {"snapshot-mid-v1": scenarios.create("snapshot-mid-v1")}, chosen, *arguments, 17, 0
    )
    assert [(c.allocator_name, c.block) for c in cells] == [
        (a, b) for a in ("uniform", "vip") for b in (0, 1)
    ]


def test_a_step_is_driven_by_the_loop():
    """The environment of a snapshot honours the contract that real runs will."""
    world = environment(np.array([0.2, 0.8]), np.eye(2), "rloo", "prompt", 5)
    allocator = begin(world, allocators.create("uniform"))
    measured = run_step(world, allocator).measured
    assert measured["signal"].shape == (5, 2)
    assert world.ledger.generated.tolist() == [99] * 5
