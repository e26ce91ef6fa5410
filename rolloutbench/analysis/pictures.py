"""A study's figures as a report takes them: one scenario's, each with a title and its numbers in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rolloutbench.cells.collectors import COUNT_PREFIX

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES_HEIGHT = 2.7
"""Height in inches of a narrow figure of lines, without its legend."""

Listed = Callable[[str], str]
"""A function from a metric to its numbers as the scenario's table shows them: 'uniform 1, vip 1.20 ±0.03'."""


class Picture(NamedTuple):
    """A figure, its title, what it shows in numbers, and its height in inches; None leaves it as it is."""

    figure: Figure
    title: str
    says: str
    height: float | None = None


def bars_height(summary: pd.DataFrame) -> float:
    """Height in inches of a narrow figure with one bar for each allocator of `summary`."""
    return 0.9 + 0.16 * int(summary.allocator.nunique())


def counts_said(summary: pd.DataFrame) -> str:
    """Mean rollouts of the hardest prompts, of those nearest p = 1/2, and of the easiest; or nothing.

    `summary` is one scenario's part of `Results.summary`.
    """
    counts = summary[summary.metric.str.startswith(COUNT_PREFIX)]
    if counts.empty:
        return ""
    p = counts.metric.str.removeprefix(COUNT_PREFIX).astype(float)
    said = []
    for name, rows in counts.groupby(counts.allocator, sort=False):
        at = p[rows.index].to_numpy()
        places = [int(np.argmin(np.abs(at - wanted))) for wanted in (0.0, 0.5, 1.0)]
        found = " / ".join(f"{value:.3g}" for value in rows.estimate.to_numpy()[places])
        said.append(f"{name} {found}")
    return f"Rollouts at the lowest, a middle and the highest probability: {', '.join(said)}."
