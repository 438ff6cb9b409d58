"""One row as HTML and as text: shown whole, in order, and escaped."""

import base64
import gzip
import json
import re
from pathlib import Path
from random import Random

import pytest
import synthetic

from mentorlib.lab.analysis import load
from mentorlib.lab.report import transcript
from mentorlib.lab.report.transcript import (
    side_by_side_html,
    transcript_html,
    transcript_parts,
    transcript_text,
    verdict_html,
)
from mentorlib.lab.report.viewer import write_trajectories

REPORT = Path(transcript.__file__).parent
SPANS = ("details", "summary", "span", "strong", "br", "hr")


def hostile(kind: str = "box") -> dict:
    row = synthetic.row(kind, Random(0), 1)
    bad = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e\u2066"
    row["question"] = row["answer"] = row["task_id"] = row["suite"] = bad
    row["messages"][0]["tool_calls"][0]["function"] = {"name": bad, "arguments": {bad: bad}}
    row["messages"][1]["content"] = row["messages"][2]["content"] = bad
    row["teacher_calls"] = [{"name": bad, "arguments": {"a": bad}}]
    return row | {
        "where": f"r/eval/{bad}.jsonl:1",
        "tokens": [bad, bad],
        "logprobs": [-0.5, None],
        "method": bad,
        "outcome": bad,
        "reward": bad,
        "total": 0.5,
        "terms": {bad: 0.5},
        "weights": {},
        "reason": bad,
    }


def test_hostile_text_is_shown_and_does_nothing() -> None:
    html = transcript_html(hostile())
    tags = set(re.findall(r"<(/?\w+)", html))
    assert tags <= {f"{end}{tag}" for end in ("", "/") for tag in ("article", "div", "pre", "small", "a", *SPANS)}
    assert "&lt;script&gt;" in html and "\\u202e" in html
    assert not {"\x1b", "\u202e", "\u2066"} & set(html)


