"""Load a student: the shipped one, a folder, or one from the hub."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..core import Call, InputError, Message
from .chat import encode_chat, tool_turn
from .check import check_model

NANO = Path(__file__).parents[1] / "students" / "nano"


def load_model(
    name: str = "nano",
    dtype: torch.dtype = torch.float32,
    *,
    template_arguments: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a student: "nano" (shipped), a model folder (a run's ``model/``), or a hub name such as "Qwen/Qwen3-1.7B".

    The chat template must be prefix-preserving (earlier turns stay unchanged when a turn follows); where it is not, as
    Qwen3's own, it is replaced by TRL's training variant if there is one.

    Args:
        name: what to load.
        dtype: of the weights; float32 by default, also on a GPU, where training computes in bfloat16: an update of 1e-6
            would be rounded away in bfloat16 weights.
        template_arguments: what the chat template is rendered with, such as {"enable_thinking": False}. They are
            written into the tokenizer's template, so that every prompt and target has them, also of the model that
            training saves. None or {} keeps what the template already has.

    Returns:
        The model, on the GPU if there is one, and its tokenizer.

    Raises:
        InputError: no such model, or one whose chat template or attention cannot be used (see check_model).
    """
    from trl.chat_template_utils import get_training_chat_template

    source = NANO if name == "nano" else Path(name)
    if source.exists() and not (source / "config.json").is_file():
        raise InputError(f"{name}: no model folder (it has no config.json): give a folder written by save_pretrained")
    try:
        where = str(source) if source.exists() else name
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, RuntimeError, KeyError) as e:
        reason = str(e).strip().splitlines()[0][:160] if str(e).strip() else e.__class__.__name__
        raise InputError(
            f"student {name!r} cannot be loaded ({reason}): give 'nano', a model folder or a hub name"
        ) from e
    if not tokenizer.chat_template:
        raise InputError(f"student {name!r} has no chat template: give an instruct model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        _check_template(tokenizer)
    except InputError:
        try:
            tokenizer.chat_template = get_training_chat_template(tokenizer)
            _check_template(tokenizer)
        except ValueError:
            raise InputError(
                f"student {name!r}: its chat template changes earlier turns when one follows, and TRL knows no "
                "training variant of it: edit chat_template.jinja in its folder (docs/model.md)"
            ) from None
    if template_arguments:
        tokenizer.chat_template = fix_arguments(str(tokenizer.chat_template), template_arguments)
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    check_model(model, name)
    return model, tokenizer


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


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if the template changes a turn when another follows, or drops what it thought."""
    tool_turn(tokenizer, ["x"])
    if "reasoning_content" in str(tokenizer.chat_template):
        turn: Message = {"role": "assistant", "content": "", "reasoning_content": "t"}
        results: list[Message] = [turn | {"tool_calls": [Call("f", {}).message]}, {"role": "tool", "content": "x"}]
        encode_chat(tokenizer, [{"role": "user", "content": "q"}], [*results, *results, turn], [])
