"""What the methods do, against what their authors' own code did on the same inputs.

One file of numbers a method, which says the repository, commit and files that it is from, and how it was
obtained.
"""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rewards import tape
from scripted import Scripted

from rolloutbench.allocators import allocators
from rolloutbench.allocators.down_sampling import balanced
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Budget, Outcomes, PromptStream, Setting

FILES = sorted(Path(__file__).parent.glob("*.toml"))
DATA = {path.stem: tomllib.loads(path.read_text()) for path in FILES}


def cases(method, kind):
    return pytest.mark.parametrize(
        "case", [pytest.param(c, id=f"{i}") for i, c in enumerate(DATA[method][kind])]
    )


def setting(prompts, rollouts, p=None):
    rng, truth = np.random.default_rng(0), None if p is None else np.array([p], dtype=float)
    return Setting(
        Budget(prompts, rollouts),
        estimators.create("rloo"),
        "prompt",
        1,
        prompts,
        rng,
        success_probability=None if truth is None else lambda q: truth[:, q[0]],
    )


def begun(spec, prompts, rollouts, p=None):
    made = allocators.create(spec)
    made.begin(setting(prompts, rollouts, p))
    return made


def outcomes(counts, successes):
    counts = np.array([counts], dtype=np.int64)
    return Outcomes(np.arange(counts.shape[1])[None], counts, np.array([successes], dtype=np.int64))


def allocated(made, budget):
    return made.allocate(np.arange(budget.prompts)[None], budget)[0].tolist()


@pytest.mark.parametrize("method", DATA)
def test_numbers_are_from_the_code_that_the_method_names(method):
    found, provenance = DATA[method], allocators.class_of(method).provenance
    assert provenance.code == f"{found['repository']}@{found['commit']}"
    assert provenance.licence == found["licence"]
    assert set(found["files"]) <= set(re.split(r", ", provenance.file))


# --- Knapsack


@cases("knapsack", "counts")
def test_knapsack_counts(case):
    size = len(case["p"])
    made = begun("knapsack[predictor=oracle]", size, case["n"] * size, case["p"])
    made.observe(outcomes(case["recorded"], np.zeros(size, int)))
    assert allocated(made, made.setting.budget) == case["counts"]


@cases("knapsack", "rate")
def test_knapsack_rates(case):
    """No visit is within the newest 16 rewards in part: the code knows in what order its rewards came."""
    made = begun("knapsack", 2, 16)
    for n, k in zip(case["n"], case["successes"], strict=True):
        made.observe(outcomes([n, 0], [k, 0]))
    assert made.predictor.predict(np.array([[0]])).mean[0, 0] == case["p"]
    assert (made._recorded[0, 0] >= made.recorded) == case["takes_part"]


# --- SPEED


@cases("speed", "run")
def test_speed(case):
    levels = np.resize(case["levels"], case["pool"])
    group = case["n_init"] + case["n_continue"]
    place = Scripted(
        levels / 16, case["prompts"], case["prompts"] * group, seed=case["seed"], tape=[tape(levels)]
    )
    spec = ",".join(f"{key}={case[key]}" for key in ("oversample", "n_init", "n_continue"))
    driven = begin(place, allocators.create(f"speed[{spec}]"))
    for rollouts, trained, successes in zip(
        case["rollouts"], case["trained"], case["successes"], strict=True
    ):
        groups = run_step(place, driven).groups
        assert place.ledger.step_generated[0] == rollouts
        assert groups.prompts[0].tolist() == trained
        assert groups.successes[0].tolist() == successes


# --- GRESO


@cases("greso", "chance")
def test_greso_chances(case):
    made = begun("greso", 1, case["n"])
    made._p_easy[:], made._p_hard[:] = case["p_easy"], case["p_hard"]
    for k in case["successes"]:
        made.observe(outcomes([case["n"]], [k]))
    assert made.chances(np.array([[0]]))[0, 0] == pytest.approx(case["chance"], abs=1e-8)


@cases("greso", "run")
def test_greso_sampling_batches(case):
    levels = np.resize(case["levels"], case["pool"])
    place = Scripted(
        levels / 16, case["prompts"], case["prompts"] * case["n"], seed=case["seed"], tape=[tape(levels)]
    )
    driven = begin(place, allocators.create("greso"))
    for sizes, trained in zip(case["sampled"], case["trained"], strict=True):
        place.requests.clear()
        groups = run_step(place, driven).groups
        assert [int((request.counts > 0).sum()) for request in place.requests] == sizes
        assert groups.prompts[0, : len(trained)].tolist() == trained
        assert (groups.prompts[0, len(trained) :] == -1).all()


