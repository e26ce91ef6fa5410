"""Rankings that were simulated against real ones, and scenarios fitted to real runs.

Small simulated studies stand in for real ones: they have the same files.
"""

import itertools
import json
import re
import shutil
from pathlib import Path

import command_line
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rolloutbench.allocators import allocators
from rolloutbench.analysis.noise import fit_noise
from rolloutbench.analysis.plotting import validation as plots
from rolloutbench.analysis.results import summarise
from rolloutbench.cells.store import Manifest, write_manifest
from rolloutbench.estimators import estimators
from rolloutbench.protocol import InputError
from rolloutbench.score_bank import ScoreBank, write_bank
from rolloutbench.studies import fitting, validation
from rolloutbench.studies.fitting import (
    fit,
    fit_difficulty,
    fit_learning,
    measure,
    simulated_gain,
)
from rolloutbench.studies.kinds import open_results
from rolloutbench.studies.kinds.comparison import Comparison
from rolloutbench.studies.kinds.learning import LearningResults, LearningStudy
from rolloutbench.studies.kinds.snapshot import SnapshotResults
from rolloutbench.studies.validation import (
    bootstrap_tau,
    halves_tau,
    kendall_tau,
    mean_tau,
    pooled,
    significant_pairs,
    validate,
)
from simulators.pools import BetaDifficulty, Dead
from simulators.scenarios import scenarios

METRIC = "area_over_rollouts"
TINY = "u-shaped-adam-v1[prompts=16,pool_size=64,steps=8]"
ALLOCATORS = ["uniform[divide=2]", "dapo", "reinforce_ada"]


def made(directory, values, kind=LearningResults, steps=60, **changed):
    """A study in files: {allocator: values by replicate}, or that by scenario."""
    by_scenario = values if isinstance(next(iter(values.values())), dict) else {"s": values}
    rows = [
        (scenario, allocator, replicate, METRIC, float(value))
        for scenario, here in by_scenario.items()
        for allocator, row in here.items()
        for replicate, value in enumerate(row)
    ]
    table = pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"])
    table["metric"] = changed.pop("metric", METRIC)
    record = {
        "sort": METRIC,
        "command": "rolloutbench train",
        "estimator": "rloo",
        "captions": dict.fromkeys(by_scenario, "rloo"),
        "conditions": "rloo",
        **{"aggregation": "prompt", "replicates": 16, "seed": 0},
        "scenarios": dict.fromkeys(by_scenario, "made up"),
        "allocators": dict.fromkeys(table.allocator.unique(), "made up"),
        "steps": dict.fromkeys(by_scenario, steps),
    } | changed
    directory.mkdir()
    table.to_parquet(directory / "per_replicate.parquet", index=False)
    summarise(table).to_csv(directory / "summary.csv", index=False)
    return kind(directory, record)


def ranked(means, replicates=16, noise=0.01, seed=0):
    """{allocator: values} around means; the first is uniform."""
    draws = np.random.default_rng(seed).normal(size=(len(means), replicates))
    names = ["uniform", *(f"a{i}" for i in range(1, len(means)))]
    return {name: mean + noise * row for name, mean, row in zip(names, means, draws, strict=True)}


@pytest.fixture
def two(tmp_path):
    """Makes a simulated and a real study and compares them."""

    def compared(simulated, real, metric=METRIC, **changed):
        return validate(
            made(tmp_path / "sim", simulated, metric=metric),
            made(tmp_path / "real", real, metric=metric, **changed),
            metric,
        )

    return compared


def row(found, number=0):
    return found.agreement.to_dict("records")[number]


# Rankings

values = hnp.arrays(float, st.just((2, 6)), elements=st.integers(0, 4).map(float))


@settings(max_examples=60)
@given(rankings=values)
def test_tau_is_scipys(rankings):
    expected = stats.kendalltau(*rankings).statistic
    assert kendall_tau(*rankings) == pytest.approx(expected, nan_ok=True)


def test_a_ranking_by_hand(two):
    """Of three pairs the simulator has (uniform, a1) and (uniform, a2) right, and (a1, a2) wrong."""
    simulated, real = ranked([0.3, 0.2, 0.1]), ranked([0.3, 0.1, 0.2], replicates=3, noise=1e-4)
    found = row(two(simulated, real))
    assert found["tau"] == pytest.approx(1 / 3)
    assert found["spearman"] == pytest.approx(0.5)
    assert (found["allocators"], found["pairs"], found["replicates"], found["seeds"]) == (3, 3, 16, 3)
    assert (found["best"], found["best_real"], found["top"], found["top_of"]) == ("uniform", "uniform", 1, 2)
    assert (found["significant"], found["right"], found["adjusted"], found["adjusted_right"]) == (3, 2, 3, 2)
    assert found["p_value"] == stats.kendalltau([3, 2, 1], [3, 1, 2]).pvalue


MEANS = [0.2, 0.25, 0.3, 0.35, 0.4]


