"""BFCL's AST match of tool calls against the allowed ones, by its published rules (Python categories).

A possible answer is ``[{function: {parameter: [allowed values]}}, …]``, one entry a call; ``""`` among the allowed
values means that the parameter may be omitted. The rules (gorilla.cs.berkeley.edu/blogs/8, BFCL v4):

- as many calls as the answer has, in any order; exactly the function's name;
- every required parameter, and none that is missing in the schema or the answer;
- exactly the schema's type (neither ``true`` nor ``5.0`` is an integer), except that an integer is accepted for a
  float; or the type of the answer itself, where it differs from the schema;
- texts are compared without case, spaces and ``, . / - _ * ^``; both quotes are equal;
- lists item by item in order (also an empty one where the parameter may be omitted), objects key by key, each key with
  its own allowed values, lists of objects in order.
"""

from collections.abc import Sequence
from typing import Any

from ..core import Call

Possible = list[dict[str, dict[str, list[Any]]]]
Schema = dict[str, Any]

_IGNORED = str.maketrans("'", '"', " ,./-_*^")
_PYTHON = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}


def mismatch(calls: Sequence[Call], possible: Possible, schemas: Sequence[Schema]) -> str | None:
    """The first reason why calls do not match the answer, on one line; None if they match.

    Args:
        calls: a policy's calls, with the arguments as parsed from JSON.
        possible: the answer, ``[]`` if no call is right.
        schemas: of the tools offered (see Toolbox).
    """
    if len(calls) != len(possible):
        return f"{len(calls)} calls, not {len(possible)}"
    parameters = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    left = list(calls)
    for answer in possible:  # each is matched with the first call that fits, as BFCL does
        ((name, allowed),) = answer.items()
        reasons = [_call_mismatch(call, name, allowed, parameters[name]) for call in left]
        if None not in reasons:
            return reasons[0]
        left.pop(reasons.index(None))
    return None


def first_calls(possible: Possible) -> list[Call]:
    """The calls with each parameter's first allowed value; parameters that allow only ``""`` are omitted."""
    return [Call(name, _first_values(allowed)) for answer in possible for name, allowed in answer.items()]


def _first_values(allowed: dict[str, list[Any]]) -> dict[str, Any]:
    named = {key: [value for value in values if value != ""] for key, values in allowed.items()}
    return {key: _first_value(values[0]) for key, values in named.items() if values}


def _first_value(value: Any) -> Any:
    """An allowed value as an argument: objects list allowed values of each key."""
    if isinstance(value, dict):
        return _first_values(value)
    if isinstance(value, list):
        return [_first_values(item) if isinstance(item, dict) else item for item in value]
    return value


def _call_mismatch(call: Call, name: str, allowed: dict[str, list[Any]], parameters: Schema) -> str | None:
    if call.name != name:
        return f"{call.name}, not {name}"
    for key in parameters.get("required") or ():
        if key not in call.arguments:
            return f"{name}: {key} is missing"
    for key, value in call.arguments.items():
        if key not in parameters["properties"] or key not in allowed:
            return f"{name}: no parameter {key}"
        if not _is_allowed(value, allowed[key], parameters["properties"][key]):
            return f"{name}: {key} is {value!r:.60}, not one of {allowed[key]!r:.60}"
    for key, values in allowed.items():
        if key not in call.arguments and "" not in values:
            return f"{name}: {key} is missing"
    return None


def _is_allowed(value: Any, allowed: list[Any], schema: Schema) -> bool:
    expected: Any = _PYTHON[schema["type"]]
    if expected is float and type(value) is int:
        value = _as_float(value)
    answered = _answer_type(allowed)
    if type(value) is not expected:  # then it has to be of the answer's type, and equal without normalisation
        return type(value) is answered and value in allowed
    inner = _PYTHON.get((schema.get("items") or {}).get("type", "")) if expected is list else None
    if inner and not any(not isinstance(a, list) or _item_types_match(value, a, inner) for a in allowed):
        return False
    if answered not in (None, expected):
        return value in allowed
    if expected is dict:
        return any(_object_matches(value, a) for a in allowed if isinstance(a, dict))
    if inner is dict:
        return any(len(value) == len(a) and all(map(_object_matches, value, a)) for a in allowed if isinstance(a, list))
    if expected is list:
        return list(map(_normalized, value)) in [
            list(map(_normalized, a)) for a in allowed if isinstance(a, list) or a == ""
        ]
    return _normalized(value) in map(_normalized, allowed)


def _as_float(value: int) -> float | int:
    """The integer as a float; unchanged if it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return value


def _answer_type(allowed: list[Any]) -> type | None:
    return next((type(a) for a in allowed if a != ""), None)


def _item_types_match(items: list[Any], allowed: list[Any], inner: type) -> bool:
    return all(type(item) in (inner, _answer_type(allowed)) for item in items)


def _object_matches(value: Any, allowed: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(allowed, dict):
        return False
    known = all(key in allowed and _normalized(item) in map(_normalized, allowed[key]) for key, item in value.items())
    return known and all(key in value or "" in values for key, values in allowed.items())


def _normalized(value: Any) -> Any:
    """A text without case, spaces and punctuation."""
    return value.translate(_IGNORED).lower() if isinstance(value, str) else value
