"""Numbers and links as people read them: percentages, tables of strings, addresses of trajectories."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any
from urllib.parse import quote

import pandas as pd


def percent(value: float, digits: int = 0) -> str:
    """0.625 -> "62%"; a dash for NaN."""
    return "–" if value != value else f"{100 * value:.{digits}f}%"


def span(shares: Iterable[float]) -> str:
    """From the lowest to the highest share: "12–19%"; "12%" if they are written alike."""
    shares = list(shares)
    low, high = percent(min(shares)), percent(max(shares))
    return high if low == high else f"{low.removesuffix('%')}–{high}"


def interval_table(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of ``comparison.accuracy`` by method and suite: strings such as "62% [55, 69]".

    If the frame has a ``word_f1``, it follows: "62% [55, 69], F1 0.71".
    """
    words = frame.get("word_f1", pd.Series(math.nan, index=frame.index))
    texts = [
        (f"{percent(v)} [{100 * a:.0f}, {100 * b:.0f}]" if v == v else "–") + (f", F1 {f1:.2f}" if f1 == f1 else "")
        for v, a, b, f1 in zip(frame["accuracy"], frame["low"], frame["high"], words, strict=True)
    ]
    wide = frame.assign(text=texts).pivot(index="method", columns="suite", values="text").fillna("–")
    return wide.loc[list(dict.fromkeys(frame["method"])), list(dict.fromkeys(frame["suite"]))]


def p_value(p: float) -> str:
    """0.0123 -> "0.012", below 0.001 "<0.001"; a dash for NaN."""
    return "–" if p != p else "<0.001" if p < 0.001 else f"{p:.3f}"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table as people write it: three decimals, a dash for what is missing, ``<0.001`` for a p below that.

    Counts have no decimals though missing values made them floats, and a comma from 10,000 on.
    """

    def write(value: Any, name: str) -> Any:
        if value is None or value != value:
            return "–"
        if isinstance(value, Integral) and not isinstance(value, bool):
            return f"{int(value):,}" if abs(int(value)) >= 10_000 else value
        if not isinstance(value, float):
            return value
        if abs(value) >= 10 and value.is_integer():
            return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
        return p_value(value) if name in ("p", "p_holm") else f"{value:.3f}"

    return pd.DataFrame({name: [write(v, str(name)) for v in table[name]] for name in table}, index=table.index)


def ranking(domains: pd.DataFrame) -> str:
    """Accuracy out of domain in one sentence, the highest first. In: ``comparison.accuracy`` by domain and method."""
    outside = domains[domains["domain"] == "out of domain"].sort_values("accuracy", ascending=False, kind="stable")
    parts = ", ".join(f"{row.method} {percent(row.accuracy)}" for row in outside.itertuples())
    return f"Accuracy out of domain: {parts}." if parts else "No suite out of domain was evaluated."


def verdicts(
    planned: pd.DataFrame,
    checks: pd.DataFrame,
    contrasts: Sequence[Sequence[str]] = (),
    methods: Iterable[str] = (),
) -> list[str]:
    """A sentence for each planned contrast. In: ``comparison.planned`` and the ``treatment.pairs`` it was given.

    ``contrasts`` are all that were planned, ``methods`` those that are here: a contrast that is not in the table is
    said to be missing, unless all are.
    """
    said = []
    for row in planned.to_dict("records"):
        method, against = row["method"], row["against"]
        size = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}, {row['tasks']} tasks"
        points = f"{100 * row['difference']:+.1f} points [{100 * row['low']:.1f}, {100 * row['high']:.1f}], {size}"
        verdict, _, extent = str(row["verdict"]).partition(",")
        if verdict == "same treatment":
            check = checks[(checks["method"] == method) & (checks["against"] == against)].iloc[0]
            shares = {"training rollouts": check["identical"], "answers out of domain": check["answers"]}
            alike = " and ".join(
                f"{percent(share)} of their {what}" for what, share in shares.items() if share == share
            )
            ranked = check["reranked"]
            rest = "" if ranked != ranked else f"; their rewards rank {percent(ranked)} of the groups differently"
            said.append(
                f"{method} and {against} were the same treatment by the planned gates ({check['beyond']}), which "
                f"allow no verdict: {alike} are identical{rest}."
            )
        elif verdict.startswith("no verdict"):
            said.append(f"{method} against {against}: {verdict} (accuracy out of domain {points}).")
        elif verdict == "undecided":
            found = percent(row["detectable"], 1)
            said.append(
                f"Whether {method} and {against} differ out of domain is undecided: {points}; a true difference of "
                f"{found} would have been found in four of five such studies."
            )
        elif verdict.startswith("no difference"):
            said.append(f"{method} and {against}: {verdict} out of domain ({points}).")
        else:
            p = f"p {'' if row['p_holm'] < 0.001 else '= '}{p_value(row['p_holm'])} after Holm"
            extent = f",{extent}" if extent else ""
            said.append(f"{method} is {verdict} than {against} out of domain{extent} ({points}, {p}).")
    here, compared = sorted(set(methods)), set(zip(planned["method"], planned["against"], strict=True))
    there_are = f" (there are {', '.join(here)})" if here else ""
    if here and not contrasts:
        return ["No contrast was planned."]
    if not said and not any(set(contrast) <= set(here) for contrast in contrasts):
        return [f"None of the planned contrasts has both of its methods among these runs{there_are}."]
    for method, against in (contrast for contrast in contrasts if tuple(contrast) not in compared):
        absent = [name for name in (method, against) if name not in here]
        why = f"there is no method {' and no '.join(absent)}{there_are}" if absent else "they share no task"
        said.append(f"{method} against {against} was planned and is not compared: {why}.")
    return said


def trained_outside(runs: pd.DataFrame, rows: pd.DataFrame, contrasts: Sequence[Sequence[str]] = ()) -> list[str]:
    """A sentence for each suite that counts as out of domain though a method compared here was trained on it.

    In: ``load.methods`` and rows of ``add_domain``. Methods of contrasts, or all if none of these is here.
    """
    planned = {name for contrast in contrasts for name in contrast} & set(runs["method"]) or set(runs["method"])
    outside = set(rows.loc[rows["domain"] == "out of domain", "suite"])
    said = {}
    for run in runs.itertuples():
        suite = run.parameters.get("suite")
        if run.method in planned and run.parameters.get("method", "none") != "none" and suite in outside:
            said[suite] = f"{run.method} was trained on {suite}, which counts as out of domain here: give in_domain."
    return list(said.values())


def link(where: str = "", **filters: Any) -> str:
    """The address of one trajectory (a row's ``where``), or of all that match filters, on the page beside a report.

    Filters are those that the page has menus for (see ``lab.report.viewer``): run, suite, method, phase (evaluation or
    training), seed, verdict (right, wrong), outcome, tool, exploit, flag, step, and ``against``, a method: rows whose
    verdict differs from its on the same task (of the same seed), shown beside each other.
    """
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in filters.items())
    return f"trajectories.html#{quote(where, safe='/:') if where else '?' + query}"
