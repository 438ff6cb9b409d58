"""Make a small Qwen3-architecture student from scratch: tokenizer, model and pretraining (notebook 90)."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl.chat_template_utils import qwen3_instruct_2507_chat_template

from ..rollout.attention import PackedGroups, forward, pack, packed_attention
from ..rollout.chat import encode, encode_chat, prompt_ids, render
from ..task import SYSTEM, chat_prompt
from .corpus import pretraining_examples
from .corpus.demonstration import PretrainingExample

# Token ids that the chats share (system prompt and schemas); (ids, mask) of the rest of each chat.
EncodedExample = tuple[list[int], list[tuple[list[int], list[int]]]]

# Chat and schema boilerplate, one token each. The text in between (names, descriptions, numbers) is then tokenised in
# the same way in a schema, a question and a call, so that calling a tool is copying its name, which a model of two
# million parameters can learn. Matches are leftmost-longest.
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
# Short words include the spaces beside them, so that other words have none: "hours" is then the same token in a name, a
# description, a question and a call.
SHORT_WORDS = [
    *(f" {w} " for w in "the of is and are in a with to by has have gets for on that it as into times".split()),
    *(
        " of the ",
        " of a ",
        " in a ",
        " is the ",
        " of two ",
        " of them ",
        " in the ",
        " on a ",
        " on each ",
        " and the ",
    ),
    *(
        "the ",
        "How many ",
        "What is the ",
        "What is ",
        "Find the ",
        "Write a ",
        "Write ",
        "Count the ",
        "Turn ",
        "Use ",
    ),
    *("Then ", "They are ", "There are ", "A friend ", " friends ", " people ", " are there now?", " now?", " more."),
    *(" of a list.", " of two numbers.", " in a text.", ". ", ", "),
]
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 1536
TAGS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen3's chat template (Instruct-2507, without thinking).

    It has VOCABULARY tokens, special and boilerplate ones among them. Each digit is a token, and words do not include
    spaces.

    Args:
        texts: rendered chats; the boilerplate is removed before merges are learnt.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(" ", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    fixed = [*CHAT, *TAGS, *BOILERPLATE, *SHORT_WORDS]
    border = re.compile("|".join(re.escape(t) for t in sorted(fixed, key=len, reverse=True)))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(fixed),
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for t in texts for piece in border.split(t) if piece), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CHAT])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in fixed[len(CHAT) :]])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = qwen3_instruct_2507_chat_template
    return wrapped


def rendered(examples: Iterable[PretrainingExample]) -> Iterator[str]:
    """The examples' chats as texts to train a tokenizer on; the schemas of an example occur once."""
    plain = make_tokenizer(["x"])
    for schemas, chats in examples:
        for i, (question, answer) in enumerate(chats):
            yield render(plain, chat_prompt(question) + answer, schemas if i == 0 else [], opening=False)


