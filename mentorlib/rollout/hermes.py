"""A chat template with tools for models whose own has none (SmolLM2, Llama 3, Gemma, Phi-3).

It keeps the model's own markers of turns, found by rendering a chat with its template, and adds what Hermes and Qwen
write: the schemas within ``<tools>`` in the system message, calls within ``<tool_call>``, results as a user's turn
within ``<tool_response>``. Where the template has no system role (Gemma), that text begins the first user's turn.
"""

import json
from typing import NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..core import InputError, Message, one_line

_TEMPLATE = """\
{%- set head = messages[0].content if messages[0].role == "system" else "" %}
{%- if tools %}
    {%- set schemas %}{% for tool in tools %}{{ "\\n" + (tool | tojson) }}{% endfor %}{% endset %}
    {%- set head = (head + "\\n\\n" if head else "") + TOOLS_BEFORE + schemas + TOOLS_AFTER %}
{%- endif %}
{{- START }}
{%- if head and SYSTEM_OPEN %}
    {{- SYSTEM_OPEN + head + SYSTEM_CLOSE }}
{%- endif %}
{%- set first = namespace(user=not SYSTEM_OPEN) %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else "" %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- USER_OPEN + (head + "\\n\\n" if first.user and head else "") + content + USER_CLOSE }}
        {%- set first.user = false %}
    {%- elif message.role == "assistant" %}
        {{- ASSISTANT_OPEN + content }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function or call %}
            {%- if content or not loop.first %}
                {{- "\\n" }}
            {%- endif %}
            {{- '<tool_call>\\n{"name": ' + (call.name | tojson) + ', "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- "}\\n</tool_call>" }}
        {%- endfor %}
        {{- ASSISTANT_CLOSE }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}
            {{- USER_OPEN }}
        {%- else %}
            {{- "\\n" }}
        {%- endif %}
        {{- "<tool_response>\\n" + content + "\\n</tool_response>" }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}
            {{- USER_CLOSE }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- ASSISTANT_OPEN }}
{%- endif %}"""
_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


class Markers(NamedTuple):
    """What a chat template writes around turns; ``system_open`` is empty where it has no system role."""

    start: str  # of the chat: the beginning-of-sequence token, if the template writes it
    system_open: str
    system_close: str
    user_open: str
    user_close: str
    assistant_open: str
    assistant_close: str


def turn_markers(tokenizer: PreTrainedTokenizerBase) -> Markers:
    """Find the markers in a rendered chat of the tokenizer's own template.

    Raises:
        InputError: the template does not write the contents of turns one after another.
    """
    system, question, answer, following = "sYsTeM", "qUeStIoN", "aNsWeR", "nExT"

    def rendered(*turns: tuple[str, str]) -> str:
        chat: list[Message] = [{"role": role, "content": content} for role, content in turns]
        return str(tokenizer.apply_chat_template(chat, tokenize=False))

    def after(text: str, content: str) -> str:
        """What follows the last content, without the end-of-sequence token that Phi-3 writes after the whole chat."""
        tail = text.rpartition(content)[2]
        return tail.removesuffix(str(tokenizer.eos_token)) or tail

    def between(text: str, left: str, right: str) -> str:
        return text.partition(left)[2].partition(right)[0]

    asked, answered = ("user", question), ("assistant", answer)
    try:
        closed = rendered(asked, answered)
        user_close, assistant_close = after(rendered(asked), question), after(closed, answer)
        assistant_open = between(closed, question, answer).removeprefix(user_close)
        # The second user's turn: templates put a default system message or a start token before the first.
        chat = rendered(asked, answered, ("user", following))
        user_open = between(chat, answer, following).removeprefix(assistant_close)
        bos = str(tokenizer.bos_token or "")
        start = bos if bos and chat.startswith(bos) and not user_open.startswith(bos) else ""  # SmolLM2's opens turns
        system_open = system_close = ""
        try:
            with_system = rendered(("system", system), asked)
        except TemplateError:  # "System role not supported"
            with_system = ""
        own_turn = with_system.partition(system)[2].partition(question)[0]
        if user_open and own_turn.endswith(user_open) and own_turn != user_open:
            system_open = with_system.partition(system)[0].removeprefix(start)
            system_close = own_turn.removesuffix(user_open)
    except (TemplateError, TypeError, ValueError) as e:
        raise InputError(f"its chat template cannot render a chat ({one_line(e)})") from None
    if not (user_open and user_close + assistant_open and assistant_close.strip()):
        raise InputError("its chat template has no markers around turns")
    return Markers(start, system_open, system_close, user_open, user_close, assistant_open, assistant_close)


def hermes_template(markers: Markers) -> str:
    """The chat template as text (jinja), with these markers."""
    values = {"TOOLS_BEFORE": _TOOLS_BEFORE, "TOOLS_AFTER": _TOOLS_AFTER}
    values |= {name.upper(): value for name, value in markers._asdict().items()}
    lines = [f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} %}}" for name, value in values.items()]
    return "\n".join([*lines, _TEMPLATE])
