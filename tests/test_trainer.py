"""Training on tiny settings: TRL runs our rollout, keeps every trajectory, and the weights move."""

import gc
import importlib.util
import inspect
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from mentorlib import engine
from mentorlib import trainer as trainer_module
from mentorlib.attention import common
from mentorlib.chat import prompt_ids
from mentorlib.core import InputError
from mentorlib.runs import Run
from mentorlib.students import NANO, load_student
from mentorlib.suites import CALCULATOR, generate
from mentorlib.trainer import save_model, train_grpo, train_sft


@pytest.fixture(scope="module")
def pairs():
    return generate("calculator", 8, seed=1)


@pytest.mark.parametrize(("lora_rank", "micro_batch"), [(0, 0), (4, 0), (0, 4)])
def test_grpo_keeps_every_rollout(tmp_path, pairs, sandbox, lora_rank, micro_batch):
    model, tokenizer = load_student("nano")
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    run = Run("grpo", root=tmp_path)
    settings = {
        "steps": 2,
        "groups": 2,
        "group_size": 4,
        "learning_rate": 1e-3,
        "max_tokens": 96,
        "micro_batch": micro_batch,
    }
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


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_sft_lowers_the_loss(tmp_path, pairs, micro_batch):
    model, tokenizer = load_student("nano")
    run = Run("sft", root=tmp_path)
    train_sft(run, model, tokenizer, pairs, steps=8, batch_size=8, learning_rate=1e-3, micro_batch=micro_batch)
    losses = [m["loss"] for m in run.read_rows("metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_bad_settings_are_one_line(tmp_path, pairs, sandbox):
    model, tokenizer = load_student("nano")
    run = Run("bad", root=tmp_path)
    with pytest.raises(InputError, match="unknown reward 'nice'"):
        train_grpo(run, model, tokenizer, pairs, sandbox, reward="nice")
    with pytest.raises(InputError, match="must divide"):
        train_grpo(run, model, tokenizer, pairs, sandbox, groups=2, group_size=4, micro_batch=3)
    with pytest.raises(InputError, match='choose "colocate"'):
        train_grpo(run, model, tokenizer, pairs, sandbox, vllm="yes")
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(InputError, match="needs vLLM"):
            train_grpo(run, model, tokenizer, pairs, sandbox, vllm="server")


def test_trl_speaks_to_vllm_as_we_expect():
    """Where vLLM cannot run, hold at least the call that train_grpo makes to TRL's own definition."""
    parameters = list(inspect.signature(VLLMGeneration.generate).parameters)
    assert parameters[1:4] == ["prompts", "images", "num_generations"]


def test_a_trajectory_longer_than_the_context_does_not_stop_training(tmp_path, pairs, sandbox):
    model, tokenizer = load_student("nano")
    (task, reference), *others = pairs
    mixed = [(replace(task, question="1 " * 3_000), reference), *others]
    run = Run("long", root=tmp_path)
    train_grpo(
        run, model, tokenizer, mixed, sandbox, steps=4, groups=2, group_size=4, max_tokens=48, learning_rate=1e-4
    )
    rows = run.read_rows("rollouts.jsonl")
    assert {r["stop"] for r in rows if r["task_id"] == task.id} == {"length"}
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("same_tools", [False, True])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_packing_changes_no_number(tmp_path, pairs, sandbox, monkeypatch, same_tools, lora_rank):
    """Ours against TRL's stock method on the batches of a real step: log-probabilities, entropies, gradients."""
    if same_tools:  # prompts then share their beginning, and not only groups their prompts
        pairs = [(replace(task, toolbox=CALCULATOR), reference) for task, reference in pairs]
    ours = trainer_module._Trainer._get_per_token_logps_and_entropies
    stock = GRPOTrainer._get_per_token_logps_and_entropies
    compared = []

    def both(self, model, input_ids, attention_mask, keep, **kwargs):
        seen = attention_mask[:, -keep:].bool()
        got, want = (f(self, model, input_ids, attention_mask, keep, **kwargs) for f in (ours, stock))
        assert torch.allclose(got[0][seen], want[0][seen], atol=1e-4)
        if got[0].requires_grad:
            assert torch.allclose(got[1][seen], want[1][seen], atol=1e-4)
            trained = [p for p in model.parameters() if p.requires_grad]
            a, b = (torch.autograd.grad(x[0][seen].mean(), trained, retain_graph=True) for x in (got, want))
            for ours_of, theirs_of in zip(a, b, strict=True):
                assert (ours_of - theirs_of).norm() <= 1e-4 * theirs_of.norm()
            compared.append(input_ids.shape)
        return got

    monkeypatch.setattr(trainer_module._Trainer, "_get_per_token_logps_and_entropies", both)
    model, tokenizer = load_student("nano")
    settings = {"steps": 1, "groups": 5, "group_size": 4, "max_tokens": 128, "lora_rank": lora_rank}
    train_grpo(Run("same", root=tmp_path), model, tokenizer, pairs, sandbox, **settings)
    assert compared
    prompts = [prompt_ids(tokenizer, t.prompt(), list(t.toolbox.schemas)) for t, _ in pairs]
    assert (common(prompts) > 0) == same_tools


def test_a_killed_run_goes_on_as_if_nothing_happened(tmp_path, pairs, sandbox):
    settings = {"steps": 4, "groups": 2, "group_size": 4, "learning_rate": 1e-3, "max_tokens": 96, "save_steps": 2}

    def train(name, report=None):
        model, tokenizer = load_student("nano")
        run = Run(name, root=tmp_path)
        trained = train_grpo(run, model, tokenizer, pairs, sandbox, report=report, **settings)
        return run, trained

    def killed(step, steps, metrics):
        if step == 3:
            raise KeyboardInterrupt

    whole, wanted = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", killed)
    cut, got = train("cut")
    kept = [
        [(r["step"], r["response"], r["advantage"]) for r in run.read_rows("rollouts.jsonl")] for run in (whole, cut)
    ]
    assert kept[0] == kept[1]
    for a, b in zip(wanted.parameters(), got.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_memory_does_not_grow_over_500_steps(tmp_path, pairs, sandbox, monkeypatch):
    """Every step has the same shapes: torch's math libraries keep something for each new shape, which is not ours."""
    _, tokenizer = load_student("nano")
    config = AutoConfig.from_pretrained(NANO, num_hidden_layers=1, layer_types=["full_attention"], hidden_size=32)
    model = AutoModelForCausalLM.from_config(config)
    used = {}

    sample = engine.sample

    def endless(logits, *settings):
        logits[:, tokenizer.eos_token_id] = -torch.inf
        return sample(logits, *settings)

    monkeypatch.setattr(engine, "sample", endless)

    def report(step, steps, metrics):
        if step in (100, 500):
            gc.collect()
            used[step] = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    sizes = {"steps": 500, "groups": 1, "group_size": 2, "max_tokens": 8}
    train_grpo(Run("long", root=tmp_path), model, tokenizer, pairs[:1], sandbox, report=report, **sizes)
    assert used[500] - used[100] < 8, used  # MiB
