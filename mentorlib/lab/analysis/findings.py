"""What the notebooks found, in sentences: under "What it means" in 03, 04 and 05, as Markdown."""

from collections.abc import Iterable

import pandas as pd

from .comparison import shared
from .text import percent


def rewards(rows: pd.DataFrame, parted: pd.DataFrame, swaps: pd.DataFrame) -> str:
    """What notebook 03 found, as Markdown. In: the rows scored, ``partings`` and ``counterfactual`` of them."""
    n, differ = len(rows), parted["row"].nunique()
    lines = [f"Official and corrected scores differ on {percent(differ / n, 1)} of these {n:,} trajectories."]
    dead = swaps.groupby("reward")["dead"].mean().sort_values()
    if dead.empty:
        return _list([*lines, "No groups are stored here, so nothing can be said about dead groups or flipped signs."])
    least, most = dead.index[0], dead.index[-1]
    if dead.iloc[0] == dead.iloc[-1]:
        lines.append(f"All rewards leave as many groups dead: {percent(dead.iloc[0])}.")
    else:
        said = f"Fewest dead groups: `{least}` ({percent(dead.iloc[0])}); most: `{most}` ({percent(dead.iloc[-1])})."
        lines.append(said)
    flips = swaps.loc[swaps["reward"] != swaps["trained"], "flips"]
    if len(flips):
        lines.append(
            f"Another reward would have pushed {percent(flips.mean(), 1)} of the rollouts the other way on average, "
            f"and {percent(flips.max(), 1)} at most."
        )
    return _list(lines)


def errors(rows: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """What notebook 04 found, as Markdown. In: rows of ``evaluations``, and ``paired`` of them."""
    lines = []
    for method, own in rows[~rows["outcome"].isin(["correct", "infrastructure failure"])].groupby("method", sort=False):
        counts = own["outcome"].value_counts()
        lines.append(f"`{method}` fails most by *{counts.index[0]}*: {counts.iloc[0]} of its {len(own)} failures.")
    for (method, against), own in pairs.groupby(["method", "against"], sort=False):
        sure = int((own["p_holm"] < 0.05).sum())
        lines.append(
            f"`{method}` fixed {own['fixed'].sum()} and broke {own['broke'].sum()} of {own['tasks'].sum()} tasks "
            f"of `{against}`; "
            f"the difference holds after Holm's correction on {sure} of {len(own)} suites."
        )
    ours = int((rows["outcome"] == "infrastructure failure").sum())
    return _list([*lines, f"{ours} of {len(rows):,} rows are ours and count for no one."])


def compare(domains: pd.DataFrame, pairs: pd.DataFrame, distances: pd.DataFrame, methods: pd.DataFrame) -> str:
    """What notebook 05 found, as Markdown. In: ``accuracy`` by domain, ``paired``, ``tool_jsd``, ``methods``."""
    lines = []
    for domain, own in domains.dropna(subset=["accuracy"]).groupby("domain", sort=False):
        best = own.loc[own["accuracy"].idxmax()]
        if len(own) > 1 and own["accuracy"].nunique() == 1:
            lines.append(f"All methods are alike {domain}: {percent(best['accuracy'], 1)}.")
            continue
        interval = f"[{100 * best['low']:.0f}, {100 * best['high']:.0f}]"
        lines.append(
            f"Best {domain}: `{best['method']}`, {percent(best['accuracy'], 1)} {interval} of {best['tasks']} tasks."
        )
    sure = pairs[pairs["p_holm"] < 0.05]
    lines.append(f"{len(sure)} of {len(pairs)} paired differences hold after Holm's correction.")
    for s in sure.itertuples():
        interval = f"[{100 * s.low:.0f}, {100 * s.high:.0f}]"
        lines.append(f"On {s.suite}, `{s.method}` − `{s.against}`: {100 * s.difference:+.0f} points {interval}.")
    known = distances.dropna(subset="jsd")
    nearest = shared(known).groupby("method")["jsd"].mean() if len(known) else known["jsd"]
    if len(nearest) > 1:
        near, far = nearest.idxmin(), nearest.idxmax()
        lines.append(
            f"Tools most like the teacher's: `{near}`, {nearest[near]:.3f} bits; "
            f"least: `{far}`, {nearest[far]:.3f} bits."
        )
    seeds = methods[methods["method"] != "base"].groupby("method")["seed"].nunique()  # base is not trained
    if len(seeds):
        least, most = seeds.min(), seeds.max()
        lines.append(f"Seeds a trained method: {least}" + (f" to {most}." if most > least else "."))
        if least < 2:
            lines[-1] += " With one seed, an interval does not hold the luck of training."
    return _list(lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
