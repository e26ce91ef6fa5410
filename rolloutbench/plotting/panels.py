"""What all figures share: a grid of panels, labels on its rim, a legend that fits, and the files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from rolloutbench.plotting.style import WIDE, print_style

COLUMNS = 2
"""Panels in a row, unless a figure says otherwise."""


def save(figure: Figure, directory: Path, name: str) -> None:
    """As PNG and as PDF. Files of the same figure have the same bytes."""
    with print_style():
        figure.savefig(directory / f"{name}.png")
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})


def panel_for_each(
    names: Iterable[str], height: float, below: float = 0.4, columns: int = COLUMNS
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one titled panel for each name, `columns` in a row, each `height` inches high."""
    names = [str(name) for name in names]
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(WIDE, height * rows + below))
    grid = figure.subplots(rows, columns, squeeze=False)
    for spare in grid.flat[len(names) :]:
        spare.remove()
    panels = dict(zip(names, grid.flat, strict=False))
    for name, axes in panels.items():
        axes.set_title(name)
    return figure, panels


def finish(
    figure: Figure, panels: dict[str, Axes], x: str, y: str, conditions: str, columns: int = COLUMNS
) -> None:
    """Label the axes and say under which conditions the figure was made."""
    for axes in list(panels.values())[-columns:]:
        axes.set_xlabel(x)
    if y:
        for axes in list(panels.values())[::columns]:
            axes.set_ylabel(y)
    say(figure, conditions)


def say(figure: Figure, *lines: str) -> None:
    """Small print above the panels, folded to the figure's width; lines after the first grow it."""
    letters = int(figure.get_figwidth() * 19)  # of 7-point type, with room to spare
    folded = "\n".join(textwrap.fill(line, letters) for line in lines)
    figure.suptitle(folded, fontsize=7, color="0.35")
    figure.set_figheight(figure.get_figheight() + 0.13 * folded.count("\n"))


def legend_below(figure: Figure, entries: dict[str, Artist], size: float = 7) -> None:
    """A legend under all panels, in as many columns as the figure's width holds; it grows the figure."""
    if not entries:
        return
    widths = np.array([width_of(label, size) + 0.47 for label in entries])
    columns = 1
    for tried in range(2, len(widths) + 1):
        needed = sum(column.max() for column in np.array_split(widths, tried))  # as matplotlib fills them
        if needed <= figure.get_figwidth() - 0.1:
            columns = tried
    rows = -(-len(widths) // columns)
    figure.set_figheight(figure.get_figheight() + rows * size * 1.45 / 72)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=columns,
        fontsize=size,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def width_of(text: str, size: float) -> float:
    """Width in inches of a line of type of `size` points."""
    path = TextPath((0, 0), text, size=size, prop=FontProperties())
    return 1.05 * float(path.get_extents().width) / 72  # on screen hinting makes type wider
