"""GRESO (arXiv 2506.02177): its rules against a scalar twin, and its batches."""

import numpy as np
import pytest
from scripted import Coins, Scripted, trained

from rolloutbench.allocators import allocators
from rolloutbench.loop import begin, run_step


def test_streaks_and_tuning_are_those_of_a_scalar_twin():
    p = np.random.default_rng(1).beta(0.3, 0.3, size=(2, 24))
    place = Coins(p, 4, 32)
    driven = begin(place, allocators.create("greso"))
    easy, hard = np.zeros((2, 2, 24), dtype=int)
    p_easy, p_hard = [0.5, 0.5], [0.5, 0.5]
    for _ in range(40):
        step = run_step(place, driven)
        for row in range(2):
            visited = {}
            seen = step.outcomes[row : row + 1, :]
            for q, n, k in zip(seen.prompts[0], seen.counts[0], seen.successes[0], strict=True):
                if n:
                    visited[int(q)] = (k, n)
            for q, (k, n) in visited.items():
                reward = (k + 0.1 * (n - k)) / n
                easy[row, q] = easy[row, q] + 1 if reward >= 0.98 - 1e-9 else 0
                hard[row, q] = hard[row, q] + 1 if reward <= 0.11 + 1e-9 else 0
            # Prompts met twice in a step, at the turn of an epoch, count twice in the tuning.
            twice = sum(int((r.counts[row] > 0).sum()) for r in place.requests) > len(visited)
            if place.stream.epoch[row] > 0 and not twice and visited:
                share_easy = np.mean([k == n for k, n in visited.values()])
                share_hard = np.mean([k == 0 for k, _ in visited.values()])
                p_easy[row] += -0.01 if share_easy >= 0.25 / 3 else 0.01
                p_hard[row] += -0.01 if share_hard >= 0.25 * 2 / 3 else 0.01
                p_easy[row], p_hard[row] = (min(max(x, 0.05), 0.95) for x in (p_easy[row], p_hard[row]))
            else:
                p_easy[row], p_hard[row] = driven._p_easy[row], driven._p_hard[row]
        place.requests.clear()
        np.testing.assert_array_equal(driven._easy_streak, easy)
        np.testing.assert_array_equal(driven._hard_streak, hard)
        np.testing.assert_allclose(driven._p_easy, p_easy)
        np.testing.assert_allclose(driven._p_hard, p_hard)
        for row in range(2):
            for q in range(24):
                expected = max(p_easy[row] ** easy[row, q], 0.01) * max(p_hard[row] ** hard[row, q], 0.01)
                found = driven.chances(np.full((2, 1), q))[row, 0]
                assert found == pytest.approx(expected)
    assert easy.max() >= 3
    assert hard.max() >= 3


def test_prompts_are_skipped_as_often_as_they_should():
    """A prompt with a streak of 2 is rolled out with probability 1/4; 4 standard errors."""
    place = Coins(np.full((4000, 12), 0.5), 12, 96)
    driven = begin(place, allocators.create("greso[loader_batch=1,max_draws=1]"))
    driven._easy_streak[:, 0], driven._hard_streak[:, 1], driven._easy_streak[:, 2] = 2, 1, 20
    run_step(place, driven)
    asked = place.requests[0]
    for prompt, chance in ((0, 0.25), (1, 0.5), (2, 0.01), (3, 1.0)):
        found = ((asked.prompts == prompt) & (asked.counts > 0)).any(axis=1).mean()
        assert found == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 4000) + 1e-9)


def test_nothing_is_skipped_and_nothing_tuned_in_the_first_epoch():
    place = Coins(np.random.default_rng(0).beta(0.3, 0.3, size=(3, 600)), 8, 64)
    driven = begin(place, allocators.create("greso"))
    for _ in range(10):
        run_step(place, driven)
    assert (place.stream.epoch == 0).all()
    assert (driven._p_easy == 0.5).all()
    drawn = place.stream.drawn.sum(axis=1)
    np.testing.assert_array_equal(place.ledger.prompts, drawn)  # all that are accepted are rolled out


def test_sampling_batches_adapt():
    """First 1.5 B; then what is missing over the last batch's effective share, times 1.25, at least B / 4.

    The one that should be enough is the last, even if the batch is short.
    """
    p = np.random.default_rng(3).beta(0.3, 0.3, size=(1, 4000))
    place = Coins(p, 16, 16 * 8)
    driven = begin(place, allocators.create("greso"))
    refilled = short = 0
    for _ in range(20):
        place.requests.clear()
        groups = run_step(place, driven).groups
        sizes = [int((r.counts > 0).sum()) for r in place.requests]
        assert sizes[0] == 24
        assert all(size % 2 == 0 and 4 <= size <= 24 for size in sizes)  # the loader hands out two at a time
        kept = groups.prompts >= 0
        assert (groups.counts[kept] == 8).all()
        assert ((groups.successes > 0) & (groups.failures > 0))[kept].all()
        refilled += len(sizes) > 1
        short += not kept.all()
    assert refilled > 0
    assert 0 < short < 20


def solved_first(count, pool=400):
    """Sixteen prompts a step: of the first that are drawn, `count` succeed once, and nobody later does."""
    place = Scripted(np.zeros((1, pool)), 16, 16 * 8)
    place.tape[0, place.stream.draw(24)[0, :count], 0] = 1  # what will come first, from a stream like it
    return Scripted(np.zeros((1, pool)), 16, 16 * 8, tape=place.tape)


def test_a_second_batch_is_as_large_as_needed_and_the_last():
    """24 rolled out, 12 kept: 4 are missing, so 4 / (12/24) * 1.25 = 10, cut to a whole number."""
    place = solved_first(12)
    trained("greso", place, 1)
    assert [int((r.counts > 0).sum()) for r in place.requests] == [24, 10]
    assert (place.updates[0].prompts >= 0).sum() == 12


def test_a_batch_that_cannot_be_enough_is_not_the_last():
    """24 rolled out, 4 kept: 90 would be needed, so 24 more, and without any mixed group 24 again."""
    place = solved_first(4)
    trained("greso[max_rounds=4]", place, 1)
    assert [int((r.counts > 0).sum()) for r in place.requests] == [24, 24, 24, 24]
