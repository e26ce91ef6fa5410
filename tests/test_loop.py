"""The loop and the contract it holds allocators to."""

import numpy as np
import pytest

from rolloutbench.allocators import allocators
from rolloutbench.allocators.vip import VIP
from rolloutbench.environment import Environment
from rolloutbench.estimators import RLOO
from rolloutbench.loop import begin, check_trained, run_step
from rolloutbench.protocol import (
    Allocator,
    Budget,
    Groups,
    Outcomes,
    PromptStream,
    ProtocolError,
    Request,
    Setting,
)

P = np.linspace(0.05, 0.95, 12)


class Coins(Environment):
    """Twelve prompts with fixed success probabilities; an update returns what it was given."""

    def __init__(self, replicates=3, prompts=4, rollouts=16, seed=0):
        setting = Setting(
            Budget(prompts, rollouts),
            RLOO(),
            "prompt",
            replicates,
            len(P),
            np.random.default_rng(seed),
            success_probability=lambda prompts: P[prompts],
        )
        super().__init__(setting, PromptStream(len(P), replicates, np.random.SeedSequence(seed)))
        self.rng = np.random.default_rng(seed + 1)
        self.updates = []

    def generate(self, request):
        return Outcomes(
            request.prompts, request.counts, self.rng.binomial(request.counts, P[request.prompts])
        )

    def update(self, groups):
        self.updates.append(groups)
        return {"trained": groups.counts.sum(axis=1, keepdims=True)}


class UntilSolved(Allocator):
    """Two stages: prompts without a success are asked for again."""

    def __init__(self):
        self.observed = []

    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        seen = Outcomes.none(prompts)
        for _ in range(2):
            seen += yield Request(prompts, 2 * (seen.successes == 0))
        return Groups.all_of(seen)

    def observe(self, outcomes):
        self.observed.append(outcomes)


class UntilSolvedAlone(UntilSolved):
    vectorised = False


def test_a_step_goes_through_all_stages():
    environment = Coins()
    allocator = begin(environment, UntilSolved())
    measured = run_step(environment, allocator).measured
    trained = environment.updates[0]
    assert (measured["trained"][:, 0] == environment.ledger.generated).all()
    assert ((trained.counts == 2) | (trained.counts == 4)).all()
    assert ((trained.counts == 4) >= (trained.successes == 0)).all()
    assert environment.ledger.stages.max() == 2
    assert len(allocator.observed) == 1
    assert (allocator.observed[0].counts == trained.counts).all()


def test_an_allocator_may_ask_for_nothing():
    class Idle(Allocator):
        def plan(self, stream, budget):
            return Groups.all_of(Outcomes.none(stream.draw(budget.prompts)))
            yield

    environment = Coins()
    run_step(environment, begin(environment, Idle()))
    assert environment.ledger.generated.tolist() == [0, 0, 0]


def test_rollouts_may_be_trained_on_in_a_later_step():
    class Late(Allocator):
        """Trains on what it sampled in the step before."""

        held = None

        def plan(self, stream, budget):
            outcomes = yield Request(prompts := stream.draw(4), np.full(prompts.shape, 4))
            late, self.held = self.held or Outcomes.none(outcomes.prompts), outcomes
            return Groups.all_of(late)

    environment = Coins()
    late = begin(environment, Late())
    for _ in range(3):
        run_step(environment, late)
    assert [int(groups.counts.sum()) for groups in environment.updates] == [0, 48, 48]


def broken(counts=None, prompts=None, groups=None, **attributes):
    """An allocator that breaks one rule."""

    class Broken(Allocator):
        def plan(self, stream, budget):
            drawn = stream.draw(budget.prompts)
            asked = np.full(drawn.shape, 4) if counts is None else counts(drawn)
            outcomes = yield Request(drawn if prompts is None else prompts(drawn), asked)
            return Groups.all_of(outcomes) if groups is None else groups(outcomes)

    for name, value in attributes.items():
        setattr(Broken, name, value)
    return Broken()


