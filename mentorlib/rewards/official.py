"""The rewards as released, bit for bit, defects included (reward_score/mentor*.py of arXiv 2510.18383's repository)."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..core import END, Call, Metric, Reference, Trajectory, raw_calls
from .answers import judge
from .matching import WRONG_SHARE, Match
from .score import Terms

CALCULATOR_TOOLS = tuple(
    "add subtract multiply divide sum_numbers floor ceil round_number power sqrt abs_value modulo".split()
)
FALLBACK = 0.1  # the release's score of a transcript that ended and that it does not score further


def official_terms(
    trajectory: Trajectory,
    reference: Reference,
    answer: str,
    valid_tools: Sequence[str],
    metric: Metric,
    tools: Match | None = None,
) -> Terms:
    """What the release computes from the text, in the order of its early exits.

    ``valid_tools`` and ``metric`` are ignored: it knows one set of tools and one way to compare answers.
    """
    prediction, called = _read_response(trajectory.response)
    if prediction is None:
        return Terms({}, "cut off before the end token")
    if not prediction.strip():
        return Terms({"fallback": 1.0}, "no answer in a box")
    verdict = judge(prediction, answer, official=True)
    right, judged = verdict.correct is True, verdict.correct is not None
    if tools and not reference.calls:
        return Terms({"fallback": 1.0}, "the teacher used no tool", judged)
    student = [Call(name, {}) for name in called if name in CALCULATOR_TOOLS]
    terms = {"correct": float(right), "answered": 1.0, "clean": float(len(student) == len(called))}
    if tools and student:
        terms["tools"] = tools(student, reference.calls) * (1.0 if right else WRONG_SHARE)
    return Terms(terms, verdict.reason, judged)


@lru_cache(maxsize=16)
def _read_response(text: str) -> tuple[str | None, list[Any]]:
    """The answer (None if cut off, empty if there is none) and the names called; the five rewards share it."""
    if not text.endswith(END):
        return None, []
    prediction = _box(text) or ""
    return prediction, _names(text) if prediction.strip() else []


def _box(text: str) -> str | None:
    r"""The release's box: text after the last ``\boxed `` if there is one anywhere, else the last box's braces."""
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0:
        return None  # the release looks for \fbox then, which ends in the same 0.1
    depth = 0
    for brace in re.finditer("[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0 and brace.group() == "}":
            box = text[start : start + brace.end()]
            return box[len("\\boxed{") : -1] if box.startswith("\\boxed{") else None
    return None


_ODD_NAME = re.compile(r'"name":\\s*"([^"]+)"')  # as released: a backslash and letters s, where \s* was meant


def _names(text: str) -> list[Any]:
    """Names as the release finds them: in any closed block of the text; a name that it cannot read is skipped."""
    names: list[Any] = []
    for block in raw_calls(text):
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
