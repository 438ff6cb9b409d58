"""The figure of advantage by kind of token (analysis.token_credit)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import percent
from .base import empty_figure, stacked_bars

_COLOURS = {"call": "#E69F00", "answer": "#009E73", "other": "#7F7F7F"}


def advantage_by_token_kind(table: pd.DataFrame) -> go.Figure:
    """Where the advantage of each reward falls, stacked by kind of token, of ``advantage_by_token_kind``.

    By size of the gradient where log-probabilities are stored, else by |advantage|; the axis says which.
    """
    if table.empty:
        return empty_figure("No advantage to place: no group has variance", "only GRPO runs keep rollouts.jsonl")
    column = "gradient" if table["gradient"].notna().all() else "share"
    calls = table[table["kind"] == "call"]
    low, high = calls.loc[calls[column].idxmin()], calls.loc[calls[column].idxmax()]
    title = (
        f"Tokens of calls are {percent(calls['tokens'].mean())} of the text and take {percent(low[column])} "
        f"({low['reward']} on {low['method']}) to {percent(high[column])} ({high['reward']} on {high['method']}) "
        f"of the {'gradient' if column == 'gradient' else 'advantage'}"
    )
    if percent(low[column]) == percent(high[column]):
        title = (
            f"Tokens of calls are {percent(calls['tokens'].mean())} of the text and under every reward take "
            f"{percent(high[column])} of the {'gradient' if column == 'gradient' else 'advantage'}"
        )
    stacked = table.rename(columns={"method": "suite", "reward": "method"}).assign(share=table[column])
    weight = "|advantage| × (1 − p) of each token" if column == "gradient" else "|advantage| by token"
    return stacked_bars(stacked, "kind", _COLOURS, title, f"share of {weight}<br>(on these rollouts only)")
