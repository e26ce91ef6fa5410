"""Figures of our own: all methods over all scenarios, what frontier is made of and where it holds, real runs.

All read studies that compare allocators at equal cost; see `analysis.metrics` for what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.series import compared, exact, rows
from paper_figures.sources import Redrawn, Sources
from rolloutbench.analysis.curves import LearningCurves
from rolloutbench.analysis.plotting.style import Style
from rolloutbench.analysis.statistics import (
    Interval,
    interpolate_curves,
    mean_interval,
    paired_bootstrap,
    ratio_of_means,
)
from rolloutbench.analysis.yardsticks import is_yardstick
from rolloutbench.cells.collectors import ACCURACY_BINS, ACCURACY_PREFIX, BASELINE
from rolloutbench.protocol import FloatArray
from rolloutbench.registry import parse_spec
from simulators.conditions import TRAINERS
from simulators.scenarios import LearningScenario, scenarios

ALL, PRICES = "learning_all", "prices"
ORACLE = "vip[predictor=oracle]"
"""Allocator with the best counts for VIP's objective at the true success probabilities."""
SUMMARISED = {
    "tuned_rollouts_to_90": "rollouts to 90% of the gain",
    "tuned_seconds_to_90": "seconds to 90% of the gain",
}
PRICED = {
    "tuned_area_over_rollouts": "area over rollouts (more is better)",
    "tuned_rollouts_to_90": "rollouts to 90% (less is better)",
    "tuned_seconds_to_90": "seconds to 90% (less is better)",
}
EPOCHS = "epochs"
NOISE = "noise"
PARTS = "frontier_parts"
CONDITIONS = "frontier_conditions"
ENDING = "frontier", "mopps", "mopps[predictor=oracle]"
"""Allocators of which it is shown what they leave behind at the end."""
OF_ONE = PARTS, CONDITIONS
"""Studies about one method, whose rows are no comparison of methods."""
TUNED_ON = (
    "weak-cold-v1",
    "strong-saturating-v1",
    "dead-sixty-v1",
    "narrow-mid-v1",
    "high-noise-v1",
    "small-batch-v1",
    "first-epoch-v1",
)
"""Scenarios in which frontier's parameters were chosen, with seed 0 and 16 replicates."""
REAL = {
    "sorting": "sorting, 84,000 parameters",
    "sorting_large": "sorting, 660,000 parameters",
    "gcd": "common divisors, 84,000 parameters",
    "smollm2_addition": "adding, SmolLM2-135M",
    "smollm2_siblings": "siblings, SmolLM2-135M",
}
"""Real runs, and what they are; the simulation fitted to each has `SIMULATED` at the end of its name."""
SIMULATED = "_simulated"
WHERE = {"": "language model", SIMULATED: "simulation"}


def geometric_mean_ratio(values: FloatArray, baseline: FloatArray) -> FloatArray:
    """Geometric mean over scenarios of ratios of means: (A, S, R) to (A,), or (A, S, D, R) to (A, D)."""
    return np.asarray(np.exp(np.log(ratio_of_means(values, baseline)).mean(axis=1)))


def summary(sources: Sources) -> pd.DataFrame:
    """Ratios to uniform: each scenario's, and their geometric mean; methods first, best first.

    Allocators are those that have all of it in every scenario and replicate.
    """
    keys = ["scenario", "allocator", "replicate", "metric"]
    both = pd.concat([sources.values(study, *SUMMARISED) for study in (ALL, PRICES)])
    values = both.drop_duplicates(keys)  # of the same seeds: whoever is in both is the same in both
    return over_scenarios({panel: by_allocator(values, metric) for metric, panel in SUMMARISED.items()})


