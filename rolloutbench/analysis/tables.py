"""Tables as plain data that show themselves: in a terminal of any width, as Markdown, as HTML, as text.

Whoever has a table to show makes a `Sheet`. In a terminal a sheet fits the width: names and prose fold, then
columns are left out in the stated order of priority, and a line below says which. A number is never cut.
What goes to no terminal has all columns.
"""

from __future__ import annotations

import contextlib
import csv
import html
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from rolloutbench.analysis.metrics import TUNED_PREFIX, describe, untuned
from rolloutbench.analysis.yardsticks import bounds_said, is_bound
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.errors import InputError
from rolloutbench.registry import Entry, nearest
from rolloutbench.text import cleaned

WIDTH = 144
"""Width in characters of tables written to a file or a pipe; a table that needs more has more."""
LONGEST = 44
"""Width in characters at which a name folds, however wide the terminal is."""
SHORTEST = 16
"""Width in characters to which a name may be folded before a column is left out."""
PROSE = 12
"""Width in characters to which prose and headings may be folded before a column is left out."""

FEW = 8
"""Width in characters to which names and prose may be folded where nothing is left to leave out."""

TONES = {
    "better": "green",
    "worse": "red",
    "changed": "yellow",
    "unchanged": "dim",
    "same": "dim",
    "agrees": "green",
    "contradicts": "red",
    "undecided": "yellow",
    "reproduced": "green",
    "partly": "yellow",
    "not": "red",
    "baseline": "bold",
    "bound": "italic",
}
"""How the terminal shows a tone; a tone that is not here is shown as plain text."""


# A table


class Shown(NamedTuple):
    """What stands in one place of a table: text, and a tone that says what the text means for the reader.

    The tone of a verdict is its word; that of a heat map's number is a word and a strength, as `better-2`.
    """

    text: str
    tone: str = ""

    @property
    def estimate(self) -> str:
        """The number without its interval."""
        return re.split(r" (?=[±\[])", self.text)[0]

    @property
    def interval(self) -> str:
        """`±` half of the interval, or `[both ends]`, where there is one."""
        return self.text.removeprefix(self.estimate).strip()

    @property
    def value(self) -> float | None:
        """The number to sort by, None where the text is no number."""
        try:
            return float(self.estimate)
        except ValueError:
            return None


class Heading(NamedTuple):
    """The head of a column, and what the column holds.

    `kind` says how the column gives way: a number and a key never, a name at its brackets and commas, words
    at their spaces. Columns of `priority` 0 are always shown; of the others the largest is left out first.
    `metric` is the one that the column shows, and `order` how the rows are sorted by it, both empty where
    that does not apply.
    """

    text: str
    kind: Literal["number", "key", "name", "words"] = "number"
    priority: int = 0
    metric: str = ""
    order: Literal["", "ascending", "descending"] = ""

    @property
    def line(self) -> str:
        """The heading's text in one line."""
        return " ".join(self.text.split())


