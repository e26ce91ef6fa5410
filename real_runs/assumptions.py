"""What VIP assumes of scores, tested on a score bank (arXiv 2602.01601, Assumption 4.1 and Appendix B).

VIP writes a group's gradient as (1/n) sum_j A_j Z_j, Z the length of a rollout's score, and assumes that Z
and the reward R are uncorrelated up to second order and that Var(Z) is the same for all prompts. The
variance is then p(1-p)/(n-1) times a constant (`rloo`, rewards 0 and 1; Propositions 4.2 and 4.3), and
only p decides who gets rollouts. `assumption_tests` has the four tests of the paper; they see lengths only.
`gradient_variance` measures the variance of the gradient itself, a vector, and puts the prediction
beside it.

The leave-one-out gradient of n rollouts is the unbiased sample covariance of R and z: with
c = Cov(R, z) over one rollout and m = E (R-p)^2 |z - Ez|^2 its variance has the trace

    m / n - |c|^2 (n-2) / (n(n-1)) + p(1-p) tr Cov(z) / (n(n-1)),

which is p(1-p) tr Cov(z) / (n-1) where R and z are independent. `dr_grpo` is (n-1)/n times that gradient.
So no groups need be drawn: the moments are those of a prompt's M recorded rollouts, as if groups were
drawn from them with replacement. That is exact for the bank as it is; for the policy that it was sampled
from every number is too small or too large by a part of the order 1/M.

VIP's scores are means over tokens: see `per_token`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from rolloutbench.analysis.statistics import Interval, paired_bootstrap
from rolloutbench.protocol import FloatArray, InputError, IntArray
from rolloutbench.score_bank import ScoreBank

SHRINKAGE: dict[str, Callable[[int], float]] = {"rloo": lambda n: 1.0, "dr_grpo": lambda n: (n - 1) / n}
"""Estimators whose gradient is a multiple of the leave-one-out one, and the factor."""

PREDICTIONS = ("common", "own trace", "own length")
"""What multiplies p(1-p)/(n-1) in a prediction: the mean of tr Cov(z) over prompts (VIP, with the right
constant), the prompt's own tr Cov(z), or its own Var|z| (the letter of VIP's propositions, without
equality).
"""


def per_token(bank: ScoreBank) -> ScoreBank:
    """The bank with scores divided by the number of response tokens, as VIP defines them."""
    tokens = np.maximum(bank.lengths, 1).astype(np.float32)
    return replace(bank, sketches=bank.sketches / tokens[:, None], norms=bank.norms / tokens)


def _groups(bank: ScoreBank) -> list[IntArray]:
    """Row numbers of each prompt, in order of prompt."""
    steps = np.unique(bank.steps)
    if len(steps) > 1:
        raise InputError(f"steps {steps[0]} to {steps[-1]}: choose one of the bank's by `at(step)`")
    order = np.argsort(bank.prompts, kind="stable")
    _, first = np.unique(bank.prompts[order], return_index=True)
    return np.split(order, first[1:])


def _products(bank: ScoreBank, rows: IntArray) -> FloatArray:
    """Inner products (M, M) of scores. Their lengths are known, so only angles are taken from sketches.

    Against exact scores this halves the error of a prompt's tr Cov(z).
    """
    sketches = bank.sketches[rows].astype(np.float64)
    products = sketches @ sketches.T
    np.fill_diagonal(products, bank.norms[rows].astype(np.float64) ** 2)
    return products


# The variance of the gradient


def gradient_variance(
    bank: ScoreBank, estimator: str, n: int, other_half: bool = False, least: int = 4
) -> pd.DataFrame:
    """Measured and predicted variance of the gradient of groups of n: a row a prompt and prediction.

    Columns: prompt, rollouts (M), p, estimator, n, prediction (of `PREDICTIONS`), measured, predicted;
    traces of covariances, in units of a squared score. Both are made of the same M rollouts, so they share
    what is random in the recorded rewards. With `other_half` the prediction knows only every second
    rollout and the measurement only the others: nothing is shared, and p is that of the measured half.
    Prompts with fewer than `least` rollouts on a side are left out.

    Raises InputError where the bank holds several steps, no prompt has enough rollouts, n < 2, or no
    closed form is known for the estimator.
    """
    if estimator not in SHRINKAGE:
        raise InputError(f"estimator={estimator}: one of {', '.join(SHRINKAGE)} is expected")
    if n < 2:
        raise InputError(f"n={n}: a group of at least 2 is expected")
    factor = SHRINKAGE[estimator](n) ** 2
    found = []
    for rows in _groups(bank):
        known, judged = (rows[1::2], rows[::2]) if other_half else (rows, rows)
        if min(len(known), len(judged)) >= max(least, 2):
            prompt = bank.prompts[rows[0]]
            found.append((prompt, len(judged), *_moments(bank, judged, n), *_moments(bank, known, n)))
    if not found:
        raise InputError(f"the bank has no prompt with {least} rollouts{' a half' if other_half else ''}")
    prompts, rollouts, p, measured, _, _, seen_p, _, trace, length = map(np.array, zip(*found, strict=True))
    spread = seen_p * (1 - seen_p) / (n - 1)
    scales = dict(zip(PREDICTIONS, (np.full(len(p), trace.mean()), trace, length), strict=True))
    tables = [
        pd.DataFrame(
            {
                "prompt": prompts,
                "rollouts": rollouts,
                "p": p,
                "estimator": estimator,
                "n": n,
                "prediction": prediction,
                "measured": factor * measured,
                "predicted": factor * spread * scale,
            }
        )
        for prediction, scale in scales.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _moments(bank: ScoreBank, rows: IntArray, n: int) -> tuple[float, float, float, float]:
    """Statistics of one prompt: p, the variance of the leave-one-out gradient, tr Cov(z) and Var|z|."""
    rewards = bank.rewards[rows].astype(np.float64)
    p = rewards.mean()
    off = rewards - p
    products = _products(bank, rows)
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    squares = np.diag(centred)
    trace = squares.mean()
    covariance = off @ centred @ off / len(rows) ** 2
    fourth = (off**2 * squares).mean()
    pairs = n * (n - 1)
    variance = fourth / n - covariance * (n - 2) / pairs + p * (1 - p) * trace / pairs
    return float(p), float(variance), float(trace), float(bank.norms[rows].astype(np.float64).var())


def agreement(table: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Measure how well predictions of `gradient_variance` agree with what was measured, over prompts.

    One row for each estimator, n, prediction and metric: estimate, low, high (95% bootstrap over prompts),
    prompts, dropped. A prompt whose rewards are all equal has no gradient and is dropped, as logarithms
    need. Metrics: `spearman`; `pearson_log`, Pearson's of logarithms; `explained`, the share of the
    variance of the measured values over prompts that the predictions explain when their sum is made right
    (0 is what a constant explains; it can be negative); `ratio`, sum of predicted over sum of measured.
    """
    rows = []
    keys = ["estimator", "n", "prediction"]
    for key, part in table.groupby(keys, sort=False):
        mixed = part[(part.measured > 0) & (part.predicted > 0)]
        measured, predicted = mixed.measured.to_numpy(), mixed.predicted.to_numpy()
        for metric, statistic in METRICS.items():
            found = Interval(*np.full((3, 1), np.nan))  # which fewer than three prompts do not give
            if len(mixed) >= 3:
                found = paired_bootstrap(statistic, measured, predicted, resamples=resamples, seed=seed)
            rows.append(
                [*key, metric, *(np.ravel(part)[0] for part in found), len(mixed), len(part) - len(mixed)]
            )
    columns = [*keys, "metric", "estimate", "low", "high", "prompts", "dropped"]
    return pd.DataFrame(rows, columns=columns)


