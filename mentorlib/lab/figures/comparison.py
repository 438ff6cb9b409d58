"""Figures of accuracy, differences and similarity (analysis.comparison)."""

import pandas as pd
import plotly.graph_objects as go

from ..analysis.comparison import common_suites
from ..analysis.stats import SEEDS
from ..analysis.text import p_value, percent
from .base import HEATMAP, dot_plot, empty_figure, method_colours, method_marks, plotly_text, style_figure


def accuracy(table: pd.DataFrame, by: str = "suite") -> go.Figure:
    """Accuracy with its interval, a row a method under each suite (or ``by="domain"``), of ``accuracy``."""
    if table.empty:
        return empty_figure("No accuracy: there are no evaluated rows", "run notebook 02_train first")
    hover = [
        f"{plotly_text(r.method)} on {plotly_text(getattr(r, by))}: {percent(r.accuracy, 1)} "
        f"[{100 * r.low:.0f}, {100 * r.high:.0f}], {r.n} rows, {r.unjudged} unjudged"
        + (f", standard deviation of {r.runs} runs {100 * r.sd_runs:.1f} points" if r.runs > 1 else "")
        for r in table.itertuples()
    ]
    fig, height = dot_plot(table, by, "accuracy", hover)
    axis = "share of tasks answered correctly<br>(with 95% interval)"
    fig.update_xaxes(title_text=axis, tickformat=".0%", range=[-0.02, 1.02])
    return style_figure(fig, _leader(table.dropna(subset=["accuracy"]), by), height)


def _leader(table: pd.DataFrame, by: str) -> str:
    """Which method leads: its interval lies above all others'. Overlapping intervals: no leader."""
    methods = list(table["method"].unique())
    seeds = table.loc[~table["method"].str.startswith("base"), "runs"].min()
    if len(methods) > 1 and seeds < SEEDS:
        few = f"{seeds} seed{'s' if seeds > 1 else ''} of at least {SEEDS}"
        return f"Accuracy by {by} of {len(methods)} methods; {few}, so no verdict"
    if len(methods) == 1:
        low, high = table.loc[table["accuracy"].idxmin()], table.loc[table["accuracy"].idxmax()]
        span = f"{percent(low['accuracy'])} ({low[by]}) to {percent(high['accuracy'])} ({high[by]})"
        return f"{high['method']} is right on {span if len(table) > 1 else percent(high['accuracy'])}"
    groups = [group.sort_values("accuracy") for _, group in table.groupby(by) if len(group) > 1]
    leads = [g["method"].iloc[-1] for g in groups if g["low"].iloc[-1] > g["high"].iloc[:-1].max()]
    if leads:
        leader = max(dict.fromkeys(leads), key=leads.count)
        return f"{leader} stands clear of all others on {leads.count(leader)} of {len(groups)} {by}s"
    if len(methods) == 2:
        return f"Neither {methods[0]} nor {methods[1]} stands clear of the other on any of {len(groups)} {by}s"
    return f"No method stands clear of all others on any of {len(groups)} {by}s"


