"""The corrected rewards: what a policy did, read message by message."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..core import Call, InputError, Reference, Trajectory
from .answers import boxed, judge
from .table import TABLE, WHOLE, WRONG_SHARE, Score, _names, _said, _score
from .toolrl import _toolrl

# --- corrected -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    answer: str | None  # the last box of an assistant turn; None without one or with an empty one
    calls: list[Call]  # of the turns before the answer's, or of all turns without an answer
    later: list[Call]
    malformed: bool  # some turn holds a call that is not JSON, not a call, or not closed
    results: list[str]  # what the tools gave before the answer


def _read(trajectory: Trajectory) -> _Reading:
    answer: str | None = None
    calls: list[Call] = []
    answered_at = heard_at = 0
    malformed = False
    results: list[str] = []
    for message in trajectory.messages:
        if message["role"] == "tool":
            results.append(str(message.get("content")))
        if message["role"] != "assistant":
            continue
        content = str(message.get("content") or "")
        malformed = malformed or "<tool_call>" in content or "</tool_call>" in content
        if (box := boxed(content)) is not None:
            answer, answered_at, heard_at = box, len(calls), len(results)
        calls += (Call(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ())
    if answer is None or not answer.strip():
        return _Reading(None, calls, [], malformed, results)
    return _Reading(answer, calls[:answered_at], calls[answered_at:], malformed, results[:heard_at])


def final_answer(trajectory: Trajectory) -> str | None:
    """What the last box of an assistant's turn holds; None without one, with an empty one, and when it was cut."""
    return _read(trajectory).answer if trajectory.ended else None


def _corrected(
    name: str, trajectory: Trajectory, reference: Reference | None, answer: str, valid_tools: Sequence[str]
) -> Score:
    match, weights = TABLE[name]
    if name == "null":
        return _score(weights, {"noise": _noise(trajectory.response)}, "by chance")
    if reference is None and (match or name in ("toolrl", "credit")):
        raise InputError(f"the reward {name} compares with a teacher: give a reference, or use sparse or none")
    teacher = reference.calls if reference else []
    read = _read(trajectory)
    valid = set(valid_tools)
    invented = sorted(_names(read.calls + read.later) - valid)
    student = [call for call in read.calls if call.name in valid]
    answered = trajectory.ended and read.answer is not None
    if name == "toolrl":
        terms = {"format": float(answered and not read.malformed), "offset": 1.0}
        terms |= _toolrl(read.calls + read.later, teacher)
        return _score(weights, terms, _reason("", read, invented, student, teacher))
    if not trajectory.ended:
        return _score(weights, {}, "cut off before the end token")
    if read.answer is None:
        return _score(weights, {"gave_up": 1.0}, "no answer in a box")
    verdict = judge(read.answer, answer)
    right = verdict.correct is True
    terms = {"correct": float(right), "answered": 1.0, "clean": float(not invented and not read.malformed)}
    if match:
        terms["tools"] = match(student, teacher) * (1.0 if right or name in WHOLE else WRONG_SHARE)
    elif name == "credit" and reference:
        terms["progress"] = 1.0 if right else _progress(read.results, reference)
    compared = (student, teacher) if match else (None, None)
    return _score(weights, terms, _reason(_said(verdict), read, invented, *compared), verdict.correct is not None)


def _progress(results: list[str], reference: Reference) -> float:
    """The share of the teacher's tool results that the policy's calls gave too, by whatever tools.

    A policy with more results than the teacher is measured against its own number, so that trying everything
    does not pay.
    """
    wanted = Counter(reference.results)
    reached = sum((Counter(results) & wanted).values())
    return reached / max(len(results), wanted.total(), 1)


def _noise(text: str) -> float:
    """A number in [0, 1) that nothing can be learnt from: a hash."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:6], "big") / 2**48


def _reason(
    said: str, read: _Reading, invented: list[str], student: list[Call] | None, teacher: list[Call] | None
) -> str:
    parts = [said] if said else []
    if student is not None and teacher is not None:
        used, wanted = (", ".join(sorted(_names(calls))) or "no tool" for calls in (student, teacher))
        parts.append(f"used {used}; the teacher {wanted}")
    if read.later:
        parts.append("calls after the answer do not count")
    if invented:
        parts.append("no such tool: " + ", ".join(name[:40] for name in invented[:5]))
    if read.malformed:
        parts.append("a call is malformed")
    return "; ".join(parts)
