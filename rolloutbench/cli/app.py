"""The program: its commands, imported when they are asked for, and one clear line for what goes wrong."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from rolloutbench import __version__, failures
from rolloutbench.cli import debugging
from rolloutbench.cli.messages import fail, say
from rolloutbench.errors import InputError, Interrupted, NameTaken, ProtocolError
from rolloutbench.optional import brief_of, is_optional, load, name_missing
from rolloutbench.text import check_text

_MEMORY = ": more memory is expected, where there is a limit (ulimit -v)"
"""What most often keeps a library that is installed from being loaded."""
MOST_ARGUMENT = 10_000_000
"""Letters of an argument: `--p` takes a list of numbers."""


class _Place(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    function: str
    panel: str
    help: str


RUN, LOOK, FIT, OWN = "Run studies", "Look at results", "Simulation and reality", "Names and exact answers"
YOURS = "A method of your own"

COMMANDS = {
    "compare": _Place("studies:compare", RUN, "Compare allocators at equal cost in simulated training."),
    "predict": _Place("studies:predict", RUN, "Compare predictors of the success probability."),
    "recommend": _Place("recommending:recommend", RUN, "Which allocator to use, and how, in words."),
    "train": _Place("training:train", RUN, "Train a language model with each allocator, for real."),
    "record": _Place("training:record", RUN, "Record rewards and gradients of a language model's rollouts."),
    "show": _Place("results:show", LOOK, "Print the tables of a study again."),
    "plot": _Place("results:plot", LOOK, "Draw a figure of a study for a paper."),
    "report": _Place("results:report", LOOK, "Write a page that can be sent to a colleague."),
    "leaderboard": _Place(
        "results:leaderboard", LOOK, "Write one page on which all studies' allocators stand."
    ),
    "diff": _Place("results:diff", LOOK, "What changed between two studies."),
    "merge": _Place("results:merge", LOOK, "Join studies that were run apart."),
    "figures": _Place("papers:figures", LOOK, "Redraw the papers' figures from what is measured here."),
    "claims": _Place("papers:claims", LOOK, "Put the papers' claims to the test."),
    "import": _Place("importing:import_log", FIT, "What a run that already happened spent its rollouts on."),
    "fit": _Place("reality:fit", FIT, "Write the simulated study that is most like a real run."),
    "validate": _Place("reality:validate", FIT, "Does the simulator's ranking hold in a real run?"),
    "list": _Place("listing:list_registered", OWN, "Everything that has a name, with one line each."),
    "solve": _Place("solving:solve", OWN, "Allocate a budget over prompts, exactly."),
    "check": _Place("authoring:check", YOURS, "Does an allocator or predictor keep the contract?"),
    "new": _Place("authoring:new", YOURS, "Write a package with an allocator of your own."),
}
"""Commands by name, in the order of the help."""


class _Lazy(TyperGroup):
    """The commands as the help lists them; one is imported when it is run or completed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, place in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=place.help, rich_help_panel=place.panel)

    def resolve_command(self, context: Any, arguments: list[str]) -> tuple[Any, Any, list[str]]:
        """The command itself in the place of what the help lists."""
        name, found, rest = super().resolve_command(context, arguments)
        return name, _command(name) if name in COMMANDS else found, rest


@functools.cache
def _command(name: str) -> Any:
    """The command of this name, imported."""
    alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    alone.command(name)(load(f"{__package__}.{COMMANDS[name].function}"))
    return get_command(alone)


app = typer.Typer(
    cls=_Lazy,
    name="rolloutbench",
    help="Rollout allocators for RL with verifiable rewards, compared at equal cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def main() -> None:
    """Run the command line: one clear line and exit code 2 for wrong input, 1 for a broken allocator.

    With `--debug` anywhere among the arguments exceptions are let through, those of cells too.
    """
    with warnings.catch_warnings():
        _say_own_warnings()
        _run()


def _run() -> None:
    if debugging.take_option(sys.argv):
        sys.exit(app(standalone_mode=False) or 0)
    try:
        for argument in sys.argv[1:]:
            check_text(argument, "command line", most=MOST_ARGUMENT)
        code = app(standalone_mode=False) or 0
    except InputError as error:
        fail(str(error), 2)
    except ProtocolError as error:
        fail(str(error), 1)
    except typer.TyperException as error:
        fail(_misused(error), error.exit_code)
    except ImportError as error:
        if is_optional(error):
            fail(name_missing(error), 2)
        if error.path is None and error.name is not None:  # a part of the program itself is not there
            raise
        fail(f"a library cannot be loaded: {brief_of(error)}{_MEMORY}", 2)
    except MemoryError as error:
        fail(f"not enough memory: {error}", 2)
    except OSError as error:
        fail(str(error), 1)
    except Interrupted as error:
        fail(str(error), 130)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except Exception as error:
        fail(f"{failures.one_line(error)} ({failures.keep_traceback(error)} has the whole traceback)", 1)
    if code == 130:  # typer's own answer to Ctrl-C
        fail("interrupted", code)
    sys.exit(code)


def _say_own_warnings() -> None:
    """A warning of this program's is one line, as a note is; those of libraries stay Python's."""
    warnings.filterwarnings("always", category=NameTaken)
    python = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **where: Any) -> None:
        if issubclass(category, NameTaken):
            say(str(message), "warning")
        else:
            python(message, category, *place, **where)

    warnings.showwarning = show


def _misused(error: typer.TyperException) -> str:
    """What typer says of a wrong command line, and the value that it leaves out."""
    message = error.format_message().replace("Value error, ", "")
    if not message:  # no command: the help was shown
        sys.exit(error.exit_code)
    found = getattr(error.__cause__, "errors", None)  # of pydantic, by which typer checks
    if found is not None:
        given = found()[0]["input"]
        if f"'{given}'" not in message:
            option, _, rule = message.partition(": ")
            message = f"{option}: '{given}': {rule}"
    return message


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rolloutbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[  # taken out of the arguments by `main`, wherever it stands; here for the help
        bool,
        typer.Option(debugging.OPTION, help="With any command: run in this process, let exceptions through."),
    ] = False,
) -> None:
    pass
