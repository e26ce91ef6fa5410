"""Environments for allocators: coins, and rewards that are fixed beforehand."""

import numpy as np

from rolloutbench.allocators import allocators
from rolloutbench.allocators.buffer import Buffer
from rolloutbench.environment import Environment
from rolloutbench.estimators import estimators
from rolloutbench.loop import PerReplicate, begin, run_step
from rolloutbench.protocol import Budget, Outcomes, PromptStream, Setting


class Coins(Environment):
    """Prompts with success probabilities p (R, Q); an update keeps the groups it was given."""

    def __init__(self, p, prompts, rollouts, estimator="rloo", seed=0, aggregation="prompt"):
        self.p = np.atleast_2d(p).astype(float)
        setting = Setting(
            Budget(prompts, rollouts),
            estimators.create(estimator),
            aggregation,
            *self.p.shape,
            np.random.default_rng(seed),
            features=np.random.default_rng(seed + 2).standard_normal((*self.p.shape, 3)),
            success_probability=lambda q: self.p[np.arange(len(q))[:, None], q],
        )
        stream = PromptStream(self.p.shape[1], len(self.p), np.random.SeedSequence(seed))
        super().__init__(setting, stream)
        self.rng = np.random.default_rng(seed + 1)
        self.requests, self.updates = [], []

    def generate(self, request):
        self.requests.append(request)
        p = self.p[np.arange(len(request.prompts))[:, None], request.prompts]
        return Outcomes(request.prompts, request.counts, self.rng.binomial(request.counts, p))

    def update(self, groups):
        self.updates.append(groups)
        return {}


class Scripted(Coins):
    """The j-th rollout of a prompt has the same reward whoever asks, whenever: its j-th on a tape."""

    LENGTH = 2048

    def __init__(self, *args, tape=None, **kwargs):
        super().__init__(*args, **kwargs)
        if tape is None:
            tape = self.rng.random((*self.p.shape, self.LENGTH)) < self.p[..., None]
        self.tape = np.asarray(tape, dtype=np.int64)
        self.position = np.zeros(self.p.shape, dtype=np.int64)

    def one(self, row, prompt, count):
        """Successes of the next rollouts of one prompt."""
        places = (self.position[row, prompt] + np.arange(count)) % self.tape.shape[2]
        self.position[row, prompt] += count
        return self.tape[row, prompt, places].sum()

    def generate(self, request):
        self.requests.append(request)
        successes = np.zeros_like(request.counts)
        for row, column in np.argwhere(request.counts > 0):
            prompt, count = request.prompts[row, column], request.counts[row, column]
            successes[row, column] = self.one(row, prompt, count)
        return Outcomes(request.prompts, request.counts, successes)


def trained(spec, environment, steps):
    """Take steps; returns the allocator that was driven."""
    driven = begin(environment, allocators.create(spec))
    for _ in range(steps):
        run_step(environment, driven)
    return driven


def held_by(driven):
    """Rollouts (R,) in an allocator's buffers."""
    if isinstance(driven, PerReplicate):
        return np.concatenate([np.atleast_1d(held_by(copy)) for copy in driven.copies])
    return sum(value.rollouts for value in vars(driven).values() if isinstance(value, Buffer))
