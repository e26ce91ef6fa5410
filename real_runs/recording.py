"""A score bank of a language model: rewards and sketched gradients of single rollouts, at some steps.

The prompts are the first of the training pool. Between the steps the model is trained by an allocator as
in a study. Sampling for the bank is a measurement and nobody's bill.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from real_runs.assumptions import agreement, assumption_tests, gradient_variance
from real_runs.rollouts import Rollouts
from real_runs.sketches import sketch
from real_runs.tasks import problems
from real_runs.training import TrainingCell, TrainingRun, start
from rolloutbench.analysis import tables as terminal
from rolloutbench.analysis.noise import NoiseFit, fit_noise
from rolloutbench.analysis.statistics import Estimate
from rolloutbench.protocol import InputError
from rolloutbench.score_bank import ScoreBank, write_bank

NO_TESTS = pd.DataFrame(
    columns=["test", "of", "statistic", "p_value", "permuted", "prompts", "verdict", "step"]
)
MOST_PROMPTS = 500
"""Most prompts that are recorded where nobody says how many."""
HALVES = {False: "the same rollouts", True: "other rollouts"}
"""Rollouts that a prediction knows: the measured ones, which flatters it; or others, whose noise blurs it."""
SPANS = {"gradient": "of a gradient", "failures": "of wrong rollouts", "success_noise": "correct / wrong"}
"""What is said of noise, by its name in `NoiseFit`, and the heading that the terminal gives it."""


@dataclass(frozen=True)
class Recorded:
    """A bank, further columns of its prompts, and what its scores say of noise and of VIP's formulas.

    `noise` has a row for each step, see `analysis.noise`: step, prompts, and each with _low and _high:
    gradient, failures (a scenario's noise_ratio) and success_noise.
    """

    bank: ScoreBank
    known: Mapping[str, Any]
    conditions: str
    noise: pd.DataFrame
    tests: pd.DataFrame
    variance: pd.DataFrame
    agreement: pd.DataFrame


def record(
    cell: TrainingCell,
    at: Sequence[int],
    prompts: int | None,
    rollouts: int,
    dimensions: int,
    about: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Recorded:
    """Train as `cell` does and take `rollouts` scores of each of `prompts` prompts after the steps `at`.

    Raises InputError where the pool has fewer prompts.
    """
    if getattr(cell.scenario.trainer, "lora", 0):
        raise InputError("--trainer: scores are of all weights, not of adapters; lora=0 is expected")
    pool, _ = problems(cell.scenario.task, cell.seed)
    prompts = min(MOST_PROMPTS, len(pool)) if prompts is None else prompts
    if prompts > len(pool):
        raise InputError(f"--pool {prompts}: the task's training pool has {len(pool)} prompts")
    with start(cell, tell) as run:
        if not isinstance(run, TrainingRun):
            raise InputError("--trainer: scores are taken between steps of our own trainer; ppo is expected")
        parts = []
        for step in range(max(at) + 1):
            if step in at:
                doing = f"step {step}: {prompts} prompts x {rollouts} rollouts"
                tell(doing)
                parts.append(_score(run, prompts, rollouts, dimensions, cell.seed, doing, tell))
            if step < max(at):
                tell(f"step {step}: training with {cell.allocator_name}")
                run.step()
        features = run.prepared.features[0, :prompts].astype(np.float32)
    scenario = cell.scenario
    facts = {
        "task": repr(scenario.task),
        "model": repr(scenario.model),
        "allocator": cell.allocator_name,
        "temperature": scenario.temperature,
        "dimensions": dimensions,
        "seed": cell.seed,
        **about,
    }
    sampled, sketches, norms = (list(column) for column in zip(*parts, strict=True))
    every = Rollouts.joined(sampled)
    bank = ScoreBank(
        prompts=every.prompts,
        steps=every.steps,
        rewards=every.successes,
        raw=np.nan_to_num(every.raw),
        norms=np.concatenate(norms),
        lengths=every.lengths,
        sketches=np.concatenate(sketches),
        features=features,
        about=facts,
    )
    known = {
        "text": [problem.prompt for problem in pool[:prompts]],
        "answer": [problem.answer for problem in pool[:prompts]],
        "level": [problem.level for problem in pool[:prompts]],
    }
    tell("tests")
    noise, tests, variance, agreeing = [], [], [], []
    for step in at:
        here = bank.at(step)
        noise.append(_noise(here, step))
        try:
            tests.append(assumption_tests(here).assign(step=step))
        except InputError as error:  # the bank is of use all the same
            tell(f"step {step}: no tests: {error}")
        for other, told in HALVES.items():
            found = gradient_variance(here, "rloo", scenario.group_size, other_half=other)
            variance.append(found.assign(predicted_from=told, step=step))
            agreeing.append(agreement(found).assign(predicted_from=told, step=step))
    conditions = (
        f"{cell.scenario_name}, {scenario.model_name}, {prompts} prompts x {rollouts} rollouts, groups of "
        f"{scenario.group_size}, seed {cell.seed}"
    )
    whole = (pd.concat(part, ignore_index=True) for part in (tests or [NO_TESTS], variance, agreeing))
    return Recorded(bank, known, conditions, pd.DataFrame(noise), *whole)


def _noise(bank: ScoreBank, step: int) -> dict[str, float]:
    found = fit_noise(bank.prompts, bank.steps, bank.rewards, bank.sketches)
    if found is None:
        nothing = Estimate(math.nan, math.nan, math.nan)
        found = NoiseFit(nothing, nothing, nothing, 0)
    row: dict[str, float] = {"step": step, "prompts": found.prompts}
    for name in SPANS:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = getattr(found, name)
    return row


def _score(
    run: TrainingRun,
    prompts: int,
    rollouts: int,
    dimensions: int,
    seed: int,
    doing: str,
    tell: Callable[[str], None],
) -> tuple[Rollouts, Any, Any]:
    environment = run.environment
    sampled, *_ = environment.sample(np.arange(prompts), np.full(prompts, rollouts))
    texts = [environment.pool.prompts[q] for q in sampled.prompts]
    network, temperature = environment.model.network, run.cell.scenario.temperature
    scores = sketch(
        network,
        texts,
        sampled.tokens,
        sampled.lengths,
        temperature,
        dimensions,
        seed,
        tell=lambda done: tell(f"{doing}, {done:,} of {len(texts):,} scores"),
    )
    return sampled, *scores


def write(found: Recorded, directory: Path) -> None:
    """Write the bank, and in `scores` tables and plots: so a bank can lie in its study's directory."""
    from rolloutbench.analysis.plotting.panels import save
    from rolloutbench.analysis.plotting.scores import variance_scatter

    write_bank(found.bank, directory, found.known)
    scores = directory / "scores"
    scores.mkdir(exist_ok=True)
    for name in ("noise", "tests", "variance", "agreement"):
        getattr(found, name).to_csv(scores / f"{name}.csv", index=False)
    facts = {"conditions": found.conditions, **found.bank.about}
    (scores / "about.json").write_text(json.dumps(facts, indent=1) + "\n")
    for (step, told), table in found.variance.groupby(["step", "predicted_from"]):
        about = f"{found.conditions}; after {step} steps; predicted from {told}"
        here = (found.agreement.step == step) & (found.agreement.predicted_from == told)
        name = f"variance_{step}{'_other' * (told == HALVES[True])}"
        save(variance_scatter(table, about, found.agreement[here]), scores, name)


def sheets(found: Recorded) -> list[terminal.Sheet]:
    """What the terminal shows: the tests, and how well the variance of gradients is predicted."""
    tests = found.tests.assign(p_value=[f"{p:.3g}" for p in found.tests.p_value])
    priorities = {"prompts": 1, "permuted": 2, "statistic": 3}
    noise = pd.DataFrame(
        {
            "step": found.noise.step,
            **{said: [_said(row, name) for _, row in found.noise.iterrows()] for name, said in SPANS.items()},
            "prompts": found.noise.prompts,
        }
    )
    said = (
        "What of a rollout's score has nothing to do with its reward, against what has, over prompts with "
        "two successes and two failures, 95% intervals. The last two are a scenario's: compare -s "
        "'u-shaped-adam-v1[noise_ratio=...,success_noise=...]'. Scenarios have 100 and 1 unless they say "
        "otherwise."
    )
    shown = [
        terminal.plain("noise of a rollout's score against its signal", noise, said),
        terminal.plain("tests of VIP's Assumption 4.1", tests, found.conditions, priorities),
    ]
    spans = found.agreement.assign(
        estimate=[
            f"{row.estimate:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.agreement.itertuples()
        ]
    ).drop(columns=["low", "high"])
    title = "predicted against measured variance of a prompt's gradient; 95% intervals over prompts"
    priorities = {"dropped": 1, "prompts": 2, "n": 3, "estimator": 4}
    shown.append(terminal.plain(title, spans, found.conditions, priorities))
    return shown


def _said(row: pd.Series[float], name: str) -> str:
    if math.isnan(row[name]):
        return "no such prompt"
    if math.isinf(row[name]):
        return "no signal"
    return f"{row[name]:.2g} [{row[f'{name}_low']:.2g}, {row[f'{name}_high']:.2g}]"


def as_json(found: Recorded) -> dict[str, Any]:
    """The tables as lists of rows, with the conditions."""
    rows = {name: terminal.as_records(getattr(found, name)) for name in ("noise", "tests", "agreement")}
    return rows | {"conditions": found.conditions}
