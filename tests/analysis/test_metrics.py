"""The catalogue: directions, families, and names that carry a prefix."""

import pytest

from rolloutbench.analysis.metrics import (
    LEARNING_METRICS,
    METRICS,
    PREDICTION_METRICS,
    TRAINING_METRICS,
    describe,
    in_words,
    untuned,
)


def test_a_direction_has_a_sign():
    assert describe("area_over_rollouts").sign == 1
    assert describe("rollouts_to_90").sign == -1
    assert describe("generated_per_prompt").sign == 0
    assert describe("area_over_rollouts").direction == " (higher is better)"
    assert describe("generated_per_prompt").direction == ""


def test_what_the_catalogue_has_is_described_as_it_is():
    assert all(describe(name) == metric for name, metric in METRICS.items())
    assert all(name == metric.name for name, metric in METRICS.items())


def test_what_is_measured_of_curves_has_a_formula():
    for metric in (*TRAINING_METRICS.values(), *PREDICTION_METRICS.values()):
        assert metric.of is not None, metric.name
    assert list(LEARNING_METRICS) == [name for name in TRAINING_METRICS if name in LEARNING_METRICS]


def test_tuned_metrics_say_so():
    tuned = describe("tuned_rollouts_to_90")
    plain = describe("rollouts_to_90")
    assert tuned.name == "tuned_rollouts_to_90"
    assert tuned.label == f"{plain.label}, each at its own best learning rate"
    assert (tuned.sign, tuned.unit) == (plain.sign, plain.unit)
    assert describe("tuned_rate").label.startswith("factor of the learning rate")
    assert untuned("tuned_cosine") == untuned("cosine") == "cosine"
    assert in_words("tuned_cosine") == "cosine at own best rates"
    assert in_words("cosine") == "cosine"
    assert in_words("tuned_rate") == "own best rate"


@pytest.mark.parametrize(
    ("name", "sign"), [("accuracy@0.3", 1), ("counts@0.125", 0), ("tuned_accuracy@0.3", 1)]
)
def test_a_member_of_a_family_has_its_number_in_its_label(name, sign):
    metric = describe(name)
    number = name.partition("@")[2]
    assert metric.name == name
    assert f"around {number}" in metric.label
    assert "{" not in metric.label
    assert metric.of.column == untuned(name)
    assert metric.sign == sign


def test_nobody_is_ranked_by_a_family():
    """It is many numbers, not one."""
    assert not METRICS["accuracy@"].ranks
    assert METRICS["pass_at_8"].ranks
    assert not METRICS["mean_reward"].ranks


def test_an_unknown_name_is_its_own_label():
    """Results of other versions are shown too."""
    for name in ("what_nobody_measures", "others@3", "accuracy"):
        assert describe(name).label == name.replace("_", " ")
        assert describe(name).sign == 0
