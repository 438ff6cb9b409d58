"""What every suite draws: a problem with the calls of its scripted teacher, and the split it belongs to."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ..core import Call, Execution, Message, Metric, Reference
from ..sandbox.toolbox import Toolbox

# Buckets of the key's hash, of 100.
SPLITS = {"pretrain": range(0, 50), "train": range(50, 75), "validation": range(75, 80), "eval": range(80, 100)}

ExecutedCall = tuple[str, dict[str, Any], Any]  # tool name, arguments, result


@dataclass(frozen=True)
class Problem:
    """A question and how the scripted teacher answers it.

    ``key`` identifies the problem apart from its wording (such as the kinds of steps and their numbers); its hash
    decides the split. It must be JSON.
    """

    question: str
    calls: list[ExecutedCall]
    answer: Any
    toolbox: Toolbox
    key: Any

    @property
    def metric(self) -> Metric:
        """What answers are compared as, by the type of this one: numbers, texts to the letter, or what it looks like.

        Text answers compare case-sensitively, since tasks ask for upper-casing, reversing or repeating.
        """
        if isinstance(self.answer, str):
            return "text"
        return "math" if isinstance(self.answer, int | float) and not isinstance(self.answer, bool) else "answer"

    @property
    def split(self) -> str:
        """The split that the hash of the key gives."""
        bucket = int(hashlib.sha256(json.dumps(self.key).encode()).hexdigest(), 16) % 100
        return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def reference_from_calls(task_id: str, calls: list[ExecutedCall], answer: str) -> Reference:
    """A reference whose messages are one call a turn, each followed by its result, then the boxed answer."""
    messages: list[Message] = []
    for name, arguments, result in calls:
        messages.append({"role": "assistant", "content": "", "tool_calls": [Call(name, arguments).message]})
        messages.append({"role": "tool", "name": name, "content": Execution(value=result).text})
    messages.append({"role": "assistant", "content": f"The answer is \\boxed{{{answer}}}."})
    return Reference(task_id, messages, [Call(name, arguments) for name, arguments, _ in calls], answer)
