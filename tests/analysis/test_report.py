"""The report: the terminal's numbers, nothing loaded from anywhere, and nothing that a name could run."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

from rolloutbench.analysis import report
from rolloutbench.analysis.metrics import untuned
from rolloutbench.files import UNFINISHED
from rolloutbench.optional import load
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds import RESULTS, open_results

TINY = "[prompts=16,pool_size=64]"
KINDS_OF_STUDY = ("learning", "prediction", "snapshot")


@pytest.fixture
def undrawn(monkeypatch):
    """Pages without figures."""
    monkeypatch.setattr(report.Section, "pictures", lambda part, scenario: iter(()))


@pytest.fixture(scope="module")
def pages(studies):
    return {kind: report.html([open_results(directory)]) for kind, directory in studies.items()}


@pytest.fixture
def learning(studies, tmp_path):
    """A copy of the learning study, to be changed."""
    return shutil.copytree(studies["learning"], tmp_path / "study")


class Page(HTMLParser):
    """What is in a page: elements with attributes, rows of its tables, all visible text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.rows, self.words = [], [], []
        self._inside = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self._inside or "script" in self._inside:
            return
        self.words.append(data)
        if "tr" in self._inside and self.rows[-1]:
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def shown(sheet):
    """The rows of a table of the terminal, headings first."""
    return [[heading.line for heading in sheet.headings], *([one.text for one in row] for row in sheet.rows)]


