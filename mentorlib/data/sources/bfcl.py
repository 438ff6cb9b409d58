"""BFCL v4 (Berkeley Function-Calling Leaderboard): simple, multiple, parallel and irrelevance, for evaluation.

Its tools are schemas without an implementation. A task takes one turn, and the calls in it are what is graded
(``ast_match``); in irrelevance no tool fits, and no call is right.
"""

import json
from pathlib import Path
from typing import Any

from ...core import InputError, Reference
from ...rollout.bfcl_match import first_calls, mismatch
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from .rows import Unusable, check_text, convert, json_lines, text_of

ABOUT = {
    "origin": "ShishirPatil/gorilla, berkeley-function-call-leaderboard/bfcl_eval/data",
    "licence": "Apache-2.0",
    "simplified": "four single-turn categories of Python functions; schemas in JSON Schema's type names, as BFCL "
    "itself gives them to models with function calling; a call that was begun and cannot be read counts as a call, so "
    "that it is wrong in irrelevance too, where BFCL pays it; the student's own system prompt and chat template",
}

CATEGORIES = {"simple": "simple_python", "multiple": "multiple", "parallel": "parallel", "irrelevance": "irrelevance"}
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_KNOWN = {"string", "integer", "number", "boolean", "array", "object"}


def bfcl_pair(row: dict[str, Any], where: str, suite: str, answers: dict[str, Any]) -> Pair:
    """Turn a row ``{id, question, function}`` into an evaluation task; its answer is the JSON of the allowed calls.

    Args:
        row: as BFCL has it.
        where: file and line.
        suite: of the task.
        answers: possible answers by id.

    Raises:
        Unusable: (reason, detail).
    """
    known = row.get("id")
    if not isinstance(known, str) or not known:
        raise Unusable("no id", where)
    match row.get("question"):
        case [[{"role": "user", "content": content}]]:
            question = text_of({"question": content}, "question")
        case other:
            raise Unusable("not one question of a user", other)
    functions = row.get("function")
    if not isinstance(functions, list) or not functions:
        raise Unusable("no functions", functions)
    schemas = [{"type": "function", "function": _function(f)} for f in functions]
    try:
        toolbox = Toolbox.from_schemas(known, schemas)
    except InputError as e:
        raise Unusable("not a function's schema", e) from None
    if known not in answers:
        raise Unusable("no possible answer", known)
    possible = answers[known]
    check_text(possible)
    _check_possible(possible, toolbox.names)
    calls = first_calls(possible)
    wrong = mismatch(calls, possible, schemas)
    if wrong is not None:
        raise Unusable("the possible answer breaks its own rules", wrong)
    answer = json.dumps(possible, ensure_ascii=False)
    messages = [{"role": "assistant", "content": "", "tool_calls": [call.message for call in calls]}]
    if not calls:
        messages = [{"role": "assistant", "content": "None of the tools fits."}]
    return Task(known, question, answer, toolbox, suite, "eval", "calls"), Reference(known, messages, calls, answer)


def _function(function: Any) -> dict[str, Any]:
    """A function with its parameters in JSON Schema's type names; Unusable if it is not one."""
    match function:
        case {"name": str(name), "parameters": {"properties": dict()} as parameters} if name:
            return {**function, "parameters": _converted(parameters)}
    raise Unusable("not a function's schema", function)


def _converted(schema: Any, depth: int = 16) -> dict[str, Any]:
    if not isinstance(schema, dict) or not isinstance(schema.get("type"), str) or depth == 0:
        raise Unusable("not a function's schema", schema)
    kind = _TYPES.get(schema["type"], schema["type"])
    if kind not in _KNOWN:
        raise Unusable("not a function's schema", f"unknown type {kind}")
    schema = {**schema, "type": kind}
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {key: _converted(value, depth - 1) for key, value in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _converted(schema["items"], depth - 1)
    return schema


def _check_possible(possible: Any, names: list[str]) -> None:
    """Unusable unless it is ``[{function: {parameter: [values]}}, …]`` with functions that are offered."""
    if not isinstance(possible, list):
        raise Unusable("not a possible answer", possible)
    for answer in possible:
        if not isinstance(answer, dict) or len(answer) != 1:
            raise Unusable("not a possible answer", answer)
        ((name, allowed),) = answer.items()
        if name not in names:
            raise Unusable("the possible answer calls a function that is not offered", name)
        _check_allowed(allowed)


def _check_allowed(allowed: Any, depth: int = 16) -> None:
    if not isinstance(allowed, dict) or depth == 0:
        raise Unusable("not a possible answer", allowed)
    for values in allowed.values():
        if not isinstance(values, list) or not values:
            raise Unusable("not a possible answer", values)
        for value in values:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    _check_allowed(part, depth - 1)


def read(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[RejectedRow]]:
    """Read the four categories of a folder as BFCL has it: evaluation tasks, and the rows rejected by name.

    Args:
        path: holds ``BFCL_v4_<category>.json`` and ``possible_answer/`` with the same names (none for irrelevance).
        n_eval: all rows are held out.

    Raises:
        InputError: a file is missing, or no row is usable.
    """
    path = Path(path)
    pairs: list[Pair] = []
    rejected: list[RejectedRow] = []
    for suite, category in CATEGORIES.items():
        name = f"BFCL_v4_{category}.json"
        what = f"the folder that holds BFCL's {name}"
        rows = json_lines(path / name, what)
        answers: dict[str, Any]
        if category == "irrelevance":
            answers = {row["id"]: [] for _, row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)}
        else:
            given = [row for _, row in json_lines(path / "possible_answer" / name, what) if isinstance(row, dict)]
            answers = {row["id"]: row.get("ground_truth") for row in given if isinstance(row.get("id"), str)}
        seen: set[str] = set()

        def make(row: dict[str, Any], where: str, suite: str = suite, answers: Any = answers, seen: Any = seen) -> Pair:
            pair = bfcl_pair(row, where, f"bfcl_{suite}", answers)
            if pair[0].id in seen:
                raise Unusable("the id stands twice", pair[0].id)
            seen.add(pair[0].id)
            return pair

        made, refused = convert(rows, make)
        pairs += made
        rejected += refused
    if not pairs:
        raise InputError(f"{path}: none of its rows is a BFCL row {{id, question, function}}")
    return pairs, rejected
