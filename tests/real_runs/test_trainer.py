"""A training step equals the sum over rows, one by one and without padding, of what its formula says."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from oracles import advantages_of
from paid import paid
from real_fakes import ParityVerifier, ScriptedEngine, language_model, logprobs_by_hand, real_run, tiny_llama

from real_runs import trainer as trainer_module
from real_runs.rollouts import Rollouts
from real_runs.settings import PPO
from real_runs.trainer import Batch, Trainer
from rolloutbench.estimators import estimators
from rolloutbench.protocol import Groups, InputError, ProtocolError, Request, Reuse

pytestmark = pytest.mark.torch

SIZES = (0, 1, 2, 3, 5, 7, 10, 4)
SUCCESSES = (0, 1, 1, 2, 2, 7, 4, 0)
WEIGHTS = (1.0, 0.5, 2.0, 1.5, 0.75, 3.0, 1.25, 0.25)
MINIMUM = {"reinforce": 1, "dr_grpo": 2, "rloo": 2, "grpo": 2}
TEMPERATURE = 0.7


def prompts(count=8):
    rng = np.random.default_rng(1)
    return [tuple(map(int, rng.integers(2, 12, length))) for length in rng.integers(1, 6, count)]


@dataclass
class Row:
    """What a rollout counts, all of it worked out by hand."""

    prompt: tuple[int, ...]
    tokens: np.ndarray
    sampled: np.ndarray
    advantage: float
    weight: float
    recorded: bool = False
    fresh: bool = True


def objective(network, rows, settings=None, starts=None, first=None, exact=True):
    """The objective and how many of its tokens are clipped, row by row and token by token."""
    settings = settings or PPO()
    total, clipped = torch.zeros(()), 0
    for number, row in enumerate(rows):
        now = logprobs_by_hand(network, row.prompt, row.tokens, TEMPERATURE)
        start = now.detach() if starts is None else starts[number]
        sampled = torch.from_numpy(row.sampled)
        for t in range(len(row.tokens)):
            ratio = torch.exp(now[t] - (sampled[t] if row.recorded else start[t]))
            gain = ratio * row.advantage
            if row.advantage > 0 and ratio > 1 + settings.clip_high:
                gain = torch.tensor((1 + settings.clip_high) * row.advantage)
                clipped += 1
            if row.advantage < 0 and ratio < 1 - settings.clip_low:
                gain = torch.tensor((1 - settings.clip_low) * row.advantage)
                clipped += 1
            if not exact and row.fresh:
                gain = gain * min(float(torch.exp(start[t] - sampled[t])), settings.truncation)
            total = total + row.weight * gain
        if first is not None:
            away = logprobs_by_hand(first, row.prompt, row.tokens, TEMPERATURE).detach() - now
            total = total - settings.kl * row.weight * (torch.exp(away) - away - 1).sum()
    return total, clipped


def gradient(network, value):
    found = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    pairs = zip(found, network.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def taken(trainer):
    """Of the objective, so minus that of the loss."""
    return -torch.cat([p.grad.flatten() for p in trainer.model.network.parameters()])


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def close(found, expected, tolerance=1e-5):
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())
    assert float(expected.norm()) > 0


def sampled_run(estimator="rloo", aggregation="prompt", error=0.0, sizes=SIZES, successes=SUCCESSES, **how):
    """A run that has sampled groups of these sizes, and what the engine returned."""
    asked = prompts(len(sizes))
    network = tiny_llama()
    engine = ScriptedEngine(
        network, np.random.default_rng(3), dict(zip(asked, successes, strict=True)), TEMPERATURE, error
    )
    run = real_run(
        network,
        engine,
        ParityVerifier(),
        asked,
        estimators.create(estimator),
        aggregation,
        temperature=TEMPERATURE,
        micro_batch=40,
        **how,
    )
    everyone = np.arange(len(sizes))[None]
    return run, paid(run, Request(everyone, np.array([sizes])))


def rows_by_hand(run, rollouts, estimator, aggregation, sizes=SIZES, weighting=WEIGHTS, baseline=None):
    """All rollouts as rows: advantages from each group's rewards, averages as the aggregation says."""
    of = {q: [tuple(prompt) for prompt in run.pool.prompts][q] for q in range(len(sizes))}
    grouped = {q: [row for row in range(len(rollouts)) if rollouts.prompts[row] == q] for q in of}
    rows = []
    for q, members in grouped.items():
        rewards = tuple(int(rollouts.successes[row]) for row in members)
        if baseline is not None and q in baseline:
            advantages = [reward - baseline[q] for reward in rewards]
        elif len(members) >= MINIMUM[estimator]:
            advantages = advantages_of(estimator, rewards)
        else:
            advantages = [0.0] * len(members)
        for row, advantage in zip(members, advantages, strict=True):
            share = {
                "prompt": 1 / len(sizes) / len(members),
                "rollout": 1 / sum(sizes),
                "token": 1 / int(rollouts.lengths.sum()),
            }[aggregation]
            length = int(rollouts.lengths[row])
            rows.append(
                Row(
                    of[q],
                    rollouts.tokens[row, :length],
                    rollouts.logprobs[row, :length],
                    advantage,
                    share * weighting[q],
                )
            )
    return rows


