"""`check`, `new` and `--debug`, inside this process; tests/stranger installs what `new` writes."""

import sys
import textwrap
from pathlib import Path

import pytest
from command_line import run

from rolloutbench.cli import debugging


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory of its own, and nothing that stays imported from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    debugging.take_option([])


def write(name, text):
    Path(name).write_text(textwrap.dedent(text))


BAD = """
    import numpy as np
    from rolloutbench.protocol import Allocator, Groups, Request

    class Bad(Allocator):
        def plan(self, stream, budget):
            prompts = stream.draw(budget.prompts)
            outcomes = yield Request(prompts, np.full(prompts.shape, budget.rollouts))
            return Groups.all_of(outcomes)
"""


def test_a_broken_law_comes_with_its_example():
    write("bad_for_check.py", BAD)
    for spec in ("bad_for_check.py:Bad", "bad_for_check:Bad"):
        done = run(f"check {spec}")
        assert done.code == 1
        law, says, example = done.out.splitlines()[2:5]
        assert law.split("  ")[1].startswith("BROKEN it keeps protocol and budget")
        assert "allocator Bad overspends its hard budget: 128 rollouts in a step of replicate 0" in law
        assert says.strip().startswith("Thirty steps break no rule")
        assert example.strip().startswith("example: step 1 with 3 replicates, a pool of 24, 4 x 8 rollouts")
    card = run("check bad_for_check:Bad --json").json
    assert (card["kind"], card["conforms"], card["laws"][0]["outcome"]) == ("allocator", False, "broken")


def test_registered_names_are_checked_with_parameters():
    done = run("check uniform[divide=2]")
    assert (done.code, done.out.splitlines()[-1]) == (0, "15 laws hold, 0 broken")
    assert run("check uniform --predictor --json").json["kind"] == "predictor"
    assert run("check global_mean[window=3] --json").json["kind"] == "predictor"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unifrom", "'unifrom' is no allocator and no predictor: did you mean uniform or"),
        ("uniform[size=3]", "allocator 'uniform' has no parameter 'size'"),
        ("there_is_none.py:Bad", "there_is_none.py: there is no such file"),
        ("no_such_module:Bad", "no_such_module: cannot be imported"),
        ("bad_for_names.py:Bda", "bad_for_names.py has no 'Bda': did you mean Bad?"),
        ("bad_for_names.py:np", "bad_for_names.py:np: is neither an Allocator nor a Predictor"),
        ("bad_for_names.py:Bad[size=3]", "allocator 'Bad' has no parameter 'size': it takes none"),
    ],
)
def test_what_cannot_be_checked_is_said_in_a_line(spec, message):
    write("bad_for_names.py", BAD)
    done = run(f'check "{spec}"')
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_file_of_a_package_is_imported_as_part_of_it():
    Path("some_package").mkdir()
    write("some_package/__init__.py", "")
    write("some_package/base.py", BAD)
    write("some_package/method.py", "from .base import Bad\n")
    assert run("check some_package/method.py:Bad --json").json["laws"][0]["outcome"] == "broken"


def test_a_file_with_the_name_of_another_module_is_told_so():
    write("json.py", BAD)
    done = run("check json.py:Bad")
    assert (done.code, "json.py: has the name of another module" in done.err) == (2, True)


def test_a_script_that_runs_when_it_is_imported_is_told_so():
    write("unguarded.py", BAD + "    from rolloutbench.cli import main\n    main()\n")
    done = run("check unguarded.py:Bad")
    assert done.code == 2
    assert "put its last call under `if __name__ ==" in done.err


@pytest.mark.parametrize("kind", ["allocator", "predictor"])
def test_a_new_package_conforms(kind):
    name = f"fresh_{kind}"
    option = "--predictor" * (kind == "predictor")
    assert run(f"new {name} {option}").code == 0
    files = sorted(str(path.relative_to(name)) for path in Path(name).rglob("*") if path.is_file())
    assert files == ["README.md", "pyproject.toml", f"src/{name}/__init__.py", f"tests/test_{name}.py"]
    sys.path.insert(0, str(Path(name, "src").resolve()))
    done = run(f"check {name}:{name.title().replace('_', '')}")
    assert done.code == 0, done.out
    assert "0 broken" in done.out


def test_new_never_overwrites():
    Path("taken").mkdir()
    assert run("new fresh_again --out taken").code == 0  # an empty one is as good as none
    before = {path: path.read_bytes() for path in Path("taken").rglob("*") if path.is_file()}
    for command in ("new fresh_again --out taken", "new fresh_other --out taken"):
        done = run(command)
        assert (done.code, "--out taken: is there already; nothing is overwritten" in done.err) == (2, True)
    assert {path: path.read_bytes() for path in Path("taken").rglob("*") if path.is_file()} == before
    Path("file").write_text("mine")
    assert run("new fresh_again --out file").code == 2
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vip", "is the name of another allocator"),
        ("numpy", "is the name of another package here"),
        ("json", "is the name of another package here"),
        ("class", "is a word of Python's"),
        ("match", "is a word of Python's"),
        ("My-method", "expected at most 50 lower-case letters, digits and single underscores"),
        ("1st", "expected at most 50"),
        ("_mine", "expected at most 50"),
        ("../mine", "expected at most 50"),
        ("mïne", "expected at most 50"),
        ("m" * 51, "expected at most 50"),
    ],
)
def test_bad_names_are_refused(name, message, here):
    done = run(f"new '{name}'")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_what_nobody_expected_is_a_line_and_a_file_or_let_through(monkeypatch):
    def broken(*_):
        raise KeyError("no_such_key")

    monkeypatch.setattr("rolloutbench.cli.authoring.scorecard", broken)
    done = run("check uniform")
    assert done.code == 1
    assert "test_authoring.py:" in done.err
    assert " in broken: KeyError: no_such_key (" in done.err
    file = Path(done.err.rpartition("(")[2].partition(" has the whole traceback")[0])
    assert "Traceback (most recent call last)" in file.read_text()
    file.unlink()
    with pytest.raises(KeyError):
        run("check uniform --debug")
