"""Runs that were trained elsewhere: added one by one, shown when they can be compared."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from command_line import run as command

from rolloutbench.cells.collectors import Totals
from rolloutbench.environment import Ledger
from rolloutbench.protocol import InputError
from rolloutbench.studies.kinds import open_results
from rolloutbench.studies.kinds.training import TrainingResults
from rolloutbench.studies.recorded import RecordedRun, add

SUMS = {name: float(value[0]) for name, value in Totals(1).columns(Ledger(1, 5)).items()}


def a_run(allocator="uniform", replicate=0, gain=0.1, **changes):
    """Twelve steps of 64 rollouts, evaluated every third, with some noise of its seed."""
    rng = np.random.default_rng([replicate, len(allocator)])
    rows = [
        {
            **SUMS,
            "steps": float(step),
            "accuracy": 0.3 + gain * step / 12 + 0.001 * rng.random() * step,
            "rollouts": 64.0 * step,
            "trained": 64.0 * step,
            "prompts": 8.0 * step,
            "groups": 8.0 * step,
            "tokens": 300.0 * step,
            "unverified": 0.0,
            "epoch": 0.0,
            "seconds": float(step),
            **{
                f"seconds_{phase}": step / 4
                for phase in ("generation", "verification", "allocation", "update")
            },
        }
        for step in range(0, 13, 3)
    ]
    run = RecordedRun("gsm8k", allocator, replicate, rows, 8, "grpo", "rollout", 8, 8, "TRL, a model")
    return replace(run, training={"pool_size": 200}, **changes)


@pytest.fixture
def plots_undrawn(monkeypatch):
    """No plots: they take longer than all the rest."""
    monkeypatch.setattr(TrainingResults, "draw", lambda results, directory: [])


@pytest.fixture
def study(tmp_path, plots_undrawn):
    path = tmp_path / "study"
    for replicate in range(3):
        for allocator, gain in (("uniform", 0.1), ("mopps", 0.2), ("vip[predictor=beta]", 0.15)):
            add(path, a_run(allocator, replicate, gain))
    return path


def test_results_come_when_two_seeds_of_uniform_are_there(tmp_path, plots_undrawn):
    path = tmp_path / "study"
    assert "need 2 runs of uniform, of which there are 0" in add(path, a_run("mopps", 0, 0.2))
    with pytest.raises(InputError, match="not finished"):
        open_results(path)
    assert "there are 1" in add(path, a_run())
    assert add(path, a_run(replicate=1)) == "left out until they have a run for each of 2 seeds: mopps"
    assert set(open_results(path).summary.allocator) == {"uniform"}
    assert add(path, a_run("mopps", 1, 0.2)) is None
    found = open_results(path)
    assert set(found.summary.allocator) == {"uniform", "mopps"}
    area = found.of_metric("area_over_rollouts", "gsm8k")
    assert area.ratio["mopps"] == pytest.approx(2, abs=0.1)
    assert area.ratio["uniform"] == 1
    assert "2 seeds" in found.conditions


def test_its_plots_are_drawn(tmp_path, plots_undrawn, monkeypatch):
    add(tmp_path / "study", a_run())
    monkeypatch.undo()
    add(tmp_path / "study", a_run(replicate=1))
    assert (tmp_path / "study" / "plots" / "accuracy_over_rollouts.png").exists()


def test_seeds_of_any_number_are_paired_by_it(tmp_path, plots_undrawn):
    path = tmp_path / "study"
    for replicate in (42, 7):
        for allocator in ("uniform", "mopps"):
            add(path, a_run(allocator, replicate))
    curves = pd.read_parquet(path / "curves.parquet")
    assert set(curves.replicate) == {0, 1}
    own, reference = (curves[curves.allocator == name] for name in ("uniform", "(reference)"))
    assert own.accuracy.tolist() == reference.accuracy.tolist()


def test_a_reference_run_of_its_own_is_what_others_are_measured_against(study):
    for replicate in range(3):
        add(study, a_run("(reference)", replicate, gain=0.4))
    assert "(reference)" not in set(open_results(study).summary.allocator)
    reached = open_results(study).of_metric("rollouts_to_90", "gsm8k")
    assert (reached.estimate == 1.5 * 64 * 8).all(), "nobody reached it"


def test_a_run_that_is_done_again_replaces_the_first(study):
    before = open_results(study).of_metric("area_over_rollouts", "gsm8k").estimate["mopps"]
    for replicate in range(3):
        add(study, a_run("mopps", replicate, gain=0.05))
    after = open_results(study).of_metric("area_over_rollouts", "gsm8k").estimate["mopps"]
    assert after < before / 2
    assert len(list((study / "cells").glob("*.parquet"))) == 9


@pytest.mark.slow
def test_every_command_reads_it(study, tmp_path, plots_unsaved):
    shown = command(f"show {study} --json").json
    assert {row["allocator"] for row in shown["summary"]} == {"uniform", "mopps", "vip[predictor=beta]"}
    assert command(f"diff {study} {study}").code in (0, None)
    assert command(f"report {study}").code in (0, None)
    assert "The same study again" not in (study / "report.html").read_text()
    fitted = command(f"fit {study}")
    assert fitted.code in (0, None), fitted.err
    assert "pool_size" in fitted.out
    simulated = tmp_path / "simulated"
    asked = "-a mopps -a vip[predictor=beta] -s u-shaped-adam-v1[steps=4] --replicates 2"
    assert command(f"compare {asked} --out {simulated}").code in (0, None)
    validated = command(f"validate {simulated} {study}")
    assert validated.code in (0, None), validated.err
    assert "mopps" in validated.out


REFUSED = {
    "its first evaluation": {"rows": a_run().rows[1:]},
    "estimator=grpo, not rloo": {"estimator": "rloo"},
    "prompts=8, not 16": {"prompts": 16},
}


@pytest.mark.parametrize("said", REFUSED)
def test_other_conditions_are_refused(study, said):
    with pytest.raises(InputError, match=said):
        add(study, replace(a_run("dapo"), **REFUSED[said]))
    assert open_results(study).has("summary")


def test_a_study_of_another_kind_is_left_alone(tmp_path, plots_unsaved):
    path = tmp_path / "compared"
    assert command(f"compare -a mopps -s u-shaped-v1 --replicates 2 --out {path}").code in (0, None)
    with pytest.raises(InputError, match="that rolloutbench ran"):
        add(path, a_run())
    assert open_results(path).kind == "learning"


@pytest.mark.slow
def test_several_processes_add_to_one_study(tmp_path):
    path = tmp_path / "study"
    runs = [a_run(allocator, replicate) for replicate in (0, 1) for allocator in ("uniform", "mopps")]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(add, [(path, run) for run in runs])
    assert set(open_results(path).summary.allocator) == {"uniform", "mopps"}
