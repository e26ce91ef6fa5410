"""What the terminal shows: readable tables, plain when the output is not a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rolloutbench.metrics import BASELINE, METRICS, TUNED_PREFIX
from rolloutbench.registry import Entry


class Column(NamedTuple):
    """A column of a comparison: a metric's `ratio` to uniform, its `difference` in points, or its `level`."""

    metric: str
    heading: str
    shown: str
    digits: int = 3


SNAPSHOT_COLUMNS = (
    Column("snr", "SNR\nratio", "ratio"),
    Column("mse", "MSE\nratio", "ratio"),
    Column("noise_variance", "noise var.\nratio", "ratio"),
    Column("effective_ratio", "effective\ngroups", "level"),
    Column("wasted_ratio", "wasted\nrollouts", "level"),
    Column("generated_per_prompt", "rollouts\nper prompt", "level"),
)
LEARNING_COLUMNS = (
    Column("rollouts_to_50", "rollouts\nto 50%", "ratio", 2),
    Column("rollouts_to_90", "rollouts\nto 90%", "ratio", 2),
    Column("seconds_to_90", "seconds\nto 90%", "ratio", 2),
    Column("area_over_rollouts", "area over\nrollouts", "ratio"),
    Column("accuracy_at_rollouts", "points at\n= rollouts", "difference", 1),
    Column("accuracy_at_steps", "points at\n= steps", "difference", 1),
    Column("wasted_ratio", "wasted\nrollouts", "level", 2),
    Column("rollouts_per_step", "rollouts\nper step", "level", 0),
)
TUNED_COLUMNS = (
    Column(f"{TUNED_PREFIX}rate", "learning\nrate x", "level", 2),
    *(
        column._replace(metric=TUNED_PREFIX + column.metric)
        for column in LEARNING_COLUMNS
        if column.metric != "rollouts_per_step"
    ),
)
PREDICTION_COLUMNS = tuple(
    Column(f"{score}_{phase}", f"{heading}\n{when}", "level", digits)
    for phase, when in (("first_epoch", "1st epoch"), ("later", "later"))
    for score, heading, digits in (
        ("mae", "MAE", 3),
        ("brier", "Brier", 3),
        ("log_loss", "log loss", 2),
        ("calibration_error", "calibr.", 2),
        ("rank_correlation", "rank corr.", 2),
    )
    if phase == "later" or score not in ("brier", "log_loss")
)


WIDTH = 144
"""Of what is written to no terminal, in characters."""


LONGEST = 44
"""Letters of a name in one line of a table."""


def console(stderr: bool = False) -> Console:
    """A console that does not fold tables when nobody is looking."""
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if made.is_terminal:
        return made
    return Console(stderr=stderr, width=WIDTH, highlight=False, markup=False, emoji=False, no_color=True)


def comparison(
    summary: pd.DataFrame,
    scenario: str,
    sort: str,
    caption: str,
    columns: Sequence[Column] = SNAPSHOT_COLUMNS,
    who: str = "allocator",
) -> Table:
    """One scenario: everyone against uniform, best first by the metric `sort`."""
    here = summary[summary.scenario == scenario]
    if sort not in [column.metric for column in columns]:
        columns = [Column(sort, f"{sort}\nratio", "ratio"), *columns]
    by_metric = {  # one whose metric is never defined has no row in the summary, but one here
        metric: here[here.metric == metric].set_index("allocator").reindex(here.allocator.unique())
        for metric in (sort, *(column.metric for column in columns))
    }
    higher_is_better = METRICS[sort.removeprefix(TUNED_PREFIX)].better == "higher"
    ranked_by = by_metric[sort].ratio if by_metric[sort].ratio.notna().any() else by_metric[sort].estimate
    ranking = ranked_by.sort_values(ascending=not higher_is_better, kind="stable")
    table = Table(
        title=scenario, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD
    )
    _add_names(table, who, ranking.index)
    table.add_column("against\nuniform")
    for column in columns:
        table.add_column(column.heading, justify="right")
    for allocator in ranking.index:
        ratio = by_metric[sort].loc[allocator]
        said = "" if allocator == BASELINE else verdict(ratio.ratio_low, ratio.ratio_high, higher_is_better)
        name = Text(allocator, style="bold" if allocator == BASELINE else "")
        cells = [name, Text(said, style=VERDICTS.get(said, ""))]
        cells += [_shown(by_metric[column.metric].loc[allocator], column) for column in columns]
        table.add_row(*cells)
    return table


