"""A named set of tools: their source, their JSON schemas, and the strict validation of calls.

A tool is a typed Python function with a docstring. What a policy writes is parsed, checked against the schema
(no extra argument, no coercion, no NaN) and passed on as a name and a dict; a call is never turned into code.
"""

import ast
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ..core import Call, Execution, InputError, one_line
from .hints import module_statements, scope_of
from .pool import Job, Sandbox
from .schemas import check_public_names, schema_from_syntax, self_contained_source, tool_definitions
from .validate import Schema, ToolError, argument_validator, check_arguments, parse_strictly, shorten, strict_schema


@dataclass(frozen=True)
class Toolbox:
    """Tools that are offered together.

    ``schemas`` are chat-template schemas (``{"type": "function", "function": {"name", "description", "parameters"}}``),
    ``source`` is Python that defines a function for each of them, run only inside the sandbox. ``isolate`` gives each
    call a process for itself: for source that you did not write.
    """

    name: str
    source: str
    schemas: list[Schema]
    isolate: bool = False

    @cached_property
    def _validators(self) -> dict[str, Any]:
        """By tool. Made for the first call, since most toolboxes of a data set see few calls or none."""
        functions = [schema["function"] for schema in self.schemas]
        return {f["name"]: argument_validator(f"tool {f['name']}", f.get("parameters") or {}) for f in functions}

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
        """Read a call's JSON and check it against the tool's schema.

        Raises:
            ToolError: naming the argument, what was expected and what came.
        """
        call = parse_strictly(raw)
        validator = self._validators.get(call.name)
        if validator is None:
            names = f"there are: {', '.join(self.names)}" if self.schemas else "no tool is offered"
            raise ToolError(f"no tool named {call.name[:60]!r}; {names}")
        check_arguments(call.name, call.arguments, validator)
        return call

    def call(self, raw: str, sandbox: Sandbox) -> Execution:
        """Validate a call and execute it; a call that does not fit gives an Execution with ``fault="model"``."""
        return call_many([(self, raw)], sandbox)[0]

    def to_json(self) -> str:
        """The toolbox as JSON text, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Toolbox":
        """The toolbox that ``to_json`` wrote, isolated whatever the text says: it may come from others.

        Raises:
            InputError: not a toolbox's JSON.
        """
        try:
            box = cls(**json.loads(text) | {"isolate": True})
            if not isinstance(box.name, str) or not isinstance(box.source, str) or not isinstance(box.schemas, list):
                raise TypeError("name and source are texts, schemas is a list")
            return replace(box, schemas=[_checked(box.name, schema) for schema in box.schemas])
        except (ValueError, TypeError, RecursionError) as e:
            raise InputError(f"not a toolbox's JSON: {e}") from None

    @classmethod
    def from_functions(cls, name: str, functions: Sequence[Callable[..., Any]]) -> "Toolbox":
        """A toolbox of Python functions, with the imports, helpers and constants of their modules that they use.

        Raises:
            InputError: a function without type hints or docstring, or using something that source cannot express.
        """
        source = self_contained_source(functions)
        tree = ast.parse(source)
        defined, scope = tool_definitions(tree), scope_of(tree)
        schemas = [schema_from_syntax(defined[inspect.unwrap(function).__name__], scope) for function in functions]
        return cls(name, source, schemas)

    @classmethod
    def from_schemas(cls, name: str, schemas: list[Schema]) -> "Toolbox":
        """Tools known by their schemas alone, which cannot be run: for tasks whose metric is ``calls``.

        Raises:
            InputError: not a tool's schema, or two tools of one name.
        """
        box = cls(name, "", [_checked(name, schema) for schema in schemas])
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
            InputError: source that does not parse, lacks a function that a schema names, has hints without a schema,
                or public names that look like tools and can be none, such as lambdas and coroutines.
        """
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as e:
            raise InputError(f"toolbox {name}: the source is not Python: {one_line(e)}") from None
        if schemas is None:
            try:
                check_public_names(tree)
                defined, scope = tool_definitions(tree), scope_of(tree)
                public = [node for key, node in defined.items() if not key.startswith("_")]
                return cls(name, source, [schema_from_syntax(node, scope) for node in public], isolate)
            except InputError as e:
                raise InputError(f"toolbox {name}: {e}") from None
        box = cls(name, source, [_checked(name, schema) for schema in schemas], isolate)
        callables = {node.name for node in module_statements(tree.body) if isinstance(node, ast.FunctionDef)}
        callables |= {key for key, value in scope_of(tree).items() if not isinstance(value, ast.ClassDef)}
        for tool in box.names:
            if tool not in callables:
                raise InputError(f"toolbox {name}: the source defines no function {tool!r}, which a schema names")
        return box


def _checked(toolbox: str, schema: Any) -> Schema:
    """A tool's schema in the chat template's form, or InputError. One without ``function`` is taken as its inside."""
    function = schema.get("function", schema) if isinstance(schema, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InputError(f"toolbox {toolbox}: not a tool's schema: {shorten(schema)}")
    strict_schema(f"toolbox {toolbox}: {function['name'][:60]}", function.get("parameters") or {})
    return schema if "function" in schema else {"type": "function", "function": schema}


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
