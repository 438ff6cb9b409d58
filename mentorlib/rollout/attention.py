"""Attention for rows that share a beginning: the samples of a GRPO group share a prompt, and prompts of one toolbox the
system message with all its schemas. What is shared is computed once.

A transformers model takes a packed sequence, one row of tokens without padding, and a ``layout`` that says who may see
whom; everything but attention works on the tokens as they come. ``Packed`` is a layout for training (whole groups, with
gradient), ``Decoding`` one for sampling (a growing KV cache). Without a layout the model's attention is sdpa, as ever.

Source: the custom attention interface of transformers (AttentionInterface). Simplified: full attention only, no
sliding windows (``supported`` says so).
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
def packed_attention(*models: Any) -> Iterator[None]:
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


def is_packed(model: Any) -> bool:
    """Whether the model is within ``packed_attention``."""
    return bool(getattr(model, "module", model).config._attn_implementation == NAME)


def forward(model: Any, ids: Tensor, positions: Tensor, layout: Layout, **kwargs: Any) -> Any:
    """A forward pass over a packed sequence: ids and positions of shape (tokens,)."""
    mask = NO_MASK.to(ids.device)
    return model(input_ids=ids[None], position_ids=positions[None], attention_mask=mask, layout=layout, **kwargs)


def pack(pieces: Iterable[tuple[int, Sequence[int]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and positions of a packed sequence, from (position of the first token, token ids) of its pieces in order."""
    pieces = list(pieces)
    ids = [token for _, piece in pieces for token in piece]
    positions = [at + i for at, piece in pieces for i in range(len(piece))]
    return torch.tensor(ids, device=device), torch.tensor(positions, device=device)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Repeat key or value heads (dimension -3) for grouped queries."""
    return x if x.size(-3) == heads else x.repeat_interleave(heads // x.size(-3), dim=-3)


def _causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """The last ``queries`` of ``keys`` tokens, each seeing itself and what is before it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _seen(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Causal attention of the last tokens, as many as q has, of (heads, tokens, size); gives (tokens, heads, size)."""
    n, whole = q.size(1), k.size(1)
    if not n:
        return q.transpose(0, 1)
    mask = None if n == whole else _causal(n, whole, q.device)
    out = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, is_causal=mask is None, scale=scaling)
    return out[0].transpose(0, 1)


def _mask(hidden: Tensor) -> Tensor:
    """To be added to scores: minus infinity where hidden."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill(hidden, -torch.inf)


def _alike(sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Stretches of rows that are padded together: none half as long again as the first (rows come sorted)."""
    start = 0
    for i in range(1, len(sizes) + 1):
        if i == len(sizes) or sizes[i] > 1.5 * sizes[start]:
            yield sizes[start:i]
            start = i


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, so that each keeps one of its own; 0 where sharing them would not pay."""
    if len(prompts) < 2:
        return 0
    least = min(map(len, prompts)) - 1
    shared = next((i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), least)
    return min(shared, least) if shared >= 32 else 0


class PackedGroups:
    """What all share, then groups one after another, each the rest of its prompt and then its rows.

    A token sees what all share, its group's prompt and its own row, up to itself.

    Args:
        groups: (tokens of the rest of the prompt, tokens of each row) of every group, in the order of the sequence.
        start: tokens that all prompts begin with.
    """

    def __init__(self, groups: Sequence[tuple[int, Sequence[int]]], start: int = 0):
        self.groups, self.start = groups, start

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        heads = query.size(0)
        key, value = _heads(key, heads), _heads(value, heads)
        # A group is one stretch of the sequence: heads, its tokens, size.
        sizes = [self.start, *(prompt + sum(rows) for prompt, rows in self.groups)]
        (q, *queries), (k, *keys), (v, *values) = (x.split(sizes, dim=1) for x in (query, key, value))
        out = [_seen(q, k, v, scaling)]
        for (prompt, rows), own_q, own_k, own_v in zip(self.groups, queries, keys, values, strict=True):
            out += self._group(prompt, rows, own_q, torch.cat([k, own_k], 1), torch.cat([v, own_v], 1), scaling)
        return torch.cat(out)

    def _group(
        self, prompt: int, rows: Sequence[int], q: Tensor, k: Tensor, v: Tensor, scaling: float
    ) -> Iterator[Tensor]:
        """Keys and values begin with those that all share."""
        shared = self.start + prompt
        yield _seen(q[:, :prompt], k[:, :shared], v[:, :shared], scaling)
        at = prompt
        for alike in _alike(rows):
            here, longest = slice(at, at + sum(alike)), max(alike)
            own_q, own_k, own_v = (
                self._padded(x[:, here], alike, longest) for x in (q, k[:, self.start :], v[:, self.start :])
            )
            all_k, all_v = (
                torch.cat([x[None, :, :shared].expand(len(alike), -1, -1, -1), own], dim=2)
                for x, own in ((k, own_k), (v, own_v))
            )
            # Padding is at the rows' ends, where no token looks, so that one mask does for all rows.
            mask = _causal(longest, shared + longest, q.device)
            out = scaled_dot_product_attention(own_q, all_k, all_v, attn_mask=mask, scale=scaling).transpose(1, 2)
            yield from (row[:size] for row, size in zip(out, alike, strict=True))
            at = here.stop

    @staticmethod
    def _padded(x: Tensor, rows: Sequence[int], longest: int) -> Tensor:
        """(heads, tokens, size) to (rows, heads, longest, size)."""
        if all(n == longest for n in rows):
            return x.unflatten(1, (len(rows), longest)).transpose(0, 1)
        return torch.stack([pad(row, (0, 0, 0, longest - row.size(1))) for row in x.split(list(rows), dim=1)])


class Prefill(PackedGroups):
    """Prompts' rests one after another; keeps the keys and values of each layer for ``Decoding``."""

    def __init__(self, prompts: Sequence[int], start: int = 0):
        super().__init__([(n, ()) for n in prompts], start)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        self.kept.append((key, value))
        self.queries = len(query) // len(key)  # heads of queries to one of keys
        return super().attend(layer, query, key, value, scaling)


def compact(x: Tensor, kept: Tensor) -> Tensor:
    """Drop the rows of x (rows, …) where ``kept`` is False: the last kept rows are moved into the holes, in place."""
    n = int(kept.sum())
    x[(~kept[:n]).nonzero()[:, 0]] = x[n:][kept[n:]]
    return x[:n]


class Decoding:
    """The KV cache of a batch that is being sampled: what all share, each prompt's rest, and every row's own tokens.

    A step's sequence is one token of each row, and then all tokens that some rows hear. The step is set by ``step``.

    Args:
        prefill: after a pass over the different prompts.
        prompt_of: which of the prompts each row goes on from, shape (rows,).
    """

    def __init__(self, prefill: Prefill, prompt_of: Tensor):
        sizes = [prompt for prompt, _ in prefill.groups]
        key = prefill.kept[0][0]
        own = (len(prompt_of), key.size(0), 64, key.size(2))  # rows, heads, places (grows), size
        self.start = [[x[:, : prefill.start] for x in both] for both in prefill.kept]
        self.prompts = [
            [PackedGroups._padded(x[:, prefill.start :], sizes, max(sizes)) for x in both] for both in prefill.kept
        ]
        self.own = [[x.new_zeros(own) for x in both] for both in prefill.kept]
        self.queries = prefill.queries
        self.sizes = torch.tensor(sizes, device=key.device)
        self.prompt_of = prompt_of.to(key.device)
        self._seat()

    def _seat(self) -> None:
        """Give each row a seat at its prompt, so that the queries of a prompt's rows are one matrix."""
        device = self.prompt_of.device
        count = torch.bincount(self.prompt_of, minlength=len(self.sizes))
        order = self.prompt_of.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=device) - (count.cumsum(0) - count)[self.prompt_of[order]]
        self.seats = int(count.max())
        self.seat = self.prompt_of * self.seats + rank
        hidden = torch.arange(self.prompts[0][0].size(2), device=device) >= self.sizes[:, None]
        self.prompt_mask = _mask(hidden)[:, None, None]

    def keep(self, rows: Tensor) -> None:
        """Drop the rows where ``rows`` is False, by ``compact``, and the prompts that no row goes on from."""
        rows = rows.to(self.prompt_of.device)
        self.own = [[compact(x, rows) for x in both] for both in self.own]
        self.prompt_of = compact(self.prompt_of, rows)
        used = torch.bincount(self.prompt_of, minlength=len(self.sizes)) > 0
        if not used.all():
            self.prompts = [[compact(x, used) for x in both] for both in self.prompts]
            self.sizes = compact(self.sizes, used)
            now = compact(torch.arange(len(used), device=used.device), used)
            place = torch.empty_like(used, dtype=torch.long)
            place[now] = torch.arange(len(now), device=used.device)
            self.prompt_of = place[self.prompt_of]
        self._seat()

    def step(self, at: Tensor, heard: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Set the next pass; gives the row of each token of its sequence, and its place among the row's own tokens.

        Args:
            at: place of each row's one token, shape (rows,), on the CPU.
            heard: (row, how many tokens follow there) of the rows that hear something.
        """
        device = self.prompt_of.device
        counts = torch.tensor([n for _, n in heard], dtype=torch.long)
        hearers = torch.tensor([row for row, _ in heard], dtype=torch.long)
        number = torch.arange(int(counts.max()) if heard else 0)
        is_heard = number < counts[:, None]  # (hearing rows, tokens of the one that hears most)
        places = at[hearers, None] + 1 + number
        self.end = int(torch.cat([at, places[is_heard]]).max()) + 1
        capacity = self.own[0][0].size(2)
        if self.end > capacity:
            more = max(self.end - capacity, capacity)
            self.own = [[pad(x, (0, 0, 0, more)) for x in both] for both in self.own]
        row = torch.cat([torch.arange(len(at)), hearers[:, None].expand_as(places)[is_heard]])
        self.row, self.hearers, self.is_heard = row.to(device), hearers.to(device), is_heard.to(device)
        self.heard = torch.where(is_heard, is_heard.flatten().cumsum(0).view_as(places) - 1, 0).to(device)
        every = torch.arange(self.end)
        self.own_mask = _mask(every > at[:, None])[:, None, None].to(device)
        self.heard_mask = _mask(every > places[:, :, None])[:, None].repeat(1, 1, self.queries, 1).to(device)
        at = torch.cat([at, places[is_heard]])
        self.at = at.to(device)
        return row, at

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """See Layout.attend."""
        own_k, own_v = self.own[layer]
        own_k[self.row, :, self.at] = key.transpose(0, 1)
        own_v[self.row, :, self.at] = value.transpose(0, 1)
        prompt_k, prompt_v = self.prompts[layer]
        rows, (prompts, kv_heads, *_) = len(own_k), prompt_k.shape
        # Grouped queries: (rows, key and value heads, queries of each, size); at a prompt, those of all its seats.
        query = query.unflatten(0, (kv_heads, -1)) * scaling
        q = query[:, :, :rows].permute(2, 0, 1, 3)
        seated = q.new_zeros(prompts * self.seats, *q.shape[1:])
        seated[self.seat] = q
        seated = seated.unflatten(0, (prompts, self.seats)).transpose(1, 2).flatten(2, 3)
        at_prompt = tuple(
            x.unflatten(2, (self.seats, -1)).transpose(1, 2).flatten(0, 1)[self.seat]
            for x in _part(seated, prompt_k, prompt_v, self.prompt_mask)
        )
        out = _merged(at_prompt, _part(q, own_k[:, :, : self.end], own_v[:, :, : self.end], self.own_mask))
        if len(self.hearers):
            # Hearing rows: each with a copy of its prompt's keys, and padded to the one that hears most.
            q = query[:, :, rows:][:, :, self.heard].permute(2, 0, 1, 3, 4).flatten(2, 3)
            prompt = self.prompt_of[self.hearers]
            at_prompt = _part(q, prompt_k[prompt], prompt_v[prompt], self.prompt_mask[prompt])
            own_k, own_v = own_k[self.hearers, :, : self.end], own_v[self.hearers, :, : self.end]
            heard = (
                x.unflatten(2, (-1, self.heard.size(1))).permute(0, 3, 1, 2, 4)[self.is_heard]
                for x in _merged(at_prompt, _part(q, own_k, own_v, self.heard_mask))
            )
            out = tuple(torch.cat(both) for both in zip(out, heard, strict=True))
        start_k, start_v = self.start[layer]
        if start_k.size(1):
            at_start = _part(query.flatten(1, 2), start_k, start_v, None)
            out = _merged(tuple(x.unflatten(1, query.shape[1:3]).permute(2, 0, 1, 3) for x in at_start), out)
        return out[0].flatten(1, 2)


def _part(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
    """Attention over some of the keys, and the logarithm of the weight that these keys have in all, (…, queries, 1)."""
    scores = (q @ k.transpose(-2, -1)).float()
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    # The largest weight is exp(largest score - total): cheaper than logsumexp, which would do all of softmax again.
    total = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log()
    return weights.to(v.dtype) @ v, total


def _merged(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Attention over the keys of two parts."""
    share = (one[1] - other[1]).sigmoid().to(one[0].dtype)
    return torch.lerp(other[0], one[0], share), torch.logaddexp(one[1], other[1])
