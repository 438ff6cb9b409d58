"""Figures of outcomes and stops (analysis.outcomes)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.comparison import shared
from ..analysis.text import percent
from .base import OUTCOME_COLOURS, STOP_COLOURS, empty, stack


def outcomes(table: pd.DataFrame) -> go.Figure:
    """What became of the rollouts, stacked by suite and method, of ``analysis.shares(rows, "outcome")``."""
    if table.empty:
        return empty("No outcomes: there are no rows", "run notebook 02_train first")
    failed = (
        table[~table["outcome"].isin(["correct", "infrastructure failure"])]
        .groupby("outcome")["n"]
        .sum()
        .sort_values(ascending=False)
    )
    if failed.empty:
        title = "Nothing failed: every judged row is correct"
    else:
        title = (
            f"The commonest failure is “{failed.index[0]}”: {percent(failed.iloc[0] / failed.sum())} of all failures"
        )
    return stack(table, "outcome", OUTCOME_COLOURS, title)


def stops(table: pd.DataFrame) -> go.Figure:
    """How the trajectories ended, stacked by suite and method, of ``analysis.shares(rows, "stop")``."""
    if table.empty:
        return empty("No stop reasons: there are no rows", "run notebook 02_train first")
    even = shared(table)
    answered = even[even["stop"] == "answered"].groupby("method")["n"].sum() / even.groupby("method")["n"].sum()
    answered = answered.fillna(0.0)
    title = "How the trajectories ended"
    if len(answered) > 1 or table["method"].nunique() == 1:
        low, high = answered.idxmin(), answered.idxmax()
        title = f"Ending in an answer: from {percent(answered[low])} ({low}) to {percent(answered[high])} ({high})"
    return stack(table, "stop", STOP_COLOURS, title)
