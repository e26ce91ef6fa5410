"""For authors of allocators and predictors: `check` puts the laws to the test, `new` writes a package."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import keyword
import re
import sys
from pathlib import Path
from string import Template
from types import ModuleType
from typing import Annotated, Any

import typer

from rolloutbench.allocators import allocators
from rolloutbench.analysis import tables
from rolloutbench.cli.completion import names_of
from rolloutbench.failures import one_line
from rolloutbench.predictors import predictors
from rolloutbench.protocol import Allocator, InputError, Predictor
from rolloutbench.registry import Registry, nearest, parse_spec
from rolloutbench.testing import Verdict, conformance_of, scorecard

_loading: list[str] = []
"""Files that are being imported by `check`."""


def check(
    what: Annotated[
        str,
        typer.Argument(
            help="A name with or without parameters, `module:Class` or `path/to/file.py:Class`.",
            metavar="SPEC",
            show_default=False,
            autocompletion=names_of("method"),
        ),
    ],
    predictor: Annotated[
        bool, typer.Option("--predictor", help="SPEC names a predictor, where there are both.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Put an allocator or predictor to the test: does it keep the contract, whatever its method is?

    Protocol, budget, the same run from the same seed, replicates that do not touch each other, no access to
    the true p, saved and restored state, fewer rollouts than were asked for, pools that run out and more.
    Prints a scorecard, with the example that broke a law; the exit code is 1 if one is broken.

    `rolloutbench check my_package:MyAllocator`, `rolloutbench check mine.py:AskAgain`, `rolloutbench check
    "vip[predictor=beta]"`
    """
    if _loading:  # a script that runs the command line when it is imported
        raise SystemExit(0)
    made = _found(what, predictor)
    verdicts = scorecard(conformance_of(made))
    broken = [verdict for verdict in verdicts if verdict.outcome == "broken"]
    kind = "allocator" if isinstance(made, Allocator) else "predictor"
    if as_json:
        answer = {"kind": kind, "name": what, "conforms": not broken}
        print(json.dumps(answer | {"laws": [dataclasses.asdict(verdict) for verdict in verdicts]}, indent=1))
    else:
        _show(kind, what, verdicts)
    if broken:
        raise typer.Exit(1)


def _show(kind: str, name: str, verdicts: list[Verdict]) -> None:
    console = tables.console()
    width = max(len(verdict.law) for verdict in verdicts)
    console.print(f"{kind} {name}\n", markup=False, highlight=False, soft_wrap=True)
    said: set[str] = set()
    for verdict in verdicts:
        mark = {"holds": "ok", "broken": "BROKEN"}.get(verdict.outcome, "-")
        lines = [f"  {mark:7}{verdict.law:{width}}  {verdict.detail}".rstrip()]
        if verdict.outcome == "broken" and verdict.detail not in said:
            lines += [f"  {'':7}{verdict.says}", f"  {'':7}example: {verdict.example or 'none'}"]
        said.add(verdict.detail)
        console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    kept = sum(verdict.outcome == "holds" for verdict in verdicts)
    broken = sum(verdict.outcome == "broken" for verdict in verdicts)
    idle = len(verdicts) - kept - broken
    total = f"\n{kept} laws hold, {broken} broken" + f", {idle} do not apply" * (idle > 0)
    console.print(total, markup=False, highlight=False, soft_wrap=True)


def _found(what: str, wants_predictor: bool) -> Allocator | Predictor:
    """What SPEC names, checked to be one of the two."""
    place, bracket, parameters = what.partition("[")
    module, colon, name = place.rpartition(":")
    if not colon:
        return _registered(what, wants_predictor)
    thing = getattr(_module(module), name, None)
    if thing is None:
        known = [key for key, value in vars(_module(module)).items() if _is_ours(value)]
        raise InputError(f"{place}: {module} has no '{name}': {nearest(name, known)}")
    if not _is_ours(thing):
        raise InputError(f"{place}: is neither an Allocator nor a Predictor")
    kind = "predictor" if _is_ours(thing, Predictor) else "allocator"
    registry: Registry[Any] = Registry(kind, {name: thing})
    made: Allocator | Predictor = registry.create(f"{name}{bracket}{parameters}")
    return made


