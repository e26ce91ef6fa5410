"""The parts of README that are made: what to use in which situation, and the papers.

    python docs/generator/readme.py

writes them anew between their marks, from `results/` and from the registry; `make readme` does it.
"""

from __future__ import annotations

import re
from pathlib import Path

import situations
from recorded import training_runs

from rolloutbench.allocators import allocators

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
MADE = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
A_LINE = 4
"""Papers in a line of README."""


def papers() -> str:
    """Every paper that a method here is held against, with the methods' names."""
    methods: dict[str, list[str]] = {}
    for name in allocators.builtin:
        source = allocators.create(name).provenance
        if source is not None and source.paper:
            methods.setdefault(source.paper, []).append(name)
    links = [f"[{', '.join(names)}](https://arxiv.org/abs/{paper})" for paper, names in methods.items()]
    lines = [" · ".join(links[place : place + A_LINE]) for place in range(0, len(links), A_LINE)]
    return " ·\n".join(lines)


def made(name: str) -> str:
    """The text that belongs between the marks of this name. Raises KeyError where there is none."""
    return {"situations": lambda: situations.table(training_runs(ROOT)), "papers": papers}[name]()


def anew(text: str) -> str:
    """README with everything between marks made anew."""
    return MADE.sub(lambda found: f"{found[1]}{made(found[2])}\n{found[3]}", text)


if __name__ == "__main__":
    README.write_text(anew(README.read_text()))
