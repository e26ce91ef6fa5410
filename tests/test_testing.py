"""The conformance kit: everything registered keeps the laws, and each law finds who breaks it."""

import inspect
import unittest

import numpy as np
import pytest

from rolloutbench.allocators import allocators
from rolloutbench.allocators.buffer import Buffer
from rolloutbench.allocators.uniform import Uniform
from rolloutbench.loop import PerReplicate
from rolloutbench.predictors import predictors
from rolloutbench.predictors.beta import Beta
from rolloutbench.protocol import Allocator, Belief, Groups, InputError, Outcomes, Request
from rolloutbench.testing import (
    AllocatorConformance,
    PredictorConformance,
    conformance_of,
    knows_truth,
    scorecard,
)

SPECS = [
    *allocators.names(),
    "dapo[carry=true,oversample=1]",
    "ar3po[reuse=none]",
    "ar3po[reuse=replay,capacity=1]",
    "ar3po[reuse=I,max_age=3,stages=4,per_stage=1]",
    "pilot_commit[order=random]",
    "pilot_commit[order=fifo,clear_at_epoch_end=false,delay=1,n_pilot=2]",
    "pilot_commit[evict=false,n_pilot=2,n_commit=6,oversample=1]",
    "speed[oversample=1,n_init=2]",
    "reinforce_ada[exit=positive,log_weight=true]",
    "reinforce_ada[per_round=3,keep=5]",
    "reinforce_ada_est[rule=code]",
    "mopps[predictor=oracle,candidates=1]",
    "gvm[shard_steps=2,pilot=3]",
    "pods[divide=2]",
    "permuted[of=reinforce_ada_est]",
    "dars[rule=HW,std=true]",
    "cures[oversample=3,temperature=0.1,shard_steps=2]",
    "bots[tau=0.1]",
    "dots[predictor=beta,every=1,reference=1]",
    "c_grpo[every=2,calibration=3]",
    "fast_ema[warmup=0,uniform=0]",
    "dbb[of=pilot_commit]",
]


class TestEveryAllocator(AllocatorConformance):
    """The built-in methods keep rollouts in buffers and nowhere else, whatever their state."""

    @pytest.fixture(autouse=True, params=SPECS)
    def _spec(self, request):
        self.allocator = request.param

    def held(self, driven):
        if isinstance(driven, PerReplicate):
            return np.concatenate([self.held(one) for one in driven.copies])
        if isinstance(getattr(driven, "of", None), Allocator):
            return self.held(driven.of)
        buffers = [value for value in vars(driven).values() if isinstance(value, Buffer)]
        return sum((one.rollouts for one in buffers), start=np.zeros(driven.setting.replicates, np.int64))


class TestEveryPredictor(PredictorConformance):
    @pytest.fixture(autouse=True, params=predictors.names())
    def _spec(self, request):
        self.predictor = request.param


def test_laws_are_said_in_a_sentence():
    for kit in (AllocatorConformance(), PredictorConformance()):
        assert len(kit.laws()) >= 10
        for law in kit.laws().values():
            assert inspect.getdoc(law).partition("\n")[0].endswith((".", ":"))


def test_bounds_say_that_they_read_the_truth():
    """Only those made of an oracle, at whatever depth."""
    bounds = [name for name in predictors.names() if knows_truth(predictors.create(name))]
    assert bounds == ["noisy_oracle", "oracle"]
    assert not any(knows_truth(allocators.create(name)) for name in allocators.names())
    assert knows_truth(allocators.create("permuted[of=vip[predictor=oracle]]"))


# --- each law finds who breaks it


class Base(Allocator):
    """Equal groups; each of the faulty ones below changes one thing."""

    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        outcomes = yield Request(prompts, self.counts(prompts, budget))
        return self.trained(outcomes)

    def counts(self, prompts, budget):
        return budget.rollouts // budget.prompts * (prompts >= 0)

    def trained(self, outcomes):
        return Groups.all_of(outcomes)


class Overspends(Base):
    def counts(self, prompts, budget):
        return 2 * super().counts(prompts, budget)


class DropsInSilence(Base):
    def trained(self, outcomes):
        return Groups.all_of(Outcomes(outcomes.prompts, outcomes.successes, outcomes.successes))


class TrainsOnNothing(Base):
    def trained(self, outcomes):
        return Groups.all_of(Outcomes.none(outcomes.prompts))

    def state_dict(self):
        return {"something": np.zeros(1)}


class Writes(Base):
    def trained(self, outcomes):
        kept = Groups.all_of(Outcomes(outcomes.prompts, outcomes.counts.copy(), outcomes.successes.copy()))
        outcomes.counts[:] = 0
        return kept


class AsksAgain(Base):
    """For what has no verdict, as if it had cost nothing."""

    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        first = yield Request(prompts, self.counts(prompts, budget))
        more = yield Request(prompts, self.counts(prompts, budget) - first.counts)
        return self.trained(first + more)


