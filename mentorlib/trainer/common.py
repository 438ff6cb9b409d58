"""What all trainers share."""

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
from ..rewards.reward import CONTROLS, REWARDS
from ..runs.progress import ProgressCallback
from ..runs.run import Run

# TRL tells its makers of every trainer, which nobody here asked for. It does so in a thread, whose look-ups can
# crash the process while accelerate, making its plugins, empties the environment for a moment.
constants.HF_HUB_DISABLE_TELEMETRY = True


def _lora(rank: int) -> LoraConfig | None:
    """LoRA on all linear layers (alpha = 2 x rank); rank 0 is full weights."""
    if rank == 0:
        return None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def _trained(trainer: Trainer, run: Run) -> PreTrainedModel:
    """The plain model, adapters merged in. Several processes save it, which gathers shards, and the first reads it."""
    model: Any = trainer.model
    if trainer.args.world_size > 1:
        whole = run.path / "checkpoints" / "whole"
        trainer.save_model(str(whole))
        if not trainer.is_world_process_zero():
            return model
        adapted = isinstance(model, PeftModel)
        source = model.peft_config["default"].base_model_name_or_path if adapted else whole
        plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, str(whole)) if adapted else plain
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def save_model(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a model folder whole or not at all. A model behind a server (None) stays there."""
    if model is None or tokenizer is None:
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class _Progress(TrainerCallback):
    """Log each step into the run's metrics and tell the caller."""

    def __init__(self, run: Run, report: ProgressCallback | None, keep: dict[str, str]):
        self.run, self.report, self.keep, self.last = run, report, keep, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        stop = False
        if state.is_world_process_zero:
            now = time.monotonic()
            metrics = {ours: float(logs[theirs]) for theirs, ours in self.keep.items() if logs.get(theirs) is not None}
            metrics["seconds"], self.last = round(now - self.last, 3), now
            self.run.log(state.global_step, **metrics)
            stop = bool(self.report and self.report(state.global_step, state.max_steps, metrics) is True)
        if broadcast_object_list([stop])[0]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The model is saved next; from a checkpoint of the end, training would go on by one step more.
        control.should_save = control.should_save and state.global_step < state.max_steps


def check_method(method: str, reward: str = "exact", student: str = "", teacher: str = "", report_to: str = "") -> None:
    """Refuse an unknown method, reward or report_to, training behind a server, gkd without a teacher (InputError)."""
    if method not in ("none", "sft", "gkd", "grpo"):
        raise InputError(f"unknown method {method!r}: choose none, sft, gkd or grpo")
    if "://" in student and method != "none":
        raise InputError(
            f"student={student}: a model behind a server is evaluated (method=none), not trained: "
            f"for method={method} give 'nano', a model folder or a hub name"
        )
    if reward not in REWARDS | CONTROLS:
        raise InputError(f"unknown reward {reward!r}: choose one of {', '.join(REWARDS)}")
    if (method == "gkd") != bool(teacher):
        raise InputError(
            "method=gkd learns from a model's probabilities: give teacher=FOLDER"
            if method == "gkd"
            else f"teacher={teacher} is for method=gkd; method={method} has only references"
        )
    _check_report_to(report_to)


def _check_report_to(report_to: str) -> None:
    if report_to not in ("", "tensorboard", "trackio", "wandb"):
        raise InputError(f'report_to={report_to!r}: choose "tensorboard", "trackio", "wandb", or "" for none')
    if report_to and importlib.util.find_spec(report_to) is None:
        raise InputError(f"report_to={report_to!r} needs {report_to}: pip install {report_to}")


def _processes() -> int:
    """How many processes train together: torchrun's count, which accelerate launch starts."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _sizes(batch: int, micro_batch: int, group_size: int = 1) -> dict[str, Any]:
    """A step's batch as backward passes of micro_batch (0: one pass) in each process; groups stay whole."""
    processes = _processes()
    if batch % (processes * group_size):
        raise InputError(
            f"{processes} processes cannot share a step's {batch // group_size} groups or references evenly"
        )
    own = batch // processes
    micro = micro_batch or own
    if own < 1 or micro < 1 or own % micro:
        raise InputError(f"micro_batch={micro_batch} must divide the batch of {own} (groups x group_size, a process)")
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": own // micro}


def _common(run: Run, report_to: str) -> dict[str, Any]:
    """Settings that all trainers share; on a GPU float32 weights are computed with in bfloat16."""
    _check_report_to(report_to)
    if report_to == "tensorboard":  # transformers asks nowhere else
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
