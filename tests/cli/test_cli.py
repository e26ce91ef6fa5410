"""The command line, where it is used rightly; tests/test_cli_bad_input.py has the rest.

The program runs inside this process. Plots are saved only by the tests that look at them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import Output, run

from rolloutbench import __version__
from rolloutbench.allocators import allocators
from rolloutbench.analysis.metrics import METRICS
from rolloutbench.cells.store import read_manifest
from rolloutbench.cli.listing import REGISTRIES
from rolloutbench.objectives import objectives
from rolloutbench.solvers import SOLVERS
from rolloutbench.studies.kinds import open_results

SUMMARY = [
    *("scenario", "allocator", "metric", "estimate", "low", "high", "replicates"),
    *("ratio", "ratio_low", "ratio_high"),
    *("difference", "difference_low", "difference_high"),
]
PER_REPLICATE = ["scenario", "allocator", "replicate", "metric", "value"]
NAMES = {kind: registry.names() for kind, registry in REGISTRIES.items()}
NAMES |= {"solver": list(SOLVERS), "metric": list(METRICS)}
SMALL = "compare --quick --prompts 16 -s snapshot-u-shaped-v1"


def ok(command: str) -> Output:
    """Run a command that must succeed, and write plainly to what is no terminal."""
    done = run(command)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    return done


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


unsaved = pytest.mark.usefixtures("plots_unsaved")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """One small comparison: what was printed, and its directory."""
    out = tmp_path_factory.mktemp("base") / "deep" / "er"
    return ok(f"{SMALL} -a vip --out {out}"), out


# --- everywhere


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("", "--version list solve compare predict show diff merge report"),
        ("list", "kind --json --family --provenance --markdown"),
        ("solve", "--p --budget --lower --upper --objective --solver --allow-zero --group-minimum --json"),
        (
            "compare",
            "--allocator --scenario --estimator --prompts --group-size --replicates --seed --jobs --out "
            "--overwrite --sort --draws --pass-rates --column --trials --lengths --id --unit --pool-size "
            "--drop-bad-rows --quick --json --config --executor --address "
            "--memory --force --retry-failed",
        ),
    ],
)
def test_help(command, options):
    shown = ok(f"{command} --help").out
    assert "Usage: " in shown
    assert [option for option in options.split() if option not in shown] == []


def test_version():
    assert ok("--version").out == f"rolloutbench {__version__}\n"


def test_no_command_at_all_shows_the_help_and_no_empty_error():
    shown = run("")
    assert "Usage: " in shown.out + shown.err
    assert "error:" not in shown.err


# --- list


@pytest.mark.parametrize("kind", [None, *NAMES])
def test_list_shows_every_name(kind):
    shown = ok(f"list {kind or ''}").out
    wanted = NAMES[kind] if kind else [name for names in NAMES.values() for name in names]
    first_words = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert set(wanted) <= first_words
    assert "…" not in shown  # nothing is cut off


@pytest.mark.parametrize("kind", [None, *NAMES])
def test_list_as_json(kind):
    found = ok(f"list --json {kind or ''}").json
    assert {name: [entry["name"] for entry in entries] for name, entries in found.items()} == (
        {kind: NAMES[kind]} if kind else NAMES
    )
    for entry in (entry for entries in found.values() for entry in entries):
        assert set(entry) == {"name", "parameters", "summary"}
        assert entry["summary"], entry


def test_list_shows_the_family_and_where_it_comes_from():
    shown = ok("list --family").out
    assert "unbiased" in shown
    assert set(allocators.builtin) <= {line["allocator"] for line in ok("list --family --json").json}
    assert {"paper", "code", "note"} <= set(ok("list --provenance --json").json[0])
    assert ok("list --family --markdown").out.startswith("| allocator | form |")
    assert "thu-rllab/MoPPS@a883f51" in ok("list --provenance --markdown").out
    assert "--markdown: needs --family or --provenance" in run("list --markdown").err


def test_list_titles_are_words():
    assert "difficultys" not in ok("list").out


# --- solve

P = np.array([0.1, 0.5, 0.9])
SOLVE = "solve --p 0.1,0.5,0.9 --budget 24"


def test_solve_as_json():
    answer = ok(f"{SOLVE} --json").json
    counts = np.array(answer["counts"])
    assert set(answer) == {"counts", "value", "bound", "price", "seconds"}
    assert counts.dtype == np.int64
    assert counts.tolist() == [7, 10, 7]
    assert answer["value"] == pytest.approx((P * (1 - P) / (counts - 1)).sum(), rel=1e-12)
    assert answer["bound"] == pytest.approx(answer["value"], rel=1e-12)
    assert 0.25 / (10 * 9) <= answer["price"] <= 0.25 / (9 * 8)
    assert 0 < answer["seconds"] < 10


def test_solve_as_table():
    shown = ok(SOLVE).out
    lines = (line.replace("│", " ").split() for line in shown.splitlines())
    rows = [words for words in lines if words and words[0].isdigit()]
    assert rows == [["0", "0.1", "7"], ["1", "0.5", "10"], ["2", "0.9", "7"]]
    assert "value 0.0577778, bound 0.0577778" in shown  # not folded into the table's few columns


@pytest.mark.parametrize("objective", [*NAMES["objective"], "mse[estimator=grpo[ddof=0],noise_ratio=3]"])
def test_every_objective_is_solved(objective):
    answer = ok(f"{SOLVE} --lower 2 --upper 16 --json --objective {objective}").json
    assert sum(answer["counts"]) == 24
    assert all(2 <= n <= 16 for n in answer["counts"])
    maximise = objectives.create(objective).maximise
    assert (answer["bound"] - answer["value"]) * (1 if maximise else -1) >= -1e-12


@pytest.mark.parametrize("solver", NAMES["solver"])
def test_every_solver_solves(solver):
    answer = ok(f"{SOLVE} --json --solver {solver}").json
    assert sum(answer["counts"]) == pytest.approx(24, abs=1e-6)
    assert answer["value"] == pytest.approx(ok(f"{SOLVE} --json").json["value"], rel=1e-2)


def test_solve_with_none_at_all_for_a_prompt():
    counts = ok("solve --p 0.1,0.5,0.9 --budget 8 --lower 4 --allow-zero --json").json["counts"]
    assert sorted(counts) in ([0, 0, 8], [0, 4, 4])


def test_solve_takes_a_long_list():
    numbers = ",".join(["0.5"] * 600)
    assert ok(f"solve --p {numbers} --budget 3600 --json").json["counts"] == [6] * 600


@pytest.mark.parametrize("name", ["prompts.csv", "prompts.txt", "prompts.parquet", "PROMPTS.PARQUET"])
def test_solve_reads_files(name, tmp_path):
    table = pd.DataFrame({"p": P, "other": P[::-1], "note": ["a", "b", None]})
    path = tmp_path / name
    table.to_parquet(path) if path.suffix.lower() == ".parquet" else table.to_csv(path, index=False)
    inline = ok(f"{SOLVE} --json").json
    for column in ("p", "other"):
        found = ok(f"solve --p {path} --column {column} --budget 24 --json").json
        assert {**found, "seconds": 0} == {**inline, "seconds": 0}


def test_solve_weighs_prompts(tmp_path):
    weights = np.array([0.0, 1.0, 4.0])
    pd.DataFrame({"p": P, "weight": weights}).to_csv("prompts.csv", index=False)
    answer = ok("solve --p prompts.csv --budget 24 --json").json
    counts = np.array(answer["counts"])
    assert counts.tolist() == [2, 10, 12]
    assert answer["value"] == pytest.approx((weights * P * (1 - P) / (counts - 1)).sum(), rel=1e-12)


def test_solve_in_tokens_and_with_a_group_served_first(tmp_path):
    pytest.importorskip("cvxpy")
    cost = np.array([10.0, 20.0, 40.0])
    table = pd.DataFrame({"p": P, "cost": cost, "group": ["hard", "mid", "easy"]})
    table.to_parquet("prompts.parquet")
    command = "solve --p prompts.parquet --budget 600 --solver cvxpy --json"
    free = np.array(ok(command).json["counts"])
    assert free @ cost == pytest.approx(600, rel=1e-6)
    assert free[2] < 9 - 1e-3
    held = np.array(ok(f"{command} --group-minimum easy=9 --group-minimum hard=3").json["counts"])
    assert held[2] == pytest.approx(9, abs=1e-5)
    assert held[0] >= 3 - 1e-5
    assert held @ cost <= 600 * (1 + 1e-6)


# --- compare

STORE = {"manifest.json", "study.toml", "cells"}


def visible(out) -> set[str]:
    return {path.name for path in Path(out).iterdir() if not path.name.startswith(".")}


def conditions_of(out) -> dict:
    return read_manifest(Path(out)).study


def test_compare_writes_its_files(base):
    _, out = base
    assert visible(out) == {"per_replicate.parquet", "plots", "summary.csv", *STORE}
    assert [path.name for path in out.parent.iterdir()] == ["er"]
    assert list(pd.read_csv(out / "summary.csv").columns) == SUMMARY
    assert list(pd.read_parquet(out / "per_replicate.parquet").columns) == PER_REPLICATE
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        plots = sorted((out / "plots").glob(f"*{suffix}"))
        assert len(plots) >= 3
        assert all(path.read_bytes().startswith(magic) for path in plots)
    conditions = conditions_of(out)
    assert conditions["command"] == f"rolloutbench {SMALL} -a vip --out {out}"
    given = {
        "estimator": "grpo",
        "prompts": 16,
        "group_size": 8,
        "rollouts": 128,
        "replicates": 16,
        "seed": 0,
    }
    assert conditions.items() >= given.items()


def test_compare_prints_what_it_writes(base):
    printed, out = base
    summary = pd.read_csv(out / "summary.csv").set_index(["allocator", "metric"])
    cells = {line.split()[0]: line for line in printed.out.splitlines() if "±" in line and line[0] == " "}
    assert set(cells) == {"vip", "uniform"}
    for metric, value, high in [
        *((metric, "ratio", "ratio_high") for metric in ("snr", "mse", "noise_variance")),
        *((metric, "estimate", "high") for metric in ("effective_ratio", "wasted_ratio")),
    ]:
        row = summary.loc["vip", metric]
        assert f"{row[value]:.3f} ±{row[high] - row[value]:.3f}" in cells["vip"]
    for name in ("summary.csv", "per_replicate.parquet", "plots"):
        assert str(out / name) in printed.out
    assert "16 prompts x 8 rollouts" in printed.out
    assert "exact moments" in printed.out


def test_compare_always_runs_uniform(base):
    summary = pd.read_csv(base[1] / "summary.csv")
    assert list(summary.allocator.unique()) == ["uniform", "vip"]
    ratios = summary[(summary.allocator == "uniform") & ~summary.metric.str.startswith("counts")].ratio
    np.testing.assert_allclose(ratios.dropna(), 1, rtol=1e-12)


def test_summary_follows_from_the_replicates(base):
    summary = pd.read_csv(base[1] / "summary.csv").set_index(["allocator", "metric"])
    data = pd.read_parquet(base[1] / "per_replicate.parquet")
    wide = data.pivot_table(index="replicate", columns=["allocator", "metric"], values="value")
    assert len(wide) == 16
    for (allocator, metric), row in summary.iterrows():
        values, uniform = wide[allocator, metric], wide["uniform", metric]
        assert row.replicates == values.notna().sum()
        assert row.estimate == pytest.approx(values.mean(), rel=1e-9, abs=1e-30)
        if uniform.mean() != 0:
            assert row.ratio == pytest.approx(values.mean() / uniform.mean(), rel=1e-9)


@unsaved
def test_compare_as_json_is_the_same_comparison(base):
    done = ok(f"{SMALL} -a vip --json --out again")
    answer = done.json
    assert set(answer) == {"conditions", "summary", "out", "failed"}
    assert answer["failed"] == []
    assert answer["conditions"] == conditions_of("again")
    assert list(answer["summary"][0]) == SUMMARY
    written = pd.read_csv("again/summary.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(answer["summary"]).astype(written.dtypes), written, rtol=1e-12)
    assert same_data("again", base[1])


def same_data(one, other) -> bool:
    first, second = (Path(out, "per_replicate.parquet").read_bytes() for out in (one, other))
    return first == second


@unsaved
def test_results_depend_on_the_seed_and_not_on_jobs(base):
    ok(f"{SMALL} -a vip --out jobs --jobs 2")
    ok(f"{SMALL} -a vip --out seed --seed 1")
    assert same_data("jobs", base[1])
    assert not same_data("seed", base[1])


@unsaved
def test_the_first_replicates_stay_when_more_are_asked_for(base):
    ok("compare --replicates 32 --prompts 16 -s snapshot-u-shaped-v1 -a vip --out more")
    more = pd.read_parquet("more/per_replicate.parquet")
    assert more.replicate.max() == 31
    few = more[more.replicate < 16].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, pd.read_parquet(base[1] / "per_replicate.parquet"))


@unsaved
def test_compare_at_measured_pass_rates():
    table = pd.DataFrame({"pass_rate": [0.0, 0.125, 0.5, 1.0] * 8, "n": 8})
    table.to_csv("rates.csv", index=False)
    table.rename(columns={"pass_rate": "rate"}).to_parquet("rates.parquet")
    quick = "compare --snapshot --quick --prompts 16 -a vip"
    ok(f"{quick} --pass-rates rates.csv --out plain")
    ok(f"{quick} --pass-rates rates.parquet --column rate --trials n -s snapshot-weak-v1 --out freed")
    plain, freed = (pd.read_csv(f"{out}/summary.csv") for out in ("plain", "freed"))
    own = "snapshot-measured"
    assert list(plain.scenario.unique()) == [own]
    assert list(freed.scenario.unique()) == ["snapshot-weak-v1", own]
    bins = {
        out: set(table[(table.scenario == own) & table.metric.str.startswith("counts@")].metric)
        for out, table in (("plain", plain), ("freed", freed))
    }
    assert bins["plain"] == {"counts@0.025", "counts@0.125", "counts@0.525", "counts@0.975"}
    assert len(bins["freed"]) > 4  # 1 of 8 need not mean exactly 0.125


@unsaved
def test_overwrite_replaces():
    ok(f"{SMALL} -a vip --out out")
    ok(f"{SMALL} -a knapsack --seed 7 --out out --overwrite")
    assert conditions_of("out")["seed"] == 7
    assert set(pd.read_csv("out/summary.csv").allocator) == {"uniform", "knapsack"}
    assert os.listdir() == ["out"]


@unsaved
@pytest.mark.parametrize("out", ["empty", "link", "to-be", "."])
def test_out_may_be_there_already_if_it_is_empty(out, tmp_path, monkeypatch):
    """Also through a symbolic link, and the directory one stands in stays where it is."""
    for name in ("empty", "behind", "here"):
        Path(name).mkdir()
    Path("link").symlink_to("behind")
    Path("to-be").symlink_to("not-there-yet")
    if out == ".":
        monkeypatch.chdir("here")
    ok(f"{SMALL} -a vip --out {out}")
    assert "summary.csv" in os.listdir(out)
    assert Path(tmp_path, "link").is_symlink()
    assert list(tmp_path.rglob("*.unfinished")) == []


@unsaved
def test_draws_estimate_the_moments_and_say_so(base):
    assert "moments from 8 steps" in ok(f"{SMALL} -a vip --draws 8 --out out").out
    assert "8 steps" in conditions_of("out")["moments"]
    exact, sampled = (
        pd.read_csv(out / "summary.csv").set_index(["allocator", "metric"]).estimate
        for out in (base[1], Path("out"))
    )
    assert sampled["vip", "generated_per_prompt"] == 8
    assert sampled["vip", "noise_variance"] != exact["vip", "noise_variance"]
    assert sampled["vip", "noise_variance"] == pytest.approx(exact["vip", "noise_variance"], rel=0.2)


def test_sort_ranks_by_that_metric():
    shown = ok(f"{SMALL} -a random -a vip --sort mse --out out").out
    ranked = [line.split()[0] for line in shown.splitlines() if "±" in line and line[0] == " "]
    summary = pd.read_csv("out/summary.csv")
    ratios = summary[summary.metric == "mse"].set_index("allocator").ratio
    assert ranked == list(ratios.sort_values().index)
    assert Path("out/plots/mse_ratio_to_uniform.pdf").is_file()


@unsaved
def test_specs_and_paths_are_shown_in_full():
    """Brackets are no markup, and a long path is not folded."""
    out = Path("out[red]", *["deeper"] * 20)
    command = (
        "compare --quick --prompts 16 -a vip[lower=4] -s snapshot-weak-v1[visits=2] --estimator grpo[ddof=0]"
    )
    shown = ok(f"{command} --out {out}").out
    for name in (
        "vip[lower=4]",
        "snapshot-weak-v1[visits=2]",
        "grpo[ddof=0]",
        str(out / "per_replicate.parquet"),
    ):
        assert name in shown
    assert ok(f"{command} --out 'out[/red]'").code == 0


def test_every_allocator_has_a_row():
    """Also one whose gradient is 0, so that its cosine is not defined."""
    shown = ok(f"{SMALL} -a uniform[divide=8] -a vip --out out").out
    row = next(line for line in shown.splitlines() if "uniform[divide=8]" in line)
    assert "n/a" in row
    assert "even" not in row


@pytest.mark.parametrize("options", ["-a uniform", "-a uniform[divide=8]", "-a vip --sort bias"])
def test_comparisons_with_nothing_to_rank_are_written_too(options):
    ok(f"{SMALL} {options} --out out")
    assert set(pd.read_csv("out/summary.csv").columns) == set(SUMMARY)


# --- compare: training runs

TRAIN = "compare --quick --steps 4"
CURVES = ["scenario", "allocator", "rate", "replicate", "steps", "accuracy"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two allocators in two scenarios: what was printed, and its directory."""
    out = tmp_path_factory.mktemp("trained") / "out"
    scenarios = "-s u-shaped-v1[prompts=16,pool_size=64] -s weak-cold-v1[prompts=16,pool_size=64]"
    return ok(f"{TRAIN} {scenarios} -a dapo -a vip[predictor=kalman] --out {out}"), out


