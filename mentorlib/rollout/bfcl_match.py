"""Are these calls among those that a data set allows? BFCL's AST match, by its published rules (Python categories).

A possible answer is ``[{function: {parameter: [allowed values]}}, …]``, one entry a call; ``""`` among the allowed
values means that the parameter may be left out. The rules (gorilla.cs.berkeley.edu/blogs/8, BFCL v4):

- as many calls as the answer has, in any order; the function's name letter by letter;
- every required parameter, none that the schema or the answer does not name;
- the schema's type exactly (``true`` is no integer, ``5.0`` neither), but an integer will do for a float; or the type
  that the answer itself has, where it departs from the schema;
- texts without regard to case, spaces and ``, . / - _ * ^``, and with either quote;
- lists item by item in order (an empty one also where the parameter may be left out), objects key by key, each key with
  allowed values of its own, lists of objects in order.
"""

from collections.abc import Sequence
from typing import Any

from ..core import Call

Possible = list[dict[str, dict[str, list[Any]]]]
Schema = dict[str, Any]

_IGNORED = str.maketrans("'", '"', " ,./-_*^")
_PYTHON = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}


def mismatch(calls: Sequence[Call], possible: Possible, schemas: Sequence[Schema]) -> str | None:
    """Why calls are not what the answer allows, on one line; None if they are.

    Args:
        calls: what a policy did; the arguments as JSON gives them.
        possible: the answer, ``[]`` where no call is right.
        schemas: of the tools offered, as a Toolbox holds them.
    """
    if len(calls) != len(possible):
        return f"{len(calls)} calls, not {len(possible)}"
    parameters = {schema["function"]["name"]: schema["function"]["parameters"] for schema in schemas}
    left = list(calls)
    for answer in possible:  # each takes the first call that fits it, as BFCL does
        ((name, allowed),) = answer.items()
        faults = [_call_fault(call, name, allowed, parameters[name]) for call in left]
        if None not in faults:
            return faults[0]
        left.pop(faults.index(None))
    return None


def first_calls(possible: Possible) -> list[Call]:
    """The calls that an answer names first: each parameter's first value, left out where there is none but ``""``."""
    return [Call(name, _first(allowed)) for answer in possible for name, allowed in answer.items()]


def _first(allowed: dict[str, list[Any]]) -> dict[str, Any]:
    named = {key: [value for value in values if value != ""] for key, values in allowed.items()}
    return {key: _concrete(values[0]) for key, values in named.items() if values}


def _concrete(value: Any) -> Any:
    """An allowed value as a call holds it: in an object, the first of each key's allowed values."""
    if isinstance(value, dict):
        return _first(value)
    return [_concrete(item) if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def _call_fault(call: Call, name: str, allowed: dict[str, list[Any]], parameters: Schema) -> str | None:
    if call.name != name:
        return f"{call.name}, not {name}"
    for key in parameters.get("required") or ():
        if key not in call.arguments:
            return f"{name}: {key} is missing"
    for key, value in call.arguments.items():
        if key not in parameters["properties"] or key not in allowed:
            return f"{name}: no parameter {key}"
        if not _fits(value, allowed[key], parameters["properties"][key]):
            return f"{name}: {key} is {value!r:.60}, not one of {allowed[key]!r:.60}"
    for key, values in allowed.items():
        if key not in call.arguments and "" not in values:
            return f"{name}: {key} is missing"
    return None


def _fits(value: Any, allowed: list[Any], schema: Schema) -> bool:
    expected: Any = _PYTHON[schema["type"]]
    if expected is float and type(value) is int:
        value = _real(value)
    answered = _type_of_answer(allowed)
    if type(value) is not expected:  # then the answer's own type, and the very value
        return type(value) is answered and value in allowed
    inner = _PYTHON.get((schema.get("items") or {}).get("type", "")) if expected is list else None
    if inner and not any(not isinstance(a, list) or _items_fit(value, a, inner) for a in allowed):
        return False
    if answered not in (None, expected):
        return value in allowed
    if expected is dict:
        return any(_object_fits(value, a) for a in allowed if isinstance(a, dict))
    if inner is dict:
        return any(len(value) == len(a) and all(map(_object_fits, value, a)) for a in allowed if isinstance(a, list))
    if expected is list:
        return list(map(_plain, value)) in [list(map(_plain, a)) for a in allowed if isinstance(a, list) or a == ""]
    return _plain(value) in map(_plain, allowed)


def _real(value: int) -> float | int:
    """The integer as a float, but for one that no float can hold."""
    try:
        return float(value)
    except OverflowError:
        return value


def _type_of_answer(allowed: list[Any]) -> type | None:
    return next((type(a) for a in allowed if a != ""), None)


def _items_fit(items: list[Any], allowed: list[Any], inner: type) -> bool:
    return all(type(item) in (inner, _type_of_answer(allowed)) for item in items)


def _object_fits(value: Any, allowed: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(allowed, dict):
        return False
    known = all(key in allowed and _plain(item) in map(_plain, allowed[key]) for key, item in value.items())
    return known and all(key in value or "" in values for key, values in allowed.items())


def _plain(value: Any) -> Any:
    """A text with nothing left of case, spaces and punctuation."""
    return value.translate(_IGNORED).lower() if isinstance(value, str) else value
