"""The parquet that MENTOR (arXiv 2510.18383) was trained on: questions, tools as source, names of the teacher's tools.

The tools' source (``env``) is untrusted: it runs only in the sandbox, where each call has its own process.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from ...core import Call, Execution, InputError, Reference
from ...runs.files import jsonable, read_parquet
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from .rows import Row, UnusableRow, check_text, convert_file, required_text

ABOUT = {
    "origin": "MENTOR-RL/MENTOR-data on the hub, train-00000-of-00001.parquet",
    "licence": "see the data set's page (the paper's repository is CC BY 4.0)",
    "simplified": "it names the teacher's tools but not its calls or turns: enough for GRPO by any reward that "
    "compares tool names, not for SFT or strict; the first of several gold answers is used; placeholders in env are "
    "not filled",
}


def mentor_pair(row: Row, where: str, toolboxes: dict[tuple[str, str], Toolbox]) -> Pair:
    """Turn a row into a task with its own toolbox, and a reference with only the names of the teacher's tools.

    Args:
        row: ``question``, ``reward_model`` ({ground_truth}), ``extra_info`` ({func_schemas, env}), ``tool_calls_used``;
            each of the last three as an object or as its JSON.
        where: file and row.
        toolboxes: cache by source and schemas, shared by the rows.

    Raises:
        UnusableRow: (reason, detail).
    """
    question = required_text(row, "question")
    match _parsed(row.get("reward_model")):
        case {"ground_truth": [gold, *_]} | {"ground_truth": gold} if _is_answer(gold):
            answer = required_text({"ground truth": Execution(value=gold).text.strip()}, "ground truth")
        case other:
            raise UnusableRow("no ground truth", other)
    extra = _parsed(row.get("extra_info"))
    if not isinstance(extra, dict) or not isinstance(extra.get("env"), str) or not extra["env"].strip():
        raise UnusableRow("no env with the tools' source", extra)
    schemas = _parsed(extra.get("func_schemas"))
    if not isinstance(schemas, list) or not schemas or not all(isinstance(s, dict) for s in schemas):
        raise UnusableRow("no func_schemas", schemas)
    check_text([answer, schemas])
    key = extra["env"], json.dumps(schemas)
    try:
        if key not in toolboxes:
            toolboxes[key] = Toolbox.from_source("mentor", extra["env"], schemas)
    except InputError as e:
        raise UnusableRow("the tools cannot be read", e) from None
    used = _parsed(row.get("tool_calls_used"))
    names = [u.get("name") if isinstance(u, dict) else u for u in used] if isinstance(used, list) else None
    if names is None or any(not isinstance(name, str) for name in names):
        raise UnusableRow("tool_calls_used is not a list of tools", used)
    if not names:
        raise UnusableRow("the teacher used no tool", used)
    unknown = [name for name in names if name not in toolboxes[key].names]
    if unknown:
        raise UnusableRow("the teacher used a tool that is not offered", unknown[0])
    return Task(where, question, answer, toolboxes[key], "mentor"), Reference(
        where, [], [Call(str(n), {}) for n in names], answer
    )


def _is_answer(gold: Any) -> bool:
    if isinstance(gold, float):
        return math.isfinite(gold)
    return isinstance(gold, str | int) and not isinstance(gold, bool)


def _parsed(value: Any) -> Any:
    """A cell's value: JSON texts parsed, objects without Arrow's padding."""
    try:
        return json.loads(value) if isinstance(value, str) else _unpadded(jsonable(value))
    except (TypeError, ValueError, RecursionError):  # bytes, or a text that is not JSON
        return None


def _unpadded(value: Any) -> Any:
    """Objects of a column without the keys that only other rows have, which Arrow gives the value null.

    An object all of whose keys are null is padding too, except where a tool has no parameters.
    """
    if isinstance(value, list):
        return [_unpadded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _unpadded(item) for key, item in value.items() if item is not None}
    return {k: v for k, v in kept.items() if v != {} or not value[k] or k in ("properties", "parameters")}


def read_mentor(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read MENTOR's parquet.

    Raises:
        InputError: no such file, not parquet, a column is missing, or no row is usable.
    """
    try:
        table = read_parquet(path)
    except InputError as e:
        raise InputError(f"{e}: give MENTOR's train.parquet") from None
    missing = [c for c in ("question", "reward_model", "extra_info", "tool_calls_used") if table and c not in table[0]]
    if missing:
        raise InputError(f"{path}: lacks column {missing[0]!r}: give the parquet that MENTOR was trained on")
    rows = [(f"{path.name}:{i}", row) for i, row in enumerate(table, start=1)]
    return convert_file(path, rows, partial(mentor_pair, toolboxes={}), "usable")
