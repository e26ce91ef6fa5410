"""From tables to figures: what is drawn, and how.

All that is drawn stands in one long table, which is written beside the figure. Its columns: panel;
series, the allocator or predictor or rule, which gives the colour; source, `ours` or `published`; x, a
number along `Curves` and the name of a row in `Rows`; value, low, high. Low and high are the ends of a
95% interval, NaN where a number has none. What was published is grey, with the line or marker of the
series that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rolloutbench.allocators import allocators
from rolloutbench.analysis.pictures import TICKS, WIDE
from rolloutbench.analysis.plotting.lines import PALE, name_coinciding, pale_said
from rolloutbench.analysis.plotting.panels import Captioned, finish, folded_all, legend_below, panel_for_each
from rolloutbench.analysis.plotting.style import Look, Style, looks, print_style
from rolloutbench.protocol import FloatArray
from rolloutbench.registry import Registry

COLUMNS = ("panel", "series", "source", "x", "value", "low", "high")
OURS, PUBLISHED = "ours", "published"
GREY = "0.62"
FEW = 14
"""Most points of a curve that are marked one by one, with whiskers instead of a band."""


@dataclass(frozen=True)
class Layout:
    """Plan of how a table is drawn: labels of the axes, panels in a row, and the series' looks.

    `y` and `x` are labels with units, one for all panels or one for each. `width` is that of one or of two
    columns of print, `height` a panel's, in inches. `log` names axes that are logarithmic. `level` is a line
    that says where nothing is gained. Series look as the registry `methods` has it; `marked` gives one that
    is no method its colour. `bare` says why some numbers of ours have no interval, where some have none.
    """

    x: str | Mapping[str, str]
    y: str | Mapping[str, str] = ""
    columns: int = 2
    width: float = WIDE
    height: float = 1.75
    log: str = ""
    level: float | None = None
    methods: Registry[Any] = allocators
    marked: Mapping[str, Style] = field(default_factory=dict)
    bare: str = "What has none is computed, not estimated."

    def draw(self, table: pd.DataFrame, said: Sequence[str]) -> Captioned:
        """Draw one panel for each name in the table's column; `said` is the title and the caption's lines."""
        raise NotImplementedError

    def looks_of(self, table: pd.DataFrame) -> dict[str, Look]:
        """Looks of a table's series by name, in order of appearance."""
        return looks([str(name) for name in table.series.unique()], self.methods, self.marked)

    def _intervals_said(self, table: pd.DataFrame) -> Iterator[str]:
        """What the caption says of intervals, and of numbers that have none."""
        ours = table[(table.source == OURS) & table.value.notna()]
        with_interval = ours.low.notna()
        if with_interval.any():
            yield "Lines and bands are 95% intervals; one that cannot be seen is within its marker or line."
        if not with_interval.all():
            yield self.bare if with_interval.any() else self.bare.replace("What has none", "All of ours")
        if (table.source == PUBLISHED).any():
            yield "Published numbers come without intervals."

    def _finish(
        self,
        figure: Captioned,
        panels: dict[str, Axes],
        said: Sequence[str],
        entries: dict[str, Artist],
        table: pd.DataFrame,
    ) -> None:
        x, y = (label if isinstance(label, str) else "" for label in (self.x, self.y))
        finish(figure, panels, x, y, self.columns)
        for name, axes in panels.items():
            if not isinstance(self.x, str):
                axes.set_xlabel(self.x[name])
            if not isinstance(self.y, str):
                axes.set_ylabel(self.y[name])
        title, *caption = said
        figure.entitle(title)
        figure.say(*caption, *self._intervals_said(table))
        legend_below(figure, entries)