def _is_ours(thing: Any, kinds: Any = (Allocator, Predictor)) -> bool:
    return issubclass(thing, kinds) if isinstance(thing, type) else isinstance(thing, kinds)


def _registered(spec: str, wants_predictor: bool) -> Allocator | Predictor:
    name, _ = parse_spec(spec)
    if wants_predictor or (name not in allocators.names() and name in predictors.names()):
        return predictors.create(spec)
    if name not in allocators.names():
        known = {*allocators.names(), *predictors.names()}
        raise InputError(
            f"'{name}' is no allocator and no predictor: {nearest(name, known)} (or give "
            "module:Class or path/to/file.py:Class)"
        )
    return allocators.create(spec)


def _module(name: str) -> ModuleType:
    """A module by its name or its file; modules that lie beside it, or here, are found."""
    try:
        _loading.append(name)
        if not name.endswith(".py"):
            sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(name)
        path = Path(name).resolve()
        if not path.is_file():
            raise InputError(f"{name}: there is no such file")
        folder, parts = path.parent, [path.stem] * (path.name != "__init__.py")
        while (folder / "__init__.py").is_file():  # a file of a package may import from beside it by dots
            folder, parts = folder.parent, [folder.name, *parts]
        sys.path.insert(0, str(folder))
        module = importlib.import_module(".".join(parts))
        if Path(module.__file__ or "").resolve() != path:
            raise InputError(f"{name}: has the name of another module, {module.__file__}: rename it")
        return module
    except InputError:
        raise
    except SystemExit:
        raise InputError(
            f"{name}: ends the program when it is imported: put its last call under "
            '`if __name__ == "__main__":`'
        ) from None
    except ImportError as error:
        raise InputError(f"{name}: cannot be imported: {one_line(error)}") from None
    finally:
        _loading.pop()


def new(
    name: Annotated[
        str, typer.Argument(help="Of the package and in all commands: letters, digits and underscores.")
    ],
    predictor: Annotated[
        bool, typer.Option("--predictor", help="A predictor instead of an allocator.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the package, a new one.", show_default="NAME")
    ] = None,
) -> None:
    """Write a package with an allocator of your own: it installs, passes `check` and its tests.

    The method in it is small but real, to be replaced. Installed, it appears everywhere by NAME.

    `rolloutbench new ask_again`, then `pip install -e ask_again` and `rolloutbench compare -a ask_again`
    """
    registry: Registry[Any] = predictors if predictor else allocators
    directory = Path(name) if out is None else out
    files = _package(name, "predictor" if predictor else "allocator", directory)
    _check_name(name, registry)
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    again = f"predict -p {name}" if predictor else f"compare -a {name} --quick"
    typer.echo(
        f"{directory}/ is a package: its method is in src/{name}/__init__.py\n"
        f"  pip install -e {directory}\n  rolloutbench check {name}\n  pytest {directory}\n"
        f"  rolloutbench {again}"
    )


