"""Every source: self-made rows convert, broken ones are rejected by name, and no row is lost."""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mentorlib.ast_match import first_calls, mismatch
from mentorlib.contamination import overlapping
from mentorlib.core import Call, InputError, Trajectory
from mentorlib.metrics import exact_match, grade, word_f1
from mentorlib.sources import bfcl, gsm8k, math500, mentor, multihop, own, read
from mentorlib.sources.rows import convert
from mentorlib.teachers import verify
from mentorlib.toolbox import Toolbox

SHARED = Path(__file__).parents[2] / "shared/data"
SCHEMA = {
    "name": "geo.area",
    "description": "Area of a room.",
    "parameters": {
        "type": "dict",
        "properties": {
            "width": {"type": "float", "description": "m"},
            "unit": {"type": "string", "description": "name"},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "t"},
            "more": {"type": "dict", "properties": {}, "description": "d"},
        },
        "required": ["width"],
    },
}
POSSIBLE = [
    {"geo.area": {"width": [3.0], "unit": ["sq. m", ""], "tags": [["Big", "old"], ""], "more": [{"a": [1, ""]}, ""]}}
]
BFCL = {"id": "simple_0", "question": [[{"role": "user", "content": "How large?"}]], "function": [SCHEMA]}
HOTPOT = {
    "question": "Where was the maker of the Zob born?",
    "answer": "Lund",
    "supporting_facts": {"title": ["Zob", "Ida Ek"], "sent_id": [0, 0]},
    "context": {
        "title": ["Zob", "Ida Ek", "Kiln"],
        "sentences": [["The Zob is a boat", " made by Ida Ek."], ["Ida Ek was born in Lund."], ["A kiln burns clay."]],
    },
}
TOOLS = (
    'def area(width: float) -> float:\n    """Area.\n\n    Args:\n        width: in m\n    """\n    return width * 2\n'
)
PARQUET = {
    "question": "How large is a room of 3?",
    "reward_model": {"ground_truth": ["6"]},
    "extra_info": {
        "env": TOOLS,
        "func_schemas": json.dumps(
            [{"type": "function", "function": {**SCHEMA, "name": "area"}}],
        ),
    },
    "tool_calls_used": ["area"],
}
BOX = Toolbox.from_source("own", TOOLS)
MAKERS = {
    "gsm8k": ({"question": "Two, twice?", "answer": "<<2*2=4>>4\n#### 4"}, gsm8k.gsm8k_pair),
    "math500": ({"problem": "1+1?", "solution": "So \\boxed{2}.", "answer": "2"}, math500.math500_pair),
    "bfcl": (BFCL, lambda row, where: bfcl.bfcl_pair(row, where, "bfcl_simple", {"simple_0": POSSIBLE})),
    "hotpotqa": (HOTPOT, multihop.hotpot_pair),
    "bamboogle": ({"Question": "Who?", "Answer": "Ida"}, multihop.bamboogle_pair),
    "mentor": (PARQUET, lambda row, where: mentor.mentor_pair(row, where, {})),
    "own": ({"question": "q", "answer": 6, "tools": ["area"]}, lambda row, where: own.own_pair(row, where, "o", BOX)),
}
BROKEN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["####", "<<1/0=1>>", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("type"), inner, max_size=3),
    max_leaves=6,
)


def spoilt(row, path, value):
    """The row with what stands at a path of keys and indices replaced."""
    if not path:
        return value
    head, *rest = path
    if isinstance(row, dict):
        return {**row, head: spoilt(row[head], rest, value)}
    return [spoilt(item, rest, value) if i == head else item for i, item in enumerate(row)]


def paths(row):
    """The path of every part of a row."""
    yield []
    for key, item in row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list) else ():
        yield from ([key, *rest] for rest in paths(item))


@pytest.mark.parametrize("name", MAKERS)
def test_a_sound_row_becomes_a_verified_pair(name, sandbox):
    row, make = MAKERS[name]
    pairs, rejected = convert([("f:1", row)], make)
    assert len(pairs) == 1 and not rejected
    assert verify(pairs, sandbox) == (pairs, [])


@pytest.mark.parametrize("name", MAKERS)
def test_no_broken_row_is_lost_or_raises(name):
    row, make = MAKERS[name]
    everywhere = list(paths(row))

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(everywhere), BROKEN)
    def check(path, value):
        pairs, rejected = convert([("f:1", row), ("f:2", spoilt(row, path, value))], make)
        assert len(pairs) + len(rejected) == 2 and all(r.where == "f:2" for r in rejected)

    check()


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


