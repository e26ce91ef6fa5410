"""PCL (arXiv 2510.01135): the candidates predicted nearest to one half get equal groups."""

import numpy as np
import pytest
from scripted import Coins

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError, PromptStream


@pytest.mark.parametrize("predictor", ["ridge", "beta"])
def test_the_choice_is_that_of_sorting(predictor):
    place = Coins(np.random.default_rng(1).uniform(size=(2, 40)), 4, 32)
    driven = begin(place, allocators.create(f"pcl[predictor={predictor}]"))
    stream = PromptStream(40, 2, np.random.SeedSequence(0))
    for _ in range(20):
        candidates = stream.draw(16)
        predicted = driven.predictor.predict(candidates).mean
        seen = run_step(place, driven).outcomes
        for row in range(2):
            order = sorted(range(16), key=lambda i, row=row: abs(predicted[row, i] - 0.5))
            assert seen.prompts[row].tolist() == candidates[row, order[:4]].tolist()
        assert (seen.counts == 8).all()


def test_bad_parameters_are_refused():
    with pytest.raises(InputError, match="candidates"):
        allocators.create("pcl[candidates=0]")
