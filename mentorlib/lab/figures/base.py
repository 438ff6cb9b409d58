"""What all figures share: colours, escaping, layout.

Each figure takes a DataFrame of ``lab.analysis`` and makes one claim, which its title states. Colours are Okabe and
Ito's palette, which colour-blind readers can tell apart. Heights are fixed and widths free, titles broken by hand and
labels beside their marks, so that a figure is readable at 390 pixels as at 1280. Every string that comes from data is
escaped: plotly renders a subset of HTML. An empty DataFrame gives an empty figure that says what is missing.
"""

import html
import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

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
    "grpo-imitate": "#117733",
    "grpo-credit": "#332288",
    "grpo-anneal": "#44AA99",
    "grpo-count": "#999933",
    "sft+grpo-exact": "#8C510A",
    "grpo-null": "#BBBBBB",
    "grpo-planted": "#661100",
}
_MORE_COLOURS = [*qualitative.Dark24, *qualitative.Light24]  # for methods that are not in METHODS
_OUTCOME_PALETTE = "#009E73 #F0E442 #E69F00 #D55E00 #CC79A7 #882255 #56B4E9 #0072B2 #8C8C8C #000000"
OUTCOME_COLOURS = dict(zip(OUTCOMES, _OUTCOME_PALETTE.split(), strict=True))
STOP_COLOURS = {
    "answered": "#009E73",
    "gave_up": "#0072B2",
    "turn_limit": "#E69F00",
    "length": "#D55E00",
    "malformed": "#882255",
    "infrastructure": "#000000",
}
_TERMS = "#0072B2 #E69F00 #009E73 #CC79A7 #D55E00 #56B4E9 #F0E442 #882255 #8C8C8C #332288".split()
HEATMAP = {"texttemplate": "%{text}", "showscale": False, "xgap": 1, "ygap": 1}
SHARE_HEATMAP = {**HEATMAP, "zmin": 0, "zmax": 1, "colorscale": [[0, "#F2F6F9"], [0.5, "#56B4E9"], [1, "#00436B"]]}
_TOP_LEFT = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
_LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "yanchor": "top", "traceorder": "normal"}
_ERROR_BARS = {"type": "data", "symmetric": False, "thickness": 2, "width": 0}
_BUTTONS = "zoom pan select lasso zoomIn zoomOut autoScale resetScale sendChartToCloud sendDataToCloud toImage"


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method of a figure, no two alike (up to 48 methods that are not in METHODS).

    A label with parameters ("grpo-exact data=gsm8k") has its method's colour, unless another label took it. A method
    that is not in METHODS has a colour by the hash of its label, the same in every figure but for such collisions.
    """
    colours: dict[str, str] = {}
    for method in sorted({str(m) for m in methods}):
        start = zlib.crc32(method.encode()) % len(_MORE_COLOURS)
        others = [*_MORE_COLOURS[start:], *_MORE_COLOURS[:start]]
        known = METHODS.get(method.split(" ")[0])
        candidates = [known, *others] if known else others
        colours[method] = next((c for c in candidates if c not in colours.values()), "#4D4D4D")
    return colours


def colour(method: str) -> str:
    """The colour of one method."""
    return method_colours([method])[str(method)]


def plotly_text(value: Any) -> str:
    """A string from data as plotly may show it: HTML escaped, no TeX, control and direction marks made visible."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))
    return html.escape(shown, quote=False).replace("$", "&#36;")


def term_colour(i: int) -> str:
    """The colour of the i-th term or series that has no colour of its own."""
    return _TERMS[i % len(_TERMS)]


def row_positions(
    frame: pd.DataFrame, group: str, label: str
) -> tuple[list[float], list[tuple[float, str]], list[tuple[float, str]], float]:
    """The y of every row of a frame, if each label has its line under a heading a group.

    Returns:
        the frame's positions; (position, text) of labels and of headings; the number of lines.
    """
    labels: list[tuple[float, str]] = []
    headings: list[tuple[float, str]] = []
    at: dict[tuple[Any, Any], float] = {}
    y = 0.0
    for name, subset in frame.groupby(group, sort=False):
        headings.append((y, str(name)))
        for key in dict.fromkeys(subset[label]):
            y += 1
            at[name, key] = y
            labels.append((y, str(key)))
        y += 1.3
    return [at[g, k] for g, k in zip(frame[group], frame[label], strict=True)], labels, headings, y


def label_rows(
    fig: go.Figure, labels: Sequence[tuple[float, str]], headings: Iterable[tuple[float, str]], end: float
) -> go.Figure:
    """Write the labels and headings of ``row_positions`` on the y axis."""
    fig.update_yaxes(
        tickvals=[y for y, _ in labels],
        ticktext=["<br>".join(map(plotly_text, textwrap.wrap(name, 22))) for _, name in labels],
        range=[end - 0.6, -0.6],
        showgrid=False,
        zeroline=False,
    )
    for y, name in headings:
        bold = f"<b>{plotly_text(name)}</b>"
        left = {"xanchor": "left", "yanchor": "middle", "showarrow": False, "bgcolor": "white"}
        fig.add_annotation(x=0, xref="paper", y=y, text=bold, **left)
    return fig


