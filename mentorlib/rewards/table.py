"""What differs between the rewards: a weight for each term, and the rule behind the term "tools"."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..core import Call
from .answers import Verdict

CALCULATOR_TOOLS = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "sum_numbers",
    "floor",
    "ceil",
    "round_number",
    "power",
    "sqrt",
    "abs_value",
    "modulo",
)
WRONG_SHARE = 0.2  # what is left of the tool term when the answer is wrong


@dataclass(frozen=True)
class Score:
    """One trajectory under one reward: ``total`` is the sum of ``terms[k] * weights[k]``, in the order of the terms.

    Terms lie in [0, 1]. ``judged`` is False when the answer could not be judged or the trajectory broke by our
    fault: the total then counts the answer as wrong, and must not be learnt from.
    """

    terms: dict[str, float]
    weights: dict[str, float]
    total: float
    reason: str
    judged: bool = True


Match: TypeAlias = Callable[[list[Call], list[Call]], float]  # (the student's calls, the teacher's calls) -> [0, 1]


def _names(calls: list[Call]) -> set[str]:
    return {call.name for call in calls}


def same_tools(student: list[Call], teacher: list[Call]) -> float:
    """1 if both used the same set of tools (MENTOR)."""
    return float(_names(student) == _names(teacher))


def any_tool(student: list[Call], teacher: list[Call]) -> float:
    """1 if some tool was used by both, or neither used any."""
    return float(bool(_names(student) & _names(teacher)) or not (student or teacher))


def f1_tools(student: list[Call], teacher: list[Call]) -> float:
    """F1 of the sets of tools; 1 if neither used any."""
    ours, theirs = _names(student), _names(teacher)
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def same_calls(student: list[Call], teacher: list[Call]) -> float:
    """1 if names and arguments are the teacher's, in order. Key order and 8 against 8.0 make no difference."""
    return float([call_key(call) for call in student] == [call_key(call) for call in teacher])


def as_many_calls(student: list[Call], teacher: list[Call]) -> float:
    """The smaller number of calls over the larger, whatever the tools; 1 if neither made any."""
    fewer, more = sorted((len(student), len(teacher)))
    return fewer / more if more else 1.0


def _canonical(value: Any) -> str:
    """A JSON value as text that is equal exactly when the values are (True is not 1, but 8.0 is 8)."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(json.dumps(key) + ":" + _canonical(item) for key, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _same_text(value: Any) -> str:
    try:
        return _canonical(value)
    except (RecursionError, ValueError):  # nested about as deep as JSON can be read, or an integer too long to print
        return f"unlike {id(value)}"


def call_key(call: Call) -> tuple[str, str]:
    """Equal for equal calls: the name, and the arguments as canonical text."""
    return call.name, _same_text(call.arguments)


# What differs between the rewards: a weight for each term, and the rule behind the term "tools".
TABLE: dict[str, tuple[Match | None, dict[str, float]]] = {
    "sparse": (None, {"correct": 0.9, "answered": 0.1}),
    "exact": (same_tools, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "partial": (any_tool, {"correct": 0.7, "tools": 0.3}),
    "none": (None, {"correct": 0.7, "clean": 0.1}),
    "f1": (f1_tools, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "strict": (same_calls, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "toolrl": (None, {"format": 1.0, "names": 6.0, "parameters": 6.0, "values": 6.0, "offset": -3.0}),
    "credit": (None, {"correct": 0.7, "progress": 0.3, "clean": 0.1}),
    "anneal": (f1_tools, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "count": (as_many_calls, {"correct": 0.7, "tools": 0.3, "clean": 0.1}),
    "null": (None, {"noise": 1.0}),
    "planted": (None, {"correct": 0.7, "gave_up": 1.0}),
}
RELEASED = ("sparse", "exact", "partial", "none", "f1")
CONTROLLING = ("null", "planted")
WHOLE = ("anneal", "count")  # keep the whole tool term when the answer is wrong: there it is the guide
NEEDS_CALLS = ("strict", "toolrl", "count")  # compare calls, so that the names of the teacher's tools do not do
NEEDS_RESULTS = ("credit",)  # compares what the calls gave


def _score(weights: dict[str, float], terms: dict[str, float], reason: str, judged: bool = True) -> Score:
    """A term that is not given is 0. The total is summed in the order of the terms, so that it can be recomputed."""
    terms = {name: terms.get(name, 0.0) for name in weights}
    return Score(terms, dict(weights), sum(terms[name] * weights[name] for name in terms), reason, judged)


def _said(verdict: Verdict) -> str:
    if verdict.correct is None:
        return f"the answer could not be judged ({verdict.how})"
    return "right answer" if verdict.correct else "wrong answer"
