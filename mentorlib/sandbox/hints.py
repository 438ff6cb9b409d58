"""JSON schemas of type hints, read from their syntax: nothing of a tool's source is executed.

The forms are those of transformers' ``get_json_schema``, which chat templates were written for. It needs a function
that exists, and knows no dataclass, pydantic model, TypedDict, set or Annotated.
"""

import ast
from collections.abc import Iterator, Sequence
from typing import Any

from .validate import Schema

Scope = dict[str, ast.AST]  # what a source defines under a name: a class, an alias, the alias node of an import

_TYPES = {
    **{"int": "integer", "float": "number", "Number": "number", "Real": "number", "str": "string", "bool": "boolean"},
    **{"None": "null", "NoneType": "null"},
}
_LISTS = (
    *("list", "List", "Sequence", "MutableSequence", "Iterable", "Collection"),
    *("set", "Set", "frozenset", "FrozenSet", "AbstractSet", "MutableSet"),
)
_TUPLES = ("tuple", "Tuple")
_DICTS = ("dict", "Dict", "Mapping", "MutableMapping")
_WRAPPERS = ("Annotated", "Required", "NotRequired", "Final", "ReadOnly", "InitVar")
_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
MEND = "use int, float, str, bool, list, dict, tuple, Literal, Optional, an Enum or a dataclass"


class HintError(ValueError):
    """A hint that has no schema: what it is, and what to write instead."""


def module_statements(body: Sequence[ast.AST]) -> Iterator[ast.stmt]:
    """The statements that a module executes, those under ``if``, ``try`` and ``with`` included."""
    for node in body:
        if isinstance(node, ast.stmt):
            yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if not (isinstance(node, ast.If) and _is_for_others(node.test)):
            yield from module_statements(getattr(node, "body", []))
        for inner in ("orelse", "handlers", "finalbody", "cases"):
            yield from module_statements(getattr(node, inner, []))


def _is_for_others(test: ast.expr) -> bool:
    """``if __name__ == "__main__"`` and ``if TYPE_CHECKING``: their bodies are not executed where tools are called."""
    return ast.unparse(test).startswith("__name__ ==") or ast.unparse(test).endswith("TYPE_CHECKING")


def scope_of(tree: ast.Module) -> Scope:
    """The classes, aliases of types and imported names of a source."""
    scope: Scope = {}
    for node in module_statements(tree.body):
        if isinstance(node, ast.ClassDef):
            scope[node.name] = node
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            scope[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            scope[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            scope |= {alias.asname: alias for alias in node.names if alias.asname}
        elif type(node).__name__ == "TypeAlias":  # Python 3.12
            scope[node.name.id] = node.value  # type: ignore[attr-defined]
    return scope


def hint_schema(node: ast.expr, scope: Scope, within: tuple[str, ...] = ()) -> Schema:
    """The schema of a hint.

    Args:
        node: the hint's syntax.
        scope: what the source defines (scope_of).
        within: the classes and aliases whose fields are being read.

    Raises:
        HintError: a hint without a schema.
    """

    def part(inner: ast.expr) -> Schema:
        return hint_schema(inner, scope, within)

    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return part(_parsed(node.value))
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right], scope, within)
    if isinstance(node, ast.Subscript):
        outer = _name(node.value, scope)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            return _enum([_literal(item, node) for item in inner], node)
        if outer == "Union":
            return _union(inner, scope, within)
        if outer == "Optional" and len(inner) == 1:
            return _union([inner[0], ast.Constant(None)], scope, within)
        if outer in _WRAPPERS and inner:
            return {**part(inner[0]), **described(inner[1:])}
        if outer in _LISTS and len(inner) == 1:
            return {"type": "array", "items": part(inner[0])}
        if outer in _TUPLES:
            if len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...:
                return {"type": "array", "items": part(inner[0])}
            return {"type": "array", "prefixItems": [part(item) for item in inner]}
        if outer in _DICTS and len(inner) == 2:
            if part(inner[0]).get("type") not in ("string", "integer", None):
                raise HintError(f"{ast.unparse(node)} has keys that JSON has not: use dict[str, …]")
            return {"type": "object", "additionalProperties": part(inner[1])}
    if isinstance(node, ast.Name | ast.Attribute):
        name = _name(node, scope)
        known = scope.get(node.id) if isinstance(node, ast.Name) else None
        if name in within:
            raise HintError(f"{name} refers to itself, which has no end as a schema")
        if isinstance(known, ast.ClassDef):
            return _class_schema(known, scope, (*within, name))
        if isinstance(known, ast.Call) and _name(known.func, scope) == "NewType" and len(known.args) == 2:
            return hint_schema(known.args[1], scope, (*within, name))
        if isinstance(known, ast.expr):
            return hint_schema(known, scope, (*within, name))
        if name in ("Any", "object"):
            return {}
        if name in _TYPES:
            return {"type": _TYPES[name]}
        if name in (*_LISTS, *_TUPLES, *_DICTS):
            return {"type": "object" if name in _DICTS else "array"}
    raise HintError(f"{ast.unparse(node):.60} is not a plain type: {MEND}")