def over_scenarios(panels: dict[str, dict[str, FloatArray]], sign: int = 1) -> pd.DataFrame:
    """Rows of the allocators that all panels have values (S, R) of, in the order of the first panel.

    `sign` is -1 where more is better.
    """
    first, *others = panels.values()
    names = [name for name in first if all(name in known for known in others)]
    found, order = [], list[int]()
    for panel, known in panels.items():
        cube = np.stack([known[name] for name in names])
        baseline = np.broadcast_to(known[BASELINE], cube.shape)
        mean = paired_bootstrap(geometric_mean_ratio, cube, baseline)
        ratios = ratio_of_means(cube, baseline)
        if not order:
            order = sorted(range(len(names)), key=lambda a: (is_apart(names[a]), sign * mean.estimate[a]))
        for a in order:
            found.append(exact(panel, names[a], [names[a]] * ratios.shape[1], ratios[a]))
            found.append(rows(panel, names[a], [names[a]], Interval(*(part[a] for part in mean))))
    return pd.concat(found)


def parts(sources: Sources) -> pd.DataFrame:
    """Area over rollouts of frontier without each of its parts; scenarios it was tuned on apart."""
    metric = "tuned_area_over_rollouts"
    values = sources.values(PARTS, metric)
    tuned = values.scenario.isin(TUNED_ON)
    halves = {"scenarios it was not tuned on": values[~tuned], "scenarios it was tuned on": values[tuned]}
    return over_scenarios({panel: by_allocator(half, metric) for panel, half in halves.items()}, sign=-1)


def conditions(sources: Sources) -> pd.DataFrame:
    """Area over rollouts of frontier and others, a panel for each condition of the grid."""
    metric = "tuned_area_over_rollouts"
    values = sources.values(CONDITIONS, metric)
    under = values.scenario.map({spec: condition_of(spec) for spec in values.scenario.unique()})
    panels = {str(condition): by_allocator(part, metric) for condition, part in values.groupby(under)}
    return over_scenarios(panels, sign=-1)


def prices(sources: Sources) -> pd.DataFrame:
    """Gain and cost of frontier and others under the usual condition, each in a panel."""
    values = sources.values(CONDITIONS, *PRICED)
    here = values[values.scenario.isin(usual(values))]
    return over_scenarios({panel: by_allocator(here, metric) for metric, panel in PRICED.items()}, sign=-1)


def usual(values: pd.DataFrame) -> list[str]:
    """The scenarios under the condition that trainers have unasked."""
    return [spec for spec in values.scenario.unique() if condition_of(spec) == TRAINERS]


def condition_of(spec: str) -> str:
    """The condition of the grid that a scenario's spec names."""
    return parse_spec(spec)[1]["condition"]


def ends(sources: Sources) -> pd.DataFrame:
    """Points above uniform's held-out accuracy at its budget, by how often prompts were solved at first.

    Everybody is at its own best learning rate; the mean over the scenarios, its interval over replicates.
    """
    rates = sources.values(CONDITIONS, "tuned_rate")
    specs = usual(rates)
    bins = (np.arange(ACCURACY_BINS) + 0.5) / ACCURACY_BINS
    names = [f"{ACCURACY_PREFIX}{p:.1f}" for p in bins]
    curves = sources.table(
        CONDITIONS, "curves", [*names, "rollouts"], allocator=(BASELINE, *ENDING), scenario=specs
    )
    own = rates.rename(columns={"value": "rate"})[["scenario", "allocator", "replicate", "rate"]]
    judged = curves.merge(own.astype({"rate": curves.rate.dtype}))
    above: dict[str, list[FloatArray]] = {name: [] for name in ENDING}
    for spec in specs:
        of_one = judged[judged.scenario == spec]
        runs = {name: LearningCurves(of_one[of_one.allocator == name]) for name in (BASELINE, *ENDING)}
        budget = runs[BASELINE].at_step("rollouts", sources.steps(CONDITIONS)[spec])
        at_end = {name: _at_budget(run, names, budget) for name, run in runs.items()}
        for name in ENDING:
            above[name].append(at_end[name] - at_end[BASELINE])
    means = {name: mean_interval(100 * np.nanmean(parts, axis=0)) for name, parts in above.items()}
    return pd.concat([rows("mean over scenarios", name, bins, mean) for name, mean in means.items()])


