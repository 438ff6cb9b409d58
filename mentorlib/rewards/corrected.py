"""The corrected rewards' terms, read from a trajectory's messages instead of the release's one text."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..core import Call, Metric, Reference, Trajectory
from .answers import boxed, judge
from .matching import WRONG_SHARE, Match, same_beginning, tool_names
from .score import Terms


@dataclass(frozen=True)
class Attempt:
    """What the corrected rewards read of a trajectory. "Before the answer" is everything where there is no answer.

    answer: the content of the last box of an assistant turn; None without one, or with an empty one.
    calls: calls of the tools offered, in turns before the answer's.
    results: tool results before the answer.
    late_calls: whether there are calls in the answer's turn or after it.
    invented: names called that are not offered, sorted, in all turns.
    malformed: whether some turn has a call that is not JSON, not a call, or not closed.
    """

    answer: str | None
    calls: list[Call]
    results: list[str]
    late_calls: bool
    invented: list[str]
    malformed: bool

    def describe(self, *parts: str) -> str:
        """The reason of a score: the given parts, and what went wrong with the calls."""
        notes = list(parts)
        if self.late_calls:
            notes.append("calls after the answer do not count")
        if self.invented:
            notes.append("no such tool: " + ", ".join(name[:40] for name in self.invented[:5]))
        if self.malformed:
            notes.append("a call is malformed")
        return "; ".join(notes)


def read_attempt(trajectory: Trajectory, valid_tools: Sequence[str] = ()) -> Attempt:
    """Read a trajectory message by message; ``valid_tools`` are the names of the tools offered."""
    answer: str | None = None
    calls: list[Call] = []
    results: list[str] = []
    n_calls = n_results = 0  # before the answer
    malformed = False
    for message in trajectory.messages:
        if message["role"] == "tool":
            results.append(str(message.get("content")))
        if message["role"] != "assistant":
            continue
        content = str(message.get("content") or "")
        malformed = malformed or "<tool_call>" in content or "</tool_call>" in content
        if (box := boxed(content)) is not None:
            answer, n_calls, n_results = box, len(calls), len(results)
        calls += (Call(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ())
    if answer is None or not answer.strip():
        answer, n_calls, n_results = None, len(calls), len(results)
    valid = set(valid_tools)
    return Attempt(
        answer,
        [call for call in calls[:n_calls] if call.name in valid],
        results[:n_results],
        late_calls=len(calls) > n_calls,
        invented=sorted(tool_names(calls) - valid),
        malformed=malformed,
    )


def final_answer(trajectory: Trajectory) -> str | None:
    """The content of the last box of an assistant turn; None without one, with an empty one, and when it was cut."""
    return read_attempt(trajectory).answer if trajectory.ended else None


def outcome_terms(
    trajectory: Trajectory,
    reference: Reference,
    answer: str,
    valid_tools: Sequence[str],
    metric: Metric,
    tools: Match | None = None,
    wrong_share: float = WRONG_SHARE,
) -> Terms:
    """``correct``, ``answered``, ``clean``, ``gave_up`` and, with a matching rule in ``tools``, ``tools``.

    ``metric`` is how the task compares answers. A trajectory without an answer has no other term than ``gave_up``; a
    cut one has none. A wrong answer keeps ``wrong_share`` of its match.
    """
    if metric == "calls":
        return Terms({}, "graded by its calls, not by an answer", judged=False)
    if not trajectory.ended:
        return Terms({}, "cut off before the end token")
    attempt = read_attempt(trajectory, valid_tools)
    if attempt.answer is None:
        return Terms({"gave_up": 1.0}, "no answer in a box")
    verdict = judge(attempt.answer, answer, metric)
    right = verdict.correct is True
    terms = {"correct": float(right), "answered": 1.0, "clean": float(not attempt.invented and not attempt.malformed)}
    parts = [verdict.reason]
    if tools:
        terms["tools"] = tools(attempt.calls, reference.calls) * (1.0 if right else wrong_share)
        parts.append(compare_tools(attempt, reference))
    return Terms(terms, attempt.describe(*parts), verdict.correct is not None)


def compare_tools(attempt: Attempt, reference: Reference) -> str:
    """The tools that the student and the teacher used, in words."""
    used, wanted = (", ".join(sorted(tool_names(calls))) or "no tool" for calls in (attempt.calls, reference.calls))
    return f"used {used}; the teacher {wanted}"


def progress_terms(
    trajectory: Trajectory, reference: Reference, answer: str, valid_tools: Sequence[str], metric: Metric
) -> Terms:
    """The outcome's terms and ``progress``: 1 for a right answer, else the share of the teacher's results reached.

    It counts the teacher's tool results that the student's calls gave too, by whatever tools. A student with more
    results than the teacher is measured against its own number, so that trying everything does not help.
    """
    outcome = outcome_terms(trajectory, reference, answer, valid_tools, metric)
    if "correct" in outcome.values:
        results, wanted = read_attempt(trajectory, valid_tools).results, Counter(reference.results)
        reached = (Counter(results) & wanted).total() / max(len(results), wanted.total(), 1)
        outcome.values["progress"] = 1.0 if outcome.values["correct"] else reached
    return outcome


def imitation_terms(
    trajectory: Trajectory, reference: Reference, answer: str, valid_tools: Sequence[str], metric: Metric
) -> Terms:
    """``sequence``: ``same_beginning`` of all calls, whatever the answer. A trajectory that was cut has no term.

    Every call counts, also of a tool that is not offered, and a malformed one as a call that is not the teacher's.
    """
    if not trajectory.ended:
        return Terms({}, "cut off before the end token")
    attempt = read_attempt(trajectory, valid_tools)
    calls = [*trajectory.calls, *([Call("(malformed)", {})] if attempt.malformed else [])]
    return Terms(
        {"sequence": same_beginning(calls, reference.calls)}, attempt.describe(compare_tools(attempt, reference))
    )


def noise_terms(
    trajectory: Trajectory, reference: Reference, answer: str, valid_tools: Sequence[str], metric: Metric
) -> Terms:
    """``noise``: a hash of the response, in [0, 1), which nothing can be learnt from."""
    digest = hashlib.sha256(trajectory.response.encode("utf-8", "replace")).digest()
    return Terms({"noise": int.from_bytes(digest[:6], "big") / 2**48}, "a hash of the response")
