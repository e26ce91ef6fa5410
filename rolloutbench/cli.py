"""The command line: `rolloutbench list`, `solve`, `compare`, `predict`, `train`, `record`, `fit`, `validate`,
`show`, `diff`, `merge`, `report`, `figures`, `claims`."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import typer
from pydantic import ValidationError

from real_runs.models import models
from real_runs.settings import trainers
from real_runs.tasks import tasks
from rolloutbench import __version__, tables
from rolloutbench.allocators import allocators
from rolloutbench.config import (
    QUICK,
    TRAINING_ALLOCATORS,
    Comparison,
    Description,
    Prediction,
    Training,
    merged,
)
from rolloutbench.difference import as_json as difference_as_json
from rolloutbench.difference import compare_studies
from rolloutbench.difference import tables as difference_tables
from rolloutbench.estimators import estimators
from rolloutbench.executors import Executor, Local, Ray, cores, memory_per_worker
from rolloutbench.experiment import Part
from rolloutbench.fitting import fit
from rolloutbench.metrics import BASELINE, METRICS
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.progress import Interrupted, Progress, TrainingProgress
from rolloutbench.protocol import MOST_ROLLOUTS, FloatArray, InputError, ProtocolError
from rolloutbench.registry import Entry, Registry
from rolloutbench.results import Results, open_results, study_in
from rolloutbench.solvers import SOLVERS, Allocation, Problem, solve
from rolloutbench.solvers.reference import reference
from rolloutbench.store import Store, write_whole
from rolloutbench.studies import Study
from rolloutbench.sweep import carry_out
from rolloutbench.sweep import merge as merge_studies
from rolloutbench.tabular import column, read_table
from rolloutbench.validation import as_json as validation_as_json
from rolloutbench.validation import tables as validation_tables
from rolloutbench.validation import validate as validate_studies
from rolloutbench.validation import write as write_validation
from simulators.optimizers import optimizers
from simulators.pools import difficulties
from simulators.scenarios import DEFAULT_SCENARIOS, scenarios
from simulators.snapshot import MONTE_CARLO_DRAWS

REGISTRIES: dict[str, Registry[Any]] = {
    "allocator": allocators,
    "predictor": predictors,
    "objective": objectives,
    "estimator": estimators,
    "scenario": scenarios,
    "task": tasks,
    "model": models,
    "trainer": trainers,
    "difficulty": difficulties,
    "optimizer": optimizers,
}

app = typer.Typer(
    name="rolloutbench",
    help="Rollout allocators for RL with verifiable rewards, compared at equal cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Run the command line: one clear line and exit code 2 for wrong input, 1 for a broken allocator."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing half-done is left
    code = 0
    try:
        code = app(standalone_mode=False) or 0
    except InputError as error:
        _fail(str(error), 2)
    except ProtocolError as error:
        _fail(str(error), 1)
    except typer.TyperException as error:
        _fail(_misused(error), error.exit_code)
    except MemoryError as error:
        _fail(f"not enough memory: {error}", 2)
    except OSError as error:
        _fail(str(error), 1)
    except Interrupted as error:
        _fail(str(error), 130)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # typer's own answer to Ctrl-C
        _fail("interrupted", code)
    sys.exit(code)


def _misused(error: typer.TyperException) -> str:
    """What typer says, and the value that it leaves out."""
    message = error.format_message().replace("Value error, ", "")
    if not message:  # no command: the help was shown
        sys.exit(error.exit_code)
    if isinstance(error.__cause__, ValidationError):
        given = error.__cause__.errors()[0]["input"]
        if f"'{given}'" not in message:
            option, _, rule = message.partition(": ")
            message = f"{option}: '{given}': {rule}"
    return message


def _fail(message: str, code: int) -> None:
    _say(message)
    sys.exit(code)


def _say(message: str) -> None:
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    print(f"rolloutbench: error: {line}", file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rolloutbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Scenarios = Annotated[
    list[str] | None,
    typer.Option(
        "--scenario",
        "-s",
        help="Repeatable; see `list scenario`, or `all`, or `all-snapshots`, or `replay:PATH` of a score "
        f"bank. Default: {', '.join(DEFAULT_SCENARIOS)}.",
        show_default=False,
        metavar="SPEC",
    ),
]
EstimatorName = Annotated[
    str | None, typer.Option(help="Advantage rule: see `list estimator`.", show_default="rloo")
]
AggregationName = Annotated[
    str | None,
    typer.Option(
        help="`prompt`: mean over prompts; `rollout`: mean over all rollouts.", show_default="prompt"
    ),
]
Seed = Annotated[int | None, typer.Option(help="Everything random follows from it.", min=0, show_default="0")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with the study: these options as keys, with underscores. Options given here win.",
        show_default=False,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(help="Processes; results do not depend on it.", min=1, show_default="all cores"),
]
Memory = Annotated[
    float | None,
    typer.Option(
        help="Most memory of a process in GiB; a cell that needs more fails.",
        min=0.1,
        show_default="the machine's, shared out",
    ),
]
ExecutorName = Annotated[
    Literal["local", "ray"], typer.Option(help="Where cells run: processes here, or a Ray cluster.")
]
Address = Annotated[
    str, typer.Option(help="Of the Ray cluster: `auto` finds the one of this machine, `local` starts one.")
]
Out = Annotated[Path, typer.Option(help="Directory for cells, table, data and plots.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace another study in --out; cells that both have are kept."),
]
Force = Annotated[bool, typer.Option("--force", help="Run finished cells again.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run cells again that failed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

Kind = Enum("Kind", {name: name for name in [*REGISTRIES, "solver", "metric"]}, type=str)  # type: ignore[misc]


@app.command("list")
def list_registered(
    kind: Annotated[Kind | None, typer.Argument(help="Only this kind.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Everything that has a name, with one line each.

    A name takes parameters in brackets, and where a parameter is itself such a thing, they nest:
    `vip[predictor=beta[discount=0.9],lower=4]`, `permuted[of=knapsack]`, `u-shaped-v1[visits=4]`.
    """
    found = {name: registry.describe() for name, registry in REGISTRIES.items()}
    found["solver"] = [
        Entry(name, "", (solver.__doc__ or "").partition("\n")[0]) for name, solver in SOLVERS.items()
    ]
    found["metric"] = [
        Entry(name, f"unit: {metric.unit or 'none'}", metric.meaning) for name, metric in METRICS.items()
    ]
    if kind is not None:
        found = {kind.value: found[kind.value]}
    if as_json:
        print(json.dumps({name: [entry._asdict() for entry in found[name]] for name in found}, indent=2))
        return
    out = tables.console()
    for name, entries in found.items():
        out.print(tables.registered(name, entries))
        out.print()


