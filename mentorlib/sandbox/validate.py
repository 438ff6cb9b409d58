"""Reading a call and checking its arguments against a JSON schema."""

import json
import math
import typing
from typing import Any

from ..core import MAX_CALL, InputError
from . import worker


def check_value(value: Any, depth: int = worker.MAX_DEPTH) -> None:
    """ValueError if a parsed JSON value holds what does not survive the next step: infinity, depth, lone surrogates."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("it holds a number that is not finite")
    elif isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError
    elif isinstance(value, list | dict):
        if depth == 0:
            raise ValueError(f"it is nested deeper than {worker.MAX_DEPTH}")
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            check_value(item, depth - 1)


MAX_INTEGER = 1_000  # digits of an integer that a call may hold
Schema = dict[str, Any]


class ToolError(ValueError):
    """A call that does not fit its tool: one line that a policy can learn from."""


# --- reading a call ------------------------------------------------------------------------------------------------


def _brief(value: Any) -> str:
    """A value as JSON on one line, cut to what a message can hold."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ToolError(f"the key {_brief(next(k for k in keys if keys.count(k) > 1))} stands twice in the call")
    return found


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER:
        raise ToolError(f"the call holds an integer of {len(text)} digits: at most {MAX_INTEGER}")
    return int(text)


def _constant(text: str) -> Any:
    raise ToolError(f"the call holds {text}, which is not JSON: numbers must be finite")


_read = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_constant=_constant).decode


def _parse(raw: str) -> dict[str, Any]:
    """The call's JSON as ``{"name": str, "arguments": dict}`` or ToolError."""
    if len(raw) > MAX_CALL:
        raise ToolError(f"the call is {len(raw):,} characters long: at most {MAX_CALL:,}")
    try:
        call = _read(raw)
        check_value(call)
    except ToolError:
        raise
    except json.JSONDecodeError as e:
        raise ToolError(f"the call is not JSON: {e.msg} at character {e.pos + 1}") from None
    except RecursionError:
        raise ToolError("the call is nested too deep") from None
    except UnicodeEncodeError:
        raise ToolError("the call holds half a surrogate pair, which is not text") from None
    except ValueError as e:
        raise ToolError(f"the call cannot be read: {e}") from None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ToolError('a call must be {"name": "…", "arguments": {…}}')
    if not isinstance(call.get("arguments"), dict):
        raise ToolError(f"`arguments` must be an object by argument name, got {_brief(call.get('arguments'))}")
    if len(call) > 2:
        extra = next(key for key in call if key not in ("name", "arguments"))
        raise ToolError(f"a call has the keys name and arguments only, got {_brief(extra)}")
    return call


# The types of JSON schema, and the Python names that some data sets (BFCL) use for them.
_TYPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "integer": ("an integer", (int,)),
    "number": ("a number", (int, float)),
    "float": ("a number", (int, float)),
    "string": ("a text", (str,)),
    "boolean": ("true or false", (bool,)),
    "array": ("a list", (list,)),
    "tuple": ("a list", (list,)),
    "object": ("an object", (dict,)),
    "dict": ("an object", (dict,)),
    "null": ("null", (type(None),)),
    "any": ("any value", (object,)),
}


def _expected(schema: Schema) -> str:
    """What a schema asks for, in words."""
    if schema.get("enum") is not None:
        return "one of " + ", ".join(map(_brief, schema["enum"]))
    options = schema.get("anyOf")
    if options:
        words = [_expected(option) for option in options]
    else:
        kinds = schema.get("type", "any")
        words = [_TYPES.get(kind, (str(kind), ()))[0] for kind in ([kinds] if isinstance(kinds, str) else kinds)]
        if words == ["a list"] and schema.get("items"):
            words = [f"a list whose items are each {_expected(schema['items'])}"]
    if schema.get("nullable"):
        words.append("null")
    return " or ".join(words)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):  # a bool is an int in Python, but not in JSON
        return kind in ("boolean", "any")
    return kind in _TYPES and isinstance(value, _TYPES[kind][1])


