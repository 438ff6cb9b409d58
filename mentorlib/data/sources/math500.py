"""MATH-500 (arXiv 2305.20050): competition mathematics, for evaluation; the human solution stands as the reference."""

from pathlib import Path
from typing import Any

from ...core import Reference
from ...task import Pair, Task
from ..check_references import RejectedRow
from ..suites.calculator import CALCULATOR
from .rows import json_lines, text_of, usable

ABOUT = {
    "origin": "MATH-500 (HuggingFaceH4/MATH-500 and its copies), JSON Lines of {problem, solution, answer}",
    "licence": "MIT",
    "simplified": "the twelve calculator tools are offered, which few problems need; the human solution calls none",
}


def math500_pair(row: dict[str, Any], where: str) -> Pair:
    """Turn a row ``{problem, solution, answer}`` into an evaluation task.

    Raises:
        Unusable: (reason, detail).
    """
    problem, solution, answer = (text_of(row, key) for key in ("problem", "solution", "answer"))
    task = Task(where, problem, answer, CALCULATOR, "math500", "eval")
    return task, Reference(where, [{"role": "assistant", "content": solution}], [], answer)


def read(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[RejectedRow]]:
    """Read MATH-500's jsonl: evaluation tasks, and the rows rejected by name. All rows are held out.

    Raises:
        InputError: no such file, or no row of it is usable.
    """
    rows = json_lines(Path(path), "MATH-500's jsonl")
    return usable(path, rows, math500_pair, "a MATH-500 row {problem, solution, answer}")