@pytest.mark.parametrize("aggregation", ["prompt", "rollout", "token"])
@pytest.mark.parametrize("estimator", MINIMUM)
def test_the_gradient_is_the_sum_over_rows(estimator, aggregation):
    run, outcomes = sampled_run(estimator, aggregation)
    assert outcomes.successes.tolist() == [list(SUCCESSES)]
    sampled = run._rollouts
    baseline = np.full((1, 8), np.nan)
    baseline[0, 3] = 0.3
    groups = replace(Groups.all_of(outcomes, np.array([WEIGHTS])), baseline=baseline)
    batch = run.batch(groups)
    assert len(list(run.trainer._micro_batches(batch))) > 3
    run.trainer.gradient(batch)
    rows = rows_by_hand(run, sampled, estimator, aggregation, baseline={3: 0.3})
    network = run.model.network
    close(taken(run.trainer), gradient(network, objective(network, rows)[0]))


def test_one_rollout_counts_under_a_given_baseline():
    """A group below the estimator's minimum has advantages where its baseline is given, and none else."""
    run, outcomes = sampled_run("rloo", sizes=(1, 1), successes=(1, 1))
    groups = replace(Groups.all_of(outcomes), baseline=np.array([[0.25, np.nan]]))
    assert run.batch(groups).advantages.tolist() == [0.75, 0.0]


@pytest.mark.parametrize("limit", [0.01, None])
def test_weights_move_as_adamw_moves_them(limit):
    """Three steps on the same rows, with warm-up, decay and clipping of the gradient's norm."""
    how = {"learning_rate": 1e-3, "warmup_steps": 2, "weight_decay": 0.1, "gradient_norm": limit}
    run, outcomes = sampled_run(**how)
    twin = copy.deepcopy(run.model.network)
    before = weights(twin)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    rows = rows_by_hand(run, run._rollouts, "rloo", "prompt")
    batch = run.batch(Groups.all_of(outcomes, np.array([WEIGHTS])))
    for rate in (0.5e-3, 1e-3, 1e-3):
        measured = run.trainer.update(batch)
        optimizer.zero_grad()
        (-objective(twin, rows)[0]).backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), float("inf") if limit is None else limit)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert measured["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)
        assert norm > 0.01
    close(weights(run.model.network) - before, weights(twin) - before, 1e-3)


def test_two_epochs_clip_as_ppo_clips():
    how = {"learning_rate": 0.02, "warmup_steps": 0, "gradient_norm": None, "epochs": 2}
    run, outcomes = sampled_run(**how)
    twin = copy.deepcopy(run.model.network)
    before = weights(twin)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.02, betas=(0.9, 0.99), weight_decay=0)
    rows = [row for row in rows_by_hand(run, run._rollouts, "rloo", "prompt") if row.advantage != 0]
    measured = run.trainer.update(run.batch(Groups.all_of(outcomes, np.array([WEIGHTS]))))
    starts = [logprobs_by_hand(twin, row.prompt, row.tokens, TEMPERATURE).detach() for row in rows]
    cut = []
    for _ in range(2):
        optimizer.zero_grad()
        value, clipped = objective(twin, rows, starts=starts)
        (-value).backward()
        optimizer.step()
        cut.append(clipped)
    tokens = sum(len(row.tokens) for row in rows)
    assert cut[0] == 0
    assert cut[1] > 5
    assert measured["clipped"] == pytest.approx(np.mean(cut) / tokens)
    close(weights(run.model.network) - before, weights(twin) - before, 1e-3)


def test_an_inexact_engine_is_corrected_by_truncated_weights():
    run, outcomes = sampled_run(error=1.0, truncation=1.5)
    sampled = run._rollouts
    batch = run.batch(Groups.all_of(outcomes, np.array([WEIGHTS])))
    run.trainer.gradient(batch)
    network = run.model.network
    rows = rows_by_hand(run, sampled, "rloo", "prompt")
    expected = gradient(network, objective(network, rows, run.trainer.settings, exact=False)[0])
    close(taken(run.trainer), expected)
    assert float((expected - gradient(network, objective(network, rows)[0])).norm()) > 0.1 * float(
        expected.norm()
    )


