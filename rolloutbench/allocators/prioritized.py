"""Prioritised sampling of Kimi k1.5 (arXiv 2501.12599): prompts in proportion to their failure rates.

Each prompt has a success rate s, and is drawn with a chance proportional to 1 - s; groups are equal. How s
is averaged over visits is not said: here a moving average, and s = 0 before the first visit, so that what
was never seen comes first. Its curriculum sampling, by labels from easy to hard, is not here. No code was
released. Nothing corrects the gradient for the sampling.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from rolloutbench.allocators.one_shot import Predicting
from rolloutbench.allocators.selection import Selecting, drawn_by_weight, everyone
from rolloutbench.predictors import PredictorSpec
from rolloutbench.protocol import BoolArray, IntArray, Provenance
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Prioritized(Predicting, Selecting):
    """Equal groups for prompts drawn in proportion to their failure rates."""

    goal: ClassVar[str] = "more for hard prompts"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2501.12599", note="the average over visits is not given in the report"
    )

    predictor: PredictorSpec = "moving_average[unseen=0]"  # type: ignore[assignment]

    def choose(self, among: BoolArray, count: int) -> IntArray:
        """Prompts (R, count) drawn one after the other in proportion to 1 - p, none twice."""
        p = self.predictor.predict(everyone(self.setting)).mean
        return drawn_by_weight(1 - p, among, count, self.setting.rng)