def described(metadata: Sequence[ast.expr]) -> Schema:
    """The description in the metadata of an ``Annotated``: a text, or ``Field(description="…")``."""
    for node in metadata:
        if isinstance(node, ast.Call):
            node = next((word.value for word in node.keywords if word.arg == "description"), node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return {"description": node.value}
    return {}


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise HintError(f"{text!r:.60} is not a type: {MEND}") from None


def _name(node: ast.AST, scope: Scope) -> str:
    """The last part of a dotted name, under which it was imported; "" for other syntax."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if not isinstance(node, ast.Name):
        return ""
    imported = scope.get(node.id)
    return imported.name if isinstance(imported, ast.alias) else node.id


def _union(options: Sequence[ast.expr], scope: Scope, within: tuple[str, ...]) -> Schema:
    schemas: list[Schema] = []
    nullable = False
    for option in options:
        schema = hint_schema(option, scope, within)
        nullable |= bool(schema.pop("nullable", False)) or schema == {"type": "null"}
        if schema == {"type": "null"}:
            continue
        joined = set(schema) == {"anyOf"} or (set(schema) == {"type"} and isinstance(schema["type"], list))
        schemas += schema.get("anyOf") or [{"type": name} for name in schema["type"]] if joined else [schema]
    if not schemas:
        return {"type": "null"}
    if len(schemas) == 1:
        union = schemas[0]
    elif all(set(schema) == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        names = sorted({schema["type"] for schema in schemas})
        union = {"type": names[0] if len(names) == 1 else names}
    else:
        union = {"anyOf": schemas}
    return {**union, "nullable": True} if nullable else union


def _literal(node: ast.expr, hint: ast.AST) -> Any:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        value = ...
    if type(value) not in _SCALARS:
        raise HintError(f"{ast.unparse(hint):.60}: JSON has texts, numbers, true, false and null only: write those")
    return value


def _enum(values: list[Any], hint: ast.AST) -> Schema:
    if not values:
        raise HintError(f"{ast.unparse(hint).splitlines()[0]:.60} has no values")
    types = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": types[0] if len(types) == 1 else types, "enum": values}


def _class_schema(node: ast.ClassDef, scope: Scope, within: tuple[str, ...]) -> Schema:
    bases = [_name(base.value if isinstance(base, ast.Subscript) else base, scope) for base in node.bases]
    if any(base.endswith("Enum") for base in bases):
        return _enum(_enum_values(node, bases, scope), node)
    properties, required, readable = _fields(node, bases, scope, within)
    if not readable:
        raise HintError(f"{node.name} is a class whose fields cannot be read: make it a dataclass, or take them singly")
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _enum_values(node: ast.ClassDef, bases: list[str], scope: Scope) -> list[Any]:
    values: list[Any] = []
    for line in node.body:
        target = line.targets[0] if isinstance(line, ast.Assign) else None
        if not isinstance(line, ast.Assign) or not isinstance(target, ast.Name) or target.id.startswith("_"):
            continue
        if isinstance(line.value, ast.Call) and _name(line.value.func, scope) == "auto" and "str" not in bases:
            whole = values and isinstance(values[-1], int)
            values.append(target.id.lower() if "StrEnum" in bases else values[-1] + 1 if whole else 1)
        else:
            values.append(_literal(line.value, line))
    return values


def _fields(
    node: ast.ClassDef, bases: list[str], scope: Scope, within: tuple[str, ...]
) -> tuple[dict[str, Schema], list[str], bool]:
    """The schemas of a class's fields, the names of those without a default, and whether its fields can be read."""
    properties: dict[str, Schema] = {}
    required: list[str] = []
    decorators = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    readable = any(_name(d, scope) == "dataclass" for d in decorators)
    readable |= bool({"BaseModel", "TypedDict", "NamedTuple"} & set(bases))
    for base in bases:
        parent = scope.get(base)
        if isinstance(parent, ast.ClassDef) and base not in within:
            its_bases = [_name(b, scope) for b in parent.bases]
            inherited, needed, known = _fields(parent, its_bases, scope, (*within, base))
            properties |= inherited
            required += needed
            readable |= known
    optional = any(w.arg == "total" and ast.unparse(w.value) == "False" for w in node.keywords)
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        name, outer = line.target.id, ""
        if isinstance(line.annotation, ast.Subscript):
            outer = _name(line.annotation.value, scope)
        if outer == "ClassVar" or name.startswith("_") or _option(line.value, "init") == "False":
            continue
        properties[name] = hint_schema(line.annotation, scope, within)
        if line.value is not None:
            properties[name] |= described([line.value] if isinstance(line.value, ast.Call) else [])
        if (optional and outer != "Required") or outer == "NotRequired" or _has_default(line.value):
            required = [key for key in required if key != name]
        elif name not in required:
            required.append(name)
    return properties, required, readable


def _option(value: ast.expr | None, name: str) -> str:
    keywords = value.keywords if isinstance(value, ast.Call) else []
    return next((ast.unparse(word.value) for word in keywords if word.arg == name), "")


def _has_default(value: ast.expr | None) -> bool:
    """Whether a field has one: ``field()`` and ``Field(...)`` alone give none."""
    if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in ("field", "Field"):
        first = value.args[0] if value.args else None
        given = first is not None and not (isinstance(first, ast.Constant) and first.value is ...)
        return given or bool(_option(value, "default") or _option(value, "default_factory"))
    return value is not None
