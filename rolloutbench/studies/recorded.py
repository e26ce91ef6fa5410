"""Runs that were trained elsewhere as a study: each is added to a directory when it is done, in any order.

What is shown are allocators that have a run for every replicate that uniform has, of which there must be
two: a number from one seed has no interval. A training study measures everybody against a reference run;
where none was recorded that is uniform itself, whose own targets are then reached a little too well.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from rolloutbench import __version__
from rolloutbench.cells.cell import OWN, Finished, commit, machine, source_digest
from rolloutbench.cells.collectors import BASELINE, REFERENCE
from rolloutbench.cells.store import MANIFEST, ListedCell, Manifest, Ran, Store, open_store, read_manifest
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds.training import TrainingResults

ENOUGH = 2
"""Fewest runs of an allocator that have intervals."""
SHARED = ("estimator", "aggregation", "prompts", "group_size")
"""Entries of the record in which all runs of a study agree."""


@dataclass(frozen=True)
class RecordedRun:
    """A run that is done: `rows` are its evaluations, with sums since the start, as in every training study.

    `scenario` names task and model, `told` says more of them; `allocator` is a name or spec. `replicate`
    is the number of the seed: runs with the same number are paired. `steps` is where allocators are compared:
    a run should be half as long again. `training` says what it was trained on. `seconds_per_step` are the
    allocator's own.
    """

    scenario: str
    allocator: str
    replicate: int
    rows: Sequence[Mapping[str, float]]
    steps: int
    estimator: str
    aggregation: str
    prompts: int
    group_size: int
    told: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    seconds_per_step: float = 0.0

    @property
    def key(self) -> str:
        """Key of the run's cell: a hash of scenario, allocator and replicate."""
        text = json.dumps([self.scenario, self.allocator, self.replicate])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def table(self) -> pd.DataFrame:
        """Curves of the run, with the columns of every training study; NaN where nothing was measured."""
        keys = {"scenario": self.scenario, "allocator": self.allocator, "rate": 1.0}
        keys["replicate"] = self.replicate
        unknown = {"pass_at_8": float("nan"), "cosine": float("nan")}
        return pd.DataFrame([{**keys, **unknown, **row} for row in self.rows])


def add(directory: str | Path, run: RecordedRun) -> str | None:
    """Add a run to the study in `directory`, and make its results anew; returns what they still lack.

    Several processes may do so at once. A run of the same allocator and replicate is replaced. Raises
    InputError where the directory holds something else, or runs under other conditions.
    """
    path = Path(directory).resolve()
    lock = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with filelock.FileLock(Path(tempfile.gettempdir(), f"rolloutbench-{lock}.lock")):
        before = read_manifest(path) if (path / MANIFEST).exists() else Manifest({}, {}, [])
        _check(path, before, run)
        listed = ListedCell(
            f"{run.scenario} {run.allocator} seed {run.replicate}", (run.scenario, run.allocator)
        )
        cells = {**before.cells, run.key: listed}
        record = _record(before.study, run)
        with open_store(path, record, cells) as store:
            facts = {"allocator_seconds_per_step": run.seconds_per_step, **machine()}
            facts["seconds"] = round(float(run.rows[-1]["seconds"]), 4)
            description = {"description": {"told": run.told, "steps": run.steps}}
            store.finish(run.key, Finished(run.table, facts), description)
            return _write_results(store, record)


def _check(path: Path, before: Manifest, run: RecordedRun) -> None:
    if not run.rows or run.rows[0]["steps"] != 0:
        raise InputError(
            f"{run.allocator}: its first evaluation is after training began: one before is needed"
        )
    if before.study and "study" in before.study.get("config", {}):
        raise InputError(f"{path}: holds a study that rolloutbench ran: choose another directory")
    for name in SHARED:
        there, here = before.study.get(name), getattr(run, name)
        if before.study and there != here:
            raise InputError(f"{path}: its runs have {name}={there}, not {here}: choose another directory")


def _record(before: Mapping[str, Any], run: RecordedRun) -> dict[str, Any]:
    """What is recorded of the study, this run among it."""
    allocators = {**before.get("allocators", {}), run.allocator: run.allocator}
    scenarios = {**before.get("scenarios", {}), run.scenario: run.told or run.scenario}
    steps = {run.scenario: run.steps} | before.get("steps", {})
    if run.allocator == BASELINE:
        steps[run.scenario] = run.steps
    shared = {name: getattr(run, name) for name in SHARED}
    rules = f"{run.estimator}, aggregation {run.aggregation}"
    batch = f"{run.prompts} prompts x {run.group_size} rollouts"
    captions = {name: f"{rules}, {steps[name]} steps of {batch}, {told}" for name, told in scenarios.items()}
    return {
        "title": None,
        "question": TrainingResults.question,
        "kind": TrainingResults.kind,
        "sort": TrainingResults.default_sort,
        "command": " ".join(sys.argv),
        "config": {"aggregation": run.aggregation},
        **shared,
        "replicates": 1,
        "seed": 0,
        "conditions": f"{rules}, {batch}",
        "captions": captions,
        "allocators": allocators,
        "scenarios": scenarios,
        "steps": steps,
        "learning_rates": [1.0],
        "training": dict(run.training),
        "version": __version__,
        "commit": commit(),
        "sources": {OWN: source_digest(OWN)},
        "machine": machine(),
    }


def _write_results(store: Store, record: dict[str, Any]) -> str | None:
    """The results of what can be compared, or why there are none yet."""
    ran = list(store.read())
    seeds = {cell.part: set[int]() for cell in ran}
    for cell in ran:
        seeds[cell.part] |= set(cell.table.replicate)
    common = [seeds[part] for part in seeds if part[1] == BASELINE]
    shared = sorted(set.intersection(*common)) if common else []
    scenarios = [part[0] for part in seeds if part[1] == BASELINE]
    if len(shared) < ENOUGH:
        return f"results need {ENOUGH} runs of {BASELINE}, of which there are {len(shared)}"
    kept = [
        cell
        for cell in ran
        if cell.part[0] in scenarios and seeds[cell.part] >= set(shared) and cell.table.replicate[0] in shared
    ]
    for name in scenarios:
        if (name, REFERENCE) not in {cell.part for cell in kept}:
            own = [cell for cell in kept if cell.part == (name, BASELINE)]
            kept += [_as_reference(cell) for cell in own]
    numbers = {seed: number for number, seed in enumerate(shared)}
    numbered = [
        cell._replace(table=cell.table.assign(replicate=cell.table.replicate.map(numbers))) for cell in kept
    ]
    shown = {cell.part[1] for cell in kept}
    told = f"{len(shared)} seeds"
    full = record | {
        "replicates": len(shared),
        "conditions": f"{record['conditions']}, {told}",
        "captions": {name: f"{said}, {told}" for name, said in record["captions"].items()},
        "allocators": {name: said for name, said in record["allocators"].items() if name in shown},
    }
    with store.results(full) as unfinished:
        TrainingResults(unfinished, full).write(numbered)
    with store.plots() as unfinished:
        store.undrawn = TrainingResults(store.directory, full).draw(unfinished)
    lacking = sorted({part[1] for part in seeds} - shown)
    return f"left out until they have a run for each of {told}: {', '.join(lacking)}" if lacking else None


def _as_reference(cell: Ran) -> Ran:
    return cell._replace(
        part=(cell.part[0], REFERENCE), table=cell.table.assign(allocator=REFERENCE), facts=cell.facts
    )
