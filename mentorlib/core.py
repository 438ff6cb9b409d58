"""The vocabulary of the library: plain data that every other file builds on, and how text becomes tool calls.

Glossary (the types that need a toolbox, Task and Pair, are in task.py):

===============  ====================================================================================================
Message          a chat message as TRL and OpenAI write it: ``{"role", "content"}``; an assistant's may hold
                 ``tool_calls`` (``[{"type": "function", "function": {"name", "arguments"}}]``) and, where it thought,
                 ``reasoning_content``; a tool's may hold its ``name``
Call             one tool call: a name, and arguments by name
Execution        the result of one call: a value or an error, and whose fault the error is
Task, Pair       a question with its answer and toolbox; a task together with its reference
Reference        what the teacher did on a task: messages, calls, answer
Trajectory       what a policy did on a task: messages, token ids with their mask, and a stop reason
Stop             how a trajectory ended: ``answered`` (a boxed answer), ``gave_up`` (neither call nor answer),
                 ``turn_limit``, ``length`` (token limit), ``malformed`` (a call that cannot be run),
                 ``infrastructure`` (the sandbox or server failed: never a reward)
Metric           what of a task is compared, and how: ``math`` (a number or mathematics), ``text`` (exactly), ``words``
                 (SQuAD's exact match), ``calls`` (BFCL's match), or ``answer``, the default: mathematics where the gold
                 answer is a number or LaTeX, otherwise text (rewards/answers.py)
Score            a reward's terms, weights and total for one trajectory (rewards/)
Group            the rollouts of one task in one GRPO step; with equal rewards it is a zero-variance group
===============  ====================================================================================================
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

Message = dict[str, Any]
Stop = Literal["answered", "gave_up", "turn_limit", "length", "malformed", "infrastructure"]
Metric = Literal["answer", "math", "text", "words", "calls"]

END = "<|im_end|>"  # ChatML's end-of-turn token
# Those of other families, as stored rollouts have them: Llama, Mistral and Gemma, Phi, DeepSeek, Cohere, gpt-oss, GPT.
END_TOKENS = (
    END,
    *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>", "<end_of_turn>", "<turn|>", "<eos>", "<|end|>"),
    *("<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<|endoftext|>"),
)
_PADDING = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|dummy_85|>")
MAX_CALL = 65_536  # characters of JSON in one call
MAX_NESTED = 100  # depth of objects and lists in a call; deeper ones could be parsed but not stored
RESULT_LIMIT = 2_000  # characters of one tool result that a policy reads
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_THINK = re.compile("</?think>")


class InputError(ValueError):
    """A mistake in something the user gave: one line that names the file, row or key, and the remedy.

    The command line prints it without a traceback and exits with 2; a notebook shows the line alone, too.
    """

    def _render_traceback_(self) -> list[str]:  # IPython's hook
        return [f"{type(self).__name__}: {self}"]


def did_you_mean(name: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``did you mean NAME? `` with the nearest of the known names, for a message about one that is not; or ``""``.

    ``cutoff`` is the least similarity, as of difflib's get_close_matches.
    """
    near = get_close_matches(str(name), list(known), 1, cutoff)
    return f"did you mean {near[0]}? " if near else ""


def one_line(error: BaseException, limit: int = 160) -> str:
    """An exception's message on one line of at most ``limit`` characters; its type's name if it has none."""
    return (" ".join(str(error).split()) or type(error).__name__)[:limit]


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

    A float's seventeen digits cost a small student tokens and tell it nothing. Other values are returned as they are.
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    value = round(value, 6) if abs(value) >= 1e-3 else float(f"{value:.6g}")
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


@dataclass(frozen=True)
class Execution:
    """The result of one tool call.

    ``fault`` is None on success; "model" when the call or the tool's code was wrong (the policy reads ``error`` and may
    correct itself); "sandbox" for an infrastructure failure, "tool" where the tool's own source fails whatever the
    call: both are never punished and are left out of the loss.
    """

    value: Any = None  # JSON: finite numbers, bounded size and depth
    stdout: str = ""
    error: str | None = None  # one line
    seconds: float = 0.0
    fault: Literal["model", "tool", "sandbox"] | None = None

    @property
    def text(self) -> str:
        """What the policy reads: ``error: …``, a string as it is, any other value as JSON (see display_number)."""
        if self.error is not None:
            return f"error: {self.error}"
        return self.value if isinstance(self.value, str) else json.dumps(display_number(self.value), ensure_ascii=False)


