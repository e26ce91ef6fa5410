"""VIP (arXiv 2602.01601): its Figures 3, 6 and 7, Tables 1 to 3 and 5 to 8, and what it leaves to check.

What is mathematics, Figure 2, Table 4 and the Propositions, is in vip_theory.py. Its Figures 1, 4 and 5
are a diagram and prompts, Table 9 lists settings; Table 4's kernel matrix is not kept here at all.

A simulated policy stands for the language model: the weak start for mathematics (Table 1, where a 1.5B
model begins with hardly any success), u-shaped difficulty for tools (Table 2). Two epochs in 66 steps, as
in the paper, at a quarter of its batch. Published differences are of one run each, on tests of 30 problems
(AIME): by chance alone a pass@32 of .3 varies by 8 points. They have no intervals and none is made up.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd

from paper_figures.drawing import Curves, Rows
from paper_figures.series import along, between, compared, exact, points, rows, runs
from paper_figures.sources import Redrawn, Sources, as_published, published
from rolloutbench.analysis.plotting.style import Style
from rolloutbench.analysis.statistics import interpolate_curves, mean_interval
from rolloutbench.predictors import predictors

PRINTED = "vip[preset=paper]"
"""Spec of VIP as its paper has it; published rows are drawn as this allocator."""
VARIANTS = ["vip", PRINTED, "vip[preset=released_code]", "vip[predictor=oracle]"]
STEPS = 66
EVERY = np.arange(0.0, STEPS + 1, 3)
WEAK, U_SHAPED = (
    {
        n: f"{name}[steps=66,pool_size=4224,evaluate_every=3{size}]"
        for n, size in ((8, ""), (16, ",group_size=16"))
    }
    for name in ("weak-cold-v1", "u-shaped-adam-v1")
)
"""Scenarios by rollouts per prompt."""
OBJECTIVES = {"RLOO": ("vip_rloo", "rloo"), "Dr. GRPO": ("vip_dr_grpo", "dr_grpo")}
"""Study of each objective, and the objective's name in the published tables."""


