"""Figures of rewards side by side (analysis.reward_effects)."""

import textwrap
from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from ...rewards.reward import CONTROLS, REWARDS
from ..analysis.findings import largest_term, sign_flips
from ..analysis.outcomes import OUTCOMES
from ..analysis.text import leaders, percent
from .base import (
    HEATMAP,
    LINE,
    OUTCOME_COLOURS,
    TERMS,
    empty_figure,
    label_lines,
    method_colours,
    panels,
    place,
    plotly_text,
    style_figure,
)


def mean_rewards(scored: pd.DataFrame) -> go.Figure:
    """The mean total of each reward for each outcome of the same trajectories, of ``rescore``."""
    if scored.empty:
        return empty_figure("No scores: there are no rows to score", "give runs with rollouts.jsonl or eval/*.jsonl")
    scored = scored[scored["outcome"] != "infrastructure failure"].dropna(subset=["total"]).astype({"total": float})
    wide = scored.pivot_table(index="outcome", columns="reward", values="total", aggfunc="mean")
    wide = wide.reindex([o for o in OUTCOMES if o in wide.index])[list(dict.fromkeys(scored["reward"]))]
    counts = scored.groupby("outcome")["row"].nunique()
    low, high = wide.min(), wide.max()
    scaled = (wide - low) / (high - low).where(high > low, 1.0)
    wrong = scaled.drop(index="correct", errors="ignore")
    title = "Mean reward by outcome"
    if len(wrong) > 1 and len(wrong.columns) > 1:
        spread = (wrong.max() - wrong.min()).sort_values(kind="stable")
        title = (
            f"Distinguishing failures: {leaders(spread, 2)} most, {percent(spread.max())} of the range lies between "
            f"them; {leaders(-spread, 2)} least, {percent(spread.min())}"
        )
    names = [textwrap.wrap(f"{outcome} ({counts[outcome]})", 20) for outcome in wide.index]
    heatmap = go.Heatmap(
        z=scaled.T,
        x=["<br>".join(map(plotly_text, lines)) for lines in names],
        y=[plotly_text(c) for c in wide.columns],
        text=wide.T.map(lambda v: f"{v:.2f}"),
        hovertemplate="%{y} gives %{text} on average for “%{x}”<extra></extra>",
        **HEATMAP,
    )
    fig = go.Figure(heatmap)
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(title_text="mean total (strongest: the reward's highest)", tickangle=-90)
    return style_figure(fig, title, 230 + 22 * len(wide.columns))


def version_differences(differing: pd.DataFrame, rows: int, rewards: Sequence[str] = ()) -> go.Figure:
    """How often release and corrected reward differ, by outcome, of ``version_differences`` on ``rows`` rows."""
    if differing.empty:
        title = f"Official and corrected rewards agree on all {rows} trajectories"
        return empty_figure(title, "none of them shows what was corrected")
    each = differing.groupby("reward").size() / rows
    names = list(rewards) or sorted(each.index)
    some = percent(differing["row"].nunique() / rows, 1)
    title = (
        f"Official and corrected rewards differ on {some} of {rows:,} trajectories; {leaders(each, 3)} most: on "
        f"{percent(each.max(), 1)}"
    )
    counts = differing.groupby(["reward", "outcome"]).size().rename("n").reset_index()
    fig = go.Figure()
    for outcome in OUTCOMES:
        share = counts[counts["outcome"] == outcome].set_index("reward")["n"].reindex(names, fill_value=0) / rows
        if share.sum():
            fig.add_bar(
                x=share,
                y=[plotly_text(n) for n in names],
                orientation="h",
                name=outcome,
                marker={"color": OUTCOME_COLOURS[outcome], "line": {"color": "white", "width": 0.5}},
                hovertemplate=f"%{{y}}: %{{x:.1%}} of trajectories, “{outcome}”<extra></extra>",
            )
    fig.update_layout(barmode="stack")
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(title_text="trajectories that the release scores otherwise", tickformat=".1%", rangemode="tozero")
    return style_figure(fig, title, 170 + 22 * len(names), legend=True)


