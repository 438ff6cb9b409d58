"""A named set of tools: their source, their JSON schemas, and a strict front door.

A tool is a typed Python function with a Google docstring. What a policy writes is parsed, checked against the schema
(no extra argument, no coercion, no NaN) and handed on as a name and a dict; a call is never made into code.
"""

import ast
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .core import MAX_CALL, Call, Execution, InputError
from .sandbox import Job, Sandbox, check_value

MAX_INTEGER = 1_000  # digits of an integer that a call may hold
MAX_DOCSTRING = 10_000  # characters, of a tool that someone else wrote
Schema = dict[str, Any]


class ToolError(ValueError):
    """A call that does not fit its tool: one line that a policy can learn from."""


@dataclass(frozen=True)
class Toolbox:
    """Tools that are offered together.

    ``schemas`` are chat-template schemas (``{"type": "function", "function": {"name", "description", "parameters"}}``),
    ``source`` is Python that defines a function for each of them, run only inside the sandbox. ``isolate`` gives each
    call a process of its own: for source that we did not write.
    """

    name: str
    source: str
    schemas: list[Schema]
    isolate: bool = False

    @property
    def names(self) -> list[str]:
        """The tools' names in the order offered."""
        return [schema["function"]["name"] for schema in self.schemas]

    def subset(self, names: Sequence[str]) -> "Toolbox":
        """The same toolbox offering only these tools, in this order.

        Raises:
            InputError: a name that is not in the toolbox.
        """
        known = dict(zip(self.names, self.schemas, strict=True))
        for name in names:
            if name not in known:
                raise InputError(f"toolbox {self.name}: no tool named {name!r}; there are: {', '.join(known)}")
        return replace(self, schemas=[known[name] for name in names])

    def validate(self, raw: str) -> Call:
        """Read a call's JSON and hold it against the tool's schema.

        Raises:
            ToolError: naming the argument, what was expected and what came.
        """
        call = _parse(raw)
        for schema in self.schemas:
            if schema["function"]["name"] == call["name"]:
                break
        else:
            there = f"there are: {', '.join(self.names)}" if self.schemas else "no tool is offered"
            raise ToolError(f"no tool named {call['name'][:60]!r}; {there}")
        _check_arguments(call["name"], call["arguments"], schema["function"].get("parameters") or {})
        return Call(call["name"], call["arguments"])

    def call(self, raw: str, sandbox: Sandbox) -> Execution:
        """Validate a call and execute it; a call that does not fit is an Execution with ``fault="model"``."""
        return call_many([(self, raw)], sandbox)[0]

    def to_json(self) -> str:
        """The toolbox as JSON text, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Toolbox":
        """The toolbox that ``to_json`` wrote."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as e:
            raise InputError(f"not a toolbox's JSON: {e}") from None

    @classmethod
    def from_functions(cls, name: str, functions: Sequence[Callable[..., Any]], isolate: bool = False) -> "Toolbox":
        """A toolbox of Python functions, with the imports, helpers and constants of their modules that they use.

        Raises:
            InputError: a function without type hints or docstring, or using something that cannot be carried along.
        """
        from transformers.utils import get_json_schema  # heavy, and only needed here

        schemas = []
        for function in functions:
            try:
                schemas.append(get_json_schema(function))
            except Exception as e:  # transformers raises its own types, one an ill
                raise InputError(f"tool {function.__name__}: {_said(e)}") from None
        pieces: dict[str, str] = {}
        for function in functions:
            _carry(function.__name__, function, pieces)
        return cls(name, "\n\n".join(pieces.values()) + "\n", schemas, isolate)

    @classmethod
    def from_schemas(cls, name: str, schemas: list[Schema]) -> "Toolbox":
        """Tools that are known by their schemas alone and cannot be run: for tasks whose metric is ``calls``.

        Raises:
            InputError: a schema that is none, or two tools of one name.
        """
        for schema in schemas:
            function = schema.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InputError(f"toolbox {name}: not a tool's schema: {_brief(schema)}")
            _check_schema(f"toolbox {name}: {_brief(function['name'])}", function.get("parameters") or {})
        box = cls(name, "", schemas)
        if len(set(box.names)) < len(schemas):
            raise InputError(f"toolbox {name}: two tools have one name")
        return box

    @classmethod
    def from_source(
        cls, name: str, source: str, schemas: list[Schema] | None = None, isolate: bool = True
    ) -> "Toolbox":
        """A toolbox of source that someone else wrote. Nothing of it is executed here.

        Without ``schemas``, they are derived from the signatures and docstrings of its public functions.

        Raises:
            InputError: source that does not parse, lacks a function that a schema names, or has hints we cannot read.
        """
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as e:
            raise InputError(f"toolbox {name}: the source is not Python: {_said(e)}") from None
        defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        if schemas is None:
            public = [node for key, node in defined.items() if not key.startswith("_")]
            schemas = [_schema_of(name, node) for node in public]
        schemas = [schema if "function" in schema else {"type": "function", "function": schema} for schema in schemas]
        for schema in schemas:
            function = schema["function"]
            named = isinstance(function, dict) and isinstance(function.get("name"), str)
            if not named or function["name"] not in defined:
                raise InputError(f"toolbox {name}: the source defines no function for the schema {_brief(schema)}")
            _check_schema(f"toolbox {name}: {function['name']}", function.get("parameters") or {})
        return cls(name, source, schemas, isolate)


