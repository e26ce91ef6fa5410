import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import gradients_one_by_one
from paid import paid
from small_world import THETA, assert_same_distribution, scenario, small_pool, small_scenario, world

import simulators.learning
from rolloutbench.allocators import allocators
from rolloutbench.analysis.curves import REFERENCE
from rolloutbench.cells.collectors import COUNT_BINS, DISCARDED, count_metric
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import (
    Groups,
    InputError,
    Outcomes,
    ProtocolError,
    Request,
    Reuse,
)
from simulators.learning import BLOCK, LearningCell, Policy, learning_cells
from simulators.pools import BetaDifficulty, Pool
from simulators.scenarios import DEFAULT_SCENARIOS, LearningScenario, scenarios

ESTIMATORS = ["reinforce", "dr_grpo", "rloo", "grpo", "grpo[ddof=0,eps=0]"]


@pytest.mark.parametrize("aggregation", ["prompt", "rollout"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.1, 0.2)], ids=["true rewards", "noisy verifier"])
def test_gradient_is_that_of_rollouts_one_by_one(estimator, aggregation, errors):
    """Means and variances over many steps, within 4 standard errors, against single rollouts."""
    check_against_single_rollouts(estimator, aggregation, errors)


@pytest.mark.parametrize("no_verdict", ["drop", "zero", "mask"])
@pytest.mark.parametrize(("estimator", "aggregation"), [("rloo", "prompt"), ("grpo", "rollout")])
@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.1, 0.2)], ids=["true rewards", "noisy verifier"])
def test_gradient_where_rollouts_are_lost(estimator, aggregation, errors, no_verdict):
    """A quarter of the rollouts at p = 1/2 has no verdict, wrong ones three times as often."""
    check_against_single_rollouts(estimator, aggregation, errors, (0.125, 0.375), no_verdict)


@pytest.mark.parametrize(("estimator", "aggregation"), [("rloo", "prompt"), ("grpo", "rollout")])
@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.1, 0.2)], ids=["true rewards", "noisy verifier"])
def test_gradient_where_rollouts_are_stale(estimator, aggregation, errors):
    """Sampled two steps ago, when other prompts were hard; scored under the policy of now."""
    check_against_single_rollouts(estimator, aggregation, errors, then=np.array([-1.0, 1.0, 0.5, -0.5]))


@pytest.mark.parametrize("no_verdict", ["drop", "mask"])
@pytest.mark.parametrize("losses", [(0.0, 0.0), (0.125, 0.375)], ids=["none lost", "some lost"])
@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.1, 0.2)], ids=["true rewards", "noisy verifier"])
@pytest.mark.parametrize("success_noise", [0.0, 3.0])
def test_gradient_where_a_correct_rollout_has_a_noise_of_its_own(success_noise, errors, losses, no_verdict):
    """It is the correct rollouts that have it, whatever the verifier says."""
    check_against_single_rollouts(
        "grpo", "rollout", errors, losses, no_verdict, success_noise=success_noise, noise_ratio=20.0
    )