@dataclass(frozen=True)
class Sheet:
    """A table of plain values: rows of as many `Shown` as there are headings; see `sheet`, which makes one.

    `breaks` are the rows after which a gap stands. `print(sheet)` has the text of all columns,
    `Console.print(sheet)` what fits that console, and a notebook shows the HTML.
    """

    title: str
    headings: tuple[Heading, ...]
    rows: tuple[tuple[Shown, ...], ...]
    caption: str = ""
    breaks: frozenset[int] = frozenset()

    def column(self, metric: str) -> dict[str, str]:
        """The texts of the column that shows `metric`, by the names in the first column."""
        place = [heading.metric for heading in self.headings].index(metric)
        return {row[0].text: row[place].text for row in self.rows}

    def text(self, width: int | None = None) -> str:
        """The table as a terminal of so many characters shows it; without a width, with all columns."""
        shown = max(WIDTH, self.needs) if width is None else width
        console = Console(file=io.StringIO(), width=shown, no_color=True, highlight=False, markup=False)
        console.print(self, crop=False)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def markdown(self) -> str:
        """The table alone, without title and caption, as GitHub reads it."""
        ends = [":" if self._is_numeric(place) else "" for place in range(len(self.headings))]
        lines = [[escaped(heading.text) for heading in self.headings], [f"---{end}" for end in ends]]
        for row in self.rows:
            names = [heading.kind in ("key", "name") for heading in self.headings]
            lines.append(
                [
                    as_code(one.text).replace("|", "\\|") if is_name and one.text else escaped(one.text)
                    for is_name, one in zip(names, row, strict=True)
                ]
            )
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def section(self) -> str:
        """Title, table and caption as GitHub reads them."""
        caption = "\n".join(map(escaped, self.caption.splitlines()))
        return "\n\n".join(part for part in (f"## {escaped(self.title)}", self.markdown(), caption) if part)

    def latex(self) -> str:
        """A `tabular` with the rules of booktabs; title and caption stand before it as comments."""
        about = "".join(f"% {line}\n" for line in f"{self.title}\n{self.caption}".splitlines() if line)
        sides = "".join("r" if self._is_numeric(place) else "l" for place in range(len(self.headings)))

        def cell(shown: Shown, heading: Heading) -> str:
            text = _in_latex(" ".join(shown.text.split()))
            return f"\\texttt{{{text}}}" if heading.kind in ("key", "name") and text else text

        head = " & ".join(_in_latex(heading.line) for heading in self.headings)
        lines = [f"\\begin{{tabular}}{{{sides}}}", "\\toprule", f"{head} \\\\", "\\midrule"]
        for number, row in enumerate(self.rows):
            cells = (cell(one, heading) for one, heading in zip(row, self.headings, strict=True))
            lines.append(f"{' & '.join(cells)} \\\\" + " \\addlinespace" * (number in self.breaks))
        return about + "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])

    def csv(self) -> str:
        """The table alone, as comma-separated values with a line of headings."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([heading.line for heading in self.headings])
        writer.writerows([[" ".join(one.text.split()) for one in row] for row in self.rows])
        return file.getvalue().rstrip("\n")

    def only(self, names: Collection[str] = (), columns: Collection[str] = ()) -> Sheet:
        """The rows with these names in the first column, and the first and these columns; () stands for all.

        A table in whose first column none of the names stands keeps its rows. Raises InputError where a
        column does not exist.
        """
        known = [heading.line for heading in self.headings]
        for wanted in columns:
            if wanted not in known:
                raise InputError(f"column '{wanted}': {nearest(wanted, known)}")
        places = [p for p, line in enumerate(known) if p == 0 or not columns or line in columns]
        kept = [row for row in self.rows if row[0].text in names] or list(self.rows)
        return replace(
            self,
            headings=tuple(self.headings[place] for place in places),
            rows=tuple(tuple(row[place] for place in places) for row in kept),
            breaks=self.breaks if len(kept) == len(self.rows) else frozenset(),
        )

    def html(self) -> str:
        """A `<table>` with everything escaped, the title above and the caption below."""

        def cell(tag: str, shown: Shown, place: int) -> str:
            side = "right" if self._is_numeric(place) else "left"
            tone = f' class="{html.escape(shown.tone)}"' if shown.tone else ""
            text = html.escape(shown.text).replace("\n", "<br>")
            return f'<{tag}{tone} style="text-align: {side}">{text}</{tag}>'

        def line(tag: str, row: Iterable[Shown]) -> str:
            return f"<tr>{''.join(cell(tag, shown, place) for place, shown in enumerate(row))}</tr>"

        head = line("th", (Shown(heading.text) for heading in self.headings))
        body = "".join(line("td", row) for row in self.rows)
        title = f'<caption style="text-align: left">{html.escape(self.title)}</caption>' if self.title else ""
        caption = html.escape(self.caption).replace("\n", "<br>")
        foot = f'<tr><td colspan="{len(self.headings)}" style="text-align: left">{caption}</td></tr>'
        return (
            f"<table>{title}<thead>{head}</thead><tbody>{body}</tbody>"
            f"{f'<tfoot>{foot}</tfoot>' if caption else ''}</table>"
        )

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        places, widths = self._fitted(width)
        if self.title:
            yield Text("\n".join(folded(self.title, width)), style="table.title")
        yield self._table(places, widths)
        notes = [self.caption] if self.caption else []
        left_out = [heading.line for place, heading in enumerate(self.headings) if place not in places]
        if left_out:
            notes.append(f"Left out at a width of {width}: {', '.join(left_out)}; all fit into {self.needs}.")
        lines = [part for note in notes for line in note.split("\n") for part in folded(line, width)]
        if lines:
            yield Text("\n".join(lines), style="table.caption")

    # How it fits

    @property
    def needs(self) -> int:
        """The least width in characters at which no column is left out."""
        return _total(self._least(place) for place in range(len(self.headings)))

    def _fitted(self, width: int) -> tuple[list[int], list[int]]:
        """The columns that fit, and their widths in characters: what each needs and a part of what is left.

        Where the columns that are always shown need more, numbers part from their intervals and names fold
        further; a table that is still too wide stays so.
        """
        places = list(range(len(self.headings)))
        while _total(map(self._least, places)) > width:
            last = max(reversed(places), key=lambda place: self.headings[place].priority)
            if not self.headings[last].priority:
                break
            places.remove(last)
        least, most = [self._least(place) for place in places], [self._most(place) for place in places]
        if _total(least) > width:
            least, most = [self._longest_word(place) for place in places], least
        wanted, spare = sum(most) - sum(least), max(width - _total(least), 0)
        if wanted <= spare:
            return places, most
        share = [(high - low) * spare // wanted for low, high in zip(least, most, strict=True)]
        return places, [low + part for low, part in zip(least, share, strict=True)]

    def _texts(self, place: int) -> list[str]:
        """The lines of text in one column of the table, without its heading."""
        return [line for row in self.rows for line in row[place].text.split("\n")]

    def _least(self, place: int) -> int:
        """The least width in characters at which a column says what it has to."""
        heading, texts = self.headings[place], self._texts(place)
        head = max(min(PROSE, cell_len(line)) for line in heading.text.split("\n"))
        if heading.kind in ("number", "key"):
            return max([head, *map(cell_len, texts)])
        words = [word for text in texts for word in text.split()]
        numbers = map(cell_len, _numbers(words))
        fold = SHORTEST if heading.kind == "name" else PROSE
        whole = map(cell_len, texts if heading.kind == "name" else words)
        return max([head, *numbers, min(fold, max(whole, default=0))])

    def _longest_word(self, place: int) -> int:
        """The width in characters of what must stay whole in a column: its numbers, and a few letters."""
        words = [word for text in self._texts(place) for word in text.split()]
        prose = self.headings[place].text.split()
        if self.headings[place].kind in ("name", "words"):
            prose += words
            words = _numbers(words)
        few = (min(FEW, cell_len(word)) for word in prose)
        return max([1, *few, *map(cell_len, words)])

    def _most(self, place: int) -> int:
        """The width in characters above which a column gains nothing."""
        heading = self.headings[place]
        wide = max(map(cell_len, self._texts(place)), default=0)
        if heading.kind == "name":
            wide = min(wide, LONGEST)
        return max([self._least(place), wide, *map(cell_len, heading.text.split("\n"))])

    def _table(self, places: Sequence[int], widths: Sequence[int]) -> Table:
        """What rich prints: every text is folded here, so that rich has nothing to cut."""
        table = Table(box=SIMPLE_HEAD, width=_total(widths))
        for place, wide in zip(places, widths, strict=True):
            heading = self.headings[place]
            side: Literal["left", "right"] = "right" if heading.kind == "number" else "left"
            table.add_column(Text(_folded_lines(heading.text, wide)), width=wide, justify=side, no_wrap=True)
        for number, row in enumerate(self.rows):
            cells = [
                Text(_folded_lines(row[place].text, wide), style=TONES.get(row[place].tone, ""))
                for place, wide in zip(places, widths, strict=True)
            ]
            table.add_row(*cells, end_section=number in self.breaks)
        return table

    def _is_numeric(self, place: int) -> bool:
        return self.headings[place].kind == "number" and any(
            row[place].value is not None for row in self.rows
        )


def sheet(
    title: str,
    headings: Iterable[Heading],
    rows: Iterable[Iterable[str | Shown]],
    caption: str = "",
    breaks: Collection[int] = (),
) -> Sheet:
    """A table of texts, where those without a tone may be mere strings.

    Raises ValueError where a row has not one text a heading.
    """
    headings = tuple(headings)
    whole = tuple(
        tuple(one if isinstance(one, Shown) else Shown(one) for one, _ in zip(row, headings, strict=True))
        for row in rows
    )
    return Sheet(title, headings, whole, caption, frozenset(breaks))


NUMBER = re.compile(r"[(\[+±-]*\d[\d.,]*(e[+-]?\d+)?[%x]?[)\[\].,;:]*", re.IGNORECASE)
"""A word that is a number, perhaps in brackets, with a sign, a unit or a comma."""
JOINTS = re.compile(r"(?<=[\[,=_/:])|(?<=-)(?=[a-z])")
"""Places in a spec or a path where it may be folded."""


def _numbers(words: Iterable[str]) -> list[str]:
    """The words that are numbers, and the numbers in specs, such as `0.2]` of `oracle[std=0.2]`."""
    return [piece for word in words for piece in JOINTS.split(word) if NUMBER.fullmatch(piece)]


def folded(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters: broken at spaces, else at a name's joints, else anywhere."""
    lines, line = [], ""
    for word in re.findall(r"\s*\S+", text):
        if line and cell_len(line + word) > width:
            lines.append(line)
            line, word = "", word.lstrip()
        if cell_len(line + word) <= width:
            line += word
            continue
        for joint in JOINTS.split(word):
            for piece in [joint] if cell_len(joint) <= width else chop_cells(joint, width):
                if line and cell_len(line + piece) > width:
                    lines.append(line)
                    line = ""
                line += piece
    return [*lines, line]


