import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from rolloutbench.analysis.difference import LEVEL, Condition, as_json, compare_studies, sheets
from rolloutbench.analysis.results import summarise
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds.learning import LearningResults
from rolloutbench.studies.kinds.prediction import PredictionResults
from rolloutbench.studies.kinds.snapshot import SnapshotResults

SCENARIO = "Scenario(difficulty=Beta(alpha=0.4, beta=0.6), prompts=16)"
KEYS = ["scenario", "allocator", "metric"]


def long_form(values, first=0):
    """{(scenario, allocator, metric): values by replicate} as a table."""
    return pd.DataFrame(
        [(s, a, first + r, m, float(v)) for (s, a, m), row in values.items() for r, v in enumerate(row)],
        columns=["scenario", "allocator", "replicate", "metric", "value"],
    )


def study(values, kind=SnapshotResults, directory=None, **changed):
    """Results of a record and values, in files where there is a directory for them."""
    table = values if isinstance(values, pd.DataFrame) else long_form(values)
    scenarios, allocators = table.scenario.unique(), table.allocator.unique()
    record = {
        "kind": kind.kind,
        "sort": kind.default_sort,
        "estimator": "rloo",
        "seed": 0,
        "replicates": table.replicate.nunique(),
        "command": "rolloutbench compare",
        "captions": dict.fromkeys(scenarios, "rloo"),
        "allocators": dict.fromkeys(allocators, "Uniform(divide=1)"),
        "scenarios": dict.fromkeys(scenarios, SCENARIO),
        "machine": {"cores": 2, "packages": {"numpy": "2.0"}},
    } | changed
    if directory is None:
        made = kind("nowhere", record)
        made.__dict__["values"] = table  # what the cached property would read
        return made
    directory.mkdir()
    table.to_parquet(directory / "per_replicate.parquet", index=False)
    summarise(table).to_csv(directory / "summary.csv", index=False)
    return kind(directory, record)


def draws(*rows, replicates=12, seed=0):
    values = np.random.default_rng(seed).gamma(4.0, size=(len(rows), replicates))
    return dict(zip(rows, values, strict=True))


def of(difference, *key):
    """The row of a scenario, allocator and metric."""
    changes = difference.changes
    (row,) = changes[(changes[KEYS] == list(key)).all(axis=1)].to_dict("records")
    return row


def said(difference):
    """All that is printed, however its lines are broken."""
    return " ".join(printed(difference).split())


def printed(difference):
    return "".join(sheet.text(160) for sheet in sheets(difference))


ROW = ("s", "vip", "snr")
"""Of what the smallest studies here measure."""


# Statistics


def by_scipy(was, now, paired):
    """The slow twin: one row, by plain calls of scipy.stats."""
    if paired:
        both = ~np.isnan(was) & ~np.isnan(now)
        test, change = stats.ttest_rel(now[both], was[both]), np.mean(now[both] - was[both])
    else:
        was, now = was[~np.isnan(was)], now[~np.isnan(now)]
        test, change = stats.ttest_ind(now, was, equal_var=False), np.mean(now) - np.mean(was)
    return change, *test.confidence_interval(LEVEL), test.pvalue


numbers = st.floats(-100, 100).map(lambda x: round(x, 3)) | st.just(np.nan)


@st.composite
def two_studies(draw):
    shape = draw(st.integers(1, 6)), draw(st.integers(4, 9))
    was = draw(hnp.arrays(float, shape, elements=numbers))
    now = draw(hnp.arrays(float, shape, elements=numbers))
    was[:, :2], now[:, :2] = [0.5, 1.25], [1.5, 7.0]  # so that every row has something to test
    return was, now


@settings(max_examples=40)
@given(values=two_studies(), paired=st.booleans())
def test_intervals_are_scipys_row_by_row(values, paired):
    was, now = (
        study({("s", f"a{i}", "snr"): row for i, row in enumerate(rows)}, seed=seed)
        for seed, rows in zip((0, 0 if paired else 1), values, strict=True)
    )
    found = compare_studies(was, now).changes
    assert (found.paired == paired).all()
    expected = np.array([by_scipy(*rows, paired) for rows in zip(*values, strict=True)])
    assert found[["change", "low", "high", "p_value"]].to_numpy() == pytest.approx(expected, rel=1e-9)
    assert (found.after - found.before).tolist() == pytest.approx(found.change.tolist(), abs=1e-9)
    adjusted = stats.false_discovery_control(expected[:, 3])
    assert found.adjusted.tolist() == pytest.approx(adjusted.tolist())
    wanted = np.where(adjusted >= 0.05, "unchanged", np.where(expected[:, 0] > 0, "better", "worse"))
    assert found.verdict.tolist() == wanted.tolist()


