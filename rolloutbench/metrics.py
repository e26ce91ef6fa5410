"""What is measured, under one name for simulators and real runs alike: unit, direction and meaning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rolloutbench.protocol import FloatArray, Groups, IntArray, Ledger, Outcomes

BASELINE = "uniform"
"""Every study runs it, and every ratio is against it."""
REFERENCE = "(reference)"
"""The name of the run that fixes the targets of a learning scenario."""
HORIZON = 1.5
"""Runs are followed until they paid for as many times the rollouts of uniform's steps; a target that is
not reached by then counts as reached there (a restricted mean), never as missing."""


class Metric(NamedTuple):
    """A measured quantity. `better` says which direction is, or is None where neither is by itself."""

    name: str
    label: str
    unit: str
    better: str | None
    meaning: str


SNAPSHOT_METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "snr",
            "signal to noise of the gradient",
            "",
            "higher",
            "cosine^2 / (1 - cosine^2); under `uniform` about proportional to the rollouts paid for",
        ),
        Metric(
            "cosine",
            "cosine to the true gradient",
            "",
            "higher",
            "<E g, g*> / (sqrt(E|g|^2) |g*|) of the batch gradient g and the true gradient g*",
        ),
        Metric(
            "cosine_per_rollout",
            "cosine per generated rollout per prompt",
            "1/rollout",
            "higher",
            "cosine divided by generated_per_prompt",
        ),
        Metric(
            "mse",
            "mean squared error of the gradient",
            "|phi|^2",
            "lower",
            "E|g - g*|^2 = bias + variance",
        ),
        Metric(
            "bias",
            "squared bias of the gradient",
            "|phi|^2",
            "lower",
            "|E g - g*|^2, where g* is the mean of p(1-p) phi over the batch",
        ),
        Metric(
            "variance",
            "variance of the gradient",
            "|phi|^2",
            "lower",
            "trace of Cov g: signal and noise together",
        ),
        Metric(
            "noise_variance",
            "noise variance of the gradient (VIP's objective)",
            "|phi|^2",
            "lower",
            "the part of the variance that does not come from the reward's own signal",
        ),
        Metric(
            "effective_ratio",
            "effective groups",
            "share of prompts",
            "higher",
            "expected share of trained groups with both rewards, 0 < k < n",
        ),
        Metric(
            "generated_per_prompt",
            "generated rollouts per prompt",
            "rollouts",
            None,
            "the bill: every generated rollout, trained on or not",
        ),
        Metric(
            "wasted_ratio",
            "wasted rollouts",
            "share of generated",
            "lower",
            "expected share of generated rollouts that got no gradient",
        ),
    )
}

AXES = {
    "rollouts": "generated rollouts",
    "tokens": "generated tokens",
    "seconds": "seconds",
    "steps": "steps",
}
"""What a training curve can be read against: column and label."""
TARGETS = (0.5, 0.9)
"""Targets of a learning scenario, as shares of the gain in accuracy of its reference run."""
TUNED_PREFIX = "tuned_"
"""Metrics at an allocator's own best learning rate, see `curves.learning_metrics`."""


def _read_against(axis: str) -> list[Metric]:
    """The metrics of a training curve read against one axis."""
    name = AXES[axis]
    targets = [
        metric
        for percent in (f"{100 * share:g}" for share in TARGETS)
        for metric in (
            Metric(
                f"{axis}_to_{percent}",
                f"{name} to {percent}% of the gain",
                axis,
                "lower",
                f"{name} until held-out accuracy reaches {percent}% of the reference run's gain, at most 1.5 "
                "times what that run spent (restricted mean)",
            ),
            Metric(
                f"reached_by_{axis}_{percent}",
                f"reached {percent}% of the gain",
                "share of runs",
                "higher",
                f"runs that got there within 1.5 times the {axis} of the reference run",
            ),
        )
    ]
    return [
        *targets,
        Metric(
            f"area_over_{axis}",
            f"area under accuracy over {name}",
            "gain",
            "higher",
            f"mean gain in held-out accuracy over the {axis} that the reference run spent",
        ),
        Metric(
            f"accuracy_at_{axis}",
            f"accuracy at equal {axis}",
            "share solved",
            "higher",
            f"held-out accuracy after the {axis} that the reference run spent",
        ),
    ]


