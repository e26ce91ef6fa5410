"""DAPO's figures (arXiv 2503.14476): dynamic sampling on and off, solved prompts, and what it costs.

Its Fig. 6 and the last row of its Table 1 count gradient steps alone; here the same runs are also read
against what they generate and against seconds. Its curves cannot be read off as numbers: only the
table's are drawn. Everything else in the paper (clip-higher, token-level loss, overlong answers, entropy,
lengths) is not about who is sampled.
"""

from __future__ import annotations

import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.selection import SCENARIOS, STUDY, panels
from paper_figures.series import EQUAL_OR_TIMED as EQUAL
from paper_figures.series import along, between, compared, points, runs
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.cells.collectors import BASELINE

DYNAMIC = ("dapo", "dapo[oversample=1]", "dapo[oversample=1,carry=true]")
"""DAPO with 3 batches a round, as in the 32B script; with 1; with 1 and what is left over kept."""
PROMPTS = 128
"""Number of prompts of a training step."""
AXES = {"steps": "training steps", "rollouts": "thousands of generated rollouts"}


def on_and_off(sources: Sources) -> pd.DataFrame:
    """Held-out accuracy with and without dynamic sampling, over steps and over what was generated."""
    curves = sources.curves(STUDY, "accuracy", "rollouts", allocators=(BASELINE, *DYNAMIC))
    found = []
    for axis, unit in {"steps": 1, "rollouts": 1000}.items():
        for scenario, name in panels(sources).items():
            steps, of_scenario = sources.steps(STUDY)[scenario], runs(curves, scenario)
            until = float(of_scenario[BASELINE].at_step(axis, steps).mean())
            for allocator, run in of_scenario.items():
                part = along(run, f"{name}, over {axis}", allocator, run["accuracy"], axis, until)
                found.append(part.assign(x=part.x / unit))
    return pd.concat(found)


def gains(sources: Sources) -> pd.DataFrame:
    """Difference to uniform in points, by what is held equal; published at equal steps."""
    values = sources.values(STUDY, *EQUAL)
    known = []
    for item in ("table1", "verl_reproduction"):
        percent = published("dapo", item).set_index("method").value.astype(float)
        known.append(percent["with_dynamic_sampling"] - percent["without_dynamic_sampling"])
    shown = panels(sources)
    found = [as_published(panel, "dapo", ["published, equal steps"] * 2, known) for panel in shown.values()]
    for metric, equal in EQUAL.items():
        part = compared(values, metric, "difference", panels=shown, allocators=DYNAMIC)
        found.append(points(part).assign(x=equal))
    return pd.concat(found)


def solved(sources: Sources) -> pd.DataFrame:
    """Share of prompts rolled out in a step of which every rollout is correct."""
    return _between(sources, (BASELINE, "dapo"), "solved", "asked")


def generated(sources: Sources) -> pd.DataFrame:
    """Generated rollouts of a step for each prompt of its batch."""
    return _between(sources, (BASELINE, *DYNAMIC), "rollouts", PROMPTS)


def _between(sources: Sources, allocators: tuple[str, ...], above: str, below: str | int) -> pd.DataFrame:
    columns = [name for name in (above, below) if isinstance(name, str)]
    curves = sources.curves(STUDY, *columns, allocators=allocators)
    return pd.concat(
        [
            between(run, name, allocator, above, below, sources.steps(STUDY)[scenario])
            for scenario, name in panels(sources).items()
            for allocator, run in runs(curves, scenario).items()
        ]
    )


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "dapo_fig6",
        "DAPO Fig. 6: dynamic sampling on and off (uniform). By step it leads, by rollout it mostly trails.",
        on_and_off,
        Curves(
            {f"{name}, over {axis}": label for axis, label in AXES.items() for name in SCENARIOS.values()},
            "held-out accuracy",
            columns=3,
        ),
        (STUDY,),
        "The paper shows steps only; its curves (AIME24) cannot be read as numbers.",
    ),
    Redrawn(
        "dapo_table1",
        "DAPO Table 1, last row: what dynamic sampling adds to held-out accuracy, by what is held equal.",
        gains,
        Rows("points above uniform", columns=3, level=0.0),
        (STUDY,),
        "Grey: +8 in the paper and +2 in verl's reproduction, both on AIME24 at equal steps.",
    ),
    Redrawn(
        "dapo_fig3b",
        "DAPO Fig. 3b: prompts with accuracy 1, of those rolled out. Their share rises while the "
        "policy learns.",
        solved,
        Curves("training steps", "share of prompts", columns=3),
        (STUDY,),
        "The published curve rises as well, on an axis up to 0.6; its values cannot be read.",
    ),
    Redrawn(
        "dapo_rollouts",
        "DAPO: what dynamic sampling costs: rollouts generated for each prompt of the batch.",
        generated,
        Curves("training steps", "rollouts per prompt", columns=3),
        (STUDY,),
        "The paper gives no count. A round of three batches is 24 rollouts per prompt already.",
    ),
)
