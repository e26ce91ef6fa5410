"""The conformance kit: the laws that every allocator and every predictor keeps, whatever its method is.

In the tests of one's own package each law is a test of pytest,

    class TestMine(AllocatorConformance):
        allocator = Mine()

and `rolloutbench check my_package:Mine` shows the same laws as a scorecard. A law that is broken raises
`BrokenLaw`, or whatever the code under test raised, with the example that broke it as a note. A law that says
nothing about this method raises `unittest.SkipTest`. pytest itself is not needed.
"""

from __future__ import annotations

import contextlib
import copy
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from rolloutbench.allocators import allocators
from rolloutbench.environment import Environment
from rolloutbench.estimators import estimators
from rolloutbench.failures import one_line, whole
from rolloutbench.loop import PerReplicate, Step, begin, run_step
from rolloutbench.predictors import predictors
from rolloutbench.protocol import (
    Allocator,
    Belief,
    Budget,
    FloatArray,
    Groups,
    InputError,
    IntArray,
    Outcomes,
    Predictor,
    PromptStream,
    Request,
    Setting,
    State,
)

REPLICATES = 3
BATCH = 4
GROUP = 8
POOL = 24
STEPS = 12
MANY = 64
"""Replicates of a law that holds only in distribution."""


class BrokenLaw(AssertionError):
    """A law does not hold; the message says what was expected and what came."""


@dataclass(frozen=True)
class World:
    """The conditions of an example: prompts with success probabilities (R, Q), and a step's budget.

    `delivered` is the chance that a rollout that was asked for comes back, `verdicts` the chance that one
    that came has a verdict; without, it is lost, and paid for. `renamed` gives every prompt
    another number, in the same order of appearance. `knows_truth`: whether the setting offers the true p.
    """

    p: FloatArray
    prompts: int = BATCH
    group_size: int = GROUP
    seed: int = 0
    delivered: float = 1.0
    verdicts: float = 1.0
    renamed: bool = False
    knows_truth: bool = True

    def __str__(self) -> str:
        replicates, pool = self.p.shape
        said = [
            f"{replicates} replicate{'s' * (replicates > 1)}",
            f"a pool of {pool}",
            f"{self.prompts} x {self.group_size} rollouts a step",
            f"p from {self.p.min():.2f} to {self.p.max():.2f}",
            f"seed {self.seed}",
        ]
        said += [f"{self.delivered:.0%} of what is asked for delivered"] * (self.delivered < 1)
        said += [f"{self.verdicts:.0%} of what came with a verdict"] * (self.verdicts < 1)
        said += ["prompts renamed"] * self.renamed
        return ", ".join(said)

    @property
    def names(self) -> IntArray:
        """The number (Q,) of the prompt that is number q where prompts are not renamed."""
        pool = self.p.shape[1]
        return np.random.default_rng(self.seed + 5).permutation(pool) if self.renamed else np.arange(pool)


def mixed_world(pool: int = POOL, replicates: int = REPLICATES, seed: int = 0, **conditions: Any) -> World:
    """Prompts of all difficulties, some nearly always solved and some nearly never."""
    p = np.random.default_rng(seed + 9).beta(0.5, 0.6, size=(replicates, pool))
    return World(p, seed=seed, **conditions)


def _hopeless() -> FloatArray:
    """Success probabilities (R, Q) of 0, of 1, and of both in turns."""
    return np.stack([np.zeros(POOL), np.ones(POOL), np.arange(POOL) % 2]).astype(np.float64)


class _Renamed(PromptStream):
    """A stream of the same prompts in the same order, whose numbers are others."""

    names: IntArray

    def shuffled(self, epoch: int, replicate: int) -> IntArray:
        return self.names[super().shuffled(epoch, replicate)]


