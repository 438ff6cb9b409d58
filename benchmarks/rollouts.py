"""Claim: run_rollouts samples more tokens a second than TRL's own tool loop.

Peer: GRPOTrainer with ``tools=``, which prefills each conversation again from its start after every tool result. Both
get the nano student, the same prompts (the calculator suite, all twelve tools offered to each task), the same sampling,
limits and tools; the peer calls its tools in this process, run_rollouts in the sandbox.

Same work: greedy trajectories must agree token for token wherever no call failed (error texts differ).
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from mentorlib import Sandbox, Task, load_model
from mentorlib.core import display_number
from mentorlib.data.suites import generate
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.data.tools import calculator
from mentorlib.rollout.engine import TorchEngine
from mentorlib.rollout.loop import run_rollouts
from mentorlib.task import Pair

GROUPS, GROUP_SIZE, MAX_TOKENS, MAX_TURNS = 8, 8, 256, 6


def problems(n: int, split: str = "eval") -> list[Pair]:
    """Calculator tasks that all offer the twelve tools, since the peer has one set of tools for all."""
    return [
        (replace(task, toolbox=CALCULATOR), reference) for task, reference in generate("calculator", n, split=split)
    ]


def with_json_result(function: Any) -> Any:
    """The tool with its result as the sandbox gives it: JSON, without floats' last digits."""

    @functools.wraps(function)
    def call(**arguments: Any) -> str:
        return json.dumps(display_number(function(**arguments)))

    return call


def stock_trainer(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], reward: Any, folder: str, **config: Any
) -> GRPOTrainer:
    """TRL's trainer, set up for tools as its documentation does."""
    arguments = GRPOConfig(
        output_dir=folder,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        activation_checkpointing=False,
        per_device_train_batch_size=GROUPS * GROUP_SIZE,
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_TOKENS,
        max_tool_calling_iterations=MAX_TURNS - 1,
        report_to=[],
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        **config,
    )
    return GRPOTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        reward_funcs=reward,
        tools=[with_json_result(f) for f in calculator.TOOLS],
    )


def stock_rollout(trainer: GRPOTrainer, tasks: list[Task]) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Prompt ids, completion ids and masks by the stock tool loop."""
    tools = {f.__name__: f for f in trainer.tools}
    trainer._sync_tool_dicts, trainer._async_tool_dicts = [tools] * len(tasks), [{}] * len(tasks)
    prompt_ids, completion_ids, mask, *_ = trainer._generate([task.prompt() for task in tasks])
    return prompt_ids, completion_ids, mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="batches of 64 that each samples")
    rounds = parser.parse_args().rounds
    model, tokenizer = load_model("nano")
    tasks = [task for task, _ in problems(GROUPS * (rounds + 1))]
    with Sandbox() as sandbox, tempfile.TemporaryDirectory() as folder:
        rows = [{"prompt": task.prompt()} for task in tasks]
        sampling = stock_trainer(model, tokenizer, rows, len, folder)
        greedy = stock_trainer(model, tokenizer, rows, len, folder, top_k=1)
        local_rollouts = functools.partial(
            run_rollouts,
            TorchEngine(model, tokenizer),
            sandbox=sandbox,
            max_turns=MAX_TURNS,
            max_tokens=MAX_TOKENS,
            seed=0,
        )
        prompts, completions, _ = stock_rollout(greedy, tasks)
        same = compared = 0
        for t, prompt, completion in zip(
            local_rollouts(tasks=tasks, temperature=0.0), prompts, completions, strict=True
        ):
            assert t.prompt_ids == prompt, "not the same prompt"
            if "error:" not in t.response and t.stop == "answered":
                compared += 1
                same += t.token_ids == completion
        print(f"greedy: {same} of {compared} trajectories without a failed call agree token for token")
        assert same == compared, "not the same work"
        speeds: dict[str, list[float]] = {"mentorlib": [], "stock": []}
        print(f"{'round':>5} {'':>6} {'tokens':>7} {'longest':>8} {'calls':>6} {'seconds':>8} {'tokens/s':>9}")
        for i in range(rounds + 1):  # the first warms up
            batch = [task for task in tasks[GROUPS * i : GROUPS * (i + 1)] for _ in range(GROUP_SIZE)]
            for name in speeds:
                began = time.perf_counter()
                if name == "stock":
                    _, ids, masks = stock_rollout(sampling, batch)
                else:
                    trajectories = local_rollouts(tasks=batch)
                    ids, masks = [t.token_ids for t in trajectories], [t.mask for t in trajectories]
                seconds = time.perf_counter() - began
                if i:
                    sampled, calls = (
                        sum(map(sum, masks)),
                        sum(str(tokenizer.decode(x)).count("<tool_call>") for x in ids),
                    )
                    speeds[name].append(sampled / seconds)
                    print(
                        f"{i:>5} {name:>6} {sampled:>7} {max(map(len, ids)):>8} {calls:>6} {seconds:>8.2f}"
                        f" {sampled / seconds:>9.0f}"
                    )
        ratios = sorted(a / b for a, b in zip(speeds["mentorlib"], speeds["stock"], strict=True))
    figures = {
        "low": round(ratios[0], 2),
        "high": round(ratios[-1], 2),
        **{f"{name}_tokens_per_s": round(statistics.median(x)) for name, x in speeds.items()},
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({"name": "rollouts", "ratio": round(statistics.median(ratios), 2), **figures}))


if __name__ == "__main__":
    main()