@settings(max_examples=20)
@given(row=hnp.arrays(float, 6, elements=numbers).filter(lambda row: not np.isnan(row).all()))
def test_identical_values_are_the_same_paired_or_not(row):
    for seed in (0, 1):
        found = compare_studies(study({ROW: row}), study({ROW: row}, seed=seed))
        (only,) = found.changes.to_dict("records")
        assert only["verdict"] == "same"
        assert only["change"] == only["low"] == only["high"] == 0
        assert np.isnan(only["p_value"])


def test_rounding_is_no_change():
    values = draws(ROW)
    other = {ROW: values[ROW] * (1 + 1e-15)}
    assert of(compare_studies(study(values), study(other)), *ROW)["verdict"] == "same"
    other = {ROW: values[ROW] * (1 + 1e-9)}
    assert of(compare_studies(study(values), study(other)), *ROW)["verdict"] == "better"


def test_what_does_not_vary_has_an_interval_without_width():
    was, now = (
        {("s", "vip", "generated_per_prompt"): [8.0] * 5},
        {("s", "vip", "generated_per_prompt"): [10.0] * 5},
    )
    for seed in (0, 1):
        found = of(compare_studies(study(was), study(now, seed=seed)), "s", "vip", "generated_per_prompt")
        assert found["change"] == found["low"] == found["high"] == 2
        assert (found["p_value"], found["verdict"]) == (0, "changed")  # neither direction is better


def test_one_constant_is_the_same_whatever_the_number_of_replicates():
    was, now = study({ROW: [0.1] * 7}), study({ROW: [0.1] * 4}, seed=1)
    assert of(compare_studies(was, now), *ROW)["verdict"] == "same"


def test_missing_values_are_left_out_in_pairs():
    was = np.array([1.0, np.nan, 3.0, 4.0, 7.0])
    now = np.array([2.0, 5.0, np.nan, 6.0, 7.0])
    found = of(compare_studies(study({ROW: was}), study({ROW: now})), *ROW)
    assert (found["replicates"], found["before"], found["after"]) == (3, 4.0, 5.0)
    unpaired = of(compare_studies(study({ROW: was}), study({ROW: now}, seed=1)), *ROW)
    assert (unpaired["replicates"], unpaired["before"], unpaired["after"]) == (4, 3.75, 5.0)


def test_a_value_that_only_one_has_is_no_identity():
    found = of(compare_studies(study({ROW: [1, np.nan, 3]}), study({ROW: [1, 2, 3]})), *ROW)
    assert (found["verdict"], found["change"], found["p_value"]) == ("unchanged", 0, 1)


@pytest.mark.parametrize("now", [[2.0], [np.nan, 2.0, np.nan], [np.inf, np.nan, np.nan]])
def test_too_few_replicates_say_nothing(now):
    was = [1.0] * len(now)
    for seed in (0, 1):
        difference = compare_studies(study({ROW: was}), study({ROW: now}, seed=seed))
        found = of(difference, *ROW)
        assert (found["verdict"], found["replicates"]) == ("unknown", 1)
        assert np.isnan([found["low"], found["high"], found["p_value"], found["adjusted"]]).all()
        assert "unknown" in printed(difference)


def test_no_complete_pair_says_nothing():
    difference = compare_studies(study({ROW: [1, np.nan]}), study({ROW: [np.nan, 2]}))
    found = of(difference, *ROW)
    assert (found["verdict"], found["replicates"]) == ("unknown", 0)
    assert np.isnan(found["change"])
    assert "n/a" in printed(difference)


def test_infinite_values_say_nothing():
    was, now = [1.0, np.inf, 3.0, 4.0], [np.inf, np.inf, 3.0, 5.0]
    for seed in (0, 1):
        difference = compare_studies(study({ROW: was}), study({ROW: now}, seed=seed))
        assert of(difference, *ROW)["verdict"] == "unknown"
        json.dumps(as_json(difference), allow_nan=False)
        printed(difference)


