"""Exact integer allocation, and the continuous problem for comparison."""

from __future__ import annotations

from collections.abc import Callable

from rolloutbench.protocol import InputError
from rolloutbench.registry import nearest
from rolloutbench.solvers.concave import concave, serve_greatest
from rolloutbench.solvers.continuous import continuous, rounded
from rolloutbench.solvers.dynamic import dynamic
from rolloutbench.solvers.problem import Allocation, Problem
from rolloutbench.solvers.reference import reference

__all__ = ["SOLVERS", "Allocation", "Problem", "serve_greatest", "solve"]


def auto(problem: Problem) -> Allocation:
    """Solve by `concave` where returns diminish, else by `dynamic`: always exact."""
    return concave(problem) if problem.has_diminishing_returns else dynamic(problem)


SOLVERS: dict[str, Callable[[Problem], Allocation]] = {
    "auto": auto,
    "concave": concave,
    "dynamic": dynamic,
    "continuous": continuous,
    "rounded": rounded,
    "cvxpy": reference,
}


def solve(problem: Problem, solver: str = "auto") -> Allocation:
    """Solve R allocation problems by the named solver.

    Raises InputError where the name is unknown or the solver cannot solve such a problem.
    """
    if solver not in SOLVERS:
        raise InputError(f"unknown solver '{solver}': {nearest(solver, SOLVERS)}")
    return SOLVERS[solver](problem)
