"""The numbers of the note on frontier, as tables in Markdown, from `results/`."""

from __future__ import annotations

import pandas as pd

from paper_figures import ours
from paper_figures.sources import Sources
from rolloutbench.analysis.yardsticks import is_yardstick
from rolloutbench.cells.collectors import BASELINE

METHOD = "frontier"
BOUND = "mopps[predictor=oracle]"


def headline() -> str:
    """Frontier over all scenarios on seeds it was not tuned on, and how far it is towards the bound."""
    metric = "tuned_area_over_rollouts"
    values = Sources().values(ours.PARTS, metric)
    found = ours.over_scenarios({"all": ours.by_allocator(values, metric)}, sign=-1)
    table, mean = means(found), found[found.low.notna()].set_index("series").value
    way = (mean[METHOD] - 1) / (mean[BOUND] - 1)
    return (
        f"Over all {values.scenario.nunique()} scenarios of the full study its area under accuracy over "
        f"rollouts is {table['all', METHOD]} times that of equal groups. Choosing prompts by their true p "
        f"reaches {table['all', BOUND]}, so `{METHOD}` goes {way:.0%} of the way to it."
    )


def parts() -> str:
    """What each part adds: the allocators by their mean over the scenarios it was not tuned on."""
    return across(ours.parts(Sources()))


def conditions() -> str:
    """A row for each condition of the grid, and in which scenario frontier did worst."""
    found = ours.conditions(Sources())
    single = found[(found.series == METHOD) & found.low.isna()]
    worst = single.groupby("panel", sort=False).value.min()
    table = means(found)
    names = [name for name in found.series.unique() if name != BASELINE]
    lines = [
        [f"`{condition}`", *(table[condition, name] for name in names), f"{worst[condition]:.2f}"]
        for condition in found.panel.unique()
    ]
    return markdown(["condition", *(f"`{name}`" for name in names), f"`{METHOD}`'s worst scenario"], lines)


def prices() -> str:
    """Gain and cost of each allocator under the usual condition."""
    return across(ours.prices(Sources()))


def epochs() -> str:
    """Frontier's area against how often a run sees each prompt, a row for each pool."""
    found = ours.epochs(Sources())
    return along("epochs", found[found.series == METHOD])


def noise() -> str:
    """Areas against the noise beside the rewards, a table for each batch."""
    found = ours.noise(Sources())
    return "\n\n".join(
        f"{panel}:\n\n{along('noise ratio', part, 'series')}"
        for panel, part in found.groupby("panel", sort=False)
    )


def along(heading: str, found: pd.DataFrame, rows: str = "panel", digits: int = 2) -> str:
    """A row for each panel or series, a column for each place on the axis."""
    lines = [
        [f"`{name}`", *(said(*ends, digits=digits) for ends in part[["value", "low", "high"]].to_numpy())]
        for name, part in found.groupby(rows, sort=False)
    ]
    return markdown([heading, *(f"{x:g}" for x in found.x.unique())], lines)


def ends() -> str:
    """Points above uniform at the end, by how often held-out prompts were solved at first."""
    return along("solved at first", ours.ends(Sources()), "series", digits=1)


def real() -> str:
    """Real runs: a row for each allocator, a column for each run, with what the fitted simulation has."""
    found = ours.real(Sources())
    table = {
        (row.panel, row.series, row.x): (row.value, row.low, row.high)
        for row in found.itertuples(index=False)
    }
    told, simulated = ours.WHERE.values()
    lines = [
        [
            f"`{name}`",
            *(
                f"{said(*table[panel, told, name])} ({table[panel, simulated, name][0]:.2f})"
                if (panel, told, name) in table
                else ""
                for panel in ours.REAL.values()
            ),
        ]
        for name in found.x.unique()
    ]
    return markdown(["", *ours.REAL.values()], lines)


def means(found: pd.DataFrame) -> dict[tuple[str, str], str]:
    """The means of a figure's rows in words, by panel and series."""
    here = found[found.low.notna()]
    return {
        (row.panel, row.series): said(row.value, row.low, row.high) for row in here.itertuples(index=False)
    }


def across(found: pd.DataFrame) -> str:
    """A row for each allocator, a column for each panel; uniform is what all are compared with."""
    table = means(found)
    panels = list(found.panel.unique())
    lines = [
        [f"`{name}`{' (bound)' * is_yardstick(name)}", *(table[panel, name] for panel in panels)]
        for name in found.series.unique()
        if name != BASELINE
    ]
    return markdown(["", *panels], lines)


def said(value: float, low: float, high: float, digits: int = 2) -> str:
    """A number with its interval."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown(headings: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    written = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in written)