def _correlation(x: FloatArray, y: FloatArray) -> FloatArray:
    x, y = (a - a.mean(axis=-1, keepdims=True) for a in (x, y))
    return _divided((x * y).sum(axis=-1), np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))


def _explained(measured: FloatArray, predicted: FloatArray) -> FloatArray:
    scale = measured.sum(axis=-1, keepdims=True) / predicted.sum(axis=-1, keepdims=True)
    missed = ((measured - scale * predicted) ** 2).sum(axis=-1)
    return 1 - _divided(missed, ((measured - measured.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1))


def _divided(above: FloatArray, below: FloatArray) -> FloatArray:
    """Ratios that are NaN where the divisor is 0: of values that do not differ nothing can be said."""
    ratio: FloatArray = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio


METRICS: dict[str, Callable[[FloatArray, FloatArray], FloatArray]] = {
    "spearman": lambda m, p: _correlation(stats.rankdata(m, axis=-1), stats.rankdata(p, axis=-1)),
    "pearson_log": lambda m, p: _correlation(np.log(m), np.log(p)),
    "explained": _explained,
    "ratio": lambda m, p: p.sum(axis=-1) / m.sum(axis=-1),
}
"""Measures of agreement over the last axis, of measured and predicted values."""


# The assumption itself


def assumption_tests(
    bank: ScoreBank, permutations: int = 999, seed: int = 0, level: float = 0.05
) -> pd.DataFrame:
    """Apply the four tests of VIP's Appendix B and three more: a row a test.

    Columns: test, of, statistic, p_value, permuted, prompts, verdict ("rejected" or "not rejected" at
    `level`).

    - `fisher` and `edgington` combine the p-values of Pearson's correlation of R and |z| of each prompt
      (Tables 5 and 6), and of R and |z|^2: given (i), the second-order part of the assumption comes down
      to that, since R^2 = 1 for their rewards. Prompts with equal rewards or equal lengths are left out.
    - `levene` (around the median, scipy's default) and `obrien`: equal Var|z| over prompts (Tables 7, 8).
    - `direction`: does z point elsewhere for successes? The statistic is sum over prompts of |Cov(R, z)|^2.
      Independence of R and z, as vectors, would mean that the policy gradient is zero.

    Student's distribution of Pearson's correlation holds for normal values, which R is not, and over
    hundreds of prompts small errors of p-values add up. `permuted` is exact: the share of `permutations`
    shuffles of the rewards in each prompt that are as extreme. The verdict is by `p_value`, as in the
    paper; `direction` has only `permuted`.

    Raises InputError where the bank holds several steps or no prompt can be tested.
    """
    rng = np.random.default_rng(seed)
    groups = [rows for rows in _groups(bank) if len(rows) >= 3]
    mixed = [rows for rows in groups if np.ptp(bank.rewards[rows]) and np.ptp(bank.norms[rows])]
    if not mixed:
        raise InputError("the bank has no prompt with 3 rollouts of different rewards and scores")
    # Row 0 of each is what was recorded, the others are shuffles.
    kinds = ("R, |z|", "R, |z|^2")
    logs, sums = np.zeros((2, 1 + permutations)), np.zeros((2, 1 + permutations))
    apart = np.zeros(1 + permutations)
    for rows in mixed:
        rewards = np.tile(bank.rewards[rows].astype(np.float64), (1 + permutations, 1))
        rewards[1:] = rng.permuted(rewards[1:], axis=1)
        off = rewards - rewards.mean(axis=1, keepdims=True)
        norms = bank.norms[rows].astype(np.float64)
        for kind, values in enumerate((norms, norms**2)):
            p_values = _pearson_p_values(off, values)
            logs[kind] += np.log(p_values)
            sums[kind] += p_values
        apart += ((off @ _products(bank, rows)) * off).sum(axis=1) / len(rows) ** 2

    found: list[tuple[str, str, float, float, float, int]] = []
    for kind, of in enumerate(kinds):
        fisher, edgington = -2 * logs[kind], sums[kind]
        fisher_p = float(stats.chi2.sf(fisher[0], 2 * len(mixed)))
        edgington_p = float(stats.irwinhall(len(mixed)).cdf(edgington[0]))
        found.append(("fisher", of, fisher[0], fisher_p, _share(fisher), len(mixed)))
        found.append(("edgington", of, edgington[0], edgington_p, _share(-edgington), len(mixed)))
    # In units of their spread: scipy checks O'Brien's transform against an absolute error.
    unit = float(np.std(bank.norms)) or 1.0
    lengths = [bank.norms[rows].astype(np.float64) / unit for rows in groups]
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        levene = stats.levene(*lengths)
        obrien = stats.f_oneway(*stats.obrientransform(*lengths))
    found += [
        ("levene", "Var|z|", float(levene.statistic), float(levene.pvalue), np.nan, len(groups)),
        ("obrien", "Var|z|", float(obrien.statistic), float(obrien.pvalue), np.nan, len(groups)),
        ("direction", "R, z", apart[0], np.nan, _share(apart), len(mixed)),
    ]
    table = pd.DataFrame(found, columns=["test", "of", "statistic", "p_value", "permuted", "prompts"])
    judged = table.p_value.fillna(table.permuted)
    return table.assign(verdict=np.where(judged < level, "rejected", "not rejected"))


def _pearson_p_values(off: FloatArray, values: FloatArray) -> FloatArray:
    """Two-sided p-values (S,) of the correlation of each centred row (S, M) with values (M,)."""
    freedom = len(values) - 2
    centred = values - values.mean()
    r = (off @ centred) / np.sqrt((off**2).sum(axis=1) * (centred**2).sum())
    r = np.clip(r, -1, 1)
    with np.errstate(divide="ignore"):
        t = np.abs(r) * np.sqrt(freedom / (1 - r**2))
    p_values: FloatArray = np.maximum(2 * stats.t.sf(t, freedom), np.finfo(np.float64).tiny)
    return p_values


def _share(statistics: FloatArray) -> float:
    """Share of the recorded statistic and its shuffles (1 + S,) that are at least as large as the first."""
    close = 1e-9 * np.abs(statistics[0])  # the same rewards in another order are a tie
    return float(np.mean(statistics >= statistics[0] - close))
