"""Raw rewards: which rollouts succeed, and what each row is worth in its group.

Rewards may be any numbers: an estimator sees them as they are, an allocator whether what is held against a
threshold is above it. A coach and a real run of a language model judge and weigh by the rules of this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rolloutbench.protocol import BoolArray, Estimator, FloatArray, Groups, IntArray, NoVerdict


@dataclass(frozen=True)
class Judged:
    """What became of N rollouts at the verifier.

    `rewards` (N,): what estimators see; NaN where the rollout is masked. `success`, `lost`, `unverified`
    (N,): whether it succeeded, is given up, and had no verdict.
    """

    rewards: FloatArray
    success: BoolArray
    lost: BoolArray
    unverified: BoolArray


def judge(rewards: FloatArray, verdicts: FloatArray, threshold: float, no_verdict: NoVerdict) -> Judged:
    """Judge rollouts by their `verdicts` (N,): a success is above the threshold.

    Where reward or verdict is NaN there is no verdict: the rollout is lost (`drop`), a failure of reward 0
    (`zero`), or without a gradient (`mask`).
    """
    unverified = np.isnan(rewards) | np.isnan(verdicts)
    return Judged(
        np.where(unverified, np.nan if no_verdict == "mask" else 0.0, rewards),
        ~unverified & (verdicts > threshold),
        unverified & (no_verdict == "drop"),
        unverified,
    )


def advantages_of(
    estimator: Estimator,
    groups: Groups,
    rewards: FloatArray,
    column: IntArray,
    extra: FloatArray,
    joined: IntArray,
) -> FloatArray:
    """Advantages (N,) of rows with `rewards` (N,) in the groups `column` (N,) of `groups` (1, B).

    `extra` (M,) are rewards that enter the statistics of the groups `joined` (M,) only. A masked row,
    whose reward is NaN, counts as 0 there, and has no gradient. A group whose rewards are 0 and 1 gets the
    numbers of `group_advantages`, to the last bit.
    """
    known = np.nan_to_num(rewards)
    advantages = np.zeros(len(rewards))
    order = np.argsort(column, kind="stable")
    starts = np.flatnonzero(np.diff(column[order], prepend=-1))
    for rows in np.split(order, starts[1:]) if len(order) else []:  # one group after another
        here = column[rows[0]]
        others = extra[joined == here]
        given = np.nan if groups.baseline is None else groups.baseline[0, here]
        if not np.isnan(given):
            advantages[rows] = known[rows] - given
        elif len(rows) + len(others) >= estimator.minimum:
            members = np.concatenate([known[rows], others])
            each = np.ones(len(members))
            if np.isin(members, (0.0, 1.0)).all():
                advantages[rows] = Estimator.of_rewards(estimator, members, each)[: len(rows)]
            else:
                advantages[rows] = estimator.of_rewards(members, each)[: len(rows)]
    return np.where(np.isnan(rewards), 0.0, advantages)


def deviations(rewards: FloatArray, column: IntArray, groups: int) -> FloatArray:
    """Standard deviations (B,), ddof 0, of the rewards (N,) of groups `column` (N,); just 0 if all equal."""
    n = np.maximum(np.bincount(column, minlength=groups), 1)
    mean = np.bincount(column, rewards, groups) / n
    variance = np.bincount(column, (rewards - mean[column]) ** 2, groups) / n
    least, most = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(least, column, rewards)
    np.maximum.at(most, column, rewards)
    return np.where(least < most, np.sqrt(variance), 0.0)