def _folded_lines(text: str, width: int) -> str:
    return "\n".join(part for line in text.split("\n") for part in folded(line, width))


def _total(widths: Iterable[int]) -> int:
    """Width in characters of a whole table: a space on either side of each column, and between them."""
    widths = list(widths)
    return sum(widths) + 3 * len(widths) + 1


def escaped(text: str) -> str:
    """Text in which GitHub finds neither markup, links nor the end of a table's cell."""
    return re.sub(r"([\\`*_<>|~#&]|\](?=[(\[:]))", r"\\\1", cleaned(" ".join(text.split())))


def as_code(text: str) -> str:
    """A name or a command as Markdown that shows it as it is typed."""
    text = cleaned(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


# Where it is shown


LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}
"""Characters that LaTeX reads as something else, and how they are written."""


def _in_latex(text: str) -> str:
    """Text with every character as LaTeX prints it."""
    return "".join(LATEX.get(letter, letter) for letter in text)


class CleanConsole(Console):
    """A console that shows `?` for what is hidden in names: they may come from somebody else's files."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Segments as rich makes them, each cleaned; those that steer the terminal are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=cleaned(segment.text, "\n"))


def console(stderr: bool = False) -> Console:
    """A console for the terminal, or a plain one of `WIDTH` characters where the output is no terminal."""
    made = CleanConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if made.is_terminal:
        return made
    return CleanConsole(stderr=stderr, width=WIDTH, highlight=False, markup=False, emoji=False, no_color=True)


def show(out: Console, sheets: Iterable[Sheet]) -> None:
    """Print tables with an empty line after each: fitted to a terminal, whole where nobody is looking."""
    for each in sheets:
        if out.is_terminal:
            out.print(each, crop=False)
        else:
            out.file.write(cleaned(each.text(), "\n"))
        out.print()


def say(out: Console, lines: Iterable[str]) -> None:
    """Print sentences, folded to the width, and an empty line below them if there are any."""
    told = "\n".join(_folded_lines(line, out.width) for line in lines)
    if told:
        out.print(f"{told}\n")


@contextlib.contextmanager
def status(command: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: one line that changes on a terminal, a line each elsewhere."""
    told = console(stderr=True)
    if not told.is_terminal:
        yield lambda text: told.print(f"{command}: {text}", soft_wrap=True)
        return
    with told.status(command) as shown:
        yield lambda text: shown.update(f"{command}: {text}")


