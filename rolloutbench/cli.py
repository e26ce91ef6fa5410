"""The command line: `rolloutbench list`, `solve` and `compare`."""

from __future__ import annotations

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

import numpy as np
import pandas as pd
import typer
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rolloutbench import __version__, tables
from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.experiment import BASELINE, MARKER, Cell, output_directory, run_cells, summarise
from rolloutbench.metrics import SNAPSHOT_METRICS
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    Aggregation,
    Allocator,
    Budget,
    FloatArray,
    InputError,
    ProtocolError,
)
from rolloutbench.registry import Entry, Registry, nearest
from rolloutbench.solvers import SOLVERS, Allocation, Problem, solve
from rolloutbench.solvers.reference import reference
from rolloutbench.tabular import column, read_table
from simulators.pools import Measured, difficulties
from simulators.scenarios import DEFAULT_SCENARIOS, Scenario, scenarios
from simulators.snapshot import MONTE_CARLO_DRAWS, snapshot_cells

DEFAULT_ALLOCATORS = (
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
REGISTRIES: dict[str, Registry[Any]] = {
    "allocator": allocators,
    "predictor": predictors,
    "objective": objectives,
    "estimator": estimators,
    "scenario": scenarios,
    "difficulty": difficulties,
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
        Entry(name, f"unit: {metric.unit or 'none'}", metric.meaning)
        for name, metric in SNAPSHOT_METRICS.items()
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
            help="Repeatable; see `list allocator`. `uniform` is always in. Default: every method.",
            show_default=False,
            metavar="SPEC",
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "-s",
            help=f"Repeatable; see `list scenario`, or `all`. Default: {', '.join(DEFAULT_SCENARIOS)}.",
            show_default=False,
            metavar="SPEC",
        ),
    ] = None,
    estimator: Annotated[str, typer.Option(help="Advantage rule: see `list estimator`.")] = "rloo",
    aggregation: Annotated[
        str, typer.Option(help="`prompt`: mean over prompts; `rollout`: mean over all rollouts.")
    ] = "prompt",
    prompts: Annotated[int, typer.Option(help="Prompts per step.", min=2, max=1_000_000)] = 128,
    group_size: Annotated[int, typer.Option(help="Rollouts per prompt on average.", min=1, max=10_000)] = 8,
    replicates: Annotated[int, typer.Option(help="Paired seeds.", min=2, max=1_000_000)] = 128,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.", min=0)] = 0,
    jobs: Annotated[int, typer.Option(help="Processes. Results do not depend on it.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Directory for table, data and plots.")] = Path(
        "rolloutbench-compare"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in --out.")] = False,
    sort: Annotated[str, typer.Option(help="Metric that ranks: see `list metric`.")] = "snr",
    draws: Annotated[
        int | None,
        typer.Option(
            help="Estimate moments from this many steps per replicate instead of enumerating them. "
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
    """Compare allocators at equal cost: how good is the gradient that each of them buys?

    Every allocator gets the same prompts, the same history and the same budget of generated rollouts in
    each replicate, so differences are paired. Prints, for each scenario, the ratio to `uniform` with its
    95% interval, best first, and writes `summary.csv`, `per_replicate.parquet` and plots.

    `rolloutbench compare -a vip -a knapsack[predictor=oracle] -s weak-v1 --estimator dr_grpo`
    """
    chosen_allocators = _chosen(allocators, [BASELINE, *(allocator or DEFAULT_ALLOCATORS)], implied=BASELINE)
    chosen_scenarios = _scenarios(scenario, pass_rates, column_name, trials)
    chosen_estimator = estimators.create(estimator)
    if aggregation not in ("prompt", "rollout"):
        raise InputError(f"--aggregation {aggregation}: prompt or rollout is expected")
    if SNAPSHOT_METRICS.get(sort) is None or SNAPSHOT_METRICS[sort].better is None:
        rankable = [name for name, metric in SNAPSHOT_METRICS.items() if metric.better]
        raise InputError(f"--sort {sort}: no metric that ranks: {nearest(sort, rankable)}")
    replicates = 16 if quick else replicates
    budget = Budget(prompts, prompts * group_size)
    how: Aggregation = "prompt" if aggregation == "prompt" else "rollout"
    cells = snapshot_cells(
        chosen_scenarios, chosen_allocators, chosen_estimator, how, budget, replicates, seed, draws
    )
    moments = _moments(chosen_allocators, draws)
    conditions = (
        f"{estimator}, aggregation {aggregation}, {prompts} prompts x {group_size} rollouts, "
        f"{replicates} paired replicates, seed {seed}, {moments}"
    )
    with output_directory(out, overwrite) as directory:
        per_replicate = pd.concat(_with_progress(cells, jobs), ignore_index=True)
        per_replicate = per_replicate[per_replicate.replicate < replicates].reset_index(drop=True)
        summary = summarise(per_replicate)
        record = {
            "command": shlex.join(["rolloutbench", *sys.argv[1:]]),
            "version": __version__,
            "estimator": estimator,
            "aggregation": aggregation,
            "prompts": prompts,
            "group_size": group_size,
            "rollouts": budget.rollouts,
            "replicates": replicates,
            "seed": seed,
            "moments": moments,
            "scenarios": {name: repr(made) for name, made in chosen_scenarios.items()},
            "allocators": {name: repr(made) for name, made in chosen_allocators.items()},
        }
        _write(directory, per_replicate, summary, record, sort, conditions)
    if as_json:
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        print(json.dumps({"conditions": record, "summary": rows, "out": str(out)}, indent=1))
        return
    console = tables.console()
    for name in chosen_scenarios:
        caption = f"{conditions}; ± half of a 95% interval"
        console.print(tables.comparison(summary, name, sort, caption))
        console.print()
    console.print(
        f"table  {out / 'summary.csv'}\ndata   {out / 'per_replicate.parquet'}\nplots  {out / 'plots'}/",
        soft_wrap=True,
    )


def _moments(chosen: dict[str, Allocator], draws: int | None) -> str:
    """How the moments of the gradient are had."""
    if draws:
        return f"moments from {draws} steps"
    sampled = [name for name, allocator in chosen.items() if not allocator.one_shot]
    return "exact moments" + (f" (from {MONTE_CARLO_DRAWS} steps: {', '.join(sampled)})" if sampled else "")


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
    specs: list[str] | None, pass_rates: Path | None, column_name: str, trials: str | None
) -> dict[str, Scenario]:
    """Scenarios by name; `measured` from a file of pass rates."""
    if specs is None:
        specs = [] if pass_rates else list(DEFAULT_SCENARIOS)
    specs = [name for spec in specs for name in (scenarios.names() if spec == "all" else [spec])]
    chosen: dict[str, Scenario] = _chosen(scenarios, specs)
    if pass_rates is None:
        if trials:
            raise InputError(f"--trials {trials}: needs --pass-rates")
        return chosen
    table = read_table(pass_rates)
    rates = column(table, column_name, pass_rates, 0, 1)
    tried = None if trials is None else column(table, trials, pass_rates, low=1, whole=True)
    return chosen | {"measured": Scenario(f"pass rates of {pass_rates}", Measured(rates, tried))}


def _with_progress(cells: Sequence[Cell], jobs: int) -> list[pd.DataFrame]:
    """Run the cells, showing how far they are on stderr."""
    console = tables.console(stderr=True)
    done: list[pd.DataFrame] = []
    if not console.is_terminal:
        for result in run_cells(cells, jobs):
            done.append(result)
            if len(done) * 5 // len(cells) > (len(done) - 1) * 5 // len(cells):
                console.print(f"compare: {len(done)} of {len(cells)} cells")
        return done
    layout = (TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*layout, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cells))
        for result in run_cells(cells, jobs):
            done.append(result)
            progress.advance(task)
    return done


def _write(
    directory: Path,
    per_replicate: pd.DataFrame,
    summary: pd.DataFrame,
    record: dict[str, Any],
    sort: str,
    conditions: str,
) -> None:
    """The files of a comparison."""
    from rolloutbench.plotting import comparison as plots  # matplotlib takes a second to import

    summary.to_csv(directory / "summary.csv", index=False)
    per_replicate.to_parquet(directory / "per_replicate.parquet", index=False)
    (directory / MARKER).write_text(json.dumps(record, indent=2) + "\n")
    (directory / "plots").mkdir()
    for name, figure in (
        ("allocation_against_success", plots.allocation_against_success(summary, conditions)),
        (f"{sort}_ratio_to_uniform", plots.ratio_to_uniform(summary, sort, conditions)),
        ("cost_against_gain", plots.cost_against_gain(summary, conditions)),
    ):
        plots.save(figure, directory / "plots", name)


if __name__ == "__main__":
    main()