def planned(table: pd.DataFrame, margin: float = 0.05) -> go.Figure:
    """The planned contrasts with their verdicts, of ``planned``; the band is the margin, filled is significant.

    A contrast has the colour of the method that the other is compared with, as in the treatment check.
    """
    if table.empty:
        return empty_figure("No planned contrast: their methods are not here", "`contrasts` names them")
    names = [f"{r.method} − {r.against}" for r in table.itertuples()]
    verdicts = dict.fromkeys(table["verdict"])
    title = "; ".join(
        f"{', '.join(n for n, v in zip(names, table['verdict'], strict=True) if v == verdict)}: {verdict}"
        for verdict in verdicts
    )
    tested = [
        f"; p {p_value(r.p)}, Holm {p_value(r.p_holm)}, detectable {100 * r.detectable:.1f} points"
        if r.p == r.p
        else ""
        for r in table.itertuples()
    ]
    hover = [
        f"{plotly_text(name)}: {100 * r.difference:+.1f} points [{100 * r.low:.1f}, {100 * r.high:.1f}], {r.seeds} "
        f"seeds, {r.tasks} tasks: {plotly_text(r.verdict)}{more}"
        for name, r, more in zip(names, table.itertuples(), tested, strict=True)
    ]
    points = table.assign(**{k: 100 * table[k] for k in ("difference", "low", "high")})
    points = points.assign(score="accuracy out of domain", method=names)
    others = method_marks(table["against"])
    marks = {name: others[str(against)] for name, against in zip(names, table["against"], strict=True)}
    fig, height = dot_plot(points, "score", "difference", hover, hollow=~(table["p_holm"] < 0.05), marks=marks)
    fig.add_vrect(x0=-100 * margin, x1=100 * margin, fillcolor="#E8E8E8", line_width=0, layer="below")
    fig.add_vline(x=0, line={"color": "#333333", "width": 1})
    axis = f"percentage points, 95% interval<br>(band: margin {100 * margin:g}; filled: Holm p < 0.05)"
    fig.update_xaxes(title_text=axis, zeroline=False)
    return style_figure(fig, title, height)


def forest(pairs: pd.DataFrame, by: str = "suite", measure: str = "accuracy") -> go.Figure:
    """Exploratory differences, of ``paired`` or ``tool_use.jsd_differences``: no verdicts.

    ``measure`` is what differs: "accuracy", "agreement" (percentage points) or "JSD" (bits).
    """
    if pairs.empty:
        return empty_figure("No paired differences: only one method here", "give runs of two methods on the same tasks")
    against, unit, scale, digits = pairs["against"].iloc[0], "percentage points", 100, 1
    if measure == "JSD":
        unit, scale, digits = "bits", 1, 3
    apart = ((pairs["low"] > 0) | (pairs["high"] < 0)) & (pairs["seeds"] >= SEEDS)
    found = f"{int(apart.sum())} of {len(pairs)} intervals exclude zero"
    if (pairs["seeds"] < SEEDS).all():
        found = f"fewer than {SEEDS} seeds, so no verdict"
    what = {"accuracy": "Accuracy", "agreement": "Agreement with the teacher's calls", "JSD": "JSD to the teacher"}
    title = f"{what[measure]} by {by}, against {against}, exploratory: {found}"
    hover = [
        f"{plotly_text(r.method)} − {plotly_text(r.against)}: {scale * r.difference:+.{digits}f} {unit} "
        f"[{scale * r.low:.{digits}f}, {scale * r.high:.{digits}f}], {r.tasks} tasks, "
        + (f"{r.seeds} seeds" if r.seeds > 1 else "one seed: the interval covers other tasks alone")
        + (f", fixed {r.fixed}, broke {r.broke}" if measure == "accuracy" else "")
        for r in pairs.itertuples()
    ]
    points = pairs.assign(**{k: scale * pairs[k] for k in ("difference", "low", "high")})
    fig, height = dot_plot(points, by, "difference", hover, hollow=~apart)
    fig.add_vline(x=0, line={"color": "#333333", "width": 1})
    axis = f"{unit}, 95% interval<br>(filled: excludes zero, ≥ {SEEDS} seeds)"
    fig.update_xaxes(title_text=axis, zeroline=False)
    return style_figure(fig, title, height)