@pytest.mark.parametrize(
    ("real", "noise", "verdict"),
    [(MEANS, 1e-4, "agrees"), (MEANS[::-1], 1e-4, "contradicts"), (MEANS, 3.0, "undecided")],
)
def test_verdicts_follow_the_interval(two, real, noise, verdict):
    found = row(two(ranked(MEANS), ranked(real, replicates=3, noise=noise, seed=1)))
    assert found["verdict"] == verdict
    assert {"agrees": 1.0, "contradicts": -1.0}.get(verdict, found["tau"]) == found["tau"]


def test_one_seed_decides_nothing(two):
    found = two(ranked(MEANS), ranked(MEANS, replicates=1))
    assert row(found)["tau"] == 1
    assert row(found)["verdict"] == "undecided"
    assert np.isnan(row(found)["tau_low"])
    assert row(found)["significant"] == 0
    assert (
        json.loads(json.dumps(validation.as_json(found), allow_nan=False))["agreement"][0]["tau_low"] is None
    )


def test_where_less_is_better_the_least_is_best(two):
    found = row(two(ranked(MEANS), ranked(MEANS, replicates=3), metric="rollouts_to_90"))
    assert (found["best"], found["tau"]) == ("uniform", 1)


def test_what_all_allocators_share_does_not_blur_the_ranking():
    shared = 100 * np.random.default_rng(0).normal(size=8)
    found = bootstrap_tau(np.arange(4.0)[:, None] + shared, np.arange(4.0)[:, None] + shared[:3])
    assert (found.estimate, found.low, found.high) == (1, 1, 1)


def test_replicates_and_seeds_are_drawn_anew():
    """The slow twin draws one resample at a time, by indices."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(5, 12)), rng.normal(size=(5, 12)) + np.arange(5)[:, None]
    drawn = [
        stats.kendalltau(*(x[:, rng.integers(12, size=12)].mean(axis=1) for x in (ours, theirs))).statistic
        for _ in range(1000)
    ]
    tail = stats.norm.sf(stats.t.ppf(0.975, 11) * np.sqrt(12 / 11))
    found = bootstrap_tau(ours, theirs)
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [tail, 1 - tail]), abs=0.21)


@pytest.mark.parametrize("seeds", [3, 8])
def test_the_interval_covers(seeds):
    """In at least 90% of 100 pairs of studies, whose allocators are apart by several standard errors."""
    rng = np.random.default_rng(seeds)
    covered = 0
    for _ in range(100):
        ours = rng.normal(size=8)
        theirs = ours + 0.7 * rng.normal(size=8)
        true = stats.kendalltau(ours, theirs).statistic
        found = bootstrap_tau(
            ours[:, None] + 0.3 * rng.normal(size=(8, 16)),
            theirs[:, None] + 0.3 * rng.normal(size=(8, seeds)),
            resamples=400,
        )
        covered += found.low - 1e-9 <= true <= found.high + 1e-9
    assert covered >= 90


def test_pooled_studies_are_drawn_independently():
    """The twin draws each study's runs one by one; of several alike the interval is the narrower."""
    rng = np.random.default_rng(3)
    scores = [
        (rng.normal(size=(5, 9)) + means, rng.normal(size=(5, 7)) + means)
        for means in (np.linspace(0, spread, 5)[:, None] for spread in (0.5, 1.0, 2.0))
    ]
    found = mean_tau(scores)
    alone = [bootstrap_tau(*pair) for pair in scores]
    assert found.estimate == pytest.approx(np.mean([one.estimate for one in alone]))
    drawn = [
        np.mean(
            [
                kendall_tau(
                    *(side[:, rng.integers(0, side.shape[1], side.shape[1])].mean(axis=1) for side in pair)
                )
                for pair in scores
            ]
        )
        for _ in range(3000)
    ]
    tail = stats.norm.sf(stats.t.ppf(0.975, 6) * np.sqrt(7 / 6))
    assert np.quantile(drawn, [tail, 1 - tail]) == pytest.approx(
        [float(found.low), float(found.high)], abs=0.05
    )
    assert found.high - found.low < np.mean([one.high - one.low for one in alone])


