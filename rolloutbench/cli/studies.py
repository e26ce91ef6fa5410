"""The commands `compare` and `predict`: simulated studies."""

from __future__ import annotations

from pathlib import Path

from rolloutbench.api import Execution
from rolloutbench.cli.options import study_command
from rolloutbench.cli.results import carry_out
from rolloutbench.studies.kinds.comparison import Comparison
from rolloutbench.studies.kinds.prediction import Prediction


@study_command(Comparison, "rolloutbench-compare")
def compare(description: Comparison, out: Path, execution: Execution, as_json: bool) -> None:
    """Compare allocators at equal cost: who learns most from the rollouts it pays for?

    Every allocator trains the same simulated policy on the same prompts, in paired replicates, until it
    has paid for the same number of generated rollouts. Prints, for each scenario, rollouts and seconds to
    a target, the area under accuracy and what was wasted, against `uniform` with 95% intervals, then a
    ranking over all scenarios; writes `summary.csv`, `ranking.csv`, `per_replicate.parquet`,
    `curves.parquet` and plots.

    Scenarios whose names begin with `snapshot-` ask a smaller question exactly: how good is the gradient
    that an allocator buys in one step at frozen success probabilities? `--snapshot` runs four of them.
    `replay:PATH` asks it of a language model, by its recorded rollouts.

    What is finished is kept: the same command goes on where it was stopped or killed.

    `rolloutbench compare -a vip -a "dapo[carry=true]" -s u-shaped-v1 --learning-rates 0.5,1,2`

    `rolloutbench compare --snapshot -a vip -a "knapsack[predictor=oracle]" --estimator dr_grpo`

    `rolloutbench compare -s replay:bank.parquet -a dapo -a vip`

    `rolloutbench compare -s "measured[file=mine.csv,trials=n,optimizer=adam]" -s u-shaped-v1 -a vip`

    `rolloutbench compare --config study.toml --executor ray --out sweep`
    """
    carry_out(description, out, execution, as_json)


@study_command(Prediction, "rolloutbench-predict")
def predict(description: Prediction, out: Path, execution: Execution, as_json: bool) -> None:
    """Compare predictors of the success probability along a training run.

    All of them watch the same run. Before the rollouts of a step each says what it believes of the batch,
    and is judged against the true chance of reward at that moment: mean absolute error, Brier score, log
    loss, calibration, rank correlation. The first epoch, in which every prompt is new, is kept apart.

    `rolloutbench predict -p gp -p beta -p ensemble -s u-shaped-v1`
    """
    carry_out(description, out, execution, as_json)
