"""Attention for rows that share a prompt: the samples of a GRPO group, whose prompt is then computed once.

A transformers model takes a packed sequence, one row of tokens without padding, and a ``layout`` that says who may see
whom; everything but attention works on the tokens as they come. ``Packed`` is a layout for training (whole groups, with
gradient), ``Decoding`` one for sampling (a growing KV cache). Without a layout the model's attention is sdpa, as ever.

Source: the custom attention interface of transformers (AttentionInterface). Simplified: full attention only, no
sliding windows (``supported`` says so).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "shared_prompt"
# A mask that a model hands on as it is, being of four dimensions: the layout masks, so the model need not build one.
NO_MASK = torch.ones(1, 1, 1, 1)


class Layout(Protocol):
    """Who sees whom in a packed sequence."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one layer: query (heads, tokens, size), key and value (fewer heads, tokens, size) to
        (tokens, heads, size)."""
        ...


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    return layout.attend(module.layer_idx, query[0], key[0], value[0], scaling)[None], None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def supported(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced: by transformers' interface, and without sliding windows."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    return bool(getattr(model, "_supports_attention_backend", False)) and kinds == {"full_attention"}


@contextmanager
def shared_prompts(*models: Any) -> Iterator[None]:
    """Let models understand layouts; their own attention is back afterwards."""
    models = tuple(filter(supported, models))
    before = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


def understands(model: Any) -> bool:
    """Whether the model is within ``shared_prompts``."""
    return bool(getattr(model, "module", model).config._attn_implementation == NAME)


def forward(model: Any, ids: Tensor, positions: Tensor, layout: Layout, **kwargs: Any) -> Any:
    """A forward pass over a packed sequence: ids and positions of shape (tokens,)."""
    mask = NO_MASK.to(ids.device)
    return model(input_ids=ids[None], position_ids=positions[None], attention_mask=mask, layout=layout, **kwargs)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Repeat key or value heads (dimension -3) for grouped queries."""
    return x if x.size(-3) == heads else x.repeat_interleave(heads // x.size(-3), dim=-3)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """The last ``queries`` of ``keys`` tokens, each seeing itself and what is before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class Packed:
    """Groups one after another, each its prompt and then its rows: a row sees the prompt and itself.

    Args:
        groups: (tokens of the prompt, tokens of each row) of every group, in the order of the sequence.
    """

    def __init__(self, groups: Sequence[tuple[int, Sequence[int]]]):
        self.groups = groups

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        heads, tokens, _ = query.shape
        key, value = _heads(key, heads), _heads(value, heads)
        # A group is one stretch of the sequence: heads, its tokens, size.
        sizes = [prompt + sum(rows) for prompt, rows in self.groups]
        parts = zip(self.groups, *(x.split(sizes, dim=1) for x in (query, key, value)), strict=True)
        return torch.cat([out for group, q, k, v in parts for out in self._group(*group, q, k, v, scaling)])

    def _group(
        self, prompt: int, rows: Sequence[int], q: Tensor, k: Tensor, v: Tensor, scaling: float
    ) -> Iterator[Tensor]:
        if prompt:
            seen = (x[None, :, :prompt] for x in (q, k, v))
            yield scaled_dot_product_attention(*seen, is_causal=True, scale=scaling)[0].transpose(0, 1)
        if not rows:
            return
        longest = max(rows)
        mask = _causal(longest, prompt + longest, q.device)
        q, own_k, own_v = (self._padded(x[:, prompt:], rows, longest) for x in (q, k, v))
        shared_k, shared_v = (x[None, :, :prompt].expand(len(rows), -1, -1, -1) for x in (k, v))
        keys, values = torch.cat([shared_k, own_k], dim=2), torch.cat([shared_v, own_v], dim=2)
        # Padding is at the rows' ends, where no token looks, so that one mask does for all rows.
        out = scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scaling).transpose(1, 2)
        yield from (row[:n] for row, n in zip(out, rows, strict=True))

    @staticmethod
    def _padded(x: Tensor, rows: Sequence[int], longest: int) -> Tensor:
        """(heads, tokens, size) to (rows, heads, longest, size)."""
        if all(n == longest for n in rows):
            return x.unflatten(1, (len(rows), longest)).transpose(0, 1)
        return torch.stack([pad(row, (0, 0, 0, longest - row.size(1))) for row in x.split(list(rows), dim=1)])
