"""What the keys of a stored trajectory hold: rows may come from others, and whatever reads them relies on it."""

from collections.abc import Callable, Mapping
from typing import Any

_LARGEST = 1e300  # NaN and infinities are not within it, and what is computed from numbers that are stays finite
_NUMBERS, _NULL = {int, float}, {type(None)}


def wrong_key(row: Mapping[str, Any]) -> str:
    """What is wrong with a stored trajectory: its first key that holds another type than it must; "" if none does."""
    for key, value in row.items():
        kind = type(value)
        if kind is str and key in _TEXTS:
            continue
        types, inside, words = _KINDS.get(key, _ANYTHING)
        if types and (
            kind not in types
            or (kind in _NUMBERS and not -_LARGEST < value < _LARGEST)
            or (inside and value is not None and not inside(value))
        ):
            return f"{key}: not {words}"
    if len(row.get("logprobs", ())) != len(row.get("tokens", ())):
        return "tokens and logprobs: not as many of these as of those"
    return ""


def is_texts(value: Any) -> bool:
    """Whether this is a list of texts."""
    return type(value) is list and set(map(type, value)) <= {str}


def is_calls(value: Any) -> bool:
    """Whether this is a list of calls: objects with a name, and arguments that a model may have written wrong."""
    if type(value) is not list:
        return False
    for call in value:
        if type(call) is not dict or type(call.get("name")) is not str or "arguments" not in call:
            return False
    return True


def is_known_calls(value: Any) -> bool:
    """Whether this is what a teacher called: null, or a list of calls whose arguments are objects."""
    return value is None or (is_calls(value) and all([type(call["arguments"]) is dict for call in value]))


def _are_messages(value: list[Any]) -> bool:
    for message in value:
        if type(message) is not dict or type(message.get("role")) is not str:
            return False
        for key in ("content", "reasoning_content", "name"):
            if key in message and type(message[key]) is not str and message[key] is not None:
                return False
        if calls := message.get("tool_calls"):
            if type(calls) is not list or not all([type(call) is dict for call in calls]):
                return False
            if not is_calls([call.get("function") for call in calls]):
                return False
    return True


def _are_numbers(value: dict[str, Any]) -> bool:
    return all([type(number) in _NUMBERS and -_LARGEST < number < _LARGEST for number in value.values()])


def _are_logprobs(value: list[Any]) -> bool:
    kinds = set(map(type, value)) - {float} - _NULL
    if int in kinds:
        return all([-_LARGEST < p < _LARGEST for p in value if type(p) is int]) and _are_logprobs(
            [p for p in value if type(p) is not int]
        )
    return not kinds or (kinds == {str} and {p for p in value if type(p) is str} == {"nan"})


Inside = Callable[[Any], bool] | None
_ANYTHING: tuple[set[type], Inside, str] = (set(), None, "")
_TEXTS = {
    *("task_id", "suite", "split", "question", "answer", "metric", "response", "stop"),
    *("reward", "reason", "failure", "unjudged"),
}
_KINDS: dict[str, tuple[set[type], Inside, str]] = {  # types, what else must hold, in words
    **dict.fromkeys(_TEXTS, ({str}, None, "a text")),
    **dict.fromkeys(("step", "group", "sample"), (_NUMBERS, None, "a number")),
    **dict.fromkeys(
        ("total", "advantage", "demonstration", "n_tokens", "word_f1"),
        (_NUMBERS | _NULL, None, "a finite number or null"),
    ),
    **dict.fromkeys(("terms", "weights"), ({dict}, _are_numbers, "an object of finite numbers")),
    **dict.fromkeys(("teacher_tools", "teacher_results", "tools", "tokens"), ({list}, is_texts, "a list of texts")),
    "logprobs": ({list}, _are_logprobs, 'a list of numbers, null and "nan"'),
    "correct": ({bool, type(None)}, None, "true, false or null"),
    "calls": ({list}, is_calls, 'a list of {"name", "arguments"}'),
    "teacher_calls": ({list, type(None)}, is_known_calls, 'a list of {"name", "arguments"} or null'),
    "messages": ({list}, _are_messages, "a list of messages with a role, a text and calls of a name and arguments"),
}
