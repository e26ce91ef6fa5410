"""A snapshot whose rollouts come from a recorded score bank: any allocator on a real model's gradients.

Rollouts of a prompt are drawn with replacement from its M rows of the bank (rolloutbench/score_bank.py).
The rows are a policy of their own, softmax(theta . z_j) over j at theta = 0: its chance of success is the
share p of rows with reward 1, the score of row j is z_j less the mean of the prompt's rows, and the
gradient of p is mean_j (r_j - p) z_j. So the true gradient is exact, not estimated, and needs no M/(M-1).
It is the bank's own: how much of its squared length is due to the choice of rows, not to the model, is
what `sampling_share` estimates. Ratios between allocators feel that far less than cosines do.

Scores sum to 0 over the rows of a prompt, as they do in expectation under a model, because they are
centred. Advantages that sum to 0 over a group do not notice. Without it `reinforce`, or a baseline that
is not the group's mean, would push towards the mean of M noisy scores: an error of the bank, not of theirs.

Given its reward, the score of a row drawn is (r - p) phi + noise exactly, where phi is the mean score of
the prompt's successes less that of its failures, and the noise has mean 0 and the variance within the
rows of that reward. Allocators see rewards alone, and which of the rows drawn are kept or reused is up to
chance. The moments of a gradient therefore follow from rewards as in any snapshot, with a phi and two
variances for each prompt: no row need be drawn, and for a one-shot allocator nothing is sampled at all.
tests/simulators/test_replay.py draws rows one by one, and finds the same.

Squared lengths are in units of |phi|^2: its mean over the bank, weighted by p(1-p).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import sparse

from rolloutbench.protocol import FeatureArray, FloatArray, InputError, IntArray
from rolloutbench.registry import PARAMETERS
from rolloutbench.score_bank import BANK, ScoreBank, read_bank
from simulators.pools import FrozenPool, FrozenScenario

MOST_PROMPTS = 128
"""Most prompts of a bank that each replicate takes by default."""
NOT_IN_PATHS = "[],"
"""Characters that mean something in a spec, and so cannot stand in the path of a bank."""


@plain_dataclass(frozen=True)
class RecordedPrompts:
    """Statistics of a bank's Q prompts at one step.

    `success` (Q,): share of successes among a prompt's `rollouts` (Q,). `phi` (Q, D): mean score of its
    successes less that of its failures, 0 where it has only one reward. `spread` (Q, 2): variance, summed
    over coordinates, of scores within its successes and its failures. `features` (Q, d), or None.
    """

    success: FloatArray
    rollouts: IntArray
    phi: FloatArray
    spread: FloatArray
    features: FeatureArray | None
    step: int
    about: dict[str, Any]

    @classmethod
    def of(cls, bank: ScoreBank) -> RecordedPrompts:
        """Compute the statistics from rollouts of one step.

        Raises InputError where no prompt has both rewards.
        """
        prompts, place = np.unique(bank.prompts, return_inverse=True)
        by_reward = 2 * place + (1 - bank.rewards)  # successes first
        sizes = np.bincount(by_reward, minlength=2 * len(prompts))
        rows = np.arange(len(bank))
        member = sparse.csr_array((np.ones(len(bank)), (by_reward, rows)), shape=(len(sizes), len(bank)))
        scores = bank.sketches.astype(np.float64)
        means = (member @ scores) / np.maximum(sizes, 1)[:, None]
        spread = (member @ ((scores - means[by_reward]) ** 2).sum(axis=1)) / np.maximum(sizes, 1)
        counts, means = sizes.reshape(-1, 2), means.reshape(len(prompts), 2, -1)
        rollouts = counts.sum(axis=1)
        success = counts[:, 0] / rollouts
        mixed = (counts > 0).all(axis=1, keepdims=True)
        phi = np.where(mixed, means[:, 0] - means[:, 1], 0.0)
        both = success * (1 - success)
        unit = (both @ (phi**2).sum(axis=1)) / max(both.sum(), 1e-300)
        if not unit > 0:
            raise InputError("no prompt of the bank has successes and failures of different scores")
        features = None if bank.features is None else bank.features[prompts]
        return cls(
            success,
            rollouts,
            phi / np.sqrt(unit),
            spread.reshape(-1, 2) / unit,
            features,
            int(bank.steps[0]),
            bank.about,
        )

    @cached_property
    def lengths(self) -> FloatArray:
        """Squared lengths |phi|^2 (Q,) of the prompts' gradients."""
        squares: FloatArray = (self.phi**2).sum(axis=1)
        return squares

    def sampling_share(self, size: int) -> float:
        """Share of the true gradient's squared length that is expected to be due to the choice of rows.

        It is for `size` prompts at random: a prompt's phi has the sampling variance of two means. A
        reward that a prompt has in one row only is taken to vary as its other one does.
        """
        p = self.success
        sizes = np.rint(np.stack([p, 1 - p], axis=1) * self.rollouts[:, None])
        variance = np.where(sizes > 1, self.spread * sizes / np.maximum(sizes - 1, 1), np.nan)
        variance = np.where(np.isnan(variance), variance[:, ::-1], variance)
        of_phi = np.nan_to_num(variance / np.maximum(sizes, 1)).sum(axis=1)
        both = p * (1 - p)
        own, total = both**2 @ self.lengths, both @ self.phi
        across = (total @ total - own) / (len(p) * (len(p) - 1))
        length = own / len(p) / size + (size - 1) / size * across
        sampled = (both**2 * of_phi).mean() / size
        return float(sampled / length) if sampled < length else 1.0