@pytest.mark.parametrize(
    ("allocator", "message"),
    [
        (broken(counts=lambda d: np.full(d.shape, 5)), "overspends its hard budget: 20 rollouts .* 16 are"),
        (broken(counts=lambda d: np.full(d.shape, -1)), "asks for -1 rollouts"),
        (broken(counts=lambda d: np.full(d.shape, 2.5)), "counts as float64"),
        (broken(counts=lambda d: [[1]]), "counts as list"),
        (broken(counts=lambda d: np.full((2, 4), 1)), r"counts of shape \(2, 4\): \(3, B\) is expected"),
        (
            broken(counts=lambda d: np.full((3, 2), 1)),
            r"counts of shape \(3, 2\) of prompts of shape \(3, 4\)",
        ),
        (broken(prompts=lambda d: (d + 1) % 12), "which it did not draw"),
        (broken(prompts=lambda d: d + 100), "which it did not draw"),
        (broken(prompts=lambda d: d * 0 - 1), "asks for prompt -1"),
        (
            broken(groups=lambda o: Groups(o.prompts, o.counts + 1, o.counts * 0, np.ones(o.counts.shape))),
            "keeps",
        ),
        (
            broken(groups=lambda o: Groups(o.prompts, -o.counts, o.counts, np.ones(o.counts.shape))),
            "keeps -4",
        ),
        (
            broken(
                groups=lambda o: Groups(o.prompts, o.successes, o.successes * 0.5, np.ones(o.counts.shape))
            ),
            "float",
        ),
        (broken(groups=lambda o: Groups.all_of(o, np.full(o.counts.shape, np.nan))), "weights"),
        (broken(groups=lambda o: Groups.all_of(o, np.ones(2))), "weights"),
        (
            broken(groups=lambda o: Groups.all_of(Outcomes(o.prompts + 50, o.counts, o.successes))),
            "not in the pool",
        ),
        (broken(groups=lambda o: o), "returns Groups, not Outcomes"),
        (broken(groups=lambda o: None), "returns Groups, not NoneType"),
    ],
)
def test_who_breaks_the_protocol_is_named(allocator, message):
    environment = Coins()
    with pytest.raises(ProtocolError, match=message) as error:
        run_step(environment, begin(environment, allocator))
    assert "allocator Broken " in str(error.value)
    assert not environment.updates


def test_an_overspender_is_stopped_before_anything_is_generated():
    environment = Coins()
    with pytest.raises(ProtocolError):
        run_step(environment, begin(environment, broken(counts=lambda d: np.full(d.shape, 99))))
    assert environment.ledger.generated.sum() == 0


def test_overspending_counts_all_stages_together():
    class Twice(Allocator):
        def plan(self, stream, budget):
            prompts = stream.draw(4)
            yield Request(prompts, np.full(prompts.shape, 4))
            outcomes = yield Request(prompts, np.eye(3, 4, dtype=int))
            return Groups.all_of(outcomes)

    environment = Coins()
    with pytest.raises(ProtocolError, match="Twice overspends its hard budget: 17 rollouts"):
        run_step(environment, begin(environment, Twice()))
    Twice.hard_budget = False
    environment = Coins()
    run_step(environment, begin(environment, Twice()))
    assert environment.ledger.generated.tolist() == [17, 17, 17]


def test_yielding_something_else():
    class Wrong(Allocator):
        def plan(self, stream, budget):
            yield stream.draw(4)

    environment = Coins()
    with pytest.raises(ProtocolError, match="Wrong yields Requests, not ndarray"):
        run_step(environment, begin(environment, Wrong()))


def test_one_copy_per_replicate_is_as_good_as_vectorised():
    """The same rewards, since the same stages ask for the same counts in the same order."""
    together, apart = Coins(), Coins()
    both = begin(together, UntilSolved()), begin(apart, UntilSolvedAlone())
    for _ in range(4):
        run_step(together, both[0])
        run_step(apart, both[1])
    for left, right in zip(together.updates, apart.updates, strict=True):
        for field in ("prompts", "successes", "failures", "weights"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
    assert together.ledger.generated.tolist() == apart.ledger.generated.tolist()
    assert all(copy.observed[0].counts.shape[0] == 1 for copy in both[1].copies)


def test_copies_may_differ_in_stages_and_widths():
    class Uneven(Allocator):
        vectorised = False

        def plan(self, stream, budget):
            size = int(self.setting.rng.integers(1, 5))
            prompts = stream.draw(size)
            assert prompts.shape == (1, size)
            seen = Outcomes.none(prompts)
            for _ in range(size):
                seen += yield Request(prompts, np.ones_like(prompts))
            return Groups.all_of(seen)

    environment = Coins(replicates=6)
    run_step(environment, begin(environment, Uneven()))
    groups = environment.updates[0]
    sizes = (groups.prompts >= 0).sum(axis=1)
    assert len(set(sizes)) > 1
    assert (environment.ledger.generated == sizes**2).all()
    assert environment.ledger.stages.tolist() == sizes.tolist()
    assert (groups.counts == np.where(groups.prompts >= 0, sizes[:, None], 0)).all()


def test_a_broken_copy_is_named_too():
    environment = Coins()
    with pytest.raises(ProtocolError, match="allocator Broken overspends"):
        run_step(environment, begin(environment, broken(lambda d: np.full(d.shape, 9), vectorised=False)))
    with pytest.raises(ProtocolError, match="allocator Broken returns Groups, not NoneType"):
        run_step(environment, begin(environment, broken(groups=lambda o: None, vectorised=False)))


@pytest.mark.parametrize("vectorised", [True, False])
def test_training_resumes_from_saved_state(vectorised, monkeypatch):
    monkeypatch.setattr(VIP, "vectorised", vectorised)

    def counts(resume):
        environment = Coins(prompts=4, rollouts=32)
        allocator = begin(environment, VIP(predictor="beta"))
        for step in range(6):
            if resume and step == 3:
                saved, kept = allocator.state_dict(), allocator
                allocator = begin(environment, VIP(predictor="beta"))
                assert allocator is not kept
                allocator.load_state_dict(saved)
            run_step(environment, allocator)
        return [groups.counts.tolist() for groups in environment.updates]

    assert counts(resume=True) == counts(resume=False)


# --- plans that lead nowhere


def endless(counts, **attributes):
    """An allocator whose plan has no end."""

    class Endless(Allocator):
        hard_budget = False

        def plan(self, stream, budget):
            prompts = stream.draw(budget.prompts)
            while True:
                yield Request(prompts, np.full_like(prompts, counts))

    for name, value in attributes.items():
        setattr(Endless, name, value)
    return Endless()


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            2,
            "has not ended a step after 1000 stages, with 8000 rollouts in a replicate where the",
        ),
        (0, "asks for no rollout 101 times in a row, up to stage 101 of a step: 100 are allowed"),
    ],
)
def test_a_plan_without_end_is_named(counts, message, vectorised):
    environment = Coins()
    with pytest.raises(ProtocolError, match=f"allocator Endless {message}"):
        run_step(environment, begin(environment, endless(counts, vectorised=vectorised)))


