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
        "global_mean": "rolloutbench.predictors.global_mean:GlobalMean",
        "kalman": "rolloutbench.predictors.kalman:Kalman",
        "ridge": "rolloutbench.predictors.ridge:Ridge",
        "gp": "rolloutbench.predictors.gp:GP",
        "sparse_gp": "rolloutbench.predictors.sparse_gp:SparseGP",
        "svgp": "rolloutbench.predictors.svgp:SVGP",
        "ensemble": "rolloutbench.predictors.ensemble:Ensemble",
        "arcsine": "rolloutbench.predictors.arcsine:Arcsine",
        "neighbours": "rolloutbench.predictors.neighbours:Neighbours",
        "markov": "rolloutbench.predictors.markov:Markov",
    },
    group="rolloutbench.predictors",
)
names, create = predictors.names, predictors.create
register, describe = predictors.register, predictors.describe
PredictorSpec = Annotated[Predictor, BeforeValidator(predictors.create)]
