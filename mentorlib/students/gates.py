"""Whether a student leaves rewards room to differ: what its sampled groups look like before any training.

Where wrong nearly always means the wrong tools, and right the teacher's, a reward for the answer and one for the tools
order every group alike, and two trainings under them are the same training.
"""

from typing import Any

from ..core import Call
from ..rewards.matching import same_tools
from ..runs.files import Row
from .build import BOILERPLATE, CHAT

FIXED = frozenset([*BOILERPLATE, *CHAT])  # tokens that a well-formed rollout hardly chooses


def measure_gates(rows: list[Row]) -> dict[str, float]:
    """Numbers of the groups that a student samples (``evaluate`` with ``samples`` and temperature 1).

    Args:
        rows: of ``evaluate``, whose student has the shipped one's tokenizer; the rows of one task are a group. Rows
            that could not be judged are left out.

    Returns:
        ``accuracy``; ``all_wrong`` and ``all_right``, shares of groups; ``match_wrong`` and ``match_right``, the share
        of wrong and of right rollouts that used the teacher's set of tools; ``no_calls``, the share of rollouts without
        a call; ``entropy`` and ``choice_entropy``, the mean of -log p in nats over all sampled tokens, and over those
        that are no boilerplate of a call or turn: names, arguments and answers.
    """
    groups: dict[str, list[bool]] = {}
    match: dict[bool, list[float]] = {True: [], False: []}
    surprise: list[tuple[float, bool]] = []
    rows = [row for row in rows if row["correct"] is not None]
    for row in rows:
        groups.setdefault(row["task_id"], []).append(row["correct"])
        if row["teacher_calls"] is not None:
            match[row["correct"]].append(same_tools(_calls(row["calls"]), _calls(row["teacher_calls"])))
        surprise += [
            (-p, token not in FIXED)
            for token, p in zip(row["tokens"], row["logprobs"], strict=True)
            if isinstance(p, float)
        ]
    return {
        "accuracy": _mean([right for group in groups.values() for right in group]),
        "all_wrong": _mean([not any(group) for group in groups.values()]),
        "all_right": _mean([all(group) for group in groups.values()]),
        "match_wrong": _mean(match[False]),
        "match_right": _mean(match[True]),
        "no_calls": _mean([not row["calls"] for row in rows]),
        "entropy": _mean([p for p, _ in surprise]),
        "choice_entropy": _mean([p for p, chosen in surprise if chosen]),
    }


def _calls(calls: list[dict[str, Any]]) -> list[Call]:
    return [Call(**call) for call in calls]


def _mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else float("nan")
