"""VIP's mathematics (arXiv 2602.01601): its Figure 2, Table 4 and Propositions, and where they end.

All of it is computed when it is asked for; no study is read. Rewards are +-1, as there, so that p(1-p)
comes with a factor of 4, and Z, the length of a rollout's score, has variance 1.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.series import exact, median_seconds, rows
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.allocators import allocators
from rolloutbench.allocators.inverse import Inverse
from rolloutbench.analysis.plotting.style import DASHED, Style
from rolloutbench.analysis.statistics import Interval, mean_interval, ratio_interval
from rolloutbench.estimators import GRPO, RLOO, DrGRPO, moments
from rolloutbench.objectives import DrGRPONoise, Objective, RLOONoise
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Budget, Estimator, FloatArray, IntArray, Outcomes, Setting
from rolloutbench.solvers import Problem, solve
from rolloutbench.studies.kinds.learning import PUBLISHED_STEP_SECONDS

ESTIMATORS: dict[str, Estimator] = {"Dr. GRPO": DrGRPO(), "RLOO": RLOO(), "GRPO": GRPO()}
NOISES: dict[str, Objective] = {"Dr. GRPO": DrGRPONoise(), "RLOO": RLOONoise()}
"""Noise factors by Propositions 4.2 and 4.3."""
LOOKS = {
    "Dr. GRPO": Style("#332288"),
    "RLOO": Style("#CC6677", 1),
    "GRPO": Style("#999933", 2),
    "L + (C - BL) a / sum(a)": Style("#000000", 3, DASHED),
    "proportional (text)": Style("#AA4499"),
    "linear program (code)": Style("#44AA99", 1),
    "Assumption 4.1 holds": Style("#000000"),
    "Var(Z) fourfold where solved": Style("#332288", 1),
    "Z longer by half where solved": Style("#CC6677", 2),
    "mean (1 - mean)": Style("#CC6677", 1),
    "Var(R)": Style("#332288"),
    "measured here": Style("#332288"),
}

# Figure 2: sixteen prompts, 256 rollouts, 4 to 32 each.

P = np.arange(16) / 15
FIGURE_2 = Budget(16, 256)
LOWER, UPPER = 4, 32


def printed_rule(p: FloatArray) -> FloatArray:
    """Counts of the curve that Fig. 2 shows: the lower bound, and the rest in proportion to p(1-p)."""
    a = p * (1 - p)
    counts: FloatArray = LOWER + (FIGURE_2.rollouts - LOWER * len(p)) * a / a.sum()
    return counts


def heuristic(spec: str) -> IntArray:
    """Counts (16,) of a heuristic allocator that knows every p."""
    allocator = allocators.create(spec)
    assert isinstance(allocator, Inverse)

    def known(prompts: IntArray) -> FloatArray:
        return P[prompts]

    rng = np.random.default_rng(0)
    allocator.begin(Setting(FIGURE_2, RLOO(), "prompt", 1, 16, rng, success_probability=known))
    counts: IntArray = allocator.allocate(np.arange(16)[None], FIGURE_2)[0]
    return counts


def figure_2(sources: Sources) -> pd.DataFrame:
    """Rollouts against p: the theorems, the integers, and the heuristics in both readings."""
    real, whole = "Theorems 5.1 and 5.2, real numbers", "exact optimum in integers"
    printed = published("vip", "fig2").set_index("method")["value"]
    half = [float(count) for count in printed["vip"].split(";")]
    rule = "L + (C - BL) a / sum(a)"
    found = [as_published(real, rule, P.tolist(), half + half[::-1]), exact(real, rule, P, printed_rule(P))]
    for name, noise in NOISES.items():
        problem = Problem.of(noise, P, FIGURE_2.rollouts, LOWER, UPPER)
        found.append(exact(real, name, P, solve(problem, "continuous").counts[0]))
        found.append(exact(whole, name, P, solve(problem).counts[0]))
    for method in ("inverse_accuracy", "inverse_variance"):
        panel = method.replace("_", " ")
        code, text = "linear program (code)", "proportional (text)"
        shown = [float(count) for count in printed[method].split(";")]
        bounds = f"predictor=oracle,lower={LOWER},upper={UPPER}"
        found.append(as_published(panel, code, P.tolist(), shown))
        found.append(exact(panel, text, P, heuristic(f"{method}[{bounds}]")))
        found.append(exact(panel, code, P, heuristic(f"{method}[{bounds},rule=linear_program]")))
    return pd.concat(found, ignore_index=True)


# Table 4: seconds for a batch of 512 prompts, 8 rollouts each, between 4 and 16.

BATCH = 512
POOL = 17_000
PAPER_GP = "gp[noise=0,drift=1,belief=plug_in]"
WHOLE = "a step without these"


def chances() -> FloatArray:
    """Success probabilities of a batch, from Beta(.4, .6)."""
    return np.random.default_rng(20260201).beta(0.4, 0.6, BATCH)


def recorded_slsqp(sources: Sources) -> float:
    """Recorded seconds of what the released code does: SLSQP on sum p(1-p)/n; see results/solver_speed."""
    text = sources.recorded("solver_speed/table.txt").read_text()
    found = re.search(r"^ *SLSQP.* ([\d.]+) s ", text, re.MULTILINE)
    if found is None:
        raise ValueError("results/solver_speed/table.txt: no line of SLSQP in seconds")
    return float(found[1])


def allocate(noise: Objective, p: FloatArray, solver: str) -> object:
    """Solve for 8 rollouts a prompt on average, from 4 to 16 each."""
    return solve(Problem.of(noise, p, 8 * BATCH, 4, 16), solver)


def gp_step(spec: str) -> Callable[[], object]:
    """Make a step of a predictor in a pool of VIP's size, with vectors of as many numbers as MiniLM's."""
    rng = np.random.default_rng(20260201)
    features = rng.standard_normal((1, POOL, 384), dtype=np.float32)
    features /= np.sqrt(np.einsum("rqd,rqd->rq", features, features))[..., None]
    predictor = predictors.create(spec)
    budget = Budget(BATCH, 8 * BATCH)
    predictor.begin(Setting(budget, RLOO(), "prompt", 1, POOL, rng, features=features))
    prompts, counts = rng.choice(POOL, BATCH, replace=False)[None], np.full((1, BATCH), 8)
    outcomes = Outcomes(prompts, counts, rng.binomial(counts, chances()))

    def step() -> object:
        predictor.update(outcomes)
        return predictor.predict(prompts)

    return step


def table_4(sources: Sources) -> pd.DataFrame:
    """Seconds, and percent of a published step, of the parts of VIP's overhead."""
    p = chances()
    theirs = published("vip", "table4")
    of_small = theirs[theirs.setting.str.contains("1.5B")]
    paper = dict(zip(of_small.method, of_small.value.astype(float), strict=True))
    nothing = np.array(np.nan)
    measured = {
        "allocation: SLSQP, as released": Interval(np.array(recorded_slsqp(sources)), nothing, nothing)
    }
    calls: dict[str, Callable[[], object]] = {}
    solvers = [
        ("allocation: cvxpy, RLOO", RLOONoise(), "cvxpy"),
        ("allocation: Theorem 5.1, rounded", DrGRPONoise(), "rounded"),
        ("allocation: Theorem 5.2, rounded", RLOONoise(), "rounded"),
        ("allocation: integers, Dr. GRPO", DrGRPONoise(), "auto"),
        ("allocation: integers, RLOO", RLOONoise(), "auto"),
    ]
    if importlib.util.find_spec("cvxpy") is None:
        del solvers[0]
    for name, noise, solver in solvers:
        calls[name] = functools.partial(allocate, noise, p, solver)
    calls["GP: as printed"] = gp_step(PAPER_GP)
    if not sources.quick:
        calls["GP: with noise and variances"] = gp_step("gp")
    measured |= {name: median_seconds(call, 6 if sources.quick else 9) for name, call in calls.items()}
    said = {
        WHOLE: paper["rollout_sampling"] + paper["log_prob"] + paper["policy_update"],
        "allocation: SLSQP, as released": paper["rollout_allocation"],
        "GP: kernel matrix, cached": paper["kernel_matrix"],
        "GP: as printed": paper["gp_train_predict"],
    }
    order = [WHOLE, "allocation: SLSQP, as released", *calls, "GP: kernel matrix, cached"]
    found = []
    for panel, factor in (("time", 1.0), ("share of the published step", 100 / PUBLISHED_STEP_SECONDS)):
        for name in order:
            if name in said:
                found.append(as_published(panel, "measured here", [name], [factor * said[name]]))
            if name in measured:
                scaled = Interval(*(factor * part for part in measured[name]))
                found.append(rows(panel, "measured here", [name], scaled))
    return pd.concat(found, ignore_index=True)


