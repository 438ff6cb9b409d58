"""Figures of accuracy, differences and similarity (analysis.comparison)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.comparison import shared
from ..analysis.text import percent
from .base import colour, dots, dress, empty, text

_SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "pentagon", "cross"]


# ---- evaluation


def _lead(table: pd.DataFrame, by: str) -> str:
    """Which method stands clear of the others: its interval lies above theirs. Ties and near misses lead nowhere."""
    if table["method"].nunique() == 1:
        low, high = table.loc[table["accuracy"].idxmin()], table.loc[table["accuracy"].idxmax()]
        span = f"{percent(low['accuracy'])} ({low[by]}) to {percent(high['accuracy'])} ({high[by]})"
        return f"{high['method']} is right on {span if len(table) > 1 else percent(high['accuracy'])}"
    clear = []
    groups = [g.sort_values("accuracy") for _, g in table.groupby(by) if len(g) > 1]
    for group in groups:
        if group["low"].iloc[-1] > group["high"].iloc[:-1].max():
            clear.append(group["method"].iloc[-1])
    if not clear:
        if table["method"].nunique() == 2:
            one, other = table["method"].unique()
            return f"Neither {one} nor {other} stands clear of the other on any of {len(groups)} {by}s"
        return f"No method stands clear of all others on any of {len(groups)} {by}s"
    leader = max(dict.fromkeys(clear), key=clear.count)
    return f"{leader} stands clear of all others on {clear.count(leader)} of {len(groups)} {by}s"


def accuracy(table: pd.DataFrame, by: str = "suite") -> go.Figure:
    """Accuracy with its interval, a row a method under each suite (or ``by="domain"``), of ``analysis.accuracy``."""
    if table.empty:
        return empty("No accuracy: there are no evaluated rows", "run notebook 02_train first")
    title = _lead(table.dropna(subset=["accuracy"]), by)
    hover = [
        f"{text(r.method)} on {text(getattr(r, by))}: {percent(r.accuracy, 1)} "
        f"[{100 * r.low:.0f}, {100 * r.high:.0f}], {r.n} rows, {r.unjudged} unjudged"
        + (f", standard deviation of {r.runs} runs {100 * r.sd_runs:.1f} points" if r.runs > 1 else "")
        for r in table.itertuples()
    ]
    fig, height = dots(table, by, "accuracy", hover)
    fig.update_xaxes(
        title_text="share of tasks answered correctly<br>(with 95% interval)", tickformat=".0%", range=[-0.02, 1.02]
    )
    return dress(fig, title, height)


def forest(pairs: pd.DataFrame, by: str = "suite") -> go.Figure:
    """Forest plot of ``analysis.paired``: filled where Holm's p is under 0.05, hollow where chance would do."""
    if pairs.empty:
        return empty(
            "No paired differences: only one method here", "give runs of at least two methods on the same tasks"
        )
    against = pairs["against"].iloc[0]
    sure = pairs["p_holm"] < 0.05
    better, worse = int((sure & (pairs["difference"] > 0)).sum()), int((sure & (pairs["difference"] < 0)).sum())
    title = f"Against {against}: {better} of {len(pairs)} differences are gains beyond chance, {worse} losses"
    hover = [
        f"{text(r.method)} − {text(r.against)}: {100 * r.difference:+.1f} points "
        f"[{100 * r.low:.0f}, {100 * r.high:.0f}], "
        f"fixed {r.fixed}, broke {r.broke}, p {r.p:.2g}, Holm {r.p_holm:.2g}"
        + (
            f"; of tasks alone [{100 * r.low_tasks:.0f}, {100 * r.high_tasks:.0f}], "
            f"of {r.runs} runs alone [{100 * r.low_runs:.0f}, {100 * r.high_runs:.0f}]"
            if r.runs > 1
            else ""
        )
        for r in pairs.itertuples()
    ]
    points = pairs.assign(**{k: 100 * pairs[k] for k in ("difference", "low", "high")})
    fig, height = dots(points, by, "difference", hover, hollow=~sure)
    fig.add_vline(x=0, line={"color": "#333333", "width": 1})
    fig.update_xaxes(
        title_text=f"percentage points over {text(against)}, 95% interval<br>(filled: Holm p < 0.05)", zeroline=False
    )
    return dress(fig, title, height)


