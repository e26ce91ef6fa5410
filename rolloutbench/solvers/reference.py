"""The allocation problem in cvxpy: slow, obvious, and open to side constraints.

Counts are real numbers. With `interpolate` (the default) the objective is the line through its integer
values, so that without side constraints the optimum is the integer optimum; without it, the formula
itself is relaxed, as VIP does, and the optimum lies below the integer one.

Side constraints: with `costs` (B,), tokens per rollout, the budget of rollouts gives way to one of
`tokens`, not to be exceeded; `groups` (B,) label the prompts, and `minima` say how many rollouts each
label must get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from rolloutbench.objectives import InverseLoss, Objective
from rolloutbench.optional import need
from rolloutbench.protocol import FloatArray, InputError
from rolloutbench.registry import nearest
from rolloutbench.solvers.problem import Allocation, Problem


def reference(
    problem: Problem,
    *,
    interpolate: bool = True,
    costs: FloatArray | None = None,
    tokens: float | None = None,
    groups: Sequence[str] | None = None,
    minima: Mapping[str, int] | None = None,
) -> Allocation:
    """The optimum over real counts by cvxpy and Clarabel, for one replicate (R = 1).

    Raises InputError where returns do not diminish, where the formula is no convex expression, and
    where the side constraints cannot be met.
    """
    cp = need("cvxpy", "cvxpy")
    if len(problem.p) != 1:
        raise InputError(f"solver cvxpy takes one replicate, not {len(problem.p)}")
    problem.require_diminishing_returns("cvxpy")
    lower, upper = problem.lower[0], problem.upper[0]
    counts = cp.Variable(len(lower))
    if costs is None:
        price_tag = cp.sum(counts) == int(problem.budget[0])
    else:
        price_tag = cp.sum(cp.multiply(costs, counts)) <= tokens
    constraints = [counts >= lower, counts <= upper, price_tag]
    for label, minimum in (minima or {}).items():
        members = np.flatnonzero(np.asarray(groups, dtype=object) == label)
        if not len(members):
            hint = nearest(label, set(groups or ()))
            raise InputError(f"group minimum {label}={minimum}: no prompt has group '{label}': {hint}")
        constraints.append(cp.sum(counts[members]) >= minimum)
    if interpolate:
        loss = _interpolated(cp, problem, counts, constraints)
    else:
        loss = _relaxed(cp, problem.objective, problem.weights[0], problem.p[0], counts)
    scale = max(float(problem.weights.max()), 1e-300)
    program = cp.Problem(cp.Minimize(loss / scale), constraints)
    try:
        program.solve(solver="CLARABEL")
    except cp.error.SolverError as error:
        raise InputError(f"solver cvxpy failed on this problem: {error}") from None
    if program.status not in ("optimal", "optimal_inaccurate"):
        budget = f"budget={problem.budget[0]}" if costs is None else f"budget={tokens} tokens"
        raise InputError(f"{budget} with these bounds, costs and minima: the problem is {program.status}")
    value = problem.sign * float(program.value) * scale
    price = abs(float(price_tag.dual_value)) * scale
    return Allocation(np.asarray(counts.value)[None], np.array([price]), np.array([value]), np.array([value]))


def _interpolated(cp: Any, problem: Problem, counts: Any, constraints: list[Any]) -> Any:
    """The loss as the line through its integer values: rollout by rollout, each between 0 and 1."""
    losses = problem.allowed_losses()[0]
    lower, upper = problem.lower[0], problem.upper[0]
    prompt, unit = np.nonzero(np.arange(losses.shape[1]) > lower[:, None])
    within = unit <= upper[prompt]
    prompt, unit = prompt[within], unit[within]
    start = float(losses[np.arange(len(lower)), lower].sum())
    if not len(unit):
        return cp.Constant(start)
    taken = cp.Variable(len(unit), bounds=[0, 1])
    member = sparse.csr_array(
        (np.ones(len(unit)), (prompt, np.arange(len(unit)))), shape=(len(lower), len(unit))
    )
    constraints.append(counts == lower + member @ taken)
    return start + (losses[prompt, unit] - losses[prompt, unit - 1]) @ taken


def _relaxed(cp: Any, objective: Objective, weights: FloatArray, p: FloatArray, counts: Any) -> Any:
    """The loss as the formula itself; cvxpy knows the inverse ones to be convex."""
    if not isinstance(objective, InverseLoss):
        raise InputError(f"{type(objective).__name__} is no convex expression: leave interpolate on")
    return cp.multiply(weights * objective.scale(p), cp.inv_pos(counts - objective.shift)).sum()
