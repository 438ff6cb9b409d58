"""Suites: answers are right by execution, splits share no problem, and the teacher's path is one of several."""

import ast
import itertools
import json
import random
import re
from pathlib import Path

import bm25s
import numpy as np
import pytest

from mentorlib.core import Execution, InputError, format_tool_result
from mentorlib.data import suites
from mentorlib.data.check_references import verify_references
from mentorlib.data.problem import SPLITS, reference_from_calls
from mentorlib.data.suites import SUITES, calculator, check_suite, generate, retrieval
from mentorlib.data.suites.calculator import (
    BOXES,
    CALCULATOR,
    FUNCTIONS,
    NAMES,
    THINGS,
    right_paths,
    run_plan,
    several_paths,
)
from mentorlib.data.suites.retrieval import RETRIEVAL
from mentorlib.data.suites.unseen import UNSEEN
from mentorlib.data.tools.retrieval import best, scores
from mentorlib.rewards.answers import judge
from mentorlib.sandbox.toolbox import Toolbox
from mentorlib.students.corpus import pretraining_examples
from mentorlib.task import Task

# Their keys are comparable.
WORD_PROBLEMS = ["calculator", "longer", "longest", "wording", "distractors", "no_tool", "renamed"]


@pytest.mark.parametrize("suite", SUITES)
def test_references_execute_to_their_answers(suite, sandbox):
    pairs = generate(suite, 60, seed=3, split="eval")
    kept, rejected = verify_references(pairs, sandbox)
    assert len(kept) == 60 and not rejected
    assert all(set(r.tools) <= set(t.toolbox.names) for t, r in pairs)


def test_a_forged_result_is_rejected(sandbox):
    task, reference = generate("calculator", 1)[0]
    result = next(m for m in reference.messages if m["role"] == "tool")
    result["content"] = "123456"
    kept, rejected = verify_references([(task, reference)], sandbox)
    assert not kept and rejected[0].reason == "a call returns another value"


def drawn(suite, split, n, monkeypatch):
    """Tasks as generate gives them, each with the key it was drawn with."""
    keys, draw = {}, SUITES[suite]

    def remember(rng):
        problem = draw(rng)
        keys[problem.question] = json.dumps(problem.key)
        return problem

    with monkeypatch.context() as patch:
        patch.setitem(SUITES, suite, remember)
        return {t.question: keys[t.question] for t, _ in generate(suite, n, split=split)}


