"""The wheel in an empty folder and an environment of its own: it needs no checkout, or says what of it."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rolloutbench

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
PACKAGES = ("rolloutbench", "simulators", "real_runs", "paper_figures")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel):
    """The installed program; its libraries are those of the environment that the tests run in."""
    place = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (libraries,) = place.glob("lib/python*/site-packages")
    (libraries / "libraries.pth").write_text("\n".join(f"{path}\n" for path in site.getsitepackages()))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", place / "bin" / "python"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--ignore-installed", wheel], check=True)
    return place / "bin" / "rolloutbench"


def run(program, command, folder):
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [program, *command.split()], cwd=folder, capture_output=True, text=True, env=variables
    )


def test_it_holds_every_file_that_the_packages_read(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    prose = {name for name in listed.stdout.split() if name.endswith(".md")}
    assert set(listed.stdout.split()) - prose <= files
    assert f"rolloutbench-{rolloutbench.__version__}.dist-info/METADATA" in files


@pytest.mark.parametrize(
    "command",
    [
        "--version",
        "list allocator",
        "solve --p 0.1,0.5,0.9 --budget 24 --objective rloo",
        "compare -a mopps -s u-shaped-v1 --quick --prompts 8 --steps 3 --jobs 1 --out study",
        "compare --config paper_figures/studies/epochs.toml -s u-shaped-v1 --replicates 2 --steps 1 "
        "--prompts 4 -a vip[predictor=beta] --jobs 1 --learning-rates 1 --out described",
        "recommend -s u-shaped-v1 -a mopps --quick --prompts 8 --steps 3 --jobs 1",
        f"recommend --like {RESULTS / 'learning_all'}",
        f"leaderboard {RESULTS / 'learning_default'}",
        f"show {RESULTS / 'learning_default'} --format latex",
        f"figures vip_tables5to8 vip_fig2 --results {RESULTS}",
        f"claims vip-gain --results {RESULTS}",
        "new own_rule",
    ],
)
def test_what_is_installed_works_in_an_empty_folder(program, command, tmp_path):
    done = run(program, command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", ["claims vip-gain", "figures vip_tables5to8", "figures vip_table1"])
def test_what_was_recorded_and_is_not_in_the_wheel_is_said_in_one_line(program, command, tmp_path):
    done = run(program, command, tmp_path)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("rolloutbench: error: ")]
    assert len(said) == 1
    assert "--results takes the folder results/ of a clone of https://github.com/" in said[0]


@pytest.mark.torch
def test_the_demonstration_of_a_real_run_is_in_it(program, tmp_path):
    small = "--steps 2 --prompts 8 --group-size 2 --seeds 2 --device cpu --jobs 1"
    task = "--task sorting[longest=4,pool_size=80,held_out=16] --model tiny[width=32,warmup_steps=5]"
    done = run(program, f"train real_runs/demo.toml {small} {task} --out demo", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "summary.csv").exists()
