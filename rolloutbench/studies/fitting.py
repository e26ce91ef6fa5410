"""The simulated scenario that is most like a real run: its difficulty, noise, batch and learning rate.

What a real run's directory may hold beside its study:

    pass_rates.parquet  prompt, pass_rate, trials: the pool under the model before training
    bank.parquet        scores of rollouts: score_bank.py

Difficulty is the Beta distribution, with prompts that are never or always solved where the data ask for
them (BIC), of which binomial counts were most likely drawn: the sampling error of a pass rate is no part
of it. Noise is analysis/noise.py's. The learning rate is the least at which simulated uniform gains as much
as the real one did at its own best rate; where none does, the simulated policy has no ceiling (kappa=0).
Larger steps cost the simulated policy little, and may ruin a real one: so the study has the real run's
rates up to that one, and no larger ones. Everything else is the base scenario's, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tomli_w
from scipy import optimize, special, stats
from threadpoolctl import threadpool_limits

from rolloutbench.allocators import allocators
from rolloutbench.allocators.uniform import Uniform
from rolloutbench.analysis.curves import LearningCurves
from rolloutbench.analysis.noise import fit_noise
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.tables import Heading, Sheet, sheet
from rolloutbench.cells.collectors import BASELINE, REFERENCE
from rolloutbench.estimators import estimators
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import Aggregation, FloatArray, InputError
from rolloutbench.score_bank import BANK, read_bank
from rolloutbench.studies.kinds.learning import LearningResults
from rolloutbench.studies.kinds.training import PASS_RATES
from rolloutbench.tabular import column, read_table
from simulators.learning import LearningCell
from simulators.pools import fit_beta
from simulators.scenarios import LearningScenario, scenarios

BASE = "u-shaped-adam-v1"
"""The scenario that lends what cannot be measured: real runs are trained with AdamW."""
REPLICATES = 16
"""Number of replicates of the study that is written."""
CLOSE = 0.01
"""Share of the real gain: the search for the learning rate ends where the simulated one is as near."""

MOST_RATES = 25
"""Most learning rates that are tried to reach the gain."""


class Found(NamedTuple):
    """A parameter of a scenario; `value` is None where it was not measured; `said` says how, and how well."""

    parameter: str
    value: str | None
    said: str


@dataclass(frozen=True)
class Fit:
    """A scenario's spec, what it was made of, and the study of it as a TOML file."""

    spec: str
    found: list[Found]
    toml: str


def found_sheet(found: Sequence[Found], caption: str = "") -> Sheet:
    """The parameters of a scenario that were measured in a real run, and how."""
    headings = Heading("parameter", "name"), Heading("value", "words"), Heading("measured", "words")
    rows = [[one.parameter, one.value or "default", one.said] for one in found]
    return sheet("the real run as a scenario", headings, rows, caption)


# Difficulty


@dataclass(frozen=True)
class DifficultyFit:
    """Beta(alpha, beta) but for the shares of prompts that are never or always solved."""

    alpha: float
    beta: float
    unsolvable: float = 0.0
    solved: float = 0.0

    @property
    def spec(self) -> str:
        """The distribution as a scenario takes it, such as `beta[alpha=1,beta=2]`."""
        shape = f"alpha={self.alpha:.3g},beta={self.beta:.3g}"
        if not self.unsolvable and not self.solved:
            return f"beta[{shape}]"
        return f"dead[unsolvable={self.unsolvable:.3g},solved={self.solved:.3g},{shape}]"

    def log_likelihood(self, successes: FloatArray, trials: FloatArray) -> FloatArray:
        """Logarithm of the likelihood (Q,) of each prompt's k successes in n trials (Q,)."""
        alive = np.log1p(-min(self.unsolvable + self.solved, 1 - 1e-12))
        found: FloatArray = alive + stats.betabinom.logpmf(successes, trials, self.alpha, self.beta)
        for share, where in ((self.unsolvable, successes == 0), (self.solved, successes == trials)):
            if share:
                found = np.where(where, np.logaddexp(found, np.log(share)), found)
        return found


