import gzip
import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real_runs.tasks import ASCII, Problem, Verifier, digest, tasks
from real_runs.tasks.jsonl import math_scores
from real_runs.tasks.reasoning_gym import scores
from rolloutbench.protocol import InputError

SEED = np.random.SeedSequence(7)
ADDITIONS = [{"prompt": f"{i} + {i}?", "answer": str(2 * i)} for i in range(40)]


def prompts(problems):
    return [problem.prompt for problem in problems]


def written(tmp_path, *lines):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


@pytest.fixture
def additions(tmp_path):
    return written(tmp_path, *map(json.dumps, ADDITIONS))


def check_split(task, pool_size, held_out):
    """What every task promises."""
    pool, held = task.problems(SEED)
    assert (len(pool), len(held)) == (pool_size, held_out)
    assert len({*prompts(pool), *prompts(held)}) == pool_size + held_out
    assert (prompts(pool), prompts(held)) == tuple(map(prompts, task.problems(np.random.SeedSequence(7))))
    assert prompts(pool) != prompts(task.problems(np.random.SeedSequence(8))[0])
    return pool, held


def test_every_task_is_described():
    known = {"sorting", "reasoning_gym", "jsonl", "addition", "code"}
    assert {entry.name for entry in tasks.describe()} == known


# sorting


@given(
    st.integers(1, 5),
    st.integers(0, 8),
    st.integers(1, 60),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 9),
)
def test_sorting(shortest, more, pool_size, held_out, partial, seed):
    longest = shortest + more
    strings = sum(10**length for length in range(shortest, longest + 1))
    sizes = f"pool_size={pool_size},held_out={held_out},partial={partial}"
    spec = f"sorting[shortest={shortest},longest={longest},{sizes}]"
    if strings < pool_size + held_out:
        with pytest.raises(InputError, match=f"only {strings} different prompts"):
            tasks.create(spec)
        return
    task = tasks.create(spec)
    assert task.max_new_tokens == longest + 1
    pool, held = check_split(task, pool_size, held_out)
    fresh = task.examples(np.random.default_rng(seed), 50)
    assert len(fresh) == 50
    for problem in pool + held + fresh:
        digits = problem.prompt.removesuffix("=")
        assert shortest <= len(digits) <= longest
        assert len(digits) == problem.level
        assert problem.answer == "".join(sorted(digits))
        assert {*problem.prompt, *problem.answer} <= {*task.alphabet}
    with task.verifier() as verifier:
        assert (verifier.score(pool, [f" {problem.answer}\n" for problem in pool]) == 1).all()


@given(st.integers(2, 12), st.integers(1, 90), st.integers(1, 50), st.integers(0, 9))
def test_addition(largest, pool_size, held_out, seed):
    spec = f"addition[largest={largest},pool_size={pool_size},held_out={held_out}]"
    if largest**2 < pool_size + held_out:
        with pytest.raises(InputError, match=f"there are only {largest**2} different prompts"):
            tasks.create(spec)
        return
    task = tasks.create(spec)
    pool, held = check_split(task, pool_size, held_out)
    fresh = task.examples(np.random.default_rng(seed), 30)
    for problem in pool + held + fresh:
        one, other = map(int, problem.prompt.removesuffix("=").split("+"))
        assert 1 <= min(one, other) <= max(one, other) <= largest
        assert problem.answer == str(one + other)
        assert problem.level == one + other
        assert {*problem.prompt, *problem.answer} <= {*task.alphabet}
        assert len(problem.answer) <= task.max_new_tokens == len(str(2 * largest))
    with task.verifier() as verifier:
        found = verifier.score(pool[:1] * 3, [f" {pool[0].answer}\n", f"{pool[0].answer}0", "1 1"])
    assert found.tolist() == [1, 0, 0]


def test_the_whole_space_can_be_used():
    pool, held = check_split(tasks.create("sorting[shortest=1,longest=2,pool_size=100,held_out=10]"), 100, 10)
    assert Counter(problem.level for problem in pool + held) == {1: 10, 2: 100}


