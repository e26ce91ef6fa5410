"""A docstring can be read alone: it names its subject, is a sentence, and speaks of files that exist."""

import ast
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("rolloutbench", "simulators", "real_runs", "paper_figures")

EXAMPLES = ("mine.py",)
"""Files of a reader, in examples."""
SHORTEST = 25
"""Characters below which a docstring says no more than the name that it stands under."""
DANGLING = re.compile(
    r"(Of|As|With|By|From|For|Those|These|That|This|It|Its|Them|They|Also|Likewise|The same|The other|"
    r"The others|The other's|Everybody|Continue from|One more|No more|In words|Nothing)\b"
)
"""First words that need the line above, or the reader's guess, to mean anything."""
FILE = re.compile(r"\b[\w/]+\.py\b")
FOREIGN = re.compile(r"@[0-9a-f]{7},\s+\S+\.py\b(?:(?:,| and|, and)\s+\S+\.py\b)*")
"""Files of another repository, after the commit that they are read at."""
MODULE = re.compile(r"\b(?:rolloutbench|simulators|real_runs|paper_figures)(?:\.\w+)+")
PATHS = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def documented(body, prefix=""):
    """Names and docstrings of what stands in a body: functions, classes, and values with a string below."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield f"{prefix}{node.name}", docstring
            yield from documented(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            match after:
                case ast.Expr(ast.Constant(str(docstring))):
                    yield f"{prefix}{ast.unparse(target)}", inspect.cleandoc(docstring)


def fault(docstring):
    """What keeps a docstring from being read alone; None where nothing does."""
    summary = " ".join(docstring.split())
    if len(summary) < SHORTEST:
        return f"has only {len(summary)} characters"
    found = DANGLING.match(summary)
    if found:
        return f"begins with '{found[0]}', which needs another line to mean anything"
    if not summary.endswith((".", "?", "`", ")", "]")) and "    " not in docstring:
        return "is no whole sentence"
    return None


def stale(docstring):
    """Files and modules that a docstring names and that do not exist."""
    for name in FILE.findall(FOREIGN.sub("", docstring)):
        if name not in EXAMPLES and not any(str(path).endswith(f"/{name}") for path in (*PATHS, *TESTS)):
            yield name
    for name in MODULE.findall(docstring):
        if not any(place_of(name, depth).exists() for depth in (0, 1, 2)):
            yield name


def place_of(name, depth):
    """The file or folder of a dotted name without its last `depth` parts, which may be names in a module."""
    parts = name.split(".")
    whole = ROOT.joinpath(*parts[: len(parts) - depth or 1])
    return whole if whole.is_dir() and depth == 0 else whole.with_suffix(".py")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_can_be_read_alone(path):
    tree = ast.parse(path.read_text())
    opening = ast.get_docstring(tree)
    named = dict(documented(tree.body))
    wrong = [f"{name} names {gone}" for name, text in named.items() for gone in stale(text)]
    wrong += [f"the file's opening names {gone}" for gone in stale(opening or "")]
    wrong += [f"{name} {fault(text)}: {text!r}" for name, text in named.items() if fault(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "docstring",
    ["One task.", "The other's.", "Of what is written to no terminal, in characters.", "Continue from there.",
     "With so many decimals, or as a power of ten", "a value without the end of its sentence, for short"],
)  # fmt: skip
def test_what_needs_another_line_is_found(docstring):
    assert fault(docstring)


def test_values_and_methods_are_looked_at():
    source = 'A = 1\n"""Of a step."""\nclass B:\n    c: int\n    """Seconds."""\n    def d(self):\n'
    source += '        """All."""\n'
    assert [name for name, _ in documented(ast.parse(source).body)] == ["A", "B.c", "B.d"]


def test_files_that_were_moved_are_found():
    assert list(stale("As in rolloutbench/experiment.py and `rolloutbench.sweep.Sweep`.")) == [
        "rolloutbench/experiment.py",
        "rolloutbench.sweep.Sweep",
    ]
    assert not list(stale("As in statistics.py, `rolloutbench.analysis` and `rolloutbench.loop.run_step`."))
