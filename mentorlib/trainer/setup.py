"""What the trainers share: checks made before anything is loaded, TRL settings, progress, and the trained model."""

import importlib.util
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from huggingface_hub import constants
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)

from ..core import InputError
from ..rewards.reward import get_reward
from ..runs.progress import ProgressCallback
from ..runs.run import Run

# TRL sends telemetry from a thread for every trainer. Besides being unasked for, its look-ups can crash the process
# while accelerate, loading its plugins, empties the environment for a moment.
constants.HF_HUB_DISABLE_TELEMETRY = True


def check_training(
    method: str = "grpo", reward: str = "exact", student: str = "", teacher: str = "", report_to: str = "", **_: Any
) -> None:
    """Check training parameters before a model is loaded; parameters of other kinds are ignored.

    Raises:
        InputError: an unknown method, reward or report_to, a model behind a server to train, or gkd without a teacher.
    """
    if method not in ("none", "sft", "gkd", "grpo"):
        raise InputError(f"unknown method {method!r}: choose none, sft, gkd or grpo")
    if "://" in student and method != "none":
        raise InputError(
            f"student={student}: a model behind a server can be evaluated (method=none) but not trained: "
            f"for method={method} give 'nano', a model folder or a hub name"
        )
    get_reward(reward)
    if method == "gkd" and not teacher:
        raise InputError("method=gkd learns from a model's probabilities: give teacher=FOLDER")
    if method != "gkd" and teacher:
        raise InputError(f"teacher={teacher} is for method=gkd; method={method} uses the stored references only")
    if report_to not in ("", "tensorboard", "trackio", "wandb"):
        raise InputError(f'report_to={report_to!r}: choose "tensorboard", "trackio", "wandb", or "" for none')
    if report_to and importlib.util.find_spec(report_to) is None:
        raise InputError(f"report_to={report_to!r} needs {report_to}: pip install {report_to}")


def world_size() -> int:
    """How many processes train together (set by torchrun and accelerate launch)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def batch_sizes(batch: int, micro_batch: int, group_size: int = 1) -> dict[str, Any]:
    """Split a step's batch over processes and backward passes; groups stay whole within a process.

    Args:
        batch: rollouts or references a step, over all processes.
        micro_batch: how many of them a backward pass; 0 takes a process's share at once.
        group_size: rollouts a group.

    Raises:
        InputError: sizes that do not divide.
    """
    processes = world_size()
    if batch % (processes * group_size):
        raise InputError(
            f"{processes} processes cannot share a step's {batch // group_size} groups or references evenly"
        )
    share = batch // processes
    micro = micro_batch or share
    if share < 1 or micro < 1 or share % micro:
        raise InputError(f"micro_batch={micro_batch} must divide the batch of {share} (groups x group_size, a process)")
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": share // micro}


def trl_settings(run: Run, report_to: str) -> dict[str, Any]:
    """Settings of every TRL trainer; on a GPU, float32 weights are computed with in bfloat16."""
    check_training(report_to=report_to)
    if report_to == "tensorboard":  # the only place where transformers reads the folder
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
    return {
        "output_dir": str(run.path / "checkpoints"),
        "run_name": run.name,
        "project": "mentorlib",
        "report_to": [report_to] if report_to else [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "activation_checkpointing": False,
        "ddp_find_unused_parameters": False,
    }


def lora_config(rank: int) -> LoraConfig | None:
    """LoRA on all linear layers (alpha = 2 x rank); None, full weights, for rank 0."""
    if rank == 0:
        return None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


class StepLogger(TrainerCallback):
    """Log each step into the run's metrics and call ``progress``, which may stop the training.

    ``columns`` maps TRL's metric names to those of metrics.jsonl.
    """

    def __init__(self, run: Run, progress: ProgressCallback | None, columns: dict[str, str]):
        self.run, self.progress, self.columns, self.last = run, progress, columns, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        stop = False
        if state.is_world_process_zero:
            now = time.monotonic()
            metrics = {name: float(logs[trl]) for trl, name in self.columns.items() if logs.get(trl) is not None}
            metrics["seconds"], self.last = round(now - self.last, 3), now
            self.run.log(state.global_step, **metrics)
            stop = bool(self.progress and self.progress(state.global_step, state.max_steps, metrics) is True)
        if broadcast_object_list([stop])[0]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The model is saved next; resumed from a checkpoint of the last step, training would take one step more.
        control.should_save = control.should_save and state.global_step < state.max_steps


def trained_model(trainer: Trainer, run: Run) -> PreTrainedModel:
    """The trainer's model, adapters merged. All processes save, which gathers shards; the first loads the result."""
    model: Any = trainer.model
    if trainer.args.world_size > 1:
        whole = run.path / "checkpoints" / "whole"
        trainer.save_model(str(whole))
        if not trainer.is_world_process_zero():
            return model
        has_adapter = isinstance(model, PeftModel)
        source = model.peft_config["default"].base_model_name_or_path if has_adapter else whole
        plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, str(whole)) if has_adapter else plain
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def save_model(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a model folder, whole or not at all. Does nothing for a model behind a server (None)."""
    if model is None or tokenizer is None:
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