def test_a_token_of_unknown_probability_is_plain(tmp_path) -> None:
    """A server may give none for one of them: a NaN in the page's data would be no JSON, and 100 rows unreadable."""
    tokens = {"tokens": ["hi", "<|im_end|>"], "logprobs": ["nan", -0.1]}
    assert "nan" not in transcript_html(hostile("right") | tokens)
    synthetic.make_runs(tmp_path, 2, 1, ("base",))
    for file in tmp_path.glob("base/eval/*.jsonl"):
        rows = [json.loads(line) | tokens for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_trajectories(tmp_path / "page.html", load.trajectories(["base"], tmp_path), "base").read_text()
    packed = [gzip.decompress(base64.b64decode(text)).decode() for text in re.findall(r"H4sI[\w+/=]+", page)]
    assert any("hi" in text for text in packed) and not any("NaN" in text for text in packed)


def test_several_rows_side_by_side_are_escaped_and_named() -> None:
    rows = [hostile("right") | {"correct": True}, hostile("box") | {"method": "sft"}]
    html = side_by_side_html(rows)
    assert not re.search(r"<script|<img", html) and not {"\x1b", "\u202e", "\u2066"} & set(html)
    assert html.count("<section>") == 2 and html.count(">question<") == 1 and "</span> sft · " in html


def test_calls_are_shown_parsed_and_the_raw_text_is_folded() -> None:
    row = synthetic.row("right", Random(0), 1, sample=2)
    html = transcript_html(row)
    above, raw = html.split("<details><summary>raw text</summary>")
    assert "&lt;tool_call&gt;" in raw and "&lt;tool_call&gt;" not in above and "(a=" in above
    assert "✓</span> sample 2 · right</strong>" in above and "✓" not in transcript_html(row, headed=False)
    assert "✓</span> example 1 · sample 2 · right</strong>" in verdict_html(row, "example 1")


def test_a_two_megabyte_line_is_cut() -> None:
    row = synthetic.row("right", Random(0), 1)
    row["messages"][-1]["content"] = "x" * 2_000_000
    html = transcript_html(row)
    assert len(html) < 40_000 and "1,980,000 more characters" in html


@pytest.mark.parametrize("kind", synthetic.KINDS)
def test_every_kind_of_row_is_rendered(kind: str) -> None:
    row = synthetic.row(kind, Random(0), 1)
    html = transcript_html(row)
    assert re.search(rf"gold answer</small><pre [^>]*>{row['answer']}</pre>", html) and f"stop: {row['stop']}" in html
    bare = {k: v for k, v in row.items() if k not in ("teacher_calls", "question")}
    assert row["teacher_tools"][0] in transcript_html(bare)


def test_a_row_without_a_score_is_shown() -> None:
    for total in (None, float("nan")):
        row = synthetic.row("right", Random(0), 1) | {"reward": "exact", "total": total, "terms": {"correct": 0.0}}
        assert "exact: not scored" in transcript_html(row)


def test_parts_come_in_order_with_the_teacher_s_calls_judged() -> None:
    parts = transcript_parts(synthetic.row("argument", Random(0), 1))
    assert [part.kind for part in parts] == [
        *("facts", "question", "tools", "student", "call", "result", "student", "teacher", "answer")
    ]
    call, teacher = parts[4], parts[7]
    assert call.note == "ungrounded argument" and any(marked for _, marked in call.segments)
    assert teacher.note == "the student called it with other arguments" and teacher.good is False
    right = {part.kind: part for part in transcript_parts(synthetic.row("right", Random(0), 1))}
    assert right["teacher"].note == "the student made this call" and right["teacher"].good
    assert right["teacher"].text == right["call"].text and not right["call"].note
    twice = synthetic.row("right", Random(0), 1)
    twice["teacher_calls"] = [*twice["teacher_calls"], {"name": twice["teacher_calls"][0]["name"], "arguments": {}}]
    notes = [part.note for part in transcript_parts(twice) if part.kind == "teacher"]
    assert notes == ["the student made this call", "the student did not make this call"]


def test_as_text_a_row_has_a_line_for_each_part_and_cannot_steer_a_terminal() -> None:
    text = transcript_text(synthetic.row("argument", Random(0), 1))
    assert re.match(r"── wrong · calculator · calculator-1 · stop: answered · \d+ tokens · sample 0\n", text)
    assert re.search(r"^call +\w+\(a=\d+, b=\d+\)  \(ungrounded argument\)$", text, re.MULTILINE)
    assert re.search(r"^gold answer +-?\d+$", text, re.MULTILINE)
    shown = transcript_text(hostile())
    assert "\\u001b[31m\\u202e" in shown and not {"\x1b", "\u202e", "\u2066"} & set(shown)
    only = transcript_text({"response": "two", "answer": "2", "teacher_tools": ["add"]})
    assert only.splitlines() == [
        *("── not judged", "student       two", "teacher call  add  (not called by the student)", "gold answer   2")
    ]


def test_tokens_beyond_the_limit_are_counted() -> None:
    row = synthetic.row("right", Random(0), 1) | {"tokens": ["x"] * 5_000, "logprobs": [-0.5] * 5_000}
    (student, _) = (part for part in transcript_parts(row) if part.kind == "student")
    assert student.tokens is not None and len(student.tokens) == 4_001
    assert student.tokens[-1] == ("… 1,000 more tokens", 0.0) and "1,000 more tokens" in transcript_html(row)


def test_a_rollout_whose_place_the_reference_took_says_so() -> None:
    row = synthetic.row("right", Random(0), 1) | {"reward": "exact", "total": 0.1, "terms": {}, "weights": {}}
    assert "not in the loss: the reference took its place, with an advantage of +2.47" in transcript_text(
        row | {"advantage": None, "demonstration": 2.474}
    )
    assert "not in the loss" not in transcript_text(row | {"advantage": 0.5})


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "-1+cmd|' /C calc'!A0", "+2-3+HYPERLINK(A1)", "-A1", "+cmd"])
def test_formulas_are_quoted_for_a_spreadsheet_and_numbers_are_not(text):
    (pattern,) = re.findall(r"const safe = text => /(.*)/[.]test", (REPORT / "report.template").read_text())
    assert re.search(pattern, text)
    assert not any(re.search(pattern, number) for number in ("-0.1", "+3.5 %", "-0.1 to 0.2", "-1,234", "-", "a=b"))
