"""Figures of our own: who needs how many rollouts over all scenarios, and a language model's verdict.

Both read studies that compare allocators at equal cost; see `rolloutbench.metrics` for what is measured.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paper_figures.drawing import Rows
from paper_figures.series import compared, exact, rows, scaled
from paper_figures.sources import Redrawn, Sources
from rolloutbench.metrics import BASELINE
from rolloutbench.plotting.style import Style, is_yardstick
from rolloutbench.protocol import FloatArray
from rolloutbench.statistics import Interval, paired_bootstrap, ratio_of_means

ALL = "learning_all"
ORACLE = "vip[predictor=oracle]"
"""The best counts for VIP's objective at the true success probabilities."""
SUMMARISED = {"rollouts_to_90": "rollouts to 90% of the gain", "seconds_to_90": "seconds to 90% of the gain"}
REAL, SIMULATED = "real_sorting", "real_sorting_simulated"
WHERE = {REAL: "language model", SIMULATED: "simulation"}
UNITS = {"ratio": "% above uniform", "difference": "points above uniform"}
JUDGED = {
    "area_over_rollouts": ("area under accuracy over rollouts", "ratio"),
    "accuracy_at_rollouts": ("accuracy at equal rollouts", "difference"),
}


def geometric_mean_ratio(values: FloatArray, baseline: FloatArray) -> FloatArray:
    """Geometric mean over scenarios of ratios of means: (A, S, R) to (A,), or (A, S, D, R) to (A, D)."""
    return np.asarray(np.exp(np.log(ratio_of_means(values, baseline)).mean(axis=1)))


def summary(sources: Sources) -> pd.DataFrame:
    """Ratios to uniform: each scenario's, and their geometric mean; methods first, best first."""
    values = sources.values(ALL, *SUMMARISED)
    found, order = [], list[int]()
    for metric, panel in SUMMARISED.items():
        names, cube = cube_of(values, metric)
        baseline = np.broadcast_to(cube[names.index(BASELINE)], cube.shape)
        mean = paired_bootstrap(geometric_mean_ratio, cube, baseline)
        ratios = ratio_of_means(cube, baseline)
        if not order:
            order = sorted(range(len(names)), key=lambda a: (is_apart(names[a]), mean.estimate[a]))
        for a in order:
            found.append(exact(panel, names[a], [names[a]] * ratios.shape[1], ratios[a]))
            found.append(rows(panel, names[a], [names[a]], Interval(*(part[a] for part in mean))))
    return pd.concat(found)


def cube_of(values: pd.DataFrame, metric: str) -> tuple[list[str], FloatArray]:
    """Allocators, and values (A, S, R). Raises ValueError where one is missing: means would not compare."""
    wide = values[values.metric == metric].pivot(
        index=["allocator", "scenario"], columns="replicate", values="value"
    )
    allocators, scenarios = (values[name].unique() for name in ("allocator", "scenario"))
    wide = wide.reindex(pd.MultiIndex.from_product([allocators, scenarios]))
    if wide.isna().to_numpy().any():
        raise ValueError(f"{metric} is missing for {wide.index[wide.isna().any(axis=1)].tolist()}")
    return list(allocators), wide.to_numpy(dtype=np.float64).reshape(len(allocators), len(scenarios), -1)


def is_apart(name: str) -> bool:
    """Yardsticks stand below the methods, and so does uniform."""
    return name == BASELINE or is_yardstick(name)


def real(sources: Sources) -> pd.DataFrame:
    """Real runs beside the simulation that was fitted to their prompts; best real run first."""
    found = []
    for metric, (panel, how) in JUDGED.items():
        for study, series in WHERE.items():
            part = compared(sources.values(study, metric), metric, how)
            percent = scaled(part, 100, -100 if how == "ratio" else 0)
            found.append(percent.assign(panel=panel, series=series)[part.x != BASELINE])
    best = found[0].sort_values("value", ascending=False).x.tolist()
    return pd.concat([part.sort_values("x", key=lambda names: names.map(best.index)) for part in found])


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "ours_summary",
        "What it takes to get 90% of uniform's gain, as a multiple of what uniform takes. Pale: each of the "
        "13 scenarios. Strong: their geometric mean, with its 95% interval.",
        summary,
        Rows(
            "ratio to uniform (less is better)",
            level=1.0,
            log="x",
            same_x=True,
            cloud=True,
            band=ORACLE,
            apart=is_apart,
        ),
        (ALL,),
        "Below the line: yardsticks and controls. Band: the best that VIP's counts can be, at the true "
        "success probabilities; who also chooses prompts can do better. A run not there after 1.5 times "
        "uniform's budget counts as there then. Seconds are simulated.",
    ),
    Redrawn(
        "ours_real",
        "A small language model that learns to sort, and the simulation fitted to its prompts.",
        real,
        Rows(
            {panel: unit for (panel, how) in JUDGED.values() for unit in [UNITS[how]]},
            level=0.0,
            marked={WHERE[REAL]: Style("#AA4466", 1), WHERE[SIMULATED]: Style("#4477AA")},
        ),
        (REAL, SIMULATED),
        "They rank allocators alike: tau 0.72 [0.67, 0.83] (results/real_sorting/validation). The "
        "simulation's differences are smaller; its intervals are hidden by its points.",
    ),
)
