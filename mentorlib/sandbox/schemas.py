"""Schemas and self-contained source of Python functions."""

import ast
import builtins
import contextlib
import inspect
import json
import re
import symtable
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core import InputError, one_line
from .docstrings import parse_docstring
from .hints import HintError, Scope, hint_schema, module_statements
from .validate import Schema

MAX_DOCSTRING = 10_000  # characters, of a tool that someone else wrote
MAX_TOOLS = 500_000  # bytes of a toolbox's source; the rest of a request (pool.MAX_SOURCE) is for the call


def self_contained_source(functions: Sequence[Callable[..., Any]]) -> str:
    """The functions' source with the imports, helpers and constants of their modules that they use.

    Raises:
        InputError: a function uses something that source cannot express.
    """
    pieces: dict[str, str] = {}
    for function in functions:
        if not isinstance(inspect.unwrap(function), types.FunctionType) or inspect.iscoroutinefunction(function):
            name = getattr(function, "__name__", repr(function))
            raise InputError(f"tool {name:.60}: a tool is a plain function: define it with `def` in a file or cell")
        _add_source(function.__name__, function, pieces)
    source = "\n\n".join(pieces.values()) + "\n"
    if (size := len(source.encode("utf-8", "surrogatepass"))) > MAX_TOOLS:
        largest = max(pieces, key=lambda name: len(pieces[name]))
        raise InputError(
            f"the tools' source is {size:,} bytes long, most of them {largest}: at "
            f"most {MAX_TOOLS:,}, since it goes into the sandbox with every call"
        )
    return source


def _add_source(name: str, value: Any, pieces: dict[str, str]) -> None:
    """Add to ``pieces`` (source by name) what defines ``value`` as ``name``, after what that needs."""
    if name in pieces:
        return
    value = inspect.unwrap(value) if callable(value) else value  # of a decorator, which is part of the source
    if isinstance(value, types.ModuleType):
        pieces[name] = f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
        return
    module = getattr(value, "__module__", None) or ""
    original = getattr(value, "__name__", None) or getattr(value, "_name", None)
    if isinstance(value, types.GenericAlias | types.UnionType) or (module == "typing" and typing.get_args(value)):
        _add_alias(name, repr(value), pieces)
    elif _is_installed(module) and hasattr(sys.modules.get(module), str(original)):
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
        outer = set(value.__code__.co_freevars) - {name} if isinstance(value, types.FunctionType) else set()
        if outer:
            raise InputError(
                f"{name}: it uses {', '.join(sorted(outer))} of the function that made it, which cannot be carried "
                "into the sandbox: define it at the top level"
            )
        scope = vars(sys.modules[module]) if module in sys.modules else getattr(value, "__globals__", {})
        try:
            used_names = sorted(_names_in(source, tree))
        except SyntaxError as e:  # such as nonlocal of an outer function's name
            raise InputError(f"{name}: its source cannot be read alone: {one_line(e)}") from None
        for used in used_names:
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


def _is_installed(module: str) -> bool:
    """Whether a module is Python's, or of a package that the sandbox can import too."""
    top = module.split(".")[0]
    folder = Path(getattr(sys.modules.get(module), "__file__", None) or "").parts
    installed = top != __name__.split(".")[0] and not {"site-packages", "dist-packages"}.isdisjoint(folder)
    return installed or top in sys.stdlib_module_names


def _add_alias(name: str, text: str, pieces: dict[str, str]) -> None:
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)} if "<" not in text else {""}
    if not names <= {"typing", *vars(builtins)}:
        raise InputError(f"{name}: this alias of a type cannot be carried into the sandbox: write {text} in each hint")
    if "typing" in names:
        pieces["typing"] = "import typing"
    pieces[name] = f"{name} = {text}"


