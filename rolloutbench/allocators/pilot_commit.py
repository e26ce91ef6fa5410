"""Pilot-Commit (arXiv 2605.26606, Algorithm 1; code databricks/pilot-commit@6def20e,
recipe/pc/pc_ray_trainer.py).

Pilot: n_pilot rollouts of s B candidates. Prompts whose success rate lies in [p_lower, p_upper] wait in
a buffer; those at p_solve or above are evicted for good. Commit: n_commit more rollouts of B prompts from
the buffer, in one generation with the next pilots. Train on pilots and commits together.

Defaults of the paper (4.2): p_lower = .125, p_upper = .75, p_solve = 1, d = 4, s = 3, and for a group of
n = 128, 64, 16: (n_pilot, n_commit) = (32, 96), (16, 48), (8, 8). So by default a quarter of the group
are pilots, and half of it up to n = 16; at least 2, since one pilot is never in the band.

Where paper and code differ, or say nothing:
- Order in the buffer. The paper samples from it. The code's 1.5B script takes the greatest variance,
  newest first, which is the default here; its 4B script takes prompts at random (`order=random`).
- Eviction. Algorithm 1 evicts at once, the code at the end of the epoch. As no prompt comes twice in an
  epoch the two are the same; `evict=false` is the ablation of Table 3.
- End of an epoch. The code drops the buffer and a batch that is not full yet; the paper does not say so.
  The code is followed (`clear_at_epoch_end`), except after an epoch of a single round: in that nothing
  could have been committed, and no pool below 2 s B prompts would ever be trained on.
- Age. Both drop entries older than d steps at the end of a step, so one may be d + 1 steps old when the
  next step commits it.
- Batch not full after `max_rounds` rounds: the code stops with an error; here what there is is trained on.
- The code's trimming of commits to a multiple of the number of GPUs is left out.
- Stored pilots are trained on with probabilities recomputed under the current policy, as in the code.

Pilots are the candidates' own rollouts, so the rewards that are trained on were conditioned to lie in
the band: selection bias, in the paper as here. Its nominal cost, s B n_pilot + B n_commit a step, leaves
out refill rounds; here they are paid.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rolloutbench.allocators.buffer import Buffer
from rolloutbench.allocators.screening import Screening
from rolloutbench.protocol import (
    MOST_ROLLOUTS,
    BoolArray,
    Budget,
    InputError,
    IntArray,
    Outcomes,
    Provenance,
)
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class PilotCommit(Screening):
    """A few pilots of many prompts; commits the rest to those with a success rate in a band."""

    variants: ClassVar[tuple[str, ...]] = ("", "evict=false")
    discards: ClassVar[tuple[str, ...]] = ("pilots", "expired")
    goal: ClassVar[str] = "rates within a band"
    provenance: ClassVar[Provenance | None] = Provenance(
        paper="2605.26606",
        code="databricks/pilot-commit@6def20e",
        file="recipe/pc/pc_ray_trainer.py",
        licence="Apache-2.0",
        note="a batch that is not full after all rounds is trained on; the code stops with an error",
    )

    clear_at_epoch_end: bool = True
    n_pilot: Annotated[int, Field(ge=1, le=MOST_ROLLOUTS)] | None = None
    n_commit: Annotated[int, Field(ge=0, le=MOST_ROLLOUTS)] | None = None
    p_lower: Annotated[float, Field(ge=0, le=1)] = 0.125
    p_upper: Annotated[float, Field(ge=0, le=1)] = 0.75
    p_solve: Annotated[float, Field(gt=0, le=1)] = 1.0
    delay: Annotated[int, Field(ge=0)] = 4
    order: Literal["max_variance", "random", "fifo"] = "max_variance"
    evict: bool = True

    def __post_init__(self) -> None:
        """Raise InputError where the band from p_lower to p_upper is empty."""
        if self.p_lower > self.p_upper:
            raise InputError(f"p_lower={self.p_lower} is above p_upper={self.p_upper}")

    def phases(self, budget: Budget) -> tuple[int, int]:
        """Rollouts of pilot and commit. Raises InputError where the pilots alone exceed the group."""
        n = int(budget.group_size)
        pilot = self.n_pilot or max(n // 4 if n > 16 else n // 2, min(n, 2))
        if self.n_commit is None and pilot > n:
            raise InputError(f"n_pilot={pilot}: the group has {n} rollouts; give n_commit too to go beyond")
        return pilot, n - pilot if self.n_commit is None else self.n_commit

    def informative(self, screened: Outcomes) -> BoolArray:
        """Whether a candidate (R, B) is in the band, p_lower <= successes / n_pilot <= p_upper."""
        k, n = screened.successes, screened.counts
        return (k >= self.p_lower * n) & (k <= self.p_upper * n)

    def solved(self, screened: Outcomes) -> BoolArray:
        """Whether a candidate (R, B) is evicted for good, successes / n_pilot >= p_solve."""
        return (screened.counts > 0) & (screened.successes >= self.p_solve * screened.counts) & self.evict

    def chosen(self, held: Buffer, wanted: IntArray) -> tuple[Buffer, Buffer]:
        """The first `wanted` (R,) by greatest variance and then the newest, at random, or as they came."""
        if self.order == "max_variance":
            held = held.ordered(-held.successes * (held.counts - held.successes), -held.steps)
        elif self.order == "random":
            held = held.ordered(self.setting.rng.random(held.prompts.shape))
        return held.split(wanted)

    def unexpired(self, held: Buffer) -> Buffer:
        """The pilots of at most `delay` steps ago."""
        return held.where(self._step - held.steps <= self.delay)
