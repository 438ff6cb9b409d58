"""A trajectory as it is stored: the row of ``rollouts.jsonl`` and ``eval/*.jsonl``."""

import math
from typing import Any

from ..core import Reference, Trajectory
from ..task import Task
from .grading import grade


def trajectory_row(task: Task, reference: Reference, trajectory: Trajectory, **more: Any) -> dict[str, Any]:
    """A trajectory as one JSON object, readable without the objects it came from.

    ``tokens`` (their texts) and ``logprobs`` (natural log, to 3 decimals; null where the token was not sampled, "nan"
    where the sampler gave no number) have one entry a token of the response; both are absent if the trajectory has no
    token ids. ``teacher_calls`` is null where no teacher did the task, or only the names of its tools are known.
    ``failure`` is there only where the infrastructure failed, ``unjudged`` (why) only where the answer could not be
    judged. ``more`` is added as it is.
    """
    tokens: dict[str, Any] = {}
    if trajectory.tokens:
        pairs = zip(trajectory.logprobs, trajectory.mask, strict=True)
        logprobs = [(round(p, 3) if math.isfinite(p) else "nan") if sampled else None for p, sampled in pairs]
        tokens = {"tokens": trajectory.tokens, "logprobs": logprobs}
    return {
        "task_id": task.id,
        "suite": task.suite,
        "split": task.split,
        "question": task.question,
        "answer": task.answer,
        "metric": task.metric,
        "teacher_tools": reference.tools,
        "teacher_calls": [vars(c) for c in reference.calls] if reference.messages else None,
        "teacher_results": reference.results,
        "tools": task.toolbox.names,
        "response": trajectory.response,
        "messages": trajectory.messages,
        "calls": [vars(c) for c in trajectory.calls],
        "stop": trajectory.stop,
        "n_tokens": trajectory.n_tokens,
        **({"failure": trajectory.failure} if trajectory.failure else {}),
        **grade(task, trajectory),
        **tokens,
        **more,
    }
