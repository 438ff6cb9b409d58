"""Values between JSON and a tool: arguments as its hints say, and its result in JSON's types. Standard library only.

Loaded by its path (see worker.py), in the process that runs the tools.
"""

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import fractions
import inspect
import itertools
import os
import types
import typing
from collections.abc import Callable
from typing import Any

MAX_VALUE = 100_000  # characters of a result's JSON
MAX_DEPTH = 32  # nested lists and dicts
MAX_DIGITS = 4300  # of an integer; CPython's own limit for turning one into text


class NotJSON(ValueError):
    """A result of a type that has no JSON form: the tool's fault, whatever the call."""


class Mismatch(TypeError):
    """A value that is not of its hint's type."""


_float, _str, _add, _abs = float.__float__, str.__str__, int.__add__, int.__abs__  # bound before a call can change them


def plain(value: Any, convert: bool, depth: int = MAX_DEPTH) -> Any:
    """The value in plain JSON types, without subclasses; of other types as ``converted`` gives it, if ``convert``.

    Raises:
        NotJSON: a type without a JSON form.
        ValueError: a number that is not finite or has no JSON form, or a value too large or too deep.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _str(value)
    if isinstance(value, int):
        if _abs(value) >> 14_284:  # about 4,300 digits
            raise ValueError(f"the result holds an integer of more than {MAX_DIGITS} digits")
        return _add(value, 0)
    if isinstance(value, float):
        if value - value != 0.0:
            raise ValueError(f"the result holds {_float(value)!r}, which is not a finite number")
        return _float(value)
    if depth == 0:
        raise ValueError(f"the result is nested deeper than {MAX_DEPTH}")
    if not isinstance(value, list | tuple | dict):
        return plain(converted(value) if convert else _refuse(value), convert, depth - 1)
    if len(value) > MAX_VALUE // 2:  # each item takes two characters at least
        raise ValueError(f"the result is too large: {len(value):,} items")
    if isinstance(value, dict):
        return {_key(key, convert): plain(item, convert, depth - 1) for key, item in value.items()}
    return [plain(item, convert, depth - 1) for item in value]


def _refuse(value: Any) -> Any:
    raise NotJSON(f"the result is of type {type(value).__name__}: return a number, text, list or dict")


def _key(value: Any, convert: bool) -> str:
    basic = str | int | float | bool | None
    key = converted(value) if convert and not isinstance(value, basic) else value
    if not isinstance(key, basic):
        raise NotJSON(f"the result has a key of type {type(value).__name__}: keys must be text")
    return _str(key) if isinstance(key, str) else repr(key)


def converted(value: Any) -> Any:
    """A value of a type that JSON has not, as one that it has or that can be converted further.

    Sets become sorted lists, decimals and fractions numbers, dates ISO texts, members of an Enum their values,
    dataclasses, pydantic models and other mappings dicts, NumPy's arrays and scalars what they hold, and whatever can
    be iterated a list.
    """
    kind = type(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        try:
            return sorted(value)
        except TypeError:
            return sorted(value, key=repr)
    if isinstance(value, decimal.Decimal):
        whole = value.is_finite() and value.adjusted() < MAX_DIGITS and value == value.to_integral_value()
        return int(value) if whole else float(value)
    if isinstance(value, fractions.Fraction):
        return value.numerator if value.denominator == 1 else value.numerator / value.denominator
    if isinstance(value, complex):
        raise ValueError("the result is a complex number, which is not JSON")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | os.PathLike) or kind.__module__ in ("uuid", "ipaddress"):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview | type):
        return _refuse(value)
    for method in ("tolist", "model_dump"):  # NumPy's and torch's; pydantic's
        if callable(getattr(kind, method, None)):
            return getattr(value, method)()
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    if isinstance(value, collections.abc.Iterable):
        return list(itertools.islice(value, MAX_VALUE // 2 + 1))
    return _refuse(value)


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a tool with JSON arguments: each as its hint says, positional-only ones by position."""
    inner = inspect.unwrap(function)
    hints = getattr(inner, "__annotations__", {})
    if not all(map(_comes_as_it_is, hints.values())):
        try:
            hints = typing.get_type_hints(inner)
        except Exception:  # such as a name that only a type checker knows
            hints = {}
        arguments = {name: _hinted(value, hints.get(name, Any)) for name, value in arguments.items()}
    code = getattr(inner, "__code__", None)
    if code is None or not code.co_posonlyargcount:
        return function(**arguments)
    by_name = dict(arguments)
    by_position = []
    for parameter in list(inspect.signature(inner).parameters.values())[: code.co_posonlyargcount]:
        if parameter.name not in by_name and parameter.default is parameter.empty:
            break  # the function says itself what it lacks
        by_position.append(by_name.pop(parameter.name, parameter.default))
    return function(*by_position, **by_name)


