"""Figures of rewards side by side (analysis.reward_effects)."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..analysis.outcomes import OUTCOMES
from ..analysis.text import percent
from .base import OUTCOME_COLOURS, _ladder, _rows, dress, empty, shade, text

# ---- the reward lab


def payoffs(scored: pd.DataFrame) -> go.Figure:
    """What each reward pays, on average, for each outcome of the same trajectories, of ``rescoring.rescore``."""
    if scored.empty:
        return empty("No scores: there are no rows to score", "give runs with rollouts.jsonl or eval/*.jsonl")
    scored = scored[scored["outcome"] != "infrastructure failure"].dropna(subset=["total"]).astype({"total": float})
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


def version_differences(parted: pd.DataFrame, rows: int, rewards: Sequence[str] = ()) -> go.Figure:
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
