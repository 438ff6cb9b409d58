"""DataFrames of ``mentorlib.analysis`` -> plotly figures: one function a claim, whose title states what the data say.

A method has one colour wherever it appears (Okabe and Ito's palette, told apart by colour-blind readers). Heights are
fixed and widths free, titles broken by hand, names beside their marks where there is room and legends where there is
none, so that a figure reads at 390 pixels as at 1280. Every string that comes from data is escaped: plotly renders a
subset of HTML. An empty DataFrame gives an empty figure that says what is missing.
"""

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .analysis import OUTCOMES, link, percent, shared

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
_SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "pentagon", "cross"]


def colour(method: str) -> str:
    """The colour of a method; a label with parameters after it ("grpo-exact data=gsm8k") has its method's."""
    return METHODS.get(str(method).split(" ")[0], "#4D4D4D")


def text(value: Any) -> str:
    """A string from data as plotly may show it: HTML escaped, no TeX, control and direction marks made visible."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(value))
    return html.escape(shown, quote=False).replace("$", "&#36;")


def shade(i: int) -> str:
    return _TERMS[i % len(_TERMS)]


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


def outcomes(table: pd.DataFrame) -> go.Figure:
    """What became of the rollouts, stacked by suite and method, of ``analysis.shares(rows, "outcome")``."""
    if table.empty:
        return empty("No outcomes: there are no rows", "run notebook 02_train first")
    failed = (
        table[~table["outcome"].isin(["correct", "ours"])].groupby("outcome")["n"].sum().sort_values(ascending=False)
    )
    if failed.empty:
        title = "Nothing failed: every judged row is correct"
    else:
        title = (
            f"The commonest failure is “{failed.index[0]}”: {percent(failed.iloc[0] / failed.sum())} of all failures"
        )
    return stack(table, "outcome", OUTCOME_COLOURS, title)


def stops(table: pd.DataFrame) -> go.Figure:
    """How the trajectories ended, stacked by suite and method, of ``analysis.shares(rows, "stop")``."""
    if table.empty:
        return empty("No stop reasons: there are no rows", "run notebook 02_train first")
    even = shared(table)
    answered = even[even["stop"] == "answered"].groupby("method")["n"].sum() / even.groupby("method")["n"].sum()
    answered = answered.fillna(0.0)
    title = "How the trajectories ended"
    if len(answered) > 1 or table["method"].nunique() == 1:
        low, high = answered.idxmin(), answered.idxmax()
        title = f"Ending in an answer: from {percent(answered[low])} ({low}) to {percent(answered[high])} ({high})"
    return stack(table, "stop", STOP_COLOURS, title)


# ---- the reward lab


def payoffs(scored: pd.DataFrame) -> go.Figure:
    """What each reward pays, on average, for each outcome of the same trajectories, of ``rescoring.rescore``."""
    if scored.empty:
        return empty("No scores: there are no rows to score", "give runs with rollouts.jsonl or eval/*.jsonl")
    scored = scored[scored["outcome"] != "ours"].dropna(subset=["total"]).astype({"total": float})
    wide = scored.pivot_table(index="outcome", columns="reward", values="total", aggfunc="mean")
    wide = wide.reindex([o for o in reversed(list(OUTCOMES)) if o in wide.index])[list(dict.fromkeys(scored["reward"]))]
    counts = scored.groupby("outcome")["row"].nunique()
    low, high = wide.min(), wide.max()
    scaled = (wide - low) / (high - low).where(high > low, 1.0)
    wrong = scaled.drop(index="correct", errors="ignore")
    title = "What each reward pays for each outcome"
    if len(wrong) > 1 and len(wrong.columns) > 1:
        spread = (wrong.max() - wrong.min()).sort_values(kind="stable")
        title = (
            f"{spread.index[-1]} tells failures apart most: {percent(spread.iloc[-1])} of its range lies between them; "
            f"{spread.index[0]} least: {percent(spread.iloc[0])}"
        )
    fig = go.Figure(
        go.Heatmap(
            z=scaled,
            x=[text(c) for c in wide.columns],
            y=["<br>".join(map(text, textwrap.wrap(f"{o} ({counts[o]})", 16))) for o in wide.index],
            text=wide.map(lambda v: f"{v:.2f}".replace("0.", ".", 1) if abs(v) < 1 else f"{v:.2f}"),  # narrow at 390 px
            colorscale="Cividis",
            texttemplate="%{text}",
            textfont={"size": 9},
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{x} pays %{text} on average for “%{y}”<extra></extra>",
        )
    )
    fig.update_xaxes(
        title_text="mean total by reward<br>(yellow: its highest, blue: its lowest)",
        side="bottom",
        tickangle=-45,
    )
    return dress(fig, title, 180 + 42 * len(wide))


def partings(parted: pd.DataFrame, rows: int, rewards: Sequence[str] = ()) -> go.Figure:
    """How often release and corrected reward differ, by outcome, of ``rescoring.partings`` on ``rows`` rows."""
    if parted.empty:
        return empty(
            f"Official and corrected rewards agree on all {rows} trajectories", "nothing here touches what was mended"
        )
    each = parted.groupby("reward").size() / rows
    names = list(rewards) or sorted(each.index)
    title = f"{each.idxmax()} differs most from its release: on {percent(each.max(), 1)} of {rows} trajectories"
    counts = parted.groupby(["reward", "outcome"]).size().rename("n").reset_index()
    fig = go.Figure()
    for outcome in OUTCOMES:
        own = counts[counts["outcome"] == outcome].set_index("reward")["n"].reindex(names, fill_value=0) / rows
        if own.sum():
            hover = f"%{{y}}: %{{x:.1%}} of trajectories, “{outcome}”<extra></extra>"
            bar = {"color": OUTCOME_COLOURS[outcome], "line": {"color": "white", "width": 0.5}}
            fig.add_bar(
                x=own, y=[text(n) for n in names], orientation="h", name=outcome, marker=bar, hovertemplate=hover
            )
    fig.update_layout(barmode="stack")
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(title_text="trajectories paid differently by the release", tickformat=".1%", rangemode="tozero")
    return dress(fig, title, 190 + 30 * len(names), legend=True)


def counterfactual(table: pd.DataFrame) -> go.Figure:
    """Flipped, silenced and dead shares of each other reward on a run's own groups, of ``rescoring.counterfactual``."""
    others = table[table["reward"] != table["trained"]]
    if others.empty:
        return empty("No counterfactual advantages: no stored groups", "only GRPO runs keep rollouts.jsonl")
    worst = others.loc[others["flips"].idxmax()]
    title = (
        f"On {worst['method']}'s own rollouts, {worst['reward']} would have pushed "
        f"{percent(worst['flips'], 1)} the other way; "
        f"{percent(worst['dead'])} of its groups are dead"
    )
    marks = {
        "flips": ("pushed the other way", "#D55E00", "x-thin"),
        "silenced": ("no longer pushed", "#0072B2", "circle-open"),
        "dead": ("groups without spread", "#7F7F7F", "line-ns"),
    }
    position, ticks, headings, end = _rows(table, "method", "reward")
    fig = go.Figure()
    for key, (name, tint, symbol) in marks.items():
        hover = [
            f"{text(r.reward)} on {text(r.method)}'s groups: {name} {percent(getattr(r, key), 1)}, "
            f"Spearman {r.spearman:.2f}, "
            f"{r.n} rollouts"
            for r in table.itertuples()
        ]
        marker = {
            "color": tint,
            "symbol": symbol,
            "size": 10,
            "line": {"width": 2, "color": tint},
        }
        fig.add_scatter(
            x=table[key],
            y=position,
            mode="markers",
            name=name,
            marker=marker,
            hovertext=hover,
            hoverinfo="text",
            cliponaxis=False,
        )
    headings = [(y, f"{name}'s rollouts under …") for y, name in headings]
    fig.update_xaxes(title_text="share of rollouts (grey: of groups)", tickformat=".0%", rangemode="tozero")
    end_x = float(table[list(marks)].max().max()) or 0.05
    fig.update_xaxes(range=[-0.03 * end_x, 1.05 * end_x], zeroline=False)
    return dress(_ladder(fig, ticks, headings, end), title, 160 + 24 * int(end), legend=True)


