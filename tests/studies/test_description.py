"""Study files: what they say is what is run, flags say the same, and a broken one gets one clear line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import tomllib
from datetime import date, datetime, time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import tomli_w
import typer
from command_line import run
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rolloutbench.allocators import all_specs
from rolloutbench.cells.cell import identify
from rolloutbench.cli import app
from rolloutbench.protocol import InputError
from rolloutbench.studies import kinds
from rolloutbench.studies.defaults import (
    DEFAULT_ALLOCATORS,
    DEFAULT_PREDICTORS,
    RATE_FACTORS,
    SNAPSHOT_ALLOCATORS,
)
from rolloutbench.studies.description import read_toml
from rolloutbench.studies.kinds.comparison import Comparison
from rolloutbench.studies.kinds.learning import LearningResults, LearningStudy
from rolloutbench.studies.kinds.prediction import Prediction, PredictionResults
from rolloutbench.studies.kinds.snapshot import SnapshotResults, SnapshotStudy
from simulators.optimizers import Adam
from simulators.scenarios import (
    DEFAULT_SCENARIOS,
    SNAPSHOT_SCENARIOS,
    LearningScenario,
    SnapshotScenario,
    scenarios,
)

DESCRIPTIONS = {name: kinds.description_of(name) for name in kinds.DESCRIPTIONS}
START = "rolloutbench: error: "
FILE = Path("study.toml")
RATES = Path("data/rates.csv")
SHORT, LONG = 400, 820
"""Characters of an error line: where a value has no end, and where all metrics or scenarios are listed."""


class WouldRun(BaseException):
    """A valid study got as far as being carried out; nothing but this test may catch it."""

    def __init__(self, study, about):
        self.study, self.about = study, about


def not_carried_out(description, *_, **__):
    """Stands for `carry_out`, which would write what is recorded."""
    study = description.build()
    record = description.record(study)
    json.dumps(record)
    assert tomllib.loads(tomli_w.dumps(record["config"])) == record["config"]
    raise WouldRun(study, record)


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    (folder / RATES).parent.mkdir()
    measured = {"pass_rate": [0, 0.25, 0.5, 1], "half": [0.5] * 4, "n": [4] * 4, "above": [2] * 4}
    measured = {name: values * 50 for name, values in measured.items()}
    pd.DataFrame(measured).to_csv(folder / RATES, index=False)
    with (
        contextlib.chdir(folder),
        mock.patch("rolloutbench.api.carry_out", not_carried_out),
        mock.patch("rolloutbench.cli.app.app", typer.main.get_command(app.app)),  # once
    ):
        yield


def write(described, path=FILE):
    """A study file of a description, a text, or bytes."""
    if isinstance(described, dict):  # an empty file is refused
        described = tomli_w.dumps(described or {"seed": 0})
    path.write_bytes(described.encode() if isinstance(described, str) else described)
    return path


def keys(study):
    return list(identify(study.cells(Path()))[0])


def started(command):
    """The study that a command carries out, and what is kept of its description."""
    with pytest.raises(WouldRun) as caught:
        run(command)
    return caught.value.study, caught.value.about


# --- valid studies

KINDS = {
    kind: [name for name in scenarios.names() if type(scenarios.create(name)) is made]
    for kind, made in {"learning": LearningScenario, "snapshot": SnapshotScenario}.items()
}
NO_FLAG = ("study", "title", "question")

shares = st.floats(0, 1).map("{:.3g}".format)
counts = st.integers(1, 99)


def spec(name, **parameters):
    """`name`, or with some of the parameters in brackets."""
    chosen = st.fixed_dictionaries({}, optional=parameters)
    return chosen.map(
        lambda given: name + (f"[{','.join(f'{k}={v}' for k, v in given.items())}]" if given else "")
    )


def specs(*named, most=3):
    return st.lists(st.one_of(*named), min_size=1, max_size=most, unique=True)


predictor_specs = [
    spec("beta", discount=shares.filter(lambda text: float(text) > 0)),
    spec("last_epoch", unseen=shares),
    spec("gp", noise=st.sampled_from(["none", "0"])),
    spec("global_mean", window=counts),
]
allocator_specs = [
    spec("vip", lower=counts, predictor=predictor_specs[0]),
    spec("knapsack", predictor=st.just("oracle")),
    spec("dapo", carry=st.booleans(), oversample=counts),
    spec("permuted", of=spec("vip", upper=counts)),
    spec("pods", divide=counts),
    st.sampled_from(all_specs()),
]
scenario_specs = {
    "learning": st.one_of(
        *(spec(name, noise_ratio=counts, optimizer=st.just("adam[beta1=0.5]")) for name in KINDS["learning"])
    ),
    "snapshot": st.one_of(*(spec(name, visits=counts, predictability=shares) for name in KINDS["snapshot"])),
}

HIDDEN = ["Cc", "Cf", "Cs", "Zl", "Zp"]
texts = st.text(st.characters(exclude_categories=HIDDEN), max_size=20)
common = {
    "title": texts,
    "question": texts,
    "estimator": st.one_of(
        st.sampled_from(["rloo", "reinforce", "dr_grpo"]), spec("grpo", ddof=st.integers(0, 1))
    ),
    "aggregation": st.sampled_from(["prompt", "rollout"]),
    "replicates": st.integers(2, 40),
    "seed": st.one_of(st.integers(0, 99), st.just(2**128 - 1)),
}


def ranking(results):
    return st.sampled_from([name for name, metric in results.metrics.items() if metric.ranks])


sizes = {"prompts": st.integers(2, 200), "group_size": st.integers(2, 99)}
factors = st.one_of(st.floats(1e-9, 1e6, exclude_max=True), st.integers(1, 9))
learning = st.fixed_dictionaries(
    {},
    optional=common
    | sizes
    | {
        "study": st.just("compare"),
        "allocators": specs(*allocator_specs),
        "scenarios": specs(scenario_specs["learning"]),
        "steps": st.integers(1, 999),
        "learning_rates": st.lists(factors, min_size=1, max_size=3),
        "snapshot": st.just(False),
        "sort": ranking(LearningResults),
    },
)
of_snapshots = common | sizes | {"allocators": specs(*allocator_specs), "draws": st.integers(2, 99)}
of_snapshots |= {"sort": ranking(SnapshotResults)}
named_snapshots = {"scenarios": specs(scenario_specs["snapshot"])}
snapshots = st.one_of(
    st.fixed_dictionaries({"snapshot": st.just(True)}, optional=of_snapshots | named_snapshots),
    st.fixed_dictionaries(named_snapshots, optional=of_snapshots),
)
measured_too = st.fixed_dictionaries(
    {"pass_rates": st.just(str(RATES)), "snapshot": st.booleans()},
    optional=common | {"column": st.just("half"), "trials": st.just("n")},
)
comparisons = st.one_of(learning, snapshots, measured_too)
predictions = st.fixed_dictionaries(
    {},
    optional=common
    | {
        "study": st.just("predict"),
        "predictors": specs(*predictor_specs),
        "scenarios": specs(scenario_specs["learning"]),
        "allocator": st.one_of(*allocator_specs),
        "sort": ranking(PredictionResults),
    },
)
described_studies = st.one_of(
    comparisons.map(lambda described: ("compare", described)),
    predictions.map(lambda described: ("predict", described)),
)


def flags(described):
    """The same on the command line."""
    singular = {"allocators": "--allocator", "scenarios": "--scenario", "predictors": "--predictor"}
    parts = []
    for key, value in described.items():
        option = singular.get(key, f"--{key.replace('_', '-')}")
        if key in singular:
            parts += [part for spec in value for part in (option, spec)]
        elif key == "learning_rates":
            parts += [option, ",".join(map(repr, value))]
        elif key == "snapshot":
            parts += [option] * value
        elif key not in NO_FLAG:
            parts += [option, str(value)]
    return shlex.join(parts)


def with_baseline(given, default):
    return ["uniform", *(spec for spec in (default if given is None else given) if spec != "uniform")]


@given(learning)
def test_a_learning_study_says_what_its_file_says(described):
    study = Comparison.of({}, write(described)).build()
    assert isinstance(study, LearningStudy)
    assert list(study.scenarios) == list(described.get("scenarios", DEFAULT_SCENARIOS))
    assert list(study.allocators) == with_baseline(described.get("allocators"), DEFAULT_ALLOCATORS)
    assert study.estimator_name == described.get("estimator", "grpo")
    assert study.aggregation == described.get("aggregation", "rollout")
    assert study.replicates == described.get("replicates", 16)
    assert study.seed == described.get("seed", 0)
    assert set(study.rates) == {1.0, *described.get("learning_rates", RATE_FACTORS)}
    assert list(study.rates) == sorted(study.rates)
    for name, made in study.scenarios.items():
        own = scenarios.create(name)
        for key in ("prompts", "group_size", "steps"):
            assert getattr(made, key) == described.get(key, getattr(own, key))
        assert made.noise_ratio == own.noise_ratio
        assert made.optimizer == (own.optimizer if "[" in name and "optimizer" in name else Adam())


@given(snapshots)
def test_a_snapshot_study_says_what_its_file_says(described):
    study = Comparison.of({}, write(described)).build()
    assert isinstance(study, SnapshotStudy)
    assert list(study.scenarios) == list(described.get("scenarios", SNAPSHOT_SCENARIOS))
    assert list(study.allocators) == with_baseline(described.get("allocators"), SNAPSHOT_ALLOCATORS)
    assert study.replicates == described.get("replicates", 128)
    assert study.budget.prompts == described.get("prompts", 128)
    assert study.budget.group_size == described.get("group_size", 8)
    assert study.draws == described.get("draws")


@given(predictions)
def test_a_prediction_says_what_its_file_says(described):
    study = Prediction.of({}, write(described)).build()
    assert list(study.scenarios) == list(described.get("scenarios", DEFAULT_SCENARIOS))
    assert list(study.predictors) == with_baseline(described.get("predictors"), DEFAULT_PREDICTORS)
    assert list(study.allocators) == [described.get("allocator", "uniform")]
    assert study.replicates == described.get("replicates", 16)
    assert study.seed == described.get("seed", 0)


@given(described_studies)
def test_a_resolved_description_is_the_same_study(kind_and_described):
    kind, described = kind_and_described
    first = DESCRIPTIONS[kind].of({}, write(described))
    study = first.build()
    resolved = first.resolved(study)
    again = DESCRIPTIONS[kind].of({}, write(resolved, Path("again.toml")))
    same = again.build()
    assert again.resolved(same) == resolved
    assert tomllib.loads(tomli_w.dumps(resolved)) == resolved
    assert {key: resolved[key] for key in described if key in ("title", "question", "sort", "seed")} == {
        key: value for key, value in described.items() if key in ("title", "question", "sort", "seed")
    }
    assert again.sorted_by(same) == first.sorted_by(study)
    assert list(same.scenarios) == list(study.scenarios)
    assert same.record() == study.record()
    assert keys(same) == keys(study)


@settings(max_examples=60)
@given(described_studies)
def test_flags_say_the_same_as_a_file(kind_and_described):
    kind, described = kind_and_described
    described = {key: value for key, value in described.items() if key not in NO_FLAG}
    of_file, about_file = started(f"{kind} --out new --config {write(described)}")
    of_flags, about_flags = started(f"{kind} --out new {flags(described)}")
    assert {**about_flags, "command": ""} == {**about_file, "command": ""}
    assert of_flags.record() == of_file.record()
    assert keys(of_flags) == keys(of_file)
    assert DESCRIPTIONS[kind].of(described).model_dump() == (DESCRIPTIONS[kind].of({}, FILE).model_dump())
    assert not Path("new").exists()


NONSENSE = st.sampled_from([-1, "nonsense", [], True, 0.5, date(2026, 1, 1), {"a": 1}])


@given(described_studies, st.data())
def test_flags_win_over_the_file(kind_and_described, data):
    kind, described = kind_and_described
    whole = DESCRIPTIONS[kind].of(described).model_dump()
    given = {key: described[key] for key in described if data.draw(st.booleans(), key)}
    assume("study" not in given)
    of_file = {key: data.draw(NONSENSE, key) if key in given else described[key] for key in described}
    assert DESCRIPTIONS[kind].of(given, write(of_file)).model_dump() == whole


def test_words_for_many():
    made = Comparison.of({}, write({"allocators": ["all"], "scenarios": ["all"]})).build()
    assert list(made.scenarios) == KINDS["learning"]
    assert list(made.allocators) == with_baseline(None, all_specs())
    assert list(Comparison.of({"scenarios": ["all-snapshots"]}).build().scenarios) == KINDS["snapshot"]
    assert list(Prediction.of({"scenarios": ["all"]}).build().scenarios) == KINDS["learning"]


def test_an_empty_file_is_refused_and_one_that_says_its_kind_is_the_default_study():
    for kind, description in DESCRIPTIONS.items():
        with pytest.raises(InputError, match=r"study.toml: is empty; keys such as allocators = \[...\] are"):
            description.of({}, write("# nothing\n"))
        named = description.of({}, write({"study": kind})).build()
        assert keys(named) == keys(description.of({}).build())


def test_the_mark_that_windows_puts_before_utf_8_is_not_read():
    assert Comparison.of({}, write('title = "x"'.encode("utf-8-sig"))).title == "x"


def test_measured_pass_rates_are_found_beside_the_file(tmp_path):
    """Not beside the process: a study file and its data can be moved together."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "own.csv").write_text("rate,n\n0.5,8\n0.25,8\n")
    described = {"pass_rates": "own.csv", "column": "rate", "trials": "n", "scenarios": ["u-shaped-v1"]}
    file = write(described, folder / "study.toml")
    first = Comparison.of({}, file)
    study = first.build()
    assert list(study.scenarios) == ["u-shaped-v1", "measured"]
    difficulty = study.scenarios["measured"].difficulty
    np.testing.assert_array_equal(difficulty.rates, [0.5, 0.25])
    np.testing.assert_array_equal(difficulty.trials, [8, 8])
    resolved = first.resolved(study)
    assert resolved["pass_rates"] == str(folder / "own.csv")
    with contextlib.chdir(tmp_path):
        near = Comparison.of({}, Path("elsewhere/study.toml"))
        assert near.resolved(near.build())["pass_rates"] == str(folder / "own.csv")
    assert resolved["scenarios"] == ["u-shaped-v1"]
    other = tmp_path / "deep" / "down" / "study.toml"
    other.parent.mkdir(parents=True)
    assert keys(Comparison.of({}, write(resolved, other)).build()) == keys(study)
    given_as_a_flag = Comparison.of({"pass_rates": str(RATES), "column": "half"}, file)
    assert given_as_a_flag.pass_rates == str(RATES)