@given(st.integers(2, 6), st.data())
def test_halves_are_all_ways_to_halve_the_seeds(seeds, data):
    """Slowly: each set of half of the seeds against the others, by scipy."""
    values = data.draw(hnp.arrays(np.float64, (4, seeds), elements=st.integers(0, 9).map(float)))
    taus = []
    for half in itertools.combinations(range(seeds), seeds // 2):
        other = [seed for seed in range(seeds) if seed not in half]
        sums = values[:, list(half)].sum(axis=1), values[:, other].sum(axis=1)
        taus.append(stats.kendalltau(*sums).statistic)
    expected = np.nanmean(taus) if np.isfinite(taus).any() else np.nan
    assert halves_tau(values) == pytest.approx(expected, nan_ok=True)


def test_halves_of_many_seeds_are_drawn_and_of_one_there_are_none():
    ordered = np.arange(4.0)[:, None] + np.random.default_rng(0).normal(0, 0.01, (4, 40))
    assert halves_tau(ordered) == 1
    noise = np.random.default_rng(1).normal(size=(10, 40))
    assert halves_tau(noise) == halves_tau(noise)
    assert abs(halves_tau(noise)) < 0.5
    assert np.isnan(halves_tau(ordered[:, :1]))


def test_several_real_runs_are_pooled(tmp_path):
    found = [
        validate(made(tmp_path / f"sim{i}", ranked(MEANS)), made(tmp_path / f"real{i}", ranked(means, seeds)))
        for i, (means, seeds) in enumerate([(MEANS, 5), (MEANS[::-1], 8)])
    ]
    table = pooled(found)
    assert table.real.tolist() == [str(tmp_path / "real0"), str(tmp_path / "real1"), "all together"]
    assert table.tau.tolist() == pytest.approx([1, -1, 0])
    assert table.verdict.tolist() == ["agrees", "contradicts", "undecided"]
    last = table.iloc[-1]
    assert (last.seeds, last.pairs) == (5, table.pairs[:2].sum())
    assert (last.significant, last.right) == (table.significant[:2].sum(), table.right[:2].sum())


def test_only_one_simulated_scenario_is_pooled_with_a_real_run(tmp_path):
    sim = made(tmp_path / "sim", {"s1": ranked(MEANS), "s2": ranked(MEANS)})
    found = validate(sim, made(tmp_path / "real", ranked(MEANS)))
    with pytest.raises(InputError, match=r"sim against .*real: 2 pairs of scenarios: one simulated"):
        pooled([found, found])


def test_clear_pairs_are_scipys():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(6, 16)), rng.normal(size=(6, 4)) + 0.8 * np.arange(6)[:, None]
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    p_values = np.array([stats.ttest_rel(theirs[i], theirs[j]).pvalue for i, j in pairs])
    same = [(theirs[i] - theirs[j]).mean() * (ours[i] - ours[j]).mean() > 0 for i, j in pairs]
    adjusted = stats.false_discovery_control(p_values)
    expected = [(p < 0.05).sum() for p in (p_values, adjusted)]
    found = significant_pairs(ours, theirs)
    assert [found.significant, found.adjusted] == expected
    assert found.right == (same & (p_values < 0.05)).sum() < found.significant
    assert found.adjusted_right == (same & (adjusted < 0.05)).sum()


def test_values_that_are_all_the_same_are_not_clear():
    assert significant_pairs(np.ones((3, 4)), np.ones((3, 4))) == (0, 0, 0, 0)
    assert np.isnan(bootstrap_tau(np.ones((3, 4)), np.ones((3, 4))).estimate)


def test_points_are_those_of_the_summaries(two, tmp_path):
    found = two(ranked(MEANS, noise=0.05), ranked(MEANS[::-1], replicates=4, noise=0.05))
    for prefix, name in (("", "sim"), ("real_", "real")):
        summary = (
            pd.read_csv(tmp_path / name / "summary.csv").set_index("allocator").loc[found.points.allocator]
        )
        for part, column in (("value", "ratio"), ("low", "ratio_low"), ("high", "ratio_high")):
            assert found.points[prefix + part].tolist() == pytest.approx(summary[column].tolist())
        ranks = (-summary.estimate).rank()
        assert found.points[f"{prefix}rank"].tolist() == ranks.tolist()


def test_where_uniform_gains_nothing_differences_are_shown(two):
    found = two(ranked(MEANS), ranked([-0.1, *MEANS[1:]], replicates=3))
    assert found.scale == "difference"
    assert found.points.real_value.tolist()[1] == pytest.approx(0.35, abs=0.05)


def test_what_only_one_ran_or_measured_is_left_out(two):
    simulated, real = ranked(MEANS), ranked(MEANS, replicates=4)
    simulated["(reference)"] = real["(reference)"] = np.ones(4)
    real["a1"], real["b"] = np.full(4, np.nan), real.pop("a2")
    real["a3"] = [*real["a3"][:3], np.nan]
    found = two(simulated, real)
    assert found.points.allocator.tolist() == ["uniform", "a3", "a4"]
    assert row(found)["seeds"] == 3
    assert found.left_out == {"only simulated": ["a1", "a2"], "only real": ["b"]}
    assert "only simulated: a1, a2" in validation.markdown(found)


def test_a_row_for_each_simulated_and_each_real_scenario(two):
    simulated = {name: ranked(MEANS, seed=i) for i, name in enumerate("stuvw")}
    real = {"x": ranked(MEANS, replicates=3), "y": ranked(MEANS[::-1], replicates=3)}
    found = two(simulated, real)
    assert found.agreement[["scenario", "real_scenario"]].to_numpy().tolist() == [
        [s, r] for r in "xy" for s in "stuvw"
    ]
    assert found.agreement.tau.tolist() == [1] * 5 + [-1] * 5
    assert found.conditions is None
    assert [sheet.title for sheet in validation.sheets(found)][1:] == ["allocators in x", "allocators in y"]


def test_other_rules_are_said(two):
    found = two(ranked(MEANS), ranked(MEANS), estimator="grpo")
    assert found.notes == ["estimator: simulated rloo, real grpo"]
    assert "estimator: simulated rloo, real grpo" in validation.sheets(found)[0].caption


