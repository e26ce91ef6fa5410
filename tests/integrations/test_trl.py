"""TRL's trainer with an allocator, in one process and in two: what it trains is TRL's, to the rounding.

`trl_cases.py` does the work in processes of its own; what it found is read here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

pytest.importorskip("trl")
from rolloutbench.studies.kinds import open_results  # after what may be missing

pytestmark = [pytest.mark.slow, pytest.mark.torch]

TESTS = Path(__file__).parents[1]
CASES = {
    1: "equal unequal reuse resume floats errors losses evaluation turns odd_steps engine record refusals",
    2: "equal unequal resume floats errors evaluation odd_steps record",
}
"""What is done in one process, and in two."""


@pytest.fixture(scope="session")
def ran(tmp_path_factory):
    """What was found in one process and in two, which run side by side; workers of pytest share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trl"
    folder.mkdir(exist_ok=True)
    outs = {ranks: folder / f"{ranks}.json" for ranks in CASES}
    with filelock.FileLock(folder / "lock"):
        if not all(out.exists() for out in outs.values()):
            _run(folder, outs)
    return {ranks: json.loads(out.read_text()) for ranks, out in outs.items()}


def _run(folder, outs):
    where = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(TESTS), str(TESTS.parent)])
    environment = os.environ | {"PYTHONPATH": where, "OMP_NUM_THREADS": "1"}
    model = str(folder / "model")
    code = f"from trl_sorting import warm_up; warm_up({model!r})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=folder)
    started = []
    for ranks, out in outs.items():
        several = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks)] if ranks > 1 else []
        command = [sys.executable, *several, str(TESTS / "trl_cases.py"), model, str(out)]
        log = out.with_suffix(".log")
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, *CASES[ranks].split()], env=environment, cwd=folder, stdout=file, stderr=file
            )
        started.append((process, log))
    for process, log in started:
        assert process.wait() == 0, log.read_text()[-4000:]


@pytest.fixture(params=CASES, ids=["one process", "two processes"])
def found(ran, request):
    return ran[request.param]


def test_uniform_is_trl(found):
    for name, case in found["equal"].items():
        assert case["moved"] > 1e-3, name
        assert case["weights"] < 2e-6, name
        assert case["losses"] < 2e-6, name
        for log, (own, ours) in case["logs"].items():
            assert ours == pytest.approx(own, abs=1e-6), (name, log)
        assert case["generated"][-1] in (128, 256)


def test_rows_without_a_gradient_are_spared_to_no_effect(found):
    measured = [case for case in found["equal"].values() if "moved_once" in case]
    assert len(measured) == 4
    for case in measured:
        assert case["moved_once"] > 1e-3
        assert case["without_zero_rows"] < 2e-6


def test_unequal_groups_have_the_gradient_that_is_found_by_hand(found):
    for name, case in found["unequal"].items():
        assert case["sizes"] == [1, 2, 3, 5, 7, 10, 20, 16]
        assert case["size"] > 0.05, name
        assert case["apart"] < 1e-6, name


def test_stored_successes_join_groups_or_their_statistics(ran):
    for name, case in ran[1]["reuse"].items():
        assert sum(case["stored"]) > 4, name
        assert case["apart"] < 1e-6, name


def test_what_goes_on_from_a_checkpoint_is_what_was_never_stopped(found):
    runs = found["resume"]
    for name, case in runs.items():
        assert case["apart"] == 0, name
        assert case["logs"], name
        assert case["bills"], name
        assert case["rows"] == case["held"], name
        assert all(file.endswith(".safetensors") for file in case["files"]), name
    assert any(case["rows"] for case in runs.values()), "nothing was held"
    within = [case["files"] for name, case in runs.items() if name.endswith("within")]
    assert within
    assert all("batches-0.safetensors" in files for files in within)


def test_rewards_may_be_floats_and_there_may_be_none(found):
    for name, case in found["floats"].items():
        bill = case["bill"]
        assert bill["unverified"] == bill["discarded/lost"] > 0, name
        assert bill["generated"] == case["generated"][-1], name
        assert all(abs(loss) < 1 for loss in case["losses"]), name
        assert max(case["reward"]) > 1.2, "of two functions"
        assert case["words"] == [1.0] * 6
        for table in case["tables"]:
            assert {len(column) for column in table.values()} == {len(table["prompt"])}
            for prompt, wanted in zip(table["prompt"], table["wanted"], strict=True):
                assert wanted == "".join(sorted(prompt.rstrip("=")))
        assert any(any(table["advantage"]) for table in case["tables"]), name


def test_what_two_processes_cannot_share_is_drawn_for_nobody_and_counted(ran):
    assert ran[1]["floats"]["odd"]["padding"] == [0] * 6
    assert ran[2]["floats"]["odd"]["padding"] == [1, 2, 3, 4, 5, 6]
    assert ran[2]["floats"]["odd"]["generated"] == [23 * step for step in range(1, 7)]