def fit_difficulty(rates: FloatArray, trials: FloatArray) -> DifficultyFit:
    """Fit the distribution of success probabilities to pass rates (Q,) measured in `trials` (Q,) rollouts.

    By maximum likelihood of the counts, without or with a share of prompts that are never solved, always
    solved, or both: whichever has the least BIC.
    """
    n = np.rint(trials)
    cells, weights = np.unique(np.stack([np.rint(rates * n), n], axis=1), axis=0, return_counts=True)
    k, n = cells.T
    never, always = (float(weights[where].sum()) / len(rates) for where in (k == 0, k == n))
    observed = {"unsolvable": never, "solved": always}
    best, least = DifficultyFit(1.0, 1.0), math.inf
    shapes = np.zeros(2), np.log(fit_beta(rates, trials))  # from one of them alone it may end on a plateau
    for kinds in ([], ["unsolvable"], ["solved"], ["unsolvable", "solved"]):
        if not all(observed[kind] for kind in kinds):
            continue
        half = np.array([observed[kind] for kind in kinds]) / 2
        shares = np.log(half / (1 - half.sum()))
        for shape in shapes:

            def cost(x: FloatArray, kinds: list[str] = kinds) -> float:
                likely = float(weights @ _with_shares(x, kinds).log_likelihood(k, n))
                return float((2 + len(kinds)) * np.log(len(rates)) - 2 * likely)

            bounds = [(-5.0, 7.0)] * 2 + [(-9.0, 6.0)] * len(kinds)
            found = optimize.minimize(cost, np.append(shape, shares), method="L-BFGS-B", bounds=bounds)
            if found.fun < least:
                best, least = _with_shares(found.x, kinds), float(found.fun)
    return best


def _with_shares(x: FloatArray, kinds: Sequence[str]) -> DifficultyFit:
    """Difficulty from the logarithms of alpha, beta and of the odds of each share against the rest."""
    shares = special.softmax(np.append(x[2:], 0.0))[:-1]
    return DifficultyFit(*np.exp(x[:2]).tolist(), **dict(zip(kinds, shares.tolist(), strict=True)))


# A run


def measure(real: Results) -> list[Found]:
    """What the directory of a real run says of the scenario that it is like; None for what it does not say.

    Raises InputError where its files are damaged, and where it is no training run in one scenario.
    """
    results, scenario = _single(real)
    return [
        _difficulty(results.directory),
        *_noise(results.directory),
        *_batch(results, scenario),
        Found("steps", str(results.record["steps"][scenario]), "the study's"),
        _pool_size(results),
    ]


def fit(real: Results) -> Fit:
    """Fit a scenario to a real run, and write its study; this takes about half a minute.

    Raises InputError like `measure`.
    """
    results, name = _single(real)
    run, steps, factors = _uniform(results, name)
    found = measure(results)
    estimator_name, aggregation, rules = _rules(results)
    known = {entry.parameter: entry.value for entry in found if entry.value is not None}
    if "pool_size" not in known and int(known["prompts"]) > _make_scenario(BASE).pool_size:
        known["pool_size"] = known["prompts"]
    gains = _gains(run, steps)
    learning = fit_learning(_make_scenario(_spec(known)), estimator_name, aggregation, gains)
    known |= {entry.parameter: entry.value for entry in learning if entry.value is not None}
    spec = _spec(known)
    specs = [spec for spec in results.record["allocators"] if spec != REFERENCE]
    for one in specs:
        allocators.create(one)
    said = f"in units of the one at which the real {BASELINE} gained most; no larger ones"
    rates = Found("learning_rates", ", ".join(f"{factor:g}" for factor in factors), said)
    found = [*found, *learning, rates, *rules]
    return Fit(spec, found, _toml(results, spec, specs, estimator_name, aggregation, factors, found))


def fit_learning(
    scenario: LearningScenario, estimator: str, aggregation: Aggregation, gains: FloatArray
) -> list[Found]:
    """Find the least learning rate at which uniform gains as much accuracy in the scenario's steps.

    `gains` (S,) are those of the real run's seeds; they are compared in the mean. Where no learning rate
    gains as much under the scenario's ceiling, there is none: kappa is 0.
    """
    wanted = float(gains.mean())
    if not wanted > 0:
        return [Found("learning_rate", None, f"{BASELINE} did not learn: its gain is {wanted:+.4f}")]
    found, ceiling = _least_rate(scenario, estimator, aggregation, wanted), []
    if not found.enough:
        free = _least_rate(replace(scenario, kappa=0.0), estimator, aggregation, wanted)
        if free.gain > found.gain:
            said = (
                f"under the scenario's {scenario.kappa:g} simulated {BASELINE} gains {found.gain:.4f} at most"
            )
            found, ceiling = free, [Found("kappa", "0", said)]
    error = f" ± {stats.sem(gains):.4f} (standard error of {len(gains)} seeds)" if len(gains) > 1 else ""
    said = f"simulated {BASELINE} gains {found.gain:.4f}, the real one {wanted:.4f}{error}"
    if not found.enough:
        said += ": no learning rate gains more in the simulator"
    return [*ceiling, Found("learning_rate", f"{found.rate:.4g}", said)]


