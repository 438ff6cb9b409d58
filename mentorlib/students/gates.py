"""Whether different rewards would rank this student's rollouts differently: what its groups are before any training.

Where wrong nearly always means the wrong tools, and right the teacher's, a reward for the answer and one for the tools
rank every group alike, so both rewards give the same updates. ``lab.analysis.treatment.arms`` measures that; this file
measures how far the student's choices are open.
"""

from ..runs.files import Row
from .build import BOILERPLATE, CHAT

FIXED = frozenset([*BOILERPLATE, *CHAT])  # tokens that a well-formed rollout hardly chooses


def measure_choices(rows: list[Row]) -> dict[str, float]:
    """What a student chooses in sampled rollouts (``evaluate`` with ``samples`` and temperature 1).

    Args:
        rows: of ``evaluate``, whose student has the shipped one's tokenizer. Rows that could not be judged are left
            out.

    Returns:
        ``no_calls``, the share of rollouts without a call; ``entropy`` and ``choice_entropy``, the mean of -log p in
        nats over all sampled tokens, and over those that are no boilerplate of a call or turn: names, arguments and
        answers.
    """
    rows = [row for row in rows if row["correct"] is not None]
    surprise = [
        (-p, token not in FIXED)
        for row in rows
        for token, p in zip(row["tokens"], row["logprobs"], strict=True)
        if isinstance(p, float)
    ]
    return {
        "no_calls": _mean([not row["calls"] for row in rows]),
        "entropy": _mean([p for p, _ in surprise]),
        "choice_entropy": _mean([p for p, chosen in surprise if chosen]),
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
