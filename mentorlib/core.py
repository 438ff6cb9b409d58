"""The vocabulary: Call, Execution, Task, Reference, Trajectory, and how text becomes calls.

Plain data with no heavy import, so that every other file can stand on it. A chat message is the dict
that TRL and OpenAI use: ``{"role", "content"}``, an assistant's may hold ``tool_calls``
(``[{"type": "function", "function": {"name", "arguments"}}]``) and a tool's the ``name`` it answers for.
"""

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]
Stop = Literal["answered", "gave_up", "turn_limit", "length", "malformed", "infrastructure"]
END = "<|im_end|>"


class InputError(ValueError):
    """Something the user gave is wrong: one line that names the file, row or key, and the mend.

    The command line prints it without a traceback and exits with 2; a notebook shows its line alone, too.
    """

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Call:
    """One tool call: a tool's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]

    @property
    def message(self) -> dict[str, Any]:
        """An entry of an assistant message's ``tool_calls``."""
        return {"type": "function", "function": {**vars(self)}}


def display_number(value: Any) -> Any:
    """A number as a policy reads it: whole floats as integers, others to six decimals (8.0 -> 8, 5/3 -> 1.666667).

    Seventeen digits of float noise cost a small student more than they tell it.
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    value = round(value, 6) if abs(value) >= 1e-3 else float(f"{value:.6g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


@dataclass(frozen=True)
class Execution:
    """What came of one tool call.

    ``fault`` is None on success, "model" when the call or the tool's code was wrong (the policy reads
    ``error`` and may mend it), "sandbox" when we failed: never punished, dropped from the loss.
    """

    value: Any = None  # JSON: finite numbers, bounded size and depth
    stdout: str = ""
    error: str | None = None  # one line
    seconds: float = 0.0
    fault: Literal["model", "sandbox"] | None = None

    @property
    def text(self) -> str:
        """What the policy reads: ``error: …``, a text as it is, any other value as JSON (numbers by ``shown``)."""
        if self.error is not None:
            return f"error: {self.error}"
        return self.value if isinstance(self.value, str) else json.dumps(display_number(self.value), ensure_ascii=False)


@dataclass(frozen=True)
class Reference:
    """What the teacher did on a task. Kept only if executing its calls gives the gold answer.

    Where no more is known than which tools it used, there are calls without arguments and no messages; where nothing
    is known, neither.
    """

    task_id: str
    messages: list[Message]  # after the prompt: assistant and tool turns
    calls: list[Call]
    answer: str

    @property
    def tools(self) -> list[str]:
        """Names of the tools used, in order, with repeats."""
        return [call.name for call in self.calls]

    @property
    def results(self) -> list[str]:
        """What the tools gave the teacher, as texts."""
        return [str(m["content"]) for m in self.messages if m["role"] == "tool"]


def tool_messages(results: list[str]) -> list[Message]:
    """Tool results as the messages of a reference: all of it that a reward reads beside the calls."""
    return [{"role": "tool", "content": text} for text in results]


@dataclass
class Trajectory:
    """What a policy did on a task, from the first sampled token to the stop.

    ``response`` is the decoded text after the prompt, special tokens and tool results included; it is
    what the official rewards read. ``token_ids``, ``mask`` (1 = sampled, 0 = tool result or template)
    and ``logprobs`` (0.0 where mask is 0) have one entry a token after the prompt; all three are empty
    for a trajectory rebuilt from text or had from a server, which says only how many tokens it wrote (``counted``).
    ``tokens`` is the text of each token by itself, for reading; half a character shows as U+FFFD.
    """

    task_id: str
    messages: list[Message]
    response: str
    stop: Stop
    prompt_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    counted: int = 0

    @property
    def n_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return sum(self.mask) or self.counted

    @property
    def calls(self) -> list[Call]:
        """Every well-formed call, in order, of all assistant turns."""
        return [
            Call(c["function"]["name"], c["function"]["arguments"])
            for m in self.messages
            if m["role"] == "assistant"
            for c in m.get("tool_calls") or ()
        ]

    @property
    def ended(self) -> bool:
        """Whether the last turn closed with the end token (of whatever model) instead of being cut."""
        return self.stop != "length"

    @classmethod
    def from_response(cls, response: str, task_id: str = "") -> "Trajectory":
        """Rebuild a trajectory from the text after the prompt (ChatML, as Qwen3 writes it)."""
        messages: list[Message] = []
        for i, turn in enumerate(re.split(r"<\|im_start\|>(?=assistant\n|user\n)", response)):
            if i and turn.startswith("user\n"):  # the first is the policy's, whatever it begins with
                closed = turn[: turn.rfind("</tool_response>") + len("</tool_response>")]  # as in parse_turn
                results = re.findall(r"<tool_response>\n?(.*?)\n?</tool_response>", closed, re.DOTALL)
                messages += [{"role": "tool", "content": text} for text in results]
            else:
                messages.append(parse_turn(turn.removeprefix("assistant\n")))
        last = messages[-1]
        stop: Stop = (
            "length"
            if not response.endswith(END)
            else "malformed"
            if "<tool_call>" in str(last["content"])
            else "turn_limit"
            if last["role"] == "tool" or last.get("tool_calls")
            else "answered"
            if "\\boxed" in str(last["content"])
            else "gave_up"
        )
        return cls(task_id, messages, response, stop)


_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
MAX_CALL = 65_536  # characters of JSON in one call
RESULT_LIMIT = 2_000  # characters of one tool result that a policy reads
MAX_NESTED = 100  # objects and lists in each other in one call: deeper ones could be read, and not be stored


def parse_call(raw: str) -> Call | None:
    """Read ``{"name": …, "arguments": {…}}``; None if it is anything else. Never raises."""
    if len(raw) > MAX_CALL:
        return None
    try:
        call = json.loads(raw)
        json.dumps(call, ensure_ascii=False).encode()  # half a surrogate pair is no text: no file or request takes it
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments")
    return Call(call["name"], arguments) if isinstance(arguments, dict) and not _nested(arguments) else None


def _nested(value: Any, room: int = MAX_NESTED) -> bool:
    if not isinstance(value, dict | list):
        return False
    return room == 0 or any(_nested(item, room - 1) for item in (value.values() if isinstance(value, dict) else value))


def format_tool_result(text: str, limit: int = RESULT_LIMIT) -> str:
    """A tool result as it enters the chat: control tokens defused, a long one cut visibly."""
    text = text.replace("<|", "< |")
    return text if len(text) <= limit else f"{text[:limit]} … (cut, {len(text)} characters in all)"


def raw_calls(text: str) -> list[str]:
    """The text inside each closed ``<tool_call>`` block of a turn, well-formed or not, in order."""
    # Searched only up to the last closing tag: each opening tag without one would cost a scan of all the rest.
    head, tag, _ = text.rpartition("</tool_call>")
    return _CALL.findall(head + tag)


def parse_turn(text: str) -> Message:
    """Turn one assistant turn's text into a message.

    Well-formed ``<tool_call>`` blocks become ``tool_calls``; malformed and unclosed ones stay in
    ``content``, so that ``"<tool_call>" in content`` says that the policy miswrote a call.
    """
    calls: list[dict[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        call = parse_call(match.group(1))
        if call is None:
            return match.group(0)
        calls.append(call.message)
        return ""

    head, tag, tail = text.removesuffix("\n").removesuffix(END).rpartition("</tool_call>")  # see raw_calls
    message: Message = {"role": "assistant", "content": (_CALL.sub(take, head + tag) + tail).strip()}
    if calls:
        message["tool_calls"] = calls
    return message
