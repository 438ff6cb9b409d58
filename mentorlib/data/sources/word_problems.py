"""Arithmetic word problems with equations, which become calls: SVAMP (arXiv 2103.07191) and MAWPS (NAACL 2016)."""

import csv
import io
import re
from functools import partial
from pathlib import Path

from ...core import Execution, InputError
from ...task import Pair, Task
from ..check_references import RejectedRow, parse_number, same_number
from ..problem import reference_from_calls
from ..suites.calculator import CALCULATOR
from .arithmetic import expression_calls
from .rows import Located, Row, UnusableRow, convert_file, read_json_list, read_text, required_text

ABOUT_SVAMP = {
    "origin": "arkilpatel/SVAMP, SVAMP.json",
    "licence": "MIT",
    "simplified": "for evaluation alone; the equation becomes binary calls; rows whose equation does not give the "
    "answer are rejected",
}
ABOUT_MAWPS = {
    "origin": "arkilpatel/SVAMP, data/cv_mawps: train.csv and dev.csv of a fold",
    "licence": "MIT",
    "simplified": "the equation becomes binary calls; rows whose equation does not give the answer are rejected",
}


def svamp_pair(row: Row, where: str) -> Pair:
    """Turn a row ``{Body, Question, Equation, Answer}`` into an evaluation task; raises UnusableRow."""
    body, question = required_text(row, "Body").strip(), required_text(row, "Question").strip()
    # Some bodies are the first half of the question's sentence: "If each costs 3 dollars", "How much …".
    text = f"{body} {question}" if body[-1] in ".?!," else f"{body}, {question[0].lower()}{question[1:]}"
    return _pair(text, required_text(row, "Equation"), str(row.get("Answer")), where, "svamp", "eval")


def mawps_pair(row: Row, where: str, suite: str, split: str) -> Pair:
    """Turn a row ``{Question, Numbers, Equation, Answer}`` into a task; raises UnusableRow.

    ``number0``, ``number1`` … in the question and in the equation, which is in prefix notation, stand for ``Numbers``.
    """
    question, equation = required_text(row, "Question"), required_text(row, "Equation")
    numbers = required_text(row, "Numbers").split()

    def number(match: re.Match[str]) -> str:
        try:
            return Execution(value=parse_number(numbers[int(match[1])])).text
        except (IndexError, ValueError):
            raise UnusableRow("a number is missing", match[0]) from None

    question = re.sub(r"number(\d+)", number, question)
    question = re.sub(r" (?=[.,?!;:']|n't\b)", "", question)  # the data set is cut into words
    infix = _infix(re.sub(r"number(\d+)", number, equation).split(), equation)
    return _pair(question, infix, required_text(row, "Answer"), where, suite, split)


def _infix(words: list[str], equation: str) -> str:
    """``* 8 + 4 6`` -> ``(8*(4+6))``."""
    stack: list[str] = []
    for word in reversed(words):
        if word in ("+", "-", "*", "/"):
            if len(stack) < 2:
                raise UnusableRow("the equation is not arithmetic", equation)
            stack.append(f"({stack.pop()}{word}{stack.pop()})")
        else:
            stack.append(word)
    if len(stack) != 1:
        raise UnusableRow("the equation is not arithmetic", equation)
    return stack[0]


def _pair(question: str, equation: str, stated: str, where: str, suite: str, split: str) -> Pair:
    calls, value = expression_calls(equation, "the equation")
    try:
        answer = Execution(value=parse_number(stated)).text
    except ValueError:
        raise UnusableRow("the answer is not a number", stated) from None
    if not calls:
        raise UnusableRow("the equation makes no call", equation)
    if not same_number(Execution(value=value).text, answer):
        raise UnusableRow("the equation does not give the answer", f"{equation} is {value}, not {answer}")
    return Task(where, question, answer, CALCULATOR, suite, split, "math"), reference_from_calls(where, calls, answer)


def read_svamp(path: Path) -> tuple[list[Pair], list[RejectedRow]]:
    """Read SVAMP.json for evaluation; raises InputError if there is no such file or no usable row."""
    rows = read_json_list(path, "SVAMP.json")
    return convert_file(path, rows, svamp_pair, "a SVAMP row {Body, Question, Equation, Answer}")


def read_mawps(path: Path, suite: str = "mawps", split: str = "train") -> tuple[list[Pair], list[RejectedRow]]:
    """Read a CSV file of MAWPS; raises InputError if there is no such file or no usable row."""
    lines = csv.DictReader(io.StringIO(read_text(path, "a CSV file of MAWPS")))
    try:
        rows: list[Located] = [(f"{path.name}:{lines.line_num}", row) for row in lines]
    except csv.Error as error:  # such as a field of more than 131,072 characters
        raise InputError(f"{path}, line {lines.line_num}: not CSV ({error}): fix or remove the line") from None
    convert = partial(mawps_pair, suite=suite, split=split)
    return convert_file(path, rows, convert, "a MAWPS row {Question, Numbers, Equation, Answer}")