def _equal(a: Any, b: Any) -> bool:
    """Equality that tells true from 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _check(path: str, tool: str, value: Any, schema: Schema) -> None:
    """ToolError unless the value fits the schema; ``path`` names the argument, as in ``xs[2]``."""

    def refuse() -> typing.NoReturn:
        raise ToolError(f"argument {path} of {tool}: expected {_expected(schema)}, got {_brief(value)}")

    if value is None and schema.get("nullable"):
        return
    if schema.get("enum") is not None and not any(_equal(value, choice) for choice in schema["enum"]):
        refuse()
    if schema.get("anyOf"):
        for option in schema["anyOf"]:
            try:
                return _check(path, tool, value, option)
            except ToolError:
                continue
        refuse()
    kinds = schema.get("type", "any")
    if not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        refuse()
    if isinstance(value, list):
        first = schema.get("prefixItems")
        if first is not None and len(value) != len(first):
            raise ToolError(f"argument {path} of {tool}: expected {len(first)} items, got {len(value)}")
        for i, item in enumerate(value):
            _check(f"{path}[{i}]", tool, item, first[i] if first is not None else schema.get("items") or {})
    elif isinstance(value, dict):
        _check_object(path, tool, value, schema)


def _check_object(path: str, tool: str, value: dict[str, Any], schema: Schema) -> None:
    """The same for an object: properties, required, and no key that is not declared."""
    properties: Schema = schema.get("properties") or {}
    others = schema.get("additionalProperties", not properties)
    for key in schema.get("required") or ():
        if key not in value:
            where = f"argument {path}.{key}" if path else f"argument {key}"
            raise ToolError(f"{where} of {tool} is missing: expected {_expected(properties.get(key, {}))}")
    for key, item in value.items():
        shown = key if key.isidentifier() and len(key) <= 60 else _brief(key)  # a key may hold lines, or books
        where = f"{path}.{shown}" if path else shown
        if key in properties:
            _check(where, tool, item, properties[key])
        elif isinstance(others, dict):
            _check(where, tool, item, others)
        elif not others:
            what = f"argument {path} of {tool}" if path else tool
            there = ", ".join(properties) or "no arguments"
            raise ToolError(f"{what} has no argument {_brief(key)}; it takes: {there}")


def _check_arguments(tool: str, arguments: dict[str, Any], parameters: Schema) -> None:
    _check_object("", tool, arguments, {**parameters, "additionalProperties": False})


def _check_schema(where: str, schema: Any, depth: int = 16) -> None:
    """InputError unless the schema is one that ``_check`` understands, so that no call can trip over it later."""
    forms = {"enum": list, "anyOf": list, "items": dict, "prefixItems": list, "properties": dict, "required": list}
    if not isinstance(schema, dict):
        raise InputError(f"{where}: expected a schema, got {_brief(schema)}")
    for key, form in forms.items():
        if schema.get(key) is not None and not isinstance(schema[key], form):
            raise InputError(f"{where}: `{key}` of the schema must be a {form.__name__}, got {_brief(schema[key])}")
    if not all(isinstance(key, str) for key in schema.get("required") or ()):
        raise InputError(f"{where}: `required` of the schema must hold names, got {_brief(schema['required'])}")
    kinds = schema.get("type", "any")
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if not isinstance(kind, str) or kind not in _TYPES:
            raise InputError(f"{where}: unknown type {_brief(kind)} in the schema; there are: {', '.join(_TYPES)}")
    if depth == 0:
        raise InputError(f"{where}: the schema is nested too deep")
    parts = [
        *(schema.get("anyOf") or ()),
        *(schema.get("prefixItems") or ()),
        *(schema.get("properties") or {}).values(),
    ]
    parts += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for part in parts:
        _check_schema(where, part, depth - 1)
