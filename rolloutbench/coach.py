"""Any allocator as a guest in a loop of one's own: `ask`, `tell`, and at the end a `Batch` to train on.

    coach = Coach("vip[predictor=beta]", prompts=8, rollouts=64, pool_size=len(data))
    while (ask := coach.ask()) is not None:          # one stage or several
        texts = generate([data[q] for q in ask.each])
        coach.tell(score(texts), texts)
    batch = coach.batch()                            # rollouts, advantages, and what each counts

It is the step of the loop (`OpenStep`) for one replicate, driven from outside. The host generates and
verifies however it likes, and hands back one reward and one opaque `rollout` (tokens, a key in a store) for
each response; the coach keeps the bill, holds the allocator to the contract, picks the concrete rollouts, and
works out what each counts. Rewards may be any numbers: the estimator sees them as they are, the allocator
whether they are above `threshold`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from rolloutbench import checkpoint
from rolloutbench.allocators import allocators
from rolloutbench.arrivals import Arrivals
from rolloutbench.environment import Host
from rolloutbench.estimators import estimators
from rolloutbench.held import KEY, STEP, Held
from rolloutbench.loop import OpenStep, begin
from rolloutbench.protocol import (
    Allocator,
    BoolArray,
    Budget,
    Estimator,
    FeatureArray,
    FloatArray,
    Groups,
    InputError,
    IntArray,
    NoVerdict,
    Outcomes,
    PromptStream,
    ProtocolError,
    Request,
    Setting,
    State,
    TrainerAggregation,
)
from rolloutbench.rewards import advantages_of, judge

T = TypeVar("T")


class Purpose(IntEnum):
    """What a random stream of a coach is for; each has one of its own."""

    STREAM = 1
    ALLOCATOR = 3


@dataclass(frozen=True)
class Ask:
    """Rollouts to sample next: `counts` (P,) of `prompts` (P,), ids 0..Q-1, as rows of a data set."""

    prompts: IntArray
    counts: IntArray

    @property
    def each(self) -> IntArray:
        """The prompt of each rollout (N,), in the order in which `tell` expects them."""
        return np.repeat(self.prompts, self.counts)


@dataclass(frozen=True)
class Batch(Generic[T]):
    """What one update trains on: N rows in P groups.

    `rollouts`: as they were told. `prompts`, `rewards`, `advantages` (N,): of each row; the reward is NaN
    where it is masked. `group` (N,): place of its group; `weight` and `size` (N,): of its group, reused
    members counted. `age` (N,): steps since it was sampled; `reused` (N,): whether it is a stored success,
    used by `option`, which is "" where nothing is. `groups`, `members`: how many there are in all.
    """

    rollouts: list[T]
    prompts: IntArray
    group: IntArray
    rewards: FloatArray
    advantages: FloatArray
    weight: FloatArray
    size: IntArray
    age: IntArray
    reused: BoolArray
    option: str
    groups: int
    members: int

    def __len__(self) -> int:
        return len(self.rollouts)

    def shares(self, aggregation: TrainerAggregation, lengths: npt.ArrayLike | None = None) -> FloatArray:
        """What each row counts in the update (N,).

        `rollout`: weight / all members. `prompt`: weight / (groups * size). `token`: what each of its tokens
        counts, weight / all tokens; it needs the rows' `lengths` (N,) in tokens. Raises InputError without.
        """
        of = np.array(self.members)
        if aggregation == "prompt":
            of = self.size * self.groups
        elif aggregation == "token":
            if lengths is None:
                raise InputError("aggregation=token: give the lengths of the rows in tokens")
            of = np.sum(lengths)
        shares: FloatArray = self.weight / np.maximum(of, 1)
        return shares


class Coach(Host, Generic[T]):
    """Drives an allocator from outside: `ask` until it says None, `tell` after each; `batch` ends the step.

    `prompts` and `rollouts` are the budget of a step, `pool_size` the number of prompts Q. `aggregation` says
    how the host averages, `features` (Q, d) are vectors of the prompts for predictors that read them. A
    reward above `threshold` is a success for the allocator. `no_verdict` says what becomes of a rollout whose
    reward is NaN. `fingerprint` names the data set: a saved coach is not restored with another. `arriving`:
    prompts that nobody has counted, as of a streamed data set; they get ids as they come (see `Arrivals`),
    and `pool_size` is the most that may. Raises InputError where one of these cannot be.
    """

    def __init__(
        self,
        allocator: str | Allocator,
        *,
        prompts: int,
        rollouts: int,
        pool_size: int,
        estimator: str | Estimator = "grpo",
        aggregation: TrainerAggregation = "rollout",
        threshold: float = 0.5,
        no_verdict: NoVerdict = "drop",
        seed: int = 0,
        features: FeatureArray | None = None,
        fingerprint: str = "",
        arriving: Iterable[Any] | None = None,
    ) -> None:
        _one_of("aggregation", aggregation, ("prompt", "rollout", "token"))
        _one_of("no_verdict", no_verdict, get_args(NoVerdict))
        if pool_size < 1:
            raise InputError(f"pool_size={pool_size}: at least 1 prompt is needed")
        if features is not None and arriving is not None:
            raise InputError("features: prompts that arrive one by one have none; choose predictor=beta")
        if features is not None and (np.ndim(features) != 2 or len(features) != pool_size):
            raise InputError(
                f"features of shape {np.shape(features)}: one vector for each of the {pool_size} prompts is "
                f"expected, ({pool_size}, d)"
            )
        made = allocators.create(allocator)
        setting = Setting(
            Budget(prompts, rollouts),
            estimators.create(estimator),
            "prompt" if aggregation == "prompt" else "rollout",
            replicates=1,
            pool_size=pool_size,
            rng=np.random.default_rng(_seed(seed, Purpose.ALLOCATOR)),
            features=None if features is None else np.asarray(features)[None],
        )
        counted = PromptStream(pool_size, 1, _seed(seed, Purpose.STREAM))
        super().__init__(setting, counted if arriving is None else Arrivals(arriving, pool_size))
        self.threshold, self.no_verdict = threshold, no_verdict
        self.step = self.unverified = self.undelivered = 0
        self.conditions: dict[str, Any] = {
            "allocator": allocators.spec_of(made),
            "prompts": prompts,
            "rollouts": rollouts,
            "pool_size": pool_size,
            "estimator": estimators.spec_of(setting.estimator),
            "aggregation": setting.aggregation,
            "threshold": threshold,
            "no_verdict": no_verdict,
            "seed": seed,
            "fingerprint": fingerprint,
        }
        """What the coach was made with, by name: a saved one is restored under the same conditions only."""
        self._allocator = begin(self, made)
        self._held = Held(made.reusable)
        self._open: OpenStep | None = None
        self._rollouts: dict[int, T] = {}
        self._rewards: dict[int, float] = {}
        self._value: Callable[[FloatArray], FloatArray] | None = None

    # --- the three calls

    def ask(self) -> Ask | None:
        """What to sample next; None when all rollouts of the step are there. Asking twice is no harm."""
        if self._open is None:
            self._open = OpenStep(self, self._allocator)
        while (request := self._open.request) is not None:
            asked = request.counts[0] > 0
            if asked.any():
                return Ask(request.prompts[0, asked], request.counts[0, asked])
            self._open.deliver(Outcomes.none(request.prompts))
        return None

    def tell(
        self,
        rewards: npt.ArrayLike,
        rollouts: Sequence[T],
        *,
        prompts: npt.ArrayLike | None = None,
        success: npt.ArrayLike | None = None,
    ) -> None:
        """Answer the last `ask`: a reward and a rollout (N,) for each place of `Ask.each`.

        Where fewer came, `prompts` (N,) says of which prompt each is; the others cost nothing. A reward of
        NaN is no verdict. `success` (N,) is held against the threshold in place of the reward. Raises
        InputError, and changes nothing, where this does not fit what was asked.
        """
        ask = self.ask()
        if ask is None:
            raise InputError("nothing was asked for: call batch(), then ask() for the next step")
        told = np.asarray(rewards, dtype=np.float64).ravel()
        verdict = told if success is None else np.asarray(success, dtype=np.float64).ravel()
        of = ask.each if prompts is None else np.asarray(prompts, dtype=np.int64).ravel()
        _check_told(ask, of, told, verdict, len(rollouts))
        judged = judge(told, verdict, self.threshold, self.no_verdict)
        lost = judged.lost
        assert self._open is not None
        assert self._open.request is not None
        outcomes = _outcomes(self._open.request, of, judged.success, lost)
        keys = self._held.add(of[~lost], judged.success[~lost], self.step)
        for key, place in zip(keys.tolist(), np.flatnonzero(~lost).tolist(), strict=True):
            self._rollouts[key], self._rewards[key] = rollouts[place], float(judged.rewards[place])
        self.unverified += int(judged.unverified.sum())
        self.undelivered += int(ask.counts.sum()) - len(of)
        self._open.deliver(outcomes)

    def batch(self) -> Batch[T]:
        """What to train on. The step is over then, and the allocator has learned from it.

        Raises InputError where rollouts are still missing, ProtocolError where the allocator keeps rollouts
        that it gave up.
        """
        if self.ask() is not None:
            raise InputError("rollouts are missing: ask() and tell() until ask() returns None")
        assert self._open is not None
        assert self._open.groups is not None
        self._open.learn()
        found = self._batch(self._open.groups)
        self._held.end_step(int(self.ledger.held[0]), self._allocator.holding())
        for key in set(self._rollouts).difference(self._held.keys.tolist()):
            del self._rollouts[key], self._rewards[key]
        self._open = None
        self.step += 1
        return found

    def revalue(self, rewards: npt.ArrayLike) -> FloatArray:
        """Advantages (N,) of the last batch, had its rewards been these (N,): less a penalty, for instance.

        What is known only after the batch was chosen can enter so. Stored successes of option II keep theirs.
        Raises InputError where there was no batch.
        """
        if self._value is None:
            raise InputError("there was no batch yet: revalue() is for what batch() returned")
        return self._value(np.asarray(rewards, dtype=np.float64))

    # --- what the host may want to know

    @property
    def groups(self) -> Groups | None:
        """What the allocator trains on, (1, B): from when `ask` returned None until `batch` ends the step."""
        return None if self._open is None else self._open.groups

    def holding(self) -> list[T]:
        """Rollouts that a later batch may still name; the host can free all others."""
        return list(self._rollouts.values())

    def prompt(self, q: int) -> Any:
        """The prompt of an id, where prompts arrive. Raises InputError where they are rows of a data set."""
        if not isinstance(self.stream, Arrivals):
            raise InputError(f"prompt {q}: ids are rows of the data set here; only the host has them")
        return self.stream.prompts[q]

    def bill(self) -> dict[str, float]:
        """Totals since the start.

        `generated`, `trained` and `held` rollouts, `discarded/NAME` by reason, `stages`, `prompts` that got
        rollouts in a stage, `unverified` rollouts without a verdict, `undelivered` ones that were asked for
        and never came, and the `epoch`.
        """
        ledger = self.ledger
        names = "generated", "trained", "held", "stages", "prompts"
        totals = {name: float(getattr(ledger, name)[0]) for name in names}
        given_up = {f"discarded/{name}": float(count[0]) for name, count in ledger.discarded.items()}
        others = {"unverified": self.unverified, "undelivered": self.undelivered}
        epoch = max(int(self.stream.epoch[0]), 0)
        return {**totals, **given_up, **{name: float(n) for name, n in others.items()}, "epoch": float(epoch)}

    # --- saved and restored between two steps

    def state_dict(self) -> State:
        """Between two steps, everything that a resumed run needs. Raises InputError within a step."""
        if self._open is not None:
            raise InputError("a step is under way: save between batch() and the next ask()")
        keys = list(self._rollouts)
        return copy.deepcopy(
            {
                "conditions": self.conditions,
                "step": self.step,
                "unverified": self.unverified,
                "undelivered": self.undelivered,
                "stream": self.stream.state_dict(),
                "ledger": self.ledger.state_dict(),
                "allocator": self._allocator.state_dict(),
                "rng": self.setting.rng.bit_generator.state,
                "held": self._held.state_dict(),
                "keys": np.array(keys, dtype=np.int64),
                "rewards": np.array([self._rewards[key] for key in keys], dtype=np.float64),
                "rollouts": [self._rollouts[key] for key in keys],
            }
        )

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken. Raises InputError where that had other conditions."""
        for name, mine in self.conditions.items():
            theirs = state["conditions"][name]
            if theirs != mine:
                raise InputError(f"{name}={mine}: what was saved has {name}={theirs}")
        state = copy.deepcopy(state)
        self.step = int(state["step"])
        self.unverified, self.undelivered = int(state["unverified"]), int(state["undelivered"])
        self.stream.load_state_dict(state["stream"])
        self.ledger.load_state_dict(state["ledger"])
        self._allocator.load_state_dict(state["allocator"])
        self.setting.rng.bit_generator.state = state["rng"]
        self._held.load_state_dict(state["held"])
        keys = state["keys"].tolist()
        self._rewards = dict(zip(keys, state["rewards"].tolist(), strict=True))
        self._rollouts = dict(zip(keys, state["rollouts"], strict=True))
        self._open = None

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file, whole or not at all.

        Rollouts go into it as they were told, so they must be numbers, text or lists of them: keys in a store
        of the host's, not tensors. Raises InputError for others.
        """
        state = self.state_dict()
        odd = next((one for one in state["rollouts"] if not _is_plain(one)), None)
        if odd is not None:
            raise InputError(
                f"a rollout of type {type(odd).__name__} cannot be saved: tell keys (numbers or text), and "
                "keep what they stand for"
            )
        checkpoint.save(Path(path), state)

    def restore(self, path: str | Path) -> None:
        """Restore what `save` wrote. Raises InputError where it is damaged or of other conditions."""
        self.load_state_dict(checkpoint.load(Path(path)))

    # --- the rows behind the groups

    def _batch(self, groups: Groups) -> Batch[T]:
        try:
            kept, columns = self._held.take(groups)
            again, joined = self._held.reused(groups, self.step)
        except ValueError as error:
            raise ProtocolError(f"allocator {self.conditions['allocator']} {error}") from None
        sampled = np.argsort(kept[:, KEY])  # rows stand as they were sampled
        kept, columns = kept[sampled], columns[sampled]
        option = "" if groups.reused is None else groups.reused.option
        if option == "II":  # only in the group's mean and standard deviation
            rows, column, extra = kept, columns, self._rewards_of(again)
        else:
            rows, column, extra = (
                np.concatenate([kept, again]),
                np.concatenate([columns, joined]),
                np.zeros(0),
            )
        rewards = self._rewards_of(rows)
        self._value = partial(
            advantages_of,
            self.setting.estimator,
            groups,
            column=column,
            extra=extra,
            joined=joined[: len(extra)],
        )
        prompts, sizes = groups.prompts[0], groups.sizes[0]
        return Batch(
            [self._rollouts[key] for key in rows[:, KEY].tolist()],
            prompts[column],
            column,
            rewards,
            self._value(rewards),
            groups.weights[0][column],
            sizes[column],
            self.step - rows[:, STEP],
            np.arange(len(rows)) >= len(kept),
            option,
            int((prompts >= 0).sum()),
            int(sizes[prompts >= 0].sum()),
        )

    def _rewards_of(self, rows: IntArray) -> FloatArray:
        return np.array([self._rewards[key] for key in rows[:, KEY].tolist()], dtype=np.float64)


def _check_told(ask: Ask, of: IntArray, told: FloatArray, verdict: FloatArray, rollouts: int) -> None:
    """Raise InputError unless these rewards, prompts and verdicts (N,) answer what was asked."""
    if len(told) != len(of):
        raise InputError(
            f"{len(told)} rewards, where {len(of)} rollouts were asked for: where fewer came, give the "
            "prompt of each"
        )
    for name, count in (("rollouts", rollouts), ("values of success", len(verdict))):
        if count != len(told):
            raise InputError(f"{count} {name} for {len(told)} rewards: as many are expected")
    for name, values in (("rewards", told), ("success", verdict)):
        infinite = values[np.isinf(values)]
        if len(infinite):
            raise InputError(f"{name} have {infinite[0]}: finite numbers are expected, or NaN for no verdict")
    asked, allowed = np.unique(ask.each, return_counts=True)
    for prompt, count in zip(*np.unique(of, return_counts=True), strict=True):
        most = int(allowed[asked == prompt].sum())
        if count > most:
            raise InputError(f"{count} rollouts of prompt {prompt}, of which {most} were asked for")


def _outcomes(request: Request, of: IntArray, good: BoolArray, lost: BoolArray) -> Outcomes:
    """What came of a request for R = 1, from each rollout's prompt and verdict (N,).

    A prompt may stand in two places of a request, as at the turn of an epoch; the first is filled first.
    """
    prompts, counts = request.prompts[0], request.counts[0]
    places = np.argsort(prompts, kind="stable")
    slots = np.repeat(places, counts[places])  # one for each rollout that was asked for, prompts in order
    told = np.argsort(of, kind="stable")
    starts = np.searchsorted(prompts[slots], of[told])
    rank = np.arange(len(told)) - np.searchsorted(of[told], of[told])
    column = np.empty(len(of), dtype=np.int64)
    column[told] = slots[starts + rank]
    came, successes, missing = (
        np.bincount(column[rows], minlength=len(prompts))[None] for rows in (~lost, good, lost)
    )
    return Outcomes(request.prompts, came, successes, missing if lost.any() else None)


def _seed(seed: int, purpose: Purpose) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(0, purpose))


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value}: one of {', '.join(allowed)} is expected")


def _is_plain(rollout: Any) -> bool:
    try:
        json.dumps(rollout)
    except (TypeError, ValueError):
        return False
    return True