class Coins(Environment):
    """An environment whose rewards are fixed beforehand: the j-th rollout of a prompt is the same for all.

    An update keeps the groups that it was given, in `updates`.
    """

    LENGTH = 2048

    def __init__(self, world: World) -> None:
        self.world = world
        replicates, pool = world.p.shape
        back = np.argsort(world.names)
        rng = np.random.default_rng(world.seed + 1)
        features = np.random.default_rng(world.seed + 2).standard_normal((replicates, pool, 3))
        self.p = world.p[:, back]
        self.tape = (rng.random((replicates, pool, self.LENGTH)) < world.p[..., None])[:, back].astype(int)
        self.position = np.zeros((replicates, pool), dtype=np.int64)
        self.truth_was_read = False
        self.updates: list[Groups] = []
        self.sent: list[tuple[Outcomes, Outcomes]] = []
        self._losses = np.random.default_rng(world.seed + 3)
        setting = Setting(
            Budget(world.prompts, world.prompts * world.group_size),
            estimators.create("rloo"),
            "prompt",
            replicates,
            pool,
            np.random.default_rng(world.seed + 4),
            features=features[:, back],
            success_probability=self._truth if world.knows_truth else None,
        )
        stream = _Renamed(pool, replicates, np.random.SeedSequence(world.seed))
        stream.names = world.names
        super().__init__(setting, stream)

    def _truth(self, prompts: IntArray) -> FloatArray:
        self.truth_was_read = True
        return self.p[np.arange(len(prompts))[:, None], prompts]

    def generate(self, request: Request) -> Outcomes:
        """The next rewards of each prompt's tape."""
        counts = request.counts.copy()
        if self.world.delivered < 1:
            counts = self._losses.binomial(counts, self.world.delivered)
        lost = None
        if self.world.verdicts < 1:
            lost = self._losses.binomial(counts, 1 - self.world.verdicts)
            counts = counts - lost
        successes = np.zeros_like(counts)
        for row, column in np.argwhere(counts > 0):
            prompt, count = request.prompts[row, column], counts[row, column]
            places = (self.position[row, prompt] + np.arange(count)) % self.LENGTH
            self.position[row, prompt] += count
            successes[row, column] = self.tape[row, prompt, places].sum()
        outcomes = Outcomes(request.prompts, counts, successes, lost)
        self.sent.append((outcomes, copy.deepcopy(outcomes)))
        return outcomes

    def update(self, groups: Groups) -> dict[str, FloatArray]:
        """Learn nothing: the chances stay as they are."""
        self.updates.append(groups)
        return {}


@contextlib.contextmanager
def _example(said: object) -> Iterator[None]:
    """Whatever is raised gets a note that says in which example."""
    try:
        yield
    except unittest.SkipTest:
        raise
    except Exception as error:
        error.add_note(f"example: {said}")
        raise


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise BrokenLaw(message)


def _leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, dict):
        for value in state.values():
            yield from _leaves(value)
    else:
        yield state


def _require_arrays(state: State) -> None:
    for name, value in state.items():
        for leaf in _leaves(value):
            _require(
                isinstance(leaf, np.ndarray),
                f"state_dict()['{name}'] holds {type(leaf).__name__}: only arrays can be checkpointed",
            )


def _require_unchanged(saved: State, kept: State) -> None:
    pairs = zip(_leaves(saved), _leaves(kept), strict=True)
    same = all(np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in pairs)
    _require(same, "what state_dict() returned changes with later steps: it must be a copy")


def knows_truth(thing: object) -> bool:
    """Whether an allocator or predictor, or one that it is made of, says that it reads the true p."""
    if isinstance(thing, (Allocator, Predictor)):
        return thing.knows_truth or any(map(knows_truth, vars(thing).values()))
    return False


@dataclass(frozen=True)
class _Table:
    """What was trained on in a step, in order of prompt: what two runs are compared by."""

    columns: dict[str, FloatArray]

    @classmethod
    def of(cls, groups: Groups, names: IntArray | None = None) -> _Table:
        """Outcomes with the numbers that prompts had before they were renamed."""
        prompts = groups.prompts
        if names is not None:
            prompts = np.where(prompts >= 0, np.argsort(names)[prompts], -1)
        present = prompts >= 0
        nothing = np.zeros(prompts.shape)
        columns: dict[str, Any] = {
            "prompts": prompts,
            "successes": np.where(present, groups.successes, 0),
            "failures": np.where(present, groups.failures, 0),
            "weights": np.where(present, groups.weights, 1.0),
            "baseline": np.full(prompts.shape, np.nan) if groups.baseline is None else groups.baseline,
            "reused": nothing if groups.reused is None else groups.reused.counts,
            "age": nothing if groups.reused is None else groups.reused.age,
        }
        order = np.argsort(np.where(present, prompts, np.iinfo(np.int64).max), axis=1, kind="stable")
        return cls({name: np.take_along_axis(column, order, axis=1) for name, column in columns.items()})


