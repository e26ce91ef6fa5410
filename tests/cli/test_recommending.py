"""`rolloutbench recommend`: what it says is what the study's tables say, and bounds are never recommended."""

import json
from pathlib import Path

import pandas as pd
import pytest
from command_line import run

import rolloutbench as rb
from rolloutbench.analysis.yardsticks import is_yardstick

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "results" / "learning_all"
REAL = ROOT / "results" / "real_sorting"
SMALL = "--prompts 8 --steps 6 --replicates 3 --jobs 1 -a mopps -a mopps[predictor=oracle] -a dapo"
AREA, TO_90, SECONDS = "tuned_area_over_rollouts", "tuned_rollouts_to_90", "tuned_seconds_to_90"


def asked(command):
    done = run(f"recommend {command}")
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def summary():
    found = pd.read_parquet(RECORDED / "summary.parquet")
    return found[found.scenario == "weak-cold-v1"].pivot(index="allocator", columns="metric")


@pytest.fixture(scope="module")
def told():
    return asked(f"--like {RECORDED} -s weak-cold-v1 --price-per-gpu-hour 2 --json").json


def test_the_best_method_is_recommended_and_who_overlaps_cannot_be_told_from_it(told, summary):
    low, high, ratio = (summary[f"ratio{end}"][AREA] for end in ("_low", "_high", ""))
    methods = [name for name in summary.index if not is_yardstick(name) and name != "uniform"]
    best = ratio[methods].idxmax()
    assert ratio.idxmax() == "mopps[predictor=oracle]"  # a bound is above it, and not recommended
    assert told["recommended"] == best
    assert told["ratio"] == pytest.approx([ratio[best], low[best], high[best]])
    overlap = {name for name in methods if low[name] <= high[best] and low[best] <= high[name]} - {best}
    assert set(told["cannot_be_told_from_it"]) == overlap != set()


def test_what_it_saves_is_the_difference_to_uniform(told, summary):
    best = told["recommended"]
    for metric, price in ((TO_90, "rollouts"), (SECONDS, "seconds")):
        ends = [-summary[f"difference{end}"][metric][best] for end in ("", "_high", "_low")]
        shares = [1 - summary[f"ratio{end}"][metric][best] for end in ("", "_high", "_low")]
        assert told["saves"][price] == pytest.approx(ends)
        assert told["saves_shares"][price] == pytest.approx(shares, rel=1e-3)
    assert told["saves"]["gpu_hours"] == pytest.approx([64 * s / 3600 for s in told["saves"]["seconds"]])
    assert told["saves"]["money"] == pytest.approx([2 * hours for hours in told["saves"]["gpu_hours"]])


def test_who_pays_only_in_seconds_is_said(told, summary):
    better = {
        price: set(summary.index[summary["ratio_low"][f"tuned_area_over_{price}"] > 1])
        for price in ("rollouts", "seconds")
    }
    expected = {name for name in better["seconds"] - better["rollouts"] if not is_yardstick(name)}
    assert set(told["only_at_the_other_price"]) == expected != set()


def test_it_is_said_in_words_with_intervals(told):
    words = " ".join(asked(f"--like {RECORDED} -s weak-cold-v1").out.split())
    estimate, low, high = told["ratio"]
    assert f"{told['recommended']}: {estimate:.3f} [{low:.3f}, {high:.3f}] times uniform's" in words
    assert "cannot be told from it" in words
    assert "only if seconds count" in words
    assert "bounds, not methods; never recommended" in words
    assert "of the rollouts, " in words
    assert "GPU hours with 64 GPUs at once" in words
    assert "which cost" not in words
    seconds = " ".join(asked(f"--like {RECORDED} --price seconds").out.split())
    assert "mean gain in accuracy at equal seconds" in seconds
    assert "only if rollouts count" in seconds


def test_where_nobody_is_better_there_is_nothing_to_paste():
    done = asked(f"--like {REAL}")
    assert done.out.startswith("uniform: no allocator has more than uniform's mean gain")
    assert "AllocatedGRPOTrainer" not in done.out
    assert asked(f"--like {REAL} --json").json["trl"] == ""


