"""The family table against behaviour: allocators do what their classes say, and not what these deny."""

import functools
import inspect
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from scripted import Coins

from rolloutbench import family
from rolloutbench.allocators import all_specs, allocators
from rolloutbench.analysis import tables
from rolloutbench.cli.listing import PRIORITIES
from rolloutbench.estimators import prompt_shares, realised
from rolloutbench.loop import begin, run_step
from rolloutbench.protocol import InputError, PromptStream

POOL, BATCH, GROUP = 16, 4, 8
P = np.linspace(0.02, 0.98, POOL)
EXTREME = np.where(np.arange(POOL) % 4 == 0, 0.5, np.where(np.arange(POOL) % 2 == 0, 0.01, 0.99))
SPECS = all_specs()
OURS = ("pooled_baseline", "frontier")
"""Methods of this project: there is nothing that they could be held against."""


def place_of(replicates, group_size, seed=0, pool=POOL, p=P):
    return Coins(np.tile(p, (replicates, 1)), BATCH, BATCH * group_size, seed=seed, aggregation="rollout")


def next_prompts(replicates, steps):
    """What equal groups would be trained on in each step, (steps, R, B)."""
    stream = PromptStream(POOL, replicates, np.random.SeedSequence(0))
    return [stream.draw(BATCH) for _ in range(steps)]


@functools.cache
def watched(spec, replicates=6, steps=60, group_size=GROUP):
    """What was seen of an allocator, on all difficulties and on extreme ones.

    Its groups, most stages and most rollouts of a step, and the names under which it gives up rollouts.
    """
    seen = SimpleNamespace(groups=[], stages=0, most=0, discards=set())
    for p in (P, EXTREME):
        place = place_of(replicates, group_size, p=p)
        driven = begin(place, allocators.create(spec))
        for _ in range(steps):
            before = place.ledger.stages.copy()
            seen.groups.append(run_step(place, driven).groups)
            seen.stages = max(seen.stages, int((place.ledger.stages - before).max()))
            seen.most = max(seen.most, int(place.ledger.step_generated.max()))
        seen.discards |= {name for name, given_up in place.ledger.discarded.items() if given_up.any()}
    return seen


@pytest.mark.parametrize("spec", SPECS)
def test_stages(spec):
    assert (watched(spec).stages > 1) == allocators.create(spec).staged


@pytest.mark.parametrize("spec", SPECS)
def test_hard_budget(spec):
    """Who may overspend does so at some group size, at the latest where its own least numbers exceed it."""
    if allocators.create(spec).hard_budget:
        assert watched(spec).most <= BATCH * GROUP
        return
    for group_size in (GROUP, 1):
        try:
            if watched(spec, group_size=group_size, steps=20).most > BATCH * group_size:
                return
        except InputError:
            continue
    pytest.fail("never spends more than its budget")


