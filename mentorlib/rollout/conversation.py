"""The state of one multi-turn conversation, whether a local engine (loop) or a server (endpoint) writes its turns.

The engine adds each assistant turn; the conversation says which tool calls to run, or stops with a reason: answered,
gave_up (a turn with neither a call nor a box), turn_limit, length (cut by a token limit), malformed (a call that was
never closed, so that nothing could be run) or infrastructure (the sandbox or the server failed: never a reward).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core import Execution, Message, Stop, Trajectory, format_tool_result, read_turn, tool_messages
from ..sandbox.pool import Sandbox
from ..sandbox.toolbox import call_many
from ..task import Task


@dataclass
class Conversation:
    """Messages after the prompt, the number of assistant turns among them, and the stop once there is one.

    ``read`` takes the text of a turn and gives its message and its calls as JSON (see core.read_turn); ``control`` are
    the model's control tokens, which are escaped in tool results.
    """

    task: Task
    max_turns: int
    read: Callable[[str], tuple[Message, list[str]]] = read_turn
    control: Sequence[str] = ()
    messages: list[Message] = field(default_factory=list)
    turns: int = 0
    stop: Stop | None = None
    failure: str = ""  # of the sandbox, in one line

    def add_turn(self, text: str, cut: bool = False) -> list[str]:
        """Add an assistant turn.

        Args:
            text: the turn as ``read`` takes it: for Hermes's format without its end token, and with a ``<think>`` that
                the chat template opened for it.
            cut: whether a token limit ended it before the end token.

        Returns:
            The calls to run, as JSON; none if the turn ended the conversation. Where the task's metric is ``calls``,
            the calls are the answer and are not run. What the turn thinks is neither call nor answer.
        """
        message, calls = self.read(text)
        self.messages.append(message)
        self.turns += 1
        if cut:
            self.stop = "length"
        elif calls and self.task.metric == "calls":
            self.stop = "answered"
        elif calls and self.turns >= self.max_turns:
            self.stop = "turn_limit"
        elif not calls:
            content = message["content"]
            self.stop = "malformed" if "<tool_call>" in content else "answered" if "\\boxed" in content else "gave_up"
        return [] if self.stop else calls

    def add_results(self, executions: Iterable[Execution]) -> list[str]:
        """Add the executions of a turn's calls, in order; gives the tool results as the policy reads them.

        If the sandbox or the tool's own source failed on one of them, the conversation stops and there are none.
        """
        executions = list(executions)
        if failed := [execution for execution in executions if execution.fault in ("sandbox", "tool")]:
            self.stop, self.failure = "infrastructure", failed[0].error or ""
            return []
        results = [format_tool_result(execution.text, control=self.control) for execution in executions]
        self.messages += tool_messages(results)
        return results

    def trajectory(self, response: str, **tokens: Any) -> Trajectory:
        """The trajectory so far; without a stop it counts as an infrastructure failure.

        Args:
            response: the text after the prompt.
            tokens: prompt_ids, token_ids, mask, logprobs, tokens.
        """
        return Trajectory(
            self.task.id, self.messages, response, self.stop or "infrastructure", failure=self.failure, **tokens
        )


def run_calls(pending: list[tuple[Conversation, list[str]]], sandbox: Sandbox) -> list[list[str]]:
    """Run the raw calls of several conversations concurrently; gives each one's tool results (see add_results)."""
    calls = [(conversation.task.toolbox, call) for conversation, calls in pending for call in calls]
    executions = iter(call_many(calls, sandbox))
    return [conversation.add_results([next(executions) for _ in calls]) for conversation, calls in pending]
