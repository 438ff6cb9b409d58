"""A reward that is a plain function in a file: what it sees and returns, and each way in which it can be wrong."""

import json
import math
import re
from pathlib import Path

import pytest

from mentorlib.core import Call, InputError, Reference, Trajectory
from mentorlib.lab.analysis.reward_effects import advantages, counterfactual, rescore
from mentorlib.rewards.function import TERMS
from mentorlib.rewards.reward import REWARDS, get_reward
from mentorlib.rewards.score_file import score_file
from mentorlib.rewards.trl import as_trl
from mentorlib.runs.functions import function_file

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call><|im_end|>\n'
RESULT = "<|im_start|>user\n<tool_response>\n5\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
RIGHT = CALL + RESULT + "\\boxed{5}<|im_end|>"
WRONG = CALL + RESULT + "\\boxed{6}<|im_end|>"
TEACHER = Reference("t", [], [Call("add", {"a": 2, "b": 3})], "5")
EXACT = """def exact(trajectory, reference, terms):
    return 0.7 * terms['correct'] + 0.3 * terms['tools'] + 0.1 * terms['clean']
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def place(body: str, head: str = "def f(trajectory, reference, terms):") -> str:
    Path("mine.py").write_text(f"{head}\n    {body}\n")
    return "mine.py:f"


def total(place: str, response: str = RIGHT, answer: str = "5") -> float:
    return get_reward(place)(Trajectory.from_response(response, "t-1"), TEACHER, answer=answer).total


@pytest.mark.parametrize("response", [RIGHT, WRONG, "\\boxed{5}<|im_end|>", CALL + "no answer<|im_end|>", CALL, "x"])
def test_it_sees_the_terms_of_exact(response):
    Path("mine.py").write_text(EXACT)
    trajectory = Trajectory.from_response(response)
    score = get_reward("mine.py:exact")(trajectory, TEACHER, answer="5")
    known = REWARDS["exact"](trajectory, TEACHER, answer="5")
    assert score.total == pytest.approx(known.total) and score.reason == known.reason
    assert score.weights == {"exact": 1.0} and score.terms == {"exact": score.total}


def test_it_sees_trajectory_and_reference():
    at = place("return len(trajectory.calls) + 10 * len(reference.calls) + 100 * len(terms)")
    assert total(at) == 11 + 100 * len(TERMS)
    assert get_reward(at)(Trajectory.from_response(RIGHT), None, answer="5").total == 1 + 100 * len(TERMS)  # no teacher


@pytest.mark.parametrize(("body", "value"), [("return -3", -3.0), ("return True", 1.0), ("return 1e6", 1e6)])
def test_numbers_up_to_a_million_are_rewards(body, value):
    assert total(place(body)) == value
    assert total(place("import numpy; return numpy.float32(0.5)")) == 0.5


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return float('nan')", "returned nan on task t-1, which is no number up to 1,000,000"),
        ("return float('-inf')", "returned -inf on task t-1"),
        ("return 10**400", "no number up to"),
        ("pass", "returned None on task t-1"),
        ("return '1'", "returned '1' on task t-1"),
        ("return {'a': 1}", "returned {'a': 1}"),
        ("return 1 / 0", r"failed on task t-1: ZeroDivisionError: division by zero \(line 2\): fix the function"),
        ("return terms['right']", "KeyError: 'right'"),
        ("raise ValueError('two\\n    lines')", "ValueError: two lines"),
        ("raise SystemExit", "failed on task t-1: SystemExit"),
        ("return f(trajectory, reference, terms)", "RecursionError"),
    ],
)
def test_a_wrong_result_names_file_and_function(body, words):
    at = place(body)
    with pytest.raises(InputError, match=words) as caught:
        total(at)
    assert str(caught.value).startswith("reward=mine.py:f ") and "\n" not in str(caught.value)


def test_a_function_gets_copies():
    at = place("trajectory.messages.clear(); reference.calls.clear(); return 0")
    trajectory = Trajectory.from_response(RIGHT, "t-1")
    get_reward(at)(trajectory, TEACHER, answer="5")
    assert trajectory.messages and TEACHER.calls


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        (None, "mine.py:f", r"mine.py cannot be read \(No such file or directory\)"),
        ("def f(", "mine.py:f", r"mine.py does not load: SyntaxError: '\(' was never closed \(line 1\)"),
        ("import nowhere_at_all", "mine.py:f", r"ModuleNotFoundError: No module named 'nowhere_at_all' \(line 1\)"),
        ("raise SystemExit(0)", "mine.py:f", "SystemExit: 0"),
        (b"\xff\xfe", "mine.py:f", "does not load"),
        ("def brevity(a, b, c): pass", "mine.py:brevty", "no function 'brevty'; did you mean brevity"),
        ("x = 1", "mine.py:f", "no function 'f'; it has no function"),
        ("f = 1", "mine.py:f", "f takes other arguments: write it as def f"),
        ("def f(a, b): pass", "mine.py:f", "f takes other arguments"),
        ("def f(a, b, c, d): pass", "mine.py:f", "f takes other arguments"),
        ("", "mine.py", "name a file and a function in it"),
        ("", "mine.py:", "name a file and a function in it"),
        ("", "mine:f", "name a file and a function in it"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text, at, words):
    if text is not None:
        Path("mine.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words) as caught:
        get_reward(at)
    assert "\n" not in str(caught.value) and at in str(caught.value)


def test_there_is_no_official_function():
    at = place("return 1")
    with pytest.raises(InputError, match="the release has no functions of your own"):
        get_reward(at, "official")


@pytest.mark.parametrize(("name", "near"), [("exat", "exact"), ("sprase", "sparse"), ("tolrl", "toolrl")])
def test_the_nearest_name_is_given(name, near):
    with pytest.raises(InputError, match=f"did you mean {near}"):
        get_reward(name)


def test_a_changed_file_is_read_again():
    assert [total(place("return 1")), total(place("return 2")), total(place("return 1"))] == [1, 2, 1]


def test_it_is_not_asked_where_nobody_can_judge():
    at = place("raise RuntimeError('asked')")
    trajectory = Trajectory.from_response("\\boxed{9**9**9**9}<|im_end|>")
    trajectory.stop = "infrastructure"
    assert not get_reward(at)(trajectory, TEACHER, answer="5").judged
    assert not get_reward(at)(Trajectory.from_response(RIGHT), TEACHER, answer="[]", metric="calls").judged


def test_dataclasses_and_helpers_in_the_file():
    Path("mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Weights:\n    right: float = 0.5\n"
        "def helper(terms): return Weights().right * terms['correct']\n"
        "f = lambda trajectory, reference, terms: helper(terms)\n"
    )
    assert total("mine.py:f") == 0.5


def test_stored_rows_and_trl():
    at = place("return len(trajectory.calls) / 4 + trajectory.n_tokens")
    row = {"response": RIGHT, "answer": "5", "teacher_tools": ["add"], "n_tokens": 7}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    assert score_file("rows.jsonl", "out.jsonl", [at])["scored"] == 1
    scores = json.loads(Path("out.jsonl").read_text())["scores"]
    assert scores[at]["total"] == 7.25 and scores[at]["terms"] == {"f": 7.25}
    task = type("T", (), {"id": "t", "answer": "5", "metric": "answer", "toolbox": type("B", (), {"names": ["add"]})})
    assert as_trl(at)([""], [""], [Trajectory.from_response(RIGHT)], [TEACHER], [task]) == [0.25]
    assert as_trl(at).__name__ == at


def rollouts(reward: str):
    import pandas as pd

    rows = []
    for i, response in enumerate([RIGHT, WRONG, CALL + "no answer<|im_end|>"]):
        trajectory = Trajectory.from_response(response)
        rows.append(
            {"run": "r", "method": f"grpo-{reward}", "step": 1, "group": 0, "reward": reward, "task_id": "t"}
            | {"answer": "5", "response": response, "messages": trajectory.messages, "stop": trajectory.stop}
            | {"tools": ["add"], "teacher_tools": ["add"], "correct": i == 0, "outcome": "", "n_tokens": 3}
            | {"teacher_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}], "teacher_results": ["5"]}
        )
    return pd.DataFrame(rows)


def test_rescored_where_it_is_named_only():
    at = place("open('executed', 'w'); return terms['correct']")
    scored = rescore(rollouts(at))  # rows of others may name any file
    assert at not in set(scored["reward"]) and not Path("executed").exists()
    place("open('executed', 'w'); assert trajectory.n_tokens == 3; return terms['correct']")
    scored = rescore(rollouts(at), rewards=["sparse", at])
    assert list(scored[scored["reward"] == at]["total"]) == [1.0, 0.0, 0.0] and Path("executed").exists()
    table = counterfactual(scored)
    assert set(table["trained"]) == {at} and set(table["reward"]) == {"sparse", at}
    assert not advantages(scored)["advantage"].isna().any()


def test_function_files():
    assert function_file("a/b.py:f") == "a/b.py" and function_file("C:/x.py:f") == "C:/x.py"
    assert {function_file(text) for text in ("", "exact", "mine.py", "mine.py:", "gsm8k:x.jsonl", "a:b")} == {""}
    assert math.isnan(get_reward(place("return 1")).maximum)


def test_the_page_as_written():
    """docs/rewards.md's example, as it stands there."""
    page = (Path(__file__).parents[2] / "docs/rewards.md").read_text()
    (example,) = re.findall(r"```python\n(# mine\.py\n.*?)```", page, re.DOTALL)
    Path("mine.py").write_text(example)
    short, long = (Trajectory.from_response(response) for response in ("\\boxed{5}<|im_end|>", RIGHT))
    reward = get_reward("mine.py:brevity")
    assert reward(short, TEACHER, answer="5").total > reward(long, TEACHER, answer="5").total
    assert reward(short, TEACHER, answer="6").total == 0.0
