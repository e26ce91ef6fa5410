"""`import rolloutbench as rb`: the names it offers, and that Python and the command line are one door."""

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from command_line import run

import rolloutbench as rb
from rolloutbench.allocators.uniform import Uniform

TINY = "[prompts=16,pool_size=32,steps=6]"
PUBLIC = {
    *("compare", "predict", "recommend", "train", "solve", "open_results", "__version__"),
    *("Coach", "Allocator", "Predictor", "Budget", "Request", "Outcomes", "Groups", "Belief", "Setting"),
    *("InputError", "ProtocolError", "allocators", "predictors", "estimators", "scenarios"),
}


@dataclass
class Mine(Uniform):
    """An allocator of a user's own."""

    favourite: int = 7


def test_what_is_public_is_this_list():
    assert set(rb.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(rb, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rb.nothing  # noqa: B018


def test_there_is_one_version():
    root = Path(__file__).parents[1]
    for name, line in (
        ("pyproject.toml", f'version = "{rb.__version__}"\n'),
        ("CITATION.cff", f"version: {rb.__version__}\n"),
        ("CHANGELOG.md", f"## {rb.__version__} ("),
    ):
        assert line in (root / name).read_text(), name


def test_importing_it_imports_nothing_heavy():
    code = "import sys, rolloutbench; print(*{'numpy', 'pandas', 'typer', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_registries_have_the_same_functions():
    for name in ("allocators", "predictors", "estimators", "scenarios"):
        registry = getattr(rb, name)
        first = registry.names()[0]
        assert registry.describe()[0].name == first
        assert callable(registry.create)
        assert callable(registry.register)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "python"
    return rb.compare(
        ["vip[predictor=beta]", Mine(), Mine(favourite=3)],
        [f"u-shaped-v1{TINY}", f"weak-cold-v1{TINY}"],
        replicates=4,
        jobs=1,
        out=out,
        progress=False,
    )


def test_objects_have_their_names(results):
    names = ["uniform", "vip[predictor=beta]", "Mine", "Mine[favourite=3]"]
    assert list(results.record["allocators"]) == names
    of_uniform = results.summary[results.summary.allocator == "uniform"].estimate
    of_mine = results.summary[results.summary.allocator == "Mine"].estimate
    np.testing.assert_array_equal(of_mine, of_uniform)


def test_results_show_themselves(results, tmp_path):
    whole = results.table()
    assert whole.title == "all scenarios"
    one = results.table(f"u-shaped-v1{TINY}")
    assert "Mine[favourite=3]" in str(one)
    assert "<table" in results._repr_html_()
    assert results.figure("ranking").axes
    page = results.report(tmp_path / "page.html")
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(rb.InputError, match="did you mean ranking"):
        results.figure("rankin")
    with pytest.raises(rb.InputError, match="has no table"):
        results.table("nowhere")


@pytest.mark.usefixtures("plots_unsaved")
def test_python_and_the_command_line_write_the_same_bytes(tmp_path):
    scenario = f"u-shaped-v1{TINY}"
    out = tmp_path / "python"
    rb.compare(["dapo"], [scenario], replicates=4, jobs=1, out=out, progress=False)
    typed = run(f"compare -a dapo -s {scenario} --replicates 4 --jobs 1 --out {tmp_path / 'typed'}")
    assert typed.code == 0, typed.err
    for name in ("summary.csv", "study.toml", "per_replicate.parquet"):
        assert (out / name).read_bytes() == (tmp_path / "typed" / name).read_bytes(), name
    again = run(f"compare --config {out / 'study.toml'} --jobs 1 --out {tmp_path / 'again'}")
    assert again.code == 0, again.err
    assert (out / "summary.csv").read_bytes() == (tmp_path / "again" / "summary.csv").read_bytes()


@pytest.mark.usefixtures("plots_unsaved")
def test_a_temporary_study_goes_with_its_results():
    found = rb.predict(["beta"], [f"u-shaped-v1{TINY}"], replicates=2, jobs=1, progress=False)
    directory = Path(found.directory)
    assert (directory / "summary.csv").exists()
    del found
    assert not directory.exists()


def test_wrong_arguments_are_named_as_arguments():
    for given, said in (
        ({"replicates": 1}, r"^replicates = 1: Input should be greater"),
        ({"replicate": 4}, r"^replicate: no such key: did you mean replicates"),
        ({"allocators": ["MoPPS"]}, "mopps"),
    ):
        with pytest.raises(rb.InputError, match=said):
            rb.compare(**given)


def test_exact_allocation():
    one = rb.solve([0.1, 0.5, 0.9], 24, lower=2, upper=16)
    assert one.counts.tolist() == [7, 10, 7]
    several = rb.solve([[0.1, 0.5], [0.5, 0.5]], 16)
    assert several.counts.shape == (2, 2)
    assert several.counts.sum(axis=1).tolist() == [16, 16]
    with pytest.raises(rb.InputError, match=r"in \[0, 1\]"):
        rb.solve([2.0], 8)


def test_modules_keep_their_documented_places():
    for name in ("allocators", "protocol", "cli"):
        assert importlib.import_module(f"rolloutbench.{name}")
