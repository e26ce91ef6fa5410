"""AR3PO's figures: adaptive rollout and response reuse (arXiv 2509.25808).

Its full text was not to be had: of its figures a few numbers are known, from summaries and reviews, and of
its tables what they compare. The prompts here are so spread in difficulty that, as in its Figure 2(c), about
a third of the groups has no correct response. What S and k it used is inferred: S = 2 and k = 4.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.series import (
    COUNTS,
    between,
    by_success,
    compared,
    exact,
    expected_responses,
    named,
    points,
    rows,
    runs,
    scaled,
)
from paper_figures.series import EQUAL_OR_TIMED as EQUAL
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.analysis.curves import LearningCurves
from rolloutbench.analysis.plotting.style import DASHED, UNIFORM, style_of
from rolloutbench.analysis.statistics import ratio_interval
from rolloutbench.cells.collectors import BASELINE, HORIZON
from rolloutbench.protocol import FloatArray

STUDY = "ar3po"
PROMPTS = 128
"""Number of prompts of a training step."""
NO_REUSE = "ar3po[reuse=none]"

OPTIONS = {
    "ar3po": "II: only in mean and std",
    "ar3po[reuse=I]": "I: probabilities recomputed",
    "ar3po[reuse=replay]": "replay: old probabilities",
}
SCHEDULES = {"ar3po": (2, 4), "ar3po[stages=4]": (4, 2), "ar3po[stages=8]": (8, 1)}
"""Stages and rollouts of a stage that make 8 rollouts at most."""
SWEEP = {
    "ar3po[stages=1,per_stage=4]": "1 x 4",
    "ar3po[stages=3,per_stage=2]": "3 x 2",
    "ar3po[stages=8]": "8 x 1",
    "ar3po[stages=4]": "4 x 2",
    "ar3po": "2 x 4 (the paper's)",
    "ar3po[stages=4,per_stage=4]": "4 x 4",
    "ar3po[stages=2,per_stage=8]": "2 x 8",
    "uniform[divide=2]": "4, and no stages",
    "uniform": "8, and no stages (GRPO)",
}
REUSES = {
    "uniform": "GRPO: no stages, no reuse",
    NO_REUSE: "no reuse",
    **{name: f"reuse {option.partition(':')[0]}" for name, option in OPTIONS.items()},
    "dapo": "DAPO",
}
BUFFERS = {
    "ar3po[reuse=I]": "I, any age",
    "ar3po[reuse=I,max_age=32]": "I, at most 32 steps old",
    "ar3po[reuse=I,max_age=16]": "I, at most 16 steps old",
    "ar3po[reuse=I,max_age=8]": "I, at most 8 steps old",
    "ar3po[reuse=replay]": "replay, any age",
    "ar3po[reuse=replay,max_age=32]": "replay, at most 32 steps old",
    "ar3po[reuse=replay,max_age=16]": "replay, at most 16 steps old",
    "ar3po[reuse=replay,max_age=8]": "replay, at most 8 steps old",
    "ar3po[reuse=I,capacity=1]": "I, newest success only",
    "ar3po[reuse=I,capacity=16]": "I, 16 newest successes",
}
"""Buffers of stored successes and their labels; four are kept of each prompt where nothing is said."""

CHEAP, DEAR, RATIO = "GRPO and AR3PO", "DAPO", "DAPO over AR3PO"


def responses(sources: Sources) -> pd.DataFrame:
    """Generated rollouts of a step for each prompt of its batch."""
    found, until = _runs(sources, "rollouts", allocators=(BASELINE, "ar3po", "dapo"))
    known = published("ar3po", "abstract").set_index("method").value.astype(float)
    ends = {BASELINE: known["grpo"], "ar3po": known["ar3po"]}
    dapo, ours = (_growth(found[name], "rollouts", until) for name in ("dapo", "ar3po"))
    at = np.nanmax(found["ar3po"]["steps"], axis=0)[1 : len(ours) + 1]
    return pd.concat(
        [
            *(as_published(CHEAP, name, [until], [end]) for name, end in ends.items()),
            *(
                between(run, DEAR if name == "dapo" else CHEAP, name, "rollouts", PROMPTS, until)
                for name, run in found.items()
            ),
            as_published(RATIO, "dapo", [until], [known["dapo_over_ar3po"]]),
            rows(RATIO, "dapo", at, ratio_interval(dapo, ours)),
        ]
    )


def without_success(sources: Sources) -> pd.DataFrame:
    """Share of groups in which nothing is correct, before a stored success joins and after."""
    found, until = _runs(sources, "groups", "unsolved", "unsolved_after_reuse", allocators=(*OPTIONS,))
    known = published("ar3po", "fig2c").set_index("setting").value.str.lstrip("<").astype(float)
    parts = []
    for name, panel in OPTIONS.items():
        for series, column in {"before reuse": "unsolved", "after reuse": "unsolved_after_reuse"}.items():
            if name == "ar3po":
                parts.append(as_published(panel, series, [until], [known[series]]))
            parts.append(between(found[name], panel, series, column, "groups", until))
    return pd.concat(parts)


def by_difficulty(sources: Sources) -> pd.DataFrame:
    """Rollouts of a prompt by its success probability: the closed form, and what was generated."""
    (scenario, steps), *_ = sources.steps(STUDY).items()
    curves = sources.table(STUDY, "curves", COUNTS, allocator=(*SCHEDULES,))
    p = np.linspace(0, 1, 41)
    bins = published("ar3po", "bins").set_index("setting").value.astype(float)
    known = [bins["success bin 0.0-0.2"], bins["easiest bin"]]
    closed, measured = "closed form", "generated, whole run"
    return pd.concat(
        [
            as_published(closed, "ar3po", [0.1, 0.9], known),
            *(exact(closed, name, p, expected_responses(p, *sk)) for name, sk in SCHEDULES.items()),
            as_published(measured, "ar3po", [0.1, 0.9], known),
            by_success(curves, scenario, steps, {measured: (0, 1)}),
        ]
    )


def sweep(sources: Sources) -> pd.DataFrame:
    """Rollouts of a step and accuracy gained, by the number of stages S and of rollouts a stage k."""
    values = sources.values(STUDY, "rollouts_per_step", *EQUAL)
    cost = compared(values, "rollouts_per_step", "value", allocators=SWEEP).assign(panel="cost")
    return named(pd.concat([scaled(cost, 1 / PROMPTS), _gains(values, SWEEP)]), SWEEP)


def reuse(sources: Sources) -> pd.DataFrame:
    """The paper's ablation of reuse: all of it against GRPO, and against stages without reuse."""
    values = sources.values(STUDY, *EQUAL)
    more = _gains(values, OPTIONS, NO_REUSE, ", reuse alone")
    return named(pd.concat([_gains(values, REUSES), more]), REUSES)


