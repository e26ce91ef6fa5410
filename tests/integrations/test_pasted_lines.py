"""The lines that `recommend` gives for TRL train as they stand, with a reader's model, reward and data."""

import functools

import pytest

trl = pytest.importorskip("trl")
import trl_sorting  # after what may be missing  # noqa: E402

from rolloutbench.analysis.recommendation import for_trl  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),  # those of libraries, of which other releases have others
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    trl_sorting.llama().save_pretrained(folder)
    trl_sorting.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("estimator", "aggregation", "expected"),
    [("grpo", "rollout", "GRPO"), ("dr_grpo", "prompt", "DrGRPO"), ("rloo", "prompt", "RLOO")],
)
@pytest.mark.parametrize("prompts", [4, 3])  # of 3 rollouts: 8 rows are no micro-batch of either
def test_they_train(model, tmp_path, monkeypatch, estimator, aggregation, expected, prompts):
    on_cpu = {"use_cpu": True, "bf16": False, "report_to": [], "max_steps": 1, "max_completion_length": 4}
    settings = {"output_dir": str(tmp_path), "save_strategy": "no", "disable_tqdm": True}
    monkeypatch.setattr("trl.GRPOConfig", functools.partial(trl.GRPOConfig, **on_cpu, **settings))
    lines = for_trl("vip[predictor=beta]", estimator, aggregation, prompts, 3)
    host = {"model": model, "reward": trl_sorting.correct, "data": trl_sorting.dataset(20)}
    exec(lines, host)
    trainer = host["trainer"]
    assert trainer.state.global_step == 1
    assert trainer.coach.bill()["generated"] == 3 * prompts
    assert type(trainer.coach.setting.estimator).__name__ == expected
    assert trainer.aggregation == aggregation