# Pairing


def test_only_the_same_seed_parameters_and_replicates_are_paired():
    values = draws(("s", "vip", "snr"), ("t", "vip", "snr"))

    def paired(**changed):
        changes = compare_studies(study(values), study(values, **changed)).changes
        return dict(zip(changes.scenario, changes.paired, strict=True))

    assert paired() == {"s": True, "t": True}
    assert paired(seed=1) == {"s": False, "t": False}
    assert paired(seed=None) == {"s": False, "t": False}
    assert paired(prompts=32) == {"s": False, "t": False}
    unknown = compare_studies(study(values, seed=None), study(values, seed=None))
    assert not unknown.changes.paired.any()
    changed = {"s": SCENARIO, "t": SCENARIO.replace("0.4", "0.5")}
    assert paired(scenarios=changed) == {"s": True, "t": False}


def test_more_replicates_of_the_same_study_are_paired_with_the_fewer():
    values = draws(ROW, replicates=12)
    fewer = {ROW: values[ROW][:5]}
    for was, now in ((values, fewer), (fewer, values)):
        found = of(compare_studies(study(was), study(now)), *ROW)
        assert (found["paired"], found["replicates"], found["verdict"]) == (True, 5, "same")
        assert found["before"] == found["after"] == pytest.approx(values[ROW][:5].mean())


def test_other_replicates_are_not_paired():
    values = draws(ROW)
    later = long_form(values, first=6)
    found = of(compare_studies(study(values), study(later)), *ROW)
    assert (found["paired"], found["verdict"]) == (False, "unchanged")


def test_the_order_of_rows_does_not_matter():
    rows = [(s, a, m) for s in "st" for a in ("vip", "dapo") for m in ("snr", "mse")]
    was, now = long_form(draws(*rows)), long_form(draws(*rows, seed=1))
    expected = compare_studies(study(was), study(now)).changes
    shuffled = compare_studies(study(was.sample(frac=1, random_state=0)), study(now.iloc[::-1])).changes
    together = expected.merge(shuffled, on=KEYS, suffixes=("", "_shuffled"))
    assert len(together) == len(expected) == len(rows)
    for column in ("before", "after", "change", "low", "high", "adjusted"):
        assert together[column].tolist() == pytest.approx(together[f"{column}_shuffled"].tolist())


# Verdicts


@pytest.mark.parametrize(
    ("metric", "shift", "verdict"),
    [
        ("snr", 0.5, "better"),
        ("snr", -0.5, "worse"),
        ("mse", 0.5, "worse"),
        ("mse", -0.5, "better"),
        ("generated_per_prompt", 0.5, "changed"),
        ("counts@0.025", -0.5, "changed"),
    ],
)
def test_a_shifted_allocator_is_found(metric, shift, verdict):
    rows = [("s", f"a{i}", metric) for i in range(20)]
    was = draws(*rows)
    noise = draws(*rows, seed=1)
    now = {key: row + 0.05 * (noise[key] - 4) for key, row in was.items()}
    now[rows[7]] = now[rows[7]] + shift
    difference = compare_studies(study(was), study(now), [metric])
    found = of(difference, *rows[7])
    assert found["verdict"] == verdict
    assert found["low"] < shift < found["high"]
    assert (difference.changes.verdict == "unchanged").sum() >= 18
    text = printed(difference).splitlines()
    first = next(line for line in text if line.strip().startswith(metric) and "a7" in line)
    assert verdict in first  # the largest stands first
    assert f"{shift:+.1f}"[:2] in first


def test_metrics_at_the_own_learning_rate_have_the_direction_of_the_metric():
    rows = [("s", "vip", name) for name in ("tuned_rollouts_to_90", "tuned_rate")]
    was = draws(*rows)
    now = {key: row + 1 for key, row in was.items()}
    studies = (study(one, LearningResults, learning_rates=[1.0, 2.0]) for one in (was, now))
    changes = compare_studies(*studies).changes
    assert dict(zip(changes.metric, changes.verdict, strict=True)) == {
        "tuned_rollouts_to_90": "worse",
        "tuned_rate": "changed",
    }


