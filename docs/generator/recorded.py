"""What pages can ask for: tables, answers, figures, claims, read from `results/` when the site is built."""

from __future__ import annotations

import functools
import html
import posixpath
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import situations
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from paper_figures import claims, ours
from paper_figures.gallery import FIGURES
from paper_figures.sources import Sources
from rolloutbench.analysis import leaderboard
from rolloutbench.analysis.answer import Answer, answer
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.tables import Sheet, as_code, plain
from rolloutbench.studies.kinds import open_results
from rolloutbench.tabular import read_table


@functools.cache
def study(root: Path, name: str) -> Results:
    """The results of a recorded study. Raises InputError where there are none."""
    return open_results(root / "results" / name)


def training_runs(root: Path) -> list[Results]:
    """All recorded studies of training runs, simulated or real, by name; not those about one method."""
    names = [path.parent.name for path in sorted((root / "results").glob("*/manifest.json"))]
    found = [study(root, name) for name in names if name not in ours.OF_ONE]
    return [results for results in found if results.kind in leaderboard.KINDS]


@functools.cache
def sheets(root: Path, name: str) -> list[Sheet]:
    """The tables of a recorded study."""
    return study(root, name).tables()


@functools.cache
def short_answer(root: Path, name: str) -> Answer:
    """The short answer that a recorded study gives. Raises ValueError where nobody can be compared in it."""
    found = answer(study(root, name))
    if found is None:
        raise ValueError(f"{name}: nobody can be compared with uniform")
    return found


@functools.cache
def verdicts() -> list[claims.Judged]:
    """All claims, judged by what is recorded."""
    return claims.judge_all(claims.claims_in(), Sources(quick=True))


def as_html(sheet: Sheet) -> str:
    """A sheet as an HTML table of one line, with its caption as a paragraph below."""
    table = replace(sheet, title="", caption="").html()
    said = f'\n\n<p class="said">{html.escape(sheet.caption)}</p>' if sheet.caption else ""
    return f"\n\n{table}{said}\n\n"


def escaped(text: str) -> str:
    """Prose in which Markdown finds no markup."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>])", lambda found: f"&#{ord(found[0])};", text)


class Recorded:
    """What one page asks for. Figures that it shows become files of the site."""

    def __init__(self, root: Path, file: File, files: Files, config: MkDocsConfig) -> None:
        self._root, self._file, self._files, self._config = root, file, files, config

    def table(self, name: str, title: str) -> str:
        """A table of a study, of a scenario or `all scenarios`. Raises KeyError where there is none."""
        found = {sheet.title: sheet for sheet in sheets(self._root, name)}
        return as_html(found[title])

    def scenarios(self, name: str) -> list[str]:
        """The scenarios of a study."""
        return study(self._root, name).shown_scenarios()

    def recorded(self, name: str) -> bool:
        """Whether a study of this name is recorded."""
        return (self._root / "results" / name / "manifest.json").is_file()

    def headline(self, name: str) -> str:
        """The short answer of a study in a sentence, in bold, and its conditions."""
        found = short_answer(self._root, name)
        return f"\n\n**{escaped(found.lead)}** {escaped(found.conditions)}\n\n"

    def answer(self, name: str) -> str:
        """The short answer of a study: who did best, everybody by verdict, and notes."""
        found = short_answer(self._root, name)
        camps = ""
        for camp in found.camps:
            members = (f"{as_code(name)} {escaped(number)}" for name, number in camp.members.items())
            camps += f"- {camp.heading}: {'; '.join(members)}.\n"
        notes = "\n\n".join(map(escaped, [*found.notes, found.caution]))
        return f"{self.headline(name)}{camps}\n{notes}\n\n"

    def command(self, name: str) -> str:
        """The command that recorded a study, in a box, with the version and commit that it ran."""
        record = study(self._root, name).record
        told = f"Recorded with rolloutbench {record['version']}, commit {record['commit'] or 'unknown'}."
        return f'\n\n```sh\n{record["command"]}\n```\n\n<p class="said">{told}</p>\n\n'

    def figure(self, path: str, alt: str) -> str:
        """A recorded picture below `results/`, which is copied into the site."""
        source = self._root / "results" / path
        if not source.is_file():
            raise FileNotFoundError(source)
        place = f"results/{path}"
        if self._files.get_file_from_path(place) is None:
            self._files.append(File.generated(self._config, place, abs_src_path=str(source)))
        return f"![{alt}]({posixpath.relpath(place, posixpath.dirname(self._file.src_uri) or '.')})"

    def figures(self) -> str:
        """All redrawn figures of the papers, each with its title below."""
        shown = [
            f"{self.figure(f'figures/{name}.png', name)}\n\n"
            f'<p class="said">{html.escape(one.title)} ({name})</p>'
            for name, one in FIGURES.items()
            if (self._root / "results" / "figures" / f"{name}.png").is_file()
        ]
        return "\n\n".join(shown)

    def situations(self) -> str:
        """The table of situations, as README has it, with links within the site."""
        up = posixpath.relpath(".", posixpath.dirname(self._file.src_uri) or ".")
        return f"\n\n{situations.table(training_runs(self._root)).replace(situations.SITE, f'{up}/')}\n\n"

    def claims(self, *names: str) -> str:
        """The table of these claims with their verdicts, or of all."""
        return as_html(claims.table(one for one in verdicts() if not names or one.name in names))

    def claims_counted(self) -> str:
        """How many claims there are, and how many got each verdict."""
        found = [one.verdict for one in verdicts()]
        told = ", ".join(f"{found.count(word)} {said}" for word, said in COUNTED.items())
        return f"Of {len(found)} claims, {told}."

    def csv(self, path: str, *columns: str, **only: str) -> str:
        """Some columns of a recorded file of numbers below `results/`, of the rows in which `only` is so."""
        rows = read_table(self._root / "results" / path)
        for column, value in only.items():
            rows = rows[rows[column] == value]
        return as_html(plain("", rows[list(columns)], ""))

    def text(self, path: str) -> str:
        """A recorded text below `results/`, as it stands, in a box."""
        return f"\n\n```text\n{(self._root / 'results' / path).read_text().rstrip()}\n```\n\n"

    def code(self, path: str) -> str:
        """A file of the repository in a box."""
        kind = {".py": "python", ".toml": "toml", ".sh": "sh"}[Path(path).suffix]
        return f"\n\n```{kind}\n{(self._root / path).read_text().rstrip()}\n```\n\n"

    def page(self, path: str) -> str:
        """A page of the repository below its first heading; links in it begin at the repository's root."""
        whole = (self._root / path).read_text()
        up = posixpath.relpath(".", posixpath.join("docs", posixpath.dirname(self._file.src_uri)))
        body = re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({up}/\1)", whole.partition("\n")[2])
        return textwrap.dedent(body)


COUNTED: dict[claims.Verdict, str] = {
    "reproduced": "are reproduced",
    "partly": "partly",
    "not": "not",
    "not testable here": "cannot be tested here",
}
"""Verdicts in words, in the order in which they are counted."""
