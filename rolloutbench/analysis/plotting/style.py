"""One look for all figures: print sizes, and for every method the same colour everywhere.

Colours come from names by a rule, so a new method is entered nowhere. There are more methods than colours
that colour-blind readers can tell apart, so some are shared by several, whose lines and markers differ. A
method's variants (other parameters) share its colour and take the next line of its family and the next
marker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib as mpl

from rolloutbench.allocators import allocators
from rolloutbench.analysis.yardsticks import method_of
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.registry import Registry

COLUMN, WIDE = 3.3, 6.8
"""Widths of one and of two columns of print, in inches."""
DPI = 200
"""Dots per inch of PNG files."""

Line = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: its name, or the dashes from an offset on, in line widths."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p", ">", "h")
SOLID: tuple[Line, ...] = ("-", (0, (1, 1)), (0, (6, 1, 1, 1)), (0, (4, 1, 1, 1, 1, 1)))
DASHED: tuple[Line, ...] = ((0, (4, 1.5)), (0, (1, 2.5)), (0, (4, 2, 1, 2)), (0, (7, 3)))
BROKEN: tuple[Line, ...] = ((0, (3, 1, 1, 1)), (0, (2, 1)), (0, (8, 2, 1, 2)), (0, (9, 1.5)))
MIXED: tuple[Line, ...] = ((0, (5, 1, 2, 1)), (0, (1, 1.7)), (0, (3, 3)), (0, (8, 1, 1, 1, 1, 1, 1, 1)))
FAMILIES = (SOLID, DASHED, BROKEN, MIXED)
"""The lines of a method and of its variants, by family: one for each round through the colours."""


class Style(NamedTuple):
    """What belongs to a method: its colour, its first marker and its family of lines."""

    color: str
    marker: int = 0
    lines: tuple[Line, ...] = SOLID


UNIFORM = Style("#000000")
"""The baseline, in every study: black."""
COLOURS = (
    "#AA4499",
    "#999933",
    "#88CCEE",
    "#44AA99",
    "#661100",
    "#DDCC77",
    "#882255",
    "#117733",
    "#CC6677",
    "#332288",
    "#AA4466",
    "#6699CC",
)
"""Paul Tol's twelve colours (SRON/EPS/TN/09-002, 2012) for the methods of this package.

In an order in which each is as far as can be from black, white and those before it, in the eyes of readers
with and without colour blindness: the first nine are 14 apart at least (CIEDE2000, after simulation of
protanopia, deuteranopia and tritanopia by Machado et al. 2009), all twelve 9.
"""
OTHER_COLOURS = ("#785EF0", "#FFB000", "#FFAABB", "#CC3311")
"""Colours for methods of other packages: 7.9 apart at least from each other and from all of COLOURS."""


class Look(NamedTuple):
    """How one spec is drawn everywhere."""

    color: str
    marker: str
    linestyle: Line


def style_of(method: str, methods: Registry[Any] = allocators) -> Style:
    """The style that belongs to a method's name, whatever else is in a figure.

    A method of this package has its style by its place in the registry `methods`: the next colour, in later
    rounds with other lines. There are too few colours for a hash of the name: of nine methods of the default
    study three would share theirs. A name that the package does not know has its style by a hash, among
    colours of their own.
    """
    if method == BASELINE:
        return UNIFORM
    known = [name for name in methods.builtin if name != BASELINE]
    if method in known:
        turn, place = divmod(known.index(method), len(COLOURS))
        return Style(COLOURS[place], place + 3 * turn, FAMILIES[turn % len(FAMILIES)])
    digest = int(hashlib.sha256(method.encode()).hexdigest(), 16)
    lines = (SOLID, DASHED)[digest // 5 % 2]
    return Style(OTHER_COLOURS[digest % len(OTHER_COLOURS)], digest // 7 % len(MARKERS), lines)


def looks(
    specs: Sequence[str],
    methods: Registry[Any] = allocators,
    marked: Mapping[str, Style] = MappingProxyType({}),
) -> dict[str, Look]:
    """A look for each spec: colour by method, marker and line by variant, whatever the specs' order.

    `methods` is the registry that the names are of; `marked` gives names that are no methods a style.
    """
    variants: dict[str, int] = {}
    found = {}
    for spec in sorted(specs):
        method = method_of(spec)
        variant = variants.get(method, 0)
        variants[method] = variant + 1
        style = marked[method] if method in marked else style_of(method, methods)
        marker = MARKERS[(style.marker + variant) % len(MARKERS)]
        found[spec] = Look(style.color, marker, style.lines[variant % len(style.lines)])
    return {spec: found[spec] for spec in specs}


@contextmanager
def print_style() -> Iterator[None]:
    """8-point type, thin lines, embedded fonts."""
    with mpl.rc_context(
        {
            "font.size": 8,
            "text.parse_math": False,  # names may have dollars
            "axes.titlesize": 8,
            "axes.labelsize": 8,
            "xtick.labelsize": 7,
            "ytick.labelsize": 7,
            "legend.fontsize": 7,
            "legend.frameon": False,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.2,
            "lines.markersize": 4,
            "errorbar.capsize": 0,
            "pdf.fonttype": 42,
            "savefig.dpi": DPI,
            "figure.constrained_layout.use": True,
        }
    ):
        yield
