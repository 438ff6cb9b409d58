"""Which tasks a step takes and at what rate: the same for every method, and for a training that was interrupted."""

import math
import statistics
from collections import Counter

import pytest
import torch

from mentorlib.core import InputError
from mentorlib.data.suites import generate
from mentorlib.rollout.chat import encode_chat
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import sft
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.setup import task_order
from mentorlib.trainer.sft import train_sft


def encoded(tokenizer, task, reference):
    return encode_chat(tokenizer, task.prompt(), reference.messages, list(task.toolbox.schemas))


@pytest.mark.parametrize(("tasks", "a_step"), [(7, 3), (8, 4), (5, 5), (1000, 8), (9, 8)])
def test_every_task_comes_once_before_any_comes_again(tasks, a_step):
    order = task_order(tasks, a_step, steps=40, seed=3)
    assert [len(set(step)) for step in order] == [a_step] * 40
    taken = [task for step in order for task in step]
    counts = Counter(taken[: len(taken) // tasks * tasks])
    assert len(taken) < tasks or max(counts.values()) - min(counts.values()) <= 1
    assert sorted(taken[:tasks]) == list(range(tasks))[: len(taken)] or len(taken) < tasks
    assert order == task_order(tasks, a_step, 40, 3) != task_order(tasks, a_step, 40, 4)
    assert task_order(tasks, a_step, 80, 3)[:40] == order


def test_fewer_tasks_than_a_batch_come_equally_often():
    taken = [task for step in task_order(3, 8, steps=6, seed=0) for task in step]
    assert Counter(taken) == {0: 16, 1: 16, 2: 16}


def test_all_methods_have_one_schedule(tmp_path, pairs, sandbox):
    """The rate of every step is the one asked for, so that 5 steps are 5 and the mean rates are equal."""
    rates = {}
    for method in ("sft", "gkd", "grpo"):
        model, tokenizer = load_model("nano")
        run = Run(method, root=tmp_path)
        before = [p.detach().clone() for p in model.parameters()]
        steps = []

        def progress(step, _, metrics, model=model, before=before, steps=steps):
            if "inside" in metrics:  # the machine is slow
                return
            steps.append(
                max(float((a - b.detach()).abs().max()) for a, b in zip(before, model.parameters(), strict=True))
            )

        settings = {"steps": 5, "learning_rate": 1e-3, "progress": progress}
        if method == "grpo":
            sizes = {"groups": 4, "group_size": 8, "max_tokens": 64}
            train_grpo(run, model, tokenizer, pairs, sandbox, **settings, **sizes)
        else:
            teacher = load_model("nano")[0] if method == "gkd" else None
            train_sft(run, model, tokenizer, pairs, batch_size=4, teacher=teacher, **settings)
        rates[method] = [m["lr"] for m in run.read_rows("metrics.jsonl")]
        if method != "gkd":  # a teacher that is the student teaches nothing
            assert steps[0] > 0  # the first step counts
    assert rates["sft"] == rates["gkd"] == rates["grpo"] == [1e-3] * 5


def test_sft_steps_are_random_in_the_number_of_calls(tmp_path, monkeypatch):
    """Within a step the lengths of references vary as in a random draw: no step of short ones alone."""
    pairs = generate("calculator", 500, seed=0)
    model, tokenizer = load_model("nano")

    def train(self):
        taken = [list(self.train_dataset[i]["input_ids"]) for i in self._get_train_sampler()]
        orders.append(taken)

    orders: list[list[list[int]]] = []
    monkeypatch.setattr(sft.SFTTrainer, "train", train)
    for seed in (0, 0, 1):
        run = Run(f"sft{len(orders)}", root=tmp_path)
        with pytest.raises(InputError, match="training made no optimizer step"):
            train_sft(run, model, tokenizer, pairs, steps=20, batch_size=16, micro_batch=8, seed=seed)
    assert orders[0] == orders[1] != orders[2]
    steps = [orders[0][i * 16 :][:16] for i in range(20)]
    assert all(step == sorted(step) for step in steps)  # those that begin alike share a backward pass
    calls_of = {tuple(encoded(tokenizer, *pair)[0]): len(pair[1].calls) for pair in pairs}
    calls = [[calls_of[tuple(ids)] for ids in step] for step in steps]
    every = [len(reference.calls) for _, reference in pairs]
    mean = statistics.fmean(every)
    for step in calls:  # within four standard errors of a random draw of 16
        assert abs(statistics.fmean(step) - mean) < 4 * statistics.pstdev(every) / math.sqrt(16), calls
    within = statistics.fmean(statistics.pvariance(step) for step in calls)
    assert within > 0.8 * statistics.pvariance(every)  # of random draws: 15/16; grouped by length, nearly none


def test_sft_computes_the_stock_loss(tmp_path, pairs):
    """Packed micro-batches give the mean over all of the step's tokens that the assistant wrote."""
    model, tokenizer = load_model("nano")
    (step,) = task_order(len(pairs), 8, 1, seed=0)
    loss = tokens = 0.0
    with torch.no_grad():
        for i in step:
            task, reference = pairs[i]
            ids, mask = encoded(tokenizer, task, reference)
            logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            own = torch.tensor(mask[1:]).bool()
            loss -= float(logps[own, torch.tensor(ids[1:])[own]].sum())
            tokens += int(own.sum())
    for micro_batch in (0, 2):
        run = Run(f"loss{micro_batch}", root=tmp_path)
        student, _ = load_model("nano")
        train_sft(run, student, tokenizer, pairs, steps=1, batch_size=8, micro_batch=micro_batch)
        assert run.read_rows("metrics.jsonl")[0]["loss"] == pytest.approx(loss / tokens, rel=1e-4)


def test_a_run_cut_past_the_first_pass_over_its_tasks_goes_on_as_if_nothing_happened(tmp_path, pairs, sandbox):
    """Five tasks, two a step: the second pass begins within step 3, the checkpoint is in the middle of it."""
    settings = {"steps": 7, "groups": 2, "group_size": 2, "learning_rate": 1e-3, "max_tokens": 24, "save_steps": 4}
    settings["micro_batch"] = 2  # two backward passes a step

    def train(name, progress=None):
        model, tokenizer = load_model("nano")
        run = Run(name, root=tmp_path)
        return run, train_grpo(run, model, tokenizer, pairs[:5], sandbox, progress=progress, **settings)

    def killed(step, *_):
        if step == 6:
            raise KeyboardInterrupt

    whole, wanted = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", killed)
    cut, got = train("cut")
    tasks = [[r["task_id"] for r in run.read_rows("rollouts.jsonl")] for run in (whole, cut)]
    assert tasks[0] == tasks[1] and len(tasks[0]) == 28
    taken = tasks[0][::2]
    assert len(set(taken[:5])) == len(set(taken[5:10])) == 5
    rows = [[(r["step"], r["response"], r["total"]) for r in run.read_rows("rollouts.jsonl")] for run in (whole, cut)]
    assert rows[0] == rows[1]
    for a, b in zip(wanted.parameters(), got.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_that_would_make_no_step_is_refused(tmp_path, pairs, sandbox):
    model, tokenizer = load_model("nano")
    run = Run("few", root=tmp_path)
    with pytest.raises(InputError, match=r"groups=4: suite 'calculator' has 3 training tasks.*set groups=3 or lower"):
        train_grpo(run, model, tokenizer, pairs[:3], sandbox, groups=4, group_size=2)
    with pytest.raises(InputError, match="two tasks have the id"):  # nor the same ones again
        train_grpo(run, model, tokenizer, pairs[:3] * 2, sandbox, groups=4, group_size=2)
    with pytest.raises(InputError, match="no training tasks"):
        train_grpo(run, model, tokenizer, [], sandbox)
    with pytest.raises(InputError, match="no training tasks"):
        train_sft(run, model, tokenizer, [])
    longest = "none of the 8 references fits into max_length=10 tokens: .* they have 1?[0-9,]+ to"
    with pytest.raises(InputError, match=longest):
        train_sft(run, model, tokenizer, pairs, max_length=10)
    assert not (run.path / "metrics.jsonl").exists() and not (run.path / "rollouts.jsonl").exists()


def test_fewer_references_than_a_batch_train_all_the_same(tmp_path, pairs):
    model, tokenizer = load_model("nano")
    run = Run("small", root=tmp_path)
    train_sft(run, model, tokenizer, pairs[:3], steps=2, batch_size=8)
    assert [m["step"] for m in run.read_rows("metrics.jsonl")] == [1, 2]


def test_references_that_are_too_long_are_named_and_counted(tmp_path, pairs, capsys):
    model, tokenizer = load_model("nano")
    lengths = [len(encoded(tokenizer, *pair)[0]) for pair in pairs]
    limit = sorted(lengths)[4]
    run = Run("long", root=tmp_path)
    train_sft(run, model, tokenizer, pairs, steps=1, batch_size=2, max_length=limit)
    long = {task.id: n for (task, _), n in zip(pairs, lengths, strict=True) if n > limit}
    assert 0 < len(long) < len(pairs)
    assert run.results["references_too_long"]["value"] == len(long)
    assert {r["task_id"]: r["tokens"] for r in run.read_rows("references_too_long.jsonl")} == long
    assert f"longer than max_length={limit} tokens: {len(long)} of 8 references" in capsys.readouterr().out
    model.config.max_position_embeddings = limit  # what the student cannot read is left out, whatever is asked for
    train_sft(Run("context", root=tmp_path), model, tokenizer, pairs, steps=1, batch_size=2, max_length=10_000)
    assert f"longer than the student's context of {limit} tokens: {len(long)} of 8" in capsys.readouterr().out
    model.config.max_position_embeddings = 2048
    model.config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": limit}
    train_sft(Run("rotary", root=tmp_path), model, tokenizer, pairs, steps=1, batch_size=2, max_length=10_000)
    assert f"longer than the student's context of {limit} tokens: {len(long)} of 8" in capsys.readouterr().out
