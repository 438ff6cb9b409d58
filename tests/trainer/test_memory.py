"""The computed memory against the tensors of real passes, and checkpointing against training without it."""

import copy
import gc

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config
from trl.trainer.utils import add_fused_lm_head

from mentorlib.core import InputError
from mentorlib.data.suites import generate
from mentorlib.rollout.attention import PackedGroups, forward, pack, packed_attention
from mentorlib.rollout.model import load_model
from mentorlib.runs.run import Run
from mentorlib.trainer.grpo import train_grpo
from mentorlib.trainer.memory import GIB, LiveBytes, training_memory
from mentorlib.trainer.setup import check_checkpointing
from mentorlib.trainer.sft import train_sft

SIZES = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 6}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
PASS = {"micro_batch": 3, "prompt_tokens": 40, "completion_tokens": 60}
CONFIGS = {
    "qwen3": Qwen3Config(**SIZES, **HEADS, tie_word_embeddings=True),
    "llama": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=False),
}


def real_pass(config, checkpointing):
    """(Bytes that autograd keeps, peak of the live ones) of a real pass in bfloat16 over the layout of PASS."""
    model = AutoModelForCausalLM.from_config(config).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    add_fused_lm_head(model)
    prompt, rows = PASS["prompt_tokens"], [PASS["completion_tokens"]] * PASS["micro_batch"]
    ids, positions = pack([(0, [5] * prompt), *((prompt, [6] * n) for n in rows)], torch.device("cpu"))
    kept = {}

    def keep(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    weights = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    live = LiveBytes([*model.parameters(), *model.buffers()])
    with packed_attention(model), live:
        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            layout = PackedGroups([(prompt, rows)])
            loss = forward(model, ids, positions, layout, shift_labels=ids[None], fused_lm_head=True).log_probs.sum()
        loss.backward()
    return sum(size for at, size in kept.items() if at not in weights), live.peak


@pytest.mark.parametrize("kind", CONFIGS)
def test_saved_tensors_are_those_of_a_real_pass(kind):
    """Of six layers, where two and four are computed."""
    computed = training_memory(CONFIGS[kind], **PASS)
    kept, _ = real_pass(CONFIGS[kind], checkpointing=False)
    assert kept == pytest.approx(computed["saved"] * GIB, rel=0.05)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    weights = 4 * model.num_parameters()
    assert computed["weights"] / 2 == computed["gradients"] == pytest.approx(weights / GIB)  # and the reference's
    assert computed["optimizer"] == pytest.approx(2 * weights / GIB, rel=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_that_of_a_real_pass(checkpointing):
    config = CONFIGS["llama"]
    computed = training_memory(config, **PASS, gradient_checkpointing=checkpointing)
    _, peak = real_pass(config, checkpointing)
    of_the_pass = (computed["all"] - computed["weights"] - computed["optimizer"]) * GIB
    assert peak == pytest.approx(of_the_pass, rel=0.05)


@pytest.mark.parametrize("layers", [1, 3])
def test_a_model_of_few_layers_has_a_size_too(layers):
    config = copy.deepcopy(CONFIGS["qwen3"])
    config.num_hidden_layers, config.layer_types = layers, ["full_attention"] * layers
    with torch.device("meta"):
        weights = sum(4 * weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    assert training_memory(config, **PASS)["weights"] / 2 == pytest.approx(weights / GIB)


def test_checkpointing_and_lora_need_less():
    plain, checkpointed = (training_memory(CONFIGS["qwen3"], **PASS, gradient_checkpointing=on) for on in (False, True))
    assert checkpointed["saved"] < plain["saved"] / 4 and checkpointed["all"] < plain["all"]
    adapted = training_memory(CONFIGS["qwen3"], **PASS, lora_rank=4, gradient_checkpointing=True)
    assert adapted["gradients"] < plain["gradients"] / 4 and adapted["all"] < checkpointed["all"]


PAIRS = generate("calculator", 8, seed=1)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_checkpointing_changes_no_number(tmp_path, sandbox, method, lora_rank):
    trained, metrics = [], []
    for on in (False, True):
        run = Run(f"{method}-{on}", root=tmp_path)
        model, tokenizer = load_model("nano")
        settings = {"steps": 2, "learning_rate": 1e-3, "lora_rank": lora_rank, "gradient_checkpointing": on}
        torch.manual_seed(0)
        if method == "sft":
            model = train_sft(run, model, tokenizer, PAIRS, batch_size=4, micro_batch=2, **settings)
        else:
            sizes = {"groups": 2, "group_size": 4, "max_tokens": 64, "reward": "sparse", "micro_batch": 4}
            model = train_grpo(run, model, tokenizer, PAIRS, sandbox, **sizes, **settings)
        assert not model.is_gradient_checkpointing
        trained.append(model)
        metrics.append(
            [{k: v for k, v in row.items() if k not in ("time", "seconds")} for row in run.read_rows("metrics.jsonl")]
        )
    for a, b in zip(*metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5, nan_ok=True)
    for a, b in zip(*(model.parameters() for model in trained), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_checkpointing_keeps_less_in_a_training(tmp_path):
    peaks = []
    for on in (False, True):
        gc.collect()
        model, tokenizer = load_model("nano")
        with LiveBytes([*model.parameters(), *model.buffers()]) as live:
            train_sft(
                Run(f"live-{on}", root=tmp_path),
                model,
                tokenizer,
                PAIRS,
                steps=1,
                batch_size=8,
                gradient_checkpointing=on,
            )
        peaks.append(live.peak)
    assert peaks[1] < 0.8 * peaks[0], peaks


def test_a_model_without_checkpointing_is_refused():
    class Model:
        supports_gradient_checkpointing = False

    check_checkpointing(Model(), False)
    with pytest.raises(InputError, match="gradient_checkpointing: Model does not support it"):
        check_checkpointing(Model(), True)
