"""The command `import`: what a run that already happened spent its rollouts on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rolloutbench.analysis import tables
from rolloutbench.cli.options import AsJson
from rolloutbench.run_logs import read_log
from rolloutbench.studies import diagnosis


def import_log(
    log: Annotated[
        Path,
        typer.Argument(help="A log of rewards by prompt: a file (JSON lines, CSV, Parquet) or a directory."),
    ],
    step: Annotated[str | None, typer.Option(help="Column of the training step.", show_default=False)] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Column that tells prompts apart.", show_default=False)
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="Column of the reward, or of lists of them.", show_default=False)
    ] = None,
    threshold: Annotated[float, typer.Option(help="A reward above it is a success.")] = 0.5,
    allocator: Annotated[
        list[str] | None,
        typer.Option("--allocator", "-a", help="Which to ask; repeatable. Default: all.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for pass rates, study and tables.")] = Path("imported"),
    as_json: AsJson = False,
) -> None:
    """Read the log of a run: what had no gradient, and what each allocator would have asked for.

    One JSON line a group, `{"step": 3, "prompt_id": "a", "rewards": [0, 1, 1]}`; or one row a rollout: TRL's
    completions (`log_completions`), verl's dumped rollouts (`trainer.rollout_data_dir`).

    It also writes a study of the run's own prompts, in which the other allocators can be simulated.

    `rolloutbench import rewards.jsonl --out out/mine`, then `rolloutbench compare --config
    out/mine/compare.toml`
    """
    found = diagnosis.diagnose(read_log(log, step, prompt, reward, threshold), allocator or None)
    diagnosis.write(found, out)
    if as_json:
        print(json.dumps(diagnosis.as_json(found) | {"out": str(out)}, indent=1, allow_nan=False))
        return
    console = tables.console()
    tables.show(console, found.sheets())
    study = out / diagnosis.STUDY
    console.print(f"rolloutbench compare --config {study} --out {out / 'compared'}", soft_wrap=True)
