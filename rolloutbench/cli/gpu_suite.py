"""One command for a machine with one GPU: train all allocators for some minutes, several side by side.

    python -m rolloutbench.cli.gpu_suite --minutes 25 --out results/gpu_sorting --processes 6

The study is the one of `SUITE`: at least 3 seeds of every allocator on a model of 12 million parameters. When
the minutes are over, what runs stops at its last checkpoint; the same command on the same or another
machine, with the same directory, goes on, and writes the results when the last run is done. It needs
torch, transformers, numpy, scipy, pandas, pyarrow and the small wheels of the core; no network: the model
is made and warmed up on the machine.

With `--speed` it prints, and writes to `speed.csv`, the tokens per second of the engines with and without
CUDA graphs instead. `--device cpu --study FILE` runs any `train` study the same way, to try it without a GPU.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import typer

import real_runs
from real_runs.engines import engine
from real_runs.preparation import prepare
from real_runs.settings import RealScenario
from rolloutbench.optional import need
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds.training import Training

SUITE = Path(real_runs.__file__).with_name("gpu_suite.toml")
GROUPS = (64, 8)
"""Prompts and rollouts of each when speed is measured."""
REPEATS = 5
SPARE_SECONDS = 5.0
"""Kept of the minutes for writing."""
PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def run(
    minutes: Annotated[float, typer.Option(help="Stop after so many, however far it is.", min=0.1)] = 25.0,
    out: Annotated[Path, typer.Option(help="The study's directory: the same one goes on.")] = Path(
        "results/gpu_sorting"
    ),
    processes: Annotated[int, typer.Option(help="Runs side by side.", min=1)] = 6,
    device: Annotated[Literal["cuda", "cpu"], typer.Option(help="`cpu`: to try it.")] = "cuda",
    study: Annotated[Path, typer.Option(help="A `train` study.")] = SUITE,
    speed: Annotated[bool, typer.Option("--speed", help="Measure engines instead.")] = False,
) -> None:
    """Train all allocators on one GPU for some minutes, or measure how fast engines sample."""
    # Beside the results, so that it travels with them: nothing is warmed up or measured twice.
    os.environ.setdefault("ROLLOUTBENCH_CACHE", str(out / "cache"))
    if speed:
        print(measure_speed(study, device, out).to_string(index=False))
        return
    asked = ["train", study, "--device", device, "--jobs", processes, "--out", out, "--checkpoint-every", 5]
    command = [sys.executable, "-m", "rolloutbench", *map(str, asked)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: the training is told, too
    with subprocess.Popen(command, preexec_fn=_end_with(os.getpid())) as training:
        try:
            code = training.wait(60 * minutes - SPARE_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"{minutes:g} minutes are over; the same command goes on", file=sys.stderr)
            code = 0
        finally:
            training.terminate()  # finished runs are stored, the others keep their checkpoints
            training.wait()
    raise typer.Exit(code)


def _end_with(parent: int) -> Callable[[], None]:
    """What a process runs before it begins so as to be told to end when its parent is killed (Linux)."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        told = library.prctl
    except (OSError, AttributeError, TypeError):  # another system
        return lambda: None

    def end_with_parent() -> None:
        told(PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() != parent:  # it was killed already
            os._exit(143)

    return end_with_parent


def measure_speed(study: Path, device: str, out: Path) -> pd.DataFrame:
    """Tokens per second of `transformers` with and without CUDA graphs, and of vLLM where it is installed.

    Columns: engine, options, prompts, rollouts, tokens_per_second (median of 5), low, high (their range).
    """
    description = Training.of({"device": device}, study)
    (scenario,) = description.build().scenarios.values()
    prepared = prepare(scenario, description.seed, Path(os.environ["ROLLOUTBENCH_CACHE"]))
    ways: list[tuple[str, dict[str, Any]]] = [("transformers", {"static": False})]
    if device == "cuda":
        ways += [("transformers", {"static": True, "graphs": graphs}) for graphs in (False, True)]
    try:
        need("vllm", "vllm")
        ways.append(("vllm", {}))
    except InputError:
        print("vllm is not installed: left out", file=sys.stderr)
    found = pd.DataFrame([_speed(scenario, prepared, name, options) for name, options in ways])
    out.mkdir(parents=True, exist_ok=True)
    found.to_csv(out / "speed.csv", index=False)
    return found


def _speed(scenario: RealScenario, prepared: Any, name: str, options: dict[str, Any]) -> dict[str, Any]:
    torch = need("torch", "llm")
    prompts, rollouts = GROUPS
    sampler = engine(
        name, prepared.model, scenario.task.max_new_tokens, scenario.temperature, seed=0, **options
    )
    asked = prepared.train.prompts[:prompts], np.full(min(prompts, len(prepared.train.prompts)), rollouts)
    sampler.generate(*asked)  # compiles, captures
    rates = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        tokens = sampler.generate(*asked).total_tokens
        if scenario.device == "cuda":
            torch.cuda.synchronize()
        rates.append(tokens / (time.perf_counter() - started))
    return {
        "engine": name,
        "options": " ".join(f"{key}={value}" for key, value in options.items()),
        "device": torch.cuda.get_device_name() if scenario.device == "cuda" else "cpu",
        "prompts": prompts,
        "rollouts": rollouts,
        "tokens_per_second": float(np.median(rates)),
        "low": min(rates),
        "high": max(rates),
    }


if __name__ == "__main__":
    typer.run(run)
