"""Pilot-Commit's figures and tables (arXiv 2605.26606).

Its runs last long enough for GRPO to see a prompt about one and a half times, and so do these: pools of 8,192
prompts, 100 steps of 128. Two of its group sizes, 64 and 16, are used. The published rollouts to a target are
its steps times the nominal rollouts of a step; ours are all rollouts, refill rounds included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from paper_figures.drawing import Curves, Rows
from paper_figures.series import EQUAL, along, between, compared, exact, named, runs, scaled
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.allocators.pilot_commit import PilotCommit
from rolloutbench.analysis.curves import LearningCurves
from rolloutbench.cells.collectors import BASELINE, HORIZON
from rolloutbench.protocol import FloatArray, Outcomes
from simulators.clock import Clock

TARGETS, SETTINGS = "pilot_commit_targets", "pilot_commit_settings"
METHODS = (BASELINE, "pilot_commit", "dapo")
NAMES = {BASELINE: "GRPO", "pilot_commit": "Pilot-Commit", "dapo": "DAPO"}
_OURS = {"grpo": BASELINE, "pilot_commit": "pilot_commit", "dapo": "dapo"}
"""Allocators by the names that the paper gives them."""
NOMINAL = {"grpo": 8192, "pilot_commit": 12288, "dapo": 24576}
"""Rollouts of a step without refill rounds: 128 prompts, 3 times as many candidates, groups of 64."""
PUBLISHED_NOMINAL = 24576
"""Nominal rollouts of a step of Pilot-Commit in Table 3, with groups of 128."""

_SIXTEEN = "pool_size=8192,group_size=16,noise_ratio=200"
SCENARIOS = {
    "dead-sixty-v1[pool_size=8192,learning_rate=7]": "60% dead, SGD, n = 64",
    "dead-sixty-v1[pool_size=8192,optimizer=adam,learning_rate=0.25]": "60% dead, Adam, n = 64",
    "u-shaped-adam-v1[pool_size=8192,group_size=64,noise_ratio=800]": "u-shaped, Adam, n = 64",
    "weak-cold-v1[pool_size=8192,group_size=64,noise_ratio=800]": "weak start, Adam, n = 64",
    f"dead-sixty-v1[{_SIXTEEN},learning_rate=7]": "60% dead, SGD, n = 16",
    f"dead-sixty-v1[{_SIXTEEN},optimizer=adam,learning_rate=0.25]": "60% dead, Adam, n = 16",
    f"u-shaped-adam-v1[{_SIXTEEN}]": "u-shaped, Adam, n = 16",
    f"weak-cold-v1[{_SIXTEEN}]": "weak start, Adam, n = 16",
}
"""Scenarios of the first study, and their names in figures. Dead prompts are solved always or never."""
LARGE = dict(list(SCENARIOS.items())[:4])
SHOWN = {name: title for name, title in SCENARIOS.items() if "SGD" in title or "u-shaped" in title}

OVER = {BASELINE: "GRPO / Pilot-Commit", "dapo": "DAPO / Pilot-Commit"}
CONTROLS = {
    "effective_count": "GRPO divided by mixed groups",
    "uniform[divide=4]": "GRPO, a quarter of the group",
    "dapo[oversample=1,carry=true]": "DAPO that keeps its surplus",
}
TRAINED_ALIKE = {
    "pilot_commit[n_pilot=8]": "8 + 56 (10,240)",
    "pilot_commit": "16 + 48 (12,288, the paper's)",
    "pilot_commit[n_pilot=24]": "24 + 40 (14,336)",
    "pilot_commit[n_pilot=32]": "32 + 32 (16,384)",
    "pilot_commit[n_pilot=48]": "48 + 16 (20,480)",
    BASELINE: "GRPO (8,192)",
}
"""Splits of 64 rollouts into pilots and commits, with the nominal rollouts of a step."""
SAMPLED_ALIKE = {
    "pilot_commit[n_pilot=8,n_commit=72]": "8 + 72",
    "pilot_commit[n_pilot=12,n_commit=60]": "12 + 60",
    "pilot_commit": "16 + 48 (the paper's)",
    "pilot_commit[n_pilot=20,n_commit=36]": "20 + 36",
    "pilot_commit[n_pilot=24,n_commit=24]": "24 + 24",
    "pilot_commit[n_pilot=28,n_commit=12]": "28 + 12",
    BASELINE: "GRPO",
}
"""Splits that all cost 12,288 rollouts in a step."""
SPLITS = {"training": TRAINED_ALIKE, "sampling": SAMPLED_ALIKE}
THRESHOLDS = {
    "p_upper": {
        "pilot_commit[p_upper=1]": "1",
        "pilot_commit[p_upper=0.875]": "0.875",
        "pilot_commit": "0.75 (paper)",
        "pilot_commit[p_upper=0.625]": "0.625",
    },
    "p_lower": {
        "pilot_commit[p_lower=0]": "0",
        "pilot_commit": "0.125 (paper)",
        "pilot_commit[p_lower=0.25]": "0.25",
        "pilot_commit[p_lower=0.375]": "0.375",
    },
    "p_solve": {
        "pilot_commit": "1 (paper)",
        "pilot_commit[p_solve=0.875]": "0.875",
        "pilot_commit[p_solve=0.75]": "0.75",
    },
}
EVICTION = {"pilot_commit[evict=false]": "without eviction", "pilot_commit": "with eviction"}

SECONDS = {
    "a nominal step through the clock": "seconds per step",
    "a step, all rollouts counted": "seconds per step, ratio to GRPO",
    "to 90% of the gain": "seconds, ratio to GRPO",
    "to 50% of the gain": "seconds, ratio to GRPO",
}
EVICTED = {
    "rollouts": "rollouts per step over the nominal",
    "refill rounds": "rounds per step beyond the first",
    "accuracy at equal steps": "points above no eviction",
}
"""Panels of the figure on eviction, and the labels of their axes."""


def over_rollouts(sources: Sources) -> pd.DataFrame:
    """Accuracy against everything that was generated."""
    curves = _curves(sources, LARGE, "accuracy", "rollouts")
    parts = []
    known = published("pilot_commit", "fig1").astype({"value": float})
    for (setting, method), points in known.groupby(["setting", "method"], sort=False):
        name = _OURS[str(method)]
        parts.append(as_published(f"published: {setting}", name, list(points.x), list(points.value)))
    for scenario, panel in LARGE.items():
        found = runs(curves, scenario)
        until = HORIZON * found[BASELINE].at_step("rollouts", sources.steps(TARGETS)[scenario])[0]
        for name, run in found.items():
            parts.append(along(run, panel, name, _gain(run), "rollouts", until))
    return pd.concat(parts)


def reward_deviation(sources: Sources) -> pd.DataFrame:
    """Standard deviation of rewards in the trained groups: how mixed they are."""
    curves = _curves(sources, SHOWN, "deviation", "groups")
    return pd.concat(
        between(run, panel, name, "deviation", "groups", int(HORIZON * sources.steps(TARGETS)[scenario]))
        for scenario, panel in SHOWN.items()
        for name, run in runs(curves, scenario).items()
    )


def splits(sources: Sources) -> pd.DataFrame:
    """Pilots and commits: rollouts to the target, at equal cost of training and of sampling."""
    values = sources.values(SETTINGS, "rollouts_to_50", "rollouts_to_90")
    parts = []
    for said, names in SPLITS.items():
        for percent in (50, 90):
            found = compared(values, f"rollouts_to_{percent}", against="pilot_commit", allocators=names)
            parts.append(named(found.assign(panel=f"equal {said} cost, to {percent}%"), names))
    return pd.concat(parts)


def thresholds(sources: Sources) -> pd.DataFrame:
    """The band of a pilot's success rate, and the rate at which a prompt is given up."""
    values = sources.values(SETTINGS, *EQUAL)
    parts = []
    for metric, equal in EQUAL.items():
        for threshold, names in THRESHOLDS.items():
            found = scaled(compared(values, metric, "difference", allocators=names), 100)
            parts.append(named(found.assign(panel=f"{threshold}, {equal}"), names))
    return pd.concat(parts)


