import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulators.clock import Clock

# Pilot-Commit (arXiv 2605.26606), Table 2: 14B, 64 H200, 128 prompts with 64 rollouts trained.
TABLE_2 = {
    "grpo": {"generated": 8192, "rollout": 106, "update": 104, "total": 248},
    "pilot_commit": {"generated": 12288, "rollout": 138, "update": 115, "total": 299},
    "dapo": {"generated": 24576, "rollout": 280, "update": 110, "total": 453},
}


def spread_over(rollouts, prompts=2000):
    """Prompts with Beta(.4, .6) success, and the rollouts dealt to them as evenly as can be."""
    p = np.random.default_rng(0).beta(0.4, 0.6, (1, prompts))
    return p, np.diff(np.linspace(0, rollouts, prompts + 1).astype(int))[None]


def queue(clock, p, counts, rng):
    """A slow twin: every rollout takes the slot that is free first; seconds until the last one ends."""
    each = np.repeat(p, counts)
    rng.shuffle(each)
    means = clock.tokens * clock.harder ** (0.5 - each)
    scale = means / np.exp(clock.spread**2 / 2)
    lengths = np.minimum(scale * np.exp(clock.spread * rng.standard_normal(len(each))), clock.limit)
    free, end = [0.0] * min(clock.slots, len(each)), 0.0
    for length in lengths:
        done = heapq.heappop(free) + length
        heapq.heappush(free, done)
        end = max(end, done)
    return end / clock.speed, lengths.sum()


@pytest.mark.parametrize("row", TABLE_2.values(), ids=TABLE_2)
def test_published_steps(row):
    clock = Clock()
    seconds, _ = clock.stage(*spread_over(row["generated"]))
    trained = np.array([8192])
    update = clock.per_trained * trained
    total = seconds + clock.rest(np.array([row["generated"]]), trained)
    assert seconds[0] == pytest.approx(row["rollout"], rel=0.10)
    assert update[0] == pytest.approx(row["update"], rel=0.10)
    assert total[0] == pytest.approx(row["total"], rel=0.10)


@pytest.mark.parametrize("rollouts", [100, 800, 1500, 3000, 8192])
def test_stage_is_a_queue(rollouts):
    clock, rng = Clock(), np.random.default_rng(1)
    p, counts = spread_over(rollouts)
    seconds, tokens = clock.stage(p, counts)
    simulated = np.array([queue(clock, p[0], counts[0], rng) for _ in range(40)])
    mean, error = simulated.mean(axis=0), stats.sem(simulated)
    assert abs(seconds[0] - mean[0]) < 0.04 * mean[0] + 4 * error[0]
    assert abs(tokens[0] - mean[1]) < 0.005 * mean[1] + 4 * error[1]


def test_a_stage_without_rollouts_takes_no_time():
    seconds, tokens = Clock().stage(np.full((2, 3), 0.5), np.array([[0, 0, 0], [1, 0, 0]]))
    assert seconds[0] == tokens[0] == 0
    assert seconds[1] == pytest.approx(tokens[1] / Clock().speed)  # one rollout waits for itself only


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1))
def test_more_and_harder_takes_longer(few, more, p):
    clock = Clock()
    chance = np.array([[p]])
    seconds = [clock.stage(chance, np.array([[n]]))[0][0] for n in (few, few + more)]
    assert seconds[0] <= seconds[1] + 1e-9
    harder = clock.stage(chance / 2, np.array([[few]]))[0][0]
    assert harder >= seconds[0] - 1e-9


def test_without_spread_all_end_together():
    clock = Clock(spread=0.0, harder=1.0, tokens=1000, limit=4096, slots=10, speed=100)
    for rollouts, waves in ((1, 1), (10, 1), (20, 2), (30, 3)):
        seconds, _ = clock.stage(np.array([[0.5]]), np.array([[rollouts]]))
        assert seconds[0] == pytest.approx(waves * 10, rel=0.02)  # the grid in length is 32 tokens
