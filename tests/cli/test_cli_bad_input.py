"""Wrong command lines and wrong files: exit code 2, one clear line on stderr, nothing left on disk.

The tables hold a command, and what its error must name: the field or option, the value, or what was
probably meant. Most run inside this process, a few as the program itself.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from command_line import Output, run

from rolloutbench.allocators import allocators
from rolloutbench.allocators.uniform import Uniform

START = "rolloutbench: error: "
SOLVE = "solve --p 0.1,0.5,0.9 --budget 24"
FILE = "solve --budget 24 --p"
CVXPY = "solve --p groups.csv --budget 240 --solver cvxpy"
RUN = "compare --snapshot --quick --prompts 16 --out new/out"
COMPARE = f"{RUN} -a vip -s snapshot-weak-v1"
LEARN = "compare --quick -a vip --out new/out -s u-shaped-v1"
RATES = f"{RUN} -a vip --pass-rates"


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer)
    return buffer.getvalue()


FILES = {
    "empty.csv": "",
    "blank.csv": "\n\n",
    "header.csv": "p,weight\n",
    "no-header.csv": "0.1\n0.2\n",
    "other.csv": "pp,wait\n0.1,1\n",
    "semicolons.csv": "p;weight\n0.1;1\n",
    "hole.csv": "p,weight\n0.1,1\n,1\n",
    "above.csv": "p\n0.1\n0.2\n1.5\n",
    "below.csv": "p\n-0.25\n",
    "text.csv": "p\n0.1\nhalf\n",
    "infinite.csv": "p\ninf\n",
    "two-lines.csv": 'p\n"0.1\n0.2"\n',
    "long-rows.csv": "p\n0.1,0.2\n0.3,0.4\n",
    "ragged.csv": "p\n0.1\n0.3,0.4\n",
    "quote.csv": '"p\n0.1\n',
    "late.csv": "p\n" + "0.5\n" * 100_000 + "half\n",
    "utf16.csv": "p\n0.1\n".encode("utf-16"),
    "bytes.csv": bytes(range(256)) * 4,
    "weight.csv": "p,weight\n0.1,1\n0.2,-3\n",
    "cost.csv": "p,cost\n0.1,1\n0.2,dear\n",
    "groups.csv": "p,group,cost\n0.1,hard,10\n0.5,middle,20\n0.9,easy,30\n",
    "garbage.parquet": b"\x00garbage\xff" * 99,
    "empty.parquet": b"",
    "cut.parquet": parquet(p=np.linspace(0, 1, 100))[:-30],
    "rows.parquet": parquet(p=[]),
    "hole.parquet": parquet(p=[0.1, None]),
    "text.parquet": parquet(p=["0.1", "half"]),
    "lists.parquet": parquet(p=[[0.1], [0.2]]),
    "directory.csv/inside": "",
    "rates.csv": "pass_rate,n,fraction\n0.5,8,8\n0.25,0,2.5\n",
    "bad-rates.csv": "pass_rate\n0.5\n8\n",
    "dead-rates.csv": "pass_rate\n0\n1\n",
    "taken": "a file",
    "foreign/thesis.tex": "not ours",
    "earlier/manifest.json": '{"format": 1, "study": {"seed": 7}, "files": ["summary.csv"], "cells": {}}',
    "earlier/summary.csv": "precious",
}

WRONG_COMMANDS = {
    "unknown-command": ("slove --p 0.1", "'slove'", "solve"),
    "unknown-option": (f"{SOLVE} --objectiv rloo", "--objectiv", "--objective"),
    "unknown-option-of-all": ("--nonsense", "--nonsense"),
    "extra-argument": (f"{SOLVE} surplus", "surplus"),
    "no-p": ("solve --budget 24", "--p"),
    "no-budget": ("solve --p 0.1", "--budget"),
    "option-without-value": (f"{SOLVE} --objective", "--objective"),
    "list-unknown-kind": ("list predicter", "predicter", "'predictor'"),
    "list-two-kinds": ("list allocator predictor", "predictor"),
    "list-unknown-option": ("list --jsn", "--jsn"),
}

WRONG_PROBABILITIES = {
    "empty": ("solve --budget 9 --p ''", "--p", "''"),
    "missing-number": ("solve --budget 9 --p 0.1,,0.2", "--p", "''"),
    "comma-at-the-end": ("solve --budget 9 --p 0.1,0.2,", "--p", "''"),
    "nan": ("solve --budget 9 --p 0.1,nan", "--p", "nan", "[0, 1]"),
    "infinity": ("solve --budget 9 --p inf", "--p", "inf", "[0, 1]"),
    "above-1": ("solve --budget 9 --p 0.1,1.5", "--p", "1.5", "[0, 1]"),
    "negative": ("solve --budget 9 --p -0.25,0.5", "--p", "-0.25", "[0, 1]"),
    "text": ("solve --budget 9 --p 0.1,half", "--p", "'half'"),
    "semicolon": ("solve --budget 9 --p '0.1;0.2'", "--p", "'0.1;0.2'"),
    "very-long-text": (f"solve --budget 9 --p {'x' * 5000}", "--p"),
}

WRONG_FILES = {
    "missing-csv": (f"{FILE} missing.csv", "missing.csv", "no such file"),
    "missing-parquet": (f"{FILE} missing.parquet", "missing.parquet", "no such file"),
    "missing-json": (f"{FILE} missing.json", "missing.json"),
    "directory": (f"{FILE} directory.csv", "directory.csv", "is a directory"),
    "plain-directory": (f"{FILE} foreign", "foreign"),
    "empty": (f"{FILE} empty.csv", "empty.csv"),
    "blank": (f"{FILE} blank.csv", "blank.csv"),
    "header-only": (f"{FILE} header.csv", "header.csv", "no rows"),
    "no-header": (f"{FILE} no-header.csv", "no-header.csv", "'p'", "0.1"),
    "no-column": (f"{FILE} other.csv", "other.csv", "'p'", "did you mean pp?"),
    "no-such-column": (f"{FILE} other.csv --column weight", "'weight'", "did you mean wait?"),
    "semicolons": (f"{FILE} semicolons.csv", "'p'", "p;weight"),
    "nan": (f"{FILE} hole.csv", "hole.csv", "'p'", "row 2", "nan", "[0, 1]"),
    "above-1": (f"{FILE} above.csv", "above.csv", "'p'", "row 3", "1.5", "[0, 1]"),
    "negative": (f"{FILE} below.csv", "below.csv", "'p'", "row 1", "-0.25", "[0, 1]"),
    "text": (f"{FILE} text.csv", "text.csv", "'p'", "row 2", "half", "[0, 1]"),
    "infinite": (f"{FILE} infinite.csv", "'p'", "row 1", "inf"),
    "two-lines-in-a-cell": (f"{FILE} two-lines.csv", "'p'", "row 1", "0.1 0.2"),
    "more-cells-than-columns": (f"{FILE} long-rows.csv", "long-rows.csv"),
    "ragged": (f"{FILE} ragged.csv", "ragged.csv", "line 3"),
    "open-quote": (f"{FILE} quote.csv", "quote.csv"),
    "text-far-down": (f"{FILE} late.csv", "late.csv", "row 100001", "half"),
    "utf-16": (f"{FILE} utf16.csv", "utf16.csv"),
    "binary-csv": (f"{FILE} bytes.csv", "bytes.csv"),
    "negative-weight": (f"{FILE} weight.csv", "'weight'", "row 2", "-3", "at least 0"),
    "text-cost": (f"{FILE} cost.csv --solver cvxpy", "'cost'", "row 2", "dear"),
    "garbage-parquet": (f"{FILE} garbage.parquet", "garbage.parquet", "Parquet"),
    "empty-parquet": (f"{FILE} empty.parquet", "empty.parquet", "Parquet"),
    "cut-parquet": (f"{FILE} cut.parquet", "cut.parquet", "Parquet"),
    "parquet-without-rows": (f"{FILE} rows.parquet", "rows.parquet", "no rows"),
    "nan-in-parquet": (f"{FILE} hole.parquet", "'p'", "row 2", "nan"),
    "text-in-parquet": (f"{FILE} text.parquet", "'p'", "row 2", "half"),
    "lists-in-parquet": (f"{FILE} lists.parquet", "'p'", "row 1", "[0.1]"),
}

WRONG_PROBLEMS = {
    "budget-below-lower": (f"{SOLVE} --budget 5", "budget=5", "lower bounds, 6"),
    "budget-above-upper": (f"{SOLVE} --budget 25 --upper 8", "budget=25", "upper bounds, 24"),
    "lower-above-upper": (f"{SOLVE} --lower 9 --upper 8", "lower=9", "upper=8"),
    "negative-budget": (f"{SOLVE} --budget -7", "--budget", "-7", "0"),
    "negative-lower": (f"{SOLVE} --lower -7", "--lower", "-7", "0"),
    "negative-upper": (f"{SOLVE} --upper -7", "--upper", "-7", "0"),
    "text-budget": (f"{SOLVE} --budget many", "--budget", "many", "integer"),
    "fraction-lower": (f"{SOLVE} --lower 2.5", "--lower", "2.5", "integer"),
    "text-upper": (f"{SOLVE} --upper 1e3", "--upper", "1e3", "integer"),
    "enormous-budget": (f"{SOLVE} --budget {10**25}", "budget", str(10**25)),
    "enormous-lower": (f"{SOLVE} --lower {10**25}", "lower", str(10**25)),
    "enormous-upper": (f"{SOLVE} --upper {10**25}", "upper", str(10**25)),
    "greatest-upper": (f"{SOLVE} --upper {2**63 - 1}", "upper", str(2**63 - 1)),
    "upper-that-overflows": (f"{SOLVE} --upper {4 * 10**18}", "upper", str(4 * 10**18)),
    "no-counts-sum-to-it": (f"{SOLVE} --budget 7 --lower 4 --upper 5 --allow-zero", "budget=7"),
    "too-few-to-be-defined": (f"{SOLVE} --budget 3 --lower 1 --upper 1", "budget=3"),
    "unknown-objective": (f"{SOLVE} --objective rlo", "'rlo'", "rloo"),
    "empty-objective": (f"{SOLVE} --objective ''", "objective ''", "known: "),
    "unknown-objective-parameter": (f"{SOLVE} --objective saturating[tao=2]", "'tao'", "tau"),
    "objective-out-of-range": (f"{SOLVE} --objective coba[alpha=0.5]", "alpha=0.5", "1"),
    "unknown-inner-estimator": (f"{SOLVE} --objective mse[estimator=rlo]", "'rlo'", "rloo"),
    "control-characters": (f"{SOLVE} --objective 'hi\x1b[31mt'", "hi"),
    "unknown-solver": (f"{SOLVE} --solver concav", "'concav'", "concave"),
    "concave-on-grpo": (f"{SOLVE} --solver concave --objective grpo", "concave", "dynamic"),
    "concave-with-zeros": (f"{SOLVE} --solver concave --allow-zero", "concave", "allow_zero"),
    "concave-from-3": (f"{SOLVE} --solver concave --objective dr_grpo", "n=3", "lower=2"),
    "continuous-on-hit": (f"{SOLVE} --solver continuous --objective hit", "continuous", "rloo and dr_grpo"),
    "continuous-below-2": (f"{SOLVE} --solver continuous --lower 1", "continuous", "lower"),
    "rounded-on-hit": (f"{SOLVE} --solver rounded --objective hit", "rounded", "rloo and dr_grpo"),
    "cvxpy-on-grpo": (f"{SOLVE} --solver cvxpy --objective grpo", "cvxpy", "diminishing"),
    "group-without-cvxpy": (f"{SOLVE} --group-minimum easy=3", "--group-minimum", "--solver cvxpy"),
    "group-without-number": (f"{CVXPY} --group-minimum easy", "--group-minimum easy", "LABEL=N"),
    "group-without-label": (f"{CVXPY} --group-minimum =3", "--group-minimum =3", "LABEL=N"),
    "group-with-text": (f"{CVXPY} --group-minimum easy=some", "easy=some", "LABEL=N"),
    "group-with-odd-digit": (f"{CVXPY} --group-minimum easy=²", "easy=²", "LABEL=N"),
    "group-negative": (f"{CVXPY} --group-minimum easy=-1", "easy=-1", "LABEL=N"),
    "group-unknown": (f"{CVXPY} --group-minimum eazy=3", "'eazy'", "easy"),
    "group-twice": (f"{CVXPY} --group-minimum easy=3 --group-minimum easy=4", "easy", "twice"),
    "group-without-file": (f"{SOLVE} --solver cvxpy --group-minimum easy=3", "easy", "group"),
    "group-too-great": (f"{CVXPY} --group-minimum easy=9", "budget=240", "infeasible"),
    "tokens-too-few": (f"{CVXPY} --budget 119", "budget=119", "infeasible"),
}

WRONG_COMPARISONS = {
    "unknown-allocator": (f"{COMPARE} -a knapsak", "'knapsak'", "knapsack"),
    "empty-allocator": (f"{COMPARE} -a ''", "allocator ''", "known: "),
    "allocator-twice": (f"{COMPARE} -a vip", "'vip'", "twice"),
    "allocator-twice-with-spaces": (f"{COMPARE} -a ' vip '", "'vip'", "twice"),
    "uniform-twice": (f"{COMPARE} -a uniform -a uniform", "'uniform'", "twice"),
    "unknown-parameter": (f"{COMPARE} -a vip[lowr=3]", "'lowr'", "lower"),
    "parameter-twice": (f"{COMPARE} -a vip[lower=3,lower=4]", "'lower'", "twice"),
    "wrong-type": (f"{COMPARE} -a vip[lower=few]", "lower=few", "integer"),
    "fraction": (f"{COMPARE} -a vip[lower=2.5]", "lower=2.5", "integer"),
    "out-of-range": (f"{COMPARE} -a vip[lower=-3]", "lower=-3", "0"),
    "wrong-choice": (f"{COMPARE} -a inverse_accuracy[rule=linear]", "rule=linear", "'linear_program'"),
    "no-value": (f"{COMPARE} -a vip[lower]", "'lower'", "key=value"),
    "open-bracket": (f"{COMPARE} -a vip[lower=3", "vip[lower=3", "name[key=value,...]"),
    "closed-bracket": (f"{COMPARE} -a vip]", "'vip]'", "vip"),
    "one-bracket-too-many": (f"{COMPARE} -a vip[lower=3]]", "']'"),
    "text-after-brackets": (f"{COMPARE} -a vip[lower=3]x", "vip[lower=3]x", "name[key=value,...]"),
    "unknown-predictor": (f"{COMPARE} -a vip[predictor=bata]", "'bata'", "beta"),
    "predictor-out-of-range": (f"{COMPARE} -a vip[predictor=beta[discount=2]]", "discount=2", "1"),
    "unknown-inner-objective": (f"{COMPARE} -a vip[objective=hitt]", "'hitt'", "hit"),
    "permuted-nothing": (f"{COMPARE} -a permuted[of=nothing]", "allocator 'nothing'", "known: "),
    "nested-too-deep": (f"{COMPARE} -a {'permuted[of=' * 400}vip{']' * 400}", "nest"),
    "inconsistent-parameters": (f"{COMPARE} -a coba[alpha_max=20]", "alpha_max=20", "kappa=11"),
    "unknown-scenario": (f"{COMPARE} -s snapshot-weak", "'snapshot-weak'", "snapshot-weak-v1"),
    "scenario-twice": (f"{COMPARE} -s snapshot-weak-v1", "'snapshot-weak-v1'", "twice"),
    "scenario-twice-by-all": (f"{COMPARE} -s all-snapshots", "'snapshot-weak-v1'", "twice"),
    "two-kinds-of-scenario": (f"{RUN} -s snapshot-weak-v1 -s u-shaped-v1", "u-shaped-v1", "one kind"),
    "snapshot-steps": (f"{COMPARE} --steps 10", "--steps", "a snapshot does not train"),
    "snapshot-learning-rates": (f"{COMPARE} --learning-rates 1,2", "--learning-rates", "does not train"),
    "learning-draws": (f"{LEARN} --draws 5", "--draws 5", "only snapshots"),
    "learning-rate-text": (f"{LEARN} --learning-rates 1,fast", "--learning-rates", "'fast'", "above 0"),
    "learning-rate-zero": (f"{LEARN} --learning-rates 0", "--learning-rates", "'0'", "above 0"),
    "learning-rate-infinite": (f"{LEARN} --learning-rates inf", "--learning-rates", "'inf'", "above 0"),
    "learning-sort": (f"{LEARN} --sort snr", "--sort snr", "known: "),
    "learning-prompts": (f"{LEARN} --prompts 5000", "--prompts 5000", "pool_size=2048"),
    "learning-pool": (f"{LEARN}[pool_size=3]", "pool_size=3", "prompts=128"),
    "learning-optimizer": (f"{LEARN}[optimizer=adamw]", "'adamw'", "adam"),
    "learning-verifier": (f"{LEARN}[false_positive=2]", "false_positive=2", "1"),
    "predict-snapshot": (
        "predict -s snapshot-weak-v1 --out new/out",
        "snapshot-weak-v1",
        "nothing is learned",
    ),
    "predict-unknown": ("predict -p bata --out new/out", "'bata'", "beta"),
    "predict-twice": ("predict -p beta -p beta --out new/out", "'beta'", "twice"),
    "predict-sort": ("predict -s u-shaped-v1 --sort mae --out new/out", "--sort mae", "mae_later"),
    "predict-coverage": ("predict -s u-shaped-v1 --sort coverage_later --out new/out", "coverage_later"),
    "scenario-parameter": (f"{RUN} -s snapshot-weak-v1[visit=2]", "'visit'", "visits"),
    "scenario-out-of-range": (f"{RUN} -s snapshot-weak-v1[predictability=2]", "predictability=2", "1"),
    "unknown-difficulty": (f"{RUN} -s snapshot-weak-v1[difficulty=betta]", "'betta'", "beta"),
    "difficulty-inconsistent": (
        f"{RUN} -s snapshot-weak-v1[difficulty=dead[solved=0.9]]",
        "solved=0.9",
        "at most 1",
    ),
    "unknown-estimator": (f"{COMPARE} --estimator rlo", "'rlo'", "rloo"),
    "estimator-out-of-range": (f"{COMPARE} --estimator grpo[ddof=2]", "ddof=2", "1"),
    "unknown-aggregation": (f"{COMPARE} --aggregation prompts", "--aggregation", "prompts", "rollout"),
    "unknown-metric": (f"{COMPARE} --sort snrr", "--sort snrr", "snr"),
    "metric-that-ranks-nothing": (f"{COMPARE} --sort generated_per_prompt", "generated_per_prompt"),
    "one-replicate": (f"{COMPARE} --replicates 1", "--replicates", "1", "2"),
    "text-replicates": (f"{COMPARE} --replicates many", "--replicates", "many", "integer"),
    "no-jobs": (f"{COMPARE} --jobs 0", "--jobs", "0", "1"),
    "negative-jobs": (f"{COMPARE} --jobs -7", "--jobs", "-7", "1"),
    "no-prompts": (f"{COMPARE} --prompts 0", "--prompts", "0", "2"),
    "one-prompt": (f"{COMPARE} --prompts 1", "--prompts", "1", "2"),
    "no-group": (f"{COMPARE} --group-size 0", "--group-size", "0", "1"),
    "group-of-one": (f"{COMPARE} --group-size 1", "--group-size 1", "estimator grpo takes 2 rollouts"),
    "fraction-group": (f"{COMPARE} --group-size 2.5", "--group-size", "2.5", "integer"),
    "negative-seed": (f"{COMPARE} --seed -7", "--seed", "-7", "0"),
    "text-seed": (f"{COMPARE} --seed lucky", "--seed", "lucky", "integer"),
    "one-draw": (f"{COMPARE} --draws 1", "--draws", "1", "2"),
    "trials-without-rates": (f"{COMPARE} --trials n", "--trials n", "--pass-rates"),
    "rates-missing": (f"{RATES} missing.csv", "missing.csv", "no such file"),
    "rates-directory": (f"{RATES} directory.csv", "directory.csv", "is a directory"),
    "rates-without-column": (f"{RATES} rates.csv --column rate", "'rate'", "pass_rate"),
    "rates-bad-row": (f"{RATES} bad-rates.csv", "'pass_rate'", "row 2", "8", "[0, 1]"),
    "trials-unknown": (f"{RATES} rates.csv --trials m", "'m'", "known: "),
    "trials-zero": (f"{RATES} rates.csv --trials n", "'n'", "row 2", "0", "[1, 1000000]"),
    "trials-fraction": (f"{RATES} rates.csv --trials fraction", "'fraction'", "row 2", "2.5"),
    "out-is-a-file": (f"{COMPARE} --out taken", "out=", "taken", "is a file"),
    "out-below-a-file": (f"{COMPARE} --out taken/sub", "out=", "taken/sub", "cannot be written"),
    "out-far-below-a-file": (f"{COMPARE} --out taken/a/b", "out=", "taken/a/b", "cannot be written"),
    "out-foreign": (f"{COMPARE} --out foreign", "out=", "foreign", "not empty"),
    "out-foreign-overwrite": (f"{COMPARE} --out foreign --overwrite", "out=", "foreign", "not empty"),
    "out-earlier": (f"{COMPARE} --out earlier", "out=", "earlier", "--overwrite"),
    "out-here": (f"{COMPARE} --out .", "out=", "not empty"),
    "out-empty-name": (f"{COMPARE} --out ''", "out=", "not empty"),
    "out-unwritable": (f"{COMPARE} --out /proc/x", "out=/proc/x", "cannot be written"),
    "out-below-unwritable": (f"{COMPARE} --out /proc/x/y", "out=/proc/x/y", "cannot be written"),
    "out-device": (f"{COMPARE} --out /dev/null", "out=/dev/null", "is a file"),
    "out-name-too-long": (f"{COMPARE} --out {'x' * 300}", "out=", "too long"),
    "out-link-to-itself": (f"{COMPARE} --out loop", "out=", "loop"),
}

FOUND_WHILE_RUNNING = {
    "learning-vip-lower": (f"{LEARN}[prompts=8,pool_size=16] -a vip[lower=9]", "vip[lower=9]", "budget=64"),
    "vip-lower": (f"{COMPARE} -a vip[lower=9] --jobs 2", "vip[lower=9]", "budget=128", "144"),
    "vip-upper": (f"{COMPARE} -a vip[upper=7]", "vip[upper=7]", "budget=128", "112"),
    "vip-bounds": (f"{COMPARE} -a vip[lower=5,upper=4]", "vip[lower=5,upper=4]", "lower=5", "upper=4"),
    "vip-small-groups": (
        f"{COMPARE} --group-size 1 --estimator reinforce -a vip[lower=2]",
        "vip",
        "budget=16",
        "32",
    ),
    "random-lower": (f"{COMPARE} -a random[lower=20]", "random[lower=20]", "budget=128", "lower=20"),
    "permuted-lower": (f"{COMPARE} -a permuted[of=vip[lower=9]]", "permuted[of=vip[lower=9]]", "144"),
    "enormous-lower": (f"{COMPARE} -a vip[lower={10**25}]", "vip", f"lower={10**25}"),
    "enormous-upper": (f"{COMPARE} -a vip[upper={10**25}]", "vip", f"upper={10**25}"),
    "greatest-upper": (f"{COMPARE} -a vip[upper={2**63 - 1}]", "vip", f"upper={2**63 - 1}"),
    "enormous-random-lower": (f"{COMPARE} -a random[lower={10**25}]", "random", f"lower={10**25}"),
    "out-of-memory": (f"{RUN} -s snapshot-weak-v1[dimension={10**12}]", "emory"),
    "out-of-memory-in-an-allocator": (f"{COMPARE} -a coba[window={10**15}]", "emory"),
}

EARLY = {
    f"{table}-{name}": case
    for table, cases in {
        "command": WRONG_COMMANDS,
        "p": WRONG_PROBABILITIES,
        "file": WRONG_FILES,
        "problem": WRONG_PROBLEMS,
        "compare": WRONG_COMPARISONS,
    }.items()
    for name, case in cases.items()
}


def tree() -> dict[str, object]:
    """Everything below the current directory, with contents."""
    found: dict[str, object] = {}
    for path in sorted(Path().rglob("*")):
        is_plain = path.is_file() and not path.is_symlink()
        found[str(path)] = path.read_bytes() if is_plain else path.is_dir()
    return found


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    Path("loop").symlink_to("loop")


def check_line(line: str, fragments: tuple[str, ...]) -> None:
    assert line.startswith(START)
    assert [part for part in fragments if part not in line.removeprefix(START)] == [], line
    assert line.isprintable()
    unclear = ("Traceback", "Value error", "None", "bounds, -")
    assert [part for part in unclear if part in line] == [], line


def check_refused(done: Output, fragments: tuple[str, ...], running: bool = False) -> None:
    code, out, err = done
    *before, line = err.strip().splitlines() or [""]
    assert [text for text in before if not (running and text.startswith("compare: "))] == []
    check_line(line, fragments)
    assert code == 2
    assert out == ""


@pytest.mark.parametrize("case", EARLY.values(), ids=EARLY)
def test_wrong_input_is_refused_in_one_line(case):
    command, *fragments = case
    before = tree()
    check_refused(run(command), tuple(fragments))
    assert tree() == before


@pytest.mark.slow
@pytest.mark.parametrize("case", FOUND_WHILE_RUNNING.values(), ids=FOUND_WHILE_RUNNING)
def test_what_is_found_while_running_is_told_and_the_others_go_on(case):
    """Where nobody can go on, as without memory for the pool, nothing is left."""
    command, *fragments = case
    before = tree()
    done = run(command)
    if done.code == 1:
        assert "uniform" in done.out
        first, *_, last = [line for line in done.err.splitlines() if line.startswith(START)]
        check_line(first, tuple(fragments))
        check_line(last, ("cells failed", "left out"))
    else:
        check_refused(done, tuple(fragments), running=True)
        assert tree() == before


def test_cvxpy_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    check_refused(run(f"{SOLVE} --solver cvxpy"), ("cvxpy", "pip install 'rolloutbench[cvxpy]'"))


def test_nothing_to_compare_is_no_traceback():
    """Pass rates of 0 and 1 only: no gradient anywhere."""
    check_refused(run(f"{RATES} dead-rates.csv"), ("dead-rates.csv", "none of 2 prompts has 0 < p < 1"))


@pytest.mark.parametrize("where", ["pyarrow.parquet.write_table", "pandas.DataFrame.to_parquet"])
def test_a_full_disk(monkeypatch, where):
    """While cells are stored, and while the results are written: the same command goes on."""
    done_before = []

    def full(*given: object, **__: object) -> None:
        done_before.append(given)
        if len(done_before) > 1 or where.startswith("pandas"):
            raise OSError(28, "No space left on device")

    write = pyarrow.parquet.write_table
    with monkeypatch.context() as patch:
        if where.startswith("pyarrow"):
            patch.setattr(where, lambda *given, **how: (full(), write(*given, **how)))
        else:
            patch.setattr(where, full)
        code, out, err = run(f"{COMPARE} --jobs 1")
    assert (code, out) == (1, "")
    kept = 1 if where.startswith("pyarrow") else 2
    said = f"{kept} of 2 cells are kept in new/out, and the same command goes on"
    check_line(err.strip().splitlines()[-1], ("No space left on device", said))
    assert list(Path().rglob("*.unfinished")) == []
    again = run(f"{COMPARE} --jobs 1")
    assert again.code == 0
    assert f"{kept} of 2 cells are finished already" in again.err


def test_a_full_disk_from_the_start(monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = tree()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        code, out, err = run(COMPARE)
    assert (code, out) == (1, "")
    check_line(err.strip().splitlines()[-1], ("No space left on device",))
    assert tree() == before


def test_an_allocator_that_breaks_the_contract_is_named(monkeypatch):
    class Greedy(Uniform):
        def allocate(self, prompts, budget):
            return super().allocate(prompts, budget) + 1

    monkeypatch.setitem(allocators._entries, "greedy", Greedy)
    code, out, err = run(f"{COMPARE} -a greedy --jobs 1")
    assert code == 1
    line = next(line for line in err.splitlines() if line.startswith(START))
    check_line(line, ("Greedy", "overspends", "144", "128"))
    assert "greedy" not in out


def test_results_that_are_not_there(monkeypatch):
    Path("cut").mkdir()
    Path("cut/manifest.json").write_text('{"format": 1, "stu')
    Path("begun").mkdir()
    study = {"command": "rolloutbench compare --out begun", "kind": "snapshot", "config": {}}
    Path("begun/manifest.json").write_text(
        json.dumps({"format": 1, "study": study, "files": [], "cells": {}})
    )
    for directory, said in {
        "nowhere": ("nowhere", "holds no results"),
        "foreign": ("foreign", "holds no results"),
        "taken": ("taken", "manifest.json", "cannot be read"),
        "cut": ("cut/manifest.json", "is damaged", "--out cut"),
        "begun": ("begun", "not finished", "rolloutbench compare --out begun"),
        "earlier": ("earlier", "describes no study"),
    }.items():
        before = tree()
        for command in (f"show {directory}", f"report {directory}", f"diff {directory} {directory}"):
            check_refused(run(command), said)
        check_refused(run(f"merge {directory} --out new"), said if directory != "begun" else ())
        assert tree() == before


# --- the program itself

PROGRAM = [sys.executable, "-m", "rolloutbench"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "running"),
    [
        (WRONG_COMMANDS["no-p"], False),
        (WRONG_FILES["text-far-down"], False),
        (WRONG_COMPARISONS["out-foreign"], False),
        ((f"{RUN} -s snapshot-weak-v1[dimension={10**12}] --jobs 2", "emory"), True),
    ],
    ids=["option", "file", "out", "two-jobs"],
)
def test_the_program_refuses_in_one_line(case, running):
    command, *fragments = case
    before = tree()
    done = subprocess.run([*PROGRAM, *shlex.split(command)], capture_output=True, text=True, check=False)
    check_refused((done.returncode, done.stdout, done.stderr), tuple(fragments), running)
    assert tree() == before


@pytest.mark.slow
def test_a_comparison_that_is_told_to_end_keeps_what_it_has():
    """Ctrl-C: see test_kill.py."""
    # Long enough to be ended: the first line on stderr comes after a fifth of the cells.
    command = [*PROGRAM, *shlex.split("compare -s all-snapshots --out new/out --jobs 1")]
    program = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert program.stderr is not None
    assert program.stderr.readline().startswith("compare: ")
    os.killpg(program.pid, signal.SIGTERM)
    out, err = program.communicate(timeout=60)
    assert program.returncode in {143, -signal.SIGTERM}
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("compare: ")] == []
    assert list(Path().rglob("*.unfinished")) == []
    assert len(list(Path("new/out/cells").iterdir())) > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["list", "list --json", f"{SOLVE} --json", COMPARE],
    ids=["list", "list-json", "solve", "compare"],
)
def test_a_reader_that_leaves_early_causes_no_traceback(command):
    pipe = f"{shlex.join([*PROGRAM, *shlex.split(command)])} | head -1"
    outside = {name: value for name, value in os.environ.items() if name != "LOKY_MAX_CPU_COUNT"}
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, check=False, env=outside)
    assert len(done.stdout.splitlines()) == 1
    assert "\x1b" not in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith("compare: ")] == []
    assert Path("new/out/summary.csv").is_file() == (command == COMPARE)
