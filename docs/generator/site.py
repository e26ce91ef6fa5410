"""What mkdocs calls while it builds: it adds the pages that are made, and fills the numbers into the others.

A page asks for what is recorded in `results/` by an expression of jinja, `{{ table("learning_default",
"u-shaped-v1") }}`; see recorded.py for all of them. So no page has a number of its own.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import jinja2
import methods
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from recorded import Recorded, training_runs

from rolloutbench.allocators import allocators
from rolloutbench.analysis import leaderboard

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/rolloutbench/rolloutbench/blob/main/"


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of the methods into the menu."""
    made = ["methods/index.md", "methods/parts.md", *(f"methods/{name}.md" for name in allocators.builtin)]
    for part in config.nav or []:
        if "Methods" in part:
            part["Methods"] = [*made[:2], *part["Methods"], {"Method by method": made[2:]}]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Make the pages of the methods, with their pictures, and the leaderboard."""
    board = "leaderboard.html", leaderboard.html(training_runs(ROOT), "methods")
    for path, content in (*methods.pages(ROOT), board):
        files.append(File.generated(config, path, content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page with what it asks for in its places; links that leave the site point at the repository."""
    if page.file.generated_by:
        return markdown
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    asked = Recorded(ROOT, page.file, files, config)
    names: dict[str, Any] = {name: getattr(asked, name) for name in dir(asked) if not name.startswith("_")}
    return outward(environment.from_string(markdown).render(names), page.file.src_uri)


def outward(markdown: str, page: str) -> str:
    """Markdown in which relative links to what is not below docs/ are links to the repository."""

    def turned(link: re.Match[str]) -> str:
        path, mark, anchor = link[1].partition("#")
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), path))
        if target.startswith("docs/") or not (ROOT / target).exists():
            return link[0]
        return f"]({REPOSITORY}{target}{mark}{anchor})"

    return re.sub(r"\]\((\.\./[^)\s]+)\)", turned, markdown)
