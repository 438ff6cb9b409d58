"""Claim: padding rows only to their like makes the passes of a GRPO step faster than TRL's stock method.

Peer: GRPOTrainer's own log-probability pass (the batch padded to its longest row). Both get the batches of the same
training: 64 rollouts a step of the nano student on the calculator suite; each does a forward and a backward pass on
them, alternately, and their log-probabilities must agree to 1e-4.
"""

import json
import tempfile
import time
from typing import Any

import torch
from trl import GRPOTrainer

from mentorlib import Run, Sandbox, load_model
from mentorlib.data.suites import generate
from mentorlib.trainer import grpo

STEPS = 5
packed = grpo.MentorTrainer._get_per_token_logps_and_entropies
stock = GRPOTrainer._get_per_token_logps_and_entropies
seconds: dict[str, list[float]] = {"packed": [], "stock": []}
tokens: list[int] = []


def both(self: Any, model: Any, ids: torch.Tensor, mask: torch.Tensor, keep: int, **kwargs: Any) -> Any:
    """Time a forward and a backward pass of each, then continue with packed."""
    seen = mask[:, -keep:].bool()
    if kwargs.get("compute_entropy"):
        results = {}
        for name, method in (("packed", packed), ("stock", stock)):
            began = time.perf_counter()
            logps = method(self, model, ids, mask, keep, **kwargs)[0]
            torch.autograd.grad(logps[seen].mean(), list(model.parameters()))
            seconds[name].append(time.perf_counter() - began)
            results[name] = logps.detach()[seen]
        assert torch.allclose(results["packed"], results["stock"], atol=1e-4), "not the same work"
        tokens.append(int(mask.sum()))
    return packed(self, model, ids, mask, keep, **kwargs)


def main() -> None:
    grpo.MentorTrainer._get_per_token_logps_and_entropies = both  # type: ignore[method-assign]
    model, tokenizer = load_model("nano")
    with Sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        pairs = generate("calculator", 200)
        sizes = {"steps": STEPS, "groups": 8, "group_size": 8, "learning_rate": 1e-4, "max_turns": 6, "max_tokens": 256}
        grpo.train_grpo(Run("bench", root=folder), model, tokenizer, pairs, sandbox, **sizes)
    ratios = sorted(s / o for o, s in zip(seconds["packed"], seconds["stock"], strict=True))
    print(f"{'step':>4} {'tokens':>7} {'packed s':>7} {'stock s':>8}")
    for i, (o, s) in enumerate(zip(seconds["packed"], seconds["stock"], strict=True), start=1):
        print(f"{i:>4} {tokens[i - 1]:>7} {o:>7.2f} {s:>8.2f}")
    figures = {"low": round(ratios[0], 2), "high": round(ratios[-1], 2), "threads": torch.get_num_threads()}
    print(json.dumps({"name": "training_step", "ratio": round(ratios[len(ratios) // 2], 2), **figures}))


if __name__ == "__main__":
    main()
