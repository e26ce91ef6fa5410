"""What the README says is what the program does."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from rolloutbench import cli, tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RECORDED = ROOT / "results" / "snapshot_default"


def test_the_table_is_the_recorded_one():
    conditions = json.loads((RECORDED / "conditions.json").read_text())
    assert conditions["command"].split("--out")[1].split()[0] == "results/snapshot_default"
    summary = pd.read_csv(RECORDED / "summary.csv")
    table = tables.comparison(summary, "u-shaped-v1", "snr", "")
    text = io.StringIO()
    Console(file=text, width=132, no_color=True).print(table)
    for line in text.getvalue().splitlines():
        assert line.rstrip() in README, line


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
def test_the_commands_shown_work(line, tmp_path, monkeypatch, capsys):
    arguments = shlex.split(line, comments=True)[1:]
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("pass_rate,n\n0.25,8\n0.5,8\n1.0,8\n0,8\n")
    if arguments[0] == "compare":  # the same, but small
        arguments += ["--quick", "--prompts", "8"]
        arguments = ["mid-v1" if argument == "all" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["rolloutbench", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert capsys.readouterr().out


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