@pytest.mark.parametrize("spec", SPECS)
def test_choice_of_prompts(spec):
    seen = watched(spec)
    others = False
    usual_prompts = 2 * next_prompts(len(seen.groups[0].prompts), len(seen.groups) // 2)
    for groups, usual in zip(seen.groups, usual_prompts, strict=True):
        prompts = np.sort(np.where(groups.prompts >= 0, groups.prompts, POOL), axis=1)[:, :BATCH]
        others |= not np.array_equal(prompts, np.sort(usual, axis=1))
    assert others == allocators.create(spec).chooses_prompts


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_paid_for_and_not_trained_on(spec):
    assert watched(spec).discards == set(allocators.create(spec).discards)


@pytest.mark.parametrize("spec", SPECS)
def test_predictor(spec, monkeypatch):
    """A method with a predictor asks it, and one that the table says has none remembers nothing."""
    place, made = place_of(3, GROUP), allocators.create(spec)
    driven = begin(place, made)
    said, asked = family.Member.of(spec).predictor, []
    holder = getattr(driven, "of", driven)
    predictor = getattr(holder, "predictor", None)
    if predictor is not None:
        predict = predictor.predict
        monkeypatch.setattr(predictor, "predict", lambda prompts: asked.append(prompts) or predict(prompts))
    for _ in range(3):
        run_step(place, driven)
    remembers = any(np.size(leaf) for leaf in holder.state_dict().values())
    assert {"none": not remembers, "its own": not asked}.get(said, bool(asked))


@pytest.mark.parametrize("spec", SPECS)
def test_one_shot(spec):
    """Counts, weights and what is trained on do not depend on the rewards of the step, or they do."""
    depends = watched(spec).stages > 1
    steps = []
    for rewards in (11, 12):
        place = place_of(40, GROUP)
        driven = begin(place, allocators.create(spec))
        place.rng = np.random.default_rng(10)
        for _ in range(6):
            run_step(place, driven)
        place.rng = np.random.default_rng(rewards)
        place.requests.clear()
        groups = run_step(place, driven).groups
        generated, trained = place.ledger.step_generated, groups.counts.sum(axis=1)
        depends |= not np.array_equal(generated, trained) or groups.reused is not None
        depends |= groups.baseline is not None and not np.isnan(groups.baseline).all()
        steps.append((groups, place.requests[:1]))
    (one, asked), (other, also) = steps
    depends |= not np.array_equal(one.weights, other.weights)
    if not depends:
        np.testing.assert_array_equal(asked[0].counts, also[0].counts)
    assert depends != allocators.create(spec).one_shot


def farthest(spec, group_size, steps, replicates=1200):
    """Largest deviation of a prompt's gradient from that with equal groups, in standard errors."""
    place = place_of(replicates, group_size)
    driven = begin(place, allocators.create(spec))
    excess = np.zeros((replicates, POOL))
    for usual in next_prompts(replicates, steps):
        groups = run_step(place, driven).groups
        x, _ = realised(place.setting.estimator, groups, P[groups.prompts])
        rows, columns = np.nonzero(groups.prompts >= 0)
        parts = (prompt_shares("prompt", groups) * x)[rows, columns]
        np.add.at(excess, (rows, groups.prompts[rows, columns]), parts)
        np.subtract.at(excess, (np.arange(replicates)[:, None], usual), (P * (1 - P))[usual] / BATCH)
    errors = excess.std(axis=0) / np.sqrt(replicates)
    return np.abs(excess.mean(axis=0) / np.maximum(errors, 1e-12)).max()


@pytest.mark.parametrize("spec", SPECS)
def test_unbiased(spec):
    """A step's gradient, prompt by prompt: within 4.5 standard errors of equal groups, or beyond 6."""
    if allocators.create(spec).unbiased:
        assert farthest(spec, GROUP, 4 if "ensemble" in spec else 8) < 4.5
    else:
        assert any(farthest(spec, *how) > 6 for how in ((GROUP, 8), (6, 24), (GROUP, 60)))


# --- where they come from


@pytest.mark.parametrize("name", allocators.builtin)
def test_sources_are_named_in_the_table_and_in_the_file(name):
    method = allocators.class_of(name)
    said = method.provenance
    assert 0 < len(method.goal) <= 30
    if said is None:
        assert method.control or name in OURS, "says nowhere what it was held against"
        return
    opening = " ".join(sys.modules[method.__module__].__doc__.split())
    if said.code and "@" in said.code:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@([0-9a-f]{7}|\d+(\.\d+)+)", said.code)
        assert said.file
        assert said.code in opening or method.control or name == "uniform", "the file does not name the code"
    else:
        assert said.note
    assert inspect.getdoc(method)


def test_the_table_has_every_method_and_fits_eighty_columns():
    table = family.table()
    assert tuple(table.allocator) == allocators.builtin
    shown = tables.plain("Allocators", table, "", PRIORITIES)
    assert max(len(line) for line in shown.text(80).splitlines()) <= 80
    assert set(table.form) == {"one shot", "one stage", "stages"}
    row = table.set_index("allocator").loc["knapsack"]
    assert row.predictor == "last_epoch[window=16]"
    assert (row.unbiased, row.hard_budget, row.billed, row.paper) == ("yes", "yes", "nothing", "2509.25849")
    assert shown.markdown().count("\n") == len(table) + 1


def test_sources_say_what_differs():
    sources = family.sources().set_index("allocator")
    assert sources.loc["coba", "code"] == "none"
    assert "guesses" in sources.loc["coba", "note"]
    shown = tables.plain("", sources.reset_index(), "", PRIORITIES)
    assert max(len(line) for line in shown.text(80).splitlines()) <= 80
