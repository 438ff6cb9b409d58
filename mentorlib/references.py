"""What a teacher did: how long its chains of calls are, which tools they call, what training gives away."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from .analysis import percent
from .core import Pair
from .figures import dress, empty, stack, text

MOST = 8  # calls; longer chains are counted as one kind
CHAINS = ["no call", "1 call", *(f"{n} calls" for n in range(2, MOST)), f"{MOST} or more"]


def chains(pairs: Iterable[Pair]) -> pd.DataFrame:
    """How many calls the references take: a row a suite, split and length. Out: suite, split, chain, calls, n, share.

    ``chain`` is one of CHAINS, ``calls`` the calls in all of these n references, ``share`` of the suite's split.
    """
    made = [(t.suite, t.split, CHAINS[min(len(r.calls), MOST)], len(r.calls)) for t, r in pairs]
    frame = pd.DataFrame(made, columns=["suite", "split", "chain", "calls"])
    table = frame.groupby(["suite", "split", "chain"], sort=False)["calls"].agg(["sum", "size"]).reset_index()
    table = table.rename(columns={"sum": "calls", "size": "n"})
    return table.assign(share=table["n"] / table.groupby(["suite", "split"])["n"].transform("sum"))


def figure_chains(table: pd.DataFrame) -> go.Figure:
    """Lengths of chains, stacked by suite and split, of ``chains``."""
    if table.empty:
        return empty("No chains: there are no references", "nothing was kept, or nothing drawn")
    sums = table.groupby(["suite", "split"], sort=False)[["calls", "n"]].sum()
    means = sums["calls"] / sums["n"]
    longest = means.idxmax()
    title = f"Longest chains: {longest[0]}, {means[longest]:.1f} calls a task"
    trained = [part for part in means.index if part[1] == "train"]
    if trained and longest != trained[0]:
        title += f"; training on {trained[0][0]} shows {means[trained[0]]:.1f}"
    colours = dict(zip(CHAINS, sample_colorscale("Viridis_r", len(CHAINS)), strict=True))
    fig = stack(table.rename(columns={"split": "method"}), "chain", colours, title)
    return fig.update_xaxes(title_text="share of references")


def calls(pairs: Iterable[Pair]) -> pd.DataFrame:
    """How often each tool is called: a row a tool, a column a suite and split ("longer/eval"), the commonest first."""
    counts: dict[str, Counter[str]] = {}
    for task, reference in pairs:
        counts.setdefault(f"{task.suite}/{task.split}", Counter()).update(call.name for call in reference.calls)
    table = pd.DataFrame(counts).fillna(0).astype(int)
    return table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def figure_calls(table: pd.DataFrame) -> go.Figure:
    """A heatmap of ``calls``: each cell the tool's share of all calls of that suite and split."""
    called = table.loc[:, table.sum() > 0]
    if called.empty:
        return empty("No tool was called", "these tasks need none")
    trained = called[[part for part in called if str(part).endswith("/train")]].sum(axis=1)
    held = called[trained < called.sum(axis=1)]
    new = int((trained[held.index] == 0).sum())
    title = f"{new} of the {len(held)} tools that evaluation calls are never called in training"
    if not new:
        title = f"Training calls each of the {len(held)} tools that evaluation calls"
    if held.empty:
        title = f"{len(called)} tools are called, all in training"
    shares = called / called.sum()
    fig = go.Figure(
        go.Heatmap(
            z=shares.to_numpy(float),
            x=[text(part) for part in called],
            y=[text(tool) for tool in called.index],
            customdata=called.to_numpy(int),
            text=shares.map(lambda v: f"{100 * v:.0f}" if v >= 0.005 else "").to_numpy(),
            texttemplate="%{text}",
            colorscale=[[0, "#F2F6F9"], [0.5, "#56B4E9"], [1, "#00436B"]],
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{x}: %{customdata} calls of %{y}, %{z:.1%}<extra></extra>",
        )
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(tickangle=-45, showgrid=False, title_text="percent of the calls of that suite")
    return dress(fig, title, 190 + 22 * len(called))


def overlaps(card: Mapping[str, Any], pairs: Iterable[Pair]) -> pd.DataFrame:
    """The check of ``datasets.save_tasks`` for contamination, as a table for readers. In: its card, and the pairs.

    Out, a row a suite that is evaluated: suite, tasks, overlap (how many), share (as text), such as (the first).
    """
    questions = {task.id: task.question for task, _ in pairs}
    return pd.DataFrame(
        [
            {"suite": suite, "tasks": part["tasks"], "overlap": part["overlap"]}
            | {"share": percent(part["overlap"] / part["tasks"], 1)}
            | {"such as": questions[part["first"][0]] if part["first"] else ""}
            for suite, part in card["contamination"]["parts"].items()
        ]
    )
