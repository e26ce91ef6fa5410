"""How long allocations take. Speed is printed and never asserted; every timed answer is checked.

    python -m pytest tests/benchmarks --benchmark-only

Success probabilities are Beta(.4, .6) with a fixed seed, budgets 8 rollouts a prompt. Times include
building the problem. Rounds are few where a call is slow; ratios are of medians (see conftest.py).
"""

from __future__ import annotations

import gc
import statistics
import time

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import OptimizeResult, minimize

from rolloutbench.allocators import allocators
from rolloutbench.estimators import estimators
from rolloutbench.objectives import objectives
from rolloutbench.protocol import Budget, FloatArray
from rolloutbench.solvers import Allocation, Problem, solve
from rolloutbench.solvers.reference import reference
from simulators.scenarios import scenarios
from simulators.snapshot import BLOCK, SnapshotCell


def chances(prompts: int) -> FloatArray:
    return np.random.default_rng(20260201).beta(0.4, 0.6, prompts)


def build(objective: str, p: FloatArray, lower: int = 4, upper: int = 16) -> Problem:
    return Problem.of(objectives.create(objective), p, 8 * len(p), lower, upper)


def size(prompts: int) -> str:
    """The end of a row's name."""
    return "" if prompts == 512 else f", B={prompts:,}"


def assert_best(problem: Problem, found: Allocation, gap: float = 1e-9) -> None:
    """Feasible, and by weak duality within `gap` (relative) of the best, whatever found the price."""
    counts = found.counts
    assert counts.dtype == np.int64
    assert counts.sum() == problem.budget[0]
    assert (counts >= problem.lower).all()
    assert (counts <= problem.upper).all()
    losses = problem.allowed_losses()[0]
    loss = losses[np.arange(len(losses)), counts[0]].sum()
    price = found.price[0]
    bound = (losses + price * np.arange(losses.shape[1])).min(axis=1).sum() - price * problem.budget[0]
    assert bound - 1e-9 * abs(bound) <= loss <= bound + gap * abs(bound)


def clarabel_alone(p: FloatArray) -> tuple[float, float]:
    """Clarabel's own clock (its setup and iterations, in seconds), and the optimum over real counts.

    The program is built anew each time: solved twice, cvxpy keeps the solver and its clock runs on.
    """
    counts = cp.Variable(len(p))
    loss = cp.multiply(p * (1 - p), cp.inv_pos(counts - 1)).sum()
    program = cp.Problem(cp.Minimize(loss), [counts >= 4, counts <= 16, cp.sum(counts) == 8 * len(p)])
    program.solve(solver="CLARABEL")
    assert program.status == "optimal"
    return program.solver_stats.solve_time, program.value


@pytest.mark.parametrize(("prompts", "rounds"), [(512, 51), (10_000, 11)])
def test_exact_against_clarabel(timed, record, prompts, rounds):
    """The integer optimum against a conic solver on the continuous problem, with and without cvxpy.

    All are run by turns, so that a machine whose speed drifts does so for all of them. A turn of the
    exact solver is the mean of 20 calls: a single one, after Clarabel, would start with cold caches.
    """
    p = chances(prompts)
    problem = build("rloo", p)
    whole, alone, relaxed = [], [], []

    def clarabel() -> None:
        started = time.perf_counter()
        found = reference(build("rloo", p), interpolate=False)
        whole.append(time.perf_counter() - started)
        seconds, value = clarabel_alone(p)
        alone.append(seconds)
        relaxed.extend([found.value[0], value])
        gc.collect()  # or cvxpy's garbage would be collected on the exact solver's time

    name = f"exact integer, rloo{size(prompts)}"
    found = timed(name, lambda: solve(build("rloo", p)), rounds, clarabel, calls=20)
    record(f"Clarabel via cvxpy, rloo, real n{size(prompts)}", statistics.median(whole))
    record(f"Clarabel's own solve_time{size(prompts)}", statistics.median(alone))
    assert_best(problem, found)
    best = found.value[0]
    assert relaxed == pytest.approx([relaxed[0]] * len(relaxed), rel=1e-6)
    assert 0.99 * best < relaxed[0] < best
    if prompts == 512:  # as a line through the integer values, the same program has the integer optimum
        assert reference(problem).value[0] == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "prompts", "rounds"),
    [("rloo", 100_000, 31), ("rloo", 1_000_000, 15), ("success_rate", 512, 301)],
)
def test_exact(timed, objective, prompts, rounds):
    """The cost grows linearly up to a million prompts; `success_rate` is to be held against SLSQP."""
    p = chances(prompts)
    name = f"exact integer, {objective}{size(prompts)}"
    found = timed(name, lambda: solve(build(objective, p)), rounds)
    assert_best(build(objective, p), found)


