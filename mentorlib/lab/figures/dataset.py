"""Figures of a reference data set (analysis.dataset)."""

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ..analysis.dataset import CHAINS
from .base import SHARE_HEATMAP, empty_figure, plotly_text, stacked_bars, style_figure


def chain_lengths(table: pd.DataFrame) -> go.Figure:
    """Calls a reference, stacked by suite and split, of ``chain_lengths``."""
    if table.empty:
        return empty_figure("No chains: there are no references", "no task was kept, or none was drawn")
    sums = table.groupby(["suite", "split"], sort=False)[["calls", "n"]].sum()
    means = sums["calls"] / sums["n"]
    longest = means.idxmax()
    title = f"Longest chains: {longest[0]}, {means[longest]:.1f} calls a task"
    trained = [part for part in means.index if part[1] == "train"]
    if trained and longest != trained[0]:
        title += f"; training on {trained[0][0]} shows {means[trained[0]]:.1f}"
    colours = dict(zip(CHAINS, sample_colorscale("Viridis_r", len(CHAINS)), strict=True))
    return stacked_bars(table.rename(columns={"split": "method"}), "chain", colours, title, "share of references")


def tool_calls(table: pd.DataFrame) -> go.Figure:
    """A heatmap of ``tool_calls``: each cell the tool's share of all calls of that suite and split."""
    called = table.loc[:, table.sum() > 0]
    if called.empty:
        return empty_figure("No tool was called", "these tasks need none")
    trained = called[[part for part in called if str(part).endswith("/train")]].sum(axis=1)
    evaluated = called[trained < called.sum(axis=1)]
    new = int((trained[evaluated.index] == 0).sum())
    title = f"{new} of the {len(evaluated)} tools that evaluation calls are never called in training"
    if not new:
        title = f"Training calls each of the {len(evaluated)} tools that evaluation calls"
    if evaluated.empty:
        title = f"{len(called)} tools are called, all in training"
    shares = called / called.sum()
    fig = go.Figure(
        go.Heatmap(
            z=shares.to_numpy(float),
            x=[plotly_text(part) for part in called],
            y=[plotly_text(tool) for tool in called.index],
            customdata=called.to_numpy(int),
            text=shares.map(lambda v: f"{100 * v:.0f}" if v >= 0.005 else "").to_numpy(),
            hovertemplate="%{x}: %{customdata} calls of %{y}, %{z:.1%}<extra></extra>",
            **SHARE_HEATMAP,
        )
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(tickangle=-45, showgrid=False, title_text="percent of the calls of that suite")
    return style_figure(fig, title, 190 + 22 * len(called))
