"""Training runs of a language model: who trains it most for the rollouts it pays for?"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from real_runs.models import default_cache, models
from real_runs.rewards import Rewards
from real_runs.settings import TRL, VLLM, RealScenario, engines, trainers
from real_runs.tasks import Task, digest, problems, tasks
from real_runs.tasks.prompted import PROMPT, Prompted
from real_runs.training import TrainingCell, training_cells
from rolloutbench.allocators import allocators
from rolloutbench.analysis.metrics import TRAINING_METRICS
from rolloutbench.analysis.pictures import Listed, Picture, Plot, bars_height
from rolloutbench.cells.collectors import BASELINE, HORIZON
from rolloutbench.files import write_whole
from rolloutbench.optional import need
from rolloutbench.protocol import InputError, TrainerAggregation
from rolloutbench.studies.cost import Cost
from rolloutbench.studies.defaults import TRAINING_ALLOCATORS
from rolloutbench.studies.description import AllocatorField, Description, Flag, RateField, choose
from rolloutbench.studies.kinds.learning import LearningResults, judged_at
from rolloutbench.studies.study import Study
from rolloutbench.tabular import read_table

PASS_RATES = "pass_rates.parquet"
"""The file of pass rates before training, in the directory of a study."""
MEASURED = "measured"
"""The key of the digest in the file of pass rates that says what they were measured of."""


class TrainingResults(LearningResults):
    """Training runs of a language model."""

    kind = "training"
    title = "Rollout allocators at equal cost, training a language model"
    question = "Which allocator trains a language model most for the rollouts it pays for?"
    metrics = TRAINING_METRICS
    gpus = 1

    def caption(self, scenario: str) -> str:
        """Under which conditions a table was made, and where the model started."""
        return f"{super().caption(scenario)}{self._start}"

    @property
    def _start(self) -> str:
        """How often the model was right before training; empty where that was not kept."""
        path = self.directory / PASS_RATES
        if not path.exists():
            return ""
        found = read_table(path)
        mixed = (found.pass_rate > 0) & (found.pass_rate < 1)
        return (
            f"; before training {found.pass_rate.mean():.0%} of rollouts were correct, and "
            f"{mixed.mean():.0%} of {len(found)} prompts were right at times in {found.trials.iloc[0]}"
        )

    def figures(self) -> Iterator[Plot]:
        """Figures of simulated runs, and what the seconds of a step are spent on."""
        from rolloutbench.analysis.plotting import costs

        yield from super().figures()
        yield Plot(
            "seconds_split",
            "What the seconds of a step were spent on",
            "summary",
            self.shown("seconds_per_step"),
            lambda page, shown: costs.seconds_split(
                self.judged[self.judged.scenario.isin(shown)], self.conditions, page
            ),
        )

    def pictures(self, scenario: str, listed: Listed) -> Iterator[Picture]:
        """What is drawn of simulated runs, and what the seconds went into."""
        from rolloutbench.analysis.plotting import costs

        yield from super().pictures(scenario, listed)
        summary = self.judged[self.judged.scenario == scenario]
        seconds = self.of_metric(self.shown("seconds_per_step"), scenario).estimate
        said = ", ".join(f"{name} {value:.3g}" for name, value in seconds.items())
        yield Picture(
            costs.seconds_split(summary, ""),
            "What the seconds were spent on",
            f"Stacked bars of measured seconds of a step by phase. Seconds of a step: {said}.",
            bars_height(summary),
        )


@dataclass(frozen=True)
class TrainingStudy(Study):
    """Training runs of a language model, followed until each has paid for half as much again as uniform's.

    `cache`, `checkpoint_every`, `keep_checkpoints` and `tensorboard` say how runs are kept and shown, which
    their results do not depend on.
    """

    results = TrainingResults

    scenarios: dict[str, RealScenario]
    aggregation: TrainerAggregation  # type: ignore[assignment]
    rates: tuple[float, ...]
    cache: Path
    checkpoint_every: int
    tensorboard: bool
    keep_checkpoints: bool

    @property
    def scenario(self) -> RealScenario:
        """The only scenario of the study."""
        (scenario,) = self.scenarios.values()
        return scenario

    def cells(self, directory: Path) -> list[TrainingCell]:
        """Task x allocator x seed, and the reference runs; checkpoints lie in `directory`/runs."""
        how = self.estimator, self.aggregation, self.replicates, self.seed
        return training_cells(
            self.scenarios,
            self.allocators,
            *how,
            rates=self.rates,
            cache=self.cache,
            runs=directory / "runs",
            checkpoint_every=self.checkpoint_every,
            tensorboard=self.tensorboard,
            keep_checkpoints=self.keep_checkpoints,
        )

    def cost_of(self, scenario: RealScenario) -> Cost:
        """What its runs cost, in rollouts of the model: seconds differ between models."""
        runs = self.replicates * (len(self.allocators) * len(self.rates) + 1)
        return Cost(runs, 0.0, runs * HORIZON * scenario.steps * scenario.budget.rollouts)

    def conditions(self, scenario: str | None = None) -> str:
        """Estimator, aggregation, budget, replicates, seed, model, engine."""
        told = [made.told for name, made in self.scenarios.items() if scenario in (None, name)]
        return (
            f"{self.estimator_name}, aggregation {self.aggregation}{judged_at(self.rates)}, "
            f"{'; '.join(told)}, {self.replicates} seeds, seed {self.seed}"
        )

    def finish(self, directory: Path) -> None:
        """Pass rates of the training prompts before training, unless those of this study are there."""
        if _measured(directory / PASS_RATES) == self._measured:
            return
        from real_runs.preparation import pass_rates  # with torch, which takes seconds

        rates = pass_rates(self.scenario, self.seed, self.cache)
        rates.attrs[MEASURED] = self._measured
        content = io.BytesIO()
        rates.to_parquet(content, index=False)
        write_whole(directory / PASS_RATES, content.getvalue())

    @property
    def _measured(self) -> str:
        """A digest of what the pass rates before training depend on: another study has others."""
        said = self.scenario.before_training(self.seed)
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]

    def record(self) -> dict[str, Any]:
        """Everything that its results are shown with; learning rates are factors of the trainer's."""
        scenario = self.scenario
        return {
            **super().record(),
            "learning_rates": list(self.rates),
            "steps": {name: made.steps for name, made in self.scenarios.items()},
            "training": {
                "task": repr(scenario.task),
                "model": repr(scenario.model),
                "engine": engines.spec_of(scenario.engine),
                "device": scenario.device,
                "prompts": scenario.prompts,
                "group_size": scenario.group_size,
                "pool_size": getattr(scenario.task, "pool_size", None),
            },
        }


