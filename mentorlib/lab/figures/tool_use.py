"""Figures of tool use against the teacher's (analysis.tool_use)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.text import leaders, percent
from ..analysis.tool_use import END, NO_CALL, PATHS, START
from .base import SHARE_HEATMAP, dot_plot, empty_figure, panels, place, plotly_text, stacked_bars, style_figure

_BLUES, _ORANGES = ("#004B73", "#0072B2", "#56B4E9", "#BFE3F7"), ("#5E2C00", "#B34A00", "#E69F00", "#F7DFA6")
_PATH_COLOURS = dict(zip(PATHS, [*_BLUES, *_ORANGES, "#000000"], strict=True))  # blue is right, orange wrong
_OTHER = "(other)"
_SHOWN = 6  # tools of a heatmap, the commonest


def tool_paths(table: pd.DataFrame) -> go.Figure:
    """From the teacher's tools to the outcome, by suite and method, of ``tool_paths``."""
    if table.empty:
        return empty_figure("No paths: there are no rows", "run notebook 02_train first")
    counts = table.groupby("path")["n"].sum().reindex(list(PATHS), fill_value=0)
    right, wrong = (counts[[name for name in PATHS if name.endswith(end)]].sum() for end in ("right", "wrong"))
    title = f"All {right:,} judged rows are right"
    if wrong:
        title = (
            f"Of wrong answers, {percent(counts['other tools, wrong'] / wrong)} used other tools than the teacher; "
            f"of right ones, {percent(counts['other tools, right'] / max(1, right))}"
        )
    return stacked_bars(table, "path", _PATH_COLOURS, title)


def confusion(table: pd.DataFrame) -> go.Figure:
    """Heatmaps of ``confusion`` by method: rows are the teacher's tool, columns the student's, cells shares."""
    if table.empty:
        return empty_figure("No calls to compare: neither teacher nor student called a tool", "give runs with rows")
    tools = _commonest(table, "teacher")
    shown = table[table["teacher"].isin(tools) & table["student"].isin(tools)]
    pairs = shown[shown["teacher"] != shown["student"]].groupby(["teacher", "student"])["n"].sum()
    title = f"The {len(tools)} tools that the teacher calls most are not taken for one another"
    if len(pairs):
        teacher, student = pairs.idxmax()
        calls = table[table["teacher"] == teacher]
        taken = calls[calls["student"] == student].groupby("method")["n"].sum() / calls.groupby("method")["n"].sum()
        title = (
            f"Commonest confusion: {leaders(taken.fillna(0.0), 2)} calls {student} where the teacher calls {teacher}, "
            f"{percent(taken.max())} of the time"
        )
    names = [*tools, _OTHER, NO_CALL]
    return _heatmaps(table, "teacher", "student", names, names, title, ("teacher", "student at that step"))


def transitions(table: pd.DataFrame) -> go.Figure:
    """Heatmaps of ``transitions``, the teacher's first: rows are a call, columns what follows it, cells shares."""
    if table.empty:
        return empty_figure("No transitions: no tool was called", "give runs with rows")
    is_teacher = table["method"] == "teacher"
    students, teacher = table[~is_teacher], table[is_teacher]
    title = "Which call follows which: the teacher and the students"
    often = students[students.groupby(["method", "start"])["n"].transform("sum") >= 20]
    names = _commonest(table, "next")
    often = often[often["start"].isin(teacher["start"]) & often["start"].isin([START, *names])]
    if len(often):  # also transitions that only one of the two makes
        by_start = often[["method", "start"]].drop_duplicates().merge(teacher[["start", "next", "share"]], on="start")
        gaps = often.merge(by_start, on=["method", "start", "next"], how="outer", suffixes=("", "_teacher"))
        gaps = gaps[gaps["next"].isin([*names, END])]  # those that the reader can see
        gaps = gaps.fillna({"share": 0.0, "share_teacher": 0.0}).sort_values("share", ascending=False)
        gap = gaps.loc[(gaps["share"] - gaps["share_teacher"]).abs().idxmax()]
        action = "ends" if gap["next"] == END else f"calls {gap['next']}"
        after = "at the start" if gap["start"] == START else f"after {gap['start']}"
        title = (
            f"Furthest from the teacher: {after}, {gap['method']} {action} {percent(gap['share'])} of the time, "
            f"the teacher {percent(gap['share_teacher'])}"
        )
    down, across = [START, *names, _OTHER], [*names, _OTHER, END]
    return _heatmaps(pd.concat([teacher, students]), "start", "next", down, across, title, ("after", "next call"))


