"""DOTS (arXiv 2506.05316): reference set, selection and bill."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.predictors import predictors
from rolloutbench.protocol import InputError


def test_a_reference_set_every_other_step():
    """B/2 prompts of n rollouts, billed and given up; then two steps of B prompts, none twice."""
    place = Coins(np.random.default_rng(0).uniform(size=(3, 60)), 6, 48)
    driven = begin(place, allocators.create("dots"))
    for step in range(6):
        place.requests.clear()
        groups = run_step(place, driven).groups
        fresh = step % 2 == 0
        assert len(place.requests) == 1 + fresh
        assert (groups.discarded["reference"] == (3 * 8 if fresh else 0)).all()
        assert (groups.counts == 8).all()
        if fresh:
            assert (place.requests[0].counts == 8).all()
            assert place.requests[0].prompts.shape == (3, 3)
            first = groups.prompts
        else:
            both = np.concatenate([first, groups.prompts], axis=1)
            assert all(len(set(row)) == 12 for row in both.tolist())


def test_those_predicted_near_one_half_are_chosen():
    p = np.linspace(0.0, 1.0, 80)[None]
    place = Coins(p, 4, 32)
    driven = begin(place, allocators.create("dots[predictor=oracle]"))
    chosen = np.concatenate([run_step(place, driven).groups.prompts[0] for _ in range(2)])
    assert sorted(chosen.tolist()) == list(range(36, 44))


def test_the_predictor_learns_from_every_rollout_once():
    place = Coins(np.random.default_rng(0).uniform(size=(2, 40)), 4, 32)
    driven = begin(place, allocators.create("dots[predictor=beta]"))
    twin = predictors.create("beta")
    twin.begin(place.setting)
    for _ in range(7):
        twin.update(run_step(place, driven).outcomes)
    everyone = np.tile(np.arange(40), (2, 1))
    expected, found = twin.predict(everyone), driven.predictor.predict(everyone)
    np.testing.assert_allclose(found.mean, expected.mean)
    np.testing.assert_allclose(found.variance, expected.variance)


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="tau"):
        allocators.create("dots[tau=0]")