@pytest.mark.parametrize("snapshot", [False, True])
def test_measured_pass_rates_alone(snapshot):
    description = Comparison.of({}, write({"pass_rates": str(RATES), "snapshot": snapshot}))
    study = description.build()
    assert list(study.scenarios) == ["snapshot-measured" if snapshot else "measured"]
    assert isinstance(study, SnapshotStudy if snapshot else LearningStudy)
    assert "scenarios" not in description.resolved(study)


# --- broken studies


def check_line(line):
    assert len(line) <= LONG, (len(line), line)
    unclear = [word for word in ("Traceback", "Value error", "ValidationError", "object at") if word in line]
    assert unclear == [], line


def refusal(kind, path=FILE):
    """The one line in which the command line refuses a study file; None if the study is valid."""
    try:
        code, out, err = run(f"{kind} --config {shlex.quote(str(path))} --out new/out")
    except WouldRun:
        return None
    finally:
        assert not Path("new").exists()
    assert (code, out) == (2, "")
    assert err.startswith(START)
    assert err.endswith("\n")
    line = err.removesuffix("\n")
    assert line.isprintable(), line
    check_line(line)
    return line.removeprefix(START)


def problem(kind, path=FILE):
    """What is wrong with a study file, asked for in Python; None if it is valid."""
    try:
        description = DESCRIPTIONS[kind].of({}, path)
        study = description.build()
        description.sorted_by(study)
    except InputError as error:
        line = str(error)
        check_line(line)
        return line
    with pytest.raises(WouldRun):
        not_carried_out(description)
    return None