def check_against_single_rollouts(
    estimator, aggregation, errors, losses=(0.0, 0.0), no_verdict="drop", then=None, **conditions
):
    steps = 20_000
    conditions = small_scenario(
        false_positive=errors[0],
        false_negative=errors[1],
        lost=sum(losses) / 2,
        lost_bias=losses[1] / losses[0] if losses[0] else 1.0,
        no_verdict=no_verdict,
        staleness=0 if then is None else 2,
        **conditions,
    )
    pool = small_pool(replicates=steps)
    environment = world(pool, conditions, estimator, aggregation, theta=THETA)
    if then is not None:
        environment._thetas = [np.tile(old, (steps, 1)) for old in (then, THETA / 2)]
    prompts = np.tile(np.arange(3), (steps, 1))
    outcomes = paid(environment, Request(prompts, np.tile([2, 3, 7], (steps, 1))))
    p = environment.success(prompts)
    environment.update(Groups.all_of(outcomes, weights=np.tile([1.0, 0.5, 2.0], (steps, 1))))
    slow = gradients_one_by_one(
        np.random.default_rng(11),
        draws=steps,
        difficulty=np.log(pool.success[0] / (1 - pool.success[0])),
        features=pool.features[0],
        theta=THETA,
        kappa=conditions.kappa,
        sigma=conditions.sigma,
        counts=[2, 3, 7],
        weights=[1.0, 0.5, 2.0],
        estimator=estimators.create(estimator),
        aggregation=aggregation,
        errors=errors,
        losses=losses,
        no_verdict=no_verdict,
        then=then,
        success_noise=conditions.success_noise,
    )
    if sum(losses) and no_verdict == "drop":
        rate = outcomes.lost.sum(axis=0) / (steps * np.array([2, 3, 7]))
        np.testing.assert_allclose(rate, (p * losses[0] + (1 - p) * losses[1])[0], atol=0.02)
        assert (environment.ledger.generated == 12).all()
        assert (environment.ledger.discarded["lost"] == outcomes.lost.sum(axis=1)).all()
    assert_same_distribution(environment.gradient, slow)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_one_step_by_hand(optimizer, clip):
    """Without noise a step is arithmetic."""
    conditions = scenario(
        prompts=2, group_size=4, pool_size=2, noise_ratio=0.0, kappa=0.3, optimizer=optimizer, clip=clip
    )
    pool = small_pool(prompts=2)
    environment = world(pool, conditions, "rloo", learning_rate=0.7, theta=THETA)
    prompts = np.array([[1, 0]])
    groups = Groups(prompts, np.array([[1, 3]]), np.array([[3, 1]]), np.ones((1, 2)))
    environment.update(groups)
    gradient = [0.0] * 4
    for prompt, n, k in ((1, 4, 1), (0, 4, 3)):
        p = pool.success[0, prompt]
        logit = math.log(p / (1 - p)) + sum(
            f * t for f, t in zip(pool.features[0, prompt], THETA, strict=True)
        )
        chance = 1 / (1 + math.exp(-(logit - 0.15 * sum(t * t for t in THETA))))
        for j in range(n):
            correct = 1 if j < k else 0
            advantage = correct - (k - correct) / (n - 1)
            for i in range(4):
                score = (correct - chance) * (pool.features[0, prompt, i] - 0.3 * THETA[i])
                gradient[i] += advantage * score / n / 2
    np.testing.assert_allclose(environment.gradient[0], gradient, rtol=0, atol=1e-12)
    length = math.sqrt(sum(g * g for g in gradient))
    clipped = [g * min(1, (clip or math.inf) / length) for g in gradient]
    # Adam's first direction is the sign of the gradient, up to eps.
    moved = [g / (abs(g) + 1e-8) for g in clipped] if optimizer == "adam" else clipped
    expected = [t + 0.7 * m for t, m in zip(THETA, moved, strict=True)]
    np.testing.assert_allclose(environment.policy.theta[0], expected, rtol=0, atol=1e-12)


def test_gradient_of_the_pool_is_the_slope_of_mean_success():
    policy = Policy.on(small_pool(prompts=5), kappa=0.2)
    policy.theta = THETA[None].copy()

    def mean(theta):
        return policy.success(policy.difficulty, policy.features, theta).mean()

    step = 1e-6 * np.eye(4)
    slope = [(mean(policy.theta + e) - mean(policy.theta - e)) / 2e-6 for e in step]
    np.testing.assert_allclose(policy.gradient()[0], slope, rtol=1e-6)


def test_prompts_without_hope_stay_so():
    pool = Pool(np.array([[0.0, 1.0, 0.5]]), small_pool().features)
    environment = world(pool, scenario(prompts=3, pool_size=3), theta=THETA)
    run_step(environment, begin(environment, allocators.create("uniform")))
    p = environment.success(np.array([[0, 1, 2]]))[0]
    assert p[0] == 0
    assert p[1] == 1
    assert 0 < p[2] < 1
    assert np.isfinite(environment.policy.theta).all()


def reuse(option, age, replicates, theta_then=None, **conditions):
    """An all-wrong group of 4 with one stored success; the policy has moved since by one step."""
    conditions = small_scenario(prompts=1, pool_size=1, **conditions)
    environment = world(small_pool(prompts=1, replicates=replicates), conditions, "dr_grpo", theta=THETA)
    then = THETA if theta_then is None else theta_then
    environment._thetas = [np.broadcast_to(then, (replicates, 4))]
    ones = np.ones((replicates, 1), dtype=np.int64)
    environment.ledger.solved[:] = True
    stored = Reuse(ones, age * ones, option)
    environment.update(Groups(0 * ones, 0 * ones, 3 * ones, np.ones((replicates, 1)), reused=stored))
    return environment


