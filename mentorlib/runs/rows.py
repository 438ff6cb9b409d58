"""What the keys of a run's files hold: a run may come from others, and whatever reads it relies on that."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

_LARGEST = 1e300  # NaN and infinities are not within it, and what is computed from numbers that are stays finite
_NUMBERS, _NULL = {int, float}, {type(None)}


def wrong_key(row: Mapping[str, Any]) -> str:
    """What is wrong with a stored trajectory: its first key that holds another type than it must; "" if none does."""
    if wrong := _wrong(row, _KINDS):
        return wrong
    if len(row.get("logprobs", ())) != len(row.get("tokens", ())):
        return "tokens and logprobs: not as many of these as of those"
    return ""


def wrong_metric(row: Mapping[str, Any]) -> str:
    """As `wrong_key`, of a line of metrics.jsonl."""
    return _wrong(row, _METRICS) if "step" in row else "step: missing"


def wrong_info(info: Mapping[str, Any]) -> str:
    """As `wrong_key`, of run.json."""
    return _wrong(info, _INFO)


def wrong_parameter(parameters: Mapping[str, Any]) -> str:
    """As `wrong_key`, of the parameters by which analyses tell methods apart; another notebook may use the names."""
    return _wrong(parameters, _PARAMETERS)


def wrong_result(entry: Any) -> str:
    """As `wrong_key`, of an entry of results.json."""
    if type(entry) is not dict or _RESULT.keys() - entry.keys():
        return f"not an object with {', '.join(_RESULT)}"
    if (entry["rows"] is None) != (entry["query"] is None):
        return "rows and query: one without the other"
    return _wrong(entry, _RESULT)


def _wrong(row: Mapping[str, Any], kinds: "Mapping[str, Kind]") -> str:
    for key, value in row.items():
        kind = type(value)
        types, inside, words = kinds.get(key, _ANYTHING)
        if types and (
            kind not in types
            or (kind in _NUMBERS and not -_LARGEST < value < _LARGEST)
            or (inside and value is not None and not inside(value))
        ):
            return f"{key}: not {words}"
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


def are_messages(value: Any) -> bool:
    """Whether these are messages as they are stored: each with a role, a text, and calls as objects."""
    if type(value) is not list:
        return False
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


def _is_time(value: str) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None  # without a zone it has no distance from one that has
    except ValueError:
        return False


def _are_names(value: Any) -> bool:
    """Folders' names: a path would lead out of the folder of runs."""
    return is_texts(value) and all([name.strip(".") and "/" not in name and "\0" not in name for name in value])


def _are_attempts(value: list[Any]) -> bool:
    for attempt in value:
        if type(attempt) is not dict or type(time := attempt.get("time")) is not str or not _is_time(time):
            return False
    return True


def _is_interval(value: list[Any]) -> bool:
    return len(value) == 2 and all([end is None or _are_numbers({"": end}) for end in value])


Kind = tuple[set[type], Callable[[Any], bool] | None, str]  # types, what else must hold, in words
_ANYTHING: Kind = (set(), None, "")
_TEXTS = {
    *("task_id", "suite", "split", "question", "answer", "metric", "response", "stop"),
    *("reward", "reason", "failure", "unjudged"),
}
_NUMBER: Kind = (_NUMBERS, None, "a finite number")
_NUMBER_OR_NULL: Kind = (_NUMBERS | _NULL, None, "a finite number or null")
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_TEXTS, ({str}, None, "a text")),
    **dict.fromkeys(("step", "group", "sample"), (_NUMBERS, None, "a number")),
    **dict.fromkeys(("total", "advantage", "demonstration", "n_tokens", "word_f1"), _NUMBER_OR_NULL),
    **dict.fromkeys(("terms", "weights"), ({dict}, _are_numbers, "an object of finite numbers")),
    **dict.fromkeys(("teacher_tools", "teacher_results", "tools", "tokens"), ({list}, is_texts, "a list of texts")),
    "logprobs": ({list}, _are_logprobs, 'a list of numbers, null and "nan"'),
    "correct": ({bool, type(None)}, None, "true, false or null"),
    "calls": ({list}, is_calls, 'a list of {"name", "arguments"}'),
    "teacher_calls": ({list, type(None)}, is_known_calls, 'a list of {"name", "arguments"} or null'),
    "messages": ({list}, are_messages, "a list of messages with a role, a text and calls of a name and arguments"),
}
_METRICS: dict[str, Kind] = {
    "step": _NUMBER,
    **dict.fromkeys(("kl", "entropy", "loss", "reward", "accuracy"), _NUMBER_OR_NULL),
}
_TEXTS_BY_NAME: Kind = ({dict}, lambda value: is_texts(list(value.values())), "an object of texts")
_INFO: dict[str, Kind] = {
    **dict.fromkeys(("name", "status"), ({str}, None, "a text")),
    "git": ({str, type(None)}, None, "a text or null"),
    "created": ({str}, _is_time, "a time with its zone"),
    "finished": ({str, type(None)}, _is_time, "a time with its zone, or null"),
    "parameters": ({dict}, None, "an object"),
    **dict.fromkeys(("versions", "data"), _TEXTS_BY_NAME),
    "inputs": ({dict}, lambda value: set(map(type, value.values())) <= {dict}, "an object of objects"),
    "compares": ({list}, _are_names, "a list of runs' names"),
    "reopened": ({list}, _are_attempts, "a list of objects with a time"),
    "corrected": ({list}, None, "a list"),
}
_PARAMETERS: dict[str, Kind] = {
    **dict.fromkeys(("method", "reward", "student", "data", "suite"), ({str, type(None)}, None, "a text or null")),
    **dict.fromkeys(("seed", "learning_rate", "groups", "group_size"), _NUMBER),
    "eval_temperature": _NUMBER_OR_NULL,
}
_RESULT: dict[str, Kind] = {
    "value": (_NUMBERS | _NULL | {bool, str}, None, "a finite number, a text, true, false or null"),
    "ci": ({list, type(None)}, _is_interval, "null or two finite numbers"),
    "n": _NUMBER_OR_NULL,
    **dict.fromkeys(("rows", "query"), ({str, type(None)}, None, "a text or null")),
}
