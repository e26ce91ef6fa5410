"""The catalogue of what is measured: label, unit, direction, meaning and formula of every metric.

One name for simulators and real runs alike. Nothing here decides what a cell computes: a better wording is
no reason to run anything again. A metric of training runs that follows from recorded sums is declared here
and nowhere else: `curves` evaluates the formula of every entry. What cells give as it is has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, NamedTuple

from rolloutbench.analysis.formulas import (
    Area,
    Formula,
    Level,
    Mean,
    Ratio,
    When,
    Whether,
    calibration_error,
)
from rolloutbench.cells.collectors import ACCURACY_PREFIX, COUNT_PREFIX, DISCARDED


class Metric(NamedTuple):
    """A measured quantity.

    `better` says which direction is, or is None where neither is by itself. `of` is its formula, None
    where cells give the metric itself. A name that ends with "@" is a family: a metric for each recorded
    column `name@number`, and "{}" in its label stands for the number.
    """

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower"] | None
    meaning: str
    of: Formula | None = None

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is, 0 where neither is by itself."""
        return {"higher": 1, "lower": -1, None: 0}[self.better]

    @property
    def is_family(self) -> bool:
        """Whether it stands for one metric a recorded column."""
        return self.name.endswith("@")

    @property
    def ranks(self) -> bool:
        """Whether allocators can be ranked by it: one number for each, and a better direction."""
        return self.sign != 0 and not self.is_family

    @property
    def direction(self) -> str:
        """Which direction is better, in brackets behind a label: " (higher is better)", or nothing."""
        return f" ({self.better} is better)" if self.better else ""

    def members(self, columns: Iterable[str]) -> Iterator[Metric]:
        """The metric itself where its column is recorded, or a family's for the columns of its prefix."""
        if self.is_family:
            yield from (self.member(name) for name in columns if name.startswith(self.name))
        elif not (isinstance(self.of, Level) and self.of.optional and self.of.column not in columns):
            yield self

    def member(self, column: str) -> Metric:
        """The metric of a family that belongs to one column."""
        number = column.removeprefix(self.name)
        of = replace(self.of, column=column) if isinstance(self.of, (Level, Mean)) else self.of
        return self._replace(name=column, label=self.label.format(number), of=of)


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
"""What a training curve can be read against: the recorded column, and its label."""
TARGETS = (0.5, 0.9)
"""Targets of a learning scenario, as shares of the gain in accuracy of its reference run."""
TUNED_PREFIX = "tuned_"
"""Prefix of metrics at each allocator's own best learning rate; see `curves.learning_metrics`."""


