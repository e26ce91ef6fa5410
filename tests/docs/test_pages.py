"""The pages of docs/: what they show runs, and they have no number that is not read when they are built."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shown_commands import blocks, commands, run_small

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINES = dict.fromkeys(line for page in PAGES for line in commands(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_has_a_result_of_its_own(page):
    """Results have intervals; they come from `results/` when the site is built, so that none is ever old."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    assert re.findall(r"\d ?± ?\d|\d \[-?\d*\.\d+, -?\d*\.\d+\]", prose) == []


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
@pytest.mark.usefixtures("plots_unsaved")
def test_the_commands_shown_work(line, tmp_path, monkeypatch):
    run_small(line, tmp_path, monkeypatch)


def test_the_loop_of_your_own_runs():
    """As it stands on the page, with stand-ins for what the host brings."""
    code = next(code for code in blocks(DOCS / "quick_start.md", "python") if "Coach" in code)
    rng, updates = np.random.default_rng(0), []
    host = {
        "data": [f"prompt {q}" for q in range(40)],
        "steps": 4,
        "generate": lambda prompts: [f"answer to {prompt}" for prompt in prompts],
        "score": lambda texts: [None if rng.random() < 0.05 else float(rng.random() < 0.5) for _ in texts],
        "update": lambda *batch: updates.append(batch),
    }
    exec(code, host)
    assert len(updates) == 4
    for rollouts, advantages, shares in updates:
        assert len(rollouts) == len(advantages) == len(shares) > 40
        assert shares.sum() == pytest.approx(1)
    assert host["coach"].bill()["unverified"] > 0


def test_the_comparison_from_python_runs(capsys):
    (code,) = (code for code in blocks(DOCS / "quick_start.md", "python") if "rb.compare" in code)
    exec(code, {})
    assert "mopps" in capsys.readouterr().out


def test_the_recommendation_from_python_is_read_from_what_is_recorded(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks(DOCS / "tutorials/own_prompts.md", "python")
    exec(code, {})
    assert "mean gain in accuracy at equal seconds" in " ".join(capsys.readouterr().out.split())


def test_recorded_results_open_from_python(monkeypatch):
    monkeypatch.chdir(ROOT)
    (code,) = blocks(DOCS / "tutorials/reading_a_study.md", "python")
    found = {}
    exec(code, found)
    assert {"scenario", "allocator", "ratio"} <= set(found["results"].summary)


def test_the_solver_from_python_runs(capsys):
    (code,) = blocks(DOCS / "solvers.md", "python")
    exec(code, {})
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_allocator_of_your_own_passes_the_laws_that_its_page_shows(tmp_path):
    program, tests = blocks(DOCS / "tutorials/own_allocator.md", "python")
    (tmp_path / "mine.py").write_text(program)
    (tmp_path / "test_mine.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"\d\d passed", done.stdout)


def test_the_claim_of_the_tutorial_is_the_one_that_is_tested():
    (shown,) = blocks(DOCS / "tutorials/a_claim_checked.md", "toml")
    claims = (ROOT / "paper_figures" / "claims.toml").read_text()
    assert shown.strip() in claims


def test_files_of_the_tree_exist():
    tree = blocks(DOCS / "house.md", "text")[0]
    folder = Path()
    for line in tree.splitlines():
        names = line.split("  ")[0] if not line.startswith(" ") else line.strip().split("  ")[0]
        for name in names.split(", "):
            if line.startswith(" "):
                assert (ROOT / folder / name.strip()).exists(), line
            else:
                folder = Path(name.strip())
                assert (ROOT / folder).is_dir(), line


def test_links_of_the_pages_lead_somewhere_on_github_too():
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
            made = link in ("leaderboard.html", "methods/index.md")  # by the build
            assert made or (page.parent / link).exists(), (page, link)