BASES = {
    "learning": (
        "compare",
        {
            "study": "compare",
            "title": "Who learns fastest?",
            "question": "And why?",
            "scenarios": ["u-shaped-v1", "weak-cold-v1[kappa=0.02]"],
            "estimator": "grpo[ddof=0]",
            "aggregation": "rollout",
            "replicates": 4,
            "seed": 7,
            "sort": "rollouts_to_90",
            "allocators": ["vip[lower=3,predictor=beta]", "dapo[carry=true]"],
            "prompts": 16,
            "group_size": 4,
            "steps": 5,
            "learning_rates": [0.5, 2.0],
            "snapshot": False,
            "pass_rates": str(RATES),
            "column": "half",
            "trials": "n",
        },
    ),
    "snapshot": (
        "compare",
        {"snapshot": True, "draws": 8, "allocators": ["vip"], "sort": "snr", "prompts": 8, "replicates": 4},
    ),
    "prediction": (
        "predict",
        {
            "study": "predict",
            "predictors": ["beta[discount=0.5]", "last_epoch"],
            "allocator": "vip",
            "scenarios": ["u-shaped-v1"],
            "replicates": 4,
            "sort": "brier_later",
        },
    ),
}
EVERY_KEY = [(base, key) for base, (_, described) in BASES.items() for key in described]

