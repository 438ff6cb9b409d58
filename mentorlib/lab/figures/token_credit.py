"""The figure of advantage by kind of token (analysis.token_credit)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import percent
from .base import empty, stack

_COLOURS = {"call": "#E69F00", "answer": "#009E73", "other": "#7F7F7F"}


def figure(table: pd.DataFrame) -> go.Figure:
    """Where the advantage of each reward falls, stacked by kind of token, of ``gradient``.

    By gradient at the logit where log-probabilities are kept, else by |advantage| alone; the axis says which.
    """
    if table.empty:
        return empty("No advantage to place: no group has spread", "only GRPO runs keep rollouts.jsonl")
    column = "logit" if table["logit"].notna().all() else "share"
    calls = table[table["kind"] == "call"]
    low, high = calls.loc[calls[column].idxmin()], calls.loc[calls[column].idxmax()]
    title = (
        f"Tokens of calls are {percent(calls['tokens'].mean())} of the text and take {percent(low[column])} "
        f"({low['reward']} on {low['method']}) to {percent(high[column])} ({high['reward']} on {high['method']}) "
        "of the push"
    )
    stacked = table.rename(columns={"method": "suite", "reward": "method"}).assign(share=table[column])
    fig = stack(stacked, "kind", _COLOURS, title)
    said = "|advantage| × (1 − p) of each token" if column == "logit" else "|advantage| by token"
    return fig.update_xaxes(title_text=f"share of {said}<br>(on these rollouts only)")
