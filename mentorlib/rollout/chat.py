"""From chat messages to token ids and back, turn by turn, so that training and rollouts see the same tokens.

A trajectory is tokenised in the pieces in which a rollout produces it: the prompt, each assistant turn, each batch of
tool results with the next turn's opening. Encoding the whole text at once could merge tokens across these borders into
ids that no policy samples.
"""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..core import Call, InputError, Message

Schemas = list[Any]  # JSON schemas as dicts; transformers would also take functions


def render(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], schemas: Schemas, opening: bool, first: int = 1
) -> str:
    """The chat as text by the model's own template; ``opening`` adds the start of an assistant turn.

    Calls and results are numbered from ``first``, since some templates (Mistral's) refuse calls without an id of nine
    characters.
    """
    numbers, results, chat = itertools.count(first), itertools.count(first), []
    for message in messages:
        if message.get("tool_calls"):
            calls = [{**call, "id": f"call{next(numbers):05d}"} for call in message["tool_calls"]]
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            message = {**message, "tool_call_id": f"call{next(results):05d}"}
        chat.append(message)
    return tokenizer.apply_chat_template(  # type: ignore[return-value]
        chat, tools=schemas or None, tokenize=False, add_generation_prompt=opening
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a piece of rendered chat; special tokens in the text count as such."""
    return tokenizer.encode(text, add_special_tokens=False)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message], schemas: Schemas) -> list[int]:
    """Token ids of a chat up to and with the opening of the next assistant turn."""
    return encode(tokenizer, render(tokenizer, messages, schemas, opening=True))


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Tokens that only a chat template may write, such as ``</s>`` or ``<end_of_turn>``; the longest first."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted({str(token) for token in added if token.special and len(str(token)) > 1}, key=len, reverse=True)


def turn_end(tokenizer: PreTrainedTokenizerBase, rendered: str) -> str:
    """The token that closes the last turn of a rendered chat, as text; "" if it ends with plain text."""
    text = rendered.rstrip("\n")
    return max((token for token in tokenizer.get_added_vocab() if text.endswith(token)), key=len, default="")


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the tokens with which the chat template closes an assistant turn: one with a call, and one with an answer.

    Raises:
        InputError: it closes one of them with no token of its own, so that a model could not learn to end it.
    """
    question: Message = {"role": "user", "content": "q"}
    turns: list[Message] = [
        {"role": "assistant", "content": "", "tool_calls": [Call("f", {}).message]},
        {"role": "assistant", "content": "a"},
    ]
    ends = {turn_end(tokenizer, render(tokenizer, [question, turn], [], opening=False)) for turn in turns}
    if "" in ends:
        raise InputError("its chat template closes an assistant turn without an end token")
    vocabulary = tokenizer.get_added_vocab()
    return {vocabulary[end] for end in ends}


def end_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a turn: the generation config's, the tokenizer's, and those that the chat template writes.

    What is no token's id in a generation config, such as -1 or a text, is left out.
    """
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = [*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id]
    return {i for i in ends if type(i) is int and 0 <= i < len(tokenizer)} | turn_ends(tokenizer)


def tool_turn(tokenizer: PreTrainedTokenizerBase, results: list[str], names: Sequence[str] = (), first: int = 1) -> str:
    """The text between an assistant turn's end token and the next assistant turn, holding tool results.

    It is what the template adds to a dummy chat, which is correct for every prefix-preserving template.

    Args:
        tokenizer: with the chat template.
        results: of the turn's calls.
        names: the tools called, which some templates (gpt-oss, Gemma) write beside the results.
        first: the number of the first of these calls in its conversation, which some templates (Mistral's) write.

    Raises:
        InputError: the chat template changes earlier turns when a tool result follows.
    """
    names = [*names, *["f"] * (len(results) - len(names))]
    calls = [Call(name, {}).message for name in names]
    answers = [{"role": "tool", "name": name, "content": text} for name, text in zip(names, results, strict=True)]
    for made in (calls, calls[:1]):
        chat: list[Message] = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": made},
        ]
        with contextlib.suppress(TemplateError):  # Llama's refuses several calls a turn
            before = render(tokenizer, chat, [], opening=False, first=first).rstrip("\n")
            after = render(tokenizer, [*chat, *answers], [], opening=True, first=first)
            break
    else:
        raise InputError("its chat template does not render tool calls and results")
    if not after.startswith(before):
        raise InputError("its chat template changes earlier turns when one follows")
    return after.removeprefix(before)


def opened_thought(tokenizer: PreTrainedTokenizerBase) -> str:
    """The ``<think>`` with which the template's opening of an assistant turn ends; "" if it opens no thought."""
    text = render(tokenizer, [{"role": "user", "content": "q"}], [], opening=True)
    return text[text.rindex("<think>") :] if text.rstrip().endswith("<think>") else ""


def adds_empty_thought(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template writes an empty thought into an assistant turn without one, and not into its opening."""
    chat: list[Message] = [{"role": "user", "content": "q"}]
    opening = render(tokenizer, chat, [], opening=True)
    turn = render(tokenizer, [*chat, {"role": "assistant", "content": "a"}], [], opening=False).removeprefix(opening)
    return turn.lstrip().removeprefix("<think>").lstrip().startswith("</think>")


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, prompt: list[Message], answer: list[Message], schemas: Schemas
) -> tuple[list[int], list[int]]:
    """Token ids of a whole conversation and its mask (1 = written by the assistant, end token included).

    Args:
        tokenizer: with a prefix-preserving chat template.
        prompt: messages up to the first assistant turn.
        answer: assistant and tool messages in turn, ending with an assistant's. Their thoughts are left out where the
            template's arguments turn thinking off.
        schemas: JSON schemas of the tools offered.

    Raises:
        InputError: the chat template changes earlier turns, or closes one without an end token.
    """
    text = render(tokenizer, prompt, schemas, opening=True)
    ids = encode(tokenizer, text)
    mask = [0] * len(ids)
    if text.rstrip().endswith("</think>"):  # thinking is off: the opening itself closes the thought
        answer = [{k: v for k, v in message.items() if k != "reasoning_content"} for message in answer]
    chat = list(prompt)
    for i, message in enumerate(answer):
        chat.append(message)
        if message["role"] == "assistant":
            full = render(tokenizer, chat, schemas, opening=False).rstrip("\n")
            turn, written = full[len(text) :], 1
        elif i + 1 < len(answer) and answer[i + 1]["role"] == "assistant":
            full = render(tokenizer, chat, schemas, opening=True)
            turn, written = full[len(text) :], 0
        else:
            continue  # several results in a row: rendered together with the last
        if not full.startswith(text):
            raise InputError("its chat template changes earlier turns when one follows")
        if written and not turn_end(tokenizer, full):
            raise InputError("its chat template closes an assistant turn without an end token")
        piece = encode(tokenizer, turn)
        ids += piece
        mask += [written] * len(piece)
        text = full
    return ids, mask