def test_allocators_may_be_named():
    only = asked(f"--like {RECORDED} -s weak-cold-v1 -a coba -a dapo --json").json
    assert only["recommended"] == "coba"
    assert set(only["only_at_the_other_price"]) == {"dapo"}


def test_what_an_allocator_reads_of_prompts_is_pasted_with_it():
    told = asked(f"--like {RECORDED} -s weak-cold-v1 -a vip --json").json
    assert told["recommended"] == "vip"
    assert "from rolloutbench.embedding import embed\n" in told["trl"]
    assert "    features=embed," in told["trl"]
    assert "+trainer.v1.rolloutbench.features=" in told["verl"]
    assert "features" not in asked(f"--like {RECORDED} -s weak-cold-v1 -a mopps --json").json["trl"]


@pytest.mark.usefixtures("plots_unsaved")
def test_a_file_of_ones_own_is_compared_and_kept_where_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("pass_rate,n\n" + "0.25,8\n0.5,8\n1.0,8\n0,8\n" * 8)
    file = "--pass-rates mine.csv --trials n --estimator rloo --aggregation prompt --optimizer sgd"
    told = asked(f"{file} {SMALL} --out kept --json").json
    shown = run("show kept --json").json["conditions"]
    assert shown["learning_rates"] == [0.5, 1.0, 2.0]
    assert told["conditions"] == shown["captions"]["measured"]
    assert "rloo, aggregation prompt" in told["conditions"]
    assert "6 steps of 8 prompts x 8 rollouts" in told["conditions"]
    assert told["recommended"] != "mopps[predictor=oracle]"
    again = asked(f"{file} {SMALL} --out kept --json")
    assert "cells are finished already" in again.err
    assert again.json == told
    before = sorted(tmp_path.iterdir())
    words = asked(f"{file} {SMALL}")  # a study that is not kept
    assert words.out.startswith(f"{told['recommended']}: ")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--like nowhere", "nowhere: "),
        (f"--like {RECORDED} --prompts 8", "--prompts: goes without --like"),
        (f"--like {RECORDED} --pass-rates mine.csv", "--pass-rates: goes without --like"),
        (f"--like {RECORDED} --out kept", "--out: goes without --like"),
        (f"--like {RECORDED} -s u-shape", "scenario u-shape: was not measured: did you mean u-shaped-v1"),
        (f"--like {RECORDED} -a mops", "allocator mops: was not measured: did you mean mopps"),
        (f"--like {ROOT / 'results' / 'snapshot_default'}", "training runs are expected"),
        ("-s snapshot-mid-v1", "--scenario: a snapshot does not train"),
        ("--price money", "'money'"),
        ("--price-per-gpu-hour 0", "Input should be greater than 0"),
    ],
)
def test_what_cannot_be_recommended_is_refused_in_one_line(command, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(f"recommend {command}")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert said in done.err
    assert list(tmp_path.iterdir()) == []


def test_python_says_the_same(told):
    found = rb.recommend(["weak-cold-v1"], like=RECORDED, price_per_gpu_hour=2)
    assert json.loads(json.dumps(found.as_json())) == {k: v for k, v in told.items() if k != "out"}
    assert str(found).startswith(f"{found.allocator}: ")
    assert found.trl in found._repr_markdown_()
    with pytest.raises(rb.InputError, match="price money: rollouts or seconds is expected"):
        rb.recommend(like=RECORDED, price="money")


@pytest.mark.usefixtures("plots_unsaved")
def test_python_compares_too():
    options = {"prompts": 8, "steps": 6, "replicates": 3, "jobs": 1, "learning_rates": [1.0]}
    found = rb.recommend(["u-shaped-v1[noise_ratio=50]"], allocators=["mopps"], progress=False, **options)
    assert found.allocator in ("mopps", "uniform")
    assert found.results.summary.scenario.unique().tolist() == ["u-shaped-v1[noise_ratio=50]"]
