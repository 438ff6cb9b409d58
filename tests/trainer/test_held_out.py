"""Evaluation along training: rows with their step, the same training as without, resumed without a gap."""

import pytest
import torch

from mentorlib.core import InputError
from mentorlib.data.parquet import save_tasks
from mentorlib.data.suites import generate
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import launch
from mentorlib.trainer.checks import check_settings

COMMON = {"student": "nano", "steps": 2, "group_size": 2, "groups": 2, "learning_rate": 1e-3, "max_tokens": 48}
ALONG = {"eval_steps": 1, "eval_part": 2, "eval_suites": ["calculator", "retrieval"], "eval_split": "eval"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    run = Run("data", root=tmp_path_factory.mktemp("runs"))
    save_tasks(run, [pair for suite in ALONG["eval_suites"] for pair in generate(suite, 4, split="eval")])
    run.finish()
    return str(run.path)


@pytest.mark.parametrize("method", [{"method": "sft"}, {"method": "grpo", "reward": "null", "save_steps": 1}])
def test_rows_with_their_step_and_the_same_training(tmp_path, pairs, sandbox, data, method):
    def train(name, progress=None, **more):
        run = Run(name, root=tmp_path, **COMMON, **method, data=data, **more)
        model, tokenizer = load_model("nano")
        return run, launch.train(run, model, tokenizer, pairs, sandbox, progress=progress)

    def stop(step, steps, metrics):
        if step == 2:
            raise KeyboardInterrupt

    _, plain = train("plain")
    run, along = train("along", **ALONG)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), along.parameters(), strict=True))
    rows = run.read_rows("eval_steps.jsonl")
    places = [(row["step"], row["suite"]) for row in rows]
    assert places == [(step, suite) for step in (1, 2) for suite in ALONG["eval_suites"] for _ in range(2)]
    with pytest.raises(KeyboardInterrupt):
        train("cut", stop, **ALONG)
    cut, _ = train("cut", **ALONG)
    assert [row["response"] for row in cut.read_rows("eval_steps.jsonl")] == [row["response"] for row in rows]


def test_not_in_several_processes():
    with pytest.raises(InputError, match="eval_steps=2 evaluates in this process"):
        check_settings("sft", launcher="accelerate", eval_steps=2)
    with pytest.raises(InputError, match="eval_part=0"):
        check_settings("sft", eval_part=0)
