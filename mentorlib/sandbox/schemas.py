"""Schemas and self-contained source of Python functions."""

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from ..core import InputError
from .validate import Schema

MAX_DOCSTRING = 10_000  # characters, of a tool that someone else wrote


def error_text(error: Exception) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def schema_from_function(function: Callable[..., Any]) -> Schema:
    """A function's schema from its hints and docstring (transformers' ``get_json_schema``).

    Raises:
        InputError: a hint or a line of the docstring is missing, or of a form that has no schema.
    """
    from transformers.utils import get_json_schema  # heavy, and only needed here

    try:
        return get_json_schema(function)
    except Exception as e:  # transformers raises its own types, one for each mistake
        raise InputError(f"tool {function.__name__}: {error_text(e)}") from None


def self_contained_source(functions: Sequence[Callable[..., Any]]) -> str:
    """The functions' source with the imports, helpers and constants of their modules that they use.

    Raises:
        InputError: a function uses something that source cannot express.
    """
    pieces: dict[str, str] = {}
    for function in functions:
        _add_source(function.__name__, function, pieces)
    return "\n\n".join(pieces.values()) + "\n"


def _add_source(name: str, value: Any, pieces: dict[str, str]) -> None:
    """Add to ``pieces`` (source by name) what defines ``value`` as ``name``, after what that needs."""
    if name in pieces:
        return
    if isinstance(value, types.ModuleType):
        pieces[name] = f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
        return
    module = getattr(value, "__module__", None) or ""
    original = getattr(value, "__name__", None) or getattr(value, "_name", None)
    if module.split(".")[0] in sys.stdlib_module_names and hasattr(sys.modules.get(module), str(original)):
        pieces[name] = f"from {module} import {original}" + (f" as {name}" if original != name else "")
    elif isinstance(value, types.FunctionType | type):
        try:
            source = textwrap.dedent(inspect.getsource(value))
            tree = ast.parse(source).body[0]
        except (OSError, TypeError, SyntaxError):
            raise InputError(f"{name}: its source cannot be read; define it with `def` in a file or cell") from None
        if not isinstance(tree, ast.FunctionDef | ast.ClassDef) or tree.name != name:
            raise InputError(f"{name}: a tool and what it uses must be plain functions under their own names")
        pieces[name] = ""  # stops recursion between functions that call each other
        scope = vars(sys.modules[module]) if module in sys.modules else getattr(value, "__globals__", {})
        for used in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}):
            if used in scope and used != name:
                _add_source(used, scope[used], pieces)
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


def schema_from_syntax(node: ast.FunctionDef) -> Schema:
    """A function's schema without running its source: a stand-in gets its signature and docstring.

    Raises:
        InputError: as ``schema_from_function``, or hints and arguments other than the plain ones.
    """

    def stand_in() -> None: ...

    given = node.args
    positional = [*given.posonlyargs, *given.args]
    optional = {a.arg for a in positional[len(positional) - len(given.defaults) :]}
    optional |= {a.arg for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is not None}
    # Spaces are squeezed: the time of transformers' patterns grows with the square of their number.
    lines = [re.sub(r"(?<=\S)\s+", " ", line.rstrip()) for line in (ast.get_docstring(node) or "").splitlines()]
    doc = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    if len(doc) > MAX_DOCSTRING:
        raise InputError(f"tool {node.name}: its docstring is {len(doc):,} characters long: at most {MAX_DOCSTRING:,}")
    if given.vararg or given.kwarg:
        raise InputError(f"tool {node.name}: it takes * or ** arguments")
    try:
        hints = {a.arg: _hint(a.annotation) for a in [*positional, *given.kwonlyargs] if a.annotation}
    except Exception as e:  # whatever a foreign hint can provoke
        raise InputError(f"tool {node.name}: a hint that is not a plain type: {error_text(e)}") from None
    empty = inspect.Parameter.empty
    stand_in.__name__, stand_in.__doc__, stand_in.__annotations__ = node.name, doc, hints
    stand_in.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                a.arg,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if a.arg in optional else empty,
                annotation=hints.get(a.arg, empty),
            )
            for a in [*positional, *given.kwonlyargs]
        ]
    )
    return schema_from_function(stand_in)