@pytest.mark.slow
def test_training_writes_its_files(trained):
    printed, out = trained
    names = {"summary.csv", "ranking.csv", "per_replicate.parquet", "curves.parquet", "timing.csv"}
    assert visible(out) == names | {"plots", *STORE}
    assert list(pd.read_csv(out / "summary.csv").columns) == SUMMARY
    assert list(pd.read_parquet(out / "per_replicate.parquet").columns) == PER_REPLICATE
    curves = pd.read_parquet(out / "curves.parquet")
    assert list(curves.columns[: len(CURVES)]) == CURVES
    assert set(curves.allocator) == {"(reference)", "uniform", "dapo", "vip[predictor=kalman]"}
    timing = pd.read_csv(out / "timing.csv")
    assert (timing.seconds_per_step > 0).all()
    ranking = pd.read_csv(out / "ranking.csv")
    assert set(ranking.allocator) == {"uniform", "dapo", "vip[predictor=kalman]"}
    plots = {path.stem for path in (out / "plots").iterdir()}
    assert {f"accuracy_over_{axis}" for axis in ("rollouts", "seconds", "steps")} <= plots
    assert {"difference_over_rollouts", "allocation_over_time", "cost_breakdown", "profiles"} <= plots
    assert {"heat_map_area_over_rollouts", "heat_map_rollouts_to_90"} <= plots
    for text in (
        "u-shaped-v1[prompts=16,pool_size=64]",
        "weak-cold-v1",
        "all scenarios",
        "4 steps of 16 prompts x 8",
    ):
        assert text in printed.out