@pytest.mark.parametrize("success_noise", [1.0, 0.25])
@pytest.mark.parametrize("option", ["I", "II"])
def test_reused_success_enters_as_its_option_says(option, success_noise):
    """n = 4 with one success under Dr. GRPO: A+ = 3/4, A- = -1/4; option II gives A+ no gradient."""
    environment = reuse(option, 1, 20_000, success_noise=success_noise)
    pool = small_pool(prompts=1)
    policy = Policy.on(pool, 0.3)
    p = policy.success(policy.difficulty, policy.features, THETA[None])[0, 0]
    signal = (3 * 0.25 * p + (0.75 * (1 - p) if option == "I" else 0)) / 4
    noise = (3 * 0.25**2 + (success_noise * 0.75**2 if option == "I" else 0)) / 16
    direction = pool.features[0, 0] - 0.3 * THETA
    error = np.sqrt(noise * environment.scenario.sigma**2 / 20_000)
    assert (np.abs(environment.gradient.mean(axis=0) - signal * direction) < 4 * error).all()
    variance = noise * environment.scenario.sigma**2
    assert environment.gradient.var(axis=0) == pytest.approx(variance, rel=4 * np.sqrt(2 / 20_000))


@pytest.mark.parametrize("success_noise", [1.0, 0.0])
def test_replay_weighs_by_importance(monkeypatch, success_noise):
    """Without the clip the ratio has mean p / p_then; where nothing moved it is option I."""
    monkeypatch.setattr(simulators.learning, "CLIP_HIGH", np.inf)
    then = THETA + np.array([0.2, 0.0, -0.1, 0.1])
    replicates = 40_000
    environment = reuse("replay", 1, replicates, then, success_noise=success_noise)
    pool = small_pool(prompts=1)
    policy = Policy.on(pool, 0.3)
    p, p_then = (
        policy.success(policy.difficulty, policy.features, theta[None])[0, 0] for theta in (THETA, then)
    )
    signal = (3 * 0.25 * p + 0.75 * (1 - p) * p / p_then) / 4
    direction = pool.features[0, 0] - 0.3 * THETA
    mean = environment.gradient.mean(axis=0)
    error = environment.gradient.std(axis=0) / np.sqrt(replicates)
    assert (np.abs(mean - signal * direction) < 4 * error).all()
    still, fresh = reuse("replay", 1, 8).gradient, reuse("I", 1, 8).gradient
    np.testing.assert_allclose(still, fresh, rtol=1e-12)


def test_replay_is_clipped_as_ppo_clips():
    far = THETA - 3 * small_pool(prompts=1).features[0, 0]  # then p was much smaller: the ratio is large
    clipped, second = (reuse(option, 1, 4, far, noise_ratio=0.0).gradient for option in ("replay", "II"))
    np.testing.assert_allclose(clipped, second, rtol=1e-12)


def test_oracle_reads_the_chance_of_reward():
    conditions = scenario(prompts=3, pool_size=3, false_positive=0.1, false_negative=0.3)
    environment = world(small_pool(), conditions, theta=THETA)
    prompts = np.array([[0, 1, 2]])
    p = environment.success(prompts)
    np.testing.assert_allclose(environment.reward(prompts), 0.7 * p + 0.1 * (1 - p))


@pytest.mark.parametrize("spec", ["uniform", "ar3po", "dapo", "pilot_commit", "vip[predictor=beta]", "pods"])
@pytest.mark.parametrize("no_verdict", ["drop", "zero", "mask"])
def test_a_study_with_lost_rollouts(spec, no_verdict):
    """The bill has them, whatever is done with them; what is dropped is given up by name."""
    run = cell(allocator=spec, lost=0.2, no_verdict=no_verdict, steps=8).run()
    last = run[run.steps == run.steps.max()]
    given_up = last.discarded_other / last.rollouts
    assert given_up.between(0.1, 0.35).all() if no_verdict == "drop" else (given_up == 0).all()
    assert (last.trained > 0).all()


