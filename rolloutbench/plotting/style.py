"""One look for all figures: print sizes, and for every allocator the same colour everywhere.

Colours are Paul Tol's "muted" scheme, which colour-blind readers can tell apart. A method has a colour;
its variants (other parameters) share it and differ by marker and line style.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib as mpl

COLUMN, WIDE = 3.3, 6.8
"""Widths of one and of two columns of print, in inches."""

COLOURS = {
    "uniform": "#000000",
    "vip": "#332288",
    "knapsack": "#44AA99",
    "coba": "#999933",
    "hit_utility": "#CC6677",
    "inverse_accuracy": "#AA4499",
    "inverse_variance": "#88CCEE",
    "permuted": "#DDCC77",
    "weighted_uniform": "#882255",
    "random": "#888888",
}
OTHER_COLOURS = ("#117733", "#AA7744", "#6699CC", "#661100", "#DD8833")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")


class Look(NamedTuple):
    """How an allocator is drawn."""

    color: str
    marker: str
    linestyle: str


def looks(allocators: Sequence[str]) -> dict[str, Look]:
    """A look for each allocator spec: colour by method, marker and line by variant."""
    variants: dict[str, int] = {}
    result = {}
    for spec in allocators:
        method = spec.partition("[")[0]
        variant = variants.get(method, 0)
        variants[method] = variant + 1
        digest = int(hashlib.sha256(method.encode()).hexdigest(), 16)
        color = COLOURS.get(method, OTHER_COLOURS[digest % len(OTHER_COLOURS)])
        result[spec] = Look(color, MARKERS[variant % len(MARKERS)], LINES[variant % len(LINES)])
    return result


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
            "savefig.dpi": 200,
            "figure.constrained_layout.use": True,
        }
    ):
        yield
