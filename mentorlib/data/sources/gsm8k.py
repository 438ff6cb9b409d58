"""GSM8K (arXiv 2110.14168): the ``<<48/2=24>>`` of its human solutions become calls of the calculator tools."""

import math
import os
import re
from pathlib import Path
from typing import Any

from ...core import Execution, InputError, Reference
from ...task import Pair, Task
from ..check_references import RejectedRow, parse_number, same_number
from ..problem import ExecutedCall, reference_from_calls
from ..suites.calculator import CALCULATOR
from .arithmetic import expression_calls
from .rows import Row, UnusableRow, convert_file, read_json_lines, required_text

ABOUT = {
    "origin": "openai/grade-school-math, train.jsonl",
    "licence": "MIT",
    "simplified": "an annotation becomes binary calls; rows whose annotations do not end in the answer are rejected",
}
ABOUT_TEST = ABOUT | {
    "origin": "openai/grade-school-math, test.jsonl",
    "simplified": "an annotation becomes binary calls; if these do not end in the answer there is no reference",
}


def gsm8k_pair(row: Row, where: str) -> Pair:
    """Turn a row ``{question, answer}`` into a training task with the human solution as its reference.

    The answer's ``<<48/2=24>>`` become calls. Each annotation must give its value (to 1%, since people round) and the
    last one the answer after ``####``; else UnusableRow is raised.
    """
    task = _task(row, where, "gsm8k", "train")
    return task, _reference(row["answer"], task)


def _test_pair(row: Row, where: str) -> Pair:
    """An evaluation task, also if its annotations give no reference."""
    task = _task(row, where, "gsm8k_test", "eval")
    try:
        return task, _reference(row["answer"], task)
    except UnusableRow:
        return task, Reference(task.id, [], [], task.answer)


def _task(row: Row, where: str, suite: str, split: str) -> Task:
    question, solution = required_text(row, "question"), row.get("answer")
    if not isinstance(solution, str) or "####" not in solution:
        raise UnusableRow("no answer after ####", where)
    answer_text = solution.rsplit("####", 1)[1].strip().replace("$", "")
    try:
        answer = parse_number(answer_text)
    except ValueError as e:
        raise UnusableRow("the answer is not a number", answer_text) from e
    return Task(where, question, Execution(value=answer).text, CALCULATOR, suite, split, "math")


def _reference(solution: str, task: Task) -> Reference:
    annotations = re.findall(r"<<(.*?)>>", solution)
    if not annotations:
        raise UnusableRow("no annotation", task.id)
    calls: list[ExecutedCall] = []
    value: Any = None
    for annotation in annotations:
        expression, equals, claimed = annotation.rpartition("=")
        try:
            stated = parse_number(claimed.replace("$", "").replace("%", "").strip())
        except ValueError as e:
            raise UnusableRow("an annotation has no value", annotation) from e
        made, value = expression_calls(expression.split("=")[0] if equals else expression, "an annotation")
        if not made:
            raise UnusableRow("an annotation makes no call", annotation)
        if not math.isclose(float(value), stated, rel_tol=0.01, abs_tol=0.01):
            raise UnusableRow("an annotation has a wrong value", f"{annotation}: {value}")
        calls += made
    if not same_number(Execution(value=value).text, task.answer):
        raise UnusableRow("the last value is not the answer", f"{value}, not {task.answer}")
    return reference_from_calls(task.id, calls, task.answer)


def find_training_file(downloads: Path) -> Path:
    """GSM8K's training rows in ../shared/data, or in ``downloads``, fetched from the hub if they are not there yet.

    Raises:
        InputError: there is no file, and the hub cannot be reached.
    """
    shared = Path("../shared/data/gsm8k/train.jsonl")
    fetched = downloads / "gsm8k.jsonl"
    if not shared.exists() and not fetched.exists():
        try:
            from datasets import load_dataset

            downloads.mkdir(parents=True, exist_ok=True)
            partial = fetched.with_suffix(f".{os.getpid()}.partial")
            load_dataset("openai/gsm8k", "main", split="train").to_json(partial)
            partial.rename(fetched)
        except Exception as e:  # the hub client raises many types, all with the same meaning for a user
            raise InputError(
                f"GSM8K is neither at {shared} nor can it be fetched from the hub ({e.__class__.__name__}): "
                "give its path as sources=[gsm8k:…/train.jsonl], or sources=[] to do without"
            ) from e
    return shared if shared.exists() else fetched


def read_gsm8k(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read GSM8K's training rows; raises InputError if there is no such file or no usable row."""
    rows = read_json_lines(path, "GSM8K's train.jsonl")
    return convert_file(path, rows, gsm8k_pair, "a GSM8K row {question, answer} with <<…>> annotations")


def read_gsm8k_test(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read GSM8K rows for evaluation, such as its test.jsonl; raises InputError if there is no usable row."""
    return convert_file(path, read_json_lines(path, "GSM8K's test.jsonl"), _test_pair, "a GSM8K row {question, answer}")
