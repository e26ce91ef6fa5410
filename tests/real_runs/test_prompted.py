"""Prompts asked in another way: what the model reads, what the verifier sees, and what is held out."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import run as command
from hypothesis import given
from hypothesis import strategies as st

from real_runs.tasks import Problem, Task, Verifier, tasks
from real_runs.tasks.prompted import Prompted, before
from rolloutbench.protocol import InputError

SEED = np.random.SeedSequence(3)
SORTING = tasks.create("sorting[shortest=2,longest=3,pool_size=9,held_out=4]")


class Echo(Verifier):
    """Keeps what it is shown."""

    def __init__(self, shown):
        self.shown, self.entered = shown, 0

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *_):
        self.entered -= 1

    def score(self, problems, responses):
        self.shown += list(zip(problems, responses, strict=True))
        self.failed += 1
        return np.ones(len(responses))


class Talk(Task):
    """Conversations, some with a system prompt of their own."""

    max_new_tokens, threshold = 5, 0.5

    def __init__(self, answers=("A", "B", "C")):
        self.answers, self.shown = answers, []

    def problems(self, seed):
        made = [
            Problem(
                f"be brief\n\n{answer}?", answer, messages=(("system", "be brief"), ("user", f"{answer}?"))
            )
            for answer in self.answers
        ]
        return made[:-1], made[-1:]

    def verifier(self):
        return Echo(self.shown)


def test_solved_examples_stand_before_the_question():
    pool, held_out = SORTING.problems(SEED)
    task = Prompted(SORTING, "Sort {prompt} {answer};\n", shots=2)
    train, asked = task.problems(SEED)
    one, two = pool[:2]
    start = f"Sort {one.prompt} {one.answer};\nSort {two.prompt} {two.answer};\n"
    assert [problem.prompt for problem in train] == [f"{start}Sort {p.prompt} " for p in pool[2:]]
    assert [problem.prompt for problem in asked] == [f"{start}Sort {p.prompt} " for p in held_out]
    assert [(p.answer, p.level) for p in train] == [(p.answer, p.level) for p in pool[2:]]
    assert all(problem.question == problem.prompt for problem in train)
    assert (task.max_new_tokens, task.threshold) == (SORTING.max_new_tokens, SORTING.threshold)


def test_without_a_mark_the_response_begins_at_the_end():
    pool, _ = SORTING.problems(SEED)
    train, _ = Prompted(SORTING, "[{prompt}]", shots=1).problems(SEED)
    assert train[0].prompt == f"[{pool[0].prompt}]{pool[0].answer}\n\n[{pool[1].prompt}]"


def test_braces_in_prompts_are_left_alone():
    task = Prompted(Talk(("{answer}", "{prompt}", "{x}")), "<{prompt}>{answer}|", shots=1)
    (asked,), _ = task.problems(SEED)
    assert asked.messages[-1] == ("user", "<{prompt}?>")


def test_a_system_prompt_makes_a_conversation():
    pool, _ = SORTING.problems(SEED)
    train, _ = Prompted(SORTING, "Sort {prompt}", "You sort.", 1).problems(SEED)
    assert train[0].messages == (
        ("system", "You sort."),
        ("user", f"Sort {pool[0].prompt}"),
        ("assistant", pool[0].answer),
        ("user", f"Sort {pool[1].prompt}"),
    )
    assert (
        train[0].prompt == f"You sort.\n\nSort {pool[0].prompt}\n\n{pool[0].answer}\n\nSort {pool[1].prompt}"
    )


@pytest.mark.parametrize(("system", "said"), [("", "be brief"), ("be long", "be long")])
def test_a_conversation_keeps_its_system_prompt_unless_another_is_given(system, said):
    _, (asked,) = Prompted(Talk(), "Q: {prompt}", system, 1).problems(SEED)
    assert asked.messages == (("system", said), ("user", "Q: A?"), ("assistant", "A"), ("user", "Q: C?"))


def test_the_verifier_sees_its_own_problem_and_what_stands_before_a_stop():
    of = Talk()
    task = Prompted(of, "Q: {prompt}", "be long", stop=("\n", "END"))
    train, _ = task.problems(SEED)
    verifier = task.verifier()
    with verifier:
        assert verifier._inner.entered == 1
        verifier.score(train, ["a END b\nc", "d"])
    assert verifier._inner.entered == 0
    assert verifier.failed == 1
    assert of.shown == [(of.problems(SEED)[0][0], "a "), (of.problems(SEED)[0][1], "d")]
    assert of.shown[0][0].messages[0] == ("system", "be brief")


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.text("abc", max_size=12))
def test_before_is_the_longest_start_without_a_stop(stop, text):
    clean = [n for n in range(len(text) + 1) if not any(one in text[:n] for one in stop)]
    found = before(stop, text)
    assert text.startswith(found)
    assert not any(one in found for one in stop)
    assert any(text.startswith(found + one) for one in stop) or found == text
    assert len(found) <= max(clean)


def test_warm_up_examples_look_like_the_prompts():
    task = Prompted(SORTING, "{prompt}{answer}\n", shots=2)
    rng = np.random.default_rng(0)
    made = SORTING.examples(np.random.default_rng(0), 7)
    found = task.examples(rng, 5)
    start = "".join(f"{p.prompt}{p.answer}\n" for p in made[:2])
    assert [p.prompt for p in found] == [start + p.prompt for p in made[2:]]
    for problem in found:
        assert {*problem.prompt, *problem.answer} <= {*task.alphabet}
    assert len(set(task.alphabet)) == len(task.alphabet)
    assert task.fingerprint() != SORTING.fingerprint() != Talk().fingerprint()


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("no place", "is expected once"),
        ("{prompt}{prompt}", "is expected once"),
        ("{answer}{prompt}", "behind it"),
        ("{prompt}{answer}{answer}", "at most once"),
    ],
)
def test_templates_that_are_refused(template, fault):
    with pytest.raises(InputError, match=fault):
        Prompted(SORTING, template)


def test_examples_that_cannot_be_had():
    with pytest.raises(InputError, match="shots=9: the training pool has 9 problems"):
        Prompted(SORTING, shots=9).problems(SEED)
    with pytest.raises(InputError, match="gives no answers"):
        Prompted(Talk(("", "B", "C")), shots=1).problems(SEED)
    with pytest.raises(InputError, match="would end every response"):
        Prompted(SORTING, stop=("",))


@pytest.mark.torch
def test_a_file_of_ones_own_from_warm_up_to_training(tmp_path, monkeypatch):
    """`tiny` learns its answers, and is then trained under a template, with an example and a stop string."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLOUTBENCH_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": f"{a} × {b}", "answer": a * b} for a in range(10) for b in range(4)]
    Path("times.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("study.toml").write_text(
        'study = "train"\ntask = "jsonl[path=times.jsonl,verify=exact,max_new_tokens=6]"\n'
        'model = "tiny[width=32,layers=1,warmup_steps=120]"\ntemplate = """\n{prompt} = {answer}\n"""\n'
        'shots = 1\nstop = ["\\n"]\nallocators = ["uniform"]\nprompts = 8\nsteps = 1\nreplicates = 2\n'
    )
    done = command("train study.toml --device cpu --jobs 1 --out out")
    assert done.code == 0, done.err
    assert r"asked with a template, 1 solved examples, stop at '\n'" in done.out
    rates = pd.read_parquet("out/pass_rates.parquet")
    assert len(rates) == 35  # of 40 four are held out, and one is the example
    assert rates.pass_rate.mean() > 0.15
    again = tomllib.loads(Path("out/study.toml").read_text())
    assert again["template"] == "{prompt} = {answer}\n"
    refused = command("train study.toml --device cpu --engine vllm --out new")
    assert refused.code == 2
    assert "only engine transformers with trainer ppo knows stop strings" in refused.err
