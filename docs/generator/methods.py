"""A page for each allocator, made from what its code says of itself and from what is recorded of it.

The rule is the file's and the class's own words, the source its `Provenance`, the family line that of
rolloutbench/family.py, the picture its allocation curve, and the verdicts those of `results/learning_all`.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import curves
from recorded import as_html, escaped, study

from rolloutbench import family
from rolloutbench.allocators import allocators
from rolloutbench.analysis.answer import SAID, verdict_on
from rolloutbench.analysis.metrics import describe
from rolloutbench.analysis.results import Results
from rolloutbench.analysis.tables import Heading, Sheet, Shown, as_code, number, sheet
from rolloutbench.analysis.yardsticks import is_bound, is_yardstick, method_of
from rolloutbench.cells.collectors import BASELINE
from rolloutbench.estimators import estimators
from rolloutbench.objectives import objectives
from rolloutbench.predictors import predictors
from rolloutbench.registry import Registry

RECORDED = "learning_all", "prices"
"""The studies in which every method is compared."""
DOES = {
    "form": "decides",
    "predictor": "predictor",
    "goal": "is after",
    "hard_budget": "never above the budget",
    "chooses_prompts": "chooses prompts",
    "unbiased": "unbiased",
    "billed": "paid for, never trained on",
}
"""Columns of the family table that say what a method does, with their headings."""
WORDS = """
- **Decides.** *One shot*: counts are fixed before any reward. *One stage*: rewards decide only what is
  trained on. *Stages*: rewards of the step decide who gets further rollouts.
- **Predictor.** Where its guess of p comes from: a predictor by name, or a memory of its own.
- **Never above the budget.** Whether a step never generates more than it was given.
- **Chooses prompts.** Whether it may train on other prompts than the next ones, or on fewer.
- **Unbiased.** Whether the expected gradient is that of equal groups, with `rloo` and the mean over prompts.
"""


def pages(root: Path) -> Iterator[tuple[str, str | bytes]]:
    """Path and content of every page and picture: the family, its methods, predictors and other parts."""
    yield "methods/index.md", index()
    for name in allocators.builtin:
        yield f"methods/{name}.md", page(root, name)
        yield f"methods/{name}.svg", curves.drawn(name)
    yield "methods/parts.md", parts()


def index() -> str:
    """The family table, with links to the pages and papers."""
    members = family.members()
    headings = [Heading("allocator", "name"), *(Heading(said, "words") for said in DOES.values())]
    rows = [
        [one.allocator, *(getattr(one, name) for name in DOES), paper_of(one.paper), one.licence]
        for one in members
    ]
    table = as_html(
        sheet("", [*headings, Heading("paper", "words"), Heading("licence of its code", "words")], rows)
    )
    return (
        f"---\nhide: [toc]\n---\n\n# The family\n\n{len(members)} allocators side by side: what each does, "
        "by its own account. Tests hold them to it. Why others are missing: [Methods that are not here]"
        "(../methods_left_out.md).\n\n"
        f"{linked(table)}\n{WORDS}\n```sh\nrolloutbench list --family\n```\n"
    )


def page(root: Path, name: str) -> str:
    """The page of one allocator."""
    made = allocators.create(name)
    kind = type(made)
    first, _, rest = (inspect.getdoc(kind) or "").partition("\n")
    file = Path(inspect.getfile(kind)).relative_to(root)
    said = next(entry for entry in allocators.describe() if entry.name == name)
    parameters = ", ".join(map(as_code, _outside_brackets(said.parameters)))
    blocks = [
        f"# {name}",
        f"**{prose(first)}**",
        f"![rollouts by success probability]({name}.svg)",
        f'<p class="said">{curves.SAID}</p>',
        "## The rule",
        prose(inspect.getdoc(sys.modules[kind.__module__]) or ""),
        prose(rest),
        f"Parameters, with their defaults: {parameters}." if parameters else "",
        "## Its place in the family",
        _place(name),
        "[The whole table](index.md).",
        "## Where it comes from",
        _source(name, file),
        "## Where it wins and loses",
        *verdicts([study(root, recorded) for recorded in RECORDED], name),
        f"```sh\nrolloutbench compare -a {name}\n```",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _place(name: str) -> str:
    """A method's line of the family table, upright."""
    member = family.Member.of(name)
    rows = [[said, getattr(member, field)] for field, said in DOES.items()]
    return as_html(sheet("", [Heading("", "words"), Heading(name, "words")], rows))


def _source(name: str, file: Path) -> str:
    """Paper, code and what differs on purpose, with links."""
    source = allocators.create(name).provenance
    lines = [f"- Here: [{file}](https://github.com/rolloutbench/rolloutbench/blob/main/{file})"]
    if source is None:
        lines.append(
            "- Nobody's method: it is here to be compared with." if allocators.create(name).control else ""
        )
    else:
        lines += [
            f"- Paper: {links(f'arXiv {source.paper}')}" if source.paper else "- Paper: none",
            f"- Code that it was held against: {links(source.code)}, {as_code(source.file)}, "
            f"{source.licence or 'no licence stated'}"
            if source.code
            else "- Code: none was released, or none was looked at",
            f"- What is different here on purpose: {prose(source.note)}" if source.note else "",
        ]
    return "\n".join(line for line in lines if line)


