"""Beliefs about success probabilities. Any of them goes with any objective."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from rolloutbench.protocol import Predictor
from rolloutbench.registry import Registry

predictors: Registry[Predictor] = Registry(
    "predictor",
    {
        "oracle": "rolloutbench.predictors.oracle:Oracle",
        "noisy_oracle": "rolloutbench.predictors.oracle:NoisyOracle",
        "uniform": "rolloutbench.predictors.uniform:Uniform",
        "beta": "rolloutbench.predictors.beta:Beta",
        "last_epoch": "rolloutbench.predictors.last_epoch:LastEpoch",
        "moving_average": "rolloutbench.predictors.moving_average:MovingAverage",
    },
    group="rolloutbench.predictors",
)
PredictorSpec = Annotated[Predictor, BeforeValidator(predictors.create)]
