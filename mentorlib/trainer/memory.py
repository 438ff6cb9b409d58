"""How much memory a training needs, computed without the model: a pass over tensors that have sizes and no numbers.

docs/gpu.md has a table of it. tests/trainer/test_memory.py compares the figures with the tensors of a real pass.
"""

import copy
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedConfig
from trl.trainer.utils import add_fused_lm_head

from ..rollout.attention import PackedGroups, forward, pack, packed_attention
from .setup import lora_config

GIB = 2**30


def training_memory(
    config: PreTrainedConfig,
    *,
    micro_batch: int,
    prompt_tokens: int,
    completion_tokens: int,
    lora_rank: int = 0,
    gradient_checkpointing: bool = False,
) -> dict[str, float]:
    """Most memory during a GRPO step's loss and update, in GiB, on a GPU (float32 weights, bfloat16 computation).

    With a KL term: training of all weights keeps the initial student as its reference.

    Args:
        config: the model's; its layers must be alike, since two and four of them are computed and the rest inferred.
        micro_batch, lora_rank, gradient_checkpointing: see train_grpo.
        prompt_tokens: of the prompt of a micro batch, whose rows are of one group.
        completion_tokens: of each row.

    Returns:
        ``weights`` (a reference's too), ``optimizer``, ``gradients``, ``saved`` (what the forward pass keeps for the
        backward pass, weights cast to bfloat16 included) and ``all``, the most at any time of the step.
    """
    count = int(config.get_text_config(decoder=True).num_hidden_layers)
    pieces = [(0, [0] * prompt_tokens), *((prompt_tokens, [0] * completion_tokens) for _ in range(micro_batch))]
    layout = PackedGroups([(prompt_tokens, [completion_tokens] * micro_batch)])
    peaks = []
    for layers in (2, 4):
        with FakeTensorMode():
            peaks.append(_peak(_with_layers(config, layers), pieces, layout, lora_rank, gradient_checkpointing))
    two, four = peaks
    memory = {part: two[part] + (four[part] - two[part]) * (count - 2) / 2 for part in two}
    if not lora_rank:  # the reference
        memory["all"] += memory["weights"]
        memory["weights"] *= 2
    return memory


def _with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The configuration of a model with fewer of the same layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config(decoder=True)
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = (text.layer_types * layers)[:layers]  # of a model with fewer, its own again
    return config


def _peak(
    config: PreTrainedConfig,
    pieces: list[tuple[int, list[int]]],
    layout: PackedGroups,
    lora_rank: int,
    gradient_checkpointing: bool,
) -> dict[str, float]:
    """The memory's parts at its peak in GiB, over one packed pass, its backward pass and the optimizer's step."""
    with unset_fake_temporarily(), torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config).train()
        adapters = lora_config(lora_rank)
        trained = get_peft_model(model, adapters) if adapters else model
    _give_sizes(trained)
    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    add_fused_lm_head(model)
    trainable = [weight for weight in trained.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trainable)
    for weight in trainable:  # the states are there from the second step on
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    optimizer.zero_grad()
    states = [x for state in optimizer.state.values() for x in state.values()]
    live = LiveBytes([*trained.parameters(), *trained.buffers(), *states])
    ids, positions = pack(pieces, torch.device("cpu"))
    with live:
        with packed_attention(model):
            with torch.autocast("cpu", torch.bfloat16):
                output = forward(trained, ids, positions, layout, shift_labels=ids[None], fused_lm_head=True)
            loss = output.log_probs.sum()
            del output
            saved = live.now
            loss.backward()
        optimizer.step()
    parts = {"weights": _bytes(trained.parameters()), "optimizer": _bytes(states), "gradients": _bytes(trainable)}
    parts |= {"saved": saved, "all": parts["weights"] + parts["optimizer"] + live.peak}
    return {name: size / GIB for name, size in parts.items()}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(x.untyped_storage().nbytes() for x in tensors)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors made within this context that are alive: ``now``, and ``peak``, the most at any time.

    Args:
        known: tensors made before, whose storages do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.now = self.peak = 0
        self.seen = WeakIdKeyDictionary()
        for x in known:
            self.seen[x.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and count the storages that it makes until they are freed."""
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and (storage := x.untyped_storage()) not in self.seen:
                self.seen[storage] = True
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return result

    def _free(self, size: int) -> None:
        self.now -= size


def _give_sizes(model: torch.nn.Module) -> None:
    """Put tensors of the same sizes in the place of a model's meta tensors; those that are tied stay so."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in made:
                empty = torch.empty(weight.shape, dtype=weight.dtype)
                made[id(weight)] = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
            module._parameters[name] = None if weight is None else made[id(weight)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
