"""One look for all figures: print sizes, and for every method the same colour everywhere.

Colours come from names by a rule, so a new method is entered nowhere. There are more methods than colours
that colour-blind readers can tell apart, so some are shared by several, whose lines and markers differ. A
method's variants (other parameters) share its colour; their lines and markers come from their parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib as mpl

from rolloutbench.allocators import allocators
from rolloutbench.analysis.yardsticks import is_bound, method_of
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.registry import Registry

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
    "#4411EE",
    "#775500",
    "#22AAFF",
    "#EE2266",
    "#338866",
    "#881188",
    "#66BB00",
    "#991144",
    "#997700",
    "#CC77BB",
    "#6666DD",
    "#BB4488",
)
"""Twelve colours for the methods of this package.

Each is 11.9 apart at least (CIEDE2000) from the others, from black and from the grey of what was published,
in the eyes of readers with and without colour blindness (protanopia, deuteranopia and tritanopia as Machado
et al. 2009 simulate them). None looks pale: their contrast to white is 2.4 at least, as WCAG has it.
"""
OTHER_COLOURS = ("#EE8877", "#CC0044", "#9966AA", "#4488FF")
"""Colours for methods of other packages: 7.8 apart at least from each other and from all of COLOURS."""
SALT = 35381
"""Number that goes into the hash of a variant: with this one no recorded variants of VIP look alike."""


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
    digest = _digest(method)
    lines = (SOLID, DASHED)[digest // 5 % 2]
    return Style(OTHER_COLOURS[digest % len(OTHER_COLOURS)], digest // 7 % len(MARKERS), lines)


def looks(
    specs: Sequence[str],
    methods: Registry[Any] = allocators,
    marked: Mapping[str, Style] = MappingProxyType({}),
) -> dict[str, Look]:
    """A look for each spec: colour by method, marker and line by variant, whatever else is in the figure.

    Only where two variants of a method would look alike in a figure, one takes the next line and marker.

    `methods` is the registry that the names are of; `marked` gives names that are no methods a style.
    """
    taken: dict[str, set[int]] = {}
    found = {}
    for spec in sorted(specs, key=lambda spec: (_variant(spec), spec)):
        method = method_of(spec)
        style = marked[method] if method in marked else style_of(method, methods)
        variant = _free(_variant(spec), taken.setdefault(method, set()), len(style.lines))
        taken[method].add(variant)
        marker = MARKERS[(style.marker + variant) % len(MARKERS)]
        found[spec] = Look(style.color, marker, style.lines[_line_of(variant, len(style.lines))])
    return {spec: found[spec] for spec in specs}


def _variant(spec: str) -> int:
    """The place of a spec among its method's: 0 as it is, 1 where it knows the truth, else by a hash."""
    if "[" not in spec:
        return 0
    return 1 if is_bound(spec) else 2 + _digest(f"{SALT} {spec}") % (len(MARKERS) - 2)


def _line_of(variant: int, lines: int) -> int:
    """The place of a variant's line in its family: the first two have their own."""
    return variant % lines if variant < 2 or lines < 3 else 2 + variant % (lines - 2)


def _free(variant: int, taken: set[int], lines: int) -> int:
    """The variant itself or the next one that none in this figure has: its line, or at least its marker."""
    others = range(2, len(MARKERS))
    following = [*(others[(variant - 2 + step) % len(others)] for step in range(len(others))), 1, 0]
    following = [variant, *following]
    used = {_line_of(one, lines) for one in taken}
    for one in following:
        if _line_of(one, lines) not in used:
            return one
    return next((one for one in following if one not in taken), variant)


def _digest(text: str) -> int:
    """A number that follows from a text, the same on every machine."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


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
