"""What a real run is made of, in values that can be checked, hashed and written down. Needs no torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from real_runs.models import ModelChoice
from real_runs.tasks import TaskSpec
from rolloutbench.protocol import Aggregation, Budget
from rolloutbench.registry import PARAMETERS, Registry

TrainerAggregation: TypeAlias = Aggregation | Literal["token"]
"""`token`: mean over all trained tokens; prompts weigh as their rollouts' tokens."""


@dataclass(config=PARAMETERS, frozen=True)
class PPO:
    """AdamW on PPO's clipped objective, one batch a step; KL to the first model only where asked for.

    `clip_low`, `clip_high`: of the ratio. `epochs`: passes over the batch, an optimizer step each.
    `truncation`: most weight of a token whose sampler's probability differs from the trainer's. `stale`:
    rollouts kept from earlier steps have the ratio 1 (`recomputed`) or that to the policy that sampled
    them (`recorded`). `micro_batch`: most tokens, padding included, that are differentiated at once;
    results depend on it in rounding only, so it is no part of a run's name.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    gradient_norm: Annotated[float, Field(gt=0)] | None = 1.0
    epochs: Annotated[int, Field(ge=1)] = 1
    kl: Annotated[float, Field(ge=0)] = 0.0
    truncation: Annotated[float, Field(ge=1)] = 2.0
    stale: Literal["recomputed", "recorded"] = "recomputed"
    micro_batch: Annotated[int, Field(ge=1)] = field(default=16_384, compare=False)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


trainers: Registry[PPO] = Registry("trainer", {"ppo": PPO})
TrainerSpec = Annotated[PPO, BeforeValidator(trainers.create)]


@dataclass(config=PARAMETERS, frozen=True)
class RealScenario:
    """Conditions of a real run: task, model, engine, trainer, budget, and how it is evaluated.

    `initial_rollouts` and `evaluation_rollouts`: of each training and held-out prompt before training,
    and of each held-out prompt at an evaluation. They are measurements: nobody pays for them. `probe`:
    rollouts by which an `oracle` predictor has p measured, unpaid too, so it is an upper bound. `data`:
    hash of the problems, which a file or another version of a library may change.
    """

    task: TaskSpec = "sorting"  # type: ignore[assignment]
    model: ModelChoice = "tiny"  # type: ignore[assignment]
    engine: Literal["transformers", "vllm"] = "transformers"
    trainer: TrainerSpec = "ppo"  # type: ignore[assignment]
    device: Literal["cpu", "cuda"] = "cpu"
    temperature: Annotated[float, Field(gt=0)] = 1.0
    prompts: Annotated[int, Field(ge=2)] = 64
    group_size: Annotated[int, Field(ge=1)] = 8
    steps: Annotated[int, Field(ge=1)] = 100
    evaluate_every: Annotated[int, Field(ge=1)] = 10
    evaluation_rollouts: Annotated[int, Field(ge=8)] = 8
    initial_rollouts: Annotated[int, Field(ge=8)] = 16
    probe: Annotated[int, Field(ge=1)] = 32
    data: str = field(default="", repr=False)
    model_name: str = field(default="tiny", compare=False)

    @property
    def budget(self) -> Budget:
        """What uniform spends in a step."""
        return Budget(self.prompts, self.prompts * self.group_size)

    @property
    def told(self) -> str:
        """One line for captions."""
        return (
            f"{self.steps} steps of {self.prompts} prompts x {self.group_size} rollouts, "
            f"learning rate {self.trainer.learning_rate:g}, {self.model_name} on {self.device}, "
            f"engine {self.engine}"
        )
