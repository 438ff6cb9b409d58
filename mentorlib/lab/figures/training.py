"""Training curves (analysis.training)."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..analysis.text import percent
from .base import colour, dress, empty, text

PANELS = {
    "accuracy": "correct rollouts",
    "reward": "own reward (not comparable)",
    "dead": "groups that teach nothing",
}


def figure(table: pd.DataFrame) -> go.Figure:
    """Accuracy, own reward and dead groups by rollouts sampled, of ``curves``; running means; band: seed to seed."""
    if table.empty:
        return empty(
            "No learning curves: none of these runs has training rollouts", "base and sft sample nothing while training"
        )
    window = max(1, int(table["step"].nunique() // 8))
    methods = [(method, group.sort_values("step")) for method, group in table.groupby("method", sort=False)]
    gains = {method: group["smooth"].iloc[-1] - group["smooth"].iloc[0] for method, group in methods}
    best = max(gains, key=lambda m: gains[m])
    first, last = dict(methods)[best]["smooth"].iloc[[0, -1]]
    lead = f"{best} gains most while training" if len(gains) > 1 else f"{best} in training"
    title = f"{lead}: {percent(first)} → {percent(last)} of rollouts correct"
    if gains[best] <= 0:
        title = "No method gets more rollouts right at the end of training than at its start"
    fig = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=list(PANELS.values()))
    for method, group in methods:
        for i, key in enumerate(PANELS, 1):
            tint = colour(method)
            common = {"legendgroup": method, "name": text(method), "row": i, "col": 1}
            if key == "accuracy" and group["runs"].max() > 1:
                fig.add_scatter(
                    x=[*group["rollouts"], *group["rollouts"][::-1]],
                    y=[*group["best"], *group["worst"][::-1]],
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
            hover = f"{text(method)}, %{{x:,.0f}} rollouts: %{{y:{'.2f' if key == 'reward' else '.0%'}}}<extra></extra>"
            fig.add_scatter(
                x=group["rollouts"],
                y=group["smooth"] if key == "accuracy" else mean,
                line={"color": tint, "width": 2.5},
                hovertemplate=hover,
                showlegend=i == 1,
                mode="lines+markers" if len(group) < 12 else "lines",
                **common,
            )
    fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    fig.update_yaxes(tickformat=".2f", row=2, col=1)
    fig.update_xaxes(title_text="rollouts of a run", row=3, col=1)
    return dress(fig, title, 620, legend=True)
