"""All figures by name: which studies they need, running those, and the files of each figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paper_figures import (
    ar3po,
    coba_rl,
    dapo,
    knapsack,
    ours,
    pilot_commit,
    reinforce_ada,
    vip,
    vip_theory,
)
from paper_figures.sources import STUDIES, Redrawn, Sources, is_runnable
from rolloutbench import __version__
from rolloutbench.analysis.plotting.panels import save
from rolloutbench.cells.cell import commit
from rolloutbench.files import write_whole
from rolloutbench.protocol import InputError
from rolloutbench.registry import nearest
from rolloutbench.studies.description import Description, read_toml
from rolloutbench.studies.kinds import description_of

PAPERS: dict[str, tuple[Redrawn, ...]] = {
    "vip": (*vip_theory.FIGURES, *vip.FIGURES),
    "ar3po": ar3po.FIGURES,
    "pilot_commit": pilot_commit.FIGURES,
    "dapo": dapo.FIGURES,
    "reinforce_ada": reinforce_ada.FIGURES,
    "coba_rl": coba_rl.FIGURES,
    "knapsack": knapsack.FIGURES,
    "ours": ours.FIGURES,
}
FIGURES: dict[str, Redrawn] = {figure.name: figure for paper in PAPERS.values() for figure in paper}
QUICK_REPLICATES, QUICK_STEPS = 16, 20
"""Replicates and steps of a study that is run only to see that everything works."""


def choose(names: Sequence[str]) -> list[Redrawn]:
    """Choose figures by name, or all of a paper by its name; all where none is named.

    Raises InputError where a name is neither.
    """
    found: dict[str, Redrawn] = {}
    for name in names or PAPERS:
        if name not in PAPERS and name not in FIGURES:
            raise InputError(f"no figure '{name}': {nearest(name, [*PAPERS, *FIGURES])}")
        found |= {figure.name: figure for figure in PAPERS.get(name) or (FIGURES[name],)}
    return list(found.values())


def runnable_studies(figures: Iterable[Redrawn]) -> list[str]:
    """Names of the studies of figures that can be run again."""
    studies = dict.fromkeys(study for figure in figures for study in figure.studies)
    return [study for study in studies if is_runnable(study)]


def description(study: str, quick: bool) -> Description:
    """Description of a study as recorded, or `quick`: with fewer replicates and steps, as a trial."""
    path = STUDIES / f"{study}.toml"
    kind = description_of(read_toml(path)["study"])
    shorter: Mapping[str, Any] = {"replicates": QUICK_REPLICATES, "steps": QUICK_STEPS} if quick else {}
    return kind.of({key: value for key, value in shorter.items() if key in kind.model_fields}, path)


def write(figure: Redrawn, sources: Sources, directory: Path) -> str:
    """Write a figure as PNG and PDF, and the numbers behind every panel as CSV; returns its caption."""
    table = figure.read_from(sources)
    drawn = figure.layout.draw(table, figure.small_print(sources))
    write_whole(directory / f"{figure.name}.csv", table.to_csv(index=False, float_format="%.6g").encode())
    save(drawn, directory, figure.name)
    return drawn.caption


def write_index(captions: Mapping[str, str], directory: Path, command: str) -> None:
    """Write a page with these figures and their captions, for a browser of files."""
    parts = ["# Figures", "", f"Made by `{command}`, version {__version__}, commit {commit()}.", ""]
    for name, said in captions.items():
        figure = FIGURES[name]
        parts += [f"## {figure.name}", "", figure.title, "", f"![{figure.name}]({figure.name}.png)", ""]
        parts += [said, "", f"Numbers: [{figure.name}.csv]({figure.name}.csv)", ""]
    write_whole(directory / "README.md", "\n".join(parts).encode())
