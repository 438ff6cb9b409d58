"""Load a student: the shipped one, a folder, or one from the hub."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..core import InputError
from .chat import tool_turn
from .check import check_model

NANO = Path(__file__).parents[1] / "students" / "nano"


def load_model(
    name: str = "nano", dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a student: "nano" (shipped), a model folder (a run's ``model/``), or a hub name such as "Qwen/Qwen3-1.7B".

    The chat template must be prefix-preserving (earlier turns stay unchanged when a turn follows); where it is not, as
    Qwen3's own, it is replaced by TRL's training variant if there is one.

    Args:
        name: what to load.
        dtype: of the weights; float32 by default, also on a GPU, where training computes in bfloat16: an update of 1e-6
            would be rounded away in bfloat16 weights.

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
        tool_turn(tokenizer, ["x"])
    except InputError:
        try:
            tokenizer.chat_template = get_training_chat_template(tokenizer)
        except ValueError:
            raise InputError(
                f"student {name!r}: its chat template changes earlier turns when one follows, and TRL knows no "
                "training variant of it: edit chat_template.jinja in its folder (docs/model.md)"
            ) from None
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    check_model(model, name)
    return model, tokenizer