def _commonest(table: pd.DataFrame, column: str) -> list[str]:
    """The commonest tools, by name."""
    counts = table[~table[column].isin([NO_CALL, END, START])].groupby(column)["n"].sum()
    return [str(name) for name in counts.sort_values(ascending=False, kind="stable").head(_SHOWN).index]


def _heatmaps(
    table: pd.DataFrame, y: str, x: str, down: list[str], across: list[str], title: str, axes: tuple[str, str]
) -> go.Figure:
    """One heatmap a method, beside each other; names that are not in the lists become _OTHER.

    Each has its names below it, so that they are there too where the panels stand below each other.
    """
    methods = list(dict.fromkeys(table["method"]))
    folded = table.assign(**{k: table[k].where(table[k].isin(names), _OTHER) for k, names in ((y, down), (x, across))})
    down = [name for name in down if name in set(folded[y])]
    across = [name for name in across if name in set(folded[x])]
    below = 30 + 7 * max(map(len, across), default=0)  # pixels of the names and their title
    fig, height = panels(methods, 3, 10 + 20 * len(down), gap=below + 30)
    for i, method in enumerate(methods):
        rows = folded[folded["method"] == method]
        counts = rows.pivot_table(index=y, columns=x, values="n", aggfunc="sum").reindex(index=down, columns=across)
        shares = counts.div(counts.sum(axis=1), axis=0)
        fig.add_heatmap(
            z=shares.to_numpy(float),
            x=[plotly_text(name) for name in across],
            y=[plotly_text(name) for name in down],
            customdata=counts.fillna(0).to_numpy(int),
            text=shares.map(lambda v: f"{100 * v:.0f}" if v >= 0.005 else "").to_numpy(),
            hovertemplate=f"{plotly_text(method)}: %{{y}} → %{{x}}, %{{z:.0%}} (%{{customdata}} times)<extra></extra>",
            **place(i, fig),
            **SHARE_HEATMAP,
        )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(tickangle=-90, showgrid=False, tickfont={"size": 11}, showticklabels=True)
    style_figure(fig, f"{title} (percent of each row)", height + max(66, below + 8))
    fig.update_yaxes(title={"text": axes[0], "font": {"size": 12}, "standoff": 2})
    return fig.update_xaxes(title={"text": axes[1], "standoff": 8})  # under each panel, not one for all


def tool_jsd(distances: pd.DataFrame) -> go.Figure:
    """The JSD of tools called to the teacher's, of ``tool_jsd``; agreement call by call on hover."""
    known = distances.dropna(subset=["jsd"])
    if known.empty:
        return empty_figure("No divergence: no tool was called in these rows", "the JSD needs calls of both")
    furthest = known.set_index(known["method"] + " on " + known["suite"])["jsd"]
    title = f"Furthest from the teacher's tools: {leaders(furthest, 2)}, {furthest.max():.2f} bits"
    hover = [
        f"{plotly_text(r.method)} on {plotly_text(r.suite)}: {r.jsd:.3f} bits, "
        f"{percent(r.agreement, 1)} of calls agree by name, {r.tasks} tasks"
        for r in known.itertuples()
    ]
    fig, height = dot_plot(known.assign(low=known["jsd"], high=known["jsd"]), "suite", "jsd", hover)
    fig.update_xaxes(title_text="JSD to the teacher's tools (bits)", rangemode="tozero", zeroline=False)
    return style_figure(fig, title, height)
