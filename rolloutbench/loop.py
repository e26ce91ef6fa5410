"""The one step that drives every allocator, from inside (`run_step`) or from outside (`OpenStep`, the coach).

It also holds allocators to the contract: who overspends a hard budget, asks for a prompt it did not
draw, asks for counts that are not whole numbers, asks without end, or trains on rollouts it never sampled is
named in a `ProtocolError`, before anything is generated or updated.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from rolloutbench.environment import Environment, Host
from rolloutbench.protocol import (
    MOST_EMPTY_STAGES,
    MOST_STAGES,
    Allocator,
    BoolArray,
    Budget,
    FloatArray,
    Groups,
    IntArray,
    Outcomes,
    Plan,
    PromptStream,
    ProtocolError,
    Request,
    Reuse,
    Setting,
    State,
)

ENOUGH_MIXED = 100
"""Groups with both rewards among which every method finds one to train on."""


def begin(host: Host, allocator: Allocator) -> Allocator:
    """Make a copy of the allocator start afresh in this host; returns what a step is to drive.

    That is the copy, or one for each replicate where the allocator is not vectorised. The allocator itself
    stays as it was made: what a run leaves on it, on purpose or not, reaches no other run.
    """
    driven = copy.deepcopy(allocator) if allocator.vectorised else PerReplicate(allocator)
    driven.begin(host.setting)
    return driven


def planned(allocator: Allocator, stream: PromptStream, budget: Budget) -> Plan:
    """The allocator's plan of a step. Raises ProtocolError where that is no generator."""
    plan = allocator.plan(stream, budget)
    if not isinstance(plan, Generator):
        _broken(
            allocator,
            f"returns {type(plan).__name__} from a plan without `yield`: plan must yield a Request "
            "(outcomes = yield Request(prompts, counts)) and return Groups",
        )
    return plan


def check_trained(host: Host, allocator: Allocator, steps: int) -> None:
    """Raise ProtocolError where a whole run of that many steps trained on nothing, by the allocator's doing.

    It did if it asked for nothing, or left alone all of many groups that had both rewards. Who selects may
    rightly find nothing among prompts that are hopeless, or too little in a short run.
    """
    ledger = host.ledger
    if ledger.trained.any() or (ledger.generated.any() and ledger.mixed < ENOUGH_MIXED):
        return
    _broken(
        allocator,
        f"trains on nothing: {ledger.generated.sum()} rollouts generated, {ledger.mixed} groups with both "
        f"rewards, and none trained on in {steps} step{'s' * (steps > 1)} of "
        f"{host.setting.replicates} replicates",
    )


