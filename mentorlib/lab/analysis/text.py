"""Numbers, names and links as people read them: percentages, tables of strings, addresses of trajectories."""

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


def leaders(values: pd.Series, digits: int) -> str:
    """The names with the highest value of a series after rounding; all of them in a tie."""
    written = values.round(digits)
    return listed([str(name) for name in written.index[written == written.max()]])


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; of more than three only how many."""
    if len(names) > 3:
        return f"{len(names)} of them"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def link(where: str = "", **filters: Any) -> str:
    """The address of one trajectory (a row's ``where``), or of all that match filters, on the page beside a report.

    Filters are those that the page has menus for (see ``lab.report.viewer``): file, suite, method, phase (evaluation or
    training), seed, verdict (right, wrong), outcome, tool, exploit, flag, step, and ``against``, a method: rows whose
    verdict differs from its on the same task (of the same seed), shown beside each other.
    """
    query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in filters.items())
    return f"trajectories.html#{quote(where, safe='/:') if where else '?' + query}"