@dataclass(frozen=True)
class Curves(Layout):
    """Layout of lines over a number: bands are 95% intervals, or whiskers where the points are few.

    One or two published numbers are marks without a line. With `same_y` all panels have one scale. The series
    of `pale` do not stand out, and their intervals are left out.
    """

    same_y: bool = False
    pale: tuple[str, ...] = ()

    def draw(self, table: pd.DataFrame, said: Sequence[str]) -> Captioned:
        """Draw curves, published lines behind ours."""
        with print_style():
            figure, panels = panel_for_each(
                table.panel.unique(), self.height, columns=self.columns, width=self.width
            )
            look = self.looks_of(table)
            entries: dict[str, Artist] = {}
            for panel, axes in panels.items():
                if self.level is not None:
                    axes.axhline(self.level, color="0.4", lw=0.7, ls=":", zorder=1)
                here = table[table.panel == panel]
                for (source, series), rows in here.groupby(["source", "series"], sort=False):
                    ordered = rows.sort_values("x", kind="stable")
                    name = _label(source, series, look)
                    line = _line(axes, ordered, str(source), look[str(series)], series in self.pale)
                    if source == OURS:
                        line.set_label(name)
                    entries.setdefault(name, line)
                axes.margins(x=0.02)
                _logarithmic(axes, self.log)
                if axes.get_xlim()[1] > 1e4 and "x" not in self.log:
                    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
                    axes.xaxis.set_major_locator(MaxNLocator(5))
            if self.same_y:
                ends = np.array([axes.get_ylim() for axes in panels.values()])
                for axes in panels.values():
                    axes.set_ylim(ends[:, 0].min(), ends[:, 1].max())
            inches = self.width / min(self.columns, len(panels)) - 0.5
            coinciding = sorted({name_coinciding([axes], inches) for axes in panels.values()})
            pale = pale_said([str(name) for name in look], [name for name in look if name not in self.pale])
            said = [*said, *coinciding, pale]
            self._finish(figure, panels, said, _ours_first(entries), table)
        return figure


@dataclass(frozen=True)
class Rows(Layout):
    """Layout of a table as a picture: a row for each name, a point with its 95% interval along the axis.

    With `same_x` all panels have one scale. With `cloud` points without an interval are small and pale and
    lie behind those with one, as single scenarios behind their mean. `band` is a series whose intervals go
    through all rows of its panel. A line stands between rows of which `apart` is true and others.
    """

    same_x: bool = False
    cloud: bool = False
    band: str = ""
    apart: Callable[[str], bool] | None = None

    def draw(self, table: pd.DataFrame, said: Sequence[str]) -> Captioned:
        """Draw rows, with the series of one row side by side, published ones first."""
        with print_style():
            names = {
                str(panel): rows.x.unique().tolist() for panel, rows in table.groupby("panel", sort=False)
            }
            most = max(map(len, names.values()))
            before = [None, *names.values()]
            tall = 0.2 if _crowd(table) > 2 and not self.cloud else 0.155
            _, lines = folded_all((str(name) for rows in names.values() for name in rows), TICKS)
            height = 0.55 + tall * most * max(lines * 0.7, 1)
            figure, panels = panel_for_each(names, height, columns=self.columns, width=self.width)
            look = self.looks_of(table)
            entries: dict[str, Artist] = {}
            for number, (panel, axes) in enumerate(panels.items()):
                here = table[table.panel == panel]
                if self.level is not None:
                    axes.axvline(self.level, color="0.4", lw=0.7, ls=":", zorder=1)
                for series, y, rows in _side_by_side(here, names[panel], self.cloud):
                    source = rows.source.iloc[0]
                    pale = rows.low.isna().to_numpy() & self.cloud
                    if pale.any():
                        dots = look[series]._replace(marker="o")
                        _points(axes, y[pale], rows[pale], source, dots, ms=2.6, alpha=0.4, mew=0)
                    point = _points(axes, y[~pale], rows[~pale], source, look[series], ms=4)
                    entries.setdefault(_label(source, series, look), point)
                for _, row in here[(here.series == self.band) & here.low.notna()].iterrows():
                    axes.axvspan(row.low, row.high, color=look[self.band].color, alpha=0.2, lw=0, zorder=0)
                kinds = [self.apart(str(name)) for name in names[panel]] if self.apart else []
                for place, (one, next_one) in enumerate(pairwise(kinds)):
                    if one != next_one:
                        axes.axhline(place + 0.5, color="0.4", lw=0.6)
                texts, _ = folded_all(map(str, names[panel]), TICKS)
                hidden = number % self.columns and names[panel] == before[number]
                axes.set_yticks(range(len(texts)), texts)
                axes.set_ylim(len(texts) - 0.4, -0.6)
                axes.tick_params("y", length=0, labelleft=not hidden)
                if self.cloud:
                    axes.grid(axis="y", color="0.93", lw=0.5)
                    axes.set_axisbelow(True)
                _logarithmic(axes, self.log)
            if self.same_x:
                ends = np.array([axes.get_xlim() for axes in panels.values()])
                for axes in panels.values():
                    axes.set_xlim(ends[:, 0].min(), ends[:, 1].max())
            known = {label for label in entries if label in table.x.unique()}
            grey = [
                point for label, point in entries.items() if label.endswith((PUBLISHED, f"({PUBLISHED})"))
            ]
            if max(len(known), 1) + len(grey) == len(entries):  # the rows say already who is who
                entries = {PUBLISHED: grey[0]} if grey else {}
            self._finish(figure, panels, said, _ours_first(entries), table)
        return figure


