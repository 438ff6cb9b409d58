"""Figures of tool use against the teacher's (analysis.tool_use)."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..analysis.comparison import shared
from ..analysis.text import link, percent
from ..analysis.tool_use import ELSE, END, NONE, PATHS
from .base import dots, dress, empty, stack, text


def figure_paths(table: pd.DataFrame) -> go.Figure:
    """From the teacher's tools to the outcome, by suite and method, of ``paths``: blue is right, orange wrong."""
    if table.empty:
        return empty("No paths: there are no rows", "run notebook 02_train first")
    counts = table.groupby("path")["n"].sum().reindex(list(PATHS), fill_value=0)
    right = counts[[name for name in PATHS if name.endswith("right")]]
    wrong = counts[[name for name in PATHS if name.endswith("wrong")]]
    title = f"All {right.sum():,} judged rows are right"
    if wrong.sum():
        title = (
            f"Of wrong answers, {percent(wrong['other tools, wrong'] / wrong.sum())} used other tools than the "
            f"teacher; of right ones, {percent(right['other tools, right'] / max(1, right.sum()))}"
        )
    return stack(table, "path", PATHS, title)


def _tools(counts: pd.Series, most: int) -> list[str]:
    """The commonest tools, by name; the rest is ELSE."""
    names = counts[[name not in (NONE, END, "(start)") for name in counts.index]]
    return [str(name) for name in names.sort_values(ascending=False, kind="stable").head(most).index]


def figure_confusion(table: pd.DataFrame, most: int = 6) -> go.Figure:
    """Heatmaps of ``confusion`` by method: rows are the teacher's tool, columns the student's, cells shares."""
    if table.empty:
        return empty("No calls to compare: neither teacher nor student called a tool", "give runs with rows")
    wrong = table[(table["teacher"] != table["student"]) & (table["teacher"] != NONE) & (table["student"] != NONE)]
    title = "Student and teacher call the same tool at every step"
    if len(wrong):
        pairs = wrong.groupby(["teacher", "student"])["n"].sum()
        one, other = pairs.idxmax()
        whole = table.loc[table["teacher"] == one, "n"].sum()
        title = (
            f"Commonest confusion: {other} where the teacher calls {one}, {percent(pairs.max() / whole)} of the time"
        )
    names = _tools(table.groupby("teacher")["n"].sum(), most)
    down, across = [*names, ELSE, NONE], [*names, ELSE, NONE]
    return _heatmaps(table, "teacher", "student", down, across, title, "the student's tool at that step")


def figure_transitions(table: pd.DataFrame, most: int = 6) -> go.Figure:
    """Heatmaps of ``transitions``, the teacher's first: rows are a call, columns what follows it, cells shares."""
    if table.empty:
        return empty("No transitions: no tool was called", "give runs with rows")
    students = table[table["method"] != "teacher"]
    teacher = table[table["method"] == "teacher"].set_index(["start", "next"])["share"]
    title = "What follows what: the teacher and the students"
    if len(students):
        often = students[students.groupby(["method", "start"])["n"].transform("sum") >= 20]
        gaps = []  # also where one of the two never goes on so
        for (method, start), own in often.groupby(["method", "start"], sort=False):
            if start in teacher.index.get_level_values("start"):
                pair = pd.concat([own.set_index("next")["share"], teacher[start]], axis=1, keys=["own", "teacher"])
                gaps.append(pair.fillna(0).assign(method=method, start=start))
        if gaps:
            common = pd.concat(gaps).reset_index(names="next")
            one = common.loc[(common["own"] - common["teacher"]).abs().idxmax()]
            said = "ends" if one["next"] == END else f"calls {one['next']}"
            after = "at the start" if one["start"] == "(start)" else f"after {one['start']}"
            title = (
                f"Furthest from the teacher: {after}, {one['method']} {said} {percent(one['own'])} of the time, "
                f"the teacher {percent(one['teacher'])}"
            )
    names = _tools(table.groupby("next")["n"].sum(), most)
    ordered = pd.concat([table[table["method"] == "teacher"], students])
    return _heatmaps(ordered, "start", "next", ["(start)", *names, ELSE], [*names, ELSE, END], title, "the next call")