def as_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, ready for JSON: plain Python values, None where a number is not finite."""
    rows = frame.astype(object).to_dict("records")
    return [{str(name): plain_value(value) for name, value in row.items()} for row in rows]


def plain_value(value: Any) -> Any:
    """A single value ready for JSON: a plain Python one, None for a number that is not finite."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    return None if plain is pd.NA or plain is pd.NaT else plain


# Comparisons


class Column(NamedTuple):
    """A column of a comparison: a metric's `ratio` to uniform, its `difference` in points, or its `level`.

    `priority` is that of its `Heading`; a level is shown `scale` times.
    """

    metric: str
    heading: str
    shown: Literal["ratio", "difference", "level"]
    digits: int = 3
    priority: int = 1
    scale: float = 1.0


SNAPSHOT_COLUMNS = (
    Column("snr", "SNR\nratio", "ratio", priority=1),
    Column("mse", "MSE\nratio", "ratio", priority=2),
    Column("noise_variance", "noise var.\nratio", "ratio", priority=6),
    Column("effective_ratio", "effective\ngroups", "level", priority=5),
    Column("wasted_ratio", "wasted\nrollouts", "level", priority=4),
    Column("generated_per_prompt", "rollouts\nper prompt", "level", priority=3),
)
LEARNING_COLUMNS = (
    Column("rollouts_to_50", "rollouts\nto 50%", "ratio", 2, priority=5),
    Column("rollouts_to_90", "rollouts\nto 90%", "ratio", 2, priority=2),
    Column("seconds_to_90", "seconds\nto 90%", "ratio", 2, priority=3),
    Column("area_over_rollouts", "area over\nrollouts", "ratio", priority=1),
    Column("accuracy_at_rollouts", "points at\n= rollouts", "difference", 1, priority=4),
    Column("accuracy_at_steps", "points at\n= steps", "difference", 1, priority=7),
    Column("wasted_ratio", "wasted\nrollouts", "level", 2, priority=6),
    Column("rollouts_per_step", "rollouts\nper step", "level", 0, priority=8),
)
TUNED_COLUMNS = (
    Column(f"{TUNED_PREFIX}rate", "learning\nrate x", "level", 2, priority=2),
    *(
        column._replace(metric=TUNED_PREFIX + column.metric)
        for column in LEARNING_COLUMNS
        if column.metric not in ("accuracy_at_steps", "rollouts_per_step")
    ),
    Column("area_over_rollouts", "area at the\ncommon rate", "ratio", priority=2),
)
PREDICTION_COLUMNS = (
    Column("mae_first_epoch", "MAE\n1st epoch", "level", priority=3),
    Column("calibration_error_first_epoch", "calibr.\n1st epoch", "level", 2, priority=8),
    Column("rank_correlation_first_epoch", "rank corr.\n1st epoch", "level", 2, priority=7),
    Column("mae_later", "MAE\nlater", "level", priority=2),
    Column("brier_later", "Brier\nlater", "level", priority=1),
    Column("log_loss_later", "log loss\nlater", "level", 2, priority=5),
    Column("calibration_error_later", "calibr.\nlater", "level", 2, priority=6),
    Column("rank_correlation_later", "rank corr.\nlater", "level", 2, priority=4),
)


