"""Who is only there to be compared with: controls, smaller groups, and those that know the truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rolloutbench.allocators import allocators
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.errors import InputError
from rolloutbench.predictors import predictors
from rolloutbench.registry import parse_spec


def method_of(spec: str) -> str:
    """The method that a spec names, without its parameters."""
    return spec.partition("[")[0]


def is_yardstick(spec: str) -> bool:
    """Whether a method is only there to compare with: a control, a smaller uniform, or a bound.

    Classes say so themselves: see `Allocator.control`. A name that is not registered here, as results of
    another machine may have it, is no yardstick.
    """
    if method_of(spec) == BASELINE:
        return spec != BASELINE
    control = allocators.class_of(method_of(spec))
    return (control is not None and control.control) or is_bound(spec)


def is_bound(spec: str) -> bool:
    """Whether an allocator or predictor is told the true p, as no real one is: it shows what p is worth.

    Predictors say so themselves: see `Predictor.knows_truth`.
    """
    predicting = (predictors.class_of(name) for name in _names_in(spec))
    return any(predictor is not None and predictor.knows_truth for predictor in predicting)


def _names_in(spec: str) -> Iterator[str]:
    """The name of a spec, and everything that its parameters may name."""
    try:
        name, parameters = parse_spec(spec)
    except InputError:  # a name of another version
        name, parameters = method_of(spec), {}
    yield name
    for value in parameters.values():
        yield from _names_in(value)


def bounds_said(specs: Iterable[str]) -> str:
    """A sentence that names the bounds among `specs`; empty where there are none."""
    bounds = [spec for spec in specs if is_bound(spec)]
    if not bounds:
        return ""
    one = len(bounds) == 1
    knows = "knows the true p: a bound, not a method" if one else "know the true p: bounds, not methods"
    return f"{', '.join(bounds)} {knows}"