def test_stages_that_ask_for_nothing_may_stand_between_others():
    class Slow(Allocator):
        def plan(self, stream, budget):
            prompts = stream.draw(budget.prompts)
            seen = Outcomes.none(prompts)
            for stage in range(300):
                seen += yield Request(prompts, np.full_like(prompts, stage % 100 == 99))
            return Groups.all_of(seen)

    environment = Coins()
    run_step(environment, begin(environment, Slow()))
    assert environment.ledger.generated.tolist() == [12, 12, 12]


@pytest.mark.parametrize("vectorised", [True, False])
@pytest.mark.parametrize("returned", [None, Groups.all_of(Outcomes.none(np.zeros((3, 2), np.int64)))])
def test_a_plan_without_yield_is_told_so(returned, vectorised):
    class NoYield(Allocator):
        def plan(self, stream, budget):
            return returned

    NoYield.vectorised = vectorised
    environment = Coins()
    said = f"NoYield returns {type(returned).__name__} from a plan without `yield`: plan must yield a Request"
    with pytest.raises(ProtocolError, match=said):
        run_step(environment, begin(environment, NoYield()))


def test_a_run_that_trains_on_nothing_is_named():
    environment = Coins()
    driven = begin(environment, broken(groups=lambda o: Groups.all_of(Outcomes.none(o.prompts))))
    run_step(environment, driven)
    check_trained(environment, driven, 1)  # too early to tell
    for _ in range(29):
        run_step(environment, driven)
    said = (
        r"allocator Broken trains on nothing: 1440 rollouts generated, \d+ groups .* 30 steps of 3 replicates"
    )
    with pytest.raises(ProtocolError, match=said):
        check_trained(environment, driven, 30)
    environment = Coins()
    driven = begin(environment, broken(counts=lambda d: d * 0))
    run_step(environment, driven)
    with pytest.raises(ProtocolError, match="trains on nothing: 0 rollouts generated"):
        check_trained(environment, driven, 1)
    environment = Coins()
    driven = begin(environment, broken())
    run_step(environment, driven)
    check_trained(environment, driven, 1)


def test_who_selects_among_hopeless_prompts_may_train_on_nothing():
    environment = Coins()
    environment.generate = lambda request: Outcomes(request.prompts, request.counts, 0 * request.counts)
    driven = begin(environment, allocators.create("dapo"))
    for _ in range(20):
        run_step(environment, driven)
    assert environment.ledger.trained.sum() == 0
    check_trained(environment, driven, 20)


class Lossy(Coins):
    """Of every prompt one rollout less comes back than was asked for."""

    def generate(self, request):
        return super().generate(Request(request.prompts, np.maximum(request.counts - 1, 0)))


@pytest.mark.parametrize("vectorised", [True, False])
def test_an_allocator_is_told_what_came_not_what_it_asked_for(vectorised):
    environment = Lossy()
    driven = begin(environment, broken(vectorised=vectorised))
    run_step(environment, driven)
    assert environment.updates[0].counts.tolist() == [[3] * 4] * 3
    assert environment.ledger.trained.tolist() == environment.ledger.generated.tolist() == [12, 12, 12]


@pytest.mark.parametrize("allocator", [UntilSolved(), UntilSolvedAlone()])
def test_what_is_driven_is_a_copy(allocator):
    before = dict(vars(allocator))
    environment = Coins()
    run_step(environment, begin(environment, allocator))
    assert vars(allocator) == before
    assert allocator.observed == []
