"""The treatment check (analysis.treatment)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import percent
from .base import empty_figure, method_colours, plotly_text, style_figure


def identical_by_step(table: pd.DataFrame, checks: pd.DataFrame, identical_max: float = 0.5) -> go.Figure:
    """Identical rollouts by step, of ``identical_by_step``, a line a contrast; the title has ``treatment.pairs``."""
    if table.empty:
        title = "Treatment check: no two methods of a contrast sampled the same tasks in training"
        return empty_figure(title, "only GRPO samples in training; the table compares answers")
    known = checks.dropna(subset=["identical"])
    shares = [f"{r.method} and {r.against} {percent(r.identical)}" for r in known.itertuples()]
    title = f"Identical rollouts in the second half of training: {', '.join(shares) or '–'}"
    fig = go.Figure()
    pairs = table.assign(pair=table["method"] + " and " + table["against"])
    colours = method_colours(table["against"])
    styles = dict(zip(dict.fromkeys(table["method"]), ("solid", "dash", "dot", "dashdot") * 9, strict=False))
    for pair, group in pairs.groupby("pair", sort=False):
        fig.add_scatter(
            x=group["step"],
            y=group["share"],
            name=plotly_text(pair),
            mode="lines+markers" if len(group) < 12 else "lines",
            line={"color": colours[group["against"].iloc[0]], "width": 2.5, "dash": styles[group["method"].iloc[0]]},
            hovertemplate=f"{plotly_text(pair)}, step %{{x}}: %{{y:.1%}} identical<extra></extra>",
        )
    fig.add_hline(y=identical_max, line={"color": "#333333", "width": 1, "dash": "dash"})
    fig.update_yaxes(tickformat=".0%", range=[-0.02, 1.02], title_text="identical (dashed: gate)")
    fig.update_xaxes(title_text="step of training")
    return style_figure(fig, title, 340, legend=True)