def test_studies_that_share_too_little_are_refused(tmp_path):
    ours = made(tmp_path / "a", ranked(MEANS))
    theirs = made(tmp_path / "b", {"uniform": [1.0, 2.0], "b[x=1]": [1.0, 2.0]})
    with pytest.raises(InputError, match=r"both ran uniform \(uniform, a1.*; uniform, b\[x=1\]\)"):
        validate(ours, theirs)
    with pytest.raises(InputError, match=f"metric area_over_steps: was not measured.*{METRIC}"):
        validate(ours, ours, "area_over_steps")
    with pytest.raises(
        InputError, match="metric area_over_rollout: no metric that ranks: .*area_over_rollouts"
    ):
        validate(ours, ours, "area_over_rollout")
    with pytest.raises(InputError, match="c: is a snapshot study"):
        validate(ours, made(tmp_path / "c", ranked(MEANS), SnapshotResults))


def test_the_scatter_shows_every_point_and_both_rules(two):
    found = two({name: ranked(MEANS, seed=i) for i, name in enumerate("st")}, ranked(MEANS, replicates=3))
    figure = plots.scatter(found.points, found.agreement, METRIC, found.scale, "made up")
    assert [axes.get_title().splitlines()[0] for axes in figure.axes] == ["s", "t"]
    assert "agrees" in figure.axes[0].get_title()
    for axes, name in zip(figure.axes, "st", strict=True):
        drawn = {
            tuple(line.get_xydata()[0]) for line in axes.get_lines() if line.get_marker() not in ("None", "")
        }
        here = found.points[found.points.scenario == name]
        assert drawn == set(zip(here.value, here.real_value, strict=True))
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert (left < min(1, here.value.min())) & (right > here.value.max())
        assert (low < min(1, here.real_value.min())) & (high > here.real_value.max())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == found.points.allocator.unique().tolist()


def test_a_long_spec_is_broken_after_commas():
    spec = "u-shaped-v1[difficulty=beta[alpha=0.4,beta=0.6],noise_ratio=30]"
    assert plots.folded(spec, 50) == ["u-shaped-v1[difficulty=beta[alpha=0.4,beta=0.6],", "noise_ratio=30]"]
    assert plots.folded("s", 50) == ["s"]


# Fits


@pytest.mark.parametrize(
    ("difficulty", "trials"),
    [
        (BetaDifficulty(0.4, 0.6), 8),
        (BetaDifficulty(0.4, 2.6), 8),
        (Dead(0.3, 0.0, 2.0, 2.0), 16),
        (Dead(0.3, 0.2, 2.0, 3.0), 16),
        (BetaDifficulty(8, 8), 4),
    ],
)
def test_difficulty_is_recovered_without_the_sampling_error(difficulty, trials):
    """From 2,000 prompts; shares within .03, moments of the rest within .03."""
    rng = np.random.default_rng(0)
    success = difficulty.sample(rng, (2000,))
    tried = np.full(2000, float(trials))
    found = fit_difficulty(rng.binomial(trials, success) / trials, tried)
    assert found.unsolvable == pytest.approx(getattr(difficulty, "unsolvable", 0), abs=0.03)
    assert found.solved == pytest.approx(getattr(difficulty, "solved", 0), abs=0.03)
    for moment in ("mean", "std"):
        expected = getattr(stats.beta(difficulty.alpha, difficulty.beta), moment)()
        assert getattr(stats.beta(found.alpha, found.beta), moment)() == pytest.approx(expected, abs=0.03)


def test_trials_may_differ_and_the_likelihood_is_that_of_counts():
    found = fitting.DifficultyFit(0.5, 2.0, unsolvable=0.25, solved=0.1)
    for n in (1, 3, 8):
        chances = np.exp(found.log_likelihood(np.arange(n + 1.0), np.full(n + 1, float(n))))
        assert chances.sum() == pytest.approx(1)
        assert chances[0] == pytest.approx(0.25 + 0.65 * stats.betabinom.pmf(0, n, 0.5, 2.0))
    assert scenarios.create(f"u-shaped-v1[difficulty={found.spec}]").difficulty == Dead(0.25, 0.1, 0.5, 2.0)


def bank_of(ratio, rng, prompts=400, each=16, dimension=64, scale=0.0, failures=1.0):
    """Scores as the simulator has them, each prompt's times exp(N(0, scale^2)).

    Failures are noisier than successes by the factor `failures` of their variance.
    """
    p = rng.beta(1.0, 1.0, prompts)
    phi = rng.normal(size=(prompts, 1, dimension))
    phi /= np.sqrt((phi**2).sum(axis=2, keepdims=True))
    right = rng.random((prompts, each)) < p[:, None]
    noise = rng.normal(size=(prompts, each, dimension)) * np.sqrt(ratio / dimension)
    noise *= np.where(right, 1.0, np.sqrt(failures))[..., None]
    scores = ((right - p[:, None])[..., None] * phi + noise) * np.exp(
        scale * rng.normal(size=(prompts, 1, 1))
    )
    rows = prompts * each
    flat = scores.reshape(rows, dimension).astype(np.float32)
    order = rng.permutation(rows)
    rewards = right.ravel().astype(np.int64)
    return ScoreBank(
        np.repeat(np.arange(prompts), each),
        np.zeros(rows, np.int64),
        rewards,
        rewards.astype(np.float32),
        np.sqrt((flat**2).sum(axis=1)),
        np.full(rows, 7, np.int32),
        flat,
    )[order]