def cell(name="u-shaped-v1", allocator="uniform", **changes):
    made = dataclasses.replace(scenarios.create(name), **({"steps": 20} | changes))
    return LearningCell(
        name, made, allocator, allocators.create(allocator), estimators.create("rloo"), "prompt", 0, 0
    )


def test_rollouts_are_those_of_some_steps_ago():
    """The first steps have no older policy than the first; later ones have that of `staleness` steps ago."""
    environment, _ = cell(staleness=3).world()
    driven = begin(environment, allocators.create("uniform"))
    prompts, seen = np.tile(np.arange(5), (BLOCK, 1)), []
    for step in range(6):
        seen.append(environment.success(prompts))
        np.testing.assert_array_equal(environment.sampled(prompts), seen[max(step - 3, 0)])
        run_step(environment, driven)
    assert not np.array_equal(seen[5], seen[4])


def test_a_cell_is_a_pure_function_of_its_fields():
    first, second = (cell(allocator="vip[predictor=beta]").run() for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    other = dataclasses.replace(cell(), block=1).run()
    assert set(other.replicate) == set(range(BLOCK, 2 * BLOCK))


def test_everyone_gets_the_same_prompts():
    uniform, divided = cell(), cell(allocator="uniform[divide=2]")
    reference = dataclasses.replace(uniform, reference=True)
    worlds = [one.world()[0] for one in (uniform, divided, reference)]
    for other in worlds[1:]:
        assert np.array_equal(other.policy.features, worlds[0].policy.features)
    drawn = [one.stream.draw(8) for one in worlds]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])  # the reference run has random numbers of its own


def test_curves_add_up():
    table = cell(allocator="dapo").run()
    last = table[table.steps == table.steps.max()]
    discarded = last[[f"discarded_{name}" for name in (*DISCARDED, "other")]].sum(axis=1)
    assert (last.rollouts == last.trained + discarded + last.held).all()
    assert (last.effective <= last.groups).all()
    first = table[table.steps == 0]
    assert (first.rollouts == 0).all()
    assert (first.seconds == 0).all()
    for column in ("rollouts", "tokens", "seconds", "steps", "trained"):
        assert (np.diff(table.pivot(index="steps", columns="replicate", values=column), axis=0) > 0).all()
    counts = table[[count_metric(b) for b in range(COUNT_BINS)]]
    assert counts[table.steps > 0].notna().any(axis=None)
    assert (table.accuracy.between(0, 1)).all()
    assert (table.pass_at_8 >= table.accuracy).all()


def test_uniform_pays_what_the_budget_says():
    table = cell().run()
    assert (table.rollouts == table.steps * 128 * 8).all()
    assert table.rollouts.max() >= 1.5 * 20 * 128 * 8
    bins = table[table.steps > 0][[count_metric(b) for b in range(COUNT_BINS)]].to_numpy()
    np.testing.assert_allclose(bins[~np.isnan(bins)], 8)


def test_stages_of_a_prompt_count_together():
    """AR3PO gives 4 rollouts to who is solved at once, and 8 to who never is."""
    table = cell("dead-sixty-v1", allocator="ar3po", group_size=8).run()
    table = table[table.steps > 0]
    assert table["counts@0.975"].mean() == pytest.approx(4, abs=0.01)
    assert 7.5 < table["counts@0.025"].mean() <= 8


def test_training_helps_and_too_large_steps_do_not():
    good = cell(steps=60).run()
    gain = good[good.steps == 60].accuracy.to_numpy() - good[good.steps == 0].accuracy.to_numpy()
    assert gain.min() > 0.05
    wild = dataclasses.replace(cell(steps=60), rate=200.0).run()
    assert wild[wild.steps == 60].accuracy.mean() < good[good.steps == 60].accuracy.mean() - 0.05


def test_a_free_lunch_ends():
    """An allocator that asks for almost nothing is stopped after a number of steps, not of rollouts."""
    table = cell(allocator="uniform[divide=16]", steps=5, prompts=4, pool_size=8).run()
    assert table.steps.max() == 5 * simulators.learning.MOST_STEPS


def test_who_asks_for_nothing_is_named():
    said = "Uniform trains on nothing: 0 rollouts generated, .* trained on in 40 steps of 16 replicates"
    with pytest.raises(ProtocolError, match=said):
        cell(allocator="uniform[divide=1000]", steps=5, prompts=4, pool_size=8).run()


