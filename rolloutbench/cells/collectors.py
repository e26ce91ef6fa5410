"""Collectors: what cells sum up while they run, the same in simulators and real runs, and their constants."""

from __future__ import annotations

import numpy as np

from rolloutbench.environment import Ledger
from rolloutbench.protocol import FloatArray, Groups, IntArray, Outcomes

BASELINE = "uniform"
"""Every study runs it, and every ratio is against it."""
REFERENCE = "(reference)"
"""The name of the run that fixes the targets of a learning scenario."""
HORIZON = 1.5
"""Runs are followed until they paid for as many times the rollouts of uniform's steps; a target that is
not reached by then counts as reached there (a restricted mean), never as missing."""


CALIBRATION_BINS = 10
"""Predictions are binned into as many equal bins where calibration is read."""

COUNT_BINS = 20
"""Success probabilities are binned into this many equal bins for `counts@<bin centre>`."""


COUNT_PREFIX = "counts@"


def count_metric(bin_index: int) -> str:
    """The metric that holds the mean count of prompts in a bin of success probability."""
    return f"{COUNT_PREFIX}{(bin_index + 0.5) / COUNT_BINS:.3f}"


class CountsBySuccess:
    """Who gets how many rollouts: `rollouts` and `prompts` (R, COUNT_BINS) by success probability."""

    def __init__(self, replicates: int) -> None:
        self.rollouts, self.prompts = np.zeros((2, replicates, COUNT_BINS))

    def add(self, p: FloatArray, counts: IntArray) -> None:
        """One step's counts (R, B) of prompts with success probabilities p; 0 where none was asked."""
        replicates = len(counts)
        bins = np.minimum((p * COUNT_BINS).astype(np.int64), COUNT_BINS - 1)
        bins += COUNT_BINS * np.arange(replicates)[:, None]
        size = replicates * COUNT_BINS
        self.rollouts += np.bincount(bins.ravel(), counts.ravel(), size).reshape(replicates, -1)
        self.prompts += np.bincount(bins.ravel(), (counts > 0).ravel(), size).reshape(replicates, -1)

    def columns(self) -> dict[str, FloatArray]:
        """Mean rollouts of a prompt in each bin since the last call, NaN where there was none."""
        means = np.divide(
            self.rollouts, self.prompts, out=np.full_like(self.rollouts, np.nan), where=self.prompts > 0
        )
        self.rollouts[:], self.prompts[:] = 0.0, 0.0
        return {count_metric(b): means[:, b] for b in range(COUNT_BINS)}


DISCARDED = ("pilots", "filtered", "surplus", "expired", "unselected")
"""Why a rollout that was paid for is never trained on: the pilot of a prompt not taken; a whole group of
equal rewards dropped; a usable group beyond the batch; a buffered one too old; left out of its group."""


class Totals:
    """Sums over steps, each (R,), of what was generated and what was trained on."""

    def __init__(self, replicates: int) -> None:
        self.groups, self.effective, self.unsolved, self.unsolved_after_reuse, self.ineffective = np.zeros(
            (5, replicates)
        )
        self.deviation, self.asked, self.solved, self.rewarded = np.zeros((4, replicates))

    def add(self, groups: Groups, generated: Outcomes | None, deviation: FloatArray | None = None) -> None:
        """One update's groups, and all that its step generated.

        `deviation` (R, B): standard deviations of the groups' rewards, where these are not 0 and 1 only.
        """
        if generated is not None:
            asked = generated.counts > 0
            self.asked += asked.sum(axis=1)
            self.solved += (asked & (generated.successes == generated.counts)).sum(axis=1)
            self.rewarded += generated.successes.sum(axis=1)
        present = groups.prompts >= 0
        unsolved = none = present & (groups.successes == 0)
        if groups.reused is not None:
            none = unsolved & (groups.reused.counts == 0)
        mixed = present & ~none & (groups.failures > 0) if deviation is None else deviation > 0
        self.groups += present.sum(axis=1)
        self.effective += mixed.sum(axis=1)
        self.unsolved += unsolved.sum(axis=1)
        self.unsolved_after_reuse += none.sum(axis=1)
        self.ineffective += (groups.counts * ~mixed).sum(axis=1)
        if deviation is None:
            deviation = np.sqrt(groups.successes * groups.failures) / np.maximum(groups.counts, 1)
        self.deviation += deviation.sum(axis=1)

    def columns(self, ledger: Ledger) -> dict[str, FloatArray]:
        """All sums, with the ledger's.

        `ineffective` are trained rollouts of groups with equal rewards, `deviation` the standard deviations
        of the rewards of trained groups; `asked` are prompts rolled out, once a step, `solved` those of
        them with no failure, `rewarded` rollouts with reward 1.
        """
        given_up = {f"discarded_{name}": ledger.discarded.get(name, 0) for name in DISCARDED}
        others = [count for name, count in ledger.discarded.items() if name not in DISCARDED]
        sums = {
            "rollouts": ledger.generated,
            "trained": ledger.trained,
            **given_up,
            "discarded_other": sum(others) if others else 0,
            "held": ledger.held,
            "stages": ledger.stages,
            "prompts": ledger.prompts,
            "ineffective": self.ineffective,
            "groups": self.groups,
            "effective": self.effective,
            "unsolved": self.unsolved,
            "unsolved_after_reuse": self.unsolved_after_reuse,
            "deviation": self.deviation,
            "asked": self.asked,
            "solved": self.solved,
            "rewarded": self.rewarded,
        }
        return {name: np.broadcast_to(value, self.groups.shape).astype(float) for name, value in sums.items()}


ACCURACY_BINS = 5
"""Held-out prompts are binned into as many equal bins of their success probability before training."""
ACCURACY_PREFIX = "accuracy@"


def accuracy_by_bin(p: FloatArray, initial: FloatArray) -> dict[str, FloatArray]:
    """Mean success probability (R,) of the prompts (R, H) that began in each bin; NaN where none did."""
    bins = np.minimum((initial * ACCURACY_BINS).astype(np.int64), ACCURACY_BINS - 1)
    means = {}
    for b in range(ACCURACY_BINS):
        here = bins == b
        members = here.sum(axis=1)
        total = np.where(here, p, 0.0).sum(axis=1)
        means[f"{ACCURACY_PREFIX}{(b + 0.5) / ACCURACY_BINS:.1f}"] = np.divide(
            total, members, out=np.full(len(p), np.nan), where=members > 0
        )
    return means
