"""Descriptions, keys and runs of cells."""

import dataclasses
import enum
import importlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from rolloutbench.allocators import allocators
from rolloutbench.cells import cell as experiment
from rolloutbench.cells.cell import Failed, Finished, describe, identify, memory_bound, run_cell
from rolloutbench.estimators import estimators
from rolloutbench.protocol import InputError, ProtocolError
from simulators.learning import learning_cells
from simulators.scenarios import scenarios

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Small:
    value: object
    note: str = dataclasses.field(default="", compare=False)
    part = ("scenario", "allocator")
    label = "small"

    def run(self):
        table = pd.DataFrame({"value": [self.value]})
        table.attrs["of_the_machine"] = 3
        return table


class Colour(enum.Enum):
    RED = "red"


class Plain:
    """No dataclass: what it remembers describes it."""

    def __init__(self, size):
        self.size = size


def key(value, **fields):
    ((key, _),) = identify([Small(value, **fields)])[0].items()
    return key


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_equal_values_have_equal_keys(value):
    assert key(value) == key(pickle.loads(pickle.dumps(value)))


@given(PLAIN, PLAIN)
def test_different_values_have_different_keys(one, other):
    """Different as JSON is: 1 and True, and 0 and 0.0, are; a list and a tuple are not."""
    if repr(one) != repr(other):
        assert key(one) != key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
        (np.array([1.0, 2.0]), np.array([[1.0, 2.0]])),
        (np.array([1, 2]), np.array([1.0, 2.0])),
        (Plain(1), Plain(2)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (allocators.create("vip"), allocators.create("vip[lower=2]")),
        (allocators.create("vip"), allocators.create("knapsack")),
        (Small(1), Plain(1)),
    ],
)
def test_what_may_change_a_result_changes_the_key(one, other):
    assert key(one) != key(other)
    assert key(one) == key(pickle.loads(pickle.dumps(one)))


def test_what_cannot_matter_is_left_out():
    assert key(1, note="a") == key(1, note="b")
    assert key(np.float64(0.5)) == key(0.5)
    assert key(Colour.RED) == key("red")
    assert key(Path("a")) == key("a")
    first = scenarios.create("u-shaped-v1")
    assert key(first) == key(dataclasses.replace(first, summary="other words"))
    assert key(first) != key(dataclasses.replace(first, clock=dataclasses.replace(first.clock, slots=3)))


@pytest.mark.parametrize("value", [print, lambda: 1, {1, 2}, object(), np.array([object()])])
def test_what_cannot_be_described_is_refused(value):
    with pytest.raises(InputError, match="cannot be described"):
        key(value)


def test_describing_follows_the_fields():
    described = describe(Small(Plain([1, None])))
    assert described == {
        "class": "test_cell:Small",
        "value": {"class": "test_cell:Plain", "size": [1, None]},
    }


def cells():
    chosen = {name: allocators.create(name) for name in ("uniform", "vip", "permuted[of=vip]")}
    where = {name: scenarios.create(name) for name in ("u-shaped-v1", "dead-sixty-v1")}
    return learning_cells(where, chosen, estimators.create("rloo"), "prompt", 32, 0, (0.5, 1.0))


def test_every_cell_of_a_study_has_a_key_of_its_own_that_stays():
    keyed, sources = identify(cells())
    assert len(keyed) == len(cells()) == 2 * (1 + 3 * 2) * 2
    assert list(keyed) == list(identify(cells())[0])
    methods = {"allocators.one_shot", "allocators.permuted", "allocators.uniform", "allocators.vip"}
    methods |= {"predictors.gp", "predictors.logit"}
    assert set(sources) == {"rolloutbench", "simulators"} | {f"rolloutbench.{name}" for name in methods}
    labels = [cell.label for cell in keyed.values()]
    assert len(set(labels)) == len(labels)


def test_the_key_covers_the_source_code(monkeypatch):
    before = key(Small(allocators.create("vip")))
    monkeypatch.setattr(experiment, "source_digest", lambda package: f"{package} as it was changed")
    assert key(Small(allocators.create("vip"))) != before


@pytest.fixture
def copied(tmp_path):
    """Keys of cells of these allocators by a copy of the source code of which one file may be changed."""
    for package in ("rolloutbench", "simulators"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))

    def run(code, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", code, *arguments]
        return json.loads(
            subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True).stdout
        )

    def keys(*specs, changed=None):
        file = tmp_path / "rolloutbench" / changed if changed else None
        before = file.read_text() if file else ""
        if file:
            file.write_text(f"{before}\n# changed\n")
        try:
            return run(KEYS, *specs)
        finally:
            if file:
                file.write_text(before)

    keys.run = run
    return keys


