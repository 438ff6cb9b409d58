"""Print the tables of memory in docs/gpu.md: ``python docs/gpu_table.py``."""

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen3Config

from mentorlib.trainer.memory import GIB, training_memory

QWEN3_1_7B = Qwen3Config(
    vocab_size=151_936,
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)


def sampling_memory(
    config: PreTrainedConfig, *, rows: int, prompts: int, prompt_tokens: int, completion_tokens: int
) -> dict[str, float]:
    """Memory of the built-in engine on a GPU, in GiB, beside the weights, their optimizer and a reference.

    Args:
        config: the model's.
        rows, prompts: rollouts sampled at once, and their different prompts.
        prompt_tokens, completion_tokens: of each prompt and row; tool results count as completion.

    Returns:
        ``copy`` (the weights in bfloat16), ``cache`` (keys and values, with the places that grow by doubling),
        ``logits`` (of one token of each row, and their probabilities) and ``all``.
    """
    text = config.get_text_config(decoder=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * heads * size * 2  # keys and values, two bytes each
    places = 64
    while places < completion_tokens:
        places *= 2
    memory = {
        "copy": 2 * model.num_parameters() / GIB,
        "cache": (prompts * prompt_tokens + rows * places) * token / GIB,
        "logits": 4 * rows * text.vocab_size * 4 / GIB,
    }
    return {**memory, "all": sum(memory.values())}


def table(config: PreTrainedConfig, prompt_tokens: int, completion_tokens: int) -> str:
    """docs/gpu.md's table of training_memory, as Markdown."""
    lines = ["| trained | micro_batch | checkpointing | weights | optimizer | gradients | saved | all |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for lora_rank in (0, 32):
        for micro_batch in (2, 8):
            for checkpointing in (False, True):
                memory = training_memory(
                    config,
                    micro_batch=micro_batch,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    lora_rank=lora_rank,
                    gradient_checkpointing=checkpointing,
                )
                name, on = f"LoRA {lora_rank}" if lora_rank else "all", "yes" if checkpointing else "no"
                figures = " | ".join(f"{size:.1f}" for size in memory.values())
                lines.append(f"| {name} | {micro_batch} | {on} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(QWEN3_1_7B, 600, 2048))
    for rows in (32, 80):
        sampled = sampling_memory(QWEN3_1_7B, rows=rows, prompts=8, prompt_tokens=600, completion_tokens=2048)
        print(rows, "rows:", ", ".join(f"{part} {size:.1f}" for part, size in sampled.items()))
