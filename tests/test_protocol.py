import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutbench.environment import Ledger
from rolloutbench.protocol import Budget, Groups, InputError, Outcomes, PromptStream


def stream(pool=10, replicates=3, seed=0):
    return PromptStream(pool, replicates, np.random.SeedSequence(seed))


def test_budget():
    assert Budget(4, 34).group_size == 8.5
    with pytest.raises(InputError, match="prompts=0"):
        Budget(0, 5)
    with pytest.raises(InputError, match="rollouts=3"):
        Budget(4, 3)


def test_outcomes_of_the_same_prompts_are_summed():
    prompts = np.array([[2, 0]])
    first = Outcomes(prompts, np.array([[3, 1]]), np.array([[1, 0]]))
    assert (first + first).counts.tolist() == [[6, 2]]
    assert (Outcomes.none(prompts) + first).successes.tolist() == [[1, 0]]
    assert Outcomes.merged([first, first]).prompts.tolist() == [[2, 0]]
    with pytest.raises(ValueError, match="different prompts"):
        first + Outcomes(prompts + 1, first.counts, first.successes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3))
def test_merging_stages_equals_adding_up_in_a_dictionary(seed, replicates, stages):
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(stages):
        prompts = rng.integers(-1, 6, size=(replicates, rng.integers(1, 5)))
        counts = np.where(prompts >= 0, rng.integers(0, 4, size=prompts.shape), 0)
        parts.append(Outcomes(prompts, counts, rng.binomial(counts, 0.5)))
    expected = [{} for _ in range(replicates)]
    for part in parts:
        for r in range(replicates):
            for q, n, k in zip(part.prompts[r], part.counts[r], part.successes[r], strict=True):
                if q >= 0:
                    old = expected[r].get(int(q), (0, 0))
                    expected[r][int(q)] = (old[0] + int(n), old[1] + int(k))
    merged = Outcomes.merged(parts)
    for r in range(replicates):
        found: dict = {}
        for q, n, k in zip(merged.prompts[r], merged.counts[r], merged.successes[r], strict=True):
            if q >= 0:
                assert int(q) not in found
                found[int(q)] = (int(n), int(k))
        assert found == expected[r]


def test_an_epoch_shows_every_prompt_once():
    s = stream(pool=12)
    drawn = np.concatenate([s.draw(4) for _ in range(3)], axis=1)
    assert (np.sort(drawn, axis=1) == np.arange(12)).all()
    assert s.epoch.tolist() == [0, 0, 0]
    s.draw(4)
    assert s.epoch.tolist() == [1, 1, 1]
    assert s.drawn.all()


def test_an_epoch_that_cannot_fill_a_draw_ends_early():
    s = stream(pool=10)
    for _ in range(4):
        drawn = s.draw(4)
        assert all(len(set(row)) == 4 for row in drawn)
    assert s.epoch.tolist() == [1, 1, 1]


def test_the_order_depends_on_seed_and_epoch_only():
    """Drawing more, or in other pieces, or for some replicates only, changes nobody's epochs."""
    a, b = stream(), stream()
    first = a.draw(10)
    pieces = [b.draw(5, where=np.array([r == 1 for r in range(3)])) for _ in range(2)]
    assert np.concatenate(pieces, axis=1)[1].tolist() == first[1].tolist()
    assert (pieces[0][[0, 2]] == -1).all()
    second = a.draw(10)
    assert b.draw(10)[0].tolist() == first[0].tolist()
    assert b.draw(10)[0].tolist() == second[0].tolist()
    assert first.tolist() != stream(seed=1).draw(10).tolist()


def test_retired_prompts_never_come_back():
    s = stream(pool=6, replicates=2)
    drawn = s.draw(2)
    s.retire(np.array([[drawn[0, 0], -1], [-1, -1]]))
    for _ in range(5):
        more = s.draw(2)
        assert drawn[0, 0] not in more[0]
    everything = s.draw(6)
    assert sorted(everything[1]) == list(range(6))
    assert sorted(everything[0]) == sorted([-1, *(q for q in range(6) if q != drawn[0, 0])])


def test_retiring_inside_an_epoch_keeps_the_order_of_the_rest():
    a, b = stream(pool=8, replicates=1), stream(pool=8, replicates=1)
    order = a.draw(8)[0]
    b.draw(2)
    b.retire(order[None, [0, 3]])
    assert b.draw(5)[0].tolist() == [order[2], *order[4:]]


def test_a_stream_continues_from_its_state():
    a = stream()
    a.draw(4)
    a.retire(np.array([[1], [2], [-1]]))
    b = stream()
    b.load_state_dict(a.state_dict())
    for _ in range(5):
        assert a.draw(3).tolist() == b.draw(3).tolist()
    assert a.epoch.tolist() == b.epoch.tolist()


def test_the_ledger_counts_everything_and_lends_nothing():
    ledger = Ledger(2, 5)
    prompts = np.array([[0, 4], [1, -1]])
    ledger.open_step()
    ledger.record(Outcomes(prompts, np.array([[3, 2], [0, 0]]), np.array([[1, 2], [0, 0]])))
    ledger.record(Outcomes(prompts, np.array([[1, 0], [4, 0]]), np.array([[1, 0], [2, 0]])))
    assert ledger.generated.tolist() == ledger.step_generated.tolist() == [6, 4]
    assert ledger.stages.tolist() == [2, 1]
    assert ledger.prompts.tolist() == [3, 1]
    kept = Groups(prompts, np.array([[2, 1], [2, 0]]), np.array([[1, 0], [1, 0]]), np.ones((2, 2)))
    ledger.use(kept)
    with pytest.raises(ValueError, match="keeps 2 successes of prompt 0 in replicate 0, of which 0"):
        ledger.use(kept)
    # What was not used is still there for a later step.
    ledger.open_step()
    assert ledger.step_generated.tolist() == [0, 0]
    ledger.use(Groups(prompts, np.array([[0, 1], [0, 0]]), np.array([[1, 0], [1, 0]]), np.ones((2, 2))))
    assert ledger.held_successes.sum() == ledger.held_failures.sum() == 0