def test_cells_of_a_study():
    chosen = {name: scenarios.create(name) for name in DEFAULT_SCENARIOS}
    named = {name: allocators.create(name) for name in ("uniform", "dapo")}
    cells = learning_cells(chosen, named, estimators.create("rloo"), "prompt", BLOCK + 1, 0, [0.5, 2.0])
    assert len(cells) == len(chosen) * (1 + 2 * 3) * 2
    assert {c.rate for c in cells if c.allocator_name == "dapo"} == {0.5, 1.0, 2.0}
    assert {c.rate for c in cells if c.allocator_name == REFERENCE} == {1.0}
    assert all(c.reference == (c.allocator_name == REFERENCE) for c in cells)


def test_a_cell_says_what_it_is():
    assert cell(allocator="random[lower=9]").label.endswith(" random[lower=9] block 0")
    assert dataclasses.replace(cell(), rate=0.5).label.endswith(" at rate x 0.5 block 0")
    with pytest.raises(InputError, match="lower=9 for 128 prompts"):
        cell(allocator="random[lower=9]").run()


LEARNING = [name for name in scenarios.names() if type(scenarios.create(name)) is LearningScenario]


def test_there_are_eighteen():
    assert len(LEARNING) == 18
    assert set(DEFAULT_SCENARIOS) <= set(LEARNING)


@pytest.mark.parametrize("name", LEARNING)
def test_summary_states_the_cosine_of_the_scenario(name):
    made = scenarios.create(name)
    stated = float(re.search(r"cosine (\.\d+)\.$", made.summary).group(1))
    table = cell(name, steps=25).run()
    measured = table[table.steps.between(1, 25)].cosine.mean()
    assert measured == pytest.approx(stated, abs=0.03)


@given(st.integers(1, 4), st.floats(0, 1))
def test_opposed_skills_are_opposed(pairs, conflict):
    from simulators.pools import draw_pool

    rng = np.random.default_rng(0)
    pool = draw_pool(BetaDifficulty(1, 1), rng, 2, 50, 64, 2 * pairs, 0.5, conflict)
    assert np.allclose((pool.features**2).sum(axis=2), 1)


def test_conflict_makes_centres_point_apart():
    from simulators.pools import draw_pool

    def lowest(conflict):
        pool = draw_pool(BetaDifficulty(1, 1), np.random.default_rng(0), 1, 400, 64, 2, 0.5, conflict)
        return (pool.features[0] @ pool.features[0].T).min()

    assert lowest(0.9) < lowest(0.0) - 0.2


def test_predictors_may_see_less_than_the_truth():
    rng = np.random.default_rng
    clear, blurred = scenario(), scenario(feature_noise=1.0)
    train, _, seen = clear.pools(rng(0), 2)
    assert np.array_equal(seen, train.features)
    train, _, seen = blurred.pools(rng(0), 2)
    error = ((seen - train.features) ** 2).sum(axis=2).mean()
    assert error == pytest.approx(1.0, rel=0.05)


def test_a_pool_smaller_than_the_batch_is_refused():
    with pytest.raises(InputError, match="pool_size=10: a step draws prompts=128"):
        scenarios.create("u-shaped-v1[pool_size=10]")


def test_stored_rollouts_are_scored_under_the_current_policy():
    """A group trained on a step after it was sampled: x uses p of now."""
    conditions = scenario(prompts=1, group_size=4, pool_size=1, noise_ratio=0.0, dimension=4, kappa=0.0)
    environment = world(small_pool(prompts=1), conditions, "dr_grpo")
    paid(environment, Request(np.zeros((1, 1), int), np.full((1, 1), 4)))
    environment.policy.theta = THETA[None].copy()
    environment._known = None
    outcomes = Outcomes(np.zeros((1, 1), int), np.full((1, 1), 4), np.full((1, 1), 2))
    p = environment.success(outcomes.prompts)[0, 0]
    environment.update(Groups.all_of(outcomes))
    x = (2 * 0.5 * (1 - p) + 2 * 0.5 * p) / 4
    np.testing.assert_allclose(environment.gradient[0], x * small_pool(prompts=1).features[0, 0])