def call_many(calls: Sequence[tuple[Toolbox, str]], sandbox: Sandbox) -> list[Execution]:
    """Validate and execute calls at the same time; executions in the order of the calls."""
    done: list[Execution | None] = []
    jobs: list[Job] = []
    for toolbox, raw in calls:
        try:
            call = toolbox.validate(raw)
        except ToolError as e:
            done.append(Execution(error=str(e), fault="model"))
        else:
            done.append(None)
            jobs.append(Job(toolbox.source, call.name, call.arguments, toolbox.isolate))
    ran = iter(sandbox.run_many(jobs))
    return [next(ran) if execution is None else execution for execution in done]


def _said(error: Exception) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


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


# --- schemas and source of functions ---------------------------------------------------------------------------------


def _carry(name: str, value: Any, pieces: dict[str, str]) -> None:
    """Add to ``pieces`` (name -> source) what defines ``value`` under ``name``, and before it what that needs."""
    if name in pieces:
        return
    if isinstance(value, types.ModuleType):
        pieces[name] = f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
        return
    home = getattr(value, "__module__", None) or ""
    original = getattr(value, "__name__", None) or getattr(value, "_name", None)
    if home.split(".")[0] in sys.stdlib_module_names and hasattr(sys.modules.get(home), str(original)):
        pieces[name] = f"from {home} import {original}" + (f" as {name}" if original != name else "")
    elif isinstance(value, types.FunctionType | type):
        try:
            source = textwrap.dedent(inspect.getsource(value))
            tree = ast.parse(source).body[0]
        except (OSError, TypeError, SyntaxError):
            raise InputError(f"{name}: its source cannot be read; define it with `def` in a file or cell") from None
        if not isinstance(tree, ast.FunctionDef | ast.ClassDef) or tree.name != name:
            raise InputError(f"{name}: a tool and what it uses must be plain functions under their own names")
        pieces[name] = ""  # stops recursion between functions that call each other
        scope = vars(sys.modules[home]) if home in sys.modules else getattr(value, "__globals__", {})
        for used in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
            if used in scope and used != name:
                _carry(used, scope[used], pieces)
        del pieces[name]
        pieces[name] = source.rstrip()  # after what it needs
    else:
        try:
            literal = repr(value)
            if ast.literal_eval(literal) != value:
                raise ValueError
        except (ValueError, SyntaxError, TypeError):
            raise InputError(
                f"{name}: a tool uses this module-level {type(value).__name__}, which cannot be carried into the "
                "sandbox; make it inside the function, or a plain constant"
            ) from None
        pieces[name] = f"{name} = {literal}"


_HINTS: dict[str, Any] = {
    **{t.__name__: t for t in (int, float, str, bool, list, dict, tuple)},
    **{n: getattr(typing, n) for n in ("Any", "Optional", "Union", "Literal", "List", "Dict", "Tuple")},
    "None": None,
}


def _hint(node: ast.expr) -> Any:
    """A type hint from its syntax, without running it; ValueError for any but the plain ones."""
    if isinstance(node, ast.Constant):
        return _hint(ast.parse(node.value, mode="eval").body) if isinstance(node.value, str) else node.value
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "typing":
        return _HINTS[node.attr]
    if isinstance(node, ast.Name):
        return _HINTS[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _hint(node.left) | _hint(node.right)
    if isinstance(node, ast.Subscript):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        outer = _hint(node.value)
        arguments = tuple(ast.literal_eval(n) if outer is typing.Literal else _hint(n) for n in inner)
        return outer[arguments if len(arguments) > 1 else arguments[0]]
    raise ValueError(ast.unparse(node))


def _schema_of(toolbox: str, node: ast.FunctionDef) -> Schema:
    """The schema of a function from its syntax: a stand-in with its signature and docstring goes to transformers."""
    from transformers.utils import get_json_schema

    def stand_in() -> None: ...

    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    optional = {a.arg for a in positional[len(positional) - len(spec.defaults) :]}
    optional |= {a.arg for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if d is not None}
    # Spaces are squeezed: the time of transformers' patterns grows with the square of their number.
    lines = [re.sub(r"(?<=\S)\s+", " ", line.rstrip()) for line in (ast.get_docstring(node) or "").splitlines()]
    doc = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    stand_in.__name__, stand_in.__doc__ = node.name, doc
    try:
        if len(doc) > MAX_DOCSTRING:
            raise ValueError(f"its docstring is {len(doc):,} characters long: at most {MAX_DOCSTRING:,}")
        if spec.vararg or spec.kwarg:
            raise ValueError("it takes * or ** arguments")
        hints = {a.arg: _hint(a.annotation) for a in [*positional, *spec.kwonlyargs] if a.annotation}
        stand_in.__annotations__ = hints
        stand_in.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    a.arg,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None if a.arg in optional else inspect.Parameter.empty,
                    annotation=hints.get(a.arg, inspect.Parameter.empty),
                )
                for a in [*positional, *spec.kwonlyargs]
            ]
        )
        return get_json_schema(stand_in)
    except Exception as e:
        raise InputError(f"toolbox {toolbox}: no schema for {node.name}: {_said(e)}") from None