def over_prompts(sources: Sources) -> pd.DataFrame:
    """Accuracy against the prompts that were rolled out, as far as DAPO gets in the study's steps."""
    curves = _curves(sources, SHOWN, "accuracy", "asked")
    parts = []
    for scenario, panel in SHOWN.items():
        found = runs(curves, scenario)
        until = float(found["dapo"].at_step("asked", sources.steps(TARGETS)[scenario]).mean())
        for name, run in found.items():
            parts.append(along(run, panel, name, _gain(run), "asked", until, points=101))
    return pd.concat(parts)


def rollouts_to_target(sources: Sources) -> pd.DataFrame:
    """Rollouts of GRPO and of DAPO until a target, over those of Pilot-Commit."""
    values, known = sources.values(TARGETS, "rollouts_to_50", "rollouts_to_90"), _table("table1")
    parts = []
    for method in ("grpo", "dapo"):
        ratio = known[method] / known.pilot_commit
        models = [setting.partition(" target")[0] for setting in ratio.index]
        parts.append(as_published(OVER[_OURS[method]], _OURS[method], models, list(ratio)))
    for percent in (90, 50):
        found = _over_pilot_commit(values, f"rollouts_to_{percent}", OVER)
        parts.append(found.assign(x=found.x + f": to {percent}%"))
    return pd.concat(parts)


