"""One look for all figures: print sizes, and for every method the same colour everywhere.

Colours are Paul Tol's "muted" scheme, which colour-blind readers can tell apart, and a few more. There are
more methods than such colours, so some are shared by two: one is then drawn solid and the other dashed,
and their markers differ. A method's variants (other parameters) share its colour and take the next line
of its family and the next marker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl

COLUMN, WIDE = 3.3, 6.8
"""Widths of one and of two columns of print, in inches."""
DPI = 200
"""Of the PNG files."""

Line = str | tuple[float, tuple[float, ...]]
"""A line style of matplotlib: its name, or the dashes from an offset on, in line widths."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SOLID: tuple[Line, ...] = ("-", (0, (1, 1)), (0, (6, 1, 1, 1)), (0, (4, 1, 1, 1, 1, 1)))
DASHED: tuple[Line, ...] = ((0, (4, 1.5)), (0, (1, 2.5)), (0, (4, 2, 1, 2)), (0, (7, 3)))
"""The lines of a method and of its variants, by family."""


class Style(NamedTuple):
    """What belongs to a method: its colour, its first marker and its family of lines."""

    color: str
    marker: int = 0
    lines: tuple[Line, ...] = SOLID


STYLES = {
    "uniform": Style("#000000"),
    "vip": Style("#332288"),
    "knapsack": Style("#44AA99", 1),
    "coba": Style("#999933", 2),
    "hit_utility": Style("#CC6677", 3),
    "dapo": Style("#117733", 4),
    "ar3po": Style("#DD8833", 5),
    "reinforce_ada": Style("#661100", 6),
    "mopps": Style("#6699CC", 7),
    "effective_count": Style("#AA4499", 0),
    "gvm": Style("#88CCEE", 1),
    "pilot_commit": Style("#882255", 2),
    "greso": Style("#DDCC77", 3),
    "pods": Style("#888888", 4),
    "reinforce_ada_est": Style("#661100", 2, DASHED),
    "speed": Style("#117733", 0, DASHED),
    "inverse_accuracy": Style("#AA4499", 4, DASHED),
    "inverse_variance": Style("#88CCEE", 5, DASHED),
    "weighted_uniform": Style("#882255", 6, DASHED),
    "permuted": Style("#DDCC77", 7, DASHED),
    "random": Style("#888888", 0, DASHED),
}
"""Allocators."""

PREDICTOR_STYLES = {
    "uniform": Style("#000000"),
    "beta": Style("#332288"),
    "gp": Style("#CC6677", 1),
    "sparse_gp": Style("#882255", 2),
    "svgp": Style("#AA4499", 3),
    "ridge": Style("#999933", 4),
    "kalman": Style("#117733", 5),
    "ensemble": Style("#44AA99", 6),
    "last_epoch": Style("#88CCEE", 7),
    "moving_average": Style("#6699CC", 0),
    "global_mean": Style("#888888", 1),
    "noisy_oracle": Style("#DDCC77", 3),
    "oracle": Style("#DDCC77", 7, DASHED),
}
"""Predictors have a table of their own: some share a name with an allocator."""

OTHER_COLOURS = ("#AA7744", "#AA4466", "#4477AA", "#666633")
"""For methods of other packages."""

CONTROLS = frozenset({"weighted_uniform", "permuted", "random", "effective_count"})
"""Allocators that nobody proposes to use: they show what a part of the others does."""


class Look(NamedTuple):
    """How an allocator is drawn."""

    color: str
    marker: str
    linestyle: Line


def looks(specs: Sequence[str], styles: Mapping[str, Style] = STYLES) -> dict[str, Look]:
    """A look for each spec: colour by method, marker and line by variant, whatever the specs' order."""
    variants: dict[str, int] = {}
    found = {}
    for spec in sorted(specs):
        method = method_of(spec)
        variant = variants.get(method, 0)
        variants[method] = variant + 1
        digest = int(hashlib.sha256(method.encode()).hexdigest(), 16)
        other = Style(
            OTHER_COLOURS[digest % len(OTHER_COLOURS)], digest // 7, (SOLID, DASHED)[digest // 5 % 2]
        )
        style = styles.get(method, other)
        marker = MARKERS[(style.marker + variant) % len(MARKERS)]
        found[spec] = Look(style.color, marker, style.lines[variant % len(style.lines)])
    return {spec: found[spec] for spec in specs}


def method_of(spec: str) -> str:
    """The method that a spec names, without its parameters."""
    return spec.partition("[")[0]


def is_yardstick(spec: str) -> bool:
    """Whether an allocator is only there to compare with: a control, or one that knows the truth."""
    return method_of(spec) in CONTROLS or spec.startswith("uniform[") or "oracle" in spec


@contextmanager
def print_style() -> Iterator[None]:
    """8-point type, thin lines, embedded fonts."""
    with mpl.rc_context(
        {
            "font.size": 8,
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
