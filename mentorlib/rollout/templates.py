"""The chat template that a model is trained and sampled with: its own where it can be used, else one that can."""

import re
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..core import Call, InputError, Message, one_line
from .call_format import PROBE_SCHEMAS, find_call_format
from .chat import encode_chat, prompt_ids, render, tool_turn, turn_ends
from .hermes import hermes_template, turn_markers
from .names import read_template

_CHAT: list[Message] = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]


def choose_template(
    tokenizer: PreTrainedTokenizerBase, name: str, template: str = "", arguments: dict[str, Any] | None = None
) -> None:
    """Give the tokenizer a chat template that shows tools, writes calls that can be read, and keeps earlier turns.

    Its own if that does; else TRL's training variant of it; else one in Hermes's format with the model's own markers of
    turns (hermes.py), which is said in a line. Today's date in it becomes a fixed one (see fix_dates). The tokenizer is
    saved with it, so that a trained student keeps it.

    Args:
        tokenizer: changed in place.
        name: of the model, for messages.
        template: a file with the template to use; no other is tried.
        arguments: what it is rendered with (see fix_arguments).

    Raises:
        InputError: no template, or none that can be used, with the reason.
    """
    from trl.chat_template_utils import get_training_chat_template

    if template:
        tokenizer.chat_template = fix_dates(read_template(template))
        if problem := template_problem(tokenizer, arguments):
            raise InputError(f"template={template}: {problem} (docs/model.md)")
        return
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("tool_use") or own.get("default")
        tokenizer.chat_template = own
    if not own:
        raise InputError(f"model {name!r} has no chat template: give an instruct model, or template=FILE")
    problem = template_problem(tokenizer, arguments)
    if not problem:
        tokenizer.chat_template = fix_dates(tokenizer.chat_template)
        return
    tokenizer.chat_template = own  # TRL knows it by its text, without fixed arguments
    try:
        variant = get_training_chat_template(tokenizer)
    except ValueError:  # TRL has none
        variant = None
    if variant:
        tokenizer.chat_template = fix_dates(variant)
        if not template_problem(tokenizer, arguments):
            return
    tokenizer.chat_template = own = fix_dates(own)
    if "reasoning_content" in own:  # ours would take its thinking away
        raise InputError(
            f"model {name!r}: {problem}, and so does what TRL has for it: set template_arguments (such as "
            "{enable_thinking: false}) or give template=FILE (docs/model.md)"
        )
    try:
        tokenizer.chat_template = hermes_template(turn_markers(tokenizer))
        if remaining := template_problem(tokenizer, arguments):
            raise InputError(remaining)
    except InputError as e:
        raise InputError(f"model {name!r}: {problem}; {e}: give template=FILE (docs/model.md)") from None
    print(
        f"{name}: {problem}: replaced by one in Hermes's format with the model's own markers of turns "
        "(template=FILE takes another)",
        flush=True,
    )


def fix_dates(template: str) -> str:
    """A chat template that writes one date, whatever day it is: Llama 3.2's and gpt-oss's show the model today's.

    Every method, checkpoint and evaluation then has the same prompts. The date is the one that Llama 3.2's writes where
    it cannot ask for today's.
    """
    day = datetime(2024, 7, 26)
    return re.sub(r"""strftime_now\((["'])([^"']*)\1\)""", lambda call: repr(day.strftime(call[2])), template)


def template_problem(tokenizer: PreTrainedTokenizerBase, arguments: dict[str, Any] | None = None) -> str:
    """Why the tokenizer's chat template, with these arguments fixed in it, cannot be used; "" if it can.

    Raises:
        InputError: an argument that no template of this model reads.
    """
    if arguments:
        tokenizer.chat_template = fix_arguments(str(tokenizer.chat_template), arguments)
    try:
        shown = render(tokenizer, _CHAT, PROBE_SCHEMAS, opening=True)
    except (TemplateError, TypeError, ValueError) as e:
        return f"its chat template cannot render a system message and tools ({one_line(e)})"
    for schema in PROBE_SCHEMAS:
        if schema["function"]["name"] not in shown or schema["function"]["description"] not in shown:
            return "its chat template does not show the tools"
    if '{{"name"' in shown:  # Qwen2.5-Coder's was once a format string; the model then writes such calls
        return 'its chat template asks for calls in doubled braces ({{"name": ...}})'
    try:
        find_call_format(tokenizer)
        turn_ends(tokenizer)
        tool_turn(tokenizer, ["x"])
        if "reasoning_content" in str(tokenizer.chat_template):  # a thought must stay when turns follow
            turn: Message = {"role": "assistant", "content": "", "reasoning_content": "t"}
            results: list[Message] = [
                turn | {"tool_calls": [Call("f", {}).message]},
                {"role": "tool", "name": "f", "content": "x"},
            ]
            encode_chat(tokenizer, [{"role": "user", "content": "q"}], [*results, *results, turn], [])
    except InputError as e:
        return str(e)
    except (TemplateError, TypeError, ValueError) as e:
        return f"its chat template cannot render calls and results ({one_line(e)})"
    return ""


def largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest token id in a prompt with tools, and of the tokens that end a turn."""
    return max(*prompt_ids(tokenizer, _CHAT, PROBE_SCHEMAS), *turn_ends(tokenizer))


_FIXED = re.compile(r"\A\{#- Fixed arguments\. -#\}(\{%- set \w+ = .*? -%\})*\n", re.DOTALL)
_GIVEN = ("messages", "tools", "documents", "add_generation_prompt")  # by whoever renders the template


def fix_arguments(template: str, arguments: dict[str, Any]) -> str:
    """A chat template that is always rendered with these arguments; they replace those fixed before.

    Raises:
        InputError: an argument that the template does not read, or that is set by whoever renders it.
    """
    template = _FIXED.sub("", template)
    for name in arguments:
        if name in _GIVEN or not re.search(rf"\b{re.escape(str(name))}\b", template):
            known = (
                "it reads enable_thinking" if "enable_thinking" in template else "the template has no thinking to set"
            )
            raise InputError(f"template_arguments: the chat template takes no {name!r}: leave it out ({known})")
    lines = "".join(f"{{%- set {name} = {value!r} -%}}" for name, value in arguments.items())
    return f"{{#- Fixed arguments. -#}}{lines}\n{template}"
