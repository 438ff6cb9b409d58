"""MATH-500 (arXiv 2305.20050): competition mathematics, for evaluation; the human solution is the reference."""

from pathlib import Path

from ...core import Reference
from ...task import Pair, Task
from ..check_references import RejectedRow
from ..suites.calculator import CALCULATOR
from .rows import Row, convert_file, read_json_lines, required_text

ABOUT = {
    "origin": "MATH-500 (HuggingFaceH4/MATH-500 and its copies), JSON Lines of {problem, solution, answer}",
    "licence": "MIT",
    "simplified": "the twelve calculator tools are offered, which few problems need; the human solution calls none",
}


def math500_pair(row: Row, where: str) -> Pair:
    """Turn a row ``{problem, solution, answer}`` into an evaluation task; raises UnusableRow."""
    problem, solution, answer = (required_text(row, key) for key in ("problem", "solution", "answer"))
    task = Task(where, problem, answer, CALCULATOR, "math500", "eval", "math")
    return task, Reference(where, [{"role": "assistant", "content": solution}], [], answer)


def read_math500(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read MATH-500's JSON Lines; raises InputError if there is no such file or no usable row."""
    rows = read_json_lines(path, "MATH-500's jsonl")
    return convert_file(path, rows, math500_pair, "a MATH-500 row {problem, solution, answer}")
