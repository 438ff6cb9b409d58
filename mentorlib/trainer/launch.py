"""Train by name: in this process, or in several that ``accelerate launch`` starts on one machine or many.

``python -m mentorlib.trainer.launch RUN`` is what each of those runs. It reads what to train from the run's folder
(student, data and suite from run.json, the rest from launch.json), shares each step with the others, and the first
process writes metrics, rollouts and the model, as if it were alone.
"""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from ..core import InputError
from ..data.parquet import load_tasks
from ..rollout.model import load_model
from ..runs.processes import die_with_parent
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import Pair
from .common import check_method, save_model
from .grpo import train_grpo
from .sft import train_sft

_STEP, _WRONG = "mentor step ", "mentor: "  # how lines begin that a launched process says to the notebook
# accelerate launch, which is killed with the kernel that started it, as its processes are with it.
_LAUNCH = """
import runpy
from mentorlib.runs.processes import die_with_parent
die_with_parent()
runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)
"""
STOP = "stop"  # a file of this name in the run's folder ends launched training after the step at hand


def train(
    method: str,
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    sft: dict[str, Any],
    grpo: dict[str, Any],
    teacher: str = "",
    launcher: str = "",
    processes: int = 1,
    accelerate_config: str = "",
    report: ProgressCallback | None = None,
    **both: Any,
) -> PreTrainedModel:
    """Train by name: "none" gives the student back, "sft" and "gkd" call train_sft, "grpo" calls train_grpo.

    Args:
        method, run, model, tokenizer, pairs, sandbox: see train_sft and train_grpo.
        sft, grpo: settings of the one and the other; ``both`` are of both.
        teacher: the model folder whose next-token probabilities "gkd" learns.
        launcher: "" trains here, the model in place; "accelerate" in ``processes`` processes, which load ``student``
            and ``data`` of the run's parameters anew (the model given is left as it is).
        accelerate_config: a file that ``accelerate config`` wrote (FSDP, DeepSpeed, several machines), which then says
            how many processes there are.
        report: see train_sft.

    Raises:
        InputError: an unknown method or launcher, a missing file, a teacher of another vocabulary, or what the launched
            processes found wrong.
    """
    check_method(method, teacher=teacher)
    if launcher not in ("", "accelerate"):
        raise InputError(f'launcher={launcher!r}: choose "accelerate", or "" to train in this process')
    if accelerate_config and not Path(accelerate_config).is_file():
        raise InputError(f"accelerate_config={accelerate_config}: no such file; `accelerate config` writes one")
    if method == "none":
        return model
    if launcher:
        torch.nn.Module.cpu(model)  # the GPU is the launched processes'
        torch.cuda.empty_cache()
        settings = {"method": method, "sft": sft, "grpo": grpo, "teacher": teacher, **both}
        return _launch(run, settings, processes, accelerate_config, report)
    if method == "grpo":
        return train_grpo(run, model, tokenizer, pairs, sandbox, **grpo, report=report, **both)
    guide = None
    if method == "gkd":
        guide, words = load_model(teacher)
        if words.get_vocab() != tokenizer.get_vocab():
            raise InputError(f"teacher={teacher}: its tokenizer is not the student's; gkd compares token by token")
    return train_sft(run, model, tokenizer, pairs, teacher=guide, **sft, report=report, **both)


def _launch(
    run: Run, settings: dict[str, Any], processes: int, accelerate_config: str, report: ProgressCallback | None
) -> PreTrainedModel:
    """Run ``accelerate launch`` to its end, telling report each step; give the model that it saved."""
    run.write_json("launch.json", settings)
    (run.path / STOP).unlink(missing_ok=True)
    where = ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    where += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # what accelerate takes, and says so at length
    where += ["--multi_gpu"] if processes > 1 else []  # several processes, also on a machine without a GPU
    where = ["--config_file", accelerate_config] if accelerate_config else where
    command = [sys.executable, "-c", _LAUNCH, *where, "-m", __name__, str(run.path)]
    said: deque[str] = deque(maxlen=30)
    wrong = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                _, step, told = line.partition(_STEP)
                if not step:
                    said.append(line)
                    wrong = wrong or line.partition(_WRONG)[2].strip()
                    print(line, end="", flush=True)
                elif report and report(*json.loads(told)) is True:
                    (run.path / STOP).touch()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    (run.path / STOP).unlink(missing_ok=True)
    if process.returncode and wrong:
        raise InputError(wrong)
    if process.returncode:
        raise RuntimeError(f"accelerate launch ended with code {process.returncode}: {''.join(said)}")
    return load_model(str(run.path / "model"))[0]


def main(folder: str) -> None:
    """One of the processes: train what the run's folder says, and save the model into it."""
    disable_progress_bar()  # what is printed here is shown in the notebook
    if torch.cuda.is_available():  # before any model is loaded: each process has a GPU of its own
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    run = Run.open(folder)
    settings = json.loads((run.path / "launch.json").read_text(encoding="utf-8"))
    pairs = load_tasks(run.params["data"], suite=run.params["suite"], split="train")
    model, tokenizer = load_model(run.params["student"])

    def report(step: int, steps: int, metrics: dict[str, Any]) -> bool:
        print(_STEP + json.dumps([step, steps, metrics]), flush=True)
        return (run.path / STOP).exists()

    with Sandbox() as sandbox:
        trained = train(settings.pop("method"), run, model, tokenizer, pairs, sandbox, report=report, **settings)
    if PartialState().is_main_process:
        save_model(trained, tokenizer, run.path / "model")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    die_with_parent()
    try:
        main(sys.argv[1])
    except InputError as error:
        sys.exit(f"{_WRONG}{error}")
