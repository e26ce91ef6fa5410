"""The command `list`: everything that has a name."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any

import typer

from real_runs.models import models
from real_runs.settings import engines, trainers
from real_runs.tasks import tasks
from rolloutbench import family
from rolloutbench.allocators import allocators
from rolloutbench.analysis import tables
from rolloutbench.analysis.metrics import METRICS
from rolloutbench.errors import InputError
from rolloutbench.estimators import estimators
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.registry import Entry, Registry
from rolloutbench.solvers import SOLVERS
from simulators.conditions import conditions
from simulators.optimizers import optimizers
from simulators.pools import difficulties
from simulators.scenarios import scenarios

REGISTRIES: dict[str, Registry[Any]] = {
    "allocator": allocators,
    "predictor": predictors,
    "objective": objectives,
    "estimator": estimators,
    "scenario": scenarios,
    "condition": conditions,
    "task": tasks,
    "model": models,
    "engine": engines,
    "trainer": trainers,
    "difficulty": difficulties,
    "optimizer": optimizers,
}
FAMILY_CAPTION = (
    "Unbiased: the expected gradient is that of equal groups, with rloo and the mean over prompts. Billed: "
    "what is paid for and never trained on. Sources: rolloutbench list --provenance."
)
PRIORITIES = {
    "licence": 5,
    "code": 4,
    "paper": 3,
    "goal": 2,
    "predictor": 1,
    "files": 6,
    "note": 5,
}
"""Which columns of the family table go first where the terminal is narrow: the greatest number."""
Kind = Enum("Kind", {name: name for name in [*REGISTRIES, "solver", "metric"]}, type=str)  # type: ignore[misc]


def list_registered(
    kind: Annotated[Kind | None, typer.Argument(help="Only this kind.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_family: Annotated[
        bool, typer.Option("--family", help="Allocators side by side: what each does, by its own account.")
    ] = False,
    as_sources: Annotated[
        bool, typer.Option("--provenance", help="Papers, code, licences, and what differs on purpose.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="With --family or --provenance: as Markdown, all columns.")
    ] = False,
) -> None:
    """Everything that has a name, with one line each.

    A name takes parameters in brackets, and where a parameter is itself such a thing, they nest:
    `vip[predictor=beta[discount=0.9],lower=4]`, `permuted[of=knapsack]`, `u-shaped-v1[visits=4]`.
    """
    if as_family or as_sources:
        _list_family(as_sources, as_json, as_markdown)
        return
    if as_markdown:
        raise InputError("--markdown: needs --family or --provenance")
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
    tables.show(tables.console(), (tables.registered(name, entries) for name, entries in found.items()))


def _list_family(as_sources: bool, as_json: bool, as_markdown: bool) -> None:
    """Print the family table, or that of the sources."""
    rows = family.sources() if as_sources else family.table()
    if as_json:
        print(json.dumps(tables.as_records(rows), indent=2))
        return
    shown = tables.plain(
        "Where allocators come from" if as_sources else "Allocators",
        rows,
        "What each does: rolloutbench list --family." if as_sources else FAMILY_CAPTION,
        PRIORITIES,
    )
    if as_markdown:
        print(shown.markdown())
    else:
        tables.show(tables.console(), [shown])
