"""What is checked before anything is loaded or started. It imports neither torch nor TRL, so that a check is quick."""

import importlib.util
import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from ..core import InputError, did_you_mean
from ..data.parquet import check_ids, load_tasks
from ..data.suites import suite_name
from ..rewards.reward import Reward, get_reward
from ..rollout.names import check_policy
from ..runs.parameters import Planned
from ..runs.run import check_reopen
from ..task import Pair

NOT_OF_A_RUN = ("concurrency", "per_minute", "timeout")  # with another number of requests at a time, a run may go on
WITHOUT_EFFECT = ("micro_batch", "gradient_checkpointing", "save_steps", "report_to")  # on what is trained
METHODS = ("none", "sft", "gkd", "grpo")
# The least value of each parameter that is a whole number, and of each that may have a fraction.
_WHOLE = {
    **dict.fromkeys(("steps", "groups", "group_size", "batch_size", "max_turns", "max_tokens", "max_length"), 1),
    **dict.fromkeys(("processes", "n_eval", "eval_part", "concurrency"), 1),
    **dict.fromkeys(("lora_rank", "micro_batch", "save_steps", "eval_steps", "eval_samples", "seed"), 0),
}
_REAL = {"beta": 0.0, "per_minute": 0.0, "eval_temperature": 0.0}
_POSITIVE = ("learning_rate", "timeout")
_LARGEST_SEED = 2**32 - 1  # NumPy's


def check_training(**parameters: Any) -> None:
    """Check notebook 02's parameters and the data they name, all of it before a model is loaded or a step is made.

    Raises:
        InputError: as check_settings and check_tasks, or no such student, teacher or template, no data set, or a suite
            (to train or evaluate on) that has no tasks in it (the nearest name is given), or a run of that name that
            has other parameters and did not fail.
    """
    check_settings(**parameters)
    check_policy(parameters["student"], parameters["served"], parameters["template"])
    if parameters["method"] == "gkd":
        check_policy(parameters["teacher"], "")
    data, suites = Path(parameters["data"]), parameters["eval_suites"]
    if not suites:
        raise InputError("eval_suites=[]: name at least one suite to evaluate on")
    if isinstance(parameters["data"], Planned):
        trained = [] if parameters["method"] == "none" else [parameters["suite"]]
        _check_planned_suites([*trained, *suites], parameters["data"].parameters)
        return
    if data.is_file():
        raise InputError(f"data={data}: give the run folder of 01_build_data that holds the file")
    if parameters["method"] != "none":
        check_tasks(load_tasks(data, suite=parameters["suite"], split="train"), **parameters)
    check_reopen(**{name: value for name, value in parameters.items() if name not in NOT_OF_A_RUN})
    for suite in suites:
        load_tasks(data, suite=suite, split=parameters["eval_split"], n=parameters["n_eval"])


def _check_planned_suites(suites: Iterable[str], building: Mapping[str, Any]) -> None:
    """InputError for a suite that is nearly, but not, one that notebook 01 will build with these parameters.

    A name that is like none may be of a source, or of another notebook's tasks: the data set itself will tell.
    """
    sources = [source.partition(":") for source in building.get("sources", [])]
    known = [suite_name(suite) for suite in building.get("suites", [])]
    known += [Path(path).name if name == "own" else name for name, _, path in sources]
    for suite in suites:
        if suite not in known and (hint := did_you_mean(suite, known, 0.8)):
            raise InputError(f"suite {suite!r} is not in the data set: {hint.strip()}")


