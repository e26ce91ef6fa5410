"""The command line: `rolloutbench list`, `solve`, `compare` and `predict`."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import joblib
import numpy as np
import pandas as pd
import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rolloutbench import __version__, tables
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.experiment import BASELINE, MARKER, Cell, output_directory, run_cells
from rolloutbench.metrics import METRICS
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Aggregation,
    Budget,
    FloatArray,
    InputError,
    ProtocolError,
)
from rolloutbench.registry import Entry, Registry, nearest
from rolloutbench.solvers import SOLVERS, Allocation, Problem, solve
from rolloutbench.solvers.reference import reference
from rolloutbench.studies import LearningStudy, PredictionStudy, SnapshotStudy, Study
from rolloutbench.tabular import column, read_table
from simulators.optimizers import optimizers
from simulators.pools import Measured, difficulties
from simulators.scenarios import (
    DEFAULT_SCENARIOS,
    SNAPSHOT_SCENARIOS,
    LearningScenario,
    SnapshotScenario,
    scenarios,
)
from simulators.snapshot import MONTE_CARLO_DRAWS

SNAPSHOT_ALLOCATORS = (
    "uniform",
    "uniform[divide=2]",
    "uniform[divide=4]",
    "vip",
    "vip[predictor=oracle]",
    "knapsack",
    "coba",
    "hit_utility",
    "inverse_accuracy",
    "inverse_variance",
    "permuted[of=vip]",
    "weighted_uniform[of=vip]",
    "random",
)
DEFAULT_ALLOCATORS = (
    "uniform",
    "uniform[divide=2]",
    "effective_count",
    "vip",
    "vip[predictor=oracle]",
    "knapsack",
    "coba",
    "dapo",
    "ar3po",
    "pilot_commit",
    "reinforce_ada",
    "mopps",
)
ALL_ALLOCATORS = (
    *DEFAULT_ALLOCATORS,
    "uniform[divide=4]",
    "vip[predictor=beta]",
    "vip[predictor=ensemble]",
    "vip[preset=paper]",
    "vip[preset=released_code]",
    "permuted[of=vip]",
    "weighted_uniform[of=vip]",
    "dapo[oversample=1,carry=true]",
    "ar3po[reuse=none]",
    "ar3po[reuse=I]",
    "reinforce_ada[exit=positive]",
    "reinforce_ada_est",
    "pilot_commit[evict=false]",
    "pods",
    "greso",
    "speed",
    "gvm",
    "hit_utility",
    "inverse_accuracy",
    "inverse_variance",
    "random",
)
DEFAULT_PREDICTORS = (
    "beta",
    "last_epoch",
    "moving_average",
    "global_mean",
    "ridge",
    "gp",
    "gp[noise=0]",
    "sparse_gp",
    "kalman",
    "ensemble",
)
REGISTRIES: dict[str, Registry[Any]] = {
    "allocator": allocators,
    "predictor": predictors,
    "objective": objectives,
    "estimator": estimators,
    "scenario": scenarios,
    "difficulty": difficulties,
    "optimizer": optimizers,
}

CORES = joblib.cpu_count()

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
    except BrokenExecutor:
        _fail("a worker process died, most likely for lack of memory: fewer --jobs or --prompts", 1)
    except MemoryError as error:
        _fail(f"not enough memory: {error}", 2)
    except OSError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:  # typer's own answer to Ctrl-C
        _fail("interrupted; nothing was written", code)
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
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(message.split()))
    print(f"rolloutbench: error: {line}", file=sys.stderr)
    sys.exit(code)


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
        help="Repeatable; see `list scenario`, or `all`, or `all-snapshots`. "
        f"Default: {', '.join(DEFAULT_SCENARIOS)}.",
        show_default=False,
        metavar="SPEC",
    ),
]
EstimatorName = Annotated[str, typer.Option(help="Advantage rule: see `list estimator`.")]
AggregationName = Annotated[
    str, typer.Option(help="`prompt`: mean over prompts; `rollout`: mean over all rollouts.")
]
Seed = Annotated[int, typer.Option(help="Everything random follows from it.", min=0)]
Jobs = Annotated[
    int, typer.Option(help="Processes; results do not depend on it.", min=1, show_default="all cores")
]
Out = Annotated[Path, typer.Option(help="Directory for table, data and plots.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in --out.")]

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
    estimator: EstimatorName = "rloo",
    aggregation: AggregationName = "prompt",
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
        str,
        typer.Option(
            help="Factors of the scenario's learning rate, as `0.5,1,2`: each allocator is then also shown "
            "at its own best, chosen on other replicates than those it is judged by.",
            metavar="FACTORS",
        ),
    ] = "1",
    replicates: Annotated[
        int | None,
        typer.Option(
            help="Paired seeds. Default: 16 training runs, or 128 snapshots.",
            min=2,
            max=1_000_000,
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = CORES,
    out: Out = Path("rolloutbench-compare"),
    overwrite: Overwrite = False,
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
    column_name: Annotated[str, typer.Option("--column", help="Its column of pass rates.")] = "pass_rate",
    trials: Annotated[
        str | None,
        typer.Option(help="Its column of rollouts per prompt, to remove sampling error.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="16 replicates, for a first look.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare allocators at equal cost: who learns most from the rollouts it pays for?

    Every allocator trains the same simulated policy on the same prompts, in paired replicates, until it
    has paid for the same number of generated rollouts. Prints, for each scenario, rollouts and seconds to
    a target, the area under accuracy and what was wasted, against `uniform` with 95% intervals, then a
    ranking over all scenarios; writes `summary.csv`, `ranking.csv`, `per_replicate.parquet`,
    `curves.parquet` and plots.

    Scenarios whose names begin with `snapshot-` ask a smaller question exactly: how good is the gradient
    that an allocator buys in one step at frozen success probabilities? `--snapshot` runs four of them.

    `rolloutbench compare -a vip -a dapo[carry=true] -s u-shaped-v1 --learning-rates 0.5,1,2`

    `rolloutbench compare --snapshot -a vip -a knapsack[predictor=oracle] --estimator dr_grpo`
    """
    chosen_scenarios, one_step = _scenarios(scenario, snapshot, pass_rates, column_name, trials)
    specs = allocator or (SNAPSHOT_ALLOCATORS if one_step else DEFAULT_ALLOCATORS)
    specs = [name for spec in specs for name in (ALL_ALLOCATORS if spec == "all" else [spec])]
    common: dict[str, Any] = {
        "allocators": _chosen(allocators, [BASELINE, *specs], implied=BASELINE),
        "estimator_name": estimator,
        "estimator": estimators.create(estimator),
        "aggregation": _aggregation(aggregation),
        "replicates": 16 if quick else replicates or (128 if one_step else 16),
        "seed": seed,
    }
    study: Study
    if one_step:
        for option, given in (("--steps", steps), ("--learning-rates", learning_rates != "1")):
            if given:
                raise InputError(f"{option}: a snapshot does not train; see --help")
        first = next(iter(chosen_scenarios.values()))
        size, each = prompts or first.prompts, group_size or first.group_size
        study = SnapshotStudy(
            **common, scenarios=chosen_scenarios, budget=Budget(size, size * each), draws=draws
        )
    else:
        if draws is not None:
            raise InputError(f"--draws {draws}: only snapshots have moments; see --help")
        changes = {"prompts": prompts, "group_size": group_size, "steps": steps}
        study = LearningStudy(
            **common,
            scenarios=_changed(chosen_scenarios, {k: v for k, v in changes.items() if v is not None}),
            rates=_rates(learning_rates),
        )
    _carry_out(study, sort, jobs, out, overwrite, as_json)


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
        str, typer.Option("--allocator", "-a", help="Whose training run they watch.")
    ] = BASELINE,
    estimator: EstimatorName = "rloo",
    aggregation: AggregationName = "prompt",
    replicates: Annotated[int, typer.Option(help="Seeds.", min=2, max=1_000_000)] = 16,
    seed: Seed = 0,
    jobs: Jobs = CORES,
    out: Out = Path("rolloutbench-predict"),
    overwrite: Overwrite = False,
    sort: Annotated[str, typer.Option(help="Metric that ranks: see `list metric`.")] = "brier_later",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare predictors of the success probability along a training run.

    All of them watch the same run. Before the rollouts of a step each says what it believes of the batch,
    and is judged against the true chance of reward at that moment: mean absolute error, Brier score, log
    loss, calibration, rank correlation. The first epoch, in which every prompt is new, is kept apart.

    `rolloutbench predict -p gp -p beta -p ensemble -s u-shaped-v1`
    """
    chosen_scenarios, one_step = _scenarios(scenario, False, None, "", None)
    if one_step:
        raise InputError(f"--scenario {next(iter(chosen_scenarios))}: nothing is learned in a snapshot")
    study = PredictionStudy(
        allocators={allocator: allocators.create(allocator)},
        estimator_name=estimator,
        estimator=estimators.create(estimator),
        aggregation=_aggregation(aggregation),
        replicates=replicates,
        seed=seed,
        scenarios=chosen_scenarios,
        predictors=_chosen(predictors, [BASELINE, *(predictor or DEFAULT_PREDICTORS)], implied=BASELINE),
    )
    _carry_out(study, sort, jobs, out, overwrite, as_json)


def _carry_out(study: Study, sort: str | None, jobs: int, out: Path, overwrite: bool, as_json: bool) -> None:
    """Run a study, leave its files, show its tables."""
    sort = sort or study.default_sort
    if study.metrics.get(sort) is None or study.metrics[sort].better is None:
        rankable = [name for name, metric in study.metrics.items() if metric.better]
        raise InputError(f"--sort {sort}: no metric that ranks: {nearest(sort, rankable)}")
    command = {"command": shlex.join(["rolloutbench", *sys.argv[1:]]), "version": __version__}
    with output_directory(out, overwrite) as directory:
        ran = _with_progress(study.command, study.cells(), jobs)
        summary = study.finish(ran, directory, sort)
        record = command | study.record()
        (directory / MARKER).write_text(json.dumps(record, indent=2) + "\n")
        shown = study.tables(summary, directory, sort)
    if as_json:
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        print(json.dumps({"conditions": record, "summary": rows, "out": str(out)}, indent=1))
        return
    console = tables.console()
    for table in shown:
        console.print(table)
        console.print()
    console.print(
        f"table  {out / 'summary.csv'}\ndata   {out / 'per_replicate.parquet'}\nplots  {out / 'plots'}/",
        soft_wrap=True,
    )


def _aggregation(name: str) -> Aggregation:
    if name not in ("prompt", "rollout"):
        raise InputError(f"--aggregation {name}: prompt or rollout is expected")
    return "prompt" if name == "prompt" else "rollout"


def _rates(text: str) -> tuple[float, ...]:
    """Factors of the learning rate; 1 is always among them."""
    rates = {1.0}
    for part in text.split(","):
        try:
            rate = float(part)
        except ValueError:
            rate = float("nan")
        if not 0 < rate < 1e6:
            raise InputError(f"--learning-rates: '{part.strip()}' is no number above 0")
        rates.add(rate)
    return tuple(sorted(rates))


def _changed(chosen: dict[str, Any], changes: dict[str, int]) -> dict[str, Any]:
    """Scenarios with other conditions than their names stand for."""
    try:
        return {name: dataclasses.replace(made, **changes) for name, made in chosen.items()}
    except ValidationError as error:
        problem = error.errors()[0]
        inner = problem.get("ctx", {}).get("error", problem["msg"])
        raise InputError(f"{', '.join(f'--{k} {v}' for k, v in changes.items())}: {inner}") from None


def _chosen(registry: Registry[Any], specs: list[str], implied: str | None = None) -> dict[str, Any]:
    """Objects by spec, refusing doubles; the first spec may be named again if it was only implied."""
    chosen: dict[str, Any] = {}
    for place, spec in enumerate(specs):
        spec = "".join(spec.split())
        if place and spec == implied:
            implied = None
            continue
        if spec in chosen:
            raise InputError(f"{registry.kind} '{spec}' is given twice")
        chosen[spec] = registry.create(spec)
    return chosen


def _scenarios(
    specs: list[str] | None, snapshot: bool, pass_rates: Path | None, column_name: str, trials: str | None
) -> tuple[dict[str, Any], bool]:
    """Scenarios by name, `measured` from a file of pass rates, and whether they are snapshots."""
    if specs is None:
        specs = [] if pass_rates else list(SNAPSHOT_SCENARIOS if snapshot else DEFAULT_SCENARIOS)
    every = {"all": LearningScenario, "all-snapshots": SnapshotScenario}
    kinds = {name: type(scenarios.create(name)) for name in scenarios.names()}
    named: list[str] = []
    for spec in specs:
        named += [name for name in kinds if kinds[name] is every[spec]] if spec in every else [spec]
    chosen: dict[str, Any] = _chosen(scenarios, named)
    one_step = {isinstance(made, SnapshotScenario) for made in chosen.values()} | (
        {True} if snapshot else set()
    )
    if len(one_step) > 1:
        raise InputError(
            f"--scenario {', '.join(chosen)}: training runs and snapshots answer different questions; "
            "one kind is expected"
        )
    is_snapshot = one_step == {True}
    if pass_rates is None:
        if trials:
            raise InputError(f"--trials {trials}: needs --pass-rates")
        return chosen, is_snapshot
    table = read_table(pass_rates)
    rates = column(table, column_name, pass_rates, 0, 1)
    tried = None if trials is None else column(table, trials, pass_rates, low=1, whole=True)
    make = SnapshotScenario if is_snapshot else LearningScenario
    return chosen | {"measured": make(f"pass rates of {pass_rates}", Measured(rates, tried))}, is_snapshot


def _with_progress(command: str, cells: Sequence[Cell], jobs: int) -> list[pd.DataFrame]:
    """Run the cells, showing how far they are on stderr."""
    console = tables.console(stderr=True)
    done: list[pd.DataFrame] = []
    if not console.is_terminal:
        for result in run_cells(cells, jobs):
            done.append(result)
            if len(done) * 5 // len(cells) > (len(done) - 1) * 5 // len(cells):
                console.print(f"{command}: {len(done)} of {len(cells)} cells")
        return done
    layout = (TextColumn(command), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*layout, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cells))
        for result in run_cells(cells, jobs):
            done.append(result)
            progress.advance(task)
    return done


if __name__ == "__main__":
    main()