def noise_of(bank):
    return fit_noise(bank.prompts, bank.steps, bank.rewards, bank.sketches)


@pytest.mark.parametrize(("ratio", "scale"), [(3.0, 0.0), (30.0, 0.0), (30.0, 1.5)])
def test_noise_is_recovered_from_a_bank(ratio, scale):
    """Within a quarter, in the interval, and whatever the prompts' scales."""
    found = noise_of(bank_of(ratio, np.random.default_rng(0), scale=scale))
    for value, low, high in (found.gradient, found.failures):
        assert low < ratio < high < 2 * low
        assert value == pytest.approx(ratio, rel=0.25)
    assert found.success_noise.low < 1 < found.success_noise.high
    assert found.success_noise.estimate == pytest.approx(1, rel=0.1)


def test_the_noise_interval_covers():
    rng = np.random.default_rng(2)
    found = [noise_of(bank_of(20.0, rng, prompts=80, dimension=16)) for _ in range(60)]
    for name in ("gradient", "failures"):
        spans = [getattr(one, name) for one in found]
        assert sum(span.low < 20 < span.high for span in spans) >= 53
        assert np.mean([20 / span.estimate for span in spans]) == pytest.approx(1, abs=0.06)
    assert sum(one.success_noise.low < 1 < one.success_noise.high for one in found) >= 53


@pytest.mark.parametrize("failures", [3.0, 0.5])
def test_noise_that_depends_on_the_reward_counts_as_it_enters_the_gradient(failures):
    """(1 - p) T1 + p T0 with p uniform and groups weighted by k (n - k): the mean of T1 and T0."""
    found = noise_of(bank_of(10.0, np.random.default_rng(3), prompts=600, failures=failures))
    assert found.gradient.estimate == pytest.approx(5 * (1 + failures), rel=0.15)
    assert found.failures.estimate == pytest.approx(10 * failures, rel=0.15)
    assert found.success_noise.estimate == pytest.approx(1 / failures, rel=0.1)


def test_correct_rollouts_that_are_all_alike_have_no_noise():
    bank = bank_of(10.0, np.random.default_rng(3), prompts=60)
    won = bank.rewards == 1
    bank.sketches[won] = bank.prompts[won, None]
    assert noise_of(bank).success_noise == (0, 0, 0)


def test_noise_is_what_it_says_group_by_group():
    """The slow twin."""
    bank = bank_of(5.0, np.random.default_rng(4), prompts=30, each=6, dimension=4, scale=1.0)
    bank = ScoreBank(**{**vars(bank), "steps": np.random.default_rng(5).integers(2, size=len(bank))})
    signal = noise = 0.0
    by_reward = np.zeros(2)
    seen = set()
    for prompt, step in sorted(set(zip(bank.prompts.tolist(), bank.steps.tolist(), strict=True))):
        here = (bank.prompts == prompt) & (bank.steps == step)
        scores = bank.sketches[here].astype(float)
        won, lost = (scores[bank.rewards[here] == r] for r in (1, 0))
        if len(won) < 2 or len(lost) < 2:
            continue
        seen.add(prompt)
        n, k = len(scores), len(won)
        traces = [np.trace(np.cov(part.T)) for part in (won, lost)]
        apart = won.mean(axis=0) - lost.mean(axis=0)
        weight = k * (n - k) / n / np.trace(np.cov(scores.T))
        signal += weight * (apart @ apart - traces[0] / k - traces[1] / (n - k))
        noise += weight * ((n - k) * traces[0] + k * traces[1]) / n
        by_reward += weight * np.array(traces)
    found = noise_of(bank)
    assert found.gradient.estimate == pytest.approx(noise / signal, rel=1e-4)
    assert found.failures.estimate == pytest.approx(by_reward[1] / signal, rel=1e-4)
    assert found.success_noise.estimate == pytest.approx(by_reward[0] / by_reward[1], rel=1e-4)
    assert found.prompts == len(seen)


def test_correct_rollouts_that_are_all_the_same_have_no_noise_at_all():
    bank = bank_of(5.0, np.random.default_rng(7), prompts=20)
    answers = np.random.default_rng(8).normal(size=(20, bank.sketches.shape[1])).astype(np.float32)
    same = np.where(bank.rewards[:, None] == 1, answers[bank.prompts], bank.sketches)
    found = noise_of(ScoreBank(**{**vars(bank), "sketches": same}))
    assert found.success_noise == (0, 0, 0)
    assert found.failures.low > 0


