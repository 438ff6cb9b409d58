"""A sampled teacher: which samples are kept, and what is counted."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from faults import NANO

from mentorlib import TorchEngine, load_model
from mentorlib.core import Execution, InputError, Reference, Trajectory
from mentorlib.data.problem import reference_from_calls
from mentorlib.data.suites import generate
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.data.teacher import agreement, distill, load_teacher, select_references
from mentorlib.rollout.endpoint import Endpoint
from mentorlib.runs.run import Run
from mentorlib.sandbox.toolbox import Toolbox
from mentorlib.task import Task


def trajectory_of(task, calls, answer, counted=10, stop="answered"):
    """A trajectory with these ``(name, arguments, result)`` and an answer."""
    messages = reference_from_calls(task.id, calls, answer).messages
    return Trajectory(task.id, messages, f"\\boxed{{{answer}}}<|im_end|>", stop, n_sampled=counted)


def test_the_most_direct_right_sample_is_kept(sandbox):
    task = Task("t", "2 + 3 + 4?", "9", CALCULATOR, "calculator")
    long = [("add", {"a": 2, "b": 3}, 5), ("add", {"a": 5, "b": 4}, 9)]
    short = [("sum_numbers", {"numbers": [2, 3, 4]}, 9)]
    done = [
        trajectory_of(task, long, "9"),
        trajectory_of(task, short, "9", counted=30),
        trajectory_of(task, short, "9", counted=20),
        trajectory_of(task, short, "9", counted=20),
        trajectory_of(task, short, "8"),
        trajectory_of(task, [("add", {"a": 2, "b": 3}, 6)], "9"),
        trajectory_of(task, [], "9"),
        trajectory_of(task, long[:1], "5", stop="turn_limit"),
        trajectory_of(task, long[:1], "5", stop="infrastructure"),
    ]
    kept, rejected, (row,) = select_references([task] * len(done), done, sandbox)
    assert [(r.task_id, r.messages) for _, r in kept] == [("t", done[2].messages)]
    assert kept[0][0] == task
    assert [(r.where, r.reason) for r in rejected] == [
        ("t#0", "correct, but not the most direct"),
        ("t#1", "correct, but not the most direct"),
        ("t#3", "correct, but not the most direct"),
        ("t#4", "wrong answer"),
        ("t#5", "a call returns another value"),
        ("t#6", "correct, but not the most direct"),  # without a tool, there is nothing to learn from it
        ("t#7", "no answer: turn_limit"),
        ("t#8", "infrastructure failure"),
    ]
    assert row == {
        "task_id": "t",
        "suite": "calculator",
        "samples": 8,
        "unfinished": 1,
        "right": 5 / 8,
        "called": 7 / 8,
        "tool_sets": 3,
        "answers": 3,
    }
    assert agreement([row]) == {
        "tasks": 1,
        "samples": 8,
        "unfinished": 1,
        "right": 0.625,
        "solved": 1,
        "always_right": 0,
        "called": 0.875,
        "tool_sets": 3,
        "answers": 3,
    }


def test_a_teacher_samples_generated_tasks_and_those_without_a_reference_or_the_named_suites(sandbox, tmp_path):
    drawn = generate("calculator", 2, split="train")
    other = [(replace(t, id=f"o{i}", suite="gsm8k"), r) for i, (t, r) in enumerate(generate("calculator", 2, seed=1))]
    mine = [
        (replace(t, id=f"m{i}", suite="rooms"), Reference(f"m{i}", [], [], t.answer)) for i, (t, _) in enumerate(drawn)
    ]
    mine[1] = (replace(mine[1][0], split="eval"), mine[1][1])
    pairs, teacher = drawn + other + mine, TorchEngine(*load_model("nano"))

    def sampled(**which):
        run = Run(f"run-{len(which)}", tmp_path)
        kept, _, _ = distill(teacher, pairs, sandbox, run=run, samples=1, max_tokens=80, **which)
        asked = [row["task_id"] for row in run.read_rows("teacher.jsonl")]
        assert [p for p in kept if p[0].id not in asked] == [p for p in pairs if p[0].id not in asked]
        return asked

    assert sampled() == [t.id for t, _ in drawn] + ["m0"]
    assert sampled(suites=["gsm8k"]) == ["o0", "o1"]
    with pytest.raises(InputError, match="no training tasks of suite 'longer': choose among calculator, gsm8k, rooms"):
        sampled(suites=["longer"])
    with pytest.raises(InputError, match="two tasks have the id"):
        distill(Endpoint("http://127.0.0.1:9/v1", "m", Run("x", tmp_path)), [*pairs, pairs[0]], sandbox)  # not asked
    with pytest.raises(InputError, match="teacher_suites names 'gsm8k', but there is no teacher"):
        distill(None, pairs, sandbox, suites=["gsm8k"])


def test_a_teacher_that_never_calls_a_tool_is_said_and_its_samples_kept(sandbox, tmp_path, capsys):
    pairs = generate("calculator", 2, split="train")

    def teacher(tasks, sandbox, **limits):
        return [trajectory_of(task, [], task.answer) for task in tasks]

    run = Run("silent", tmp_path)
    kept, _, counts = distill(teacher, pairs, sandbox, run=run, samples=2)
    assert counts["called"] == 0 and counts["right"] == 1 and len(kept) == 2
    assert "no sample of the teacher (4) calls a tool" in capsys.readouterr().out
    rows = run.read_rows("samples.jsonl")
    assert [(row["task_id"], row["sample"]) for row in rows] == [(t.id, i) for t, _ in pairs for i in (0, 1)]
    assert all(row["correct"] for row in rows)


def test_samples_are_kept_though_the_sandbox_fails_on_them(sandbox, tmp_path):
    pairs = generate("calculator", 1, split="train")
    run = Run("failed", tmp_path)
    broken = SimpleNamespace(run_many=lambda jobs: [Execution(error="too busy", fault="sandbox") for _ in jobs])

    def teacher(tasks, sandbox, **limits):
        return [trajectory_of(task, [("add", {"a": 1, "b": 2}, "3")], task.answer) for task in tasks]

    with pytest.raises(InputError, match=r"the sandbox failed on a call \(too busy\): run the same again"):
        distill(teacher, pairs, broken, run=run, samples=1)
    assert len(run.read_rows("samples.jsonl")) == 1


def test_an_objects_json_may_contain_the_answer(sandbox):
    doc = '"""Area.\n\n    Args:\n        width: metres\n    """'
    source = f'def area(width: int) -> dict:\n    {doc}\n    return {{"m2": width * 4}}'
    task = Task("t", "How large?", "12", Toolbox.from_source("rooms", source), "rooms", split="train")
    sample = trajectory_of(task, [("area", {"width": 3}, '{"m2": 12}')], "12")
    kept, rejected, _ = select_references([task], [sample], sandbox)
    assert len(kept) == 1 and not rejected


def test_a_local_teacher_is_held_in_bfloat16_if_asked(tmp_path):
    teacher = load_teacher("nano", Run("x", tmp_path), bf16=True)
    assert teacher.model.dtype == torch.bfloat16 and not teacher.half  # no second copy to sample from
    assert load_teacher("nano", Run("y", tmp_path)).model.dtype == torch.float32


def test_a_served_teacher_makes_references(server, sandbox, tmp_path):
    pairs = generate("calculator", 6, split="train") + generate("calculator", 2, split="eval")
    run = Run("run", tmp_path)
    teacher = Endpoint(f"{server}/v1", str(NANO), run)
    kept, rejected, counts = distill(teacher, pairs, sandbox, run=run, samples=2, temperature=1.0, max_tokens=200)
    assert kept[-2:] == pairs[-2:]  # held-out tasks are left alone
    assert counts["tasks"] == 6 and counts["samples"] + counts["unfinished"] == 12
    assert len(kept) - 2 + len(rejected) == 12 and len(kept) - 2 == round(6 * counts["solved"])
    rows = run.read_rows("teacher.jsonl")
    assert len(rows) == 6 and counts["right"] == pytest.approx(sum(r["right"] for r in rows) / 6, abs=1e-3)
    assert counts["completion_tokens"] > 0 and "cost" not in counts
