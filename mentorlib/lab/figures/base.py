"""What all figures share: colours, escaping, layout.

Each figure takes a DataFrame of ``lab.analysis`` and makes one claim, which its title states. Colours are Okabe and
Ito's palette, which colour-blind readers can tell apart. Heights are fixed and widths free; panels stand beside each
other, and below each other on a phone, so that a figure is readable at 390 pixels as at 1280. Every string that comes
from data is escaped: plotly renders a subset of HTML. An empty DataFrame gives an empty figure (``meta.empty``)
that says what is missing.
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
_OUTCOME_PALETTE = "#009E73 #6666FF #E69F00 #D55E00 #CC79A7 #AA4499 #882255 #56B4E9 #0072B2 #8C8C8C #000000"
OUTCOME_COLOURS = dict(zip(OUTCOMES, _OUTCOME_PALETTE.split(), strict=True))
STOP_COLOURS = {
    "answered": "#009E73",
    "gave_up": "#0072B2",
    "turn_limit": "#E69F00",
    "length": "#D55E00",
    "malformed": "#882255",
    "infrastructure": "#000000",
}
TERMS = {
    "correct": "#0072B2",
    "tools": "#E69F00",
    "clean": "#009E73",
    "answered": "#CC79A7",
    "progress": "#D55E00",
    "sequence": "#882255",
    "format": "#AA4499",
    "names": "#56B4E9",
    "parameters": "#6666FF",
    "values": "#332288",
    "offset": "#8C8C8C",
    "gave_up": "#44AA99",
    "noise": "#661100",
    "fallback": "#4D4D4D",
}
# One hue, on which black is read in all its shades, and the other way round where a page is inverted.
HEATMAP = {
    "texttemplate": "%{text}",
    "textfont": {"size": 11, "color": "#000000"},
    "colorscale": [[0, "#F2F6F9"], [1, "#66BBEB"]],
    "showscale": False,
    "xgap": 1,
    "ygap": 1,
}
SHARE_HEATMAP = {**HEATMAP, "zmin": 0, "zmax": 1}
_TOP_LEFT = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
_LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "yanchor": "top", "traceorder": "normal"}
_ERROR_BARS = {"type": "data", "symmetric": False, "thickness": 2, "width": 0}
LINE = 19  # pixels of a method's line
TITLE = 84  # characters of a title's line: as many as stand in JupyterLab's column; a report wraps it by itself
_SYMBOLS = "circle square diamond triangle-up triangle-down pentagon hexagon star cross x".split()
_BUTTONS = "zoom pan select lasso zoomIn zoomOut autoScale resetScale sendChartToCloud sendDataToCloud toImage"


def method_colours(methods: Iterable[str], own: Mapping[str, str] = METHODS) -> dict[str, str]:
    """A colour for each method of a figure, no two alike (up to 48 methods that are not in METHODS).

    A label with parameters ("grpo-exact data=gsm8k") has its method's colour, unless another label took it. A method
    that is not in METHODS has a colour by the hash of its label, the same in every figure but for such collisions.
    ``own`` are the colours of what else is named, such as TERMS.
    """
    colours: dict[str, str] = {}
    for method in sorted({str(m) for m in methods}):
        start = zlib.crc32(method.encode()) % len(_MORE_COLOURS)
        others = [*_MORE_COLOURS[start:], *_MORE_COLOURS[:start]]
        known = own.get(method.split(" ")[0])
        candidates = [known, *others] if known else others
        colours[method] = next((c for c in candidates if c not in colours.values()), "#4D4D4D")
    return colours


def method_marks(methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and symbol of each method of a figure, as plotly's ``marker`` takes them: no two methods look alike."""
    known, colours = list(METHODS), method_colours(methods)
    numbers = {name: known.index(name) if name in METHODS else zlib.crc32(name.encode()) for name in colours}
    return {name: {"color": colours[name], "symbol": _SYMBOLS[n % len(_SYMBOLS)]} for name, n in numbers.items()}