def test_a_bank_without_signal_or_without_groups_says_so(tmp_path):
    rng = np.random.default_rng(6)
    bank = bank_of(1e6, rng, prompts=20, each=8)
    found = noise_of(bank)
    assert found.gradient.high == found.failures.high == np.inf
    (tmp_path / "few").mkdir()
    write_bank(bank_of(1.0, rng, prompts=5, each=3), tmp_path / "few")
    for alone in fitting._noise(tmp_path / "few"):
        assert alone.value is None
        assert "no group" in alone.said
    zero = bank_of(1.0, rng, prompts=5)
    assert noise_of(ScoreBank(**{**vars(zero), "sketches": 0 * zero.sketches})) is None


SCENARIO = scenarios.create(TINY)


@pytest.mark.parametrize("rate", [0.02, 0.08])
def test_the_learning_rate_is_recovered(rate):
    scenario = scenarios.create(f"{TINY[:-1]},learning_rate={rate}]")
    gain = simulated_gain(scenario, "rloo", "prompt")
    (found,) = fit_learning(SCENARIO, "rloo", "prompt", np.array([gain, gain]))
    assert float(found.value) == pytest.approx(rate, rel=0.05)
    assert f"the real one {gain:.4f} ± 0.0000 (standard error of 2 seeds)" in found.said


def test_a_gain_beyond_the_ceiling_is_reached_without_one():
    under = scenarios.create(f"{TINY[:-1]},kappa=0.1]")
    free = scenarios.create(f"{TINY[:-1]},kappa=0,learning_rate=0.3]")
    gain = simulated_gain(free, "rloo", "prompt")
    ceiling, found = fit_learning(under, "rloo", "prompt", np.array([gain]))
    assert (ceiling.parameter, ceiling.value) == ("kappa", "0")
    assert re.search(r"under the scenario's 0\.1 simulated uniform gains 0\.\d+ at most", ceiling.said)
    assert float(found.value) == pytest.approx(0.3, rel=0.05)


def test_a_gain_out_of_reach_or_none_is_said():
    *_, found = fit_learning(SCENARIO, "rloo", "prompt", np.array([0.7]))
    assert "no learning rate gains more" in found.said
    assert 0.01 < float(found.value) < 20
    (nothing,) = fit_learning(SCENARIO, "rloo", "prompt", np.array([-0.1, 0.05]))
    assert nothing.value is None
    assert "did not learn: its gain is -0.0250" in nothing.said


# The command line


def trained(directory, spec, specs, replicates, seed):
    """A finished study of training runs, without cells and figures."""
    chosen = {"uniform": allocators.create("uniform")} | {name: allocators.create(name) for name in specs}
    study = LearningStudy(
        **{"estimator_name": "rloo", "estimator": estimators.create("rloo"), "aggregation": "prompt"},
        **{"allocators": chosen, "replicates": replicates, "seed": seed},
        **{"scenarios": {spec: scenarios.create(spec)}, "rates": (1.0,)},
    )
    about = {"sort": METRIC, "command": "rolloutbench train", "config": {"aggregation": "prompt"}}
    record = json.loads(json.dumps({**about, **study.record()}))
    curves = pd.concat([cell.run() for cell in study.cells(Path())], ignore_index=True)
    directory.mkdir()
    write_manifest(directory, Manifest(record, {}, ["curves.parquet"]))
    results = open_results(directory)
    values = results.measured(curves[curves.replicate < replicates])
    values.to_parquet(directory / "per_replicate.parquet", index=False)
    summarise(values).to_csv(directory / "summary.csv", index=False)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """A simulated study, one that stands in for a real one of three seeds, and one of another kind."""
    base = tmp_path_factory.mktemp("studies")
    trained(base / "sim", TINY, ALLOCATORS, replicates=6, seed=0)
    real_spec = f"{TINY[:-1]},learning_rate=0.1]"
    trained(base / "real", real_spec, [*ALLOCATORS, "mopps"], replicates=3, seed=9)
    snapshot = made(base / "snapshot", ranked(MEANS), SnapshotResults, sort="snr")
    about = {"kind": "snapshot", "config": {}}
    write_manifest(base / "snapshot", Manifest({**snapshot.record, **about}, {}, ["summary.csv"]))
    return base


@pytest.fixture
def real(studies, tmp_path):
    """The stand-in, to be changed."""
    return Path(shutil.copytree(studies / "real", tmp_path / "real"))


def measured(directory, pool=500):
    """Pass rates and a bank, as a real run leaves them."""
    rng = np.random.default_rng(0)
    rates = rng.binomial(16, rng.beta(0.4, 0.6, pool)) / 16
    table = pd.DataFrame({"prompt": np.arange(pool), "pass_rate": rates, "trials": 16})
    table.to_parquet(directory / "pass_rates.parquet")
    write_bank(bank_of(20.0, rng), directory)


