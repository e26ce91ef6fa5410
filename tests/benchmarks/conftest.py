"""The table of medians and ratios that is printed after the benchmarks.

Targets are printed beside what was measured and never asserted: a busy machine fails no test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from threadpoolctl import threadpool_limits

MEDIANS = pytest.StashKey[dict[str, float]]()


@dataclass(frozen=True)
class Row:
    """A line of the table: how long `name` takes, and how many times as long as `against`."""

    name: str
    against: str = ""
    at_least: float = 0.0
    """Target for the ratio to `against`, or for the rate where there is none."""
    at_most: float = float("inf")
    """Target for the median, in seconds."""
    units: int = 0
    """How many things (see `unit`) are done in the measured time."""
    unit: str = ""
    is_memory: bool = False
    """What was measured, and its target, are bytes."""

    def line(self, medians: Mapping[str, float]) -> str:
        """The row as text; ratio and target only where there are any."""
        seconds = medians[self.name]
        ratio, target, rate, met = "", "", "", True
        if self.against in medians:
            times = seconds / medians[self.against]
            ratio = f"{_times(times)} as long as ours"
            if self.at_least:
                target, met = f">= {_times(self.at_least)}", times >= self.at_least
        if self.at_most < float("inf"):
            most = _size(self.at_most) if self.is_memory else f"{self.at_most:g} s"
            target, met = f"<= {most}", seconds <= self.at_most
        if self.unit == "groups":
            rate = f"{self.units / seconds:,.0f} groups per second"
            if self.at_least and not self.against:
                target, met = f">= {self.at_least:,.0f}", self.units / seconds >= self.at_least
        elif self.unit:
            rate = f"{seconds / self.units * 1e6:.3f} s per million {self.unit}"
        verdict = f"{target:<14}{'met' if met else 'MISSED'}" if target else ""
        measured = _size(seconds) if self.is_memory else _duration(seconds)
        return f"{self.name:<46}{measured:>10}  {ratio or rate:<30}{verdict}".rstrip()


ROWS = {
    "B = 512 prompts, C = 4096 rollouts, n in [4, 16]": [
        Row("exact integer, rloo"),
        Row("Clarabel via cvxpy, rloo, real n", "exact integer, rloo", at_least=100),
        Row("Clarabel's own solve_time", "exact integer, rloo"),
        Row("exact integer, success_rate"),
        Row("SLSQP as VIP's code, success_rate, real n", "exact integer, success_rate", at_least=10_000),
        Row("VIP's theorems by bisection, rloo, real n"),
        Row("VIP's theorems by bisection, dr_grpo, real n"),
    ],
    "B = 10,000, C = 80,000, n in [4, 16]": [
        Row("exact integer, rloo, B=10,000", unit="prompts", units=10_000),
        Row("Clarabel via cvxpy, rloo, real n, B=10,000", "exact integer, rloo, B=10,000", at_least=100),
        Row("Clarabel's own solve_time, B=10,000", "exact integer, rloo, B=10,000"),
    ],
    "Many prompts, 8 rollouts each, n in [4, 16]": [
        Row("exact integer, rloo, B=100,000", unit="prompts", units=100_000),
        Row("exact integer, rloo, B=1,000,000", at_most=0.15, unit="prompts", units=1_000_000),
    ],
    "Dynamic program, B = 512, C = 4096": [
        Row("non_zero_gradient, n in [0, 32]", at_most=0.5),
        Row("grpo, n in [2, 32]", at_most=0.5),
    ],
    "VIP's decision (update, predict, allocate), B = 512 of Q = 17,000 prompts": [
        Row("gp, d=32, float32", at_most=0.1),
        Row("gp, d=32, float64", at_most=0.1),
        Row("gp, d=384, float32"),
        Row("gp as in the paper, d=32, float32", at_most=0.1),
        Row("gp as in the paper, d=32, float64", at_most=0.1),
        Row("gp as in the paper, d=384, float32"),
        Row("sparse_gp, d=32, float32", at_most=0.02),
        Row("sparse_gp, d=384, float32"),
        Row("ensemble, d=32, float32"),
        Row("kalman, d=32, float32"),
        Row("ridge, d=32, float32"),
        Row("svgp, d=32, float32"),
    ],
    "VIP's decision, B = 512 of Q = 1,000,000 prompts, d = 32, float32": [
        Row("sparse_gp, Q=1,000,000", at_most=0.05),
        Row("peak memory, features included", at_most=2**30, is_memory=True),
    ],
    "Simulator: vip in u-shaped-v1, 128 prompts x 8": [
        Row("one snapshot cell, 16 replicates", unit="groups", units=16 * 128),
    ],
    "A training step of uniform, 64 replicates x 256 prompts, d = 32 (aim: 4,000,000 groups per second)": [
        Row("groups of counts, n=8", at_least=1_000_000, unit="groups", units=64 * 256),
        Row("rollout by rollout, n=8", "groups of counts, n=8", at_least=15),
        Row("groups of counts, n=64", at_least=500_000, unit="groups", units=64 * 256),
        Row("rollout by rollout, n=64", "groups of counts, n=64", at_least=60),
        Row("groups of counts, n=512", at_least=500_000, unit="groups", units=64 * 256),
    ],
    "1,000 steps x 32 replicates in u-shaped-v1, scaled up from 100 x 16; core-seconds": [
        Row("uniform"),
        Row("vip[predictor=beta]"),
        Row("vip[predictor=sparse_gp]"),
        Row("vip"),
        Row("knapsack"),
        Row("dapo"),
        Row("ar3po"),
        Row("mopps"),
        Row("all eight", at_most=600),
    ],
    "A real run beside a bare loop on the same model; CPU seconds": [
        row
        for model in ("84,000 parameters", "11 million parameters")
        for part in ("sampling", "update")
        for row in (
            Row(f"{part}, {model}"),
            Row(f"{part}, bare loop, {model}", f"{part}, {model}", at_least=0.9),
        )
    ],
    "A study beside its cells: keys, processes, files (aim: 5 ms a cell)": [
        Row("1,000 trivial cells, 1 job", at_most=5),
        Row("1,000 trivial cells, 2 jobs", at_most=5),
        Row("opening a store of 10,000 cells", at_most=1),
    ],
}


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _size(bytes_: float) -> str:
    return f"{bytes_ / 2**30:.3g} GiB"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MEDIANS] = {}


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    medians = config.stash.get(MEDIANS, {})
    if not medians:
        return
    terminalreporter.section("medians on one core, and ratios of medians", sep="=")
    for title, rows in ROWS.items():
        lines = [f"  {row.line(medians)}" for row in rows if row.name in medians]
        if lines:
            terminalreporter.write_line("\n".join(["", title, *lines]))


@pytest.fixture(autouse=True)
def one_core() -> Iterator[None]:
    """BLAS on one thread, as numpy's other loops and Clarabel's QDLDL are anyway."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def record(benchmark: BenchmarkFixture, pytestconfig: pytest.Config) -> Callable[[str, float], None]:
    """Put a median, in seconds, into the table and into what pytest-benchmark saves."""

    def put(name: str, seconds: float) -> None:
        if benchmark.enabled:
            pytestconfig.stash[MEDIANS][name] = benchmark.extra_info[name] = seconds

    return put


@pytest.fixture
def timed(benchmark: BenchmarkFixture, record: Callable[[str, float], None]) -> Callable[..., Any]:
    """Time a function under a row's name, after a warm-up, and return its answer.

    A round is the mean of `calls` calls; `before`, where given, runs untimed before every round.
    """

    def measure(
        name: str,
        function: Callable[[], Any],
        rounds: int,
        before: Callable[[], None] | None = None,
        warm_up: int = 1,
        calls: int = 1,
    ) -> Any:
        def several() -> Any:
            for _ in range(calls):
                answer = function()
            return answer

        answer = benchmark.pedantic(several, setup=before, rounds=rounds, warmup_rounds=warm_up)
        if benchmark.enabled:
            record(name, benchmark.stats.stats.median / calls)
        return answer

    return measure
