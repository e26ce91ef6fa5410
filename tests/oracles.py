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


def height_at(x: list[float], y: list[float], at: float) -> float:
    """One curve's height at one place; at an x that repeats, the last value."""
    if at < x[0]:
        return y[0]
    for i in reversed(range(len(x))):
        if x[i] == at:
            return y[i]
        if x[i] < at:
            if i == len(x) - 1:
                return math.nan
            return y[i] + (at - x[i]) / (x[i + 1] - x[i]) * (y[i + 1] - y[i])
    raise AssertionError


def mean_height(x: list[float], y: list[float], until: float) -> float:
    """Mean height of one curve, trapezoid by trapezoid."""
    if math.isnan(height_at(x, y, until)) or until <= x[0]:
        return math.nan
    area = 0.0
    for i in range(len(x) - 1):
        if x[i + 1] <= until:
            area += (y[i] + y[i + 1]) / 2 * (x[i + 1] - x[i])
        elif x[i] < until:
            area += (y[i] + height_at(x, y, until)) / 2 * (until - x[i])
    return area / (until - x[0])


def time_to(x: list[float], y: list[float], target: float, until: float) -> tuple[float, bool]:
    """When one curve first reaches the target, and whether it does by `until`."""
    when = math.inf
    if y[0] >= target:
        when = x[0]
    else:
        for i in range(1, len(x)):
            if y[i] >= target:
                when = x[i - 1] + (target - y[i - 1]) / (y[i] - y[i - 1]) * (x[i] - x[i - 1])
                break
    return (when, True) if when <= until else (until, False)


def middle_half(values: list[float]) -> float:
    """Interquartile mean of what is not NaN."""
    known = sorted(v for v in values if not math.isnan(v))
    cut = len(known) // 4
    kept = known[cut : len(known) - cut]
    return sum(kept) / len(kept) if kept else math.nan


def ranks_of(scores: list[float]) -> list[float]:
    """Ranks, 1 the highest, by counting who is better and who is level; NaN is worse than anything."""
    known = [-math.inf if math.isnan(s) else s for s in scores]
    return [1 + sum(b > a for b in known) + (sum(b == a for b in known) - 1) / 2 for a in known]


def pilot_commit_of_one(
    draw,
    retire,
    epoch,
    rollout,
    batch,
    oversample,
    n_pilot,
    n_commit,
    lower,
    upper,
    solve,
    delay,
    rounds,
    steps,
):
    """Pilot-Commit for one replicate, with lists, in the words of its Algorithm 1 and released code.

    `draw(count)` gives prompts, `retire(prompts)` evicts, `epoch()` counts, `rollout(prompt, n)` gives
    successes. Yields for each step the trained (prompt, n, k), and the pilots and expired rollouts given up.
    """
    waiting, draws = [], 0
    for step in range(steps):
        selected, lost, expired = [], 0, 0
        for _ in range(rounds):
            if len(selected) == batch:
                break
            before = epoch()
            candidates = draw(oversample * batch)
            if epoch() > before:
                if draws > 1:
                    expired += sum(n for _, n, _ in selected) + n_pilot * len(waiting)
                    selected, waiting = [], []
                draws = 0
            draws += 1
            waiting.sort(key=lambda entry: (-entry["k"] * (n_pilot - entry["k"]), -entry["step"]))
            chosen = [waiting.pop(0) for _ in range(min(batch - len(selected), len(waiting)))]
            if not candidates and not chosen:
                break
            successes = [rollout(prompt, n_pilot) for prompt in candidates]
            for entry in chosen:
                k = entry["k"] + rollout(entry["prompt"], n_commit)
                selected.append((entry["prompt"], n_pilot + n_commit, k))
            for prompt, k in zip(candidates, successes, strict=True):
                if lower <= k / n_pilot <= upper:
                    waiting.append({"prompt": prompt, "k": k, "step": step})
                else:
                    lost += n_pilot
            retire([q for q, k in zip(candidates, successes, strict=True) if k / n_pilot >= solve])
        expired += n_pilot * sum(step - entry["step"] > delay for entry in waiting)
        waiting = [entry for entry in waiting if step - entry["step"] <= delay]
        yield selected, lost, expired


def ar3po_of_one(draw, rollout, batch, stages, per_stage, capacity, max_age, steps):
    """AR3PO for one replicate, with lists. Yields for each step the groups: prompt, kept successes and
    failures, and the ages from which a reused success is chosen (empty where none is reused).
    """
    stored = {}
    for step in range(steps):
        prompts = draw(batch)
        results = {prompt: [] for prompt in prompts}
        pool = list(prompts)
        for _ in range(stages):
            for prompt in pool:
                k = rollout(prompt, per_stage)
                results[prompt] += [1] * k + [0] * (per_stage - k)
            pool = [prompt for prompt in pool if sum(results[prompt]) == 0]
        groups = []
        for prompt in prompts:
            k, n = sum(results[prompt]), len(results[prompt])
            ages = [step - s for s in stored.get(prompt, []) if max_age is None or step - s <= max_age]
            ages = ages if k == 0 else []
            groups.append((prompt, k, n - k - bool(ages), ages))
            stored[prompt] = ([step] * k + stored.get(prompt, []))[:capacity]
        yield groups


