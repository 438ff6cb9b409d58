"""What the trainers share: the order of tasks, TRL settings, progress, and the trained model."""

import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from huggingface_hub import constants
from jinja2 import TemplateError
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
)

from ..core import InputError, one_line
from ..rollout.chat import adds_empty_thought, encode_chat, end_ids
from ..runs.progress import ProgressCallback, Ticker, format_duration
from ..runs.run import Run
from ..task import Pair

# TRL sends telemetry from a thread for every trainer. Besides being unasked for, its look-ups can crash the process
# while accelerate, loading its plugins, empties the environment for a moment.
constants.HF_HUB_DISABLE_TELEMETRY = True
# peft and TRL read it; a warning in a notebook that its reader can do nothing about.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)


def task_order(tasks: int, a_step: int, steps: int, seed: int) -> list[list[int]]:
    """Which of ``tasks`` each step of a whole training takes: ``steps`` lists of ``a_step`` indices.

    Each task comes once, in random order, before any comes again. No task repeats within a step unless there are fewer
    tasks than slots. The order follows from the arguments alone, so that a resumed training goes on with it and every
    method has the same.
    """
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < steps * a_step:
        again = torch.randperm(tasks, generator=generator).tolist()
        open_step = set(order[len(order) // a_step * a_step :])  # what the step at the border has already
        order += [i for i in again if i not in open_step] + [i for i in again if i in open_step]
    return [order[step * a_step :][:a_step] for step in range(steps)]


def check_checkpointing(model: PreTrainedModel, gradient_checkpointing: bool) -> None:
    """Raise InputError if gradient checkpointing is on and the model does not support it."""
    if gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(f"gradient_checkpointing: {type(model).__name__} does not support it; leave it out")


def check_thoughts(tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> None:
    """Raise InputError if references mostly without thoughts would teach a thinking student to write empty ones."""
    turns = [m for _, reference in pairs for m in reference.messages if m["role"] == "assistant"]
    without = sum("reasoning_content" not in turn for turn in turns)
    if 2 * without > len(turns) and adds_empty_thought(tokenizer):
        raise InputError(
            f"{without:,} of the references' {len(turns):,} turns hold no thought, but the student's chat template "
            "lets it think: they would teach empty thoughts, unlike its own samples: give "
            'template_arguments={"enable_thinking": false} to all methods, or have a teacher that thinks do the tasks '
            "(docs/model.md)"
        )


def encode_references(
    tokenizer: PreTrainedTokenizerBase, pairs: list[Pair], system: str
) -> list[tuple[list[int], list[int]]]:
    """Token ids and mask of each task's prompt and reference (see encode_chat).

    Raises:
        InputError: the student's chat template cannot render one.
    """
    encoded = []
    for task, reference in pairs:
        try:
            encoded.append(encode_chat(tokenizer, task.prompt(system), reference.messages, list(task.toolbox.schemas)))
        except (TemplateError, TypeError, ValueError) as error:  # such as Llama's, of two calls in one turn
            raise InputError(
                f"the reference of task {task.id} cannot be written by the student's chat template: {one_line(error)}; "
                "leave the task out, or give template=FILE (docs/model.md)"
            ) from None
    return encoded


def trl_settings(
    run: Run, steps: int, learning_rate: float, seed: int, report_to: str, gradient_checkpointing: bool, bf16: bool
) -> dict[str, Any]:
    """Settings of every TRL trainer: float32 weights; computation in bfloat16 on a GPU or with ``bf16``.

    One schedule for all methods: the learning rate is constant from the first step to the last, so that its mean over
    the steps is ``learning_rate`` and methods of equal steps and rates are equal in both (verl's default, too).
    """
    if report_to == "tensorboard":  # the only place where transformers reads the folder
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
    return {
        "max_steps": steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "seed": seed,
        "output_dir": str(run.path / "checkpoints"),
        "run_name": run.name,
        "project": "mentorlib",
        "report_to": [report_to] if report_to else [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": bf16 or torch.cuda.is_available(),
        "activation_checkpointing": gradient_checkpointing,
        "ddp_find_unused_parameters": False,
    }


def lora_config(rank: int) -> LoraConfig | None:
    """LoRA on all linear layers (alpha = 2 x rank); None, full weights, for rank 0."""
    if rank == 0:
        return None
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


class StepLogger(TrainerCallback):
    """Log each step into the run's metrics and call ``progress``, which may stop the training.

    Args:
        run, progress: see train_grpo. ``ticker``, a context, calls ``progress`` from inside long steps.
        columns: TRL's metric names, and those of metrics.jsonl.
        inside: where a step is, from its seconds so far.
    """

    def __init__(
        self,
        run: Run,
        progress: ProgressCallback | None,
        columns: dict[str, str],
        inside: Callable[[float], str] = lambda seconds: f"{format_duration(seconds)} so far",
    ):
        self.run, self.progress, self.columns, self.last = run, progress, columns, time.monotonic()
        self.inside, self.at = inside, (0, 0)  # the last step and their number
        self.ticker = Ticker(self._report_inside)

    def _report_inside(self) -> None:
        if self.progress and self.at[0] < self.at[1]:
            self.progress(*self.at, {"inside": self.inside(time.monotonic() - self.last)})

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.last = time.monotonic()
        self.at = (state.global_step, state.max_steps) if state.is_world_process_zero else (0, 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        stop = False
        if state.is_world_process_zero:
            now = time.monotonic()
            metrics = {name: float(logs[trl]) for trl, name in self.columns.items() if logs.get(trl) is not None}
            metrics["seconds"], self.last = round(now - self.last, 3), now
            self.run.log(state.global_step, **metrics)
            with self.ticker.lock:
                self.at = (state.global_step, state.max_steps)
                stop = bool(self.progress and self.progress(*self.at, metrics) is True)
                self.ticker.restart()
        if broadcast_object_list([stop])[0]:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The model is saved next; resumed from a checkpoint of the last step, training would take one step more.
        control.should_save = control.should_save and state.global_step < state.max_steps


def prepare_resume(trainer: Trainer, run: Run) -> int:
    """The step of the last whole checkpoint (0: none); incomplete checkpoints and rows of later steps are removed."""
    first_process = trainer.is_world_process_zero()
    checkpoints = run.path / "checkpoints"
    if first_process:
        for folder in checkpoints.glob("checkpoint-*"):
            if not (folder / "trainer_state.json").exists():  # it is written last: the run was killed while saving
                shutil.rmtree(folder)
    trainer.accelerator.wait_for_everyone()
    last = max((int(p.name.split("-")[-1]) for p in checkpoints.glob("checkpoint-*")), default=0)
    for name in ("rollouts.jsonl", "metrics.jsonl"):
        if first_process and (run.path / name).exists():
            run.write_rows(name, [r for r in run.read_rows(name) if r["step"] <= last])
    return last


def trained_model(trainer: Trainer, run: Run) -> PreTrainedModel:
    """The trainer's model, adapters merged. Shards (FSDP, DeepSpeed) are saved whole, which the first process loads.

    Raises:
        InputError: no step was made, so that the model is what it was.
    """
    if not trainer.state.global_step:
        raise InputError(f"{run.path}: training made no optimizer step; nothing is saved as trained")
    model: Any = trainer.model
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        whole = run.path / "checkpoints" / "whole"
        trainer.save_model(str(whole))
        if not trainer.is_world_process_zero():
            return model
        has_adapter = isinstance(model, PeftModel)
        source = model.peft_config["default"].base_model_name_or_path if has_adapter else whole
        plain = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        model = PeftModel.from_pretrained(plain, str(whole)) if has_adapter else plain
    model = model.merge_and_unload() if isinstance(model, PeftModel) else model
    if trainer.args.activation_checkpointing:
        model.activation_checkpointing_disable()
    return model


def save_model(model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> None:
    """Write a model folder, whole or not at all. Does nothing for a model behind a server (None).

    Its generation config gets the tokens that ended turns here, so that other programs end them there, too.
    """
    if model is None or tokenizer is None:
        return
    folder = folder.resolve()  # a link, to a disk with more room, stays
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    ends = sorted(end_ids(model, tokenizer))  # a base model's own are not those of its new chat template
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