def _at_budget(run: LearningCurves, columns: Sequence[str], budget: FloatArray) -> FloatArray:
    """Values (C, R) of these columns where a run has generated so many rollouts (R,)."""
    return np.stack(
        [interpolate_curves(run["rollouts"], run[name], budget[:, None])[:, 0] for name in columns]
    )


def by_allocator(values: pd.DataFrame, metric: str) -> dict[str, FloatArray]:
    """Values (S, R) of each allocator that has the metric in every scenario and replicate."""
    here = values[values.metric == metric]
    scenarios, replicates = (values[name].unique() for name in ("scenario", "replicate"))
    wide = here.pivot(index=["allocator", "scenario"], columns="replicate", values="value")
    tables = {
        str(name): wide.loc[name].reindex(scenarios, columns=replicates) for name in here.allocator.unique()
    }
    return {
        name: table.to_numpy(np.float64) for name, table in tables.items() if table.notna().all(axis=None)
    }


def is_apart(name: str) -> bool:
    """Whether a row stands below the methods: yardsticks do, and uniform."""
    return name == BASELINE or is_yardstick(name)


def epochs(sources: Sources) -> pd.DataFrame:
    """Area over rollouts, ratio to uniform, against how often a run sees each prompt; a panel a pool."""
    return along(sources, EPOCHS, lambda spec, made: (spec.partition("[")[0], made.epochs))


def noise(sources: Sources) -> pd.DataFrame:
    """Area over rollouts, ratio to uniform, against the noise that is not the rewards'; a panel a batch."""
    return along(
        sources,
        NOISE,
        lambda _, made: (f"{made.prompts} prompts a step of {made.pool_size:,}", made.noise_ratio),
    )


def along(
    sources: Sources, study: str, placed: Callable[[str, LearningScenario], tuple[str, float]]
) -> pd.DataFrame:
    """Area over rollouts, ratio to uniform, against what scenarios differ in; `placed` says panel and x."""
    metric = "tuned_area_over_rollouts"
    values = sources.values(study, metric)
    found = []
    for spec in values.scenario.unique():
        made = scenarios.create(spec)
        assert isinstance(made, LearningScenario)
        panel, x = placed(spec, made)
        of_one = compared(values[values.scenario == spec], metric, panels={spec: panel})
        found.append(of_one.assign(series=of_one.x, x=x)[of_one.x != BASELINE])
    return pd.concat(found)


def real(sources: Sources) -> pd.DataFrame:
    """Real runs beside the simulations that were fitted to them; the best in the first of them first."""
    found = []
    for study, panel in REAL.items():
        for kind, series in WHERE.items():
            metric = sources.results(
                study + kind
            ).sort  # area, at the best of several rates or at the only one
            part = compared(sources.values(study + kind, metric), metric)
            found.append(part.assign(panel=panel, series=series)[part.x != BASELINE])
    best = found[0].sort_values("value", ascending=False).x.tolist()
    return pd.concat([part.sort_values("x", key=lambda names: names.map(best.index)) for part in found])


FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "ours_summary",
        "What it takes to get 90% of uniform's gain, as a multiple of what uniform takes",
        summary,
        Rows(
            "ratio to uniform (less is better)",
            level=1.0,
            log="x",
            same_x=True,
            cloud=True,
            band=ORACLE,
            apart=is_apart,
            bare="Single scenarios are without theirs, so that the means can be read.",
        ),
        (ALL, PRICES),
        "Each at its own best learning rate. Pale: each scenario. Strong: their geometric "
        "mean, with its 95% interval. "
        "Below the line: yardsticks and controls. Band: the best that VIP's counts can be, at the true "
        "success probabilities; who also chooses prompts can do better. A run not there after 1.5 times "
        "uniform's budget counts as there then. Seconds are simulated. Not here: who lacks a result.",
    ),
    Redrawn(
        "ours_epochs",
        "Learning against how often a run sees each prompt",
        epochs,
        Curves(
            "epochs",
            "ratio to uniform",
            log="x",
            level=1.0,
            same_y=True,
            height=2.4,
            pale=("uniform[divide=2]", "pilot_commit", "greso"),
        ),
        (EPOCHS,),
        "Area under accuracy over rollouts, ratio to uniform's, each at its own best learning "
        "rate. "
        "One epoch: each prompt once. All runs have 100 steps of 128 prompts x 8 rollouts.",
    ),
    Redrawn(
        "ours_frontier",
        "What each part of frontier adds to the area under accuracy over rollouts",
        parts,
        Rows("ratio to uniform (more is better)", level=1.0, same_x=True, cloud=True, apart=is_apart),
        (PARTS,),
        "Ratio to uniform's, each at its own best learning rate. Pale: each scenario. Strong: their "
        "geometric mean, with its 95% interval. All seeds are others than those it was tuned on. Below the "
        "line: bounds that know the true success probabilities, and uniform.",
    ),
    Redrawn(
        "ours_conditions",
        "Frontier under every condition: area under accuracy over rollouts",
        conditions,
        Rows("ratio to uniform (more is better)", level=1.0, same_x=True, cloud=True, apart=is_apart),
        (CONDITIONS,),
        "Estimator, mean and optimizer. Ratio to uniform's, each at its own best learning rate. Pale: each "
        "scenario. Strong: their geometric mean, with its 95% interval. Scenarios and seeds are others than "
        "those it was tuned on; among them a verifier that errs, partial credit, lost and old rollouts, and "
        "the difficulties of a recorded run.",
    ),
    Redrawn(
        "ours_prices",
        "Frontier by what it costs: rollouts, or seconds",
        prices,
        Rows("ratio to uniform", level=1.0, log="x", cloud=True, apart=is_apart),
        (CONDITIONS,),
        "GRPO, mean over rollouts, Adam; each at its own best learning rate. Pale: each scenario. Strong: "
        "their geometric mean, with its 95% interval. Scenarios and seeds are others than those it was "
        "tuned on. Who is not there after 1.5 times uniform's budget counts as there then. Seconds are "
        "simulated.",
    ),
    Redrawn(
        "ours_noise",
        "Learning against how much of the noise has nothing to do with the reward",
        noise,
        Curves(
            "noise ratio of a score",
            "ratio to uniform",
            log="x",
            level=1.0,
            same_y=True,
            height=2.4,
            pale=("dapo",),
        ),
        (NOISE,),
        "Area under accuracy over rollouts, ratio to uniform's, each at its own best of five learning rates. "
        "A bank of gradients has a noise ratio of 0.3 for SmolLM2 adding numbers in two tokens, and of 3 for "
        "a small model sorting digits; scenarios have 100 unless they say otherwise.",
    ),
    Redrawn(
        "ours_ends",
        "What choosing prompts does to easy and to hard ones by the end of training",
        ends,
        Curves("success probability before training", "accuracy above uniform's (points)", level=0.0),
        (CONDITIONS,),
        "Held-out prompts, when uniform's budget is spent: GRPO, mean over rollouts, Adam; each at its own "
        "best learning rate. Means over scenarios that frontier was not tuned on; intervals over replicates.",
    ),
    Redrawn(
        "ours_real",
        "Language models that really learned, and the simulations fitted to them",
        real,
        Rows(
            "area over rollouts, ratio to uniform",
            level=1.0,
            marked={WHERE[""]: Style("#AA4466", 1), WHERE[SIMULATED]: Style("#4477AA")},
        ),
        tuple(study + kind for study in REAL for kind in WHERE),
        "Each at its own best learning rate; more is better. A simulation has the real run's rates up to the "
        "one at which uniform gained most. Intervals that cannot be seen are hidden by their points.",
    ),
)
