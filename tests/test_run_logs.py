"""Logs of runs as trainers write them: whatever way, what comes of it is the same."""

import json

import numpy as np
import pandas as pd
import pytest

from rolloutbench.protocol import InputError
from rolloutbench.run_logs import read_log

GROUPS = [(0, "b", [0, 1, 1]), (0, "a", [0, 0, 0]), (1, "b", [1, 1, 1, None]), (1, "c", [0.4, 0.6])]


def one_by_one(reward="reward", prompt="prompt_id"):
    return pd.DataFrame([{"step": s, prompt: q, reward: r} for s, q, rewards in GROUPS for r in rewards])


def check(log):
    assert log.names == ["b", "a", "c"]
    assert log.steps.tolist() == [0, 0, 1, 1]
    assert log.prompts.tolist() == [0, 1, 0, 2]
    assert log.counts.tolist() == [3, 3, 3, 2]
    assert log.successes.tolist() == [2, 0, 3, 1]
    assert log.unverified == 1
    assert log.first_visits.tolist() == [0, 1, 3]


def test_groups_in_json_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": s, "prompt_id": q, "rewards": r}) for s, q, r in GROUPS]
    path.write_text("\n".join(lines))
    check(read_log(path))


def test_rows_of_rollouts(tmp_path):
    path = tmp_path / "log.csv"
    one_by_one().to_csv(path, index=False)
    check(read_log(path))
    one_by_one("mine", "text").to_csv(path, index=False)
    check(read_log(path, prompt="text"))  # the only numbers besides the step


def test_completions_of_trl(tmp_path):
    """A directory of Parquet files, one a logging step; chats for prompts; a column for each function."""
    table = one_by_one("accuracy_reward", "prompt")
    table["completion"], table["advantage"] = "text", 0.5
    for step, rows in table.groupby("step"):
        rows.to_parquet(tmp_path / f"completions_{step:05}.parquet")
    check(read_log(tmp_path))
    table["prompt"] = [[{"role": "user", "content": q}] for q in table.prompt]
    table["format_reward"] = 1.0
    for step, rows in table.groupby("step"):
        rows.to_parquet(tmp_path / f"completions_{step:05}.parquet")
    with pytest.raises(InputError, match="Say --reward NAME: one of accuracy_reward, format_reward"):
        read_log(tmp_path)
    log = read_log(tmp_path, reward="accuracy_reward")
    assert json.loads(log.names[0]) == [{"role": "user", "content": "b"}]
    assert log.counts.tolist() == [3, 3, 3, 2]


def test_rollouts_dumped_by_verl(tmp_path):
    """A file for each step, which the rows may not name."""
    for step, rows in one_by_one("score", "input").groupby("step"):
        dumped = rows.drop(columns="step").assign(output="text", gts="1")
        dumped.to_json(tmp_path / f"{step}.jsonl", orient="records", lines=True)
    check(read_log(tmp_path))


def test_the_threshold_is_of_the_rewards(tmp_path):
    path = tmp_path / "log.csv"
    one_by_one().to_csv(path, index=False)
    assert read_log(path, threshold=0.3).successes.tolist() == [2, 0, 3, 2]


@pytest.mark.parametrize(
    ("table", "how", "said"),
    [
        (
            pd.DataFrame({"step": [1], "id": ["a"]}),
            {},
            "which column is the reward.*its columns are step, id",
        ),
        (pd.DataFrame({"id": ["a"], "reward": [1]}), {}, "which column is the step"),
        (pd.DataFrame({"step": [1], "reward": [1]}), {}, "which column is the prompt"),
        (
            pd.DataFrame({"step": [1], "id": ["a"], "reward": [1]}),
            {"reward": "rewrad"},
            "did you mean reward",
        ),
        (pd.DataFrame({"step": [1.5], "id": ["a"], "reward": [1]}), {}, "row 1: 1.5: a whole number"),
        (pd.DataFrame({"step": [1], "id": ["a"], "reward": ["yes"]}), {}, "row 1: 'yes': a number"),
        (pd.DataFrame({"step": [1], "id": ["a"], "reward": [np.inf]}), {}, "row 1: 'inf': a number"),
        (pd.DataFrame({"step": [1], "id": ["a"], "reward": [None]}), {}, "has no reward"),
    ],
)
def test_wrong_logs(tmp_path, table, how, said):
    path = tmp_path / "log.csv"
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=said):
        read_log(path, **how)


def test_no_log(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_log(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="holds no file of .csv"):
        read_log(tmp_path)
