"""Schemas and self-contained source of Python functions."""

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from typing import Any

from ..core import InputError
from .validate import Schema

MAX_DOCSTRING = 10_000  # characters, of a tool that someone else wrote


def _said(error: Exception) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


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
