"""Reading a tool call's JSON and checking its arguments against the tool's schema, strictly.

The check is JSON Schema's (the jsonschema library), with stricter rules: 2.0 is no integer, true is no number,
declared arguments are the only ones, and a tuple has exactly its length.
"""

import json
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

from ..core import MAX_CALL, Call, InputError
from .worker import MAX_DEPTH

Schema = dict[str, Any]
MAX_INTEGER = 1_000  # digits of an integer that a call may hold
MAX_SCHEMA_DEPTH = 16  # schemas within each other


class ToolError(ValueError):
    """A call that does not fit its tool: one line that a policy can learn from."""


def check_value(value: Any, depth: int = MAX_DEPTH) -> None:
    """Check that a parsed JSON value can be stored and sent on.

    Raises:
        ValueError: it holds infinity, nesting deeper than ``depth`` or half a surrogate pair.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("it holds a number that is not finite")
    elif isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError
    elif isinstance(value, list | dict):
        if depth == 0:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            check_value(item, depth - 1)


def shorten(value: Any) -> str:
    """A value as JSON on one line of at most 60 characters, for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


# --- reading a call ------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ToolError(f"the key {shorten(next(k for k in keys if keys.count(k) > 1))} stands twice in the call")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER:
        raise ToolError(f"the call holds an integer of {len(text)} digits: at most {MAX_INTEGER}")
    return int(text)


def _constant(text: str) -> Any:
    raise ToolError(f"the call holds {text}, which is not JSON: numbers must be finite")


_decode = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_integer, parse_constant=_constant).decode


def parse_strictly(raw: str) -> Call:
    """Read ``{"name": "…", "arguments": {…}}``. Unlike ``core.parse_call``, accepts nothing else and says why.

    Raises:
        ToolError: too long, not JSON, NaN, a repeated or further key, or of another form.
    """
    if len(raw) > MAX_CALL:
        raise ToolError(f"the call is {len(raw):,} characters long: at most {MAX_CALL:,}")
    try:
        call = _decode(raw)
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
        raise ToolError(f"`arguments` must be an object by argument name, got {shorten(call.get('arguments'))}")
    if len(call) > 2:
        extra = next(key for key in call if key not in ("name", "arguments"))
        raise ToolError(f"a call has the keys name and arguments only, got {shorten(extra)}")
    return Call(call["name"], call["arguments"])


# --- schemas -------------------------------------------------------------------------------------------------------

