"""Figures of outcomes and stops (analysis.outcomes)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.comparison import common_suites
from ..analysis.text import percent
from .base import OUTCOME_COLOURS, STOP_COLOURS, empty_figure, leaders, stacked_bars


def outcome_shares(table: pd.DataFrame) -> go.Figure:
    """Outcomes, stacked by suite and method, of ``outcome_shares``."""
    if table.empty:
        return empty_figure("No outcomes: there are no rows", "run notebook 02_train first")
    common = common_suites(table)
    where = " on the suites in common" if len(common) < len(table) else ""
    failed = common[~common["outcome"].isin(["correct", "infrastructure failure"])]
    counts = failed.groupby("outcome")["n"].sum().sort_values(ascending=False)
    title = f"Nothing failed: every judged row{where} is correct"
    if len(counts):
        share = percent(counts.iloc[0] / counts.sum())
        title = f"The commonest failure: {leaders(counts, 0)}, {share} of all failures{where}"
    return stacked_bars(table, "outcome", OUTCOME_COLOURS, title)


def stop_shares(table: pd.DataFrame) -> go.Figure:
    """How the trajectories ended, stacked by suite and method, of ``stop_shares``."""
    if table.empty:
        return empty_figure("No stop reasons: there are no rows", "run notebook 02_train first")
    common = common_suites(table)
    answered = common[common["stop"] == "answered"].groupby("method")["n"].sum() / common.groupby("method")["n"].sum()
    answered = answered.fillna(0.0)
    title = "How the trajectories ended"
    if len(answered) > 1 or table["method"].nunique() == 1:
        low, high = answered.idxmin(), answered.idxmax()
        title = f"Ending in an answer: from {percent(answered[low])} ({low}) to {percent(answered[high])} ({high})"
        if percent(answered[low]) == percent(answered[high]):
            title = f"Ending in an answer: {percent(answered[high])} of the trajectories of each method"
    return stacked_bars(table, "stop", STOP_COLOURS, title)