def tuning(table: pd.DataFrame) -> go.Figure:
    """Accuracy of each method at each learning rate, of ``tuning``; the chosen rates are framed."""
    wide = table.pivot(index="method", columns="learning_rate", values="accuracy")
    wide = wide.loc[list(dict.fromkeys(table["method"]))[::-1]]
    chosen = table[table["chosen"]]
    commonest = chosen["learning_rate"].mode().iloc[0]
    title = f"{commonest:g} is best for {(chosen['learning_rate'] == commonest).sum()} of {len(chosen)} methods"
    if (table.groupby("method")["accuracy"].nunique() < 2).all():
        title = "No learning rate is better than another"
    hover = {
        (r.method, r.learning_rate): f"{plotly_text(r.method)}, {r.learning_rate:g}: {percent(r.accuracy, 1)} "
        f"[{100 * r.low:.0f}, {100 * r.high:.0f}], {r.n} rows"
        for r in table.itertuples()
    }
    heatmap = go.Heatmap(
        z=wide.to_numpy(),
        x=[f"{rate:g}" for rate in wide.columns],
        y=[plotly_text(method) for method in wide.index],
        text=wide.map(percent).to_numpy(),
        hovertext=[[hover.get((method, rate), "") for rate in wide.columns] for method in wide.index],
        hoverinfo="text",
        **HEATMAP,
    )
    fig = go.Figure(heatmap)
    for row in chosen.itertuples():
        x, y = list(wide.columns).index(row.learning_rate), list(wide.index).index(row.method)
        frame = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.46, "y1": y + 0.46}
        fig.add_shape(type="rect", line={"color": "#D55E00", "width": 3}, **frame)
    fig.update_xaxes(type="category", title_text="learning rate<br>(framed: the method's best)")
    return style_figure(fig, title, 120 + 26 * len(wide))


def similarity(scores: pd.DataFrame, distances: pd.DataFrame) -> go.Figure:
    """Accuracy over JSD to the teacher, of ``accuracy`` and ``tool_use.tool_jsd``: a large mark a method.

    A large mark is the mean over the suites that all of the methods have; the small ones are single suites.
    """
    both = scores.merge(distances, on=["suite", "method"], suffixes=("", "_jsd")).dropna(subset=["accuracy", "jsd"])
    if both.empty:
        return empty_figure("No similarity: no tool was called in these rows", "the JSD needs calls of both sides")
    means = common_suites(both).groupby("method", sort=False)[["jsd", "accuracy"]].mean()
    shown = means["jsd"].round(3)
    title = f"Mean JSD to the teacher {shown.min():.3f} to {shown.max():.3f} bits"
    if (shown == shown.min()).sum() == 1 and (len(shown) > 1 or both["method"].nunique() == 1):
        title = f"{shown.idxmin()} calls tools most like the teacher: mean JSD {shown.min():.3f} bits"
    within = both.groupby("suite")[["jsd", "accuracy"]].transform(lambda values: values - values.mean())
    if (within.abs().max() > 1e-9).all():  # suites differ in both by nature, so each is compared with its own mean
        title += f"; correlation with accuracy within suites {within['jsd'].corr(within['accuracy']):+.2f}"
    fig = go.Figure()
    colours = method_colours(both["method"])
    for method, group in both.groupby("method", sort=False):
        mark = {"color": colours[str(method)], "line": {"color": "white", "width": 1}}
        shared = {"mode": "markers", "hoverinfo": "text", "legendgroup": str(method), "cliponaxis": False}
        hover = [
            f"{plotly_text(method)} on {plotly_text(r.suite)}: JSD {r.jsd:.3f} bits, "
            f"{percent(r.agreement, 1)} of calls agree, accuracy {percent(r.accuracy, 1)}"
            for r in group.itertuples()
        ]
        fig.add_scatter(
            x=group["jsd"],
            y=group["accuracy"],
            name=plotly_text(method),
            hovertext=hover,
            showlegend=method not in means.index,
            marker={**mark, "size": 7, "opacity": 0.4},
            **shared,
        )
        if method in means.index:
            mean = means.loc[method]
            fig.add_scatter(
                x=[mean["jsd"]],
                y=[mean["accuracy"]],
                name=plotly_text(method),
                hovertext=[f"{plotly_text(method)}, mean: JSD {mean['jsd']:.3f}, {percent(mean['accuracy'], 1)} right"],
                marker={**mark, "size": 15},
                **shared,
            )
    fig.update_xaxes(title_text="JSD of tools called to the teacher's (bits)", rangemode="tozero")
    fig.update_yaxes(title_text="accuracy (small: one suite)", tickformat=".0%")
    return style_figure(fig, title, 400 + 20 * both["method"].nunique(), legend=True)  # a name a line
