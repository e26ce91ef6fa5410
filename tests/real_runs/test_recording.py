"""A score bank recorded through the command line, and what is done with it."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import run

from real_runs.recording import Recorded, sheets
from rolloutbench.analysis.noise import fit_noise
from rolloutbench.score_bank import read_bank

pytestmark = pytest.mark.torch

TASK = "sorting[shortest=2,longest=4,pool_size=60,held_out=16]"
STUDY = f"""
study = "train"
task = "{TASK}"
model = "tiny[width=32,warmup_steps=150,learning_rate=1e-2]"
trainer = "ppo[learning_rate=1e-3]"
prompts = 8
group_size = 4
initial_rollouts = 8
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "study.toml").write_text(STUDY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROLLOUTBENCH_CACHE", str(folder / "cache"))
        asked = "--at-steps 0,3 --pool 20 --rollouts 8 --dimensions 64 --json"
        done = run(f"record {folder / 'study.toml'} {asked} --out {folder / 'bank'}")
    assert done.code == 0, done.err
    return folder / "bank", done.json


def test_a_bank_has_what_was_asked_for(recorded):
    directory, answer = recorded
    bank = read_bank(directory)
    assert len(bank) == 2 * 20 * 8
    assert np.unique(bank.steps).tolist() == [0, 3]
    assert (np.bincount(bank.prompts) == 16).all()
    assert bank.sketches.shape[1] == 64
    assert bank.features.shape == (20, 32)
    assert bank.about["task"].startswith("Sorting(")
    assert bank.about["command"].startswith("rolloutbench record")
    prompts = pd.read_parquet(directory / "prompts.parquet")
    assert all(sorted(p[:-1]) == list(a) for p, a in zip(prompts.text, prompts.answer, strict=True))
    assert {row["step"] for row in answer["tests"]} == {0, 3}


def test_rewards_are_those_of_the_model(recorded):
    """Scores of successes of one prompt are one string's, so equal; those of different prompts are not."""
    bank = read_bank(recorded[0]).at(0)
    assert 0 < bank.rewards.mean() < 1
    for prompt in np.unique(bank.prompts[bank.rewards == 1]):
        alike = bank.norms[(bank.prompts == prompt) & (bank.rewards == 1)]
        np.testing.assert_allclose(alike, alike[0], rtol=1e-3)
    assert bank.norms.std() > 0.1 * bank.norms.mean()


def test_tables_and_plots_are_written(recorded):
    directory, answer = recorded
    for name in ("noise", "tests", "variance", "agreement"):
        assert len(pd.read_csv(directory / "scores" / f"{name}.csv"))
    assert sorted(path.name for path in (directory / "scores").glob("*.png")) == [
        "variance_0.png",
        "variance_0_other.png",
        "variance_3.png",
        "variance_3_other.png",
    ]
    written = pd.read_csv(directory / "scores" / "agreement.csv").estimate
    told = [np.nan if row["estimate"] is None else row["estimate"] for row in answer["agreement"]]
    np.testing.assert_allclose(written, told)
    assert written.notna().any()
    about = json.loads((directory / "scores" / "about.json").read_text())
    assert about["command"].startswith("rolloutbench record")
    assert "20 prompts x 8 rollouts" in about["conditions"]


def test_noise_is_that_of_the_bank_at_each_step(recorded):
    directory, answer = recorded
    written = pd.read_csv(directory / "scores" / "noise.csv")
    assert written.step.tolist() == [row["step"] for row in answer["noise"]] == [0, 3]
    for row in written.itertuples():
        bank = read_bank(directory).at(row.step)
        found = fit_noise(bank.prompts, bank.steps, bank.rewards, bank.sketches)
        assert row.prompts == found.prompts
        assert row.gradient == pytest.approx(found.gradient.estimate, rel=0.05)
        assert row.failures == pytest.approx(found.failures.estimate, rel=0.05)
        assert row.success_noise == pytest.approx(found.success_noise.estimate, abs=0.01)
        assert row.gradient_low < row.gradient < row.gradient_high


ENDS = "", "_low", "_high"


@pytest.mark.parametrize(
    ("ratio", "said"), [(0.3, "0.3 [0.15, 0.6]"), (np.inf, "no signal"), (np.nan, "no such prompt")]
)
def test_noise_is_said_in_words_where_it_is_no_number(ratio, said):
    spans = dict.fromkeys(("gradient", "failures", "success_noise"), (ratio, ratio / 2, ratio * 2))
    row = {f"{name}{end}": x for name, of in spans.items() for end, x in zip(ENDS, of, strict=True)}
    noise = pd.DataFrame([{"step": 0, "prompts": 9, **row}])
    nothing = pd.DataFrame(columns=["p_value", "prompts", "estimate", "low", "high"])
    shown, *_ = sheets(Recorded(None, {}, "", noise, nothing, nothing, nothing))
    assert said in shown.section()


def test_allocators_are_compared_on_it(recorded, tmp_path):
    spec = f"replay:{recorded[0] / 'bank.parquet'}"
    asked = f"-s {spec} -a vip[predictor=beta] --prompts 10 --replicates 16 --jobs 1 --json"
    done = run(f"compare {asked} --out {tmp_path / 'out'}")
    assert done.code == 0, done.err
    found = done.json["summary"]
    assert {row["allocator"] for row in found} == {"uniform", "vip[predictor=beta]"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("--at-steps 0,x", "--at-steps: 'x' is no whole number"),
        ("--pool 61", "--pool 61: the task's training pool has 60 prompts"),
        ("--dimensions 100", "dimensions=100"),
        ("--task sortin", "sorting"),
        ("--rollouts 7", "'--rollouts': '7': Input should be greater than or equal to 8"),
    ],
)
def test_wrong_input_is_one_line(recorded, tmp_path, monkeypatch, asked, said):
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(recorded[0].parent / "cache"))
    study = recorded[0].parent / "study.toml"
    done = run(f"record {study} --rollouts 8 {asked} --out {tmp_path / 'out'}")
    assert done.code == 2
    assert said in done.err
    assert done.err.splitlines()[-1].startswith("rolloutbench: error: ")
    assert not (tmp_path / "out").exists()
