"""Claim: a full GRPO step (rollouts, rewards, KL, gradient, optimizer) is faster than TRL's own, and so is its training
part alone.

Peer: GRPOTrainer with ``tools=``. Both train the nano student on the same tasks in the same order, with the same reward
(exact), loss, KL, sizes and limits, in turns of a few steps from the same weights. What is sampled differs by chance;
``training_step.py`` compares the training part on the same batch.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from typing import Any

import torch
from rollouts import GROUP_SIZE, GROUPS, MAX_TOKENS, MAX_TURNS, problems, stock_trainer
from transformers import TrainerCallback

from mentorlib import REWARDS, Run, Sandbox, Trajectory, load_model
from mentorlib.task import Pair
from mentorlib.trainer import grpo, rollout_function

STEPS = 4  # a turn; the first warms up
LEARNING_RATE = 1e-4
generating: list[float] = []


def timed(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = function(*args, **kwargs)
        generating.append(time.perf_counter() - began)
        return result

    return call


class Clock(TrainerCallback):
    def __init__(self) -> None:
        self.steps: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self.began)


def mentorlib_steps(pairs: list[Pair], sandbox: Sandbox, folder: str) -> tuple[list[float], int]:
    model, tokenizer = load_model("nano")
    began = [time.perf_counter()]
    run = Run("bench", root=folder)
    settings = {"steps": STEPS, "groups": GROUPS, "group_size": GROUP_SIZE, "learning_rate": LEARNING_RATE}
    grpo.train_grpo(
        run,
        model,
        tokenizer,
        pairs,
        sandbox,
        max_turns=MAX_TURNS,
        max_tokens=MAX_TOKENS,
        **settings,
        progress=lambda _, __, metrics: None if "inside" in metrics else began.append(time.perf_counter()),
    )
    tokens = sum(row["n_tokens"] for row in run.read_rows("rollouts.jsonl"))
    return [b - a for a, b in itertools.pairwise(began)][1:], tokens


def stock(pairs: list[Pair], folder: str) -> tuple[list[float], int]:
    model, tokenizer = load_model("nano")
    known = {task.id: (task, reference) for task, reference in pairs}

    def exact(prompts: Any, completions: Any, task_id: list[str], **_: Any) -> list[float]:
        totals = []
        for messages, key in zip(completions, task_id, strict=True):
            task, reference = known[key]
            trajectory = Trajectory(key, messages, "", "answered")
            totals.append(
                REWARDS["exact"](
                    trajectory, reference, answer=task.answer, valid_tools=task.toolbox.names, metric=task.metric
                ).total
            )
        return totals

    rows = [{"prompt": task.prompt(), "task_id": task.id} for task, _ in pairs]
    config = {"max_steps": STEPS, "learning_rate": LEARNING_RATE, "beta": 0.001, "loss_type": "grpo"}
    peer = stock_trainer(model, tokenizer, rows, exact, folder, **config)
    clock = Clock()
    peer.add_callback(clock)
    peer._generate = timed(peer._generate)
    peer.train()
    tokens = sum(peer._metrics["train"].get("completions/mean_length", [])) * GROUPS * GROUP_SIZE
    return clock.steps[1:], int(tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help=f"turns of {STEPS} steps that each makes")
    rounds = parser.parse_args().rounds
    pairs = problems(200, split="train")
    rollout_function.run_rollouts = timed(rollout_function.run_rollouts)  # type: ignore[attr-defined]
    whole: dict[str, list[float]] = {"mentorlib": [], "stock": []}
    training: dict[str, list[float]] = {"mentorlib": [], "stock": []}
    print(f"{'round':>5} {'':>6} {'step s':>7} {'rollout s':>10} {'the rest s':>11}")
    with Sandbox() as sandbox:
        for i in range(1, rounds + 1):
            for name in whole:
                with tempfile.TemporaryDirectory() as folder:
                    generating.clear()
                    steps, _ = mentorlib_steps(pairs, sandbox, folder) if name == "mentorlib" else stock(pairs, folder)
                step, sampling = statistics.median(steps), statistics.median(generating[1:])
                rest = statistics.median(a - b for a, b in zip(steps, generating[1:], strict=True))
                whole[name].append(step)
                training[name].append(rest)
                print(f"{i:>5} {name:>6} {step:>7.2f} {sampling:>10.2f} {rest:>11.2f}", flush=True)
    ratios = sorted(b / a for a, b in zip(whole["mentorlib"], whole["stock"], strict=True))
    parts = sorted(b / a for a, b in zip(training["mentorlib"], training["stock"], strict=True))
    figures = {
        "low": round(ratios[0], 2),
        "high": round(ratios[-1], 2),
        "training_part": round(statistics.median(parts), 2),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({"name": "grpo_step", "ratio": round(statistics.median(ratios), 2), **figures}))


if __name__ == "__main__":
    main()
