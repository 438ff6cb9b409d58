"""Layouts against attention with the whole mask written out; the engine's and trainer's tests run whole models."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM

from mentorlib.rollout.attention import PackedGroups, common_prefix, forward, packed_attention
from mentorlib.rollout.decoding import Decoding, Prefill, keep_rows
from mentorlib.rollout.model import load_model

sizes = st.integers(0, 9)
groups = st.lists(st.tuples(sizes, st.lists(sizes, max_size=5).map(sorted)), min_size=1, max_size=4)


windows = st.none() | st.integers(1, 12)


def dense(start, groups, window):
    """mask[i, j]: whether token i of the packed sequence may see token j."""
    owners, positions = [()] * start, list(range(start))
    for g, (prompt, rows) in enumerate(groups):
        owners += [(g,)] * prompt
        owners += [(g, r) for r, n in enumerate(rows) for _ in range(n)]
        positions += [start + i for i in range(prompt)]
        positions += [start + prompt + i for n in rows for i in range(n)]
    n = len(owners)
    near = [[window is None or positions[i] - positions[j] < window for j in range(n)] for i in range(n)]
    return torch.tensor(
        [[j <= i and near[i][j] and owners[i][: len(owners[j])] == owners[j] for j in range(n)] for i in range(n)]
    )


@settings(max_examples=60, deadline=None)
@given(sizes, groups, windows)
def test_packed_is_attention_with_a_mask(start, groups, window):
    mask = dense(start, groups, window)
    if not len(mask):
        return
    torch.manual_seed(0)
    q, k, v = (torch.randn(heads, len(mask), n, requires_grad=True) for heads, n in ((4, 8), (2, 8), (2, 6)))
    packed = PackedGroups(groups, start).attend(0, q, k, v, 0.3, window)
    wide_k, wide_v = (x.repeat_interleave(2, 0) for x in (k, v))
    wanted = scaled_dot_product_attention(q[None], wide_k[None], wide_v[None], attn_mask=mask, scale=0.3)[0].transpose(
        0, 1
    )
    assert torch.allclose(packed, wanted, atol=1e-5)
    weights = torch.randn_like(packed)
    for a, b in zip(*(torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (packed, wanted)), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_decoding_is_attention_over_a_rows_whole_history(data):
    """Random prompts, rows with appended tokens and rows that are dropped, against each row's whole history."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    start = data.draw(sizes)
    prompts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    prompt_of = data.draw(st.lists(st.integers(0, len(prompts) - 1), min_size=1, max_size=6))
    window = data.draw(st.none() | st.integers(1, 60))
    layout = Prefill(prompts, start)
    k, v = (torch.randn(2, start + sum(prompts), n) for n in (8, 6))
    layout.attend(0, torch.randn(4, start + sum(prompts), 8), k, v, 0.3, window)
    ends = torch.tensor([start, *prompts]).cumsum(0).tolist()
    cache = Decoding(layout, torch.tensor(prompt_of))
    history = []
    for p in prompt_of:
        seen = [*range(start), *range(ends[p], ends[p + 1])]
        history.append((k[:, seen], v[:, seen]))
    lengths = [0] * len(history)
    for _ in range(4):
        drawn = [data.draw(st.integers(0, 40), label=f"appended {i}") for i in range(len(history))]
        counts = [n if n > 20 else 0 for n in drawn]
        row, at = cache.step(torch.tensor(lengths), torch.tensor(counts))
        q, k, v = (torch.randn(heads, len(row), n) for heads, n in ((4, 8), (2, 8), (2, 6)))
        decoded = cache.attend(0, q, k, v, 0.3, window)
        for t, i in enumerate(row.tolist()):
            assert at[t] == lengths[i]
            lengths[i] += 1
            history[i] = tuple(torch.cat([old, x[:, t : t + 1]], 1) for old, x in zip(history[i], (k, v), strict=True))
            keys, values = (x[:, -(window or 10_000) :].repeat_interleave(2, 0)[None] for x in history[i])
            wanted = scaled_dot_product_attention(q[None, :, t : t + 1], keys, values, scale=0.3)[0, :, 0]
            assert torch.allclose(decoded[t], wanted, atol=1e-5)
        kept = torch.tensor([data.draw(st.booleans(), label="kept") for _ in history])
        if not kept.any():
            return
        cache.keep(kept)
        order = keep_rows(torch.arange(len(history)), kept).tolist()
        history, lengths = [history[i] for i in order], [lengths[i] for i in order]


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_keep_rows_keeps_exactly_these_rows(kept):
    left = keep_rows(torch.arange(len(kept)), torch.tensor(kept)).tolist()
    assert sorted(left) == [i for i, k in enumerate(kept) if k]


def test_common_prefix():
    start = list(range(50))
    assert common_prefix([[*start, 1], [*start, 2, 3]]) == 50
    assert common_prefix([start, [*start, 2]]) == 49  # each keeps at least one token
    assert common_prefix([[*start, 1]]) == common_prefix([[1, 2], [1, 3]]) == 0


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_models_give_the_same_packed(kind):
    """Two rows of one prompt, packed, against each read by itself."""
    torch.manual_seed(0)
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = (
        load_model("nano")[0]
        if kind == "qwen3"
        else LlamaForCausalLM(LlamaConfig(vocab_size=100, num_key_value_heads=2, **config))
    )
    prompt, rows = [5, 6, 7], [[8], [9, 10]]
    positions = torch.tensor([0, 1, 2, 3, 3, 4])
    with torch.no_grad(), packed_attention(model):
        packed = forward(model, torch.tensor([5, 6, 7, 8, 9, 10]), positions, PackedGroups([(3, [1, 2])])).logits[0]
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        alone = [model(torch.tensor([prompt + row])).logits[0] for row in rows]
    assert torch.allclose(packed[:4], alone[0], atol=1e-4)
    assert torch.allclose(packed[4:], alone[1][3:], atol=1e-4)
