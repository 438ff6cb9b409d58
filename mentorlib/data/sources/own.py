"""A user's own questions: a folder with ``tasks.jsonl`` and the tools in ``tools.py`` (docs/data.md, docs/tools.md).

The tools' file is read and never imported: calls of it run in the sandbox, each in a process of its own.
"""

import math
from pathlib import Path
from typing import Any

from ...core import Execution, InputError, Reference
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow
from ..suites import SUITES
from .rows import Unusable, convert, hold_out, json_lines, read_text, text_of

ABOUT = {
    "origin": "the user's own tasks.jsonl and tools.py",
    "licence": "the user's own",
    "simplified": "there is no teacher: train by GRPO with the reward sparse or none, or let a model do the tasks",
}
KEYS = {"question", "answer", "tools"}


def own_pair(row: dict[str, Any], where: str, suite: str, toolbox: Toolbox) -> Pair:
    """Turn a row ``{question, answer, tools?}`` into a task without a reference.

    Args:
        row: the answer is a text or a number; tools are names from tools.py, all of them where there is no such key.
        where: file and line.
        suite: of the task.
        toolbox: what tools.py defines.

    Raises:
        Unusable: (reason, detail).
    """
    unknown = sorted(set(row) - KEYS)
    if unknown:
        raise Unusable("an unknown key", f"{unknown[0]}: a row has question, answer and perhaps tools")
    question = text_of(row, "question")
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        if not math.isfinite(answer):
            raise Unusable("the answer is no finite number", answer)
        row = {**row, "answer": Execution(value=answer).text}
    answer = text_of(row, "answer")
    offered = row.get("tools", toolbox.names)
    if not isinstance(offered, list) or not all(isinstance(name, str) for name in offered):
        raise Unusable("tools is no list of names", offered)
    try:
        chosen = toolbox if offered == toolbox.names else toolbox.subset(list(dict.fromkeys(offered)))
    except InputError as e:
        raise Unusable("a tool that is not in tools.py", e) from None
    task = Task(f"{suite}-{where.rpartition(':')[2]}", question, answer, chosen, suite)
    return task, Reference(task.id, [], [], answer)


def read(path: str | Path, n_eval: int = 500) -> tuple[list[Pair], list[RejectedRow]]:
    """Read a folder's tasks: usable ones (the last n_eval, a fifth at most, with split "eval"), and the rows rejected.

    The suite has the folder's name.

    Raises:
        InputError: a file is missing or cannot be read, a tool is not as tools must be, or no row is usable.
    """
    folder = Path(path)
    suite = folder.resolve().name
    if suite in SUITES or not suite.replace("-", "_").isidentifier():
        raise InputError(
            f"{folder}: its name becomes the suite's: rename it, in letters, digits, _ and -, not {suite!r}"
        )
    lines = json_lines(folder / "tasks.jsonl", "a folder with tasks.jsonl and tools.py")
    rows = [(f"{suite}/{where}", row) for where, row in lines]
    source = read_text(folder / "tools.py", "a folder with tasks.jsonl and tools.py (empty to do without tools)")
    try:
        toolbox = Toolbox.from_source(suite, source)
    except InputError as e:
        raise InputError(f"{folder / 'tools.py'}: {e} (name helpers with a leading _)") from None
    seen: set[str] = set()

    def make(row: dict[str, Any], where: str) -> Pair:
        pair = own_pair(row, where, suite, toolbox)
        if pair[0].question in seen:
            raise Unusable("the question stands twice", pair[0].question)
        seen.add(pair[0].question)
        return pair

    pairs, rejected = convert(rows, make)
    if not pairs:
        why = f" ({rejected[0].where}: {rejected[0].reason}: {rejected[0].detail})" if rejected else ""
        raise InputError(f"{folder / 'tasks.jsonl'}: none of its {len(rows)} rows is usable{why}")
    return hold_out(pairs, n_eval), rejected