class OpenStep:
    """A training step turned inside out: it says what to sample next, and is told what came.

    `request` is what is to be sampled next, None when everything is there; `groups` is then what to train on,
    None until then. `allocator_seconds`: time spent in the allocator itself. The allocator is what `begin`
    returned. Raises ProtocolError where it breaks the contract.
    """

    def __init__(self, host: Host, allocator: Allocator) -> None:
        self._host, self._allocator = host, allocator
        self.request: Request | None = None
        self.groups: Groups | None = None
        self.allocator_seconds = 0.0
        self._stages = self._empty = 0
        host.ledger.open_step()
        self._plan = planned(allocator, host.stream, host.setting.budget)
        self._go_on(None)

    def deliver(self, outcomes: Outcomes) -> None:
        """Write what came of `request` on the bill, less than asked perhaps, and have the allocator go on."""
        self._host.ledger.record(outcomes)
        self._go_on(outcomes)

    def learn(self) -> None:
        """Let the allocator learn from everything that this step generated."""
        outcomes = self._host.ledger.step_merged
        if outcomes is not None:
            with self._in_allocator():
                self._allocator.observe(outcomes)

    def _go_on(self, outcomes: Outcomes | None) -> None:
        host, allocator = self._host, self._allocator
        try:
            with self._in_allocator():
                request = next(self._plan) if outcomes is None else self._plan.send(outcomes)
        except StopIteration as end:
            _check_groups(host, allocator, end.value)
            self.request, self.groups = None, end.value
            return
        _check_request(host, allocator, request)
        self._stages, self._empty = self._stages + 1, 0 if request.counts.any() else self._empty + 1
        _check_end(host, allocator, self._stages, self._empty)
        self.request = request

    @contextlib.contextmanager
    def _in_allocator(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.allocator_seconds += time.perf_counter() - started


@dataclass(frozen=True)
class Step:
    """What happened in a training step.

    `outcomes`: everything that was generated, stages merged. `groups`: what was trained on. `measured`:
    what the environment's update returned. `allocator_seconds`: time spent in the allocator itself.
    """

    outcomes: Outcomes | None
    groups: Groups
    measured: dict[str, FloatArray]
    allocator_seconds: float


def run_step(environment: Environment, allocator: Allocator) -> Step:
    """One training step: rollouts as the allocator asks for them, one update, and it may learn.

    `allocator` is what `begin` returned.
    """
    step = OpenStep(environment, allocator)
    while step.request is not None:
        step.deliver(environment.generate(step.request))
    assert step.groups is not None
    step.learn()
    outcomes = environment.ledger.step_merged
    return Step(outcomes, step.groups, environment.update(step.groups), step.allocator_seconds)


def _check_request(host: Host, allocator: Allocator, request: Any) -> None:
    """Raise ProtocolError unless this may be generated."""
    setting, ledger = host.setting, host.ledger
    if not isinstance(request, Request):
        _broken(allocator, f"yields Requests, not {type(request).__name__}")
    prompts = _integers(allocator, "prompts", request.prompts, setting)
    counts = _integers(allocator, "counts", request.counts, setting)
    if prompts.shape != counts.shape:
        _broken(allocator, f"asks for counts of shape {counts.shape} of prompts of shape {prompts.shape}")
    if counts.min(initial=0) < 0:
        _broken(allocator, f"asks for {counts.min()} rollouts of a prompt: counts are 0 or more")
    valid = (prompts >= 0) & (prompts < setting.pool_size)
    place = np.where(valid, prompts, 0) + setting.pool_size * np.arange(setting.replicates)[:, None]
    wrong = (counts > 0) & ~(valid & host.stream.drawn.take(place))
    if wrong.any():
        r, column = np.argwhere(wrong)[0]
        _broken(allocator, f"asks for prompt {prompts[r, column]} in replicate {r}, which it did not draw")
    if allocator.hard_budget:
        total = ledger.step_generated + counts.sum(axis=1)
        if (total > setting.budget.rollouts).any():
            r = int(np.argmax(total))
            _broken(
                allocator,
                f"overspends its hard budget: {total[r]} rollouts in a step of replicate {r}, "
                f"where {setting.budget.rollouts} are allowed",
            )


def _check_end(host: Host, allocator: Allocator, stages: int, empty: int) -> None:
    """Raise ProtocolError where a step has no end."""
    if empty > MOST_EMPTY_STAGES:
        _broken(
            allocator,
            f"asks for no rollout {empty} times in a row, up to stage {stages} of a step: "
            f"{MOST_EMPTY_STAGES} are allowed; a plan ends by returning Groups",
        )
    if stages > MOST_STAGES:
        most = host.ledger.step_generated.max()
        _broken(
            allocator,
            f"has not ended a step after {MOST_STAGES} stages, with {most} rollouts in a replicate where the "
            f"budget is {host.setting.budget.rollouts}: give its loop an end that does not depend on "
            "the rewards",
        )


def _check_groups(host: Host, allocator: Allocator, groups: Any) -> None:
    """Raise ProtocolError unless these rollouts were sampled and not trained on yet."""
    if not isinstance(groups, Groups):
        _broken(allocator, f"returns Groups, not {type(groups).__name__}")
    prompts = _integers(allocator, "prompts", groups.prompts, host.setting)
    if prompts.min(initial=0) < -1 or prompts.max(initial=0) >= host.setting.pool_size:
        _broken(allocator, f"trains on prompts {prompts.min()}..{prompts.max()}: not in the pool")
    for name in ("successes", "failures"):
        kept = _integers(allocator, name, getattr(groups, name), host.setting)
        if kept.shape != prompts.shape:
            _broken(allocator, f"returns {name} of shape {kept.shape} for prompts of shape {prompts.shape}")
        if kept.min(initial=0) < 0:
            _broken(allocator, f"keeps {kept.min()} {name} of a prompt: 0 or more")
    if groups.weights.shape != prompts.shape or not np.isfinite(groups.weights).all():
        _broken(allocator, f"returns weights that are not finite or not of shape {prompts.shape}")
    if groups.reused is not None:
        for name in ("counts", "age"):
            stored = _integers(allocator, f"reused {name}", getattr(groups.reused, name), host.setting)
            if stored.shape != prompts.shape or stored.min(initial=0) < 0:
                _broken(allocator, f"returns reused {name} below 0 or not of shape {prompts.shape}")
    for name, given_up in groups.discarded.items():
        if np.shape(given_up) != (host.setting.replicates,) or np.min(given_up) < 0:
            _broken(allocator, f"discards {name} below 0 or not of shape ({host.setting.replicates},)")
    try:
        host.ledger.use(groups)
    except ValueError as error:
        _broken(allocator, str(error))


def _integers(allocator: Allocator, name: str, array: Any, setting: Setting) -> IntArray:
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer):
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        _broken(allocator, f"gives {name} as {kind}: an array of integers is expected")
    if array.ndim != 2 or len(array) != setting.replicates:
        _broken(allocator, f"gives {name} of shape {array.shape}: ({setting.replicates}, B) is expected")
    return array


