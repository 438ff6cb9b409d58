"""Log-probabilities of a GRPO batch from packed groups: no padding, and every distinct prompt computed once.

TRL's ``GRPOTrainer._get_per_token_logps_and_entropies`` reads each row from the start of its prompt and pads all rows
to the longest. Here the rows of a group follow their prompt in one packed sequence (``rollout.attention``). Values and
gradients are the same to rounding (tests/trainer); benchmarks/training_step.py has the speed.
"""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ..rollout.attention import PackedGroups, common_prefix, forward, pack


def packed_logps(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor,
    logits_to_keep: int,
    rows_a_pass: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[Tensor, Tensor | None]:
    """Log-probability and entropy (nats) of every completion token, each of shape (rows, logits_to_keep).

    The entropy is None for a reference model, which TRL does not ask for it.

    Args:
        model: a model within ``packed_attention``.
        input_ids, attention_mask: (rows, prompt + completion); prompts padded on the left, completions on the right.
        logits_to_keep: width of the padded completions, in tokens.
        rows_a_pass: rows of a forward pass.
        autocast: gives the mixed-precision context of a forward pass.

    Padded positions hold zeros; the loss masks them.
    """
    width = input_ids.size(1) - logits_to_keep
    starts = (width - attention_mask[:, :width].sum(1)).tolist()
    lengths = attention_mask[:, width:].sum(1).tolist()
    ids = input_ids.tolist()
    prompts = [row[start:width] for row, start in zip(ids, starts, strict=True)]
    completions = [row[width:][:length] for row, length in zip(ids, lengths, strict=True)]
    order = sorted(range(len(ids)), key=lambda row: (prompts[row], lengths[row]))
    logps: list[Tensor] = [input_ids.new_empty(0)] * len(ids)
    entropies = list(logps)
    for first in range(0, len(order), rows_a_pass):
        rows = order[first : first + rows_a_pass]
        groups = [list(group) for _, group in itertools.groupby(rows, lambda row: prompts[row])]
        # The last token of a prompt opens each of its rows, since it predicts the row's first token.
        shared = common_prefix([prompts[group[0]][:-1] for group in groups])
        pieces: list[tuple[int, list[int], int]] = [(0, prompts[rows[0]][:-1][:shared], -1)]  # position, tokens, row
        for group in groups:
            prompt = prompts[group[0]]
            pieces.append((shared, prompt[shared:-1], -1))
            pieces += [(len(prompt) - 1, [prompt[-1], *completions[row]][: lengths[row]], row) for row in group]
        labels = [
            token for _, tokens, row in pieces for token in (completions[row] if row >= 0 else [-100] * len(tokens))
        ]
        sizes = [(len(prompts[group[0]]) - 1 - shared, [lengths[row] for row in group]) for group in groups]
        with autocast():
            output = forward(
                model,
                *pack([(position, tokens) for position, tokens, _ in pieces], input_ids.device),
                PackedGroups(sizes, shared),
                shift_labels=torch.tensor([labels], device=input_ids.device),
                fused_lm_head=True,
            )
        lengths_of_pieces = [len(tokens) for _, tokens, _ in pieces]
        for values, by_row in ((output.log_probs, logps), (output.entropy, entropies)):
            if values is None:
                continue
            for (_, _, row), piece in zip(pieces, values[0].split(lengths_of_pieces), strict=True):
                if row >= 0:
                    by_row[row] = torch.nn.functional.pad(piece, (0, logits_to_keep - len(piece)))
    return torch.stack(logps), torch.stack(entropies) if output.entropy is not None else None