TYPES = {key: {type(value)} for _, described in BASES.values() for key, value in described.items()}
WRONG_VALUES = {
    "text": "nonsense",
    "empty-text": "",
    "lines": "two\nlines\x00\x1b[31m",
    "long-text": "x" * 5000,
    "long-words": "so many words " * 500,
    "brackets": "vip[" * 900,
    "zero": 0,
    "minus": -1,
    "int": 3,
    "int64": 2**63,
    "endless": 10**4000,
    "float": 0.5,
    "greatest-float": 1.7e308,
    "nan": math.nan,
    "infinite": -math.inf,
    "true": True,
    "false": False,
    "day": date(2026, 10, 3),
    "moment": datetime(2026, 10, 3, 12, 30),
    "time": time(12, 30),
    "no-list": [],
    "texts": ["nonsense"],
    "empty-texts": [""],
    "long-texts": ["x" * 5000, "y" * 5000],
    "twice": ["vip", "vip"],
    "ints": [1, 2],
    "minus-ints": [-1],
    "endless-ints": [10**4000],
    "floats": [0.5, 1.5],
    "no-floats": [1.0, math.nan],
    "infinite-floats": [math.inf],
    "bools": [True],
    "mixed": ["vip", 1, 0.5, False],
    "days": [date(2026, 10, 3)],
    "lists": [["vip"], []],
    "many": list(range(500)),
    "no-table": {},
    "table": {"a": 1},
    "long-table": {"x" * 500: {"y" * 500: ["z" * 500] * 50}},
    "tables": [{"a": 1}, {"b": 2}],
}


