"""What all runs of a study share: the model before training, the prompts, and what is known of them.

Pass rates before training are measured once by unpaid rollouts and cached beside the model, like its
warm-up: they bin prompts by difficulty, and are the accuracy at step 0. Features of the prompts are kept
with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock
import numpy as np
import pandas as pd

from real_runs.engines import Engine, engine
from real_runs.models import LanguageModel, features
from real_runs.rollouts import Prompt
from real_runs.settings import RealScenario
from real_runs.tasks import Problem, Verifier, problems
from rolloutbench import checkpoint
from rolloutbench.cells.cell import source_digest
from rolloutbench.files import Damaged
from rolloutbench.protocol import FeatureArray, FloatArray, IntArray

HELD_OUT_TIMES = 2
"""Rollouts that measure a held-out prompt, as a multiple of those of a training prompt."""
ROLLOUTS_AT_ONCE = 2048
"""Rollouts that are sampled from one word of progress to the next, before training."""


@dataclass(frozen=True)
class Prompts:
    """Problems, their token ids, and successes and mean rewards (Q,) of `trials` rollouts before training."""

    problems: Sequence[Problem]
    prompts: Sequence[Prompt]
    successes: IntArray
    rewards: FloatArray
    trials: int

    @property
    def pass_rates(self) -> FloatArray:
        """Share of each prompt's trials that succeeded (Q,)."""
        return self.successes / self.trials


@dataclass(frozen=True)
class Prepared:
    """A model, its prompts, and features (Q, d) of the training prompts for predictors that read them."""

    model: LanguageModel
    train: Prompts
    held_out: Prompts
    features: FeatureArray


def new_engine(scenario: RealScenario, model: LanguageModel, seed: int) -> Engine:
    """Make the scenario's engine, which samples from `model`."""
    return engine(
        scenario.engine.name,
        model=model,
        max_new_tokens=scenario.task.max_new_tokens,
        temperature=scenario.temperature,
        seed=seed,
        stop=scenario.task.stop,
        **asdict(scenario.engine),
    )


def prepare(
    scenario: RealScenario, seed: int, cache: Path, tell: Callable[[str], None] = lambda doing: None
) -> Prepared:
    """Load or warm up the model, and measure the prompts where that was not done before.

    `tell` is told what is being done, in a few words.
    """
    tell("the model is loaded, or made if it is not in the cache")
    model = scenario.model.load(scenario.task, scenario.device, cache)
    both = problems(scenario.task, seed)
    trials = scenario.initial_rollouts, scenario.initial_rollouts * HELD_OUT_TIMES
    path = _measurements(scenario, seed, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        if not _is_measured(path):
            total = sum(len(part) * times for part, times in zip(both, trials, strict=True))
            measured, done = [], 0
            with closing(new_engine(scenario, model, seed)) as sampler, scenario.task.verifier() as verifier:
                for part, times in zip(both, trials, strict=True):
                    found = []
                    for few in _parts(part, times):
                        tell(f"pass rates before training, {done:,} of {total:,} rollouts")
                        found.append(measure(scenario, model, sampler, verifier, few, times))
                        done += len(few) * times
                    measured += [np.concatenate(part) for part in zip(*found, strict=True)]
            tell("features of the prompts")
            seen = features(model, both[0])
            names = "train", "train_rewards", "held_out", "held_out_rewards"
            checkpoint.save(path, {**dict(zip(names, measured, strict=True)), "features": seen})
        state = checkpoint.load(path)
    train, held_out = (
        Prompts(
            part,
            [model.encode(problem.question) for problem in part],
            state[name],
            state[f"{name}_rewards"],
            times,
        )
        for name, part, times in zip(("train", "held_out"), both, trials, strict=True)
    )
    return Prepared(model, train, held_out, state["features"][None])


def _parts(problems: Sequence[Problem], times: int) -> Iterator[Sequence[Problem]]:
    """Problems in parts, each of about `ROLLOUTS_AT_ONCE` rollouts."""
    size = max(ROLLOUTS_AT_ONCE // times, 1)
    for start in range(0, len(problems), size):
        yield problems[start : start + size]


def _is_measured(path: Path) -> bool:
    """Whether the measurements are there and as they were written; damaged ones are made again."""
    try:
        return path.exists() and bool(checkpoint.load(path))
    except Damaged:
        return False


def pass_rates(scenario: RealScenario, seed: int, cache: Path) -> pd.DataFrame:
    """Pass rates of the training prompts before training: a table of prompt, pass_rate and trials."""
    path = _measurements(scenario, seed, cache)
    if not _is_measured(path):  # the runs were made elsewhere
        prepare(scenario, seed, cache)
    successes = checkpoint.load(path)["train"]
    trials = scenario.initial_rollouts
    columns = {"prompt": np.arange(len(successes)), "pass_rate": successes / trials, "trials": trials}
    return pd.DataFrame(columns)


def _measurements(scenario: RealScenario, seed: int, cache: Path) -> Path:
    """Path of the measurements of these prompts by this model."""
    content = [scenario.before_training(seed), source_digest("real_runs")]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    return cache / "pass_rates" / f"{key}.safetensors"


def measure(
    scenario: RealScenario,
    model: LanguageModel,
    sampler: Engine,
    verifier: Verifier,
    of: Sequence[Problem],
    trials: int,
) -> tuple[IntArray, FloatArray]:
    """Successes and mean reward (Q,) of `trials` rollouts of each problem. Nobody pays for them."""
    prompts = [model.encode(problem.question) for problem in of]
    sampled = sampler.generate(prompts, np.full(len(of), trials))
    responses = [
        model.decode(tokens[:length]) for tokens, length in zip(sampled.tokens, sampled.lengths, strict=True)
    ]
    raw = verifier.score([of[place] for place in sampled.source], responses)
    judged = scenario.rewards.judge(scenario.task, raw, sampled.lengths)
    solved = np.bincount(sampled.source, judged.success, len(of)).astype(np.int64)
    return solved, np.bincount(sampled.source, judged.rewards, len(of)) / trials
