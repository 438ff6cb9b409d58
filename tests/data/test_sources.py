"""Every source: valid rows convert, broken ones are rejected with a reason, and no row is lost."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_rows import BFCL, HOTPOT, PARQUET, POSSIBLE, TOOLS

from mentorlib.core import InputError
from mentorlib.data.check_references import verify_references
from mentorlib.data.sources import bfcl, gsm8k, math500, mentor, multihop, own, read_sources, word_problems
from mentorlib.data.sources.rows import UnusableRow, convert_rows
from mentorlib.sandbox.toolbox import Toolbox

BOX = Toolbox.from_source("own", TOOLS)
CONVERTERS = {
    "gsm8k": ({"question": "Two, twice?", "answer": "<<2*2=4>>4\n#### 4"}, gsm8k.gsm8k_pair),
    "math500": ({"problem": "1+1?", "solution": "So \\boxed{2}.", "answer": "2"}, math500.math500_pair),
    "svamp": (
        {"Body": "Ida had 3 cups", "Question": "How many are 4 more?", "Equation": "( 3.0 + 4.0 )", "Answer": 7.0},
        word_problems.svamp_pair,
    ),
    "mawps": (
        {"Question": "number0 of number1 ?", "Numbers": "2.0 8.0", "Equation": "/ number1 number0", "Answer": "4.0"},
        lambda row, where: word_problems.mawps_pair(row, where, "mawps", "train"),
    ),
    "bfcl": (BFCL, lambda row, where: bfcl.bfcl_pair(row, where, "bfcl_simple", {"simple_0": POSSIBLE})),
    "hotpotqa": (HOTPOT, multihop.hotpotqa_pair),
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


def corrupted(row, path, value):
    """The row with the value at a path of keys and indices replaced."""
    if not path:
        return value
    head, *rest = path
    if isinstance(row, dict):
        return {**row, head: corrupted(row[head], rest, value)}
    return [corrupted(item, rest, value) if i == head else item for i, item in enumerate(row)]


def paths(row):
    """The path of every part of a row."""
    yield []
    for key, item in row.items() if isinstance(row, dict) else enumerate(row) if isinstance(row, list) else ():
        yield from ([key, *rest] for rest in paths(item))


@pytest.mark.parametrize("name", CONVERTERS)
def test_a_valid_row_becomes_a_verified_pair(name, sandbox):
    row, convert = CONVERTERS[name]
    pairs, rejected = convert_rows([("f:1", row)], convert)
    assert len(pairs) == 1 and not rejected
    assert verify_references(pairs, sandbox) == (pairs, [])


@pytest.mark.parametrize("name", CONVERTERS)
def test_no_broken_row_is_lost_or_raises(name):
    row, convert = CONVERTERS[name]
    everywhere = list(paths(row))

    @settings(max_examples=100, deadline=None)
    @given(st.sampled_from(everywhere), BROKEN)
    def check(path, value):
        pairs, rejected = convert_rows([("f:1", row), ("f:2", corrupted(row, path, value))], convert)
        assert len(pairs) + len(rejected) == 2 and all(r.where == "f:2" for r in rejected)

    check()


@pytest.mark.parametrize(
    ("source", "file", "rows", "evaluated"),
    [
        ("math500", "math500/math500.jsonl", 500, 500),
        ("hotpotqa", "multihop/hotpot_dev_distractor_sample.json", 100, 100),
        ("bamboogle", "multihop/bamboogle_toolrl.json", 125, 125),
    ],
)
def test_published_files_are_read_completely(source, file, rows, evaluated, sandbox, shared):
    pairs, rejected, (card,) = read_sources([f"{source}:{shared / 'data' / file}"])
    assert card["rows"] == rows and not rejected and len(verify_references(pairs, sandbox)[0]) == evaluated


GSM8K, MATH = CONVERTERS["gsm8k"][0], CONVERTERS["math500"][0]
LINES = {  # source: file name, the key to corrupt, two valid rows, other files
    "gsm8k": ("train.jsonl", "question", [GSM8K, {**GSM8K, "question": "Two, again?"}], {}),
    "math500": ("math500.jsonl", "problem", [MATH, {**MATH, "problem": "2+0?"}], {}),
    "own": ("tasks.jsonl", "answer", [{"question": q, "answer": 6} for q in ("a", "b")], {"tools.py": TOOLS}),
    "bfcl": (
        "BFCL_v4_simple_python.json",
        "question",
        [BFCL, {**BFCL, "id": "simple_1"}],
        {
            "possible_answer/BFCL_v4_simple_python.json": "\n".join(
                json.dumps({"id": f"simple_{i}", "ground_truth": POSSIBLE}) for i in range(2)
            ),
            "BFCL_v4_irrelevance.json": "",
            **{
                f"{folder}BFCL_v4_{c}.json": "" for c in ("multiple", "parallel") for folder in ("", "possible_answer/")
            },
        },
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_bad_lines_are_rejected_and_the_others_are_read(name, tmp_path):
    file, key, (first, last), others = LINES[name]
    folder = tmp_path / "rooms"
    (folder / "possible_answer").mkdir(parents=True)
    for other, text in others.items():
        (folder / other).write_text(text)
    corrupted = [
        {k: v for k, v in first.items() if k != key},
        *({**first, key: v} for v in (None, [1], "", float("nan"))),
    ]
    corrupted += [{**first, key: "x" * 100_001}, {**first, key: "\ud800"}]
    if name == "bfcl":  # its texts are nested
        corrupted[-2:] = [{**first, key: [[{"role": "user", "content": "x" * 100_001}]]}, {**first, "id": "\ud800"}]
    bad = [b"{", b"[]", b"NaN", b'{"a": ' * 100_000, '{"é": 1}'.encode("latin-1"), b"1" * 5_000]
    bad += [json.dumps(row).encode() for row in corrupted]
    lines = [b"\xef\xbb\xbf" + json.dumps(first).encode(), *bad, b"", json.dumps(last).encode() + b"\r"]
    (folder / file).write_bytes(b"\n".join(lines))
    source = f"{name}:{folder if others else folder / file}"
    pairs, rejected, (card,) = read_sources([source])
    assert len(pairs) == 2 and card["rows"] == 2 + len(bad)
    where = f"rooms/{file}" if name == "own" else file  # each folder has a tasks.jsonl
    assert [r.where for r in rejected] == [f"{where}:{number}" for number in range(2, len(bad) + 2)]
    assert rejected[1].row == "[]" and rejected[len(bad) - len(corrupted)].row == json.dumps(corrupted[0])[:1000]
    assert rejected[4].reason == "not UTF-8" and "too long" in rejected[-2].reason
    assert all(r.reason and len(r.detail) <= 200 for r in rejected)
    (folder / file).write_bytes(b"")
    with pytest.raises(InputError, match=r"none of its .*rows") as error:
        read_sources([source])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "key"), [("hotpotqa", "answer"), ("bamboogle", "Question")])
def test_bad_items_of_a_list_are_rejected_and_the_others_are_read(name, key, tmp_path):
    row, _ = CONVERTERS[name]
    bad = [3, [], {}, *({**row, key: v} for v in (None, 1, "", float("nan"), "x" * 100_001, "\ud800"))]
    file = tmp_path / "dev.json"
    file.write_text(json.dumps([row, *bad, row]))
    pairs, rejected, _ = read_sources([f"{name}:{file}"])
    assert len(pairs) == 2 and [r.where for r in rejected] == [f"dev.json:{i}" for i in range(2, len(bad) + 2)]
    for content, says in [(b"", "not JSON"), (b"[{", "not JSON"), (b"{}", "not a list"), (b"[]", "none of its 0 rows")]:
        file.write_bytes(content)
        with pytest.raises(InputError, match=says):
            read_sources([f"{name}:{file}"])
    file.write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_sources([f"{name}:{file}"])


def test_bad_rows_of_a_parquet_are_rejected_and_the_others_are_read(tmp_path):
    def cells(**changed):  # as JSON, so that a column may hold anything
        whole = {**PARQUET, **changed}
        return {k: v if k == "question" else json.dumps(v) for k, v in whole.items()}

    gold = [{"reward_model": {"ground_truth": v}} for v in (None, [], "", float("nan"), True, "\ud800", {"a": 1})]
    more = [{"question": None}, {"question": "x" * 100_001}, {"extra_info": None}, {"tool_calls_used": "area"}]
    extra = [{**PARQUET["extra_info"], key: v} for key in ("env", "func_schemas") for v in (None, 3, "", "def f(:")]
    bad = [*gold, *more, *({"extra_info": e} for e in extra)]
    file = tmp_path / "train.parquet"
    pd.DataFrame([cells(), *(cells(**row) for row in bad), cells()]).to_parquet(file)
    pairs, rejected = mentor.read_mentor(file)
    assert len(pairs) == 2 and [r.where for r in rejected] == [f"{file.name}:{i}" for i in range(2, len(bad) + 2)]
    file.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        mentor.read_mentor(file)


def test_hotpotqa_rows_may_be_lists_of_pairs():
    columns = HOTPOT["context"]
    own_form = {
        **HOTPOT,
        "context": [list(pair) for pair in zip(columns["title"], columns["sentences"], strict=True)],
        "supporting_facts": [["Zob", 0], ["Ida Ek", 0]],
    }
    assert multihop.hotpotqa_pair(own_form, "f:1") == multihop.hotpotqa_pair(HOTPOT, "f:1")


def test_bamboogle_searches_the_documents_that_come_with_it(tmp_path, sandbox):
    (tmp_path / "bamboogle.json").write_text(json.dumps([CONVERTERS["bamboogle"][0]]))
    rows = [{"title": "Zob", "text": "A boat made by Ida Ek."}, {"text": 3}, {"text": "A kiln burns clay."}]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ((task, _),), (rejected,), (card,) = read_sources([f"bamboogle:{tmp_path}"])
    assert rejected.where == "documents.jsonl:2" and len(card["files"]) == 2
    found = task.toolbox.call('{"name": "search", "arguments": {"query": "who made the boat"}}', sandbox)
    assert found.text == "Zob: A boat made by Ida Ek."
    (tmp_path / "documents.jsonl").write_text("")
    with pytest.raises(InputError, match="give some"):
        read_sources([f"bamboogle:{tmp_path}"])
    (tmp_path / "documents.jsonl").write_text(
        json.dumps({"text": "船" * 60_000}) + "\n" + json.dumps({"text": "河" * 99_999})
    )
    read_sources([f"bamboogle:{tmp_path}"])
    with (tmp_path / "documents.jsonl").open("a") as more:  # 179,999 characters, which the sandbox counts in bytes
        more.write("\n" + json.dumps({"text": "湖" * 20_000}))
    with pytest.raises(InputError, match="bytes at most"):
        read_sources([f"bamboogle:{tmp_path}"])


def test_mentors_parquet_runs_its_tools_only_in_the_sandbox(tmp_path, sandbox):
    marker = tmp_path / "escaped"
    hostile = f"open({str(marker)!r}, 'w')\n{TOOLS}"
    rows = [
        PARQUET,
        {**PARQUET, "extra_info": {**PARQUET["extra_info"], "env": hostile}},
        {**PARQUET, "tool_calls_used": ["guess"]},
        {**PARQUET, "tool_calls_used": []},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    pairs, rejected = mentor.read_mentor(tmp_path / "train.parquet")
    assert [r.reason for r in rejected] == ["the teacher used a tool that is not offered", "the teacher used no tool"]
    assert all(t.toolbox.isolate for t, _ in pairs)
    kept, failed = verify_references(pairs, sandbox)
    assert [t.id for t, _ in kept] == ["train.parquet:1"] and failed[0].reason == "the tools do not load"
    assert not marker.exists()
    assert kept[0][0].toolbox.call('{"name": "area", "arguments": {"width": 3}}', sandbox).text == "6"


def test_mentors_schemas_may_be_objects(tmp_path):
    parameters = {"type": "object", "properties": {"width": {"type": "number"}}, "required": ["width"]}
    rows = [
        {**PARQUET, "extra_info": {"env": TOOLS, "func_schemas": [{"name": "area", "parameters": parameters}]}},
        {**PARQUET, "extra_info": {"env": TOOLS, "func_schemas": [{"name": None, "parameters": parameters}]}},
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    ((task, _),), (rejected,) = mentor.read_mentor(tmp_path / "train.parquet")
    assert task.toolbox.schemas[0]["function"]["parameters"]["required"] == ["width"]
    assert rejected.reason == "the tools cannot be read"
    listed = json.dumps([{"name": ["area"], "parameters": parameters}])
    with pytest.raises(UnusableRow, match="the tools cannot be read"):
        mentor.mentor_pair({**PARQUET, "extra_info": {"env": TOOLS, "func_schemas": listed}}, "row", {})


MORE_TOOLS = f'''{TOOLS}

def find(text: str, limit: int) -> str:
    """Find.

    Args:
        text: a
        limit: b
    """
    return text


def now() -> str:
    """Now."""
    return "12:00"
'''


@pytest.mark.parametrize("as_pandas", [True, False])
def test_mentors_objects_have_arrows_padding(tmp_path, sandbox, as_pandas):
    """One struct type for all tools of a column: each has every tool's keys, null where they are another's."""
    schemas = Toolbox.from_source("m", MORE_TOOLS).schemas
    info = {"env": MORE_TOOLS, "func_schemas": schemas}
    fewer = {"env": TOOLS, "func_schemas": schemas[:1], "index": 3}
    rows = [{**PARQUET, "extra_info": info}, {**PARQUET, "question": "q", "extra_info": fewer}]
    rows[1] |= {"tool_calls_used": [{"name": "area", "arguments": {"width": 3}}]}
    rows[0] |= {"tool_calls_used": [{"name": "now", "arguments": {}}, {"name": "area", "arguments": {"width": 3}}]}
    if as_pandas:
        pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    pairs, rejected = mentor.read_mentor(tmp_path / "train.parquet")
    assert not rejected and [t.toolbox.schemas for t, _ in pairs] == [schemas, schemas[:1]]
    assert [r.tools for _, r in pairs] == [["now", "area"], ["area"]]
    assert pairs[0][0].toolbox.call('{"name": "now", "arguments": {}}', sandbox).text == "12:00"
    refused = pairs[0][0].toolbox.call('{"name": "area", "arguments": {"width": 3, "text": null}}', sandbox)
    assert refused.fault == "model"


@pytest.mark.parametrize("wrapped", [True, False])
def test_mentors_integers_stay_integers(tmp_path, wrapped):
    """Also beside a row without an answer, for which pandas makes the whole column floats."""
    golds = [9007199254740993, None, 42, -7]
    rows = [
        {**PARQUET, "question": f"{i}?", "reward_model": {"style": "rule", "ground_truth": [g] if wrapped else g}}
        for i, g in enumerate(golds)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    pairs, (rejected,) = mentor.read_mentor(tmp_path / "train.parquet")
    assert [t.answer for t, _ in pairs] == ["9007199254740993", "42", "-7"]
    assert (rejected.where, rejected.reason) == ("train.parquet:2", "no ground truth")
    pq.write_table(
        pa.Table.from_pylist([{**PARQUET, "reward_model": {"ground_truth": g}} for g in (42.0, 0.25)]),
        tmp_path / "floats.parquet",
    )
    assert [t.answer for t, _ in mentor.read_mentor(tmp_path / "floats.parquet")[0]] == ["42", "0.25"]


def test_own_tasks(tmp_path, sandbox):
    folder = tmp_path / "rooms"
    folder.mkdir()
    rows = [{"question": f"How large is {i}?", "answer": i * 2, "tools": ["area"]} for i in range(10)]
    bad = ["{", "[]", *map(json.dumps, [{"question": "q"}, {"question": "q", "anwser": 1}, rows[0]])]
    bad.append(json.dumps({"question": "q", "answer": "1", "tools": ["nope"]}))
    bad.append(json.dumps({"question": "q", "answer": "1", "metric": "calls"}))
    rows[9] |= {"metric": "text"}
    rows[8] |= {"answer": 10**400}
    (folder / "tasks.jsonl").write_text("\n".join([*map(json.dumps, rows), *bad]))
    with pytest.raises(InputError, match=r"tools\.py: cannot be read"):
        own.read_own(folder)
    for source, says in [("def f(:", "not Python"), ("def f(x): pass", "tool f: it has no docstring")]:
        (folder / "tools.py").write_text(source)
        with pytest.raises(InputError, match=says):
            own.read_own(folder)
    (folder / "tools.py").write_text(TOOLS)
    pairs, rejected, _ = read_sources([f"own:{folder}"])
    assert [t.split for t, _ in pairs].count("eval") == 2 and len(pairs) == 10
    assert [r.reason for r in rejected] == [
        "not JSON",
        "not a JSON object",
        "no answer",
        "an unknown key",
        "duplicate",
        "a tool that is not in tools.py",
        "an unknown metric",
    ]
    assert [t.metric for t, _ in pairs] == ["answer"] * 9 + ["text"]
    assert len(verify_references(pairs, sandbox)[0]) == 10


def test_a_file_that_is_not_csv_is_a_one_line_error(tmp_path):
    (tmp_path / "train.csv").write_text("Question,Numbers,Equation,Answer\n" + "a" * 200_000 + ",1,1,1\n")
    with pytest.raises(InputError, match=r"train.csv, line 1: not CSV \(field larger"):
        read_sources([f"mawps:{tmp_path / 'train.csv'}"])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nope:x", "write name:path"),
        ("bfcl", "add its path: bfcl:PATH"),
        ("bfcl:/none", "cannot be read"),
        ("mentor:/none", "cannot be read"),
        ("hotpotqa:/none", "^/none: cannot be read"),
        ("own:/none", "cannot be read"),
    ],
)
def test_a_missing_source_is_a_one_line_error(source, says):
    with pytest.raises(InputError, match=says) as error:
        read_sources([source])
    assert "\n" not in str(error.value)