@lru_cache(maxsize=4)
def read_prompts(path: Path, digest: str, step: int | None) -> RecordedPrompts:
    """Read a bank's prompts at a step, by default its first; once in a process.

    Raises InputError where the file is no bank, has no such step, or is another than the digest says.
    """
    if file_digest(path) != digest:
        raise InputError(f"{path}: has changed since the study began")
    bank = read_bank(path)
    try:
        return RecordedPrompts.of(bank.at(int(bank.steps.min()) if step is None else step))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def file_digest(path: Path) -> str:
    """Hash a file's content. A bank's file names its prompts' file, so the hash covers both.

    Raises InputError where the file is missing or cannot be read.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file")
    try:
        with open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()[:32]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


@plain_dataclass(frozen=True)
class RecordedPool(FrozenPool):
    """The pool of the prompts `chosen` (R, Q) of a bank."""

    bank: RecordedPrompts
    chosen: IntArray

    @cached_property
    def success(self) -> FloatArray:  # type: ignore[override]
        """Shares of successes among the recorded rollouts (R, Q)."""
        return self.bank.success[self.chosen]

    @cached_property
    def lengths(self) -> FloatArray:  # type: ignore[override]
        """Squared lengths |phi|^2 of the prompts' gradients (R, Q)."""
        return self.bank.lengths[self.chosen]

    @cached_property
    def spread(self) -> FloatArray:  # type: ignore[override]
        """Variances of scores within successes and within failures (R, Q, 2)."""
        return self.bank.spread[self.chosen]

    @property
    def seen(self) -> FeatureArray | None:  # type: ignore[override]
        """The recorded features, which predictors may read; None where there are none."""
        return None if self.bank.features is None else self.bank.features[self.chosen]

    def gradient(self, weights: FloatArray, prompts: IntArray | None = None) -> FloatArray:
        """Sum of weights times phi; the bank is never copied for each replicate."""
        rows = np.arange(len(self.chosen))[:, None]
        columns = self.chosen if prompts is None else self.chosen[rows, prompts]
        starts = columns.shape[1] * np.arange(len(columns) + 1)
        shape = len(columns), len(self.bank.phi)
        chosen = sparse.csr_array((weights.ravel(), columns.ravel(), starts), shape)
        summed: FloatArray = chosen @ self.bank.phi
        return summed

    def repeated(self, times: int) -> RecordedPool:
        """The pool with each replicate `times` times in a row."""
        return RecordedPool(self.bank, np.repeat(self.chosen, times, axis=0))


