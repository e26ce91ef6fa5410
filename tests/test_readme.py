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
from rolloutbench.results import open_results
from simulators.scenarios import DEFAULT_SCENARIOS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def shown(table) -> str:
    text = io.StringIO()
    Console(file=text, width=tables.WIDTH, no_color=True).print(table)
    return text.getvalue()


def recorded(name: str, table: str) -> pd.DataFrame:
    """A table of a recorded study."""
    results = open_results(ROOT / "results" / name)
    assert f"--out results/{name}" in results.record["command"]
    return results.table(table)


def recorded_table(name: str, scenario: str, sort: str, *columns) -> str:
    """What the terminal showed of one scenario, made again from the recorded summary."""
    return shown(tables.comparison(recorded(name, "summary"), scenario, sort, "", *columns))


TABLES = {
    "learning": lambda: recorded_table(
        "learning_default", "u-shaped-v1", "area_over_rollouts", tables.LEARNING_COLUMNS
    ),
    "all scenarios": lambda: shown(tables.across_scenarios(recorded("learning_default", "ranking"), "")),
    "own learning rate": lambda: recorded_table(
        "learning_rates", "u-shaped-v1", "tuned_area_over_rollouts", tables.TUNED_COLUMNS
    ),
    "prediction": lambda: recorded_table(
        "prediction_default", "u-shaped-v1", "brier_later", tables.PREDICTION_COLUMNS, "predictor"
    ),
    "real": lambda: recorded_table("real_sorting", "sorting", "area_over_rollouts", tables.LEARNING_COLUMNS),
    "replay": lambda: recorded_table("real_sorting_replay", "replay:real_sorting", "snr"),
    "snapshot": lambda: recorded_table("snapshot_default", "snapshot-u-shaped-v1", "snr"),
}
QUOTED = {
    "grpo": lambda: recorded_table("snapshot_grpo_rollout", "snapshot-u-shaped-v1", "snr"),
    **{
        scenario: lambda scenario=scenario: recorded_table(
            "learning_default", scenario, "area_over_rollouts", tables.LEARNING_COLUMNS
        )
        for scenario in DEFAULT_SCENARIOS
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_are_the_recorded_ones(name):
    lines = [line.rstrip() for line in TABLES[name]().splitlines() if "±" in line or "[" in line]
    assert len(lines) > 5
    assert [line for line in lines if line not in README] == []


def test_every_number_with_an_interval_is_recorded():
    everything = "".join(make() for make in (TABLES | QUOTED).values())
    numbers = re.findall(r"\d\.\d+ ±\d\.\d+", README)
    assert len(numbers) > 50
    assert [number for number in numbers if number not in everything] == []


def spans(rows: pd.DataFrame, *names: str) -> list[str]:
    return [f"{row[names[0]]:.2f} [{row[names[1]]:.2f}, {row[names[2]]:.2f}]" for _, row in rows.iterrows()]


def test_what_is_said_of_real_runs_is_recorded():
    """Every `estimate [low, high]` with two digits: agreement of rankings, and of variances."""
    folder = ROOT / "results" / "real_sorting"
    known = []
    for name in ("validation", "validation_default"):
        known += spans(pd.read_csv(folder / name / "validation.csv"), "tau", "tau_low", "tau_high")
    scores = pd.read_csv(ROOT / "results" / "real_sorting_scores" / "agreement.csv")
    known += spans(scores[scores.metric == "spearman"], "estimate", "low", "high")
    section = README[README.index("## Real runs") : README.index("## The papers' figures")]
    said = re.findall(r"-?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\]", " ".join(section.split()))
    assert len(said) >= 13
    assert [span for span in said if span not in known] == []
    tests = pd.read_csv(ROOT / "results" / "real_sorting_scores" / "tests.csv")
    assert (tests.p_value.dropna() < 1e-6).all()
    assert set(tests.step) == {0, 50, 100}


def test_the_allocator_of_your_own_is_a_whole_program(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "mine.py").write_text(code)
    command = "compare -a ask_again -s weak-cold-v1 --quick --prompts 16 --steps 5 --jobs 2 --out out --json"
    done = subprocess.run(
        [sys.executable, "mine.py", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {row["allocator"] for row in json.loads(done.stdout)["summary"]} == {"uniform", "ask_again"}


STUDY = re.search(r"```toml\n(.*?)```", README, re.DOTALL).group(1)


@pytest.mark.parametrize("line", re.findall(r"^rolloutbench .*$", README, re.MULTILINE))
def test_the_commands_shown_work(line, tmp_path, monkeypatch):
    command = line.removeprefix("rolloutbench ").partition("#")[0]
    monkeypatch.chdir(tmp_path)
    Path("results").symlink_to(ROOT / "results")
    Path("study.toml").write_text(STUDY)
    Path("mine.csv").write_text("pass_rate,n\n0.25,8\n0.5,8\n1.0,8\n0,8\n")
    if command.startswith("compare"):  # the same, but small
        command = command.replace("-s all", "-s mid-broad-v1") + " --quick --prompts 8"
        command += "" if "--snapshot" in command else " --steps 5"
        command = command.replace(" --steps 5", "") if "replay:" in command else command
    if command.startswith(("train", "record")):  # a far smaller model
        Path("real_runs").symlink_to(ROOT / "real_runs")
        command += " --task sorting[longest=4,pool_size=80,held_out=16] --model tiny[width=32,warmup_steps=5]"
        monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path / "cache"))
    if command.startswith("train"):
        command += " --steps 2 --prompts 8 --group-size 2 --seeds 2"
    if command.startswith("record"):
        command += " --pool 8 --rollouts 8 --at-steps 0,2 --dimensions 64"
    if command.startswith("figures"):
        command = (
            command.replace(" --quick", "").replace("figures vip", "figures vip_fig2 vip_fig6") + " --quick"
        )
    if command.startswith("predict"):
        command = command.replace("u-shaped-v1", "u-shaped-v1[steps=5,pool_size=128]")
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