@dataclass(frozen=True)
class Reference:
    """What the teacher did on a task. It is kept only if executing its calls gives the gold answer.

    Where only the names of the teacher's tools are known, the calls have no arguments and there are no messages; where
    nothing is known, there are neither.
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
        """The texts of the tool results that the teacher read."""
        return [str(m["content"]) for m in self.messages if m["role"] == "tool"]


def tool_messages(results: list[str]) -> list[Message]:
    """Tool results as messages of a reference: besides the calls, all that a reward reads of it."""
    return [{"role": "tool", "content": text} for text in results]


@dataclass
class Trajectory:
    """What a policy did on a task, from its first sampled token to the stop.

    ``response`` is the decoded text after the prompt, with special tokens and tool results: what the official rewards
    read. ``token_ids``, ``mask`` (1 = sampled, 0 = tool result or template) and ``logprobs`` (natural log; 0.0 where
    mask is 0, NaN where the sampler gave no number) have one entry a token after the prompt, ``tokens`` is the text of
    each. All are empty for a trajectory rebuilt from text or sampled by a server; ``n_sampled`` is then how many tokens
    were sampled, if that is known.
    ``failure`` says in one line what failed where the stop is ``infrastructure``, if that is known.
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
    n_sampled: int = 0
    failure: str = ""

    @property
    def n_tokens(self) -> int:
        """How many tokens the policy sampled."""
        return sum(self.mask) or self.n_sampled

    @property
    def calls(self) -> list[Call]:
        """Every well-formed call of all assistant turns, in order."""
        return [
            Call(c["function"]["name"], c["function"]["arguments"])
            for m in self.messages
            if m["role"] == "assistant"
            for c in m.get("tool_calls") or ()
        ]

    @property
    def ended(self) -> bool:
        """Whether no token limit cut it (an infrastructure failure counts as not cut)."""
        return self.stop != "length"

    @classmethod
    def from_response(cls, response: str, task_id: str = "") -> "Trajectory":
        """Rebuild a trajectory from the text after the prompt (ChatML as Qwen3 writes it).

        Blanks and padding after the end token do not count. A text without one was cut off (``stop`` is "length").
        """
        messages: list[Message] = []
        said = without_end(response)
        for i, turn in enumerate(re.split(r"<\|im_start\|>(?=assistant\n|user\n)", response if said is None else said)):
            if i and turn.startswith("user\n"):  # the first turn is the policy's, however it begins
                closed = turn[: turn.rfind("</tool_response>") + len("</tool_response>")]  # linear time, see raw_calls
                results = re.findall(r"<tool_response>\n?(.*?)\n?</tool_response>", closed, re.DOTALL)
                messages += tool_messages(results)
            else:
                messages.append(parse_turn(turn.removeprefix("assistant\n")))
        return cls(task_id, messages, response, "length" if said is None else _stop_of_ended(messages[-1]))


def without_end(response: str) -> str | None:
    """A response without its end token, and without the blanks and padding after it; None if it has no end token."""
    end, said = len(response.rstrip()), None  # places in the text, which is not copied: linear time
    while token := next((token for token in (*END_TOKENS, *_PADDING) if response.endswith(token, 0, end)), None):
        end -= len(token)
        said = end if token in END_TOKENS else said
        while end and response[end - 1].isspace():
            end -= 1
    return None if said is None else response[:said]


def end_response(response: str) -> str:
    """A response that ended by itself, with ChatML's end token at its end, as the official rewards read it."""
    said = without_end(response)
    return (response if said is None else said) + END


def _stop_of_ended(last: Message) -> Stop:
    if "<tool_call>" in str(last["content"]):
        return "malformed"
    if last["role"] == "tool" or last.get("tool_calls"):
        return "turn_limit"
    return "answered" if "\\boxed" in str(last["content"]) else "gave_up"


