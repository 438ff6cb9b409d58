"""Attention for rows that share a prefix (a group's prompt, a toolbox's schemas), which is computed once.

A transformers model gets a packed sequence, one row of tokens without padding, and a ``layout`` that says which tokens
each token attends to: ``PackedGroups`` for training (with gradient), ``Prefill`` and ``Decoding`` for sampling.
Without a layout, attention is sdpa. Source: transformers' AttentionInterface. Simplified: no sliding windows.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "shared_prefix"
# Models pass a mask of four dimensions on unchanged, and build none. It is not used: the layout masks.
UNUSED_MASK = torch.ones(1, 1, 1, 1)


class Layout(Protocol):
    """Which tokens of a packed sequence each token attends to."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Attention of one layer.

        Args:
            layer: its index.
            query: shape (query heads, tokens, head size).
            key, value: shape (key heads, tokens, head size); query heads are a multiple of key heads.
            scaling: factor of the scores.

        Returns:
            Shape (tokens, query heads, head size).
        """
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


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def supported(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced: by transformers' interface, and without sliding windows."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    return bool(getattr(model, "_supports_attention_backend", False)) and kinds == {"full_attention"}


@contextmanager
def packed_attention(*models: Any) -> Iterator[None]:
    """Make the supported ones of these models accept layouts; their own attention is restored afterwards."""
    models = tuple(filter(supported, models))
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


def keep_rows(x: Tensor, kept: Tensor) -> Tensor:
    """Drop the rows of x (rows, …) where ``kept`` (rows,) is False, in place: the last kept rows fill the gaps."""
    n = int(kept.sum())
    x[(~kept[:n]).nonzero()[:, 0]] = x[n:][kept[n:]]
    return x[:n]


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat key or value heads (dimension -3) for grouped queries."""
    return x if x.size(-3) == heads else x.repeat_interleave(heads // x.size(-3), dim=-3)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """True where one of the last ``queries`` of ``keys`` tokens attends to a key: itself and those before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _additive_mask(hidden: Tensor) -> Tensor:
    """Minus infinity where hidden, to be added to scores."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)


def _causal_attention(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Causal attention where q holds the last tokens of k and v: (heads, tokens, size) to (tokens, heads, size)."""
    queries, keys = q.size(1), k.size(1)
    if not queries:
        return q.transpose(0, 1)
    mask = None if queries == keys else _causal_mask(queries, keys, q.device)
    out = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scaling)
    return out[0].transpose(0, 1)


def _padded(x: Tensor, rows: Sequence[int], longest: int) -> Tensor:
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

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        heads = query.size(0)
        key, value = _repeat_heads(key, heads), _repeat_heads(value, heads)
        sizes = [self.start, *(prompt + sum(rows) for prompt, rows in self.groups)]
        (q, *queries), (k, *keys), (v, *values) = (x.split(sizes, dim=1) for x in (query, key, value))
        out = [_causal_attention(q, k, v, scaling)]
        for (prompt, rows), group_q, group_k, group_v in zip(self.groups, queries, keys, values, strict=True):
            group_k, group_v = torch.cat([k, group_k], 1), torch.cat([v, group_v], 1)
            out += self._group(prompt, rows, group_q, group_k, group_v, scaling)
        return torch.cat(out)

    def _group(
        self, prompt: int, rows: Sequence[int], q: Tensor, k: Tensor, v: Tensor, scaling: float
    ) -> Iterator[Tensor]:
        """Attention of one group's prompt and rows; k and v begin with the shared prefix."""
        shared = self.start + prompt
        yield _causal_attention(q[:, :prompt], k[:, :shared], v[:, :shared], scaling)
        start = prompt
        for lengths in _similar_lengths(rows):
            part, longest = slice(start, start + sum(lengths)), max(lengths)
            row_q, row_k, row_v = (
                _padded(x[:, part], lengths, longest) for x in (q, k[:, self.start :], v[:, self.start :])
            )
            all_k, all_v = (
                torch.cat([x[None, :, :shared].expand(len(lengths), -1, -1, -1), row], dim=2)
                for x, row in ((k, row_k), (v, row_v))
            )
            # Padding is at the rows' ends, where no token attends, so that all rows have the same mask.
            mask = _causal_mask(longest, shared + longest, q.device)
            out = scaled_dot_product_attention(row_q, all_k, all_v, attn_mask=mask, scale=scaling).transpose(1, 2)
            yield from (row[:size] for row, size in zip(out, lengths, strict=True))
            start = part.stop