def test_training_prints_what_it_writes(trained):
    printed, out = trained
    summary = pd.read_csv(out / "summary.csv").set_index(["scenario", "allocator", "metric"])
    row = summary.loc["weak-cold-v1[prompts=16,pool_size=64]", "dapo", "rollouts_to_50"]
    assert f"{row.ratio:.2f} ±{row.ratio_high - row.ratio:.2f}" in printed.out
    row = summary.loc["weak-cold-v1[prompts=16,pool_size=64]", "dapo", "accuracy_at_rollouts"]
    assert f"{100 * row.difference:+.1f} ±{100 * (row.difference_high - row.difference):.1f}" in printed.out


@pytest.mark.slow
@unsaved
def test_training_depends_on_the_seed_and_neither_on_jobs_nor_on_who_else_trains(trained):
    scenarios = "-s u-shaped-v1[prompts=16,pool_size=64] -s weak-cold-v1[prompts=16,pool_size=64]"
    ok(f"{TRAIN} {scenarios} -a mopps -a dapo --jobs 2 --out others")
    ok(f"{TRAIN} {scenarios} -a dapo --jobs 1 --seed 1 --out seed")
    first, others, seed = (
        pd.read_parquet(Path(out, "curves.parquet")).query("allocator == 'dapo'").reset_index(drop=True)
        for out in (trained[1], "others", "seed")
    )
    pd.testing.assert_frame_equal(first, others)
    assert not first.accuracy.equals(seed.accuracy)


