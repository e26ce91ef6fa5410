"""The contract between allocators, predictors, estimators and environments.

An allocator is a generator: it yields `Request`s for rollouts, is sent their `Outcomes`, and returns
the `Groups` to train on. It never learns whether the rollouts come from a simulator or from a
language model. All arrays are `(R, B)`: R independent replicates side by side, B prompts. Prompts are
ids 0..Q-1 of a pool; -1 marks a place where a replicate has no prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rolloutbench.errors import InputError as InputError
from rolloutbench.errors import ProtocolError as ProtocolError

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
FeatureArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""Array of floating-point numbers in single or double precision."""
State: TypeAlias = dict[str, Any]

Aggregation: TypeAlias = Literal["prompt", "rollout"]
"""`prompt`: mean over prompts of group means. `rollout`: mean over all rollouts, so prompts weigh as n."""
TrainerAggregation: TypeAlias = Aggregation | Literal["token"]
"""How trainers average. `token` is the mean over all trained tokens: prompts weigh as their tokens."""


MOST_ROLLOUTS = 1_000_000
"""Most rollouts of one prompt in one step: beyond any use, and far below where sums of counts overflow."""


MOST_STAGES = 1000
"""Requests of one plan in one step: who asks for more has no end. The longest of the built-in methods ask for
50."""

MOST_EMPTY_STAGES = 100
"""Requests of one plan in a row that ask for no rollout at all: who makes more of them has no end."""


@dataclass(frozen=True)
class Provenance:
    """Where a method comes from, and what its implementation here was held against.

    `paper` is an arXiv id, "2507.04632". `code` is "owner/name@commit", with seven digits of the commit, or
    "" where its authors released none; `file` names the files read there. `licence` is that of the code, ""
    where it states none. `note` says in a sentence what is different here on purpose.
    """

    paper: str = ""
    code: str = ""
    file: str = ""
    licence: str = ""
    note: str = ""


@dataclass(frozen=True)
class Budget:
    """What one training step may cost: `prompts` B groups and `rollouts` C generated rollouts.

    Raises InputError where either number is out of range.
    """

    prompts: int
    rollouts: int

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise InputError(f"prompts={self.prompts}: a step needs at least 1 prompt")
        if self.rollouts < self.prompts:
            raise InputError(
                f"rollouts={self.rollouts}: a step over {self.prompts} prompts needs at least as many"
            )

    @property
    def group_size(self) -> float:
        """Mean number of rollouts for each prompt of a step."""
        return self.rollouts / self.prompts


@dataclass(frozen=True)
class Request:
    """A request for rollouts: `counts` (R, B) of `prompts` (R, B) are to be sampled; 0 asks for none."""

    prompts: IntArray
    counts: IntArray