@dataclass(config=PARAMETERS, frozen=True)
class ReplayScenario(FrozenScenario):
    """A step on rollouts recorded from a real model; `replay:PATH` is short for `replay[bank=PATH]`.

    `bank`: a `bank.parquet` or its directory. `step`: at which it was recorded, by default the first.
    `prompts`: how many each replicate takes at random, each once; by default 128 or all. Intervals are
    therefore about prompts too, if only about those of the bank, and not where all are taken. Two
    scenarios are the same if their banks' contents are: `digest`, not the path, is in the key of a cell.
    """

    summary: str = field(
        default="Rollouts recorded from a language model: replay:PATH.", repr=False, compare=False
    )
    bank: Path | None = field(default=None, compare=False)
    step: Annotated[int, Field(ge=0)] | None = None
    prompts: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    group_size: Annotated[int, Field(ge=1, le=10_000)] = 8
    visits: Annotated[int, Field(ge=0, le=1000)] = 1
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Read the bank, so that what is wrong with it is said at once."""
        if self.bank is None:
            return
        whole = Path(os.path.abspath(self.bank))  # workers may stand elsewhere
        if any(letter in str(whole) for letter in NOT_IN_PATHS):
            raise InputError(f"{whole}: a bank is expected where the path has neither comma nor bracket")
        whole = whole / BANK if os.path.isdir(whole) else whole
        object.__setattr__(self, "bank", whole)
        object.__setattr__(self, "digest", file_digest(whole))
        available = len(self.recorded.success)
        if available < 2:
            raise InputError(f"{whole}: has rollouts of one prompt: 2 or more are expected")
        if self.prompts is None:
            object.__setattr__(self, "prompts", min(MOST_PROMPTS, available))
        self.check(self.prompts)

    @property
    def recorded(self) -> RecordedPrompts:
        """Statistics of the bank's prompts. Raises InputError where no bank is named."""
        if self.bank is None:
            raise InputError("scenario 'replay' needs a score bank: replay:PATH")
        return read_prompts(self.bank, self.digest, self.step)

    def check(self, size: int | None) -> None:
        """Raise InputError where the bank has fewer prompts than a replicate takes."""
        available = len(self.recorded.success)
        if size is not None and size > available:
            raise InputError(f"prompts={size}: {self.bank} has {available}")

    def pool(self, rng: np.random.Generator, replicates: int, size: int) -> RecordedPool:
        """Draw `size` prompts of the bank for each replicate, each prompt at most once."""
        bank = self.recorded
        order = rng.permuted(np.tile(np.arange(len(bank.success)), (replicates, 1)), axis=1)
        return RecordedPool(bank, np.ascontiguousarray(order[:, :size]))

    @property
    def name(self) -> str:
        """The name in results, wherever the file lies: its directory's, with what is not the default."""
        if self.bank is None:
            return "replay"
        label = self.bank.parent.name if self.bank.name == BANK else self.bank.stem
        return f"replay:{label}" + (f"[{self._parameters()}]" if self._parameters() else "")

    @property
    def spec(self) -> str:
        """The spec that makes the scenario again, from anywhere."""
        return f"replay[{','.join(filter(None, [f'bank={self.bank}', self._parameters()]))}]"

    def _parameters(self) -> str:
        usual: dict[str, Any] = {entry.name: entry.default for entry in fields(self)}
        usual["prompts"] = min(MOST_PROMPTS, len(self.recorded.success))
        named = ("step", "prompts", "group_size", "visits")
        return ",".join(f"{key}={getattr(self, key)}" for key in named if getattr(self, key) != usual[key])

    def facts(self, size: int) -> dict[str, Any]:
        """Facts about the bank for the record of a study with `size` prompts; JSON values."""
        bank = self.recorded
        return {
            "path": str(self.bank),
            "digest": self.digest,
            "step": bank.step,
            "prompts": len(bank.success),
            "rollouts_per_prompt": sorted({int(bank.rollouts.min()), int(bank.rollouts.max())}),
            "dimensions": bank.phi.shape[1],
            "mean_success": float(bank.success.mean()),
            "sampling_share": bank.sampling_share(size),
            "about": bank.about,
        }

    def caption(self, size: int) -> str:
        """A line that says where the rollouts come from, for captions."""
        bank, facts = self.recorded, self.facts(size)
        source = " on ".join(str(bank.about[key]) for key in ("model", "task") if key in bank.about)
        each = "-".join(map(str, facts["rollouts_per_prompt"]))
        taken = "all" if size == facts["prompts"] else f"{size} at random"
        return (
            f"rollouts from bank {self.name.removeprefix('replay:')}"
            + (f" ({source})" if source else "")
            + f", step {bank.step}: {facts['prompts']} prompts x {each} rollouts, {taken} in a replicate; "
            f"{facts['sampling_share']:.0%} of |g*|^2 is its own sampling error"
        )
