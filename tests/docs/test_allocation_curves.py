"""Allocation curves: what is drawn is what the method does."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "docs" / "generator"))

import curves


def test_uniform_gives_every_prompt_its_group():
    found = curves.expected_rollouts("uniform")
    assert (found.estimate == curves.BUDGET.group_size).all()
    assert (found.low == found.high).all()


def test_the_true_p_gives_most_to_prompts_at_a_half():
    """VIP's optimum of least noise is symmetric and greatest where p(1-p) is."""
    found = curves.expected_rollouts("vip[predictor=oracle,objective=rloo]").estimate
    assert found.argmax() in (4, 5)
    assert found == pytest.approx(found[::-1], rel=0.1)


@pytest.mark.parametrize(("spec", "end"), [("ar3po", 0), ("reinforce_ada_est", 0), ("prioritized", 0)])
def test_methods_that_are_after_hard_prompts_give_them_most(spec, end):
    assert curves.expected_rollouts(spec).estimate.argmax() == end


def test_pictures_have_the_same_bytes_each_time():
    assert curves.drawn("mopps") == curves.drawn("mopps")


def test_hard_budgets_are_spent_and_no_more():
    """The mean over all prompts of a method that spends its whole budget is the group's size."""
    for spec in ("knapsack", "hit_utility"):
        found = curves.expected_rollouts(spec).estimate
        assert np.isfinite(found).all()
        assert found.min() < curves.BUDGET.group_size < found.max()
