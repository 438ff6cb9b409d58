"""Training curves (analysis.training)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..analysis.stats import SEEDS
from ..analysis.text import percent
from .base import empty_figure, method_colours, panels, place, plotly_text, style_figure

PANELS = {
    "accuracy": "correct rollouts",
    "reward": "reward (scales are not comparable)",
    "zero_variance": "zero-variance groups",
}


def _span(methods: Mapping[Any, pd.DataFrame], at: int) -> str:
    """The share of rollouts correct at a curve's start (0) or end (-1), from the lowest method to the highest."""
    shares = [group["smooth"].iloc[at] for group in methods.values()]
    low, high = percent(min(shares)), percent(max(shares))
    return high if low == high else f"{low.removesuffix('%')}–{high}"


def training_curves(table: pd.DataFrame) -> go.Figure:
    """Accuracy, reward and zero-variance groups by rollouts sampled, of ``training_curves``; running means.

    The band goes from the lowest to the highest seed.
    """
    if table.empty:
        title = "No training curves: none of these runs has training rollouts"
        return empty_figure(title, "base and sft sample nothing in training")
    window = max(1, int(table["step"].nunique() // 8))
    methods = {method: group.sort_values("step") for method, group in table.groupby("method", sort=False)}
    title = f"Rollouts correct in training: {_span(methods, 0)} → {_span(methods, -1)}"
    ends = pd.DataFrame({method: group.iloc[-1] for method, group in methods.items()}).T
    best = ends["smooth"].astype(float).idxmax()
    others = ends.drop(index=best)
    if len(others) and ends["runs"].min() >= SEEDS and ends.loc[best, "seed_low"] > others["seed_high"].max():
        title = f"{best} ends highest in training: {_span({best: methods[best]}, -1)} of rollouts correct"
    fig, height = panels(list(PANELS.values()), 3, 220, shared_y=False)
    colours = method_colours(methods)
    for method, group in methods.items():
        tint = colours[method]
        for i, key in enumerate(PANELS, 1):
            common = {"legendgroup": method, "name": plotly_text(method), **place(i - 1, fig)}
            if key == "accuracy" and group["runs"].max() > 1:
                fig.add_scatter(
                    x=[*group["rollouts"], *group["rollouts"][::-1]],
                    y=[*group["seed_high"], *group["seed_low"][::-1]],
                    fill="toself",
                    fillcolor=tint,
                    opacity=0.15,
                    line={"width": 0, "color": tint},
                    mode="lines",
                    showlegend=False,
                    hoverinfo="skip",
                    **common,
                )
            mean = group[key].rolling(window, min_periods=1, center=True).mean()
            value = "%{y:.2f}" if key == "reward" else "%{y:.0%}"
            fig.add_scatter(
                x=group["rollouts"],
                y=group["smooth"] if key == "accuracy" else mean,
                line={"color": tint, "width": 2.5},
                hovertemplate=f"{plotly_text(method)}, %{{x:,.0f}} rollouts: {value}<extra></extra>",
                showlegend=i == 1,
                mode="lines+markers" if len(group) < 12 else "lines",
                **common,
            )
    fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    fig.update_yaxes(tickformat=".2f", **place(1, fig))
    fig.update_xaxes(title_text="rollouts of a run", nticks=5)
    return style_figure(fig, title, height + 130, legend=True)
