"""The check that every reference must pass, whatever its source: executing its calls gives the gold answer."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..core import Call, Execution, InputError, Reference, format_tool_result
from ..rewards.answer_text import normalized, same_answer, same_text
from ..rewards.answers import boxed, judge
from ..rollout.bfcl_match import mismatch
from ..rollout.grading import holds
from ..sandbox.pool import NOT_LOADED, Job, Sandbox
from ..sandbox.toolbox import Toolbox, call_many
from ..task import Pair, Task

BATCH = 2_000  # references whose calls are executed together


@dataclass(frozen=True)
class RejectedRow:
    """A row that did not become a reference."""

    where: str  # "train.jsonl:12" or a task id
    reason: str  # one of a few fixed texts, to count by
    detail: str  # the value or error behind it
    row: str = ""  # the beginning of the row, or the question


def verify_references(pairs: Iterable[Pair], sandbox: Sandbox) -> tuple[list[Pair], list[RejectedRow]]:
    """Execute every reference's calls; keep it if each result is the one it shows and the last one is the answer.

    A text (such as a search result) counts as the answer if it contains the answer exactly once, as a whole word or
    number, and the call does not. Without calls there is nothing to execute: the boxed answer must be the task's.
    With the metric ``words`` some result must contain the answer, except for yes and no, which are inferred; with
    ``calls``, whose tools cannot be executed, the calls must be among the allowed ones. A reference without messages
    is only a list of tools, which must be offered. Tool source from a data set must load in the sandbox.

    Raises:
        InputError: the sandbox failed; a reference is never rejected for an infrastructure failure.
    """
    pairs = list(pairs)
    kept: list[Pair] = []
    rejected: list[RejectedRow] = []
    foreign = {task.toolbox.source: task.toolbox for task, _ in pairs if task.toolbox.isolate}
    broken = load_errors(foreign, sandbox)
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        calls = [(task.toolbox, json.dumps(vars(c))) for task, r in batch if _is_executable(task, r) for c in r.calls]
        executions = iter(call_many(calls, sandbox))
        for task, reference in batch:
            results = [next(executions) for _ in reference.calls] if _is_executable(task, reference) else []
            error = broken.get(task.toolbox.source) if task.toolbox.isolate else None
            rejection = ("the tools do not load", error) if error else _rejection(task, reference, results)
            if rejection:
                rejected.append(RejectedRow(task.id, *rejection, row=task.question[:1000]))
            else:
                kept.append((task, reference))
    return kept, rejected


def same_number(a: str, b: str) -> bool:
    """Equal texts, or numbers equal to 1e-5: a policy reads six decimals, so 1/3 times 27 becomes 8.999991."""
    try:
        return a == b or math.isclose(parse_number(a), parse_number(b), rel_tol=1e-5)
    except (ValueError, OverflowError):
        return False


def parse_number(text: str) -> float | int:
    """``1,200`` or ``.5`` or ``12.`` as a number; leading zeros allowed. ValueError for anything else."""
    value = float(text.replace(",", ""))
    if not math.isfinite(value):
        raise ValueError(f"not finite: {text:.60}")
    return int(value) if value.is_integer() else value


def _is_executable(task: Task, reference: Reference) -> bool:
    return bool(reference.messages) and task.metric != "calls"


def load_errors(toolboxes: Mapping[str, Toolbox], sandbox: Sandbox) -> dict[str, str]:
    """By source: the error of each that fails to load or lacks a tool, each loaded in its own process."""
    ordered = sorted(toolboxes)
    jobs = []
    for source in ordered:
        needed = "".join(f"    {name}\n" for name in toolboxes[source].names)
        jobs.append(Job(f"{source}\n\ndef _load():\n{needed}    return None\n", "_load", {}, isolate=True))
    errors = {}
    for source, execution in zip(ordered, sandbox.run_many(jobs), strict=True):
        if execution.fault == "sandbox":
            raise InputError(f"the sandbox failed on loading tools ({execution.error}): run the same again")
        if execution.error:
            errors[source] = execution.error.removeprefix(NOT_LOADED)
    return errors


def _rejection(task: Task, reference: Reference, results: list[Execution]) -> tuple[str, str] | None:
    """(reason, detail) if the reference is to be rejected."""
    if task.metric == "calls":
        difference = mismatch(reference.calls, json.loads(task.answer), task.toolbox.schemas)
        return None if difference is None else ("the calls are not among the allowed ones", difference)
    if not reference.messages:
        missing = sorted(set(reference.tools) - set(task.toolbox.names))
        return ("a tool is not offered", missing[0]) if missing else None
    if len(reference.results) != len(results):
        return "calls and results differ in number", f"{len(results)} calls, {len(reference.results)} results"
    for call, result, text in zip(reference.calls, results, reference.results, strict=True):
        if result.fault == "sandbox":
            raise InputError(f"{task.id}: the sandbox failed on a call ({result.error}): run the same again")
        if result.error is not None:
            return "a call fails", f"{call.name}: {result.error}"
        if not _is_result(text, result.text):
            return "a call returns another value", f"{call.name}: {result.text}, not {text}"
    if not results:
        answer = boxed(str(reference.messages[-1].get("content") or ""))
        if answer is None or not (_is_value(answer, task) or judge(answer, task.answer, task.metric).correct):
            return "wrong answer", f"{answer}, not {task.answer}"
    elif task.metric == "words":
        if normalized(task.answer) not in ("yes", "no") and not any(holds(r.text, task.answer) for r in results):
            return "no result contains the answer", task.answer
    elif not _is_value(results[-1].text, task) and not _is_found(results[-1], reference.calls[-1], task.answer):
        return "the last value is not the answer", f"{results[-1].text}, not {task.answer}"
    return None


def _is_result(text: str, returned: str) -> bool:
    """Whether a text is what the call returned; a sampled teacher's is cut, and blanks escape its control tokens."""
    alike = (returned.replace(" ", ""), format_tool_result(returned).replace(" ", ""))
    return text == returned or text.replace(" ", "") in alike


def _is_value(text: str, task: Task) -> bool:
    """Whether a whole text is the answer; a number may differ by what the rounding of earlier results explains."""
    if task.metric == "text":
        return same_text(text, task.answer)
    return same_number(text, task.answer) or same_answer(text, task.answer)


def _is_found(result: Execution, call: Call, answer: str) -> bool:
    """Whether a result that is no number contains the answer once, as a whole word or number, and the call does not."""
    word = re.compile(rf"(?<![\w.,-]){re.escape(answer)}(?![\w-]|[.,]\d)")
    query = json.dumps(call.arguments, ensure_ascii=False)
    number = isinstance(result.value, int | float)
    return not number and len(word.findall(result.text)) == 1 and not word.search(query)