def _difference(left: Groups, right: Groups, names: IntArray | None = None) -> str | None:
    """In what two updates differ, as a line; None where they are the same."""
    mine, theirs = _Table.of(left).columns, _Table.of(right, names).columns
    width = max(mine["prompts"].shape[1], theirs["prompts"].shape[1])
    for name in mine:
        fill = {"prompts": -1.0, "weights": 1.0, "baseline": np.nan}.get(name, 0.0)
        a, b = (
            np.pad(column.astype(float), ((0, 0), (0, width - column.shape[1])), constant_values=fill)
            for column in (mine[name], theirs[name])
        )
        same = np.isclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
        if not same.all():
            row, column = np.argwhere(~same)[0]
            prompt = "" if name == "prompts" else f" of prompt {mine['prompts'][row, column]}"
            return f"{name}{prompt} in replicate {row}: {a[row, column]:g} and {b[row, column]:g}"
    for name in {**left.discarded, **right.discarded}:
        none = np.zeros(len(left.prompts))
        a, b = left.discarded.get(name, none), right.discarded.get(name, none)
        if not np.array_equal(a, b):
            row = int(np.argmax(a != b))
            return f"discarded '{name}' in replicate {row}: {a[row]} and {b[row]}"
    return None


class _Laws:
    """What both kits have in common: laws are methods that begin with `test_`."""

    def laws(self) -> dict[str, Callable[[], None]]:
        """All laws by name, in the order in which they are written."""
        named: dict[str, Callable[[], None]] = {}
        for kind in reversed(type(self).__mro__):
            named |= {name: getattr(self, name) for name in vars(kind) if name.startswith("test_")}
        return named


