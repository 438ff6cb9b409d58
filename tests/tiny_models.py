"""A tiny model of every causal language model in transformers, with weights large enough for differences to show."""

from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

WINDOW = 4
_LAYERS = (
    "num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers num_encoder_layers num_decoder_layers"
)
_HEADS = "num_attention_heads n_head num_heads n_heads decoder_attention_heads encoder_attention_heads"
_WIDTHS = (
    "hidden_size intermediate_size n_embd n_inner d_model ffn_dim d_ff word_embed_proj_dim decoder_ffn_dim dim_ff "
    "encoder_ffn_dim embedding_size dim_model hidden_dim"
)
_EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts"
_POSITIONS = "max_position_embeddings n_positions n_ctx"
SIZES: dict[str, Any] = {
    **dict.fromkeys(_LAYERS.split(), 2),
    **dict.fromkeys(_HEADS.split(), 4),
    **dict.fromkeys(_WIDTHS.split(), 64),
    **dict.fromkeys(_EXPERTS.split(), 4),
    **dict.fromkeys(_POSITIONS.split(), 64),
    **dict.fromkeys("num_experts_per_tok moe_topk".split(), 2),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size".split(), 32),
    **dict.fromkeys("n_group topk_group moe_layer_start_index first_k_dense_replace".split(), 1),
    **dict.fromkeys("q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim head_dim".split(), 16),
    **{"vocab_size": 96, "vocab_size_per_layer_input": 96, "hidden_size_per_layer_input": 8, "num_key_value_heads": 2},
    **{"v_head_dim": 8, "rotary_dim": 8, "sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    **{"attention_chunk_size": 4, "index_topk": 4, "index_topk_blocks": 1, "index_block_size": 2},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "is_decoder": True},
}
_LATENT = {"num_key_value_heads": 4}  # latent attention has a key head for each query head
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
FURTHER: dict[str, dict[str, Any]] = {
    **dict.fromkeys("axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa".split(), _LATENT),
    **dict.fromkeys("longcat_flash minicpm3 youtu dots3_note_text".split(), _LATENT),
    **dict.fromkeys("qwen3_next qwen3_5_text qwen3_5_moe_text bailing_hybrid".split(), _LINEAR),
    "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma4_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_kv_shared_layers": 0,
        "intermediate_size": [64, 64],
        "activation_sparsity_pattern": [0.0, 0.0],
        "laurel_rank": 8,
    },
    "dots1": {"n_shared_experts": 1},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "layers_block_type": ["mamba", "attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "mamba2": {"head_dim": 16, "num_heads": 8, "expand": 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "dbrx": {"attn_config": {"kv_n_heads": 2}, "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4}},
}


def tiny_model(kind: str) -> PreTrainedModel:
    """A random model of a type in MODEL_FOR_CAUSAL_LM_MAPPING, of at most 3 million parameters, in evaluation mode."""
    config_class = CONFIG_MAPPING[kind]
    default = config_class()
    text = default.get_text_config(decoder=True)
    if text is default or config_class.is_encoder_decoder or not config_class.sub_configs:
        config = config_class(**_sizes(default))
    else:
        part = next(name for name in config_class.sub_configs if getattr(default, name, None) is text)
        config = config_class(**{part: type(text)(**_sizes(text)).to_dict()})
    name = NAMES[kind]
    model_class = getattr(transformers, name if isinstance(name, str) else name[0])
    with torch.device("meta"):
        size = model_class(config).num_parameters()
    if size > 3_000_000:
        raise ValueError(f"{size:,} parameters")
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 2 / weight.size(-1) ** 0.5, generator=generator)
        model(input_ids=torch.arange(3, 15)[None])  # the model's own code may not run at this size
    return model


def _sizes(config: PreTrainedConfig) -> dict[str, Any]:
    known = set(config.to_dict()) | set(config.attribute_map)
    return {k: v for k, v in (SIZES | FURTHER.get(config.model_type, {})).items() if k in known}
