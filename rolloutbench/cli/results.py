"""The commands that look at results, `show`, `plot`, `report` and others; and a study's end."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rolloutbench import api
from rolloutbench.analysis import tables
from rolloutbench.analysis.answer import short_answer
from rolloutbench.analysis.difference import as_json as difference_as_json
from rolloutbench.analysis.difference import compare_studies, sheets
from rolloutbench.analysis.pictures import WIDE
from rolloutbench.analysis.results import Results
from rolloutbench.cli.completion import names_of
from rolloutbench.cli.making import made_directory
from rolloutbench.cli.messages import say
from rolloutbench.cli.options import AsJson, Out, Overwrite
from rolloutbench.errors import InputError
from rolloutbench.registry import nearest, split_outside_brackets
from rolloutbench.studies.carry_out import merge as merge_studies
from rolloutbench.studies.description import Description, PriceField
from rolloutbench.studies.kinds import open_results
from rolloutbench.text import cleaned


class Form(StrEnum):
    """Forms in which tables are written."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"


class Picture(StrEnum):
    """Formats in which figures are written."""

    pdf = "pdf"
    png = "png"
    svg = "svg"


def command_line() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join(["rolloutbench", *sys.argv[1:]])


def carry_out(description: Description, out: Path, execution: api.Execution, as_json: bool) -> None:
    """Carry out a study, show its tables, and say what failed; exit code 1 if something did."""
    results = api.run(description, out, execution, command=command_line())
    _show(results, as_json)
    failed = results.what_failed()
    for line in failed:
        say(line)
    if failed:
        raise typer.Exit(1)


def _show(results: Results, as_json: bool) -> None:
    """Tables, the short answer, and where the files are; or JSON."""
    if as_json:
        rows = tables.as_records(results.summary)
        answer = {"conditions": dict(results.record), "summary": rows, "out": str(results.directory)}
        failed = [failure for _, failure in results.failures]
        print(json.dumps(answer | {"failed": failed}, indent=1))
        return
    console = tables.console()
    tables.show(console, results.tables())
    tables.say(console, short_answer(results))
    files = {"table": results.path("summary"), "data": results.path("per_replicate")}
    plots = results.directory / "plots"
    files["plots"] = plots if plots.is_dir() else None
    for kind, path in files.items():
        if path is not None:
            console.print(f"{kind:7}{path}{'/' * (path == plots)}", soft_wrap=True)
    console.print(f"report rolloutbench report {shlex.quote(str(results.directory))}", soft_wrap=True)