def buffer(sources: Sources) -> pd.DataFrame:
    """Groups without success, and accuracy, by the age and number of the stored successes."""
    values = sources.values(STUDY, "unsolved_after_reuse_ratio", *EQUAL)
    unsolved = compared(values, "unsolved_after_reuse_ratio", "value", allocators=BUFFERS)
    return named(pd.concat([unsolved.assign(panel="no success"), _gains(values, BUFFERS, NO_REUSE)]), BUFFERS)


def _runs(
    sources: Sources, *columns: str, allocators: tuple[str, ...]
) -> tuple[dict[str, LearningCurves], int]:
    """Runs by allocator, and the step to which all were followed."""
    (scenario, steps), *_ = sources.steps(STUDY).items()
    return runs(sources.curves(STUDY, *columns, allocators=allocators), scenario), int(HORIZON * steps)


def _growth(run: LearningCurves, column: str, until: int) -> FloatArray:
    """Growth of a sum between evaluations up to a step, (T, R)."""
    within = np.nanmax(run["steps"], axis=0) <= until
    return np.diff(run[column][:, within], axis=1).T


def _gains(
    values: pd.DataFrame, allocators: Iterable[str], against: str = BASELINE, said: str = ""
) -> pd.DataFrame:
    """Differences in accuracy, in points, a panel for each way of being equal."""
    found = [
        compared(values, metric, "difference", against, allocators=allocators).assign(panel=equal + said)
        for metric, equal in EQUAL.items()
    ]
    return points(pd.concat(found))


POINTS = "points above GRPO"

FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "ar3po_fig1",
        "AR3PO Figs. 1 and 2(d): responses per training prompt. AR3PO needs fewer the more prompts "
        "are solved.",
        responses,
        Curves("step", dict.fromkeys((CHEAP, DEAR), "rollouts per prompt") | {RATIO: "ratio"}, columns=3),
        (STUDY,),
        "DAPO's are for prompts that it drops, too. Grey: the paper's numbers at the end of its training.",
    ),
    Redrawn(
        "ar3po_fig2c",
        "AR3PO Fig. 2(c): groups without a correct response, before and after a stored one "
        "replaces a failure.",
        without_success,
        Curves(
            "step",
            "share of groups",
            columns=3,
            same_y=True,
            marked={"before reuse": UNIFORM, "after reuse": style_of("ar3po")._replace(lines=DASHED)},
        ),
        (STUDY,),
        "Grey: about .3 before, and the .2 that the paper says it falls below, at the end of its training.",
    ),
    Redrawn(
        "ar3po_bins",
        "AR3PO: responses by difficulty: E[n|p] = k sum_s (1-p)^(k s) for S stages of k, and what "
        "was generated.",
        by_difficulty,
        Curves("success probability of the prompt", "rollouts per prompt"),
        (STUDY,),
        "S x k is 2 x 4, 4 x 2 and 8 x 1. Grey: the paper's means of the hardest fifth and of the easiest.",
    ),
    Redrawn(
        "ar3po_sweep",
        "AR3PO: stages S and rollouts k of a stage, S x k, which the paper does not vary: cost and gain.",
        sweep,
        Rows({"cost": "rollouts per prompt", **dict.fromkeys(EQUAL.values(), POINTS)}, level=0.0),
        (STUDY,),
        "Gains are differences in held-out accuracy, paired by replicate. Reuse II throughout.",
    ),
    Redrawn(
        "ar3po_reuse",
        "AR3PO Table 2: its ablation. What stages alone give, and each way in which a stored "
        "success can count.",
        reuse,
        Rows(
            dict.fromkeys(EQUAL.values(), POINTS)
            | {f"{equal}, reuse alone": "points above no reuse" for equal in EQUAL.values()},
            columns=3,
            level=0.0,
        ),
        (STUDY,),
        "Differences in held-out accuracy, paired by replicate. The numbers of its table are not known.",
    ),
    Redrawn(
        "ar3po_buffer",
        "AR3PO: age and number of the stored successes, which the paper leaves open.",
        buffer,
        Rows(
            {"no success": "share of groups"} | dict.fromkeys(EQUAL.values(), "points above no reuse"),
            level=0.0,
        ),
        (STUDY,),
        "Groups are those after reuse, gains differences in held-out accuracy from AR3PO without reuse, "
        "paired by replicate. Under I the simulator scores every stored success alike, so that it cannot "
        "matter how many are kept: 1, 4 and 16 are the same run.",
    ),
)