def test_all_possible_answers_of_bfcl_are_right_and_corrupted_ones_wrong():
    if not SHARED.exists():
        pytest.skip("no ../shared/data here")
    pairs, rejected = bfcl.read(SHARED / "bfcl")
    assert len(pairs) == 1_040 and not rejected
    rng, corrupted = random.Random(0), 0
    for task, reference in pairs:
        possible, schemas = json.loads(task.answer), task.toolbox.schemas
        assert mismatch(reference.calls, possible, schemas) is None
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
        corrupted += mismatch(wrong, possible, schemas) is not None
        if reference.calls and reference.calls[0].arguments:  # and a value that nothing allows
            first = reference.calls[0]
            key = rng.choice(list(first.arguments))
            changed = [Call(first.name, {**first.arguments, key: "no such value"}), *reference.calls[1:]]
            assert mismatch(changed, possible, schemas), task.id
    assert corrupted == len(pairs) >= 200


def test_words_are_graded_as_hotpotqa_does():
    assert exact_match("The  Lund!", "lund") and not exact_match("Lund, Sweden", "Lund")
    assert word_f1("Lund, Sweden", "Lund") == pytest.approx(2 / 3) and word_f1("yes it is", "yes") == 0.0
    task, _ = multihop.hotpot_pair(HOTPOT, "f:1")
    said = Trajectory.from_response("\\boxed{Lund Sweden}<|im_end|>")
    assert grade(task, said) == {"correct": False, "f1": pytest.approx(2 / 3)}
    assert grade(task, Trajectory("f:1", [], "", "infrastructure")) == {"correct": None, "f1": None}


@pytest.mark.parametrize(
    ("source", "file", "rows", "evaluated"),
    [
        ("math500", "math500/math500.jsonl", 500, 500),
        ("hotpotqa", "multihop/hotpot_dev_distractor_sample.json", 100, 100),
        ("bamboogle", "multihop/bamboogle_toolrl.json", 125, 125),
    ],
)
def test_the_real_files_are_read_whole(source, file, rows, evaluated, sandbox):
    if not SHARED.exists():
        pytest.skip("no ../shared/data here")
    pairs, rejected, (card,) = read([f"{source}:{SHARED / file}"])
    assert card["rows"] == rows and not rejected and len(verify(pairs, sandbox)[0]) == evaluated


def test_mentors_parquet_runs_its_tools_only_in_the_sandbox(tmp_path, sandbox):
    marker = tmp_path / "escaped"
    hostile = f"open({str(marker)!r}, 'w')\n{TOOLS}"
    rows = [
        PARQUET,
        {**PARQUET, "extra_info": {**PARQUET["extra_info"], "env": hostile}},
        {**PARQUET, "tool_calls_used": ["guess"]},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    pairs, rejected = mentor.read(tmp_path / "train.parquet")
    assert [r.reason for r in rejected] == ["the teacher used a tool that is not offered"]
    assert all(t.toolbox.isolate for t, _ in pairs)
    kept, failed = verify(pairs, sandbox)
    assert [t.id for t, _ in kept] == ["train.parquet:1"] and failed[0].reason == "the tools do not load"
    assert not marker.exists()
    assert kept[0][0].toolbox.call('{"name": "area", "arguments": {"width": 3}}', sandbox).text == "6"


def test_own_tasks(tmp_path, sandbox):
    folder = tmp_path / "rooms"
    folder.mkdir()
    rows = [{"question": f"How large is {i}?", "answer": i * 2, "tools": ["area"]} for i in range(10)]
    bad = ["{", "[]", *map(json.dumps, [{"question": "q"}, {"question": "q", "anwser": 1}, rows[0]])]
    bad.append(json.dumps({"question": "q", "answer": "1", "tools": ["nope"]}))
    (folder / "tasks.jsonl").write_text("\n".join([*map(json.dumps, rows), *bad]))
    with pytest.raises(InputError, match=r"tools\.py: cannot be read"):
        own.read(folder)
    for source, says in [("def f(:", "not Python"), ("def f(x): pass", "no schema for f")]:
        (folder / "tools.py").write_text(source)
        with pytest.raises(InputError, match=says):
            own.read(folder)
    (folder / "tools.py").write_text(TOOLS)
    pairs, rejected = own.read(folder)
    assert [t.split for t, _ in pairs].count("eval") == 2 and len(pairs) == 10
    assert [r.reason for r in rejected] == [
        "not JSON",
        "not a JSON object",
        "no answer",
        "an unknown key",
        "the question stands twice",
        "a tool that is not in tools.py",
    ]
    assert len(verify(pairs, sandbox)[0]) == 10


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nope:x", "write name:path"),
        ("bfcl", "say where it is"),
        ("bfcl:/none", "cannot be read"),
        ("mentor:/none", "cannot be read"),
        ("hotpotqa:/none", "cannot be read"),
        ("own:/none", "cannot be read"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(source, says):
    with pytest.raises(InputError, match=says) as error:
        read([source])
    assert "\n" not in str(error.value)


def test_contamination_is_by_thirteen_words_or_the_whole():
    long = " ".join(f"w{i}" for i in range(20))
    given_away = overlapping(
        [long, "Who is it?"], [f"x {long[6:]}", " ".join(long.split()[:12]), "who IS it", "who is"]
    )
    assert given_away == [True, False, True, False]