@pytest.mark.parametrize(("base", "key"), EVERY_KEY, ids=map("-".join, EVERY_KEY))
def test_bases_and_each_without_a_key_are_valid(base, key):
    kind, described = BASES[base]
    assert problem(kind, write(described)) is None
    described = {other: value for other, value in described.items() if other != key}
    said = problem(kind, write(described))
    assert said is None or (base, key) in [("learning", "pass_rates"), ("snapshot", "snapshot")]


@pytest.mark.parametrize(("base", "key"), EVERY_KEY, ids=map("-".join, EVERY_KEY))
def test_wrong_values_are_refused_by_file_and_key(base, key):
    kind, described = BASES[base]
    for name, value in WRONG_VALUES.items():
        said = problem(kind, write({**described, key: value}))
        if said is None:
            assert TYPES[key] == {type(value)}, (name, said)
        else:
            assert said.startswith(f"{FILE}: {key}") or key == "snapshot", said
            # of longer values, the part that is wrong
            if isinstance(value, float) or (isinstance(value, int) and value < 2**64):
                assert str(value) in said or key == "snapshot"


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["lines", "long-text", "endless", "moment", "mixed", "long-table", "many"])
def test_the_command_line_refuses_them_too(base, name):
    kind, described = BASES[base]
    for key in described:
        said = refusal(kind, write({**described, key: WRONG_VALUES[name]}))
        assert (said is None) == (problem(kind) is None)
        assert said is None or f"{FILE}: {key}" in said


near_miss = st.one_of(
    st.tuples(st.just("drop"), st.integers(0, 20), st.none()),
    st.tuples(st.just("add"), st.integers(0, 20), st.sampled_from("abcxyz_-")),
    st.tuples(st.just("change"), st.integers(0, 20), st.sampled_from("abcxyz_-")),
    st.tuples(st.just("swap"), st.integers(0, 20), st.none()),
)


@given(st.sampled_from(list(DESCRIPTIONS)), near_miss, st.data())
def test_a_key_with_a_typing_error_is_told_the_right_one(kind, miss, data):
    known = set(DESCRIPTIONS[kind].model_fields)
    key = data.draw(st.sampled_from(sorted(known)))
    how, place, letter = miss
    place %= len(key)
    wrong = {
        "drop": key[:place] + key[place + 1 :],
        "add": f"{key[:place]}{letter}{key[place:]}",
        "change": f"{key[:place]}{letter}{key[place + 1 :]}",
        "swap": key[:place] + key[place : place + 2][::-1] + key[place + 2 :],
    }[how]
    assume(wrong not in known)
    said = problem(kind, write({wrong: 1}))
    assert said.startswith(f"{FILE}: {wrong}: no such key: did you mean ")
    assert key in said.removesuffix("?").partition("did you mean ")[2].split(" or ")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=70))
@example("")
@example("_sources")
@example("model_config")
@example("self")
@example("x" * 100_000)
@example("'" * 30)
def test_any_other_key_is_refused(key):
    for kind, description in DESCRIPTIONS.items():
        assume(key not in description.model_fields)
        said = problem(kind, write({key: 1}))
        assert said.startswith(f"{FILE}: ")
        assert "no such key: " in said


@given(st.one_of(st.text(), st.text("[]{}\"=,.#\n'_-+:0123456789abefinostuxTZ \\")))
def test_any_text_is_a_study_or_refused(text):
    said = refusal("compare", write(text.encode("utf-8", "replace")))
    assert said is None or said.startswith(f"{FILE}: ")


@settings(max_examples=50)
@given(st.binary(max_size=99))
def test_any_bytes_are_a_study_or_refused(content):
    said = refusal("predict", write(content))
    assert said is None or said.startswith(f"{FILE}: ")


@given(st.sampled_from(list(BASES)), st.data())
def test_a_damaged_file_is_a_study_or_refused(base, data):
    kind, described = BASES[base]
    content = bytearray(tomli_w.dumps(described).encode())
    if data.draw(st.booleans(), "cut"):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 3), "flips")):
        if content:
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'[]"=,0az\n')))
    said = refusal(kind, write(bytes(content)))
    assert said is None or f"{FILE}: " in said or str(RATES) in said


names = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.text("vipgxy[]=,. 0123456789"))


@given(st.sampled_from(["allocators", "scenarios", "predictors", "estimator", "allocator", "sort"]), names)
def test_any_name_is_known_or_refused(key, name):
    for kind, description in DESCRIPTIONS.items():
        if key in description.model_fields:
            said = problem(kind, write({key: [name] if key.endswith("s") else name}))
            assert said is None or said.startswith(f"{FILE}: {key}")


# --- files that cannot be read


def nested(depth):
    return f"title = {'[' * depth}{']' * depth}"


