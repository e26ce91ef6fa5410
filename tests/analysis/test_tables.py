"""Tables fit every terminal, and no number in them is ever cut."""

import io
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from paper_figures import claims
from paper_figures.claims import Claim, Judged, Measurement
from rolloutbench.allocators import allocators
from rolloutbench.analysis import difference, tables
from rolloutbench.analysis.answer import short_answer
from rolloutbench.analysis.metrics import untuned
from rolloutbench.analysis.statistics import Interval
from rolloutbench.analysis.tables import Heading, Shown, as_records, folded, sheet
from rolloutbench.errors import InputError
from rolloutbench.predictors import predictors
from rolloutbench.studies import fitting, validation
from rolloutbench.studies.kinds import open_results
from simulators.scenarios import scenarios

RESULTS = Path(__file__).parents[2] / "results"
LONG = "permuted[of=vip[predictor=noisy_oracle[std=0.2]]]"
LONGER = "weighted_uniform[of=vip[predictor=noisy_oracle[std=0.25],lower=2,upper=64,allow_zero=true]]"
WIDTHS = (80, 100, 132)
NUMBER = re.compile(r"(?<![A-Za-z0-9.])[0-9][0-9.]*(?:e[+-]?[0-9]+)?(?![A-Za-z0-9])")
"""A number that is no part of a name or of a digest."""


def renamed(frame):
    """The same numbers of allocators with long names."""
    return frame.replace({"allocator": {"dapo": LONG, "coba": LONGER, "gp": LONG, "beta": LONGER}})


def results(name):
    found = open_results(RESULTS / name)
    found.__dict__ |= {"summary": renamed(found.summary), "values": renamed(found.values)}
    if "tuned" not in name and found.kind in ("learning", "training") and found.has("ranking"):
        found.__dict__["ranking"] = renamed(found.ranking)
    return found


def of_results():
    for name in (
        *("learning_default", "learning_all", "snapshot_default", "prediction_default"),
        *("real_sorting", "real_sorting_replay"),
    ):
        for made in results(name).tables():
            yield f"{name} {made.title}", made


def of_difference():
    before, after = results("learning_default"), results("learning_all")
    found = difference.compare_studies(before, after)
    changes = found.changes.assign(verdict="better", change=0.01234, high=0.0234)
    for each in (found, difference.Difference(**{**vars(found), "changes": changes})):
        for made in difference.sheets(each):
            yield f"diff {made.title} {len(made.rows)}", made


def of_validation():
    found = validation.validate(results("learning_default"), results("real_sorting"))
    for made in validation.sheets(found):
        yield f"validate {made.title}", made
    yield "fit", fitting.found_sheet(found.conditions)


UNDER = "grpo, mean over rollouts, Adam; dr_grpo, mean over prompts, Adam or SGD"


def of_claims():
    told = {"paper": "P", "where": "Table 1", "says": "learns 2.5x as much as " + LONG}
    told |= {"published": "between 1.25 and 1.75 (7B), 0.123456789 (1.5B)", "why": "because " * 20}
    claim = Claim(**told, study="s", allocator="vip", metric="m", above=0.5)
    one = Interval(*(np.asarray(part) for part in (-0.79, -0.87, -0.70)))
    judged = [
        Judged("vip-gain_as_printed_on_real_gradients", claim, Measurement(one, one), 1, "reproduced", UNDER),
        Judged("vip", claim, None, 0, "not testable here", ""),
    ]
    yield "claims", claims.table(judged)


def of_others():
    for kind, registry in {"allocator": allocators, "predictor": predictors, "scenario": scenarios}.items():
        yield f"list {kind}", tables.registered(kind, registry.describe())
    numbers = [f"{n / 7:.6f}" for n in range(50)]
    yield (
        "solve",
        tables.allocation({"prompt": [str(n) for n in range(50)], "p": numbers, "rollouts": numbers}),
    )
    yield "plain", tables.plain("t", pd.DataFrame({"name": [LONG], "p_value": [1.5e-9], "n": [3]}), "about")


def of_recording():
    recording = pytest.importorskip("real_runs.recording", reason="needs torch")
    scores = RESULTS / "real_sorting_scores"
    tests, agreement = (pd.read_csv(scores / f"{name}.csv") for name in ("tests", "agreement"))
    noise = pd.read_csv(RESULTS / "smollm2_addition" / "scores" / "noise.csv")
    for made in recording.sheets(recording.Recorded(None, {}, "conditions", noise, tests, None, agreement)):
        yield f"record {made.title}", made