def comparison(
    summary: pd.DataFrame,
    scenario: str,
    sort: str,
    caption: str,
    columns: Sequence[Column] = SNAPSHOT_COLUMNS,
    who: str = "allocator",
) -> Sheet:
    """One scenario of a `Results.summary`: everyone against uniform, best first by the metric `sort`.

    However narrow the table is, it has the column of `sort`.
    """
    here = summary[summary.scenario == scenario]
    if sort not in [column.metric for column in columns]:
        columns = [Column(sort, f"{describe(untuned(sort)).label}\nratio", "ratio"), *columns]
    by_metric = {  # one whose metric is never defined has no row in the summary, but one here
        metric: here[here.metric == metric].set_index("allocator").reindex(here.allocator.unique())
        for metric in (sort, *(column.metric for column in columns))
    }
    sign = describe(sort).sign
    ranked_by = by_metric[sort].ratio if by_metric[sort].ratio.notna().any() else by_metric[sort].estimate
    ranking = ranked_by.sort_values(ascending=sign < 0, kind="stable")
    order: Literal["ascending", "descending"] = "ascending" if sign < 0 else "descending"
    headings = [
        *(Heading(who, "name"), Heading("against\nuniform", "words")),
        *(
            Heading(column.heading, "number", 0, column.metric, order)
            if column.metric == sort
            else Heading(column.heading, "number", column.priority, column.metric)
            for column in columns
        ),
    ]
    rows: list[list[str | Shown]] = []
    for allocator in ranking.index:
        ratio = by_metric[sort].loc[allocator]
        said = "" if allocator == BASELINE else verdict(ratio.ratio_low, ratio.ratio_high, sign)
        numbers = [_measured(by_metric[column.metric].loc[allocator], column) for column in columns]
        rows.append([named(allocator), Shown(said, said), *numbers])
    return sheet(scenario, headings, rows, _lines(caption, bounds_said(map(str, ranking.index))))


