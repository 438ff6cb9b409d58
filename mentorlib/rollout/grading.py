"""Grading a trajectory by its task's metric:

- ``answer``, ``math``, ``text``: whether ``answers.judge`` accepts the last box, as in the rewards.
- ``words``: the same, by exact match after SQuAD's normalisation, and token F1, as HotpotQA's official evaluation
  computes them (a ``yes`` or ``no`` is right or wrong as a whole).
- ``calls``: BFCL's AST match (``bfcl_match``); the task's answer is then the JSON of the allowed calls.
"""

import json
from collections import Counter
from typing import Any

from ..core import Trajectory
from ..rewards.answer_text import normalized
from ..rewards.answers import Verdict, judge
from ..rewards.corrected import final_answer
from ..task import Task
from .bfcl_match import mismatch


def grade(task: Task, trajectory: Trajectory) -> dict[str, Any]:
    """``{"correct": …}``, with ``"word_f1"`` (0 to 1) where the metric is ``words``.

    ``correct`` is None after an infrastructure failure, or where the judge cannot decide on the answer; ``unjudged``
    then says why.
    """
    if trajectory.stop == "infrastructure":
        return {"correct": None, "word_f1": None} if task.metric == "words" else {"correct": None}
    if task.metric == "calls":
        return {"correct": _calls_match(task, trajectory)}
    answer = final_answer(trajectory)
    verdict = Verdict(False, "no answer") if answer is None else judge(answer, task.answer, task.metric)
    graded = {"correct": verdict.correct} | ({"unjudged": verdict.how} if verdict.correct is None else {})
    if task.metric == "words":
        return graded | {"word_f1": word_f1(answer or "", task.answer)}
    return graded


def _calls_match(task: Task, trajectory: Trajectory) -> bool:
    """Also False for a call that cannot be parsed, a turn that was cut, and a trajectory without a turn (no room)."""
    turns = [str(m.get("content")) for m in trajectory.messages if m["role"] == "assistant"]
    if not trajectory.ended or not turns or any("<tool_call>" in text for text in turns):
        return False
    return mismatch(trajectory.calls, json.loads(task.answer), task.toolbox.schemas) is None


def word_f1(answer: str, gold: str) -> float:
    """F1 of the words of two texts, with repeats; 0 where one is yes, no or noanswer and the other is not."""
    given, wanted = normalized(answer), normalized(gold)
    if given != wanted and {given, wanted} & {"yes", "no", "noanswer"}:
        return 0.0
    shared = (Counter(given.split()) & Counter(wanted.split())).total()
    return 2 * shared / (len(given.split()) + len(wanted.split())) if shared else 0.0


def holds(text: str, answer: str) -> bool:
    """Whether a text contains an answer as whole words, both normalised."""
    return f" {normalized(answer)} " in f" {normalized(text)} "
