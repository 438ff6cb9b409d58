"""How a trajectory ended: one outcome a row, by fixed rules, without a judge model."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...core import Call
from ...rewards.matching import call_key

OUTCOMES = {
    "correct": "the final answer is the gold answer",
    "right tools, wrong answer": "the last tool gave the right value, or the calls are the teacher's",
    "wrong argument": "the teacher's tools, called with other arguments or not as often",
    "wrong tool": "the tools used are not the teacher's: one missing, one too many, or another",
    "wrong answer": "a wrong answer to a task that no teacher did",
    "tool error ignored": "answered although the last tool result is an error message",
    "invented tool": "a tool was called that the task does not offer",
    "malformed call": "a tool call that is not JSON, or is not closed",
    "gave up": "the last turn holds neither a call nor an answer",
    "ran out": "the limit on turns or tokens was reached",
    "infrastructure failure": "the sandbox failed or the answer could not be judged: left out of accuracy",
}


def classify_outcome(row: Mapping[str, Any]) -> str:
    """The outcome of a stored row: the first of these rules that applies gives one of OUTCOMES.

    infrastructure failure; correct; invented tool; malformed call; ran out; gave up; then for a wrong answer: tool
    error ignored (the last tool result is an error); right tools, wrong answer (the last tool gave the gold value, or
    the calls are the teacher's); wrong answer (no teacher did the task); wrong tool (another set of tools than the
    teacher's); wrong argument (the rest).
    """
    if row["stop"] == "infrastructure" or row["correct"] is None or row["correct"] != row["correct"]:
        return "infrastructure failure"
    if row["correct"]:
        return "correct"
    if any(call["name"] not in row["tools"] for call in row["calls"]):
        return "invented tool"
    if row["stop"] == "malformed":
        return "malformed call"
    if row["stop"] in ("turn_limit", "length"):
        return "ran out"
    if row["stop"] == "gave_up":
        return "gave up"
    if any("<tool_call>" in str(m.get("content")) for m in row["messages"] if m["role"] == "assistant"):
        return "malformed call"
    results = [str(m.get("content")).strip() for m in row["messages"] if m["role"] == "tool"]
    if results and results[-1].startswith("error:"):
        return "tool error ignored"
    calls, teacher_calls = call_counts(row["calls"]), call_counts(row.get("teacher_calls") or ())
    if (results and _same_value(results[-1], row["answer"])) or (calls and calls == teacher_calls):
        return "right tools, wrong answer"
    if not has_teacher(row):
        return "wrong answer"
    return "wrong argument" if {c["name"] for c in row["calls"]} == set(row["teacher_tools"]) else "wrong tool"


def has_teacher(row: Mapping[str, Any]) -> bool:
    """Whether a teacher did the row's task, with or without tools."""
    return row.get("teacher_calls", []) is not None or bool(row["teacher_tools"])


def with_teacher(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose task a teacher did."""
    teachers = rows.reindex(columns=["teacher_calls", "teacher_tools"]).to_dict("records")
    return rows[np.array([has_teacher(row) for row in teachers], bool)]


def without_failures(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows whose infrastructure did not fail: what the student did, judged or not."""
    return rows[rows["stop"] != "infrastructure"]


def derived_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What ``load`` adds to a stored row: outcome, n_calls, n_invented (calls of tools that the task does not offer),
    precision, recall, f1 of the set of tools called, invented ones included, against the teacher's, and agreement (the
    same as f1 of calls by name, repeated ones counted: 1 where student and teacher call the same tools as often). NaN
    where no teacher did the task."""
    used, teacher = {call["name"] for call in row["calls"]}, set(row["teacher_tools"])
    hits = len(used & teacher)
    common = Counter(call["name"] for call in row["calls"]) & Counter(row["teacher_tools"])
    n = len(row["calls"]) + len(row["teacher_tools"])
    columns = {
        "outcome": classify_outcome(row),
        "n_calls": len(row["calls"]),
        "n_invented": sum(call["name"] not in row["tools"] for call in row["calls"]),
    }
    if not has_teacher(row):
        return columns | dict.fromkeys(("precision", "recall", "f1", "agreement"), math.nan)
    return columns | {
        "precision": hits / len(used) if used else math.nan if teacher else 1.0,
        "recall": hits / len(teacher) if teacher else math.nan if used else 1.0,
        "f1": 2 * hits / (len(used) + len(teacher)) if used or teacher else 1.0,
        "agreement": 2 * common.total() / n if n else 1.0,
    }


def call_counts(calls: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """How often each stored call was made, name and arguments together (8 and 8.0 are one argument)."""
    return Counter(call_key(Call(c["name"], c["arguments"])) for c in calls)


def outcome_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each outcome occurs. In: rows of ``evaluations``. Out: suite, method, outcome, n, share."""
    return column_shares(rows, "outcome")


def stop_shares(rows: pd.DataFrame) -> pd.DataFrame:
    """How often each stop occurs. In: rows of ``evaluations``. Out: suite, method, stop, n, share."""
    return column_shares(rows, "stop")


def column_shares(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """How often each value of a column occurs, by suite and method. Out: suite, method, the column, n, share."""
    counts = rows.groupby(["suite", "method", column], sort=False).size().rename("n").reset_index()
    return counts.assign(share=counts["n"] / counts.groupby(["suite", "method"])["n"].transform("sum"))


def _same_value(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(str(b).replace(",", "")), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return a == str(b).strip()