class Prefill(PackedGroups):
    """The rests of prompts one after another; keeps the keys and values of each layer for ``Decoding``.

    Args:
        prompts: tokens of the rest of each prompt.
        start: length of the prefix that all prompts share.
    """

    def __init__(self, prompts: Sequence[int], start: int = 0):
        super().__init__([(n, ()) for n in prompts], start)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        self.kept.append((key, value))
        self.queries_per_key = len(query) // len(key)  # heads
        return super().attend(layer, query, key, value, scaling)


class Decoding:
    """The KV cache of a batch that is being sampled: the shared prefix, the rest of each prompt, and each row's tokens.

    A step's sequence is one token of each row, then all further tokens of rows that tool results were appended to, row
    by row. ``step`` sets up the next pass.

    Args:
        prefill: after a pass over the different prompts.
        prompt_of: index of each row's prompt, shape (rows,).
    """

    def __init__(self, prefill: Prefill, prompt_of: Tensor):
        sizes = [prompt for prompt, _ in prefill.groups]
        start = prefill.start
        key = prefill.kept[0][0]
        shape = (len(prompt_of), key.size(0), 64, key.size(2))  # rows, heads, places (grows), size
        # One (keys, values) of each layer.
        self.start = [[x[:, :start] for x in both] for both in prefill.kept]
        self.prompts = [[_padded(x[:, start:], sizes, max(sizes)) for x in both] for both in prefill.kept]
        self.rows = [[x.new_zeros(shape) for x in both] for both in prefill.kept]
        self.queries_per_key = prefill.queries_per_key
        self.sizes = torch.tensor(sizes, device=key.device)
        self.prompt_of = prompt_of.to(key.device)
        self._assign_slots()

    def _assign_slots(self) -> None:
        """Give each row a slot at its prompt, so that the queries of a prompt's rows form one matrix."""
        device = self.prompt_of.device
        count = torch.bincount(self.prompt_of, minlength=len(self.sizes))
        order = self.prompt_of.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=device) - (count.cumsum(0) - count)[self.prompt_of[order]]
        self.slots = int(count.max())
        self.slot = self.prompt_of * self.slots + rank
        hidden = torch.arange(self.prompts[0][0].size(2), device=device) >= self.sizes[:, None]
        self.prompt_mask = _additive_mask(hidden)[:, None, None]

    def keep(self, kept: Tensor) -> None:
        """Drop the rows where ``kept`` (rows,) is False, as ``keep_rows`` does, and prompts without rows."""
        kept = kept.to(self.prompt_of.device)
        self.rows = [[keep_rows(x, kept) for x in both] for both in self.rows]
        self.prompt_of = keep_rows(self.prompt_of, kept)
        used = torch.bincount(self.prompt_of, minlength=len(self.sizes)) > 0
        if not used.all():
            self.prompts = [[keep_rows(x, used) for x in both] for both in self.prompts]
            self.sizes = keep_rows(self.sizes, used)
            left = keep_rows(torch.arange(len(used), device=used.device), used)
            new_index = torch.empty_like(used, dtype=torch.long)
            new_index[left] = torch.arange(len(left), device=used.device)
            self.prompt_of = new_index[self.prompt_of]
        self._assign_slots()

    def step(self, at: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Set up the next pass.

        Args:
            at: place of each row's first token in this pass among the row's tokens, shape (rows,), on the CPU.
            counts: how many more tokens of each row follow it (those appended to it), shape (rows,), on the CPU.

        Returns:
            The row of each token of the pass's sequence, and its place among the row's tokens, each of shape (tokens,).
        """
        device = self.prompt_of.device
        extended = counts.nonzero()[:, 0]
        counts = counts[extended]
        number = torch.arange(int(counts.max()) if len(counts) else 0)
        real = number < counts[:, None]  # (extended rows, most tokens appended to one)
        places = at[extended, None] + 1 + number
        row = torch.cat([torch.arange(len(at)), extended[:, None].expand_as(places)[real]])
        place = torch.cat([at, places[real]])
        self.end = int(place.max()) + 1
        capacity = self.rows[0][0].size(2)
        if self.end > capacity:
            more = max(self.end - capacity, capacity)
            self.rows = [[pad(x, (0, 0, 0, more)) for x in both] for both in self.rows]
        self.row, self.place = row.to(device), place.to(device)
        self.extended, self.real = extended.to(device), real.to(device)
        # Index of each appended token in the sequence after the rows' first tokens; 0 where padded.
        self.appended = torch.where(real, real.flatten().cumsum(0).view_as(places) - 1, 0).to(device)
        keys = torch.arange(self.end)
        self.row_mask = _additive_mask(keys > at[:, None])[:, None, None].to(device)
        mask = _additive_mask(keys > places[:, :, None])[:, None]
        self.appended_mask = mask.repeat(1, 1, self.queries_per_key, 1).to(device)
        return row, place

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        row_k, row_v = self.rows[layer]
        row_k[self.row, :, self.place] = key.transpose(0, 1)
        row_v[self.row, :, self.place] = value.transpose(0, 1)
        row_k, row_v = row_k[:, :, : self.end], row_v[:, :, : self.end]
        prompt_k, prompt_v = self.prompts[layer]
        rows, (prompts, kv_heads, *_) = len(row_k), prompt_k.shape
        # Grouped queries: (rows, key heads, queries a key head, size); at a prompt, the queries of all its slots.
        query = query.unflatten(0, (kv_heads, -1)) * scaling
        q = query[:, :, :rows].permute(2, 0, 1, 3)
        slots = q.new_zeros(prompts * self.slots, *q.shape[1:])
        slots[self.slot] = q
        slots = slots.unflatten(0, (prompts, self.slots)).transpose(1, 2).flatten(2, 3)
        at_prompt = tuple(
            x.unflatten(2, (self.slots, -1)).transpose(1, 2).flatten(0, 1)[self.slot]
            for x in _partial_attention(slots, prompt_k, prompt_v, self.prompt_mask)
        )
        out = _merge_partial(at_prompt, _partial_attention(q, row_k, row_v, self.row_mask))
        if len(self.extended):
            # Rows with appended tokens: each with a copy of its prompt's keys, all padded to the most tokens.
            q = query[:, :, rows:][:, :, self.appended].permute(2, 0, 1, 3, 4).flatten(2, 3)
            prompt = self.prompt_of[self.extended]
            at_prompt = _partial_attention(q, prompt_k[prompt], prompt_v[prompt], self.prompt_mask[prompt])
            at_row = _partial_attention(q, row_k[self.extended], row_v[self.extended], self.appended_mask)
            appended = (
                x.unflatten(2, (-1, self.appended.size(1))).permute(0, 3, 1, 2, 4)[self.real]
                for x in _merge_partial(at_prompt, at_row)
            )
            out = tuple(torch.cat(both) for both in zip(out, appended, strict=True))
        start_k, start_v = self.start[layer]
        if start_k.size(1):
            at_start = _partial_attention(query.flatten(1, 2), start_k, start_v, None)
            out = _merge_partial(tuple(x.unflatten(1, query.shape[1:3]).permute(2, 0, 1, 3) for x in at_start), out)
        return out[0].flatten(1, 2)


def _partial_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Attention over some of the keys, and the logarithm of their summed weights (…, queries, 1) for merging."""
    scores = (q @ k.transpose(-2, -1)).float()
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    # The largest weight is exp(largest score - total): cheaper than logsumexp, which would do all of softmax again.
    total = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
    return weights.to(v.dtype) @ v, total


def _merge_partial(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Partial attention over the keys of both."""
    share = (one[1] - other[1]).sigmoid().to(one[0].dtype)
    return torch.lerp(other[0], one[0], share), torch.logaddexp(one[1], other[1])
