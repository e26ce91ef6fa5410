"""A study's figures: what can be drawn of it, for which page, and how a report takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from rolloutbench.cells.collectors import COUNT_PREFIX

if TYPE_CHECKING:
    from rolloutbench.analysis.plotting.panels import Captioned

COLUMN, WIDE = 3.3, 6.8
"""Widths of one and of two columns of print, in inches."""
LINES_HEIGHT = 2.7
"""Height in inches of a narrow figure of lines, without its legend."""
MOST_STRONG = 6
"""Most curves of a panel that are drawn in full; the others are pale."""
TICKS, NARROW_TICKS = 32, 24
"""Letters of an allocator's name beside its row, on a page of two columns and of one."""

Listed = Callable[[str], str]
"""A function from a metric to its numbers as the scenario's table shows them: 'uniform 1, vip 1.20 ±0.03'."""


@dataclass(frozen=True)
class Page:
    """What a figure is drawn for: its width in inches, who is shown, and who stands out.

    `only` are the names that are shown, all where it is empty. `ranked` are names in the order in which they
    stand out where there are more curves than can be told apart.
    """

    width: float = WIDE
    only: tuple[str, ...] = ()
    ranked: tuple[str, ...] = ()

    def shown(self, names: Iterable[object]) -> list[str]:
        """Names that are shown, in the order in which they are given."""
        return [str(name) for name in names if not self.only or name in self.only]

    def strong(self, names: Iterable[object]) -> set[str]:
        """Names whose curves are drawn in full: at most `MOST_STRONG` of those that are shown."""
        shown = self.shown(names)
        order = {name: place for place, name in enumerate(self.ranked)}
        return set(sorted(shown, key=lambda name: order.get(name, len(order)))[:MOST_STRONG])

    def shape(self, columns: int, height: float, least: float = 1.5) -> tuple[int, float]:
        """Panels in a row and a panel's height, for what a page of two columns has.

        No panel is narrower than `least` inches, unless the page is; narrower panels are less high.
        """
        fitting = max(1, min(columns, int(self.width / least)))
        narrower = min(1.0, self.width / fitting / (WIDE / columns))
        return fitting, height * (0.35 + 0.65 * narrower)

    @property
    def is_narrow(self) -> bool:
        """Whether names of rows leave no room for two panels side by side."""
        return self.width < (COLUMN + WIDE) / 2

    @property
    def letters(self) -> int:
        """Letters of an allocator's name beside its row."""
        return NARROW_TICKS if self.is_narrow else TICKS


PRINT = Page()
"""A page of two columns of print that shows everybody."""


class Plot(NamedTuple):
    """A figure that can be drawn of a study: its name, its title of one line, and what draws it.

    `table` is the study's table that it is drawn from, and `needs` what must be in it: a metric, or a column
    of a table that has no metrics. `draw` takes the page and the scenarios that are shown; a plot that is not
    `by_scenario` is of all of them at once.
    """

    name: str
    title: str
    table: str
    needs: str
    draw: Callable[[Page, Sequence[str]], Captioned]
    by_scenario: bool = True


class Picture(NamedTuple):
    """A figure, its title, what it shows in numbers, and its height in inches; None leaves it as it is."""

    figure: Captioned
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