def across_scenarios(ranking: pd.DataFrame, caption: str, who: str = "allocator") -> Sheet:
    """Everyone over all scenarios at once, best mean rank first; see `curves.across_scenarios`."""
    critical = ranking.critical_difference.iloc[0]
    apart = f"mean ranks differ where they are more than {critical:.2f} apart (Nemenyi, 95%)"
    headings = [
        *(Heading(who, "name"), Heading("mean\nrank", order="ascending")),
        *(Heading("beats\nuniform", priority=1), Heading("mean of\nratios")),
        Heading("mean of\nIQM ratios", priority=2),
    ]
    rows: list[list[str | Shown]] = [
        [
            named(str(row.allocator)),
            f"{row.mean_rank:.2f}",
            ""
            if row.allocator == BASELINE
            else f"{row.better:.2f} [{row.better_low:.2f}, {row.better_high:.2f}]",
            f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]",
            f"{row.iqm_ratio:.3f} [{row.iqm_ratio_low:.3f}, {row.iqm_ratio_high:.3f}]",
        ]
        for row in ranking.itertuples()
    ]
    said = _lines(caption, apart, bounds_said(map(str, ranking.allocator)))
    return sheet("all scenarios", headings, rows, said)


def across_conditions(rankings: Mapping[str, pd.DataFrame], caption: str) -> Sheet:
    """How everyone's rank moves with the condition: mean ratio to uniform, and place by it, under each.

    `rankings` are those of `curves.across_scenarios` by condition; the best mean place stands first.
    """
    tables = [ranking.set_index("allocator").rename(index=str) for ranking in rankings.values()]
    sign = describe(str(tables[0].metric.iloc[0])).sign or 1
    common = [name for name in tables[0].index if all(name in one.index for one in tables)]
    places = [(sign * one.loc[common].ratio).rank(ascending=False) for one in tables]
    mean = pd.concat(places, axis=1).mean(axis=1).sort_values(kind="stable")
    headings = [Heading("allocator", "name"), Heading("mean\nplace", order="ascending")]
    headings += [Heading(key.replace("-", "\n"), priority=1 + place) for place, key in enumerate(rankings)]
    rows: list[list[str | Shown]] = []
    for name in map(str, mean.index):
        row: list[str | Shown] = [named(name), f"{mean.loc[name]:.1f}"]
        for one, placed in zip(tables, places, strict=True):
            low, high = one.ratio_low.loc[name], one.ratio_high.loc[name]
            text = f"{one.ratio.loc[name]:.2f} [{low:.2f}, {high:.2f}] #{placed.loc[name]:.0f}"
            row.append(Shown(text, verdict(low, high, sign)))
        rows.append(row)
    said = _lines(
        f"mean over scenarios of the ratio to {BASELINE} under each condition, and the place; {caption}",
        bounds_said(common),
    )
    return sheet("conditions", headings, rows, said)