def check_settings(
    method: str = "grpo",
    reward: str | Reward = "exact",
    student: str = "",
    teacher: str = "",
    vllm: str = "",
    launcher: str = "",
    accelerate_config: str = "",
    report_to: str = "",
    **numbers: Any,
) -> None:
    """Check all of training's parameters that can be checked without a model or a file of tasks.

    ``numbers`` are the others; those that are no parameters of training are ignored.

    Raises:
        InputError: an unknown method, reward, vllm, launcher or report_to, a missing package or file, a number out of
            its range, sizes that do not divide, a model behind a server to train, or gkd without a teacher.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}: {did_you_mean(method, METHODS)}choose none, sft, gkd or grpo")
    if "://" in student and method != "none":
        raise InputError(
            f"student={student}: a model behind a server can be evaluated (method=none) but not trained: "
            f"for method={method} give 'nano', a model folder or a hub name"
        )
    if not isinstance(reward, Planned):
        get_reward(reward)
    if method == "gkd" and not teacher:
        raise InputError("method=gkd learns from a model's probabilities: give teacher=FOLDER")
    if method != "gkd" and teacher:
        raise InputError(f"teacher={teacher} is for method=gkd; method={method} uses the stored references only")
    _check_numbers(method, numbers)
    if launcher not in ("", "accelerate"):
        raise InputError(f'launcher={launcher!r}: choose "accelerate", or "" to train in this process')
    if numbers.get("processes", 1) > 1 and not launcher:
        raise InputError(f"processes={numbers['processes']} is for launcher=accelerate: give that, or leave it out")
    if accelerate_config and not Path(accelerate_config).is_file():
        raise InputError(f"accelerate_config={accelerate_config}: no such file; `accelerate config` writes one")
    processes = numbers.get("processes", 1) if launcher and not accelerate_config else world_size()
    if numbers.get("eval_steps") and (launcher or processes > 1):
        raise InputError(
            f"eval_steps={numbers['eval_steps']} evaluates in this process: leave launcher out, or set it to 0"
        )
    if method != "none":
        _check_sizes(method, processes, numbers)
    if method == "grpo":
        _check_vllm(vllm, processes)
    if report_to not in ("", "tensorboard", "trackio", "wandb"):
        raise InputError(f'report_to={report_to!r}: choose "tensorboard", "trackio", "wandb", or "" for none')
    if report_to and importlib.util.find_spec(report_to) is None:
        raise InputError(f"report_to={report_to!r} needs {report_to}: pip install {report_to}")


def check_tasks(
    pairs: list[Pair],
    method: str = "grpo",
    reward: str | Reward = "exact",
    groups: int = 1,
    demonstrations: bool = False,
    **_: Any,
) -> None:
    """Check that the training tasks have what a method and its reward need.

    Raises:
        InputError: no tasks, two of one id or fewer than the ``groups`` of a GRPO step, a reference without what the
            reward compares or SFT imitates, or a reward of answers for tasks graded by their calls.
    """
    if not pairs:
        raise InputError("no training tasks: build some with 01_build_data")
    suite = pairs[0][0].suite
    shown = demonstrations if method == "grpo" else method != "none"
    if shown and not all(reference.messages for _, reference in pairs):
        fix = "leave demonstrations out" if method == "grpo" else "train with method=grpo"
        raise InputError(f"suite {suite!r} has no teacher turns to imitate: {fix}")
    if method != "grpo":
        return
    check_ids(pairs)
    if len(pairs) < groups:
        raise InputError(
            f"groups={groups}: suite {suite!r} has {len(pairs)} training tasks, and a step takes that many different "
            f"ones: set groups={len(pairs)} or lower, or build more tasks (n_train in 01_build_data)"
        )
    reward = get_reward(reward)
    for task, reference in pairs:
        if task.metric == "calls" and "correct" in reward.weights:
            raise InputError(
                f"reward={reward.name}: suite {task.suite!r} is graded by its calls, not by an answer: use toolrl, "
                "imitate or a function of your own"
            )
        if missing := reward.missing(reference):
            fix = "use sparse or none, or have a teacher do its tasks (docs/teacher.md)"
            raise InputError(f"reward={reward.name}: suite {task.suite!r} has {missing}: {fix}")


def world_size() -> int:
    """How many processes train together (set by torchrun and accelerate launch)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def batch_sizes(batch: int, micro_batch: int, group_size: int = 1, processes: int = 0) -> dict[str, Any]:
    """Split a step's batch over processes and backward passes; groups stay whole within a process.

    Args:
        batch: rollouts or references a step, over all processes.
        micro_batch: how many of them a backward pass; 0 takes a process's share at once.
        group_size: rollouts a group.
        processes: how many train together; 0: as many as were launched with this one.

    Raises:
        InputError: sizes that do not divide.
    """
    processes = processes or world_size()
    if batch % (processes * group_size):
        raise InputError(
            f"{processes} processes cannot share a step's {batch // group_size} groups or references evenly"
        )
    share = batch // processes
    micro = micro_batch or share
    if share % micro:
        raise InputError(f"micro_batch={micro_batch} must divide the batch of {share} (groups x group_size, a process)")
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": share // micro}


def _check_numbers(method: str, numbers: dict[str, Any]) -> None:
    for name, value in numbers.items():
        if name in _WHOLE and (not isinstance(value, Integral) or value < _WHOLE[name]):
            raise InputError(f"{name}={value}: give a whole number of at least {_WHOLE[name]}")
        if name in _REAL and not (math.isfinite(value) and value >= _REAL[name]):
            raise InputError(f"{name}={value}: give a number of at least {_REAL[name]:g}")
        if name in _POSITIVE and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name}={value}: give a number above 0")
    if numbers.get("seed", 0) > _LARGEST_SEED:
        raise InputError(f"seed={numbers['seed']}: give one of at most {_LARGEST_SEED}")
    if method != "grpo":
        return
    temperature = numbers.get("temperature", 1.0)
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(
            f"temperature={temperature}: GRPO compares different samples of a task, which need a temperature above 0"
        )
    if numbers.get("group_size", 2) < 2:
        raise InputError(f"group_size={numbers['group_size']}: a group needs at least 2 rollouts to compare")


def _check_sizes(method: str, processes: int, numbers: dict[str, Any]) -> None:
    """Sizes that a step's processes and backward passes can share; ``batch_size`` is that of SFT and GKD, if given."""
    group = numbers.get("group_size", 1)
    batch, whole = numbers.get("groups", 1) * group, group
    if method != "grpo":
        batch, whole = numbers.get("batch_size", batch), 1
    if "groups" in numbers or "batch_size" in numbers:
        batch_sizes(batch, numbers.get("micro_batch", 0), whole, processes)


def _check_vllm(vllm: str, processes: int) -> None:
    if vllm not in ("", "colocate", "server"):
        raise InputError(f'vllm={vllm!r}: choose "colocate", "server", or "" for none')
    if vllm == "server" and processes > 1:  # TRL's client waits for every process at every turn
        raise InputError("vllm=server serves one training process, since turns differ in number: use vllm=colocate")
    if vllm and importlib.util.find_spec("vllm") is None:
        raise InputError(f"vllm={vllm!r} needs vLLM: pip install 'trl[vllm]'")
