"""Checks of a model before training or evaluation, on one page: ``python -m mentorlib check MODEL``."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.parquet import load_tasks
from ..data.suites import SUITES, generate
from ..rollout.call_format import find_call_format
from ..rollout.chat import encode_chat, end_ids, opened_thought, turn_ends
from ..rollout.check import context_length
from ..rollout.model import load_model
from ..rollout.names import check_policy
from ..task import Pair
from .checks import check_settings
from .memory import training_memory

TASKS = 20  # of a suite, for the lengths of its prompts
FORWARD = 512  # tokens of the pass that is timed


def model_page(
    name: str,
    *,
    template: str = "",
    template_arguments: dict[str, Any] | None = None,
    data: str = "",
    groups: int = 8,
    group_size: int = 8,
    micro_batch: int = 0,
    lora_rank: int = 0,
    gradient_checkpointing: bool = False,
    bf16: bool = False,
) -> Iterator[str]:
    """The page's lines, each as soon as it is known.

    Loading has checked that the template shows tools, that calls written by it are read back and earlier turns stay as
    they were, and that packed and cached logits are the model's own; what fails ends the page.

    Args:
        name, template, template_arguments: see load_model.
        data: a run of notebook 01 whose tasks to count; "" draws tasks of every suite.
        groups, group_size, micro_batch, lora_rank, gradient_checkpointing, bf16: see train_grpo; for memory and time.

    Raises:
        InputError: before it is loaded, a wrong size, or no such template or data; then what the model cannot show,
            with the remedy.
    """
    check_settings(
        groups=groups, group_size=group_size, micro_batch=micro_batch, lora_rank=lora_rank, student=name
    )  # a model takes long to load
    check_policy(name, "", template)
    tasks = _tasks(data)
    model, tokenizer = load_model(name, template=template, template_arguments=template_arguments)
    size = sum(weight.numel() for weight in model.parameters())
    yield f"model        {type(model).__name__}, {size / 1e6:,.1f} million parameters, on {model.device.type}"
    format = find_call_format(tokenizer)
    thinking = f", a turn begins with {opened_thought(tokenizer).strip()}" if opened_thought(tokenizer) else ""
    yield f"calls        {format.name} format, {format.marker!r}{thinking}: rendered and read back"
    names = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in sorted(turn_ends(tokenizer)))
    others = sorted(end_ids(model, tokenizer) - turn_ends(tokenizer))
    also = f"; also {', '.join(f'{tokenizer.convert_ids_to_tokens(i)} ({i})' for i in others)}" if others else ""
    yield f"turn ends    {names}{also}"
    yield "logits       packed and cached are the model's own"
    context = context_length(model)
    yield f"context      {context:,} tokens"
    lengths = _lengths(tokenizer, tasks)
    for suite, (prompts, references) in lengths.items():
        longest = max(map(sum, zip(prompts, references, strict=True)))
        note = "  longer than the context" if longest > context else ""
        yield (
            f"tokens       {suite:<16} prompt {statistics.mean(prompts):,.0f} (at most {max(prompts):,}), "
            f"reference {statistics.mean(references):,.0f} (at most {max(references):,}){note}"
        )
    prompt, answer = (max(statistics.mean(kind) for kind in kinds) for kinds in zip(*lengths.values(), strict=True))
    if not answer:
        yield "             no references here: memory and time below are of the prompts alone"
    rows = groups * group_size
    memory = training_memory(
        model.config,
        micro_batch=micro_batch or rows,
        prompt_tokens=round(prompt),
        completion_tokens=round(answer),
        lora_rank=lora_rank,
        gradient_checkpointing=gradient_checkpointing,
    )
    yield (
        f"memory       {memory['all']:.1f} GiB for GRPO on a GPU with micro_batch={micro_batch or rows} on the longest "
        f"suite: weights {memory['weights']:.1f}, optimizer {memory['optimizer']:.1f}, saved for the backward pass "
        f"{memory['saved']:.1f} (gradient_checkpointing and micro_batch lower this)"
    )
    speed = _speed(model, bf16 or model.device.type == "cuda")
    tokens = groups * prompt + rows * answer
    yield (
        f"time         {speed:,.0f} tokens/s forward here: a GRPO step of {groups} x {group_size} takes about "
        f"{_seconds(4 * tokens / speed)} besides its sampling, an SFT step of {rows} about "
        f"{_seconds(3 * (prompt + rows * answer) / speed)}"
    )


def _tasks(data: str) -> dict[str, list[Pair]]:
    """Some tasks of each suite."""
    if not data:
        return {suite: generate(suite, TASKS, split="eval") for suite in SUITES}
    tasks: dict[str, list[Pair]] = {}
    for pair in load_tasks(data):
        some = tasks.setdefault(pair[0].suite, [])
        if len(some) < TASKS:
            some.append(pair)
    return tasks


def _lengths(
    tokenizer: PreTrainedTokenizerBase, tasks: dict[str, list[Pair]]
) -> dict[str, tuple[list[int], list[int]]]:
    """Of each suite, the tokens of its prompts, and of what follows them in the references."""
    lengths: dict[str, tuple[list[int], list[int]]] = {}
    for suite, pairs in tasks.items():
        prompts, references = lengths.setdefault(suite, ([], []))
        for task, reference in pairs:
            ids, mask = encode_chat(tokenizer, task.prompt(), reference.messages, list(task.toolbox.schemas))
            start = mask.index(1) if 1 in mask else len(ids)
            prompts.append(start)
            references.append(len(ids) - start)
    return lengths


def _speed(model: PreTrainedModel, bf16: bool) -> float:
    """Tokens a second of a forward pass over one sequence, in bfloat16 if training computes so."""
    ids = torch.arange(FORWARD, device=model.device)[None] % model.config.get_text_config(decoder=True).vocab_size
    seconds = []
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        for _ in range(2):  # the first pass warms up
            began = time.perf_counter()
            float(model(input_ids=ids, use_cache=False).logits[0, -1, 0])  # waits for a GPU
            seconds.append(time.perf_counter() - began)
    return FORWARD / min(seconds)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
