"""What a log says of the rollouts that were spent: known answers, and the study that it becomes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import integrate, stats

from rolloutbench.protocol import InputError
from rolloutbench.run_logs import RunLog
from rolloutbench.studies.diagnosis import BINS, _chance_of_gradient, diagnose, write
from rolloutbench.studies.kinds import DESCRIPTIONS


def log(steps=12, prompts=8, pool=24, group=8, seed=0):
    """Prompts in turn, of which a third is never solved and a third always."""
    rng = np.random.default_rng(seed)
    p = np.repeat([0.0, 0.5, 1.0], pool // 3)
    order = np.concatenate([rng.permutation(pool) for _ in range(-(-steps * prompts // pool))])
    asked = order[: steps * prompts]
    counts = np.full(len(asked), group)
    return RunLog(
        np.repeat(np.arange(steps), prompts),
        asked,
        counts,
        rng.binomial(counts, p[asked]),
        [f"prompt {q}" for q in range(pool)],
        0,
    )


def test_what_had_no_gradient():
    run = log(steps=60)
    found = diagnose(run, ["uniform"])
    equal = (run.successes == 0) | (run.successes == 8)
    assert found.wasted.estimate == pytest.approx(equal.mean())
    assert found.never == pytest.approx((run.successes == 0).mean())
    assert found.wasted.low < found.wasted.estimate < found.wasted.high
    assert len(found.quarters) == 4
    assert np.mean([one.estimate for one in found.quarters]) == pytest.approx(equal.mean())
    (uniform,) = found.asked
    assert [count for count in uniform.counts if not np.isnan(count)] == [8.0] * (
        ~np.isnan(uniform.counts)
    ).sum()


def test_who_learns_from_the_log_asks_where_both_rewards_come():
    found = diagnose(log(steps=60), ["uniform", "vip[predictor=beta]", "dapo", "mopps[predictor=beta]"])
    by_name = {one.allocator: one for one in found.asked}
    vip, uniform = by_name["vip[predictor=beta]"], by_name["uniform"]
    assert vip.counts[BINS.index("some")] > 10 > vip.counts[BINS.index("none")]
    assert vip.with_gradient.low > uniform.with_gradient.high
    assert found.asked[0].allocator == "vip[predictor=beta]"
    assert "dapo" in found.needs_rollouts


def test_chance_of_a_gradient_is_the_integral():
    asked, k, m = np.array([1, 2, 8, 0]), np.array([0, 3, 5, 1]), np.array([4, 8, 5, 2])
    prior = (0.4, 0.7)

    def slow(n, k, m):
        if n == 0:
            return 0.0
        density = stats.beta(prior[0] + k, prior[1] + m - k).pdf
        return integrate.quad(lambda p: (1 - p**n - (1 - p) ** n) * density(p), 0, 1, limit=200)[0]

    expected = [slow(*each) for each in zip(asked, k, m, strict=True)]
    np.testing.assert_allclose(_chance_of_gradient(asked, k, m, prior), expected, atol=1e-6)


def test_an_allocator_that_needs_more_than_the_log_has():
    with pytest.raises(InputError, match="needs a feature vector"):
        diagnose(log(), ["vip"])
    assert "vip" not in [one.allocator for one in diagnose(log()).asked]  # of all, those that can


def test_it_becomes_a_study(tmp_path):
    write(diagnose(log(), ["uniform"]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pass_rates.parquet",
        "compare.toml",
        "diagnosis.md",
    }
    assert (tmp_path / "diagnosis.md").read_text().count("##") == 2
    assert DESCRIPTIONS


@pytest.mark.slow
def test_from_the_log_to_the_comparison(tmp_path):
    """As a user types it: import, then the study that it wrote."""
    run = log(steps=30)
    lines = [
        json.dumps({"step": int(s), "prompt_id": run.names[q], "rewards": [1] * int(k) + [0] * int(n - k)})
        for s, q, n, k in zip(run.steps, run.prompts, run.counts, run.successes, strict=True)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))

    def command(*words):
        whole = [sys.executable, "-m", "rolloutbench", *words]
        done = subprocess.run(whole, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = command("import", "log.jsonl", "--out", "mine")
    assert "rollouts without gradient" in said
    assert "rolloutbench compare --config mine/compare.toml --out mine/compared" in said
    answer = json.loads(
        command("import", "log.jsonl", "--out", "mine", "--json", "-a", "coba", "-a", "uniform")
    )
    assert {one["allocator"] for one in answer["asked"]} == {"coba", "uniform"}
    study = ("compare", "--config", "mine/compare.toml", "--out", "out", "-a", "mopps", "--jobs", "1")
    assert "mopps" in command(*study, "--quick")
