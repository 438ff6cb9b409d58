"""BFCL's AST match: its rules, all possible answers of the real files, and corrupted ones."""

import json
import random

import pytest
from source_rows import BFCL, POSSIBLE

from mentorlib.core import Call, Trajectory
from mentorlib.data.sources import bfcl
from mentorlib.rollout.bfcl_match import first_calls, mismatch
from mentorlib.rollout.grading import grade


@pytest.mark.parametrize(
    ("call", "right"),
    [
        ({"width": 3}, True),  # an integer for a float, the rest left out
        ({"width": 3.0, "unit": "SQ M", "tags": ["big", "O-L-D"], "more": {"a": 1}}, True),
        ({"width": 3, "more": {}}, True),
        ({"width": 4}, False),
        ({"width": "3"}, False),
        ({"width": True}, False),
        ({}, False),
        ({"width": 3, "unit": "yard"}, False),
        ({"width": 3, "tags": ["old", "big"]}, False),
        ({"width": 3, "more": {"a": 2}}, False),
        ({"width": 3, "more": {"b": 1}}, False),
        ({"width": 3, "height": 1}, False),
    ],
)
def test_ast_match_rules(call, right):
    task, _ = bfcl.bfcl_pair(BFCL, "f:1", "bfcl_simple", {"simple_0": POSSIBLE})
    schemas = task.toolbox.schemas
    assert (mismatch([Call("geo.area", call)], POSSIBLE, schemas) is None) is right
    assert mismatch([Call("area", call)], POSSIBLE, schemas) and mismatch([], POSSIBLE, schemas)
    text = f"<tool_call>\n{json.dumps({'name': 'geo.area', 'arguments': call})}\n</tool_call><|im_end|>"
    assert grade(task, Trajectory.from_response(text)) == {"correct": right}


def test_parallel_calls_come_in_any_order_and_irrelevance_wants_none():
    two = [{"geo.area": {"width": [w]}} for w in (1, 2)]
    task, _ = bfcl.bfcl_pair(BFCL, "f:1", "bfcl_parallel", {"simple_0": two})
    calls = [Call("geo.area", {"width": w}) for w in (2, 1)]
    assert mismatch(calls, two, task.toolbox.schemas) is None
    assert mismatch([calls[0]] * 2, two, task.toolbox.schemas)
    none, _ = bfcl.bfcl_pair(BFCL, "f:1", "bfcl_irrelevance", {"simple_0": []})
    assert grade(none, Trajectory.from_response("I cannot.<|im_end|>"))["correct"] is True
    assert grade(none, Trajectory("simple_0", [], "", "length"))["correct"] is False  # the prompt left no room
    for text in ('<tool_call>\n{"name": "geo.area", "arguments": {"width": 1}}\n</tool_call>', "<tool_call>{"):
        assert grade(none, Trajectory.from_response(f"{text}<|im_end|>"))["correct"] is False


def graded(task, calls):
    """The grade of a policy's turn that holds these calls."""
    text = "\n".join(f"<tool_call>\n{json.dumps(vars(call))}\n</tool_call>" for call in calls)
    return grade(task, Trajectory.from_response(f"{text or 'None fits.'}<|im_end|>"))["correct"]


def test_all_possible_answers_of_bfcl_are_right_and_corrupted_ones_wrong(shared):
    pairs, rejected = bfcl.read_bfcl(shared / "data/bfcl")
    assert len(pairs) == 1_040 and not rejected
    rng, corrupted = random.Random(0), 0
    for task, reference in pairs:
        possible, schemas = json.loads(task.answer), task.toolbox.schemas
        assert graded(task, reference.calls) is True
        for i, answer in enumerate(possible):  # every allowed value, one at a time
            for name, allowed in answer.items():
                for key, values in allowed.items():
                    for value in [v for v in values if v != ""]:
                        one = [*possible]
                        one[i] = {name: {**allowed, key: [value]}}
                        assert mismatch(first_calls(one), possible, schemas) is None, task.id
        wrong = [Call(c.name, c.arguments) for c in reference.calls]
        kind = rng.choice(["name", "extra", "more"])
        if kind == "more" or not wrong:
            wrong.append(Call(task.toolbox.names[0], {}))
        elif kind == "name":
            wrong[0] = Call(f"{wrong[0].name}_", wrong[0].arguments)
        else:
            wrong[0] = Call(wrong[0].name, {**wrong[0].arguments, "not a parameter": 1})
        corrupted += graded(task, wrong) is False
        if reference.calls and reference.calls[0].arguments:  # and a value that nothing allows
            first = reference.calls[0]
            key = rng.choice(list(first.arguments))
            changed = [Call(first.name, {**first.arguments, key: "no such value"}), *reference.calls[1:]]
            assert mismatch(changed, possible, schemas), task.id
    assert corrupted == len(pairs) >= 200
