"""Where references come from, and the check that each must pass: run its calls, get the gold answer.

Scripted teachers live with their suites. Here: human solutions (GSM8K's ``<<48/2=24>>`` annotations become calls of
the calculator tools), and ``verify``, which executes any reference in the sandbox and keeps or rejects it by name.
"""

import ast
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .answers import boxed
from .core import Call, Execution, InputError, Pair, Reference, Task, shown
from .sandbox import Sandbox
from .suites import CALCULATOR, messages_of
from .toolbox import call_many


@dataclass(frozen=True)
class Rejected:
    """A row that did not become a reference: where it stands, a reason to count by, and what was seen."""

    where: str  # "train.jsonl:12" or a task id
    reason: str  # one of a few fixed texts
    detail: str


def verify(pairs: Iterable[Pair], sandbox: Sandbox, batch: int = 2_000) -> tuple[list[Pair], list[Rejected]]:
    """Execute every reference's calls; keep it if each result is the one it shows and the last is the answer.

    A text that was found (a search's result) is the answer when it holds it once, as a whole word or number, and the
    call did not. Without a call there is nothing to execute: what the teacher says must then be the task's answer.

    Infrastructure faults raise RuntimeError: a reference is never rejected for a fault of ours.
    """
    pairs = list(pairs)
    kept: list[Pair] = []
    rejected: list[Rejected] = []
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        raw = [json.dumps(vars(c)) for _, r in part for c in r.calls]
        boxes = [task.toolbox for task, r in part for _ in r.calls]
        done = iter(call_many(list(zip(boxes, raw, strict=True)), sandbox))
        for task, reference in part:
            results = [next(done) for _ in reference.calls]
            fault = _fault(task, reference, results)
            if fault:
                rejected.append(Rejected(task.id, *fault))
            else:
                kept.append((task, reference))
    return kept, rejected


def same_number(a: str, b: str) -> bool:
    """Equal texts, or numbers equal to 1e-5: a policy reads six decimals, so 1/3 times 27 comes out as 8.999991."""
    try:
        return a == b or math.isclose(_number(a), _number(b), rel_tol=1e-5)
    except (ValueError, OverflowError):
        return False


def _fault(task: Task, reference: Reference, results: list[Execution]) -> tuple[str, str] | None:
    claimed = [m["content"] for m in reference.messages if m["role"] == "tool"]
    if len(claimed) != len(results):
        return "calls and tool messages do not pair up", f"{len(results)} calls, {len(claimed)} results"
    for call, result, text in zip(reference.calls, results, claimed, strict=True):
        if result.fault == "sandbox":
            raise RuntimeError(f"the sandbox failed on {task.id}: {result.error}")
        if result.error is not None:
            return "a call fails", f"{call.name}: {result.error}"
        if result.text != text:
            return "a call gives another value", f"{call.name}: {result.text}, not {text}"
    if not results:
        said = boxed(str(reference.messages[-1].get("content") or "")) if reference.messages else None
        if said is None or not same_number(said, task.answer):
            return "the answer given is not the task's", f"{said}, not {task.answer}"
    elif not same_number(results[-1].text, task.answer) and not _found(results[-1], reference.calls[-1], task.answer):
        return "the last value is not the answer", f"{results[-1].text}, not {task.answer}"
    return None


def _found(result: Execution, call: Call, answer: str) -> bool:
    """Whether a text holds the answer once, as a whole word or number, and the call that found it does not."""
    word = re.compile(rf"(?<![\w.,-]){re.escape(answer)}(?![\w-]|[.,]\d)")
    asked = json.dumps(call.arguments, ensure_ascii=False)
    return isinstance(result.value, str) and len(word.findall(result.value)) == 1 and not word.search(asked)


# --- GSM8K ---------------------------------------------------------------------------------------------------------

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


class _Unusable(Exception):
    """An annotation that does not become calls: (reason, detail)."""


def _number(text: str) -> float | int:
    """``1,200`` or ``.5`` or ``12.`` as a number; leading zeros allowed."""
    value = float(text.replace(",", ""))
    return int(value) if value.is_integer() else value


