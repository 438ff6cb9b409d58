"""The part of the vocabulary that needs a toolbox: Task, and Pair (a task with its reference)."""

from dataclasses import dataclass

from .core import Message, Metric, Reference
from .sandbox.toolbox import Toolbox

SYSTEM = "Solve the problem with the tools. Give the final answer in \\boxed{}."


def chat_prompt(question: str, system: str = SYSTEM) -> list[Message]:
    """A question as a chat with a system message."""
    return [{"role": "system", "content": system}, {"role": "user", "content": question}]


@dataclass(frozen=True)
class Task:
    """A question with a checkable answer, and the tools that may be used on it.

    ``metric`` says what is compared and how (core.py's glossary), in grading and in every reward alike.
    """

    id: str
    question: str
    answer: str
    toolbox: Toolbox
    suite: str
    split: str = "train"
    metric: Metric = "answer"

    def prompt(self, system: str = SYSTEM) -> list[Message]:
        """The messages before the first assistant turn."""
        return chat_prompt(self.question, system)


Pair = tuple[Task, Reference]