# Propositions 4.2, 4.3, E.1 and E.2 by simulation

SIZES = np.array([2, 3, 4, 6, 8, 12, 16, 24, 32])
SHAPE, MEAN = 9.0, 3.0
"""Shape and mean of Z ~ Gamma, whose variance is 1."""


Rewards = Callable[[np.random.Generator, tuple[int, int, int]], FloatArray]
Scores = Callable[[np.random.Generator, FloatArray], FloatArray]


def simulate(
    estimator: str,
    rewards: Rewards,
    n: int,
    quick: bool,
    scores: Scores | None = None,
) -> FloatArray:
    """Simulate variances (64,) over groups of n of the gradient (1/n) sum A Z, each of many groups.

    `rewards` draws rewards, `scores` draws Z when they are given; without it Z has nothing to do with them.
    """
    rng = np.random.default_rng([20260201, n])
    reward = rewards(rng, (64, 400 if quick else 2000, n))
    z = rng.gamma(SHAPE, MEAN / SHAPE, reward.shape) if scores is None else scores(rng, reward)
    advantage = reward - reward.mean(axis=-1, keepdims=True)
    if estimator == "RLOO":
        advantage *= n / (n - 1)
    if estimator == "GRPO":
        spread = reward.std(axis=-1, ddof=1, keepdims=True)
        advantage /= np.where(spread > 0, spread, 1.0)
    gradient = (advantage * z).mean(axis=-1)
    variance: FloatArray = gradient.var(axis=-1, ddof=1)
    return variance