def test_splits_do_not_overlap(monkeypatch):
    """By question in each suite; by kinds of steps and numbers across all suites of word problems."""
    tasks = {(suite, split): drawn(suite, split, 60, monkeypatch) for suite in SUITES for split in SPLITS}
    for suite in SUITES:
        for a, b in itertools.combinations(SPLITS, 2):
            assert not tasks[suite, a].keys() & tasks[suite, b].keys()
            assert not set(tasks[suite, a].values()) & set(tasks[suite, b].values())
    keys = {split: {key for suite in WORD_PROBLEMS for key in tasks[suite, split].values()} for split in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not keys[a] & keys[b]


@pytest.mark.parametrize("suite", ["calculator", "longer", "distractors", "no_tool"])
def test_other_names_do_not_make_another_problem(suite):
    """The same sentences with the same numbers are in one split, whatever the names and things."""
    word = re.compile(rf"\b({'|'.join([*NAMES, *THINGS, *BOXES])})\b")
    bare = {
        split: {word.sub("_", t.question) for t, _ in generate(suite, 150, split=split)} for split in ("train", "eval")
    }
    assert not bare["train"] & bare["eval"]


def test_unseen_tools_are_unseen():
    """No tool of the unseen and retrieval rungs, by name or description, in pretraining or among the calculator's."""
    schemas = [s["function"] for tools, _ in pretraining_examples(1000, "a test") for s in tools]
    schemas += [s["function"] for s in CALCULATOR.schemas]
    held_out = [s["function"] for s in [*UNSEEN.schemas, *RETRIEVAL.subset(["search"]).schemas]]
    assert len(schemas) > 1000 and len(held_out) == 15
    for part in ("name", "description"):
        assert not {s[part] for s in schemas} & {s[part] for s in held_out}


def test_generation_repeats_and_grows():
    few, many = generate("calculator", 5, seed=1), generate("calculator", 20, seed=1)
    assert [t.question for t, _ in few] == [t.question for t, _ in many[:5]]


def test_options_make_tasks_harder():
    def calls(suite, **options):
        return {len(r.calls) for _, r in generate(suite, 20, **options)}

    assert calls("longer") == {5, 6} and calls("longer", calls=(7, 7)) == {7}
    assert calls("retrieval", hops=(1, 1)) == {1} and calls("retrieval", hops=(3, 3)) == {3}
    assert {len(t.toolbox.names) for t, _ in generate("unseen", 5, n_tools=9)} == {9}
    assert all(t.question.count(".") == 4 for t, _ in generate("no_tool", 20, steps=(3, 3)))
    ids = {t.id for hops in ((1, 1), (2, 2)) for t, _ in generate("retrieval", 5, hops=hops)}
    assert len(ids) == 10  # tasks of two settings can stand in one data set


def test_a_noisy_teacher_makes_needless_calls_and_is_right(sandbox):
    pairs = generate("calculator", 60, noise=0.5)
    kept, _ = verify_references(pairs, sandbox)
    assert len(kept) == 60
    plain = {t.question: r for t, r in generate("calculator", 60)}
    assert sum(len(r.calls) for _, r in pairs) > 1.2 * sum(len(r.calls) for r in plain.values())


@pytest.mark.parametrize("several", [True, False])
def test_problems_with_one_right_path_or_more(several):
    for task, reference in generate("calculator", 30, several=several):
        assert several or not {"sum_numbers", "power", "modulo"} & set(reference.tools), task.question
    rng = random.Random(3)
    problems = [calculator.draw(rng) for _ in range(200)]
    share = np.mean([len(set(right_paths(p.steps, p.answer))) > 1 for p in problems])
    assert 0.8 < share < 1  # or the option would choose nothing


def test_every_variant_of_a_step_gives_the_same_value():
    rng = random.Random(5)
    several = 0
    for _ in range(200):
        problem = calculator.draw(rng)
        value = None
        for step in problem.steps:
            if not step.variants[0]:
                value = step.numbers[0]
                continue
            results = [run_plan(plan, value)[1] for plan in step.variants]
            assert all(abs(r - results[0]) < 1e-4 for r in results), step
            several += len(step.variants) > 1
            value = results[0]
    assert several > 100


def test_most_calculator_tasks_have_several_right_paths():
    share = several_paths(500)
    assert 0.8 < share["tool sets"] <= share["paths"] < 1
    assert several_paths(50, several=False, noise=0.5) == {"paths": 0, "tool sets": 0}


def test_a_wrong_variant_is_no_right_path():
    problem = calculator.draw(random.Random(1))
    before = right_paths(problem.steps, problem.answer)
    problem.steps[-1].variants.append([("add", {"a": 1, "b": 1})])
    assert right_paths(problem.steps, problem.answer) == before and len(before) > 1
    assert all(set(path) <= set(problem.toolbox.names) for path in before)


# --- renamed ---


def test_renamed_tools_differ_from_the_calculator_in_their_names_alone():
    known = {s["function"]["description"]: s["function"] for s in CALCULATOR.schemas}
    drawn_names = set()
    for task, reference in generate("renamed", 60, split="eval"):
        assert {call.name for call in reference.calls} <= set(task.toolbox.names)
        for schema in task.toolbox.schemas:
            function, old = schema["function"], known[schema["function"]["description"]]
            assert function["name"] not in CALCULATOR.names
            new, was = function["parameters"], old["parameters"]
            assert list(new["properties"].values()) == list(was["properties"].values())
            assert new["required"] == list(new["properties"]) and len(new["required"]) == len(was["required"])
            drawn_names.add(function["name"])
    assert len(drawn_names) > 50  # of 58 words


# --- unseen ---


def test_no_unseen_task_is_right_when_left_undone():
    """What the question gives, alone or together, is no answer unless it is the gold one."""
    tools, metrics = set(), set()
    for task, reference in generate("unseen", 600, seed=2, split="eval"):
        (call,) = reference.calls
        values = [
            value for given in call.arguments.values() for value in (given if isinstance(given, list) else [given])
        ]
        undone = [*map(str, values), str(values), json.dumps(values), task.question]
        undone += [mark.join(map(str, values)) for mark in (" ", ", ", " and ", "")]
        undone += [f"{values[0]} " * n for n in (2, 3, 4, 5) if task.metric == "text"]
        for text in undone:
            if text.strip() != task.answer:
                assert judge(text, task.answer, task.metric).correct is False, (task.question, text)
        assert judge(f"\\text{{{task.answer}}}", task.answer, task.metric).correct is True
        tools.add(call.name)
        metrics.add(task.metric)
    assert len(tools) == 14 and metrics == {"math", "text"}


# --- retrieval ---


def searches(problem):
    """A retrieval problem's searches, as (query, document), and all its documents."""
    documents = ast.literal_eval(problem.toolbox.source.rpartition("DOCUMENTS = ")[2])
    return [(arguments["query"], document) for _, arguments, document in problem.calls], documents


def test_two_words_find_the_fact():
    """One document has both words of a hop, and it ranks first."""
    for seed in range(300):
        hops, documents = searches(retrieval.draw(random.Random(seed), (1 + seed % 3, 1 + seed % 3)))
        assert all(best(query, documents) == document for query, document in hops)


def test_the_ranking_is_that_of_bm25s():
    for seed in range(20):
        hops, documents = searches(retrieval.draw(random.Random(seed)))
        documents.append("Mia likes long walks, and the town where the aunt of the doctor of Mia lives.")
        peer = bm25s.BM25()
        peer.index(bm25s.tokenize(documents, stopwords=None, show_progress=False), show_progress=False)
        for query in [*(query for query, _ in hops), "Mia Mia aunt of the", "town", "has 14 apples"]:
            (words,) = bm25s.tokenize(query, stopwords=None, return_ids=False, show_progress=False)
            known = [w for w in words if w in peer.vocab_dict]
            theirs = peer.get_scores(known) if known else np.zeros(len(documents))
            np.testing.assert_allclose(scores(query, documents), theirs, rtol=1e-5, atol=1e-6)
    assert best("zebra", documents) == best("", documents) == "nothing found"


def test_a_task_brings_its_own_documents(sandbox):
    tasks = [t for t, _ in generate("retrieval", 8, split="eval")]
    call = json.dumps({"name": "search", "arguments": {"query": "town"}})
    found = [t.toolbox.call(call, sandbox).text for t in tasks]
    assert len(set(found)) > 4
    assert all(repr(text) in t.toolbox.source for t, text in zip(tasks, found, strict=True))


def test_a_hop_cannot_be_left_out():
    """The answer to a question of two hops is not in what the first search finds, nor the second person in it."""
    for task, reference in generate("retrieval", 100, hops=(2, 2)):
        first, second = (call.arguments["query"] for call in reference.calls)
        found = reference.messages[1]["content"]
        assert second.split()[1] in found and second.split()[1] not in task.question
        assert task.answer not in re.findall(r"\w+", found) and task.answer not in re.findall(r"\w+", task.question)
        assert first.split()[1] in task.question


def test_a_search_result_is_the_answer_only_if_it_contains_it(sandbox):
    pairs = generate("retrieval", 30, hops=(1, 1))
    other = {t.id: o.answer for (t, _), (o, _) in zip(pairs, pairs[1:] + pairs[:1], strict=True)}
    forged = [(t, r) for t, r in pairs if other[t.id] != t.answer]
    for task, _ in forged:
        object.__setattr__(task, "answer", other[task.id])
    kept, rejected = verify_references(forged, sandbox)
    assert not kept and {r.reason for r in rejected} == {"the last value is not the answer"}


# --- no tool fits ---


def test_no_tool_fits():
    """No offered tool gives the answer from the numbers of the question; adding and taking away does."""
    for task, reference in generate("no_tool", 200, split="eval"):
        assert not reference.calls and len(reference.messages) == 1
        signed = [-int(n) if loses else int(n) for loses, n in re.findall(r"(loses |gives away )?(\d+)", task.question)]
        assert sum(signed) == int(task.answer)
        for name in task.toolbox.names:
            for n in map(abs, signed):
                more = [n] if name == "round_number" else []
                assert str(FUNCTIONS[name](n, *more)).removesuffix(".0") != task.answer, (task.question, name)


def test_a_wrong_answer_without_a_call_is_rejected(sandbox):
    (task, reference), (_, other) = generate("no_tool", 2)
    assert reference.answer != other.answer
    reference.messages[:] = other.messages
    kept, rejected = verify_references([(task, reference)], sandbox)
    assert not kept and rejected[0].reason == "wrong answer"


def test_a_result_may_be_formatted_as_in_a_rollout(sandbox):
    """A sampled teacher's tool messages are cut and escaped."""
    source = 'def read() -> str:\n    """Read."""\n    return "<|</s>" + "a" * 3000\n'
    task = Task("t", "Read.", "3", Toolbox.from_source("t", source), "t")
    shown = Execution(value="<|</s>" + "a" * 3000).text
    formatted = format_tool_result(shown, control=["</s>"])
    for text, fits in ((shown, True), (format_tool_result(shown), True), (formatted, True), (formatted + "!", False)):
        reference = reference_from_calls("t", [("read", {}, "")], "3")
        reference.messages[1]["content"] = text
        _, rejected = verify_references([(task, reference)], sandbox)
        assert (rejected[0].reason == "a call returns another value") is not fits


# --- errors ---


def test_asking_for_too_many_tasks_is_a_one_line_error(monkeypatch):
    problem = SUITES["unseen"](random.Random(0))
    monkeypatch.setitem(SUITES, "unseen", lambda rng: problem)
    with pytest.raises(InputError, match="ask for fewer than 2"):
        generate("unseen", 2, split=problem.split)


def test_an_unknown_suite_is_a_one_line_error():
    with pytest.raises(InputError, match="unknown suite 'nope'"):
        generate("nope", 1)
    with pytest.raises(InputError, match="did you mean retrieval"):
        generate("retreival", 1)


@pytest.mark.parametrize(
    ("suite", "options", "words"),
    [
        ("retrieval", {"varied": True}, "suite 'retrieval' has no option 'varied': it has hops"),
        ("calculator", {"nois": 0.5}, "did you mean noise"),
        ("longer", {"several": "both"}, "several='both': input should be a valid boolean"),
        ("calculator", {"noise": "much"}, "noise='much'"),
        ("calculator", {"calls": [0, 0]}, r"calls=\[0, 0\]: give the fewest and the most"),  # would never end
        ("no_tool", {"steps": (3, 2)}, "the fewest and the most"),
        ("retrieval", {"hops": 2}, "hops=2: input should be a valid tuple"),
    ],
)
def test_options_that_a_suite_has_not_are_named(suite, options, words):
    with pytest.raises(InputError, match=words):
        generate(suite, 1, **options)


# --- docs/benchmark.md ---

BENCHMARK = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("suite", "options", "words"),
    [
        ("unseen", {"n_tools": 20}, "suite 'unseen' draws no task with {'n_tools': 20}: ValueError: Sample larger"),
        ("retrieval", {"hops": (4, 4)}, "suite 'retrieval' draws no task with"),
        ("calculator", {"several": False, "calls": (7, 8)}, "no such problem in 500 draws: several=False"),
    ],
)
def test_options_with_which_no_task_can_be_drawn(suite, options, words, monkeypatch):
    monkeypatch.setattr("mentorlib.data.suites.calculator.DRAWS", 500)
    with pytest.raises(InputError, match=re.escape(words)):
        generate(suite, 1, **options)


