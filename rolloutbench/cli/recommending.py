"""The command `recommend`: which allocator to use, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rolloutbench import api
from rolloutbench.analysis import tables
from rolloutbench.cli.messages import say
from rolloutbench.cli.options import study_command
from rolloutbench.cli.results import command_line
from rolloutbench.studies.kinds.comparison import Comparison

Like = Annotated[
    Path | None,
    typer.Option(
        metavar="RESULTS",
        help="Read results of training runs that are like yours, simulated or real; `-s` and `-a` choose "
        "from them.",
        show_default=False,
    ),
]
Paid = Annotated[api.Price, typer.Option(help="What you pay, and so what allocators are compared at.")]


@study_command(
    Comparison,
    None,
    only=(
        *("scenarios", "pass_rates", *Comparison.of_pass_rates, "allocators", "estimator", "aggregation"),
        *("optimizer", "prompts", "group_size", "steps", "learning_rates", "replicates", "seed", "quick"),
        "price_per_gpu_hour",
    ),
    without=("executor", "address", "force", "retry_failed"),
    beside={"like": (Like, None), "price": (Paid, "rollouts")},
)
def recommend(
    description: Comparison,
    out: Path | None,
    execution: api.Execution,
    as_json: bool,
    *,
    like: Path | None,
    price: api.Price,
) -> None:
    """Which allocator to use for prompts and a budget like yours, and what it saves.

    `--pass-rates FILE` and `--scenario` compare the allocators in simulated training, each at its own best
    learning rate, in some minutes; `--like RESULTS` reads what was measured. The answer names the best,
    those that cannot be told from it, what is saved until 90% of the gain, and the lines to paste into TRL
    and verl. Bounds, which are told the true p, are never recommended.

    `rolloutbench recommend --pass-rates mine.csv --trials n`

    `rolloutbench recommend -s dead-sixty-v1 --price seconds --price-per-gpu-hour 2`

    `rolloutbench recommend --like results/learning_all -s u-shaped-v1`
    """
    found = api.recommended(description, out, execution, like=like, price=price, command=command_line())
    if as_json:
        print(json.dumps(found.as_json() | {"out": None if out is None else str(out)}, indent=1))
    else:
        console = tables.console()
        tables.say(console, found.words)
        for name, lines in found.pasted.items():
            console.print(f"{name}:\n\n{lines}\n", soft_wrap=True)
    failed = found.results.what_failed()
    for line in failed:
        say(line)
    if failed:
        raise typer.Exit(1)
