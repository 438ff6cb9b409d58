"""Figures of a reference data set (analysis.dataset)."""

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ..analysis.dataset import CHAINS
from .base import dress, empty, stack, text


def figure_chains(table: pd.DataFrame) -> go.Figure:
    """Lengths of chains, stacked by suite and split, of ``chains``."""
    if table.empty:
        return empty("No chains: there are no references", "nothing was kept, or nothing drawn")
    sums = table.groupby(["suite", "split"], sort=False)[["calls", "n"]].sum()
    means = sums["calls"] / sums["n"]
    longest = means.idxmax()
    title = f"Longest chains: {longest[0]}, {means[longest]:.1f} calls a task"
    trained = [part for part in means.index if part[1] == "train"]
    if trained and longest != trained[0]:
        title += f"; training on {trained[0][0]} shows {means[trained[0]]:.1f}"
    colours = dict(zip(CHAINS, sample_colorscale("Viridis_r", len(CHAINS)), strict=True))
    fig = stack(table.rename(columns={"split": "method"}), "chain", colours, title)
    return fig.update_xaxes(title_text="share of references")


def figure_calls(table: pd.DataFrame) -> go.Figure:
    """A heatmap of ``calls``: each cell the tool's share of all calls of that suite and split."""
    called = table.loc[:, table.sum() > 0]
    if called.empty:
        return empty("No tool was called", "these tasks need none")
    trained = called[[part for part in called if str(part).endswith("/train")]].sum(axis=1)
    held = called[trained < called.sum(axis=1)]
    new = int((trained[held.index] == 0).sum())
    title = f"{new} of the {len(held)} tools that evaluation calls are never called in training"
    if not new:
        title = f"Training calls each of the {len(held)} tools that evaluation calls"
    if held.empty:
        title = f"{len(called)} tools are called, all in training"
    shares = called / called.sum()
    fig = go.Figure(
        go.Heatmap(
            z=shares.to_numpy(float),
            x=[text(part) for part in called],
            y=[text(tool) for tool in called.index],
            customdata=called.to_numpy(int),
            text=shares.map(lambda v: f"{100 * v:.0f}" if v >= 0.005 else "").to_numpy(),
            texttemplate="%{text}",
            colorscale=[[0, "#F2F6F9"], [0.5, "#56B4E9"], [1, "#00436B"]],
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{x}: %{customdata} calls of %{y}, %{z:.1%}<extra></extra>",
        )
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(tickangle=-45, showgrid=False, title_text="percent of the calls of that suite")
    return dress(fig, title, 190 + 22 * len(called))
