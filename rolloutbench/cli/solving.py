"""The command `solve`: exact allocation of a budget."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from rolloutbench.analysis import tables
from rolloutbench.cli.completion import names_of
from rolloutbench.cli.messages import say
from rolloutbench.errors import InputError
from rolloutbench.objectives import objectives
from rolloutbench.protocol import MOST_ROLLOUTS, FloatArray
from rolloutbench.solvers import Allocation, Problem
from rolloutbench.solvers import solve as solve_problem
from rolloutbench.solvers.problem import left_out
from rolloutbench.solvers.reference import reference
from rolloutbench.tabular import FORMATS, column, identifiers, read_table, suffix_of


def solve(
    p: Annotated[
        str,
        typer.Option(
            "--p",
            help="Success probabilities: `0.1,0.5,0.9`, or a file (CSV, TSV, JSON, JSON lines, Parquet) "
            "with a column `p` and, where wanted, `id`, `weight`, `cost` and `group`.",
            show_default=False,
        ),
    ],
    budget: Annotated[
        int, typer.Option(help="Rollouts to spend, all of them.", min=0, max=10**12, show_default=False)
    ],
    lower: Annotated[int, typer.Option(help="Least rollouts of a prompt.", min=0, max=MOST_ROLLOUTS)] = 2,
    upper: Annotated[int, typer.Option(help="Most rollouts of a prompt.", min=0, max=MOST_ROLLOUTS)] = 128,
    objective: Annotated[
        str, typer.Option(help="See `rolloutbench list objective`.", autocompletion=names_of("objective"))
    ] = "rloo",
    solver: Annotated[
        str, typer.Option(help="See `rolloutbench list solver`.", autocompletion=names_of("solver"))
    ] = "auto",
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
        found = solve_problem(problem, solver)
    seconds = time.perf_counter() - started
    name = None if table is None else identifiers(given)
    ids = None if name is None else [str(label) for label in given[name]]
    _warn_of_left_out(problem, found, objective, ids)
    _print_allocation(rates, found, seconds, as_json, ids)


def _warn_of_left_out(problem: Problem, found: Allocation, objective: str, ids: list[str] | None) -> None:
    missed = np.flatnonzero(left_out(problem, found.counts)[0])
    if not len(missed):
        return
    first = ", ".join(f"{ids[i] if ids else i} (p={problem.p[0, i]:.3g})" for i in missed[:3])
    more = ", ..." if len(missed) > 3 else ""
    say(
        f"{len(missed)} of {problem.p.shape[1]} prompts get no rollouts though 0 < p < 1, {first}{more}: "
        f"{objective} is a variance, and no rollouts have none; --lower 2 without --allow-zero serves every "
        "prompt, --objective mse charges what is not learned",
        "warning",
    )


def _probabilities(text: str, column_name: str) -> tuple[FloatArray, pd.DataFrame | None, Path]:
    """Numbers given on the command line, or a file's column."""
    path = Path(text)
    if suffix_of(path) in FORMATS or os.path.isfile(path):
        table = read_table(path)
        return column(table, column_name, path, 0, 1), table, path
    values = []
    for part in text.split(","):
        try:
            values.append(float(part))
        except ValueError:
            raise InputError(f"--p: '{part.strip()}' is neither a number nor a file") from None
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


def _print_allocation(
    rates: FloatArray, found: Allocation, seconds: float, as_json: bool, ids: list[str] | None
) -> None:
    answer = {
        **({} if ids is None else {"ids": ids}),
        "counts": found.counts[0].tolist(),
        "value": float(found.value[0]),
        "bound": float(found.bound[0]),
        "price": float(found.price[0]),
        "seconds": seconds,
    }
    if as_json:
        print(json.dumps({name: tables.plain_value(value) for name, value in answer.items()}))
        return
    columns = {
        "prompt": ids or [str(i) for i in range(len(rates))],
        "p": [f"{rate:.4g}" for rate in rates],
        "rollouts": [f"{n:g}" if found.counts.dtype == np.int64 else f"{n:.2f}" for n in found.counts[0]],
    }
    out = tables.console()
    tables.show(out, [tables.allocation(columns)])
    out.print(
        f"value {answer['value']:.6g}, bound {answer['bound']:.6g} (gap {float(found.gap[0]):.2g}), "
        f"price {answer['price']:.4g}, {seconds * 1e3:.2f} ms"
    )
