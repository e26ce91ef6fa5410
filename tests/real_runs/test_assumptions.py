"""Tests of VIP's assumption and variances of gradients, on banks whose truth is known."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from real_runs.assumptions import agreement, assumption_tests, gradient_variance, per_token
from rolloutbench.analysis.plotting.panels import save
from rolloutbench.analysis.plotting.scores import variance_scatter
from rolloutbench.protocol import InputError
from rolloutbench.score_bank import ScoreBank


def bank(rewards, scores, lengths=None):
    """Of rewards (Q, M) and exact scores (Q, M, D)."""
    prompts, rollouts, dimensions = scores.shape
    flat = scores.reshape(-1, dimensions).astype(np.float32)
    count = prompts * rollouts
    return ScoreBank(
        prompts=np.repeat(np.arange(prompts), rollouts),
        steps=np.zeros(count, np.int64),
        rewards=rewards.reshape(-1).astype(np.int64),
        raw=rewards.reshape(-1).astype(np.float32),
        norms=np.linalg.norm(flat.astype(np.float64), axis=1).astype(np.float32),
        lengths=np.ones(count, np.int32) if lengths is None else lengths,
        sketches=flat,
    )


def independent(prompts=60, rollouts=16, dimensions=6, seed=0, spread=None):
    """Rewards have nothing to do with scores; all prompts have the same distribution of scores."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.1, 0.9, prompts)
    rewards = rng.random((prompts, rollouts)) < p[:, None]
    scores = rng.normal(size=(prompts, rollouts, dimensions)) + rng.normal(size=(prompts, 1, dimensions))
    return rewards, scores * (1 if spread is None else spread[:, None, None])


# Variances


def gradients(groups, rewards, scores, estimator):
    """Of groups (G, n) of rollouts, by the definition of the advantages."""
    r, z = rewards[groups].astype(float), scores[groups]
    n = groups.shape[1]
    others = (r.sum(axis=1, keepdims=True) - r) / (n - 1)
    baseline = others if estimator == "rloo" else r.mean(axis=1, keepdims=True)
    return ((r - baseline)[..., None] * z).mean(axis=1)


@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo"])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_closed_form_is_the_variance_over_all_groups(estimator, n):
    rng = np.random.default_rng(n)
    rewards = np.array([[1, 0, 0, 1, 1]])
    scores = rng.normal(size=(1, 5, 3)) + 2 * rewards[..., None] * rng.normal(size=3)
    every = np.array(list(itertools.product(range(5), repeat=n)))
    found = gradients(every, rewards[0], scores[0], estimator)
    table = gradient_variance(bank(rewards, scores), estimator, n)
    np.testing.assert_allclose(table.measured, found.var(axis=0).sum(), rtol=1e-6)
    assert set(table.p) == {0.6}


@pytest.mark.parametrize("estimator", ["rloo", "dr_grpo"])
def test_independent_scores_of_equal_variance_are_what_vip_predicts(estimator):
    """Propositions 4.2 and 4.3 for rewards 0 and 1, tr Cov(z) = 6 for all: every prediction is right."""
    rewards, scores = independent(prompts=30, rollouts=1000)
    table = gradient_variance(bank(rewards, scores), estimator, 8)
    p = rewards.mean(axis=1)
    factor = {"rloo": 1 / 7, "dr_grpo": 7 / 64}[estimator]
    common = table[table.prediction == "common"]
    np.testing.assert_allclose(common.predicted, factor * p * (1 - p) * 6, rtol=0.03)
    np.testing.assert_allclose(common.measured, common.predicted, rtol=0.15)
    found = agreement(table, resamples=200).set_index(["prediction", "metric"]).estimate
    for prediction in ("common", "own trace"):
        assert found[prediction, "spearman"] > 0.9
        assert found[prediction, "explained"] > 0.9
        assert found[prediction, "ratio"] == pytest.approx(1, abs=0.02)
    # The letter of the propositions has another unit: Var|z| is not tr Cov(z).
    assert found["own length", "ratio"] < 0.5


