"""Attention for rows that share a prefix (a group's prompt, a toolbox's schemas), which is computed once.

A transformers model gets a packed sequence, one row of tokens without padding, and a ``layout`` that says which tokens
each token attends to: ``PackedGroups`` for training (with gradient), and for sampling those of decoding.py.
Without a layout, attention is sdpa; with one, attention weights are not dropped out. Which models this computes
rightly, ``check.check_model`` finds out. Source: transformers' AttentionInterface.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prefix"
# Models pass a mask of four dimensions on unchanged, and build none. It is not used: the layout masks.
UNUSED_MASK = torch.ones(1, 1, 1, 1)


class Layout(Protocol):
    """Which tokens of a packed sequence each token attends to."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """Attention of one layer.

        Args:
            layer: its index.
            query: shape (query heads, tokens, head size).
            key, value: shape (key heads, tokens, head size); query heads are a multiple of key heads. The size of
                value heads may differ.
            scaling: factor of the scores.
            window: how many tokens a token attends to at most, itself and those just before it; None: all.

        Returns:
            Shape (tokens, query heads, size of a value head).
        """
        ...


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    return layout.attend(module.layer_idx, query[0], key[0], value[0], scaling, sliding_window)[None], None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextmanager
def packed_attention(*models: Any) -> Iterator[None]:
    """Make these models (see ``check.check_model``) accept layouts; their own attention is restored afterwards."""
    before = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


def is_packed(model: Any) -> bool:
    """Whether the model is within ``packed_attention``."""
    return bool(getattr(model, "module", model).config._attn_implementation == ATTENTION)


def forward(model: Any, ids: Tensor, positions: Tensor, layout: Layout, **kwargs: Any) -> Any:
    """A forward pass over a packed sequence: ids and positions of shape (tokens,); the model's output as it is."""
    mask = UNUSED_MASK.to(ids.device)
    return model(input_ids=ids[None], position_ids=positions[None], attention_mask=mask, layout=layout, **kwargs)


def pack(pieces: Iterable[tuple[int, Sequence[int]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and positions, shape (tokens,), of a packed sequence from (first position, token ids) of its pieces."""
    pieces = list(pieces)
    ids = [token for _, piece in pieces for token in piece]
    positions = [at + i for at, piece in pieces for i in range(len(piece))]
    return torch.tensor(ids, device=device), torch.tensor(positions, device=device)


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the prefix that all prompts share, at most all but one of each one's tokens.

    0 for one prompt, or a prefix below 32 tokens: computing it separately would cost more than it saves.
    """
    if len(prompts) < 2:
        return 0
    most = min(map(len, prompts)) - 1
    shared = next((i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), most)
    return min(shared, most) if shared >= 32 else 0


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat key or value heads (dimension -3) for grouped queries."""
    return x if x.size(-3) == heads else x.repeat_interleave(heads // x.size(-3), dim=-3)


def _causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """True where one of the last ``queries`` of ``keys`` tokens attends to a key: itself and those before it."""
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return mask if window is None else mask.triu(keys - queries - window + 1)


def _causal_attention(q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int | None) -> Tensor:
    """Causal attention where q holds the last tokens of k and v: (heads, tokens, size) to (tokens, heads, size)."""
    queries, keys = q.size(1), k.size(1)
    if not queries:
        return v[:, :0].transpose(0, 1)
    whole = queries == keys and (window is None or keys <= window)
    mask = None if whole else _causal_mask(queries, keys, window, q.device)
    out = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scaling)
    return out[0].transpose(0, 1)


def padded_rows(x: Tensor, rows: Sequence[int], longest: int) -> Tensor:
    """Split packed rows and pad them: (heads, tokens, size) to (rows, heads, longest, size)."""
    if all(n == longest for n in rows):
        return x.unflatten(1, (len(rows), longest)).transpose(0, 1)
    return torch.stack([pad(row, (0, 0, 0, longest - row.size(1))) for row in x.split(list(rows), dim=1)])


def _similar_lengths(sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split sorted lengths into runs that are padded together: none over 1.5 times the first of its run."""
    start = 0
    for i in range(1, len(sizes) + 1):
        if i == len(sizes) or sizes[i] > 1.5 * sizes[start]:
            yield sizes[start:i]
            start = i


class PackedGroups:
    """A prefix that all share, then groups one after another, each the rest of its prompt and then its rows.

    A token attends to the prefix, its group's prompt and its own row, up to itself.

    Args:
        groups: (tokens of the rest of the prompt, tokens of each row) of every group, in the order of the sequence;
            rows are padded least if they come sorted by length.
        start: length of the prefix that all prompts share.
    """

    def __init__(self, groups: Sequence[tuple[int, Sequence[int]]], start: int = 0):
        self.groups, self.start = groups, start

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """See Layout.attend."""
        heads = query.size(0)
        key, value = _repeat_heads(key, heads), _repeat_heads(value, heads)
        sizes = [self.start, *(prompt + sum(rows) for prompt, rows in self.groups)]
        (q, *queries), (k, *keys), (v, *values) = (x.split(sizes, dim=1) for x in (query, key, value))
        out = [_causal_attention(q, k, v, scaling, window)]
        for (prompt, rows), group_q, group_k, group_v in zip(self.groups, queries, keys, values, strict=True):
            group_k, group_v = torch.cat([k, group_k], 1), torch.cat([v, group_v], 1)
            out += self._group(prompt, rows, group_q, group_k, group_v, scaling, window)
        return torch.cat(out)

    def _group(
        self, prompt: int, rows: Sequence[int], q: Tensor, k: Tensor, v: Tensor, scaling: float, window: int | None
    ) -> Iterator[Tensor]:
        """Attention of one group's prompt and rows; k and v begin with the shared prefix."""
        shared = self.start + prompt
        yield _causal_attention(q[:, :prompt], k[:, :shared], v[:, :shared], scaling, window)
        start = prompt
        for lengths in _similar_lengths(rows):
            part, longest = slice(start, start + sum(lengths)), max(lengths)
            row_q, row_k, row_v = (
                padded_rows(x[:, part], lengths, longest) for x in (q, k[:, self.start :], v[:, self.start :])
            )
            all_k, all_v = (
                torch.cat([x[None, :, :shared].expand(len(lengths), -1, -1, -1), row], dim=2)
                for x, row in ((k, row_k), (v, row_v))
            )
            # Padding is at the rows' ends, where no token attends, so that all rows have the same mask.
            mask = _causal_mask(longest, shared + longest, window, q.device)
            out = scaled_dot_product_attention(row_q, all_k, all_v, attn_mask=mask, scale=scaling).transpose(1, 2)
            yield from (row[:size] for row, size in zip(out, lengths, strict=True))
            start = part.stop
