"""SFT batches as packed sequences: no padding, and what references begin with (tools) is computed once.

Prompts with tools are long and answers short, and TRL's SFTTrainer computes every prompt anew. ``packed_batch`` gives
it one sequence a backward pass in which references that begin alike follow their common beginning
(``rollout.attention``). Loss and gradients are the same to rounding (tests/trainer); benchmarks/sft_step.py has the
speed.
"""

from typing import Any

import torch

from ..rollout.attention import UNUSED_MASK, PackedGroups, common_prefix, pack

Row = dict[str, list[int]]


def packed_batch(rows: list[Row]) -> dict[str, Any]:
    """A data collator: rows as the keyword arguments of a model within ``packed_attention``.

    Args:
        rows: ``{"input_ids", "labels"}``, with the label of each token at its place, -100 where there is no loss.

    Returns:
        One packed sequence of shape (1, tokens); ``shift_labels`` has the label that each token predicts.
    """
    groups = group_by_prefix(rows)
    start = common_prefix([prompt(row) for row in rows])
    pieces: list[tuple[int, list[int]]] = [(0, rows[0]["input_ids"][:start])]  # first position, token ids
    labels = [-100] * start
    sizes: list[tuple[int, list[int]]] = []
    for group in groups:
        shared = max(start, common_prefix([prompt(row) for row in group]))
        group.sort(key=lambda row: len(row["input_ids"]))
        pieces.append((start, group[0]["input_ids"][start:shared]))
        labels += [-100] * (shared - start)
        for row in group:
            pieces.append((shared, row["input_ids"][shared:]))
            labels += [*row["labels"][shared + 1 :], -100]
        sizes.append((shared - start, [len(row["input_ids"]) - shared for row in group]))
    ids, positions = pack(pieces, torch.device("cpu"))
    shift_labels = torch.tensor([labels])
    return {
        "input_ids": ids[None],
        "position_ids": positions[None],
        "attention_mask": UNUSED_MASK,
        "layout": PackedGroups(sizes, start),
        "labels": shift_labels,  # transformers counts a step's labels only where there is this key
        "shift_labels": shift_labels,
    }


def prompt(row: Row) -> list[int]:
    """The part of a row that may be shared: all before the token that predicts its first label."""
    first = next((i for i, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))
    return row["input_ids"][: max(first - 1, 0)]


def group_by_prefix(rows: list[Row]) -> list[list[Row]]:
    """Rows in groups that share more of their prompts than all rows do (such as those that offer the same tools)."""
    ordered = sorted(rows, key=lambda row: row["input_ids"])
    start = common_prefix([prompt(row) for row in ordered])
    groups = [ordered[:1]]
    for row in ordered[1:]:
        if common_prefix([prompt(row)[start:], prompt(groups[-1][-1])[start:]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