def verdicts(studies: Sequence[Results], name: str) -> Iterator[str]:
    """In which scenarios the variants of a method are better and worse than uniform, with intervals.

    By the first of the studies that has the method.
    """
    having = (one for one in studies if any(method_of(spec) == name for spec in one.members))
    results = next(having, studies[0])
    variants = [spec for spec in results.members if method_of(spec) == name and spec != BASELINE]
    if name == BASELINE:
        yield f"`{BASELINE}` is what all others are compared with; its variants have smaller groups."
    elif not variants:
        yield (
            f"There is nothing to show yet: `{name}` is not among the {len(results.members)} allocators that "
            f"`{results.directory.name}` compares. It was recorded at commit {results.record['commit']}."
        )
        return
    described, scenarios = describe(results.sort), results.shown_scenarios()
    shown = {scenario: results.of_metric(results.sort, scenario) for scenario in scenarios}
    for spec in variants:
        found: dict[str, list[str]] = {said: [] for said in SAID}
        for scenario, ratios in shown.items():
            if spec in ratios.index:
                found.setdefault(verdict_on(ratios, spec, described.sign), []).append(scenario)
        aside = (
            ", which knows the true p," if is_bound(spec) else ", a yardstick," if is_yardstick(spec) else ""
        )
        told = "; ".join(
            f"{SAID[said][0].lower()}{SAID[said][1:]} in {_counted(names, len(scenarios))}"
            for said, names in found.items()
            if names and said in SAID
        )
        yield f"{as_code(spec)}{aside} is {escaped(told)}."
    yield as_html(_by_scenario(shown, variants, described.sign, f"{described.label}, ratio to {BASELINE}"))
    yield f'<p class="said">{escaped(results.conditions)}. {escaped(str(results.record["command"]))}</p>'


def _counted(names: list[str], most: int) -> str:
    """How many of the scenarios, and which."""
    return f"all {most} scenarios" if len(names) == most else f"{len(names)} of {most} ({', '.join(names)})"


def _by_scenario(shown: dict[str, Any], variants: list[str], sign: int, caption: str) -> Sheet:
    headings = [Heading("scenario", "name"), *(Heading(spec) for spec in variants)]
    rows: list[list[str | Shown]] = []
    for scenario, ratios in shown.items():
        row: list[str | Shown] = [scenario]
        for spec in variants:
            if spec in ratios.index:
                one = ratios.loc[spec]
                row.append(Shown(number(one.ratio, one.ratio_high, 3), verdict_on(ratios, spec, sign)))
            else:
                row.append("n/a")
        rows.append(row)
    better = "higher" if sign > 0 else "lower"
    return sheet("", headings, rows, f"{caption} ±half of a 95% interval; {better} is better")


def parts() -> str:
    """Predictors, objectives and estimators, of which one-shot methods are made."""
    kinds: dict[str, tuple[str, Registry[Any]]] = {
        "Predictors": ("What is p? A guess with its variance, for each prompt.", predictors),
        "Objectives": ("What are n rollouts worth at p?", objectives),
        "Estimators": ("The advantage rule: what a success and a failure of a group count.", estimators),
    }
    text = "# Predictors, objectives, estimators\n\nMost one-shot methods are one of each, and a solver.\n"
    for title, (said, registry) in kinds.items():
        known = {entry.name: entry for entry in registry.describe()}
        rows = [[name, known[name].summary, known[name].parameters] for name in registry.builtin]
        headings = [Heading("name", "name"), Heading("what it is", "words"), Heading("parameters", "words")]
        text += f"\n## {title}\n\n{said}\n{as_html(sheet('', headings, rows))}"
    return text + "\nPredictors are compared in [Who knows p](../prediction.md).\n"


# Text


def prose(text: str) -> str:
    """A docstring as Markdown: paragraphs, code in backticks, words in stars, links to papers and code.

    Indented lines are a box, as in the code.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip("\n")) if text.strip() else ():
        if all(line.startswith("    ") for line in block.splitlines()):
            blocks.append(f"```text\n{textwrap.dedent(block)}\n```")
            continue
        pieces = re.split(r"(`[^`]+`|\*\w+\*)", block)
        blocks.append("".join(one if one[:1] in ("`", "*") else links(escaped(one)) for one in pieces))
    return "\n\n".join(blocks)


def links(text: str) -> str:
    """Text in which papers of arXiv and commits of GitHub are links."""
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"\b([\w.-]+/[\w.-]+)@([0-9a-f]{7})\b", r"[\1@\2](https://github.com/\1/tree/\2)", text)


def paper_of(paper: str) -> str:
    """The id of a paper as `linked` finds it in a table."""
    return f"arXiv {paper}" if re.fullmatch(r"\d{4}\.\d{5}", paper) else paper


def linked(table: str) -> str:
    """An HTML table in which names in the first column lead to their pages, and papers to arXiv."""
    names = "|".join(map(re.escape, allocators.builtin))
    table = re.sub(rf"(<tr><td[^>]*>)({names})(</td>)", r'\1<a href="\2.html">\2</a>\3', table)
    return re.sub(r"arXiv (\d{4}\.\d{5})", r'<a href="https://arxiv.org/abs/\1">\1</a>', table)


def _outside_brackets(parameters: str) -> list[str]:
    """The parts of a list of parameters, split at commas that stand in no bracket of any kind."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(parameters):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append(parameters[start:place].strip())
            start = place + 1
    return [part for part in (*parts, parameters[start:].strip()) if part]