KEYS = """
import json, sys
from rolloutbench.allocators import allocators
from rolloutbench.cells.cell import identify
from rolloutbench.estimators import estimators
from simulators.learning import learning_cells
from simulators.scenarios import scenarios

where = {"dead-sixty-v1": scenarios.create("dead-sixty-v1")}
found = {}
for spec in sys.argv[1:]:
    asked = {spec: allocators.create(spec)}
    made = learning_cells(where, asked, estimators.create("rloo"), "prompt", 2, 0, (1.0,))
    found[spec] = [key for key, cell in identify(made)[0].items() if cell.part[1] == spec]
json.dump(found, sys.stdout)
"""
MODULES = """
import json, sys
import numpy as np
from rolloutbench.allocators import allocators
from rolloutbench.cells.cell import METHODS, _methods_used, identify
from rolloutbench.estimators import estimators
from simulators.learning import learning_cells
from simulators.scenarios import scenarios
from pathlib import Path

spec = sys.argv[1]
where = {"small-batch-v1": scenarios.create("small-batch-v1[steps=2,pool_size=64]")}
asked = {spec: allocators.create(spec)}
made = learning_cells(where, asked, estimators.create("rloo"), "prompt", 2, 0, (1.0,))
names = set(identify(made)[1])
folders = tuple(f"rolloutbench.{folder}" for folder in METHODS)
for cell in made:
    cell.run()
files = [Path(sys.modules[name].__file__) for name in names if name.rpartition(".")[0] in folders]
covered = {f"rolloutbench.{path.parent.name}.{path.stem}" for path in {*files, *_methods_used(files)}}
ran = sorted(name for name in sys.modules if name.rpartition(".")[0] in folders)
json.dump([ran, sorted(covered)], sys.stdout)
"""


@pytest.mark.parametrize(
    ("changed", "touched"),
    [
        ("allocators/mopps.py", {"mopps"}),
        ("predictors/beta.py", {"mopps", "vip[predictor=beta]"}),
        ("allocators/one_shot.py", {"uniform", "mopps", "vip[predictor=beta]", "dapo"}),  # by the reference
        ("allocators/buffer.py", {"dapo"}),
        ("allocators/__init__.py", set()),
        ("allocators/frontier.py", set()),
        ("loop.py", {"uniform", "mopps", "vip[predictor=beta]", "dapo"}),
    ],
)
def test_a_method_that_changes_touches_the_keys_of_those_who_use_it(copied, changed, touched):
    """So a new method, or a mended one, leaves what others gave as it was."""
    specs = ("uniform", "mopps", "vip[predictor=beta]", "dapo")
    before, after = copied(*specs), copied(*specs, changed=changed)
    assert all(before.values())
    assert {spec for spec in specs if before[spec] != after[spec]} == touched


@pytest.mark.parametrize(
    "spec", ["frontier", "permuted[of=knapsack]", "vip[predictor=ensemble]", "pilot_commit"]
)
def test_the_key_covers_every_method_that_a_run_imports(copied, spec):
    ran, covered = copied.run(MODULES, spec)
    assert set(ran) <= set(covered)


def test_code_of_others_may_look_up_any_method():
    sources = identify([Small(allocators.create("uniform"))])[1]
    assert {"rolloutbench.allocators", "rolloutbench.predictors"} < set(sources)


def test_the_source_of_other_packages_is_covered_too(tmp_path, monkeypatch):
    """An allocator that somebody edits is another one."""
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for body in ("size = 1", "size = 2", "size = 1"):
        (tmp_path / "somebodys_allocator.py").write_text(f"class Own:\n    {body}\n")
        sys.modules.pop("somebodys_allocator", None)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        import somebodys_allocator

        sys.dont_write_bytecode = before
        found.append(key(somebodys_allocator.Own()))
    assert found[0] == found[2] != found[1]


# --- running


@dataclasses.dataclass(frozen=True)
class Raises:
    error: type
    part = ("scenario", "allocator")
    label = "raises"

    def run(self):
        raise self.error("two\nlines")


@dataclasses.dataclass(frozen=True)
class Allocates:
    size: int
    part = ("scenario", "allocator")
    label = "allocates"

    def run(self):
        return pd.DataFrame({"size": [np.ones(self.size, dtype=np.int8).sum()]})