def test_unequal_variances_are_seen_by_the_own_trace_only():
    spread = np.random.default_rng(5).lognormal(0, 1, 60)
    rewards, scores = independent(rollouts=400, spread=spread)
    found = agreement(gradient_variance(bank(rewards, scores), "rloo", 8), resamples=200)
    found = found.set_index(["prediction", "metric"])
    assert found.loc[("own trace", "pearson_log"), "estimate"] > 0.98
    assert found.loc[("common", "pearson_log"), "high"] < 0.8
    assert (found.low <= found.estimate).all()
    assert (found.estimate <= found.high).all()


def test_the_other_half_shares_nothing():
    """Rewards are fair coins and scores alike: there is nothing to predict, but p-hat is on both sides."""
    rng = np.random.default_rng(0)
    rewards = rng.random((400, 16)) < 0.5
    given = bank(rewards, rng.normal(size=(400, 16, 6)))
    shared = agreement(gradient_variance(given, "rloo", 8), resamples=100)
    apart = agreement(gradient_variance(given, "rloo", 8, other_half=True), resamples=100)
    shared, apart = (
        t[(t.prediction == "common") & (t.metric == "spearman")].iloc[0] for t in (shared, apart)
    )
    assert shared.low > 0.2
    assert abs(apart.estimate) < 4 / np.sqrt(400)
    halves = gradient_variance(given, "rloo", 8, other_half=True)
    assert (halves.rollouts == 8).all()
    np.testing.assert_allclose(halves.p[:400], rewards[:, ::2].mean(axis=1))


def test_prompts_without_a_gradient_are_dropped_and_counted():
    rewards, scores = independent(prompts=20)
    rewards[:3], rewards[3:7] = True, False
    kept = int((rewards.any(axis=1) & ~rewards.all(axis=1)).sum())
    table = gradient_variance(bank(rewards, scores), "rloo", 4)
    assert (table.measured[:7] == 0).all()
    found = agreement(table, resamples=50)
    assert (found.prompts == kept).all()
    assert (found.dropped == 20 - kept).all()


def test_lengths_come_from_norms_and_angles_from_sketches():
    rewards, scores = independent(prompts=3)
    exact = bank(rewards, scores)
    rough = ScoreBank(**{**vars(exact), "sketches": 2 * exact.sketches})
    one, two = (gradient_variance(b, "rloo", 4).measured[:3] for b in (exact, rough))
    assert (one != two).all()  # the products of different rollouts are four times too large
    third = ScoreBank(**{**vars(rough), "norms": 2 * exact.norms})
    np.testing.assert_allclose(gradient_variance(third, "rloo", 4).measured[:3], 4 * one, rtol=1e-6)


def test_scores_per_token():
    rewards, scores = independent(prompts=2)
    lengths = np.arange(1, 33, dtype=np.int32)
    found = per_token(bank(rewards, scores, lengths))
    flat = scores.reshape(32, -1) / lengths[:, None]
    np.testing.assert_allclose(found.sketches, flat, rtol=1e-6)
    np.testing.assert_allclose(found.norms, np.linalg.norm(flat, axis=1), rtol=1e-5)


# Tests


def test_the_four_tests_are_scipys():
    rewards, scores = independent(prompts=30, seed=3)
    rewards[0] = True  # cannot be correlated with anything
    norms = np.linalg.norm(scores.astype(np.float32).astype(float), axis=2).astype(np.float32).astype(float)
    table = assumption_tests(bank(rewards, scores), permutations=9).set_index(["test", "of"])
    for of, values in (("R, |z|", norms), ("R, |z|^2", norms**2)):
        p_values = [stats.pearsonr(r, z).pvalue for r, z in zip(rewards[1:], values[1:], strict=True)]
        fisher = stats.combine_pvalues(p_values, method="fisher")
        assert table.loc[("fisher", of), "statistic"] == pytest.approx(fisher.statistic)
        assert table.loc[("fisher", of), "p_value"] == pytest.approx(fisher.pvalue)
        assert table.loc[("edgington", of), "statistic"] == pytest.approx(sum(p_values))
        normal = stats.norm.cdf((sum(p_values) - 29 / 2) / np.sqrt(29 / 12))  # Irwin-Hall is nearly normal
        assert table.loc[("edgington", of), "p_value"] == pytest.approx(normal, abs=0.01)
        assert table.loc[("fisher", of), "prompts"] == 29
    assert table.loc[("levene", "Var|z|"), "p_value"] == pytest.approx(stats.levene(*norms).pvalue)
    obrien = stats.f_oneway(*stats.obrientransform(*norms)).pvalue
    assert table.loc[("obrien", "Var|z|"), "p_value"] == pytest.approx(obrien)
    assert table.loc[("obrien", "Var|z|"), "prompts"] == 30