@unsaved
def test_everybody_is_judged_at_its_own_learning_rate(trained, base):
    shown = ok(
        f"{TRAIN} -s u-shaped-v1[prompts=16,pool_size=64] -a dapo --learning-rates 0.5,2 --out rates"
    ).out
    assert "each at its own best of 3 learning rates" in shown
    summary = pd.read_csv("rates/summary.csv")
    chosen = summary[(summary.metric == "tuned_rate") & (summary.allocator == "dapo")].estimate
    assert chosen.between(0.5, 2).all()
    curves = pd.read_parquet("rates/curves.parquet")
    assert set(curves[curves.allocator == "dapo"].rate) == {0.5, 1.0, 2.0}
    results = open_results(Path("rates"))
    drawn = results.curves[results.curves.allocator == "dapo"].groupby("replicate").rate.unique()
    tuned = results.values[(results.values.metric == "tuned_rate") & (results.values.allocator == "dapo")]
    assert {key: list(rates) for key, rates in drawn.items()} == {
        row.replicate: [row.value] for row in tuned.itertuples()
    }
    level = summary[summary.allocator == "dapo"].set_index("metric").estimate["tuned_seconds_to_90"]
    priced = ok("show rates --price-per-gpu-hour 3 -a dapo -c 'money to 90%' --format csv").out
    assert float(priced.splitlines()[1].split(",")[1].split()[0]) == round(level * 3 * 64 / 3600)
    for command in ("show rates", "compare"):
        free = run(f"{command} --price-per-gpu-hour 0")
        assert "'--price-per-gpu-hour': '0': Input should be greater than 0" in free.err
    refused = run(f"show {base[1]} --price-per-gpu-hour 3")
    assert "--price-per-gpu-hour 3: only training runs take time" in refused.err
    same = curves[(curves.rate == 1.0) & (curves.allocator == "dapo")].reset_index(drop=True)
    other = pd.read_parquet(trained[1] / "curves.parquet")
    other = other[(other.allocator == "dapo") & other.scenario.str.startswith("u-shaped")]
    pd.testing.assert_frame_equal(same, other.reset_index(drop=True))