def _comes_as_it_is(hint: Any) -> bool:
    """Whether JSON has the hint's type: looking up all hints takes as long as a small tool."""
    parts = typing.get_args(hint) if typing.get_origin(hint) is list else [hint]
    return all(any(part is known for known in (*_SCALARS, list, dict, Any, None)) for part in parts)


def _hinted(value: Any, hint: Any) -> Any:
    try:
        return hinted(value, hint)
    except Mismatch:  # of a schema that says otherwise than the hint; the function sees what came
        return value


_SCALARS: dict[Any, Any] = {int: int, float: (int, float), str: str, bool: bool, type(None): type(None)}
_SETS = (set, frozenset, collections.abc.Set, collections.abc.MutableSet)


def hinted(value: Any, hint: Any) -> Any:
    """A JSON value as its hint says: a member of an Enum, a dataclass or pydantic model, a tuple, a set.

    Raises:
        Mismatch: the value is not of that type. What the types themselves raise is passed on.
    """
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        for option in inner:
            try:
                return hinted(value, option)
            except Mismatch:
                continue
        raise Mismatch
    if kind is typing.Annotated:
        return hinted(value, inner[0])
    if kind is typing.Literal:
        return _checked(value, any(value == x and type(value) is type(x) for x in inner))
    if isinstance(kind, typing.NewType):
        return hinted(value, kind.__supertype__)
    if kind in _SCALARS:
        return _checked(value, isinstance(value, _SCALARS[kind]) and (kind is bool or not isinstance(value, bool)))
    if not isinstance(kind, type):
        return value
    if issubclass(kind, enum.Enum):
        members = [m for m in kind if m.value == value and isinstance(value, bool) == isinstance(m.value, bool)]
        _checked(value, bool(members))
        return members[0]
    if kind is tuple:
        _checked(value, isinstance(value, list))
        each = [inner[0]] * len(value) if inner[1:] == (...,) else inner or [Any] * len(value)
        _checked(value, len(each) == len(value))
        return tuple(hinted(item, hint) for item, hint in zip(value, each, strict=True))
    if kind in _SETS or kind in (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
        _checked(value, isinstance(value, list))
        items = [hinted(item, inner[0]) for item in value] if inner else value
        return frozenset(items) if kind is frozenset else set(items) if kind in _SETS else items
    if kind in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        _checked(value, isinstance(value, dict))
        return {_number_key(key, inner[0]): hinted(item, inner[1]) for key, item in value.items()} if inner else value
    if hasattr(kind, "model_validate"):
        return kind.model_validate(_checked(value, isinstance(value, dict)))
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields") or typing.is_typeddict(kind):
        _checked(value, isinstance(value, dict))
        fields = typing.get_type_hints(kind)
        return kind(**{key: hinted(item, fields.get(key, Any)) for key, item in value.items()})
    return value


def _checked(value: Any, fits: bool) -> Any:
    if not fits:
        raise Mismatch
    return value


def _number_key(key: str, hint: Any) -> Any:
    try:
        return int(key) if hint is int else key
    except ValueError:
        raise ValueError(f"the key {key[:60]!r} is not an integer") from None
