"""What a user has computed stays, and what somebody else wrote harms nobody: each as the command is typed."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from command_line import run

from rolloutbench import text
from rolloutbench.analysis.plotting import panels
from rolloutbench.cells.store import read_manifest
from rolloutbench.studies.defaults import DEFAULT_ALLOCATORS, RATE_FACTORS
from simulators.scenarios import DEFAULT_SCENARIOS

PROGRAM = [sys.executable, "-m", "rolloutbench"]
SMALL = "compare --snapshot --quick --prompts 8 -s snapshot-u-shaped-v1 --jobs 1"
LONG = "permuted[of=" * 30 + "vip" + "]" * 30


def program(command, **how):
    """A process of its own, by a shell: streams and limits are set there."""
    line = command.replace("rolloutbench", f"{sys.executable} -m rolloutbench", 1)
    return subprocess.run(["bash", "-c", line], capture_output=True, check=False, timeout=120, **how)


def refused(done, *fragments, code=2):
    """One line, and the exit code of wrong input."""
    lines = done.err.strip().splitlines()
    assert done.code == code, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith("rolloutbench: error: ")
    assert all(fragment in lines[0] for fragment in fragments), lines[0]
    assert lines[0].isprintable()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished comparison of two allocators."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "save", lambda *given: None)
        assert run(f"{SMALL} -a vip --out {out}").code == 0
    return out


@pytest.fixture
def out(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(study, tmp_path / "out"))


# --- figures and results


def test_a_name_that_no_figure_can_show_costs_no_results(tmp_path):
    out = tmp_path / "out"
    done = run(f"{SMALL} -a '{LONG}' --out {out}")
    assert done.code == 0, done.err
    assert "left out" not in done.err
    assert set(pd.read_csv(out / "summary.csv").allocator) == {"uniform", LONG}
    assert len(list((out / "plots").glob("*.png"))) == 3


def test_a_figure_that_fails_is_named_and_the_others_are_drawn(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def fail(figure, directory, name, real=panels.save):
        if name == "snr_ratio_to_uniform":
            raise AttributeError("'list' object has no attribute 'flags'")
        (directory / f"{name}.png").touch()

    monkeypatch.setattr(panels, "save", fail)
    done = run(f"{SMALL} -a vip --out {out}")
    assert done.code == 0
    assert "figure snr_ratio_to_uniform is left out: AttributeError: 'list' object" in done.err
    assert (out / "summary.csv").exists()
    assert {path.stem for path in (out / "plots").iterdir()} == {
        "allocation_against_success",
        "cost_against_gain",
    }
    assert read_manifest(out).files == ["per_replicate.parquet", "plots", "summary.csv"]
    assert run(f"show {out}").code == 0


def test_a_report_goes_on_without_its_figures(out, monkeypatch):
    from rolloutbench.analysis import report

    def fail(*given):
        raise OverflowError("no such number")

    monkeypatch.setattr(report.Section, "_pictures", fail)
    assert run(f"report {out}").code == 0
    page = (out / "report.html").read_text()
    assert "figures of snapshot-u-shaped-v1: OverflowError: no such number" in page


# --- a study that grows


def test_another_allocator_needs_no_permission_and_repeats_nothing(out):
    before = {path.name for path in (out / "cells").iterdir()}
    more = run(f"{SMALL} -a vip -a knapsack --out {out}")
    assert more.code == 0, more.err
    assert f"{len(before)} of {len(before) + 1} cells are finished already" in more.err
    assert before < {path.name for path in (out / "cells").iterdir()}
    fewer = run(f"{SMALL} -a knapsack --out {out}")
    assert fewer.code == 0, fewer.err
    assert "(allocators: without vip): its 1 finished cells stay, and its command makes" in fewer.err
    assert "; 0 of this study's 2 cells run now" in fewer.err
    assert run(f"{SMALL} -a knapsack --out {out} --overwrite").code == 0
    assert len(list((out / "cells").iterdir())) == 2


def test_another_study_lies_beside_the_first(out):
    """What differs is named, and the first one's own command has its results back without running a cell."""
    table = (out / "summary.csv").read_bytes()
    other = SMALL.replace("--prompts 8", "--prompts 16")
    more = run(f"{other} -a vip --seed 1 --out {out}")
    assert more.code == 0, more.err
    for said in (
        "seed: 0, now 1",
        "prompts: 8, now 16",
        "its 2 finished cells stay",
        "2 of this study's 2",
    ):
        assert said in more.err
    assert "again from them: rolloutbench compare --snapshot --quick --prompts 8" in more.err
    back = run(f"{SMALL} -a vip --out {out}")
    assert back.code == 0, back.err
    assert "2 of 2 cells are finished already" in back.err
    assert (out / "summary.csv").read_bytes() == table


