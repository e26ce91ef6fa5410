"""The commands `fit` and `validate`: simulation held against real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rolloutbench.analysis import tables
from rolloutbench.cli.completion import names_of
from rolloutbench.cli.making import made_directory
from rolloutbench.cli.options import AsJson
from rolloutbench.files import write_whole
from rolloutbench.protocol import InputError
from rolloutbench.studies import fitting, validation
from rolloutbench.studies.kinds import open_results


def fit(
    real: Annotated[Path, typer.Argument(help="Results of `train`: real training runs in one scenario.")],
    out: Annotated[
        Path | None,
        typer.Option(help="TOML file. Default: `fitted.toml` in the real one.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the simulated study that is most like a real run.

    Difficulty from `pass_rates.parquet`, noise from `bank.parquet`, batch and steps from the run, and the
    learning rate at which simulated `uniform` gains as much. What was not measured keeps a default, and
    the file says so.

    `rolloutbench fit results/real_sorting`, then `rolloutbench compare --config
    results/real_sorting/fitted.toml --out out/fitted` and `rolloutbench validate out/fitted
    results/real_sorting`
    """
    found = fitting.fit(open_results(real))
    path = real / "fitted.toml" if out is None else out
    write_whole(path, found.toml.encode())
    if as_json:
        answer = {"spec": found.spec, "found": [one._asdict() for one in found.found], "out": str(path)}
        print(json.dumps(answer, indent=1))
        return
    console = tables.console()
    tables.show(console, [fitting.found_sheet(found.found)])
    console.print(f"rolloutbench compare --config {path} --out {real}-simulated", soft_wrap=True)


def validate(
    studies: Annotated[
        list[Path],
        typer.Argument(
            metavar="SIMULATED REAL ...",
            help="Results of `compare`, simulated training runs, and of `train`, real ones; or several such "
            "pairs.",
        ),
    ],
    metric: Annotated[
        str, typer.Option("--metric", "-m", help="That ranks.", autocompletion=names_of("metric"))
    ] = "area_over_rollouts",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for tables and plot. Default: `validation` in the real one. Of several pairs "
            "`pooled.csv` is written, where this is given.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Does the simulator's ranking of allocators hold in a real run?

    Kendall's tau of the two rankings in each simulated scenario, with a bootstrap interval; who is best;
    the pairs that clearly differ in the real run and whether the simulator has them right; and what the
    real run says of the scenario that it is like, which `fit` turns into a study.

    `rolloutbench validate results/learning_default results/real_sorting`

    Of several pairs, each a simulation fitted to its real run, also the tau of all of them together:
    `rolloutbench validate results/real_sorting_simulated results/real_sorting out/fitted out/real`
    """
    if len(studies) % 2:
        raise InputError(
            f"{studies[-1]}: has no partner: pairs are expected, a simulated study and a real one"
        )
    sides = zip(studies[::2], studies[1::2], strict=True)
    found = [validation.validate(open_results(ours), open_results(theirs), metric) for ours, theirs in sides]
    console = tables.console()
    if len(found) > 1:
        table = validation.pooled(found)
        if out is not None:
            with made_directory("--out", out):
                write_whole(out / "pooled.csv", table.to_csv(index=False).encode())
        if as_json:
            answer = {"metric": metric, "agreement": tables.as_records(table)}
            print(json.dumps(answer, indent=1, allow_nan=False))
        else:
            tables.show(console, [validation.pooled_sheet(table)])
        return
    (one,) = found
    directory = one.real / "validation" if out is None else out
    with made_directory("--out", directory):
        validation.write(one, directory)
    if as_json:
        print(json.dumps(validation.as_json(one) | {"out": str(directory)}, indent=1, allow_nan=False))
        return
    tables.show(console, validation.sheets(one))
    plot = directory / "plots" / "validation.png"
    console.print(f"tables {directory / 'validation.md'}\nplot   {plot}", soft_wrap=True)