def plus_minus(p: float) -> Rewards:
    """Make draws of rewards +-1 with success probability p."""
    return lambda rng, shape: np.where(rng.random(shape) < p, 1.0, -1.0)


def partial(rng: np.random.Generator, shape: tuple[int, int, int]) -> FloatArray:
    """Draw rewards 0, 1/2 and 1 with chances 1/2, .3 and .2."""
    return rng.choice([0.0, 0.5, 1.0], size=shape, p=[0.5, 0.3, 0.2])


PARTIAL_VARIANCE = 0.3 * 0.25 + 0.2 - (0.15 + 0.2) ** 2


def closed_form(name: str, p: float, n: IntArray) -> FloatArray:
    """Variance of the projected gradient under Assumption 4.1, for Var(Z) = 1 and rewards +-1.

    GRPO divides by the rewards' standard deviation, so that their scale is gone: no factor of 4.
    """
    noise = moments(ESTIMATORS[name], np.full(n.shape, p), n).noise
    return noise if name == "GRPO" else 4 * noise


def propositions(sources: Sources) -> pd.DataFrame:
    """Variance against group size: closed forms as lines, simulations with their intervals."""
    n = np.arange(2, 33)
    found = []
    for p in (0.5, 0.1):
        for name in ESTIMATORS:
            panel = f"rewards -1 and 1, p = {p:g}"
            found.append(exact(panel, name, n, closed_form(name, p, n)))
            drawn = np.array([simulate(name, plus_minus(p), int(size), sources.quick) for size in SIZES])
            found.append(rows(panel, f"{name}[simulated]", SIZES, mean_interval(drawn)))
    scale = PARTIAL_VARIANCE / 0.25
    for name, noise in NOISES.items():
        panel = "rewards 0, 1/2, 1 (Props E)"
        values = scale * noise.at(np.full(n.shape, 0.5), n)
        found.append(exact(panel, name, n, values))
        drawn = np.array([simulate(name, partial, int(size), sources.quick) for size in SIZES])
        found.append(rows(panel, f"{name}[simulated]", SIZES, mean_interval(drawn)))
    return pd.concat(found, ignore_index=True)


def wider_where_solved(rng: np.random.Generator, reward: FloatArray) -> FloatArray:
    """Draw Z with a standard deviation twice as large where the reward is 1; its mean is the same."""
    z = rng.gamma(SHAPE, MEAN / SHAPE, reward.shape)
    return np.where(reward > 0, MEAN + 2 * (z - MEAN), z)


def longer_where_solved(rng: np.random.Generator, reward: FloatArray) -> FloatArray:
    """Draw Z with a mean half as large again where the reward is 1; its variance is the same."""
    return rng.gamma(SHAPE, MEAN / SHAPE, reward.shape) + np.where(reward > 0, MEAN / 2, 0.0)


def assumption(sources: Sources) -> pd.DataFrame:
    """Variance by the Proposition over that of simulations, for groups of 8.

    The Proposition takes the true Var(Z) of all rollouts. The gradients of RLOO and Dr. GRPO are
    multiples of each other, so one panel is for both.
    """
    chances = np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98])
    ways: dict[str, tuple[Scores | None, FloatArray]] = {
        "Assumption 4.1 holds": (None, np.ones_like(chances)),
        "Var(Z) fourfold where solved": (wider_where_solved, 1 + 3 * chances),
        "Z longer by half where solved": (
            longer_where_solved,
            1 + chances * (1 - chances) * (MEAN / 2) ** 2,
        ),
    }
    found = []
    for panel, name in (("RLOO and Dr. GRPO", "RLOO"), ("GRPO", "GRPO")):
        for way, (scores, variance) in ways.items():
            printed = variance * [closed_form(name, p, np.array([8]))[0] for p in chances]
            drawn = np.array([simulate(name, plus_minus(p), 8, sources.quick, scores) for p in chances])
            ratio = ratio_interval(np.broadcast_to(printed[:, None], drawn.shape), drawn)
            found.append(rows(panel, way, chances, ratio))
    return pd.concat(found, ignore_index=True)