def test_lengths_are_uniform_until_they_run_out_and_alike_in_both_parts():
    pool, held = tasks.create("sorting[pool_size=20000,held_out=20000,longest=6]").problems(SEED)
    count = Counter(problem.level for problem in pool + held)
    assert count[2] == 100
    assert count[3] == 1000
    # Longer ones share the rest: of 4 digits some are found twice.
    assert count[4] < count[5] < count[6]
    for level in (3, 4, 5, 6):
        here = sum(problem.level == level for problem in held)
        assert abs(here - count[level] / 2) < 5 * np.sqrt(count[level]) / 2
    fresh = Counter(p.level for p in tasks.create("sorting").examples(np.random.default_rng(0), 15_000))
    assert all(abs(number - 1000) < 5 * np.sqrt(1000) for number in fresh.values())
    assert len(fresh) == 15


@pytest.mark.parametrize(
    ("response", "exact", "partial"),
    [("1248", 1, 1), ("1284", 0, 0.5), ("124", 0, 0.75), ("12489", 0, 0.8), ("", 0, 0), ("x", 0, 0)],
)
def test_sorting_scores(response, exact, partial):
    problem = Problem("4821=", "1248")
    for spec, raw in (("sorting", exact), ("sorting[partial=true]", partial)):
        with tasks.create(spec).verifier() as verifier:
            assert verifier.score([problem], [response]) == pytest.approx([raw])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sorting[shortest=5,longest=4]", "shortest=5: expected at most longest=4"),
        ("sorting[max_new_tokens=3]", "no parameter 'max_new_tokens'"),
        ("sorting[threshold=1.5]", "threshold=1.5"),
        ("sorting[pool_size=0]", "pool_size=0"),
        ("sortin", "did you mean sorting"),
    ],
)
def test_wrong_sorting(spec, message):
    with pytest.raises(InputError, match=message):
        tasks.create(spec)


# reasoning-gym


def test_reasoning_gym():
    task = tasks.create("reasoning_gym[dataset=spell_backward,pool_size=30,held_out=10,workers=1]")
    pool, held = check_split(task, 30, 10)
    assert not {*prompts(held)} & {*prompts(task.examples(np.random.default_rng(1), 20))}
    assert all(problem.level == len(problem.answer) for problem in pool)
    assert all({*problem.prompt, *problem.answer} <= {*task.alphabet} for problem in pool)
    said = [
        pool[0].answer,
        f"Let me see: <answer>no</answer>, or rather\n<answer> {pool[1].answer} </answer>.",
        f"It is {pool[2].answer}, I think",
        "",
    ]
    with task.verifier() as verifier:
        raw = verifier.score(pool[:4], said)
        assert verifier.failed == 0
    assert task.reward_names == ("score", "format")
    assert (raw[:2, 0] == 1).all()
    assert (raw[2:, 0] < 1).all()
    assert raw[:, 1].tolist() == [0, 1, 0, 0]


def test_an_instruction_goes_before_the_question():
    plain, _ = tasks.create("reasoning_gym[pool_size=1,held_out=1]").problems(SEED)
    told, _ = tasks.create("reasoning_gym[pool_size=1,held_out=1,instruction=direct]").problems(SEED)
    assert told[0].prompt.endswith(f"\n\n{plain[0].prompt}")
    assert "<answer>" in told[0].prompt


def test_difficulty_is_a_level_of_the_curriculum():
    def lengths(difficulty):
        spec = f"reasoning_gym[dataset=spell_backward,difficulty={difficulty},pool_size=20,held_out=1]"
        return [len(problem.answer) for problem in tasks.create(spec).problems(SEED)[0]]

    assert max(lengths(0)) < max(lengths(3))


