"""Replies of a chat-completions server: read from JSON, written as ChatML turns, and sent back as part of the chat."""

import json
from collections.abc import Mapping
from typing import Any

from ..core import Message, parse_call, parse_turn, thought_spans
from ..runs.files import Row
from ..sandbox.validate import check_value


def parse_reply(text: str) -> dict[str, Any] | None:
    """Read a chat completion's JSON; None if it is anything else, or says that the server failed.

    Returns:
        ``{"message", "finish", "usage"}``: the assistant message with all fields that it has, the finish_reason, and
        the numbers of prompt_tokens and completion_tokens. Half of a surrogate pair, which no request could carry back,
        becomes "?".
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        if choice.get("finish_reason") in ("error", "abort"):  # how gateways and engines report a failure
            return None
        encodable = json.dumps(choice["message"], ensure_ascii=False).encode("utf-8", "replace")
        message = {k: v for k, v in json.loads(encodable).items() if v not in (None, [])}
        content = message.get("content", "")
        if isinstance(content, list):
            message["content"] = "".join(part["text"] for part in content if part.get("type") == "text")
        elif not isinstance(content, str):
            return None
        for call in message.get("tool_calls", []):
            function = call["function"]
            if isinstance(function.get("arguments"), dict):
                function["arguments"] = json.dumps(function["arguments"])
            if not isinstance(function["name"], str) or not isinstance(function.get("arguments") or "", str):
                return None
        check_value([message, choice.get("finish_reason")])  # such as depth, which the log could not store
        usage = body.get("usage") or {}
        counts = {kind: max(0, int(usage.get(kind) or 0)) for kind in ("prompt_tokens", "completion_tokens")}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return {"message": {**message, "role": "assistant"}, "finish": choice.get("finish_reason"), "usage": counts}


def turn_text(message: Message) -> str:
    """An assistant message as the text of a ChatML turn; control tokens within its texts are escaped."""
    content = message.get("content", "").replace("<|", "< |")
    tool_calls = message.get("tool_calls")
    if not tool_calls:
        return content  # a server without a tool parser leaves calls in the text; they count too
    content = content.replace("tool_call>", "tool_call >")
    if any(end == len(content) for _, end in thought_spans(content)) and not content.endswith("</think>"):
        content += "</think>"  # the calls are not part of a thought that the server left open
    blocks = [content] if content else []
    for call in tool_calls:
        name, arguments = json.dumps(call["function"]["name"]), (call["function"].get("arguments") or "{}").strip()
        if any(tag in name + arguments for tag in ("<|", "tool_call>", "tool_response>", "think>")):
            name, arguments = name.replace("<", "\\u003c"), arguments.replace("<", "\\u003c")
        blocks.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(blocks)


def message_to_resend(message: Message, raw: list[str], first: int) -> Message:
    """An assistant message as it is sent back with the next request: all its fields, in a form that servers accept.

    Args:
        message: the reply's message.
        raw: the texts of its calls, in order.
        first: number of the first call. Ids are numbered here, since some servers give none or the same twice (nine
            letters and digits, as Mistral's servers require).

    Returns:
        The message; arguments that are no JSON object become ``{}`` (the tool's error says what was wrong).
    """
    tool_calls = message.get("tool_calls") or [{"type": "function"} for _ in raw]
    resent = []
    for number, (text, call) in enumerate(zip(raw, tool_calls, strict=True), first):
        parsed = parse_call(text)
        name = parsed.name if parsed else call.get("function", {}).get("name", "unknown")
        try:
            arguments = json.dumps(parsed.arguments if parsed else {}, allow_nan=False)
        except ValueError:
            arguments = "{}"
        resent.append({**call, "id": f"call{number:05d}", "function": {"name": name, "arguments": arguments}})
    content = message.get("content", "") if message.get("tool_calls") else parse_turn(turn_text(message))["content"]
    return {**message, "content": content, "tool_calls": resent}


def rename_function(item: Row, names: Mapping[str, str]) -> Row:
    """A tool's schema, or a call of it, under the name that ``names`` gives; unchanged if it gives none."""
    name = item["function"]["name"]
    return {**item, "function": {**item["function"], "name": names.get(name, name)}}