class AllocatorConformance(_Laws):
    """The laws of allocators. A subclass sets `allocator`, or overrides `make`.

    `allocator` is an object, a class that can be made without arguments, or the spec of a registered one.
    """

    allocator: ClassVar[Any]

    def make(self) -> Allocator:
        """A new allocator, before its first step."""
        given = self.allocator
        made = given() if isinstance(given, type) else allocators.create(copy.deepcopy(given))
        if not isinstance(made, Allocator):
            raise BrokenLaw(f"{type(made).__name__} is no subclass of rolloutbench.protocol.Allocator")
        return made

    def held(self, driven: Allocator) -> IntArray | None:
        """Rollouts (R,) that it keeps for later steps, by its own account; None where nobody can tell.

        Known of those that say so, and of those without state, which can keep none.
        """
        holding = driven.holding()
        if holding is not None:
            kept: IntArray = np.where(holding.prompts >= 0, holding.counts, 0).sum(axis=1)
            return kept
        stateful = any(one.state_dict() for one in getattr(driven, "copies", [driven]))
        return None if stateful else np.zeros(driven.setting.replicates, np.int64)

    # --- what laws are made of

    def _run(self, world: World, steps: int = STEPS, allocator: Allocator | None = None) -> Coins:
        place = Coins(world)
        with _example(world):
            driven = begin(place, self.make() if allocator is None else allocator)
        self._take(place, driven, steps)
        return place

    def _take(self, place: Coins, driven: Allocator, steps: int) -> None:
        for _ in range(steps):
            with _example(f"step {len(place.updates) + 1} with {place.world}"):
                self._check(place, driven, run_step(place, driven))

    def _check(self, place: Coins, driven: Allocator, step: Step) -> None:
        """What holds after every step: the account, the budget, and what is trained on."""
        ledger, groups = place.ledger, step.groups
        held = self.held(driven)
        for r in range(place.setting.replicates):
            _require(
                held is None or ledger.held[r] == held[r],
                f"replicate {r}: {ledger.held[r]} rollouts are neither trained on nor given up in "
                f"Groups.discarded, and {0 if held is None else held[r]} are kept for later steps: both must "
                "be the same",
            )
        if driven.hard_budget:
            most, allowed = int(ledger.step_generated.max()), place.setting.budget.rollouts
            _require(most <= allowed, f"generates {most} rollouts, where {allowed} are allowed")
        rows, columns = np.nonzero(groups.prompts >= 0)
        drawn = place.stream.drawn[rows, groups.prompts[rows, columns]]
        _require(drawn.all(), "trains on a prompt that was never drawn")
        size = int((groups.prompts >= 0).sum(axis=1).max(initial=0))
        _require(
            size <= place.setting.budget.prompts,
            f"trains on {size} prompts, where the budget has {place.setting.budget.prompts}",
        )
        _require((groups.counts[groups.prompts < 0] == 0).all(), "trains on rollouts of prompt -1")
        for sent, before in place.sent:
            same = all(np.array_equal(getattr(sent, n), getattr(before, n)) for n in ("counts", "successes"))
            _require(same, "writes into the Outcomes that it was sent: others have the same arrays")
        place.sent.clear()
        if driven.one_shot:
            trained, verified = groups.counts.sum(axis=1), np.zeros_like(ledger.generated)
            if step.outcomes is not None:
                verified = step.outcomes.counts.sum(axis=1)
            plain = groups.baseline is None or np.isnan(groups.baseline).all()
            _require(
                np.array_equal(trained, verified) and plain and groups.reused is None,
                f"says one_shot = True, and trains on {trained.tolist()} of {verified.tolist()} rollouts: a "
                "one-shot allocator trains on all of them, without a baseline of its own and without reuse",
            )

    def _draws_random_numbers(self) -> bool:
        place = Coins(mixed_world())
        before = copy.deepcopy(place.setting.rng.bit_generator.state)
        driven = begin(place, self.make())
        self._take(place, driven, 4)
        spawned = isinstance(driven, PerReplicate)
        return spawned or bool(before != place.setting.rng.bit_generator.state)

    def _require_same(
        self, left: Coins, right: Coins, said: str, names: IntArray | None = None, since: int = 0
    ) -> None:
        steps = zip(left.updates, right.updates, strict=True)
        for number, (one, other) in enumerate(steps, start=1):
            difference = _difference(one, other, names)
            if difference is not None and number > since:
                with _example(f"step {number} with {left.world}"):
                    raise BrokenLaw(f"{said}: {difference}")

    def _require_alike(self, worlds: Sequence[tuple[World, bool]], said: str) -> None:
        """Rollouts generated and trained on, over many replicates with the same p: 4 standard errors."""
        means, variances = [], []
        for world, vectorised in worlds:
            allocator = self.make()
            allocator.vectorised = vectorised  # type: ignore[misc]
            place = self._run(world, 8, allocator)
            numbers = np.stack([place.ledger.generated, place.ledger.trained, place.ledger.prompts])
            means.append(numbers.mean(axis=1))
            variances.append(numbers.var(axis=1) / numbers.shape[1])
        far = np.abs(means[0] - means[1]) > 4 * np.sqrt(variances[0] + variances[1])
        for place_of, what in enumerate(("rollouts generated", "rollouts trained on", "prompts asked for")):
            with _example(worlds[0][0]):
                _require(
                    not far[place_of],
                    f"{said}: {what} are {means[0][place_of]:.2f} and {means[1][place_of]:.2f} on average",
                )

    # --- the laws

    def test_it_keeps_protocol_and_budget(self) -> None:
        """Thirty steps break no rule, and something is trained on.

        Whole counts of drawn prompts, no more rollouts than `hard_budget` allows, no rollout trained on that
        was not sampled, no more groups than the budget has prompts; what is neither trained on nor given up
        by name is still held; and Outcomes are not written into.
        """
        for group_size in (GROUP, 16):
            place = self._run(mixed_world(group_size=group_size), 30)
            with _example(place.world):
                _require((place.ledger.trained > 0).all(), "trains on nothing in 30 steps")

    def test_groups_of_two(self) -> None:
        """Groups of two, the smallest in which rewards can differ: it trains, or refuses in one line."""
        place = self._works_or_refuses(mixed_world(group_size=2), 30)
        if place is not None:
            with _example(place.world):
                _require((place.ledger.trained > 0).all(), "trains on nothing in 30 steps")

    def test_groups_of_one(self) -> None:
        """Groups of one: it works, or refuses with InputError, as methods that need two do."""
        self._works_or_refuses(mixed_world(group_size=1), 10)

    def test_one_prompt(self) -> None:
        """A batch of one prompt, from a pool of many and from a pool of one: it works, or refuses."""
        for pool in (POOL, 1):
            self._works_or_refuses(mixed_world(pool, prompts=1), 10)

    def _works_or_refuses(self, world: World, steps: int) -> Coins | None:
        try:
            return self._run(world, steps)
        except InputError as error:
            with _example(world):
                _require("\n" not in str(error), f"refuses in more than one line: {error}")
            return None

    def test_the_same_seed_gives_the_same_run(self) -> None:
        """All chance comes from `setting.rng`: two runs from the same seed are the same."""
        world = mixed_world(seed=4)
        self._require_same(self._run(world), self._run(world), "two runs from the same seed differ")

    def test_a_used_allocator_starts_afresh(self) -> None:
        """`begin` forgets what was before: an allocator that has run gives what a new one gives."""
        world = mixed_world(seed=4)
        place, used = Coins(mixed_world(seed=8)), self.make()
        driven = begin(place, used)
        self._take(place, driven, 5)
        again = driven.of if isinstance(driven, PerReplicate) else driven
        right = self._run(world, allocator=again)
        self._require_same(self._run(world), right, "after another run it gives something else")

    def test_replicates_do_not_touch_each_other(self) -> None:
        """Row r of a run of R replicates is the run of that replicate alone.

        Exactly so for a method that draws no random numbers. One that does draws others for each replicate:
        of it only the means over many replicates must agree, within 4 standard errors. A method with
        `vectorised = False` never sees more than one replicate.
        """
        if not self.make().vectorised:
            raise unittest.SkipTest("vectorised = False: it always sees one replicate")
        if self._draws_random_numbers():
            p = np.tile(np.random.default_rng(3).beta(0.5, 0.6, size=POOL), (MANY, 1))
            worlds = [(World(p, seed=7), True), (World(p, seed=8), False)]
            self._require_alike(worlds, "replicates together and alone differ")
            return
        for pool in (POOL, 7):
            world = mixed_world(pool, seed=6)
            alone = self.make()
            alone.vectorised = False  # type: ignore[misc]
            together, apart = self._run(world), self._run(world, allocator=alone)
            self._require_same(together, apart, "beside other replicates and alone it differs")

    def test_numbers_of_prompts_mean_nothing(self) -> None:
        """Prompts by other numbers, in the same order and with the same rewards, are treated the same.

        A method that draws random numbers may draw them by number: of it only the means over many replicates
        must agree.
        """
        world = mixed_world(seed=11)
        renamed = replace(world, renamed=True)
        left, right = self._run(world), self._run(renamed)
        try:
            self._require_same(left, right, "with prompts renamed it differs", renamed.names)
        except BrokenLaw:
            if not self._draws_random_numbers():
                raise
            p = np.tile(np.random.default_rng(3).beta(0.5, 0.6, size=POOL), (MANY, 1))
            vectorised = self.make().vectorised
            worlds = [(World(p, seed=7), vectorised), (World(p, seed=8, renamed=True), vectorised)]
            self._require_alike(worlds, "with prompts renamed it differs")

    def test_it_does_not_read_the_true_p(self) -> None:
        """The allocator runs without the true success probabilities, which no real run has.

        An upper bound says `knows_truth = True`, or is made of a predictor that does.
        """
        made = self.make()
        if knows_truth(made):
            raise unittest.SkipTest("knows_truth = True: it is a bound, no method")
        place = self._run(mixed_world(seed=2))
        with _example(place.world):
            _require(not place.truth_was_read, "calls setting.success_probability: set knows_truth = True")
        self._run(mixed_world(seed=2, knows_truth=False))

    def test_it_resumes_from_its_state(self) -> None:
        """A new object with the state goes on as the old one does; the state is arrays, and a copy."""
        place = Coins(mixed_world(seed=5))
        driven = begin(place, self.make())
        self._take(place, driven, 7)
        for one in driven.copies if isinstance(driven, PerReplicate) else [driven]:
            with _example(place.world):
                _require_arrays(one.state_dict())
        saved, other = driven.state_dict(), copy.deepcopy(place)
        kept = copy.deepcopy(saved)
        chance = copy.deepcopy(other.setting.rng.bit_generator.state)
        resumed = begin(other, self.make())
        other.setting.rng.bit_generator.state = chance
        self._take(place, driven, 8)
        with _example(place.world):
            _require_unchanged(saved, kept)
        resumed.load_state_dict(saved)
        self._take(other, resumed, 8)
        with _example(place.world):
            _require_unchanged(saved, kept)
        self._require_same(place, other, "it goes on otherwise from its state after step 7")

    def test_fewer_rollouts_come_than_were_asked_for(self) -> None:
        """Rollouts are lost on the way, all of a prompt's at times: it trains on those that came."""
        self._run(mixed_world(seed=1, delivered=0.6), 20)
        self._run(mixed_world(seed=1, delivered=0.1), 20)

    def test_some_rollouts_have_no_verdict(self) -> None:
        """Some are paid for and lost: it trains on the others, and stays within its budget."""
        self._run(mixed_world(seed=1, verdicts=0.6), 20)
        self._run(mixed_world(seed=1, verdicts=0.1), 20)

    def test_hopeless_pools(self) -> None:
        """Every step ends on prompts that are never solved, always solved, or both."""
        self._run(World(_hopeless()), 30)

    def test_a_pool_smaller_than_a_draw(self) -> None:
        """Fewer prompts than a batch has places: those that are missing are -1, and get nothing."""
        self._run(mixed_world(BATCH - 1), 10)
        for retired in ([-1] * 7, [0, 1, 2, 3, -1, -1, -1]):
            place = Coins(mixed_world(7))
            place.stream.retire(np.tile(retired, (REPLICATES, 1)))
            self._take(place, begin(place, self.make()), 15)

    def test_a_pool_that_runs_out(self) -> None:
        """Prompts are retired until none is left: a step without prompts costs and trains nothing new."""
        place = Coins(mixed_world())
        driven = begin(place, self.make())
        self._take(place, driven, 3)
        left = np.arange(POOL)
        for _ in range(6):
            place.stream.retire(np.tile(left[:5], (REPLICATES, 1)))
            left = left[5:]
            self._take(place, driven, 1)
        place = Coins(mixed_world(7))
        nothing, some, everything = [-1] * 7, [0, 1, 2, 3, -1, -1, -1], [0, 1, 2, 3, 4, 5, 6]
        place.stream.retire(np.array([nothing, some, everything]))
        self._take(place, begin(place, self.make()), 20)
        with _example(f"{place.world}, of which replicate 2 has none left"):
            _require(place.ledger.generated[2] == 0, "generates where no prompt is left")
            _require(place.ledger.generated[0] > 0, "generates nothing where another replicate has no prompt")


