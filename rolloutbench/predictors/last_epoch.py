"""The success rate at the last visit: the predictor of Knapsack RL (arXiv 2509.25849)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors.moving_average import MovingAverage
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class LastEpoch(MovingAverage):
    """Each prompt's success rate at its last visit: a moving average without memory."""

    decay: ClassVar[float] = 0.0  # type: ignore[misc]
    unseen: Annotated[float, Field(ge=0, le=1)] = 0.5
