"""The parquet that MENTOR (arXiv 2510.18383) was trained on: questions, tools as source, names of the teacher's tools.

The source (``env``) is a stranger's: nothing of it runs outside the sandbox, and there each call has its own process.
"""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ...core import Call, InputError, Reference
from ...runs.files import jsonable
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from .rows import Unusable, check_text, convert, hold_out, text_of

ABOUT = {
    "origin": "MENTOR-RL/MENTOR-data on the hub, train-00000-of-00001.parquet",
    "licence": "see the data set's page (the paper's repository is CC BY 4.0)",
    "simplified": "it names the teacher's tools but not its calls or turns: enough for GRPO by any reward that "
    "compares tool names, not for SFT or strict; of several gold answers the first is taken; placeholders in env are "
    "not filled",
}


def mentor_pair(row: dict[str, Any], where: str, boxes: dict[tuple[str, str], Toolbox]) -> Pair:
    """Turn a row into a task with its own toolbox, and a reference that holds the names of the tools alone.

    Args:
        row: ``question``, ``reward_model`` ({ground_truth}), ``extra_info`` ({func_schemas, env}), ``tool_calls_used``;
            each of the last three as an object or as its JSON.
        where: file and row.
        boxes: toolboxes made before, by source and schemas: rows share them.

    Raises:
        Unusable: (reason, detail).
    """
    question = text_of(row, "question")
    match _parsed(row.get("reward_model")):
        case {"ground_truth": [gold, *_]} | {"ground_truth": gold} if _is_answer(gold):
            answer = text_of({"ground truth": str(gold).strip()}, "ground truth")
        case other:
            raise Unusable("no ground truth", other)
    extra = _parsed(row.get("extra_info"))
    if not isinstance(extra, dict) or not isinstance(extra.get("env"), str) or not extra["env"].strip():
        raise Unusable("no env with the tools' source", extra)
    schemas = _parsed(extra.get("func_schemas"))
    if not isinstance(schemas, list) or not schemas or not all(isinstance(s, dict) for s in schemas):
        raise Unusable("no func_schemas", schemas)
    check_text([answer, schemas])
    key = extra["env"], json.dumps(schemas)
    try:
        if key not in boxes:
            boxes[key] = Toolbox.from_source("mentor", extra["env"], schemas)
    except InputError as e:
        raise Unusable("the tools cannot be read", e) from None
    used = _parsed(row.get("tool_calls_used"))
    names = [u.get("name") if isinstance(u, dict) else u for u in used] if isinstance(used, list) else None
    if names is None or any(not isinstance(name, str) for name in names):
        raise Unusable("tool_calls_used is no list of tools", used)
    if not names:
        raise Unusable("the teacher used no tool", used)
    unknown = [name for name in names if name not in boxes[key].names]
    if unknown:
        raise Unusable("the teacher used a tool that is not offered", unknown[0])
    return Task(where, question, answer, boxes[key], "mentor"), Reference(
        where, [], [Call(str(n), {}) for n in names], answer
    )


def _is_answer(gold: Any) -> bool:
    if isinstance(gold, int | float):
        return math.isfinite(gold) and not isinstance(gold, bool)
    return isinstance(gold, str)


def _parsed(value: Any) -> Any:
    """What a cell holds: arrays as lists, and a text that is JSON as what it says."""
    try:
        value = jsonable(value)
        return json.loads(value) if isinstance(value, str) else value
    except (TypeError, ValueError, RecursionError):  # bytes, or a text that is not JSON
        return None


def read(path: str | Path, n_eval: int = 500) -> tuple[list[Pair], list[RejectedRow]]:
    """Read MENTOR's parquet: usable pairs (the last n_eval of them with split "eval") and the rows rejected by name.

    Raises:
        InputError: no such file, no parquet, a column is missing, or no row is usable.
    """
    path = Path(path)
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path}: cannot be read as parquet ({e.__class__.__name__}): give MENTOR's train.parquet"
        ) from None
    missing = [c for c in ("question", "reward_model", "extra_info", "tool_calls_used") if c not in frame.columns]
    if missing:
        raise InputError(f"{path}: lacks column {missing[0]!r}: give the parquet that MENTOR was trained on")
    boxes: dict[tuple[str, str], Toolbox] = {}
    rows = [(f"{path.name}:{i}", row) for i, row in enumerate(frame.to_dict("records"), start=1)]
    pairs, rejected = convert(rows, lambda row, where: mentor_pair(row, where, boxes))
    if not pairs:
        why = f" ({rejected[0].where}: {rejected[0].reason})" if rejected else ""
        raise InputError(f"{path}: none of its {len(rows)} rows is usable{why}")
    return hold_out(pairs, n_eval), rejected