def test_slsqp(timed):
    """VIP's released code: SLSQP on sum p(1-p)/n with numeric gradients, scipy's default tolerance.

    It takes many seconds, so there is one round; the warm-up is a small problem. It ends at its limit of
    100 iterations, at a value slightly above the continuous optimum.
    """
    p = chances(512)
    slsqp(p[:16])
    found = timed("SLSQP as VIP's code, success_rate, real n", lambda: slsqp(p), rounds=1, warm_up=0)
    problem = build("success_rate", p)
    assert found.x.sum() == pytest.approx(problem.budget[0])
    assert (found.x >= 4 - 1e-9).all()
    assert (found.x <= 16 + 1e-9).all()
    assert found.fun == pytest.approx(reference(problem, interpolate=False).value[0], rel=1e-3)
    assert found.fun == pytest.approx(solve(problem).value[0], rel=1e-2)


def slsqp(p: FloatArray) -> OptimizeResult:
    scale = p * (1 - p)
    return minimize(
        lambda n: (scale / n).sum(),
        np.full(len(p), 8.0),
        method="SLSQP",
        bounds=[(4, 16)] * len(p),
        constraints={"type": "eq", "fun": lambda n: n.sum() - 8 * len(p)},
        options={"maxiter": 100},
    )


@pytest.mark.parametrize("objective", ["rloo", "dr_grpo"])
def test_continuous(timed, objective):
    """VIP's Theorems 5.2 and 5.1: real counts, just below the integer optimum."""
    p = chances(512)
    name = f"VIP's theorems by bisection, {objective}, real n"
    found = timed(name, lambda: solve(build(objective, p), "continuous"), 51)
    problem = build(objective, p)
    best = solve(problem).value[0]
    assert found.counts.sum() == pytest.approx(problem.budget[0])
    assert 0.99 * best < found.value[0] < best
    if objective == "rloo":  # Dr. GRPO's loss is no expression that cvxpy knows to be convex
        assert found.value[0] == pytest.approx(reference(problem, interpolate=False).value[0], rel=1e-6)


@pytest.mark.parametrize(("objective", "lower"), [("non_zero_gradient", 0), ("grpo", 2)])
def test_dynamic(timed, objective, lower):
    """Objectives without diminishing returns; the answer lies within the duality gap of its bound."""
    p = chances(512)
    name = f"{objective}, n in [{lower}, 32]"
    found = timed(name, lambda: solve(build(objective, p, lower, 32), "dynamic"), 7)
    assert_best(build(objective, p, lower, 32), found, gap=1e-5)


def test_snapshot_cell(timed):
    """A whole simulator cell: pool, history, predictor, exact allocation and exact moments."""
    cell = SnapshotCell(
        scenario_name="snapshot-u-shaped-v1",
        scenario=scenarios.create("snapshot-u-shaped-v1"),
        allocator_name="vip",
        allocator=allocators.create("vip"),
        estimator=estimators.create("rloo"),
        aggregation="prompt",
        budget=Budget(128, 128 * 8),
        seed=0,
        block=0,
    )
    result = timed("one snapshot cell, 16 replicates", cell.run, 21)
    by_metric = result.groupby("metric").value
    assert BLOCK == 16
    assert (by_metric.get_group("generated_per_prompt") == 8).all()
    assert by_metric.get_group("snr").between(0, np.inf, inclusive="neither").all()