class _Search(NamedTuple):
    """A learning rate, what uniform gains at it, and whether any gains `enough`."""

    rate: float
    gain: float
    enough: bool


def _least_rate(
    scenario: LearningScenario, estimator: str, aggregation: Aggregation, wanted: float
) -> _Search:
    """The least learning rate at which simulated uniform gains `wanted`, or the one that comes nearest."""
    tried: dict[float, float] = {}

    def short(log_rate: float) -> float:
        """How much of the real gain is missing at this learning rate; below 0 where the gain is exceeded."""
        rate = float(f"{math.exp(log_rate):.4g}")
        if rate not in tried:
            tried[rate] = simulated_gain(replace(scenario, learning_rate=rate), estimator, aggregation)
        return wanted - tried[rate]

    low = math.log(scenario.learning_rate) - 4
    while short(low) < 0:
        low -= 2
    high = low + 1
    while short(high) > 0 and (len(tried) < 3 or _rising(tried)) and len(tried) < MOST_RATES:
        high += 1
    enough = short(high) <= 0
    if enough:
        low = high - 1
        while min(abs(gain - wanted) for gain in tried.values()) > CLOSE * wanted and high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (middle, high) if short(middle) > 0 else (low, middle)
    rate = min(tried, key=lambda rate: abs(tried[rate] - wanted))
    return _Search(rate, tried[rate], enough)


def _rising(tried: dict[float, float]) -> bool:
    """Whether the gain at the two largest learning rates is not below what a smaller one gained."""
    *before, last_but_one, last = (tried[rate] for rate in sorted(tried))
    return max(last_but_one, last) >= max(before)


def simulated_gain(scenario: LearningScenario, estimator: str, aggregation: Aggregation) -> float:
    """Mean gain of uniform in held-out accuracy after the scenario's steps, over one block of replicates."""
    rule = estimators.create(estimator)
    cell = LearningCell("", scenario, BASELINE, Uniform(), rule, aggregation, seed=0, block=0)
    with threadpool_limits(1):
        environment, held_out = cell.world()
        uniform = begin(environment, cell.allocator)
        policy = environment.policy
        before = policy.success(*held_out, policy.theta).mean()
        for _ in range(scenario.steps):
            run_step(environment, uniform)
        return float(policy.success(*held_out, policy.theta).mean() - before)


def _single(real: Results) -> tuple[LearningResults, str]:
    """The results of the only kind and scenario expected here. Raises InputError where there are others."""
    if not isinstance(real, LearningResults):
        raise InputError(f"{real.directory}: is a {real.kind} study; one of training runs is expected")
    names = real.shown_scenarios()
    if len(names) != 1:
        raise InputError(f"{real.directory}: has the scenarios {', '.join(names)}; one is expected")
    return real, names[0]


def _uniform(results: LearningResults, scenario: str) -> tuple[LearningCurves, int, list[float]]:
    """Uniform's curves at the learning rate where it gained most, and the study's steps.

    With them come the learning rates up to that one, in units of it.
    """
    curves = results.read("curves")
    of_uniform = curves[(curves.scenario == scenario) & (curves.allocator == BASELINE)]
    if of_uniform.empty:
        raise InputError(f"{results.directory}: has no curves of '{BASELINE}' in {scenario}")
    steps = int(results.record["steps"][scenario])
    rates = of_uniform["rate"].unique().tolist()
    runs = {rate: LearningCurves(of_uniform[of_uniform["rate"] == rate]) for rate in rates}
    best = max(runs, key=lambda rate: float(_gains(runs[rate], steps).mean()))
    return runs[best], steps, sorted(rate / best for rate in runs if rate <= best)


def _gains(run: LearningCurves, steps: int) -> FloatArray:
    """Gain in accuracy (S,) of each seed after so many steps."""
    gains: FloatArray = run.at_step("accuracy", steps) - run["accuracy"][:, 0]
    return gains


