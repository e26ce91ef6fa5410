"""What the README says is what the program does."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_line import run
from rich.console import Console

from rolloutbench import tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def recorded_table(name: str, scenario: str) -> str:
    """A table of a recorded comparison, made again from its summary."""
    folder = ROOT / "results" / name
    command = json.loads((folder / "conditions.json").read_text())["command"]
    assert f"--out results/{name}" in command
    table = tables.comparison(pd.read_csv(folder / "summary.csv"), scenario, "snr", "")
    text = io.StringIO()
    Console(file=text, width=132, no_color=True).print(table)
    return text.getvalue()


def test_the_table_is_the_recorded_one():
    for line in recorded_table("snapshot_default", "u-shaped-v1").splitlines():
        assert line.rstrip() in README, line


def test_every_number_with_an_interval_is_recorded():
    recorded = recorded_table("snapshot_default", "u-shaped-v1")
    recorded += recorded_table("snapshot_grpo_rollout", "u-shaped-v1")
    numbers = re.findall(r"\d\.\d+ ±\d\.\d+", README)
    assert len(numbers) > 50
    assert [number for number in numbers if number not in recorded] == []


def test_the_allocator_of_your_own_is_a_whole_program(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "mine.py").write_text(code)
    command = "compare -a ask_again -s weak-v1 --quick --prompts 16 --draws 8 --jobs 2 --out out --json"
    done = subprocess.run(
        [sys.executable, "mine.py", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {row["allocator"] for row in json.loads(done.stdout)["summary"]} == {"uniform", "ask_again"}


@pytest.mark.parametrize("line", re.findall(r"^rolloutbench .*$", README, re.MULTILINE))
def test_the_commands_shown_work(line, tmp_path, monkeypatch):
    command = line.removeprefix("rolloutbench ").partition("#")[0]
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("pass_rate,n\n0.25,8\n0.5,8\n1.0,8\n0,8\n")
    if command.startswith("compare"):  # the same, but small
        command = command.replace("-s all", "-s mid-v1") + " --quick --prompts 8"
    done = run(command)
    assert done.code == 0, done.err
    assert done.out


def test_files_and_links_exist():
    for path in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL).group(1)
    folder = Path()
    for line in tree.splitlines():
        names = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        for name in names.split(", "):
            if line.startswith(" "):
                assert (ROOT / folder / name.strip()).exists(), line
            else:
                folder = Path(name.strip())
                assert (ROOT / folder).is_dir(), line
