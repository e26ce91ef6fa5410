"""The parts of README and of the note on frontier that are made: situations, real runs, papers, numbers.

    python docs/generator/readme.py

writes them anew between their marks, from `results/` and from the registry; `make readme` does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import note
import situations
import trained
from recorded import training_runs

from rolloutbench.allocators import allocators

ROOT = Path(__file__).parents[2]
FILES = ROOT / "README.md", ROOT / "paper_figures" / "frontier.md"
MADE = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def papers() -> str:
    """Every paper that a method here is held against, with the methods' names."""
    methods: dict[str, list[str]] = {}
    for name in allocators.builtin:
        source = allocators.create(name).provenance
        if source is not None and source.paper:
            methods.setdefault(source.paper, []).append(name)
    links = [f"[{', '.join(names)}](https://arxiv.org/abs/{paper})" for paper, names in methods.items()]
    return " · ".join(links)


MAKERS: dict[str, Callable[[], str]] = {
    "situations": lambda: situations.table(training_runs(ROOT)),
    "trained": lambda: trained.table(ROOT),
    "papers": papers,
    "headline": note.headline,
    "parts": note.parts,
    "conditions": note.conditions,
    "prices": note.prices,
    "epochs": note.epochs,
    "noise": note.noise,
    "ends": note.ends,
    "real": note.real,
}
"""What makes the text between the marks of each name."""


def anew(text: str) -> str:
    """A text with everything between marks made anew. Raises KeyError where nothing makes it."""
    return MADE.sub(lambda found: f"{found[1]}{MAKERS[found[2]]()}\n{found[3]}", text)


if __name__ == "__main__":
    for file in FILES:
        file.write_text(anew(file.read_text()))