NoVerdict: TypeAlias = Literal["drop", "zero", "mask"]
"""What becomes of a rollout that was paid for and has no verdict, where trainers differ. `drop`: it is in no
group. `zero`: it counts as a failure. `mask`: it counts as a failure in the group's mean and standard
deviation, but has no gradient of its own.
"""


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of rollouts: `successes` (R, B) among `counts` (R, B) rollouts of `prompts` (R, B).

    `lost` (R, B) are further rollouts that were paid for and have no verdict: they came too late, broke off,
    or the verifier failed. They are in no group. None where every rollout has a verdict.
    """

    prompts: IntArray
    counts: IntArray
    successes: IntArray
    lost: IntArray | None = None

    @classmethod
    def none(cls, prompts: IntArray) -> Outcomes:
        """The outcomes of no rollouts at all: `prompts` (R, B) with counts and successes of 0."""
        return cls(prompts, np.zeros_like(prompts), np.zeros_like(prompts))

    @property
    def generated(self) -> IntArray:
        """Everything that was paid for (R, B): rollouts with a verdict, and the lost ones."""
        return self.counts if self.lost is None else self.counts + self.lost

    def __getitem__(self, part: tuple[slice, slice]) -> Outcomes:
        """The outcomes of some replicates and columns: `outcomes[rows, columns]`."""
        lost = None if self.lost is None else self.lost[part]
        return Outcomes(self.prompts[part], self.counts[part], self.successes[part], lost)

    def __add__(self, other: Outcomes) -> Outcomes:
        """Sum two stages of the same prompts."""
        if not np.array_equal(self.prompts, other.prompts):
            raise ValueError("outcomes of different prompts cannot be added; see Outcomes.merged")
        parts = [part.lost for part in (self, other) if part.lost is not None]
        lost = sum(parts[1:], start=parts[0]) if parts else None
        return Outcomes(self.prompts, self.counts + other.counts, self.successes + other.successes, lost)

    @classmethod
    def merged(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """All stages of a step as one, each prompt of a replicate once, in order of prompt id.

        Stages that asked for the same prompts are summed in place and keep their order.
        """
        first = parts[0]
        if all(np.array_equal(part.prompts, first.prompts) for part in parts[1:]):
            ordered = np.sort(first.prompts, axis=1)
            if not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
                return sum(parts[1:], start=first)
        prompts = np.concatenate([part.prompts for part in parts], axis=1)
        counts = np.concatenate([part.counts for part in parts], axis=1)
        successes = np.concatenate([part.successes for part in parts], axis=1)
        lost = np.concatenate([part.generated - part.counts for part in parts], axis=1)
        rows, columns = np.nonzero(prompts >= 0)
        width = int(prompts.max(initial=0)) + 1
        keys, inverse = np.unique(rows * width + prompts[rows, columns], return_inverse=True)
        key_rows = keys // width
        starts = np.searchsorted(key_rows, np.arange(len(prompts)))
        places = np.arange(len(keys)) - starts[key_rows]
        shape = (len(prompts), int(places.max(initial=-1)) + 1)
        sums = np.zeros((3, *shape), dtype=np.int64)
        for total, values in zip(sums, (counts, successes, lost), strict=True):
            np.add.at(total, (rows, places[inverse]), values[rows, columns])
        merged_prompts = np.full(shape, -1)
        merged_prompts[key_rows, places] = keys % width
        return cls(merged_prompts, sums[0], sums[1], sums[2] if lost.any() else None)


ReuseOption: TypeAlias = Literal["replay", "I", "II"]
"""How a stored success enters a later update (AR3PO). `replay` weighs it with the importance ratio to the
policy that generated it. `I` recomputes its probabilities under the current policy, so that the ratio is
1. `II` lets it enter the group's mean and standard deviation only, without a gradient of its own.
"""


@dataclass(frozen=True)
class Reuse:
    """Stored successes that join groups: `counts` (R, B), generated `age` (R, B) steps ago, by `option`."""

    counts: IntArray
    age: IntArray
    option: ReuseOption


@dataclass(frozen=True)
class Groups:
    """What to train on: kept `successes` and `failures` (R, B) of `prompts` (R, B).

    `weights` (R, B) multiply a prompt's gradient. `baseline` (R, B), where it is not NaN, replaces the
    estimator's own centring: successes get 1 - baseline and failures -baseline. A row with a prompt
    counts in the mean over prompts even when nothing of it is kept; to leave it out, make its prompt -1.
    `reused` adds stored successes to the groups. `discarded` names rollouts (R,) that were given up in
    this step and will never be trained on: pilots of prompts not taken, a surplus, expired entries.
    """

    prompts: IntArray
    successes: IntArray
    failures: IntArray
    weights: FloatArray
    baseline: FloatArray | None = None
    reused: Reuse | None = None
    discarded: Mapping[str, IntArray] = field(default_factory=dict)

    @classmethod
    def all_of(cls, outcomes: Outcomes, weights: FloatArray | None = None) -> Groups:
        """Every rollout, each prompt with weight 1 or the one given."""
        if weights is None:
            weights = np.ones(outcomes.prompts.shape)
        return cls(outcomes.prompts, outcomes.successes, outcomes.counts - outcomes.successes, weights)

    @property
    def counts(self) -> IntArray:
        """Trained rollouts of this step or held from earlier ones (R, B); not the reused."""
        return self.successes + self.failures

    @property
    def sizes(self) -> IntArray:
        """Members of each group, the reused among them (R, B)."""
        return self.counts if self.reused is None else self.counts + self.reused.counts


@dataclass(frozen=True)
class Belief:
    """What a predictor thinks of success probabilities: `mean` and `variance`, both (R, B)."""

    mean: FloatArray
    variance: FloatArray


class PromptStream:
    """Prompts in shuffled epochs, for R replicates; the same seed gives the same order to everyone.

    The order of a replicate's epoch depends only on the seed sequence, the epoch and the replicate, never
    on who draws how much. As in
    the data loaders of RLVR trainers, an epoch whose rest cannot fill a draw ends early. `epoch` (R,)
    counts from 0; `drawn` (R, Q) says which prompts were ever drawn.
    """

    def __init__(self, pool_size: int, replicates: int, seed: np.random.SeedSequence) -> None:
        self.pool_size = pool_size
        self.replicates = replicates
        self.epoch = np.full(replicates, -1, dtype=np.int64)
        self.drawn = np.zeros((replicates, pool_size), dtype=bool)
        self._seed = seed
        self._retired = np.zeros((replicates, pool_size), dtype=bool)
        self._order = np.full((replicates, pool_size), -1, dtype=np.int64)
        self._place = np.full((replicates, pool_size), -1, dtype=np.int64)
        self._stale = False  # whether `_place`, needed only by `retire`, has fallen behind `_order`
        self._position = np.zeros(replicates, dtype=np.int64)
        self._length = np.zeros(replicates, dtype=np.int64)

    def draw(self, count: int, where: BoolArray | None = None) -> IntArray:
        """Draw the next `count` prompts of each replicate, (R, count).

        Replicates outside `where` (R,) draw nothing and get -1. So do the last places of a replicate
        that has fewer than `count` prompts left in its pool.
        """
        drawing = np.ones(self.replicates, dtype=bool) if where is None else where
        ended = drawing & (self._position + count > self._length)
        if ended.any():
            self._start_epoch(ended)
        places = self._position[:, None] + np.arange(count)
        if where is None and (self._position + count <= self._length).all():
            offset = self.pool_size * np.arange(self.replicates)[:, None]
            found = self._order.take(places + offset)
            self._position += count
            self.drawn.ravel()[found + offset] = True
            return found
        inside = drawing[:, None] & (places < self._length[:, None])
        prompts = np.take_along_axis(self._order, np.where(inside, places, 0), axis=1)
        self._position += np.where(drawing, count, 0)
        rows, columns = np.nonzero(inside)
        self.drawn[rows, prompts[rows, columns]] = True
        return np.where(inside, prompts, -1)

    def retire(self, prompts: IntArray) -> None:
        """Never draw these prompts (R, n) again; -1 is passed over."""
        rows, columns = np.nonzero(prompts >= 0)
        retired = rows, prompts[rows, columns]
        self._retired[retired] = True
        if self._stale:
            np.put_along_axis(self._place, self._order, np.arange(self.pool_size)[None], axis=1)
            self._stale = False
        ahead = self._place[retired] >= self._position[rows]  # most were drawn before they are retired
        here = np.zeros(self.replicates, dtype=bool)
        here[rows[ahead]] = True
        if here.any():
            places = np.arange(self.pool_size)
            left = (places >= self._position[here, None]) & (places < self._length[here, None])
            left &= ~np.take_along_axis(self._retired[here], self._order[here], axis=1)
            self._compact(left, here)

    def state_dict(self) -> State:
        """Everything that a resumed run needs to draw the same prompts, as arrays."""
        return {
            "epoch": self.epoch.copy(),
            "drawn": self.drawn.copy(),
            "retired": self._retired.copy(),
            "order": self._order.copy(),
            "position": self._position.copy(),
            "length": self._length.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken."""
        self.epoch = state["epoch"].copy()
        self.drawn = state["drawn"].copy()
        self._retired = state["retired"].copy()
        self._order = state["order"].copy()
        self._position = state["position"].copy()
        self._length = state["length"].copy()
        self._stale = True

    def shuffled(self, epoch: int, replicate: int) -> IntArray:
        """All prompts in the order (Q,) of an epoch of a replicate, which depends on nothing else."""
        key = (*self._seed.spawn_key, epoch, replicate)
        seed = np.random.SeedSequence(self._seed.entropy, spawn_key=key)
        return np.random.default_rng(seed).permutation(self.pool_size)

    def _start_epoch(self, rows: BoolArray) -> None:
        self.epoch[rows] += 1
        for r in np.flatnonzero(rows):  # few at a time, and rarely: epochs turn when they end
            self._order[r] = self.shuffled(int(self.epoch[r]), int(r))
        if self._retired.any():
            self._compact(~np.take_along_axis(self._retired[rows], self._order[rows], axis=1), rows)
        else:
            self._length[rows], self._position[rows], self._stale = self.pool_size, 0, True

    def _compact(self, keep: BoolArray, rows: BoolArray) -> None:
        """Move the kept prompts of each row to its front, in their order, and start there."""
        order = self._order[rows]
        if not keep.all():
            kept = np.cumsum(keep, axis=1)
            to = np.where(keep, kept - 1, kept[:, -1:] + np.arange(self.pool_size) - kept)
            np.put_along_axis(order, np.asarray(to, dtype=np.int64), order.copy(), axis=1)
        self._order[rows], self._stale = order, True
        self._length[rows] = keep.sum(axis=1)
        self._position[rows] = 0


