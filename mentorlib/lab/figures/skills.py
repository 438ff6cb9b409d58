"""Figures of pass@k and of accuracy by number of calls (analysis.skills)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import leaders, percent
from .base import empty_figure, method_colours, panels, place, plotly_text, style_figure

FEWEST = 10  # rows behind a point: fewer say nothing of a method


def pass_at_k(table: pd.DataFrame) -> go.Figure:
    """pass@k by k, a line a method and a panel a domain, of ``pass_at_k``."""
    if table.empty:
        return empty_figure("pass@k: no task was sampled several times", "run 02 with eval_samples=4")
    most = int(table["k"].max())
    ends = table[(table["k"] == most) & (table["domain"] == table["domain"].iloc[-1])]
    said = ", ".join(f"{r.method} {percent(r.share)}" for r in ends.itertuples())
    fig, height = _lines(table, "k", "share", "domain")
    fig.update_xaxes(title_text="samples k", dtick=1)
    fig.update_yaxes(tickformat=".0%")
    return style_figure(fig, f"pass@{most} {ends['domain'].iloc[0]}: {said}", height + 130, legend=True)


def by_calls(table: pd.DataFrame) -> go.Figure:
    """Accuracy by the teacher's number of calls, a line a method, of ``by_calls``; points of FEWEST rows or more."""
    if table.empty:
        return empty_figure("Accuracy by number of calls: no evaluated rows", "run notebook 02_train first")
    table = table[table["n"] >= FEWEST]
    if table.empty:
        return empty_figure(f"No number of calls has {FEWEST} evaluated rows", "evaluate more tasks")
    fig, height = _lines(table.assign(panel="all suites"), "calls", "accuracy", "panel")
    none = " (0: no tool fits)" if (table["calls"] == 0).any() else ""
    fig.update_xaxes(title_text=f"calls of the teacher{none}", dtick=1)
    fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    methods = table["method"].nunique()
    shared = table[table.groupby("calls")["method"].transform("nunique") == methods]
    title = f"Accuracy of {methods} methods by number of calls, of which none is common to all"
    if len(shared):
        calls = int(shared["calls"].max())
        right = shared[shared["calls"] == calls].set_index("method")["accuracy"]
        said = f"{percent(right.min())} ({leaders(-right, 2)}) to {percent(right.max())} ({leaders(right, 2)})"
        said = said if right.nunique() > 1 else percent(right.max())
        title = f"Accuracy where the teacher made {calls} call{'s' if calls != 1 else ''}: {said}"
    return style_figure(fig, title, height + 130, legend=True)


def _lines(table: pd.DataFrame, x: str, y: str, panel: str) -> tuple[go.Figure, int]:
    """Lines with intervals, a method each, and a panel for each value of ``panel``; the figure and its height.

    Methods are moved apart a little.
    """
    names = list(dict.fromkeys(table[panel]))
    fig, height = panels([str(name) for name in names], 2, 240)
    colours = method_colours(table["method"])
    for i, (method, rows) in enumerate(table.groupby("method", sort=False)):
        shift = 0.04 * (i - (table["method"].nunique() - 1) / 2)
        for number, name in enumerate(names):
            group = rows[rows[panel] == name]
            fig.add_scatter(
                x=group[x] + shift,
                y=group[y],
                name=plotly_text(method),
                legendgroup=str(method),
                showlegend=number == 0,
                mode="lines+markers",
                line={"color": colours[str(method)], "width": 2},
                error_y={
                    "array": group["high"] - group[y],
                    "arrayminus": group[y] - group["low"],
                    "symmetric": False,
                    "thickness": 1,
                    "width": 0,
                },
                hovertext=[
                    f"{plotly_text(method)}, {x} {r[x]}: {percent(r[y], 1)} [{percent(r['low'])}, {percent(r['high'])}]"
                    for r in group.to_dict("records")
                ],
                hoverinfo="text",
                **place(number, fig),
            )
    return fig, height
