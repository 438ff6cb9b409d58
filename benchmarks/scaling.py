"""Claim: the cost of rollouts and of the training pass grows no worse than linearly with what a study may enlarge.

No peer. Students of Qwen3's shape with random weights sample a scripted load, so that the cost of a row is known:
every turn has TURN sampled tokens and TURN tool result tokens. One thing is doubled at a time, three times; the
exponent of the cost in it (a straight line in log-log) must not exceed 1. The last table is the share of this machine's
measured matrix-multiply speed that each pass reaches; ``--html FILE`` draws it as a roofline.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from mentorlib import load_model
from mentorlib.data.suites import generate
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.data.tools import lists, text, units
from mentorlib.rollout.attention import PackedGroups, forward, packed_attention
from mentorlib.rollout.chat import prompt_ids
from mentorlib.rollout.engine import TorchEngine
from mentorlib.sandbox.toolbox import Toolbox

TURN = 16  # tokens sampled, and tool result tokens, in a turn
SHAPES = {"2M": (192, 5, 6, 2, 32), "8M": (320, 8, 8, 2, 40), "30M": (576, 10, 12, 4, 48)}  # hidden, layers, heads, …


@dataclass(frozen=True)
class Load:
    """What a batch asks for."""

    size: str = "2M"
    groups: int = 4
    group_size: int = 8
    prompt: int = 200
    turns: int = 3


def student(size: str) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    hidden, layers, heads, kv_heads, head_size = SHAPES[size]
    config = Qwen3Config(
        vocab_size=1536,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


class Scripted(TorchEngine):
    """Rows end a turn after TURN tokens, whatever they say."""

    def sample_load(self, load: Load) -> int:
        """Run the load; the number of forward passes' tokens, prompts counted once a group."""
        prompts = [[(i * 7 + group) % 1400 for i in range(load.prompt)] for group in range(load.groups)]
        rows = [prompt for prompt in prompts for _ in range(load.group_size)]
        said = {row: 0 for row in range(len(rows))}

        def on_turns(closed: list[tuple[int, list[int]]]) -> list[list[int] | None]:
            answers: list[list[int] | None] = []
            for row, _ in closed:
                said[row] += 1
                answers.append(None if said[row] >= load.turns * TURN else ([5] * TURN if not said[row] % TURN else []))
            return answers

        self.end_ids = set(range(1536))  # every token closes a "turn" of one token: the script counts to TURN
        sampled = self.run(rows, on_turns, temperature=1.0, max_tokens=8000, seed=0)
        return load.groups * load.prompt + sum(len(s.token_ids) for s in sampled)


def flops(model: Qwen3ForCausalLM, tokens: int, load: Load) -> float:
    """Of a forward pass over the tokens: two a weight, and attention (to the prompt and half of the row)."""
    c = model.config
    weights = sum(p.numel() for p in model.parameters())
    seen = load.prompt + load.turns * TURN
    return tokens * (2 * weights + 4 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * seen)


def train_pass(model: Qwen3ForCausalLM, load: Load) -> int:
    """A forward and backward pass over the packed groups; gives the tokens of the sequence."""
    row = load.turns * 2 * TURN
    groups = [(load.prompt, [row] * load.group_size)] * load.groups
    positions = [
        *range(load.prompt),
        *(load.prompt + i for _ in range(load.group_size) for i in range(row)),
    ] * load.groups
    ids = torch.arange(len(positions)) % 1400
    with packed_attention(model):
        forward(model, ids, torch.tensor(positions), PackedGroups(groups), use_cache=False).logits.logsumexp(
            -1
        ).mean().backward()
    model.zero_grad()
    return len(positions)


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """The fastest of some runs, and what the work gave."""
    best, result = math.inf, work()
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return best, result