def _broken(allocator: Allocator, rule: str) -> NoReturn:
    named = allocator.of if isinstance(allocator, PerReplicate) else allocator
    raise ProtocolError(f"allocator {type(named).__name__} {rule}")


class PerReplicate(Allocator):
    """Drives one copy of an allocator for each replicate, each of which sees R = 1.

    Slower than a vectorised allocator, but as simple as its paper. Stages of the copies run together.
    """

    def __init__(self, of: Allocator) -> None:
        self.of = of
        self.hard_budget = of.hard_budget  # type: ignore[misc]
        self.one_shot = of.one_shot  # type: ignore[misc]

    @property
    def reusable(self) -> int:
        """Successes that may be reused, as the copies say."""
        return self.of.reusable

    def begin(self, setting: Setting) -> None:
        """A copy for each replicate, with a random stream of its own."""
        self.setting = setting
        self.copies = [copy.deepcopy(self.of) for _ in range(setting.replicates)]
        settings = setting.split()
        self._streams = [its_setting.rng.bit_generator for its_setting in settings]
        for one, its_setting in zip(self.copies, settings, strict=True):
            one.begin(its_setting)

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Stage by stage: collect the copies' requests, generate them together, deal the outcomes."""
        plans = [planned(one, _OneReplicate(stream, r), budget) for r, one in enumerate(self.copies)]
        requests: list[Request | None] = [None] * len(plans)
        groups: list[Groups | None] = [None] * len(plans)
        outcomes: Outcomes | None = None
        while True:
            for r, plan in enumerate(plans):
                asked = requests[r]
                if groups[r] is not None:
                    continue
                try:
                    if outcomes is None:
                        requests[r] = next(plan)
                    else:
                        assert asked is not None
                        came = outcomes[r : r + 1, : asked.counts.shape[1]]
                        requests[r] = plan.send(replace(came, prompts=asked.prompts))
                except StopIteration as end:
                    groups[r], requests[r] = end.value, None
            if not any(requests):
                break
            outcomes = yield Request(
                _stacked([None if asked is None else asked.prompts for asked in requests], -1),
                _stacked([None if asked is None else asked.counts for asked in requests], 0),
            )
        for returned in groups:
            if not isinstance(returned, Groups):
                _broken(self, f"returns Groups, not {type(returned).__name__}")
        done = [returned for returned in groups if returned is not None]
        baselines = [np.full(g.weights.shape, np.nan) if g.baseline is None else g.baseline for g in done]
        return Groups(
            _stacked([g.prompts for g in done], -1),
            _stacked([g.successes for g in done], 0),
            _stacked([g.failures for g in done], 0),
            _stacked([g.weights for g in done], 0.0),
            _stacked(baselines, np.nan),
            self._reused(done),
            {
                name: np.concatenate([g.discarded.get(name, np.zeros(1, np.int64)) for g in done])
                for name in dict.fromkeys(name for g in done for name in g.discarded)
            },
        )

    def _reused(self, done: list[Groups]) -> Reuse | None:
        options = {groups.reused.option for groups in done if groups.reused is not None}
        if not options:
            return None
        if len(options) > 1:
            _broken(self, f"reuses by options {sorted(options)} in one step: one is expected")
        none = [np.zeros_like(groups.prompts) for groups in done]
        counts = [n if g.reused is None else g.reused.counts for g, n in zip(done, none, strict=True)]
        ages = [n if g.reused is None else g.reused.age for g, n in zip(done, none, strict=True)]
        return Reuse(_stacked(counts, 0), _stacked(ages, 0), options.pop())

    def observe(self, outcomes: Outcomes) -> None:
        """Each copy learns from its own row."""
        for r, one in enumerate(self.copies):
            one.observe(outcomes[r : r + 1, :])

    def holding(self) -> Outcomes | None:
        """What the copies hold, under one another; None where one cannot say."""
        held = [one.holding() for one in self.copies]
        if any(each is None for each in held):
            return None
        return Outcomes(
            _stacked([each.prompts for each in held if each], -1),
            _stacked([each.counts for each in held if each], 0),
            _stacked([each.successes for each in held if each], 0),
        )

    def state_dict(self) -> State:
        """States of all copies, and where their random numbers are."""
        return {
            str(r): {"state": one.state_dict(), "rng": stream.state}
            for r, (one, stream) in enumerate(zip(self.copies, self._streams, strict=True))
        }

    def load_state_dict(self, state: State) -> None:
        """Continue all copies from their states."""
        for r, (one, stream) in enumerate(zip(self.copies, self._streams, strict=True)):
            one.load_state_dict(state[str(r)]["state"])
            stream.state = state[str(r)]["rng"]