def decomposition(parts: pd.DataFrame) -> go.Figure:
    """Each term's share of the advantage by step, a panel a method, of ``rescoring.decomposition``."""
    if parts.empty:
        return empty(
            "No advantages to take apart", "only GRPO runs keep rollouts.jsonl, and all stored groups may be dead"
        )
    means = parts.groupby(["method", "term"], sort=False).apply(
        lambda g: float(np.average(g["share"], weights=g["alive"])), include_groups=False
    )
    several = means[parts.groupby("method")["term"].nunique().reindex(means.index.get_level_values(0)).to_numpy() > 1]
    title = "One term makes the whole advantage of each of these rewards"
    if not several.empty:
        method, term = several[several < 0.9999].idxmax() if (several < 0.9999).any() else several.idxmax()
        title = f"In {method}, “{term}” makes {percent(several[method, term])} of the advantage"
    names = list(dict.fromkeys(parts["method"]))
    fig = make_subplots(
        rows=len(names),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.14 / max(1, len(names) - 1) if len(names) > 1 else 0,
        subplot_titles=[text(n) for n in names],
    )
    for i, term in enumerate(dict.fromkeys(parts["term"])):
        for row, method in enumerate(names, 1):
            own = parts[(parts["term"] == term) & (parts["method"] == method)]
            hover = f"{text(method)}, step %{{x}}: {text(term)} %{{y:.0%}} of the advantage<extra></extra>"
            first = method == parts.loc[parts["term"] == term, "method"].iloc[0]
            fig.add_bar(
                x=own["step"],
                y=own["share"],
                name=text(term),
                legendgroup=term,
                showlegend=first,
                hovertemplate=hover,
                marker={"color": shade(i), "line": {"width": 0}},
                row=row,
                col=1,
            )
    fig.update_layout(barmode="relative", bargap=0.05)
    fig.update_yaxes(tickformat=".0%")
    fig.update_xaxes(title_text="optimizer step<br>(gaps: no group with spread)", row=len(names), col=1)
    return dress(fig, title, 190 + 140 * len(names), legend=True)