@unsaved
def test_training_at_measured_pass_rates():
    pd.DataFrame({"pass_rate": [0.0, 0.25, 0.5, 1.0] * 8, "n": 8}).to_csv("rates.csv", index=False)
    ok(f"{TRAIN} --prompts 16 -a effective_count --pass-rates rates.csv --trials n --out out")
    curves = pd.read_parquet("out/curves.parquet")
    assert set(curves.scenario) == {"measured"}
    assert curves[curves.steps == 0].accuracy.mean() == pytest.approx(0.44, abs=0.05)


# --- predict


def test_predict_writes_and_prints(tmp_path):
    command = "predict -p beta -p kalman -s u-shaped-v1[steps=6,pool_size=256] --out out"
    shown = ok(command).out
    names = {"summary.csv", "per_replicate.parquet", "judged.parquet", "plots"}
    assert visible("out") == names | STORE
    summary = pd.read_csv("out/summary.csv").set_index(["allocator", "metric"])
    assert list(dict.fromkeys(summary.index.get_level_values(0))) == ["uniform", "beta", "kalman"]
    row = summary.loc["kalman", "mae_later"]
    assert f"{row.estimate:.3f} ±{row.high - row.estimate:.3f}" in shown
    assert "watching uniform" in shown
    assert {path.suffix for path in Path("out/plots").iterdir()} == {".png", ".pdf", ".txt"}
    assert conditions_of("out")["predictors"].keys() == {
        "uniform",
        "beta",
        "kalman",
    }