def test_many_comparisons_of_nothing_are_rarely_significant():
    rows = [("s", f"a{i}", "snr") for i in range(400)]
    difference = compare_studies(study(draws(*rows)), study(draws(*rows, seed=1), seed=1))
    changes = difference.changes
    assert 5 < ((changes.low > 0) | (changes.high < 0)).sum() < 40  # 20 of 400 intervals miss 0
    assert (changes.verdict == "unchanged").all()
    assert "adjusted for 400 comparisons" in printed(difference)


# Metrics, kinds, names


def test_metrics_are_those_that_are_shown_or_asked_for():
    rows = [("s", "vip", name) for name in ("mse", "bias", "snr", "cosine")]
    was, now = study(draws(*rows)), study(draws(*rows))
    assert compare_studies(was, now).changes.metric.tolist() == ["snr", "mse"]
    by_bias = study(now.values, sort="bias")
    assert compare_studies(was, by_bias).changes.metric.tolist() == ["bias", "snr", "mse"]
    asked = compare_studies(was, now, ["cosine", "mse", "cosine"])
    assert asked.changes.metric.tolist() == ["cosine", "mse"]


@pytest.mark.parametrize(("name", "hint"), [("noise", "noise_variance"), ("cosin", "cosine"), ("zzz", "snr")])
def test_an_unknown_metric_is_refused(name, hint):
    rows = [("s", "vip", name) for name in ("snr", "noise_variance", "cosine", "counts@0.025")]
    was, now = study(draws(*rows)), study(draws(*rows))
    with pytest.raises(InputError, match=f"metric {name}: .*{hint}") as refused:
        compare_studies(was, now, ["snr", name])
    assert "counts@" not in str(refused.value)


def test_a_metric_of_one_study_is_refused():
    was, now = study(draws(ROW)), study(draws(ROW, ("s", "vip", "mse")))
    with pytest.raises(InputError, match="metric mse: not measured in both"):
        compare_studies(was, now, ["mse"])


@pytest.mark.parametrize("other", [LearningResults, PredictionResults])
def test_other_kinds_are_refused(other):
    with pytest.raises(InputError, match=f"snapshot study and a {other.kind} study"):
        compare_studies(study(draws(ROW)), study(draws(ROW), other))


def test_what_only_one_has_is_named():
    was = draws(("s", "vip", "snr"), ("s", "dapo", "snr"), ("t", "vip", "snr"), ("old", "dapo", "snr"))
    now = draws(
        *(("s", "vip", "snr"), ("s", "dapo", "snr"), ("s", "dapo", "mse")),
        *(("t", "dapo", "snr"), ("t", "dapo", "mse"), ("s", "new[x=1]", "snr")),
    )
    was["s", "vip", "mse"], now["s", "vip", "mse"] = np.ones(12), np.full(12, np.nan)
    difference = compare_studies(study(was), study(now))
    assert difference.only_before == {
        "scenarios": ["old"],
        "allocators": [],
        "results": ["vip in t", "mse of vip in s"],
    }
    assert difference.only_after == {
        "scenarios": [],
        "allocators": ["new[x=1]"],
        "results": ["mse of dapo in s", "dapo in t"],
    }
    assert difference.changes[KEYS].to_numpy().tolist() == [["s", "vip", "snr"], ["s", "dapo", "snr"]]
    text = printed(difference)
    assert "new[x=1]" in text
    assert "vip in t" in text


def test_nothing_in_common_is_said():
    difference = compare_studies(study(draws(("s", "vip", "snr"))), study(draws(("t", "dapo", "snr"))))
    assert difference.changes.empty
    assert list(difference.changes) == [
        *KEYS,
        *("before", "after", "change", "low", "high", "paired", "replicates"),
        *("p_value", "adjusted", "verdict"),
    ]
    assert "none: no allocator was measured" in said(difference)
    assert as_json(difference)["changes"] == []