def _read_against(axis: str) -> list[Metric]:
    """The metrics of a training curve read against one axis."""
    name = AXES[axis]
    targets = [
        metric
        for share, percent in ((share, f"{100 * share:g}") for share in TARGETS)
        for metric in (
            Metric(
                f"{axis}_to_{percent}",
                f"{name} to {percent}% of the gain",
                axis,
                "lower",
                f"{name} until held-out accuracy reaches {percent}% of the reference run's gain, at most 1.5 "
                "times what that run spent (restricted mean)",
                When(axis, share),
            ),
            Metric(
                f"reached_by_{axis}_{percent}",
                f"reached {percent}% of the gain",
                "share of runs",
                "higher",
                f"runs that got there within 1.5 times the {axis} of the reference run",
                Whether(axis, share),
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
            Area(axis),
        ),
        Metric(
            f"accuracy_at_{axis}",
            f"accuracy at equal {axis}",
            "share solved",
            "higher",
            f"held-out accuracy after the {axis} that the reference run spent",
            Level("accuracy", axis),
        ),
    ]


def _per_step(name: str, label: str, unit: str) -> Metric:
    """A recorded sum over the steps that were made; neither direction is better."""
    meaning = f"{label} per step, over the steps"
    return Metric(f"{name}_per_step", f"{label} per step", unit, None, meaning, Ratio(name, "steps"))


def _share_of_generated(name: str, label: str, meaning: str, *sums: str) -> Metric:
    """Recorded sums of rollouts as a share of those generated; less is better."""
    return Metric(name, label, "share of generated", "lower", meaning, Ratio(sums, "rollouts"))


_TO_TARGETS = (
    *(metric for axis in AXES for metric in _read_against(axis)),
    Metric(
        "pass_at_8",
        "pass@8 at equal rollouts",
        "share solved",
        "higher",
        "held-out chance that one of 8 rollouts is correct",
        Level("pass_at_8", "rollouts"),
    ),
    Metric(
        ACCURACY_PREFIX,
        "accuracy on prompts that began around {}",
        "share solved",
        "higher",
        "held-out accuracy at equal rollouts, of prompts by their success probability at the start",
        Level(ACCURACY_PREFIX, "rollouts"),
    ),
    *(
        _per_step(name, label, unit)
        for name, label, unit in (
            ("rollouts", "generated rollouts", "rollouts"),
            ("tokens", "generated tokens", "tokens"),
            ("seconds", "seconds", "s"),
            ("stages", "stages of generation", "stages"),
            ("prompts", "prompts rolled out", "prompts"),
            ("trained", "trained rollouts", "rollouts"),
        )
    ),
)
"""What was learned, and at what price."""

_MEASURED = (
    Metric(
        "reward",
        "mean reward at equal rollouts",
        "reward",
        "higher",
        "held-out mean of what estimators see, where that is not 1 for a success and 0 otherwise",
        Level("reward", "rollouts", optional=True),
    ),
    *(
        Metric(
            f"seconds_{phase}_per_step",
            f"seconds of {phase} per step",
            "s",
            None,
            what,
            Ratio(f"seconds_{phase}", "steps"),
        )
        for phase, what in (
            ("allocation", "the allocator itself"),
            ("generation", "sampling responses"),
            ("verification", "decoding and checking them"),
            ("update", "gradients, optimizer, weights to the engine"),
        )
    ),
    Metric(
        "tokens_per_second",
        "generated tokens per second",
        "tokens/s",
        None,
        "over the seconds of generation",
        Ratio("tokens", "seconds_generation", least=1e-9),
    ),
    _share_of_generated(
        "unverified_ratio",
        "rollouts whose verifier failed",
        "it raised or took too long, and the reward is 0",
        "unverified",
    ),
)
"""What only real runs have, whose seconds are measured."""

_WHAT_BECAME_OF_ROLLOUTS = (
    _share_of_generated(
        "wasted_ratio",
        "wasted rollouts",
        "generated rollouts that were discarded or got no gradient",
        *(f"discarded_{reason}" for reason in (*DISCARDED, "other")),
        "ineffective",
    ),
    _share_of_generated(
        "ineffective_ratio",
        "trained in groups of equal rewards",
        "trained rollouts whose group had only one reward",
        "ineffective",
    ),
    *(
        _share_of_generated(f"{reason}_ratio", label, meaning, f"discarded_{reason}")
        for reason, label, meaning in (
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
        Ratio("held", "rollouts"),
    ),
    Metric(
        "effective_ratio",
        "effective groups",
        "share of prompts",
        "higher",
        "trained groups with both rewards, reused successes included",
        Ratio("effective", "groups"),
    ),
    Metric(
        "unsolved_ratio",
        "groups without a success",
        "share of prompts",
        "lower",
        "trained groups in which nothing succeeded, before reuse",
        Ratio("unsolved", "groups"),
    ),
    Metric(
        "unsolved_after_reuse_ratio",
        "groups without a success after reuse",
        "share of prompts",
        "lower",
        "the same after stored successes joined",
        Ratio("unsolved_after_reuse", "groups"),
    ),
    Metric(
        "solved_ratio",
        "prompts solved in every rollout",
        "share of prompts",
        None,
        "prompts of which every rollout of a step got reward 1, of those that were rolled out",
        Ratio("solved", "asked"),
    ),
    Metric(
        "mean_reward",
        "mean reward of generated rollouts",
        "reward",
        None,
        "not comparable between allocators: who asks more of hard prompts sees fewer successes",
        Ratio("rewarded", "rollouts"),
    ),
    Metric(
        "reward_deviation",
        "standard deviation of a group's rewards",
        "reward",
        None,
        "sqrt(k (n - k)) / n, mean over trained groups; one half at most",
        Ratio("deviation", "groups"),
    ),
    Metric(
        "cosine",
        "cosine to the true gradient",
        "",
        "higher",
        "of each batch gradient, mean over the run",
        Mean("cosine"),
    ),
    Metric(
        COUNT_PREFIX,
        "rollouts per prompt with a success probability around {}",
        "rollouts",
        None,
        "mean rollouts of a prompt in a step that rolls it out, by its success probability",
        Mean(COUNT_PREFIX),
    ),
)

TRAINING_METRICS = {metric.name: metric for metric in (*_TO_TARGETS, *_MEASURED, *_WHAT_BECAME_OF_ROLLOUTS)}
"""Metrics of training runs of a language model, in the order of a summary."""
LEARNING_METRICS = {metric.name: metric for metric in (*_TO_TARGETS, *_WHAT_BECAME_OF_ROLLOUTS)}
"""Metrics of simulated training runs, in the order of a summary."""

PREDICTION_SCORES = (
    Metric(
        "mae", "error of the prediction", "probability", "lower", "mean |predicted - true p|", Mean("mae")
    ),
    Metric(
        "brier",
        "Brier score",
        "",
        "lower",
        "expected (predicted - reward)^2 of a next rollout",
        Mean("brier"),
    ),
    Metric(
        "log_loss",
        "log loss",
        "nats",
        "lower",
        "expected -log of the predicted chance of a reward",
        Mean("log_loss"),
    ),
    Metric(
        "coverage",
        "coverage",
        "share of prompts",
        None,
        "true p within 1.96 std; .95 is right",
        Mean("coverage"),
    ),
    Metric(
        "rank_correlation",
        "rank correlation",
        "",
        "higher",
        "Spearman's, of predicted and true p",
        Mean("rank_correlation"),
    ),
    Metric(
        "calibration_error",
        "calibration error",
        "probability",
        "lower",
        "mean |predicted - true| by bin",
        calibration_error,
    ),
)
"""Scores of predictions over some steps; `PREDICTION_METRICS` has each over each phase of a run."""
PHASES = ("first_epoch", "later")
"""Phases of a run in which predictions are judged: while every prompt is new, and after that."""
PREDICTION_METRICS = {
    f"{score.name}_{phase}": score._replace(
        name=f"{score.name}_{phase}", label=f"{score.label}, {phase.replace('_', ' ')}"
    )
    for phase in PHASES
    for score in PREDICTION_SCORES
}

METRICS = SNAPSHOT_METRICS | TRAINING_METRICS | PREDICTION_METRICS
"""Everything that has a name. Where a step and a run have a metric of one name, it means the same."""

_RATE = Metric(
    "rate",
    "factor of the learning rate",
    "",
    None,
    "the learning rate, as a multiple of the scenario's, with the largest area under accuracy over rollouts",
)


def describe(name: str) -> Metric:
    """What a measured column is, also one at each allocator's own learning rate or of a family.

    A name that the catalogue does not have, as in results of another version, is its own label, without
    unit, direction and formula.
    """
    if name.startswith(TUNED_PREFIX):
        plain = _RATE if name == TUNED_PREFIX + _RATE.name else describe(name.removeprefix(TUNED_PREFIX))
        return plain._replace(name=name, label=f"{plain.label}, each at its own best learning rate")
    if name in METRICS:
        return METRICS[name]
    prefix, at, number = name.partition("@")
    if number and prefix + at in METRICS:
        return METRICS[prefix + at].member(name)
    return Metric(name, name.replace("_", " "), "", None, "")


def in_words(name: str) -> str:
    """A metric's name as tables say it, where it is at each allocator's own best learning rate."""
    if not name.startswith(TUNED_PREFIX):
        return name
    plain = untuned(name)
    return "own best rate" if plain == _RATE.name else f"{plain} at own best rates"


def untuned(name: str) -> str:
    """The name of the same metric at the scenario's own learning rate."""
    return name.removeprefix(TUNED_PREFIX)