def tuning(table: pd.DataFrame) -> go.Figure:
    """Accuracy of each method at each learning rate, of ``analysis.tuning``; what was chosen has a frame."""
    wide = table.pivot(index="method", columns="learning_rate", values="accuracy")
    wide = wide.loc[list(dict.fromkeys(table["method"]))[::-1]]
    rates = [f"{rate:g}" for rate in wide.columns]
    chosen = table[table["chosen"]]
    favourite = chosen["learning_rate"].mode().iloc[0]
    title = f"{favourite:g} is best for {(chosen['learning_rate'] == favourite).sum()} of {len(chosen)} methods"
    if (table.groupby("method")["accuracy"].nunique() < 2).all():
        title = "No learning rate is better than another"
    intervals = table.set_index(["method", "learning_rate"])
    hover = [
        [
            f"{text(m)}, {rate:g}: {percent(r.accuracy, 1)} [{100 * r.low:.0f}, {100 * r.high:.0f}], {r.n} rows"
            if (r := intervals.loc[(m, rate)] if (m, rate) in intervals.index else None) is not None
            else ""
            for rate in wide.columns
        ]
        for m in wide.index
    ]
    fig = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=rates,
            y=[text(m) for m in wide.index],
            text=[[percent(v) for v in row] for row in wide.to_numpy()],
            texttemplate="%{text}",
            hovertext=hover,
            hoverinfo="text",
            colorscale="Blues",
            showscale=False,
            xgap=3,
            ygap=3,
        )
    )
    for row in chosen.itertuples():
        x, y = list(wide.columns).index(row.learning_rate), list(wide.index).index(row.method)
        fig.add_shape(
            type="rect", x0=x - 0.48, x1=x + 0.48, y0=y - 0.46, y1=y + 0.46, line={"color": "#D55E00", "width": 3}
        )
    fig.update_xaxes(type="category", title_text="learning rate<br>(framed: the method's best)")
    return dress(fig, title, 120 + 26 * len(wide))


def similarity(scores: pd.DataFrame, distances: pd.DataFrame) -> go.Figure:
    """Accuracy over the JSD to the teacher (``analysis.accuracy``, ``tool_jsd``): colour = method, mark = suite."""
    both = scores.merge(distances, on=["suite", "method"], suffixes=("", "_jsd")).dropna(subset=["accuracy", "jsd"])
    if both.empty:
        return empty(
            "No similarity: no tool was called in these rows", "the JSD needs calls of the student and of the teacher"
        )
    means = shared(both).groupby("method", sort=False)["jsd"].mean()
    title = "Tools called, against the teacher's"
    if len(means) > 1 or both["method"].nunique() == 1:
        title = f"{means.idxmin()} calls tools most like the teacher: mean JSD {means.min():.3f} bits"
    within = both.groupby("suite")[["jsd", "accuracy"]].transform(lambda values: values - values.mean())
    if (within.abs().max() > 1e-9).all():  # suites differ in both by nature, so each is held against its own mean
        title += f"; correlation with accuracy within suites {within['jsd'].corr(within['accuracy']):+.2f}"
    fig = go.Figure()
    suites = list(dict.fromkeys(both["suite"]))
    for method, group in both.groupby("method", sort=False):
        hover = [
            f"{text(r.method)} on {text(r.suite)}: JSD {r.jsd:.3f} [{r.low_jsd:.3f}, {r.high_jsd:.3f}] bits, "
            f"the teacher on other tasks {r.floor:.3f}, "
            f"accuracy {percent(r.accuracy, 1)}"
            for r in group.itertuples()
        ]
        fig.add_scatter(
            x=group["jsd"],
            y=group["accuracy"],
            mode="markers",
            name=text(method),
            hovertext=hover,
            hoverinfo="text",
            legendgroup="method",
            cliponaxis=False,
            marker={
                "color": colour(method),
                "size": 11,
                "symbol": [_SYMBOLS[suites.index(s) % 8] for s in group["suite"]],
                "line": {"color": "white", "width": 1},
            },
        )
    for i, suite in enumerate(suites):
        marker = {"color": "#333333", "size": 9, "symbol": _SYMBOLS[i % 8] + "-open"}
        fig.add_scatter(x=[None], y=[None], mode="markers", name=text(suite), marker=marker, legendgroup="suite")
    fig.update_xaxes(title_text="JSD of tools called to the teacher's (bits)", rangemode="tozero")
    fig.update_yaxes(title_text="accuracy", tickformat=".0%")
    return dress(fig, title, 400 + 20 * (both["method"].nunique() + len(suites)), legend=True)  # a name a line