def test_predictors_are_compared_as_such():
    rows = [("s", "beta", "brier_later"), ("s", "gp", "brier_later")]
    was = study(draws(*rows), PredictionResults, allocators={"uniform": "U()"}, predictors={"beta": "B(a=1)"})
    now = study(
        *(draws(rows[0]), PredictionResults),
        **{"allocators": {"vip": "V()"}, "predictors": {"beta": "B(a=2)"}},
    )
    difference = compare_studies(was, now)
    assert difference.only_before["predictors"] == ["gp"]
    assert difference.conditions == [
        Condition("allocators vip", None, "V()"),
        Condition("allocators uniform", "U()", None),
        Condition("predictors beta a", "1", "2"),
    ]


# Records


def test_conditions_that_differ_are_named_one_by_one():
    was = study(draws(ROW), version="0.1.0", learning_rates=[1.0], title="old")
    now = study(
        draws(ROW, replicates=8),
        command="other",
        estimator="grpo",
        commit="abc",
        version="0.2.0",
        learning_rates=[1.0, 2.0],
        allocators={"vip": "Uniform(divide=2, new=None)", "dapo": "DAPO()"},
        scenarios={"s": SCENARIO.replace("0.6", "0.7").replace("16", "32")},
        machine={"cores": 2, "packages": {"numpy": "2.1", "torch": "2.0"}},
    )
    difference = compare_studies(was, now)
    assert sorted(difference.conditions, key=lambda condition: condition.name) == [
        Condition("allocators vip divide", "1", "2"),
        Condition("allocators vip new", None, "None"),
        Condition("commit", None, "abc"),
        Condition("estimator", "rloo", "grpo"),
        Condition("learning_rates", [1.0], [1.0, 2.0]),
        Condition("machine packages numpy", "2.0", "2.1"),
        Condition("machine packages torch", None, "2.0"),
        Condition("replicates", 12, 8),
        Condition("scenarios s difficulty.beta", "0.6", "0.7"),
        Condition("scenarios s prompts", "16", "32"),
        Condition("version", "0.1.0", "0.2.0"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("<object at 0x1>", "<object at 0x2>", [("", "<object at 0x1>", "<object at 0x2>")]),
        ("A(x=1)", "B(x=1)", [("", "A(x=1)", "B(x=1)")]),
        ("A(b=B(x=1))", "A(b=C(x=1))", [(" b", "B(x=1)", "C(x=1)")]),
        ("A(b=B(c=C(x=1)))", "A(b=B(c=C(x=2)))", [(" b.c.x", "1", "2")]),
        ("A(1)", "A(2)", [("", "A(1)", "A(2)")]),
        ("A(x=(1, 'a,b'), y=-1e-06)", "A(x=(1, 'a,c'), y=-1e-06)", [(" x", "(1, 'a,b')", "(1, 'a,c')")]),
        ("A(x=1)", "A(x=1)", []),
    ],
)
def test_parameters_are_read_from_reprs(before, after, expected):
    was, now = (study(draws(ROW), allocators={"vip": text}) for text in (before, after))
    assert compare_studies(was, now).conditions == [
        Condition(f"allocators vip{name}", *values) for name, *values in expected
    ]


# What is shown


def test_identical_studies_on_disk_say_so(tmp_path):
    values = draws(*((s, a, m) for s in "st" for a in ("uniform", "vip") for m in ("snr", "mse")))
    was, now = study(values, directory=tmp_path / "a"), study(values, directory=tmp_path / "b")
    difference = compare_studies(was, now)
    assert (difference.before, difference.after) == (tmp_path / "a", tmp_path / "b")
    assert difference.conditions == []
    assert (difference.changes.verdict == "same").all()
    assert (difference.changes.change == 0).all()
    (only,) = sheets(difference)  # no scenario has anything to list
    text = said(difference)
    assert "8 of 8 are identical" in text
    assert "records do not differ" in text
    assert len(only.rows) == 2