def test_results_of_other_code_are_not_replaced_unasked(out):
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["study"]["sources"] = {"rolloutbench": "0123456789abcdef"}
    (out / "manifest.json").write_text(json.dumps(manifest))
    table = (out / "summary.csv").read_bytes()
    done = run(f"{SMALL} -a vip --seed 1 --out {out}")
    refused(done, "other source code of rolloutbench, simu", "), which this version could not make", "--over")
    assert (out / "summary.csv").read_bytes() == table


def test_results_stay_until_new_ones_replace_them(out, monkeypatch):
    """A grown study that is stopped shows what it had."""
    before = (out / "summary.csv").read_bytes()

    def stop(*given, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rolloutbench.cells.executors.run_cell", stop)
        assert run(f"{SMALL} -a vip -a knapsack --out {out}").code == 130
    assert (out / "summary.csv").read_bytes() == before
    assert run(f"show {out}").code == 0


# --- files that somebody else wrote


def change(out, **changes):
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["study"].update(changes)
    (out / "manifest.json").write_text(json.dumps(manifest))


def test_a_manifest_cannot_have_cells_or_measurements_deleted(out):
    manifest = json.loads((out / "manifest.json").read_text())
    own = ["cells", "manifest.json", "study.toml", "bank.parquet", "pass_rates.parquet", "runs", ".lock"]
    (out / "bank.parquet").write_text("precious")
    (out / "runs").mkdir()
    manifest["files"] = own
    (out / "manifest.json").write_text(json.dumps(manifest))
    before = sorted((out / "cells").iterdir())
    assert run(f"{SMALL} -a vip --out {out}").code == 0
    assert sorted((out / "cells").iterdir()) == before
    assert (out / "bank.parquet").exists()
    assert (out / "runs").exists()


def test_a_cell_of_another_seed_is_not_taken_for_one_of_this(out):
    assert run(f"{SMALL} -a vip --seed 7 --out other").code == 0
    numbers = (out / "summary.csv").read_bytes()
    for mine, theirs in zip(sorted((out / "cells").iterdir()), Path("other/cells").iterdir(), strict=False):
        mine.unlink()
        shutil.copy(theirs, out / "cells" / f"{mine.name.partition('-')[0]}-{theirs.name.partition('-')[2]}")
    again = run(f"{SMALL} -a vip --out {out}")
    assert again.code == 0
    assert again.err.count("its file was damaged, it runs again") == 2
    assert (out / "summary.csv").read_bytes() == numbers


DAMAGE = {
    "kind": {"kind": []},
    "config": {"config": {"study": []}},
    "sort": {"sort": 5},
    "another sort": {"sort": "beauty"},
    "captions": {"captions": {}},
    "allocators": {"allocators": ["a"]},
    "scenarios": {"scenarios": 5},
    "command": {"command": 5},
    "replicates": {"replicates": "many"},
    "machine": {"machine": {"packages": 3}},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_one_line(out, damage):
    change(out, **damage)
    refused(run(f"report {out}"), str(out))
    if "machine" not in damage:  # which only a report shows
        for command in (f"show {out}", f"diff {out} {out}"):
            refused(run(command), str(out))


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "scenario,allocator\nx,y\n", "", "\x00\xff"])
def test_a_table_of_something_else_is_one_line(out, content):
    (out / "summary.csv").write_text(content, encoding="latin-1")
    for command in (f"show {out}", f"report {out}"):
        refused(run(command), "summary.csv")


