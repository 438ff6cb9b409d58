"""Claim: a real small model samples at least three times as many tokens a second as by transformers' generate, at batch
32 with one toolbox, as evaluation does.

Peer: ``model.generate`` on the left-padded batch, greedy, with its own cache. Both continue the same prompts by one
turn of at most ``--tokens`` tokens; the tokens must agree. What bounds it: the prompt's tools are computed once instead
of 32 times; after that, both read all weights once a token.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from mentorlib import TorchEngine, load_model
from mentorlib.data.sources import read_sources
from mentorlib.rollout.chat import prompt_ids

SVAMP = "../shared/data/wordproblems/SVAMP.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/models/SmolLM2-135M-Instruct", help="a folder (make models) or nano")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    if options.model != "nano" and not Path(options.model).exists():
        print(f"no {options.model}: run make models, or give --model nano")
        return
    model, tokenizer = load_model(options.model)
    engine = TorchEngine(model, tokenizer)
    pairs, _, _ = read_sources([f"svamp:{SVAMP}"])
    prompts = [prompt_ids(tokenizer, t.prompt(), list(t.toolbox.schemas)) for t, _ in pairs[: options.batch]]
    longest = max(map(len, prompts))
    pads = [[tokenizer.pad_token_id] * (longest - len(prompt)) for prompt in prompts]
    padded = torch.tensor([pad + prompt for pad, prompt in zip(pads, prompts, strict=True)])
    mask = torch.tensor([[0] * len(pad) + [1] * (longest - len(pad)) for pad in pads])

    def ours() -> list[list[int]]:
        sampled = engine.run(prompts, lambda closed: [None] * len(closed), temperature=0, max_tokens=options.tokens)
        return [s.token_ids for s in sampled]

    def peer() -> list[list[int]]:
        with torch.no_grad():
            out = model.generate(
                padded,
                attention_mask=mask,
                max_new_tokens=options.tokens,
                do_sample=False,
                eos_token_id=sorted(engine.end_ids),
                pad_token_id=tokenizer.pad_token_id,
            )
        rows = out[:, longest:].tolist()
        ends = [next((i + 1 for i, token in enumerate(row) if token in engine.end_ids), len(row)) for row in rows]
        return [row[:end] for row, end in zip(rows, ends, strict=True)]

    speeds: dict[str, list[float]] = {"mentorlib": [], "generate": []}
    for _ in range(options.rounds):
        tokens = {}
        for name, function in (("mentorlib", ours), ("generate", peer)):
            began = time.perf_counter()
            tokens[name] = function()
            speeds[name].append(sum(map(len, tokens[name])) / (time.perf_counter() - began))
            print(f"{name:>9}: {speeds[name][-1]:.1f} tokens/s", flush=True)
        same = [a == b for a, b in zip(*tokens.values(), strict=True)]
        assert sum(same) >= 0.9 * len(same), f"only {sum(same)} of {len(same)} rows agree"  # ties of rounding
    ratios = sorted(a / b for a, b in zip(*speeds.values(), strict=True))
    figures = {"ratio": round(statistics.median(ratios), 2), "low": round(ratios[0], 2), "high": round(ratios[-1], 2)}
    about = {"model": options.model, "prompt": longest, "agree": sum(same), "threads": torch.get_num_threads()}
    print(json.dumps({"name": "generate", **figures, **about}))


if __name__ == "__main__":
    main()
