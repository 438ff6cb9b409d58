"""The figure of ungrounded arguments (analysis.ungrounded)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.comparison import common_suites
from ..analysis.text import percent
from .base import dot_plot, empty_figure, plotly_text, style_figure


def ungrounded_calls(table: pd.DataFrame) -> go.Figure:
    """Share of calls with an ungrounded argument, by suite and method, of ``ungrounded_calls``."""
    known = table.dropna(subset=["share"])
    if known.empty:
        return empty_figure("No calls, so no ungrounded arguments", "give runs that called tools")
    totals = common_suites(known).groupby("method", sort=False)[["n", "calls"]].sum()
    shares = totals["n"] / totals["calls"]
    title = "Ungrounded arguments"
    if len(shares) > 1 or known["method"].nunique() == 1:
        title += f": in {percent(shares.min(), 1)} of {shares.idxmin()}'s calls"
    if len(shares) > 1:
        title += f" to {percent(shares.max(), 1)} of {shares.idxmax()}'s"
        if percent(shares.min(), 1) == percent(shares.max(), 1):
            title = f"Ungrounded arguments: in {percent(shares.max(), 1)} of each method's calls"
    hover = [
        f"{plotly_text(r.method)} on {plotly_text(r.suite)}: {r.n} of {r.calls} calls, in {r.rows} trajectories; "
        f"false-positive rate {percent(r.false_positive_rate, 1)}"
        for r in known.itertuples()
    ]
    fig, height = dot_plot(known, "suite", "share", hover, flag="ungrounded argument")
    axis = "calls with an ungrounded argument<br>(with 95% interval)"
    fig.update_xaxes(title_text=axis, tickformat=".0%", rangemode="tozero")
    return style_figure(fig, title, height)
