"""Stored rows (JSON Lines) as what rewards take: a trajectory and a reference."""

import json
from collections.abc import Mapping
from numbers import Integral
from typing import Any, get_args

from ..core import Call, InputError, Metric, Reference, Stop, Trajectory, end_response, tool_messages, without_end
from ..runs.rows import are_messages, is_known_calls, is_texts


def stored_trajectory(row: Mapping[str, Any]) -> Trajectory:
    """The trajectory of a stored row, without token ids, but their number.

    From its ``messages``, whatever the model's format; where these are not a run's (from the first assistant turn on),
    from the text of the response.
    """
    complete, text, task = ended(row), row["response"], str(row.get("task_id", ""))
    if complete:
        text = end_response(text)  # of a model with another end token
    if _is_turns(row.get("messages")) and row.get("stop") in get_args(Stop):
        trajectory = Trajectory(task, list(row["messages"]), text, row["stop"])
    else:
        trajectory = Trajectory.from_response(text, task)
        if row.get("stop") == "infrastructure":
            trajectory.stop = "infrastructure"
        elif not complete:
            trajectory.stop = "length"
    if isinstance(row.get("n_tokens"), Integral):
        trajectory.n_sampled = int(row["n_tokens"])
    return trajectory


def ended(row: Mapping[str, Any]) -> bool | None:
    """Whether a row's response ended by itself, by its keys or its end token; None if neither tells."""
    for key in ("stop", "finish_reason"):
        if row.get(key) in ("length", "max_tokens"):
            return False
        if row.get(key) in (*get_args(Stop), "stop", "eos", "end_turn", "tool_calls"):
            return True
    return True if without_end(row["response"]) is not None else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_turns(value: Any) -> bool:
    """Whether these are assistant and tool messages as a run stores them, with texts and calls that were parsed."""
    return (
        are_messages(value)
        and value != []
        and all(
            message["role"] in ("assistant", "tool")
            and _is_text(message.get("content"))
            and is_known_calls([call["function"] for call in message.get("tool_calls") or ()])
            for message in value
        )
    )


_REQUIRED = ("response", "answer", "teacher_tools")
_CHECKS = {  # key: (check, what it must be); jsonschema takes a millisecond a row, more than the rewards do
    "response": (_is_text, "a string"),
    "answer": (_is_text, "a string"),
    "teacher_tools": (is_texts, "a list of strings"),
    "teacher_calls": (is_known_calls, 'a list of {"name", "arguments"}'),
    "teacher_results": (is_texts, "a list of strings"),
    "tools": (is_texts, "a list of strings"),
    "metric": (lambda value: value in get_args(Metric), f"one of {', '.join(get_args(Metric))}"),
    "prompt": (lambda value: isinstance(value, str | list), "a string"),  # a chat is not read
}


def parse_row(line: bytes) -> dict[str, Any]:
    """One stored row, checked. Raises InputError with what is wrong and what to give."""
    try:
        row: dict[str, Any] = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a JSON object in UTF-8: {error}") from error
    if not isinstance(row, dict):
        raise InputError("not a JSON object: give one object a line")
    for key, (check, expected) in _CHECKS.items():
        if key not in row and key in _REQUIRED:
            raise InputError(f"{key}: missing; give {expected}")
        if key in row and not check(row[key]):
            raise InputError(f"{key}: not {expected}; fix it" + ("" if key in _REQUIRED else ", or leave it out"))
    if row.get("teacher_calls") and {call["name"] for call in row["teacher_calls"]} != set(row["teacher_tools"]):
        raise InputError("teacher_calls: other names than in teacher_tools; make them agree")
    return row


def stored_reference(row: Mapping[str, Any]) -> Reference:
    """The teacher's part of a stored row, as far as the row holds it.

    Its messages have the calls and the results that the row gives, so that ``Reward.missing`` can tell what it lacks.
    ``teacher_calls`` of null and no ``teacher_tools`` say that there is no teacher; without the key, that it used none.
    """
    stored, results = row.get("teacher_calls", []), row.get("teacher_results")
    known = bool(stored) or (stored is not None and not row["teacher_tools"])
    calls = [Call(call["name"], call["arguments"]) for call in (stored if isinstance(stored, list) else ())]
    messages = [{"role": "assistant", "content": "", "tool_calls": [call.message for call in calls]}] if known else []
    messages += tool_messages(results if isinstance(results, list) else [])
    names_only = [Call(name, {}) for name in row["teacher_tools"]]
    return Reference(str(row.get("task_id", "")), messages, calls or names_only, str(row["answer"]))
