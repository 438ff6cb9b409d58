"""How what a policy did is graded: by its final answer, by the answer's words, or by the calls it made.

A task names its metric:

- ``answer``: ``answers.judge`` says whether the last box holds the gold answer.
- ``words``: exact match of the last box after SQuAD's normalisation, and token F1 beside it, as HotpotQA's official
  evaluation counts them (a ``yes`` or ``no`` is right or wrong as a whole).
- ``calls``: BFCL's AST match (``ast_match``); the task's answer is then the JSON of the allowed calls.
"""

import json
import re
import string
from collections import Counter
from typing import Any

from ..core import Trajectory
from ..rewards.answers import judge
from ..rewards.corrected import final_answer
from ..task import Task
from .bfcl_match import mismatch


def grade(task: Task, trajectory: Trajectory) -> dict[str, Any]:
    """``{"correct": …}``, with ``"word_f1"`` (0 to 1) where the metric is ``words``.

    ``correct`` is None where that is not the policy's to answer for: an infrastructure fault, or an answer that the
    judge cannot decide on.
    """
    ours = trajectory.stop == "infrastructure"
    if task.metric == "calls":
        return {"correct": None if ours else _calls_fit(task, trajectory)}
    answer = final_answer(trajectory)
    if task.metric == "words":
        if ours:
            return {"correct": None, "word_f1": None}
        return {"correct": exact_match(answer or "", task.answer), "word_f1": word_f1(answer or "", task.answer)}
    if ours:
        return {"correct": None}
    return {"correct": False if answer is None else judge(answer, task.answer).correct}


def _calls_fit(task: Task, trajectory: Trajectory) -> bool:
    """A call that was begun and cannot be read is a call too; who said nothing (no room after the prompt) is wrong."""
    said = [str(m.get("content")) for m in trajectory.messages if m["role"] == "assistant"]
    readable = bool(said) and not any("<tool_call>" in text for text in said)
    return readable and mismatch(trajectory.calls, json.loads(task.answer), task.toolbox.schemas) is None


def normalized(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no a, an or the, single spaces."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether two texts are the same once normalised."""
    return normalized(answer) == normalized(gold)


def word_f1(answer: str, gold: str) -> float:
    """F1 of the words that two texts share, with repeats; 0 where either is yes, no or noanswer and the other not."""
    said, wanted = normalized(answer), normalized(gold)
    if said != wanted and {said, wanted} & {"yes", "no", "noanswer"}:
        return 0.0
    shared = (Counter(said.split()) & Counter(wanted.split())).total()
    return 2 * shared / (len(said.split()) + len(wanted.split())) if shared else 0.0


def holds(text: str, answer: str) -> bool:
    """Whether a text holds an answer as whole words, both normalised."""
    return f" {normalized(answer)} " in f" {normalized(text)} "
