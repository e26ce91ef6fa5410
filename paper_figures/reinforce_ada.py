"""Reinforce-Ada's figures (arXiv 2510.04996): rollouts by difficulty, what they cost, what they gain.

Three rules: `positive` samples until the first success, `balance` until half a group of successes and
half of failures, both in at most four rounds; `est` gives 1/sqrt(p) by an estimate. The paper compares at
equal steps, mostly with groups of 4; here groups are of 8, and uniform with 4 is run too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from paper_figures.drawing import Curves, Rows
from paper_figures.selection import STUDY, counts, panels
from paper_figures.series import EQUAL, by_success, compared, exact, expected_responses, named, points
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.analysis.yardsticks import method_of
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.protocol import FloatArray

BALANCE, POSITIVE, EST = "reinforce_ada", "reinforce_ada[exit=positive]", "reinforce_ada_est"
NAMES = {BALANCE: "seq_balance", POSITIVE: "seq_positive", EST: "est"}
"""Allocators here, and the names of their published counterparts."""
GROUP, ROUNDS = 8, 4
THEIRS = "the paper, 1.5B"
QUARTER = "uniform[divide=2]"
"""Uniform with groups of 4."""
COMPARED = {
    BASELINE: ("GRPO, 8 rollouts", "grpo_n8"),
    "dapo": ("DAPO", "dapo"),
    **{name: (method.replace("_", ", "), method) for name, method in NAMES.items()},
}


def expected_positive(p: FloatArray) -> FloatArray:
    """Expected rollouts E[N | p] of a prompt that leaves with its first success."""
    return expected_responses(p, ROUNDS, GROUP)


def expected_balance(p: FloatArray) -> FloatArray:
    """Expected rollouts E[N | p] of a prompt that leaves with half a group of each reward."""
    drawn, half = GROUP * np.arange(ROUNDS)[:, None], GROUP // 2
    enough = stats.binom.cdf(drawn - half, drawn, p) - stats.binom.cdf(half - 1, drawn, p)
    cost: FloatArray = GROUP * (1 - np.maximum(enough, 0)).sum(axis=0)
    return cost


def budget(sources: Sources) -> pd.DataFrame:
    """Rollouts of a prompt by its success probability: by the rules, and as generated."""
    p = np.linspace(0, 1, 101)
    return pd.concat(
        [
            exact("by the rule", POSITIVE, p, expected_positive(p)),
            exact("by the rule", BALANCE, p, expected_balance(p)),
            by_success(*counts(sources, (BASELINE, *NAMES)), {"as generated": (0, 1)}),
        ]
    )


def cost(sources: Sources) -> pd.DataFrame:
    """Seconds and rollouts of a step as multiples of uniform's."""
    known = published("reinforce_ada", "cost").set_index("method").value.astype(float)
    found = []
    for metric, panel in {"seconds_per_step": "seconds", "rollouts_per_step": "rollouts"}.items():
        values = sources.values(STUDY, metric)
        for scenario, name in panels(sources).items():
            found.append(compared(values, metric, panels={scenario: panel}, allocators=NAMES).assign(x=name))
        if metric == "seconds_per_step":
            found += [
                as_published(panel, ours, [THEIRS], [known[theirs] / known["grpo"]])
                for ours, theirs in NAMES.items()
            ]
    return pd.concat(found)


def accuracy(sources: Sources) -> pd.DataFrame:
    """Points of accuracy above groups of 4, by what is held equal."""
    values = sources.values(STUDY, *EQUAL)
    known = published("reinforce_ada", "accuracy").set_index("method").value.astype(float)
    found = []
    for metric, equal in EQUAL.items():
        shown = {scenario: f"{name}, {equal}" for scenario, name in panels(sources).items()}
        if metric == "accuracy_at_steps":
            found += [
                as_published(panel, method_of(ours), [label], [known[theirs] - known["grpo_n4"]])
                for panel in shown.values()
                for ours, (label, theirs) in COMPARED.items()
            ]
        part = compared(values, metric, "difference", QUARTER, shown, COMPARED)
        labels = {name: label for name, (label, _) in COMPARED.items()}
        found.append(named(points(part), labels))
    return pd.concat(found)


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "reinforce_ada_budget",
        "Reinforce-Ada: rollouts by difficulty: hunting for both classes is dear at both ends, for "
        "a success at one.",
        budget,
        Curves("success probability of the prompt", "rollouts per prompt", same_y=True),
        (STUDY,),
        f"u-shaped start; at most {ROUNDS} rounds of {GROUP}. est goes by estimates and has no such rule. "
        "The paper describes the u without numbers.",
    ),
    Redrawn(
        "reinforce_ada_cost",
        "Reinforce-Ada Table 3: a step's cost as a multiple of GRPO's.",
        cost,
        Rows("ratio to uniform", level=1.0),
        (STUDY,),
        "Grey: 290, 228 and 128 s against 102 s (8 H100); rollouts are not published. Our seconds are the "
        "simulated clock's.",
    ),
    Redrawn(
        "reinforce_ada_table",
        "Reinforce-Ada: main results: accuracy above GRPO with groups of 4, after equal steps and "
        "for equal rollouts.",
        accuracy,
        Rows("points above groups of 4", columns=3, level=0.0),
        (STUDY,),
        "Grey: Qwen2.5-Math-1.5B, mean of benchmarks at equal steps; GRPO with groups of 16 has +2.0 there. "
        "Its scripts keep 4 rollouts of rounds of 8, here 8 are kept.",
    ),
)