def colour(method: str) -> str:
    """The colour of one method."""
    return method_colours([method])[str(method)]


def plotly_text(value: Any) -> str:
    """A string from data as plotly may show it: HTML escaped, no TeX, control and direction marks made visible."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))
    return html.escape(shown, quote=False).replace("$", "&#36;")


def panels(
    titles: Sequence[str], columns: int, tall: int, gap: int = 46, shared_y: bool = True
) -> tuple[go.Figure, int]:
    """Subplots with a common x axis, ``columns`` beside each other; the figure and the height of its plots.

    A report sets them below each other where there is no room, such as on a phone (see ``report.html``).

    Args:
        titles: a panel each; escaped.
        columns: at most.
        tall: pixels of a panel.
        gap: pixels between one row and the next, for a title and the labels of an axis.
        shared_y: the panels have the same y axis too, which is labelled at the left.
    """
    columns = max(1, min(columns, len(titles)))
    rows = max(1, -(-len(titles) // columns))
    height = rows * tall + (rows - 1) * gap
    fig = make_subplots(
        rows,
        columns,
        specs=[
            [{} if row * columns + column < len(titles) else None for column in range(columns)] for row in range(rows)
        ],
        subplot_titles=[plotly_text(title) for title in titles],
        vertical_spacing=gap / height if rows > 1 else 0,
        horizontal_spacing=(0.05 if shared_y else 0.07) if columns > 1 else 0,
    )
    fig.update_layout(meta={"columns": columns, "tall": tall, "gap": gap})
    for n, title in enumerate(fig.layout.annotations):
        axis = f"axis{n + 1 if n else ''}"
        x, y = fig.layout[f"x{axis}"], fig.layout[f"y{axis}"]
        title.update(x=x.domain[0], xanchor="left", font={"size": 12, "weight": "bold"})
        x.update(matches="x" if n else None, showticklabels=n + columns >= len(titles))
        if shared_y:
            y.update(matches="y" if n else None, showticklabels=n % columns == 0)
    return fig, height


def place(n: int, fig: go.Figure) -> dict[str, int]:
    """Row and column of the n-th of ``panels``, counted from 0."""
    columns = int((fig.layout.meta or {}).get("columns", 1))
    return {"row": n // columns + 1, "col": n % columns + 1}


def _wrapped(label: str) -> list[str]:
    return textwrap.wrap(label, 22)


def line_height(names: Sequence[str]) -> int:
    """Pixels of a line, so that labels of several rows do not overlap."""
    return max([LINE, *(14 * len(_wrapped(str(name))) + 4 for name in names)])


def label_lines(fig: go.Figure, lines: Sequence[str]) -> None:
    """Write a name on every line (0, 1, …) of the y axes, the first at the top."""
    fig.update_yaxes(
        tickvals=list(range(len(lines))),
        ticktext=["<br>".join(map(plotly_text, _wrapped(line))) for line in lines],
        range=[len(lines) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )


def dot_plot(
    frame: pd.DataFrame,
    by: str,
    value: str,
    hover: Sequence[str],
    hollow: pd.Series | None = None,
    marks: Mapping[str, Mapping[str, str]] | None = None,
    **filters: str,
) -> tuple[go.Figure, int]:
    """Values with their intervals, a panel for each value of ``by``, a line a method; the figure and its height.

    ``hollow`` marks rows whose dots are not filled; ``marks`` are those of the lines, if not ``method_marks``;
    ``filters`` narrow the trajectories that a dot opens.
    """
    groups, methods = list(dict.fromkeys(frame[by])), list(dict.fromkeys(frame["method"]))
    texts = pd.Series(hover, index=frame.index)
    marks = marks or method_marks(methods)
    fig, height = panels([str(group) for group in groups], 3, 22 + line_height(methods) * len(methods))
    for group, method in dict.fromkeys(zip(frame[by], frame["method"], strict=True)):
        rows = frame[(frame[by] == group) & (frame["method"] == method)]
        mark = marks[str(method)]
        fill = mark["color"] if hollow is None else ["white" if hollow[i] else mark["color"] for i in rows.index]
        fig.add_scatter(
            x=rows[value],
            y=[methods.index(method)] * len(rows),
            mode="markers",
            name=plotly_text(method),
            hovertext=texts[rows.index],
            hoverinfo="text",
            showlegend=False,
            cliponaxis=False,
            customdata=[link(phase="evaluation", suite=group, method=method, **filters)] if by == "suite" else None,
            marker={"symbol": mark["symbol"], "color": fill, "size": 9, "line": {"color": mark["color"], "width": 2}},
            error_x={
                "array": rows["high"] - rows[value],
                "arrayminus": rows[value] - rows["low"],
                "color": mark["color"],
                **_ERROR_BARS,
            },
            **place(groups.index(group), fig),
        )
    label_lines(fig, [str(method) for method in methods])
    return fig, height + 66


def stacked_bars(
    table: pd.DataFrame, column: str, colours: Mapping[str, str], title: str, axis: str = "share of trajectories"
) -> go.Figure:
    """Shares of each value of a column, a panel a suite, a bar a method. In: suite, method, the column, n, share."""
    suites, methods = list(dict.fromkeys(table["suite"])), list(dict.fromkeys(table["method"]))
    fig, height = panels([str(suite) for suite in suites], 3, 8 + line_height(methods) * len(methods))
    shown: set[str] = set()
    for name in [*colours, *sorted(set(table[column]) - set(colours))]:
        for n, suite in enumerate(suites):
            rows = table[(table[column] == name) & (table["suite"] == suite)]
            if rows.empty:
                continue
            hover = [
                f"{plotly_text(r.method)} on {plotly_text(suite)}: {plotly_text(name)} {percent(r.share, 1)} "
                f"({r.n} rows)"
                for r in rows.itertuples()
            ]
            links = [link(phase="evaluation", suite=suite, method=method, outcome=name) for method in rows["method"]]
            fig.add_bar(
                x=rows["share"],
                y=[methods.index(method) for method in rows["method"]],
                orientation="h",
                width=0.8,
                name=plotly_text(name),
                legendgroup=name,
                showlegend=name not in shown,
                hovertext=hover,
                hoverinfo="text",
                customdata=links if column == "outcome" else None,
                marker={"color": colours.get(name, "#4D4D4D"), "line": {"color": "white", "width": 0.5}},
                **place(n, fig),
            )
            shown.add(name)
    fig.update_layout(barmode="stack")
    label_lines(fig, [str(method) for method in methods])
    fig.update_xaxes(title_text=axis, tickformat=".0%", range=[0, 1], nticks=5)
    return style_figure(fig, title, height + 110, legend=True)


def style_figure(fig: go.Figure, title: str, height: int, legend: bool = False) -> go.Figure:
    """Give a figure its title, height (pixels, without the title) and the layout that all figures have."""
    lines = textwrap.wrap(title, TITLE, break_on_hyphens=False)
    room = 10 + 19 * len(lines)  # for the title; a report that has it in the page's text takes the room back
    top, bottom = room + 8, 66
    meta = dict(fig.layout.meta or {})
    top += 20 if "columns" in meta else 0
    height += top
    if "columns" in meta:  # panels have one title of their common axis
        axis = fig.layout.xaxis.title.text
        fig.update_xaxes(title_text=None)
        if axis:  # in the middle of the page: the plot's is further right, by half of its labels' width
            names = [line for label in fig.layout.yaxis.ticktext or () for line in label.split("<br>")]
            below = {"x": 0.5, "xref": "paper", "y": 0, "yref": "paper", "yshift": -24, "yanchor": "top"}
            below["xshift"] = -3 * max(map(len, names), default=0)
            fig.add_annotation(text=axis, showarrow=False, font={"size": 12}, **below)
    fig.update_layout(
        template="plotly_white",
        meta=meta | {"title_room": room},
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
    fig.update_layout(meta={"empty": True})
    return style_figure(fig, title, 160)