LEARNING_METRICS = {
    metric.name: metric
    for metric in (
        *(metric for axis in AXES for metric in _read_against(axis)),
        Metric(
            "pass_at_8",
            "pass@8 at equal rollouts",
            "share solved",
            "higher",
            "held-out chance that one of 8 rollouts is correct",
        ),
        Metric(
            "cosine", "cosine to the true gradient", "", "higher", "of each batch gradient, mean over the run"
        ),
        *(
            Metric(f"{name}_per_step", f"{label} per step", unit, None, f"{label} per step, over the steps")
            for name, label, unit in (
                ("rollouts", "generated rollouts", "rollouts"),
                ("trained", "trained rollouts", "rollouts"),
                ("tokens", "generated tokens", "tokens"),
                ("seconds", "seconds", "s"),
                ("stages", "stages of generation", "stages"),
                ("prompts", "prompts rolled out", "prompts"),
            )
        ),
        Metric(
            "wasted_ratio",
            "wasted rollouts",
            "share of generated",
            "lower",
            "generated rollouts that were discarded or got no gradient",
        ),
        Metric(
            "ineffective_ratio",
            "trained in groups of equal rewards",
            "share of generated",
            "lower",
            "trained rollouts whose group had only one reward",
        ),
        *(
            Metric(f"{name}_ratio", label, "share of generated", "lower", meaning)
            for name, label, meaning in (
                ("pilots", "discarded pilots", "rollouts of prompts that were tried and not taken"),
                ("filtered", "filtered groups", "rollouts of groups dropped for having one reward"),
                ("surplus", "surplus groups", "rollouts of usable groups beyond the batch"),
                ("expired", "expired entries", "rollouts that grew too old in a buffer"),
                ("unselected", "unselected rollouts", "rollouts left out of a group that was trained on"),
                ("other", "discarded otherwise", "rollouts that an allocator discarded by another name"),
            )
        ),
        Metric(
            "held_ratio",
            "held in buffers",
            "share of generated",
            None,
            "neither trained on nor discarded yet",
        ),
        Metric(
            "effective_ratio",
            "effective groups",
            "share of prompts",
            "higher",
            "trained groups with both rewards, reused successes included",
        ),
        Metric(
            "unsolved_ratio",
            "groups without a success",
            "share of prompts",
            "lower",
            "trained groups in which nothing succeeded, before reuse",
        ),
        Metric(
            "unsolved_after_reuse_ratio",
            "groups without a success after reuse",
            "share of prompts",
            "lower",
            "the same after stored successes joined",
        ),
        Metric(
            "solved_ratio",
            "prompts solved in every rollout",
            "share of prompts",
            None,
            "prompts of which every rollout of a step got reward 1, of those that were rolled out",
        ),
        Metric(
            "mean_reward",
            "mean reward of generated rollouts",
            "share of generated",
            None,
            "not comparable between allocators: who asks more of hard prompts sees fewer successes",
        ),
        Metric(
            "reward_deviation",
            "standard deviation of a group's rewards",
            "reward",
            None,
            "sqrt(k (n - k)) / n, mean over trained groups; one half at most",
        ),
    )
}


TRAINING_METRICS = LEARNING_METRICS | {
    metric.name: metric
    for metric in (
        *(
            Metric(f"seconds_{phase}_per_step", f"seconds of {phase} per step", "s", None, f"{what}")
            for phase, what in (
                ("generation", "sampling responses"),
                ("verification", "decoding and checking them"),
                ("allocation", "the allocator itself"),
                ("update", "gradients, optimizer, weights to the engine"),
            )
        ),
        Metric(
            "tokens_per_second",
            "generated tokens per second",
            "tokens/s",
            None,
            "over the seconds of generation",
        ),
        Metric(
            "unverified_ratio",
            "rollouts whose verifier failed",
            "share of generated",
            "lower",
            "it raised or took too long, and the reward is 0",
        ),
    )
}
"""Of real runs, whose seconds are measured."""

CALIBRATION_BINS = 10
"""Predictions are binned into as many equal bins where calibration is read."""

PREDICTION_METRICS = {
    f"{metric.name}_{phase}": metric._replace(
        name=f"{metric.name}_{phase}",
        label=f"{metric.label}, {phase.replace('_', ' ')}",
    )
    for phase in ("first_epoch", "later")
    for metric in (
        Metric("mae", "error of the prediction", "probability", "lower", "mean |predicted - true p|"),
        Metric("brier", "Brier score", "", "lower", "expected (predicted - reward)^2 of a next rollout"),
        Metric("log_loss", "log loss", "nats", "lower", "expected -log of the predicted chance of a reward"),
        Metric(
            "calibration_error", "calibration error", "probability", "lower", "mean |predicted - true| by bin"
        ),
        Metric("coverage", "coverage", "share of prompts", None, "true p within 1.96 std; .95 is right"),
        Metric("rank_correlation", "rank correlation", "", "higher", "Spearman's, of predicted and true p"),
    )
}


METRICS = SNAPSHOT_METRICS | TRAINING_METRICS | PREDICTION_METRICS
"""Everything that has a name. Where a step and a run have a metric of one name, it means the same."""

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

    def add(self, groups: Groups, generated: Outcomes | None) -> None:
        """One update's groups, and all that its step generated."""
        if generated is not None:
            asked = generated.counts > 0
            self.asked += asked.sum(axis=1)
            self.solved += (asked & (generated.successes == generated.counts)).sum(axis=1)
            self.rewarded += generated.successes.sum(axis=1)
        present = groups.prompts >= 0
        unsolved = none = present & (groups.successes == 0)
        if groups.reused is not None:
            none = unsolved & (groups.reused.counts == 0)
        mixed = present & ~none & (groups.failures > 0)
        self.groups += present.sum(axis=1)
        self.effective += mixed.sum(axis=1)
        self.unsolved += unsolved.sum(axis=1)
        self.unsolved_after_reuse += none.sum(axis=1)
        self.ineffective += (groups.counts * ~mixed).sum(axis=1)
        spread = np.sqrt(groups.successes * groups.failures) / np.maximum(groups.counts, 1)
        self.deviation += spread.sum(axis=1)

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
