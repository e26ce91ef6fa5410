"""A hidden Markov chain of success probabilities, whose drift and prior are learned from all prompts.

The success probability of a prompt is one of `levels` values, dense near 0 and 1. Between two visits it moves
by a matrix of transitions that all prompts share, and k of n successes are binomial. The belief about a
prompt is its distribution over the levels, filtered forward. Where prompts begin, and how they move, is not
given but learned by incremental expectation maximisation: each visit adds the expected transition, given
what was known before it and its outcome, to sums that forget a little. So how fast a policy learns, that
most prompts get easier, and how many are at 0 or 1 for good, is read from the run itself, with no constant
to set.

On a recorded run (`predict -s traced`) its Brier score is the best of those tried. Ours; a filter of this
kind is standard (Rabiner, 1989). Memory is (R, Q, levels).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import special

from rolloutbench.protocol import Belief, FloatArray, IntArray, Outcomes, Predictor, Setting, State
from rolloutbench.registry import PARAMETERS


@dataclass(config=PARAMETERS)
class Markov(Predictor):
    """Filter on a grid of success probabilities; how they move is learned from all prompts.

    At first transitions are as if each level had been left `weight` times, by steps of one level either way.
    `forgetting`: what is left of the sums after a step.
    """

    levels: Annotated[int, Field(ge=3, le=200)] = 40
    weight: Annotated[float, Field(gt=0)] = 4.0
    forgetting: Annotated[float, Field(gt=0, le=1)] = 0.998

    def begin(self, setting: Setting) -> None:
        """Start with no prompt seen, a flat start and slow moves."""
        self.setting = setting
        replicates, pool = setting.replicates, setting.pool_size
        self._p = np.sin(np.pi / 2 * (np.arange(self.levels) + 0.5) / self.levels) ** 2
        apart = np.subtract.outer(np.arange(self.levels), np.arange(self.levels))
        near = special.softmax(-(apart**2) / 2, axis=1)
        self._moves = np.tile(self.weight * near, (replicates, 1, 1))
        self._starts = np.full((replicates, self.levels), self.weight / self.levels)
        self._known = np.full((replicates, pool, self.levels), 1 / self.levels, dtype=np.float32)
        self._seen = np.zeros((replicates, pool), dtype=bool)

    def predict(self, prompts: IntArray) -> Belief:
        """Mean and variance (R, B) of p at the next visit."""
        ahead = self._ahead(prompts)
        mean = ahead @ self._p
        return Belief(mean, np.maximum(ahead @ self._p**2 - mean**2, 0.0))

    def update(self, outcomes: Outcomes) -> None:
        """Filter one visit of each prompt that got rollouts, and learn starts and moves from it."""
        rows = np.arange(len(outcomes.counts))[:, None]
        visited = outcomes.counts > 0
        prompts = np.where(visited, outcomes.prompts, 0)
        ahead = self._ahead(prompts)
        likelihood = self._likelihood(outcomes)
        joint = ahead * likelihood
        total = np.maximum(joint.sum(axis=2, keepdims=True), 1e-300)
        after = joint / total
        again = visited & self._seen[rows, prompts]
        first = visited & ~again
        before = self._known[rows, prompts] * again[..., None]
        moved = self._transitions() * (before.swapaxes(1, 2) @ (likelihood / total))
        keep = np.where(visited.any(axis=1), self.forgetting, 1.0)
        self._moves = keep[:, None, None] * self._moves + moved
        self._starts = keep[:, None] * self._starts + (after * first[..., None]).sum(axis=1)
        places = np.nonzero(visited)
        self._known[places[0], prompts[places]] = after[places]
        self._seen[places[0], prompts[places]] = True

    def _likelihood(self, outcomes: Outcomes) -> FloatArray:
        """Likelihood (R, B, levels) of each prompt's outcome at each level, up to a factor."""
        k = outcomes.successes[..., None]
        logs = k * np.log(self._p) + (outcomes.counts[..., None] - k) * np.log1p(-self._p)
        likelihood: FloatArray = np.exp(logs - logs.max(axis=2, keepdims=True))
        return likelihood

    def _transitions(self) -> FloatArray:
        """Chances (R, levels, levels) to move from one level to another between two visits."""
        chances: FloatArray = self._moves / self._moves.sum(axis=2, keepdims=True)
        return chances

    def _ahead(self, prompts: IntArray) -> FloatArray:
        """Distribution (R, B, levels) of each prompt's level at its next visit."""
        rows = np.arange(len(prompts))[:, None]
        moved = self._known[rows, prompts] @ self._transitions()
        start = self._starts / self._starts.sum(axis=1, keepdims=True)
        return np.where(self._seen[rows, prompts][..., None], moved, start[:, None])

    def state_dict(self) -> State:
        """Distributions of all prompts, which were seen, and the sums of starts and moves."""
        return {
            "known": self._known.copy(),
            "seen": self._seen.copy(),
            "starts": self._starts.copy(),
            "moves": self._moves.copy(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore the distributions and the sums."""
        self._known, self._seen = state["known"].copy(), state["seen"].copy()
        self._starts, self._moves = state["starts"].copy(), state["moves"].copy()
