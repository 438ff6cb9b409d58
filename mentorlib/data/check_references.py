"""The check that every reference must pass, wherever it comes from: run its calls, get the gold answer.

Scripted teachers live with their suites, human and published ones with their sources.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..core import Call, Execution, Reference, format_tool_result
from ..rewards.answers import boxed, judge
from ..rollout.bfcl_match import mismatch
from ..rollout.grading import holds, normalized
from ..sandbox.pool import Job, Sandbox
from ..sandbox.toolbox import call_many
from ..task import Pair, Task


@dataclass(frozen=True)
class RejectedRow:
    """A row that did not become a reference: where it stands, a reason to count by, and what was seen."""

    where: str  # "train.jsonl:12" or a task id
    reason: str  # one of a few fixed texts
    detail: str
    row: str = ""  # how it begins, or what was asked


def verify_references(
    pairs: Iterable[Pair], sandbox: Sandbox, batch: int = 2_000
) -> tuple[list[Pair], list[RejectedRow]]:
    """Execute every reference's calls; keep it if each result is the one it shows and the last is the answer.

    A text that was found (a search's result) is the answer when it holds it once, as a whole word or number, and the
    call did not. Without a call there is nothing to execute: what the teacher says must then be the task's answer.
    By the task's metric: ``words`` asks that a result holds the answer, but for yes and no, which are concluded;
    ``calls``, whose tools cannot be run, that the calls are allowed ones. A reference without messages is only a list
    of tools, which must be offered. Source that others wrote must load in the sandbox.

    Infrastructure faults raise RuntimeError: a reference is never rejected for a fault of ours.
    """
    pairs = list(pairs)
    kept: list[Pair] = []
    rejected: list[RejectedRow] = []
    broken = _unloadable({task.toolbox.source for task, _ in pairs if task.toolbox.isolate}, sandbox)
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        calls = [(task.toolbox, json.dumps(vars(c))) for task, r in part if _runs(task, r) for c in r.calls]
        done = iter(call_many(calls, sandbox))
        for task, reference in part:
            results = [next(done) for _ in reference.calls] if _runs(task, reference) else []
            error = broken.get(task.toolbox.source) if task.toolbox.isolate else None
            fault = ("the tools do not load", error) if error else _fault(task, reference, results)
            if fault:
                rejected.append(RejectedRow(task.id, *fault, row=task.question[:1000]))
            else:
                kept.append((task, reference))
    return kept, rejected


def _runs(task: Task, reference: Reference) -> bool:
    """Whether there is something to execute: turns with calls of tools that have an implementation."""
    return bool(reference.messages) and task.metric != "calls"


def _unloadable(sources: set[str], sandbox: Sandbox) -> dict[str, str]:
    """What is wrong with each source that fails when it is loaded; each in a process of its own."""
    ordered = sorted(sources)
    ran = sandbox.run_many([Job(f"{source}\nresult = None\n") for source in ordered])
    for execution in ran:
        if execution.fault == "sandbox":
            raise RuntimeError(f"the sandbox failed on loading tools: {execution.error}")
    return {source: execution.error for source, execution in zip(ordered, ran, strict=True) if execution.error}


def same_number(a: str, b: str) -> bool:
    """Equal texts, or numbers equal to 1e-5: a policy reads six decimals, so 1/3 times 27 comes out as 8.999991."""
    try:
        return a == b or math.isclose(number(a), number(b), rel_tol=1e-5)
    except (ValueError, OverflowError):
        return False


def number(text: str) -> float | int:
    """``1,200`` or ``.5`` or ``12.`` as a number; leading zeros allowed. ValueError for anything else."""
    value = float(text.replace(",", ""))
    if not math.isfinite(value):
        raise ValueError(f"not finite: {text:.60}")
    return int(value) if value.is_integer() else value


def _fault(task: Task, reference: Reference, results: list[Execution]) -> tuple[str, str] | None:
    if task.metric == "calls":
        wrong = mismatch(reference.calls, json.loads(task.answer), task.toolbox.schemas)
        return None if wrong is None else ("the calls are not the allowed ones", wrong)
    if not reference.messages:
        missing = sorted(set(reference.tools) - set(task.toolbox.names))
        return ("a tool is not offered", missing[0]) if missing else None
    claimed = [m["content"] for m in reference.messages if m["role"] == "tool"]
    if len(claimed) != len(results):
        return "calls and tool messages do not pair up", f"{len(results)} calls, {len(claimed)} results"
    for call, result, text in zip(reference.calls, results, claimed, strict=True):
        if result.fault == "sandbox":
            raise RuntimeError(f"the sandbox failed on {task.id}: {result.error}")
        if result.error is not None:
            return "a call fails", f"{call.name}: {result.error}"
        if text not in (result.text, format_tool_result(result.text)):  # a rollout's is cut and defused
            return "a call gives another value", f"{call.name}: {result.text}, not {text}"
    if not results:
        said = boxed(str(reference.messages[-1].get("content") or ""))
        if said is None or not (same_number(said, task.answer) or judge(said, task.answer).correct):
            return "the answer given is not the task's", f"{said}, not {task.answer}"
    elif task.metric == "words":
        if normalized(task.answer) not in ("yes", "no") and not any(holds(r.text, task.answer) for r in results):
            return "no result holds the answer", task.answer
    elif not same_number(results[-1].text, task.answer) and not _found(results[-1], reference.calls[-1], task.answer):
        return "the last value is not the answer", f"{results[-1].text}, not {task.answer}"
    return None


def _found(result: Execution, call: Call, answer: str) -> bool:
    """Whether a text holds the answer once, as a whole word or number, and the call that found it does not."""
    word = re.compile(rf"(?<![\w.,-]){re.escape(answer)}(?![\w-]|[.,]\d)")
    asked = json.dumps(call.arguments, ensure_ascii=False)
    return isinstance(result.value, str) and len(word.findall(result.value)) == 1 and not word.search(asked)