def _calls(expression: str) -> tuple[list[tuple[str, dict[str, Any], Any]], Any]:
    """Turn ``(5+3)*2`` into binary calls in the order they are computed; results as a policy reads them."""
    made: list[tuple[str, dict[str, Any], Any]] = []
    text = re.sub(r"(?<=\d),(?=\d{3})", "", expression)  # 1,200
    text = re.sub(r"(\d+(?:\.\d+)?|\.\d+)%", r"(\1/100)", text)  # 20% is a division
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)  # 05
    text = re.sub(r"[$\s]", "", text).replace("x", "*").replace("^", "**")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as e:
        raise _Unusable("an annotation is no arithmetic", expression) from e

    def walk(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return shown(float(value)) if isinstance(value, float) else value
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return walk(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                name = _OPERATORS[type(op)]
                a, b = walk(left), walk(right)
                try:
                    value = shown(_COMPUTE[name](a, b))
                except (ZeroDivisionError, OverflowError) as e:
                    raise _Unusable("an annotation does not compute", expression) from e
                made.append((name, {"a": a, "b": b}, value))
                return value
        raise _Unusable("an annotation is no arithmetic", expression)

    return made, walk(tree)


def gsm8k_pair(row: dict[str, Any], where: str, split: str = "train") -> Pair:
    """Turn a row ``{question, answer}`` into a task with the human solution as its reference.

    The answer's ``<<48/2=24>>`` become calls; kept only if every annotation gives its value (to 1%, since people round)
    and the last one the answer after ``####``.

    Raises:
        _Unusable: (reason, detail).
    """
    question, solution = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise _Unusable("no question", where)
    if not isinstance(solution, str) or "####" not in solution:
        raise _Unusable("no answer after ####", where)
    answer_text = solution.rsplit("####", 1)[1].strip().replace("$", "")
    try:
        answer = _number(answer_text)
    except ValueError as e:
        raise _Unusable("the answer is no number", answer_text) from e
    annotations = re.findall(r"<<(.*?)>>", solution)
    if not annotations:
        raise _Unusable("no annotation", where)
    made: list[tuple[str, dict[str, Any], Any]] = []
    value: Any = None
    for annotation in annotations:
        expression, equals, claimed = annotation.rpartition("=")
        try:
            stated = _number(claimed.replace("$", "").replace("%", "").strip())
        except ValueError as e:
            raise _Unusable("an annotation has no value", annotation) from e
        calls, value = _calls(expression.split("=")[0] if equals else expression)
        if not calls:
            raise _Unusable("an annotation makes no call", annotation)
        if not math.isclose(float(value), stated, rel_tol=0.01, abs_tol=0.01):
            raise _Unusable("an annotation gives another value", f"{annotation}: {value}")
        made += calls
    if not same_number(Execution(value=value).text, answer_text):
        raise _Unusable("the last value is not the answer", f"{value}, not {answer}")
    task = Task(where, question, Execution(value=answer).text, CALCULATOR, "gsm8k", split)
    return task, Reference(task.id, messages_of(made, task.answer), [Call(n, a) for n, a, _ in made], task.answer)


def gsm8k_file(path: str, folder: Path) -> Path:
    """Where GSM8K's training rows are: ``path``, or for "auto" ../shared/data, or else fetched from the hub.

    Raises:
        InputError: there is none, and the hub cannot be reached.
    """
    if path != "auto":
        return Path(path)
    here = Path("../shared/data/gsm8k/train.jsonl")
    fetched = folder / "gsm8k.jsonl"
    if not here.exists() and not fetched.exists():
        try:
            from datasets import load_dataset

            folder.mkdir(parents=True, exist_ok=True)
            load_dataset("openai/gsm8k", "main", split="train").to_json(fetched)
        except Exception as e:  # the hub client raises a dozen kinds; all mean the same to a user
            raise InputError(
                f"GSM8K is neither at {here} nor can it be fetched from the hub ({e.__class__.__name__}): "
                'give its path as gsm8k=…/train.jsonl, or gsm8k="" to do without'
            ) from e
    return here if here.exists() else fetched


def gsm8k(path: str | Path, n_eval: int = 500) -> tuple[list[Pair], list[Rejected]]:
    """Read GSM8K's jsonl: usable pairs (the last n_eval of them with split "eval") and the rows rejected by name.

    Raises:
        InputError: no such file, or no row of it is usable.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(
            f"{path}: cannot be read ({e.__class__.__name__}): give the path of GSM8K's train.jsonl"
        ) from e
    pairs: list[Pair] = []
    rejected: list[Rejected] = []
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}:{number}"
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise _Unusable("not a JSON object", line[:80])
            pairs.append(gsm8k_pair(row, where))
        except ValueError:
            rejected.append(Rejected(where, "not JSON", line[:80]))
        except _Unusable as e:
            rejected.append(Rejected(where, *e.args))
    if not pairs:
        raise InputError(
            f"{path}: none of its {len(lines)} rows is a GSM8K row {{question, answer}} with <<…>> annotations"
        )
    cut = max(0, len(pairs) - n_eval)
    return pairs[:cut] + [(replace(t, split="eval"), r) for t, r in pairs[cut:]], rejected
