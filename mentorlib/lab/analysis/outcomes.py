"""What became of a trajectory: one outcome a row, by fixed rules, without a judge model."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...core import Call
from ...rewards.table import call_key

OUTCOMES = {
    "correct": "the final answer is the gold answer",
    "right tools, wrong answer": "the right value was in hand, or the teacher's calls were made, but not answered",
    "wrong argument": "the teacher's tools, called with something else than the teacher did",
    "wrong tool": "the tools used are not the teacher's: one missing, one too many, or another",
    "tool error ignored": "the answer was given on top of a tool's error message",
    "invented tool": "a tool was called that the task does not offer",
    "malformed call": "a tool call that is not JSON, or is not closed",
    "gave up": "the last turn holds neither a call nor an answer",
    "ran out": "the turns or the tokens were used up",
    "infrastructure failure": "the sandbox failed or the answer could not be judged: left out of accuracy",
}


def _derive(row: Mapping[str, Any]) -> dict[str, Any]:
    offered, teacher = set(row["tools"]), set(row["teacher_tools"])
    names = [call["name"] for call in row["calls"]]
    used = set(names)
    hits = len(used & teacher)
    precision = hits / len(used) if used else math.nan if teacher else 1.0
    recall = hits / len(teacher) if teacher else math.nan if used else 1.0
    f1 = 2 * hits / (len(used) + len(teacher)) if used or teacher else 1.0
    return {
        "outcome": outcome(row),
        "n_calls": len(names),
        "n_invented": sum(name not in offered for name in names),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def outcome(row: Mapping[str, Any]) -> str:
    """Name what became of a stored row: the first of these rules that fits gives one of OUTCOMES.

    ours; correct; invented tool; malformed call; ran out; gave up; then for a wrong answer: tool error ignored (the
    last tool result is an error); right tools, wrong answer (the last tool gave the gold value, or the calls are the
    teacher's); wrong tool (another set of tools than the teacher's); wrong argument (what is left).
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
    calls, teacher_calls = counted(row["calls"]), counted(row.get("teacher_calls") or ())
    if (results and _same(results[-1], row["answer"])) or (calls and calls == teacher_calls):
        return "right tools, wrong answer"
    return "wrong argument" if {c["name"] for c in row["calls"]} == set(row["teacher_tools"]) else "wrong tool"


def counted(calls: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Stored calls as a bag: which call, arguments and all, was made how often (8 and 8.0 are one argument)."""
    return Counter(call_key(Call(c["name"], c["arguments"])) for c in calls)


def _same(a: str, b: str) -> bool:
    try:
        return math.isclose(float(a), float(str(b).replace(",", "")), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return a == str(b).strip()
