"""What a real run is made of, in values that can be checked, hashed and written down. Needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

import rolloutbench
from real_runs.models import ModelChoice
from real_runs.rewards import Rewards
from real_runs.tasks import TaskSpec
from real_runs.tasks.prompted import Prompted
from rolloutbench.cells.cell import describe
from rolloutbench.protocol import Budget, NoVerdict
from rolloutbench.registry import PARAMETERS, Registry


@dataclass(config=PARAMETERS, frozen=True)
class Transformers:
    """Sampling with transformers, from the trainer's own weights or a copy of them in bfloat16.

    `rows`: responses sampled side by side. `bf16`: whether to sample from a copy in bfloat16; `static`:
    whether to step at fixed shapes; `graphs`: whether to capture these steps. All three are by default on
    CUDA, where the network can.
    """

    name: ClassVar[str] = "transformers"
    """The engine's name in `real_runs.engines`."""

    rows: Annotated[int, Field(ge=1)] = 1024
    bf16: bool | None = None
    static: bool | None = None
    graphs: bool | None = None


@dataclass(config=PARAMETERS, frozen=True)
class VLLM:
    """Sampling with vLLM, from its own copy of the weights, in the trainer's process.

    `bf16`: whether the copy is in bfloat16; by default on CUDA. `gpu_memory`: the share of the GPU's memory
    that it may take.
    """

    name: ClassVar[str] = "vllm"
    """The engine's name in `real_runs.engines`."""

    bf16: bool | None = None
    gpu_memory: Annotated[float, Field(gt=0, lt=1)] = 0.3


engines: Registry[Transformers | VLLM] = Registry("engine", {"transformers": Transformers, "vllm": VLLM})
EngineSpec = Annotated[Transformers | VLLM, BeforeValidator(engines.create)]


@dataclass(config=PARAMETERS, frozen=True)
class ClippedPolicyGradient:
    """What every trainer of a real run has: AdamW on PPO's clipped objective, one batch a step.

    `clip_low`, `clip_high`: of the ratio. `epochs`: passes over the batch, an optimizer step each.
    """

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0, le=10_000_000)] = 20
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = 0.0
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0, le=1000)] = 0.28
    gradient_norm: Annotated[float, Field(gt=0, le=1e6)] | None = 1.0
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1


@dataclass(config=PARAMETERS, frozen=True)
class PPO(ClippedPolicyGradient):
    """AdamW on PPO's clipped objective, one batch a step; KL to the first model only where asked for.

    `truncation`: most weight of a token whose sampler's probability differs from the trainer's. `stale`:
    rollouts kept from earlier steps have the ratio 1 (`recomputed`) or that to the policy that sampled
    them (`recorded`). `no_verdict`: what is done with rollouts whose verifier failed, and, with
    `unfinished=lost`, with responses that did not end by themselves. `micro_batch`: most tokens, padding
    included, that are differentiated at once. `gradient_checkpointing`: whether layers are computed again
    for the gradient instead of kept, each response behind its own prompt. Results depend on these two in
    rounding only, so they are no part of a run's name. `lora`: rank of the adapters that are trained instead
    of the weights; 0 for none.
    """

    run: ClassVar[str] = "real_runs.training:TrainingRun"
    """Path of the class that follows a run with this trainer."""

    kl: Annotated[float, Field(ge=0, le=1000)] = 0.0
    truncation: Annotated[float, Field(ge=1, le=1e6)] = 2.0
    stale: Literal["recomputed", "recorded"] = "recomputed"
    no_verdict: NoVerdict = "zero"
    unfinished: Literal["scored", "lost"] = "scored"
    micro_batch: Annotated[int, Field(ge=1)] = field(default=16_384, compare=False)
    gradient_checkpointing: bool = field(default=False, compare=False)
    lora: Annotated[int, Field(ge=0, le=1024)] = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclass(config=PARAMETERS, frozen=True)
class TRL(ClippedPolicyGradient):
    """TRL's GRPOTrainer, which samples and trains.

    `no_verdict`: what is done with rollouts whose verifier failed. `micro_batch`: most rollouts that are
    differentiated at once, less where it does not divide a step's; results depend on it in rounding only.
    `release`: of TRL, with a hash of what drives it here.
    """

    run: ClassVar[str] = "real_runs.trl_training:TRLRun"
    """Path of the class that follows a run with this trainer."""

    no_verdict: NoVerdict = "zero"
    micro_batch: Annotated[int, Field(ge=1)] = field(default=64, compare=False)
    release: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Fill in the release, where TRL is installed."""
        try:
            known = version("trl")
        except PackageNotFoundError:
            known = "none"
        digest = hashlib.sha256()
        for name in ("coach.py", "integrations/trl.py", "rewards.py"):
            digest.update(Path(rolloutbench.__path__[0], name).read_bytes())
        object.__setattr__(self, "release", f"{known} {digest.hexdigest()[:16]}")


trainers: Registry[PPO | TRL] = Registry("trainer", {"ppo": PPO, "trl": TRL})
TrainerSpec = Annotated[PPO | TRL, BeforeValidator(trainers.create)]


@dataclass(config=PARAMETERS, frozen=True)
class RealScenario:
    """Conditions of a real run: task, model, engine, trainer, budget, and how it is evaluated.

    `initial_rollouts` and `evaluation_rollouts`: of each training and held-out prompt before training,
    and of each held-out prompt at an evaluation. They are measurements: nobody pays for them. `probe`:
    rollouts by which an `oracle` predictor has p measured, unpaid too, so it is an upper bound. `rewards`:
    what raw rewards are worth, and which rollouts succeed. `data`: hash of the problems, which a file or
    another version of a library may change.
    """

    task: TaskSpec = "sorting"  # type: ignore[assignment]
    model: ModelChoice = "tiny"  # type: ignore[assignment]
    engine: EngineSpec = "transformers"  # type: ignore[assignment]
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
    rewards: Rewards = Rewards()
    data: str = field(default="", repr=False)
    model_name: str = field(default="tiny", compare=False)

    def at_rate(self, factor: float) -> Self:
        """The scenario at so many times the trainer's learning rate. Raises ValidationError above 1."""
        rate = factor * self.trainer.learning_rate
        return replace(self, trainer=replace(self.trainer, learning_rate=rate))

    @property
    def budget(self) -> Budget:
        """Budget of a step: what uniform spends in it."""
        return Budget(self.prompts, self.prompts * self.group_size)

    def before_training(self, seed: int) -> Any:
        """All that pass rates before training depend on, with the seed, as values that can be hashed."""
        made = self.task, self.data, self.model, self.engine, self.device, self.temperature, self.rewards
        return describe([*made, self.initial_rollouts, seed])

    @property
    def told(self) -> str:
        """Conditions of the scenario in one line, for captions."""
        asked = f"asked with {self.task.told}, " if isinstance(self.task, Prompted) else ""
        return (
            f"{self.steps} steps of {self.prompts} prompts x {self.group_size} rollouts, {asked}"
            f"{self.rewards.told}{', ' * bool(self.rewards.told)}"
            f"learning rate {self.trainer.learning_rate:g}, {self.model_name} on {self.device}, "
            f"engine {engines.spec_of(self.engine)}{', trained by TRL' * isinstance(self.trainer, TRL)}"
        )