@unsaved
def test_predictors_may_watch_others_and_answer_in_json():
    done = ok("predict -p beta -a pilot_commit -s u-shaped-v1[steps=4,pool_size=512] --json --out out").json
    assert {row["allocator"] for row in done["summary"]} == {"uniform", "beta"}
    assert done["conditions"]["allocators"].keys() == {"pilot_commit"}


# --- the store: what is finished is kept


def no_cell_may_run(monkeypatch):
    monkeypatch.setattr("rolloutbench.cells.executors.run_cell", lambda *_, **__: pytest.fail("a cell ran"))


@unsaved
def test_the_same_command_runs_nothing_twice(monkeypatch):
    first = ok(f"{SMALL} -a vip --jobs 1 --out out")
    summary = Path("out/summary.csv").read_bytes()
    with monkeypatch.context() as patch:
        no_cell_may_run(patch)
        again = ok(f"{SMALL} -a vip --jobs 1 --out out")
        with pytest.raises(pytest.fail.Exception):
            run(f"{SMALL} -a vip --jobs 1 --out out --force")
    assert again.out == first.out
    assert "2 of 2 cells are finished already" in again.err
    assert Path("out/summary.csv").read_bytes() == summary


@unsaved
def test_more_replicates_or_allocators_keep_what_is_there(monkeypatch):
    more = "compare --replicates 32 --prompts 16 -s snapshot-u-shaped-v1 -a vip -a knapsack --jobs 1"
    ok(f"{SMALL} -a vip --jobs 1 --out out")
    assert "2 of 6 cells are finished already" in ok(f"{more} --out out").err
    ok(f"{more} --out apart")
    assert same_data("out", "apart")


