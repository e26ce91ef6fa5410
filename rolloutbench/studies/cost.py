"""What a study costs, estimated from its description before a single cell is made.

The estimate is rough, by a factor of a few: it tells minutes from days, so that a number with too many
zeros is noticed before anything runs. Simulated studies are estimated in seconds of one core, from the
speed of this program on a core of 2025; training runs in rollouts, since models differ.
"""

from __future__ import annotations

from typing import NamedTuple

from rolloutbench.protocol import InputError

MOST_CELLS = 1_000_000
"""Cells of a study: a manifest that lists more takes minutes to write, each time."""
STEP_SECONDS = 2e-3
"""Seconds of one core for a simulated training step, whatever its size."""
PROMPT_SECONDS = 1e-6
"""Seconds of one core for a prompt of one replicate in a simulated step."""
SNAPSHOT_SECONDS = 2e-2
"""Seconds of one core for a cell of snapshots, whatever its size."""
WORTH_SAYING = 3600.0
"""Seconds of one core from which the estimate is said."""
MANY_ROLLOUTS = 1e8
"""Rollouts of a language model from which the estimate is said."""
LONGEST = 10 * 365.25 * 86_400
"""Seconds of one core beyond which a study is refused: nobody waits for it."""


class Cost(NamedTuple):
    """Cells, seconds of one core for simulated ones, rollouts of a language model for real ones."""

    cells: int
    seconds: float
    rollouts: float

    @property
    def said(self) -> str:
        """One line where somebody should know it before it begins, else nothing."""
        if self.rollouts > MANY_ROLLOUTS:
            return f"{self.cells:,} runs with about {self.rollouts:.2g} rollouts of the language model"
        if self.seconds > WORTH_SAYING:
            takes = f"roughly {_duration(self.seconds)} of one core"
            return f"{self.cells:,} cells, {takes}; Ctrl-C keeps what is done"
        return ""


def simulated(cells: int, seconds: float) -> Cost:
    """Cost of `cells` simulated cells of so many seconds each."""
    return Cost(cells, cells * seconds, 0.0)


def check(cost: Cost, replicates: int) -> None:
    """Raise InputError where a study of so many replicates would never end."""
    if cost.cells > MOST_CELLS:
        raise InputError(
            f"replicates={replicates}: makes {cost.cells:,} cells; at most {MOST_CELLS:,} are expected"
        )
    if cost.seconds > LONGEST:
        raise InputError(
            f"the study takes roughly {_duration(cost.seconds)} of one core; at most 10 years are expected"
        )


def _duration(seconds: float) -> str:
    """A time in the unit in which it can be read."""
    for unit, length in (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds / 60:,.0f} minutes"