def test_validate_writes_and_prints(studies, real):
    done = command_line.run(f"validate {studies / 'sim'} {real}")
    assert done.code == 0, done.err
    out = real / "validation"
    files = {str(path.relative_to(out)) for path in out.rglob("*.*")}
    assert files == {
        *("validation.csv", "validation_allocators.csv", "validation.md"),
        *("plots/validation.png", "plots/validation.pdf", "plots/validation.txt"),
    }
    (found,) = pd.read_csv(out / "validation.csv").to_dict("records")
    assert found["verdict"] in done.out
    assert (found["allocators"], found["pairs"], found["seeds"]) == (4, 6, 3)
    assert found["tau"] > 0  # dapo and reinforce_ada pay much more for a step
    said = " ".join(done.out.split())
    assert "4 allocators, so tau rests on 6 pairs and moves in steps of 0.33" in said
    assert "With 3 real seeds few pairs can be clear" in said
    assert "Left out, only real: mopps" in said
    assert "not measured: no pass_rates.parquet and no bank.parquet" in said
    assert str(out / "validation.md") in "".join(done.out.split())
    markdown = (out / "validation.md").read_text()
    assert f"{found['tau']:.2f} [{found['tau_low']:.2f}, {found['tau_high']:.2f}]" in markdown
    assert f"| {found['verdict']} |" in markdown
    assert all(line.count("|") == markdown.splitlines()[4].count("|") for line in markdown.splitlines()[4:7])
    assert open_results(real).values is not None  # the study itself is as it was


def test_validate_pools_pairs(studies, real, tmp_path):
    pair = f"{studies / 'sim'} {real}"
    done = command_line.run(f"validate {pair} {pair} --out {tmp_path / 'p'}")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "p" / "pooled.csv")
    assert table.tau.nunique() == 1
    assert table.real.tolist() == [str(real), str(real), "all together"]
    assert "all together" in done.out
    assert not (real / "validation").exists()
    assert command_line.run(f"validate {pair} {pair} --json").json["agreement"][2]["seeds"] == 3


@pytest.mark.parametrize("pairs", [1, 2])
def test_a_file_in_place_of_the_directory_is_one_line(studies, real, tmp_path, monkeypatch, pairs):
    monkeypatch.chdir(tmp_path)  # a long path would be shortened
    Path("taken").write_text("mine")
    studies_of_it = f"{studies / 'sim'} {real} " * pairs
    done = command_line.run(f"validate {studies_of_it}--out taken")
    assert (done.code, done.out) == (2, "")
    assert done.err == "rolloutbench: error: --out taken: cannot be made: File exists\n"
    assert Path("taken").read_text() == "mine"


def test_a_study_without_a_partner_is_refused(studies, real):
    done = command_line.run(f"validate {studies / 'sim'} {real} {real}")
    assert (done.code, done.out) == (2, "")
    assert "has no partner: pairs are expected, a simulated study and a real one" in " ".join(
        done.err.split()
    )


def test_validate_as_json_by_another_metric(studies, real, tmp_path):
    command = f"validate {studies / 'sim'} {real} -m rollouts_to_50 --out {tmp_path / 'v'} --json"
    done = command_line.run(command)
    assert done.code == 0, done.err
    answer = done.json
    assert answer["metric"] == "rollouts_to_50"
    assert answer["agreement"][0]["verdict"] in validation.AGREEMENTS
    assert {point["allocator"] for point in answer["points"]} >= {"uniform", "dapo"}
    assert {one["parameter"]: one["value"] for one in answer["conditions"]} == {
        **{"difficulty": None, "noise_ratio": None, "success_noise": None, "pool_size": None},
        **{"prompts": "16", "group_size": "8", "steps": "8"},
    }
    assert (tmp_path / "v" / "validation.csv").exists()
    assert not (real / "validation").exists()


def test_fit_writes_a_study_that_compare_takes(real):
    measured(real)
    done = command_line.run(f"fit {real}")
    assert done.code == 0, done.err
    path = real / "fitted.toml"
    assert f"compare --config {path}" in done.out
    study = Comparison.of({}, path).build()
    ((name, scenario),) = study.scenarios.items()
    assert name.startswith(fitting.BASE)
    assert list(study.allocators) == ["uniform", "uniform[divide=2]", "dapo", "reinforce_ada", "mopps"]
    assert study.replicates == 16
    assert (scenario.prompts, scenario.group_size, scenario.steps, scenario.pool_size) == (16, 8, 8, 500)
    assert isinstance(scenario.difficulty, BetaDifficulty)
    assert scenario.difficulty.alpha == pytest.approx(0.4, abs=0.06)
    assert scenario.noise_ratio == pytest.approx(20, rel=0.2)
    assert scenario.success_noise == pytest.approx(1, rel=0.2)
    gained, wanted = map(float, re.findall(r"gains ([\d.]+), the real one ([\d.]+)", path.read_text())[0])
    assert simulated_gain(scenario, "rloo", "prompt") == pytest.approx(gained, abs=1e-4)
    assert gained == pytest.approx(wanted, rel=0.02)
    comments = [line for line in path.read_text().splitlines() if line.startswith("# ")]
    assert [line.split(":")[0] for line in comments[1:]] == [
        *("# difficulty", "# noise_ratio", "# success_noise", "# prompts", "# group_size", "# steps"),
        *("# pool_size", "# learning_rate", "# learning_rates"),
    ]