# Next: rewards that are not 0 or 1

TESTS = 4
CORRELATIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], FloatArray]] = {
    "tests passed together as often in all prompts": lambda rng, shape: np.full(shape, 0.5),
    "more in some prompts: correlation uniform": lambda rng, shape: rng.random(shape),
    "all or nothing in half of them, else independent": lambda rng, shape: rng.integers(2, size=shape).astype(
        np.float64
    ),
}
"""How rewards of a prompt, the share of four tests passed, correlate between tests."""


def other_rewards(sources: Sources) -> pd.DataFrame:
    """Variance over that of equal groups: allocated by mean (1 - mean), or by the rewards' true variance.

    A reward is the share of four tests that pass, beta-binomial: its variance is m(1-m)(1 + 3c)/4 with c
    the correlation of two tests.
    """
    pools, prompts = 64 if sources.quick else 512, 64
    found = []
    for condition, correlation in CORRELATIONS.items():
        rng = np.random.default_rng(20260201)
        mean = rng.beta(0.4, 0.6, (pools, prompts))
        variance = mean * (1 - mean) * (1 + (TESTS - 1) * correlation(rng, mean.shape)) / TESTS
        for name, noise in NOISES.items():
            half = np.full(mean.shape, 0.5)
            true = Problem.of(noise, half, 8 * prompts, 4, 16, variance)
            uniform = true.value(np.full(mean.shape, 8))
            for series, weights in (("mean (1 - mean)", mean * (1 - mean)), ("Var(R)", variance)):
                counts = solve(Problem.of(noise, half, 8 * prompts, 4, 16, weights)).counts
                found.append(rows(name, series, [condition], ratio_interval(true.value(counts), uniform)))
    return pd.concat(found, ignore_index=True)


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "vip_fig2",
        "VIP Fig. 2: rollouts of 16 prompts by success probability, 256 in all, 4 to 32 each",
        figure_2,
        Curves("success probability p", "rollouts", marked=LOOKS),
        said="The printed VIP curve is a simple rule, not what its theorems give. "
        "The rule is 4 + 77.14 p(1-p). Theorem 5.1 is Dr. GRPO's, 5.2 is RLOO's. The printed heuristics "
        "are linear programs; the text says proportional. Printed curves lie under the ones that reproduce "
        "them.",
    ),
    Redrawn(
        "vip_table4",
        "VIP Table 4: time of what VIP adds to a step of 512 prompts",
        table_4,
        Rows(
            {"time": "seconds", "share of the published step": "% of 3,672.78 s"},
            log="x",
            marked=LOOKS,
            bare="SLSQP was timed once.",
        ),
        said="8 rollouts each, of 4 to 16. Solved by another method, the allocation takes next to "
        "none. "
        "Published: one GPU, its type is not given. Ours: this machine's CPU, median with its 95% "
        f"interval; SLSQP once, see results/solver_speed. Pool of {POOL:,} prompts with 384 features; ours "
        "computes the kernel anew in each step.",
    ),
    Redrawn(
        "vip_propositions",
        "VIP Propositions 4.2, 4.3, E.1, E.2, and GRPO's: variance of a group's projected gradient",
        propositions,
        Curves("rollouts in the group, n", "variance / Var(Z)", columns=3, log="xy", marked=LOOKS),
        said="Closed form and simulated; the paper lacks GRPO's. "
        "Under Assumption 4.1: Z ~ Gamma of mean 3, whatever the reward. Whiskers are 95% intervals. "
        "GRPO's rewards are divided by their standard deviation.",
    ),
    Redrawn(
        "vip_assumption",
        "VIP Propositions where Assumption 4.1 fails: variance as printed over the simulated one, groups of "
        "8",
        assumption,
        Curves("success probability p", "printed / simulated", level=1.0, log="y", marked=LOOKS),
        said="The Propositions are given the true variance of Z over all rollouts of a prompt, and err where "
        "Z depends on the reward. 95% intervals.",
    ),
    Redrawn(
        "vip_nextrewards",
        "What VIP leaves to check: rewards that are shares of four tests",
        other_rewards,
        Rows("variance / variance of equal groups", level=1.0, marked=LOOKS),
        said="Variance of the gradient (Props E.1 and E.2), over that of equal groups. "
        "Allocated by mean (1 - mean) or by the true Var(R), both known exactly: 64 prompts, 8 rollouts "
        "each, of 4 to 16, means Beta(.4, .6). 95% intervals over pools.",
    ),
)