def test_kl_to_the_first_model_is_k3():
    """It is of all rows, also of those without advantage."""
    run, outcomes = sampled_run(kl=0.3)
    network, first = run.model.network, copy.deepcopy(run.model.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    rows = rows_by_hand(run, run._rollouts, "rloo", "prompt")
    rollouts = run.batch(Groups.all_of(outcomes, np.array([WEIGHTS])))
    settings = run.trainer.settings
    expected = gradient(network, objective(network, rows, settings, first=first)[0])
    measured = run.trainer.gradient(rollouts)
    close(taken(run.trainer), expected)
    away = [
        logprobs_by_hand(first, row.prompt, row.tokens, TEMPERATURE)
        - logprobs_by_hand(network, row.prompt, row.tokens, TEMPERATURE)
        for row in rows
    ]
    mean = torch.cat([torch.exp(one) - one - 1 for one in away]).mean().detach()
    assert measured["kl"] == pytest.approx(float(mean), rel=1e-4)
    assert run.trainer.update(rollouts)["kl"] == pytest.approx(float(mean), rel=1e-4)


@pytest.mark.parametrize("error", [0.0, 0.5])
@pytest.mark.parametrize("stale", ["recomputed", "recorded"])
def test_rollouts_kept_from_an_earlier_step(stale, error):
    """Their ratio is 1, or to the policy that sampled them; only this step's are corrected otherwise."""
    sizes, successes = (4, 4), (2, 1)
    how = {"stale": stale, "learning_rate": 0.02, "warmup_steps": 0}
    run, _ = sampled_run(error=error, sizes=sizes, successes=successes, **how)
    early = run._rollouts
    # The first step trains on prompt 0 alone; prompt 1 waits.
    only = Groups(np.array([[0]]), np.array([[2]]), np.array([[2]]), np.ones((1, 1)))
    run.ledger.use(only)
    run.update(only)
    again = paid(run, Request(np.array([[0]]), np.array([[4]])))
    late = run._rollouts[run._rollouts.steps == 1]
    assert again.successes.tolist() == [[2]]
    everything = Rollouts.joined([late, early[early.prompts == 1]])
    rows = rows_by_hand(run, everything, "rloo", "prompt", sizes=sizes, weighting=(1.0, 1.0))
    for row, step in zip(rows, [1] * 4 + [0] * 4, strict=True):
        row.fresh, row.recorded = step == 1, step == 0 and stale == "recorded"
    both = Groups(np.array([[0, 1]]), np.array([[2, 1]]), np.array([[2, 3]]), np.ones((1, 2)))
    run.trainer.gradient(run.batch(both))
    network = run.model.network
    value, clipped = objective(network, rows, exact=error == 0)
    assert (clipped > 0) == (stale == "recorded")
    close(taken(run.trainer), gradient(network, value))


@pytest.mark.parametrize("aggregation", ["prompt", "rollout", "token"])
@pytest.mark.parametrize("option", ["replay", "I", "II"])
def test_a_stored_success_joins_its_group(option, aggregation):
    """AR3PO: of prompt 0 three failures and a success of the step before."""
    sizes = (4, 3)
    how = {"reusable": 2, "learning_rate": 0.02, "warmup_steps": 0}
    run, outcomes = sampled_run("dr_grpo", aggregation, sizes=sizes, successes=(2, 1), **how)
    first = run._rollouts
    run.ledger.use(Groups.all_of(outcomes))
    run.update(Groups.all_of(outcomes))
    run.engine.successes[prompts(2)[0]] = 0
    outcomes = paid(run, Request(np.array([[0, 1]]), np.array([sizes])))
    assert outcomes.successes.tolist() == [[0, 1]]
    fresh = run._rollouts[run._rollouts.steps == 1]
    reused = Reuse(np.array([[1, 0]]), np.array([[1, 0]]), option)
    groups = Groups(outcomes.prompts, outcomes.successes, np.array([[3, 2]]), np.ones((1, 2)), reused=reused)
    failures = np.flatnonzero(fresh.prompts == 0)[:3]
    newest = np.flatnonzero((first.prompts == 0) & (first.successes == 1))[-1:]
    trained = Rollouts.joined([fresh[failures], first[newest], fresh[np.flatnonzero(fresh.prompts == 1)]])
    counted = np.ones(len(trained), bool)
    counted[3] = option != "II"
    share = {"prompt": 1 / 2, "rollout": 1 / 7, "token": 1 / int(trained.lengths[counted].sum())}[aggregation]
    advantages = advantages_of("dr_grpo", (0, 0, 0, 1))
    advantages += advantages_of("dr_grpo", tuple(trained.successes[4:].tolist()))
    rows = []
    for row in np.flatnonzero(counted):
        length = trained.lengths[row]
        size = 1 if aggregation != "prompt" else 4 if row < 4 else 3
        rows.append(
            Row(
                prompts(2)[trained.prompts[row]],
                trained.tokens[row, :length],
                trained.logprobs[row, :length],
                advantages[row],
                share / size,
                recorded=row == 3 and option == "replay",
            )
        )
    run.trainer.gradient(run.batch(groups))
    network = run.model.network
    close(taken(run.trainer), gradient(network, objective(network, rows)[0]))


def test_nothing_to_learn_from_moves_by_momentum_only():
    run, outcomes = sampled_run(sizes=(2, 2), successes=(2, 0))
    before = weights(run.model.network)
    measured = run.trainer.update(run.batch(Groups.all_of(outcomes)))
    assert measured == {"clipped": 0.0, "kl": 0.0, "gradient_norm": 0.0}
    assert torch.equal(weights(run.model.network), before)


def test_rollouts_that_were_given_up_are_named():
    run, outcomes = sampled_run(sizes=(2, 2), successes=(1, 1))
    groups = Groups.all_of(outcomes)
    run.batch(groups)
    with pytest.raises(ProtocolError, match="the allocator keeps rollouts that it gave up"):
        run.batch(groups)


def test_resumed_in_between():
    """Weights, moments and warm-up: the steps after are those of a trainer that never stopped."""
    how = {"learning_rate": 1e-2, "warmup_steps": 3}
    run, outcomes = sampled_run(**how)
    batch = run.batch(Groups.all_of(outcomes))
    run.trainer.update(batch)
    other = Trainer(language_model(tiny_llama(9)), PPO(**how, micro_batch=40), TEMPERATURE, True)
    other.load_state_dict(copy.deepcopy(run.trainer.state_dict()))
    for trainer in (run.trainer, other):
        trainer.update(batch)
        trainer.update(batch)
    assert torch.equal(weights(other.model.network), weights(run.model.network))


@pytest.mark.parametrize("where", ["start", "gradient"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_names_the_option(monkeypatch, error, where):
    run, outcomes = sampled_run(epochs=2 if where == "start" else 1)
    batch = run.batch(Groups.all_of(outcomes))

    def full(*given, **how):
        raise error

    monkeypatch.setattr(run.model.network, "forward", full)
    with pytest.raises(InputError, match="micro_batch=40: . rows do not fit into the memory"):
        run.trainer.update(batch)


def test_other_errors_of_torch_are_not_taken_for_it(monkeypatch):
    run, outcomes = sampled_run()

    def broken(*given, **how):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(run.model.network, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run.trainer.update(run.batch(Groups.all_of(outcomes)))


def test_rows_of_a_batch_stay_together():
    run, outcomes = sampled_run()
    batch = run.batch(Groups.all_of(outcomes, np.array([WEIGHTS])))
    parts = list(run.trainer._micro_batches(batch))
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(batch.prompts)))
    for rows in parts:
        part: Batch = batch[rows]
        read = len({tuple(p) for p in part.prompts}) * max(map(len, part.prompts))
        assert len(rows) == 1 or read + len(rows) * part.rollouts.lengths.max() <= 40
        for place, row in enumerate(rows):
            assert part.prompts[place] == batch.prompts[row]
            assert part.weights[place] == batch.weights[row]
            assert (part.rollouts.tokens[place] == batch.rollouts.tokens[row]).all()


def test_micro_batches_are_limited_by_the_logits_too(monkeypatch):
    """A vocabulary of 12, and room for 60 logits: five places of responses at once."""
    run, outcomes = sampled_run()
    batch = run.batch(Groups.all_of(outcomes, np.array([WEIGHTS])))
    run.trainer.gradient(batch)
    expected = taken(run.trainer).clone()
    monkeypatch.setattr(trainer_module, "MOST_LOGITS", 60)
    parts = list(run.trainer._micro_batches(batch))
    assert all(len(rows) == 1 or len(rows) * batch.rollouts.lengths[rows].max() <= 5 for rows in parts)
    assert len(parts) > 6
    run.trainer.gradient(batch)
    torch.testing.assert_close(taken(run.trainer), expected, atol=1e-6, rtol=1e-5)