def _heatmaps(
    table: pd.DataFrame, y: str, x: str, down: list[str], across: list[str], title: str, axis: str
) -> go.Figure:
    """One heatmap a method, below each other so that a phone can read them; names not in the lists become ELSE."""
    methods = list(dict.fromkeys(table["method"]))
    folded = table.assign(
        **{y: table[y].where(table[y].isin(down), ELSE), x: table[x].where(table[x].isin(across), ELSE)}
    )
    down = [name for name in down if name in set(folded[y])]
    across = [name for name in across if name in set(folded[x])]
    tall = 46 + 24 * len(down)
    fig = make_subplots(
        rows=len(methods),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=34 / (tall * len(methods)) if len(methods) > 1 else 0,
        subplot_titles=[text(name) for name in methods],
    )
    for i, method in enumerate(methods, 1):
        own = folded[folded["method"] == method]
        counts = own.pivot_table(index=y, columns=x, values="n", aggfunc="sum").reindex(index=down, columns=across)
        shares = counts.div(counts.sum(axis=1), axis=0)
        fig.add_heatmap(
            z=shares.to_numpy(float),
            x=[text(name) for name in across],
            y=[text(name) for name in down],
            customdata=counts.fillna(0).to_numpy(int),
            text=shares.map(lambda v: "" if v != v or v < 0.005 else f"{100 * v:.0f}").to_numpy(),
            texttemplate="%{text}",
            textfont={"size": 11},
            zmin=0,
            zmax=1,
            colorscale=[[0, "#F2F6F9"], [0.5, "#56B4E9"], [1, "#00436B"]],
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate=f"{text(method)}: %{{y}} → %{{x}}, %{{z:.0%}} (%{{customdata}} times)<extra></extra>",
            row=i,
            col=1,
        )
        fig.update_yaxes(autorange="reversed", row=i, col=1)
    fig.update_xaxes(tickangle=-45, showgrid=False)
    fig.update_yaxes(showgrid=False)
    fig.update_xaxes(title_text=f"{axis}<br>(percent of the row)", row=len(methods), col=1)
    return dress(fig, title, 110 + tall * len(methods))


def figure_jsd(distances: pd.DataFrame) -> go.Figure:
    """The JSD of tools called to the teacher's with its interval, of ``analysis.tool_jsd``; ticks: its floor."""
    known = distances.dropna(subset=["jsd"])
    if known.empty:
        return empty("No divergence: no tool was called in these rows", "the JSD needs calls of both")
    inside = int((known["jsd"] <= known["floor"]).sum())
    far = known.loc[known["jsd"].idxmax()]
    title = (
        f"{inside} of {len(known)} are nearer the teacher than it is to itself on other tasks; furthest: "
        f"{far['method']} on {far['suite']}, {far['jsd']:.2f} bits"
    )
    hover = [
        f"{text(r.method)} on {text(r.suite)}: {r.jsd:.3f} bits [{r.low:.3f}, {r.high:.3f}], floor {r.floor:.3f}, "
        f"{r.tasks} tasks"
        for r in known.itertuples()
    ]
    fig, height = dots(known, "suite", "jsd", hover)
    places = [y for trace in fig.data for y in trace.y]
    order = [i for method in dict.fromkeys(known["method"]) for i in known.index[known["method"] == method]]
    fig.add_scatter(
        x=known.loc[order, "floor"],
        y=places,
        mode="markers",
        name="the teacher on other tasks",
        hovertext=["the teacher against itself on other tasks"] * len(places),
        hoverinfo="text",
        marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": "#333333"}},
    )
    fig.update_xaxes(title_text="JSD to the teacher's tools (bits)<br>(95% interval; tick: the teacher on other tasks)")
    fig.update_xaxes(rangemode="tozero", zeroline=False)
    return dress(fig, title, height)


def figure_nowhere(table: pd.DataFrame) -> go.Figure:
    """Calls with an argument from nowhere, by suite and method, of ``nowhere``."""
    known = table.dropna(subset=["share"])
    if known.empty:
        return empty("No calls, so no arguments from nowhere", "give runs that called tools")
    totals = shared(known).groupby("method", sort=False)[["n", "calls"]].sum()
    shares = totals["n"] / totals["calls"]
    title = "Arguments from nowhere"
    if len(shares) > 1 or known["method"].nunique() == 1:
        title += f": {percent(shares.min(), 1)} of {shares.idxmin()}'s calls"
    if len(shares) > 1:
        title += f" to {percent(shares.max(), 1)} of {shares.idxmax()}'s"
    hover = [
        f"{text(r.method)} on {text(r.suite)}: {r.n} of {r.calls} calls, in {r.rows} trajectories; "
        f"among right calls {percent(r.alarms, 1)}"
        for r in known.itertuples()
    ]
    fig, height = dots(known, "suite", "share", hover)
    for trace in fig.data:
        method = next(m for m in dict.fromkeys(known["method"]) if text(m) == trace.name)
        own = known[known["method"] == method]
        trace.customdata = [link(suite=suite, method=method, flag="ungrounded argument") for suite in own["suite"]]
    fig.update_xaxes(
        title_text="calls with an argument that is in no source<br>(with 95% interval)",
        tickformat=".0%",
        rangemode="tozero",
    )
    return dress(fig, title, height)