def test_numbers_are_scored_as_the_dataset_says():
    """bitwise_arithmetic reads hexadecimal numbers, whatever their form."""
    task = tasks.create("reasoning_gym[dataset=bitwise_arithmetic,pool_size=1,held_out=1]")
    (problem,), _ = task.problems(SEED)
    score = scores(task.dataset, task.difficulty)
    assert score(problem, hex(int(problem.answer, 16)).upper().replace("X", "x")) == (1, 0)
    assert score(problem, hex(int(problem.answer, 16) + 1))[0] < 1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("dataset=chain_sums", "no dataset 'chain_sums': did you mean chain_sum"),
        ("instruction=defualt", "instruction=defualt: did you mean default"),
        ("dataset=composite", "dataset 'composite' cannot be made: Must specify"),
        ("dataset=acre,difficulty=1", "'acre' has no curriculum"),
        ("dataset=coin_flip,pool_size=100", "gave only .* different questions"),
    ],
)
def test_wrong_reasoning_gym(parameters, message):
    with pytest.raises(InputError, match=message):
        tasks.create(f"reasoning_gym[{parameters}]").problems(SEED)


def test_a_wrong_dataset_has_no_verifier():
    with pytest.raises(InputError, match="did you mean chain_sum"):
        tasks.create("reasoning_gym[dataset=chain_sums]").verifier()


def test_a_dataset_without_answers_makes_no_examples():
    task = tasks.create("reasoning_gym[dataset=rubiks_cube,pool_size=2,held_out=1]")
    assert task.problems(SEED)[0][0].answer == ""
    with pytest.raises(InputError, match="gives no answers"):
        task.examples(np.random.default_rng(0), 1)


# jsonl


@pytest.mark.parametrize(("held_out", "count"), [("0.25", 10), ("12", 12), ("0.1", 4)])
def test_json_lines(additions, held_out, count):
    pool, held = check_split(tasks.create(f"jsonl[path={additions},held_out={held_out}]"), 40 - count, count)
    found = {problem.prompt: problem.answer for problem in pool + held}
    assert found == {row["prompt"]: row["answer"] for row in ADDITIONS}


def test_what_a_file_may_hold(tmp_path):
    rows = ['{"q": "a", "a": " 1 ", "more": [2]}', "", '{"q": "ü", "a": "2"}\r', '{"a": "1", "q": "a"}']
    path = written(tmp_path, b"\xef\xbb\xbf" + rows[0].encode(), *rows[1:])
    task = tasks.create(f"jsonl[path={path},prompt_column=q,answer_column=a,held_out=1]")
    pool, held = task.problems(SEED)
    assert {(problem.prompt, problem.answer) for problem in pool + held} == {("a", "1"), ("ü", "2")}


def test_answers_may_be_numbers_or_lists_of_which_each_is_right(tmp_path):
    answers = {"a": 2, "b": 2.0, "c": 0.5, "d": ["1/2", 0.5], "e": ["x"], "f": [3, 3.0]}
    path = written(
        tmp_path, *(json.dumps({"prompt": key, "answer": value}) for key, value in answers.items())
    )
    task = tasks.create(f"jsonl[path={path},held_out=1,verify=exact]")
    pool, held = task.problems(SEED)
    found = {problem.prompt: (problem.answer, *problem.alternatives) for problem in pool + held}
    expected = {"a": ("2",), "b": ("2",), "c": ("0.5",), "d": ("1/2", "0.5"), "e": ("x",), "f": ("3",)}
    assert found == expected
    several = Problem("", "1/2", alternatives=("7",))
    with task.verifier() as verifier:
        assert verifier.score([several] * 3, ["7", " 1/2", "8"]).tolist() == [1, 1, 0]
    score = math_scores()
    assert [score(several, said) for said in ("It is 7.", "$0.5$", "8")] == [1, 1, 0]
    assert digest([several], []) != digest([Problem("", "1/2")], [])


