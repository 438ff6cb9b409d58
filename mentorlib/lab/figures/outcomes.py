"""Figures of outcomes and stops (analysis.outcomes)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.comparison import common_suites
from ..analysis.findings import commonest_failure
from ..analysis.text import percent
from .base import OUTCOME_COLOURS, STOP_COLOURS, empty_figure, stacked_bars


def outcome_shares(table: pd.DataFrame) -> go.Figure:
    """Outcomes, stacked by suite and method, of ``outcome_shares``."""
    if table.empty:
        return empty_figure("No outcomes: there are no rows", "run notebook 02_train first")
    return stacked_bars(table, "outcome", OUTCOME_COLOURS, commonest_failure(table))


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
