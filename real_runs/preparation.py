"""What all runs of a study share: the model before training, the prompts, and what is known of them.

Pass rates before training are measured once by unpaid rollouts and cached beside the model, like its
warm-up: they bin prompts by difficulty, and are the accuracy at step 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import pandas as pd

from real_runs import checkpoint
from real_runs.engines import Engine, engine
from real_runs.models import LanguageModel, features
from real_runs.rollouts import Prompt
from real_runs.settings import RealScenario
from real_runs.tasks import Problem, Verifier, problems, rewards
from rolloutbench.experiment import describe, source_digest
from rolloutbench.protocol import FeatureArray, FloatArray, IntArray

HELD_OUT_TIMES = 2
"""Held-out prompts are measured with as many times the rollouts of training prompts."""


@dataclass(frozen=True)
class Prompts:
    """Problems, their token ids, and successes (Q,) of `trials` rollouts each before training."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    successes: IntArray
    trials: int

    @property
    def pass_rates(self) -> FloatArray:
        """Share of the trials that succeeded (Q,)."""
        return self.successes / self.trials


@dataclass(frozen=True)
class Prepared:
    """Model, prompts, and features (Q, d) of the training prompts for predictors that read them."""

    model: LanguageModel
    train: Prompts
    held_out: Prompts
    features: FeatureArray


def new_engine(scenario: RealScenario, model: LanguageModel, seed: int) -> Engine:
    """The scenario's engine."""
    return engine(
        scenario.engine,
        model=model,
        max_new_tokens=scenario.task.max_new_tokens,
        temperature=scenario.temperature,
        seed=seed,
    )


def prepare(scenario: RealScenario, seed: int, cache: Path) -> Prepared:
    """Load or warm up the model, and measure the prompts where that was not done before."""
    model = scenario.model.load(scenario.task, scenario.device, cache)
    both = problems(scenario.task, seed)
    trials = scenario.initial_rollouts, scenario.initial_rollouts * HELD_OUT_TIMES
    path = _measured(scenario, seed, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if not path.exists():
            sampler = new_engine(scenario, model, seed)
            with scenario.task.verifier() as verifier:
                measured = [
                    successes(scenario, model, sampler, verifier, part, times)
                    for part, times in zip(both, trials, strict=True)
                ]
            checkpoint.save(path, {"train": measured[0], "held_out": measured[1]})
        state = checkpoint.load(path)
    train, held_out = (
        Prompts(part, [model.encode(problem.prompt) for problem in part], state[name], times)
        for name, part, times in zip(("train", "held_out"), both, trials, strict=True)
    )
    return Prepared(model, train, held_out, features(model, both[0])[None])


def pass_rates(scenario: RealScenario, seed: int, cache: Path) -> pd.DataFrame:
    """Of the training prompts before training, as `prepare` measured them: prompt, pass_rate, trials."""
    path = _measured(scenario, seed, cache)
    if not path.exists():  # the runs were made elsewhere
        prepare(scenario, seed, cache)
    successes = checkpoint.load(path)["train"]
    trials = scenario.initial_rollouts
    columns = {"prompt": np.arange(len(successes)), "pass_rate": successes / trials, "trials": trials}
    return pd.DataFrame(columns)


def _measured(scenario: RealScenario, seed: int, cache: Path) -> Path:
    """Where the measurements of these prompts by this model are kept."""
    what = (
        scenario.task,
        scenario.data,
        scenario.model,
        scenario.engine,
        scenario.device,
        scenario.temperature,
    )
    content = [describe([*what, scenario.initial_rollouts, seed]), source_digest("real_runs")]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    return cache / "pass_rates" / f"{key}.safetensors"


def successes(
    scenario: RealScenario,
    model: LanguageModel,
    sampler: Engine,
    verifier: Verifier,
    of: Sequence[Problem],
    trials: int,
) -> IntArray:
    """How many of `trials` rollouts of each problem (Q,) succeed. Nobody pays for them."""
    prompts = [model.encode(problem.prompt) for problem in of]
    sampled = sampler.generate(prompts, np.full(len(of), trials))
    responses = [
        model.decode(tokens[:length]) for tokens, length in zip(sampled.tokens, sampled.lengths, strict=True)
    ]
    raw = verifier.score([of[place] for place in sampled.source], responses)
    given = rewards(raw, scenario.task.threshold)
    return np.bincount(sampled.source, given, len(of)).astype(np.int64)
