"""Rules that compare a student's tool calls with the teacher's: (student's calls, teacher's calls) -> [0, 1]."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from ..core import Call

Match: TypeAlias = Callable[[list[Call], list[Call]], float]
WRONG_SHARE = 0.2  # the share of the tool term that a wrong answer keeps (MENTOR)


def tool_names(calls: Iterable[Call]) -> set[str]:
    """The names of the tools called."""
    return {call.name for call in calls}


def same_tools(student: list[Call], teacher: list[Call]) -> float:
    """1 if both used the same set of tools (MENTOR)."""
    return float(tool_names(student) == tool_names(teacher))


def any_tool(student: list[Call], teacher: list[Call]) -> float:
    """1 if some tool was used by both, or neither used any."""
    return float(bool(tool_names(student) & tool_names(teacher)) or not (student or teacher))


def f1_tools(student: list[Call], teacher: list[Call]) -> float:
    """F1 of the sets of tools; 1 if neither used any."""
    used, wanted = tool_names(student), tool_names(teacher)
    return 2 * len(used & wanted) / (len(used) + len(wanted)) if used or wanted else 1.0


def same_calls(student: list[Call], teacher: list[Call]) -> float:
    """1 if names and arguments are the teacher's, in order. Key order and 8 against 8.0 make no difference."""
    return float([call_key(call) for call in student] == [call_key(call) for call in teacher])


def same_beginning(student: list[Call], teacher: list[Call]) -> float:
    """How many first calls are the teacher's, over the larger number of calls; 1 for the same sequence."""
    keys = [[call_key(call) for call in calls] for calls in (student, teacher)]
    alike = next((i for i, (ours, gold) in enumerate(zip(*keys, strict=False)) if ours != gold), min(map(len, keys)))
    longer = max(map(len, keys))
    return alike / longer if longer else 1.0


def as_many_calls(student: list[Call], teacher: list[Call]) -> float:
    """The smaller number of calls over the larger, whatever the tools; 1 if neither made any."""
    fewer, more = sorted((len(student), len(teacher)))
    return fewer / more if more else 1.0


def call_key(call: Call) -> tuple[str, str]:
    """Equal for equal calls: the name, and the arguments as canonical text."""
    return call.name, canonical_json(call.arguments)


def canonical_json(value: Any) -> str:
    """A JSON value as text that is equal exactly when the values are (True is not 1, but 8.0 is 8)."""
    try:
        return _canonical(value)
    except (RecursionError, ValueError):  # nested about as deep as JSON can be read, or an integer too long to print
        return f"not comparable: {id(value)}"


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(sorted(json.dumps(key) + ":" + _canonical(item) for key, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)
