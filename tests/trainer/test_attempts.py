"""A run that failed or was killed keeps its training where the parameters of training are the same."""

import pytest
import torch

from mentorlib.core import InputError
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import launch
from mentorlib.trainer.setup import save_model

SFT = {
    "method": "sft",
    "student": "nano",
    "steps": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "eval_suites": ["retreival"],
}
GRPO = {"method": "grpo", "student": "nano", "steps": 3, "groups": 2, "group_size": 2, "learning_rate": 1e-3}
GRPO |= {"reward": "null", "max_tokens": 16, "save_steps": 1}


def attempt(root, pairs, sandbox, progress=None, **params):
    run = Run("one", root=root, **params)
    model, tokenizer = load_model("nano")
    trained = launch.train(run, model, tokenizer, pairs, sandbox, progress=progress)
    save_model(trained, tokenizer, run.path / "model")
    return run, trained


def never(*_, **__):
    raise AssertionError("trained again")


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_run_whose_evaluation_failed_is_corrected_without_training_again(tmp_path, pairs, sandbox, monkeypatch):
    run, trained = attempt(tmp_path, pairs, sandbox, **SFT)
    run.write_rows("eval/old.jsonl", [{}])
    steps = run.read_rows("metrics.jsonl")
    run.finish("failed")
    with monkeypatch.context() as patched:
        patched.setattr(
            launch, "train_sft", lambda run, model, tokenizer, pairs, *, steps, batch_size, learning_rate: never()
        )
        run, again = attempt(tmp_path, pairs, sandbox, **SFT | {"eval_suites": ["retrieval"], "reward": "f1"})
    assert same(trained, again) and run.read_rows("metrics.jsonl") == steps
    assert run.params["eval_suites"] == ["retrieval"] and run.status == "running"
    assert [c["was"] for c in run.info["corrected"]] == [{"eval_suites": ["retreival"], "reward": None}]
    assert run.results["references_too_long"] == {"value": 0, "ci": None, "n": 8, "rows": None, "query": None}
    assert not (run.path / "eval").exists()
    run.finish()
    with pytest.raises(InputError, match="exists with other parameters"):  # it is done
        attempt(tmp_path, pairs, sandbox, **SFT)
    again = attempt(tmp_path, pairs, sandbox, **run.params)[0]  # a done run is trained again
    assert again.read_rows("metrics.jsonl")[0]["time"] >= steps[0]["time"]


def test_a_training_that_was_interrupted_is_said_to_be_so_again(tmp_path, pairs, sandbox):
    run, _ = attempt(tmp_path, pairs, sandbox, lambda step, steps, metrics: "inside" not in metrics, **SFT)
    assert [row["step"] for row in run.read_rows("metrics.jsonl")] == [1]
    run.finish("failed")  # in its evaluation
    run, _ = attempt(tmp_path, pairs, sandbox, **SFT)
    assert run.results["stopped_at_step"]["value"] == 1 and run.results["stopped_at_step"]["n"] == 2


def test_a_run_that_was_killed_in_its_evaluation_is_not_trained_again(tmp_path, pairs, sandbox):
    run, trained = attempt(tmp_path, pairs, sandbox, **SFT)
    steps = run.read_rows("metrics.jsonl")
    run, again = attempt(tmp_path, pairs, sandbox, **SFT)  # the status is "running"
    assert same(trained, again) and run.read_rows("metrics.jsonl") == steps


