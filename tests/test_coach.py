"""The coach: every allocator outside the loop does what it does inside, whoever generates."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rolloutbench.allocators import allocators
from rolloutbench.allocators.dapo import DAPO
from rolloutbench.coach import Coach, _seed
from rolloutbench.environment import Environment
from rolloutbench.estimators import GRPO, RLOO, DrGRPO, Reinforce, estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import (
    Allocator,
    Estimator,
    Groups,
    InputError,
    Outcomes,
    PromptStream,
    ProtocolError,
    Request,
    Reuse,
    Setting,
)

POOL, PROMPTS, ROLLOUTS = 120, 8, 64
P = np.random.default_rng(5).beta(0.5, 0.7, POOL)
FEATURES = np.random.default_rng(6).standard_normal((POOL, 4))


def rewards_of(step, stage, each):
    """The same rewards for everybody who asks for the same rollouts at the same time."""
    return (np.random.default_rng((step, stage)).random(len(each)) < P[each]).astype(float)


class Twin(Environment):
    """The place in which a coach of seed 0 works, driven by the loop."""

    def __init__(self, allocator):
        setting = Coach(allocator, **SIZES, features=FEATURES).setting
        rng = np.random.default_rng(_seed(0, 3))
        setting = Setting(**{**vars(setting), "rng": rng})
        super().__init__(setting, PromptStream(POOL, 1, _seed(0, 1)))
        self.step = self.stage = 0
        self.updates = []

    def generate(self, request):
        asked = request.counts[0]
        source = np.repeat(np.arange(len(asked)), asked)
        successes = np.zeros_like(request.counts)
        if len(source):
            reward = rewards_of(self.step, self.stage, request.prompts[0][source])
            successes[0] = np.bincount(source, reward, len(asked)).astype(int)
            self.stage += 1
        return Outcomes(request.prompts, request.counts, successes)

    def update(self, groups):
        self.updates.append(groups)
        self.step, self.stage = self.step + 1, 0
        return {}


SIZES = {"prompts": PROMPTS, "rollouts": ROLLOUTS, "pool_size": POOL}
REGISTERED = [
    spec for spec in (*allocators.names(), "dapo[carry=true]", "ar3po[reuse=I]") if "oracle" not in spec
]


def take(coach, steps, keep=1.0, first=0, verdicts=1.0):
    """Steps of a coach; returns the batches. A share of the rollouts comes back, or has a verdict."""
    losses, batches, number = np.random.default_rng(9), [], 1_000_000 * first
    for step in range(first, first + steps):
        stage = 0
        while (ask := coach.ask()) is not None:
            each = ask.each
            reward = rewards_of(step, stage, each)
            came = losses.random(len(each)) < keep
            reward[losses.random(len(each)) >= verdicts] = np.nan
            names = [f"{step} {stage} {q} {i}" for i, q in enumerate(each)]
            names = [name for name, here in zip(names, came, strict=True) if here]
            coach.tell(reward[came], names, prompts=None if keep == 1 else each[came])
            stage += 1
        batches.append(coach.batch())
    assert number is not None
    return batches


@pytest.mark.parametrize("spec", REGISTERED)
def test_a_step_of_the_coach_is_a_step_of_the_loop(spec):
    """The same prompts, counts, groups and bill; again after saving and restoring in the middle."""
    twin = Twin(spec)
    driven = begin(twin, allocators.create(spec))
    for _ in range(20):
        run_step(twin, driven)
    coach = Coach(spec, **SIZES, features=FEATURES)
    batches = take(coach, 10)
    other = Coach(spec, **SIZES, features=FEATURES)
    other.load_state_dict(coach.state_dict())
    resumed = take(other, 10, first=10)
    went_on = take(coach, 10, first=10)
    for mine, again in zip(went_on, resumed, strict=True):
        assert mine.rollouts == again.rollouts
        np.testing.assert_array_equal(mine.advantages, again.advantages)
    assert coach.bill() == other.bill()
    for batch, groups in zip(batches + went_on, twin.updates, strict=True):
        kept = np.bincount(batch.group[~batch.reused], minlength=groups.prompts.shape[1])
        np.testing.assert_array_equal(kept, groups.counts[0])
        good = np.bincount(batch.group[~batch.reused], batch.rewards[~batch.reused], groups.prompts.shape[1])
        np.testing.assert_array_equal(good, groups.successes[0])
        assert batch.members == groups.sizes[0][groups.prompts[0] >= 0].sum()
        assert [int(name.split()[2]) for name in batch.rollouts] == batch.prompts.tolist()
        assert len(set(batch.rollouts)) == len(batch)
    for name in ("generated", "trained", "held", "stages", "prompts"):
        assert coach.bill()[name] == getattr(twin.ledger, name)[0], name
    assert coach.bill()["generated"] > 0


@pytest.mark.parametrize("spec", REGISTERED)
def test_a_tenth_of_the_rollouts_does_not_come(spec):
    coach = Coach(spec, **SIZES, features=FEATURES)
    batches = take(coach, 20, keep=0.9)
    bill = coach.bill()
    assert bill["undelivered"] > 0
    assert bill["generated"] > 0
    assert any(len(batch) for batch in batches)


@pytest.mark.parametrize("spec", REGISTERED)
@pytest.mark.parametrize("no_verdict", ["drop", "zero", "mask"])
def test_a_tenth_of_the_rollouts_has_no_verdict(spec, no_verdict):
    """They are paid for; dropped ones are in no group, zeros are failures, masked ones have no gradient."""
    coach = Coach(spec, **SIZES, features=FEATURES, no_verdict=no_verdict)
    batches = take(coach, 20, verdicts=0.9)
    bill = coach.bill()
    assert bill["unverified"] > 0
    assert bill.get("discarded/lost", 0) == (bill["unverified"] if no_verdict == "drop" else 0)
    masked = sum(int(np.isnan(batch.rewards).sum()) for batch in batches)
    assert (masked > 0) == (no_verdict == "mask")
    for batch in batches:
        assert (batch.advantages[np.isnan(batch.rewards)] == 0).all()
    if allocators.create(spec).hard_budget:
        assert bill["generated"] <= 20 * ROLLOUTS


RULES = [Reinforce(), DrGRPO(), RLOO(), GRPO(), GRPO(ddof=0, eps=0.1)]


@settings(max_examples=60)
@given(st.sampled_from(RULES), st.integers(0, 20), st.integers(0, 20))
def test_of_rewards_is_the_rule_on_zeros_and_ones(rule, failures, successes):
    assume(failures + successes >= rule.minimum)
    counts = np.array([[failures, successes], [1, 1]], float)
    plus, minus = rule.advantages(counts.sum(axis=1), counts[:, 1])
    found = rule.of_rewards(np.array([0.0, 1.0]), counts)
    np.testing.assert_allclose(found, np.stack([minus, plus], axis=1), atol=1e-12)


@settings(max_examples=60)
@given(st.sampled_from(RULES), st.lists(st.integers(0, 4), min_size=2, max_size=12))
def test_of_rewards_takes_counts(rule, levels):
    """Equal rewards may stand once, with their number, or one by one; a reward that none has is no member."""
    rewards = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    one_by_one = rule.of_rewards(rewards[levels], np.ones(len(levels)))
    counted = rule.of_rewards(rewards, np.bincount(levels, minlength=5).astype(float))
    np.testing.assert_allclose(counted[levels], one_by_one, atol=1e-12)


@settings(max_examples=60)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12))
def test_of_rewards_as_published(rewards):
    r = np.array(rewards)
    one = np.ones(len(r))
    np.testing.assert_array_equal(Reinforce().of_rewards(r, one), r)
    np.testing.assert_allclose(DrGRPO().of_rewards(r, one), r - r.mean())
    others = [np.delete(r, i).mean() for i in range(len(r))]
    np.testing.assert_allclose(RLOO().of_rewards(r, one), r - others, atol=1e-12)
    expected = (r - r.mean()) / (r.std(ddof=1) + 1e-6) if np.ptp(r) else 0 * r
    np.testing.assert_allclose(GRPO().of_rewards(r, one), expected, atol=1e-9)


def test_an_estimator_without_a_rule_for_other_rewards_says_so():
    class Signs(Estimator):
        minimum = 1

        def advantages(self, n, k):
            return np.ones(np.shape(n)), -np.ones(np.shape(n))

    assert Signs().of_rewards(np.array([1.0, 0.0]), np.ones(2)).tolist() == [1, -1]
    with pytest.raises(InputError, match="Signs has a rule for rewards of 0 and 1 only, not for 0.5"):
        Signs().of_rewards(np.array([1.0, 0.5]), np.ones(2))


class Fixed(Allocator):
    """Asks for four rollouts of two prompts, and returns the groups that a test made of them."""

    reusable = 2

    def __init__(self, groups=Groups.all_of):
        self.make = groups

    def plan(self, stream, budget):
        prompts = stream.draw(2)
        outcomes = yield Request(prompts, np.full((1, 2), 4))
        return self.make(outcomes)


def fixed(groups=Groups.all_of, **how):
    return Coach(Fixed(groups), prompts=2, rollouts=8, pool_size=2, **how)


def test_float_rewards_reach_the_estimator_and_successes_the_allocator():
    coach = fixed(estimator="dr_grpo", threshold=0.6)
    first, second = coach.ask().prompts
    rewards = [0.5, 0.9, 1.0, 0.0, 0.7, 0.1, 0.2, 0.2]
    coach.tell(rewards, list("abcdefgh"))
    batch = coach.batch()
    assert batch.rollouts == list("abcdefgh")
    assert batch.prompts.tolist() == [first] * 4 + [second] * 4
    np.testing.assert_allclose(batch.advantages, np.array(rewards) - [*[0.6] * 4, *[0.3] * 4])
    assert coach.ledger.solved.all()
    coach.ask()
    coach.tell(rewards, list("abcdefgh"), success=[0] * 4 + [1] * 4)
    assert coach.ledger.step_outcomes[0].successes.tolist() == [[0, 4]]


def test_a_masked_rollout_counts_in_the_mean_alone():
    coach = fixed(estimator="dr_grpo", no_verdict="mask")
    coach.ask()
    coach.tell([1, np.nan, 1, 0, 1, 1, 1, 1], range(8))
    batch = coach.batch()
    np.testing.assert_allclose(batch.advantages[:4], [0.5, 0, 0.5, -0.5])
    assert coach.unverified == 1


def test_option_two_enters_the_mean_alone():
    def again(outcomes):
        groups = Groups.all_of(outcomes)
        if not groups.failures.any():
            return groups
        keep = Groups(groups.prompts, groups.successes, groups.failures - 1, groups.weights)
        reused = Reuse(np.ones((1, 2), int), np.ones((1, 2), int), "II")
        given_up = {"unselected": np.array([2])}
        return Groups(
            *[getattr(keep, n) for n in ("prompts", "successes", "failures", "weights")],
            None,
            reused,
            given_up,
        )

    coach = fixed(again, estimator="dr_grpo")
    coach.ask()
    coach.tell([1] * 8, range(8))
    coach.batch()
    coach.ask()
    coach.tell([0.25] * 4 + [0] * 4, range(8, 16))
    batch = coach.batch()
    assert sorted(batch.rollouts) == [8, 9, 10, 12, 13, 14]
    np.testing.assert_allclose(batch.advantages, [0.25 - 1.75 / 4] * 3 + [-0.25] * 3)
    assert (batch.size == 4).all()
    assert not batch.reused.any()


def test_shares():
    def weighted(outcomes):
        return Groups.all_of(outcomes, np.array([[1.0, 3.0]]))

    coach = fixed(weighted)
    ask = coach.ask()
    coach.tell([1, 0, 1, 1, 0], range(5), prompts=[*[ask.prompts[0]] * 1, *[ask.prompts[1]] * 4])
    batch = coach.batch()
    np.testing.assert_allclose(batch.shares("rollout"), np.array([1, 3, 3, 3, 3]) / 5)
    np.testing.assert_allclose(batch.shares("prompt"), np.array([1, 3 / 4, 3 / 4, 3 / 4, 3 / 4]) / 2)
    np.testing.assert_allclose(batch.shares("token", [2, 3, 1, 1, 3]), np.array([1, 3, 3, 3, 3]) / 10)
    with pytest.raises(InputError, match="aggregation=token: give the lengths"):
        batch.shares("token")


def test_saved_and_restored_from_a_file(tmp_path):
    spec = "dapo[carry=true]"
    coach = Coach(spec, **SIZES, fingerprint="mine")
    take(coach, 5)
    assert coach.holding()
    path = tmp_path / "coach.safetensors"
    coach.save(path)
    again = Coach(spec, **SIZES, fingerprint="mine")
    again.restore(path)
    assert again.holding() == coach.holding()
    for mine, other in zip(take(coach, 5, first=5), take(again, 5, first=5), strict=True):
        assert mine.rollouts == other.rollouts
    for change in ({"fingerprint": "other"}, {"seed": 1}, {"rollouts": 32}, {"estimator": "rloo"}):
        (name,) = change
        with pytest.raises(InputError, match=f"{name}=.*: what was saved has {name}="):
            Coach(spec, **{**SIZES, "fingerprint": "mine", **change}).restore(path)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="is no checkpoint"):
        again.restore(path)


def test_what_cannot_be_written_is_refused(tmp_path):
    coach = Coach("dapo[carry=true,oversample=3]", prompts=2, rollouts=16, pool_size=POOL)
    while (ask := coach.ask()) is not None:
        coach.tell(np.tile([0, 1], len(ask.each))[: len(ask.each)], [object() for _ in ask.each])
    coach.batch()
    with pytest.raises(InputError, match="a rollout of type object cannot be saved"):
        coach.save(tmp_path / "coach.safetensors")
    assert not list(tmp_path.iterdir())
    coach.ask()
    with pytest.raises(InputError, match="a step is under way"):
        coach.state_dict()


def test_what_is_told_must_fit_what_was_asked():
    coach = fixed()
    ask = coach.ask()
    assert json.dumps(ask.each.tolist()) == json.dumps(coach.ask().each.tolist())
    wrong = [
        (([1] * 7, range(7)), {}, "7 rewards, where 8 rollouts were asked for"),
        (([1] * 8, range(7)), {}, "7 rollouts for 8 rewards"),
        (([1] * 8, range(8)), {"success": [1]}, "1 values of success for 8 rewards"),
        (([np.inf] * 8, range(8)), {}, "rewards have inf"),
        (([1], [0]), {"prompts": [7]}, "1 rollouts of prompt 7, of which 0 were asked for"),
        (([1] * 5, range(5)), {"prompts": [ask.prompts[0]] * 5}, "5 rollouts of prompt ., of which 4"),
    ]
    for told, how, said in wrong:
        with pytest.raises(InputError, match=said):
            coach.tell(*told, **how)
    with pytest.raises(InputError, match="rollouts are missing"):
        coach.batch()
    assert coach.bill()["generated"] == 0
    coach.tell([1] * 8, range(8))
    with pytest.raises(InputError, match="nothing was asked for"):
        coach.tell([1] * 8, range(8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aggregation": "tokens"}, "aggregation=tokens: one of prompt, rollout, token"),
        ({"no_verdict": "ignore"}, "no_verdict=ignore: one of drop, zero, mask"),
        ({"pool_size": 0}, "pool_size=0"),
        ({"rollouts": 4}, "rollouts=4"),
        ({"features": np.zeros((3, 2))}, r"features of shape \(3, 2\)"),
        ({"allocator": "vipp"}, "did you mean vip"),
        ({"allocator": "vip"}, r"needs a feature vector for each prompt.*predictor=beta"),
        ({"estimator": "grop"}, "did you mean grpo"),
    ],
)
def test_wrong_input(change, said):
    with pytest.raises(InputError, match=said):
        Coach(**{"allocator": "uniform", **SIZES, **change})


def test_a_broken_allocator_is_named():
    def doubled(outcomes):
        groups = Groups.all_of(outcomes)
        return Groups(groups.prompts, 2 * groups.successes + 1, groups.failures, groups.weights)

    coach = fixed(doubled)
    coach.ask()
    with pytest.raises(ProtocolError, match="allocator Fixed keeps"):
        coach.tell([1] * 8, range(8))


def test_holding_frees_what_was_given_up():
    """Of what a buffer no longer holds nothing is kept, though the ledger cannot know which that was."""
    coach = Coach("pilot_commit", **SIZES)
    for _ in range(12):
        take(coach, 1, first=coach.step)
        held = coach._allocator.holding()
        assert len(coach.holding()) == int(held.counts[held.prompts >= 0].sum())
        assert len(coach.holding()) == coach.bill()["held"]
    assert isinstance(allocators.create("dapo"), DAPO)
    assert Coach("uniform", **SIZES).holding() == []


def test_the_estimator_is_asked_for_each_group():
    """Groups of one are below the minimum of most rules, and worth nothing."""
    coach = fixed(estimator="rloo")
    ask = coach.ask()
    coach.tell([1.0, 0, 1, 1], range(4), prompts=[ask.prompts[0], *[ask.prompts[1]] * 3])
    batch = coach.batch()
    assert batch.advantages.tolist() == [0, -1, 0.5, 0.5]
    assert estimators.create("rloo").minimum == 2


@pytest.mark.parametrize("spec", ["uniform", "vip", "ar3po[reuse=I]", "ar3po"])
def test_a_batch_is_valued_anew_where_rewards_become_known_late(spec):
    """With other rewards the advantages are those of a coach that was told them; groups stay as they are."""
    coach = Coach(spec, **SIZES, features=FEATURES)
    with pytest.raises(InputError, match="there was no batch yet"):
        coach.revalue([])
    for step in range(6):
        stage = 0
        while (ask := coach.ask()) is not None:
            coach.tell(rewards_of(step, stage, ask.each), list(range(len(ask.each))))
            stage += 1
        batch = coach.batch()
        np.testing.assert_array_equal(coach.revalue(batch.rewards), batch.advantages)
        late = batch.rewards - np.random.default_rng(step).random(len(batch))
        found = coach.revalue(late)
        for group in np.unique(batch.group):
            rows = batch.group == group
            if batch.option != "II" and rows.sum() > 1:
                expected = GRPO().of_rewards(late[rows], np.ones(rows.sum()))
                np.testing.assert_allclose(found[rows], expected, atol=1e-12)