class _OneReplicate(PromptStream):
    """One replicate's view of the stream of all."""

    def __init__(self, stream: PromptStream, replicate: int) -> None:
        self.pool_size, self.replicates = stream.pool_size, 1
        self._stream, self._replicate = stream, replicate
        self._here = np.arange(stream.replicates) == replicate

    @property
    def epoch(self) -> IntArray:  # type: ignore[override]
        """Epoch (1,) of the one replicate."""
        return self._stream.epoch[self._replicate : self._replicate + 1]

    @property
    def drawn(self) -> BoolArray:  # type: ignore[override]
        """What this replicate has drawn (1, Q)."""
        return self._stream.drawn[self._replicate : self._replicate + 1]

    def draw(self, count: int, where: BoolArray | None = None) -> IntArray:
        """Next prompts (1, count) of the one replicate."""
        here = self._here if where is None else self._here & where
        return self._stream.draw(count, here)[self._replicate : self._replicate + 1]

    def retire(self, prompts: IntArray) -> None:
        """Retire prompts (1, n) of this replicate."""
        everyone = np.full((self._stream.replicates, prompts.shape[1]), -1)
        everyone[self._replicate] = prompts[0]
        self._stream.retire(everyone)


def _stacked(rows: list[Any], fill: float) -> Any:
    """Arrays (1, B_r), or None, under one another, padded to the widest with `fill`."""
    width = max((row.shape[1] for row in rows if row is not None), default=0)
    kinds = {row.dtype for row in rows if row is not None} or {np.dtype(np.int64)}
    stacked = np.full((len(rows), width), fill, dtype=np.result_type(*kinds))
    for r, row in enumerate(rows):
        if row is not None:
            stacked[r, : row.shape[1]] = row[0]
    return stacked
