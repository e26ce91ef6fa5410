"""The site as `make docs` builds it: no warning, nothing loaded from elsewhere, pages with their numbers."""

import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paper_figures.claims import claims_in, judge_all
from paper_figures.sources import Sources
from rolloutbench.allocators import allocators
from rolloutbench.analysis.tables import number
from rolloutbench.studies.kinds import open_results

pytest.importorskip("mkdocs", reason="the documentation needs the extra docs")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return out


def test_nothing_is_loaded_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loads = r"<(?:script|img|iframe|source)[^>]+src=\"([^\"]+)|<link(?![^>]+canonical)[^>]+href=\"([^\"]+)"
    for page in pages:
        for source in re.findall(loads, page.read_text()):
            assert not "".join(source).startswith(("http", "//")), (page, source)


def test_every_page_is_filled_in(site):
    for page in site.rglob("*.html"):
        assert not re.search(
            r"\{\{|\{%", re.sub(r"<(pre|script|code).*?</\1>", "", page.read_text(), flags=re.DOTALL)
        ), page


def text_of(page: Path) -> str:
    """What a reader sees of a page, without what is between angle brackets."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_numbers_are_those_of_the_recorded_tables(site):
    text, results = text_of(site / "results.html"), open_results(ROOT / "results" / "learning_default")
    assert results.record["command"] in text
    for sheet in results.tables():
        numbers = [cell.text for row in sheet.rows for cell in row if cell.interval]
        assert len(numbers) > 20
        assert [number for number in numbers if number not in text] == []


def test_every_method_has_a_page_with_its_rule_its_curve_and_its_verdicts(site):
    studies = [open_results(ROOT / "results" / name) for name in ("learning_all", "prices")]
    family = text_of(site / "methods" / "index.html")
    for name in allocators.builtin:
        page = site / "methods" / f"{name}.html"
        text = " ".join(text_of(page).split())
        made = allocators.create(name)
        rule = " ".join((sys.modules[type(made).__module__].__doc__ or "").replace("`", "").split())
        assert rule[:60] in text, name
        assert "<svg" in (site / "methods" / f"{name}.svg").read_text()[:500]
        assert name in family
        if made.provenance is not None and made.provenance.paper:
            assert f"https://arxiv.org/abs/{made.provenance.paper}" in page.read_text(), name
        having = (one for one in studies if any(spec.partition("[")[0] == name for spec in one.members))
        recorded = next(having, studies[0])
        specs = [spec for spec in recorded.members if spec.partition("[")[0] == name and spec != "uniform"]
        for spec in specs:
            ratios = recorded.of_metric(recorded.sort, recorded.shown_scenarios()[0]).loc[spec]
            assert number(ratios.ratio, ratios.ratio_high, 3) in text, spec
        assert specs or name == "uniform" or f"{name} is not among the" in text


def test_the_leaderboard_stands_in_the_site_and_leads_to_the_methods(site):
    page = (site / "leaderboard.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert {study["name"] for study in data["studies"]} >= {
        "learning_all",
        "learning_default",
        "real_sorting",
    }
    assert len(data["pages"]) > 20
    assert [path for path in data["pages"].values() if not (site / path).is_file()] == []
    assert 'href="leaderboard.html"' in (site / "index.html").read_text()


def test_addresses_of_readme_are_pages(site):
    start = "https://rolloutbench.github.io/rolloutbench/"
    found = re.findall(rf"{re.escape(start)}([^)#\s]*)", (ROOT / "README.md").read_text())
    assert len(found) > 20
    assert [path for path in found if not (site / (path or "index.html")).is_file()] == []


def test_the_site_and_readme_have_the_same_table(site):
    text = " ".join(text_of(site / "what_to_use.html").split())
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if "leaderboard.html#" in line]
    assert len(rows) >= 5
    for line in rows:
        for cell in line.split(" | ")[1:3]:
            assert re.sub(r"\[(.*)\]\(\S*\)", r"\1", cell).strip("`") in text


def test_claims_have_the_verdicts_of_what_is_recorded(site):
    verdicts = judge_all(claims_in(), Sources(quick=True))
    text = " ".join(text_of(site / "claims.html").split())
    assert len(verdicts) > 40
    assert f"Of {len(verdicts)} claims" in text
    for one in verdicts:
        assert one.name in text
        assert one.ours in text
