"""What is measured, under one name for simulators and real runs alike: unit, direction and meaning."""

from __future__ import annotations

from typing import NamedTuple


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

COUNT_BINS = 20
"""Success probabilities are binned into this many equal bins for `counts@<bin centre>`."""


COUNT_PREFIX = "counts@"


def count_metric(bin_index: int) -> str:
    """The metric that holds the mean count of prompts in a bin of success probability."""
    return f"{COUNT_PREFIX}{(bin_index + 0.5) / COUNT_BINS:.3f}"