def _names_in(source: str, tree: ast.AST) -> set[str]:
    """The names that a definition takes from its module, those in quoted hints included; not its own arguments."""
    names, tables = set(), [symtable.symtable(source, "<tool>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() in ("module", "class")  # a class body reads a name of its module that it also sets
        names |= {s.get_name() for s in table.get_symbols() if s.is_global() or (top and s.is_referenced())}
    for node in ast.walk(tree):
        hint = getattr(node, "annotation", None)
        if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
            with contextlib.suppress(SyntaxError, ValueError):
                quoted = ast.walk(ast.parse(hint.value, mode="eval"))
                names |= {part.id for part in quoted if isinstance(part, ast.Name)}
    return names


def tool_definitions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    """The functions that a source defines at its top level, also under ``if``, ``try`` and ``with``, by name.

    Raises:
        InputError: one name is defined twice with different arguments.
    """
    found: dict[str, ast.FunctionDef] = {}
    for node in module_statements(tree.body):
        if not isinstance(node, ast.FunctionDef) or any("overload" in ast.unparse(d) for d in node.decorator_list):
            continue
        before = found.get(node.name)
        if before and not node.name.startswith("_") and ast.dump(before.args) != ast.dump(node.args):
            raise InputError(f"tool {node.name} is defined twice, with different arguments: keep one definition")
        found[node.name] = node
    return found


def check_public_names(tree: ast.Module) -> None:
    """Check that nothing public looks like a tool and could be none.

    Raises:
        InputError: a coroutine, a lambda, another name of a function, or a class with documented methods.
    """
    functions = tool_definitions(tree)
    for node in module_statements(tree.body):
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_"):
            raise InputError(f"tool {node.name} is an async function, and calls are not awaited: write it with `def`")
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)]
            methods = [m for m in methods if not m.name.startswith("_") and ast.get_docstring(m)]
            if methods and not node.decorator_list and not node.bases:
                raise InputError(
                    f"class {node.name}: its method {methods[0].name} is not a tool: write it as a function, or name "
                    f"the class _{node.name}"
                )
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        made = isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "partial"
        if value and (isinstance(value, ast.Lambda) or made or (isinstance(value, ast.Name) and value.id in functions)):
            for target in targets:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    kind = "a lambda" if isinstance(value, ast.Lambda) else f"made by `{ast.unparse(value):.60}`"
                    raise InputError(
                        f"tool {target.id} is {kind}, without hints and docstring: write it with `def`, or name it "
                        f"_{target.id}"
                    )


def schema_from_syntax(node: ast.FunctionDef, scope: Scope) -> Schema:
    """A tool's schema, in the form of transformers' ``get_json_schema``, from its syntax: nothing is executed.

    Args:
        node: the function.
        scope: the classes and aliases of its source (`hints.scope_of`).

    Raises:
        InputError: a hint, a docstring or an argument's line in it is missing; a hint has no schema; the docstring is
            too long; or it takes * or ** arguments.
    """
    tool = f"tool {node.name}"
    given = node.args
    if given.vararg or given.kwarg:
        raise InputError(f"{tool}: it takes * or ** arguments, which a call cannot name: take a list or a dict")
    doc = ast.get_docstring(node)
    # Spaces are squeezed: the time of patterns can grow with the square of their number.
    doc = re.sub(r"(?<=\S)[^\S\n]+", " ", doc or "").strip()
    if not doc:
        raise InputError(f"{tool}: it has no docstring: say what it does, and each argument under `Args:`")
    if len(doc) > MAX_DOCSTRING:
        raise InputError(f"{tool}: its docstring is {len(doc):,} characters long: at most {MAX_DOCSTRING:,}")
    description, lines, returned = parse_docstring(doc)
    positional = [*given.posonlyargs, *given.args]
    defaults: dict[str, ast.expr | None] = dict(
        zip([a.arg for a in positional][len(positional) - len(given.defaults) :], given.defaults, strict=True)
    )
    defaults |= {a.arg: default for a, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default}
    properties: dict[str, Schema] = {}
    for argument in [*positional, *given.kwonlyargs]:
        name = argument.arg
        if argument.annotation is None:
            raise InputError(f"{tool}: argument {name} is missing a type hint: write it as `{name}: float`")
        try:
            schema = hint_schema(argument.annotation, scope)
        except HintError as e:
            raise InputError(f"{tool}, argument {name}: {e}") from None
        except Exception as e:  # whatever a foreign hint can provoke
            raise InputError(f"{tool}, argument {name}: its hint cannot be read: {one_line(e)}") from None
        default = defaults.get(name)
        if isinstance(default, ast.Constant) and default.value is None and schema and schema != {"type": "null"}:
            schema["nullable"] = True
        text = lines.get(name) or schema.pop("description", "")
        if not text:
            raise InputError(
                f"{tool}: argument {name} has no line in the docstring: add `{name}: what it is` to `Args:`"
            )
        if choices := re.search(r"\(choices:\s*(.*?)\)\s*$", text, re.IGNORECASE):
            try:
                schema["enum"] = [c.strip() if isinstance(c, str) else c for c in json.loads(choices[1])]
            except (ValueError, TypeError, RecursionError):
                raise InputError(
                    f"{tool}: the choices of argument {name} are not a JSON list: {choices[1]:.60}"
                ) from None
            text = text[: choices.start()].strip()
        properties[name] = {**schema, "description": text}
    required = [name for name in properties if name not in defaults]
    parameters = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    function: Schema = {"name": node.name, "description": description, "parameters": parameters}
    if node.returns is not None:
        with contextlib.suppress(Exception):  # no call needs it
            function["return"] = {**hint_schema(node.returns, scope), **({"description": returned} if returned else {})}
    return {"type": "function", "function": function}