class FalselyOneShot(Base):
    one_shot = True

    def trained(self, outcomes):
        none = np.zeros_like(outcomes.counts)
        gone = {"failures": (outcomes.counts - outcomes.successes).sum(axis=1)}
        return Groups(
            outcomes.prompts, outcomes.successes, none, np.ones(outcomes.prompts.shape), discarded=gone
        )


class OwnChance(Base):
    def counts(self, prompts, budget):
        return np.random.default_rng().integers(1, 5, prompts.shape) * (prompts >= 0)


class NeverForgets(Base):
    steps = 0

    def counts(self, prompts, budget):
        self.steps += 1
        return np.minimum(super().counts(prompts, budget), self.steps)

    def state_dict(self):
        return {"steps": np.array(self.steps)}

    def load_state_dict(self, state):
        self.steps = int(state["steps"])


class MixesReplicates(Base):
    def counts(self, prompts, budget):
        return np.where(prompts == prompts.max(), 1, super().counts(prompts, budget))


class PrefersNumbers(Base):
    def counts(self, prompts, budget):
        return np.where(prompts % 2 == 0, 1, super().counts(prompts, budget))


class Cheats(Base):
    def counts(self, prompts, budget):
        p = self.setting.success_probability(prompts)
        return np.where(p > 0.5, 1, super().counts(prompts, budget))


class Forgets(Base):
    def begin(self, setting):
        self.setting, self.steps = setting, 0

    def counts(self, prompts, budget):
        self.steps += 1
        return np.minimum(super().counts(prompts, budget), self.steps)


class StateIsShared(Forgets):
    def begin(self, setting):
        self.setting, self.seen = setting, np.zeros((setting.replicates, setting.pool_size))

    def counts(self, prompts, budget):
        self.seen += 1
        return super(Forgets, self).counts(prompts, budget)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"].copy()


class StateIsNoArray(Base):
    def state_dict(self):
        return {"steps": 3}


class ExpectsAll(Base):
    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        asked = self.counts(prompts, budget)
        outcomes = yield Request(prompts, asked)
        return Groups.all_of(Outcomes(prompts, asked, outcomes.successes))


class UntilMixed(Base):
    hard_budget = False

    def plan(self, stream, budget):
        prompts = stream.draw(budget.prompts)
        seen = Outcomes.none(prompts)
        while True:
            alike = (prompts >= 0) & ((seen.successes == 0) | (seen.successes == seen.counts))
            if not alike.any():
                return Groups.all_of(seen)
            seen += yield Request(prompts, 8 * alike)


