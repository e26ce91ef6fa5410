"""Predictors that watch a training run: who knows the success probability best?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from rolloutbench.allocators import allocators
from rolloutbench.analysis import tables
from rolloutbench.analysis.curves import prediction_metrics
from rolloutbench.analysis.metrics import PREDICTION_METRICS
from rolloutbench.analysis.pictures import LINES_HEIGHT, Listed, Page, Picture, Plot
from rolloutbench.analysis.results import Results
from rolloutbench.cells.cell import Cell
from rolloutbench.cells.collectors import BASELINE, HORIZON
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Predictor
from rolloutbench.studies.cost import PROMPT_SECONDS, STEP_SECONDS, Cost, simulated
from rolloutbench.studies.defaults import DEFAULT_PREDICTORS, FEATURELESS_PREDICTORS
from rolloutbench.studies.description import (
    Description,
    Flag,
    PredictorField,
    choose,
    choose_scenarios,
    wrong,
)
from rolloutbench.studies.study import Study
from simulators.learning import BLOCK
from simulators.pools import FrozenScenario
from simulators.prediction import prediction_cells
from simulators.scenarios import DEFAULT_SCENARIOS, LearningScenario
from simulators.traced import TracedScenario

if TYPE_CHECKING:
    from rolloutbench.analysis.plotting.panels import Captioned


class PredictionResults(Results):
    """Predictors that watch a training run."""

    kind = "prediction"
    title = "Predictors of the success probability"
    question = "Who predicts the success probability best while the policy learns?"
    metrics = PREDICTION_METRICS
    default_sort = "brier_later"
    columns = tables.PREDICTION_COLUMNS
    heat_metrics = ("brier_later", "mae_first_epoch", "mae_later")
    drawn = "judged"
    who = "predictor"

    @cached_property
    def judged(self) -> pd.DataFrame:
        """Every judgement of every predictor, step and replicate."""
        return self.read("judged")

    def measured(self, table: pd.DataFrame) -> pd.DataFrame:
        """Scores over the first epoch and later."""
        scores = [name for name in table if table[name].dtype == np.float64]
        judged = table.astype(dict.fromkeys(scores, np.float32))
        judged.to_parquet(self.directory / "judged.parquet", index=False, compression="zstd")
        return prediction_metrics(table)

    def figures(self) -> Iterator[Plot]:
        """Error over the run, and calibration in each scenario."""
        from rolloutbench.analysis.plotting import prediction as plots

        yield Plot(
            "prediction_error",
            "Error of the prediction over the run",
            "judged",
            "mae",
            lambda page, shown: plots.prediction_error(
                self.judged[self.judged.scenario.isin(shown)], self.conditions, page
            ),
        )
        for name in self.shown_scenarios():
            yield Plot(
                f"calibration_{name}",
                f"Calibration in {name.partition('[')[0]}",
                "judged",
                "prompts@0",
                partial(self._calibration, plots.calibration, name),
                by_scenario=False,
            )

    def _calibration(
        self, draw: Callable[..., Captioned], scenario: str, page: Page, _: Sequence[str]
    ) -> Captioned:
        return draw(self.judged[self.judged.scenario == scenario], self.conditions, page)

    def pictures(self, scenario: str, listed: Listed) -> Iterator[Picture]:
        """Error over the run, and calibration."""
        from rolloutbench.analysis.plotting import prediction as plots

        judged = self.judged[self.judged.scenario == scenario]
        yield Picture(
            plots.prediction_error(judged, "", self.page()),
            "Error of the prediction over the run",
            "Lines of the mean absolute error of predicted success probabilities against steps. In the first "
            f"epoch: {listed('mae_first_epoch')}. Later: {listed('mae_later')}.",
            LINES_HEIGHT,
        )
        yield Picture(
            plots.calibration(judged, ""),
            "Calibration",
            "True against predicted success probability, a panel a predictor; the diagonal is right. "
            f"Calibration error later: {listed('calibration_error_later')}.",
        )


@dataclass(frozen=True)
class PredictionStudy(Study):
    """Predictors that watch one allocator's training run."""

    results = PredictionResults

    scenarios: dict[str, LearningScenario | TracedScenario]
    predictors: dict[str, Predictor]

    def cells(self, directory: Path) -> Sequence[Cell]:
        """A cell for each scenario and block of replicates."""
        (allocator,) = self.allocators.values()
        how = allocator, self.estimator, self.aggregation, self.replicates, self.seed
        return prediction_cells(self.scenarios, self.predictors, *how)

    def cost_of(self, scenario: LearningScenario | TracedScenario) -> Cost:
        """What its cells cost: one run a block of replicates, which all predictors watch."""
        step = STEP_SECONDS * len(self.predictors) + scenario.prompts * BLOCK * PROMPT_SECONDS
        return simulated(-(-self.replicates // BLOCK), HORIZON * scenario.steps * step)

    def conditions(self, scenario: str | None = None) -> str:
        """Who was watched, and how."""
        (name,) = self.allocators
        of = "" if scenario is None else f"{self.scenarios[scenario].caption}, "
        return (
            f"watching {name}, {self.estimator_name}, aggregation {self.aggregation}, {of}"
            f"{self.replicates} replicates, seed {self.seed}"
        )

    def record(self) -> dict[str, Any]:
        """Everything that its results are shown with, predictors among it."""
        return {
            **super().record(),
            "predictors": {name: repr(made) for name, made in self.predictors.items()},
        }


class Prediction(Description):
    """Predictors that watch one allocator's training run."""

    study: Literal["predict"] = "predict"
    predictors: Annotated[
        PredictorField,
        Field(
            min_length=1,
            description="Repeatable; see `list predictor`. `uniform`, which knows nothing, is always in.",
        ),
        Flag("--predictor", "-p", metavar="SPEC", default="ten of them"),
    ] = None
    allocator: Annotated[
        str, Field(description="Whose training run they watch."), Flag(letter="-a", metavar="SPEC")
    ] = BASELINE
    sort: Annotated[
        str | None,
        Field(description="Metric that ranks: see `list metric`."),
        Flag(default="brier_later"),
    ] = None

    def build(self) -> PredictionStudy:
        """Training runs only. Raises InputError where names or their combination are wrong."""
        with self.named("scenarios"):
            chosen = choose_scenarios(self.scenarios or DEFAULT_SCENARIOS)
        for name, made in chosen.items():
            if isinstance(made, FrozenScenario):
                raise wrong(f"{self.where('scenarios')} {name}: nothing is learned in a snapshot")
        common = self._common(replicates=16)
        for name, made in chosen.items():
            self.check_group_size(made.group_size, common["estimator"], name)
        with self.named("allocator"):
            watched = {self.allocator: allocators.create(self.allocator)}
        with self.named("predictors"):
            blind = any(isinstance(made, TracedScenario) for made in chosen.values())
            default = FEATURELESS_PREDICTORS if blind else DEFAULT_PREDICTORS
            watching = choose(predictors, [BASELINE, *(self.predictors or default)], implied=BASELINE)
        return PredictionStudy(**common, allocators=watched, scenarios=chosen, predictors=watching)

    def resolved(self, study: Study) -> dict[str, Any]:
        """The content of a TOML file that describes it, with the predictors by name."""
        assert isinstance(study, PredictionStudy)
        return self._in_order(super().resolved(study) | {"predictors": list(study.predictors)})
