"""Train as a run's parameters say: in this process, or in several that ``accelerate launch`` starts.

``python -m mentorlib.trainer.launch RUN LAUNCHER`` is what each launched process runs; LAUNCHER is the id of the
process that started it. It reads everything from the run's run.json, shares each step with the others, and the first
process writes metrics, rollouts and the model.
"""

import contextlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from ..core import InputError
from ..data.parquet import load_tasks
from ..rollout.model import load_model
from ..runs.files import read_json
from ..runs.processes import die_with_parent
from ..runs.progress import ProgressCallback
from ..runs.run import Run
from ..sandbox.pool import Sandbox
from ..task import Pair
from .checks import WITHOUT_EFFECT, check_settings
from .grpo import train_grpo
from .held_out import ALONG, EvaluateAlong
from .setup import save_model
from .sft import TOO_LONG, train_sft

_STEP, _ERROR = "mentor step ", "mentor: "  # how a launched process's progress and error lines begin
# accelerate launch in a process that is killed with the kernel that started it, as its own processes are with it.
_LAUNCH = """
import os, runpy, sys
from mentorlib.runs.processes import die_with_parent
die_with_parent()
sys.argv.append(str(os.getpid()))
runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)
"""
_WRITTEN = ("rollouts.jsonl", "metrics.jsonl", ALONG, TOO_LONG)  # by training
_trained: WeakKeyDictionary[torch.nn.Module, Path] = WeakKeyDictionary()  # models, and the runs that changed them here
STOP = "stop"  # a file of this name in the run's folder ends launched training after the current step


def train(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    sandbox: Sandbox,
    *,
    progress: ProgressCallback | None = None,
) -> PreTrainedModel:
    """Train by the parameters of a run, which have the names of train_sft's and train_grpo's arguments.

    ``method`` "none" returns the student as it is, "sft" and "gkd" call train_sft (with a batch of groups x group_size,
    unless there is a ``batch_size``), "grpo" calls train_grpo. ``teacher`` names the model that "gkd" learns from.
    ``launcher`` "" trains here; "accelerate" in ``processes`` processes, or as many as the file ``accelerate_config``
    says (FSDP, DeepSpeed, several machines), which load the run's ``student`` and ``data`` themselves. With
    ``eval_steps``, the student is evaluated along training (EvaluateAlong), in this process only.

    A run that failed after its training, such as in its evaluation, keeps it: the saved model is loaded. So does one
    that was killed after the last step of training. Before that, it goes on from its last checkpoint. With other
    parameters of training it begins anew. A student that this process trained in this run before, as where a notebook's
    cell is executed again, is loaded again first.

    Args:
        run: with these parameters; those of other kinds are ignored.
        model, tokenizer, pairs, sandbox, progress: see train_grpo.

    Raises:
        InputError: an unknown method or launcher, a missing file, a teacher with another vocabulary, or an error that a
            launched process reported.
    """
    try:
        check_settings(**{"method": "none"} | run.params)
        if _is_trained(run):
            print(f"{run.path}: trained in an earlier attempt, whose model/ is taken", flush=True)
            if (run.path / TOO_LONG).exists():
                run.record("references_too_long", len(run.read_rows(TOO_LONG)), n=len(pairs))
            made = _steps_made(run)
            if 0 < made < run.params.get("steps", made):  # training was interrupted, and its model kept
                run.record("stopped_at_step", made, n=run.params["steps"])
            return load_model(str(run.path / "model"))[0]
        if run.params.get("method", "none") != "none" and run.params.get("launcher"):
            torch.nn.Module.cpu(model)  # the launched processes need the GPU
            torch.cuda.empty_cache()
            return _launch(run, progress)
        return _train_here(run, model, tokenizer, pairs, sandbox, progress)
    except BaseException:
        with contextlib.suppress(OSError, InputError):  # a full disk, say, is what the error is about
            run.finish("failed")  # in JupyterLab, too: it may be corrected
        raise


def _is_trained(run: Run) -> bool:
    """Whether an unfinished attempt trained with these parameters; files of training with others are removed."""
    functions: dict[str, Callable[..., Any]] = {"grpo": train_grpo, "sft": train_sft, "gkd": train_sft}
    method = run.params.get("method", "none")
    names = {
        "student",
        "suite",
        "template",
        "template_arguments",
        "teacher",
        "launcher",
        "processes",
        "accelerate_config",
        "groups",
        "group_size",
    }
    arguments = _arguments(functions[method], run.params) if method in functions else {}
    arguments |= {name: run.params[name] for name in names & run.params.keys() if method != "none"}
    settings = {"method": method, "files": run.info["data"]}
    settings |= {name: value for name, value in arguments.items() if name not in WITHOUT_EFFECT}
    if run.params.get("eval_steps"):  # with other ones, the rows along training are others
        settings |= {name: run.params.get(name) for name in ("eval_steps", "eval_part", "eval_suites", "eval_split")}
    file, model = run.path / "training.json", run.path / "model"
    same = not file.exists() or read_json(file) == settings
    was = run.info.get("reopened", [{}])[-1].get("was")  # "running" if killed, or if the cells are executed again
    ended = was == "failed" or (was == "running" and _steps_made(run) == run.params.get("steps"))
    if file.exists() and same and model.exists() and ended:
        return method != "none"
    shutil.rmtree(model, ignore_errors=True)  # the model of an attempt that is made again, and what it answered
    if method != "none":
        shutil.rmtree(run.path / "eval", ignore_errors=True)
    if not same:
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
        for name in _WRITTEN:
            (run.path / name).unlink(missing_ok=True)
    run.write_json(file.name, settings)
    return False