@app.command("solve")
def solve_command(
    p: Annotated[
        str,
        typer.Option(
            "--p",
            help="Success probabilities: `0.1,0.5,0.9`, or a CSV or Parquet file with a column `p` and, "
            "where wanted, `weight`, `cost` and `group`.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        int, typer.Option(help="Rollouts to spend, all of them.", min=0, max=10**12, show_default=False)
    ],
    lower: Annotated[int, typer.Option(help="Least rollouts of a prompt.", min=0, max=MOST_ROLLOUTS)] = 2,
    upper: Annotated[int, typer.Option(help="Most rollouts of a prompt.", min=0, max=MOST_ROLLOUTS)] = 128,
    objective: Annotated[str, typer.Option(help="See `rolloutbench list objective`.")] = "rloo",
    solver: Annotated[str, typer.Option(help="See `rolloutbench list solver`.")] = "auto",
    allow_zero: Annotated[
        bool, typer.Option("--allow-zero", help="A prompt may also get none: 0, or at least `--lower`.")
    ] = False,
    group_minimum: Annotated[
        list[str] | None,
        typer.Option(
            help="`LABEL=N`: the prompts of this group get N rollouts at least (solver cvxpy). Repeatable.",
            show_default=False,
        ),
    ] = None,
    column_name: Annotated[str, typer.Option("--column", help="The file's column of probabilities.")] = "p",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Allocate a budget over prompts, exactly.

    Prints the counts, the objective's value, the bound no allocation can beat (equal to the value when
    the allocation is proven best), and the price: what one more rollout would be worth.

    `rolloutbench solve --p 0.1,0.5,0.9 --budget 24 --lower 2 --upper 16 --objective rloo`

    With `--solver cvxpy` counts are real numbers and side constraints are possible: with a column `cost`
    (tokens per rollout) the budget is in tokens, and `--group-minimum easy=20` serves a group first.
    """
    rates, table, path = _probabilities(p, column_name)
    given = pd.DataFrame() if table is None else table.drop(columns=column_name)
    weights = column(given, "weight", path, low=0) if "weight" in given else 1.0
    costs = column(given, "cost", path, low=0) if "cost" in given else None
    minima = _minima(group_minimum or [])
    if solver != "cvxpy" and (minima or costs is not None):
        raise InputError(f"--solver {solver}: a column 'cost' and --group-minimum need --solver cvxpy")
    if minima and "group" not in given:
        raise InputError(f"--group-minimum {group_minimum}: needs a file with a column 'group'")
    # With costs the budget is one of tokens, and any number of rollouts between the bounds may be right.
    rollouts = budget if costs is None else upper * len(rates)
    problem = Problem.of(objectives.create(objective), rates, rollouts, lower, upper, weights, allow_zero)
    started = time.perf_counter()
    if solver == "cvxpy":
        tokens = None if costs is None else budget
        groups = given["group"].astype(str).tolist() if "group" in given else []
        found = reference(problem, costs=costs, tokens=tokens, groups=groups, minima=minima)
    else:
        found = solve(problem, solver)
    _print_allocation(rates, found, time.perf_counter() - started, as_json)


def _probabilities(text: str, column_name: str) -> tuple[FloatArray, pd.DataFrame | None, Path]:
    """Numbers given on the command line, or a file's column."""
    path = Path(text)
    if path.suffix.lower() in (".csv", ".txt", ".parquet") or os.path.isfile(path):
        table = read_table(path)
        return column(table, column_name, path, 0, 1), table, path
    values = []
    for part in text.split(","):
        try:
            values.append(float(part))
        except ValueError:
            raise InputError(f"--p: '{part.strip()}' is neither a number nor a CSV or Parquet file") from None
        if not 0 <= values[-1] <= 1:
            raise InputError(f"--p: {part.strip()}: a success probability lies in [0, 1]")
    return np.array(values), None, path


def _minima(texts: list[str]) -> dict[str, int]:
    minima = {}
    for text in texts:
        label, _, number = text.rpartition("=")
        if not (label and number.isascii() and number.isdigit()):
            raise InputError(f"--group-minimum {text}: expected LABEL=N")
        if label in minima:
            raise InputError(f"--group-minimum {text}: group '{label}' is given twice")
        minima[label] = int(number)
    return minima


def _print_allocation(rates: FloatArray, found: Allocation, seconds: float, as_json: bool) -> None:
    answer = {
        "counts": found.counts[0].tolist(),
        "value": float(found.value[0]),
        "bound": float(found.bound[0]),
        "price": float(found.price[0]),
        "seconds": seconds,
    }
    if as_json:
        print(json.dumps(answer))
        return
    columns = {
        "prompt": [str(i) for i in range(len(rates))],
        "p": [f"{rate:.4g}" for rate in rates],
        "rollouts": [f"{n:g}" if found.counts.dtype == np.int64 else f"{n:.2f}" for n in found.counts[0]],
    }
    out = tables.console()
    out.print(tables.allocation(columns))
    out.print(
        f"value {answer['value']:.6g}, bound {answer['bound']:.6g} (gap {float(found.gap[0]):.2g}), "
        f"price {answer['price']:.4g}, {seconds * 1e3:.2f} ms"
    )


@app.command()
def compare(
    allocator: Annotated[
        list[str] | None,
        typer.Option(
            "--allocator",
            "-a",
            help="Repeatable; see `list allocator`, or `all`. `uniform` is always in. Default: a dozen "
            "methods and controls.",
            show_default=False,
            metavar="SPEC",
        ),
    ] = None,
    scenario: Scenarios = None,
    estimator: EstimatorName = None,
    aggregation: AggregationName = None,
    prompts: Annotated[
        int | None,
        typer.Option(
            help="Prompts per step. Default: the scenario's.", min=2, max=1_000_000, show_default=False
        ),
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(
            help="Rollouts per prompt on average. Default: the scenario's.",
            min=1,
            max=10_000,
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps of uniform; others pay for as many rollouts. Default: the scenario's.",
            min=1,
            max=1_000_000,
            show_default=False,
        ),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Factors of the scenario's learning rate, as `0.5,1,2`: each allocator is then also shown "
            "at its own best, chosen on other replicates than those it is judged by.",
            metavar="FACTORS",
            show_default="1",
        ),
    ] = None,
    replicates: Annotated[
        int | None,
        typer.Option(
            help="Paired seeds. Default: 16 training runs, or 128 snapshots.",
            min=2,
            max=1_000_000,
            show_default=False,
        ),
    ] = None,
    seed: Seed = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="Metric that ranks: see `list metric`. Default: area_over_rollouts, or snr for snapshots.",
            show_default=False,
        ),
    ] = None,
    snapshot: Annotated[
        bool,
        typer.Option("--snapshot", help="One step at frozen p instead of training: the default snapshots."),
    ] = False,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Snapshots: estimate moments from this many steps per replicate, not by enumeration. "
            f"Allocators that are not one-shot always need it (then {MONTE_CARLO_DRAWS}).",
            min=2,
            max=100_000,
            show_default=False,
        ),
    ] = None,
    pass_rates: Annotated[
        Path | None,
        typer.Option(
            help="CSV or Parquet with measured pass rates: adds scenario `measured`.", show_default=False
        ),
    ] = None,
    column_name: Annotated[
        str | None, typer.Option("--column", help="Its column of pass rates.", show_default="pass_rate")
    ] = None,
    trials: Annotated[
        str | None,
        typer.Option(help="Its column of rollouts per prompt, to remove sampling error.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="16 replicates, for a first look.")] = False,
    config: Config = None,
    jobs: Jobs = None,
    memory: Memory = None,
    executor: ExecutorName = "local",
    address: Address = "auto",
    out: Out = Path("rolloutbench-compare"),
    overwrite: Overwrite = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
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

    `rolloutbench compare -a vip -a dapo[carry=true] -s u-shaped-v1 --learning-rates 0.5,1,2`

    `rolloutbench compare --snapshot -a vip -a knapsack[predictor=oracle] --estimator dr_grpo`

    `rolloutbench compare -s replay:bank.parquet -a dapo -a vip`

    `rolloutbench compare --config study.toml --executor ray --out sweep`
    """
    given = {
        "allocators": allocator,
        "scenarios": scenario,
        "estimator": estimator,
        "aggregation": aggregation,
        "prompts": prompts,
        "group_size": group_size,
        "steps": steps,
        "learning_rates": _rates(learning_rates),
        "replicates": QUICK if quick else replicates,
        "seed": seed,
        "sort": sort,
        "snapshot": snapshot or None,
        "draws": draws,
        "pass_rates": None if pass_rates is None else str(pass_rates),
        "column": column_name,
        "trials": trials,
    }
    options = _Options(jobs, memory, executor, address, out, overwrite, force, retry_failed, as_json)
    description = Comparison.of(_without_none(given), config)
    _carry_out(description, options, description.made())


@app.command()
def predict(
    predictor: Annotated[
        list[str] | None,
        typer.Option(
            "--predictor",
            "-p",
            help="Repeatable; see `list predictor`. `uniform`, which knows nothing, is always in.",
            show_default=False,
            metavar="SPEC",
        ),
    ] = None,
    scenario: Scenarios = None,
    allocator: Annotated[
        str | None,
        typer.Option("--allocator", "-a", help="Whose training run they watch.", show_default=BASELINE),
    ] = None,
    estimator: EstimatorName = None,
    aggregation: AggregationName = None,
    replicates: Annotated[
        int | None, typer.Option(help="Seeds.", min=2, max=1_000_000, show_default="16")
    ] = None,
    seed: Seed = None,
    sort: Annotated[
        str | None, typer.Option(help="Metric that ranks: see `list metric`.", show_default="brier_later")
    ] = None,
    config: Config = None,
    jobs: Jobs = None,
    memory: Memory = None,
    executor: ExecutorName = "local",
    address: Address = "auto",
    out: Out = Path("rolloutbench-predict"),
    overwrite: Overwrite = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
    """Compare predictors of the success probability along a training run.

    All of them watch the same run. Before the rollouts of a step each says what it believes of the batch,
    and is judged against the true chance of reward at that moment: mean absolute error, Brier score, log
    loss, calibration, rank correlation. The first epoch, in which every prompt is new, is kept apart.

    `rolloutbench predict -p gp -p beta -p ensemble -s u-shaped-v1`
    """
    given = {
        "predictors": predictor,
        "scenarios": scenario,
        "allocator": allocator,
        "estimator": estimator,
        "aggregation": aggregation,
        "replicates": replicates,
        "seed": seed,
        "sort": sort,
    }
    options = _Options(jobs, memory, executor, address, out, overwrite, force, retry_failed, as_json)
    description = Prediction.of(_without_none(given), config)
    _carry_out(description, options, description.made())


@app.command()
def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="TOML file with the study: these options as keys, with underscores. Options given win.",
            show_default=False,
        ),
    ] = None,
    allocator: Annotated[
        list[str] | None,
        typer.Option(
            "--allocator",
            "-a",
            help="Repeatable; see `list allocator`. `uniform` is always in. Default: "
            f"{', '.join(TRAINING_ALLOCATORS)}.",
            show_default=False,
            metavar="SPEC",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Prompts and verifier: see `list task`.", show_default="sorting", metavar="SPEC"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="`tiny[...]`, made and warmed up here, or `hf[path=DIRECTORY or hub name]`.",
            show_default="tiny",
            metavar="SPEC",
        ),
    ] = None,
    engine: Annotated[
        Literal["transformers", "vllm"] | None,
        typer.Option(help="What samples the rollouts.", show_default="transformers"),
    ] = None,
    trainer: Annotated[
        str | None,
        typer.Option(
            help="`ppo[learning_rate=1e-4,kl=0.01,...]`: see `list trainer`.",
            show_default="ppo",
            metavar="SPEC",
        ),
    ] = None,
    estimator: EstimatorName = None,
    aggregation: Annotated[
        Literal["prompt", "rollout", "token"] | None,
        typer.Option(
            help="The loss is a mean over prompts, over all rollouts, or over all tokens.",
            show_default="prompt",
        ),
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(help="Prompts per step.", min=2, max=1_000_000, show_default="64")
    ] = None,
    group_size: Annotated[
        int | None,
        typer.Option(help="Rollouts per prompt on average.", min=1, max=10_000, show_default="8"),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Rollouts per step, instead of --group-size.", min=2, show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps of uniform. Everybody is followed until 1.5 times their rollouts are paid.",
            min=1,
            max=1_000_000,
            show_default="100",
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling.", show_default="1")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each allocator.", min=2, max=1_000_000, show_default="3")
    ] = None,
    seed: Seed = None,
    sort: Annotated[
        str | None,
        typer.Option(help="Metric that ranks: see `list metric`.", show_default="area_over_rollouts"),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None,
        typer.Option(help="`auto`: the GPU, where there is one.", show_default="auto"),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(help="Steps; a killed run goes on from there.", min=1)
    ] = 10,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Event files of every run in OUT/runs/tensorboard.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs side by side.", min=1, show_default="all cores; on a GPU 1"),
    ] = None,
    out: Out = Path("rolloutbench-train"),
    overwrite: Overwrite = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    as_json: AsJson = False,
) -> None:
    """Train a language model with each allocator, for real: RLVR with the same objects as in `compare`.

    Every allocator starts from the same model and meets the same prompts; every rollout that it has
    sampled is on the bill. Prints and writes what `compare` does, with measured seconds, and
    what they were spent on. Needs the extra `llm`: torch and transformers.

    A run writes a checkpoint every few steps: the same command goes on where it was stopped or killed.

    `rolloutbench train -a vip -a ar3po --steps 60`

    `rolloutbench train --task "reasoning_gym[dataset=chain_sum]" --model "hf[path=Qwen/Qwen2.5-0.5B]"
    --engine vllm --device cuda`
    """
    given = {
        "allocators": allocator,
        "task": task,
        "model": model,
        "engine": engine,
        "trainer": trainer,
        "estimator": estimator,
        "aggregation": aggregation,
        "prompts": prompts,
        "group_size": group_size,
        "budget": budget,
        "steps": steps,
        "temperature": temperature,
        "replicates": seeds,
        "seed": seed,
        "sort": sort,
        "device": device,
    }
    description = Training.of(_without_none(given), config)
    made = description.made()
    description.check(made)
    study = dataclasses.replace(
        made, runs=out / "runs", checkpoint_every=checkpoint_every, tensorboard=tensorboard
    )
    (scenario,) = study.scenarios.values()
    on_gpu = scenario.device == "cuda"
    # A limit on address space would stop CUDA, which reserves far more than it uses.
    memory = UNLIMITED if on_gpu else None
    jobs = jobs or (1 if on_gpu else None)
    options = _Options(jobs, memory, "local", "auto", out, overwrite, force, retry_failed, as_json)
    _carry_out(description, options, study, TrainingProgress)
    if not (out / "pass_rates.parquet").exists():
        from real_runs.preparation import pass_rates  # with torch, which takes seconds

        pass_rates(scenario, study.seed, study.cache).to_parquet(out / "pass_rates.parquet", index=False)


UNLIMITED = float("inf")
"""Memory of a process."""


@app.command()
def record(
    config: Annotated[
        Path | None,
        typer.Argument(help="TOML file of a `train` study: task, model, trainer ...", show_default=False),
    ] = None,
    task: Annotated[str | None, typer.Option(help="See `list task`.", show_default="sorting")] = None,
    model: Annotated[str | None, typer.Option(help="See `list model`.", show_default="tiny")] = None,
    allocator: Annotated[
        str | None,
        typer.Option("--allocator", "-a", help="Whose training is recorded.", show_default=BASELINE),
    ] = None,
    at_steps: Annotated[
        str, typer.Option(help="Training steps after which scores are taken: `0,50,100`.", metavar="STEPS")
    ] = "0",
    pool: Annotated[
        int | None,
        typer.Option(
            help="Prompts that are recorded, of the training pool.", min=2, show_default="500, or all"
        ),
    ] = None,
    rollouts: Annotated[int, typer.Option(help="Of each prompt.", min=4, max=10_000)] = 32,
    dimensions: Annotated[
        int, typer.Option(help="Numbers in a score's sketch: a multiple of 64.", min=64, max=65_536)
    ] = 256,
    seed: Seed = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(show_default="auto")] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for the bank, and `scores` in it for tables and plots.")
    ] = Path("rolloutbench-record"),
    as_json: AsJson = False,
) -> None:
    """Record a score bank: rewards and gradients of single rollouts of a language model.

    A score is the gradient of a response's log-probability, kept as a sketch of a few hundred numbers and
    its length. `compare -s replay:OUT/bank.parquet` then compares any allocator on this model's real
    gradients, in seconds. Prints the tests of the assumption that VIP's formulas rest on, and how well they
    predict the measured variance of a prompt's gradient.

    `rolloutbench record --task sorting --at-steps 0,100 --pool 200`

    `rolloutbench record real/study.toml --out real` puts it beside the study that it belongs to, where `fit`
    finds it.
    """
    from real_runs import recording  # with torch, which takes seconds

    given = {
        "task": task,
        "model": model,
        "allocators": None if allocator is None else [allocator],
        "seed": seed,
        "device": device,
    }
    study = Training.of(_without_none(given), config).made()
    cell = next(cell for cell in study.cells() if cell.allocator_name == (allocator or BASELINE))
    at = _whole_numbers("--at-steps", at_steps)
    with tables.status(f"record: {out}") as tell:
        command = shlex.join(["rolloutbench", *sys.argv[1:]])
        found = recording.record(cell, at, pool, rollouts, dimensions, {"command": command}, tell)
    recording.write(found, out)
    if as_json:
        print(json.dumps(recording.as_json(found) | {"out": str(out)}, indent=1))
        return
    console = tables.console()
    for table in recording.tables(found):
        console.print(table)
        console.print()
    console.print(f"bank    {out / 'bank.parquet'}\nscores  {out / 'scores'}/", soft_wrap=True)


def _whole_numbers(option: str, text: str) -> list[int]:
    numbers = []
    for part in text.split(","):
        if not part.strip().isdecimal():
            raise InputError(f"{option}: '{part.strip()}' is no whole number")
        numbers.append(int(part))
    return sorted(set(numbers))


class _Options(NamedTuple):
    """How a study is carried out, which its results do not depend on."""

    jobs: int | None
    memory: float | None
    executor: str
    address: str
    out: Path
    overwrite: bool
    force: bool
    retry_failed: bool
    as_json: bool

    def workers(self) -> Executor:
        """The executor that is asked for."""
        if self.memory == UNLIMITED:
            return Local(self.jobs or cores(), None)
        memory = None if self.memory is None else int(self.memory * 2**30)
        if self.executor == "ray":
            return Ray(self.address, self.jobs, memory)
        jobs = self.jobs or cores()
        return Local(jobs, memory or memory_per_worker(jobs))


def _without_none(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def _rates(text: str | None) -> list[float] | None:
    """Factors of the learning rate."""
    if text is None:
        return None
    rates = []
    for part in text.split(","):
        try:
            rates.append(float(part))
        except ValueError:
            rates.append(float("nan"))
        if not 0 < rates[-1] < 1e6:
            raise InputError(f"--learning-rates: '{part.strip()}' is no number above 0")
    return rates


def _carry_out(
    description: Description,
    options: _Options,
    study: Study,
    progress_of: type[Progress] = Progress,
) -> None:
    """Run a study, leave its files, show its tables."""
    store = _run(description, options, study, progress_of)
    results = open_results(options.out)
    _show(results, options.as_json, store.failed)
    if store.failed:
        raise typer.Exit(_tell_failures(store))


def _run(
    description: Description, options: _Options, study: Study, progress_of: type[Progress] = Progress
) -> Store:
    """Run a study and leave its files."""
    with progress_of(description.study, options.out) as progress:
        return carry_out(
            study,
            _about(description, study),
            options.out,
            options.workers(),
            watcher=progress,
            force=options.force,
            retry_failed=options.retry_failed,
            overwrite=options.overwrite,
        )


def _command() -> str:
    return shlex.join(["rolloutbench", *sys.argv[1:]])


def _about(description: Description, study: Study) -> dict[str, Any]:
    """What is recorded beside the study itself."""
    return {
        "title": description.title,
        "question": description.question or study.results.question,
        "sort": description.sorted_by(study),
        "command": _command(),
        "config": description.resolved(study),
    }


def _show(results: Results, as_json: bool, failed: Mapping[str, Any] | None = None) -> None:
    """Tables, and where the files are; or JSON."""
    if as_json:
        summary = results.summary
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        answer = {"conditions": dict(results.record), "summary": rows, "out": str(results.directory)}
        print(json.dumps(answer | {"failed": list((failed or {}).values())}, indent=1))
        return
    console = tables.console()
    for table in results.tables():
        console.print(table)
        console.print()
    files = {"table": results.path("summary"), "data": results.path("per_replicate")}
    plots = results.directory / "plots"
    files["plots"] = plots if plots.is_dir() else None
    for kind, path in files.items():
        if path is not None:
            console.print(f"{kind:7}{path}{'/' * (path == plots)}", soft_wrap=True)


def _tell_failures(store: Store) -> int:
    """One line for each different failure; the exit code."""
    errors: dict[tuple[Part, str], int] = {}
    for key, failure in store.failed.items():
        about = store.manifest.cells[key].part, failure["error"]
        errors[about] = errors.get(about, 0) + 1
    for (part, error), times in errors.items():
        _say(f"{' '.join(part)}: {error} ({times} cell{'s' * (times > 1)})")
    _say(
        f"{len(store.failed)} of {len(store.manifest.cells)} cells failed, and what they are part of is left "
        "out; --retry-failed runs them again"
    )
    return 1


@app.command()
def show(
    directory: Annotated[Path, typer.Argument(help="Results of `compare` or `predict`.")],
    sort: Annotated[str | None, typer.Option(help="Another metric that ranks.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Print the tables of a study again.

    `rolloutbench show results/learning_default --sort rollouts_to_90`
    """
    results = open_results(directory)
    _show(results if sort is None else results.sorted_by(sort), as_json)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="Results of one study.")],
    after: Annotated[Path, typer.Argument(help="Results of another.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", help="Repeatable. Default: those that the terminal shows.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What changed between two studies: conditions, and every metric that both have, with intervals.

    Where seed and scenario are the same, runs are paired by replicate. Verdicts allow for their number
    (Benjamini-Hochberg).

    `rolloutbench diff results/learning_default out/mine -m rollouts_to_90`
    """
    difference = compare_studies(open_results(before), open_results(after), metric)
    if as_json:
        print(json.dumps(difference_as_json(difference), indent=1))
        return
    console = tables.console()
    for table in difference_tables(difference):
        console.print(table)
        console.print()


@app.command()
def validate(
    simulated: Annotated[Path, typer.Argument(help="Results of `compare`: simulated training runs.")],
    real: Annotated[Path, typer.Argument(help="Results of `train`: real ones.")],
    metric: Annotated[str, typer.Option("--metric", "-m", help="That ranks.")] = "area_over_rollouts",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for tables and plot. Default: `validation` in the real one.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Does the simulator's ranking of allocators hold in a real run?

    Kendall's tau of the two rankings in each simulated scenario, with a bootstrap interval; who is best;
    the pairs that clearly differ in the real run and whether the simulator has them right; and what the
    real run says of the scenario that it is like, which `fit` turns into a study.

    `rolloutbench validate results/learning_default results/real_sorting`
    """
    found = validate_studies(open_results(simulated), open_results(real), metric)
    directory = real / "validation" if out is None else out
    write_validation(found, directory)
    if as_json:
        print(json.dumps(validation_as_json(found) | {"out": str(directory)}, indent=1, allow_nan=False))
        return
    console = tables.console()
    for table in validation_tables(found):
        console.print(table)
        console.print()
    plot = directory / "plots" / "validation.png"
    console.print(f"tables {directory / 'validation.md'}\nplot   {plot}", soft_wrap=True)


@app.command("fit")
def fit_command(
    real: Annotated[Path, typer.Argument(help="Results of `train`: real training runs in one scenario.")],
    out: Annotated[
        Path | None,
        typer.Option(help="TOML file. Default: `fitted.toml` in the real one.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the simulated study that is most like a real run.

    Difficulty from `pass_rates.parquet`, noise from `bank.parquet`, batch and steps from the run, and the
    learning rate at which simulated `uniform` gains as much. What was not measured keeps a default, and
    the file says so.

    `rolloutbench fit results/real_sorting`, then `rolloutbench compare --config
    results/real_sorting/fitted.toml --out out/fitted` and `rolloutbench validate out/fitted
    results/real_sorting`
    """
    found = fit(open_results(real))
    path = real / "fitted.toml" if out is None else out
    write_whole(path, found.toml.encode())
    if as_json:
        answer = {"spec": found.spec, "found": [one._asdict() for one in found.found], "out": str(path)}
        print(json.dumps(answer, indent=1))
        return
    console = tables.console()
    for one in found.found:
        console.print(f"{one.parameter}: {one.value or 'default'}: {one.said}", soft_wrap=True)
    console.print(f"\nrolloutbench compare --config {path} --out {real}-simulated", soft_wrap=True)


@app.command("report")
def report_command(
    directories: Annotated[
        list[Path], typer.Argument(help="Results of `compare` and `predict`: parts of one page.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for report.html and report.md. Default: the first.", show_default=False),
    ] = None,
) -> None:
    """Write a page that can be sent to a colleague, and Markdown tables for an appendix or a README.

    `report.html` is one file that needs no network: question, answer, ranking with intervals, heat map,
    curves, costs, and what it takes to do it again. `report.md` has the tables.

    `rolloutbench report out/compare out/predict`
    """
    from rolloutbench import report  # with jinja2 and matplotlib, which take a second

    console = tables.console()
    for path in report.write(directories, out):
        console.print(str(path), soft_wrap=True)


@app.command()
def merge(
    directories: Annotated[list[Path], typer.Argument(help="Studies under the same conditions.")],
    out: Out = Path("rolloutbench-merged"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Join studies that were run apart: all their allocators, scenarios and replicates in one.

    They must agree in everything else. Cells are taken as they are; where the merged study has some that
    no part has, it says which command runs them.

    `rolloutbench merge laptop/sweep cluster/sweep --out sweep`
    """
    description = merged([study_in(directory).study["config"] for directory in directories])
    study = description.made()
    store = merge_studies(study, _about(description, study), directories, out, overwrite)
    missing, total = len(store.missing()), len(store.manifest.cells)
    if missing:
        _say(
            f"{missing} of {total} cells are in none of them: rolloutbench {description.study} "
            f"--config {out / 'study.toml'} --out {out} runs those, and keeps the others"
        )
        raise typer.Exit(1)
    _show(open_results(out), as_json)


Again = Annotated[
    bool,
    typer.Option(
        "--run",
        help="Run the studies anew, into OUT/studies; without it, results that were recorded are read. What "
        "is finished is kept.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="What is computed on the spot, less precisely; with --run, studies of 16 replicates and 20 "
        "steps: to see that everything works, not to quote.",
    ),
]
Recorded = Annotated[
    Path | None,
    typer.Option(
        "--results",
        help="Where studies were recorded. Default: results/ of the checkout.",
        show_default=False,
    ),
]


@app.command("figures")
def figures_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Figures by name, or all of a paper: vip, ar3po, pilot_commit, dapo, reinforce_ada, "
            "coba_rl, knapsack, ours. Default: everything.",
            show_default=False,
        ),
    ] = None,
    again: Again = False,
    quick: Quick = False,
    recorded: Recorded = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Directory for what figures and claims read of each study and no more, as in results/.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    memory: Memory = None,
    out: Annotated[Path, typer.Option(help="Directory for the files.")] = Path("rolloutbench-figures"),
) -> None:
    """Redraw the papers' figures and tables from what is measured here.

    For each: PNG, PDF, and the CSV with every number that is drawn, intervals included. What a paper
    published stands behind ours in grey, where both exist. `OUT/README.md` shows them all.

    `rolloutbench figures vip --out figures`, `rolloutbench figures pilot_commit_fig1 --run`
    """
    from paper_figures import claims, gallery  # with matplotlib, which takes a second

    wanted = gallery.chosen(names or [])
    sources = _sources(gallery.runnable(wanted), again, quick, recorded, jobs, memory, out)
    if keep is not None and keep.resolve() == sources.directory.resolve():
        raise InputError(f"--keep {keep}: the studies are read from there")
    if keep is not None:
        _make("--keep", keep)
    _make("--out", out)
    console = tables.console()
    for figure in wanted:
        with tables.status("figures") as say:
            say(f"drawing {figure.name}")
            gallery.write(figure, sources, out)
        console.print(f"{out / figure.name}.png  {figure.title}", soft_wrap=True)
    gallery.write_index(wanted, sources, out, _command())
    if keep is not None:
        claims.judged(claims.claims_in(), sources)  # which read numbers of their own
        for study in gallery.runnable(wanted):
            sources.keep(study, keep / study)


@app.command("claims")
def claims_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Claims, or all of a paper: `vip`, `vip_gain`. Default: all.", show_default=False
        ),
    ] = None,
    again: Again = False,
    quick: Quick = False,
    recorded: Recorded = None,
    jobs: Jobs = None,
    memory: Memory = None,
    as_json: AsJson = False,
    out: Annotated[Path, typer.Option(help="Directory for claims.md and claims.csv.")] = Path(
        "rolloutbench-claims"
    ),
) -> None:
    """Put the papers' claims to the test: what is claimed, what is measured here, and the verdict.

    The claims stand in `paper_figures/claims.toml`, each with the number that tests it. A condition (a
    scenario) supports a claim where the whole 95% interval is on the claimed side. Reproduced: all
    conditions support it, and where a size is claimed, the interval of their mean meets it. Partly: some
    do, or the size is another. Not: none does. Not testable here: no simulation could say.

    `rolloutbench claims pilot_commit`, `rolloutbench claims vip-gain --run`
    """
    from paper_figures import claims

    wanted = claims.chosen(claims.claims_in(), names or [])
    sources = _sources(claims.needed(wanted), again, quick, recorded, jobs, memory, out)
    with tables.status("claims") as say:
        say("reading results")
        verdicts = claims.judged(wanted, sources)
    _make("--out", out)
    claims.write(verdicts, out)
    if as_json:
        print(json.dumps([verdict.as_json() for verdict in verdicts], indent=1))
        return
    console = tables.console()
    console.print(claims.table(verdicts))
    console.print(f"table  {out / 'claims.md'}\ndata   {out / 'claims.csv'}", soft_wrap=True)


def _sources(
    studies: list[str],
    again: bool,
    quick: bool,
    recorded: Path | None,
    jobs: int | None,
    memory: float | None,
    out: Path,
) -> Any:
    """Recorded studies, or those that are run first."""
    from paper_figures import gallery
    from paper_figures.sources import RESULTS, Sources

    if not again:
        return Sources(recorded or RESULTS, quick)
    if recorded is not None:
        raise InputError(f"--results {recorded}: goes without --run, which makes new ones")
    for study in studies:
        description = gallery.description(study, quick)
        where = out / "studies" / study
        options = _Options(jobs, memory, "local", "auto", where, False, False, False, False)
        _run(description, options, description.made())
    return Sources(out / "studies", quick)


def _make(option: str, directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {directory}: cannot be made: {error.strerror or error}") from None


if __name__ == "__main__":
    main()