def joined(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables one under the other, as one."""
    return pd.concat(list(tables), ignore_index=True)


# Figure 3: error of the predicted success rate

SHORT = {
    "gp[noise=0,drift=1,belief=plug_in]": "gp[printed]",
    "gp[noise=0,drift=1,belief=plug_in,length_scale=0.5,prior_mean=-5,jitter=1e-4]": "gp[released]",
}
"""Short names of the Gaussian process as the paper and as its code have it."""
PREDICTORS = {"gaussian_process": "gp[printed]", "moving_average": "global_mean", "ridge": "ridge"}
"""Predictors here that are the paper's methods: its moving average is one mean of all prompts."""
STARTS = {
    "weak start": ("weak-cold-v1[steps=66,pool_size=4224]", "Qwen2.5-Math-1.5B"),
    "middle": ("mid-broad-v1[steps=66,pool_size=4224]", "Qwen2.5-Math-7B"),
}
"""Scenario of each start, and the model beside it: one that solves next to nothing, one that solves more."""
PHASES = {"steps 3 to 27": (3, 27), "steps 28 to 55": (28, 55)}


def prediction_errors(sources: Sources) -> pd.DataFrame:
    """Mean absolute error of every predictor in each step and replicate, with short names."""
    judged = sources.table("vip_prediction", "judged", ["mae"])
    return judged.assign(predictor=judged.predictor.replace(SHORT), mae=judged.mae.astype(np.float64))


def figure_3(sources: Sources) -> pd.DataFrame:
    """Mean absolute error of predictors over the steps, and the published ones below."""
    errors, theirs = prediction_errors(sources), published("vip", "fig3")
    found = []
    for panel, (scenario, _) in STARTS.items():
        for name, of in errors[errors.scenario == scenario].groupby("predictor", sort=False):
            wide = of.pivot(index="steps", columns="replicate", values="mae")
            found.append(rows(panel, str(name), wide.index.to_numpy(), mean_interval(wide.to_numpy())))
    for _, model in STARTS.values():
        for method, series in PREDICTORS.items():
            line = theirs[(theirs.setting == model) & (theirs.method == method)]
            x, value = line.x.tolist(), line.value.astype(float).tolist()
            found.append(as_published(f"{model} (published)", series, x, value))
    return joined(found)


def figure_3_means(sources: Sources) -> pd.DataFrame:
    """Means of Figure 3's errors before and after prompts come back."""
    errors, theirs = prediction_errors(sources), published("vip", "fig3")
    found = []
    for start, (scenario, model) in STARTS.items():
        for phase, (first, last) in PHASES.items():
            panel = f"{start}, {phase}"
            here = errors[(errors.scenario == scenario) & errors.steps.between(first, last)]
            for name, of in here.groupby("predictor", sort=False):
                means = of.groupby("replicate")["mae"].mean().to_numpy()
                found.append(rows(panel, str(name), [str(name)], mean_interval(means)))
            setting = f"{model} steps {first}-{last}"
            for method, series in PREDICTORS.items():
                mean = theirs[(theirs.setting == setting) & (theirs.method == method)].value.astype(float)
                found.append(as_published(panel, series, [series], mean.tolist()))
    return joined(found)


# Figures 6 and 7: training

TRAINED = ["uniform", PRINTED, "vip", "vip[predictor=oracle]"]
METHODS = {"grpo": "uniform", "vip": PRINTED}
"""Allocators here that are the methods of the paper's figures."""
SHOWN = {
    "reward of a training batch": "share solved",
    "spread of a group's rewards": "standard deviation",
    "held-out gain over uniform": "points",
}
"""Rows of Fig. 6, and what their axes say."""


def weak_curves(sources: Sources, *columns: str) -> pd.DataFrame:
    """Training curves with these columns, from the weak start."""
    scenarios = tuple(WEAK.values())
    return sources.table("vip_dr_grpo", "curves", columns, allocator=TRAINED, scenario=scenarios)


def figure_6(sources: Sources) -> pd.DataFrame:
    """Reward of the batches between evaluations, its spread in a group, and what was learned."""
    columns = ("accuracy", "rollouts", "rewarded", "groups", "deviation")
    curves = weak_curves(sources, *columns)
    theirs = published("vip", "fig6")
    theirs = theirs[theirs.metric == "mean_reward"]
    found = []
    for shown in SHOWN:
        for n, scenario in WEAK.items():
            panel = f"{shown}, {n} per prompt"
            if shown.startswith("reward"):
                for method, series in METHODS.items():
                    line = theirs[theirs.setting.str.endswith(f"@{n}Q") & (theirs.method == method)]
                    solved = (line.value.astype(float) + 1) / 2
                    found.append(as_published(panel, series, line.x.tolist(), solved.tolist()))
            trained = runs(curves, scenario)
            uniform = interpolate_curves(trained["uniform"]["steps"], trained["uniform"]["accuracy"], EVERY)
            for name, run in trained.items():
                if shown.startswith("reward"):
                    found.append(between(run, panel, name, "rewarded", "rollouts", STEPS))
                elif shown.startswith("spread"):
                    found.append(between(run, panel, name, "deviation", "groups", STEPS))
                else:
                    ahead = interpolate_curves(run["steps"], run["accuracy"], EVERY) - uniform
                    gained = rows(panel, name, EVERY, mean_interval(ahead.T))
                    found.append(points(gained).dropna(subset="value"))
    return joined(found)


def figure_7(sources: Sources) -> pd.DataFrame:
    """Held-out accuracy over the steps, and the published mean@32."""
    curves = weak_curves(sources, "accuracy")
    theirs = published("vip", "fig7")
    theirs = theirs[theirs.metric == "mean@32"]
    found = []
    for n, tests in ((8, ("AIME24", "AIME25")), (16, ("AIME25",))):
        for name, run in runs(curves, WEAK[n]).items():
            panel = f"weak start, {n} per prompt"
            found.append(along(run, panel, name, run["accuracy"], "steps", STEPS, 23))
        for test in tests:
            for method, series in METHODS.items():
                line = theirs[theirs.setting.str.endswith(f"{test}@{n}Q") & (theirs.method == method)]
                panel, scores = f"{test}@{n} (published)", line.value.astype(float).tolist()
                found.append(as_published(panel, series, line.x.tolist(), scores))
    return joined(found)


# Tables 1 to 3: VIP against equal groups


def gain(theirs: pd.DataFrame, base: str, method: str, metric: str) -> pd.Series:
    """Published difference of `method` to `base` in a metric, by setting in order."""
    of = theirs[theirs.metric == metric].set_index("setting")
    found: pd.Series = of.value[of.method == method].astype(float) - of.value[of.method == base].astype(float)
    return found.reindex(of.index.unique())


def table_1(sources: Sources, ours: str, theirs: str) -> pd.DataFrame:
    """Difference to uniform in points, of each variant of VIP, and as published of each model and test."""
    found = []
    for objective, (study, base) in OBJECTIVES.items():
        for n, scenario in WEAK.items():
            panel = f"{objective}, {n}"
            values = sources.values(study, ours)
            of = compared(values, ours, "difference", panels={scenario: panel}, allocators=VARIANTS)
            found.append(points(of))
            gains = gain(published("vip", "table1"), base, f"{base}+vip", theirs)
            gains = gains[gains.index.str.contains(f"C={n}Q")]
            names = gains.index.str.replace(f" C={n}Q", ",").tolist()
            found.append(as_published(panel, PRINTED, names, gains.tolist()))
    return joined(found)


def table_1_rollouts(sources: Sources) -> pd.DataFrame:
    """Rollouts to 90% of uniform's gain, as a ratio to uniform."""
    metric = "rollouts_to_90"
    return joined(
        compared(
            sources.values(study, metric),
            metric,
            panels={scenario: f"{start}, {objective}, {n}"},
            allocators=VARIANTS,
        )
        for start, scenarios in (("weak", WEAK), ("u-shaped", U_SHAPED))
        for objective, (study, _) in OBJECTIVES.items()
        for n, scenario in scenarios.items()
    )


def table_2(sources: Sources) -> pd.DataFrame:
    """Difference to uniform in points, and the published gain in exact match."""
    metric = "accuracy_at_rollouts"
    found = []
    for objective, (study, base) in OBJECTIVES.items():
        panel, values = f"{objective}, 8", sources.values(study, metric)
        of = compared(values, metric, "difference", panels={U_SHAPED[8]: panel}, allocators=VARIANTS)
        found.append(points(of))
        gains = gain(published("vip", "table2"), base, f"{base}+vip", "exact_match")
        names = [f"{setting.rpartition(' ')[2]}, exact match" for setting in gains.index]
        found.append(as_published(panel, PRINTED, names, gains.tolist()))
    return joined(found)


ABLATION = {
    "gp+inverse_accuracy": "inverse_accuracy[predictor=gp,rule=linear_program]",
    "gp+inverse_variance": "inverse_variance[predictor=gp,rule=linear_program]",
    "ridge+vip": "vip[predictor=ridge]",
    "vip": PRINTED,
}
"""Allocators here that are the rows of Table 3: the heuristics as the paper's code has them."""
GRID = [
    *ABLATION.values(),
    "vip",
    "vip[predictor=beta]",
    "vip[predictor=ensemble]",
    "vip[predictor=oracle]",
    "vip[preset=released_code]",
    "inverse_accuracy[predictor=gp]",
    "inverse_accuracy[predictor=oracle]",
    "inverse_variance[predictor=gp]",
    "inverse_variance[predictor=oracle]",
    "permuted[of=vip]",
]


def table_3(sources: Sources) -> pd.DataFrame:
    """Predictor by objective: difference to uniform in accuracy and in the area under it, in points."""
    found = []
    for title, scenario in (("weak start", WEAK[8]), ("u-shaped", U_SHAPED[8])):
        for metric, what in (("accuracy_at_rollouts", "accuracy"), ("area_over_rollouts", "area")):
            values = sources.values("vip_rloo", metric)
            panels = {scenario: f"{title}: {what}"}
            found.append(points(compared(values, metric, "difference", panels=panels, allocators=GRID)))
        if title == "weak start":
            for method, spec in ABLATION.items():
                gains = gain(published("vip", "table3"), "rloo", method, "mean@32").tolist()
                found.append(as_published("weak start: accuracy", spec, [spec] * len(gains), gains))
    return joined(found)


# Tables 5 to 8: Assumption 4.1

TESTS = {
    "fisher": ("table5", "Fisher, Table 5", ("R, |z|", "R, |z|^2")),
    "edgington": ("table6", "Edgington, Table 6", ("R, |z|", "R, |z|^2")),
    "levene": ("table7", "Levene, Table 7", ("Var|z|",)),
    "obrien": ("table8", "O'Brien, Table 8", ("Var|z|",)),
}
MOMENTS = {"0": ("start", 0), "0.5": ("middle", 50), "1.0": ("end", 100)}
"""Epochs of the paper, and steps of ours that stand for them."""
LEAST = 1e-12
"""Least p-value that is drawn; smaller ones are drawn there."""


def tables_5_to_8(sources: Sources) -> pd.DataFrame:
    """p-values of the tests in Tables 5 to 8, of a small transformer trained here and of the paper's."""
    ours = pd.read_csv(sources.recorded("real_sorting_scores/tests.csv"))
    found = []
    for test, (item, panel, statistics) in TESTS.items():
        theirs = published("vip", item)
        for epoch, (moment, step) in MOMENTS.items():
            of = theirs[(theirs.method == test) & theirs.setting.str.endswith(f"epoch {epoch}")]
            found.append(as_published(panel, statistics[0], [moment], of.value.astype(float).tolist()))
            for statistic in statistics:
                row = ours[(ours.test == test) & (ours.of == statistic) & (ours.step == step)]
                clipped = np.maximum(row.p_value.to_numpy(dtype=np.float64), LEAST)
                found.append(exact(panel, statistic, [moment], clipped))
    return joined(found)


# What VIP leaves to check

CHECKS = {
    "u-shaped-adam-v1": "as it is",
    "u-shaped-adam-v1[learning_rate=1]": "fast",
    "u-shaped-adam-v1[pool_size=256,learning_rate=1]": "fast, 256 prompts",
    "u-shaped-adam-v1[false_positive=0.1,false_negative=0.1]": "10% wrong",
    "u-shaped-adam-v1[false_positive=0.3,false_negative=0.1]": "30% pass",
}
POOLS = {
    "u-shaped-adam-v1[dimension=8]": "2,048 prompts, six epochs",
    "u-shaped-adam-v1[dimension=8,pool_size=1000000]": "a million prompts, none seen twice",
}
RIVALS = [
    "vip",
    PRINTED,
    "vip[predictor=beta]",
    "vip[predictor=beta[discount=0.9]]",
    "vip[predictor=ensemble]",
    "vip[predictor=oracle]",
    "mopps",
    "knapsack",
]
RIVALS_OF_MANY = [
    "vip[predictor=sparse_gp]",
    "vip[predictor=beta]",
    "vip[predictor=ensemble]",
    "vip[predictor=oracle]",
    "mopps",
    "knapsack",
]


def next_checks(sources: Sources) -> pd.DataFrame:
    """Gain in the area under accuracy where the policy moves fast and where the verifier errs."""
    metric = "area_over_rollouts"
    values = sources.values("next_checks", metric)
    return points(compared(values, metric, "difference", panels=CHECKS, allocators=RIVALS))


def million(sources: Sources) -> pd.DataFrame:
    """Gain in the area under accuracy in a small pool and in one of a million prompts."""
    metric = "area_over_rollouts"
    values = sources.values("million_prompts", metric)
    return points(compared(values, metric, "difference", panels=POOLS, allocators=RIVALS_OF_MANY))


POINTS = "gain, points"

FIGURES: tuple[Redrawn, ...] = (
    Redrawn(
        "vip_fig3",
        "VIP Fig. 3: mean absolute error of the predicted success rate while RLOO trains",
        figure_3,
        Curves(
            "step",
            "mean |predicted - actual|",
            height=1.9,
            methods=predictors,
            pale=("uniform", "ensemble"),
        ),
        studies=("vip_prediction",),
        said="Ours is against the true success probability, the published one against the share solved of a "
        "few rollouts. gp[printed] is the process as the paper has it, gp[released] as its code has it, gp "
        "with noise. The paper's moving average is one mean of all prompts (global_mean).",
    ),
    Redrawn(
        "vip_fig3means",
        "VIP Fig. 3 in numbers: mean absolute error before and after prompts come back",
        figure_3_means,
        Rows("mean |predicted - actual|", columns=4, methods=predictors),
        studies=("vip_prediction",),
        said="Published beside it: Qwen2.5-Math-1.5B at the weak start, 7B in the middle. "
        "Ours is against the true success probability, the published one against the share solved of a "
        "few rollouts; its 1.5B model solves next to nothing in the first 16 steps, so that nobody errs.",
    ),
    Redrawn(
        "vip_fig6",
        "VIP Fig. 6: reward of training batches with Dr. GRPO, from a weak start",
        figure_6,
        Curves(
            "step",
            {f"{shown}, {n} per prompt": axis for shown, axis in SHOWN.items() for n in WEAK},
            height=1.5,
        ),
        studies=("vip_dr_grpo",),
        said="Published rewards of -1 and 1 are shown as shares solved, (r + 1) / 2. A batch's reward also "
        "depends on who is asked how often: VIP as printed has higher rewards here than uniform and learns "
        "less. Gains are at as many rollouts. Mean advantage is not shown: over a group of Dr. GRPO it is "
        "exactly 0 (published: -.02 on average; maybe weighted by length).",
    ),
    Redrawn(
        "vip_fig7",
        "VIP Fig. 7: held-out accuracy while Dr. GRPO trains, at equal rollouts",
        figure_7,
        Curves("step", "share solved", columns=3, height=1.5),
        studies=("vip_dr_grpo",),
        said="Published: mean@32 of Qwen2.5-Math-1.5B. The tests differ, and so do the scales. AIME24 at 16 "
        "is not in the paper, which shows AIME25 twice.",
    ),
    Redrawn(
        "vip_table1",
        "VIP Table 1: held-out accuracy above equal groups' at equal rollouts, from a weak start",
        partial(table_1, ours="accuracy_at_rollouts", theirs="mean@32"),
        Rows(POINTS, columns=4, level=0.0, same_x=True),
        studies=("vip_rloo", "vip_dr_grpo"),
        said="By objective and rollouts per prompt. "
        "Published: mean@32 of one run on 30 problems, no intervals; of 1.5B with Dr. GRPO at 8, "
        "AIME25, the paper has swapped mean and majority.",
    ),
    Redrawn(
        "vip_table1pass",
        "VIP Table 1: held-out pass@8 above equal groups' at equal rollouts, from a weak start",
        partial(table_1, ours="pass_at_8", theirs="pass@32"),
        Rows(POINTS, columns=4, level=0.0, same_x=True),
        studies=("vip_rloo", "vip_dr_grpo"),
        said="By objective and rollouts per prompt, beside the published pass@32. "
        "Published: one run, 30 problems, no intervals; by chance alone a pass@32 of .3 varies by 8 "
        "points.",
    ),
    Redrawn(
        "vip_table1rollouts",
        "VIP Tables 1 and 2: rollouts to 90% of the gain of equal groups, over what those needed",
        table_1_rollouts,
        Rows("ratio to uniform", columns=4, level=1.0),
        studies=("vip_rloo", "vip_dr_grpo"),
        said="By scenario, objective and rollouts per prompt.",
    ),
    Redrawn(
        "vip_table2",
        "VIP Table 2: gain over equal groups at equal rollouts, u-shaped difficulty",
        table_2,
        Rows(POINTS, level=0.0),
        studies=("vip_rloo", "vip_dr_grpo"),
        said="Held-out accuracy, and exact match of a model with tools. "
        "Published: Qwen2.5-3B-Instruct, one run, no intervals.",
    ),
    Redrawn(
        "vip_table3",
        "VIP Table 3: which predictor, which objective. Gain over equal groups at equal rollouts, RLOO, 8 "
        "per prompt",
        table_3,
        Rows(POINTS, columns=4, level=0.0, same_x=True),
        studies=("vip_rloo",),
        said="Published: mean@32 of Qwen2.5-Math-1.5B on AIME24 and AIME25, one run, no intervals. permuted "
        "deals VIP's counts to random prompts of the batch.",
    ),
    Redrawn(
        "vip_tables5to8",
        "VIP Tables 5 to 8: tests of Assumption 4.1. Rejected here, at every moment of training",
        tables_5_to_8,
        Rows(
            "p-value",
            log="x",
            level=0.05,
            marked={
                "R, |z|": Style("#332288"),
                "R, |z|^2": Style("#CC6677", 1),
                "Var|z|": Style("#44AA99", 2),
            },
            bare="A p-value has no interval.",
        ),
        said="Ours: a transformer that learns to sort, 500 prompts with 16 rollouts, at steps 0, 50 and 100; "
        f"p-values below {LEAST:g} are drawn there, and of 999 permutations none is as extreme. Published: "
        "Qwen2.5-Math-1.5B, 600 prompts with 16 rollouts, 0, 0.5 and 1 epochs; |z|^2 was not tested. Dotted: "
        ".05.",
    ),
    Redrawn(
        "vip_next",
        "What VIP leaves to check: a policy that moves fast, verifiers that err",
        next_checks,
        Rows(POINTS, columns=5, level=0.0),
        studies=("next_checks",),
        said="Gain over equal groups in the area under held-out accuracy over rollouts, RLOO. "
        "u-shaped difficulty. Fast: at four times the learning rate, too much for Adam to be steady; "
        "with 256 prompts each is seen fifty times. 10% wrong: of all verdicts. 30% pass: of failures, and "
        "10% of successes fail. Held-out accuracy is judged without error.",
    ),
    Redrawn(
        "vip_nextmillion",
        "What VIP leaves to check: a million prompts",
        million,
        Rows(POINTS, level=0.0),
        studies=("million_prompts",),
        said="Gain over equal groups in the area under held-out accuracy over rollouts, RLOO. "
        "A sparse process: the paper's updates its mean of every prompt in every step.",
    ),
)
