"""Training curves (analysis.training)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import percent
from .base import empty_figure, method_colours, panels, plotly_text, style_figure

PANELS = {
    "accuracy": "correct rollouts",
    "reward": "reward (scales are not comparable)",
    "zero_variance": "zero-variance groups",
}


def training_curves(table: pd.DataFrame) -> go.Figure:
    """Accuracy, reward and zero-variance groups by rollouts sampled, of ``training_curves``; running means.

    The band goes from the lowest to the highest seed.
    """
    if table.empty:
        title = "No training curves: none of these runs has training rollouts"
        return empty_figure(title, "base and sft sample nothing in training")
    window = max(1, int(table["step"].nunique() // 8))
    methods = {method: group.sort_values("step") for method, group in table.groupby("method", sort=False)}
    gains = {method: group["smooth"].iloc[-1] - group["smooth"].iloc[0] for method, group in methods.items()}
    best = max(gains, key=lambda m: gains[m])
    first, last = methods[best]["smooth"].iloc[[0, -1]]
    lead = f"{best} gains most in training" if len(gains) > 1 else f"{best} in training"
    title = f"{lead}: {percent(first)} → {percent(last)} of rollouts correct"
    if gains[best] <= 0:
        title = "No method gets more rollouts right at the end of training than at its start"
    fig = panels(list(PANELS.values()), 0.18)
    colours = method_colours(methods)
    for method, group in methods.items():
        tint = colours[method]
        for i, key in enumerate(PANELS, 1):
            common = {"legendgroup": method, "name": plotly_text(method), "row": i, "col": 1}
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
    fig.update_yaxes(tickformat=".2f", row=2, col=1)
    fig.update_xaxes(title_text="rollouts of a run", row=3, col=1)
    return style_figure(fig, title, 620, legend=True)
