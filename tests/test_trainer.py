"""Training on tiny settings: TRL runs our rollout, keeps every trajectory, and the weights move."""

import pytest
import torch

from mentorlib.core import InputError
from mentorlib.runs import Run
from mentorlib.students import load_student
from mentorlib.suites import generate
from mentorlib.trainer import save_model, train_grpo, train_sft


@pytest.fixture(scope="module")
def pairs():
    return generate("calculator", 8, seed=1)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_grpo_keeps_every_rollout(tmp_path, pairs, sandbox, lora_rank):
    model, tokenizer = load_student("nano")
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    run = Run("grpo", root=tmp_path)
    settings = {"steps": 2, "groups": 2, "group_size": 4, "learning_rate": 1e-3, "max_tokens": 96}
    trained = train_grpo(run, model, tokenizer, pairs, sandbox, reward="sparse", lora_rank=lora_rank, **settings)
    rows = run.read_rows("rollouts.jsonl")
    assert len(rows) == 16 and {r["step"] for r in rows} == {1, 2}
    for step in (1, 2):
        for group in (0, 1):
            mine = [r for r in rows if r["step"] == step and r["group"] == group]
            assert len({r["task_id"] for r in mine}) == 1 and len(mine) == 4
            assert abs(sum(r["advantage"] for r in mine)) < 1e-3
    assert len(run.read_rows("metrics.jsonl")) == 2
    save_model(trained, tokenizer, run.path / "model")
    again, _ = load_student(str(run.path / "model"))
    assert not torch.equal(before, again.model.layers[0].mlp.up_proj.weight)


def test_sft_lowers_the_loss(tmp_path, pairs):
    model, tokenizer = load_student("nano")
    run = Run("sft", root=tmp_path)
    train_sft(run, model, tokenizer, pairs, steps=8, batch_size=8, learning_rate=1e-3)
    losses = [m["loss"] for m in run.read_rows("metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_bad_settings_are_one_line(tmp_path, pairs, sandbox):
    model, tokenizer = load_student("nano")
    run = Run("bad", root=tmp_path)
    with pytest.raises(InputError, match="unknown reward 'nice'"):
        train_grpo(run, model, tokenizer, pairs, sandbox, reward="nice")
    with pytest.raises(InputError, match="must divide"):
        train_grpo(run, model, tokenizer, pairs, sandbox, groups=2, group_size=4, micro_batch=3)
