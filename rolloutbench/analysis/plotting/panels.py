"""What all figures share: a grid of panels, labels on its rim, a legend that fits, and the files."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from PIL import Image

from rolloutbench.analysis.pictures import WIDE
from rolloutbench.analysis.plotting.style import DPI, print_style
from rolloutbench.files import write_whole

COLUMNS = 2
"""Panels in a row, unless a figure says otherwise."""
TITLES = 92
"""Letters of the titles of panels that stand in a row of two columns of print; longer ones are folded."""
LINE = 0.13
"""Height of a line of type in inches."""
FORMATS = ("png", "pdf")
"""Files of a figure, unless others are asked for."""


class Captioned(Figure):
    """Figure with a title of one line and a caption, which stands under it in a paper and not on it."""

    title: str = ""
    caption: str = ""

    def say(self, *lines: str) -> None:
        """Take these lines for the caption; empty ones are left out."""
        self.caption = "\n".join(line for line in lines if line)

    def entitle(self, title: str, shown: bool = True) -> None:
        """Take this title, and write it above the panels if it is `shown`; that grows the figure."""
        self.title = title
        if shown:
            text, lines = fitted(title, self.get_figwidth() - 0.1, 8)
            self.suptitle(text, fontsize=8)
            self.set_figheight(self.get_figheight() + LINE * lines)


def save(figure: Figure, directory: Path, name: str, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Save a figure as files of these formats, and its title and caption as text; returns their paths.

    PNG has 256 colours. Files of the same figure have the same bytes.
    """
    paths = [directory / f"{name}.{kind}" for kind in formats]
    with print_style(), mpl.rc_context({"svg.hashsalt": name}):
        for path in paths:
            content = io.BytesIO()
            stamp = {".pdf": {"CreationDate": None}, ".svg": {"Date": None, "Creator": None}}
            figure.savefig(content, format=path.suffix[1:], metadata=stamp.get(path.suffix))
            if path.suffix == ".png":  # a third of the size
                coloured = Image.open(content).convert("RGB").quantize(256, dither=Image.Dither.NONE)
                coloured.save(content := io.BytesIO(), "png", optimize=True, dpi=(DPI, DPI))
            write_whole(path, content.getvalue())
    said = [figure.title, figure.caption] if isinstance(figure, Captioned) else []
    if any(said):
        paths.append(directory / f"{name}.txt")
        write_whole(paths[-1], "\n\n".join(filter(None, said)).encode() + b"\n")
    return paths


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
            save(draw(), directory, as_file_name(name))
        except StopIteration:
            return failures
        except Exception as error:
            said = " ".join(str(error).split())[:200]
            failures.append(f"figure {name} is left out: {type(error).__name__}: {said}")


def as_file_name(name: str) -> str:
    """The name of a figure's files: a scenario's name in it may have a path."""
    return re.sub(r"[^\w=,.@\[\]-]", "_", name)[:200]


def panel_for_each(
    names: Iterable[str],
    height: float,
    below: float = 0.4,
    columns: int = COLUMNS,
    letters: int | None = None,
    width: float = WIDE,
) -> tuple[Captioned, dict[str, Axes]]:
    """A figure with one titled panel for each name, `columns` in a row, each `height` inches high.

    Titles in a row have so many letters together; a longer name is folded, and grows the figure.
    """
    names = [str(name) for name in names]
    columns = max(1, min(columns, len(names)))
    rows = -(-len(names) // columns)
    letters = int(TITLES * (width - 0.6) / (WIDE - 0.6)) if letters is None else letters
    titles, lines = folded_all(names, letters // columns)
    figure = Captioned(figsize=(width, (height + LINE * (lines - 1)) * rows + below))
    grid = figure.subplots(rows, columns, squeeze=False)
    for spare in grid.flat[len(names) :]:
        spare.remove()
    panels = dict(zip(names, grid.flat, strict=False))
    for title, axes in zip(titles, panels.values(), strict=True):
        axes.set_title(title)
    return figure, panels


def finish(figure: Figure, panels: dict[str, Axes], x: str, y: str, columns: int = COLUMNS) -> None:
    """Label the axes on the rim, in lines that fit their panels."""
    rows = -(-len(panels) // columns)
    wide, high = figure.get_figwidth() / columns - 0.3, figure.get_figheight() / rows - 0.4
    for axes in list(panels.values())[-columns:]:
        axes.set_xlabel(fitted(x, wide, 8)[0])
    if y:
        for axes in list(panels.values())[::columns]:
            axes.set_ylabel(fitted(y, high, 8)[0])


def fitted(text: str, inches: float, size: float) -> tuple[str, int]:
    """Text of `size` points in lines that are no wider, as far as its words allow, and their number."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for word in line.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and width_of(longer, size) > inches:
                lines.append(word)
            else:
                lines[-1] = longer
    return "\n".join(lines), len(lines)


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


def row_height(lines: int) -> float:
    """Height of a row with a name of so many lines, as a multiple of one with a single line."""
    return max(1.0, 0.8 * lines)


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
