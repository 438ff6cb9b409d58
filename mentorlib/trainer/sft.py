"""Supervised fine-tuning on references (TRL's SFTTrainer) and distillation of a teacher's logits (GKDTrainer)."""

import warnings
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..core import InputError
from ..rollout.chat import encode_chat
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..task import SYSTEM, Pair
from .setup import StepLogger, batch_sizes, lora_config, trained_model, trl_settings

with warnings.catch_warnings():  # TRL warns that this module may change; the pinned version does not
    warnings.simplefilter("ignore")
    from trl.experimental.gkd import GKDConfig, GKDTrainer


class _LengthGrouped(Trainer):
    """Batches of references of similar length, the same batches however many processes share a step."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            lengths=[len(ids) for ids in self.train_dataset["input_ids"]],  # type: ignore[index, call-overload]
            generator=torch.Generator().manual_seed(self.args.seed),
        )


class _Sft(_LengthGrouped, SFTTrainer):
    pass


class _Gkd(_LengthGrouped, GKDTrainer):
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
    max_length: int = 1024,
    micro_batch: int = 0,
    teacher: PreTrainedModel | None = None,
    report_to: str = "",
    system: str = SYSTEM,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> PreTrainedModel:
    """Supervised fine-tuning on the teacher's references, loss on the assistant's tokens only (the paper's SFT).

    With a teacher model the student learns its next-token distribution at those tokens instead of the tokens alone
    (GKD, arXiv 2306.13649, off-policy: lambda 0; the loss is the forward KL divergence).

    Args:
        run: where metrics go.
        model, tokenizer: the student; trained in place.
        pairs: tasks with references. Those of more than max_length tokens are left out and counted in the results.
        steps, batch_size, learning_rate: of the optimizer (AdamW, linear decay).
        lora_rank: 0 trains all weights.
        micro_batch: references a backward pass (of each process); 0 takes all of a step at once.
        teacher: a model with the student's tokenizer.
        report_to: see train_grpo.
        system: the system message.
        seed: of data order and dropout.
        progress: called with (step, steps, metrics) after each step; training stops there if it returns True.

    Raises:
        InputError: no reference is short enough, a reference without turns, or sizes that do not divide.
    """
    sizes = batch_sizes(batch_size, micro_batch)
    if not all(reference.messages for _, reference in pairs):
        raise InputError(f"suite {pairs[0][0].suite!r} has no teacher turns to imitate: train with method=grpo")
    encoded = [encode_chat(tokenizer, t.prompt(system), r.messages, list(t.toolbox.schemas)) for t, r in pairs]
    encoded = [(ids, mask) for ids, mask in encoded if len(ids) <= max_length]
    if not encoded:
        raise InputError(f"none of the {len(pairs)} references fits into max_length={max_length} tokens")
    data = Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in encoded],
            "labels": [[i if m else -100 for i, m in zip(ids, mask, strict=True)] for ids, mask in encoded],
        }
    )
    settings: dict[str, Any] = {
        **sizes,
        "max_steps": steps,
        "learning_rate": learning_rate,
        "max_length": None,
        "dataloader_drop_last": len(encoded) >= batch_size,  # every step has a full batch
        "seed": seed,
        **trl_settings(run, report_to),
    }
    parts: dict[str, Any] = {
        "model": model,
        "train_dataset": data,
        "processing_class": tokenizer,
        "peft_config": lora_config(lora_rank),
    }
    if teacher is None:
        trainer: _LengthGrouped = _Sft(args=SFTConfig(**settings), **parts)
    else:
        trainer = _Gkd(
            args=GKDConfig(**settings, lmbda=0.0, beta=0.0, temperature=1.0),
            teacher_model=teacher,
            data_collator=DataCollatorForLanguageModeling(tokenizer.pad_token_id),
            **parts,
        )
    columns = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "grad_norm": "grad_norm", "learning_rate": "lr"}
    trainer.remove_callback(PrinterCallback)  # StepLogger prints the same in one line
    trainer.add_callback(StepLogger(run, progress, columns))
    if trainer.is_world_process_zero():
        run.record("references_too_long", len(pairs) - len(encoded), n=len(pairs))
        run.write_rows("metrics.jsonl", [])
    trainer.train()
    return trained_model(trainer, run)