# --- MoPPS


class Sampled:
    """A generator of random numbers whose Beta samples are given."""

    def __init__(self, sampled):
        self.sampled = np.array([sampled])
        self.random = np.random.default_rng(0).random

    def beta(self, alpha, beta):
        return self.sampled


@cases("mopps", "choice")
def test_mopps_choice(case):
    sampled, prompts = case["sampled"], case["prompts"]
    made = allocators.create(f"mopps[candidates={len(sampled) // prompts},choice={case['choice']}]")
    budget = Budget(prompts, 8 * prompts)
    rng = Sampled(sampled)
    made.begin(Setting(budget, estimators.create("rloo"), "prompt", 1, len(sampled), rng))
    stream = PromptStream(len(sampled), 1, np.random.SeedSequence(0))
    order = stream.shuffled(0, 0)
    asked = next(made.plan(stream, budget))
    places = np.argsort(order)[asked.prompts[0]]  # candidate i of the data is the i-th that is drawn
    assert sorted(places.tolist()) == case["chosen"]
    assert (asked.counts == 8).all()


@cases("mopps", "posterior")
def test_mopps_posterior(case):
    made = predictors.create(f"beta[discount={case['discount']}]")
    made.begin(setting(1, case["n"]))
    for k in case["successes"]:
        made.update(outcomes([case["n"]], [k]))
    assert made._alpha[0, 0] == case["alpha"]
    assert made._beta[0, 0] == case["beta"]


# --- VIP


@cases("vip", "counts")
def test_vip_released_code(case):
    size = len(case["p"])
    spec = f"vip[preset=released_code,predictor=oracle,warm_up=0,lower={case['lower']},upper={case['upper']}]"
    made = begun(spec, size, case["n"] * size, case["p"])
    assert allocated(made, made.setting.budget) == case["counts"]


# --- the others


@cases("reinforce_ada", "kept")
def test_reinforce_ada_keeps(case):
    k, failures = balanced(
        outcomes([case["successes"] + case["failures"]], [case["successes"]]), case["keep"]
    )
    assert (k[0, 0], failures[0, 0]) == (case["kept_successes"], case["kept_failures"])


@cases("reinforce_ada_est", "counts")
def test_reinforce_ada_est(case):
    size = len(case["n"])
    made = begun("reinforce_ada_est[rule=code]", size, case["group_size"] * size)
    made.observe(outcomes(case["n"], case["successes"]))
    assert allocated(made, made.setting.budget) == case["counts"]


@cases("gvm", "counts")
def test_gvm(case):
    size, piloted = (
        len(case["successes"]),
        outcomes([case["pilot"]] * len(case["successes"]), case["successes"]),
    )
    made = allocators.create(f"gvm[pilot={case['pilot']},shard_steps=1]")
    place = Scripted(np.full((1, size), 0.5), size, case["n"] * size)
    driven = begin(place, made)
    plan = driven.plan(place.stream, place.setting.budget)
    asked = next(plan)
    successes = piloted.successes[:, asked.prompts[0]]
    counts = plan.send(Outcomes(asked.prompts, asked.counts, successes))
    back = np.argsort(counts.prompts[0])
    assert counts.counts[0, back].tolist() == case["counts"]


@cases("pods", "kept")
def test_pods(case):
    """As great a variance; where two choices have it, another may be taken."""
    k, failures = (int(a[0, 0]) for a in balanced(outcomes([case["n"]], [case["successes"]]), case["keep"]))
    m = case["keep"]
    assert k + failures == m
    assert k * failures / (m * (m - 1)) == pytest.approx(case["variance"])
    if m % 2 == 0:
        assert k == case["kept_successes"]


@cases("pilot_commit", "screened")
def test_pilot_commit_screens(case):
    n = case["pilots"]
    made = allocators.create(f"pilot_commit[p_lower={case['p_lower']},p_upper={case['p_upper']}]")
    screened = outcomes([n] * (n + 1), range(n + 1))
    assert np.flatnonzero(made.informative(screened)[0]).tolist() == case["waiting"]
    assert np.flatnonzero(made.solved(screened)[0]).tolist() == case["evicted"]


@cases("dapo", "kept")
def test_dapo_keeps(case):
    n = case["n"]
    rewards = np.tile(np.arange(64) < np.arange(n + 1)[:, None], (1, 1))[None].astype(int)
    place = Scripted(np.full((1, n + 1), 0.5), n + 1, n * (n + 1), tape=rewards)
    groups = run_step(place, begin(place, allocators.create("dapo[oversample=1,max_rounds=1]"))).groups
    assert sorted(groups.successes[groups.prompts >= 0].tolist()) == case["successes"]


