"""What people train with: an advantage rule, a mean and an optimizer, by one name.

Who wins depends on them. `grpo-rollout-adam` is what trainers do unasked (TRL, verl: advantages over the
group's standard deviation, every rollout counts the same, Adam); `rloo-prompt-sgd` is what VIP's formulas are
about, and the easiest to reason about. The grid has all eight.

A learning rate fits an optimizer. At .2 for Adam the area of uniform GRPO is .88 or more of that at the best
rate in every scenario. For SGD the rate is the scenario's own, which was chosen under RLOO; GRPO's advantages
are about twice as large, so it takes half of that.
"""

from __future__ import annotations

from dataclasses import field
from itertools import product
from typing import Annotated, get_args

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from rolloutbench.estimators import GRPO, EstimatorSpec
from rolloutbench.protocol import Aggregation
from rolloutbench.registry import PARAMETERS, Registry
from simulators.optimizers import OptimizerSpec

TRAINERS, PAPERS = "grpo-rollout-adam", "rloo-prompt-sgd"
"""The condition that trainers have by default, and that of most papers' formulas."""
OPTIMIZER = TRAINERS.rpartition("-")[2]
ALL = "all"
ADAM_RATE, SGD_RATE = 0.2, 12.0
"""Learning rates under a condition, where a scenario has another optimizer of its own."""
OF_GRPO = 0.5
"""Learning rate of SGD under GRPO, as a share of that under RLOO."""


@dataclass(config=PARAMETERS, frozen=True)
class Condition:
    """An advantage rule, how rollouts are averaged, and an optimizer."""

    name: str = field(repr=False, compare=False)
    estimator: EstimatorSpec
    aggregation: Aggregation
    optimizer: OptimizerSpec

    @property
    def parts(self) -> dict[str, str]:
        """Names of the three by what they are names of."""
        estimator, aggregation, optimizer = self.name.split("-")
        return {"estimator": estimator, "aggregation": aggregation, "optimizer": optimizer}

    @property
    def summary(self) -> str:
        """The condition in a line, for `rolloutbench list`."""
        rule = "GRPO with standard deviation" if isinstance(self.estimator, GRPO) else "RLOO"
        mean, optimizer = f"mean over {self.aggregation}s", type(self.optimizer).__name__
        note = {TRAINERS: "; the default of trainers", PAPERS: "; that of most papers' formulas"}
        return f"{rule}, {mean}, {optimizer}{note.get(self.name, '')}"


def _named(estimator: str, aggregation: str, optimizer: str) -> tuple[str, Condition]:
    name = f"{estimator}-{aggregation}-{optimizer}"
    return name, Condition(name, estimator, aggregation, optimizer)  # type: ignore[arg-type]


conditions: Registry[Condition] = Registry(
    "condition",
    dict(_named(*each) for each in product(("grpo", "rloo"), get_args(Aggregation)[::-1], ("adam", "sgd"))),
)
ConditionSpec = Annotated[Condition, BeforeValidator(conditions.create)]
"""The type of a parameter that is a condition, given by its name."""
