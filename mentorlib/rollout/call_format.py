"""How a model's family writes tool calls, found by rendering calls with its chat template and reading them back.

Hermes and Qwen write ``<tool_call>{"name": …, "arguments": …}</tool_call>``, which core reads. Other families' turns
are read by transformers' response parser, with the response template that the tokenizer brings or TRL's for another
family, whichever gives back the calls that were rendered.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl import chat_template_utils

from ..core import Call, InputError, Message, parse_call, read_turn, split_thoughts
from .chat import opened_thought, render, turn_end, turn_ends

_LLAMA: dict[str, Any] = chat_template_utils.llama3_template
_LLAMA_CALL = {  # models also write {"type": "function", "name": …
    "open_pattern": r'\{(?:"type":\s*"function",\s*)?"name":\s*"(?P<name>[^"]+)",\s*"parameters":\s*'
}
RESPONSE_TEMPLATES: dict[str, dict[str, Any]] = {
    "Qwen 3.5": chat_template_utils.qwen3_5_template,
    "Nemotron 3": chat_template_utils.nemotron_3_template,
    "GLM 4": chat_template_utils.glm4moe_template,
    "Llama 3": {
        **_LLAMA,
        "fields": {**_LLAMA["fields"], "tool_calls": {**_LLAMA["fields"]["tool_calls"], **_LLAMA_CALL}},
    },
    "gpt-oss": chat_template_utils.gptoss_template,
    "LFM2": chat_template_utils.lfm2_2_5_template,
    "Gemma 4": chat_template_utils.gemma4_template,
    # TRL has none: a list of calls, each with an id, after [TOOL_CALLS].
    "Mistral": {
        "defaults": {"role": "assistant"},
        "start_anchor_pattern": r"\[/INST\]|\[/TOOL_RESULTS\]",
        "fields": {
            "tool_calls": {
                "open_pattern": r"\[TOOL_CALLS\]\s*",
                "close_pattern": r"</s>\s*|$",
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
                "transform_each": True,
            },
            "content": {"close_pattern": r"</s>\s*|$", "content": "text"},
        },
    },
}
# Calls to render: a number, a text, and no argument at all.
PROBES = [Call("get_area", {"width": 2.5, "unit": "sq m"}), Call("get_time", {})]
PROBE_SCHEMAS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": call.name,
            "description": f"What {call.name} does.",
            "parameters": {
                "type": "object",
                "properties": {
                    name: {"type": "string" if isinstance(value, str) else "number", "description": f"the {name}"}
                    for name, value in call.arguments.items()
                },
                "required": list(call.arguments),
            },
        },
    }
    for call in PROBES
]


@dataclass(frozen=True)
class CallFormat:
    """A family's calls.

    name: "Hermes", or a key of RESPONSE_TEMPLATES, or "its own" for the tokenizer's.
    response_template: of transformers' response parser; None for Hermes.
    opening: what the prompt ends with: a response template reads a turn from there.
    thought: the ``<think>`` that the opening ends with, or "".
    marker: what a call begins with; where it stands and no call is read, the turn is malformed.
    ends, end: ids of the tokens that the chat template closes turns with, and as text the one of a turn with calls;
        empty if it closes turns without any.
    """

    name: str
    response_template: dict[str, Any] | None
    opening: str
    thought: str
    marker: str
    ends: frozenset[int] = frozenset()
    end: str = ""

    def turn_text(self, tokenizer: PreTrainedTokenizerBase, ids: list[int], cut: bool = False) -> str:
        """A sampled turn as ``read_turn`` takes it, from its token ids; ``cut`` ones have no end token.

        A response template knows the chat template's own end only: any other, such as Llama's <|eom_id|>, becomes that.
        """
        if self.response_template is None:
            return self.thought + str(tokenizer.decode(ids if cut else ids[:-1]))
        if cut or ids[-1] in self.ends:
            return str(tokenizer.decode(ids))
        return str(tokenizer.decode(ids[:-1])) + self.end

    def read_turn(self, tokenizer: PreTrainedTokenizerBase, schemas: list[Any], text: str) -> tuple[Message, list[str]]:
        """Read one assistant turn.

        Args:
            tokenizer: of the model.
            schemas: of the tools offered; formats whose arguments are not JSON do not tell 7 from "7".
            text: see ``turn_text``.

        Returns:
            The message (see core.parse_turn), and the turn's calls as JSON, well-formed or not.
        """
        if self.response_template is None:
            return read_turn(text)
        # JSON has types. With the schemas, the parser would mend wrong ones, in these families only.
        typed = self.response_template["fields"]["tool_calls"].get("content") == "json"
        try:
            parsed = tokenizer.parse_response(
                text, self.response_template, prefix=self.opening, tools=None if typed else schemas
            )
            found = [call["function"] for call in parsed.get("tool_calls") or ()]
            if found and not self._is_closed(text):
                raise ValueError("the last call was not closed")
            raw = [json.dumps({"name": call["name"], "arguments": call.get("arguments") or {}}) for call in found]
            calls = [call for call in map(parse_call, raw) if call]
            thought = str(parsed.get("reasoning_content") or parsed.get("thinking") or "")
            content = str(parsed.get("content") or "").strip()
        except Exception:  # the parser's errors on hostile text are of many types
            raw, calls = [], []
            content, thought = split_thoughts(text if text.lstrip().startswith("<think>") else self.thought + text)
        if self.marker in content or (not raw and self.marker in text.replace(thought, "", 1)):
            content = text if self.marker not in content else content
            content = content.replace(self.marker, "<tool_call>")  # how every message shows a malformed call
        message: Message = {"role": "assistant", "content": content}
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [call.message for call in calls]
        return message, raw

    def _is_closed(self, text: str) -> bool:
        """Whether the last call is followed by what closes calls; the parser takes the end of the text for it, too."""
        assert self.response_template is not None
        field = self.response_template["fields"]["tool_calls"]
        close = field.get("close_pattern") or re.escape(field["close"])
        return re.search(close, text[max(text.rfind(self.marker), 0) :]) is not None  # JSON may be spaced otherwise


def find_call_format(tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    """The format that the tokenizer's chat template renders calls in.

    Raises:
        InputError: the template does not render calls, or in no format known here.
    """
    chat: list[Message] = [{"role": "user", "content": "q"}]

    prompt = render(tokenizer, chat, PROBE_SCHEMAS, opening=True)
    opening = prompt.removeprefix(render(tokenizer, chat, PROBE_SCHEMAS, opening=False))
    candidates: list[tuple[str, dict[str, Any] | None]] = [("Hermes", None)]
    if own := getattr(tokenizer, "response_template", None):
        candidates.append(("its own", own))
    candidates += RESPONSE_TEMPLATES.items()
    for calls in (PROBES, PROBES[:1]):  # some families make one call a turn
        message: Message = {"role": "assistant", "content": "", "tool_calls": [call.message for call in calls]}
        try:
            turn = render(tokenizer, [*chat, message], PROBE_SCHEMAS, opening=False)
        except Exception:  # jinja's, and whatever a template raises
            continue
        if not turn.startswith(prompt):
            continue
        turn = turn[len(prompt) :]
        marker = turn.partition(calls[0].name)[0].rpartition("</think>")[2].strip().partition("\n")[0]
        for name, template in candidates:
            format = CallFormat(name, template, opening, opened_thought(tokenizer), marker)
            read, _ = format.read_turn(tokenizer, PROBE_SCHEMAS, turn)
            if marker and read.get("tool_calls") == message["tool_calls"]:
                with suppress(InputError):  # template_problem tells
                    ends = frozenset(turn_ends(tokenizer))
                    return replace(format, ends=ends, end=turn_end(tokenizer, turn))
                return format
    raise InputError("its chat template writes tool calls in no format that is known here")