def _difficulty(directory: Path) -> Found:
    path = directory / PASS_RATES
    if path.exists():
        table = read_table(path)
        rates = column(table, "pass_rate", path, 0, 1)
        trials = column(table, "trials", path, low=1, whole=True)
        source = PASS_RATES
    elif (directory / BANK).exists():
        bank = read_bank(directory)
        _, place = np.unique(bank.prompts, return_inverse=True)
        first = np.full(place.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, place, bank.steps)
        early = bank.steps == first[place]  # a prompt's rollouts of the step at which it was first seen
        trials = np.bincount(place[early]).astype(np.float64)
        rates = np.bincount(place[early], bank.rewards[early]) / trials
        source = f"{BANK}, each prompt where it was first seen"
    else:
        return Found("difficulty", None, f"not measured: no {PASS_RATES} and no {BANK}")
    found = fit_difficulty(rates, trials)
    successes = np.rint(rates * trials)
    never = float(np.exp(found.log_likelihood(np.zeros_like(trials), trials)).mean())
    always = float(np.exp(found.log_likelihood(trials, trials)).mean())
    tried = f"{trials.min():g} to {trials.max():g}" if trials.min() < trials.max() else f"{trials[0]:g}"
    return Found(
        "difficulty",
        found.spec,
        f"{len(rates)} prompts x {tried} rollouts ({source}), mean {successes.sum() / trials.sum():.3f}; "
        f"never solved {np.mean(successes == 0):.3f} (fit {never:.3f}), "
        f"always {np.mean(successes == trials):.3f} (fit {always:.3f})",
    )


def _batch(results: LearningResults, scenario: str) -> list[Found]:
    if not results.has("curves"):
        return [Found(name, None, "the study's curves are gone") for name in ("prompts", "group_size")]
    run, steps, _ = _uniform(results, scenario)
    prompts, rollouts = (float(np.mean(run.at_step(name, steps))) for name in ("prompts", "rollouts"))
    return [
        Found("prompts", f"{prompts / steps:.0f}", f"of a step of {BASELINE}"),
        Found("group_size", f"{rollouts / prompts:.0f}", f"rollouts a prompt of {BASELINE}"),
    ]


def _pool_size(results: LearningResults) -> Found:
    recorded = (results.record.get("training") or {}).get("pool_size")
    if recorded is not None:
        return Found("pool_size", str(recorded), "the study's")
    path = results.directory / PASS_RATES
    if path.exists():
        return Found("pool_size", str(len(read_table(path))), f"prompts of {PASS_RATES}")
    return Found("pool_size", None, "not recorded")


def _noise(directory: Path) -> list[Found]:
    """What a rollout's score has of noise, and a correct one's share of it."""
    names = "noise_ratio", "success_noise"
    if not (directory / BANK).exists():
        return [Found(name, None, f"not measured: no {BANK}") for name in names]
    bank = read_bank(directory)
    noise = fit_noise(bank.prompts, bank.steps, bank.rewards, bank.sketches)
    if noise is None:
        return [Found(name, None, f"{BANK}: no group with two successes and two failures") for name in names]
    told = 0 < noise.failures.estimate < 1e9
    found = []
    for name, (estimate, low, high) in zip(names, (noise.failures, noise.success_noise), strict=True):
        said = f"[{low:.3g}, {high:.3g}], from {noise.prompts} prompts of {BANK}"
        value, said = (f"{estimate:.3g}", said) if told else (None, f"no signal above the noise: {said}")
        found.append(Found(name, value, said))
    return found


def _rules(results: LearningResults) -> tuple[str, Aggregation, list[Found]]:
    """Estimator and aggregation, where the simulator knows them."""
    estimator, aggregation = str(results.record["estimator"]), results.record["aggregation"]
    estimators.create(estimator)
    if aggregation in ("prompt", "rollout"):
        return estimator, aggregation, []
    return estimator, "prompt", [Found("aggregation", None, f"the simulator has no '{aggregation}'")]


def _spec(known: dict[str, str]) -> str:
    return f"{BASE}[{','.join(f'{name}={value}' for name, value in known.items())}]"


def _make_scenario(spec: str) -> LearningScenario:
    made = scenarios.create(spec)
    assert isinstance(made, LearningScenario)
    return made


def _toml(
    results: LearningResults,
    spec: str,
    specs: Sequence[str],
    estimator: str,
    aggregation: str,
    learning_rates: Sequence[float],
    found: Sequence[Found],
) -> str:
    """Text of the study as TOML, with a comment for each parameter."""
    lines = [f"The scenario fitted to {results.directory}; what is not named is {BASE}'s own."]
    lines += [f"{one.parameter}: {one.value or 'default'}: {one.said}" for one in found]
    study = {
        "study": "compare",
        "title": f"Simulated like {results.directory}",
        "scenarios": [spec],
        "allocators": list(specs),
        "estimator": estimator,
        "aggregation": aggregation,
        "learning_rates": list(learning_rates),
        "replicates": REPLICATES,
    }
    comments = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return f"{comments}\n{tomli_w.dumps(study)}"
