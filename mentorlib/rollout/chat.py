"""From chat messages to token ids and back, turn by turn, so that training and rollouts see the same tokens.

A trajectory is tokenised in the pieces in which a rollout produces it: the prompt, each assistant turn, each batch of
tool results with the next turn's opening. Encoding the whole text at once could merge tokens across these borders into
ids that no policy samples.
"""

from typing import Any

from transformers import PreTrainedTokenizerBase

from ..core import Call, InputError, Message

Schemas = list[Any]  # JSON schemas as dicts; transformers would also take functions


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], schemas: Schemas, opening: bool) -> str:
    """The chat as text by the model's own template; ``opening`` adds the start of an assistant turn."""
    return tokenizer.apply_chat_template(  # type: ignore[return-value]
        messages, tools=schemas or None, tokenize=False, add_generation_prompt=opening
    )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a piece of rendered chat; special tokens in the text count as such."""
    return tokenizer.encode(text, add_special_tokens=False)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: list[Message], schemas: Schemas) -> list[int]:
    """Token ids of a chat up to and with the opening of the next assistant turn."""
    return encode(tokenizer, render(tokenizer, messages, schemas, opening=True))


def tool_turn(tokenizer: PreTrainedTokenizerBase, results: list[str]) -> str:
    """The text between an assistant turn's end token and the next assistant turn, holding tool results.

    It is what the template adds to a dummy chat, which is correct for every prefix-preserving template.

    Raises:
        InputError: the chat template changes earlier turns when a tool result follows.
    """
    call: Message = {"role": "assistant", "content": "", "tool_calls": [Call("f", {}).message]}
    chat: list[Message] = [{"role": "user", "content": "q"}, call]
    answers: list[Message] = [{"role": "tool", "name": "f", "content": result} for result in results]
    end = str(tokenizer.eos_token)
    before = render(tokenizer, chat, [], opening=False).rstrip("\n").removesuffix(end) + end
    after = render(tokenizer, [*chat, *answers], [], opening=True)
    if not after.startswith(before):
        raise InputError(
            "the model's chat template is not prefix-preserving: use its training variant "
            "(trl.chat_template_utils.get_training_chat_template)"
        )
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
        InputError: the chat template is not prefix-preserving.
    """
    ids = prompt_ids(tokenizer, prompt, schemas)
    mask = [0] * len(ids)
    text = render(tokenizer, prompt, schemas, opening=True)
    if text.rstrip().endswith("</think>"):  # thinking is off: the opening itself closes the thought
        answer = [{k: v for k, v in message.items() if k != "reasoning_content"} for message in answer]
    chat = list(prompt)
    end = str(tokenizer.eos_token)
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
        if not full.startswith(text) or (written and not full.endswith(end)):
            raise InputError("the model's chat template is not prefix-preserving: use its training variant")
        piece = encode(tokenizer, turn)
        ids += piece
        mask += [written] * len(piece)
        text = full
    return ids, mask