# --- methods with a second stage


@cases("dars", "further")
def test_dars_second_round(case):
    n = case["n"]
    made = allocators.create(f"dars[rule={case['rule']},std={str(case['std']).lower()}]")
    further = made.further(outcomes([n] * (n + 1), range(n + 1)), n, case["most"])
    assert further[0].tolist() == case["more"]


@cases("c_grpo", "thresholds")
def test_c_grpo_thresholds(case):
    scores = 1 - np.array([case["successes"]]) / case["sizes"]
    present = np.ones(scores.shape[:2], dtype=bool)
    found = allocators.class_of("c_grpo").thresholds(scores, present, case["margin"])
    assert found[0].tolist() == pytest.approx(case["thresholds"])


# --- counts by history


@cases("e3", "counts")
def test_e3(case):
    size, low, high = len(case["ranks"]), case["low"], case["high"]
    made = begun(f"e3[low={low},high={high},update={8 - low}]", size, 8 * size)
    made._ranks[0], made._epoch[:] = case["ranks"], 1
    assert allocated(made, made.setting.budget) == case["counts"]


@cases("rollout_gdro", "run")
def test_rollout_gdro(case):
    size = len(case["counts"][0])
    made = begun("rollout_gdro", size, case["rollouts"])
    for counts, passed in zip(case["counts"], case["passed"], strict=True):
        assert allocated(made, made.setting.budget) == counts
        made.observe(outcomes(counts, passed))


# --- prompts from the whole pool


def visits(case):
    """Outcomes of the visited prompts, step by step."""
    for visited, successes in zip(case["visited"], case["successes"], strict=True):
        n = [case["n"]] * len(visited)
        yield Outcomes(*(np.array([column]) for column in (visited, n, successes)))


@cases("bots", "posterior")
def test_bots_posteriors(case):
    made = begun(f"bots[forgetting={case['forgetting']}]", len(case["alpha"]), 16 * len(case["alpha"]))
    for seen in visits(case):
        made.observe(seen)
    assert made._alpha[0] == pytest.approx(case["alpha"])
    assert made._beta[0] == pytest.approx(case["beta"])


@cases("fast_ema", "weights")
def test_fast_ema_weights(case):
    made = begun("fast_ema", case["prompts"], 8 * case["prompts"])
    for seen in visits(case):
        made.observe(seen)
    weights = made.weights(np.ones((1, case["prompts"]), dtype=bool))
    assert weights[0] == pytest.approx(case["weights"])


POOL_NAMES = ["normal", "hard", "easy"]


@cases("pools", "moved")
def test_pools_move(case):
    n = case["n"]
    made = begun("pools", n + 1, n * (n + 1))
    made.observe(outcomes([n] * (n + 1), range(n + 1)))
    assert [POOL_NAMES[pool] for pool in made._pool[0]] == case["pools"]


@cases("pools", "drawn")
def test_pools_draw(case):
    pool = np.repeat([0, 1, 2], [case["normal"], case["hard"], case["easy"]])
    made = begun(f"pools[easy={case['easy_share']},hard={case['hard_share']}]", len(pool), 8 * len(pool))
    made._pool[0] = pool
    chosen = made.choose(np.ones((1, len(pool)), dtype=bool), case["prompts"])[0]
    drawn = np.bincount(pool[chosen], minlength=3)
    assert [drawn[2], drawn[0], drawn[1]] == case["drawn"]


@cases("adarft", "run")
def test_adarft(case):
    difficulty = np.array([case["difficulty"]])
    made = begun("adarft", case["prompts"], 8 * case["prompts"])
    made.setting = replace(made.setting, pool_size=difficulty.shape[1])
    made._profile = np.stack([np.full(difficulty.shape, 100), (100 - difficulty).astype(int)])
    everyone = np.ones(difficulty.shape, dtype=bool)
    for reward, target, chosen in zip(case["rewards"], case["targets"], case["chosen"], strict=True):
        plan = made.plan_profiled(everyone, made.setting.budget)
        asked = next(plan)
        assert sorted(asked.prompts[0].tolist()) == chosen
        successes = np.array([[8, 8, 8, 8]]) * 0
        successes[0, 0] = round(32 * reward)
        with pytest.raises(StopIteration):
            plan.send(Outcomes(asked.prompts, asked.counts, successes))
        assert made._target[0] == pytest.approx(target)
