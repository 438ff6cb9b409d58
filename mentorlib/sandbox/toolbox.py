"""A named set of tools: their source, their JSON schemas, and a strict front door.

A tool is a typed Python function with a Google docstring. What a policy writes is parsed, checked against the schema
(no extra argument, no coercion, no NaN) and handed on as a name and a dict; a call is never made into code.
"""

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from ..core import Call, Execution, InputError
from .pool import Job, Sandbox
from .schemas import _carry, _said, _schema_of
from .validate import Schema, ToolError, argument_validator, check_arguments, parse_strictly, shorten, strict_schema


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

    @cached_property
    def _validators(self) -> dict[str, Any]:
        """By tool; made when the first call comes, as most toolboxes that are loaded see few calls or none."""
        return {
            schema["function"]["name"]: argument_validator(
                f"toolbox {self.name}: {schema['function']['name']}", schema["function"].get("parameters") or {}
            )
            for schema in self.schemas
        }

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
        call = parse_strictly(raw)
        validator = self._validators.get(call.name)
        if validator is None:
            names = f"there are: {', '.join(self.names)}" if self.schemas else "no tool is offered"
            raise ToolError(f"no tool named {call.name[:60]!r}; {names}")
        check_arguments(call.name, call.arguments, validator)
        return call

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
                raise InputError(f"toolbox {name}: not a tool's schema: {shorten(schema)}")
            strict_schema(f"toolbox {name}: {shorten(function['name'])}", function.get("parameters") or {})
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
                raise InputError(f"toolbox {name}: the source defines no function for the schema {shorten(schema)}")
            strict_schema(f"toolbox {name}: {function['name']}", function.get("parameters") or {})
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
