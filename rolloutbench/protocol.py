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

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
FeatureArray: TypeAlias = npt.NDArray[np.floating[Any]]
"""Single or double precision."""
State: TypeAlias = dict[str, Any]

Aggregation: TypeAlias = Literal["prompt", "rollout"]
"""`prompt`: mean over prompts of group means. `rollout`: mean over all rollouts, so prompts weigh as n."""


MOST_ROLLOUTS = 1_000_000
"""Of one prompt in one step: beyond any use, and far below where sums of counts would overflow."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: field, value, what is allowed."""


class ProtocolError(RuntimeError):
    """An allocator broke the contract. The message names the allocator and the rule."""


@dataclass(frozen=True)
class Budget:
    """What one training step may cost: `prompts` B groups and `rollouts` C generated rollouts."""

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
        """Rollouts per prompt."""
        return self.rollouts / self.prompts


@dataclass(frozen=True)
class Request:
    """Please sample `counts` (R, B) rollouts of `prompts` (R, B). Count 0 asks for none."""

    prompts: IntArray
    counts: IntArray


@dataclass(frozen=True)
class Outcomes:
    """What came back: `successes` (R, B) among `counts` (R, B) rollouts of `prompts` (R, B)."""

    prompts: IntArray
    counts: IntArray
    successes: IntArray

    @classmethod
    def none(cls, prompts: IntArray) -> Outcomes:
        """No rollouts yet."""
        return cls(prompts, np.zeros_like(prompts), np.zeros_like(prompts))

    def __add__(self, other: Outcomes) -> Outcomes:
        """Two stages of the same prompts, summed."""
        if not np.array_equal(self.prompts, other.prompts):
            raise ValueError("outcomes of different prompts cannot be added; see Outcomes.merged")
        return Outcomes(self.prompts, self.counts + other.counts, self.successes + other.successes)

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
        rows, columns = np.nonzero(prompts >= 0)
        width = int(prompts.max(initial=0)) + 1
        keys, inverse = np.unique(rows * width + prompts[rows, columns], return_inverse=True)
        key_rows = keys // width
        starts = np.searchsorted(key_rows, np.arange(len(prompts)))
        places = np.arange(len(keys)) - starts[key_rows]
        shape = (len(prompts), int(places.max(initial=-1)) + 1)
        result = cls(np.full(shape, -1), np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        result.prompts[key_rows, places] = keys % width
        np.add.at(result.counts, (rows, places[inverse]), counts[rows, columns])
        np.add.at(result.successes, (rows, places[inverse]), successes[rows, columns])
        return result


ReuseOption: TypeAlias = Literal["replay", "I", "II"]
"""How a stored success enters a later update (AR3PO). `replay`: with the importance ratio to the policy
that generated it. `I`: its probabilities recomputed under the current policy, so the ratio is 1. `II`:
only in the group's mean and standard deviation; no gradient of its own."""


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
        """The next `count` prompts of each replicate, (R, count).

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
            self._place, self._stale = np.argsort(self._order, axis=1), False
        ahead = self._place[retired] >= self._position[rows]  # most were drawn before they are retired
        here = np.zeros(self.replicates, dtype=bool)
        here[rows[ahead]] = True
        if here.any():
            places = np.arange(self.pool_size)
            left = (places >= self._position[here, None]) & (places < self._length[here, None])
            left &= ~np.take_along_axis(self._retired[here], self._order[here], axis=1)
            self._compact(left, here)

    def state_dict(self) -> State:
        """All that a resumed run needs."""
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

    def _start_epoch(self, rows: BoolArray) -> None:
        self.epoch[rows] += 1
        for r in np.flatnonzero(rows):  # few at a time, and rarely: epochs turn when they end
            key = (*self._seed.spawn_key, int(self.epoch[r]), int(r))
            seed = np.random.SeedSequence(self._seed.entropy, spawn_key=key)
            self._order[r] = np.random.default_rng(seed).permutation(self.pool_size)
        if self._retired.any():
            self._compact(~np.take_along_axis(self._retired[rows], self._order[rows], axis=1), rows)
        else:
            self._length[rows], self._position[rows], self._stale = self.pool_size, 0, True

    def _compact(self, keep: BoolArray, rows: BoolArray) -> None:
        """Move the kept prompts of each row to its front, in their order, and start there."""
        order = self._order[rows]
        if not keep.all():
            order = np.take_along_axis(order, np.argsort(~keep, axis=1, kind="stable"), axis=1)
        self._order[rows], self._stale = order, True
        self._length[rows] = keep.sum(axis=1)
        self._position[rows] = 0


class Estimator(ABC):
    """The advantage rule: what a success and a failure are worth in a group of n with k successes."""

    minimum: ClassVar[int]
    """The smallest n at which the rule is defined; a smaller group contributes nothing."""

    @abstractmethod
    def advantages(self, n: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Advantages of successes and of failures, shaped as `n` and `k` broadcast; n >= minimum."""


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
        """One setting for each replicate, for allocators that are not vectorised."""
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

    def begin(self, setting: Setting) -> None:
        """Start afresh in this setting. Called once, before anything else."""
        self.setting = setting

    @abstractmethod
    def predict(self, prompts: IntArray) -> Belief:
        """Belief (R, B) about prompts (R, B). Where the prompt is -1 the value means nothing."""

    def update(self, outcomes: Outcomes) -> None:  # noqa: B027 - a predictor may have nothing to learn
        """Learn from one step's outcomes, each prompt at most once in a replicate."""

    def state_dict(self) -> State:
        """All that was learned, as arrays."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Continue where `state_dict` was taken; `begin` was called before."""


Plan: TypeAlias = Generator[Request, Outcomes, Groups]


class Allocator(ABC):
    """Decides, for one training step, which prompts get how many rollouts and what is trained on."""

    hard_budget: ClassVar[bool] = True
    """Whether a step never generates more than `budget.rollouts`. The loop holds it to this."""
    vectorised: ClassVar[bool] = True
    """False: the loop makes one copy for each replicate, and each always sees R = 1."""
    one_shot: ClassVar[bool] = False
    """True: counts and weights are fixed before this step's rewards, and every rollout is trained on."""

    @property
    def reusable(self) -> int:
        """How many of a prompt's newest successes it may reuse: so many does a real run keep."""
        return 0

    def begin(self, setting: Setting) -> None:
        """Start afresh in this setting. Called once, before the first step."""
        self.setting = setting

    @abstractmethod
    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """One training step: yields Requests, is sent Outcomes, returns Groups."""

    def observe(self, outcomes: Outcomes) -> None:  # noqa: B027 - most allocators learn nothing
        """Learn from rollouts: this step's, after it ended, or earlier ones made by somebody else."""

    def state_dict(self) -> State:
        """All that is remembered between steps, as arrays keyed by prompt id."""
        return {}

    def load_state_dict(self, state: State) -> None:  # noqa: B027
        """Continue where `state_dict` was taken; `begin` was called before."""


@dataclass
class Ledger:
    """What was generated and what became of it, counted by the environment: it alone knows the bill.

    Totals (R,): `generated` rollouts, `trained` ones, `discarded` ones by name, `stages` (rounds of
    generation) and `prompts` (that got at least one rollout in a stage). `step_generated` (R,) is this
    step's, `step_outcomes` its stages. `held_successes` and `held_failures` (R, Q) are rollouts that no
    update has used yet, discarded or not; `solved` (R, Q) says which prompts ever had a success.
    """

    replicates: int
    pool_size: int
    generated: IntArray = field(init=False)
    trained: IntArray = field(init=False)
    stages: IntArray = field(init=False)
    prompts: IntArray = field(init=False)
    step_generated: IntArray = field(init=False)
    held_successes: IntArray = field(init=False)
    held_failures: IntArray = field(init=False)
    solved: BoolArray = field(init=False)
    discarded: dict[str, IntArray] = field(init=False, default_factory=dict)
    step_outcomes: list[Outcomes] = field(init=False, default_factory=list)
    _merged: Outcomes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.generated, self.trained, self.stages, self.prompts, self.step_generated = (
            np.zeros(self.replicates, dtype=np.int64) for _ in range(5)
        )
        self.held_successes, self.held_failures = (
            np.zeros((self.replicates, self.pool_size), dtype=np.int64) for _ in range(2)
        )
        self.solved = np.zeros((self.replicates, self.pool_size), dtype=bool)

    @property
    def held(self) -> IntArray:
        """Rollouts (R,) neither trained on nor given up: still in some buffer."""
        given_up = sum(self.discarded.values(), start=np.zeros_like(self.generated))
        return self.generated - self.trained - given_up

    @property
    def step_merged(self) -> Outcomes | None:
        """All that this step generated, stages merged; None where it generated nothing."""
        if self._merged is None and self.step_outcomes:
            self._merged = Outcomes.merged(self.step_outcomes)
        return self._merged

    def state_dict(self) -> State:
        """All totals, between two steps."""
        names = "generated", "trained", "stages", "prompts", "held_successes", "held_failures", "solved"
        return {name: getattr(self, name) for name in names} | {"discarded": dict(self.discarded)}

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken."""
        for name, value in state.items():
            setattr(self, name, value)

    def open_step(self) -> None:
        """A new training step begins."""
        self.step_generated = np.zeros(self.replicates, dtype=np.int64)
        self.step_outcomes, self._merged = [], None

    def record(self, outcomes: Outcomes) -> None:
        """One stage was generated."""
        spent = outcomes.counts.sum(axis=1)
        self.generated += spent
        self.step_generated += spent
        self.step_outcomes.append(outcomes)
        self._merged = None
        self.stages += spent > 0
        asked = outcomes.counts > 0
        self.prompts += asked.sum(axis=1)
        place, here = self._places(outcomes.prompts, asked)
        successes = outcomes.successes.ravel()[here]
        np.add.at(self.held_successes.ravel(), place, successes)
        np.add.at(self.held_failures.ravel(), place, outcomes.counts.ravel()[here] - successes)
        self.solved.ravel()[place[successes > 0]] = True

    def _places(self, prompts: IntArray, where: BoolArray) -> tuple[IntArray, Any]:
        """Where prompts (R, B) lie in a flattened (R, Q) array, and in (R, B) themselves."""
        place = (prompts + self.pool_size * np.arange(self.replicates)[:, None]).ravel()
        here = slice(None) if where.all() else np.flatnonzero(where)
        return place[here], here

    def use(self, groups: Groups) -> None:
        """These rollouts enter the update. Raises ValueError, changing nothing, if they are not there."""
        present = groups.prompts >= 0
        place, here = self._places(groups.prompts, present)
        if groups.reused is not None:
            unknown = (groups.reused.counts.ravel()[here] > 0) & ~self.solved.ravel()[place]
            if unknown.any():
                r, q = divmod(int(place[np.argmax(unknown)]), self.pool_size)
                raise ValueError(f"reuses a success of prompt {q} in replicate {r}, which had none")
        takings = [
            ("successes", self.held_successes.ravel(), groups.successes.ravel()[here]),
            ("failures", self.held_failures.ravel(), groups.failures.ravel()[here]),
        ]
        for _, held, taken in takings:
            np.subtract.at(held, place, taken)
        for name, held, _ in takings:
            short = np.flatnonzero(held[place] < 0)
            if len(short):
                lacking = -held[place[short[0]]]
                for _, other, taken in takings:
                    np.add.at(other, place, taken)
                r, q = divmod(int(place[short[0]]), self.pool_size)
                there = held[place[short[0]]]
                raise ValueError(
                    f"keeps {there + lacking} {name} of prompt {q} in replicate {r}, "
                    f"of which {there} were sampled"
                )
        self.trained += np.where(present, groups.counts, 0).sum(axis=1)
        for name, given_up in groups.discarded.items():
            self.discarded[name] = self.discarded.get(name, 0) + given_up
        if (self.held < 0).any():
            r = int(np.argmin(self.held))
            raise ValueError(f"gives up {-self.held[r]} rollouts more than it holds in replicate {r}")


class Environment(ABC):
    """Where rollouts come from and updates go to: a simulator or a language model in training."""

    def __init__(self, setting: Setting, stream: PromptStream) -> None:
        self.setting = setting
        self.stream = stream
        self.ledger = Ledger(setting.replicates, setting.pool_size)

    def rollout(self, request: Request) -> Outcomes:
        """Generate and verify, and write the bill."""
        outcomes = self.generate(request)
        self.ledger.record(outcomes)
        return outcomes

    @abstractmethod
    def generate(self, request: Request) -> Outcomes:
        """Sample and verify `request.counts` rollouts of each prompt."""

    @abstractmethod
    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """One policy-gradient step on `groups`; returns what was measured, each (R,) or (R, m)."""
