"""CoBA-RL's figures (arXiv 2602.03048): what a rollout is worth, who gets it, how long deciding takes.

V(n; p) = (1 - exp(-n p (1-p) / tau)) BetaPDF(p; alpha, kappa - alpha), and alpha follows the failure rate.
tau and the line from failure rate to alpha are not published; those of `rolloutbench.allocators.coba` are
shown, chosen so that alpha takes the three published values at failure rates of .72, .45 and .31.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.selection import STUDY, counts
from paper_figures.series import by_success, exact, median_seconds, rows
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.allocators.coba import CoBA
from rolloutbench.analysis.pictures import COLUMN
from rolloutbench.analysis.plotting.style import DASHED, Style
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.objectives import CoBAValue, Saturating, beta_density
from rolloutbench.solvers import Problem
from rolloutbench.solvers.concave import concave
from rolloutbench.solvers.dynamic import dynamic

PHASES = {"first third": (0, 1 / 3), "second third": (1 / 3, 2 / 3), "last third": (2 / 3, 1)}
ALLOCATORS = (BASELINE, "coba", "knapsack", "vip")
METHOD = CoBA()
RATES = {"20% fail": 0.2, "50% fail": 0.5, "80% fail": 0.8}
SUCCESS = {"p = 0.05": 0.05, "p = 0.2": 0.2, "p = 0.5": 0.5}
MEAN = 8
"""Rollouts of a prompt on average; the worth of the next one, the ninth, is shown."""
ALPHA, WEIGHT, VALUE, GAIN = "alpha", "weight of a prompt", "saturation", "worth of a ninth rollout"
PROMPTS, ROLLOUTS, BOUNDS = 512, 8192, (2, 128)
"""Prompts, rollouts and bounds of one allocation of the paper's size."""


def values(_: Sources) -> pd.DataFrame:
    """Parameter alpha, the density that it makes, and what rollouts are worth."""
    share, p, n = np.linspace(0, 1, 101), np.linspace(0, 1, 101), np.arange(1, 65)
    known = published("coba_rl", "alpha")
    found = [
        as_published(ALPHA, str(setting), list(share), [float(value)] * len(share))
        for setting, value in zip(known.setting, known.value, strict=True)
    ]
    found.append(exact(ALPHA, "coba", share, METHOD.alpha(share)))
    for name, rate in RATES.items():
        a = float(METHOD.alpha(np.array(rate)))
        found.append(exact(WEIGHT, name, p, beta_density(p, a, METHOD.kappa - a)))
    for name, chance in SUCCESS.items():
        found.append(exact(VALUE, name, n, Saturating(METHOD.tau).at(np.full(n.shape, chance), n)))
    for name, rate in RATES.items():
        a = float(METHOD.alpha(np.array(rate)))
        objective = CoBAValue(METHOD.tau, a, METHOD.kappa - a)
        found.append(exact(GAIN, name, p, objective.marginal(p, np.full(p.shape, MEAN + 1.0))))
    return pd.concat(found)


def allocation(sources: Sources) -> pd.DataFrame:
    """Rollouts by success probability in three phases of training."""
    return by_success(*counts(sources, ALLOCATORS), PHASES)


def seconds(sources: Sources) -> pd.DataFrame:
    """Median seconds of one allocation, measured now."""
    known = published("coba_rl", "cost").set_index("method").value.astype(float)
    p = np.random.default_rng(0).beta(0.4, 0.6, PROMPTS)
    objective = Saturating(METHOD.tau)
    weights = beta_density(p, METHOD.kappa / 2, METHOD.kappa / 2)
    problem = Problem.of(objective, p, ROLLOUTS, *BOUNDS, weights)
    panel, greedy, table = "one allocation", "greatest gains first", "dynamic program"
    few = 2 if sources.quick else 7  # it takes seconds, and an interval needs six
    return pd.concat(
        [
            as_published(panel, "coba", [greedy], [known["heap_greedy"]]),
            as_published(panel, "knapsack", [table], [known["dynamic_program"]]),
            rows(panel, "coba", [greedy], median_seconds(lambda: concave(problem), 50)),
            rows(panel, "knapsack", [table], median_seconds(lambda: dynamic(problem), few)),
        ]
    )


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "coba_rl_values",
        "CoBA-RL: the value function",
        values,
        Curves(
            {
                ALPHA: "failure rate of the batch",
                WEIGHT: "success probability of the prompt",
                VALUE: "rollouts",
                GAIN: "success probability of the prompt",
            },
            {
                ALPHA: "alpha",
                WEIGHT: "density at p",
                VALUE: "1 - exp(-n p(1-p))",
                GAIN: "gain in value",
            },
            marked={
                **{
                    name: Style(color, place)
                    for place, (name, color) in enumerate(
                        zip(RATES, ("#117733", "#CC6677", "#661100"), strict=True)
                    )
                },
                **{
                    name: Style(color, place, DASHED)
                    for place, (name, color) in enumerate(
                        zip(SUCCESS, ("#882255", "#6699CC", "#332288"), strict=True)
                    )
                },
                "early": Style("#000000"),
                "middle": Style("#000000", 1, DASHED),
                "late": Style("#000000", 2, ((0, (1, 1.5)),)),
            },
        ),
        said="The more rollouts fail, the larger alpha, and the easier the prompts that are worth a "
        "rollout. "
        "Computed; weight: Beta(alpha, 11 - alpha). Grey: the paper's alphas early, midway and late in "
        "training. It gives neither their failure rates, nor tau (here 1), nor the line to alpha.",
    ),
    Redrawn(
        "coba_rl_allocation",
        "CoBA-RL: allocation over training: CoBA-RL serves middling prompts, and turns to harder "
        "ones only a little.",
        allocation,
        Curves("success probability of the prompt", "rollouts per prompt", columns=3, same_y=True),
        (STUDY,),
        "u-shaped start, 8 rollouts per prompt on average. Each allocator goes by its own estimates.",
    ),
    Redrawn(
        "coba_rl_cost",
        "CoBA-RL: time of one allocation",
        seconds,
        Rows("seconds, median", columns=1, width=COLUMN, log="x"),
        said=f"{PROMPTS} prompts, {ROLLOUTS} rollouts, {BOUNDS[0]} to {BOUNDS[1]} each. "
        "Ours: one thread of this machine, both exact. Grey: the paper's heap, and the dynamic program "
        "of Knapsack RL, as it timed them.",
    ),
)
