"""Suites: tasks are right by execution, splits never meet, and the teacher's path is one of several."""

import random

import pytest

from mentorlib.core import InputError
from mentorlib.suites import SUITES, generate, split_of
from mentorlib.suites.calculator import draw_problem, run_plan
from mentorlib.teachers import verify


@pytest.mark.parametrize("suite", SUITES)
def test_references_execute_to_their_answers(suite, sandbox):
    pairs = generate(suite, 60, seed=3, split="eval")
    kept, rejected = verify(pairs, sandbox)
    assert len(kept) == 60 and not rejected
    assert all(set(r.tools) <= set(t.toolbox.names) for t, r in pairs)


def test_a_forged_result_is_rejected(sandbox):
    task, reference = generate("calculator", 1)[0]
    result = next(m for m in reference.messages if m["role"] == "tool")
    result["content"] = "123456"
    kept, rejected = verify([(task, reference)], sandbox)
    assert not kept and rejected[0].reason == "a call gives another value"


def test_splits_do_not_overlap_by_question():
    seen = {split: {t.question for t, _ in generate("calculator", 200, split=split)} for split in ("train", "eval")}
    assert not seen["train"] & seen["eval"]


def test_generation_repeats_and_grows():
    few, many = generate("calculator", 5, seed=1), generate("calculator", 20, seed=1)
    assert [t.question for t, _ in few] == [t.question for t, _ in many[:5]]


def test_every_variant_of_a_step_gives_the_same_value():
    rng = random.Random(5)
    several = 0
    for _ in range(200):
        problem = draw_problem(rng)
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


def test_asking_for_more_tasks_than_there_are_is_one_line(monkeypatch):
    drawn = SUITES["unseen"](random.Random(0))
    monkeypatch.setitem(SUITES, "unseen", lambda rng: drawn)
    with pytest.raises(InputError, match="ask for fewer than 2"):
        generate("unseen", 2, split=split_of(drawn[-1]))


def test_unknown_suite_is_one_line():
    with pytest.raises(InputError, match="unknown suite 'nope'"):
        generate("nope", 1)