def test_a_cell_that_ends_well():
    done = run_cell(Small(7), {})
    assert isinstance(done, Finished)
    assert done.table.value.tolist() == [7]
    assert done.facts["of_the_machine"] == 3
    assert done.facts["seconds"] >= 0
    assert "numpy" in done.facts["packages"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError, "two lines"),
        (ProtocolError, "two lines"),
        (ZeroDivisionError, r"test_cell.py:LINE in run: ZeroDivisionError: two lines"),
        (KeyError, r"test_cell.py:LINE in run: KeyError: two lines"),
    ],
)
def test_a_cell_that_raises(error, line):
    done = run_cell(Raises(error), {})
    assert isinstance(done, Failed)
    assert re.sub(r":\d+ ", ":LINE ", done.error) == line
    assert "in run" in done.traceback


def test_what_a_cell_raises_is_let_through_for_who_debugs_it():
    with pytest.raises(ZeroDivisionError):
        run_cell(Raises(ZeroDivisionError), {}, debug=True)


@dataclasses.dataclass
class Counts:
    """Leaves something on itself, and on what it is made of."""

    inner: Plain
    part = ("scenario", "allocator")
    label = "counts"

    def run(self):
        self.times = getattr(self, "times", 0) + 1
        self.inner.size += 1
        return pd.DataFrame({"times": [self.times], "size": [self.inner.size]})


def test_a_cell_works_on_its_own_copy():
    cell = Counts(Plain(1))
    before = key(cell)
    for _ in range(2):
        assert run_cell(cell, {}).table.values.tolist() == [[1, 2]]
    assert key(cell) == before


def test_a_package_has_a_digest_before_it_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert experiment.source_digest("not_there_yet") is None
    package = tmp_path / "not_there_yet"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('nobody may execute this')\n")
    (package / "part.py").write_text("")
    importlib.invalidate_caches()
    digest = experiment.source_digest("not_there_yet")
    assert digest is not None
    assert "not_there_yet" not in sys.modules
    (package / "part.py").write_text("changed = True\n")
    assert experiment.source_digest("not_there_yet") == digest  # as the code that would be running


def test_what_a_single_file_imports_from_beside_it_is_part_of_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for number, body in enumerate(("size = 1", "size = 2")):
        name = f"with_a_neighbour_{number}"
        (tmp_path / "the_neighbour.py").write_text(body)
        (tmp_path / f"{name}.py").write_text("import numpy\nfrom the_neighbour import size\n")
        content = (tmp_path / "the_neighbour.py", tmp_path / f"{name}.py")
        found.append(experiment.source_digest(name))
        assert all(path.exists() for path in content)
    assert found[0] != found[1]


NOTEBOOK = """
def weight(n):
    return n * FACTOR

FACTOR = {factor}

class Base:
    def __init__(self):
        self.size = 3

class Own(Base):
    part, label = ("s", "a"), "own"
    def run(self):
        return [weight({argument}) for _ in {{"a", "b"}}]
"""


def test_a_class_without_a_file_says_its_code():
    """As in a notebook: `__main__` has no file there, and what is edited is another class."""
    code = """
import sys
from rolloutbench.cells.cell import identify
exec(sys.argv[1])
print(*identify([Own()])[0])
"""

    def printed(hash_seed="0", **values):
        command = [sys.executable, "-c", code, NOTEBOOK.format(**{"factor": 2, "argument": 1} | values)]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    assert printed() == printed(hash_seed="1")
    assert len({printed(), printed(factor=3), printed(argument=2)}) == 3


def test_what_is_no_failure_of_the_cell_goes_on():
    with pytest.raises(KeyboardInterrupt):
        run_cell(Raises(KeyboardInterrupt), {})


def test_other_source_code_is_refused():
    done = run_cell(Small(7), {"rolloutbench": "0123"})
    assert isinstance(done, Failed)
    assert "other source code of 'rolloutbench'" in done.error
    assert isinstance(
        run_cell(Small(7), {"rolloutbench": experiment.source_digest("rolloutbench")}), Finished
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the bound is Linux's")
def test_memory_is_bounded_and_set_free_again():
    assert isinstance(run_cell(Allocates(10**6), {}, memory=200 * 2**20), Finished)
    done = run_cell(Allocates(2**30), {}, memory=200 * 2**20)
    assert isinstance(done, Failed)
    assert "emory" in done.error
    with memory_bound(200 * 2**20), pytest.raises(MemoryError):
        np.ones(2**30, dtype=np.int8)
    assert np.ones(2**28, dtype=np.int8).size == 2**28


@dataclasses.dataclass(frozen=True)
class Threads:
    part = ("scenario", "allocator")
    label = "threads"

    def run(self):
        np.ones((50, 50)) @ np.ones((50, 50))
        return pd.DataFrame({"threads": [pool["num_threads"] for pool in threadpool_info()]})


def test_a_cell_runs_on_one_thread():
    assert set(run_cell(Threads(), {}).table.threads) == {1}
