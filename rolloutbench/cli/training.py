"""The commands `train` and `record`: a language model, for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from rolloutbench.analysis import tables
from rolloutbench.api import Execution
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.cli.completion import names_of
from rolloutbench.cli.making import made_directory
from rolloutbench.cli.options import AsJson, Seed, study_command
from rolloutbench.cli.results import carry_out, command_line
from rolloutbench.errors import InputError
from rolloutbench.studies.kinds.training import Training


@study_command(Training, "rolloutbench-train", config_first=True, without=("memory", "executor", "address"))
def train(description: Training, out: Path, execution: Execution, as_json: bool) -> None:
    """Train a language model with each allocator, for real: RLVR with the same objects as in `compare`.

    Every allocator starts from the same model and meets the same prompts; every rollout that it has
    sampled is on the bill. Prints and writes what `compare` does, with measured seconds, and
    what they were spent on. Needs the extra `llm`: torch and transformers.

    A run writes a checkpoint every few steps: the same command goes on where it was stopped or killed.

    `rolloutbench train -a vip -a ar3po --steps 60`

    `rolloutbench train --task "reasoning_gym[dataset=chain_sum]" --model "hf[path=Qwen/Qwen2.5-0.5B]"
    --engine vllm --device cuda`
    """
    carry_out(description, out, execution, as_json)


def record(
    config: Annotated[
        Path | None,
        typer.Argument(help="TOML file of a `train` study: task, model, trainer ...", show_default=False),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="See `list task`.", show_default="sorting", autocompletion=names_of("task")),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="See `list model`.", show_default="tiny", autocompletion=names_of("model")),
    ] = None,
    allocator: Annotated[
        str | None,
        typer.Option(
            "--allocator",
            "-a",
            help="Whose training is recorded.",
            show_default=BASELINE,
            autocompletion=names_of("allocator"),
        ),
    ] = None,
    at_steps: Annotated[
        str, typer.Option(help="Training steps after which scores are taken: `0,50,100`.", metavar="STEPS")
    ] = "0",
    pool: Annotated[
        int | None,
        typer.Option(
            help="Prompts that are recorded, of the training pool.", min=2, show_default="500, or all"
        ),
    ] = None,
    rollouts: Annotated[
        int, typer.Option(help="Of each prompt; half of them test the other.", min=8, max=10_000)
    ] = 32,
    dimensions: Annotated[
        int, typer.Option(help="Numbers in a score's sketch: a multiple of 64.", min=64, max=65_536)
    ] = 256,
    seed: Seed = None,
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(show_default="auto")] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for the bank, and `scores` in it for tables and plots.")
    ] = Path("rolloutbench-record"),
    as_json: AsJson = False,
) -> None:
    """Record a score bank: rewards and gradients of single rollouts of a language model.

    A score is the gradient of a response's log-probability, kept as a sketch of a few hundred numbers and
    its length. `compare -s replay:OUT/bank.parquet` then compares any allocator on this model's real
    gradients, in seconds. Prints the tests of the assumption that VIP's formulas rest on, and how well they
    predict the measured variance of a prompt's gradient.

    `rolloutbench record --task sorting --at-steps 0,100 --pool 200`

    `rolloutbench record real/study.toml --out real` puts it beside the study that it belongs to, where `fit`
    finds it.
    """
    from real_runs import recording  # with torch, which takes seconds

    given = {
        "task": task,
        "model": model,
        "allocators": None if allocator is None else [allocator],
        "seed": seed,
        "device": device,
    }
    asked = {key: value for key, value in given.items() if value is not None}
    study = Training.of(asked, config).build()
    cell = next(cell for cell in study.cells(out) if cell.allocator_name == (allocator or BASELINE))
    at = _whole_numbers("--at-steps", at_steps)
    with made_directory("--out", out):
        with tables.status(f"record: {out}") as tell:
            facts = {"command": command_line()}
            found = recording.record(cell, at, pool, rollouts, dimensions, facts, tell)
        recording.write(found, out)
    if as_json:
        print(json.dumps(recording.as_json(found) | {"out": str(out)}, indent=1))
        return
    console = tables.console()
    tables.show(console, recording.sheets(found))
    console.print(f"bank    {out / 'bank.parquet'}\nscores  {out / 'scores'}/", soft_wrap=True)


MOST_STEPS = 1_000_000
"""Training steps after which scores may be recorded, as many as a run may have."""


def _whole_numbers(option: str, text: str) -> list[int]:
    numbers = []
    for part in text.split(","):
        if not part.strip().isdecimal():
            raise InputError(f"{option}: '{part.strip()}' is no whole number")
        if len(part.strip()) > len(str(MOST_STEPS)) or int(part) > MOST_STEPS:
            raise InputError(f"{option}: {part.strip()[:20]}: at most {MOST_STEPS:,} steps are expected")
        numbers.append(int(part))
    return sorted(set(numbers))
