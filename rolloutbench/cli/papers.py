"""The commands `figures` and `claims`: the papers beside what is measured here."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated

import typer

from paper_figures.sources import RESULTS, Sources
from rolloutbench import api
from rolloutbench.analysis import tables
from rolloutbench.cli.completion import names_of
from rolloutbench.cli.making import made_directory
from rolloutbench.cli.options import AsJson, Jobs, Memory
from rolloutbench.cli.results import command_line
from rolloutbench.errors import InputError

Again = Annotated[
    bool,
    typer.Option(
        "--run",
        help="Run the studies anew, into OUT/studies; without it, results that were recorded are read. What "
        "is finished is kept.",
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="What is computed on the spot, less precisely; with --run, studies of 16 replicates and 20 "
        "steps: to see that everything works, not to quote.",
    ),
]
Recorded = Annotated[
    Path | None,
    typer.Option(
        "--results",
        help="Where studies were recorded. Default: results/ of the checkout; an installed package has none.",
        show_default=False,
    ),
]


def figures(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Figures by name, or all of a paper: vip, ar3po, pilot_commit, dapo, reinforce_ada, "
            "coba_rl, knapsack, ours. Default: everything.",
            show_default=False,
            autocompletion=names_of("figure"),
        ),
    ] = None,
    again: Again = False,
    quick: Quick = False,
    recorded: Recorded = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Directory for what figures and claims read of each study and no more, as in results/.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    memory: Memory = None,
    out: Annotated[Path, typer.Option(help="Directory for the files.")] = Path("rolloutbench-figures"),
) -> None:
    """Redraw the papers' figures and tables from what is measured here.

    For each: PNG, PDF, a caption, and the CSV with every number that is drawn, intervals included. What a
    paper published stands behind ours in grey, where both exist. `OUT/README.md` shows them all.

    `rolloutbench figures vip --out figures`, `rolloutbench figures pilot_commit_fig1 --run`
    """
    from paper_figures import claims as judging
    from paper_figures import gallery  # with matplotlib, which takes a second

    wanted = gallery.choose(names or [])
    sources = _sources(gallery.runnable_studies(wanted), again, quick, recorded, jobs, memory, out)
    if keep is not None and keep.resolve() == sources.directory.resolve():
        raise InputError(f"--keep {keep}: the studies are read from there")
    with contextlib.ExitStack() as made:
        if keep is not None:
            made.enter_context(made_directory("--keep", keep))
        made.enter_context(made_directory("--out", out))
        console = tables.console()
        captions: dict[str, str] = {}
        for figure in wanted:
            with tables.status("figures") as say:
                say(f"drawing {figure.name}")
                captions[figure.name] = gallery.write(figure, sources, out)
            console.print(f"{out / figure.name}.png  {figure.title}", soft_wrap=True)
        gallery.write_index(captions, out, command_line())
        if keep is not None:
            judging.judge_all(judging.claims_in(), sources)  # which read numbers of their own
            for study in gallery.runnable_studies(wanted):
                sources.keep(study, keep / study)


def claims(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Claims, or all of a paper: `vip`, `vip-gain`. Default: all.",
            show_default=False,
            autocompletion=names_of("claim"),
        ),
    ] = None,
    again: Again = False,
    quick: Quick = False,
    recorded: Recorded = None,
    jobs: Jobs = None,
    memory: Memory = None,
    as_json: AsJson = False,
    out: Annotated[Path, typer.Option(help="Directory for claims.md and claims.csv.")] = Path(
        "rolloutbench-claims"
    ),
) -> None:
    """Put the papers' claims to the test: what is claimed, what is measured here, and the verdict.

    The claims stand in `paper_figures/claims.toml`, each with the number that tests it. A condition (a
    scenario) supports a claim where the whole 95% interval is on the claimed side. Reproduced: all
    conditions support it, and where a size is claimed, the interval of their mean meets it. Partly: some
    do, or the size is another. Not: none does. Not testable here: no simulation could say.

    `rolloutbench claims pilot_commit`, `rolloutbench claims vip-gain --run`
    """
    from paper_figures import claims as judging

    wanted = judging.choose(judging.claims_in(), names or [])
    sources = _sources(judging.runnable_studies(wanted), again, quick, recorded, jobs, memory, out)
    with made_directory("--out", out):
        with tables.status("claims") as say:
            say("reading results")
            verdicts = judging.judge_all(wanted, sources)
        judging.write(verdicts, out)
    if as_json:
        print(json.dumps([verdict.as_json() for verdict in verdicts], indent=1))
        return
    console = tables.console()
    tables.show(console, [judging.table(verdicts)])
    console.print(f"table  {out / 'claims.md'}\ndata   {out / 'claims.csv'}", soft_wrap=True)


def _sources(
    studies: list[str],
    again: bool,
    quick: bool,
    recorded: Path | None,
    jobs: int | None,
    memory: float | None,
    out: Path,
) -> Sources:
    """Recorded studies, or those that are run first."""
    from paper_figures import gallery

    if not again:
        return Sources(recorded or RESULTS, quick)
    if recorded is not None:
        raise InputError(f"--results {recorded}: goes without --run, which makes new ones")
    for study in studies:
        description = gallery.description(study, quick)
        where = out / "studies" / study
        api.run(description, where, api.Execution(jobs, memory), command=command_line())
    return Sources(out / "studies", quick)
