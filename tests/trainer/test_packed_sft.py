"""SFT from packed sequences: the losses, accuracies and weights of TRL's own collator, whatever the prompts share."""

import json
from dataclasses import replace

import pytest
import torch

from mentorlib.data.suites import generate
from mentorlib.data.suites.calculator import CALCULATOR
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer import sft
from mentorlib.trainer.packed_sft import group_by_prefix, packed_batch

SYSTEM, TOOLS = list(range(100, 150)), [list(range(200, 240)), list(range(300, 340))]


def row(tools: int, question: list[int], answer: list[int]) -> dict[str, list[int]]:
    prompt = SYSTEM + TOOLS[tools] + question
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def test_each_common_beginning_is_in_the_sequence_once():
    rows = [row(0, [1, 2], [3, 4]), row(1, [1, 1], [5, 6, 7]), row(0, [8, 8], [9]), row(1, [1, 1], [5, 6, 7])]
    assert [len(group) for group in group_by_prefix(rows)] == [2, 2]
    batch = packed_batch(rows)
    ids = batch["input_ids"][0].tolist()
    assert ids[:50] == SYSTEM and ids.count(120) == 1 and ids.count(220) == 1 and ids.count(320) == 1
    assert batch["layout"].start == 50 and [n for n, _ in batch["layout"].groups] == [40, 40]
    predicted = [(i, label) for i, label in zip(ids, batch["shift_labels"][0].tolist(), strict=True) if label != -100]
    # Each answer's first token is predicted by its own row's copy of the prompt's last token.
    assert sorted(predicted) == sorted([(2, 3), (3, 4), (8, 9), *[(1, 5), (5, 6), (6, 7)] * 2])


def test_rows_without_anything_in_common_are_packed_too():
    rows = [{"input_ids": list(range(a, a + 5)), "labels": [-100, -100, a + 2, a + 3, a + 4]} for a in (10, 50)]
    batch = packed_batch(rows)
    assert batch["input_ids"].tolist() == [[*range(10, 15), *range(50, 55)]]
    assert batch["position_ids"].tolist() == [[*range(5), *range(5)]]
    assert batch["shift_labels"].tolist() == [[-100, 12, 13, 14, -100, -100, 52, 53, 54, -100]]


@pytest.mark.parametrize("same_tools", [False, True])
@pytest.mark.parametrize(("lora_rank", "micro_batch"), [(0, 0), (4, 4)])
def test_packing_changes_no_number(tmp_path, monkeypatch, same_tools, lora_rank, micro_batch):
    pairs = generate("calculator", 24)
    if same_tools:
        pairs = [(replace(task, toolbox=CALCULATOR), reference) for task, reference in pairs]
    trained = {}
    for name in ("packed", "stock"):
        if name == "stock":
            monkeypatch.setattr(sft, "packed_batch", None)  # TRL's own
        model, tokenizer = load_model("nano")
        run = Run(name, root=tmp_path)
        settings = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "micro_batch": micro_batch}
        torch.manual_seed(0)  # of LoRA's initial weights
        model = sft.train_sft(run, model, tokenizer, pairs, lora_rank=lora_rank, **settings)
        trained[name] = run.read_rows("metrics.jsonl"), [p.detach().clone() for p in model.parameters()]
    (packed, weights), (stock, stock_weights) = trained.values()
    for ours, theirs in zip(packed, stock, strict=True):
        for key in ("loss", "token_accuracy", "grad_norm"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4), json.dumps([ours, theirs])
    before = load_model("nano")[0].parameters()
    for ours, theirs, old in zip(weights, stock_weights, before, strict=True):
        assert (ours - theirs).norm() <= 1e-2 * (theirs - old).norm() + 1e-6
