"""The one loop that drives every allocator against every environment, simulated or real.

It also holds allocators to the contract: who overspends a hard budget, asks for a prompt it did not
draw, asks for counts that are not whole numbers, or trains on rollouts it never sampled is named in a
`ProtocolError`, before anything is generated or updated.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from rolloutbench.protocol import (
    Allocator,
    BoolArray,
    Budget,
    Environment,
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


def begin(environment: Environment, allocator: Allocator) -> Allocator:
    """Make the allocator start afresh in this environment; returns what `run_step` is to drive.

    That is the allocator itself, or one copy for each replicate where it is not vectorised.
    """
    driven = allocator if allocator.vectorised else PerReplicate(allocator)
    driven.begin(environment.setting)
    return driven


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
    environment.ledger.open_step()
    plan = allocator.plan(environment.stream, environment.setting.budget)
    clock = time.perf_counter
    started, elsewhere = clock(), 0.0
    try:
        request = next(plan)
        while True:
            paused = clock()
            _check_request(environment, allocator, request)
            sampled = environment.rollout(request)
            elsewhere += clock() - paused
            request = plan.send(sampled)
    except StopIteration as end:
        groups = end.value
    seconds = clock() - started - elsewhere
    _check_groups(environment, allocator, groups)
    outcomes = environment.ledger.step_merged
    if outcomes is not None:
        started = clock()
        allocator.observe(outcomes)
        seconds += clock() - started
    return Step(outcomes, groups, environment.update(groups), seconds)


def _check_request(environment: Environment, allocator: Allocator, request: Any) -> None:
    """Raise ProtocolError unless this may be generated."""
    setting, ledger = environment.setting, environment.ledger
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
    wrong = (counts > 0) & ~(valid & environment.stream.drawn.take(place))
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


def _check_groups(environment: Environment, allocator: Allocator, groups: Any) -> None:
    """Raise ProtocolError unless these rollouts were sampled and not trained on yet."""
    if not isinstance(groups, Groups):
        _broken(allocator, f"returns Groups, not {type(groups).__name__}")
    prompts = _integers(allocator, "prompts", groups.prompts, environment.setting)
    if prompts.min(initial=0) < -1 or prompts.max(initial=0) >= environment.setting.pool_size:
        _broken(allocator, f"trains on prompts {prompts.min()}..{prompts.max()}: not in the pool")
    for name in ("successes", "failures"):
        kept = _integers(allocator, name, getattr(groups, name), environment.setting)
        if kept.shape != prompts.shape:
            _broken(allocator, f"returns {name} of shape {kept.shape} for prompts of shape {prompts.shape}")
        if kept.min(initial=0) < 0:
            _broken(allocator, f"keeps {kept.min()} {name} of a prompt: 0 or more")
    if groups.weights.shape != prompts.shape or not np.isfinite(groups.weights).all():
        _broken(allocator, f"returns weights that are not finite or not of shape {prompts.shape}")
    if groups.reused is not None:
        for name in ("counts", "age"):
            stored = _integers(allocator, f"reused {name}", getattr(groups.reused, name), environment.setting)
            if stored.shape != prompts.shape or stored.min(initial=0) < 0:
                _broken(allocator, f"returns reused {name} below 0 or not of shape {prompts.shape}")
    for name, given_up in groups.discarded.items():
        if np.shape(given_up) != (environment.setting.replicates,) or np.min(given_up) < 0:
            _broken(allocator, f"discards {name} below 0 or not of shape ({environment.setting.replicates},)")
    try:
        environment.ledger.use(groups)
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
        """As many as the copies."""
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
        plans = [one.plan(_OneReplicate(stream, r), budget) for r, one in enumerate(self.copies)]
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
                        width = asked.counts.shape[1]
                        requests[r] = plan.send(
                            Outcomes(asked.prompts, asked.counts, outcomes.successes[r : r + 1, :width])
                        )
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
            row = slice(r, r + 1)
            one.observe(Outcomes(outcomes.prompts[row], outcomes.counts[row], outcomes.successes[row]))

    def state_dict(self) -> State:
        """Those of all copies, and where their random numbers are."""
        return {
            str(r): {"state": one.state_dict(), "rng": stream.state}
            for r, (one, stream) in enumerate(zip(self.copies, self._streams, strict=True))
        }

    def load_state_dict(self, state: State) -> None:
        """Those of all copies."""
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
        """This replicate's epoch (1,)."""
        return self._stream.epoch[self._replicate : self._replicate + 1]

    @property
    def drawn(self) -> BoolArray:  # type: ignore[override]
        """What this replicate has drawn (1, Q)."""
        return self._stream.drawn[self._replicate : self._replicate + 1]

    def draw(self, count: int, where: BoolArray | None = None) -> IntArray:
        """This replicate's next prompts (1, count)."""
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
