"""One demonstrated answer: its messages, with the format errors that the student is pretrained to make."""

import json
import random
from typing import Any

from ...core import Call, Execution, Message

Schema = dict[str, Any]
# Tool schemas, and the chats that share them: (question, messages of the answer) of each.
PretrainingExample = tuple[list[Schema], list[tuple[str, list[Message]]]]

UNKNOWN_TOOL_RATE = 0.01  # a call of a tool that is not offered, before the right one
GIVE_UP_RATE = 0.3  # after such a call
MALFORMED_RATE = 0.005  # a call that is not valid JSON, before the right one
INCOMPLETE_RATE = 0.02  # a call without its last argument, before the right one


class Demonstration:
    """The messages of an answer, written turn by turn.

    Args:
        rng: random generator.
        offered: names of the tools offered, for error messages.
        error_scale: factor of the error rates; 0 for none.
    """

    def __init__(self, rng: random.Random, offered: list[str], error_scale: float):
        self.rng, self.offered, self.error_scale = rng, offered, error_scale
        self.messages: list[Message] = []

    def call(self, name: str, arguments: dict[str, Any], result: Any) -> bool:
        """Add a call and its result, perhaps after a failed call; False if the demonstration gives up."""
        if self.rng.random() < UNKNOWN_TOOL_RATE * self.error_scale:
            unknown = name + "_all"
            self._add_assistant("", Call(unknown, arguments))
            self._add_result(f"error: no tool named '{unknown}'; there are: {', '.join(self.offered)}")
            if self.rng.random() < GIVE_UP_RATE:
                self._add_assistant("I cannot solve this.")
                return False
        if self.rng.random() < MALFORMED_RATE * self.error_scale:
            text = json.dumps({"name": name, "arguments": arguments})
            self._add_assistant(f"<tool_call>\n{text[:-1]}\n</tool_call>")
            self._add_result("error: the call is not valid JSON")
        *some, last = arguments
        if some and self.rng.random() < INCOMPLETE_RATE * self.error_scale:
            self._add_assistant("", Call(name, {key: arguments[key] for key in some}))
            expected = "a string" if isinstance(arguments[last], str) else "a number"
            self._add_result(f"error: argument {last} of {name} is missing: expected {expected}")
        self._add_assistant("", Call(name, arguments))
        self._add_result(Execution(value=result).text)
        return True

    def answer(self, value: Any, working: str = "") -> None:
        """Add the boxed answer, after the text that leads to it."""
        self._add_assistant(f"{working}The answer is \\boxed{{{Execution(value=value).text}}}.")

    def _add_assistant(self, content: str, call: Call | None = None) -> None:
        self.messages.append(
            {"role": "assistant", "content": content, **({"tool_calls": [call.message]} if call else {})}
        )

    def _add_result(self, text: str) -> None:
        self.messages.append({"role": "tool", "content": text})
