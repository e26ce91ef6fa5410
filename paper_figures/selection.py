"""The study `selection`, which DAPO's, Reinforce-Ada's, CoBA-RL's and Knapsack's figures are drawn from."""

from __future__ import annotations

import pandas as pd

from paper_figures.series import COUNTS
from paper_figures.sources import Sources
from rolloutbench.analysis.yardsticks import method_of

STUDY = "selection"
BROAD = "u-shaped-adam-v1"
"""Scenario whose prompts have all difficulties."""
SCENARIOS = {
    "weak-cold-v1": "weak start",
    BROAD: "u-shaped start",
    "strong-saturating-v1": "strong start",
}


def panels(sources: Sources) -> dict[str, str]:
    """Titles of the study's scenarios by spec, in their order."""
    return {spec: SCENARIOS[method_of(spec)] for spec in sources.steps(STUDY)}


def counts(sources: Sources, allocators: tuple[str, ...]) -> tuple[pd.DataFrame, str, int]:
    """Curves of who gets how many rollouts in the broad scenario; its name and its steps."""
    spec = next(spec for spec in sources.steps(STUDY) if method_of(spec) == BROAD)
    curves = sources.table(STUDY, "curves", COUNTS, scenario=[spec], allocator=allocators)
    return curves, spec, sources.steps(STUDY)[spec]