def test_a_run_that_was_killed_after_an_interrupted_training_is_trained_whole(tmp_path, pairs, sandbox):
    attempt(tmp_path, pairs, sandbox, lambda step, steps, metrics: "inside" not in metrics, **SFT)
    run, _ = attempt(tmp_path, pairs, sandbox, **SFT)
    assert [row["step"] for row in run.read_rows("metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("settings", [SFT, SFT | {"lora_rank": 2}])
def test_a_cell_that_is_executed_again_trains_the_student_as_it_was(tmp_path, pairs, sandbox, capsys, settings):
    run = Run("one", root=tmp_path, **settings)
    model, tokenizer = load_model("nano")
    model = first = launch.train(run, model, tokenizer, pairs, sandbox)
    losses, weights = [row["loss"] for row in run.read_rows("metrics.jsonl")], first.state_dict()
    weights = {name: weight.clone() for name, weight in weights.items()}
    for _ in range(2):
        model = launch.train(run, model, tokenizer, pairs, sandbox)
        assert [row["loss"] for row in run.read_rows("metrics.jsonl")] == losses
        assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert capsys.readouterr().out.count("trained in this run before and is loaded again") == 2
    other = Run("two", root=tmp_path, **settings)  # goes on from it: not the same training
    launch.train(other, model, tokenizer, pairs, sandbox)
    assert other.read_rows("metrics.jsonl")[0]["loss"] < losses[0]


def test_what_an_earlier_model_answered_goes_with_it(tmp_path, pairs, sandbox):
    run, _ = attempt(tmp_path, pairs, sandbox, **SFT)
    run.write_rows("eval/retrieval.jsonl", [{}])
    run.finish()
    run, _ = attempt(tmp_path, pairs, sandbox, **SFT)
    assert not (run.path / "eval").exists()


def test_other_parameters_of_training_train_anew(tmp_path, pairs, sandbox):
    run, slow = attempt(tmp_path, pairs, sandbox, **GRPO)
    run.finish("failed")
    run, fast = attempt(tmp_path, pairs, sandbox, **GRPO | {"learning_rate": 2e-3, "seed": 1})
    assert not same(slow, fast)
    assert [m["lr"] for m in run.read_rows("metrics.jsonl")] == [2e-3] * 3
    assert [r["step"] for r in run.read_rows("rollouts.jsonl")] == sorted([1, 2, 3] * 4)
    assert run.info["seed"] == 1


def test_a_training_that_failed_goes_on_with_another_micro_batch(tmp_path, pairs, sandbox):
    def memory(step, *_):
        if step == 2:
            raise MemoryError

    with pytest.raises(MemoryError):
        attempt(tmp_path, pairs, sandbox, memory, **GRPO)
    assert Run.open("one", tmp_path).status == "failed"  # also in JupyterLab, where nobody else says so
    before = (tmp_path / "one/rollouts.jsonl").read_text().splitlines()[:4]
    seen = []

    def see(step, _, metrics):
        if "inside" not in metrics:  # of a slow machine's reports from inside a step
            seen.append(step)

    run, _ = attempt(tmp_path, pairs, sandbox, see, **GRPO | {"micro_batch": 2})
    assert seen == [2, 3] and (run.path / "rollouts.jsonl").read_text().splitlines()[:4] == before
    assert [p.name for p in run.path.glob("checkpoints/checkpoint-*")] == ["checkpoint-2"]  # the last is enough


def test_a_running_run_is_not_corrected(tmp_path, pairs):
    Run("one", tmp_path, **SFT)
    with pytest.raises(InputError, match="choose another run name or remove the folder"):
        Run("one", tmp_path, **SFT | {"steps": 3})


def function(file, body):
    file.write_text(f"def f(trajectory, reference, terms):\n    {body}\n")
    return f"{file}:f"


def test_a_reward_function_trains_and_a_changed_one_trains_anew(tmp_path, pairs, sandbox):
    file = tmp_path / "mine.py"
    at = function(file, "return trajectory.n_tokens")
    run, _ = attempt(tmp_path, pairs, sandbox, **GRPO | {"reward": at})
    rows = run.read_rows("rollouts.jsonl")
    assert {(r["reward"], r["total"] == r["terms"]["f"] == r["n_tokens"]) for r in rows} == {(at, True)}
    assert {m["step"] for m in run.read_rows("metrics.jsonl")} == {1, 2, 3}
    assert run.info["data"][str(file)].startswith("sha256:")
    run.finish("failed")
    run, _ = attempt(tmp_path, pairs, sandbox, **GRPO | {"reward": at})
    assert run.read_rows("rollouts.jsonl") == rows  # the same function: nothing is trained again
    run.finish("failed")
    function(file, "return -trajectory.n_tokens")
    run, _ = attempt(tmp_path, pairs, sandbox, **GRPO | {"reward": at})
    assert {r["total"] == -r["n_tokens"] for r in run.read_rows("rollouts.jsonl")} == {True}


def test_a_reward_function_that_fails_ends_the_training_in_one_line(tmp_path, pairs, sandbox):
    at = function(tmp_path / "mine.py", "return 1 / (2 - 2)")
    with pytest.raises(InputError, match=r"mine.py:f failed on task .*ZeroDivisionError.*\(line 2\)") as caught:
        attempt(tmp_path, pairs, sandbox, **GRPO | {"reward": at})
    assert "\n" not in str(caught.value) and Run.open("one", tmp_path).status == "failed"
    function(tmp_path / "mine.py", "return 1.0")  # mended, it trains
    assert len(attempt(tmp_path, pairs, sandbox, **GRPO | {"reward": at})[0].read_rows("metrics.jsonl")) == 3
