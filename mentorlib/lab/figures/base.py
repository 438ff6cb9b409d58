"""DataFrames of ``lab.analysis`` -> plotly figures: one function a claim, whose title states what the data say.

A method has one colour wherever it appears (Okabe and Ito's palette, told apart by colour-blind readers). Heights are
fixed and widths free, titles broken by hand, names beside their marks where there is room and legends where there is
none, so that a figure reads at 390 pixels as at 1280. Every string that comes from data is escaped: plotly renders a
subset of HTML. An empty DataFrame gives an empty figure that says what is missing.
"""

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..analysis.outcomes import OUTCOMES
from ..analysis.text import link, percent

METHODS = {
    "teacher": "#000000",
    "base": "#7F7F7F",
    "sft": "#E69F00",
    "grpo-sparse": "#56B4E9",
    "grpo-strict": "#CC79A7",
    "grpo-exact": "#0072B2",
    "grpo-partial": "#009E73",
    "grpo-f1": "#D55E00",
    "grpo-none": "#B8A900",
    "grpo-toolrl": "#882255",
    "grpo-credit": "#332288",
    "grpo-anneal": "#44AA99",
    "grpo-count": "#999933",
    "sft+grpo-exact": "#8C510A",
    "grpo-null": "#BBBBBB",
    "grpo-planted": "#661100",
}
OUTCOME_COLOURS = dict(
    zip(
        OUTCOMES,
        ["#009E73", "#F0E442", "#E69F00", "#D55E00", "#CC79A7", "#882255", "#56B4E9", "#0072B2", "#8C8C8C", "#000000"],
        strict=True,
    )
)
STOP_COLOURS = {
    "answered": "#009E73",
    "gave_up": "#0072B2",
    "turn_limit": "#E69F00",
    "length": "#D55E00",
    "malformed": "#882255",
    "infrastructure": "#000000",
}
_TERMS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#882255", "#8C8C8C", "#332288"]
_BUTTONS = "zoom pan select lasso zoomIn zoomOut autoScale resetScale sendChartToCloud sendDataToCloud toImage"


def colour(method: str) -> str:
    """The colour of a method; a label with parameters after it ("grpo-exact data=gsm8k") has its method's."""
    return METHODS.get(str(method).split(" ")[0], "#4D4D4D")


def text(value: Any) -> str:
    """A string from data as plotly may show it: HTML escaped, no TeX, control and direction marks made visible."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))
    return html.escape(shown, quote=False).replace("$", "&#36;")


def shade(i: int) -> str:
    return _TERMS[i % len(_TERMS)]


# ---- how every figure is drawn


def _rows(
    frame: pd.DataFrame, group: str, label: str
) -> tuple[list[float], list[tuple[float, str]], list[tuple[float, str]], float]:
    """Places for labelled rows under a heading a group: places of the frame's rows, row labels, headings, rows used."""
    ticks: list[tuple[float, str]] = []
    headings: list[tuple[float, str]] = []
    at: dict[tuple[Any, Any], float] = {}
    y = 0.0
    for name, own in frame.groupby(group, sort=False):
        headings.append((y, str(name)))
        for key in dict.fromkeys(own[label]):
            y += 1
            at[name, key] = y
            ticks.append((y, str(key)))
        y += 1.3
    return [at[g, k] for g, k in zip(frame[group], frame[label], strict=True)], ticks, headings, y


def _ladder(
    fig: go.Figure, ticks: Sequence[tuple[float, str]], headings: Iterable[tuple[float, str]], end: float
) -> go.Figure:
    fig.update_yaxes(
        tickvals=[y for y, _ in ticks],
        ticktext=["<br>".join(map(text, textwrap.wrap(name, 22))) for _, name in ticks],
        range=[end - 0.6, -0.6],
        showgrid=False,
        zeroline=False,
    )
    for y, name in headings:
        fig.add_annotation(
            x=0,
            xref="paper",
            y=y,
            text=f"<b>{text(name)}</b>",
            showarrow=False,
            xanchor="left",
            yanchor="middle",
            bgcolor="white",
        )
    return fig


