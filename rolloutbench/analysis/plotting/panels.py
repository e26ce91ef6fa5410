"""What all figures share: a grid of panels, labels on its rim, a legend that fits, and the files."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from PIL import Image

from rolloutbench.analysis.plotting.style import DPI, WIDE, print_style

COLUMNS = 2
"""Panels in a row, unless a figure says otherwise."""
TITLES = 92
"""Letters of the titles of panels that stand in a row; longer ones are folded."""
TICKS = 32
"""Letters of an allocator's name beside its row."""
LINE = 0.13
"""Height of a line of type in inches."""


def save(figure: Figure, directory: Path, name: str) -> None:
    """Save a figure as PNG, in 256 colours, and as PDF. Files of the same figure have the same bytes."""
    with print_style():
        picture = io.BytesIO()
        figure.savefig(picture, format="png")
        coloured = Image.open(picture).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        coloured.save(directory / f"{name}.png", optimize=True, dpi=(DPI, DPI))  # a third of the size
        figure.savefig(directory / f"{name}.pdf", metadata={"CreationDate": None})


def save_all(figures: Iterator[tuple[str, Callable[[], Figure]]], directory: Path) -> list[str]:
    """Draw and save named figures; returns a line for each that failed, which stops no other.

    Whatever is wrong with a figure, a name that cannot be set or a number that cannot be drawn, the results
    that it shows are right without it.
    """
    failures: list[str] = []
    while True:
        name = "further figures"
        try:
            name, draw = next(figures)
            save(draw(), directory, re.sub(r"[^\w=,.@\[\]-]", "_", name)[:200])  # a path may be in it
        except StopIteration:
            return failures
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            failures.append(f"figure {name} is left out: {type(error).__name__}: {said}")


def panel_for_each(
    names: Iterable[str],
    height: float,
    below: float = 0.4,
    columns: int = COLUMNS,
    letters: int = TITLES,
    width: float = WIDE,
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with one titled panel for each name, `columns` in a row, each `height` inches high.

    Titles in a row have so many letters together; a longer name is folded, and grows the figure.
    """
    names = [str(name) for name in names]
    columns = min(columns, len(names))
    rows = -(-len(names) // columns)
    titles, lines = folded_all(names, letters // columns)
    figure = Figure(figsize=(width, (height + LINE * (lines - 1)) * rows + below))
    grid = figure.subplots(rows, columns, squeeze=False)
    for spare in grid.flat[len(names) :]:
        spare.remove()
    panels = dict(zip(names, grid.flat, strict=False))
    for title, axes in zip(titles, panels.values(), strict=True):
        axes.set_title(title)
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


def folded(spec: str, letters: int) -> list[str]:
    """A spec in lines of at most as many letters, broken after commas and brackets where it has them."""
    lines = [""]
    for part in re.findall(r"[^,\[]+[,\[]?|[,\[]", spec):
        if lines[-1] and len(lines[-1]) + len(part) > letters:
            lines.append("")
        lines[-1] += part
        while len(lines[-1]) > letters:  # a path has neither
            lines[-1:] = [lines[-1][:letters], lines[-1][letters:]]
    return lines


def folded_all(specs: Iterable[str], letters: int) -> tuple[list[str], int]:
    """Specs as text that is folded to so many letters, and the most lines that one of them has."""
    texts = [folded(spec, letters) for spec in specs]
    return ["\n".join(lines) for lines in texts], max(map(len, texts), default=1)


def say(figure: Figure, *lines: str) -> None:
    """Small print above the panels, folded to the figure's width; lines after the first grow it."""
    letters = int(figure.get_figwidth() * 19)  # of 7-point type, with room to spare
    text = "\n".join(textwrap.fill(line, letters) for line in lines)
    figure.suptitle(text, fontsize=7, color="0.35")
    figure.set_figheight(figure.get_figheight() + LINE * text.count("\n"))


def legend_below(figure: Figure, entries: dict[str, Artist], size: float = 7) -> None:
    """A legend under all panels, in as many columns as the figure's width holds; it grows the figure."""
    if not entries:
        return
    labels, lines = folded_all(entries, int(figure.get_figwidth() * 16))
    widths = np.array([width_of(label, size) + 0.47 for label in labels])
    columns = 1
    for tried in range(2, len(widths) + 1):
        needed = sum(column.max() for column in np.array_split(widths, tried))  # as matplotlib fills them
        if needed <= figure.get_figwidth() - 0.1:
            columns = tried
    rows = -(-len(widths) // columns)
    figure.set_figheight(figure.get_figheight() + rows * size * 1.45 / 72 * lines)
    figure.legend(
        list(entries.values()),
        labels,
        loc="outside lower center",
        ncols=columns,
        fontsize=size,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.3,
    )


def width_of(text: str, size: float) -> float:
    """Width in inches of the longest line of type of `size` points."""
    lines = [line for line in text.split("\n") if line.strip()]  # empty ones have no path
    paths = [TextPath((0, 0), line, size=size, prop=FontProperties(), usetex=False) for line in lines]
    widths = [float(path.get_extents().width) for path in paths]
    return 1.05 * max(widths, default=0.0) / 72  # hinting makes type wider
