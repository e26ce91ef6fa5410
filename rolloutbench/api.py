"""What `import rolloutbench as rb` offers: studies, exact allocations and recorded results, from Python.

    results = rb.compare(["vip", "mopps", MyAllocator()], scenarios=["u-shaped-v1"], replicates=16)
    results.summary                      # a DataFrame
    results.table("u-shaped-v1")         # shows itself, in a notebook too
    results.figure("ranking")
    results.report("page.html")

The command line stands on the same functions: the same description gives the same bytes of `summary.csv`.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rolloutbench.analysis.results import Results
from rolloutbench.cells.executors import Executor, Local, Ray, cores, memory_per_worker
from rolloutbench.objectives import Objective, objectives
from rolloutbench.protocol import Allocator, InputError, Predictor
from rolloutbench.solvers import Allocation, Problem
from rolloutbench.solvers import solve as solve_problem
from rolloutbench.studies.carry_out import Watcher, carry_out
from rolloutbench.studies.description import Description
from rolloutbench.studies.kinds import description_of, open_results
from rolloutbench.studies.kinds.comparison import Comparison
from rolloutbench.studies.progress import Progress, TrainingProgress

if TYPE_CHECKING:
    from rolloutbench.analysis.recommendation import Recommendation

__all__ = ["compare", "open_results", "predict", "recommend", "solve", "train"]

Price = Literal["rollouts", "seconds"]
"""What is paid, and so what allocators are compared at."""
OF_LIKE = ("scenarios", "allocators", "price_per_gpu_hour")
"""Fields of a comparison that choose from results that are there."""


@dataclass(frozen=True)
class Execution:
    """How a study is carried out, which its results do not depend on.

    `jobs`: processes, all cores by default, one run at a time on a GPU. `memory`: most GiB of a process, by
    default the machine's shared out; a cell that needs more fails. `executor`: processes of this machine,
    or a Ray cluster at `address` (`auto` finds that of this machine, `local` starts one). `overwrite`
    replaces another study in the same directory, `force` runs finished cells again, `retry_failed` failed
    ones. `debug` runs all in this process and raises what a cell raises; it goes without Ray.
    """

    jobs: int | None = None
    memory: float | None = None
    executor: Literal["local", "ray"] = "local"
    address: str = "auto"
    overwrite: bool = False
    force: bool = False
    retry_failed: bool = False
    debug: bool = False

    def workers(self, on_gpu: bool) -> Executor:
        """The executor that is asked for."""
        memory = None if self.memory is None else int(self.memory * 2**30)
        if self.executor == "ray" and not self.debug:
            return Ray(self.address, self.jobs, memory)
        if on_gpu:  # a limit on address space would stop CUDA, which reserves far more than it uses
            return Local(self.jobs or 1, None, self.debug)
        jobs = self.jobs or cores()
        return Local(jobs, memory or memory_per_worker(jobs), self.debug)


def run(
    description: Description,
    out: Path | None,
    execution: Execution | None = None,
    *,
    command: str | None = None,
    progress: bool = True,
) -> Results:
    """Carry out a described study in the directory `out`, and open its results.

    What is finished there is kept: the same call goes on where an earlier one was stopped. Without `out` it
    is a temporary directory, which goes with the results. `command` is recorded as what makes the results
    anew. Raises InputError where the description is wrong, or nothing can be compared; cells that fail are
    left out, see `Results.what_failed`.
    """
    if out is None:
        directory = Path(tempfile.mkdtemp(prefix="rolloutbench-"))
        try:
            results = run(description, directory, execution, command=command, progress=progress)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        weakref.finalize(results, shutil.rmtree, directory, ignore_errors=True)
        return results
    execution = execution or Execution()
    if command is None:
        command = f"rolloutbench {description.study} --config {out / 'study.toml'} --out {out}"

    def carried_out(watcher: Watcher | None) -> None:
        carry_out(
            description,
            out,
            execution.workers(description.on_gpu),
            command=command,
            watcher=watcher,
            force=execution.force,
            retry_failed=execution.retry_failed,
            overwrite=execution.overwrite,
        )

    if progress:
        watching = TrainingProgress if description.study == "train" else Progress
        with watching(description.study, out) as watcher:
            carried_out(watcher)
    else:
        carried_out(None)
    return open_results(out)


def compare(
    allocators: Sequence[str | Allocator | type[Allocator]] | None = None,
    scenarios: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Compare allocators at equal cost: who learns most from the rollouts it pays for?

    `allocators`: specs such as "vip[predictor=beta]", objects, or classes; `uniform` is always in.
    `scenarios`: specs. `out`: a directory for cells, tables and figures, which the same call goes on from;
    a temporary one by default, which goes with the results. `config`: a TOML file for whatever is not
    given. `options`: the other options of `rolloutbench compare` (estimator, aggregation, replicates, seed,
    steps, snapshot, ...) and how it runs (jobs, memory, executor, ...; see `Execution`).

    Raises InputError, in one line, for a wrong name, value or combination. Warns of cells that failed.
    """
    return _study("compare", out, config, progress, options, allocators=allocators, scenarios=scenarios)