UNREADABLE = {
    "nested-far-too-deeply": (nested(50_000), "nested too deeply"),
    "tables-nested-far-too-deeply": ("title = " + "{a=" * 9999 + "1" + "}" * 9999, "nested too deeply"),
    "nested": (nested(99), "title = [[", "valid string"),
    "key-nested": (f"title{'.a' * 3000} = 1", "title = {'a': {'a': ", "valid string"),
    "unknown-key-nested": (f"x{'.a' * 3000} = 1", "x: no such key"),
    "many-digits": (f"seed = {'1' * 5000}", "no TOML", "4300 digits"),
    "many-hexadecimal-digits": (f"seed = 0x{'f' * 5000}", "seed = ", "less than"),
    "many-digits-inside": (f"title = [0x{'f' * 5000}]", "title = ", "valid string"),
    "utf-16": ("seed = 1".encode("utf-16"), "no TOML", "utf-8", "0xff"),
    "latin-1": ('title = "é"'.encode("latin-1"), "no TOML", "utf-8", "position 9"),
    "no-toml": ("{}", "no TOML", "line 1"),
    "json": ('{"seed": 1}', "no TOML", "line 1"),
    "csv": ("p,weight\n0.1,1\n", "no TOML", "line 1"),
    "null": (b"\x00", "no TOML", "line 1"),
    "key-twice": ("seed = 1\nseed = 2", "no TOML", "end of document"),
    "long-key-twice": (f"title = {{{'x' * 99999} = 1, {'x' * 99999} = 2}}", "no TOML", "Duplicate"),
    "open-text": ('title = "abc', "no TOML"),
    "one-long-line": ("x" * 1_000_000, "no TOML"),
    "one-long-text": (f'aggregation = "{"x" * 1_000_000}"', "aggregation = 'xxx", "'prompt' or 'rollout'"),
    "one-long-number": (f"prompts = 0x{'f' * 100_000}", "prompts = ", "1000000"),
    "one-long-list": (f"allocators = [{'1,' * 20_000}]", "allocators[0] = 1", "valid string"),
    "one-long-key": (f"{'x' * 100_000} = 1", "'xxxx", "no such key"),
    "one-long-study": (f'study = "{"x" * 100_000}"', "study = 'xxx", "expects 'compare'"),
    "one-long-name": (f'allocators = ["{"x" * 100_000}"]', "allocators: unknown allocator 'xxx", "vip"),
    "one-long-sort": (f'sort = "{"x" * 100_000}"', "sort xxx", "wasted_ratio"),
    "one-long-path": (f'pass_rates = "{"x" * 100_000}"', "pass_rates: xxx", "no such file"),
    "one-long-column": (f'pass_rates = "{RATES}"\ncolumn = "{"x" * 9999}"', "column: ", "pass_rate"),
    "one-long-trials": (f'trials = "{"x" * 100_000}"', "trials xxx", "--pass-rates"),
    "long-scenarios": (
        f'snapshot = true\nscenarios = ["u-shaped-v1[optimizer=adam{" " * 9999}]", "weak-cold-v1"]',
        "scenarios u-shaped-v1[optimizer=adam], weak-cold-v1",
        "one kind",
    ),
    "many-scenarios": (
        tomli_w.dumps({"snapshot": True, "scenarios": [f"u-shaped-v1[steps={n}]" for n in range(1, 99)]}),
        "scenarios u-shaped-v1[steps=1]",
        "one kind",
    ),
    "null-in-path": ('pass_rates = "a\\u0000b"', "pass_rates: 'a?b': U+0000"),
}


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_refused_in_one_short_line(case):
    content, *fragments = case
    said = refusal("compare", write(content))
    assert said.startswith(f"{FILE}: ")
    assert [part for part in fragments if part not in said] == [], said
    assert len(said) < SHORT


def test_a_file_that_is_not_there():
    assert refusal("compare", Path("no.toml")) == "no.toml: cannot be read: No such file or directory"
    assert refusal("predict", RATES.parent) == "data: cannot be read: Is a directory"
    assert refusal("compare", RATES / "x") == f"{RATES}/x: cannot be read: Not a directory"
    assert "cannot be read: File name too long" in refusal("compare", Path("x" * 256))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError("the disk is gone"), "the disk is gone"),
    ],
)
def test_a_file_that_may_not_be_read(error, said):
    write("seed = 1")
    with mock.patch.object(Path, "read_bytes", side_effect=error):
        assert refusal("compare") == f"{FILE}: cannot be read: {said}"
    assert read_toml(FILE) == {"seed": 1}


def test_a_file_with_a_strange_name(tmp_path):
    strange = tmp_path / "two\nlines\x1b[31m.toml"
    said = refusal("compare", write("seed = -1", strange))
    assert said.startswith("command line: ")
    assert "U+000A" in said


@pytest.mark.skipif(os.name != "posix", reason="no such device")
def test_a_device():
    assert "is no regular file" in refusal("compare", Path("/dev/null"))


# --- messages