MAKERS = (of_results, of_difference, of_validation, of_claims, of_others, of_recording)


@pytest.fixture(scope="module", params=MAKERS, ids=lambda maker: maker.__name__)
def made(request):
    """Every table that a command shows, with long names in it."""
    found = dict(request.param())
    assert found
    return found


def numbers_in(text):
    return set(NUMBER.findall(text))


def assert_is_whole(shown, made, width):
    """No line is too long; every number stands in the table; who is left out is said."""
    text = shown.splitlines()
    assert max(map(cell_len, text)) <= width
    body = "\n".join(text)
    said = [made.title, made.caption, *(heading.text for heading in made.headings)]
    said += [str(width), f"{made.needs}."]
    said += [one.text for row in made.rows for one in row]
    assert numbers_in(body) <= set().union(*map(numbers_in, said))
    assert "…" not in body
    note = re.search(r"Left out at a width of \d+: (.*); all fit into", " ".join(body.split()))
    left_out = note[1].split(", ") if note else []
    always = [heading.line for heading in made.headings if not heading.priority]
    assert not set(left_out) & set(always)
    for place, heading in enumerate(made.headings):
        if heading.kind != "number" or heading.line in left_out:
            continue
        for row in made.rows:
            assert any(row[place].text in line for line in text)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_fits_every_terminal(made, width):
    for name, one in made.items():
        shown = one.text(width)
        assert_is_whole(shown, one, width)
        if one.needs <= width:
            assert "Left out at" not in shown, name


def test_nothing_is_left_out_where_there_is_no_terminal(made):
    for one in made.values():
        shown = str(one)
        assert "Left out at" not in shown
        assert_is_whole(shown, one, max(tables.WIDTH, one.needs))
        assert max(map(cell_len, one.text(one.needs).splitlines())) <= one.needs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learning_default", "snapshot_default", "prediction_default"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_metric_that_ranks_is_always_shown(name, width):
    found = open_results(RESULTS / name)
    for metric in dict.fromkeys(map(untuned, found.shown_metrics[1:])):
        if metric in found.metrics and found.metrics[metric].better:
            sorted_by = found.sorted_by(metric)
            (first, *_) = sorted_by.tables()
            (heading,) = (heading for heading in first.headings if heading.order)
            assert heading.metric == sorted_by.shown(metric)
            for number in first.column(heading.metric).values():
                assert number in first.text(width)


def test_columns_go_in_the_stated_order():
    headings = [Heading("who", "name"), Heading("a", priority=3), Heading("b", priority=1), Heading("c")]
    headings.append(Heading("d", priority=2))
    rows = [["vip", "1.111 ±0.1", "2.222 ±0.1", "3.333 ±0.1", "4.444 ±0.1"]]
    one = sheet("t", headings, rows)
    said = {
        width: re.findall(r"width of \d+: (.*);", " ".join(one.text(width).split()))
        for width in range(20, one.needs + 1)
    }
    order = list(dict.fromkeys(text for texts in reversed(said.values()) for text in texts))
    assert order == ["a", "a, d", "a, b, d"]
    assert said[one.needs] == []


TEXTS = st.text("abcäX12.,=[]_- ±%", max_size=30)
NAMES = st.from_regex(r"[a-z_]{1,12}(\[[a-z]{1,9}=(0\.[0-9]{1,20}|[a-z]{1,24})\]){0,3}", fullmatch=True)
NUMBERS = st.one_of(
    st.just("n/a"),
    st.just(""),
    st.builds("{:.3f} ±{:.3f}".format, st.floats(-1e4, 1e4), st.floats(0, 99)),
    st.builds("{0:.2f} [{0:.2f}, {1:.2f}]".format, st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
    st.builds("{:.3g}".format, st.floats(allow_nan=False, allow_infinity=False)),
)
KINDS = {"name": NAMES, "number": NUMBERS, "words": NUMBERS.map("about {} of it".format)}


@st.composite
def drawn(draw):
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=9))
    headings = [Heading(f"h{i}", kind, draw(st.integers(0, 3))) for i, kind in enumerate(kinds)]
    rows = draw(st.lists(st.tuples(*(KINDS[kind] for kind in kinds)), min_size=1, max_size=4))
    return sheet("drawn", headings, rows, "caption")