def test_names_of_others_steer_no_terminal(out):
    evil = "\x1b[31mvip\u202e"
    manifest = (out / "manifest.json").read_text().replace('"vip"', json.dumps(evil))
    (out / "manifest.json").write_text(manifest)
    table = pd.read_csv(out / "summary.csv").replace({"allocator": {"vip": evil}})
    table.to_csv(out / "summary.csv", index=False)
    shown = run(f"show {out}")
    assert shown.code == 0
    assert "?[31mvip?" in shown.out
    assert run(f"report {out}").code == 0
    told = shown.out + (out / "report.html").read_text() + (out / "report.md").read_text()
    assert [letter for letter in told if text.is_hidden(letter) and letter not in "\n\t"] == []


# --- text and numbers at entry


@pytest.mark.parametrize(
    "command",
    [
        "compare -a vip[predictor=\udcff]",
        "compare --pass-rates p\udcff.csv",
        "compare --out a\udcff",
        "solve --p p\x1b.csv --budget 3",
        "show a\u202eb",
        "record --task a\x07",
        "figures \x00",
        "claims \u2066",
        "predict -p beta\x7f",
    ],
)
def test_text_that_cannot_be_printed_is_refused_at_once(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(command), "command line: ", "text that can be printed is expected")
    assert list(tmp_path.iterdir()) == []


def test_text_of_a_file_is_checked_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nul.toml").write_text('study = "train"\ntask = "jsonl[path=a\\u0000b]"\n')
    refused(run("train nul.toml"), "nul.toml: task: ", "U+0000")
    Path("long.toml").write_text(f'allocators = ["{"a" * 30_000}"]')
    refused(run("compare --config long.toml"), "long.toml: allocators: unknown allocator")


def test_an_empty_description_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.toml").write_text("# nothing\n")
    for command in ("compare --config empty.toml", "predict --config empty.toml", "train empty.toml"):
        refused(run(command), "empty.toml: is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.toml"]


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "pipe"])
def test_what_never_ends_is_not_read(tmp_path, monkeypatch, device):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    refused(run(f"compare --config {device}"), "no regular file")
    refused(run(f"train --task jsonl[path={device}]"), "no regular file")
    refused(run(f"solve --p {device} --budget 3"), device)


