"""What the catalogue's metrics are made of: formulas over the curves of one run.

A metric is declared with its formula, `Metric(..., of=Ratio("trained", "steps"))`, and `curves` evaluates
it on every run. Any function from a `Measured` to an array of one value a replicate is a formula too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from rolloutbench.cells.collectors import CALIBRATION_BINS
from rolloutbench.protocol import FloatArray


class Recorded(Protocol):
    """Columns recorded in R replicates over some steps: a scenario's, or of a prediction an epoch's."""

    @property
    def sums(self) -> Mapping[str, FloatArray]:
        """The sum (R,) over the steps of every recorded column that is a sum, by name."""

    def mean(self, column: str) -> FloatArray:
        """Mean (R,) of what was recorded in a column over the steps, NaN where nothing was."""


class Measured(Recorded, Protocol):
    """One allocator's training runs in a scenario, beside the reference runs that fix their targets."""

    def level(self, column: str, axis: str) -> FloatArray:
        """Value (R,) of a curve where the run has spent, on an axis, what the reference run spent."""

    def area(self, axis: str) -> FloatArray:
        """Mean gain in accuracy (R,) over what the reference run spent on an axis."""

    def reached(self, axis: str, share: float) -> tuple[FloatArray, FloatArray]:
        """When on an axis, and whether (R,), accuracy came to a share of the reference run's gain."""


Formula: TypeAlias = Callable[..., FloatArray]
"""A function of what was `Recorded`, or of a training run as `Measured`, to one value a replicate (R,)."""


@dataclass(frozen=True)
class Ratio:
    """One sum of a run over another; several sums are each divided, then added.

    Names are those of `collectors.Totals.columns` and of a simulator's or real run's own sums. A
    denominator below `least` counts as `least`, so that a run without any has a ratio of 0.
    """

    above: str | tuple[str, ...]
    below: str
    least: float = 1.0

    def __call__(self, run: Recorded) -> FloatArray:
        """The ratio of the two sums, (R,)."""
        below = np.maximum(run.sums[self.below], self.least)
        first, *others = (self.above,) if isinstance(self.above, str) else self.above
        found = run.sums[first] / below
        for name in others:
            found = found + run.sums[name] / below
        return found


@dataclass(frozen=True)
class Mean:
    """The mean of a column over the scenario's steps."""

    column: str

    def __call__(self, run: Recorded) -> FloatArray:
        """The mean of each replicate, (R,)."""
        return run.mean(self.column)


@dataclass(frozen=True)
class Level:
    """The value of a curve at equal spending on an axis; `optional` where not every study records it."""

    column: str
    axis: str
    optional: bool = False

    def __call__(self, run: Measured) -> FloatArray:
        """The value of each replicate, (R,)."""
        return run.level(self.column, self.axis)


@dataclass(frozen=True)
class Area:
    """The area under the gain in accuracy over an axis, divided by the axis' length."""

    axis: str

    def __call__(self, run: Measured) -> FloatArray:
        """The mean gain of each replicate, (R,)."""
        return run.area(self.axis)


@dataclass(frozen=True)
class When:
    """What was spent on an axis until accuracy came to a share of the reference run's gain."""

    axis: str
    share: float

    def __call__(self, run: Measured) -> FloatArray:
        """The spending of each replicate, (R,)."""
        return run.reached(self.axis, self.share)[0]


@dataclass(frozen=True)
class Whether:
    """Whether accuracy came to a share of the reference run's gain in time: 1, or 0."""

    axis: str
    share: float

    def __call__(self, run: Measured) -> FloatArray:
        """1 or 0 for each replicate (R,)."""
        return run.reached(self.axis, self.share)[1]


def calibration_error(judged: Recorded) -> FloatArray:
    """Expected calibration error (R,): the mean over prompts of |predicted - actual| of their bin."""
    off, prompts = (np.zeros(1) for _ in range(2))
    for b in range(CALIBRATION_BINS):
        off = off + np.abs(judged.sums[f"predicted@{b}"] - judged.sums[f"actual@{b}"])
        prompts = prompts + judged.sums[f"prompts@{b}"]
    return off / prompts