@settings(max_examples=60, deadline=None)
@given(drawn(), st.integers(30, 160))
def test_no_number_is_ever_cut(one, width):
    shown = one.text(width)
    said = [one.title, *(heading.text for heading in one.headings), str(width), f"{one.needs}."]
    said += [text.text for row in one.rows for text in row]
    assert numbers_in(shown) <= set().union(*map(numbers_in, said))
    if one.needs <= width:
        assert max(map(cell_len, shown.splitlines())) <= width
        assert "Left out at" not in shown


@given(TEXTS, st.integers(1, 40))
@example(LONG, 16)
@example("日本語[std=0.2]", 5)
def test_folding_loses_nothing_but_spaces(text, width):
    lines = folded(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(cell_len(line) <= max(width, 2) for line in lines)


def test_names_fold_at_their_joints():
    assert folded(LONG, 24) == ["permuted[of=vip[", "predictor=noisy_oracle[", "std=0.2]]]"]
    assert folded("snapshot-u-shaped-v1", 12) == ["snapshot-u-", "shaped-v1"]
    assert folded("x=-0.0001,y=1e-05", 10) == ["x=-0.0001,", "y=1e-05"]


def terminal(command, width):
    """What a command prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "LINES": "40", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    arguments = [sys.executable, "-m", "rolloutbench", *command]
    with subprocess.Popen(arguments, stdout=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        parts = []
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(ours)
    assert process.returncode == 0
    text = b"".join(parts).decode().replace("\r\n", "\n")
    assert "\x1b[" in text
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.slow
def test_a_real_terminal_of_80_columns():
    directory = RESULTS / "snapshot_default"
    found = open_results(directory)
    text = terminal(["show", str(directory)], 80)
    lines = [line.rstrip() for line in text.splitlines()]
    for one in found.tables():
        assert all(line in lines for line in one.text(80).splitlines())
    assert max(map(len, lines)) <= 80
    assert "Left out at a width of 80: noise var. ratio" in text
    whole = " ".join(text.split())
    for line in short_answer(found):
        assert " ".join(line.split()) in whole
    assert whole.index(short_answer(found)[0]) > whole.index(found.tables()[-1].title)
    assert f"report rolloutbench report {directory}" in whole


def test_bounds_are_marked():
    found = open_results(RESULTS / "learning_default")
    *by_scenario, everywhere = found.tables()
    for one in (*by_scenario, everywhere):
        tones = {row[0].text: row[0].tone for row in one.rows}
        assert tones["mopps[predictor=oracle]"] == "bound"
        assert tones["uniform"] == "baseline"
        assert tones["mopps"] == ""
        assert "mopps[predictor=oracle] knows the true p: a bound, not a method" in one.caption
    without = found.summary[found.summary.allocator != "mopps[predictor=oracle]"]
    assert "bound" not in tables.comparison(without, by_scenario[0].title, found.sort, "").caption
    both = renamed(found.summary)
    assert (
        f"{LONG}, {LONGER} know" not in tables.comparison(both, by_scenario[0].title, found.sort, "").caption
    )
    assert "know the true p: bounds, not methods" in tables.comparison(both, "u-shaped-v1", "snr", "").caption


# One answer in words


def test_the_short_answer_names_everybody_once():
    found = open_results(RESULTS / "learning_default")
    lead, *lines = short_answer(found)
    assert lead.startswith(
        "Over 4 scenarios, yardsticks aside, frontier did best: 1.247 [1.214, 1.287] times"
    )
    camps = {line.partition(":")[0]: line.partition(": ")[2].rstrip(".").split(", ") for line in lines}
    camps = {heading: names for heading, names in camps.items() if heading.endswith("uniform")}
    better = ["mopps[predictor=oracle]", "frontier", "vigor", "frontier[price=seconds]", "mopps", "coba"]
    assert camps["Better than uniform"] == [*better, "vip[predictor=beta]"]
    named = [name for names in camps.values() for name in names]
    assert sorted([*named, "uniform"]) == sorted(found.record["allocators"])


def test_there_is_no_answer_where_nobody_can_be_compared():
    found = open_results(RESULTS / "snapshot_default")
    found.__dict__["summary"] = found.summary[found.summary.allocator == "uniform"]
    found.__dict__["values"] = found.values[found.values.allocator == "uniform"]
    assert short_answer(found) == []


# Other ways to show a table


@pytest.mark.parametrize(
    ("text", "value", "interval"),
    [
        ("0.86 ±0.06", 0.86, "±0.06"),
        ("-0.5 ±1.1", -0.5, "±1.1"),
        ("0.97 [0.92, 1.00]", 0.97, "[0.92, 1.00]"),
        ("1024", 1024, ""),
        ("n/a", None, ""),
        ("better", None, ""),
    ],
)
def test_what_a_text_sorts_by(text, value, interval):
    shown = Shown(text)
    assert (shown.value, shown.interval) == (value, interval)


class Cells(HTMLParser):
    """The texts of a table's rows, and every element."""

    def __init__(self, source):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][-1] += data


