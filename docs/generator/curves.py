"""Allocation curves: the rollouts that an allocator gives a prompt, by the prompt's success probability.

The prompts stay as they are while the allocator takes steps, so that what it has learned of them does not
age. After two epochs of uniform's it knows them; during the third its rollouts are counted, for prompts that
it passes over too. Uniform then gives every prompt its group, whatever the success probability is.
"""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from rolloutbench.allocators import allocators
from rolloutbench.analysis.plotting.style import print_style, style_of
from rolloutbench.analysis.statistics import Interval, mean_interval
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Budget, PromptStream, Setting
from simulators.pools import BetaDifficulty, draw_pool
from simulators.snapshot import Snapshot

BUDGET = Budget(64, 512)
POOL, REPLICATES, BINS, EPOCHS = 512, 16, 10, 2
DIFFICULTY = BetaDifficulty(0.4, 0.6)
"""Many prompts near 0 and near 1, as in the scenario `u-shaped-v1`."""
SAID = (
    f"Rollouts that a prompt gets in one epoch of uniform, which gives {BUDGET.group_size:g} to each (grey), "
    f"by its true success probability. These are frozen and U-shaped: {POOL} prompts, steps of "
    f"{BUDGET.prompts} prompts x {BUDGET.group_size:g} rollouts; counted after {EPOCHS} epochs, in which the "
    f"method has seen the prompts. Mean and 95% interval over {REPLICATES} replicates."
)


def expected_rollouts(spec: str) -> Interval:
    """Rollouts of a prompt in one epoch of uniform's, by bin of its success probability: each (BINS,)."""
    rng = np.random.default_rng(0)
    pool = draw_pool(DIFFICULTY, rng, REPLICATES, POOL, dimension=32, skills=12, predictability=0.5)
    setting = Setting(
        BUDGET,
        estimators.create("grpo"),
        "rollout",
        replicates=REPLICATES,
        pool_size=POOL,
        rng=np.random.default_rng(1),
        features=pool.seen,
        success_probability=lambda prompts: pool.success[np.arange(len(prompts))[:, None], prompts],
    )
    stream = PromptStream(POOL, REPLICATES, np.random.SeedSequence(2))
    environment = Snapshot(setting, stream, pool, np.random.default_rng(3))
    allocator = begin(environment, allocators.create(spec))
    epoch = POOL // BUDGET.prompts
    for _ in range(EPOCHS * epoch):
        run_step(environment, allocator)
    before = environment.counts.copy()
    for _ in range(epoch):
        run_step(environment, allocator)
    bins = np.minimum((pool.success * BINS).astype(np.int64), BINS - 1)
    rows = np.arange(REPLICATES)[:, None]
    total, members = np.zeros((2, REPLICATES, BINS))
    np.add.at(total, (rows, bins), environment.counts - before)
    np.add.at(members, (rows, bins), 1.0)
    return mean_interval(np.divide(total, members, out=np.full_like(total, np.nan), where=members > 0).T)


def drawn(spec: str) -> bytes:
    """The allocation curve of a spec as an SVG file; the same bytes each time."""
    import matplotlib as mpl

    found, p = expected_rollouts(spec), (np.arange(BINS) + 0.5) / BINS
    with print_style(), mpl.rc_context({"svg.hashsalt": spec}):
        figure = Figure(figsize=(4.6, 2.5))
        axes = figure.subplots()
        axes.axhline(BUDGET.group_size, color="0.6", lw=0.8)
        color = style_of(spec).color
        axes.plot(p, found.estimate, color=color, marker="o", ms=3)
        axes.fill_between(p, found.low, found.high, color=color, alpha=0.2, lw=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, max(2 * BUDGET.group_size, 1.1 * float(np.nanmax(found.high))))
        axes.set_xlabel("success probability of the prompt")
        axes.set_ylabel("rollouts per prompt")
        picture = io.BytesIO()
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()
