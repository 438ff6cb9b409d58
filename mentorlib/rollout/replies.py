"""Replies of a chat-completions server: read from JSON, written as ChatML turns, and sent back as part of the chat."""

import json
from collections.abc import Mapping
from typing import Any

from ..core import Message, parse_call, parse_turn, thought_spans
from ..runs.files import Row
from ..sandbox.validate import check_value

GARBLED = "garbled"  # how the text of an UnreadableReply begins that is no ErrorReply


class UnreadableReply(ValueError):
    """A reply that is no chat completion; the text says in one line what it is, in the server's words if it has any."""


class ErrorReply(UnreadableReply):
    """A reply that says that the server failed; ``code`` and ``kind`` are its error's code and type."""

    def __init__(self, words: str, code: Any = None, kind: Any = None):
        super().__init__(words)
        self.code, self.kind = code, kind


def parse_reply(text: str) -> dict[str, Any]:
    """Read a chat completion's JSON, as OpenAI writes it or as servers are known to deviate.

    Calls may stand in the legacy ``function_call``, without their ``function`` or as parts of the content, and their
    arguments may be objects; the content may be a list of parts, or a completion's ``text``.

    Returns:
        ``{"message", "finish", "usage"}``: the assistant message with all fields that it has, calls and content in
        OpenAI's form, the finish_reason, and the numbers of prompt_tokens and completion_tokens. Half of a surrogate
        pair, which no request could carry back, becomes "?".

    Raises:
        ErrorReply: it says that the server failed.
        UnreadableReply: it is anything else.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableReply(f"{GARBLED}: no JSON: {_words(text)}") from None
    if not isinstance(body, dict):
        raise UnreadableReply(f"{GARBLED}: no chat completion: {_words(text)}")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    finish = choice.get("finish_reason")
    failed = body.get("error") or choice.get("error")
    if failed or finish in ("error", "abort") or not choice:
        raise _error(failed or next((body[key] for key in ("detail", "message", "errors") if body.get(key)), ""), body)
    try:
        message = {k: v for k, v in _encodable(_message(choice)).items() if v not in (None, [])}
        _unfold_content(message)
        legacy = message.pop("function_call", None)
        calls = message.get("tool_calls", [legacy] if legacy else [])
        if calls:
            message["tool_calls"] = [_wrapped(call) for call in (calls if isinstance(calls, list) else [calls])]
        check_value([message, finish])  # such as depth, which the log could not store
        usage = body.get("usage") or {}
        counts = {kind: max(0, int(usage.get(kind) or 0)) for kind in ("prompt_tokens", "completion_tokens")}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UnreadableReply(f"{GARBLED}: no chat completion: {_words(text)}") from None
    return {"message": {**message, "role": "assistant"}, "finish": finish, "usage": counts}


def _words(value: Any) -> str:
    """At most 200 characters of a text or of anything else, on one line."""
    return " ".join((value if isinstance(value, str) else json.dumps(value)).split())[:200]


def _error(error: Any, body: Row) -> ErrorReply:
    """The error of a reply: a text, an object with a message, or else what the reply begins with."""
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        about = body
    else:
        about, error = error, error.get("message") or error.get("detail") or error.get("type") or error
    words = _words(error) if error else f"no message: {_words(body)}"
    return ErrorReply(words, about.get("code") or about.get("status"), about.get("type"))


def _encodable(message: Any) -> Row:
    encoded: Row = json.loads(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
    return encoded


def _message(choice: Row) -> Any:
    if "message" not in choice and isinstance(choice.get("text"), str):
        return {"content": choice["text"]}
    return choice["message"]


def _unfold_content(message: Row) -> None:
    """Turn a content that is a list of parts into text, thoughts and calls."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list) and not (content and isinstance(content, dict)):
        raise TypeError  # such as 0 or false
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    calls: list[Any] = []
    for part in [content] if isinstance(content, dict) else content:
        kind = "text" if isinstance(part, str) else part.get("type", "text")
        if kind in ("tool_use", "tool_call", "function_call"):
            calls.append(part)
        elif kind in ("thinking", "reasoning", "reasoning_content"):
            said = part.get("thinking") or part.get("text") or ""
            texts["reasoning_content"] += [said] if isinstance(said, str) else [inner["text"] for inner in said]
        elif kind == "refusal":
            texts["refusal"].append(part["refusal"])
        elif isinstance(part, str) or "text" in part:
            said = part if isinstance(part, str) else part["text"]
            texts["content"].append(said["value"] if isinstance(said, dict) else said)
    message |= {"content": ""} | {name: "".join(parts) for name, parts in texts.items() if parts}
    if calls:
        message["tool_calls"] = [*message.get("tool_calls", []), *calls]


def _wrapped(call: Any) -> Row:
    """A call in OpenAI's form: ``{"type": "function", "function": {"name", "arguments": JSON text}}``."""
    function = dict(call["function"] if isinstance(call.get("function"), dict) else call)
    given = next((function[key] for key in ("arguments", "parameters", "input") if key in function), None)
    arguments = given if isinstance(given, str | None) else json.dumps(given)  # a list, say, is the model's own error
    if not isinstance(function["name"], str):
        raise TypeError
    inner = {"name": function["name"], **({} if arguments is None else {"arguments": arguments})}
    if "function" in call and isinstance(call["function"], dict):
        return {**call, "function": {**call["function"], **inner}}
    return {**({"id": call["id"]} if "id" in call else {}), "type": "function", "function": inner}


def answering(message: Message, finish: str | None) -> Message:
    """A reply's message with its answer in ``content``.

    Servers with a parser of thoughts leave it empty where the model never closed its thought: if the turn ended by
    itself, what is in ``reasoning_content`` (``reasoning``) is what the model said.
    """
    thought = message.get("reasoning_content") or message.get("reasoning")
    if finish == "length" or message.get("content") or message.get("tool_calls") or not isinstance(thought, str):
        return message
    rest = {key: value for key, value in message.items() if key not in ("reasoning_content", "reasoning")}
    return {**rest, "content": thought.replace("<think>", "").replace("</think>", "").strip()}


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
