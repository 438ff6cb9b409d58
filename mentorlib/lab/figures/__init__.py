"""From numbers to plotly figures; each file draws what the analysis file of its name computes."""

from . import base, comparison, dataset, exploits, outcomes, reward_effects, token_credit, tool_use, training

__all__ = [
    "base",
    "comparison",
    "dataset",
    "exploits",
    "outcomes",
    "reward_effects",
    "token_credit",
    "tool_use",
    "training",
]
