"""Prompts that arrive: ids in order of appearance, the same prompt the same id, the same when resumed."""

import numpy as np
import pytest

from rolloutbench.arrivals import Arrivals
from rolloutbench.coach import Coach
from rolloutbench.protocol import InputError


def test_ids_are_given_out_as_prompts_come():
    stream = Arrivals(["a", {"role": "user"}, "a", "b", "c"], 10)
    assert stream.draw(3).tolist() == [[0, 1, 2]]  # the second "a" is no other prompt
    assert stream.prompts == ["a", {"role": "user"}, "b"]
    assert stream.draw(2).tolist() == [[3, 0]]
    assert stream.epoch.tolist() == [1]
    stream.retire(np.array([[1, -1]]))
    assert stream.draw(5).tolist() == [[0, 2, 3, -1, -1]]  # a whole pass, and no others
    assert stream.drawn[0, :4].all()
    assert not stream.drawn[0, 4:].any()
    assert stream.draw(2, np.array([False])).tolist() == [[-1, -1]]


def test_a_source_that_ends_for_good():
    stream = Arrivals(iter("abc"), 10)
    assert stream.draw(2).tolist() == [[0, 1]]
    assert stream.draw(2).tolist() == [[2, -1]]
    assert stream.draw(2).tolist() == [[-1, -1]]


def test_too_many_and_what_cannot_be_told_apart():
    with pytest.raises(InputError, match="pool_size=2: more different prompts"):
        Arrivals("abc", 2).draw(3)
    with pytest.raises(InputError, match="a prompt of type object: text or JSON"):
        Arrivals([object()], 2).draw(1)


class Growing:
    """A data set that is read from its beginning each time, and has more prompts by then."""

    def __init__(self):
        self.size = 20

    def __iter__(self):
        yield from (f"prompt {i}" for i in range(self.size))


@pytest.mark.parametrize("spec", ["uniform", "mopps", "vip[predictor=beta]", "pilot_commit", "dapo", "greso"])
def test_a_coach_of_a_stream_goes_on_from_where_it_was(spec, tmp_path):
    def steps(coach, count):
        rows = []
        for _ in range(count):
            while (ask := coach.ask()) is not None:
                texts = [coach.prompt(q) for q in ask.each]
                rewards = [float((len(text) + int(text[-1]) + i) % 3 == 0) for i, text in enumerate(texts)]
                coach.tell(rewards, texts)
            batch = coach.batch()
            assert [coach.prompt(q) for q in batch.prompts] == batch.rollouts
            rows.append((batch.rollouts, batch.advantages.tolist()))
        return rows

    how = {"prompts": 4, "rollouts": 32, "pool_size": 1000}
    data = Growing()
    coach = Coach(spec, arriving=data, **how)
    steps(coach, 4)
    data.size = 30
    steps(coach, 4)
    coach.save(tmp_path / "coach.safetensors")
    assert coach.bill()["epoch"] > 0
    for source in (["other"], [f"other {i}" for i in range(30)]):
        with pytest.raises(InputError, match="brings other prompts"):
            Coach(spec, arriving=source, **how).restore(tmp_path / "coach.safetensors")
    data.size = 40
    again = Coach(spec, arriving=data, **how)
    again.restore(tmp_path / "coach.safetensors")
    coach.stream._rest = None
    again.stream._rest = None  # both begin another pass, over what there is now
    assert steps(again, 5) == steps(coach, 5)
    assert len(again.stream.prompts) == len(coach.stream.prompts)


def test_where_prompts_have_no_features():
    how = {"prompts": 4, "rollouts": 32, "pool_size": 1000, "arriving": "abcdef"}
    with pytest.raises(InputError, match=r"features: prompts that arrive.*predictor=beta"):
        Coach("uniform", features=np.zeros((1000, 2)), **how)
    with pytest.raises(InputError, match=r"needs a feature vector for each prompt.*predictor=beta"):
        Coach("vip", **how)
    with pytest.raises(InputError, match="ids are rows of the data set"):
        Coach("uniform", prompts=1, rollouts=4, pool_size=3).prompt(0)