def make_model(
    tokenizer: PreTrainedTokenizerBase, hidden: int = 192, layers: int = 5, heads: int = 4, seed: int = 0
) -> Qwen3ForCausalLM:
    """A Qwen3 model with random weights: 2.4 million parameters with the defaults.

    Heads have 64 dimensions and their own keys and values: with narrower heads copying is unreliable.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    return Qwen3ForCausalLM(config)


def encode_example(tokenizer: PreTrainedTokenizerBase, example: PretrainingExample) -> EncodedExample:
    """Token ids that an example's chats share (up to the question), and the remaining ids and mask of each chat.

    The same tokens as ``encode_chat`` gives for each chat (tested), but the schemas are rendered once.
    """
    schemas, chats = example
    (opening,) = encode(tokenizer, "\n<|im_start|>user\n")
    shared = prompt_ids(tokenizer, chat_prompt("?"), schemas)
    rows = []
    for question, answer in chats:
        ids, mask = encode_chat(tokenizer, chat_prompt(question, system=""), answer, [])
        start = ids.index(opening) + 1
        rows.append((ids[start:], mask[start:]))
    return shared[: shared.index(opening) + 1], rows


class _FloatGroups(PackedGroups):
    """Packed attention in float32 also under autocast: on a CPU the backward pass of bfloat16 attention is slow."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """See Layout.attend."""
        with torch.autocast(query.device.type, enabled=False):
            return super().attend(layer, query.float(), key.float(), value.float(), scaling, window)


def _loss(model: Qwen3ForCausalLM, batch: list[EncodedExample], prompt_weight: float) -> Tensor:
    """Next-token loss of packed examples: each token of the assistant weighs 1, others prompt_weight.

    The chats of an example share one forward pass over its schemas and do not attend to each other, at less than half
    the computation of separate chats. With prompt_weight 0 the loss is theirs; else the schemas' tokens count once an
    example, not once a chat, and the first token of each chat behind them is not predicted.
    """
    pieces: list[tuple[int, list[int]]] = []
    end = 0  # length of the sequence so far
    sources: list[int] = []  # positions that predict a token, the tokens, and their weights
    targets: list[int] = []
    weights: list[float] = []
    for shared, rows in batch:
        for piece, mask, start in [(shared, [0] * len(shared), 0), *((r, m, len(shared)) for r, m in rows)]:
            sources += range(end, end + len(piece) - 1)
            targets += piece[1:]
            weights += [1.0 if m else prompt_weight for m in mask[1:]]
            pieces.append((start, piece))
            end += len(piece)
    layout = _FloatGroups([(len(shared), [len(ids) for ids, _ in rows]) for shared, rows in batch])
    weight = torch.tensor(weights, device=model.device)
    counted = weight.nonzero()[:, 0]
    with torch.autocast(model.device.type, torch.bfloat16):
        hidden = forward(model.model, *pack(pieces, model.device), layout, use_cache=False).last_hidden_state[0]
        logits = model.lm_head(hidden[torch.tensor(sources, device=model.device)[counted]])
    each = cross_entropy(logits.float(), torch.tensor(targets, device=model.device)[counted], reduction="none")
    return (each * weight[counted]).sum() / weight.sum()


def pretrain(
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    hidden: int = 192,
    layers: int = 5,
    heads: int = 4,
    steps: int = 1700,
    examples_per_step: int = 4,
    learning_rate: float = 4e-3,
    copying_steps: int = 350,
    clean_steps: int = 950,
    decay_steps: int = 550,
    error_scale: float = 1.0,
    seed: int = 0,
) -> tuple[Qwen3ForCausalLM, list[float]]:
    """Train a new model on examples that are drawn as they are needed, and save it to a folder as bfloat16.

    Matrices are trained with Muon, the rest with AdamW. A checkpoint is written beside the folder every 50 steps: a
    call with the same arguments continues from it, and so does one with fewer steps if the decay had not begun.

    Args:
        tokenizer: see make_tokenizer.
        folder: to save into.
        hidden, layers, heads: see make_model.
        steps: optimizer steps.
        examples_per_step: an example has about six chats.
        learning_rate: after 50 steps of warm-up; falls to 0 over the last ``decay_steps``.
        copying_steps: steps over which the examples change from spelt-out calls to questions; until then prompts
            contribute to the loss too: schemas repeat the names of their parameters, which is practice in copying.
        clean_steps: steps whose demonstrations are right and direct, since a plan is hard to learn from wrong ones;
            then errors and other right variants come in, as often as ``error_scale`` says when the decay begins.
        decay_steps: see learning_rate.
        error_scale: see pretraining_examples.
        seed: of weights and examples.

    Returns:
        the model and the loss of each step.
    """
    model = make_model(tokenizer, hidden, layers, heads, seed)
    if torch.cuda.is_available():
        torch.nn.Module.cuda(model)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    checkpoint = Path(folder).with_name("checkpoint.pt")
    losses: list[float] = []
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=model.device)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        losses = saved["losses"]
    with packed_attention(model):
        for step in range(len(losses), steps):
            copying = max(0.0, 1 - step / copying_steps)
            errors = error_scale * min(1.0, max(0.0, (step - clean_steps) / max(1, steps - decay_steps - clean_steps)))
            examples = pretraining_examples(examples_per_step, f"{seed}/{step}", copying, errors)
            loss = _loss(model, [encode_example(tokenizer, x) for x in examples], prompt_weight=0.3 * copying)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * min((step + 1) / 50, (steps - step) / decay_steps, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % 50 == 0 or len(losses) == steps:
                print(f"step {len(losses)}: loss {sum(losses[-50:]) / len(losses[-50:]):.3f}", flush=True)
                states = [optimizer.state_dict() for optimizer in optimizers]
                torch.save({"model": model.state_dict(), "optimizers": states, "losses": losses}, checkpoint)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, losses
