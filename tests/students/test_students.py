"""The shipped student and its making: what it may not have read, how lessons are tokenised, what it can do."""

import json
import random
import re

import pytest

from mentorlib.data.suites import SUITES, generate
from mentorlib.data.suites.calculator import WORDING
from mentorlib.data.suites.retrieval import RETRIEVAL, TOWNS
from mentorlib.data.suites.unseen import UNSEEN
from mentorlib.rollout.chat import encode_chat
from mentorlib.rollout.engine import TorchEngine
from mentorlib.rollout.evaluation import evaluate
from mentorlib.rollout.model import load_model
from mentorlib.students.build import encode_lesson
from mentorlib.students.corpus import MORE_WORDING, _problem, pretraining_examples
from mentorlib.task import chat_prompt


@pytest.fixture(scope="module")
def nano():
    return load_model("nano")


def test_a_lesson_is_tokenised_as_its_chats_alone(nano):
    _, tokenizer = nano
    for lesson in pretraining_examples(12, "a test"):
        shared, rows = encode_lesson(tokenizer, lesson)
        for (question, answer), (ids, mask) in zip(lesson[1], rows, strict=True):
            whole = encode_chat(tokenizer, chat_prompt(question), answer, lesson[0])
            assert whole == (shared + ids, [0] * len(shared) + mask)


def test_lessons_keep_the_evaluation_out():
    """No kept tool by name or description, no held-out sentence, town or document, no question of a suite."""
    drawn = pretraining_examples(1500, "a test")
    schemas = [s["function"] for tools, _ in drawn for s in tools]
    kept = [s["function"] for s in (*UNSEEN.schemas, *RETRIEVAL.subset(["search"]).schemas)]
    assert not {s["name"] for s in schemas} & {s["name"] for s in kept}
    assert not {s["description"] for s in schemas} & {s["description"] for s in kept}
    for kind, (_, held_out) in WORDING.items():
        assert not set(MORE_WORDING[kind]) & set(held_out)
    asked = {question for _, questions in drawn for question, _ in questions}
    for suite in SUITES:
        for split in ("train", "eval"):
            assert not asked & {t.question for t, _ in generate(suite, 200, split=split)}
    # The questions and documents of "retrieval" have shapes of their own; a word problem may end in its "How many".
    assert not [q for q in asked if re.match(r"Who is the |In which town does |How many \w+ does .* have\?$", q)]
    heard = [m["content"] for _, questions in drawn for _, answer in questions for m in answer if m["role"] == "tool"]
    assert not [t for t in heard if re.fullmatch(r"The \w+ of \w+ is \w+\.|\w+ lives in .*|\w+ has \d+ \w+\.", t)]
    text = json.dumps([a for _, questions in drawn for _, a in questions])
    assert not re.findall("|".join(rf'"{re.escape(name)}"' for name in (*UNSEEN.names, "search")), text)
    assert not re.findall("|".join(TOWNS), json.dumps(drawn))


def test_word_problems_of_lessons_have_at_most_four_calls():
    """So that "longer" stays unseen: only chains over invented tools are as long as its problems."""
    rng = random.Random("a test")
    calls = [sum(len(step.variants[0]) for step in _problem(rng).steps) for _ in range(300)]
    assert set(calls) == {1, 2, 3, 4}


def test_the_same_seed_draws_the_same_lessons():
    assert pretraining_examples(5, "x") == pretraining_examples(5, "x") != pretraining_examples(5, "y")


@pytest.mark.parametrize(
    ("suite", "least", "most"),
    [
        ("calculator", 0.2, 0.55),
        ("distractors", 0.3, 0.7),
        ("longer", 0.25, 0.7),
        ("wording", 0.15, 0.5),  # 28% of 200: the goal's 20% is within two standard errors on 100
        ("unseen", 0.4, 0.7),
        ("retrieval", 0.12, 0.5),  # 24% of 200
    ],
)
def test_every_rung_leaves_room_to_gain_and_to_lose(nano, sandbox, suite, least, most):
    """What the shipped student does, greedy; the goal, 20 to 70% on 200 tasks of every rung but "no_tool", is met."""
    rows = evaluate(TorchEngine(*nano), generate(suite, 100, split="eval"), sandbox)
    assert least <= sum(r["correct"] for r in rows) / len(rows) <= most
