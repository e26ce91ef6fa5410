"""Choosing from the whole pool: the least keys, and draws by weight, against slow twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolloutbench.allocators.selection import drawn_by_weight, least, nearest, whole_pool
from rolloutbench.protocol import PromptStream

KEYS = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12)


@given(KEYS, st.integers(1, 15), st.integers(0, 99))
@settings(max_examples=200)
def test_the_least_are_those_of_sorting(pairs, count, seed):
    keys, among = (np.array([column]) for column in zip(*pairs, strict=True))
    prompts = least(keys.astype(float), among, count, np.random.default_rng(seed))[0]
    there = prompts[prompts >= 0].tolist()
    assert len(there) == len(set(there)) == min(count, int(among.sum()))
    assert prompts.shape == (count,)
    assert (prompts[len(there) :] == -1).all()
    assert [keys[0, q] for q in there] == sorted(keys[0][among[0]])[: len(there)]


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(0, 8)
)
def test_the_nearest_are_the_start_of_a_stable_sort(distances, count):
    distance = np.where(np.array(distances) == 3, np.inf, np.array(distances, dtype=float))
    sorted_ = np.argsort(distance, axis=1, kind="stable")
    np.testing.assert_array_equal(nearest(distance, count), sorted_[:, :count])


def test_ties_are_broken_by_chance():
    keys = np.tile([0.0, 1.0, 1.0, 1.0, 2.0], (3000, 1))
    prompts = least(keys, np.ones(keys.shape, dtype=bool), 2, np.random.default_rng(0))
    assert (prompts[:, 0] == 0).all()
    for q in (1, 2, 3):
        assert (prompts[:, 1] == q).mean() == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 3000))


def test_draws_are_those_of_drawing_one_by_one():
    """All ordered pairs from weights 1, 2, 5 and 0: chances w_i / W * w_j / (W - w_i); 4 standard errors."""
    weights = np.array([1.0, 2.0, 5.0, 0.0])
    many = 20000
    tiled = np.tile(weights, (many, 1))
    drawn = drawn_by_weight(tiled, np.ones(tiled.shape, dtype=bool), 2, np.random.default_rng(0))
    for i in range(3):
        for j in range(3):
            chance = 0.0 if i == j else weights[i] / 8 * weights[j] / (8 - weights[i])
            found = ((drawn[:, 0] == i) & (drawn[:, 1] == j)).mean()
            assert found == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / many) + 1e-12)


def test_what_weighs_nothing_comes_last():
    weights = np.array([[0.0, 1e-300, 0.0, 3.0]])
    for seed in range(20):
        drawn = drawn_by_weight(weights, np.ones((1, 4), dtype=bool), 4, np.random.default_rng(seed))[0]
        assert set(drawn[:2].tolist()) == {1, 3}


def test_the_pool_is_drawn_once():
    stream = PromptStream(9, 2, np.random.SeedSequence(0))
    stream.retire(np.array([[3, 4], [-1, -1]]))
    among = whole_pool(stream)
    assert among.sum(axis=1).tolist() == [7, 9]
    assert not among[0, [3, 4]].any()
    whole_pool(stream)
    assert stream.epoch.tolist() == [0, 0]