def controls(sources: Sources) -> pd.DataFrame:
    """Rollouts of controls until a target, over those of Pilot-Commit: what else saves rollouts."""
    values = sources.values(TARGETS, "rollouts_to_90")
    return _over_pilot_commit(values, "rollouts_to_90", CONTROLS)


def accuracy(sources: Sources) -> pd.DataFrame:
    """Accuracy of Pilot-Commit and of DAPO above GRPO's."""
    values = sources.values(TARGETS, *EQUAL)
    parts = []
    for metric, equal in EQUAL.items():
        found = compared(values, metric, "difference", panels=SCENARIOS, allocators=["pilot_commit", "dapo"])
        parts.append(scaled(found, 100).assign(x=found.panel, panel=equal))
    return pd.concat(parts)


def seconds(sources: Sources) -> pd.DataFrame:
    """Nominal steps through the clock, and the study's steps and targets, in seconds."""
    values = sources.values(TARGETS, "seconds_per_step", "seconds_to_50", "seconds_to_90")
    of_step = published("pilot_commit", "table2").set_index("method").value.astype(float)
    rollouts = _table("table1").loc["Qwen3-14B n=64 target 57.0"].to_dict()
    to_target = {method: rollouts[method] / NOMINAL[method] * of_step[method] for method in _OURS}
    step, relative, target, half = SECONDS
    parts = []
    for method, name in _OURS.items():
        parts.append(as_published(step, name, [NAMES[name]], [of_step[method]]))
        parts.append(exact(step, name, [NAMES[name]], clock_seconds(NOMINAL[method])))
    for name in ("pilot_commit", "dapo"):
        for panel, known in ((relative, of_step), (target, to_target)):
            parts.append(as_published(panel, name, ["Qwen3-14B n=64"], [known[name] / known["grpo"]]))
    metrics = {relative: "seconds_per_step", target: "seconds_to_90", half: "seconds_to_50"}
    for panel, metric in metrics.items():
        found = compared(values, metric, panels=LARGE, allocators=["pilot_commit", "dapo"])
        parts.append(found.assign(x=found.panel, panel=panel))
    return pd.concat(parts)


def clock_seconds(rollouts: int) -> float:
    """Seconds of a step of one stage on prompts of Beta(.4, .6), of which 128 groups of 64 are trained on."""
    clock, p = Clock(), stats.beta(0.4, 0.6).ppf((np.arange(2000) + 0.5) / 2000)[None]
    generation, _ = clock.stage(p, np.full(p.shape, rollouts / p.size))
    return float(generation[0] + clock.rest(np.array([rollouts]), np.array([NOMINAL["grpo"]]))[0])