def test_html_has_everything_and_runs_nothing():
    rows = [["<script>alert(1)</script>", "1.5 ±0.1", "a & b"], ["vip", "2", Shown("better", "better")]]
    one = sheet(
        '"><b>', [Heading("who", "name"), Heading("n"), Heading("said", "words")], rows, "<i>about</i>"
    )
    source = one._repr_html_()
    page = Cells(source)
    assert set(page.tags) == {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert page.rows == [
        ["who", "n", "said"],
        *[[getattr(text, "text", text) for text in row] for row in rows],
        ["<i>about</i>"],
    ]


def test_markdown_keeps_its_cells():
    rows = [["a|b`c", "0.5 [0.4, 0.6]", "x|y *z*"]]
    one = sheet("t_1", [Heading("who", "name"), Heading("n"), Heading("said", "words")], rows, "by x_y")
    assert one.markdown().splitlines() == [
        "| who | n | said |",
        "| --- | ---: | --- |",
        "| `` a\\|b`c `` | 0.5 [0.4, 0.6] | x\\|y \\*z\\* |",
    ]
    assert one.section() == f"## t\\_1\n\n{one.markdown()}\n\nby x\\_y"


def test_a_row_has_a_text_for_each_heading():
    with pytest.raises(ValueError, match="zip"):
        sheet("t", [Heading("a")], [["1", "2"]])


def test_records_are_ready_for_json():
    frame = pd.DataFrame({"a": [1.5, np.nan], "b": [np.inf, -np.inf], "c": [True, False], "d": [3, 4]})
    records = as_records(frame.assign(e=["x", None]))
    assert records == [
        {"a": 1.5, "b": None, "c": True, "d": 3, "e": "x"},
        {"a": None, "b": None, "c": False, "d": 4, "e": None},
    ]
    assert [type(value) for value in records[0].values()] == [float, type(None), bool, int, str]


def for_a_paper():
    headings = [Heading("allocator", "name"), Heading("area over\nrollouts"), Heading("wasted 50%")]
    rows = [["vip[predictor=beta_x]", "1.05 ±0.02", "0.4"], ["uniform", "1", "0.5"]]
    return sheet("a & b", headings, rows, "by area_over_rollouts\n± half", breaks=[0])


def test_latex():
    lines = for_a_paper().latex().splitlines()
    assert lines[:3] == ["% a & b", "% by area_over_rollouts", "% ± half"]
    assert lines[3] == r"\begin{tabular}{lrr}"
    assert lines[5] == r"allocator & area over rollouts & wasted 50\% \\"
    assert lines[7] == r"\texttt{vip[predictor=beta\_x]} & 1.05 $\pm$0.02 & 0.4 \\ \addlinespace"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_csv_is_read_back():
    read = pd.read_csv(io.StringIO(for_a_paper().csv()))
    assert list(read) == ["allocator", "area over rollouts", "wasted 50%"]
    assert read.allocator.tolist() == ["vip[predictor=beta_x]", "uniform"]


def test_only_some_rows_and_columns():
    some = for_a_paper().only(["uniform"], ["wasted 50%"])
    assert [heading.line for heading in some.headings] == ["allocator", "wasted 50%"]
    assert [[one.text for one in row] for row in some.rows] == [["uniform", "0.5"]]
    assert for_a_paper().only(["nobody"]).rows == for_a_paper().rows
    with pytest.raises(InputError, match="column 'wasted': did you mean wasted 50%"):
        for_a_paper().only(columns=["wasted"])
