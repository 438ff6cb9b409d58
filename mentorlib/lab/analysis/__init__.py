"""From stored rows to numbers: DataFrames in, DataFrames out."""

from . import (
    comparison,
    dataset,
    exploits,
    findings,
    load,
    outcomes,
    recompute,
    reward_effects,
    stats,
    text,
    token_credit,
    tool_use,
    training,
)

__all__ = [
    "comparison",
    "dataset",
    "exploits",
    "findings",
    "load",
    "outcomes",
    "recompute",
    "reward_effects",
    "stats",
    "text",
    "token_credit",
    "tool_use",
    "training",
]