def counterfactual(table: pd.DataFrame) -> go.Figure:
    """Sign flips, zeroed advantages and zero-variance groups under each other reward, of ``counterfactual``."""
    others = table[table["reward"] != table["trained"]]
    if others.empty:
        return empty_figure("No counterfactual advantages: no stored groups", "only GRPO runs keep rollouts.jsonl")
    marks = {
        "sign_flips": ("sign flips", "#D55E00", "x-thin"),
        "zeroed": ("zeroed", "#0072B2", "circle-open"),
        "zero_variance": ("zero-variance groups", "#7F7F7F", "line-ns"),
    }
    methods, rewards = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["reward"]))
    fig, height = panels([f"{method}'s rollouts under …" for method in methods], 3, 22 + LINE * len(rewards))
    for n, method in enumerate(methods):
        rows = table[table["method"] == method]
        for key, (name, tint, symbol) in marks.items():
            hover = [
                f"{plotly_text(r.reward)} on {plotly_text(method)}'s groups: {name} {percent(getattr(r, key), 1)}, "
                f"Spearman {r.spearman:.2f}, {r.n} rollouts"
                for r in rows.itertuples()
            ]
            fig.add_scatter(
                x=rows[key],
                y=[rewards.index(reward) for reward in rows["reward"]],
                mode="markers",
                name=name,
                legendgroup=key,
                showlegend=not n,
                marker={"color": tint, "symbol": symbol, "size": 9, "line": {"width": 2, "color": tint}},
                hovertext=hover,
                hoverinfo="text",
                cliponaxis=False,
                **place(n, fig),
            )
    label_lines(fig, rewards)
    end_x = float(table[list(marks)].max().max()) or 0.05
    axis = "share of rollouts (grey: of groups)"
    fig.update_xaxes(title_text=axis, tickformat=".0%", range=[-0.03 * end_x, 1.05 * end_x], zeroline=False, nticks=4)
    return style_figure(fig, sign_flips(table), height + 100, legend=True)


def decomposition(parts: pd.DataFrame) -> go.Figure:
    """Each term's share of the advantage by step, a panel a method, of ``decomposition``."""
    if parts.empty:
        reason = "only GRPO runs keep rollouts.jsonl, and stored groups may have zero variance"
        return empty_figure("No advantages to decompose", reason)
    names = list(dict.fromkeys(parts["method"]))
    fig, height = panels(names, 3, 150)
    colours = method_colours(parts["term"], TERMS)
    for term in dict.fromkeys(parts["term"]):
        of_term = parts[parts["term"] == term]
        for n, method in enumerate(names):
            steps = of_term[of_term["method"] == method]
            fig.add_bar(
                x=steps["step"],
                y=steps["share"],
                name=plotly_text(term),
                legendgroup=term,
                showlegend=method == of_term["method"].iloc[0],
                hovertemplate=f"{plotly_text(method)}, step %{{x}}: {plotly_text(term)} %{{y:.0%}} of the advantage"
                "<extra></extra>",
                marker={"color": colours[term], "line": {"width": 0}},
                **place(n, fig),
            )
    fig.update_layout(barmode="relative", bargap=0.05)
    fig.update_yaxes(tickformat=".0%")
    fig.update_xaxes(title_text="optimizer step<br>(gaps: all groups have zero variance)")
    return style_figure(fig, largest_term(parts), height + 110, legend=True)


def reward_terms(scored: pd.DataFrame) -> go.Figure:
    """One trajectory under every reward: weight x term, stacked, and the total, of ``rescore`` on one row.

    As shares of the reward's maximum, so that rewards of different scales compare; the labels have the totals.
    """
    if scored.empty:
        return empty_figure("No score: this trajectory is an infrastructure failure", "such rows are never scored")
    known = {name: reward.maximum for name, reward in (REWARDS | CONTROLS).items()}
    maxima = [known.get(name, 1.0) for name in scored["reward"]]
    totals = scored.set_index("reward")["total"].astype(float)
    shares = totals / maxima
    title = (
        f"The same response gets from {percent(shares.min())} ({shares.idxmin()}) to {percent(shares.max())} "
        f"({shares.idxmax()}) of a reward's maximum"
    )
    rewards = [f"{plotly_text(n)}: {t:.2f} of {m:g}" for (n, t), m in zip(totals.items(), maxima, strict=True)]
    fig = go.Figure()
    weighted = [
        {k: v * w.get(k, 1.0) for k, v in t.items()} for t, w in zip(scored["terms"], scored["weights"], strict=True)
    ]
    given = list(dict.fromkeys(k for terms in weighted for k, v in terms.items() if v))
    colours = method_colours(given, TERMS)
    for term in given:
        values = [terms.get(term) for terms in weighted]
        fig.add_bar(
            x=[None if v is None else v / m for v, m in zip(values, maxima, strict=True)],
            y=rewards,
            orientation="h",
            name=plotly_text(term),
            marker_color=colours[term],
            customdata=values,
            hovertemplate=f"%{{y}}: {plotly_text(term)} gives %{{customdata:.3f}}<extra></extra>",
        )
    hover = [f"{n}, {plotly_text(reason)}" for n, reason in zip(rewards, scored["reason"], strict=True)]
    marker = {"color": "black", "symbol": "line-ns-open", "size": 14, "line": {"width": 2, "color": "black"}}
    fig.add_scatter(x=shares, y=rewards, mode="markers", name="total", marker=marker, hovertext=hover, hoverinfo="text")
    fig.update_layout(barmode="relative")
    fig.update_yaxes(autorange="reversed")
    fig.update_xaxes(title_text="share of the reward's maximum", tickformat=".0%", rangemode="tozero")
    return style_figure(fig, title, 170 + 22 * len(rewards) + 14 * len(given), legend=True)