RATED = f'pass_rates = "{RATES}"\n'
WRONG = {
    "study": ('study = "predict"', "study = 'predict'", "`rolloutbench compare` expects 'compare'"),
    "study-type": ("study = 3", "study = 3", "'compare'"),
    "unknown-key": ("replicate = 4", "replicate: no such key", "did you mean replicates?"),
    "key-of-an-option": ('allocator = "vip"', "allocator: no such key", "allocators"),
    "key-with-a-hyphen": ("group-size = 4", "group-size: no such key", "group_size"),
    "key-of-the-other": ('predictors = ["gp"]', "predictors: no such key"),
    "key-of-the-command": ("jobs = 2", "jobs: no such key"),
    "table": ("[compare]\nseed = 1", "compare: no such key"),
    "odd-key": ('"a\\nb" = 1', r"'a\nb': no such key"),
    "empty-key": ('"" = 1', "'': no such key", "known: aggregation"),
    "one-replicate": ("replicates = 1", "replicates = 1", "greater than or equal to 2"),
    "many-replicates": ("replicates = 1_000_001", "replicates = 1000001", "1000000"),
    "text-replicates": ('replicates = "4"', "replicates = '4'", "valid integer"),
    "fraction-replicates": ("replicates = 4.5", "replicates = 4.5", "valid integer"),
    "float-replicates": ("replicates = 4.0", "replicates = 4.0", "valid integer"),
    "true-replicates": ("replicates = true", "replicates = True", "valid integer"),
    "date-seed": ("seed = 2026-10-03", "seed = ", "2026, 10, 3", "valid integer"),
    "negative-seed": ("seed = -1", "seed = -1", "greater than or equal to 0"),
    "enormous-seed": (f"seed = {2**128}", "seed = 3402", str(2**128)),
    "no-prompts": ("prompts = 1", "prompts = 1", "2"),
    "many-prompts": ("prompts = 5000", "prompts 5000", "pool_size=2048"),
    "no-group": ("group_size = 0", "group_size = 0", "1"),
    "many-steps": ("steps = 1e3", "steps = 1000.0", "valid integer"),
    "text-list": ('allocators = "vip"', "allocators = 'vip'", "valid list"),
    "empty-list": ("allocators = []", "allocators = []", "at least 1 item"),
    "number-in-list": ('allocators = ["vip", 7]', "allocators[1] = 7", "valid string"),
    "list-in-list": ('scenarios = [["u-shaped-v1"]]', "scenarios[0] = ['u-shaped-v1']", "valid string"),
    "unknown-allocator": ('allocators = ["knapsak"]', "allocators: ", "'knapsak'", "knapsack"),
    "unknown-parameter": ('allocators = ["vip[lowr=3]"]', "allocators: ", "'lowr'", "lower"),
    "wrong-parameter": ('allocators = ["vip[lower=few]"]', "allocators: ", "lower=few", "integer"),
    "open-bracket": ('allocators = ["vip[lower=3"]', "allocators: ", "vip[lower=3", "name[key=value,...]"),
    "allocator-twice": ('allocators = ["vip", " vip "]', "allocators: ", "'vip'", "twice"),
    "uniform-twice": ('allocators = ["uniform", "uniform"]', "allocators: ", "'uniform'", "twice"),
    "all-and-one": ('allocators = ["all", "vip"]', "allocators: ", "'vip'", "twice"),
    "unknown-scenario": ('scenarios = ["u-shaped"]', "scenarios: ", "'u-shaped'", "u-shaped-v1"),
    "scenario-parameter": ('scenarios = ["u-shaped-v1[steps=0]"]', "scenarios: ", "steps=0", "1"),
    "inner-scenario": ('scenarios = ["u-shaped-v1[optimizer=sdg]"]', "scenarios: ", "'sdg'", "sgd"),
    "two-kinds": ('scenarios = ["u-shaped-v1", "snapshot-weak-v1"]', "scenarios u-shaped-v1", "one kind"),
    "no-snapshot": ('snapshot = true\nscenarios = ["u-shaped-v1"]', "scenarios u-shaped-v1", "one kind"),
    "two-budgets": (
        'scenarios = ["snapshot-weak-v1[prompts=16]", "snapshot-mid-v1"]',
        "scenarios snapshot-weak-v1[prompts=16], snapshot-mid-v1",
        "one budget",
        "prompts and group_size",
    ),
    "unknown-estimator": ('estimator = "rlo"', "estimator: ", "'rlo'", "rloo"),
    "estimator-out-of-range": ('estimator = "grpo[ddof=2]"', "estimator: ", "ddof=2", "1"),
    "aggregation": ('aggregation = "prompts"', "aggregation = 'prompts'", "'prompt' or 'rollout'"),
    "unknown-metric": ('sort = "rollouts_to_91"', "sort rollouts_to_91", "did you mean", "rollouts_to_90"),
    "no-metric": ('sort = ""', "sort : ", "known: "),
    "metric-of-snapshots": ('sort = "snr"', "sort snr", "known: "),
    "learning-rate": ('learning_rates = [1.0, "fast"]', "learning_rates[1] = 'fast'", "valid number"),
    "learning-rate-zero": ("learning_rates = [0]", "learning_rates[0] = 0", "greater than 0"),
    "learning-rate-infinite": ("learning_rates = [inf]", "learning_rates[0] = inf", "finite number"),
    "learning-rate-great": ("learning_rates = [1e6]", "learning_rates[0] = 1000000.0", "less than"),
    "learning-rate-alone": ("learning_rates = 2.0", "learning_rates = 2.0", "valid list"),
    "snapshot-text": ('snapshot = "yes"', "snapshot = 'yes'", "valid boolean"),
    "snapshot-steps": ("snapshot = true\nsteps = 5", "steps: a snapshot does not train"),
    "snapshot-rates": ("snapshot = true\nlearning_rates = [2]", "learning_rates: a snapshot does not train"),
    "learning-draws": ("draws = 5", "draws 5", "only snapshots"),
    "trials-alone": ('trials = "n"', "trials n: needs --pass-rates"),
    "empty-trials-alone": ('trials = ""', "trials : needs --pass-rates"),
    "rates-missing": ('pass_rates = "no.csv"', "pass_rates: no.csv: no such file"),
    "rates-directory": ('pass_rates = "data"', "pass_rates: data: is a directory"),
    "rates-here": ('pass_rates = ""', "pass_rates: .: is a directory"),
    "column": (f'{RATED}column = "rate"', "column: ", str(RATES), "'rate'", "pass_rate"),
    "column-above": (f'{RATED}column = "above"', "pass_rates: ", str(RATES), "'above'", "row 1", "[0, 1]"),
    "trials": (f'{RATED}trials = "m"', "trials: ", str(RATES), "'m'", "known: "),
    "trials-fraction": (f'{RATED}trials = "half"', "pass_rates: ", str(RATES), "0.5", "whole number"),
}
WRONG_PREDICTIONS = {
    "study": ('study = "compare"', "study = 'compare'", "`rolloutbench predict` expects 'predict'"),
    "key-of-the-other": ('allocators = ["vip"]', "allocators: no such key", "did you mean allocator"),
    "unknown-predictor": ('predictors = ["bata"]', "predictors: ", "'bata'", "beta"),
    "predictor-twice": ('predictors = ["gp", "gp"]', "predictors: ", "'gp'", "twice"),
    "predictor-parameter": ('predictors = ["beta[discount=2]"]', "predictors: ", "discount=2", "1"),
    "unknown-allocator": ('allocator = "vipp"', "allocator: ", "'vipp'", "vip"),
    "allocators": ('allocator = ["vip"]', "allocator = ['vip']", "valid string"),
    "snapshot": ('scenarios = ["snapshot-mid-v1"]', "scenarios snapshot-mid-v1", "nothing is learned"),
    "metric": ('sort = "mae"', "sort mae", "mae_later"),
}
EVERY_WRONG = [("compare", name, case) for name, case in WRONG.items()]
EVERY_WRONG += [("predict", name, case) for name, case in WRONG_PREDICTIONS.items()]


