"""Load a student: the shipped one, a folder, a .gguf file, or one from the hub."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..core import InputError, one_line
from ..runs.progress import waiting
from .check import check_model
from .names import NANO as NANO
from .names import find_model
from .templates import choose_template, largest_id


def load_model(
    name: str = "nano",
    dtype: torch.dtype = torch.float32,
    *,
    template: str = "",
    template_arguments: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a student: "nano" (shipped), a model folder (a run's ``model/``), a .gguf file or a hub name.

    The chat template must show the tools, write calls in a known format, and leave earlier turns unchanged when a turn
    follows; where it does not, it is replaced (see choose_template).

    Args:
        name: what to load.
        dtype: of the weights; float32 by default, also on a GPU, where training computes in bfloat16: an update of 1e-6
            would be rounded away in bfloat16 weights.
        template: a file with another chat template (jinja); "" takes the model's own.
        template_arguments: what the chat template is rendered with, such as {"enable_thinking": False}. They are
            written into the tokenizer's template, so that every prompt and target has them, also of the model that
            training saves. None or {} keeps what the template already has.

    Returns:
        The model, on the GPU if there is one, and its tokenizer.

    Raises:
        InputError: no such model, or one whose chat template or attention cannot be used (see check_model).
    """
    source = find_model(name)
    gguf = {"gguf_file": source.name} if source and source.suffix == ".gguf" else {}
    where = str(source.parent if gguf else source) if source else name
    try:
        with waiting(f"loading {name}"):
            # No code that a folder or its config brings along or names: neither custom classes nor attention kernels.
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, **gguf)
            if "/" in (attention := str(config._attn_implementation)):
                raise InputError(
                    f"student {name!r}: its config.json takes attention from the hub ({attention:.80}): remove that"
                )
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where, dtype=dtype, trust_remote_code=False, output_loading_info=True, **gguf
            )
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **gguf)
        model, read = loaded
        if missing := sorted(read["missing_keys"]):  # transformers draws them at random and goes on
            raise InputError(
                f"student {name!r}: its files lack {len(missing)} of its weights ({missing[0]:.80}): get it again"
            )
        if gguf:
            _forget_quantization(model)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        choose_template(tokenizer, name, template, template_arguments or {})
        largest, rows = largest_id(tokenizer), model.get_input_embeddings().weight.shape[0]
        if largest >= rows:
            raise InputError(
                f"student {name!r}: its chat template writes token {largest}, and the model has embeddings for {rows}: "
                "take its own tokenizer, or template=FILE"
            )
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as e:  # a folder's files come from others, and transformers' errors on them are of many types
        raise InputError(
            f"student {name!r} cannot be loaded ({one_line(e)}): give nano, a model folder, a .gguf file or a hub name"
        ) from e
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    check_model(model, name)
    return model, tokenizer


def _forget_quantization(model: PreTrainedModel) -> None:
    """Weights read from a .gguf file are whole numbers of their dtype; transformers would refuse to train or save."""
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, attribute):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