def change(directory, **study):
    """Change what a directory says of its study."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["study"] |= study
    path.write_text(json.dumps(manifest))
    return manifest


def rename(directory, old, new):
    """Call an allocator by another name in all files."""
    for path in [*directory.glob("*.parquet"), *directory.glob("*.csv")]:
        read, write = (pd.read_csv, "to_csv") if path.suffix == ".csv" else (pd.read_parquet, "to_parquet")
        getattr(read(path).replace({"allocator": {old: new}}), write)(path, index=False)
    study = json.loads((directory / "manifest.json").read_text())["study"]
    change(directory, allocators={new if k == old else k: v for k, v in study["allocators"].items()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_OF_STUDY)
def test_every_row_of_the_terminal_is_on_the_page(kind, studies, pages):
    rows = [[" ".join(cell.split()) for cell in row] for row in Page(pages[kind]).rows]
    rows += [[row[0], *row[2:]] for row in rows]  # the graphic of an interval is no cell of the terminal
    found = open_results(studies[kind]).tables()
    assert len(found) == {"learning": 3, "prediction": 1, "snapshot": 2}[kind]
    for table in found:
        for row in shown(table):
            assert row in rows


@pytest.mark.parametrize("kind", KINDS_OF_STUDY)
def test_the_markdown_tables_are_those_of_the_terminal(kind, studies):
    results = open_results(studies[kind])
    text = report.markdown(results)
    tables, last = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not last.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([re.sub(r"\\(.)", r"\1", cell.strip().strip("`")) for cell in cells])
        last = line
    assert all(len(row) == len(table[0]) for table in tables for row in table)
    tables = [[table[0], *table[2:]] for table in tables]  # without the line under the headings
    for table in results.tables():
        assert shown(table) in tables
    assert results.conditions in text


@pytest.mark.parametrize("kind", KINDS_OF_STUDY)
def test_nothing_is_loaded(kind, pages):
    source, page = pages[kind], Page(pages[kind])
    assert "http://" not in source
    assert "https://" not in source
    assert "url(" not in source
    assert "@import" not in source
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    for tag, attributes in page.elements:
        assert attributes.get("src", "data:image/").startswith("data:image/"), tag
        assert attributes.get("href", "#").startswith("#"), tag
        assert not [name for name in attributes if name.startswith("on") or name == "srcset"]


@pytest.mark.parametrize("kind", KINDS_OF_STUDY)
def test_the_policy_allows_this_script_and_no_other(kind, pages):
    (script,) = re.findall(r"<script>(.*?)</script>", pages[kind], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in Page(pages[kind]).all("meta") if "http-equiv" in m]
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


@pytest.mark.parametrize("kind", KINDS_OF_STUDY)
def test_every_figure_says_what_it_shows_in_numbers(kind, pages, studies):
    page = Page(pages[kind])
    words = [image["alt"] for image in page.all("img")]
    scenarios = open_results(studies[kind]).shown_scenarios()
    assert len(words) == len(scenarios) * {"learning": 5, "prediction": 2, "snapshot": 2}[kind]
    assert len(set(words)) == len(words)
    for alt in words:
        assert any(alt.startswith(f"{name}: ") for name in scenarios)
        assert re.search(r"(dapo|beta|random) \S*\d", alt)
        assert "uniform" in alt
    assert len(page.all("figcaption")) == len(words)


@pytest.mark.parametrize("kind", KINDS_OF_STUDY)
def test_the_structure_of_the_page(kind, pages, studies):
    page = Page(pages[kind])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link["href"].removeprefix("#") for link in page.all("a")} <= set(ids)
    assert len(page.all("main")) == len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    results = open_results(studies[kind])
    for column in results.columns:
        plain = untuned(column.metric)
        assert plain == "rate" or results.metrics[plain].meaning in page.text


KINDS = {kind: load(path) for kind, path in RESULTS.items()}


@pytest.mark.slow
def test_names_and_titles_run_nothing(learning):
    evil, title = "<script>alert(1)</script>", "</title><img src=x onerror=alert(2)>"
    rename(learning, "dapo", evil)
    change(learning, title=title, question='"><b id="theme">')
    source = report.html([open_results(learning)])
    page = Page(source)
    assert len(page.all("script")) == 1
    assert evil not in source
    assert all("onerror" not in image for image in page.all("img"))
    assert evil in page.text
    assert title in page.text
    assert not page.all("b")
    text = report.markdown(open_results(learning))
    assert re.search(r"(?<!\\)<", re.sub("`.*?`", "", text)) is None


def test_pipes_and_backticks_stay_in_their_cell(learning):
    rename(learning, "dapo", "a|b`c")
    text = report.markdown(open_results(learning))
    assert "| `` a\\|b`c `` |" in text


def test_the_answer_goes_by_the_intervals(studies):
    results = open_results(studies["learning"])
    part = report.Section(results)
    members = {camp.verdict: camp.members for camp in part.answer.camps}
    for row in results.ranking.itertuples():
        if row.allocator == "uniform":
            continue
        verdict = "better" if row.ratio_low > 1 else "worse" if row.ratio_high < 1 else "even"
        number = f"{row.ratio:.3f} [{row.ratio_low:.3f}, {row.ratio_high:.3f}]"
        assert number in members[verdict][row.allocator]
    assert results.conditions in part.answer.conditions


@pytest.mark.parametrize(
    ("low", "high", "sign", "tone"),
    [
        (1.02, 1.06, 1, "better-0"),
        (1.06, 1.30, 1, "better-2"),
        (1.02, 1.06, -1, "worse-0"),
        (0.40, 0.60, -1, "better-3"),
        (-0.5, 0.10, 1, "worse-3"),
        (0.99, 1.20, 1, "even"),
    ],
)
def test_colours_of_a_heat_map(low, high, sign, tone):
    middle = (low + high) / 2
    ratios = pd.DataFrame({"ratio": middle, "ratio_low": low, "ratio_high": high}, index=["dapo"])
    cell = report._heat_of(ratios, "dapo", sign)
    assert cell == (f"{middle:.2f} ±{high - middle:.2f}", tone)
    assert report._heat_of(ratios, "mopps", sign) == ("n/a", "")


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_who_is_missing_is_said(studies, pages, learning):
    said = f"vip[lower=9] in u-shaped-v1{TINY}"
    why = "budget=128 is below the sum of lower bounds, 144 over 16 prompts"
    assert f"{said}: {why}" in pages["learning"]
    assert why in report.markdown(open_results(studies["learning"]))
    shutil.rmtree(learning / "cells")  # recorded results have none
    text = report.html([open_results(learning)])
    assert f"{said}: it has no results" in text
    assert "<dt>computed</dt>" not in text
    assert "<dt>computed</dt>" in pages["learning"]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_scenario_that_is_missing_is_said(learning):
    record = json.loads((learning / "manifest.json").read_text())["study"]
    change(learning, captions={**record["captions"], "lost-v1": "conditions"})
    assert "lost-v1, with everybody in it" in report.html([open_results(learning)])


def test_figures_that_cannot_be_drawn_are_said(learning):
    """A recorded study need not keep its largest table; everything else is there."""
    (learning / "curves.parquet").unlink()
    page = Page(report.html([open_results(learning)]))
    assert [tag for tag, _ in page.elements if tag == "img"] == []
    assert "all figures: this copy of the study does not keep its table 'curves'" in "".join(page.words)
    with pytest.raises(InputError, match=r"has no table 'curves'; rolloutbench .* makes it anew"):
        open_results(learning).curves  # noqa: B018


def test_numbers_of_fewer_replicates_are_said(learning):
    summary = pd.read_csv(learning / "summary.csv")
    here = (summary.allocator == "mopps") & (summary.metric == "tuned_rollouts_to_90")
    summary.loc[here, "replicates"] = 5
    summary.to_csv(learning / "summary.csv", index=False)
    text = report.markdown(open_results(learning))
    assert text.count("rollouts to 90% of mopps in") == 2
    assert "rests on 5 of 6 replicates" in text


def test_the_origin_of_the_numbers(studies, pages):
    directory = studies["learning"]
    manifest = json.loads((directory / "manifest.json").read_text())
    text = Page(pages["learning"]).text
    study, keys = manifest["study"], manifest["cells"]
    packages = [digest for name, digest in study["sources"].items() if "." not in name]
    expected = [study["command"], study["version"], *packages, study["machine"]["python"]]
    expected += [hashlib.sha256("".join(keys).encode()).hexdigest(), study["machine"]["packages"]["numpy"]]
    expected += [" ".join((directory / "study.toml").read_text().split()), study["allocators"]["dapo"]]
    for words in expected:
        assert words in text


@pytest.mark.slow
def test_several_studies_on_one_page(studies):
    several = [open_results(directory) for directory in studies.values()]
    page = Page(report.html(several))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert len([section for section in page.all("section") if section.get("class") == "part"]) == 3
    for results in several:
        assert results.question in page.text


def test_the_same_results_give_the_same_bytes(studies, pages):
    assert report.html([open_results(studies["snapshot"])]) == pages["snapshot"]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_files_are_written(learning, studies, tmp_path):
    written = report.write([open_results(learning)])
    assert written == [learning / "report.html", learning / "report.md"]
    assert written[0].read_text().startswith("<!doctype html>")
    out = tmp_path / "new" / "place"
    written = report.write([open_results(studies[name]) for name in ("snapshot", "prediction")], out)
    assert sorted(out.iterdir()) == sorted(written)
    assert written[1].read_text().count("\n# ") == 1
    assert not list(learning.glob(f"*{UNFINISHED}"))


def test_what_cannot_be_reported(learning, tmp_path):
    manifest = change(learning)
    (learning / "manifest.json").write_text(json.dumps(manifest | {"files": []}))
    with pytest.raises(InputError, match="is not finished"):
        report.write([open_results(learning)])
    with pytest.raises(InputError, match="holds no results"):
        report.write([open_results(tmp_path / "nothing")])
    assert not (learning / "report.html").exists()


def test_a_place_that_cannot_be_written(studies, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report.write([open_results(studies["prediction"])], tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def test_importing_it_is_light():
    code = "import sys, rolloutbench.analysis.report; print(*{'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_figure_that_is_too_large_becomes_pixels(studies, monkeypatch):
    monkeypatch.setattr(report, "LARGEST_SVG", 0)
    page = Page(report.html([open_results(studies["prediction"])]))
    for image in page.all("img"):
        assert image["src"].startswith("data:image/png;base64,")
        content = base64.b64decode(image["src"].partition(",")[2])
        assert content.startswith(b"\x89PNG")


def test_every_kind_of_study_says_what_a_report_asks_it(studies):
    for kind, results in KINDS.items():
        assert results.kind == kind
        assert results.title
        assert results.question
        if kind in studies:
            assert set(map(untuned, open_results(studies[kind]).heat_metrics)) <= set(results.metrics)
        assert results.default_sort in results.metrics