def dots(
    frame: pd.DataFrame, by: str, value: str, hover: Sequence[str], hollow: pd.Series | None = None
) -> tuple[go.Figure, int]:
    position, ticks, headings, end = _rows(frame, by, "method")
    place, said = pd.Series(position, index=frame.index), pd.Series(hover, index=frame.index)
    fig = go.Figure()
    for method, own in frame.groupby("method", sort=False):
        tint = colour(method)
        inside = "white" if hollow is not None else tint
        fill = [inside if hollow is not None and hollow[i] else tint for i in own.index]
        fig.add_scatter(
            x=own[value],
            y=place[own.index],
            mode="markers",
            name=text(method),
            hovertext=said[own.index],
            hoverinfo="text",
            showlegend=False,
            customdata=[link(phase="evaluation", suite=s, method=method) for s in own[by]] if by == "suite" else None,
            marker={"color": fill, "size": 10, "line": {"color": tint, "width": 2}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": own["high"] - own[value],
                "arrayminus": own[value] - own["low"],
                "color": tint,
                "thickness": 2,
                "width": 0,
            },
        )
    return _ladder(fig, ticks, headings, end), 150 + int(24 * end)


def stack(table: pd.DataFrame, column: str, colours: Mapping[str, str], title: str) -> go.Figure:
    position, ticks, headings, end = _rows(table, "suite", "method")
    place = pd.Series(position, index=table.index)
    fig = go.Figure()
    for name in [*colours, *sorted(set(table[column]) - set(colours))]:
        own = table[table[column] == name]
        if own.empty:
            continue
        hover = [
            f"{text(r.method)} on {text(r.suite)}: {text(name)} {percent(r.share, 1)} ({r.n} rows)"
            for r in own.itertuples()
        ]
        fig.add_bar(
            x=own["share"],
            y=place[own.index],
            orientation="h",
            width=0.8,
            name=text(name),
            hovertext=hover,
            hoverinfo="text",
            customdata=[
                link(phase="evaluation", suite=r.suite, method=r.method, outcome=name) for r in own.itertuples()
            ]
            if column == "outcome"
            else None,
            marker={"color": colours.get(name, "#4D4D4D"), "line": {"color": "white", "width": 0.5}},
        )
    fig.update_layout(barmode="stack")
    fig.update_xaxes(title_text="share of trajectories", tickformat=".0%", range=[0, 1])
    return dress(_ladder(fig, ticks, headings, end), title, 230 + int(24 * end), legend=True)


def dress(fig: go.Figure, title: str, height: int, legend: bool = False) -> go.Figure:
    lines = textwrap.wrap(title, 32, break_on_hyphens=False)
    room = 10 + 19 * len(lines)  # for the title; a report that says it in the page's own text takes it back
    top, bottom = room + 8, 66
    for note in fig.layout.annotations:
        if note.yref == "paper" and note.yanchor == "bottom":  # subplot titles: to the left, smaller
            note.update(x=0, xanchor="left", font={"size": 12, "weight": "bold"})
    if any(note.yref == "paper" and note.yanchor == "bottom" for note in fig.layout.annotations):
        top += 20
    height += top
    fig.update_layout(
        template="plotly_white",
        meta={"title_room": room},
        title={
            "text": "<br>".join(f"<b>{text(line)}</b>" for line in lines),
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14, "l": 12},
            "font": {"size": 15},
        },
        height=height,
        margin={"l": 12, "r": 16, "t": top, "b": bottom},
        font={"size": 12},
        showlegend=legend,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": -74 / (height - top - bottom),
            "yanchor": "top",
            "traceorder": "normal",
        },
        hoverlabel={"align": "left"},
        modebar={"remove": _BUTTONS.split()},
    )
    fig.update_xaxes(automargin=True, title_font={"size": 12})
    if not any(trace.type == "scatter" and "lines" in (trace.mode or "") for trace in fig.data):
        fig.update_layout(dragmode=False)  # nothing to zoom into: on a phone a finger scrolls the page
    fig.update_yaxes(automargin=True, ticklabelstandoff=6)
    return fig


def empty(title: str, why: str) -> go.Figure:
    fig = go.Figure()
    said = "<br>".join(text(line) for line in textwrap.wrap(why, 40))
    fig.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text=said, showarrow=False, font={"size": 13})
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    return dress(fig, title, 160)