def parse_call(raw: str) -> Call | None:
    """Parse ``{"name": …, "arguments": {…}}``; None if the text is anything else. Never raises."""
    if len(raw) > MAX_CALL:
        return None
    try:
        call = json.loads(raw)
        json.dumps(call, ensure_ascii=False).encode()  # a lone surrogate cannot be written to a file or a request
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments")
    return Call(call["name"], arguments) if isinstance(arguments, dict) and not _too_deep(arguments) else None


def _too_deep(value: Any, depth: int = MAX_NESTED) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_too_deep(item, depth - 1) for item in items)


def format_tool_result(text: str, control: Sequence[str] = ()) -> str:
    """A tool result as it enters the chat: a long text cut with a note of its length, and control tokens escaped.

    ``control`` are the model's control tokens, beside those of ChatML's form ``<|…|>``: the tokenizer would read them
    in a text as such.
    """
    if len(text) > RESULT_LIMIT:
        text = f"{text[:RESULT_LIMIT]} … (cut, {len(text)} characters in all)"
    text = text.replace("<|", "< |")
    for token in control:
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def raw_calls(text: str) -> list[str]:
    """The text inside each closed ``<tool_call>`` block of a turn, well-formed or not, in order."""
    # Cut after the last closing tag: the pattern would scan the whole rest for every opening tag without one.
    head, tag, _ = text.rpartition("</tool_call>")
    return _CALL.findall(head + tag)


def thought_spans(text: str) -> list[tuple[int, int]]:
    """The spans of a turn's thoughts, tags included: from ``<think>`` to the next ``</think>``, or to the end.

    Where ``</think>`` comes first, the thought was opened in the prompt, by the chat template: it begins with the turn.
    Tags in the arguments of a well-formed call are text.
    """
    if not _THINK.search(text):
        return []
    head, tag, _ = text.rpartition("</tool_call>")  # see raw_calls
    calls = [match.span() for match in _CALL.finditer(head + tag) if parse_call(match.group(1))]
    spans: list[tuple[int, int]] = []
    inside, opened = iter(calls), None
    call = next(inside, None)
    closable = True  # whether </think> without <think> closes the prompt's thought: only the first tag
    for match in _THINK.finditer(text):
        while call and call[1] <= match.start():
            call = next(inside, None)
        if call and call[0] < match.start():
            continue
        if match.group() == "<think>":
            opened = match.start() if opened is None else opened
        elif opened is not None or closable:
            spans.append((opened or 0, match.end()))
            opened = None
        closable = False
    return spans if opened is None else [*spans, (opened, len(text))]


def split_thoughts(text: str) -> tuple[str, str]:
    """Split a turn into its text without thoughts, and its thoughts without tags (see thought_spans)."""
    said, thoughts, at = [], [], 0
    for start, end in thought_spans(text):
        said.append(text[at:start])
        thoughts.append(text[start:end].removeprefix("<think>").removesuffix("</think>").strip())
        at = end
    # A line break between, so that no call or box is made of what stood on both sides of a thought.
    return "\n".join([*said, text[at:]]), "\n\n".join(filter(None, thoughts))


def parse_turn(text: str) -> Message:
    """Parse the text of one assistant turn into a message.

    Thoughts become ``reasoning_content``: a call or box within them was considered, not made. Of the rest, well-formed
    ``<tool_call>`` blocks become ``tool_calls``. Malformed and unclosed ones stay in ``content``, so that
    ``"<tool_call>" in content`` means that the policy wrote a malformed call.
    """
    calls: list[dict[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        call = parse_call(match.group(1))
        if call is None:
            return match.group(0)
        calls.append(call.message)
        return ""

    said, thought = split_thoughts(text.removesuffix("\n").removesuffix(END))
    head, tag, tail = said.rpartition("</tool_call>")  # see raw_calls
    message: Message = {"role": "assistant", "content": (_CALL.sub(take, head + tag) + tail).strip()}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def read_turn(text: str) -> tuple[Message, list[str]]:
    """An assistant turn in Hermes's and Qwen's format: its message, and its calls as JSON, well-formed or not."""
    said, _ = split_thoughts(text)
    return parse_turn(text), raw_calls(said)
