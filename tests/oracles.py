"""Slow, obvious twins of the fast paths. Nothing here is vectorised or clever."""

from __future__ import annotations

import itertools
import math

import numpy as np

from rolloutbench.solvers import Problem


def brute_force(problem: Problem) -> float | None:
    """The best value of one replicate, by trying every allocation; None where there is none."""
    p, weights = problem.p[0], problem.weights[0]
    choices = []
    for i in range(len(p)):
        counts = set(range(problem.lower[0, i], problem.upper[0, i] + 1)) | (
            {0} if problem.allow_zero else set()
        )
        values = problem.objective.table(p[i : i + 1], int(problem.upper.max()))[0]
        worst = -math.inf if problem.objective.maximise else math.inf
        choices.append(
            [
                (n, weights[i] * values[n] if weights[i] > 0 else 0.0)
                for n in sorted(counts)
                if weights[i] == 0 or values[n] != worst
            ]
        )
    best: float | None = None
    pick = max if problem.objective.maximise else min
    for combination in itertools.product(*choices):
        if sum(n for n, _ in combination) == problem.budget[0]:
            value = math.fsum(value for _, value in combination)
            best = value if best is None else pick(best, value)
    return best


def advantages_of(name: str, rewards: tuple[int, ...], ddof: int = 1, eps: float = 1e-6) -> list[float]:
    """Advantages of a group's rollouts, one by one, from its rewards as the papers write them."""
    n = len(rewards)
    mean = sum(rewards) / n
    match name:
        case "reinforce":
            return [float(r) for r in rewards]
        case "dr_grpo":
            return [r - mean for r in rewards]
        case "rloo":
            return [r - (sum(rewards) - r) / (n - 1) for r in rewards]
        case "grpo":
            std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (n - ddof))
            return [(r - mean) / (std + eps) for r in rewards]
    raise ValueError(name)


def enumerated_moments(name: str, p: float, n: int, **parameters: float) -> tuple[float, float, float]:
    """Signal, signal variance and noise factor by summing over all 2^n reward vectors."""
    first = second = noise = 0.0
    for rewards in itertools.product((0, 1), repeat=n):
        probability = math.prod(p if r else 1 - p for r in rewards)
        advantages = advantages_of(name, rewards, **parameters)
        x = sum(a * (r - p) for a, r in zip(advantages, rewards, strict=True)) / n
        first += probability * x
        second += probability * x * x
        noise += probability * sum(a * a for a in advantages) / n**2
    return first, second - first**2, noise


def sampled_gradients(
    name: str, p: float, n: int, sigma: float, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Group gradients (draws, 2) rollout by rollout: along phi, and along one direction of pure noise."""
    gradients = np.zeros((draws, 2))
    for i in range(draws):
        rewards = tuple((rng.random(n) < p).astype(int))
        advantages = np.array(advantages_of(name, rewards))
        noise = sigma * rng.standard_normal((n, 2))
        scores = noise + np.outer(np.array(rewards) - p, [1.0, 0.0])
        gradients[i] = (advantages[:, None] * scores).mean(axis=0)
    return gradients