def _steps_made(run: Run) -> int:
    """The last step in the run's metrics.jsonl; 0 if there is none."""
    steps = run.read_rows("metrics.jsonl") if (run.path / "metrics.jsonl").exists() else []
    return max((row["step"] for row in steps), default=0)


def _train_here(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    sandbox: Sandbox,
    progress: ProgressCallback | None,
) -> PreTrainedModel:
    method = run.params.get("method", "none")
    if method == "none":
        return model
    if _trained.get(model) == run.path:
        print(f"{run.path}: the student was trained in this run before and is loaded again", flush=True)
        model, _ = _load_student(run.params)
    _trained[model] = run.path
    callbacks = [EvaluateAlong(run, tokenizer, sandbox)] if run.params.get("eval_steps") else []
    if method == "grpo":
        settings = _arguments(train_grpo, run.params) | {"progress": progress, "callbacks": callbacks}
        return train_grpo(run, model, tokenizer, pairs, sandbox, **settings)
    settings = _arguments(train_sft, run.params) | {"teacher": None, "progress": progress, "callbacks": callbacks}
    if "batch_size" not in settings and "group_size" in run.params:
        settings["batch_size"] = run.params["groups"] * run.params["group_size"]
    if method == "gkd":
        settings["teacher"], its_tokenizer = load_model(run.params["teacher"])
        if its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise InputError(
                f"teacher={run.params['teacher']}: its tokenizer is not the student's, and gkd compares token by token"
            )
        its_size, size = (m.config.get_text_config(decoder=True).vocab_size for m in (settings["teacher"], model))
        if its_size != size:  # padded otherwise, as between Qwen2.5's smaller and larger models
            raise InputError(
                f"teacher={run.params['teacher']}: it has logits for {its_size:,} tokens, the student for {size:,}, "
                "and gkd compares them one by one: take a teacher with as many"
            )
    return train_sft(run, model, tokenizer, pairs, **settings)


def _load_student(params: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    template, arguments = params.get("template", ""), params.get("template_arguments")
    return load_model(params["student"], template=template, template_arguments=arguments)


def _arguments(function: Callable[..., Any], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters that are keyword arguments of a function."""
    known = inspect.signature(function).parameters.values()
    return {p.name: params[p.name] for p in known if p.kind is p.KEYWORD_ONLY and p.name in params}


def _launch(run: Run, progress: ProgressCallback | None) -> PreTrainedModel:
    """Run ``accelerate launch`` to its end, passing each step on to ``progress``; the model that it saved."""
    (run.path / STOP).unlink(missing_ok=True)
    processes = int(run.params.get("processes", 1))
    options = ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    options += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]  # the defaults, without accelerate's notice of them
    options += ["--multi_gpu"] if processes > 1 else []  # several processes, also on a machine without a GPU
    if config := run.params.get("accelerate_config"):
        options = ["--config_file", config]
    command = [sys.executable, "-c", _LAUNCH, *options, "-m", __name__, str(run.path)]
    last_lines: deque[str] = deque(maxlen=30)
    error = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                _, is_step, values = line.partition(_STEP)
                if not is_step:
                    last_lines.append(line)
                    error = error or line.partition(_ERROR)[2].strip()
                    print(line, end="", flush=True)
                elif progress and progress(*json.loads(values)) is True:
                    (run.path / STOP).touch()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    (run.path / STOP).unlink(missing_ok=True)
    if process.returncode and error:
        raise InputError(error)
    if process.returncode:
        raise RuntimeError(f"accelerate launch ended with code {process.returncode}: {''.join(last_lines)}")
    return load_model(str(run.path / "model"))[0]


def main(folder: str) -> None:
    """Entry point of a launched process: train by the run's parameters, and save the model into its folder."""
    disable_progress_bar()  # this process's output is shown in the notebook
    if torch.cuda.is_available():  # before a model is loaded: each process has its own GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    run = Run.open(folder)
    pairs = load_tasks(run.params["data"], suite=run.params["suite"], split="train")
    model, tokenizer = _load_student(run.params)

    def progress(step: int, steps: int, metrics: dict[str, Any]) -> bool:
        print(_STEP + json.dumps([step, steps, metrics]), flush=True)
        return (run.path / STOP).exists()

    with Sandbox() as sandbox:
        trained = _train_here(run, model, tokenizer, pairs, sandbox, progress)
    if PartialState().is_main_process:
        save_model(trained, tokenizer, run.path / "model")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    try:
        main(sys.argv[1])
    except InputError as error:
        sys.exit(f"{_ERROR}{error}")