def eviction(sources: Sources) -> pd.DataFrame:
    """Rollouts, refill rounds and accuracy with and without giving up solved prompts."""
    values = sources.values(SETTINGS, "rollouts_per_step", "stages_per_step", "accuracy_at_steps")
    known = published("pilot_commit", "table3").value.astype(float)
    rollouts, rounds, points = EVICTED
    spent = compared(values, "rollouts_per_step", "value", allocators=EVICTION)
    stages = compared(values, "stages_per_step", "value", allocators=EVICTION)
    without, *_ = EVICTION
    gained = compared(values, "accuracy_at_steps", "difference", without, allocators=EVICTION)
    return pd.concat(
        [
            as_published(rollouts, "pilot_commit", list(EVICTION.values()), list(known / PUBLISHED_NOMINAL)),
            named(scaled(spent, 1 / NOMINAL["pilot_commit"]).assign(panel=rollouts), EVICTION),
            named(scaled(stages, 1, -1).assign(panel=rounds), EVICTION),
            named(scaled(gained, 100).assign(panel=points), EVICTION),
        ]
    )


def screening_chances(p: FloatArray, n_pilot: int) -> tuple[FloatArray, FloatArray]:
    """Chances that a prompt with success probability p is let in, and that it is evicted."""
    k = np.arange(n_pilot + 1)
    pilots = Outcomes(np.zeros((1, len(k)), dtype=np.int64), np.full((1, len(k)), n_pilot), k[None])
    chances = stats.binom.pmf(k, n_pilot, p[..., None])
    method = PilotCommit()
    return chances @ method.informative(pilots)[0], chances @ method.solved(pilots)[0]


def filter_power(sources: Sources) -> pd.DataFrame:
    """Chances of being let in and of being evicted over p, for pilots of the group sizes 16, 64 and 128."""
    p = np.linspace(0, 1, 101)
    parts = []
    for n_pilot in (8, 16, 32):
        name = f"pilot_commit[n_pilot={n_pilot}]"
        for panel, chance in zip(("let in", "evicted"), screening_chances(p, n_pilot), strict=True):
            parts.append(exact(panel, name, p, chance))
    return pd.concat(parts)


def _curves(sources: Sources, scenarios: Iterable[str], *columns: str) -> pd.DataFrame:
    """Training curves of the three methods of the paper."""
    return sources.table(TARGETS, "curves", columns, allocator=METHODS, scenario=tuple(scenarios))


def _gain(run: LearningCurves) -> FloatArray:
    """Held-out accuracy above its start, in points."""
    accuracy = run["accuracy"]
    return 100 * (accuracy - accuracy[:, :1])


def _table(item: str) -> pd.DataFrame:
    """A published table of numbers: a row for each setting, a column for each method; NaN for `never`."""
    known = published("pilot_commit", item)
    known = known.assign(value=pd.to_numeric(known.value, errors="coerce"))
    return known.pivot(index="setting", columns="method", values="value").loc[known.setting.unique()]


def _over_pilot_commit(values: pd.DataFrame, metric: str, panels: Mapping[str, str]) -> pd.DataFrame:
    """Ratios to Pilot-Commit, a panel for each allocator and a row for each scenario."""
    found = compared(values, metric, against="pilot_commit", panels=SCENARIOS, allocators=panels)
    return found.assign(x=found.panel, panel=found.series.map(panels))


FIGURE_1 = tuple(published("pilot_commit", "fig1").setting.unique())
GAIN = "accuracy gain (points)"
ALL_COUNTED = "Ours count all rollouts, the paper's the nominal ones, without refill rounds."
MISSED = (
    "A run that misses its target counts as there at 1.5 times the rollouts of the reference run, so ratios "
    "of those that often do are lower bounds"
)

FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "pilot_commit_fig1",
        "Pilot-Commit Fig. 1: accuracy against cumulative rollouts, as published (average of 7 "
        "benchmarks) and here.",
        over_rollouts,
        Curves(
            "generated rollouts",
            {f"published: {setting}": "accuracy (%)" for setting in FIGURE_1}
            | dict.fromkeys(LARGE.values(), GAIN),
        ),
        (TARGETS,),
        ALL_COUNTED,
    ),
    Redrawn(
        "pilot_commit_fig3",
        "Pilot-Commit Fig. 3: mean standard deviation of a trained group's rewards. Screened "
        "groups stay mixed.",
        reward_deviation,
        Curves("step", "std of rewards", same_y=True),
        (TARGETS,),
    ),
    Redrawn(
        "pilot_commit_fig4",
        "Pilot-Commit Fig. 4: pilots + commits of a group, at equal cost of training and of sampling",
        splits,
        Rows("rollouts to the target, ratio to 16 + 48", log="x", level=1.0),
        (SETTINGS,),
        "In brackets: nominal rollouts of a step. "
        "Targets are shares of the gain of a reference GRPO run. All rollouts are counted.",
    ),
    Redrawn(
        "pilot_commit_fig5",
        "Pilot-Commit Fig. 5: the thresholds on a pilot's success rate.",
        thresholds,
        Rows("points above GRPO", columns=3, level=0.0),
        (SETTINGS,),
        "Below p_lower and above p_upper prompts are left alone, from p_solve on evicted. Differences in "
        "held-out accuracy, paired by replicate. The paper sees hardly any at equal steps. It evicts 22 to "
        "35% of its prompts; here 30% are always solved, more than half go, the rest comes up more often.",
    ),
    Redrawn(
        "pilot_commit_fig6",
        "Pilot-Commit Fig. 6: accuracy against the prompts consumed. Who screens prompts uses more of them.",
        over_prompts,
        Curves("prompts rolled out", GAIN),
        (TARGETS,),
        "A prompt counts once in every step in which it is rolled out.",
    ),
    Redrawn(
        "pilot_commit_table1",
        "Pilot-Commit Table 1: rollouts to a target, over those of Pilot-Commit; above 1 it saves rollouts.",
        rollouts_to_target,
        Rows("ratio of rollouts", log="x", level=1.0),
        (TARGETS,),
        "Targets are the best accuracy of the published GRPO run, and shares of the gain of a reference GRPO "
        f"run here. {ALL_COUNTED} Where the published DAPO never got there its row is empty. "
        f"{MISSED}: DAPO's to 90%.",
    ),
    Redrawn(
        "pilot_commit_controls",
        "Pilot-Commit: beside Table 1: rollouts of simpler remedies until 90% of the gain, over "
        "those of Pilot-Commit.",
        controls,
        Rows("ratio of rollouts", columns=3, log="x", level=1.0),
        (TARGETS,),
        f"Below 1 the simpler remedy needs fewer; all are counted. {MISSED}: the first two under SGD.",
    ),
    Redrawn(
        "pilot_commit_table2",
        "Pilot-Commit Table 2: seconds. A step of 8,192, 12,288 and 24,576 rollouts, the study's "
        "steps, and its target.",
        seconds,
        Rows(SECONDS, level=1.0),
        (TARGETS,),
        "The clock's constants are fitted to this table. The published seconds to the target are steps to "
        "the target (Table 1) times seconds per step.",
    ),
    Redrawn(
        "pilot_commit_table3",
        "Pilot-Commit Table 3: eviction of solved prompts, what it saves and what it does to accuracy.",
        eviction,
        Rows(EVICTED, columns=3),
        (SETTINGS,),
        "Nominal are 24,576 rollouts a step in the paper and 12,288 here: without refill rounds. The paper "
        "finds equal accuracy, and a second round in 35.8% of steps without eviction and 4.5% with it.",
    ),
    Redrawn(
        "pilot_commit_table4",
        "Pilot-Commit Tables 4 and 5: accuracy, here after what GRPO spends in the study's steps.",
        accuracy,
        Rows("points above GRPO", level=0.0),
        (TARGETS,),
        "Differences in held-out accuracy, paired by replicate. The paper compares the best evaluation of a "
        "run, after different numbers of rollouts.",
    ),
    Redrawn(
        "pilot_commit_filter",
        "Pilot-Commit: what pilots can tell: the chance that a prompt is let into the buffer, and "
        "that it is evicted.",
        filter_power,
        Curves("success probability of the prompt", "probability"),
        said="Binomial, with the paper's thresholds .125, .75 and 1. At p = .9 eight pilots evict a prompt "
        "at 43% of its visits.",
    ),
)