def gradients_one_by_one(
    rng,
    draws,
    difficulty,
    features,
    theta,
    kappa,
    sigma,
    counts,
    weights,
    estimator,
    aggregation,
    errors,
    losses=(0.0, 0.0),
    no_verdict="drop",
    then=None,
    success_noise=1.0,
):
    """Batch gradients (draws, d) of the learning simulator, from every single rollout's score and reward.

    `losses`: chances that a right and a wrong rollout is lost. `then`: theta of the policy that is sampled.
    `success_noise`: variance of a correct rollout's noise in units of a wrong one's.
    """
    false_positive, false_negative = errors
    groups = []
    for b, phi, n, weight in zip(difficulty, features, counts, weights, strict=True):
        p = 1 / (1 + math.exp(-(b + phi @ theta - kappa / 2 * theta @ theta)))
        old = theta if then is None else then
        p_then = 1 / (1 + math.exp(-(b + phi @ old - kappa / 2 * old @ old)))
        correct = rng.random((draws, n)) < p_then
        misjudged = rng.random((draws, n)) < np.where(correct, false_negative, false_positive)
        reward = correct ^ misjudged
        noise = sigma * rng.standard_normal((draws, n, len(theta)))
        noise *= np.where(correct, math.sqrt(success_noise), 1.0)[..., None]
        scores = (correct - p)[..., None] * (phi - kappa * theta) + noise
        lost = rng.random((draws, n)) < np.where(correct, *losses)
        reward &= ~lost
        member = ~lost if no_verdict == "drop" else np.ones((draws, n), bool)
        silent = lost if no_verdict in ("drop", "mask") else np.zeros((draws, n), bool)
        size = member.sum(axis=1, keepdims=True).astype(float)
        plus, minus = estimator.advantages(
            np.maximum(size, estimator.minimum), reward.sum(axis=1, keepdims=True).astype(float)
        )
        advantages = np.where(reward, plus, minus) * (size >= estimator.minimum) * ~silent
        groups.append((weight, size, (advantages[..., None] * scores).sum(axis=1)))
    if aggregation == "prompt":
        return sum(weight * group / np.maximum(size, 1) for weight, size, group in groups) / len(groups)
    members = sum(size for _, size, _ in groups)
    return sum(weight * group for weight, _, group in groups) / np.maximum(members, 1)


def gradients_of_parts(
    rng,
    draws,
    difficulty,
    features,
    theta,
    kappa,
    sigma,
    parts,
    threshold,
    counts,
    keep,
    weights,
    name,
    aggregation,
    then=None,
    reused=(),
):
    """Batch gradients (draws, d) of rollouts that pass part after part, and are rewarded for their share.

    Of `counts` rollouts of each prompt at most `keep` = (successes, failures) are trained on, the first ones
    of each. `reused`: stored successes of each prompt that join its group, and have a gradient.
    """
    gradients = np.zeros((draws, len(theta)))
    policies = [theta, theta if then is None else then]
    chances = [
        [1 / (1 + math.exp(-(b + phi @ policy - kappa / 2 * policy @ policy))) for policy in policies]
        for b, phi in zip(difficulty, features, strict=True)
    ]
    for draw in range(draws):
        groups = []
        for i, (p, p_then) in enumerate(chances):
            rollouts = (rng.random((counts[i], parts)) < p_then).sum(axis=1).tolist()
            good = [c for c in rollouts if c / parts >= threshold][: keep[i][0]]
            bad = [c for c in rollouts if c / parts < threshold][: keep[i][1]]
            again = []
            while len(again) < (reused[i] if reused else 0):
                c = int((rng.random(parts) < p_then).sum())
                again += [c] if c / parts >= threshold else []
            group = good + bad + again
            few = len(group) < (1 if name == "reinforce" else 2)
            advantages = [0.0] * len(group) if few else advantages_of(name, tuple(c / parts for c in group))
            direction = features[i] - kappa * theta
            noise = sigma * rng.standard_normal((len(group), len(theta)))
            total = np.zeros(len(theta))
            for c, advantage, xi in zip(group, advantages, noise, strict=True):
                total += advantage * ((c - parts * p) * direction + xi)
            groups.append((weights[i], len(group), total))
        members = sum(n for _, n, _ in groups)
        for weight, n, total in groups:
            of = members if aggregation == "rollout" else n * len(groups)
            gradients[draw] += weight * total / max(of, 1)
    return gradients