WORDS = {  # JSON Schema's types as a message names them
    "integer": "an integer",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
ALIASES = {"float": "number", "tuple": "array", "dict": "object"}  # Python's names, which some data sets (BFCL) use
FORMS = {"enum": list, "anyOf": list, "items": dict, "prefixItems": list, "properties": dict, "required": list}


def strict_schema(where: str, schema: Any, depth: int = MAX_SCHEMA_DEPTH) -> Schema:
    """A tool's schema as a JSON schema with our rules spelled out.

    Keywords not read here are dropped: a ``pattern`` of a foreign schema could take forever, a ``$ref`` the network.

    Args:
        where: what the error line begins with, such as the toolbox and tool.
        schema: the ``parameters`` of a tool, or a part of them.
        depth: levels of nesting allowed.

    Raises:
        InputError: not a schema, an unknown type, or nested too deep.
    """
    if not isinstance(schema, dict):
        raise InputError(f"{where}: expected a schema, got {shorten(schema)}")
    if depth == 0:
        raise InputError(f"{where}: the schema is nested too deep")
    given = {key: value for key, value in schema.items() if value is not None}
    for key, form in FORMS.items():
        if not isinstance(given.get(key, form()), form):
            raise InputError(f"{where}: `{key}` of the schema must be a {form.__name__}, got {shorten(given[key])}")
    if not all(isinstance(key, str) for key in given.get("required", ())):
        raise InputError(f"{where}: `required` of the schema must hold names, got {shorten(given['required'])}")
    types = given.get("type", "any")
    types = types if isinstance(types, list) else [types]
    for name in types:
        if not isinstance(name, str) or name not in {*WORDS, *ALIASES, "any"}:
            known = ", ".join([*WORDS, *ALIASES, "any"])
            raise InputError(f"{where}: unknown type {shorten(name)} in the schema; there are: {known}")

    def part(inner: Any) -> Any:
        return strict_schema(where, inner, depth - 1)

    strict: Schema = {} if "any" in types else {"type": [ALIASES.get(name, name) for name in types]}
    if "enum" in given or "const" in schema:
        strict["enum"] = given["enum"] if "enum" in given else [schema["const"]]
    if given.get("anyOf"):
        strict["anyOf"] = [part(option) for option in given["anyOf"]]
    if given.get("nullable"):
        for key, null in (("type", "null"), ("enum", None), ("anyOf", {"type": ["null"]})):
            if key in strict:
                strict[key] = [*strict[key], null]
    if "prefixItems" in given:
        strict["minItems"] = strict["maxItems"] = len(given["prefixItems"])
        strict["prefixItems"] = [part(item) for item in given["prefixItems"]]
    elif given.get("items"):
        strict["items"] = part(given["items"])
    if given.get("required"):
        strict["required"] = given["required"]
    properties = {key: part(value) for key, value in given.get("properties", {}).items()}
    others = given.get("additionalProperties", not properties)
    others = part(others) if isinstance(others, dict) else bool(others)
    if properties or others is not True:
        strict |= {"additionalProperties": others, "properties": properties}
    return strict


@cache
def _validator_class() -> Any:
    """jsonschema's validator with integers that are ints and the arguments checked in the order of the call."""
    from jsonschema import Draft202012Validator, ValidationError, validators  # 0.1 s, and only needed for calls

    def properties(validator: Any, declared: Schema, value: Any, schema: Schema) -> Iterator[ValidationError]:
        for key, item in value.items() if isinstance(value, dict) else ():
            part = declared.get(key, schema["additionalProperties"])
            if part is False:
                yield ValidationError("undeclared", validator="additionalProperties", path=[key])
            else:
                yield from validator.descend(item, part, path=key)

    as_usual = ("type", "enum", "anyOf", "required", "minItems", "maxItems", "prefixItems", "items")
    keywords = {key: Draft202012Validator.VALIDATORS[key] for key in as_usual} | {"properties": properties}
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return validators.create({}, keywords, type_checker=types)


def argument_validator(where: str, parameters: Schema) -> Any:
    """A jsonschema validator of a tool's arguments, for ``check_arguments``; raises what ``strict_schema`` does."""
    return _validator_class()(strict_schema(where, {**parameters, "additionalProperties": False}))


def check_arguments(tool: str, arguments: dict[str, Any], validator: Any) -> None:
    """Check a call's arguments.

    Raises:
        ToolError: naming the argument (as in ``xs[2]``), the tool, what was expected and what came.
    """
    error = next(validator.iter_errors(arguments), None)
    if error is None:
        return
    path, schema = list(error.path), error.schema
    if error.validator == "additionalProperties":
        where = f"argument {_argument(path[:-1])} of {tool}" if path[1:] else tool
        names = ", ".join(schema["properties"]) or "no arguments"
        raise ToolError(f"{where} has no argument {shorten(path[-1])}; it takes: {names}")
    if error.validator == "required":
        missing = next(key for key in schema["required"] if key not in error.instance)
        expected = _expected(schema.get("properties", {}).get(missing, {}))
        raise ToolError(f"argument {_argument([*path, missing])} of {tool} is missing: expected {expected}")
    expected, got = _expected(schema), shorten(error.instance)
    if error.validator in ("minItems", "maxItems"):
        expected, got = f"{error.validator_value} items", str(len(error.instance))
    raise ToolError(f"argument {_argument(path)} of {tool}: expected {expected}, got {got}")


def _argument(path: list[str | int]) -> str:
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:  # a key may hold line breaks, or pages of text
            text += ("." if text else "") + (step if step.isidentifier() and len(step) <= 60 else shorten(step))
    return text


def _expected(schema: Schema) -> str:
    """What a strict schema accepts, in words."""
    if "enum" in schema:
        return "one of " + ", ".join(map(shorten, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(map(_expected, schema["anyOf"]))
    words = [WORDS[name] for name in schema.get("type", ())]
    if words[:1] == ["a list"] and "items" in schema:
        words[0] = f"a list whose items are each {_expected(schema['items'])}"
    return " or ".join(words) or "any value"
