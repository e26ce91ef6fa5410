"""Which allocator to use, in words and as lines to paste, from results of training runs like the reader's.

Who is recommended is the best of the methods that were measured in every scenario, by the mean gain at equal
price, if its whole 95% interval is better than uniform's. Those whose intervals overlap with its own cannot
be told from it. Controls, smaller groups and bounds, which are told the true p, are never recommended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rolloutbench.allocators import allocators
from rolloutbench.analysis.leaderboard import PRICES, Row, Standing, rows, stand
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.statistics import Estimate
from rolloutbench.analysis.tables import escaped
from rolloutbench.analysis.yardsticks import bounds_said, is_yardstick
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.coach import Coach
from rolloutbench.protocol import InputError
from rolloutbench.registry import nearest

MOST_ROWS = 8
"""Rows of a micro-batch that GRPOConfig has by default."""
BUDGET = re.compile(r"(\d+) steps of (\d+) prompts x (\d+) rollouts")
"""How a caption says a run's budget."""


def check_price(price: str) -> None:
    """Raise InputError where this is nothing that can be paid."""
    if price not in PRICES:
        raise InputError(f"price {price}: {' or '.join(PRICES)} is expected")


def best_of(stands: Sequence[Standing]) -> tuple[Standing | None, tuple[str, ...]]:
    """The best method of some standings, None if none is better than uniform, and who cannot be told from it.

    Yardsticks are passed over, and so is who was not measured in every scenario.
    """
    able = [one for one in stands if one.is_complete and not is_yardstick(one.allocator)]
    best = next((one for one in able if one.verdict == "better"), None)
    if best is None:
        return None, ()
    equals = (
        one.allocator
        for one in able
        if one is not best
        and one.allocator != BASELINE
        and one.ratio.low <= best.ratio.high
        and best.ratio.low <= one.ratio.high
    )
    return best, tuple(equals)


