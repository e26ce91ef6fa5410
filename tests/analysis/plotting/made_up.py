"""Made-up curves, summaries and judgements, and what is read back from a figure of them."""

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.text import Text

from rolloutbench.analysis.results import summarise
from rolloutbench.cells.collectors import CALIBRATION_BINS, COUNT_BINS, REFERENCE, count_metric

REPLICATES, STEPS = 4, 60
ALLOCATORS = ("uniform", "uniform[divide=2]", "vip[predictor=beta]", "vip[predictor=oracle]", "dapo")
SCENARIOS = ("cold-v1", "warm-v1")
LONG_ALLOCATOR = "vip[predictor=ensemble[base=gp[length_scale=0.5,noise=0.1]],lower=2,upper=16,warm_up=3]"
"""A name that fits into no row, legend or title of a figure in one line."""


def made_curves(scenarios=SCENARIOS, allocators=ALLOCATORS):
    """Runs of 1.5 times the steps, evaluated every 10; accuracy is linear in steps."""
    rng = np.random.default_rng(1)
    tables = []
    for scenario in scenarios:
        for place, allocator in enumerate((REFERENCE, *allocators)):
            for replicate in range(REPLICATES):
                steps = np.arange(0, 1.5 * STEPS + 1, 10)
                slope = (0.002 + 0.0003 * place) * rng.uniform(0.8, 1.2)
                table = pd.DataFrame({"steps": steps.astype(float)})
                table["accuracy"] = 0.1 * rng.uniform(1, 2) + slope * steps
                table["rollouts"] = steps * 100.0
                table["tokens"] = steps * 1e5 * rng.uniform(0.8, 1.2)
                table["seconds"] = steps * 20.0
                for b in range(COUNT_BINS):
                    table[count_metric(b)] = np.where(steps > 0, rng.uniform(4, 12, len(steps)), np.nan)
                tables.append(
                    table.assign(scenario=scenario, allocator=allocator, rate=1.0, replicate=replicate)
                )
    return pd.concat(tables, ignore_index=True)


def made_summary(scenarios=SCENARIOS, allocators=ALLOCATORS, metrics=("rollouts_to_90", "accuracy_at_steps")):
    rng = np.random.default_rng(2)
    rows = [
        (scenario, allocator, replicate, metric, rng.uniform(0.4, 0.6) * (1 + place))
        for scenario in scenarios
        for place, allocator in enumerate(allocators)
        for metric in metrics
        for replicate in range(REPLICATES)
    ]
    return summarise(pd.DataFrame(rows, columns=["scenario", "allocator", "replicate", "metric", "value"]))


def made_judged(scenarios=("cold-v1",), predictors=("beta", "oracle")):
    rng = np.random.default_rng(3)
    keys = pd.MultiIndex.from_product(
        [predictors, scenarios, range(REPLICATES), range(1, 21)],
        names=["predictor", "scenario", "replicate", "steps"],
    )
    table = keys.to_frame(index=False)
    table["epoch"] = (table.steps - 1) // 5
    table["mae"] = rng.uniform(0.1, 0.3, len(table))
    for b in range(CALIBRATION_BINS):
        table[f"prompts@{b}"] = rng.integers(0, 4, len(table)).astype(float)
        table[f"predicted@{b}"] = table[f"prompts@{b}"] * (b + 0.5) / CALIBRATION_BINS
        table[f"actual@{b}"] = table[f"prompts@{b}"] * rng.uniform(0, 1, len(table))
    return table


CURVES, SUMMARY, JUDGED = made_curves(), made_summary(), made_judged()
N_STEPS = dict.fromkeys(SCENARIOS, STEPS)


def line(axes, label):
    return next(drawn for drawn in axes.get_lines() if drawn.get_label() == label)


def bands(axes):
    return [drawn for drawn in axes.collections if isinstance(drawn, PolyCollection)]


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def spread(band, x):
    """Where a band has its lower and upper end at x."""
    heights = band.get_paths()[0].vertices
    heights = heights[np.isclose(heights[:, 0], x), 1]
    return heights.min(), heights.max()


def text_of(figure):
    """Every text of a figure, unfolded."""
    return [text.get_text().replace("\n", "") for text in figure.findobj(Text) if text.get_text()]
