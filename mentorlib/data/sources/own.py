"""A user's questions: a folder with ``tasks.jsonl`` and the tools in ``tools.py`` (docs/data.md, docs/tools.md).

The tools' file is parsed and never imported: its calls run in the sandbox, each in its own process.
"""

import math
from functools import partial
from pathlib import Path

from ...core import Execution, InputError, Metric, Reference
from ...sandbox.pool import Sandbox
from ...sandbox.toolbox import Toolbox
from ...task import Pair, Task
from ..check_references import RejectedRow, load_errors
from ..suites import SUITES
from .rows import Row, UnusableRow, convert_file, read_json_lines, read_text, required_text

ABOUT = {
    "origin": "the user's own tasks.jsonl and tools.py",
    "licence": "the user's own",
    "simplified": "there are no references: train by GRPO with the reward sparse or none, or sample a teacher model",
}
KEYS = {"question", "answer", "tools", "metric"}
_FOLDER = "a folder with tasks.jsonl and tools.py"
METRICS: tuple[Metric, ...] = ("answer", "math", "text", "words")


def own_pair(row: Row, where: str, suite: str, toolbox: Toolbox) -> Pair:
    """Turn a row ``{question, answer, tools?, metric?}`` into a task without a reference.

    Args:
        row: the answer is a text or a number; tools are names from tools.py, by default all of them; metric says how
            answers are compared (core.py's glossary), by default "answer".
        where: file and line.
        suite: of the task.
        toolbox: the tools of tools.py.

    Raises:
        UnusableRow: (reason, detail).
    """
    unknown = sorted(set(row) - KEYS)
    if unknown:
        raise UnusableRow("an unknown key", f"{unknown[0]}: a row has question, answer and optionally tools, metric")
    question = required_text(row, "question")
    answer = row.get("answer")
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        if isinstance(answer, float) and not math.isfinite(answer):  # it fails on a whole number of 400 digits
            raise UnusableRow("the answer is not a finite number", answer)
        row = {**row, "answer": Execution(value=answer).text}
    answer = required_text(row, "answer")
    offered = row.get("tools", toolbox.names)
    if not isinstance(offered, list) or not all(isinstance(name, str) for name in offered):
        raise UnusableRow("tools is not a list of names", offered)
    try:
        chosen = toolbox if offered == toolbox.names else toolbox.subset(list(dict.fromkeys(offered)))
    except InputError as e:
        raise UnusableRow("a tool that is not in tools.py", e) from None
    metric = row.get("metric", "answer")
    if metric not in METRICS:
        raise UnusableRow("an unknown metric", f"{metric}: give one of {', '.join(METRICS)}, or leave it out")
    task = Task(f"{suite}-{where.rpartition(':')[2]}", question, answer, chosen, suite, metric=metric)
    return task, Reference(task.id, [], [], answer)


def read_own(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read a folder's tasks; the folder's name becomes their suite.

    Raises:
        InputError: a file is missing or cannot be read, a tool has no usable signature, or no row is usable.
    """
    toolbox = read_tools(path)
    suite = toolbox.name
    rows = read_json_lines(path / "tasks.jsonl", _FOLDER)
    return convert_file(
        path / "tasks.jsonl",
        [(f"{suite}/{where}", row) for where, row in rows],
        partial(own_pair, suite=suite, toolbox=toolbox),
        "usable",
        unique=lambda pair: pair[0].question,
    )


def check_own(path: Path) -> None:
    """Check a folder before anything is built: its files are there, and its tools are usable and load in the sandbox.

    Raises:
        InputError: as read_own, without reading the tasks; or tools.py does not load.
    """
    read_text(path / "tasks.jsonl", _FOLDER)
    toolbox = read_tools(path)
    with Sandbox(workers=1) as sandbox:
        for error in load_errors({toolbox.source: toolbox}, sandbox).values():
            raise InputError(f"{path / 'tools.py'} does not load in the sandbox: {error}")


def read_tools(path: Path) -> Toolbox:
    """The toolbox of a folder's tools.py, under the folder's name; InputError as read_own."""
    suite = path.resolve().name
    if suite in SUITES or not suite.replace("-", "_").isidentifier():
        raise InputError(
            f"{path}: {suite!r} is the name of a built-in suite or has other characters than letters, digits, _ and -, "
            "and it becomes the tasks' suite: rename the folder"
        )
    source = read_text(path / "tools.py", f"{_FOLDER} (empty to do without tools)")
    try:
        return Toolbox.from_source(suite, source)
    except InputError as e:
        raise InputError(f"{path / 'tools.py'}: {e} (name helpers with a leading _)") from None
