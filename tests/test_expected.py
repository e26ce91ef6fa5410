"""Objectives averaged over a belief about p, against scipy's quadrature and against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from rolloutbench.objectives import Expected, beta_quadrature, expected, objectives
from rolloutbench.protocol import Belief
from rolloutbench.solvers import Problem, solve

LINEAR = ["rloo", "dr_grpo", "success_rate", "reinforce"]


def belief_of(alpha, beta):
    total = alpha + beta
    return Belief(alpha / total, alpha * beta / (total**2 * (total + 1)))


@given(st.floats(0.02, 500), st.floats(0.02, 500))
@settings(max_examples=60)
def test_nodes_have_the_moments_of_the_beta(alpha, beta):
    """Gauss nodes are exact for polynomials: raw moments are products (alpha + j) / (alpha + beta + j)."""
    belief = belief_of(np.array([[alpha]]), np.array([[beta]]))
    nodes, weights = beta_quadrature(belief.mean, belief.variance)
    assert ((nodes >= 0) & (nodes <= 1)).all()
    assert weights.sum() == pytest.approx(1)
    steps = np.arange(31)
    moments = np.cumprod((alpha + steps) / (alpha + beta + steps))
    found = [(weights * nodes ** (j + 1)).sum() for j in steps]
    np.testing.assert_allclose(found, moments, rtol=1e-6, atol=1e-12)


def test_beliefs_at_the_edges():
    mean = np.array([[0.0, 1.0, 0.3, 0.3, 0.5]])
    variance = np.array([[0.0, 0.0, 0.0, 0.9, 1 / 12]])  # 0.9: more than any p with mean 0.3 can have
    nodes, weights = beta_quadrature(mean, variance)
    found = (weights * nodes).sum(axis=-1)
    np.testing.assert_allclose(found, mean, atol=1e-9)
    spread = (weights * (nodes - found[..., None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(spread, [[0, 0, 0, 0.21, 1 / 12]], atol=1e-8)


@pytest.mark.parametrize("name", LINEAR)
@given(st.floats(0.05, 50), st.floats(0.05, 50))
@settings(max_examples=30)
def test_fast_path_and_quadrature_agree(name, alpha, beta):
    objective = objectives.create(name)
    belief = belief_of(np.array([[alpha]]), np.array([[beta]]))
    fast, p = expected(objective, belief)
    assert fast is objective
    slow = Expected(objective, belief.variance).table(belief.mean, 12)
    np.testing.assert_allclose(fast.table(p, 12), slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in objectives.names() if n not in LINEAR])
@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 2.0), (3.0, 5.0), (40.0, 9.0)])
def test_the_others_are_averaged_over_a_beta(name, alpha, beta):
    objective = objectives.create(name)
    belief = belief_of(np.array([[alpha]]), np.array([[beta]]))
    found, p = expected(objective, belief)
    assert isinstance(found, Expected)
    assert (found.maximise, found.smallest, found.convex_from) == (
        objective.maximise,
        objective.smallest,
        objective.convex_from,
    )
    table = found.table(p, 16)[0, 0]
    assert table.shape == (17,)
    for n in (4, 16):
        # p = u^(1/alpha): the density's pole at 0 is gone.
        constant = stats.beta(alpha, beta).pdf(0.5) / (0.5 ** (alpha - 1) * 0.5 ** (beta - 1)) / alpha

        def weighted(u, n=n, constant=constant):
            x = u ** (1 / alpha)
            return constant * (1 - x) ** (beta - 1) * objective.at(np.array(x), np.array(n))

        exact = integrate.quad(weighted, 0, 1, limit=400, epsabs=1e-11)[0]
        assert table[n] == pytest.approx(exact, rel=2e-3 if name == "grpo" else 1e-5)


@pytest.mark.parametrize("name", ["non_zero_gradient", "hit", "grpo", "coba"])
def test_solvers_take_it(name):
    rng = np.random.default_rng(0)
    belief = belief_of(rng.uniform(0.3, 5, size=(2, 10)), rng.uniform(0.3, 5, size=(2, 10)))
    objective, p = expected(objectives.create(name), belief)
    problem = Problem.of(objective, p, 60, 2, 16)
    found = solve(problem)
    best = solve(problem, "dynamic")
    np.testing.assert_allclose(found.value, best.value)
    assert (found.counts.sum(axis=1) == 60).all()


def test_certain_beliefs_are_the_plug_in():
    p = np.array([[0.0, 0.1, 0.5, 0.9, 1.0]])
    for name in objectives.names():
        objective = objectives.create(name)
        found, at = expected(objective, Belief(p, np.zeros(p.shape)))
        np.testing.assert_allclose(found.table(at, 8), objective.table(p, 8), rtol=1e-6, atol=1e-8)
