"""A model of the features, corrected by what each prompt's own visits said.

The features predict prompts never visited; a prompt's own rollouts say what no feature does. Here the
feature model's Gaussian belief about a logit is the centre of `kalman`'s prior, and the population is
that of the deviations from the centres, in units of their standard deviations: how wrong the features
are is learned, so a model that promises too much or too little is put right. The feature model learns
from the same rollouts, so a prompt's own outcome enters twice, once through its features. That weighs
little as long as the model shares its weights among many prompts, which is why the default is
`sparse_gp` and not `gp`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.predictors import PredictorSpec
from rolloutbench.predictors.kalman import Kalman
from rolloutbench.predictors.logit import LogitPredictor, Logits
from rolloutbench.protocol import InputError, IntArray, Outcomes, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Ensemble(Kalman):
    """A feature model (`base`) as the prior of a Kalman filter on each prompt's own logit.

    The prior's mean and variance are in units of the base's own uncertainty: at first it is believed.
    """

    prior_variance: Annotated[float, Field(gt=0)] = 1.0
    base: PredictorSpec = "sparse_gp"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Raise InputError unless the base is a predictor of logits."""
        if not isinstance(self.base, LogitPredictor):
            name = type(self.base).__name__
            raise InputError(f"base={name}: the ensemble needs a predictor of logits, as gp or sparse_gp")

    def begin(self, setting: Setting) -> None:
        """Start afresh, together with the base."""
        super().begin(setting)
        self.base.begin(setting)

    def centre(self, prompts: IntArray) -> Logits:
        """The base's belief about the logits: what the features say."""
        assert isinstance(self.base, LogitPredictor)
        return self.base.logits(prompts)

    def update(self, outcomes: Outcomes) -> None:
        """Update the corrections first, against what the features said before; then the feature model."""
        super().update(outcomes)
        self.base.update(outcomes)

    def state_dict(self) -> State:
        """What the filter and the base learned."""
        return {**super().state_dict(), "base": self.base.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore the filter and the base."""
        super().load_state_dict(state)
        self.base.load_state_dict(state["base"])