class PredictorConformance(_Laws):
    """The laws of predictors. A subclass sets `predictor`, or overrides `make`.

    `predictor` is an object, a class that can be made without arguments, or the spec of a registered one.
    """

    predictor: ClassVar[Any]

    def make(self) -> Predictor:
        """A new predictor, before `begin`."""
        given = self.predictor
        made = given() if isinstance(given, type) else predictors.create(copy.deepcopy(given))
        if not isinstance(made, Predictor):
            raise BrokenLaw(f"{type(made).__name__} is no subclass of rolloutbench.protocol.Predictor")
        return made

    # --- what laws are made of

    def _begun(self, world: World, rows: slice = slice(None), chance: int = 0) -> Predictor:
        setting = Coins(world).setting
        truth = setting.success_probability
        assert setting.features is not None
        setting = replace(
            setting,
            replicates=len(world.p[rows]),
            features=setting.features[rows],
            rng=np.random.default_rng(world.seed + chance),
            success_probability=None if truth is None else Coins(replace(world, p=world.p[rows]))._truth,
        )
        made = self.make()
        made.begin(setting)
        return made

    @staticmethod
    def _history(world: World, steps: int = 4) -> list[Outcomes]:
        """Steps with gaps: absent prompts, prompts without rollouts, a replicate that sits one out."""
        rng = np.random.default_rng(world.seed + 20)
        replicates, pool = world.p.shape
        found = []
        for step in range(steps):
            prompts = rng.permuted(np.tile(np.arange(pool), (replicates, 1)), axis=1)[:, :10]
            prompts[rng.random(prompts.shape) < 0.15] = -1
            counts = np.where(prompts >= 0, rng.integers(0, GROUP + 1, size=prompts.shape), 0)
            successes = rng.binomial(counts, world.p[np.arange(replicates)[:, None], prompts])
            if step == 1:
                counts[-1] = successes[-1] = 0
            found.append(Outcomes(np.where(prompts >= 0, world.names[prompts], -1), counts, successes))
        return found

    @staticmethod
    def _everyone(world: World) -> IntArray:
        return np.tile(world.names, (len(world.p), 1))

    @staticmethod
    def _reseeded(predictor: Predictor) -> Predictor:
        predictor.setting.rng.bit_generator.state = np.random.default_rng(5).bit_generator.state
        return predictor

    def _draws_random_numbers(self, world: World, while_predicting: bool = False) -> bool:
        predictor = self.make()
        setting = Coins(world).setting
        states = [copy.deepcopy(setting.rng.bit_generator.state)]
        predictor.begin(setting)
        states.append(copy.deepcopy(setting.rng.bit_generator.state))
        predictor.predict(self._everyone(world))
        states.append(setting.rng.bit_generator.state)
        return states[1] != states[2] if while_predicting else states[0] != states[2]

    @staticmethod
    def _require_same(one: Belief, other: Belief, said: str, tolerance: float = 0.0) -> None:
        for name in ("mean", "variance"):
            a, b = getattr(one, name), getattr(other, name)
            same = np.isclose(a, b, rtol=tolerance, atol=tolerance)
            if not same.all():
                row, column = np.argwhere(~same)[0]
                raise BrokenLaw(
                    f"{said}: {name} of the belief about the prompt at ({row}, {column}) is "
                    f"{a[row, column]:.9g} and {b[row, column]:.9g}"
                )

    def _require_possible(self, belief: Belief, prompts: IntArray, reads: bool) -> None:
        for name in ("mean", "variance"):
            value = getattr(belief, name)
            _require(
                isinstance(value, np.ndarray) and value.shape == prompts.shape and value.dtype == np.float64,
                f"the belief's {name} is {getattr(value, 'dtype', type(value).__name__)} of shape "
                f"{np.shape(value)}: float64 of shape {prompts.shape} is expected",
            )
            _require(np.isfinite(value).all(), f"the belief's {name} is not finite")
        least, most = belief.mean.min(initial=1), belief.mean.max(initial=0)
        _require(least >= 0 and most <= 1, f"means lie in {least:g}..{most:g}: a probability is in 0..1")
        _require((belief.variance >= 0).all(), f"a variance is {belief.variance.min(initial=0):g}")
        over = belief.variance - belief.mean * (1 - belief.mean)
        if not reads and (over > 1e-9).any():
            row, column = np.argwhere(over > 1e-9)[0]
            raise BrokenLaw(
                f"the variance {belief.variance[row, column]:g} is impossible at mean "
                f"{belief.mean[row, column]:g}: at most mean (1 - mean)"
            )

    def _check(self, world: World) -> None:
        """Beliefs are possible along a history, for present and absent prompts, and for none."""
        with _example(world):
            predictor = self._begun(world)
            everyone = self._everyone(world)
            asked = (everyone, np.where(everyone % 3 == 0, -1, everyone), np.full((len(world.p), 2), -1))
            for outcomes in [None, *self._history(world)]:
                if outcomes is not None:
                    predictor.update(outcomes)
                for prompts in (*asked, everyone[:, :0]):
                    self._require_possible(predictor.predict(prompts), prompts, knows_truth(predictor))

    # --- the laws

    def test_beliefs_have_the_shape_and_are_possible(self) -> None:
        """Means in [0, 1] and variances of at most m (1 - m), (R, B) like the prompts, whatever came before.

        Predictors that read the truth and add noise may say the variance of the noise (`knows_truth`).
        """
        self._check(mixed_world())

    def test_one_prompt(self) -> None:
        """A pool of one prompt, and a single replicate."""
        self._check(mixed_world(1))
        self._check(mixed_world(replicates=1))

    def test_hopeless_pools(self) -> None:
        """Prompts that are never solved and prompts that always are leave beliefs possible."""
        self._check(World(_hopeless()))

    def test_the_same_seed_gives_the_same_beliefs(self) -> None:
        """All chance comes from `setting.rng`."""
        world = mixed_world(seed=4)
        beliefs = []
        for _ in range(2):
            predictor = self._begun(world)
            for outcomes in self._history(world):
                predictor.update(outcomes)
            beliefs.append(predictor.predict(self._everyone(world)))
        with _example(world):
            self._require_same(beliefs[0], beliefs[1], "two runs from the same seed differ")

    def test_replicates_side_by_side_are_as_each_alone(self) -> None:
        """Row r of R replicates is what that replicate alone gives, from the same state.

        Says nothing about predictors that draw random numbers in `predict`.
        """
        world = mixed_world()
        if self._draws_random_numbers(world, while_predicting=True):
            raise unittest.SkipTest("draws random numbers in predict")
        together, history = self._begun(world), self._history(world)
        start = copy.deepcopy(together.state_dict())
        for outcomes in history:
            together.update(outcomes)
        everyone = self._everyone(world)
        found = together.predict(everyone)
        for r in range(REPLICATES):
            row = slice(r, r + 1)
            with _example(f"replicate {r} of {world}"):
                alone = self._begun(world, row)
                alone.load_state_dict(self._rows(start, row))
                for outcomes in history:
                    parts = outcomes.prompts[row], outcomes.counts[row], outcomes.successes[row]
                    alone.update(Outcomes(*parts))
                beside = Belief(found.mean[row], found.variance[row])
                said = "beside other replicates and alone it differs"
                self._require_same(beside, alone.predict(everyone[row]), said, 1e-9)

    def _rows(self, state: Any, rows: slice) -> Any:
        """The state of some replicates: every array has them as its first axis."""
        if isinstance(state, dict):
            return {name: self._rows(value, rows) for name, value in state.items()}
        _require(isinstance(state, np.ndarray), f"the state holds {type(state).__name__}, not only arrays")
        _require(
            len(state) == REPLICATES,
            f"an array of the state has shape {state.shape}: replicates ({REPLICATES}) come first",
        )
        return state[rows]

    def test_numbers_of_prompts_mean_nothing(self) -> None:
        """Prompts by other numbers, with the same features and rewards, get the same beliefs.

        A predictor that draws random numbers may draw them by number: then only in distribution.
        """
        world = mixed_world(seed=11)
        beliefs = []
        for one in (world, replace(world, renamed=True)):
            predictor = self._begun(one)
            for outcomes in self._history(one):
                predictor.update(outcomes)
            beliefs.append(self._reseeded(predictor).predict(self._everyone(one)))
        try:
            with _example(world):
                self._require_same(beliefs[0], beliefs[1], "with prompts renamed it differs", 1e-6)
        except BrokenLaw:
            if self._draws_random_numbers(world):
                raise unittest.SkipTest("draws random numbers by the number of the prompt") from None
            raise

    def test_it_does_not_read_the_true_p(self) -> None:
        """The predictor begins without the true success probabilities, unless `knows_truth`."""
        if knows_truth(self.make()):
            raise unittest.SkipTest("knows_truth = True: it is a bound, no method")
        world = mixed_world(seed=2)
        place, predictor = Coins(world), self.make()
        predictor.begin(place.setting)
        for outcomes in self._history(world):
            predictor.update(outcomes)
        predictor.predict(self._everyone(world))
        with _example(world):
            _require(not place.truth_was_read, "calls setting.success_probability: set knows_truth = True")
        self._check(mixed_world(seed=2, knows_truth=False))

    def test_it_resumes_exactly(self) -> None:
        """A new object with the state goes on as the old one does; the state is arrays, and a copy."""
        world = mixed_world()
        steps, everyone = self._history(world), self._everyone(world)
        predictor, resumed = self._begun(world), self._begun(world, chance=99)
        with _example(world):
            for outcomes in steps[:2]:
                predictor.update(outcomes)
            saved = predictor.state_dict()
            _require_arrays(saved)
            kept = copy.deepcopy(saved)
            resumed.load_state_dict(saved)
            for outcomes in steps[2:]:
                predictor.update(outcomes)
                resumed.update(outcomes)
            here, there = (self._reseeded(one).predict(everyone) for one in (predictor, resumed))
            self._require_same(here, there, "it goes on otherwise from its state")
            _require_unchanged(saved, kept)

    def test_no_rollouts_change_nothing(self) -> None:
        """Outcomes without a rollout teach nothing."""
        world = mixed_world()
        everyone, predictor = self._everyone(world), self._begun(world)
        with _example(world):
            predictor.update(self._history(world)[0])
            before = self._reseeded(predictor).predict(everyone)
            for prompts in (everyone, np.full((REPLICATES, 4), -1), everyone[:, :0]):
                predictor.update(Outcomes.none(prompts))
            after = self._reseeded(predictor).predict(everyone)
            self._require_same(before, after, "outcomes without a rollout change beliefs")

    def test_beginning_again_forgets(self) -> None:
        """After `begin` it is as a new one is."""
        world = mixed_world()
        everyone, used = self._everyone(world), self._begun(world)
        with _example(world):
            used.update(self._history(world)[0])
            used.begin(replace(used.setting, rng=np.random.default_rng(world.seed)))
            again = self._reseeded(used).predict(everyone)
            new = self._reseeded(self._begun(world)).predict(everyone)
            self._require_same(new, again, "after begin it still knows what was before")


