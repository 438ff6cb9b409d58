"""The rewards as released, bit for bit, defects included (reward_score/mentor*.py of the release)."""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..core import END, Call, Reference, Trajectory
from .answers import judge
from .table import CALCULATOR_TOOLS, TABLE, WRONG_SHARE, Score, _said, _score

FALLBACK = 0.1  # what the release pays for an ended transcript that it does not score further


# --- official --------------------------------------------------------------------------------------------------


def _official(name: str, trajectory: Trajectory, reference: Reference | None, answer: str) -> Score:
    """What the release computes from the text, with the same precedence of its early exits."""
    match, rule = TABLE[name]
    weights = rule | {"fallback": FALLBACK}
    prediction, called = _official_read(trajectory.response)
    if prediction is None:
        return _score(weights, {}, "cut off before the end token")
    if not prediction.strip():
        return _score(weights, {"fallback": 1.0}, "no answer in a box")
    verdict = judge(prediction, answer, official=True)
    right = verdict.correct is True
    if match and not (reference and reference.calls):
        return _score(weights, {"fallback": 1.0}, "the teacher used no tool", verdict.correct is not None)
    student = [Call(tool, {}) for tool in called if tool in CALCULATOR_TOOLS]
    terms = {"correct": float(right), "answered": 1.0, "clean": float(len(student) == len(called))}
    if match and reference and student:
        terms["tools"] = match(student, reference.calls) * (1.0 if right else WRONG_SHARE)
    return _score(weights, terms, _said(verdict), verdict.correct is not None)


@lru_cache(maxsize=16)
def _official_read(text: str) -> tuple[str | None, list[Any]]:
    """The answer (None: cut off; empty: none) and the names called: what the five rewards share of a transcript."""
    if not text.endswith(END):
        return None, []
    prediction = _official_box(text) or ""
    return prediction, _official_names(text) if prediction.strip() else []


def _official_box(text: str) -> str | None:
    r"""The release's box: text after the last ``\boxed `` if there is one anywhere, else the last box's braces."""
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        return None  # its \fbox ends in the same 0.1
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0 and brace.group() == "}":
            box = text[start : start + brace.end()]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else None
    return None


_ODD_NAME = re.compile(r'"name":\\s*"([^"]+)"')  # as released: a backslash and letters s, where \s* was meant


def _official_names(text: str) -> list[Any]:
    """Names as the release finds them: anything in the text, closed; a name it cannot read goes unnoticed."""
    names: list[Any] = []
    for block in _blocks(text):
        name: Any = None
        try:
            call = json.loads(block.strip())
            if "name" in call:
                name = call["name"]
        except (ValueError, TypeError, RecursionError, IndexError):
            if odd := _ODD_NAME.search(block):
                name = odd.group(1)
        if name:
            # The release stops with a TypeError on a name that is a list or an object; here it is an unknown tool.
            names.append(name)
    return names


def _blocks(text: str) -> Iterator[str]:
    """What lies between each opening tag and the next closing one, in one pass."""
    at = 0
    while (start := text.find("<tool_call>", at)) >= 0:
        end = text.find("</tool_call>", start)
        if end < 0:
            return
        yield text[start + len("<tool_call>") : end]
        at = end + len("</tool_call>")