@dataclass(frozen=True)
class Recommendation:
    """Whom results recommend at a price, what it saves, and the lines that train with it.

    `best` is None where no method is better than uniform. `equals` cannot be told from it. `elsewhere` are
    methods that are better than uniform only at the other price. `shares` has what the best saves of the
    `rollouts` and the `seconds` that uniform spends until 90% of the gain, with the ends of the 95% interval.
    `saves` has the same in numbers, and as `gpu_hours` and `money`, where there is one scenario and a price.
    `print(it)` shows all of it.
    """

    results: Results
    price: str
    best: Standing | None
    equals: tuple[str, ...]
    elsewhere: tuple[Standing, ...]
    stands: tuple[Standing, ...]
    saves: dict[str, Estimate]
    shares: dict[str, Estimate]
    trl: str
    verl: str

    @classmethod
    def of(
        cls,
        results: Results,
        price: str = "rollouts",
        scenarios: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> Recommendation:
        """What results say; of some scenarios or allocators only, where these are named.

        Raises InputError where they are not of training runs, or have none of these names, or were made under
        several conditions.
        """
        check_price(price)
        chosen = results.shown_scenarios()
        for name in scenarios:
            if name not in chosen:
                raise InputError(f"scenario {name}: was not measured: {nearest(name, chosen)}")
        for name in names:
            if name not in results.members:
                raise InputError(f"allocator {name}: was not measured: {nearest(name, results.members)}")
        if scenarios:
            captions = {name: results.record["captions"][name] for name in scenarios}
            results, chosen = replace(results, record={**results.record, "captions": captions}), [*captions]
        found = [row for row in rows([results]) if not names or row.allocator in (BASELINE, *names)]
        conditions = dict.fromkeys(row.condition for row in found)
        if len(conditions) > 1:
            raise InputError(f"{results.directory}: conditions {'; '.join(conditions)}: one is expected")
        stands = stand(found, f"area_over_{price}")
        best, equals = best_of(stands)
        here = {one.allocator for one in stands if one.verdict == "better"}
        (other,) = (one for one in PRICES if one != price)
        elsewhere = tuple(
            one
            for one in stand(found, f"area_over_{other}")
            if one.verdict == "better" and one.allocator not in here and not is_yardstick(one.allocator)
        )
        saves = {} if best is None else _saves(results, best.allocator, chosen)
        shares = {} if best is None else dict(_shares(found, best.allocator))
        trl, verl = ("", "") if best is None else _lines(results, best.allocator, chosen[0])
        return cls(results, price, best, equals, elsewhere, tuple(stands), saves, shares, trl, verl)

    @property
    def allocator(self) -> str:
        """The spec of whom to use: `uniform` where nobody is better."""
        return BASELINE if self.best is None else self.best.allocator

    @property
    def words(self) -> list[str]:
        """The recommendation in sentences: who, what it saves, who is left out, conditions and caution."""
        return [*self._who(), *self._what_it_saves(), *self._with_care()]

    def _who(self) -> Iterator[str]:
        (other,) = (name for name in PRICES if name != self.price)
        only = ", ".join(f"{one.allocator} ({_said(one.ratio, 3)})" for one in self.elsewhere)
        parts = [f"{only} only if {other} count"] if only else []
        if self.best is None:
            measured = f"no allocator has more than {BASELINE}'s mean gain at equal {self.price}"
            yield "; ".join([f"{BASELINE}: {measured}", *parts]) + "."
            return
        equals = _listed(self.equals)
        parts = [*([f"{equals} cannot be told from it"] if equals else []), *parts]
        said = f"{_said(self.best.ratio, 3)} times {BASELINE}'s mean gain in accuracy at equal {self.price}"
        yield "; ".join([f"{self.best.allocator}: {said}", *parts]) + "."

    def _what_it_saves(self) -> Iterator[str]:
        if self.best is None:
            return
        if not self.shares:
            yield f"What it saves is not known: there are no times to 90% of the gain of {BASELINE}'s run."
            return
        said = [
            f"{'saves' if share.estimate >= 0 else 'takes'} {_said(_positive(share), 0, 100)}% "
            f"{'of the' if share.estimate >= 0 else 'more'} {price}{self._in_numbers(price)}"
            for price, share in self.shares.items()
        ]
        yield f"Until 90% of the gain of {BASELINE}'s run it {'; it '.join(said)}."

    def _in_numbers(self, price: str) -> str:
        """What it saves in rollouts, or in GPU hours and money, where one scenario says it."""
        if price not in self.saves:
            return ""
        if price == "rollouts":
            return f", {_said(_positive(self.saves['rollouts']), 0)} of them"
        gpus = f"{self.results.gpus} GPU{'s' * (self.results.gpus > 1)} at once"
        hours = f", {_said(_positive(self.saves['gpu_hours']), 1)} GPU hours with {gpus}"
        money = self.saves.get("money")
        return hours if money is None else f"{hours}, which cost {_said(_positive(money), 0)}"

    def _with_care(self) -> Iterator[str]:
        if bounds := bounds_said(one.allocator for one in self.stands):
            yield f"{bounds}; never recommended."
        yield f"Conditions: {self._conditions}."
        compared = sum(one.allocator != BASELINE for one in self.stands)
        yield (
            f"In brackets are 95% intervals, paired by replicate. They are not widened for the {compared} "
            "comparisons, and the best of many is flattered. "
            "Another estimator, mean, optimizer, budget or number of epochs can change who wins."
        )

    @property
    def _conditions(self) -> str:
        captions: dict[str, str] = self.results.record["captions"]
        return next(iter(captions.values())) if len(captions) == 1 else self.results.conditions

    @property
    def pasted(self) -> dict[str, str]:
        """The lines to paste, by trainer; none where equal groups are as good."""
        return {name: lines for name, lines in (("TRL", self.trl), ("verl", self.verl)) if lines}

    def __str__(self) -> str:
        boxes = (f"{name}:\n\n{lines}" for name, lines in self.pasted.items())
        return "\n\n".join(["\n".join(self.words), *boxes])

    def _repr_markdown_(self) -> str:
        """The words and the lines as a notebook shows them."""
        boxes = [("python", self.trl), ("sh", self.verl)]
        lines = [*map(escaped, self.words), *(f"```{kind}\n{text}\n```" for kind, text in boxes if text)]
        return "\n\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything, ready for JSON: a ratio is its estimate and both ends of its interval."""
        return {
            "recommended": self.allocator,
            "price": self.price,
            "ratio": None if self.best is None else list(self.best.ratio),
            "cannot_be_told_from_it": list(self.equals),
            "only_at_the_other_price": {one.allocator: list(one.ratio) for one in self.elsewhere},
            "saves": {name: list(one) for name, one in self.saves.items()},
            "saves_shares": {name: list(one) for name, one in self.shares.items()},
            "conditions": self._conditions,
            "trl": self.trl,
            "verl": self.verl,
        }


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def _said(ratio: Estimate, digits: int, scale: float = 1.0) -> str:
    estimate, low, high = (f"{scale * part:,.{digits}f}" for part in ratio)
    return f"{estimate} [{low}, {high}]"


def _positive(saved: Estimate) -> Estimate:
    """What is saved; or what more is spent, where nothing is."""
    return saved if saved.estimate >= 0 else Estimate(-saved.estimate, -saved.high, -saved.low)


def _shares(found: Sequence[Row], best: str) -> Iterator[tuple[str, Estimate]]:
    """What the best saves of what uniform spends until 90% of the gain, at each price where all got there."""
    for price in PRICES:
        for one in stand(found, f"{price}_to_90"):
            if one.allocator == best and one.is_complete:
                estimate, low, high = one.ratio
                yield price, Estimate(1 - estimate, 1 - high, 1 - low)


def _saves(results: Results, best: str, scenarios: Sequence[str]) -> dict[str, Estimate]:
    """What the best spends less than uniform until 90% of the gain, where there is one scenario to say it."""
    if len(scenarios) > 1:
        return {}
    saves = {}
    for price in PRICES:
        here = results.of_metric(results.shown(f"{price}_to_90"), scenarios[0])
        if best not in here.index:
            return {}
        ends = here.loc[[best], ["difference", "difference_high", "difference_low"]].to_numpy(np.float64)
        saves[price] = Estimate(*map(float, -ends[0]))
    saves["gpu_hours"] = Estimate(*(part * results.gpus / 3600 for part in saves["seconds"]))
    money = results.record.get("price_per_gpu_hour")
    if money is not None:
        saves["money"] = Estimate(*(part * money for part in saves["gpu_hours"]))
    return saves


# Lines to paste


def _lines(results: Results, spec: str, scenario: str) -> tuple[str, str]:
    """The lines for TRL and for verl, under the estimator, the mean and the budget of a scenario."""
    record = results.record
    estimator, aggregation = record["estimator"], record["aggregation"]
    if under := record.get("under", {}).get(scenario):
        estimator, aggregation, _ = under.rsplit("-", 2)
    budget = BUDGET.search(record["captions"][scenario])
    prompts, each = (int(budget[2]), int(budget[3])) if budget else (64, 8)
    features = _reads_features(spec, prompts, each)
    return (
        for_trl(spec, estimator, aggregation, prompts, each, features),
        for_verl(spec, estimator, aggregation, prompts, each, features),
    )


def _reads_features(spec: str, prompts: int, group_size: int) -> bool:
    """Whether an allocator that is registered here cannot do without vectors of the prompts."""
    made = allocators.create(spec) if allocators.class_of(spec.partition("[")[0]) else None
    if made is None:
        return False
    try:
        Coach(made, prompts=prompts, rollouts=prompts * group_size, pool_size=prompts, estimator="grpo")
    except InputError:
        return True
    return False


def for_trl(
    spec: str, estimator: str, aggregation: str, prompts: int, group_size: int, features: bool = False
) -> str:
    """Python that trains in TRL with an allocator; `model`, `reward` and `data` are the reader's own."""
    size = prompts * group_size
    rows = math.gcd(size, MOST_ROWS)
    config = [
        f"num_generations={group_size},",
        f"generation_batch_size={size},",
        *([f"per_device_train_batch_size={rows},"] if rows < MOST_ROWS else []),
        'loss_type="grpo",',
        f'scale_rewards="{"group" if estimator == "grpo" else "none"}",',
    ]
    others = [
        f'allocator="{spec}",',
        *([] if estimator in ("grpo", "dr_grpo") else [f'estimator="{estimator}",']),
        *(['aggregation="prompt",'] if aggregation == "prompt" else []),
        *(["features=embed,  # of the prompts' words"] if features else []),
    ]
    return "\n".join(
        [
            "from trl import GRPOConfig",
            *(["from rolloutbench.embedding import embed"] if features else []),
            "from rolloutbench.integrations.trl import AllocatedGRPOTrainer",
            "",
            "trainer = AllocatedGRPOTrainer(",
            "    model=model,",
            "    reward_funcs=reward,",
            "    args=GRPOConfig(",
            *(f"        {line}" for line in config),
            "    ),",
            "    train_dataset=data,",
            *(f"    {line}" for line in others),
            ")",
            "trainer.train()",
        ]
    )


def for_verl(
    spec: str, estimator: str, aggregation: str, prompts: int, group_size: int, features: bool = False
) -> str:
    """A command that trains in verl with an allocator; model and data are the reader's own."""
    known = estimator in ("grpo", "dr_grpo", "rloo")
    settings = [
        "trainer.v1.trainer_mode=rolloutbench",
        f"+trainer.v1.rolloutbench.allocator='{spec}'",
        *([] if known else [f"+trainer.v1.rolloutbench.estimator='{estimator}'"]),
        *(["+trainer.v1.rolloutbench.aggregation=prompt"] if aggregation == "prompt" else []),
        *(["+trainer.v1.rolloutbench.features=features.npy"] if features else []),
        f"algorithm.adv_estimator={'rloo' if estimator == 'rloo' else 'grpo'}",
        f"algorithm.norm_adv_by_std_in_grpo={'false' if estimator == 'dr_grpo' else 'true'}",
        f"data.train_batch_size={prompts}",
        f"actor_rollout_ref.rollout.n={group_size}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={prompts}",
        "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean",
    ]
    quoted = (f'"{one}"' if "'" in one else one for one in settings)
    lines = ["python -m verl.trainer.main_ppo", *(f"    {one}" for one in quoted)]
    return " \\\n".join([*lines, '    "$@"'])