def show(
    directory: Annotated[Path, typer.Argument(help="Results of `compare` or `predict`.")],
    sort: Annotated[
        str | None,
        typer.Option(
            help="Another metric that ranks.", show_default=False, autocompletion=names_of("metric")
        ),
    ] = None,
    form: Annotated[
        Form, typer.Option("--format", help="For a terminal, or for a paper, a page or a program.")
    ] = Form.terminal,
    allocator: Annotated[
        list[str] | None,
        typer.Option(
            "--allocator",
            "--allocators",
            "-a",
            help="Only these rows; repeatable, or with commas between them.",
            show_default=False,
            autocompletion=names_of("allocator"),
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            "--columns",
            "-c",
            help="Only these columns, by heading; repeatable, or with commas between them.",
            show_default=False,
        ),
    ] = None,
    price: Annotated[
        PriceField,
        typer.Option(
            "--price-per-gpu-hour",
            help="Training runs: show also what 90% of the gain costs.",
            metavar="PRICE",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the tables of a study again, also as LaTeX for a paper.

    `rolloutbench show results/learning_default --sort rollouts_to_90`

    `rolloutbench show results/learning_default --format latex -a vip -a mopps`
    """
    results = open_results(directory)
    results = results if sort is None else results.sorted_by(sort)
    results = results if price is None else results.priced(price)
    if form == Form.terminal and not allocator and not column:
        _show(results, as_json)
        return
    if as_json:
        raise InputError("--json: goes with no --format, --allocator or --column: they are of tables")
    sheets = _chosen(results, _separated(allocator), _separated(column))
    if form == Form.terminal:
        tables.show(tables.console(), sheets)
        return
    written = {
        Form.markdown: tables.Sheet.section,
        Form.latex: tables.Sheet.latex,
        Form.csv: tables.Sheet.csv,
    }
    print("\n\n".join(cleaned(written[form](one), keep="\n") for one in sheets))


def _chosen(results: Results, names: list[str], columns: list[str]) -> list[tables.Sheet]:
    """The tables with only these rows and columns; those that have none of the columns are left out."""
    whole = results.tables()
    for name in names:
        if not any(row[0].text == name for one in whole for row in one.rows):
            raise InputError(f"--allocator {name}: {nearest(name, results.members)}")
    known = {heading.line for one in whole for heading in one.headings}
    for column in columns:
        if column not in known:
            raise InputError(f"--column {column}: {nearest(column, known)}")
    chosen = []
    for one in whole:
        here = [column for column in columns if column in {heading.line for heading in one.headings}]
        if here or not columns:
            chosen.append(one.only(names, here))
    return chosen


def plot(
    directory: Annotated[Path, typer.Argument(help="Results of `compare`, `predict` or `train`.")],
    name: Annotated[
        str | None, typer.Argument(help="The figure. Default: list them.", show_default=False)
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List what can be drawn, with one line each.")
    ] = False,
    width: Annotated[
        float, typer.Option(help="Inches: a column of print has 3.25 to 3.5, a page 6 to 7.")
    ] = WIDE,
    title: Annotated[
        bool, typer.Option("--title/--no-title", help="With a title above, or for a caption below.")
    ] = True,
    allocator: Annotated[
        list[str] | None,
        typer.Option(
            "--allocator",
            "--allocators",
            "-a",
            help="Only these, or predictors; repeatable, or with commas between them.",
            show_default=False,
            autocompletion=names_of("method"),
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "--scenarios",
            "-s",
            help="Only these panels; repeatable, or with commas between them.",
            show_default=False,
            autocompletion=names_of("scenario"),
        ),
    ] = None,
    form: Annotated[
        list[Picture] | None,
        typer.Option("--format", "-f", help="Repeatable.", show_default="pdf"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the files.")] = Path(),
) -> None:
    """Draw a figure of a study as it goes into a paper, from its record alone.

    Beside the picture lies NAME.txt with the title and what a caption has to say.

    `rolloutbench plot results/learning_default`

    `rolloutbench plot results/learning_default ranking --width 3.3 --no-title -a vip -a mopps`
    """
    results = open_results(directory)
    if name is None or listed:
        console = tables.console()
        plots = list(results.figures())
        longest = max(len(one.name) for one in plots)
        for one in plots:
            lacking = results.lacks_for(one)
            said = f"cannot be drawn: this record has no {lacking}" if lacking else one.title
            console.print(f"{one.name:{longest}}  {said}", soft_wrap=True, markup=False)
        return
    figure = results.figure(
        name,
        width=width,
        title=title,
        allocators=_separated(allocator),
        scenarios=_separated(scenario),
    )
    from rolloutbench.analysis.plotting.panels import as_file_name, save  # with matplotlib

    with made_directory("--out", out):
        kinds = dict.fromkeys(form or [Picture.pdf])
        for path in save(figure, out, as_file_name(name), kinds):
            tables.console().print(str(path), soft_wrap=True, markup=False)


def _separated(given: list[str] | None) -> list[str]:
    """Names that were given one by one or with commas between them."""
    return [part for one in given or [] for part in split_outside_brackets(one)]


def diff(
    before: Annotated[Path, typer.Argument(help="Results of one study.")],
    after: Annotated[Path, typer.Argument(help="Results of another.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="Repeatable. Default: those that the terminal shows.",
            show_default=False,
            autocompletion=names_of("metric"),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What changed between two studies: conditions, and every metric that both have, with intervals.

    Where seed and scenario are the same, runs are paired by replicate. Verdicts allow for their number
    (Benjamini-Hochberg).

    `rolloutbench diff results/learning_default out/mine -m rollouts_to_90`
    """
    difference = compare_studies(open_results(before), open_results(after), metric)
    if as_json:
        print(json.dumps(difference_as_json(difference), indent=1))
        return
    tables.show(tables.console(), sheets(difference))


def report(
    directories: Annotated[
        list[Path], typer.Argument(help="Results of `compare` and `predict`: parts of one page.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Directory for report.html and report.md. Default: the first.", show_default=False),
    ] = None,
) -> None:
    """Write a page that can be sent to a colleague, and Markdown tables for an appendix or a README.

    `report.html` is one file that needs no network: question, answer, ranking with intervals, heat map,
    curves, costs, and what it takes to do it again. `report.md` has the tables.

    `rolloutbench report out/compare out/predict`
    """
    from rolloutbench.analysis.report import write  # with jinja2 and matplotlib, which take a second

    console = tables.console()
    for path in write([open_results(directory) for directory in directories], out):
        console.print(str(path), soft_wrap=True)


def leaderboard(
    directories: Annotated[list[Path], typer.Argument(help="Results of `compare` and `train`.")],
    out: Annotated[Path, typer.Option(help="The file of the page.")] = Path("leaderboard.html"),
) -> None:
    """Write one page on which the allocators of all these studies stand, under the conditions one chooses.

    The page is one file that needs no network. It filters by condition, epochs, dead groups and price, each
    view has an address of its own, and every number opens to the commands that measured it.

    `rolloutbench leaderboard results/learning_default results/learning_all --out leaderboard.html`
    """
    from rolloutbench.analysis.leaderboard import write  # with jinja2

    write([open_results(directory) for directory in directories], out)
    tables.console().print(str(out), soft_wrap=True)


def merge(
    directories: Annotated[list[Path], typer.Argument(help="Studies under the same conditions.")],
    out: Out = Path("rolloutbench-merged"),
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Join studies that were run apart: all their allocators, scenarios and replicates in one.

    They must agree in everything else. Cells are taken as they are; where the merged study has some that
    no part has, it says which command runs them.

    `rolloutbench merge laptop/sweep cluster/sweep --out sweep`
    """
    store = merge_studies(directories, out, command=command_line(), overwrite=overwrite)
    for line in store.undrawn:
        say(line)
    missing, total = len(store.missing()), len(store.manifest.cells)
    if missing:
        command = store.manifest.study["config"]["study"]
        say(
            f"{missing} of {total} cells are in none of them: rolloutbench {command} "
            f"--config {out / 'study.toml'} --out {out} runs those, and keeps the others"
        )
        raise typer.Exit(1)
    _show(open_results(out), as_json)
