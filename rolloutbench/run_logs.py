"""Rewards that a training run logged: which prompts it rolled out when, and how often they succeeded.

Read are JSON lines and tables (tabular.py), one file or a directory of them:

    {"step": 3, "prompt_id": "a", "rewards": [0, 1, 1]}     one row a group
    {"step": 3, "input": "...", "score": 0.0}               one row a rollout, as verl dumps them
    step, prompt, completion, <reward>, advantage           TRL's completions, one row a rollout

A reward above the threshold is a success, as for an allocator. A rollout without a reward (null, NaN) has no
verdict: it is in no group, and counted. A prompt is told by its id, or by its whole text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rolloutbench.protocol import FloatArray, InputError, IntArray
from rolloutbench.registry import nearest
from rolloutbench.tabular import FORMATS, IDENTIFIERS, numbers, read_table, suffix_of

STEPS = ("step", "global_step", "global_steps", "training_step")
PROMPTS = (*IDENTIFIERS, "input")
REWARDS = ("rewards", "reward", "score", "scores", "acc")
"""Columns that are looked for where nobody names one, the likeliest first."""
NO_REWARD = ("advantage", "advantages", *STEPS)
"""Numeric columns of a trainer's log that are no rewards."""


@dataclass(frozen=True, eq=False)
class RunLog:
    """G groups in order of their steps: `steps`, `prompts` (ids 0..Q-1), `counts` and `successes`, all (G,).

    `names` (Q,) are the log's own of the prompts; `unverified` rollouts had no reward.
    """

    steps: IntArray
    prompts: IntArray
    counts: IntArray
    successes: IntArray
    names: Sequence[str]
    unverified: int

    @property
    def rates(self) -> FloatArray:
        """Share of successes of each group (G,)."""
        rates: FloatArray = self.successes / self.counts
        return rates

    @property
    def first_visits(self) -> IntArray:
        """The group (Q,) in which each prompt was rolled out for the first time."""
        return np.unique(self.prompts, return_index=True)[1]


def read_log(
    path: Path,
    step: str | None = None,
    prompt: str | None = None,
    reward: str | None = None,
    threshold: float = 0.5,
) -> RunLog:
    """The groups of a run's log; `step`, `prompt` and `reward` name columns that are not found by themselves.

    Raises InputError naming the file where it cannot be read or a column is missing or ambiguous.
    """
    table = pd.concat([_numbered(file) for file in _files(path)], ignore_index=True)
    step = _named(table, path, "step", step, STEPS)
    prompt = _named(table, path, "prompt", prompt, PROMPTS)
    reward = _named(table, path, "reward", reward, REWARDS, _rewards_of(table, prompt))
    steps = numbers(table[step])
    bad = ~(np.isfinite(steps) & (steps == np.rint(steps)))
    if bad.any():
        row = int(np.argmax(bad))
        said = table[step].iloc[row]
        raise InputError(f"{path}: column '{step}', row {row + 1}: {said}: a whole number is expected")
    names = [value if isinstance(value, str) else json.dumps(_plain(value)) for value in table[prompt]]
    rows, rewards = _each(table[reward], path, reward)
    verified = ~np.isnan(rewards)
    if not verified.any():
        raise InputError(f"{path}: column '{reward}' has no reward")
    frame = pd.DataFrame(
        {
            "step": steps[rows[verified]].astype(np.int64),
            "name": np.array(names, dtype=object)[rows[verified]],
            "good": rewards[verified] > threshold,
        }
    )
    groups = frame.groupby(["step", "name"], sort=False).good.agg(["size", "sum"]).reset_index()
    groups = groups.sort_values("step", kind="stable")
    prompts, known = pd.factorize(groups.name)
    return RunLog(
        groups.step.to_numpy(),
        prompts.astype(np.int64),
        groups["size"].to_numpy().astype(np.int64),
        groups["sum"].to_numpy().astype(np.int64),
        list(known),
        int((~verified).sum()),
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.is_file() and suffix_of(file) in FORMATS)
    if not found:
        raise InputError(f"{path}: holds no file of {', '.join(sorted(FORMATS))}")
    return found


def _numbered(file: Path) -> pd.DataFrame:
    """A file's rows; where they name no step, that of the file's name, as in verl's 12.jsonl."""
    table = read_table(file)
    number = re.search(r"(\d+)\.", file.name)
    if not any(name in table for name in STEPS) and number is not None:
        table["step"] = int(number.group(1))
    return table


def _named(
    table: pd.DataFrame,
    path: Path,
    what: str,
    given: str | None,
    likely: Sequence[str],
    others: Sequence[str] = (),
) -> str:
    """The column that holds `what`: as given, the first likely one, or the only other one that may."""
    columns = [str(name) for name in table.columns]
    if given is not None:
        if given not in columns:
            raise InputError(f"{path}: has no column '{given}': {nearest(given, columns)}")
        return given
    for name in likely:
        if name in columns:
            return name
    if len(others) == 1:
        return others[0]
    choice = f"one of {', '.join(others)}" if others else f"its columns are {', '.join(columns)}"
    raise InputError(f"{path}: which column is the {what}? Say --{what} NAME: {choice}")


def _rewards_of(table: pd.DataFrame, prompt: str) -> list[str]:
    """Columns of numbers that may be rewards, as TRL names them after its functions."""
    numeric = [str(name) for name in table.select_dtypes("number").columns]
    return [name for name in numeric if name not in NO_REWARD and name != prompt]


def _each(values: pd.Series[Any], path: Path, name: str) -> tuple[IntArray, FloatArray]:
    """The row and the reward (N,) of every rollout; a row holds one, or a list of them."""
    lists = [value if isinstance(value, list | tuple | np.ndarray) else [value] for value in values]
    rows = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
    flat = pd.Series([reward for one in lists for reward in one], dtype=object)
    rewards = pd.to_numeric(flat, errors="coerce").to_numpy(dtype=np.float64)
    bad = (np.isnan(rewards) & flat.notna().to_numpy() & (flat != "").to_numpy()) | np.isinf(rewards)
    if bad.any():
        place = int(np.argmax(bad))
        raise InputError(
            f"{path}: column '{name}', row {rows[place] + 1}: {str(flat[place])[:40]!r}: a number, a list of "
            "numbers, or null is expected"
        )
    return rows, rewards


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: a chat is a list of messages."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value.item() if isinstance(value, np.generic) else value