class Estimator(ABC):
    """The advantage rule: what a success and a failure are worth in a group of n with k successes."""

    minimum: ClassVar[int]
    """The smallest n at which the rule is defined; a smaller group contributes nothing."""
    provenance: ClassVar[Provenance | None] = None
    """Paper and code that the rule was held against; None where it is nobody's but one's own."""

    @abstractmethod
    def advantages(self, n: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advantages of successes and of failures, shaped as `n` and `k` broadcast; n >= minimum."""

    def of_rewards(self, rewards: FloatArray, counts: FloatArray) -> FloatArray:
        """Advantages (..., L) of any `rewards` (L,), in groups that have `counts` (..., L) members with each.

        Groups have `minimum` members or more. On rewards of 0 and 1 this is `advantages`, which is all that
        an estimator needs to have: for other rewards those without a rule of their own raise InputError.
        """
        other = ~np.isin(rewards, (0.0, 1.0))
        if other.any():
            raise InputError(
                f"estimator {type(self).__name__} has a rule for rewards of 0 and 1 only, not for "
                f"{rewards[other][0]:g}: give it a method of_rewards"
            )
        plus, minus = self.advantages(counts.sum(axis=-1), (counts * rewards).sum(axis=-1))
        return np.where(rewards > 0, plus[..., None], minus[..., None])


@dataclass(frozen=True)
class Setting:
    """What an allocator or predictor may know of the place it runs in.

    `features` is (R, Q, d), one vector for each prompt of the pool, or None. `success_probability`
    maps prompts (R, B) to their true p (R, B); only `oracle` predictors may call it, and real runs
    have None.
    """

    budget: Budget
    estimator: Estimator
    aggregation: Aggregation
    replicates: int
    pool_size: int
    rng: np.random.Generator
    features: FeatureArray | None = None
    success_probability: Callable[[IntArray], FloatArray] | None = None

    def split(self) -> list[Setting]:
        """Settings of one replicate each, for allocators that are not vectorised."""
        return [
            replace(
                self,
                replicates=1,
                rng=rng,
                features=None if self.features is None else self.features[r : r + 1],
                success_probability=self._success_probability_of(r),
            )
            for r, rng in enumerate(self.rng.spawn(self.replicates))
        ]

    def _success_probability_of(self, replicate: int) -> Callable[[IntArray], FloatArray] | None:
        whole = self.success_probability
        if whole is None:
            return None

        def of_one(prompts: IntArray) -> FloatArray:
            everyone = np.broadcast_to(prompts, (self.replicates, prompts.shape[1]))
            return whole(everyone)[replicate : replicate + 1]

        return of_one


class Predictor(ABC):
    """A belief about the success probability of every prompt, learned from outcomes."""

    knows_truth: ClassVar[bool] = False
    """True: it is told the true success probabilities, so it is an upper bound and no method."""
    provenance: ClassVar[Provenance | None] = None
    """Paper and code that the predictor was held against; None where it is nobody's but one's own."""

    def begin(self, setting: Setting) -> None:
        """Start afresh in this setting. Called once, before anything else."""
        self.setting = setting

    @abstractmethod
    def predict(self, prompts: IntArray) -> Belief:
        """Belief (R, B) about prompts (R, B). Where the prompt is -1 the value means nothing."""

    def update(self, outcomes: Outcomes) -> None:  # noqa: B027 - a predictor may have nothing to learn
        """Learn from one step's outcomes, each prompt at most once in a replicate."""

    def state_dict(self) -> State:
        """Everything that was learned, as arrays."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Continue where `state_dict` was taken; `begin` was called before."""


Plan: TypeAlias = Generator[Request, Outcomes, Groups]


class Allocator(ABC):
    """Decides, for one training step, which prompts get how many rollouts and what is trained on."""

    hard_budget: ClassVar[bool] = True
    """Whether a step never generates more than `budget.rollouts`. The loop holds the allocator to this."""
    vectorised: ClassVar[bool] = True
    """Whether one object serves R replicates; if not, the loop makes a copy for each, which sees R = 1."""
    one_shot: ClassVar[bool] = False
    """Whether counts and weights are fixed before the step's rewards, and every rollout is trained on."""
    staged: ClassVar[bool] = False
    """Whether a step may ask for rollouts more than once, having seen the rewards of what it asked before."""
    chooses_prompts: ClassVar[bool] = False
    """Whether a step may train on other prompts than the next `budget.prompts` of the stream, or on fewer."""
    unbiased: ClassVar[bool] = False
    """Whether the expected gradient of a step is that of equal groups (`rloo`, mean over prompts).
    It is where counts do not depend on the step's rewards and no prompt gets fewer than 2.
    """
    discards: ClassVar[tuple[str, ...]] = ()
    """Names under which `Groups.discarded` bills rollouts that are generated and never trained on."""
    goal: ClassVar[str] = ""
    """What its counts or choices are to achieve, in a few words for a table: "least gradient variance"."""
    provenance: ClassVar[Provenance | None] = None
    """Paper and code that the method was held against; None where it is nobody's but one's own."""
    control: ClassVar[bool] = False
    """Whether nobody proposes to use it: it only shows what a part of other methods does."""
    variants: ClassVar[tuple[str, ...]] = ("",)
    """Parameters with which `--allocators all` runs it, one text a spec: "" is the name alone."""
    knows_truth: ClassVar[bool] = False
    """Whether it calls `setting.success_probability` itself, so that it is an upper bound and no method."""

    @property
    def reusable(self) -> int:
        """How many of a prompt's newest successes the allocator may reuse. A real run keeps so many."""
        return 0

    def begin(self, setting: Setting) -> None:
        """Start afresh in this setting. Called once, before the first step."""
        self.setting = setting

    @abstractmethod
    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Plan one training step: a generator that yields Requests, is sent Outcomes, and returns Groups.

        An environment may deliver fewer rollouts than were asked for: what came is in `Outcomes.counts`.
        The loop raises ProtocolError for a step that has not ended after `MOST_STAGES` requests, or after
        `MOST_EMPTY_STAGES` in a row that ask for no rollout.
        """

    def holding(self) -> Outcomes | None:
        """Rollouts (R, W) of earlier steps that a later one may still train on, asked between two steps.

        Whoever keeps the responses can free all others. None: all that no update has used, unless given up.
        """
        return None

    def observe(self, outcomes: Outcomes) -> None:  # noqa: B027 - most allocators learn nothing
        """Learn from rollouts: this step's, after it ended, or earlier ones made by somebody else."""

    def state_dict(self) -> State:
        """Everything that is remembered between steps, as arrays keyed by prompt id."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Continue where `state_dict` was taken; `begin` was called before."""