def _check_name(name: str, registry: Registry[Any]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > 50:
        raise InputError(
            f"NAME={name}: expected at most 50 lower-case letters, digits and single underscores, beginning "
            "with a letter"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise InputError(f"NAME={name}: is a word of Python's")
    if name in registry.names():
        raise InputError(f"NAME={name}: is the name of another {registry.kind}")
    found = importlib.util.find_spec(name)
    if name in sys.stdlib_module_names or (found is not None and found.origin is not None):
        raise InputError(f"NAME={name}: is the name of another package here")


def _package(name: str, kind: str, directory: Path) -> dict[Path, str]:
    """The files of a package. Raises InputError where its directory is taken."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"--out {directory}: is there already; nothing is overwritten")
    said = {
        "name": name,
        "kind": kind,
        "kinds": f"{kind}s",
        "Kind": kind.capitalize(),
        "Class": "".join(part.capitalize() for part in name.split("_")),
        "command": f"compare -a {name} -a vip" if kind == "allocator" else f"predict -p {name} -p beta",
    }
    files = {
        "pyproject.toml": PROJECT,
        "README.md": README,
        f"src/{name}/__init__.py": ALLOCATOR if kind == "allocator" else PREDICTOR,
        f"tests/test_{name}.py": TESTS,
    }
    return {directory / file: Template(text).substitute(said) for file, text in files.items()}


PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "A rollout $kind for RolloutBench"
requires-python = ">=3.11"
dependencies = ["rolloutbench"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."rolloutbench.$kinds"]
$name = "$name:$Class"
"""

README = """\
# $name

A rollout $kind for RolloutBench. The method is in `src/$name/__init__.py`, one class.

    pip install -e '.[test]'
    rolloutbench check $name
    pytest
    rolloutbench $command

Its parameters are the fields of the class, given as `$name[key=value]`.
"""

TESTS = '''\
"""The laws that every $kind keeps; add what yours does beyond them."""

from rolloutbench.testing import ${Kind}Conformance

from $name import $Class


class Test$Class(${Kind}Conformance):
    $kind = $Class()
'''

ALLOCATOR = '''\
"""The allocator `$name`: a part of the budget first, then the rest for prompts that are not decided yet."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from rolloutbench.protocol import Allocator, Budget, Groups, Plan, PromptStream, Request
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class $Class(Allocator):
    """A share of the rollouts for every prompt, the rest only where all rewards were alike."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.5

    def plan(self, stream: PromptStream, budget: Budget) -> Plan:
        """Two stages; arrays are (replicates, prompts), and a prompt of -1 is none."""
        prompts = stream.draw(budget.prompts)
        present = prompts >= 0
        group_size = budget.rollouts // budget.prompts
        first = max(int(self.share * group_size), 1)
        seen = yield Request(prompts, first * present)
        alike = present & ((seen.successes == 0) | (seen.successes == seen.counts))
        seen += yield Request(prompts, (group_size - first) * alike)
        return Groups.all_of(seen)
'''

PREDICTOR = '''\
"""The predictor `$name`: each prompt's own success rate, drawn towards a common one."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from rolloutbench.protocol import Belief, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class $Class(Predictor):
    """Successes of all rollouts of a prompt so far, with `strength` imagined ones at the rate `prior`."""

    prior: Annotated[float, Field(gt=0, lt=1)] = 0.5
    strength: Annotated[float, Field(gt=0)] = 2.0

    def begin(self, setting: Setting) -> None:
        """No prompt was seen; arrays are (replicates, prompts of the pool)."""
        self.setting = setting
        self._successes, self._counts = np.zeros((2, setting.replicates, setting.pool_size))

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance of a Beta distribution; what stands at a prompt of -1 means nothing."""
        rows = np.arange(len(prompts))[:, None]
        total = self._counts[rows, prompts] + self.strength
        mean = (self._successes[rows, prompts] + self.strength * self.prior) / total
        return Belief(mean, mean * (1 - mean) / (total + 1))

    def update(self, outcomes: Outcomes) -> None:
        """Add what came."""
        rows, columns = np.nonzero(outcomes.counts)
        prompts = outcomes.prompts[rows, columns]
        self._successes[rows, prompts] += outcomes.successes[rows, columns]
        self._counts[rows, prompts] += outcomes.counts[rows, columns]

    def state_dict(self) -> State:
        """Sums (R, Q), as copies."""
        return {"successes": self._successes.copy(), "counts": self._counts.copy()}

    def load_state_dict(self, state: State) -> None:
        """Continue from them."""
        self._successes, self._counts = state["successes"].copy(), state["counts"].copy()
'''
