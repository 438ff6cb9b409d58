"""Supervised fine-tuning on references (TRL's SFTTrainer) and distillation of a teacher's logits (GKDTrainer)."""

import os
import warnings
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..core import InputError
from ..rollout.attention import packed_attention
from ..rollout.check import check_model, context_length
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..task import SYSTEM, Pair
from .checks import batch_sizes, check_settings, check_tasks, world_size
from .packed_sft import packed_batch
from .setup import (
    StepLogger,
    check_checkpointing,
    check_thoughts,
    encode_references,
    lora_config,
    task_order,
    trained_model,
    trl_settings,
)

with warnings.catch_warnings():  # TRL warns that this module may change; the pinned version does not
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDConfig, GKDTrainer


TOO_LONG = "references_too_long.jsonl"  # the references that training left out


class _Gkd(GKDTrainer):
    """GKDTrainer with its loss corrected for gradients that are averaged over processes."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        count = None if num_items_in_batch is None else num_items_in_batch / self.args.world_size
        return super().compute_loss(model, inputs, return_outputs, count)


def train_sft(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    *,
    steps: int = 100,
    batch_size: int = 32,
    learning_rate: float = 5e-5,
    lora_rank: int = 0,
    max_length: int = 4096,
    micro_batch: int = 0,
    gradient_checkpointing: bool = False,
    bf16: bool = False,
    teacher: PreTrainedModel | None = None,
    report_to: str = "",
    system: str = SYSTEM,
    seed: int = 0,
    progress: ProgressCallback | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> PreTrainedModel:
    """Supervised fine-tuning on the teacher's references, loss on the assistant's tokens only (the paper's SFT).

    With a teacher model the student learns its next-token distribution at those tokens instead of the tokens alone
    (GKD, arXiv 2306.13649, off-policy: lambda 0; the loss is the forward KL divergence).

    Args:
        run: where metrics go.
        model, tokenizer: the student; trained in place.
        pairs: tasks with references. Every reference comes once, in random order, before any comes again.
        steps, batch_size: optimizer steps (AdamW), references a step.
        learning_rate: constant over the steps, as in train_grpo.
        lora_rank: 0 trains all weights.
        max_length: most tokens of a prompt and its reference together; longer ones (and those longer than the student's
            context) are left out, named in references_too_long.jsonl and counted in the results.
        micro_batch: references a backward pass (of each process); 0 takes all of a step at once.
        gradient_checkpointing, bf16: see train_grpo.
        teacher: a model with the student's tokenizer.
        report_to: see train_grpo.
        system: the system message.
        seed: of data order and dropout.
        progress: called with (step, steps, metrics) after each step; training stops there if it returns True. In long
            steps it is also called every few seconds, from a thread, with the metric ``inside`` alone.
        callbacks: see train_grpo.

    Raises:
        InputError: no reference is short enough, a reference without turns or one that the template cannot render,
            references without the thoughts that the template would add, a number out of its range, or sizes that do
            not divide.
    """
    check_settings(
        "sft",
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        max_length=max_length,
        micro_batch=micro_batch,
        report_to=report_to,
        seed=seed,
    )
    check_tasks(pairs, "sft")
    check_model(model)
    check_checkpointing(model, gradient_checkpointing)
    check_thoughts(tokenizer, pairs)
    encoded = encode_references(tokenizer, pairs, system)
    fitting = _fitting(run, pairs, [len(ids) for ids, _ in encoded], max_length, model)
    encoded = [encoded[i] for i in fitting]
    data = Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in encoded],
            "labels": [[i if m else -100 for i, m in zip(ids, mask, strict=True)] for ids, mask in encoded],
        }
    )
    # References that begin alike share a backward pass; which references a step has stays random.
    order = [sorted(step, key=lambda i: encoded[i][0]) for step in task_order(len(encoded), batch_size, steps, seed)]
    settings: dict[str, Any] = {
        **batch_sizes(batch_size, micro_batch),
        "max_length": None,
        "train_sampling_strategy": "sequential",
        **trl_settings(run, steps, learning_rate, seed, report_to, gradient_checkpointing, bf16),
    }
    parts: dict[str, Any] = {
        "model": model,
        "train_dataset": data.select([i for step in order for i in step]),
        "processing_class": tokenizer,
        "peft_config": lora_config(lora_rank),
    }
    if teacher is None:
        trainer: SFTTrainer = SFTTrainer(args=SFTConfig(**settings), data_collator=packed_batch, **parts)
    else:
        trainer = _Gkd(
            args=GKDConfig(**settings, lmbda=0.0, beta=0.0, temperature=1.0),
            teacher_model=teacher,
            data_collator=DataCollatorForLanguageModeling(tokenizer.pad_token_id),
            **parts,
        )
    columns = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "grad_norm": "grad_norm", "learning_rate": "lr"}
    trainer.remove_callback(PrinterCallback)  # StepLogger prints the same in one line
    logger = StepLogger(run, progress, columns)
    for callback in (*callbacks, logger):
        trainer.add_callback(callback)
    if trainer.is_world_process_zero():
        run.write_rows("metrics.jsonl", [])
    with packed_attention(trainer.model), logger.ticker:
        trainer.train()
    return trained_model(trainer, run)


def _fitting(run: Run, pairs: list[Pair], lengths: list[int], max_length: int, model: PreTrainedModel) -> list[int]:
    """Indices of the references that fit; the others are listed and counted in the run, and reported in one line."""
    context = context_length(model)
    most = min(max_length, context)
    limit = f"max_length={max_length}" if max_length <= context else f"the student's context of {context:,}"
    long = [(task.id, n) for (task, _), n in zip(pairs, lengths, strict=True) if n > most]
    if len(long) == len(pairs):
        fix = f"set max_length={max(lengths)}" if max(lengths) <= context else "take a student with a longer context"
        raise InputError(
            f"none of the {len(pairs)} references fits into {limit} tokens: with their prompts and tools they have "
            f"{min(lengths):,} to {max(lengths):,}; {fix}, or use shorter tasks or fewer tools"
        )
    if world_size() == 1 or os.environ.get("RANK") == "0":
        run.record("references_too_long", len(long), n=len(pairs))
        run.write_rows(TOO_LONG, [{"task_id": name, "tokens": n} for name, n in long])
        if long:
            named = ", ".join(f"{name} ({n:,} tokens)" for name, n in long[:3]) + (", …" if len(long) > 3 else "")
            print(f"left out, longer than {limit} tokens: {len(long)} of {len(pairs)} references: {named}", flush=True)
    return [i for i, n in enumerate(lengths) if n <= most]
