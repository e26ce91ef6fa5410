"""What every registered predictor must do, whatever it believes."""

import copy

import numpy as np
import pytest
from synthetic import batches, everyone, pool, setting, visit

from rolloutbench.predictors import predictors
from rolloutbench.protocol import Outcomes

FEATURES, SUCCESS = pool(3, 24)
ALL = everyone(3, 24)


def made(spec, rows=slice(None), seed=0):
    predictor = predictors.create(spec)
    predictor.begin(setting(FEATURES[rows], seed, SUCCESS[rows]))
    return predictor


def history(steps=4, seed=20):
    """Steps with gaps: absent prompts, prompts without rollouts, a replicate that sits one out."""
    rng = np.random.default_rng(seed)
    found = []
    for step in range(steps):
        prompts = batches(rng, 3, 24, 10)
        prompts[rng.random(prompts.shape) < 0.15] = -1
        outcomes = visit(rng, SUCCESS, prompts)
        if step == 1:
            outcomes.counts[2] = outcomes.successes[2] = 0
        found.append(outcomes)
    return found


def rows_of(state, rows):
    """The state of some replicates: every array has them as its first axis."""
    if isinstance(state, dict):
        return {name: rows_of(value, rows) for name, value in state.items()}
    assert isinstance(state, np.ndarray)
    assert len(state) == 3
    return state[rows]


def assert_same(one, other, **tolerance):
    np.testing.assert_allclose(one.mean, other.mean, **tolerance)
    np.testing.assert_allclose(one.variance, other.variance, **tolerance)


def reseeded(predictor):
    predictor.setting.rng.bit_generator.state = np.random.default_rng(5).bit_generator.state
    return predictor


@pytest.mark.parametrize("spec", predictors.names())
class TestEveryPredictor:
    def test_beliefs_have_the_shape_and_are_possible(self, spec):
        predictor = made(spec)
        for outcomes in [None, *history()]:
            if outcomes is not None:
                predictor.update(outcomes)
            for prompts in (ALL, np.where(ALL % 3 == 0, -1, ALL), np.full((3, 2), -1), ALL[:, :0]):
                belief = predictor.predict(prompts)
                for value in belief.mean, belief.variance:
                    assert value.shape == prompts.shape
                    assert value.dtype == np.float64
                    assert np.isfinite(value).all()
                assert ((belief.mean >= 0) & (belief.mean <= 1)).all()
                assert (belief.variance >= 0).all()
                if spec != "noisy_oracle":  # says the variance before clipping
                    assert (belief.variance <= belief.mean * (1 - belief.mean) + 1e-9).all()

    def test_replicates_side_by_side_are_as_each_alone(self, spec):
        if spec == "noisy_oracle":
            pytest.skip("draws anew at each call")
        together = made(spec)
        start = copy.deepcopy(together.state_dict())
        for r in range(3):
            alone = made(spec, slice(r, r + 1))
            alone.load_state_dict(rows_of(start, slice(r, r + 1)))
            for outcomes in history():
                row = slice(r, r + 1)
                alone.update(Outcomes(outcomes.prompts[row], outcomes.counts[row], outcomes.successes[row]))
            if r == 0:
                for outcomes in history():
                    together.update(outcomes)
            found = together.predict(ALL)
            expected = alone.predict(ALL[r : r + 1])
            np.testing.assert_allclose(found.mean[r], expected.mean[0], atol=1e-9)
            np.testing.assert_allclose(found.variance[r], expected.variance[0], atol=1e-9)

    def test_it_resumes_exactly(self, spec):
        steps = history()
        predictor, resumed = made(spec), made(spec, seed=99)
        for outcomes in steps[:2]:
            predictor.update(outcomes)
        saved = predictor.state_dict()
        kept = copy.deepcopy(saved)
        resumed.load_state_dict(saved)
        for outcomes in steps[2:]:
            predictor.update(outcomes)
            resumed.update(outcomes)
        assert_same(reseeded(predictor).predict(ALL), reseeded(resumed).predict(ALL), rtol=0, atol=0)
        resumed.load_state_dict(saved)  # the state is a copy: neither has changed it
        again = made(spec, seed=98)
        again.load_state_dict(kept)
        assert_same(reseeded(resumed).predict(ALL), reseeded(again).predict(ALL), rtol=0, atol=0)

    def test_no_rollouts_change_nothing(self, spec):
        predictor = made(spec)
        predictor.update(history(1)[0])
        before = reseeded(predictor).predict(ALL)
        for prompts in (ALL, np.full((3, 4), -1), ALL[:, :0]):
            predictor.update(Outcomes.none(prompts))
        assert_same(before, reseeded(predictor).predict(ALL), rtol=0, atol=0)

    def test_beginning_again_forgets(self, spec):
        predictor = made(spec)
        predictor.update(history(1)[0])
        predictor.begin(setting(FEATURES, 0, SUCCESS))
        assert_same(reseeded(predictor).predict(ALL), reseeded(made(spec)).predict(ALL), rtol=0, atol=0)
