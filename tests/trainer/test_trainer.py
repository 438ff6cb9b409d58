"""Training on tiny settings: TRL runs our rollout, keeps every trajectory, and the weights move."""

import gc
import importlib.util
import inspect
import itertools
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration

from mentorlib.core import InputError
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.rewards.reward import get_reward
from mentorlib.rollout import engine
from mentorlib.rollout.attention import common_prefix
from mentorlib.rollout.chat import encode_chat, prompt_ids
from mentorlib.rollout.model import NANO, load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import checks
from mentorlib.trainer import grpo as trainer_module
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.setup import save_model
from mentorlib.trainer.sft import train_sft


@pytest.mark.parametrize(("lora_rank", "micro_batch"), [(0, 0), (4, 0), (0, 4)])
def test_grpo_keeps_every_rollout(tmp_path, pairs, sandbox, lora_rank, micro_batch):
    model, tokenizer = load_model("nano")
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
    again, _ = load_model(str(run.path / "model"))
    assert not torch.equal(before, again.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_the_reference_takes_part_in_groups_that_are_all_wrong(tmp_path, pairs, sandbox, micro_batch, monkeypatch):
    seen = []
    stock = trainer_module.MentorTrainer._compute_loss
    monkeypatch.setattr(
        trainer_module.MentorTrainer,
        "_compute_loss",
        lambda self, model, inputs: seen.append(inputs) or stock(self, model, inputs),
    )
    run, (model, tokenizer) = Run("grpo", root=tmp_path), load_model("nano")
    settings = {"steps": 2, "groups": 4, "group_size": 4, "max_tokens": 256, "micro_batch": micro_batch}
    scored = []
    exact = get_reward("exact")
    counted = replace(exact, terms=lambda *given: scored.append(1) or exact.terms(*given))
    train_grpo(
        run, model, tokenizer, pairs, sandbox, reward=counted, learning_rate=1e-4, demonstrations=True, **settings
    )
    plain = Run("plain", root=tmp_path)
    train_grpo(plain, load_model("nano")[0], tokenizer, pairs, sandbox, learning_rate=1e-4, **settings)
    rows, references = run.read_rows("rollouts.jsonl"), {task.id: (task, r) for task, r in pairs}
    # The first step's rollouts are those of training without demonstrations, and so are their scores.
    assert [r["response"] for r in rows[:16]] == [r["response"] for r in plain.read_rows("rollouts.jsonl")[:16]]
    assert [r["total"] for r in rows[:16]] == [r["total"] for r in plain.read_rows("rollouts.jsonl")[:16]]
    shown = 0
    for _, group in itertools.groupby(rows, key=lambda r: (r["step"], r["group"])):
        *others, last = group
        failed = not any(r["correct"] for r in (*others, last))
        assert [("demonstration" in r) for r in (*others, last)] == [False, False, False, failed]
        if failed:
            shown += 1
            assert last["advantage"] is None and last["demonstration"] > max(r["advantage"] for r in others)
            assert last["demonstration"] + sum(r["advantage"] for r in others) == pytest.approx(0, abs=1e-3)
    assert 0 < shown < 8
    assert len(scored) == len(rows) + shown  # each once
    assert sum(m["demonstrations"] for m in run.read_rows("metrics.jsonl")) * 4 == shown
    # In the loss are the reference's own tokens, of which the assistant's count.
    passes = [
        (ids[kept.bool()], mask[kept.bool()])
        for inputs in seen[: len(seen) // 2]
        for ids, kept, mask in zip(
            inputs["completion_ids"], inputs["completion_mask"], inputs["tool_mask"], strict=True
        )
    ]
    expected = []
    for row in (r for r in rows if "demonstration" in r):
        task, reference = references[row["task_id"]]
        ids, mask = encode_chat(tokenizer, task.prompt(), reference.messages, list(task.toolbox.schemas))
        start = len(prompt_ids(tokenizer, task.prompt(), list(task.toolbox.schemas)))
        expected.append((ids[start:], mask[start:]))
    found = [(ids.tolist(), mask.tolist()) for ids, mask in passes]
    assert all(one in found for one in expected)


def test_a_reference_that_is_too_long_is_not_shown(tmp_path, pairs, sandbox):
    run, (model, tokenizer) = Run("grpo", root=tmp_path), load_model("nano")
    settings = {"steps": 1, "groups": 2, "group_size": 4, "max_tokens": 8, "learning_rate": 1e-4}
    train_grpo(run, model, tokenizer, pairs, sandbox, demonstrations=True, **settings)
    assert not any("demonstration" in r for r in run.read_rows("rollouts.jsonl"))
    assert run.read_rows("metrics.jsonl")[0]["demonstrations"] == 0


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_sft_lowers_the_loss(tmp_path, pairs, micro_batch):
    model, tokenizer = load_model("nano")
    run = Run("sft", root=tmp_path)
    train_sft(run, model, tokenizer, pairs, steps=8, batch_size=8, learning_rate=1e-3, micro_batch=micro_batch)
    losses = [m["loss"] for m in run.read_rows("metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_bf16_computes_in_bfloat16_on_a_cpu_and_keeps_float32_weights(tmp_path, pairs, sandbox, monkeypatch):
    losses, copies = {}, []
    for bf16 in (False, True):
        model, tokenizer = load_model("nano")
        run = Run(f"sft-{bf16}", root=tmp_path)
        trained = train_sft(run, model, tokenizer, pairs, steps=1, batch_size=8, bf16=bf16)
        losses[bf16] = run.read_rows("metrics.jsonl")[0]["loss"]
        assert trained.dtype == torch.float32
    assert losses[True] != losses[False] and losses[True] == pytest.approx(losses[False], rel=0.02)
    monkeypatch.setattr(engine, "sampling_copy", lambda model: copies.append(1) or model)
    run = Run("grpo-bf16", root=tmp_path)
    settings = {"reward": "sparse", "steps": 1, "groups": 2, "group_size": 4, "max_tokens": 96}
    trained = train_grpo(run, *load_model("nano"), pairs, sandbox, **settings, bf16=True)
    assert copies == [1] and trained.dtype == torch.float32


def test_training_reports_to_nobody(tmp_path, pairs, monkeypatch):
    """TRL's telemetry stays off where the machine is online: its thread could crash the process."""
    from huggingface_hub.utils import _telemetry

    told = []
    monkeypatch.setattr(_telemetry.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(_telemetry, "_start_telemetry_thread", lambda: told.append("started"))
    train_sft(Run("quiet", root=tmp_path), *load_model("nano"), pairs, steps=1, batch_size=2)
    assert told == []


def test_gkd_learns_the_teachers_probabilities(tmp_path, pairs, teacher):
    student, tokenizer = load_model("nano")
    settings = {"batch_size": 8, "learning_rate": 1e-3}
    run = Run("gkd", root=tmp_path)
    train_sft(run, student, tokenizer, pairs, steps=8, teacher=teacher, **settings)
    losses = [m["loss"] for m in run.read_rows("metrics.jsonl")]
    assert losses[-1] < losses[0] / 2
    run = Run("same", root=tmp_path)
    train_sft(run, load_model("nano")[0], tokenizer, pairs, steps=1, teacher=load_model("nano")[0], **settings)
    (metrics,) = run.read_rows("metrics.jsonl")
    assert abs(metrics["loss"]) < 1e-6 and metrics["grad_norm"] < 1e-3


def test_processes_share_whole_groups(tmp_path, pairs, sandbox, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    model, tokenizer = load_model("nano")
    run = Run("three", root=tmp_path)
    with pytest.raises(InputError, match="3 processes cannot share a step's 4 groups"):
        train_grpo(run, model, tokenizer, pairs, sandbox, groups=4, group_size=3)
    with pytest.raises(InputError, match="vllm=server serves one training process"):
        train_grpo(run, model, tokenizer, pairs, sandbox, groups=3, vllm="server")


def test_bad_settings_are_one_line(tmp_path, pairs, sandbox):
    model, tokenizer = load_model("nano")
    run = Run("bad", root=tmp_path)
    with pytest.raises(InputError, match="unknown reward 'nice'"):
        train_grpo(run, model, tokenizer, pairs, sandbox, reward="nice")
    with pytest.raises(InputError, match="must divide"):
        train_grpo(run, model, tokenizer, pairs, sandbox, groups=2, group_size=4, micro_batch=3)
    with pytest.raises(InputError, match='choose "colocate"'):
        train_grpo(run, model, tokenizer, pairs, sandbox, vllm="yes")
    with pytest.raises(InputError, match=r"choose .tensorboard"):
        train_sft(run, model, tokenizer, pairs, report_to="mlflow")
    for name in ("tensorboard", "wandb"):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(InputError, match=f"pip install {name}"):
                train_sft(run, model, tokenizer, pairs, report_to=name)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(InputError, match="needs vLLM"):
            train_grpo(run, model, tokenizer, pairs, sandbox, vllm="server")


def test_vllm_ends_turns_at_all_end_tokens_and_its_nans_do_not_end_the_training(tmp_path, pairs, sandbox, monkeypatch):
    """Gemma and Llama 3 have several end tokens; TRL gives None where vLLM's log-probability is NaN."""
    model, tokenizer = load_model("nano")
    other = tokenizer.encode(".", add_special_tokens=False)[-1]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, other]
    text = tokenizer.encode("It is \\boxed{3}", add_special_tokens=False)

    def generate(prompts, images, num_generations):
        ids = [[*text, end] for _, end in zip(prompts, itertools.cycle((other, tokenizer.eos_token_id)), strict=False)]
        return prompts, ids, [[[None if i == 0 else -0.5] for i in range(len(row))] for row in ids], None

    trained_with = {}
    run_engine = trainer_module.RolloutFunction.engine

    def engine(self, trainer):
        trained_with.update(trainer.args.generation_kwargs)
        trainer.use_vllm, trainer.vllm_generation = True, SimpleNamespace(generate=generate)
        made = run_engine(self, trainer)
        trainer.use_vllm = False  # vLLM's own import and weight transfer, for which there is no GPU
        return made

    def config(use_vllm, vllm_mode, **settings):
        return GRPOConfig(use_vllm=False, **settings)

    monkeypatch.setattr(trainer_module.RolloutFunction, "engine", engine)
    monkeypatch.setattr(trainer_module, "GRPOConfig", config)
    monkeypatch.setattr(checks, "_check_vllm", lambda *_: None)
    run = Run("vllm", root=tmp_path)
    train_grpo(run, model, tokenizer, pairs, sandbox, steps=1, groups=2, group_size=2, max_tokens=64, vllm="colocate")
    assert trained_with == {"stop_token_ids": sorted([tokenizer.eos_token_id, other])}
    rows = run.read_rows("rollouts.jsonl")
    assert [row["stop"] for row in rows] == ["answered"] * 4
    assert all(row["logprobs"] == ["nan", *[-0.5] * len(text)] for row in rows)


def test_trl_speaks_to_vllm_as_we_expect():
    """Where vLLM cannot run, hold at least the call that train_grpo makes to TRL's own definition."""
    parameters = list(inspect.signature(VLLMGeneration.generate).parameters)
    assert parameters[1:4] == ["prompts", "images", "num_generations"]


def test_a_trajectory_longer_than_the_context_does_not_stop_training(tmp_path, pairs, sandbox):
    model, tokenizer = load_model("nano")
    (task, reference), *others = pairs[:4]
    mixed = [(replace(task, question="1 " * 3_000), reference), *others]
    run = Run("long", root=tmp_path)
    train_grpo(
        run, model, tokenizer, mixed, sandbox, steps=2, groups=2, group_size=4, max_tokens=48, learning_rate=1e-4
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
    ours = trainer_module.MentorTrainer._get_per_token_logps_and_entropies
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

    monkeypatch.setattr(trainer_module.MentorTrainer, "_get_per_token_logps_and_entropies", both)
    model, tokenizer = load_model("nano")
    settings = {"steps": 1, "groups": 3, "group_size": 4, "max_tokens": 128, "lora_rank": lora_rank}
    train_grpo(Run("same", root=tmp_path), model, tokenizer, pairs, sandbox, **settings)
    assert compared
    prompts = [prompt_ids(tokenizer, t.prompt(), list(t.toolbox.schemas)) for t, _ in pairs]
    assert (common_prefix(prompts) > 0) == same_tools


def test_a_killed_run_goes_on_as_if_nothing_happened(tmp_path, pairs, sandbox, monkeypatch):
    settings = {"steps": 4, "groups": 2, "group_size": 4, "learning_rate": 1e-3, "max_tokens": 96, "save_steps": 2}

    def train(name, progress=None):
        model, tokenizer = load_model("nano")
        run = Run(name, root=tmp_path)
        trained = train_grpo(run, model, tokenizer, pairs, sandbox, progress=progress, **settings)
        save_model(trained, tokenizer, run.path / "model")
        return run, trained

    def killed(step, steps, metrics):
        if step == 3:
            raise KeyboardInterrupt

    def full(*_):
        raise OSError("no space left")

    whole, wanted = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("cut", killed)
    (tmp_path / "cut/checkpoints/checkpoint-3").mkdir()  # killed while it was written
    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(trainer_module, "trained_model", full)
        train("cut")  # to the last step, and nothing saved
    assert [p.name for p in (tmp_path / "cut/checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]
    cut, got = train("cut")
    cut.finish("failed")  # in its evaluation, say: the next try need not train it all again
    assert (tmp_path / "cut/checkpoints/checkpoint-2").exists()
    cut.finish()
    assert not list((tmp_path / "cut").glob("checkpoints*"))
    kept = [
        [(r["step"], r["response"], r["advantage"]) for r in run.read_rows("rollouts.jsonl")] for run in (whole, cut)
    ]
    assert kept[0] == kept[1]
    for a, b in zip(wanted.parameters(), got.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_memory_does_not_grow_over_500_steps(tmp_path, pairs, sandbox, monkeypatch):
    """Every step has the same shapes: torch's math libraries keep something for each new shape, which is not ours."""
    _, tokenizer = load_model("nano")
    config = AutoConfig.from_pretrained(NANO, num_hidden_layers=1, layer_types=["full_attention"], hidden_size=32)
    model = AutoModelForCausalLM.from_config(config)
    used = {}

    sample = engine.sample

    def endless(logits, *settings):
        logits[:, tokenizer.eos_token_id] = -torch.inf
        return sample(logits, *settings)

    monkeypatch.setattr(engine, "sample", endless)

    def progress(step, steps, metrics):
        if step in (100, 500):
            gc.collect()
            used[step] = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    sizes = {"steps": 500, "groups": 1, "group_size": 2, "max_tokens": 8}
    train_grpo(Run("long", root=tmp_path), model, tokenizer, pairs[:1], sandbox, progress=progress, **sizes)
    assert used[500] - used[100] < 8, used  # MiB
