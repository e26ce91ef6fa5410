"""A file imports only from floors below its own; the core knows neither simulators nor real runs."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

from rolloutbench.cells.cell import CORE, METHODS

ROOT = Path(__file__).parents[1]
HOUSE = {
    "rolloutbench": [],
    "rolloutbench.cells": ["rolloutbench"],
    "rolloutbench.analysis": ["rolloutbench", "rolloutbench.cells"],
    "rolloutbench.integrations.trl": ["rolloutbench", "rolloutbench.cells"],
    "simulators": ["rolloutbench", "rolloutbench.cells"],
    "real_runs": [
        "rolloutbench",
        "rolloutbench.cells",
        "rolloutbench.analysis",
        "rolloutbench.integrations.trl",
    ],
}
"""What each folder may import from, besides itself. Those that are not named stand above all of these."""
ABOVE = [
    "rolloutbench.studies",
    "rolloutbench.integrations.trl_study",
    "rolloutbench.api",
    "paper_figures",
    "rolloutbench.cli",
]
"""From below: each may import from all before it, and from the folders of `HOUSE`."""


def modules():
    for package in ("rolloutbench", "simulators", "real_runs", "paper_figures"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


PATHS = dict(modules())


def imported(path):
    """The modules of this repository that a file imports, inside functions too, but not for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in (node for node in ast.walk(tree) if node not in for_types):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in PATHS else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


IMPORTS = {name: {found for found in imported(path) if found in PATHS} for name, path in PATHS.items()}


def folder_of(module):
    if module == "rolloutbench.__main__":
        return "rolloutbench.cli"
    known = [folder for folder in (*HOUSE, *ABOVE) if f"{module}.".startswith(f"{folder}.")]
    return max(known, key=len)


def test_a_folder_imports_only_from_floors_below_its_own():
    allowed = HOUSE | {folder: [*HOUSE, *ABOVE[:floor]] for floor, folder in enumerate(ABOVE)}
    for name, targets in IMPORTS.items():
        own = folder_of(name)
        for target in targets:
            assert folder_of(target) in {own, *allowed[own]}, f"{name} imports {target}"


def test_no_file_imports_one_that_imports_it():
    graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names them


def test_every_module_says_what_it_holds():
    for name, path in PATHS.items():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{name} has no opening paragraph"


def test_the_core_is_light():
    """Importing the command line must not import what only extras bring, nor matplotlib."""
    heavy = ("torch", "cvxpy", "matplotlib", "ray", "jinja2")
    code = f"import sys, rolloutbench.cli; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_keys_of_cells_cover_the_code_that_they_run():
    """What cells import of this package is hashed into their keys; what only looks at results is not."""
    reached = {"rolloutbench.allocators.vip", "rolloutbench.predictors.gp", "rolloutbench.held"}
    waiting = [*(name for name in PATHS if name.startswith("simulators")), *reached]
    while waiting:
        new = IMPORTS[waiting.pop()] - reached
        reached |= new
        waiting += new
    hashed = {f"rolloutbench.{name.removesuffix('.py').replace('/', '.')}" for name in (*CORE, *METHODS)}
    own = {name for name in reached if name.startswith("rolloutbench.") and name != "rolloutbench.cells"}
    assert {name for name in hashed if any(f"{found}.".startswith(f"{name}.") for found in own)} == hashed
    assert all(any(f"{found}.".startswith(f"{name}.") for name in hashed) for found in own)