def verdict(low: float, high: float, sign: int) -> str:
    """What the interval of a ratio to uniform says of an allocator: better, worse, even or n/a."""
    if not np.isfinite([low, high]).all():
        return "n/a"
    if low <= 1 <= high:
        return "even"
    return "better" if (low > 1) == (sign > 0) else "worse"


def named(spec: str) -> Shown:
    """The name of an allocator or predictor, with a tone where it is uniform or a bound."""
    return Shown(spec, "baseline" if spec == BASELINE else "bound" if is_bound(spec) else "")


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _measured(row: pd.Series, column: Column) -> str:
    if column.shown == "ratio":
        return number(row.ratio, row.ratio_high, column.digits)
    if column.shown == "difference":  # of accuracies, in percentage points
        return number(100 * row.difference, 100 * row.difference_high, column.digits, "+")
    return number(column.scale * row.estimate, column.scale * row.high, column.digits)


def number(estimate: float, high: float, digits: int, sign: str = "") -> str:
    """An estimate and half the width of its symmetric interval, which is left out where it is 0.

    `sign` is that of a format: "+" shows it for positive numbers too.
    """
    if not np.isfinite(estimate):
        return "n/a"
    half = high - estimate
    return f"{estimate:{sign}.{digits}f} ±{half:.{digits}f}" if half > 5e-7 else f"{estimate:.4g}"


# Other tables


def registered(kind: str, entries: Iterable[Entry]) -> Sheet:
    """One kind of thing that can be asked for by name."""
    title = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    headings = [Heading("name", "key"), Heading("what it is", "words"), Heading("parameters", "words")]
    return sheet(title, headings, ([one.name, one.summary, one.parameters] for one in entries))


def plain(title: str, rows: pd.DataFrame, caption: str, priorities: Mapping[str, int] | None = None) -> Sheet:
    """A frame as it is, with numbers to three digits; `priorities` are those of its columns, else 0."""
    texts = [
        [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row]
        for row in rows.itertuples(index=False)
    ]
    headings = [
        Heading(
            str(name).replace("_", " "),
            "number" if all(Shown(row[place]).value is not None for row in texts) else "words",
            (priorities or {}).get(str(name), 0),
        )
        for place, name in enumerate(rows)
    ]
    return sheet(title, headings, texts, caption)


def allocation(columns: Mapping[str, Sequence[str]], rows: int = 40) -> Sheet:
    """Texts by heading, such as the counts of prompts: at most `rows` of them, and dots for the rest."""
    whole: list[tuple[str, ...]] = list(zip(*columns.values(), strict=True))
    shown = whole[:rows] + [("...",) * len(columns)] * (len(whole) > rows)
    return sheet("", map(Heading, columns), shown)