def peak(repeats: int) -> float:
    """Measured matrix-multiply speed, operations a second."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / seconds(lambda: a @ b, 5 * repeats)[0]


def slope(xs: list[float], ys: list[float]) -> float:
    """Exponent of ys in xs by least squares on logarithms."""
    lx, ly = [math.log(x) for x in xs], [math.log(y) for y in ys]
    mx, my = sum(lx) / len(lx), sum(ly) / len(ly)
    return sum((a - mx) * (b - my) for a, b in zip(lx, ly, strict=True)) / sum((a - mx) ** 2 for a in lx)


def prompt_of(tools: int) -> int:
    """Tokens of a prompt that offers so many of the project's tools."""
    _, tokenizer = load_model("nano")
    many = Toolbox.from_functions("many", [*units.TOOLS, *text.TOOLS, *lists.TOOLS])
    schemas = [*CALCULATOR.schemas, *many.schemas] * 3
    task = generate("calculator", 1)[0][0]
    return len(prompt_ids(tokenizer, task.prompt(), schemas[:tools]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--html", type=Path, help="draw the roofline into this file")
    arguments = parser.parse_args()
    repeats = arguments.repeats
    base = Load()
    tools = [4, 8, 16, 32]
    axes: dict[str, list[tuple[float, Load]]] = {
        "group size": [(n, replace(base, group_size=n)) for n in (4, 8, 16, 32)],
        "groups": [(n, replace(base, groups=n)) for n in (2, 4, 8, 16)],
        "turns": [(n, replace(base, turns=n)) for n in (2, 4, 8, 16)],
        "prompt length": [(n, replace(base, prompt=n)) for n in (128, 256, 512, 1024)],
        "tools offered": [(n, replace(base, prompt=prompt_of(n))) for n in tools],
        "parameters": [(sum(p.numel() for p in student(s).parameters()), replace(base, size=s)) for s in SHAPES],
    }
    top = peak(repeats)
    exponents: dict[str, dict[str, float]] = {"rollout": {}, "training": {}}
    shares: list[dict[str, Any]] = []
    print(f"{'enlarged':>14} {'to':>9} {'rollout s':>10} {'training s':>11}")
    for axis, points in axes.items():
        times: dict[str, list[float]] = {"rollout": [], "training": []}
        for x, load in points:
            model = student(load.size)
            engine = Scripted(model, load_model("nano")[1])
            spent, tokens = seconds(lambda e=engine, w=load: e.sample_load(w), repeats)  # type: ignore[misc]
            times["rollout"].append(spent)
            work = flops(model, tokens, load)
            shares.append({"pass": "rollout", "axis": axis, "x": x, "flops": work, "share": work / spent / top})
            spent, tokens = seconds(lambda m=model, w=load: train_pass(m, w), repeats)  # type: ignore[misc]
            times["training"].append(spent)
            work = 3 * flops(model, tokens, load)
            shares.append({"pass": "training", "axis": axis, "x": x, "flops": work, "share": work / spent / top})
            print(f"{axis:>14} {x:>9} {times['rollout'][-1]:>10.3f} {times['training'][-1]:>11.3f}", flush=True)
        for name, spent_by in times.items():
            exponents[name][axis] = round(slope([x for x, _ in points], spent_by), 2)
    print(
        f"\nexponents (1 is linear); matrix multiply here: {top / 1e9:.0f} GFLOP/s on {torch.get_num_threads()} threads"
    )
    for name, by_axis in exponents.items():
        print(f"{name:>9}", "  ".join(f"{axis} {value}" for axis, value in by_axis.items()))
    parameters = [s for s in shares if s["axis"] == "parameters"]
    for s in parameters:
        print(f"{s['pass']:>9} {s['x'] / 1e6:>5.1f}M parameters: {s['share']:.0%} of the matrix-multiply speed")
    if arguments.html:
        import plotly.express as px

        figure = px.scatter(
            shares, x="flops", y="share", color="pass", hover_data=["axis", "x"], log_x=True,
            labels={"flops": "operations in a pass", "share": "share of this machine's matrix-multiply speed"},
            title="How close rollouts and training come to the machine's limit",
        )  # fmt: skip
        figure.update_yaxes(range=[0, 1], tickformat=".0%")
        figure.write_html(arguments.html, include_plotlyjs=True)
    worst = max(value for by_axis in exponents.values() for value in by_axis.values())
    figures = {"worst_exponent": worst, "exponents": exponents, "threads": torch.get_num_threads()}
    share = {s["pass"] + f"_{s['x'] / 1e6:.0f}M": round(s["share"], 2) for s in parameters}
    print(json.dumps({"name": "scaling", "ratio": None, **figures, "share_of_matmul": share}))


if __name__ == "__main__":
    main()
