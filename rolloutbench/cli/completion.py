"""Names that a shell may complete: of everything registered, of metrics, of the papers' figures and claims.

What is registered is imported when the shell asks, and only then. Parameters in brackets are the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rolloutbench.optional import load
from rolloutbench.registry import Registry

_PLACES = {
    "allocator": ("rolloutbench.allocators:allocators",),
    "predictor": ("rolloutbench.predictors:predictors",),
    "scenario": ("simulators.scenarios:scenarios",),
    "estimator": ("rolloutbench.estimators:estimators",),
    "objective": ("rolloutbench.objectives:objectives",),
    "solver": ("rolloutbench.solvers:SOLVERS",),
    "task": ("real_runs.tasks:tasks",),
    "model": ("real_runs.models:models",),
    "engine": ("real_runs.settings:engines",),
    "trainer": ("real_runs.settings:trainers",),
    "metric": ("rolloutbench.analysis.metrics:METRICS",),
    "figure": ("paper_figures.gallery:PAPERS", "paper_figures.gallery:FIGURES"),
    "claim": ("paper_figures.claims:claims_in",),
    "method": ("rolloutbench.allocators:allocators", "rolloutbench.predictors:predictors"),
}
"""Where the names of each kind are: registries, mappings by name, or functions that give one."""

_EVERY = {"scenario": ("all", "all-snapshots"), "allocator": ("all",), "solver": ("auto",)}
"""Words that stand for several of a kind, or for none in particular."""

OF_FIELD = {
    "allocators": "allocator",
    "allocator": "allocator",
    "predictors": "predictor",
    "scenarios": "scenario",
    "estimator": "estimator",
    "task": "task",
    "model": "model",
    "engine": "engine",
    "trainer": "trainer",
    "sort": "metric",
}
"""The kind of names that a field of a study's description takes."""


def names_of(kind: str) -> Callable[[str], list[str]]:
    """A function from the beginning of a word to the names of this kind that begin with it."""

    def complete(incomplete: str) -> list[str]:
        names = set(_EVERY.get(kind, ()))
        for place in _PLACES[kind]:
            names.update(_names_in(load(place)))
        return sorted(name for name in names if name.startswith(incomplete))

    return complete


def _names_in(found: Registry[object] | Iterable[str] | Callable[[], Iterable[str]]) -> Iterable[str]:
    if isinstance(found, Registry):
        return found.names()
    return found() if callable(found) else found
