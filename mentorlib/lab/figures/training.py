"""Training curves (analysis.training)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import percent
from ..analysis.training import early_and_late
from .base import empty_figure, method_colours, panels, place, plotly_text, style_figure

PANELS = {
    "accuracy": "correct rollouts",
    "reward": "reward (scales differ)",
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
    changes = {method: early_and_late(group["accuracy"].astype(float)) for method, group in methods.items()}
    gains = pd.Series({method: late - early for method, (early, late) in changes.items()}).fillna(-1.0).round(2)
    said = {method: f"{percent(early)} → {percent(late)}" for method, (early, late) in changes.items()}
    best = " and ".join(f"{method} {said[method]}" for method in gains.index[gains == gains.max()])
    title = f"Gaining most in training: {best} of rollouts correct"
    if len(said) == 1:
        title = f"Rollouts correct in training: {next(iter(said.values()))}"
    title += " (first and last quarter of the steps)"
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


def carry_over(table: pd.DataFrame) -> go.Figure:
    """Accuracy out of domain against in domain along training, of ``carry_over``: a line a method, thin ones for seeds.

    At one place on the x axis methods are equally good in domain; the line that lies higher carries over further.
    """
    if table.dropna(subset=["inside", "outside"]).empty:
        return empty_figure("Carry-over along training: not evaluated between steps", "run 02 with eval_steps=12")
    fig = go.Figure()
    colours = method_colours(table["method"])
    for (method, run), group in table.sort_values("step").groupby(["method", "run"], sort=False):
        mean = run == ""
        name = plotly_text(method)
        fig.add_scatter(
            x=group["inside"],
            y=group["outside"],
            name=name,
            legendgroup=str(method),
            showlegend=mean,
            mode="lines+markers" if mean else "lines",
            opacity=1 if mean else 0.35,
            line={"color": colours[str(method)], "width": 3 if mean else 1},
            hovertext=[
                f"{name}{'' if mean else ' ' + plotly_text(run)}, step {r.step}: in domain {percent(r.inside, 1)}, "
                f"out of domain {percent(r.outside, 1)}"
                for r in group.itertuples()
            ],
            hoverinfo="text",
        )
    last = table[table["run"] == ""].sort_values("step").groupby("method", sort=False).tail(1)
    ends = ", ".join(f"{r.method} {percent(r.inside)} → {percent(r.outside)}" for r in last.itertuples())
    fig.update_xaxes(title_text="accuracy in domain", tickformat="~%")
    fig.update_yaxes(title_text="accuracy out of domain", tickformat="~%")
    title = f"In domain → out of domain at the last evaluation along training: {ends}"
    return style_figure(fig, title, 460, legend=True)