def test_true_hypotheses_are_rejected_at_the_stated_rate():
    """Independent scores of one distribution, 120 banks: at .1, within four standard errors."""
    tables = [
        assumption_tests(
            bank(*independent(prompts=12, rollouts=12, seed=seed)), permutations=39, seed=seed, level=0.1
        )
        for seed in range(120)
    ]
    table = pd.concat(tables)
    rates = (table.verdict == "rejected").groupby([table.test, table.of]).mean()
    error = np.sqrt(0.1 * 0.9 / 120)
    for test in (("fisher", "R, |z|"), ("edgington", "R, |z|"), ("direction", "R, z")):
        assert abs(rates[test] - 0.1) < 4 * error, rates
    # Levene's and O'Brien's are conservative for such small groups.
    assert (rates < 0.1 + 4 * error).all(), rates
    permuted = (table.permuted <= 0.1).groupby([table.test, table.of]).mean().drop(["levene", "obrien"])
    assert (np.abs(permuted - 0.1) < 4 * error).all(), permuted


def verdicts(rewards, scores):
    table = assumption_tests(bank(rewards, scores), permutations=199)
    return {test: verdict for test, of, verdict in zip(table.test, table.of, table.verdict, strict=True)}


def test_false_hypotheses_are_rejected():
    rewards, scores = independent(seed=7)
    assert set(verdicts(rewards, scores).values()) == {"not rejected"}
    longer = scores * np.where(rewards, 1.5, 1.0)[..., None]
    found = verdicts(rewards, longer)
    assert found["fisher"] == found["edgington"] == "rejected"
    table = assumption_tests(bank(rewards, longer), permutations=99)
    assert (table.permuted[table.test.isin(["fisher", "edgington"])] == 0.01).all()
    found = verdicts(rewards, scores * np.linspace(0.3, 3, 60)[:, None, None])
    assert found["levene"] == found["obrien"] == "rejected"
    assert found["fisher"] == "not rejected"


def test_a_policy_gradient_is_a_correlation_that_lengths_do_not_show():
    """Successes point one way and failures the other, with the same lengths: VIP's tests see nothing."""
    rewards, scores = independent(seed=8)
    scores[..., 0] = np.abs(scores[..., 0]) * np.where(rewards, 1, -1)
    found = verdicts(rewards, scores)
    assert found.pop("direction") == "rejected"


# What is refused, and the figure


def test_what_cannot_be_answered_is_refused():
    given = bank(*independent(prompts=2))
    with pytest.raises(InputError, match="estimator=grpo: one of rloo, dr_grpo"):
        gradient_variance(given, "grpo", 8)
    with pytest.raises(InputError, match="n=1: a group of at least 2"):
        gradient_variance(given, "rloo", 1)
    with pytest.raises(InputError, match="no prompt with 17 rollouts"):
        gradient_variance(given, "rloo", 8, least=17)
    several = ScoreBank(**{**vars(given), "steps": np.arange(32)})
    with pytest.raises(InputError, match="steps 0 to 31: choose one"):
        assumption_tests(several)
    same = ScoreBank(**{**vars(given), "rewards": np.ones(32, np.int64)})
    with pytest.raises(InputError, match="no prompt with 3 rollouts of different rewards"):
        assumption_tests(same)


def test_the_figure_shows_every_mixed_prompt(tmp_path):
    rewards, scores = independent(prompts=20)
    rewards[0] = True
    table = gradient_variance(bank(rewards, scores), "rloo", 8)
    figure = variance_scatter(table, "made up", agreement(table, resamples=50))
    panels = [axes for axes in figure.axes if axes.collections and axes.get_xscale() == "log"]
    kept = table[(table.prediction == "common") & (table.measured > 0)]
    assert len(panels) == 3
    np.testing.assert_allclose(
        panels[0].collections[0].get_offsets(), kept[["predicted", "measured"]].to_numpy()
    )
    assert "rank correlation" in panels[0].texts[0].get_text()
    save(figure, tmp_path, "scatter")
    nothing = variance_scatter(table.assign(measured=0.0), "nothing measured")
    nothing.savefig(tmp_path / "nothing.png")
