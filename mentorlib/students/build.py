"""Make a small Qwen3-architecture student from nothing: tokenizer and random weights (notebook 90 trains it)."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl.chat_template_utils import qwen3_instruct_2507_chat_template

from ..core import SYSTEM

# Chat and schema boilerplate, one token a piece. What lies between (names, descriptions, numbers) is then tokenised
# alike in a schema, a question and a call, so that calling a tool is copying its name: what a two-million-parameter
# model can learn. Matches are leftmost-longest.
BOILERPLATE = [
    "<|im_start|>system\n",
    "\n<|im_start|>system\n",
    "\n<|im_start|>user\n",
    "\n<|im_start|>assistant\n",
    "\n<|im_start|>user\n<tool_response>\n",
    "\n</tool_response>",
    "\n<tool_response>\n",
    SYSTEM
    + "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
    "function signatures within <tools></tools> XML tags:\n<tools>",
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
    '\n{"type": "function", "function": {"name": "',
    '", "description": "',
    '", "parameters": {"type": "object", "properties": {"',
    '": {"type": "number", "description": "',
    '": {"type": "integer", "description": "',
    '": {"type": "string", "description": "',
    '": {"type": "array", "items": {"type": "number"}, "description": "',
    '"}, "',
    '"}}, "required": ["',
    '", "',
    '"]}, "return": {"type": "number"}}}',
    '"]}, "return": {"type": "integer"}}}',
    '"]}, "return": {"type": "string"}}}',
    '<tool_call>\n{"name": "',
    '", "arguments": {"',
    '": ',
    ', "',
    '": "',
    '": [',
    '], "',
    "}}\n</tool_call>",
    '"}}\n</tool_call>',
    "]}}\n</tool_call>",
    "The answer is \\boxed{",
    "}.",
    "error: no tool named '",
    "'; there are: ",
    "I cannot solve this.",
]
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def make_tokenizer(texts: Iterable[str], vocab_size: int = 1536) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with single digits and Qwen3's chat template (the Instruct-2507 one, without thinking).

    Args:
        texts: rendered chats; the boilerplate is cut out before merges are learnt.
        vocab_size: all tokens, special and boilerplate ones included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    fixed = [*CHAT, *TAGS, *BOILERPLATE]
    border = re.compile("|".join(re.escape(t) for t in sorted(fixed, key=len, reverse=True)))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(fixed),
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for t in texts for piece in border.split(t) if piece), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CHAT])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in [*TAGS, *BOILERPLATE]])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = qwen3_instruct_2507_chat_template
    return wrapped


def make_model(
    tokenizer: PreTrainedTokenizerFast, hidden: int = 192, layers: int = 5, heads: int = 6, seed: int = 0
) -> Qwen3ForCausalLM:
    """A Qwen3 model with random weights: about 2.3 million parameters with the defaults."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 3),
        head_dim=hidden // heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    return Qwen3ForCausalLM(config)


def pretrain(
    examples: list[tuple[list[int], list[int]]],
    tokenizer: PreTrainedTokenizerFast,
    folder: str | Path,
    *,
    steps: int = 2400,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    seed: int = 0,
    callbacks: list[TrainerCallback] | None = None,
) -> Qwen3ForCausalLM:
    """Train a new model on encoded demonstrations (ids, mask of assistant tokens) and save it to a folder.

    Plain next-token loss on the assistant's tokens by transformers' Trainer: TRL's SFTTrainer logs an entropy over
    all logits, which doubles a step of a model this small. bf16 autocast; weights are saved as bfloat16.
    """
    data = Dataset.from_dict(
        {
            "input_ids": [ids for ids, _ in examples],
            "labels": [[i if m else -100 for i, m in zip(ids, mask, strict=True)] for ids, mask in examples],
        }
    )
    model = make_model(tokenizer, seed=seed)
    arguments = TrainingArguments(
        output_dir=str(Path(folder).with_name("checkpoints")),
        per_device_train_batch_size=batch_size,
        max_steps=steps,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=100,
        weight_decay=0.01,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=20,
        save_strategy="steps",
        save_steps=400,
        save_total_limit=1,
        report_to=[],
        seed=seed,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        callbacks=callbacks,
    )
    trainer.train()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