@dataclass(frozen=True)
class Verdict:
    """What came of one law: its name, what it says, and, where it is broken, the failing example.

    `detail`: in a line what is wrong, or why the law says nothing here. `traceback`: of what was raised.
    """

    law: str
    says: str
    outcome: Literal["holds", "broken", "does not apply"]
    detail: str = ""
    example: str = ""
    traceback: str = ""


def scorecard(kit: AllocatorConformance | PredictorConformance) -> list[Verdict]:
    """Every law of a kit put to the test, none stopped by another."""
    verdicts = []
    for name, law in kit.laws().items():
        said = name.removeprefix("test_").replace("_", " "), (law.__doc__ or "").partition("\n")[0]
        try:
            law()
        except unittest.SkipTest as reason:
            verdicts.append(Verdict(*said, "does not apply", str(reason)))
        except Exception as error:
            detail = str(error) if isinstance(error, BrokenLaw) else one_line(error)
            examples = [note.removeprefix("example: ") for note in getattr(error, "__notes__", [])]
            verdicts.append(Verdict(*said, "broken", detail, "; ".join(examples), whole(error)))
        else:
            verdicts.append(Verdict(*said, "holds"))
    return verdicts


def conformance_of(thing: Allocator | Predictor) -> AllocatorConformance | PredictorConformance:
    """The kit for an allocator or a predictor."""
    if isinstance(thing, Allocator):
        of_allocator = AllocatorConformance()
        of_allocator.allocator = thing  # type: ignore[misc]
        return of_allocator
    of_predictor = PredictorConformance()
    of_predictor.predictor = thing  # type: ignore[misc]
    return of_predictor
