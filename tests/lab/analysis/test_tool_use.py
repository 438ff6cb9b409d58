"""Tools called, against the teacher's: sets, distributions, paths, and call by call."""

from pathlib import Path
from random import Random

import pandas as pd
import synthetic

from mentorlib.lab import analysis, figures


def test_off_reference_by_hand() -> None:
    call = {"name": "add", "arguments": {"a": 1, "b": 2}}
    rows = synthetic.evaluated_rows({"sft": [True, True, True, True, False]}).assign(
        teacher_tools=[["add"]] * 4 + [["add"]],
        teacher_calls=[[call]] * 5,
        calls=[
            [call],
            [{"name": "add", "arguments": {"b": 2.0, "a": 1}}],
            [call, call],
            [call | {"name": "power"}],
            [],
        ],
    )
    (result,) = analysis.tool_use.off_reference(rows).to_dict("records")
    assert result == {"method": "sft", "n": 4, "other_tools": 0.25, "other_calls": 0.5}
    assert analysis.tool_use.off_reference(rows.iloc[4:]).empty
    assert analysis.tool_use.off_reference(
        rows.drop(columns="teacher_calls", errors="ignore")
    ).empty  # rows of an older library


def test_tool_use(rows: pd.DataFrame) -> None:
    use = analysis.tool_use.tool_overlap(rows).set_index("method")
    assert use["f1"].idxmax() == "grpo-exact"
    assert use["invented"].between(0, 1).all() and (use["teacher_calls"] == 1).all()


def test_infrastructure_failures_are_no_tool_use(rows: pd.DataFrame) -> None:
    failed = rows.assign(stop=rows["stop"].mask(rows.index % 3 == 0, "infrastructure"))
    kept = failed[failed.index % 3 != 0]
    assert 0 < len(kept) < len(rows)
    use = analysis.tool_use
    for table in (use.tool_overlap, use.tool_jsd, use.confusion, use.transitions, analysis.ungrounded.ungrounded_calls):
        pd.testing.assert_frame_equal(table(failed), table(kept))


def test_the_furthest_from_the_teacher_may_be_what_a_student_never_does() -> None:
    made = [("teacher", "A", 30, 1.0), ("sft", "B", 15, 0.5), ("sft", "C", 15, 0.5)]
    table = pd.DataFrame([{"method": m, "start": "(start)", "next": x, "n": n, "share": s} for m, x, n, s in made])
    title = figures.tool_use.transitions(table).layout.title.text.replace("</b><br><b>", " ")
    assert "at the start, sft calls A 0% of the time, the teacher 100%" in title


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