def test_the_table_names_every_suite():
    assert re.findall(r"^\| `(\w+)` \|", BENCHMARK, re.MULTILINE) == list(SUITES)


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", BENCHMARK, re.DOTALL)
    return code


def test_the_example_is_a_suite_in_one_file(tmp_path, monkeypatch, sandbox):
    """The page's file of at most fifty lines is drawn from where it lies, and by name in the folder of the suites."""
    assert len(example().splitlines()) <= 50
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(example())
    pairs = [pair for split in ("train", "eval") for pair in generate("mine.py:parcels", 100, split=split)]
    kept, rejected = verify_references(pairs, sandbox)
    assert kept == pairs and not rejected and {task.suite for task, _ in pairs} == {"parcels"}
    Path("inside").mkdir()
    Path("inside/parcels.py").write_text(example() + 'SUITES = {"parcels": parcels}\n')
    monkeypatch.setattr(suites, "__path__", [*suites.__path__, str(tmp_path / "inside")])
    monkeypatch.setattr(suites, "SUITES", suites.load_suites())
    assert [task.question for task, _ in generate("parcels", 100)] == [task.question for task, _ in pairs[:100]]
    with pytest.raises(InputError, match="'parcels' is a built-in suite: give the function another name"):
        generate("mine.py:parcels", 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("3, [], 1, BOX, 0", "question is not a text"),
        ("['?'], [], 1, BOX, 0", "question is not a text"),
        ("'?', [], 1, None, 0", "toolbox is not a Toolbox"),
        ("'?', 3, 1, BOX, 0", "calls is not a list of (name, arguments as a dict, result)"),
        ("'?', [('add', {})], 1, BOX, 0", "calls is not a list of (name, arguments as a dict, result)"),
        ("'?', [(3, {}, 1)], 1, BOX, 0", "calls is not a list of (name, arguments as a dict, result)"),
        ("'?', [('add', [1], 1)], 1, BOX, 0", "calls is not a list of (name, arguments as a dict, result)"),
        ("'?', [('add', {}, {1})], 1, BOX, 0", "a call's result cannot be written as text (TypeError"),
        ("'?', [], {1}, BOX, 0", "answer cannot be written as text (TypeError"),
    ],
)
def test_wrong_fields_are_named_with_the_function_s_file(fields, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = (
        "from mentorlib.data.problem import Problem\nfrom mentorlib.data.suites.calculator import CALCULATOR as BOX\n"
    )
    Path("mine.py").write_text(f"{head}def f(rng): return Problem({fields})")
    with pytest.raises(InputError, match=re.escape(f"suite=mine.py:f returned a Problem with a wrong field: {words}")):
        generate("mine.py:f", 1)


def test_hints_that_only_a_type_checker_can_read_are_no_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING: import numpy\n"
    changed = example().replace("def parcels(rng: random.Random", "def parcels(rng: numpy.random.Generator")
    assert changed != example()
    Path("mine.py").write_text(head + changed.replace("from __future__ import annotations\n", ""))
    assert len(generate("mine.py:parcels", 9, heaviest=98)) == 9


def test_a_suite_in_a_file_takes_options_and_is_read_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(example())
    assert all(
        reference.calls[0].arguments["grams"] < 99 for _, reference in generate("mine.py:parcels", 9, heaviest=98)
    )
    with pytest.raises(InputError, match=r"no option 'heavest': did you mean heaviest\?"):
        check_suite("mine.py:parcels", {"heavest": 50})
    before = generate("mine.py:parcels", 1)[0][0].question
    Path("mine.py").write_text(example().replace("A parcel of", "A letter of"))
    assert generate("mine.py:parcels", 1)[0][0].question == before.replace("A parcel of", "A letter of")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, r"suite=mine.py:f: mine.py cannot be read"),
        ("def f(", r"does not load: SyntaxError"),
        ("def g(rng): 1", r"has no function 'f'; did you mean g\?|it has g"),
        ("def f(): 1", r"f takes other arguments: write it as def f\(rng, ...\), returning a Problem"),
        ("def f(rng):\n    1 / 0", r"suite=mine.py:f failed: ZeroDivisionError: division by zero \(line 2\): fix it"),
        ("def f(rng): return 'x'", r"suite=mine.py:f returned 'x', which is no Problem: write it as def f"),
        (
            "from mentorlib.data.problem import Problem\ndef f(rng): return Problem('?', [], 1, None, {1, 2})",
            "suite=mine.py:f failed: TypeError: Object of type set is not JSON serializable",
        ),
    ],
)
def test_a_wrong_suite_in_a_file_is_one_line(tmp_path, monkeypatch, code, words):
    monkeypatch.chdir(tmp_path)
    if code:
        Path("mine.py").write_text(code + "\n")
    with pytest.raises(InputError, match=words) as error:
        generate("mine.py:f", 1)
    assert "\n" not in str(error.value)