def _add_names(table: Table, heading: str, names: Iterable[str]) -> None:
    """A column as wide as the longest name, or folded where that would leave no room for numbers."""
    widest = max(map(len, map(str, names)), default=0)
    table.add_column(heading, width=min(max(widest, len(heading)), LONGEST), overflow="fold")


def _shown(row: pd.Series, column: Column) -> Text:
    if column.shown == "ratio":
        return _number(row.ratio, row.ratio_high, column.digits)
    if column.shown == "difference":  # of accuracies, in percentage points
        return _number(100 * row.difference, 100 * row.difference_high, column.digits, "+")
    return _number(row.estimate, row.high, column.digits)


def across_scenarios(ranking: pd.DataFrame, caption: str) -> Table:
    """Everyone over all scenarios at once, best mean rank first; see `curves.across_scenarios`."""
    critical = ranking.critical_difference.iloc[0]
    apart = f"mean ranks differ where they are more than {critical:.2f} apart (Nemenyi, 95%)"
    table = Table(
        title="all scenarios",
        title_justify="left",
        caption=f"{caption}\n{apart}",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    _add_names(table, "allocator", ranking.allocator)
    for heading in ("mean\nrank", "beats\nuniform", "mean of\nratios", "mean of\nIQM ratios"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in ranking.itertuples():
        table.add_row(
            Text(str(row.allocator), style="bold" if row.allocator == BASELINE else ""),
            f"{row.mean_rank:.2f}",
            ""
            if row.allocator == BASELINE
            else f"{row.better:.2f} [{row.better_low:.2f}, {row.better_high:.2f}]",
            f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]",
            f"{row.iqm_ratio:.3f} [{row.iqm_ratio_low:.3f}, {row.iqm_ratio_high:.3f}]",
        )
    return table


VERDICTS = {"better": "green", "worse": "red", "even": "", "n/a": ""}
"""What the interval of a ratio to uniform can say, and its colour."""


def verdict(low: float, high: float, higher_is_better: bool) -> str:
    """What the interval of the ratio says of the allocator."""
    if not np.isfinite([low, high]).all():
        return "n/a"
    if low <= 1 <= high:
        return "even"
    return "better" if (low > 1) == higher_is_better else "worse"


def _number(estimate: float, high: float, digits: int, sign: str = "") -> Text:
    """An estimate and half the width of its interval, which is symmetric; no width where it is 0."""
    if not np.isfinite(estimate):
        return Text("n/a")
    half = high - estimate
    if not half > 5e-7:
        return Text(f"{estimate:.4g}")
    return Text(f"{estimate:{sign}.{digits}f} ±{half:.{digits}f}")


def registered(kind: str, entries: Iterable[Entry]) -> Table:
    """One kind of thing that can be asked for by name."""
    title = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("what it is", ratio=3)
    table.add_column("parameters", ratio=2, style="dim", overflow="fold")
    for entry in entries:
        table.add_row(entry.name, Text(entry.summary), Text(entry.parameters))
    return table


def plain(title: str, rows: pd.DataFrame, caption: str) -> Table:
    """A table as it is: numbers to three digits."""
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    for name in rows:
        number = pd.api.types.is_numeric_dtype(rows[name])
        table.add_column(str(name).replace("_", " "), justify="right" if number else "left", no_wrap=True)
    for row in rows.itertuples(index=False):
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row))
    return table


@contextlib.contextmanager
def status(command: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: one line that changes on a terminal, a line each elsewhere."""
    told = console(stderr=True)
    if not told.is_terminal:
        yield lambda text: told.print(f"{command}: {text}", soft_wrap=True)
        return
    with told.status(command) as shown:
        yield lambda text: shown.update(f"{command}: {text}")


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
