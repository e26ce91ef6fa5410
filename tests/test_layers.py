"""A file imports only from floors below its own; the core knows neither simulators nor real runs."""

import ast
from pathlib import Path

from rolloutbench.experiment import CORE

ROOT = Path(__file__).parents[1]

FLOORS = [
    ["rolloutbench", "rolloutbench.protocol"],
    ["rolloutbench.registry", "rolloutbench.optional", "rolloutbench.metrics", "rolloutbench.statistics"],
    ["rolloutbench.estimators", "rolloutbench.predictors", "rolloutbench.tabular", "rolloutbench.score_bank"],
    ["rolloutbench.predictors.logit", "rolloutbench.predictors.features"],
    ["rolloutbench.predictors.kalman"],
    ["rolloutbench.objectives", "rolloutbench.predictors.*"],
    ["rolloutbench.solvers.problem"],
    ["rolloutbench.solvers.concave", "rolloutbench.solvers.dynamic", "rolloutbench.solvers.reference"],
    ["rolloutbench.solvers.continuous"],
    ["rolloutbench.solvers", "rolloutbench.allocators"],
    [
        "rolloutbench.allocators.one_shot",
        "rolloutbench.allocators.buffer",
        "rolloutbench.allocators.rounding",
        "rolloutbench.allocators.down_sampling",
    ],
    ["rolloutbench.allocators.uniform", "rolloutbench.allocators.screening"],
    ["rolloutbench.allocators.*", "rolloutbench.loop"],
    ["rolloutbench.experiment", "simulators", "real_runs", "real_runs.rollouts"],
    ["rolloutbench.executors", "rolloutbench.store", "real_runs.tasks", "real_runs.likelihood"],
    [
        "real_runs.models",
        "real_runs.verification",
        "real_runs.held",
        "real_runs.checkpoint",
        "real_runs.sketches",
    ],
    ["real_runs.engines", "real_runs.settings", "real_runs.tasks.*", "real_runs.assumptions"],
    ["real_runs.engines.*", "real_runs.trainer", "real_runs.preparation"],
    ["real_runs.environment"],
    ["real_runs.training"],
    ["simulators.pools", "simulators.optimizers", "simulators.clock", "rolloutbench.curves"],
    ["simulators.replay"],
    ["simulators.scenarios", "rolloutbench.plotting", "rolloutbench.plotting.style"],
    ["simulators.snapshot", "simulators.learning", "rolloutbench.plotting.panels"],
    ["simulators.prediction"],
    ["rolloutbench.plotting.*", "rolloutbench.tables", "paper_figures", "paper_figures.drawing"],
    ["rolloutbench.results", "real_runs.recording"],
    ["rolloutbench.studies", "rolloutbench.report", "rolloutbench.difference", "rolloutbench.fitting"],
    ["rolloutbench.config", "rolloutbench.sweep", "rolloutbench.validation"],
    ["rolloutbench.progress", "real_runs.gpu_suite", "paper_figures.sources"],
    ["paper_figures.series"],
    ["paper_figures.selection"],
    ["paper_figures.*"],
    ["paper_figures.gallery"],
    ["paper_figures.claims"],
    ["rolloutbench.cli"],
]


def floor_of(module):
    for pattern in (module, module.rpartition(".")[0] + ".*"):
        for floor, modules in enumerate(FLOORS):
            if pattern in modules:
                return floor
    raise AssertionError(f"{module} has no floor: give it one in FLOORS")


def modules():
    for package in ("rolloutbench", "simulators", "real_runs", "paper_figures"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


NAMES = {name for name, _ in modules()}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in NAMES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_down():
    own = {"rolloutbench", "simulators", "real_runs", "paper_figures"}
    for name, path in modules():
        floor = floor_of(name)
        for target in imported(path):
            if target.partition(".")[0] in own:
                # last_epoch is a special case of moving_average and says so.
                if (name, target) == (
                    "rolloutbench.predictors.last_epoch",
                    "rolloutbench.predictors.moving_average",
                ):
                    continue
                assert floor_of(target) < floor, f"{name} imports {target}, which is not below it"


def test_every_module_says_what_it_holds():
    for name, path in modules():
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{name} has no opening paragraph"


def test_the_core_is_light():
    """Importing the command line must not import what only extras bring, nor matplotlib."""
    import subprocess
    import sys

    heavy = ("torch", "cvxpy", "matplotlib", "ray", "jinja2")
    code = f"import sys, rolloutbench.cli; print(*(m for m in {heavy} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_keys_of_cells_cover_the_code_that_they_run():
    """What cells import of this package is hashed into their keys; what only looks at results is not."""
    paths = dict(modules())
    reached = {"rolloutbench.allocators.vip", "rolloutbench.predictors.gp"}
    waiting = [*(name for name in NAMES if name.startswith("simulators")), *reached]
    while waiting:
        for target in imported(paths[waiting.pop()]):
            if target in NAMES and target not in reached:
                reached.add(target)
                waiting.append(target)
    hashed = {Path(name).stem for name in CORE}
    looked_at = {name.split(".")[1] for name in reached if name.startswith("rolloutbench.")}
    assert looked_at == hashed