def dot_plot(
    frame: pd.DataFrame, by: str, value: str, hover: Sequence[str], hollow: pd.Series | None = None, **filters: str
) -> tuple[go.Figure, int]:
    """Values with their intervals, a line a method under each value of ``by``; the figure and its height.

    ``hollow`` marks rows whose dots are not filled; ``filters`` narrow the trajectories that a dot opens.
    """
    position, labels, headings, end = row_positions(frame, by, "method")
    places, texts = pd.Series(position, index=frame.index), pd.Series(hover, index=frame.index)
    colours = method_colours(frame["method"])
    fig = go.Figure()
    for method, subset in frame.groupby("method", sort=False):
        tint = colours[str(method)]
        fill = tint if hollow is None else ["white" if hollow[i] else tint for i in subset.index]
        fig.add_scatter(
            x=subset[value],
            y=places[subset.index],
            mode="markers",
            name=plotly_text(method),
            hovertext=texts[subset.index],
            hoverinfo="text",
            showlegend=False,
            customdata=[link(phase="evaluation", suite=s, method=method, **filters) for s in subset[by]]
            if by == "suite"
            else None,
            marker={"color": fill, "size": 10, "line": {"color": tint, "width": 2}},
            error_x={
                "array": subset["high"] - subset[value],
                "arrayminus": subset[value] - subset["low"],
                "color": tint,
                **_ERROR_BARS,
            },
        )
    return label_rows(fig, labels, headings, end), 150 + int(24 * end)


def stacked_bars(table: pd.DataFrame, column: str, colours: Mapping[str, str], title: str) -> go.Figure:
    """Shares of each value of a column, a bar a method under each suite. In: suite, method, the column, n, share."""
    position, labels, headings, end = row_positions(table, "suite", "method")
    places = pd.Series(position, index=table.index)
    fig = go.Figure()
    for name in [*colours, *sorted(set(table[column]) - set(colours))]:
        rows = table[table[column] == name]
        if rows.empty:
            continue
        hover = [
            f"{plotly_text(r.method)} on {plotly_text(r.suite)}: {plotly_text(name)} {percent(r.share, 1)} ({r.n} rows)"
            for r in rows.itertuples()
        ]
        links = [link(phase="evaluation", suite=r.suite, method=r.method, outcome=name) for r in rows.itertuples()]
        fig.add_bar(
            x=rows["share"],
            y=places[rows.index],
            orientation="h",
            width=0.8,
            name=plotly_text(name),
            hovertext=hover,
            hoverinfo="text",
            customdata=links if column == "outcome" else None,
            marker={"color": colours.get(name, "#4D4D4D"), "line": {"color": "white", "width": 0.5}},
        )
    fig.update_layout(barmode="stack")
    fig.update_xaxes(title_text="share of trajectories", tickformat=".0%", range=[0, 1])
    return style_figure(label_rows(fig, labels, headings, end), title, 230 + int(24 * end), legend=True)


def panels(titles: Sequence[str], gap: float) -> go.Figure:
    """Subplots below each other with a common x axis; ``gap`` is the share of the height that lies between them."""
    spacing = gap / max(1, len(titles) - 1)
    return make_subplots(len(titles), 1, shared_xaxes=True, vertical_spacing=spacing, subplot_titles=list(titles))


def style_figure(fig: go.Figure, title: str, height: int, legend: bool = False) -> go.Figure:
    """Give a figure its title, height (pixels, without the title) and the layout that all figures have."""
    lines = textwrap.wrap(title, 32, break_on_hyphens=False)
    room = 10 + 19 * len(lines)  # for the title; a report that has it in the page's text takes the room back
    top, bottom = room + 8, 66
    subtitles = [note for note in fig.layout.annotations if note.yref == "paper" and note.yanchor == "bottom"]
    for note in subtitles:
        note.update(x=0, xanchor="left", font={"size": 12, "weight": "bold"})
    top += 20 if subtitles else 0
    height += top
    fig.update_layout(
        template="plotly_white",
        meta={"title_room": room},
        title={
            "text": "<br>".join(f"<b>{plotly_text(line)}</b>" for line in lines),
            "pad": {"t": 14, "l": 12},
            "font": {"size": 15},
            **_TOP_LEFT,
        },
        height=height,
        margin={"l": 12, "r": 16, "t": top, "b": bottom},
        font={"size": 12},
        showlegend=legend,
        legend={"y": -74 / (height - top - bottom), **_LEGEND},
        hoverlabel={"align": "left"},
        modebar={"remove": _BUTTONS.split()},
    )
    fig.update_xaxes(automargin=True, title_font={"size": 12})
    if not any(trace.type == "scatter" and "lines" in (trace.mode or "") for trace in fig.data):
        fig.update_layout(dragmode=False)  # nothing to zoom into: on a phone a finger scrolls the page
    fig.update_yaxes(automargin=True, ticklabelstandoff=6)
    return fig


def empty_figure(title: str, reason: str) -> go.Figure:
    """A figure without data that says what is missing."""
    fig = go.Figure()
    text = "<br>".join(plotly_text(line) for line in textwrap.wrap(reason, 40))
    fig.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text=text, showarrow=False, font={"size": 13})
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False)
    return style_figure(fig, title, 160)