def test_a_simulation_has_the_rates_up_to_the_one_at_which_uniform_gained_most(real, tmp_path):
    """Of the factors 1/4 to 2 uniform gains most at 1/2: the larger ones ruin the real run alone."""
    results = open_results(real)
    curves = results.read("curves")
    (rate,) = curves.rate.unique()
    assert rate == 1
    first = curves.steps == 0
    gained = {0.25: 0.01, 0.5: 0.03, 1.0: 0.02, 2.0: -0.1}
    several = [
        curves.assign(rate=factor, accuracy=curves.accuracy.where(first, curves.accuracy + 10 * gain))
        for factor, gain in gained.items()
    ]
    before = shutil.copytree(real, tmp_path / "before")
    pd.concat(several, ignore_index=True).to_parquet(real / "curves.parquet")
    run, steps, factors = fitting._uniform(results, results.shown_scenarios()[0])
    assert factors == [0.5, 1.0]
    own, _, alone = fitting._uniform(open_results(before), results.shown_scenarios()[0])
    assert alone == [1.0]
    np.testing.assert_allclose(fitting._gains(run, steps), fitting._gains(own, steps) + 0.3)
    chosen = Comparison.of({}, _write(fit(results).toml, real / "fitted.toml")).build()
    assert chosen.rates == (0.5, 1.0)


def _write(text, path):
    path.write_text(text)
    return path


def test_without_pass_rates_the_bank_tells_the_difficulty(real):
    write_bank(bank_of(20.0, np.random.default_rng(0)), real)
    found = {one.parameter: one for one in measure(open_results(real))}
    assert "bank.parquet" in found["difficulty"].said
    alpha, beta = map(float, re.findall(r"[\d.]+", found["difficulty"].value))
    assert alpha / (alpha + beta) == pytest.approx(0.5, abs=0.05)
    assert found["pool_size"].value is None


def test_only_the_first_rollouts_of_a_prompt_tell_its_difficulty(tmp_path):
    bank = bank_of(20.0, np.random.default_rng(0))
    later = ScoreBank(**{**vars(bank), "steps": bank.steps + 5, "rewards": np.ones_like(bank.rewards)})
    both = {
        name: np.concatenate([getattr(bank, name), getattr(later, name)]) for name in list(vars(bank))[:7]
    }
    for name, one in (("once", bank), ("twice", ScoreBank(**both))):
        write_bank(one, tmp_path / name)
    assert fitting._difficulty(tmp_path / "once") == fitting._difficulty(tmp_path / "twice")


def test_an_aggregation_that_the_simulator_lacks_is_said(real):
    results = open_results(real)
    record = {**results.record, "aggregation": "token", "training": {"pool_size": 77}}
    found = fit(type(results)(real, record))
    assert "# aggregation: default: the simulator has no 'token'" in found.toml
    assert 'aggregation = "prompt"' in found.toml
    assert "pool_size=77" in found.spec


def test_a_study_whose_curves_are_gone_can_be_validated_but_not_fitted(studies, real):
    (real / "curves.parquet").unlink()
    done = command_line.run(f"validate {studies / 'sim'} {real}")
    assert done.code == 0, done.err
    assert "curves are gone" in " ".join(done.out.split())
    refused = command_line.run(f"fit {real}")
    assert refused.code == 2
    assert "has no table 'curves'" in refused.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("validate {sim} {snapshot}", "snapshot: is a snapshot study; one of training runs is expected"),
        ("validate {snapshot} {sim}", "snapshot: is a snapshot study"),
        ("fit {snapshot}", "snapshot: is a snapshot study"),
        (
            "validate {sim} {sim} -m area_over_rollout",
            "no metric that ranks: did you mean area_over_rollouts",
        ),
        ("validate {sim} {sim} -m tokens_per_step", "tokens_per_step: no metric that ranks"),
        ("validate {sim} nowhere", "nowhere"),
        ("fit nowhere", "nowhere"),
        ("validate {sim}", "has no partner"),
    ],
)
def test_what_cannot_be_compared_is_one_line(studies, command, message):
    done = command_line.run(command.format(sim=studies / "sim", snapshot=studies / "snapshot"))
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert message in done.err
    assert done.out == ""


def test_a_study_that_is_not_finished_is_refused(studies, real):
    manifest = json.loads((real / "manifest.json").read_text())
    manifest["files"] = []
    (real / "manifest.json").write_text(json.dumps(manifest))
    done = command_line.run(f"validate {studies / 'sim'} {real}")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "not finished" in done.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"pass_rate": [0.5, 1.5], "trials": 8}, "pass_rates.parquet: column 'pass_rate', row 2: 1.5"),
        ({"pass_rate": [0.5, 0.5], "trials": 0}, "column 'trials', row 1: 0"),
        ({"pass_rate": [0.5, 0.5]}, "has no column 'trials'"),
    ],
)
def test_damaged_pass_rates_are_one_line(real, damage, message):
    pd.DataFrame(damage).to_parquet(real / "pass_rates.parquet")
    done = command_line.run(f"fit {real}")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert message in done.err
    assert not (real / "fitted.toml").exists()
