"""SmolLM2-135M-Instruct, its real weights (`make models`): loaded, sampled as transformers does, and trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mentorlib.data.suites import generate
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.rollout.chat import encode_chat, prompt_ids
from mentorlib.rollout.engine import TorchEngine
from mentorlib.rollout.loop import run_rollouts
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.sft import train_sft

FOLDER = Path(__file__).parents[2] / "runs/models/SmolLM2-135M-Instruct"
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason="no real model here: make models"),
]


@pytest.fixture(scope="module")
def smollm2():
    """The model and its tokenizer; check_model has compared its packed, cached and plain logits."""
    return load_model(str(FOLDER))


@pytest.fixture(scope="module")
def pairs():
    """Short tasks with two tools, so that prompts stay short."""
    drawn = generate("calculator", 40, seed=1)
    few = [(task, reference) for task, reference in drawn if len(reference.calls) == 1][:8]
    return [(replace(task, toolbox=CALCULATOR.subset(["add", "multiply"])), reference) for task, reference in few]


def test_tools_are_in_its_prompt_and_references_are_its_targets(smollm2, pairs):
    _, tokenizer = smollm2
    task, reference = pairs[0]
    ids, mask = encode_chat(tokenizer, task.prompt(), reference.messages, list(task.toolbox.schemas))
    text = tokenizer.decode(ids)
    assert '"name": "multiply"' in text and "Multiply two numbers." in text
    learnt = tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])
    assert (
        learnt.count("<tool_call>") == len(reference.calls) and learnt.count("<|im_end|>") == len(reference.calls) + 1
    )


def test_greedy_turns_are_those_of_generate(smollm2, pairs, sandbox):
    model, tokenizer = smollm2
    tasks = [task for task, _ in pairs[:3]]
    got = run_rollouts(TorchEngine(model, tokenizer), tasks, sandbox, max_turns=1, max_tokens=24, temperature=0)
    for task, trajectory in zip(tasks, got, strict=True):
        ids = torch.tensor([prompt_ids(tokenizer, task.prompt(), list(task.toolbox.schemas))])
        with torch.no_grad():
            wanted = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.size(1) :].tolist()
        assert trajectory.token_ids == wanted


def test_it_learns_to_call_from_a_few_references_and_takes_a_grpo_step(tmp_path, pairs, sandbox):
    model, tokenizer = load_model(str(FOLDER))
    run = Run("warm", root=tmp_path)
    model = train_sft(run, model, tokenizer, pairs, steps=6, batch_size=8, learning_rate=3e-4)
    losses = [row["loss"] for row in run.read_rows("metrics.jsonl")]
    assert losses[-1] < losses[0] / 2
    tasks = [task for task, _ in pairs]
    trajectories = run_rollouts(
        TorchEngine(model, tokenizer), tasks, sandbox, max_turns=3, max_tokens=96, temperature=0
    )
    assert any(call.name in task.toolbox.names for t, task in zip(trajectories, tasks, strict=True) for call in t.calls)
    before = [p.detach().clone() for p in model.parameters()]
    settings = {"steps": 1, "groups": 2, "group_size": 2, "max_turns": 2, "max_tokens": 64, "learning_rate": 1e-5}
    run = Run("grpo", root=tmp_path)
    train_grpo(run, model, tokenizer, pairs, sandbox, **settings)
    rows = run.read_rows("rollouts.jsonl")
    assert len(rows) == 4 and run.read_rows("metrics.jsonl")[0]["kl"] == pytest.approx(0, abs=1e-4)
    learnt = any(row["advantage"] for row in rows)
    assert learnt == any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
