"""How methods learn while they train: curves by step, and how fast they get there. From the rows of ``rollouts``."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy import special

from .analysis import percent, wilson
from .figures import colour, dress, empty, text

PANELS = {
    "accuracy": "correct rollouts",
    "reward": "own reward (not comparable)",
    "dead": "groups that teach nothing",
}
COLUMNS = [
    *("n", "rollouts", "accuracy", "low", "high", "reward", "dead", "calls", "tokens", "runs"),
    *("smooth", "worst", "best"),
]


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Training as the rollouts tell it.

    Out, a row for each method and step (its seeds pooled): n (rollouts), rollouts (of one run, so far), accuracy, low,
    high (Wilson), reward (mean total of the method's own reward: not comparable between methods), dead (share of groups
    in which all rollouts scored alike, which teach nothing), calls (a rollout), tokens (sampled, a rollout), runs; and
    of the running means over an eighth of the steps smooth (of all), worst and best (of the seed that stands lowest and
    highest there).
    """
    if rows.empty:
        return pd.DataFrame(columns=["method", "step", *COLUMNS])
    seeds = _by_step(rows)
    window = max(1, len(seeds) // 8)
    seeds = seeds.rolling(window, min_periods=1, center=True).mean()
    found = []
    for (method, step), group in rows.groupby(["method", "step"], sort=False):
        right = group["correct"].dropna().astype(float)
        low, high = wilson(right.sum(), len(right))
        spread = group.dropna(subset=["total"]).astype({"total": float}).groupby(["run", "group"])["total"].std()
        there = seeds.loc[step, method].dropna()
        found.append(
            {"method": method, "step": step, "n": len(group), "accuracy": right.mean(), "low": low, "high": high}
            | {"reward": group["total"].astype(float).mean(), "dead": (spread < 1e-8).mean()}
            | {"calls": group["n_calls"].mean(), "tokens": group["n_tokens"].mean(), "runs": group["run"].nunique()}
            | {"smooth": there.mean(), "worst": there.min(), "best": there.max()}
        )
    frame = pd.DataFrame(found)
    frame["rollouts"] = (frame["n"] / frame["runs"]).groupby(frame["method"]).cumsum()
    order = {method: i for i, method in enumerate(dict.fromkeys(rows["method"]))}
    return frame.sort_values(["method", "step"], key=lambda c: c.map(order) if c.name == "method" else c)


def speed(rows: pd.DataFrame, level: float = 0.7) -> pd.DataFrame:
    """How fast each method learns, so that "better" is not only about the last step.

    Out, a row a method: area (mean accuracy of all rollouts of training: how high its curve lies), low, high
    (95%, Student's t over runs; NaN with one), reached (rollouts until the mean of three steps is ``level`` or
    more, the median of the runs; NaN if half of them do not get there), got_there (runs that did), runs, n (rollouts).
    """
    found = []
    if len(rows):
        seeds = _by_step(rows)
        size = rows.groupby(["method", "run", "step"]).size().groupby(["method", "run"]).mean()
        for method in seeds.columns.unique("method"):
            own = seeds[method]
            area = own.mean()
            there = own.rolling(3).mean().ge(level).to_numpy().T
            first = [int(steps.argmax()) + 1 if steps.any() else math.inf for steps in there]
            reached = float(np.median([step * size[method][run] for step, run in zip(first, own, strict=True)]))
            low, high = math.nan, math.nan
            if len(area) > 1:
                low, high = area.mean() + special.stdtrit(len(area) - 1, [0.025, 0.975]) * area.sem()
            found.append(
                {"method": method, "area": area.mean(), "low": low, "high": high}
                | {"reached": reached if math.isfinite(reached) else math.nan}
                | {"got_there": sum(map(math.isfinite, first)), "runs": len(area)}
                | {"n": int((rows["method"] == method).sum())}
            )
    return pd.DataFrame(found, columns=["method", "area", "low", "high", "reached", "got_there", "runs", "n"])


def _by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of training rollouts: a row a step, a column a method and run, in order of appearance.

    NaN where all that a run sampled in a step is ours.
    """
    judged = rows.dropna(subset=["correct"]).astype({"correct": float})
    wide = judged.pivot_table(index="step", columns=["method", "run"], values="correct", aggfunc="mean")
    columns = pd.MultiIndex.from_frame(rows[["method", "run"]].drop_duplicates())
    return wide.reindex(index=sorted(rows["step"].unique()), columns=columns)


def figure(table: pd.DataFrame) -> go.Figure:
    """Accuracy, own reward and dead groups by rollouts sampled, of ``curves``; running means; band: seed to seed."""
    if table.empty:
        return empty(
            "No learning curves: none of these runs has training rollouts", "base and sft sample nothing while training"
        )
    window = max(1, int(table["step"].nunique() // 8))
    methods = [(method, group.sort_values("step")) for method, group in table.groupby("method", sort=False)]
    gains = {method: group["smooth"].iloc[-1] - group["smooth"].iloc[0] for method, group in methods}
    best = max(gains, key=lambda m: gains[m])
    first, last = dict(methods)[best]["smooth"].iloc[[0, -1]]
    lead = f"{best} gains most while training" if len(gains) > 1 else f"{best} in training"
    title = f"{lead}: {percent(first)} → {percent(last)} of rollouts correct"
    if gains[best] <= 0:
        title = "No method gets more rollouts right at the end of training than at its start"
    fig = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.09, subplot_titles=list(PANELS.values()))
    for method, group in methods:
        for i, key in enumerate(PANELS, 1):
            tint = colour(method)
            common = {"legendgroup": method, "name": text(method), "row": i, "col": 1}
            if key == "accuracy" and group["runs"].max() > 1:
                fig.add_scatter(
                    x=[*group["rollouts"], *group["rollouts"][::-1]],
                    y=[*group["best"], *group["worst"][::-1]],
                    fill="toself",
                    fillcolor=tint,
                    opacity=0.15,
                    line={"width": 0, "color": tint},
                    mode="lines",
                    showlegend=False,
                    hoverinfo="skip",
                    **common,
                )
            mean = group[key].rolling(window, min_periods=1, center=True).mean()
            hover = f"{text(method)}, %{{x:,.0f}} rollouts: %{{y:{'.2f' if key == 'reward' else '.0%'}}}<extra></extra>"
            fig.add_scatter(
                x=group["rollouts"],
                y=group["smooth"] if key == "accuracy" else mean,
                line={"color": tint, "width": 2.5},
                hovertemplate=hover,
                showlegend=i == 1,
                mode="lines+markers" if len(group) < 12 else "lines",
                **common,
            )
    fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    fig.update_yaxes(tickformat=".2f", row=2, col=1)
    fig.update_xaxes(title_text="rollouts of a run", row=3, col=1)
    return dress(fig, title, 620, legend=True)
