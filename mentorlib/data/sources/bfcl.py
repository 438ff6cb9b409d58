"""BFCL v4 (Berkeley Function-Calling Leaderboard): simple, multiple, parallel and irrelevance, for evaluation.

Its tools are schemas without an implementation. A task has one turn, whose calls are compared with the allowed ones
(``bfcl_match``); in irrelevance no tool fits, and making no call is correct.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from ...core import InputError, Reference
from ...rollout.bfcl_match import first_calls, mismatch
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from .rows import Row, UnusableRow, check_text, convert_rows, read_json_lines, required_text

ABOUT = {
    "origin": "ShishirPatil/gorilla, berkeley-function-call-leaderboard/bfcl_eval/data",
    "licence": "Apache-2.0",
    "simplified": "four single-turn categories of Python functions; schemas in JSON Schema's type names, as BFCL "
    "itself gives them to models with function calling; a malformed call counts as a call, so that it is wrong in "
    "irrelevance too, where BFCL accepts it; the student's own system prompt and chat template",
}

CATEGORIES = {"simple": "simple_python", "multiple": "multiple", "parallel": "parallel", "irrelevance": "irrelevance"}
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_KNOWN = {"string", "integer", "number", "boolean", "array", "object"}


def bfcl_pair(row: Row, where: str, suite: str, answers: dict[str, Any]) -> Pair:
    """Turn a row ``{id, question, function}`` into an evaluation task; its answer is the JSON of the allowed calls.

    ``answers`` are the possible answers by id. Raises UnusableRow.
    """
    task_id = row.get("id")
    if not isinstance(task_id, str) or not task_id:
        raise UnusableRow("no id", where)
    match row.get("question"):
        case [[{"role": "user", "content": content}]]:
            question = required_text({"question": content}, "question")
        case other:
            raise UnusableRow("not a single user question", other)
    functions = row.get("function")
    if not isinstance(functions, list) or not functions:
        raise UnusableRow("no functions", functions)
    schemas = [{"type": "function", "function": _function(f)} for f in functions]
    try:
        toolbox = Toolbox.from_schemas(task_id, schemas)
    except InputError as e:
        raise UnusableRow("not a function schema", e) from None
    if task_id not in answers:
        raise UnusableRow("no possible answer", task_id)
    possible = answers[task_id]
    check_text(possible)
    _check_possible(possible, toolbox.names)
    calls = first_calls(possible)
    difference = mismatch(calls, possible, schemas)
    if difference is not None:
        raise UnusableRow("the possible answer contradicts itself", difference)
    answer = json.dumps(possible, ensure_ascii=False)
    messages = [{"role": "assistant", "content": "", "tool_calls": [call.message for call in calls]}]
    if not calls:
        messages = [{"role": "assistant", "content": "None of the tools fits."}]
    return Task(task_id, question, answer, toolbox, suite, "eval", "calls"), Reference(task_id, messages, calls, answer)


def _function(function: Any) -> dict[str, Any]:
    """A function with its parameters in JSON Schema's type names."""
    match function:
        case {"name": str(name), "parameters": {"properties": dict()} as parameters} if name:
            return {**function, "parameters": _converted(parameters)}
    raise UnusableRow("not a function schema", function)


def _converted(schema: Any, depth: int = 16) -> dict[str, Any]:
    if not isinstance(schema, dict) or not isinstance(schema.get("type"), str) or depth == 0:
        raise UnusableRow("not a function schema", schema)
    kind = _TYPES.get(schema["type"], schema["type"])
    if kind not in _KNOWN:
        raise UnusableRow("not a function schema", f"unknown type {kind}")
    schema = {**schema, "type": kind}
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {key: _converted(value, depth - 1) for key, value in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _converted(schema["items"], depth - 1)
    return schema


def _check_possible(possible: Any, names: list[str]) -> None:
    """UnusableRow unless it is ``[{function: {parameter: [values]}}, …]`` with offered functions."""
    if not isinstance(possible, list):
        raise UnusableRow("not a possible answer", possible)
    for answer in possible:
        if not isinstance(answer, dict) or len(answer) != 1:
            raise UnusableRow("not a possible answer", answer)
        ((name, allowed),) = answer.items()
        if name not in names:
            raise UnusableRow("the possible answer calls a function that is not offered", name)
        _check_allowed(allowed)


def _check_allowed(allowed: Any, depth: int = 16) -> None:
    if not isinstance(allowed, dict) or depth == 0:
        raise UnusableRow("not a possible answer", allowed)
    for values in allowed.values():
        if not isinstance(values, list) or not values:
            raise UnusableRow("not a possible answer", values)
        for value in values:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    _check_allowed(part, depth - 1)


def read_bfcl(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read the four categories of BFCL's folder.

    Args:
        path: holds ``BFCL_v4_<category>.json`` and ``possible_answer/`` with the same names (none for irrelevance).

    Raises:
        InputError: a file is missing, or no row is usable.
    """
    pairs: list[Pair] = []
    rejected: list[RejectedRow] = []
    for suite, category in CATEGORIES.items():
        name = f"BFCL_v4_{category}.json"
        expected = f"the folder that holds BFCL's {name}"
        rows = read_json_lines(path / name, expected)
        labelled = rows if category == "irrelevance" else read_json_lines(path / "possible_answer" / name, expected)
        answers: dict[str, Any] = {
            row["id"]: [] if category == "irrelevance" else row.get("ground_truth")
            for _, row in labelled
            if isinstance(row, dict) and isinstance(row.get("id"), str)
        }
        convert = partial(bfcl_pair, suite=f"bfcl_{suite}", answers=answers)
        usable, unusable = convert_rows(rows, convert, unique=lambda pair: pair[0].id)
        pairs += usable
        rejected += unusable
    if not pairs:
        raise InputError(f"{path}: none of its rows is a BFCL row {{id, question, function}}")
    return pairs, rejected