def test_an_error_of_the_allocator_ends_every_process(ran):
    for ranks, one in ran.items():
        *everywhere, wrong = one["errors"]
        assert everywhere == ["allocator: is out of ideas"] * ranks
        assert "did you mean vip" in wrong


def test_every_loss_type_trains(ran):
    for name, case in ran[1]["losses"].items():
        assert 1e-4 < case["moved"] < 0.1, name


def test_evaluation_is_trls(found):
    assert found["evaluation"]["ours"] == found["evaluation"]["own"]
    assert len(found["evaluation"]["during"]) == 2


def test_tokens_that_are_not_the_models_are_not_trained_on(ran):
    turns = ran[1]["turns"]
    assert [length - 1 for length in turns["lengths"]] == turns["tokens"]


def test_a_step_may_have_no_rollouts_or_many(found):
    case = found["odd_steps"]
    assert case["generated"] == [0, 192]
    assert case["norms"][0] == 0
    assert case["norms"][1] > 0
    assert case["at_once"] == [64, 64, 64]
    assert case["moved"] > 0


def test_vllms_log_probs_correct_what_is_trained_on(ran):
    case = ran[1]["engine"]
    assert case["weights"] < 2e-6
    assert set(case["asked"]) == {1}, "every prompt stands there as often as it is sampled"
    for name in ("sampling/importance_sampling_ratio/mean", "sampling/sampling_logp_difference/mean"):
        own, ours = case[name]
        assert ours == pytest.approx(own, abs=1e-5), name
    assert case["sampling/sampling_logp_difference/mean"][0][0] > 0.01
    assert case["moved"] > 1e-3
    assert all(case["held"])


def test_a_run_becomes_a_study(found):
    runs = found["record"]
    shown = open_results(runs["study"])
    assert set(shown.summary.allocator) == {"uniform", "dapo"}
    assert shown.record["replicates"] == 2
    assert shown.record["training"]["pool_size"] == 200
    uniform = runs["uniform 0"]
    assert [row["steps"] for row in uniform] == [0, 2, 4, 6]
    assert [row["rollouts"] for row in uniform] == [0, 128, 256, 384]
    assert all(0 < row["accuracy"] < 1 for row in uniform)
    for rows in (uniform, runs["dapo 1"]):
        last = rows[-1]
        assert last["rollouts"] == last["trained"] + sum(last[n] for n in last if n.startswith("discarded_"))
        assert last["seconds"] == pytest.approx(sum(last[n] for n in last if n.startswith("seconds_")))
    assert "eval_on_start" in runs["refused"]


def test_a_run_that_goes_on_is_recorded_as_one_that_was_never_stopped(found):
    whole, again = found["record"]["dapo 1"], found["record"]["again"]
    for one, other in zip(whole, again, strict=True):
        assert all(other[name] == one[name] for name in one if not name.startswith("seconds"))


REFUSED = {
    "loss_type": ("loss_type=bnpo", "dapo"),
    "scale_rewards": ("scale_rewards=batch", "group or none"),
    "multi_objective": ("multi_objective_aggregation=normalize_then_sum", "sum_then_normalize"),
    "aggregation": ("aggregation=token", "rollout or prompt"),
    "success": ("success=corect", "correct"),
    "stream": ("train_dataset=(a stream)", "map-style"),
    "few": ("train_dataset=(5 prompts)", "= 8"),
    "features": ("features of shape (7, 2)", "(200, d)"),
    "features by a function": ("features of shape (199, 2)", "(200, d)"),
    "no features": ("predictor gp needs a feature vector", "predictor=beta"),
    "allocator": ("unknown allocator 'vipp'", "vip"),
    "estimator": ("unknown estimator 'grpoo'", "grpo"),
    "replay": ("reuse=replay", "I, II or none"),
    "another trainer's": ("checkpoint-1", "another trainer"),
    "another allocator's": ("allocator=vip", "allocator=mopps"),
    "another data set's": ("fingerprint=200 prompts", "fingerprint=200 prompts"),
    "damaged": ("rollouts.safetensors", "no checkpoint"),
    "tools": ("tools=(given)", "None"),
    "environment_factories": ("environment_factory=(given)", "None"),
    "_is_vlm": ("model=LlamaForCausalLM", "text"),
    "use_liger_kernel": ("use_liger_kernel=True", "False"),
}


def test_what_an_allocator_cannot_do_is_refused_in_one_line(ran):
    said = ran[1]["refusals"]
    assert said.keys() == REFUSED.keys()
    for name, words in REFUSED.items():
        assert all(word in said[name] for word in words), said[name]
        assert "\n" not in said[name]