class AsksForNobody(Base):
    def counts(self, prompts, budget):
        return np.full(prompts.shape, budget.rollouts // budget.prompts)


class NeedsGroupsOfEight(Base):
    def counts(self, prompts, budget):
        if budget.rollouts < 8 * budget.prompts:
            raise ValueError("eight")
        return super().counts(prompts, budget)


class NeedsTwoPrompts(Base):
    def counts(self, prompts, budget):
        return super().counts(prompts, budget) + 0 * prompts[:, :2].reshape(len(prompts), 2)[:, :1]


PROTOCOL = "it keeps protocol and budget"
FAULTS = [
    (Overspends, PROTOCOL, "overspends its hard budget"),
    (DropsInSilence, PROTOCOL, "neither trained on nor given up"),
    (TrainsOnNothing, PROTOCOL, "trains on nothing in 30 steps"),
    (Writes, PROTOCOL, "writes into the Outcomes"),
    (FalselyOneShot, PROTOCOL, "says one_shot = True"),
    (OwnChance, "the same seed gives the same run", "two runs from the same seed differ: "),
    (NeverForgets, "a used allocator starts afresh", "after another run it gives something else: "),
    (MixesReplicates, "replicates do not touch each other", "beside other replicates and alone it differs: "),
    (PrefersNumbers, "numbers of prompts mean nothing", "with prompts renamed it differs: "),
    (Cheats, "it does not read the true p", "calls setting.success_probability"),
    (Forgets, "it resumes from its state", "it goes on otherwise from its state after step 7: "),
    (StateIsShared, "it resumes from its state", "it must be a copy"),
    (StateIsNoArray, "it resumes from its state", "state_dict()['steps'] holds int"),
    (ExpectsAll, "fewer rollouts come than were asked for", "failures of prompt"),
    (AsksAgain, "some rollouts have no verdict", "overspends its hard budget"),
    (UntilMixed, "hopeless pools", "has not ended a step after 1000 stages"),
    (AsksForNobody, "a pool smaller than a draw", "asks for prompt -1"),
    (AsksForNobody, "a pool that runs out", "asks for prompt -1"),
    (NeedsGroupsOfEight, "groups of two", "in counts: ValueError: eight"),
    (NeedsGroupsOfEight, "groups of one", "in counts: ValueError: eight"),
    (NeedsTwoPrompts, "one prompt", "in counts: ValueError: cannot reshape"),
]


@pytest.mark.parametrize(
    ("fault", "law", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_law_of_allocators_finds_who_breaks_it(fault, law, message):
    (verdict,) = scorecard(only(conformance_of(fault()), law))
    assert verdict.outcome == "broken"
    assert message in verdict.detail
    assert "a pool of" in verdict.example
    assert "Traceback" in verdict.traceback


def only(kit, law):
    """A kit of one law."""
    name = f"test_{law.replace(' ', '_')}"
    found = kit.laws()[name]
    kit.laws = lambda: {name: found}
    return kit


class Wide(Beta):
    def predict(self, prompts):
        belief = super().predict(prompts)
        return Belief(belief.mean, np.full(prompts.shape, 0.3))


class TooMany(Beta):
    def predict(self, prompts):
        return Belief(*(np.ones((len(prompts), 2)) / 2,) * 2)


class Unseeded(Beta):
    def predict(self, prompts):
        return Belief(np.random.default_rng().random(prompts.shape), np.zeros(prompts.shape))


class Averages(Beta):
    def predict(self, prompts):
        mean = super().predict(prompts).mean
        return Belief(np.full(prompts.shape, mean.mean() if mean.size else 0.5), np.zeros(prompts.shape))


class ByNumber(Beta):
    def predict(self, prompts):
        return Belief((prompts + 1) / 100.0, np.zeros(prompts.shape))


class Peeks(Beta):
    def predict(self, prompts):
        return Belief(self.setting.success_probability(prompts), np.zeros(prompts.shape))


class HalfSaved(Beta):
    def load_state_dict(self, state):
        self._alpha = state["alpha"].copy()


class CountsSteps(Beta):
    def update(self, outcomes):
        super().update(outcomes)
        self._alpha += 1


class Remembers(Beta):
    def begin(self, setting):
        if not hasattr(self, "_alpha"):
            super().begin(setting)


class DividesByZero(Beta):
    def predict(self, prompts):
        belief = super().predict(prompts)
        solved = belief.mean > 0.9
        return Belief(np.where(solved, np.nan, belief.mean), belief.variance)


class NoSinglePool(Beta):
    def begin(self, setting):
        super().begin(setting)
        np.zeros(setting.pool_size)[1]


PREDICTOR_FAULTS = [
    (Wide, "beliefs have the shape and are possible", "is impossible at mean"),
    (TooMany, "beliefs have the shape and are possible", "of shape (3, 2)"),
    (Unseeded, "the same seed gives the same beliefs", "two runs from the same seed differ: mean"),
    (Averages, "replicates side by side are as each alone", "beside other replicates and alone it differs"),
    (ByNumber, "numbers of prompts mean nothing", "with prompts renamed it differs: mean"),
    (Peeks, "it does not read the true p", "calls setting.success_probability"),
    (HalfSaved, "it resumes exactly", "it goes on otherwise from its state"),
    (CountsSteps, "no rollouts change nothing", "outcomes without a rollout change beliefs"),
    (Remembers, "beginning again forgets", "after begin it still knows"),
    (DividesByZero, "hopeless pools", "mean is not finite"),
    (NoSinglePool, "one prompt", "in begin: IndexError"),
]


@pytest.mark.parametrize(
    ("fault", "law", "message"), PREDICTOR_FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_law_of_predictors_finds_who_breaks_it(fault, law, message):
    (verdict,) = scorecard(only(conformance_of(fault()), law))
    assert verdict.outcome == "broken"
    assert message in verdict.detail


def test_every_law_has_somebody_who_breaks_it():
    for kit, faults in ((AllocatorConformance(), FAULTS), (PredictorConformance(), PREDICTOR_FAULTS)):
        broken = {f"test_{law.replace(' ', '_')}" for _, law, _ in faults}
        assert broken == set(kit.laws())


def test_a_scorecard_says_what_holds_and_what_does_not_apply():
    class Alone(Base):
        vectorised = False

    outcomes = {verdict.law: verdict for verdict in scorecard(conformance_of(Alone()))}
    assert {verdict.outcome for verdict in outcomes.values()} == {"holds", "does not apply"}
    assert outcomes["replicates do not touch each other"].detail.startswith("vectorised = False")
    bound = {verdict.law: verdict for verdict in scorecard(conformance_of(predictors.create("oracle")))}
    assert bound["it does not read the true p"].outcome == "does not apply"


def test_a_kit_takes_objects_classes_and_specs():
    for given in (Uniform(), Uniform, "uniform"):
        kit = AllocatorConformance()
        kit.allocator = given
        assert kit.make() == Uniform()
    kit.allocator = "unifrom"
    with pytest.raises(InputError, match="did you mean uniform"):
        kit.make()


def test_what_does_not_apply_is_a_skipped_test_in_pytest():
    kit = AllocatorConformance()
    kit.allocator = "vip[predictor=oracle]"
    with pytest.raises(unittest.SkipTest):
        kit.test_it_does_not_read_the_true_p()
