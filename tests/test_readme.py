"""What README says is what the program does and what is recorded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shown_commands import OWN, blocks, commands, run_small

from rolloutbench.allocators import allocators

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OURS = "https://github.com/rolloutbench/rolloutbench/blob/main/"
RAW = "https://raw.githubusercontent.com/rolloutbench/rolloutbench/main/"
sys.path.append(str(ROOT / "docs" / "generator"))


def test_two_screens_are_enough():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize(("file", "made"), [("README.md", 3), ("paper_figures/frontier.md", 8)])
def test_what_is_made_is_what_is_recorded(file, made):
    """`make readme` writes it anew."""
    readme = pytest.importorskip("readme", reason="the documentation needs the extra docs")
    assert ROOT / file in readme.FILES
    text = (ROOT / file).read_text()
    assert len(readme.MADE.findall(text)) == made
    assert readme.anew(text) == text


def test_situations_name_the_best_that_is_no_yardstick():
    situations = pytest.importorskip("situations")
    rows = [
        line.split(" | ") for line in README.splitlines() if situations.SITE + "leaderboard.html#" in line
    ]
    assert len(rows) >= 5
    for _, method, number, *_ in rows:
        if not number.startswith("[1]"):  # where equal groups are as good as anybody
            estimate, low, high = map(float, re.findall(r"\d+\.\d+", number)[:3])
            assert low <= estimate <= high
            assert (low >= 1) if "area" in number else (high < 1)
            assert "oracle" not in method


def test_real_training_calls_better_and_worse_what_clearly_is():
    pytest.importorskip("trained")
    made = README.split("<!-- made: trained -->")[1].split("<!-- end -->")[0]
    rows = [line.strip("| ").split(" | ") for line in made.splitlines() if line.startswith("| Sort")]
    assert rows
    for _, better, _, worse in rows:
        for found, clearly in ((better, lambda low, high: low > 1), (worse, lambda low, high: high < 1)):
            assert all(
                clearly(*map(float, ends)) for ends in re.findall(r"\[(-?[\d.]+), (-?[\d.]+)\]", found)
            )


def test_the_number_of_allocators_is_theirs():
    assert f"{len(allocators.builtin)} of them, one a file" in README


def test_every_paper_is_linked():
    made = (allocators.create(name).provenance for name in allocators.builtin)
    for source in made:
        if source is not None and source.paper:
            assert f"(https://arxiv.org/abs/{source.paper})" in README


def test_code_is_that_of_the_pages_which_is_run():
    trl, loop, own = blocks(ROOT / "README.md", "python")
    assert trl in blocks(ROOT / "docs/tutorials/in_trl.md", "python")
    assert loop in blocks(ROOT / "docs/quick_start.md", "python")
    assert own == OWN
    assert [len([line for line in code.splitlines() if line.strip()]) for code in (trl, own)] == [9, 15]


@pytest.mark.slow
def test_the_allocator_of_your_own_is_a_whole_program(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    command = "compare -a ask_again -s weak-cold-v1 --quick --prompts 16 --steps 5 --jobs 2 --out out --json"
    done = subprocess.run(
        [sys.executable, "mine.py", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {row["allocator"] for row in json.loads(done.stdout)["summary"]} == {"uniform", "ask_again"}


@pytest.mark.slow
@pytest.mark.parametrize("line", commands(ROOT / "README.md"))
@pytest.mark.usefixtures("plots_unsaved")
def test_the_commands_shown_work(line, tmp_path, monkeypatch):
    run_small(line, tmp_path, monkeypatch)


def test_commands_of_make_are_in_the_makefile():
    rules = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"make (?:-C \w+ )?([a-z-]+)", README)
    assert set(named) >= {"compare", "docs", "figures", "test", "check"}
    assert [name for name in named if name not in rules] == []


def test_it_renders_where_no_other_file_is():
    """On PyPI there is nothing beside it: every address is whole, and ours are of files that exist."""
    addresses = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(addresses) > 40
    assert [one for one in addresses if not one.startswith("https://")] == []
    for start in (OURS, RAW):
        ours = [one.removeprefix(start) for one in addresses if one.startswith(start)]
        assert ours
        assert [path for path in ours if not (ROOT / path).is_file()] == []
