"""Every causal language model of transformers, tiny: its packed and cached logits are its own, or it is refused."""

import pytest
import torch
from tiny_models import NAMES, WINDOW, tiny_model
from transformers import AutoModelForCausalLM, Gemma3Config, LlamaConfig, LlamaForCausalLM, Phi3Config

from mentorlib.core import InputError
from mentorlib.rollout.attention import PackedGroups, forward, pack, packed_attention
from mentorlib.rollout.check import check_model, context_length
from mentorlib.rollout.engine import TorchEngine
from mentorlib.rollout.model import load_model

# Not built here: needs a part that is no language model, or a size that its configuration does not let shrink.
UNBUILT = set(
    "bailing_hybrid blt cohere_compass_text dbrx dots3_note emu3 gemma3 gemma3n gemma4_assistant "
    "gemma4_unified_assistant git got_ocr2 kimi_linear llama4 moss_transcribe_diarize musicgen musicgen_melody "
    "phi4_multimodal qwen3_5 qwen3_5_moe qwen4_exp qwen4_exp_text recurrent_gemma reformer roc_bert xlstm xmod zamba "
    "zaya".split()
)
TAKEN = set(
    "llama qwen2 qwen3 qwen3_moe mistral ministral3 mixtral phi phi3 gemma gemma3_text starcoder2 smollm3 granite "
    "olmo3 gpt2 opt cohere2 exaone4 deepseek_v2 deepseek_v3 minicpm3 glm4".split()
)
REFUSED = {
    "gemma2": "softcap",
    "gpt_oss": "s_aux",
    "lfm2": "without attention",
    "jamba": "attention",
    "qwen3_next": "attention",
    "mamba": "cannot be replaced",
    "bloom": "cannot be replaced",
    "llama4_text": "hide tokens",
    "deepseek_v32": "indices",
    "roberta": "logits differ",
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("nano")[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(NAMES) - UNBUILT))
def test_every_model_is_computed_as_it_is_or_refused(kind, tokenizer):
    model = tiny_model(kind)
    try:
        engine = TorchEngine(model, tokenizer)
    except InputError as refusal:
        assert kind not in TAKEN and REFUSED.get(kind, "") in str(refusal) and "\n" not in str(refusal)
        return
    assert kind not in REFUSED
    assert_equal_to_plain(model, engine)


def assert_equal_to_plain(model, engine):
    """Sampled over two turns and packed for training, on sequences several times a window long."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randint(3, 90, (40,), generator=generator).tolist()
    prompts = [start[:34], [*start[:33], 5, 6, 7], start[:34]]
    engine.end_ids, engine.context = {-1}, 1 << 30
    sampled = engine.run(prompts, lambda _: [], max_tokens=6, seed=0)
    engine.end_ids = {sampled[0].token_ids[2]}
    turns = iter([[9, 8, 7, 6, 5]])
    sampled = engine.run(prompts, lambda closed: [next(turns, []) for _ in closed], max_tokens=12, seed=0)
    chains = [prompt + row.token_ids for prompt, row in zip(prompts, sampled, strict=True)]
    with torch.no_grad():
        plain = [model(input_ids=torch.tensor([chain]), use_cache=False).logits[0] for chain in chains]
    scale = max(x.abs().max() for x in plain)
    for prompt, row, chain, logits in zip(prompts, sampled, chains, plain, strict=True):
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(chain[len(prompt) :])[:, None])
        mask = torch.tensor(row.mask, dtype=torch.bool)
        assert torch.allclose(logprobs[:, 0][mask], torch.tensor(row.logprobs)[mask], atol=2e-3)
    pieces = [(0, start[:33]), (33, chains[0][33:]), (33, chains[2][33:]), (33, chains[1][33:])]
    with packed_attention(model):
        layout = PackedGroups([(0, [len(piece) for _, piece in pieces[1:]])], 33)
        packed = forward(model, *pack(pieces, model.device), layout, use_cache=False).logits[0]
    packed.float().logsumexp(-1).sum().backward()
    _, *parts = packed.detach().split([len(piece) for _, piece in pieces])
    for part, i in zip(parts, (0, 2, 1), strict=True):
        assert (part - plain[i][33:]).abs().max() < 2e-3 * scale


def test_every_type_is_in_one_list():
    assert not (TAKEN | set(REFUSED) | UNBUILT) - set(NAMES) and not UNBUILT & (TAKEN | set(REFUSED))


def test_gemma_3_with_its_images_part_is_computed_as_it_is(tokenizer):
    text = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    text |= {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = {"image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92, "mm_tokens_per_image": 4}
    config = Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14}, **images)
    model = AutoModelForCausalLM.from_config(config).train()
    engine = TorchEngine(model, tokenizer)
    assert model.training and engine.context == 64
    assert_equal_to_plain(model.eval(), engine)
    assert model.config._attn_implementation == "sdpa"


class NoWindow:
    """A model's configuration as its layers see it, without the window."""

    sliding_window = None

    def __init__(self, config):
        self.config = config

    def __getattr__(self, name):
        return getattr(self.config, name)


class Other(LlamaForCausalLM):
    """Gives other logits where it is not packed."""

    off = 1.0

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        if kwargs.get("layout") is None:
            out.logits = out.logits * self.off
        return out


@pytest.mark.parametrize(("off", "differs"), [(1.0, False), (1.01, True), (float("nan"), True)])
def test_a_model_that_differs_is_refused_once_it_is_seen(off, differs):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Other(LlamaConfig(vocab_size=100, **sizes))
    model.off = off
    if not differs:
        return check_model(model)
    with pytest.raises(InputError, match=r"model 'mine' .* its packed logits differ from its own by"):
        check_model(model, "mine")


def test_a_window_longer_than_the_tokens_compared_is_read_from_the_masks(tokenizer):
    """Mistral's 4,096 and Phi-3's 2,047 tokens: computed with windows, not with full attention."""
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "pad_token_id": 0}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
    model = AutoModelForCausalLM.from_config(Phi3Config(**sizes, **heads, sliding_window=30)).eval()
    assert_equal_to_plain(model, TorchEngine(model, tokenizer))
    other = AutoModelForCausalLM.from_config(Phi3Config(**sizes, **heads, sliding_window=30))
    for layer in other.model.layers:  # a window in the mask alone
        layer.self_attn.config = NoWindow(layer.self_attn.config)
    with pytest.raises(InputError, match="some layers hide tokens in a way of their own"):
        TorchEngine(other, tokenizer)


def test_the_context_ends_where_rotary_embeddings_would_change():
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "pad_token_id": 0}
    long = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "rope_theta": 10_000.0}
    config = Phi3Config(
        **sizes,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        original_max_position_embeddings=128,
        rope_parameters=long,
    )
    assert context_length(AutoModelForCausalLM.from_config(config)) == 128
    assert context_length(load_model("nano")[0]) == 2048