def terms(scored: pd.DataFrame) -> go.Figure:
    """One trajectory under every reward: weight x term, stacked, and the total, of ``rescoring.rescore`` on one row."""
    if scored.empty:
        return empty("No score: this trajectory is ours, not the policy's", "stop == infrastructure is never scored")
    rewards = [text(name) for name in scored["reward"]]
    paid = scored.set_index("reward")["total"].astype(float)
    title = f"The same response earns from {paid.min():.2f} ({paid.idxmin()}) to {paid.max():.2f} ({paid.idxmax()})"
    fig = go.Figure()
    weighted = [
        {k: v * w.get(k, 1.0) for k, v in t.items()} for t, w in zip(scored["terms"], scored["weights"], strict=True)
    ]
    for i, term in enumerate(dict.fromkeys(k for t in weighted for k in t)):
        values = [t.get(term) for t in weighted]
        hover = f"%{{y}}: {text(term)} gives %{{x:.3f}}<extra></extra>"
        fig.add_bar(x=values, y=rewards, orientation="h", name=text(term), marker_color=shade(i), hovertemplate=hover)
    reasons = [f"{n}: {t:.3f}, {text(r)}" for n, t, r in zip(rewards, paid, scored["reason"], strict=True)]
    marker = {"color": "black", "symbol": "line-ns-open", "size": 18, "line": {"width": 2, "color": "black"}}
    fig.add_scatter(x=paid, y=rewards, mode="markers", name="total", marker=marker, hovertext=reasons, hoverinfo="text")
    fig.update_layout(barmode="relative")
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(title_text="reward: weight × term, stacked", rangemode="tozero")
    return dress(fig, title, 200 + 30 * len(rewards), legend=True)


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