def predict(
    predictors: Sequence[str | Predictor | type[Predictor]] | None = None,
    scenarios: Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Compare predictors of the success probability along a simulated training run.

    `predictors`: specs, objects or classes; `options`: those of `rolloutbench predict`. See `compare` for the
    rest. Raises InputError, in one line, for a wrong name, value or combination.
    """
    return _study("predict", out, config, progress, options, predictors=predictors, scenarios=scenarios)


def train(
    allocators: Sequence[str | Allocator | type[Allocator]] | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Train a language model with each allocator, for real; needs the extra `llm` (torch, transformers).

    `options`: those of `rolloutbench train` (task, model, trainer, steps, ...). See `compare` for the rest.
    Raises InputError, in one line, for a wrong name, value or combination.
    """
    return _study("train", out, config, progress, options, allocators=allocators)


def recommend(
    scenarios: Sequence[str] | None = None,
    *,
    pass_rates: str | Path | None = None,
    like: str | Path | None = None,
    allocators: Sequence[str | Allocator | type[Allocator]] | None = None,
    price: Price = "rollouts",
    out: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Recommendation:
    """Which allocator to use, what it saves, and the lines that train with it in TRL and in verl.

    `scenarios`: specs; or `pass_rates`: a file of your own prompts; or `like`: a directory with results of
    training runs, which are read as they are: of these `scenarios` and `allocators` only, where they are
    named. Otherwise `allocators` (those of `compare` by default) are compared at their own best learning
    rates. `price`: "rollouts" or "seconds", what is paid. `out`: a directory that keeps the study. `options`:
    as of `compare` (prompts, group_size, estimator, aggregation, optimizer, price_per_gpu_hour, ..., jobs).

    Raises InputError, in one line, for a wrong name, value or combination. Warns of cells that failed.
    """
    given = dict(options) if pass_rates is None else {**options, "pass_rates": str(pass_rates)}
    described, how = _described("compare", None, given, scenarios=scenarios, allocators=allocators)
    kept = None if out is None else Path(out)
    found = recommended(described, kept, how, like=like, price=price, progress=progress)
    for line in found.results.what_failed():
        warnings.warn(line, stacklevel=2)
    return found


def recommended(
    description: Description,
    out: Path | None,
    execution: Execution,
    *,
    like: str | Path | None,
    price: Price,
    command: str | None = None,
    progress: bool = True,
) -> Recommendation:
    """The recommendation of a described comparison, which is carried out; or of the results in `like`.

    Raises InputError where these are not of training runs, or both are asked for.
    """
    from rolloutbench.analysis.recommendation import Recommendation, check_price

    check_price(price)
    if like is not None:
        told = sorted(description.model_fields_set - {"study", *OF_LIKE})
        other = "--out" if out is not None else description.where(told[0]) if told else None
        if other is not None:
            raise InputError(f"{other}: goes without --like, whose results are read as they are")
        assert isinstance(description, Comparison)
        results = open_results(Path(like))
        if description.price_per_gpu_hour is not None:
            results = results.priced(description.price_per_gpu_hour)
        names = [name if isinstance(name, str) else repr(name) for name in description.allocators or ()]
        return Recommendation.of(results, price, description.scenarios or (), names)
    if description.build().results.kind != "learning":
        raise InputError(f"{description.where('scenarios')}: a snapshot does not train: training is expected")
    results = run(description, out, execution, command=command, progress=progress)
    return Recommendation.of(results, price)


def solve(
    p: ArrayLike,
    rollouts: int,
    *,
    objective: str | Objective = "rloo",
    lower: int = 2,
    upper: int = 128,
    weights: ArrayLike = 1.0,
    allow_zero: bool = False,
    solver: str = "auto",
) -> Allocation:
    """Allocate rollouts over prompts with success probabilities `p`, exactly.

    `p`: (B,), or (R, B) for R problems at once; `weights` broadcast with it. `rollouts`: to spend, all of
    them; every prompt gets `lower` to `upper`, or also none with `allow_zero`. The answer's `counts` have
    the shape of `p`; `value`, `bound` and `price` (R,) say how good it is, how good it could be at best,
    and what one more rollout would be worth. Raises InputError where the names are wrong, ValueError where
    no allocation fits.
    """
    rates = np.asarray(p, dtype=np.float64)
    if rates.ndim not in (1, 2) or not ((rates >= 0) & (rates <= 1)).all():
        raise InputError("p: success probabilities in [0, 1] are expected, of shape (B,) or (R, B)")
    problem = Problem.of(objectives.create(objective), rates, rollouts, lower, upper, weights, allow_zero)
    found = solve_problem(problem, solver)
    return found if rates.ndim == 2 else dataclasses.replace(found, counts=found.counts[0])


def _study(
    name: str,
    out: str | Path | None,
    config: str | Path | None,
    progress: bool,
    options: Mapping[str, Any],
    **members: Any,
) -> Results:
    described, how = _described(name, config, options, **members)
    results = run(described, None if out is None else Path(out), how, progress=progress)
    for line in results.what_failed():
        warnings.warn(line, stacklevel=3)
    return results


def _described(
    name: str, config: str | Path | None, options: Mapping[str, Any], **members: Any
) -> tuple[Description, Execution]:
    """A study, and how it is carried out, by the arguments of a function."""
    how = {key: value for key, value in options.items() if key in Execution.__dataclass_fields__}
    given = {
        key: value if isinstance(value, str) else list(value)  # a text is refused as no list
        for key, value in members.items()
        if value is not None
    }
    given |= {key: value for key, value in options.items() if key not in how}
    described = description_of(name).of(given, None if config is None else Path(config), options=False)
    return described, Execution(**how)