def test_tables_list_what_changed_and_count_the_rest():
    rows = [("s", f"a{i:02}", "snr") for i in range(12)] + [("s", f"a{i:02}", "mse") for i in range(12)]
    was = draws(*rows)
    now = {key: row if i % 12 < 3 else row + 0.3 * (i == 5) for i, (key, row) in enumerate(was.items())}
    noise = draws(*rows, seed=3)
    for i, key in enumerate(rows):
        if i % 12 >= 3:
            now[key] = now[key] + 0.01 * (noise[key] - noise[key].mean())
    difference = compare_studies(study(was), study(now))
    text = said(difference)
    assert "6 of 24 are identical and not listed" in text
    assert "paired by replicate (same prompts, same random numbers); 12 replicates" in text
    assert "± half of a 95% interval, not adjusted" in text
    assert "verdicts adjusted for 18 comparisons (Benjamini-Hochberg, 5%)" in text
    listed = [line.split() for line in printed(difference).splitlines() if " a0" in line or " a1" in line]
    assert listed[0][:3] == ["snr", "a05", "better"]
    assert not {"a00", "a01", "a02"} & {word for line in listed for word in line}
    assert len(listed) == 1 + 5 + 5
    assert "and 3 more" in text  # 9 that are not identical, one better, five unchanged listed
    assert "and 4 more" in text


def test_the_largest_changes_stand_first():
    rows = [("s", name, "snr") for name in ("vip", "dapo", "coba")]
    was = draws(*rows)
    now = {key: row * size for (key, row), size in zip(was.items(), (1.2, 0.4, 1.5), strict=True)}
    text = printed(compare_studies(study(was), study(now)))
    assert text.index("dapo") < text.index("coba") < text.index("vip")


def test_numbers_keep_two_digits_of_the_interval_and_small_changes_are_not_shown_as_0():
    was = draws(("s", "vip", "snr"), ("s", "dapo", "snr"), ("s", "coba", "snr"))
    noise = draws(*was, seed=1)
    sizes = dict(zip(was, (0.1, 0.1, 1e-6), strict=True))
    now = {key: row * (1 + size) + size * noise[key] for (key, row), size in zip(was.items(), sizes.values())}  # noqa: B905
    text = printed(compare_studies(study(was), study(now)))
    (coba,) = (line for line in text.splitlines() if "coba" in line)
    assert "e-06 ±" in coba
    (vip,) = (line for line in text.splitlines() if "vip" in line)
    assert "±0.1" in vip or "±0.0" in vip or "±0.2" in vip


def test_json_has_everything_and_no_nan():
    rows = [ROW, ("s", "dapo", "snr"), ("s", "coba", "snr")]
    was = draws(*rows)
    now = draws(*rows, seed=1) | {rows[1]: was[rows[1]], rows[2]: [1.0] + [np.nan] * 11}
    difference = compare_studies(study(was), study(now, commit="abc"))
    answer = json.loads(json.dumps(as_json(difference), allow_nan=False))
    assert answer["conditions"] == [{"name": "commit", "before": None, "after": "abc"}]
    assert answer["level"] == LEVEL
    by_name = {row["allocator"]: row for row in answer["changes"]}
    assert by_name["dapo"]["change"] == 0
    assert by_name["dapo"]["p_value"] is None
    assert by_name["coba"]["low"] is None
    assert by_name["vip"]["paired"] is True
    assert by_name["vip"]["replicates"] == 12
    assert by_name["vip"]["low"] == of(difference, *ROW)["low"]


def test_a_large_study_is_quick():
    rows = [(f"s{s}", f"a{a}", f"counts@{m}") for s in range(13) for a in range(30) for m in range(10)]
    values = np.random.default_rng(0).gamma(4.0, size=(2, len(rows), 32))
    values[np.random.default_rng(1).random(values.shape) < 0.02] = np.nan
    was, now = (study(dict(zip(rows, of_one, strict=True))) for of_one in values)
    metrics = [f"counts@{m}" for m in range(10)]
    started = time.perf_counter()
    difference = compare_studies(was, now, metrics)
    assert len(difference.changes) == len(rows)
    assert len(sheets(difference)) == 1 + 13
    assert time.perf_counter() - started < 10


def test_the_code_of_a_method_is_other_code_where_both_have_it():
    """Whom only one study has is said by the lists of allocators."""
    before = {"rolloutbench": "a", "simulators": "b", "rolloutbench.allocators.vip": "c"}
    after = {"rolloutbench": "a", "rolloutbench.allocators.vip": "d", "rolloutbench.allocators.coba": "e"}
    found = compare_studies(study(draws(ROW), sources=before), study(draws(ROW), sources=after))
    assert found.conditions == [
        Condition("sources rolloutbench.allocators.vip", "c", "d"),
        Condition("sources simulators", "b", None),
    ]
