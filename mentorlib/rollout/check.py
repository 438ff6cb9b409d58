"""Whether packed sequences and the engine's cache compute a model as it is, found out before anything is trained.

A few tokens show most differences (positions, masks, value heads, layers that mix tokens without attention). A sliding
window is longer than they are: it is read from the mask functions that transformers builds for the model, and must be
what its layers pass to attention.
"""

import random
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..core import InputError, one_line
from .attention import PackedGroups, forward, pack, packed_attention
from .decoding import Decoding, Prefill

# Logits may differ by this share of the largest: float32's rounding is far below, other dtypes' about a tenth of it.
TOLERANCE = {torch.float32: 1e-3}
# Two groups behind a prefix of 5 tokens: (rest of the prompt, tokens of each row), each prompt and row of 12 tokens.
START, GROUPS = 5, [(3, [4, 4]), (2, [5])]
WATCHING = "shared_prefix_watching"
# Arguments of attention that packed_attention does not read, apart from tensors, of which it reads none.
UNREAD = ("softcap", "position_bias", "score_mod")

_checked: WeakSet[PreTrainedModel] = WeakSet()


def check_model(model: PreTrainedModel, name: str = "") -> None:
    """Check a model once: packed and cached logits equal its own (seconds for billions of parameters on a CPU).

    Args:
        model: with its weights.
        name: what the user called it, for the message.

    Raises:
        InputError: they differ, or the model does not accept packed sequences.
    """
    if model in _checked:
        return
    label = f"{name!r} ({type(model).__name__})" if name else type(model).__name__
    advice = "take a model with full or sliding-window attention, such as Qwen3, Llama, Mistral or Gemma 3"
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            reason = _packing_error(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # whatever a model's code does with arguments that it does not know
        reason = f"its code does not take packed sequences ({type(e).__name__}: {one_line(e, 120)})"
    finally:
        model.train(was_training)
    if reason:
        raise InputError(f"model {label} cannot be trained or sampled here: {reason}; {advice}")
    _checked.add(model)


def context_length(model: PreTrainedModel) -> int:
    """Maximum of prompt and completion tokens: the model's positions, or where its rotary embedding starts to rescale.

    Some kinds of it (dynamic, longrope) change every position's embedding once a sequence is longer than in
    pretraining, also those of keys that are already in the cache.
    """
    config = model.config.get_text_config(decoder=True)
    positions: int | None = getattr(config, "max_position_embeddings", None)
    context = 1 << 30 if positions is None else positions
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in [rope, *(x for x in rope.values() if isinstance(x, dict))]:
        if kind.get("rope_type") in ("dynamic", "longrope"):
            original: int | None = kind.get("original_max_position_embeddings")
            context = min(context, original or getattr(config, "original_max_position_embeddings", None) or context)
    return context


def _packing_error(model: PreTrainedModel) -> str:
    """Why packed sequences do not compute this model; "" if they do."""
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    if context_length(model) < 1:
        return "its config.json says that it has no positions"
    if not getattr(model.config.get_text_config(decoder=True), "is_causal", True):
        return "its attention is not causal"
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    numbers = random.Random(0)

    def draw(count: int) -> list[int]:
        return [numbers.randrange(vocabulary) for _ in range(count)]

    start, groups = draw(START), [(draw(rest), [draw(n) for n in rows]) for rest, rows in GROUPS]
    chains = [start + prompt + row for prompt, rows in groups for row in rows]
    plain = model(input_ids=torch.tensor(chains, device=model.device), use_cache=False).logits
    if reason := _unread_attention(model, chains[0]):
        return reason
    with packed_attention(model):
        for kind, logits in (("packed", _packed(model, start, groups)), ("cached", _cached(model, start, groups))):
            scale, difference = plain.abs().max().item(), (logits - plain)[:, START:].abs().max().item()
            if not difference <= TOLERANCE.get(model.dtype, 0.1) * scale:  # also where there are NaNs
                return f"its {kind} logits differ from its own by {difference:.2g} of {scale:.2g}"
    return ""


def _unread_attention(model: PreTrainedModel, ids: list[int]) -> str:
    """What packed attention ignores of this model's attention, found in a plain pass; "" if nothing."""
    limit = min(context_length(model), 1 << 17)
    made: dict[int | None, list[Tensor]] = {}  # by window, the masks that transformers built
    passed: dict[int, int | None] = {}  # each layer's window
    own: set[str] = set()

    def mask(mask_function: Callable[..., Any], **kwargs: Any) -> Tensor | None:
        built = sdpa_mask(mask_function=mask_function, **kwargs)
        made.setdefault(_window(mask_function, limit), []).extend([] if built is None else [built])
        return built

    def attention(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        window = kwargs.get("sliding_window")
        passed[module.layer_idx] = None if window is None or window >= limit else window
        tensors = [name for name, x in kwargs.items() if isinstance(x, Tensor) and "position" not in name]
        own.update(name for name in (*UNREAD, *tensors) if kwargs.pop(name, None) is not None)
        if not (attention_mask is None or any(attention_mask is x for masks in made.values() for x in masks)):
            own.add("a mask of its own making")
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(WATCHING, attention)
    AttentionMaskInterface.register(WATCHING, mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(WATCHING)
    try:
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    finally:
        model.set_attn_implementation(before)
    if own:
        return f"its attention takes {min(own)}, which packed attention does not"
    if not passed:
        return "its attention cannot be replaced"
    config = model.config.get_text_config(decoder=True)
    if set(passed) != set(range(len(passed))) or len(passed) < config.num_hidden_layers:
        return "some layers mix tokens without attention"
    kinds = getattr(config, "layer_types", None)
    for layer, window in passed.items():
        kind = "full_attention" if window is None else "sliding_attention"
        expected = (kind,) if len(made) > 1 else ("full_attention", "sliding_attention")
        if window not in made or (kinds and kinds[layer] not in expected):
            return "some layers hide tokens in a way of their own"
    return ""


def _window(sees: Callable[..., Any], limit: int) -> int | None:
    """The sliding window of a mask function: None if it hides no earlier token, 0 if it is no sliding window."""
    zero, at = torch.tensor(0), torch.arange(limit)
    try:
        first = torch.as_tensor(sees(zero, zero, at, torch.zeros_like(at))).expand(limit)
        window = limit if bool(first.all()) else int(first.int().argmin())
        back = torch.randint(0, min(2 * window, limit) + 2, at.shape, generator=torch.Generator().manual_seed(0))
        key = (at - back).clamp(min=0)
        sliding = torch.equal(torch.as_tensor(sees(zero, zero, at, key)).expand(limit), at - key < window)
    except (IndexError, RuntimeError):  # made for the tokens of one sequence
        return 0
    return 0 if not sliding else None if window == limit else window


def _packed(model: PreTrainedModel, start: list[int], groups: list[Any]) -> Tensor:
    """Logits of each row from one packed pass: shape (rows, tokens, vocabulary), zeros at the prefix."""
    pieces = [(0, start)]
    for prompt, rows in groups:
        pieces += [(START, prompt), *((START + len(prompt), row) for row in rows)]
    layout = PackedGroups([(len(prompt), [len(row) for row in rows]) for prompt, rows in groups], START)
    out = forward(model, *pack(pieces, model.device), layout, use_cache=False).logits[0]
    parts = iter(out.split([len(piece) for _, piece in pieces])[1:])
    chains = []
    for _, rows in groups:
        shared = next(parts)
        chains += [torch.cat([out[:START], shared, next(parts)]) for _ in rows]
    return torch.stack(chains)


def _cached(model: PreTrainedModel, start: list[int], groups: list[Any]) -> Tensor:
    """The same by the engine's cache: the prompts, then a token of each row, then all the rest of the rows."""
    prompts, rows = [prompt for prompt, _ in groups], [row for _, rows in groups for row in rows]
    prompt_of = torch.tensor([i for i, (_, rows) in enumerate(groups) for _ in rows])
    layout = Prefill([len(prompt) for prompt in prompts], START)
    pieces = [(0, start), *((START, prompt) for prompt in prompts)]
    out = forward(model, *pack(pieces, model.device), layout, use_cache=False).logits[0]
    shared = out[START:].split([len(prompt) for prompt in prompts])
    chains = [[out[:START], shared[i]] for i in prompt_of.tolist()]
    cache = Decoding(layout, prompt_of)
    sizes = torch.tensor([START + len(prompts[i]) for i in prompt_of.tolist()])
    for at, counts in ((0, [0] * len(rows)), (1, [len(row) - 2 for row in rows])):
        row, place = cache.step(torch.full((len(rows),), at), torch.tensor(counts))
        ids = torch.tensor([rows[r][p] for r, p in zip(row.tolist(), place.tolist(), strict=True)], device=model.device)
        positions = (sizes[row] + place).to(model.device)
        everything = torch.arange(len(ids), device=model.device)
        out = forward(model, ids, positions, cache, use_cache=False, logits_to_keep=everything).logits[0]
        for i, chain in enumerate(chains):
            chain.append(out[(row == i).nonzero()[:, 0].to(out.device)])
    return torch.stack([torch.cat(chain) for chain in chains])
