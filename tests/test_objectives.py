import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rolloutbench.estimators import estimators, moments
from rolloutbench.objectives import ClosedForm, noise_objective, objectives

SPECS = [
    *objectives.names(),
    "grpo[ddof=0]",
    "mse[noise_ratio=0]",
    "mse[estimator=reinforce,noise_ratio=1]",
    "mse[estimator=dr_grpo]",
    "mse[estimator=grpo]",
    "coba[alpha=1,beta=3,tau=0.2]",
]
TOP = 40
P = np.array([0.0, 1e-300, 1e-12, 1e-3, *np.linspace(0.01, 0.99, 33), 1 - 1e-3, 1 - 1e-12, 1.0])


@pytest.mark.parametrize("spec", SPECS)
def test_the_claim_of_diminishing_returns_holds(spec):
    objective = objectives.create(spec)
    start = objective.convex_from
    if start is None:
        return
    sign = -1 if objective.maximise else 1
    losses = sign * objective.table(P, TOP)[:, start:]
    gains = -np.diff(losses, axis=1)
    scale = np.abs(losses).max(axis=1, keepdims=True)
    assert (gains >= -1e-13 * scale).all(), "a further rollout made it worse"
    assert (np.diff(gains, axis=1) <= 1e-13 * scale).all(), "returns grew"


@pytest.mark.parametrize("spec", ["grpo", "mse[estimator=grpo]", "mse[estimator=dr_grpo,noise_ratio=0]"])
def test_objectives_without_the_claim_really_lack_it(spec):
    objective = objectives.create(spec)
    assert objective.convex_from is None
    gains = -np.diff(objective.table(P, TOP)[:, 3:], axis=1)
    assert (np.diff(gains, axis=1) > 1e-9).any() or (gains < -1e-9).any()


@pytest.mark.parametrize("name", ["rloo", "dr_grpo", "non_zero_gradient", "success_rate", "reinforce"])
def test_the_claim_cannot_start_earlier(name):
    objective = objectives.create(name)
    start = objective.convex_from - 1
    losses = (-1 if objective.maximise else 1) * objective.table(np.array([0.3]), TOP)[0, start:]
    with np.errstate(invalid="ignore"):
        gains = -np.diff(losses)
    worse_or_growing = (gains < 0).any() or (np.diff(gains) > 1e-9).any()
    assert not np.isfinite(losses).all() or worse_or_growing


@pytest.mark.parametrize("name", objectives.names())
@given(p=st.one_of(st.sampled_from([0.0, 1.0, 1e-12, 1e-300]), st.floats(0, 1)), n=st.integers(0, TOP))
def test_at_is_an_entry_of_the_table(name, p, n):
    objective = objectives.create(name)
    table = objective.table(np.array([p]), TOP)
    assert table.shape == (1, TOP + 1)
    assert objective.at(np.array([p]), np.array([n]))[0] == pytest.approx(table[0, n], rel=1e-12)


@pytest.mark.parametrize(
    "name", [n for n in objectives.names() if isinstance(objectives.create(n), ClosedForm)]
)
def test_marginals_are_differences_of_values(name):
    objective = objectives.create(name)
    start = objective.convex_from
    sign = -1 if objective.maximise else 1
    p = np.linspace(0, 1, 41)
    expected = -np.diff(sign * objective.table(p, TOP)[:, start:], axis=1)
    n = np.arange(start + 1, TOP + 1, dtype=float)
    np.testing.assert_allclose(objective.marginal(p[:, None], n), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", ["non_zero_gradient", "hit", "saturating"])
def test_gains_do_not_cancel_at_tiny_p(name):
    """1 - p^n - (1-p)^n at p = 1e-12 is n p to twelve digits; naive code keeps four."""
    objective = objectives.create(name)
    for p in (1e-12, 1e-15, 1e-300):
        assert objective.at(np.array([p]), np.array([8]))[0] == pytest.approx(8 * p, rel=1e-10)
    if name == "non_zero_gradient":
        q = 1 - (1 - 1e-12)  # what is left of 1e-12 after rounding 1 - 1e-12
        assert objective.at(np.array([1 - q]), np.array([8]))[0] == pytest.approx(8 * q, rel=1e-10)


@pytest.mark.parametrize("spec", SPECS)
def test_no_warning_and_no_nan_at_the_edges(spec):
    table = objectives.create(spec).table(np.array([0.0, 1e-300, 5e-324, 1e-12, 1 - 1e-16, 1.0]), TOP)
    assert not np.isnan(table).any()


@pytest.mark.parametrize("name", ["reinforce", "dr_grpo", "rloo", "grpo", "grpo[ddof=0]"])
def test_noise_objectives_are_the_estimators_noise_factors(name):
    estimator = estimators.create(name)
    p, n = np.linspace(0, 1, 9), np.arange(estimator.minimum, 20)
    exact = moments(estimator, p[:, None], n[None, :]).noise
    np.testing.assert_allclose(noise_objective(estimator).table(p, 19)[:, n], exact, rtol=1e-11, atol=1e-16)


def test_noise_objective_of_a_foreign_estimator():
    with pytest.raises(TypeError, match="no noise objective"):
        noise_objective(object())


@pytest.mark.parametrize("name", ["rloo", "reinforce", "dr_grpo", "grpo"])
def test_mse_is_the_estimators_and_the_whole_gradient_without_rollouts(name):
    objective = objectives.create(f"mse[estimator={name},noise_ratio=3]")
    estimator = estimators.create(name)
    p = np.linspace(0, 1, 9)
    table = objective.table(p, 12)
    np.testing.assert_allclose(table[:, 0], (p * (1 - p)) ** 2)
    exact = moments(estimator, p, np.array(9)).mse(3.0)
    np.testing.assert_allclose(table[:, 9], exact, rtol=1e-9, atol=1e-15)
    assert np.isinf(table[:, 1 : estimator.minimum]).all()


def test_values_as_the_papers_write_them():
    p, n = np.array([0.3]), np.array([7])
    mixed = 1 - 0.3**7 - 0.7**7
    expected = {
        "rloo": 0.21 / 6,
        "dr_grpo": 0.21 * 6 / 49,
        "success_rate": 0.21 / 7,
        "non_zero_gradient": mixed,
        "knapsack": mixed * 0.3 * 0.49,
        "hit": 1 - 0.7**7,
        "coba[tau=2,alpha=3,beta=8]": (1 - np.exp(-7 * 0.21 / 2)) * stats.beta.pdf(0.3, 3, 8),
    }
    for spec, value in expected.items():
        assert objectives.create(spec).at(p, n)[0] == pytest.approx(value, rel=1e-12), spec


@pytest.mark.parametrize("spec", [spec for spec in SPECS if isinstance(objectives.create(spec), ClosedForm)])
@pytest.mark.parametrize("beyond", [0, 5])
def test_the_table_of_marginals_is_that_of_each(spec, beyond):
    objective = objectives.create(spec)
    p, first = np.stack([P, P[::-1]]), objective.convex_from + 1 + beyond
    found = objective.marginals(p, first, first + 90)
    for n in range(first, first + 91):
        each = objective.marginal(p, np.array(float(n)))
        np.testing.assert_allclose(found[:, n - first], each, rtol=1e-11, atol=1e-300)