@unsaved
def test_an_allocator_that_fails_is_left_out_and_the_others_go_on(monkeypatch):
    command = "compare --quick --prompts 16 -s snapshot-u-shaped-v1 -s snapshot-weak-v1 -a vip --jobs 1"
    failing = f"{command} -a vip[lower=9] --out out"
    done = run(failing)
    assert done.code == 1
    line = "snapshot-u-shaped-v1 vip[lower=9]: budget=128 is below the sum of lower bounds, 144"
    assert f"rolloutbench: error: {line}" in done.err
    assert "2 of 6 cells failed" in done.err
    assert set(pd.read_csv("out/summary.csv").allocator) == {"uniform", "vip"}
    ok(f"{command} --out apart")
    assert same_data("out", "apart")
    with monkeypatch.context() as patch:
        no_cell_may_run(patch)
        again = run(failing)
        assert (again.code, again.out) == (1, done.out)
        assert "2 cells failed before; --retry-failed runs them again" in again.err
        with pytest.raises(pytest.fail.Exception):
            run(f"{failing} --retry-failed")
    answer = json.loads(run(f"{failing} --json").out)
    assert [failure["error"].split()[0] for failure in answer["failed"]] == ["budget=128"] * 2
    assert "Traceback" in answer["failed"][0]["traceback"][0]


