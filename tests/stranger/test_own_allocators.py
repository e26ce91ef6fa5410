"""An allocator of one's own as a stranger meets it: installed packages, scripts, notebooks, a single core."""

import json
import os
import re
import shutil
import site
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
pytestmark = pytest.mark.slow
SMALL = "compare -s weak-cold-v1 --quick --prompts 8 --steps 2"


class Done(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str


def run(command, where, python=None, **environment):
    """A command in a directory, without what this process has on its path."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | environment
    done = subprocess.run(
        [str(python or PYTHON), *command], cwd=where, capture_output=True, text=True, env=variables
    )
    return Done(done.returncode, done.stdout, done.stderr)


def ok(command, where, **how):
    done = run(command, where, **how)
    assert done.code == 0, done.err
    return done.out


PYTHON = None
"""Of the fresh environment."""


@pytest.fixture(scope="module", autouse=True)
def fresh(tmp_path_factory):
    """A fresh environment with this program, and a package made by `new`, really installed.

    The libraries are those of the environment that the tests run in, which takes seconds, not minutes.
    """
    global PYTHON
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    PYTHON = folder / "venv" / "bin" / "python"
    (libraries,) = (folder / "venv").glob("lib/python*/site-packages")
    (libraries / "libraries.pth").write_text("\n".join(f"{path}\n" for path in site.getsitepackages()))
    source = folder / "source"
    source.mkdir()
    for name in ("rolloutbench", "simulators", "real_runs", "paper_figures"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    install(source)
    where = ok(["-c", "import rolloutbench; print(rolloutbench.__file__)"], folder)
    assert Path(where.strip()).is_relative_to(libraries)
    ok(["-m", "rolloutbench", "new", "stranger_again"], folder)
    ok(["-m", "rolloutbench", "new", "stranger_belief", "--predictor", "--out", "belief"], folder)
    install(folder / "stranger_again")
    install(folder / "belief")
    return folder


def install(package, *where):
    pip = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(PYTHON), "install"),
        *("--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall", str(package), *where),
    ]
    subprocess.run(pip, check=True, capture_output=True, text=True)


def rolloutbench(command):
    return ["-m", "rolloutbench", *command.split()]


def summary(directory):
    table = pd.read_csv(directory / "summary.csv")
    own = [name for name in table.columns if "allocator_seconds" not in name]
    return table[own].sort_values([*own[:2]]).reset_index(drop=True)


def assert_same_results(one, other):
    pd.testing.assert_frame_equal(summary(one), summary(other), check_exact=True)


# --- a package


def test_a_new_package_is_known_conforms_and_runs_its_tests(fresh, tmp_path):
    assert "stranger_again" in ok(rolloutbench("list allocator"), tmp_path)
    card = json.loads(ok(rolloutbench("check stranger_again --json"), tmp_path))
    assert card["conforms"]
    assert {law["outcome"] for law in card["laws"]} == {"holds"}
    done = ok(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(fresh / "stranger_again")], tmp_path)
    assert "15 passed" in done


def test_a_new_predictor_too(fresh, tmp_path):
    card = json.loads(ok(rolloutbench("check stranger_belief --json"), tmp_path))
    assert (card["kind"], card["conforms"]) == ("predictor", True)
    assert "passed" in ok(["-m", "pytest", "-q", "-p", "no:cacheprovider", str(fresh / "belief")], tmp_path)
    ok(rolloutbench(f"{SMALL} -a vip[predictor=stranger_belief] --jobs 2 --out out"), tmp_path)


def test_an_installed_package_runs_on_any_number_of_processes(tmp_path):
    for jobs in (1, 2):
        ok(rolloutbench(f"{SMALL} -a stranger_again[share=0.25] --jobs {jobs} --out {jobs}"), tmp_path)
    assert_same_results(tmp_path / "1", tmp_path / "2")
    assert set(summary(tmp_path / "1").allocator) == {"uniform", "stranger_again[share=0.25]"}


@pytest.mark.ray
def test_an_installed_package_runs_on_ray(tmp_path):
    pytest.importorskip("ray")
    ok(rolloutbench(f"{SMALL} -a stranger_again --jobs 1 --out one"), tmp_path)
    ray = "--executor ray --address local --jobs 2 --out ray"
    ok(rolloutbench(f"{SMALL} -a stranger_again {ray}"), tmp_path)
    assert_same_results(tmp_path / "one", tmp_path / "ray")


def test_an_edited_package_runs_again(fresh, tmp_path):
    """And what does not use it does not."""
    package = shutil.copytree(fresh / "stranger_again", tmp_path / "edited")
    file = package / "src" / "stranger_again" / "__init__.py"
    file.write_text(file.read_text().replace("= 0.5", "= 0.75"))
    command = rolloutbench(f"{SMALL} -a stranger_again --jobs 2 --out out")
    keys = []
    for path in (str(fresh / "stranger_again" / "src"), str(package / "src")):
        with_overwrite = [*command, *["--overwrite"] * bool(keys)]
        ok(with_overwrite, tmp_path, PYTHONPATH=path)
        keys.append({name.partition("-")[0] for name in os.listdir(tmp_path / "out" / "cells")})
    assert len(keys[0] & keys[1]) == 2  # uniform's and the reference run's
    assert keys[0] != keys[1]


THIEF = {
    "pyproject.toml": """
        [build-system]
        requires = ["setuptools>=77"]
        build-backend = "setuptools.build_meta"

        [project]
        name = "a_thief"
        version = "1"

        [project.entry-points."rolloutbench.allocators"]
        vip = "a_thief:Mine"
        their_own = "a_thief:Mine"
        torn = "a_thief.torn:Mine"
        lost = "a_thief.nowhere:Mine"
    """,
    "src/a_thief/__init__.py": """
        from rolloutbench.allocators.uniform import Uniform

        class Mine(Uniform):
            "Theirs."
    """,
    "src/a_thief/torn.py": """
        from rolloutbench.protocol import Allocator
        import not_installed_here
    """,
}


def test_a_package_that_takes_a_name_or_cannot_be_imported_stops_nobody_else(tmp_path):
    """What is built in stays what it is; the package is named where its names are used or listed."""
    write(tmp_path / "thief", THIEF)
    install(tmp_path / "thief", "--target", str(tmp_path / "installed"))
    there = {"PYTHONPATH": str(tmp_path / "installed")}
    taken = (
        "rolloutbench: warning: allocator 'vip' of package a_thief (a_thief:Mine) is left out: the name is "
        "taken by a built-in one\n"
    )
    quiet = run(rolloutbench(f"{SMALL} -a their_own --jobs 2 --out their"), tmp_path, **there)
    assert quiet.code == 0, quiet.err
    assert "a_thief" not in quiet.err
    used = run(rolloutbench(f"{SMALL} -a vip --jobs 1 --out with"), tmp_path, **there)
    assert used.code == 0, used.err
    assert used.err.count(taken) == used.err.count("a_thief:Mine") == 1
    ok(rolloutbench(f"{SMALL} -a vip --jobs 1 --out without"), tmp_path)
    assert_same_results(tmp_path / "with", tmp_path / "without")
    listed = run(rolloutbench("list allocator"), tmp_path, COLUMNS="200", **there)
    assert listed.code == 0
    assert listed.err == taken
    assert listed.out.count("cannot be loaded") == 2
    torn = "'torn' of package a_thief (a_thief.torn:Mine) cannot be loaded: torn.py:3 in <module>: "
    lost = "'lost' of package a_thief (a_thief.nowhere:Mine) cannot be loaded: "
    for name, said, module in (("torn", torn, "not_installed_here"), ("lost", lost, "a_thief.nowhere")):
        done = run(rolloutbench(f"{SMALL} -a {name}"), tmp_path, **there)
        assert done.code == 2
        assert done.err.endswith(f"allocator {said}ModuleNotFoundError: No module named '{module}'\n")
        assert done.err.count("\n") == 1


def test_a_module_that_cannot_be_imported_is_the_authors(tmp_path):
    """The line names what was not found, or the author's own line, and nothing of Python's."""
    write(
        tmp_path,
        {
            "mine.py": "import numpy\nimport not_installed_here",
            "torn.py": "class Mine(\n    x = (",
            "wrong.py": "import numpy\nimport json\njson.loads('{')",
        },
    )
    for what, code, said in (
        ("nowhere:Thing", 2, "nowhere: cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("nowhere.at.all:Thing", 2, "No module named 'nowhere'"),
        ("mine:Mine", 2, "mine: cannot be imported: mine.py:2 in <module>: ModuleNotFoundError: No module"),
        ("mine.py:Mine", 2, "mine.py: cannot be imported: mine.py:2 in <module>: ModuleNotFoundError: No m"),
        ("torn.py:Mine", 1, "error: SyntaxError: '(' was never closed (torn.py, line "),
        ("wrong:Mine", 1, "error: wrong.py:3 in <module>: JSONDecodeError: Expecting property name"),
    ):
        done = run(rolloutbench(f"check {what}"), tmp_path)
        assert done.code == code, done.err
        assert said in done.err
        assert done.err.count("\n") == 1
        assert not re.search(r"importlib|frozen|__init__\.py|decoder", done.err)


# --- scripts


def the_example(where):
    own = README[README.index("## An allocator of your own") :]
    code = re.search(r"```python\n(.*?)```", own, re.DOTALL).group(1)
    (where / "mine.py").write_text(code)


def test_the_example_of_the_readme_on_one_process_two_and_a_single_core(tmp_path):
    the_example(tmp_path)
    for jobs in (1, 2):
        ok(["mine.py", *f"{SMALL} -a ask_again --jobs {jobs} --out {jobs}".split()], tmp_path)
    assert_same_results(tmp_path / "1", tmp_path / "2")
    if shutil.which("taskset"):
        core = f"{min(os.sched_getaffinity(0))}"
        command = ["-c", core, str(PYTHON), "mine.py", *f"{SMALL} -a ask_again --out core".split()]
        ok(command, tmp_path, python="taskset")
        assert_same_results(tmp_path / "1", tmp_path / "core")


def test_the_example_of_the_readme_conforms(tmp_path):
    the_example(tmp_path)
    assert "15 laws hold, 0 broken" in ok(rolloutbench("check mine.py:AskAgain"), tmp_path)
    assert "0 broken" in ok(["mine.py", "check", "ask_again"], tmp_path)


TWO_FILES = {
    "myalloc.py": """
        from helpers import part
        from rolloutbench.protocol import Allocator, Groups, Request

        class Part(Allocator):
            def plan(self, stream, budget):
                prompts = stream.draw(budget.prompts)
                outcomes = yield Request(prompts, part(budget) * (prompts >= 0))
                return Groups.all_of(outcomes)
    """,
    "helpers.py": """
        def part(budget):
            return budget.rollouts // budget.prompts - 1
    """,
    "script.py": """
        from myalloc import Part
        from rolloutbench.allocators import allocators
        from rolloutbench.cli import main

        allocators.register("part", Part)
        main()
    """,
}


def write(where, files):
    for name, text in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(textwrap.dedent(text))


def test_a_script_of_several_files(tmp_path):
    write(tmp_path, TWO_FILES)
    for jobs in (1, 2):
        ok(["script.py", *f"{SMALL} -a part --jobs {jobs} --out {jobs}".split()], tmp_path)
    assert_same_results(tmp_path / "1", tmp_path / "2")
    (tmp_path / "helpers.py").write_text((tmp_path / "helpers.py").read_text().replace("- 1", "- 2"))
    done = run(["script.py", *f"{SMALL} -a part --jobs 1 --out 1".split()], tmp_path)
    assert done.code == 2
    assert "other source code" in done.err


@pytest.mark.ray
def test_a_script_of_several_files_on_ray(tmp_path):
    pytest.importorskip("ray")
    write(tmp_path, TWO_FILES)
    ok(["script.py", *f"{SMALL} -a part --jobs 1 --out one".split()], tmp_path)
    command = f"{SMALL} -a part --executor ray --address local --jobs 2 --out ray"
    ok(["script.py", *command.split()], tmp_path)
    assert_same_results(tmp_path / "one", tmp_path / "ray")


LEAKY = """
    from dataclasses import dataclass
    import numpy as np
    from rolloutbench.allocators import allocators
    from rolloutbench.cli import main
    from rolloutbench.protocol import Allocator, Groups, Outcomes, Request

    @dataclass
    class Leaky(Allocator):
        '''Remembers a count in an attribute that it makes on the way and never resets.'''

        def plan(self, stream, budget):
            prompts = stream.draw(budget.prompts)
            self.steps_seen = getattr(self, "steps_seen", 0) + 1
            n = budget.rollouts // budget.prompts if self.steps_seen <= 3 else 2
            outcomes = yield Request(prompts, np.full(prompts.shape, n))
            return Groups.all_of(outcomes)

    allocators.register("leaky", Leaky)
    main()
"""


def test_nothing_leaks_from_cell_to_cell(tmp_path):
    write(tmp_path, {"leak.py": LEAKY})
    for jobs in (1, 2):
        command = f"{SMALL} --replicates 32 -a leaky --learning-rates 0.5,1 --jobs {jobs} --out {jobs}"
        ok(["leak.py", *command.replace("--quick ", "").split()], tmp_path)
    assert_same_results(tmp_path / "1", tmp_path / "2")


def test_a_class_of_a_notebook_runs_and_an_edited_one_runs_again(tmp_path):
    """A class that stands in no file, as in a notebook or behind `python -c`."""
    code = textwrap.dedent(LEAKY)
    keys = {}
    for out, said, jobs in (("one", code, 1), ("two", code, 2), ("edited", code.replace("<= 3", "<= 1"), 2)):
        ok(["-c", said, *f"{SMALL} -a leaky --jobs {jobs} --out {out}".split()], tmp_path)
        keys[out] = {name.partition("-")[0] for name in os.listdir(tmp_path / out / "cells")}
    assert keys["one"] == keys["two"] != keys["edited"]
    assert len(keys["one"] & keys["edited"]) == 2  # uniform's and the reference run's
    assert_same_results(tmp_path / "one", tmp_path / "two")


# --- what goes wrong is said


FAULTY = """
    import numpy as np
    from rolloutbench.allocators import allocators
    from rolloutbench.cli import main
    from rolloutbench.protocol import Allocator, Groups, Outcomes, Request

    class Base(Allocator):
        hard_budget = False

        def first(self, stream, budget):
            return stream.draw(budget.prompts), budget.rollouts // budget.prompts

    class Forever(Base):
        '''Asks until every group is mixed: never ends on dead prompts.'''
        def plan(self, stream, budget):
            prompts, n = self.first(stream, budget)
            seen = Outcomes.none(prompts)
            while True:
                alike = (seen.successes == 0) | (seen.successes == seen.counts)
                if not alike.any():
                    return Groups.all_of(seen)
                seen += yield Request(prompts, n * alike)

    class ZeroAsk(Base):
        def plan(self, stream, budget):
            prompts, n = self.first(stream, budget)
            while True:
                yield Request(prompts, np.zeros_like(prompts))

    class Nothing(Base):
        def plan(self, stream, budget):
            prompts, n = self.first(stream, budget)
            yield Request(prompts, np.full_like(prompts, n))
            return Groups.all_of(Outcomes.none(prompts))

    class NoYield(Base):
        def plan(self, stream, budget):
            return Groups.all_of(Outcomes.none(stream.draw(budget.prompts)))

    class Raises(Base):
        def plan(self, stream, budget):
            prompts, n = self.first(stream, budget)
            outcomes = yield Request(prompts, np.full_like(prompts, n))
            return {}["no_such_key"]

    class Arguments(Base):
        def __init__(self, size=3):
            self.size = size

        plan = NoYield.plan

    for made in (Forever, ZeroAsk, Nothing, NoYield, Raises, Arguments):
        allocators.register(made.__name__.lower(), made)
    main()
"""


def failing(allocator, where, more="", code=1):
    write(where, {"faulty.py": FAULTY})
    command = f"{SMALL.replace('weak-cold-v1', 'dead-sixty-v1')} -a {allocator} --jobs 1 --out out {more}"
    done = run(["faulty.py", *command.split()], where)
    assert done.code == code, done.err
    return done


@pytest.mark.parametrize(
    ("allocator", "message"),
    [
        ("forever", "allocator Forever has not ended a step after 1000 stages, with"),
        ("zeroask", "allocator ZeroAsk asks for no rollout 101 times in a row"),
        ("nothing", "allocator Nothing trains on nothing: "),
        (
            "noyield",
            "allocator NoYield returns Groups from a plan without `yield`: plan must yield",
        ),
    ],
)
def test_a_plan_that_leads_nowhere_is_named(allocator, message, tmp_path):
    done = failing(allocator, tmp_path)
    assert message in done.err
    assert set(summary(tmp_path / "out").allocator) == {"uniform"}


def test_an_exception_of_ones_own_has_file_line_and_traceback(tmp_path):
    done = failing("raises", tmp_path)
    line = 2 + FAULTY.splitlines()[1:].index('            return {}["no_such_key"]')
    said = f"raises: faulty.py:{line} in plan: KeyError: no_such_key (1 cell; traceback: "
    assert said in done.err
    path = done.err.partition("traceback: ")[2].partition(")")[0]
    assert re.search(r'^ *".*faulty\.py.*in plan",?$', (tmp_path / path).read_text(), re.MULTILINE)
    through = failing("raises", tmp_path, "--debug --retry-failed")
    assert through.err.rstrip().endswith("KeyError: 'no_such_key'")
    assert "Traceback (most recent call last)" in through.err


def test_wrong_names_and_arguments_say_what_to_do(tmp_path):
    done = failing("arguments[size=4]", tmp_path, code=2)
    assert "make Arguments a dataclass (pydantic.dataclasses) to give it parameters" in done.err
    assert "did you mean mopps?" in failing("MoPPS", tmp_path, code=2).err
