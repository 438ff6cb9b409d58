"""How near the engine and the training pass come to a GPU's limits, on students of Qwen3-0.6B's and 1.7B's shape.

No peer: decoding is held against reading weights and cache once a step at the memory's bandwidth, training against the
peak of bfloat16 matrix multiplication (MFU). Weights are random; both limits are measured here, not looked
up. Command: ``python benchmarks/gpu.py``; ``--tiny`` tries the script on any machine and measures nothing of worth.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from mentorlib import load_model
from mentorlib.rollout.attention import PackedGroups, forward, packed_attention
from mentorlib.rollout.engine import TorchEngine

SHAPES = {"0.6B": (1024, 3072, 28, 16, 8), "1.7B": (2048, 6144, 28, 16, 8)}  # hidden, MLP, layers, heads, key heads
TINY = {"tiny": (64, 128, 2, 4, 2)}
PROMPT, TOKENS, GROUPS, GROUP_SIZE = 512, 256, 8, 8


def student(shape: tuple[int, int, int, int, int], device: str) -> Qwen3ForCausalLM:
    hidden, mlp, layers, heads, kv_heads = shape
    config = Qwen3Config(
        vocab_size=151_936 if hidden > 64 else 1536,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128 if hidden > 64 else 16,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        return Qwen3ForCausalLM(config)


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The fastest of some runs, after one that warms up."""
    spent = []
    for _ in range(repeats + 1):
        wait()
        began = time.perf_counter()
        work()
        wait()
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a toy shape, on the CPU too")
    tiny = parser.parse_args().tiny
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        print("no GPU here: nothing measured (--tiny tries the script)")
        print(json.dumps({"name": "gpu", "ratio": None, "device": None}))
        return
    n = 1024 if tiny else 8192
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    big = torch.empty((1 << 20) if tiny else (1 << 30), device=device, dtype=torch.bfloat16)
    peak = 2 * n**3 / seconds(lambda: a @ a)
    bandwidth = 2 * big.numel() * 2 / seconds(lambda: big.add_(1))  # read and written, two bytes each
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}: {peak / 1e12:.0f} TFLOP/s in bfloat16, {bandwidth / 1e9:.0f} GB/s")
    figures: dict[str, Any] = {"device": name, "tflops": round(peak / 1e12, 1), "gb_per_s": round(bandwidth / 1e9)}
    prompt, tokens = (32, 16) if tiny else (PROMPT, TOKENS)
    rows = GROUPS * GROUP_SIZE
    for size, shape in (TINY if tiny else SHAPES).items():
        model = student(shape, device)
        weights = sum(p.numel() for p in model.parameters())
        engine = TorchEngine(model.to(torch.bfloat16), load_model("nano")[1])
        engine.end_ids = {-1}
        prompts = [[group + 1] * prompt for group in range(GROUPS) for _ in range(GROUP_SIZE)]
        spent = seconds(lambda e=engine, p=prompts: e.run(p, lambda _: [], max_tokens=tokens, seed=0))  # type: ignore[misc]
        first = seconds(lambda e=engine, p=prompts: e.run(p, lambda _: [], max_tokens=1, seed=0))  # type: ignore[misc]
        decoding = rows * (tokens - 1) / (spent - first)
        c = model.config
        cache = 4 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim  # bytes of keys and values a token
        read = 2 * weights + cache * (GROUPS * prompt + rows * tokens / 2)
        bound = rows * bandwidth / read
        model.float()
        positions = [*range(prompt), *(prompt + i for _ in range(GROUP_SIZE) for i in range(tokens))]
        ids, where = (torch.tensor(x, device=device) for x in ([i % 1400 for i in positions], positions))
        layout = PackedGroups([(prompt, [tokens] * GROUP_SIZE)])

        def train(m: Any = model, i: Any = ids, w: Any = where, pack: PackedGroups = layout) -> None:
            with packed_attention(m), torch.autocast(device, torch.bfloat16):
                forward(m, i, w, pack, use_cache=False).logits.float().logsumexp(-1).mean().backward()
            m.zero_grad()

        mfu = 6 * weights * len(positions) / seconds(train) / peak
        print(
            f"{size}: decoding {decoding:.0f} tokens/s, {decoding / bound:.0%} of what memory allows; "
            f"training {mfu:.0%} MFU"
        )
        figures[size] = {"tokens_per_s": round(decoding), "of_bound": round(decoding / bound, 2), "mfu": round(mfu, 2)}
        del model, engine
    print(json.dumps({"name": "gpu", "ratio": None, **figures}))


if __name__ == "__main__":
    main()
