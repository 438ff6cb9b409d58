"""Progress from inside a batch: evaluation, a local teacher and training say where they are while they sample."""

import copy
import re
import time

import pytest

from mentorlib import Run, TorchEngine, evaluate, load_model
from mentorlib.data.suites import generate
from mentorlib.data.teacher import distill
from mentorlib.rollout.chat import prompt_ids
from mentorlib.rollout.check import check_model
from mentorlib.rollout.engine import TurnEngine
from mentorlib.rollout.loop import run_rollouts
from mentorlib.runs import progress
from mentorlib.runs.progress import Sampling, progress_printer
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.sft import train_sft

PAIRS = generate("calculator", 6, seed=3)


def slowed(seconds: float, first: float = 0.0):
    """nano, each of whose forward passes takes ``seconds`` longer, and the first one ``first``."""
    model, tokenizer = load_model("nano")
    model, waits = copy.deepcopy(model), iter([first])
    check_model(model)
    forward = model.model.forward

    def slow(*args, **kwargs):
        time.sleep(next(waits, seconds))
        return forward(*args, **kwargs)

    model.model.forward = slow
    return model, tokenizer


class Told:
    """A progress callback that keeps what it is told, and when."""

    def __init__(self):
        self.begun, self.times, self.reports = time.monotonic(), [], []

    def __call__(self, *report):
        self.times.append(time.monotonic() - self.begun)
        self.reports.append(report)


def test_a_line_comes_within_five_seconds_even_while_the_prompts_are_computed(sandbox, capsys):
    engine = TorchEngine(*slowed(0.0, first=5.0))
    told, printer = Told(), progress_printer("evaluate")
    evaluate(engine, PAIRS[:2], sandbox, progress=lambda *x: (told(*x), printer(*x)))
    assert told.times[0] < 5 and told.reports[0] == (0, 2, {"tokens": 0, "tokens/s": 0.0, "left": None})
    assert capsys.readouterr().out.startswith("evaluate 0/2  tokens 0  tokens/s 0.0  reading prompts, 4s so far\r")


def test_reports_of_an_evaluation_add_up(sandbox, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.3)
    engine, told = TorchEngine(*slowed(0.05)), Told()
    rows = evaluate(engine, PAIRS, sandbox, progress=told, batch_size=4)
    done, tokens = [report[0] for report in told.reports], [report[2]["tokens"] for report in told.reports]
    assert len(done) > 5 and done == sorted(done) and tokens == sorted(tokens)
    assert done[0] == 0 < tokens[0]  # before a row is done
    assert all(report[1] == 6 for report in told.reports) and done[-1] == 6
    assert tokens[-1] == sum(p is not None for row in rows for p in row["logprobs"])
    gaps = [b - a for a, b in zip([0.0, *told.times], told.times[:-1], strict=False)]
    assert min(gaps) >= 0.3
    assert all(report[2]["left"] > 0 for report in told.reports[:-1])
    told = Told()
    again = evaluate(TorchEngine(*load_model("nano")), PAIRS, sandbox, progress=told, batch_size=4)
    assert again == rows  # sampled numbers do not change


def test_what_is_quick_reports_its_end_alone(sandbox, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 30.0)  # the machine may be slow
    told, engine = Told(), TorchEngine(*load_model("nano"))
    evaluate(engine, PAIRS[:2], sandbox, progress=told, max_tokens=20)
    evaluate(engine, [], sandbox, progress=told)
    assert [report[:2] for report in told.reports] == [(2, 2)]


def test_a_local_teacher_says_where_it_is(sandbox, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.3)
    told = Told()
    distill(TorchEngine(*slowed(0.05)), PAIRS[:2], sandbox, samples=2, progress=told, max_tokens=60)
    assert len(told.reports) > 2 and told.reports[-1][:2] == (4, 4)


def test_a_server_of_token_ids_is_counted_by_turns(sandbox):
    tokenizer = load_model("nano")[1]
    tasks = [task for task, _ in PAIRS]
    end = int(tokenizer.eos_token_id)
    seen = []

    def complete(prompts):
        seen.append((tally.done, tally.tokens, len(prompts)))
        texts = ["\\boxed{1}", '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>']
        ids = [
            [*tokenizer.encode(texts[(len(seen) == 1) * (i % 2)], add_special_tokens=False), end]
            for i, _ in enumerate(prompts)
        ]
        return ids, [[-1.0] * len(row) for row in ids]

    tally = Sampling(len(tasks) + 1)
    trajectories = run_rollouts(TurnEngine(complete, tokenizer, {end}), tasks, sandbox, tally=tally)
    assert [(done, rows) for done, _, rows in seen] == [(0, 6), (3, 3)]
    assert tally.done == 6 and tally.tokens == sum(sum(t.mask) for t in trajectories) > seen[1][1] > 0


def test_prompts_without_room_are_done(sandbox):
    engine = TorchEngine(*load_model("nano"))
    tasks = [task for task, _ in PAIRS]
    sizes = [len(prompt_ids(engine.tokenizer, task.prompt(), list(task.toolbox.schemas))) for task in tasks]
    engine.context = sorted(sizes)[2]
    told = Told()
    evaluate(engine, PAIRS, sandbox, progress=told)
    assert told.reports[-1][0] == 6


def test_a_long_training_step_says_where_it_is(tmp_path, sandbox, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.3)
    told = Told()
    sizes = {"steps": 2, "groups": 2, "group_size": 2, "max_tokens": 30}
    model, tokenizer = slowed(0.05)
    train_grpo(Run("grpo", root=tmp_path), model, tokenizer, PAIRS, sandbox, progress=told, **sizes)
    ends = [report for report in told.reports if "inside" not in report[2]]
    assert [report[:2] for report in ends] == [(1, 2), (2, 2)] and all("loss" in report[2] for report in ends)
    inside = [(step, steps, metrics["inside"]) for step, steps, metrics in told.reports if "inside" in metrics]
    assert {(step, steps) for step, steps, _ in inside} == {(0, 2), (1, 2)}
    assert any(re.fullmatch(r"rollouts \d/4  tokens \d+  tokens/s [\d.]+  (at most )?\d+s left", x) for *_, x in inside)
    order = [report[0] + ("inside" in report[2]) for report in told.reports]
    assert order == sorted(order)  # a step's are before its end

    told = Told()
    train_sft(Run("sft", root=tmp_path), *slowed(0.5), PAIRS, steps=2, batch_size=2, progress=told)
    assert {"inside": "0s so far"} in [metrics for *_, metrics in told.reports]
    assert [x[:2] for x in told.reports if "inside" not in x[2]] == [(1, 2), (2, 2)]


@pytest.mark.parametrize("method", ["grpo", "sft"])
def test_quick_training_steps_report_their_ends_alone(tmp_path, sandbox, monkeypatch, method):
    monkeypatch.setattr(progress, "EVERY", 30.0)  # the machine may be slow
    told = Told()
    run, student = Run(method, root=tmp_path), load_model("nano")
    if method == "grpo":
        sizes = {"groups": 1, "group_size": 2, "max_tokens": 8}
        train_grpo(run, *student, PAIRS, sandbox, steps=2, progress=told, **sizes)
    else:
        train_sft(run, *student, PAIRS, steps=2, batch_size=2, progress=told)
    assert [report[:2] for report in told.reports] == [(1, 2), (2, 2)]
