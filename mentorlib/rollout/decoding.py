"""The KV cache of the rollout engine: shared prefixes once, each row's tokens beside them (layouts, see attention.py).

``Prefill`` computes the prompts, ``Decoding`` the rows that are being sampled.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .attention import PackedGroups, padded_rows


def keep_rows(x: Tensor, kept: Tensor) -> Tensor:
    """Drop the rows of x (rows, …) where ``kept`` (rows,) is False, in place: the last kept rows fill the gaps."""
    n = int(kept.sum())
    x[(~kept[:n]).nonzero()[:, 0]] = x[n:][kept[n:]]
    return x[:n]


def _additive_mask(hidden: Tensor) -> Tensor:
    """An additive mask: a large negative number where hidden; finite, since all keys may be hidden from a query."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -1e30)


class Prefill(PackedGroups):
    """The rests of prompts one after another; keeps the keys and values of each layer for ``Decoding``.

    Args:
        prompts: tokens of the rest of each prompt.
        start: length of the prefix that all prompts share.
    """

    def __init__(self, prompts: Sequence[int], start: int = 0):
        super().__init__([(n, ()) for n in prompts], start)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """See Layout.attend."""
        # Norms of queries and keys (Qwen3) leave float32 keys under autocast, twice the bytes of the values.
        self.kept.append((key.to(value.dtype), value))
        self.queries_per_key = len(query) // len(key)  # heads
        return super().attend(layer, query, key, value, scaling, window)


class _Masks(NamedTuple):
    """Additive masks of a decoding pass: for rows' tokens over row and prompt, for appended ones, over the start."""

    row: Tensor
    prompt: Tensor
    appended: Tensor
    appended_prompt: Tensor
    start: Tensor | None


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
        device = prefill.kept[0][0].device
        # One (keys, values) of each layer; of shape (…, heads, places, size), where the rows' places grow.
        self.start = [[x[:, :start] for x in both] for both in prefill.kept]
        self.prompts = [[padded_rows(x[:, start:], sizes, max(sizes)) for x in both] for both in prefill.kept]
        self.rows = [[x.new_zeros(len(prompt_of), x.size(0), 64, x.size(2)) for x in both] for both in prefill.kept]
        self.queries_per_key = prefill.queries_per_key
        self.sizes = torch.tensor(sizes, device=device)
        self.prompt_of = prompt_of.to(device)
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
            for both in self.rows:  # one by one, so that the old cache is not kept beside the new one
                for i, x in enumerate(both):
                    both[i] = pad(x, (0, 0, 0, more))
        self.row, self.place = row.to(device), place.to(device)
        self.at, self.places = at.to(device), places.to(device)
        self.extended, self.real = extended.to(device), real.to(device)
        # Index of each appended token in the sequence after the rows' first tokens; 0 where padded.
        self.appended = torch.where(real, real.flatten().cumsum(0).view_as(places) - 1, 0).to(device)
        self.masks: dict[int | None, _Masks] = {}  # by window: layers may have different ones
        return row, place

    def _make_masks(self, window: int | None) -> _Masks:
        """The masks of this pass, of the shapes in which ``attend`` needs them."""
        device, queries = self.prompt_of.device, self.queries_per_key
        keys, prompt_keys = (torch.arange(n, device=device) for n in (self.end, self.prompts[0][0].size(2)))
        row, appended = keys > self.at[:, None], keys > self.places[:, :, None]
        padding = prompt_keys >= self.sizes[:, None]
        if window is None:
            prompt, appended_prompt, start = padding[:, None], padding[self.prompt_of[self.extended]][:, None], None
        else:
            # The window reaches back to a place among the row's tokens; before it (below 0), into prompt and prefix.
            size, length = self.sizes[self.prompt_of], self.start[0][0].size(1)
            last, appended_last = self.at - window, self.places - window
            row, appended = row | (keys <= last[:, None]), appended | (keys <= appended_last[:, :, None])
            last, appended_last = last + size, appended_last + size[self.extended, None]
            slots = padding.repeat_interleave(self.slots, dim=0)
            slots[self.slot] |= prompt_keys <= last[:, None]
            prompt = slots.unflatten(0, (-1, self.slots)).repeat_interleave(queries, dim=1)
            appended_prompt = padding[self.prompt_of[self.extended]][:, None]
            appended_prompt = (appended_prompt | (prompt_keys <= appended_last[:, :, None])).repeat(1, queries, 1)
            last = torch.cat([last, appended_last[self.real]]) + length
            start = _additive_mask(torch.arange(length, device=device) <= last[:, None]).repeat(queries, 1)
        return _Masks(
            _additive_mask(row)[:, None, None],
            _additive_mask(prompt)[:, None],
            _additive_mask(appended.repeat(1, queries, 1))[:, None],
            _additive_mask(appended_prompt)[:, None],
            start,
        )

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """See Layout.attend."""
        if window not in self.masks:
            self.masks[window] = self._make_masks(window)
        masks = self.masks[window]
        row_k, row_v = self.rows[layer]
        row_k[self.row, :, self.place] = key.transpose(0, 1).to(row_k.dtype)
        row_v[self.row, :, self.place] = value.transpose(0, 1)
        row_k, row_v = row_k[:, :, : self.end], row_v[:, :, : self.end]
        prompt_k, prompt_v = self.prompts[layer]
        rows, (prompts, kv_heads, *_) = len(row_k), prompt_k.shape
        # Grouped queries: (rows, key heads, queries a key head, size); at a prompt, the queries of all its slots.
        query = query.to(row_k.dtype).unflatten(0, (kv_heads, -1)) * scaling
        q = query[:, :, :rows].permute(2, 0, 1, 3)
        slots = q.new_zeros(prompts * self.slots, *q.shape[1:])
        slots[self.slot] = q
        slots = slots.unflatten(0, (prompts, self.slots)).transpose(1, 2).flatten(2, 3)
        at_prompt = tuple(
            x.unflatten(2, (self.slots, -1)).transpose(1, 2).flatten(0, 1)[self.slot]
            for x in _partial_attention(slots, prompt_k, prompt_v, masks.prompt)
        )
        out = _merge_partial(at_prompt, _partial_attention(q, row_k, row_v, masks.row))
        if len(self.extended):
            # Rows with appended tokens: each with a copy of its prompt's keys, all padded to the most tokens.
            q = query[:, :, rows:][:, :, self.appended].permute(2, 0, 1, 3, 4).flatten(2, 3)
            prompt = self.prompt_of[self.extended]
            at_prompt = _partial_attention(q, prompt_k[prompt], prompt_v[prompt], masks.appended_prompt)
            at_row = _partial_attention(q, row_k[self.extended], row_v[self.extended], masks.appended)
            appended = (
                x.unflatten(2, (-1, self.appended.size(1))).permute(0, 3, 1, 2, 4)[self.real]
                for x in _merge_partial(at_prompt, at_row)
            )
            out = tuple(torch.cat(both) for both in zip(out, appended, strict=True))
        start_k, start_v = self.start[layer]
        if start_k.size(1):
            at_start = _partial_attention(query.flatten(1, 2), start_k, start_v, masks.start)
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