SYSTEM = {"role": "system", "content": "Think."}
VERL = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [*extra, {"role": "user", "content": f"{i} + {i}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(2 * i)},
        "extra_info": {"split": "train", "index": i},
    }
    for i, extra in enumerate([[], [SYSTEM], [SYSTEM]])
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "jsonl.gz"])
def test_data_sets_of_verl_are_read_as_they_are(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    if kind == "parquet":
        pd.DataFrame(VERL).to_parquet(path)
    else:
        text = "\n".join(map(json.dumps, VERL)).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    pool, held = tasks.create(f"jsonl[path={path},held_out=1]").problems(SEED)
    found = sorted(pool + held, key=lambda problem: problem.answer)
    assert [problem.answer for problem in found] == ["0", "2", "4"]
    assert prompts(found) == ["0 + 0?", "Think.\n\n1 + 1?", "Think.\n\n2 + 2?"]
    assert found[0].question == (("user", "0 + 0?"),)
    assert found[1].question == (("system", "Think."), ("user", "1 + 1?"))


def test_a_parquet_file_that_is_damaged_or_has_a_bad_row(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="is no readable Parquet file"):
        tasks.create(f"jsonl[path={path}]").problems(SEED)
    pd.DataFrame({"prompt": ["a", "b"], "answer": ["1", None]}).to_parquet(path)
    with pytest.raises(InputError, match="train.parquet, row 2: column 'answer' is no text but null"):
        tasks.create(f"jsonl[path={path}]").problems(SEED)


def test_a_path_below_home(additions, monkeypatch):
    monkeypatch.setenv("HOME", str(additions.parent))
    assert len(tasks.create("jsonl[path=~/data.jsonl]").problems(SEED)[0]) == 36


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x"}', "line 41: there is no column 'answer': known: prompt"),
        ('{"prompt": "x", "anwser": "1"}', "line 41: there is no column 'answer': did you mean anwser"),
        ('{"prompt": "x", "answer": true}', "line 41: column 'answer' is no text but true"),
        ('{"prompt": "x", "answer": []}', r"line 41: column 'answer' is no text but \[\]"),
        ('{"prompt": "x", "answer": ["3", {}]}', "line 41: column 'answer' is no text but {}"),
        ('{"prompt": "x", "answer": 1e999}', "line 41: column 'answer' is no text but Infinity"),
        ('{"prompt": [], "answer": "3"}', "line 41: column 'prompt' is empty"),
        ('{"prompt": ["x"], "answer": "3"}', """line 41: .*messages are expected.*not "x\""""),
        ('{"prompt": [{"role": "user"}], "answer": "3"}', "column 'prompt.content' is no text but null"),
        ('{"prompt": "x", "reward_model": {}}', "no column 'reward_model.ground_truth'"),
        ('{"prompt": "x", "answer": null}', "line 41: column 'answer' is no text but null"),
        ('{"prompt": " ", "answer": "1"}', "line 41: column 'prompt' is empty"),
        ('{"prompt": "x", "answer": ""}', "line 41: column 'answer' is empty"),
        ('{"prompt": "\\ud800", "answer": "1"}', "half a surrogate pair"),
        ('{"prompt": "x"', "line 41: this is not JSON: Expecting ',' delimiter"),
        ('["x", "1"]', "line 41: expected an object {...}, not list"),
        ("prompt,answer", "line 41: this is not JSON"),
        (b'{"prompt": "\xff"}', r"line 41: this is not UTF-8 \(byte 12\)"),
        ("[" * 100_000, "line 41: this cannot be read"),
        ("1" * 10_000, "line 41: this cannot be read"),
        ('{"prompt": "3 + 3?", "answer": "7"}', "line 41: the prompt of line 4 again, with another answer"),
    ],
)
def test_wrong_lines(additions, line, message):
    text = additions.read_bytes()
    additions.write_bytes(text + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(InputError, match=message) as caught:
        tasks.create(f"jsonl[path={additions}]").problems(SEED)
    assert str(caught.value).startswith(str(additions))
    assert "\n" not in str(caught.value)


def test_wrong_json_lines(tmp_path, additions):
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "directory")):
        with pytest.raises(InputError, match=f"path={path}: .*{message}"):
            tasks.create(f"jsonl[path={path}]").problems(SEED)
    for held_out in ("40", "0.001", "0.999", "100"):
        with pytest.raises(InputError, match=f"held_out={held_out}: .* has 40 different problems"):
            tasks.create(f"jsonl[path={additions},held_out={held_out}]").problems(SEED)
    empty = tmp_path / "empty"
    empty.write_text("\n")
    with pytest.raises(InputError, match="has 0 different problems"):
        tasks.create(f"jsonl[path={empty}]").problems(SEED)
    for spec, message in (
        ("jsonl", r"jsonl\[path=FILE\]"),
        ("jsonl[path=x,held_out=1.5]", "held_out=1.5: expected a whole number"),
        ("jsonl[path=x,held_out=0]", "held_out=0"),
        ("jsonl[path=x,verify=maths]", "verify=maths"),
        ("jsonl[path=x,timeout=0]", "timeout=0"),
        ("jsonl[path=x,workers=0]", "workers=0"),
    ):
        with pytest.raises(InputError, match=message):
            tasks.create(spec)


