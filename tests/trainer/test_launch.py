"""Training in processes of its own: as one process trains, ended with who launched it, and refused in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mentorlib.core import InputError
from mentorlib.data.parquet import save_tasks
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.sandbox.pool import Sandbox
from mentorlib.trainer import launch
from mentorlib.trainer.setup import save_model


def readable(file):
    try:
        return file.read_bytes()
    except OSError:  # it ended
        return b""


def launched(root, pairs, name, progress=None, **settings):
    """Train nano by a run's parameters on tasks that a run of that root keeps, as notebook 02 does: run and model."""
    if not (root / "data").exists():
        save_tasks(Run("data", root=root), pairs)
    sizes = {"groups": 2, "group_size": 2, "max_tokens": 64, "steps": 3, "learning_rate": 1e-4}
    where = {"student": "nano", "data": str(root / "data"), "suite": "calculator"}
    run = Run(name, root=root, **where, **(sizes | settings))
    student, tokenizer = load_model("nano")
    with Sandbox() as sandbox:
        return run, launch.train(run, student, tokenizer, pairs, sandbox, progress=progress)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "lora_rank"), [("sft", 4), ("gkd", 0), ("grpo", 0)])
def test_two_processes_train_as_one(tmp_path, pairs, teacher, method, lora_rank):
    settings = {"method": method, "lora_rank": lora_rank, "steps": 8, "batch_size": 8}
    if method == "gkd":
        save_model(teacher, load_model("nano")[1], tmp_path / "teacher")
        settings["teacher"] = str(tmp_path / "teacher")
    told = []
    alone, wanted = launched(tmp_path, pairs, "alone", **settings)
    two, got = launched(
        tmp_path, pairs, "two", **settings, launcher="accelerate", processes=2, progress=lambda *x: told.append(x)
    )
    assert [step for step, _, metrics in told if "inside" not in metrics] == list(range(1, 9))
    for a, b in zip(*(run.read_rows("metrics.jsonl") for run in (alone, two)), strict=True):
        same = [key for key in a if key not in ("time", "seconds")]
        assert {k: a[k] for k in same} == pytest.approx({k: b[k] for k in same}, abs=1e-4), a["step"]
    for a, b in zip(wanted.parameters(), got.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    if method == "grpo":
        keep = ("step", "group", "sample", "task_id", "response", "total", "terms")
        rows = [[{k: r[k] for k in keep} for r in run.read_rows("rollouts.jsonl")] for run in (alone, two)]
        assert rows[0] == rows[1]


@pytest.mark.slow
def test_launched_training_ends_with_who_launched_it(tmp_path, pairs):
    save_tasks(Run("data", root=tmp_path), pairs)
    code = (
        "import sys; from test_launch import *; from mentorlib.data.parquet import load_tasks\n"
        "root = Path(sys.argv[1]); settings = {'steps': 500, 'launcher': 'accelerate', 'processes': 2}\n"
        "settings |= {'batch_size': 64}\n"
        "launched(root, load_tasks(root / 'data'), 'long', method='sft', **settings)"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    kernel = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=path, stdout=subprocess.DEVNULL)
    while not (tmp_path / "long/metrics.jsonl").exists():
        assert kernel.poll() is None
        time.sleep(0.1)

    def left():
        own = str(tmp_path / "long").encode()
        return [file for file in Path("/proc").glob("[0-9]*/cmdline") if own in readable(file)]

    assert len(left()) >= 3  # accelerate, and the two that it started
    kernel.kill()
    kernel.wait()
    steps = (tmp_path / "long/metrics.jsonl").read_bytes()
    for _ in range(300):
        if not left():
            break
        time.sleep(0.1)
    assert not left()
    assert (tmp_path / "long/metrics.jsonl").read_bytes() == steps  # the step at hand, of seconds, was not ended


def test_a_process_whose_launcher_is_gone_before_it_has_begun_ends(tmp_path):
    launcher = subprocess.Popen(["true"])
    launcher.wait()
    command = [sys.executable, "-m", "mentorlib.trainer.launch", str(tmp_path), str(launcher.pid)]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, env=path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def test_a_launched_process_tells_its_steps_and_stops_when_told(tmp_path, pairs, capsys):
    launched(tmp_path, pairs, "data-only", method="none")
    where = {"student": "nano", "data": str(tmp_path / "data"), "suite": "calculator"}
    run = Run("told", root=tmp_path, **where, method="sft", batch_size=2, steps=3)
    (run.path / launch.STOP).touch()
    launch.main(str(run.path))
    assert [m["step"] for m in run.read_rows("metrics.jsonl")] == [1]
    assert capsys.readouterr().out.count("mentor step [1, 3, {") == 1
    load_model(str(run.path / "model"))


def test_launching_names_what_is_wrong(tmp_path, pairs):
    with pytest.raises(InputError, match='choose "accelerate"'):
        launched(tmp_path, pairs, "bad1", method="sft", launcher="torchrun")
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        launched(tmp_path, pairs, "bad2", method="sft", launcher="accelerate", accelerate_config="none.yaml")
    with pytest.raises(InputError, match="give teacher=FOLDER"):
        launched(tmp_path, pairs, "bad3", method="gkd")
    with pytest.raises(InputError, match="is for method=gkd"):
        launched(tmp_path, pairs, "bad4", method="sft", teacher="nano")
    with pytest.raises(InputError, match="micro_batch=3 must divide"):  # found by the launched process
        launched(tmp_path, pairs, "bad5", method="sft", launcher="accelerate", micro_batch=3)


@pytest.mark.slow
def test_two_processes_go_on_past_the_first_pass_as_if_nothing_happened(tmp_path, pairs):
    settings = {"method": "grpo", "steps": 6, "save_steps": 4, "launcher": "accelerate", "processes": 2}
    few = pairs[:3]
    whole, wanted = launched(tmp_path, few, "whole", **settings | {"launcher": "", "processes": 1})  # one process

    def stop(step, *_):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launched(tmp_path, few, "cut", progress=stop, **settings)
    cut, got = launched(tmp_path, few, "cut", **settings)
    keep = ("step", "group", "sample", "task_id", "response", "total")
    rows = [[{k: r[k] for k in keep} for r in run.read_rows("rollouts.jsonl")] for run in (whole, cut)]
    assert rows[0] == rows[1]
    for a, b in zip(wanted.parameters(), got.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
