"""The tables of docs/gpu.md, and the memory of sampling against the tensors of a real cache."""

import importlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mentorlib.rollout.decoding import Decoding, Prefill

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def gpu_table(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("gpu_table")


def test_the_cache_has_the_computed_size(gpu_table):
    layers, rows, prompt, tokens = 2, 5, 30, 100
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": layers}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
    layout = Prefill([prompt])
    k = torch.zeros(2, prompt, 32, dtype=torch.bfloat16)
    for layer in range(layers):
        layout.attend(layer, torch.zeros(4, prompt, 32, dtype=torch.bfloat16), k, k, 1.0)
    cache = Decoding(layout, torch.zeros(rows, dtype=torch.long))
    for at in range(tokens):
        cache.step(torch.full((rows,), at), torch.zeros(rows, dtype=torch.long))
    kept = [x for part in (cache.prompts, cache.rows) for both in part for x in both]
    computed = gpu_table.sampling_memory(config, rows=rows, prompts=1, prompt_tokens=prompt, completion_tokens=tokens)
    assert sum(x.untyped_storage().nbytes() for x in kept) == computed["cache"] * gpu_table.GIB
    weights = AutoModelForCausalLM.from_config(config).num_parameters()
    assert computed["copy"] == 2 * weights / gpu_table.GIB


@pytest.mark.slow
def test_the_table_of_the_gpu_page_is_computed(gpu_table):
    page = (DOCS / "gpu.md").read_text()
    assert gpu_table.table(gpu_table.QWEN3_1_7B, 600, 2048) in page
    for rows in (32, 80):
        sampled = gpu_table.sampling_memory(
            gpu_table.QWEN3_1_7B, rows=rows, prompts=8, prompt_tokens=600, completion_tokens=2048
        )
        assert f"| {rows} | " + " | ".join(f"{size:.1f}" for size in sampled.values()) + " |" in page