def test_a_file_holds_out_the_same_whatever_the_seed_and_warms_up_on_the_others(additions):
    task = tasks.create(f"jsonl[path={additions}]")
    pool, held_out = task.problems(SEED)
    other, again = task.problems(np.random.SeedSequence(99))
    assert again == held_out
    assert other != pool
    assert {problem.prompt for problem in other} == {problem.prompt for problem in pool}
    made = task.examples(np.random.default_rng(0), 2000)
    assert {problem.prompt for problem in made} == {problem.prompt for problem in pool}


def test_what_a_warm_up_depends_on_is_known_of_a_file(additions):
    task = tasks.create(f"jsonl[path={additions}]")
    assert set("é×") - set(task.alphabet)
    before = task.fingerprint()
    with additions.open("a") as file:
        file.write('\n{"prompt": "é×", "answer": "1"}\n')
    assert task.fingerprint() != before
    assert set("é×") <= set(task.alphabet)


def test_exact_comparison():
    with tasks.create("jsonl[path=x,verify=exact]").verifier() as verifier:
        raw = verifier.score([Problem("", "1/2")] * 3, [" 1/2\n", "0.5", ""])
    np.testing.assert_array_equal(raw, [1, 0, 0])


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("42", "The answer is 42.", "The answer is 43."),
        ("1000", "$1{,}000$", "100"),
        (r"\frac{1}{2}", r"so we get \boxed{0.5}", r"\boxed{2}"),
        ("x^2 + 1", "$1 + x^2$", "$1 + x$"),
        ("x^2 + 1", "x^2 + 1", "x^2 + 2"),
        ("(1,2)", "$(1, 2)$", "$(2, 1)$"),
        (r"3\sqrt{2}", r"$\sqrt{18}$", r"$\sqrt{2}$"),
        (r"\text{east}", r"It is \boxed{east}", r"It is \boxed{west}"),
        ("Paris", "Paris", "London"),
        ("1, 2, 3", "$1,2,3$", "3"),
        (r"$\frac{1}{2}$", "1/2", "2"),
        (r"so it is \boxed{7}", "7", "8"),
        ("#### 18", "18", "1"),
        (r"3 \pm \sqrt{2}", r"$3 \pm \sqrt{2}$", "3"),
    ],
)
def test_mathematics(answer, right, wrong):
    score = math_scores()
    assert score(Problem("", answer), right) == 1
    assert score(Problem("", answer), wrong) == 0
    assert score(Problem("", answer), "") == 0


def test_a_number_that_cannot_be_computed_costs_one_rollout(additions):
    task = tasks.create(f"jsonl[path={additions},timeout=1.5,workers=1]")
    pool, _ = task.problems(SEED)
    said = [problem.answer for problem in pool[:4]]
    said[1] = "$9^{9^{9^{9}}}$"
    with task.verifier() as verifier:
        np.testing.assert_array_equal(verifier.score(pool[:4], said), [1, np.nan, 1, 1])
        assert verifier.failed == 1


def test_a_verifier_of_nothing_counts_no_failures():
    class Plain(Verifier):
        pass

    assert Plain().failed == 0
    assert set("\n aZ0~") <= set(ASCII)
