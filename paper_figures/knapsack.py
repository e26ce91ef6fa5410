"""Knapsack RL's figures (arXiv 2509.25849): what a rollout is worth, who gets it, how many are of use.

V(n; p) = [1 - p^n - (1-p)^n] p (1-p)^2, at the success rates of the last epoch, 2 <= n <= 128. Its text has
no table that we could read; what is drawn in grey is what its abstract and reviews say.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.selection import STUDY, counts, panels
from paper_figures.series import between, by_success, compared, exact, rows, runs, scaled
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.analysis.plotting.style import DASHED, SOLID, Style
from rolloutbench.analysis.statistics import mean_interval
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.objectives import KnapsackValue, NonZeroGradient
from rolloutbench.solvers import Problem, solve

METHOD = "knapsack"
ORACLE = "knapsack[predictor=oracle]"
PHASES = {"first epoch": (0, 0.1), "until half of the steps": (0.1, 0.5), "second half": (0.5, 1)}
"""Phases of training as shares of its 150 steps, which are evaluated every 5; an epoch is 16 steps."""
COUNTS = {f"n = {n}": n for n in (2, 8, 32, 128)}
LINES = {
    "n = 2": Style("#88CCEE"),
    "n = 8": Style("#44AA99", 1, DASHED),
    "n = 32": Style("#117733", 2, SOLID[2:]),
    "n = 128": Style("#332288", 3, SOLID[1:]),
}
LIMIT = "information gain"
VALUE, CHANCE = "value of n rollouts", "chance of a non-zero gradient"
THEIRS = "the paper"
PERCENT, SHARE, ACCURACY = "useful rollouts, relative", "useful rollouts, share", "held-out accuracy"
GAINS = {PERCENT: "% more than uniform", SHARE: "points above uniform", ACCURACY: "points above uniform"}
POOLS = {
    "weak: Beta(.4, 2.6)": (0.4, 2.6),
    "u-shaped: Beta(.4, .6)": (0.4, 0.6),
    "strong: Beta(2.6, .4)": (2.6, 0.4),
}


def values(_: Sources) -> pd.DataFrame:
    """Value of n rollouts over p, its limit, and the chance of a non-zero gradient in it."""
    p = np.linspace(0, 1, 121)
    found = [exact(VALUE, LIMIT, p, p * (1 - p) ** 2)]
    for panel, objective in {VALUE: KnapsackValue(), CHANCE: NonZeroGradient()}.items():
        found += [exact(panel, name, p, objective.at(p, np.full(p.shape, n))) for name, n in COUNTS.items()]
    return pd.concat(found)


def allocation(sources: Sources) -> pd.DataFrame:
    """Rollouts by success probability: before anything is known, and later."""
    return by_success(*counts(sources, (BASELINE, METHOD, "vip[predictor=oracle]")), PHASES)


def largest(sources: Sources) -> pd.DataFrame:
    """Largest count in a batch of 512 with 8 each on average: at the true p, and at k/8."""
    panel, replicates = "largest count of a batch", 8 if sources.quick else 64
    found = [as_published(panel, METHOD, [THEIRS], [_published("abstract", "largest_count", "one prompt")])]
    for name, shape in POOLS.items():
        rng = np.random.default_rng(0)
        p = rng.beta(*shape, (replicates, 512))
        for series, believed in {ORACLE: p, METHOD: rng.binomial(8, p) / 8}.items():
            most = np.where(believed == 1, 2, 128)  # what is left over does not go to the solved ones
            allocated = solve(Problem.of(KnapsackValue(), believed, 512 * 8, 2, most)).counts
            found.append(rows(panel, series, [name], mean_interval(allocated.max(axis=1).astype(float))))
    return pd.concat(found)


def effective(sources: Sources) -> pd.DataFrame:
    """Share of groups, and of rollouts, with a gradient over training."""
    curves = sources.curves(
        STUDY, "groups", "effective", "trained", "ineffective", allocators=(BASELINE, METHOD)
    )
    found = []
    for scenario, name in panels(sources).items():
        steps = sources.steps(STUDY)[scenario]
        for allocator, run in runs(curves, scenario).items():
            found.append(between(run, f"{name}: groups", allocator, "effective", "groups", steps))
            lost = between(run, f"{name}: rollouts", allocator, "ineffective", "trained", steps)
            found.append(lost.assign(value=1 - lost.value, low=1 - lost.high, high=1 - lost.low))
        known = _published("effective", "share_non_zero_gradients", "iteration 1000")
        found.append(as_published(f"{name}: rollouts", BASELINE, [steps], [known]))
    table = pd.concat(found)
    return table.sort_values("panel", key=lambda panels: panels.str.endswith("rollouts"), kind="stable")


def gain(sources: Sources) -> pd.DataFrame:
    """Rollouts in groups with both rewards, and accuracy, against uniform; published beside them."""
    measured = sources.values(STUDY, "ineffective_ratio", "accuracy_at_steps")
    useless = measured.metric == "ineffective_ratio"
    measured["value"] = measured.value.where(~useless, 1 - measured.value)
    shares = [_published("abstract", "percent_more_non_zero_gradients", end) for end in ("least", "most")]
    points = [_published("abstract", "points_above_grpo", end) for end in ("least", "most")]
    found = []
    for panel, (metric, how, known) in {
        PERCENT: ("ineffective_ratio", "ratio", shares),
        SHARE: ("ineffective_ratio", "difference", shares),
        ACCURACY: ("accuracy_at_steps", "difference", points),
    }.items():
        found.append(as_published(panel, METHOD, 2 * [THEIRS], known))
        for scenario, name in panels(sources).items():
            part = compared(measured, metric, how, panels={scenario: panel}, allocators=[METHOD])
            found.append(scaled(part, 100, -100 if how == "ratio" else 0).assign(x=name))
    return pd.concat(found)


def _published(item: str, metric: str, setting: str) -> float:
    table = published("knapsack", item)
    return float(table.value[(table.metric == metric) & (table.setting == setting)].iloc[0])


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "knapsack_values",
        "Knapsack Proposition 1: the value of n rollouts, a chance times an information gain that "
        "peaks at p = 1/3.",
        values,
        Curves(
            "success probability of the prompt",
            {VALUE: "value", CHANCE: "probability"},
            marked={**LINES, LIMIT: Style("#888888", 0, DASHED)},
        ),
        said="Computed. The information gain p(1-p)^2 is the value of infinitely many rollouts.",
    ),
    Redrawn(
        "knapsack_allocation",
        "Knapsack: allocation by true success probability: uniform in the first epoch, then most "
        "where few succeed.",
        allocation,
        Curves("success probability of the prompt", "rollouts per prompt", columns=3, same_y=True),
        (STUDY,),
        "u-shaped start, 8 rollouts per prompt on average. Knapsack goes by the last epoch's rates.",
    ),
    Redrawn(
        "knapsack_largest",
        "Knapsack: the most rollouts that one prompt of a batch gets, for 8 per prompt on average.",
        largest,
        Rows("rollouts", columns=1),
        said="Computed: 512 prompts, by their true success probabilities (oracle) or by 8 rollouts of each. "
        "Grey: up to 93 in the paper.",
    ),
    Redrawn(
        "knapsack_effective",
        "Knapsack: non-zero gradients over training: groups with both rewards, and rollouts in such groups.",
        effective,
        Curves("training steps", "share", columns=3),
        (STUDY,),
        "Grey: uniform decays to about 20% by iteration 1000 of the paper, drawn at the end of ours.",
    ),
    Redrawn(
        "knapsack_gain",
        "Knapsack: what it gains over the run: far more rollouts in groups with both rewards, and "
        "little accuracy.",
        gain,
        Rows(GAINS, columns=3, level=0.0),
        (STUDY,),
        "Useful: in a group with both rewards. Grey: the abstract's 20 to 40% more non-zero gradients, which "
        "can be read as relative or as a share, and its 2 to 4 points on average.",
    ),
)
