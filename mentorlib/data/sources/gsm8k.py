"""GSM8K (arXiv 2110.14168): the ``<<48/2=24>>`` of its human solutions become calls of the calculator tools."""

import ast
import math
import os
import re
from pathlib import Path
from typing import Any

from ...core import Execution, InputError, Reference, display_number
from ...task import Pair, Task
from ..check_references import RejectedRow, number, same_number
from ..problem import ExecutedCall, reference_from_calls
from ..suites.calculator import CALCULATOR
from .rows import Unusable, hold_out, json_lines, text_of, usable

ABOUT = {
    "origin": "openai/grade-school-math, train.jsonl",
    "licence": "MIT",
    "simplified": "an annotation becomes binary calls; rows whose annotations do not end on the answer are rejected",
}
ABOUT_TEST = ABOUT | {
    "origin": "openai/grade-school-math, test.jsonl",
    "simplified": "an annotation becomes binary calls; where these do not end on the answer there is no reference",
}

MAX_ANNOTATION = 200  # characters: no number in it is too large for a float, no nesting too deep

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
}
_COMPUTE = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
}


def _calls(expression: str) -> tuple[list[ExecutedCall], Any]:
    """Turn ``(5+3)*2`` into binary calls in the order they are computed; results as a policy reads them."""
    made: list[ExecutedCall] = []
    text = re.sub(r"(?<=\d),(?=\d{3})", "", expression)  # 1,200
    text = re.sub(r"(\d+(?:\.\d+)?|\.\d+)%", r"(\1/100)", text)  # 20% is a division
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)  # 05
    text = re.sub(r"[$\s]", "", text).replace("x", "*").replace("^", "**")
    try:
        if len(text) > MAX_ANNOTATION:
            raise ValueError("too long")
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise Unusable("an annotation is no arithmetic", expression) from e

    def walk(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return display_number(float(value)) if isinstance(value, float) else value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return walk(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                name = _OPERATORS[type(op)]
                a, b = walk(left), walk(right)
                try:
                    value = display_number(_COMPUTE[name](a, b))
                except (ZeroDivisionError, OverflowError) as e:
                    raise Unusable("an annotation does not compute", expression) from e
                made.append((name, {"a": a, "b": b}, value))
                return value
        raise Unusable("an annotation is no arithmetic", expression)

    return made, walk(tree)


def gsm8k_pair(row: dict[str, Any], where: str, split: str = "train") -> Pair:
    """Turn a row ``{question, answer}`` into a task with the human solution as its reference.

    The answer's ``<<48/2=24>>`` become calls; kept only if every annotation gives its value (to 1%, since people round)
    and the last one the answer after ``####``.

    Raises:
        Unusable: (reason, detail).
    """
    task = _task(row, where, "gsm8k", split)
    return task, _reference(row["answer"], task)


def _test_pair(row: dict[str, Any], where: str) -> Pair:
    """A row to evaluate on: a task also where its annotations make no reference."""
    task = _task(row, where, "gsm8k_test", "eval")
    try:
        return task, _reference(row["answer"], task)
    except Unusable:
        return task, Reference(task.id, [], [], task.answer)


def _task(row: dict[str, Any], where: str, suite: str, split: str) -> Task:
    question, solution = text_of(row, "question"), row.get("answer")
    if not isinstance(solution, str) or "####" not in solution:
        raise Unusable("no answer after ####", where)
    answer_text = solution.rsplit("####", 1)[1].strip().replace("$", "")
    try:
        answer = number(answer_text)
    except ValueError as e:
        raise Unusable("the answer is no number", answer_text) from e
    return Task(where, question, Execution(value=answer).text, CALCULATOR, suite, split)


def _reference(solution: str, task: Task) -> Reference:
    annotations = re.findall(r"<<(.*?)>>", solution)
    if not annotations:
        raise Unusable("no annotation", task.id)
    calls: list[ExecutedCall] = []
    value: Any = None
    for annotation in annotations:
        expression, equals, claimed = annotation.rpartition("=")
        try:
            stated = number(claimed.replace("$", "").replace("%", "").strip())
        except ValueError as e:
            raise Unusable("an annotation has no value", annotation) from e
        made, value = _calls(expression.split("=")[0] if equals else expression)
        if not made:
            raise Unusable("an annotation makes no call", annotation)
        if not math.isclose(float(value), stated, rel_tol=0.01, abs_tol=0.01):
            raise Unusable("an annotation gives another value", f"{annotation}: {value}")
        calls += made
    if not same_number(Execution(value=value).text, task.answer):
        raise Unusable("the last value is not the answer", f"{value}, not {task.answer}")
    return reference_from_calls(task.id, calls, task.answer)


def find(folder: Path) -> Path:
    """Where GSM8K's training rows are: in ../shared/data, or in ``folder``, fetched from the hub if they are not yet.

    Raises:
        InputError: there is none, and the hub cannot be reached.
    """
    here = Path("../shared/data/gsm8k/train.jsonl")
    fetched = folder / "gsm8k.jsonl"
    if not here.exists() and not fetched.exists():
        try:
            from datasets import load_dataset

            folder.mkdir(parents=True, exist_ok=True)
            partial = fetched.with_suffix(f".{os.getpid()}.partial")
            load_dataset("openai/gsm8k", "main", split="train").to_json(partial)
            partial.rename(fetched)
        except Exception as e:  # the hub client raises a dozen kinds; all mean the same to a user
            raise InputError(
                f"GSM8K is neither at {here} nor can it be fetched from the hub ({e.__class__.__name__}): "
                "give its path as sources=[gsm8k:…/train.jsonl], or sources=[] to do without"
            ) from e
    return here if here.exists() else fetched


def read(path: str | Path, n_eval: int = 500) -> tuple[list[Pair], list[RejectedRow]]:
    """Read GSM8K's jsonl: usable pairs (the last n_eval of them with split "eval") and the rows rejected by name.

    Raises:
        InputError: no such file, or no row of it is usable.
    """
    rows = json_lines(Path(path), "GSM8K's train.jsonl")
    like = "a GSM8K row {question, answer} with <<…>> annotations"
    pairs, rejected = usable(path, rows, gsm8k_pair, like)
    return hold_out(pairs, n_eval), rejected


def read_test(path: str | Path, n_eval: int = 0) -> tuple[list[Pair], list[RejectedRow]]:
    """Read a GSM8K jsonl to evaluate on, such as its test.jsonl: suite gsm8k_test, all of it held out.

    A row whose annotations make no reference is a task all the same.

    Raises:
        InputError: no such file, or no row of it is usable.
    """
    rows = json_lines(Path(path), "GSM8K's test.jsonl")
    return usable(path, rows, _test_pair, "a GSM8K row {question, answer}")