def _logarithmic(axes: Axes, log: str) -> None:
    """Make the axes named in `log` logarithmic, with plain numbers.

    Ticks are powers of ten, or 1, 2, 5, 10 where there are few of them; less than a factor of eight has
    even steps.
    """
    for name in log:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        low, high = axis.get_view_interval()
        wide = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7)
        axis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)) if high < 8 * low else wide)
        axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axis.set_minor_formatter(NullFormatter())


def _line(axes: Axes, rows: pd.DataFrame, source: str, look: Look, pale: bool = False) -> Line2D:
    x, value, low, high = (rows[name].to_numpy(dtype=np.float64) for name in ("x", "value", "low", "high"))
    grey = source == PUBLISHED
    color, few = GREY if grey else look.color, len(x) <= FEW
    (line,) = axes.plot(
        x, value, color=color, ls="" if grey and len(x) <= 2 else look.linestyle, lw=0.9 if grey else 1.2,
        zorder=2 if grey else 3,
        marker=look.marker if few or grey else "", markevery=1 if few else len(x) // 8, ms=3.2,
        alpha=PALE if pale else 1.0, gid=f"{source}: {rows.series.iloc[0]}",
    )  # fmt: skip
    if np.isfinite(low).any() and not pale:
        if few:
            there = np.isfinite(low)
            axes.vlines(x[there], low[there], high[there], color=color, lw=0.8, zorder=2)
        else:
            axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    return line


def _points(axes: Axes, y: FloatArray, rows: pd.DataFrame, source: str, look: Look, **marks: Any) -> Line2D:
    value, low, high = (rows[name].to_numpy(dtype=np.float64) for name in ("value", "low", "high"))
    color = GREY if source == PUBLISHED else look.color
    (line,) = axes.plot(
        value, y, color=color, ls="", marker=look.marker, gid=f"{source}: {rows.series.iloc[0]}", **marks
    )
    there = np.isfinite(low)
    axes.hlines(y[there], low[there], high[there], color=color, lw=1.0)
    return line


def _side_by_side(
    here: pd.DataFrame, names: list[str], cloud: bool
) -> Iterable[tuple[str, FloatArray, pd.DataFrame]]:
    """Series, the heights of their points, and their rows: those of one row beside each other."""
    place = {name: number for number, name in enumerate(names)}
    crowd = here.groupby("x", sort=False).cumcount()
    several = here.groupby("x", sort=False)["x"].transform("size")
    spread = 0.0 if cloud or (several == 1).all() else 0.6
    heights = here.x.map(place) + spread * (crowd - (several - 1) / 2) / several.clip(lower=1)
    for (_, series), rows in here.groupby(["source", "series"], sort=False):
        yield str(series), heights.loc[rows.index].to_numpy(dtype=np.float64), rows


def _crowd(table: pd.DataFrame) -> int:
    """Most points that stand in one row of a panel."""
    return int(table.groupby(["panel", "x"]).size().max())


def _label(source: object, series: object, look: Mapping[str, Look]) -> str:
    if source == OURS:
        return str(series)
    return PUBLISHED if len(look) == 1 else f"{series} ({PUBLISHED})"


def _ours_first(entries: dict[str, Artist]) -> dict[str, Artist]:
    return dict(sorted(entries.items(), key=lambda entry: PUBLISHED in entry[0]))