@unsaved
def test_a_failure_that_is_mended_is_a_result_like_any_other(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of the allocator")

    with monkeypatch.context() as patch:
        patch.setattr("rolloutbench.allocators.vip.VIP.allocate", broken)
        done = run(f"{SMALL} -a vip --jobs 1 --out out")
    assert done.code == 1
    said = r"vip: test_cli.py:\d+ in broken: ZeroDivisionError: of the allocator \(1 cell; traceback: out/"
    assert re.search(said, done.err)
    assert ok(f"{SMALL} -a vip --jobs 1 --out out --retry-failed").out
    ok(f"{SMALL} -a vip --jobs 1 --out apart")
    assert same_data("out", "apart")
    assert list(Path("out/cells").glob("*.json")) == []


@unsaved
def test_a_damaged_cell_runs_again_and_says_so():
    ok(f"{SMALL} -a vip --jobs 1 --out out")
    before = pd.read_parquet("out/per_replicate.parquet")
    damaged = sorted(Path("out/cells").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    again = ok(f"{SMALL} -a vip --jobs 1 --out out")
    assert "block 0: its file was damaged, it runs again" in again.err
    assert "1 of 2 cells are finished already" in again.err
    pd.testing.assert_frame_equal(pd.read_parquet("out/per_replicate.parquet"), before)


@unsaved
def test_a_study_from_a_file_is_the_study_of_the_flags():
    ok(f"{SMALL} -a vip --jobs 1 --out flags")
    ok("compare --config flags/study.toml --jobs 1 --out file")
    assert same_data("flags", "file")
    assert Path("flags/study.toml").read_text() == Path("file/study.toml").read_text()
    ok("compare --config flags/study.toml --seed 1 --jobs 1 --out seed")
    assert not same_data("flags", "seed")


# --- show, merge


def test_show_prints_the_tables_again(base, trained):
    for printed, out in (base, trained):
        assert ok(f"show {out}").out == printed.out
    assert ok(f"show {base[1]} --json").json["summary"][0]["allocator"] == "uniform"


def test_show_ranks_by_another_metric(base, trained):
    shown = ok(f"show {base[1]} --sort mse").out
    ranked = [line.split()[0] for line in shown.splitlines() if "±" in line and line[0] == " "]
    mse = pd.read_csv(base[1] / "summary.csv").query("metric == 'mse'").set_index("allocator")
    assert ranked == list(mse.estimate.sort_values().index)
    shown = ok(f"show {trained[1]} --sort seconds_to_50").out
    assert "by seconds_to_50" in shown
    assert "by area_over_rollouts" in ok(f"show {trained[1]}").out


@unsaved
def test_merged_studies_are_the_study_run_at_once(monkeypatch):
    where = "compare --prompts 16 -s snapshot-u-shaped-v1 --jobs 1"
    ok(f"{where} --replicates 16 -a vip --out a")
    ok(f"{where} --replicates 32 -a vip -a knapsack --out b")
    ok(f"{where} --replicates 32 -a vip -a knapsack --out whole")
    with monkeypatch.context() as patch:
        no_cell_may_run(patch)
        shown = ok("merge a b --out c").out
    assert same_data("c", "whole")
    assert "knapsack" in shown


@unsaved
def test_a_merge_with_holes_says_how_to_fill_them():
    where = "compare --prompts 16 -s snapshot-u-shaped-v1 --jobs 1"
    ok(f"{where} --replicates 16 -a vip --out a")
    ok(f"{where} --replicates 32 -a knapsack --out b")
    done = run("merge a b --out c")
    assert done.code == 1
    assert "1 of 6 cells are in none of them: rolloutbench compare --config c/study.toml --out c" in done.err
    assert "5 of 6 cells are finished already" in ok("compare --config c/study.toml --out c").err
    ok(f"{where} --replicates 32 -a vip -a knapsack --out whole")
    assert same_data("c", "whole")


@unsaved
def test_only_studies_under_the_same_conditions_merge():
    for out, how in {"a": "--seed 0", "b": "--seed 1"}.items():
        ok(f"{SMALL} {how} --jobs 1 --out {out}")
    done = run("merge a b --out c")
    assert done.code == 2
    assert "seed: 0 and 1: only studies under the same conditions merge" in done.err
    assert not Path("c").exists()


# --- diff, report: see test_difference.py and test_report.py


def test_diff_says_what_changed(base):
    ok(f"{SMALL} -a vip -a knapsack --seed 1 --jobs 1 --out other")
    shown = ok(f"diff {base[1]} other -m snr").out
    assert "seed" in shown
    assert "knapsack" in shown
    answer = ok(f"diff {base[1]} {base[1]} --json").json
    assert {change["verdict"] for change in answer["changes"]} == {"same"}
    refused = run(f"diff {base[1]} other -m snrr")
    assert refused.code == 2
    assert "snrr" in refused.err


def test_report_is_written_and_goes_with_its_results(base):
    assert ok(f"report {base[1]} --out page").out.split() == ["page/report.html", "page/report.md"]
    assert "snapshot-u-shaped-v1" in Path("page/report.html").read_text()
    ok(f"{SMALL} -a vip --jobs 1 --out out")
    ok("report out")
    ok(f"{SMALL} -a vip --jobs 1 --out out")
    assert visible("out") == {"per_replicate.parquet", "plots", "summary.csv", *STORE}


RECORDED = Path(__file__).parents[2] / "results" / "learning_default"


@pytest.mark.parametrize("form", ["latex", "markdown", "csv"])
def test_tables_for_a_paper(form):
    """Recorded results in a form for elsewhere: chosen rows and columns, nothing else on the output."""
    done = run(f"show {RECORDED} --format {form} -a mopps -a uniform -c 'area over rollouts'")
    assert done.code == 0, done.err
    shown = done.out.replace("mopps[predictor=oracle] knows", "")
    assert shown.count("mopps") == 4  # a table a scenario; that of all scenarios has no such column
    assert "vip" not in shown
    begins = {"latex": "% weak-cold-v1", "markdown": "## weak-cold-v1", "csv": "allocator,area over rollouts"}
    assert done.out.startswith(begins[form])
    for wrong, said in (
        ("-a mops", "did you mean mopps"),
        ("-c area", "--column area: known: against uniform"),
    ):
        done = run(f"show {RECORDED} --format {form} {wrong}")
        assert (done.code, done.out) == (2, "")
        assert said in done.err
