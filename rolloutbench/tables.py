"""What the terminal shows: readable tables, plain when the output is not a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rolloutbench.experiment import BASELINE
from rolloutbench.metrics import SNAPSHOT_METRICS
from rolloutbench.registry import Entry

RATIOS = {"snr": "SNR\nratio", "mse": "MSE\nratio", "noise_variance": "noise var.\nratio"}
"""Columns of ratios to uniform: metric and heading."""
LEVELS = {
    "effective_ratio": "effective\ngroups",
    "wasted_ratio": "wasted\nrollouts",
    "generated_per_prompt": "rollouts\nper prompt",
}
"""Columns of means: metric and heading."""


def console(stderr: bool = False) -> Console:
    """A console that does not fold tables when nobody is looking."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if made.is_terminal:
        return made
    return Console(stderr=stderr, width=132, highlight=False, markup=False, emoji=False, no_color=True)


def comparison(summary: pd.DataFrame, scenario: str, sort: str, caption: str) -> Table:
    """One scenario: every allocator against uniform, best first by the metric `sort`."""
    here = summary[summary.scenario == scenario]
    by_metric = {  # an allocator whose metric is never defined has no row in the summary, but one here
        metric: here[here.metric == metric].set_index("allocator").reindex(here.allocator.unique())
        for metric in (sort, *RATIOS, *LEVELS)
    }
    higher_is_better = SNAPSHOT_METRICS[sort].better == "higher"
    ranking = by_metric[sort].ratio.sort_values(ascending=not higher_is_better, kind="stable")
    ratios = RATIOS if sort in RATIOS else {sort: f"{sort}\nratio"} | RATIOS
    table = Table(
        title=scenario, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD
    )
    table.add_column("allocator", no_wrap=True)
    table.add_column("against\nuniform", no_wrap=True)
    for heading in [*ratios.values(), *LEVELS.values()]:
        table.add_column(heading, justify="right")
    for allocator in ranking.index:
        verdict, style = _verdict(by_metric[sort].loc[allocator], higher_is_better)
        name = Text(allocator, style="bold" if allocator == BASELINE else "")
        cells = [name, Text("" if allocator == BASELINE else verdict, style=style)]
        for metric in ratios:
            row = by_metric[metric].loc[allocator]
            cells.append(_number(row.ratio, row.ratio_high))
        for metric in LEVELS:
            row = by_metric[metric].loc[allocator]
            cells.append(_number(row.estimate, row.high))
        table.add_row(*cells)
    return table


def _verdict(row: pd.Series, higher_is_better: bool) -> tuple[str, str]:
    """What the interval of the ratio says of the allocator, and its colour."""
    if not np.isfinite(row.ratio):
        return "n/a", ""
    if row.ratio_low > 1:
        return ("better", "green") if higher_is_better else ("worse", "red")
    if row.ratio_high < 1:
        return ("worse", "red") if higher_is_better else ("better", "green")
    return "even", ""


def _number(estimate: float, high: float) -> Text:
    """An estimate and half the width of its interval, which is symmetric; no width where it is 0."""
    if not np.isfinite(estimate):
        return Text("n/a")
    half = high - estimate
    return Text(f"{estimate:.3f} ±{half:.3f}" if half > 5e-7 else f"{estimate:.4g}")


def registered(kind: str, entries: Iterable[Entry]) -> Table:
    """One kind of thing that can be asked for by name."""
    title = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("what it is", ratio=3)
    table.add_column("parameters", ratio=2, style="dim")
    for entry in entries:
        table.add_row(entry.name, Text(entry.summary), Text(entry.parameters))
    return table


def allocation(columns: Mapping[str, Sequence[str]], rows: int = 40) -> Table:
    """Counts of prompts, at most `rows` of them."""
    total = len(next(iter(columns.values())))
    table = Table(box=SIMPLE_HEAD)
    for heading in columns:
        table.add_column(heading, justify="right")
    for i in range(min(total, rows)):
        table.add_row(*(values[i] for values in columns.values()))
    if total > rows:
        table.add_row(*("..." for _ in columns))
    return table