def _weighted(text: str) -> tuple[str, float]:
    """Name and weight of `NAME` or `NAME=WEIGHT`."""
    name, given, weight = (part.strip() for part in text.partition("="))
    try:
        number = float(weight) if given else 1.0
    except ValueError:
        number = math.nan
    if not abs(number) < 1e6:  # nor is it NaN
        raise InputError(f"'{text}': NAME or NAME=WEIGHT is expected, with a number below a million")
    return name, number


def _measured(path: Path) -> str | None:
    """The digest in a file of pass rates; None where there is none."""
    try:
        attributes = json.loads((pq.read_metadata(path).metadata or {})[b"PANDAS_ATTRS"])
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return None
    return attributes.get(MEASURED) if isinstance(attributes, dict) else None


class Training(Description):
    """Allocators, in training runs of a language model."""

    study: Literal["train"] = "train"
    scenarios: None = None
    allocators: Annotated[
        AllocatorField,
        Field(min_length=1, description="Repeatable; see `list allocator`. `uniform` is always in."),
        Flag("--allocator", "-a", metavar="SPEC", default=", ".join(TRAINING_ALLOCATORS)),
    ] = None
    task: Annotated[
        str, Field(description="Prompts and verifier: see `list task`."), Flag(metavar="SPEC")
    ] = "sorting"
    template: Annotated[
        str | None,
        Field(
            description="How a prompt is asked: text with `{prompt}` in it, and `{answer}` where the "
            "response begins."
        ),
        Flag(metavar="TEXT", default="{prompt}"),
    ] = None
    shots: Annotated[
        int, Field(ge=0, le=1000, description="Solved examples before each prompt, of the training pool.")
    ] = 0
    system: Annotated[
        str | None,
        Field(description="System prompt, for the model's chat template."),
        Flag(metavar="TEXT"),
    ] = None
    stop: Annotated[
        list[str] | None,
        Field(description="Repeatable; text at which a response ends."),
        Flag(metavar="TEXT"),
    ] = None
    model: Annotated[
        str,
        Field(
            description="`tiny[...]`, made and warmed up here, `smollm2`, `hf[path=DIRECTORY or hub name]`."
        ),
        Flag(metavar="SPEC"),
    ] = "tiny"
    engine: Annotated[
        str,
        Field(description="What samples the rollouts: `transformers[rows=256,...]` or `vllm[...]`."),
        Flag(metavar="SPEC"),
    ] = "transformers"
    trainer: Annotated[
        str,
        Field(description="`ppo[learning_rate=1e-4,kl=0.01,...]`, or `trl[...]`: see `list trainer`."),
        Flag(metavar="SPEC"),
    ] = "ppo"
    aggregation: Annotated[
        Literal["prompt", "rollout", "token"],
        Field(description="The loss is a mean over prompts, over all rollouts, or over all tokens."),
    ] = "rollout"  # type: ignore[assignment]
    prompts: Annotated[int, Field(ge=2, le=1_000_000, description="Prompts per step.")] = 64
    group_size: Annotated[
        int | None,
        Field(ge=1, le=10_000, description="Rollouts per prompt on average."),
        Flag(default="8"),
    ] = None
    budget: Annotated[int | None, Field(ge=2, description="Rollouts per step, instead of --group-size.")] = (
        None
    )
    steps: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Training steps of uniform. Everybody is followed until 1.5 times their rollouts are "
            "paid.",
        ),
    ] = 100
    temperature: Annotated[float, Field(gt=0, le=100, description="Temperature of sampling.")] = 1.0
    replicates: Annotated[
        int | None,
        Field(ge=2, le=1_000_000, description="Runs of each allocator."),
        Flag("--seeds", default="3"),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Field(description="`auto`: the GPU, where there is one.")
    ] = "auto"
    learning_rates: Annotated[
        RateField,
        Field(
            min_length=1,
            description="Factors of the trainer's learning rate: each allocator is judged at its own best, "
            "chosen on other seeds than those it is judged by.",
        ),
        Flag(metavar="FACTORS", default="1", commas=True),
    ] = None
    evaluate_every: Annotated[int, Field(ge=1, description="Steps from one evaluation to the next.")] = 10
    evaluation_rollouts: Annotated[
        int, Field(ge=8, le=10_000, description="Rollouts of each held-out prompt at an evaluation; unpaid.")
    ] = 8
    initial_rollouts: Annotated[
        int,
        Field(ge=8, le=10_000, description="Rollouts of each prompt before training; unpaid."),
    ] = 16
    rewards: Annotated[
        list[str] | None,
        Field(
            description="Repeatable; a reward of the task's verifier, or `NAME=WEIGHT`: estimators see the "
            "weighted sum."
        ),
        Flag("--reward", metavar="NAME", default="1 for a success, 0 otherwise"),
    ] = None
    success: Annotated[
        str | None,
        Field(description="Name of the reward that says whether a rollout succeeded: above --threshold."),
        Flag(metavar="NAME", default="the task's rule; with --threshold the reward itself"),
    ] = None
    threshold: Annotated[
        float | None,
        Field(gt=-1e6, lt=1e6, description="A rollout succeeded where its reward is above it."),
        Flag(default="the task's rule; with --success 0.5"),
    ] = None
    overlong_buffer: Annotated[
        int,
        Field(
            ge=0,
            le=1_000_000,
            description="Tokens before the longest response in which rewards fall: DAPO's soft overlong "
            "punishment.",
        ),
    ] = 0
    overlong_penalty: Annotated[
        float, Field(ge=0, le=1e6, description="What a reward has fallen by at the end of that buffer.")
    ] = 1.0
    probe: Annotated[
        int,
        Field(ge=1, le=10_000, description="Unpaid rollouts by which an `oracle` predictor has p measured."),
    ] = 32
    checkpoint_every: Annotated[
        int, Field(ge=1, exclude=True, description="Steps; a killed run goes on from there.")
    ] = 10
    keep_checkpoints: Annotated[
        bool,
        Field(exclude=True, description="Keep those of finished runs: with more --steps they go on."),
    ] = False
    tensorboard: Annotated[
        bool, Field(exclude=True, description="Event files of every run in OUT/runs/tensorboard.")
    ] = False

    passed_on: ClassVar[tuple[str, ...]] = (
        *("temperature", "prompts", "steps"),
        *("evaluate_every", "evaluation_rollouts", "initial_rollouts", "probe"),
    )
    """Fields that a real scenario takes as they are."""

    def build(self) -> TrainingStudy:
        """Runs on one task. Raises InputError where names or their combination are wrong."""
        common = self._common(replicates=3)
        self.check_group_size(self._group_size(), common["estimator"])
        with self.named("allocators"):
            specs = self.allocators or TRAINING_ALLOCATORS
            chosen = choose(allocators, [BASELINE, *specs], implied=BASELINE)
        with self.named("task"):
            task = tasks.create(self.task)
        task = self._asked(task)
        with self.named("task"):
            train, held_out = problems(task, self.seed)
        if len(train) < self.prompts:
            raise InputError(
                f"{self.where('prompts')} {self.prompts}: a step draws as many, and the task "
                f"has {len(train)} to train on"
            )
        with self.named("model"):
            model = models.create(self.model)
        with self.named("engine"):
            engine = engines.create(self.engine)
        with self.named("trainer"):
            trainer = trainers.create(self.trainer)
        scenario = RealScenario(
            task=task,
            model=model,
            model_name=self.model,
            data=digest(train, held_out),
            engine=engine,
            trainer=trainer,
            device=self._device,
            group_size=self._group_size(),
            rewards=self._rewards(task),
            **{name: getattr(self, name) for name in self.passed_on},
        )
        rates = tuple(sorted({1.0, *(self.learning_rates or [])}))
        try:
            scenario.at_rate(rates[-1])
        except ValidationError:
            raise InputError(
                f"{self.where('learning_rates')} {rates[-1]:g}: times the trainer's "
                f"{trainer.learning_rate:g} is more than 1"
            ) from None
        return TrainingStudy(
            **common,
            allocators=chosen,
            scenarios={"".join(self.task.split()): scenario},
            rates=rates,
            cache=default_cache(),
            checkpoint_every=self.checkpoint_every,
            tensorboard=self.tensorboard,
            keep_checkpoints=self.keep_checkpoints,
        )

    def check(self, study: Study) -> None:
        """Raise InputError where every run would fail: without the GPU, the weights or the engine."""
        assert isinstance(study, TrainingStudy)
        scenario = study.scenario
        if scenario.device == "cuda" and not need("torch", "llm").cuda.is_available():
            raise InputError(f"{self.where('device')} cuda: torch sees no GPU here; cpu or auto is expected")
        with self.named("model"):
            scenario.model.check(scenario.task)
        with self.named("task"):
            scenario.task.verifier()
        vllm = isinstance(scenario.engine, VLLM)
        if self.stop and (vllm or isinstance(scenario.trainer, TRL)):
            raise InputError(
                f"{self.where('stop')}: only engine transformers with trainer ppo knows stop strings"
            )
        if isinstance(scenario.trainer, TRL):
            need("trl", "trl")
            if vllm:
                raise InputError(
                    f"{self.where('engine')} {self.engine}: trainer trl samples by itself, with transformers"
                )
        if vllm and importlib.util.find_spec("vllm") is None:
            need("vllm", "vllm")

    def resolved(self, study: Study) -> dict[str, Any]:
        """The content of a TOML file that describes it, with allocators, device and group size."""
        assert isinstance(study, TrainingStudy)
        chosen = super().resolved(study)
        del chosen["scenarios"]
        chosen.pop("budget", None)
        fixed: dict[str, Any] = {
            "device": study.scenario.device,
            "group_size": study.scenario.group_size,
            "learning_rates": list(study.rates),
        }
        return self._in_order(chosen | {"allocators": list(study.allocators)} | fixed)

    def _asked(self, task: Task) -> Task:
        """The task, in the template and with all else that a prompt is asked with."""
        if not (self.template or self.shots or self.system or self.stop):
            return task
        with self.named("template"):
            stop = tuple(self.stop or ())
            return Prompted(task, self.template or PROMPT, self.system or "", self.shots, stop)

    def _rewards(self, task: Task) -> Rewards:
        """What raw rewards of the task are worth. Raises InputError where it has none of that name."""
        with self.named("rewards"):
            weights = tuple(map(_weighted, self.rewards or []))
            names = [name for name, _ in weights]
            for place, name in enumerate(names):
                if name in names[:place]:
                    raise InputError(f"'{name}' is given twice")
            Rewards(weights).check(task)
        with self.named("success"):
            Rewards(success=self.success).check(task)
        made = Rewards(weights, self.success, self.threshold, self.overlong_buffer, self.overlong_penalty)
        with self.named("overlong_buffer"):
            made.check(task)
        return made

    def _group_size(self) -> int:
        if self.budget is None:
            return 8 if self.group_size is None else self.group_size
        size, rest = divmod(self.budget, self.prompts)
        if rest or size < 1 or self.group_size not in (None, size):
            raise InputError(
                f"{self.where('budget')} {self.budget}: rollouts of a step; {self.prompts} prompts x "
                f"{self.group_size or 'a whole number of'} rollouts is expected"
            )
        return size

    @functools.cached_property
    def _device(self) -> Literal["cpu", "cuda"]:
        if self.device != "auto":  # whether it is there is asked before it is used: results travel
            return self.device
        return "cuda" if need("torch", "llm").cuda.is_available() else "cpu"

    @property
    def on_gpu(self) -> bool:
        """Whether its runs train on a GPU."""
        return self._device == "cuda"