def test_a_line_of_100_megabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("long.jsonl", "wb") as file:
        file.write(b'{"prompt": "')
        for _ in range(100):
            file.write(b"a" * 2**20)
        file.write(b'", "answer": "1"}\n')
    refused(run("train --task jsonl[path=long.jsonl]"), "long.jsonl, line 1: is longer than")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare --replicates 1000000", "cells; at most 1,000,000 are expected"),
        ("compare --steps 1000000 --replicates 100000", "roughly"),
        ("train --trainer ppo[learning_rate=1e308]", "learning_rate"),
        ("train --model tiny[learning_rate=1e308]", "learning_rate"),
        ("solve --p 0.1,0.5 --budget 10 --upper 99999999999", "--upper"),
    ],
)
def test_what_would_never_end_is_refused_before_it_begins(command, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(command)
    refused(done, said)
    assert list(tmp_path.iterdir()) == []


def test_what_takes_long_is_said_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def stop(*given, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr("rolloutbench.studies.carry_out.identify", stop)
    done = run("compare --steps 1000000")
    cells = (1 + len(DEFAULT_ALLOCATORS) * len(RATE_FACTORS)) * len(DEFAULT_SCENARIOS)
    assert done.code == 130
    assert done.err.startswith(f"rolloutbench: note: {cells} cells, roughly ")
    assert " of one core; Ctrl-C keeps what is done\n" in done.err


def test_an_optional_library_that_is_missing_is_one_line(tmp_path, monkeypatch):
    """Imported at the top of modules or where it is used."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "real_runs"]:
        if name.partition(".")[2] in ("recording", "sketches", "likelihood", "trainer", "environment"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(run("record --device cpu"), "torch is not installed: pip install 'rolloutbench[llm]'")


# --- the process and its surroundings


@pytest.mark.slow
def test_surroundings_change_nothing(study, tmp_path):
    """Closed streams, an ASCII terminal, warnings as errors, few open files."""
    two = f"rolloutbench {SMALL.replace('--jobs 1', '--jobs 2')} --out {tmp_path}"
    shown = program(f"PYTHONIOENCODING=ascii rolloutbench show {study}")
    assert shown.returncode == 0, shown.stderr
    assert b"snapshot-u-shaped-v1" in shown.stdout
    warned = program(f"PYTHONWARNINGS=error PYTHONOPTIMIZE=1 LC_ALL=C COLUMNS=x rolloutbench show {study}")
    assert warned.returncode == 0, warned.stderr
    closed = program(f"{two}/closed >&- <&-")
    assert closed.returncode == 0, closed.stderr
    assert (tmp_path / "closed" / "summary.csv").exists()
    few = program(f"ulimit -n 20; {two}/few")
    assert few.returncode == 2
    assert b"--jobs 2: needs 40 open files, and this process may have 20" in few.stderr
    assert few.stderr.count(b"\n") == 1


def test_a_clock_that_goes_backwards_changes_nothing(study, tmp_path, monkeypatch):
    """An hour with every look at it, as after a correction of the time; and files from the future."""
    looks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 2e9 - 3600.0 * next(looks))
    monkeypatch.setattr("rolloutbench.analysis.plotting.panels.save", lambda *given: None)
    out = tmp_path / "out"
    assert run(f"{SMALL} -a vip --out {out}").code == 0
    for path in out.rglob("*"):
        os.utime(path, (4e9, 4e9))
    again = run(f"{SMALL} -a vip -a knapsack --out {out}")
    assert again.code == 0, again.err
    assert "2 of 3 cells are finished already" in again.err
    names = ["scenario", "allocator", "metric", "replicate", "value"]
    tables = [pd.read_parquet(where / "per_replicate.parquet") for where in (study, out)]
    shared = [table[table.allocator.isin(["uniform", "vip"])] for table in tables]
    kept = [table.loc[:, [name for name in names if name in table]] for table in shared]
    pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in kept))


@pytest.mark.slow
@pytest.mark.torch
def test_too_little_memory_to_load_what_is_installed_is_said(tmp_path):
    """And not that it is not installed, nor in a traceback.

    Torch is what does not fit. Where numpy itself hardly fits, its OpenBLAS asks for memory without end.
    """
    asked = f"--device cpu --steps 1 --seeds 2 -a uniform --jobs 1 --out {tmp_path}/out"
    done = program(f"ulimit -v 900000; OPENBLAS_NUM_THREADS=1 rolloutbench train {asked}")
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert "cannot be loaded" in said or "cannot be imported" in said
    assert "not installed" not in said


@pytest.mark.slow
@pytest.mark.kill
def test_ctrl_c_while_it_is_imported_is_one_line():
    for delay in (0.15, 0.4, 0.8):
        streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with subprocess.Popen([*PROGRAM, "list"], **streams) as started:
            time.sleep(delay)
            started.send_signal(signal.SIGINT)
            said = started.stderr.read().decode()
        assert started.returncode in (0, 130, -signal.SIGINT)
        # Before the first line of ours it is Python that answers.
        assert "Traceback" not in said or "rolloutbench/cli" not in said, said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to be another")
@pytest.mark.slow
def test_an_ordinary_user_who_may_not_write_is_told_so(study, tmp_path):
    folder = tmp_path / "roots"
    folder.mkdir(mode=0o755)
    for above in [*folder.parents][:3]:  # pytest's own, which only the owner may enter
        above.chmod(0o755)
    # Everything is imported by a first run: the environment need not be open to others.
    become = (
        "import os, sys; from rolloutbench.cli import main\n"
        "def go(out):\n"
        "    sys.argv = [*sys.argv[:-1], out]\n"
        "    try: main()\n"
        "    except SystemExit as end: return end.code\n"
        f"assert go({str(tmp_path / 'first')!r}) == 0\n"
        "print('now', file=sys.stderr)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"sys.exit(go({str(folder / 'out')!r}))"
    )
    tried = subprocess.run(
        [sys.executable, "-c", become, *SMALL.split(), "-a", "vip", "--out", "DIR"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    said = tried.stderr.partition("now\n")[2]
    assert tried.returncode == 2, tried.stderr
    assert said.strip().endswith("cannot be written: Permission denied")
    assert said.count("\n") == 1
