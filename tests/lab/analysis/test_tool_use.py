"""Tokens by kind, and tool use call by call."""

import math
from pathlib import Path
from random import Random

import pandas as pd
import pytest
import synthetic

from mentorlib.lab import analysis, figures


def test_kinds_of_tokens() -> None:
    said = ["So ", "<tool_", "call>\n{}", "</tool_call>", "\n5\n", "It is \\bo", "xed{", "{4}", "}", "."]
    row = {"tokens": said, "logprobs": [-0.1] * 4 + [None] + [-0.2] * 5, "response": "".join(said)}
    found = [kind for _, kind, _ in analysis.token_credit.token_kinds(row)]
    assert found == ["other", "call", "call", "call", "other", "answer", "answer", "answer", "other"]
    bare = analysis.token_credit.token_kinds(
        {"response": "<tool_call>x<|im_end|>\n<|im_start|>user\nhidden<|im_end|>\n"}
    )
    assert {kind for _, kind, _ in bare} == {"call"} and "hidden" not in "".join(t for t, _, _ in bare)
    assert math.isnan(bare[0][2])


def test_gradient_shares_add_up(tmp_path: Path) -> None:
    synthetic.make_runs(tmp_path, steps=3)
    rows = analysis.load.rollouts(root=tmp_path)
    table = analysis.token_credit.advantage_by_token_kind(rows, analysis.reward_effects.rescore(rows))
    sums = table.groupby(["method", "reward"])[["tokens", "share"]].sum()
    assert sums.to_numpy() == pytest.approx(1.0) and table["gradient"].isna().all()
    kept = rows.assign(tokens=[list(r) for r in rows["response"]], logprobs=[[-0.5] * len(r) for r in rows["response"]])
    even = analysis.token_credit.advantage_by_token_kind(kept, analysis.reward_effects.rescore(kept))
    assert even["gradient"].to_numpy() == pytest.approx(even["share"].to_numpy())  # every token equally sure
    assert (
        figures.token_credit.advantage_by_token_kind(table).data
        and not figures.token_credit.advantage_by_token_kind(table.head(0)).data
    )


def test_the_furthest_from_the_teacher_may_be_what_a_student_never_does() -> None:
    made = [("teacher", "A", 30, 1.0), ("sft", "B", 15, 0.5), ("sft", "C", 15, 0.5)]
    table = pd.DataFrame([{"method": m, "start": "(start)", "next": x, "n": n, "share": s} for m, x, n, s in made])
    title = figures.tool_use.transitions(table).layout.title.text.replace("</b><br><b>", " ")
    assert "at the start, sft calls A 0% of the time, the teacher 100%" in title


def test_arguments_from_nowhere() -> None:
    row = synthetic.row("right", Random(0), 1)
    assert analysis.ungrounded.ungrounded_arguments(row) == []
    wrong = synthetic.row("argument", Random(0), 1)
    assert {argument for _, _, argument, _ in analysis.ungrounded.ungrounded_arguments(wrong)} <= {
        "a",
        "b",
    } and analysis.ungrounded.ungrounded_arguments(wrong)
    row["question"] = "Twice as many in an hour, 5% more"
    for value, odd in ((2, 0), (60, 0), (0.05, 0), (77, 1), ("hours", 0), ("zebra", 1), ([2, 78], 1), (None, 0)):
        row["messages"][0]["tool_calls"][0]["function"]["arguments"] = {"x": value}
        assert len(analysis.ungrounded.ungrounded_arguments(row)) == odd, value


def test_confusion_transitions_and_paths() -> None:
    row = synthetic.row("right", Random(0), 1) | {"method": "m", "outcome": "correct"}
    name = row["teacher_tools"][0]
    assert analysis.tool_use.path_of(row) == "teacher's calls, right"
    floats = [{"name": c["name"], "arguments": {k: float(v) for k, v in c["arguments"].items()}} for c in row["calls"]]
    assert analysis.tool_use.path_of(row | {"calls": floats}) == "teacher's calls, right"
    other = row | {"calls": [{"name": "sum_numbers", "arguments": {}}] * 2, "outcome": "wrong tool"}
    assert analysis.tool_use.path_of(other) == "other tools, wrong"
    table = analysis.tool_use.confusion(pd.DataFrame([row, other])).set_index(["step", "teacher", "student"])["n"]
    assert table.to_dict() == {(1, name, name): 1, (1, name, "sum_numbers"): 1, (2, "(no call)", "sum_numbers"): 1}
    moves = analysis.tool_use.transitions(pd.DataFrame([row, other])).set_index(["method", "start", "next"])["share"]
    assert moves["teacher", name, "(end)"] == 1 and moves["m", "sum_numbers", "sum_numbers"] == 0.5


def test_the_title_of_transitions_compares_what_the_teacher_does_too() -> None:
    row = synthetic.row("right", Random(0), 1) | {"method": "m", "outcome": "correct"}
    own = row | {"calls": [{"name": "never_the_teachers", "arguments": {}}] * 2}
    moves = analysis.tool_use.transitions(pd.DataFrame([own] * 30))
    title = figures.tool_use.transitions(moves).layout.title.text
    title = title.replace("<br>", " ").replace("<b>", "").replace("</b>", "")
    assert "at the start, m calls never_the_teachers 100%" in title and "the teacher 0%" in title


def test_figures_draw_and_say_so_when_empty(tmp_path: Path) -> None:
    synthetic.make_runs(tmp_path, tasks=10)
    rows = analysis.load.evaluations(root=tmp_path)
    tables = [
        (figures.tool_use.tool_paths, analysis.tool_use.tool_paths(rows)),
        (figures.tool_use.confusion, analysis.tool_use.confusion(rows)),
        (figures.tool_use.transitions, analysis.tool_use.transitions(rows)),
        (figures.tool_use.tool_jsd, analysis.tool_use.tool_jsd(rows)),
        (figures.ungrounded.ungrounded_calls, analysis.ungrounded.ungrounded_calls(rows)),
    ]
    for draw, table in tables:
        assert draw(table).data and any(c.isdigit() for c in draw(table).layout.title.text), draw
        assert not draw(table.head(0)).data