@pytest.mark.parametrize(
    ("kind", "case"),
    [(kind, case) for kind, _, case in EVERY_WRONG],
    ids=[f"{kind}-{name}" for kind, name, _ in EVERY_WRONG],
)
def test_a_wrong_study_is_refused_by_name(kind, case):
    text, first, *fragments = case
    said = refusal(kind, write(text))
    assert said.startswith(f"{FILE}: {first}")
    assert [part for part in fragments if part not in said] == [], said


@pytest.mark.parametrize(
    ("text", "command", "fragments"),
    [
        ("prompts = 8", "--prompts 5000", ("--prompts 5000", "pool_size=2048")),
        ("group_size = 4", "--prompts 5000", ("--prompts 5000", f"{FILE}: group_size 4", "pool_size=2048")),
        ('allocators = ["vip"]', "-s nowhere", ("--scenario: ", "'nowhere'")),
        ('scenarios = ["u-shaped-v1"]', "--snapshot", (f"{FILE}: scenarios u-shaped-v1", "one kind")),
        ("seed = -1", "--estimator grpo", (f"{FILE}: seed = -1",)),
        ("seed = 1", "--aggregation prompts", ("'--aggregation'", "'prompts' is not one of")),
        ("draws = 5", "-s u-shaped-v1", (f"{FILE}: draws 5", "only snapshots")),
        ("snapshot = true", "--steps 5", ("--steps: a snapshot does not train",)),
        (RATED, "--column rate", ("--column: ", str(RATES), "'rate'")),
        ("prompts = 8", f"--seed {2**128}", (f"--seed = {2**128}"[:20], "less than")),
    ],
)
def test_beside_a_file_the_option_or_the_line_that_is_wrong_is_named(text, command, fragments):
    code, out, err = run(f"compare --config {write(text)} --out new/out {command}")
    assert (code, out) == (2, "")
    line = err.removesuffix("\n")
    assert line.isprintable()
    check_line(line)
    assert [part for part in fragments if part not in line] == [], line
